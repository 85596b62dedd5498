"""Host communication between processes: grades, episodes, digests and the stop flag.

With one process nothing is sent and jax is not imported. With more, values travel as bytes through
`multihost_utils.process_allgather`, so that no dtype is narrowed on the way (jax would make int64 int32). Every
function but `index`, `count`, `deal`, `say_stop`, `stop_said` and `beside_an_update` is a collective: all processes
call it, in the same order, on their main thread."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from qr_jax import errors
from qr_jax.errors import UserError
from qr_jax.parallel import jax_private, plain
from qr_jax.records import Episode

Result = TypeVar("Result")
_beside = False  # in `beside_an_update`
_numbers = itertools.count()  # of the values that went through the store

SMALLEST_MESSAGE_BYTES = 4096
STOP, GATHERED = "qr_jax/stop", "qr_jax/gathered"
LONGEST_MS = 7 * 24 * 3600 * 1000  # that a process waits for the others; a lost one ends the run long before
RAISED = {
    "busy": errors.Busy,
    "os": OSError,
    "asking": errors.UserError,
    "library": RuntimeError,
}  # what the others raise, by the kind of process 0's error


def _distributed() -> Any:
    """Return jax if it is imported and `jax.distributed` runs, else None: asking it would start its backend."""
    jax = sys.modules.get("jax")
    return jax if jax is not None and jax.distributed.is_initialized() else None


def index() -> int:
    """Return this process's number, from 0."""
    jax = _distributed()
    return jax.process_index() if jax else 0


def count() -> int:
    """Return the number of processes that run this program."""
    jax = _distributed()
    return jax.process_count() if jax else 1


@contextlib.contextmanager
def beside_an_update() -> Iterator[None]:
    """Use no device for collectives in this block, during which another thread runs the learner's programs.

    Hosts would start the two threads' programs in different orders, and wait for one another for ever.
    """
    global _beside
    _beside = True
    try:
        yield
    finally:
        _beside = False


def gather(value: Any) -> list[Any]:
    """Return every process's nested host value (see parallel/plain.py), by process number; the same list on all."""
    if count() == 1:
        return [value]
    message = plain.to_bytes(value)
    return _by_store(message) if _beside else _by_devices(message)


def _by_store(message: bytes) -> list[Any]:
    """Gather through jax's coordination service, which is process 0's."""
    store, number = _store(), next(_numbers)
    place = f"{GATHERED}/{number}/"
    store.key_value_set_bytes(f"{place}{index()}", message)
    store.wait_at_barrier(f"{GATHERED}/{number}", LONGEST_MS)
    messages = {int(name.rpartition("/")[2]): one for name, one in store.key_value_dir_get_bytes(place)}
    if number:  # all have read it: they were at the barrier
        store.key_value_delete(f"{GATHERED}/{number - 1}/{index()}")
    return [plain.from_bytes(messages[process]) for process in range(count())]


def _by_devices(message: bytes) -> list[Any]:
    from jax.experimental import multihost_utils

    lengths = np.asarray(multihost_utils.process_allgather(np.array([len(message)], np.uint32))).reshape(-1)
    # Padded to a power of two: each new size is one more program for XLA to compile.
    room = max(SMALLEST_MESSAGE_BYTES, 1 << (int(lengths.max()) - 1).bit_length())
    padded = np.zeros(room, np.uint8)
    padded[: len(message)] = np.frombuffer(message, np.uint8)
    messages = np.asarray(multihost_utils.process_allgather(padded)).reshape(count(), room)
    return [plain.from_bytes(row[:length].tobytes()) for row, length in zip(messages, lengths, strict=True)]


def from_first(value: Any) -> Any:
    """Return the value of process 0; those of the others are dropped."""
    return gather(value if index() == 0 else None)[0]


def by_first(function: Callable[[], Any]) -> Any:
    """Run the function on process 0 alone; all processes return its value, or raise its ValueError or OSError.

    For a library's ValueError the others raise RuntimeError, so that all end with one exit code (see errors.py).
    """
    if count() == 1:
        return function()
    value, error, kind = None, None, ""
    if index() == 0:
        try:
            value = function()
        except errors.Busy as caught:
            error, kind = caught, "busy"
        except (ValueError, OSError) as caught:
            error = caught
            kind = "os" if isinstance(caught, OSError) else "asking" if isinstance(caught, UserError) else "library"
    value, kind, said = from_first([value, kind, str(error)])
    if kind:
        raise error or RAISED[kind](f"process 0: {said}")
    return value


def say_stop() -> None:
    """Tell the others at once, without a collective, that this process was asked to stop; they see `stop_said`."""
    if _distributed():
        _store().key_value_set(f"{STOP}/{index()}", "", allow_overwrite=True)


def stop_said() -> bool:
    """Return True if a process has called `say_stop`; no collective, so one may ask while the others decode."""
    return bool(_distributed() and count() > 1 and _store().key_value_dir_get(STOP))


def _store() -> Any:
    """Return the key-value store of jax's coordination service."""
    return jax_private.get("distributed", "global_state.client")


def wait_for_all() -> None:
    """Return when every process has called it."""
    gather(None)


def any_process(flag: bool) -> bool:
    """Return True on every process if `flag` is true on any (a collective: every process must call it)."""
    return any(gather(bool(flag)))


def all_or_none(work: Callable[[], Result]) -> Result:
    """Return the work's result once all processes have done theirs; Interrupted on all when one is interrupted."""
    interrupted, result = False, None
    try:
        result = work()
    except errors.Interrupted:
        interrupted = True
    if any_process(interrupted):
        raise errors.Interrupted
    return cast(Result, result)


def assert_same(digest: str, what: str) -> None:
    """Raise RuntimeError on every process, with all digests, unless they are the same."""
    digests = gather(digest)
    if len(set(digests)) > 1:
        each = ", ".join(f"process {process}: {theirs}" for process, theirs in enumerate(digests))
        todo = "they must run the same code, config and data: stop the run and resume from its last checkpoint"
        raise RuntimeError(f"processes disagree about {what} ({each}); {todo}")


def gather_in_order(values: Sequence[Any], at: Sequence[int], what: str, total: int | None = None) -> list[Any]:
    """Return every process's nested host values, ordered by `at`, the same list on all.

    ValueError when two have the same place or, if `total` is known, they are not that many; `what` names them.
    """
    if len(values) != len(at):
        raise UserError(f"{len(values)} values, but places for {len(at)}")
    every = gather({"at": np.asarray(at, np.int64), "values": list(values)})
    places = np.concatenate([part["at"] for part in every])
    if len(np.unique(places)) != len(places) or total not in (None, len(places)):
        raise UserError(f"{what}: {len(places)} values came at {np.sort(places).tolist()}; each is needed once")
    together = [value for part in every for value in part["values"]]
    return [together[at] for at in np.argsort(places)]


def gather_episodes(episodes: Sequence[Episode], at: Sequence[int]) -> list[Episode]:
    """Return all processes' episodes, ordered by `at` (query's position among the drawn x samples + sample).

    Arrays keep their own lengths and dtypes; texts and passages come too. ValueError when two have the same place.
    """
    if count() == 1:
        return gather_in_order(episodes, at, "episode")
    plain_episodes = [plain.episode_to_plain(episode) for episode in episodes]
    return [plain.episode_from_plain(value) for value in gather_in_order(plain_episodes, at, "episode")]


def deal(tokens_Q: np.ndarray, processes: int, *, to_first: bool = False) -> list[np.ndarray]:
    """Assign queries to processes for rollout: positions in `tokens_Q`, ascending, one array a process.

    `tokens_Q` is each query's expected cost. The costliest go first, each to the process with the smallest load so far
    (Graham 1969, "Bounds on Multiprocessing Timing Anomalies": at most 4/3 of the best possible). A tie goes to fewer
    queries, then to the lower number, so that every process finds the same without a message. `to_first`: process 0
    gets all.
    """
    tokens_Q = np.asarray(tokens_Q, np.float64)
    load = np.zeros(processes)
    dealt: list[list[int]] = [[] for _ in range(processes)]
    for query in np.argsort(-tokens_Q, kind="stable"):
        least = min(range(1 if to_first else processes), key=lambda process: (load[process], len(dealt[process])))
        dealt[least].append(int(query))
        load[least] += tokens_Q[query]
    return [np.array(sorted(mine), np.int64) for mine in dealt]
