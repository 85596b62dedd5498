"""Gemma 3's config.json: its text part, its sliding layers and its two ropes (Gemma Team 2025, arXiv:2503.19786)."""

from collections.abc import Mapping, Sequence
from typing import Any

from qr_jax.errors import UserError
from qr_jax.run.json_files import number
from qr_jax.settings.settings import show

SLIDING, FULL = "sliding_attention", "full_attention"
# What the 4B's published config.json leaves to transformers' class.
UNSAID = {"vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
UNSAID |= {"max_position_embeddings": 131_072}
OF_ALL = ("quantization_config", "tie_word_embeddings")  # which stand beside the text part
THETA, SLIDING_THETA = 1_000_000.0, 10_000.0  # where the file names none


def has_vision(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is that of a Gemma 3 with a vision tower."""
    return config.get("model_type") == "gemma3"


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a config.json, or the text part of a Gemma 3's with a vision tower as if it were one."""
    if not has_vision(config):
        return config
    named, text = config.get("architectures"), config.get("text_config")
    if named not in (None, ["Gemma3ForConditionalGeneration"]):
        raise UserError(f"architectures {show(named)} is not supported for gemma3")
    if not isinstance(text, Mapping):
        raise UserError(f"config.json has text_config = {show(text)}; wanted an object, the text part's settings")
    beside = {name: config[name] for name in OF_ALL if name in config}
    return {**UNSAID, **text, "model_type": text.get("model_type", "gemma3_text"), "architectures": None, **beside}


def sliding_layers(kinds: Sequence[Any]) -> tuple[bool, ...]:
    """Return for each layer whether it slides. ValueError for other kinds of layers; their number is checked by
    transformers.
    """
    odd = [kind for kind in kinds if kind not in (SLIDING, FULL)]
    if odd:
        raise UserError(f"config.json has layer_types {show(odd)}; wanted {SLIDING!r} or {FULL!r} of each")
    return tuple(kind == SLIDING for kind in kinds)


def split_rope(config: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Return the sliding layers' theta, and the config with the other layers' rope alone, as other families write it.

    transformers 4 writes rope_theta, rope_scaling and rope_local_base_freq, and 5 `rope_parameters` by kind of layer.
    ValueError where the two disagree, and for sliding layers whose rope is scaled.
    """
    held, theta = config.get("rope_parameters"), config.get("rope_local_base_freq")
    rest = {name: value for name, value in config.items() if name != "rope_local_base_freq"}
    if isinstance(held, Mapping) and (SLIDING in held or FULL in held):
        own = held.get(SLIDING)
        own = {} if own is None else own
        is_plain = isinstance(own, Mapping) and own.get("rope_type", "default") == "default"
        if not held.keys() <= {SLIDING, FULL} or not is_plain or not own.keys() <= {"rope_type", "rope_theta"}:
            wanted = f"wanted {FULL!r}, and of {SLIDING!r} rope_theta alone"
            raise UserError(f"config.json has rope_parameters = {show(held)}; {wanted}")
        also = own.get("rope_theta")
        if None not in (theta, also) and theta != also:
            both = f"rope_local_base_freq = {show(theta)} and rope_parameters.{SLIDING}.rope_theta = {show(also)}"
            raise UserError(
                f"config.json has {both}; wanted one value: keep the one that the weights were trained with"
            )
        theta = also if theta is None else theta
        rest["rope_parameters"] = held.get(FULL)
    theta = SLIDING_THETA if theta is None else theta
    return number(theta, "rope_local_base_freq", above=1, most=1e12), rest
