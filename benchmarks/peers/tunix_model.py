"""The shared model as Tunix's qwen3 (google-tunix 0.1.7, tunix/models/qwen3/model.py)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.models.qwen3 import model as qwen3

from benchmarks.peers import model


def build(dtype: str = "float32") -> qwen3.Qwen3:
    """The model with weights of this dtype, in which it computes and keeps keys and values too."""
    config = qwen3.ModelConfig(
        num_layers=model.LAYERS, vocab_size=model.VOCAB, embed_dim=model.WIDTH, hidden_dim=model.MLP,
        num_heads=model.HEADS, head_dim=model.HEAD_DIM, num_kv_heads=model.KV_HEADS, rope_theta=model.ROPE_THETA,
        norm_eps=model.NORM_EPS, use_tied_embedding=True, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype),
    )  # fmt: skip
    built = nnx.eval_shape(lambda: qwen3.Qwen3(config, rngs=nnx.Rngs(params=0)))
    graph, state = nnx.split(built)
    places = dict(nnx.to_flat_state(state))
    for name, tensor in model.tensors():
        path = _path(name)
        variable = places[path]
        shape = jax.tree.leaves(variable)[0].shape
        value = tensor if tensor.ndim == 1 or name.startswith("model.embed") else tensor.T
        places[path] = variable.replace(jnp.asarray(np.ascontiguousarray(value).reshape(shape), dtype))
    return nnx.merge(graph, nnx.from_flat_state(places))


def _path(name: str) -> tuple:
    """The path in Tunix's tree of a Hugging Face tensor."""
    parts = name.split(".")
    if parts[1] == "embed_tokens":
        return ("embedder", "input_embedding")
    if parts[1] == "norm":
        return ("final_norm", "w")
    layer, rest = ("layers", int(parts[2])), parts[3:-1]
    if rest[0] == "mlp":
        return (*layer, "mlp", rest[1], "kernel")
    return (*layer, "attn" if rest[0] == "self_attn" else rest[0], *rest[1:], "w")


def logits(built: qwen3.Qwen3, ids: np.ndarray) -> np.ndarray:
    """[N, L, vocabulary] of whole rows without padding."""
    length = ids.shape[1]
    positions = jnp.broadcast_to(jnp.arange(length)[None], ids.shape)
    seen = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool))[None], (len(ids), length, length))
    graph, state = nnx.split(built)
    forward = jax.jit(lambda state, ids: nnx.merge(graph, state)(ids, positions, None, seen)[0])
    return np.asarray(forward(state, jnp.asarray(ids)))
