"""Environment: a chat with several tools called in JSON, as Qwen's template shows them; the run's `tools` are offered.

A call is `<tool_call>{"name": "calculator", "arguments": {"expression": "1987 - 1912"}}</tool_call>`; a turn may have
several, of different tools. Without tools in the config there is `search` alone, the run's retriever.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qr_jax import dialect
from qr_jax.methods.envs.tool_call import CALL_CHARACTERS, CALLS, lines, refuse
from qr_jax.records import Call, Query, Say, Search, Stop, Turn, call_of
from qr_jax.search.loose_json import as_json
from qr_jax.settings import json_text
from qr_jax.settings.settings import Count, Natural

PARALLEL = 3  # calls of an expert's turn
VOCABULARY = (
    *("<tool_call>", "</tool_call>", '{"name":', '"search",', '"calculator",', '"arguments":'),
    *('{"query":', '{"expression":', '"', '"}}', "+", "-"),
)
STOP = ("</answer>",)  # a turn of calls ends where the model ends its message: several calls may follow one another
ARGUMENTS = ("arguments", "parameters")
RETRIEVER = "search"  # its calls are the run's searches
KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,),
    "object": (dict,), "null": (type(None),),
}  # fmt: skip
SEARCH = {
    "name": RETRIEVER,
    "description": "Searches a collection of documents.",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
}
PROMPT = (
    "Answer the question below. Use the tools for what you do not know; one turn may call up to {max_calls}. When you "
    "know the answer, write it between <answer> and </answer>, as short as it can be and without an explanation.\n"
    "Question: {question}"
)
INVALID = (
    "Neither a call nor an answer could be read. Call a tool with <tool_call>"
    '{"name": "a tool", "arguments": {}}</tool_call>, or finish with <answer>an answer</answer>.'
)
LAST = "No calls are left. Give your answer now, between <answer> and </answer>."


def several_tools(
    query: Query,
    turns: Sequence[Turn],
    *,
    tools: Sequence[Mapping[str, Any]] = ({"type": "function", "function": SEARCH},),
    max_turns: Natural = 6,  # turns that may call; one more may answer
    max_calls: Count = 3,  # calls of one turn that run
    max_invalid: Natural = 2,  # turns without a call or an answer that are let pass
    schema: bool = True,  # whether the opening carries the tools' JSON schemas for the chat template
    prompt: str = PROMPT,  # the whole prompt, with {question}
    searched: str = 'Found for "{query}":\n{passages}\n',  # what stands around a search's passages
    called: str = "{tool} gave:\n{passages}\n",  # what stands around the result of another tool
    passage: str = "Doc {i}(id: {id}, title: {title}) {text}\n",  # how one passage of a search is shown
    page: str = "{title}\n{text}\n",  # how a page that another tool gives is shown; a text is shown as it is
    nothing: str = "Nothing.\n",  # shown where nothing came
    rest: str = "{count} more of your calls did not run: a turn runs {max_calls}.\n",  # what is said of these
    wrong: str = "A call did not run: {why}.\n",  # what is said of a call that fits no tool
    invalid: str = INVALID,  # what a turn without a call or an answer is told
    last: str = LAST,  # what is said when no calls are left
) -> Say | Search | Stop:
    """Return the environment's next move: the first block of the model's turn, a call or an `<answer>`, decides.

    Of a turn's calls the first `max_calls` different ones that fit a tool's schema run. The model is told how
    many others there were and, of a call that fits none, what was found and wanted; where no call of a turn fits,
    that is the whole reply, and the turn counts as one that called. A call of `search` is a search as any other
    environment's. Behind a turn's first call anything but calls, blanks and end-of-turn tokens makes it invalid, for
    the model may make up there what a tool gave. Thoughts, `max_turns` and `max_invalid` are as in tool_call.

    Results are neutralised whole (dialect.py), and so is what is said of a wrong call: neither shows a tag.
    """
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    acts = [_act(turn.text, schemas) for turn in turns if turn.author == "model"]
    ending = last if len(acts) == max_turns else ""
    if not turns:
        shown = dialect.ask("several_tools", prompt, query, max_calls=max_calls)
        return Say(lines(shown, ending), "user", STOP, tuple(tools) if schema else ())
    act = acts[-1]
    if isinstance(act, str):
        return Stop("answered", act)
    if turns[-1].author == "env" or (act and not act[0] and len(acts) <= max_turns):
        assert act, "an env turn with passages follows a model turn that asked for them"
        calls, whys = act
        told = dialect.fill(rest, {"count": len(calls) - max_calls, "max_calls": max_calls})
        told = told * (len(calls) > max_calls) + "".join(dialect.fill(wrong, {"why": why}) for why in whys)
        shown = _shown(turns[-1], searched, called, passage, page, nothing)
        return Say(lines(dialect.neutralise(shown + told), ending), "tool", STOP)
    if len(acts) > max_turns:
        return Stop("turns")
    if act:
        return Search(act[0][:max_calls])
    if acts.count(None) > max_invalid:
        return Stop("no_action")
    return Say(lines(invalid, ending), "tool" if "<tool_call>" in turns[-1].text else "user", STOP)


def expert_turn(thought: str, queries: Sequence[str | Call] = (), answer: str | None = None) -> str:
    """Write an expert's turn: a thought as in Qwen3's template, then calls (a text is a search) or the answer."""
    calls = (call_of(RETRIEVER, {"query": asked}) if isinstance(asked, str) else asked for asked in queries)
    written = (f'{{"name": {json.dumps(call.tool)}, "arguments": {call.arguments}}}' for call in calls)
    acts = "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in written)
    act = acts if answer is None else f"<answer> {answer} </answer>"
    return (f"<think>\n{thought}\n</think>\n\n" if thought else "") + act


def _act(text: str, schemas: Mapping[str, Any]) -> str | tuple[tuple[str | Call, ...], tuple[str, ...]] | None:
    """Return a turn's answer; or its different calls that fit, and what is wrong with the others; None for neither."""
    blocks, whole = dialect.read(text)
    acts = [block for block in blocks if block.name in ("tool_call", "answer")]
    if not whole or not acts:
        return None
    if acts[0].name == "answer":
        return " ".join(dialect.encodable(acts[0].text).split())
    spoken = dialect.spoken(text)
    if not CALLS.fullmatch(spoken, spoken.index("<tool_call>")):
        return None
    read = [_call(block.text, schemas) for block in acts]
    fitting = [call for call, _ in read if call is not None]
    return tuple(dict.fromkeys(fitting)), tuple(dict.fromkeys(why for _, why in read if why))


def _call(text: str, schemas: Mapping[str, Any]) -> tuple[str | Call | None, str]:
    """Read one call: what is asked and "", or None and what is wrong with it. Never raises."""
    if len(text) > CALL_CHARACTERS:
        return None, f"it has {len(text):,} characters, and {CALL_CHARACTERS:,} are read"
    try:
        call = json_text.parse(as_json(text), strict=False, parse_constant=refuse)
        name, arguments = call["name"], next(call[key] for key in ARGUMENTS if key in call)
        arguments = json_text.parse(arguments) if isinstance(arguments, str) else arguments
        asked = call_of(str(name), {**arguments})
        asked = Call(asked.tool, dialect.encodable(asked.arguments))
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration, RecursionError):
        return None, 'it is not {"name": ..., "arguments": {...}} in JSON'
    if asked.tool not in schemas:
        return None, f"there is no tool {asked.tool[:64]!r}; there are {', '.join(schemas)}"
    if why := misfit(schemas[asked.tool], asked.given()):
        return None, f"{asked.tool} {why}"
    return (" ".join(asked["query"].split()) if asked.tool == RETRIEVER else asked), ""


def misfit(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    """Say how arguments do not fit a tool's JSON schema: found and wanted; "" where they do.

    Names, `required`, `type`, `enum` and the types of a list's items are looked at; all else is the tool's to refuse.
    """
    known = schema.get("properties", {})
    wanted = f"wanted {', '.join(known) or 'none'}"
    if missing := [name for name in schema.get("required", ()) if name not in arguments]:
        return f"lacks {', '.join(missing)}; {wanted}"
    for name, value in arguments.items():
        if name not in known:
            if schema.get("additionalProperties"):
                continue
            return f"takes no {name[:64]!r}; {wanted}"
        about = known[name] if isinstance(known[name], Mapping) else {}
        items = about.get("items", {}).get("type") if isinstance(about.get("items"), Mapping) else None
        unlike = isinstance(value, list) and not all(_is_of(item, items) for item in value)
        if unlike or not _is_of(value, about.get("type")):
            kind = f"a list of {items}" if unlike else about.get("type")
            return f"has {name} as {json.dumps(value, ensure_ascii=False)[:60]}; wanted {kind}"
        if isinstance(about.get("enum"), list | tuple) and value not in about["enum"]:
            return f"has {name} as {json.dumps(value, ensure_ascii=False)[:60]}; wanted one of {about['enum']}"
    return ""


def _is_of(value: Any, kinds: Any) -> bool:
    """Return True for a value of a schema's type, or of one of its types; a type that is not known takes any value."""
    for kind in (kinds or [""]) if isinstance(kinds, list | tuple) else [kinds]:
        if kind == "integer" and isinstance(value, float) and value.is_integer():
            return True
        if (
            not isinstance(kind, str)
            or kind not in KINDS
            or (isinstance(value, KINDS[kind]) and isinstance(value, bool) <= (kind == "boolean"))
        ):
            return True
    return False


def _shown(turn: Turn, searched: str, called: str, passage: str, page: str, nothing: str) -> str:
    """Show what each query and call of an env turn gave; "" for a turn of the model."""
    shown = []
    for asked, found in zip(turn.queries, turn.passages, strict=True):
        is_call = isinstance(asked, Call)
        listed = "".join(_one(one, i, page if is_call else passage, is_call) for i, one in enumerate(found, 1))
        values = {"query": asked, "tool": getattr(asked, "tool", RETRIEVER), "passages": listed or nothing}
        shown.append(dialect.fill(called if is_call else searched, values))
    return "".join(shown)


def _one(found: Any, i: int, template: str, is_call: bool) -> str:
    if is_call and not found.id and not found.title:
        return found.text
    values = {"i": i, "id": found.id, "title": " ".join(found.title.split()), "text": found.text.strip()}
    return dialect.fill(template, values)
