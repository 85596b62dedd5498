"""What the guards say of the study's runs, their falls and their healthy ones; Markdown on stdout.

    python -m benchmarks.guards              # half b, which is reported
    python -m benchmarks.guards --half a     # where none of the runs that were probed fell
    python -m benchmarks.guards fall=0.06    # with other thresholds (Guards in qr_jax/config.py)

A run has collapsed that ends more than .1 under its own best evaluation. It fell at the second probe in a row more than
.05 under the best one after which no probe came back. Each step's figures, as study.py kept them, go through the guards
that a run has (qr_jax/step/guards.py). An alarm from the fall to 10 steps after it is in time, a later one late; one
before the fall is false, as every one in a run that did not fall. The thresholds were found on runs of which no probes
are kept.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import markdown
from benchmarks.study_results import RESULTS, same
from qr_jax.cli.overrides import override
from qr_jax.config import Config, Guards
from qr_jax.step import guards

COLLAPSE, FALL, WITHIN = 0.1, 0.05, 10


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("thresholds", nargs="*", metavar="NAME=VALUE", help="other than the shipped ones")
    parser.add_argument("--half", choices=("a", "b"), default="b", help="of the study (b)")
    options = parser.parse_args(words)
    limits = override(Config(), [f"guards.{word}" for word in options.thresholds]).guards
    runs = dict(probed(RESULTS / options.half))
    if not runs:
        sys.exit(f"error: no run in {RESULTS / options.half} has probes; make study makes some")
    print(table(runs, limits))


def probed(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each kept run that was probed, by its file's place; the very same run of two recipes once."""
    seen = set()
    for path in sorted(folder.rglob("seed_*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if any(value is not None for value in run.get("series", {}).get("probe", ())) and same(run) not in seen:
            seen.add(same(run))
            yield str(path.relative_to(folder).with_suffix("")), run


def table(runs: Mapping[str, Mapping[str, Any]], limits: Guards) -> str:
    """A row a guard: falls caught in time and late, false alarms before falls and elsewhere; then each fall by name."""
    said = {name: alarm_steps(run["series"], limits) for name, run in runs.items()}
    falls = [name for name, run in runs.items() if run["final"] < run["best"] - COLLAPSE]
    fallen = {name: fell(runs[name]["series"]["probe"]) for name in falls}
    head = ("guard", f"of {len(falls)} falls: in time", "late", "falsely before", f"of {len(runs) - len(falls)} others")
    rows = [head]
    for guard in (*guards.JUDGES, "any of them"):
        steps = {name: of_guard(alarms, guard) for name, alarms in said.items()}
        after = {name: [step - fallen[name] for step in steps[name] if step >= fallen[name]] for name in falls}
        in_time = sum(min(late, default=WITHIN + 1) <= WITHIN for late in after.values())
        late = sum(bool(steps) for steps in after.values()) - in_time
        before = sum(any(step < fallen[name] for step in steps[name]) for name in falls)
        false = [name for name in runs if name not in falls and steps[name]]
        listed = f"{len(false)}{': ' if false else ''}{', '.join(false)}"
        rows.append((guard, str(in_time), str(late), str(before), listed))
    named = [f"- {name}: fell by step {fallen[name]}; {told(said[name], fallen[name])}" for name in falls]
    return "\n".join([markdown(rows), "", *named])


def told(alarms: Mapping[str, Sequence[int]], fall: int) -> str:
    """Each guard's first alarm before the fall, and the first from it on."""
    parts = []
    for guard, steps in alarms.items():
        firsts = [min(part) for part in ([s for s in steps if s < fall], [s for s in steps if s >= fall]) if part]
        parts.append(f"{guard} at {' and '.join(map(str, firsts))}")
    return ", ".join(parts) or "no alarm"


def fell(probes: Sequence[float | None]) -> int:
    """The step of the second of the last probes that all lie FALL under the best; the last step where none do."""
    at = {step: value for step, value in enumerate(probes, 1) if value is not None}
    values = np.array(list(at.values()))
    under = values < np.maximum.accumulate(values) - FALL
    stays = np.flatnonzero(under & (np.cumsum(~under[::-1])[::-1] == 0))
    return list(at)[stays[1]] if len(stays) > 1 else len(probes)


def alarm_steps(series: Mapping[str, list[float | None]], limits: Guards) -> dict[str, list[int]]:
    """The steps at which each guard spoke."""
    watch, found = guards.Watch(), {}
    metrics = {name: metric for name, metric in guards.FIGURES.items() if name in series}
    for step in range(1, len(series["probe"]) + 1):
        row: dict[str, Any] = {metric: series[name][step - 1] for name, metric in metrics.items()}
        watch = watch.after(step, row)
        for guard in guards.alarms(watch, limits):
            found.setdefault(guard, []).append(step)
    return found


def of_guard(alarms: Mapping[str, list[int]], guard: str) -> list[int]:
    """The steps of one guard, or of all."""
    return alarms.get(guard, []) if guard in guards.JUDGES else sorted({*chain(*alarms.values())})


if __name__ == "__main__":
    main()
