"""E1's figure: the share of the signal of queries drawn again that is there because the policy moved."""

import pytest

from benchmarks import flips


def arm(candidates, filing, later):
    return {"candidates": candidates, "queries": 8, "signal": {"filing": filing, "accepting": later, "current": 0.0}}


def test_the_share_by_movement_counts_each_verdict_by_its_draws():
    probe = {"again_hard": arm(300, 0.1, 0.3), "again_easy": arm(100, 0.5, 0.25)}
    found = {"probe": probe}
    assert flips.moved(found, ["hard"]) == pytest.approx(2 / 3)
    assert flips.moved(found, ["easy"]) == pytest.approx(-1.0)  # movement took half of the signal away
    assert flips.moved(found) == pytest.approx(1 - (300 * 0.1 + 100 * 0.5) / (300 * 0.3 + 100 * 0.25))


def test_an_arm_without_queries_does_not_count():
    found = {"probe": {"again_hard": arm(300, 0.1, 0.2), "again_easy": {"candidates": 0, "queries": 0, "left_out": 0}}}
    assert flips.moved(found) == pytest.approx(0.5)


def test_an_interval_over_seeds_by_hand():
    assert flips.over_seeds([0.1, 0.3], "+") == "+0.200 +- 1.271"  # t of 1 degree: 12.706 x .1
    assert flips.over_seeds([0.25], "+") == "+0.250"


def test_each_run_of_the_plan_is_there_once_with_its_settings():
    jobs = [flips.job(kind, samples, seed) for seed in flips.SEEDS for kind in flips.ARMS for samples in flips.SIZES]
    assert len({flips.result(job) for job in jobs}) == len(jobs) == 20
    assert {job.settings.learner.lr for job in jobs} == {7e-4, 1e-12}
    assert {(job.settings.pool.samples, job.settings.pool.queries) for job in jobs} == {(4, 32), (8, 16)}
    assert all(job.settings.pool.rule.name == "recycle" and job.settings.train.keep_every == 4 for job in jobs)
