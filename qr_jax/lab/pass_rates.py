"""Pass rates of a pool's queries over a run: made up (static, moving, or learned by training), or as a run has them."""

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qr_jax import config
from qr_jax.errors import UserError
from qr_jax.lab import paper_world, rate_bounds, run_folders
from qr_jax.logging import metrics_writer
from qr_jax.pool.noise import uniforms
from qr_jax.run import json_files
from qr_jax.settings.settings import conform

RATES = 92  # the first part of the keys of its random numbers
MOVING = ("improving", "drifting", "flipping")
SHIFT = 3.0
FEW = 200  # first draws that one estimate is made of, where there are that many
SLACK = 2.7  # chi-square at 90 %, of one degree of freedom: each edge is the largest or smallest of one chance
MOST_QUERIES = 2**22  # of a pool that is played again: each takes some 200 bytes
MOST_SAMPLES = 1024  # of a query, as its draws in a ledger say
MOST_OUTCOMES = 2**26  # queries times samples: a step's random numbers are made for all of them, 8 bytes each

# (share of the budget spent, queries, how often each was trained on, and with what weight) -> their pass rates then. A
# batch of E queries gives each the weight B / E, where B are wanted: the loss is a mean over its queries.
World = Callable[[float, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Stretch = tuple[float, rate_bounds.Weights]  # the share of the budget it begins at, and its distribution


@dataclass(frozen=True)
class Draws:
    """Every draw of a run, in order: what a ledger knows of pass rates."""

    done_D: np.ndarray  # share of the budget spent before the draw's step
    query_D: np.ndarray
    right_D: np.ndarray  # valid episodes that were right
    valid_D: np.ndarray


def beta_rates(size: int, a: float, b: float, *, seed: int) -> np.ndarray:
    """Return pass rates [size] of Beta(a, b): its quantiles at uniform numbers keyed by (92, seed, query)."""
    from scipy.special import betaincinv

    return betaincinv(a, b, uniforms(size, RATES, seed))


def world(rates: str, size: int, *, seed: int) -> World:
    """Return a world from words: "beta:a,b" or "uniform" stay as they are; the others begin at Beta(a, b) and move.

    "improving:a,b,shift": every query's log-odds grow by `shift` (3 if not given) over the budget; "drifting": they
    fall by it; "flipping": they grow for odd queries and fall for even ones. "memorising:a,b,shift,jump": they grow by
    `shift` over the budget, and by `jump` each time that the query itself is trained on. "paper:MODEL": as the paper's
    figures say (`paper_world.world`).
    """
    shape, _, rest = rates.partition(":")
    if shape == "paper":
        return paper_world.world(rest, size, seed=seed)
    try:
        numbers = [float(part) for part in rest.split(",")] if rest else []
    except ValueError:
        numbers = [-1.0]
    wanted = {"beta": (2,), "uniform": (0,), "memorising": (4,)} | dict.fromkeys(MOVING, (2, 3))
    moves = [number or 1.0 for number in numbers[2:]] if shape == "memorising" else numbers[2:]  # 0: it does not move
    if len(numbers) not in wanted.get(shape, ()) or not all(0 < number < np.inf for number in numbers[:2] + moves):
        shapes = (
            "beta:a,b, uniform, improving:a,b, drifting:a,b, flipping:a,b, memorising:a,b,shift,jump or paper:model"
        )
        shift = "improving, drifting and flipping also with a shift of the log-odds, as in improving:0.35,0.35,3"
        zero = "all above 0, but that shift and jump of memorising may be 0"
        raise UserError(f"rates are {rates!r}; wanted {shapes} ({shift}; {zero}), or the folder of a run")
    a, b = numbers[:2] or (1.0, 1.0)
    rate_P = beta_rates(size, a, b, seed=seed)
    if shape in ("beta", "uniform"):
        return lambda done, drawn_Q, *_: rate_P[drawn_Q]
    shift, jump = (*numbers[2:], *(SHIFT, 0.0)[len(numbers[2:]) :])
    signs = {"drifting": -np.ones(size), "flipping": np.arange(size) % 2 * 2.0 - 1}
    shift_P = signs.get(shape, np.ones(size)) * shift

    def moved(done: float, drawn_Q: np.ndarray, trained_Q: np.ndarray, *_: Any) -> np.ndarray:
        odds_Q, rate_Q = np.exp(shift_P[drawn_Q] * done + jump * trained_Q), rate_P[drawn_Q]
        return rate_Q * odds_Q / (1 - rate_Q + rate_Q * odds_Q)

    return moved


@dataclass(frozen=True)
class Fits:
    """Distributions of pass rates that the first draws of a run allow, by kind of query and stretch of the run.

    `kind_P` numbers each query's kind. `stretches[kind]` is a list of (share of the budget at which it begins, the
    allowed distributions: the likeliest, then the edges of `rate_bounds.edges`). `chances` bound how often a query
    filed "hard" or "easy" bears signal at its next draw under a policy that does not move.
    """

    kind_P: np.ndarray
    stretches: list[list[tuple[float, list[rate_bounds.Weights]]]]
    chances: dict[str, tuple[float, float] | None]

    def chosen(self, choose: Callable[[list[rate_bounds.Weights]], rate_bounds.Weights]) -> list[list[Stretch]]:
        """Return one distribution a stretch."""
        return [[(begin, choose(weights)) for begin, weights in kind] for kind in self.stretches]


def first_pass(draws: Draws, size: int, samples: int, family_P: np.ndarray | None = None) -> Fits:
    """Fit the pass rates of queries as they were when first drawn, for groups of `samples`.

    No shape is assumed. To take each query's own few samples for its rate would put all that were all wrong at 0, and
    nothing could ever flip. Families with fewer than FEW / 4 first draws are one kind together. The slack of SLACK is
    shared out over all fits, whose errors are independent.
    """
    graded = np.flatnonzero(draws.valid_D >= 2)
    if not len(graded):
        raise UserError("no group has two valid episodes yet; pass rates cannot be estimated")
    first = np.sort(graded[np.unique(draws.query_D[graded], return_index=True)[1]])
    kind_P = _kinds(draws.query_D[first], np.zeros(size, np.int64) if family_P is None else family_P)
    of_kind = [first[kind_P[draws.query_D[first]] == kind] for kind in range(kind_P.max() + 1)]
    parts = [
        [part[where] for where in rate_bounds.split(draws.right_D[part], draws.valid_D[part], FEW)] for part in of_kind
    ]
    slack = SLACK / sum(map(len, parts))
    stretches = [
        [
            (float(draws.done_D[part[0]]), rate_bounds.edges(draws.right_D[part], draws.valid_D[part], samples, slack))
            for part in kind
        ]
        for kind in parts
    ]
    count_S = np.array([len(part) for kind in parts for part in kind])
    weight_SMA = np.array([weights for kind in stretches for _, weights in kind])
    weight_MA = np.tensordot(count_S / count_S.sum(), weight_SMA, axes=1)
    chances: dict[str, tuple[float, float] | None] = {}
    for name, filed_A in rate_bounds.filed(samples).items():
        chance_M = [rate_bounds.signal_after(filed_A, weight_A, samples) for weight_A in weight_MA]
        known = [chance for chance in chance_M if chance is not None]
        chances[name] = (min(known), max(known)) if known else None
    return Fits(kind_P, stretches, chances)


def _kinds(first_D: np.ndarray, family_P: np.ndarray) -> np.ndarray:
    """Return the families of queries numbered from 0, those with few first draws as one."""
    drawn_F = np.bincount(family_P[first_D], minlength=family_P.max() + 1)
    many_F = drawn_F >= FEW // 4
    number_F = np.cumsum(many_F) - 1
    rest = many_F.sum() if drawn_F[~many_F].any() else number_F[drawn_F.argmax()]
    return np.where(many_F, number_F, rest)[family_P]


def following(stretches: Sequence[Sequence[Stretch]], kind_P: np.ndarray, *, seed: int, frozen: bool = False) -> World:
    """Return a world with these distributions over the run, by kind of query.

    Queries keep their rank in the distribution, or, `frozen`, the rate of their first draw.
    """
    share_P = uniforms(len(kind_P), RATES, seed)
    kept_P = np.full(len(kind_P), np.nan)

    def now(done: float, drawn_Q: np.ndarray, *_: Any) -> np.ndarray:
        rate_Q, kind_Q = np.empty(len(drawn_Q)), kind_P[drawn_Q]
        for kind in np.unique(kind_Q):
            begins = [begin for begin, _ in stretches[kind]]
            _, weight_A = stretches[kind][max(bisect_right(begins, done) - 1, 0)]
            rate_Q[kind_Q == kind] = rate_bounds.quantile(weight_A, share_P[drawn_Q[kind_Q == kind]])
        return rate_Q

    def first(done: float, drawn_Q: np.ndarray, *_: Any) -> np.ndarray:
        new_Q = np.isnan(kept_P[drawn_Q])
        kept_P[drawn_Q[new_Q]] = now(done, drawn_Q[new_Q])
        return kept_P[drawn_Q]

    return first if frozen else now


def read_run(folder: str | Path, last: int | None = None) -> tuple[config.Pool, int, int, Draws]:
    """Return a run's pool settings, its pool's size, the rollouts it has spent and its draws; also of a run under way.

    `last` is the last step that counts (None: all). ValueError where nothing can be said: no run, no steps yet, no
    draws.
    """
    run_folders.check_trained(Path(folder))
    path = Path(folder) / "config.json"
    rows = rows_until(folder, last)
    if not rows:
        raise UserError(f"{folder} has no step yet; there are no pass rates to read from it")
    spent = {int(row["step"] or 0): int(row["budget/rollouts"] or 0) for row in rows}
    draws = _read_draws(Path(folder) / "ledger.jsonl", spent)
    pool = conform("pool", json_files.read_json(path).get("pool", {}), config.Pool)
    size = int(rows[-1]["pool/size"] or 0)
    if not 0 <= size <= MOST_QUERIES:
        raise UserError(f"{folder} says that its pool has {size:,} queries; at most {MOST_QUERIES:,} are played again")
    if not 1 <= pool.samples <= MOST_OUTCOMES // max(size, 1):
        says = f"{size:,} queries with {pool.samples:,} samples each"
        raise UserError(f"{folder} says that its pool has {says}; at most {MOST_OUTCOMES:,} samples are played again")
    if len(draws.query_D) and draws.query_D.max() >= size:
        raise UserError(f"{folder}: its ledger draws query {draws.query_D.max():,} of a pool of {size:,}")
    return pool, size, spent[max(spent)], draws


def rows_until(folder: str | Path, last: int | None) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl up to a step (None: all)."""
    return [row for row in metrics_writer.read(folder) if last is None or int(row["step"] or 0) <= last]


def told_otherwise(folder: str | Path, steps: Collection[int]) -> tuple[int, int]:
    """Count the graded draws of these steps, first those whose verdict is not that of their outcomes.

    There are some where rewards are not outcomes (F1, or a price on length) and decide what bears signal.
    """
    rows = json_files.rows(Path(folder) / "ledger.jsonl", "step", "successes", "valid")
    found = [row for row in rows if row["step"] in steps and row.get("verdict") in ("signal", "easy", "hard")]
    by_outcome = [0 < int(row["successes"]) < int(row["valid"]) for row in found]
    return sum((row["verdict"] == "signal") != mixed for row, mixed in zip(found, by_outcome)), len(found)


def _read_draws(path: Path, spent: Mapping[int, int]) -> Draws:
    """Return the draws of the ledger that belong to the steps in `spent` (step -> rollouts until then)."""
    names = ("step", "index", "successes", "valid")
    found = [[int(row[name]) for name in names] for row in json_files.rows(path, *names) if row["step"] in spent]
    for step, index, right, valid in found:
        if not (0 <= index < MOST_QUERIES and 0 <= right <= valid <= MOST_SAMPLES):
            wanted = f"an index from 0 to {MOST_QUERIES - 1:,}, and 0 <= successes <= valid <= {MOST_SAMPLES:,}"
            has = f"index {index:,}, {right:,} successes of {valid:,} valid"
            raise UserError(f"{path} has a draw in step {step} with {has}; wanted {wanted}")
    if not found:
        raise UserError(f"{path} holds no draws of the run's steps; pass rates are read from it")
    step_D, *columns = np.array(found).T
    return Draws(np.array([spent.get(int(step) - 1, 0) for step in step_D]) / max(spent.values()), *columns)
