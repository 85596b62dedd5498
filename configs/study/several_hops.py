"""SmolLM2-135M on real questions of several hops, small enough for 2 cores: E8 of plan.md.

    python -m benchmarks.several_hops files                                   # the questions, which the configs read
    qr-jax train configs/study/several_hops.py:own                            # a recipe: 20 steps

`every` has all questions of HotpotQA, 2WikiMultihopQA and MuSiQue, one passage a search and F1 as the reward. The
others have bridge and compositional questions alone and exact match as the reward: `open` searches all passages, three
a search; `own` each question's own ten, two a search; `gpu` and `gpu_open` are these two for a GPU. The files are in
random order, so that the first 400 traces and the first 200 held-out questions are of all sets.
"""

from dataclasses import replace
from pathlib import Path

from qr_jax.config import Evaluation, Learner, Sft, Train, load, use

MULTIHOP = Path(__file__).parents[1] / "smollm2_multihop.py"
FOLDER = "runs/several_hops"
CORPUS = ",".join(f"{{data}}/corpus/{name}.corpus.jsonl.gz" for name in ("hotpotqa", "2wiki"))

_laptop = load(MULTIHOP)
every = replace(
    _laptop,
    data=replace(_laptop.data, train=f"{FOLDER}/every.jsonl", eval=f"{FOLDER}/every.jsonl", eval_limit=None),
    env=use("search_r1", max_turns=3),
    pool=replace(_laptop.pool, samples=8, rule=use("grpo"), reset_below=0.0),
    rollout=replace(_laptop.rollout, slots=32, store=16, buckets=(128, 512)),
    learner=Learner(lr=3e-5, rows=1, row_tokens=1024, warmup_updates=0, share_prefixes=True),
    sft=Sft(steps=50, traces=8, limit=400, max_tokens=700, lr=1e-4, warmup_steps=5),
    evaluation=Evaluation(questions=200),
    train=Train(steps=20, checkpoint_every=5, keep_checkpoints=1),
)
open = replace(
    every,
    data=replace(every.data, train=f"{FOLDER}/open.jsonl", eval=f"{FOLDER}/open.jsonl", corpus=CORPUS),
    reward=use("exact_match"),
    rollout=replace(every.rollout, context_tokens=1408, search_k=3, observation_tokens=448),
    learner=replace(every.learner, lr=1e-5, row_tokens=1408),
    sft=replace(every.sft, max_tokens=1408),
)
own = replace(
    open,
    data=replace(open.data, train=f"{FOLDER}/own.jsonl", eval=f"{FOLDER}/own.jsonl", corpus="own"),
    rollout=replace(open.rollout, context_tokens=1024, search_k=2, observation_tokens=304),
    sft=replace(open.sft, max_tokens=1024),
)
GPU = {  # of the GPU's queue (benchmarks/gpu), three runs at once
    "pool": replace(own.pool, queries=16),
    "evaluation": Evaluation(every=40, during=200),
    "train": Train(steps=80, checkpoint_every=20),
}
gpu, gpu_open = (
    replace(
        config,
        **GPU,
        rollout=replace(config.rollout, slots=128, store=64),
        learner=replace(config.learner, rows=8),
        sft=replace(config.sft, steps=100, limit=None),
    )
    for config in (own, open)
)
config = own
