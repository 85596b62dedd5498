"""A folder that counts only once it is whole: a list of its files with their hashes and, last, a commit marker."""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from qr_jax.settings import json_text

MANIFEST, MARKER = "manifest.json", "COMMITTED"
NOT_AS_WRITTEN = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
LONGEST_NAME_BYTES = 255
MOST_ITEMS = 2**20  # commas, lists and objects of a manifest: 200,000 files


def commit(place: epath.Path, facts: Mapping[str, Any]) -> None:
    """List every file below `place` with its size and SHA-256 in manifest.json, beside `facts`; then write the marker.

    The marker holds the manifest's own SHA-256. Files that others wrote are not synced to the disk first: after a loss
    of power they may be short although the marker stands, and `damage` says so.
    """
    files = sorted(str(path.relative_to(place)) for path in _files(place))
    with ThreadPoolExecutor(4) as readers:
        hashes = list(readers.map(lambda name: _sha256(place / name), files))
    pairs = zip(files, hashes, strict=True)
    listed = {name: {"bytes": (place / name).stat().length, "sha256": digest} for name, digest in pairs}
    text = json.dumps({**facts, "files": listed}, indent=1).encode()
    write(place / MANIFEST, text)
    write(place / MARKER, hashlib.sha256(text).hexdigest().encode())


def stands(place: epath.Path) -> bool:
    """Return True if the folder was committed; `damage` tells whether it is still whole."""
    return (place / MARKER).exists()


def manifest(place: epath.Path) -> dict[str, Any]:
    """Return the facts that the folder was committed with, and its files."""
    return json_text.read_bounded((place / MANIFEST).read_bytes(), MOST_ITEMS)


def damage(place: epath.Path) -> str | None:
    """Say what is wrong with the folder; None if it is whole. All its bytes are read."""
    if not stands(place):
        return f"it has no {MARKER} file, so it was not finished"
    try:
        return _damage(place)
    except (IsADirectoryError, NotADirectoryError) as error:
        return f"a folder stands where a file was, or a file where a folder was: {error.filename}"
    except NOT_AS_WRITTEN:  # its hash is right, but `commit` did not write it
        return f"{MANIFEST} is not one that this program writes"


def _damage(place: epath.Path) -> str | None:
    if not (place / MANIFEST).exists():
        return f"{MANIFEST} is missing"
    if _sha256(place / MANIFEST).encode() != (place / MARKER).read_bytes().strip():
        return f"{MANIFEST} is not the one that was committed"
    for name, listed in manifest(place)["files"].items():
        if name.startswith("/") or ".." in name.split("/") or len(name.encode()) > LONGEST_NAME_BYTES:
            return f"{MANIFEST} names a file that is none of this folder's: {name[:LONGEST_NAME_BYTES]!r}"
        if not (place / name).exists():
            return f"{name} is missing"
        size = (place / name).stat().length
        if size != listed["bytes"]:
            return f"{name} is damaged: it has {size} bytes, {listed['bytes']} were written"
        if _sha256(place / name) != listed["sha256"]:
            return f"{name} is damaged: its SHA-256 is not that of the {size} bytes that were written"
    return None


def remove(place: epath.Path) -> None:
    """Delete the folder, its marker first: a removal that is cut short leaves nothing that looks whole. A file in its
    place goes, too."""
    if place.exists() and not place.is_dir():
        place.unlink()
        return
    (place / MARKER).unlink(missing_ok=True)
    place.rmtree()


def write(path: epath.Path, data: bytes) -> None:
    """Write a file atomically: into a temporary file, which is synced and renamed; an object in a bucket is atomic."""
    if "://" in str(path):
        path.write_bytes(data)
        return
    beside = f"{path}.tmp"
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _files(folder: epath.Path) -> list[epath.Path]:
    return [file for path in folder.iterdir() for file in (_files(path) if path.is_dir() else [path])]


def _sha256(path: epath.Path) -> str:
    file: Any  # epath's IO type has no readinto
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
