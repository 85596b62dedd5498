"""E3's trained cells: what is fitted to a run is what a pool was made of, and the cells are the plan's."""

import numpy as np
import pytest

from benchmarks import recycling_cells
from qr_jax.lab import oracle, pass_rates


def test_a_run_s_first_rates_shift_and_jump_are_those_of_its_pool():
    size, plan = 400, oracle.sampler("grpo", queries=40, samples=8, rollouts=400 * 8 * 6)
    world = pass_rates.world("memorising:0.8,1.6,1.0,0.5", size, seed=3)
    found = recycling_cells.fitted(size, oracle.play(plan, world, size=size, seed=3).draws)
    assert found["a"] / (found["a"] + found["b"]) == pytest.approx(1 / 3, abs=0.05)
    assert found["a"] + found["b"] == pytest.approx(2.4, rel=0.25)
    assert abs(found["shift"] - 1.0) < 4 * found["shift_se"] and 0.25 < found["jump"] < 0.6


def test_after_one_pass_there_is_no_growth_to_tell():
    plan = oracle.sampler("grpo", queries=30, samples=4, rollouts=300 * 4)
    world = pass_rates.world("beta:1,1", 300, seed=0)
    found = recycling_cells.fitted(300, oracle.play(plan, world, size=300, seed=0).draws)
    assert found["shift"] == found["jump"] == 0
    assert recycling_cells.predicted(found | {"size": 300}, {"queries": 30, "samples": 4, "rollouts": 1200}) < 1


def test_a_pool_that_learns_at_once_is_a_predicted_win(monkeypatch):
    monkeypatch.setattr(recycling_cells, "PLAYS", 2)
    fit = {"a": 1.0, "b": 1.0, "shift": 0.0, "jump": 8.0, "size": 1000}
    ratio = recycling_cells.predicted(fit, {"queries": 16, "samples": 2, "rollouts": 8000})
    assert ratio == pytest.approx(1.261, abs=0.001)  # the map's largest


def test_no_candidate_is_a_predicted_win_and_so_the_loss_alone_is_trained():
    """By the plan: the ratio must be above 1.02 and exact match may not have fallen."""
    runs = recycling_cells.kept_fits()
    assert runs.keys() == recycling_cells.FITTED.keys() and {*recycling_cells.CELLS} == {"loss"}
    assert all(run["predicted"] < 1.02 for run in runs.values())


def test_a_cell_s_rules_share_a_cold_start_and_differ_in_the_rule_alone():
    words = (*recycling_cells.SMALL, "pool.samples=2", "train.max_rollouts=2000")
    (start, grpo), (their_start, recycle) = (
        recycling_cells.planned("final", "win", words, rule, 60) for rule in recycling_cells.RULES
    )
    assert start == their_start and recycling_cells.KEPT.result(grpo) != recycling_cells.KEPT.result(recycle)
    assert [job.settings.pool.rule.name for job in (grpo, recycle)] == ["grpo", "recycle"]
    assert grpo.settings.evaluation.every_rollouts == 200 and grpo.settings.data.train_limit == 250
    assert np.unique([*recycling_cells.SEEDS, recycling_cells.FIT_SEED]).size == 9
