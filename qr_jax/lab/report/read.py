"""Read a run folder's files as plain values, even while the run writes them."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qr_jax.config import BUDGETS, COLD_START, share_done
from qr_jax.errors import UserError
from qr_jax.lab import run_folders
from qr_jax.run import json_files, plugin_record, run_files
from qr_jax.run.json_files import Row
from qr_jax.settings import json_text


@dataclass(frozen=True)
class Run:
    """A run folder's contents. `before` and `after` are evaluations, `probe` is a causal one: {} if there is none.

    `metrics` has a row for each step, `cold` one for each step of the cold start, and `draws` a row of ledger.jsonl for
    each drawn query. `unread` counts complete lines that are no JSON. `ended`: summary.json is of the last step.
    """

    folder: Path
    config: Mapping[str, Any]
    metrics: tuple[Row, ...]
    draws: tuple[Row, ...]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    ended: bool
    unread: int = 0
    probe: Mapping[str, Any] = field(default_factory=dict)
    cold: tuple[Row, ...] = ()
    plugins: Mapping[str, Any] = field(default_factory=dict)  # as run/plugin_record.py describes them

    def share_spent(self, row: Mapping[str, Any]) -> float:
        """Return the share of the run's budget spent after a step: of its steps, or of another limit that is nearer."""
        spent = {"steps": row["step"]} | {f"max_{name}": row.get(f"budget/{name}") or 0 for name in BUDGETS}
        return share_done(self.config.get("train", {}), spent)


def run(folder: str | Path) -> Run:
    """Read the run in `folder`. ValueError if it is none."""
    folder = Path(folder)
    run_folders.check_trained(folder)
    metrics, bad = _rows(folder / "metrics.jsonl", "step")
    if metrics and "pool/drawn" not in metrics[-1]:
        raise UserError(f"{folder} holds no run of `qr-jax train` (its steps drew nothing from a pool)")
    draws, worse = _rows(folder / "ledger.jsonl", "step", "query", "verdict", "accepted", "rewards")
    cold, worst = _rows(folder / COLD_START / "metrics.jsonl", "step", "sft/loss")
    summary = _object(folder / "summary.json")
    last = metrics[-1]["step"] if metrics else 0
    return Run(
        folder, _object(folder / "config.json"), tuple(metrics),
        draws=tuple(draw for draw in draws if draw["step"] <= last),  # its draws are written before its metrics
        before=summary.get("before") or _object(folder / run_files.BEFORE),  # a run that goes on has no summary
        after=summary.get("after") or {}, ended=bool(metrics) and summary.get("steps") == len(metrics),
        unread=bad + worse + worst, probe=_object(folder / "probe.json"), cold=tuple(cold),
        plugins=_object(folder / plugin_record.FILE),
    )  # fmt: skip


def phase(begun: Run) -> str:
    """Return what a run without a step is doing, judged by the files that it has written."""
    cold, steps = begun.folder / COLD_START, begun.config.get("sft", {}).get("steps") or 0
    if begun.before:
        return "compiling the learner and rolling out step 1"
    if (cold / "summary.json").is_file():
        return "the cold start is done; evaluating before training"
    if begun.cold:
        return f"cold start, step {begun.cold[-1]['step']:,} of {steps:,}"
    if (cold / "config.json").is_file():
        return "cold start, reading the expert's traces"
    then = "the cold start" if steps else "the evaluation before training"
    return f"loading the model and compiling; {then} is next"


def episodes(folder: Path, step: int) -> Iterator[Row]:
    """Yield the rows of a step's episodes; none if the step has no file."""
    every = json_files.readable_rows(folder / "episodes" / f"step_{step:06d}.jsonl", "query", "turns", nested=True)
    yield from (row for row in every if row is not None)


def _rows(path: Path, *needed: str) -> tuple[list[Row], int]:
    """Return the lines that are objects with the `needed` keys, and the number of complete lines that are not."""
    every: list[Row | None] = []
    with contextlib.suppress(OSError):
        every.extend(json_files.readable_rows(path, *needed))
    read = [row for row in every if row is not None]
    return read, len(every) - len(read)


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json_text.parse_or_none(path.read_bytes()) if path.is_file() else None  # who opens a pipe waits
    except OSError:
        return {}
    return found if isinstance(found, dict) else {}
