"""One of the processes that tests/test_pods.py starts.

    python tests/pod_process.py maths PORT COUNT INDEX FOLDER
    python tests/pod_process.py train PORT COUNT INDEX FOLDER [kill|term|raise STEP]

"maths" settles recorded outcomes for ten steps and works out one gradient; "train" trains by FOLDER/config.json into
FOLDER/run, and with "kill", "term" or "raise" sends this process SIGKILL or SIGTERM in that step's rollout, or lets it
meet an error. Where the run lives in a bucket, each process and start has a new folder, as new machines would.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
DEVICES = 4  # over all processes


def settle_recorded(folder: Path) -> None:
    """Each process grades the queries dealt to it from FOLDER/outcomes.npz; all write the pool's digest a step."""
    import numpy as np
    from settling import settle as settled_step

    from qr_jax.parallel import hosts
    from qr_jax.pool import pool as pools
    from qr_jax.records import grades

    with np.load(folder / "outcomes.npz") as recorded:
        reward_TPG, valid_TPG = recorded["reward"], recorded["valid"]
    pool, digests = pools.create(reward_TPG.shape[1]), []
    for step, (reward_PG, valid_PG) in enumerate(zip(reward_TPG, valid_TPG, strict=True)):
        drawn_Q = pools.draw(pool, 8, seed=3, step=step)
        mine_at = hosts.deal(1.0 + drawn_Q % 3, hosts.count())[hosts.index()]
        mine = [[reward_PG[query], valid_PG[query]] for query in drawn_Q[mine_at]]
        graded = grades(*map(np.array, zip(*hosts.gather_in_order(mine, mine_at, "query", len(drawn_Q)), strict=True)))
        pool = settled_step(pool, drawn_Q, graded, step=step, accept=4, rule="recycle").pool
        digests.append(pools.digest(pool))
        hosts.assert_same(digests[-1], f"the pool after step {step}")
    (folder / f"pool_{hosts.count()}_{hosts.index()}.txt").write_text("\n".join(digests))


def work_out_a_gradient(folder: Path) -> None:
    """Process 0 writes loss and gradient of a fixed batch, gathered from the mesh of all processes' devices.

    Of two models, the learner's test's and one of its size with Gemma 3's layers; then of adapters, whose weights after
    an update stand behind their gradient.
    """
    import jax
    import numpy as np
    import test_learner

    from qr_jax import assemble, config
    from qr_jax.learner import learner
    from qr_jax.models import decoder, lora
    from qr_jax.parallel import host_local, hosts
    from qr_jax.parallel import mesh as meshes

    draw, model = np.random.default_rng(0), test_learner.MODEL
    mesh = meshes.make_mesh(config.Mesh(data=2, fsdp=2, devices=DEVICES))
    gemma = replace(test_learner.CFG, kv_heads=1, gemma3=True, sliding=(True, False), window=6)
    adapted = replace(model, lora=config.Lora(rank=4))
    of_adapters = lora.abstract(test_learner.CFG, adapted)
    models = [(cfg, model, (decoder.abstract(cfg),)) for cfg in (test_learner.CFG, gemma)]
    leaves: dict[str, list] = {"gradient": [], "lora": []}
    for cfg, its_model, shapes in [*models, (test_learner.CFG, adapted, of_adapters)]:
        name = "lora" if its_model is adapted else "gradient"
        made = learner.make(cfg, its_model, test_learner.SETTINGS, mesh)
        weights = jax.tree.map(lambda leaf: draw.normal(0, leaf.shape[-1] ** -0.5, leaf.shape).astype("f4"), shapes)
        state = made.init(*(assemble.place(tree, mesh) for tree in weights))
        loss, gradient, _ = made.gradient(state, test_learner.batch())
        trees = [gradient]
        if its_model is adapted:
            trees.append(made.train_step(state, test_learner.batch(), test_learner.RATE)[0].params)
        leaves[name] += [loss, *jax.tree.leaves(host_local.on_one_device(trees, mesh))]
    if hosts.index() == 0:
        for name, arrays in leaves.items():
            np.savez(folder / f"{name}_{hosts.count()}.npz", *map(np.asarray, arrays))


def read_decoding(folder: Path) -> None:
    """Hand parameters over from the global mesh to an engine, and write the HLO of its decode program."""
    import jax
    import numpy as np

    from qr_jax import assemble, config
    from qr_jax.data.world.generate import vocabulary
    from qr_jax.models import decoder, families
    from qr_jax.models.tokenizer import WordTokenizer
    from qr_jax.parallel import host_local, hosts
    from qr_jax.parallel import mesh as meshes
    from qr_jax.rollout import decode
    from qr_jax.rollout.engine import Engine

    mesh = meshes.make_mesh(config.Mesh(data=2, fsdp=2, devices=DEVICES))
    tokenizer = WordTokenizer(vocabulary())
    cfg = replace(families.PRESETS["two_layer"], vocab=tokenizer.size)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), decoder.abstract(cfg))
    params = assemble.place(zeros, mesh)
    engine = Engine(cfg, tokenizer, config.Rollout(slots=8, context_tokens=128, turn_tokens=16, buckets=(32,)))
    laid = host_local.to_rollout_params(params, config.Config(), cfg, mesh, "slots")
    rows = engine.rows
    rows.settle_on(laid)
    assert all(leaf.sharding.device_set <= set(jax.local_devices()) for leaf in jax.tree.leaves((laid, rows.caches)))
    none = np.zeros(8, np.int32)
    lowered = decode.decode.lower(
        laid, rows.caches["slots"], None, none, none, none, np.zeros((8, 2), np.uint32), rows.stop_at_V, np.float32(1),
        cfg=cfg, chunk=4, sampling=rows.sampling, mesh=rows.mesh,
    )  # fmt: skip
    (folder / f"decode_{hosts.count()}_{hosts.index()}.hlo").write_text(lowered.compile().as_text())


def work_out(folder: Path) -> None:
    settle_recorded(folder)
    work_out_a_gradient(folder)
    read_decoding(folder)


def strike(kind: str, at_step: int) -> None:
    """Let this process get SIGKILL or SIGTERM, or an error, in that step's rollout, once some tokens are decoded."""
    from qr_jax.rollout import kv_cache
    from qr_jax.run import runs
    from qr_jax.step import rollout_and_grade

    roll_out, stop_now, now, asked = rollout_and_grade.roll_out, runs.Run.stop_now, [-1], [0]

    def at(parts, params, progress, wanted, groups, number):
        now[0] = number
        return roll_out(parts, params, progress, wanted, groups, number)

    def struck(self):
        asked[0] += now[0] == at_step
        if asked[0] == 3:
            os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGTERM)
        return stop_now(self)

    def raising(self, *positional, **named):
        asked[0] += now[0] == at_step
        if asked[0] == 3:
            raise RuntimeError("the leader's own trouble")
        return decode(self, *positional, **named)

    rollout_and_grade.roll_out = at
    if kind == "raise":
        decode, kv_cache.KVCache.decode = kv_cache.KVCache.decode, raising
    else:
        runs.Run.stop_now = struck


def main(mode: str, port: str, count: str, index: str, folder: str, *more: str) -> int:
    several = ["--coordinator", f"127.0.0.1:{port}", "--processes", count, "--process", index]
    if mode == "train":
        from qr_jax import config
        from qr_jax.cli import cli

        if more:
            strike(more[0], int(more[1]))
        lives = config.load(f"{folder}/config.json").train.bucket
        run = f"{folder}/run_{port}_{index}" if lives else f"{folder}/run"
        places = [f"{folder}/config.json", "--run", run, "--trust", "--verbose"]
        return cli.main(["train", *places, *several])
    from qr_jax import config
    from qr_jax.parallel import start

    start.begin(config.Mesh(devices=DEVICES), coordinator=f"127.0.0.1:{port}", processes=int(count), process=int(index))
    work_out(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
