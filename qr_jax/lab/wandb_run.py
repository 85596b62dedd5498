"""A run of Weights & Biases, to which a run's metrics go on request (log.wandb)."""

import hashlib
from pathlib import Path

from qr_jax.config import COLD_START
from qr_jax.errors import UserError
from qr_jax.logging.metrics_writer import Values, read


class Wandb:
    """A run of Weights & Biases: that of a run's folder and its cold start, whichever attempt writes to it.

    W&B takes no second value of a step, so that what a run gave up when it went back would stay in its curves. So each
    attempt begins the W&B run anew under the same id (without `resume`, W&B replaces the one of that id) and tells it
    what metrics.jsonl holds. The cold start has an axis of its own, for both count steps from 1.
    """

    def __init__(self, folder: Path, lives: str | None):
        try:
            import wandb
        except ImportError as error:
            raise UserError("log.wandb=true needs the package wandb: pip install 'qr_jax[wandb]'") from error
        name = "/".join(lives.rstrip("/").split("/")[-2:]) if lives else folder.name
        self._run = wandb.init(project="qr_jax", id=wandb_id(folder, lives), name=name, dir=str(folder))
        self._run.define_metric(f"{COLD_START}/*", step_metric=f"{COLD_START}/step")
        self._run.define_metric("*", step_metric="step")
        self._cold_steps = 0
        self._told: set[Path] = set()
        if (folder / COLD_START / "summary.json").is_file():  # it has ended; else its own writer tells what it has
            self.tell(folder / COLD_START)

    def tell(self, folder: Path) -> None:
        """Log the rows of the folder's metrics.jsonl, once."""
        for row in read(folder) if folder not in self._told else ():
            self.log(row)
        self._told.add(folder)

    def log(self, row: Values) -> None:
        """Log a row of metrics.jsonl."""
        step = int(row["step"] or 0)
        numbers = {name: value for name, value in row.items() if value is not None and name != "step"}
        if f"{COLD_START}/loss" in row:
            self._cold_steps, area = step, f"{COLD_START}/"
            named = {area + name.removeprefix(area): value for name, value in numbers.items()}
            self._run.log({f"{area}step": step, **named}, step=step)
        else:
            self._run.log({"step": step, **numbers}, step=self._cold_steps + step)

    def finish(self) -> None:
        self._run.finish()


def wandb_id(folder: Path, lives: str | None = None) -> str:
    """Return an id by the run's bucket or its folder's path: each attempt at a run goes on in the same W&B run."""
    return hashlib.sha256((lives or str(folder.resolve())).encode()).hexdigest()[:16]
