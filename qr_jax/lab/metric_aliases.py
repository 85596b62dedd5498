"""Metrics under the names that people know from other systems (log.aliases)."""

from collections.abc import Mapping, Sequence

Value = float | int | None

# Several of ours stand for one of theirs: their sum.
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "verl": {
        "critic/score/mean": ("reward/mean",), "critic/rewards/mean": ("reward/mean",),
        "actor/kl_loss": ("learner/kl",), "actor/entropy": ("learner/entropy",),
        "actor/grad_norm": ("learner/grad_norm",), "actor/pg_clipfrac": ("learner/clip_low", "learner/clip_high"),
        "actor/pg_clipfrac_lower": ("learner/dual",), "actor/lr": ("learner/lr",),
        "response_length/clip_ratio": ("rollout/stop_length",),
        "tool_call_counts/mean": ("rollout/searches",), "timing_s/gen": ("time/rollout_s",),
        "timing_s/update_actor": ("time/learner_s",), "timing_s/step": ("time/step_s",),
        "perf/time_per_step": ("time/step_s",), "perf/throughput": ("perf/step_tokens_per_s",),
        "perf/mfu/actor": ("perf/mfu",), "perf/max_memory_allocated_gb": ("perf/peak_memory_gib",),
        "training/epoch": ("pool/epoch",),
    },
    "trl": {
        "loss": ("learner/loss",), "grad_norm": ("learner/grad_norm",), "learning_rate": ("learner/lr",),
        "reward": ("reward/mean",), "frac_reward_zero_std": ("pool/zero_variance_rate",),
        "completions/mean_length": ("rollout/tokens",), "completions/clipped_ratio": ("rollout/stop_length",),
        "kl": ("learner/kl",), "entropy": ("learner/entropy",), "clip_ratio/low_mean": ("learner/clip_low",),
        "clip_ratio/high_mean": ("learner/clip_high",),
        "clip_ratio/region_mean": ("learner/clip_low", "learner/clip_high"),
        "tools/call_frequency": ("rollout/searches",), "step_time": ("time/step_s",),
    },
}  # fmt: skip


def aliases(row: Mapping[str, Value], systems: Sequence[str]) -> dict[str, Value]:
    """Return what the row holds by the systems' names; None where one of the metrics is."""
    named: dict[str, Value] = {}
    for system in systems:
        for theirs, ours in ALIASES[system].items():
            if all(name in row for name in ours):
                parts = [row[name] for name in ours]
                named[theirs] = None if None in parts else sum(part for part in parts if part is not None)
    return named
