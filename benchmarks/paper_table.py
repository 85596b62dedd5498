"""The paper's table (Coelho et al. 2026, arXiv:2606.10709, Pass@1) and one of your runs' folders, Markdown on stdout.

    make paper-table                    # the paper's rows alone
    make paper-table RUNS="runs/*"
    python -m benchmarks.paper_table RUN ... [--suite]

One table a model, K and k. Accuracy is greedy exact match of each run's last evaluation, or with --suite the macro
average of `qr-jax eval RUN --suite paper` (or qa7, or web), whose F1 (and judge) stand beside it; each such score then
stands under the paper's rows too (web's in a table of its own), by the same figure: the judge's Pass@1, +- its standard
error over eight runs. A score's number of questions is told: one of --limit 3 is no whole suite's. Else +- is
the 95 % interval over seeds (Student's t). The difference from the first rule (grpo where it is there) has that of
`qr-jax compare`, over seeds and questions, or with --suite that of t over the seeds that both have. Shares are of the
last tenth, behind each what chance alone would give. A run is never left out: what cannot be read, or was asked
otherwise, ends the command.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tables import markdown, over_seeds
from qr_jax.lab import compare, last_evaluation
from qr_jax.lab.report import comparison
from qr_jax.lab.side_by_side import FILE

SETS = {"2wiki": "2Wiki", "bamboogle": "Bamboogle", "hotpotqa": "HotpotQA", "musique": "MuSiQue", "nq": "NQ",
        "popqa": "PopQA", "triviaqa": "TriviaQA"}  # fmt: skip
# The paper's Pass@1 in percent by set in that order, the mean of the sets and its standard error over 8 runs.
PAPER = {
    "Qwen3-1.7B": (37.4, 44.4, 44.1, 16.3, 54.5, 41.8, 68.6, 43.9, 0.40),
    "1.7B + cold start": (54.8, 47.2, 54.4, 24.6, 67.6, 52.0, 86.0, 55.2, 0.33),
    "1.7B + GRPO": (70.9, 68.8, 66.6, 36.9, 69.9, 54.4, 86.9, 64.9, 0.21),
    "1.7B + Bounded-DAPO": (69.5, 67.2, 66.9, 36.9, 69.5, 53.5, 85.2, 64.1, 0.20),
    "1.7B + recycling": (71.7, 72.4, 67.7, 38.0, 70.1, 54.2, 87.8, 66.0, 0.17),
    "1.7B + soft recycling": (69.6, 71.1, 67.3, 36.6, 69.4, 54.7, 88.1, 65.2, 0.20),
    "Qwen3-4B": (57.9, 61.2, 57.6, 29.8, 72.0, 55.6, 84.2, 59.8, 0.24),
    "4B + cold start": (68.9, 64.4, 64.5, 33.8, 73.1, 55.7, 88.5, 64.1, 0.19),
    "4B + GRPO": (77.7, 77.2, 73.0, 40.7, 69.9, 53.1, 89.1, 68.7, 0.17),
    "4B + Bounded-DAPO": (77.4, 77.7, 72.4, 41.8, 73.7, 54.2, 90.8, 69.7, 0.17),
    "4B + recycling": (79.1, 84.0, 74.4, 41.3, 74.4, 55.8, 89.9, 71.3, 0.20),
}
WEB = {"gaia": "GAIA", "hle": "HLE", "webwalkerqa": "WebWalkerQA"}
PAPER_WEB = {"1.7B": (21.4, 8.0, 35.4), "4B": (24.8, 10.4, 36.3)}  # the same figure, of the paper's trained agents
SHARES = {"zero_variance": "zero variance", "recycled": "recycled"}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="a finished run's folder")
    parser.add_argument("--suite", action="store_true", help="from `qr-jax eval RUN --suite paper`, in its eval/")
    options = parser.parse_args(words)
    try:
        scores = [(str(folder), one) for folder in options.runs if options.suite for one in suite_scores(folder)]
        print(beside_paper(scores))
        if options.runs:
            print(tables(options.runs, suite=options.suite))
    except ValueError as error:
        sys.exit(f"error: {error}")


def tables(folders: Sequence[Path], *, suite: bool = False, null_seeds: int = 4) -> str:
    """All tables, with `suite` those of each suite. ValueError where a folder is no finished run, or has no score."""
    runs = sorted((compare.read(folder) for folder in folders), key=_place)
    if not suite:
        return _tables(runs, None, null_seeds)
    scores: dict[str, dict[Path, dict[str, Any]]] = {}
    for run in runs:
        for one in suite_scores(run.folder):
            scores.setdefault(one["suite"], {})[run.folder] = one
    found = []
    for name, by_run in scores.items():
        if unlike := last_evaluation.unlike([(str(folder), one["manifest"]) for folder, one in by_run.items()]):
            raise ValueError(f"these were not asked alike and stand in no one table: {' | '.join(unlike)}")
        found.append(_tables([run for run in runs if run.folder in by_run], by_run, null_seeds))
        found += [f"No score of the suite {name}: {run.folder}" for run in runs if run.folder not in by_run]
    return "\n\n".join(found)


def _tables(runs: Sequence[compare.Run], scores: Mapping[Path, Mapping[str, Any]] | None, null_seeds: int) -> str:
    """A table a model, K and k: of the runs' `scores` of one suite, or of their own last evaluations."""
    found = []
    for (model, samples, times), some in itertools.groupby(runs, lambda run: _place(run)[:3]):
        of = list(some)
        compared = compare.compare([run.folder for run in of], null_seeds=null_seeds)
        rows = own_rows(compared) if scores is None else suite_rows(of, compared, scores)
        head = f"**{model}, K {samples}, k {times}** ({compared['spent'][1]:,} {compared['measure']} a run"
        if scores is not None:
            one = scores[of[0].folder]
            head += f"; the suite {one['suite']}, {questions(one)} questions"
        found.append("\n\n".join([f"{head})", markdown(rows), *(f"Not alike: {it}" for it in compared["warnings"])]))
    return "\n\n".join(found)


def questions(scored: Mapping[str, Any]) -> str:
    """How many questions a score of a suite is over: "3,197", or "20 of 21" where some have no answer."""
    counts = [sum(one.get(name, 0) for one in scored["sets"].values()) for name in ("questions", "asked")]
    return " of ".join(f"{count:,}" for count in dict.fromkeys(counts))


def beside_paper(scores: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The paper's rows, and under them those of suites' (name, score): Pass@1 by the judge, else by exact match."""
    web = [(name, scored) for name, scored in scores if scored["suite"] == "web"]
    found = [_beside(SETS, PAPER, "3,197", [pair for pair in scores if pair not in web])]
    return "\n".join([*found, _beside(WEB, PAPER_WEB, "-", web)])


def _beside(
    sets: Mapping[str, str], paper: Mapping[str, tuple], asked: str, scores: Sequence[tuple[str, Mapping[str, Any]]]
) -> str:
    """The table of the `paper`'s rows, over so many questions, and of the scores of these sets."""
    rows = [("Pass@1 in percent", "questions", *sets.values(), "mean")]
    for name, values in paper.items():
        by_set, summed = values[: len(sets)], values[len(sets) :]  # of the web sets the paper has no mean
        mean = f"{summed[0]:.1f} +- {summed[1]:.2f}" if summed else "-"
        rows.append((f"paper: {name}", asked, *(f"{value:.1f}" for value in by_set), mean))
    for name, scored in scores:
        macro = scored["macro"]["scores"]
        rule = next((rule for rule in ("pass_at_1_judge", "pass_at_1_exact_match") if rule in macro), None)
        if rule is None:
            raise ValueError(f"{name} has no Pass@1: its score has no samples; ask with --samples 8")
        by_set = [scored["sets"].get(each, {}).get("scores", {}).get(rule) for each in sets]
        error = macro[rule].get("run_error")
        mean = f"{100 * macro[rule]['mean']:.1f}" + (f" +- {100 * error:.2f}" if error is not None else "")
        lacking = sum(score is None for score in by_set)
        mean += f" of {len(sets) - lacking} sets" if lacking else ""
        label = name + ("" if rule == "pass_at_1_judge" else " (exact match, which the paper's figures are not)")
        cells = ("-" if score is None else f"{100 * score['mean']:.1f}" for score in by_set)
        rows.append((label, questions(scored), *cells, mean))
    return markdown(rows)


def _place(run: compare.Run) -> tuple[Any, ...]:
    """Where a run stands: its model, K and k; GRPO first among the rules."""
    pool = run.settings.pool
    rule = compare.rule_label(run.settings)
    return run.settings.model.name, pool.samples, pool.oversample, rule != "grpo", rule, run.settings.seed


def own_rows(compared: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row a rule, of the runs' own last evaluations."""
    rows = [("rule", "seeds", "exact match", "minus the first", *SHARES.values())]
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


def suite_scores(folder: Path) -> list[dict[str, Any]]:
    """The scores of suites in a run's eval/. ValueError where there is none, or more than one of a suite."""
    files = sorted((folder / "eval").rglob(FILE))
    scores = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    if not scores or len({score["suite"] for score in scores}) < len(scores):
        listed = f": {', '.join(str(path.parent) for path in files)}" if files else ""
        todo = "make one with qr-jax eval RUN --suite paper (or qa7, or web), and take others out of its eval/"
        raise ValueError(f"{folder} has {len(files)} scores of suites{listed}; wanted one a suite: {todo}")
    return scores


if __name__ == "__main__":
    main()
