"""A made step, played before the cold start: what rounds, rule and reward return is seen before it is paid for."""

import numpy as np

from qr_jax.pool import pool
from qr_jax.records import Episode, Query, Turn
from qr_jax.rollout import tools
from qr_jax.step import drawing, grading
from qr_jax.step.beside import run_interruptible
from qr_jax.step.run_state import RunState
from qr_jax.step.runtime import Runtime


def preflight(runtime: Runtime, run_state: RunState) -> None:
    """Call search, rounds, reward and rule once, on the first question and two made episodes; nothing of it is kept.

    One episode answers as the question's first gold does, one not at all. ValueError for what their contracts refuse;
    of a search, whatever it raises. OSError where the server that the reward asks gives no grade.
    """
    query, name, limits = runtime.queries[0], runtime.settings.reward.name, runtime.settings.rollout
    tools.found(runtime.search, [query.question], limits.search_k, **tools.limits(limits))
    runtime.rounds(run_state.pool, ())
    episodes = [made(query, 0, query.answers[0]), made(query, 1, None)]
    group = run_interruptible(lambda: grading.grade(runtime.reward, name, 0, 0, query, episodes), runtime.run.stop_now)
    if group.spent.ungraded and runtime.asks:
        raise OSError(f"{group.spent.fault}, of an answer that was made up: is its server up?")
    pool.settle(run_state.pool, drawing.judged(runtime, run_state, [group], 0), runtime.rule)


def made(query: Query, sample: int, answer: str | None) -> Episode:
    """An episode of one turn and three tokens."""
    text = "?" if answer is None else f"<answer> {answer} </answer>"
    return Episode(
        query, sample, 0, ids_L=np.ones(3, np.int32), mask_L=np.ones(3, bool), logp_L=np.zeros(3, np.float32),
        turn_L=np.zeros(3, np.int32), turns=(Turn("model", text),), answer=answer,
        stop="no_action" if answer is None else "answered", valid=True,
    )  # fmt: skip
