"""The official question sets: their files, read once and kept as JSON lines, questions and the passages beside them."""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qr_jax.answers import normalise
from qr_jax.config import SET_PREFIX
from qr_jax.data import parsing, readers
from qr_jax.errors import UserError
from qr_jax.records import Passage, Query
from qr_jax.search.build_aside import alone
from qr_jax.sets import formats, official
from qr_jax.sets.fetch import Found, fetch, own, record

QUESTIONS, PASSAGES = "questions.jsonl.gz", "passages.jsonl.gz"
log = logging.getLogger(__name__)


def read(setting: str) -> list[Query]:
    """Read the questions that `tfds:NAME[:SPLIT][@FOLDER]` means, built under runs/questions where they are missing.

    Without a split it is train, or, where the set has none, its only one. FOLDER holds the official files, for who has
    them already; what was built stays, and is read without FOLDER too.
    """
    name, split, manual_dir = official.parts(setting)
    chosen = split or next(iter(official.find(name).splits))
    return questions(built(name, chosen, official.BUILT, manual_dir))


def read_contexts(setting: str) -> list[Passage]:
    """Read the passages that the set carries beside its questions: those of the split, or of all that have answers.

    ValueError: it carries none.
    """
    name, split, manual_dir = official.parts(setting)
    splits = (split,) if split else official.find(name).splits
    found = contexts([built(name, one, official.BUILT, manual_dir) for one in splits])
    if not found:
        wanted = "hotpotqa, 2wiki and musique do; for others name files of passages, as of `qr-jax data get wiki18`"
        raise UserError(f"the set {name} carries no passages; {wanted}")
    return found


def questions(place: Path) -> list[Query]:
    """Read the questions of a built split."""
    return [parsing.query_of(row) for _, row in readers.rows(place / QUESTIONS)]


def contexts(places: Sequence[Path]) -> list[Passage]:
    """Read the paragraphs beside the questions of built splits, each once, in their order: a closed corpus."""
    rows = (row for place in places for _, row in readers.rows(place / PASSAGES))
    pairs = dict.fromkeys((row["title"], row["text"]) for row in rows)
    return [Passage(str(at), title, text) for at, (title, text) in enumerate(pairs)]


def built(name: str, split: str, folder: str | Path, manual_dir: str | Path | None = None) -> Path:
    """Return a split's folder under `folder`, built unless it was already, by this version and of this file.

    Its official file is read from the user's `manual_dir`, or fetched from the hub. ValueError names the file that
    cannot be had, is not the official one (by SHA-256) or not the one that the split was built from, or whose row lacks
    a field.
    """
    root, place = Path(folder), official.place(folder, name, split)
    if manual_dir is None and official.source(place).get("version") == official.VERSION:
        return place
    with alone(root):  # of two with other files the second is refused, by what the first one's records
        file = _file(name, split, None if manual_dir is None else Path(manual_dir))
        known, wanted = official.source(place), file.source() | {"version": official.VERSION}
        if known.get("sha256", file.sha256) != file.sha256:
            other = f"its SHA-256 is {file.sha256}, and {known['sha256']} is wanted"
            other += f" (recorded in {place / official.SOURCE})"
            todo = f"if it is cut short or altered, get it again; if it is the one that is meant, remove {place}"
            raise UserError(f"{file.path} is not the file that {name} {split} was built from: {other}; {todo}")
        if known.get("version") != official.VERSION:
            shutil.rmtree(place, ignore_errors=True)  # of another version, or what a killed build left
            place.mkdir(parents=True)
            _write(name, split, file.path, place)
            record(place, wanted)  # the last: without it the split is built anew
    return place


def _file(name: str, split: str, manual_dir: Path | None) -> Found:
    """Find the official file of a split: the user's, or the hub's."""
    if manual_dir is not None:
        if not manual_dir.is_dir():
            raise UserError(f"there is no folder {manual_dir}; name the one that the files of {name} are in")
        return own(official.SETS[name].splits[split], manual_dir)
    if name not in official.HUB:
        reads = f"{SET_PREFIX}{name}@FOLDER the folder that they are in"
        raise UserError(f"{official.published(name)}, and {reads}")
    of_hub = official.HUB[name]
    log.info("fetching %s of %s from the hub", of_hub.file, of_hub.repo)
    return fetch(of_hub.repo, of_hub.file, of_hub.revision)


def _write(name: str, split: str, file: Path, place: Path) -> None:
    """Write a split's questions and passages; UserError names the official file."""
    pairs: dict[tuple[str, str], None] = {}
    try:
        formats.write_lines(place / QUESTIONS, _rows(name, split, file, pairs))
    except ValueError as error:
        raise UserError(f"{error}; it was read from {file}: if that is damaged, remove it and get it again") from error
    formats.write_lines(place / PASSAGES, ({"title": title, "text": text} for title, text in pairs))


def _rows(name: str, split: str, file: Path, pairs: dict[tuple[str, str], None]) -> Iterator[Mapping[str, Any]]:
    """Yield the questions, and put the passages beside them into `pairs`.

    A question whose golds all normalise to nothing could never be scored: it is left out.
    """
    left_out = []
    for row in official.read(file, official.SETS[name], split, name):
        pairs |= dict.fromkeys(pair for pair in row.pop("context", ()) if pair[1])
        golds = [answer for answer in row["answers"] if normalise(answer)]
        if golds:
            yield {column: value for column, value in row.items() if value} | {"answers": golds}
        else:
            left_out.append(row["id"])
    if left_out:
        told = "%s %s: %d questions left out, whose golds normalise to nothing: %s"
        log.warning(told, name, split, len(left_out), left_out)
