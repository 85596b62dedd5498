"""BM25 over a small corpus: the right order, exact ties, and an index that is whole or not used."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qr_jax import plugins
from qr_jax.records import Passage
from qr_jax.retrievers.none import none
from qr_jax.search.retrievers.bm25 import best, bm25
from qr_jax.settings.settings import Use

CORPUS = [
    Passage("b", "Dune", "A novel by Frank Herbert."),
    Passage("a", "Dune", "A novel by Frank Herbert."),
    Passage("c", "Vitamin C", "Oranges hold vitamin C; so does cabbage."),
    Passage("d", "Vitamin D", "Made in the skin's upper layers."),
    Passage("e", "東京", "日本 の 首都"),
]


def ids(results):
    return [[passage.id for passage in found] for found in results]


@pytest.fixture(scope="module")
def search():
    return bm25(corpus=CORPUS)


def test_equal_scores_go_by_id(search):
    (found,) = search(["frank herbert dune"], 2)
    assert [one.id for one in found] == ["a", "b"] and found[0].score == found[1].score
    assert ids(search(["frank herbert dune"], 1)) == [["a"]]


def test_scores_are_lucenes_by_hand():
    found = bm25(corpus=[Passage("x", "", "cat cat dog"), Passage("y", "", "dog")])(["cat"], 5)
    # idf = ln(1 + (2 - 1 + .5) / (1 + .5)) = ln 2; tf part = 2 / (2 + 1.5 * (.25 + .75 * 3 / 2)) = 2 / 4.0625
    assert ids(found) == [["x"]] and found[0][0].score == pytest.approx(math.log(2) * 2 / 4.0625, rel=1e-6)
    assert type(found[0][0].score) is float


def test_a_batch_is_answered_query_by_query(search):
    results = search(["vitamin", "", "the of", "unheard-of zebra", "東京", "VITAMIN c"], 10)
    assert ids(results) == [["c", "d"], [], [], [], ["e"], ["c", "d"]]
    assert search([], 3) == [] and ids(search(["vitamin"], 0)) == [[]]


WORLD = {
    "zh": (["中国的首都是北京", "法国的首都是巴黎", "猫喜欢吃鱼"], ["北京是哪个国家的首都", "巴黎在哪里", "猫"]),
    "ja": (["日本の首都は東京である", "フランスの首都はパリである", "猫は魚が好きだ"], ["東京はどこ", "パリ", "魚"]),
    "th": (["กรุงเทพเป็นเมืองหลวง", "ปารีสเป็นเมืองหลวง", "แมวชอบกินปลา"], ["กรุงเทพอยู่ที่ไหน", "ปารีส", "ปลา"]),
    "lo": (["ວຽງຈັນເປັນເມືອງຫຼວງ", "ປາຣີເປັນເມືອງຫຼວງ", "ແມວມັກກິນປາ"], ["ວຽງຈັນຢູ່ໃສ", "ປາຣີ", "ແມວ"]),
    # where the vowels' marks alone differ
    "km": (["ភាសាកាភាសា", "ភាសាកិភាសា", "ភាសាកុភាសា"], ["កា", "កិ", "កុ"]),
    "my": (["ဘာသာကာဘာသာ", "ဘာသာကိဘာသာ", "ဘာသာကုဘာသာ"], ["ကာ", "ကိ", "ကု"]),
    "hi": (["की पुस्तक", "का पुस्तक", "के पुस्तक"], ["की", "का", "के"]),
}


@pytest.mark.parametrize("language", WORLD)
def test_passages_of_other_scripts_are_found(language):
    """Without blanks nothing was found at all; Hindi's words were one where their vowel signs alone differ."""
    texts, queries = WORLD[language]
    found = bm25(corpus=[Passage(str(at), "", text) for at, text in enumerate(texts)])(queries, 1)
    assert ids(found) == [["0"], ["1"], ["2"]]


def test_c_and_its_namesakes_are_told_apart():
    names = ("C++", "C#", "C")
    search = bm25(corpus=[Passage(name, name, "a programming language") for name in names])
    assert ids(search(["the C++ language", "What is C#?", "written in C."], 1)) == [["C++"], ["C#"], ["C"]]
    assert ids(search(["C"], 3)) == [["C"]]


@pytest.mark.parametrize(
    "names",
    [
        ("libc++", "libc"),
        ("GTK+", "GTK"),
        ("Notepad++", "Notepad"),
        ("F♯", "F"),
        ("B♭", "B"),
        ("Q#", "Q"),
        ("LGBT+", "LGBT"),
    ],
)
def test_names_that_end_in_signs_are_told_from_those_that_do_not(names):
    search = bm25(corpus=[Passage(name, name, "a name") for name in names])
    assert ids(search([f"What is {name}?" for name in names], 2)) == [[name] for name in names]


def test_a_sharp_is_found_by_either_sign():
    search = bm25(corpus=[Passage("1", "Nocturne in C♯ minor", ""), Passage("2", "Nocturne in C minor", "")])
    assert ids(search(["C# minor", "C♯ minor", "C minor"], 1)) == [["1"], ["1"], ["2"]]


def test_single_letters_are_words_but_not_after_an_apostrophe(search):
    assert ids(search(["c"], 3)) == [["c"]]
    assert ids(search(["s"], 3)) == [[]]


@given(st.lists(st.text(), max_size=4), st.integers(0, 9))
def test_no_query_raises(search, queries, k):
    results = search(queries, k)
    assert len(results) == len(queries) and all(len(found) <= k for found in results)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=30), st.integers(0, 35), st.randoms())
def test_the_best_are_those_of_a_full_sort(scores, k, random):
    order = list(range(len(scores)))
    random.shuffle(order)
    expected = sorted((place for place, score in enumerate(scores) if score > 0), key=lambda p: (-scores[p], order[p]))
    assert best(np.array(scores, np.float32), np.array(order), k).tolist() == expected[:k]


def test_bad_input_is_refused():
    for corpus in ([], [CORPUS[0], CORPUS[0]], [Passage("x", "", "the !!")]):
        with pytest.raises(ValueError, match="found no passage|'b' more than once|none of the 1 passages"):
            bm25(corpus=corpus)
    for wrong, says in (({"method": "bm25l"}, "method is 'bm25l'"), ({"k1": -1.0}, "k1 is -1"), ({"b": 2.0}, "b is 2")):
        with pytest.raises(ValueError, match=says):
            plugins.bind("retriever", Use("bm25", wrong))


def test_importing_host_code_of_searches_starts_neither_jax_nor_bm25s():
    names = "search.retrievers.bm25, retrievers.none, envs.search_r1, methods.envs.tool_call, rewards.f1, rollout.tools"
    imports = "; ".join(f"import qr_jax.{name}" for name in names.split(", "))
    check = "import sys; assert not {'jax', 'bm25s'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", f"{imports}; {check}"], check=True, timeout=60)


def test_none_finds_nothing():
    assert none()(["dune", ""], 3) == [[], []]
