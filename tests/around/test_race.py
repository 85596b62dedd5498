"""E4's race: its arms are as the plan says, tuned alike, and two are chosen by the seeds of the first stage alone."""

import json
from dataclasses import replace

import pytest

from benchmarks import race, study


@pytest.mark.thorough
def test_every_arm_has_three_candidates_that_are_runs_and_all_of_a_seed_share_a_cold_start():
    starts = set()
    assert len(race.ARMS) == 13 and all(len(candidates) == 3 for candidates in race.ARMS.values())
    for arm, candidates in race.ARMS.items():
        runs = [race.planned("tuning", arm, name, 0, 70) for name in candidates]
        starts |= {start.folder for start, _ in runs}
        assert len({study.configs.fingerprint(run.settings) for _, run in runs}) == 3
        for _, run in runs:
            settings = run.settings
            assert settings.train.max_rollouts == race.BUDGET and settings.evaluation.half == "a"
            assert settings.pool.queries * settings.pool.samples in (128, 64, 32)  # SPEED asks for more of some
        run = runs[0][1]
        assert (
            race.KEPT.result(run) == race.KEPT.results / race.place("tuning", arm, [*candidates][0], 0) / "seed_70.json"
        )
    assert len(starts) == 1


def test_no_seed_was_used_before_or_twice():
    seeds = [*race.TUNING, *race.MORE, *(seed for seeds in race.FINAL.values() for seed in seeds)]
    assert len(seeds) == len({*seeds}) == 8 + 64 and min(seeds) >= 70 and set(race.FINAL) == {2, 3}


def kept(monkeypatch, tmp_path, score):
    """Files of all runs of the first stage, whose accuracy is score(arm, candidate number, seed)."""
    monkeypatch.setattr(race, "KEPT", replace(race.KEPT, results=tmp_path))
    for arm, candidates in race.ARMS.items():
        for number, name in enumerate(candidates):
            for seed in (*race.TUNING, *race.MORE):
                value = score(arm, number, seed)
                if value is not None:
                    write("tuning", arm, name, 0, seed, value)


def write(stage, arm, name, world, seed, value, before=0.4):
    path = race.KEPT.results / race.place(stage, arm, name, world) / f"seed_{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    every = [[rollouts, value] for rollouts in range(3000, 30001, 3000)]
    tokens = {"tokens_sampled": 1000, "tokens_trained": 500, "steps": 10}
    path.write_text(json.dumps({"seed": seed, "before": before, "evaluations": every, **tokens}))


@pytest.mark.parametrize("whole", [False, True])
def test_the_best_candidate_is_chosen_on_the_first_seeds_and_the_finalists_on_all_eight(monkeypatch, tmp_path, whole):
    place = {arm: at for at, arm in enumerate(race.ARMS)}

    def score(arm, number, seed):
        if seed in race.MORE and number != 1:
            return None
        return 0.5 + 0.01 * place[arm] + (0.005 if number == 1 else 0) - (0.3 if arm == "foresee" and seed > 72 else 0)

    kept(monkeypatch, tmp_path, score)
    assert race.best("vcrl") == list(race.ARMS["vcrl"])[1]
    assert race.finalists() == ["grpo in 8s", "foresee_learnable", "recycle guarded"]
    for world, seeds in race.FINAL.items():
        for seed in seeds if whole else list(seeds)[:2]:
            for arm, value in (("grpo in 8s", 0.6), ("foresee_learnable", 0.6 + 0.1 * world), ("recycle guarded", 0.6)):
                write("final", arm, race.best(arm), world, seed, value)
    each = 32 if whole else 2
    assert race.gaps()["foresee_learnable"] == pytest.approx([0.2] * each + [0.3] * each)
    row = "| +0.250 +- 0.013 | 64 | <0.001 | better |" if whole else "| +0.250 +- 0.092 | 4 |  | none yet |"
    assert f"| foresee_learnable {row}" in race.table()  # no verdict before its last run


def test_a_stage_that_lacks_runs_says_which(monkeypatch, tmp_path):
    kept(monkeypatch, tmp_path, lambda arm, number, seed: 0.5 if seed in race.TUNING and seed != 71 else None)
    with pytest.raises(ValueError, match=r"has no result of seeds \[71\]: run `python -m benchmarks.race tuning`"):
        race.best("greso")
    with pytest.raises(ValueError, match="benchmarks.race tuning"):
        race.table()
    assert race.candidates().count("\n") == 2 + 3 * 13


def test_at_equal_tokens_the_dearer_run_is_read_earlier(monkeypatch, tmp_path):
    """Both rise from 0 to 1 by their rollouts, and ours spends twice the tokens: .85 less .425."""
    kept(monkeypatch, tmp_path, lambda arm, number, seed: 0.5)
    base, *others = race.finalists()
    for arm, tokens in ((base, 100), *((other, 200) for other in others)):
        path = race.KEPT.results / race.place("final", arm, race.best(arm), 2) / "seed_100.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        rising = [[rollouts, rollouts / 30_000] for rollouts in range(3000, 30001, 3000)]
        path.write_text(json.dumps({"seed": 100, "before": 0.0, "evaluations": rising, "tokens_sampled": tokens}))
    assert race.at_equal("sampled") == {other: pytest.approx([-0.425]) for other in others}
