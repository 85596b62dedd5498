"""Limits on a file of rows: no honest file reaches them, and they keep a small file from filling the memory."""

from pathlib import Path

from qr_jax.errors import UserError

MOST_TEXT_CHARS = 5_000_000  # Wikipedia's longest articles have about 1 million, the longest novels 3 to 4
MOST_QUESTION_CHARS = 100_000  # of a question, and of each of its answers
MOST_ID_CHARS = 4000  # of an id of a question or passage; every row of an episode or draw repeats it
MOST_TEXT_FILES = 200_000  # of a folder
MOST_HOPS = 1000  # of a question
MOST_ROW_BYTES = 32_000_000  # of a line, and of a row of Parquet: the longest text, each character written as \u0416
MOST_ROW_ITEMS = 1_000_000  # commas, lists and objects of a line: each may become an object of Python's
ITEM_BYTES = 64  # what such an object takes beside its text

# Largest unpacked size of a file's rows, in multiples of the file. Prose unpacks to 3 to 10 times the file, repeating
# columns to up to 60 times, zeros to 1,000 times with gzip and without limit with a Parquet dictionary.
MOST_TIMES_PACKED = 200
ALWAYS_TAKEN_BYTES = 100_000_000  # however small the file is


class TooLarge(UserError):
    """More than the limits allow."""


def most_bytes(file: Path) -> int:
    """Return how many bytes all rows of the file may take unpacked."""
    return max(ALWAYS_TAKEN_BYTES, MOST_TIMES_PACKED * file.stat().st_size)


def check_unpacked(file: Path, unpacked_bytes: int, most: int, place: str) -> None:
    """Raise TooLarge if the bytes unpacked so far exceed `most`, the file's `most_bytes`."""
    if unpacked_bytes > most:
        told = f"a file of {file.stat().st_size:,} bytes unpacks to more than {most:,}, the most that are taken of it"
        todo = "such a file fills the memory; if you trust it, unpack it and give it as JSON lines without .gz"
        raise TooLarge(f"{file.name} {place}: {told}; {todo}")


def check_row(file: Path, size_bytes: int, place: str) -> None:
    """Raise TooLarge if the row has more than MOST_ROW_BYTES bytes."""
    if size_bytes > MOST_ROW_BYTES:
        told = f"the row has more than {MOST_ROW_BYTES:,} bytes, the most that are taken"
        raise TooLarge(f"{file.name} {place}: {told}; a row is one question or one passage: cut it into several")


def check_text(text: str, most_chars: int, name: str) -> None:
    """Raise TooLarge if the text has more than `most_chars` characters."""
    if len(text) > most_chars:
        raise TooLarge(f"{name} has {len(text):,} characters; at most {most_chars:,} are taken: cut it, or split it")
