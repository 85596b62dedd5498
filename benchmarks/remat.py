"""What the update of SmolLM2's laptop preset costs, in seconds and memory, by what a layer's backward pass finds saved.

    python -m benchmarks.remat                   # 10 minutes on an idle machine of 2 cores; results/remat.json

Updates of 8 episodes of 300 to 600 tokens, in rows of 1,024, the ways in turn; memory is XLA's count of what an update
holds besides its arguments.
"""

import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import interleave
from benchmarks.learner_ours import groups_of
from benchmarks.tables import markdown
from qr_jax import config
from qr_jax.learner import learner, pack
from qr_jax.models import decoder, families
from qr_jax.parallel import mesh as meshes
from qr_jax.records import grades

CFG, ROW_TOKENS, ROUNDS = families.PRESETS["smollm2_135m"], 1024, 4
WAYS = ((2, "none"), (1, "none"), (1, "dots"), (1, "attention"), (1, "full"))  # rows a micro-batch, model.remat
GIB = 2**30


def main() -> None:
    """Measure, write the results and print them."""
    interleave.no_options(__doc__)
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, CFG.vocab, int(tokens)).astype(np.int32) for tokens in rng.integers(300, 600, 8)]
    reward_QG = np.tile(np.arange(4) % 2, (2, 1)).astype(np.float32)
    graded = grades(reward_QG, np.ones_like(reward_QG, bool))
    updates, found = [], []
    for rows, remat in WAYS:
        settings = config.Learner(rows=rows, row_tokens=ROW_TOKENS)
        model, mesh = config.Model(vocab_block=8192, remat=remat), meshes.make_mesh(config.Mesh(devices=1))
        made = learner.make(CFG, model, settings, mesh)
        batch = pack.pack(groups_of(ids, 4, 100), graded, rows=rows, row_tokens=ROW_TOKENS, queries=2, samples=4)
        compiled = made.train_step.jitted.lower(made.abstract, batch, np.float32(0)).compile()
        held = compiled.memory_analysis().temp_size_in_bytes
        updates.append((made, batch))
        found.append({"rows": rows, "remat": remat, "temporary_bytes": held, "seconds": []})
    state = updates[0][0].init(_weights(rng))
    for number in range(ROUNDS):
        for way, (made, batch) in zip(found, updates, strict=True):
            start = time.monotonic()
            state, _ = jax.block_until_ready(made.train_step(state, batch, np.float32(1e-6)))
            if number:  # the first one compiles
                way["seconds"].append(time.monotonic() - start)
    file = interleave.results("remat", {"rounds": ROUNDS - 1, "ways": found}, ())
    print(table(json.loads(file.read_text())))


def _weights(rng: np.random.Generator):
    shapes = decoder.abstract(CFG)
    return jax.tree.map(lambda leaf: jnp.asarray(0.03 * rng.standard_normal(leaf.shape, np.float32)), shapes)


def table(found: dict) -> str:
    """In Markdown, the ways as measured, times beside the first's."""
    rows = [("rows of 1,024", "model.remat", "temporaries", "an update", "of the first's time")]
    first = statistics.median(found["ways"][0]["seconds"])
    for way in found["ways"]:
        seconds = statistics.median(way["seconds"])
        rows.append((
            str(way["rows"]), way["remat"], f"{way['temporary_bytes'] / GIB:.2f} GiB", f"{seconds:.1f} s",
            f"{seconds / first:.2f}",
        ))  # fmt: skip
    return markdown(rows)


if __name__ == "__main__":
    main()
