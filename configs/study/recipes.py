"""The recipes that the study compares in each setting of settings.py: each recipe is a list of overrides.

`TUNING` has the candidates, which run on seeds 0 to 4 and half a of the held-out questions; `RECIPES` has the recipes
that are reported, on seeds 5 to 9 and half b, as `PLAN` says.
"""

STEP_256 = ["learner.lr=7e-4", "learner.warmup_updates=20"]  # with 32 queries of 8 samples
RECYCLE_256 = [*STEP_256, "rule=recycle", "pool.reset_below=0.7", "pool.min_signal=8"]
FORESEE_256 = [*STEP_256, "rule=foresee"]
# What is reported has 128 rollouts a step, in groups of the setting's size or of two; study.py fills the numbers in.
STEP = [*STEP_256, "pool.queries={groups}"]
PAIRS = [*STEP_256, "pool.samples=2", "pool.queries={pairs}", "rule=foresee"]

TUNING = {
    # plain GRPO: which step is the best?
    "grpo_shipped": [],
    "full16": ["learner.full_groups=16"],
    "full8": ["learner.full_groups=8"],
    "full24": ["learner.full_groups=24"],
    "linear": ["learner.schedule=linear"],
    "cosine": ["learner.schedule=cosine"],
    "linear_full16": ["learner.schedule=linear", "learner.full_groups=16"],
    "linear_15": ["learner.schedule=linear", "learner.lr=1.5e-3"],
    "linear_15_full16": ["learner.schedule=linear", "learner.lr=1.5e-3", "learner.full_groups=16"],
    "linear_20_full16": ["learner.schedule=linear", "learner.lr=2e-3", "learner.full_groups=16"],
    "linear_30_full16": ["learner.schedule=linear", "learner.lr=3e-3", "learner.full_groups=16"],
    "linear_20_full24": ["learner.schedule=linear", "learner.lr=2e-3", "learner.full_groups=24"],
    "linear_drawn": ["learner.schedule=linear", "learner.over=drawn"],
    "linear_betas": ["learner.schedule=linear", "learner.betas=0.95,0.99"],
    "linear_betas_20": ["learner.schedule=linear", "learner.betas=0.95,0.99", "learner.lr=2e-3"],
    "linear_warm20": ["learner.schedule=linear", "learner.warmup_updates=20"],
    "linear_20_warm20": ["learner.schedule=linear", "learner.lr=2e-3", "learner.warmup_updates=20"],
    "linear_20_warm40": ["learner.schedule=linear", "learner.lr=2e-3", "learner.warmup_updates=40"],
    "linear_30_warm40": ["learner.schedule=linear", "learner.lr=3e-3", "learner.warmup_updates=40"],
    "cosine_20_warm40": ["learner.schedule=cosine", "learner.lr=2e-3", "learner.warmup_updates=40"],
    "warm20_07": STEP_256,
    "warm20_05": ["learner.lr=5e-4", "learner.warmup_updates=20"],
    "warm20": ["learner.warmup_updates=20"],
    "warm20_turns": [
        "learner.schedule=linear",
        "learner.warmup_updates=20",
        "reward=e_grpo",
        "learner.advantage=turn_returns",
    ],
    "linear_05": ["learner.schedule=linear", "learner.lr=5e-4"],
    # what may teach more, one change each
    "linear_e_grpo": ["learner.schedule=linear", "reward=e_grpo"],
    "linear_turns": ["learner.schedule=linear", "reward=e_grpo", "learner.advantage=turn_returns"],
    "linear_max_rl": ["learner.schedule=linear", "learner.advantage=max_rl"],
    "linear_zvp": ["learner.schedule=linear", "learner.advantage=rl_zvp", "learner.keep_zero_variance=true"],
    # recycling, and with the step of warm20_07
    "recycle_published": ["rule=recycle"],
    "recycle_guarded": RECYCLE_256,
    "recycle_full16": [*RECYCLE_256, "learner.full_groups=16"],
    "foresee": FORESEE_256,
    # as many rollouts a step, of more queries; then half as many
    "k4b64": [*STEP_256, "pool.samples=4", "pool.queries=64"],
    "k2b128": [*STEP_256, "pool.samples=2", "pool.queries=128"],
    "k4b64_foresee": [*FORESEE_256, "pool.samples=4", "pool.queries=64"],
    "k4b64_foresee_10": [*FORESEE_256, "pool.samples=4", "pool.queries=64", "learner.lr=1e-3"],
    "k2b128_foresee": [*FORESEE_256, "pool.samples=2", "pool.queries=128"],
    "k2b128_foresee_10": [*FORESEE_256, "pool.samples=2", "pool.queries=128", "learner.lr=1e-3"],
    "b16": [*STEP_256, "pool.queries=16"],
    "b8": [*STEP_256, "pool.queries=8"],
    "k4b32": [*STEP_256, "pool.samples=4"],
    "k2b64_foresee": [*FORESEE_256, "pool.samples=2", "pool.queries=64"],
    "k2b32_foresee": [*FORESEE_256, "pool.samples=2", "pool.queries=32"],
    # where most groups are all wrong (s5_cut): a smaller step, one that follows its evidence, more groups before one
    "step": STEP,
    "step_02": [*STEP, "learner.lr=2e-4"],
    "step_full16": [*STEP, "learner.full_groups=16"],
    "step_02_full16": [*STEP, "learner.lr=2e-4", "learner.full_groups=16"],
    "step_02_wait8": [*STEP, "learner.lr=2e-4", "pool.min_signal=8"],
    "step_wait8": [*STEP, "pool.min_signal=8"],
    "foresee_02_wait8": [*STEP, "learner.lr=2e-4", "pool.min_signal=8", "rule=foresee"],
}

RECIPES = {
    "grpo": STEP,
    "paper": [*STEP, "rule=recycle"],  # recycling as published
    "recycle": [*STEP, "rule=recycle", "pool.reset_below=0.7", "pool.min_signal=4", "learner.full_groups=8"],
    "foresee": [*STEP, "rule=foresee"],
    "pairs": PAIRS,  # the best of TUNING
    "grpo_pairs": [*PAIRS, "rule=grpo"],  # what of it is the groups' size
    "soft_recycle": [*STEP, "rule=soft_recycle"],
    "greso": [*STEP, "rule=greso"],
    "mopps": [*STEP, "rule=mopps"],
    "bounded_dapo": [*STEP, "rule=bounded_dapo"],
    "dapo": [*STEP, "rule=bounded_dapo", "rounds=refill"],
}
FIRST = ("grpo", "pairs", "recycle", "foresee", "paper")
OTHERS = ("grpo_pairs", "soft_recycle", "greso", "mopps", "bounded_dapo", "dapo")
PLAN = [  # settings, recipes, seeds
    (("s3", "s4", "s6", "s5"), FIRST, range(5, 8)),
    (("s1", "s7", "s2"), FIRST, range(5, 8)),
    (("s1", "s3"), OTHERS, range(5, 8)),
    (("s3", "s4", "s1", "s2", "s6", "s5"), FIRST, range(8, 10)),
]
