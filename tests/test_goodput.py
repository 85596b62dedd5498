"""Shares of a run's wall time, by hand."""

from pathlib import Path

import pytest

from qr_jax.logging import goodput


def row(step_s, rollout_s, wait_s, learner_s, evaluation_s=0.0):
    return {
        "step": 1, "time/step_s": step_s, "time/rollout_s": rollout_s, "time/search_wait_s": wait_s,
        "time/learner_s": learner_s, "time/evaluation_s": evaluation_s,
    }  # fmt: skip


def shares(told):
    return {name.removeprefix("time/of_wall_"): value for name, value in told.items() if "of_wall" in name}


def test_what_comes_before_and_between_steps_by_hand():
    watch = goodput.Goodput({})
    first = watch.after(row(8.0, 5.0, 1.0, 2.0), 10.0)  # 2 s to start, then 4 + 1 + 2 and 1 of grading
    wanted = {"rollout": 0.4, "search_wait": 0.1, "learner": 0.2, "evaluation": 0, "start": 0.2, "restarts": 0}
    assert shares(first) == pytest.approx(wanted | {"rest": 0.1})
    assert first["perf/goodput"] == pytest.approx(0.7) and first["time/wall_s"] == 10.0
    second = watch.after(row(6.0, 4.0, 0.0, 2.0, evaluation_s=3.0), 20.0)  # 1 s between the steps, of saving
    wanted = {"rollout": 0.4, "search_wait": 0.05, "learner": 0.2, "evaluation": 0.15, "start": 0.1, "restarts": 0}
    assert shares(second) == pytest.approx(wanted | {"rest": 0.1})


def test_what_is_taken_again_is_lost_to_restarts_by_hand():
    """After a row at 10 s an attempt took a step to 18 s and ended at 24 s; the next one's step ends 16 s later."""
    kept = row(8.0, 6.0, 0.0, 2.0) | goodput.Goodput({}).after(row(8.0, 6.0, 0.0, 2.0), 10.0)
    told = goodput.Goodput(kept).after(row(6.0, 4.0, 0.0, 2.0), 40.0)
    wanted = {"rollout": 0.25, "learner": 0.1, "start": 0.05, "restarts": 24 / 40}
    assert shares(told) == pytest.approx(dict.fromkeys(("search_wait", "evaluation", "rest"), 0) | wanted)


def test_the_seconds_of_earlier_attempts_are_the_most_that_one_of_them_told(tmp_path: Path):
    assert goodput.before(tmp_path) == 0
    for place, text in {
        "metrics.jsonl": '{"step": 1, "time/wall_s": 5.0}\n{"step": 2}\n',
        "logs/attempt_2/discarded/metrics.jsonl": '{"step": 3, "time/wall_s": 9.5}\n',
        "logs/attempt_1/wall_s": "7.250\n",
        "logs/attempt_2/wall_s": "",
    }.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    assert goodput.before(tmp_path) == 9.5
    (tmp_path / "logs/attempt_2/wall_s").write_text("11.000\n")
    assert goodput.before(tmp_path) == 11.0


def test_a_step_played_beside_an_update_by_hand():
    """Of the first row's last 6 s the update took 2; of the next step's 5 s of searches 4 lie in the rest of these."""
    watch = goodput.Goodput({})
    watch.after(row(10.0, 4.0, 0.0, 2.0) | {"time/beside_s": 4.0}, 10.0)
    told = watch.after(row(10.0, 0.0, 5.0, 3.0) | {"time/beside_s": 7.0}, 20.0)
    wanted = {"rollout": (4 + 7) / 20, "search_wait": 4 / 20, "learner": 5 / 20}
    assert shares(told) == pytest.approx(dict.fromkeys(("evaluation", "start", "restarts", "rest"), 0) | wanted)
    assert told["perf/goodput"] == pytest.approx(1.0)
