"""Contender: rollouts by qr_jax, through the function that train.py calls (rollout/engine.py, Engine.run).

The real BM25, the real search machinery and the real stop-string matcher run; only the matcher's verdict is replaced,
so that every turn ends after the same number of tokens on all sides.
"""

import threading
import time
from dataclasses import asdict, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import interleave
from benchmarks.peers import load, model
from benchmarks.rollout import LOADS
from qr_jax.config import Rollout
from qr_jax.models import costs, decoder, families, layout, logprob
from qr_jax.parallel import compiles
from qr_jax.records import Query, Say, Search, Stop
from qr_jax.rollout import live
from qr_jax.rollout.engine import Engine

CONFIG = families.ModelConfig(
    model.VOCAB, model.WIDTH, model.LAYERS, model.HEADS, model.KV_HEADS, model.HEAD_DIM, model.MLP,
    context_tokens=8192, rope_theta=float(model.ROPE_THETA), norm_eps=model.NORM_EPS, qk_norm=True,
)  # fmt: skip
EPISODE_TOKENS = (load.SEARCHES + 1) * load.TURN_TOKENS + load.SEARCHES * load.OBSERVATION_TOKENS + load.PROMPT_TOKENS
SETTINGS = {
    "multi_turn": Rollout(
        slots=load.MULTI_QUERIES * load.MULTI_SAMPLES, context_tokens=EPISODE_TOKENS, turn_tokens=load.TURN_TOKENS,
        observation_tokens=load.OBSERVATION_TOKENS, search_k=load.SEARCH_K, tile=128, buckets=(512, 1024),
    ),
    "single_turn": Rollout(
        slots=load.SINGLE_BATCH, context_tokens=load.PROMPT_TOKENS + load.TURN_TOKENS, turn_tokens=load.TURN_TOKENS,
        tile=128, buckets=(512, 1024),
    ),
}  # fmt: skip
CHECKED = 8  # episodes whose log-probabilities are compared with the learner's
state: dict[Any, Any] = {}  # engines by load and slots; the parameters, the search, the last episodes


def schedule_turns() -> None:
    """Let `Live.take` match stop strings as ever, then end the turn after TURN_TOKENS and nowhere else."""
    matched = live.EpisodeState.take

    def take(self: live.EpisodeState, *arguments: Any, **more: Any) -> int:
        taken = matched(self, *arguments, **more)
        self.complete, self.by_eos = len(self.ids) - self.turn_start >= load.TURN_TOKENS, False
        return taken

    live.EpisodeState.take = take


def three_searches(query: Query, turns) -> Say | Search | Stop:
    """An environment that searches three times, then stops."""
    if not turns:
        return Say(load.prompt(query), stop=load.STOP)
    if turns[-1].author == "env":
        return Say(load.observation(turns[-1].passages[0]), "inline", load.STOP)
    if sum(turn.author == "model" for turn in turns) > load.SEARCHES:
        return Stop("answered")
    return Search((load.search_text(query, turns[-1].text),))


def one_turn(query: Query, turns) -> Say | Stop:
    return Stop("answered") if turns else Say(load.prompt(query), stop=load.STOP)


def prepare(load_name: str, folder: str = "", precision: str = "float32") -> dict[str, Any]:
    """Build and warm up; returns the seconds of each. Earlier checkouts keep BM25's index in `folder`."""
    del folder
    state["precision"] = precision
    compiles.count()
    start = time.monotonic()
    if "params" not in state:
        schedule_turns()
        tensors = dict(model.tensors())
        params = layout.assemble(CONFIG, tensors.__getitem__)
        state.update(params=jax.device_put(params), search=load.search())
    built_s, before = time.monotonic() - start, compiles.count()
    start = time.monotonic()  # what no rollout meets before it is measured is compiled too
    for measured in LOADS.values():
        if measured.kind == load_name:
            engine = engine_of(load_name, measured.slots)
            longest = engine.settings.context_tokens
            engine.warm_up(state["params"], prompt_tokens=load.PROMPT_TOKENS, positions=longest)
            sample(load_name, -1, episodes=measured.episodes, group=measured.group, slots=measured.slots)
    warm_up_s = time.monotonic() - start
    return {"built_s": built_s, "warm_up_s": warm_up_s, "compiles": compiles.count() - before,
            "settings": asdict(SETTINGS[load_name])}  # fmt: skip


def engine_of(load_name: str, slots: int | None) -> Engine:
    """Made when first asked for, and kept."""
    if (load_name, slots) not in state:
        settings, is_int8 = SETTINGS[load_name], state["precision"] == "int8"
        settings = replace(settings, slots=slots) if slots else settings
        settings = replace(settings, weights="int8", cache="int8") if is_int8 else settings
        compute = "float32" if is_int8 else state["precision"]
        state[load_name, slots] = Engine(CONFIG, load.tokenizer(), settings, compute=compute)
    return state[load_name, slots]


def sample(
    load_name: str, round: int, *, episodes: int, group: int, slots: int | None = None, latency_s: float = 0.0,
    with_bounds: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Seconds, generated tokens and the engine's own statistics of one rollout; `group` samples of a question.

    `with_bounds` adds what the machine would allow at this moment, measured right after it.
    """
    engine, before = engine_of(load_name, slots), compiles.count()
    env = {"multi_turn": three_searches, "single_turn": one_turn}[load_name]
    start = time.monotonic()
    groups = engine.run(
        state["params"], load.chosen(round, episodes // group), group, env=env,
        search=load.late(state["search"], latency_s), seed=1,
        step=round + 1,  # the warm-up is round -1
    )  # fmt: skip
    seconds = time.monotonic() - start
    made = state["episodes"] = [episode for group in groups for episode in group]
    tokens = sum(int(episode.mask_L.sum()) for episode in made)
    turns = load.SEARCHES + 1 if load_name == "multi_turn" else 1
    assert tokens == len(made) * turns * load.TURN_TOKENS, f"{tokens} tokens in {len(made)} episodes of {turns} turns"
    assert all(episode.stop == "answered" for episode in made), [episode.stop for episode in made]
    return {
        "seconds": seconds, "tokens": tokens, "tokens_a_s": tokens / seconds, "episodes": len(made),
        "compiles": compiles.count() - before, "compiled": compiles.told(before) if compiles.count() > before else "",
        "statistics": vars(engine.statistics),
        "decode_tokens_a_s": tokens / max(engine.statistics.decode_s, 1e-9),
        "episode_tokens": [len(episode.ids_L) for episode in made],
        **(bounds(len(made), load.PROMPT_TOKENS + load.TURN_TOKENS / 2) if with_bounds else {}),
    }  # fmt: skip


def gap() -> dict[str, float]:
    """Largest difference in log-probability between sampler and learner, over CHECKED episodes of the last sample."""
    episodes = state["episodes"][:: max(1, len(state["episodes"]) // CHECKED)][:CHECKED]
    ids_NL, mask_NL, logp_NL = (
        np.stack([getattr(e, name) for e in episodes]) for name in ("ids_L", "mask_L", "logp_L")
    )

    @jax.jit
    def learner(params, ids_NL):
        position_NL = jnp.broadcast_to(jnp.arange(ids_NL.shape[1])[None], ids_NL.shape)
        hidden = decoder.forward(CONFIG, params, ids_NL, position_NL, jnp.ones_like(ids_NL))
        return logprob.token_logprobs(hidden[:, :-1], decoder.head_weights(params), ids_NL[:, 1:], block=8192)[0]

    found_NL = np.asarray(learner(state["params"], ids_NL))
    difference = np.abs(found_NL - logp_NL[:, 1:])[mask_NL[:, 1:]]
    return {"episodes": len(episodes), "tokens": int(mask_NL.sum()), "largest_nats": float(difference.max())}


def check() -> dict[str, list[float]]:
    """What this contender's logits of the common ids are (peers/model.py)."""
    ids = jnp.asarray(model.check_ids())
    position = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)
    hidden = decoder.forward(CONFIG, state["params"], ids, position, jnp.ones_like(ids))
    return model.check_answer(np.asarray(decoder.logits(CONFIG, state["params"], hidden)))


def bounds(batch: int, mean_length: float) -> dict[str, Any]:
    """Tokens/s that memory and arithmetic allow: each step reads the weights and the live cache once.

    Bandwidth and rate are what this machine gives now, the best of several goes (`read_bandwidth`, `product_rate`).
    """
    parameters = costs.parameter_count(CONFIG)
    each = {"float32": 4, "bfloat16": 2, "int8": 1}[state["precision"]]  # int8's scales are left out
    weight_bytes = each * parameters
    cache_bytes = batch * mean_length * 2 * CONFIG.layers * CONFIG.kv_heads * CONFIG.head_dim * each
    ways, rate = read_bandwidth(), product_rate()
    bandwidth = max(ways.values())
    return {
        "read_bytes_a_s": ways, "product_flop_a_s": rate, "weight_bytes": weight_bytes, "cache_bytes": cache_bytes,
        "bandwidth_bound_tokens_a_s": batch / ((weight_bytes + cache_bytes) / bandwidth),
        "arithmetic_bound_tokens_a_s": rate / (2 * parameters),
    }  # fmt: skip


def read_bandwidth(*, megabytes: int = 512, goes: int = 5) -> dict[str, float]:
    """Bytes/s of reading an array far larger than any cache, in three ways, the best go of each.

    A thread a core that takes the maximum of its part (numpy), a matrix-vector product by BLAS, and one by XLA.
    """
    cores = interleave.machine()["cores"]
    array = np.ones((megabytes * 256, 1024), np.float32)
    vector, parts = np.ones(1024, np.float32), np.array_split(array, cores)
    on_device = jax.device_put(array)
    product = jax.jit(lambda a, b: a @ b)

    def threads() -> None:
        each = [threading.Thread(target=part.max) for part in parts]
        for thread in each:
            thread.start()
        for thread in each:
            thread.join()

    ways = {
        "numpy_threads": threads, "blas": lambda: array @ vector,
        "xla": lambda: product(on_device, vector).block_until_ready(),
    }  # fmt: skip
    return {name: array.nbytes / min(timed(way) for _ in range(goes)) for name, way in ways.items()}


def product_rate(*, size: int = 2048, goes: int = 5) -> float:
    """float32 operations/s of a large matrix product by XLA."""
    square = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a, b: a @ b)
    return 2 * size**3 / min(timed(lambda: product(square, square).block_until_ready()) for _ in range(goes))


def timed(work) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


if __name__ == "__main__":
    interleave.serve({
        "prepare": prepare, "sample": sample, "gap": gap, "check": check, "versions": interleave.versions,
    })  # fmt: skip
