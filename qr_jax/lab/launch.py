"""Runs as processes: so many at a time, each on its own share of the cores, stopped together and gone on with."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qr_jax import config as configs
from qr_jax import errors, trust
from qr_jax.config import Config
from qr_jax.errors import UserError
from qr_jax.lab import interpreter
from qr_jax.logging import terminal
from qr_jax.run.json_files import read_json

LOG = "compare.log"
SHOWN = 15  # lines of a failed process's log
PATIENCE_S = 180.0  # for a process that was told to stop: the step it is in, and a checkpoint


@dataclass(frozen=True)
class Job:
    """A process to run: `qr-jax COMMAND FOLDER/config.json`; done where FOLDER has a summary.json."""

    name: str
    command: str
    folder: Path
    settings: Config

    @property
    def done(self) -> bool:
        return (self.folder / "summary.json").is_file()

    @property
    def has_begun(self) -> bool:
        return (self.folder / "checkpoints").is_dir() or (self.folder / "metrics.jsonl").is_file()


class Launcher:
    """Runs jobs, so many at a time, each on its own share of the cores; SIGINT and SIGTERM stop them all cleanly."""

    def __init__(self, at_once: int, say: Callable[[str], None]):
        self.at_once, self.say, self.stopping = at_once, say, 0
        self.held: tuple[int, ...] = ()

    def run(
        self, jobs: Sequence[Job], at_once: int | None = None, *, then: Callable[[Job], None] = lambda job: None
    ) -> list[Job]:
        """Run what is not done; returns the jobs that failed. SystemExit when it was told to stop.

        `then` is called with each job once it is done.
        """
        at_once = at_once or self.at_once
        shares = core_shares(at_once)
        waiting = [job for job in jobs if not job.done]
        if len(waiting) < len(jobs):
            self.say(f"{len(jobs) - len(waiting)} of {len(jobs)} are done already")
        running: dict[int, tuple[Job, subprocess.Popen, float]] = {}  # by share
        failed: list[Job] = []
        with self._signals(), terminal.phase("runs", len(jobs)) as shown:
            try:
                while (waiting and not self.stopping) or running:
                    shown.done = len(jobs) - len(waiting) - len(running)
                    for share in range(at_once):
                        if waiting and not self.stopping and share not in running:
                            job = waiting.pop(0)
                            self.say(f"{job.name}: {'goes on' if job.has_begun else 'begins'} in {job.folder}")
                            running[share] = (job, self._start(job, shares[share]), time.monotonic())
                    time.sleep(0.1)
                    for share, (job, process, since) in list(running.items()):
                        if process.poll() is not None:
                            del running[share]
                            failed += self._ended(job, process.returncode, time.monotonic() - since)
                            if job.done:
                                then(job)
                    if self.stopping:
                        self._stop([process for _, process, _ in running.values()])
                        running.clear()
            except BaseException:
                self._stop([process for _, process, _ in running.values()])
                raise
        if self.stopping:
            self.say("stopped; the same command goes on from the last checkpoints")
            raise SystemExit(errors.by_signal(self.stopping))
        return failed

    def _start(self, job: Job, cores: Sequence[int]) -> subprocess.Popen:
        job.folder.mkdir(parents=True, exist_ok=True)
        if not job.has_begun:
            text = json.dumps(configs.to_json(job.settings), indent=2) + "\n"
            (job.folder / "config.json").write_text(text, encoding="utf-8")
        trust.remember(job.settings)
        named = job.command, str(job.folder / "config.json")
        words = [*interpreter.python(), "-m", "qr_jax", *named]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(len(cores)))
        environment = os.environ | threads | {"PYTHONUNBUFFERED": "1"}
        with (job.folder / LOG).open("ab") as log, pinned(cores):
            # A session of its own: a terminal's Ctrl-C reaches us alone, and we say SIGTERM.
            return subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True, pass_fds=self.held,
            )  # fmt: skip

    def _ended(self, job: Job, code: int, seconds: float) -> list[Job]:
        if code == 0:
            self.say(f"{job.name}: done in {seconds:.0f} s{_result(job)}")
            return []
        lines = (job.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN:]
        self.say("\n    ".join([f"{job.name}: failed with exit code {code}; {job.folder / LOG} ends:", *lines]))
        return [job]

    def _stop(self, processes: Sequence[subprocess.Popen]) -> None:
        """Send SIGTERM to all and wait, while they save what they have; kill those that take too long."""
        for process in processes:
            process.terminate()
        if processes:
            self.say(f"stopping {len(processes)} processes; each saves a checkpoint")
        until = time.monotonic() + PATIENCE_S
        for process in processes:
            try:
                process.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def note(received: int, *_: Any) -> None:
            self.stopping = received

        before = {one: signal.signal(one, note) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    @contextmanager
    def alone(self, folder: Path) -> Iterator[None]:
        """Hold `alone`, here and in every process started meanwhile."""
        with alone(folder) as lock:
            self.held = (lock,)
            yield


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Hold FOLDER/compare.lock, and give its file's number. ValueError when it is held."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "compare.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = f"{folder} is in use by another qr-jax compare, or by runs that one left behind"
            raise UserError(f"{held}; wait for them, or end them") from None
        yield lock.fileno()


def _result(job: Job) -> str:
    summary = read_json(job.folder / "summary.json") if job.done else {}
    if summary.get("greedy_after") is None:
        return ""
    before = "" if summary.get("greedy_before") is None else f"{summary['greedy_before']:.3f} -> "
    mark = ", INCOMPLETE" * bool(summary.get("incomplete"))
    return f": greedy {before}{summary['greedy_after']:.3f}{mark}, {summary['rollouts']} rollouts"


def cores() -> list[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def core_shares(count: int) -> list[list[int]]:
    """Return the cores in `count` shares, disjoint where there are enough of them; otherwise a core each, in turn."""
    own = cores()
    if count >= len(own):
        return [[own[at % len(own)]] for at in range(count)]
    return [own[at * len(own) // count : (at + 1) * len(own) // count] for at in range(count)]


@contextmanager
def pinned(some: Sequence[int]) -> Iterator[None]:
    """Let a process that is started within use these cores alone, where the system can say so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, some)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
