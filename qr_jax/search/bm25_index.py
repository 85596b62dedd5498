"""A BM25 index in memory or in a folder: written atomically, and used only with its own corpus and settings.

A folder holds what bm25s 0.3 writes (`bm25s.BM25.load(folder)` reads it), the order of the ids, a manifest, and, if
`qr-jax index` made it, the passages."""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from qr_jax import trust
from qr_jax.data.corpus_hash import CorpusHash, hashed
from qr_jax.errors import UserError
from qr_jax.records import Passage
from qr_jax.search import bm25_build, index_files, stored
from qr_jax.search.build_aside import build_aside
from qr_jax.search.index_files import MANIFEST, PARAMS, STARTS, WORDS
from qr_jax.settings import json_text
from qr_jax.settings.settings import show

ORDER, SCORES, PLACES = "order.npy", "data.csc.index.npy", "indices.csc.index.npy"
FILES = (SCORES, PLACES, STARTS, PARAMS, WORDS, ORDER)
FORMAT = 2  # of the manifest and the files beside bm25s's


@dataclass(frozen=True)
class Index:
    """The arrays that a search needs: word number w has the scores and places from start_W[w] to start_W[w + 1]."""

    score_I: np.ndarray  # float32
    place_I: np.ndarray  # int32: which passages, ascending within a word
    start_W: np.ndarray  # int64
    word_at: Mapping[str, int]
    order_P: np.ndarray  # int32, a passage's place when ids are sorted: equal scores go by it


def build(corpus: Iterable[Passage], settings: Mapping[str, Any]) -> Index:
    """Build the index of a corpus in memory. ValueError if it has no passage, a repeated id, or no word."""
    counted, order_P, start_W = _counted(corpus, settings, lambda block: block)
    pieces = list(bm25_build.scores(counted, start_W, **_constants(settings)))
    score_I, place_I = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return Index(score_I, place_I, start_W, counted.word_at, order_P)


def load(path: Path) -> Index:
    """Load a folder's index, scores and places memory-mapped. ValueError if its arrays do not fit together."""
    try:
        score_I, place_I, order_P, start_W = (
            index_files.array(path / name) for name in (SCORES, PLACES, ORDER, STARTS)
        )
        words = index_files.content(path / WORDS)
        json_text.check_items(words, len(start_W), WORDS)
        index = Index(score_I, place_I, np.array(start_W), json_text.parse(words), order_P)
        fits = _fits(index)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"the index {path} cannot be read ({error!r:.200}); build it again") from error
    if not fits:
        raise UserError(f"the index {path} is damaged: its files do not fit together; build it again")
    return index


def _fits(index: Index) -> bool:
    """Return True if each word's list lies within the arrays, and all its places are passages."""
    start_W, place_I, order_P = index.start_W, index.place_I, index.order_P
    kinds = ((index.score_I, np.float32), (place_I, np.int32), (order_P, np.int32), (start_W, np.int64))
    if any(array.ndim != 1 or array.dtype != kind for array, kind in kinds) or not len(order_P) or not len(start_W):
        return False
    lists = start_W[0] == 0 and start_W[-1] == len(place_I) == len(index.score_I) and not (np.diff(start_W) < 0).any()
    places = all(not len(array) or 0 <= array.min() <= array.max() < len(order_P) for array in (place_I, order_P))
    numbers = all(type(word) is int and 0 <= word < len(start_W) - 1 for word in index.word_at.values())
    return bool(lists and places and numbers)


def passages(folder: str | Path) -> stored.Stored:
    """Return the passages that `qr-jax index` stored in a folder. ValueError if their hashes are not the manifest's.

    This check reads the files once as a whole: one to two seconds a gigabyte from a fast disk. A folder that this user
    did not make might claim to hold another corpus, under whose hash indexes and searches are cached; so its passages
    themselves are hashed, the first time.
    """
    path = Path(folder)
    try:
        manifest = read_manifest(path)
        listed, found = manifest["files"], stored.Stored(path)  # what is hashed below is as large as it says
        wrong = [name for name in (stored.TEXTS, stored.ENDS) if file_hash(path / name) != listed[name]]
        problem = f"{' and '.join(wrong)} changed since it was built" if wrong else None
        if not wrong and not trust.noted(_claim(manifest)):
            if hashed(found) == manifest["corpus"]:
                trust.note(_claim(manifest))
            else:
                problem = f"its passages are not those whose hash stands in {MANIFEST}"
    except FileNotFoundError as error:
        found, manifest, problem = None, {}, f"{Path(error.filename).name} is not there"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        found, manifest, problem = None, {}, f"its {MANIFEST} or passages cannot be read ({error!r:.200})"
    if problem or found is None:
        again = f"build it again from its corpus files: qr-jax index FILE ... {path}"
        raise UserError(f"the index {path} is damaged: {problem}; {again}")
    found.sha256 = manifest["corpus"]
    return found


def _claim(manifest: Mapping[str, Any]) -> str:
    """Return the manifest's claim about its passages, the text under which trust.py remembers it."""
    files = {name: manifest["files"][name] for name in (stored.TEXTS, stored.ENDS)}
    return f"passages {json.dumps(files)} are the corpus {manifest['corpus']}"


def why_not(path: Path, wanted: Mapping[str, Any], *, files: Collection[str] | None = None) -> str | None:
    """Return why a folder's index cannot serve, or None; `files` must be undamaged (None: all).

    ValueError if the folder holds other files than an index's.
    """
    known = {MANIFEST, *FILES, stored.TEXTS, stored.ENDS}
    if path.exists() and (not path.is_dir() or {file.name for file in path.iterdir()} - known):
        raise UserError(f"{path} is no folder of a BM25 index, and is left as it is; name a new or empty folder")
    try:
        manifest = read_manifest(path)
        for name, value in {"format": FORMAT, **wanted}.items():
            if manifest[name] != value:
                return _unlike(name, manifest[name], value)
        listed = manifest["files"]
        names = [name for name in sorted(known) if name in ({*FILES, *listed} if files is None else files)]
        damaged = [name for name in names if index_files.wrong(path / name) or file_hash(path / name) != listed[name]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it is absent or incomplete ({error})"
    return f"damaged: {', '.join(damaged)}" if damaged else None


def _unlike(name: str, there: Any, wanted: Any) -> str:
    """Describe a difference between manifest and wanted; for settings, each that differs."""
    if name != "settings" or not isinstance(there, dict):
        return f"its {name} is another"
    differ = [setting for setting in wanted if there.get(setting) != wanted[setting]]
    parts = ((setting, show(there.get(setting)), show(wanted[setting])) for setting in differ)
    return "; ".join(f"it was built with {setting}={is_}, and {was} is asked for" for setting, is_, was in parts)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read an index's manifest. ValueError if it is too large or no JSON object; OSError if it is missing."""
    manifest = json_text.parse(index_files.content(path / MANIFEST))
    if not isinstance(manifest, dict):
        raise UserError(f"{MANIFEST} holds no object")
    return manifest


def write(
    path: Path,
    corpus: Iterable[Passage],
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    *,
    passages: bool = True,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Index the corpus, read once, into the folder, with its `passages`; return the manifest, which holds `facts` too.

    Memory holds ids and words but neither texts nor lists. The folder is renamed when it is complete. UserError unless
    the folder still has the manifest `before`, if one is given: the corpus was read from that index.
    """
    with build_aside(path) as aside:
        if before is not None and read_manifest(path) != before:
            raise UserError(f"another process changed the index {path} meanwhile; the same command adds to it")
        new = aside / "new"
        new.mkdir()
        total = CorpusHash()
        counts = _fill(new, aside, total.over(stored.store(corpus, new) if passages else corpus), settings)
        made_of = {"corpus": total.hexdigest(), "settings": dict(settings)}
        versions = {name: metadata.version(name) for name in ("qr_jax", "numpy")}
        files = {file.name: file_hash(file) for file in sorted(new.iterdir())}
        manifest = {"format": FORMAT, **made_of, "counts": counts, **facts, "versions": versions, "files": files}
        (new / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
        if path.exists():
            os.replace(path, aside / "old")
        os.replace(new, path)
        if passages:
            trust.note(_claim(manifest))
        return manifest


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fill(new: Path, aside: Path, corpus: Iterable[Passage], settings: Mapping[str, Any]) -> dict[str, int]:
    """Write the index's files and return the counts."""
    counted, order_P, start_W = _counted(corpus, settings, _on_disk(aside))
    np.save(new / ORDER, order_P)
    np.save(new / STARTS, start_W)
    (new / WORDS).write_text(json.dumps(counted.word_at, ensure_ascii=False), "utf-8")
    size, total = len(order_P), int(start_W[-1])
    params = {"k1": settings["k1"], "b": settings["b"], "delta": 0.5, "method": settings["method"]}
    params |= {"idf_method": settings["method"], "dtype": "float32", "int_dtype": "int32", "num_docs": size}
    (new / PARAMS).write_text(json.dumps(params | {"version": "0.3.16", "backend": "numpy"}, indent=4), "utf-8")
    with (new / SCORES).open("wb") as scores, (new / PLACES).open("wb") as places:
        for file, kind in ((scores, "<f4"), (places, "<i4")):
            header = {"descr": kind, "fortran_order": False, "shape": (total,)}
            np.lib.format.write_array_header_1_0(file, header)
        for score_I, place_I in bm25_build.scores(counted, start_W, **_constants(settings)):
            scores.write(score_I.tobytes())
            places.write(place_I.tobytes())
    words = int(counted.length_P.sum(dtype=np.int64))
    return {"passages": size, "words": words, "different_words": len(counted.word_at), "scores": total}


def _counted(
    corpus: Iterable[Passage], settings: Mapping[str, Any], keep: Callable[[np.ndarray], np.ndarray]
) -> tuple[bm25_build.Counted, np.ndarray, np.ndarray]:
    """Return the word counts, the order of the ids, int32 [passages], and the starts of the lists."""
    ids: list[str] = []

    def texts() -> Iterator[str]:
        for passage in corpus:
            ids.append(passage.id)
            yield f"{passage.title} {passage.text}"

    stopwords = settings["stopwords"]
    counted = bm25_build.count(texts(), bm25_build.stop_words(stopwords), keep)
    place_P = by_id(ids, "bm25")
    if not counted.word_at:
        raise UserError(f"none of the {len(ids)} passages holds a word to search for (stopwords={stopwords!r})")
    order_P = np.empty(len(ids), np.int32)
    order_P[place_P] = np.arange(len(ids), dtype=np.int32)
    return counted, order_P, bm25_build.starts(counted)


class Repeated(UserError):
    """More than one passage has the same id."""

    def __init__(self, text: str, id: str):
        super().__init__(text)
        self.id = id


def by_id(ids: Sequence[str], name: str) -> list[int]:
    """Return the places sorted by id. ValueError, with the retriever's name, for no id or a repeated one."""
    places = sorted(range(len(ids)), key=ids.__getitem__)
    twice = next((ids[a] for a, z in zip(places, places[1:]) if ids[a] == ids[z]), None)
    if not ids or twice is not None:
        needs = f"{name} needs a corpus of passages with an id each; found"
        if twice is None:
            raise UserError(f"{needs} no passage")
        raise Repeated(f"{needs} the id {twice!r} more than once", twice)
    return places


def _constants(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in ("method", "k1", "b")}


def _on_disk(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a `keep` for `bm25_build.count` that writes each block to a file and returns a memory map of it."""
    numbers = itertools.count()

    def keep(block: np.ndarray) -> np.ndarray:
        path = folder / f"block_{next(numbers)}.npy"
        np.save(path, block)
        return np.load(path, mmap_mode="r")

    return keep
