"""Indexes that are kept between starts, in the user's cache folder: a corpus is indexed once, not at every start."""

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qr_jax import trust
from qr_jax.data.corpus_hash import corpus_hash
from qr_jax.records import Passage
from qr_jax.search import bm25_index

log = logging.getLogger(__name__)

FEWEST = 10_000  # passages; fewer are indexed in two seconds
MOST = 8  # indexes; then those that were not used for the longest time go


def load_or_build(
    corpus: Sequence[Passage], settings: Mapping[str, Any], environment: Mapping[str, str] = os.environ
) -> bm25_index.Index:
    """Return the corpus's index with these settings, from qr_jax/indexes in XDG_CACHE_HOME (by default ~/.cache).

    It is written there where it is not, and again, with a warning, where its hashes say that it is damaged. Where that
    fails, as while another process writes it, it is built in memory, with a warning.
    """
    if len(corpus) < FEWEST:
        return bm25_index.build(corpus, settings)
    wanted = {"corpus": corpus_hash(corpus), "settings": dict(settings)}
    home = Path("the user's cache")
    try:
        home = trust.own_folder("XDG_CACHE_HOME", ".cache", environment) / "indexes"
        folder = home / hashlib.sha256(json.dumps([*wanted.values()]).encode()).hexdigest()[:32]
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if reason := bm25_index.why_not(folder, wanted):
            if folder.exists():
                warnings.warn(f"the index {folder} is built again: {reason}", stacklevel=2)
            bm25_index.write(folder, corpus, settings, {}, passages=False)
        index = bm25_index.load(folder)
        os.utime(folder)
        _make_room(home)
        return index
    except (OSError, ValueError) as error:
        index = bm25_index.build(corpus, settings)  # ValueError where it is the corpus that is wrong
        log.warning("the index is in memory alone, for none can be kept in %s: %s", home, error)
        return index


def _make_room(home: Path) -> None:
    """Delete the indexes beyond MOST; whoever has one open may go on reading it."""
    known = [path for path in home.iterdir() if not path.name.startswith(".")]
    for path in sorted(known, key=lambda path: path.stat().st_mtime, reverse=True)[MOST:]:
        shutil.rmtree(path, ignore_errors=True)
