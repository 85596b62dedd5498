"""Passages for environments that play search_r1's moves in a dialect with tags of their own."""

from dataclasses import replace

from qr_jax.dialect import neutralise
from qr_jax.records import Turn


def inert(turn: Turn, tags: tuple[str, ...]) -> Turn:
    """Return the turn's passages without anything like those tags; search_r1 sees to the others."""
    ranked = tuple(
        tuple(replace(p, title=neutralise(p.title, tags), text=neutralise(p.text, tags)) for p in found)
        for found in turn.passages
    )
    return replace(turn, passages=ranked)
