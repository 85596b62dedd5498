"""Compare a suite's scores whose manifests differ in the model alone, with paired differences from the first."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qr_jax.errors import UserError
from qr_jax.lab import suite
from qr_jax.lab.columns import aligned
from qr_jax.lab.differences import picks
from qr_jax.lab.last_evaluation import unlike
from qr_jax.run.json_files import read_json

FILE = "score.json"


def is_suite(folder: str | Path) -> bool:
    """Return True if `qr-jax eval --suite` has written a score in the folder."""
    return os.path.isfile(os.path.join(folder, FILE))  # False too for a setting longer than a file's name may be


def paired_scores(folders: Sequence[Path]) -> dict[str, Any]:
    """Return each folder's scores and their differences from the first folder's, by set and for the macro average.

    `scores` are the folders' own; `differences` (None for the first) are paired: over the questions that all have
    answered, with 95 % bootstrap intervals over questions, each set by itself. A judge's scores have no difference.
    ValueError if a folder has no score, is given twice, or differs from the first in its questions, passages,
    retriever, prompt, decoding or judge.
    """
    if len({folder.resolve() for folder in folders}) < len(folders) or len(folders) < 2:
        raise UserError(f"{len(folders)} folders were given; wanted two or more scores of a suite, each once")
    lacks = [str(folder) for folder in folders if not is_suite(folder)]
    if lacks:
        raise UserError(f"{', '.join(lacks)} have no {FILE}: scores of a suite stand beside scores of a suite only")
    scored = [read_json(folder / FILE) for folder in folders]
    names = [str(folder) for folder in folders]
    asked_how = [{"suite": score["suite"], **score["manifest"]} for score in scored]
    if differ := unlike(zip(names, asked_how, strict=True)):
        raise UserError(f"these were not asked alike and are not compared: {' | '.join(differ)}")
    rows = [{(row["set"], row["id"]): row for row in suite.rows_of(folder)} for folder in folders]
    sets, gaps, drawn = {}, [], []
    for number, name in enumerate(suite.sets(scored[0]["suite"])):
        if name not in scored[0]["sets"]:
            continue
        common = [key for key in rows[0] if key[0] == name and all(key in each for each in rows)]
        sets[name] = {"questions": len(common), "scores": [each["sets"][name].get("scores", {}) for each in scored]}
        sets[name]["differences"] = [None] * len(folders)
        if common:
            values = [suite.values([each[key] for key in common]) for each in rows]
            gaps.append({rule: np.array([value[rule] - values[0][rule] for value in values]) for rule in values[0]})
            picked_RN = picks(len(common), suite.RESAMPLES, suite.RESAMPLE, number)
            drawn.append({rule: gap[:, picked_RN].mean(2) for rule, gap in gaps[-1].items()})
            sets[name]["differences"] = _differences(gaps[-1:], drawn[-1:])
    macro = {"scores": [score["macro"]["scores"] for score in scored], "differences": [None] * len(folders)}
    if gaps:
        macro["differences"] = _differences(gaps, drawn)
    models = [score["manifest"]["model"] for score in scored]
    return {"suite": scored[0]["suite"], "folders": names, "models": models, "sets": sets, "macro": macro}


def _differences(
    gaps: Sequence[Mapping[str, np.ndarray]], drawn: Sequence[Mapping[str, np.ndarray]]
) -> list[dict[str, Any] | None]:
    """Return each folder's mean difference over the sets, by score, with its interval; None for the first folder.

    A set's `gaps` are [folders, questions], its `drawn` means [folders, resamples].
    """
    few = min(gap.shape[1] for by_score in gaps for gap in by_score.values())
    differences: list[dict[str, Any] | None] = [None]
    for at in range(1, len(next(iter(gaps[0].values())))):
        means = {name: float(np.mean([by_score[name][at].mean() for by_score in gaps])) for name in gaps[0]}
        resampled = {name: np.mean([by_score[name][at] for by_score in drawn], axis=0) for name in means}
        differences.append({name: suite.interval(mean, resampled[name], few, -1.0) for name, mean in means.items()})
    return differences


def format_table(compared: Mapping[str, Any]) -> str:
    """Format a line for each set and score: each folder's score, its difference from the first and the interval."""
    heads = ["", "score", *(f"({at})" for at in range(1, len(compared["folders"]) + 1))]
    rows = []
    for title, figures in (*compared["sets"].items(), ("macro average", compared["macro"])):
        for name in figures["scores"][0]:
            pairs = zip(figures["scores"], figures["differences"], strict=True)
            cells = [_cell(score[name], gap and gap.get(name)) if name in score else "-" for score, gap in pairs]
            rows.append([title, name, *cells])
            title = ""
    named = [f"({at}) {folder}" for at, folder in enumerate(compared["folders"], 1)]
    return "\n".join([*named, "", *aligned([heads, *rows])])


def _cell(score: Mapping[str, Any], gap: Mapping[str, Any] | None) -> str:
    bounds = f" [{gap['low']:+.3f}, {gap['high']:+.3f}]" if gap and gap["low"] is not None else ""
    return f"{score['mean']:.3f}" + (f" {gap['mean']:+.3f}{bounds}" if gap else "")
