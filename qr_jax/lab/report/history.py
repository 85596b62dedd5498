"""Each query's history of draws, and its heat map: verdicts of many queries over time."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
Histories = Mapping[str, Sequence[Row]]

MOST_ROWS = 240
# What became of a query: the name, and what is said of it.
FATES = {"from_hard": "all wrong, later accepted", "from_easy": "all right, later accepted"}
FATES |= {"hard": "all wrong when last drawn", "easy": "all right when last drawn", "other": "anything else"}


def histories(draws: Iterable[Row]) -> dict[str, list[Row]]:
    """Return each query's draws by step; queries in the order in which they were first drawn."""
    found: dict[str, list[Row]] = {}
    for draw in draws:
        found.setdefault(str(draw["query"]), []).append(draw)
    return found


def flipped(history: Sequence[Row], step: int) -> bool:
    """Return True if `step` accepted the query after an earlier zero-variance verdict, as `figures` counts flips."""
    earlier = any(draw["verdict"] in ("hard", "easy") for draw in history if draw["step"] < step)
    return earlier and any(draw.get("accepted") for draw in history if draw["step"] == step)


def fate(history: Sequence[Row]) -> str:
    """Return one of FATES: by the first acceptance after a zero-variance verdict, else by the last verdict."""
    dead = None
    for draw in history:
        if draw["verdict"] in ("hard", "easy"):
            dead = draw["verdict"]
        elif draw.get("accepted") and dead:
            return f"from_{dead}"
    last = history[-1]["verdict"]
    return last if last in FATES else "other"


def heat(found: Histories, steps: int, pool_size: int | None) -> dict[str, Any]:
    """Make the heat map: sections by fate, a row for each query drawn twice or more, a cell for each draw.

    Beyond MOST_ROWS rows each section keeps its share of them, chosen by the hash of the query's id, and the caption
    gives the counts. A cell is [step, verdict, right, valid, accepted].
    """
    again = {query: history for query, history in found.items() if len(history) > 1}
    by_fate: dict[str, list[str]] = {name: [] for name in FATES}
    for query, history in again.items():
        by_fate[fate(history)].append(query)
    kept = min(len(again), MOST_ROWS)
    sections = []
    for name, queries in by_fate.items():
        room = round(len(queries) * kept / max(len(again), 1))
        chosen = set(sorted(queries, key=mark)[: max(room, bool(queries))])
        rows = [{"query": query, "cells": cells(again[query])} for query in queries if query in chosen]
        if rows:
            sections.append({"name": name, "text": FATES[name], "count": len(queries), "rows": rows})
    shown = sum(len(section["rows"]) for section in sections)
    counts = {"shown": shown, "again": len(again), "drawn": len(found), "pool": pool_size}
    return {"steps": steps, "sections": sections} | counts


def cells(history: Sequence[Row]) -> list[list[Any]]:
    """Return [step, verdict, right, valid, accepted] of each draw; `right` counts valid outcomes of 1."""
    names = ("step", "verdict", "successes", "valid")
    return [[*(draw.get(name) for name in names), bool(draw.get("accepted"))] for draw in history]


def mark(name: str) -> bytes:
    """Return the name's hash, as a key for a random order that is always the same."""
    return hashlib.sha256(name.encode("utf-8", "replace")).digest()
