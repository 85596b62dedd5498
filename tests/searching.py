"""An environment from outside the package: search_r1, but a first turn without an action searches the question.

So a model that has learned nothing searches. With `short` its first turn ends with the first word, and before the
tokens of a turn do: every episode searches.
"""

from dataclasses import replace

from qr_jax.envs.search_r1 import expert_turn as expert_turn
from qr_jax.envs.search_r1 import search_r1
from qr_jax.records import Say, Search


def searching(query, turns, *, max_turns: int = 4, short: bool = False):
    move = search_r1(query, turns, max_turns=max_turns, max_invalid=1)
    if short and not turns and isinstance(move, Say):
        return replace(move, stop=(*move.stop, " "))
    first = len(turns) == 1 and turns[0].author == "model"
    return Search((query.question,)) if first and not isinstance(move, Search) else move
