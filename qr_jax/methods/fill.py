"""Filling (DUPO): the empty places of a batch repeat groups that bear signal."""

import numpy as np
from jaxtyping import Int64

from qr_jax.pool.noise import uniforms

FILL = 18  # the first part of a key of `uniforms`


def copies(groups: int, places: int, seed: int, step: int) -> Int64[np.ndarray, "Q"]:
    """Return how often each group stands in a batch of `places`: once, plus once for each empty place that drew it.

    exact: DUPO (Li et al. 2025, WebSailor, arXiv:2507.02592, sec. 4.2): queries whose rewards are all equal leave the
    batch, and each of their places repeats another query of it, at random. Filled in: with equal chances. Its
    advantage, loss and higher clip are `grpo`, token_mean and loss.high; that it leaves out, before training, what is
    always right is a matter of the data.

    A copy is not computed twice: it is weight on the group's episodes and tokens in the denominators, which gives the
    gradient of the batch that holds it (pack.py). As all groups have the same chance, copies add noise to the mean over
    signal groups, and do not bias it where groups have equally many tokens (learner.reduce=sequence_mean: episodes).
    With several updates a batch each counts an equal part of the copied tokens.
    """
    drawn = uniforms(max(places - groups, 0) if groups else 0, FILL, seed, step) * groups
    return 1 + np.bincount(drawn.astype(np.int64), minlength=groups)
