"""E11, E13 and its control E14: the best candidate is chosen; verdicts are the plan's, by runs of one cold start."""

from dataclasses import replace

import pytest

from benchmarks import adapters
from qr_jax import config as configs

E11, E13, E14 = adapters.ATTEMPTS


def runs(attempt, best, less=0.0, seeds=None):
    """All runs of an attempt's choosing, and the final ones of some seeds, whose adapters end `less` lower."""
    found = [
        {"seed": seed, "arm": one.arm, "before": 0.4, "after": 0.8 if one == best else 0.7}
        for seed in adapters.CHOOSING
        for one in attempt.candidates
    ]
    for seed in seeds or attempt.seeds:
        for arm, after in ((adapters.FULL, 0.8), (best.arm, 0.8 - less - seed % 2 / 100)):
            found.append({"seed": seed, "arm": arm, "before": seed / 1000, "after": after})
    return found


@pytest.mark.parametrize("attempt", (E11, E13))
@pytest.mark.parametrize(
    ("less", "told"), [(0.0, "costs nothing that matters"), (0.06, "costs"), (0.03, "costs nothing that matters")]
)
def test_the_best_is_chosen_and_judged(attempt, less, told):
    best = attempt.candidates[1]
    found = runs(attempt, best, less)
    assert adapters.chosen(found, attempt) == best
    assert adapters.verdict(adapters.gaps(found, attempt)) == told and told in adapters.table(found)


def test_undecided_and_none_yet():
    assert adapters.verdict([-0.09, 0.09] * 5) == "undecided"
    assert "none yet" in adapters.table(runs(E11, E11.candidates[0], seeds=range(220, 229)))


def test_runs_from_another_cold_start_are_not_compared():
    found = runs(E11, E11.candidates[2])
    found[-1]["before"] += 0.001
    assert len(adapters.gaps(found, E11)) == len(E11.seeds) - 1


def test_a_choice_without_all_runs_says_what_to_run():
    found = runs(E13, E13.candidates[0])[1:]
    with pytest.raises(
        ValueError, match=r"lacks runs of seeds \[30, 31, 32\]: run `python -m benchmarks.adapters E13 cho"
    ):
        adapters.chosen(found, E13)
    assert not adapters.rows(found)


def test_the_control_is_the_whole_model_beside_which_the_adapters_of_its_attempt_stand():
    """By hand: adapters end at .80 and .79, the chosen whole model .03 higher, so they cost .03."""
    found = runs(E13, E13.candidates[2])
    higher = {one: 0.75 + 0.01 * one.times for one in E14.candidates}
    for seed in adapters.CHOOSING:
        found += [{"seed": seed, "arm": one.arm, "before": 0.4, "after": higher[one]} for one in E14.candidates]
    best = adapters.chosen(found, E14)
    assert (best.rank, best.times) == (0, 2) and best.settings() == ("learner.lr=0.0014", "learner.schedule=linear")
    for seed in E14.seeds:
        found.append({"seed": seed, "arm": best.arm, "before": seed / 1000, "after": 0.83 - seed % 2 / 100})
    assert adapters.gaps(found, E14) == pytest.approx([-0.03] * 10)
    told = "the adapters of the row above, beside the whole model at `learner.lr=0.0014 learner.schedule=linear`"
    assert adapters.rows(found)[-1] == (told, "today's", "10", "-0.030 +- 0.000", "costs nothing that matters")


@pytest.mark.parametrize("one", [one for attempt in adapters.ATTEMPTS for one in attempt.candidates])
def test_each_candidate_is_the_quickstart_with_adapters_at_a_multiple_of_its_rate(one):
    usual = configs.load("configs/quickstart.py")
    made = configs.load("configs/quickstart.py", one.settings())
    learner = replace(usual.learner, lr=pytest.approx(usual.learner.lr * one.times), schedule=one.schedule)
    assert (made.model.lora.rank, made.learner) == (one.rank, learner)
