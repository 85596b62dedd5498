"""E7's runs and its verdict."""

import pytest

from benchmarks import surplus

LOSS, NONE, GAIN = [-0.05, -0.06, -0.04], [0.01, -0.01, 0.005], [0.05, 0.06, 0.04]


def test_four_arms_of_a_seed_share_a_cold_start_and_differ_in_rule_and_surplus_alone():
    assert len(surplus.ARMS) * sum(map(len, surplus.SEEDS.values())) == 64
    jobs = {arm: surplus.planned(arm, 4, 300) for arm in surplus.ARMS}
    assert len({start.folder for start, _ in jobs.values()}) == 1
    assert len({surplus.KEPT.result(run) for _, run in jobs.values()}) == 4
    for (rule, k), (_, run) in jobs.items():
        settings = run.settings
        assert (settings.pool.rule.name, settings.pool.oversample, settings.data.world["seed"]) == (rule, k, 4)
        assert (settings.learner.full_groups, settings.pool.min_signal, settings.pool.reset_below) == (5, 2, 0.7)
        assert (settings.train.max_rollouts, settings.learner.lr) == (16896, 7e-4)


@pytest.mark.parametrize(
    ("rule_1", "rule_2", "updates", "said"),
    [
        (NONE, NONE, LOSS, "it was the updates"),
        (LOSS, GAIN, LOSS, "it was the updates"),
        (NONE, LOSS, LOSS, "both"),
        (LOSS, LOSS, NONE, "it was the rule"),
        (NONE, LOSS, NONE, "undecided"),
        (NONE, NONE, NONE, "undecided"),
        (LOSS[:1], LOSS, LOSS, "undecided"),
    ],
)
def test_the_verdict_is_the_plans(rule_1, rule_2, updates, said):
    assert surplus.verdict({surplus.RULE_1: rule_1, surplus.RULE_2: rule_2, surplus.UPDATES: updates}) == said
