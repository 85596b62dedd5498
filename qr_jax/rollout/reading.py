"""Guards of an environment's text: the tokenizer must read no tag in it that the environment did not write.

`dialect.neutralise` knows compatibility normalisation (NFKC); a tokenizer may also strip accents, drop control
characters, fold letters or replace texts, and a tag may appear only then. So the ids are decoded and looked at.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from qr_jax import dialect
from qr_jax.errors import UserError
from qr_jax.models.tokenizer import Tokenizer
from qr_jax.records import Query, Say, Search, Stop, Turn

AGAIN = 3  # times a text is read and made inert before it is given up


def tags_of(env: Callable[..., Any]) -> tuple[str, ...]:
    """Return the tags beside dialect.NAMES that the environment's file declares (TAGS)."""
    while inside := env.func if isinstance(env, functools.partial) else getattr(env, "__wrapped__", None):
        env = inside
    return tuple(getattr(env, "__globals__", {}).get("TAGS", ()))


def unthinking(env: Callable[..., Any]) -> Callable[[Query, Sequence[Turn]], Say | Search | Stop]:
    """Wrap the environment so that it sees thoughts as empty: a tag drafted in one has no effect."""

    def move(query: Query, turns: Sequence[Turn]) -> Say | Search | Stop:
        return env(query, tuple(_unthinking(turn) if turn.author == "model" else turn for turn in turns))

    return move


def _unthinking(turn: Turn) -> Turn:
    text = dialect.without_thoughts(turn.text)
    return turn if text == turn.text else replace(turn, text=text)


def opens(text: str, seen: str, tags: tuple[str, ...] = ()) -> bool:
    """Return True if `seen`, the decoded ids of `text`, has a tag or control sign more often than the text.

    Case does not matter: a tag that the environment wrote in capitals may be read in small letters.
    """
    return seen != text and bool(_signs(seen, tags) - _signs(text, tags))


def _signs(text: str, tags: tuple[str, ...]) -> Counter[str]:
    """Count each tag and each sign of a control token in the text."""
    after = text.split("<")[1:]  # a pattern that ignores case is slow to find its own beginning
    tags_read = [match[0].lower() for part in after if (match := _after_less(tags).match(part))]
    return Counter([*tags_read, *["|>"] * text.count("|>")])


@functools.cache
def _after_less(tags: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"{dialect.any_tag(tags).pattern.removeprefix('<')}|\|", re.IGNORECASE)


def inert(tokenizer: Tokenizer, text: str, tags: tuple[str, ...] = ()) -> str:
    """Return the text neutralised so far that no tag appears in it as the tokenizer reads it.

    ValueError if a tag appears again each of AGAIN times: the tokenizer makes tags of other text.
    """
    for _ in range(AGAIN):
        text = dialect.neutralise(text, tags)
        seen = tokenizer.decode(tokenizer.encode_data(text))
        if dialect.neutralise(seen, tags) == seen:
            return text
        text = seen
    raise UserError(f"the tokenizer makes tags of the dialect of other text, in {dialect.neutralise(text)[:200]!r}")


def inert_turns(tokenizer: Tokenizer, turns: Sequence[Turn], tags: tuple[str, ...] = ()) -> list[Turn]:
    """Make the last turn's passages inert to the tokenizer."""
    *before, last = turns
    passages = tuple(
        tuple(
            replace(passage, title=inert(tokenizer, passage.title, tags), text=inert(tokenizer, passage.text, tags))
            for passage in row
        )
        for row in last.passages
    )
    return [*before, replace(last, passages=passages)]
