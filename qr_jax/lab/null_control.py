"""The null control: a run played again with pass rates that never change, for the figures that chance alone gives.

A policy that never changes also recycles and flips queries, by chance alone, because K samples are few. How often it
does depends on pass rates that K samples do not tell. So every figure of the pool is read beside a band: the run's own
sampler, played on the distributions of pass rates that the run's first draws allow (`rate_bounds`).
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.stats import t as student

from qr_jax import trust
from qr_jax.errors import UserError
from qr_jax.lab import pass_rates, rate_bounds
from qr_jax.lab.oracle import NotPlayable, Sampler, TooLong, play, summary
from qr_jax.lab.pass_rates import Draws
from qr_jax.pool import figures
from qr_jax.pool.noise import uniforms

AGAIN = ("zero_variance_rate_ex_hard", "zero_variance_rate_ex_easy")  # of those drawn again: what moves first
NAMES = ("zero_variance_rate", "recycled_share", "seen_share", *figures.ORIGINS, "flipped", *AGAIN)
MOVES = ("zero_variance_rate", "flipped", *AGAIN)  # the figures that a moving pass rate changes first
COUNTS = ("accepted", *(f"accepted_{origin}" for origin in figures.ORIGINS))
INSIDE = 0.9  # the share of a frozen policy's figures that the band holds, for any pass rates that are allowed
MIXTURE = 97  # the first part of the keys of its random mixtures
STRANGER_S = 20.0  # that somebody else's run is played
OTHERWISE = 0.01  # largest share of draws whose rewards tell other than their outcomes, which are all that is played


def null(
    plan: Sampler,
    draws: Draws,
    *,
    size: int,
    kinds: Mapping[str, np.ndarray] = MappingProxyType({}),
    seeds: int = 4,
    points: int = 40,
    limit_s: float = inf,
) -> dict[str, Any]:
    """Play a run's sampler with pass rates frozen at each query's first draw, under every distribution allowed.

    Fresh queries have the pass rates that fresh queries of the run had at that time (`pass_rates.first_pass`). `kinds`
    are the pool's `family_P` and `hops_P`. There are `seeds` plays under each allowed distribution, and `seeds` more
    under random mixtures of them. Returns `rollouts` (where each of up to `points` equal stretches of the budget ends),
    `bands` (figure -> mean, low, high: a value a stretch; low is the least lower limit of any distribution's 90 %
    prediction interval for one more play, high the largest upper limit), `summary` (likewise, of the scalars of
    `oracle.summary`) and `chances` (how often a query filed "hard", or "easy", may bear signal at its next draw: least,
    largest; None where none is filed so). A run's own values over such stretches are `curves`. TooLong after `limit_s`.
    """
    until = time.monotonic() + limit_s
    if seeds < 2:
        raise UserError(f"seeds={seeds}; the control needs at least 2: it compares plays of one distribution")
    fits = pass_rates.first_pass(draws, size, plan.samples, kinds.get("family_P"))
    plays = []
    for member in range(len(fits.stretches[0][0][1]) + 1):
        for seed in range(seeds):
            world = pass_rates.following(
                fits.chosen(partial(_member, member, seed)), fits.kind_P, seed=seed, frozen=True
            )
            plays.append(play(plan, world, size=size, seed=seed, **kinds, until=until))
    points = min(points, *(len(run.rows) for run in plays))
    every = [curves(run.rows, points, plan.rollouts) for run in plays]
    scalars = [summary(run) for run in plays]
    return {
        "seeds": seeds,
        "plays": len(plays),
        "rollouts": every[0]["rollouts"],
        "bands": {
            name: _band([values[name] for values in every], seeds, counts=name in COUNTS) for name in (*NAMES, *COUNTS)
        },
        "summary": {name: _band([scalar[name] for scalar in scalars], seeds) for name in scalars[0]},
        "chances": fits.chances,
    }


def _member(member: int, seed: int, allowed: list[rate_bounds.Weights]) -> rate_bounds.Weights:
    """Return the allowed distribution of that number; past the last, a random mixture of all."""
    if member < len(allowed):
        return allowed[member]
    return rate_bounds.mixed(allowed, -np.log(uniforms(len(allowed), MIXTURE, seed)))


def null_of_run(
    folder: str | Path,
    *,
    kinds: Mapping[str, np.ndarray] = MappingProxyType({}),
    seeds: int = 4,
    points: int = 40,
    last: int | None = None,
    own: bool = False,
) -> dict[str, Any]:
    """Return `null` of a run's folder (config.json, metrics.jsonl, ledger.jsonl), with the run's own `curves` as `run`.

    A run under way will do. `kinds` as for `null` (`runs.kinds` reads them). `last` is the last step that counts (None:
    all). ValueError where `pass_rates.read_run` can say nothing, or rewards that are no outcomes decide what bears
    signal; NotPlayable where the run's rule or rounds cannot be simulated. Unless the run is this user's `own`, or
    allowed (trust.py), it is played for STRANGER_S alone, since what it says of itself may ask for years, and not at
    all by plug-ins that ask for what may do harm.
    """
    pool, size, rollouts, draws = pass_rates.read_run(folder, last)
    if listed := [] if own else [*trust.asks_of("rule", pool.rule), *trust.asks_of("rounds", pool.rounds)]:
        raise UserError(f"it is not a run of yours, and would be played by {' and '.join(listed)}; --trust allows that")
    rows = pass_rates.rows_until(folder, last)
    unlike, graded = pass_rates.told_otherwise(folder, {int(row["step"] or 0) for row in rows})
    if unlike > OTHERWISE * graded:
        what = f"{unlike:,} of {graded:,} groups bear signal by their rewards and not by their outcomes, or the reverse"
        raise UserError(f"{what} (pool.channel={pool.channel}), and it plays outcomes of 0 and 1 alone")
    names = ("rule", "rounds", "queries", "samples", "oversample", "by", "reset_below", "on_exhausted")
    plan = Sampler(**{name: getattr(pool, name) for name in names}, rollouts=rollouts)
    control = null(
        plan, draws, size=size, kinds=kinds, seeds=seeds, points=min(points, len(rows)),
        limit_s=inf if own else STRANGER_S,
    )  # fmt: skip
    return control | {"run": curves(rows, len(control["rollouts"]), rollouts)}


def null_or_reason(folder: str | Path, **settings: Any) -> dict[str, Any]:
    """Return `null_of_run`, or {"reason": why there is none}: a finished run does not fail for want of one."""
    from qr_jax.run import runs  # here: it imports jax, which the oracle does not need

    try:
        return null_of_run(folder, kinds=runs.kinds(folder), **settings)
    except NotPlayable as error:
        return {"reason": f"no null for {error}"}
    except TooLong as error:
        way_out = "--trust plays somebody else's run to its end"
        return {"reason": f"no null control: {error} in {STRANGER_S:.0f} s; {way_out}"}
    except ValueError as error:
        return {"reason": f"no null control: {error}"}


def curves(rows: Sequence[Mapping[str, Any]], points: int, rollouts: int) -> dict[str, list[float | None]]:
    """Return a run's rows of metrics over `points` equal stretches of a budget; `rollouts` are their ends.

    A step belongs to the stretch in which it ended, the last ones to the last. Shares are of summed counts, counts a
    step's; None where no step ended.
    """
    spent_T = np.cumsum([row["pool/rollouts"] for row in rows])
    at_T = np.minimum(np.ceil(spent_T * points / rollouts).astype(int) - 1, points - 1)
    parts = [[row for row, where in zip(rows, at_T) if where == at] for at in range(points)]
    stretches: list[Mapping[str, Any]] = [figures.over_steps(part) if part else {} for part in parts]
    shares = {name: [stretch.get(f"pool/{name}") for stretch in stretches] for name in NAMES}
    counts = {
        name: [stretch[f"pool/{name}"] / len(part) if part else None for stretch, part in zip(stretches, parts)]
        for name in COUNTS
    }
    return {"rollouts": [rollouts * (at + 1) / points for at in range(points)], **shares, **counts}


def outside(
    run: Mapping[str, Sequence[float | None]], bands: Mapping[str, Mapping[str, Sequence[float | None]]]
) -> dict[str, np.ndarray]:
    """Return for each figure of NAMES, a value a stretch: 1 outside its band, 0 inside, NaN where one is unknown.

    `run` are a run's `curves`, `bands` those of `null`. A figure that is the same in all stretches is left out.
    """
    found = {}
    for name in NAMES:
        count = min(len(run[name]), len(bands[name]["low"]))  # a run under way has fewer stretches
        value_T, low_T, high_T = (
            np.array(values[:count], float) for values in (run[name], bands[name]["low"], bands[name]["high"])
        )
        known_T = np.isfinite(value_T) & np.isfinite(low_T)
        if known_T.any() and np.ptp(value_T[known_T]) > 0:
            out_T = (value_T < low_T - 1e-9) | (value_T > high_T + 1e-9)
            found[name] = np.where(known_T, out_T, np.nan)
    return found


def stretches_left(outside: Mapping[str, np.ndarray]) -> np.ndarray:
    """Tell for each stretch with a known figure of MOVES whether one of these or more lies `outside` its band."""
    every = [outside[name] for name in MOVES if name in outside]
    if not every:
        return np.zeros(0, bool)
    known_T = np.isfinite(every).any(axis=0)
    return np.max(np.nan_to_num(every), axis=0)[known_T].astype(bool)


def _band(values: Sequence[Any], seeds: int, *, counts: bool = False) -> dict[str, Any]:
    """Return the mean over all plays and the distributions' outer prediction limits; None where no play has a value.

    A distribution's interval is its mean over `seeds` plays, plus and minus t s sqrt(1 + 1 / seeds), s the standard
    deviation of plays within a distribution, pooled over distributions. Values are shares and counts: never below 0,
    and shares (all values at most 1, unless they are `counts`) never above 1.
    """
    array = np.array(values, float)  # None becomes NaN
    by_member = np.array(np.split(array, len(array) // seeds))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a stretch that no play of a distribution has
        mean_M = np.nanmean(by_member, axis=1)
        spread = np.sqrt(np.nanmean(np.nanvar(by_member, axis=1, ddof=1), axis=0))
        times = student.ppf((1 + INSIDE) / 2, len(array) - len(by_member)) * np.sqrt(1 + 1 / seeds)
        half = times * np.nan_to_num(spread)
        least = np.minimum(np.nanmin(array, axis=0), 0)
        most = np.where((np.nanmax(array, axis=0) <= 1) & (not counts), 1, np.inf)
        band = {"mean": np.nanmean(array, axis=0)}
        band |= {"low": np.maximum(np.nanmin(mean_M, axis=0) - half, least)}
        band |= {"high": np.minimum(np.nanmax(mean_M, axis=0) + half, most)}
    known = ~np.isnan(array).all(axis=0)
    return {name: np.asarray(np.where(known, value, None)).tolist() for name, value in band.items()}
