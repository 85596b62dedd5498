"""Handing the learner's weights over to rollouts, once a step, beside gathering them whole first.

    python -m benchmarks.hand_over                # a table, and benchmarks/results/hand_over.json

Ours is what train.py calls (qr_jax/parallel/host_local.py): cast, gathered and laid out as rollouts read it by one
program. The plain way casts, gathers the tree onto every device, and lays it out then. Seconds are measured on 8
emulated devices of one process, SmolLM2's size with 8 key/value heads, in turn. Bytes a chip and of collectives are
XLA's for Qwen3-1.7B in bfloat16 on v5e:4x4 (4 hosts of 4 chips), where libtpu is, the parameters that are first sent
into the hosts' order counted in both ways; no TPU is needed.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks import interleave

DEVICES, KINDS = 8, ("slots", "heads")
TOPOLOGY = "v5e:4x4"


def main(words: Sequence[str] | None = None) -> None:
    parser = interleave.parser(__doc__, peers=False)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # this process compiles for TPUs
    options = parser.parse_args(words)
    if options.one:
        print(json.dumps(for_tpu()))
        return
    figures: dict[str, Any] = {"emulated": measure(options.rounds)}
    if importlib.util.find_spec("libtpu"):
        from qr_jax.lab.planning import ahead

        command = [sys.executable, "-m", "benchmarks.hand_over", "--one"]
        env = {**os.environ, **ahead.ENVIRONMENT}
        done = subprocess.run(command, cwd=interleave.ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
        figures[TOPOLOGY] = json.loads(done.stdout.splitlines()[-1])
    file = interleave.results("hand_over", figures, [], folder=options.results)
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "packages": interleave.versions()}, indent=1) + "\n")
    if options.json:
        print(file.read_text())
        return
    for place, by_kind in figures.items():
        head = [name for name, value in by_kind[KINDS[0]].items() if not isinstance(value, list)]
        print(place, interleave.table(["", *head], [[k, *(f[n] for n in head)] for k, f in by_kind.items()]), sep="\n")
    print(f"written to {file}")


def measure(rounds: int) -> dict[str, Any]:
    """Seconds of both ways, in turn, and what the programs hold on one emulated device at their peak."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    from qr_jax import assemble, config
    from qr_jax.models import decoder
    from qr_jax.models.families import PRESETS
    from qr_jax.parallel import mesh as meshes

    meshes.emulate(DEVICES)
    cfg = replace(PRESETS["smollm2_135m"], heads=8, kv_heads=8)
    mesh = meshes.make_mesh(config.Mesh(fsdp=DEVICES))
    params = assemble.place(jax.jit(lambda: decoder.init(cfg, jax.random.key(0)))(), mesh)
    found = {}
    for kind in KINDS:
        ways = ours(cfg, mesh, kind), plain(cfg, mesh, kind)
        taken: list[list[float]] = [[], []]
        for number in range(rounds + 1):
            for way, (_, run) in enumerate(ways):
                start = time.monotonic()
                jax.block_until_ready(run(params))
                if number:  # the first compiles
                    taken[way].append(time.monotonic() - start)
        found[kind] = _figures(*(way(params) for way, _ in ways)) | {
            "seconds": statistics.median(taken[0]),
            "plain_seconds": statistics.median(taken[1]),
            "ratio": statistics.median(taken[1]) / statistics.median(taken[0]),
            "samples": taken,
        }
    return found


def for_tpu() -> dict[str, Any]:
    """What both ways hold and send on a chip of the slice, compiled ahead of time."""
    from qr_jax.config import Learner, Model
    from qr_jax.lab.planning import ahead
    from qr_jax.learner.learner import make
    from qr_jax.models.families import PRESETS

    cfg, chips = PRESETS["qwen3_1p7b"], ahead.devices(TOPOLOGY)
    mesh = ahead.mesh(chips, fsdp=len(chips))
    shapes = make(cfg, Model(compute="bfloat16"), Learner(), mesh).abstract.params
    found = {}
    for kind in KINDS:
        params = ordered(shapes, mesh, kind)
        found[kind] = _figures(*(way(cfg, mesh, kind, "bfloat16")[0](params) for way in (ours, plain)))
    return found


def ordered(shapes: Any, mesh: Any, kind: Any) -> Any:
    """The shapes on the mesh's chips in the order in which hosts have them, as a hand-over sends them first."""
    import jax
    from jax.sharding import Mesh, NamedSharding

    from qr_jax.parallel import host_local

    on = host_local.by_hosts(mesh, kind).devices.reshape(mesh.devices.shape)
    turned = Mesh(on, mesh.axis_names, axis_types=mesh.axis_types)
    at = jax.tree.map(lambda leaf: NamedSharding(turned, leaf.sharding.spec), shapes)
    return jax.tree.map(lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to), shapes, at)


def ours(cfg: Any, mesh: Any, kind: Any, compute: str = "float32") -> tuple[Any, Any]:
    """What the hand-over needs, (peak bytes, collective bytes), given parameters; and how it is run."""
    from qr_jax.lab.planning import ahead
    from qr_jax.parallel import host_local

    on = host_local.by_hosts(mesh, kind)

    def need(params: Any) -> tuple[int, int]:
        one = ahead.compiled(host_local.program(cfg, compute, on).lower(params))
        return one.peak_bytes + first_sent(mesh, on, one), sum(one.cost.collectives.values())

    return need, lambda params: host_local.over_hosts(params, cfg, compute, mesh, kind)


def first_sent(mesh: Any, on: Any, program: Any) -> int:
    """Bytes of the parameters that stay behind when they are first sent into another order of chips."""
    return 0 if list(on.devices.flat) == list(mesh.devices.flat) else program.argument_bytes


def plain(cfg: Any, mesh: Any, kind: Any, compute: str = "float32") -> tuple[Any, Any]:
    """The same of gathering first: the parameters stay, and the whole tree while it is laid out."""
    import jax
    import jax.numpy as jnp

    from qr_jax.lab.planning import ahead
    from qr_jax.parallel import host_local
    from qr_jax.parallel import mesh as meshes

    on = host_local.by_hosts(mesh, kind)
    to_decode_params, dtype = host_local.program(cfg, compute, on), jnp.dtype(compute)
    cast = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf.astype(dtype), tree))
    gather = meshes.whole_everywhere(on)

    def need(params: Any) -> tuple[int, int]:
        narrow = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding), params)
        gathered = ahead.compiled(gather.lower(narrow))
        at = meshes.replicated(on)
        whole = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=at), params)
        laid = ahead.compiled(to_decode_params.lower(whole))
        sent = sum(gathered.cost.collectives.values()) + sum(laid.cost.collectives.values())
        peak = max(gathered.peak_bytes, gathered.argument_bytes + laid.peak_bytes)
        wide = 0 if dtype == jnp.float32 else ahead.compiled(cast.lower(params)).argument_bytes
        return wide + peak + first_sent(mesh, on, gathered), sent

    return need, lambda params: to_decode_params(gather(params if dtype == jnp.float32 else cast(params)))


def _figures(own: tuple[int, int], other: tuple[int, int]) -> dict[str, Any]:
    names = ("peak_GB", "collective_GB")
    both = {name: size / 1e9 for name, size in zip(names, own)}
    return both | {f"plain_{name}": size / 1e9 for name, size in zip(names, other)}


if __name__ == "__main__":
    main()
