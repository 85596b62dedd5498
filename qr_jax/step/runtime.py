"""The parts that all steps of a run share, bound once from its config: plug-ins, engine, questions, learner."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from qr_jax import assemble, evaluate, plugins
from qr_jax.config import Config
from qr_jax.data import unchanged
from qr_jax.errors import Interrupted, UserError
from qr_jax.evaluation import subject
from qr_jax.evaluation.manifest import questions_sha256
from qr_jax.learner.learner import Learner, State, make
from qr_jax.logging import terminal
from qr_jax.parallel import alike, host_local, hosts
from qr_jax.parallel import mesh as meshes
from qr_jax.pool import pool
from qr_jax.records import Query, SearchFunction
from qr_jax.run import checkpoint, runs
from qr_jax.step.run_state import RunState, families, from_host


@dataclass(frozen=True)
class Runtime:
    """A run's parts. The plug-ins have their settings, and what they return is checked (interfaces.py)."""

    settings: Config
    run: runs.Run
    mesh: jax.sharding.Mesh
    layout: host_local.Kind
    agent: assemble.Agent
    learner: Learner
    queries: Sequence[Query]  # by pool index
    family_P: np.ndarray
    questions: Sequence[Query]  # held out
    probed: Sequence[Query]  # held out, that the guards read
    search: SearchFunction
    corpus_sha256: str | None
    env: Callable[..., Any]
    reward: Callable[..., Any]
    rule: Callable[..., Any]
    rounds: Callable[..., Any]
    draws: Any  # "chance" or "largest": how the rule's weights choose
    most_rounds: int | None  # of a step
    most_groups: int  # of a batch
    most_samples: int  # of a group
    asks: bool  # whether the reward asks a server, which may be down
    turns: int | None  # room for turn rewards, where the reward gives them
    gold_logp: Callable[..., np.ndarray] | None  # where the advantage names gold_logp_NT
    to_rollout_params: Callable[..., Any]  # the learner's parameters -> those that rollouts read
    measure: Callable[..., Any]  # params -> an evaluation on the held-out questions
    probe: Callable[..., Any]  # params -> an evaluation on those that the guards read
    same: dict[str, Any]  # what a checkpoint must agree with

    def check(self, host: dict[str, Any]) -> None:
        """Raise ValueError if a checkpoint's host values are of another query list or model, or none that a run has."""
        checkpoint.check_same_queries(host, self.same[checkpoint.QUERIES])
        if record := unchanged.check(host, _data(self.queries, self.questions, self.probed)):
            self.run.say(record)
        checkpoint.check_same_corpus(host, self.same[checkpoint.CORPUS])
        checkpoint.check_same_model(host, self.same[checkpoint.MODEL])
        with checkpoint.as_written(self.run.checkpoints.folder, "what the host values say"):
            run_state = from_host(host)
            if run_state.pool.size != len(self.queries):
                raise UserError(f"a pool of {run_state.pool.size}, and there are {len(self.queries)} queries")
            for figures in filter(None, (run_state.base, run_state.before)):
                evaluate.one_line(figures)

    def save(self, step: int, state: State, run_state: RunState, *, again: bool = False) -> None:
        """Checkpoint `step`; where a guard may roll back, the best probe's stays as long as it is the best."""
        if self.settings.guards.act == "rollback":
            self.run.checkpoints.best = run_state.watch.best_step
        self.run.save(step, state, run_state.to_host() | self.same, again=again)


def room(settings: Config) -> tuple[int, int]:
    """Count the groups that a batch has room for, and the samples of each; `planning` compiles for as many."""
    chosen = settings.pool
    kept = (
        chosen.queries * chosen.oversample
        if settings.learner.keep_zero_variance
        else chosen.queries + chosen.min_signal - 1
    )
    return kept, plugins.constants("rounds", chosen.rounds.name).get("MOST", chosen.samples)


@contextmanager
def loading(run: runs.Run, what: str) -> Iterator[None]:
    """Show a phase of the start; raise Interrupted after it if the run was told to stop. With several processes each
    goes on: the others would wait for it."""
    with terminal.phase(what):
        yield
    if hosts.count() == 1 and run.stop_now():
        raise Interrupted


def bind(settings: Config, run: runs.Run) -> Runtime:
    """Bind a run's parts, the same on every process (ValueError where they are not). Interrupted: see `loading`."""
    with loading(run, "loading the questions"):  # first: what is wrong in a user's own file is told at once
        queries, questions = assemble.questions(settings, "train"), assemble.questions(settings, "eval")
    with loading(run, "starting the devices"):
        mesh = meshes.make_mesh(settings.mesh)
    with loading(run, "loading the tokenizer"):
        agent = assemble.agent(settings)
    with loading(run, "loading the passages"):
        corpus = subject.corpus(settings, lambda: assemble.passages(settings))
        search = corpus.search()
    asks = len(questions[: settings.evaluation.questions])
    run.say(f"{len(queries):,} questions to train on, {asks:,} held out")
    for remark in assemble.remarks(settings, queries, questions):
        run.say(remark)
    if not run.checkpoints.steps():
        with loading(run, "checking that the model can read them"):
            assemble.check_learnable(settings, agent.tokenizer, queries, questions, search)
    asked = questions_sha256([*queries, *questions])
    alike.check(questions=asked, passages=corpus.sha256, model=agent.fingerprint)
    probed = assemble.probed(settings)
    chosen, layout = settings.pool, assemble.rollout_layout(settings, agent.cfg, mesh)
    engine = assemble.Dealt(agent.engine, pod=layout == "pod")
    most_groups, most_samples = room(settings)
    sizes = {"queries": chosen.queries, "oversample": chosen.oversample, "samples": chosen.samples}
    trainer = make(
        agent.cfg,
        settings.model,
        settings.learner,
        mesh,
        temperature=settings.rollout.temperature,
    )
    measure = partial(evaluate.measure, settings, engine, search=search, stop_now=run.stop_now)
    return Runtime(
        settings=settings,
        run=run,
        mesh=mesh,
        layout=layout,
        agent=agent,
        learner=trainer,
        queries=queries,
        family_P=families(queries),
        questions=questions,
        probed=probed,
        search=search,
        corpus_sha256=corpus.sha256,
        env=assemble.environment(settings),
        reward=plugins.bind("reward", settings.reward),
        rule=plugins.bind("rule", chosen.rule),
        rounds=plugins.bind("rounds", chosen.rounds, provided=sizes),
        draws=plugins.draws_by(chosen.rule, chosen.by),
        most_rounds=plugins.constants("rounds", chosen.rounds.name).get("ROUNDS"),
        most_groups=most_groups,
        most_samples=most_samples,
        asks="ENDPOINT" in plugins.constants("reward", settings.reward.name),
        turns=plugins.constants("reward", settings.reward.name).get("TURNS"),
        gold_logp=_gold_logp(settings, agent) if trainer.needs_gold else None,
        to_rollout_params=partial(
            assemble.to_rollout_params, cfg=agent.cfg, compute=settings.model.compute, mesh=mesh, layout=layout
        ),
        measure=partial(measure, queries=questions),
        probe=partial(measure, queries=probed, samples=0),
        same={
            checkpoint.QUERIES: pool.query_list_hash(query.id for query in queries),
            checkpoint.CORPUS: corpus.sha256,
            checkpoint.MODEL: agent.fingerprint,
            unchanged.KEPT: unchanged.kept(_data(queries, questions, probed)),
        },
    )


def _data(queries: Sequence[Query], questions: Sequence[Query], probed: Sequence[Query]) -> dict[str, unchanged.Rows]:
    """A run's questions by the settings that name them."""
    asked = {"data.train": queries, "data.eval": questions, "data.eval (of probes)": probed}
    return {setting: unchanged.of_questions(part) for setting, part in asked.items()}


def _gold_logp(settings: Config, agent: assemble.Agent) -> Callable[..., np.ndarray]:
    """Bind methods/gold.py's `gold_logp` to this environment's words before an answer, and to the golds' ids."""
    mark = "GOLD"
    prefix = assemble.expert_turn(settings)("", (), mark).partition(mark)[0]
    tokenizer = agent.tokenizer

    def golds(query: Query) -> list[list[int]]:
        return [tokenizer.encode_data(answer) for answer in query.answers]

    return partial(plugins.around("methods.gold").gold_logp, prefix_ids=tokenizer.encode(prefix), golds=golds)
