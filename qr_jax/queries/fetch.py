"""Official files, from the web or a user's folder: never half a file, never another one than before.

`checksums.json` holds the SHA-256 of each file read to its end that has none published, to check it the second time.
"""

import bz2
import fcntl
import gzip
import http.client
import json
import logging
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

from qr_jax.errors import UserError
from qr_jax.queries import limits
from qr_jax.queries.download import download
from qr_jax.queries.official import File
from qr_jax.retrieval.bm25_index import file_hash

REGISTRY = "checksums.json"
NO_ARCHIVE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError)
NO_ARCHIVE += (KeyError, RuntimeError, NotImplementedError)  # a link that leads nowhere; encrypted; packed otherwise
NAMED = " (--files FOLDER, or tfds:NAME@FOLDER)"
MOST_PIECE = 2**22  # bytes that are read of an archive at once
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """An official file on this machine, and the SHA-256 of what was checked: the file, or the archive it came out of.

    `entry` names it in `checksums.json`; None where a checksum is published.
    """

    path: Path
    sha256: str
    entry: str | None


def fetch(file: File, folder: Path, manual_dir: Path | None = None, *, say: Callable[[str], None] = log.info) -> Found:
    """The official file on this machine: the user's in `manual_dir` (itself or its archive), or downloaded once.

    ValueError, with the file's name, where it cannot be had or its SHA-256 is not the published or registered one. A
    first file is registered by `register`, when its rows have been read: before that nothing says that it is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    archive = file.url.partition("?")[0].rpartition("/")[2] if file.url and file.member else None
    if manual_dir is not None:
        if not manual_dir.is_dir():
            raise UserError(f"there is no folder {manual_dir}; name the one that {file.name} is in")
        own = _own(manual_dir, file)
        if own is not None:
            return check(own, file.sha256 if archive is None else None, file, folder)
        packed = next(filter(Path.is_file, manual_dir.rglob(archive)), None) if archive else None
        if packed is None:
            wanted = file.name if archive is None else f"{file.name} nor {archive}"
            raise UserError(f"{manual_dir} has no {wanted}; {file.how or f'download it from {file.url}'}")
    elif file.url is None:
        raise UserError(f"{file.name} has no address to download it from: name the folder it is in{NAMED}; {file.how}")
    else:
        packed = _download(file, folder / "downloads" / (archive or file.name), say)
    found = check(packed, file.sha256, file, folder)
    return found if archive is None else _unpack(found, file, folder / "unpacked")


def _own(manual_dir: Path, file: File) -> Path | None:
    """The user's own copy of the file: in the folder itself, where its archive would put it, or the only one below."""
    found = [one for one in (manual_dir / file.name, manual_dir / (file.member or file.name)) if one.is_file()]
    found = found or sorted(one for one in manual_dir.rglob(file.name) if one.is_file())
    if len(found) > 1 and found[0] != manual_dir / file.name:
        raise UserError(f"{manual_dir} has {len(found)} files {file.name}; name the folder that the wanted one is in")
    return found[0] if found else None


def check(path: Path, sha256: str | None, file: File, folder: Path) -> Found:
    """The file, refused where it is not the published one, or not the one that was read before under this name."""
    found = file_hash(path)
    if sha256 is not None:
        if found != sha256:
            other = f"its SHA-256 is {found}, and {sha256} is wanted (published by {file.attested})"
            todo = f"it is cut short or altered: remove {path} and get it again"
            raise UserError(f"{path.name} is not the official file: {other}; {todo}")
        return Found(path, found, None)
    entry = f"{file.url or 'manual'} {path.name}"
    known = registered(folder).get(entry, found)
    if found != known:
        other = f"its SHA-256 is {found}, and {known} is wanted (registered in {folder / REGISTRY})"
        todo = "if it is cut short or altered, get it again; if it is the one that is meant, remove"
        todo += f" the entry {entry!r} from {folder / REGISTRY}"
        raise UserError(f"{path} is not the file that was read before: {other}; {todo}")
    return Found(path, found, entry)


def registered(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file that was read and has no published checksum, by its entry."""
    registry = folder / REGISTRY
    try:
        known = json.loads(registry.read_text("utf-8")) if registry.exists() else {}
        if isinstance(known, dict):
            return known
        why = f"wanted an object, and it is a {type(known).__name__}"
    except (ValueError, RecursionError) as error:
        why = str(error)
    raise UserError(f"{registry} is damaged ({why}); remove it, and the files are registered as they are read")


def register(found: Found, folder: Path) -> None:
    """Hold later files to this one, all of whose rows have been read."""
    known = registered(folder)
    if found.entry is None or found.entry in known:
        return
    registry = folder / REGISTRY
    text = json.dumps(known | {found.entry: found.sha256}, indent=1, sort_keys=True)
    with beside(registry) as opened:
        opened.write(text.encode())
    log.info("%s: SHA-256 %s, registered in %s (none is published)", found.path.name, found.sha256, registry)


def _download(file: File, place: Path, say: Callable[[str], None]) -> Path:
    """The file at its URL, downloaded where it is not there yet."""
    assert file.url is not None
    try:
        return download(file.url, place, say=say)
    except (OSError, http.client.HTTPException) as error:
        todo = f"get it on another machine, put it into a folder and name that folder{NAMED}"
        raise UserError(f"{file.name} cannot be downloaded from {file.url} ({error}); {todo}") from error


def _unpack(packed: Found, file: File, folder: Path) -> Found:
    """The one member of an archive that is the file, written out once under a name that the archive does not choose."""
    place = folder / f"{packed.path.name}.{packed.sha256[:16]}.{file.name}"
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with _member(packed.path, file) as source, beside(place) as opened:
            copied, most = 0, limits.most_bytes(packed.path)
            while part := source.read(2**20):
                opened.write(part)
                copied += len(part)
                limits.check_unpacked(packed.path, copied, most, file.name)
    return replace(packed, path=place)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The one process that works in the folder; others wait, and a lock ends with the process that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


@contextmanager
def beside(place: Path) -> Iterator[IO[bytes]]:
    """A file beside `place` that gets its name at the end, and is deleted where that is not reached."""
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as opened:
            yield opened
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _member(packed: Path, file: File) -> Iterator[IO[bytes]]:
    """The member of a zip or tar archive whose path is the file's, or else the only one of its name."""
    try:
        if zipfile.is_zipfile(packed):
            with zipfile.ZipFile(packed) as archive, archive.open(_choose(archive.namelist(), file, packed)) as opened:
                yield opened
        else:
            with _unpacked(packed) as unpacked:
                asked = cast(Any, _Bounded(unpacked, packed))  # of a file's methods those that tarfile calls
                with tarfile.open(fileobj=asked, mode="r:") as archive:
                    opened = archive.extractfile(_choose(archive.getnames(), file, packed))
                    if opened is None:
                        raise UserError(f"{packed.name}: {file.member} is no file in it")
                    with opened:
                        yield opened
    except NO_ARCHIVE as error:
        raise UserError(f"{packed.name} is no whole archive ({error}); remove it and get it again") from error


def _unpacked(packed: Path) -> IO[bytes]:
    """A tar archive without its compression."""
    with packed.open("rb") as opened:
        first = opened.read(6)
    openers: dict[bytes, Any] = {b"BZh": bz2.open, b"\x1f\x8b": gzip.open, b"\xfd7zXZ\0": lzma.open}
    opener = next((openers[begin] for begin in openers if first.startswith(begin)), open)
    return opener(packed, "rb")


class _Bounded:
    """The bytes of a tar archive for tarfile, which believes the sizes that its headers name.

    TooLarge past what limits.py allows of the archive, and where more than MOST_PIECE are wanted at once: of a header.
    """

    def __init__(self, unpacked: IO[bytes], packed: Path):
        self._unpacked, self._packed, self._most = unpacked, packed, limits.most_bytes(packed)
        self.tell = unpacked.tell

    def read(self, size: int) -> bytes:
        if size > MOST_PIECE:
            found = f"{self._packed.name} has a header of {size:,} bytes"
            raise limits.TooLarge(f"{found}; at most {MOST_PIECE:,} are read")
        self._check(self.tell() + size)
        return self._unpacked.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._check(offset)
        return self._unpacked.seek(offset, whence)

    def _check(self, offset: int) -> None:
        limits.check_unpacked(self._packed, offset, self._most, "as a tar archive")


def _choose(names: list[str], file: File, packed: Path) -> str:
    if file.member in names:
        return file.member
    same = [name for name in names if name.rpartition("/")[2] == file.name and "__MACOSX" not in name]
    if len(same) != 1:
        raise UserError(f"{packed.name} has {len(same)} files {file.name!r}; wanted {file.member}")
    return same[0]
