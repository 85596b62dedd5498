"""Environment: a chat with a search tool called in JSON, three queries a turn (Coelho et al. 2026, 2606.10709).

The wording is ours. The paper's agent is that of AReaL's examples/search_agent/tongyi_deepresearch without its page
visits: it lists searches under "query", takes the first call of a turn alone, and shows results as the user's message.
Its system prompt is not repeated here: give it as `prompt`. The agent shows text alone, as `passage` does
without "(Title: {title})".

The calls of other agents are read too:

- Queries under `"query"`, `"queries"`, `"query_list"`, `"search_query"` or `"q"` in any case: a text, a number, or a
  list of them or of objects, also as JSON in a text. Empty ones are dropped; two queries under two names are not read.
- Arguments under `"arguments"`, `"parameters"`, `"args"` or `"input"` (which may be the query itself), beside the name,
  or alone; `"action"` with `"action_input"`; `functions.search`; `"tool_calls"` and `"function"` (OpenAI's).
- `<function=search>` with `<parameter=query>` (Qwen3-Coder's); `<arg_key>` with `<arg_value>` (GLM's).
- Several calls, or a list of them, in one tag, behind words or in a fence.
- Loose JSON (loose_json.py): line breaks inside a text, Python's quotes, names without quotes, a comma behind the last
  item, a needless escape of a quote, a brace too many or a last one too few; a last tag never closed.
- A turn that is a call and nothing else, without the tag (Llama 3.1's), behind `<|python_tag|>`, `[TOOL_CALLS]` or
  `[TOOL_CALLS]search[ARGS]`, in a fence, or on a line of its own behind words, if it names the tool.
"""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qr_jax import dialect
from qr_jax.errors import UserError
from qr_jax.records import Query, Say, Search, Stop, Turn
from qr_jax.search.loose_json import as_json
from qr_jax.settings import json_text
from qr_jax.settings.settings import Count, Natural

PARALLEL = 3  # searches of one tool call (the paper's agent)
VOCABULARY = (
    "<tool_call>", "</tool_call>", '{"name":', '"search",', '"arguments":', '{"queries":', '["', '",', '"', '"]}}',
)  # fmt: skip
STOP = ("</answer>",)  # a turn of calls ends where the model ends its message: several calls may follow one another
CALL_CHARACTERS = 4096  # of one call's JSON; a longer one is not read
QUERY_CHARACTERS = 1000
# The names of what is asked: queries, and, beside a tool's name, the arguments that hold them; without case, - and _.
QUERIES = ("query", "queries", "querylist", "q", "searchquery", "searchqueries")
ARGUMENTS = ("arguments", "parameters", "args", "input", "actioninput", "toolinput")
NAMES = ("name", "action", "tool", "toolname", "function")  # of the tool's name
NAME = re.compile(r"(functions\.)?search(:\d+)?", re.IGNORECASE)  # OpenAI's and Kimi's numbered calls

PROMPT = (
    "Answer the question below. Look up what you do not know with the search tool, as often as you need; one turn may "
    "ask up to {max_queries} queries. When you know the answer, write it between <answer> and </answer>, as short as "
    "it can be and without an explanation.\nQuestion: {question}"
)
INVALID = (
    "Neither a search nor an answer could be read. Search with <tool_call>"
    '{"name": "search", "arguments": {"queries": ["a query"]}}</tool_call>, or finish with <answer>an answer</answer>.'
)
LAST = "No searches are left. Give your answer now, between <answer> and </answer>."


def tool_call(
    query: Query,
    turns: Sequence[Turn],
    *,
    max_turns: Natural = 4,  # turns that may search; one more may answer
    max_queries: Count = 3,  # searches of one turn
    max_invalid: Natural = 2,  # turns without a call or an answer that are let pass
    schema: bool = True,  # whether the opening carries the tool's JSON schema for the chat template
    prompt: str = PROMPT,  # the whole prompt, with {question}
    results: str = 'Found for "{query}":\n{passages}\n',  # what stands around a query's passages
    passage: str = "Doc {i}(Title: {title}) {text}\n",  # how one passage is shown
    nothing: str = "Nothing.\n",  # shown where nothing was found
    # what is said of queries that did not run
    rest: str = "{count} more of your queries did not run: a turn runs {max_queries}.\n",
    unread: str = "{count} of your calls could not be read.\n",  # what is said of calls that could not be read
    invalid: str = INVALID,  # what a turn without a call or an answer is told
    last: str = LAST,  # what is said when no searches are left
) -> Say | Search | Stop:
    """Return the environment's next move: the first block of the model's turn, a `<tool_call>` or an `<answer>`,
    decides.

    A turn of calls, `{"name": "search", "arguments": {"queries": [...]}}`, runs the first `max_queries` different
    queries in order; how many others there were, and how many calls could not be read (not JSON, another tool,
    over 4,096 characters, no query or one over 1,000), is said with the results. An answer must stand in its tag:
    plain text ends nothing, so that a refusal or a half thought is never scored.

    A turn ends with its calls: behind the first, anything but calls, blanks and end-of-turn tokens makes it invalid,
    because the model may make up there what was found. (AReaL's agent stops a turn at <tool_response> and runs the
    call before it.)

    `max_turns`, `max_invalid` and thoughts are as in search_r1; one tag out of place spoils the whole turn. Results
    are neutralised whole (dialect.py), so `results`, `passage` and `nothing` cannot show a tag of the dialect; the
    rest can.

    The first move carries the tool's JSON schema for the chat template; where a template shows no tools, `prompt`
    must say how to call (as INVALID does). A synthetic world's model knows whole words alone (VOCABULARY are those of a
    call): its traces have a blank on each side of a query, which JSON allows.
    """
    actions = [_action(turn.text) for turn in turns if turn.author == "model"]
    ending = last if len(actions) == max_turns else ""
    if not turns:
        tools = (_schema(max_queries),) if schema else ()
        return Say(lines(dialect.ask("tool_call", prompt, query, max_queries=max_queries), ending), "user", STOP, tools)
    if turns[-1].author == "env":
        assert actions and actions[-1], "an env turn with passages follows a model turn that asked for them"
        _, asked, bad = actions[-1]
        notes = (rest, len(asked) - max_queries), (unread, bad)
        told = "".join(dialect.fill(note, {"count": n, "max_queries": max_queries}) for note, n in notes if n > 0)
        return Say(lines(_observation(turns[-1], results, passage, nothing) + told, ending), "tool", STOP)
    action = actions[-1]
    if action and action[0] is not None:
        return Stop("answered", action[0])
    if len(actions) > max_turns:
        return Stop("turns")
    if action:
        return Search(action[1][:max_queries])
    if actions.count(None) > max_invalid:
        return Stop("no_action")
    return Say(lines(invalid, ending), "tool" if "<tool_call>" in turns[-1].text else "user", STOP)


def expert_turn(thought: str, queries: Sequence[str] = (), answer: str | None = None) -> str:
    """Write an expert's turn: a thought as in Qwen3's template, then one call or the answer."""
    call = json.dumps({"name": "search", "arguments": {"queries": list(queries)}}, ensure_ascii=False)
    act = f"<tool_call>\n{call}\n</tool_call>" if answer is None else f"<answer> {answer} </answer>"
    return (f"<think>\n{thought}\n</think>\n\n" if thought else "") + act


def _action(text: str) -> tuple[str | None, tuple[str, ...], int] | None:
    """Return a turn's answer (None: it searches), its different queries, and the number of unreadable calls."""
    blocks, whole = dialect.read(text)
    if not whole and (closed := dialect.read(f"{text}</tool_call>"))[1] and all(_calls(closed[0][-1].text)):
        (blocks, whole), text = closed, f"{text}</tool_call>"  # the turn ended with its last call
    acts = [block for block in blocks if block.name in ("tool_call", "answer")]
    if bare := _bare(text):
        acts, whole = [dialect.Block("tool_call", bare)], True
    if not whole or not acts:
        return None
    if acts[0].name == "answer":
        return " ".join(dialect.encodable(acts[0].text).split()), (), 0
    text = dialect.spoken(text)
    if not bare and not CALLS.fullmatch(text, text.index("<tool_call>")):
        return None
    calls = [call for block in acts for call in _calls(block.text)]
    asked = tuple(dict.fromkeys(query for call in calls for query in call))
    return (None, asked, calls.count(())) if asked else None


def _bare(text: str) -> str:
    """Return the calls of a turn that has no tags of the dialect but those of thoughts; "" where it is anything else.

    Behind words without a fence it must be a call that names the tool.
    """
    at = text.rfind("</think>") + len("</think>") if "</think>" in text else 0
    match = BARE.fullmatch(text, at)
    if not match or dialect.any_tag().search(text, at) or dialect.read(text[: match.start("call")]) != ((), True):
        return ""
    is_call = all(_calls(match["call"])) and (match["words"] is None or NAMED.search(match["call"]))
    return match["call"] if is_call else ""


def refuse(constant: str) -> None:
    raise UserError(f"{constant} is not JSON")


# Not strict: a text may hold line breaks, and a number is read as it is written.
DECODER = json_text.Decoder(strict=False, parse_constant=refuse, parse_int=str, parse_float=str)
BEFORE = re.compile(r"(?:\[TOOL_CALLS\]|[^\[{])*")  # of a tag's text: what stands before the first call
ARGS = re.compile(r"\[TOOL_CALLS\]\s*([\w.]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?\[ARGS\]")  # Mistral's
AFTER = re.compile(rf"}}?\s*(?:```)?(?:\s|{dialect.END})*")  # what may stand behind the last
CALLS = re.compile(rf"(?s)(?:\s|{dialect.END}|<tool_call>.*?</tool_call>)*+")
# A turn without tags: a call and nothing else, behind another agent's sign or words, or in a fence behind words.
BARE = re.compile(
    r"(?s)[\s\ufeff]*+(?:<\|python_tag\|>|\[TOOL_CALLS\]|[^\[{]*```\w*|(?P<words>[^{]*\n)(?=\s*\{)|(?=[\[{<]))"
    r"(?P<call>\s*(?:[\[{]|<function=).*)"
)
NAMED = re.compile(r"(['\"]?)(?:name|action|tool|function)\1\s*:\s*['\"](?:functions\.)?search['\":]", re.IGNORECASE)
# Qwen3-Coder's calls, and GLM's: the tool's name, then each argument between tags of its own.
FUNCTION = re.compile(r"(?s)\s*<function=([\w.]+)>\s*((?:<parameter=.*?</parameter>\s*)+)(?:</function>|\Z)\s*")
ARG_KEYS = re.compile(r"(?s)\s*([\w.]+)\s*((?:<arg_key>.*?</arg_value>\s*)+)")
ARGUMENT = re.compile(
    r"(?s)<parameter=(?P<name>[\w-]+)>(.*?)</parameter>|<arg_key>([^<]*)</arg_key>\s*<arg_value>(.*?)</arg_value>"
)


def _calls(text: str) -> list[tuple[str, ...]]:
    """Read the queries of each call in a text of JSON; () for what cannot be read. Never raises."""
    calls: list[Any] = _tagged(text)
    left = text if len(text) <= CALL_CHARACTERS and all(map(NAME.fullmatch, ARGS.findall(text))) else ""
    left = "" if calls else as_json(BEFORE.sub("", ARGS.sub("", left), count=1))
    try:
        while not AFTER.fullmatch(left):
            value, left = _first(left)
            value = value.get("tool_calls", value) if isinstance(value, dict) else value
            calls += value if isinstance(value, list) else [value]
    except (ValueError, RecursionError):
        return [()]
    return [_queries(call) for call in calls] or [()]


def _tagged(text: str) -> list[Any]:
    """Return the calls of a text in Qwen3-Coder's or GLM's form, as JSON would have them; none of any other text."""
    for form in (FUNCTION, ARG_KEYS):
        calls = list(form.finditer(text)) if len(text) <= CALL_CHARACTERS else []
        if calls and not form.sub("", text).strip():
            return [{"name": call[1], "arguments": _given(call[2])} for call in calls]
    return []


def _given(text: str) -> dict[str, list[str]]:
    """Return the arguments that stand between tags, with all values of a name."""
    found: dict[str, list[str]] = {}
    for argument in ARGUMENT.finditer(text):
        found.setdefault(argument[1] or argument[3], []).append(argument[2] or argument[4] or "")
    return found


def _first(text: str) -> tuple[Any, str]:
    """Return the first JSON value of a text, and what follows; the last brace may be missing."""
    try:
        value, end = DECODER.raw_decode(text)
        return value, text[end:].lstrip(";, \t\r\n")
    except ValueError:
        return DECODER.decode(text.rstrip("` \t\r\n") + "}"), ""


def _queries(call: Any) -> tuple[str, ...]:
    """Read the queries of one call; () for a call that cannot be read, or that may mean one of several things."""
    try:
        call = _decoded(call)
        inner = call.get("function")
        call = _decoded(inner) if isinstance(inner, dict) or str(inner).lstrip().startswith("{") else call
        name = next((value for wanted in NAMES for value in _under(wanted, call)), None)
        if name is None:  # the arguments alone need no name: there is no other tool
            is_search = {*map(_folded, call)} <= {*QUERIES, *ARGUMENTS}
        else:
            is_search = NAME.fullmatch(str(name).strip())
        if not is_search:
            return ()
        given = [_texts(_arguments(value)) for wanted in ARGUMENTS for value in _under(wanted, call) if value]
        given += [_texts(call)] if any(value for wanted in QUERIES for value in _under(wanted, call)) else []
        asked = tuple(" ".join(dialect.encodable(text).split()) for text in _only([texts for texts in given if texts]))
    except (ValueError, AttributeError, RecursionError):
        return ()
    return asked if all(len(query) <= QUERY_CHARACTERS for query in asked) else ()


def _under(wanted: str, call: Mapping[str, Any]) -> list[Any]:
    """Return the values under a name in any case, with or without - and _."""
    return [value for name, value in call.items() if _folded(name) == wanted]


def _folded(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


def _texts(value: Any) -> list[str]:
    """List the queries in a text, a list or an object, which may be JSON in a text; ValueError for all else."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        with contextlib.suppress(ValueError):
            value = _decoded(value)
    if isinstance(value, dict):
        return _only([texts for name in QUERIES for held in _under(name, value) if (texts := _texts(held))])
    if isinstance(value, list) and not any(isinstance(item, list) for item in value):
        return [text for item in value for text in _texts(item)]
    if value is None or isinstance(value, str):
        return [value] if value and value.strip() else []
    raise UserError(f"{type(value).__name__} is no query")


def _arguments(value: Any) -> Any:
    """Return what JSON in a text stands for, or the text that is a query itself; ValueError for JSON that is broken."""
    try:
        return _decoded(value)
    except ValueError:
        if value.lstrip().startswith(("[", "{")):
            raise
        return value


def _decoded(value: Any) -> Any:
    """Return what JSON in a text stands for; all else as it is. ValueError for a text that is not JSON."""
    return DECODER.decode(as_json(value)) if isinstance(value, str) else value


def _only(values: list[Any]) -> Any:
    """Return the one value that is given, however often; ValueError where there is none, or two."""
    if not values or any(value != values[0] for value in values):
        raise UserError(f"{len(values)} values; wanted one")
    return values[0]


def _schema(max_queries: int) -> Mapping[str, object]:
    queries = {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "maxItems": max_queries,
        "description": f"Up to {max_queries} search queries, each looked up on its own.",
    }
    parameters = {"type": "object", "properties": {"queries": queries}, "required": ["queries"]}
    function = {"name": "search", "description": "Searches a collection of documents.", "parameters": parameters}
    return {"type": "function", "function": function}


def _observation(turn: Turn, results: str, passage: str, nothing: str) -> str:
    shown = []
    for asked, ranked in zip(turn.queries, turn.passages, strict=True):
        values = {"query": asked, "passages": dialect.list_passages(passage, ranked) or nothing}
        shown.append(dialect.fill(results, values))
    return dialect.neutralise("".join(shown))


def lines(text: str, ending: str) -> str:
    """Return the text and, on a line of its own, what is said before the last turn."""
    text = text.rstrip()
    return f"{text}\n{ending}" if text and ending else text or ending
