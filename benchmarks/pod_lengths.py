"""Environment: episodes as long as those of episode_lengths.json, whatever the model writes; for shapes.py alone."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

from qr_jax.records import Query, Say, Search, Stop, Turn

LENGTHS = json.loads(Path(__file__).with_name("episode_lengths.json").read_text(encoding="utf-8"))["lengths"]
PROMPT, OBSERVED = 128, 160  # words of a prompt and of an observation, as those episodes have them
STOP = ("w",)  # an untrained model writes it after some twenty words


def pod_lengths(query: Query, turns: Sequence[Turn]) -> Say | Search | Stop:
    """Search until as many words stand there as one of the episodes had tokens, then stop.

    Which one follows from the query and from the first turn, so samples of a query differ. Needs a model whose tokens
    are words (two_layer's).
    """
    if not turns:
        return Say(padded(query.question, PROMPT), "user", STOP)
    if turns[-1].author == "env":
        found = " ".join(passage.text for passages in turns[-1].passages for passage in passages)
        return Say(padded(found, OBSERVED), "tool", STOP)
    wanted = LENGTHS[zlib.crc32((query.id + turns[0].text).encode()) % len(LENGTHS)]
    written = PROMPT + sum(len(turn.text.split()) for turn in turns)
    return Stop("answered", "none") if written >= wanted - OBSERVED / 2 else Search((query.question,))


def padded(text: str, words: int) -> str:
    """The text's words, repeated up to that many."""
    own = text.split() or ["none"]
    return " ".join((own * (words // len(own) + 1))[:words])
