"""How a run starts, goes on after an end, and goes back to its last checkpoint."""

import json
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from qr_jax import assemble, evaluate, pool, runs, terminal
from qr_jax.evaluation.complete import is_incomplete
from qr_jax.learning import gold, learner
from qr_jax.parallel import compile_cache, host_local, memory, peaks
from qr_jax.parallel import mesh as meshes
from qr_jax.processes import hosts
from qr_jax.report import read
from qr_jax.rollout import compiles
from qr_jax.rollout.engine import Interrupted
from qr_jax.sft import sft
from qr_jax.step import batch
from qr_jax.step.beside import beside
from qr_jax.step.parts import Parts, loading
from qr_jax.step.progress import Progress, from_host, hops
from qr_jax.step.rehearsal import rehearse

MOST_ROLLBACKS = 3
BASE = "base.json"  # the evaluation before the cold start, for an attempt that ends in it
PROMPTS = 64  # whose lengths say for how many tokens the first programs are compiled


@dataclass(frozen=True)
class Start:
    """Where the loop begins: after how many steps, with what, and how long compiling took."""

    state: learner.State
    progress: Progress
    step: int
    warm_up_s: float


def begin(parts: Parts) -> Start:
    """Where the run goes on; or its first policy, evaluated and saved as step 0."""
    settings, run, say = parts.settings, parts.run, parts.run.say
    resumed = run.go_on(parts.learner.abstract, parts.check)
    if resumed:
        state, host, step = resumed
        say(f"going on after step {step} (attempt {run.attempt})")
        if step > settings.train.steps:
            say(f"that is past train.steps={settings.train.steps}: no step is taken, and the evaluation is made again")
        warm_up_s = _warm_up(parts, parts.hand_over(state.params))
        state, seconds = _compile_update(parts, state)
        return Start(state, from_host(host), step, warm_up_s + seconds)
    _trace_update(parts)
    progress = Progress(pool.create(len(parts.queries), parts.family_P, hops(parts.queries)))
    rehearse(parts, progress)
    with loading(run, "loading the model"):
        params = assemble.place(parts.agent.weights(), parts.mesh)
    tell = say if parts.mesh.size > 1 else run.detail
    tell(meshes.describe_layout(parts.mesh, params).splitlines()[0])
    tell(f"rollouts: {host_local.describe(parts.layout, parts.mesh, parts.agent.cfg)}")
    laid = parts.hand_over(params)
    warm_up_s = _warm_up(parts, laid)
    if settings.evaluation.base:
        base = hosts.by_first(lambda: _measured_before(run)) or parts.measure(params=laid)
        run.write_json(BASE, base)
        progress = replace(progress, base=base)
        say(f"before the cold start: {evaluate.one_line(base)}")
    if settings.train.init or settings.sft.steps:
        del params, laid  # a cold start needs the room
        params = _first_policy(parts)
        laid = parts.hand_over(params)
    progress = replace(progress, before=parts.measure(params=laid))
    del laid
    state = parts.learner.init(params)  # only now: an evaluation needs the room
    del params
    run.write_json(read.BEFORE, evaluate.without_details(progress.before))
    say(f"before training: {evaluate.one_line(progress.before)}")
    parts.save(0, state, progress)
    state, seconds = _compile_update(parts, state)
    return Start(state, progress, 0, warm_up_s + seconds)


def _measured_before(run: runs.Run) -> dict[str, Any] | None:
    """The evaluation before the cold start that an attempt made which ended in it."""
    try:
        base = json.loads((run.folder / BASE).read_bytes())
        return base if evaluate.one_line(base) and not is_incomplete(base) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # none, or a damaged one
        return None


def roll_back(
    parts: Parts, progress: Progress, why: str, *, to: int | None = None, slower: float = 1.0
) -> tuple[learner.State, Progress, int]:
    """Back to the last checkpoint, or to step `to`, with other sampling keys and `slower` times the rate from there on.

    It is saved at once: whoever goes on after an end goes on from here.
    """
    run, count = parts.run, progress.rollbacks + 1
    if count > MOST_ROLLBACKS:
        raise ValueError(
            f"{why} again after {MOST_ROLLBACKS} rollbacks; lower learner.lr, or look at the loss plug-in and the "
            f"rewards of the last episodes in {run.folder / 'logs'}"
        )
    resumed = run.go_on(parts.learner.abstract, parts.check, step=to)
    assert resumed is not None, "step 0 is always saved"
    state, host, step = resumed
    slow = "" if slower == 1 else f" and {progress.rate * slower:.3g} times the learning rate"
    run.say(f"{why}; back to step {step} with other sampling keys{slow} (rollback {count})")
    state = replace(state, skipped=state.skipped * 0)
    progress = replace(from_host(host), rollbacks=count, rate=progress.rate * slower)
    parts.save(step, state, progress, again=True)
    return state, progress, step


def _warm_up(parts: Parts, params) -> float:
    """Compile what the first rollout needs to begin; seconds."""
    before, engine = compiles.count(), parts.agent.engine
    prompt_tokens = engine.prompt_tokens(parts.queries[:PROMPTS], parts.env)
    # Over a pod every process runs each program: where one left, the others would wait in it.
    stop_now = (lambda: False) if parts.layout == "pod" else parts.run.stop_now
    try:
        work = partial(engine.warm_up, params, prompt_tokens=prompt_tokens, stop_now=stop_now)
        seconds = assemble.all_or_none(work)
    finally:
        compile_cache.push_new()
    parts.run.detail(f"{compiles.count() - before} programs for the first rollout compiled in {seconds:.1f} s")
    return seconds


def _trace_update(parts: Parts) -> None:
    """ValueError for a loss or an advantage that returns what none may, by shapes alone: before the cold start."""
    learn = parts.learner
    empty = batch.of_groups(replace(parts, gold_logp=None), learn.abstract, (), (0, 0), (0, 0))
    if parts.gold_logp is not None:
        empty = replace(empty, gold_logp_NT=np.zeros((empty.grades.valid_QG.size, gold.FEWEST_TURNS), np.float32))
    old = () if parts.settings.learner.updates == 1 else (learn.old_logp.jitted.eval_shape(learn.abstract, empty),)
    learn.train_step.jitted.eval_shape(learn.abstract, empty, *old)


def _compile_update(parts: Parts, state: learner.State) -> tuple[learner.State, float]:
    """The same state, after an update by nothing: the learner's programs are then there before the first step."""
    if parts.run.stops():
        raise Interrupted
    before = compiles.count()
    start, empty = time.monotonic(), batch.of_groups(parts, state, (), (0, 0), (0, 0))
    rate = state.rate
    state = replace(state, rate=np.float32(0))  # a host's number, as every step's is: another kind is another program
    old = () if parts.settings.learner.updates == 1 else (parts.learner.old_logp(state, empty),)
    with terminal.phase("compiling the learner"):
        state, _ = beside(lambda: jax.block_until_ready(parts.learner.train_step(state, empty, *old)))
    seconds = time.monotonic() - start
    if memory.is_tight(state):
        memory.give_back()
    parts.run.detail(f"the learner's programs compiled: {compiles.told(before)}")
    peaks.of(parts.settings.model.compute)  # measured now where nobody says them, and not in the first step
    compile_cache.push_new()
    return replace(state, rate=rate), seconds


def _first_policy(parts: Parts):
    """The first policy's weights, where it is not the model as it was loaded: another run's, or the cold start's."""
    settings, run, agent = parts.settings, parts.run, parts.agent
    if settings.train.init:
        return evaluate.weights(settings.train.init, agent, parts.mesh)
    if run.stops():
        raise Interrupted
    sft(runs.below(settings, "sft"), run.folder / "sft", agent=agent, search=parts.search, say=run.say, within=run)
    return evaluate.weights(run.folder / "sft", agent, parts.mesh)
