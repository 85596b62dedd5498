"""Hugging Face's tensor names and shapes, and the way from them to our tree of stacked arrays and back."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from qr_jax.errors import UserError
from qr_jax.models.families import ModelConfig

Params = dict[str, Any]


class Place(NamedTuple):
    """One kind of tensor: its name and shape in their files, its shape in our tree (a layer's matrix is transposed)."""

    suffix: str
    theirs: tuple[int, ...]
    ours: tuple[int, ...]


def layer_places(cfg: ModelConfig) -> dict[str, Place]:
    """Map our name of each array under "layers" to where it lies in a Hugging Face checkpoint."""
    D, H, K, hd, F = cfg.width, cfg.heads, cfg.kv_heads, cfg.head_dim, cfg.mlp
    places = {
        "attn_norm": Place("input_layernorm.weight", (D,), (D,)),
        "q": Place("self_attn.q_proj.weight", (H * hd, D), (D, H, hd)),
        "k": Place("self_attn.k_proj.weight", (K * hd, D), (D, K, hd)),
        "v": Place("self_attn.v_proj.weight", (K * hd, D), (D, K, hd)),
        "o": Place("self_attn.o_proj.weight", (D, H * hd), (H, hd, D)),
        "mlp_norm": Place("post_attention_layernorm.weight", (D,), (D,)),
        "gate": Place("mlp.gate_proj.weight", (F, D), (D, F)),
        "up": Place("mlp.up_proj.weight", (F, D), (D, F)),
        "down": Place("mlp.down_proj.weight", (D, F), (F, D)),
    }
    if cfg.gemma3:
        places |= {
            "attn_out_norm": Place("post_attention_layernorm.weight", (D,), (D,)),
            "mlp_norm": Place("pre_feedforward_layernorm.weight", (D,), (D,)),
            "mlp_out_norm": Place("post_feedforward_layernorm.weight", (D,), (D,)),
        }
    if cfg.qkv_bias:
        places |= {
            "q_bias": Place("self_attn.q_proj.bias", (H * hd,), (H, hd)),
            "k_bias": Place("self_attn.k_proj.bias", (K * hd,), (K, hd)),
            "v_bias": Place("self_attn.v_proj.bias", (K * hd,), (K, hd)),
        }
    if cfg.qk_norm:
        places |= {
            "q_norm": Place("self_attn.q_norm.weight", (hd,), (hd,)),
            "k_norm": Place("self_attn.k_norm.weight", (hd,), (hd,)),
        }
    return places


def top_places(cfg: ModelConfig) -> dict[str, Place]:
    """Map our name of each array outside the layers to where it lies; these keep their orientation."""
    table = (cfg.vocab, cfg.width)
    places = {
        "embed": Place("model.embed_tokens.weight", table, table),
        "norm": Place("model.norm.weight", (cfg.width,), (cfg.width,)),
    }
    if not cfg.tied:
        places["head"] = Place("lm_head.weight", table, table)
    return places


def of_text(cfg: ModelConfig, named: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return what is named by a model's tensors under the names of its text part alone, without a vision tower's.

    `before`: what each name begins with; a name that does not is left as it is.
    """
    if not cfg.gemma3:
        return dict(named)
    own = {name: _text_name(name, before) for name in named}
    return {text: named[name] for name, text in own.items() if text is not None}


def _text_name(name: str, before: str) -> str | None:
    """Return a tensor's name without the prefix that a Gemma 3 with a vision tower has; None for that tower's tensors.

    Published files have `language_model.model.`, and those that transformers 5 holds in memory `model.language_model.`.
    """
    if not name.startswith(before):
        return name
    name = name.removeprefix(before)
    if name.removeprefix("model.").startswith(("vision_tower.", "multi_modal_projector.")):
        return None
    name = name.removeprefix("language_model.")
    if name.startswith("model.language_model."):
        name = f"model.{name.removeprefix('model.language_model.')}"
    return before + name


def expected(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return {tensor name: shape} of a checkpoint of this model."""
    shapes = {place.suffix: place.theirs for place in top_places(cfg).values()}
    for layer in range(cfg.layers):
        shapes |= {f"model.layers.{layer}.{place.suffix}": place.theirs for place in layer_places(cfg).values()}
    return shapes


def check_tensors(source: str, wanted: dict[str, tuple[int, ...]], given: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError that names tensors which are missing, left over or of another shape."""
    missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    wrong = [f"{n} {given[n]} (wanted {s})" for n, s in wanted.items() if n in given and given[n] != s]
    problems = [
        f"{len(names)} tensors {what}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
        for what, names in (("missing", missing), ("not known", extra), ("of another shape", wrong))
        if names
    ]
    if problems:
        raise UserError(f"{source} does not hold the model that its config describes; {'; '.join(problems)}")


def assemble(cfg: ModelConfig, give: Callable[[str], np.ndarray], dtype: Any = np.float32) -> Params:
    """Build our parameter tree from tensors by their Hugging Face names; each is asked for once."""
    params: Params = {name: np.array(give(place.suffix), dtype=dtype) for name, place in top_places(cfg).items()}
    layers: dict[str, np.ndarray] = {}
    for name, place in layer_places(cfg).items():
        stacked = np.empty((cfg.layers, *place.ours), dtype)
        for layer in range(cfg.layers):
            stacked[layer] = np.asarray(give(f"model.layers.{layer}.{place.suffix}")).T.reshape(place.ours)
        layers[name] = stacked
    return params | {"layers": layers}
