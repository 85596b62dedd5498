"""The training loop: killed anywhere it goes on as if nothing had happened; controls and guards do what they say."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import odd_tokens
import pytest
from etils import epath
from killed_run import tiny
from loopback_bucket import led_there

from qr_jax import assemble, config, errors
from qr_jax import train as driver
from qr_jax.config import use
from qr_jax.data.world import generate
from qr_jax.learner import learner
from qr_jax.logging import metrics_writer, terminal
from qr_jax.logging.metrics import WALL
from qr_jax.parallel import alike
from qr_jax.pool import pool
from qr_jax.records import grades
from qr_jax.rollout import engine, kv_cache
from qr_jax.run import begin, checkpoint, committed, plugin_record, runs
from qr_jax.sets import formats
from qr_jax.sft import sft
from qr_jax.step import grading, profile
from qr_jax.step.runtime import RunState, Runtime, bind
from qr_jax.train import train
from tpu_scripts.same_runs import differences, lines

ROOT = Path(__file__).parents[1]


def start(*arguments, cache, **more):
    """The driver in a process of its own, with compiled programs kept for the next one."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_NUM_CPU_DEVICES": str(jax.device_count()),  # as here, or no program of this process would be theirs
    }
    command = [sys.executable, str(ROOT / "tests" / "killed_run.py"), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def finish(process, code):
    """What it printed, once it has ended with that code."""
    said, trouble = process.communicate(timeout=180)
    assert process.returncode == code, trouble
    return said


@pytest.fixture(scope="module")
def finished(tmp_path_factory, compiled):
    """The folder of a run that was never killed ("whole"), of what it printed, and of the programs it compiled."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(compiled, folder / "cache")
    (folder / "said").write_text(finish(start(folder / "whole", cache=folder / "cache"), 0))
    shutil.copytree(folder / "cache", compiled, dirs_exist_ok=True)  # before any process is killed
    return folder


@pytest.fixture(scope="module")
def killed_elsewhere(finished):
    """Runs that were killed and started again by the same command; what that printed.

    "machine" lives in a bucket, and its own folder was lost.
    """
    with led_there() as bucket:
        machine = [finished / "machine", "--bucket", f"{bucket}/night"]
        finish(start(*machine, "--die", "metrics", cache=finished / "cache"), -signal.SIGKILL)
        assert not list(finished.glob("machine/**/checkpoints"))
        shutil.rmtree(finished / "machine")
        resumed = start(*machine, cache=finished / "cache")
        said = killed_at(finished, ("rollout", "metrics", "checkpoint"))
        finish(resumed, 0)
        yield said


def killed_at(folder, points):
    processes = [start(folder / point, "--die", point, cache=folder / "cache") for point in points]
    for process in processes:
        finish(process, -signal.SIGKILL)
    if "end" in points:  # a summary says that the last checkpoint is committed
        assert not (folder / "end" / "summary.json").exists()
    return finish(start(*(folder / point for point in points), cache=folder / "cache"), 0)


def test_a_run_killed_at_its_end_goes_on_to_the_same_bytes(finished):
    killed_at(finished, ("end",))
    check_resumed(finished / "whole", finished / "end")


@pytest.mark.thorough
@pytest.mark.parametrize("point", ["rollout", "metrics", "checkpoint"])
def test_a_run_killed_elsewhere_goes_on_to_the_same_bytes(finished, killed_elsewhere, point):
    check_resumed(finished / "whole", finished / point)
    assert "passed over" in killed_elsewhere  # the checkpoint without its marker is named


def check_resumed(whole, resumed):
    assert len(lines(whole)) == 5
    assert any(json.loads(line)["learner/grad_norm"] for line in lines(whole) if "learner/grad_norm" in line)
    assert differences(resumed, whole, 5) == []
    assert (resumed / "logs" / "attempt_2").is_dir()


@pytest.mark.thorough
def test_a_run_whose_machine_was_lost_goes_on_from_its_bucket_to_the_same_bytes(finished, killed_elsewhere):
    whole, resumed = finished / "whole", finished / "machine"
    assert lines(resumed) == lines(whole)
    assert (resumed / "ledger.jsonl").read_bytes() == (whole / "ledger.jsonl").read_bytes()
    for path in sorted((whole / "episodes").iterdir()):
        assert (resumed / "episodes" / path.name).read_bytes() == path.read_bytes()
    checkpoints, last = runs.last_checkpoint(resumed)
    assert str(checkpoints.folder).startswith("gs://") and last == 5
    assert metrics_writer.read(resumed / "sft") and (resumed / "logs" / "attempt_2").is_dir()
    assert (resumed / "before.json").exists()  # its folder was lost after that evaluation


@pytest.mark.thorough
def test_what_came_after_the_last_checkpoint_is_moved_aside_not_lost(finished, killed_elsewhere):
    aside = finished / "metrics" / "logs" / "attempt_2" / "discarded"
    moved = [json.loads(line)["step"] for line in (aside / "metrics.jsonl").read_text().splitlines()]
    assert moved in ([3], [1, 2, 3])  # the second where checkpoint 2 was still being written when the process died
    assert sorted(path.name for path in (aside / "episodes").iterdir()) == [f"step_{at:06d}.jsonl" for at in moved]


def test_accepted_groups_wait_for_min_signal_and_are_in_the_checkpoint(finished):
    rows = metrics_writer.read(finished / "whole")
    waits = [row["pool/waiting"] for row in rows]
    accepted = [row["pool/accepted"] for row in rows]
    held = 0
    for row, waiting, new in zip(rows, waits, accepted, strict=True):
        held += new
        if held >= 3:
            assert waiting == 0 and row["learner/loss"] is not None
            held = 0
        else:
            assert waiting == held and row["learner/loss"] is None
    host = checkpoint.Checkpoints(finished / "whole" / "checkpoints").host(2)
    assert len(host["waiting"]) == waits[1]


@pytest.mark.thorough
def test_a_sigterm_checkpoints_and_exits_with_143_and_the_same_command_goes_on(finished, tmp_path):
    stopped = start(finished / "stopped", cache=finished / "cache")
    deadline = time.monotonic() + 120
    metrics = finished / "stopped" / "metrics.jsonl"
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
        time.sleep(0.005)  # past the cold start, whose handler must be gone
    stopped.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in finish(stopped, 143)
    finish(start(finished / "stopped", cache=finished / "cache"), 0)
    assert lines(finished / "stopped") == lines(finished / "whole")


def test_a_finished_run_says_so_and_what_would_extend_it_before_anything_compiles(finished, monkeypatch):
    settings = config.load(finished / "whole" / "config.json")
    monkeypatch.setattr(driver.runtimes, "bind", None)
    said = []
    summary = train(settings, finished / "whole", say=said.append)
    assert summary == json.loads((finished / "whole/summary.json").read_text())
    assert f"is finished: {summary['steps']} steps" in said[0] and "train.steps=10 goes on" in said[1]
    (finished / "whole/report.html").unlink()  # as a second Ctrl-C at the end leaves it
    train(settings, finished / "whole", say=(again := []).append)
    assert "but the report, which was missing: " in again[1] and (finished / "whole/report.html").is_file()
    before = (finished / "whole/config.json").read_bytes()
    train(replace(settings, train=replace(settings.train, steps=1)), finished / "whole", say=said.append)
    assert (finished / "whole/config.json").read_bytes() == before
    with pytest.raises(TypeError):  # it would go on
        train(replace(settings, train=replace(settings.train, steps=6)), finished / "whole", say=said.append)


@pytest.mark.thorough
def test_the_rate_of_a_budget_s_last_update_is_that_of_a_last_step(tmp_path):
    """Two steps of 16 rollouts, by steps or by rollouts: lr and half of it. The last update of a budget had rate 0."""
    base = tiny(tmp_path)
    how = {"schedule": "linear", "warmup_updates": 0, "keep_zero_variance": True, "entropy_weight": 0.1}
    base = replace(base, learner=replace(base.learner, **how), sft=config.Sft(steps=0))
    base = replace(base, pool=replace(base.pool, min_signal=1))
    for name, limits in (("steps", {"steps": 2}), ("rollouts", {"steps": 100, "max_rollouts": 32})):
        train(replace(base, train=replace(base.train, **limits)), tmp_path / name, say=lambda line: None)
        rates = [row["learner/lr"] for row in metrics_writer.read(tmp_path / name)]
        assert rates == pytest.approx([base.learner.lr, base.learner.lr / 2]), name


@pytest.mark.parametrize("text", [b"", b"\xff{", b"[]", b'{"steps": 5}', b'{"steps": 5, "after": 3}'])
def test_a_damaged_summary_means_that_the_run_has_not_finished(tmp_path, text):
    (tmp_path / "summary.json").write_bytes(text)
    run = SimpleNamespace(folder=tmp_path, settings=tiny(tmp_path), say=None)
    assert driver._finished(run) is None
    (tmp_path / runs.BASE).write_bytes(text)
    assert begin._measured_before(run, None) in (None, json.loads(text) if text.startswith(b"{") else None)


@pytest.mark.parametrize("by", ["SIGTERM", "Ctrl-C"])
def test_a_signal_is_told_to_the_run_around_and_a_second_ctrl_c_ends_at_once(tmp_path, monkeypatch, by):
    number, code = {"SIGTERM": (signal.SIGTERM, 143), "Ctrl-C": (signal.SIGINT, 130)}[by]
    before, said = signal.getsignal(number), []
    settings = tiny(tmp_path)
    outer = runs.Run(tmp_path / "outer", settings, stage="train", say=said.append)
    inner = runs.Run(tmp_path / "inner", settings, stage="sft", say=said.append, within=outer)
    left = []
    monkeypatch.setattr(runs.os, "_exit", left.append)
    try:
        signal.raise_signal(number)
        assert inner.stopping and outer.stopping and left == []
        assert sum("Ctrl-C: saving and ending" in line for line in said) == (by == "Ctrl-C")
        ends = inner.end()
        assert ends.code == code and f"stopped by {by}; the same command goes on" in said[-1]
        signal.raise_signal(number)
        assert (130 in left) == (by == "Ctrl-C")
    finally:
        inner.close()
        outer.close()
    assert signal.getsignal(number) == before


def test_a_wrong_config_is_refused_by_the_function_as_by_the_command(tmp_path):
    settings = tiny(tmp_path)
    wrong = replace(settings, pool=replace(settings.pool, samples=1), learner=replace(settings.learner, lr=-1.0))
    for begin_with in (train, sft):
        with pytest.raises(errors.UserError, match="config is None"):
            begin_with(None, tmp_path / "run")
        with pytest.raises(errors.UserError, match=r"(?s)2 problems.*pool\.samples is 1.*learner\.lr is -1"):
            begin_with(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_sigterm_while_the_other_processes_are_asked_for_theirs_is_not_lost(tmp_path, monkeypatch):
    run, asked = runs.Run(tmp_path / "run", tiny(tmp_path), stage="train", say=lambda text: None), []

    def no_other():
        asked.append(signal.raise_signal(signal.SIGTERM))
        return False

    monkeypatch.setattr(runs.hosts, "stop_said", no_other)
    try:
        with monkeypatch.context() as two:
            two.setattr(runs.hosts, "count", lambda: 2)
            assert run.stop_now() and asked
        assert run.stops()
    finally:
        run.close()


@pytest.mark.parametrize("where", ["rollout", "learner"])
def test_a_sigterm_between_compiles_is_heard_there(tmp_path, monkeypatch, where):
    """Of the rollout's programs few are compiled, of the learner's none: a pod's take minutes."""
    place, name = {"rollout": (kv_cache.KVCache, "_appending"), "learner": (Runtime, "save")}[where]
    go_on, said = getattr(place, name), []

    def told(*positional):
        signal.raise_signal(signal.SIGTERM)
        return go_on(*positional)

    monkeypatch.setattr(place, name, told)
    monkeypatch.setattr(terminal, "is_verbose", lambda: True)
    settings = tiny(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        train(replace(settings, sft=replace(settings.sft, steps=0)), tmp_path / "run", say=said.append)
    assert stopped.value.code == 143 and "stopped by SIGTERM" in said[-1]
    assert not any(f"{where} programs compiled" in line for line in said)
    assert len(list(tmp_path.glob("run/checkpoints/step_00000000"))) == (where == "learner")


@pytest.mark.parametrize(("module", "name"), [(assemble, "questions"), (assemble, "place")])
def test_a_ctrl_c_while_something_loads_ends_the_run_behind_it(tmp_path, monkeypatch, module, name):
    go_on, said = getattr(module, name), []

    def told(*positional):
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(module, name, go_on)  # a second Ctrl-C would end the tests
        return go_on(*positional)

    monkeypatch.setattr(module, name, told)
    monkeypatch.setattr(engine.Engine, "warm_up", None)  # nothing is compiled: it would be called
    with pytest.raises(SystemExit) as stopped:
        train(tiny(tmp_path), tmp_path / "run", say=said.append)
    assert stopped.value.code == 130 and "no step was saved yet" in said[-1]
    assert (name == "questions") == (not any("to train on" in line for line in said))


@pytest.mark.thorough
def test_a_sigterm_in_an_evaluation_between_steps_saves_the_step(tmp_path, monkeypatch):
    """On the way, a program that compiles late is named with its seconds: here no cost is too small to be said."""
    measure, calls, said = driver.evaluate.measure, [], []
    monkeypatch.setattr(driver.compiles, "LATE_S", 0.0)

    def second(*positional, **named):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        try:
            return measure(*positional, **named)
        finally:
            jax.clear_caches()  # what tests before this one compiled: the step compiles again

    monkeypatch.setattr(driver.evaluate, "measure", second)
    one = tiny(tmp_path)
    one = replace(one, sft=replace(one.sft, steps=0), evaluation=replace(one.evaluation, every=1))
    with pytest.raises(SystemExit) as stopped:
        train(replace(one, train=replace(one.train, checkpoint_every=100)), tmp_path / "run", say=said.append)
    assert stopped.value.code == 143 and runs.last_checkpoint(tmp_path / "run")[1] == 1
    assert [row["step"] for row in metrics_writer.read(tmp_path / "run")] == [1]
    assert any(re.match(r"step 1: compiled .*\d in \d+\.\d s", line) for line in said)


@pytest.mark.thorough
def test_evaluations_follow_the_steps_that_reach_a_multiple_of_the_rollouts_whatever_a_step_costs(tmp_path):
    """Rounds that draw again make steps unlike; the run is stopped on the way, and its count goes on."""
    base = tiny(tmp_path)
    base = replace(base, pool=replace(base.pool, queries=2, rounds=use("refill")), sft=replace(base.sft, steps=0))
    base = replace(base, evaluation=replace(base.evaluation, every=0, every_rollouts=100))
    ends = (2, 6)  # after which the evaluation after training stands instead
    for steps in ends:
        train(replace(base, train=replace(base.train, steps=steps)), tmp_path / "run", say=lambda text: None)
    rows = metrics_writer.read(tmp_path / "run")
    spent = [0, *(row["budget/rollouts"] for row in rows)]
    reached = [after // 100 > before // 100 for before, after in itertools.pairwise(spent)]
    assert len({after - before for before, after in itertools.pairwise(spent)}) > 1  # else nothing is shown
    due = [is_reached and step not in ends for step, is_reached in enumerate(reached, 1)]
    assert ["eval/exact_match" in row for row in rows] == due and any(due) and not all(reached)


def test_an_evaluation_is_due_once_however_many_multiples_a_step_passes():
    every = config.Evaluation(every_rollouts=100)
    assert not driver._is_due(every, 1, 0, 99) and driver._is_due(every, 2, 99, 100)
    assert not driver._is_due(every, 3, 100, 199) and driver._is_due(every, 4, 199, 450)
    by_step = config.Evaluation(every=3)
    assert driver._is_due(by_step, 3, 0, 1) and not driver._is_due(by_step, 4, 99, 450)
    assert not driver._is_due(config.Evaluation(), 1, 0, 1000)


def test_an_incomplete_evaluation_before_the_first_step_is_made_again(tmp_path, monkeypatch):
    """A plug-in that fails in it, and again in the first rollout, ends the run there; mended, it is asked all again."""
    measure, collect, faulty = driver.evaluate.measure, driver.rollout_and_grade.collect, [True]

    def partly(*positional, **named):
        return measure(*positional, **named) | {"incomplete": faulty[0]}

    def failing(*positional, **named):
        if faulty[0]:
            raise RuntimeError("a plug-in's fault")
        return collect(*positional, **named)

    monkeypatch.setattr(driver.evaluate, "measure", partly)
    monkeypatch.setattr(driver.rollout_and_grade, "collect", failing)
    settings = tiny(tmp_path)
    settings = replace(settings, sft=replace(settings.sft, steps=0), train=replace(settings.train, steps=1))
    with pytest.raises(RuntimeError, match="a plug-in's fault"):
        train(settings, tmp_path / "run", say=str)
    assert json.loads((tmp_path / "run" / "before.json").read_text())["incomplete"]
    faulty[0] = False
    summary = train(settings, tmp_path / "run", say=str)
    assert not summary["before"]["incomplete"]
    assert not json.loads((tmp_path / "run" / "before.json").read_text())["incomplete"]


def test_the_evaluation_before_a_cold_start_that_is_interrupted_is_made_once(tmp_path, monkeypatch):
    """An attempt that ends in its cold start leaves it; with a real model it takes minutes."""
    measure, made, said = driver.evaluate.measure, [], []

    def counted(*positional, **named):
        made.append(1)
        return measure(*positional, **named)

    def interrupted(*positional, **named):
        raise errors.Interrupted

    monkeypatch.setattr(driver.evaluate, "measure", counted)
    monkeypatch.setattr(driver.begin, "sft", interrupted)
    one = tiny(tmp_path)
    one = replace(one, evaluation=replace(one.evaluation, base=True))
    for _ in range(2):
        with pytest.raises(SystemExit):
            train(one, tmp_path / "run", say=said.append)
    told = [line for line in said if line.startswith("before the cold start: ")]
    assert len(made) == 1 and len(told) == 2 and told[0] == told[1]


def test_what_all_processes_must_have_is_compared(tmp_path, monkeypatch):
    """Questions of either split, passages, model; tests/two_processes.py: what comes of a difference."""
    told = []
    monkeypatch.setattr(alike, "check", lambda **has: told.append(has))
    monkeypatch.setattr(driver.begin, "begin", lambda parts: 1 / 0)
    for at in range(2):
        one = tiny(tmp_path)
        one = replace(one, data=replace(one.data, world={**one.data.world, "dev": 8 + at}))
        with pytest.raises(ZeroDivisionError):
            train(one, tmp_path / f"run_{at}", say=lambda text: None)
    assert all(set(has) == {"questions", "passages", "model"} and all(has.values()) for has in told)
    assert told[0]["questions"] != told[1]["questions"] and told[0]["model"] == told[1]["model"]


def test_another_config_in_the_same_folder_is_refused_with_what_differs(finished):
    settings = replace(tiny(finished), seed=7)
    with pytest.raises(ValueError, match=r"other settings \(seed: 0 there, 7 here\)"):
        train(settings, finished / "whole")


def test_host_values_that_no_run_has_are_refused_and_nothing_is_moved(finished, tmp_path):
    """Of a stranger's run, whose checkpoint has its hashes."""
    shutil.copytree(finished / "whole", tmp_path / "run")
    place = epath.Path(tmp_path / "run" / "checkpoints" / "step_00000005")
    whole = json.loads((place / "host.json").read_text())
    facts = {fact: value for fact, value in committed.manifest(place).items() if fact != "files"}
    files = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.jsonl")}
    run = runs.Run(tmp_path / "run", config.load(tmp_path / "run" / "config.json"), stage="train", say=silent)
    wrong = {
        "metrics_bytes": "x", "ledger_bytes": -1, "model": -1, "pool": [], "rate": "1", "left_out": [0],
        "waiting": [{}], "cost_F": 1, "watch": {"past": {}}, "before": {"exact_match": 0.5},
    }  # fmt: skip
    try:
        parts = bind(run.settings, run)
        for name, value in [*wrong.items(), ("rate", whole["rate"])]:
            for file in ("manifest.json", "COMMITTED"):
                (place / file).unlink()
            (place / "host.json").write_text(json.dumps(whole | {name: value}))
            committed.commit(place, facts)
            is_right = value is whole[name]
            with nullcontext() if is_right else pytest.raises(ValueError, match="not one that this program writes"):
                assert run.go_on(parts.learner.abstract, parts.check)[2] == 5
            assert files == {path: path.read_bytes() for path in files}
    finally:
        run.close()


def test_a_folder_whose_run_never_began_takes_other_settings(tmp_path):
    """A start that failed on a mistake leaves its config and an empty folder of checkpoints."""
    settings = tiny(tmp_path)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "metrics.jsonl").touch()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config.to_json(replace(settings, seed=7))))
    runs.Run(tmp_path / "run", settings, stage="train").close()
    assert config.load(tmp_path / "run" / "config.json").seed == settings.seed


def test_a_run_whose_checkpoints_are_gone_does_not_begin_at_0_unasked(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished / "whole", run)
    before = (run / "metrics.jsonl").read_bytes(), (run / "ledger.jsonl").read_bytes()
    for marker in run.glob("checkpoints/*/COMMITTED"):
        marker.unlink()
    with pytest.raises(ValueError, match=r"has metrics of \d steps and no whole checkpoint: .* --restart"):
        train(tiny(finished), run, say=lambda text: None)
    assert ((run / "metrics.jsonl").read_bytes(), (run / "ledger.jsonl").read_bytes()) == before


def test_rows_may_change_with_the_mesh_where_a_batch_is_one_update(tmp_path):
    base = tiny(tmp_path)
    for updates, refused in ((1, False), (2, True)):
        one = replace(base, learner=replace(base.learner, updates=updates))
        more = replace(one, learner=replace(one.learner, rows=2 * one.learner.rows))
        with pytest.raises(ValueError, match="learner.rows") if refused else nullcontext():
            record = plugin_record.record(more, {})
            runs.Run._refuse_another(SimpleNamespace(settings=more), one, record, record, "there")


@pytest.mark.thorough
def test_a_run_goes_on_with_other_lanes(tmp_path):
    base = tiny(tmp_path)
    more = replace(base, rollout=replace(base.rollout, lanes=2))
    train(replace(base, train=replace(base.train, steps=2)), tmp_path / "run", say=lambda text: None)
    summary = train(replace(more, train=replace(base.train, steps=3)), tmp_path / "run", say=lambda text: None)
    assert summary["steps"] == 3


def test_what_is_compiled_in_a_step_is_counted_and_said(finished):
    rows = metrics_writer.read(finished / "whole")
    said = dict(re.findall(r"step (\d+): compiled (.*) in [\d.]+ s", (finished / "said").read_text()))
    assert said and [int(step) for step in said] == [at for at, row in enumerate(rows, 1) if row["perf/compiles"]]
    for step, programs in said.items():
        assert sum(map(int, re.findall(r" (\d+)", programs))) == rows[int(step) - 1]["perf/compiles"]
        assert "train_step" not in programs


def test_a_cold_start_in_the_folder_of_a_run_is_refused_and_another_model_too(finished, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="holds a run of `qr-jax train`"):
        sft(tiny(finished), finished / "whole")
    assert (finished / "whole" / "checkpoints" / "step_00000005").is_dir()
    other = replace(tiny(finished), model=replace(tiny(finished).model, name="quickstart"))
    other = replace(other, train=replace(other.train, init=str(finished / "whole")))
    monkeypatch.setattr(engine.Engine, "warm_up", lambda *_, **__: 0.0)  # the weights are read behind it
    with pytest.raises(ValueError, match="another model"):
        train(other, tmp_path / "other", say=silent)
    assert not list((tmp_path / "other" / "checkpoints").glob("step_*"))


def silent(text):
    """Says nothing."""


@pytest.fixture(scope="module")
def from_files(tmp_path_factory):
    """A run on JSONL files whose pool is used up after two steps of plain GRPO."""
    folder = tmp_path_factory.mktemp("files")
    formats.export(generate.build(generate.WorldSettings(documents=200, train=8, dev=4, test=0, traces=8)), folder)
    settings = tiny(folder)
    names = {"train": "train", "eval": "dev", "corpus": "documents", "traces": "traces"}
    data = replace(settings.data, **{name: str(folder / f"{file}.jsonl") for name, file in names.items()})
    settings = replace(
        settings, data=data, pool=replace(settings.pool, rule=use("grpo"), on_exhausted="stop", min_signal=1)
    )
    said: list[str] = []
    train(settings, folder / "run", say=said.append)
    return settings, folder, said


@pytest.mark.thorough
def test_questions_and_passages_of_ones_own_work_and_a_used_up_pool_stops_the_run(from_files):
    settings, folder, said = from_files
    rows = metrics_writer.read(folder / "run")
    assert [row["pool/eligible"] for row in rows] == [4, 0]
    assert any("every query is used up" in text for text in said)


def test_a_changed_question_file_is_refused_and_nothing_is_moved(from_files):
    settings, folder, _ = from_files
    questions = folder / "train.jsonl"
    before, metrics = questions.read_text(), (folder / "run" / "metrics.jsonl").read_bytes()
    questions.write_text("".join(before.splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="query list"):
        train(settings, folder / "run", say=silent)
    questions.write_text(before)
    assert (folder / "run" / "metrics.jsonl").read_bytes() == metrics


def test_a_question_too_long_for_the_context_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    """It ended the run in the step that drew it; and neither a longer context nor other questions may go on with it."""
    formats.export(generate.build(generate.WorldSettings(documents=200, train=8, dev=4, test=0, traces=8)), tmp_path)
    settings = tiny(tmp_path)
    names = {"train": "train", "eval": "dev", "corpus": "documents", "traces": "traces"}
    data = replace(settings.data, **{name: str(tmp_path / f"{file}.jsonl") for name, file in names.items()})
    *rows, last = map(json.loads, (tmp_path / "train.jsonl").read_text().splitlines())
    last["question"] = " ".join([last["question"]] * 100)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*rows, last)))
    monkeypatch.setattr(begin, "begin", lambda runtime: pytest.fail("the run began"))
    with pytest.raises(ValueError, match=f"the prompt of query '{last['id']}' has .* less than rollout.context_tokens"):
        train(replace(settings, data=data), tmp_path / "run", say=silent)


@pytest.mark.thorough
def test_a_plug_in_that_raises_costs_no_step_before(tmp_path, monkeypatch):
    """Seven steps were lost, and nothing said how to go on."""
    settings = with_loss(tmp_path, "clip")
    settings = replace(settings, train=replace(settings.train, steps=3, checkpoint_every=50))
    honest, calls, said = odd_tokens.odd_tokens, [], []

    def breaks(query, episodes):
        calls.append(query)
        if len(calls) == 13:  # in the third step: four groups each, and up to four calls before the first
            raise KeyError("answr")
        return honest(query, episodes)

    monkeypatch.setattr(odd_tokens, "odd_tokens", breaks)
    with pytest.raises(KeyError, match="answr"):
        train(settings, tmp_path / "run", say=said.append)
    assert "saved after step 2; fix the plug-in, then the same command resumes the run" in said
    train(settings, tmp_path / "run", say=said.append)
    assert [row["step"] for row in metrics_writer.read(tmp_path / "run") if "pool/drawn" in row] == [1, 2, 3]
    assert not list((tmp_path / "run" / "logs").glob("*/discarded")) and len(calls) > 13


@pytest.mark.thorough
def test_an_error_within_a_step_costs_no_step_before(tmp_path, monkeypatch):
    settings = with_loss(tmp_path, "clip")
    settings = replace(settings, train=replace(settings.train, steps=2, checkpoint_every=50))
    take_step, said = driver.take_step, []

    def fails(runtime, state, run_state, step):
        if step == 1 and said.count("once") == 0:
            said.append("once")
            raise RuntimeError("no memory")
        return take_step(runtime, state, run_state, step)

    monkeypatch.setattr(driver, "take_step", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        train(settings, tmp_path / "run", say=said.append)
    assert "saved after step 1; fix the error, then the same command resumes the run" in said
    train(settings, tmp_path / "run", say=said.append)
    assert [row["step"] for row in metrics_writer.read(tmp_path / "run") if "pool/drawn" in row] == [1, 2]
    assert not list((tmp_path / "run" / "logs").glob("*/discarded"))


def with_loss(folder, name, **learner):
    settings = tiny(folder)
    return replace(
        settings,
        sft=replace(settings.sft, steps=0),
        pool=replace(settings.pool, min_signal=1),
        learner=replace(settings.learner, loss=use(name), **learner),
        train=replace(settings.train, steps=40),  # few of whose groups bear signal
        evaluation=replace(settings.evaluation, questions=2),
    )


@pytest.mark.thorough
def test_a_loss_that_is_never_finite_ends_the_run_with_its_name(tmp_path):
    with pytest.raises(ValueError, match="none of the first 2 updates was finite; look at loss 'nan_loss.nan_loss'"):
        train(with_loss(tmp_path, "nan_loss.nan_loss", max_nonfinite=2), tmp_path / "run", say=silent)


def test_updates_that_are_not_finite_roll_back_with_other_keys_and_end_with_a_reason(tmp_path):
    settings = with_loss(tmp_path, "nan_loss.nan_once_it_moved", max_nonfinite=1, lr=1e-3)
    said: list[str] = []
    with pytest.raises(ValueError, match="not finite again after 3 rollbacks"):
        train(settings, tmp_path / "run", say=said.append)
    assert sum("back to step" in text for text in said) == 3
    kept = list((tmp_path / "run" / "logs").glob("attempt_*/discarded/episodes/*.jsonl"))
    assert len(kept) >= 3 and len({path.read_text() for path in kept}) == len(kept)  # each with its own samples


def test_a_config_that_never_began_can_be_mended_in_its_folder(tmp_path):
    settings = tiny(tmp_path)
    broken = replace(settings, data=replace(settings.data, train=str(tmp_path / "none.jsonl")))
    with pytest.raises(ValueError, match="no file"):
        train(broken, tmp_path / "run", say=silent)
    runs.Run(tmp_path / "run", settings, stage="train").close()


def test_the_summary_has_what_the_readme_names(finished):
    summary = json.loads((finished / "whole" / "summary.json").read_text())
    names = {"greedy_before", "greedy_after", "se", "zero_variance_rate", "recycled_share", "rollouts", "wall_s"}
    assert (
        names <= set(summary)
        and summary["rollouts"] == 5 * 16
        and set(summary["se"]) == {"greedy_before", "greedy_after"}
    )
    assert json.loads((finished / "whole" / "before.json").read_text()) == summary["before"]
    assert runs.load(finished / "whole").reward == use("odd_tokens.odd_tokens")


def test_an_update_uses_what_waited_and_what_was_left_out_beside_it_once(monkeypatch):
    packed = []
    monkeypatch.setattr(driver.log, "check_advantage", lambda *_: None)
    trainer = SimpleNamespace(
        by_parts=False,
        rate=lambda updates, done: 0.5,
        update=lambda state, batch, rate, *_: (SimpleNamespace(updates=state.updates + 1, rate=rate), []),
    )
    run = SimpleNamespace(check_stop=None)
    parts = SimpleNamespace(settings=tiny(Path()), learner=trainer, run=run)  # min_signal=3
    parts.batch = lambda state, groups, left_out, key: packed.append(left_out) or "all"
    standing = RunState(pool.create(3), waiting=("a", "b"), left_out=(40, 4))
    state = SimpleNamespace(params={}, base=None, updates=0)
    assert driver._update(parts, state, standing, 0, 0.5)[:2] == (state, standing) and not packed
    state, after, updated = driver._update(parts, state, replace(standing, waiting=("a", "b", "c")), 0, 0.5)
    assert (state.updates, after.waiting, after.left_out, packed) == (1, (), (0, 0), [(40, 4)])
    assert state.rate == 0.5 * standing.rate
    assert updated.groups == ("a", "b", "c") and updated.batch == "all"


def test_shuffled_rewards_keep_their_values_and_stay_among_the_valid():
    valid_QG = np.array([[True, True, True], [True, False, True]])
    groups = [
        grading.Group(q, 0, (), grades(reward_G[None], valid_QG[q][None]), grading.spent(()))
        for q, reward_G in enumerate(np.array([[1, 1, 0], [0, 0, 0]], np.float32))
    ]
    dealt = [grading.joined(grading.shuffled(groups, seed=0, step=step), 3) for step in range(20)]
    assert all(grades.reward_QG[valid_QG].sum() == 2 and grades.reward_QG[1, 1] == 0 for grades in dealt)
    assert len({grades.reward_QG.tobytes() for grades in dealt}) > 3


def test_turn_rewards_are_not_shuffled_in_silence():
    graded = grades([[1, 0]], np.ones((1, 2), bool), None, np.ones((1, 2, 3)))
    with pytest.raises(ValueError, match="deals rewards over episodes, and this reward gives some to turns"):
        grading.shuffled([grading.Group(0, 0, (), graded, grading.spent(()))], seed=0, step=0)


@pytest.mark.parametrize(
    ("limits", "step", "spent", "share", "last"),
    [({}, 25, 0, 0.25, 100), ({"max_rollouts": 1000}, 25, 500, 0.5, 50), ({"max_rollouts": 1000}, 25, 1010, 1.0, 25),
     ({"max_tokens": 1000}, 90, 100, 0.9, 100), ({}, 0, 0, 0.0, 100)],
)  # fmt: skip
def test_how_much_of_a_run_is_done_is_said_by_its_steps_or_by_the_budget_that_ends_it(limits, step, spent, share, last):
    standing = RunState(pool.create(3), rollouts=spent, tokens=spent)
    limits = config.Train(steps=100, **limits)
    assert driver._share_done(limits, step, standing) == share
    assert driver._last_step(limits, step, standing) == last


def by_parts(folder: Path) -> config.Config:
    """Two steps of several micro-batches each, and no checkpoint but the first and the last."""
    settings = tiny(folder)
    return replace(
        settings, sft=replace(settings.sft, steps=0), evaluation=config.Evaluation(questions=1),
        learner=replace(settings.learner, rows=1, keep_zero_variance=True), pool=replace(settings.pool, min_signal=1),
        train=replace(settings.train, steps=2, checkpoint_every=5),
    )  # fmt: skip


def stopping(monkeypatch, at: Callable[[int, int], None]) -> None:
    """Call `at` between micro-batches: with the number of the update (0: what compiles) and that of the call in it."""
    make, steps = learner.make, itertools.count()

    def told(*given, **named):
        made = make(*given, **named)

        def step(*given, between, before_applied):
            number, micro_batches = next(steps), itertools.count(1)

            def counted():
                at(number, next(micro_batches))
                between()

            return made.step_by_parts(*given, between=counted, before_applied=before_applied)

        return replace(made, step_by_parts=step)

    monkeypatch.setattr(learner, "LONG", 0)
    monkeypatch.setattr("qr_jax.step.runtime.make", told)


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory):
    """A whole run, and one that a SIGTERM stopped in its second update, and that went on; its first step was traced."""
    folder, calls, said = tmp_path_factory.mktemp("cut_off"), [], []

    def stop_in_the_second_update(*at):
        calls.append(at)
        if at == (2, 3):  # 0: what compiles
            os.kill(os.getpid(), signal.SIGTERM)
            until = time.monotonic() + 5
            while "SIGTERM: saving and ending" not in said and time.monotonic() < until:  # the main thread says it
                time.sleep(0.01)

    settings = by_parts(folder)
    profiled = replace(settings, train=replace(settings.train, profile="0:1"))
    with pytest.MonkeyPatch.context() as within:
        stopping(within, lambda *at: calls.append(at))
        train(settings, folder / "whole", say=lambda _: None)
    micro_batches = [number for update, number in calls if update == 2]
    calls.clear()
    with pytest.MonkeyPatch.context() as within:
        stopping(within, stop_in_the_second_update)
        with pytest.raises(SystemExit) as stopped:
            train(profiled, folder / "run", say=said.append)
    saved = checkpoint.Checkpoints(folder / "run" / "checkpoints").steps()
    traces = sorted((folder / "run").rglob("*.xplane.pb"))
    with pytest.MonkeyPatch.context() as within:
        stopping(within, lambda *at: None)
        train(profiled, folder / "run", say=said.append)
    return SimpleNamespace(
        folder=folder, micro_batches=micro_batches, last=calls[-1], code=stopped.value.code, saved=saved, said=said,
        traces=traces,
    )  # fmt: skip


@pytest.mark.thorough
def test_a_sigterm_between_micro_batches_ends_the_update_there_and_the_run_goes_on_to_the_same_bytes(cut_off):
    """It was heard when the update was over: at 135M parameters on two cores after minutes."""
    assert len(cut_off.micro_batches) > 4  # the last of these calls is before the optimizer
    assert cut_off.code == 143 and cut_off.last == (2, 3) and cut_off.saved == [1, 0]
    assert "going on after step 1 (attempt 2)" in cut_off.said
    assert differences(cut_off.folder / "run", cut_off.folder / "whole", 2) == []


def test_the_steps_that_are_asked_for_are_traced_and_no_others(cut_off):
    (trace,) = cut_off.traces
    assert trace.is_relative_to(cut_off.folder / "run" / "profile" / "process_0" / "plugins" / "profile")
    host = jax.profiler.ProfileData.from_file(str(trace)).find_plane_with_name("/host:CPU")
    named = [event.name for line in host.lines for event in line.events]
    assert [named.count(name) for name in ("step", "rollout", "update")] == [1, 1, 1]
    assert [*(cut_off.folder / "run").rglob("*.xplane.pb")] == [trace]  # the second attempt began behind it
    assert not (cut_off.folder / "whole" / "profile").exists()


def test_each_process_writes_a_trace_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(profile.hosts, "index", lambda: 1)
    with profile.traced("1:2", tmp_path) as entered:
        for step in range(3):
            with entered(step):
                jnp.ones(2).block_until_ready()
            assert bool([*tmp_path.rglob("*.xplane.pb")]) == (step == 2)
    assert len([*tmp_path.glob("profile/process_1/plugins/profile/*/*.xplane.pb")]) == 1


def test_the_shares_of_the_wall_time_add_up_over_attempts_and_name_what_a_restart_cost(cut_off):
    first, last = metrics_writer.read(cut_off.folder / "run")
    whole = metrics_writer.read(cut_off.folder / "whole")[-1]
    names = [f"time/of_wall_{name}" for name in WALL]
    for row in (first, last, whole):
        assert sum(row[name] for name in names) == pytest.approx(1) and min(row[name] for name in names) >= 0
    ended_s = float((cut_off.folder / "run/logs/attempt_1/wall_s").read_text())
    restarts_s = last["time/of_wall_restarts"] * last["time/wall_s"]
    assert ended_s - first["time/wall_s"] < restarts_s < last["time/wall_s"] - first["time/wall_s"]
    assert first["time/of_wall_restarts"] == whole["time/of_wall_restarts"] == 0


def test_a_sigterm_while_the_learner_compiles_ends_it_between_two_programs(tmp_path, monkeypatch):
    said, calls = [], []

    def stop(*at):
        calls.append(at)
        os.kill(os.getpid(), signal.SIGTERM)
        until = time.monotonic() + 5
        while "SIGTERM: saving and ending" not in said and time.monotonic() < until:
            time.sleep(0.01)

    stopping(monkeypatch, stop)
    with pytest.raises(SystemExit) as stopped:
        train(by_parts(tmp_path), tmp_path / "run", say=said.append)
    assert stopped.value.code == 143 and "stopped by SIGTERM" in said[-1]
    assert calls == [(0, 1)] and checkpoint.Checkpoints(tmp_path / "run" / "checkpoints").steps() == [0]
