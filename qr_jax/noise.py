"""Random numbers on the host: a function of integers, with no generator state to save."""

import numpy as np
from jaxtyping import Float64


def uniforms(size: int, *key: int) -> Float64[np.ndarray, "size"]:
    """float64 [size] in (0, 1), a function of the integers `key` alone; number i does not depend on `size`.

    The integers are folded by SplitMix64's finaliser (Steele et al. 2014) into the key of a Philox counter generator,
    whose raw words numpy keeps stable over versions (its distributions it does not). The first integer names the
    purpose, so that two users never share their numbers.
    """
    folded = 0
    for part in key:
        folded = ((folded ^ int(part) % 2**64) + 0x9E3779B97F4A7C15) % 2**64
        folded = ((folded ^ folded >> 30) * 0xBF58476D1CE4E5B9) % 2**64
        folded = ((folded ^ folded >> 27) * 0x94D049BB133111EB) % 2**64
        folded ^= folded >> 31
    raw = np.random.Philox(key=folded).random_raw(size)
    return ((raw >> np.uint64(12)) + 0.5) * 2.0**-52  # 52 bits and a half: with 53 the largest would round to 1
