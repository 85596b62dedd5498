"""OpenAI's messages -> token ids, by the model's own chat template; and its text -> content and tool calls.

The template is rendered with a sentinel in the place of each message's text and cut there, as rollout/chat.py does for
an environment: what a message holds never becomes a control token. What the model said before (an assistant's message)
may hold the dialect's tags as tokens, for the model wrote them so; its thoughts stay.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qr_jax import dialect
from qr_jax.errors import UserError
from qr_jax.rollout.chat import Chat, cut, describe_tools
from qr_jax.search.loose_json import as_json
from qr_jax.settings import json_text

Message = Mapping[str, str]  # role and content
Tools = Sequence[Mapping[str, Any]]

CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


def conversation_ids(chat: Chat, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
    """Return the ids of a conversation, up to where the model begins to write.

    Where the template has no place for tools, for a tool's message or for a system's, our description of the tools
    stands in the system text, and these messages become a user's. Without a template the texts stand one after another.
    Raises UserError for a conversation that the template refuses.
    """
    names, problem = [str(tool["function"]["name"]) for tool in tools], ""
    for written, given in _forms(messages, tools):
        data = [(role, part) for role, parts in written for part in parts if not isinstance(part, _Ours)]
        marks = [f"[[qr-{at} \"'\n<&>\\ {at}-qr]]" for at in range(len(data))]
        left = iter(marks)
        contents = [[part if isinstance(part, _Ours) else next(left) for part in parts] for _, parts in written]
        shown = [
            {"role": role, "content": "\n\n".join(parts)} for (role, _), parts in zip(written, contents, strict=True)
        ]
        try:
            text = chat.render(shown, given or None)
            if given and (text == chat.render(shown, None) or not all(name in text for name in names)):
                raise UserError(f"its text does not name the tools {names}")
            pieces = cut(text, marks)
        except Exception as error:  # the template is somebody else's program: whatever it raises, try the next form
            problem = problem or str(error)
            continue
        pairs = [
            _said(chat, glue, part) if role == "assistant" else chat.joined(glue, part)
            for glue, (role, part) in zip(pieces, data, strict=False)
        ]
        return [token for ids in pairs for token in ids] + chat.tokenizer.encode_glue(pieces[-1])
    raise UserError(f"the model's chat template cannot hold this conversation: {problem}")


class _Ours(str):
    """A text of ours in a message, whose tags may be tokens; all else in it is data."""


Form = list[tuple[str, list[str]]]  # of each message its role, and the parts that stand in it


def _forms(messages: Sequence[Message], tools: Tools) -> Iterator[tuple[Form, Tools]]:
    """Yield the forms to try, best first, each with the tools that the template is given."""
    told: list[str] = [_Ours(text) for text in describe_tools(tools)]
    whole = [(message["role"], message["content"]) for message in messages]
    yield [(role, [text]) for role, text in whole], tools
    system = [text for role, text in whole if role == "system"]
    opening = [*system, *told]
    for tool_role in ("tool", "user"):
        rest: Form = [(tool_role if role == "tool" else role, [text]) for role, text in whole if role != "system"]
        yield [*([("system", opening)] if opening else []), *rest], ()
    if rest and rest[0][0] == "user":
        yield [("user", [*opening, *rest[0][1]]), *rest[1:]], ()


def _said(chat: Chat, glue: str, text: str) -> list[int]:
    """Return ids of the glue and of what the model said, in which only the dialect's tags may be added tokens."""
    tokenizer, blank = chat.tokenizer, " " * glue.endswith(" ")  # which joins the first word, as in a rollout
    ids = tokenizer.encode(blank + text)
    controls = {token for token in ids if token in tokenizer.added_ids}
    if all(dialect.any_tag().fullmatch(tokenizer.decode([token]).strip()) for token in controls):
        return tokenizer.encode_glue(glue.removesuffix(" ")) + ids
    return chat.joined(glue, text)


def written_calls(content: str, calls: Sequence[tuple[str, Any]]) -> str:
    """Return an assistant's text with its calls (name, arguments) as the model writes them."""
    texts = [json.dumps({"name": name, "arguments": given}, ensure_ascii=False) for name, given in calls]
    return "\n".join([*([content] if content else []), *(f"<tool_call>\n{text}\n</tool_call>" for text in texts)])


def read_calls(text: str, names: Sequence[str]) -> tuple[str, list[tuple[str, str]]]:
    """Return a text's content and its calls of these tools: (name, arguments as JSON); (text, []) without any.

    A call stands in `<tool_call>` tags behind all thoughts, or is the whole text. A text with a call that cannot be
    read, or of another tool, has none: it is content, for the client to judge.
    """
    thought_ends = text.rfind("</think>")
    at = thought_ends + len("</think>") if thought_ends >= 0 else 0
    if "<think>" in text[at:]:
        return text, []
    found = list(CALL.finditer(text, at))
    if not found and text[at:].lstrip().startswith("{"):
        calls, content = [_call(text[at:], names)], text[:at]
    else:
        calls = [_call(one[1], names) for one in found]
        content = text[: found[0].start()] if found else text
    read = [call for call in calls if call is not None]
    return (content.rstrip(), read) if read and len(read) == len(calls) else (text, [])


def _call(text: str, names: Sequence[str]) -> tuple[str, str] | None:
    try:
        call = json_text.parse(as_json(text.strip()), strict=False)
    except ValueError:
        return None
    if not isinstance(call, dict) or call.get("name") not in names:
        return None
    given = call.get("arguments", call.get("parameters", {}))
    return call["name"], given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
