"""The runs whose reports docs/gallery.md shows; what each report draws is kept in docs/gallery/NAME.json.gz.

python -m benchmarks.gallery            # the runs that are not kept yet: 2 to 8 minutes each on 2 cores
python -m benchmarks.gallery overlap    # one of them
"""

import argparse
import gzip
import json
import re
from pathlib import Path
from typing import Any

from benchmarks import interleave, kept_runs

FOLDER = interleave.ROOT / "docs/gallery"
QUICKSTART = ("configs/quickstart.py", "seed=206")
RUNS = {  # the words of `qr-jax train`
    "quickstart": QUICKSTART,
    "adapters": (*QUICKSTART, "model.lora.rank=16", "learner.lr=5.6e-3", "learner.schedule=linear"),
    "overlap": (*QUICKSTART, "train.overlap=1"),
    "control": (*QUICKSTART, "train.shuffle_rewards=true"),
}
GROUPS = 12  # with their episodes, which are most of a report's size
DATA = re.compile('<script type="application/json" id="(run|episodes)-data">(.*?)</script>', re.DOTALL)


def main() -> None:
    """Make the runs that are named, or those that are not kept, and keep what their reports draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RUNS))
    for name in parser.parse_args().names or [name for name in RUNS if not file_of(name).is_file()]:
        folder = interleave.ROOT / "runs/gallery" / name
        kept_runs.qr_jax("train", *RUNS[name], "--run", folder)
        text = json.dumps(drawn((folder / "report.html").read_text(encoding="utf-8")), separators=(",", ":"))
        file_of(name).write_bytes(gzip.compress(text.encode(), mtime=0))


def file_of(name: str) -> Path:
    return FOLDER / f"{name}.json.gz"


def kept(name: str) -> dict[str, Any]:
    """Return what `drawn` returned of the run's report."""
    return json.loads(gzip.decompress(file_of(name).read_bytes()))


def drawn(report: str) -> dict[str, Any]:
    """Return what the report's script draws, with GROUPS of its groups: the one it opens on, and every so many-th."""
    blocks = dict(DATA.findall(report))
    episodes = json.loads(blocks["episodes"])
    groups, opens = episodes["groups"], episodes["opens"]
    every = range(0, len(groups), max(len(groups) // (GROUPS - 1), 1))
    some = [groups[at] for at in dict.fromkeys([opens, *every])][:GROUPS]
    shown = {kind: sum(kind in group["kinds"] for group in some) for kind in episodes["kinds"]}
    rule = f"{len(some)} of the groups that the run's report shows. {episodes['rule']}"
    return {
        "run": json.loads(blocks["run"]),
        "episodes": {**episodes, "groups": some, "shown": shown, "rule": rule, "opens": 0},
    }


if __name__ == "__main__":
    main()
