"""The loop: draw queries, roll them out, grade, settle the pool, learn from the groups that bear signal.

    groups, outcome = collect(pool, params)    draw queries, roll out, grade, accept B signal groups (in rounds)
    pool  = settle(pool, outcome)              verdicts into the pool; the rule says which queries may be drawn again
    state = update(state, groups)              advantages -> loss -> optimizer, on the accepted groups
    row   = log.write(record)                  write ledger and episodes; return the row of metrics

The functions are in `step/rollout_and_grade.py`, `pool/pool.py`, `learner/update.py` and `step/log.py`; the method is
of arXiv:2606.10709. Steps count from 0; checkpoint t is written after t steps and holds all that step t needs.
"""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax

from qr_jax import errors, evaluate, plugins
from qr_jax.config import BUDGETS, Config, Evaluation, Train, share_done
from qr_jax.errors import FailsAgain, GuardStop, Interrupted, Outage, ServiceDown, UserError
from qr_jax.evaluation.scores import is_incomplete
from qr_jax.learner import learner
from qr_jax.logging import terminal
from qr_jax.models.incremental import DecodeParams
from qr_jax.parallel import compiles, hosts, mesh
from qr_jax.pool import pool
from qr_jax.records import Outcome
from qr_jax.rollout.engine import Statistics
from qr_jax.run import begin, runs
from qr_jax.run.json_files import read_json
from qr_jax.run.runs import beside
from qr_jax.settings import checks
from qr_jax.step import guards, log, profile, rollout_and_grade, services
from qr_jax.step import runtime as runtimes
from qr_jax.step.grading import Group
from qr_jax.step.log import StepRecord, StepTimings, UpdateResult
from qr_jax.step.runtime import Ahead, RunState, Runtime, advanced

AT_END = "lab.report.at_end"  # module that writes the report and final evaluation at the end of a run


def train(settings: Config, folder: str | Path, *, say: Callable[[str], None] = terminal.say) -> dict[str, Any]:
    """Train by a config, or resume the run in the folder. Return the summary (also in summary.json).

    ValueError for wrong input; SystemExit, with a code of errors.py, for a guard, an outage or a signal.
    """
    settings = checks.check(settings)
    mesh.emulate_at_start(settings.mesh)
    started = time.monotonic()
    run = runs.Run(folder, settings, stage="train", say=say)
    try:
        if finished := hosts.by_first(lambda: _finished(run)):
            return finished
        runtime = runtimes.bind(settings, run)
        state, run_state, step, warm_up_s = begin.begin(runtime)
        with profile.traced(settings.train.profile, run.folder) as entered:
            state, run_state = _loop(runtime, state, run_state, step, entered)
        after = runtime.measure(runtime.to_rollout_params(state))
        run.checkpoints.wait()  # a summary says that the run is finished
        at_end = plugins.around(AT_END, optional=True)
        if at_end:
            run.write_json("evaluation.json", at_end.final_evaluation(runtime, after))
        summary = log.summarise(run, run_state, after, time.monotonic() - started, warm_up_s)
        run.write_json("summary.json", summary)
        if at_end and hosts.index() == 0:
            at_end.tell(runtime, run_state, after)
        return hosts.from_first(summary)
    except Interrupted:
        raise run.end() from None
    except Outage as error:
        todo = "start the same command again when it is back"
        say(f"ended by an outage: {error}. Saved after its last whole step; {todo}")
        raise SystemExit(errors.SERVICE_DOWN) from None
    except FailsAgain as error:
        say(f"ended: {error}. Saved after its last whole step; fix it, then the same command resumes the run")
        raise SystemExit(errors.SERVICE_DOWN) from None
    except GuardStop as alarm:
        say(f"stopped by a guard: {alarm}. The same command continues it; or lower learner.lr in another run")
        raise SystemExit(errors.GUARD_STOP) from None
    finally:
        run.close()


def _loop(
    runtime: Runtime,
    state: learner.State,
    run_state: RunState,
    step: int,
    entered: Callable[[int], Any] = contextlib.nullcontext,
) -> tuple[learner.State, RunState]:
    """Loop over the steps, each in the context manager that `entered` returns for it.

    A SIGTERM during a rollout or between slow micro-batches, or a plug-in's error, saves the state after the previous
    step; a SIGTERM later in a step saves that step once it is done, without its evaluation.
    """
    settings, run, lines = runtime.settings, runtime.run, log.Lines(runtime)
    rolls_back = settings.guards.act == "rollback"
    while _within_limits(settings.train, step, run_state):
        rollouts = run_state.rollouts
        with entered(step):
            state, run_state, row = _step_or_wait(runtime, state, run_state, step)
        if row is None:
            run.say(f"step {step}: every query is used up, and pool.on_exhausted is 'stop'")
            break
        step += 1
        if int(state.skipped) >= settings.learner.max_nonfinite:
            if not int(state.updates):
                loss, advantage = settings.learner.loss.name, settings.learner.advantage.name
                look = f"look at loss {loss!r} and advantage {advantage!r}, or lower learner.lr"
                raise UserError(f"none of the first {int(state.skipped)} updates was finite; {look}")
            state, run_state, step = begin.roll_back(runtime, run_state, "updates were not finite", base=state.base)
            continue
        done_s = time.monotonic()
        run_state, raised = watched(runtime, state, run_state, step, row)
        due = _is_due(settings.evaluation, step, rollouts, run_state.rollouts)
        if due and _within_limits(settings.train, step, run_state):
            with contextlib.suppress(Interrupted):  # the step is done, and is saved below without it
                params = runtime.to_rollout_params(state)
                row |= evaluate.as_metrics(runtime.measure(params, limit=settings.evaluation.during))
        row["time/evaluation_s"] = time.monotonic() - done_s
        run.write_metrics(step, row)
        lines.show(step, row, _last_step(settings.train, step, run_state))
        if raised and rolls_back:
            best = run_state.watch.best_step
            if best == step:  # which is no checkpoint yet
                runtime.save(step, state, run_state)
            how = {"base": state.base, "to": best, "slower": 0.5}
            state, run_state, step = begin.roll_back(runtime, run_state, raised, **how)
            continue
        stops = run.stops()
        is_best = rolls_back and run_state.watch.best_step == step
        if step % settings.train.checkpoint_every == 0 or stops or is_best:
            runtime.save(step, state, run_state)
        if stops:
            raise Interrupted
        if raised and settings.guards.act == "stop":
            runtime.save(step, state, run_state)
            raise GuardStop(raised)
    runtime.save(step, state, run_state)
    return state, run_state


def _step_or_wait(
    runtime: Runtime, state: learner.State, run_state: RunState, step: int
) -> tuple[learner.State, RunState, dict[str, Any] | None]:
    """Take a step, and repeat it after an outage; if an outage or an error ends the run, save the previous step.

    After an error only a run of one process saves: others may be within the step.
    """
    retry: services.RetryState | None = None
    try:
        while True:
            try:
                return take_step(runtime, state, run_state, step)
            except ServiceDown as down:
                retry = services.wait(runtime, down, step, retry)
    except (Interrupted, Outage, FailsAgain):
        runtime.save(step, state, run_state)
        raise
    except Exception as error:
        if hosts.count() == 1 and _is_there(state):
            with contextlib.suppress(Exception):  # the error itself may forbid it: a full disk, a device without memory
                runtime.save(step, state, run_state)
                what = "the plug-in" if plugins.was_raised_by_one(error) else "the error"
                runtime.run.say(f"saved after step {step}; fix {what}, then the same command resumes the run")
        raise


def watched(
    runtime: Runtime, state: learner.State, run_state: RunState, step: int, row: dict[str, Any]
) -> tuple[RunState, str]:
    """Return the run state with the step's row added to the guards' memory, and new alarms; a probe is added to `row`.

    An alarm that the step before raised too is not new.
    """
    limits = runtime.settings.guards
    if limits.probe_every and step % limits.probe_every == 0:
        with contextlib.suppress(Interrupted):
            params = runtime.to_rollout_params(state)
            probe = runtime.measure(params, runtime.data.probed, samples=0, limit=len(runtime.data.probed))
            row[guards.PROBE] = None if probe["incomplete"] else probe["exact_match"]
    before, watch = run_state.watch, run_state.watch.after(step, row)
    raised = guards.alarms(watch, limits)
    old = guards.alarms(before, limits) if step > 1 else {}
    row["guards/alarms"] = len(raised)
    new = "; ".join(text for name, text in raised.items() if name not in old)
    if new and limits.act == "warn":
        probes = "" if limits.probe_every else " guards.probe_every=5"
        cure = (
            f"`qr-jax report {runtime.run.folder}` shows it; a run with guards.act=rollback{probes} goes back by itself"
        )
        runtime.run.say(f"step {step}: {new}. {cure}")
    return replace(run_state, watch=watch), new


def take_step(
    runtime: Runtime, state: learner.State, run_state: RunState, step: int
) -> tuple[learner.State, RunState, dict[str, Any] | None]:
    """Take one step; return the learner's state, the run state and the metrics (None: the pool is used up).

    Raises, before any state changes, Interrupted if the run was told to stop, and ServiceDown if most searches or
    grades failed.
    """
    settings, clock, compiled = runtime.settings, [time.monotonic()], compiles.count()
    if (before := _drawable(runtime, run_state)) is None:
        return state, run_state, None
    run_state = replace(run_state, pool=before)
    shown, named = terminal.phase, jax.profiler.TraceAnnotation
    if (ahead := run_state.ahead) is None:
        with shown(f"step {step + 1}: episodes", asked=runtime.agent.engine.progress), named("rollout"):
            groups, outcome, whole, own = _play(runtime, runtime.to_rollout_params(state), run_state, step)
    else:
        groups, whole, own = list(ahead.groups), ahead.statistics, ahead.own or ahead.statistics
        outcome = rollout_and_grade.judged(runtime, run_state, groups, step)
    clock.append(time.monotonic())
    if step == 0:
        rollout_and_grade.check_graded(groups)
    settled = pool.settle(before, outcome, runtime.drawing.rule)
    if hosts.count() > 1:
        hosts.assert_same(pool.digest(settled), f"the pool after step {step}")
    clock.append(time.monotonic())
    kept = groups if settings.learner.keep_zero_variance else [groups[at] for at in outcome.accepted_at]
    kept = kept if ahead else rollout_and_grade.with_episodes(kept)
    done = _share_done(settings.train, step, run_state)  # without this step: else a budget's last step has share 1
    run_state = replace(advanced(run_state, groups, kept, whole, runtime.data.family_P), pool=settled, ahead=None)
    with shown(f"step {step + 1}: learning"), named("update"):
        state, run_state, updated = _update_and_play(runtime, state, run_state, step, done)
    clock.append(time.monotonic())
    compiles.tell_late(compiled, f"step {step + 1}", runtime.run.say)
    timings = StepTimings(
        whole, own, clock, compiles.count() - compiled, compiles.seconds(compiled),
        lag=ahead.lag if ahead else 0, played_s=ahead and ahead.played_s,
        ahead_s=run_state.ahead.played_s if run_state.ahead else 0.0,
        beside_s=max(clock[-1] - clock[-2] - updated.seconds, 0.0) if run_state.ahead else 0.0,
    )  # fmt: skip
    record = StepRecord(step, before, groups, kept, outcome, updated, run_state, timings)
    return state, run_state, log.write(runtime, record, state)


def _drawable(runtime: Runtime, run_state: RunState) -> pool.Pool | None:
    """Return the pool to draw from, reset where that is due; None: it is used up."""
    settings = runtime.settings.pool
    return pool.drawable(run_state.pool, reset_below=settings.reset_below, on_exhausted=settings.on_exhausted)


def _play(
    runtime: Runtime, params: DecodeParams, run_state: RunState, step: int
) -> tuple[list[Group], Outcome, Statistics, Statistics]:
    """Return a step's groups, judged, and what the rollouts of all processes and of this one cost.

    Interrupted if the run was told to stop, and ServiceDown if most searches or grades failed.
    """
    groups, outcome, own = rollout_and_grade.collect(runtime, params, run_state, step)
    whole = rollout_and_grade.over_processes(own)
    rollout_and_grade.check_answered(whole, groups, asks=runtime.grading.asks)
    return groups, outcome, whole, own


def _update_and_play(
    runtime: Runtime, state: learner.State, run_state: RunState, step: int, done: float
) -> tuple[learner.State, RunState, UpdateResult]:
    """Update as `_update`; with train.overlap roll out the next step meanwhile, by the policy before the update."""
    limits = runtime.settings.train
    goes_on = limits.overlap and _within_limits(limits, step + 1, run_state)
    if not goes_on or (after := _drawable(runtime, run_state)) is None:
        return _update(runtime, state, run_state, step, done)
    params, start = runtime.to_rollout_params(state), time.monotonic()

    def play() -> Ahead:
        groups, _, whole, own = _play(runtime, params, replace(run_state, pool=after), step + 1)
        return Ahead(tuple(groups), whole, 0, time.monotonic() - start, own)

    update = partial(_update, runtime, state, run_state, step, done)
    (state, run_state, updated), ahead = rollout_and_grade.play_beside(update, play)
    groups = tuple(rollout_and_grade.with_episodes(ahead.groups))  # a checkpoint is the same on every process
    return state, replace(run_state, ahead=replace(ahead, groups=groups, lag=int(bool(updated.metrics)))), updated


def _update(
    runtime: Runtime,
    state: learner.State,
    run_state: RunState,
    step: int,
    done: float,
    before_applied: Callable[[], None] = lambda: None,
) -> tuple[learner.State, RunState, UpdateResult]:
    """Train on the groups that wait, once there are enough; until then nothing changes.

    `done`: the share of the run that is done, for the learning rate. Interrupted between two micro-batches that take
    long where the run is told to stop; the state is then as it was.
    """
    waiting = run_state.waiting
    if len(waiting) < runtime.settings.pool.min_signal:
        return state, run_state, UpdateResult()
    key = (run_state.seed(runtime.settings.seed), step)
    start, waited_s = time.monotonic(), 0.0

    def wait() -> None:
        nonlocal waited_s
        ready = time.monotonic()
        before_applied()
        waited_s = time.monotonic() - ready

    packed = runtime.batch(state, waiting, run_state.left_out, key)
    rate = run_state.rate * runtime.learner.rate(int(state.updates), done)
    work = partial(runtime.learner.update, state, packed, rate, runtime.run.check_stop, wait)
    state, metrics = beside(work) if runtime.learner.by_parts else work()
    seconds = time.monotonic() - start - waited_s
    log.check_advantage(runtime, packed, waiting, metrics)
    return state, replace(run_state, waiting=(), left_out=(0, 0)), UpdateResult(packed, metrics, waiting, seconds)


def _finished(run: runs.Run) -> dict[str, Any] | None:
    """Return the saved summary if the run is complete, and say so, else None."""
    path, limits = run.folder / "summary.json", run.settings.train
    try:
        summary = read_json(path)
        spent = SimpleNamespace(**{name: int(summary[name]) for name in BUDGETS})
        steps, incomplete = int(summary["steps"]), is_incomplete(summary["after"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # none, or a damaged one
        return None
    if run.checkpoints.steps()[:1] != [steps] or _within_limits(limits, steps, spent):
        return None
    if incomplete:
        run.say("the evaluation after training was incomplete: it is made again")
        return None
    run.leave_config()
    run.say(f"{run.folder} is finished: {steps} steps, {spent.rollouts} rollouts. Nothing was done")
    if at_end := plugins.around(AT_END, optional=True):
        if spent.rollouts and at_end.lacks_report(run):  # its writing was cut short
            run.say(f"but the report, which was missing: {at_end.report(run)}")
        run.say(
            f"the same command with {at_end.longer(limits, summary)} goes on with it; with --restart it begins anew"
        )
    return summary


def _is_there(state: learner.State) -> bool:
    """Return True unless an update, to which the state's arrays were donated, deleted them."""
    return not any(leaf.is_deleted() for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array))


def _within_limits(limits: Train, step: int, run_state: Any) -> bool:
    """Return True while neither the steps nor a budget, over all processes, are spent; the same on every process."""
    most = {name: getattr(limits, f"max_{name}") for name in BUDGETS}
    within = all(limit is None or getattr(run_state, name) < limit for name, limit in most.items())
    return step < limits.steps and within


def _is_due(evaluation: Evaluation, step: int, before: int, after: int) -> bool:
    """Tell whether an evaluation follows this step, which took the run from `before` rollouts to `after`."""
    if evaluation.every_rollouts:
        return after // evaluation.every_rollouts > before // evaluation.every_rollouts
    return evaluation.every > 0 and step % evaluation.every == 0


def _share_done(limits: Train, step: int, run_state: RunState) -> float:
    """Return the share of the run that is done (0 to 1): the largest over its steps and budgets."""
    return share_done(vars(limits), {"steps": step} | {f"max_{name}": getattr(run_state, name) for name in BUDGETS})


def _last_step(limits: Train, step: int, run_state: RunState) -> int:
    """Predict the run's last step at the past steps' mean cost."""
    done = _share_done(limits, step, run_state)
    return max(min(math.ceil(step / done - 1e-9) if done else limits.steps, limits.steps), step)
