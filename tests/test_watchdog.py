"""The watchdog's own words and clock, alone and in two processes; whole runs that lose one are in test_pods.py."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from qr_jax import config, errors
from qr_jax.parallel import start, watchdog

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 3.0
# A command of two processes, each of which watches the other; the one numbered `who` does as it is told.
CHILD = """
import json, os, signal, sys, time
from qr_jax import config
from qr_jax.cli import cli
from qr_jax.run import bucket
from qr_jax.cli.commands import train
from qr_jax.parallel import hosts, start, watchdog
address, me, what, who, deadline_s = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5])
deeds = {
    "beats": lambda: None,
    "refuses": lambda: bucket.opened("s3://bucket/run"),
    "fails": lambda: json.loads("{"),
    "dies": lambda: time.sleep(3) or os.kill(os.getpid(), signal.SIGKILL),
    "freezes": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}
last = {"is late": lambda: time.sleep(4), "writes no more": lambda: bucket.opened("s3://bucket/run")}

def work(arguments, stage):
    if what == "dies":
        watchdog.FAREWELL_S = 0.0  # nobody is left to hear it
        hung_up = watchdog.Watchdog._hung_up
        watchdog.Watchdog._hung_up = lambda dog: time.sleep(2.5 * (who == 0)) or hung_up(dog)  # jax sees it first
    if what in last:
        start.PART_S = -2  # with the deadline, a second
    start.begin(config.Mesh(heartbeat_s=deadline_s), coordinator=address, processes=2, process=me)
    with watchdog.watching(deadline_s):
        hosts.wait_for_all()  # what connects them
        if me == who and what in deeds:
            deeds[what]()
        hosts.wait_for_all()
        time.sleep(deadline_s * 1.5)
        if me == who and what in last:
            last[what]()
    print("whole", flush=True)
    return 0

train._run = work
sys.exit(cli.main(["train", "config.py"]))
"""


def start_two(what, who):
    """Both processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, address, str(me), what, str(who), str(DEADLINE_S)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for me in range(2)
    ]  # fmt: skip


def end_two(started, what, who):
    """Exit code, output and complaints of both; one that freezes is killed once the other has ended."""
    try:
        other = started[1 - who].communicate(timeout=120)
        if what == "freezes":
            started[who].kill()
        own = started[who].communicate(timeout=120)
    finally:
        kill(started)
    said = (own, other) if who == 0 else (other, own)
    return [(process.returncode, *words) for process, words in zip(started, said, strict=True)]


def kill(processes):
    """End those that still run, and leave none unread."""
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def run_two(what, who):
    return end_two(start_two(what, who), what, who)


@pytest.fixture(scope="module")
def long_runs():
    """The runs that outlast the deadline by themselves, all at once: they sleep most of the time."""
    runs = [("beats", 0), ("is late", 0), ("is late", 1), ("writes no more", 0)]
    started = {run: start_two(*run) for run in runs}
    yield lambda what, who: end_two(started[what, who], what, who)
    for processes in started.values():
        kill(processes)


ABORTED = """
import ctypes, os, threading, time
from qr_jax.parallel import watchdog
with watchdog.abort_delayed():
    {inside}
{outside}
"""
ABORT = "ctypes.CDLL(None).abort()"
END_SOON = "threading.Thread(target=lambda: time.sleep(0.5) or os._exit(75)).start()"


@pytest.mark.parametrize(
    ("inside", "outside", "code"),
    [(f"{END_SOON}; {ABORT}", "", 75), (END_SOON, ABORT, -signal.SIGABRT)],
    ids=["watched", "after it"],
)
def test_an_abort_of_jax_s_leaves_the_watchdog_time_to_say_what_happened(inside, outside, code):
    script = ABORTED.format(inside=inside, outside=outside)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr


@pytest.mark.thorough
def test_two_processes_that_beat_are_left_alone(long_runs):
    for code, out, err in long_runs("beats", 0):
        assert code == 0 and out.endswith("whole\n"), err


@pytest.mark.thorough
@pytest.mark.parametrize("who", [0, 1])
def test_the_others_wait_for_the_one_that_ends_last(long_runs, who):
    for code, out, err in long_runs("is late", who):
        assert code == 0 and out.endswith("whole\n"), err


@pytest.mark.thorough
def test_an_error_in_the_last_write_of_process_0_ends_the_others_with_its_words(long_runs):
    found = long_runs("writes no more", 0)
    assert [code for code, _, _ in found] == [errors.USER_ERROR] * 2, found
    assert "process 1 of 2: process 0 ended with an error" in found[1][2]


def test_a_process_that_fails_is_named_to_the_others_at_once():
    (code, _, said), (_, _, own) = run_two("fails", 1)
    assert code == errors.LOST and "process 0 of 2: process 1 ended with an error" in said
    assert "JSONDecodeError" in own


def test_a_wrong_setting_that_the_coordinator_alone_has_seen_ends_all_with_its_code():
    found = run_two("refuses", 0)
    assert [code for code, _, _ in found] == [errors.USER_ERROR] * 2, found
    assert "train.bucket='s3://bucket/run' is no place for a run" in found[0][2]
    assert "process 1 of 2: process 0 ended with an error, which its own output tells" in found[1][2]


@pytest.mark.thorough
def test_a_collective_that_breaks_with_a_lost_process_waits_for_its_name():
    (code, _, said), (killed, _, _) = run_two("dies", 1)
    assert (code, killed) == (errors.LOST, -signal.SIGKILL), said
    assert f"process 0 of 2: process 1 has not been heard of for {DEADLINE_S:g} s" in said
    assert "this error was held back" in said and "in wait_for_all" in said.split("this error was held back")[1]


def test_a_coordinator_that_is_killed_is_named_though_jax_aborts_first():
    (killed, _, _), (code, _, said) = run_two("dies", 0)
    assert (killed, code) == (-signal.SIGKILL, errors.LOST), said
    assert "process 1 of 2: process 0 is gone, and with it the coordinator of this run" in said


def test_a_coordinator_that_does_not_answer_is_named():
    _, (code, _, said) = run_two("freezes", 0)
    assert code == errors.LOST
    # Its last word may have been read a moment before it froze: then that is what is missed, on a busy machine.
    silent = rf"(, the coordinator of this run, has not answered| has not been heard of) for {DEADLINE_S:g} s"
    assert re.search(f"process 1 of 2: process 0{silent}", said)


def test_alone_nothing_is_watched():
    with watchdog.watching(0.01):
        time.sleep(0.1)


def test_the_processes_are_said_wholly_or_not_at_all():
    mesh = config.Mesh()
    for given, said in (
        ({"coordinator": "a:1"}, "--processes, --process missing"),
        ({"coordinator": "nowhere", "processes": 2, "process": 0}, "'nowhere'; wanted HOST:PORT"),
        ({"coordinator": "a:65536", "processes": 2, "process": 0}, "'a:65536'; wanted HOST:PORT"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "--process is 2; with --processes 2 wanted 0 to 1"),
    ):
        with pytest.raises(ValueError, match=said):
            start.begin(mesh, **given)
    with pytest.raises(OSError, match="this host knows no address of 'absent.invalid'"):
        start.begin(mesh, coordinator="absent.invalid:1", processes=2, process=0)


def test_a_port_that_is_taken_is_said():
    program = "import sys; from qr_jax import config; from qr_jax.parallel import start\n"
    program += "start.begin(config.Mesh(), coordinator=sys.argv[1], processes=2, process=0)"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", program, at], capture_output=True, text=True, timeout=60, check=False
        )
    assert f"OSError: process 0 cannot listen at --coordinator {at} ([Errno 98] Address already in use" in done.stderr


MEETS = """
import sys
from qr_jax import config
from qr_jax.parallel import start

start.MEET_SAY_S = 1.0
start.begin(config.Mesh(), coordinator=sys.argv[1], processes=2, process=int(sys.argv[2]), meet_s=2.5)
"""


@pytest.mark.parametrize("me", [0, 1])
def test_a_process_whose_others_do_not_come_says_so_and_is_to_be_started_again(me):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    done = subprocess.run([sys.executable, "-c", MEETS, address, str(me)], capture_output=True, text=True, timeout=60)
    assert done.returncode == errors.LOST, done.stderr
    assert f"process {me} of 2, coordinator {address}: waiting for the others for 1 s" in done.stderr
    assert "the other processes are not all there after" in done.stderr


def test_a_sigterm_ends_a_process_that_waits_for_the_others():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    code = MEETS.replace("meet_s=2.5", "meet_s=60")
    waits = subprocess.Popen([sys.executable, "-c", code, address, "0"], stderr=subprocess.PIPE, text=True)
    assert waits.stderr
    with waits, waits.stderr:
        said = any("waiting for the others" in line for line in waits.stderr)  # libtpu, where it is, warns before
        waits.terminate()
        assert said and waits.wait(10) == -signal.SIGTERM


class Metadata(BaseHTTPRequestHandler):
    """A TPU VM's metadata server that gives one answer after the other."""

    answers: ClassVar[list] = []

    def do_GET(self):
        status, text = self.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([(200, "a,b,c,d")], 4),
        ([(503, ""), (503, ""), (200, "a,b")], 2),  # one silence is no answer
        ([(404, "")], 1),  # a VM whose TPU is on one host
        ([(503, "")] * 3, OSError),  # it must not take itself to be alone
    ],
)
def test_a_tpu_vm_learns_from_its_metadata_server_how_many_hosts_there_are(monkeypatch, answers, found):
    monkeypatch.setattr(Metadata, "answers", list(answers))
    monkeypatch.setattr(start.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(start.glob, "glob", lambda name: ["/dev/accel0"])
    server = HTTPServer(("127.0.0.1", 0), Metadata)
    monkeypatch.setattr(start, "METADATA", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr(start, "metadata", partial(start.metadata, (0, 0)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        if found is OSError:
            with pytest.raises(OSError, match="503.*TPU_SKIP_MDS_QUERY=1"):
                start.workers({})
        else:
            assert start.workers({}) == found and not Metadata.answers
        assert start.workers({"TPU_SKIP_MDS_QUERY": "1"}) == 1
    finally:
        server.shutdown()
        server.server_close()


def test_a_host_of_a_pod_meets_the_others_before_it_runs(monkeypatch):
    asked = []
    monkeypatch.setattr(start.jax.distributed, "initialize", lambda *given, **how: asked.append((given, how)))
    start.begin(config.Mesh(heartbeat_s=50), environment={"TPU_WORKER_HOSTNAMES": "a,b"})
    how = {"heartbeat_timeout_seconds": 200, "initialization_timeout": 1920, "shutdown_timeout_seconds": 110}
    assert asked == [((), how)]
    start.begin(config.Mesh(), environment={"TPU_WORKER_HOSTNAMES": "a"})
    assert len(asked) == 1


def test_a_tpu_pods_environment_says_how_many_workers_there_are():
    names = {"TPU_WORKER_HOSTNAMES": "a,b,c,d"}
    assert start.workers(names) == 4
    assert start.workers(names | {"MEGASCALE_NUM_SLICES": "2"}) == 8
    assert start.workers(names | {"JAX_PLATFORMS": "cpu"}) == 1
    assert start.workers({"JAX_PLATFORMS": "tpu,cpu", "TPU_WORKER_HOSTNAMES": "localhost"}) == 1
