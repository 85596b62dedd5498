"""Two steps of a two-layer model on the synthetic world: a test of the whole loop, half a minute on a laptop.

qr-jax train configs/two_layer.py            # two steps teach nothing that could be measured
"""

from qr_jax.config import Config, Evaluation, Learner, Log, Model, Pool, Rollout, Sft, Train

config = Config(
    model=Model("two_layer"),
    pool=Pool(queries=4, samples=4),
    rollout=Rollout(slots=8, context_tokens=256, turn_tokens=16, observation_tokens=64, buckets=(32, 128), chunk=4),
    learner=Learner(rows=4, row_tokens=256, lr=1e-3),
    sft=Sft(steps=2, traces=4, max_tokens=256, lr=3e-3),
    evaluation=Evaluation(questions=8),
    train=Train(steps=2, checkpoint_every=1),
    log=Log(tensorboard=False),
)
