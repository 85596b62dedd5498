"""Random numbers on the host, functions of integers with no state to save, and exponential races (weighted draws)."""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt64

AHEAD = 4  # `first` races this many times the entries it needs before it races more


def uniforms(size: int, *key: int) -> Float64[np.ndarray, "size"]:
    """Return float64 [size] in (0, 1), a function of the integers `key` alone; number i does not depend on `size`."""
    return unit(words(size, *key))


def words(size: int, *key: int) -> UInt64[np.ndarray, "size"]:
    """Return the 64-bit words that `uniforms` makes its numbers of; the larger word gives the larger number.

    The integers are folded by SplitMix64's finaliser (Steele et al. 2014) into the key of a Philox counter generator,
    whose raw words numpy keeps stable over versions (its distributions it does not). The first integer identifies the
    purpose, so that two purposes never share random numbers.
    """
    folded = 0
    for part in key:
        folded = ((folded ^ int(part) % 2**64) + 0x9E3779B97F4A7C15) % 2**64
        folded = ((folded ^ folded >> 30) * 0xBF58476D1CE4E5B9) % 2**64
        folded = ((folded ^ folded >> 27) * 0x94D049BB133111EB) % 2**64
        folded ^= folded >> 31
    return np.random.Philox(key=folded).random_raw(size)


def unit(word: Any) -> Any:
    """Return a word, or an array of them, as float64 in (0, 1)."""
    return ((word >> np.uint64(12)) + 0.5) * 2.0**-52  # 52 bits and a half: with 53 the largest would round to 1


def race(word: Any, weight: Any, power: int) -> Any:
    """Return the finishing times -log(u) / (weight * 2**power), u = unit(word); a power of two scales them exactly."""
    # A logarithm's last bit may differ between kinds of CPU: it moves only two races that agree in all other bits.
    with np.errstate(divide="ignore", over="ignore"):
        return -np.log(unit(word)) / np.ldexp(weight, power)


def first(
    word_P: UInt64[np.ndarray, "P"], weight_P: Float64[np.ndarray, "P"], power: int, count: int
) -> Int64[np.ndarray, "Q"]:
    """Return indices of the `count` entries that finish first, in order, ties by index; one of weight 0 never runs.

    A large word means an early finish, so only entries with the largest words race at first. More join them as
    long as one that is left out could finish before the last of `count`, if it had the largest weight. At least `count`
    entries must have a weight above 0.
    """
    if count == 0:
        return np.empty(0, np.int64)
    share, top = AHEAD * count / np.count_nonzero(weight_P), np.ldexp(weight_P.max(), power)
    while True:
        least = np.uint64(int((1 - share) * 2.0**52) << 12 if share < 1 else 0)
        at = np.flatnonzero(word_P >= least)
        at = at[weight_P[at] > 0]
        time = race(word_P[at], weight_P[at], power)
        if len(at) >= count:
            last = np.partition(time, count - 1)[count - 1]
            if least == 0 or last < -np.log(unit(least)) / top * (1 - 1e-9):  # far more than rounding can move
                at, time = at[time <= last], time[time <= last]
                return at[np.argsort(time, kind="stable")][:count]
        share *= AHEAD
