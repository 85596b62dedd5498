"""Outages: a step most of whose searches or groups failed is not counted; the run waits, and makes it again."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qr_jax.processes import hosts
from qr_jax.rollout import tools
from qr_jax.rollout.engine import Interrupted, Statistics
from qr_jax.step.grading import Group
from qr_jax.step.parts import Parts

CODE = 5  # exit code of a run whose retriever stayed away; a supervisor does not start it again
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 120.0  # between two looks whether the retriever answers, or two tries of a step
POLL_S = 0.5
QUESTION = "Is anybody there?"


class RetrieverDown(Exception):
    """Most searches or groups of a step failed. Nothing of the step was settled, trained on or written."""


class Outage(Exception):
    """Steps failed for longer than rollout.outage_s."""


@dataclass(frozen=True)
class Lost:
    """A step that failed `tries` times, first at `began_s` of the monotonic clock, `since` on the wall's."""

    began_s: float
    since: str
    tries: int


def check(whole: Statistics, groups: Sequence[Group]) -> None:
    """RetrieverDown where more than half of the searches of all processes failed, or left more than half of the groups
    with half of their episodes or more without an answer.
    """
    failed, sent = whole.searches_failed, whole.searches_sent
    spent = [group.spent for group in groups]
    faulty = sum(2 * each.unanswered >= each.episodes for each in spent)
    if failed * 2 > sent or failed and faulty * 2 > len(groups):
        reason = next((each.fault for each in spent if each.fault), "no reason is known")
        lost = f"{failed} of {sent} searches failed, and {faulty} of {len(groups)} groups with them"
        raise RetrieverDown(f"{lost}; the first: {reason}")


def wait(parts: Parts, down: RetrieverDown, step: int, lost: Lost | None) -> Lost:
    """Return once the retriever answers a question; where the step failed again after that, a pause later.

    `lost`: what this gave when the step failed before. Interrupted when told to stop; Outage rollout.outage_s after the
    step first failed. What the search function raised, where it is to blame: that will not pass.
    """
    say, limit_s = parts.run.say, parts.settings.rollout.outage_s
    lost = replace(lost, tries=lost.tries + 1) if lost else Lost(time.monotonic(), time.strftime("%H:%M:%S"), 1)
    say(
        f"step {step + 1} is not counted: {down}. Waiting for the retriever, at most {limit_s:g} s from {lost.since} on"
    )
    pause_s = min(FIRST_PAUSE_S * 2 ** (lost.tries - 1), LONGEST_PAUSE_S)
    again = lost.tries > 1
    while again or not hosts.by_first(lambda: answers(parts)):
        waited_s = time.monotonic() - lost.began_s
        if hosts.any_process(waited_s >= limit_s):
            raise Outage(f"most searches failed from {lost.since} on, for {waited_s:.0f} s; the last time {down}")
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
    say(f"the retriever answers; step {step + 1} is made again")
    return lost


def answers(parts: Parts) -> bool:
    """Whether one search gets an answer, be it nothing found. What it raised, where waiting will not help."""
    question = f"{QUESTION} ({time.strftime('%H:%M:%S')})"  # no cache has the answer
    once = replace(parts.settings.rollout, search_retries=0)
    asked = tools.run_searches(parts.search, [question], 1, **tools.limits(once))
    for result in asked.by_query.values():
        if isinstance(result, tools.Fault) and result.wrong and result.error:
            raise result.error
    return not asked.failed
