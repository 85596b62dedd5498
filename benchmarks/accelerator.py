"""Rollouts and updates on one GPU or TPU, beside what its memory and its matrix unit give in the same run.

    python -m benchmarks.accelerator                    # with transformers' generate beside (needs make bench-peers)
    python -m benchmarks.accelerator --no-peers --minutes 10 --parts decode_smollm2 update_qwen3

`decode_smollm2`: 128, 256 and 512 sequences of SmolLM2-135M's shape, 8 samples a prompt, prompt 128 + 256 new tokens,
by the function that train.py calls, in float32, in bfloat16 and in int8 beside bfloat16. `decode_qwen3`: 128 sequences
of Qwen3-1.7B's shape in bfloat16. `update_smollm2`, `update_qwen3`: one GRPO update of all weights and one of adapters
of rank 16, rows of 4,096 packed with episodes of 1,024 to 2,048 tokens. Weights are random, ends of turns are looked
for, and everything that is first compiled is timed apart. A case that `--minutes` leave no time for is "not reached".
Figures go to benchmarks/results/accelerator.json after each case; there are none yet: it has only been run with its
cases made small, on CPU (tests/around/test_gpu_queue.py).
"""

import argparse
import functools
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import interleave
from benchmarks.learner_ours import groups_of
from benchmarks.peers import model
from benchmarks.rollout_ours import CONFIG
from qr_jax import config
from qr_jax.learner import learner, pack
from qr_jax.models import costs, decoder, families, layout, lora
from qr_jax.models.tokenizer import RESERVED, WordTokenizer
from qr_jax.parallel import compile_cache, compiles, memory
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Query, Say, Stop, grades
from qr_jax.rollout.engine import Engine

PROMPT_TOKENS, NEW_TOKENS, SAMPLES = 128, 256, 8
QWEN, SMOLLM2 = families.PRESETS["qwen3_1p7b"], CONFIG
ROW_TOKENS, RANK, VOCAB_BLOCK = 4096, 16, 16384
ITEM_BYTES = {"int8": 1, "bfloat16": 2, "float32": 4}  # of weights and cache, by what is decoded in
NOT_REACHED = "not reached"
Remat = Literal["none", "full", "attention", "dots"]


def main(words: Sequence[str] | None = None) -> None:
    parser = interleave.parser(__doc__, rounds=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which (all)")
    parser.add_argument("--minutes", type=float, default=1e9, help="no case begins after them")
    parser.add_argument("--slots", type=int, nargs="+", default=[128, 256, 512], help="sequences of decode_smollm2")
    parser.add_argument("--kinds", nargs="+", choices=ITEM_BYTES, default=[*ITEM_BYTES], help="of decode_smollm2 (all)")
    parser.add_argument("--qwen-slots", type=int, default=128, help="sequences of decode_qwen3 (128)")
    parser.add_argument("--rows", type=int, default=8, help="packed rows of a micro-batch of the update (8)")
    parser.add_argument(
        "--remat", nargs="+", choices=get_args(Remat), default=["dots"], help="what of a layer is saved (dots)"
    )
    options = parser.parse_args(words)
    if jax.default_backend() == "cpu":
        raise SystemExit("benchmarks.accelerator: jax found no accelerator (jax.default_backend() is cpu)")
    compile_cache.enable()
    started = time.monotonic()
    figures: dict[str, Any] = {"device": jax.devices()[0].device_kind, "ceilings": ceilings()}
    show(figures)
    for name in options.parts:
        for case, measured in PARTS[name](options, figures["ceilings"]):
            late = time.monotonic() - started > 60 * options.minutes
            figures.setdefault(name, {})[case] = NOT_REACHED if late else measured()
            file = write(options, figures)
            show({f"{name}, {case}": figures[name][case]})
    if options.json:
        print(json.dumps(json.loads(file.read_text()), indent=1))


def write(options: argparse.Namespace, figures: dict[str, Any]):
    file = (options.results or interleave.ROOT / "benchmarks/results") / "accelerator.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    packages = {"ours": interleave.versions()}
    file.write_text(json.dumps({**figures, **interleave.commit(), "machine": interleave.machine(),
                                "packages": packages}, indent=1) + "\n")  # fmt: skip
    return file


def show(figures: dict[str, Any], depth: int = 0) -> None:
    for name, value in figures.items():
        if isinstance(value, dict):
            print("  " * depth + f"{name}:", flush=True)
            show(value, depth + 1)
        elif not isinstance(value, list):
            print(
                "  " * depth + f"{name}: {value:.4g}" if isinstance(value, float) else f"{'  ' * depth}{name}: {value}"
            )


def best_s(work: Callable[[], Any], goes: int = 5) -> float:
    jax.block_until_ready(work())
    times = []
    for _ in range(goes):
        start = time.perf_counter()
        jax.block_until_ready(work())
        times.append(time.perf_counter() - start)
    return min(times)


def ceilings(*, gigabytes: int = 4, side: int = 8192, goes: int = 10) -> dict[str, float]:
    """Bytes/s of reading an array, and operations/s of a large bfloat16 product of random numbers."""
    array = jax.random.normal(jax.random.key(0), (gigabytes * 2**19, 1024), jnp.bfloat16)
    read = jax.jit(lambda a: jnp.max(a, axis=1))
    squares = [jax.random.normal(jax.random.key(n), (side, side), jnp.bfloat16) for n in (1, 2)]
    product = jax.jit(lambda a, b: a @ b)

    def many():
        return [product(*squares) for _ in range(goes)]

    return {"read_bytes_a_s": array.nbytes / best_s(lambda: read(array)),
            "product_flop_a_s": 2 * goes * side**3 / best_s(many)}  # fmt: skip


# ---- rollouts


def one_turn(query: Query, turns) -> Say | Stop:
    return Stop("answered") if turns else Say(query.question, stop=("</search>", "</answer>"))


def no_search(queries: list[str], k: int) -> list:
    raise AssertionError(f"no turn searches here; asked for {queries} and {k}")


def queries_of(words: int, count: int, round_at: int) -> list[Query]:
    drawn = np.random.Generator(np.random.Philox([7, round_at])).integers(0, words, (count, PROMPT_TOKENS))
    return [Query(f"q{n}", " ".join(f"w{word}" for word in row), ("!",)) for n, row in enumerate(drawn)]


def decode(
    cfg: families.ModelConfig, params, slots: int, kind: str, rounds: int, ceilings: dict[str, float]
) -> dict[str, Any]:
    """Samples of one engine; what compiles is apart. Rates are medians; the bound reads weights and live cache once."""
    words, before = cfg.vocab - len(RESERVED), memory.memory_bytes()
    compute: Any = "bfloat16" if kind == "int8" else kind
    by_int8: Any = "int8" if kind == "int8" else "compute"
    settings = config.Rollout(
        slots=slots, store=slots // SAMPLES + 4, context_tokens=PROMPT_TOKENS + NEW_TOKENS, turn_tokens=NEW_TOKENS,
        tile=PROMPT_TOKENS, buckets=(8192,), chunk=32, weights=by_int8, cache=by_int8,
    )  # fmt: skip
    engine = Engine(cfg, WordTokenizer([f"w{n}" for n in range(words)]), settings, compute=compute)
    laid, samples = engine.rows.to_decode_params(params), []
    for round_at in range(-2, rounds):  # the first two compile, as the cache grows and shrinks again
        compiles.count()
        start = time.monotonic()
        groups = engine.run(
            laid, queries_of(words, slots // SAMPLES, round_at + 2), SAMPLES, env=one_turn, search=no_search, seed=1,
            step=round_at + 2,
        )  # fmt: skip
        seconds = time.monotonic() - start
        tokens = sum(int(episode.mask_L.sum()) for group in groups for episode in group)
        samples.append({"seconds": seconds, "tokens": tokens, "compiles": compiles.count(),
                        "statistics": asdict(engine.statistics)})  # fmt: skip
    compiling, samples = samples[:2], samples[2:]
    steps = samples[0]["statistics"]["decode_steps"]
    positions = samples[0]["statistics"]["cache_positions"]
    read_bytes = costs.decoding_bytes(cfg, steps=steps, positions=positions, item_bytes=ITEM_BYTES[kind])
    bound_s = read_bytes / ceilings["read_bytes_a_s"]
    whole = statistics.median(one["tokens"] / one["seconds"] for one in samples)
    decoding_s = statistics.median(one["statistics"]["decode_s"] for one in samples)
    return {
        "tokens_a_s": whole, "share_of_bandwidth_bound": bound_s / decoding_s, "ms_a_step": 1e3 * decoding_s / steps,
        "append_s": statistics.median(one["statistics"]["append_s"] for one in samples),
        "share_of_bandwidth_bound_whole_run": bound_s / statistics.median(one["seconds"] for one in samples),
        "compiling_runs_s": sum(one["seconds"] for one in compiling),
        "compiles_after": sum(one["compiles"] for one in samples),
        "largest_gap_nats": gap(cfg, params, groups, compute), "peak_bytes": own_peak(before), "samples": samples,
        "settings": asdict(settings),
    }  # fmt: skip


def own_peak(before: int) -> int | None:
    """Return the device's peak memory if a case raised it from `before`; None: an earlier case held as much or more.

    Devices tell the most since the process began, so that cases go from the smallest to the largest.
    """
    return now if (now := memory.memory_bytes()) > before else None


def gap(cfg: families.ModelConfig, params, groups, compute: str, count: int = 8) -> float:
    """Largest difference of a token's log-probability between the sampler and the learner's forward pass."""
    from qr_jax.models import logprob

    episodes = [group[0] for group in groups if len(group[0].ids_L) == PROMPT_TOKENS + NEW_TOKENS][:count]
    ids_NL, mask_NL, logp_NL = (
        np.stack([getattr(e, name) for e in episodes]) for name in ("ids_L", "mask_L", "logp_L")
    )

    @jax.jit
    def predict(params, ids_NL):
        position_NL = jnp.broadcast_to(jnp.arange(ids_NL.shape[1])[None], ids_NL.shape)
        hidden = decoder.forward(cfg, params, ids_NL, position_NL, jnp.ones_like(ids_NL), compute=jnp.dtype(compute))
        head = decoder.head_weights(params).astype(compute)
        return logprob.token_logprobs(hidden[:, :-1], head, ids_NL[:, 1:], block=8192)[0]

    return float(np.abs(np.asarray(predict(params, ids_NL)) - logp_NL[:, 1:])[mask_NL[:, 1:]].max())


Cases = Iterator[tuple[str, Callable[[], Any]]]  # a case's name, and what measures it


def decode_smollm2(options: argparse.Namespace, ceilings: dict[str, float]) -> Cases:
    params = jax.device_put(layout.assemble(SMOLLM2, dict(model.tensors()).__getitem__))
    for kind, slots in itertools.product(options.kinds, options.slots):
        yield f"{kind}, {slots}", functools.partial(decode, SMOLLM2, params, slots, kind, options.rounds, ceilings)
    if not options.no_peers:
        yield "transformers", functools.partial(transformers_generate, options)


def transformers_generate(options: argparse.Namespace) -> dict[str, Any]:
    worker = interleave.Worker(
        interleave.peer("transformers", "benchmarks.peers.torch_generate"), {"JAX_PLATFORMS": "cpu"}
    )
    try:
        return {str(slots): worker.ask("sample", slots=slots, rounds=options.rounds) for slots in options.slots}
    finally:
        worker.close()


def decode_qwen3(options: argparse.Namespace, ceilings: dict[str, float]) -> Cases:
    params = jax.jit(lambda key: decoder.init(QWEN, key))(jax.random.key(0))
    how = QWEN, params, options.qwen_slots, "bfloat16", options.rounds, ceilings
    yield f"bfloat16, {options.qwen_slots}", functools.partial(decode, *how)


# ---- the learner


def update_smollm2(options: argparse.Namespace, ceilings: dict[str, float]) -> Cases:
    return updates(SMOLLM2, options, ceilings)


def update_qwen3(options: argparse.Namespace, ceilings: dict[str, float]) -> Cases:
    return updates(QWEN, options, ceilings)


def updates(cfg: families.ModelConfig, options: argparse.Namespace, ceilings: dict[str, float]) -> Cases:
    for remat, rank in itertools.product(options.remat, (RANK, 0)):
        measured = functools.partial(update, cfg, options.rows, remat, rank, options.rounds, ceilings)
        yield f"{remat}, {f'adapters of rank {rank}' if rank else 'all weights'}", measured


def update(
    cfg: families.ModelConfig, rows: int, remat: Remat, rank: int, rounds: int, ceilings: dict[str, float]
) -> dict[str, Any]:
    """Model operations/s of updates over two micro-batches (costs.training_flops), and their share of the ceiling."""
    before = memory.memory_bytes()
    settings = config.Learner(rows=rows, row_tokens=ROW_TOKENS)
    shape = config.Model(compute="bfloat16", remat=remat, vocab_block=VOCAB_BLOCK, lora=config.Lora(rank))
    made = learner.make(cfg, shape, settings, meshes.make_mesh(config.Mesh(devices=1)))
    params = jax.jit(lambda key: decoder.init(cfg, key))(jax.random.key(0))
    if rank:
        base = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        state = made.init(lora.init(cfg, shape.lora, jax.random.key(1)), base)
    else:
        state = made.init(params)
    del params
    lengths = np.random.Generator(np.random.Philox(5)).integers(ROW_TOKENS // 4, ROW_TOKENS // 2 + 1, 4 * rows)
    lengths[2::4], lengths[3::4] = ROW_TOKENS - lengths[0::4], ROW_TOKENS - lengths[1::4]  # pairs that fill a row
    lengths = np.maximum(lengths, 1)
    ids = [np.arange(length, dtype=np.int32) % 1000 + 3 for length in lengths.tolist()]
    groups = groups_of(ids, SAMPLES if len(ids) % SAMPLES == 0 else 4, PROMPT_TOKENS)
    reward_QG = np.tile(np.array([0, 1], np.float32), (len(groups), len(groups[0]) // 2))
    graded = grades(reward_QG, np.ones_like(reward_QG, bool))
    batch = pack.pack(groups, graded, rows=rows, row_tokens=ROW_TOKENS, queries=len(groups), samples=len(groups[0]))
    predicted = int(batch.mask_MEL.sum())
    flops = costs.training_flops(
        cfg, tokens=int(lengths.sum()), pairs=int((lengths * (lengths + 1) // 2).sum()), predicted=predicted,
        adapters=lora.count(cfg, shape.lora) if rank else None,
    )  # fmt: skip
    times = []
    for _ in range(rounds + 1):
        start = time.monotonic()
        state, metrics = made.train_step(state, batch, np.float32(settings.lr))
        jax.block_until_ready((state, metrics))
        times.append(time.monotonic() - start)
    rate = flops / statistics.median(times[1:])
    return {
        "share_of_product_rate": rate / ceilings["product_flop_a_s"], "model_flop_a_s": rate,
        "tokens_a_s": float(lengths.sum()) / statistics.median(times[1:]), "compiling_step_s": times[0],
        "micro_batches": int(batch.used_M.sum()), "packing": pack.packing_efficiency(batch),
        "peak_bytes": own_peak(before), "loss": float(metrics["loss"]),
        "seconds": times[1:], "settings": asdict(settings) | asdict(shape),
    }  # fmt: skip


PARTS = {
    "decode_smollm2": decode_smollm2,
    "update_qwen3": update_qwen3,
    "update_smollm2": update_smollm2,
    "decode_qwen3": decode_qwen3,
}

if __name__ == "__main__":
    main(sys.argv[1:])
