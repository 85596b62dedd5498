"""Texts of documents -> passages: cut at paragraphs, and where these are long at sentences."""

import re
from collections.abc import Iterable, Iterator

from qr_jax.records import Passage
from qr_jax.sets import html_text

ENDS = (".txt", ".md", ".markdown", *html_text.ENDS)
PASSAGE_WORDS = 100  # as the passages of wiki18 have
PARAGRAPH, SENTENCE = re.compile(r"\n\s*\n"), re.compile(r"(?<=[.!?])\s+")


def passages(text: str, *, name: str, title: str) -> list[Passage]:
    """Cut the text into passages of at most PASSAGE_WORDS words, with the id `name`, or NAME#1, NAME#2, ..."""
    made = list(_filled(_parts(text)))
    if len(made) == 1:
        return [Passage(name, title, made[0])]
    return [Passage(f"{name}#{number}", title, part) for number, part in enumerate(made, 1)]


def _parts(text: str) -> Iterator[str]:
    """Return paragraphs, each after a line's end; of longer ones the sentences, and of longer sentences parts."""
    for paragraph in PARAGRAPH.split(text):
        words = paragraph.split()
        parts = [words] if len(words) <= PASSAGE_WORDS else map(str.split, SENTENCE.split(" ".join(words)))
        before = "\n"
        for part in parts:
            for at in range(0, len(part), PASSAGE_WORDS):
                yield before + " ".join(part[at : at + PASSAGE_WORDS])
                before = " "


def _filled(parts: Iterable[str]) -> Iterator[str]:
    """Return the parts, as many together as PASSAGE_WORDS allows."""
    taken: list[str] = []
    words = 0
    for part in parts:
        count = len(part.split())
        if taken and words + count > PASSAGE_WORDS:
            yield "".join(taken).strip()
            taken, words = [], 0
        taken.append(part)
        words += count
    if taken:
        yield "".join(taken).strip()
