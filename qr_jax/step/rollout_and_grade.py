"""A step's groups: queries are drawn, rolled out, graded and judged, round after round, until there are enough.

Each process rolls out and grades its own queries; all get every grade, and the episodes to train on.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, replace
from functools import partial
from typing import TypeVar

import numpy as np

from qr_jax.errors import Interrupted, ServiceDown, UserError
from qr_jax.interfaces import check_growth
from qr_jax.models.incremental import DecodeParams
from qr_jax.parallel import hosts
from qr_jax.pool import pool
from qr_jax.records import Ask, Episode, Outcome
from qr_jax.rollout.engine import Statistics
from qr_jax.rollout.together import rolled_out
from qr_jax.run.kept_thread import POLL_S, KeptThread, run_interruptible
from qr_jax.step import grading
from qr_jax.step.grading import Group, joined
from qr_jax.step.runtime import RunState, Runtime

MANY_ROUNDS = 25  # rounds of a step after which to suspect an endless loop
ENDS = "a step ends where it returns None, or where no query is left to draw; MAX_ROUNDS = N in its file sets a limit"
Updated = TypeVar("Updated")
Played = TypeVar("Played")
Rolled = Mapping[int, list[Episode]]  # pool index -> new episodes


def collect(
    runtime: Runtime, params: DecodeParams, run_state: RunState, step: int
) -> tuple[list[Group], Outcome, Statistics]:
    """Play a step's rounds; return its groups, judged, and what this process's rollouts cost.

    Interrupted where the run is told to stop.
    """
    groups: list[Group] = []
    so_far: list[Outcome] = []
    own: list[Statistics] = []
    while (ask := runtime.drawing.rounds(run_state.pool, tuple(so_far))) is not None:
        drawn = draw(runtime, run_state, ask, groups, step, len(so_far))
        if not drawn:
            break
        rolled, statistics = roll_out(runtime, params, run_state, drawn, groups, step)
        groups = graded(runtime, drawn, rolled, groups, step)
        so_far.append(judged(runtime, run_state, groups, step))
        own.append(statistics)
        if len(so_far) == MANY_ROUNDS and runtime.drawing.max_rounds is None:
            name = runtime.settings.pool.rounds.name
            runtime.run.say(f"step {step + 1}: rounds {name!r} has asked for {MANY_ROUNDS} rounds; {ENDS}")
    return groups, so_far[-1], Statistics.combined(own)


def draw(
    runtime: Runtime, run_state: RunState, ask: Ask, groups: Sequence[Group], step: int, number: int
) -> dict[int, int]:
    """Draw round `number`; return pool index -> samples to make, of new queries and of those that `ask` wants more of.

    No query is drawn twice in a step. Empty if there is none to draw and none wants more. ValueError for more rounds or
    samples than the rounds' file allows or, with learner.keep_zero_variance, more queries than a batch has room for.
    """
    name, settings = runtime.settings.pool.rounds.name, runtime.settings.pool
    if runtime.drawing.max_rounds is not None and number >= runtime.drawing.max_rounds:
        raise UserError(
            f"rounds {name!r} asked for round {number + 1}, and its file has MAX_ROUNDS = {runtime.drawing.max_rounds}"
        )
    if runtime.settings.learner.keep_zero_variance and ask.draw > runtime.drawing.max_groups:
        room = f"with learner.keep_zero_variance a step has room for {runtime.drawing.max_groups}"
        raise UserError(f"rounds {name!r} asked for {ask.draw} queries; {room}")
    new_Q = pool.draw(
        run_state.pool, ask.draw, seed=run_state.seed(runtime.settings.seed), step=step, round=number,
        exclude=[group.index for group in groups], by=runtime.drawing.by,
    )  # fmt: skip
    check_growth(name, ask, {group.index: group.spent.episodes for group in groups}, runtime.drawing.max_samples)
    return dict.fromkeys(new_Q.tolist(), settings.samples) | {int(i): int(n) for i, n in ask.more.items()}


def judged(runtime: Runtime, run_state: RunState, groups: Sequence[Group], step: int) -> Outcome:
    """Judge the step's groups so far."""
    settings, seed = runtime.settings.pool, run_state.seed(runtime.settings.seed)
    drawn_Q, grades = np.array([group.index for group in groups], np.int64), joined(groups, settings.samples)
    return pool.judge(drawn_Q, grades, step=step, accept=settings.queries, channel=settings.channel, seed=seed)


def roll_out(
    runtime: Runtime, params, run_state: RunState, wanted: Mapping[int, int], groups: Sequence[Group], step: int
) -> tuple[Rolled, Statistics]:
    """Roll out this process's part of the wanted samples (pool index -> count); return them and their cost.

    The process that made a query's first samples makes the further ones too; sample numbers continue. With
    mesh.rollout=pod process 0 has all. Interrupted on every process when one was told to stop.
    """
    owner = {group.index: group.process for group in groups}
    new = [index for index in wanted if index not in owner]
    cost_Q = np.array(expected_tokens(runtime, run_state, new)) * [wanted[index] for index in new]
    pod = runtime.devices.layout == "pod"
    for process, mine_at in enumerate(hosts.deal(cost_Q, hosts.count(), to_first=pod)):
        owner |= {new[at]: process for at in mine_at}
    mine = {index: count for index, count in wanted.items() if owner[index] == hosts.index()}
    first = {group.index: group.spent.episodes for group in groups}
    costs: list[Statistics] = []
    work = partial(_run_engine, runtime, params, run_state, mine, first, step, costs)
    engine = runtime.agent.engine
    rolled = rolled_out(engine, params, work, {}, pod=pod, stop_now=runtime.run.stop_now)
    return rolled, Statistics.combined(costs)


def _run_engine(
    runtime: Runtime,
    params,
    run_state: RunState,
    mine: Mapping[int, int],
    first: Mapping[int, int],
    step: int,
    costs: list[Statistics],
) -> Rolled:
    """Roll out `mine` (pool index -> number of samples) on this process; append the statistics to `costs`.

    `first`: the number of each query's first sample (0 where it is not named).
    """
    cost = dict(zip(mine, expected_tokens(runtime, run_state, list(mine)), strict=True))
    engine, rolled = runtime.agent.engine, {}
    for number in sorted({first.get(index, 0) for index in mine}):
        indices = [index for index in mine if first.get(index, 0) == number]
        queries, counts = [runtime.data.queries[index] for index in indices], [mine[index] for index in indices]
        episodes = engine.run(
            params, queries, counts, env=runtime.world.env, search=runtime.world.search,
            seed=run_state.seed(runtime.settings.seed), step=step, query_keys=indices,
            first_sample=number, expected_tokens=[cost[index] for index in indices], stop_now=runtime.run.stop_now,
        )  # fmt: skip
        rolled |= dict(zip(indices, episodes, strict=True))
        costs.append(engine.statistics)
    return rolled


def expected_tokens(runtime: Runtime, run_state: RunState, indices: Sequence[int]) -> list[float]:
    """Predict the tokens of an episode of each query: what its family took lately, or the mean of all."""
    seen_F = run_state.cost_F[run_state.cost_F > 0]
    unknown = float(seen_F.mean()) if len(seen_F) else 1.0
    known = dict(enumerate(run_state.cost_F.tolist()))
    return [known.get(int(runtime.data.family_P[index])) or unknown for index in indices]


def graded(
    runtime: Runtime, wanted: Mapping[int, int], rolled: Rolled, groups: Sequence[Group], step: int
) -> list[Group]:
    """Grade the groups with new episodes, once, and send all processes the grades; return all groups in draw order.

    A group that has grown is graded anew, as a whole; no other is. Every process must call it. Interrupted where the
    run is told to stop before the reward is done.
    """
    before, name = {group.index: group for group in groups}, runtime.settings.reward.name

    def grade(index: int) -> Group:
        episodes = [*(grading.before_grading(before[index]) if index in before else ()), *rolled[index]]
        return grading.grade(runtime.grading.reward, name, index, hosts.index(), runtime.data.queries[index], episodes)

    work = partial(run_interruptible, lambda: {index: grade(index) for index in rolled}, runtime.run.stop_now)
    mine = hosts.all_or_none(work)  # what follows is a collective
    grading.check_turns(mine.values(), name, runtime.grading.turns)
    place = {index: at for at, index in enumerate(wanted)}
    values = [group.to_plain(episodes=False) for group in mine.values()]
    every = hosts.gather_in_order(values, [place[index] for index in mine], "drawn query", len(wanted))
    new = [mine[value["index"]] if value["index"] in mine else grading.from_plain(value) for value in every]
    if runtime.settings.train.shuffle_rewards:
        new = grading.shuffled(new, runtime.settings.seed, step)
    return list((before | {group.index: group for group in new}).values())


def with_episodes(groups: Sequence[Group]) -> list[Group]:
    """Return the groups with their episodes on every process."""
    if hosts.count() == 1:
        return list(groups)
    widest = max((group.spent.episodes for group in groups), default=1)
    mine = [(at * widest + g, episode) for at, group in enumerate(groups) for g, episode in enumerate(group.episodes)]
    every = iter(hosts.gather_episodes([episode for _, episode in mine], [at for at, _ in mine]))
    return [replace(group, episodes=tuple(next(every) for _ in range(group.spent.episodes))) for group in groups]


def over_processes(statistics: Statistics) -> Statistics:
    """Combine the statistics of all processes: counts are added up, seconds are the slowest's."""
    return Statistics.combined([Statistics(**part) for part in hosts.gather(asdict(statistics))], max)


def check_answered(whole: Statistics, groups: Sequence[Group], *, asks: bool = False) -> None:
    """Raise ServiceDown if (a) more than half of all processes' searches failed; (b) searches failed and left half or
    more of the episodes without an answer in more than half of the groups; or (c) the reward, which `asks` a server,
    left half or more of the answered episodes without a grade in more than half of the groups that it could grade.
    """
    failed, sent = whole.searches_failed, whole.searches_sent
    spent = [group.spent for group in groups]
    faulty = sum(2 * each.unanswered >= each.episodes for each in spent)
    if failed * 2 > sent or failed and faulty * 2 > len(groups):
        reason = next((each.fault for each in spent if each.fault), "no reason is known")
        without = f"{failed} of {sent} searches failed, and {faulty} of {len(groups)} groups with them"
        asked = [
            text for group in groups for episode in grading.unanswered(group) for text in episode.turns[-1].queries
        ]
        raise ServiceDown(f"{without}; the first: {reason}", failed=list(dict.fromkeys(asked)))
    tried = [each for each in spent if each.ungraded or each.stops.get("answered")] if asks else []
    ungraded = [each for each in tried if 2 * each.ungraded >= max(each.stops.get("answered", 0), 1)]
    if len(ungraded) * 2 > len(tried):
        reason = next(each.fault for each in ungraded if each.ungraded)
        failed = [group for group in groups if group.spent.ungraded and group.episodes]
        without = f"{len(ungraded)} of {len(tried)} groups could not be graded"
        raise ServiceDown(f"{without}; the first: {reason}", "reward", failed)


def check_graded(groups: Sequence[Group]) -> None:
    """Raise ValueError if the reward could grade none of the groups' episodes, though there were some to grade."""
    ungraded = sum(group.spent.ungraded for group in groups)
    if ungraded and not any(group.grades.valid_QG.any() for group in groups):
        first = next(group.spent.fault for group in groups if group.spent.ungraded)
        raise UserError(
            f"no episode of the first step could be graded ({ungraded} were tried), the first by: {first}; nothing "
            "could ever be learned. Mend the reward, or choose another one"
        )


def play_beside(update: Callable[[Callable[[], None]], Updated], play: Callable[[], Played]) -> tuple[Updated, Played]:
    """Run `update` in a thread and `play`, of the next step, in this one (train.overlap=1); return both results.

    `update` is given a function to call before it changes what `play` reads. That function returns when `play` has
    ended, and raises Interrupted if `play` failed. An error of `play` is raised after the update ended; else the
    update's.
    """
    ended, failed = threading.Event(), threading.Event()

    def wait_for_play() -> None:
        ended.wait()
        if failed.is_set():
            raise Interrupted

    updated: Future[Updated] = KeptThread("update").submit(update, wait_for_play)
    try:
        with hosts.beside_an_update():
            played = play()
    except BaseException:
        failed.set()
        raise
    finally:
        ended.set()
        while not wait([updated], timeout=POLL_S).done:  # signals are handled between polls
            pass
    return updated.result(), played
