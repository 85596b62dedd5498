"""The outcome oracle: known pass rates drive the whole sampler (draw, verdict, rule, reset) without any model.

`study` compares rules on one pool at one budget. The oracle knows what no real run can: `moved`, the part of a step's
signal that comes from pass rates that moved since a query was filed as hard or easy, and not from chance."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qr_jax import plugins
from qr_jax.errors import UserError
from qr_jax.interfaces import EXAMPLE, check_growth
from qr_jax.lab import paper_world, pass_rates
from qr_jax.lab.differences import over_seeds
from qr_jax.lab.paper_world import ACCEPTED
from qr_jax.lab.pass_rates import Draws, World
from qr_jax.pool import figures
from qr_jax.pool import pool as pools
from qr_jax.pool.noise import unit, words
from qr_jax.pool.pool import LAST_EASY, LAST_HARD, LAST_NONE, Pool, judge
from qr_jax.records import Grades, Outcome, grades
from qr_jax.settings.settings import Use

OUTCOMES = 91  # the first part of the keys of its outcomes
PRESETS = {"dapo": (Use("bounded_dapo"), Use("refill"))}  # a rule and its rounds
ORIGINS = {"ex_hard": LAST_HARD, "ex_easy": LAST_EASY}  # the figures that `moved` has
# What a plug-in raises when it looks for something that simulated outcomes do not have.
LACKS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, RuntimeError, OSError)


Rates = Callable[[float, np.ndarray], np.ndarray]  # (share of the budget spent, queries) -> their pass rates now


class NotPlayable(UserError):
    """A rule or rounds that simulated outcomes cannot drive: outcomes are 0 or 1, without turns or text."""

    def __init__(self, kind: str, name: str, why: str):
        super().__init__(f"{kind} {name!r}: {' '.join(why.split())}")


class TooLong(UserError):
    """Simulating a run's sampler takes longer than allowed."""


@dataclass(frozen=True)
class Sampler:
    """A sampler, as in a config's pool section, and the rollouts that it may spend."""

    rule: Use = Use("recycle")
    rounds: Use = Use("once")
    queries: int = 32
    samples: int = 4
    oversample: int = 2
    by: Literal["chance", "largest"] | None = None  # None: as the rule's file says
    reset_below: float = 0.0
    on_exhausted: Literal["reset", "stop"] = "reset"
    rollouts: int = 84_480


@dataclass(frozen=True)
class Played:
    """A simulated run: a row of figures a step, the signal made by movement, its draws, and its final pool."""

    rows: list[figures.Figures]
    moved: Mapping[str, np.ndarray]  # "ex_hard", "ex_easy": signal groups of each step that movement made
    draws: Draws
    pool: Pool


def sampler(rule: str, **settings: Any) -> Sampler:
    """Make a sampler by its rule's name ("dapo": `refill` with `bounded_dapo`), with EXAMPLE's required settings."""
    plain, rounds = PRESETS.get(rule, (Use(rule), Use("once")))
    return Sampler(Use(plain.name, plugins.constants("rule", plain.name).get(EXAMPLE, {})), rounds, **settings)


def roll(
    rate_Q: np.ndarray,
    drawn_Q: np.ndarray,
    size: int,
    samples: int,
    *,
    seed: int,
    step: int,
    samples_Q: np.ndarray | None = None,
) -> Grades:
    """Draw binary rewards keyed by (91, seed, step, query, sample), independent of the draw and its order.

    `samples_Q`: how many samples each query has, by default `samples`; shorter groups are padded with valid False.
    Sample number j >= `samples` of a query depends on (91, seed, step, j, query) alone, whenever it is asked for.
    """
    samples_Q = np.full(len(drawn_Q), samples) if samples_Q is None else samples_Q
    word_QG = words(size * samples, OUTCOMES, seed, step).reshape(size, samples)[drawn_Q]
    further = range(samples, int(samples_Q.max(initial=samples)))
    word_QG = np.column_stack([word_QG, *(words(size, OUTCOMES, seed, step, j)[drawn_Q] for j in further)])
    valid_QG = np.arange(word_QG.shape[1]) < samples_Q[:, None]
    return grades(unit(word_QG) < rate_Q[:, None], valid_QG)


def signal_chance(rate: np.ndarray, samples: int) -> np.ndarray:
    """Return the chance that a group of K samples is neither all right nor all wrong: 1 - p^K - (1 - p)^K."""
    return 1 - rate**samples - (1 - rate) ** samples


def play(
    plan: Sampler,
    world: World,
    *,
    size: int,
    seed: int,
    family_P: Any = None,
    hops_P: Any = None,
    until: float = inf,
) -> Played:
    """Simulate steps until the rollouts are spent (the last may exceed them) or, if so set, the pool is used up.

    NotPlayable if the rule or the rounds fail on simulated outcomes; TooLong at `until`, a `time.monotonic`.
    """
    rule = _playable("rule", plan.rule, plugins.bind("rule", plan.rule))
    sizes = {"queries": plan.queries, "oversample": plan.oversample, "samples": plan.samples}
    rounds = plugins.bind("rounds", plan.rounds, provided=sizes)
    most = plugins.constants("rounds", plan.rounds.name).get("MAX_GROUP_SIZE", plan.samples)

    def bounded(pool: Pool, so_far: Sequence[Outcome]) -> Any:
        wish = rounds(pool, so_far)
        if wish is not None and wish.more:
            samples_Q = so_far[-1].grades.valid_QG.sum(axis=1)
            check_growth(plan.rounds.name, wish, dict(zip(so_far[-1].drawn_Q.tolist(), samples_Q.tolist())), most)
        return wish

    ask = _playable("rounds", plan.rounds, bounded)
    draw = partial(pools.draw, by=plugins.draws_by(plan.rule, plan.by))
    pool, spent, rows = pools.create(size, family_P, hops_P), 0, []
    filed_P = np.zeros(size)  # the pass rate a query had when it was last graded
    taught_P = np.zeros(size)  # the weight it had in the loss so far; in a full batch a query has 1
    moved, draws = {name: [] for name in ORIGINS}, []

    def rates(done: float, drawn_Q: np.ndarray) -> np.ndarray:
        return world(done, drawn_Q, pool.accepted_P[drawn_Q], taught_P[drawn_Q])

    while spent < plan.rollouts:
        if time.monotonic() > until:
            raise TooLong(f"its sampler was played to {spent:,} of {plan.rollouts:,} rollouts")
        step, done = len(rows), spent / plan.rollouts
        if (refreshed := pools.drawable(pool, reset_below=plan.reset_below, on_exhausted=plan.on_exhausted)) is None:
            break
        pool = refreshed
        outcome, rate_Q = _step(plan, pool, draw, ask, rates, done, seed=seed, step=step)
        drawn_Q, samples_Q = outcome.drawn_Q, outcome.grades.valid_QG.sum(axis=1)
        if (samples_Q == plan.samples).all():
            gained = _expected_gain(plan, pool, drawn_Q, rate_Q, filed_P)
        else:
            gained = _counted_gain(plan, pool, draw, ask, rates, done, outcome, filed_P)
        for name in ORIGINS:
            moved[name].append(gained[name])
        filed_P[drawn_Q] = rate_Q
        taught_P[outcome.accepted] += plan.queries / max(len(outcome.accepted), 1)
        after = pools.settle(pool, outcome, rule)
        rows.append(figures.step_figures(pool, outcome, after, accept=plan.queries, rollouts_Q=samples_Q))
        draws.append((np.full(len(drawn_Q), done), drawn_Q, (outcome.grades.reward_QG == 1).sum(axis=1), samples_Q))
        pool, spent = after, spent + int(samples_Q.sum())
    columns = [np.concatenate(column) for column in zip(*draws)]
    return Played(rows, {name: np.array(sums) for name, sums in moved.items()}, Draws(*columns), pool)


def _playable(kind: str, use: Use, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a plug-in so that its errors on simulated outcomes become a NotPlayable that names it."""

    def played(*data: Any) -> Any:
        try:
            return function(*data)
        except LACKS as error:
            raise NotPlayable(kind, use.name, f"{type(error).__name__} on simulated outcomes: {error}") from error

    return played


def _step(plan: Sampler, pool: Pool, draw: Any, ask: Any, rates: Rates, done: float, *, seed: int, step: int):
    """Simulate one step's draws, round by round; return its Outcome and the pass rates of the drawn queries."""
    drawn_Q, rate_Q, samples_Q = np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64)
    so_far: list[Outcome] = []
    while (wish := ask(pool, so_far)) is not None:
        new = draw(pool, wish.draw, seed=seed, step=step, round=len(so_far), exclude=drawn_Q)
        if not len(new) and not wish.more:
            break
        more_Q = [wish.more.get(index, 0) for index in drawn_Q.tolist()]
        samples_Q = np.concatenate([samples_Q + np.array(more_Q, np.int64), np.full(len(new), plan.samples)])
        drawn_Q, rate_Q = np.concatenate([drawn_Q, new]), np.concatenate([rate_Q, rates(done, new)])
        graded = roll(rate_Q, drawn_Q, pool.size, plan.samples, seed=seed, step=step, samples_Q=samples_Q)
        so_far.append(judge(drawn_Q, graded, step=step, accept=plan.queries, seed=seed))
    return so_far[-1], rate_Q


def _expected_gain(
    plan: Sampler, pool: Pool, drawn_Q: np.ndarray, rate_Q: np.ndarray, filed_P: np.ndarray
) -> dict[str, float]:
    """Return, by origin, a step's expected signal groups due to pass rates that moved since the verdict."""
    gain_Q = signal_chance(rate_Q, plan.samples) - signal_chance(filed_P[drawn_Q], plan.samples)
    return {name: float(gain_Q[pool.last_P[drawn_Q] == last].sum()) for name, last in ORIGINS.items()}


def _counted_gain(
    plan: Sampler, pool: Pool, draw: Any, ask: Any, rates: Rates, done: float, outcome: Outcome, filed_P: np.ndarray
) -> dict[str, float]:
    """Return `_expected_gain` by counting, for a step whose rounds asked for further samples.

    A group's size then depends on what the group showed (undecided groups get more), so a chance computed from its size
    is wrong. Instead the step is played again, with the same random numbers and every query at the pass rate it was
    filed with; the signal groups of that step are subtracted. Exactly 0 if no rate moved.
    """

    def filed(done: float, drawn_Q: np.ndarray) -> np.ndarray:
        return np.where(pool.last_P[drawn_Q] == LAST_NONE, rates(done, drawn_Q), filed_P[drawn_Q])

    unmoved, _ = _step(plan, pool, draw, ask, filed, done, seed=outcome.seed, step=outcome.step)
    return {name: float(_signal(outcome, pool, last) - _signal(unmoved, pool, last)) for name, last in ORIGINS.items()}


def _signal(outcome: Outcome, pool: Pool, last: int) -> int:
    """Return the number of signal groups whose query's last verdict was `last`."""
    return int(np.count_nonzero((outcome.verdict_Q == "signal") & (pool.last_P[outcome.drawn_Q] == last)))


def summary(played: Played) -> dict[str, float | int | None]:
    """Summarise a simulated run, over the first and the last tenth of its steps and over all of them.

    `ex_hard_moved_last` and `ex_easy_moved_last` are the parts of `ex_hard_last` and `ex_easy_last` due to moved pass
    rates: 0 if nothing moves, negative if chance alone would have given more. `accepted_last` is groups a step;
    `coverage` the share of the pool that was trained on; `rescued_hard`, `rescued_easy` and `revisited` count accepted
    groups of queries whose previous verdict was all wrong, all right or accepted.
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
        **{name: whole[f"pool/accepted_{origin}"] for name, origin in ACCEPTED.items()},
        **moved,
        "rollouts": whole["pool/rollouts"],
        "steps": len(rows),
    }


def study(
    rates: str,
    rules: Sequence[str],
    *,
    size: int | None = None,
    seeds: int = 5,
    oversample: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Play each rule on the same worlds; return rule -> means of `summary` over seeds, deviations in `sd`.

    `rates` is what `pass_rates.world` takes, or a run's folder, whose likeliest pass rates are then followed and whose
    pool's size is the default for `size` (otherwise 10,000). `oversample` is by default 2, and in a world of the
    paper's each rule's own k. `settings` are `Sampler`'s. In a world of the paper's and at its settings `published` has
    the paper's figures for the rule.
    """
    likeliest, there = None, 10_000
    if Path(rates).is_dir():
        pool, there, _, draws = pass_rates.read_run(rates)
        likeliest = pass_rates.first_pass(draws, there, pool.samples).chosen(lambda allowed: allowed[0])
    size = size or there
    studied: dict[str, Any] = {}
    for rule in rules:
        times = paper_world.oversample(rates, rule) if oversample is None else oversample
        chosen, summaries = sampler(rule, oversample=times, **settings), []
        for seed in range(seeds):
            if likeliest:
                world = pass_rates.following(likeliest, np.zeros(size, np.int64), seed=seed)
            else:
                world = pass_rates.world(rates, size, seed=seed)
            summaries.append(summary(play(chosen, world, size=size, seed=seed)))
        about = {"rule": rule, "rates": rates, "queries": size, "oversample": times, "seeds": seeds}
        over = {name: over_seeds([summary[name] for summary in summaries]) for name in summaries[0]}
        studied[rule] = about | {name: values["mean"] for name, values in over.items()}
        studied[rule]["sd"] = {name: values["sd"] for name, values in over.items()}
        shape = {name: getattr(chosen, name) for name in ("queries", "samples", "rollouts", "oversample")}
        if published := paper_world.published(rates, rule, shape | {"size": size}):
            studied[rule]["published"] = published
    return studied


def rules(text: str) -> list[str]:
    """Return the rules that a command line names: one, several with commas, or "all"; presets included."""
    return [*plugins.names("rule"), *PRESETS] if text == "all" else [name for name in text.split(",") if name]


COLUMNS = {  # of `summary`: each one's head, and what it means
    "oversample": ("k", "queries drawn for each query trained on"),
    "zero_variance_first": ("zero var.", "share of the groups without variance, in the first tenth of the steps"),
    "zero_variance_last": ("at the end", "the same in the last tenth"),
    "accepted_last": ("groups/step", "groups trained on in a step, in the last tenth"),
    "recycled_share_last": (
        "recycled",
        "share of the groups trained on whose query had no variance the last time, in the last tenth",
    ),
    "ex_hard_last": ("ex hard", "the part of `recycled` whose query was all wrong"),
    "ex_easy_last": ("ex easy", "the part whose query was all right"),
    "flipped": ("flipped", "share of the queries drawn that were trained on after a group without variance"),
    "signal_groups": ("signal groups", "groups with variance, in the whole run"),
    "coverage": ("coverage", "share of the pool that was trained on"),
    "rescued_hard": ("rescued hard", "groups trained on whose query was all wrong the last time"),
    "rescued_easy": ("rescued easy", "the same of queries that were all right"),
    "revisited": ("revisited", "the same of queries that were trained on before"),
    "ex_hard_moved_last": (
        "ex hard moved",
        "the share of `ex hard` that changed pass rates made (below 0: they made signal rarer)",
    ),
    "ex_easy_moved_last": ("ex easy moved", "the same of `ex easy`"),
}


COUNTS = ("oversample", "signal_groups", *ACCEPTED)


def format_table(studied: Mapping[str, Mapping[str, Any]]) -> str:
    """Format `study`'s means, a rule a line with the paper's figures under it, and what heads and presets mean."""
    lines = ["  ".join(["rule".ljust(16), *(head for head, _ in COLUMNS.values())])]
    for rule, means in studied.items():
        lines.append(_cells(rule, means))
        if "published" in means:
            lines.append(_cells("  published", means["published"]))
    for name, (rule, rounds) in PRESETS.items():
        lines += [f"{name} is rule={rule.name} with rounds={rounds.name}"] if name in studied else []
    return "\n".join([*lines, "", *(f"{head}: {meaning}" for head, meaning in COLUMNS.values())])


def _cells(label: str, means: Mapping[str, Any]) -> str:
    cells = [
        ("-" if means.get(name) is None else f"{means[name]:.{0 if name in COUNTS else 3}f}").rjust(len(head))
        for name, (head, _) in COLUMNS.items()
    ]
    return "  ".join([label.ljust(16), *cells])
