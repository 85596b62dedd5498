"""The outcome oracle: known pass rates drive the whole sampler (draw, verdict, rule, reset) without any model.

`study` compares rules on one pool at one budget. What no real run knows is known here: `moved`, the part of a step's
signal that comes from pass rates that moved since a query was filed as hard or easy, and not from chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qr_jax import figures, plugins
from qr_jax import pool as pools
from qr_jax.noise import unit, words
from qr_jax.pool import LAST_EASY, LAST_HARD, Pool
from qr_jax.records import Grades, Outcome, grades
from qr_jax.settings import Use
from qr_jax.studies import pass_rates
from qr_jax.studies.pass_rates import Draws, World
from qr_jax.verdict import judge

OUTCOMES = 91  # the first part of the keys of its outcomes
PRESETS = {"dapo": (Use("bounded_dapo"), Use("refill"))}  # a rule and its rounds
LARGEST = ("mopps",)  # rules that choose the largest weights, not by chance


@dataclass(frozen=True)
class Sampler:
    """What a config's pool section says of a sampler, and the rollouts it may spend."""

    rule: Use = Use("recycle")
    rounds: Use = Use("once")
    queries: int = 32
    samples: int = 4
    oversample: int = 2
    by: Literal["chance", "largest"] = "chance"
    reset_below: float = 0.0
    on_exhausted: Literal["reset", "stop"] = "reset"
    rollouts: int = 84_480


@dataclass(frozen=True)
class Played:
    """A simulated run: a row of figures a step, what moved in it, its draws, and its pool in the end."""

    rows: list[figures.Figures]
    moved: Mapping[str, np.ndarray]  # "ex_hard", "ex_easy": expected signal groups of each step that movement made
    draws: Draws
    pool: Pool


def sampler(rule: str, **settings: Any) -> Sampler:
    """A sampler by its rule's name: "dapo" is `refill` with `bounded_dapo`; `mopps` draws the largest weights."""
    plain, rounds = PRESETS.get(rule, (Use(rule), Use("once")))
    return Sampler(plain, rounds, by="largest" if rule in LARGEST else "chance", **settings)


def roll(rate_Q: np.ndarray, drawn_Q: np.ndarray, size: int, samples: int, *, seed: int, step: int) -> Grades:
    """Binary rewards keyed by (91, seed, step, query, sample): neither the draw nor its order changes them."""
    word_PG = words(size * samples, OUTCOMES, seed, step).reshape(size, samples)
    return grades(unit(word_PG[drawn_Q]) < rate_Q[:, None], np.ones((len(drawn_Q), samples), bool))


def signal_chance(rate: np.ndarray, samples: int) -> np.ndarray:
    """The chance that a group of so many samples is neither all right nor all wrong: 1 - p^K - (1 - p)^K."""
    return 1 - rate**samples - (1 - rate) ** samples


def play(
    of: Sampler, at: World, *, size: int, seed: int, family_P: Any = None, allow_plugins: Sequence[str] | None = None
) -> Played:
    """Steps until the rollouts are spent (the last may go over them) or, if it is to stop then, the pool is used up."""
    rule, rounds = (plugins.bind(kind, getattr(of, kind), allow_plugins=allow_plugins) for kind in ("rule", "rounds"))
    ask = partial(rounds, queries=of.queries, oversample=of.oversample)
    pool, spent, rows = pools.create(size, family_P), 0, []
    filed_P = np.zeros(size)  # the pass rate a query had when it was last graded
    moved, draws = {"ex_hard": [], "ex_easy": []}, []
    while spent < of.rollouts:
        pool, step, done = _refreshed(of, pool), len(rows), spent / of.rollouts
        if not pool.weight_P.any():
            break
        outcome, rate_Q = _step(of, pool, ask, at, done, seed=seed, step=step)
        drawn_Q = outcome.drawn_Q
        gain_Q = signal_chance(rate_Q, of.samples) - signal_chance(filed_P[drawn_Q], of.samples)
        for name, last in (("ex_hard", LAST_HARD), ("ex_easy", LAST_EASY)):
            moved[name].append(float(gain_Q[pool.last_P[drawn_Q] == last].sum()))
        filed_P[drawn_Q] = rate_Q
        after = pools.settle(pool, drawn_Q, outcome.grades, step=step, accept=of.queries, rule=rule, seed=seed).pool
        rows.append(figures.step_figures(pool, outcome, after, accept=of.queries))
        right_Q, valid_Q = after.last_successes_P[drawn_Q], after.last_valid_P[drawn_Q]
        draws.append((np.full(len(drawn_Q), done), drawn_Q, right_Q, valid_Q))
        pool, spent = after, spent + len(drawn_Q) * of.samples
    columns = [np.concatenate(column) for column in zip(*draws)]
    return Played(rows, {name: np.array(sums) for name, sums in moved.items()}, Draws(*columns), pool)


def _refreshed(of: Sampler, pool: Pool) -> Pool:
    pool = pools.refresh(pool, below=of.reset_below)
    return pool if pool.weight_P.any() or of.on_exhausted == "stop" else pools.refresh(pool, below=1.0)


def _step(of: Sampler, pool: Pool, ask: Any, at: World, done: float, *, seed: int, step: int):
    """One step's draws, round by round: its Outcome, and the pass rates of what was drawn."""
    drawn_Q, rate_Q = np.empty(0, np.int64), np.empty(0)
    so_far: list[Outcome] = []
    while (wish := ask(pool, so_far)) is not None:
        if wish.more:
            raise ValueError(f"rounds {of.rounds.name!r} ask for further samples of drawn queries; the oracle has none")
        new = pools.draw(pool, wish.draw, seed=seed, step=step, round=len(so_far), exclude=drawn_Q, by=of.by)
        if not len(new):
            break
        drawn_Q, rate_Q = np.concatenate([drawn_Q, new]), np.concatenate([rate_Q, at(done, new)])
        graded = roll(rate_Q, drawn_Q, pool.size, of.samples, seed=seed, step=step)
        so_far.append(judge(drawn_Q, graded, step=step, accept=of.queries, seed=seed))
    return so_far[-1], rate_Q


def summary(played: Played) -> dict[str, float | int | None]:
    """A simulated run in a few numbers, over the first and the last tenth of its steps and over all of them.

    `ex_hard_moved_last` and `ex_easy_moved_last` are the parts of `ex_hard_last` and `ex_easy_last` that moved pass
    rates made: 0 where nothing moves, negative where chance alone would have given more. `accepted_last` is groups a
    step; `coverage` the share of the pool that was trained on.
    """
    rows, tenth = played.rows, max(len(played.rows) // 10, 1)
    first, last, whole = (figures.over_steps(part) for part in (rows[:tenth], rows[-tenth:], rows))
    shares = {f"{name}_last": last[f"pool/{name}"] for name in ("recycled_share", "ex_hard", "ex_easy")}
    signal = max(int(last["pool/signal"] or 0), 1)
    moved = {f"{name}_moved_last": float(sums[-tenth:].sum()) / signal for name, sums in played.moved.items()}
    return shares | {
        "flipped": last["pool/flipped"],
        "zero_variance_first": first["pool/zero_variance_rate"],
        "zero_variance_last": last["pool/zero_variance_rate"],
        "accepted_last": int(last["pool/accepted"] or 0) / tenth,
        "signal_groups": whole["pool/signal"],
        "accepted_groups": whole["pool/accepted"],
        "coverage": int(np.count_nonzero(played.pool.accepted_P)) / played.pool.size,
        **moved,
        "rollouts": whole["pool/rollouts"],
        "steps": len(rows),
    }


def study(
    rates: str, rules: Sequence[str], *, size: int | None = None, seeds: int = 5, **settings: Any
) -> dict[str, Any]:
    """Each rule on the same worlds: rule -> the means of `summary` over seeds, with their standard deviations in `sd`.

    `rates` is what `pass_rates.world` takes, or a run's folder, whose pass rates are then followed and whose pool's
    size is the default for `size` (otherwise 10,000). `settings` are `Sampler`'s.
    """
    stretches, there = None, 10_000
    if Path(rates).is_dir():
        _, there, _, draws = pass_rates.read_run(rates)
        stretches = pass_rates.first_pass(draws)
    size = size or there
    found: dict[str, Any] = {}
    for rule in rules:
        of, many = sampler(rule, **settings), []
        for seed in range(seeds):
            if stretches:
                at = pass_rates.following(stretches, size, seed=seed)
            else:
                at = pass_rates.world(rates, size, seed=seed)
            many.append(summary(play(of, at, size=size, seed=seed)))
        found[rule] = {"rule": rule, "rates": rates, "queries": size, "seeds": seeds} | _over_seeds(many)
    return found


def rules(text: str) -> list[str]:
    """The rules that a command line names: one, several at commas, or "all"; the presets are among them."""
    return [*plugins.names("rule"), *PRESETS] if text == "all" else [name for name in text.split(",") if name]


def _over_seeds(many: Sequence[Mapping[str, float | int | None]]) -> dict[str, Any]:
    """Means, and under `sd` standard deviations (None with one seed), over the seeds that have a value."""
    values = {name: [float(value) for one in many if (value := one[name]) is not None] for name in many[0]}
    means = {name: float(np.mean(some)) if some else None for name, some in values.items()}
    return means | {"sd": {n: float(np.std(some, ddof=1)) if len(some) > 1 else None for n, some in values.items()}}


COLUMNS = {
    "zero_variance_first": "zero-var first",
    "zero_variance_last": "last",
    "accepted_last": "groups/step last",
    "recycled_share_last": "recycled last",
    "ex_hard_last": "ex_hard",
    "ex_easy_last": "ex_easy",
    "flipped": "flipped",
    "signal_groups": "signal groups",
    "coverage": "coverage",
    "ex_hard_moved_last": "ex_hard moved",
    "ex_easy_moved_last": "ex_easy moved",
}


def format_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """`study`'s means as lines of text, a rule a line."""
    lines = ["  ".join(["rule".ljust(16), *COLUMNS.values()])]
    for rule, one in found.items():
        cells = [
            ("-" if one[name] is None else f"{one[name]:.{0 if name == 'signal_groups' else 3}f}").rjust(len(title))
            for name, title in COLUMNS.items()
        ]
        lines.append("  ".join([rule.ljust(16), *cells]))
    return "\n".join(lines)
