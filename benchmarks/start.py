"""From Enter to the first sampled token, beside an earlier checkout, compiled programs kept or not; in turn.

    python -m benchmarks.start --before ../before          (a checkout as in quickstart.py; 10 minutes)

Cold starts are left out (sft.steps=0). "cold": the folder of compiled programs and indexes is empty; "warm": a start of
the same contender filled it. Each contender starts once before that, which builds the world and is not counted. SmolLM2
needs `make smollm2` in both checkouts.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import interleave
from benchmarks.tables import markdown

CONFIGS = {
    "quickstart": ("configs/quickstart.py", "sft.steps=0"),
    "smollm2": ("configs/smollm2_multihop.py", "sft.steps=0", "evaluation.base=false"),
}
WANTED_S = {"quickstart": ("quickstart", 15, 6), "smollm2": ("SmolLM2's laptop preset", 45, 15)}
KINDS = {"cold": "nothing compiled", "warm": "programs and index kept"}
DATA = os.environ.get("QR_JAX_DATA", str(interleave.ROOT.parent / "shared" / "data"))


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    module = "benchmarks.start_ours"
    contenders = [interleave.checkout("before", module, options.before), interleave.Contender("ours", module)]
    for name in options.configs:
        interleave.run(f"start_{name}", options, [], lambda name=name: measure(options, contenders, name), show)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = interleave.parser(__doc__, rounds=3, peers=False)
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare with, its .venv made")
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=list(CONFIGS), help="which configs (all)")
    return parser.parse_args(words)


def measure(options: argparse.Namespace, contenders: Sequence[interleave.Contender], name: str) -> dict[str, Any]:
    samples: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for contender in contenders:
            aside = Path(folder) / f"aside_{contender.name}"
            start(contender, CONFIGS[name], aside / "run", aside)
        for at in range(options.rounds):
            for contender in contenders:
                programs = Path(folder) / f"{contender.name}_{at}"
                for kind in ("cold", "warm"):
                    run = Path(folder) / f"run_{contender.name}_{at}_{kind}"
                    samples.setdefault(f"{contender.name} {kind}", []).append(
                        start(contender, CONFIGS[name], run, programs)
                    )
    medians = {kind: interleave.median(answers, "seconds") for kind, answers in samples.items()}
    return {"seconds": medians, "starts": samples}


def start(contender: interleave.Contender, config: Sequence[str], run: Path, programs: Path) -> dict[str, Any]:
    python = {"PYTHONDONTWRITEBYTECODE": ""}  # as for most users: a second start finds its modules compiled
    kept = {"QR_JAX_COMPILED": str(programs), "XDG_CACHE_HOME": str(programs / "cache")}
    environment = contender.environment(**kept, QR_JAX_DATA=DATA, **python)
    done = subprocess.run(
        [contender.python, *contender.words, str(time.time()), *config, "--run", run],
        cwd=contender.tree, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    for line in done.stdout.splitlines():
        if line.startswith(interleave.MARK):
            return json.loads(line.removeprefix(interleave.MARK))
    raise SystemExit(f"{contender.name} ended ({done.returncode}) before its first token:\n{done.stderr[-2000:]}")


def show(figures: dict[str, Any]) -> None:
    rows = [
        [kind, figures["seconds"][kind], answers[0]["programs"], max(answer["gib"] for answer in answers)]
        for kind, answers in figures["starts"].items()
    ]
    print(interleave.table(["", "seconds", "programs", "GiB"], rows))


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown of each config's result: medians, programs made until then, most memory."""
    rows = [("from Enter to the first token", "wanted", "before: s, programs, GiB", "after: s, programs, GiB")]
    for name, (preset, *wanted_s) in WANTED_S.items():
        for kind, most_s in zip(("cold", "warm"), wanted_s):
            sides = []
            for who in ("before", "ours"):
                answers = found[name]["starts"][f"{who} {kind}"]
                made, gib = answers[0]["programs"], max(answer["gib"] for answer in answers)
                sides.append(f"{found[name]['seconds'][f'{who} {kind}']:.1f}, {made}, {gib:.2g}")
            rows.append((f"{preset}, {KINDS[kind]}", f"{most_s} s", *sides))
    return markdown(rows)


if __name__ == "__main__":
    main()
