"""Watch whether the other processes of this run are alive: a collective would wait for a lost one without end.

Each process writes heartbeats to the key-value store of jax's coordination service, which is no collective, and reads
those of the others. It also holds a connection to process 0, which has the store: jax aborts a process that loses the
store, at once or within two seconds, with a message that does not say what happened. So our message must come first."""

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax

from qr_jax import errors
from qr_jax.parallel import hosts, jax_private

BEATS = "qr_jax/beat"
ENDED, FAILED, WRONG = "ended", "failed", "wrong"  # last words in a heartbeat's place
BEATS_A_DEADLINE = 6
POLL_S = 0.2
FAREWELL_S = 2.0  # how much longer than a beat process 0 keeps its store, so that the others say what happened too
# Words in the error of a collective that lost a process; the heartbeats then tell which process.
OF_OTHERS = ("gloo", "coordination service", "connection reset", "connection closed", "unavailable:", "heartbeat")


@contextlib.contextmanager
def watching(deadline_s: float) -> Iterator[None]:
    """In this context, if another process is silent for `deadline_s`, name it and end this one (errors.LOST).

    The same if another process fails (errors.USER_ERROR if a setting was wrong). A run of one process is not watched.
    An error that a lost process may have caused is held back for `deadline_s`. At the end all wait for all, process 0
    writing last; a SystemExit must be raised by all processes together.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        yield
        return
    dog, stopped = Watchdog(deadline_s), None
    with abort_delayed():
        try:
            try:
                yield
            except SystemExit as raised:
                stopped = raised
            hosts.wait_for_all()  # jax's own wait at an exit ends in an abort of all
        except BaseException as error:
            if any(words in str(error).lower() for words in OF_OTHERS):
                dog.held = error
                time.sleep(deadline_s * (1 + 1 / BEATS_A_DEADLINE) + POLL_S)  # the watching thread ends us, if it must
            dog.close(WRONG if isinstance(error, errors.UserError) else FAILED)
            dog.farewell()
            raise
        dog.close(ENDED)
    if stopped:
        raise stopped


@contextlib.contextmanager
def abort_delayed() -> Iterator[None]:
    """In this context an abort, which jax calls in a thread of its own, ends this process only after 6 seconds.

    Until then the other threads go on. SIGABRT's handler is the C library's sleep(seconds), whose argument is then the
    number of the signal: no Python code runs in it, as that might wait for a lock that the aborting thread holds.
    """
    library = ctypes.CDLL(None)
    library.signal.restype, library.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    former = library.signal(signal.SIGABRT, ctypes.cast(library.sleep, ctypes.c_void_p))
    try:
        yield
    finally:
        library.signal(signal.SIGABRT, former)


class Watchdog:
    """Two threads: one beats and reads, and may wait on the store; the other watches the clock and the connection."""

    def __init__(self, deadline_s: float):
        self.deadline_s, self.me, self.count = deadline_s, jax.process_index(), jax.process_count()
        self.store: Any = jax_private.get("distributed", "global_state.client")
        self.coordinator = str(jax_private.get("distributed", "global_state.coordinator_address"))
        self.closing, self.writing = threading.Event(), threading.Lock()
        self.held: BaseException | None = None  # an error that waits for its cause to be named
        self.answered_s = time.monotonic()  # when the store last answered
        self.seen = {process: ("", self.answered_s) for process in range(self.count)}  # last beat, and when it was new
        self.line = self._connect() if self.me else None
        for work in (self._beat, self._watch):
            threading.Thread(target=work, name="watchdog", daemon=True).start()

    def close(self, last_word: str) -> None:
        """Stop watching, and tell the others how this process ended."""
        self.closing.set()
        with self.writing, contextlib.suppress(jax.errors.JaxRuntimeError, ValueError):
            self._write(last_word)

    def farewell(self) -> None:
        """On process 0, stay until the others have read its last word, or have seen who is missing."""
        if self.me == 0:
            time.sleep(self.deadline_s / BEATS_A_DEADLINE + FAREWELL_S)

    def _write(self, word: str) -> None:
        self.store.key_value_set(f"{BEATS}/{self.me}", word, allow_overwrite=True)

    def _beat(self) -> None:
        number = 0
        while not self.closing.wait(self.deadline_s / BEATS_A_DEADLINE):
            with contextlib.suppress(jax.errors.JaxRuntimeError, ValueError):  # `_watch` ends the process if this lasts
                with self.writing:
                    if self.closing.is_set():  # the last word stays
                        return
                    self._write(str(number := number + 1))
                for name, word in self.store.key_value_dir_get(BEATS):
                    process = int(name.rpartition("/")[2])
                    if self.seen[process][0] != word:
                        self.seen[process] = (word, time.monotonic())
                self.answered_s = time.monotonic()

    def _watch(self) -> None:
        while not self._wait():
            if self._hung_up():
                self._end("process 0 is gone, and with it the coordinator of this run")
            now = time.monotonic()
            if self.me and now - self.answered_s > self.deadline_s:
                self._end(f"process 0, the coordinator of this run, has not answered for {self.deadline_s:g} s")
            others = {process: seen for process, seen in self.seen.items() if process != self.me}
            failed = [process for process, (word, _) in others.items() if word in (FAILED, WRONG)]
            late = [p for p, (word, at) in others.items() if word != ENDED and now - at > self.deadline_s]
            if failed:
                wrong = any(word == WRONG for word, _ in others.values())
                said = f"{_named(failed)} ended with an error, which its own output tells"
                self._end(said, errors.USER_ERROR if wrong else errors.LOST)
            if late:
                silent = f"{_named(late)} has not been heard of for {self.deadline_s:g} s"
                self._end(f"{silent}: killed, or its host is gone")

    def _wait(self) -> bool:
        """Wait POLL_S, or until the coordinator sends something or hangs up; return True to stop watching.

        jax's own threads see it hang up at the same time, and abort this process without saying which process is gone.
        """
        if self.line is None:
            return self.closing.wait(POLL_S)
        select.select([self.line], [], [], POLL_S)
        return self.closing.is_set()

    def _connect(self) -> socket.socket | None:
        """Connect to the coordinator; None if it does not accept."""
        host, _, port = self.coordinator.rpartition(":")
        with contextlib.suppress(OSError):
            return socket.create_connection((host.strip("[]"), int(port)), timeout=self.deadline_s)

    def _hung_up(self) -> bool:
        """Reconnect if the coordinator closed the connection; return True if it accepts no other."""
        if self.line is None or not select.select([self.line], [], [], 0)[0]:
            return False
        with contextlib.suppress(OSError):
            if self.line.recv(4096):  # its greeting; we only listen
                return False
        self.line.close()
        self.line = self._connect()
        return self.line is None

    def _end(self, what: str, code: int = errors.LOST) -> None:
        """Print `what` and end this process, which may be inside a collective that never returns."""
        if self.closing.is_set():
            return
        again = "start the same command on all hosts again, and it goes on from the last checkpoint"
        hint = again if code == errors.LOST else "the same command would fail again"
        told = f"process {self.me} of {self.count}: {what}. This process ends with {code}; {hint}"
        print(f"{told}. Its threads were here:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        if self.held is not None:
            print("this error was held back, because a lost process may have caused it:", file=sys.stderr)
            traceback.print_exception(self.held, file=sys.stderr)
        sys.stdout.flush()
        self.farewell()
        os._exit(code)


def _named(processes: list[int]) -> str:
    return ("process " if len(processes) == 1 else "processes ") + ", ".join(map(str, processes))
