"""`qr-jax index`: corpus files -> a folder with their passages and a BM25 index, if memory and disk will suffice.

Searching it then reads the disk: `data.corpus=FOLDER` neither builds an index nor holds the texts in memory."""

import contextlib
import itertools
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qr_jax.data import limits, parsing, readers
from qr_jax.errors import UserError
from qr_jax.logging.terminal import progress
from qr_jax.records import Passage
from qr_jax.search import bm25_build, bm25_index
from qr_jax.sets import tables
from qr_jax.settings import json_text

SAMPLE_BYTES, SAMPLE_ROWS = 1 << 20, 2000  # of each file
# Bytes that building takes for a corpus of any size: Python with numpy, and for each word that is sorted at once.
BASE_BYTES, WORD_BYTES = 100_000_000, 150
GROWTH = 0.65  # different words grow with this power of the words read (Heaps' law, on its high side)
CONTAINER = (  # files of the limit, of the use, and of its parts, with the name of the one that can be given back
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
GROUPS = Path("/sys/fs/cgroup")
SPARE = 1.1  # factor on the estimate, for what a sample cannot know


@dataclass(frozen=True)
class Estimate:
    """The estimated memory (while building) and disk of an index, in bytes, from a sample of the corpus."""

    passages: int
    text_bytes: int
    scores: int
    different_words: int
    memory_bytes: int
    disk_bytes: int  # at the fullest moment
    index_bytes: int  # when it is done


def index(
    corpus: str,
    out: Path,
    settings: Mapping[str, Any],
    *,
    check: bool = True,
    replace: bool = False,
    say: Any = lambda text: None,
) -> dict[str, Any]:
    """Build the index of the corpus in `out`; return its manifest, with `built` false if it existed already.

    ValueError if memory or disk would not suffice (`check`), if `out` holds other things or (unless `replace`) an index
    of other files, and for a bad row or a repeated id.
    """
    out = out.resolve()  # the folder behind a link is built beside itself
    stopwords = bm25_build.stop_words(settings["stopwords"])
    files, sources = _sources(corpus)
    settings = dict(settings) | {"words": bm25_build.RULE}
    if bm25_index.why_not(out, {"settings": settings, "sources": sources}) is None:
        return bm25_index.read_manifest(out) | {"built": False}
    if not replace:
        refuse_other(out, sources)
    estimated = estimate(files, stopwords)
    disk = f"{gb(estimated.disk_bytes)} of disk while it is built, {gb(estimated.index_bytes)} when it is done"
    say(f"passages: about {estimated.passages:,}; {gb(estimated.memory_bytes)} of memory, {disk}")
    return _built(out, (), files, settings, sources, estimated, check=check)


def add(corpus: str, out: Path, *, check: bool = True, say: Any = lambda text: None) -> dict[str, Any]:
    """Add the passages of files to the index `out`, with its own settings; return its manifest.

    The folder is then, byte for byte, the index of its earlier files and these; until it is complete the earlier one
    stays in its place. ValueError if `out` is no index with passages, for a bad row, and for an id that is there.
    """
    out = out.resolve()
    try:
        before, stored = bm25_index.read_manifest(out), bm25_index.passages(out)
        settings, had = dict(before["settings"]) | {"words": bm25_build.RULE}, list(before["sources"])
    except (OSError, LookupError, TypeError) as error:
        todo = "`qr-jax index FILE OUT` makes one"
        raise UserError(f"{out} is no index with its passages, to which others could be added; {todo}") from error
    files, sources = _sources(corpus)
    if known := [new["file"] for new in sources if new["sha256"] in {old["sha256"] for old in had}]:
        raise UserError(f"{', '.join(known)} is in the index {out} already, by its contents; nothing is added")
    if empty := [file.name for file in files if next(readers.rows(file), None) is None]:
        raise UserError(f"{', '.join(empty)} has no rows to add; the index {out} is left as it is")
    new, counts = estimate(files, bm25_build.stop_words(settings["stopwords"])), before["counts"]
    ids = [len(stored[at].id) for at in range(min(len(stored), SAMPLE_ROWS))]
    text_bytes = (out / bm25_index.stored.TEXTS).stat().st_size + new.text_bytes
    estimated = needed(
        counts["passages"] + new.passages, text_bytes, id_bytes=sum(ids) / len(ids) * (len(stored) + new.passages),
        scores=counts["scores"] + new.scores, words=counts["words"] + new.scores,
        different=counts["different_words"] + new.different_words,
    )  # fmt: skip
    say(f"passages: {len(stored):,}, and about {new.passages:,} more; {gb(estimated.memory_bytes)} of memory")
    return _built(out, stored, files, settings, [*had, *sources], estimated, check=check, before=before)


def _sources(corpus: str) -> tuple[list[Path], list[dict[str, Any]]]:
    """Return a corpus's files, and what a manifest says of them. ValueError for an index."""
    files = readers.resolve(corpus)
    if any(file.is_dir() for file in files):
        raise UserError(f"{corpus} is an index already; name the files it was made of, or search it as it is")
    return files, [{"file": f.name, "bytes": f.stat().st_size, "sha256": bm25_index.file_hash(f)} for f in files]


def _built(
    out: Path, stored: Iterable[Passage], files: Sequence[Path], settings: Mapping[str, Any], sources: Any,
    estimated: Estimate, *, check: bool, before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the index of `stored` and the files; return its manifest. ValueError names where a repeated id stands."""
    if check:
        refuse(estimated, available_memory(), free_disk(out), out)
    new = (passage for _, passage in readers.stream(files, parsing.passage_of))
    start, shown = time.monotonic(), progress(itertools.chain(stored, new), estimated.passages, "passages")
    try:
        manifest = bm25_index.write(out, shown, settings, {"sources": sources}, before=before)
    except bm25_index.Repeated as error:
        places = (where for where, passage in readers.stream(files, parsing.passage_of) if passage.id == error.id)
        found = [*itertools.islice(places, 2)]
        also = " and in the index already" * (len(found) < 2)
        raise UserError(f"{error}: {' and '.join(found)}{also}; {readers.UNIQUE}") from error
    return manifest | {"built": True, "built_s": time.monotonic() - start, "estimate": asdict(estimated)}


def refuse_other(out: Path, sources: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError if the folder holds an index that was not made of these files, in this order."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        before = bm25_index.read_manifest(out)["sources"]
        if [source["sha256"] for source in before] == [source["sha256"] for source in sources]:
            return
        origin = f"was made of {', '.join(source['file'] for source in before)}"
    except (OSError, ValueError, KeyError, TypeError):
        origin = "does not say what it was made of"
    named = ", ".join(source["file"] for source in sources)
    todo = "name another folder, or put the new index in its place with --replace"
    raise UserError(f"the index {out} {origin}, not of these {named}, and is left as it is; {todo}")


def estimate(files: Sequence[Path], stopwords: Sequence[str]) -> Estimate:
    """Estimate memory and disk for indexing these files, by the rows at the beginning of each."""
    passages = text_bytes = id_bytes = pairs = words = 0.0
    seen: Counter[str] = Counter()
    for file in files:
        count, sample = _sample(file)
        share = count / max(len(sample), 1)
        words_of = [bm25_build.words(f"{passage.title} {passage.text}") for passage in sample]
        passages += count
        text_bytes += share * sum(len(f"{p.id}{p.title}{p.text}".encode()) for p in sample)
        id_bytes += share * sum(len(passage.id) for passage in sample)
        pairs += share * sum(len(set(in_passage).difference(stopwords)) for in_passage in words_of)
        words += share * sum(map(len, words_of))
        seen.update(itertools.chain.from_iterable(words_of))
    different = len(seen) * (max(words, 1) / max(seen.total(), 1)) ** GROWTH
    return needed(passages, text_bytes, id_bytes=id_bytes, scores=pairs, words=words, different=different)


def needed(
    passages: float, text_bytes: float, *, id_bytes: float, scores: float, words: float, different: float
) -> Estimate:
    """Compute an index's memory and disk from the corpus's figures; `scores` counts pairs of a passage and its word."""
    # A Python text has 57 bytes beside its characters; a dict's entry with its key about 150; ids are sorted once.
    memory = BASE_BYTES + WORD_BYTES * min(words, bm25_build.BLOCK_WORDS)
    memory += id_bytes + passages * (57 + 8 + 48 + 12) + different * 160
    index_bytes = text_bytes + passages * (24 + 4) + scores * 8 + different * 24
    disk = index_bytes + scores * 12
    return Estimate(
        round(passages), round(text_bytes), round(scores), round(different),
        round(memory * SPARE), round(disk * SPARE), round(index_bytes),
    )  # fmt: skip


def _sample(file: Path) -> tuple[float, list[Passage]]:
    """Estimate the file's row count, and return the passages of its first rows, up to a bad row (reported later)."""
    if file.suffix == ".parquet":
        count, rows = float(tables.count(file)), [row for _, row in itertools.islice(tables.rows(file), SAMPLE_ROWS)]
    else:
        lines, share = _head(file)
        count, rows = len(lines) / share, lines[:SAMPLE_ROWS]
    passages = []
    for row in rows:
        try:
            row = json_text.read_bounded(row, limits.MOST_ROW_ITEMS) if isinstance(row, bytes) else row
            passages.append(parsing.passage_of(row))
        except (ValueError, TypeError):
            break
    return count, passages


def _head(file: Path) -> tuple[list[bytes], float]:
    """Return the whole lines in the first bytes of a file, and the share of the file that these bytes are."""
    with file.open("rb") as opened:
        raw = opened.read(SAMPLE_BYTES)
        while file.suffix != ".gz" and b"\n" not in raw and len(raw) < limits.MOST_ROW_BYTES:
            if not (more := opened.read(SAMPLE_BYTES)):
                break
            raw += more
    text, unread = _unzipped(raw) if file.suffix == ".gz" else (raw, 0)
    lines, used = text.split(b"\n"), len(raw) - unread
    is_all = used == file.stat().st_size
    kept = [line for line in (lines if is_all else lines[:-1]) if line.strip()]
    return kept, 1.0 if is_all else used / file.stat().st_size


def _unzipped(data: bytes) -> tuple[bytes, int]:
    """Decompress the beginning of a gzip file, of all its members, to one row's limit; return the bytes left, too."""
    text, unread = bytearray(), 0
    with contextlib.suppress(zlib.error):  # damaged: said when the whole file is read
        while data and len(text) < limits.MOST_ROW_BYTES:
            member = zlib.decompressobj(31)
            text += member.decompress(data, limits.MOST_ROW_BYTES - len(text))
            data, unread = member.unused_data, len(member.unconsumed_tail)
    return bytes(text), unread + len(data)


def refuse(estimated: Estimate, memory: int | None, disk: int, out: Path) -> None:
    """Raise ValueError, with figures and advice, if there is less memory or disk than the estimate."""
    takes = f"indexing these passages (about {estimated.passages:,}) takes about"
    anyway = "or try it all the same with --no-check"
    if memory is not None and memory < estimated.memory_bytes:
        lacks = f"{gb(estimated.memory_bytes)} of memory, and {gb(memory)} are available"
        todo = "close other programs, use a larger machine, index a part of the corpus"
        raise UserError(f"{takes} {lacks}; {todo}, {anyway}")
    if disk < estimated.disk_bytes:
        built = f"{gb(estimated.disk_bytes)} of disk while it is built ({gb(estimated.index_bytes)} when it is done)"
        lacks = f"{built}, and {gb(disk)} are free where {out} would be"
        raise UserError(f"{takes} {lacks}; free some, name a folder on another disk, {anyway}")


def free_disk(out: Path) -> int:
    """Return the free bytes on the disk of the folder, which need not exist yet."""
    place = out.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def available_memory() -> int | None:
    """Return the bytes available without swapping, by machine and container limits; None if unknown."""
    return min((value for value in (_machine_memory(), *_container_memory()) if value is not None), default=None)


def _machine_memory() -> int | None:
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _container_memory() -> Iterator[int]:
    """Yield the memory left under the limits of control groups, version 2 and 1."""
    for limit, used, parts, unused in CONTAINER:
        try:
            left = int((GROUPS / limit).read_text()) - int((GROUPS / used).read_text())
        except (OSError, ValueError):  # absent, or "max"
            continue
        with contextlib.suppress(OSError, ValueError):  # files that were read are dropped before anything fails
            left += int(dict(line.split() for line in (GROUPS / parts).read_text().splitlines()).get(unused, 0))
        yield max(left, 0)


def gb(count: int) -> str:
    """Format bytes as gigabytes."""
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
