"""`qr-jax index`: corpus files -> a folder with their passages and a BM25 index.

Searching it then reads the disk: `data.corpus=FOLDER` neither builds an index nor holds the texts in memory."""

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qr_jax.data import parsing, readers
from qr_jax.errors import UserError
from qr_jax.logging import terminal
from qr_jax.search import bm25_build, bm25_index


def index(corpus: str, out: Path, settings: Mapping[str, Any], *, replace: bool = False) -> dict[str, Any]:
    """Build the index of the corpus in `out`; return its manifest, with `built` false if it existed already.

    ValueError if `out` holds other things or (unless `replace`) an index of other files, and for a bad row or a
    repeated id.
    """
    bm25_build.check(settings["method"], settings["k1"], settings["b"])
    bm25_build.stop_words(settings["stopwords"])  # refuses an unknown language before anything is read
    files = readers.resolve(corpus)
    if any(file.is_dir() for file in files):
        raise UserError(f"{corpus} is an index already; name the files it was made of, or search it as it is")
    sources = [{"file": f.name, "bytes": f.stat().st_size, "sha256": bm25_index.file_hash(f)} for f in files]
    settings = dict(settings) | {"words": bm25_build.RULE}
    if bm25_index.why_not(out, {"settings": settings, "sources": sources}) is None:
        return bm25_index.read_manifest(out) | {"built": False}
    if not replace:
        refuse_other(out, sources)
    start = time.monotonic()
    rows = (passage for _, passage in readers.stream(files, parsing.passage_of))
    try:
        with terminal.phase("indexing the passages"):
            manifest = bm25_index.write(out, rows, settings, passages=True, facts={"sources": sources})
    except bm25_index.Repeated as error:
        places = (where for where, passage in readers.stream(files, parsing.passage_of) if passage.id == error.id)
        raise UserError(f"{error}: {' and '.join(itertools.islice(places, 2))}; {readers.UNIQUE}") from error
    return manifest | {"built": True, "built_s": time.monotonic() - start}


def refuse_other(out: Path, sources: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError if the folder holds an index that was not made of these files, in this order."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        before = bm25_index.read_manifest(out).get("sources", [])
        if [source["sha256"] for source in before] == [source["sha256"] for source in sources]:
            return
        origin = f"was made of {', '.join(source['file'] for source in before) or 'passages in memory'}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        origin = "does not say what it was made of"
    named = ", ".join(source["file"] for source in sources)
    todo = "name another folder, or put the new index in its place with --replace"
    raise UserError(f"the index {out} {origin}, not of these {named}, and is left as it is; {todo}")


def gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def format_summary(manifest: Mapping[str, Any], out: Path, given: Mapping[str, Any]) -> str:
    """Format the summary; `given` are the settings that differ from bm25's own: searching needs them again."""
    counts = manifest["counts"]
    size = sum(file.stat().st_size for file in out.iterdir())
    done = "already there, of these files and settings"
    done = f"built in {manifest['built_s']:.1f} s" if manifest["built"] else done
    held = f"{out}: {counts['passages']:,} passages, {counts['different_words']:,} words, {gb(size)}, {done}"
    also = "".join(f" retriever.{name}={value}" for name, value in given.items())
    return f"{held}\ncorpus SHA-256 {manifest['corpus']}\nsearch it with data.corpus={out}{also}"
