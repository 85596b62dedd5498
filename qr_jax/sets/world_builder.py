"""The world as a TFDS data set: built once into ArrayRecord files, read at random places, without TensorFlow.

Importing this file imports tensorflow_datasets (and so jax); what only plans to read a world imports `generate.py`.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, SupportsIndex, TypeVar

import numpy as np
import tensorflow_datasets as tfds

from qr_jax.data.world.generate import World, WorldSettings, build, settings_hash
from qr_jax.errors import UserError
from qr_jax.logging import terminal
from qr_jax.records import Passage, Query, Trace
from qr_jax.run import run_files
from qr_jax.sets import formats

T = TypeVar("T")
SPLITS = {"documents": ("documents",), "questions": ("train", "dev", "test"), "traces": ("traces",)}  # a TFDS config's
LISTS = ("answers", "entities", "supporting", "relations")


class WorldBuilder(tfds.core.GeneratorBasedBuilder):
    """One world, in the TFDS configs documents, questions (train, dev, test) and traces; `world` is what is written."""

    name = "world"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in SPLITS]

    def __init__(self, *, world: World | None = None, **settings: Any):
        self._world = world
        super().__init__(**settings)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="A synthetic knowledge world: facts, questions of one to four hops, expert searches.",
            features=tfds.features.FeaturesDict(features(config_name(self))),
            disable_shuffling=True,  # the order of the world is part of it
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        if self._world is None:
            raise UserError("a world is written by open_world(settings, folder), which builds it first")
        return {split: self._generate_examples(rows) for split, rows in filled(self._world, config_name(self)).items()}

    def _generate_examples(self, rows: Sequence) -> Iterator[tuple[int, dict]]:
        yield from enumerate(map(encode, rows))


def config_name(builder: tfds.core.DatasetBuilder) -> str:
    assert builder.builder_config is not None, "the builder has configs, so TFDS chose one"
    return builder.builder_config.name


def filled(world: World, config: str) -> dict[str, Sequence]:
    """The splits of one TFDS config that have rows; TFDS refuses empty ones."""
    return {split: rows for split in SPLITS[config] if (rows := getattr(world, split))}


def features(config: str) -> dict[str, Any]:
    """The TFDS features of one config: the columns of the JSONL files that world.export writes."""
    one, many = tfds.features.Text, lambda: tfds.features.Sequence(tfds.features.Text())
    if config == "documents":
        return {"id": one(), "title": one(), "text": one()}
    question = {"id": one(), "question": one(), "kind": one(), "hops": tfds.features.Scalar(np.int64)}
    question |= {name: many() for name in LISTS}
    question |= {"phrasings": tfds.features.Sequence(tfds.features.Scalar(np.int64))}
    return question | {"turns": many()} if config == "traces" else question


def encode(item: Passage | Query | Trace) -> dict[str, Any]:
    """An item of the world as a TFDS example."""
    return formats.trace_row(item) if isinstance(item, Trace) else formats.row_of(item)


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


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
class Source(Generic[T]):
    """A split read by index, as grain.MapDataset.source wants it: each example becomes a record when it is read."""

    examples: Sequence[Any]
    decode: Callable[[Mapping[str, Any]], T]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: SupportsIndex) -> T:
        at = int(index)
        if not -len(self) <= at < len(self):
            raise IndexError(f"index {at} of a split of {len(self)}")
        return self.decode(self.examples[at % len(self)])


@dataclass(frozen=True)
class Sources:
    """The splits of a built world."""

    documents: Source[Passage]
    train: Source[Query]
    dev: Source[Query]
    test: Source[Query]
    traces: Source[Trace]


def open_world(settings: WorldSettings, folder: str | Path) -> Sources:
    """The world of these settings from `folder`, built there first when it is missing.

    It lies in `folder`/<hash of the settings>. It is written beside that place and moved there when it is whole, so a
    build that was killed is never read, and of two processes that build one world at once the first one's stays.
    """
    place = Path(folder) / settings_hash(settings)
    if not place.is_dir():
        write_world(settings, place)
    found = {}
    for config, splits in SPLITS.items():
        builder: Any = WorldBuilder(config=config, data_dir=os.fspath(place), file_format="array_record")
        for split in splits:
            written = split in (builder.info.splits or ())  # a split without rows is not
            found[split] = Source(builder.as_data_source(split) if written else (), DECODERS[config])
    return Sources(**found)


def prepare(world: World, config: str, folder: Path) -> None:
    tfds.disable_progress_bar()
    builder = WorldBuilder(world=world, config=config, data_dir=os.fspath(folder), file_format="array_record")
    builder.download_and_prepare()


def write_world(settings: WorldSettings, place: Path) -> None:
    """Build the world and write all its splits, then give the finished folder its name."""
    world = build(settings)

    def fill(unfinished: Path) -> None:
        with terminal.hushed():  # TFDS prints, and stdout may be somebody's table
            for config in SPLITS:
                if filled(world, config):
                    prepare(world, config, unfinished)
        (unfinished / "settings.json").write_text(json.dumps(asdict(settings), indent=2) + "\n")

    written_once(place, fill)


def written_once(place: Path, fill: Callable[[Path], None], is_stale: Callable[[], bool] = lambda: False) -> None:
    """Fill a folder beside `place` and give it that name when it is whole; of two at once the first one's stays.

    One that was there before stays too, unless it `is_stale`: it goes when the new one is whole.
    """
    run_files.check_writable(place.parent, "data.world_path")
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{place.name}.unfinished-", dir=place.parent))
    stale = unfinished.with_name(f"{unfinished.name}.stale")
    try:
        fill(unfinished)
        if is_stale():
            with contextlib.suppress(FileNotFoundError):  # another process has taken it away, or there was none
                place.rename(stale)
        try:
            unfinished.rename(place)
        except OSError:  # another process was first: its folder has this name and is whole
            if not place.is_dir():
                raise
    finally:
        for folder in (unfinished, stale):
            shutil.rmtree(folder, ignore_errors=True)
