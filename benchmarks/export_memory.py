"""The peak memory of an export: weights of SmolLM2's shape, float32 in memory, written as bfloat16 safetensors.

    python benchmarks/export_memory.py                               # this checkout
    PYTHONPATH=../older python benchmarks/export_memory.py           # another one

One line of JSON, in GiB: what the process held before, its peak while it wrote, and the file.
"""

import json
import resource
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from qr_jax.lab import hf_folder
from qr_jax.models import decoder, families

GIB_KIB = 2**20  # ru_maxrss counts KiB


def main() -> None:
    cfg = families.PRESETS["smollm2_135m"]
    params = {name: filled(array) for name, array in decoder.abstract(cfg).items()}
    tokenizer = SimpleNamespace(size=cfg.vocab, eos_ids=(0,), pad_id=0, save=lambda folder: None)
    before = peak_gib()
    with tempfile.TemporaryDirectory() as folder:
        hf_folder.save(Path(folder) / "hf", cfg, params, tokenizer)  # pyright: ignore[reportArgumentType]
        written = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors")) / 2**30
    print(json.dumps({"before": round(before, 2), "peak": round(peak_gib(), 2), "file": round(written, 2)}))


def filled(tree):
    """Each array of the tree written to, so that its memory is really held."""
    return {name: filled(part) for name, part in tree.items()} if isinstance(tree, dict) else np.ones(tree.shape, "f4")


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB_KIB


if __name__ == "__main__":
    main()
