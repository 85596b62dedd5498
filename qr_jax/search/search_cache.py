"""Searches kept on disk: a query that the same retriever has answered before is read and not searched again."""

import hashlib
import json
import logging
import sqlite3
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from qr_jax.errors import UserError
from qr_jax.records import Passage, SearchFunction
from qr_jax.settings import json_text

log = logging.getLogger(__name__)

APPLICATION = 0x71724A58  # in the file's header: it is a cache of searches, and may be emptied
BUSY_S = 5.0  # how long one process waits for another's write
SHARE_KEPT = 0.9  # of the entries, when the file has grown too large

TABLE = "CREATE TABLE IF NOT EXISTS searches (key BLOB PRIMARY KEY, made REAL NOT NULL, found TEXT NOT NULL)"
FIND = "SELECT found FROM searches WHERE key = ? AND made >= ?"
SHRINK = "DELETE FROM searches WHERE key IN (SELECT key FROM searches ORDER BY rowid LIMIT ?)"


class SearchCache:
    """A search function that keeps the results of another, `search`; `asked` and `hits` count its queries.

    The key of a result is `identity` (whatever decides it beside query and k), query and k. Empty results are not kept:
    a server in trouble may have sent them. When the file passes `max_bytes`, the oldest entries go; those older than
    `max_age_s` are not used. Several threads and processes of one machine may share the file (SQLite with a write-ahead
    log: not on a network's file system). If the cache cannot be read or written, it warns and searches without it.
    ValueError: a file that is something else.
    """

    def __init__(
        self,
        search: SearchFunction,
        path: str | Path,
        identity: str,
        *,
        max_bytes: int = 1_000_000_000,
        max_age_s: float | None = None,
    ):
        self._search, self._path, self._identity = search, Path(path), identity
        self._max_bytes, self._max_age_s = max_bytes, max_age_s
        self.asked = self.hits = 0
        self._lock = threading.Lock()
        self._file = _open(self._path)
        weakref.finalize(self, self._file.close)  # from 3.13 on Python warns of a connection that is left open
        self._broken = False

    def __call__(self, queries: list[str], k: int) -> list[Sequence[Passage]]:
        keys = [self._key(query, k) for query in queries]
        known = self._read(keys)
        new = [at for at, key in enumerate(keys) if key not in known]
        if new:
            results = self._search([queries[at] for at in new], k)
            if len(results) != len(new):
                raise UserError(f"{len(new)} queries got {len(results)} lists of passages")
            fresh = {keys[at]: results[place] for place, at in enumerate(new)}
            self._write({key: passages for key, passages in fresh.items() if passages})
            known |= fresh
        with self._lock:
            self.asked += len(queries)
            self.hits += len(queries) - len(new)
        return [known[key] for key in keys]

    def _key(self, query: str, k: int) -> bytes:
        return hashlib.sha256(json.dumps([self._identity, k, query]).encode()).digest()

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, Sequence[Passage]]:
        since = 0.0 if self._max_age_s is None else time.time() - self._max_age_s
        results: dict[bytes, Sequence[Passage]] = {}
        try:
            with self._lock:
                for key in dict.fromkeys(keys):
                    row = self._file.execute(FIND, (key, since)).fetchone()
                    if row:
                        results[key] = [Passage(*fields) for fields in json_text.parse(row[0])]
        except (sqlite3.Error, ValueError, TypeError) as error:
            self._pass_by(error)
        return results

    def _write(self, results: dict[bytes, Sequence[Passage]]) -> None:
        now = time.time()
        found = {key: [[p.id, p.title, p.text, float(p.score)] for p in results[key]] for key in results}
        rows = [(key, now, json.dumps(passages)) for key, passages in found.items()]
        try:
            with self._lock, self._file:
                self._file.executemany("INSERT OR REPLACE INTO searches VALUES (?, ?, ?)", rows)
                self._shrink()
        except sqlite3.Error as error:
            self._pass_by(error)

    def _shrink(self) -> None:
        """Delete the oldest entries where the file has grown too large; the space is used again."""
        names = ("page_count", "freelist_count", "page_size")
        pages, free, size = (self._file.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        if (pages - free) * size > self._max_bytes:
            (count,) = self._file.execute("SELECT count(*) FROM searches").fetchone()
            gone = count - int(count * SHARE_KEPT)
            self._file.execute(SHRINK, (gone,))

    def _pass_by(self, error: Exception) -> None:
        if not self._broken:
            log.warning("the cache %s is not used: %s", self._path, error)
        self._broken = True


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False)
    except sqlite3.Error as error:
        raise UserError(f"{path} cannot be used as a cache of searches ({error}); name another file") from error
    ends = time.monotonic() + BUSY_S
    while True:
        try:
            _prepare(file, path)
            return file
        except sqlite3.OperationalError as error:  # another process makes the file just now
            why = error
        except sqlite3.DatabaseError as error:
            ends, why = 0.0, error
        if time.monotonic() > ends:
            file.close()
            raise UserError(f"{path} cannot be used as a cache of searches ({why}); name another file")
        time.sleep(0.05)


def _prepare(file: sqlite3.Connection, path: Path) -> None:
    """Make the table if it is missing. The application id is written before the table, so it is read after it."""
    (tables,) = file.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = file.execute("PRAGMA application_id").fetchone()
    if tables and application != APPLICATION:
        file.close()
        raise UserError(f"{path} is a database of something else; name another file for the cache")
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = NORMAL")
    if application != APPLICATION:
        file.execute(f"PRAGMA application_id = {APPLICATION}")
    with file:
        file.execute(TABLE)
