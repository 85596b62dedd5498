"""How much of one update of adapters reaches the sampler: merged into bfloat16 weights, or computed beside them.

    python -m benchmarks.lora_hand_over                      # SmolLM2-135M (make smollm2), 15 minutes on 2 cores
    python -m benchmarks.lora_hand_over --model quickstart   # random weights of 0.37M parameters, seconds

Adapters of rank 16 on all matrices of a bfloat16 base take one update by Adam at the rate 1e-6, as a run's first. Of
each trained token and of as many fresh ones its log-probability is worked out before and after: exactly (float32 sums
on the same base), by the learner in bfloat16, and by the programs that rollouts decode with, over each hand-over. The
share that survives is the slope of the sampler's change on the exact one, with its standard error. Sums in bfloat16 are
noise of a hundredth of a nat a token, far above the change: so the decode programs run on each hand-over's weights with
float32 sums too.
"""

import argparse
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import interleave
from qr_jax import config
from qr_jax.learner import learner
from qr_jax.learner.pack import pack
from qr_jax.models import attention, decoder, families, hf, incremental, lora
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Episode, Query, grades

RATE = 1e-6
GROUPS, SAMPLES, PROMPT, LENGTH = 8, 4, 16, 64  # of tokens; half of the groups are trained on
SETTINGS = config.Lora(rank=16, alpha=32.0)


def main() -> None:
    """Take the update, measure the changes, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a preset, or what model.name takes (smollm2)")
    options = parser.parse_args()
    cfg, whole = weights(options.model)
    base = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.bfloat16), whole)
    before = lora.init(cfg, SETTINGS, jax.random.key(1))
    ids_NL = written(cfg, base)
    after = updated(cfg, base, before, ids_NL[: GROUPS // 2 * SAMPLES])
    merged = functools.partial(lora.whole, base=base, settings=SETTINGS)
    exact = change(cfg, ids_NL, *(by_learner(jnp.float32, merged(tree)) for tree in (before, after)))
    shares = {}
    for name, change_NL in changes(cfg, ids_NL, merged(before), merged(after)):
        shares[name] = share(change_NL, exact)
        print(f"{name}: {shares[name]['share']:.3f} +- {shares[name]['error']:.3f}", flush=True)
    sizes = {"tokens": int(exact.size), "mean_abs_change": float(np.abs(exact).mean())}
    result = {"model": options.model, "rate": RATE, "rank": SETTINGS.rank, **sizes, "shares": shares}
    keep("lora_hand_over", options.model, result)
    rows = [
        [name, f"{of['share']:.3f} +- {of['error']:.3f}", f"{of['mean_abs_change']:.1e}"] for name, of in shares.items()
    ]
    print(interleave.table(["how", "share of the update", "mean change, nats"], rows))


def keep(name: str, model: str, result: dict[str, Any]) -> None:
    """Put a model's figures into benchmarks/results/NAME.json, beside those of other models."""
    file = interleave.ROOT / f"benchmarks/results/{name}.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    about = {"commit": interleave.commit(), "machine": interleave.machine()}
    file.write_text(json.dumps(kept | {model: about | result}, indent=1) + "\n")


def weights(name: str) -> tuple[families.ModelConfig, Any]:
    if name in families.PRESETS:
        return families.PRESETS[name], decoder.init(families.PRESETS[name], jax.random.key(0))
    return hf.load(hf.resolve(name))


def written(cfg: families.ModelConfig, base) -> np.ndarray:
    """Return tokens [N, L] that the model itself would write, after random prompts; not greedily."""
    ids_NL = np.random.default_rng(0).integers(0, cfg.vocab, (GROUPS * SAMPLES, LENGTH)).astype(np.int32)
    for at in range(PROMPT, LENGTH, 8):  # eight at a time, each from the prediction before the block: near enough
        logits_NLV = np.asarray(_learner_logits(cfg, jnp.float32, base, ids_NL)[:, at - 1 : at])
        noise = np.random.default_rng(at).gumbel(size=(len(ids_NL), 8, cfg.vocab))
        ids_NL[:, at : at + 8] = np.argmax(logits_NLV + noise, axis=-1)
    return ids_NL


def updated(cfg: families.ModelConfig, base, params, ids_NL: np.ndarray, rate: float = RATE):
    """Return the parameters (with a base: adapters) after one GRPO update in which every other sample was right."""
    model = config.Model(compute="bfloat16", lora=SETTINGS) if base is not None else config.Model()
    settings = config.Learner(lr=rate, rows=8, row_tokens=LENGTH)
    made = learner.make(cfg, model, settings, meshes.make_mesh(config.Mesh(devices=1)))
    mask_L, zeros_L = np.arange(LENGTH) >= PROMPT, np.zeros(LENGTH, np.float32)
    turn_L = np.where(mask_L, 0, -1).astype(np.int32)
    episodes = [
        Episode(Query("q", "?", ("a",)), at % SAMPLES, 0, ids_L, mask_L, zeros_L, turn_L, (), None, "answered", True)
        for at, ids_L in enumerate(ids_NL)
    ]
    groups = [episodes[at : at + SAMPLES] for at in range(0, len(episodes), SAMPLES)]
    graded = grades(np.tile([0.0, 1.0], (len(groups), SAMPLES // 2)), np.ones((len(groups), SAMPLES), bool))
    packed = pack(groups, graded, rows=8, row_tokens=LENGTH, queries=len(groups), samples=SAMPLES)
    state = made.init(*jax.tree.map(jnp.copy, (params, base)))  # an update donates them
    return made.train_step(state, packed, np.float32(rate))[0].params


Logits = Callable[[families.ModelConfig, np.ndarray], Any]


def changes(cfg: families.ModelConfig, ids_NL, before, after):
    """Yield each way of reading the weights, and the change of log-probabilities by it."""
    fused = [lora.merged(tree) for tree in (before, after)]
    rounded = [jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree) for tree in fused]
    yield "the learner, bfloat16 sums", change(cfg, ids_NL, *(by_learner(jnp.bfloat16, t) for t in (before, after)))
    yield "merged in bfloat16, bfloat16 sums", change(cfg, ids_NL, *(by_sampler(jnp.bfloat16, t) for t in rounded))
    unmerged = (by_sampler(jnp.bfloat16, tree) for tree in (before, after))
    yield "beside the matrices, bfloat16 sums", change(cfg, ids_NL, *unmerged)
    exact_sums = functools.partial(by_sampler, jnp.bfloat16, sums=jnp.float32)
    yield "merged in bfloat16, float32 sums", change(cfg, ids_NL, *map(exact_sums, rounded))
    yield "beside the matrices, float32 sums", change(cfg, ids_NL, *map(exact_sums, (before, after)))
    yield "merged in float32, float32 sums", change(cfg, ids_NL, *(by_sampler(jnp.float32, tree) for tree in fused))


def change(cfg: families.ModelConfig, ids_NL: np.ndarray, before: Logits, after: Logits) -> np.ndarray:
    """Return the changes of the sampled tokens' log-probabilities, [N, L - prompt]."""
    first, second = (np.concatenate([logp(cfg, some, of) for some in np.split(ids_NL, 8)]) for of in (before, after))
    return second - first


def logp(cfg: families.ModelConfig, ids_NL: np.ndarray, of: Logits) -> np.ndarray:
    table_NLV = jax.nn.log_softmax(of(cfg, ids_NL)[:, PROMPT - 1 : -1])
    return np.asarray(jnp.take_along_axis(table_NLV, ids_NL[:, PROMPT:, None], -1)[..., 0], np.float64)


def by_learner(kind, params) -> Logits:
    return lambda cfg, ids_NL: _learner_logits(cfg, kind, params, ids_NL)


def by_sampler(kind, params, int8: bool = False, sums=None) -> Logits:
    """Return the decode programs' logits: a tree with adapters is laid out as a rollout in this dtype has it.

    `sums`: the dtype in which these weights are added up; None: their own.
    """

    def logits(cfg: families.ModelConfig, ids_NL: np.ndarray):
        laid = incremental.to_decode_params(cfg, params, kind, int8)
        laid = laid if sums is None else jax.tree.map(lambda leaf: leaf.astype(sums), laid)
        return _sampler_logits(cfg, laid, ids_NL).T.reshape(*ids_NL.shape, -1)  # XLA on CPU cannot turn inside

    return logits


def _logits(cfg, kind, params, ids_NL):
    at_NL = jnp.broadcast_to(jnp.arange(ids_NL.shape[1])[None], ids_NL.shape)
    hidden_NLD = decoder.forward(cfg, params, ids_NL, at_NL, jnp.ones_like(at_NL), compute=kind)
    return decoder.logits(cfg, params, hidden_NLD)


_learner_logits = jax.jit(_logits, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=0)
def _sampler_logits(cfg, laid, ids_NL):
    rows, length = ids_NL.shape
    at_X = jnp.tile(jnp.arange(length), rows)

    def attend(kept, given, window, q_XHd, k_XKd, v_XKd):
        assert not window, "models here see all positions"
        q, k, v = (part.reshape(rows, length, *part.shape[1:]) for part in (q_XHd, k_XKd, v_XKd))
        return attention.packed(q, k, v, jnp.ones((rows, length), jnp.int32)).reshape(q_XHd.shape), kept

    x_DX, _ = incremental.run(cfg, laid, ids_NL.reshape(-1), at_X, [None] * cfg.layers, attend, None)
    return incremental.logits(cfg, laid, x_DX)


def share(change_NL: np.ndarray, exact_NL: np.ndarray) -> dict[str, float]:
    """Return the slope of one change on the exact one through 0, with its standard error (White 1980)."""
    squares = float(np.sum(exact_NL**2))
    slope = float(np.sum(change_NL * exact_NL)) / squares
    error = float(np.sqrt(np.sum(((change_NL - slope * exact_NL) * exact_NL) ** 2))) / squares
    return {"share": slope, "error": error, "mean_abs_change": float(np.abs(change_NL).mean())}


if __name__ == "__main__":
    main()
