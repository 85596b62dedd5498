"""The loop: draw queries, roll them out, grade, settle the pool, learn from the groups that bear signal.

    drawn_Q  = draw(pool, k * B, seed, step)       which queries; the same on every process
    episodes = rollout(params, queries, drawn_Q)   K episodes a query
    grades   = grade(episodes)                     a fault is marked, never scored 0
    settled  = settle(pool, drawn_Q, grades)       accept B signal groups; the rule says which queries return
    state    = train_step(state, batch)            mask -> advantages -> loss -> update

Coelho et al. 2026, arXiv:2606.10709. Steps count from 0; checkpoint t is written after t steps and holds all step t
needs.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qr_jax import assemble, checkpoint, evaluate, figures, metrics_writer, pool, runs, telemetry
from qr_jax.config import BUDGETS, Config, Train
from qr_jax.evaluation import last_evaluation, subject
from qr_jax.evaluation.manifest import questions_sha256
from qr_jax.learning import learner, pack
from qr_jax.parallel import compile_cache, host_local, peaks
from qr_jax.parallel import mesh as meshes
from qr_jax.processes import alike, hosts
from qr_jax.report import charts, page, read
from qr_jax.rollout import compiles
from qr_jax.rollout.engine import Interrupted
from qr_jax.sft import sft
from qr_jax.step import Progress, Step, from_host
from qr_jax.studies import null_control

MOST_ROLLBACKS = 3


def update(made: learner.Learner, state: learner.State, batch: pack.Batch, updates: int):
    """One optimizer update, or `updates` of them over disjoint parts of the batch against one old policy.

    A part is every `updates`-th micro-batch; with fewer micro-batches than that there are fewer updates.
    """
    if updates == 1:
        state, found = made.train_step(state, batch)
        return state, [jax.device_get(found)]
    old_MEL, found = made.old_logp(state, batch), []
    for part in range(updates):
        here_M = batch.used_M & (np.arange(len(batch.used_M)) % updates == part)
        if here_M.any():
            some = replace(
                batch,
                used_M=here_M,
                mask_MEL=batch.mask_MEL & here_M[:, None, None],
                drawn_tokens=batch.drawn_tokens // updates,
                drawn_episodes=batch.drawn_episodes // updates,
            )
            state, one = made.train_step(state, some, old_MEL)
            found.append(jax.device_get(one))
    return state, found


def train(settings: Config, folder: str | Path, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train by a config in a run folder, or go on with the run that is there. Returns the summary (summary.json)."""
    started = time.monotonic()
    run = runs.Run(folder, settings, stage="train", say=say)
    try:
        parts = _Parts(settings, run)
        state, progress, first = _begin(parts)
        state, progress = _loop(parts, state, progress, first)
        say("evaluating after training")
        after = parts.measure(params=parts.hand_over(state.params))
        _say_what_changed(say, progress, after)
        about = {"env": parts.one.env, "corpus_sha256": parts.corpus_sha256}
        run.write_json(last_evaluation.FILE, last_evaluation.final(settings, parts.questions, after, **about))
        summary = telemetry.summarise(run, progress, after, time.monotonic() - started, parts.warm_up_s)
        run.write_json("summary.json", summary)
        if hosts.index() == 0 and progress.rollouts:
            null = null_control.null_or_reason(run.folder, points=charts.RATE_BINS, allow_plugins=None)
            say(f"report: {page.write(run.folder, null=null)}")
        return hosts.from_first(summary)
    except Interrupted:
        say("stopped by SIGTERM; the same command goes on from the last checkpoint")
        raise SystemExit(143) from None
    finally:
        run.close()


class _Parts:
    """What all steps share, bound once from the config."""

    def __init__(self, settings: Config, run: runs.Run):
        self.settings, self.run, self.mesh = settings, run, meshes.make_mesh(settings.mesh)
        self.warm_up_s: float | None = None
        self.agent = assemble.agent(settings)
        queries = assemble.questions(settings, "train")
        over = subject.corpus(settings, lambda: assemble.passages(settings))
        self.search, self.corpus_sha256 = over.search(), over.sha256
        steps = settings.train.steps * settings.learner.updates
        temperature = settings.rollout.temperature
        shape = (self.agent.cfg, settings.model, settings.learner, self.mesh)
        self.made = learner.make(*shape, steps=steps, temperature=temperature)
        self.one = Step(settings, self.agent, queries, self.search, run)
        self.same = {
            checkpoint.QUERIES: pool.query_list_hash(query.id for query in queries),
            checkpoint.MODEL: self.agent.fingerprint,
        }
        self.layout: host_local.Kind = assemble.rollout_layout(settings, self.agent.cfg, self.mesh)
        self.hand_over = partial(
            assemble.hand_over, cfg=self.agent.cfg, compute=settings.model.compute, mesh=self.mesh, layout=self.layout
        )
        self.questions = assemble.questions(settings, "eval")
        asked_of = questions_sha256([*queries, *self.questions])
        alike.check(questions=asked_of, passages=self.corpus_sha256, model=self.agent.fingerprint)
        asked = {"queries": self.questions, "stop_now": run.stop_now}
        engine = assemble.Dealt(self.agent.engine, pod=self.layout == "pod")
        self.measure = partial(evaluate.measure, settings, engine, search=self.search, **asked)

    def check(self, host: dict[str, Any]) -> None:
        """ValueError when a checkpoint's host values are of another query list or model."""
        checkpoint.check_same_queries(host, self.same[checkpoint.QUERIES])
        checkpoint.check_same_model(host, self.same[checkpoint.MODEL])

    def save(self, step: int, state: learner.State, progress: Progress) -> None:
        self.run.save(step, state, progress.to_host() | self.same)


def _begin(parts: _Parts) -> tuple[learner.State, Progress, int]:
    """Where the run goes on; or its first policy, evaluated and saved as step 0."""
    settings, run, say = parts.settings, parts.run, parts.run.say
    resumed = run.go_on(parts.made.abstract, parts.check)
    if resumed:
        state, host, step = resumed
        say(f"going on after step {step} (attempt {run.attempt})")
        _warm_up(parts, parts.hand_over(state.params))
        return _compile_update(parts, state), from_host(host), step
    queries = parts.one.queries
    progress = Progress(pool.create(len(queries), parts.one.family_P))
    params = assemble.place(parts.agent.weights(), parts.mesh)
    say(f"{len(queries)} queries; {meshes.describe_layout(parts.mesh, params).splitlines()[0]}")
    say(f"rollouts: {host_local.describe(parts.layout, parts.mesh, parts.agent.cfg)}")
    _warm_up(parts, parts.hand_over(params))
    if settings.evaluation.base:
        say("evaluating the model as it is, before its cold start")
        progress = replace(progress, base=parts.measure(params=parts.hand_over(params)))
        say(f"before the cold start: {evaluate.one_line(progress.base)}")
    state = parts.made.init(_weights(parts, params))
    del params
    say("evaluating before training")
    progress = replace(progress, before=parts.measure(params=parts.hand_over(state.params)))
    run.write_json(read.BEFORE, evaluate.without_details(progress.before))
    say(f"before training: {evaluate.one_line(progress.before)}")
    parts.save(0, state, progress)
    return _compile_update(parts, state), progress, 0


def _loop(parts: _Parts, state: learner.State, progress: Progress, step: int) -> tuple[learner.State, Progress]:
    """The steps. A SIGTERM in a rollout saves the step before; a later one, the step it came in, not its evaluation."""
    settings, run, say = parts.settings, parts.run, parts.run.say
    rows: list[dict[str, Any]] = []
    while _goes_on(settings.train, step, progress):
        try:
            state, progress, row = train_one(parts.one, parts.made, state, progress, parts.hand_over, step)
        except Interrupted:
            parts.save(step, state, progress)
            raise
        if row is None:
            say(f"step {step}: every query is used up, and pool.on_exhausted is 'stop'")
            break
        step += 1
        if int(state.skipped) >= settings.learner.max_nonfinite:
            state, progress, step = _roll_back(parts, progress)
            continue
        every = settings.evaluation.every
        if every and step % every == 0 and _goes_on(settings.train, step, progress):
            with contextlib.suppress(Interrupted):  # the step is done, and is saved below without it
                row |= evaluate.as_metrics(parts.measure(params=parts.hand_over(state.params)))
        run.write_metrics(step, row)
        rows.append(row)
        say(metrics_writer.live_line(step, row, _last_step(settings.train, step, progress)))
        if step % 10 == 0:
            say(metrics_writer.table(rows[-10:]))
        stops = run.stops()
        if step % settings.train.checkpoint_every == 0 or stops:
            parts.save(step, state, progress)
        if stops:
            raise Interrupted
    parts.save(step, state, progress)
    return state, progress


def _goes_on(limits: Train, step: int, progress: Progress) -> bool:
    """Whether neither the steps nor a budget, over all processes, are spent; the same on every process."""
    most = {name: getattr(limits, f"max_{name}") for name in BUDGETS}
    within = all(limit is None or getattr(progress, name) < limit for name, limit in most.items())
    return step < limits.steps and within


def _last_step(limits: Train, step: int, progress: Progress) -> int:
    """The step that will be the last one if those to come spend what those before did."""
    left = [limits.steps]
    for name in BUDGETS:
        limit, spent = getattr(limits, f"max_{name}"), getattr(progress, name)
        left += [-(-limit * step // spent)] if limit and spent else []
    return max(min(left), step)


def train_one(one: Step, made: learner.Learner, state, progress: Progress, hand_over, step: int):
    """One step of the loop above: (state, progress, metrics); metrics None when the pool is exhausted."""
    settings, clock, compiled = one.settings, [time.monotonic()], compiles.count()
    before = pool.refresh(progress.pool, below=settings.pool.reset_below)
    if not np.count_nonzero(before.weight_P):
        if settings.pool.on_exhausted == "stop":
            return state, progress, None
        before = pool.refresh(before, below=1.0)
    progress = replace(progress, pool=before)
    drawn_Q, groups, own = one.rollout(hand_over(state.params), progress, step)
    clock.append(time.monotonic())
    spent_of, statistics = one.share(groups, own)
    graded = one.grade(drawn_Q.tolist(), groups, step)
    settled = one.settle(progress, drawn_Q, graded, step)
    if hosts.count() > 1:
        hosts.assert_same(pool.digest(settled.pool), f"the pool after step {step}")
    clock.append(time.monotonic())
    kept_at = np.arange(len(drawn_Q)) if settings.learner.keep_dead else settled.accepted_at
    new = one.gathered(drawn_Q, groups, kept_at, graded)
    waiting, left_out = (*progress.waiting, *new), one.left_out(progress, drawn_Q, spent_of, kept_at)
    found: list[dict[str, Any]] = []
    efficiency, micro, batch = None, 0, None
    if len(waiting) >= max(settings.pool.min_signal, 1):
        batch = one.batch(waiting, left_out)
        state, found = update(made, state, batch, settings.learner.updates)
        efficiency, micro, waiting = pack.packing_efficiency(batch), int(batch.used_M.sum()), ()
        left_out = (0, 0)
    clock.append(time.monotonic())
    rollouts = sum(group.episodes for group in spent_of.values())
    context_tokens = sum(group.context_tokens for group in spent_of.values())
    after = replace(
        progress, pool=settled.pool, waiting=waiting, left_out=left_out, rollouts=progress.rollouts + rollouts,
        tokens=progress.tokens + statistics.tokens, searches=progress.searches + statistics.searches,
        cost_F=one.costs(progress, spent_of),
    )  # fmt: skip
    outcome = one.judge(drawn_Q, graded, step, progress)
    row = telemetry.step_figures(one, before, outcome, after, spent_of, statistics)
    row |= telemetry.learner_figures(state, found, made, efficiency, micro)
    row |= telemetry.times(clock, statistics, rollouts, found) | {"perf/compiles": compiles.count() - compiled}
    row |= telemetry.cache_figures(one.search)
    row |= telemetry.speed(settings, one.agent.cfg, context_tokens, batch, clock, own)
    telemetry.write_episodes(one, step, drawn_Q, groups, outcome)
    telemetry.write_draws(one, step, before, spent_of, outcome)
    for warning in (figures.starvation(row), telemetry.gap_alarm(settings, row), telemetry.fault_alarm(spent_of)):
        if warning:
            one.run.say(f"step {step + 1}: {warning}")
    return state, after, row


def _warm_up(parts: _Parts, params) -> None:
    compiles.count()
    # Over a pod every process runs each program: where one left, the others would wait in it.
    stop_now = (lambda: False) if parts.layout == "pod" else parts.run.stop_now
    try:
        work = partial(parts.agent.engine.warm_up, params, stop_now=stop_now)
        seconds = parts.warm_up_s = assemble.all_or_none(work)
    finally:
        compile_cache.push_new()
    peaks.of(parts.settings.model.compute)  # measured now where nobody says them, and not in the first step
    parts.run.say(f"{compiles.count()} rollout programs compiled in {seconds:.1f} s")


def _compile_update(parts: _Parts, state: learner.State) -> learner.State:
    """The same state, after an update by nothing: the learner's programs are then there before the first step."""
    if parts.run.stops():
        raise Interrupted
    compiles.count()
    start, empty = time.monotonic(), parts.one.batch((), (0, 0))
    old = () if parts.settings.learner.updates == 1 else (parts.made.old_logp(state, empty),)
    state, _ = jax.block_until_ready(parts.made.train_step(state, empty, *old))
    seconds = time.monotonic() - start
    parts.warm_up_s = (parts.warm_up_s or 0.0) + seconds
    parts.run.say(f"{compiles.count()} learner programs compiled in {seconds:.1f} s")
    compile_cache.push_new()
    return state


def _say_what_changed(say, progress: Progress, after) -> None:
    """Tables before and after, and the searches of one question that was wrong before and is right after."""
    for when, found in (("the cold start", progress.base), ("training", progress.before)):
        if found:
            say(f"\nbefore {when}\n{evaluate.format_table(found)}")
    say(f"\nafter training\n{evaluate.format_table(after)}")
    if progress.before and (pair := evaluate.changed(progress.before, after)):
        say(f"\none question before training\n{pair[0]}\n\nand after\n{pair[1]}\n")


def _weights(parts: _Parts, params):
    """The first policy: another run's, the cold start's, or the model as it was loaded (`params`)."""
    settings, run, agent = parts.settings, parts.run, parts.agent
    if settings.train.init:
        return evaluate.weights(settings.train.init, agent, parts.mesh)
    if not settings.sft.steps:
        return params
    if run.stops():
        raise Interrupted
    sft(runs.below(settings, "sft"), run.folder / "sft", agent=agent, search=parts.search, say=run.say)
    return evaluate.weights(run.folder / "sft", agent, parts.mesh)


def _roll_back(parts: _Parts, progress: Progress) -> tuple[learner.State, Progress, int]:
    """Back to the last checkpoint, with other sampling keys from there on."""
    run, count = parts.run, progress.rollbacks + 1
    if count > MOST_ROLLBACKS:
        raise ValueError(
            f"updates were not finite again after {MOST_ROLLBACKS} rollbacks; lower learner.lr, or look at the loss "
            f"plug-in and the rewards of the last episodes in {run.folder / 'logs'}"
        )
    found = run.go_on(parts.made.abstract, parts.check)
    assert found is not None, "step 0 is always saved"
    state, host, step = found
    run.say(f"updates were not finite; back to step {step} with other sampling keys (rollback {count})")
    return replace(state, skipped=state.skipped * 0), replace(from_host(host), rollbacks=count), step
