"""Outages: a step most of whose searches failed is not counted; the run waits, and makes it again."""

import time
from collections.abc import Sequence

from qr_jax.processes import hosts
from qr_jax.rollout import tools
from qr_jax.rollout.engine import Interrupted, Statistics
from qr_jax.step.grading import Group
from qr_jax.step.parts import Parts

CODE = 5  # exit code of a run whose retriever stayed away; a supervisor does not start it again
TRIES = 3  # of one step; after that it counts as it is: the retriever answers, and something else makes faults
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 120.0  # between two looks whether the retriever answers
POLL_S = 0.5
QUESTION = "Is anybody there?"


class RetrieverDown(Exception):
    """Most searches of a step failed. Nothing of the step was settled, trained on or written."""


class Outage(Exception):
    """The retriever stayed away for longer than rollout.outage_s."""


def check(whole: Statistics, groups: Sequence[Group]) -> None:
    """RetrieverDown where more than half of the searches of all processes failed."""
    if whole.searches_failed * 2 > whole.searches_sent:
        reason = next((group.spent.fault for group in groups if group.spent.fault), "no reason is known")
        raise RetrieverDown(f"{whole.searches_failed} of {whole.searches_sent} searches failed; the first: {reason}")


def wait(parts: Parts, down: RetrieverDown, step: int) -> None:
    """Return once the retriever answers a question. Interrupted when told to stop; Outage after rollout.outage_s.

    ValueError where its search function gives what is no list of passages: that will not pass.
    """
    say, limit_s = parts.run.say, parts.settings.rollout.outage_s
    began, pause_s = time.monotonic(), FIRST_PAUSE_S
    since = time.strftime("%H:%M:%S")
    say(f"step {step + 1} is not counted: {down}. Since {since} waiting for the retriever, for at most {limit_s:g} s")
    while not hosts.by_first(lambda: answers(parts)):
        waited_s = time.monotonic() - began
        if hosts.any_process(waited_s >= limit_s):
            raise Outage(f"no search was answered from {since} on, for {waited_s:.0f} s")
        say(f"no answer since {since}; asking again in {pause_s:g} s")
        until = time.monotonic() + min(pause_s, max(limit_s - waited_s, 0.0))
        while time.monotonic() < until:
            time.sleep(min(POLL_S, max(until - time.monotonic(), 0.0)))
            if parts.run.stop_now():
                break
        if parts.run.stops():
            raise Interrupted
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
    say(f"the retriever answers; step {step + 1} is made again")


def answers(parts: Parts) -> bool:
    """Whether one search gets an answer, be it nothing found. ValueError where it gets what is no answer at all."""
    limits = parts.settings.rollout
    how = {"deadline_s": limits.search_deadline_s, "retries": 0, "passage_chars": limits.passage_chars}
    found = tools.run_searches(parts.search, [QUESTION], 1, **how)
    for result in found.by_query.values():
        if isinstance(result, tools.Fault) and result.wrong:
            raise ValueError(f"retriever {parts.settings.retriever.name!r}: {result.reason} (qr_jax/interfaces.py)")
    return not found.failed
