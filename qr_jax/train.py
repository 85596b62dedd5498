"""The loop: draw queries, roll them out, grade, settle the pool, learn from the groups that bear signal.

    drawn_Q  = draw(pool, k * B, seed, step)       which queries; the same on every process
    episodes = rollout(params, queries, drawn_Q)   K episodes a query
    grades   = grade(episodes)                     a fault is marked, never scored 0
    settled  = settle(pool, drawn_Q, grades)       accept B signal groups; the rule says which queries return
    state    = train_step(state, batch)            mask -> advantages -> loss -> update

Coelho et al. 2026, arXiv:2606.10709. Steps count from 0; checkpoint t is written after t steps and holds all step t
needs.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qr_jax import answers, assemble, checkpoint, evaluate, figures, learner, metrics_writer, pack, plugins, pool, runs
from qr_jax.config import Config
from qr_jax.metrics import STOPS
from qr_jax.noise import uniforms
from qr_jax.parallel import hosts, plain
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Episode, Grades, Outcome, Query, grades
from qr_jax.rollout import compiles
from qr_jax.rollout.engine import Interrupted, Statistics
from qr_jax.sft import sft
from qr_jax.verdict import judge

SHUFFLE = 2  # the first part of a key of `uniforms`: rewards shuffled for the control
ROLLBACK_SEEDS = 65536  # a rollback moves the seed by this, so that it does not replay the same step for ever

COUNTS = ("rollouts", "tokens", "searches", "rollbacks", "base", "before")

Group = list[Episode]


@dataclass(frozen=True)
class Progress:
    """What a step hands to the next, besides the learner's state; all of it is in the checkpoint."""

    pool: pool.Pool
    waiting: tuple[tuple[Group, np.ndarray], ...] = ()  # accepted groups and their rewards, until there are min_signal
    rollouts: int = 0
    tokens: int = 0
    searches: int = 0
    rollbacks: int = 0
    base: Any = None  # the evaluation before the cold start, when asked for
    before: Any = None  # the evaluation before the first step

    def to_host(self) -> dict[str, Any]:
        waiting = [[[plain.episode_to_plain(one) for one in group], rewards] for group, rewards in self.waiting]
        counts = {name: getattr(self, name) for name in COUNTS}
        return {"pool": pool.to_arrays(self.pool), "waiting": waiting, **counts}


def from_host(host: dict[str, Any]) -> Progress:
    waiting = tuple(([plain.episode_from_plain(one) for one in group], rewards) for group, rewards in host["waiting"])
    counts = {name: host[name] for name in COUNTS}
    return Progress(pool.from_arrays(host["pool"]), waiting, **counts)


class Step:
    """One step's parts, bound once: the plug-ins, the engine, the questions."""

    def __init__(self, settings: Config, agent: assemble.Agent, queries: Sequence[Query], search, run: runs.Run):
        self.settings, self.agent, self.queries, self.search, self.run = settings, agent, queries, search, run
        of = settings.pool
        self.env = assemble.environment(settings)
        self.reward = plugins.bind("reward", settings.reward)
        self.rule = plugins.bind("rule", of.rule)
        self.rounds = partial(plugins.bind("rounds", of.rounds), queries=of.queries, oversample=of.oversample)

    def rollout(self, params, progress: Progress, step: int) -> tuple[np.ndarray, dict[int, Group], Statistics]:
        """Draw and roll out, round by round; every process its own queries.

        Returns drawn_Q and this process's groups.
        """
        drawn: list[int] = []
        groups: dict[int, Group] = {}
        total, so_far = Statistics(), []
        while (ask := self.rounds(progress.pool, so_far)) is not None:
            new = pool.draw(
                progress.pool, ask.draw, seed=self.seed(progress), step=step, round=len(so_far), exclude=drawn,
                by=self.settings.pool.by,
            )  # fmt: skip
            if not len(new) and not ask.more:
                break
            drawn += new.tolist()
            wanted = dict.fromkeys(new.tolist(), self.settings.pool.samples) | dict(ask.more)
            for index, group in self.run_engine(params, wanted, groups, progress, step, total).items():
                groups[index] = groups.get(index, []) + group
            so_far.append(self.judge(drawn, self.grade(drawn, groups, step), step, progress))
        return np.array(drawn, np.int64), groups, total

    def run_engine(self, params, wanted: dict[int, int], groups, progress: Progress, step: int, total: Statistics):
        """Roll out this process's part of the wanted queries (pool index -> samples).

        Their sample numbers go on counting.
        """
        mine_at = hosts.deal(np.array(list(wanted.values())), hosts.count())[hosts.index()]
        mine = [list(wanted)[at] for at in mine_at]
        made: dict[int, Group] = {}
        for first in sorted({len(groups.get(index, ())) for index in mine}):
            some = [index for index in mine if len(groups.get(index, ())) == first]
            engine = self.agent.engine
            found = engine.run(
                params, [self.queries[index] for index in some], [wanted[index] for index in some], env=self.env,
                search=self.search, seed=self.seed(progress), step=step, query_keys=some, first_sample=first,
                stop_now=lambda: self.run.stopping,
            )  # fmt: skip
            made |= dict(zip(some, found, strict=True))
            for name in vars(total):
                setattr(total, name, getattr(total, name) + getattr(engine.statistics, name))
        return made

    def seed(self, progress: Progress) -> int:
        return self.settings.seed + ROLLBACK_SEEDS * progress.rollbacks

    def grade(self, drawn: Sequence[int], groups: dict[int, Group], step: int) -> Grades:
        """Rewards of all drawn queries in draw order, the same on every process; ragged groups padded as invalid."""
        mine = [at for at, index in enumerate(drawn) if index in groups]
        width = max([self.settings.pool.samples, *(len(group) for group in groups.values())])
        reward_QG = np.zeros((len(mine), width))
        valid_QG = np.zeros((len(mine), width), bool)
        outcome_QG = np.zeros((len(mine), width))
        for row, at in enumerate(mine):
            index, group = drawn[at], groups[drawn[at]]
            query = self.queries[index]
            reward_QG[row, : len(group)] = self.reward(query, group)
            valid_QG[row, : len(group)] = [episode.valid for episode in group]
            outcome_QG[row, : len(group)] = [answers.exact_match(episode.answer, query.answers) for episode in group]
        binary = self.settings.reward.name == "exact_match"
        graded = hosts.exchange(grades(reward_QG, valid_QG, None if binary else outcome_QG), np.array(mine), len(drawn))
        return shuffled(graded, self.settings.seed, step) if self.settings.train.shuffle_rewards else graded

    def judge(self, drawn, graded: Grades, step: int, progress: Progress) -> Outcome:
        of = self.settings.pool
        return judge(drawn, graded, step=step, accept=of.queries, channel=of.channel, seed=self.seed(progress))

    def settle(self, progress: Progress, drawn_Q, graded: Grades, step: int) -> pool.Settled:
        of = self.settings.pool
        return pool.settle(
            progress.pool, drawn_Q, graded, step=step, accept=of.queries, rule=self.rule, channel=of.channel,
            seed=self.seed(progress),
        )  # fmt: skip

    def batch(self, waiting: Sequence[tuple[Group, np.ndarray]], left_out: Sequence[Episode]) -> pack.Batch:
        """The accepted groups, and those that waited, as one batch of fixed shape."""
        of, learn = self.settings.pool, self.settings.learner
        capacity = of.queries + of.min_signal - 1
        if learn.keep_dead:
            capacity = max(capacity, of.queries * of.oversample)
        width = max([of.samples, *(len(group) for group, _ in waiting)])
        reward_QG, valid_QG = np.zeros((len(waiting), width)), np.zeros((len(waiting), width), bool)
        for q, (group, rewards) in enumerate(waiting):
            reward_QG[q, : len(group)] = rewards[: len(group)]
            valid_QG[q, : len(group)] = [episode.valid for episode in group]
        overlong = self.settings.rollout.overlong == "mask"
        cut = [[overlong and episode.stop in ("length", "context") for episode in group] for group, _ in waiting]
        return pack.pack(
            [group for group, _ in waiting], grades(reward_QG, valid_QG), rows=learn.rows, row_tokens=learn.row_tokens,
            queries=capacity, samples=width, drop_loss=cut,
            drawn_tokens=sum(int(episode.mask_L.sum()) for episode in left_out if episode.valid),
            drawn_episodes=sum(bool(episode.valid and episode.mask_L.any()) for episode in left_out),
        )  # fmt: skip


def shuffled(graded: Grades, seed: int, step: int) -> Grades:
    """The control: the step's valid rewards dealt out anew over its valid episodes, so that they say nothing."""
    valid_QG = np.asarray(graded.valid_QG)
    reward_QG = np.array(graded.reward_QG)
    order = np.argsort(uniforms(int(valid_QG.sum()), SHUFFLE, seed, step), kind="stable")
    reward_QG[valid_QG] = reward_QG[valid_QG][order]
    return Grades(reward_QG, valid_QG, None if graded.outcome_QG is None else (reward_QG == 1).astype(np.float32))


def update(made: learner.Learner, state: learner.State, batch: pack.Batch, updates: int):
    """One optimizer update, or `updates` of them over disjoint parts of the batch against one old policy."""
    if updates == 1:
        state, found = made.train_step(state, batch)
        return state, [jax.device_get(found)]
    old_MEL, found = made.old_logp(state, batch), []
    for part in range(updates):
        here_M = batch.used_M & (np.arange(len(batch.used_M)) % updates == part)
        if here_M.any():
            some = replace(batch, used_M=here_M, mask_MEL=batch.mask_MEL & here_M[:, None, None])
            state, one = made.train_step(state, some, old_MEL)
            found.append(jax.device_get(one))
    return state, found


def train(settings: Config, folder: str | Path, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train by a config in a run folder, or go on with the run that is there. Returns the summary (summary.json)."""
    started = time.monotonic()
    run = runs.Run(folder, settings, say=say)
    run.on_sigterm()
    try:
        return _train(settings, run, started)
    except Interrupted:  # in an evaluation: what is not in a checkpoint yet is computed again
        say("stopped by SIGTERM in an evaluation; the same command goes on from the last checkpoint")
        raise SystemExit(143) from None
    finally:
        run.close()


def _train(settings: Config, run: runs.Run, started: float) -> dict[str, Any]:
    say, mesh = run.say, meshes.make_mesh(settings.mesh)
    agent = assemble.agent(settings)
    queries, search = assemble.questions(settings, "train"), assemble.searcher(settings)
    made = learner.make(
        agent.cfg, settings.model, settings.learner, mesh, steps=settings.train.steps * settings.learner.updates,
        temperature=settings.rollout.temperature,
    )  # fmt: skip
    one = Step(settings, agent, queries, search, run)
    same = {
        checkpoint.QUERIES: pool.query_list_hash(query.id for query in queries),
        checkpoint.MODEL: agent.fingerprint,
    }
    hand_over = partial(assemble.hand_over, compute=settings.model.compute, mesh=mesh)
    measure = partial(evaluate.measure, settings, agent.engine, search=search, stop_now=lambda: run.stopping)
    resumed = run.go_on(made.abstract)
    if resumed:
        state, host, first = resumed
        checkpoint.check_same_queries(host, same[checkpoint.QUERIES])
        checkpoint.check_same_model(host, same[checkpoint.MODEL])
        progress = from_host(host)
        say(f"going on after step {first} (attempt {run.attempt})")
        _warm_up(agent, hand_over(state.params), say)
    else:
        progress = Progress(pool.create(len(queries), families(queries)))
        params = assemble.place(agent.weights(), mesh)
        say(f"{len(queries)} queries; {meshes.describe_layout(mesh, params).splitlines()[0]}")
        _warm_up(agent, hand_over(params), say)
        if settings.evaluation.base:
            progress = replace(progress, base=measure(params=hand_over(params)))
            say(f"before the cold start: {evaluate.one_line(progress.base)}")
        state, first = made.init(_weights(settings, run, agent, search, mesh, params)), 0
        del params
        progress = replace(progress, before=measure(params=hand_over(state.params)))
        say(f"before training: {evaluate.one_line(progress.before)}")
        run.save(0, state, progress.to_host() | same)
    rows: list[dict[str, Any]] = []
    step = first
    while step < settings.train.steps:
        try:
            found = train_one(one, made, state, progress, hand_over, step)
        except Interrupted:
            found = None
        if found is None or run.stopping:
            if found is not None:
                state, progress, row = found
                if row is not None:  # None: the pool is exhausted, and this step did nothing
                    run.writer.write(step + 1, row)
                    step += 1
            run.save(step, state, progress.to_host() | same)
            say(f"stopped by SIGTERM after step {step}; the same command goes on from here")
            raise SystemExit(143)
        state, progress, row = found
        if row is None:
            say(f"step {step}: every query is used up, and pool.on_exhausted is 'stop'")
            break
        step += 1
        if int(state.skipped) >= settings.learner.max_nonfinite:
            state, progress, step = _roll_back(run, made, progress, say)
            continue
        if settings.evaluation.every and step % settings.evaluation.every == 0 and step < settings.train.steps:
            row |= evaluate.as_metrics(measure(params=hand_over(state.params)))
        run.writer.write(step, row)
        rows.append(row)
        say(metrics_writer.live_line(step, row, settings.train.steps))
        if step % 10 == 0:
            say(metrics_writer.table(rows[-10:]))
        if step % settings.train.checkpoint_every == 0 or step == settings.train.steps:
            run.save(step, state, progress.to_host() | same)
    run.save(step, state, progress.to_host() | same)
    after = measure(params=hand_over(state.params))
    _say_what_changed(say, progress, after)
    summary = summarise(settings, run, progress, after, time.monotonic() - started)
    run.write_json("summary.json", summary)
    return summary


def train_one(one: Step, made: learner.Learner, state, progress: Progress, hand_over, step: int):
    """One step of the loop above: (state, progress, metrics); metrics None when the pool is exhausted."""
    settings, clock, compiled = one.settings, [time.monotonic()], compiles.count()
    before = pool.refresh(progress.pool, below=settings.pool.reset_below)
    if not np.count_nonzero(before.weight_P):
        if settings.pool.on_exhausted == "stop":
            return state, progress, None
        before = pool.refresh(before, below=1.0)
    progress = replace(progress, pool=before)
    drawn_Q, groups, statistics = one.rollout(hand_over(state.params), progress, step)
    clock.append(time.monotonic())
    graded = one.grade(drawn_Q.tolist(), groups, step)
    settled = one.settle(progress, drawn_Q, graded, step)
    hosts.assert_same(pool.digest(settled.pool), f"the pool after step {step}")
    clock.append(time.monotonic())
    kept_at = np.arange(len(drawn_Q)) if settings.learner.keep_dead else settled.accepted_at
    new = _gathered(one, drawn_Q, groups, kept_at, graded)
    left_out = [e for at, i in enumerate(drawn_Q) if at not in set(kept_at.tolist()) for e in groups.get(int(i), ())]
    waiting = (*progress.waiting, *new)
    found: list[dict[str, Any]] = []
    efficiency, micro = None, 0
    if len(waiting) >= max(settings.pool.min_signal, 1):
        batch = one.batch(waiting, left_out)
        state, found = update(made, state, batch, settings.learner.updates)
        efficiency, micro, waiting = pack.packing_efficiency(batch), int(batch.used_M.sum()), ()
    clock.append(time.monotonic())
    rollouts = sum(len(group) for group in groups.values())
    after = replace(
        progress, pool=settled.pool, waiting=waiting, rollouts=progress.rollouts + rollouts,
        tokens=progress.tokens + statistics.tokens, searches=progress.searches + statistics.searches,
    )  # fmt: skip
    outcome = one.judge(drawn_Q, graded, step, progress)
    row = step_figures(one, before, outcome, after, groups, statistics)
    row |= learner_figures(state, found, made, efficiency, micro)
    row |= times(clock, statistics, rollouts, found) | {"perf/compiles": compiles.count() - compiled}
    write_episodes(one, step, drawn_Q, groups, outcome)
    if warning := figures.starvation(row):
        one.run.say(f"step {step + 1}: {warning}")
    return state, after, row


def _gathered(one: Step, drawn_Q, groups: dict[int, Group], kept_at, graded: Grades):
    """The accepted groups with their rewards, from whichever process rolled them out, in draw order."""
    mine = [(at, g) for at in kept_at.tolist() for g in range(len(groups.get(int(drawn_Q[at]), ())))]
    width = graded.reward_QG.shape[1]
    episodes = [groups[int(drawn_Q[at])][g] for at, g in mine]
    every = hosts.gather_episodes(episodes, [at * width + g for at, g in mine])
    of: dict[str, Group] = {}
    for episode in every:
        of.setdefault(episode.query.id, []).append(episode)
    return tuple((of[one.queries[int(drawn_Q[at])].id], graded.reward_QG[at]) for at in kept_at.tolist())


def step_figures(
    one: Step, before, outcome: Outcome, after: Progress, groups, statistics: Statistics
) -> dict[str, Any]:
    """Rewards, pool, rollout and budget metrics of a step."""
    graded, accept = outcome.grades, one.settings.pool.queries
    row: dict[str, Any] = {}
    valid_QG = graded.valid_QG
    outcome_QG = graded.reward_QG if graded.outcome_QG is None else graded.outcome_QG
    if valid_QG.any():
        row["reward/mean"] = float(graded.reward_QG[valid_QG].mean())
        row["reward/outcome_mean"] = float((outcome_QG[valid_QG] == 1).mean())
    rollouts_Q = np.array([len(groups.get(int(index), ())) for index in outcome.drawn_Q])
    row |= figures.step_figures(before, outcome, after.pool, accept=accept, rollouts_Q=rollouts_Q)
    row |= {"pool/waiting": len(after.waiting), "pool/size": after.pool.size}
    episodes = [episode for group in groups.values() for episode in group]
    count = max(len(episodes), 1)
    searches = sum(len(turn.queries) for episode in episodes for turn in episode.turns)
    stops = {stop: sum(episode.stop == stop for episode in episodes) / count for stop in STOPS}
    return row | {
        "rollout/turns": sum(int(episode.turn_L.max(initial=-1)) + 1 for episode in episodes) / count,
        "rollout/searches": searches / count,
        "rollout/tokens": sum(int(episode.mask_L.sum()) for episode in episodes) / count,
        "rollout/context_tokens": sum(len(episode.ids_L) for episode in episodes) / count,
        "rollout/faults": sum(not episode.valid for episode in episodes),
        **{f"rollout/stop_{stop}": share for stop, share in stops.items()},
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
    for name in ("loss", "grad_norm", "update_norm", "kl", "entropy", "clip_low", "clip_high", "dual", "ratio"):
        if name in mean:
            row[f"learner/{name}"] = mean[name]
    row["learner/tokens"] = int(sum(one["tokens"] for one in found))
    row["sampler_gap/mean"], row["sampler_gap/max"] = mean["gap"], float(max(one["gap_max"] for one in found))
    return row | {"learner/packing_efficiency": efficiency, "learner/micro_batches": micro}


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


def write_episodes(one: Step, step: int, drawn_Q, groups: dict[int, Group], outcome: Outcome) -> None:
    taken = set(outcome.accepted_at.tolist())
    one.run.write_episodes(
        step,
        [
            runs.episode_row(episode, float(outcome.grades.reward_QG[at, g]), str(outcome.verdict_Q[at]), at in taken)
            for at, index in enumerate(drawn_Q.tolist())
            for g, episode in enumerate(groups.get(index, ()))
        ],
    )


def families(queries: Sequence[Query]) -> np.ndarray:
    """An integer a query for rules that look at kinds: by dataset, kind and hops, in order of first appearance."""
    seen: dict[tuple, int] = {}
    names = [tuple(str(query.meta.get(name)) for name in ("dataset", "kind", "type", "hops")) for query in queries]
    return np.array([seen.setdefault(name, len(seen)) for name in names])


def summarise(settings: Config, run: runs.Run, progress: Progress, after, wall_s: float) -> dict[str, Any]:
    """What summary.json holds: accuracy before and after, pool figures over the last tenth of the steps, the budget."""
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
        "base": evaluate.without_details(progress.base or {}),
        "before": evaluate.without_details(before),
        "after": evaluate.without_details(after),
    }


def _warm_up(agent: assemble.Agent, params, say) -> None:
    compiles.count()
    seconds = agent.engine.warm_up(params)
    say(f"{compiles.count()} rollout programs compiled in {seconds:.1f} s")


def _say_what_changed(say, progress: Progress, after) -> None:
    """Tables before and after, and the searches of one question that was wrong before and is right after."""
    for when, found in (("the cold start", progress.base), ("training", progress.before)):
        if found:
            say(f"\nbefore {when}\n{evaluate.format_table(found)}")
    say(f"\nafter training\n{evaluate.format_table(after)}")
    if progress.before and (pair := evaluate.changed(progress.before, after)):
        say(f"\none question before training\n{pair[0]}\n\nand after\n{pair[1]}\n")


def _weights(settings: Config, run: runs.Run, agent: assemble.Agent, search, mesh, params):
    """The first policy: another run's, the cold start's, or the model as it was loaded (`params`)."""
    if settings.train.init:
        return evaluate.weights(settings.train.init, agent, mesh)
    if settings.sft.steps:
        sft(settings, run.folder / "sft", agent=agent, search=search, say=run.say)
        if run.stopping:
            raise Interrupted
        return evaluate.weights(run.folder / "sft", agent, mesh)
    return params


def _roll_back(run: runs.Run, made: learner.Learner, progress: Progress, say):
    """Back to the last checkpoint, with other sampling keys from there on."""
    run.checkpoints.wait()
    found = run.go_on(made.abstract)
    assert found is not None, "step 0 is always saved"
    state, host, step = found
    say(f"updates were not finite; back to step {step} with other sampling keys (rollback {progress.rollbacks + 1})")
    return state, replace(from_host(host), rollbacks=progress.rollbacks + 1), step
