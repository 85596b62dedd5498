"""A step's row of metrics, its warnings, its lines of the ledger, its episodes and its line on the terminal.

All of it is read from the Groups that the pool settled and the learner trained on.
"""

import codecs
import inspect
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from qr_jax import evaluate
from qr_jax.config import LIMITS, Config
from qr_jax.errors import UserError
from qr_jax.evaluation.scores import is_incomplete
from qr_jax.learner import learner, pack
from qr_jax.logging import metrics_writer, terminal
from qr_jax.logging.metrics import STOPS
from qr_jax.models import costs, lora
from qr_jax.models.families import ModelConfig
from qr_jax.parallel import hosts, memory, peaks
from qr_jax.pool import figures, pool
from qr_jax.records import Episode, Outcome, SearchFunction
from qr_jax.rollout.engine import Statistics
from qr_jax.run import runs
from qr_jax.step.grading import Group
from qr_jax.step.runtime import RunState, Runtime

KNOWN = ("loss", "grad_norm", "update_norm", "update_scale", "kl", "entropy", "clip_low", "clip_high", "dual", "ratio")
RECENT = 10  # steps whose median time predicts the time left
STARVED = 5  # steps over which a pool is seen to starve


@dataclass(frozen=True)
class UpdateResult:
    """The learner's work in a step: none (the defaults), or updates on one batch."""

    batch: pack.Batch | None = None
    metrics: Sequence[Mapping[str, Any]] = ()  # of each update, on the host
    groups: Sequence[Group] = ()  # of the batch in its order: those that waited, then the step's own
    seconds: float = 0.0  # what it took, without the wait for episodes that are played beside it


@dataclass(frozen=True)
class StepTimings:
    """A step's cost: rollout statistics of all processes and of this one, and when its phases ended (monotonic s)."""

    statistics: Statistics
    own: Statistics
    clock: Sequence[float]  # start, rolled out, settled, updated
    compiled: int = 0  # programs
    compile_s: float = 0.0
    lag: int = 0  # updates that the rollouts' policy was behind
    played_s: float | None = None  # seconds of the rollouts, if played ahead, during the previous update
    ahead_s: float = 0.0  # seconds of the next step's rollouts, played during this update
    beside_s: float = 0.0  # of the last phase, seconds when the update had ended or waited for these rollouts

    @property
    def learner_s(self) -> float:
        """Return the seconds of the update alone."""
        return max(self.clock[-1] - self.clock[-2] - self.beside_s, 0.0)


@dataclass(frozen=True)
class StepRecord:
    """A finished step: the pool it drew from, its groups and their outcome, its update, and the run state after it."""

    step: int
    before: pool.Pool
    groups: Sequence[Group]
    kept: Sequence[Group]  # the groups to train on, now or later
    outcome: Outcome
    updated: UpdateResult
    after: RunState
    timings: StepTimings


def write(runtime: Runtime, record: StepRecord, state: learner.State) -> dict[str, Any]:
    """Write the step's episodes and draws, say its warnings, and return its row of metrics."""
    settings, timings = runtime.settings, record.timings
    row = pool_and_rollouts(record, accept=settings.pool.queries)
    row |= learner_figures(state, record.updated)
    row |= times(timings, sum(group.spent.episodes for group in record.groups), record.updated.metrics)
    row |= cache_figures(runtime.world.search)
    context_tokens = sum(group.spent.context_tokens for group in record.groups)
    trained = record.updated.batch, runtime.learner.forwards
    row |= speed(settings, runtime.agent.cfg, context_tokens, *trained, timings)
    write_episodes(runtime, record)
    runtime.run.write_draws(draws(runtime, record))
    alarms = (gap_alarm(settings, row, timings.lag), update_alarm(settings, row), parts_alarm(settings, row))
    for warning in (*alarms, *fault_alarms(record.groups)):
        if warning:
            runtime.run.say(f"step {record.step + 1}: {warning}")
    return row


@dataclass
class Lines:
    """Print a run's lines on the terminal, one per step; keep the last steps' rows for them.

    `starved`: whether the last steps gave a warning, which is said once.
    """

    runtime: Runtime
    rows: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=RECENT))  # a row takes 14 kB
    starved: bool = False

    def show(self, step: int, row: dict[str, Any], last_step: int) -> None:
        """Print the step's line, and a warning when the pool starves or was reset at every step (`figures.warning`)."""
        say, rule = self.runtime.run.say, self.runtime.settings.pool.rule.name
        self.rows.append(row)
        usual = row | {"time/step_s": float(np.median([past["time/step_s"] for past in self.rows]))}
        say(metrics_writer.live_line(step, usual, last_step, width=terminal.width()))
        lately = list(self.rows)[-STARVED:]  # one thin step is noise
        warning = figures.warning(lately, rule) if len(lately) == STARVED else None
        if warning and not self.starved:
            say(f"step {step}: over the last {STARVED} steps {warning}")
        self.starved = warning is not None


def pool_and_rollouts(record: StepRecord, *, accept: int) -> dict[str, Any]:
    """Return a step's metrics of rewards, pool, rollouts and budget."""
    grades, after, statistics = record.outcome.grades, record.after, record.timings.statistics
    row: dict[str, Any] = {}
    if grades.valid_QG.any():
        row["reward/mean"] = float(grades.reward_QG[grades.valid_QG].mean())
        row["reward/outcome_mean"] = float((grades.outcome_QG[grades.valid_QG] == 1).mean())
    every = [group.spent for group in record.groups]
    rollouts_Q = np.array([spent.episodes for spent in every])
    row |= figures.step_figures(record.before, record.outcome, after.pool, accept=accept, rollouts_Q=rollouts_Q)
    row |= {"pool/waiting": len(after.waiting), "pool/size": after.pool.size}
    count = max(sum(spent.episodes for spent in every), 1)
    return row | {
        "rollout/turns": sum(spent.turns for spent in every) / count,
        "rollout/searches": sum(spent.searches for spent in every) / count,
        "rollout/parallel_turns": sum(spent.parallel_turns for spent in every) / count,
        "rollout/tokens": sum(spent.tokens for spent in every) / count,
        "rollout/context_tokens": sum(spent.context_tokens for spent in every) / count,
        "rollout/entropy": sum(spent.surprise for spent in every) / max(sum(spent.tokens for spent in every), 1),
        "rollout/faults": sum(spent.invalid for spent in every),
        **{f"rollout/stop_{stop}": sum(spent.stops.get(stop, 0) for spent in every) / count for stop in STOPS},
        "rollout/observations_lent": statistics.observation_lent / max(statistics.observation_tokens, 1),
        "retriever/queries": statistics.searches_sent,
        "retriever/failed": statistics.searches_failed,
        "retriever/passages_cut": statistics.passages_cut,
        "budget/rollouts": after.rollouts,
        "budget/tokens": after.tokens,
        "budget/searches": after.searches,
    }


def learner_figures(state: learner.State, updated: UpdateResult) -> dict[str, Any]:
    """Return the metrics of the update; the loss is null if nothing was learned from."""
    row: dict[str, Any] = {"learner/updates": int(state.updates), "learner/skipped": int(state.skipped)}
    if updated.batch is None or not updated.metrics:
        return row | {"learner/loss": None, "learner/micro_batches": 0}
    every = updated.metrics
    mean = {name: float(np.mean([metrics[name] for metrics in every])) for name in every[0] if name != "advantage"}
    row["learner/lr"] = float(every[0]["lr"])
    row["learner/nonfinite"] = sum(not metrics["finite"] for metrics in every)
    row |= {f"learner/{name}": mean[name] for name in KNOWN if name in mean}
    row |= {f"loss/{name}": value for name, value in mean.items() if name not in (*KNOWN, *learner.LEARNER_METRICS)}
    row["learner/tokens"] = int(sum(metrics["tokens"] for metrics in every))
    row["sampler_gap/mean"] = mean["gap"]
    row["sampler_gap/max"] = float(max(metrics["gap_max"] for metrics in every))
    row["learner/packing_efficiency"] = pack.packing_efficiency(updated.batch)
    return row | {"learner/micro_batches": int(np.sum(updated.batch.used_M))}


def check_advantage(
    runtime: Runtime, batch: pack.Batch, groups: Sequence[Group], metrics: Sequence[Mapping[str, Any]]
) -> None:
    """Raise ValueError, with the advantage's name, if a valid episode got too few numbers or one that is not finite."""
    if not metrics:
        return
    advantage, name = np.asarray(metrics[0]["advantage"]), runtime.settings.learner.advantage.name
    for q, group in enumerate(groups):
        for g, episode in enumerate(group.episodes):
            values = np.atleast_1d(_trained_with(advantage, batch, q, g, episode))
            if episode.valid and advantage.ndim == 3 and len(values) < episode.model_turns:
                raise UserError(
                    f"advantage {name!r} gave {len(values)} turns, and sample {g} of query {episode.query.id!r} has "
                    f"{episode.model_turns}; wanted one for each of the model's turns (turn_NL numbers them)"
                )
            if episode.valid and not np.isfinite(values).all():
                bad = values[~np.isfinite(values)].flat[0]
                raise UserError(
                    f"advantage {name!r} gave {bad} for sample {g} of query {episode.query.id!r}; wanted a finite "
                    "number, 0 where there is nothing to learn from"
                )


def update_alarm(settings: Config, row: Mapping[str, Any]) -> str | None:
    """Warn if an update was skipped because its gradient was not finite, or if its gradient was 0."""
    loss, advantage = settings.learner.loss.name, settings.learner.advantage.name
    if row.get("learner/grad_norm") == 0 and not row["learner/nonfinite"]:
        return (
            f"the gradient is 0, so nothing is learned: advantage {advantage!r} gave 0 for every episode that was "
            f"trained on, or loss {loss!r} does not depend on the policy's log-probabilities"
        )
    if not row.get("learner/nonfinite"):
        return None
    return (
        f"the update was skipped: its loss or gradient is not finite ({row['learner/skipped']} in a row; after "
        f"{settings.learner.max_nonfinite} the run goes back to its last checkpoint). Look at loss {loss!r} and "
        f"advantage {advantage!r}, or lower learner.lr"
    )


def gap_alarm(settings: Config, row: dict[str, Any], lag: int = 0) -> str | None:
    """Warn if learner and sampler differ in the log-probabilities of the sampled tokens.

    With `lag` an older policy sampled the batch, so that the gap spans an update as well: there is no warning.
    """
    gap, alarm = row.get("sampler_gap/mean"), settings.learner.gap_alarm
    if gap is None or gap <= alarm or lag:
        return None
    if settings.learner.importance != "off":
        return (
            f"sampler and learner differ by {gap:.3f} nats a token (learner.gap_alarm {alarm}), for which "
            f"learner.importance={settings.learner.importance} weighs each token: expected of rollout.weights=int8, "
            "where a higher learner.gap_alarm keeps this line away; else compare their dtypes"
        )
    return (
        f"sampler and learner differ by {gap:.3f} nats a token (learner.gap_alarm {alarm}): the "
        "policy is trained on what it did not sample; compare their dtypes, or set learner.importance=truncate"
    )


def parts_alarm(settings: Config, row: dict[str, Any]) -> str | None:
    """Warn if a batch that should be split over several updates fills fewer micro-batches, and so made fewer."""
    wanted, made = settings.learner, row["learner/micro_batches"]
    if not 0 < made < wanted.updates:
        return None
    return (
        f"learner.updates={wanted.updates} made {made}: the batch fills {made} micro-batches of {wanted.rows} rows of "
        f"{wanted.row_tokens} tokens, and a micro-batch is not split; lower learner.rows"
    )


def fault_alarms(groups: Sequence[Group]) -> list[str]:
    """Warn if no episode of the step is valid, or if the reward could not grade some."""
    every = [group.spent for group in groups]
    ungraded, episodes = sum(spent.ungraded for spent in every), sum(spent.episodes for spent in every)
    if every and all(spent.invalid == spent.episodes for spent in every):
        return [f"every episode is a fault, the first by: {every[0].fault}; nothing is learned until that is mended"]
    if not ungraded:
        return []
    first = next(spent.fault for spent in every if spent.ungraded)
    return [f"{ungraded} of {episodes} episodes are faults of grading and are not trained on, the first by: {first}"]


def times(timings: StepTimings, rollouts: int, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the seconds of each phase, and rates; equal runs differ in these."""
    rollout_s, settle_s, _ = np.diff(timings.clock).tolist()
    learner_s, played_s = timings.learner_s, rollout_s if timings.played_s is None else timings.played_s
    beside = {"time/ahead_s": timings.ahead_s, "time/beside_s": timings.beside_s} if timings.ahead_s else {}
    statistics, step_s = timings.statistics, timings.clock[-1] - timings.clock[0]
    return {
        "time/step_s": step_s,
        "time/rollout_s": rollout_s,
        "time/decode_s": statistics.decode_s,
        "time/prefill_s": statistics.append_s,
        "time/search_s": statistics.search_s,
        "time/search_wait_s": statistics.search_wait_s,
        "time/settle_s": settle_s,
        "time/learner_s": learner_s,
        "time/compile_s": timings.compile_s,
        "perf/tokens_per_s": statistics.tokens / played_s if played_s else None,  # None: played by an earlier attempt
        "perf/learner_tokens_per_s": sum(int(update["tokens"]) for update in metrics) / max(learner_s, 1e-9),
        "perf/rollouts_per_s": rollouts / max(step_s, 1e-9),
        "perf/compiles": timings.compiled,
        **beside,
    }


def cache_figures(search: SearchFunction) -> dict[str, float]:
    """Return the share of this process's searches so far that were read from disk, those of evaluations included.

    Empty if the retriever is not `cached`, or was not asked yet.
    """
    kept: Any = inspect.unwrap(search)  # from the wrapper that checks its results (plugins.py)
    if not getattr(kept, "asked", 0):  # search_cache.SearchCache counts what it was asked, and what it had
        return {}
    return {"perf/search_cache_hit_rate": kept.hits / kept.asked}


def speed(
    settings: Config,
    cfg: ModelConfig,
    context_tokens: int,
    batch: pack.Batch | None,
    forwards: int,
    timings: StepTimings,
) -> dict[str, Any]:
    """Return the step's speed, also as shares of the devices' peaks (models/costs.py, parallel/peaks.py).

    `context_tokens` are those of the step's episodes, `batch` what was trained on (None: nothing), in an update with
    `forwards` forward-only passes (`Learner.forwards`). Work that was not done has no figure. Decoding and memory
    figures are of this process only. perf/decode_bandwidth is of one device that decodes in the dtype of
    `model.compute`; it is left out with int8 and if several devices share a rollout.
    """
    step_s, devices = timings.clock[-1] - timings.clock[0], peaks.devices(settings.mesh)
    statistics = timings.own
    row = {
        "perf/step_tokens_per_s": context_tokens / max(step_s, 1e-9) / peaks.all_devices(settings.mesh),
        "perf/peak_memory_gib": memory.memory_bytes() / 2**30,
    }
    peak = peaks.of(settings.model.compute)
    if batch is not None:
        filled_MRC = np.asarray(batch.segment_MRC) > 0
        flops = costs.training_flops(
            cfg,
            tokens=int(filled_MRC.sum()),
            pairs=costs.attended(cfg, np.asarray(batch.position_MRC)[filled_MRC] + 1),
            predicted=int(np.asarray(batch.mask_MEL).sum()),
            forwards=forwards,
            adapters=lora.count(cfg, settings.model.lora) if settings.model.lora.rank else None,
        )
        row["perf/mfu"] = flops / max(timings.learner_s, 1e-9) / (peak.flops_a_s * devices)
    as_computed = settings.rollout.weights == settings.rollout.cache == "compute"
    by_one = jax.default_backend() == "cpu" or jax.local_device_count() == 1 or settings.mesh.rollout == "one"
    if statistics.decode_s and as_computed and by_one:
        read_bytes = costs.decoding_bytes(
            cfg,
            steps=statistics.decode_steps,
            positions=statistics.cache_positions,
            item_bytes=2 if settings.model.compute == "bfloat16" else 4,
        )
        row["perf/decode_bandwidth"] = read_bytes / statistics.decode_s / peak.bytes_a_s
    return row


def write_episodes(runtime: Runtime, record: StepRecord) -> None:
    """Write this process's episodes to episodes/step_N.jsonl, with the advantages they were trained with.

    Of a step played ahead every process has all episodes (its run may have had more processes than now).
    """
    advantages, taken = advantages_of(record), set(record.outcome.accepted_at.tolist())
    piece = runtime.agent.engine.pieces.__getitem__
    rows = {}
    for at, group in enumerate(record.groups):
        for g, episode in enumerate(group.episodes if group.process % hosts.count() == hosts.index() else ()):
            reward = float(group.grades.reward_QG[0, g]) if episode.valid else None
            advantage = advantages[group.index][g] if group.index in advantages and episode.valid else 0.0
            verdict = str(record.outcome.verdict_Q[at])
            rows[at, g] = episode_row(episode, reward, verdict, at in taken, advantage, piece)
    runtime.run.write_episodes(record.step + 1, rows)


def episode_row(
    episode: Episode, reward: float | None, verdict: str, accepted: bool, advantage: Any, piece: Callable[[int], bytes]
) -> dict[str, Any]:
    """Describe one episode as a line of JSON: who wrote what, what was asked and found, what it was worth.

    A model turn has its sampled tokens as `pieces` of text and their log-probabilities. `reward` is None for a fault;
    `advantage` is a number, one per turn, or None for a group that waits for its update; `piece` gives a token's bytes.
    """
    turns: list[dict[str, Any]] = [
        {"author": turn.author, "text": turn.text}
        | ({"queries": list(map(str, turn.queries))} if turn.queries else {})
        | ({"passages": [[passage.id for passage in ranked] for ranked in turn.passages]} if turn.passages else {})
        for turn in episode.turns
    ]
    for number, turn in enumerate(turn for turn in turns if turn["author"] == "model"):
        at_L = np.flatnonzero(episode.turn_L == number)
        turn["pieces"] = _pieces(episode.ids_L[at_L].tolist(), piece)
        turn["logp"] = episode.logp_L[at_L].astype(float).round(4).tolist()
    return {
        "query": episode.query.id, "sample": episode.sample, "question": episode.query.question,
        "golds": list(episode.query.answers), "answer": episode.answer, "reward": reward, "advantage": advantage,
        "verdict": verdict, "accepted": accepted, "stop": episode.stop, "fault": episode.fault,
        "tokens": int(episode.mask_L.sum()), "context_tokens": len(episode.ids_L), "turns": turns,
    }  # fmt: skip


def _pieces(ids: Sequence[int], piece: Callable[[int], bytes]) -> list[str]:
    """Return the text of each token; a character of several tokens stands with the last. Joined they are the whole
    text.
    """
    pieces = [*map(piece, ids)]
    if b"".join(pieces).isascii():  # each is a text by itself
        return [each.decode() for each in pieces]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(each, final=at == len(ids)) for at, each in enumerate(pieces, 1)]


def advantages_of(record: StepRecord) -> dict[int, list[Any]]:
    """Map pool index to the advantage of each sample as the learner used it: a number, or one per turn.

    None for groups that wait for a later update. A per-token advantage is shown as its mean over each turn.
    """
    if record.updated.batch is None or not record.updated.metrics:
        return {group.index: [None] * group.spent.episodes for group in record.kept}
    advantage, batch = np.asarray(record.updated.metrics[0]["advantage"]), record.updated.batch
    show = _by_turn if _is_by_token(advantage, batch) else lambda values, episode: values
    return {
        group.index: [
            np.round(show(_trained_with(advantage, batch, q, g, episode), episode), 6).tolist()
            for g, episode in enumerate(group.episodes)
        ]
        for q, group in enumerate(record.kept, len(record.updated.groups) - len(record.kept))
    }


def _is_by_token(advantage: np.ndarray, batch: pack.Batch) -> bool:
    return advantage.shape[:2] != batch.grades.valid_QG.shape


def _trained_with(advantage: np.ndarray, batch: pack.Batch, q: int, g: int, episode: Episode) -> np.ndarray:
    """Return an episode's part of the advantage of its batch: a number, one per turn it has, or one per token (0: not
    sampled).
    """
    if _is_by_token(advantage, batch):
        row = advantage[q * batch.grades.valid_QG.shape[1] + g]
        return np.where(episode.mask_L, row[: len(episode.ids_L)], 0)
    return advantage[q, g, : episode.model_turns] if advantage.ndim == 3 else advantage[q, g]


def _by_turn(advantage_L: np.ndarray, episode: Episode) -> np.ndarray:
    turns = range(episode.model_turns)
    return np.array([advantage_L[(episode.turn_L == turn) & episode.mask_L].mean() for turn in turns])


def draws(runtime: Runtime, record: StepRecord) -> list[dict[str, Any]]:
    """Return a ledger row per draw: query, origin, each sample's reward (null: not valid), verdict, tokens, searches;
    if it was played ahead, `lag`: by how many updates its policy was behind.

    `successes` counts the valid outcomes of 1, `valid` the valid episodes. Rewards are of the group's own samples,
    without padding.
    """
    origin_of = {last: origin for origin, last in figures.ORIGINS.items()}
    taken, rows = set(record.outcome.accepted_at.tolist()), []
    for at, group in enumerate(record.groups):
        grades = group.grades
        valid_G = grades.valid_QG[0]
        rewards = [float(reward) if ok else None for reward, ok in zip(grades.reward_QG[0], valid_G, strict=True)]
        rows.append(
            {
                "step": record.step + 1,
                "query": runtime.data.queries[group.index].id,
                "index": group.index,
                "origin": origin_of[int(record.before.last_P[group.index])],
                "rewards": rewards,
                "successes": int(((grades.outcome_QG[0] == 1) & valid_G).sum()),
                "valid": int(valid_G.sum()),
                "verdict": str(record.outcome.verdict_Q[at]),
                "accepted": at in taken,
                "tokens": group.spent.tokens,
                "searches": group.spent.searches,
                **({"lag": record.timings.lag} if record.timings.lag else {}),
            }
        )
    return rows


def summarise(
    run: runs.Run, run_state: RunState, after, wall_s: float, warm_up_s: float | None = None
) -> dict[str, Any]:
    """Make summary.json: accuracy before and after, pool figures over the last tenth of the steps, the budget.

    `wall_s` is this attempt's, and so is `warm_up_s`, the part of it in which programs were compiled.
    """
    lines = metrics_writer.read(run.folder)
    last = figures.over_steps(lines[-max(len(lines) // 10, 1) :]) if lines else {}
    before = run_state.before or {}
    return {
        "greedy_before": before.get("exact_match"),
        "greedy_after": after.get("exact_match") if after else None,
        "se": {
            "greedy_before": before.get("exact_match_se"),
            "greedy_after": after.get("exact_match_se") if after else None,
        },
        "questions": after.get("questions") if after else 0,
        "incomplete": any(map(is_incomplete, (before, after or {}))),
        "zero_variance_rate": last.get("pool/zero_variance_rate"),
        "recycled_share": last.get("pool/recycled_share"),
        "recycled_by_origin": {name: last.get(f"pool/{name}") for name in figures.ORIGINS},
        "flipped": last.get("pool/flipped"),
        "steps": len(lines),
        "limits": {name: getattr(run.settings.train, name) for name in LIMITS},
        "rollouts": run_state.rollouts,
        "tokens": run_state.tokens,
        "searches": run_state.searches,
        "wall_s": wall_s,
        "warm_up_s": warm_up_s,
        "base": evaluate.without_details(run_state.base or {}),
        "before": evaluate.without_details(before),
        "after": evaluate.without_details(after),
        "gains": evaluate.gains(before, after) if before and after else {},
    }
