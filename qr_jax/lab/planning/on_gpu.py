"""The peak memory of a config's programs on one GPU: as XLA's GPU compiler allocates it, or by the arrays' sizes.

XLA's compiler for CPUs is no help: it computes bfloat16 in float32, and one token of Qwen3-0.6B in 32 slots takes
23 GiB there beside the caches, of which an A100 needs .2.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from qr_jax.config import Config
from qr_jax.lab.planning import ahead, cards, estimate, planned
from qr_jax.lab.planning.cards import Card
from qr_jax.lab.planning.programs import Programs, Slice, model_shape

LARGEST_HEAD = 128  # for a larger one jax asks the GPU of this process whether cuDNN takes it


def examine(settings: Config, card: Card, *, compiles: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the bytes of each program while it runs, and whether the largest is within what jax may hold of the card.

    `own` is what each needs beside what is `resident` then. Without `compiles` it is estimated (`by_arrays`).
    """
    device = cards.device(card) if compiles else jax.local_devices(backend="cpu")[0]
    mesh = settings.mesh
    if reason := planned.wrong_mesh(mesh, "one GPU", 1):
        raise ValueError(reason.replace(", or name another topology", ""))
    cfg = model_shape(settings)
    if compiles and cfg.head_dim > LARGEST_HEAD and settings.model.attention == "auto":
        settings = replace(settings, model=replace(settings.model, attention="xla"))
    programs = Programs(settings, cfg, Slice((device,), (device,), 1))
    if compiles:
        made: dict[str, ahead.Program] = {}
        planned.compile_all(programs, planned.Compiler(say, gpu=True), made)
        held = planned.resident(programs, made)
        own = planned.own(made, held, reordered=False)
    else:
        held, own = by_arrays(programs)
    phases = estimate.phases(held, own)
    worst = max(phases, key=lambda name: phases[name])
    fits = phases[worst] <= card.usable_bytes
    return {
        "gpu": card.name, "memory_bytes": card.memory_bytes, "usable_bytes": card.usable_bytes, "compiled": compiles,
        "peak_bytes": phases[worst], "program": worst, "fits": fits, "todo": None if fits else estimate.CAUSES[worst],
        "memory_by_phase": phases, "resident": held, "own": own,
    }  # fmt: skip


def by_arrays(programs: Programs) -> tuple[dict[str, int], dict[str, int]]:
    """Return what is resident, exactly, and what each program needs beside it, by its largest arrays.

    An update: the gradients' sum and those of a micro-batch, what each layer saves, one layer's own arrays, two blocks
    of logits, the mask of cuDNN's attention. Decoding: the keys of one layer, and three arrays of logits. A prefill:
    keys and values of one layer for its rows, and their scores. The hand-over: the copy, and a layer in float32.
    """
    size, cfg, item = planned.a_device, programs.cfg, programs.compute.itemsize
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
    one_layer = math.ceil(4 * _matrices(cfg) / cfg.layers)
    own = {
        "train": train, "hand_over": held["laid"] + one_layer, "prefill": attended + size(shapes["new"]),
        "decode": held["slots"] // (2 * cfg.layers) + 3 * 4 * rollout.slots * cfg.vocab,
    }  # fmt: skip
    return held, own


def _matrices(cfg: Any) -> int:
    """Count the weights of the layers' matrices."""
    inner, outer = cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
    return cfg.layers * cfg.width * (2 * inner + 2 * outer + 3 * cfg.mlp)
