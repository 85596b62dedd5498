"""The world as a TFDS data set: built once into ArrayRecord files, read at random places.

Importing this file imports tensorflow_datasets (and so jax); what only plans to read a world imports `generate.py`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from qr_jax.data.world.generate import World, WorldSettings, build, settings_hash
from qr_jax.records import Passage, Query, Trace
from qr_jax.sets import formats
from qr_jax.sets.rows_builder import RowsBuilder, Source, text, texts, written_once

SPLITS = {"documents": ("documents",), "questions": ("train", "dev", "test"), "traces": ("traces",)}  # a TFDS config's
LISTS = ("answers", "entities", "supporting", "relations")


class WorldBuilder(RowsBuilder):
    """One world, in the TFDS configs documents, questions (train, dev, test) and traces."""

    name = "world"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in SPLITS]


def features(config: str) -> dict[str, Any]:
    """Return the TFDS features of one config: the columns of the JSONL files that formats.export writes."""
    one = tfds.features.Text
    if config == "documents":
        return {"id": one(), "title": one(), "text": one()}
    question = {"id": one(), "question": one(), "kind": one(), "hops": tfds.features.Scalar(np.int64)}
    question |= {name: texts() for name in LISTS}
    question |= {"phrasings": tfds.features.Sequence(tfds.features.Scalar(np.int64))}
    return question | {"turns": texts()} if config == "traces" else question


def encode(item: Passage | Query | Trace) -> dict[str, Any]:
    """Return an item of the world as a TFDS example."""
    return formats.trace_row(item) if isinstance(item, Trace) else formats.row_of(item)


def decode_passage(example: Mapping[str, Any]) -> Passage:
    return Passage(text(example["id"]), text(example["title"]), text(example["text"]))


def decode_query(example: Mapping[str, Any]) -> Query:
    lists = {name: [text(value) for value in example[name]] for name in LISTS}
    answers, entities = tuple(lists.pop("answers")), tuple(lists.pop("entities"))
    meta = {"hops": int(example["hops"]), "kind": text(example["kind"]), **lists}
    meta |= {"phrasings": [int(value) for value in example["phrasings"]]}
    return Query(text(example["id"]), text(example["question"]), answers, entities, meta)


def decode_trace(example: Mapping[str, Any]) -> Trace:
    return Trace(decode_query(example), tuple(text(value) for value in example["turns"]))


DECODERS: Mapping[str, Callable] = {"documents": decode_passage, "questions": decode_query, "traces": decode_trace}


@dataclass(frozen=True)
class Sources:
    """The splits of a built world."""

    documents: Source[Passage]
    train: Source[Query]
    dev: Source[Query]
    test: Source[Query]
    traces: Source[Trace]


def open_world(settings: WorldSettings, folder: str | Path) -> Sources:
    """Open the world of these settings in `folder`, built there first when it is missing.

    It lies in `folder`/<hash of the settings>. It is written beside that place and moved there when it is whole, so a
    build that was killed is never read, and of two processes that build one world at once the first one's stays.
    """
    place = Path(folder) / settings_hash(settings)
    if not place.is_dir():
        write_world(settings, place)
    found = {}
    for config, splits in SPLITS.items():
        builder: Any = WorldBuilder(config, features(config), place)
        for split in splits:
            written = split in (builder.info.splits or ())  # a split without rows is not
            found[split] = Source(builder.as_data_source(split) if written else (), DECODERS[config])
    return Sources(**found)


def prepare(world: World, config: str, folder: Path) -> None:
    """Write the splits of one TFDS config that have rows; TFDS refuses empty ones."""
    rows: dict[str, Sequence] = {split: found for split in SPLITS[config] if (found := getattr(world, split))}
    if rows:
        encoded = {split: map(encode, found) for split, found in rows.items()}
        WorldBuilder(config, features(config), folder, encoded).write()


def write_world(settings: WorldSettings, place: Path) -> None:
    """Build the world and write all its splits, then give the finished folder its name."""
    world = build(settings)

    def fill(unfinished: Path) -> None:
        for config in SPLITS:
            prepare(world, config, unfinished)
        (unfinished / "settings.json").write_text(json.dumps(asdict(settings), indent=2) + "\n")

    written_once(place, fill, todo="give data.world_path a folder of your own")
