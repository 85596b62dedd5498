"""Reward: how well the answer supports its rubrics, each a fact that it should state (Search-Gen-V)."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers
from qr_jax.methods.rewards import _format, _judged
from qr_jax.records import Episode, Query, Scores
from qr_jax.settings.settings import NotNegative

ENDPOINT = ("url", "key_env", "budget")
NUGGET = _judged.prompt(
    "How far does the `passage` state one of the `facts`, as an answer to the `question` or on the way to one? Judge "
    "by the passage alone; one that names other answers beside it supports it partly at most.",
    by="facts", text="passage", words=("not_support", "partial_support", "support"),
)  # fmt: skip


def search_gen_v(
    query: Query,
    episodes: Sequence[Episode],
    *,
    chain: NotNegative = 0.0,  # the weight of each of query.entities as one more rubric; the answer's is 1
    url: str = "",  # of an OpenAI-compatible endpoint that judges; empty: the stand-in
    model: str = "",  # its name there
    cache: str = "runs/verdicts.jsonl",  # the file of verdicts, shared by runs
    budget: int = 100_000,  # verdicts in it, at most
    key_env: str = "QR_JAX_JUDGE_KEY",  # the environment variable with its key
) -> Scores:
    """Return sum_i w_i V_i / sum_i w_i over the rubrics, V 1 for support, 1/2 for partial support and 0 for none.

    exact: Search-Gen-V (Ma et al. 2025, arXiv:2510.14660; linyue-ma/Search-Gen-V, whose scale of labels is 2, 1, 0). A
    short answer has one rubric, the gold, held against the answer. Long answers, whose rubrics are made of passages,
    are outside; `chain` holds each of `query.entities` against all that the model wrote. With `url` a judge gives V;
    a rubric without a verdict makes the episode a fault. Stand-in, rule-based: support where the text holds a gold word
    for word, and partial where it has one of its words, so that a list of guesses is supported, too. The outcome is
    exact match: groups of wrong answers bear signal on the channel "reward".
    """
    right_G = np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes])
    cards = []
    for episode in episodes:
        wrote = " ".join(text for text, _ in _format.rounds(episode))
        cards.append((query.question, query.answers, episode.answer or ""))
        cards += [(query.question, (name,), wrote) for name in query.entities if chain]
    if url:
        value = _judged.graded("search_gen_v", NUGGET, _judged.sitting(url, model, cache, key_env), cards, budget)
    else:
        value = [max(_support(text, fact) for fact in facts) for _, facts, text in cards]
    weight_R = np.array([1.0] + [chain for _ in query.entities if chain])
    return Scores(np.reshape(value, (len(episodes), len(weight_R))) @ weight_R / weight_R.sum(), right_G)


def _support(text: str, fact: str) -> float:
    if not answers.proving([fact]):
        return answers.exact_match(text, [fact])
    words, wanted = (answers.normalise(part).split() for part in (text, fact))
    if not wanted or not {*words} & {*wanted}:
        return 0.0
    return 1.0 if f" {' '.join(wanted)} " in f" {' '.join(words)} " else 0.5
