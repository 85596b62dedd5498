"""What advantage and loss plug-ins returned, checked while the learner's programs are traced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def advantage(name: str, value: Any, *, queries: int, samples: int, tokens: int) -> jax.Array:
    """The value, when it is adv_QG, adv_QGT (one a turn) or adv_NL (one a token, N = Q * G in the order of grades).

    They are told apart by shape. ValueError, with the plug-in's name, on any other shape and on what is no float array.
    """
    shape = np.shape(value) if _is_float(value) else None
    fits = (
        shape in ((queries, samples), (queries * samples, tokens))
        or shape is not None
        and len(shape) == 3
        and shape[:2] == (queries, samples)
        and shape[2] > 0
    )
    if not fits:
        raise ValueError(
            f"advantage {name!r} returned {described(value)}; wanted a float array: adv_QG [{queries}, {samples}], "
            f"adv_QGT [{queries}, {samples}, turns] or adv_NL [{queries * samples}, {tokens}]"
        )
    return value


def loss(name: str, value: Any, shape: tuple[int, int]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss a token and a copy of the metrics, when each is an array of `shape`, that of the loss's own inputs.

    ValueError, with the plug-in's name, on anything else.
    """
    size = f"[{', '.join(map(str, shape))}]"
    if not (isinstance(value, tuple) and len(value) == 2):
        raise ValueError(
            f"loss {name!r} returned {described(value)}; wanted a pair: a float array {size} and a dict of metrics"
        )
    loss_EL, metrics = value
    if not _is_float(loss_EL) or loss_EL.shape != shape:
        raise ValueError(
            f"loss {name!r} returned {described(loss_EL)} as its loss; wanted a float array {size}, one value a token: "
            "the learner masks and averages (learner.reduce)"
        )
    if not isinstance(metrics, dict):
        raise ValueError(f"loss {name!r} returned {described(metrics)} as its metrics; wanted a dict of arrays {size}")
    for key, metric in metrics.items():
        if not _is_array(metric) or metric.shape != shape:
            raise ValueError(
                f"loss {name!r} returned {described(metric)} as its metric {key!r}; wanted an array {size}, one value "
                "a token: the learner averages"
            )
    return loss_EL, dict(metrics)


def described(value: Any) -> str:
    """A value in words: an array by its dtype and shape, a tuple by its length, anything else by its type."""
    if value is None:
        return "None"
    if _is_array(value):
        return f"{value.dtype} [{', '.join(map(str, value.shape))}]" if value.shape else f"one {value.dtype} number"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r}" if isinstance(value, (bool, int, float, str)) else f"a {type(value).__name__}"


def _is_array(value: Any) -> bool:
    return isinstance(value, (jax.Array, np.ndarray))


def _is_float(value: Any) -> bool:
    return _is_array(value) and jnp.issubdtype(value.dtype, jnp.floating)
