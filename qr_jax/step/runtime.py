"""The parts that a run's steps share (Runtime, bound once), and the state that one hands to the next (RunState)."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from qr_jax import assemble, evaluate, plugins
from qr_jax.config import BUDGETS, Config
from qr_jax.data import unchanged
from qr_jax.errors import Interrupted, UserError
from qr_jax.evaluation import subject
from qr_jax.evaluation.manifest import questions_sha256
from qr_jax.learner import pack
from qr_jax.learner.learner import Learner, State, make
from qr_jax.logging import terminal
from qr_jax.models import lora
from qr_jax.models.incremental import DecodeParams
from qr_jax.parallel import alike, host_local, hosts
from qr_jax.parallel import mesh as meshes
from qr_jax.pool import pool
from qr_jax.records import Ask, Episode, Outcome, Query, Say, Scores, Search, SearchFunction, Stop, Turn
from qr_jax.rollout.engine import Statistics
from qr_jax.rollout.together import Dealt
from qr_jax.run import checkpoint, policy, runs
from qr_jax.run.policy import Policy
from qr_jax.step import grading
from qr_jax.step.grading import Group
from qr_jax.step.guards import FIGURES, Watch

ROLLBACK_SEEDS = 65536  # a rollback moves the seed by this, so that it does not replay the same step for ever
COUNTS = (*BUDGETS, "rollbacks", "rate", "base", "before")


@dataclass(frozen=True)
class Ahead:
    """A step's groups, played beside the update before (train.overlap=1), their cost, and the seconds it took.

     The pool is settled before they are drawn, so that queries are drawn in the same order as without overlap. They are
     saved in the checkpoint, so a resumed run takes the same steps.
    `lag`: updates by which their policy is older than the one that trains on them; 0 if the step before made none.
     `statistics` are of all processes, `own` of this one; a resumed run knows the first alone.
    """

    groups: tuple[Group, ...]
    statistics: Statistics
    lag: int
    played_s: float = 0.0
    own: Statistics | None = None

    def to_plain(self) -> dict[str, Any]:
        """Convert to a nested host value (parallel/plain.py), without seconds: they are not the same again."""
        counts = {name: value for name, value in vars(self.statistics).items() if not name.endswith("_s")}
        return {"groups": [group.to_plain() for group in self.groups], "statistics": counts, "lag": self.lag}


def _ahead_from_plain(value: Mapping[str, Any]) -> Ahead:
    return Ahead(tuple(map(grading.from_plain, value["groups"])), Statistics(**value["statistics"]), value["lag"])


@dataclass(frozen=True)
class RunState:
    """The state of a run between two steps."""

    pool: pool.Pool
    waiting: tuple[Group, ...] = ()  # accepted groups that wait for others, until there are min_signal
    left_out: tuple[int, int] = (0, 0)  # sampled tokens and valid episodes of groups not kept, since the last update
    rollouts: int = 0
    tokens: int = 0
    searches: int = 0
    rollbacks: int = 0
    rate: float = 1.0  # times the learning rate: a guard's rollback halves it
    watch: Watch = field(default_factory=Watch)  # what the guards remember
    ahead: Ahead | None = None  # the next step's episodes, where they are played beside the update
    cost_F: np.ndarray = field(default_factory=lambda: np.zeros(0))  # tokens of an episode by family; 0: none seen yet
    base: Any = None  # the evaluation before the cold start, when asked for
    before: Any = None  # the evaluation before the first step
    base_sha256: str | None = None  # of the frozen weights under adapters; None: the whole model is trained

    def seed(self, seed: int) -> int:
        """Return the seed of what is drawn and sampled from here on; each rollback moves it."""
        return seed + ROLLBACK_SEEDS * self.rollbacks

    def to_host(self) -> dict[str, Any]:
        """Return the state as plain values and numpy arrays, for a checkpoint."""
        counts = {name: getattr(self, name) for name in COUNTS}
        waiting = [group.to_plain() for group in self.waiting]
        more = {"left_out": list(self.left_out), "cost_F": self.cost_F, "watch": self.watch.to_host()}
        more |= {checkpoint.BASE: self.base_sha256} if self.base_sha256 else {}
        more |= {"ahead": self.ahead.to_plain()} if self.ahead else {}
        return {"pool": pool.to_arrays(self.pool), "waiting": waiting, **more, **counts}


def from_host(host: Mapping[str, Any]) -> RunState:
    """Rebuild the state that `to_host` gave. ValueError, LookupError, TypeError or AttributeError for anything else."""
    tokens, episodes = host["left_out"]
    counts = {name: host[name] for name in COUNTS}
    whole = (tokens, episodes, *(counts[name] for name in (*BUDGETS, "rollbacks")))
    if any(type(number) is not int or number < 0 for number in whole) or not 0 < counts["rate"] < math.inf:
        raise UserError(f"counts of {whole} and a rate of {counts['rate']!r}")
    run_state = RunState(
        pool.from_arrays(host["pool"]),
        tuple(map(grading.from_plain, host["waiting"])),
        (tokens, episodes),
        cost_F=host["cost_F"],
        watch=Watch(**host["watch"]),
        base_sha256=host.get(checkpoint.BASE),
        ahead=_ahead_from_plain(host["ahead"]) if "ahead" in host else None,
        **counts,
    )
    groups = (*run_state.waiting, *(run_state.ahead.groups if run_state.ahead else ()))
    if any(not 0 <= group.index < run_state.pool.size for group in groups):
        raise UserError(f"a group waits that is none of the pool's {run_state.pool.size} queries")
    lists = {"cost_F": run_state.cost_F, **run_state.watch.past}
    if any(not isinstance(values, np.ndarray) or values.shape != (values.size,) for values in lists.values()):
        raise UserError("costs or what the guards remember that are no lists of numbers")
    if {*run_state.watch.past} != {*FIGURES} or not run_state.watch.best < math.inf > run_state.watch.best_step >= 0:
        raise UserError(f"what the guards remember is of {', '.join(run_state.watch.past)}")
    return run_state


def advanced(
    run_state: RunState, groups: Sequence[Group], kept: Sequence[Group], statistics: Statistics, family_P: np.ndarray
) -> RunState:
    """Return the state with a step's rollouts and costs added, and its kept groups waiting to be trained on.

    Counts are of all processes. The pool does not change.
    """
    kept_indices = {group.index for group in kept}
    rest = [group.spent for group in groups if group.index not in kept_indices]
    tokens, episodes = run_state.left_out
    return replace(
        run_state,
        waiting=(*run_state.waiting, *kept),
        left_out=(
            tokens + sum(spent.valid_tokens for spent in rest),
            episodes + sum(spent.valid_episodes for spent in rest),
        ),
        rollouts=run_state.rollouts + sum(group.spent.episodes for group in groups),
        tokens=run_state.tokens + statistics.tokens,
        searches=run_state.searches + statistics.searches,
        cost_F=costs(run_state.cost_F, groups, family_P),
    )


def costs(cost_F: np.ndarray, groups: Sequence[Group], family_P: np.ndarray) -> np.ndarray:
    """Return `cost_F` after a step: half what it was, half the mean of this step's episodes."""
    sum_F, count_F = np.zeros((2, int(family_P.max(initial=0)) + 1))
    for group in groups:
        sum_F[family_P[group.index]] += group.spent.context_tokens
        count_F[family_P[group.index]] += group.spent.episodes
    before_F = cost_F if len(cost_F) else np.zeros(len(sum_F))
    mean_F = sum_F / np.maximum(count_F, 1)
    return np.where(count_F == 0, before_F, np.where(before_F == 0, mean_F, (before_F + mean_F) / 2))


def hops(queries: Sequence[Query]) -> np.ndarray:
    """Return the hops of each query; 0 where its meta has none."""
    said = [str(query.meta.get("hops")) for query in queries]
    return np.array([int(text) if text.isdecimal() else 0 for text in said], np.int64)


@dataclass(frozen=True)
class Data:
    """A run's questions: those it trains on by their index in the pool, and those held out."""

    queries: Sequence[Query]
    family_P: np.ndarray
    questions: Sequence[Query]  # held out
    probed: Sequence[Query]  # held out, that the guards read

    def by_setting(self) -> dict[str, unchanged.Rows]:
        """Return the questions by the settings that name them."""
        asked = {"data.train": self.queries, "data.eval": self.questions, "data.eval (of probes)": self.probed}
        return {setting: unchanged.of_questions(part) for setting, part in asked.items()}


@dataclass(frozen=True)
class Devices:
    """The learner's mesh, and how this host's devices share rollouts."""

    mesh: jax.sharding.Mesh
    layout: host_local.Kind


@dataclass(frozen=True)
class World:
    """An episode's world: environment, search, and its passages' SHA-256 (None: the retriever has its own passages)."""

    env: Callable[[Query, Sequence[Turn]], Say | Search | Stop]
    search: SearchFunction
    corpus_sha256: str | None


@dataclass(frozen=True)
class Drawing:
    """The recycling rule, the rounds, and the limits on what a step draws and a batch holds."""

    rule: pool.Rule
    rounds: Callable[[pool.Pool, tuple[Outcome, ...]], Ask | None]
    by: Literal["chance", "largest"]  # how the rule's weights choose
    max_rounds: int | None  # of a step
    max_groups: int  # of a batch
    max_samples: int  # of a group


@dataclass(frozen=True)
class Grading:
    """The way episodes are graded; `asks`: by a server, which may be down."""

    reward: Callable[[Query, Sequence[Episode]], Scores]
    asks: bool
    turns: int | None  # room for turn rewards, where the reward gives them


@dataclass(frozen=True)
class Runtime:
    """A run's parts. The plug-ins have their settings, and what they return is checked (interfaces.py)."""

    settings: Config
    run: runs.Run
    agent: assemble.Agent
    learner: Learner
    data: Data
    devices: Devices
    world: World
    drawing: Drawing
    grading: Grading
    gold_logp: Callable[..., np.ndarray] | None  # where the advantage names gold_logp_NT
    same: dict[str, Any]  # what a checkpoint must agree with

    def to_rollout_params(self, trained: State | Policy) -> DecodeParams:
        """Return the parameters of a policy, or of the learner's state, as rollouts read them."""
        params = lora.whole(trained.params, trained.base, self.settings.model.lora)
        return host_local.to_rollout_params(
            params, self.settings, self.agent.cfg, self.devices.mesh, self.devices.layout
        )

    def measure(self, params: DecodeParams, queries: Sequence[Query] | None = None, **how: Any) -> dict[str, Any]:
        """Evaluate on the held-out questions, or on `queries`; `how` as `evaluate.measure` takes it."""
        engine = Dealt(self.agent.engine, pod=self.devices.layout == "pod")
        queries = self.data.questions if queries is None else queries
        how |= {"search": self.world.search, "stop_now": self.run.stop_now}
        return evaluate.measure(self.settings, engine, params, queries=queries, **how)

    def batch(
        self,
        state: State,
        groups: Sequence[Group],
        left_out: tuple[int, int],
        key: tuple[int, int],
        *,
        golds: bool = True,
    ) -> pack.Batch:
        """Pack groups with their episodes as the learner's batch, always of one shape.

        `left_out`: sampled tokens and episodes that were drawn beside them; `key`: (seed, step), by which groups
        are copied. There is room for the most samples that a group may have, so that groups of any size run
        one program. The gold answers' log-probabilities under `state` come with them where the advantage names them;
        `golds=False` puts zeros in their place.
        """
        settings, learn, drawing = self.settings.pool, self.settings.learner, self.drawing
        overlong = self.settings.rollout.overlong == "mask"
        cut = [[overlong and episode.stop in ("length", "context") for episode in group.episodes] for group in groups]
        sizes = {"queries": drawing.max_groups, "samples": drawing.max_samples}
        sizes |= {"rows": learn.rows, "row_tokens": learn.row_tokens}
        episodes = [group.episodes for group in groups]
        grades = grading.joined(groups, settings.samples, self.grading.turns)
        packed = pack.pack(
            episodes, grades, drop_loss=cut, drawn_tokens=left_out[0], drawn_episodes=left_out[1],
            copies_Q=plugins.around("methods.fill").copies(len(groups), settings.queries, *key) if learn.fill else None,
            share=learn.share_prefixes, **sizes,
        )  # fmt: skip
        if self.gold_logp is None:
            return packed
        none_NT = np.zeros((packed.grades.valid_QG.size, plugins.around("methods.gold").turns_axis(0)), np.float32)
        return replace(
            packed, gold_logp_NT=self.gold_logp(self.learner, state, episodes, **sizes) if golds else none_NT
        )

    def check(self, host: dict[str, Any]) -> None:
        """Raise ValueError if a checkpoint's host values are of another query list or model, or no run's."""
        checkpoint.check_same(host, checkpoint.QUERIES, self.same[checkpoint.QUERIES])
        unchanged.check(host, self.data.by_setting())
        checkpoint.check_same(host, checkpoint.CORPUS, self.same[checkpoint.CORPUS])
        checkpoint.check_same_model(host, self.same[checkpoint.MODEL])
        with checkpoint.as_written(self.run.checkpoints.folder, "what the host values say"):
            run_state = from_host(host)
            if run_state.pool.size != len(self.data.queries):
                raise UserError(f"a pool of {run_state.pool.size}, and there are {len(self.data.queries)} queries")
            for figures in filter(None, (run_state.base, run_state.before)):
                evaluate.one_line(figures)

    def save(self, step: int, state: State, run_state: RunState, *, again: bool = False) -> None:
        """Checkpoint `step`; if guards may roll back, the checkpoint of the best probe is kept while it is the best."""
        if self.settings.guards.act == "rollback":
            self.run.checkpoints.wait()  # the pending save still keeps what was best then
            self.run.checkpoints.best = run_state.watch.best_step
        self.run.save(step, state.saved(), run_state.to_host() | self.same, again=again)


def room(settings: Config) -> tuple[int, int]:
    """Count the groups that a batch has room for, and the samples of each; lab/planning compiles for as many."""
    chosen = settings.pool
    kept = chosen.queries + chosen.min_signal - 1
    if settings.learner.keep_zero_variance:
        kept = chosen.queries * chosen.oversample
    return kept, plugins.constants("rounds", chosen.rounds.name).get("MAX_GROUP_SIZE", chosen.samples)


@contextmanager
def loading(run: runs.Run, what: str) -> Iterator[None]:
    """Show a phase of the start; raise Interrupted after it if the run was told to stop.

    With several processes none stops here, because the others would wait for it.
    """
    with terminal.phase(what):
        yield
    if hosts.count() == 1 and run.stop_now():
        raise Interrupted


def bind(settings: Config, run: runs.Run) -> Runtime:
    """Bind a run's parts, the same on every process (ValueError where they are not). Interrupted: see `loading`."""
    with loading(run, "loading the questions"):  # first, so that an error in the user's files shows at once
        queries, questions = assemble.questions(settings, "train"), assemble.questions(settings, "eval")
        probed = assemble.probed(settings)
    with loading(run, "starting the devices"):
        mesh = meshes.make_mesh(settings.mesh)
    with loading(run, "loading the tokenizer"):
        agent = assemble.agent(settings)
    devices = _devices(settings, agent, mesh)
    with loading(run, "loading the passages"):
        corpus = subject.corpus(settings, lambda: assemble.passages(settings))
        search = corpus.search()
    env, asked = assemble.environment(settings), questions[: settings.evaluation.questions]
    run.say(f"{len(queries):,} questions to train on, {len(asked):,} held out")
    for remark in assemble.remarks(settings, queries, questions):
        run.say(remark)
    if not run.checkpoints.steps():
        policy.check_start(settings, agent)
        with loading(run, "checking that the model can read them"):
            for part in (queries, questions):
                assemble.check_readable(agent.tokenizer, part)
            agent.engine.check_prompts([*queries, *asked, *probed], env)  # else the step that asks it fails
            assemble.check_traces(settings, queries, search)
    every = questions_sha256([*queries, *questions])
    alike.check(questions=every, passages=corpus.sha256, model=agent.fingerprint)
    data = Data(queries, assemble.kinds(queries), questions, probed)
    how = {"temperature": settings.rollout.temperature, "overlap": settings.train.overlap}
    learner = make(agent.cfg, settings.model, settings.learner, mesh, **how)
    constants = plugins.constants("reward", settings.reward.name)
    rewards = plugins.with_parts(settings.reward, "reward")
    asks = any("ENDPOINT" in plugins.constants("reward", part.name) for part in rewards)
    return Runtime(
        settings=settings,
        run=run,
        agent=agent,
        learner=learner,
        data=data,
        devices=devices,
        world=World(env, search, corpus.sha256),
        drawing=_drawing(settings),
        grading=Grading(plugins.bind("reward", settings.reward), asks, constants.get("MAX_TURNS")),
        gold_logp=_gold_logp(settings, agent) if learner.needs_gold else None,
        same={
            checkpoint.QUERIES: pool.query_list_hash(query.id for query in queries),
            checkpoint.CORPUS: corpus.sha256,
            checkpoint.MODEL: agent.fingerprint,
            unchanged.KEPT: unchanged.kept(data.by_setting()),
        },
    )


def _devices(settings: Config, agent: assemble.Agent, mesh: jax.sharding.Mesh) -> Devices:
    """Choose the devices that roll out.

    ValueError where two programs of several devices could each wait for devices that the other has: an update beside
    a rollout (train.overlap), or a search on devices beside either.
    """
    layout, apart = host_local.rollout_layout(settings, agent.cfg, mesh), host_local.rollout_only(settings.mesh)
    overlap = bool(settings.train.overlap) and mesh.size > 1
    if overlap and not apart and layout != "one":
        raise UserError(
            f"train.overlap=1 with rollouts by {layout!r} on the learner's {mesh.size} devices: two programs at a time "
            "would wait for one another; set mesh.rollout_devices, so that each has its own, or mesh.rollout=one"
        )
    for part in plugins.with_parts(settings.retriever):
        chosen = plugins.settings_of("retriever", part)
        count = chosen.get("devices", 1) if plugins.constants("retriever", part.name).get("DEVICES") else 1
        count = jax.local_device_count() if count is None else count
        if count > 1 and (overlap or layout != "one"):
            beside = "updates (train.overlap=1)" if overlap else f"rollouts by {layout!r}"
            raise UserError(
                f"retriever={part.name} searches on {count} devices beside {beside} on several: two programs at a time "
                "would wait for one another; set the retriever's devices=1, or serve it (qr-jax serve-retriever)"
            )
    return Devices(mesh, layout)


def _drawing(settings: Config) -> Drawing:
    chosen = settings.pool
    sizes = {"queries": chosen.queries, "oversample": chosen.oversample, "samples": chosen.samples}
    groups, samples = room(settings)
    return Drawing(
        rule=plugins.bind("rule", chosen.rule),
        rounds=plugins.bind("rounds", chosen.rounds, provided=sizes),
        by=plugins.draws_by(chosen.rule, chosen.by),
        max_rounds=plugins.constants("rounds", chosen.rounds.name).get("MAX_ROUNDS"),
        max_groups=groups,
        max_samples=samples,
    )


def _gold_logp(settings: Config, agent: assemble.Agent) -> Callable[..., np.ndarray]:
    """Bind methods/gold.py's `gold_logp` to this environment's words before an answer and the golds' ids."""
    mark = "GOLD"
    prefix = assemble.expert_turn(settings)("", (), mark).partition(mark)[0]
    tokenizer = agent.tokenizer

    def golds(query: Query) -> list[list[int]]:
        return [tokenizer.encode_data(answer) for answer in query.answers]

    return partial(plugins.around("methods.gold").gold_logp, prefix_ids=tokenizer.encode(prefix), golds=golds)
