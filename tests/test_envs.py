"""The environments: what the model writes decides, by the letter of the dialect; numbers of turns by hand."""

import json
from functools import partial

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qr_jax import dialect
from qr_jax.envs.search_r1 import search_r1
from qr_jax.methods.envs.ada_search import ada_search
from qr_jax.methods.envs.reseek import reseek
from qr_jax.methods.envs.ssrl import ssrl
from qr_jax.methods.envs.tool_call import tool_call
from qr_jax.records import Passage, Query, Say, Search, Stop, Turn
from qr_jax.search.loose_json import as_json

QUERY = Query("q", "Who wrote Dune?", ("Frank Herbert",))
DUNE = Passage("d1", "Dune", "Dune is a novel by Frank Herbert.", 2.0)
FRANK = Passage("d2", "Frank Herbert", "Frank Herbert was born in Tacoma.", 1.0)

TAGS = [f"<{slash}{name}>" for slash in ("", "/") for name in dialect.NAMES]
NEAR = ["<thinking>", "</think >", "[THINK]", "<\u00adthink>", "&lt;think&gt;", "<|channel|>analysis<|message|>"]
NEAR += ["<ToolResponse>", "<result>", "[result]", "|>"]  # the last two are none
PIECES = ["<", ">", "/", " ", "a", "{", "}", '"', "search", "\n", "\u200b", *NEAR, *TAGS]
transcripts = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=25).map("".join)


def model(*texts: str) -> list[Turn]:
    return [Turn("model", text) for text in texts]


def call(**arguments: object) -> str:
    return f"<tool_call>{json.dumps({'name': 'search', 'arguments': arguments})}</tool_call>"


def test_the_first_move_is_the_question():
    move = search_r1(QUERY, [])
    assert isinstance(move, Say)
    assert (move.role, move.stop, move.tools) == ("user", ("</search>", "</answer>"), ())
    assert move.text.endswith("Question: Who wrote Dune?\n") and "<think>" in move.text
    plain = search_r1(QUERY, [], think=False)
    assert isinstance(plain, Say) and "think" not in plain.text


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("<search> who wrote\n Dune </search>", Search(("who wrote Dune",))),
        ("<think>hm</think>so <search>a</search>\n", Search(("a",))),
        ("the template opened it </think> <search>a</search>", Search(("a",))),
        ("<think>not <search>b</search> yet</think><search>a</search>", Search(("a",))),
        ("<answer> Frank Herbert </answer>", Stop("answered", "Frank Herbert")),
        ("<answer></answer>", Stop("answered", "")),
        ("<answer>a</answer><search>b</search>", Stop("answered", "a")),
        ("<search>b</search><answer>a</answer>", Search(("b",))),
        ("<answer>5 < 6 > 4</answer>", Stop("answered", "5 < 6 > 4")),
    ],
)
def test_search_r1_reads_the_first_action(text, move):
    assert search_r1(QUERY, model(text)) == move


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Frank Herbert",
        "<search> </search>",
        "<search></search><answer>a</answer>",
        "<search>a",
        "<search>a</answer>",
        "a</search>",
        "</search><search>a</search>",
        "<answer><answer>a</answer></answer>",
        "<answer><search>a</search></answer>",
        "<search>a <answer>b</answer>",
        "<think>a <search>b</search>",
        "<think>a<answer>b</answer>",
        "<information><answer>b</answer></information>",
        "<Answer>b</Answer>",
        "< answer>b</ answer>",
    ],
)
def test_search_r1_takes_nothing_else_for_an_action(text):
    move = search_r1(QUERY, model(text))
    assert isinstance(move, Say) and move.role == "inline" and "neither a search nor an answer" in move.text


def test_search_r1_shows_passages_as_search_r1_does():
    turns = [*model("<search>Dune</search>"), Turn("env", "", ("Dune",), ((DUNE, FRANK),))]
    assert search_r1(QUERY, turns) == Say(
        "\n\n<information>Doc 1(Title: Dune) Dune is a novel by Frank Herbert.\n"
        "Doc 2(Title: Frank Herbert) Frank Herbert was born in Tacoma.</information>\n\n",
        "inline",
        ("</search>", "</answer>"),
    )


def test_four_turns_are_four_searches_and_one_answer():
    turns: list[Turn] = []
    for number in range(1, 5):
        turns += model("<search>a</search>")
        assert search_r1(QUERY, turns, max_turns=4) == Search(("a",))
        turns.append(Turn("env", "", ("a",), ((),)))
        move = search_r1(QUERY, turns, max_turns=4)
        assert isinstance(move, Say) and ("No searches are left" in move.text) == (number == 4)
    assert search_r1(QUERY, turns + model("<answer>x</answer>")) == Stop("answered", "x")
    for ending in ("<search>a</search>", "x", "<answer>x"):
        assert search_r1(QUERY, turns + model(ending)) == Stop("turns")


def test_without_turns_the_question_itself_says_that_only_an_answer_is_possible():
    move = search_r1(QUERY, [], max_turns=0)
    assert isinstance(move, Say) and "No searches are left" in move.text
    assert search_r1(QUERY, model("<search>a</search>"), max_turns=0) == Stop("turns")


@pytest.mark.parametrize("env", [search_r1, tool_call])
def test_the_turn_after_the_last_forgiven_one_ends_without_action(env):
    assert isinstance(env(QUERY, model("?", "?"), max_invalid=2), Say)
    assert env(QUERY, model("?", "?", "?"), max_invalid=2) == Stop("no_action")
    assert env(QUERY, model("?"), max_invalid=0) == Stop("no_action")
    assert env(QUERY, model("?", "?", "<answer>x</answer>")) == Stop("answered", "x")


@pytest.mark.parametrize("env", [search_r1, tool_call])
def test_an_invalid_turn_is_a_turn(env):
    move = env(QUERY, model("?"), max_turns=1)
    assert isinstance(move, Say) and "No searches are left" in move.text
    assert env(QUERY, model("?", "?"), max_turns=1) == Stop("turns")


def test_texts_can_be_words_alone():
    terse = partial(
        search_r1,
        prompt="{question}",
        passage="{text} ",
        information=" <information> {passages} </information> ",
        invalid="",
        last="",
    )
    assert terse(QUERY, []) == Say("Who wrote Dune?", "user", ("</search>", "</answer>"))
    turns = [*model("<search> dune </search>"), Turn("env", "", ("dune",), ((DUNE, FRANK),))]
    move = terse(QUERY, turns)
    assert isinstance(move, Say)
    assert move.text == (
        " <information> Dune is a novel by Frank Herbert. Frank Herbert was born in Tacoma. </information> "
    )
    assert terse(QUERY, model("dune")) == Say("", "inline", ("</search>", "</answer>"))


@pytest.mark.parametrize("env", [search_r1, tool_call])
def test_a_prompt_without_a_place_for_the_question_is_refused(env):
    with pytest.raises(ValueError, match=r"no \{question\}"):
        env(QUERY, [], prompt="Answer!")


def test_tool_call_opens_with_its_schema():
    move = tool_call(QUERY, [])
    assert isinstance(move, Say) and move.role == "user" and move.stop == ("</answer>",)
    assert move.text.endswith("Question: Who wrote Dune?") and "up to 3 queries" in move.text
    (tool,) = move.tools
    assert tool["function"]["name"] == "search"
    assert json.loads(json.dumps(tool)) == tool


@pytest.mark.parametrize(
    ("text", "move"),
    [
        (call(query=" who  wrote Dune "), Search(("who wrote Dune",))),
        (call(queries=["a", "b"]), Search(("a", "b"))),
        (call(queries=["a", "b"]) + "\n" + call(queries=["b", "c", "d"]), Search(("a", "b", "c"))),
        ("<think>I <tool_call> something</think>" + call(query="a"), Search(("a",))),
        (call(query="a") + "<tool_call>{broken</tool_call>", Search(("a",))),
        (call(query="a") + "<|im_end|>\n" + call(query="b") + "</s> ", Search(("a", "b"))),
        ("<think>hm</think>So <b>I</b> look: " + call(query="a"), Search(("a",))),
        ("<answer>b</answer>", Stop("answered", "b")),
        ("thought by the template</think>\n<answer>b</answer>", Stop("answered", "b")),
    ],
)
def test_tool_call_reads_the_first_action(text, move):
    assert tool_call(QUERY, model(text)) == move


@pytest.mark.parametrize(
    "text",
    [
        "Frank Herbert",
        "<tool_call></tool_call>",
        "<tool_call>[]</tool_call>",
        '<tool_call>{"name": "search"}</tool_call>',
        '<tool_call>{"name": "python", "arguments": {"query": "a"}}</tool_call>',
        '<tool_call>{"name": "search", "arguments": {"query": "a", "weight": NaN}}</tool_call>',
        "<tool_call>{'name': 'search', 'arguments': {'query': 'it's'}}</tool_call>",
        '<tool_call>{"name": "python.search", "arguments": {"query": "a"}}</tool_call>',
        '<tool_call>{"name": "search", "query": "a", "arguments": {"query": "b"}}</tool_call>',
        '<tool_call>{"name": "search", "arguments": "a", "input": "b"}</tool_call>',
        call(q="a", query_list=["b"]),
        '<tool_call>{"id": 1, "arguments": {"query": "a"}}</tool_call>',
        "<tool_call>" + "[" * 4000 + "</tool_call>",
        call(query=""),
        call(query="a" * 1001),
        call(query="a", padding="x" * 5000),
        call(queries=[]),
        call(queries=["a", True]),
        call(query='["a", ["b"]]'),
        call(query={"text": "a"}),
        call(query="a", queries=["a", "b"]),
        '<tool_call>{"name": "search", "arguments": {"query": "a"}, "args": {"query": "b"}}</tool_call>',
        '<tool_call>{"tool": "python", "query": "a"}</tool_call>',
        '<tool_call>{"tool_calls": [{"function": {"name": "python", "arguments": {"query": "a"}}}]}</tool_call>',
        '<tool_call>{"name": "python", "arguments": {"query": "a"}</tool_call>',  # its inner object is no call
        '<tool_call>as in [1]: {"name": "search", "arguments": {"query": "a"}}</tool_call>',
        '<tool_call>{"name": "search", "arguments": {"query": "a"}}}}</tool_call>',
        '<tool_call>{"name": "search", "arguments": {"query": "a"',
        '```json\n{"name": "search", "arguments": {"query": "a"}}\n``` is how I would search',
        "I see no <tool_call>",
        call(queries=[["a"]]),
        call(query=None),
        '<tool_call>{"name": "search", "arguments": "[1"}</tool_call>',
        '{"name": "python", "parameters": {"query": "a"}}',
        'I call {"name": "search", "arguments": {"query": "a"}}',
        '{"name": "search", "arguments": {"query": "a"}} <answer>b',
        call(query="a", queries=["b"]),
        call(query="a") + "<tool_call>",
        call(query="<search>"),
        "<think>" + call(query="a"),
        "<think>x<answer>b</answer>",
        call(query="a") + "<answer>b</answer>",
        'I call.\n{"name": "python", "arguments": {"query": "a"}}',
        'As in\n{"query": "a"}',
        'I call.\n{"name": "search", "arguments": {"query": "a"}}\nFound for "a":',
        '<tool_call>{"name": "search", "arguments": {"query": "a", "Query": "b"}}</tool_call>',
        '<tool_call>{"action": "visit", "action_input": "a"}</tool_call>',
        "<tool_call><function=visit><parameter=query>a</parameter></function></tool_call>",
        "<tool_call><function=search><parameter=query>a</parameter></function> found: b</tool_call>",
        "<tool_call>visit<arg_key>query</arg_key><arg_value>a</arg_value></tool_call>",
    ],
)
def test_tool_call_takes_nothing_else_for_an_action(text):
    move = tool_call(QUERY, model(text))
    assert isinstance(move, Say) and move.role == ("tool" if "<tool_call>" in text else "user")


def test_tool_call_says_what_did_not_run():
    text = call(queries=["a", "b", "c", "d", "e"]) + "<tool_call>{</tool_call>"
    turns = [*model(text), Turn("env", "", ("a", "b", "c"), ((DUNE,), (), (FRANK,)))]
    assert tool_call(QUERY, turns) == Say(
        'Found for "a":\nDoc 1(Title: Dune) Dune is a novel by Frank Herbert.\n\n'
        'Found for "b":\nNothing.\n\n'
        'Found for "c":\nDoc 1(Title: Frank Herbert) Frank Herbert was born in Tacoma.\n\n'
        "2 more of your queries did not run: a turn runs 3.\n"
        "1 of your calls could not be read.",
        "tool",
        ("</answer>",),
    )


def test_the_last_results_of_tool_call_say_that_only_an_answer_is_possible():
    turns = [*model(call(query="a")), Turn("env", "", ("a",), ((),))]
    move = tool_call(QUERY, turns, max_turns=1)
    assert isinstance(move, Say) and move.text.endswith(
        "\nNo searches are left. Give your answer now, between <answer> and </answer>."
    )
    assert tool_call(QUERY, turns + model(call(query="a")), max_turns=1) == Stop("turns")
    assert tool_call(QUERY, turns + model("<answer>b</answer>"), max_turns=1) == Stop("answered", "b")


@pytest.mark.parametrize("env", [search_r1, tool_call])
@given(st.lists(transcripts, min_size=1, max_size=3))
def test_no_text_of_a_model_raises(env, texts):
    move = env(QUERY, model(*texts))
    if isinstance(move, Search):
        assert 1 <= len(move.queries) <= 3 and all(query.strip() for query in move.queries)
        turns = [*model(*texts), Turn("env", "", move.queries, tuple((DUNE,) for _ in move.queries))]
        assert isinstance(env(QUERY, turns), Say)


@given(transcripts)
def test_a_block_never_holds_a_tag_of_the_dialect(text):
    blocks, _ = dialect.read(text)
    for block in blocks:
        assert block.name != "think" and not dialect.any_tag().search(block.text)
        assert f"<{block.name}>{block.text}</{block.name}>" in text


def test_a_template_is_filled_in_one_pass():
    assert (
        dialect.fill('{title}: {"a": {text}} {other}', {"title": "{text}", "text": "x"}) == '{text}: {"a": x} {other}'
    )


SEARCHED = '{"name": "search", "arguments": {"queries": ["a", "b"]}}'


@pytest.mark.parametrize(
    ("text", "queries"),
    [
        (call(query=["a", "b"]), ("a", "b")),
        (call(queries="a"), ("a",)),
        ('<tool_call>{"name": "search", "arguments": {"query": "who wrote\n\tDune"}}</tool_call>', ("who wrote Dune",)),
        (f"<tool_call>{json.dumps({'name': 'search', 'arguments': json.dumps({'query': 'a'})})}</tool_call>", ("a",)),
        (f"<tool_call>{json.dumps({'name': 'search', 'parameters': {'queries': ['a', 'b']}})}</tool_call>", ("a", "b")),
        (f"<tool_call>{json.dumps({'type': 'function', 'function': json.loads(SEARCHED)})}</tool_call>", ("a", "b")),
        (f"<tool_call>[{SEARCHED}, {SEARCHED.replace('b', 'c')}]</tool_call>", ("a", "b", "c")),
        (f"<tool_call>{SEARCHED}\n{SEARCHED.replace('b', 'c')}\n</tool_call>", ("a", "b", "c")),
        ('<tool_call>{"name": "search", "arguments": "{\\"query\\": \\"a\nb\\"}"}</tool_call>', ("a b",)),
        (SEARCHED, ("a", "b")),
        ('<think>hm</think>\n\n{"name": "search", "parameters": {"query": "a"}}\n', ("a",)),
        (f"<tool_call>{SEARCHED}</tool_call><tool_call>{json.dumps({'name': 'x'})}</tool_call>", ("a", "b")),
        (call(queries='["a","b"]'), ("a", "b")),
        (call(query=' ["a", {"query": "b"}]'), ("a", "b")),
        (call(query="[a"), ("[a",)),
        (call(queries="a", query=None), ("a",)),
        (call(queries=["a"], query="a"), ("a",)),
        (call(queries=["a"], query=""), ("a",)),
        (call(queries=["a", "", None, " "]), ("a",)),
        (call(queries=["a", 3]), ("a", "3")),
        (call(query=2024), ("2024",)),
        ('<tool_call>{"name": "search", "arguments": {"query": 3.10}}</tool_call>', ("3.10",)),
        (call(queries=[{"query": "a"}, {"query": "b", "k": 3}]), ("a", "b")),
        ('<tool_call>[{"query": "a"}]</tool_call>', ("a",)),
        ('<tool_call>{"name": "search", "arguments": [{"query": "a"}]}</tool_call>', ("a",)),
        (f"<tool_call>{SEARCHED}}}</tool_call>", ("a", "b")),
        ('<tool_call>{"name": "search", "arguments": {"queries": ["a,]", "b",],},}</tool_call>', ("a,]", "b")),
        (f'<tool_call>{{"tool_calls": [{SEARCHED}]}}</tool_call>', ("a", "b")),
        (json.dumps({"tool_calls": [{"id": "1", "function": {"name": "search", "arguments": SEARCHED[32:-1]}}]}),
         ("a", "b")),
        (SEARCHED.replace("search", " Search"), ("a", "b")),
        *((SEARCHED.replace("arguments", name), ("a", "b")) for name in ("args", "input", "parameters")),
        ('<tool_call>{"name": "search", "arguments": null, "input": {"query": "a"}}</tool_call>', ("a",)),
        (f"\ufeff{SEARCHED}", ("a", "b")),
        (f"<tool_call>\ufeff\n{SEARCHED}</tool_call>", ("a", "b")),
        (f"<|python_tag|>{SEARCHED}", ("a", "b")),
        (f"<|python_tag|>{SEARCHED}; {SEARCHED.replace('b', 'c')}", ("a", "b", "c")),
        (f"[TOOL_CALLS][{SEARCHED}]", ("a", "b")),
        (f"<tool_call>[TOOL_CALLS] [{SEARCHED}]</tool_call>", ("a", "b")),
        ('[TOOL_CALLS]search[ARGS]{"queries": ["a", "b"]}', ("a", "b")),
        ('[TOOL_CALLS]search[CALL_ID]c1d2[ARGS]{"query": "a"}[TOOL_CALLS]search[ARGS]{"query": "b"}', ("a", "b")),
        (f"```json\n{SEARCHED}\n```", ("a", "b")),
        (f"I look both up.\n\n```\n{SEARCHED}\n```\n", ("a", "b")),
        (f"<tool_call>\n```json\n{SEARCHED}\n```\n</tool_call>", ("a", "b")),
        (f"<tool_call>I search: {SEARCHED}</tool_call>", ("a", "b")),
        (f"<tool_call>{SEARCHED}", ("a", "b")),
        (f"<think>hm</think> So <tool_call>\n{SEARCHED}\n", ("a", "b")),
        (f"{call(query='c')}<tool_call>{SEARCHED}", ("c", "a", "b")),
        ("<tool_call>{'name':'search','arguments':{'query':['a','b']}}</tool_call>", ("a", "b")),
        (r"""<tool_call>{'name': 'search', 'arguments': {'query': 'who\'s "a"', 'k': None,}}</tool_call>""",
         ('who\'s "a"',)),
        (r"""<tool_call>{"name": "search", "arguments": {"query": "who\'s a"}}</tool_call>""", ("who's a",)),
        ("""<tool_call>{"name": "search", "arguments": {"query": "True, 'a': b, {c: d"}}</tool_call>""",
         ("True, 'a': b, {c: d",)),
        ("<tool_call>{name: 'search', arguments: {queries: ['a', 'b']}}</tool_call>", ("a", "b")),
        ('<tool_call>{"tool_calls": [{"function": {"name": "search", "arguments": "{\'query\': \'a\'}"}}]}</tool_call>',
         ("a",)),
        ('<tool_call>{"arguments": {"query_list": ["a"]}}</tool_call>', ("a",)),
        ('<tool_call>{"name": "search", "query": "a"}</tool_call>', ("a",)),
        ('<tool_call>{"name": "search", "query": "a", "arguments": {}}</tool_call>', ("a",)),
        ('<tool_call>{"name": "search", "arguments": "a"}</tool_call>', ("a",)),
        ('<tool_call>{"name": "functions.search", "arguments": {"q": "a"}}</tool_call>', ("a",)),
        ('<tool_call>{"name": "functions.search:0", "arguments": {"query_list": "a"}}</tool_call>', ("a",)),
        (f"<tool_call>{SEARCHED[:-1]}</tool_call>", ("a", "b")),
        (f"<tool_call>\n```json\n{SEARCHED[:-1]}\n```</tool_call>", ("a", "b")),
        (SEARCHED[:-1], ("a", "b")),
        (f"<tool_call>{SEARCHED}, {SEARCHED.replace('b', 'c')}</tool_call>", ("a", "b", "c")),
        *((f'<tool_call>{{"name": "search", "arguments": {{"{name}": "a"}}}}</tool_call>', ("a",))
          for name in ("search_query", "Query", "searchQuery", "QUERIES")),
        ('<tool_call>{"action": "search", "action_input": "a"}</tool_call>', ("a",)),
        ('<tool_call>{"tool": "search", "tool_input": {"query": "a"}}</tool_call>', ("a",)),
        ('<tool_call>{"Action": "Search", "query": "a"}</tool_call>', ("a",)),
        ("<tool_call>\n<function=search>\n<parameter=query>\na\n</parameter>\n</function>\n</tool_call>", ("a",)),
        ('<tool_call><function=search><parameter=queries>["a", "b"]</parameter><parameter=k>3</parameter></function>'
         "<function=search><parameter=query>c</parameter></function></tool_call>", ("a", "b", "c")),
        ("<function=search><parameter=query>List<int> a</parameter></function>", ("List<int> a",)),
        ("<tool_call>search\n<arg_key>query</arg_key>\n<arg_value>a</arg_value>\n</tool_call>", ("a",)),
        ('<tool_call>search<arg_key>queries</arg_key><arg_value>["a", "b"]</arg_value></tool_call>', ("a", "b")),
        (f"I will search.\n{SEARCHED}", ("a", "b")),
        (f"First, the [1] city.\n\nThen:\n  {SEARCHED}\n", ("a", "b")),
        (f"I will search.\n{SEARCHED[:-1]}", ("a", "b")),
        (SEARCHED.replace('"b"', '"List<Document> b"'), ("a", "List<Document> b")),
        (f"{SEARCHED}<|im_end|>", ("a", "b")),
    ],
)  # fmt: skip
def test_the_calls_of_other_agents_are_read(text, queries):
    assert tool_call(QUERY, model(text)) == Search(queries)
    drafted = model(f"<think>{text}</think><answer>x</answer>"), model(f"<think>{text}"), model(f"{text}\n</think>")
    if "</think>" not in text:
        answered, *silent = (tool_call(QUERY, turns) for turns in drafted)
        assert answered == Stop("answered", "x") and all(isinstance(move, Say) for move in silent)


LETTERS = st.text("ab'\"\\ ,:{}[]", max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | LETTERS,
    lambda inner: st.lists(inner) | st.dictionaries(LETTERS, inner),
    max_leaves=8,
)


@given(VALUES)
def test_json_and_python_s_literals_are_read_alike_and_as_they_stand(value):
    assert json.loads(as_json(json.dumps(value))) == json.loads(as_json(repr(value))) == value


def test_calls_of_one_tag_that_cannot_be_read_are_counted_each():
    text = f'<tool_call>[{SEARCHED}, {{"name": "python"}}, 3]</tool_call><tool_call>{SEARCHED}!</tool_call>'
    assert tool_call(QUERY, model(text)) == Search(("a", "b"))
    move = tool_call(QUERY, [*model(text), Turn("env", "", ("a", "b"), ((), ()))])
    assert isinstance(move, Say) and move.text.endswith("\n3 of your calls could not be read.")


@pytest.mark.parametrize(
    "text",
    [
        call(query="a") + "\n<tool_response>\nByron was her father.\n</tool_response>",
        call(query="a") + "\n<tool_response>",
        call(query="a") + "<tool_response>Byron</tool_response><answer>Byron</answer>",
        "<tool_response>Byron</tool_response><answer>Byron</answer>",
        "<information>Byron</information><answer>Byron</answer>",
        "<information>Byron <answer>Byron</answer>",
        "<tool_response >Byron</tool_response ><answer>Byron</answer>",
        "<Information>Byron</Information><answer>Byron</answer>",
        "</tool_response><answer>Byron</answer>",
        *(
            f"{opens}Byron{closes}<answer>Byron</answer>"
            for opens, closes in (
                ("<\u200btool_response>", "</\u200btool_response>"),
                ("<tool-response>", "</tool-response>"),
                ("<ToolResponse>", "</ToolResponse>"),
                ("<tool_responses>", "</tool_responses>"),
                ("<tool_result>", "</tool_result>"),
                ("<tool_output>", "</tool_output>"),
                ("<observation>", "</observation>"),
                ("<result>", "</result>"),
                ("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
                ("<function_results>", "</function_results>"),
                ("<search_results>", "</search_results>"),
                ('<result id="1">', "</result>"),
                ("<observation_1>", ""),
                ("<documents>", "</documents>"),
                ("<document index='1'>", "</document>"),
                ("<|begin_of_documents|>", "<|end_of_documents|>"),
                ("<passages>", "</passages>"),
                ("<retrieved_context>", "</retrieved_context>"),
                ("<context>", "</context>"),
                ("<Evidence>", "</Evidence>"),
                ("<|observation|>", ""),
                ("&lt;information&gt;", "&lt;/information&gt;"),
                ("<|start_header_id|>tool_response<|end_header_id|>", ""),
            )
        ),
    ],
)
@pytest.mark.parametrize("env", [search_r1, tool_call, ada_search, reseek])
def test_a_turn_that_makes_up_what_was_found_does_not_act(env, text):
    decided = text.replace("<answer>", "<decision> answer </decision> <answer>") if env is ada_search else text
    assert isinstance(env(QUERY, model(decided)), Say)
    assert env(QUERY, model(decided), max_invalid=0) == Stop("no_action")
    thought = env(
        QUERY, model(f"<think>{text}</think>{'<decision> answer </decision>' * (env is ada_search)}<answer>x</answer>")
    )
    assert thought == Stop("answered", "x"), "what stands in a thought is nothing that was found"


SHOWN = '\nFound for "a":\nDoc 1(Title: Byron) Byron was her father.'


@pytest.mark.parametrize(
    "shown",
    [
        SHOWN, "Byron was her father.", f"<|im_end|>{SHOWN}", f"<think>hm</think>{SHOWN}", "<think>hm</think>",
        *(f"<{name}>Byron</{name}>" for name in ("tool", "output", "response", "info", "docs", "api_response")),
        "<snippet>Byron</snippet>", "<|im_start|>tool\nByron<|im_end|>",
        '<|start_header_id|>ipython<|end_header_id|>\n\n{"output": "Byron"}<|eot_id|>',
        "\n```\nByron\n```", "[RESULT] Byron", "<webpage>Byron", '{"results": ["Byron"]}',
    ],
)  # fmt: skip
def test_a_turn_ends_with_its_calls(shown):
    """What follows them, or stands between them, may be what the model makes up to have been found."""
    asked = call(query="a")
    for text in (
        asked + shown,
        asked + shown + call(query="b"),
        asked + call(query="b") + shown,
        f"<think>x</think>{asked}{shown}",
    ):
        assert isinstance(tool_call(QUERY, model(text)), Say)
        assert tool_call(QUERY, model(text), max_invalid=0) == Stop("no_action")
    assert tool_call(QUERY, model(f"{SEARCHED}{shown}"), max_invalid=0) == Stop("no_action")
    thought = shown.replace("<think>hm</think>", "")
    assert tool_call(QUERY, model(f"<think>{thought}</think>{asked}\n<|im_end|>")) == Search(("a",))


ENVIRONMENTS = {
    search_r1: "",
    tool_call: "",
    ada_search: "<decision> answer </decision>",
    reseek: "<judge> yes </judge>",
}


@pytest.mark.parametrize(
    "text",
    [
        "<info>Oslo is</info>", "<retrieved>Oslo</retrieved>", "<webpage>Oslo is</webpage>", '<page id="1">Oslo</page>',
        "I see:\n<kb>\nOslo\n</kb>", "so <kb>Oslo</kb>", "<KB>Oslo</KB>", "<资料>Oslo</资料>",
        "&lt;kb&gt;Oslo&lt;/kb&gt;",
        "<|im_start|>tool\nOslo<|im_end|>\n", "<|start_header_id|>ipython<|end_header_id|>\nOslo<|eot_id|>",
        "<start_of_turn>user\nOslo<end_of_turn>", "<info>Oslo", "[/KB]", "<Answer>Bergen</Answer>",
    ],
)  # fmt: skip
@pytest.mark.parametrize("env", [*ENVIRONMENTS, ssrl])
def test_a_tag_of_nobody_s_makes_the_turn_invalid(env, text):
    """Outside thoughts and acts only the environment's own tags stand, for the others may hold what was made up."""
    acts = f"{ENVIRONMENTS.get(env, '')}<answer>Oslo</answer>"
    assert env(QUERY, model(f"{text}{acts}"), **({} if env is ssrl else {"max_invalid": 0})) == Stop("no_action")
    assert env(QUERY, model(f"<think>{text}</think>{acts}")) == Stop("answered", "Oslo")
    assert env(QUERY, model(f"{acts[:-9]}{text}</answer>")) == Stop("answered", f"Oslo{' '.join(text.split())}") or (
        env is not tool_call and "<Answer>" not in text
    )


@pytest.mark.parametrize(
    "html",
    ["<b>Oslo</b>", "H<sub>2</sub>O<br>x<br/>", "<p>Oslo</p>\n<ul><li>a</li></ul>", "<I>a</I>", '<a href="x">a</a>'],
)
@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_plain_html_may_stand_beside_an_act(env, html):
    text = f"{html} vector<int> a <john@example.org> </s>{ENVIRONMENTS[env]}<answer>Oslo</answer>"
    assert env(QUERY, model(text)) == Stop("answered", "Oslo")


@pytest.mark.parametrize(
    "asked",
    [
        "HTML <context> element", "C++ std::future<Result> type", "lyrics [Reasoning]", "List<Document> java",
        "what does <thinking> do", "the </div> tag", "<|im_start|> token", "<plan> &lt;think&gt; (think)",
    ],
)  # fmt: skip
@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_inside_an_act_only_the_environment_s_own_tags_count(env, asked):
    decided = "<decision> search </decision>" if env is ada_search else ""
    act = call(query=asked) if env is tool_call else f"<search>{asked}</search>"
    assert env(QUERY, model(f"<think>hm</think>{decided}{act}")) == Search((asked,))
    answer = f"{ENVIRONMENTS[env]}<answer>{asked}</answer>"
    assert env(QUERY, model(answer)) == Stop("answered", asked)
    for tag in ("<search>", "</think>"):
        assert isinstance(env(QUERY, model(f"<think>hm</think>{decided}{act.replace(asked, asked + tag)}")), Say)


def test_an_observation_that_a_model_began_in_its_own_message_is_closed():
    say = search_r1(QUERY, model("I find <information>By"), invalid="", last="")
    assert isinstance(say, Say) and (say.text, say.role) == (" </information> ", "inline")
    say = search_r1(QUERY, model("<information>Byron</information>"))
    assert isinstance(say, Say) and say.text.startswith("\n\nThat was neither")
    assert dialect.closing("<think> <information> a") == "" == dialect.closing("<information> </think>")
    assert dialect.turn_ends(("</a>",)) == ("</a>", "<information>", "<tool_response>")
    assert dialect.turn_ends((), ("information",)) == ("<tool_response>",)  # an environment may leave it to the model


def test_the_policy_of_ssrl_writes_what_it_recalls_between_information_tags():
    text = "<search>a</search><information>Byron</information><answer>Byron</answer>"
    assert ssrl(QUERY, model(text)) == Stop("answered", "Byron")
    assert ssrl(QUERY, model(f"<tool_response>Byron</tool_response>{text}")) == Stop("no_action")


@pytest.mark.parametrize(
    ("opens", "closes"),
    [
        ("<think >", "</think >"),
        ("<thinking>", "</thinking>"),
        ("[THINK]", "[/THINK]"),
        ("<Think>", "</Think>"),
        ("<think type='draft'>", "</think>"),
        ("< think>", "</ think>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<thought>", "</thought>"),
        ("<reasoning>", "</reasoning>"),
        ("<seed:think>", "</seed:think>"),
        ("◁think▷", "◁/think▷"),
        ("<\u200bthink>", "</\u200bthink>"),
        ("<th\u00adink>", "</th\u00adink>"),
        ("<t\u2060h\u2060ink\ufeff>", "</think\ufeff>"),
        ("<thi\x01nk>", "</thi\x01nk>"),
        ("[THOUGHT]", "[/THOUGHT]"),
        ("[END OF THINKING]", ""),
        (r"<\think>", r"<\/think>"),
        ("&lt;think&gt;", "&lt;/think&gt;"),
        ("&#60;think&#x3E;", "&amp;lt;/think&amp;gt;"),
        ("<thinking_process>", "</thinking_process>"),
        ("<antThinking>", "</antThinking>"),
        ("<innerMonologue>", "</innerMonologue>"),
        ("<chain-of-thought>", "</chain-of-thought>"),
        ("‹|begin▁of▁thought|>", "‹|end▁of▁thought|>"),
        ("<｜begin▁of▁thought｜>", "<｜end▁of▁thought｜>"),
        ("<|channel|>analysis<|message|>", "<|end|>"),
        ("<|start_header_id|> reasoning <|end_header_id|>", ""),
        ("<reflection>", "</reflection>"),
        ("<scratchpad>", "</scratchpad>"),
        ("<analysis>", "</analysis>"),
        ("<t h i n k>", "</t h i n k>"),
        ("<cot>", "</cot>"),
        ("<COT>", "</COT>"),
        ("<plan>", "</plan>"),
        ("<draft>", "</draft>"),
        ("<reflect>", "</reflect>"),
        ("<rethink>", "</rethink>"),
        ("<deliberation>", "</deliberation>"),
        ("<internal>", "</internal>"),
        ("<!-- think -->", "<!-- /think -->"),
        ("<!--thought-->", ""),
        ("<unused94>thought\n", "<unused95>"),
        ("<unused7> reasoning", ""),
        ("{think}", "{/think}"),
        ("{ Thinking }", ""),
        ("(think)", "(/think)"),
        ("( Thinking )", ""),
        ("<think\nmaybe ", "</think\n"),
        ("<think maybe ", ""),
        ("</thinking", ""),
        *(
            (f"<{name}>", f"</{name}>")
            for name in ("rationale", "planning", "deliberate", "ponder", "notes", "musings")
        ),
        ("[ANALYSIS]", "[/ANALYSIS]"),
        ("[PLAN]", ""),
        ("[Sketch]", "[/Sketch]"),
        ("{sketch}", "{/sketch}"),
        ("<sketch>", "</sketch>"),
        ("hm\n<first-try n='1'>\n", "</first-try>"),
        ("<思考>", "</思考>"),
        ("", "</think >"),  # the template began it, and nobody said so
    ],
)
@pytest.mark.parametrize("env", [search_r1, tool_call, reseek, ssrl])
def test_a_draft_between_tags_that_nearly_are_a_thought_s_does_not_run(env, opens, closes):
    draft, real = (call(query=text) if env is tool_call else f"<search>{text}</search>" for text in ("draft", "real"))
    moves = [env(QUERY, model(f"{opens}{act}{closes}\n{real}")) for act in (draft, "<answer>draft</answer>", "hm")]
    assert all(move == Search(("real",)) or move == Stop("no_action") or isinstance(move, Say) for move in moves)
    assert (
        env(QUERY, model(f"{opens}<answer>draft</answer>")) in (Stop("no_action"), env(QUERY, model("?")))
        or opens in ("", "[Sketch]", "{sketch}")  # prose, while nothing closes them
    )
    inside = f"<think>{opens or 'a'}{draft}{closes}</think>"
    if "</think>" not in closes:
        assert env(QUERY, model(f"{inside}<answer>real</answer>")) == Stop("answered", "real"), "thoughts are opaque"


@pytest.mark.parametrize(
    "text",
    [
        "I think [sic] so", "<rethinker>", "<thinker>", "5 < thinking", "[thoughts of Dune]", "a>b", "a < b", "<b>",
        "[result]", "[Analysis]", "[observation]", "if a < results and b > c", "<the result of it>", "<resulting>",
        "<results of the match>", "<information technology>", "‹think›", "‹tool_response›", "‹|begin of thought|›",
        "x |> analysis", "&lt;b&gt;", "x <result2 and y> 3", "a <- reason -> b",
        "[plan]", "{draft}", "[context]", "<plan of the house>", "<planet>", "<cotton>", "<contextual>",
        "{think of it}", '{"think": "x"}', "<!-- I think so -->", "<unused94>", "<internally>", "<drafts of the book>",
        "<unused94> plan",
    ],
)  # fmt: skip
def test_words_that_are_no_tag_of_a_thought_spoil_no_turn(text):
    assert search_r1(QUERY, model(f"So {text} <answer>{text}</answer>")) == Stop("answered", text)


@given(
    st.sampled_from(["think", "thoughts", "reasoning", "scratchpad", "tool response", "function output"])
    | st.sampled_from(["documents", "passage", "context", "evidence", "plan", "draft", "internal", "rethink"])
    | st.sampled_from(["analysis", "reflections", "observation", "result", "information"]),
    st.sampled_from(["<{}>", "</{}>", "<|{}|>", "＜{}＞", "◁{}▷", "&lt;{}&gt;", "< {} />", "<|channel|>{}<|message|>"]),
    st.lists(
        st.sampled_from(["", "", "", "\u200b", "\u00ad", "\u2060", "\ufeff", "\U000e0001"]), min_size=20, max_size=20
    ),
    st.sampled_from(["", "_", "-", " ", "▁"]),
    st.sampled_from([str, str.upper, str.title]),
)
def test_a_near_tag_is_known_by_its_bare_name_whatever_its_dress(name, dress, unseen, between, case):
    written = "".join(f"{sign}{more}" for sign, more in zip(case(name).replace(" ", between), unseen, strict=False))
    tag = dress.format(written)
    assume(tag not in ("<think>", "</think>"))
    assert dialect.read(f"{tag}<answer>a</answer>") == ((), False)
    assert dialect.read(f"<think>{tag}</think><answer>a</answer>")[1], "thoughts are opaque"
