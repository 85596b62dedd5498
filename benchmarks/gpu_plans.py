"""`qr-jax plan --gpu` for docs/gpu.md: the peak memory of every preset of configs/gpu/cards.py.

    python -m benchmarks.gpu_plans                            # all of them, and benchmarks/results/gpu_plans.json
    python -m benchmarks.gpu_plans --only gemma3_1b_80gb      # these anew, the others as they are in that file

Where jax has its plugin of CUDA, XLA compiles the programs (an hour on 2 cores, no GPU needed), else arrays are counted
(minutes). The file keeps both figures of a preset: run it in an environment with the plugin and in one without.
"""

import argparse
import json
import runpy
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import interleave, plans
from benchmarks.tables import markdown
from qr_jax.lab import gpu
from qr_jax.lab.planning.cards import CARDS
from qr_jax.lab.planning.estimate import GIB

PRESETS = "configs/gpu/cards.py"
GPUS = {"24gb": "l4", "40gb": "a100_40gb", "80gb": "a100"}
ROWS = [f"{model}{lora}" for model in ("smollm2", "qwen3_0p6b", "qwen3_1p7b", "gemma3_1b") for lora in ("", "_lora")]
CONFIGS = runpy.run_path(str(interleave.ROOT / PRESETS))
NAMES = [name for row in ROWS for size in GPUS if (name := f"{row}_{size}") in CONFIGS]
RESULTS = interleave.ROOT / "benchmarks/results/gpu_plans.json"


def main(words: Sequence[str] | None = None) -> None:
    """Plan the presets that are named, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    options = parser.parse_args(words)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.only:
        one = plans.run(name, f"{PRESETS}:{name}", "--gpu", GPUS[name.rpartition("_")[2]])
        found.setdefault(name, {})["compiled" if one["answer"]["compiled"] else "counted"] = one
        RESULTS.write_text(json.dumps({each: found[each] for each in NAMES if each in found}, indent=1) + "\n")
    print(table(found), end="")


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return Markdown: a row a model, a column a size of card: peak GiB by counting arrays (by XLA's compiler)."""
    head = ("preset: GiB by counting arrays (compiled by XLA); -: does not fit", *(f"`..._{size}`" for size in GPUS))
    cards = (CARDS[name] for name in GPUS.values())
    holds = (f"{card.usable_bytes / GIB:.1f}" for card in cards)
    sizes = "{:.0f}, an A100's {:.1f} and {:.1f}".format(*(CARDS[name].memory_bytes / GIB for name in GPUS.values()))
    rows = [(f"`{row}`", *(cell(found.get(f"{row}_{size}")) for size in GPUS)) for row in ROWS]
    return markdown([head, (f"what jax may hold: {gpu.FRACTION:g} of an L4's {sizes} GiB", *holds), *rows])


def cell(one: Mapping[str, Any] | None) -> str:
    """Return the two peaks of a preset in GiB; "-" for none."""
    if one is None:
        return "-"
    assert all(found["answer"]["fits"] for found in one.values()), "a preset that does not fit its card"
    peaks = (f"{one[how]['answer']['peak_bytes'] / GIB:.1f}" if how in one else "?" for how in ("counted", "compiled"))
    return "{} ({})".format(*peaks)


if __name__ == "__main__":
    main()
