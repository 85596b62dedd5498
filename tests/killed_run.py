"""Train a tiny run in FOLDER; with a POINT, this process kills itself there (as `kill -9` would).

    python tests/killed_run.py FOLDER... [--die POINT] [--bucket PLACE] [--lora RANK] [--overlap 1]

Points: "rollout" (in step 3's first tick), "metrics" (line 3 is written, its checkpoint is not), "checkpoint" (files of
step 2 are written, its commit marker is not), "end" (the same of the last step, once the run has a summary; or after
LATE_S without one, which it must not have).
"""

import argparse
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from qr_jax import config
from qr_jax.config import use
from qr_jax.logging import metrics_writer, terminal
from qr_jax.rollout import engine
from qr_jax.run import committed, lease
from qr_jax.train import train

LATE_S = 5.0  # more than what follows the last step takes


def tiny(folder: Path) -> config.Config:
    """Five steps of a two-layer model on a world of 200 documents; a checkpoint every two."""
    base = config.load(Path(__file__).parents[1] / "configs" / "two_layer.py")
    return replace(
        base,
        data=replace(
            base.data, world={"documents": 200, "train": 40, "dev": 8, "traces": 20}, world_path=str(folder / "worlds")
        ),
        pool=replace(base.pool, queries=4, samples=4, min_signal=3),
        rollout=replace(base.rollout, lanes=2),
        reward=use("odd_tokens.odd_tokens"),
        train=replace(base.train, steps=5, checkpoint_every=2, keep_checkpoints=5),
        mesh=config.Mesh(devices=1),
    )


def adapted(settings: config.Config, rank: int, **more) -> config.Config:
    """The same with adapters of that rank; 0: without."""
    return replace(settings, model=replace(settings.model, lora=config.Lora(rank, **more)))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(point: str) -> None:
    """Make this process kill itself at the point."""
    if point == "rollout":
        count, run = [0], engine.Engine.run

        def counted(self, *positional, **named):
            if named.get("purpose", "train") == "train":
                count[0] += 1
                if count[0] == 3:
                    named["stop_now"] = die
            return run(self, *positional, **named)

        engine.Engine.run = counted
    elif point == "metrics":
        write = metrics_writer.Writer.write

        def written(self, step, values):
            write(self, step, values)
            if step == 3 and "pool/drawn" in values:
                die()

        metrics_writer.Writer.write = written
    elif point in ("checkpoint", "end"):
        commit = committed.commit
        name = {"checkpoint": "step_00000002", "end": "step_00000005"}[point]

        def uncommitted(place, *more, **named):
            folder = place.parent.parent
            if place.name == name and folder.name != "sft":
                until = time.monotonic() + LATE_S * (point == "end")
                while time.monotonic() < until and not (folder / "summary.json").exists():
                    time.sleep(0.05)
                die()
            return commit(place, *more, **named)

        committed.commit = uncommitted
    else:
        raise ValueError(f"no point {point!r}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--die", default=None)
    parser.add_argument("--bucket", default=None)
    parser.add_argument("--lora", type=int, default=0)
    parser.add_argument("--overlap", type=int, default=0)
    arguments = parser.parse_args()
    lease.RENEW_S, lease.STALE_S, lease.ASK_S = 1.0, 6.0, 0.5  # a new machine takes a lost one's place at once
    if arguments.die:
        die_at(arguments.die)
    terminal.speak("stdout", verbose=True)
    for folder in arguments.folders:
        settings = adapted(tiny(arguments.folders[0].parent), arguments.lora)
        how = {"bucket": arguments.bucket, "overlap": arguments.overlap}
        train(replace(settings, train=replace(settings.train, **how)), folder)
