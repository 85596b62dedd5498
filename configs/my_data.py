"""Your own questions and passages, with a real model: copy this file and adapt it.

    qr-jax data check train.jsonl --against dev.jsonl           # what is in the files, and what is wrong
    qr-jax train configs/my_data.py data.train=train.jsonl data.eval=dev.jsonl data.corpus=corpus.jsonl --dry-run
    qr-jax train configs/my_data.py data.train=train.jsonl data.eval=dev.jsonl data.corpus=corpus.jsonl

Files are JSON lines (also .gz) or Parquet:

    train, dev   {"id": "1", "question": "...", "answers": ["..."], "supporting_titles": ["...", "..."]}
    corpus       {"id": "a", "title": "...", "text": "..."}

`supporting_titles` (or `supporting`, ids of passages) name the passages that hold the answer. The cold start makes 150
traces from them: an expert searches for each title and then answers. Without gold passages set data.traces=retrieved,
or sft.steps=0 with a model that can already search in this dialect. `qr-jax data convert` makes such files. Index a
corpus of more than about 100,000 passages once: `qr-jax index corpus.jsonl corpus.index`, then
data.corpus=corpus.index.

The rule, retire, needs no labels. Where rows have "dataset", "kind", "type" or "hops", rule=foresee_learnable learns of
a question from others that have the same (docs/rules.md).

SmolLM2-135M-Instruct (`make smollm2`) takes some minutes a step on 2 cores. `configs/my_data.py:trial`, one short step,
shows that all parts fit together, but rarely makes an update: that needs a group with right and wrong answers. To learn
something, take a larger model on a GPU or TPU (model=Qwen/Qwen3-1.7B model.compute=bfloat16 rollout.slots=64, and for
such a model learner.lr=1e-6), and run `qr-jax plan` first. The accuracy to expect on your data is unknown.
"""

from dataclasses import replace

from qr_jax.config import Config, Data, Evaluation, Learner, Model, Pool, Rollout, Sft, Train, use

config = Config(
    model=Model(name="smollm2"),
    data=Data(train="train.jsonl", eval="dev.jsonl", corpus="corpus.jsonl", traces="supporting"),
    env=use("search_r1", max_turns=4),
    retriever=use("bm25"),
    reward=use("f1"),
    pool=Pool(queries=8, samples=4, rule=use("retire")),
    rollout=Rollout(
        slots=16, context_tokens=1024, turn_tokens=64, search_k=2, observation_tokens=320, buckets=(128, 512), chunk=16
    ),
    # on one-hop questions 3e-6 taught SmolLM2 nothing and 3e-5 most; at 3e-5 one of three seeds broke on several hops
    learner=Learner(lr=1e-5, rows=2, row_tokens=1024, warmup_updates=5),
    sft=Sft(steps=25, traces=6, limit=150, max_tokens=1024, lr=2e-4, warmup_steps=3),
    evaluation=Evaluation(questions=200, during=50, every=20),
    train=Train(steps=100, checkpoint_every=10),
)
trial = replace(
    config,
    pool=replace(config.pool, queries=2, samples=2),
    rollout=replace(config.rollout, slots=8),
    sft=replace(config.sft, steps=1, traces=2, limit=8),
    evaluation=Evaluation(questions=8),
    train=Train(steps=1, checkpoint_every=1),
)
