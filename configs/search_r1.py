"""Search-R1 with GRPO on NQ and HotpotQA (Jin et al. 2025, arXiv:2503.09516), as its repository's v0.2 script has it.

    mkdir -p runs/data/nq runs/data/hotpotqa && export QR_JAX_DATA=runs/data
    qr-jax data convert NQ-open.train.jsonl runs/data/nq/train.jsonl       # and dev, and both of HotpotQA's files
    qr-jax serve-retriever ...          # or Search-R1's own server: E5 over the Wikipedia of 2018, on port 8000
    qr-jax train configs/search_r1.py                                             # one host with memory for it
    qr-jax plan configs/search_r1.py:v5e_64 --topology v5e:8x8                    # 64 chips: it fits
    gcloud storage cp -r runs/data gs://BUCKET/     # and DATA=gs://BUCKET/data in tpu_scripts/settings.env
    tpu_scripts/launch.sh NAME configs/search_r1.py:v5e_64 retriever.url=http://ADDRESS:8000/retrieve

For other machines our server needs --host 0.0.0.0 and --token-env NAME, and the pod needs retriever.token_env=NAME and
SECRETS=NAME in settings.env. docs/retrieval.md divides the corpus over several servers.

A step has 512 queries of 5 samples and two updates, each on half the batch; a run has 1,005 steps. The learning rate
rises to 1e-6 over .285 of them. The loss has the KL estimate k3 with weight .001; the temperature is 1. An episode has
at most 4 searches of 3 passages, 500 tokens per turn and per observation, and 4,096 tokens in all. The reward is exact
match; there is no cold start; the model is Qwen2.5-3B. Deviations: the prompt is our own wording; a search inside a
thought does not run; a failed search is a fault, neither a crash nor a 0; Search-R1 bounds prompt and episode
separately, and here one window of 4,096 tokens holds both. This config was not run: neither a TPU nor that corpus was
at hand.
"""

from dataclasses import replace

from qr_jax.config import Config, Data, Evaluation, Learner, Mesh, Model, Pool, Rollout, Sft, Train, use

STEPS = 1005
config = Config(
    model=Model(name="Qwen/Qwen2.5-3B", compute="bfloat16", remat="full", vocab_block=16384),
    data=Data(
        train="{data}/nq/train.jsonl,{data}/hotpotqa/train.jsonl",
        eval="{data}/nq/dev.jsonl,{data}/hotpotqa/dev.jsonl",
    ),
    env=use("search_r1", max_turns=4),
    retriever=use("http", url="http://127.0.0.1:8000/retrieve"),
    reward=use("exact_match"),
    pool=Pool(queries=512, samples=5, rule=use("grpo")),
    rollout=Rollout(
        slots=256,
        context_tokens=4096,
        turn_tokens=500,
        search_k=3,
        observation_tokens=500,
        tile=64,
        buckets=(128, 1024),
        chunk=16,
    ),
    learner=Learner(
        kl="k3",
        kl_weight=0.001,
        updates=2,
        keep_zero_variance=True,  # the KL term counts every group
        lr=1e-6,
        warmup_updates=round(0.285 * 2 * STEPS),
        rows=64,
        row_tokens=4096,
    ),
    sft=Sft(steps=0),
    evaluation=Evaluation(questions=1000, every=50),
    train=Train(steps=STEPS, checkpoint_every=100),
)
v5e_64 = replace(config, mesh=Mesh(fsdp=64), rollout=replace(config.rollout, slots=64, store=32))
