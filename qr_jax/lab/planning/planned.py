"""The needs of one slice's compiled programs: the process that plan.py starts.

`python -m qr_jax.lab.planning.planned` reads {"config", "topology"} from its input and writes one answer.
"""

import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax

from qr_jax import config
from qr_jax.config import Config
from qr_jax.lab.planning import ahead, estimate
from qr_jax.lab.planning.plan import ANSWER, PROGRAMS, SAY
from qr_jax.lab.planning.programs import Programs, model_shape, slice_of
from qr_jax.models import flash
from qr_jax.parallel import host_local, peaks
from qr_jax.parallel import mesh as meshes

PER = {"train": "update", "prefill": "call", "decode": "step", "hand_over": "step"}
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


class TooLarge(Exception):
    """libtpu refuses to compile a program that needs more HBM than a chip has."""

    def __init__(self, name: str, needed_bytes: int):
        super().__init__(name)
        self.name, self.needed_bytes = name, needed_bytes


def refused_bytes(text: str) -> int | None:
    """Read from libtpu's refusal the bytes that a program needs; None if the text is another.

    "... (17.22G) exceeds available HBM (15.75G)" or "Used 17.22G of 15.75G hbm".
    """
    found = re.search(r"\(([\d.]+)([KMG])\) exceeds available HBM|Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm", text)
    return int(float(found[1] or found[3]) * UNITS[found[2] or found[4]]) if found else None


class Compiler:
    """Compiles programs one after the other, says so, and counts."""

    def __init__(self, say: Callable[[str], None], compiled: Callable = ahead.compiled):
        self.say, self.compiled, self.compiles, self.compile_s = say, compiled, 0, 0.0

    def __call__(self, name: str, lower: Callable[[], jax.stages.Lowered]) -> ahead.Program:
        start = time.perf_counter()
        self.say(f"compiling {name}")
        try:
            program = self.compiled(lower())
        except jax.errors.JaxRuntimeError as error:
            needed = refused_bytes(str(error))
            if needed is None:
                raise
            self.say(f"{name}: refused, it needs {needed / estimate.GIB:.2f} GiB a chip")
            raise TooLarge(name, needed) from error
        finally:
            self.compiles += 1
            self.compile_s += time.perf_counter() - start
        self.say(f"{name}: {program.peak_bytes / estimate.GIB:.2f} GiB a chip, compiled in {program.compile_s:.0f} s")
        return program


def examine(settings: Config, topology: str, *, say: Callable[[str], None]) -> dict[str, Any]:
    """All that `qr-jax plan` says of a config on a slice; `fits` False with a `reason` where it does not fit.

    `peak_bytes_per_chip` and the programs by name are always there: None where nothing was compiled, or a program was
    refused, or not tried after one that was.
    """
    on = slice_of(topology)
    kind = on.chips[0].device_kind
    peak = peaks.known(kind, settings.model.compute)
    if peak is None:
        raise estimate.unknown(kind)
    limits = estimate.chip(kind, peak.flops_a_s, peak.bytes_a_s)
    # a chip of TPU7x is two devices, and what follows is of a device
    chips = len({tuple(device.coords) for device in on.chips})
    about = {"chips": chips, "devices": len(on.chips), "hosts": on.hosts, "kind": kind, "hbm_bytes": limits.hbm_bytes}
    about |= {"steps": settings.train.steps, "fits": False, "peak_bytes_per_chip": None, **dict.fromkeys(PROGRAMS)}
    if reason := wrong_mesh(settings.mesh, topology, len(on.chips)):
        return about | {"reason": reason}
    programs, compiler = Programs(settings, model_shape(settings), on), Compiler(say)
    made: dict[str, ahead.Program] = {}
    try:
        compile_all(programs, compiler, made)
    except TooLarge as error:
        about |= {name: figures(programs, name, program, {}) for name, program in made.items()}
        about |= {"reason": estimate.too_large(error.name, error.needed_bytes, limits.hbm_bytes)}
        return about | {"peak_bytes_per_chip": error.needed_bytes, "compile_s": compiler.compile_s}
    held = resident(programs, made)
    by_phase = estimate.phases(held, own(made, held, programs.reordered))
    found = {name: figures(programs, name, program, held) for name, program in made.items()}
    what = load(programs)
    reason = estimate.refusal(by_phase, limits.hbm_bytes)
    layout = host_local.describe(programs.kind, programs.mesh, programs.cfg)
    return about | found | {
        "fits": reason is None, "reason": reason, "peak_bytes_per_chip": max(by_phase.values()), "layout": layout,
        "memory_by_phase": by_phase, "resident": held,
        "seconds": estimate.step(found, limits, what), "assumptions": estimate.assumptions(what),
        "compile_s": compiler.compile_s, "compiles": compiler.compiles, "rollout_programs": at_a_start(programs),
    }  # fmt: skip


def wrong_mesh(mesh: config.Mesh, topology: str, chips: int) -> str | None:
    """Say why a config's mesh is not one of so many chips; None: it is."""
    product = mesh.data * mesh.fsdp * mesh.tensor
    if product == chips:
        return None
    sizes = f"mesh.data={mesh.data} x mesh.fsdp={mesh.fsdp} x mesh.tensor={mesh.tensor} is {product} chips"
    todo = f"set {meshes.fitting(mesh, chips)}, or name another topology"
    return f"{sizes}, and {topology} has {chips}: {todo}"


def compile_all(programs: Programs, compiler: Compiler, made: dict[str, ahead.Program]) -> None:
    """Compile all programs into `made`, up to a refusal. Train is last: its figures need what all hold."""
    made["hand_over"] = compiler("hand_over", programs.to_rollout_params)
    made["decode"] = compiler("decode", programs.decode)
    made["prefill"] = compiler("prefill", programs.prefill)
    made["train"] = compiler("train", programs.train)


def fresh(program: ahead.Program) -> int:
    """Bytes that a program adds to its arguments at its peak: temporaries, and results that do not lie in arguments."""
    return program.peak_bytes - program.argument_bytes


def resident(programs: Programs, made: Mapping[str, ahead.Program]) -> dict[str, int]:
    """Count the bytes on the fullest chip from step to step: by shapes, or as a program's arguments are padded.

    Arguments alone would say too little: a program has none that it does not read (prefill ends before the last MLP).
    """
    laid = made["hand_over"].result_bytes
    made_learner, batch = programs.learner()
    shapes = programs.rows()[1]
    return {
        "state": max(a_device(made_learner.abstract), made["train"].argument_bytes - a_device(batch)),
        "slots": max(a_device(shapes["slots"]), made["decode"].argument_bytes - laid),
        "store": max(a_device(shapes["store"]), made["prefill"].argument_bytes - laid),
        "laid": laid,
    }


def own(made: Mapping[str, ahead.Program], held: Mapping[str, int], reordered: bool) -> dict[str, int]:
    """Count the bytes each program needs beside those resident; for the hand-over also parameters sent first."""
    sent = made["hand_over"].argument_bytes if reordered else 0
    added = {name: fresh(program) for name, program in made.items()}
    return added | {"train": made["train"].peak_bytes - held["state"], "hand_over": added["hand_over"] + sent}


def a_device(tree: Any) -> int:
    """Bytes of a tree of shapes on one of its devices, without padding."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def figures(programs: Programs, name: str, program: ahead.Program, held: Mapping[str, int]) -> dict[str, Any]:
    """One program's figures; of decode those of one step, a token in every slot, but for memory."""
    times = programs.config.rollout.chunk if name == "decode" else 1
    kernels = kernel_flops(programs, program)
    return {
        "per": PER[name], "peak_bytes": program.peak_bytes, "argument_bytes": program.argument_bytes,
        "temporary_bytes": program.temporary_bytes, "flops": (program.cost.flops + kernels) // times,
        "kernel_flops": kernels // times, "bytes_accessed": program.cost.bytes_accessed // times,
        "bytes_least": least(programs, name, held),
        "collectives": {kind: size // times for kind, size in program.cost.collectives.items()},
        "compile_s": program.compile_s, "loops_without_bound": list(program.cost.unbounded),
    }  # fmt: skip


def least(programs: Programs, name: str, held: Mapping[str, int]) -> int:
    """Bytes of HBM that one run of a program cannot spare on a chip, from the config.

    `train`: the learner's state, read and written. `hand_over`: parameters read, the laid copy written. `decode`, a
    step: weights once, and the keys and values of all slots at full length once. `prefill`: the weights that lead to
    keys and values once (no head, and of the last layer no more than its keys and values), and those it writes.
    """
    shapes = programs.rows()[1]
    laid = shapes["laid"]
    if name == "train":
        return 2 * held["state"]
    if name == "hand_over":
        return a_device(programs.whole()) + a_device(laid)
    if name == "decode":
        return a_device(laid if laid.head is None else replace(laid, embed=None)) + a_device(shapes["slots"])
    last = {part: leaf for part, leaf in laid.layers[-1].items() if part in ("attn_norm", "qkv", "qkv_bias", "k_norm")}
    return a_device((laid.layers[:-1], last, shapes["new"]))


def kernel_flops(programs: Programs, program: ahead.Program) -> int:
    """Count the FLOPs of splash attention's calls on a chip, each on its own rows and heads."""
    cfg, learn, mesh = programs.cfg, programs.config.learner, programs.mesh
    by_heads = flash.by_heads(cfg.heads, cfg.kv_heads, mesh)
    return estimate.kernel_flops(
        program.cost.kernels, rows=learn.rows // (mesh.shape["data"] * mesh.shape["fsdp"]), length=learn.row_tokens,
        heads=cfg.heads // (mesh.shape["tensor"] if by_heads else 1), head_dim=cfg.head_dim,
        block=flash.block_size(learn.row_tokens), sliding=sum(cfg.sliding) / cfg.layers, window=cfg.window,
    )  # fmt: skip


def at_a_start(programs: Programs) -> dict[str, int]:
    """Count the programs like these that a run compiles before its first rollout; others compile when first needed."""
    return {"decode": 1, "prefill": len(programs.rows()[0].call_sizes)}


def load(programs: Programs) -> estimate.Load:
    settings = programs.config
    batch = programs.learner()[1]
    return estimate.load(
        config.to_json(settings), hosts=programs.rollouts, slots=settings.rollout.slots,
        call_tokens=programs.call_tokens, micro=len(batch.used_M),
    )  # fmt: skip


def main() -> None:
    asked = json.load(sys.stdin)

    def say(text: str) -> None:
        print(f"{SAY}{asked['topology']}: {text}", flush=True)

    try:
        answer = examine(config.from_json(asked["config"]), asked["topology"], say=say)
    except ValueError as error:
        answer = {"error": str(error)}
    print(ANSWER + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
