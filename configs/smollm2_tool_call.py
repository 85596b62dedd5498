"""SmolLM2-135M-Instruct as the paper's agent on real questions: searches called in JSON, up to three at once.

    make smollm2
    qr-jax train configs/smollm2_tool_call.py           # the laptop preset, on 2 cores
    qr-jax train configs/smollm2_tool_call.py:full      # a longer cold start, then GRPO; for one GPU

Questions, passages and the laptop preset's steps are those of `smollm2_multihop.py`. Passages come in a message of role
"tool", as the model's own chat template writes it. The prompt describes the search function, because the template has
no place for functions. An expert asks for a comparison's two titles in one turn.

After the full size's cold start the model answers .19 of the held-out questions; 40 steps of GRPO at this learning rate
added nothing over three seeds, and one of them lost accuracy (docs/measurements.md, `python -m benchmarks.real_agent`).
learner.lr=1e-5 was not tried.
"""

from dataclasses import replace
from pathlib import Path

from qr_jax.config import Evaluation, Pool, Sft, Train, load, use

AGENT = use("tool_call", max_turns=4, max_queries=3)
OBSERVATION_TOKENS = 480  # of up to three searches, and the JSON around them

multihop = Path(__file__).with_name("smollm2_multihop.py")
laptop = load(multihop)
config = replace(
    laptop,
    env=AGENT,
    rollout=replace(
        laptop.rollout, turn_tokens=96, observation_tokens=OBSERVATION_TOKENS, context_tokens=1536, buckets=(128, 1024)
    ),
    learner=replace(laptop.learner, row_tokens=1536),
    sft=replace(laptop.sft, max_tokens=1024),
)
full = replace(
    config,
    model=replace(laptop.model, compute="bfloat16"),
    data=replace(laptop.data, eval_limit=None),
    pool=Pool(queries=16, samples=8, rule=use("foresee")),
    rollout=replace(config.rollout, slots=128, store=None, chunk=16),
    learner=replace(config.learner, lr=3e-5, rows=8, warmup_updates=5, full_groups=6, share_prefixes=True),
    sft=Sft(steps=100, traces=24, max_tokens=1536, lr=1e-4, warmup_steps=5),
    evaluation=Evaluation(every=20, during=100),
    train=Train(steps=40, checkpoint_every=20),
)
