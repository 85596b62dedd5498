"""Indexes that are kept between starts, in the user's cache folder: a corpus is indexed once, not at every start."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qr_jax import trust
from qr_jax.data.corpus_hash import corpus_hash
from qr_jax.records import Passage
from qr_jax.search import bm25_index
from qr_jax.search.build_aside import clear_left

log = logging.getLogger(__name__)

FEWEST = 10_000  # passages; fewer are indexed in a second
MOST = 8  # indexes; then those that were not used for the longest time go


def load_or_build(
    corpus: Sequence[Passage], settings: Mapping[str, Any], environment: Mapping[str, str] = os.environ
) -> bm25_index.Index:
    """The corpus's index with these settings, from qr_jax/indexes in XDG_CACHE_HOME (by default ~/.cache).

    It is put there where it is not, and is built in memory where that fails, with a warning. What is there is used only
    if its hashes say that it is undamaged and made of these passages.
    """
    if len(corpus) < FEWEST:
        return bm25_index.build(corpus, settings)
    made_of = json.dumps([corpus_hash(corpus), dict(settings)])
    home = Path("the user's cache")
    try:
        home = trust.own_folder("XDG_CACHE_HOME", ".cache", environment) / "indexes"
        folder = home / hashlib.sha256(made_of.encode()).hexdigest()[:32]
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        index = bm25_index.load_or_build(folder, corpus, settings)
        os.utime(folder)
        _make_room(home)
        return index
    except (OSError, ValueError) as error:
        index = bm25_index.build(corpus, settings)  # ValueError where it is the corpus that is wrong
        log.warning("the index is in memory alone, for none can be kept in %s: %s", home, error)
        return index


def _make_room(home: Path) -> None:
    """Delete the indexes beyond MOST, and what killed builds left; whoever has one open may go on reading it."""
    for left in home.glob(".*.build-*"):
        clear_left(home / left.name[1:].rpartition(".build-")[0])
    known = [path for path in home.iterdir() if not path.name.startswith(".")]
    for path in sorted(known, key=lambda path: path.stat().st_mtime, reverse=True)[MOST:]:
        shutil.rmtree(path, ignore_errors=True)
