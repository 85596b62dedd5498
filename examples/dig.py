"""Rounds: as many samples again for each group whose rewards are all equal, once."""

import numpy as np

from qr_jax.records import Ask, Outcome, grades

MAX_GROUP_SIZE = 16  # samples that a group may grow to


def dig(pool, so_far, *, queries: int, samples: int):
    if not so_far:
        return Ask(draw=queries)
    last = so_far[-1]
    same = last.drawn_Q[(last.verdict_Q == "easy") | (last.verdict_Q == "hard")]
    return Ask(draw=0, more=dict.fromkeys(same.tolist(), samples)) if len(so_far) == 1 and len(same) else None


kinds = np.array(["signal", "hard"])
seen = Outcome(np.array([7, 3]), np.array([7]), np.array([0]), kinds, grades([[1, 0], [0, 0]], np.ones((2, 2))), 0, 0)
assert dig(None, [], queries=2, samples=2) == Ask(draw=2)
assert dig(None, [seen], queries=2, samples=2) == Ask(draw=0, more={3: 2})
