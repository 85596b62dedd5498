"""The paper's recipe: Qwen3-1.7B, a cold start, then GRPO on a 10k pool with recycling.

Coelho et al. 2026, arXiv:2606.10709.

    qr-jax train configs/paper_1p7b.py --dry-run                              # the resolved settings
    qr-jax train configs/paper_1p7b.py model=two_layer train.steps=2 sft.steps=2 sft.traces=4 evaluation.questions=8 \\
        sft.max_tokens=512 rollout.context_tokens=512 rollout.turn_tokens=48 rollout.buckets=64,256 \\
        learner.rows=2 learner.row_tokens=512

Known of the paper: B 32, K 4, k 1 or 2, 15k synthetic traces for the cold start, 10k synthetic queries, 84.5k rollouts
(here 330 steps of 2 x 32 x 4), a ReAct agent with one search tool and up to 3 parallel queries a turn, binary reward.
Its sources leave open: learning rate, clip range, KL, temperature, turns, lengths, passages a search, the retriever,
and what counts as correct; those below are our choices. Its questions come from a ClueWeb22 snapshot; here they are the
synthetic world's, so no figure of this config is to be held against the paper's 66.0, which is besides almost certainly
an LLM judge's verdict.

Not run at full size here: no TPU was at hand. 15k traces, 10k queries and 20k documents are built on first use.
"""

from qr_jax.config import Config, Data, Evaluation, Learner, Model, Pool, Rollout, Sft, Train, use

config = Config(
    model=Model(name="Qwen/Qwen3-1.7B", compute="bfloat16", remat="full", vocab_block=16384),
    data=Data(world={"documents": 20_000, "train": 10_000, "dev": 1000, "traces": 15_000}),
    env=use("tool_call", max_turns=6, max_queries=3),
    retriever=use("bm25"),
    reward=use("exact_match"),
    # recycling as published: no resets, no waiting, no scaled updates
    pool=Pool(queries=32, samples=4, oversample=2, rule=use("recycle"), reset_below=0.0, min_signal=1),
    rollout=Rollout(
        slots=64,
        context_tokens=4096,
        turn_tokens=512,
        search_k=3,
        observation_tokens=512,
        tile=64,
        buckets=(128, 1024),
        chunk=16,
    ),
    learner=Learner(
        advantage=use("grpo"),
        loss=use("clip", low=0.2, high=0.28),
        lr=1e-6,
        warmup_updates=10,
        full_groups=0,
        rows=16,
        row_tokens=4096,
    ),
    sft=Sft(steps=470, traces=32, max_tokens=4096, lr=1e-5, warmup_steps=20),
    evaluation=Evaluation(questions=1000, samples=4),
    train=Train(steps=330, checkpoint_every=30),
)
