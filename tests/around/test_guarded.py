"""E2's table: differences of two rules from one cold start, their verdicts, and p corrected for three comparisons."""

import itertools

import pytest

from benchmarks import guarded

ARMS = (guarded.RULES, guarded.STEPS)


def test_six_arms_of_a_seed_share_a_cold_start_and_differ_as_the_plan_says():
    assert sum(len(seeds) for seeds in guarded.SEEDS.values()) * len(guarded.RULES) * len(guarded.STEPS) == 120
    for world, seeds in guarded.SEEDS.items():
        arms = {place: guarded.planned(*place, world, seeds[0]) for place in itertools.product(*ARMS)}
        assert len({start.folder for start, _ in arms.values()}) == 1
        assert len({guarded.KEPT.result(run) for _, run in arms.values()}) == 6
        for (rule, step), (_, run) in arms.items():
            settings = run.settings
            assert (settings.seed, settings.data.world["seed"]) == (seeds[0], world)
            assert (settings.pool.queries, settings.pool.samples, settings.train.max_rollouts) == (32, 4, 16896)
            assert (settings.pool.rule.name, settings.pool.oversample) == (rule, 2 if rule == "recycle" else 1)
            assert (settings.learner.full_groups, settings.pool.min_signal) == ((0, 1) if step == "bare" else (5, 2))
            assert settings.pool.reset_below == (0 if step == "bare" else 0.7)
            assert (settings.learner.schedule == "linear") == (step == "decayed")


@pytest.mark.parametrize(
    "values, said",
    [
        ([0.02, 0.03, 0.025, 0.03], "yes, the rule"),
        ([0.001, -0.001, 0.002, 0.0], "it was the step"),
        ([0.05, -0.04, 0.03, 0.0], "undecided"),
        ([0.009, 0.0091, 0.009, 0.0092], "it was the step"),  # above 0, and below what would matter
        ([0.03], "undecided"),
    ],
)
def test_verdicts_by_the_plan(values, said):
    assert guarded.verdict(values) == said


def test_holm_by_hand():
    gaps = {"bare": [0.1, 0.3], "guarded": [0.2, 0.2, 0.3], "decayed": [0.0, 0.1]}
    p = {name: guarded.p_value(values) for name, values in gaps.items()}
    assert p["bare"] == pytest.approx(0.29517, abs=1e-5)  # t of 2 with one degree of freedom
    assert guarded.holm(gaps) == pytest.approx(
        {"guarded": 3 * p["guarded"], "bare": 2 * p["bare"], "decayed": max(2 * p["bare"], p["decayed"])}
    )


def test_runs_from_different_cold_starts_are_not_compared():
    def rows(before):
        of = {(rule, step, world): {} for rule in guarded.RULES for step in guarded.STEPS for world in guarded.SEEDS}
        of["grpo", "bare", 0] = {40: {"before": 0.4, "accuracy": 0.5}}
        of["recycle", "bare", 0] = {40: {"before": before, "accuracy": 0.7}}
        return of

    assert guarded.gaps(rows(0.4))["bare"] == [pytest.approx(0.2)]
    with pytest.raises(ValueError, match="bare, world 0, seed 40.*different cold starts"):
        guarded.gaps(rows(0.3))
