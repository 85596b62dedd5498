"""Reward: 1 for an answer that a language model, behind an OpenAI-compatible endpoint, calls correct."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qr_jax.evaluation.judge import INJECTED, Asked, Judge, cut
from qr_jax.records import Episode, Query, Scores

EXAMPLE = {"url": "http://127.0.0.1:9/v1", "model": "grader"}


def judge(
    query: Query,
    episodes: Sequence[Episode],
    *,
    url: str,  # of the OpenAI-compatible endpoint
    model: str,  # its name there
    cache: str = "runs/verdicts.jsonl",  # the file of verdicts, shared by runs
    budget: int = 100_000,  # calls of a run, at most
    key_env: str = "QR_JAX_JUDGE_KEY",  # the environment variable with its key
    timeout_s: float = 30.0,  # of one try
    retries: int = 3,  # further tries, with growing pauses
    at_once: int = 8,  # calls that run at one time
) -> Scores:
    """The judge's verdicts, 0 or 1, on the first 64 tokens of each answer (evaluation/judge.py); they are the outcome.

    No answer, and an empty one, is wrong, unasked. Different answers are asked once each, `at_once` at a time, and
    verdicts are kept in the file `cache`. An answer without a verdict, after retries, is NaN: a fault and never a 0.
    ValueError, which ends the run: a judge that calls one of 20 injected wrong answers right (asked once a process),
    and a cache that would hold more than `budget` verdicts.
    """
    grader = _trusted(url, model, cache, key_env, timeout_s, retries, at_once)
    given = [episode.answer or "" for episode in episodes]
    asked = [Asked(query.question, query.answers, cut(answer)) for answer in given if answer.strip()]
    new = len(set(grader.unknown(asked)))
    if grader.verdicts + new > budget:
        raise ValueError(
            f"reward 'judge' has {grader.verdicts} verdicts in {cache} and {new} answers to ask about, more than its "
            f"budget of {budget}; raise reward.budget, and the same command goes on"
        )
    verdicts = grader.tried(asked)
    score_G = [
        float(verdicts.get(Asked(query.question, query.answers, cut(answer)), np.nan)) if answer.strip() else 0.0
        for answer in given
    ]
    return Scores(np.array(score_G), np.array(score_G))


@functools.cache
def _trusted(url: str, model: str, cache: str, key_env: str, timeout_s: float, retries: int, at_once: int) -> Judge:
    """The judge, once it has called the injected wrong answers wrong."""
    grader = Judge(url, model, Path(cache), timeout_s, retries, at_once, key_env)
    fooled = grader.fooled()
    if fooled:
        raise ValueError(
            f"reward 'judge': {model} called {len(fooled)} of {len(INJECTED)} injected wrong answers right, the first "
            f"{fooled[0]!r}; a policy would learn to talk to it. Use another model"
        )
    return grader
