"""Choose the episodes that the page shows, by a rule that the page states, within a size."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qr_jax.lab.report import read
from qr_jax.lab.report.history import Histories, cells, flipped, mark

Row = dict[str, Any]
Key = tuple[int, str]  # step, query

PER_KIND = 40
FIRST = 5  # pairs that show learning, of which the page opens on the first whose episodes are kept
MOST_BYTES = 5_000_000
KINDS = {"hard": "all wrong", "easy": "all right", "signal": "mixed", "flipped": "flipped", "fault": "faulted"}


def kinds(draw: Row, history: Sequence[Row]) -> list[str]:
    """Return the filters that a group matches: its verdict, "flipped", and "fault" if an episode of it has one."""
    found = [draw["verdict"]] if draw["verdict"] in ("hard", "easy", "signal") else []
    found += ["flipped"] if flipped(history, draw["step"]) else []
    return found + (["fault"] if draw["verdict"] == "fault" or None in draw.get("rewards", ()) else [])


def learned(found: Histories) -> list[tuple[Key, Key]]:
    """Return pairs of groups of one query that show learning, best first: all wrong, then the most samples right."""
    pairs = []
    for query, history in found.items():
        wrong = None
        for draw in history:
            right = draw.get("successes") or 0
            if draw["verdict"] == "hard":
                wrong = draw["step"]
            elif wrong is not None and right and draw["step"] > wrong and draw["verdict"] != "fault":
                pairs.append((right / draw["valid"], draw["step"], mark(query), (wrong, query), (draw["step"], query)))
    return [pair[3:] for pair in sorted(pairs, reverse=True)[:FIRST]]


def order(found: Histories, last: int) -> tuple[list[Key], dict[str, int]]:
    """Return the groups to show, the most wanted first, and how many there are of each kind in the whole run.

    First come those that show learning, and all of the last step. Then up to PER_KIND further ones of each kind, in
    turn, chosen by the hash of step and query: a random sample that hardly changes a step later.
    """
    by_kind: dict[str, list[Key]] = {kind: [] for kind in KINDS}
    wanted: dict[Key, None] = {key: None for pair in learned(found) for key in pair}
    for query, history in found.items():
        for draw in history:
            for kind in kinds(draw, history):
                by_kind[kind].append((draw["step"], query))
            if draw["step"] == last:
                wanted[last, query] = None
    counts = {kind: len(keys) for kind, keys in by_kind.items()}
    earlier = {
        kind: sorted((key for key in keys if key[0] != last), key=lambda key: mark(f"{key[0]} {key[1]}"))[:PER_KIND]
        for kind, keys in by_kind.items()
    }
    for at in range(PER_KIND):
        wanted |= {keys[at]: None for keys in earlier.values() if at < len(keys)}
    return list(wanted), counts


def choose(run: read.Run, found: Histories) -> dict[str, Any]:
    """Return the groups on the page, newest first, with counts of the shown and of all."""
    last = max((draw["step"] for draw in run.draws), default=0)
    keys, counts = order(found, last)
    wanted: dict[int, set[str]] = {}
    for step, query in keys:
        wanted.setdefault(step, set()).add(query)
    groups = {key: row for step, queries in wanted.items() for key, row in _groups(run.folder, step, queries)}
    there = {key: groups[key] for key in keys if key in groups}
    shown, size = [], 0
    for key, row in there.items():
        size += len(json.dumps(row))
        if size > MOST_BYTES:
            break
        shown.append(key)
    on_page = [_shown(there[key], key, found[key[1]], run) for key in sorted(shown, key=lambda key: -key[0])]
    of_kind = {kind: sum(kind in group["kinds"] for group in on_page) for kind in KINDS}
    rule = _rule(last, len(on_page), len(there), len(keys), len(run.draws))
    at = {(group["step"], group["query"]): number for number, group in enumerate(on_page)}
    opens = 0
    if pair := next((pair for pair in learned(found) if pair[1] in at), None):
        (was, _), later = pair
        opens = at[later]
        rule += f" Opened first: a question of step {later[0]} that was all wrong in step {was}."
    return {"groups": on_page, "kinds": KINDS, "counts": counts, "shown": of_kind, "rule": rule, "opens": opens}


def _groups(folder: Path, step: int, queries: set[str]) -> list[tuple[Key, Row]]:
    """Return groups of a step as stored: what their episodes share once, and the episodes."""
    found: dict[str, Row] = {}
    for row in read.episodes(folder, step):
        if (query := str(row["query"])) in queries:
            group = found.setdefault(query, {"question": row.get("question"), "golds": row.get("golds"), "samples": []})
            group["samples"].append(_sample(row))
    return [((step, query), group) for query, group in found.items()]


def _sample(row: Row) -> Row:
    """Return an episode without what its group says, and without a text that its tokens spell."""
    turns = [dict(turn) for turn in row["turns"]]
    for turn in turns:
        if turn.get("pieces") and "".join(turn["pieces"]) == turn.get("text"):
            del turn["text"]
    names = ("sample", "answer", "reward", "advantage", "stop", "fault", "tokens", "context_tokens")
    return {name: row.get(name) for name in names} | {"turns": turns}


def _shown(group: Row, key: Key, history: Sequence[Row], run: read.Run) -> Row:
    """Add to a group what the ledger knows of it and its query, and which of its episodes reached the loss."""
    draw = next(draw for draw in history if draw["step"] == key[0])
    keep_zero_variance = run.config.get("learner", {}).get("keep_zero_variance", False)
    cut = ("length", "context") if run.config.get("rollout", {}).get("overlong") == "mask" else ()
    samples = [
        sample
        | {"trained": (draw["accepted"] or keep_zero_variance) and not sample["fault"] and sample["stop"] not in cut}
        for sample in group["samples"]
    ]
    known = {name: draw.get(name) for name in ("step", "query", "origin", "verdict", "accepted")}
    return known | group | {"samples": samples, "kinds": kinds(draw, history), "history": cells(history)}


def _rule(last: int, shown: int, read_: int, wanted: int, all_: int) -> str:
    """Return the text above the episodes: the rule that chose them, and what was left out."""
    if not all_:
        return "The run has no ledger.jsonl yet, so there are no groups to show."
    text = f"{shown:,} of the run's {all_:,} groups: all of step {last}, the last one, and of the steps before it up "
    text += f"to {PER_KIND} all wrong, all right, mixed, flipped and faulted ones each, chosen at random."
    if wanted > read_:
        text += f" Of {wanted - read_:,} more that this rule chose no episodes are kept (log.episodes)."
    if read_ > shown:
        text += f" {read_ - shown:,} more that it chose are left out, so that the page stays small."
    return text
