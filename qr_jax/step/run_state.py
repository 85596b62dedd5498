"""The state that a step hands to the next, besides the learner's; all of it is in the checkpoint."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qr_jax.errors import UserError
from qr_jax.pool import pool
from qr_jax.records import Query
from qr_jax.rollout.engine import Statistics
from qr_jax.step import grading
from qr_jax.step.grading import Group
from qr_jax.step.guards import FIGURES, Watch

ROLLBACK_SEEDS = 65536  # a rollback moves the seed by this, so that it does not replay the same step for ever
COUNTS = ("rollouts", "tokens", "searches", "rollbacks", "rate", "base", "before")


@dataclass(frozen=True)
class RunState:
    """The state of a run between two steps."""

    pool: pool.Pool
    waiting: tuple[Group, ...] = ()  # accepted groups that wait for others, until there are min_signal
    left_out: tuple[int, int] = (0, 0)  # sampled tokens and episodes drawn since the last update and not waiting
    rollouts: int = 0
    tokens: int = 0
    searches: int = 0
    rollbacks: int = 0
    rate: float = 1.0  # times the learning rate: a guard's rollback halves it
    watch: Watch = field(default_factory=Watch)  # what the guards remember
    cost_F: np.ndarray = field(default_factory=lambda: np.zeros(0))  # tokens of an episode by family; 0: none seen yet
    base: Any = None  # the evaluation before the cold start, when asked for
    before: Any = None  # the evaluation before the first step

    def seed(self, seed: int) -> int:
        """The seed of what is drawn and sampled from here on; each rollback moves it."""
        return seed + ROLLBACK_SEEDS * self.rollbacks

    def to_host(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in COUNTS}
        waiting = [group.to_plain() for group in self.waiting]
        more = {"left_out": list(self.left_out), "cost_F": self.cost_F, "watch": self.watch.to_host()}
        return {"pool": pool.to_arrays(self.pool), "waiting": waiting, **more, **counts}


def from_host(host: Mapping[str, Any]) -> RunState:
    """Rebuild the state that `to_host` gave. ValueError, LookupError, TypeError or AttributeError for anything else."""
    tokens, episodes = host["left_out"]
    counts = {name: host[name] for name in COUNTS}
    whole = (tokens, episodes, *(counts[name] for name in ("rollouts", "tokens", "searches", "rollbacks")))
    if any(type(number) is not int or number < 0 for number in whole) or not 0 < counts["rate"] < math.inf:
        raise UserError(f"counts of {whole} and a rate of {counts['rate']!r}")
    run_state = RunState(
        pool.from_arrays(host["pool"]),
        tuple(map(grading.from_plain, host["waiting"])),
        (tokens, episodes),
        cost_F=host["cost_F"],
        watch=Watch(**host["watch"]),
        **counts,
    )
    if any(not 0 <= group.index < run_state.pool.size for group in run_state.waiting):
        raise UserError(f"a group waits that is none of the pool's {run_state.pool.size} queries")
    lists = {"cost_F": run_state.cost_F, **run_state.watch.past}
    if any(not isinstance(values, np.ndarray) or values.shape != (values.size,) for values in lists.values()):
        raise UserError("costs or what the guards remember that are no lists of numbers")
    if {*run_state.watch.past} != {*FIGURES} or not run_state.watch.best < math.inf > run_state.watch.best_step >= 0:
        raise UserError(f"what the guards remember is of {', '.join(run_state.watch.past)}")
    return run_state


def advanced(
    run_state: RunState, groups: Sequence[Group], kept: Sequence[Group], statistics: Statistics, family_P: np.ndarray
) -> RunState:
    """Return the state after a step's rollouts on all processes, with its kept groups waiting to be trained on."""
    kept_indices = {group.index for group in kept}
    rest = [group.spent for group in groups if group.index not in kept_indices]
    tokens, episodes = run_state.left_out
    return replace(
        run_state,
        waiting=(*run_state.waiting, *kept),
        left_out=(
            tokens + sum(spent.valid_tokens for spent in rest),
            episodes + sum(spent.valid_episodes for spent in rest),
        ),
        rollouts=run_state.rollouts + sum(group.spent.episodes for group in groups),
        tokens=run_state.tokens + statistics.tokens,
        searches=run_state.searches + statistics.searches,
        cost_F=costs(run_state.cost_F, groups, family_P),
    )


def costs(cost_F: np.ndarray, groups: Sequence[Group], family_P: np.ndarray) -> np.ndarray:
    """`cost_F` after a step: half what it was, half the mean of this step's episodes."""
    sum_F, count_F = np.zeros((2, int(family_P.max(initial=0)) + 1))
    for group in groups:
        sum_F[family_P[group.index]] += group.spent.context_tokens
        count_F[family_P[group.index]] += group.spent.episodes
    before_F = cost_F if len(cost_F) else np.zeros(len(sum_F))
    mean_F = sum_F / np.maximum(count_F, 1)
    return np.where(count_F == 0, before_F, np.where(before_F == 0, mean_F, (before_F + mean_F) / 2))


def families(queries: Sequence[Query]) -> np.ndarray:
    """An integer a query for rules that look at kinds: by dataset, kind and hops, in order of first appearance."""
    seen: dict[tuple, int] = {}
    names = [tuple(str(query.meta.get(name)) for name in ("dataset", "kind", "type", "hops")) for query in queries]
    return np.array([seen.setdefault(name, len(seen)) for name in names])


def hops(queries: Sequence[Query]) -> np.ndarray:
    """The hops of each query; 0 where its meta has none."""
    said = [str(query.meta.get("hops")) for query in queries]
    return np.array([int(text) if text.isdecimal() else 0 for text in said], np.int64)
