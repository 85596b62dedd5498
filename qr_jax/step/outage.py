"""Outages: a step most of whose searches, groups or grades failed is not counted; the run waits, and makes it again.

Searches fail with their retriever. Grades fail with the server that a reward asks, where its file has ENDPOINT
(interfaces.py): another reward's missing grades are its own mistake, which no waiting mends. Nor does it mend what
fails again by itself while other questions are answered: the run ends with that.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from qr_jax.errors import FailsAgain, Interrupted, Outage, ServiceDown
from qr_jax.parallel import hosts
from qr_jax.rollout import tools
from qr_jax.rollout.engine import Statistics
from qr_jax.step import grading, preflight
from qr_jax.step.beside import run_interruptible
from qr_jax.step.grading import Group
from qr_jax.step.runtime import Runtime

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 120.0  # between two looks whether it answers, or two tries of a step
POLL_S = 0.5
QUESTION = "Is anybody there?"
MOST_ASKED = 16  # searches or groups of a failed step that are tried again by themselves


@dataclass(frozen=True)
class RetryState:
    """A step that failed `tries` times, first at `began_s` of the monotonic clock, `since` on the wall's."""

    began_s: float
    since: str
    tries: int


def check(whole: Statistics, groups: Sequence[Group], *, asks: bool = False) -> None:
    """Raise ServiceDown if (a) more than half of all processes' searches failed; (b) searches failed and left half or
    more of the episodes without an answer in more than half of the groups; or (c) the reward, which `asks` a server,
    left half or more of the answered episodes without a grade in more than half of the groups that it could grade.
    """
    failed, sent = whole.searches_failed, whole.searches_sent
    spent = [group.spent for group in groups]
    faulty = sum(2 * each.unanswered >= each.episodes for each in spent)
    if failed * 2 > sent or failed and faulty * 2 > len(groups):
        reason = next((each.fault for each in spent if each.fault), "no reason is known")
        lost = f"{failed} of {sent} searches failed, and {faulty} of {len(groups)} groups with them"
        asked = [
            text for group in groups for episode in grading.unanswered(group) for text in episode.turns[-1].queries
        ]
        raise ServiceDown(f"{lost}; the first: {reason}", failed=list(dict.fromkeys(asked)))
    tried = [each for each in spent if each.ungraded or each.stops.get("answered")] if asks else []
    lost = [each for each in tried if 2 * each.ungraded >= max(each.stops.get("answered", 0), 1)]
    if len(lost) * 2 > len(tried):
        reason = next(each.fault for each in lost if each.ungraded)
        failed = [group for group in groups if group.spent.ungraded and group.episodes]
        raise ServiceDown(
            f"{len(lost)} of {len(tried)} groups could not be graded; the first: {reason}", "reward", failed
        )


def wait(runtime: Runtime, down: ServiceDown, step: int, lost: RetryState | None) -> RetryState:
    """Wait until the service that is down answers a question; if the step failed before, pause first.

    `lost`: what this returned when the step failed before. Raises Interrupted when told to stop, Outage
    rollout.outage_s after the step first failed, FailsAgain if a search or group that failed fails again alone, and
    the error of a search function or reward whose code is to blame: waiting will not mend it.
    """
    answer = {"retriever": answers, "reward": grades}[down.what]
    say, limit_s = runtime.run.say, runtime.settings.rollout.outage_s
    lost = replace(lost, tries=lost.tries + 1) if lost else RetryState(time.monotonic(), time.strftime("%H:%M:%S"), 1)
    until = f"Waiting for the {down.what}, at most {limit_s:g} s from {lost.since} on"
    say(f"step {step + 1} is not counted: {down}. {until}")
    pause_s = min(FIRST_PAUSE_S * 2 ** (lost.tries - 1), LONGEST_PAUSE_S)
    again = lost.tries > 1
    while again or not hosts.by_first(lambda: answer(runtime)):
        waited_s = time.monotonic() - lost.began_s
        if hosts.any_process(waited_s >= limit_s):
            raise Outage(f"the {down.what} failed from {lost.since} on, for {waited_s:.0f} s; the last time {down}")
        how = "a question was answered, and the step failed again" if again else f"no answer since {lost.since}"
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
    if refused := hosts.by_first(lambda: repeated(runtime, down)):
        raise FailsAgain(f"{down}. This is no outage, for the {down.what} answers other questions: {refused}")
    if runtime.run.stops():
        raise Interrupted
    say(f"the {down.what} answers; step {step + 1} is made again")
    return lost


def repeated(runtime: Runtime, down: ServiceDown) -> str | None:
    """Say why a failed search or group fails twice more, asked alone, while others are answered after each try.

    None if there is none such, or if the run is told to stop.
    """
    again, answer = {"retriever": (_search_again, answers), "reward": (_grade_again, grades)}[down.what]
    try:
        for failed in down.failed[:MOST_ASKED]:
            work = partial(again, runtime, failed)
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
    settings = runtime.settings.rollout
    found = tools.run_searches(runtime.search, [text], settings.search_k, **tools.limits(settings)).by_query[text]
    return f"the search {text!r} failed again, asked alone ({found.reason})" if isinstance(found, tools.Fault) else None


def _grade_again(runtime: Runtime, group: Group) -> str | None:
    """Grade a group once more; return why it cannot be graded, or None."""
    query = runtime.queries[group.index]
    graded = grading.grade(runtime.reward, runtime.settings.reward.name, 0, 0, query, grading.before_grading(group))
    return f"query {query.id!r} could not be graded again ({graded.spent.fault})" if graded.spent.ungraded else None


def grades(runtime: Runtime) -> bool:
    """Return True if the reward grades an answer that no file of verdicts has; False once the run is told to stop."""
    query = runtime.queries[0]
    episode = preflight.made(query, 0, f"{QUESTION} ({time.strftime('%H:%M:%S')})")
    try:
        scores = run_interruptible(lambda: runtime.reward(query, (episode,)), runtime.run.stop_now)
    except Interrupted:
        return False
    return bool(np.isfinite(scores.score_G).all())


def answers(runtime: Runtime) -> bool:
    """Return True if one search gets an answer, even an empty one. Raises its error if waiting will not help."""
    question = f"{QUESTION} ({time.strftime('%H:%M:%S')})"  # no cache has the answer
    once = replace(runtime.settings.rollout, search_retries=0)
    asked = tools.run_searches(runtime.search, [question], 1, **tools.limits(once))
    for result in asked.by_query.values():
        if isinstance(result, tools.Fault) and result.wrong and result.error:
            raise result.error
    return not asked.failed
