"""Writers of metrics: a JSONL file always, TensorBoard and W&B on request, and a terminal's lines."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qr_jax import plugins
from qr_jax.errors import UserError
from qr_jax.evaluation.scores import is_incomplete
from qr_jax.logging.metrics import NAMES, about
from qr_jax.logging.terminal import clock
from qr_jax.run import json_files

FILE = "metrics.jsonl"
WIDTH = 120
ORDER = {name: at for at, name in enumerate(NAMES)}
Values = Mapping[str, Any]


class Writer:
    """Writes a step's metrics to `folder`. Only process 0 has a Writer; W&B takes its key from the environment.

    `first_step` is the step after which this attempt goes on: TensorBoard drops what an earlier attempt wrote after it.
    `lives` is the run's bucket, the same on every machine. `within`, for a cold start: the writer of the run
    it belongs to, whose W&B run gets its metrics too.
    """

    def __init__(
        self,
        folder: str | Path,
        tensorboard: bool = True,
        wandb: bool = False,
        aliases: Sequence[str] = (),
        *,
        first_step: int = 0,
        lives: str | None = None,
        within: "Writer | None" = None,
    ) -> None:
        self.folder, self.aliases = Path(folder), tuple(aliases)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = (self.folder / FILE).open("ab")
        self._tensorboard = _tensorboard(self.folder / "tensorboard", first_step) if tensorboard else None
        # of lab/wandb_run.py, if the run has one
        self.wandb, self._is_lent = within.wandb if within else None, bool(within)
        if wandb and not within:
            self.wandb = plugins.around("lab.wandb_run").Wandb(self.folder, lives)
        if self.wandb is not None:
            self.wandb.tell(self.folder)

    def write(self, step: int, values: Values) -> None:
        """Write one line: the step, then the metrics in the order of `metrics.NAMES`. ValueError on a name not listed
        there.

        Equal values give equal bytes: floats are written as Python's repr, NaN and infinities as null.
        """
        row = {"step": int(step), **_row(values, self.aliases)}
        self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        self._file.flush()
        numbers = {name: value for name, value in row.items() if value is not None and name != "step"}
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(row)

    def sync(self) -> int:
        """Bring everything written to the disk; returns the length of the file in bytes, for the checkpoint."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._tensorboard is not None:
            self._tensorboard.flush()
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        self.sync()
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self.wandb is not None and not self._is_lent:
            self.wandb.finish()


def _tensorboard(folder: Path, first_step: int) -> Any:
    from tensorboardX import SummaryWriter  # loads protobuf: only where it is asked for

    # Event files are named by their second: the suffix keeps two apart, and TensorBoard reads them in name order.
    number = len(list(folder.glob("events.*"))) if folder.is_dir() else 0
    return SummaryWriter(str(folder), purge_step=first_step + 1, filename_suffix=f".{number:06d}")


def _row(values: Values, aliases: Sequence[str]) -> dict[str, float | int | None]:
    names = sorted(values, key=lambda name: (ORDER.get(name, len(ORDER)), name))
    row = {name: _number(name, values[name]) for name in names}
    for name in row:
        about(name)
    if aliases:
        row |= plugins.around("lab.metric_aliases").aliases(row, aliases)
    return row


def _number(name: str, value: Any) -> float | int | None:
    """Make a Python number of a Python, numpy or jax scalar; None for None and for a number that is not finite."""
    if value is None:
        return None
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, (int, float)):
        raise UserError(f"metric {name} is {value!r} ({type(value).__name__}); wanted a number or None")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return int(value) if isinstance(value, int) else value


def read(folder: str | Path) -> list[dict[str, float | int | None]]:
    """Read the rows of a run's metrics.jsonl, a step each; a last line cut off by a crash is left out.

    ValueError for a line that no run writes.
    """
    return list(json_files.rows(Path(folder) / FILE, "step"))


def discard_after(folder: str | Path, length: int, attempt: int, *, name: str = FILE) -> int:
    """Move what the file holds beyond `length` bytes to logs/attempt_N/discarded; returns the number of lines moved.

    ValueError when the file is shorter than a checkpoint says it was: somebody cut or replaced it.
    """
    path = Path(folder) / name
    size = path.stat().st_size if path.exists() else 0
    if size < length:
        before = f"the checkpoint was written when it had {length}"
        raise UserError(f"{path} has {size} bytes, but {before}; was it changed?")
    if size == length:
        return 0
    aside = Path(folder) / "logs" / f"attempt_{attempt}" / "discarded" / name
    aside.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b") as file, aside.open("ab") as kept:
        file.seek(length)
        later = file.read()
        kept.write(later)
        kept.flush()
        os.fsync(kept.fileno())  # before the lines leave their old place
        file.truncate(length)
        os.fsync(file.fileno())
    return len(later.splitlines())


def live_line(step: int, metrics: Values, total: int, *, width: int = WIDTH) -> str:
    """Format a step in at most `width` columns: pass rate, zero-variance rate, effective batch, time left; what fits of
    the batch by origin. Where the step was evaluated, its greedy exact match.
    """
    words = {"fresh": "fresh", "ex_hard": "hard", "ex_easy": "easy", "ex_surplus": "surplus", "ex_consumed": "again"}
    accepted = [(word, metrics.get(f"pool/accepted_{origin}")) for origin, word in words.items()]
    batch = " ".join(f"{word} {count}" for word, count in accepted if count)
    parts = [
        f"step {step}/{total}",
        f"pass {_short(metrics.get('reward/outcome_mean', metrics.get('reward/mean')))}",
        f"zero-var {_short(metrics.get('pool/zero_variance_rate'))}",
        f"batch {_short(metrics.get('pool/accepted'))}",
        f"left {_left(metrics.get('time/step_s'), total - step)}",
    ]
    if metrics.get("eval/exact_match") is not None:
        lacks = " INCOMPLETE" * is_incomplete(metrics)
        lacks += f" ({metrics['eval/faults']} faults)" if metrics.get("eval/faults") else ""
        parts.insert(1, f"greedy {_short(metrics['eval/exact_match'])}{lacks}")
    line = "  ".join(parts)
    with_origins = line.replace(f"  {parts[-1]}", f" ({batch})  {parts[-1]}") if batch else line
    return with_origins if len(with_origins) <= width else line


def _short(value: Any) -> str:
    """Format a number in few characters: 12, .415, 3.21, 45.1k; - for None."""
    if value is None:
        return "-"
    value = float(value)
    if not math.isfinite(value):
        return "-"
    if value == int(value) and abs(value) < 100_000:
        return str(int(value))
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.1f}{letter}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.4g}"


def _left(step_s: Any, steps: int) -> str:
    """Format the time that `steps` take; - if `step_s` is not known."""
    if step_s is None or not math.isfinite(float(step_s)):
        return "-"
    return clock(float(step_s) * max(steps, 0))
