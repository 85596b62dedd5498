"""Reward: exact match, and for each turn whether it contributed, for the advantage that deals by it (CW-GRPO)."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers
from qr_jax.methods.rewards import _format, _judged
from qr_jax.records import Episode, Query, Scores

ENDPOINT = ("url", "key_env", "budget")
MAX_TURNS = 8
USEFUL = _judged.prompt(
    "Do these `passages`, which one search found, help to answer the `question` with one of the `correct_answers`?",
    by="correct_answers", text="passages", words=("no", "yes"),
)  # fmt: skip
SOUND = _judged.prompt(
    "Is the `turn`, thoughts and query, right and fit to find one of the `correct_answers` of the `question`?",
    by="correct_answers", text="turn", words=("no", "yes"),
)  # fmt: skip


def contributions(
    query: Query,
    episodes: Sequence[Episode],
    *,
    url: str = "",  # of an OpenAI-compatible endpoint that judges; empty: the stand-in
    model: str = "",  # its name there
    cache: str = "runs/verdicts.jsonl",  # the file of verdicts, shared by runs
    budget: int = 100_000,  # verdicts in it, at most
    key_env: str = "QR_JAX_JUDGE_KEY",  # the environment variable with its key
) -> Scores:
    """Return exact match; a turn's reward is p_t = u_t v_t: 1 where its search was of use and its reasoning right, else
    0.

    exact: p_t of CW-GRPO (arXiv:2604.14267; zsxmwjz/CW-GRPO), which learner.advantage=cw_grpo takes. With `url` a
    judge, told the golds, says u_t of the passages and v_t of the turn, in words of ours; a missing verdict makes the
    episode a fault. Stand-in, rule-based: u_t says whether the search was the first to bring a gold answer or one of
    `query.entities`, and v_t is 1. A turn that brought nothing gets 0. The outcome is exact match.
    """
    right_G = np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes])
    parts = [_format.rounds(episode) for episode in episodes]
    if url:
        endpoint, pairs = _judged.sitting(url, model, cache, key_env), [pair for rounds in parts for pair in rounds]
        found = [(query.question, query.answers, passages) for _, passages in pairs]
        turns = [(query.question, query.answers, text if passages else "") for text, passages in pairs]
        useful = _judged.graded("contributions", USEFUL, endpoint, found, budget)
        sound = _judged.graded("contributions", SOUND, endpoint, turns, budget)
        helped = iter(u * v for u, v in zip(useful, sound, strict=True))  # NaN is a missing verdict
        rows = [[next(helped) for _ in rounds] for rounds in parts]
    else:
        rows = [_first_brought(query, rounds) for rounds in parts]
    return Scores(
        right_G,
        right_G,
        [(row + [0.0] * e.model_turns)[: e.model_turns] for row, e in zip(rows, episodes, strict=True)],
    )


def _first_brought(query: Query, rounds: Sequence[tuple[str, str]]) -> list[float]:
    texts = (answers.normalise(passages) for _, passages in rounds)
    return [
        float(count > 0) for count in _format.first_named((*query.entities, *answers.proving(query.answers)), texts)
    ]
