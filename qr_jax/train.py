"""The loop: draw queries, roll them out, grade, settle the pool, learn from the groups that bear signal.

    drawn    = draw(pool, ask)              which queries, and how many samples; the same on every process
    rolled   = roll_out(params, drawn)      episodes of this process's queries
    groups   = graded(rolled)               each group once; a fault is marked, never scored 0
    pool     = settled(groups)              accept B signal groups; the rule says which queries return
    state    = update(state, groups)        mask -> advantages -> loss -> update

A rounds plug-in may repeat the first three lines within a step. Coelho et al. 2026, arXiv:2606.10709. Steps count from
0; checkpoint t is written after t steps and holds all that step t needs.
"""

import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from qr_jax import begin, ending, evaluate, figures, metrics_writer, plugins, pool, runs, terminal
from qr_jax.config import BUDGETS, Config, Evaluation, Train
from qr_jax.evaluation import last_evaluation
from qr_jax.evaluation.complete import is_incomplete
from qr_jax.learning import learner, pack
from qr_jax.parallel import memory
from qr_jax.processes import hosts
from qr_jax.rollout import compiles
from qr_jax.rollout.engine import Interrupted, Statistics
from qr_jax.step import batch, dealing, drawing, grading, guards, outage, progress, telling
from qr_jax.step import parts as run_parts
from qr_jax.step.beside import beside
from qr_jax.step.outage import Down, Outage, Repeated
from qr_jax.step.parts import Parts
from qr_jax.step.progress import Progress
from qr_jax.step.telling import Told, Took, Updated

TABLE = 10  # steps of a table with --verbose
STARVED = 5  # steps over which a pool is seen to starve
FALLEN = 4  # exit code of a run that a guard stopped; a supervisor does not start it again


class Fallen(Exception):
    """A guard stops the run (guards.act=stop)."""


def train(settings: Config, folder: str | Path, *, say: Callable[[str], None] = terminal.say) -> dict[str, Any]:
    """Train by a config in a run folder, or go on with the run that is there. Returns the summary (summary.json)."""
    started = time.monotonic()
    run = runs.Run(folder, settings, stage="train", say=say)
    try:
        if finished := hosts.by_first(lambda: _finished(run)):
            return finished
        parts = run_parts.bind(settings, run)
        start = begin.begin(parts)
        state, standing = _loop(parts, start.state, start.progress, start.step)
        after = parts.measure(params=parts.hand_over(state.params))
        run.checkpoints.wait()  # a summary says that the run is finished
        about = {"env": parts.env, "corpus_sha256": parts.corpus_sha256}
        run.write_json(last_evaluation.FILE, last_evaluation.final(settings, parts.questions, after, **about))
        summary = telling.summarise(run, standing, after, time.monotonic() - started, start.warm_up_s)
        run.write_json("summary.json", summary)
        if hosts.index() == 0:
            ending.tell(parts, standing, after)
        return hosts.from_first(summary)
    except Interrupted:
        raise run.end() from None
    except Outage as error:
        todo = "start the same command again when it is back"
        say(f"ended by an outage: {error}. Saved after its last whole step; {todo}")
        raise SystemExit(outage.CODE) from None
    except Repeated as error:
        say(f"ended: {error}. Saved after its last whole step; when that is mended, the same command goes on")
        raise SystemExit(outage.CODE) from None
    except Fallen as alarm:
        say(f"stopped by a guard: {alarm}. The same command goes on all the same; or lower learner.lr in another run")
        raise SystemExit(FALLEN) from None
    finally:
        run.close()


def _loop(parts: Parts, state: learner.State, standing: Progress, step: int) -> tuple[learner.State, Progress]:
    """The steps. A SIGTERM in a rollout, or a plug-in's mistake, saves the step before; a later SIGTERM, the step it is
    in, not its evaluation.
    """
    settings, run, say = parts.settings, parts.run, parts.run.say
    rows: deque[dict[str, Any]] = deque(maxlen=TABLE)  # the last ones: a row takes 14 kB, and steps may be many
    lost: outage.Lost | None = None  # the step, to an outage
    starved = False
    while _goes_on(settings.train, step, standing):
        rollouts = standing.rollouts
        try:
            try:
                state, standing, row = take_step(parts, state, standing, step)
            except Down as down:
                lost = outage.wait(parts, down, step, lost)
                continue
        except (Interrupted, Outage, Repeated):
            parts.save(step, state, standing)
            raise
        except Exception as error:
            if plugins.was_raised_by_one(error) and hosts.count() == 1 and _is_there(state):
                parts.save(step, state, standing)
                say(f"saved after step {step}; when what failed is mended, the same command goes on")
            raise
        lost = None
        if row is None:
            say(f"step {step}: every query is used up, and pool.on_exhausted is 'stop'")
            break
        step += 1
        if int(state.skipped) >= settings.learner.max_nonfinite:
            if not int(state.updates):
                first, loss = f"none of the first {int(state.skipped)} updates was finite", settings.learner.loss.name
                raise ValueError(f"{first}; look at loss {loss!r}, or lower learner.lr")
            state, standing, step = begin.roll_back(parts, standing, "updates were not finite")
            continue
        standing, raised = watched(parts, state, standing, step, row)
        due = _is_due(settings.evaluation, step, rollouts, standing.rollouts)
        if due and _goes_on(settings.train, step, standing):
            with contextlib.suppress(Interrupted):  # the step is done, and is saved below without it
                during = {"params": parts.hand_over(state.params), "limit": settings.evaluation.during}
                row |= evaluate.as_metrics(parts.measure(**during))
        run.write_metrics(step, row)
        rows.append(row)
        usual = row | {"time/step_s": float(np.median([past["time/step_s"] for past in rows]))}
        say(metrics_writer.live_line(step, usual, _last_step(settings.train, step, standing), width=terminal.width()))
        lately = list(rows)[-STARVED:]  # one thin step is noise
        warning = figures.warning(lately, settings.pool.rule.name) if len(lately) == STARVED else None
        if warning and not starved:
            say(f"step {step}: over the last {STARVED} steps {warning}")
        starved = warning is not None
        if step % TABLE == 0:
            run.detail(metrics_writer.table(list(rows)))
        if raised and settings.guards.act == "rollback":
            best = standing.watch.best_step
            state, standing, step = begin.roll_back(parts, standing, raised, to=best, slower=0.5)
            continue
        stops = run.stops()
        best_yet = settings.guards.act == "rollback" and standing.watch.best_step == step
        if step % settings.train.checkpoint_every == 0 or stops or best_yet:
            parts.save(step, state, standing)
        if stops:
            raise Interrupted
        if raised and settings.guards.act == "stop":
            parts.save(step, state, standing)
            raise Fallen(raised)
    parts.save(step, state, standing)
    return state, standing


def watched(
    parts: Parts, state: learner.State, standing: Progress, step: int, row: dict[str, Any]
) -> tuple[Progress, str]:
    """The progress after the guards saw the step's row (to which a probe is added), and what alarms they raise now.

    An alarm that was raised by the step before is not raised again.
    """
    limits = parts.settings.guards
    if limits.probe_every and step % limits.probe_every == 0:
        with contextlib.suppress(Interrupted):
            probe = parts.probe(params=parts.hand_over(state.params))
            row[guards.PROBE] = None if probe["incomplete"] else probe["exact_match"]
    before, watch = standing.watch, standing.watch.after(step, row)
    raised = guards.alarms(watch, limits)
    old = guards.alarms(before, limits) if step > 1 else {}
    row["guards/alarms"] = len(raised)
    new = "; ".join(text for name, text in raised.items() if name not in old)
    if new and limits.act == "warn":
        probes = "" if limits.probe_every else " guards.probe_every=5"
        cure = (
            f"`qr-jax report {parts.run.folder}` shows it; a run with guards.act=rollback{probes} goes back by itself"
        )
        parts.run.say(f"step {step}: {new}. {cure}")
    return replace(standing, watch=watch), new


def take_step(
    parts: Parts, state: learner.State, standing: Progress, step: int
) -> tuple[learner.State, Progress, dict[str, Any] | None]:
    """One step: the learner's state and the run's progress after it, and its metrics (None: the pool is used up).

    Interrupted, before anything changed, when the run was told to stop; Down, too, where most searches or grades
    failed.
    """
    settings, clock, compiled = parts.settings, [time.monotonic()], compiles.count()
    limits = {"reset_below": settings.pool.reset_below, "on_exhausted": settings.pool.on_exhausted}
    before = pool.drawable(standing.pool, **limits)
    if before is None:
        return state, standing, None
    standing = replace(standing, pool=before)
    params, own, groups, so_far = parts.hand_over(state.params), Statistics(), [], []
    with terminal.phase(f"step {step + 1}: episodes", asked=parts.agent.engine.progress):
        while (ask := parts.rounds(before, tuple(so_far))) is not None:
            drawn = drawing.draw(parts, standing, ask, groups, step, len(so_far))
            if not drawn:
                break
            rolled, statistics = dealing.roll_out(parts, params, standing, drawn, groups, step)
            groups = dealing.graded(parts, drawn, rolled, groups, step)
            so_far.append(drawing.judged(parts, standing, groups, step))
            dealing.add(own, statistics)
    clock.append(time.monotonic())
    whole = dealing.over_processes(own)
    outage.check(whole, groups, asks=parts.asks)
    outcome = so_far[-1]
    if step == 0:
        grading.check_graded(groups)
    settled = drawing.settled(parts, standing, outcome)
    if hosts.count() > 1:
        hosts.assert_same(pool.digest(settled), f"the pool after step {step}")
    clock.append(time.monotonic())
    kept = groups if settings.learner.keep_dead else [groups[at] for at in outcome.accepted_at]
    kept = dealing.with_episodes(kept)
    standing = replace(progress.advanced(standing, groups, kept, whole, parts.family_P), pool=settled)
    with terminal.phase(f"step {step + 1}: learning"):
        state, standing, updated = _update(parts, state, standing, step)
    clock.append(time.monotonic())
    compiles.tell_late(compiled, f"step {step + 1}", parts.run.say)
    took = Took(whole, own, clock, compiles.count() - compiled, compiles.seconds(compiled))
    told = Told(step, before, groups, kept, outcome, updated, standing, took)
    return state, standing, telling.tell(parts, told, state)


def _update(
    parts: Parts, state: learner.State, standing: Progress, step: int
) -> tuple[learner.State, Progress, Updated]:
    """Train on the groups that wait, once there are enough; until then nothing changes."""
    waiting = standing.waiting
    if len(waiting) < max(parts.settings.pool.min_signal, 1):
        return state, standing, Updated()
    key = (standing.seed(parts.settings.seed), step)
    packed = batch.of_groups(parts, state, waiting, standing.left_out, key)
    settings, at_rate = parts.settings.learner, _at_rate(parts, state, standing, step)
    work = partial(update, parts.learner, at_rate, packed, settings.updates)
    state, metrics = beside(work) if learner.takes_long(state.params, settings) else work()
    telling.check_advantage(parts, packed, waiting, metrics)
    return state, replace(standing, waiting=(), left_out=(0, 0)), Updated(packed, metrics, waiting)


def _at_rate(parts: Parts, state: learner.State, standing: Progress, step: int) -> learner.State:
    """The state with the learning rate of this step's update."""
    done = _share_done(parts.settings.train, step, standing)
    return replace(state, rate=np.float32(standing.rate * parts.learner.rate(int(state.updates), done)))


def update(
    trainer: learner.Learner, state: learner.State, whole: pack.Batch, updates: int
) -> tuple[learner.State, list[dict[str, Any]]]:
    """One optimizer update, or `updates` of them over disjoint parts of the batch against one old policy.

    A part is every `updates`-th micro-batch; with fewer micro-batches than that there are fewer updates. The first
    one's "advantage" then holds what each episode was trained with, in whichever update it was.
    """
    if memory.is_tight(state):
        memory.give_back()  # what the rollouts' caches were, which the update would not find room in
    if updates == 1:
        state, metrics = trainer.train_step(state, whole)
        return state, [jax.device_get(metrics)]
    old_MEL, every = trainer.old_logp(state, whole), []
    for number in range(updates):
        used_M = whole.used_M & (np.arange(len(whole.used_M)) % updates == number)
        if used_M.any():
            part = replace(
                whole,
                used_M=used_M,
                mask_MEL=whole.mask_MEL & used_M[:, None, None],
                **{name: getattr(whole, name) // updates for name in pack.COUNTS},
            )
            state, metrics = trainer.train_step(state, part, old_MEL)
            every.append(jax.device_get(metrics))
            own_X = whole.episode_ME[used_M].ravel()
            own_X = own_X[own_X >= 0]
            of_samples = (whole.grades.valid_QG.size, -1)  # [Q, G], [Q, G, T] and [Q * G, L] alike
            first, last = (np.array(every[at]["advantage"]) for at in (0, -1))
            first.reshape(of_samples)[own_X] = last.reshape(of_samples)[own_X]
            every[0]["advantage"] = first
    return state, every


def _finished(run: runs.Run) -> dict[str, Any] | None:
    """The summary of a run that has nothing left to do, which is said; None of any other."""
    path, limits = run.folder / "summary.json", run.settings.train
    try:
        summary = json.loads(path.read_bytes())
        spent = SimpleNamespace(**{name: int(summary[name]) for name in BUDGETS})
        steps, incomplete = int(summary["steps"]), is_incomplete(summary["after"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # none, or a damaged one
        return None
    if run.checkpoints.steps()[:1] != [steps] or _goes_on(limits, steps, spent):
        return None
    if incomplete:
        run.say("the evaluation after training was incomplete: it is made again")
        return None
    run.leave_config()
    run.say(f"{run.folder} is finished: {steps} steps, {spent.rollouts} rollouts. Nothing was done")
    if spent.rollouts and ending.lacks_report(run):  # its writing was cut short
        run.say(f"but the report, which was missing: {ending.report(run)}")
    run.say(f"the same command with {ending.longer(limits, summary)} goes on with it; with --restart it begins anew")
    return summary


def _is_there(state: learner.State) -> bool:
    """Whether no update has taken the state's arrays."""
    return not any(leaf.is_deleted() for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array))


def _goes_on(limits: Train, step: int, standing: Any) -> bool:
    """Whether neither the steps nor a budget, over all processes, are spent; the same on every process."""
    most = {name: getattr(limits, f"max_{name}") for name in BUDGETS}
    within = all(limit is None or getattr(standing, name) < limit for name, limit in most.items())
    return step < limits.steps and within


def _is_due(evaluation: Evaluation, step: int, before: int, after: int) -> bool:
    """Tell whether an evaluation follows this step, which took the run from `before` rollouts to `after`."""
    if evaluation.every_rollouts:
        return after // evaluation.every_rollouts > before // evaluation.every_rollouts
    return evaluation.every > 0 and step % evaluation.every == 0


def _share_done(limits: Train, step: int, standing: Progress) -> float:
    """The share of the run that is over (0 to 1), by the steps or the budget of which most is used."""
    limit_of = {name: getattr(limits, f"max_{name}") for name in BUDGETS}
    shares = [getattr(standing, name) / limit for name, limit in limit_of.items() if limit]
    return min(max(step / max(limits.steps, 1), *shares), 1.0) if shares else min(step / max(limits.steps, 1), 1.0)


def _last_step(limits: Train, step: int, standing: Progress) -> int:
    """The step that will be the last one if those to come spend what those before did."""
    done = _share_done(limits, step, standing)
    return max(min(math.ceil(step / done - 1e-9) if done else limits.steps, limits.steps), step)
