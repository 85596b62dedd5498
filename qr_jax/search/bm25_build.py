"""Build a BM25 inverted index: for each word its passages and scores, in pieces, so that a large corpus fits.

Lu 2024 (arXiv:2407.03618): a word's share of a passage's score is known before any query, so it is stored, and a search
only adds. The shares are those of bm25s, and so is the form in which bm25_index.py keeps them. Written here because
bm25s indexes only a corpus that is whole in memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from qr_jax.errors import UserError
from qr_jax.search.words import words
from qr_jax.settings import json_text

Method = Literal["lucene", "robertson", "atire"]
# What `words` takes for a word. An index says by which rule it was built, and serves no other: count up with a change.
RULE = "3: Unicode's words, characters and pairs where a script has no blanks, C++, GTK+, C# and B♭ with their signs"
STOP_WORDS = Path(__file__).with_name("stop_words.json")  # language -> words
BLOCK_WORDS = 4_000_000  # words whose counts are sorted at once
RANGE = 4_000_000  # scores computed at once


@dataclass(frozen=True)
class Counted:
    """A corpus's word counts. A block, int32 [3, n], has rows word, place, count, sorted by word and then by place."""

    blocks: Sequence[np.ndarray]
    length_P: np.ndarray  # words of each passage
    word_at: dict[str, int]


class _Numbers(dict[str, int]):
    """A dict from word to number. A new word gets the next number; a stop word has -1."""

    def __init__(self, stopwords: Iterable[str]):
        super().__init__(dict.fromkeys(stopwords, -1))
        self._stopwords = len(self)

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self) - self._stopwords
        return number


def stop_words(language: str | None) -> Sequence[str]:
    """Return a language's stop words; [] for None. ValueError for a language that stop_words.json lacks."""
    if language is None:
        return []
    known = json_text.parse(STOP_WORDS.read_text(encoding="utf-8"))
    del known["source"]
    if language not in known:
        raise UserError(f"bm25 has no stop words {language!r}; wanted one of {', '.join(known)}, or null")
    return known[language].split()


def count(texts: Iterable[str], stopwords: Iterable[str], keep: Callable[[np.ndarray], np.ndarray]) -> Counted:
    """Count each word in each passage. `keep` stores each block and returns it, for instance as a memory map."""
    numbers, lengths, blocks = _Numbers(stopwords), [], []
    word_T: list[int] = []  # of the block that is being read
    size_P: list[int] = []

    def close() -> None:
        done = sum(map(len, lengths))
        block, length_P = _block(np.array(word_T, np.int32), np.array(size_P, np.int32), done)
        blocks.append(keep(block))
        lengths.append(length_P)

    for text in texts:
        in_text = words(text)
        word_T.extend(map(numbers.__getitem__, in_text))
        size_P.append(len(in_text))
        if len(word_T) >= BLOCK_WORDS:
            close()
            word_T, size_P = [], []
    if size_P:
        close()
    word_at = {word: number for word, number in numbers.items() if number >= 0}
    return Counted(blocks, np.concatenate(lengths) if lengths else np.zeros(0, np.int32), word_at)


def _block(word_T: np.ndarray, size_P: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the block of passages that begin at place `first`, and their lengths; stop words count in neither."""
    place_T = np.repeat(np.arange(len(size_P), dtype=np.int64), size_P)
    kept = word_T >= 0
    length_P = np.bincount(place_T[kept], minlength=len(size_P)).astype(np.int32)
    pair_I, count_I = np.unique((word_T[kept].astype(np.int64) << 32) | place_T[kept], return_counts=True)
    return np.stack([pair_I >> 32, (pair_I & 0xFFFFFFFF) + first, count_I]).astype(np.int32), length_P


def starts(counted: Counted) -> np.ndarray:
    """Return the start of each word's list, and the end of the last one, int64 [words + 1]."""
    in_passages_W = np.zeros(len(counted.word_at), np.int64)
    for block in counted.blocks:
        in_passages_W += np.bincount(block[0], minlength=len(in_passages_W))
    return np.concatenate([[0], np.cumsum(in_passages_W)])


def scores(
    counted: Counted, start_W: np.ndarray, *, method: Method, k1: float, b: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (scores float32, places int32) of all lists, by word and then by place, in pieces of about RANGE."""
    idf_W = _idf(np.diff(start_W), len(counted.length_P), method)
    mean = counted.length_P.mean() or 1.0
    # In all three the count saturates against k1, the more slowly the longer the passage is.
    slow_P = k1 * (1 - b + b * counted.length_P / mean)
    low, last = 0, len(start_W) - 1
    while low < last:
        high = max(low + 1, int(np.searchsorted(start_W, start_W[low] + RANGE, "right")) - 1)
        cuts = [np.searchsorted(block[0], (low, high)) for block in counted.blocks]
        joined = np.concatenate([block[:, a:z] for block, (a, z) in zip(counted.blocks, cuts, strict=True)], axis=1)
        word_I, place_I, count_I = joined[:, np.argsort(joined[0], kind="stable")]
        share_I = count_I / (slow_P[place_I] + count_I) * (k1 + 1 if method == "atire" else 1.0)
        yield (idf_W[word_I] * share_I).astype(np.float32), place_I
        low = high


def _idf(in_passages_W: np.ndarray, size: int, method: Method) -> np.ndarray:
    """Return the inverse document frequency of each word."""
    if method == "atire":
        return np.log(size / in_passages_W)
    odds_W = (size - in_passages_W + 0.5) / (in_passages_W + 0.5)
    return np.log1p(odds_W) if method == "lucene" else np.log(np.maximum(odds_W, 1.0))
