"""Contender: a batch of single-turn rollouts by `generate` of transformers in torch."""

import time
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks import interleave
from benchmarks.peers import load, model

state: dict[str, Any] = {}


def build() -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=model.VOCAB, hidden_size=model.WIDTH, intermediate_size=model.MLP, num_hidden_layers=model.LAYERS,
        num_attention_heads=model.HEADS, num_key_value_heads=model.KV_HEADS, head_dim=model.HEAD_DIM,
        max_position_embeddings=8192, rms_norm_eps=model.NORM_EPS, rope_theta=float(model.ROPE_THETA),
        tie_word_embeddings=True, use_cache=True, attn_implementation="sdpa",
    )  # fmt: skip
    built = Qwen3ForCausalLM(config).eval()
    missing, unexpected = built.load_state_dict(
        {name: torch.from_numpy(tensor) for name, tensor in model.tensors()}, strict=False
    )
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    built.tie_weights()
    return built


def prepare(load_name: str) -> dict[str, Any]:
    """Build and run once; a thread a core."""
    assert load_name == "single_turn", load_name
    start = time.monotonic()
    torch.set_num_threads(interleave.machine()["cores"])
    state["model"] = build()
    built_s, start = time.monotonic() - start, time.monotonic()
    sample(load_name, 0, episodes=load.SINGLE_BATCH, group=1)
    return {"built_s": built_s, "warm_up_s": time.monotonic() - start, "compiles": 0}


@torch.inference_mode()
def sample(load_name: str, round: int, *, episodes: int, group: int) -> dict[str, Any]:
    questions = load.chosen(round, episodes // group)
    ids = [load.tokenizer().encode(load.prompt(query)) for query in questions for _ in range(group)]
    prompt = torch.tensor(np.array(ids))
    start = time.monotonic()
    made = state["model"].generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=True, temperature=1.0, top_p=1.0, top_k=0,
        min_new_tokens=load.TURN_TOKENS, max_new_tokens=load.TURN_TOKENS, eos_token_id=model.VOCAB - 1, pad_token_id=0,
    )  # fmt: skip
    seconds = time.monotonic() - start
    tokens = (made.shape[1] - prompt.shape[1]) * len(made)
    return {"seconds": seconds, "tokens": tokens, "tokens_a_s": tokens / seconds, "episodes": len(made)}


@torch.inference_mode()
def check() -> dict[str, list[float]]:
    return model.check_answer(state["model"](torch.from_numpy(model.check_ids()).long()).logits.numpy())


if __name__ == "__main__":
    interleave.serve({"prepare": prepare, "sample": sample, "check": check, "versions": interleave.versions})
