"""Processes forked from one that has imported the package and started nothing of jax: as new ones, but sooner there.

Their standard output and error come here line by line; lines that begin with MARK say which phase begins and ends.
"""

import atexit
import ctypes
import os
import selectors
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]  # plug-ins; benchmarks

MARK = "\0"
PR_SET_PDEATHSIG = 1  # of Linux
PHASES = ("cold start", "rollout", "update", "evaluation", "checkpoint")


def set_out(folder: Path) -> None:
    """What processes need to know before jax is imported; programs they compile are kept in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "QR_JAX_COMPILED": str(folder / "compiled"),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }  # fmt: skip


class Forked:
    """A process that runs the function, whose result is its exit code; `code` is there once it has ended."""

    def __init__(self, function: Callable[[], int | None]):
        self._read, write = os.pipe()
        self.said: list[str] = []  # lines and marks in their order
        self.marks: list[tuple[float, str, bool]] = []  # when, the phase, whether it began (else it ended)
        self.code: int | None = None
        self._rest = b""
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(function, write)
        os.close(write)
        os.set_blocking(self._read, False)

    def fileno(self) -> int:
        return self._read

    @property
    def lines(self) -> list[str]:
        """What it printed, marks left out."""
        return [line for line in self.said if not line.startswith(MARK)]

    def read(self) -> None:
        """Take what it printed since the last time; `code` is set where there is an end."""
        while self.code is None:
            try:
                data = os.read(self._read, 1 << 16)
            except BlockingIOError:
                break
            *whole, self._rest = (self._rest + data).split(b"\n")
            for line in (raw.decode(errors="replace") for raw in whole):
                self.said.append(line)
                if line.startswith(MARK):
                    self.marks.append((time.monotonic(), line[2:], line[1] == "+"))
            if not data:
                os.close(self._read)
                self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            if self.code is None:
                os.kill(self.pid, number)

    def phase(self) -> str:
        """What it was about: a checkpoint of the run where one was being written, whatever was done beside it."""
        opened: Counter[str] = Counter()
        for _, phase, begins in self.marks:
            opened[phase] += 1 if begins else -1
        within = [phase for phase in PHASES if opened[phase] > 0]
        if not within or "cold start" in within:
            return within[0] if within else "between"
        return within[-1]

    def began(self, phase: str) -> list[float]:
        """When each time of a phase began; the cold start's own checkpoints are left out."""
        times, is_cold = [], False
        for at_s, name, begins in self.marks:
            is_cold = begins if name == "cold start" else is_cold
            if begins and name == phase and not (is_cold and name == "checkpoint"):
                times.append(at_s)
        return times

    def seconds(self, phase: str) -> list[float]:
        """How long each time of a phase took."""
        began, took = 0.0, []
        for at_s, name, begins in self.marks:
            if name == phase and begins:
                began = at_s
            elif name == phase:
                took.append(at_s - began)
        return took


def _become(function: Callable[[], int | None], write: int) -> None:
    """In the new process: run the function and end, with what should be done at an ordinary exit."""
    with suppress(OSError, AttributeError):  # where the system has it: no process outlives the one that forked it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(write, 1)
    os.dup2(write, 2)
    code: Any = 1
    try:
        code = function() or 0
    except SystemExit as ends:
        code = ends.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()
        os._exit(code if isinstance(code, int) else 1)


def wait(children: Iterable[Forked], limit_s: float) -> None:
    """Return when one of them has printed something or has ended, at the latest after so many seconds."""
    with selectors.DefaultSelector() as selector:
        for child in children:
            if child.code is None:
                selector.register(child, selectors.EVENT_READ)
        selector.select(max(limit_s, 0))


def finish(children: Iterable[Forked], limit_s: float) -> bool:
    """Whether all ended by themselves within the limit; those that did not are killed."""
    children, until = list(children), time.monotonic() + limit_s
    while any(child.code is None for child in children) and time.monotonic() < until:
        wait(children, until - time.monotonic())
        for child in children:
            child.read()
    late = [child for child in children if child.code is None]
    for child in late:
        child.signal(signal.SIGKILL)
        while child.code is None:
            wait([child], 1.0)
            child.read()
    return not late


def tell_phases() -> None:
    """Let this process print when each phase begins and ends."""
    from qr_jax import evaluate, train
    from qr_jax.run import begin, checkpoint
    from qr_jax.step import rollout_and_grade

    for place, name, phase in (
        (begin, "sft", "cold start"), (rollout_and_grade, "roll_out", "rollout"), (train, "_update", "update"),
        (evaluate, "measure", "evaluation"),
    ):  # fmt: skip
        setattr(place, name, _told(getattr(place, name), phase, ends=True))
    checkpoints = checkpoint.Checkpoints
    checkpoints.save = _told(checkpoints.save, "checkpoint", ends=False)
    checkpoints._finish = _told(checkpoints._finish, "checkpoint", begins=False)  # in the background


def _told(function: Callable, phase: str, *, begins: bool = True, ends: bool = True) -> Callable:
    @wraps(function)
    def told(*positional, **named):
        if begins:
            mark(f"+{phase}")
        try:
            return function(*positional, **named)
        finally:
            if ends:
                mark(f"-{phase}")

    return told


def mark(text: str) -> None:
    sys.stdout.flush()
    os.write(1, f"{MARK}{text}\n".encode())
