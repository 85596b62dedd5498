"""What decoding and training would cost on TPU v5e, v5p and v6e, compiled ahead of time: no TPU is needed, libtpu is.

    python -m benchmarks.tpu                      # a table, and benchmarks/results/tpu.json
    python -m benchmarks.tpu --programs decode --chips v5e --slots 128
    python -m benchmarks.tpu --programs train --chips v5e --remat attention

Decode is one chip's program at Qwen3-1.7B's shape in bfloat16, and with matrices, keys and values in int8
(`rollout.weights`, `rollout.cache`), or matrices alone; `reads` is the HBM that a step reads and writes over
weights + live cache, `temporaries` is over the cache (a copy of it would show as 1). The learner's step runs on a slice
of 16 chips (v5p: 8), 16 rows of 4,096 tokens; `vocabulary_rows` counts arrays of more logits than a row has in a block
(model.vocab_block), of which there should be none. lab/planning/hlo.py says how bytes and FLOPs are counted. None of
it is a measurement.
"""

import argparse
import functools
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import interleave

CHIPS = {"v5e": ("v5e:1x1", "v5e:4x4"), "v5p": ("v5p:1x1x1", "v5p:2x2x2"), "v6e": ("v6e:1x1", "v6e:4x4")}
ROW_TOKENS = 4096
PADDING = 128  # to a whole number of lanes


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    if options.one:
        try:
            print(json.dumps(PROGRAMS[options.programs[0]](options.chips[0], options)))
        except ValueError as error:
            raise SystemExit(f"benchmarks.tpu: {error}") from None
        return
    figures = {name: {chip: one(name, chip, options) for chip in options.chips} for name in options.programs}
    file = (options.results or interleave.ROOT / "benchmarks/results") / "tpu.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {**figures, **interleave.commit(), "machine": interleave.machine()}
    packages = {**interleave.versions(), "libtpu": metadata.version("libtpu")}
    content |= {"packages": packages, "command": ["python", "-m", "benchmarks.tpu", *sys.argv[1:]]}
    file.write_text(json.dumps(content, indent=1) + "\n")
    for name, by_chip in figures.items():
        head = [key for key, value in by_chip[options.chips[0]].items() if not isinstance(value, (dict, list))]
        print(
            name,
            interleave.table(["", *head], [[chip, *(f[key] for key in head)] for chip, f in by_chip.items()]),
            sep="\n",
        )
    print(f"written to {file}")


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), help=", ".join(PROGRAMS))
    parser.add_argument("--chips", nargs="+", choices=CHIPS, default=list(CHIPS), help="v5e, v5p, v6e")
    parser.add_argument("--model", default="qwen3_1p7b", help="a preset of qr_jax/models/families.py")
    parser.add_argument("--slots", type=int, default=64, help="sequences that decode together (64)")
    parser.add_argument("--positions", type=int, default=1024, help="of the cache, all of them live (1024)")
    parser.add_argument("--chunk", type=int, default=16, help="tokens a dispatch (16)")
    parser.add_argument("--rows", type=int, default=16, help="rows of 4,096 tokens in the learner's step (16)")
    parser.add_argument(
        "--remat", choices=("none", "full", "attention", "dots"), default="full", help="of the learner's step (full)"
    )
    parser.add_argument("--results", type=Path, default=None, help="folder for the JSON (benchmarks/results)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # this process is the one that compiles
    return parser.parse_args(words)


def one(name: str, chip: str, options: argparse.Namespace) -> dict[str, Any]:
    """One program compiled for one generation, in a process of its own: libtpu reads the environment once."""
    from qr_jax.lab.planning import ahead

    words = [f"--{key}={getattr(options, key)}" for key in ("model", "slots", "positions", "chunk", "rows", "remat")]
    command = [sys.executable, "-m", "benchmarks.tpu", "--one", "--programs", name, "--chips", chip, *words]
    env = {**os.environ, **ahead.ENVIRONMENT}
    done = subprocess.run(command, cwd=interleave.ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines()
        raise SystemExit("\n".join([f"{name} on {chip}:", *lines[-1 if done.returncode == 1 else 0 :]]))
    return json.loads(done.stdout.splitlines()[-1])


def decode(chip: str, options: argparse.Namespace, *, weights: bool = False, cache: bool = False) -> dict[str, Any]:
    """The program that the engine runs for every chunk of tokens, on one chip; `weights` and `cache` in int8."""
    import jax
    import jax.numpy as jnp

    from qr_jax.lab.planning import ahead
    from qr_jax.models import incremental
    from qr_jax.models.families import PRESETS
    from qr_jax.parallel import peaks
    from qr_jax.rollout import cache as caches
    from qr_jax.rollout.decode import decode as jitted
    from qr_jax.rollout.sampling import Sampling

    cfg, slots, chunk = PRESETS[options.model], options.slots, options.chunk
    kept = jnp.int8 if cache else jnp.bfloat16
    kept_L = jax.eval_shape(lambda: caches.create(cfg, slots, options.positions, kept))
    laid = incremental.shapes(cfg, jnp.bfloat16, int8=weights)
    numbers = [jax.ShapeDtypeStruct((slots,), jnp.int32)] * 3  # pending, used, room
    rest = [((slots, 2), jnp.uint32), ((cfg.vocab,), jnp.bool_), ((), jnp.float32)]  # keys, stops, temperature
    shapes = (laid, kept_L, None, *numbers, *(jax.ShapeDtypeStruct(*shape) for shape in rest))
    device = ahead.devices(CHIPS[chip][0])[0]
    lowered = jitted.lower(*on_one(device, shapes), cfg=cfg, chunk=chunk, sampling=Sampling())
    program = ahead.compiled(lowered)
    cache_bytes, least = nbytes(kept_L), nbytes(laid) + nbytes(kept_L)
    peak = peaks.known(device.device_kind, "bfloat16")
    assert peak, f"{device.device_kind} is a known kind"
    return {
        "reads": program.cost.bytes_accessed / chunk / least,
        "temporaries": program.temporary_bytes / cache_bytes,
        "GB_a_step": program.cost.bytes_accessed / chunk / 1e9,
        "weights_and_cache_GB": least / 1e9,
        "GFLOP_a_step": program.cost.flops / chunk / 1e9,
        "peak_GB": program.peak_bytes / 1e9,
        "bound_ms_a_step": 1e3 * least / peak.bytes_a_s,
        "compile_s": program.compile_s,
        **details(program),
    }


def train(chip: str, options: argparse.Namespace) -> dict[str, Any]:
    """One update of the learner over a slice, its weights and optimizer sharded over all chips."""
    import jax
    import numpy as np

    from qr_jax.config import Learner, Model
    from qr_jax.lab.planning import ahead
    from qr_jax.learner import learner, pack
    from qr_jax.models.families import PRESETS
    from qr_jax.records import Grades

    cfg, rows = PRESETS[options.model], options.rows
    chips = ahead.devices(CHIPS[chip][1])
    mesh = ahead.mesh(chips, fsdp=len(chips))
    settings = Learner(rows=rows, row_tokens=ROW_TOKENS)
    model = Model(compute="bfloat16", remat=options.remat)
    made = learner.make(cfg, model, settings, mesh)
    none = Grades(np.zeros((0, 4), np.float32), np.zeros((0, 4), bool))
    batch = pack.pack([], none, rows=rows, row_tokens=ROW_TOKENS, queries=32, samples=4, micro=1)
    at = made.train_step.batch_at(batch)
    batch = jax.tree.map(lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to), batch, at)
    program = ahead.compiled(made.train_step.jitted.lower(made.abstract, batch, np.float32(0)))
    sizes = {"vocab": cfg.vocab, "width": cfg.width, "chips": len(chips), "block": model.vocab_block}
    whole = [str(array) for array, _ in largest_arrays(program.text) if holds_a_row(array.shape, **sizes)]
    return {
        "vocabulary_rows": len(whole),
        "peak_GB": program.peak_bytes / 1e9,
        "temporaries_GB": program.temporary_bytes / 1e9,
        "TFLOP": program.cost.flops / 1e12,
        "GB": program.cost.bytes_accessed / 1e9,
        "collective_GB": sum(program.cost.collectives.values()) / 1e9,
        "compile_s": program.compile_s,
        "chips": len(chips),
        **details(program),
    }


def holds_a_row(shape: Sequence[int], *, vocab: int, width: int, chips: int, block: int) -> bool:
    """Whether an array has more logits than the `block` of a row's tokens, over the vocabulary or a chip's share of it.

    Either may be padded. The head as it is gathered, [vocab, width], is not meant, nor a chip's share of the width of
    it and of its gradient: half a row of a model as wide as that would pass for them.
    """
    share = width // chips
    if tuple(shape) in ((vocab, width), (vocab, share), (share, vocab)):
        return False
    parts = [-(-vocab // n) for n in (1, 2, 4, 8, 16) if n <= chips]
    of_vocabulary = any(part <= size <= part + PADDING for part in parts for size in shape)
    return of_vocabulary and math.prod(shape) > ROW_TOKENS * block


def on_one(chip: Any, shapes: Any) -> Any:
    """Lay a tree of shapes out on one chip."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from qr_jax.lab.planning import ahead

    whole = NamedSharding(ahead.mesh([chip]), PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), shapes)


def largest_arrays(text: str) -> list[tuple[Any, str]]:
    """Return every distinct array that the module lays out in memory with the operation it is from, the largest first.

    What exists only inside a fusion, a tile at a time, is not among them.
    """
    from qr_jax.lab.planning import hlo_text

    computations, _ = hlo_text.parse(text)
    instructions = [one for computation in computations.values() for one in computation.instructions.values()]
    fused = {name for one in instructions if one.opcode == "fusion" for name in hlo_text.called(one)}
    found: dict[Any, str] = {}
    for name, computation in computations.items():
        if name not in fused:
            for one in computation.instructions.values():
                for array in one.arrays:
                    found.setdefault(array, one.source)
    return sorted(found.items(), key=lambda item: -item[0].nbytes)


def nbytes(tree: Any) -> int:
    import jax

    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def details(program: Any) -> dict[str, Any]:
    """Who the bytes are from, the largest arrays, and what the text does not say; not in the table."""
    largest = [[str(array), array.nbytes, source] for array, source in largest_arrays(program.text)[:12]]
    by = dict(list(program.cost.bytes_by.items())[:12])
    cost, unbounded = program.cost, list(program.cost.unbounded)
    return {
        "collectives": cost.collectives,
        "kernels": cost.kernels,
        "bytes_by": by,
        "largest_arrays": largest,
        "loops_without_bound": unbounded,
    }


PROGRAMS = {
    "decode": decode,
    "decode_int8": functools.partial(decode, weights=True, cache=True),
    "decode_int8_weights": functools.partial(decode, weights=True),
    "train": train,
}

if __name__ == "__main__":
    main()
