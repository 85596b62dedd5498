"""Chat templates: turn an environment's Say into token ids. The template's own text (glue) is trusted, data is not.

A template is rendered in jinja's sandbox with what templates written for `transformers` expect to find.

Tokens in, tokens out: the template is rendered with sentinels in place of the data and cut at them, once for the prompt
and once for what stands between two turns of the model; after that only ids are appended. History is never rendered
again, so what a template does to old turns (Qwen3's drops their thoughts) does not matter here. `apply_chat_template`
of transformers is not used: it renders today's date and makes control tokens of data. Our ids are otherwise the same: a
blank between glue and data is encoded with the data, where it joins the first word. Imports no jax.
"""

import contextlib
import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qr_jax.errors import UserError
from qr_jax.records import Say

if TYPE_CHECKING:
    from qr_jax.models.tokenizer import Tokenizer

# The quotes, line break and signs betray a template that escapes what it is given: the sentinel is then not found.
PROMPT, REPLY, OBSERVATION = (f"[[{name} \"'\n<&>\\ {name}]]" for name in ("qr-prompt", "qr-reply", "qr-observation"))
# Templates that print the date (Llama 3, SmolLM3) print this date: a run resumed on another day sees the same prompt.
DATE = datetime.datetime(2026, 1, 1)
MOST_ERROR_CHARS = 300
Message = dict[str, str]
Tools = Sequence[Mapping[str, Any]]


class Chat:
    """Token ids for what an environment says, under one tokenizer.

    `end_id` is the id that ends a model's message; the cold start ends an expert's messages with it. `bos` is the text
    of the tokenizer's beginning token, which only some templates print (Llama 3's, not Qwen's nor SmolLM2's). The
    template is told `thinking` as `enable_thinking`; None: it is not told.
    """

    def __init__(self, tokenizer: "Tokenizer", *, bos: str | None = None, thinking: bool | None = None):
        self.tokenizer, self.bos, self.thinking = tokenizer, bos, thinking
        self.end_id = tokenizer.eos_ids[0]
        if bos is None and tokenizer.template is not None and "bos_token" in tokenizer.template:
            raise UserError(
                "the chat template prints the tokenizer's bos_token; give Chat its text as bos (it may be '')"
            )
        self._prompts: dict[str, list[str]] = {}  # tools as JSON -> the glue around the data
        self.between: dict[str, tuple[str, str]] = {}  # role -> glue before and after an observation
        self.tool_json = False  # a tool's message holds its text as JSON, in quotes (Llama 3.1)
        if self.tokenizer.template is not None:
            self.between = {"user": self._glue_between("user")}
            self.between["tool"], self.tool_json = self._glue_tool()
            closing = tokenizer.encode_glue(self.between["user"][0])
            self.end_id = next((token for token in closing if token in tokenizer.eos_ids), self.end_id)

    def open(self, say: Say) -> list[int]:
        """Return the prompt's ids, up to where the model begins to write.

        Tools are given to the template. If its output does not name them, our description of them stands in the system
        text (or before the prompt, where the template has no system messages). Without a template the ids are those of
        the texts alone. Raises ValueError where the template cannot hold a user's message.
        """
        if say.role != "user":
            raise UserError(f"an episode opens with a message of role 'user', and the environment said {say.role!r}")
        key = json.dumps(say.tools)
        if key not in self._prompts:
            self._prompts[key] = self.glue_prompt(say.tools)
        before, after = self._prompts[key]
        return self.joined(before, say.text) + self.tokenizer.encode_glue(after)

    def observe(self, say: Say, ended_by_eos: bool) -> list[int]:
        """Return the ids to append after a turn of the model, up to where it writes on.

        `inline` adds the text's ids alone: the model's message stays open. "user" and "tool" close it (without its end
        token where the model sampled that, `ended_by_eos`), hold the text in a message of their role, and open the
        model's next message. Inline text after a message that the model has ended becomes a user's message. Without a
        template the ids are those of the text, whatever the role.
        """
        if self.tokenizer.template is None or (say.role == "inline" and not ended_by_eos):
            return self.tokenizer.encode_data(say.text)
        before, after = self.between["user" if say.role == "inline" else say.role]
        ids = self.joined(before, as_json(say.text) if self.tool_json and say.role == "tool" else say.text)
        if ended_by_eos:
            glued = len(self.tokenizer.encode_glue(before))
            ends = [at for at, token in enumerate(ids[:glued]) if token in self.tokenizer.eos_ids]
            ids = ids[ends[0] + 1 :] if ends else ids
        return ids + self.tokenizer.encode_glue(after)

    def joined(self, glue: str, data: str) -> list[int]:
        """Return ids of the glue and of the data after it; a blank at the end of the glue is encoded with the data."""
        blank = " " * glue.endswith(" ")
        return self.tokenizer.encode_glue(glue.removesuffix(" ")) + self.tokenizer.encode_data(blank + data)

    def render(self, messages: Sequence[Message], tools: Tools | None) -> str:
        """Render messages by the tokenizer's chat template; without one, their texts."""
        if self.tokenizer.template is None:
            return "\n\n".join(message["content"] for message in messages)
        special = {"eos_token": self.tokenizer.eos_ids[0], "pad_token": self.tokenizer.pad_id}
        special = {name: self.tokenizer.decode([token]) for name, token in special.items()} | {"bos_token": self.bos}
        given = {"messages": messages, "tools": tools or None, "add_generation_prompt": True}
        given |= {} if self.thinking is None else {"enable_thinking": self.thinking}
        return render(self.tokenizer.template, **given, **special)

    def glue_prompt(self, tools: Tools) -> list[str]:
        """Return the template's text before and after the data of a prompt."""
        names = [str(tool.get("function", tool).get("name", "")) for tool in tools]
        problem = ""
        for messages, given in _conversations(describe_tools(tools), tools):
            try:
                text = self.render(messages, given)
                if all(name in text for name in names):
                    return cut(text, [PROMPT])
                problem = f"its text does not name the tools {names}"
            except Exception as error:  # the template is somebody else's program: whatever it raises, try the next form
                problem = str(error)
        raise UserError(f"the chat template of this tokenizer cannot hold a user's message as it is given: {problem}")

    def _glue_tool(self) -> tuple[tuple[str, str], bool]:
        """Return the glue around a tool's message, and True where the template writes its text as JSON.

        If the template has no tool role, or changes the tool's text, the observation becomes a user's message.
        """
        for shown in (OBSERVATION, as_json(OBSERVATION)):
            with contextlib.suppress(ValueError):
                return self._glue_between("tool", shown), shown != OBSERVATION
        return self.between["user"], False

    def _glue_between(self, role: str, shown: str = OBSERVATION) -> tuple[str, str]:
        """Return the glue from a model's turn to an observation of `role`, and from there to the model's next turn.

        `shown` is how the template writes OBSERVATION.
        """
        roles = ("user", "assistant", role)
        texts = (PROMPT, REPLY, OBSERVATION)
        messages = [{"role": author, "content": text} for author, text in zip(roles, texts, strict=True)]
        try:
            glue = cut(self.render(messages, None), (PROMPT, REPLY, shown))
        except Exception as error:  # as above
            raise UserError(
                f"the chat template cannot hold a message of role {role!r} after a model's: {error}"
            ) from error
        return glue[2], glue[3]


def _conversations(about: list[str], tools: Tools):
    """Yield the forms of a prompt to try, best first: (messages, tools for the template)."""
    prompt = {"role": "user", "content": PROMPT}
    if tools:
        yield [prompt], tools
    yield [*({"role": "system", "content": text} for text in about), prompt], None
    yield [{"role": "user", "content": "\n\n".join([*about, PROMPT])}], None


def as_json(text: str) -> str:
    """Write a text in JSON's quotes, as templates' `tojson` does."""
    return json.dumps(text, ensure_ascii=False)


def describe_tools(tools: Tools) -> list[str]:
    """Return no text, or one that describes the tools. It is ours, not data: its tags may become added tokens."""
    if not tools:
        return []
    schemas = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    form = '<tool_call>\n{"name": <function>, "arguments": {<argument>: <value>}}\n</tool_call>'
    return [f"You can call these functions (JSON schemas):\n{schemas}\n\nA call is written as\n{form}"]


def cut(text: str, sentinels: Sequence[str]) -> list[str]:
    """Return the pieces of a text before, between and after its sentinels; each sentinel must occur once, in this
    order.
    """
    pieces = []
    for sentinel in sentinels:
        if text.count(sentinel) != 1:
            how = "twice or more" if sentinel in text else "not at all, or changed"
            raise UserError(f"the template renders a message's text {how}")
        piece, text = text.split(sentinel)
        pieces.append(piece)
    return [*pieces, text]


def render(source: str, **values: Any) -> str:
    """Render the template with these values. ValueError if it is broken or refuses them."""
    try:
        return _environment().from_string(source).render(**values)
    except Exception as error:  # the template is somebody else's program, and raises what it likes
        raise UserError(f"{type(error).__name__}: {str(error)[:MOST_ERROR_CHARS]}".splitlines()[0]) from None


@functools.cache
def _environment() -> Any:
    import jinja2
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what a model wrote, for loss masks made from text: here it only passes through."""

        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    extensions = [Generation, "jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, strftime_now=DATE.strftime)
    return environment
