"""Searches of a rollout: a failing retriever gives faults, never exceptions; budgets cut passages, never tags."""

import threading
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qr_jax import plugins
from qr_jax.data import characters
from qr_jax.envs.search_r1 import search_r1
from qr_jax.interfaces import CONTRACTS
from qr_jax.methods.envs.tool_call import tool_call
from qr_jax.records import Passage, Query, Say, Stop, Turn
from qr_jax.rollout import tools
from qr_jax.rollout.tools import Fault, fit_observation, run_searches

QUERY = Query("q", "?", ("a",))


def passage(name: str, words: int = 3) -> Passage:
    return Passage(name, name.upper(), " ".join(f"{name}{i}" for i in range(words)), 1.0)


def answer(queries, k):
    return [[passage(query)] * 5 for query in queries]


def run(search, queries, **settings):
    """As a run's, whose results are checked."""
    return run_searches(
        plugins.checked("retriever", "mine", search, CONTRACTS["retriever"].made),
        queries,
        2,
        **{"deadline_s": 5.0, "retries": 2, "passage_chars": 1000, "sleep": lambda s: None} | settings,
    )


def test_one_call_for_all_and_duplicates_once():
    asked = []
    done = run(lambda queries, k: asked.append(list(queries)) or answer(queries, k), ["b", "a", "b"])
    assert asked == [["b", "a"]]
    assert done.by_query == {"b": (passage("b"),) * 2, "a": (passage("a"),) * 2}  # at most k each
    assert (done.asked, done.unique, done.failed, done.calls) == (3, 2, 0, 1)
    assert run(answer, []).by_query == {}


def test_what_a_plug_in_of_the_user_raised_is_told_with_its_name_and_line():
    search = plugins.checked("tool", "mine.weigh", lambda queries, k: {}["val"], CONTRACTS["tool"])
    reason = run_searches(search, ["a"], 2, deadline_s=5.0, retries=0, passage_chars=9).by_query["a"].reason
    assert reason.startswith("KeyError: 'val'; raised by tool 'mine.weigh'; test_tools.py, line ")


def test_one_bad_query_does_not_fault_the_rest():
    def search(queries, k):
        if "bad" in queries:
            raise ConnectionError("no route")
        return answer(queries, k)

    done = run(search, ["a", "bad", "b"])
    assert done.by_query["a"] == (passage("a"),) * 2 and done.by_query["b"] == (passage("b"),) * 2
    assert done.by_query["bad"] == Fault("ConnectionError: no route")
    assert (done.failed, done.calls) == (1, 1 + 3 + 1)


def test_a_passing_failure_is_retried_after_growing_pauses_with_jitter():
    pauses, calls = [], []

    def search(queries, k):
        calls.append(queries)
        if len(calls) < 3:
            raise TimeoutError
        return answer(queries, k)

    done = run(search, ["a"], sleep=pauses.append)
    assert done.failed == 0 and done.calls == 3
    assert 0.05 <= pauses[0] <= 0.1 <= pauses[1] <= 0.2


@pytest.mark.parametrize(
    "results",
    [
        None,
        "garbage",
        {},
        [],
        [[], []],
        [None],
        ["text"],
        [[None]],
        [[{"id": "1", "contents": "x"}]],
        [[Passage("a", "t", None)]],
        [[Passage("a", "t", "x", float("nan"))]],
        [[Passage("a" * 4001, "t", "x", 1.0)]],
        [[Passage("a", "t", "x", "high")]],
    ],
)
def test_garbage_is_a_fault(results):
    done = run(lambda queries, k: results, ["a"], retries=0)
    assert isinstance(done.by_query["a"], Fault) and done.failed == 1


def test_nothing_found_is_no_fault():
    assert run(lambda queries, k: [[]], ["a"]).by_query == {"a": ()}


def test_lone_surrogates_of_a_passage_are_replaced():
    done = run(lambda queries, k: [[Passage("a", "\ud800", "x", 1)]], ["a"])
    assert done.by_query["a"] == (Passage("a", "?", "x", 1),)


def test_a_hanging_retriever_is_a_fault_at_the_deadline():
    release = threading.Event()
    done = run(lambda queries, k: release.wait(20), ["a", "b"], deadline_s=0.05)
    release.set()
    assert done.wall_s < 5 and done.calls == 1
    assert all("no result" in value.reason for value in done.by_query.values() if isinstance(value, Fault))
    assert done.failed == 2


def test_a_retriever_that_exits_is_a_fault():
    def search(queries, k):
        raise SystemExit

    assert run(search, ["a"], retries=0).by_query["a"] == Fault(
        "retriever 'mine' called sys.exit(None); wanted a result, or an error", wrong=True
    )


def test_a_retriever_that_changes_its_list_of_queries_is_a_fault_that_says_so():
    def search(queries, k):
        queries.clear()
        return []

    fault = run(search, ["a", "b"], retries=0).by_query["a"]
    told = "the retriever returned 0 lists of passages for 2 queries; does it change the list of queries?"
    assert fault == Fault(told, wrong=True)


def searched(*found: tuple[Passage, ...]) -> list[Turn]:
    queries = tuple(f"q{i}" for i in range(len(found)))
    call = '<tool_call>{"name": "search", "arguments": {"queries": ["q0", "q1"]}}</tool_call>'
    return [Turn("model", call), Turn("env", "", queries, found)]


def words(text: str) -> int:
    return len(text.split())


plain = partial(search_r1, passage="{text} ", information="<information> {passages} </information>", last="")


def test_an_observation_that_fits_is_left_alone():
    turns = searched((passage("a"), passage("b")))
    move, cut = fit_observation(plain, QUERY, turns, words, 8)
    assert isinstance(move, Say) and cut == tuple(turns)
    assert move.text == "<information> a0 a1 a2 b0 b1 b2 </information>"


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (7, "a0 a1 a2 b0 b1"),
        (6, "a0 a1 a2 b0"),
        (5, "a0 a1 a2"),
        (4, "a0 a1"),
        (3, "a0"),
        (2, ""),
        (0, ""),
    ],
)
def test_the_last_passage_is_cut_first_by_words_and_tags_stay(budget, text):
    move, cut = fit_observation(plain, QUERY, searched((passage("a"), passage("b"))), words, budget)
    assert isinstance(move, Say) and move.text.split() == ["<information>", *text.split(), "</information>"]
    assert " ".join(one.text for one in cut[-1].passages[0]) == text


def test_the_lowest_ranks_of_all_queries_go_before_any_first_one():
    turns = searched((passage("a"), passage("b")), (passage("c"), passage("d")))
    env = partial(tool_call, results="{passages} ", passage="{text} ", nothing="")
    _, cut = fit_observation(env, QUERY, turns, words, 8)
    assert [[one.id for one in found] for found in cut[-1].passages] == [["a", "b"], ["c"]]
    assert cut[-1].passages[0][1].text == "b0 b1"
    assert cut[0] == turns[0] and cut[-1].queries == ("q0", "q1")


def test_a_move_that_says_nothing_comes_back_as_it_is():
    turns = searched((passage("a"),))
    assert fit_observation(lambda query, turns: Stop("turns"), QUERY, turns, words, 0) == (Stop("turns"), tuple(turns))


@pytest.mark.parametrize("text", ["word " * 1_000_000, "w" * 5_000_000, "<search>" * 600_000, "é" * 5_000_000])
def test_a_passage_of_megabytes_costs_what_is_kept_of_it(text):
    done = run(lambda queries, k: [[Passage("1", "T", text)]], ["a"], passage_chars=20_000)
    (kept,) = done.by_query["a"]
    assert done.cut == 1 and len(kept.title) + len(kept.text) == 20_000 and text.startswith(kept.text)
    encoded = []
    env = partial(search_r1, information="<information> {passages} </information>", passage="{title} {text} ")
    move, _ = fit_observation(env, QUERY, searched((kept,)), lambda said: encoded.append(said) or words(said), 500)
    assert isinstance(move, Say) and words(move.text) <= 500
    assert sum(map(len, encoded)) <= 20 * 20_000


def test_words_that_cannot_fit_are_left_out_before_anything_is_encoded():
    """The text of all 100,000 words is asked for neither whole nor in halves of it: a token holds at most 4 words."""
    encoded, text = [], " ".join(f"w{number}" for number in range(100_000))
    turns = searched((Passage("1", "", text),))
    move, _ = fit_observation(plain, QUERY, turns, lambda said: encoded.append(words(said)) or words(said), 50)
    assert isinstance(move, Say) and words(move.text) == 50
    assert max(encoded) <= 4 * 50 + 2  # the tags


def test_a_passage_that_is_short_enough_is_the_retriever_s_own():
    done = run(answer, ["a"], passage_chars=9)  # A a0 a1 a2: one character and eight
    assert done.cut == 0 and done.by_query["a"] == (passage("a"),) * 2
    assert run(answer, ["a"], passage_chars=8).by_query["a"][0].text == "a0 a1"


CHINESE = "北京是中华人民共和国的首都也是全国的政治中心文化中心和国际交往中心" * 32


def signs(text: str) -> int:
    """A token for each character of Chinese, Thai and the like, one for each four of others."""
    return -(-sum(4 if sign > "\u0900" else 1 for sign in text) // 4)


def shown(*found, budget, env=tool_call):
    move, kept = fit_observation(env, QUERY, searched(*found), signs, budget)
    assert isinstance(move, Say) and signs(move.text) <= budget
    return move.text, [[one.text for one in row] for row in kept[-1].passages], kept


@pytest.mark.parametrize(
    "text",
    [
        CHINESE,
        "เมืองหลวงของประเทศไทยคือกรุงเทพมหานคร" * 30,  # Thai
        "https://example.org/" + "a1-b2_c3" * 400,
        "北京是中华人民共和国的首都 " + CHINESE,  # a blank now and then
    ],
)
def test_of_a_passage_without_blanks_as_many_characters_stay_as_fit(text):
    """1,040 Chinese characters were dropped whole at a budget of 200, and the model was told that nothing was found."""
    said, ((kept,),), _ = shown((Passage("1", "首都", text),), budget=200)
    assert "Nothing." not in said and text.startswith(kept) and len(kept) >= 150
    longer = tool_call(QUERY, searched((Passage("1", "首都", text[: len(kept) + 8]),)))
    assert isinstance(longer, Say) and signs(longer.text) > 200, "more would have fitted"


def test_a_title_over_the_budget_is_cut_and_not_dropped_with_its_passage():
    title = "T" * 2000
    said, _, kept = shown((Passage("1", title, "a text"),), budget=100)
    (passage,) = kept[-1].passages[0]
    assert "Nothing." not in said and title.startswith(passage.title) and len(passage.title) > 250
    said, _, kept = shown((Passage("1", "many words " * 300, "a text"),), budget=100)
    assert kept[-1].passages[0][0].title.endswith(("many", "words"))


TITLES = ["T" * 2000, "many words " * 300, "首" * 1000, "เมือง" * 400, "a" * 130 + " long title"]


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("text", ["Ada was born in Oslo. " * 200, CHINESE, "Oslo, where Ada was born"])
def test_a_title_over_the_budget_leaves_its_text_room(title, text):
    """The text was dropped altogether: the model was shown half a title, and nothing of what it is about."""
    said, _, kept = shown((Passage("1", title, text),), budget=100)
    ((passage,),) = kept[-1].passages
    by_search = tools.shortened(Passage("1", title, text), 140)
    for cut in (passage, by_search):
        assert title.startswith(cut.title) and len(cut.title) >= 20
        assert text.startswith(cut.text) and len(cut.text) >= 20
        for part, whole in ((cut.title, title), (cut.text, text)):
            is_at_word = part == whole or whole[len(part)] == " " or " " not in whole[:200]
            assert is_at_word or whole[:130] == "a" * 130, "the cut falls behind a word"
    assert len(by_search.title + by_search.text) <= 140


def test_a_title_that_fits_stays_whole_beside_its_text():
    title = "The Bridge of Graz"
    _, _, kept = shown((Passage("1", title, "It was built in stone. " * 100),), budget=50)
    ((passage,),) = kept[-1].passages
    assert passage.title == title and passage.text.endswith(("It", "was", "built", "in", "stone."))
    passage = tools.shortened(Passage("1", title, "It was built in stone. " * 100), 50)
    assert passage == Passage("1", title, "It was built in stone. It was")


def test_a_lower_passage_with_a_title_over_the_budget_is_cut_too():
    _, _, kept = shown((Passage("1", "A", "short"), Passage("2", "首" * 1000, "b")), budget=200)
    first, second = kept[-1].passages[0]
    assert first.text == "short" and 128 <= len(second.title) < 200


def test_no_query_that_found_something_is_told_nothing():
    """The passage of the second query went whole before the first's lost a word."""
    found = [(Passage(name, "", f"{name} " * 500),) for name in ("a", "b")]
    said, kept, _ = shown(*found, budget=60)
    assert "Nothing." not in said and all(row and row[0] for row in kept)
    assert abs(len(kept[0][0]) - len(kept[1][0])) <= 2, "both are cut to one length"
    said, _, _ = shown((Passage("a", "T" * 900, ""),), (Passage("b", "", CHINESE),), budget=60)
    assert "Nothing." not in said


@pytest.mark.parametrize("text", ["e\u0301" * 600, "हिन्दी" * 300, "\u1100\u1161\u11a8" * 300, "👩\u200d🔬" * 300])
def test_no_character_is_cut_from_its_marks(text):
    for budget in range(60, 70):
        _, ((kept,),), _ = shown((Passage("1", "", text),), budget=budget)
        rest = text[len(kept) :]
        assert rest and not characters.is_mark(rest[0]) and kept[-1] != "\u200d"
    for chars in range(40, 50):
        kept = tools.shortened(Passage("1", "", text), chars).text
        assert not characters.is_mark(text[len(kept)]) and kept[-1] != "\u200d"


def test_a_passage_that_was_cut_or_left_out_counts():
    found = (Passage("1", "A", CHINESE), Passage("2", "B", "left out"))
    _, _, kept = shown(found, budget=100)
    assert tools.count_cut(searched(found)[-1], kept[-1]) == 2
    turns = searched((passage("a"), passage("b")))
    _, same = fit_observation(plain, QUERY, turns, words, 8)
    assert tools.count_cut(turns[-1], same[-1]) == 0
    _, less = fit_observation(plain, QUERY, turns, words, 7)
    assert tools.count_cut(turns[-1], less[-1]) == 1


def test_a_budget_for_no_character_shows_the_environment_s_own_words():
    move, kept = fit_observation(tool_call, QUERY, searched((Passage("1", "", CHINESE),)), signs, 1)
    assert isinstance(move, Say) and "Nothing." in move.text and kept[-1].passages == ((),)


@given(st.lists(st.lists(st.integers(0, 6), max_size=3), min_size=1, max_size=3), st.integers(0, 60))
def test_what_is_kept_is_within_the_budget_and_near_it(sizes, budget):
    found = tuple(tuple(passage(f"p{i}{j}", size) for j, size in enumerate(row)) for i, row in enumerate(sizes))
    env = partial(tool_call, nothing="", results="{passages} ")
    bare = env(QUERY, searched(*(() for _ in found)))
    whole = env(QUERY, searched(*found))
    move, cut = fit_observation(env, QUERY, searched(*found), words, budget)
    assert isinstance(move, Say) and isinstance(bare, Say) and isinstance(whole, Say)
    assert words(move.text) <= max(budget, words(bare.text))
    kept = [one for row in cut[-1].passages for one in row]
    if words(whole.text) <= budget:
        assert cut[-1].passages == found
    elif budget >= words(bare.text) and kept:
        assert words(move.text) >= budget - 6  # the next passage's first word comes with 3 words of its title
