"""The decoder: Qwen3, Qwen2.5, Llama and Gemma 3 in one Flax NNX module, its layers stacked and scanned.

NNX stays in this file. Beyond it parameters are a plain dict of stacked arrays (`layers` first axis = layer), because a
jitted call with a dozen arrays dispatches in microseconds and one with a module in tens of milliseconds.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from qr_jax.models import attention
from qr_jax.models.families import ModelConfig
from qr_jax.models.flash import SAVED as ATTENTION
from qr_jax.models.layer import embedded, gated, rms_norm, rotate, scaled, turns
from qr_jax.models.linear import NAME as LINEAR
from qr_jax.models.linear import adapted

Params = dict[str, Any]
FEW_LAYERS = (
    4  # so many are not scanned: nothing is stacked for the backward pass (a quickstart update takes .91 of the time)
)


def _normal(key, shape, inputs):
    """Draw from a normal of variance 1 / inputs: with one std for all (.02) a small model learns to copy later."""
    return nnx.Param(jax.random.normal(key, shape, jnp.float32) * inputs**-0.5)


def _fresh_norm(cfg: ModelConfig) -> Callable:
    return jnp.zeros if cfg.gemma3 else jnp.ones  # Gemma's norms are 1 + weight


class Layer(nnx.Module):
    """Pre-norm attention and a gated MLP, of layer.py's parts. The caller says how to attend to keys and values."""

    def __init__(self, cfg: ModelConfig, key):
        self.cfg = cfg
        width, heads, kv_heads, dim, mlp = cfg.width, cfg.heads, cfg.kv_heads, cfg.head_dim, cfg.mlp
        keys, fresh = jax.random.split(key, 7), _fresh_norm(cfg)
        self.attn_norm = nnx.Param(fresh(width))
        self.q = _normal(keys[0], (width, heads, dim), width)
        self.k = _normal(keys[1], (width, kv_heads, dim), width)
        self.v = _normal(keys[2], (width, kv_heads, dim), width)
        self.o = _normal(keys[3], (heads, dim, width), heads * dim)
        if cfg.qkv_bias:
            self.q_bias = nnx.Param(jnp.zeros((heads, dim)))
            self.k_bias, self.v_bias = (nnx.Param(jnp.zeros((kv_heads, dim))) for _ in range(2))
        if cfg.qk_norm:
            self.q_norm, self.k_norm = (nnx.Param(fresh(dim)) for _ in range(2))
        self.mlp_norm = nnx.Param(fresh(width))
        if cfg.gemma3:
            self.attn_out_norm, self.mlp_out_norm = (nnx.Param(fresh(width)) for _ in range(2))
        self.gate = _normal(keys[4], (width, mlp), width)
        self.up = _normal(keys[5], (width, mlp), width)
        self.down = _normal(keys[6], (mlp, width), mlp)

    def __call__(self, x_NLD, turns_NL1d, attend: Callable, adapters: Mapping[str, Any]):
        """Return the new stream, by `attend(q, k, v) -> out_NLHd`. `adapters` are those of this layer (lora.py)."""
        cfg, kind = self.cfg, x_NLD.dtype

        def norm(x, weight):
            return rms_norm(cfg, x, weight[...], axis=-1)

        h = norm(x_NLD, self.attn_norm)
        q, k, v = (self._product(name, h, adapters) for name in ("q", "k", "v"))
        if cfg.qkv_bias:
            biases = (self.q_bias, self.k_bias, self.v_bias)
            q, k, v = (y + b[...].astype(kind)[None, None] for y, b in zip((q, k, v), biases, strict=True))
        if cfg.qk_norm:
            q, k = norm(q, self.q_norm), norm(k, self.k_norm)
        q, k = (rotate(y, turns_NL1d, axis=-1) for y in (q, k))
        h = self._product("o", attend(scaled(cfg, q), k, v), adapters, over=2)
        x_NLD = x_NLD + (norm(h, self.attn_out_norm) if cfg.gemma3 else h)
        h = norm(x_NLD, self.mlp_norm)
        h = gated(cfg, *(self._product(name, h, adapters) for name in ("gate", "up")))
        h = self._product("down", h, adapters)
        return x_NLD + (norm(h, self.mlp_out_norm) if cfg.gemma3 else h)

    def _product(self, name: str, x, adapters: Mapping[str, Any], over: int = 1):
        return adapted(name, x, getattr(self, name)[...], adapters, over=over)


class Decoder(nnx.Module):
    """A decoder with random weights, as flax's nnx holds it."""

    def __init__(self, cfg: ModelConfig, key):
        embed_key, head_key, layers_key = jax.random.split(key, 3)
        self.embed = _normal(embed_key, (cfg.vocab, cfg.width), cfg.width)
        self.layers = nnx.vmap(lambda layer_key: Layer(cfg, layer_key))(jax.random.split(layers_key, cfg.layers))
        self.norm = nnx.Param(_fresh_norm(cfg)(cfg.width))
        if not cfg.tied:
            self.head = _normal(head_key, (cfg.vocab, cfg.width), cfg.width)


def init(cfg: ModelConfig, key) -> Params:
    """Return random float32 parameters (variance 1 / inputs; norms 1, biases 0): a plain dict of stacked arrays."""
    return nnx.to_pure_dict(nnx.split(Decoder(cfg, key))[1])


def abstract(cfg: ModelConfig) -> Params:
    """Return the parameter tree's shapes, nothing allocated."""
    return jax.eval_shape(lambda: init(cfg, jax.random.key(0)))


@functools.lru_cache
def _layer_graph(cfg: ModelConfig):
    return nnx.split(nnx.eval_shape(lambda: Layer(cfg, jax.random.key(0))))[0]


def head_weights(params: Params):
    """Return the output matrix [V, D]: `head`, or the embedding when tied."""
    return params.get("head", params["embed"])


def _remat(body, remat: str):
    """Set what a layer saves for backward: "full" nothing, "attention" outputs and log-sums, "dots" products too."""
    if remat == "none":
        return body
    names = {"full": (), "attention": (ATTENTION,), "dots": (LINEAR, ATTENTION)}[remat]
    policy = jax.checkpoint_policies.save_only_these_names(*names)
    return jax.checkpoint(body, policy=policy, prevent_cse=False)  # in a scan nothing can be merged


def forward(
    cfg: ModelConfig,
    params: Params,
    ids_NL,
    position_NL,
    segment_NL,
    last_NL=None,
    *,
    compute=jnp.float32,
    remat="none",
    attend: Callable = attention.packed,
    constrain: Callable = lambda x: x,
):
    """Turn packed rows into hidden_NLD after the last norm, in `compute` dtype; attention is causal inside a segment.

    `attend(q, k, v, segment_NL, last_NL, sliding)` is that attention (attention.packed with what the caller has bound).
    `constrain` is applied to the stream between layers: the caller's sharding constraint. Which layers slide is data of
    the scan, so that one body serves both kinds.
    """
    graph, at_NL11 = _layer_graph(cfg), position_NL[:, :, None, None]
    turns_NL1d = turns(cfg, at_NL11, axis=-1)
    sliding_turns_NL1d = turns(cfg, at_NL11, axis=-1, sliding=True) if cfg.sliding else None

    def body(x_NLD, xs):
        arrays, slides = xs
        adapters, layer = arrays.get("lora", {}), {name: arrays[name] for name in arrays if name != "lora"}
        angles, sliding = turns_NL1d, None
        if sliding_turns_NL1d is not None:
            angles = jax.tree.map(lambda near, far: jnp.where(slides, near, far), sliding_turns_NL1d, turns_NL1d)
            sliding = attention.Sliding(slides, cfg.window, position_NL)

        def own(q, k, v):
            return attend(q, k, v, segment_NL, last_NL, sliding)

        return nnx.merge(graph, layer)(constrain(x_NLD), angles, own, adapters), None

    x_NLD = constrain(embedded(cfg, params["embed"], ids_NL, compute))
    unroll = cfg.layers if cfg.layers <= FEW_LAYERS else 1
    slides_of = jnp.asarray(cfg.sliding) if cfg.sliding else None
    x_NLD, _ = jax.lax.scan(_remat(body, remat), x_NLD, (params["layers"], slides_of), unroll=unroll)
    return rms_norm(cfg, x_NLD, params["norm"], axis=-1)


def logits(cfg: ModelConfig, params: Params, hidden_NLD):
    """Return float32 [N, L, V]. For tests; the learner goes block by block (logprob.py)."""
    head = head_weights(params).astype(hidden_NLD.dtype)
    return jnp.einsum("nld,vd->nlv", hidden_NLD, head, preferred_element_type=jnp.float32)
