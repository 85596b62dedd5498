"""One round per step: draw oversample * queries, then take what came."""

from collections.abc import Sequence

from qr_jax.pool.pool import Pool
from qr_jax.records import Ask, Outcome

MAX_ROUNDS = 1


def once(pool: Pool, so_far: Sequence[Outcome], *, queries: int, oversample: int = 1) -> Ask | None:
    """Ask for k * B queries (`oversample` * `queries`) when nothing is drawn yet, then None: the paper's step.

    A batch that comes out short stays short (Coelho et al. 2026, arXiv:2606.10709).
    """
    return None if so_far else Ask(draw=queries * oversample)
