"""The decoder a few tokens at a time: the same weights and the same sums as `decoder.forward`, laid out for reading.

A step of decoding reads every weight once for a handful of tokens, so what counts is how they lie. Layers are separate
arrays and a Python loop (a scan would copy each layer's weights, and its cache, out of the stack), matrices are
[outputs, inputs], and activations are columns [width, N]. SmolLM2's shape on 2 cores at batch 16: 37 ms a step against
52 for a scan over stacked rows (cache of 192), 73 against 199 at batch 32 (cache of 512). So decoder.Layer's
products are not used: with them, without a scan, a step takes 104 ms against 86 (batch 16, cache of 192, busy cores).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qr_jax.models import decoder, lora
from qr_jax.models.families import ModelConfig
from qr_jax.models.layer import embedded, gated, rms_norm, rotate, scaled, turns
from qr_jax.models.lora import Shapes
from qr_jax.models.quantized import Int8, product, quantize

# The products of a layer: with a matrix, and with A and B of its adapter.
PRODUCTS = {
    "qkv": ("kxdi,in->kxdn", "jri,in->jrn", "kxdr,xrn->kxdn"),
    "gate_up": ("xmi,in->xmn", "xri,in->xrn", "xmr,xrn->xmn"),
    **dict.fromkeys(("o", "down"), ("di,in->dn", "ri,in->rn", "dr,rn->dn")),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecodeParams:
    """Parameters as rollouts read them, in the compute dtype: made by `to_decode_params` from a learner's tree.

    Matrices may be Int8, the head's among them; the embedding, of which few rows are read, never is.
    """

    embed: jax.Array  # [V, D]
    head: jax.Array | Int8 | None  # [V, D]; None when it is the embedding itself
    norm: jax.Array  # [D]
    layers: tuple[dict[str, jax.Array | Int8], ...]  # as `_layer` makes them


def to_decode_params(cfg: ModelConfig, params: Any, dtype=jnp.float32, int8: bool = False) -> DecodeParams:
    """Convert a learner's tree of stacked arrays to DecodeParams, with matrices in int8 or in the dtype.

    DecodeParams are returned as they are.
    """
    if isinstance(params, DecodeParams):
        return params
    embed, head = params["embed"], params.get("head")
    norm, layers = _lay_out_layers(cfg, params["norm"], params["layers"], jnp.dtype(dtype), int8)
    if int8:
        return DecodeParams(_cast(embed, jnp.dtype(dtype)), quantize(embed if head is None else head), norm, layers)
    if embed.dtype != dtype:  # else the learner's own array: a rollout is over before the next update
        embed, head = _cast(embed, jnp.dtype(dtype)), None if head is None else _cast(head, jnp.dtype(dtype))
    return DecodeParams(embed, head, norm, layers)


@functools.partial(jax.jit, static_argnames=("dtype",))
def _cast(array, dtype):
    return array.astype(dtype)


@functools.partial(jax.jit, static_argnames=("cfg", "dtype", "int8"))
def _lay_out_layers(cfg: ModelConfig, norm, layers, dtype, int8):
    if "lora" in layers and lora.merges(dtype) and not int8:
        layers = lora.merged_layers(layers, layers["lora"])
    matrices = PRODUCTS if int8 else ()

    def stored(layer):
        return {name: quantize(array) if name in matrices else array.astype(dtype) for name, array in layer.items()}

    per_layer = [_layer(cfg, jax.tree.map(lambda array, n=n: array[n], layers)) for n in range(cfg.layers)]
    return norm.astype(dtype), tuple(map(stored, per_layer))


def _layer(cfg: ModelConfig, layer):
    """Return one layer's arrays: norms, and matrices as `_fused` has them.

    Adapters that are not merged lie beside the matrices: of `qkv` the parts `qkv_a` [3, rank, D] and `qkv_b`
    [K, heads / K + 2, d, rank], and so on.
    """
    laid = {name: array for name, array in layer.items() if name.endswith("norm")} | _fused(cfg, layer)
    if cfg.qkv_bias:
        laid["qkv_bias"] = _grouped(cfg, *(layer[f"{name}_bias"] for name in ("q", "k", "v")))
    if "lora" not in layer:
        return laid
    a, b = ({name[:-2]: layer["lora"][name] for name in layer["lora"] if name.endswith(side)} for side in ("_a", "_b"))
    a = {name: array.reshape(-1, array.shape[-1]).T for name, array in a.items()}
    laid |= {f"{name}_b": array for name, array in _fused(cfg, b).items()}
    laid |= {f"{name}_a": a[name] for name in ("o", "down") if name in a}
    stacks = {"qkv_a": ("q", "k", "v"), "gate_up_a": ("gate", "up")}
    return laid | {to: jnp.stack([a[name] for name in names]) for to, names in stacks.items() if names[0] in a}


def _grouped(cfg: ModelConfig, q, k, v):
    """Join [heads, ...] arrays by key/value head: the queries of each before its key and its value."""
    return jnp.concatenate([q.reshape(cfg.kv_heads, -1, *q.shape[1:]), k[:, None], v[:, None]], axis=1)


def _fused(cfg: ModelConfig, layer):
    """Return matrices, fewer and larger: `qkv` [K, heads / K + 2, d, D], `gate_up` [2, M, D]; `o` [D, H * d]; `down`
    [D, M]. Those of attention or of the MLP may be absent."""
    laid = {}
    if "q" in layer:
        laid["qkv"] = _grouped(cfg, *(jnp.moveaxis(layer[name], 0, -1) for name in ("q", "k", "v")))
        laid["o"] = layer["o"].reshape(-1, cfg.width).T
    if "gate" in layer:
        laid |= {"gate_up": jnp.stack([layer["gate"].T, layer["up"].T]), "down": layer["down"].T}
    return laid


def run(cfg: ModelConfig, laid: DecodeParams, ids_N, position_N, kept_L: Sequence[Any], attend: Callable, given: Any):
    """Return x_DN after the last layer of N tokens at their positions, and what each layer keeps then.

    `attend(kept, given, window, q_NHd, k_NKd, v_NKd) -> (out_NHd, kept)` puts the new keys and values where a layer
    keeps them, and attends, over the nearest `window` positions where the layer slides (0: over all). It is traced once
    for all layers of a kind, so what they keep has one shape.
    """
    x_DN, *turns_of = begin(cfg, laid.embed, ids_N, position_N)
    return run_layers(cfg, attend, slides(cfg), laid.layers, tuple(kept_L), x_DN, turns_of, given)


def slides(cfg: ModelConfig) -> tuple[bool, ...]:
    """Return for each layer whether it slides."""
    return cfg.sliding or (False,) * cfg.layers


@functools.partial(jax.jit, static_argnames="cfg")
def begin(cfg: ModelConfig, embed, ids_N, position_N):
    """Return x_DN before the first layer, and the turns [1, d, N] of layers that do not slide and of those that do."""
    kinds = (False, True) if cfg.sliding else (False,)
    at_11N = position_N[None, None]
    return embedded(cfg, embed, ids_N, embed.dtype).T, *(turns(cfg, at_11N, axis=-2, sliding=kind) for kind in kinds)


@functools.partial(jax.jit, static_argnames=("cfg", "attend", "slides_l"), donate_argnames="kept_l")
def run_layers(cfg: ModelConfig, attend: Callable, slides_l, layers, kept_l, x_DN, turns_of, given):
    """Run some layers, `layers` with `slides_l`, as `run` does all; called outside jit it donates `kept_l`."""
    after_l = []
    for slides, weights, kept in zip(slides_l, layers, kept_l, strict=True):
        window = cfg.window if slides else 0
        x_DN, kept = _run_layer(cfg, attend, window, weights, kept, x_DN, turns_of[slides], given)
        after_l.append(kept)
    return x_DN, tuple(after_l)


@functools.partial(jax.jit, static_argnames=("cfg", "attend", "window"))  # traced once a kind; XLA writes it out again
def _run_layer(cfg: ModelConfig, attend: Callable, window: int, weights, kept, x_DN, turns_1dN, given):
    count = x_DN.shape[1]

    def norm(y, name):
        return rms_norm(cfg, y, weights[name], axis=-2) if name in weights else y

    def norm_and_turn(y_XdN, name):
        return jnp.moveaxis(rotate(norm(y_XdN, name), turns_1dN, axis=-2), 2, 0)

    h_DN = norm(x_DN, "attn_norm")
    y_KXdN = _product(weights, "qkv", h_DN)
    if cfg.qkv_bias:
        y_KXdN = y_KXdN + weights["qkv_bias"][..., None]
    q_NHd = norm_and_turn(y_KXdN[:, :-2].reshape(cfg.heads, cfg.head_dim, count), "q_norm")
    k_NKd, v_NKd = norm_and_turn(y_KXdN[:, -2], "k_norm"), jnp.moveaxis(y_KXdN[:, -1], 2, 0)
    out_NHd, kept = attend(kept, given, window, scaled(cfg, q_NHd), k_NKd, v_NKd)
    x_DN = x_DN + norm(_product(weights, "o", out_NHd.reshape(count, -1).T), "attn_out_norm")
    h_DN = gated(cfg, *_product(weights, "gate_up", norm(x_DN, "mlp_norm")))
    return x_DN + norm(_product(weights, "down", h_DN), "mlp_out_norm"), kept


def _product(weights, name: str, x_IN):
    """Multiply by one of a layer's matrices, and by the adapter beside it, as `linear.adapted` does."""
    with_w, with_a, with_b = PRODUCTS[name]
    if f"{name}_a" not in weights:
        return product(with_w, weights[name], x_IN)
    low = jnp.einsum(with_a, weights[f"{name}_a"], x_IN)
    if name == "qkv":  # the queries of a key/value head share one A
        low = low[np.array([0] * (weights[name].shape[1] - 2) + [1, 2])]
    b, low = (array.astype(jnp.float32) for array in (weights[f"{name}_b"], low))
    y_IN = product(with_w, weights[name], x_IN, jnp.float32)
    return (y_IN + jnp.einsum(with_b, b, low)).astype(x_IN.dtype)


def logits(cfg: ModelConfig, laid: DecodeParams, x_DN):
    """Return the logits, float32 [V, N]: a column for each token, in the order of `x_DN`."""
    head_VD = laid.embed if laid.head is None else laid.head
    hidden_DN = rms_norm(cfg, x_DN, laid.norm, axis=-2)
    return product("vd,dn->vn", head_VD, hidden_DN, jnp.float32)


def shapes(cfg: ModelConfig, dtype, adapters: Shapes = (), int8: bool = False) -> DecodeParams:
    """Return DecodeParams of shapes, nothing allocated; `adapters`: `lora.shapes_of` the learner's tree."""
    params = decoder.abstract(cfg)
    if adapters:
        adapted = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in adapters}
        params = {**params, "layers": {**params["layers"], "lora": adapted}}
    return jax.eval_shape(functools.partial(to_decode_params, cfg, dtype=dtype, int8=int8), params)
