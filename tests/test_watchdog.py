"""The watchdog's own words and clock, in this process; lost processes are in test_pods.py."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qr_jax.parallel import start, watchdog

ROOT = Path(__file__).resolve().parents[1]
# Process INDEX of 2 watches with a deadline of 4 s; the other does as it is told.
CHILD = """
import sys, time
import jax
from qr_jax import config
from qr_jax.parallel import hosts, start, watchdog
address, me, other = sys.argv[1], int(sys.argv[2]), sys.argv[3]
start.begin(config.Mesh(heartbeat_s=4.0), coordinator=address, processes=2, process=me)
with watchdog.watching(4.0):
    if me == 1 and other == "fails":
        raise ValueError("this one's own mistake")
    hosts.wait_for_all()
    time.sleep(6)
print("whole", flush=True)
"""


def run_two(other):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, address, str(me), other],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for me in range(2)
    ]  # fmt: skip
    try:
        said = [one.communicate(timeout=120) for one in started]
    finally:
        for one in started:
            one.kill()
            one.wait()
    return [(one.returncode, out, err) for one, (out, err) in zip(started, said, strict=True)]


def test_two_processes_that_beat_are_left_alone():
    for code, out, err in run_two("beats"):
        assert code == 0 and out.endswith("whole\n"), err


def test_a_process_that_fails_is_named_to_the_others_at_once():
    (code, _, said), (_, _, own) = run_two("fails")
    assert code == watchdog.CODE and "process 0 of 2: process 1 ended with an error" in said
    assert "this one's own mistake" in own


def test_alone_nothing_is_watched():
    with watchdog.watching(0.01):
        time.sleep(0.1)


def test_the_processes_are_said_wholly_or_not_at_all():
    from qr_jax import config

    mesh = config.Mesh()
    for given, said in (
        ({"coordinator": "a:1"}, "--processes, --process missing"),
        ({"coordinator": "nowhere", "processes": 2, "process": 0}, "'nowhere'; wanted HOST:PORT"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "--process is 2; with --processes 2 wanted one from 0"),
    ):
        with pytest.raises(ValueError, match=said):
            start.begin(mesh, **given)


def test_a_tpu_pods_environment_says_how_many_workers_there_are():
    names = {"TPU_WORKER_HOSTNAMES": "a,b,c,d"}
    assert start.workers(names) == 4
    assert start.workers(names | {"MEGASCALE_NUM_SLICES": "2"}) == 8
    assert start.workers(names | {"JAX_PLATFORMS": "cpu"}) == 1
    assert start.workers({"JAX_PLATFORMS": "tpu,cpu", "TPU_WORKER_HOSTNAMES": "localhost"}) == 1
