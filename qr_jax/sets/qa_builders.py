"""The official question sets as TFDS data sets: their files -> ArrayRecord, read at random places.

Importing this file imports tensorflow_datasets (and so jax); what only names a set imports `official.py`.
"""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from qr_jax.answers import normalise
from qr_jax.config import SET_PREFIX
from qr_jax.data.parsing import query_of
from qr_jax.errors import UserError
from qr_jax.records import Passage, Query
from qr_jax.search.build_aside import alone
from qr_jax.sets import official
from qr_jax.sets.fetch import Found, fetch, own, record
from qr_jax.sets.rows_builder import RowsBuilder, Source, text, texts, written_once

LISTS = ("answers", "entities", "supporting_titles", "supporting_texts", "context_titles", "context_texts")
TEXTS = ("id", "question", "dataset", "split", "type", "level")
log = logging.getLogger(__name__)


class QABuilder(RowsBuilder):
    """One set a TFDS config, in one schema."""

    name = "qa"
    VERSION = tfds.core.Version(official.VERSION)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name.replace("/", "_")) for name in official.SETS]


def features() -> dict[str, Any]:
    """Return the one schema: texts, lists of texts, hops (0 where the set does not say)."""
    lists = {name: texts() for name in LISTS}
    return {name: tfds.features.Text() for name in TEXTS} | lists | {"hops": tfds.features.Scalar(np.int64)}


def examples(name: str, split: str, file: Path) -> Iterator[dict[str, Any]]:
    """Yield a split's examples. A question whose golds all normalise to nothing could never be scored: left out."""
    left_out = []
    for row in official.read(file, official.SETS[name], split, name):
        golds = [answer for answer in row["answers"] if normalise(answer)]
        if golds:
            yield encode(row | {"answers": golds})
        else:
            left_out.append(row["id"])
    if left_out:
        log.warning("%s %s: %d questions left out, whose golds normalise to nothing: %s", name, split,
                    len(left_out), left_out)  # fmt: skip


def encode(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parsed row as a TFDS example."""
    context = row.get("context", ())
    made = dict(row) | {"context_titles": [one for one, _ in context], "context_texts": [one for _, one in context]}
    found = {name: made.get(name, "") for name in TEXTS} | {name: list(made.get(name, ())) for name in LISTS}
    return found | {"hops": made.get("hops", 0)}


def decode(example: Mapping[str, Any]) -> Query:
    """Return a query; its meta lacks what the set does not say, and the context (`contexts` gives that)."""
    row: dict[str, Any] = {name: text(example[name]) for name in TEXTS} | {"hops": int(example["hops"])}
    row |= {name: [text(value) for value in example[name]] for name in LISTS if not name.startswith("context")}
    return query_of({name: value for name, value in row.items() if value or name == "answers"})


def contexts(*sources: Source[Query]) -> Iterator[Passage]:
    """Yield the paragraphs that a set gives beside its questions, each once, in their order: a closed corpus."""
    seen: set[tuple[str, str]] = set()
    for example in itertools.chain.from_iterable(source.examples for source in sources):
        pairs = zip(map(text, example["context_titles"]), map(text, example["context_texts"]), strict=True)
        for title, body in pairs:
            if body and (title, body) not in seen:
                seen.add((title, body))
                yield Passage(str(len(seen) - 1), title, body)


def open_set(
    name: str, folder: str | Path, *, manual_dir: str | Path | None = None, splits: Sequence[str] = ()
) -> dict[str, Source[Query]]:
    """Open the splits of a set (all that have answers, or those named), built in `folder` first when they are missing.

    Its official files are read from the user's `manual_dir`, or fetched from the hub. ValueError names the file that
    cannot be had, is not the official one (by SHA-256) or not the one that the split was built from, or whose row lacks
    a field.
    """
    found = official.find(name)
    wanted = tuple(splits) or tuple(found.splits)
    for split in wanted:
        if split not in found.splits:
            raise UserError(f"{name} has no split {split!r} with answers; it has: {', '.join(found.splits)}")
    opened = {}
    for split in wanted:
        place = _built(name, split, Path(folder), None if manual_dir is None else Path(manual_dir))
        written: Any = QABuilder(name.replace("/", "_"), features(), place)
        opened[split] = Source(written.as_data_source(split), decode)
    return opened


def _built(name: str, split: str, root: Path, manual_dir: Path | None) -> Path:
    """Return a split's folder under `root`, built unless it was already, by this version and of this file."""
    place, version = official.place(root, name, split), str(QABuilder.VERSION)
    if manual_dir is None and official.source(place).get("version") == version:
        return place
    with alone(root):  # of two with other files the second is refused, by what the first one's records
        file = _file(name, split, manual_dir)
        known, wanted = official.source(place), file.source() | {"version": version}
        if known.get("sha256", file.sha256) != file.sha256:
            other = (
                f"its SHA-256 is {file.sha256}, and {known['sha256']} is wanted (recorded in {place / official.SOURCE})"
            )
            todo = f"if it is cut short or altered, get it again; if it is the one that is meant, remove {place}"
            raise UserError(f"{file.path} is not the file that {name} {split} was built from: {other}; {todo}")
        if known.get("version") != version:

            def fill(unfinished: Path) -> None:
                _prepare(name, split, file.path, unfinished)
                record(unfinished, wanted)

            todo = "start the command in a folder of your own, where sets are built"
            written_once(place, fill, is_stale=lambda: official.source(place).get("version") != version, todo=todo)
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


def _prepare(name: str, split: str, file: Path, folder: Path) -> None:
    """Write one split; UserError names the file."""
    try:
        QABuilder(name.replace("/", "_"), features(), folder, {split: examples(name, split, file)}).write()
    except ValueError as error:
        raise UserError(f"{error}; it was read from {file}: if that is damaged, remove it and get it again") from error


def read(setting: str) -> Source[Query]:
    """Read the questions that `tfds:NAME[:SPLIT][@FOLDER]` means, built under runs/questions where they are missing.

    Without a split it is train, or, where the set has none, its only one. FOLDER holds the official files, for who has
    them already; what was built stays, and is read without FOLDER too.
    """
    name, split, manual_dir = official.parts(setting)
    chosen = split or next(iter(official.find(name).splits))
    return open_set(name, official.BUILT, manual_dir=manual_dir, splits=(chosen,))[chosen]


def read_contexts(setting: str) -> list[Passage]:
    """Read the passages that the set carries beside its questions: those of the split, or of all that have answers.

    ValueError: it carries none.
    """
    name, split, manual_dir = official.parts(setting)
    opened = open_set(name, official.BUILT, manual_dir=manual_dir, splits=(split,) if split else ())
    found = list(contexts(*opened.values()))
    if not found:
        wanted = "hotpotqa, 2wiki and musique do; for others name files of passages, as of `qr-jax data get wiki18`"
        raise UserError(f"the set {name} carries no passages; {wanted}")
    return found
