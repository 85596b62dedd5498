"""Contender: a batch of rollouts by `generate` of transformers in torch, in bfloat16 on a GPU."""

import statistics
import time
from typing import Any

import torch

from benchmarks import interleave
from benchmarks.peers import model
from benchmarks.peers.torch_rollout import build

PROMPT_TOKENS, NEW_TOKENS = 128, 256
state: dict[str, Any] = {}


@torch.inference_mode()
def sample(slots: int, rounds: int) -> dict[str, Any]:
    """The median tokens/s of `rounds` goes after one that warms up."""
    if "model" not in state:
        state["model"] = build().to("cuda", torch.bfloat16)
    seconds = []
    for _ in range(rounds + 1):
        prompt = torch.randint(3, model.VOCAB, (slots, PROMPT_TOKENS), device="cuda")
        torch.cuda.synchronize()
        start = time.monotonic()
        state["model"].generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=True, temperature=1.0, top_p=1.0, top_k=0,
            min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS, eos_token_id=model.VOCAB - 1, pad_token_id=0,
        )  # fmt: skip
        torch.cuda.synchronize()
        seconds.append(time.monotonic() - start)
    return {"tokens_a_s": slots * NEW_TOKENS / statistics.median(seconds[1:]), "seconds": seconds[1:]}


if __name__ == "__main__":
    interleave.serve({"sample": sample, "versions": interleave.versions})
