"""A run in numbers: a step's row of metrics, its episodes as JSON, and the run's summary."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qr_jax import evaluate, figures, metrics_writer, runs
from qr_jax.config import Config
from qr_jax.learning import learner, pack
from qr_jax.metrics import STOPS
from qr_jax.models import costs
from qr_jax.models.families import ModelConfig
from qr_jax.parallel import peaks
from qr_jax.records import Outcome, SearchFunction
from qr_jax.retrieval.search_cache import SearchCache
from qr_jax.rollout.engine import Statistics
from qr_jax.step import Group, Progress, Spent, Step


def step_figures(
    one: Step, before, outcome: Outcome, after: Progress, spent_of: Mapping[int, Spent], statistics: Statistics
) -> dict[str, Any]:
    """Rewards, pool, rollout and budget metrics of a step."""
    graded, accept = outcome.grades, one.settings.pool.queries
    row: dict[str, Any] = {}
    valid_QG = graded.valid_QG
    outcome_QG = graded.reward_QG if graded.outcome_QG is None else graded.outcome_QG
    if valid_QG.any():
        row["reward/mean"] = float(graded.reward_QG[valid_QG].mean())
        row["reward/outcome_mean"] = float((outcome_QG[valid_QG] == 1).mean())
    rollouts_Q = np.array([spent_of[int(index)].episodes for index in outcome.drawn_Q])
    row |= figures.step_figures(before, outcome, after.pool, accept=accept, rollouts_Q=rollouts_Q)
    row |= {"pool/waiting": len(after.waiting), "pool/size": after.pool.size}
    every = spent_of.values()
    count = max(sum(one.episodes for one in every), 1)
    return row | {
        "rollout/turns": sum(one.turns for one in every) / count,
        "rollout/searches": sum(one.searches for one in every) / count,
        "rollout/tokens": sum(one.tokens for one in every) / count,
        "rollout/context_tokens": sum(one.context_tokens for one in every) / count,
        "rollout/faults": sum(one.invalid for one in every),
        **{f"rollout/stop_{stop}": sum(one.stops.get(stop, 0) for one in every) / count for stop in STOPS},
        "retriever/queries": statistics.searches_sent,
        "retriever/failed": statistics.searches_failed,
        "budget/rollouts": after.rollouts,
        "budget/tokens": after.tokens,
        "budget/searches": after.searches,
    }


def learner_figures(state: learner.State, found: list[dict[str, Any]], made: learner.Learner, efficiency, micro):
    """What the update did; the loss is null where nothing was learned from."""
    row: dict[str, Any] = {"learner/updates": int(state.updates), "learner/skipped": int(state.skipped)}
    if not found:
        return row | {"learner/loss": None, "learner/micro_batches": 0}
    mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    row["learner/lr"] = float(np.asarray(made.rate(max(int(state.updates) - 1, 0))))
    row["learner/nonfinite"] = sum(not one["finite"] for one in found)
    known = ("loss", "grad_norm", "update_norm", "kl", "entropy", "clip_low", "clip_high", "dual", "ratio")
    row |= {f"learner/{name}": mean[name] for name in known if name in mean}
    row |= {f"loss/{name}": value for name, value in mean.items() if name not in (*known, *learner.OWN)}
    row["learner/tokens"] = int(sum(one["tokens"] for one in found))
    row["sampler_gap/mean"], row["sampler_gap/max"] = mean["gap"], float(max(one["gap_max"] for one in found))
    return row | {"learner/packing_efficiency": efficiency, "learner/micro_batches": micro}


def gap_alarm(settings: Config, row: dict[str, Any]) -> str | None:
    """A warning when the learner does not agree with the sampler about what was likely."""
    gap = row.get("sampler_gap/mean")
    if gap is None or gap <= settings.learner.gap_alarm:
        return None
    return (
        f"sampler and learner differ by {gap:.3f} nats a token (learner.gap_alarm {settings.learner.gap_alarm}): the "
        "policy is trained on what it did not sample; compare their dtypes, or set learner.importance=truncate"
    )


def fault_alarm(spent_of: Mapping[int, Spent]) -> str | None:
    """A warning when no episode of the step is valid."""
    every = list(spent_of.values())
    if not every or any(one.invalid < one.episodes for one in every):
        return None
    return f"every episode is a fault, the first by: {every[0].fault}; nothing is learned until that is mended"


def times(clock: Sequence[float], statistics: Statistics, rollouts: int, found) -> dict[str, Any]:
    """Seconds by phase, and rates; nothing here is compared between runs."""
    rollout_s, settle_s, learner_s = np.diff(clock).tolist()
    tokens = sum(int(one["tokens"]) for one in found)
    return {
        "time/step_s": clock[-1] - clock[0],
        "time/rollout_s": rollout_s,
        "time/decode_s": statistics.decode_s,
        "time/prefill_s": statistics.append_s,
        "time/search_s": statistics.search_s,
        "time/search_wait_s": statistics.search_wait_s,
        "time/settle_s": settle_s,
        "time/learner_s": learner_s,
        "perf/tokens_per_s": statistics.tokens / max(rollout_s, 1e-9),
        "perf/learner_tokens_per_s": tokens / max(learner_s, 1e-9),
        "perf/rollouts_per_s": rollouts / max(clock[-1] - clock[0], 1e-9),
    }


def cache_figures(search: SearchFunction) -> dict[str, float]:
    """How many searches were read from disk, where the retriever is `cached`; of this process, evaluations included."""
    if not isinstance(search, SearchCache) or not search.asked:
        return {}
    return {"perf/search_cache_hit_rate": search.hits / search.asked}


def speed(
    settings: Config,
    cfg: ModelConfig,
    context_tokens: int,
    batch: pack.Batch | None,
    clock: Sequence[float],
    statistics: Statistics,
) -> dict[str, Any]:
    """What the step got of the most that the devices can do (models/costs.py, parallel/peaks.py).

    `context_tokens` are those of the step's episodes, `batch` what was trained on, None where nothing was; what was not
    done has no figure. `statistics` are this process's own, and so are the figures of decoding and of memory.
    """
    step_s, learner_s, devices = clock[-1] - clock[0], clock[-1] - clock[-2], peaks.devices(settings.mesh)
    row = {
        "perf/step_tokens_per_s": context_tokens / max(step_s, 1e-9) / devices,
        "perf/peak_memory_gib": peaks.memory_bytes() / 2**30,
    }
    peak = peaks.of(settings.model.compute)
    if batch is not None:
        filled_MRC = np.asarray(batch.segment_MRC) > 0
        flops = costs.training_flops(
            cfg,
            tokens=int(filled_MRC.sum()),
            pairs=int((np.asarray(batch.position_MRC)[filled_MRC] + 1).sum(dtype=np.int64)),
            predicted=int(np.asarray(batch.mask_MEL).sum()),
            forwards=(settings.learner.updates > 1) + (settings.learner.kl_weight > 0),
        )
        row["perf/mfu"] = flops / max(learner_s, 1e-9) / (peak.flops_a_s * devices)
    if statistics.decode_s:
        read_bytes = costs.decoding_bytes(
            cfg,
            steps=statistics.decode_steps,
            positions=statistics.cache_positions,
            item_bytes=2 if settings.model.compute == "bfloat16" else 4,
        )
        row["perf/decode_bandwidth"] = read_bytes / statistics.decode_s / peak.bytes_a_s
    return row


def write_episodes(one: Step, step: int, drawn_Q, groups: dict[int, Group], outcome: Outcome) -> None:
    """episodes/step_N.jsonl; advantages are those of this step's accepted groups, 0 for all others."""
    taken_Q = np.isin(np.arange(len(drawn_Q)), outcome.accepted_at)
    graded, piece = outcome.grades, one.agent.engine.pieces.__getitem__
    advantage_QG = np.asarray(one.advantage(replace(graded, valid_QG=graded.valid_QG & taken_Q[:, None]))).round(6)
    one.run.write_episodes(
        step + 1,
        {
            (at, g): runs.episode_row(
                episode, float(graded.reward_QG[at, g]), str(outcome.verdict_Q[at]), bool(taken_Q[at]),
                advantage_QG[at, g].tolist(), piece,
            )
            for at, index in enumerate(drawn_Q.tolist())
            for g, episode in enumerate(groups.get(index, ()))
        },
    )  # fmt: skip


def write_draws(one: Step, step: int, before, spent_of: Mapping[int, Spent], outcome: Outcome) -> None:
    """A line a draw in ledger.jsonl: query, origin, each sample's reward (null: not valid), verdict, tokens, searches.

    A group that is smaller than the step's largest has rewards of its own samples alone. `successes` counts the valid
    outcomes of 1, `valid` the valid episodes.
    """
    graded = outcome.grades
    outcome_QG = graded.reward_QG if graded.outcome_QG is None else graded.outcome_QG
    origin_of = {last: origin for origin, last in figures.ORIGINS.items()}
    taken = set(outcome.accepted_at.tolist())
    rows = []
    for at, index in enumerate(outcome.drawn_Q.tolist()):
        valid_G = graded.valid_QG[at]
        graded_G = list(zip(graded.reward_QG[at], valid_G, strict=True))[: spent_of[index].episodes]
        rewards = [float(reward) if ok else None for reward, ok in graded_G]
        rows.append(
            {
                "step": step + 1,
                "query": one.queries[index].id,
                "index": index,
                "origin": origin_of[int(before.last_P[index])],
                "rewards": rewards,
                "successes": int(((outcome_QG[at] == 1) & valid_G).sum()),
                "valid": int(valid_G.sum()),
                "verdict": str(outcome.verdict_Q[at]),
                "accepted": at in taken,
                "tokens": spent_of[index].tokens,
                "searches": spent_of[index].searches,
            }
        )
    one.run.write_draws(rows)


def summarise(
    run: runs.Run, progress: Progress, after, wall_s: float, warm_up_s: float | None = None
) -> dict[str, Any]:
    """What summary.json holds: accuracy before and after, pool figures over the last tenth of the steps, the budget.

    `wall_s` is this attempt's, and so is `warm_up_s`, the part of it in which programs were compiled.
    """
    lines = metrics_writer.read(run.folder)
    last = figures.over_steps(lines[-max(len(lines) // 10, 1) :]) if lines else {}
    before = progress.before or {}
    return {
        "greedy_before": before.get("exact_match"),
        "greedy_after": after.get("exact_match") if after else None,
        "se": {
            "greedy_before": before.get("exact_match_se"),
            "greedy_after": after.get("exact_match_se") if after else None,
        },
        "questions": after.get("questions") if after else 0,
        "zero_variance_rate": last.get("pool/zero_variance_rate"),
        "recycled_share": last.get("pool/recycled_share"),
        "recycled_by_origin": {name: last.get(f"pool/{name}") for name in figures.ORIGINS},
        "flipped": last.get("pool/flipped"),
        "steps": len(lines),
        "rollouts": progress.rollouts,
        "tokens": progress.tokens,
        "searches": progress.searches,
        "wall_s": wall_s,
        "warm_up_s": warm_up_s,
        "base": evaluate.without_details(progress.base or {}),
        "before": evaluate.without_details(before),
        "after": evaluate.without_details(after),
    }
