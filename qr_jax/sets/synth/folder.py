"""The folder OUT: the settings that it was begun with, and its files, each written whole or not at all."""

import contextlib
import itertools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qr_jax.errors import UserError
from qr_jax.evaluation.manifest import differences
from qr_jax.run.json_files import read_json
from qr_jax.run.run_files import free
from qr_jax.search.bm25_index import file_hash
from qr_jax.sets import formats
from qr_jax.sets.synth.synthesise import Made

SETTINGS, CALLS = Path("journal") / "settings.json", Path("journal") / "calls.jsonl"


def begin(folder: Path, about: Mapping[str, Any]) -> None:
    """Record the settings that decide the questions; ValueError if the folder was begun with others."""
    file = folder / SETTINGS
    if file.is_file():
        try:
            before = read_json(file)
            changed = differences(before, about, skip=())
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is not as qr-jax synth writes it ({error}); name another folder") from error
        if changed:
            listed = "".join(f"\n  {change}" for change in changed)
            raise UserError(f"{folder} was begun otherwise; name another folder, and keep what stands there:{listed}")
        return
    if folder.is_dir() and any(path.name not in ("run.lock", "journal") for path in folder.iterdir()):
        raise UserError(f"{folder} holds other files, and none of qr-jax synth; name a new folder")
    file.parent.mkdir(parents=True, exist_ok=True)
    _replace(file, lambda path: path.write_text(json.dumps(about, indent=1), encoding="utf-8"))


def questions(folder: Path) -> str | None:
    """Return the SHA-256 of questions.jsonl; None without it."""
    with contextlib.suppress(FileNotFoundError):
        return file_hash(folder / "questions.jsonl")


def check_no_fewer(folder: Path, questions: int) -> None:
    """Raise ValueError if the folder has more questions than are asked for: `write` would drop some of them."""
    file = folder / "questions.jsonl"
    with contextlib.suppress(FileNotFoundError), open(file, "rb") as lines:
        there = sum(1 for _ in lines)
        if there > questions:
            todo = f"ask for --questions {there} or more, or name another folder"
            raise UserError(f"{folder} holds {there} questions, and --questions {questions} would leave fewer; {todo}")


def write(folder: Path, made: Made, card: str) -> list[Path]:
    """Replace questions.jsonl, questions.parquet (verl's rows), traces.jsonl, rejects.jsonl and card.md.

    Old questions or traces with a row that the new ones lack (the user's own, perhaps) are set aside; return their
    paths.
    """
    rows = list(map(formats.row_of, made.queries))
    traces = list(map(formats.trace_row, made.traces))
    aside = [*_aside(folder / "questions.jsonl", rows), *_aside(folder / "traces.jsonl", traces)]
    for name, listed in (("questions", rows), ("traces", traces), ("rejects", made.rejects)):
        formats.write_lines(folder / f"{name}.jsonl", listed)
    if made.queries:
        _replace(folder / "questions.parquet", lambda path: formats.write(made.queries, path, "verl"))
    _replace(folder / "card.md", lambda path: path.write_text(card, encoding="utf-8"))
    return aside


def _aside(file: Path, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    new = {formats.line_of(row).encode() for row in rows}
    with contextlib.suppress(FileNotFoundError), file.open("rb") as lines:
        if all(line in new for line in lines):
            return []
        place = free(file.with_name(f"{file.stem}.before{number or ''}.jsonl") for number in itertools.count())
        os.replace(file, place)
        return [place]
    return []


def _replace(file: Path, write: Callable[[Path], Any]) -> None:
    """Write a temporary file beside the file, then rename it."""
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".new_") as beside:
        path = Path(beside) / file.name
        write(path)
        os.replace(path, file)


def counted(made: Made) -> dict[str, Any]:
    """Return the counts for card and command: candidates, questions, trajectories, and rejects by reason."""
    by_generator = {}
    for generator, tried in sorted(made.tried.items()):
        kept = [query for query in made.queries if query.meta["generator"] == generator]
        hops = Counter(query.meta["hops"] for query in kept)
        by_generator[generator] = {
            "candidates": tried,
            "questions": len(kept),
            "refused": round(1 - len(kept) / tried, 4),
            "hops": {str(count): hops[count] for count in sorted(hops)},
            "trajectories": sum(trace.query.meta["generator"] == generator for trace in made.traces),
        }
    rejects = Counter((row["stage"], row["reason"], row["generator"]) for row in made.rejects)
    reasons: dict[str, dict[str, dict[str, int]]] = {"question": {}, "trajectory": {}}
    for (stage, reason, generator), count in rejects.most_common():
        reasons[stage].setdefault(reason, {})[generator] = count
    tried = sum(made.tried.values())
    return {
        "questions": len(made.queries),
        "trajectories": len(made.traces),
        "candidates": tried,
        "refused": round(1 - len(made.queries) / tried, 4) if tried else None,
        "trajectories_tried": made.attempts,
        "generators": by_generator,
        "rejects": reasons,
        "ended": made.ended or None,
    }
