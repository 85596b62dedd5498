"""AR3PO's adaptive rollout: a query without a right answer gets another stage of samples."""

from collections.abc import Sequence

from qr_jax.methods.rounds import _room
from qr_jax.pool.pool import Pool
from qr_jax.records import Ask, Outcome
from qr_jax.settings.settings import Count

MAX_GROUP_SIZE = 32


def ar3po(
    pool: Pool,
    so_far: Sequence[Outcome],
    *,
    queries: int,
    samples: int,
    oversample: int = 1,
    stages: Count = 2,  # rounds of samples that a query without a right answer gets
) -> Ask | None:
    """Draw k * B queries (k: oversample, B: queries); each without a right answer gets `samples` more, up to
    stage `stages`.

    after the abstract: AR3PO (arXiv:2509.25808) gives more responses to hard prompts and stops a prompt at its first
    correct one. How many stages is filled in. Its other half is not here: a stored right answer that joins an all-wrong
    group is another policy's, and no episode is kept from one step to the next. A step costs at most k * B * samples *
    stages rollouts.
    """
    _room.check("ar3po", samples * stages, MAX_GROUP_SIZE, f"pool.samples={samples} in stages={stages} stages")
    if not so_far:
        return Ask(draw=queries * oversample)
    last, grades = so_far[-1], so_far[-1].grades
    outcome_QG = grades.reward_QG if grades.outcome_QG is None else grades.outcome_QG
    unsolved = last.drawn_Q[~(grades.valid_QG & (outcome_QG == 1)).any(axis=1)].tolist()
    return Ask(draw=0, more=dict.fromkeys(unsolved, samples)) if unsolved and len(so_far) < stages else None
