"""The query pool: which queries a step draws, the verdict on their groups, and which go back to be drawn again."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from qr_jax.errors import UserError
from qr_jax.pool.noise import first, race, words
from qr_jax.records import Grades, Memory, Outcome
from qr_jax.records import grades as checked_grades

STATES = ("fresh", "hard", "easy", "surplus", "consumed", "reset")
LAST = ("none", "hard", "easy", "surplus", "accepted")  # the last verdict that was no fault; a reset leaves it
FRESH, HARD, EASY, SURPLUS, CONSUMED, RESET = range(len(STATES))
LAST_NONE, LAST_HARD, LAST_EASY, LAST_SURPLUS, LAST_ACCEPTED = range(len(LAST))

DRAW = 1  # first part of a draw's random key, so that other users of `words` get other numbers

ARRAYS = {
    "weight_P": np.float64, "state_P": np.int8, "attempts_P": np.int32, "last_P": np.int8,
    "last_successes_P": np.int32, "last_valid_P": np.int32, "last_step_P": np.int64, "accepted_P": np.int32,
    "zero_variance_P": np.int32, "flipped_P": np.bool_,
}  # fmt: skip

KINDS = ("family_P", "hops_P")  # per-query integers that no step changes (each array may be None)

Rule = Callable[["Pool", Outcome], tuple[np.ndarray, Memory]]


@dataclass(frozen=True, eq=False)
class Pool:
    """Arrays over the P queries, all read-only; every change makes a new Pool.

    An attempt is a draw whose group was graded (no fault). `state_P` indexes STATES, `last_P` LAST. `last_successes_P`
    and `last_step_P` are -1 where a query was never attempted. `flipped_P` marks queries accepted after an earlier
    zero-variance verdict. `memory` belongs to the recycling rule.
    """

    weight_P: np.ndarray  # draw weight; 0: not eligible
    state_P: np.ndarray
    attempts_P: np.ndarray
    last_P: np.ndarray
    last_successes_P: np.ndarray  # valid outcomes of 1 in the last attempt
    last_valid_P: np.ndarray  # valid episodes of the last attempt
    last_step_P: np.ndarray
    accepted_P: np.ndarray  # times accepted
    zero_variance_P: np.ndarray  # times hard or easy
    flipped_P: np.ndarray
    epoch: int = 0  # resets so far
    family_P: np.ndarray | None = None
    hops_P: np.ndarray | None = None  # hops of each question; 0 where it does not say
    memory: Memory = field(default_factory=dict)

    def __post_init__(self):
        for name, dtype in ARRAYS.items():
            object.__setattr__(self, name, _array(name, getattr(self, name), dtype, len(self.weight_P)))
        for name, names in (("state_P", STATES), ("last_P", LAST)):
            index_P = getattr(self, name)
            if index_P.min(initial=0) < 0 or index_P.max(initial=0) >= len(names):
                raise UserError(f"{name} holds values outside 0..{len(names) - 1} ({', '.join(names)})")
        for name in KINDS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _array(name, getattr(self, name), np.int64, len(self.weight_P)))
        object.__setattr__(self, "memory", {name: _frozen(value) for name, value in sorted(self.memory.items())})

    @property
    def size(self) -> int:
        """Return the number of queries."""
        return len(self.weight_P)


def create(size: int, family_P: Any = None, hops_P: Any = None) -> Pool:
    """Make a pool of `size` fresh queries of weight 1. `family_P`, `hops_P`: one integer per query, for rules."""
    if size < 1:
        raise UserError(f"a pool needs at least 1 query, found {size}")
    columns: dict[str, Any] = {name: np.zeros(size, dtype) for name, dtype in ARRAYS.items()}
    columns |= {"weight_P": np.ones(size), "last_successes_P": np.full(size, -1), "last_step_P": np.full(size, -1)}
    given = {"family_P": family_P, "hops_P": hops_P}
    columns |= {name: None if value is None else np.asarray(value) for name, value in given.items()}
    return Pool(**columns)


def draw(
    pool: Pool,
    count: int,
    *,
    seed: int,
    step: int,
    round: int = 0,
    exclude: Iterable = (),
    by: Literal["chance", "largest"] = "chance",
) -> Int64[np.ndarray, "Q"]:
    """Draw up to `count` distinct eligible queries: int64 pool indices in the order they were drawn.

    "chance": exponential races, each query finishing at -log(u) / weight, so that the next one drawn is always
    proportional to weight among those left (Efraimidis and Spirakis 2006). "largest": the largest weights first, ties
    broken by the same races. The numbers u are keyed by seed, step, round and pool index: neither another query's
    weight nor an exclusion changes them. Fewer than `count` come back when fewer are eligible.
    """
    excluded = indices("exclude", exclude if isinstance(exclude, np.ndarray) else list(exclude), pool.size)
    weight_P = pool.weight_P if len(excluded) == 0 else _with(pool.weight_P, excluded, 0.0)
    count = min(count, int(np.count_nonzero(weight_P)))
    if count == 0:
        return np.empty(0, np.int64)
    word_P = words(pool.size, DRAW, seed, step, round)
    power = -int(np.frexp(weight_P.max())[1])  # the largest weight near 1: times lose no bits
    if by == "chance":
        return first(word_P, weight_P, power, count)
    bound = np.partition(weight_P, -count)[-count]
    above = np.flatnonzero(weight_P > bound)
    above = above[np.lexsort((race(word_P[above], weight_P[above], power), -weight_P[above]))]
    tied_P = np.where(weight_P == bound, weight_P, 0.0)
    return np.concatenate([above, first(word_P, tied_P, power, count - len(above))])


def judge(
    drawn_Q: Any,
    grades: Grades,
    *,
    step: int,
    accept: int,
    channel: Literal["reward", "outcome"] = "reward",
    seed: int = 0,
) -> Outcome:
    """Return the step's Outcome: each group's verdict, and the first `accept` signal groups in draw order.

    `channel`: the values, rewards or outcomes, that must differ within a group for it to bear signal. The Outcome's
    grades have passed `records.grades`. Rounds of one step are judged together. ValueError where a query is drawn twice
    or the grades do not hold one row per drawn query.
    """
    drawn_Q = indices("drawn_Q", drawn_Q, None)
    if len(np.unique(drawn_Q)) != len(drawn_Q):
        values, counts = np.unique(drawn_Q, return_counts=True)
        twice = values[counts > 1][:5]
        raise UserError(f"drawn_Q has {len(drawn_Q)} queries, {len(values)} distinct: {twice} come twice")
    grades = checked_grades(**vars(grades))
    outcome_QG = grades.reward_QG if grades.outcome_QG is None else grades.outcome_QG
    if len(drawn_Q) != len(grades.valid_QG) or outcome_QG.shape != grades.valid_QG.shape:
        shapes = f"rewards {grades.reward_QG.shape} and outcomes {outcome_QG.shape}; a row a drawn query is wanted"
        raise UserError(f"{len(drawn_Q)} queries were drawn, but the grades hold {shapes}")
    verdict_Q = verdicts(grades, channel)
    accepted_at = np.flatnonzero(verdict_Q == "signal")[:accept]
    return Outcome(drawn_Q, drawn_Q[accepted_at], accepted_at, verdict_Q, grades, int(step), int(seed))


def verdicts(grades: Grades, channel: Literal["reward", "outcome"] = "reward") -> np.ndarray:
    """Return verdict_Q of grades that have passed `records.grades`: "signal", "easy", "hard" or "fault".

    A group is "signal" when the largest of its valid values on the channel exceeds the smallest. The comparison is
    exact, with no standard deviation, as in `variance.group_variance_mask` (device). Otherwise it is "easy" when
    all its valid outcomes are 1 and "hard" when not. With fewer than 2 valid episodes it is a "fault".
    """
    outcome_QG = grades.reward_QG if grades.outcome_QG is None else grades.outcome_QG
    value_QG = grades.reward_QG if channel == "reward" else outcome_QG
    infinity = np.float32(np.inf)
    highest_Q = np.where(grades.valid_QG, value_QG, -infinity).max(axis=1, initial=-infinity)
    lowest_Q = np.where(grades.valid_QG, value_QG, infinity).min(axis=1, initial=infinity)
    easy_Q = ((outcome_QG == 1) | ~grades.valid_QG).all(axis=1)
    kinds = [grades.valid_QG.sum(axis=1) < 2, highest_Q > lowest_Q, easy_Q]
    return np.select(kinds, ["fault", "signal", "easy"], default="hard")


def settle(pool: Pool, outcome: Outcome, rule: Rule, /) -> Pool:
    """Write what a judged step showed into the pool, and let the rule give the next weights.

    The rule is given the pool with this step's states and attempts but the old weights, and returns (weight_P,
    memory). A faulty group's query stays as it was and counts no attempt. All rounds of a step are settled at once.
    """
    indices("drawn_Q", outcome.drawn_Q, pool.size)
    noted = _note(pool, outcome)
    weight_P, memory = rule(noted, outcome)
    return replace(noted, weight_P=_array("the rule's weights", weight_P, np.float64, pool.size), memory=memory)


def refresh(pool: Pool, *, below: float | int) -> Pool:
    """Return the pool as it is, or reset when its eligible share is under `below`.

    A reset gives every query weight 1 and state "reset" and counts one epoch. Attempts, last verdicts and the rule's
    memory are kept: `last_P` still tells a query that was never attempted from one that was trained on.
    """
    if np.count_nonzero(pool.weight_P) / pool.size >= below:
        return pool
    return replace(pool, weight_P=np.ones(pool.size), state_P=np.full(pool.size, RESET), epoch=pool.epoch + 1)


def drawable(pool: Pool, *, reset_below: float, on_exhausted: Literal["reset", "stop"]) -> Pool | None:
    """Return the pool that a step draws from: reset where its eligible share is too small, or nothing is left to draw.

    None if nothing is left and `on_exhausted` is "stop".
    """
    pool = refresh(pool, below=reset_below)
    if np.count_nonzero(pool.weight_P):
        return pool
    return None if on_exhausted == "stop" else refresh(pool, below=1.0)


def to_arrays(pool: Pool) -> dict[str, np.ndarray]:
    """Return everything a checkpoint keeps, as plain arrays by name; `from_arrays` gives the same pool back exactly."""
    arrays = {name: getattr(pool, name) for name in ARRAYS} | {"epoch": np.array([pool.epoch], np.int64)}
    arrays |= {name: getattr(pool, name) for name in KINDS if getattr(pool, name) is not None}
    return arrays | {f"memory/{name}": value for name, value in pool.memory.items()}


def from_arrays(arrays: Mapping[str, Any]) -> Pool:
    """Return the pool that `to_arrays` wrote. A missing or an unknown name is a ValueError."""
    memory = {name.removeprefix("memory/"): value for name, value in arrays.items() if name.startswith("memory/")}
    plain = {name: value for name, value in arrays.items() if not name.startswith("memory/")}
    missing = {*ARRAYS, "epoch"} - set(plain)
    unknown = set(plain) - {*ARRAYS, "epoch", *KINDS}
    if missing or unknown:
        raise UserError(f"not a pool of this version: missing {sorted(missing)}, unknown {sorted(unknown)}")
    columns: dict[str, Any] = {name: plain[name] for name in ARRAYS} | {name: plain.get(name) for name in KINDS}
    epoch = int(np.asarray(plain["epoch"]).reshape(()))
    return Pool(**columns, epoch=epoch, memory=memory)


def digest(pool: Pool) -> str:
    """Hash every array's name, type, shape and bytes, in order of name (SHA-256); hosts that differ have diverged."""
    hasher = hashlib.sha256()
    for name, array in sorted(to_arrays(pool).items()):
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        hasher.update(repr((name, little.dtype.str, array.shape)).encode())
        hasher.update(little.data)
    return hasher.hexdigest()


def query_list_hash(ids: Iterable[str]) -> str:
    """Hash the ordered query ids (SHA-256), each with its length before it: no two lists share their bytes."""
    hasher = hashlib.sha256()
    for query_id in ids:
        encoded = query_id.encode()
        hasher.update(len(encoded).to_bytes(8, "little") + encoded)
    return hasher.hexdigest()


def _note(pool: Pool, outcome: Outcome) -> Pool:
    """Return the pool with a step's verdicts written into all its arrays except the weights."""
    graded_Q = outcome.verdict_Q != "fault"
    drawn = outcome.drawn_Q[graded_Q]
    verdict = outcome.verdict_Q[graded_Q]
    valid_QG = outcome.grades.valid_QG[graded_Q]
    outcome_QG = outcome.grades.reward_QG if outcome.grades.outcome_QG is None else outcome.grades.outcome_QG
    accepted = np.isin(drawn, outcome.accepted)
    kinds = [verdict == "hard", verdict == "easy", accepted]
    dead_before = pool.zero_variance_P[drawn]
    new = {
        "state_P": np.select(kinds, [HARD, EASY, CONSUMED], default=SURPLUS),
        "last_P": np.select(kinds, [LAST_HARD, LAST_EASY, LAST_ACCEPTED], default=LAST_SURPLUS),
        "last_successes_P": ((outcome_QG[graded_Q] == 1) & valid_QG).sum(axis=1), "last_valid_P": valid_QG.sum(axis=1),
        "last_step_P": outcome.step, "attempts_P": pool.attempts_P[drawn] + 1,
        "accepted_P": pool.accepted_P[drawn] + accepted, "zero_variance_P": dead_before + (verdict != "signal"),
        "flipped_P": pool.flipped_P[drawn] | (accepted & (dead_before > 0)),
    }  # fmt: skip
    return replace(pool, **{name: _with(getattr(pool, name), drawn, value) for name, value in new.items()})


def _with(array: np.ndarray, at: np.ndarray, value: Any) -> np.ndarray:
    """Return a read-only copy with other values at some places."""
    changed = array.copy()
    changed[at] = value
    changed.flags.writeable = False
    return changed


def _array(name: str, value: Any, dtype: Any, size: int) -> np.ndarray:
    """Return a read-only array [size] of that type; floating ones (weights) must be finite and not negative."""
    array = np.asarray(value)
    if array.shape != (size,):
        raise UserError(f"{name} must hold one value a query, shape ({size},), found shape {array.shape}")
    if np.issubdtype(dtype, np.floating) and not (array.min(initial=0) >= 0 and array.max(initial=0) < np.inf):
        bad = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
        raise UserError(
            f"{name} must be finite and 0 or more; {len(bad)} are not, the first {array[bad[0]]} at query {bad[0]}"
        )
    return _frozen(array.astype(dtype, copy=False))


def _frozen(value: Any) -> np.ndarray:
    """Return the array itself if it is read-only, otherwise a read-only copy. Plain types only, for the checkpoint."""
    array = np.asarray(value)
    if array.dtype.kind == "O":
        raise UserError(f"a pool holds arrays of plain types, found {type(value).__name__}")
    if array.flags.writeable:
        array = array.copy()
        array.flags.writeable = False
    return array


def indices(name: str, value: Any, size: int | None) -> np.ndarray:
    """Check indices and return them as int64 [n], each in [0, size) if a size is given."""
    array = np.asarray(value)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise UserError(f"{name} must be a list of integers, found shape {array.shape} of {array.dtype}")
    if size is not None and array.size and (array.min() < 0 or array.max() >= size):
        held = f"{name} holds indices from {array.min()} to {array.max()}"
        raise UserError(f"{held}; the pool's go from 0 to {size - 1}")
    return array.astype(np.int64)
