"""Texts of documents -> passages: cut at paragraphs, and where these are long at sentences."""

import re
from collections.abc import Iterable, Iterator

from qr_jax.data import characters
from qr_jax.records import Passage
from qr_jax.sets import html_text

ENDS = (".txt", ".md", ".markdown", *html_text.ENDS)
PASSAGE_WORDS = 100  # as the passages of wiki18 have
PARAGRAPH, SENTENCE = re.compile(r"\n\s*\n"), re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")


def passages(text: str, *, name: str, title: str) -> list[Passage]:
    """Cut the text into passages of at most PASSAGE_WORDS words, with the id `name`, or NAME#1, NAME#2, ...

    A character of a script without blanks, as Chinese, counts as a word.
    """
    made = list(_filled(_parts(text)))
    if len(made) == 1:
        return [Passage(name, title, made[0])]
    return [Passage(f"{name}#{number}", title, part) for number, part in enumerate(made, 1)]


def _parts(text: str) -> Iterator[str]:
    """Return paragraphs, each after a line's end; of longer ones the sentences, and of longer sentences parts."""
    for paragraph in PARAGRAPH.split(text):
        line, before = " ".join(paragraph.split()), "\n"
        for sentence in [line] if len(_words(line)) <= PASSAGE_WORDS else SENTENCE.split(line):
            words = _words(sentence)
            for at in range(0, len(words), PASSAGE_WORDS):
                part = "".join(words[at : at + PASSAGE_WORDS]).strip()
                yield part if before == " " and characters.is_unspaced(part[0]) else before + part
                before = " "


def _words(line: str) -> list[str]:
    """Return the words and the characters of scripts without blanks, each with the blanks before it."""
    if line.isascii():
        return re.findall(r"\s*\S+", line)
    alone = characters.unspaced_character().pattern
    return re.findall(rf"\s*(?:{alone}|(?:(?!{alone})\S)+)", line)


def _filled(parts: Iterable[str]) -> Iterator[str]:
    """Return the parts, as many together as PASSAGE_WORDS allows."""
    taken: list[str] = []
    words = 0
    for part in parts:
        count = len(_words(part))
        if taken and words + count > PASSAGE_WORDS:
            yield "".join(taken).strip()
            taken, words = [], 0
        taken.append(part)
        words += count
    if taken:
        yield "".join(taken).strip()
