"""List the runs in a folder and the progress of each: `qr-jax runs`."""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qr_jax.config import BUDGETS, COLD_START, LIMITS
from qr_jax.errors import UserError
from qr_jax.evaluation.scores import is_incomplete
from qr_jax.lab import run_folders
from qr_jax.lab.columns import aligned
from qr_jax.run import run_files, run_lock
from qr_jax.run.run_files import BEFORE
from qr_jax.settings import json_text

State = Literal["training", "finished", "stopped", "not begun", "unreadable"]
SKIPPED = ("checkpoints", "logs", "episodes", "worlds", "questions", "eval")  # folders that hold no run
READ = ("config.json", "summary.json", BEFORE, "metrics.jsonl", run_lock.NAME, f"{COLD_START}/metrics.jsonl")


@dataclass(frozen=True)
class RunEntry:
    """One run. `steps` is what its config asks for; `accuracy` the last greedy exact match, over `questions`.

    training: a process writes it; finished: its summary is of its last step; stopped: it was killed or told to stop,
    and the same command resumes it; not begun: nothing was saved yet; unreadable: `reason` says what is wrong with its
    files.
    """

    folder: Path
    state: State
    step: int
    steps: int
    stage: Literal["train", "cold start"]
    accuracy: float | None = None
    questions: int | None = None
    after: int | None = None  # the step that the accuracy is of
    budget: str = ""  # what is spent of a budget that ends the run, as in "2,560/30,000 rollouts"
    incomplete: bool = False  # the accuracy is over fewer than 95 % of its questions: the others ended in faults
    reason: str = ""


def runs_in(folder: Path) -> list[RunEntry]:
    """Return the runs in a folder and below, by name; cold starts belong to their runs. ValueError: no such folder."""
    if not folder.is_dir():
        what = f"{folder} is a file" if folder.is_file() else f"there is no folder {folder}"
        raise UserError(f"{what}; name the one that runs were made in (without a name: runs/)")
    return [_listed_or_why(run) for run in sorted(_folders(folder, run_folders.DEEPEST))]


def _folders(folder: Path, below: int) -> Iterator[Path]:
    """Yield the runs' folders, and unreadable folders, in a folder and at most `below` levels down."""
    if _is_run(folder):
        yield folder
        return
    try:
        with os.scandir(folder) as entries:
            inside = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        yield folder
        return
    for path in map(Path, inside if below else ()):
        if path.name not in SKIPPED:
            yield from _folders(path, below - 1)


def _is_run(folder: Path) -> bool:
    """Return True if the folder has a config.json that is not a model's."""
    file = folder / "config.json"
    try:
        return os.path.exists(file) and (bool(run_files.wrong(file)) or "architectures" not in _object(file))
    except OSError:  # it may not be read, which the run's line says
        return True


def _listed_or_why(folder: Path) -> RunEntry:
    """Return one run; its errors become its `reason`, so that they do not hide other runs."""
    try:
        return listed(folder)
    except OSError as error:
        why = f"{Path(error.filename or folder).name}: {error.strerror}"
    except ValueError as error:
        why = str(error)
    return RunEntry(folder, "unreadable", 0, 0, "train", reason=why)


def listed(folder: Path) -> RunEntry:
    """Read a run's state from its files, even while it writes them. ValueError or OSError for files that no run has."""
    _check(folder)
    config, summary, before = (_object(folder / name) for name in ("config.json", "summary.json", BEFORE))
    last, row = _metrics(folder / "metrics.jsonl")
    step, steps = _whole(last, "step"), _whole(config.get("train"), "steps")
    stage: Literal["train", "cold start"] = "train"
    during = {name.removeprefix("eval/"): value for name, value in row.items() if name.startswith("eval/")}
    evaluations = ((summary.get("after"), _whole(summary, "steps")), (during, _whole(row, "step")), (before, 0))
    scored = [
        (one, at) for one, at in evaluations if isinstance(one, Mapping) and _rate(one, "exact_match") is not None
    ]
    evaluation, after = max(scored, key=lambda one: one[1], default=({}, None))  # of two at one step the first
    ended = bool(step) and summary.get("steps") == step and not _made_longer(config, summary)
    if not step and (folder / COLD_START / "metrics.jsonl").is_file():
        step = _whole(_metrics(folder / COLD_START / "metrics.jsonl")[0], "step")
        stage, steps = "cold start", _whole(config.get("sft"), "steps")
    state: State = "finished" if ended else "stopped" if step or before else "not begun"
    if is_held(folder):
        state = "training"
    return RunEntry(
        folder, state, step, steps, stage, _rate(evaluation, "exact_match"), _whole(evaluation, "questions") or None,
        after, _budget(config, last), is_incomplete(evaluation),
    )  # fmt: skip


def _check(folder: Path) -> None:
    """Raise ValueError for a file that must not be opened (run_files.py), OSError for one that cannot be."""
    for name in READ:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if what := run_files.wrong(folder / name):
                raise UserError(f"{name}: {what}")


def is_held(folder: Path) -> bool:
    """Return True if a process writes the run now."""
    try:
        with (folder / run_lock.NAME).open("rb") as file:
            if not file.read(1):  # given back; asking for the lock could keep a run that starts now from having it
                return False
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def format_table(found: list[RunEntry]) -> str:
    """Format a line for each run: its folder, state, step and last accuracy."""
    rows = [("run", "state", "step", "exact match")]
    for run in found:
        of = f"{'cold start ' if run.stage == 'cold start' else ''}{run.step}/{run.steps}"
        of = f"{run.step}, {run.budget}" if run.budget else of
        of, told = ("-", run.reason) if run.state == "unreadable" else (of, _accuracy(run))
        rows.append((str(run.folder), run.state, of, told))
    return "\n".join(aligned(rows))


def _accuracy(run: RunEntry) -> str:
    if run.accuracy is None:
        return "-"
    when = f"after step {run.after}" if run.after else "before training"
    return f"{run.accuracy:.3f} over {run.questions} questions, {when}{', INCOMPLETE' * run.incomplete}"


def _budget(config: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """Return what the last step had spent of the budgets that the config sets."""
    limits = {name: _whole(config.get("train"), f"max_{name}") for name in BUDGETS}
    return ", ".join(f"{_whole(last, f'budget/{name}'):,}/{most:,} {name}" for name, most in limits.items() if most)


def _made_longer(config: Mapping[str, Any], summary: Mapping[str, Any]) -> bool:
    """Return True if the config's limits changed since the summary, and no new limit is reached."""
    asked, limits = summary.get("limits"), config.get("train")
    spent = {"steps": "steps"} | {f"max_{name}": name for name in BUDGETS}
    is_spent = any(0 < _whole(limits, limit) <= _whole(summary, name) for limit, name in spent.items())
    changed = isinstance(asked, Mapping) and any(_whole(limits, name) != _whole(asked, name) for name in LIMITS)
    return changed and not is_spent


def _metrics(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the rows of the last step and of the last evaluation ({} for none); keep one line in memory."""
    last = b""
    evaluated: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for last in run_files.lines(path):
            row = _parsed(last) if b'"eval/exact_match"' in last else {}
            if _rate(row, "eval/exact_match") is not None and "step" in row:
                evaluated = row
    return _parsed(last), evaluated


def _object(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _parsed(text: bytes) -> dict[str, Any]:
    value = json_text.parse_or_none(text)
    return value if isinstance(value, dict) else {}


def _whole(value: Any, name: str) -> int:
    """Return a count from a value that may be no mapping; 0 if it is missing or impossible."""
    number = value.get(name) if isinstance(value, Mapping) else None
    return number if isinstance(number, int) and 0 <= number < 2**63 else 0


def _rate(value: Mapping[str, Any], name: str) -> float | None:
    """Return a number from 0 to 1; None if there is none."""
    number = value.get(name)
    return number if isinstance(number, int | float) and 0 <= number <= 1 else None
