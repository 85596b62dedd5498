"""A model behind an OpenAI-compatible endpoint in the engine's place: its episodes, and what it is known by.

The environment, the searches and their limits are the engine's. What differs: each message of the model ends with its
request, so text that would go on inside it becomes the user's next message; tokens are counted by the endpoint, or as
four bytes each, and their ids and log-probabilities are not known (zeros). Nothing of these episodes may be trained on.
"""

import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from qr_jax import dialect
from qr_jax.config import Config, Rollout
from qr_jax.errors import Interrupted, Outage, UserError
from qr_jax.lab.judge import NEVER
from qr_jax.logging.terminal import readable
from qr_jax.records import Call, Episode, Query, Say, Search, SearchFunction, Stop, Turn
from qr_jax.rollout import reading, tools
from qr_jax.rollout.chat import describe_tools
from qr_jax.run import json_files, run_files
from qr_jax.search.chat_endpoint import PATH, TOO_LONG, ChatEndpoint, key_header, message_text
from qr_jax.search.http_post import Crew, Endpoint, Failed, Patience
from qr_jax.settings import json_text

KEY = "QR_JAX_ENDPOINT_KEY"
BYTES_A_TOKEN = 4  # of UTF-8, where the endpoint does not count
FIRST_S = 30.0  # of all tries of the first request: so soon a wrong URL shows
MOST_STOPS = 4  # of a request, as OpenAI takes them; text behind the others is cut here
log = logging.getLogger(__name__)
LISTED = ("id", "owned_by", "root", "parent", "max_model_len")  # of /v1/models; `created` is the request's own time
SEEN_ABOVE = "(see the first result)"  # of a further call in a turn: the environment answers all of them in one text
PROBE = Query("probe", "What is the capital of Norway?", ("Oslo",))
ToolCalls = Literal["native", "text"]


@dataclass(frozen=True)
class Asking:
    """The settings of an endpoint's requests. `tool_calls`: None is native where the environment declares tools."""

    url: str
    model: str
    tool_calls: ToolCalls | None = None
    key_env: str = KEY
    at_once: int = 8  # requests under way
    timeout_s: float = 120.0  # of one try
    deadline_s: float = 600.0  # of all tries of a request
    retries: int = 1000  # beyond any deadline
    leave_out: Sequence[str] = ()  # of each request, as ChatEndpoint has it; without "stop" turns are cut here alone


@dataclass
class Play:
    """An episode under way; `used` counts the tokens of its last request and reply."""

    query: Query
    sample: int
    key: int
    say: Say
    messages: list[dict[str, Any]]
    turns: list[Turn] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  # of each turn of the model
    used: int = 0
    move: Say | Search | Stop | None = None  # after the model's last turn
    fault: str | None = None


class Player:
    """Plays episodes as `Engine.run` does, by requests. `name` is what the answers are known by, of the manifest.

    Replies are kept in the file `replies`, so that an evaluation that was stopped asks for none of them again.
    """

    def __init__(self, asking: Asking, env: Callable, settings: Rollout, replies: Path | None = None):
        patience = Patience(asking.timeout_s, asking.deadline_s, asking.retries, pause_after=NEVER)
        header = key_header(asking.url, asking.key_env)
        self.endpoint = ChatEndpoint(asking.url, patience, header, leave_out=asking.leave_out, key_env=asking.key_env)
        opening = env(PROBE, [])
        mode = asking.tool_calls or ("native" if opening.tools else "text")
        if mode == "native" and not opening.tools:
            raise UserError(
                "--tool-calls native needs an environment that declares tools, and this one declares none: set "
                "env=tool_call, or --tool-calls text"
            )
        self.asking, self.settings, self.mode = replace(asking, tool_calls=mode), settings, mode
        self.crew, self.statistics, self._plays = Crew(asking.at_once), {"asked": 0, "kept": 0, "tool_calls": 0}, []
        self.name: dict[str, Any] = {}
        self.name = self._introduced(self._play(env, PROBE, 0, 0), header)
        self.replies = Replies(replies)
        self._compare(replies)

    def _introduced(self, play: Play, header: Mapping[str, str] | None) -> dict[str, Any]:
        """Ask once, with all that later requests have; return what the endpoint says that it is."""
        listed = None
        try:
            base = Endpoint(self.endpoint.url.removesuffix(PATH) + "/models", self.endpoint.patience, header)
            until = time.monotonic() + min(FIRST_S, self.asking.deadline_s)
            rows = {row.get("id"): row for row in base.get({}, until)["data"]}
            if row := rows.get(self.asking.model):
                listed = {name: row[name] for name in LISTED if row.get(name) is not None}
        except (Failed, LookupError, TypeError, AttributeError):
            pass  # not every service has that page; the model's name is then judged by its first answer
        self._first = self._body(play, {"temperature": 1.0, "top_p": 0.99, "seed": 1})
        answer = self._ask_first()
        try:
            self._introduction = _reply_of(answer)
        except ValueError as error:
            raise UserError(f"{self.endpoint.url} {error}") from error
        said = {"listed": listed, **_version(answer), "left_out": sorted(self.endpoint.leave_out)}
        return {"url": self.endpoint.url, "name": self.asking.model, "tool_calls": self.mode} | said

    def _compare(self, file: Path | None) -> None:
        """Warn if the first request has another reply than when the kept replies were made, and keep its reply."""
        before = self.replies.known.get(INTRODUCTION)
        if before is None:
            self.replies.keep(INTRODUCTION, self._introduction)
        elif before["text"] != self._introduction["text"]:
            log.warning(
                "%s answers its first request, whose seed is fixed, otherwise than when the replies in %s were made; "
                "if another model stands behind the name %r now, delete that file, or its score is the former model's",
                self.endpoint.url, file, self.asking.model,
            )  # fmt: skip

    def _ask_first(self) -> Any:
        """Return the answer to the first request; Failed if none comes soon."""
        return self.endpoint.post(self._first, time.monotonic() + min(FIRST_S, self.asking.deadline_s))

    def progress(self) -> tuple[int, int]:
        """Return how many episodes are finished and how many were asked for."""
        return sum(isinstance(play.move, Stop) for play in self._plays), len(self._plays)

    def run(
        self,
        params: None,
        queries: Sequence[Query],
        samples: int,
        *,
        env: Callable,
        search: SearchFunction,
        seed: int,
        step: int,
        purpose: str,
        query_keys: Sequence[int] | None = None,
        temperature: float,
        top_p: float = 1.0,
        top_k: int = 0,
        stop_now: Callable[[], bool] = lambda: False,
    ) -> list[list[Episode]]:
        """Play `samples` episodes of each query, as `Engine.run`. What fails after its retries is a fault.

        All turns of a round are asked for at once, as far as `at_once` allows, and then all searches in one batch.
        Raises Outage where a request fails until its deadline and then the first one, asked again, fails too.
        """
        env, keys = reading.unthinking(env), query_keys or range(len(queries))
        plays = [self._play(env, q, int(key), g) for q, key in zip(queries, keys, strict=True) for g in range(samples)]
        sampling = {"temperature": temperature} | ({"top_p": top_p} if top_p < 1 else {})
        sampling |= {"top_k": top_k} if top_k else {}

        down: list[Outage] = []

        def turn(play: Play) -> None:
            if stop_now():
                raise Interrupted
            if down:  # those that waited for a thread meanwhile
                raise down[0]
            drawn = f"{seed} {purpose} {play.key} {play.sample} {len(play.tokens)}".encode()
            number = int.from_bytes(hashlib.sha256(drawn).digest()[:4]) // 2
            try:
                self._turn(play, env, sampling | {"seed": number})
            except Outage as error:
                down.append(error)
                raise

        self._plays = going = plays
        while going:
            self.crew.each(turn, going)
            self._search([(play, play.move.queries) for play in going if isinstance(play.move, Search)], env, search)
            for play in going:
                if isinstance(play.move, Say):
                    self._say(play, play.move)
            going = [play for play in going if not isinstance(play.move, Stop)]
        episodes = [_episode(play, step) for play in plays]
        return [episodes[at : at + samples] for at in range(0, len(episodes), samples)]

    def _play(self, env: Callable, query: Query, key: int, sample: int) -> Play:
        """Begin an episode; tools that the endpoint is not given are described in the system's message."""
        say = env(query, [])
        about = describe_tools(say.tools) if self.mode == "text" else []
        messages = [{"role": "system", "content": text} for text in about] + [{"role": "user", "content": say.text}]
        return Play(query, sample, key, say, messages)

    def _body(self, play: Play, sampling: Mapping[str, Any]) -> dict[str, Any]:
        room = min(self.settings.turn_tokens, max(self.settings.context_tokens - play.used, 1))
        stops = list(dialect.turn_ends(play.say.stop))[:MOST_STOPS]
        body = {"model": self.asking.model, "messages": play.messages, "max_tokens": room, "stop": stops, **sampling}
        return body | ({"tools": list(play.say.tools)} if self.mode == "native" else {})

    # ---- a turn

    def _turn(self, play: Play, env: Callable, sampling: Mapping[str, Any]) -> None:
        """Ask for the model's turn, and let the environment move; a failure ends the episode with a fault."""
        body = self._body(play, sampling)
        try:
            reply = self._reply(body)
        except Failed as error:
            if error.passing and self._is_down():
                why = "stopped answering, and the same command goes on where it was: all replies are kept"
                raise Outage(f"{self.endpoint.url} {why}. The last of {self.asking.deadline_s:g} s: {error}") from error
            if TOO_LONG.search(error.reply):
                play.move = Stop("context")
            else:
                play.move, play.fault = Stop("fault"), f"the endpoint: {error}"
            return
        except ValueError as error:
            play.move, play.fault = Stop("fault"), f"the endpoint's answer: {error}"
            return
        text, is_whole = turn_text(reply, play.say.stop)
        play.turns.append(Turn("model", text))
        play.tokens.append(reply["tokens"] or tokens_of(text))
        play.used = reply["total_tokens"] or play.used + tokens_of(play.say.text) + play.tokens[-1]
        self.statistics["tool_calls"] += len(reply["calls"])
        said = reply["text"] if reply["calls"] else text
        calls = {"tool_calls": reply["calls"]} if reply["calls"] else {}
        play.messages.append({"role": "assistant", "content": said} | calls)
        play.move = env(play.query, tuple(play.turns)) if is_whole else Stop("length")

    def _is_down(self) -> bool:
        try:
            self._ask_first()
        except Failed as error:
            return error.passing
        return False

    def _reply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the reply to a request: one that is kept, or the endpoint's, which is kept then."""
        key = hashlib.sha256(json.dumps([self.name, body]).encode()).hexdigest()
        if kept := self.replies.known.get(key):
            self.statistics["kept"] += 1
            return kept
        answer = self.endpoint.post(body)
        self.statistics["asked"] += 1
        reply, version = _reply_of(answer), _version(answer)
        if changed := [f"{name} {version[name]!r}" for name in version if version[name] != self.name[name]]:
            was = {name: self.name[name] for name in version}
            raise UserError(f"comes from another version ({', '.join(changed)}; the first answer's: {was})")
        self.replies.keep(key, reply)
        return reply

    # ---- what the environment says

    def _search(
        self, wishes: Sequence[tuple[Play, tuple[str | Call, ...]]], env: Callable, search: SearchFunction
    ) -> None:
        """Run the searches of all these episodes in one batch, and let the environment show what was found."""
        asked = [query for _, queries in wishes for query in queries]
        by_query = tools.run_searches(search, asked, self.settings.search_k, **tools.limits(self.settings)).by_query
        for play, queries in wishes:
            results = [by_query[query] for query in queries]
            if faults := [result.reason for result in results if isinstance(result, tools.Fault)]:
                play.move, play.fault = Stop("fault"), faults[0]
                continue
            passages = tuple(tuple(found) for found in results if not isinstance(found, tools.Fault))
            play.turns.append(Turn("env", "", queries, passages))
            budget = self.settings.observation_tokens
            play.move, turns = tools.fit_observation(env, play.query, play.turns, tokens_of, budget)
            play.turns = list(turns)

    def _say(self, play: Play, say: Say) -> None:
        """Show the model what the environment says: as the results of its calls, or as the user's message."""
        if play.used + tokens_of(say.text) >= self.settings.context_tokens:
            play.move = Stop("context")
            return
        if play.turns[-1].author == "env":
            play.turns[-1] = replace(play.turns[-1], text=say.text)
        else:
            play.turns.append(Turn("env", say.text))
        calls = play.messages[-1].get("tool_calls", ())
        texts = [say.text, *[SEEN_ABOVE] * (len(calls) - 1)]
        results = [{"role": "tool", "tool_call_id": call["id"], "content": text} for call, text in zip(calls, texts)]
        play.messages += results or [{"role": "user", "content": say.text}]
        play.say = replace(say, tools=play.say.tools)


def open_player(settings: Config, env: Callable, asking: Asking, place: Path) -> tuple[Any, None, dict[str, Any]]:
    """Return the agent, no parameters and the manifest's entry of the model, as `subject.open_model` does.

    Replies are kept in `place`, under this endpoint's own name. Failed, an OSError, where the endpoint does not answer.
    """
    player = Player(asking, env, settings.rollout, place / "replies.jsonl")
    entry = {"endpoint": player.name, "weights_sha256": None, "tokenizer_sha256": None, "step": None}
    return SimpleNamespace(engine=player, tokenizer=SimpleNamespace(unknown_id=None)), None, entry


class Replies:
    """Replies of an endpoint by their requests' SHA-256, each a line of a file; None: in memory alone."""

    def __init__(self, file: Path | None):
        self.known: dict[str, dict[str, Any]] = {}
        self._lock, self._file = threading.Lock(), None
        if file is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        for row in filter(None, json_files.readable_rows(file, "request", *KEPT, nested=True)):
            self.known[str(row["request"])] = {name: row[name] for name in KEPT}
        # of a line that a crash cut off, the request is made again
        run_files.end_last_line(self._file)

    def keep(self, key: str, reply: Mapping[str, Any]) -> None:
        line = json.dumps({"request": key, **reply}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with self._lock:
            self.known[key] = dict(reply)
            while self._file is not None and line:
                line = line[os.write(self._file, line) :]


KEPT = ("text", "calls", "finish", "stopped_at", "tokens", "total_tokens")  # of a reply
INTRODUCTION = "the first request"  # the key of its reply among those that are kept
MOST_TOKENS = 10_000_000  # that an endpoint may count of one reply


def _reply_of(answer: Any) -> dict[str, Any]:
    """Return what counts of an answer; ValueError for one that is no chat completion."""
    try:
        choice = answer["choices"][0]
        message, usage = choice["message"], answer.get("usage") or {}
        calls = [
            {"id": str(call.get("id") or f"call_{at}"), "type": "function", "function": _function(call["function"])}
            for at, call in enumerate(message.get("tool_calls") or ())
        ]
        text = message_text(message.get("content") or "")
        counts = [usage.get(name) for name in ("completion_tokens", "total_tokens")]
    except (TypeError, LookupError, AttributeError) as error:
        raise UserError(f"gave no chat completion: {type(error).__name__}: {error}") from error
    if choice.get("finish_reason") == "content_filter":
        raise UserError("was filtered by the service")
    tokens, total = (count if isinstance(count, int) and 0 <= count <= MOST_TOKENS else 0 for count in counts)
    stopped_at = choice.get("stop_reason") if isinstance(choice.get("stop_reason"), str) else None  # vLLM's
    return dict(zip(KEPT, (text, calls, choice.get("finish_reason"), stopped_at, tokens, total), strict=True))


def _function(function: Mapping[str, Any]) -> dict[str, str]:
    arguments = function.get("arguments") or "{}"
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"name": str(function["name"]), "arguments": text}


def _version(answer: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the model's name and version as an answer reports them."""
    said = {"model": answer.get("model"), "system_fingerprint": answer.get("system_fingerprint")}
    return {name: None if value is None else readable(str(value))[:200] for name, value in said.items()}


def turn_text(reply: Mapping[str, Any], stop: Sequence[str]) -> tuple[str, bool]:
    """Return a reply as the model's turn in the environment's dialect, and False where its length ended it.

    Native calls are written as the dialect has them. The text ends with its first stop string outside thoughts; where
    the endpoint left that out, the tag that is open is closed.
    """
    text, calls = reply["text"], reply["calls"]
    if calls:
        written = [json.dumps(_call(call["function"]), ensure_ascii=False).replace("<", "\\u003c") for call in calls]
        blocks = "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in written)
        return f"{text.strip()}\n{blocks}".lstrip(), True
    ends = "|".join(map(re.escape, dialect.turn_ends(stop)))
    spoken = dialect.after_begun(text)
    if found := re.match(rf"(?s)(?:<think>.*?</think>|(?!<think>).)*?(?:{ends})", spoken):
        return text[: len(text) - len(spoken) + found.end()], True
    if reply["finish"] == "length":
        return text, False
    clear = dialect.without_thoughts(text)
    closing = (end for end in stop if end.startswith("</") and clear.count(f"<{end[2:]}") > clear.count(end))
    return text + (reply["stopped_at"] if reply["stopped_at"] in stop else next(closing, "")), True


def _call(function: Mapping[str, str]) -> dict[str, Any]:
    """Return a call's name and arguments; arguments that are no JSON stay a text."""
    try:
        arguments = json_text.parse(function["arguments"])
    except ValueError:
        arguments = function["arguments"]
    return {"name": function["name"], "arguments": arguments}


def tokens_of(text: str) -> int:
    """Estimate a text's tokens: four bytes of UTF-8 each."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_A_TOKEN)


def _episode(play: Play, step: int) -> Episode:
    """Return the finished episode; its arrays count the model's tokens, and hold no ids."""
    assert isinstance(play.move, Stop), "the episode is over"
    count = sum(play.tokens)
    turn_L = np.repeat(np.arange(len(play.tokens), dtype=np.int32), play.tokens)
    return Episode(
        query=play.query, sample=play.sample, step=step, ids_L=np.zeros(count, np.int32), mask_L=np.ones(count, bool),
        logp_L=np.zeros(count, np.float32), turn_L=turn_L, turns=tuple(play.turns), answer=play.move.answer,
        stop=play.move.reason, valid=play.fault is None, fault=play.fault,
    )  # fmt: skip
