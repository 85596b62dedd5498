"""The host half of a step: what is drawn, rolled out, graded, settled and handed on; and what the next step needs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from qr_jax import answers, assemble, plugins, pool, runs
from qr_jax.config import Config
from qr_jax.learning import pack
from qr_jax.noise import uniforms
from qr_jax.processes import hosts, plain
from qr_jax.records import Episode, Grades, Outcome, Query, grades
from qr_jax.rollout.engine import Statistics
from qr_jax.verdict import judge

SHUFFLE = 2  # the first part of a key of `uniforms`: rewards shuffled for the control
ROLLBACK_SEEDS = 65536  # a rollback moves the seed by this, so that it does not replay the same step for ever
COUNTS = ("rollouts", "tokens", "searches", "rollbacks", "base", "before")

Group = list[Episode]


@dataclass(frozen=True)
class Spent:
    """What one query's rollouts took, in counts; every process knows it of all queries, and the episodes of its own."""

    episodes: int
    invalid: int
    turns: int  # of the model
    searches: int
    tokens: int  # sampled
    context_tokens: int
    valid_tokens: int  # sampled, of valid episodes
    valid_episodes: int  # those with sampled tokens
    stops: dict[str, int]
    fault: str | None  # the first one's reason


def spent(group: Group) -> Spent:
    """What a group took."""
    sampled = [int(episode.mask_L.sum()) for episode in group]
    valid = [tokens for tokens, episode in zip(sampled, group, strict=True) if episode.valid]
    return Spent(
        episodes=len(group),
        invalid=len(group) - len(valid),
        turns=sum(int(episode.turn_L.max(initial=-1)) + 1 for episode in group),
        searches=sum(len(turn.queries) for episode in group for turn in episode.turns),
        tokens=sum(sampled),
        context_tokens=sum(len(episode.ids_L) for episode in group),
        valid_tokens=sum(valid),
        valid_episodes=sum(tokens > 0 for tokens in valid),
        stops=dict(Counter(episode.stop for episode in group)),
        fault=next((episode.fault for episode in group if not episode.valid), None),
    )


@dataclass(frozen=True)
class Progress:
    """What a step hands to the next, besides the learner's state; all of it is in the checkpoint."""

    pool: pool.Pool
    waiting: tuple[tuple[Group, np.ndarray], ...] = ()  # accepted groups and their rewards, until there are min_signal
    left_out: tuple[int, int] = (0, 0)  # sampled tokens and episodes drawn since the last update and not waiting
    rollouts: int = 0
    tokens: int = 0
    searches: int = 0
    rollbacks: int = 0
    cost_F: np.ndarray = field(default_factory=lambda: np.zeros(0))  # tokens of an episode by family; 0: none seen yet
    base: Any = None  # the evaluation before the cold start, when asked for
    before: Any = None  # the evaluation before the first step

    def to_host(self) -> dict[str, Any]:
        waiting = [[[plain.episode_to_plain(one) for one in group], rewards] for group, rewards in self.waiting]
        counts = {name: getattr(self, name) for name in COUNTS}
        more = {"left_out": list(self.left_out), "cost_F": self.cost_F}
        return {"pool": pool.to_arrays(self.pool), "waiting": waiting, **more, **counts}


def from_host(host: dict[str, Any]) -> Progress:
    waiting = tuple(([plain.episode_from_plain(one) for one in group], rewards) for group, rewards in host["waiting"])
    counts = {name: host[name] for name in COUNTS}
    tokens, episodes = host["left_out"]
    return Progress(pool.from_arrays(host["pool"]), waiting, (tokens, episodes), cost_F=host["cost_F"], **counts)


class Step:
    """One step's parts, bound once: the plug-ins, the engine, the questions."""

    def __init__(self, settings: Config, agent: assemble.Agent, queries: Sequence[Query], search, run: runs.Run):
        self.settings, self.agent, self.queries, self.search, self.run = settings, agent, queries, search, run
        self.pod = settings.mesh.rollout == "pod"
        of = settings.pool
        self.env = assemble.environment(settings)
        self.reward = plugins.bind("reward", settings.reward)
        self.advantage = plugins.bind("advantage", settings.learner.advantage)
        self.rule = plugins.bind("rule", of.rule)
        self.rounds = partial(plugins.bind("rounds", of.rounds), queries=of.queries, oversample=of.oversample)
        self.family_P = families(queries)

    def rollout(self, params, progress: Progress, step: int) -> tuple[np.ndarray, dict[int, Group], Statistics]:
        """Draw and roll out, round by round; every process its own queries (of a pod's rollout all are process 0's).

        Returns drawn_Q and this process's groups and statistics. Interrupted on every process when one was told to
        stop.
        """
        drawn: list[int] = []
        groups: dict[int, Group] = {}
        owner: dict[int, int] = {}
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
            mine = self.deal(progress, wanted, owner)
            work = partial(self.run_engine, params, mine, groups, progress, step, total)
            made = assemble.rolled_out(self.agent.engine, params, work, {}, pod=self.pod, stop_now=self.run.stop_now)
            for index, group in made.items():
                groups[index] = groups.get(index, []) + group
            so_far.append(self.judge(drawn, self.grade(drawn, groups, step), step, progress))
        return np.array(drawn, np.int64), groups, total

    def deal(self, progress: Progress, wanted: dict[int, int], owner: dict[int, int]) -> dict[int, int]:
        """This process's part of the wanted queries (pool index -> samples), by what they are expected to cost.

        `owner` (pool index -> process) grows: whoever has a query's first samples makes the further ones too.
        """
        new = [index for index in wanted if index not in owner]
        cost_Q = np.array(self.expected_tokens(progress, new)) * [wanted[index] for index in new]
        for process, mine_at in enumerate(assemble.dealt(cost_Q, self.pod)):
            owner |= {new[at]: process for at in mine_at}
        return {index: samples for index, samples in wanted.items() if owner[index] == hosts.index()}

    def run_engine(self, params, mine: dict[int, int], groups, progress: Progress, step: int, total: Statistics):
        """Roll out the queries (pool index -> samples) on this process. Their sample numbers go on counting."""
        cost = dict(zip(mine, self.expected_tokens(progress, list(mine)), strict=True))
        made: dict[int, Group] = {}
        for first in sorted({len(groups.get(index, ())) for index in mine}):
            some = [index for index in mine if len(groups.get(index, ())) == first]
            engine = self.agent.engine
            found = engine.run(
                params, [self.queries[index] for index in some], [mine[index] for index in some], env=self.env,
                search=self.search, seed=self.seed(progress), step=step, query_keys=some, first_sample=first,
                expected_tokens=[cost[index] for index in some], stop_now=self.run.stop_now,
            )  # fmt: skip
            made |= dict(zip(some, found, strict=True))
            for name in vars(total):
                setattr(total, name, getattr(total, name) + getattr(engine.statistics, name))
        return made

    def expected_tokens(self, progress: Progress, indices: Sequence[int]) -> list[float]:
        """Tokens that an episode of each query is expected to take: what its family took lately, or the mean of all."""
        seen_F = progress.cost_F[progress.cost_F > 0]
        unknown = float(seen_F.mean()) if len(seen_F) else 1.0
        known = dict(enumerate(progress.cost_F.tolist()))
        return [known.get(int(self.family_P[index])) or unknown for index in indices]

    def share(self, groups: dict[int, Group], statistics: Statistics) -> tuple[dict[int, Spent], Statistics]:
        """What all processes' rollouts took, by pool index; counts added up, seconds those of the slowest process."""
        own = [[index, asdict(spent(group))] for index, group in groups.items()]
        every = hosts.gather([own, asdict(statistics)])
        numbers = {name: [statistics[name] for _, statistics in every] for name in vars(statistics)}
        total = {name: max(found) if name.endswith("_s") else sum(found) for name, found in numbers.items()}
        return {index: Spent(**one) for part, _ in every for index, one in part}, Statistics(**total)

    def costs(self, progress: Progress, spent_of: Mapping[int, Spent]) -> np.ndarray:
        """`cost_F` after a step: half what it was, half the mean of this step's episodes."""
        sum_F, count_F = np.zeros((2, int(self.family_P.max(initial=0)) + 1))
        for index, one in spent_of.items():
            sum_F[self.family_P[index]] += one.context_tokens
            count_F[self.family_P[index]] += one.episodes
        before_F = progress.cost_F if len(progress.cost_F) else np.zeros(len(sum_F))
        mean_F = sum_F / np.maximum(count_F, 1)
        return np.where(count_F == 0, before_F, np.where(before_F == 0, mean_F, (before_F + mean_F) / 2))

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

    def left_out(self, progress: Progress, drawn_Q, spent_of: Mapping[int, Spent], kept_at) -> tuple[int, int]:
        """Sampled tokens and episodes of valid rollouts that will not be trained on, since the last update."""
        kept = set(kept_at.tolist())
        rest = [spent_of[index] for at, index in enumerate(drawn_Q.tolist()) if at not in kept and index in spent_of]
        tokens, episodes = sum(one.valid_tokens for one in rest), sum(one.valid_episodes for one in rest)
        return progress.left_out[0] + tokens, progress.left_out[1] + episodes

    def batch(self, waiting: Sequence[tuple[Group, np.ndarray]], left_out: tuple[int, int]) -> pack.Batch:
        """The accepted groups, and those that waited, as one batch of fixed shape."""
        of, learn = self.settings.pool, self.settings.learner
        capacity = of.queries * of.oversample if learn.keep_dead else of.queries + of.min_signal - 1
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
            drawn_tokens=left_out[0], drawn_episodes=left_out[1],
        )  # fmt: skip

    def gathered(self, drawn_Q, groups: dict[int, Group], kept_at, graded: Grades):
        """The accepted groups with their rewards, from whichever process rolled them out, in draw order."""
        mine = [(at, g) for at in kept_at.tolist() for g in range(len(groups.get(int(drawn_Q[at]), ())))]
        width = graded.reward_QG.shape[1]
        episodes = [groups[int(drawn_Q[at])][g] for at, g in mine]
        every = hosts.gather_episodes(episodes, [at * width + g for at, g in mine])
        of: dict[str, Group] = {}
        for episode in every:
            of.setdefault(episode.query.id, []).append(episode)
        return tuple((of[self.queries[int(drawn_Q[at])].id], graded.reward_QG[at]) for at in kept_at.tolist())


def shuffled(graded: Grades, seed: int, step: int) -> Grades:
    """The control: the step's valid rewards dealt out anew over its valid episodes, so that they say nothing."""
    valid_QG = np.asarray(graded.valid_QG)
    reward_QG = np.array(graded.reward_QG)
    order = np.argsort(uniforms(int(valid_QG.sum()), SHUFFLE, seed, step), kind="stable")
    reward_QG[valid_QG] = reward_QG[valid_QG][order]
    return Grades(reward_QG, valid_QG, None if graded.outcome_QG is None else (reward_QG == 1).astype(np.float32))


def families(queries: Sequence[Query]) -> np.ndarray:
    """An integer a query for rules that look at kinds: by dataset, kind and hops, in order of first appearance."""
    seen: dict[tuple, int] = {}
    names = [tuple(str(query.meta.get(name)) for name in ("dataset", "kind", "type", "hops")) for query in queries]
    return np.array([seen.setdefault(name, len(seen)) for name in names])
