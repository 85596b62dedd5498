"""Search and reward as services: tried once before the run starts, and waited for when they fail.

If most searches or grades of a step failed (`rollout_and_grade.check_answered`), the step is not counted; the run then
repeats it. Searches fail with their retriever. Grades fail with the server that a reward asks, where its file has
ENDPOINT (interfaces.py). Any other reward that leaves out grades has a bug, which waiting does not mend; the run does
not wait for it. Nor does it wait if the same input fails again by itself while others are answered: then the run ends.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from qr_jax import assemble, plugins
from qr_jax.errors import FailsAgain, Interrupted, Outage, ServiceDown
from qr_jax.parallel import hosts
from qr_jax.pool import pool
from qr_jax.records import Call, Episode, Query, Turn
from qr_jax.rollout import tools
from qr_jax.run.kept_thread import run_interruptible
from qr_jax.step import grading
from qr_jax.step.rollout_and_grade import judged
from qr_jax.step.runtime import RunState, Runtime

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 120.0  # between two checks that the service answers, or two tries of a step
POLL_S = 0.5
QUESTION = "Is anybody there?"
MOST_ASKED = 16  # searches or groups of a failed step that are tried again by themselves


@dataclass(frozen=True)
class RetryState:
    """A step that failed `tries` times, first at `began_s` of the monotonic clock, `since` on the wall's."""

    began_s: float
    since: str
    tries: int


def preflight(runtime: Runtime, run_state: RunState) -> None:
    """Call search, rounds, reward and rule once, on the first question and two artificial episodes; keep nothing.

    One episode answers as the question's first gold does, one not at all. ValueError for what their contracts refuse;
    an error of the search is raised as it is. Outage if a search by URL times out, or if the reward's server gives
    no grade.
    """
    group, outage = hosts.all_or_none(partial(_tried, runtime))
    if told := next(filter(None, hosts.gather(outage)), None):  # of any process, on all
        raise Outage(told)
    runtime.drawing.rounds(run_state.pool, ())
    assert group is not None
    pool.settle(run_state.pool, judged(runtime, run_state, [group], 0), runtime.drawing.rule)


def _tried(runtime: Runtime) -> tuple[grading.Group | None, str]:
    """Search once and grade two made episodes; return their group, and what is out of service ("" if nothing is)."""
    query, name, limits = runtime.data.queries[0], runtime.settings.reward.name, runtime.settings.rollout
    text = assemble.asked(runtime.settings)(query.question, query)
    try:
        tools.found(runtime.world.search, [text], limits.search_k, **tools.limits(limits))
    except TimeoutError as error:
        parts = plugins.with_parts(runtime.settings.retriever)
        if not (url := next((part.settings["url"] for part in parts if part.settings.get("url")), None)):
            raise
        todo = "see that it is up and that this is its URL, then start the same command again"
        return None, f"the retriever at {url}: {error}; {todo}"
    episodes = [made_episode(query, 0, query.answers[0]), made_episode(query, 1, None)]
    group = run_interruptible(
        lambda: grading.grade(runtime.grading.reward, name, 0, 0, query, episodes), runtime.run.stop_now
    )
    grading.check_turns([group], name, runtime.grading.turns)
    if group.spent.ungraded and runtime.grading.asks:
        todo = "see that its server is up, then start the same command again"
        return group, f"{group.spent.fault}, of an answer that was made up; {todo}"
    return group, ""


def made_episode(query: Query, sample: int, answer: str | None) -> Episode:
    """Make an episode of one turn and three tokens."""
    text = "?" if answer is None else f"<answer> {answer} </answer>"
    return Episode(
        query, sample, 0, ids_L=np.ones(3, np.int32), mask_L=np.ones(3, bool), logp_L=np.zeros(3, np.float32),
        turn_L=np.zeros(3, np.int32), turns=(Turn("model", text),), answer=answer,
        stop="no_action" if answer is None else "answered", valid=True,
    )  # fmt: skip


def wait(runtime: Runtime, down: ServiceDown, step: int, retry: RetryState | None) -> RetryState:
    """Wait until the service that is down answers a question; if the step failed before, pause first.

    `retry`: what this returned when the step failed before. Raises Interrupted when told to stop, Outage
    rollout.outage_s after the step first failed, FailsAgain if a search or group that failed fails again alone, and
    the error of a search function or reward whose code is to blame: waiting will not mend it.
    """
    answer = {"retriever": answers, "reward": grades}[down.what]
    say, limit_s = runtime.run.say, runtime.settings.rollout.outage_s
    retry = retry or RetryState(time.monotonic(), time.strftime("%H:%M:%S"), 0)
    retry = replace(retry, tries=retry.tries + 1)
    until = f"Waiting for the {down.what}, at most {limit_s:g} s from {retry.since} on"
    say(f"step {step + 1} is not counted: {down}. {until}")
    pause_s = min(FIRST_PAUSE_S * 2 ** (retry.tries - 1), LONGEST_PAUSE_S)
    again = retry.tries > 1
    while again or not hosts.by_first(lambda: answer(runtime)):
        waited_s = time.monotonic() - retry.began_s
        if hosts.any_process(waited_s >= limit_s):
            raise Outage(f"the {down.what} failed from {retry.since} on, for {waited_s:.0f} s; the last time {down}")
        how = "a question was answered, and the step failed again" if again else f"no answer since {retry.since}"
        say(f"{how}; asking again in {pause_s:g} s")
        again = False
        until = time.monotonic() + min(pause_s, max(limit_s - waited_s, 0.0))
        while time.monotonic() < until:
            time.sleep(min(POLL_S, max(until - time.monotonic(), 0.0)))
            if runtime.run.stop_now():
                break
        if runtime.run.stops():
            raise Interrupted
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
    failed = _of_all_processes(down)
    if refused := hosts.by_first(lambda: repeated(runtime, down.what, failed)):
        raise FailsAgain(f"{down}. This is no outage, for the {down.what} answers other questions: {refused}")
    if runtime.run.stops():
        raise Interrupted
    say(f"the {down.what} answers; step {step + 1} is made again")
    return retry


def _of_all_processes(down: ServiceDown) -> Sequence[Any]:
    """Return the searches or groups that failed on any process; the same on all."""
    if hosts.count() == 1:
        return down.failed
    searches = down.what == "retriever"  # texts, or calls of tools
    mine = [one if isinstance(one, str) else asdict(one) if searches else one.to_plain() for one in down.failed]
    every = [one for theirs in hosts.gather(mine) for one in theirs]
    made = (lambda given: Call(**given)) if searches else grading.from_plain
    return [one if isinstance(one, str) else made(one) for one in every]


def repeated(runtime: Runtime, what: str, failed: Sequence[Any]) -> str | None:
    """Say why a failed search or group fails twice more, asked alone, while others are answered after each try.

    None if there is none such, or if the run is told to stop.
    """
    again, answer = {"retriever": (_search_again, answers), "reward": (_grade_again, grades)}[what]
    try:
        for one in failed[:MOST_ASKED]:
            work = partial(again, runtime, one)
            for tried in (1, 2):
                reason = run_interruptible(work, runtime.run.stop_now)
                if not reason or not answer(runtime):
                    break
                if tried == 2:
                    return reason
    except Interrupted:
        return None
    return None


def _search_again(runtime: Runtime, text: str) -> str | None:
    """Search once more for one text; return why it fails, or None."""
    limits = runtime.settings.rollout
    searched = tools.run_searches(runtime.world.search, [text], limits.search_k, **tools.limits(limits))
    if not searched.failed:
        return None
    fault = searched.by_query[text]
    assert isinstance(fault, tools.Fault), "the one search failed"
    return f"the search {text!r} failed again, asked alone ({fault.reason})"


def _grade_again(runtime: Runtime, group: grading.Group) -> str | None:
    """Grade a group once more; return why it cannot be graded, or None."""
    query, name = runtime.data.queries[group.index], runtime.settings.reward.name
    graded = grading.grade(runtime.grading.reward, name, 0, 0, query, grading.before_grading(group))
    return f"query {query.id!r} could not be graded again ({graded.spent.fault})" if graded.spent.ungraded else None


def grades(runtime: Runtime) -> bool:
    """Return True if the reward grades an answer that no cache of verdicts holds; False also once told to stop."""
    query = runtime.data.queries[0]
    episode = made_episode(query, 0, f"{QUESTION} ({time.strftime('%H:%M:%S')})")
    try:
        scores = run_interruptible(lambda: runtime.grading.reward(query, (episode,)), runtime.run.stop_now)
    except Interrupted:
        return False
    return bool(np.isfinite(scores.score_G).all())


def answers(runtime: Runtime) -> bool:
    """Return True if one search gets an answer, even an empty one. Raises its error if waiting will not help."""
    question = f"{QUESTION} ({time.strftime('%H:%M:%S')})"  # no cache has the answer
    once = replace(runtime.settings.rollout, search_retries=0)
    question = assemble.asked(runtime.settings)(question, runtime.data.queries[0])
    asked = tools.run_searches(runtime.world.search, [question], 1, **tools.limits(once))
    for result in asked.by_query.values():
        if isinstance(result, tools.Fault) and result.wrong and result.error:
            raise result.error
    return not asked.failed
