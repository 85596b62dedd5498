"""The study's settings: the quickstart's world and model in eight sizes of pool, group and budget.

    qr-jax train configs/study/settings.py:s3        # one run
    make study                                       # all runs that are missing, their figures and tables

A recipe (recipes.py) sets the rule and the learner's updates; everything else is set here.
"""

from pathlib import Path

from qr_jax.config import load

QUICKSTART = Path(__file__).parents[1] / "quickstart.py"
METHODS = QUICKSTART.with_name("methods.py")
BUDGET = "train.max_rollouts=30000"
NO_LIMIT = ("train.steps=100000", "train.keep_checkpoints=1", "log.episodes=false")
NO_LIMIT += ("evaluation.every=0", "evaluation.during=none")  # study.py says when; all questions are asked each time
PROBED = ("guards.probe_every=5", "guards.probe_questions=200")  # warnings alone: what a guard would have seen
PAPER = ("train.max_rollouts=84480", "data.world.train=10000", "pool.samples=4")


def _setting(*words):
    """Return the quickstart with no step limit of its own, plain GRPO, and the learner as the paper's peers have it."""
    fixed = [
        "rule=grpo",
        "pool.queries=32",
        "pool.samples=8",
        "learner.lr=1e-3",
        "learner.warmup_updates=0",
        "learner.rows=8",
        "rollout.lanes=1",  # two runs share two cores
        "mesh.devices=1",
        *NO_LIMIT,
    ]
    return load(QUICKSTART, [*fixed, *words])


s1 = _setting(*PAPER, "pool.oversample=2")  # the paper's proportions: 10,000 queries, K 4, B 16, k 2
s2 = _setting(*PAPER)  # the same with k 1
s3 = _setting(BUDGET, *PROBED)  # 2,000 queries, K 8
s4 = _setting(BUDGET, *PROBED, "data.train_limit=500")
# a cold start near .15, most groups all wrong: four hops, and intersections
s5 = _setting(BUDGET, "data.world.hops=[0,0,0,1]", "data.world.comparison=0", "data.world.intersection=0.1")
s5_cut = _setting(BUDGET, "sft.steps=185")  # .03 to .17 with s3's questions: the dialect is not there yet
s6 = _setting(BUDGET, "pool.samples=4")
s7 = _setting(BUDGET, "data.world.impossible=0.333")  # a third of the training questions cannot be answered
# E1 of plan.md: recycling as published at a fifth of the paper's pool and budget; every fourth step's policy is kept
FLIPS = (
    "rule=recycle",
    "train.max_rollouts=16896",
    "pool.oversample=2",
    "learner.lr=7e-4",
    "learner.warmup_updates=20",
)
FLIPS += ("train.keep_every=4", "train.checkpoint_every=4", "evaluation.half=b")
flips_4 = _setting(*FLIPS, "pool.samples=4", "pool.queries=32")
flips_8 = _setting(*FLIPS, "pool.samples=8", "pool.queries=16")
# E2 of plan.md: a fifth of the paper's pool and budget with its own 32 queries a step, at fixed rollouts (guarded.py)
FIFTH = ("train.max_rollouts=16896", "pool.samples=4", "learner.lr=7e-4", "learner.warmup_updates=20")
FIFTH += ("evaluation.every_rollouts=1408", "evaluation.half=b")
guarded_grpo = _setting(*FIFTH, "rule=grpo")
guarded_recycle = _setting(*FIFTH, "rule=recycle", "pool.oversample=2")
# E4 of plan.md: s3's questions and budget, evaluated at ten places (race.py)
race = _setting(BUDGET, "learner.lr=7e-4", "learner.warmup_updates=20", "evaluation.every_rollouts=3000")
screen = load(f"{METHODS}:grpo", [*NO_LIMIT, "train.max_rollouts=15000"])  # of configs/methods.py: which train at all
screen_500 = load(f"{METHODS}:grpo", [*NO_LIMIT, "train.max_rollouts=15000", "data.train_limit=500"])
finals = load(f"{METHODS}:grpo", [*NO_LIMIT, BUDGET])  # its best, again
