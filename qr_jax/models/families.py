"""What a decoder looks like: sizes and switches of Qwen3, Qwen2.5 and Llama models, and named presets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

ROPE_KINDS = ("default", "linear", "llama3", "yarn")
ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}
LARGEST = {"num_hidden_layers": 1024, "head_dim": 4096, "num_attention_heads": 4096, "num_key_value_heads": 4096}
LARGEST |= {"vocab_size": 2**24, "hidden_size": 2**20, "intermediate_size": 2**22, "max_position_embeddings": 2**31}


@dataclass(frozen=True)
class ModelConfig:
    """Shape of one decoder. `rope_scaling`: sorted items of the Hugging Face config's dict, hashable; () for none."""

    family: Literal["qwen3", "qwen2", "llama"]
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

    @property
    def qk_norm(self) -> bool:
        return self.family == "qwen3"

    @property
    def qkv_bias(self) -> bool:
        return self.family == "qwen2"


# Sizes as published in each model's config.json; `quickstart` has 0.37M parameters with its world's 434 words.
PRESETS: dict[str, ModelConfig] = {
    "two_layer": ModelConfig("qwen3", 512, 32, 2, 4, 2, 8, 64, context_tokens=512),
    "quickstart": ModelConfig("qwen3", 434, 96, 3, 4, 4, 24, 256, context_tokens=512, norm_eps=1e-5),
    "smollm2_135m": ModelConfig("llama", 49152, 576, 30, 9, 3, 64, 1536, 8192, rope_theta=1e5, norm_eps=1e-5),
    "qwen3_0p6b": ModelConfig("qwen3", 151936, 1024, 28, 16, 8, 128, 3072, 40960, rope_theta=1e6),
    "qwen3_1p7b": ModelConfig("qwen3", 151936, 2048, 28, 16, 8, 128, 6144, 40960, rope_theta=1e6),
    "qwen3_4b": ModelConfig("qwen3", 151936, 2560, 36, 32, 8, 128, 9728, 40960, rope_theta=1e6),
    "qwen2p5_1p5b": ModelConfig("qwen2", 151936, 1536, 28, 12, 2, 128, 8960, 32768, rope_theta=1e6),
}


def with_vocab(cfg: ModelConfig, vocab: int) -> ModelConfig:
    """The same model over another vocabulary."""
    return replace(cfg, vocab=vocab)


def parameter_count(cfg: ModelConfig) -> int:
    """Number of parameters; tied embeddings count once."""
    query, keys = cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
    layer = 2 * cfg.width + cfg.width * (2 * query + 2 * keys) + 3 * cfg.width * cfg.mlp
    layer += (query + 2 * keys) * cfg.qkv_bias + 2 * cfg.head_dim * cfg.qk_norm
    return cfg.vocab * cfg.width * (1 if cfg.tied else 2) + cfg.layers * layer + cfg.width


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
    """The shape a Hugging Face config.json describes, as transformers 4 or 5 writes it.

    A ValueError names the architecture or feature that this decoder does not have (sliding windows, biases that the
    family lacks, other activations, quantised weights), and any size that is missing or out of bounds.
    """
    family = config.get("model_type")
    if family not in ARCHITECTURES:
        raise ValueError(f"model_type {family!r} is not supported; supported: {', '.join(ARCHITECTURES)}")
    named = list(config.get("architectures") or [ARCHITECTURES[family]])
    if named != [ARCHITECTURES[family]]:
        raise ValueError(f"architectures {named} is not supported for {family}; wanted {[ARCHITECTURES[family]]}")
    _refuse_features(config, family)
    width, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    head_dim = config.get("head_dim") or (128 if family == "qwen3" else width // heads)  # Qwen3's own default is 128
    context = _size(config, "max_position_embeddings")
    theta, scaling = _rope(config, context)
    cfg = ModelConfig(
        family=family,
        vocab=_size(config, "vocab_size"),
        width=width,
        layers=_size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=_size(config, "num_key_value_heads", heads),
        head_dim=_size({"head_dim": head_dim}, "head_dim"),
        mlp=_size(config, "intermediate_size"),
        context_tokens=context,
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        tied=bool(config.get("tie_word_embeddings", False)),  # absent means untied in all three families
    )
    check(cfg)
    return cfg


def check(cfg: ModelConfig) -> None:
    """ValueError when the heads do not divide, or a head is not made of pairs."""
    if cfg.heads % cfg.kv_heads:
        raise ValueError(f"{cfg.heads} heads do not share {cfg.kv_heads} key/value heads evenly")
    if cfg.head_dim % 2:
        raise ValueError(f"head_dim {cfg.head_dim} is odd; rotary embeddings turn pairs of channels")


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    found = default if config.get(key) is None else config[key]
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= LARGEST[key]:
        raise ValueError(f"config.json has {key} = {found!r}; wanted a whole number from 1 to {LARGEST[key]}")
    return found


def _refuse_features(config: Mapping[str, Any], family: str) -> None:
    refused = {
        "sliding windows": bool(config.get("use_sliding_window"))
        or any(kind != "full_attention" for kind in config.get("layer_types") or ()),
        "attention_bias": bool(config.get("attention_bias")) and family != "qwen2",
        "mlp_bias": bool(config.get("mlp_bias")),
        f"hidden_act {config.get('hidden_act')!r} (wanted 'silu')": config.get("hidden_act", "silu") != "silu",
        "quantization_config (load the unquantised weights)": bool(config.get("quantization_config")),
        "partial_rotary_factor": config.get("partial_rotary_factor") not in (None, 1, 1.0),
    }
    found = [feature for feature, present in refused.items() if present]
    if found:
        raise ValueError(f"this {family} model uses what the decoder does not have: {'; '.join(found)}")


def _rope(config: Mapping[str, Any], context: int) -> tuple[float, tuple[tuple[str, object], ...]]:
    """Theta and scaling from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (transformers 4)."""
    settings = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    theta = settings.pop("rope_theta", None) or config.get("rope_theta") or 10_000.0
    old_name = settings.pop("type", None)
    kind = settings.pop("rope_type", None) or old_name or "default"
    if kind not in ROPE_KINDS or settings.pop("partial_rotary_factor", 1.0) not in (None, 1, 1.0):
        raise ValueError(f"rope settings {settings | {'rope_type': kind}} are not supported; kinds: {ROPE_KINDS}")
    if kind == "default":
        return float(theta), ()
    if kind in ("llama3", "yarn"):
        original = config.get("original_max_position_embeddings")
        settings.setdefault("original_max_position_embeddings", context)
        settings |= {"original_max_position_embeddings": original} if original else {}
    odd = {key: value for key, value in settings.items() if not isinstance(value, int | float | str | None)}
    if odd:
        raise ValueError(f"rope settings {odd} of kind {kind!r} are not plain numbers")
    return float(theta), tuple(sorted((settings | {"rope_type": kind}).items()))


def to_hf(cfg: ModelConfig, *, eos_ids: Sequence[int], pad_id: int, dtype: str = "float32") -> dict[str, Any]:
    """The config.json of this model. Rope settings are written transformers 4's way, which 5 and vLLM read too."""
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[cfg.family]],
        "model_type": cfg.family,
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_dim,
        "intermediate_size": cfg.mlp,
        "hidden_act": "silu",
        "max_position_embeddings": cfg.context_tokens,
        "rope_theta": cfg.rope_theta,
        "rope_scaling": dict(cfg.rope_scaling) or None,
        "rms_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tied,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": list(eos_ids),
        "pad_token_id": pad_id,
        "dtype": dtype,
        "torch_dtype": dtype,  # the older name, for transformers before 4.56
    }
    if cfg.family != "qwen2":  # Qwen2's attention has its biases without a switch
        config["attention_bias"] = False
    return config
