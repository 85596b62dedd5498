"""Compare a run's questions and traces with those it began with, by digests that checkpoints keep."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qr_jax.errors import UserError
from qr_jax.records import Episode, Query

KEPT = "data"  # the digests among a checkpoint's host values
GROUPS = ("dataset", "kind", "type", "hops")  # keys of a question's meta that pool families and curricula use
Rows = Sequence[Mapping[str, Any]]  # the parts of each question or trace by name, "ids" first


def of_questions(queries: Sequence[Query]) -> Rows:
    """Return the parts of questions that a run depends on."""
    return [
        {
            "ids": query.id, "questions": query.question, "answers": query.answers,
            "entities or groups": [query.entities, [str(query.meta.get(name)) for name in GROUPS]],
            "other columns": {name: value for name, value in query.meta.items() if name not in GROUPS},
        }
        for query in queries
    ]  # fmt: skip


def of_traces(episodes: Sequence[Episode]) -> Rows:
    """Return the parts of expert traces, played as episodes, that a cold start depends on."""
    return [
        {
            "ids": episode.query.id, "questions": episode.query.question,
            "turns": [turn.text for turn in episode.turns if turn.author == "model"],
        }
        for episode in episodes
    ]  # fmt: skip


def kept(data: Mapping[str, Rows]) -> dict[str, np.ndarray]:
    """Return the digests that a checkpoint keeps: the setting that names the data -> uint64 [rows, parts]."""
    return {setting: _digests(rows) for setting, rows in data.items()}


def check(host: Mapping[str, Any], data: Mapping[str, Rows]) -> None:
    """Raise ValueError if data differ from a checkpoint's digests, with parts, number of rows and the first."""
    for setting, rows in data.items():
        if differences := _differences(np.asarray(host[KEPT].get(setting, ())), rows):
            todo = "give back the data that the run began with, or begin anew in another folder (--run)"
            raise UserError(f"{setting} is not what the run began with: {'; '.join(differences)}. {todo}")


def _digests(rows: Rows) -> np.ndarray:
    def digest(part: Any) -> int:
        written = json.dumps(part, sort_keys=True, default=str).encode()
        return int.from_bytes(hashlib.sha256(written).digest()[:8], "little")

    return np.array([[digest(part) for part in row.values()] for row in rows], np.uint64)


def _differences(saved: np.ndarray, rows: Rows) -> list[str]:
    """Return a line for each part that differs from the saved digests."""
    now = _digests(rows)
    if saved.shape != now.shape:
        return [f"it had {len(saved):,} rows and has {len(rows):,}"]
    changed, lines = saved != now, []
    for at, part in enumerate(rows[0] if rows else ()):
        if count := int(changed[:, at].sum()):
            first = rows[int(changed[:, at].argmax())]["ids"]
            lines.append(f"{part} differ in {count:,} of {len(rows):,} rows, first in {first!r}")
    return lines
