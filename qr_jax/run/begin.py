"""The start of a run, its resumption from the last checkpoint, and its rollback to one."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax

from qr_jax import config, evaluate
from qr_jax.errors import Interrupted, UserError
from qr_jax.evaluation.manifest import questions_sha256
from qr_jax.evaluation.scores import is_incomplete
from qr_jax.learner import learner
from qr_jax.logging import terminal
from qr_jax.models.incremental import DecodeParams
from qr_jax.parallel import compiles, host_local, hosts, peaks
from qr_jax.parallel import mesh as meshes
from qr_jax.pool import pool
from qr_jax.run import policy, run_files, runs
from qr_jax.run.json_files import read_json
from qr_jax.run.runs import beside
from qr_jax.sft import sft
from qr_jax.step.runtime import RunState, Runtime, from_host, hops, loading
from qr_jax.step.services import preflight

MOST_ROLLBACKS = 3
PROMPTS = 64  # prompts: the longest sets the length that the first programs are compiled for


def begin(runtime: Runtime) -> tuple[learner.State, RunState, int, float]:
    """Resume the run from its last checkpoint, or make its first policy, evaluate it and save it as step 0.

    Returns the learner's state and the run's, the steps that are done, and the seconds that compiling took.
    """
    settings, run, say = runtime.settings, runtime.run, runtime.run.say
    resumed = run.go_on(runtime.learner.abstract.saved(), runtime.check)
    if resumed:
        state, host, step = resumed
        if settings.model.lora.rank:
            with loading(run, "loading the model"):
                state = replace(
                    state, base=policy.base(settings, run.folder, runtime.agent, runtime.devices.mesh, host)
                )
        say(f"going on after step {step} (attempt {run.attempt})")
        if step > settings.train.steps:
            say(f"that is past train.steps={settings.train.steps}: no step is taken, and the evaluation is made again")
        params, run_state = runtime.to_rollout_params(state), from_host(host)
        warm_up_s = _warm_up(runtime, params)
        if step == 0 and is_incomplete(run_state.before):
            run_state = _evaluated(runtime, run_state, params)
        del params
        state, seconds = _compile_update(runtime, state)
        return state, run_state, step, warm_up_s + seconds
    learn = runtime.learner
    learn.trace_update(runtime.batch(learn.abstract, (), (0, 0), (0, 0), golds=False))
    run_state = RunState(pool.create(len(runtime.data.queries), runtime.data.family_P, hops(runtime.data.queries)))
    preflight(runtime, run_state)
    with loading(run, "loading the model"):
        first = policy.model(settings, runtime.agent, runtime.devices.mesh)
    policy.check_base(settings, first, runtime.agent)
    tell = say if runtime.devices.mesh.size > 1 else run.detail
    tell(meshes.describe(runtime.devices.mesh))
    devices, apart = runtime.devices, settings.mesh.rollout_devices
    tell(f"rollouts: {host_local.describe(devices.layout, devices.mesh, runtime.agent.cfg, apart)}")
    rollout_params = runtime.to_rollout_params(first)
    warm_up_s = _warm_up(runtime, rollout_params)
    if settings.evaluation.base:
        of = {"questions": questions_sha256(runtime.data.questions), "corpus": runtime.world.corpus_sha256}
        base = hosts.by_first(lambda: _measured_before(run, of)) or runtime.measure(rollout_params)
        run.write_json(runs.BASE, base | {"of": of})
        run_state = replace(run_state, base=base)
        say(f"before the cold start: {evaluate.one_line(base)}")
    if settings.train.init or settings.sft.steps:
        del first, rollout_params  # a cold start needs the room
        first = _first_policy(runtime)
        rollout_params = runtime.to_rollout_params(first)
    run_state = _evaluated(runtime, replace(run_state, base_sha256=first.base_sha256), rollout_params)
    del rollout_params
    state = runtime.learner.init(first.params, first.base)  # only now: an evaluation needs the room
    del first
    runtime.save(0, state, run_state)
    state, seconds = _compile_update(runtime, state)
    return state, run_state, 0, warm_up_s + seconds


def _evaluated(runtime: Runtime, run_state: RunState, params: DecodeParams) -> RunState:
    """Return the run state with the evaluation before the first step, which is written and said."""
    before = runtime.measure(params)
    runtime.run.write_json(run_files.BEFORE, evaluate.without_details(before))
    runtime.run.say(f"before training: {evaluate.one_line(before)}")
    return replace(run_state, before=before)


def _measured_before(run: runs.Run, of: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the evaluation before the cold start that an interrupted attempt saved (base.json), or None.

    None also if its entry `of` names other questions or passages: files may have changed.
    """
    try:
        base = read_json(run.folder / runs.BASE)
        if base.pop("of", None) != of:
            return None
        return base if evaluate.one_line(base) and not is_incomplete(base) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # none, or a damaged one
        return None


def roll_back(
    runtime: Runtime, run_state: RunState, why: str, *, base: Any = None, to: int | None = None, slower: float = 1.0
) -> tuple[learner.State, RunState, int]:
    """Go back to the last checkpoint, or to step `to`, with other sampling keys and the learning rate times `slower`.

    `base`: the frozen model under adapters. What was spent since that step still counts. The result is saved at once,
    so that an interrupted run resumes from it. ValueError after MOST_ROLLBACKS rollbacks.
    """
    run, count = runtime.run, run_state.rollbacks + 1
    if count > MOST_ROLLBACKS:
        raise UserError(
            f"{why} again after {MOST_ROLLBACKS} rollbacks; lower learner.lr, or look at the loss plug-in and the "
            f"rewards of the last episodes in {run.folder / 'logs'}"
        )
    resumed = run.go_on(runtime.learner.abstract.saved(), runtime.check, step=to)
    assert resumed is not None, "step 0 is always saved"
    state, host, step = resumed
    slow = "" if slower == 1 else f" and {run_state.rate * slower:.3g} times the learning rate"
    run.say(f"{why}; back to step {step} with other sampling keys{slow} (rollback {count})")
    state = replace(state, skipped=state.skipped * 0, base=base)
    run_state = replace(from_host(host), rollbacks=count, rate=run_state.rate * slower, ahead=None, **spent(run_state))
    runtime.save(step, state, run_state, again=True)
    return state, run_state, step


def spent(run_state: RunState) -> dict[str, int]:
    """Return the episodes, tokens and searches so far, with those of a step played ahead that is given up."""
    found = {name: getattr(run_state, name) for name in config.BUDGETS}
    if run_state.ahead:
        found["rollouts"] += sum(group.spent.episodes for group in run_state.ahead.groups)
        found["tokens"] += run_state.ahead.statistics.tokens
        found["searches"] += run_state.ahead.statistics.searches
    return found


def _warm_up(runtime: Runtime, params) -> float:
    """Compile the programs that the first rollout begins with; return the seconds it took.

    On TPU also compile what decoding and observations need at every length: a host has 24 cores or more, and otherwise
    the first rollout to reach a length would wait half a minute per program.
    """
    before, engine = compiles.count(), runtime.agent.engine
    prompt_tokens = engine.prompt_tokens(runtime.data.queries[:PROMPTS], runtime.world.env)
    # Over a pod every process runs each program: if one stopped, the others would hang.
    stop_now = (lambda: False) if runtime.devices.layout == "pod" else runtime.run.stop_now
    positions = engine.settings.context_tokens if jax.default_backend() == "tpu" else 0
    warm_up = partial(engine.warm_up, params, prompt_tokens=prompt_tokens, positions=positions, stop_now=stop_now)
    seconds = hosts.all_or_none(warm_up)
    runtime.run.detail(f"{compiles.count() - before} programs for the first rollout compiled in {seconds:.1f} s")
    return seconds


def _compile_update(runtime: Runtime, state: learner.State) -> tuple[learner.State, float]:
    """Compile an update on an empty batch, before the first step; return the unchanged state, and the seconds.

    Interrupted, between two programs where it has several, if the run was told to stop.
    """
    if runtime.run.stops():
        raise Interrupted
    before = compiles.count()
    start, empty = time.monotonic(), runtime.batch(state, (), (0, 0), (0, 0))
    with terminal.phase("compiling the learner"):
        state = beside(partial(runtime.learner.compile_update, state, empty, runtime.run.check_stop))
    seconds = time.monotonic() - start
    runtime.run.detail(f"the learner's programs compiled: {compiles.told(before)}")
    peaks.of(runtime.settings.model.compute)  # unknown peaks are measured now, not in the first step
    return state, seconds


def _first_policy(runtime: Runtime) -> policy.Policy:
    """Return the first policy where it is not the loaded model: that of `train.init`, or of the cold start."""
    settings, run, agent = runtime.settings, runtime.run, runtime.agent
    if settings.train.init:
        return policy.start(settings, run.folder, agent, runtime.devices.mesh, settings.train.init)
    if run.stops():
        raise Interrupted
    whole = config.below(settings, config.COLD_START), run.folder / config.COLD_START
    sft(*whole, agent=agent, search=runtime.world.search, say=run.say, within=run)
    return policy.start(settings, run.folder, agent, runtime.devices.mesh, run.folder / config.COLD_START)
