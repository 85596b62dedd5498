"""Compare two runs of one config: every line, draw and episode, and the last checkpoint's arrays.

What depends on the clock, and how often a run was started, is left out.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qr_jax.run import checkpoint


def lines(folder: Path) -> list[str]:
    """metrics.jsonl without what depends on the clock, as the bytes that were written."""
    kept = []
    for line in (folder / "metrics.jsonl").read_bytes().splitlines():
        row = json.loads(line)
        kept.append(json.dumps({name: value for name, value in row.items() if not name.startswith(("time/", "perf/"))}))
    return kept


def weights(folder: Path, step: int) -> dict[str, bytes]:
    """Return the bytes of every array of a checkpoint's state."""
    found = checkpoint.Checkpoints(folder / "checkpoints")
    nested: dict[str, Any] = {}
    for name, (dtype, shape) in found.arrays(step).items():
        at = nested
        *way, last = name.split(".")
        for key in way:
            at = at.setdefault(key, {})
        at[last] = jax.ShapeDtypeStruct(shape, dtype)
    state, _ = found.restore(step, nested)
    found.close()
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def host(folder: Path, step: int) -> dict[str, Any]:
    """Return a checkpoint's host values: arrays as bytes, the rest as it is written, without seconds."""
    place = folder / "checkpoints" / f"step_{step:08d}"
    with np.load(place / "host.npz") as arrays:
        values: dict[str, Any] = {name: arrays[name].tobytes() for name in arrays}
    return values | json.loads((place / "host.json").read_text()) | {"metrics_bytes": 0, "before": 0}


def differences(run: Path, whole: Path, step: int) -> list[str]:
    """Name what differs between two runs; `step` is their last checkpoint's."""

    def episodes(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (folder / "episodes").iterdir()}

    alike = {
        "metrics.jsonl": lines(run) == lines(whole),
        "sft/metrics.jsonl": not (whole / "sft").exists() or lines(run / "sft") == lines(whole / "sft"),
        "ledger.jsonl": (run / "ledger.jsonl").read_bytes() == (whole / "ledger.jsonl").read_bytes(),
        "episodes": episodes(run) == episodes(whole),
        "the last checkpoint's host values": host(run, step) == host(whole, step),
        "the last checkpoint's state": weights(run, step) == weights(whole, step),
    }
    return [name for name, is_alike in alike.items() if not is_alike]
