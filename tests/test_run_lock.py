"""A run folder has one writer: the second is refused by name, a killed one leaves nothing that must be removed."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from qr_jax import config, runs
from qr_jax.run_lock import NAME, RunLock, holder

HOLD = "import sys, time, pathlib; from qr_jax.run_lock import RunLock; lock = RunLock(pathlib.Path(sys.argv[1]))"


def test_a_second_process_is_refused_by_the_first_one_s_name_and_a_killed_one_s_lock_is_free(tmp_path):
    command = [sys.executable, "-c", f"{HOLD}; print('held', flush=True); time.sleep(60)", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        with pytest.raises(
            ValueError, match=rf"is being written by process {process.pid} on .*: wait for it or end it"
        ):
            RunLock(tmp_path)
        assert holder(tmp_path).startswith(f"process {process.pid} on")  # the refused one wrote nothing
        process.send_signal(signal.SIGKILL)
    RunLock(tmp_path).release()


def test_a_lock_file_that_says_nothing_is_still_a_lock(tmp_path):
    lock = RunLock(tmp_path)
    (tmp_path / NAME).write_bytes(b"\xff")
    with pytest.raises(ValueError, match="is being written by another process"):
        RunLock(tmp_path)
    lock.release()
    assert os.path.getsize(tmp_path / NAME) == 0


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
    (tmp_path / "metrics.jsonl").write_text("")  # a run that fails in its start gives the folder back, too
    with pytest.raises(ValueError, match="other settings"):
        runs.Run(tmp_path, replace(settings, seed=settings.seed + 1), stage="train")
    RunLock(tmp_path).release()
