"""The costs of a model by its shape: operations of training, bytes of decoding. Only necessary work is counted."""

import math

import numpy as np

from qr_jax.models import layout
from qr_jax.models.families import ModelConfig


def parameter_count(cfg: ModelConfig) -> int:
    """Return the number of parameters; tied embeddings count once."""
    return sum(math.prod(shape) for shape in layout.expected(cfg).values())


def matrix_parameters(cfg: ModelConfig) -> int:
    """Return the number of parameters of the layers' matrices, without embedding, head, norms and biases."""
    query, keys = cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
    return cfg.layers * cfg.width * (2 * query + 2 * keys + 3 * cfg.mlp)


def attended(cfg: ModelConfig, seen_N: np.ndarray) -> float:
    """Return the number of positions that each token attends to, summed over tokens and averaged over layers.

    `seen_N`: for each token the number of positions up to it, itself included; a layer that slides attends to the
    nearest `cfg.window` of them.
    """
    whole, near = int(np.sum(seen_N, dtype=np.int64)), int(np.minimum(seen_N, cfg.window).sum(dtype=np.int64))
    return whole + (near - whole) * sum(cfg.sliding) / cfg.layers


def training_flops(
    cfg: ModelConfig, *, tokens: int, pairs: float, predicted: int, forwards: int = 0, adapters: int | None = None
) -> int:
    """Return operations (a multiplication and an addition are two) of one forward and backward pass over packed
    episodes.

    forward = 2 * matrix_parameters * tokens + 4 * layers * heads * head_dim * pairs + 2 * vocab * width * predicted,
    and backward twice that (Kaplan et al. 2020, arXiv:2001.08361, sec. 2.1). `tokens` are those of the episodes,
    prompts and observations included, padding not; `pairs` those of a token and one it attends to (`attended`), so an
    episode of n tokens has n(n + 1)/2 where no layer slides; `predicted` the tokens whose log-probability is trained,
    the only ones that need the head. `forwards` is the number of further passes that are forward alone (old or
    reference policy). With `adapters` (their parameter count) the model's own matrices need no gradient: only
    two passes. What rematerialisation does again is not counted, nor are norms, rotations and the softmax.
    """
    passes = 3 + forwards
    matrices = 2 * matrix_parameters(cfg) * tokens + 2 * cfg.vocab * cfg.width * predicted
    attention = round(4 * cfg.layers * cfg.heads * cfg.head_dim * pairs)
    if adapters is None:
        return passes * (matrices + attention)
    return (passes - 1) * matrices + passes * (attention + 2 * adapters * tokens)


def decoding_bytes(cfg: ModelConfig, *, steps: int, positions: float, item_bytes: int) -> int:
    """Return bytes that decoding has to read: all weights once a step, and the keys and values of every position in
    use.

    `positions` is summed over steps and the slots that decode in them, and averaged over layers (`attended`). An untied
    embedding is not counted: a step reads one row of it per slot.
    """
    weights = parameter_count(cfg) - (0 if cfg.tied else cfg.vocab * cfg.width)
    return item_bytes * (steps * weights + round(positions * 2 * cfg.layers * cfg.kv_heads * cfg.head_dim))
