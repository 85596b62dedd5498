"""Answers are scored as SQuAD, HotpotQA and Search-R1 score them, and nothing scores that is no answer."""

import string
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qr_jax import answers
from qr_jax.methods.rewards.cover_match import cover_match
from qr_jax.methods.rewards.e_grpo import e_grpo
from qr_jax.methods.rewards.overlong import overlong
from qr_jax.records import Episode, Query, Turn
from qr_jax.rewards.exact_match import exact_match
from qr_jax.rewards.f1 import f1
from qr_jax.settings.settings import Use

REWARDS = (exact_match, f1, cover_match)
SCORES = (answers.exact_match, answers.f1, answers.cover_match)


def episode(query: Query, answer: str | None) -> Episode:
    none = np.zeros(0)
    return Episode(query, 0, 0, none, none, none, none, (), answer, "answered" if answer else "turns", True)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel-Tower, Paris!", "eiffeltower paris"),
        ("a an the", ""),
        ("Theatre of the Absurd", "theatre of absurd"),
        ("U.S.A.", "usa"),
        ("東京", "東京"),
        (" \n", ""),
    ],
)
def test_normalisation_by_hand(text, normal):
    assert answers.normalise(text) == normal


def test_exact_match_by_hand():
    assert answers.exact_match("the Beatles.", ["Rolling Stones", "Beatles"]) == 1
    assert answers.exact_match("Beatles band", ["Beatles"]) == 0
    assert answers.exact_match("東京", ["東京"]) == 1


def test_f1_by_hand():
    assert answers.f1("the cat sat", ["cat sat down"]) == pytest.approx(0.8)  # precision 2/2, recall 2/3
    assert answers.f1("cat cat", ["cat"]) == pytest.approx(2 / 3)  # a word counts as often as the gold has it
    assert answers.f1("cat", ["dog", "cat sat"]) == pytest.approx(2 / 3)  # the best gold
    assert answers.f1("cat", ["dog"]) == 0
    assert answers.f1("cat", []) == 0


def test_f1_of_yes_and_no_counts_only_equality():
    assert answers.f1("yes", ["Yes."]) == 1
    assert answers.f1("yes it is", ["yes"]) == pytest.approx(0.0)
    assert answers.f1("no", ["no way"]) == 0
    assert answers.f1("noanswer", ["noanswer given"]) == 0


def test_cover_match_by_hand():
    assert answers.cover_match("It is Paris, France", ["paris"]) == 1
    assert answers.cover_match("party", ["art"]) == 1  # a substring, as in Search-R1, not a word
    assert answers.cover_match("Par", ["Paris"]) == 0


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("2", ("2", "the 2."), ("in 1982", "1, 2 or 3", "12")),
        ("no", ("No.",), ("no idea", "I know", "yes or no")),
        ("US", ("us", "the US", "in the U.S. of then"), ("he told us", "Austria", "USA")),
        ("art", ("art", "modern art"), ("party",)),
        ("19", ("19", "in 19 BC"), ("1982",)),
        ("none", ("None",), ("none of these", "second to none")),
        ("京", ("京",), ("北京",)),
        ("北京", ("北京", "中国的北京市"), ("北的京",)),
        ("É", ("e\u0301",), ("café",)),
    ],
)
def test_cover_match_as_a_reward_is_not_earned_by_a_short_gold_in_other_words(gold, right, wrong):
    """A policy that writes "1982" wherever it knows nothing would be right by the metric wherever the gold is 2."""
    query = Query("q", "?", (gold,))
    scores = cover_match(query, [episode(query, answer) for answer in (*right, *wrong)])
    assert scores.tolist() == [1] * len(right) + [0] * len(wrong)
    assert answers.cover_match("in 1982", ["2"]) == 1, "the metric stays Search-R1's"


def test_canonically_equal_texts_score_alike_and_what_is_normalised_stays():
    """Every character that takes apart, in capitals and small, whole and with a sign before its marks."""
    wrong = []
    for whole in map(chr, range(0x110000)):
        apart = unicodedata.normalize("NFD", whole)
        if apart == whole and not unicodedata.combining(whole):
            continue
        forms = {whole, apart, unicodedata.normalize("NFC", whole)}
        alike = {answers.normalise(f"x{form}x") for form in forms}
        wrong += [whole] * (len(alike) > 1)
        for form in (*forms, apart.upper(), apart.lower(), apart[0] + "-" + apart[1:], f"e-{apart[-1]}"):
            once = answers.normalise(form)
            wrong += [form] * (answers.normalise(once) != once or unicodedata.normalize("NFC", once) != once)
    assert wrong == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("H\u0331", "\u1e96"),
        ("J\u030c", "\u01f0"),
        ("W\u030a", "\u1e98"),
        ("e-\u0301", "\u00e9"),
        ("o.\u0308", "Ö"),
        ("\u212b", "A\u030a"),
    ],
)
def test_a_small_letter_s_composed_form_is_its_capital_s_with_the_mark(one, other):
    assert answers.normalise(one) == answers.normalise(other) and answers.exact_match(one, [other]) == 1


@given(st.text(), st.text(alphabet="aAeEjJ-.' \u0301\u030c\u0331\u0345Σσς"))
def test_normalising_twice_is_normalising_once(text, marked):
    for one in (text, marked, text + marked):
        once = answers.normalise(one)
        assert answers.normalise(once) == once == answers.normalise(unicodedata.normalize("NFD", one))


@pytest.mark.parametrize("score", SCORES)
@given(st.text(alphabet=string.punctuation + " \n\t") | st.sampled_from(["the", "a the", "An", ""]), st.text())
def test_an_answer_of_nothing_never_scores(score, nothing, gold):
    assert score(nothing, [gold]) == 0
    assert score(None, [gold]) == 0
    assert score(gold, [nothing]) == 0


@given(st.text(), st.lists(st.text(), max_size=3))
def test_scores_lie_in_order_and_in_range(answer, golds):
    exact, overlap, cover = (score(answer, golds) for score in SCORES)
    assert 0 <= exact <= overlap <= 1
    assert exact <= cover <= 1


@pytest.mark.parametrize("reward", REWARDS)
def test_a_reward_is_one_float32_an_episode(reward):
    query = Query("q", "Capital of France?", ("Paris", "City of Light"))
    scores = reward(query, [episode(query, answer) for answer in ("paris", "Rome", None, "")])
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, [1, 0, 0, 0])


@pytest.mark.parametrize("golds", [("the",), ("Paris", "!?"), ("",), ()])
def test_a_gold_of_nothing_is_refused_with_the_query_named(golds):
    with pytest.raises(ValueError, match="'hotpot-7'"):
        answers.check_answers(Query("hotpot-7", "?", golds))


def test_a_good_query_passes_the_check():
    answers.check_answers(Query("q", "?", ("東京", "Tokyo", "4")))


def searched(query: Query, answer: str | None, *turns: str) -> Episode:
    said = tuple(Turn("model", text) for text in turns)
    turn_L = np.arange(len(turns))
    return replace(episode(query, answer), turns=said, turn_L=turn_L)


def test_e_grpo_pays_a_wrong_answer_for_the_entities_it_named_beside_the_groups_best():
    query = Query("q", "?", ("Lyon",), ("Ann Bell", "Bo Corp"))
    group = [
        searched(query, "Lyon", "search ann bell", "answer"),
        searched(query, "Nice", "search Ann Bell", "who runs bo corp", "answer Ann Bell"),
        searched(query, "Nice", "ann bell and Ann Bell"),
        searched(query, None, "search annbell bo corporation"),
    ]
    scores = e_grpo(query, group)
    np.testing.assert_allclose(scores.score_G, [1, 0.3, 0.15, 0])
    assert scores.outcome_G.tolist() == [1, 0, 0, 0]
    assert [np.round(row, 3).tolist() for row in scores.turn_GT] == [[0.15, 0.85], [0.15, 0.15, 0], [0.15], [0]]
    np.testing.assert_array_equal(e_grpo(query, group, alpha=0.0).score_G, exact_match(query, group))
    group[1] = replace(group[1], valid=False)  # a fault is nobody's measure
    np.testing.assert_allclose(e_grpo(query, group).score_G[[0, 2, 3]], [1, 0.3, 0])
    none = Query("q", "?", ("Lyon",))
    assert e_grpo(none, [searched(none, "Nice", "Ann Bell")]).score_G.tolist() == [0]


def test_overlong_prices_the_last_tokens_before_the_limit_by_hand():
    """Of at most 8 sampled tokens the last 4 cost: 4, 6, 8 and 9 tokens pay 0, a half, all and all of the factor."""
    query = Query("q", "Where?", ("Oslo",))
    episodes = [
        replace(episode(query, answer), mask_L=np.ones(tokens, bool))
        for answer, tokens in (("Oslo", 4), ("Oslo", 6), ("Bergen", 8), ("Oslo", 9))
    ]
    limits = {"most_tokens": 8, "buffer_tokens": 4}
    scores = overlong(query, episodes, of=Use("exact_match"), **limits)
    assert scores.score_G.tolist() == [1, 0.5, -1, 0] and scores.outcome_G is None  # exact match says what is right
    halved = overlong(query, episodes, of=Use("e_grpo"), **limits, factor=0.5)
    assert halved.score_G.tolist() == [1, 0.75, -0.5, 0.5] and halved.outcome_G.tolist() == [1, 1, 0, 1]
    with pytest.raises(ValueError, match="0 < buffer_tokens <= most_tokens; found 9 and 8"):
        overlong(query, episodes, of=Use("exact_match"), most_tokens=8, buffer_tokens=9)
