"""Peak rates of this process's devices, operations and bytes a second, as published, or measured once."""

import functools
import timeit
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from qr_jax import config

SIDE = 2048  # of the matrices of a measured product
READ_MIB = 512  # of the array that is read: more than any cache holds
GOES = 3  # measurements, of which the best counts


@dataclass(frozen=True)
class Peak:
    """One device's rates: matrix products in the compute dtype, reads of its memory, and whether they were measured."""

    flops_a_s: float
    bytes_a_s: float
    measured: bool


# How a device's kind begins -> operations/s in bfloat16 and in float32, bytes/s; the makers' figures, without sparsity.
# float32 as jax computes it there by default: in one bfloat16 pass on TPU, in TF32 on GPU.
KNOWN: dict[str, tuple[float, float, float]] = {
    "TPU v5 lite": (197e12, 197e12, 819e9),
    "TPU v5e": (197e12, 197e12, 819e9),
    "TPU v5": (459e12, 459e12, 2765e9),
    "TPU v6": (918e12, 918e12, 1600e9),
    "TPU7x": (1153.5e12, 1153.5e12, 3690e9),  # half a chip's 2307e12 and 7380e9, for a chip is two devices
    "NVIDIA H200": (989e12, 494e12, 4800e9),
    "NVIDIA H100 PCIe": (756e12, 378e12, 2000e9),
    "NVIDIA H100 NVL": (835e12, 417e12, 3900e9),
    "NVIDIA H100": (989e12, 494e12, 3350e9),
    "NVIDIA A100-SXM4-80GB": (312e12, 156e12, 2039e9),
    "NVIDIA A100 80GB PCIe": (312e12, 156e12, 1935e9),
    "NVIDIA A100": (312e12, 156e12, 1555e9),
    "NVIDIA L40S": (362e12, 183e12, 864e9),
    "NVIDIA L40": (181e12, 90.5e12, 864e9),
    "NVIDIA L4": (121e12, 60e12, 300e9),
    "NVIDIA A10G": (70e12, 35e12, 600e9),
    "NVIDIA GeForce RTX 4090 D": (147e12, 73.5e12, 1008e9),
    "NVIDIA GeForce RTX 4090": (165e12, 82.6e12, 1008e9),
    "NVIDIA GeForce RTX 3090 Ti": (80e12, 40e12, 1008e9),
    "NVIDIA GeForce RTX 3090": (71e12, 35.6e12, 936e9),
}


@functools.cache
def of(compute: str) -> Peak:
    """Return the peak FLOP/s and bytes/s of this process's first device; an unlisted kind is measured, in under 1 s."""
    device = jax.local_devices()[0]
    return known(device.device_kind, compute) or _measure(compute)


def known(kind: str, compute: str) -> Peak | None:
    """Return the published peak of a kind of device; None if it is not listed."""
    for start, (bfloat16, float32, bytes_a_s) in KNOWN.items():
        if kind.startswith(start):
            return Peak(bfloat16 if compute == "bfloat16" else float32, bytes_a_s, measured=False)
    return None


def devices(mesh: config.Mesh) -> int:
    """Return the number of a learner's devices over all processes; a process's CPU devices count as one."""
    return jax.process_count() if _on_cpu() else mesh.data * mesh.fsdp * mesh.tensor


def all_devices(mesh: config.Mesh) -> int:
    """Return the number of a run's devices, counted as by `devices`, those that only roll out included."""
    return devices(mesh) + (0 if _on_cpu() else mesh.rollout_devices * jax.process_count())


def _on_cpu() -> bool:
    return jax.local_devices()[0].platform == "cpu"


def _measure(compute: str) -> Peak:
    """Measure a product of two large matrices in the compute dtype, and a pass over a large array."""
    square = jnp.ones((SIDE, SIDE), jnp.dtype(compute))
    product = jax.jit(lambda a: a @ a)
    flops_a_s = 2 * SIDE**3 / _best_s(lambda: product(square).block_until_ready())
    array = jnp.ones((READ_MIB * 256, 1024), jnp.float32)
    read = jax.jit(lambda a: a.sum(axis=1))
    return Peak(flops_a_s, array.nbytes / _best_s(lambda: read(array).block_until_ready()), measured=True)


def _best_s(work: Callable[[], object]) -> float:
    work()  # compiles
    return min(timeit.repeat(work, number=1, repeat=GOES))
