"""A model written as a Hugging Face folder that transformers and vLLM load."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import tokenizers
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.numpy import save_file

from qr_jax.errors import UserError
from qr_jax.models import gemma3, layout
from qr_jax.models.families import FAMILIES, ModelConfig
from qr_jax.models.layout import Params
from qr_jax.models.tokenizer import KIND, RESERVED, FastTokenizer, Tokenizer, WordTokenizer
from qr_jax.run.json_files import write_json

SHARD_BYTES = 1_000_000_000  # of a file, all of whose tensors are in memory together


def save(
    folder: str | os.PathLike[str],
    cfg: ModelConfig,
    params: Params,
    tokenizer: Tokenizer,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config, weights (in shards of at most `shard_bytes`, but for a larger tensor) and tokenizer into a folder.

    ValueError when the folder already holds weights (a loader could mix the two), the tokenizer has ids beyond the
    embedding, or no Hugging Face family has the model's features.
    """
    folder = Path(folder)
    if tokenizer.size > cfg.vocab:
        raise UserError(f"the tokenizer has {tokenizer.size} ids, the model embeds {cfg.vocab}")
    if folder.is_dir() and list(folder.glob("*.safetensors*")):
        raise UserError(f"{folder.name} already holds weights; export to a new folder")
    parts, shapes = take_apart(cfg, params), layout.expected(cfg)
    config = to_hf(cfg, eos_ids=tokenizer.eos_ids, pad_id=tokenizer.pad_id, dtype=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    stored = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
    split = split_state_dict_into_shards_factory(
        shapes, get_storage_size=lambda shape: math.prod(shape) * stored.itemsize,
        filename_pattern="model{suffix}.safetensors", max_shard_size=shard_bytes,
    )  # fmt: skip
    for file, names in split.filename_to_tensors.items():
        tensors = {name: np.ascontiguousarray(parts[name](), stored) for name in names}
        save_file(tensors, folder / file, {"format": "pt"})  # transformers wants the word
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(folder / "model.safetensors.index.json", index)
    save_tokenizer(folder, tokenizer)
    write_json(folder / "config.json", config)


def to_hf(cfg: ModelConfig, *, eos_ids: Sequence[int], pad_id: int, dtype: str = "float32") -> dict[str, Any]:
    """Return the config.json of this model; ValueError when no family has its features.

    Rope settings are written transformers 4's way, which 5 and vLLM read too.
    """
    features = ("qk_norm", "qkv_bias", "gemma3")
    has = [getattr(cfg, name) for name in features]
    name = next((name for name, of in FAMILIES.items() if [getattr(of, name) for name in features] == has), None)
    if name is None:
        wanted = " and ".join(f"{name}={value}" for name, value in zip(features, has, strict=True))
        raise UserError(f"none of {', '.join(FAMILIES)} has {wanted}")
    act, of_mlp = FAMILIES[name].activation
    config: dict[str, Any] = {
        "architectures": [FAMILIES[name].architecture],
        "model_type": name,
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_dim,
        "intermediate_size": cfg.mlp,
        act: of_mlp,
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
    if not cfg.qkv_bias:  # Qwen2's attention has its biases without a switch
        config["attention_bias"] = False
    if cfg.gemma3:
        config |= {
            "query_pre_attn_scalar": cfg.query_scalar or cfg.head_dim,
            "sliding_window": cfg.window,
            "layer_types": [gemma3.SLIDING if slides else gemma3.FULL for slides in cfg.sliding],
            "rope_local_base_freq": cfg.sliding_theta,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        }
    return config


def take_apart(cfg: ModelConfig, params: Params) -> dict[str, Callable[[], np.ndarray]]:
    """Map each Hugging Face name to a function that returns the tensor; a ValueError names arrays of another shape."""
    parts: dict[str, Callable[[], np.ndarray]] = {}
    for name, place in layout.top_places(cfg).items():
        _check_shape(name, params.get(name), place.ours)
        parts[place.suffix] = lambda array=params[name]: np.asarray(array)
    for name, place in layout.layer_places(cfg).items():
        array = params["layers"].get(name)
        _check_shape(f"layers/{name}", array, (cfg.layers, *place.ours))
        for layer in range(cfg.layers):
            parts[f"model.layers.{layer}.{place.suffix}"] = lambda array=array, layer=layer, shape=place.theirs: (
                np.asarray(array[layer]).reshape(shape[::-1]).T
            )
    return parts


def _check_shape(name: str, array: Any, wanted: tuple[int, ...]) -> None:
    if array is None or tuple(array.shape) != wanted:
        found = "nothing" if array is None else tuple(array.shape)
        raise UserError(f"parameter {name!r} is {found}; the model's shape wants {wanted}")


def save_tokenizer(folder: str | os.PathLike[str], tokenizer: Tokenizer) -> None:
    """Write what `load_tokenizer` and transformers' PreTrainedTokenizerFast read back."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(tokenizer, WordTokenizer):
        return _save_words(folder, tokenizer)
    assert isinstance(tokenizer, FastTokenizer), "there are two"
    (folder / "tokenizer.json").write_text(tokenizer.described, encoding="utf-8")
    remote_code = ("chat_template", "auto_map")
    settings = {key: value for key, value in tokenizer.settings.items() if key not in remote_code}
    write_json(folder / "tokenizer_config.json", settings)
    if tokenizer.template is not None:
        (folder / "chat_template.jinja").write_text(tokenizer.template, encoding="utf-8")
    ends = {"eos_token_id": list(tokenizer.eos_ids), "pad_token_id": tokenizer.pad_id}
    write_json(folder / "generation_config.json", ends)


def _save_words(folder: Path, tokenizer: WordTokenizer) -> None:
    """Write words.json for us; for transformers a WordLevel tokenizer that splits at whitespace."""
    words = tokenizer.words
    write_json(folder / "words.json", {"words": list(words[len(RESERVED) :])})
    ids = {word: at for at, word in enumerate(words)}
    theirs = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unk>"))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    theirs.add_special_tokens(["<pad>", "<eos>"])
    theirs.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    write_json(folder / "tokenizer_config.json", KIND | names)
    write_json(folder / "generation_config.json", {"eos_token_id": [1], "pad_token_id": 0})
