"""An environment from outside the package: tool_call, for a model that has learned nothing: its turns are of one word.

A first turn without an action searches the question, and is read as a call; a later one without an answer is an answer.
"""

from dataclasses import replace

from qr_jax.methods.envs.tool_call import expert_turn, tool_call
from qr_jax.records import Say, Search, Stop

PARALLEL = 3


def guessing(query, turns, *, max_turns: int = 6, max_queries: int = 3, passage: str = "Doc {i}: {text}\n"):
    if turns[1:]:
        turns = (replace(turns[0], text=expert_turn("", turns[1].queries)), *turns[1:])
    move = tool_call(query, turns, max_turns=max_turns, max_queries=max_queries, passage=passage)
    if isinstance(move, Say) and (not turns or turns[-1].author == "env"):
        return replace(move, stop=(*move.stop, " "))
    if isinstance(move, Search | Stop):
        return move
    return Search((query.question,)) if len(turns) == 1 else Stop("answered", turns[-1].text.strip())
