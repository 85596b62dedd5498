"""Shapes of decoders: sizes and switches of Qwen3, Qwen2.5, Llama, Mistral and Gemma 3 models, and named presets."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from qr_jax.errors import UserError
from qr_jax.models import gemma3, hub
from qr_jax.run.json_files import number
from qr_jax.settings.settings import show

ROPE_KINDS = ("default", "linear", "llama3", "yarn")
ROPE_OBJECTS = ("rope_parameters", "rope_scaling")
ROPE_NAME = re.compile("rope|rotary")
ROPE_BESIDE = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")  # beside that object
LARGEST = {"num_hidden_layers": 1024, "head_dim": 4096, "num_attention_heads": 4096, "num_key_value_heads": 4096}
LARGEST |= {"vocab_size": 2**24, "hidden_size": 2**20, "intermediate_size": 2**22, "max_position_embeddings": 2**31}
LARGEST |= {"sliding_window": 2**30, "query_pre_attn_scalar": 2**16}


class Family(NamedTuple):
    """An architecture by its name in files: `model_type` of Hugging Face, `general.architecture` of GGUF."""

    architecture: str
    qk_norm: bool = False
    qkv_bias: bool = False
    windowed: bool = False  # whether a sliding_window in config.json is in use without a switch that says so
    interleaved: bool = False  # whether llama.cpp interleaves the halves of each q and k head in GGUF, for its own rope
    gemma3: bool = False  # ModelConfig.gemma3

    @property
    def activation(self) -> tuple[str, str]:
        """Return config.json's name of the MLP's activation, and the one that the decoder has."""
        return ("hidden_activation", "gelu_pytorch_tanh") if self.gemma3 else ("hidden_act", "silu")


FAMILIES = {
    "qwen3": Family("Qwen3ForCausalLM", qk_norm=True),
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True),
    "llama": Family("LlamaForCausalLM", interleaved=True),
    "mistral": Family("MistralForCausalLM", windowed=True, interleaved=True),
    "gemma3_text": Family("Gemma3ForCausalLM", qk_norm=True, gemma3=True),
}
# What config.json must say itself: a class's own default would be another model's size.
SAID = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "intermediate_size")
SAID += ("max_position_embeddings",)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of one decoder. `rope_scaling`: sorted items of the Hugging Face config's dict, hashable; () for none.

    With `gemma3` a layer is that of Gemma 3 (arXiv:2503.19786): norms of 1 + weight before and after attention and MLP,
    an MLP with GELU, an embedding times the root of its width. Its `sliding` layers, one bool a layer, see the nearest
    `window` positions alone, the token's own included, and turn by `sliding_theta`, unscaled.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    context_tokens: int
    rope_theta: float = 10_000.0
    rope_scaling: tuple[tuple[str, object], ...] = ()
    norm_eps: float = 1e-6
    tied: bool = True
    qk_norm: bool = False  # of each query's and key's head, before its rotation
    qkv_bias: bool = False
    gemma3: bool = False
    sliding: tuple[bool, ...] = ()  # () for none
    window: int = 0
    sliding_theta: float = 10_000.0
    query_scalar: int | None = None  # scores are divided by its root; None: by the root of head_dim


def _gemma3(*sizes: int, window: int, **more: Any) -> ModelConfig:
    """Return a published Gemma 3: every sixth layer sees all positions, the others slide."""
    cfg = ModelConfig(*sizes, rope_theta=1e6, qk_norm=True, gemma3=True, window=window, query_scalar=256, **more)
    return replace(cfg, sliding=tuple(layer % 6 != 5 for layer in range(cfg.layers)))


HUB_NAMES = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}  # the hub's names of models that we name otherwise
# Sizes as published in each model's config.json; `quickstart` has 0.37M parameters with its world's 434 words.
PRESETS: dict[str, ModelConfig] = {
    "two_layer": ModelConfig(512, 32, 2, 4, 2, 8, 64, context_tokens=512, qk_norm=True),
    "quickstart": ModelConfig(434, 96, 3, 4, 4, 24, 256, context_tokens=512, norm_eps=1e-5, qk_norm=True),
    "smollm2_135m": ModelConfig(49152, 576, 30, 9, 3, 64, 1536, 8192, rope_theta=1e5, norm_eps=1e-5),
    "qwen3_0p6b": ModelConfig(151936, 1024, 28, 16, 8, 128, 3072, 40960, rope_theta=1e6, qk_norm=True),
    "qwen3_1p7b": ModelConfig(151936, 2048, 28, 16, 8, 128, 6144, 40960, rope_theta=1e6, qk_norm=True),
    "qwen3_4b": ModelConfig(151936, 2560, 36, 32, 8, 128, 9728, 40960, rope_theta=1e6, qk_norm=True),
    "qwen2p5_1p5b": ModelConfig(151936, 1536, 28, 12, 2, 128, 8960, 32768, rope_theta=1e6, qkv_bias=True),
    "qwen2p5_3b": ModelConfig(151936, 2048, 36, 16, 2, 128, 11008, 32768, rope_theta=1e6, qkv_bias=True),
    "mistral_7b_v0p3": ModelConfig(
        32768, 4096, 32, 32, 8, 128, 14336, 32768, rope_theta=1e6, norm_eps=1e-5, tied=False
    ),
    "gemma3_270m": _gemma3(262144, 640, 18, 4, 1, 256, 2048, 32768, window=512),
    "gemma3_1b": _gemma3(262144, 1152, 26, 4, 1, 256, 6912, 32768, window=512),
    "gemma3_4b": _gemma3(  # its text part
        262208, 2560, 34, 8, 4, 256, 10240, 131072, window=1024, rope_scaling=(("factor", 8.0), ("rope_type", "linear"))
    ),
}


def reads_words(name: str, tokenizer: str | None) -> bool:
    """Return True if the tokens of a model with these settings are the synthetic world's words."""
    return name in PRESETS and tokenizer is None


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
    """Return the shape that a Hugging Face config.json describes, as transformers 4 or 5 writes it.

    Of a Gemma 3 with a vision tower it is that of the text part. A ValueError names the architecture or feature that
    this decoder lacks (windows but Gemma 3's, biases that the family lacks, other activations, quantised weights),
    and any size that is missing or out of bounds.
    """
    config = gemma3.text_part(config)
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(f"model_type {show(name)} is not supported; supported: {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    named = config.get("architectures") or [family.architecture]
    if named not in ([family.architecture], (family.architecture,)):
        raise UserError(f"architectures {show(named)} is not supported for {name}; wanted {[family.architecture]}")
    for key in SAID:
        _size(config, key)
    _refuse_features(config, name)
    sliding_theta, config = gemma3.split_rope(config) if family.gemma3 else (None, config)
    _refuse_rope(config)
    whole = _described(_agreed(config), family)
    _refuse_features(whole, name)
    theta, scaling = _rope(whole)
    heads = _size(whole, "num_attention_heads")
    cfg = ModelConfig(
        vocab=_size(whole, "vocab_size"),
        width=_size(whole, "hidden_size"),
        layers=_size(whole, "num_hidden_layers"),
        heads=heads,
        kv_heads=_size(whole, "num_key_value_heads", heads),
        head_dim=_size(whole, "head_dim", _size(whole, "hidden_size") // heads),
        mlp=_size(whole, "intermediate_size"),
        context_tokens=_size(whole, "max_position_embeddings"),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=number(whole["rms_norm_eps"], "rms_norm_eps", above=0, most=1),
        tied=bool(whole["tie_word_embeddings"]),
        qk_norm=family.qk_norm,
        qkv_bias=family.qkv_bias,
    )
    if sliding_theta is not None:
        cfg = replace(
            cfg,
            gemma3=True,
            sliding=gemma3.sliding_layers(whole["layer_types"]),
            window=_size(whole, "sliding_window"),
            sliding_theta=sliding_theta,
            query_scalar=_size(whole, "query_pre_attn_scalar"),
        )
    check(cfg)
    return cfg


def _described(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Return `hub.described`. Gemma 3's rope is described as a Llama's: its own class wants one per kind of layer."""
    if not family.gemma3:
        return hub.described(config)
    names = (*ROPE_OBJECTS, "rope_theta")
    rope = {name: config[name] for name in names if config.get(name) is not None}
    rope = hub.described({"model_type": "llama", "rope_theta": gemma3.THETA, **rope})
    own = hub.described({name: value for name, value in config.items() if name not in names})
    return own | {"rope_parameters": rope["rope_parameters"]}


def check(cfg: ModelConfig) -> None:
    """Raise ValueError if heads / kv_heads is no integer, head_dim odd, or `sliding` and `window` do not fit layers."""
    if cfg.heads % cfg.kv_heads:
        raise UserError(f"{cfg.heads} heads do not share {cfg.kv_heads} key/value heads evenly")
    if cfg.head_dim % 2:
        raise UserError(f"head_dim {cfg.head_dim} is odd; rotary embeddings turn pairs of channels")
    if cfg.sliding and (len(cfg.sliding) != cfg.layers or cfg.window < 1):
        raise UserError(
            f"{len(cfg.sliding)} layers slide or not, over {cfg.window} tokens; wanted {cfg.layers}, and 1 or more"
        )


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    found = default if config.get(key) is None else config[key]
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= LARGEST[key]:
        raise UserError(f"config.json has {key} = {show(found)}; wanted a whole number from 1 to {LARGEST[key]}")
    return found


def _refuse_features(config: Mapping[str, Any], name: str) -> None:
    family, kinds = FAMILIES[name], config.get("layer_types") or []
    if not isinstance(kinds, (list, tuple)):
        raise UserError(f"config.json has layer_types = {show(kinds)}; wanted a list of texts")
    windows = "sliding windows" + ' (where its attention is whole, write "sliding_window": null)' * family.windowed
    slides = config.get("use_sliding_window", family.windowed and config.get("sliding_window"))
    act, wanted = family.activation
    refused = {
        windows: not family.gemma3 and (bool(slides) or any(kind != gemma3.FULL for kind in kinds)),
        "attention_bias": bool(config.get("attention_bias")) and not family.qkv_bias,
        "mlp_bias": bool(config.get("mlp_bias")),
        f"{act} {show(config.get(act))} (wanted {wanted!r})": config.get(act, wanted) != wanted,
        "attn_logit_softcapping": bool(config.get("attn_logit_softcapping")),
        "final_logit_softcapping": bool(config.get("final_logit_softcapping")),
        "use_bidirectional_attention": bool(config.get("use_bidirectional_attention")),
        "quantization_config (load the unquantised weights)": bool(config.get("quantization_config")),
        "partial_rotary_factor": config.get("partial_rotary_factor") not in (None, 1, 1.0),
    }
    found = [feature for feature, present in refused.items() if present]
    if found:
        raise UserError(f"this {name} model uses what the decoder does not have: {'; '.join(found)}")


def _refuse_rope(config: Mapping[str, Any]) -> None:
    """Raise ValueError for rope settings of single kinds of layers, or under names that other models use."""
    for where in ROPE_OBJECTS:
        held = config.get(where)
        layers = (
            [name for name, value in held.items() if isinstance(value, Mapping)] if isinstance(held, Mapping) else []
        )
        if layers:
            wanted = "wanted one rope for all layers: {'rope_theta': ..., 'rope_type': ...}"
            raise UserError(f"config.json has {where} of single layers ({', '.join(map(str, layers))}); {wanted}")
    known, theta = (*ROPE_OBJECTS, *ROPE_BESIDE), config.get("rope_theta")
    for name, value in config.items():
        says_nothing = value is None or value is False or (value == theta and not isinstance(value, bool))
        if ROPE_NAME.search(name) and name not in known and not says_nothing:
            todo = f"wanted it as rope_theta or in rope_parameters, or without it ({', '.join(known)} are read)"
            raise UserError(f"config.json has {name} = {show(value)}, which the decoder does not have; {todo}")


def _agreed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Merge the config's objects of rope settings. ValueError if one setting has two values under its names.

    transformers 4 and 5 write them under different names, and each takes one of them silently.
    """
    given = {where: config.get(where) for where in ROPE_OBJECTS}
    parts = {where: part for where, part in given.items() if isinstance(part, Mapping)}
    said = [(where, str(name), value) for where, part in parts.items() for name, value in part.items()]
    said += [("", name, config.get(name)) for name in ROPE_BESIDE]
    seen: dict[str, tuple[str, object]] = {}
    for where, name, value in said:
        if value is None:
            continue
        place = f"{where}.{name}" if where else name
        first, other = seen.setdefault("rope_type" if name == "type" else name, (place, value))
        if first != place and other != value:
            both = f"{first} = {show(other)} and {place} = {show(value)}"
            raise UserError(
                f"config.json has {both}; wanted one value: keep the one that the weights were trained with"
            )
    both = {name: value for part in parts.values() for name, value in part.items() if value is not None}
    return {**config, "rope_parameters": both, "rope_scaling": None} if len(parts) > 1 else config


def _rope(whole: Mapping[str, Any]) -> tuple[float, tuple[tuple[str, object], ...]]:
    """Read theta and the scaling from `rope_parameters`."""
    found = whole["rope_parameters"]
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        raise UserError(f"config.json has rope_parameters = {show(found)}; wanted an object")
    settings = dict(found)
    theta = number(settings.pop("rope_theta", None), "rope_theta", above=1, most=1e12)
    kind = settings.pop("rope_type", "default")
    settings.pop("type", None)  # the older name
    if kind not in ROPE_KINDS or settings.pop("partial_rotary_factor", 1.0) not in (None, 1, 1.0):
        raise UserError(f"rope settings {show(settings | {'rope_type': kind})} are not supported; kinds: {ROPE_KINDS}")
    if kind == "default":
        unused = {name: value for name, value in settings.items() if name not in ROPE_BESIDE and value is not None}
        if unused and unused != {"factor": 1}:
            todo = f"wanted a rope_type beside them ({', '.join(ROPE_KINDS[1:])}), or none of them"
            raise UserError(f"config.json has rope settings {show(unused)} and no rope_type that uses them; {todo}")
        return theta, ()
    if kind in ("llama3", "yarn"):
        original = whole.get("original_max_position_embeddings")
        settings.setdefault("original_max_position_embeddings", whole["max_position_embeddings"])
        settings |= {"original_max_position_embeddings": original} if original else {}
    odd = {key: value for key, value in settings.items() if not isinstance(value, int | float | str | None)}
    if odd:
        raise UserError(f"rope settings {show(odd)} of kind {kind!r} are not plain numbers")
    return theta, tuple(sorted((settings | {"rope_type": kind}).items()))
