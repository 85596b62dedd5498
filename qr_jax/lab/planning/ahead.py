"""Compiling for TPUs that are not there: chips by name, shapes laid out on them, and what a program costs there."""

import fnmatch
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from qr_jax.errors import UserError
from qr_jax.lab import interpreter
from qr_jax.lab.planning import hlo
from qr_jax.parallel.mesh import AXES

GET_LIBTPU = "python -m pip install 'jax[tpu]'"  # the one that this jax was made for
NO_LIBTPU = f"planning for a TPU needs libtpu, which runs without one: {GET_LIBTPU}"
# What a process must have in its environment from its start, so that libtpu does not look for the machine it is on.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", **interpreter.WITHOUT_TPU}  # of any type: the topology asked for decides
ENVIRONMENT |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # else one process at a time, as if it held a chip

GENERATIONS = ("v2", "v3", "v4", "v5e", "v5p", "v6e", "tpu7x")  # as libtpu names them
# Slices whose chips are all on one host, as Cloud TPU VMs come (v5litepod-8 and v6e-8 too); a host of others has 2 x 2.
ONE_HOST = {"1x1": (1, 1, 1), "1x1x1": (1, 1, 1), "2x4": (2, 4, 1), "4x2": (4, 2, 1)}


@dataclass(frozen=True)
class Program:
    """A compiled program on one device.

    `peak_bytes` is the most HBM it holds at once, by XLA's own account, and no less than its arguments and those of its
    results that lie in no argument (`result_bytes`). `temporary_bytes` are all that it allocates, if never at once: a
    program of 13.3 GiB at its peak was compiled for a chip of 15.75 whose arguments and temporaries added up to 18.1.
    """

    text: str  # optimised HLO
    cost: hlo.Cost
    argument_bytes: int
    temporary_bytes: int
    result_bytes: int
    peak_bytes: int
    compile_s: float


def check_libtpu() -> None:
    """Raise ValueError unless libtpu is installed as jax names it: others' programs may not be readable."""
    try:
        found = metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        raise UserError(NO_LIBTPU) from None
    named = (re.match(r"libtpu==([\w.*]+)", each) for each in metadata.requires("jax") or ())
    wanted = next((match[1] for match in named if match), "*")
    if not fnmatch.fnmatch(found, wanted):
        raise UserError(f"libtpu {found} is installed, and jax {jax.__version__} wants {wanted}: {GET_LIBTPU}")


def devices(topology: str) -> list[Any]:
    """Return the chips of a slice such as "v5e:4x4", "v5p:2x2x2" or "v6e:1x1" (one chip), to compile for.

    Raises ValueError for a name that libtpu does not know, and where libtpu is not installed.
    """
    check_name(topology)
    layout = topology.partition(":")[2]
    alone = {"chips_per_host_bounds": ONE_HOST[layout]} if layout in ONE_HOST else {}
    try:
        return list(topologies.get_topology_desc(topology, platform="tpu", **alone).devices)
    except RuntimeError as error:
        if "not installed" in str(error):
            raise UserError(NO_LIBTPU) from error
        raise UserError(f"libtpu gives no topology {topology!r}: {str(error).splitlines()[0]}") from error


def check_name(topology: str) -> None:
    """Raise ValueError for what cannot be a slice's name."""
    wanted = f"a generation ({', '.join(GENERATIONS)}) and a layout, such as v5e:4x4, v5p:2x2x2 or v6e:1x1"
    name, _, layout = topology.partition(":")
    if name not in GENERATIONS or not re.fullmatch(r"\d+(x\d+)+", layout):
        raise UserError(f"topology {topology!r} is not {wanted}")


def mesh(chips: Sequence[Any], *, data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """Return the learner's mesh over chips that need not be there."""
    return jax.make_mesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=chips)


def compiled(lowered: jax.stages.Lowered, *, gpu: bool = False) -> Program:
    """Compile what `jitted.lower(...)` gave, and count its FLOPs and bytes.

    On a GPU, whose programs hold one block of temporaries beside arguments and results, memory alone is counted.
    """
    start = time.perf_counter()
    program = lowered.compile()
    compile_s = time.perf_counter() - start
    text, memory = "" if gpu else program.as_text(), program.memory_analysis()
    assert text is not None and memory is not None, "XLA says both of a program that it has compiled"
    given, results = memory.argument_size_in_bytes, memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporary = memory.temp_size_in_bytes
    cost = hlo.Cost(0, 0, {}, {}, {}, ()) if gpu else hlo.cost(text)
    return Program(
        text, cost, argument_bytes=given, temporary_bytes=temporary, result_bytes=results,
        peak_bytes=given + results + temporary if gpu else max(memory.peak_memory_in_bytes, given + results),
        compile_s=compile_s,
    )  # fmt: skip
