"""SmolLM2-135M-Instruct as the paper's agent on real questions: searches called in JSON, up to three at once.

    make smollm2
    qr-jax train configs/smollm2_tool_call.py           # the laptop preset, on 2 cores
    qr-jax train configs/smollm2_tool_call.py:full      # full size, for a GPU or a TPU

The questions, passages and sizes of `smollm2_multihop.py`. The environment says what it has found in a message of role
"tool", which the model's own chat template writes; the prompt describes the search function, for that template has no
place for one. An expert asks for a comparison's two titles in one turn. Nothing was trained with it at full size.
"""

from dataclasses import replace
from pathlib import Path

from qr_jax.config import load, use

AGENT = use("tool_call", max_turns=4, max_queries=3)
OBSERVATION_TOKENS = 480  # of up to three searches, and the JSON around them

multihop = Path(__file__).with_name("smollm2_multihop.py")
laptop = load(multihop)
full = load(f"{multihop}:full")
full = replace(
    full, env=AGENT, rollout=replace(full.rollout, turn_tokens=128, observation_tokens=960, context_tokens=3072)
)
full = replace(full, learner=replace(full.learner, row_tokens=3072), sft=replace(full.sft, max_tokens=3072))
config = replace(
    laptop,
    env=AGENT,
    rollout=replace(
        laptop.rollout, turn_tokens=96, observation_tokens=OBSERVATION_TOKENS, context_tokens=1536, buckets=(128, 1024)
    ),
    learner=replace(laptop.learner, row_tokens=1536),
    sft=replace(laptop.sft, max_tokens=1024),
)
