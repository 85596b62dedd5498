"""Environment: a chat with a search tool called in JSON, three queries a turn (Coelho et al. 2026, 2606.10709)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qr_jax import dialect
from qr_jax.records import Query, Say, Search, Stop, Turn

PARALLEL = 3  # searches of one tool call (the paper's agent)
AT_LEAST = {"max_turns": 0, "max_queries": 1, "max_invalid": 0}
VOCABULARY = (
    "<tool_call>",
    "</tool_call>",
    '{"name":',
    '"search",',
    '"arguments":',
    '{"queries":',
    '["',
    '",',
    '"',
    '"]}}',
)
STOP = ("</answer>",)  # a turn of calls ends where the model ends its message: several calls may follow one another
CALL_CHARACTERS = 4096  # of one call's JSON; a longer one is not read
QUERY_CHARACTERS = 1000

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
    max_turns: int = 4,  # turns that may search; one more may answer
    max_queries: int = 3,  # searches of one turn
    max_invalid: int = 2,  # turns without a call or an answer that are let pass
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
    """The environment's next move: the first block of the model's turn, a `<tool_call>` or an `<answer>`, decides.

    A turn of calls, `{"name": "search", "arguments": {"queries": [...]}}`, runs the first `max_queries` different
    queries in order; how many others there were, and how many calls could not be read (not strict JSON, another tool,
    over 4,096 characters, a query empty or over 1,000), is said with the results. An answer must stand in its tag:
    plain text ends nothing, so that a refusal or a half thought is never scored.

    The wording is ours. The paper's agent is that of AReaL's examples/search_agent/tongyi_deepresearch without its page
    visits: it lists searches under "query", takes the first call of a turn alone, and shows results as the user's
    message. Its system prompt is not repeated here: give it as `prompt`. It shows cleaned text of documents: without
    "(Title: {title})", `passage` does.

    The calls of other agents are read too: `"query"` or `"queries"`, a text or a list; `"parameters"` for
    `"arguments"`, which may be JSON in a text; a call inside `"function"` (OpenAI's); several calls, or a list of them,
    in one tag; line breaks inside a text; a turn that is a call and nothing else, without the tag (Llama 3.1's).

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
        return Say(_lines(_question(query, prompt, max_queries), ending), "user", STOP, tools)
    if turns[-1].author == "env":
        assert actions and actions[-1], "an env turn with passages follows a model turn that asked for them"
        _, asked, bad = actions[-1]
        notes = (rest, len(asked) - max_queries), (unread, bad)
        told = "".join(dialect.fill(note, {"count": n, "max_queries": max_queries}) for note, n in notes if n > 0)
        return Say(_lines(_observation(turns[-1], results, passage, nothing) + told, ending), "tool", STOP)
    action = actions[-1]
    if action and action[0] is not None:
        return Stop("answered", action[0])
    if len(actions) > max_turns:
        return Stop("turns")
    if action:
        return Search(action[1][:max_queries])
    if actions.count(None) > max_invalid:
        return Stop("no_action")
    return Say(_lines(invalid, ending), "tool" if "<tool_call>" in turns[-1].text else "user", STOP)


def expert_turn(thought: str, queries: Sequence[str] = (), answer: str | None = None) -> str:
    """What an expert writes in one turn: a thought as Qwen3's template has it, then one call or the answer."""
    call = json.dumps({"name": "search", "arguments": {"queries": list(queries)}}, ensure_ascii=False)
    act = f"<tool_call>\n{call}\n</tool_call>" if answer is None else f"<answer> {answer} </answer>"
    return (f"<think>\n{thought}\n</think>\n\n" if thought else "") + act


def _action(text: str) -> tuple[str | None, tuple[str, ...], int] | None:
    """A turn's answer (None: it asks), its different queries, and the number of calls that could not be read."""
    blocks, whole = dialect.read(text)
    acts = [block for block in blocks if block.name in ("tool_call", "answer")]
    if whole and not blocks:
        acts = [dialect.Block("tool_call", text.rpartition("</think>")[2])]
    if not whole or not acts:
        return None
    if acts[0].name == "answer":
        return " ".join(dialect.encodable(acts[0].text).split()), (), 0
    calls = [call for block in acts if block.name == "tool_call" for call in _calls(block.text)]
    asked = tuple(dict.fromkeys(query for call in calls for query in call))
    return (None, asked, calls.count(())) if asked else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


DECODER = json.JSONDecoder(strict=False, parse_constant=_refuse)  # not strict: a text may hold line breaks


def _calls(text: str) -> list[tuple[str, ...]]:
    """Read the queries of each call in a text of JSON; () for what cannot be read. Never raises."""
    calls: list[Any] = []
    left = text.strip() if len(text) <= CALL_CHARACTERS else ""
    try:
        while left:
            value, end = DECODER.raw_decode(left)
            calls += value if isinstance(value, list) else [value]
            left = left[end:].strip()
    except (ValueError, RecursionError):
        return [()]
    return [_queries(call) for call in calls] or [()]


def _queries(call: Any) -> tuple[str, ...]:
    """Read the queries of one call; () for a call that cannot be read."""
    call = _object(call)
    call = _object(call.get("function")) or call  # OpenAI's form
    arguments = _object(call.get("arguments", call.get("parameters")))
    if call.get("name") != "search" or ("query" in arguments) == ("queries" in arguments):
        return ()
    listed = arguments["query"] if "query" in arguments else arguments["queries"]
    listed = [listed] if isinstance(listed, str) else listed
    if not isinstance(listed, list) or not all(isinstance(query, str) for query in listed):
        return ()
    asked = tuple(" ".join(dialect.encodable(query).split()) for query in listed)
    return asked if all(0 < len(query) <= QUERY_CHARACTERS for query in asked) else ()


def _object(value: Any) -> Mapping[str, Any]:
    """Return a JSON object, decoded where it stands in a text; {} for all else."""
    try:
        value = DECODER.decode(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) else {}


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


def _question(query: Query, prompt: str, max_queries: int) -> str:
    if "{question}" not in prompt:
        raise ValueError(f"the prompt of tool_call has no {{question}} to put the question in: {prompt!r}")
    values = {"question": dialect.neutralise(query.question.strip()), "max_queries": max_queries}
    return dialect.fill(prompt, values)


def _observation(turn: Turn, results: str, passage: str, nothing: str) -> str:
    shown = []
    for asked, found in zip(turn.queries, turn.passages, strict=True):
        listed = "".join(
            dialect.fill(passage, {"i": i, "title": " ".join(one.title.split()), "text": one.text.strip()})
            for i, one in enumerate(found, 1)
        )
        values = {"query": asked, "passages": listed or nothing}
        shown.append(dialect.fill(results, values))
    return dialect.neutralise("".join(shown))


def _lines(text: str, ending: str) -> str:
    """The text and, on a line of its own, what is said before the last turn."""
    text = text.rstrip()
    return f"{text}\n{ending}" if text and ending else text or ending
