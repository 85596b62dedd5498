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
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qr_jax import assemble, checkpoint, evaluate, figures, learner, metrics_writer, pack, pool, runs, telemetry
from qr_jax.config import Config
from qr_jax.parallel import hosts
from qr_jax.parallel import mesh as meshes
from qr_jax.rollout import compiles
from qr_jax.rollout.engine import Interrupted
from qr_jax.sft import sft
from qr_jax.step import Progress, Step, families, from_host


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
            say("evaluating the model as it is, before its cold start")
            progress = replace(progress, base=measure(params=hand_over(params)))
            say(f"before the cold start: {evaluate.one_line(progress.base)}")
        state, first = made.init(_weights(settings, run, agent, search, mesh, params)), 0
        del params
        say("evaluating before training")
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
    say("evaluating after training")
    after = measure(params=hand_over(state.params))
    _say_what_changed(say, progress, after)
    summary = telemetry.summarise(run, progress, after, time.monotonic() - started)
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
    new = one.gathered(drawn_Q, groups, kept_at, graded)
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
    row = telemetry.step_figures(one, before, outcome, after, groups, statistics)
    row |= telemetry.learner_figures(state, found, made, efficiency, micro)
    row |= telemetry.times(clock, statistics, rollouts, found) | {"perf/compiles": compiles.count() - compiled}
    telemetry.write_episodes(one, step, drawn_Q, groups, outcome)
    if warning := figures.starvation(row):
        one.run.say(f"step {step + 1}: {warning}")
    return state, after, row


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
