"""Gemma-3-1B learns to answer real multi-hop questions by searching: HotpotQA, 2WikiMultihopQA and MuSiQue.

    qr-jax train configs/gemma3_1b.py --dry-run                          # the resolved settings; needs no model
    qr-jax train configs/gemma3_1b.py                                    # one GPU of 40 GB or more
    qr-jax train configs/gemma3_1b.py model.name=FOLDER                  # a copy of the model on this disk
    qr-jax plan configs/gemma3_1b.py:v5e_8 --topology v5e:2x4            # eight TPU chips: memory and time
    qr-jax train configs/gemma3_1b.py:small                              # the 270M model

The hub gives google/gemma-3-1b-it to those who have accepted Gemma's terms there. Questions, passages and traces are
those of configs/smollm2_multihop.py. Gemma's chat template has neither system nor tool messages. So with env=tool_call
the first user message lists the tools before the question, and passages come in user messages.

This config was compiled and planned for v5e:2x4, and tried with a small model of random weights. It was not run at
this size, so neither time nor accuracy is known.
"""

from dataclasses import replace

from qr_jax.config import Config, Data, Evaluation, Learner, Mesh, Model, Pool, Rollout, Sft, Train, use

SETS = ("hotpotqa", "2wiki", "musique")
QUESTIONS = ",".join(f"{{data}}/dev/{name}.questions.jsonl" for name in SETS)
CORPUS = ",".join(f"{{data}}/corpus/{name}.corpus.jsonl.gz" for name in SETS)

config = Config(
    model=Model(name="google/gemma-3-1b-it", compute="bfloat16", remat="full", vocab_block=16384),
    data=Data(train=QUESTIONS, eval=QUESTIONS, corpus=CORPUS, traces="supporting", split="sha256"),
    env=use("search_r1", max_turns=4),
    retriever=use("bm25"),
    reward=use("f1"),
    pool=Pool(queries=32, samples=8, rule=use("retire"), min_signal=8),
    rollout=Rollout(
        slots=64,
        context_tokens=2048,
        turn_tokens=160,
        search_k=2,
        observation_tokens=384,
        tile=64,
        buckets=(128, 1024),
        chunk=16,
    ),
    learner=Learner(lr=1e-6, rows=8, row_tokens=2048, warmup_updates=5, full_groups=16),
    sft=Sft(steps=100, traces=32, max_tokens=2048, lr=1e-5, warmup_steps=10),
    evaluation=Evaluation(questions=500, every=25),
    train=Train(steps=200, checkpoint_every=25),
)
small = replace(config, model=replace(config.model, name="google/gemma-3-270m-it"))
v5e_8 = replace(config, mesh=Mesh(fsdp=8))
