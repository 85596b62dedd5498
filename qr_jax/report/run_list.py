"""Which runs a folder holds, and how far each of them is: `qr-jax runs`."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qr_jax import run_lock
from qr_jax.config import BUDGETS, LIMITS
from qr_jax.evaluation.complete import is_incomplete
from qr_jax.report.read import BEFORE

State = Literal["training", "finished", "stopped", "not begun"]
SKIPPED = ("checkpoints", "logs", "episodes", "worlds", "questions", "eval")  # folders that hold no run


@dataclass(frozen=True)
class Listed:
    """One run. `steps` is what its config asks for; `accuracy` the last greedy exact match, over `questions`.

    training: a process writes it; finished: its summary tells of its last step; stopped: it was killed or told to stop,
    and the same command goes on with it; not begun: nothing was saved yet.
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


def runs_in(folder: Path) -> list[Listed]:
    """The runs in a folder and below, by name; a run's own cold start is part of it. ValueError: there is no folder."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; name the one that runs were made in (without a name: runs/)")
    return [listed(run) for run in sorted(_folders(folder))]


def _folders(folder: Path) -> Iterator[Path]:
    if (folder / "config.json").is_file() and "architectures" not in _object(folder / "config.json"):  # a model's
        yield folder
        return
    for below in folder.iterdir():
        if below.is_dir() and not below.is_symlink() and below.name not in SKIPPED:
            yield from _folders(below)


def listed(folder: Path) -> Listed:
    """What a run's files say of it, while it may be writing them."""
    config, summary = _object(folder / "config.json"), _object(folder / "summary.json")
    last, rows = _metrics(folder / "metrics.jsonl")
    step, steps = _whole(last, "step"), _whole(config.get("train"), "steps")
    stage: Literal["train", "cold start"] = "train"
    before, after = _object(folder / BEFORE), summary.get("after")
    during = _during(config, before)
    evaluated = [(row["step"], row["eval/exact_match"], during, is_incomplete(row)) for row in rows]
    if isinstance(after, Mapping) and "exact_match" in after:
        evaluated.append((summary.get("steps"), after["exact_match"], after.get("questions"), is_incomplete(after)))
    elif not evaluated and "exact_match" in before:
        evaluated = [(0, before["exact_match"], before.get("questions"), is_incomplete(before))]
    ended = bool(step) and summary.get("steps") == step and not _made_longer(config, summary)
    if not step and (folder / "sft" / "metrics.jsonl").is_file():
        step = _whole(_metrics(folder / "sft" / "metrics.jsonl")[0], "step")
        stage, steps = "cold start", _whole(config.get("sft"), "steps")
    state: State = "finished" if ended else "stopped" if step or before else "not begun"
    if is_held(folder):
        state = "training"
    at, accuracy, questions, part = evaluated[-1] if evaluated else (None, None, None, None)
    return Listed(folder, state, step, steps, stage, accuracy, questions, at, _budget(config, last), bool(part))


def is_held(folder: Path) -> bool:
    """Whether a process writes the run now."""
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


def format_table(found: list[Listed]) -> str:
    """A line a run: its folder, state, step and last accuracy."""
    rows = [("run", "state", "step", "exact match")]
    for run in found:
        of = f"{'cold start ' if run.stage == 'cold start' else ''}{run.step}/{run.steps}"
        of = f"{run.step}, {run.budget}" if run.budget else of
        rows.append((str(run.folder), run.state, of, _accuracy(run)))
    width = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*map(str.ljust, row[:3], width), row[3]]).rstrip() for row in rows)


def _accuracy(run: Listed) -> str:
    if run.accuracy is None:
        return "-"
    when = f"after step {run.after}" if run.after else "before training"
    return f"{run.accuracy:.3f} over {run.questions} questions, {when}{', INCOMPLETE' * run.incomplete}"


def _budget(config: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """What the last step had spent of the budgets that the config sets."""
    limits = {name: _whole(config.get("train"), f"max_{name}") for name in BUDGETS}
    return ", ".join(f"{_whole(last, f'budget/{name}'):,}/{most:,} {name}" for name, most in limits.items() if most)


def _made_longer(config: Mapping[str, Any], summary: Mapping[str, Any]) -> bool:
    """Whether the config was changed since the summary, and what it asks for is not spent yet."""
    asked, limits = summary.get("limits"), config.get("train")
    spent = {"steps": "steps"} | {f"max_{name}": name for name in BUDGETS}
    is_spent = any(0 < _whole(limits, limit) <= _whole(summary, name) for limit, name in spent.items())
    changed = isinstance(asked, Mapping) and any(_whole(limits, name) != _whole(asked, name) for name in LIMITS)
    return changed and not is_spent


def _during(config: Mapping[str, Any], before: Mapping[str, Any]) -> int | None:
    """How many questions an evaluation between the first and the last asks."""
    every, during = before.get("questions"), (config.get("evaluation") or {}).get("during")
    return min(every, during) if every and during else every


def _metrics(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The last step's row, and the rows that have an evaluation."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError:
        return {}, []
    rows = [_parsed(line) for line in lines if b'"eval/exact_match"' in line]
    last = _parsed(lines[-1]) if lines else {}
    return last, [row for row in rows if row.get("eval/exact_match") is not None and "step" in row]


def _object(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return {}


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _whole(value: Any, name: str) -> int:
    """A whole number of a mapping that may not be one; 0 without."""
    number = value.get(name) if isinstance(value, Mapping) else None
    return number if isinstance(number, int) else 0
