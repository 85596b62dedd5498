"""A bucket has one run at a time: of two one is refused, a dead one is replaced, and a sleeper writes no more."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import jax.numpy as jnp
import pytest
from loopback_bucket import led_there

from qr_jax import config, errors
from qr_jax.cli import cli
from qr_jax.parallel import compile_cache
from qr_jax.run import bucket, lease, runs
from qr_jax.run.lease import Lease
from qr_jax.run.run_lock import RunLock

HOLD = """
import pathlib, sys, time
from qr_jax.run import bucket, lease, run_lock
lease.RENEW_S, lease.STALE_S, lease.ASK_S = 0.1, 0.8, 0.1
lock = run_lock.RunLock(pathlib.Path(sys.argv[1]))
held = lease.Lease(bucket.opened(sys.argv[2]), lock, say=print)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def on_loopback():
    with led_there() as url:
        yield url


@pytest.fixture
def place(tmp_path, on_loopback, monkeypatch):
    for name, value in {"RENEW_S": 0.1, "STALE_S": 0.8, "ASK_S": 0.05}.items():
        monkeypatch.setattr(lease, name, value)
    return bucket.opened(f"{on_loopback}/{tmp_path.name}")


@pytest.fixture
def take(tmp_path, place):
    """Takes the lease from a folder of that name, as another machine has its own; and what was said."""
    locks = []

    def took(name: str, **more):
        (tmp_path / name).mkdir(exist_ok=True)
        said, lock = [], RunLock(tmp_path / name)
        locks.append(lock)
        return Lease(place, lock, say=said.append, **more), said

    yield took
    for lock in locks:
        lock.release()


def process(folder: Path, place) -> subprocess.Popen[str]:
    """One that holds the lease by now, from its own folder."""
    folder.mkdir()
    started = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(place)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdout and started.stdout.readline() == "held\n"
    return started


def test_a_second_machine_is_refused_by_the_owner_s_name_and_after_a_clean_end_waits_for_nothing(place, take, tmp_path):
    first, _ = take("first")
    with pytest.raises(errors.Busy, match=rf"is being written by process {os.getpid()} on .*: wait for it or end it"):
        take("second")
    first.hold()  # and the first one goes on
    first.release()
    began = time.monotonic()
    second, said = take("third")
    assert time.monotonic() - began < lease.STALE_S and said == []
    second.release()
    assert not (place / "run.lock").exists()


def test_of_many_at_once_one_wins(place, take, tmp_path):
    owners, refused = [], []

    def contend(number):
        try:
            owners.append(take(str(number))[0])
        except errors.Busy as error:
            refused.append(str(error))

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(owners) == 1 and len(refused) == 7
    owners[0].release()


def test_many_that_wait_for_a_dead_owner_have_one_heir(place, take, tmp_path):
    dead = process(tmp_path / "dead", place)
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    test_of_many_at_once_one_wins(place, take, tmp_path)


def test_a_killed_owner_s_lease_is_taken_over_by_another_machine_once_it_is_stale(place, take, tmp_path):
    with process(tmp_path / "first", place) as first:
        first.send_signal(signal.SIGKILL)
        began = time.monotonic()
        second, said = take("second")
        assert time.monotonic() - began >= lease.STALE_S
        assert len(said) == 1 and f"was held by process {first.pid} on" in said[0]
        second.release()


def test_the_same_run_started_again_on_its_own_machine_waits_for_nothing(place, take, tmp_path, monkeypatch):
    with process(tmp_path / "first", place) as first:
        first.send_signal(signal.SIGKILL)
    monkeypatch.setattr(lease, "STALE_S", 600.0)  # a wait would be told from a busy machine
    began = time.monotonic()
    again, said = take("first")
    assert time.monotonic() - began < 10.0 and said == []
    again.release()


def test_a_copy_of_a_live_run_s_folder_takes_nothing_from_it(place, take, tmp_path):
    """The copy's lock file names the owner, as the bucket does; a backup made it the heir at once."""
    first, _ = take("first")
    shutil.copytree(tmp_path / "first", tmp_path / "copied")
    with pytest.raises(errors.Busy, match="is being written by process"):
        take("copied")
    first.hold()
    first.release()


@pytest.mark.parametrize("wrong", [ValueError("Bad Request: invalid"), KeyError("generation"), [], {}, "<html>"])
def test_an_odd_answer_to_a_renewal_loses_no_lease(place, take, tmp_path, monkeypatch, wrong):
    """It ended the thread that renews, and a minute later another machine had the lease of a live run."""
    lost, calls = [], []
    held, _ = take("first", lost=lost.append)

    def odd(*positional, **named):
        calls.append(positional)
        if isinstance(wrong, Exception):
            raise wrong
        return wrong

    with monkeypatch.context() as patched:
        patched.setattr(held._files, "call", odd)
        until = time.monotonic() + 10
        while len(calls) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        assert len(calls) >= 3, "nothing renews it any more"
        with pytest.raises(OSError):
            held.hold()
    with pytest.raises(errors.Busy, match="is being written by process"):
        take("second")
    assert lost == []
    held.release()


def test_of_a_lease_only_the_first_bytes_are_read(place, take, tmp_path):
    (place / "run.lock").write_bytes(json.dumps({"pid": 1, "machine": "m" * 900_000, "since": "now"}).encode())
    held, said = take("first")
    assert len(said) == 1 and len(said[0]) < 500 and "was held by another process" in said[0]
    held.release()


def test_an_owner_that_sleeps_past_its_lease_ends_when_it_wakes(place, take, tmp_path):
    with process(tmp_path / "first", place) as first:
        first.send_signal(signal.SIGSTOP)
        second, _ = take("second")
        first.send_signal(signal.SIGCONT)
        assert first.wait(timeout=20) == errors.LOST
        assert first.stderr and f"belongs to process {os.getpid()} on" in first.stderr.read()
    second.hold()
    second.release()


def test_a_loser_writes_and_deletes_nothing(place, take, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 60.0)  # the first one's thread sleeps
    first, _ = take("first")
    second, _ = take("second")
    here = tmp_path / "first"
    (here / "metrics.jsonl").write_text("1\n")
    for _ in range(2):
        with pytest.raises(errors.Busy, match="writes nothing there any more"):
            bucket.Copy(here, place, hold=first.hold).push()
    first.release()
    assert [path.name for path in place.iterdir()] == ["run.lock"]
    second.hold()
    second.release()


def test_a_renewal_whose_answer_is_lost_loses_no_lease(place, take, tmp_path):
    held, _ = take("first", lost=lambda why: None)
    held._write(held._generation)  # arrives, and is not known to have
    held.hold()
    held.release()


def test_a_bucket_that_does_not_answer_for_a_while_loses_no_lease(place, take, tmp_path, monkeypatch):
    lost, calls = [], []
    held, _ = take("first", lost=lost.append)

    def silent(*positional, **named):
        calls.append(positional)
        raise OSError("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(held._files, "call", silent)
        while len(calls) < 3:
            time.sleep(0.05)
    generation = held._generation
    until = time.monotonic() + 10
    while held._generation == generation and time.monotonic() < until:
        time.sleep(0.05)
    assert held._generation != generation and lost == []
    held.release()


@pytest.mark.parametrize("content", [b"\xff", b"[" * 50_000, b"7", b"{}", b""])
def test_a_lease_that_says_nothing_is_taken_over_when_it_is_stale(place, take, tmp_path, content):
    (place / "run.lock").write_bytes(content)
    held, said = take("first")
    assert "was held by another process" in said[0] and json.loads((place / "run.lock").read_bytes())["pid"]
    held.release()


def lives(place):
    return replace(config.Config(), train=replace(config.Config().train, bucket=str(place)))


@pytest.mark.parametrize("kind", ["folder", "gs"])
def test_a_second_run_in_one_place_is_refused_before_it_reads_or_writes(place, tmp_path, kind):
    there = place if kind == "gs" else bucket.opened(str(tmp_path / "there"))
    first = runs.Run(tmp_path / "first", lives(there), stage="train", say=lambda line: None)
    with pytest.raises((errors.Busy, ValueError), match="is being written by"):
        runs.Run(tmp_path / "second", lives(there), stage="train")
    assert [path.name for path in (tmp_path / "second").iterdir()] == ["run.lock"]
    first.close()
    runs.Run(tmp_path / "second", lives(there), stage="train", say=lambda line: None).close()
    assert not (tmp_path / "first/run.lock").read_bytes()


def test_a_run_whose_bucket_is_another_s_by_now_saves_no_checkpoint_and_cleans_up_none(place, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 60.0)
    first = runs.Run(tmp_path / "first", lives(place), stage="train", say=lambda line: None)
    first.go_on(None, lambda host: None)
    state = {"embed": jnp.zeros(3)}
    first.save(1, state, {})
    first.checkpoints.wait()
    second = runs.Run(tmp_path / "second", lives(place), stage="train", say=lambda line: None)
    before = sorted(fsspec.filesystem("gcs").find(str(place)))
    with pytest.raises(errors.Busy):
        first.save(2, state, {})
    first.checkpoints.save(2, state, {}, metrics_bytes=0)  # as where the lease is lost while Orbax writes
    with pytest.raises(errors.Busy):
        first.checkpoints.wait()
    assert first.checkpoints.steps() == [1] and (first.checkpoints.path(2) / "host.json").exists()
    with pytest.raises(errors.Busy):
        first.close()
    assert set(before) <= set(fsspec.filesystem("gcs").find(str(place)))
    second.close()


def test_a_command_whose_bucket_is_in_use_ends_with_75(place, take, tmp_path, capsys, monkeypatch):
    # jax opens its cache once a process: the tests after this one would ask a bucket that is gone.
    monkeypatch.setattr(compile_cache, "enable", lambda **_: None)
    first, _ = take("first")
    command = [
        "sft",
        "configs/two_layer.py",
        "mesh.devices=1",
        f"train.bucket={place}",
        "--run",
        str(tmp_path / "second"),
    ]
    assert cli.main(command) == errors.LOST
    assert "is being written by process" in capsys.readouterr().err
    first.release()
