"""Pass rates of a pool's queries over a run: made up (static, moving, or learned by training), or as a run has them."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qr_jax import config, jsonl, metrics_writer, run_files
from qr_jax.noise import uniforms
from qr_jax.settings import conform

RATES = 92  # the first part of the keys of its random numbers
MOVING = ("improving", "drifting", "flipping")
SHIFT = 3.0
FEW = 200  # first draws that one estimate is made of, where there are that many
BOUNDS = (0.02, 50.0)
MOST_QUERIES = 2**22  # of a pool that is played again: each takes some 200 bytes
MOST_SAMPLES = 1024  # of a query, as its draws in a ledger say
MOST_OUTCOMES = 2**26  # queries times samples: a step's random numbers are made for all of them, 8 bytes each

# (share of the budget spent, queries, how often each was trained on) -> their pass rates then
World = Callable[[float, np.ndarray, np.ndarray], np.ndarray]
Stretch = tuple[float, float, float]  # the share of the budget it begins at, and a, b of its Beta


@dataclass(frozen=True)
class Draws:
    """Every draw of a run, in order: what a ledger knows of pass rates."""

    done_D: np.ndarray  # share of the budget spent before the draw's step
    query_D: np.ndarray
    right_D: np.ndarray  # valid episodes that were right
    valid_D: np.ndarray


def beta_rates(size: int, a: float, b: float, *, seed: int) -> np.ndarray:
    """Pass rates [size] of Beta(a, b): its quantiles at uniform numbers keyed by (92, seed, query)."""
    from scipy.special import betaincinv

    return betaincinv(a, b, uniforms(size, RATES, seed))


def world(rates: str, size: int, *, seed: int) -> World:
    """A world from words: "beta:a,b" or "uniform" stay as they are; the others begin at Beta(a, b) and move.

    "improving:a,b,shift": every query's log-odds grow by `shift` (3 if not given) over the budget; "drifting": they
    fall by it; "flipping": they grow for odd queries and fall for even ones. "memorising:a,b,shift,jump": they grow by
    `shift` over the budget, and by `jump` each time that the query itself is trained on.
    """
    shape, _, rest = rates.partition(":")
    try:
        numbers = [float(part) for part in rest.split(",")] if rest else []
    except ValueError:
        numbers = [-1.0]
    wanted = {"beta": (2,), "uniform": (0,), "memorising": (4,)} | dict.fromkeys(MOVING, (2, 3))
    moves = [number or 1.0 for number in numbers[2:]] if shape == "memorising" else numbers[2:]  # 0: it does not move
    if len(numbers) not in wanted.get(shape, ()) or not all(0 < number < np.inf for number in numbers[:2] + moves):
        shapes = "beta:a,b, uniform, improving:a,b, drifting:a,b, flipping:a,b or memorising:a,b,shift,jump"
        shift = "the three before the last also with a shift of the log-odds, as in improving:0.35,0.35,3"
        zero = "all above 0, but that shift and jump of memorising may be 0"
        raise ValueError(f"rates are {rates!r}; wanted {shapes} ({shift}; {zero}), or the folder of a run")
    a, b = numbers[:2] or (1.0, 1.0)
    rate_P = beta_rates(size, a, b, seed=seed)
    if shape in ("beta", "uniform"):
        return lambda done, drawn_Q, trained_Q: rate_P[drawn_Q]
    shift, jump = (*numbers[2:], *(SHIFT, 0.0)[len(numbers[2:]) :])
    signs = {"drifting": -np.ones(size), "flipping": np.arange(size) % 2 * 2.0 - 1}
    shift_P = signs.get(shape, np.ones(size)) * shift

    def moved(done: float, drawn_Q: np.ndarray, trained_Q: np.ndarray) -> np.ndarray:
        odds_Q, rate_Q = np.exp(shift_P[drawn_Q] * done + jump * trained_Q), rate_P[drawn_Q]
        return rate_Q * odds_Q / (1 - rate_Q + rate_Q * odds_Q)

    return moved


def first_pass(draws: Draws) -> list[Stretch]:
    """Beta distributions of the pass rates of queries first drawn in each stretch of a run.

    By maximum likelihood from the counts of right answers. To take each query's own few samples for its rate would put
    all that were all wrong at 0, and nothing could ever flip. That the rates follow a Beta is an assumption.
    """
    graded = np.flatnonzero(draws.valid_D >= 2)
    if not len(graded):
        raise ValueError("no group has two valid episodes yet; pass rates cannot be estimated")
    first = np.sort(graded[np.unique(draws.query_D[graded], return_index=True)[1]])
    parts = np.array_split(first, min(10, max(1, len(first) // FEW)))
    return [(float(draws.done_D[part[0]]), *fit_beta(draws.right_D[part], draws.valid_D[part])) for part in parts]


def fit_beta(right: np.ndarray, valid: np.ndarray) -> tuple[float, float]:
    """(a, b), each in [0.02, 50], of the Beta under which `right` of `valid` are likeliest: a grid that closes in."""
    pairs, counts = np.unique(np.stack([right, valid]), axis=1, return_counts=True)
    right, valid = pairs
    low, high = np.log(BOUNDS)
    log_a = log_b = 0.0
    half = high
    for _ in range(14):
        steps = np.linspace(-half, half, 13)
        a, b = np.exp(np.clip(log_a + steps, low, high)), np.exp(np.clip(log_b + steps, low, high))
        of_a, of_b = (_log_rising(first, times) @ counts for first, times in ((a, right), (b, valid - right)))
        likelihood = of_a[:, None] + of_b - _log_rising(a[:, None] + b, valid) @ counts
        i, j = np.unravel_index(likelihood.argmax(), likelihood.shape)
        log_a, log_b, half = np.log(a[i]), np.log(b[j]), half * 0.6
    return float(np.exp(log_a)), float(np.exp(log_b))


def _log_rising(first: np.ndarray, times_N: np.ndarray) -> np.ndarray:
    """log(first * (first + 1) * ...) of so many factors: `first`'s shape with an axis [N] behind it."""
    logs = np.cumsum(np.log(first[..., None] + np.arange(times_N.max(initial=0))), axis=-1)
    return np.concatenate([np.zeros((*first.shape, 1)), logs], axis=-1)[..., times_N]


def following(stretches: Sequence[Stretch], size: int, *, seed: int, frozen: bool = False) -> World:
    """A world with these distributions over the run: queries keep their rank in it, or, `frozen`, their first rate."""
    begins = np.array([begin for begin, _, _ in stretches])
    rate_P_of = functools.cache(lambda at: beta_rates(size, *stretches[at][1:], seed=seed))
    kept_P = np.full(size, np.nan)

    def now(done: float, drawn_Q: np.ndarray, trained_Q: np.ndarray) -> np.ndarray:
        return rate_P_of(max(int(np.searchsorted(begins, done, side="right")) - 1, 0))[drawn_Q]

    def first(done: float, drawn_Q: np.ndarray, trained_Q: np.ndarray) -> np.ndarray:
        new_Q = np.isnan(kept_P[drawn_Q])
        kept_P[drawn_Q[new_Q]] = now(done, drawn_Q[new_Q], trained_Q[new_Q])
        return kept_P[drawn_Q]

    return first if frozen else now


def read_run(folder: str | Path, last: int | None = None) -> tuple[config.Pool, int, int, Draws]:
    """A run's pool settings, its pool's size, the rollouts it has spent and its draws; also of a run under way.

    `last` is the last step that counts (None: all). ValueError where nothing can be said: no run, no steps yet, no
    draws.
    """
    run_files.check_trained(Path(folder))
    path = Path(folder) / "config.json"
    rows = rows_until(folder, last)
    if not rows:
        raise ValueError(f"{folder} has no step yet; there are no pass rates to read from it")
    spent = {int(row["step"] or 0): int(row["budget/rollouts"] or 0) for row in rows}
    draws = _read_draws(Path(folder) / "ledger.jsonl", spent)
    pool = conform("pool", json.loads(path.read_text(encoding="utf-8")).get("pool", {}), config.Pool)
    size = int(rows[-1]["pool/size"] or 0)
    if not 0 <= size <= MOST_QUERIES:
        raise ValueError(f"{folder} says that its pool has {size:,} queries; at most {MOST_QUERIES:,} are played again")
    if not 1 <= pool.samples <= MOST_OUTCOMES // max(size, 1):
        says = f"{size:,} queries with {pool.samples:,} samples each"
        raise ValueError(f"{folder} says that its pool has {says}; at most {MOST_OUTCOMES:,} samples are played again")
    return pool, size, spent[max(spent)], draws


def rows_until(folder: str | Path, last: int | None) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl up to a step (None: all)."""
    return [row for row in metrics_writer.read(folder) if last is None or int(row["step"] or 0) <= last]


def _read_draws(path: Path, spent: Mapping[int, int]) -> Draws:
    """The draws of the ledger that belong to the steps in `spent` (step -> rollouts until then)."""
    names = ("step", "index", "successes", "valid")
    found = [[int(row[name]) for name in names] for row in jsonl.every(path, *names) if row["step"] in spent]
    for step, index, right, valid in found:
        if not (0 <= index < MOST_QUERIES and 0 <= right <= valid <= MOST_SAMPLES):
            wanted = f"an index from 0 to {MOST_QUERIES - 1:,}, and 0 <= successes <= valid <= {MOST_SAMPLES:,}"
            has = f"index {index:,}, {right:,} successes of {valid:,} valid"
            raise ValueError(f"{path} has a draw in step {step} with {has}; wanted {wanted}")
    if not found:
        raise ValueError(f"{path} holds no draws of the run's steps; pass rates are read from it")
    step_D, *columns = np.array(found).T
    return Draws(np.array([spent.get(int(step) - 1, 0) for step in step_D]) / max(spent.values()), *columns)
