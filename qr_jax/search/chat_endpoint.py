"""An OpenAI-compatible chat endpoint: its URL and key, what may be left out of a request, and the JSON in a reply.

Judges (lab/judge.py), the teacher (sets/synth/teacher.py), a model that plays a retriever (zero_search) and one that is
evaluated (lab/endpoint_player.py) use it.
"""

import os
import re
import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from qr_jax.errors import UserError
from qr_jax.logging.secrecy import redact
from qr_jax.search.http_post import Endpoint, Failed, Patience, secret
from qr_jax.search.loose_json import COMMENT, QUOTED, TEXT, as_json
from qr_jax.settings import json_text

OPENAI_KEY, OPENAI_HOST = "OPENAI_API_KEY", "api.openai.com"
PATH = "/chat/completions"
LIMITS = ("max_tokens", "max_completion_tokens")  # of a reply: the second is sent where the first is left out
OPTIONAL = (
    *LIMITS,
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "stop",
)  # settings of a request that an endpoint may refuse
OTHER_LIMITS = ("max_output_tokens", "max_new_tokens")  # by which a refusal may name either limit
REFUSALS = (400, 422)
TOO_LONG = re.compile(r"too large|context (length|size|window)|at most|less than", re.IGNORECASE)
TEXT_PARTS = (None, "text", "output_text")  # of a content that is a list
SIGN = re.compile(r"\{|<think>.*?(?:</think>|\Z)|</think>", re.DOTALL)
# A reason may hold line breaks; a name may stand twice in an object.
DECODER = json_text.Decoder(strict=False, object_pairs_hook=list)

INNER = rf"\{{(?:{COMMENT}|{TEXT}|{QUOTED}|[^{{}}\"'])*+\}}"
LOOSE = re.compile(INNER.replace(r"[^{", rf"{INNER}|[^{{"), re.DOTALL)  # an object, with objects of one level in it


def key_header(url: str, key_env: str) -> dict[str, str] | None:
    """Return the header with the key in `key_env`; for api.openai.com, and no other host, OPENAI_API_KEY does too.

    None where there is no key; ValueError for a key that no header can hold, and for that host without one.
    """
    try:
        names = (key_env, OPENAI_KEY) if urlsplit(url).hostname == OPENAI_HOST else (key_env,)
    except ValueError as error:
        raise UserError(f"{url!r} is no address: {error}") from error
    known = next((name for name in names if os.environ.get(name)), None)
    if known is None and OPENAI_KEY in names:
        raise UserError(f"{OPENAI_HOST} wants a key; put it into the environment as {' or '.join(names)}")
    return {"Authorization": f"Bearer {secret(known)}"} if known else None


class ChatEndpoint(Endpoint):
    """A chat endpoint by its base URL (http://127.0.0.1:8000/v1), or by the whole of it.

    Newer models of OpenAI answer 400 to `max_tokens` (they want `max_completion_tokens`), `temperature` and `top_p`,
    other endpoints to `seed`. A refusal that names a setting is answered by the same request without it; once that is
    answered, later requests leave the setting out too. `leave_out` names settings that are never sent; `key_env` is the
    variable to tell of when a key is refused.
    """

    def __init__(
        self,
        url: str,
        patience: Patience,
        headers: Mapping[str, str] | None = None,
        *,
        leave_out: Iterable[str] = (),
        key_env: str = "",
    ):
        whole = url.rstrip("/")
        super().__init__(whole if whole.endswith(PATH) else f"{whole}{PATH}", patience, headers)
        self.leave_out, self.key_env = frozenset(leave_out), key_env
        if unknown := sorted(self.leave_out - {*OPTIONAL}):
            raise UserError(
                f"{', '.join(unknown)} cannot be left out of a request; wanted some of {', '.join(OPTIONAL)}"
            )
        self._first, self._begun = threading.Lock(), False

    def post(self, body: Mapping[str, Any], ends: float | None = None) -> Any:
        """Return the endpoint's answer, as `Endpoint.post` does; `max_tokens` limits the reply under either name."""
        with self._first:  # the first call goes alone: what it learns, the others need not
            if not self._begun:
                try:
                    return self._learn(body, ends)
                finally:
                    self._begun = True
        return self._learn(body, ends)

    def _learn(self, body: Mapping[str, Any], ends: float | None) -> Any:
        """Post without what is left out, and again without what a refusal names; keep that once an answer comes."""
        left_out = kept = self.leave_out
        while True:
            sent = without(body, left_out)
            try:
                answer = super().post(sent, ends)
            except Failed as error:
                if error.status not in REFUSALS:
                    raise
                named = {name for name in OPTIONAL if name in sent and _named(name, error.reply)}
                if TOO_LONG.search(error.reply) and {*LIMITS} & {*sent}:
                    left_out |= {*LIMITS}  # of this request alone: a shorter one has room
                elif named:
                    left_out, kept = left_out | named, kept | named
                else:
                    raise
            else:
                self.leave_out |= kept
                return answer


def without(body: Mapping[str, Any], left_out: Collection[str]) -> dict[str, Any]:
    """Return the request without these settings, its `max_tokens` by the other name where that is not one of them."""
    first, second = LIMITS
    sent = {name: value for name, value in body.items() if name not in left_out}
    if first in body and first in left_out and second not in left_out:
        sent[second] = body[first]
    return sent


def _named(name: str, reply: str) -> bool:
    """Tell whether a reply names a setting, as it was sent or in another form: maxTokens, maxOutputTokens."""
    names = (name, *OTHER_LIMITS) if name in LIMITS else (name,)
    return any(re.search(rf"\b{one.replace('_', '[_-]?')}\b", reply, re.IGNORECASE) for one in names)


def message_text(content: Any) -> str:
    """Return a message's content as one text, its text parts joined where it is a list; TypeError for other content."""
    if isinstance(content, list):
        return "".join(message_text(part["text"]) for part in content if part.get("type") in TEXT_PARTS)
    if not isinstance(content, str):
        raise TypeError(f"content of a {type(content).__name__}")
    return content


def reply_text(answer: Any) -> str:
    """Return the text of a chat completion; ValueError if it has none."""
    try:
        return message_text(answer["choices"][0]["message"]["content"])
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(f"no chat completion with a text, but {redact(str(answer))[:200]!r}") from error


def objects(reply: str) -> tuple[list[list[tuple[str, Any]]], bool, str]:
    """Return the complete JSON objects of a reply, each as its (name, value) pairs; if one is all of it; and the rest.

    The rest is the text outside of them, with a NUL in the place of each. Thoughts (`<think>...</think>`) and fences
    are no part of a reply, nor is what stands before a lone `</think>`, which the chat template began, unless it is one
    object and nothing follows. An object inside another is a part of that one. Python's signs (`True`, single quotes),
    comments and a comma behind the last item are read as JSON's. ValueError for a thought without an end.
    """
    found, around, before, begun, at = [], [], [], 0, 0
    while sign := SIGN.search(reply, at):
        pairs, at = None, sign.end()
        if sign[0] == "{":
            try:
                pairs, at = _object_at(reply, sign.start())
            except json_text.TooDeep as error:
                raise UserError("the reply is nested too deep") from error
            except ValueError:
                continue
        around.append(reply[begun : sign.start()])
        begun = at
        if pairs is not None:
            found.append(pairs)
        elif sign[0] == "</think>":
            before, found, around = (found if _are_all(found, around) else []), [], []
        elif not found and not sign[0].endswith("</think>"):
            raise UserError("the reply is a thought without an end")
    around.append(reply[begun:])
    if before and not found and not "".join(around).strip():
        return before, True, ""
    return found, _are_all(found, around), "\0".join(around)


def _are_all(found: list[Any], around: list[str]) -> bool:
    """Tell whether one object was found, and nothing around it but a fence."""
    return len(found) == 1 and not re.sub(r"```\w*", "", "".join(around)).strip()


def _object_at(text: str, start: int) -> tuple[list[tuple[str, Any]], int]:
    """Return the pairs of the object that begins there, and its end; ValueError where it is none."""
    try:
        return DECODER.raw_decode(text, start)
    except json_text.TooDeep:
        raise
    except ValueError:
        found = LOOSE.match(text, start)
        if not found:
            raise
        return DECODER.decode(as_json(found[0])), found.end()
