"""Check an episode's format against its dialect, and read what its searches brought; from the turns alone."""

import re
from collections.abc import Iterable, Sequence

from qr_jax import answers, dialect
from qr_jax.methods.envs import ada_search, reseek
from qr_jax.records import Episode, Passage, Query

ACTS = {"search", "answer", "tool_call"}
FURTHER = (*ada_search.TAGS, *reseek.TAGS)  # tags that are no acts
BLOCK = re.compile(rf"<({'|'.join(sorted({*ACTS, *FURTHER}))}|think)>.*?</\1>", re.DOTALL)


def well_formed(episode: Episode, *, think: bool = False) -> bool:
    """Return True if the episode ends with an answer, and each model turn has acts of one kind and thoughts only.

    `think`: a turn must open with a thought. A thought that the chat template opened counts as one.
    """
    return episode.stop == "answered" and all(
        _turn_is_well_formed(turn.text, think) for turn in episode.turns if turn.author == "model"
    )


def _turn_is_well_formed(text: str, think: bool) -> bool:
    first = dialect.THINK_TAG.search(text)
    if first and first[0] == "</think>":
        text = f"<think>{text}"
    blocks, whole = dialect.read(text, FURTHER)
    kinds = {block.name for block in blocks} - {*FURTHER}
    opens = not think or text.lstrip().startswith("<think>")
    return whole and opens and len(kinds) == 1 and kinds <= ACTS and not BLOCK.sub("", text).strip()


def searches(episode: Episode) -> int:
    """Return the number of queries that the episode ran."""
    return sum(len(turn.queries) for turn in episode.turns)


def brought(episode: Episode) -> list[str]:
    """Return the normalised text of each search's passages, titles included, in order."""
    return [answers.normalise(shown(passages)) for turn in episode.turns for passages in turn.passages]


def brings_gold(episode: Episode, query: Query) -> bool:
    """Return True if a gold answer that is no yes, no or single character is in the passages (`answers.first_in`)."""
    texts = [shown(passages) for turn in episode.turns for passages in turn.passages]
    return answers.first_in(" ".join(texts), query.answers) is not None


def rounds(episode: Episode) -> list[tuple[str, str]]:
    """Return each model turn with the passages that it brought, titles included, as they stand; "" for none."""
    pairs: list[tuple[str, str]] = []
    for turn in episode.turns:
        if turn.author == "model":
            pairs.append((turn.text, ""))
        elif pairs:
            text, before = pairs[-1]
            pairs[-1] = (text, " ".join([before, *map(shown, turn.passages)]).strip())
    return pairs


def first_named(names: Iterable[str], texts: Iterable[str]) -> list[int]:
    """Return, for each normalised text, the number of names that it is the first to hold."""
    left = {normal for name in names if (normal := answers.normalise(name))}
    counts = []
    for text in texts:
        named = {name for name in left if answers.in_words(name) in answers.in_words(text)}
        left -= named
        counts.append(len(named))
    return counts


def shown(passages: Sequence[Passage]) -> str:
    """Return the passages as one text, titles included."""
    return " ".join(f"{passage.title} {passage.text}" for passage in passages)
