"""Fit moving pools to the paper's figures: qr_jax/lab/paper_fits.json, which `--rates paper:MODEL` plays.

    python -m benchmarks.paper_fits             # fits that are missing (a quarter of an hour on 2 cores; resumable)

Twelve fits a model, each to figures of its own: numbers read off a picture are moved by as much as they may be wrong,
counts are drawn again, the start is another, and growth is by turns normal and lognormal. So the fits differ by what
the figures do not say. Fitted are, of the recycling run, at 1.7B figures 5, 8 (twelve strata) and 3 (its rescues); at
4B figures 4 and 5, all that is published. Expected counts are computed without chance (`expected`), over a grid of
queries.

Recycling meets no query again that it trained on, so its figures do not tell the jump. At 1.7B the jump is chosen by
the revisits of GRPO in figure 3, played by `oracle.play`; at 4B nothing tells it, and each fit takes the jump of the
1.7B fit with its number. Figure 4 is left out at 1.7B, for it does not agree with figure 3: its shares of the groups in
figure 5 are 771 and 534 rescues, figure 3 has 1,027 and 660. It would agree if it showed means over the 75 steps before
(right to .02, measured on the figures alone), and so it is read at 4B.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit, logit

from benchmarks import interleave
from qr_jax.lab import oracle, paper_world

FILE = interleave.ROOT / "qr_jax/lab/paper_fits.json"
COMMAND = "python -m benchmarks.paper_fits"
FITS = 12
SIZE, ACCEPT, SAMPLES, STEPS = 10_000, 32, 4, 330
DRAWN, PER_STEP = 2 * ACCEPT, 2 * ACCEPT * SAMPLES  # queries and rollouts of a recycling step
CHUNK = 5  # steps that `expected` takes at once; a third of the run is a whole number of them
AT = np.arange(0, STEPS + 1, CHUNK)
POINTS = np.arange(0, STEPS + 1, 10)  # the steps at which figures 4 and 5 were read
SMOOTH, TRAILING = 15, 75  # steps to each side that a point of figure 5 stands for; steps before one of figure 4
READING, COUNTING = 0.02, 0.02  # how wrong a share, and by what part a count, may have been read
WORLD_WIDE = ("deviation", "spread", "correlation", "pace")  # of a fit; mean, impossible and drift have one a stratum
X, X_WEIGHT = np.polynomial.hermite_e.hermegauss(16)  # where queries start in their stratum
Y, Y_WEIGHT = np.polynomial.hermite_e.hermegauss(6)  # the rest of their growth
REVISITS = 80_960  # rollouts at the last point of GRPO's revisits in figure 3
Fit = dict[str, Any]
Targets = dict[str, np.ndarray]


def main() -> None:
    kept: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {"made by": COMMAND}
    every = kept.setdefault("fits", {name: [] for name in paper_world.MODELS})
    for number in range(FITS):
        for model, found in every.items():
            if len(found) <= number:
                found.append(with_jump(fitted(model, number), model, every["qwen3_1p7b"]))
                told = {name: found[number][name] for name in ("growth", "loss", "jump", *WORLD_WIDE)}
                print(model, number, told, flush=True)
                FILE.write_text(written(kept), encoding="utf-8")


def written(kept: Mapping[str, Any]) -> str:
    """The file: a fit a line."""
    models = [
        f'  "{name}": [\n' + ",\n".join(f"   {json.dumps(fit)}" for fit in found) + "\n  ]"
        for name, found in kept["fits"].items()
    ]
    return f'{{\n "made by": "{kept["made by"]}",\n "fits": {{\n' + ",\n".join(models) + "\n }\n}\n"


def fitted(model: str, number: int) -> Fit:
    """Fit number `number` of a model, without its jump."""
    goals, random = targets(model, number), np.random.default_rng([1, number])
    strata = len(goals["shares"])
    begin = [random.normal(-0.5, 0.5, strata), random.normal(-1.2, 0.3, strata), random.normal(2, 0.5, strata)]
    begin.append(np.array([0.5, 0, 0, -1]) + random.normal(0, 0.3, 4))
    form = ("normal", "lognormal")[number % 2]
    found = least_squares(lambda point: residuals(parted(point, goals["shares"], form), goals), np.concatenate(begin))
    fit = rounded(parted(found.x, goals["shares"], form))
    return {"number": number, "loss": round(loss(fit, goals), 3), **fit}


def parted(point: np.ndarray, shares: np.ndarray, form: str) -> Fit:
    """The fit that a point of the optimiser stands for."""
    mean, odds, drift = point[:-4].reshape(3, len(shares))
    deviation, spread, correlation, pace = point[-4:]
    return {
        "growth": form, "shares": shares, "mean": mean, "impossible": expit(odds), "drift": drift,
        "deviation": math.exp(deviation), "spread": math.exp(spread), "correlation": math.tanh(correlation),
        "pace": math.exp(pace), "jump": 0.0,
    }  # fmt: skip


def rounded(fit: Fit) -> Fit:
    return {key: value if isinstance(value, str) else np.round(value, 4).tolist() for key, value in fit.items()}


def loss(fit: Mapping[str, Any], goals: Targets) -> float:
    return float(np.square(residuals(fit, goals)).sum())


def expected(fit: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What recycling (B 32, K 4, k 2) does with the pool, without chance: counts a chunk of steps.

    "easy", "signal" and "hard" [chunks, strata] are verdicts; "accepted" [chunks, 3] groups that were fresh, hard and
    easy before. Surplus is counted among the fresh; a step has none beyond what B leaves of a normal number of groups.
    """
    shares, mean, impossible, drift = (np.array(fit[name]) for name in ("shares", "mean", "impossible", "drift"))
    start, other = np.repeat(X, len(Y)), np.tile(Y, len(X))
    weight = np.outer(X_WEIGHT, Y_WEIGHT).ravel() / (X_WEIGHT.sum() * Y_WEIGHT.sum())
    odds = mean[:, None] + fit["deviation"] * start
    grows = paper_world.growth(fit, drift[:, None], start, other)
    alive = np.zeros((3, len(shares), len(weight) + 1))  # by last verdict; the last query of each stratum is impossible
    alive[0, :, :-1] = SIZE * (shares * (1 - impossible))[:, None] * weight
    alive[0, :, -1] = SIZE * shares * impossible
    rate, found = np.zeros(alive.shape[1:]), []
    for chunk in range(STEPS // CHUNK):
        rate[:, :-1] = expit(odds + grows * paper_world.rise(fit, (chunk + 0.5) * CHUNK / STEPS))
        drawn = alive * min(DRAWN * CHUNK / alive.sum(), 1)
        easy, hard = drawn * rate**SAMPLES, drawn * (1 - rate) ** SAMPLES
        signal = drawn - easy - hard
        accepted = signal * room(signal.sum() / CHUNK)
        alive = alive - drawn + np.stack([(signal - accepted).sum(0), hard.sum(0), easy.sum(0)])
        found.append([part.sum((0, 2)) for part in (easy, signal, hard)] + [accepted.sum((1, 2))])
    return dict(zip(("easy", "signal", "hard", "accepted"), map(np.array, zip(*found)), strict=True))


def room(signal: float) -> float:
    """The share of a step's signal groups that B leaves room for, if their number is normal about `signal`."""
    deviation = math.sqrt(max(signal * (1 - signal / DRAWN), 1e-9))
    over = (ACCEPT - signal) / deviation
    density = math.exp(-over * over / 2) / math.sqrt(2 * math.pi)
    return 1 - deviation * (density - over * math.erfc(over / math.sqrt(2)) / 2) / signal


def residuals(fit: Mapping[str, Any], goals: Targets) -> np.ndarray:
    """How far a fit is from the figures, each in units of how wrong it may be; and from what is likely."""
    found = expected(fit)
    verdicts = np.stack([found[name] for name in ("easy", "signal", "hard")])
    low, high = np.maximum(POINTS - SMOOTH, 0), np.minimum(POINTS + SMOOTH, STEPS)
    shares = between(verdicts.sum(2), low, high) / (DRAWN * (high - low))
    parts = [(shares - goals["figure 5"]) / READING / math.sqrt(3)]  # three shares, of points that share their steps
    parts += by_strata(verdicts, goals) + rescues(found["accepted"].T, goals) if "figure 8" in goals else []
    if "figure 4" in goals:
        origins = between(found["accepted"].T, np.maximum(POINTS - TRAILING, 0), POINTS)[:, 3:]
        parts.append((origins[1:] / origins.sum(0) - goals["figure 4"][1:, 3:]) / READING)
    return np.concatenate([np.ravel(part) for part in [*parts, *unlikely(fit)]])


def between(counts: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Counts of chunks [kinds, chunks] summed from each step of `low` to that of `high`."""
    sums = np.cumsum(np.pad(counts, ((0, 0), (1, 0))), axis=1)
    return np.stack([np.interp(high, AT, total) - np.interp(low, AT, total) for total in sums])


def by_strata(verdicts: np.ndarray, goals: Targets) -> list[np.ndarray]:
    """Figure 8: candidates by stratum and third, and their verdicts."""
    count = verdicts.reshape(3, 3, -1, verdicts.shape[2]).sum(2)  # verdicts, thirds, strata
    of_all, read = count.sum(0), goals["figure 8"].sum(0)
    share = count / of_all
    error = np.sqrt(np.maximum(share * (1 - share), 0.02) / read + (READING / 4) ** 2)
    drawn = of_all / of_all.sum(1, keepdims=True) - read / read.sum(1, keepdims=True)
    return [(share - goals["figure 8"] / read) / error * math.sqrt(2 / 3), drawn * read.sum(1)[0] / np.sqrt(read)]


def rescues(accepted: np.ndarray, goals: Targets) -> list[np.ndarray]:
    """Figure 3, of recycling: rescues by stretches of two points, and in the end."""
    ends = goals["figure 3 at"] / PER_STEP
    gained = between(accepted[1:], ends[:-1], ends[1:])
    total = goals["figure 3"].sum(1)
    return [
        (gained - goals["figure 3"]) / np.sqrt(np.maximum(gained, 1) + 9),
        (gained.sum(1) - total) / (COUNTING * total),
    ]


def unlikely(fit: Mapping[str, Any]) -> list[np.ndarray]:
    """Weak beliefs: strata are alike in growth and impossible queries, nothing is extreme."""
    odds, drift = logit(np.clip(fit["impossible"], 1e-6, 1 - 1e-6)), np.array(fit["drift"])
    wide = [
        (odds.mean() + 1.2) / 1.5,
        (math.log(fit["deviation"]) - 0.5) / 0.7,
        math.log(fit["spread"]),
        math.atanh(np.clip(fit["correlation"], -0.9999, 0.9999)),
        (math.log(fit["pace"]) + 1) / 1.5,
    ]
    return [odds - odds.mean(), drift - drift.mean(), np.array(wide)]


def targets(model: str, number: int) -> Targets:
    """The figures that a fit is held against: read a little otherwise, and their counts drawn again."""
    random, figures = np.random.default_rng([0, number]), paper_world.figures()

    def read(number: str, names: tuple[str, ...]) -> np.ndarray:
        shares = np.array([figures[number]["curves"][model][name] for name in names])
        return shares + random.normal(0, READING / 2, shares.shape)

    goals = {"figure 5": read("5", ("easy", "signal", "hard")), "shares": np.ones(1)}
    if model != "qwen3_1p7b":
        return goals | {"figure 4": read("4", ("fresh", "ex_hard", "ex_easy"))}
    count = strata()
    drawn = np.array([[random.multinomial(n.sum(), n / n.sum()) for n in third] for third in count.transpose(1, 2, 0)])
    curves = figures["3"]["curves"]["recycle"]
    gained = np.array([np.diff(curves[name]["values"][::2]) for name in ("rescued_hard", "rescued_easy")])
    again = random.poisson(gained) * (1 + random.normal(0, COUNTING / 2, (2, 1)))
    at = np.array(curves["rescued_hard"]["x"][::2], float)
    return goals | {"shares": sizes(count), "figure 8": drawn.transpose(2, 0, 1), "figure 3": again, "figure 3 at": at}


def strata() -> np.ndarray:
    """Counts of figure 8: easy, accepted, hard; by third and stratum."""
    rows = paper_world.figures()["8"]["rows"]
    count = np.array([np.array(rows["candidates"]) * rows[name] for name in ("easy", "accepted", "hard")])
    return np.round(count).astype(int).reshape(3, 3, -1)  # its rows are by thirds, the strata in one order


def sizes(count: np.ndarray) -> np.ndarray:
    """Each stratum's share of the pool: of those alive in a third its share of the draws, and what was accepted before.

    Mean over the thirds.
    """
    accepted = count[1]
    before = np.cumsum(accepted, axis=0) - accepted / 2
    drawn = count.sum(0) / count.sum((0, 2))[:, None]
    size = (drawn * (SIZE - before.sum(1, keepdims=True)) + before).mean(0)
    return size / size.sum()


def with_jump(fit: Fit, model: str, smaller: list[Fit]) -> Fit:
    """The fit with its jump: at 1.7B the one whose GRPO revisits as many queries as in figure 3."""
    if model != "qwen3_1p7b":
        return fit | {"jump": smaller[fit["number"]]["jump"], "jump from": "the 1.7B fit of this number"}
    random = np.random.default_rng([2, fit["number"]])
    curve = paper_world.figures()["3"]["curves"]["grpo"]["revisited"]
    wanted = curve["values"][curve["x"].index(REVISITS)] * (1 + random.normal(0, COUNTING / 2))
    low, high = 0.0, 1.5
    seen = {jump: revisits(fit | {"jump": jump}) - wanted for jump in (low, high)}
    for _ in range(4):  # false position: revisits fall smoothly with the jump
        middle = low + (high - low) * seen[low] / (seen[low] - seen[high])
        seen[middle] = revisits(fit | {"jump": middle}) - wanted
        low, high = (middle, high) if seen[middle] > 0 else (low, middle)
    best = min(seen, key=lambda jump: abs(seen[jump]))
    return fit | {"jump": round(best, 4), "jump from": "GRPO's revisits in figure 3"}


def revisits(fit: Fit) -> int:
    """GRPO's revisits until the last published point."""
    plan = oracle.sampler("grpo", oversample=paper_world.OVERSAMPLE["grpo"], rollouts=paper_world.SETTING["rollouts"])
    world = paper_world.of_fit(fit, SIZE, seed=fit["number"])
    rows = oracle.play(plan, world, size=SIZE, seed=fit["number"]).rows
    return sum(int(row["pool/accepted_ex_consumed"] or 0) for row in rows[: REVISITS // (ACCEPT * SAMPLES)])


if __name__ == "__main__":
    main()
