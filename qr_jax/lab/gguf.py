"""Models in GGUF files, read by the `gguf` package: shape and weights in our tree, and the tokenizer they carry."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from qr_jax.errors import UserError
from qr_jax.models import families, layout, rope
from qr_jax.models.families import ModelConfig
from qr_jax.models.layout import Params
from qr_jax.models.tokenizer import KIND, FastTokenizer
from qr_jax.settings.settings import show

T = TypeVar("T")
KINDS = {str: "a text", int: "a whole number", float: "a number with a point", list: "a list of texts"}
ROW_BLOCKS = 256  # of a row at most: the package takes 16 rows at a time, and each time costs
# What the package raises for a file that is none, or cut short.
NOT_AS_WRITTEN = (ValueError, LookupError, TypeError, OSError, OverflowError, MemoryError)
SIZES = ("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size")
READ = (*SIZES, "rope.freq_base", "rope.scaling.type")  # of a family's metadata; all else is a feature
READ += tuple(f"attention.{name}" for name in ("head_count", "head_count_kv", "key_length", "layer_norm_rms_epsilon"))
# How text is cut before byte-level BPE, by tokenizer.ggml.pre. Qwen's pattern is that of its published tokenizer.json.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS: dict[str, list[dict[str, Any]]] = {
    "smollm": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
    "qwen2": [
        {"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
    ],
}


class File(NamedTuple):
    """An opened file: metadata by key, and the package's tensors by name."""

    name: str
    metadata: dict[str, Any]
    tensors: dict[str, Any]

    def need(self, key: str, kind: type[T]) -> T:
        """Return the metadata of that key. ValueError where there are none, or they are of another type."""
        if key not in self.metadata:
            raise UserError(f"{self.name} lacks the metadata {key!r}")
        found = self.metadata[key]
        if type(found) is not kind:
            raise UserError(f"{self.name} has a {type(found).__name__} for the metadata {key!r}; wanted {KINDS[kind]}")
        return found

    def get(self, key: str, kind: type[T]) -> T | None:
        """Return the metadata of that key, None where there are none. ValueError where they are of another type."""
        return self.need(key, kind) if key in self.metadata else None


def read_header(path: str | os.PathLike[str]) -> File:
    """Return metadata and tensors, nothing dequantised. ValueError for a file that the package does not read."""
    from gguf import GGUFReader  # its import takes a second

    path = Path(path)
    try:
        reader = GGUFReader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    except NOT_AS_WRITTEN as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise UserError(f"{path.name} is no whole GGUF file of version 2 or 3 ({reason}); fetch it again") from error
    return File(path.name, metadata, tensors)


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Return a tensor's shape, slowest axis first; the format writes the fastest first."""
    return tuple(int(size) for size in reversed(tensor.shape))


def dequantise(file: File, name: str) -> np.ndarray:
    """Return the tensor in float32. ValueError for a kind of block that the package cannot read."""
    from gguf import GGML_QUANT_SIZES, dequantize

    tensor = file.tensors[name]
    raw, (_, block_bytes) = tensor.data, GGML_QUANT_SIZES[tensor.tensor_type]
    if raw.dtype == np.uint8:
        blocks = raw.size // block_bytes
        raw = raw.reshape(-1, math.gcd(blocks, ROW_BLOCKS) * block_bytes)
    try:
        return np.asarray(dequantize(raw, tensor.tensor_type), np.float32).reshape(shape_of(tensor))
    except NotImplementedError as error:
        kind = tensor.tensor_type.name
        raise UserError(f"tensor {name!r} of {file.name} has type {kind}, which is not read: requantise it") from error


def shape(path: str | os.PathLike[str]) -> ModelConfig:
    """Return the shape of the model that the file's metadata describes."""
    return _config(read_header(path))


def load(path: str | os.PathLike[str], dtype: Any = np.float32) -> tuple[ModelConfig, Params]:
    """Read shape and parameters of a llama, qwen2 or qwen3 file; without an output.weight embeddings are tied."""
    file = read_header(path)
    cfg = _config(file)
    rope.frequencies(cfg)
    family = file.need("general.architecture", str)
    theirs = names(family, cfg)
    # llama.cpp interleaves the halves of each head of these, for its own rope
    heads = {"q_proj.weight": cfg.heads, "k_proj.weight": cfg.kv_heads} if families.FAMILIES[family].interleaved else {}
    wanted = {theirs[name]: shape for name, shape in layout.expected(cfg).items()}
    layout.check_tensors(file.name, wanted, {name: shape_of(tensor) for name, tensor in file.tensors.items()})

    def give(name: str) -> np.ndarray:
        array = dequantise(file, theirs[name])
        count = heads.get(".".join(name.split(".")[-2:]))
        if count is None:
            return array
        return array.reshape(count, cfg.head_dim // 2, 2, -1).swapaxes(1, 2).reshape(array.shape)

    return cfg, layout.assemble(cfg, give, dtype)


def names(family: str, cfg: ModelConfig) -> dict[str, str]:
    """Return the file's name of each tensor, by its Hugging Face name. ValueError for a family that GGUF lacks."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    known = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
    if family not in known:
        raise UserError(f"GGUF has no architecture {family!r}")
    theirs = get_tensor_name_map(known[family], cfg.layers)
    return {name: theirs.get_name(name, (".weight", ".bias")) or name for name in layout.expected(cfg)}


def _config(file: File) -> ModelConfig:
    family = file.need("general.architecture", str)
    scaling = file.get(f"{family}.rope.scaling.type", str) or "none"
    if scaling != "none":
        raise UserError(f"{file.name} scales its rope ({scaling!r}), which is not read from GGUF; use the safetensors")
    heads, width = (file.need(f"{family}.{name}", int) for name in ("attention.head_count", "embedding_length"))
    eps = file.need(f"{family}.attention.layer_norm_rms_epsilon", float)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or not heads:
        raise UserError(f"{file.name} has no token_embd.weight, or its heads {heads} are none")
    head = file.get(f"{family}.attention.key_length", int) or width // heads
    _refuse_unread(file, family, {f"{family}.rope.dimension_count": head, f"{family}.attention.value_length": head})
    described = {
        "model_type": family,
        "vocab_size": shape_of(embedding)[0],
        "hidden_size": width,
        "num_hidden_layers": file.need(f"{family}.block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": file.get(f"{family}.attention.head_count_kv", int),
        "head_dim": head,
        "intermediate_size": file.need(f"{family}.feed_forward_length", int),
        "max_position_embeddings": file.need(f"{family}.context_length", int),
        "rope_theta": file.get(f"{family}.rope.freq_base", float),
        "rms_norm_eps": float(f"{eps:.6g}"),  # float32 there: 9.99999975e-06
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    return families.from_hf({key: value for key, value in described.items() if value is not None})


def _refuse_unread(file: File, family: str, wanted: Mapping[str, int]) -> None:
    """Raise ValueError for a feature of the model that is not read here (windows, experts, caps), and is not off."""
    for key, found in file.metadata.items():
        if key in wanted and found != wanted[key]:
            raise UserError(f"{file.name} has {key} = {show(found)}; wanted {wanted[key]}, a head's whole width")
        off = isinstance(found, (int, float)) and (not found or (key.endswith("factor") and found == 1))
        unread = key.startswith(f"{family}.") and key.removeprefix(f"{family}.") not in READ and key not in wanted
        if unread and not off:
            raise UserError(f"{file.name} has {key} = {show(found)}, which is not read from GGUF; use the safetensors")


def tokenizer(path: str | os.PathLike[str]) -> FastTokenizer:
    """Return the byte-level BPE tokenizer that the file carries, with its chat template."""
    file = read_header(path)
    model = file.need("tokenizer.ggml.model", str)
    cut = file.get("tokenizer.ggml.pre", str) or ""  # older files have none
    if model != "gpt2" or cut not in CUTS:
        raise UserError(
            f"{file.name} has tokenizer {model!r} with pre-tokenizer {cut!r}; read are gpt2 with {list(CUTS)}. Give "
            "the folder with the same model's tokenizer.json: model.tokenizer=FOLDER"
        )
    tokens = file.need("tokenizer.ggml.tokens", list)
    settings: dict[str, Any] = dict(KIND)
    for role, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")):
        at = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if type(at) is int and 0 <= at < len(tokens):
            settings[role] = tokens[at]
    template = file.get("tokenizer.chat_template", str)
    return FastTokenizer(json.dumps(_describe(file, tokens, cut)), settings, template=template)


def _describe(file: File, tokens: list[str], cut: str) -> dict[str, Any]:
    """Return the tokenizer.json of the file's tokens and merges."""
    kinds = np.asarray(file.metadata.get("tokenizer.ggml.token_type", np.ones(len(tokens)))).ravel().tolist()
    if len(kinds) != len(tokens) or len(set(tokens)) != len(tokens):
        counts = f"{len(tokens)} tokens, {len(set(tokens))} of them different, and {len(kinds)} types of tokens"
        raise UserError(f"{file.name} has {counts}; wanted different tokens with a type each: fetch it again")
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [  # 3: control, 4: user-defined
        plain | {"id": at, "content": token, "special": kind == 3}
        for at, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (3, 4)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if cut == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": CUTS[cut]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
            **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
            "vocab": {token: at for at, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in file.need("tokenizer.ggml.merges", list)],
        },
    }
