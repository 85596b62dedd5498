"""The paper's table from the folders of its rows' runs (configs/paper/), Markdown on stdout.

    make paper-table RUNS="runs/*"
    python -m benchmarks.paper_table RUN ... [--suite]

One table a model, K and k. Accuracy is greedy exact match of each run's last evaluation, or with --suite the macro
average of `qr-jax eval RUN --suite qa7`, whose F1 (and judge) stand beside it. +- is the 95 % interval over seeds
(Student's t). The difference from the first rule (grpo where it is there) has that of `qr-jax compare`, over seeds and
questions, or with --suite that of t over the seeds that both have. Shares are of the last tenth, behind each what
chance alone would give. A run is never left out: what cannot be read, or was asked otherwise, ends the command.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tables import markdown, over_seeds
from qr_jax.evaluation import last_evaluation
from qr_jax.evaluation.side_by_side import FILE
from qr_jax.report import comparison
from qr_jax.studies import compare

SHARES = {"zero_variance": "zero variance", "recycled": "recycled"}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a finished run's folder")
    parser.add_argument("--suite", action="store_true", help="from `qr-jax eval RUN --suite qa7`, in the run's eval/")
    options = parser.parse_args(words)
    try:
        print(tables(options.runs, suite=options.suite))
    except ValueError as error:
        sys.exit(f"error: {error}")


def tables(folders: Sequence[Path], *, suite: bool = False, null_seeds: int = 6) -> str:
    """All tables. ValueError where a folder is no finished run, or with `suite` has not one score of it."""
    runs = sorted((compare.read(folder) for folder in folders), key=_place)
    if suite:
        scores = {run.folder: suite_score(run.folder) for run in runs}
        if unlike := last_evaluation.unlike([(str(name), one["manifest"]) for name, one in scores.items()]):
            raise ValueError(f"these were not asked alike and stand in no one table: {' | '.join(unlike)}")
    found = []
    for (model, samples, times), some in itertools.groupby(runs, lambda run: _place(run)[:3]):
        of = list(some)
        compared = compare.compare([run.folder for run in of], null_seeds=null_seeds)
        rows = suite_rows(of, compared, scores) if suite else own_rows(compared)
        head = f"**{model}, K {samples}, k {times}** ({compared['spent'][1]:,} {compared['measure']} a run)"
        found.append("\n\n".join([head, markdown(rows), *(f"Not alike: {told}" for told in compared["warnings"])]))
    return "\n\n".join(found)


def _place(run: compare.Run) -> tuple[Any, ...]:
    """Where a run stands: its model, K and k; GRPO first among the rules."""
    pool = run.settings.pool
    rule = compare.rule_label(run.settings)
    return run.settings.model.name, pool.samples, pool.oversample, rule != "grpo", rule, run.settings.seed


def own_rows(compared: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row a rule, of the runs' own last evaluations."""
    rows = [("rule", "seeds", "exact match", "less the first", *SHARES.values())]
    for rule, one in compared["rules"].items():
        gap = one["difference"]
        less = comparison.less(gap) if gap else ""
        rows.append((rule, str(len(one["seeds"])), over_seeds(one["accuracy"]["values"]), less, *shares(one)))
    return rows


def suite_rows(
    runs: Sequence[compare.Run], compared: Mapping[str, Any], scores: Mapping[Path, Mapping[str, Any]]
) -> list[tuple[str, ...]]:
    """A row a rule, of the suite's macro averages."""
    named = list(next(iter(scores.values()))["macro"]["scores"])
    rows = [("rule", "seeds", *named, f"{named[0]} less the first", *SHARES.values())]
    seeds = {str(run.folder): run.settings.seed for run in runs}
    first: dict[int, float] = {}
    for rule, one in compared["rules"].items():
        by_seed = {seeds[name]: scores[Path(name)]["macro"]["scores"] for name in one["runs"]}
        own = {seed: score[named[0]]["mean"] for seed, score in by_seed.items()}
        gaps = [own[seed] - first[seed] for seed in own if seed in first]
        first = first or own
        cells = [over_seeds([score[name]["mean"] for score in by_seed.values()]) for name in named]
        rows.append((rule, str(len(own)), *cells, over_seeds(gaps, "+"), *shares(one)))
    return rows


def shares(one: Mapping[str, Any]) -> list[str]:
    """Each share and, in brackets, the null control's band."""
    bands = [one["null"][name] for name in SHARES]
    between = [f" ({_figure(band['low'])} to {_figure(band['high'])})" for band in bands]
    return [_figure(one[name]["mean"]) + band for name, band in zip(SHARES, between, strict=True)]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def suite_score(folder: Path) -> dict[str, Any]:
    """The one score of a suite in a run's eval/. ValueError where there is none, or more than one."""
    files = sorted((folder / "eval").rglob(FILE))
    if len(files) != 1:
        listed = f": {', '.join(str(path.parent) for path in files)}" if files else ""
        todo = "make one with qr-jax eval RUN --suite qa7, and take others out of its eval/"
        raise ValueError(f"{folder} has {len(files)} scores of a suite{listed}; wanted one: {todo}")
    return json.loads(files[0].read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
