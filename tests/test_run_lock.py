"""A run folder has one writer: the second is refused by name, a killed one leaves nothing that must be removed."""

import fcntl
import os
import pathlib
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from qr_jax import config
from qr_jax.config import use
from qr_jax.errors import Busy
from qr_jax.lab import run_folders
from qr_jax.run import runs
from qr_jax.run.run_lock import NAME, RunLock, named, read

HOLD = "import sys, time, pathlib; from qr_jax.run.run_lock import RunLock; lock = RunLock(pathlib.Path(sys.argv[1]))"


def test_a_second_process_is_refused_by_the_first_one_s_name_and_a_killed_one_s_lock_is_free(tmp_path):
    command = [sys.executable, "-c", f"{HOLD}; print('held', flush=True); time.sleep(60)", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        with pytest.raises(
            ValueError, match=rf"is being written by process {process.pid} on .*: wait for it or end it"
        ):
            RunLock(tmp_path)
        assert named(read(tmp_path)).startswith(f"process {process.pid} on")  # the refused one wrote nothing
        process.send_signal(signal.SIGKILL)
    RunLock(tmp_path).release()


def test_a_lock_that_is_no_file_is_refused_and_nothing_is_written_through_it(tmp_path):
    mine, folder = tmp_path / "mine", tmp_path / "run"
    mine.write_text("mine")
    folder.mkdir()
    for put in (lambda path: path.symlink_to(mine), lambda path: path.symlink_to(tmp_path / "new"), os.mkfifo,
                pathlib.Path.mkdir):  # fmt: skip
        put(folder / NAME)
        with pytest.raises(ValueError, match="run.lock is no file but a .*; take it away"):
            RunLock(folder)
        assert read(folder) is None
        (folder / NAME).rmdir() if (folder / NAME).is_dir() else (folder / NAME).unlink()
    assert mine.read_text() == "mine" and not (tmp_path / "new").exists()


def test_a_lock_file_that_says_nothing_is_still_a_lock(tmp_path):
    lock = RunLock(tmp_path)
    (tmp_path / NAME).write_bytes(b"\xff")
    with pytest.raises(ValueError, match="is being written by another process"):
        RunLock(tmp_path)
    lock.release()
    assert os.path.getsize(tmp_path / NAME) == 0


def test_a_run_set_aside_keeps_its_files_under_another_name(tmp_path):
    settings = config.load("configs/two_layer.py", [])
    assert run_folders.set_aside(tmp_path / "run", settings) is None
    for number in (1, 2):
        (tmp_path / "run").mkdir()
        (tmp_path / "run/metrics.jsonl").write_text(str(number))
        assert run_folders.set_aside(tmp_path / "run", settings) == str(tmp_path / f"run.set_aside_{number}")
        assert (tmp_path / f"run.set_aside_{number}/metrics.jsonl").read_text() == str(number)
    (tmp_path / "run").mkdir()
    lock = RunLock(tmp_path / "run")
    with pytest.raises(ValueError, match="is being written by"):
        run_folders.set_aside(tmp_path / "run", settings)
    lock.release()
    in_bucket = replace(settings, train=replace(settings.train, bucket="gs://a/b"))
    with pytest.raises(ValueError, match="does not set gs://a/b aside"):
        run_folders.set_aside(tmp_path / "run", in_bucket)


def test_a_folder_set_aside_while_another_start_takes_it_is_not_locked_by_its_old_file(tmp_path, monkeypatch):
    folder, flock = tmp_path / "run", fcntl.flock

    def after_it_was_set_aside(*given):
        monkeypatch.setattr(fcntl, "flock", flock)
        folder.rename(tmp_path / "aside")
        flock(*given)

    monkeypatch.setattr(fcntl, "flock", after_it_was_set_aside)
    lock = RunLock(folder)
    assert read(folder) == lock.about and (tmp_path / "aside" / NAME).stat().st_size == 0
    with pytest.raises(ValueError, match="is being written by"):
        RunLock(folder)
    lock.release()


def test_a_folder_is_held_until_it_has_its_new_name(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    RunLock(folder).release()
    rename, refused = pathlib.Path.rename, []

    def while_another_starts(path, to):
        with pytest.raises(ValueError, match="is being written by"):
            RunLock(folder)
        refused.append(path)
        return rename(path, to)

    monkeypatch.setattr(pathlib.Path, "rename", while_another_starts)
    run_folders.set_aside(folder, config.load("configs/two_layer.py", []))
    assert refused == [folder] and not folder.exists()


def test_a_folder_whose_cold_start_is_being_written_is_not_set_aside(tmp_path):
    """The folder was renamed under `qr-jax sft`, which ended and lost what it had not saved."""
    settings, folder = config.load("configs/two_layer.py", []), tmp_path / "run"
    (folder / "sft").mkdir(parents=True)
    cold = RunLock(folder / "sft")
    with pytest.raises(ValueError, match="run/sft is being written by"):
        run_folders.set_aside(folder, settings)
    assert folder.is_dir()
    cold.release()
    RunLock(folder).release()  # who was refused holds nothing
    assert run_folders.set_aside(folder, settings) == f"{folder}.set_aside_1" and not folder.exists()


def test_a_ledger_that_is_shorter_than_its_checkpoint_says_is_named(tmp_path):
    run = runs.Run(tmp_path, config.load("configs/two_layer.py", []), stage="train", say=lambda line: None)
    state = {"embed": jnp.zeros(3)}
    abstract = jax.eval_shape(lambda: state)
    try:
        run.go_on(abstract, lambda host: None)
        run.write_draws([{"step": 1}, {"step": 1}])
        run.save(1, state, {})
        run.write_draws([{"step": 2}])
        assert run.go_on(abstract, lambda host: None) is not None  # the later line is moved aside
        assert (tmp_path / "ledger.jsonl").read_text() == '{"step": 1}\n' * 2
        assert (tmp_path / "logs/attempt_2/discarded/ledger.jsonl").read_text() == '{"step": 2}\n'
        (tmp_path / "ledger.jsonl").write_text('{"step": 1}\n')
        with pytest.raises(ValueError, match="ledger.jsonl has 12 bytes, but the checkpoint was .* had 24"):
            run.go_on(abstract, lambda host: None)
    finally:
        run.close()


def opened(folder, *words):
    return runs.Run(folder, config.load("configs/two_layer.py", list(words)), stage="train", say=lambda line: None)


def test_a_rollback_that_is_cut_short_goes_on_where_it_went_back_to(tmp_path):
    """Its lines were cut at once, and later checkpoints went only with its save: a kill between left no way on."""
    state = {"embed": jnp.zeros(3)}
    abstract, keeps = jax.eval_shape(lambda: state), "train.keep_checkpoints=3"
    run = opened(tmp_path, keeps)
    try:
        run.go_on(abstract, lambda host: None)
        for step in (1, 2, 3):
            run.write_draws([{"step": step}])
            run.save(step, state, {})
        went_back = run.go_on(abstract, lambda host: None, step=1)
        assert went_back is not None and went_back[2] == 1
        run.checkpoints._clear(run.checkpoints.path(1))  # how the save that follows begins
    finally:
        run.close()
    again = opened(tmp_path, keeps)
    try:
        found = again.go_on(abstract, lambda host: None)
        assert found is not None and found[2] == 1 and again.checkpoints.steps() == [1]
    finally:
        again.close()


def test_what_another_config_measured_before_the_cold_start_is_measured_again(tmp_path):
    opened(tmp_path).close()
    (tmp_path / runs.BASE).write_text("{}")
    opened(tmp_path).close()
    assert (tmp_path / runs.BASE).is_file()
    opened(tmp_path, "seed=9").close()
    assert not (tmp_path / runs.BASE).exists()


def test_a_budget_may_grow_as_the_end_of_a_run_says(tmp_path):
    opened(tmp_path, "train.max_rollouts=16").close()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    opened(tmp_path, "train.max_rollouts=32").close()


def test_a_signal_while_a_run_is_closed_does_not_cut_off_what_is_saved(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    run = opened(tmp_path)
    done, close = [], run.checkpoints.close

    def signalled():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append(close())

    monkeypatch.setattr(run.checkpoints, "close", signalled)
    run.close()
    assert done == [None] and signal.getsignal(signal.SIGTERM) == before


def test_a_run_refuses_a_folder_in_use_before_it_writes_and_gives_it_back_when_it_ends(tmp_path):
    settings = config.load("configs/two_layer.py", [])
    lock = RunLock(tmp_path)
    with pytest.raises(ValueError, match="is being written by"):
        runs.Run(tmp_path, settings, stage="train")
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME]
    lock.release()
    first = runs.Run(tmp_path, settings, stage="train", say=lambda line: None)
    with pytest.raises(ValueError, match="is being written by"):
        runs.Run(tmp_path, settings, stage="train")
    first.close()
    runs.Run(tmp_path, settings, stage="train", say=lambda line: None).close()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')  # a run that fails in its start gives the folder back, too
    with pytest.raises(ValueError, match="other settings"):
        runs.Run(tmp_path, replace(settings, seed=settings.seed + 1), stage="train")
    RunLock(tmp_path).release()


@pytest.mark.parametrize("inside", [False, True])
def test_how_a_run_s_judge_is_asked_may_change_and_whom_it_asks_may_not(tmp_path, inside):
    """ "raise reward.budget, and the same command goes on" was refused."""
    settings, first = config.load("configs/two_layer.py", []), {"url": "http://a/v1", "model": "m"}

    def judged(more):
        judge = use("judge", **{**first, **more})
        return replace(settings, reward=use("overlong", of=judge) if inside else judge)

    settings, at = judged({}), "reward.settings.of.settings" if inside else "reward.settings"
    runs.Run(tmp_path, settings, stage="train", say=lambda line: None).close()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    said: list[str] = []
    for more in (
        {"budget": 7},
        {"url": "http://b/v1", "timeout_s": 1.0, "retries": 1, "at_once": 2, "key_env": "A_KEY"},
    ):
        runs.Run(tmp_path, judged(more), stage="train", say=said.append).close()
    (told, *_) = [
        line for line in said if line.startswith(f"the reward's server is asked otherwise from here on: {at}")
    ]
    assert f"{at}.budget: {None if inside else 100000} there, 7 here" in told  # inside, a default is not kept
    with pytest.raises(ValueError, match=f"other settings .{at}.model"):
        runs.Run(tmp_path, judged({"model": "n"}), stage="train", say=said.append)


@pytest.fixture
def going_on(tmp_path):
    """A run whose first step is written and saved."""
    folder = tmp_path / "run"
    run = runs.Run(folder, config.load("configs/two_layer.py", []), stage="train", say=lambda line: None)
    state = {"embed": jnp.zeros(3)}
    run.go_on(jax.eval_shape(lambda: state), lambda host: None)

    def step(number):
        run.write_draws([{"step": number}])
        run.write_metrics(number, {"pool/drawn": 1})
        run.save(number, state, {})
        run.checkpoints.wait()

    step(1)
    yield folder, step
    with suppress(OSError):
        run.close()


def test_a_lock_that_was_removed_beneath_a_run_ends_it_for_another_may_have_the_folder(going_on):
    folder, step = going_on
    (folder / NAME).unlink()
    other = RunLock(folder)
    with pytest.raises(
        Busy, match="run.lock was removed while this process held it: another process may have taken it"
    ):
        step(2)
    other.release()
    assert (
        len((folder / "metrics.jsonl").read_text().splitlines()) == 1 and not (folder / "checkpoints/step_2").exists()
    )


def test_a_folder_that_is_moved_away_beneath_a_run_ends_it(going_on, tmp_path):
    folder, step = going_on
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="run was moved or removed while it was written: move it back, and sta"):
        step(2)
