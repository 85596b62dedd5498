"""Reward: 1 for an answer that a language model, behind an OpenAI-compatible endpoint, calls correct."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from qr_jax.answers import told
from qr_jax.lab.judge import CORRECT, Asked, cut, sways
from qr_jax.methods.rewards import _judged
from qr_jax.records import Episode, Query, Scores
from qr_jax.settings.settings import Count

SWAYS: dict[bool | str | None, float] = {"fair": 1.0, "sways": 0.0}
ENDPOINT = ("url", "key_env", "budget", "timeout_s", "retries", "at_once", "leave_out")
VERDICTS = 2  # is the answer right, and if so, does it try to sway the judge
EXAMPLE = {"url": "http://127.0.0.1:9/v1", "model": "grader"}


def judge(
    query: Query,
    episodes: Sequence[Episode],
    *,
    url: str,  # of the OpenAI-compatible endpoint
    model: str,  # its name there
    cache: str = "runs/verdicts.jsonl",  # the file of verdicts, shared by runs
    budget: int = 100_000,  # verdicts in it, at most
    key_env: str = "QR_JAX_JUDGE_KEY",  # the environment variable with its key
    timeout_s: float = 120.0,  # of one try
    retries: int = 3,  # further tries, with growing pauses
    at_once: int = 8,  # calls that run at one time
    # not sent, for an endpoint that refuses it; what its HTTP 400 names is left out too
    leave_out: tuple[Literal["max_tokens", "max_completion_tokens", "temperature", "top_p"], ...] = (),
    temperature: float = 0.0,  # of its replies
    top_p: float = 1.0,  # of its replies; 1 is not sent
    cut_tokens: Count = 256,  # of an answer that the judge sees
    ask_sway: bool = True,  # ask of each answer that is called right if it tries to sway the judge: then it is wrong
) -> Scores:
    """Ask the judge about each answer: 1 if it calls it right, else 0 (lab/judge.py). Reward and outcome are the same.

    own: the judge sees the first `cut_tokens` of an answer. A missing or empty answer is wrong, without being sent.
    Equal answers are sent once, `at_once` at a time, and verdicts are kept in the file `cache`. An answer that is
    called right is sent a second time, as in `eval --suite`: if it tries to sway the judge, it is wrong. An answer
    without a verdict, after all retries, is NaN: a fault and never a 0.

    ValueError ends the run if the judge calls one of 20 injected wrong answers right (they are sent once a process), or
    if the cache would hold more than `budget` verdicts.
    """
    endpoint = _judged.sitting(
        url, model, cache, key_env, timeout_s=timeout_s, retries=retries, at_once=at_once, leave_out=leave_out,
        temperature=temperature, top_p=top_p,
    )  # fmt: skip
    given = [episode.answer or "" for episode in episodes]
    cards = [Asked(query.question, told(query), cut(answer, cut_tokens)) for answer in given]
    said = _judged.verdicts("judge", endpoint, [card for card in cards if card.prediction], budget)
    score_of = {card: float(word) for card, word in said.items()}
    if ask_sway:
        right = [card for card, score in score_of.items() if score]
        fair = _judged.verdicts("judge", endpoint, list(map(sways, right)), budget, CORRECT)
        score_of |= {card: SWAYS.get(fair.get(sways(card)), np.nan) for card in right}
    score_G = [score_of.get(card, np.nan) if card.prediction else 0.0 for card in cards]
    return Scores(np.array(score_G), np.array(score_G))
