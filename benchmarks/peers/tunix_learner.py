"""Contender: GRPO updates by Tunix 0.1.7, as its GRPOLearner makes them.

An update there is one call of the step that PeftTrainer jits (tunix/sft/peft_trainer.py, `jit_train_and_eval_step`,
by rl/trainer.py's Trainer): nnx.value_and_grad of `grpo_loss_fn` (rl/algo_core.py), the gradient's norm and the
optimizer, which is donated. A batch is prompts padded on the left and completions padded on the right to the longest
that may be (max_prompt_length, max_tokens_to_generate); logits of all positions and words exist at once. Without KL
(beta 0) and with one iteration a batch there is no other pass. Timed is the step alone: neither metrics nor queues.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tunix.rl import algo_core, common, trainer
from tunix.rl.grpo import grpo_learner
from tunix.sft import peft_trainer

from benchmarks import interleave
from benchmarks.peers import episodes, model, tunix_model

PAD, EOS = 0, 1
state: dict[str, Any] = {}


def prepare(lr: float = 1e-6) -> dict[str, Any]:
    """Build, compile and make two updates, which are thrown away; returns seconds and the first gradient's norm."""
    start = time.monotonic()
    algorithm = grpo_learner.GRPOConfig(
        num_generations=episodes.SAMPLES, beta=0.0, epsilon=0.2, loss_agg_mode="token-mean"
    )
    algorithm.temperature = 1.0  # the rollout's, which GRPOLearner sets there
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lr, b1=0.9, b2=0.95))
    made = trainer.Trainer(
        tunix_model.build(), optimizer, peft_trainer.TrainingConfig(eval_every_n_steps=1_000_000),
        custom_checkpoint_metadata_fn=dict,
    )  # fmt: skip
    made.is_managed_externally = True
    made.with_loss_fn(
        lambda policy, train_example, algo_config: algo_core.grpo_loss_fn(
            policy, train_example, algo_config=algorithm, pad_id=PAD, eos_id=EOS
        ),
        has_aux=True,
    )
    made.with_gen_model_input_fn(lambda example: {"train_example": example, "algo_config": algorithm})
    state.update(trainer=made, step=made.jit_train_and_eval_step()[0])
    built_s, start = time.monotonic() - start, time.monotonic()
    first = sample("dense", 0)
    sample("dense", 0)  # nnx.jit may compile again when it sees its own outputs
    return {"built_s": built_s, "warm_up_s": time.monotonic() - start, "gradient_norm": first["gradient_norm"]}


def padded(load_name: str, seed: int) -> common.TrainExample:
    """The batch as GRPOLearner hands it to its trainer."""
    batch = episodes.batch(load_name, seed)
    prompt = np.stack([ids[: episodes.PROMPT_TOKENS] for ids in batch.ids])
    completion = np.full((len(prompt), episodes.LONGEST - episodes.PROMPT_TOKENS), PAD, np.int32)
    for row, ids in enumerate(batch.ids):
        completion[row, : len(ids) - episodes.PROMPT_TOKENS] = ids[episodes.PROMPT_TOKENS :]
    advantages = algo_core.compute_advantages(batch.reward_QG.reshape(-1), episodes.SAMPLES)
    return common.TrainExample(
        prompt_ids=jnp.asarray(prompt), prompt_mask=jnp.asarray(prompt != PAD), completion_ids=jnp.asarray(completion),
        completion_mask=jnp.asarray(completion != PAD), advantages=jnp.asarray(advantages, jnp.float32),
        ref_per_token_logps=None, old_per_token_logps=None,
    )  # fmt: skip


def sample(load_name: str, round: int) -> dict[str, Any]:
    """Seconds of one update, and how many tokens it held, real and padded."""
    example, tokens = padded(load_name, round), episodes.batch(load_name, round).tokens
    start = time.monotonic()
    loss, _, norm = state["step"](example)
    jax.block_until_ready((loss, norm, jax.tree.leaves(state["trainer"].model)))
    seconds = time.monotonic() - start
    return {
        "seconds": seconds, "updates_a_s": 1 / seconds, "tokens": tokens,
        "padded_tokens": episodes.LONGEST * len(example.prompt_ids), "loss": float(loss), "gradient_norm": float(norm),
    }  # fmt: skip


def check() -> dict[str, list[float]]:
    return model.check_answer(tunix_model.logits(state["trainer"].model, model.check_ids()))


if __name__ == "__main__":
    interleave.serve({"prepare": prepare, "sample": sample, "check": check, "versions": interleave.versions})
