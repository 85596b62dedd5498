"""Guards: alarms that a run raises about itself, from its own figures of each step.

A policy collapses in a typical order: the gradient's norm rises, then entropy, then fewer episodes end with an
answer, then accuracy falls. Each alarm compares the last steps with the run's own past.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qr_jax.config import Guards

PROBE = "probe/exact_match"
FIGURES = {  # what is remembered of a step
    "grad_norm": "learner/grad_norm", "entropy": "rollout/entropy", "answered": "rollout/stop_answered",
    "reward": "reward/mean", "searches": "rollout/searches", "probe": PROBE,
}  # fmt: skip
WINDOW = 3  # steps whose mean is compared with those before
LEAST = 10  # steps that must have come before


@dataclass(frozen=True)
class Watch:
    """The guards' memory, in the checkpoint: each figure's value per step (NaN: none), and the best probe."""

    past: Mapping[str, np.ndarray] = field(default_factory=lambda: {name: np.zeros(0) for name in FIGURES})
    best: float = -1.0  # the highest probe's accuracy
    best_step: int = 0  # number of steps before the best probe; 0: the first policy

    def to_host(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"past": dict(self.past), "best": self.best, "best_step": self.best_step}

    def after(self, step: int, row: Mapping[str, Any]) -> "Watch":
        """Return the memory plus the row of metrics after `step` steps."""
        values = {name: row.get(metric) for name, metric in FIGURES.items()}
        past = {n: np.append(self.past[n], np.nan if value is None else value) for n, value in values.items()}
        accuracy = values["probe"]
        if accuracy is None or accuracy <= self.best:
            return replace(self, past=past)
        return Watch(past, accuracy, step)


def alarms(watch: Watch, limits: Guards) -> dict[str, str]:
    """Return the alarms after the last step: figure -> sentence. Pure: the same past raises the same alarms."""
    return {name: text for name, judge in JUDGES.items() for text in judge(watch.past, limits)}


def _risen(name: str, what: str) -> Callable[..., Iterator[str]]:
    def judge(past: Mapping[str, np.ndarray], limits: Guards) -> Iterator[str]:
        last, before = _windows(past[name])
        if len(before) >= LEAST and last > getattr(limits, name) * np.median(before):
            yield f"{what} is {last:.3g} over {WINDOW} steps; its median before was {np.median(before):.3g}"

    return judge


def _answered(past: Mapping[str, np.ndarray], limits: Guards) -> Iterator[str]:
    last, before = _windows(past["answered"])
    if len(before) >= LEAST and last < np.median(before) - limits.answered:
        yield f"{last:.2f} of the episodes end with an answer; before it was {np.median(before):.2f}"


def _searches(past: Mapping[str, np.ndarray], limits: Guards) -> Iterator[str]:
    """Yield an alarm for reward without searches: the policy answers from its weights, or exploits the reward."""
    (last, before), (reward, reward_before) = _windows(past["searches"]), _windows(past["reward"])
    if len(before) >= LEAST and last < limits.searches * np.median(before) and reward >= np.median(reward_before):
        yield f"{last:.2f} searches an episode, {np.median(before):.2f} before, and the reward has not fallen"


def _probe(past: Mapping[str, np.ndarray], limits: Guards) -> Iterator[str]:
    """Yield an alarm for two probes in a row under the best one; one unlucky update raises none."""
    probed = past["probe"][np.isfinite(past["probe"])]
    if len(probed) > 2 and np.isfinite(past["probe"][-1]) and probed[-2:].max() < probed.max() - limits.fall:
        yield f"held-out accuracy is {probed[-1]:.3f}, at the probe before {probed[-2]:.3f}; it was {probed.max():.3f}"


JUDGES = {
    "grad_norm": _risen("grad_norm", "the gradient's norm"),
    "entropy": _risen("entropy", "the entropy of a sampled token"),
    "answered": _answered, "searches": _searches, "probe": _probe,
}  # fmt: skip


def _windows(values: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean of the last WINDOW values that are there, and those before them."""
    there = values[np.isfinite(values)]
    return float(there[-WINDOW:].mean()) if len(there) else np.nan, there[:-WINDOW]
