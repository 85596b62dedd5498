"""The cold start: cross-entropy on the expert's tokens of traces, with the learner that RL uses.

A trace is played through the environment and the real retriever, so what stands between the expert's turns is what the
model will meet; only the expert's tokens are trained.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qr_jax import assemble, config, dialect
from qr_jax.config import Config, use
from qr_jax.data import sources, unchanged
from qr_jax.data.traces import answers_an_act
from qr_jax.errors import Interrupted, UserError
from qr_jax.learner import learner, pack
from qr_jax.logging import terminal
from qr_jax.parallel import compiles, hosts
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Episode, Say, SearchFunction, Stop, Trace, Turn, grades
from qr_jax.rollout import reading, tools
from qr_jax.rollout.engine import Engine, EpisodeState
from qr_jax.run import checkpoint, policy, runs
from qr_jax.run.kept_thread import run_interruptible
from qr_jax.run.runs import beside
from qr_jax.settings import checks


def play(trace: Trace, engine: Engine, env: Callable, search: SearchFunction) -> Episode | str:
    """Return the trace played as an episode whose sampled tokens are the expert's, or why it cannot be one.

    Each turn ends where a rollout's would, and it continues a thought that the template began.
    """
    tokenizer, settings, query, pieces = engine.tokenizer, engine.settings, trace.query, engine.pieces
    tags, env = reading.tags_of(env), reading.unthinking(env)
    live, say = EpisodeState(0, 0), env(query, [])
    assert isinstance(say, Say), "interfaces.py lets no other open an episode"
    live.show(engine.chat.open(say), say)

    def length(text: str) -> int:
        return len(tokenizer.encode_data(text))

    for number, turn in enumerate(trace.turns, 1):
        text = dialect.continued(turn, live.shown_thought(pieces), tags)
        for ids in (tokenizer.encode(text), [engine.chat.end_id]):
            if not live.complete:
                live.take(ids, [0.0] * len(ids), pieces, tokenizer.eos_ids)
        written = live.ids[live.turn_start :]
        if len(written) > settings.turn_tokens:
            return f"a turn of more than {settings.turn_tokens} tokens (rollout.turn_tokens)"
        if tokenizer.unknown_id in written:
            lacking = next((word for word in text.split() if tokenizer.unknown_id in tokenizer.encode(word)), text)
            return f"the model's vocabulary lacks the expert's {lacking!r}, for which an environment has VOCABULARY"
        live.turns.append(Turn("model", live.text(pieces)))
        live.model_turns += 1
        move = env(query, live.turns)
        if isinstance(move, Stop):
            if number < len(trace.turns):
                return f"the environment stopped early ({move.reason})"
            if move.reason != "answered":
                return f"no answer ({move.reason})"
            return live.episode(query, 0, move.reason, move.answer, None)
        if isinstance(move, Say):
            if not answers_an_act(env, query, live.turns, move):
                return "a turn without an action"
            live.turns.append(Turn("env", move.text))
        else:
            passages = tools.found(search, move.queries, settings.search_k, **tools.limits(settings))
            live.turns.append(Turn("env", "", move.queries, tuple(passages)))
            move, turns = tools.fit_observation(env, query, live.turns, length, settings.observation_tokens)
            if not isinstance(move, Say):
                return "nothing said after a search"
            live.turns = [*turns[:-1], replace(turns[-1], text=move.text)]
        say = move
        live.show(engine.chat.observe(say, ended_by_eos=live.by_eos), say)
    return "no answer"


def demonstrations(settings: Config, agent: assemble.Agent, search: SearchFunction, say=terminal.say) -> list[Episode]:
    """Return every trace that fits as an episode; say how many were left out, and why."""
    env = assemble.environment(settings)
    kept: list[Episode] = []
    left_out: dict[str, list[str]] = {}
    longest = min(settings.sft.max_tokens, settings.rollout.context_tokens)
    with terminal.phase("reading expert traces"):
        traces = assemble.traces(settings, search)
    for trace, its_search in terminal.progress(traces, len(traces), "playing expert traces"):
        if settings.sft.limit is not None and len(kept) >= settings.sft.limit:
            break
        episode = play(trace, agent.engine, env, its_search)
        if isinstance(episode, Episode) and len(episode.ids_L) > longest:
            episode = f"more than {longest} tokens (sft.max_tokens, rollout.context_tokens)"
        if isinstance(episode, str):
            left_out.setdefault(episode, []).append(trace.query.id)
        else:
            kept.append(episode)
    reasons = "".join(f"; {len(ids)} left out: {reason} (first {ids[0]!r})" for reason, ids in left_out.items())
    say(f"cold start: {len(kept)} expert traces{reasons}")
    if not kept:
        raise UserError(f"no expert trace can be trained on{reasons}")
    return kept


def _learner_settings(settings: Config) -> config.Learner:
    """Return the cold start's learner settings: those it takes are named here; all else is the class's default.

    `learner` gives the batch shapes and Adam's constants; `sft` gives schedule, clipping and weight decay.
    """
    batches, schedule = settings.learner, settings.sft
    return config.Learner(
        rows=batches.rows, row_tokens=batches.row_tokens, betas=batches.betas, eps=batches.eps,
        lr=schedule.lr, schedule=schedule.schedule, warmup_updates=schedule.warmup_steps,
        clip_norm=schedule.clip_norm, weight_decay=schedule.weight_decay,
        loss=use("nll"), advantage=use("dr_grpo"), reduce="token_mean",
    )  # fmt: skip


def sft(
    settings: Config,
    folder: str | Path,
    *,
    agent: assemble.Agent | None = None,
    search: Any = None,
    say: Callable[[str], None] = terminal.say,
    within: runs.Run | None = None,
) -> dict[str, Any]:
    """Train on the expert traces, with checkpoints and metrics in `folder` like any run. Return the summary.

    `agent` and `search`: made from the settings if None. `within`: the run whose cold start this is. SystemExit if
    it was told to stop.
    """
    if not within:
        settings = checks.check(settings)
        meshes.emulate_at_start(settings.mesh)
    checks.check_cold_start(settings)
    started = time.monotonic()
    kept = replace(settings.train, steps=settings.sft.steps, checkpoint_every=_every(settings), keep_every=0)
    run = runs.Run(folder, replace(settings, train=kept), stage="sft", say=say, within=within)
    is_alone = agent is None
    try:
        agent = agent or assemble.agent(settings)
        mesh = meshes.make_mesh(settings.mesh)
        fingerprint = agent.fingerprint
        model = replace(settings.model, lora=config.Lora()) if settings.sft.whole else settings.model
        trainer = learner.make(agent.cfg, model, _learner_settings(settings), mesh)
        resumed = run.go_on(trainer.abstract.saved(), lambda host: checkpoint.check_same_model(host, fingerprint))
        state, done = (resumed[0], resumed[2]) if resumed else (None, 0)
        if resumed and done >= settings.sft.steps:
            if is_alone:
                say(f"{folder} is finished: a cold start of {done} steps. Nothing was done; --restart begins it anew")
            summary = {"steps": done, "loss": None, "wall_s": time.monotonic() - started}
            if not (run.folder / "summary.json").is_file():  # stopped between its last step and that file
                run.write_json("summary.json", summary)
            return summary
        search = search or assemble.searcher(settings)
        stop_now = run.stop_now if hosts.count() == 1 else lambda: False  # several stop together, after a step
        # in a thread: a retriever may be slow, or hang
        episodes = run_interruptible(lambda: demonstrations(settings, agent, search, say), stop_now)
        data = {"data.traces": unchanged.of_traces(episodes)}
        if resumed:
            unchanged.check(resumed[1], data)
        host = {checkpoint.MODEL: fingerprint, unchanged.KEPT: unchanged.kept(data)}
        if resumed and model.lora.rank:
            state = replace(resumed[0], base=policy.base(settings, run.folder, agent, mesh, resumed[1]))
            host |= {checkpoint.BASE: resumed[1][checkpoint.BASE]}
        if not resumed:
            first = policy.model(replace(settings, model=model), agent, mesh)
            state = trainer.init(first.params, first.base)
            host |= {checkpoint.BASE: first.base_sha256} if first.base_sha256 else {}
            del first
        loss = _train(settings, run, trainer, state, episodes, host, done)
        wall_s = time.monotonic() - started
        say(f"cold start: {settings.sft.steps} steps in {terminal.clock(wall_s)}, loss {loss:.3f}")
        summary = {"steps": settings.sft.steps, "traces": len(episodes), "loss": loss, "wall_s": wall_s}
        run.write_json("summary.json", summary)
        return summary
    except Interrupted:
        raise run.end() from None
    finally:
        run.close()


def _every(settings: Config) -> int:
    """Return the steps between two checkpoints: a quarter of the cold start's, at least 1."""
    return max(settings.sft.steps // 4, 1)


def _train(
    settings: Config, run: runs.Run, trainer: learner.Learner, state: Any, episodes: list[Episode], host: Any, done: int
) -> float:
    """Take the cold start's steps from `done` on; return the last loss. On Interrupted the whole steps are saved."""
    steps, loss, compiled = settings.sft.steps, 0.0, compiles.count()
    batches = sources.batches(episodes, settings.sft.traces, seed=settings.seed)
    if done:
        run.say(f"cold start: going on after step {done}")
    with terminal.phase("cold start", steps) as shown:
        shown.done = shown.start = done
        for step in range(done, steps):
            try:
                state, row = _step(trainer, state, batches(step), settings, step, run, shown)
            except Interrupted:
                if step > done:
                    run.save(step, state.saved(), host)
                raise
            loss = row["sft/loss"]
            shown.done, shown.note = step + 1, f"loss {loss:.3f}"
            run.write_metrics(step + 1, row)
            stops = run.stops()
            if (step + 1) % _every(settings) == 0 or step + 1 == steps or stops:
                run.save(step + 1, state.saved(), host)
            if stops:
                raise Interrupted
    compiles.tell_late(compiled, "cold start", run.say)
    return loss


def _step(
    trainer: learner.Learner,
    state: learner.State,
    episodes: Sequence[Episode],
    settings: Config,
    step: int,
    run: runs.Run,
    shown: terminal.Phase,
) -> tuple[learner.State, dict[str, Any]]:
    """Take one update on these episodes; return the state and the metrics.

    Interrupted between two micro-batches of a step that takes long where the run is told to stop; the state is then as
    it was.
    """
    start, learner_settings = time.monotonic(), _learner_settings(settings)
    rate = trainer.rate(step, step / settings.sft.steps)
    ones = np.ones((len(episodes), 1))
    batch = pack.pack(
        [[episode] for episode in episodes], grades(ones, ones > 0), rows=learner_settings.rows,
        row_tokens=learner_settings.row_tokens, queries=settings.sft.traces, samples=1,
    )  # fmt: skip
    last, numbers, used = shown.note, itertools.count(1), int(batch.used_M.sum())

    def between() -> None:
        """Say on the terminal's line what comes next; raise Interrupted if the run is told to stop."""
        at = next(numbers)
        shown.note = last + ", " * bool(last) + (f"micro-batch {at} of {used}" if at <= used else "optimizer")
        run.check_stop()

    work = partial(trainer.update, state, batch, rate, between)
    state, (metrics,) = beside(work) if trainer.by_parts else work()
    if not metrics["finite"]:
        raise UserError("the cold start's gradient is not finite; lower sft.lr or check the model's weights")
    return state, {
        "sft/loss": float(metrics["loss"]),
        "sft/grad_norm": float(metrics["grad_norm"]),
        "sft/tokens": int(metrics["tokens"]),
        "sft/packing_efficiency": pack.packing_efficiency(batch),
        "time/step_s": time.monotonic() - start,
    }
