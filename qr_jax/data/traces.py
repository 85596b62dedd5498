"""Expert traces for the cold start: read from a file, checked against an environment, and written in its dialect."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qr_jax import dialect
from qr_jax.data.parsing import Row, query_of, texts
from qr_jax.data.readers import read
from qr_jax.errors import UserError
from qr_jax.records import Call, Query, Say, Search, Stop, Trace, Turn, call_of
from qr_jax.settings import json_text

THOUGHT = re.compile(r"\s*<think>\s*(.*?)\s*</think>", re.DOTALL)
TEXT_IN_LIST = re.compile(r'(\[|, |\{"(?!name)\w+": )"([^"]+)"(?!:)')  # of JSON, or the first in an object
ExpertTurn = Callable[..., str]  # an environment's expert_turn(thought, queries, answer)
TRIED = 100  # of the first so many traces, one must play to its end, before anything is compiled
MADE_TRACES = ("world", "supporting", "retrieved")  # words that data.traces may be instead of files
# What a user without traces may do.
NO_TRACES = "data.traces=supporting (made of the questions' gold passages), data.traces=retrieved (of one search each)"
NO_TRACES += " or sft.steps=0 (no cold start)"


def read_traces(path: str | Path) -> list[Trace]:
    """Read traces from one or more JSONL files: rows of questions with a column `turns`, the expert's texts."""
    return read(path, trace_of, lambda trace: trace.query.id)


def trace_of(row: Row) -> Trace:
    """Read a row as a trace. ValueError for one that lacks `turns` or has others than texts."""
    if "turns" not in row:
        raise UserError(
            f"has no 'turns', the expert's texts in order; fields found: {', '.join(map(str, row))}; without traces: "
            f"{NO_TRACES}"
        )
    return Trace(query_of({name: value for name, value in row.items() if name != "turns"}), texts(row, "turns"))


def check_played(traces: Sequence[Trace], env: Callable[..., Any], write: ExpertTurn | None) -> None:
    """Raise ValueError, before compilation, if the environment plays none of the first TRIED traces to its end."""
    told = [(trace, _refusal(trace, env)) for trace in traces[:TRIED]]
    if not all(why for _, why in told):
        return
    trace, why = told[0]
    wanted = [write("a thought", ["a query"]), write("a thought", (), "an answer")] if write else []
    todo = f"; this environment wants turns such as {wanted[0]!r}, and last {wanted[1]!r}" if wanted else ""
    raise UserError(f"the environment takes none of the {len(told)} first traces: {trace.query.id!r} has {why}{todo}")


def _refusal(trace: Trace, env: Callable[..., Any]) -> str | None:
    """Return why the environment cannot play a trace to its end, whatever searches find; None if it can."""
    turns: list[Turn] = []
    for number, text in enumerate(trace.turns, 1):
        turns.append(Turn("model", dialect.without_thoughts(text)))
        move = env(trace.query, turns)
        if isinstance(move, Stop):
            if number == len(trace.turns) and move.reason == "answered":
                return None
            return f"an end ({move.reason}) at turn {number} of {len(trace.turns)}"
        if isinstance(move, Search):
            turns.append(Turn("env", "", move.queries, tuple(() for _ in move.queries)))
        elif answers_an_act(env, trace.query, turns, move):
            turns.append(Turn("env", move.text))
        else:
            return f"no action in turn {number}, {text[:60]!r}"
    return "no answer in its last turn"


def answers_an_act(env: Callable[..., Any], query: Query, turns: Sequence[Turn], say: Say) -> bool:
    """Return True if `say` is a tool's result, not a complaint: an empty turn would have got another answer."""
    silent = env(query, [*turns[:-1], Turn("model", "")])
    is_other = not isinstance(silent, Say) or silent.text != say.text
    return is_other and not dialect.closing(turns[-1].text)


def has_tag_signs(*texts: str) -> bool:
    """Return True if a text has a tag's sign: expert turns are trusted, so data in them must not look like tags."""
    return any(sign in text for text in texts for sign in "<>")


def rewritten(trace: Trace, write: ExpertTurn, parallel: int = 1) -> Trace:
    """Rewrite a trace of the synthetic world, which has searches and an answer in tags, as `write` writes turns.

    Up to `parallel` searches of an intersection, which do not depend on each other, become one turn, with one thought.
    """
    acts = [(THOUGHT.match(turn), dialect.read(turn)[0][0]) for turn in trace.turns]
    asked = [_asked(act) for _, act in acts if act.name != "answer"]
    at_once = parallel if trace.query.meta.get("kind") == "intersection" else 1
    turns = []
    for at in range(0, len(asked), at_once):
        turns.append(((acts[at][0] or ("", ""))[1], tuple(asked[at : at + at_once]), None))
    turns += [((thought or ("", ""))[1], (), act.text.strip()) for thought, act in acts if act.name == "answer"]
    return Trace(trace.query, tuple(write(*turn) for turn in turns))


def _asked(act: dialect.Block) -> str | Call:
    """Return what an expert's act asks: a search's query, or the call of a tool, in JSON."""
    if act.name == "tool_call":
        call = json_text.parse(act.text)
        return call_of(call["name"], call["arguments"])
    return " ".join(act.text.split())


def spaced(turn: str) -> str:
    """Put blanks inside the quotes of JSON strings in an expert's turn: `["who is ada"]` becomes `[" who is ada "]`.

    For a tokenizer of whole words, which does not know `"who` and `ada"`. It changes strings in lists and an object's
    first value, unless that key begins with "name"; keys stay.
    """
    return TEXT_IN_LIST.sub(r'\1" \2 "', turn)
