"""Trajectories: a policy plays the environment over the real retriever; kept if it searched and answered right.

A policy returns its intent (a thought, and queries or an answer); the environment's `expert_turn` writes it in its
dialect, and the environment itself reads it, as it will read a model's turns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qr_jax import answers
from qr_jax.data.traces import ExpertTurn, has_tag_signs
from qr_jax.errors import UserError
from qr_jax.records import Call, Query, Say, Search, Stop, Turn, call_of
from qr_jax.sets.synth.draft import Refused
from qr_jax.sets.synth.library import Library
from qr_jax.sets.synth.prompts import CALL, PLAY
from qr_jax.sets.synth.teacher import Teacher, text_of, texts_of

MOST_TURNS = 32


@dataclass(frozen=True)
class Move:
    """A policy's turn: a thought, and either searches and calls of tools, or an answer."""

    thought: str
    queries: tuple[str | Call, ...] = ()
    answer: str | None = None


Policy = Callable[[Query, Sequence[Turn]], Move]
Env = Callable[[Query, Sequence[Turn]], Say | Search | Stop]


@dataclass(frozen=True)
class Dialect:
    """An environment with its settings, its `expert_turn`, the most searches of one turn, and its tools' schemas."""

    env: Env
    write: ExpertTurn
    parallel: int
    k: int  # passages of a search
    tools: Sequence[Mapping[str, Any]] = ()


def play(query: Query, policy: Policy, dialect: Dialect, library: Library) -> tuple[str, ...]:
    """Play a query and return the policy's turns. Refused: no search, a wrong answer, or an unreadable turn."""
    turns: list[Turn] = []
    written: list[str] = []
    for _ in range(MOST_TURNS):
        move = policy(query, turns)
        texts = (move.thought, *map(str, move.queries), move.answer or "")
        if has_tag_signs(*texts):
            raise Refused("signs of a tag", " | ".join(texts))
        written.append(dialect.write(move.thought, move.queries[: dialect.parallel], move.answer))
        turns.append(Turn("model", written[-1]))
        answer = dialect.env(query, turns)
        if isinstance(answer, Search):
            found = library.search(answer.queries, dialect.k)
            turns.append(Turn("env", "", answer.queries, tuple(found)))
            said = dialect.env(query, turns)
            turns[-1] = Turn("env", said.text if isinstance(said, Say) else "", answer.queries, tuple(found))
        elif isinstance(answer, Stop):
            if answer.reason != "answered":
                raise Refused("no answer in time")
            if len(written) < 2:
                raise Refused("answered without a search")
            if not answers.exact_match(answer.answer, query.answers):
                raise Refused("a wrong answer", f"{answer.answer!r}, wanted {query.answers[0]!r}")
            return tuple(written)
        else:
            raise Refused("a turn that the environment cannot read", written[-1])
    raise Refused("no answer in time")


def taught(teacher: Teacher, dialect: Dialect, attempt: int) -> Policy:
    """Return the teacher's policy; each attempt is sampled anew."""

    def policy(query: Query, turns: Sequence[Turn]) -> Move:
        said = [{"you" if turn.author == "model" else "found": turn.text} for turn in turns]
        given = {"question": query.question, "seen": said, "parallel": dialect.parallel}
        given |= {"tools": [tool["function"] for tool in dialect.tools]} if dialect.tools else {}
        asks = "calls" if dialect.tools else "queries"

        def read(reply) -> Move:
            if ("answer" in reply) == (asks in reply):
                raise UserError(f'wanted either "{asks}" or "answer"')
            thought = text_of(reply, "thought")
            if "answer" in reply:
                return Move(thought, answer=text_of(reply, "answer", 200))
            if dialect.tools:
                return Move(thought, _calls(reply["calls"], dialect.parallel))
            return Move(thought, texts_of(reply, "queries", 1, dialect.parallel))

        return teacher.ask(CALL if dialect.tools else PLAY, given, read, sample=attempt)

    return policy


def _calls(listed: Any, most: int) -> tuple[Call, ...]:
    """Return from 1 to `most` calls of a reply; else ValueError. The environment says whether they fit a tool."""
    try:
        calls = [dict(call) for call in listed]
        return tuple(call_of(str(call["name"]), dict(_value(call["arguments"]))) for call in calls)[: max(1, most)]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError('wanted "calls", a list of {"name": "...", "arguments": {...}}') from error


def _value(value: Any) -> Any:
    """Return a value of a reply in which objects inside others are lists of (name, value)."""
    if not isinstance(value, list):
        return value
    if value and all(isinstance(item, tuple) for item in value):
        return {name: _value(item) for name, item in value}
    return [_value(item) for item in value]
