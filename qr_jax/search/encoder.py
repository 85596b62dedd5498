"""The encoder of BERT's family (MiniLM, E5, BGE): ids in, one vector of length 1 a text out (Devlin et al. 2019).

Parameters are a plain dict of stacked arrays, as the decoder's; the layers are scanned (arXiv:1810.04805).
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from qr_jax.errors import UserError
from qr_jax.models import safetensors_file
from qr_jax.run.json_files import number, read_json

Params = dict[str, Any]
Pooling = Literal["mean", "cls"]

LARGEST = {"num_hidden_layers": 256, "num_attention_heads": 1024, "vocab_size": 2**24, "hidden_size": 2**16}
LARGEST |= {"intermediate_size": 2**20, "max_position_embeddings": 2**20, "type_vocab_size": 2**16}
# Our name of each array -> its name in a checkpoint; a matrix is transposed, and q, k, v are cut by heads.
TOP = {
    "word": "embeddings.word_embeddings.weight",
    "position": "embeddings.position_embeddings.weight",
    "type": "embeddings.token_type_embeddings.weight",
    "norm": "embeddings.LayerNorm.weight",
    "norm_bias": "embeddings.LayerNorm.bias",
}
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "attn_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
LEFT_OUT = ("pooler.", "cls.", "embeddings.position_ids")  # no part of a text's vector


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of one encoder."""

    vocab: int
    width: int
    layers: int
    heads: int
    mlp: int
    positions: int
    types: int
    norm_eps: float = 1e-12


def from_hf(config: Mapping[str, Any]) -> EncoderConfig:
    """Return the shape that a Hugging Face config.json describes; a ValueError names what this encoder lacks."""
    if config.get("model_type") != "bert":
        raise UserError(
            f"model_type {config.get('model_type')!r} is no encoder that is read here; wanted 'bert' "
            "(MiniLM-L6, E5 and BGE in English are; the multilingual ones are xlm-roberta)"
        )
    refused = {
        f"hidden_act {config.get('hidden_act')!r} (wanted 'gelu')": config.get("hidden_act", "gelu") != "gelu",
        "relative positions": config.get("position_embedding_type", "absolute") not in ("absolute", None),
        "is_decoder": bool(config.get("is_decoder")),
        "quantization_config": bool(config.get("quantization_config")),
    }
    found = [feature for feature, present in refused.items() if present]
    if found:
        raise UserError(f"this model uses what the encoder does not have: {'; '.join(found)}")
    size = {key: _size(config, key, most) for key, most in LARGEST.items()}
    if size["hidden_size"] % size["num_attention_heads"]:
        raise UserError(f"{size['num_attention_heads']} heads do not divide a width of {size['hidden_size']}")
    return EncoderConfig(
        vocab=size["vocab_size"],
        width=size["hidden_size"],
        layers=size["num_hidden_layers"],
        heads=size["num_attention_heads"],
        mlp=size["intermediate_size"],
        positions=size["max_position_embeddings"],
        types=size["type_vocab_size"],
        norm_eps=number(config.get("layer_norm_eps", 1e-12), "layer_norm_eps", above=0, most=1),
    )


def _size(config: Mapping[str, Any], key: str, most: int) -> int:
    found = config.get(key, 2 if key == "type_vocab_size" else None)
    if type(found) is not int or not 1 <= found <= most:
        raise UserError(f"config.json has {key} = {found!r}; wanted a whole number from 1 to {most}")
    return found


def load(folder: Path) -> tuple[EncoderConfig, Params]:
    """Load shape and float32 parameters (host arrays) of a Hugging Face folder with config.json and model.safetensors.

    ValueError: no such files, a damaged one, tensors that are missing, left over or of another shape.
    """
    cfg = from_hf(read_json(folder / "config.json"))
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{folder.name} has no model.safetensors (pickled weights are not read: convert them)")
    return cfg, _assemble(cfg, safetensors_file.read_header(path), path.name)


def _assemble(cfg: EncoderConfig, entries: Mapping[str, safetensors_file.Entry], name: str) -> Params:
    bare = {key.removeprefix("bert."): entry for key, entry in entries.items()}
    wanted = {TOP[key]: shape for key, shape in _top_shapes(cfg).items()}
    for layer in range(cfg.layers):
        wanted |= {f"encoder.layer.{layer}.{part}": shape for part, shape in _layer_shapes(cfg).items()}
    found = {key: entry.shape for key, entry in bare.items() if not key.startswith(LEFT_OUT)}
    if found != wanted:
        wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        raise UserError(
            f"{name} does not hold the encoder that its config describes: {wrong[0]} is {found.get(wrong[0])}, wanted "
            f"{wanted.get(wrong[0])} ({len(wrong)} tensors differ)"
        )

    def give(key: str) -> np.ndarray:
        return np.asarray(safetensors_file.read(bare[key]), np.float32)

    params: Params = {key: give(TOP[key]) for key in TOP}
    layers = {}
    for key, part in LAYER.items():
        prefixes = [f"encoder.layer.{layer}.{part}" for layer in range(cfg.layers)]
        layers[key] = np.stack([give(f"{prefix}.weight").T for prefix in prefixes])
        layers[f"{key}_bias"] = np.stack([give(f"{prefix}.bias") for prefix in prefixes])
    return params | {"layers": layers}


def _top_shapes(cfg: EncoderConfig) -> dict[str, tuple[int, ...]]:
    rows = {"word": cfg.vocab, "position": cfg.positions, "type": cfg.types}
    return {key: (rows[key], cfg.width) if key in rows else (cfg.width,) for key in TOP}


def _layer_shapes(cfg: EncoderConfig) -> dict[str, tuple[int, ...]]:
    out = dict.fromkeys(LAYER, cfg.width) | {"up": cfg.mlp}
    into = dict.fromkeys(LAYER, cfg.width) | {"down": cfg.mlp}
    shapes: dict[str, tuple[int, ...]] = {}
    for key, part in LAYER.items():
        shapes[f"{part}.weight"] = (out[key],) if key.endswith("norm") else (out[key], into[key])
        shapes[f"{part}.bias"] = (out[key],)
    return shapes


def encode(cfg: EncoderConfig, params: Params, ids_NL, length_N, *, pooling: Pooling = "mean", compute=jnp.float32):
    """Encode the first `length_N` (at least 1) ids of each row: float32 [N, D] of length 1; matrices in `compute`."""
    positions = ids_NL.shape[1]
    seen_NL = jnp.arange(positions)[None] < length_N[:, None]
    x_NLD = params["word"][ids_NL] + (params["position"][:positions] + params["type"][:1])[None]
    x_NLD = _norm(x_NLD, params["norm"], params["norm_bias"], cfg.norm_eps)

    def body(x_NLD, layer):
        return _layer(cfg, layer, x_NLD, seen_NL, compute), None

    x_NLD, _ = jax.lax.scan(body, x_NLD, params["layers"])
    if pooling == "cls":
        pooled_ND = x_NLD[:, 0]
    else:
        pooled_ND = jnp.where(seen_NL[:, :, None], x_NLD, 0.0).sum(1) / length_N[:, None]
    return pooled_ND / jnp.maximum(jnp.linalg.norm(pooled_ND, axis=-1, keepdims=True), 1e-12)


def _layer(cfg: EncoderConfig, layer: Params, x_NLD, seen_NL, compute):
    """Run attention, then the MLP, each normalised after it is added (post-norm)."""

    # A TPU's or GPU's own default for float32 is a product of fewer bits.
    exact = jax.lax.Precision.HIGHEST if compute == jnp.float32 else None
    product = functools.partial(jnp.einsum, precision=exact, preferred_element_type=jnp.float32)

    def linear(x, name):
        weight = layer[name].astype(compute)
        y = product("nli,io->nlo", x.astype(compute), weight)
        return y + layer[f"{name}_bias"][None, None]

    def heads(x):
        return x.reshape(*x.shape[:2], cfg.heads, -1).astype(compute)

    q, k, v = (heads(linear(x_NLD, name)) for name in "qkv")
    score = product("nqhd,nkhd->nhqk", q, k) * q.shape[-1] ** -0.5
    weight = jax.nn.softmax(jnp.where(seen_NL[:, None, None], score, -jnp.inf), axis=-1).astype(compute)
    out = product("nhqk,nkhd->nqhd", weight, v).reshape(x_NLD.shape)
    x_NLD = _norm(x_NLD + linear(out, "o"), layer["attn_norm"], layer["attn_norm_bias"], cfg.norm_eps)
    h = linear(jax.nn.gelu(linear(x_NLD, "up"), approximate=False), "down")
    return _norm(x_NLD + h, layer["mlp_norm"], layer["mlp_norm_bias"], cfg.norm_eps)


def _norm(x_NLD, weight, bias, eps):
    mean = x_NLD.mean(-1, keepdims=True)
    centred = x_NLD - mean
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps) * weight[None, None] + bias[None, None]
