"""Rows as a TFDS data set: written once into ArrayRecord files, read at random places, without TensorFlow.

Importing this file imports tensorflow_datasets (and so jax).
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, SupportsIndex, TypeVar

import tensorflow_datasets as tfds

from qr_jax.logging import terminal
from qr_jax.run import run_files

T = TypeVar("T")


class RowsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of TFDS, which its subclasses name: `splits` are the examples to be written, in their order."""

    def __init__(
        self,
        config: str,
        features: Mapping[str, Any],
        folder: Path,
        splits: Mapping[str, Iterable[dict[str, Any]]] | None = None,
    ):
        self._features, self._splits = features, splits or {}
        super().__init__(config=config, data_dir=str(folder), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(dict(self._features))
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        return {split: enumerate(examples) for split, examples in self._splits.items()}

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError  # the splits have their own

    def write(self) -> None:
        """Write the splits; nothing is printed."""
        tfds.disable_progress_bar()
        with terminal.hushed():  # TFDS prints, and stdout may be somebody's table
            self.download_and_prepare()


def texts() -> Any:
    """Return the feature of a list of texts."""
    return tfds.features.Sequence(tfds.features.Text())


def text(value: Any) -> str:
    """Return a text that TFDS gives as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


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


def written_once(
    place: Path, fill: Callable[[Path], None], is_stale: Callable[[], bool] = lambda: False, *, todo: str
) -> None:
    """Fill a folder beside `place` and give it that name when it is whole; of two at once the first one's stays.

    One that was there before stays too, unless it `is_stale`: it goes when the new one is whole. `todo`: what to do
    where it cannot be written.
    """
    run_files.check_writable(place.parent, todo=todo)
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
