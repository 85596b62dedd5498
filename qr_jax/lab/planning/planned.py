"""The needs of one slice's compiled programs, and the process that plan.py starts for a slice or a GPU.

`python -m qr_jax.lab.planning.planned` reads {"config", "topology"}, or of a GPU {"config", "card", "compiles"}, and
writes one answer.
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
from qr_jax.lab.planning import ahead, cards, estimate
from qr_jax.lab.planning.cards import Card
from qr_jax.lab.planning.plan import ANSWER, PROGRAMS, SAY
from qr_jax.lab.planning.programs import Programs, Slice, model_shape, slice_of
from qr_jax.models import flash
from qr_jax.parallel import host_local, peaks
from qr_jax.parallel import mesh as meshes
from qr_jax.settings import json_text

PER = {"train": "update", "prefill": "call", "decode": "step", "hand_over": "step"}
LARGEST_HEAD = 128  # for a larger one jax asks the GPU of this process whether cuDNN takes it
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


def examine(settings: Config, topology: str, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Return all that `qr-jax plan` says of a config on a slice; `fits` False with a `reason` where it does not fit.

    `peak_bytes_per_chip` and the programs by name are always there: None where nothing was compiled, or a program was
    refused, or not tried after one that was.
    """
    on = slice_of(topology)
    kind = on.chips[0].device_kind
    peak = peaks.known(kind, settings.model.compute)
    if peak is None:
        raise estimate.unknown(kind)
    limits, adapted = estimate.chip(kind, peak.flops_a_s, peak.bytes_a_s), bool(settings.model.lora.rank)
    # a chip of TPU7x is two devices, and what follows is of a device
    chips = len({tuple(device.coords) for device in on.chips})
    about = {"chips": chips, "devices": len(on.chips), "hosts": on.hosts, "kind": kind, "hbm_bytes": limits.hbm_bytes}
    about |= {"steps": settings.train.steps, "fits": False, "peak_bytes_per_chip": None, **dict.fromkeys(PROGRAMS)}
    if reason := wrong_mesh(settings.mesh, topology, len(on.chips), on.hosts):
        return about | {"reason": reason}
    programs, start = Programs(settings, model_shape(settings), on), time.perf_counter()
    made: dict[str, ahead.Program] = {}
    try:
        compile_all(programs, made, say)
    except TooLarge as error:
        about |= {name: figures(programs, name, program, {}) for name, program in made.items()}
        about |= {"reason": estimate.too_large(error.name, error.needed_bytes, limits.hbm_bytes, adapted=adapted)}
        return about | {"peak_bytes_per_chip": error.needed_bytes, "compile_s": time.perf_counter() - start}
    compile_s = time.perf_counter() - start
    held = resident(programs, made)
    own = own_bytes(made, held, programs.reordered)
    apart = settings.mesh.rollout_devices
    by_phase = estimate.phases(held, own, overlap=bool(settings.train.overlap), apart=bool(apart))
    found = {name: figures(programs, name, program, held) for name, program in made.items()}
    tiles = -(-settings.rollout.buckets[-1] // settings.rollout.tile)  # of the largest prefill call
    what = estimate.load(
        config.to_json(settings), hosts=1 if programs.pod else on.hosts, slots=settings.rollout.slots,
        call_tokens=tiles * settings.rollout.tile, micro=len(programs.learner()[1].used_M), beside=bool(apart),
    )  # fmt: skip
    started = {"decode": 1, "prefill": len(programs.rows()[0].call_sizes)}  # before a run's first rollout
    reason = estimate.refusal(by_phase, limits.hbm_bytes, adapted=adapted)
    layout = host_local.describe(programs.kind, programs.mesh, programs.cfg, apart)
    return about | found | {
        "fits": reason is None, "reason": reason, "peak_bytes_per_chip": max(by_phase.values()), "layout": layout,
        "memory_by_phase": by_phase, "resident": held, "apart": bool(apart),
        "seconds": estimate.step(found, limits, what), "assumptions": estimate.assumptions(what),
        "compile_s": compile_s, "compiles": len(made), "rollout_programs": started,
    }  # fmt: skip


def wrong_mesh(mesh: config.Mesh, topology: str, chips: int, hosts: int = 1) -> str | None:
    """Say why a config's mesh is not one of so many chips on so many hosts; None: it is."""
    product, learn = mesh.data * mesh.fsdp * mesh.tensor, chips - mesh.rollout_devices * hosts
    if product == learn:
        return None
    sizes = f"mesh.data={mesh.data} x mesh.fsdp={mesh.fsdp} x mesh.tensor={mesh.tensor} is {product} chips"
    has = f"{topology} has {chips}" + f", of which {learn} learn" * (learn < chips)
    if learn < 1:
        return (
            f"mesh.rollout_devices={mesh.rollout_devices} leaves none of {topology}'s {chips} chips to learn; set fewer"
        )
    return f"{sizes}, and {has}: set {meshes.fitting(mesh, learn)}, or name another topology"


def compile_all(
    programs: Programs, made: dict[str, ahead.Program], say: Callable[[str], None], *, gpu: bool = False
) -> None:
    """Compile all programs into `made`, up to a refusal. Train is last: its figures need what all hold."""
    lowered = {"hand_over": programs.to_rollout_params, "decode": programs.decode, "prefill": programs.prefill}
    for name, lower in {**lowered, "train": programs.train}.items():
        say(f"compiling {name}")
        try:
            program = made[name] = ahead.compiled(lower(), gpu=gpu)
        except jax.errors.JaxRuntimeError as error:
            needed = refused_bytes(str(error))
            if needed is None:
                raise
            say(f"{name}: refused, it needs {needed / estimate.GIB:.2f} GiB a chip")
            raise TooLarge(name, needed) from error
        say(f"{name}: {program.peak_bytes / estimate.GIB:.2f} GiB a chip, compiled in {program.compile_s:.0f} s")


def resident(programs: Programs, made: Mapping[str, ahead.Program]) -> dict[str, int]:
    """Count the bytes on the fullest chip from step to step: by shapes, or as a program's arguments are padded.

    Arguments alone would say too little: a program has none that it does not read (prefill ends before the last MLP).
    """
    shapes = programs.rows()[1]
    apart = programs.config.mesh.rollout_devices  # whose copy is not cut as that which the learner's chips make
    laid = bytes_a_device(shapes["laid"]) if apart else made["hand_over"].result_bytes
    made_learner, batch = programs.learner()
    return {
        "state": max(bytes_a_device(made_learner.abstract), made["train"].argument_bytes - bytes_a_device(batch)),
        "slots": max(bytes_a_device(shapes["slots"]), made["decode"].argument_bytes - laid),
        "store": max(bytes_a_device(shapes["store"]), made["prefill"].argument_bytes - laid),
        "laid": laid,
    }


def own_bytes(made: Mapping[str, ahead.Program], held: Mapping[str, int], reordered: bool) -> dict[str, int]:
    """Count the bytes each program needs beside those resident; for the hand-over also parameters sent first."""
    sent = made["hand_over"].argument_bytes if reordered else 0
    added = {name: program.peak_bytes - program.argument_bytes for name, program in made.items()}
    return added | {"train": made["train"].peak_bytes - held["state"], "hand_over": added["hand_over"] + sent}


def bytes_a_device(tree: Any) -> int:
    """Return bytes of a tree of shapes on one of its devices, without padding."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def figures(programs: Programs, name: str, program: ahead.Program, held: Mapping[str, int]) -> dict[str, Any]:
    """Return one program's figures; of decode those of one step, a token in every slot, but for memory."""
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
    """Return bytes of HBM that one run of a program cannot spare on a chip, from the config.

    `train`: the learner's state, read and written. `hand_over`: parameters read, the laid copy written. `decode`, a
    step: weights once, and the keys and values of all slots at full length once. `prefill`: the weights that lead to
    keys and values once (no head, and of the last layer no more than its keys and values), and those it writes.
    """
    shapes = programs.rows()[1]
    laid = shapes["laid"]
    if name == "train":
        return 2 * held["state"]
    if name == "hand_over":
        return bytes_a_device(programs.whole()) + bytes_a_device(laid)
    if name == "decode":
        read = laid if laid.head is None else replace(laid, embed=None)
        return bytes_a_device(read) + bytes_a_device(shapes["slots"])
    last = {part: leaf for part, leaf in laid.layers[-1].items() if part in ("attn_norm", "qkv", "qkv_bias", "k_norm")}
    return bytes_a_device((laid.layers[:-1], last, shapes["new"]))


def kernel_flops(programs: Programs, program: ahead.Program) -> int:
    """Count the FLOPs of splash attention's calls on a chip, each on its own rows and heads."""
    cfg, learn, mesh = programs.cfg, programs.config.learner, programs.mesh
    by_heads = flash.by_heads(cfg.heads, cfg.kv_heads, mesh)
    return estimate.kernel_flops(
        program.cost.kernels, rows=learn.rows // (mesh.shape["data"] * mesh.shape["fsdp"]), length=learn.row_tokens,
        heads=cfg.heads // (mesh.shape["tensor"] if by_heads else 1), head_dim=cfg.head_dim,
        block=flash.block_size(learn.row_tokens), sliding=sum(cfg.sliding) / cfg.layers, window=cfg.window,
    )  # fmt: skip


def examine_gpu(settings: Config, card: Card, *, compiles: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the bytes of each program while it runs, and whether the largest is within what jax may hold of the card.

    `own` is what each needs beside what is `resident` then. Without `compiles` it is estimated (`by_arrays`).
    """
    device = cards.device(card) if compiles else jax.local_devices(backend="cpu")[0]
    mesh = settings.mesh
    if reason := wrong_mesh(mesh, "one GPU", 1):
        raise ValueError(reason.replace(", or name another topology", ""))
    cfg = model_shape(settings)
    auto = settings.model.attention == "auto" and settings.model.compute == "bfloat16"
    replaced = compiles and auto and LARGEST_HEAD < cfg.head_dim <= flash.largest_head(device)
    if replaced:
        settings = replace(settings, model=replace(settings.model, attention="xla"))
    programs = Programs(settings, cfg, Slice((device,), (device,), 1))
    if compiles:
        made: dict[str, ahead.Program] = {}
        compile_all(programs, made, say, gpu=True)
        held = resident(programs, made)
        own = own_bytes(made, held, reordered=False)
    else:
        held, own = by_arrays(programs)
    phases = estimate.phases(held, own, overlap=bool(settings.train.overlap))
    worst = max(phases, key=lambda name: phases[name])
    fits = phases[worst] <= card.usable_bytes
    return {
        "gpu": card.name, "memory_bytes": card.memory_bytes, "usable_bytes": card.usable_bytes, "compiled": compiles,
        "peak_bytes": phases[worst], "program": worst, "fits": fits,
        "todo": None if fits else estimate.cure(worst, adapted=bool(settings.model.lora.rank)),
        "memory_by_phase": phases, "resident": held, "own": own, "xla_attention": replaced,
    }  # fmt: skip


def by_arrays(programs: Programs) -> tuple[dict[str, int], dict[str, int]]:
    """Return what is resident, exactly, and what each program needs beside it, by its largest arrays.

    An update: the gradients' sum and those of a micro-batch, what each layer saves, one layer's own arrays, two blocks
    of logits, the mask of cuDNN's attention. Decoding: the keys of one layer, and three arrays of logits. A prefill:
    keys and values of one layer for its rows, and their scores. The hand-over: the copy, and a layer in float32.
    """
    size, cfg, item = bytes_a_device, programs.cfg, programs.compute.itemsize
    made, batch = programs.learner()
    rows, shapes = programs.rows()
    held = {"state": size(made.abstract), **{name: size(shapes[name]) for name in ("slots", "store", "laid")}}
    learner, rollout, model = programs.config.learner, programs.config.rollout, programs.config.model
    tokens, inner = learner.rows * learner.row_tokens, cfg.heads * cfg.head_dim
    layer = 2 * cfg.width + 2 * inner + 2 * cfg.kv_heads * cfg.head_dim + 3 * cfg.mlp
    saved = {"full": cfg.width, "attention": cfg.width + inner, "dots": layer, "none": layer}[model.remat]
    mask = learner.rows * learner.row_tokens**2 * item if item == 2 else 0
    logits = 2 * 4 * tokens * min(model.vocab_block, cfg.vocab)
    kept = item * tokens * (cfg.layers * saved + layer)
    train = size(batch) + 2 * size(made.abstract.params) + kept + logits + mask
    tiles, view = rows.call_sizes[-1], rows.views[-1]
    attended = 2 * item * tiles * view * cfg.kv_heads * cfg.head_dim + 4 * tiles * cfg.heads * rollout.tile * view
    one_layer = 4 * cfg.width * (2 * inner + 2 * cfg.kv_heads * cfg.head_dim + 3 * cfg.mlp)
    own = {
        "train": train, "hand_over": held["laid"] + one_layer, "prefill": attended + size(shapes["new"]),
        "decode": held["slots"] // (2 * cfg.layers) + 3 * 4 * rollout.slots * cfg.vocab,
    }  # fmt: skip
    return held, own


def main() -> None:
    asked = json_text.parse(sys.stdin.read())
    card = Card(**asked["card"]) if "card" in asked else None

    def say(text: str) -> None:
        print(f"{SAY}{card.name if card else asked['topology']}: {text}", flush=True)

    try:
        settings = config.from_json(asked["config"])
        if card:
            answer = examine_gpu(settings, card, compiles=asked["compiles"], say=say)
        else:
            answer = examine(settings, asked["topology"], say=say)
    except ValueError as error:
        answer = {"error": str(error)}
    print(ANSWER + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
