"""Draw again until the batch is full: DAPO's dynamic sampling, with a cap."""

from collections.abc import Sequence

from qr_jax.pool.pool import Pool
from qr_jax.records import Ask, Outcome
from qr_jax.settings.settings import Count


def refill(
    pool: Pool,
    so_far: Sequence[Outcome],
    *,
    queries: int,
    oversample: int = 1,
    max_rounds: Count = 10,  # draws of a step at most
) -> Ask | None:
    """Ask for k * B further queries until B groups bear signal, `max_rounds` rounds were drawn or no query is left.

    With the rule `bounded_dapo` it is DAPO (Yu et al. 2025, arXiv:2503.14476; its recipe has k = 3 and 10 rounds): what
    is drawn is used up, surplus groups included. Deviations: at the cap the step trains on what it has, where DAPO
    raises; a pool that ends within a step ends the step, where DAPO's loader goes on with the next epoch. The last of
    `so_far` holds all the step's groups. A round costs k * B * samples rollouts: compare runs by rollouts, not steps.
    """
    if so_far and (len(so_far[-1].accepted) >= queries or len(so_far) >= max_rounds):
        return None
    return Ask(draw=queries * oversample)
