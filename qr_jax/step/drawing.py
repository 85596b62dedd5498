"""Drawing: which queries a round rolls out, and how many samples of each."""

from collections.abc import Sequence

import numpy as np

from qr_jax.errors import UserError
from qr_jax.interfaces import check_growth
from qr_jax.pool import pool
from qr_jax.pool.verdict import judge
from qr_jax.records import Ask, Outcome
from qr_jax.step.grading import Group, joined
from qr_jax.step.run_state import RunState
from qr_jax.step.runtime import Runtime


def draw(
    runtime: Runtime, run_state: RunState, ask: Ask, groups: Sequence[Group], step: int, number: int
) -> dict[int, int]:
    """Draw for round `number`, pool index -> samples: new queries, none drawn before, and those asked more of.

    Empty if no query is left to draw. ValueError if a group would outgrow what its rounds' file allows.
    """
    name, settings = runtime.settings.pool.rounds.name, runtime.settings.pool
    if runtime.most_rounds is not None and number >= runtime.most_rounds:
        raise UserError(
            f"rounds {name!r} asked for round {number + 1}, and its file declares ROUNDS = {runtime.most_rounds}"
        )
    if runtime.settings.learner.keep_zero_variance and ask.draw > runtime.most_groups:
        room = f"with learner.keep_zero_variance a step has room for {runtime.most_groups}"
        raise UserError(f"rounds {name!r} asked for {ask.draw} queries; {room}")
    new_Q = pool.draw(
        run_state.pool, ask.draw, seed=run_state.seed(runtime.settings.seed), step=step, round=number,
        exclude=[group.index for group in groups], by=runtime.draws,
    )  # fmt: skip
    check_growth(name, ask, {group.index: group.spent.episodes for group in groups}, runtime.most_samples)
    return dict.fromkeys(new_Q.tolist(), settings.samples) | {int(i): int(n) for i, n in ask.more.items()}


def judged(runtime: Runtime, run_state: RunState, groups: Sequence[Group], step: int) -> Outcome:
    """Judge the step's groups so far."""
    settings, seed = runtime.settings.pool, run_state.seed(runtime.settings.seed)
    drawn_Q, grades = np.array([group.index for group in groups], np.int64), joined(groups, settings.samples)
    return judge(drawn_Q, grades, step=step, accept=settings.queries, channel=settings.channel, seed=seed)
