"""Dealing: each process rolls out and grades its own queries; all get every grade and the episodes to train on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial

import numpy as np

from qr_jax import assemble
from qr_jax.errors import UserError
from qr_jax.parallel import hosts
from qr_jax.records import Episode
from qr_jax.rollout.engine import Statistics
from qr_jax.step import grading
from qr_jax.step.beside import run_interruptible
from qr_jax.step.grading import Group
from qr_jax.step.run_state import RunState
from qr_jax.step.runtime import Runtime

Rolled = Mapping[int, list[Episode]]  # pool index -> new episodes


def roll_out(
    runtime: Runtime, params, run_state: RunState, wanted: Mapping[int, int], groups: Sequence[Group], step: int
) -> tuple[Rolled, Statistics]:
    """Roll out this process's part of the wanted samples (pool index -> count); return them and their cost.

    The process that has a query's first samples makes further ones too, and their numbers go on counting. A rollout
    over a pod is process 0's. Interrupted on every process when one was told to stop.
    """
    owner = {group.index: group.process for group in groups}
    new = [index for index in wanted if index not in owner]
    cost_Q = np.array(expected_tokens(runtime, run_state, new)) * [wanted[index] for index in new]
    pod = runtime.layout == "pod"
    for process, mine_at in enumerate(assemble.dealt(cost_Q, pod)):
        owner |= {new[at]: process for at in mine_at}
    mine = {index: count for index, count in wanted.items() if owner[index] == hosts.index()}
    first = {group.index: group.spent.episodes for group in groups}
    statistics = Statistics()
    work = partial(_run_engine, runtime, params, run_state, mine, first, step, statistics)
    engine = runtime.agent.engine
    rolled = assemble.rolled_out(engine, params, work, {}, pod=pod, stop_now=runtime.run.stop_now)
    return rolled, statistics


def _run_engine(
    runtime: Runtime, params, run_state: RunState, mine: Mapping[int, int], first: Mapping[int, int], step: int, total
) -> Rolled:
    """Roll out the queries (pool index -> samples) on this process; `first` says which sample number comes next."""
    cost = dict(zip(mine, expected_tokens(runtime, run_state, list(mine)), strict=True))
    engine, rolled = runtime.agent.engine, {}
    for number in sorted({first.get(index, 0) for index in mine}):
        indices = [index for index in mine if first.get(index, 0) == number]
        episodes = engine.run(
            params, [runtime.queries[index] for index in indices], [mine[index] for index in indices], env=runtime.env,
            search=runtime.search, seed=run_state.seed(runtime.settings.seed), step=step, query_keys=indices,
            first_sample=number, expected_tokens=[cost[index] for index in indices], stop_now=runtime.run.stop_now,
        )  # fmt: skip
        rolled |= dict(zip(indices, episodes, strict=True))
        add(total, engine.statistics)
    return rolled


def add(total: Statistics, more: Statistics) -> None:
    for name in vars(total):
        setattr(total, name, getattr(total, name) + getattr(more, name))


def expected_tokens(runtime: Runtime, run_state: RunState, indices: Sequence[int]) -> list[float]:
    """Tokens that an episode of each query is expected to take: what its family took lately, or the mean of all."""
    seen_F = run_state.cost_F[run_state.cost_F > 0]
    unknown = float(seen_F.mean()) if len(seen_F) else 1.0
    known = dict(enumerate(run_state.cost_F.tolist()))
    return [known.get(int(runtime.family_P[index])) or unknown for index in indices]


def graded(
    runtime: Runtime, wanted: Mapping[int, int], rolled: Rolled, groups: Sequence[Group], step: int
) -> list[Group]:
    """Grade the groups with new episodes, once, and send all processes the grades; return all groups in draw order.

    A group that has grown is graded anew, as a whole; no other is. Every process must call it. Interrupted where the
    run is told to stop before the reward is done.
    """
    before, name = {group.index: group for group in groups}, runtime.settings.reward.name

    def grade(index: int) -> Group:
        episodes = [*(before[index].episodes if index in before else ()), *rolled[index]]
        return grading.grade(runtime.reward, name, index, hosts.index(), runtime.queries[index], episodes)

    mine = run_interruptible(lambda: {index: grade(index) for index in rolled}, runtime.run.stop_now)
    if runtime.turns is None and any(group.grades.turn_reward_QGT is not None for group in mine.values()):
        raise UserError(
            f"reward {name!r} gave rewards of turns, and its file does not declare how many; "
            "write TURNS = 8 (the most turns of most episodes) in it"
        )
    place = {index: at for at, index in enumerate(wanted)}
    values = [group.to_plain(episodes=False) for group in mine.values()]
    every = hosts.gather_in_order(values, [place[index] for index in mine], "drawn query", len(wanted))
    record = [mine[value["index"]] if value["index"] in mine else grading.from_plain(value) for value in every]
    if runtime.settings.train.shuffle_rewards:
        record = grading.shuffled(record, runtime.settings.seed, step)
    return list((before | {group.index: group for group in record}).values())


def with_episodes(groups: Sequence[Group]) -> list[Group]:
    """The groups with their episodes on every process."""
    if hosts.count() == 1:
        return list(groups)
    widest = max((group.spent.episodes for group in groups), default=1)
    mine = [(at * widest + g, episode) for at, group in enumerate(groups) for g, episode in enumerate(group.episodes)]
    every = iter(hosts.gather_episodes([episode for _, episode in mine], [at for at, _ in mine]))
    return [replace(group, episodes=tuple(next(every) for _ in range(group.spent.episodes))) for group in groups]


def over_processes(statistics: Statistics) -> Statistics:
    """Combine the statistics of all processes: counts are added up, seconds are the slowest's."""
    every = hosts.gather(asdict(statistics))
    values = {name: [part[name] for part in every] for name in vars(statistics)}
    return Statistics(
        **{name: max(runtime) if name.endswith("_s") else sum(runtime) for name, runtime in values.items()}
    )
