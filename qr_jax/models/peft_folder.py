"""Reads and writes a PEFT adapter's folder: adapter_config.json and adapter_model.safetensors.

Names and shapes are those of Hugging Face's `peft`: `lora_A` [rank, inputs] and `lora_B` [outputs, rank] for each
matrix of each layer. In a model with a vision tower (Gemma 3 from 4B on) the layers' names have `language_model.`
before them; adapters of the tower itself are not read, for no image is.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from qr_jax import config
from qr_jax.errors import UserError
from qr_jax.models import layout, lora, safetensors_file
from qr_jax.models.families import HUB_NAMES, PRESETS, ModelConfig
from qr_jax.models.peft_files import COMPUTE, CONFIG, SHA256, WEIGHTS
from qr_jax.run.json_files import read_json, write_json
from qr_jax.settings.settings import few, show

# The values of PEFT's settings that mean a plain LoRA on an unchanged base. Any other value is refused, and so is a
# setting that is neither here nor in UNREAD, unless it is off: PEFT gets new kinds of adapters that change the base or
# the product.
OFF = (None, False, {}, [], "")
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
# What PEFT needs to train an adapter or find its files: no product depends on it. The first four are read elsewhere.
UNREAD = {
    "r", "lora_alpha", "target_modules", "base_model_name_or_path", "lora_dropout", "inference_mode", "revision",
    "task_type", "peft_version", "auto_mapping", "megatron_core", "qalora_group_size", "layers_pattern", "eva_config",
    "runtime_config",
}  # fmt: skip

TOWER = {"out_proj", "fc1", "fc2"}  # of a vision tower, which PEFT names where all-linear was asked for
PREFIX = "base_model.model."  # PEFT's, before a tensor's name in the model

log = logging.getLogger(__name__)


def check(folder: str | os.PathLike[str], cfg: ModelConfig, settings: config.Lora, name: str) -> None:
    """Raise ValueError unless the adapter is whole, of this model (`name`) and these settings; reads headers alone."""
    said, theirs = _read(folder)
    covered = {*lora.MATRICES[theirs.layers]} <= {*lora.MATRICES[settings.layers]}
    if not settings.rank or (theirs.rank, theirs.alpha) != (settings.rank, settings.alpha) or not covered:
        raise UserError(f"train.init={folder} {differ(theirs, settings)}")
    base, on_hub = said.get("base_model_name_or_path"), HUB_NAMES.get(name, name)
    if base != on_hub and _of_hub(base) and (_of_hub(on_hub) or on_hub in PRESETS):
        todo = f"set model={base}, or the adapter's base_model_name_or_path where they are the same weights"
        raise UserError(f"{folder} is an adapter of {base}, and model.name is {name}; {todo}")
    targets = said["target_modules"]
    _entries(Path(folder), cfg, settings, _modules(targets) if targets == "all-linear" else targets)


def _of_hub(name: Any) -> bool:
    return isinstance(name, str) and name.count("/") == 1 and not os.path.exists(name)


def differ(theirs: config.Lora, own: config.Lora) -> str:
    """Say how adapters differ from the settings, and what to set."""
    todo = f"model.lora.rank={theirs.rank} model.lora.alpha={theirs.alpha:g} model.lora.layers={theirs.layers}"
    ours = f"rank {own.rank}, alpha {own.alpha:g}, {own.layers}" if own.rank else "model.lora.rank is 0"
    return f"has adapters of rank {theirs.rank}, alpha {theirs.alpha:g}, {theirs.layers}; here {ours}: set {todo}"


def load(
    folder: str | os.PathLike[str], cfg: ModelConfig, settings: config.Lora, new: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return the folder's adapters, float32; a matrix without one keeps its fresh one from `new`, which adds 0."""
    entries, adapters = _entries(Path(folder), cfg, settings), {name: np.array(array) for name, array in new.items()}
    for name, layer, path in _paths(cfg, settings):
        keys = _keys(path)
        if keys[0] in entries:
            a, b = (np.asarray(safetensors_file.read(entries[key]), np.float32) for key in keys)
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                raise UserError(f"{folder}: {keys[0]} or its B has numbers that are not finite; fetch it again")
            adapters[f"{name}_a"][layer] = a.T.reshape(adapters[f"{name}_a"].shape[1:])
            adapters[f"{name}_b"][layer] = b.T.reshape(adapters[f"{name}_b"].shape[1:])
    return adapters


def check_base(folder: str | os.PathLike[str], sha256_in: Callable[[str], str], name: str) -> None:
    """Raise ValueError if the file records its base's SHA-256 (ours do) and this run's has another in its dtype.

    `sha256_in`: a dtype -> the hash of this run's base in it. Without a hash a base that is not `name` (model.name) is
    logged.
    """
    with safetensors.safe_open(Path(folder) / WEIGHTS, "np") as file:
        said = file.metadata() or {}
    if SHA256 in said and COMPUTE in said:
        if said[SHA256] != (sha256 := sha256_in(said[COMPUTE])):
            both = f"{folder} is an adapter of a base {said[SHA256][:16]}, this run's is {sha256[:16]} (SHA-256)"
            raise UserError(f"{both}: set model.name, or train.init, to what it was trained on")
    elif (base := _read(folder)[0].get("base_model_name_or_path")) not in (name, HUB_NAMES.get(name, name)):
        of = base or "a base that it does not name"
        log.warning("%s is an adapter of %s; whether model.name=%s has its weights is not known", folder, of, name)


def save(
    folder: str | os.PathLike[str],
    cfg: ModelConfig,
    settings: config.Lora,
    adapters: Mapping[str, Any],
    *,
    base: str | None,
    base_sha256: str,
    compute: str,
    has_vision: bool = False,
) -> None:
    """Write adapters as PEFT reads them, the scale not in B.

    `base`: its name on the hub, if it has one; `has_vision`: whether it has a vision tower there.
    """
    folder, tensors, paths = Path(folder), {}, list(_paths(cfg, settings, has_vision))
    for name, layer, path in paths:
        for side, key in zip(("a", "b"), _keys(path), strict=True):
            array = np.asarray(adapters[f"{name}_{side}"][layer], np.float32)
            array = array.reshape(-1, settings.rank) if side == "a" else array.reshape(settings.rank, -1)
            tensors[key] = np.ascontiguousarray(array.T)
    alpha = int(settings.alpha) if settings.alpha.is_integer() else settings.alpha
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, {"format": "pt", SHA256: base_sha256, COMPUTE: compute})
    described = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True,
        "r": settings.rank, "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none",
        # a tower's matrices have the same last names, and would get adapters too
        "target_modules": [path for *_, path in paths] if has_vision else list(_modules(settings.layers)),
    }  # fmt: skip
    write_json(folder / CONFIG, described)


def _modules(layers: str) -> dict[str, str]:
    """Map the last names of the adapted matrices in Hugging Face's model to ours."""
    return {f"{name}_proj": name for name in lora.MATRICES[layers]}


def _paths(cfg: ModelConfig, settings: config.Lora, has_vision: bool = False) -> Iterator[tuple[str, int, str]]:
    """Yield each adapted matrix of each layer: our name, the layer, and its path in Hugging Face's model."""
    stack = "model.language_model.layers" if has_vision else "model.layers"
    for name in lora.MATRICES[settings.layers]:
        module = layout.layer_places(cfg)[name].suffix.removesuffix(".weight")
        for layer in range(cfg.layers):
            yield name, layer, f"{stack}.{layer}.{module}"


def _keys(path: str) -> tuple[str, str]:
    """Return PEFT's names of A and B."""
    return f"{PREFIX}{path}.lora_A.weight", f"{PREFIX}{path}.lora_B.weight"


def _entries(
    folder: Path, cfg: ModelConfig, settings: config.Lora, targets: Iterable[str] = ()
) -> dict[str, safetensors_file.Entry]:
    """Return the file's tensors, named as without a vision tower. ValueError unless they are of this model's matrices.

    Each matrix whose path in Hugging Face's model ends with one of the names `targets` must have its adapter.
    """
    if not (folder / WEIGHTS).is_file():
        pickled = " (pickled weights are not read: convert them to safetensors)" if list(folder.glob("*.bin")) else ""
        raise UserError(f"{folder} has no {WEIGHTS}{pickled}; fetch it again")
    entries = layout.of_text(cfg, safetensors_file.read_header(folder / WEIGHTS), PREFIX)
    ends = tuple(f".{target}" for target in layout.of_text(cfg, dict.fromkeys(targets)))
    sides = lora.sides(cfg, settings)
    wanted: dict[str, tuple[int, ...]] = {}
    for name, _, path in _paths(cfg, settings):
        keys = _keys(path)
        inputs, outputs = (int(np.prod(side)) for side in sides[name])
        if f".{path}".endswith(ends) or any(key in entries for key in keys):
            wanted |= {keys[0]: (settings.rank, inputs), keys[1]: (outputs, settings.rank)}
    try:
        layout.check_tensors(str(folder / WEIGHTS), wanted, {name: entry.shape for name, entry in entries.items()})
    except ValueError as error:
        raise UserError(f"{error}; wanted an adapter of this model, of model.lora.layers={settings.layers}") from error
    return entries


def _read(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], config.Lora]:
    """Return adapter_config.json, and its settings as ours. ValueError for what this program does not compute."""
    said, where = read_json(Path(folder) / CONFIG), Path(folder) / CONFIG
    odd = [
        f"{name} = {show(value)}"
        for name, value in said.items()
        if name not in UNREAD and value not in PLAIN.get(name, OFF)
    ]
    rank, alpha = said.get("r"), said.get("lora_alpha")
    odd += [f"r = {show(rank)}"] if type(rank) is not int or not 0 < rank < 2**16 else []
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1e6:
        alpha = 0
        odd.append(f"lora_alpha = {show(said.get('lora_alpha'))}")
    targets = said.get("target_modules")
    known = _modules("all-linear")
    named = {*known} if targets == "all-linear" else set()
    if isinstance(targets, list):  # of names alone, or each matrix of each layer by its full name
        named = {str(target).rpartition(".")[2] for target in targets}
    named -= TOWER
    if not named or not named <= {*known}:
        odd.append(f"target_modules = {show(targets)} (wanted some of {few(list(known), 7)})")
    if odd:
        raise UserError(
            f"{where} has {'; '.join(odd)}, which is not read here: wanted a plain LoRA of a decoder's layers, on the "
            "base's own weights"
        )
    matrices = {known[name] for name in named}
    fits = [layers for layers, names in lora.MATRICES.items() if matrices <= {*names}]
    return said, config.Lora(rank, float(alpha), fits[0])  # type: ignore[arg-type]
