"""What a sample's ids become: text up to its stop string, log-probabilities and choices as OpenAI's API has them."""

import codecs
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qr_jax.records import Episode
from qr_jax.serve.asked import Asked
from qr_jax.serve.conversation import read_calls
from qr_jax.serve.jobs import Piece, Scores

THOUGHT, THOUGHT_END = b"<think>", b"</think>"
TOOL_SIGN = b"<tool_call>"  # behind it nothing streams: whether it is a call is known at the end


@dataclass(frozen=True)
class Vocabulary:
    """Tokens' bytes by id, and the ids that end a turn."""

    pieces: Sequence[bytes]
    eos_ids: Sequence[int]

    def joined(self, ids: Sequence[int]) -> str:
        """Return the ids' text, in which a character may stand in several tokens."""
        return b"".join([self.pieces[token] for token in ids]).decode("utf-8", "replace")

    def text(self, token: int) -> str:
        """Return a token's text by itself."""
        return self.pieces[token].decode("utf-8", "replace")


@dataclass
class Sample:
    """One choice as it grows. `prompt` are the ids before it; an agent's has its `episode` at the end."""

    asked: Asked
    vocabulary: Vocabulary
    prompt: Sequence[int]
    ids: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    finish: str | None = None
    scores: Scores | None = None
    episode: Episode | None = None

    def __post_init__(self):
        self._bytes, self._shown, self._text = b"", 0, ""
        self._calls = f"call_{uuid.uuid4().hex}"  # the first part of its calls' ids, unique in a conversation
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = [one.encode() for one in self.asked.stop]

    def add(self, piece: Piece) -> str:
        """Take a piece; return the text that may be shown now: none that a stop string or a call may still swallow."""
        self.ids += piece.ids
        self.logp += piece.logp
        self.finish, self.scores, self.episode = piece.finish, piece.scores, piece.episode
        if self.episode is not None:
            sampled_L = self.episode.mask_L
            self.ids, self.logp = self.episode.ids_L[sampled_L].tolist(), self.episode.logp_L[sampled_L].tolist()
            self.prompt = self.episode.ids_L[~sampled_L].tolist()  # and what its searches found
            self._text = self.episode.answer or ""
            return self._text
        ids = piece.ids
        if self.finish == "stop" and ids and ids[-1] in self.vocabulary.eos_ids and not self.asked.ignore_eos:
            ids = ids[:-1]
        self._bytes += b"".join([self.vocabulary.pieces[token] for token in ids])
        shown = self._decoder.decode(self._bytes[self._shown : self._end()], final=self.finish is not None)
        self._shown = max(self._shown, self._end())
        self._text += shown
        return shown

    def _end(self) -> int:
        """Return the end of the bytes that may be shown."""
        found = [(at, len(stop)) for stop in self._stop if (at := self._bytes.find(stop)) >= 0]
        if found and self.finish == "stop":
            at, length = min(found, key=lambda pair: pair[0] + pair[1])  # the first that was whole
            return at + length * self.asked.keep_stop
        if self.finish is not None:
            return len(self._bytes)
        before_stop = len(self._bytes) - max((_begun(self._bytes, stop) for stop in self._stop), default=0)
        return min(before_stop, self._before_call()) if self.asked.tools else before_stop

    def _before_call(self) -> int:
        """Return the end of the bytes that are no part of a call, whatever follows (`read_calls`)."""
        said = self._bytes
        thought_ends = said.rfind(THOUGHT_END)
        at = thought_ends + len(THOUGHT_END) if thought_ends >= 0 else 0
        if THOUGHT in said[at:]:
            return len(said)  # within a thought nothing is a call
        if said[at:].lstrip()[:1] == b"{":
            end = at
        else:
            sign = said.find(TOOL_SIGN, at)
            end = sign if sign >= 0 else len(said) - _begun(said, TOOL_SIGN)
        return len(said[:end].rstrip())  # a message with calls has no blanks at the end of its content

    # ---- choices

    def last_delta(self, shown: str) -> tuple[dict[str, Any], str | None]:
        """Return the last delta of a stream and its finish reason: the calls, or the text `shown` that came last."""
        message, finish = self.message()
        if "tool_calls" not in message:
            return {"content": shown}, finish
        sent = len(self._text) - len(shown)
        calls = [{"index": at, **call} for at, call in enumerate(message["tool_calls"])]
        return {"content": (message["content"] or "")[sent:] or None, "tool_calls": calls}, finish

    def message(self) -> tuple[dict[str, Any], str | None]:
        """Return a chat's message and its finish reason."""
        names = [tool["function"]["name"] for tool in self.asked.tools]
        content, calls = read_calls(self._text, names) if names else (self._text, [])
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if not calls:
            return message, self.finish
        listed = [
            {"id": f"{self._calls}_{at}", "type": "function", "function": {"name": name, "arguments": given}}
            for at, (name, given) in enumerate(calls)
        ]
        return message | {"content": content or None, "tool_calls": listed}, "tool_calls"

    def chat_choice(self, index: int) -> dict[str, Any]:
        message, finish = self.message()
        choice = {"index": index, "message": message, "finish_reason": finish, "logprobs": self.chat_logprobs(0)}
        return choice | self.extras()

    def completion_choice(self, index: int) -> dict[str, Any]:
        text = self.vocabulary.joined(self.prompt) if self.asked.echo else ""
        choice = {"index": index, "text": text + self._text, "finish_reason": self.finish}
        return choice | {"logprobs": self.completion_logprobs(0)} | self.extras() | self.prompt_ids()

    def prompt_ids(self) -> dict[str, Any]:
        return {"prompt_token_ids": list(self.prompt)} if self.asked.token_ids else {}

    def extras(self, begin: int = 0) -> dict[str, Any]:
        """Return the fields that OpenAI's API does not have: ids from `begin` on, an agent's trajectory."""
        found: dict[str, Any] = {"token_ids": self.ids[begin:]} if self.asked.token_ids else {}
        if self.episode is None:
            return found
        ids = {"ids": self.episode.ids_L.tolist(), "sampled": self.episode.mask_L.tolist(), "logprobs": self.logp}
        return found | {"trajectory": trajectory(self.episode) | (ids if self.asked.token_ids else {})}

    # ---- log-probabilities

    def chat_logprobs(self, begin: int) -> dict[str, Any] | None:
        """Return the log-probabilities of the ids from `begin` on; None where they are not wanted."""
        if self.asked.top is None or self.episode is not None:
            return None
        content = []
        for at in range(begin, len(self.ids)):
            top = [self._entry(token, logp) for token, logp in self._top(len(self.prompt) + at)]
            content.append(self._entry(self.ids[at], self.logp[at]) | {"top_logprobs": top})
        return {"content": content, "refusal": None}

    def completion_logprobs(self, begin: int) -> dict[str, Any] | None:
        """Return the log-probabilities of the ids from `begin` on, of an echo the prompt's too; None if unwanted."""
        if self.asked.top is None:
            return None
        before = list(self.prompt) if self.asked.echo else []
        prompt_logp = [None, *self.scores.logp_L[: len(before) - 1].tolist()] if before and self.scores else []
        ids, logp = [*before, *self.ids[begin:]], [*prompt_logp, *self.logp[begin:]]
        tokens = [self.vocabulary.text(token) for token in ids]
        decoder, offsets = codecs.getincrementaldecoder("utf-8")("replace"), []
        at = len(self.vocabulary.joined(self.ids[:begin]))
        for token in ids:
            offsets.append(at)
            at += len(decoder.decode(self.vocabulary.pieces[token]))
        first = len(self.prompt) - len(before) + begin
        top = [
            {self.vocabulary.text(token): value for token, value in self._top(first + at)} or None
            for at in range(len(ids))
        ]
        listed = {"tokens": tokens, "token_logprobs": logp, "text_offset": offsets}
        return listed | {"top_logprobs": top if self.asked.top else None}

    def _entry(self, token: int, logp: float) -> dict[str, Any]:
        piece = self.vocabulary.pieces[token]
        return {"token": piece.decode("utf-8", "replace"), "logprob": logp, "bytes": list(piece)}

    def _top(self, at: int) -> list[tuple[int, float]]:
        """Return (id, log-probability) of the likeliest at place `at` of prompt and sample; none at the first."""
        if not self.asked.top or self.scores is None or at < 1:
            return []
        ids, logp = self.scores.top_id_LK[at - 1], self.scores.top_logp_LK[at - 1]
        return list(zip(ids[: self.asked.top].tolist(), logp[: self.asked.top].tolist(), strict=True))


def _begun(text: bytes, sign: bytes) -> int:
    """Return the length of the longest end of the text that begins the sign."""
    return next((size for size in range(min(len(sign) - 1, len(text)), 0, -1) if text.endswith(sign[:size])), 0)


def trajectory(episode: Episode) -> dict[str, Any]:
    """Return an episode's turns with their searches and the ids of what was found, its end, and its answer."""
    turns = [
        {"author": turn.author, "text": turn.text, "queries": list(map(str, turn.queries)),
         "passages": [passage.id for found in turn.passages for passage in found]}
        for turn in episode.turns
    ]  # fmt: skip
    return {"question": episode.query.question, "answer": episode.answer, "stop": episode.stop, "turns": turns}
