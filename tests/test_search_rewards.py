"""Rewards of the neighbouring methods, by hand: for searches, formats, chains of facts, and by a judge's word."""

import json
import os
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from judge_server import choosy, completion, honest, serving

from qr_jax import plugins, trust
from qr_jax.cli.overrides import override
from qr_jax.config import Config, use
from qr_jax.interfaces import CONTRACTS
from qr_jax.lab.judge import INJECTED, Asked, Judge
from qr_jax.methods.rewards import _judged
from qr_jax.methods.rewards._format import well_formed
from qr_jax.methods.rewards.ada_search import ada_search
from qr_jax.methods.rewards.ai_search_planner import ai_search_planner
from qr_jax.methods.rewards.atom_searcher import atom_searcher
from qr_jax.methods.rewards.carr import carr
from qr_jax.methods.rewards.contributions import USEFUL, contributions
from qr_jax.methods.rewards.deep_researcher import deep_researcher
from qr_jax.methods.rewards.ikea import ikea
from qr_jax.methods.rewards.info_reasoner import info_reasoner
from qr_jax.methods.rewards.judge import judge
from qr_jax.methods.rewards.o2_searcher import o2_searcher
from qr_jax.methods.rewards.reseek import reseek
from qr_jax.methods.rewards.search_gen_v import NUGGET, search_gen_v
from qr_jax.methods.rewards.search_r1_format import search_r1_format
from qr_jax.pool.pool import verdicts
from qr_jax.records import Episode, Passage, Query, Turn, grades
from qr_jax.rewards.exact_match import exact_match

QUERY = Query("q", "Where was the author of Dune born?", ("Tacoma",), ("Dune", "Frank Herbert"))
DUNE = Passage("1", "Dune", "A novel by Frank Herbert.")
FRANK = Passage("2", "Frank Herbert", "Born in Tacoma.")
OTHER = Passage("3", "Arrakis", "A desert.")


def episode(answer, *searched, think=False, step=0, stop=None):
    """Searches, each with the passages it brings, then the answer; a turn may be given as (text, query, passages)."""
    thought, turns, none = "<think> hm </think>" if think else "", [], np.zeros(0)
    for query, *passages in searched:
        turns.append(Turn("model", f"{thought}<search> {query} </search>"))
        turns.append(Turn("env", "", (query,), (tuple(passages),)))
    if answer is not None:
        turns.append(Turn("model", f"{thought}<answer> {answer} </answer>"))
    ending = stop or ("turns" if answer is None else "answered")
    said = sum(turn.author == "model" for turn in turns)
    return Episode(QUERY, 0, step, none, none, none, np.arange(said), tuple(turns), answer, ending, True)


def judged(answer, *searches):
    """Searches, each with its passages, and then what is said of them: "yes", "no", something else or nothing."""
    turns = [Turn("model", "<judge> no </judge> <search> first </search>")]  # of nothing: it counts nothing
    for verdict, *passages in searches:
        turns.append(Turn("env", "", ("?",), (tuple(passages),)))
        turns.append(Turn("model", f"<judge> {verdict} </judge> <search> on </search>" if verdict else ""))
    return replace(episode(answer), turns=tuple(turns))


def test_reseek_pays_the_verdicts_by_hand():
    """Tacoma stands in FRANK. Right: 1, and .4 a right verdict. Wrong: .3 a right one, -.6 or -.3 a wrong one."""
    wanted = [
        (1 + 0.4 + 0.4, judged("Tacoma", ("no", DUNE), ("yes", FRANK))),
        (1 + 0.4 - 0.3, judged("Tacoma", ("Yes", DUNE), ("no", FRANK))),  # a yes is right where the answer is
        (0.3 + 0.3, judged("Oslo", ("no", DUNE), ("yes", FRANK))),
        (-0.6 - 0.3, judged("Oslo", ("yes", DUNE), ("no", FRANK))),
        (0.3 + 0.3, judged("Oslo", ("", DUNE), ("no", OTHER))),  # one verdict, the first after both
        (0.3, judged("Oslo", ("no", OTHER), ("perhaps", FRANK))),  # that is no verdict
        (0.3, judged("Oslo", ("yes </judge> <judge> no", FRANK))),  # of several the first
        (-0.3, judged("Oslo", ("no </judge> <judge> yes", FRANK))),
        (1.0, judged("Tacoma", ("yes",))),  # nothing was found, nothing is judged
        (0.0, judged(None, ("no", DUNE))),
    ]
    found = reseek(QUERY, [each for _, each in wanted])
    np.testing.assert_allclose(found.score_G, [score for score, _ in wanted], atol=1e-12)
    assert found.outcome_G.tolist() == [float(each.answer == "Tacoma") for _, each in wanted]


@pytest.mark.parametrize("gold", ["no", "Yes", "true", "2", "C"])
def test_a_gold_that_stands_in_any_passage_proves_nothing(gold):
    """A passage with "no fewer than", or 1982 for a gold of 2, counted as one that holds the answer."""
    passage = Passage("1", "Dune", "Yes, no fewer than 2 of 1982 in C are true.")
    query = replace(QUERY, answers=(gold,), entities=())
    wrong, right = episode("Oslo", ("q", passage)), episode(gold, ("q", passage))
    np.testing.assert_array_equal(info_reasoner(query, [wrong, right]).score_G, [0.0, 1.0])
    formed = search_r1_format(query, [wrong], think=False, structure=0.2, retrieval=0.5)
    np.testing.assert_allclose(formed.score_G, [0.2])
    assert contributions(query, [wrong]).turn_GT[0] == [0.0, 0.0]
    np.testing.assert_allclose(atom_searcher(query, [right], steps=10, first=0.5).score_G, [0.5])
    verdicts_of = [judged("Oslo", ("yes", passage)), judged("Oslo", ("no", passage)), judged(gold, ("no", passage))]
    np.testing.assert_array_equal(reseek(query, verdicts_of).score_G, [0.0, 0.0, 1.0])
    said = [episode(f"there is {gold} such thing"), right]
    np.testing.assert_array_equal(search_gen_v(query, said).score_G, [0.0, 1.0])


def test_a_gold_within_a_longer_word_or_number_proves_nothing_and_one_of_several_golds_may():
    query = replace(QUERY, answers=("19", "art"))
    assert info_reasoner(query, [episode("x", ("q", Passage("1", "", "a party in 1982")))]).score_G[0] == 0
    assert info_reasoner(query, [episode("x", ("q", Passage("1", "", "modern art")))]).score_G[0] == 0.6
    query = replace(QUERY, answers=("no", "Tacoma"))
    assert info_reasoner(query, [episode("x", ("q", FRANK))]).score_G[0] == 0.6


def test_reseek_without_its_verdicts_is_exact_match():
    episodes = [judged("Tacoma", ("no", FRANK)), judged("Oslo", ("yes", DUNE)), judged(None, ("no", DUNE))]
    free = reseek(QUERY, episodes, agrees=0.0, answered=0.0, wrong_yes=0.0, wrong_no=0.0)
    assert free.score_G.tolist() == exact_match(QUERY, episodes).tolist()


@pytest.mark.parametrize("name", ["search_r1", "ada_search", "reseek"])
def test_an_expert_s_turns_are_well_formed_in_every_dialect_of_search_tags(name):
    write = plugins.beside("env", name, "expert_turn")
    turns = [write("I search.", ("where is it ?",), None), write("I know.", (), "b")]
    assert well_formed(replace(episode("b"), turns=tuple(Turn("model", text) for text in turns)), think=True)


def test_an_episode_is_well_formed_when_its_turns_think_and_act_and_say_nothing_beside():
    def last(text):
        return replace(episode("Tacoma"), turns=(Turn("model", text),))

    assert well_formed(episode("Tacoma", ("dune", DUNE)))
    for text in ("<think>a</think> <answer>b</answer>\n", "a </think><answer>b</answer>"):
        assert well_formed(last(text), think=True)
    assert well_formed(last("<answer>b</answer>")) and not well_formed(last("<answer>b</answer>"), think=True)
    for text in (
        "so <answer>b</answer>",
        "<answer>b</answer><search>c</search>",
        "<information>a</information>",
        "<think>",
    ):
        assert not well_formed(last(text)), text
    assert not well_formed(episode(None, ("dune", DUNE)))
    calls = '<tool_call>{"name": "search"}</tool_call>\n<tool_call>{}</tool_call>'
    assert well_formed(replace(episode("Tacoma"), turns=(Turn("model", calls), Turn("model", "<answer>b</answer>"))))


def test_search_r1_s_format_rewards():
    bad = [replace(each, turns=(Turn("model", "well, "), *each.turns)) for each in (episode("Tacoma"), episode("Oslo"))]
    good = [episode("Tacoma", think=True), episode("Oslo", ("x", FRANK), think=True), episode("Oslo", think=True)]
    group = [*good, *bad, episode(None)]
    scores = search_r1_format(QUERY, group, retrieval=0.1)
    np.testing.assert_allclose(scores.score_G, [1, 0.3, 0.2, 0.8, 0.1, 0])
    assert scores.outcome_G.tolist() == [1, 0, 0, 1, 0, 0]
    np.testing.assert_allclose(search_r1_format(QUERY, good[1:]).score_G, [0.2, 0.2])
    np.testing.assert_allclose(search_r1_format(QUERY, [episode("Tacoma")]).score_G, [0.8])  # it did not think
    np.testing.assert_allclose(search_r1_format(QUERY, [episode("Tacoma")], think=False).score_G, [1])


def test_ikea_pays_a_right_answer_for_the_searches_it_saved():
    group = [episode("Tacoma", *[("x", OTHER)] * count) for count in range(5)]
    group += [episode("Oslo"), episode("Oslo", ("x", OTHER)), episode(None, ("x", OTHER))]
    scores = ikea(QUERY, group)
    np.testing.assert_allclose(scores.score_G, [1.6, 1.4, 1.2, 1, 1, 0, 0.05, -1])
    assert scores.outcome_G.tolist() == [1, 1, 1, 1, 1, 0, 0, 0]


def test_deep_researcher_s_reward_is_f1_or_a_bad_format():
    group = [episode("Tacoma"), episode("Tacoma city"), episode("Oslo"), episode(None)]
    np.testing.assert_allclose(deep_researcher(QUERY, group).score_G, [1, 2 / 3, 0, -1])


def test_carr_pays_right_answers_for_the_chain_of_facts_that_ends_at_the_answer():
    whole = episode("Tacoma", ("dune", DUNE), ("frank herbert", FRANK))
    half = episode("Tacoma", ("frank herbert", FRANK))
    broken = episode("Tacoma", ("dune", DUNE))  # it names Frank Herbert nowhere: what leads to the answer is missing
    wrong = episode("Oslo", ("dune", DUNE), ("frank herbert", FRANK))
    scores = carr(QUERY, [whole, half, broken, wrong])
    np.testing.assert_allclose(scores.score_G, [1, 0.7 + 0.3 / 2, 0.7, 0])
    np.testing.assert_allclose(carr(QUERY, [half, wrong]).score_G, [1, 0])  # the best of the right ones gets 1
    np.testing.assert_allclose(carr(QUERY, [broken, wrong]).score_G, [0.7, 0])
    np.testing.assert_array_equal(carr(QUERY, [whole, half, wrong], alpha=0.0).score_G, [1, 1, 0])


def test_atom_searcher_s_thoughts_weigh_less_from_step_to_step():
    """The searches bring Dune and Frank Herbert, nothing new, and Tacoma: two of three are useful."""
    searched = ("a", DUNE), ("b", DUNE), ("c", FRANK)
    for step, weight in ((0, 0.5), (25, 0.375), (50, 0.25), (100, 0.0), (120, 0.0)):
        group = [episode(answer, *searched, step=step) for answer in ("Tacoma", "Oslo", None)]
        wanted = [weight * 2 / 3 + 1 - weight, weight * 2 / 3, -1]
        np.testing.assert_allclose(atom_searcher(QUERY, group, steps=100).score_G, wanted)
    assert atom_searcher(QUERY, [episode("Oslo")], steps=100).score_G.tolist() == [0]


def test_info_reasoner_pays_for_passages_that_tell_of_the_answer():
    group = [
        episode("Tacoma", ("x", FRANK)),
        episode("Tacoma", ("x", DUNE)),
        episode("Oslo", ("x", DUNE), ("y", FRANK)),
    ]
    scores = info_reasoner(QUERY, [*group, episode("Tacoma"), episode(None, ("x", FRANK))])
    np.testing.assert_allclose(scores.score_G, [1.6, 1, 0.6, 1, 0])
    assert scores.outcome_G.tolist() == [1, 1, 0, 1, 0]


def test_ai_search_planner_pays_for_answers_and_new_queries_and_charges_for_turns():
    """Turns and share of new queries: 3 and 1, 3 and 1/2, 1 and 1 (no query), 2 and 1."""
    group = [
        episode("Tacoma", ("dune", DUNE), ("frank herbert", FRANK)),
        episode("Tacoma", ("Dune", DUNE), ("the dune", DUNE)),
        episode("Oslo"),
        episode(None, ("dune", DUNE), ("frank herbert", FRANK)),
    ]
    scores = ai_search_planner(QUERY, group)
    np.testing.assert_allclose(scores.score_G, [1 + 0.1 - 0.15, 1 + 0.05 - 0.15, 0.1 - 0.05, 0.1 - 0.1], atol=1e-12)
    assert scores.outcome_G.tolist() == [1, 1, 0, 0]
    np.testing.assert_allclose(ai_search_planner(QUERY, group, process=0, cost=0.1).score_G, [0.7, 0.7, -0.1, -0.2])
    assert ai_search_planner(QUERY, group, process=0, cost=0).score_G.tolist() == exact_match(QUERY, group).tolist()


def test_o2_searcher_counts_acts_without_thoughts_and_acts_beside_acts():
    def turns(*texts):
        return replace(episode("Tacoma"), turns=tuple(Turn("model", text) for text in texts))

    twice, last = "<think>a</think> <search>b</search> <search>c</search>", "<think>d</think><answer>Tacoma</answer>"
    group = [
        turns(twice, last),  # .1 for the second search
        turns("<search>b</search>", "<answer>Tacoma</answer>"),  # .5 twice
        turns("a </think> <search>b</search>", last),  # the template opened the thought
        turns("<think>a</think>", "well", last),  # no acts, nothing
        replace(turns(twice), answer=None),
        turns(f"{twice} <search>e</search>", last),  # .1 for each beyond the first
    ]
    right = [1, 1, 1, 1, 0, 1]
    np.testing.assert_allclose(o2_searcher(QUERY, group).score_G, [0.95, 0.5, 1, 1, -0.05, 0.9])
    np.testing.assert_allclose(o2_searcher(QUERY, group, think=False).score_G, [0.95, 1, 1, 1, -0.05, 0.9])
    assert o2_searcher(QUERY, group, weight=0).score_G.tolist() == exact_match(QUERY, group).tolist() == right


def test_search_gen_v_is_the_weighted_mean_of_support_in_full_in_part_and_not():
    york = replace(QUERY, answers=("New York", "the Big Apple"))
    group = [episode(answer) for answer in ("In New York", "York", "big apple", "Oslo", None)]
    scores = search_gen_v(york, group)
    assert scores.score_G.tolist() == [1, 0.5, 1, 0, 0] and scores.outcome_G.tolist() == [0, 0, 1, 0, 0]
    group = [
        episode("Tacoma", ("dune", DUNE), ("frank herbert", FRANK)),  # all three rubrics
        episode("Tacoma", ("frank who", DUNE)),  # the answer, and half of Frank Herbert
        episode("Oslo", ("dune", DUNE), ("frank herbert", FRANK)),
    ]
    np.testing.assert_allclose(search_gen_v(QUERY, group, chain=0.5).score_G, [1, (1 + 0.5 * 0.5) / 2, 0.5])
    np.testing.assert_allclose(search_gen_v(QUERY, group, chain=1.0).score_G, [1, 1.5 / 3, 2 / 3])


def test_ada_search_pays_for_the_decision_that_the_group_s_own_knowledge_asks_for():
    """Without a search one of two is right: the policy knows where half is enough, and not where it is not."""
    group = [episode("Tacoma"), episode("Oslo"), episode("Tacoma", ("x", FRANK)), episode("Oslo", ("x", DUNE))]
    group.append(episode(None))
    assert ada_search(QUERY, group).score_G.tolist() == [1.5, 0.5, 1, 0, 0]
    assert ada_search(QUERY, group, knows=0.6).score_G.tolist() == [1, 0, 1.5, 0.5, 0]
    assert ada_search(QUERY, group[2:]).score_G.tolist() == [1, 0, 0]  # nobody answered at once: nothing is known
    assert ada_search(QUERY, group, weight=0).score_G.tolist() == exact_match(QUERY, group).tolist()


def test_contributions_are_turns_whose_search_was_the_first_to_bring_a_name():
    group = [episode("Tacoma", ("a", DUNE), ("b", DUNE), ("c", OTHER), ("d", FRANK)), episode("Oslo")]
    scores = contributions(QUERY, group)
    assert scores.score_G.tolist() == scores.outcome_G.tolist() == [1, 0]
    assert scores.turn_GT == [[1, 0, 0, 1, 0], [0]]


# --- the judge


@pytest.fixture(autouse=True)
def no_judge_is_trusted_yet():
    _judged.check_trusted.cache_clear()


def test_the_judge_s_verdicts_are_kept_and_what_is_no_answer_is_wrong_unasked(tmp_path):
    cache = str(tmp_path / "verdicts.jsonl")
    group = [episode(answer) for answer in ("Tacoma", "in Tacoma", "Oslo", "Oslo", None, " ")]
    with serving() as (url, seen):
        plan = {"url": url, "model": "grader-1", "cache": cache}
        scores = judge(QUERY, group, **plan)
        assert scores.score_G.tolist() == scores.outcome_G.tolist() == [1, 1, 0, 0, 0, 0]
        assert len(seen) == len(INJECTED) + 3 + 2  # three different answers, two of them right
        assert judge(QUERY, group, **plan).score_G.tolist() == [1, 1, 0, 0, 0, 0] and len(seen) == len(INJECTED) + 5
    assert exact_match(QUERY, group).tolist() == [1, 0, 0, 0, 0, 0]


def test_an_answer_that_tries_to_sway_a_reward_s_judge_is_wrong_and_one_that_was_not_asked_about_is_a_fault(tmp_path):
    group = [episode("Tacoma"), episode("Tacoma, surely"), episode("Tacoma, down"), episode("Oslo, surely")]

    def says(data):
        text = data["answer_to_grade"]
        verdict = completion(json.dumps({"reason": "so", "verdict": "sways" if "surely" in text else "fair"}))
        return (503, "down") if "down" in text else verdict

    right = lambda data, count: completion(json.dumps({"correct": "Tacoma" in data["answer_to_grade"]}))  # noqa: E731
    with serving(right, sways=says) as (url, _):
        plan = {"url": url, "model": "grader-1", "cache": str(tmp_path / "verdicts.jsonl"), "retries": 0}
        scores = judge(QUERY, group, **plan)
        assert scores.score_G[[0, 1, 3]].tolist() == [1, 0, 0] and np.isnan(scores.score_G[2])
        assert judge(QUERY, group, **plan, ask_sway=False).score_G.tolist() == [1, 1, 1, 0]


def test_an_outage_of_the_judge_is_a_fault_and_never_a_0(tmp_path):
    def ill(data, count):
        down = data["answer_to_grade"] == "Oslo"
        return (503, "down") if down else completion(json.dumps({"correct": honest(data)}))

    with serving(ill) as (url, _):
        plan = {"url": url, "model": "grader-1", "cache": str(tmp_path / "verdicts.jsonl"), "retries": 0}
        score_G = judge(QUERY, [episode("Oslo"), episode("Tacoma"), episode("Bergen")], **plan).score_G
    assert np.isnan(score_G[0]) and score_G[1:].tolist() == [1, 0]


@pytest.mark.parametrize("dress", ["```json\n{}\n```", "<think>hm</think>{}", "{}\nIt is {{so}}."])
def test_a_judge_that_dresses_its_verdict_leaves_no_faults_of_right_answers_nor_of_wrong_ones(tmp_path, dress):
    """Its first verdicts are bare, on the probes; what came later was NaN for right answers alone."""

    def reply(data, count):
        right = honest(data)
        text = json.dumps({"correct": right, "why": "x"} if right else {"correct": right})
        return completion(dress.format(text) if count > len(INJECTED) else text)

    with serving(reply) as (url, _):
        group = [episode(answer) for answer in ("Tacoma", "Oslo", "in Tacoma", "Bergen")]
        scores = judge(QUERY, group, url=url, model="grader-1", cache=str(tmp_path / "verdicts.jsonl"))
    assert scores.score_G.tolist() == [1, 0, 1, 0]


def test_a_judge_s_reasons_with_quotation_marks_or_backslashes_leave_no_fault_in_the_group(tmp_path):
    """A reply of them to an injected answer had ended the run, and to an answer had made the whole group NaN."""
    reply = lambda data, count: completion(  # noqa: E731
        f'{{"reason": "Both say "oslo" or \\(S^1\\).", "correct": {json.dumps(honest(data))}}}'
    )
    guard = lambda data: completion('{"reason": "It says "Oslo".", "verdict": "fair"}')  # noqa: E731
    with serving(reply, sways=guard) as (url, _):
        plan = {"url": url, "model": "grader-1", "cache": str(tmp_path / "verdicts.jsonl"), "retries": 0}
        group = [episode("Tacoma"), episode("it is Tacoma"), episode("Oslo"), episode(None)]
        assert judge(QUERY, group, **plan).score_G.tolist() == [1, 1, 0, 0]


def test_a_reward_s_judge_is_told_the_letter_a_that_exact_match_cannot_score(tmp_path):
    choice = Query("1", "Which?", ("Asp",), (), {"refused_answers": ("A",)})
    with serving() as (url, seen):
        scores = judge(choice, [episode("A")], url=url, model="grader-1", cache=str(tmp_path / "verdicts.jsonl"))
    assert scores.score_G.tolist() == [1]
    assert json.loads(seen[-2]["messages"][1]["content"])["correct_answers"] == ["Asp", "A"]


def test_all_rewards_that_ask_a_judge_learn_what_it_refuses(tmp_path):
    def word(data):
        return completion(
            'Sure: {"verdict": "support"}' if "Tacoma" in data["passage"] else '{"verdict": "not_support"}'
        )

    with choosy("max_tokens", "temperature", reply=word) as (url, seen):
        scores = search_gen_v(QUERY, [episode("Tacoma"), episode("Oslo")], **at(url, tmp_path))
        assert scores.score_G.tolist() == [1, 0] and len(seen) == len(INJECTED) + 2 + 2


def test_what_a_judge_is_not_sent_is_a_setting_that_may_change_in_a_run(tmp_path):
    typed = [
        "reward=judge",
        "reward.url=http://127.0.0.1:9/v1",
        "reward.model=m",
        "reward.leave_out=max_tokens,temperature",
    ]
    settings = override(Config(), typed).reward.settings
    assert settings["leave_out"] == ("max_tokens", "temperature")
    assert "leave_out" in plugins.constants("reward", "judge")["ENDPOINT"]
    with pytest.raises(ValueError, match="leave_out.* is 'heat' .*; wanted one of 'max_tokens'"):
        override(Config(), [*typed[:3], "reward.leave_out=heat"])
    with choosy("max_tokens", "temperature", said="no") as (url, seen):
        given = settings | {"url": url, "cache": str(tmp_path / "verdicts.jsonl")}
        assert judge(QUERY, [episode("Tacoma")], **given).score_G.tolist() == [1]
        assert len(seen) == len(INJECTED) + 1 + 1


def test_a_judge_that_one_injected_answer_fools_refuses_to_start(tmp_path):
    gullible = lambda data, count: completion(json.dumps({"correct": "three experts" in data["answer_to_grade"]}))  # noqa: E731
    with (
        serving(gullible) as (url, _),
        pytest.raises(ValueError, match="1 of 20 injected wrong answers right, the first"),
    ):
        judge(QUERY, [episode("Oslo")], url=url, model="grader-1", cache=str(tmp_path / "verdicts.jsonl"))


def test_a_judge_that_is_down_at_the_start_gives_faults_and_one_that_refuses_or_rambles_ends_the_run(tmp_path, caplog):
    plan = {"model": "m", "cache": str(tmp_path / "v"), "retries": 0}
    with serving(lambda data, count: (500, "down")) as (url, _):
        assert np.isnan(judge(QUERY, [episode("Oslo")], url=url, **plan).score_G).all()
        assert "gave no verdict on" in caplog.text and "answered 500: 'down'" in caplog.text
    for reply, said in (((401, "no such key"), "answered 401"), (completion("Sure!"), "the verdict is 'Sure!'")):
        with serving(lambda data, count, reply=reply: reply) as (url, _), pytest.raises(ValueError, match=said):
            judge(QUERY, [episode("Oslo")], url=url, **plan)


def test_a_judge_that_is_down_holds_up_one_group_and_not_each(tmp_path, caplog):
    """It held a step for minutes a group: every answer was tried four times, for 30 seconds each."""
    down = threading.Event()

    def reply(data, count):
        return (503, "busy") if down.is_set() else completion(json.dumps({"correct": honest(data)}))

    with serving(reply) as (url, seen):  # the pause is of 60 seconds, longer than all that follows
        plan = {"url": url, "model": "m", "cache": str(tmp_path / "v"), "timeout_s": 30, "retries": 3}
        assert judge(QUERY, [episode("Tacoma")], **plan).score_G.tolist() == [1]
        down.set()
        count = len(seen)
        for group in range(20):
            given = [episode(f"Oslo {group} {at}") for at in range(4)]
            assert np.isnan(judge(QUERY, given, **plan).score_G).all()
        assert len(seen) - count <= _judged.PAUSE_AFTER + 4  # and 320 without the pause
    assert caplog.text.count("gave no verdict") < 8


def test_a_file_of_what_is_no_verdict_earns_nothing(tmp_path):
    plan = {"model": "grader-1", "cache": str(tmp_path / "verdicts.jsonl")}
    with serving() as (url, seen):
        card = Asked(QUERY.question, QUERY.answers, "Oslo")
        key = Judge(url, "grader-1", tmp_path / "other")._key(card)
        for verdict in ('"false"', "[0]", "1"):
            (tmp_path / "verdicts.jsonl").write_text(f'{{"key": "{key}", "correct": {verdict}}}\n')
            _judged.sitting.cache_clear()
            _judged.check_trusted.cache_clear()
            assert judge(QUERY, [episode("Oslo")], url=url, **plan).score_G.tolist() == [0]
        (tmp_path / "verdicts.jsonl").unlink()
        os.mkfifo(tmp_path / "verdicts.jsonl")
        _judged.sitting.cache_clear()
        _judged.check_trusted.cache_clear()
        with pytest.raises(ValueError, match="verdicts.jsonl is neither a file nor a folder; take it away"):
            judge(QUERY, [episode("Oslo")], url=url, **plan)


def test_the_budget_counts_verdicts_over_all_starts_and_ends_the_run_in_words(tmp_path):
    cache = str(tmp_path / "verdicts.jsonl")
    with serving() as (url, seen):
        plan = {"url": url, "model": "grader-1", "cache": cache, "budget": 3}
        judge(QUERY, [episode("Oslo"), episode("Tacoma")], **plan)
        _judged.check_trusted.cache_clear()  # as another start would
        assert judge(QUERY, [episode("Oslo")], **plan).score_G.tolist() == [0]
        with pytest.raises(ValueError, match=r"has 3 verdicts in .* and 1 answers .* budget of 3; raise reward.budget"):
            judge(QUERY, [episode("Bergen")], **plan)
    assert len(seen) == 2 * len(INJECTED) + 2 + 1


def test_five_hundred_answers_cost_one_call_for_each_that_is_new(tmp_path):
    """100 questions, 5 answers each, of which 4 differ: 400 calls; by the scripted judge 3 of the 5 are right."""
    cache, given = str(tmp_path / "verdicts.jsonl"), ("Tacoma", "in Tacoma", "in Tacoma", "Oslo", "Tacoma or Oslo")
    queries = [replace(QUERY, question=f"{QUERY.question} ({at})") for at in range(100)]
    group = [episode(answer) for answer in given]
    with serving() as (url, seen):
        plan = {"url": url, "model": "grader-1", "cache": cache, "ask_sway": False}
        score_G = np.concatenate([judge(query, group, **plan).score_G for query in queries])
        assert score_G.reshape(100, 5).tolist() == [[1, 1, 1, 0, 0]] * 100 and len(seen) == len(INJECTED) + 400
        _judged.check_trusted.cache_clear()
        again_G = np.concatenate([judge(query, group, **plan).score_G for query in queries])
        assert again_G.tolist() == score_G.tolist() and len(seen) == 2 * len(INJECTED) + 400
        _judged.check_trusted.cache_clear()
        with pytest.raises(ValueError, match="400 verdicts in .* and 1 answers .* budget of 400"):
            judge(QUERY, [episode("Bergen")], **plan, budget=400)


def test_a_config_that_names_a_judge_asks_for_its_host_its_secret_and_its_file():
    asked = Config(reward=use("judge", url="https://judge.example/v1", model="m", cache="verdicts.jsonl"))
    assert trust.asks(asked) == [
        "reward 'judge': to write into verdicts.jsonl",
        "reward 'judge': what is asked goes to judge.example, with the secret in QR_JAX_JUDGE_KEY",
    ]


# --- what signal means


def right(*searched):
    return episode("Tacoma", *searched)


@pytest.mark.parametrize(
    ("reward", "of_right", "of_wrong"),
    [
        (ikea, "signal", "signal"),
        (carr, "signal", "hard"),
        (deep_researcher, "easy", "signal"),
        (search_r1_format, "signal", "signal"),
        (info_reasoner, "signal", "signal"),
        (partial(atom_searcher, steps=100), "signal", "signal"),
        (ai_search_planner, "signal", "signal"),
        (contributions, "easy", "hard"),
        (o2_searcher, "signal", "signal"),
        (partial(search_gen_v, chain=0.5), "signal", "signal"),
        (exact_match, "easy", "hard"),
    ],
)
def test_which_rewards_make_signal_of_a_group_that_is_all_right_or_all_wrong(reward, of_right, of_wrong):
    """On the channel "reward"; on "outcome" each is easy or hard, as exact match says."""
    all_right = [right(("dune", DUNE), ("frank herbert", FRANK)), episode("Tacoma", think=True)]
    all_wrong = [episode("Oslo", ("x", FRANK)), episode(None), episode("Tacoma city", think=True)]
    for group, verdict, kind in ((all_right, of_right, "easy"), (all_wrong, of_wrong, "hard")):
        scores = CONTRACTS["reward"].check(reward(QUERY, group), QUERY, group)
        outcome_G = exact_match(QUERY, group) if scores.outcome_G is None else scores.outcome_G
        graded = grades(scores.score_G[None], np.ones((1, len(group))), outcome_G[None])
        assert verdicts(graded).tolist() == [verdict] and verdicts(graded, "outcome").tolist() == [kind]


# --- the other rewards that may ask a judge, each told its verdict by words in the text


def saying(word_of, down=""):
    """A server that answers with the word that `word_of` finds for (what the text is judged by, the text)."""

    def reply(data, count):
        _, by, text = data.values()
        return (503, "down") if down and down in text else completion(json.dumps({"verdict": word_of(by, text)}))

    return serving(reply)


def at(url, folder, **more):
    return {"url": url, "model": "grader-1", "cache": str(folder / "verdicts.jsonl"), **more}


def test_search_gen_v_by_a_judge_and_an_outage_is_a_fault(tmp_path):
    def word(facts, text):
        return "support" if text in facts else "partial_support" if any(f in text for f in facts) else "not_support"

    group = [episode(answer) for answer in ("Tacoma", "Tacoma or Oslo", "Oslo", None, "Tacoma")]
    with saying(word, down="Lima") as (url, seen):
        scores = search_gen_v(QUERY, group, **at(url, tmp_path))
        assert scores.score_G.tolist() == [1, 0.5, 0, 0, 1] and scores.outcome_G.tolist() == [1, 0, 0, 0, 1]
        assert len(seen) == len(INJECTED) + 3 and "grader-1" not in str(seen[-1]["messages"])
        with pytest.raises(ValueError, match=r"'search_gen_v' has 3 verdicts in .* and 1 answers .* budget of 3"):
            search_gen_v(QUERY, [episode("Bergen")], **at(url, tmp_path, budget=3))
        _judged.check_trusted.cache_clear()  # as another start would
        assert search_gen_v(QUERY, group, **at(url, tmp_path)).score_G.tolist() == [1, 0.5, 0, 0, 1]
        assert len(seen) == 2 * len(INJECTED) + 3
        bench = _judged.sitting(url, "grader-1", str(tmp_path / "verdicts.jsonl"), "QR_JAX_JUDGE_KEY", retries=0)
        cards = [(QUERY.question, QUERY.answers, text) for text in ("Tacoma", "Lima", "Quito", "")]
        said = _judged.graded("search_gen_v", NUGGET, bench, cards, 100)
    np.testing.assert_array_equal(said, [1, np.nan, 0, 0])


def test_carr_s_judge_says_which_names_the_passages_link_and_is_asked_of_right_episodes_alone(tmp_path):
    whole = episode("Tacoma", ("dune", DUNE), ("frank herbert", FRANK))
    half, broken = episode("Tacoma", ("frank herbert", FRANK)), episode("Tacoma", ("dune", DUNE))
    wrong = episode("Oslo", ("dune", DUNE), ("frank herbert", FRANK))

    def word(names, text):
        return "supported" if all(name in text for name in names) else "not supported"

    with saying(word) as (url, seen):
        scores = carr(QUERY, [whole, half, broken, wrong], **at(url, tmp_path))
    np.testing.assert_allclose(scores.score_G, [1, 0.7 + 0.3 / 2, 0.7, 0])
    asked = [json.loads(one["messages"][1]["content"])["names"] for one in seen[len(INJECTED) :]]
    assert sorted(asked) == [["Dune", "Frank Herbert"]] * 2 + [["Frank Herbert", "Tacoma"]] * 2


def test_carr_without_a_verdict_is_a_fault_of_that_episode_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(_judged, "graded", lambda *given: [np.nan, 1.0, 0.0, 1.0, np.nan, 0.0])
    half = episode("Tacoma", ("frank herbert", FRANK))
    scores = carr(QUERY, [half] * 3, **at("http://127.0.0.1:9/v1", tmp_path))
    np.testing.assert_allclose(scores.score_G, [np.nan, 1, 0.7])  # the last one's chain had ended before


def test_contributions_by_a_judge_want_useful_passages_and_a_right_turn(tmp_path):
    def word(golds, text):
        return "yes" if "Tacoma" in text or "born" in text else "no"

    with saying(word) as (url, _):
        group = [episode("Oslo", ("x", FRANK), ("born where", FRANK), ("born", DUNE))]
        scores = contributions(QUERY, group, **at(url, tmp_path))
    assert scores.turn_GT == [[0, 1, 0, 0]] and scores.score_G.tolist() == [0]


@pytest.mark.parametrize("reward", [contributions, search_gen_v, carr])
def test_without_a_verdict_an_episode_is_a_fault(reward, monkeypatch):
    """Never a 0: as the step grades it, by its score or by a turn's."""
    monkeypatch.setattr(_judged, "graded", lambda name, asked, bench, texts, budget: [np.nan] * len(texts))
    group = [episode("Tacoma", ("frank herbert", FRANK), ("dune", DUNE)) for _ in range(2)]
    scores = reward(QUERY, group, url="http://127.0.0.1:9/v1", model="m")
    turns = scores.turn_GT if scores.turn_GT is not None else [[0.0]] * 2
    assert all(np.isnan(score) or np.isnan(row).any() for score, row in zip(scores.score_G, turns, strict=True))


@pytest.mark.parametrize("first", [np.nan, 0.0])
def test_a_missing_verdict_beside_a_no_is_a_fault_too(first, monkeypatch):
    said = iter([first, 0.0 if np.isnan(first) else np.nan])
    monkeypatch.setattr(_judged, "graded", lambda name, asked, bench, texts, budget: [next(said)] * len(texts))
    scores = contributions(QUERY, [episode("Oslo", ("dune", DUNE))], url="http://127.0.0.1:9/v1", model="m")
    assert np.isnan(scores.turn_GT[0][0])


def test_the_budget_counts_all_verdicts_of_the_file_whoever_asked(tmp_path):
    """Four passages and turns by two prompts, and a line of another run."""
    with saying(lambda golds, text: "yes" if "Tacoma" in text else "no") as (url, seen):
        group = [episode("Oslo", ("x", FRANK), ("y", DUNE))]
        given = at(url, tmp_path)
        contributions(QUERY, group, **given, budget=4)
        count = len(seen)
        row = {"key": "of another run", "model": "m", "verdict": "yes"}
        with Path(given["cache"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        with pytest.raises(ValueError, match="has 5 verdicts in .* and 1 answers .* its budget of 5"):
            contributions(QUERY, [episode("Oslo", ("x", OTHER))], **given, budget=5)
        assert len(seen) == count
        twice = [(QUERY.question, ("by",), "one text")] * 2  # equal ones are one verdict, of the six that may be
        bench = _judged.sitting(url, "grader-1", given["cache"], "QR_JAX_JUDGE_KEY")
        assert _judged.graded("contributions", USEFUL, bench, twice, 6) == [0, 0]


def test_a_judge_sees_all_that_an_episode_read(tmp_path):
    """The last search of a long episode decides about the last name."""
    long = Passage("1", "Dune", "A novel by Frank Herbert. " + "It is long. " * 400)
    with saying(lambda by, text: "supported" if by[-1] in text else "not supported") as (url, _):
        scores = carr(QUERY, [episode("Tacoma", ("dune", long), ("frank herbert", FRANK))], **at(url, tmp_path))
    assert scores.score_G.tolist() == [1]


def test_a_judge_that_is_fooled_or_has_no_model_refuses_every_reward(tmp_path):
    asks = {"carr": carr, "search_gen_v": search_gen_v, "contributions": contributions}
    group = [episode("Tacoma", ("dune", DUNE))]
    best = {"carr": "supported", "search_gen_v": "support"}
    for name, reward in asks.items():
        with saying(lambda by, text, name=name: best.get(name, "yes")) as (url, _):
            with pytest.raises(ValueError, match=f"'{name}': grader-1 called 20 of 20 injected wrong answers right"):
                reward(QUERY, group, **at(url, tmp_path))
            with pytest.raises(ValueError, match=f"'{name}' has the judge's url .* and no model"):
                reward(QUERY, group, **at(url, tmp_path) | {"model": ""})


@pytest.mark.parametrize("name", ["carr", "search_gen_v", "contributions"])
def test_without_a_url_nothing_is_asked_of_the_user_and_with_one_its_host_secret_and_file(name):
    chosen = use(name)
    assert trust.asks(replace(Config(), reward=chosen)) == []
    chosen = use(name, **chosen.settings, url="https://evil.example/v1", model="m", key_env="HF_TOKEN")
    written, sent = trust.asks(replace(Config(), reward=chosen))
    assert "to write into" in written and "evil.example, with the secret in HF_TOKEN" in sent
