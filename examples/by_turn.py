"""Reward: exact match, and for each of the model's turns but the last, .1 where its search brought a gold answer."""

import numpy as np

from qr_jax.answers import exact_match
from qr_jax.records import Episode, Passage, Query, Scores, Turn

MAX_TURNS = 8  # most episodes have no more


def by_turn(query, episodes, *, bonus: float = 0.1):
    right_G = [exact_match(episode.answer, query.answers) for episode in episodes]
    return Scores(right_G, right_G, [turns_of(query, episode, bonus) for episode in episodes])


def turns_of(query, episode, bonus):
    shown = [[p.text for ranked in turn.passages for p in ranked] for turn in episode.turns if turn.author == "env"]
    helped = [any(gold in text for text in texts for gold in query.answers) for texts in shown]
    return [bonus * one for one in (helped + [False] * episode.model_turns)[: episode.model_turns]]


told = Turn("env", "...", queries=("capital of Norway",), passages=((Passage("1", "Oslo", "Oslo is its capital."),),))
turns = (Turn("model", "<search> capital of Norway </search>"), told, Turn("model", "<answer> Oslo </answer>"))
turn_L = np.array([0, 0, -1, -1, 1, 1])  # the model's turns from 0; -1 on what it was shown
episode = Episode(
    Query("q", "?", ("Oslo",)), 0, 0, turn_L, turn_L >= 0, turn_L * 0.0, turn_L, turns, "Oslo", "answered", True
)
assert by_turn(episode.query, [episode]).turn_GT == [[0.1, 0.0]]
