"""E12: the rule without labels is foresee_learnable in a pool of one family, and its runs are E4's but for the rule."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import labels, race
from benchmarks.foresee_unlabelled import foresee_unlabelled
from qr_jax import pool
from qr_jax.methods.rules.foresee_learnable import foresee_learnable
from qr_jax.records import grades

FAMILY_P = np.array([0, 0, 1, 1, 1, 0])


def after(rule, family_P, steps=3):
    """The weights of six queries after some steps of two samples a query."""
    state = pool.create(6, family_P)
    for step in range(steps):
        drawn = [step, step + 1, step + 3]
        graded = grades([[1, 0], [1, 1], [0, 0]], [[True, True]] * 3)
        state = pool.settle(state, pool.judge(drawn, graded, step=step, accept=8), rule)
    return state.weight_P


def test_labels_are_not_read_and_matter_where_they_are():
    weight_P = after(foresee_unlabelled, FAMILY_P)
    np.testing.assert_array_equal(weight_P, after(foresee_learnable, None))
    np.testing.assert_array_equal(weight_P, after(foresee_unlabelled, None))
    assert np.abs(weight_P - after(foresee_learnable, FAMILY_P)).max() > 0.01


def test_a_run_is_e4s_but_for_its_rule():
    (start, run), (their_start, theirs) = (
        labels.planned(3, 148),
        race.planned("final", labels.ARM, race.best(labels.ARM), 3, 148),
    )
    assert start == their_start and labels.KEPT.result(run) == labels.KEPT.results / "world_3/seed_148.json"
    rule = theirs.settings.pool.rule
    assert (rule.name, run.settings.pool.rule.name) == ("foresee_learnable", labels.RULE)
    assert replace(run.settings, pool=replace(run.settings.pool, rule=rule)) == theirs.settings


def test_each_seed_is_one_of_e4s_and_no_verdict_is_told_before_the_last_run(monkeypatch, tmp_path):
    assert all({*seeds} <= {*race.FINAL[world]} and len(seeds) == 16 for world, seeds in labels.SEEDS.items())
    monkeypatch.setattr(labels, "KEPT", replace(labels.KEPT, results=tmp_path))
    assert not labels.is_over() and "none yet" in labels.table()


@pytest.mark.parametrize(("gain", "told"), [(0.05, "better"), (0.0, "level")])
def test_the_verdict_is_on_the_difference_from_plain_grpo(monkeypatch, gain, told):
    seeds = {world: dict.fromkeys(each, 0.0) for world, each in labels.SEEDS.items()}
    run = {"before": 0.4}
    ours = lambda world: {seed: run | {"accuracy": 0.8 + gain + seed % 2 / 500} for seed in seeds[world]}  # noqa: E731
    theirs = lambda stage, arm, name, world: {seed: run | {"accuracy": 0.8} for seed in seeds[world]}  # noqa: E731
    monkeypatch.setattr(labels, "read", ours)
    monkeypatch.setattr(race, "read", theirs)
    monkeypatch.setattr(race, "best", lambda arm: "groups of 4")
    monkeypatch.setattr(race, "finalists", lambda: ["grpo in 4s", labels.ARM, "retire"])
    lines = labels.table().splitlines()
    assert f"| {labels.TO_GRPO} |" in lines[2] and lines[2].endswith(f"| 32 | {told} |")
