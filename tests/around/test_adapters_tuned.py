"""E11: the candidate with the highest mean is chosen, and the verdict is the plan's, over runs from one cold start."""

import pytest

from benchmarks import adapters
from qr_jax import config as configs


def runs(best, less=0.0, seeds=adapters.SEEDS):
    """All runs of the choosing, and the final ones of some seeds, whose adapters end `less` lower."""
    arms = [adapters.called(*one) for one in adapters.CANDIDATES]
    found = [
        {"seed": seed, "arm": arm, "before": 0.4, "after": 0.8 if arm == best else 0.7}
        for seed in adapters.CHOOSING
        for arm in arms
    ]
    for seed in seeds:
        for arm, after in ((adapters.FULL, 0.8), (best, 0.8 - less - seed % 2 / 100)):
            found.append({"seed": seed, "arm": arm, "before": seed / 1000, "after": after})
    return found


@pytest.mark.parametrize(
    ("less", "told"), [(0.0, "costs nothing that matters"), (0.06, "costs"), (0.03, "costs nothing that matters")]
)
def test_the_best_is_chosen_and_judged(less, told):
    best = adapters.called(32, 4)
    found = runs(best, less)
    assert adapters.chosen(found) == best
    assert adapters.verdict(adapters.gaps(found)) == told and told in adapters.table(found)


def test_undecided_and_none_yet():
    assert adapters.verdict([-0.09, 0.09] * 5) == "undecided"
    best = adapters.called(16, 2)
    assert adapters.verdict(adapters.gaps(runs(best, seeds=range(220, 229)))) == "none yet"


def test_runs_from_another_cold_start_are_not_compared():
    best = adapters.called(16, 8)
    found = runs(best)
    found[-1]["before"] += 0.001
    assert len(adapters.gaps(found)) == len(adapters.SEEDS) - 1


def test_a_choice_without_all_runs_says_what_to_run():
    found = runs(adapters.called(16, 2))[1:]
    with pytest.raises(ValueError, match=r"lacks runs of seeds \[30, 31, 32\]: run `python -m benchmarks.adapters"):
        adapters.chosen(found)
    assert "added to the quickstart" not in adapters.table(found)


def test_each_candidate_is_the_quickstart_with_adapters_at_a_multiple_of_its_rate():
    usual = configs.load("configs/quickstart.py")
    for rank, times in adapters.CANDIDATES:
        made = configs.load("configs/quickstart.py", adapters.settings_of(adapters.called(rank, times)))
        assert (made.model.lora.rank, made.learner.lr) == (rank, pytest.approx(usual.learner.lr * times))
