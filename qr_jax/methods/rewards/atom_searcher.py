"""Reward: F1 mixed with what the thoughts on the way are worth; their weight falls to nothing (Atom-Searcher)."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers
from qr_jax.errors import UserError
from qr_jax.methods.rewards import _judged
from qr_jax.records import Episode, Query, Scores
from qr_jax.rewards import _format

ENDPOINT = ("url", "key_env", "budget")
EXAMPLE = {"steps": 100}
THOUGHT = _judged.prompt(
    "The `step` is one of a search for the answer. Does it bring one nearer to one of the `correct_answers`?",
    by="correct_answers", text="step", words=("no", "partly", "yes"),
)  # fmt: skip


def atom_searcher(
    query: Query,
    episodes: Sequence[Episode],
    *,
    steps: int,  # of the run (train.steps), over which the weight falls to 0
    first: float = 0.5,  # the weight of the thoughts at the first step
    url: str = "",  # of an OpenAI-compatible endpoint that judges; empty: the stand-in
    model: str = "",  # its name there
    cache: str = "runs/verdicts.jsonl",  # the file of verdicts, shared by runs
    budget: int = 100_000,  # verdicts in it, at most
    key_env: str = "QR_JAX_JUDGE_KEY",  # the environment variable with its key
) -> Scores:
    """a T_i + (1 - a) F1_i, a = first (1 - t / steps)_+ at step t; -1 for a bad format. The outcome is exact match.

    after the abstract: Atom-Searcher (arXiv:2508.12800) adds atomic thought rewards whose weight decays; the linear
    decay from .5 and the -1 are remembered, not read. With `url` a judge, told the golds, grades each of the model's
    turns with what it brought 0, 1/2 or 1, and T_i is the mean; what the paper's reward model is told was not read. A
    turn without a grade makes the episode a fault, unless a is 0. Stand-in, rule-based: T_i is the share of the
    episode's searches that were the first to bring a gold answer or one of `query.entities`.
    """
    if steps < 1 or not 0 <= first <= 1:
        raise UserError(f"atom_searcher has steps={steps} and first={first}; wanted 1 or more, and a first in [0, 1]")
    right_G = np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes])
    weight_G = first * np.maximum(1 - np.array([episode.step for episode in episodes]) / steps, 0)
    f1_G = np.array([answers.f1(episode.answer, query.answers) for episode in episodes])
    formed_G = np.array([_format.well_formed(episode) for episode in episodes], bool)
    if url:
        bench, counts_G = _judged.Bench(url, model, cache, key_env), formed_G & (weight_G > 0)
        parts = [_format.rounds(episode) if counts else [] for episode, counts in zip(episodes, counts_G, strict=True)]
        cards = [(query.question, query.answers, " ".join(pair)) for pairs in parts for pair in pairs]
        grades = iter(_judged.graded("atom_searcher", THOUGHT, bench, cards, budget))
        thought_G = np.array([np.mean([next(grades) for _ in pairs]) if pairs else 0.0 for pairs in parts])
    else:
        thought_G = np.array([_useful(query, episode) for episode in episodes])
    return Scores(np.where(formed_G, weight_G * thought_G + (1 - weight_G) * f1_G, -1.0), right_G)


def _useful(query: Query, episode: Episode) -> float:
    """The share of the searches that brought a name for the first time; 0 without searches."""
    names = (*query.entities, *answers.proving(query.answers))
    useful = _format.first_named(names, _format.brought(episode))
    return float(np.mean(np.array(useful) > 0)) if useful else 0.0
