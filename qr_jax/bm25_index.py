"""A BM25 index's folder: never half-written, and used only for the corpus and the settings it was made with."""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qr_jax.records import Passage

MANIFEST = "manifest.json"
FILES = (
    "data.csc.index.npy",
    "indices.csc.index.npy",
    "indptr.csc.index.npy",
    "params.index.json",
    "vocab.index.json",
)


def load_or_build(folder: str, corpus: Sequence[Passage], settings: Mapping[str, Any], build: Callable[[], Any]) -> Any:
    """The folder's index, memory-mapped; built and put there first where it is absent, of other input, or damaged.

    A rebuild is said by a warning with its reason. The index is written beside the folder and renamed, so what
    stands there is whole, also where several processes build at once. ValueError where the folder holds anything else.
    """
    import bm25s

    path = Path(folder)
    wanted = {"format": 1, "bm25s": bm25s.__version__, "corpus": corpus_hash(corpus), "settings": dict(settings)}
    reason = _why_not(path, wanted)
    if reason:
        if path.exists() and any(path.iterdir()):
            warnings.warn(f"the index {path} is built again: {reason}", stacklevel=3)
        _write(path, wanted, build())
        reason = _why_not(path, wanted)
        if reason:
            raise ValueError(f"the index {path} cannot be used: {reason}; name another folder")
    return bm25s.BM25.load(path, mmap=True, show_progress=False)


def corpus_hash(corpus: Sequence[Passage]) -> str:
    """SHA-256 over ids, titles and texts in order; lengths are part of it, so that no two corpora run together."""
    total = hashlib.sha256()
    for passage in corpus:
        for text in (passage.id, passage.title, passage.text):
            data = text.encode("utf-8", "surrogatepass")
            total.update(len(data).to_bytes(8, "little"))
            total.update(data)
    return total.hexdigest()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _why_not(path: Path, wanted: Mapping[str, Any]) -> str | None:
    """Why the index in a folder cannot serve; None when it can."""
    if path.exists() and (not path.is_dir() or {one.name for one in path.iterdir()} - {MANIFEST, *FILES}):
        raise ValueError(f"{path} is no folder of a BM25 index, and is left as it is; name a new or empty folder")
    try:
        manifest = json.loads((path / MANIFEST).read_text("utf-8"))
        for name, value in wanted.items():
            if manifest[name] != value:
                return f"its {name} is another"
        damaged = [name for name in FILES if _hash(path / name) != manifest["files"][name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it is absent or incomplete ({error})"
    return f"damaged: {', '.join(damaged)}" if damaged else None


def _write(path: Path, wanted: Mapping[str, Any], model: Any) -> None:
    """Save beside the folder, then rename: what stands under the folder's name is always whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        new, old = aside / "new", aside / "old"
        model.save(new, show_progress=False)
        files = {name: _hash(new / name) for name in FILES}
        (new / MANIFEST).write_text(json.dumps({**wanted, "files": files}, indent=1), "utf-8")
        if not _why_not(path, wanted):  # another process was quicker
            return
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(new, path)
        except OSError:
            if not path.is_dir():  # otherwise another process put its own there just now: the caller checks that one
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
