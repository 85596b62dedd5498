"""Drawing: which queries a round rolls out, and how many samples of each."""

from collections.abc import Sequence

import numpy as np

from qr_jax import pool
from qr_jax.interfaces import check_growth
from qr_jax.records import Ask, Outcome
from qr_jax.step.grading import Group, joined
from qr_jax.step.parts import Parts
from qr_jax.step.progress import Progress
from qr_jax.verdict import judge


def draw(parts: Parts, progress: Progress, ask: Ask, groups: Sequence[Group], step: int, number: int) -> dict[int, int]:
    """What round `number` rolls out: pool index -> samples. New queries, none drawn before, and those asked more of.

    Nothing when no query is left to draw. ValueError where a group would outgrow what its rounds' file allows.
    """
    name, settings = parts.settings.pool.rounds.name, parts.settings.pool
    if parts.most_rounds is not None and number >= parts.most_rounds:
        raise ValueError(
            f"rounds {name!r} asked for round {number + 1}, and its file declares ROUNDS = {parts.most_rounds}"
        )
    if parts.settings.learner.keep_dead and ask.draw > parts.most_groups:
        room = f"with learner.keep_dead a step has room for {parts.most_groups}"
        raise ValueError(f"rounds {name!r} asked for {ask.draw} queries; {room}")
    new_Q = pool.draw(
        progress.pool, ask.draw, seed=progress.seed(parts.settings.seed), step=step, round=number,
        exclude=[group.index for group in groups], by=parts.draws,
    )  # fmt: skip
    check_growth(name, ask, {group.index: group.spent.episodes for group in groups}, parts.most_samples)
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
