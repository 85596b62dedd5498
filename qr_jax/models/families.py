"""Shapes of decoders: sizes and switches of Qwen3, Qwen2.5, Llama, Mistral and Gemma 3 models, and named presets."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from qr_jax.errors import UserError
from qr_jax.models import hub
from qr_jax.run.json_files import number
from qr_jax.settings.settings import show

ROPE_KINDS = ("default", "linear", "llama3", "yarn")
SLIDING, FULL = "sliding_attention", "full_attention"
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
# What the published config.json of Gemma 3's 4B leaves to transformers' class.
UNSAID = {"vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
UNSAID |= {"max_position_embeddings": 131_072}


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
    """Return the shape that a Hugging Face config.json describes, with all else as transformers fills it in.

    Of a Gemma 3 with a vision tower it is that of the text part. A ValueError names the architecture or feature that
    this decoder does not have (sliding windows, biases that the family lacks, other activations, quantised weights),
    and any size that is missing or out of bounds.
    """
    config = _text_part(config)
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(f"model_type {show(name)} is not supported; supported: {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    named = config.get("architectures") or [family.architecture]
    if named not in ([family.architecture], (family.architecture,)):
        raise UserError(f"architectures {show(named)} is not supported for {name}; wanted {[family.architecture]}")
    for key in SAID:
        _size(config, key)
    whole = hub.described(config)
    _refuse_features(whole, name)
    rope, heads = whole["rope_parameters"], _size(whole, "num_attention_heads")
    theta, scaling = _rope(rope.get(FULL) if family.gemma3 else rope, whole)
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
    if family.gemma3:
        sliding_theta, scaled = _rope(rope.get(SLIDING), whole)
        kinds = whole["layer_types"]
        if scaled or not {*kinds} <= {SLIDING, FULL}:
            told = f"layer_types {show(sorted({*kinds}))} and the rope {show(rope[SLIDING])} of {SLIDING!r}"
            raise UserError(f"config.json has {told}; wanted {SLIDING!r} and {FULL!r}, and no scaled rope of the first")
        cfg = replace(
            cfg,
            gemma3=True,
            sliding=tuple(kind == SLIDING for kind in kinds),
            window=_size(whole, "sliding_window"),
            sliding_theta=sliding_theta,
            query_scalar=_size(whole, "query_pre_attn_scalar"),
        )
    check(cfg)
    return cfg


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the text part of a Gemma 3 with a vision tower as if it were a model's config.json; all others as is."""
    if config.get("model_type") != "gemma3":
        return config
    named, text = config.get("architectures"), config.get("text_config")
    if named not in (None, ["Gemma3ForConditionalGeneration"]):
        raise UserError(f"architectures {show(named)} is not supported for gemma3")
    if not isinstance(text, Mapping):
        raise UserError(f"config.json has text_config = {show(text)}; wanted an object, the text part's settings")
    beside = {name: config[name] for name in ("quantization_config", "tie_word_embeddings") if name in config}
    return {**UNSAID, **text, "model_type": text.get("model_type", "gemma3_text"), "architectures": None, **beside}


def check(cfg: ModelConfig) -> None:
    """Raise ValueError if the heads do not divide, or a head is not made of pairs."""
    if cfg.heads % cfg.kv_heads:
        raise UserError(f"{cfg.heads} heads do not share {cfg.kv_heads} key/value heads evenly")
    if cfg.head_dim % 2:
        raise UserError(f"head_dim {cfg.head_dim} is odd; rotary embeddings turn pairs of channels")


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    size = default if config.get(key) is None else config[key]
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST[key]:
        raise UserError(f"config.json has {key} = {show(size)}; wanted a whole number from 1 to {LARGEST[key]}")
    return size


def _refuse_features(config: Mapping[str, Any], name: str) -> None:
    family, kinds = FAMILIES[name], config.get("layer_types") or []
    windows = "sliding windows" + ' (where its attention is whole, write "sliding_window": null)' * family.windowed
    slides = config.get("use_sliding_window", family.windowed and config.get("sliding_window"))
    act, wanted = family.activation
    refused = {
        windows: not family.gemma3 and (bool(slides) or any(kind != FULL for kind in kinds)),
        "attention_bias": bool(config.get("attention_bias")) and not family.qkv_bias,
        "mlp_bias": bool(config.get("mlp_bias")),
        f"{act} {show(config.get(act))} (wanted {wanted!r})": config.get(act, wanted) != wanted,
        "attn_logit_softcapping": bool(config.get("attn_logit_softcapping")),
        "final_logit_softcapping": bool(config.get("final_logit_softcapping")),
        "use_bidirectional_attention": bool(config.get("use_bidirectional_attention")),
        "quantization_config (load the unquantised weights)": bool(config.get("quantization_config")),
        "partial_rotary_factor": config.get("partial_rotary_factor") not in (None, 1, 1.0),
    }
    features = [feature for feature, present in refused.items() if present]
    if features:
        raise UserError(f"this {name} model uses what the decoder does not have: {'; '.join(features)}")


def _rope(given: Any, whole: Mapping[str, Any]) -> tuple[float, tuple[tuple[str, object], ...]]:
    """Return theta and scaling of a kind of layers, from its `rope_parameters`."""
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise UserError(f"config.json has rope_parameters = {show(given)}; wanted an object")
    settings = dict(given)
    theta = number(settings.pop("rope_theta", None), "rope_theta", above=1, most=1e12)
    kind = settings.pop("rope_type", "default")
    settings.pop("type", None)  # the older name
    if kind not in ROPE_KINDS or settings.pop("partial_rotary_factor", 1.0) not in (None, 1, 1.0):
        raise UserError(f"rope settings {show(settings | {'rope_type': kind})} are not supported; kinds: {ROPE_KINDS}")
    if kind == "default":
        return theta, ()
    if kind in ("llama3", "yarn"):
        original = whole.get("original_max_position_embeddings")
        settings.setdefault("original_max_position_embeddings", whole["max_position_embeddings"])
        settings |= {"original_max_position_embeddings": original} if original else {}
    odd = {key: value for key, value in settings.items() if not isinstance(value, int | float | str | None)}
    if odd:
        raise UserError(f"rope settings {show(odd)} of kind {kind!r} are not plain numbers")
    return theta, tuple(sorted((settings | {"rope_type": kind}).items()))
