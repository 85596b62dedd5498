"""Guards: which pasts raise an alarm, and what a run does about one."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from killed_run import tiny

from qr_jax import errors, train
from qr_jax.config import Guards
from qr_jax.logging import metrics_writer
from qr_jax.run.runs import last_checkpoint
from qr_jax.step import guards
from qr_jax.step.guards import FIGURES, Watch, alarms
from qr_jax.step.runtime import RunState

HEALTHY = {"grad_norm": 0.3, "entropy": 0.2, "answered": 0.95, "reward": 0.5, "searches": 2.0, "probe": 0.7}
LIMITS = Guards()


def past(steps=20, **last):
    """A watch over healthy steps, the last WINDOW of which have these values."""
    watch = Watch()
    for step in range(steps):
        values = HEALTHY | (last if step >= steps - guards.WINDOW else {})
        watch = watch.after(step + 1, {metric: values[name] for name, metric in FIGURES.items()})
    return watch


@pytest.mark.parametrize(
    ("figure", "fallen", "well"),
    [("grad_norm", 1.3, 1.1), ("entropy", 0.41, 0.39), ("answered", 0.79, 0.81), ("searches", 0.9, 1.1),
     ("probe", 0.61, 0.63)],
)  # fmt: skip
def test_an_alarm_is_raised_past_its_limit_and_not_before(figure, fallen, well):
    assert set(alarms(past(**{figure: fallen}), LIMITS)) == {figure}
    assert alarms(past(**{figure: well}), LIMITS) == {}
    text = alarms(past(**{figure: fallen}), LIMITS)[figure]
    assert f"{fallen:.3g}" in text or f"{fallen:.2f}" in text


def test_nothing_is_said_of_a_past_too_short_or_of_fewer_searches_that_cost_reward():
    assert alarms(past(12, entropy=9.0), LIMITS) == {}
    assert alarms(past(searches=0.1, reward=0.1), LIMITS) == {}
    assert alarms(Watch(), LIMITS) == {}


def test_one_probe_under_the_best_is_no_alarm_and_steps_without_a_probe_raise_none():
    watch = past()
    row = {metric: HEALTHY[name] for name, metric in FIGURES.items()}
    watch = watch.after(21, row | {guards.PROBE: 0.3})
    assert alarms(watch, LIMITS) == {}
    watch = watch.after(22, row | {guards.PROBE: None})
    assert alarms(watch, LIMITS) == {}
    watch = watch.after(23, row | {guards.PROBE: 0.3})
    assert set(alarms(watch, LIMITS)) == {"probe"}
    assert (watch.best, watch.best_step) == (0.7, 1)


def run(tmp_path, monkeypatch, act, alarms_at, **more):
    """A tiny run whose guards see the best probe after step 2 and raise an alarm after these steps."""
    rising = iter([0.5, 0.9, *[0.1] * 20])
    monkeypatch.setattr(guards, "alarms", lambda watch, limits: (
        {"probe": "it fell"} if len(watch.past["probe"]) in alarms_at else {}
    ))  # fmt: skip
    after = Watch.after

    def probed(self, step, row):
        row[guards.PROBE] = next(rising)
        return after(self, step, row)

    monkeypatch.setattr(Watch, "after", probed)
    settings = tiny(tmp_path)
    settings = replace(
        settings,
        guards=replace(settings.guards, act=act, probe_every=100, probe_questions=2),
        sft=replace(settings.sft, steps=0),
        pool=replace(settings.pool, min_signal=1),
        evaluation=replace(settings.evaluation, questions=2),
        train=replace(settings.train, steps=5, checkpoint_every=100, **more),
    )
    said: list[str] = []
    return lambda: train.train(settings, tmp_path / "run", say=said.append), said


@pytest.mark.thorough
def test_stop_saves_the_step_and_ends_with_an_exit_code_of_its_own(tmp_path, monkeypatch):
    go, said = run(tmp_path, monkeypatch, "stop", alarms_at={3})
    with pytest.raises(SystemExit) as ended:
        go()
    assert ended.value.code == errors.GUARD_STOP == 4
    assert last_checkpoint(tmp_path / "run")[1] == 3 and "stopped by a guard: it fell" in said[-1]
    go()  # the same command goes on: the alarm was told
    assert last_checkpoint(tmp_path / "run")[1] == 5


@pytest.mark.thorough
def test_rollback_goes_to_the_best_probe_at_half_the_rate_and_says_so_in_the_checkpoint(tmp_path, monkeypatch):
    go, said = run(tmp_path, monkeypatch, "rollback", alarms_at={4})
    saved = []
    roll_back = train.begin.roll_back
    monkeypatch.setattr(
        train.begin, "roll_back", lambda parts, *a, **k: saved.append(roll_back(parts, *a, **k)) or saved[-1]
    )
    monkeypatch.setattr(guards, "alarms", lambda watch, limits: (
        {"probe": "it fell"} if len(watch.past["probe"]) == 4 and not saved else {}
    ))  # fmt: skip
    go()
    ((_, progress, step),) = saved
    assert step == 2 and progress.rate == 0.5 and progress.rollbacks == 1
    assert any("it fell; back to step 2" in text and "0.5 times the learning rate" in text for text in said)
    rates = [row["learner/lr"] for row in metrics_writer.read(tmp_path / "run") if row.get("learner/lr")]
    rows = metrics_writer.read(tmp_path / "run")
    assert len(rows) == 5 and rates[-1] == pytest.approx(rates[0] / 2)
    assert rows[-1]["budget/rollouts"] == 7 * 16  # steps 3 and 4 were paid for twice
    checkpoints, last = last_checkpoint(tmp_path / "run")
    assert last == 5 and checkpoints.host(5)["rate"] == 0.5 and checkpoints.host(2)["rollbacks"] == 1


@pytest.mark.thorough
def test_rollback_to_the_step_that_raised_the_alarm_keeps_it_and_what_was_spent(tmp_path, monkeypatch):
    """The best probe may be that of the alarm's own step, which is no checkpoint yet."""
    go, said = run(tmp_path, monkeypatch, "rollback", alarms_at={2})
    go()
    assert any("it fell; back to step 2 with other sampling keys" in text for text in said)
    rows = metrics_writer.read(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5] and rows[-1]["budget/rollouts"] == 5 * 16


@pytest.mark.thorough
def test_warn_says_it_once_and_goes_on(tmp_path, monkeypatch):
    go, said = run(tmp_path, monkeypatch, "warn", alarms_at={3, 4})
    go()
    assert sum("it fell" in text for text in said) == 1
    alarms_T = [row["guards/alarms"] for row in metrics_writer.read(tmp_path / "run")]
    assert alarms_T == [0, 0, 1, 1, 0]
    assert np.isfinite(alarms_T).all()


def test_a_probe_over_too_few_questions_is_no_probe(tmp_path):
    """97 of 100 questions without an answer had raised an alarm, and a rollback with it."""
    limits = replace(Guards(), probe_every=1)
    settings = SimpleNamespace(guards=limits)
    told = iter([(0.8, False), (0.8, False), (0.0, True), (0.0, True), (0.0, True)])
    parts = SimpleNamespace(settings=settings, to_rollout_params=lambda params: params, run=SimpleNamespace(say=print))
    parts.data = SimpleNamespace(probed=())
    parts.measure = lambda params, queries, samples, limit: dict(
        zip(("exact_match", "incomplete"), next(told), strict=True)
    )
    standing = RunState(pool=None)
    for step in range(1, 6):
        row = {}
        standing, raised = train.watched(parts, SimpleNamespace(params=None), standing, step, row)
        assert not raised and row["guards/alarms"] == 0
    assert row[guards.PROBE] is None and standing.watch.best == 0.8
