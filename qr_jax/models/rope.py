"""Rotary embedding frequencies: how fast each pair of a head's channels turns with the position."""

import math
from typing import Any

import numpy as np

from qr_jax.errors import UserError
from qr_jax.models.families import ROPE_KINDS, ModelConfig
from qr_jax.run.json_files import number


def frequencies(cfg: ModelConfig, *, sliding: bool = False) -> tuple[np.ndarray, float]:
    """Return inverse frequencies float32 [head_dim / 2] and the factor on cosine and sine, as `transformers` 5 computes
    them; `sliding`: those of the layers that slide, which have a theta of their own and are not scaled.

    Kinds of `rope_scaling`: default (or none), linear, llama3, yarn (Peng et al. 2023, arXiv:2309.00071).
    A ValueError names any other kind, or the entry that a kind lacks.
    """
    settings: dict[str, Any] = {} if sliding else dict(cfg.rope_scaling)
    kind, theta = settings.get("rope_type", "default"), cfg.sliding_theta if sliding else cfg.rope_theta
    exponent = np.arange(0, cfg.head_dim, 2, dtype=np.float32) / np.float32(cfg.head_dim)
    inverse = (np.float32(1.0) / np.float32(theta) ** exponent).astype(np.float32)
    if kind == "default":
        return inverse, 1.0
    if kind == "linear":
        return inverse / np.float32(_need(settings, "factor", kind)), 1.0
    if kind == "llama3":
        return _llama3(inverse, settings), 1.0
    if kind == "yarn":
        return _yarn(cfg, inverse, settings)
    raise UserError(f"rope_type {kind!r} is not supported; supported: {', '.join(ROPE_KINDS)}")


def _need(settings: dict[str, Any], key: str, kind: str) -> float:
    value = _given(settings, key)
    if value is None:
        raise UserError(f"rope_type {kind!r} needs {key!r}; the config has only {', '.join(sorted(settings))}")
    return value


def _given(settings: dict[str, Any], key: str) -> float | None:
    """Return the number of that name; None where it is absent, none or 0."""
    return number(settings[key], key, above=1e-9, most=1e12) if settings.get(key) else None


def _llama3(inverse: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Stretch long waves by `factor`, keep short ones, blend those between (Llama 3.1's published rule)."""
    factor, low, high, context = (
        _need(settings, key, "llama3")
        for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    if low >= high:
        raise UserError(f"rope_type 'llama3' has low_freq_factor {low} and high_freq_factor {high}; wanted low < high")
    wave = np.float32(2 * math.pi) / inverse
    smooth = (np.float32(context) / wave - np.float32(low)) / np.float32(high - low)
    blended = (1 - smooth) * inverse / np.float32(factor) + smooth * inverse
    stretched = np.where(wave > context / low, inverse / np.float32(factor), blended)
    return np.where(wave < context / high, inverse, stretched).astype(np.float32)


def _magnitude(scale: float, weight: float = 1.0) -> float:
    return 1.0 if scale <= 1 else 0.1 * weight * math.log(scale) + 1.0


def _yarn(cfg: ModelConfig, inverse: np.ndarray, settings: dict[str, Any]) -> tuple[np.ndarray, float]:
    """Return YaRN's inverse frequencies and factor of attention (arXiv:2309.00071, 3.2).

    Channels that turn often are kept, slow ones interpolated, with a linear ramp between.
    """
    context = _need(settings, "original_max_position_embeddings", "yarn")
    factor = _given(settings, "factor") or cfg.context_tokens / context
    scale = _given(settings, "attention_factor")
    if scale is None:
        mscale, all_dim = _given(settings, "mscale"), _given(settings, "mscale_all_dim")
        scale = _magnitude(factor, mscale) / _magnitude(factor, all_dim) if mscale and all_dim else _magnitude(factor)

    def channel(turns: float) -> float:
        """Return the channel that makes this many turns over the original context."""
        return cfg.head_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(cfg.rope_theta))

    low, high = channel(_given(settings, "beta_fast") or 32), channel(_given(settings, "beta_slow") or 1)
    if settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, cfg.head_dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(cfg.head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    return (inverse / np.float32(factor) * ramp + inverse * (1 - ramp)).astype(np.float32), scale
