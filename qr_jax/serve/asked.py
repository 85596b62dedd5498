"""Requests of OpenAI's API, read strictly: a field that would change the answer and is not known is refused."""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qr_jax.dialect import encodable
from qr_jax.errors import UserError
from qr_jax.search.chat_endpoint import TEXT_PARTS, message_text
from qr_jax.search.limits import Refused
from qr_jax.serve.conversation import written_calls
from qr_jax.serve.jobs import TOP
from qr_jax.settings import json_text
from qr_jax.settings.settings import nearest, show
from qr_jax.tools._of_run import inert

MOST_SAMPLES = 64
MOST_STOPS, MOST_STOP_CHARS = 16, 1000
SEEDS = 2**32
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
# Fields that change nothing here; and those that may only have the value that changes nothing.
IGNORED = ("user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key")
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "repetition_penalty": (1,), "logit_bias": ({},),
    "min_p": (0,), "top_k": (0, -1), "best_of": (1,), "suffix": ("",), "add_special_tokens": (False,),
    "skip_special_tokens": (False,), "response_format": ({"type": "text"},), "modalities": (["text"],),
}  # fmt: skip
SHARED = (
    "model", "n", "temperature", "top_p", "seed", "stop", "max_tokens", "stream", "stream_options", "logprobs",
    "return_token_ids", "ignore_eos", "include_stop_str_in_output",
)  # fmt: skip
OF_CHAT = (*SHARED, "messages", "max_completion_tokens", "tools", "tool_choice", "top_logprobs")
OF_COMPLETIONS = (*SHARED, "prompt", "echo")


class Wrong(Refused):
    """A request that is refused because of one of its fields, `param`."""

    def __init__(self, param: str, detail: str, status: int = 400, code: str | None = None):
        super().__init__(status, detail)
        self.param, self.code = param, code


@dataclass(frozen=True)
class Asked:
    """What both kinds of request ask for. `top`: likeliest tokens told at each place; None: no log-probabilities."""

    samples: int
    temperature: float
    seed: int
    stop: tuple[str, ...]
    max_tokens: int | None
    stream: bool
    usage: bool  # a stream ends with it
    top: int | None
    token_ids: bool
    ignore_eos: bool
    keep_stop: bool
    echo: bool = False
    messages: tuple[Mapping[str, str], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    prompts: tuple[str | tuple[int, ...], ...] = ()


def read(body: bytes, *, chat: bool, served: str) -> Asked:
    """Return what the body of a request asks for. Refused says which field is wrong, what was wanted and found."""
    try:
        given = json_text.parse(body)
    except ValueError as error:
        raise Refused(400, f"the body is no JSON: {str(error)[:200]}") from None
    if not isinstance(given, dict):
        raise Refused(400, f"the body is no JSON object, but {show(given)}")
    given = {name: value for name, value in given.items() if value is not None and name not in IGNORED}
    _check_names(given, OF_CHAT if chat else OF_COMPLETIONS)
    if (model := given.get("model", served)) != served:
        raise Wrong("model", f"the model {show(model)} is not here; there is {served!r}", 404, "model_not_found")
    field = _Fields(given)
    top = _top(field, chat=chat)
    temperature = field.number("temperature", 1.0, 0, 2)
    if 0 < temperature < 0.01:
        raise Wrong("temperature", f"temperature is {temperature}; wanted 0 (greedy), or .01 to 2")
    if (top_p := field.number("top_p", 1.0, 0, 1)) != 1 and temperature:
        text = f"top_p is {top_p}; this sampler draws from the whole vocabulary: leave top_p out, or take temperature 0"
        raise Wrong("top_p", text)
    shared: dict[str, Any] = {
        "samples": field.whole("n", 1, 1, MOST_SAMPLES), "temperature": temperature,
        "seed": field.whole("seed", secrets.randbelow(SEEDS), -(2**63), 2**64) % SEEDS,
        "stop": _stops(field), "stream": field.flag("stream"), "top": top, "token_ids": field.flag("return_token_ids"),
        "usage": bool(field.get("stream_options", dict, {}).get("include_usage")),
        "ignore_eos": field.flag("ignore_eos"), "keep_stop": field.flag("include_stop_str_in_output"),
    }  # fmt: skip
    if top and shared["stream"]:
        raise Wrong("top_logprobs" if chat else "logprobs", "the likeliest tokens are not streamed: leave stream out")
    if chat:
        limit = "max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"
        most = field.whole(limit, None, 1)
        return Asked(**shared, max_tokens=most, messages=_messages(field), tools=_tools(field))
    echo = field.flag("echo")
    if echo and shared["stream"]:
        raise Wrong("echo", "an echo is not streamed: leave stream out")
    return Asked(**shared, max_tokens=field.whole("max_tokens", 16, 0), echo=echo, prompts=_prompts(field))


def _check_names(given: dict[str, Any], known: Sequence[str]) -> None:
    """Refuse fields that are not known; take away those that have the value that changes nothing."""
    for name in [name for name in given if name not in known]:
        if name not in NEUTRAL:
            raise Wrong(name, f"there is no field {show(name)} here{nearest(name, known)}")
        if given.pop(name) not in NEUTRAL[name]:
            raise Wrong(name, f"{name} is not taken here, unless it is {' or '.join(map(json.dumps, NEUTRAL[name]))}")


class _Fields:
    """The fields of a request, each read as what it must be."""

    def __init__(self, given: Mapping[str, Any]):
        self._given = given

    def get(self, name: str, kind: type | tuple[type, ...], default: Any) -> Any:
        value = self._given.get(name, default)
        if value is not default and (not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            raise Wrong(name, f"{name} is {show(value)}; wanted {' or '.join(one.__name__ for one in kinds)}")
        return value

    def flag(self, name: str) -> bool:
        return self.get(name, bool, False)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self.get(name, (int, float), default)
        if not low <= value <= high:
            raise Wrong(name, f"{name} is {value}; wanted {low} to {high}")
        return float(value)

    def whole(self, name: str, default: Any, low: int, high: int | None = None) -> Any:
        value = self.get(name, int, default)
        if value is not None and (value < low or (high is not None and value > high)):
            wanted = f"at least {low}" if high is None else f"{low} to {high}"
            raise Wrong(name, f"{name} is {value}; wanted {wanted}")
        return value


def _top(field: _Fields, *, chat: bool) -> int | None:
    """Return how many of the likeliest tokens are wanted beside each; None: no log-probabilities are."""
    if not chat:
        return field.whole("logprobs", None, 0, TOP)
    top = field.whole("top_logprobs", 0, 0, TOP)
    if field.flag("logprobs"):
        return top
    if top:
        raise Wrong("top_logprobs", "top_logprobs wants logprobs: true")
    return None


def _stops(field: _Fields) -> tuple[str, ...]:
    stop = field.get("stop", (str, list), ())
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > MOST_STOPS or not all(isinstance(one, str) and 0 < len(one) <= MOST_STOP_CHARS for one in stops):
        raise Wrong("stop", f"stop: wanted at most {MOST_STOPS} texts of 1 to {MOST_STOP_CHARS} characters")
    if bad := [one for one in stops if encodable(one) != one]:
        raise Wrong("stop", f"stop: {show(bad[0])} is no text that UTF-8 can hold")
    return stops


def _tools(field: _Fields) -> tuple[Mapping[str, Any], ...]:
    choice = field.get("tool_choice", (str, dict), "auto")
    if choice not in ("auto", "none"):
        text = f"tool_choice is {show(choice)}; wanted auto or none: nothing here forces the model to call a tool"
        raise Wrong("tool_choice", text)
    tools = field.get("tools", list, [])
    read = tuple(map(_tool, tools))
    return read if choice == "auto" else ()


def _tool(tool: Any) -> Mapping[str, Any]:
    """Return a tool with every text of it made inert: it stands in the chat template, and may be an MCP server's."""
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if isinstance(function, dict):
        function = {**function, "parameters": function.get("parameters") or {"type": "object", "properties": {}}}
    try:
        return inert({"type": "function", "function": function})
    except RecursionError:
        raise Wrong("tools", "a tool is nested too deep") from None
    except (TypeError, LookupError, AttributeError) as error:
        wanted = '{"type": "function", "function": {"name": ..., "parameters": {"type": "object", ...}}}'
        raise Wrong("tools", f"a tool is {show(tool)}; wanted {wanted}") from error
    except UserError as error:
        raise Wrong("tools", str(error)) from error


def _messages(field: _Fields) -> tuple[Mapping[str, str], ...]:
    messages = field.get("messages", list, ())
    if not messages:
        raise Wrong("messages", "messages is missing or empty; wanted at least one message")
    return tuple(_message(one) for one in messages)


def _message(message: Any) -> Mapping[str, str]:
    role = ROLES.get(str(message.get("role"))) if isinstance(message, dict) else None
    if role is None:
        raise Wrong("messages", f"a message is {show(message)}; wanted an object whose role is of {', '.join(ROLES)}")
    content, calls = message.get("content"), message.get("tool_calls") or ()
    try:
        if isinstance(content, list) and (other := [part for part in content if part.get("type") not in TEXT_PARTS]):
            raise Wrong("messages", f"a message has a part of type {show(other[0].get('type'))}; wanted text alone")
        text = "" if content is None and role == "assistant" else message_text(content)
        read = [(one["function"]["name"], _arguments(one["function"]["arguments"])) for one in calls]
        return {"role": role, "content": encodable(written_calls(text, read) if read else text)}
    except (RecursionError, json_text.TooDeep):
        raise Wrong("messages", f"the arguments of a call in a {role}'s message are nested too deep") from None
    except (TypeError, LookupError, AttributeError) as error:
        text = f"a {role}'s message is {show(message)}; wanted a text, or parts of text, as content"
        raise Wrong("messages", text) from error


def _arguments(given: Any) -> Any:
    """Return a call's arguments as the model wrote them: an object, where the text of JSON holds one."""
    try:
        return json_text.parse(given) if isinstance(given, str) else given
    except json_text.TooDeep:
        raise
    except ValueError:
        return given


def _prompts(field: _Fields) -> tuple[str | tuple[int, ...], ...]:
    """Return the prompts: a text, ids, or a list of either."""
    prompt = field.get("prompt", (str, list), ())
    is_ids: Callable[[Any], bool] = lambda one: isinstance(one, list) and bool(one) and all(type(i) is int for i in one)  # noqa: E731
    prompts = [prompt] if isinstance(prompt, str) or is_ids(prompt) else list(prompt)
    if not prompts or not all(isinstance(one, str) or is_ids(one) for one in prompts):
        raise Wrong("prompt", "prompt is missing or wrong; wanted a text, a list of token ids, or a list of these")
    return tuple(encodable(one) if isinstance(one, str) else tuple(one) for one in prompts)
