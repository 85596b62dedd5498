"""The cold start: what it takes of the learner's settings, and what it does not."""

import dataclasses
from dataclasses import replace

from qr_jax import config, sft
from qr_jax.config import use

TAKEN = {"rows": 16, "row_tokens": 2048, "betas": (0.8, 0.9), "eps": 1e-6}
OTHER = {  # every further setting of the learner, changed
    "advantage": use("rloo"), "loss": use("clip", low=0.1), "reduce": "sequence_mean", "over": "drawn",
    "horizon_tokens": 7, "keep_dead": True, "kl": "k2", "kl_weight": 0.5, "entropy_weight": 0.5,
    "prune": 0.5, "importance": "icepop", "importance_by": "sequence", "importance_low": 0.1, "importance_high": 9.0,
    "updates": 3, "gap_alarm": 7.0, "lr": 7.0,
    "schedule": "linear", "warmup_updates": 7, "full_groups": 7, "weight_decay": 7.0, "clip_norm": 7.0,
    "max_nonfinite": 7,
}  # fmt: skip


def test_a_term_of_the_learner_does_not_reach_the_cold_start():
    default = config.Learner()
    names = {field.name for field in dataclasses.fields(config.Learner)}
    assert names == {*TAKEN, *OTHER}, "a new setting of the learner: say here that the cold start does without it"
    assert all(value != getattr(default, name) for name, value in OTHER.items())
    own = config.Sft(steps=50, lr=0.5, schedule="linear", warmup_steps=3, clip_norm=0.25, weight_decay=0.125)
    plain = config.Config(sft=own, learner=replace(default, **TAKEN))
    changed = replace(plain, learner=replace(plain.learner, **OTHER))
    settings = sft._learner_settings(changed)
    assert settings == sft._learner_settings(plain)
    assert settings == config.Learner(
        **TAKEN, advantage=use("dr_grpo"), loss=use("nll"), lr=0.5, schedule="linear", warmup_updates=3,
        clip_norm=0.25, weight_decay=0.125,
    )  # fmt: skip
