"""`qr-jax serve`: a trained agent's model behind OpenAI's HTTP API. Requests are decoded together (batching.py).

One asyncio loop reads and writes, threads tokenise, and the engine's thread hands over what it made once a chunk.
"""

import asyncio
import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qr_jax.errors import UserError
from qr_jax.logging import terminal
from qr_jax.rollout.chat import Chat
from qr_jax.search import http_app
from qr_jax.search.http_app import Hold, HttpApp, as_json, send_json
from qr_jax.search.limits import RETRY, HttpLimits, Refused
from qr_jax.search.server_metrics import HttpMetrics
from qr_jax.serve import openapi
from qr_jax.serve.answers import Sample, Vocabulary
from qr_jax.serve.asked import Asked, Wrong, read
from qr_jax.serve.conversation import conversation_ids
from qr_jax.serve.jobs import Job, Piece

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from qr_jax.serve.batching import Batching

log = logging.getLogger(__name__)

CHAT, COMPLETIONS, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
KINDS = {401: "authentication_error", 429: "rate_limit_error"}  # of an error, by its status; else by its hundreds


@dataclass(frozen=True)
class ServeLimits(HttpLimits):
    """Limits of the model's server."""

    body_bytes: int = 8_000_000
    queue: int = 1024  # samples that wait for a slot; further requests get 429


@dataclass(frozen=True)
class Served:
    """What is served: a name, what reads and writes its tokens, and its largest context in tokens."""

    name: str
    chat: Chat
    vocabulary: Vocabulary
    context_tokens: int
    slots: int
    agent: bool = False  # a chat's last message is a question, answered with searches
    version: str = ""  # of the model, told with every answer; "" is not told


class ModelMetrics(HttpMetrics):
    """Counts of the model's server."""

    def __init__(self, gauges: Any):
        from prometheus_client import Counter

        super().__init__(gauges)
        self.prompt_tokens = Counter("prompt_tokens", "ids of prompts that were taken", **self._common)
        self.sampled_tokens = Counter("sampled_tokens", "ids that were sampled", **self._common)
        self.left = Counter("left", "requests whose client left before the answer", **self._common)


class Answering:
    """A request that is being answered: its samples by their index, and the pieces that came."""

    def __init__(self, asked: Asked, vocabulary: Vocabulary, prompts: Sequence[Sequence[int]]):
        self.asked = asked
        self.samples = [Sample(asked, vocabulary, prompt) for prompt in prompts for _ in range(asked.samples)]
        self.jobs: list[Job] = []
        self.pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self.id, self.created, self.failed = uuid.uuid4().hex, int(time.time()), False

    async def arriving(self) -> AsyncIterator[tuple[int, Sample, Piece, str]]:
        """Yield each piece with its sample's index, and the text to show; Refused if the engine could not go on."""
        left = len(self.samples)
        while left:
            index, piece = await self.pieces.get()
            if piece.error:
                self.failed = True
                raise Refused(piece.status, piece.error)
            left -= piece.finish is not None
            yield index, self.samples[index], piece, self.samples[index].add(piece)

    def usage(self) -> dict[str, int]:
        """Count ids: a prompt once for all its samples, an agent's for each, with its passages."""
        prompts = [sample.prompt for sample in self.samples[:: 1 if self.samples[0].episode else self.asked.samples]]
        prompt, sampled = sum(map(len, prompts)), sum(len(sample.ids) for sample in self.samples)
        return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}


@dataclass
class App(HttpApp):
    """The ASGI application. `start` makes the batching that hands its pieces to the function it is given."""

    served: Served
    start: "Callable[[Callable[..., None]], Batching]"
    limits: ServeLimits = ServeLimits()
    token: str | None = None
    loopback: bool = True
    posts: tuple[str, ...] = (CHAT, COMPLETIONS)
    gets: tuple[str, ...] = (MODELS,)
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.waiting = 0  # samples that are asked for and not done
        self.metrics = self.counts = ModelMetrics({
            "samples": ("samples that decode or wait", lambda: self.waiting),
            "connections": ("open connections", self.connections),
            "held_bytes": ("of large bodies that come or are answered", lambda: self.bodies.bytes),
        })  # fmt: skip
        self.began = int(time.time())
        self.prepare("send less at once (--max-body)")
        self.batching = self.start(self._hand_over)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        self.loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._work, name="engine", daemon=True)
        thread.start()
        yield
        self.batching.stop()
        await asyncio.to_thread(thread.join)

    def _work(self) -> None:
        try:
            self.batching.run()
        except Exception:  # every request is told, and /health says it
            log.exception("the engine ended")

    def _hand_over(self, pieces: Sequence[tuple[Job, Piece]]) -> None:
        """Give the pieces to their requests, in the loop; called by the engine's thread."""
        self.loop.call_soon_threadsafe(self._deliver, pieces)

    def _deliver(self, pieces: Sequence[tuple[Job, Piece]]) -> None:
        for job, piece in pieces:
            answering, first = job.owner
            answering.pieces.put_nowait((first + piece.sample, piece))

    # ---- answering

    def refusal(self, refused: Refused) -> "Response":
        return as_json(_error(refused), refused.status, refused.headers)

    def page(self) -> dict[str, Any]:
        return openapi.page(has_token=self.token is not None, agent=self.served.agent)

    def health(self) -> tuple[str, Mapping[str, Any]]:
        return self.batching.failed or "ok", {"model": self.served.name, **self.about}

    async def send(self, response: "Response", scope: Any, receive: Any, send: Any) -> None:
        """Send an answer; the client must take each part within `idle_s`."""

        async def timed(message: Any) -> None:
            async with asyncio.timeout(self.limits.idle_s):
                await send(message)

        await response(scope, receive, timed)

    async def answer(
        self, request: "Request", path: str, hold_body: Hold, until_sent: contextlib.ExitStack
    ) -> "Response":
        from starlette.responses import StreamingResponse

        if path == MODELS:
            about = {"id": self.served.name, "object": "model", "created": self.began, "owned_by": "qr_jax"}
            about |= {"max_model_len": self.served.context_tokens}
            return as_json({"object": "list", "data": [about]})
        body = await self.body(request, hold_body)
        asked = read(body, chat=path == CHAT, served=self.served.name)
        answering, jobs = await asyncio.to_thread(self._prepared, asked, path)
        self._submit(answering, jobs, until_sent)
        if asked.stream:
            events = self._events(answering, path)
            return StreamingResponse(events, media_type="text/event-stream")
        return await self._whole(answering, path, request)

    def _prepared(self, asked: Asked, path: str) -> tuple[Answering, list[Job]]:
        """Tokenise a request; return its jobs. Refused for a prompt that does not fit, or unknown ids."""
        most = self.served.context_tokens
        question = None
        if path == CHAT and self.served.agent:
            question, prompts = _question(asked), [[]]
        elif path == CHAT:
            try:
                prompts = [conversation_ids(self.served.chat, asked.messages, asked.tools)]
            except UserError as error:
                raise Wrong("messages", str(error)) from error
        else:
            prompts = [self._ids(prompt) for prompt in asked.prompts]
        room, field = int(asked.max_tokens != 0), "messages" if path == CHAT else "prompt"
        for prompt in prompts:
            if question is None and not prompt:
                raise Wrong(field, "the prompt has no token: write something")
            if len(prompt) + room > most:
                text = f"the prompt has {len(prompt):,} tokens and the context {most:,}: shorten it"
                raise Wrong(field, text, code="context_length_exceeded")
        answering = Answering(asked, self.served.vocabulary, prompts)
        how: dict[str, Any] = {
            "samples": asked.samples, "temperature": asked.temperature, "ignore_eos": asked.ignore_eos,
            "stop": tuple(one.encode() for one in asked.stop), "stream": asked.stream, "question": question,
            "scored": bool(asked.top) or (asked.echo and asked.top is not None),
            "max_tokens": most if asked.max_tokens is None else asked.max_tokens,
        }  # fmt: skip
        jobs = []
        for at, prompt in enumerate(prompts):
            seed = (asked.seed + at) % 2**32  # equal prompts of a list are not to get equal samples
            jobs.append(Job(prompt, seed=seed, owner=(answering, at * asked.samples), **how))
        return answering, jobs

    def _ids(self, prompt: str | tuple[int, ...]) -> Sequence[int]:
        """Return a prompt's ids: control tokens of a text are read as such, for it may be a template's."""
        if isinstance(prompt, str):
            return self.served.chat.tokenizer.encode(prompt)
        size = len(self.served.vocabulary.pieces)
        if wrong := next((token for token in prompt if not 0 <= token < size), None):
            raise Wrong("prompt", f"the prompt has the id {wrong}; the model's ids are 0 to {size - 1:,}")
        return prompt

    def _submit(self, answering: Answering, jobs: list[Job], until_sent: contextlib.ExitStack) -> None:
        """Give the jobs to the engine, until the answer is sent. Refused: 400 for too many samples, 429 where too
        many wait, 503 once the engine has ended.
        """
        if self.batching.failed:
            raise Refused(503, f"the engine ended: {self.batching.failed}; restart the server")
        more, most = len(answering.samples), self.served.slots + self.limits.queue
        if more > most:
            raise Refused(400, f"this request asks for {more:,} samples, and at most {most:,} are taken: ask for fewer")
        if self.waiting + more > most:
            text = f"{self.waiting} samples decode or wait, and this request asks for {more}; at most {most} may"
            raise Refused(429, f"{text}: try again, or ask for fewer at once", RETRY)
        self.waiting += more
        until_sent.callback(self._done, answering, jobs)
        self.counts.prompt_tokens.inc(sum(len(job.ids) for job in jobs))
        for job in jobs:
            self.batching.submit(job)

    def _done(self, answering: Answering, jobs: Sequence[Job]) -> None:
        """Count a request that is answered or whose client is gone, and free what it holds."""
        self.waiting -= len(answering.samples)
        self.counts.sampled_tokens.inc(sum(len(sample.ids) for sample in answering.samples))
        if any(sample.finish is None for sample in answering.samples):
            self.counts.left.inc(not answering.failed)
            for job in jobs:
                self.batching.cancel(job)

    async def _whole(self, answering: Answering, path: str, request: "Request") -> "Response":
        """Return the whole answer; ClientDisconnect if the client goes before."""
        from starlette.requests import ClientDisconnect

        async def finished() -> None:
            async for _ in answering.arriving():
                pass

        answered, gone = asyncio.ensure_future(finished()), asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({answered, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise ClientDisconnect
            answered.result()
        finally:
            answered.cancel()
            gone.cancel()
        body = self._head(answering, path) | {"usage": answering.usage()}
        choice = Sample.chat_choice if path == CHAT else Sample.completion_choice
        body["choices"] = [choice(sample, index) for index, sample in enumerate(answering.samples)]
        if path == CHAT:
            body |= answering.samples[0].prompt_ids()
        return send_json(json.dumps(body).encode())

    async def _events(self, answering: Answering, path: str) -> AsyncIterator[bytes]:
        """Yield the events of a stream: a piece of text for each chunk of decoding."""
        asked, head = answering.asked, self._head(answering, path, chunk=True)
        head |= {"usage": None} if asked.usage else {}
        try:
            if path == CHAT:
                first = [_delta(index, {"role": "assistant", "content": ""}) for index in range(len(answering.samples))]
                ids = {} if self.served.agent else answering.samples[0].prompt_ids()  # an agent's are known at its end
                yield _event(head | {"choices": first} | ids)
            async for index, sample, piece, text in answering.arriving():
                begin = 0 if piece.episode is not None else len(sample.ids) - len(piece.ids)
                make = self._chat_chunk if path == CHAT else self._completion_chunk
                yield _event(head | {"choices": [make(index, sample, begin, text)]})
        except Refused as refused:  # the status is sent already
            yield _event(_error(refused))
        if asked.usage:
            yield _event(head | {"choices": [], "usage": answering.usage()})
        yield b"data: [DONE]\n\n"

    def _chat_chunk(self, index: int, sample: Sample, begin: int, text: str) -> dict[str, Any]:
        """Return a chunk's choice; calls are told once, with the last."""
        delta, finish = {"content": text}, sample.finish
        if finish is not None and sample.asked.tools:
            delta, finish = sample.last_delta(text)
        more = sample.extras(begin) | (sample.prompt_ids() if sample.episode is not None else {})
        return _delta(index, delta, finish) | {"logprobs": sample.chat_logprobs(begin)} | more

    def _completion_chunk(self, index: int, sample: Sample, begin: int, text: str) -> dict[str, Any]:
        choice = {"index": index, "text": text, "finish_reason": sample.finish}
        choice |= {"logprobs": sample.completion_logprobs(begin)} | sample.extras(begin)
        return choice | (sample.prompt_ids() if not begin else {})

    def _head(self, answering: Answering, path: str, *, chunk: bool = False) -> dict[str, Any]:
        kind = "chat.completion" + ".chunk" * chunk if path == CHAT else "text_completion"
        name = f"{'chatcmpl' if path == CHAT else 'cmpl'}-{answering.id}"
        said = {"id": name, "object": kind, "created": answering.created, "model": self.served.name}
        return said | ({"system_fingerprint": self.served.version} if self.served.version else {})


def _question(asked: Asked) -> str:
    """Return the one question of a chat with an agent. Refused for what an agent cannot take."""
    if len(asked.messages) != 1 or asked.messages[0]["role"] != "user" or not asked.messages[0]["content"].strip():
        raise Wrong("messages", "an agent answers one question: wanted one message, of the role user")
    for name, given in (("tools", asked.tools), ("stop", asked.stop), ("logprobs", asked.top is not None)):
        if given:
            raise Wrong(name, f"{name} is not taken by an agent, which searches and stops by itself")
    return asked.messages[0]["content"]


def _delta(index: int, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: %b\n\n" % json.dumps(value).encode()


def _error(refused: Refused) -> dict[str, Any]:
    """Return an error as OpenAI's API writes it."""
    kind = KINDS.get(refused.status, "server_error" if refused.status >= 500 else "invalid_request_error")
    named = {name: getattr(refused, name, None) for name in ("param", "code")}
    return {"error": {"message": refused.detail, "type": kind, **named}}


def serve(app: App, host: str, port: int, say: Callable[[str], None] = terminal.say) -> None:
    """Serve until SIGTERM or SIGINT; the first thing said is the base URL, the last that it stopped."""
    name = app.served.name.replace("{", "{{").replace("}", "}}")
    http_app.run(app, host, port, f"{name} is served until Ctrl-C: {{}}/v1", say)
