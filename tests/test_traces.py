"""Expert traces made from gold titles: what is kept, in which order it searches, and what environments make of it."""

import json

import pytest

from qr_jax.data import readers, traces
from qr_jax.envs.search_r1 import expert_turn as search_r1_turn
from qr_jax.envs.search_r1 import search_r1
from qr_jax.methods.envs.tool_call import VOCABULARY, tool_call
from qr_jax.methods.envs.tool_call import expert_turn as tool_call_turn
from qr_jax.records import Passage, Query, Search, Stop, Turn
from qr_jax.search.retrievers.bm25 import bm25
from qr_jax.sets import made_traces

CORPUS = [
    Passage("p1", "Opus 7 (Weber)", "Opus 7 is a sonata written by Anna Weber in 1801."),
    Passage("p2", "Anna Weber", "Anna Weber was a composer born in Linz."),
    Passage("p3", "Linz", "Linz is a city on the Danube with a castle."),
    Passage("p4", "Graz", "Graz is a city on the Mur with a castle."),
    Passage("p5", "Karl Weber", "Karl Weber was a painter."),
]
CHAIN = Query(
    "chain",
    "On which river lies the town where the composer of Opus 7 was born?",
    ("Danube",),
    (),
    {"supporting": ["p3", "p2", "p1"], "supporting_titles": ["Linz", "Anna Weber", "Opus 7 (Weber)"]},
)
BOTH = Query(
    "both",
    "Do both Linz and Graz have a castle?",
    ("yes",),
    (),
    {"supporting": ["p4", "p3"], "supporting_titles": ["Graz", "Linz"]},
)


def played(env, trace: traces.Trace) -> list:
    """What the environment makes of each of the trace's turns."""
    turns, moves = [], []
    for text in trace.turns:
        turns.append(Turn("model", text))
        moves.append(env(trace.query, turns))
        if isinstance(moves[-1], Search):
            found = bm25(corpus=CORPUS)(list(moves[-1].queries), 3)
            turns.append(Turn("env", "", moves[-1].queries, tuple(map(tuple, found))))
    return moves


def test_the_title_the_question_names_is_searched_first_and_then_what_each_passage_leads_to():
    (trace,) = made_traces.supporting_traces([CHAIN], bm25(corpus=CORPUS), write=search_r1_turn, k=2)
    assert trace.query is CHAIN
    assert played(search_r1, trace) == [
        Search(("Opus 7",)),
        Search(("Anna Weber",)),
        Search(("Linz",)),
        Stop("answered", "Danube"),
    ]
    assert all(turn.startswith("<think> ") for turn in trace.turns)


def test_a_tool_call_asks_for_what_the_question_names_at_once():
    chain, both = made_traces.supporting_traces(
        [CHAIN, BOTH], bm25(corpus=CORPUS), write=tool_call_turn, parallel=3, k=2
    )
    assert played(tool_call, both) == [Search(("Graz", "Linz")), Stop("answered", "yes")]
    assert [move.queries for move in played(tool_call, chain)[:-1]] == [("Opus 7",), ("Anna Weber",), ("Linz",)]


def test_the_question_s_words_are_added_where_a_title_alone_misses():
    search = bm25(corpus=[*CORPUS, Passage("p0", "Weber", "Weber Weber Weber")])
    vague = Query("v", "Which painter has it?", ("Karl",), (), {"supporting": ["p5"], "supporting_titles": ["Weber"]})
    (trace,) = made_traces.supporting_traces([vague], search, write=search_r1_turn, k=1)
    assert "<search> Weber painter </search>" in trace.turns[0]


def test_a_question_is_left_out_when_a_gold_passage_is_not_found_or_not_known(caplog):
    caplog.set_level("INFO")
    meta = dict(CHAIN.meta)
    out = [
        Query("lost", "Who?", ("x",), (), {"supporting": ["p9"], "supporting_titles": ["Linz"]}),
        Query("bare", "Who?", ("x",)),
        Query("weak", "Who?", ("x",), (), meta | {"supporting_is_weak": True}),
        Query("tags", "Who?", ("</answer><answer>y",), (), meta),
    ]
    assert [
        trace.query.id
        for trace in made_traces.supporting_traces([*out, CHAIN], bm25(corpus=CORPUS), write=search_r1_turn, k=2)
    ] == ["chain"]
    assert "1 of 5 questions kept" in caplog.text
    assert made_traces.supporting_traces([], bm25(corpus=CORPUS), write=search_r1_turn) == []


def test_two_passages_of_one_title_must_both_be_found_by_one_search():
    corpus = [*CORPUS, Passage("p6", "Linz", "Linz has trams.")]
    twice = Query("t", "Linz?", ("x",), (), {"supporting": ["p3", "p6"], "supporting_titles": ["Linz", "Linz"]})
    assert len(made_traces.supporting_traces([twice], bm25(corpus=corpus), write=search_r1_turn, k=2)[0].turns) == 2
    assert made_traces.supporting_traces([twice], bm25(corpus=corpus), write=search_r1_turn, k=1) == []


def test_traces_are_read_with_their_questions_and_bad_ones_are_named(tmp_path):
    path = tmp_path / "traces.jsonl"
    row = {
        "id": "a",
        "question": "Who?",
        "answers": ["Ada"],
        "turns": ["<search> x </search>", "<answer> Ada </answer>"],
    }
    path.write_text(json.dumps(row))
    assert traces.read_traces(path) == [traces.Trace(Query("a", "Who?", ("Ada",)), tuple(row["turns"]))]
    for wrong, words in (
        ({"turns": None}, "'turns' must be a text or a list"),
        ({"turns": []}, "'turns' is an empty list"),
    ):
        path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"id": "b"} | wrong))
        with pytest.raises(ValueError, match=f"traces.jsonl row 2: {words}"):
            traces.read_traces(path)
    path.write_text(json.dumps({name: value for name, value in row.items() if name != "turns"}))
    with pytest.raises(ValueError, match="row 1: has no 'turns'.*fields found: id, question, answers"):
        traces.read_traces(path)


def test_by_hand_how_far_a_text_names_a_title():
    assert made_traces.named("Opus 7 (Weber)", "who wrote Opus 7?") == 2.0
    assert made_traces.named("Anna Weber", "who is Weber, Anna?") == 1.0
    assert made_traces.named("Anna Weber", "Weber") == 0.5
    assert made_traces.plain("(500) Days of Summer") == "(500) Days of Summer"
    assert made_traces.content_words("Which city has the castle of Linz, the city?", "Linz") == "city castle"


def test_traces_that_the_environment_does_not_take_are_refused_before_anything_is_compiled():
    good = traces.Trace(CHAIN, (search_r1_turn("so", ["Opus 7"]), search_r1_turn("so", (), "Danube")))
    bad = traces.Trace(CHAIN, ("hello",))
    early = traces.Trace(CHAIN, (search_r1_turn("so", (), "Danube"), "more"))
    unfinished = traces.Trace(CHAIN, good.turns[:1])
    traces.check_played([bad, good], search_r1, search_r1_turn)
    for trace, says in ((bad, "no action in turn 1, 'hello'"), (early, "an end .answered. at turn 1 of 2"),
                        (unfinished, "no answer in its last turn")):  # fmt: skip
        with pytest.raises(
            ValueError, match=f"none of the 1 first traces: 'chain' has {says}; this .*<search> a query <"
        ):
            traces.check_played([trace], search_r1, search_r1_turn)


@pytest.mark.thorough
def test_most_real_hotpotqa_questions_give_a_trace(real_data):
    queries = readers.first(readers.read_queries(real_data / "dev" / "hotpotqa.questions.jsonl"), 200)
    corpus = readers.read_passages(real_data / "corpus" / "hotpotqa.corpus.jsonl.gz")
    search = bm25(corpus=corpus)
    kept = {
        "search_r1": made_traces.supporting_traces(queries, search, write=search_r1_turn),
        "tool_call": made_traces.supporting_traces(queries, search, write=tool_call_turn, parallel=3),
    }
    share = len(kept["search_r1"]) / len(queries)
    print(f"kept {len(kept['search_r1'])} of {len(queries)} hotpotqa questions ({share:.2f})")
    assert share > 0.85
    assert len(kept["tool_call"]) == len(kept["search_r1"])
    for trace in kept["search_r1"]:
        assert search_r1(trace.query, [Turn("model", trace.turns[-1])]).reason == "answered"
        for turn in trace.turns[:-1]:
            assert isinstance(search_r1(trace.query, [Turn("model", turn)]), Search)


def test_a_trace_of_the_world_is_rewritten_in_an_environment_s_own_words():
    turns = ("<think> x </think>\n<search> mayor b </search>", "<answer> a </answer>")
    trace = traces.Trace(Query("q", "who?", ("a",)), turns)
    assert traces.rewritten(trace, search_r1_turn) == trace
    call = '<tool_call>\n{"name": "search", "arguments": {"queries": ["mayor b"]}}\n</tool_call>'
    assert traces.rewritten(trace, tool_call_turn).turns == (f"<think>\nx\n</think>\n\n{call}", "<answer> a </answer>")


def test_an_expert_of_the_world_searches_at_once_what_needs_nothing_of_each_other():
    meta = {"kind": "intersection"}
    turns = ("<search> mayor x </search>", "<search> home y z </search>", "<answer> a </answer>")
    both = traces.rewritten(traces.Trace(Query("1", "?", ("a",), (), meta), turns), tool_call_turn, 3)
    call = '<tool_call>\n{"name": "search", "arguments": {"queries": ["mayor x", "home y z"]}}\n</tool_call>'
    assert both.turns == (call, "<answer> a </answer>")
    words = traces.spaced(call)
    assert words == call.replace('["mayor x", "home y z"]', '[" mayor x ", " home y z "]')
    assert set(words.split()) == {*VOCABULARY, "mayor", "x", "home", "y", "z"}
    for said in (call, words):
        assert tool_call(both.query, [Turn("model", said)]) == Search(("mayor x", "home y z"))
    chain = traces.Trace(Query("1", "?", ("a",), (), {"kind": "chain"}), turns)
    assert len(traces.rewritten(chain, tool_call_turn, 3).turns) == 3
    assert traces.rewritten(traces.Trace(both.query, turns), search_r1_turn).turns == turns  # one a turn


def test_one_search_a_turn_keeps_the_order_in_which_titles_are_found():
    hops = [made_traces.Hop("Graz", frozenset("1")), made_traces.Hop("Linz", frozenset("2"))]
    assert made_traces.grouped("is Linz large?", hops, 1) == [[hops[0]], [hops[1]]]
    assert made_traces.grouped("is Linz large?", hops, 3) == [[hops[1]], [hops[0]]]
    apart = made_traces.Hop("Anna Weber", frozenset("3"))  # its words stand in the question, and not in a row
    assert made_traces.grouped("is Linz where Weber met Anna?", [apart, hops[1]], 3) == [[hops[1]], [apart]]


def test_a_question_whose_answer_is_found_by_itself_makes_a_trace_of_one_search():
    search = bm25(corpus=CORPUS)
    asked = Query("a", "Where was the composer Anna Weber born?", ("Vienna", "linz", "born in Linz"))
    part = Query("b", "Who was the painter Karl Weber, and what did he do?", ("paint",))  # within a word alone
    tag = Query("c", "Was <b> Anna Weber a composer?", ("composer",))
    tagged = Query("d", "What was Anna Weber?", ("<composer>", "composer"))
    (one, other) = made_traces.retrieved_traces([asked, part, tag, tagged], search, write=search_r1_turn, k=2)
    assert played(search_r1, one) == [Search((asked.question,)), Stop("answered", "linz")]
    assert played(search_r1, other) == [Search((tagged.question,)), Stop("answered", "composer")]
    assert made_traces.retrieved_traces([], search, write=search_r1_turn, k=2) == []
    made_traces.check_retrieved([asked], search, write=search_r1_turn, k=2)
    with pytest.raises(ValueError, match="of the first 2 none does; raise rollout.search_k"):
        made_traces.check_retrieved([part, tag], search, write=search_r1_turn, k=2)


@pytest.mark.parametrize(
    ("title", "gold", "same"),
    [
        ("Beyoncé", "Beyonce\u0301", True),
        ("서울", "\u1109\u1165\u110b\u116e\u11af", True),
        ("की", "का", False),  # Hindi's vowel signs were left out
        ("C++", "C#", False),
        ("C", "C++", False),
        ("GTK", "GTK+", False),
        ("Prelude in B", "Prelude in B♭", False),
        ("Prelude in F# minor", "Prelude in F♯ minor", True),
        ("!!!", "???", False),
        ("anna weber", "Anna Weber", True),
    ],
)
def test_a_gold_title_is_the_passage_s_in_every_unicode_form_and_no_other(title, gold, same):
    passage, hop = Passage("1", title, "a text"), made_traces.Hop(gold, frozenset())
    assert hop.is_found([passage]) == same
    query = Query("q", "Which?", ("x",), (), {"supporting_titles": [gold]})
    assert made_traces.with_titles([query], [passage])[1] == (frozenset() if same else {gold})


def test_a_title_of_a_script_without_blanks_is_named_inside_a_sentence():
    assert made_traces.named("北京", "北京是哪个国家的首都") == 2.0 and made_traces.named("北京", "东京和南京") == 0.5


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("no", "The bridge has no fewer than nine arches."),
        ("Yes.", "He said yes to it."),
        ("true", "It is true."),
        ("2", "The second world war, World War 2, ended."),
        ("C", "Vitamin C is sour."),
        ("19", "It was in 1982, on 1900 islands."),  # within a number alone
        ("none", "None of the arches fell."),
        ("not", "It did not fall."),
        ("Both", "Both banks are steep."),
        ("neither of them", "He liked neither of them."),
        ("No answer", "There was no answer."),
        ("N/A", "Its height is N/A, or n/a."),
        ("It", "It stands in Graz."),
        ("The Who", "Nobody knows who built it."),
        ("US", "The builders told us so."),
        ("IT", "It stands, and it holds."),
        ("U.S.", "It helped us."),
        ("AIDS", "The bridge aids the traders."),
    ],
)
def test_an_answer_that_stands_in_any_passage_makes_no_trace(answer, text):
    search = bm25(corpus=[Passage("1", "The bridge", text)])
    query = Query("q", "The bridge, the world war and vitamin: he said islands?", (answer,))
    assert made_traces.retrieved_traces([query], search, write=search_r1_turn, k=2) == []
    with pytest.raises(ValueError, match="whose answer .no yes or no, function word or single character. stands in"):
        made_traces.check_retrieved([query], search, write=search_r1_turn, k=2)
    both = Query("q", query.question, (answer, "bridge"))
    (trace,) = made_traces.retrieved_traces([both], search, write=search_r1_turn, k=2)
    assert "<answer> bridge </answer>" in trace.turns[-1], "another accepted answer still makes one"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("US", "It crossed to the US in June."),
        ("US", "Troops of the U.S. crossed it."),
        ("U.S.A.", "It is in the USA."),
        ("IT", "It houses an IT school."),
        ("AIDS", "The bridge carries an AIDS memorial."),
        ("AIDS", "the bridge carries an aids memorial"),  # a corpus without capitals
        ("GRAZ", "The bridge stands in Graz."),
        ("graz", "The bridge stands in Graz."),
    ],
)
def test_an_acronym_proves_something_in_its_capitals(answer, text):
    query = Query("q", text, (answer,))
    (trace,) = made_traces.retrieved_traces([query], bm25(corpus=[Passage("1", "", text)]), write=search_r1_turn, k=1)
    assert f"<answer> {answer} </answer>" in trace.turns[-1]


def test_an_answer_in_a_sentence_without_blanks_makes_a_trace():
    search = bm25(corpus=[Passage("1", "", "中国的首都是北京")])
    query = Query("q", "中国的首都在哪里", ("北京",))
    assert len(made_traces.retrieved_traces([query], search, write=search_r1_turn, k=2)) == 1
