"""Reward: a right answer is worth more when the chain of facts that leads to it stands in what was read (CaRR)."""

from collections.abc import Sequence
from itertools import takewhile

import numpy as np

from qr_jax import answers
from qr_jax.methods.rewards import _format, _judged
from qr_jax.records import Episode, Query, Scores

ENDPOINT = ("url", "key_env", "budget")
FACT = _judged.prompt(
    "Do the `passages` state a fact that links the two `names` and helps to answer the `question`?",
    by="names", text="passages", words=("not supported", "supported"),
)  # fmt: skip


def carr(
    query: Query,
    episodes: Sequence[Episode],
    *,
    alpha: float = 0.3,  # the weight of the rubrics
    url: str = "",  # of an OpenAI-compatible endpoint that judges; empty: the stand-in
    model: str = "",  # its name there
    cache: str = "runs/verdicts.jsonl",  # the file of verdicts, shared by runs
    budget: int = 100_000,  # verdicts in it, at most
    key_env: str = "QR_JAX_JUDGE_KEY",  # the environment variable with its key
) -> Scores:
    """Return for a right answer 1 - alpha + alpha R_i / max_j R_j, R the share of the rubrics that lead to the answer.
    Wrong: 0.

    exact: the paper's mixing rule, C-GRPO (CaRR: arXiv:2601.06021; alpha .3 of THUDM/CaRR, which by its published
    settings leaves R_i undivided). Deviation: the best R is that of
    the right episodes, where theirs is the group's. The paper's judge finds the rubrics (facts with named
    entities) met and supported, and counts those that lead to the answer; here they are
    `query.entities`, the chain of names
    that an expert passes, the last next to the answer. A name counts if a turn of the model names it, the passages read
    support it, and so for all names after it. With `url` a judge says whether the passages link it to the next
    name; a right episode without that verdict is a fault. Stand-in, rule-based: a passage holds it. All-right groups
    bear signal on the channel "reward"; the outcome is exact match.
    """
    right_G = np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes])
    names = (*query.entities, *query.answers[:1])
    cards, held = [], []
    for episode, right in zip(episodes, right_G, strict=True):
        pairs = _format.rounds(episode)
        said, read = (answers.normalise(" ".join(texts)) for texts in zip(*pairs, strict=True)) if pairs else ("", "")
        whole = " ".join(passages for _, passages in pairs)
        for at, name in enumerate(query.entities):
            word = f" {answers.normalise(name)} "
            named = right and word in f" {said} "
            cards.append((query.question, names[at : at + 2], whole if named else ""))
            held.append(float(named and word in f" {read} "))
    if url:
        held = _judged.graded("carr", FACT, _judged.sitting(url, model, cache, key_env), cards, budget)
    held_GE = np.reshape(held, (len(episodes), len(query.entities)))
    share_G = np.array([sum(takewhile(bool, row[::-1])) for row in held_GE]) / max(len(query.entities), 1)
    best = np.fmax.reduce(share_G, initial=0.0)
    return Scores(right_G * (1 - alpha + (alpha * share_G / best if best else 0.0 * share_G)), right_G)
