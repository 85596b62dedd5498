"""The null control: what a run's figures would be had no pass rate moved after a query's first draw.

A policy that never changes also recycles and flips queries, by chance alone, because K samples are few. So every
figure of the pool is to be read beside the band that this control gives for the run's own sampler.
"""

import time
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from qr_jax import figures
from qr_jax.studies import pass_rates
from qr_jax.studies.oracle import NotPlayable, Sampler, TooLong, play, summary
from qr_jax.studies.pass_rates import Draws

NAMES = ("zero_variance_rate", "recycled_share", "seen_share", *figures.ORIGINS, "flipped")
COUNTS = ("accepted", *(f"accepted_{origin}" for origin in figures.ORIGINS))
LEVELS = {"low": 0.05, "high": 0.95}
STRANGER_S = 20.0  # that somebody else's run is played


def null(
    plan: Sampler,
    draws: Draws,
    *,
    size: int,
    seeds: int = 20,
    points: int = 40,
    allow_plugins: Sequence[str] | None = None,
    limit_s: float = inf,
) -> dict[str, Any]:
    """The control of a run: `seeds` simulated runs of its sampler, each query frozen at its first draw's pass rate.

    Fresh queries have the pass rates that fresh queries of the run had at that time (`pass_rates.first_pass`). Returns
    `rollouts` (where each of up to `points` stretches of equally many steps ends), `bands` (figure -> mean, low, high:
    a value a stretch; low and high are the 5 % and 95 % quantiles over seeds) and `summary` (likewise, of the scalars
    of `oracle.summary`). A run's own values over such stretches are `curves`. TooLong after `limit_s`.
    """
    until = time.monotonic() + limit_s
    if seeds < 1:
        raise ValueError(f"seeds={seeds}; the control needs at least 1")
    stretches = pass_rates.first_pass(draws)
    runs = []
    for seed in range(seeds):
        world = pass_rates.following(stretches, size, seed=seed, frozen=True)
        runs.append(play(plan, world, size=size, seed=seed, allow_plugins=allow_plugins, until=until))
    every = [curves(run.rows, points) for run in runs]
    least = min(len(values["rollouts"]) for values in every)
    scalars = [summary(run) for run in runs]
    return {
        "seeds": seeds,
        "rollouts": np.mean(np.array([values["rollouts"][:least] for values in every], float), axis=0).tolist(),
        "bands": {name: _band([values[name][:least] for values in every]) for name in (*NAMES, *COUNTS)},
        "summary": {name: _band([scalar[name] for scalar in scalars]) for name in scalars[0]},
    }


def null_of_run(
    folder: str | Path,
    *,
    seeds: int = 20,
    points: int = 40,
    last: int | None = None,
    allow_plugins: Sequence[str] | None = (),
) -> dict[str, Any]:
    """`null` of a run's folder (config.json, metrics.jsonl, ledger.jsonl), with the run's own `curves` as `run`.

    A run under way will do. `last` is the last step that counts (None: all). ValueError where `pass_rates.read_run` can
    say nothing, NotPlayable where the run's rule or rounds cannot be simulated. Somebody else's run, whose plug-ins are
    not all allowed, is played for STRANGER_S: what it says of itself may ask for years.
    """
    pool, size, rollouts, draws = pass_rates.read_run(folder, last)
    names = ("rule", "rounds", "queries", "samples", "oversample", "by", "reset_below", "on_exhausted")
    plan = Sampler(**{name: getattr(pool, name) for name in names}, rollouts=rollouts)
    limit_s = inf if allow_plugins is None else STRANGER_S
    control = null(plan, draws, size=size, seeds=seeds, points=points, allow_plugins=allow_plugins, limit_s=limit_s)
    return control | {"run": curves(pass_rates.rows_until(folder, last), points)}


def null_or_reason(folder: str | Path, **settings: Any) -> dict[str, Any]:
    """`null_of_run`, or {"reason": why there is none}: a finished run does not fail because it has no control."""
    try:
        return null_of_run(folder, **settings)
    except NotPlayable as error:
        return {"reason": f"no null for {error}"}
    except TooLong as error:
        way_out = "--trust plays somebody else's run to its end"
        return {"reason": f"no null control: {error} in {STRANGER_S:.0f} s; {way_out}"}
    except ValueError as error:
        return {"reason": f"no null control: {error}"}


def curves(rows: Sequence[Mapping[str, Any]], points: int) -> dict[str, list[float | None]]:
    """A run's rows of metrics over up to `points` stretches of steps: shares from summed counts, counts a step.

    `rollouts` is where each stretch ends.
    """
    parts = [[rows[i] for i in part] for part in np.array_split(np.arange(len(rows)), min(points, len(rows)))]
    stretches: list[Mapping[str, Any]] = [figures.over_steps(part) for part in parts]
    shares = {name: [stretch[f"pool/{name}"] for stretch in stretches] for name in NAMES}
    counts = {
        name: [(stretch[f"pool/{name}"] or 0) / len(part) for stretch, part in zip(stretches, parts)] for name in COUNTS
    }
    return {"rollouts": np.cumsum([stretch["pool/rollouts"] for stretch in stretches]).tolist(), **shares, **counts}


def _band(values: Sequence[Any]) -> dict[str, Any]:
    """Mean, low and high over the seeds (the first axis) that have a value; None where none has."""
    array = np.array(values, float)  # None becomes NaN
    known = ~np.isnan(array).all(axis=0)
    array = np.where(known, array, 0.0)
    band = {"mean": np.nanmean(array, axis=0)}
    band |= {name: np.nanquantile(array, level, axis=0) for name, level in LEVELS.items()}
    return {name: np.asarray(np.where(known, value, None)).tolist() for name, value in band.items()}
