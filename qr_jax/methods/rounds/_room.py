"""The room that a batch has for a group, which rounds let grow."""

from qr_jax.errors import UserError


def check(rounds: str, size: int, room: int, grown: str) -> None:
    """Raise ValueError if a group may grow beyond its room, in episodes; `grown` says by which settings."""
    if size > room:
        raise UserError(f"{rounds} lets a group grow to {size} episodes: {grown}; there is room for {room}")
