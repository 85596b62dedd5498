"""The figures of a causal probe: which queries flipped, which of them are asked again, and what that says."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qr_jax.lab.differences import picks
from qr_jax.pool.noise import uniforms

AGAIN = {"hard": "again_hard", "easy": "again_easy"}  # a verdict -> the arm of those drawn again after it
ARMS = ("hard", "easy", *AGAIN.values(), "fresh")
POLICIES = ("filing", "accepting", "current")
CHOICE, RESAMPLE = 94, 95  # the first parts of the keys of its random numbers
RESAMPLES = 2000
LEVELS = {"low": 0.025, "high": 0.975}


@dataclass(frozen=True)
class Filed:
    """A query and the steps of its two verdicts. Step t of the ledger was rolled out by the policy of t - 1 steps, or
    of `lag` steps fewer where it was played ahead (train.overlap).

    `arm`: "hard" or "easy" for a flipped query, as it was filed; "again_hard" or "again_easy" for one drawn again after
    such a verdict, whatever that draw showed, with `accepted` the step of that draw; "fresh" for a query never drawn,
    which borrows the steps of another.
    """

    index: int
    arm: str
    filed: int
    accepted: int
    verdict_pass: float | None = None  # the share of right answers in the group that filed it
    signal: bool | None = None  # of one drawn again: whether that group bore signal
    lags: tuple[int, int] = (0, 0)  # of the two draws

    @property
    def policies(self) -> dict[str, int]:
        """Return the steps after which the policies that filed and accepted it were taken."""
        return {"filing": self.filed - 1 - self.lags[0], "accepting": self.accepted - 1 - self.lags[1]}


def _lags(*draws: Mapping[str, Any]) -> tuple[int, int]:
    first, second = (draw.get("lag", 0) for draw in draws)
    return first, second


def recycled(draws: Iterable[Mapping[str, Any]], size: int) -> tuple[list[Filed], list[int]]:
    """Return the flipped queries of a ledger, and the indices of the pool's `size` queries that were never drawn.

    They are those of `pool/flipped`: accepted after any earlier hard or easy verdict. Each counts once, at the first
    such acceptance, and is filed at the last hard or easy verdict before it, whatever surplus signal came between.
    """
    dead: dict[int, Mapping[str, Any]] = {}
    found: dict[int, Filed] = {}
    drawn = set()
    for draw in draws:
        index = draw["index"]
        drawn.add(index)
        if draw["accepted"] and index not in found and (before := dead.get(index)):
            share = before["successes"] / before["valid"]
            lags = _lags(before, draw)
            found[index] = Filed(index, before["verdict"], before["step"], draw["step"], share, lags=lags)
        if draw["verdict"] in ("hard", "easy"):
            dead[index] = draw
    return list(found.values()), [index for index in range(size) if index not in drawn]


def drawn_again(draws: Iterable[Mapping[str, Any]]) -> list[Filed]:
    """Return each hard or easy verdict of a ledger whose query was drawn and graded again, with that next draw.

    Flipped queries were chosen by what their later draw showed; these were not. So the filing policy's chance of
    signal over that of the later policy is the share of flips that chance alone makes.
    """
    dead: dict[int, Mapping[str, Any]] = {}
    found = []
    for draw in draws:
        if draw["verdict"] == "fault":
            continue
        if before := dead.pop(draw["index"], None):
            share, signal = before["successes"] / before["valid"], draw["verdict"] == "signal"
            arm = AGAIN[before["verdict"]]
            found.append(Filed(draw["index"], arm, before["step"], draw["step"], share, signal, _lags(before, draw)))
        if draw["verdict"] in AGAIN:
            dead[draw["index"]] = draw
    return found


def choose_again(again: Sequence[Filed], count: int, *, seed: int) -> list[Filed]:
    """Return up to `count` of each verdict, by numbers keyed by (seed, place in the ledger)."""
    order = np.argsort(uniforms(len(again), CHOICE, seed, 1))
    ordered = [again[at] for at in order]
    return [one for arm in AGAIN.values() for one in [one for one in ordered if one.arm == arm][:count]]


def choose(filed: Sequence[Filed], never: Sequence[int], count: int, *, seed: int) -> list[Filed]:
    """Return up to `count` queries of each arm, by numbers keyed by (seed, pool index).

    The j-th fresh query borrows the steps of the j-th recycled one, and so its policies.
    """
    size = 1 + max([one.index for one in filed] + list(never))
    order_P = uniforms(size, CHOICE, seed)
    ordered = sorted(filed, key=lambda one: order_P[one.index])
    picked = [one for arm in ("hard", "easy") for one in [one for one in ordered if one.arm == arm][:count]]
    fresh = sorted(never, key=lambda index: order_P[index])[:count]
    lent = sorted(picked, key=lambda one: order_P[one.index])
    steps = [lent[j % len(lent)] for j in range(len(fresh))]
    return picked + [
        Filed(at, "fresh", one.filed, one.accepted, lags=one.lags) for at, one in zip(fresh, steps, strict=True)
    ]


def nearest(steps: Sequence[int], policy: int) -> int:
    """Return the last of the checkpoints' growing steps that is not after `policy`; the first where all are."""
    return max([step for step in steps if step <= policy], default=steps[0])


def signal_chance(rewards: Sequence[float], group: int) -> float:
    """Return the chance that `group` samples bear signal, without bias, from n >= group: 1 - sum_v C(n_v, K) / C(n, K).

    n_v counts the samples of reward v; with rewards of 0 and 1 and s right: 1 - [C(s, K) + C(n - s, K)] / C(n, K),
    whose mean over the n samples is 1 - p^K - (1 - p)^K.
    """
    same = sum(math.comb(count, group) for count in Counter(rewards).values())
    return 1 - same / math.comb(len(rewards), group)


def summarise(rows: Sequence[Mapping[str, Any]], arm: str, candidates: int, *, seed: int) -> dict[str, Any]:
    """Return an arm's means by policy, and what changed from the filing policy to the accepting and to the current one.

    `pass_change` and `signal_change` are differences of means; `chance_share` is the part of the later signal chance
    that the filing policy had already, `movement_share` the rest, below 0 where movement took signal away. Each has
    `low` and `high`: 95 % by resampling queries with all their policies (a paired bootstrap). None: nothing to say.
    Shares are not of those never drawn, which bore no signal to share out. Of queries drawn again, `chance_share` to
    the accepting policy is the share of flips that is luck, and `drawn_signal` the share of those asked whose draw in
    the run itself bore signal: the later policy's `signal` agrees with it but for sampling noise.
    """
    whole = [row for row in rows if row["arm"] == arm]
    kept = [row for row in whole if all(row[policy]["passed"] is not None for policy in POLICIES)]
    found: dict[str, Any] = {"candidates": candidates, "queries": len(kept), "left_out": len(whole) - len(kept)}
    if not kept:
        return found
    value = {name: np.array([[row[p][name] for p in POLICIES] for row in kept]) for name in ("passed", "signal")}
    verdicts = [row["verdict_pass"] for row in kept if row["verdict_pass"] is not None]
    found["verdict_pass"] = float(np.mean(verdicts)) if verdicts else None
    if arm in AGAIN.values():
        found["drawn_signal"] = float(np.mean([row["signal"] for row in kept]))
    for name, value_QV in value.items():
        found[name] = dict(zip(POLICIES, value_QV.mean(0).tolist(), strict=True))
    for at, policy in enumerate(POLICIES[1:], 1):
        pair = {name: value_QV[:, [0, at]] for name, value_QV in value.items()}
        found[f"to_{policy}"] = {
            name: interval(value_QV, lambda mean_V: mean_V[..., 1] - mean_V[..., 0], seed)
            for name, value_QV in (("pass_change", pair["passed"]), ("signal_change", pair["signal"]))
        }
        if arm != "fresh":
            shares = {"chance_share": _chance, "movement_share": lambda mean_V: 1 - _chance(mean_V)}
            found[f"to_{policy}"] |= {name: interval(pair["signal"], share, seed) for name, share in shares.items()}
    return found


def interval(value_QV: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int) -> dict[str, Any]:
    """Return `statistic` of the column means as `mean`, with its bootstrap `low` and `high` over rows (None of one)."""
    count = len(value_QV)
    mean = float(statistic(value_QV.mean(0)))
    found: dict[str, Any] = {"mean": mean if math.isfinite(mean) else None, "low": None, "high": None}
    if found["mean"] is None or count < 2:
        return found
    made_R = statistic(value_QV[picks(count, RESAMPLES, RESAMPLE, seed)].mean(1))
    made_R = made_R[np.isfinite(made_R)]
    return found | {name: float(np.quantile(made_R, level)) for name, level in LEVELS.items()}


def _chance(mean_V: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return mean_V[..., 0] / mean_V[..., 1]
