"""A dense index: a corpus's vectors in pieces, in memory or in a folder; an interrupted build resumes.

A folder holds a manifest (corpus, model, settings) and a numpy file for each finished piece."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from qr_jax.errors import UserError
from qr_jax.logging.terminal import progress
from qr_jax.search import index_files
from qr_jax.search.bm25_index import read_manifest
from qr_jax.search.index_files import MANIFEST

Storage = Literal["float32", "bfloat16", "int8"]
Embed = Callable[[int, int], np.ndarray]  # rows start to stop -> float32 [rows, D]

FORMAT = 1
PIECE = 1024  # rows
KINDS = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}  # numpy's files know no bfloat16


@dataclass(frozen=True)
class Vectors:
    """The rows of an index; an int8 row ends in the four bytes of its float32 factor."""

    pieces: Sequence[np.ndarray]
    storage: Storage

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return rows in the type they are stored in and, for int8, their factors."""
        first = start // PIECE
        parts = [
            piece[max(start - at * PIECE, 0) : stop - at * PIECE]
            for at, piece in enumerate(self.pieces[first : -(-stop // PIECE)], first)
        ]
        rows = np.concatenate(parts) if parts else self.pieces[0][:0]
        if self.storage == "bfloat16":
            return rows.view(ml_dtypes.bfloat16), None
        if self.storage == "int8":
            return rows[:, :-4], np.ascontiguousarray(rows[:, -4:]).view(np.float32)[:, 0]
        return np.asarray(rows), None


def quantise(vector_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantise to int8 [N, D] with a factor for each row, float32 [N]: the row's largest absolute value / 127."""
    factor_N = np.abs(vector_ND).max(axis=1) / np.float32(127)
    factor_N = np.where(factor_N == 0, 1, factor_N).astype(np.float32)
    return np.rint(vector_ND / factor_N[:, None]).astype(np.int8), factor_N


def in_memory(count: int, storage: Storage, embed: Embed) -> Vectors:
    """Compute the vectors of `count` rows in memory."""
    return Vectors([_stored(embed(*span), storage) for span in _shown(_spans(count))], storage)


def in_folder(
    folder: Path,
    count: int,
    storage: Storage,
    embed: Embed,
    *,
    width: int,
    corpus: str,
    model: str,
    settings: Mapping[str, Any],
) -> Vectors:
    """Return the folder's vectors of `width` numbers each, memory-mapped, after computing missing ones.

    Each piece is kept as soon as it is done, so a killed process loses only one. ValueError for an index of another
    corpus, model or settings, for a piece that holds no such vectors, and for a folder with other files or links; they
    are left as they are.
    """
    wanted = {"format": FORMAT, "corpus": corpus, "rows": count, "model": model}
    wanted |= {"settings": {**settings, "storage": storage}, "piece_rows": PIECE}
    spans = _spans(count)
    names = [f"vectors_{at:05d}.npy" for at in range(len(spans))]
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_links(folder)
    if not (folder / MANIFEST).exists():
        if any(folder.iterdir()):
            raise UserError(f"{folder} is no folder of a dense index, and is left as it is; name a new or empty one")
        (folder / MANIFEST).write_text(json.dumps(wanted, indent=1), "utf-8")
    _refuse_other(folder, wanted)
    missing = [at for at, name in enumerate(names) if not (folder / name).exists()]
    for at, span in zip(missing, _shown([spans[at] for at in missing]), strict=True):
        _put(folder / names[at], _stored(embed(*span), storage))
    pieces, columns = [index_files.array(folder / name) for name in names], width + 4 if storage == "int8" else width
    for name, piece, (start, stop) in zip(names, pieces, spans, strict=True):
        if piece.shape != (stop - start, columns) or piece.dtype != KINDS[storage]:
            found = f"{piece.dtype} {piece.shape}; wanted {np.dtype(KINDS[storage])} {(stop - start, columns)}"
            raise UserError(f"{folder / name} has {found}: it is damaged; delete it, and it is made again")
    return Vectors(pieces, storage)


def _spans(count: int) -> list[tuple[int, int]]:
    return [(start, min(start + PIECE, count)) for start in range(0, count, PIECE)]


def _shown(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    return progress(spans, len(spans), f"pieces of {PIECE:,} passages")


def _stored(vector_ND: np.ndarray, storage: Storage) -> np.ndarray:
    if storage == "float32":
        return vector_ND
    if storage == "bfloat16":
        return vector_ND.astype(ml_dtypes.bfloat16).view(KINDS[storage])
    whole_ND, factor_N = quantise(vector_ND)
    return np.concatenate([whole_ND, factor_N[:, None].view(np.int8)], axis=1)


def _put(path: Path, piece: np.ndarray) -> None:
    """Write the piece under its name, whole or not at all; two processes may write the same one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(piece))
    os.replace(temporary, path)


def _refuse_links(folder: Path) -> None:
    """Raise ValueError for a link, through which a write would go, and for anything else that is no regular file."""
    if wrong := next((path for path in folder.iterdir() if path.is_symlink() or not path.is_file()), None):
        found = "a link" if wrong.is_symlink() else "no file"
        raise UserError(f"{wrong} is {found}, which no dense index holds; take it away, or name another folder")


def _refuse_other(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raise ValueError, with the differences, if the folder's manifest is of another index."""
    try:
        manifest = read_manifest(folder)
        before = dict(manifest["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the manifest of {folder} is damaged ({error}); delete the folder or name another") from error
    other = [name for name in wanted if name != "settings" and manifest.get(name) != wanted[name]]
    now = wanted["settings"]
    other += [f"{name} ({before.get(name)!r}, now {now[name]!r})" for name in now if before.get(name) != now[name]]
    if other:
        made = f"the index {folder} was made with another {', '.join(other)}"
        raise UserError(f"{made}, and is left as it is; name another folder")
