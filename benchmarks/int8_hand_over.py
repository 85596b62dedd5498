"""How much of one update of a whole model reaches rollouts by int8, and how far these are from the learner.

    python -m benchmarks.int8_hand_over                      # SmolLM2-135M (make smollm2), 15 minutes on 2 cores
    python -m benchmarks.int8_hand_over --model quickstart   # random weights of 0.37M parameters, seconds

The model takes one update by Adam at each rate, as a run's first. Of each trained token and of as many fresh ones its
log-probability is worked out before and after, exactly and by the programs that decode, all sums in
float32: from matrices in bfloat16 and in int8. The weights have a thousandth of noise added first, as training would:
SmolLM2's come from a GGUF file, and its levels lie on ties of both roundings, which an update of 1e-6 tips all at once
(shares of 14.6 and 1.57 then). What survives is the slope of the sampler's change on the exact
one (lora_hand_over.py); the gap is between sampler and learner at the same weights. Keys and values are whole here.
"""

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import interleave, lora_hand_over
from benchmarks.lora_hand_over import by_learner, by_sampler, change, logp, share

RATES = (3e-5, 1e-6)
NOISE = 1e-3  # of an array's own standard deviation


def main() -> None:
    """Take the updates, measure the changes, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a preset, or what model.name takes (smollm2)")
    options = parser.parse_args()
    result = {"model": options.model, **measured(options.model)}
    lora_hand_over.keep("int8_hand_over", options.model, result)
    head = ["rate", "matrices", "share of the update", "gap to the learner, mean (largest), nats"]
    rows = [
        [rate, name, f"{of['share']:.3f} +- {of['error']:.3f}", f"{of['gap']:.1e} ({of['gap_max']:.1e})"]
        for rate, by_name in result["rates"].items()
        for name, of in by_name.items()
    ]
    print(interleave.table(head, rows))


def measured(name: str) -> dict[str, Any]:
    """Return by rate and kind of matrices the share of an update, and the gap, of one model."""
    cfg, loaded = lora_hand_over.weights(name)
    keys = iter(jax.random.split(jax.random.key(2), len(jax.tree.leaves(loaded))))
    before = jax.tree.map(lambda leaf: leaf + NOISE * leaf.std() * jax.random.normal(next(keys), leaf.shape), loaded)
    ids_NL = lora_hand_over.written(cfg, before)
    kinds = {"bfloat16": _rounded, "int8": functools.partial(by_sampler, jnp.float32, int8=True)}
    exactly = logp(cfg, ids_NL, by_learner(jnp.float32, before))
    rates: dict[str, Any] = {}
    for rate in RATES:
        after = lora_hand_over.updated(cfg, None, before, ids_NL[: len(ids_NL) // 2], rate)
        exact = change(cfg, ids_NL, by_learner(jnp.float32, before), by_learner(jnp.float32, after))
        for kind, of in kinds.items():
            gap = np.abs(logp(cfg, ids_NL, of(before)) - exactly)
            told = share(change(cfg, ids_NL, of(before), of(after)), exact)
            rates.setdefault(f"{rate:g}", {})[kind] = told | {"gap": float(gap.mean()), "gap_max": float(gap.max())}
    return {"tokens": int(exactly.size), "rates": rates}


def _rounded(params):
    return by_sampler(jnp.float32, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), params))


if __name__ == "__main__":
    main()
