"""Drawing: which queries a round rolls out, and how many samples of each."""

from collections.abc import Sequence

import numpy as np

from qr_jax import pool
from qr_jax.config import Pool as PoolSettings
from qr_jax.records import Ask, Outcome
from qr_jax.step.grading import Group, joined
from qr_jax.step.parts import Parts
from qr_jax.step.progress import Progress
from qr_jax.verdict import judge


def refreshed(of_run: pool.Pool, settings: PoolSettings) -> pool.Pool | None:
    """The pool to draw from, reset where its settings say so; None when it is used up and the run is to stop."""
    refreshed = pool.refresh(of_run, below=settings.reset_below)
    if np.count_nonzero(refreshed.weight_P):
        return refreshed
    return None if settings.on_exhausted == "stop" else pool.refresh(refreshed, below=1.0)


def draw(parts: Parts, progress: Progress, ask: Ask, groups: Sequence[Group], step: int, number: int) -> dict[int, int]:
    """What round `number` rolls out: pool index -> samples. New queries, none drawn before, and those asked more of.

    Nothing when no query is left to draw. ValueError where a group would outgrow what its rounds' file allows.
    """
    name, settings = parts.settings.pool.rounds.name, parts.settings.pool
    if parts.most_rounds is not None and number >= parts.most_rounds:
        raise ValueError(
            f"rounds {name!r} asked for round {number + 1}, and its file declares ROUNDS = {parts.most_rounds}"
        )
    capacity = settings.queries * settings.oversample
    if parts.settings.learner.keep_dead and ask.draw > capacity:
        raise ValueError(
            f"rounds {name!r} asked for {ask.draw} queries; with learner.keep_dead a step has room for {capacity}"
        )
    new_Q = pool.draw(
        progress.pool, ask.draw, seed=progress.seed(parts.settings.seed), step=step, round=number,
        exclude=[group.index for group in groups], by=parts.draws,
    )  # fmt: skip
    samples = {group.index: group.spent.episodes for group in groups}
    for index, count in ask.more.items():
        if samples[index] + count > parts.most_samples:
            raise ValueError(
                f"rounds {name!r} asked for {count} more samples of query {index}, which "
                f"has {samples[index]}; a group has room for {parts.most_samples}. Write MOST = "
                f"{samples[index] + count} in the plug-in's file, or ask for fewer"
            )
    return dict.fromkeys(new_Q.tolist(), settings.samples) | {int(i): int(n) for i, n in ask.more.items()}


def judged(parts: Parts, progress: Progress, groups: Sequence[Group], step: int) -> Outcome:
    """What the step's groups showed so far."""
    settings, seed = parts.settings.pool, progress.seed(parts.settings.seed)
    drawn_Q, grades = np.array([group.index for group in groups], np.int64), joined(groups, settings.samples)
    return judge(drawn_Q, grades, step=step, accept=settings.queries, channel=settings.channel, seed=seed)


def settled(parts: Parts, progress: Progress, outcome: Outcome) -> pool.Pool:
    """The pool after the step."""
    settings = parts.settings.pool
    return pool.settle(
        progress.pool, outcome.drawn_Q, outcome.grades, step=outcome.step, accept=settings.queries, rule=parts.rule,
        channel=settings.channel, seed=outcome.seed,
    ).pool  # fmt: skip
