"""A language model behind an OpenAI-compatible endpoint: calls are journaled, retried, and paid from a budget.

The model is given data: one JSON object. Its reply must be one JSON object too; otherwise it is asked once more, and
told what was wrong."""

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from qr_jax.errors import UserError
from qr_jax.lab.judge import NEVER
from qr_jax.logging.secrecy import redact
from qr_jax.search.chat_endpoint import ChatEndpoint, key_header, objects, reply_text
from qr_jax.search.http_post import Failed, Patience
from qr_jax.sets.synth.draft import Refused
from qr_jax.sets.synth.journal import Journal, is_count
from qr_jax.sets.synth.prompts import Prompt

T = TypeVar("T")
KEY = "QR_JAX_TEACHER_KEY"
TEMPERATURE = 1.0
LARGEST_BYTES = 4_000_000  # of a response
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # before a retry; the endpoint's own Retry-After may be longer
REFUSALS = 8  # prompts refused in a row, and none answered: then the endpoint is not what was meant
CHARS_A_TOKEN = 4  # where the endpoint does not count
MOST_CHARS_A_TOKEN = 40  # of a reply: a longer one is none of so many tokens


class Ended(Exception):
    """No further call may be made: the budget is spent, the endpoint is gone, or the work was told to stop."""


@dataclass(frozen=True)
class Bounds:
    """Limits: `calls` and `tokens` are over all sessions together (None: no limit); the others are for one call."""

    calls: int | None = None
    tokens: int | None = None
    reply_tokens: int = 1024
    timeout_s: float = 120.0  # of one try
    patience_s: float = 900.0  # of all tries
    leave_out: tuple[str, ...] = ()  # of each request, as ChatEndpoint has it


def connect(url: str, bounds: Bounds) -> ChatEndpoint:
    """Return the endpoint with this base URL, as in http://127.0.0.1:8000/v1; ValueError if it is bad or has a secret.

    Its key is read from QR_JAX_TEACHER_KEY; for api.openai.com, and no other host, from OPENAI_API_KEY too.
    """
    once = Patience(bounds.timeout_s, bounds.timeout_s, retries=0, pause_after=NEVER, response_bytes=LARGEST_BYTES)
    try:
        return ChatEndpoint(url, once, key_header(url, KEY), leave_out=bounds.leave_out, key_env=KEY)
    except ValueError as error:
        raise UserError(f"--teacher: {error}") from error


@dataclass
class Teacher:
    """A model behind an endpoint, with the journal of its calls."""

    endpoint: ChatEndpoint
    model: str
    journal: Journal
    bounds: Bounds = Bounds()
    halt: threading.Event = field(default_factory=threading.Event)
    replaying: bool = False  # no new call is made
    say: Callable[[str], None] = lambda _: None  # the first failure, once
    _under_way: dict[str, Future] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _refusals: int = 0
    _told: bool = False
    _gone: str = ""  # why no further call has a chance
    _silent_until: float = 0.0  # of time.monotonic: the endpoint asked for a pause

    def __post_init__(self):
        spent = [row["tokens"] for row in self.journal.answers.values()]
        self.calls = len(spent)
        self.tokens_in, self.tokens_out = sum(pair[0] for pair in spent), sum(pair[1] for pair in spent)

    def ask(self, prompt: Prompt, data: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T], *, sample=0) -> T:
        """Return `read` of the reply's JSON; another `sample` makes another call.

        Refused if `read` raises ValueError on the first reply and the second, or if the endpoint refuses the prompt;
        Ended if no call may be made any more.
        """
        given = json.dumps(data, ensure_ascii=False)
        messages = [{"role": "system", "content": prompt.text}, {"role": "user", "content": given}]
        for again in (False, True):
            reply = self._reply(prompt.name, messages, sample)
            try:
                return read(as_object(reply))
            except ValueError as error:
                if again:
                    raise Refused("no JSON as asked", f"{prompt.name}: {error}") from error
                complaint = f"That cannot be read: {error}. Reply with the JSON object alone."
                messages = [*messages, {"role": "assistant", "content": reply}, {"role": "user", "content": complaint}]
        raise AssertionError

    def _reply(self, name: str, messages: list[dict[str, str]], sample: int) -> str:
        """Return the reply: the journal's, that of another thread's identical call under way, or a new call's."""
        body = {"model": self.model, "messages": messages, "temperature": TEMPERATURE, "seed": sample}
        body["max_tokens"] = self.bounds.reply_tokens
        parts = json.dumps([self.model, messages, sample]).encode()
        key = hashlib.sha256(parts).hexdigest()
        with self._lock:
            if key in self.journal.answers:
                return self.journal.answers[key]["reply"]
            if self.replaying:
                raise Ended("not in the journal")
            future = self._under_way.get(key)
            if mine := future is None:
                future = self._under_way[key] = Future()
        if not mine:
            return future.result()
        try:
            future.set_result(self._call(name, key, body))
        except BaseException as error:
            future.set_exception(error)
        finally:
            with self._lock:
                del self._under_way[key]
        return future.result()

    def _call(self, name: str, key: str, body: Mapping[str, Any]) -> str:
        """Make one call, retried until it is answered or refused, or its patience ends."""
        self._pay()
        ends, attempt, begun = time.monotonic() + self.bounds.patience_s, 0, time.monotonic()
        try:
            while True:
                self._pause(0.0, ends, "it asked to be left alone for longer than a call's patience")
                try:
                    response = self.endpoint.post(body)
                    reply, tokens = completion(response, body)
                    break
                except (Failed, ValueError) as error:
                    why = redact(str(error))
                    self.journal.no_answer(key, why)
                    if isinstance(error, Failed) and not error.passing:
                        raise self._refused(why) from error
                    if isinstance(error, Failed) and error.pause_s:
                        self._silent_until = max(self._silent_until, time.monotonic() + error.pause_s)
                    pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1)
                    attempt += 1
                    self._pause(pause_s, ends, why)
        except BaseException:
            with self._lock:
                self.calls -= 1
            raise
        row = {"prompt": name, "messages": body["messages"], "sample": body["seed"], "reply": reply, "tokens": tokens}
        self.journal.answer(key, row | {"seconds": round(time.monotonic() - begun, 3), "tries": attempt + 1})
        with self._lock:
            self._refusals = 0
            self.tokens_in += tokens[0]
            self.tokens_out += tokens[1]
        return reply

    def _pay(self) -> None:
        """Count one call; Ended if the budget has none left."""
        with self._lock:
            tokens = self.tokens_in + self.tokens_out
            if self._gone:
                raise Ended(self._gone)
            if self.bounds.calls is not None and self.calls >= self.bounds.calls:
                raise Ended(f"the budget of {self.bounds.calls:,} calls is spent")
            if self.bounds.tokens is not None and tokens >= self.bounds.tokens:
                raise Ended(f"the budget of {self.bounds.tokens:,} tokens is spent ({tokens:,})")
            self.calls += 1

    def _tell(self, why: str, left_s: float) -> None:
        with self._lock:
            told, self._told = self._told, True
        if not told:
            until = time.strftime("%H:%M:%S", time.localtime(time.time() + left_s))
            self.say(f"the teacher has not answered: {why}; it is asked again until {until} (--patience-s)")

    def _refused(self, why: str) -> Exception:
        """Return the error for an endpoint's refusal: Refused for the prompt, Ended after too many in a row."""
        with self._lock:
            self._refusals += 1
            if self._refusals < REFUSALS:
                return Refused("the endpoint refused", why)
            self._gone = f"the teacher refuses every prompt: {why}"
            return Ended(self._gone)

    def _pause(self, seconds: float, ends: float, why: str) -> None:
        """Wait for `seconds`, and as long as the endpoint asks; Ended if that exceeds `ends`, or nothing answers."""
        until = max(time.monotonic() + seconds, self._silent_until)
        if until >= ends:
            self._gone = self._gone or f"the teacher gives no answer: {why}"
        if self._gone:
            raise Ended(self._gone)
        if seconds:
            self._tell(why, ends - time.monotonic())
        if self.halt.wait(max(0.0, until - time.monotonic())):
            raise Ended("stopped")


def completion(response: Any, body: Mapping[str, Any]) -> tuple[str, list[int]]:
    """Return a chat completion's text and its tokens [in, out], estimated if not counted. ValueError: it is none."""
    content = reply_text(response)
    if len(content) > MOST_CHARS_A_TOKEN * body["max_tokens"]:
        raise UserError(f"a reply of {len(content):,} characters, where {body['max_tokens']:,} tokens were asked for")
    usage = response.get("usage")
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, Mapping) else []
    counted = [count for count in counts if is_count(count)]
    if len(counted) != 2:
        chars = sum(len(message["content"]) for message in body["messages"]), len(content)
        counted = [-(-count // CHARS_A_TOKEN) for count in chars]
    return redact(content.encode("utf-8", "replace").decode()), counted  # half an emoji is "?", as in the journal


def as_object(reply: str) -> Mapping[str, Any]:
    """Return the JSON object in a reply, without the thoughts and code fence around it; else ValueError."""
    found, alone, _ = objects(reply)
    if not alone:
        raise UserError("it is not one JSON object")
    return dict(found[0])


def text_of(reply: Mapping[str, Any], name: str, most: int = 500) -> str:
    """Return a text of the reply with single blanks; ValueError if it is none, blank, or longer than `most`."""
    value = reply.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f'"{name}" must be a text that is not blank')
    value = " ".join(value.encode("utf-8", "replace").decode().split())
    if len(value) > most:
        raise UserError(f'"{name}" has {len(value)} characters; wanted at most {most}')
    return value


def texts_of(reply: Mapping[str, Any], name: str, least: int, most: int) -> tuple[str, ...]:
    """Return from `least` to `most` different texts of the reply; else ValueError."""
    listed = reply.get(name)
    if not isinstance(listed, list):
        raise UserError(f'"{name}" must be a list of texts')
    texts = tuple(dict.fromkeys(text_of({name: item}, name) for item in listed))
    if not least <= len(texts) <= most:
        raise UserError(f'"{name}" has {len(texts)} different texts; wanted {least} to {most}')
    return texts


def numbers_of(reply: Mapping[str, Any], name: str, size: int, least: int, most: int) -> tuple[int, ...]:
    """Return from `least` to `most` different places of passages numbered from 1 to `size`; else ValueError."""
    listed = reply.get(name)
    if not isinstance(listed, list) or not all(type(item) is int and 1 <= item <= size for item in listed):
        raise UserError(f'"{name}" must be a list of numbers of passages, from 1 to {size}')
    places = tuple(dict.fromkeys(item - 1 for item in listed))
    if not least <= len(places) <= most:
        raise UserError(f'"{name}" names {len(places)} passages; wanted {least} to {most}')
    return places
