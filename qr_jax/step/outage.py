"""Outages: a step most of whose searches, groups or grades failed is not counted; the run waits, and makes it again.

Searches fail with their retriever. Grades fail with the server that a reward asks, where its file has ENDPOINT
(interfaces.py): another reward's missing grades are its own mistake, which no waiting mends.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from qr_jax.processes import hosts
from qr_jax.rollout import tools
from qr_jax.rollout.engine import Interrupted, Statistics
from qr_jax.step import rehearsal
from qr_jax.step.beside import heard
from qr_jax.step.grading import Group
from qr_jax.step.parts import Parts

CODE = 5  # exit code of a run whose retriever or judge stayed away; a supervisor does not start it again
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 120.0  # between two looks whether it answers, or two tries of a step
POLL_S = 0.5
QUESTION = "Is anybody there?"


class Down(Exception):
    """Most of a step's groups failed with `what`. Nothing of the step was settled, trained on or written."""

    def __init__(self, text: str, what: Literal["retriever", "reward"] = "retriever"):
        super().__init__(text)
        self.what: Literal["retriever", "reward"] = what


class Outage(Exception):
    """Steps failed for longer than rollout.outage_s."""


@dataclass(frozen=True)
class Lost:
    """A step that failed `tries` times, first at `began_s` of the monotonic clock, `since` on the wall's."""

    began_s: float
    since: str
    tries: int


def check(whole: Statistics, groups: Sequence[Group], *, asks: bool = False) -> None:
    """Down where more than half of the searches of all processes failed, or left more than half of the groups with half
    of their episodes or more without an answer; or where the reward, which `asks` a server, left more than half of the
    groups that it could grade without a grade on half of what was answered there or more.
    """
    failed, sent = whole.searches_failed, whole.searches_sent
    spent = [group.spent for group in groups]
    faulty = sum(2 * each.unanswered >= each.episodes for each in spent)
    if failed * 2 > sent or failed and faulty * 2 > len(groups):
        reason = next((each.fault for each in spent if each.fault), "no reason is known")
        lost = f"{failed} of {sent} searches failed, and {faulty} of {len(groups)} groups with them"
        raise Down(f"{lost}; the first: {reason}")
    tried = [each for each in spent if each.ungraded or each.stops.get("answered")] if asks else []
    lost = [each for each in tried if 2 * each.ungraded >= max(each.stops.get("answered", 0), 1)]
    if len(lost) * 2 > len(tried):
        reason = next(each.fault for each in lost if each.ungraded)
        raise Down(f"{len(lost)} of {len(tried)} groups could not be graded; the first: {reason}", "reward")


def wait(parts: Parts, down: Down, step: int, lost: Lost | None) -> Lost:
    """Return once what is down answers a question; where the step failed again after that, a pause later.

    `lost`: what this gave when the step failed before. Interrupted when told to stop; Outage rollout.outage_s after the
    step first failed. What a search or the reward raised, where it is to blame: that will not pass.
    """
    answer = {"retriever": answers, "reward": grades}[down.what]
    say, limit_s = parts.run.say, parts.settings.rollout.outage_s
    lost = replace(lost, tries=lost.tries + 1) if lost else Lost(time.monotonic(), time.strftime("%H:%M:%S"), 1)
    until = f"Waiting for the {down.what}, at most {limit_s:g} s from {lost.since} on"
    say(f"step {step + 1} is not counted: {down}. {until}")
    pause_s = min(FIRST_PAUSE_S * 2 ** (lost.tries - 1), LONGEST_PAUSE_S)
    again = lost.tries > 1
    while again or not hosts.by_first(lambda: answer(parts)):
        waited_s = time.monotonic() - lost.began_s
        if hosts.any_process(waited_s >= limit_s):
            raise Outage(f"the {down.what} failed from {lost.since} on, for {waited_s:.0f} s; the last time {down}")
        how = "a question was answered, and the step failed again" if again else f"no answer since {lost.since}"
        say(f"{how}; asking again in {pause_s:g} s")
        again = False
        until = time.monotonic() + min(pause_s, max(limit_s - waited_s, 0.0))
        while time.monotonic() < until:
            time.sleep(min(POLL_S, max(until - time.monotonic(), 0.0)))
            if parts.run.stop_now():
                break
        if parts.run.stops():
            raise Interrupted
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
    say(f"the {down.what} answers; step {step + 1} is made again")
    return lost


def grades(parts: Parts) -> bool:
    """Whether the reward grades an answer that no file of verdicts has; not while the run is told to stop."""
    query = parts.queries[0]
    episode = rehearsal.made(query, 0, f"{QUESTION} ({time.strftime('%H:%M:%S')})")
    try:
        scores = heard(lambda: parts.reward(query, (episode,)), parts.run.stop_now)
    except Interrupted:
        return False
    return bool(np.isfinite(scores.score_G).all())


def answers(parts: Parts) -> bool:
    """Whether one search gets an answer, be it nothing found. What it raised, where waiting will not help."""
    question = f"{QUESTION} ({time.strftime('%H:%M:%S')})"  # no cache has the answer
    once = replace(parts.settings.rollout, search_retries=0)
    asked = tools.run_searches(parts.search, [question], 1, **tools.limits(once))
    for result in asked.by_query.values():
        if isinstance(result, tools.Fault) and result.wrong and result.error:
            raise result.error
    return not asked.failed
