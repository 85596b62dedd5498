"""A dense index: a corpus's vectors in pieces, in memory or in a folder; an interrupted build resumes.

A folder holds a manifest (corpus, model, settings), a numpy file for each piece, and the SHA-256 of each finished
piece."""

import os
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from qr_jax.errors import UserError
from qr_jax.logging.terminal import progress
from qr_jax.run import json_files
from qr_jax.search import index_files
from qr_jax.search.bm25_index import file_hash, read_manifest
from qr_jax.search.build_aside import alone
from qr_jax.search.index_files import MANIFEST, PIECES

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

    Each piece is kept as soon as it is done, so a killed process loses only one. A piece that is damaged, or holds no
    such vectors, is made again, with a warning. A second process waits until the first is done. ValueError for an index
    of another corpus, model or settings, and for a folder with other files or links; they are left as they are.
    """
    wanted = {"format": FORMAT, "corpus": corpus, "rows": count, "model": model}
    wanted |= {"settings": {**settings, "storage": storage}, "piece_rows": PIECE}
    spans = _spans(count)
    names = [f"vectors_{at:05d}.npy" for at in range(len(spans))]
    columns = width + 4 if storage == "int8" else width
    shapes = {name: (stop - start, columns) for name, (start, stop) in zip(names, spans, strict=True)}
    with alone(folder):
        done = _done(folder, wanted, shapes, storage)
        missing = [at for at, name in enumerate(names) if name not in done]
        for at, span in zip(missing, _shown([spans[at] for at in missing]), strict=True):
            digest = _put(folder / names[at], _stored(embed(*span), storage))
            with (folder / PIECES).open("a", encoding="utf-8") as file:
                file.write(f"\n{names[at]} {digest}")  # a line that was cut ends here
    return Vectors([index_files.array(folder / name) for name in names], storage)


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


def _put(path: Path, piece: np.ndarray) -> str:
    """Write the piece under its name, whole or not at all; return its SHA-256."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(piece))
    digest = file_hash(temporary)
    os.replace(temporary, path)
    return digest


def _done(folder: Path, wanted: Mapping[str, Any], shapes: Mapping[str, tuple[int, int]], storage: Storage) -> set[str]:
    """Return the names of the complete pieces; write the manifest if it is missing."""
    known = {MANIFEST + ".new", PIECES, *shapes, *(f"{name}.new" for name in shapes)}
    for name in (MANIFEST, *known):
        _refuse_no_file(folder / name)
    if not (folder / MANIFEST).exists():
        if {file.name for file in folder.iterdir()} - known:
            raise UserError(f"{folder} is no folder of a dense index, and is left as it is; name a new or empty one")
        json_files.write_json(folder / MANIFEST, wanted)
    _refuse_other(folder, wanted)
    content = index_files.content(folder / PIECES) if (folder / PIECES).exists() else b""
    lines = content.decode("utf-8", "replace").splitlines()
    listed = dict(line.split(" ") for line in lines if line.count(" ") == 1)  # the last line may have been cut
    written = {name: digest for name, digest in listed.items() if name in shapes}
    whole = {name for name in written if _is_whole(folder / name, written[name], shapes[name], storage)}
    if damaged := len(written) - len(whole):
        warnings.warn(f"damaged pieces of the index {folder} are made again: {damaged}", stacklevel=4)
    return whole


def _is_whole(path: Path, digest: str, shape: tuple[int, int], storage: Storage) -> bool:
    """Return True if the piece exists undamaged and holds finite numbers in this shape."""
    if not path.is_file() or index_files.wrong(path) or file_hash(path) != digest:
        return False
    piece = index_files.array(path)
    if piece.shape != shape or piece.dtype != KINDS[storage]:
        return False
    rows, factor_N = Vectors([piece], storage).read(0, len(piece))
    return bool(np.isfinite(rows if factor_N is None else factor_N).all())


def _refuse_no_file(path: Path) -> None:
    """Raise ValueError for a link, through which a write would go, and for anything else that is no regular file."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        found = "a link" if path.is_symlink() else "no file"
        raise UserError(f"{path} is {found}, which no dense index holds; take it away, or name another folder")


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
