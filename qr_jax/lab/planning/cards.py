"""NVIDIA GPUs that need not be there: their memory, and what XLA must know of one to compile for it."""

import re
from dataclasses import dataclass, replace
from typing import Any

from jax.experimental import topologies

from qr_jax.errors import UserError
from qr_jax.lab import gpu
from qr_jax.lab.planning.estimate import GIB

GB = 10**9
PLUGIN = "pip install 'jax[cuda13]' (Linux; no GPU is needed)"
# CUDA's capability -> shared memory of a core, of a block at most, and threads of a core (NVIDIA's programming guide).
CORES = {"8.0": (167936, 166912, 2048), "8.6": (102400, 101376, 1536), "8.9": (102400, 101376, 1536)}
CORES |= {"9.0": (233472, 232448, 2048)}


@dataclass(frozen=True)
class Card:
    """A GPU: the bytes that CUDA says it has (fewer than its name says), its capability and its cores."""

    name: str
    memory_bytes: int
    capability: str
    cores: int

    @property
    def usable_bytes(self) -> int:
        """Return what jax may hold of it (gpu.FRACTION)."""
        return int(self.memory_bytes * gpu.FRACTION)


CARDS = {
    name: Card(name, int(gib * GIB), capability, cores)
    for name, gib, capability, cores in (
        ("l4", 22.0, "8.9", 58), ("a10g", 22.0, "8.6", 80), ("rtx3090", 23.6, "8.6", 82), ("rtx4090", 23.6, "8.9", 128),
        ("a100_40gb", 39.4, "8.0", 108), ("l40s", 44.3, "8.9", 142), ("a100", 79.1, "8.0", 108),
        ("h100", 79.1, "9.0", 132), ("h200", 139.7, "9.0", 132),
    )
}  # fmt: skip
ANY = "a100"  # whose cores are compiled for where a size of memory alone is given


def card(name: str | None, memory: str | None) -> Card:
    """Return the card of a name, with another memory if given ("80GB", "79GiB"); ValueError for what is not known."""
    if name is not None and name not in CARDS:
        raise UserError(f"no figures of a GPU {name!r}; known: {', '.join(CARDS)}; or give --memory, as in 80GB")
    known = CARDS[name or ANY]
    if memory is None:
        return known
    size = re.fullmatch(r"(\d+(?:\.\d+)?)(GB|GiB)", memory)
    if not size or not float(size[1]):
        raise UserError(f"--memory {memory!r} is no size; wanted one as in 80GB or 79.1GiB")
    memory_bytes = int(float(size[1]) * (GB if size[2] == "GB" else GIB))
    return replace(known, name=f"{name or 'GPU'} of {memory}", memory_bytes=memory_bytes)


def device(of: Card) -> Any:
    """Return the card as a device to compile for. XLA's GPU compiler comes with jax's plugin of CUDA."""
    return topologies.get_topology_desc("", platform="cuda", topology="1x1x1", target_config=_target(of)).devices[0]


def _target(of: Card) -> str:
    """Write the card as XLA's GpuTargetConfigProto. Figures that decide speed alone are an A100's."""
    major, minor = of.capability.split(".")
    per_core, per_block, threads = CORES[of.capability]
    about = {
        "threads_per_block_limit": 1024, "threads_per_warp": 32, "shared_memory_per_block": 49152,
        "shared_memory_per_core": per_core, "shared_memory_per_block_optin": per_block,
        "threads_per_core_limit": threads, "core_count": of.cores, "fpus_per_core": 64,
        "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 65535, "block_dim_limit_z": 65535,
        "memory_bandwidth": 1555 * GB, "l2_cache_size": 40 * 2**20, "clock_rate_ghz": 1.41,
        "device_memory_size": of.memory_bytes, "registers_per_core_limit": 65536, "registers_per_block_limit": 65536,
        "thread_dim_limit_x": 1024, "thread_dim_limit_y": 1024, "thread_dim_limit_z": 64,
    }  # fmt: skip
    lines = [f"{name}: {value}" for name, value in about.items()]
    lines.append(f"cuda_compute_capability {{ major: {major} minor: {minor} }}")
    for part in ("driver_version", "runtime_version", "compile_time_toolkit_version"):
        lines.append(f'{part}: "12.8.0"')
    versions = "dnn_version_info { major: 9 minor: 10 patch: 0 }"
    return (
        f'gpu_device_info {{ {" ".join(lines)} }} platform_name: "CUDA" {versions} device_description_str: "{of.name}"'
    )
