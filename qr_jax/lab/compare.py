"""Compare finished runs: rules over seeds, at one budget, on the same questions, beside chance alone.

Accuracies are greedy exact match of the last evaluation. The interval of a difference covers other seeds and other
questions if a rule has several seeds; with one seed each it is over questions alone, and marked so."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qr_jax import config as configs
from qr_jax.config import BUDGETS, Config
from qr_jax.errors import UserError
from qr_jax.evaluation.scores import INCOMPLETE, is_incomplete
from qr_jax.lab import last_evaluation, null_control, oracle, run_folders
from qr_jax.lab.differences import difference, over_seeds, seeds_needed
from qr_jax.logging import metrics_writer
from qr_jax.pool import figures
from qr_jax.run import json_files
from qr_jax.settings.settings import plain

# Settings that do not make two runs two rules: the seed, how long a run goes on, where it lies and what is told of it.
FREE = ("seed", "log", "data.world_path", "evaluation.every", "train.steps", "train.max_", "train.keep_")
FREE += ("train.checkpoint_every", "train.bucket", "train.profile", "evaluation.during")
FREE += ("pool.rule", "pool.rounds", "pool.by")
LABEL_CHARS = 50  # of settings in a rule's label
# A run's figures over the last tenth of its steps, each with its null's in `null_control`.
SHARES = {"zero_variance": "zero_variance_last", "recycled": "recycled_share_last", "ex_hard": "ex_hard_last"}
SHARES |= {"ex_easy": "ex_easy_last", "flipped": "flipped", "trained": "coverage"}


@dataclass(frozen=True)
class Run:
    """A finished run, as its folder holds it."""

    folder: Path
    settings: Config
    rows: list[dict[str, Any]]  # of metrics.jsonl, up to the step that the summary is of
    summary: dict[str, Any]
    evaluation: dict[str, Any]  # manifest, exact_match
    since: int = 0  # steps taken after the summary, by a run that was made longer and has not ended again

    def spent(self, measure: str) -> int:
        return int(self.rows[-1][f"budget/{measure}"])


def read(folder: str | Path) -> Run:
    """Read a run's files. ValueError if it has not finished, or took no step."""
    folder = Path(folder)
    rows = metrics_writer.read(folder)
    if not (folder / "config.json").is_file() or not (folder / "summary.json").is_file() or not rows:
        lacks = "config.json" if not (folder / "config.json").is_file() else "summary.json" if rows else "step"
        raise UserError(f"{folder} is no finished run: it has no {lacks}; compare takes the folders of finished runs")
    summary = json_files.read_json(folder / "summary.json")
    ended = [row for row in rows if row["step"] <= summary.get("steps", row["step"])]
    settings, evaluation = configs.load(folder / "config.json"), last_evaluation.read(folder)
    return Run(folder, settings, ended, summary, evaluation, since=len(rows) - len(ended))


def expand(folder: str | Path) -> list[Path]:
    """Return the folder if it is a run, or the runs of the study in it. ValueError if it is neither."""
    folder = Path(folder)
    if (folder / "config.json").is_file():
        run_folders.check_trained(folder)
        return [folder]
    found = sorted(path.parent for path in folder.glob("*/seed_*/summary.json"))
    if not found:
        raise UserError(f"{folder} is neither a run (it has no config.json) nor a study with finished runs")
    return found


def compare(
    folders: Sequence[Path],
    *,
    measure: str | None = None,
    reach: float = 0.7,
    own: bool = False,
    null_seeds: int = 4,
    power: float | None = None,
) -> dict[str, Any]:
    """Return all figures of the runs by rule; the others are compared with the first rule.

    `own`: the runs are this user's, or allowed (trust.py). `measure` is the unit of their budgets; None: what their
    configs limit, or else rollouts. `warnings` say where budgets or evaluations differ, and so what the figures do not
    show. Differences are over the questions that all were asked. `power`: a difference of accuracy; how many seeds it
    needs is told too. ValueError for a run given twice, or no such question.
    """
    if len({folder.resolve() for folder in folders}) < len(folders) or not folders:
        raise UserError("a run is named twice; wanted each once" if folders else "no run was named; wanted one or more")
    many = [read(folder) for folder in folders]
    warnings = [] if measure else kinds_of_budget(many)
    measure = measure or next(iter(_limits(many[0])), BUDGETS[0]) if not warnings else BUDGETS[0]
    warnings += unequal_budgets(many, measure) + _unlike(many)
    whole = [list(run.evaluation["exact_match"]) for run in many]
    asked = [name for name in whole[0] if all(name in run.evaluation["exact_match"] for run in many)]
    if not asked:
        raise UserError("the runs share no question: their last evaluations asked others; evaluate them on the same")
    if len(asked) < max(map(len, whole)):
        warnings.append(f"compared over the {len(asked)} questions that all runs were asked, of {max(map(len, whole))}")
    kept = [name for name in asked if all(run.evaluation["exact_match"][name] is not None for run in many)]
    if not kept:
        raise UserError(f"of {len(asked)} questions none was answered without a fault in all {len(many)} runs")
    by_rule = grouped(many)
    apart = dict(zip(by_rule, differing([some[0] for some in by_rule.values()])))
    first = next(iter(by_rule.values()))
    found: dict[str, Any] = {}
    for rule, (label, some) in enumerate(by_rule.items()):
        ones = [figures_of(run, kept, measure, reach) for run in some]
        control = partial(null_control.null_or_reason, seeds=null_seeds, points=1, own=own)
        nulls = [control(run.folder, last=run.rows[-1]["step"]) for run in some]
        known = [null["summary"] for null in nulls if "summary" in null]
        found[label] = {
            "runs": [str(run.folder) for run in some],
            "seeds": [run.settings.seed for run in some],
            "settings": apart[label],
            **{name: over_seeds([one[name] for one in ones]) for name in ones[0] if name != "curve"},
            "null": {
                name: {end: over_seeds([summary[theirs][end] for summary in known])["mean"] for end in ("low", "high")}
                for name, theirs in SHARES.items()
            },
            "no_null": sorted({null["reason"] for null in nulls if "reason" in null}),
            **_against(some, first if rule else None, kept, power),
            "curves": [one["curve"] for one in ones],
        }
    _count_wins(found)
    spent = [run.spent(measure) for run in many]
    return {
        "measure": measure, "spent": [min(spent), max(spent)], "questions": len(kept),
        "faulted_questions": len(asked) - len(kept), "reach": reach, "null_seeds": null_seeds, "power": power,
        "manifest": many[0].evaluation["manifest"], "rules": found, "warnings": warnings,
    }  # fmt: skip


def _unlike(many: Sequence[Run]) -> list[str]:
    """Return a warning for each run that went on, was evaluated in part, or began from others' weights or questions."""
    warnings = [
        f"{run.folder} went on for {run.since} steps and has not ended again: it is compared as it was after step "
        f"{run.summary['steps']}"
        for run in many if run.since
    ]  # fmt: skip
    warnings += [
        f"{run.folder}: {INCOMPLETE} {when} training"
        for run in many for when in ("before", "after") if is_incomplete(run.summary.get(when) or {})
    ]  # fmt: skip
    began = {run.settings.train.init for run in many}
    warnings += [
        f"{run.folder} began from {run.settings.train.init}, and what that was trained with is not in its budget"
        for run in many if len(began) > 1 and run.settings.train.init
    ]  # fmt: skip
    if unlike := last_evaluation.unlike([(str(run.folder), run.evaluation["manifest"]) for run in many]):
        warnings.append(f"the last evaluations are not of one kind ({' | '.join(unlike)})")
    return warnings


def kinds_of_budget(many: Sequence[Run]) -> list[str]:
    """Return a warning if the runs' configs limit different things, or several, besides steps."""
    for run in many:
        if _limits(run) != _limits(many[0]) or len(_limits(run)) > 1:
            both = "; ".join(f"{one.folder}: {', '.join(_limits(one)) or 'steps alone'}" for one in (many[0], run))
            return [f"the runs' budgets are not of one kind ({both}); counted in {BUDGETS[0]} (--budget says in what)"]
    return []


def _limits(run: Run) -> list[str]:
    """Return the budgets, besides steps, that a run's config limits."""
    return [name for name in BUDGETS if getattr(run.settings.train, f"max_{name}")]


def unequal_budgets(many: Sequence[Run], measure: str) -> list[str]:
    """Return a warning if the runs' spending differs by more than the largest step of any run."""
    least, most = (pick(many, key=lambda run: run.spent(measure)) for pick in (min, max))
    step = max(int(np.diff([0, *(row[f"budget/{measure}"] for row in run.rows)]).max()) for run in many)
    if most.spent(measure) - least.spent(measure) <= step:
        return []
    both = f"{least.folder} spent {least.spent(measure):,} {measure}, {most.folder} {most.spent(measure):,}"
    told = f"budgets are unequal: {both}, more than one step ({step:,}) apart; what they differ in may be that alone"
    return [f"{told}. The same train.max_{measure} for all makes a fair comparison"]


def grouped(many: Sequence[Run]) -> dict[str, list[Run]]:
    """Group the runs by rule, in order of appearance; the label also has other settings in which some runs differ.

    If a label exceeds LABEL_CHARS, it has a number instead, and the folder of a run that is alone in its group.
    """
    texts = [" ".join(f"{name}={value}" for name, value in own.items()) for own in differing(many)]
    kinds, long = list(dict.fromkeys(texts)), any(len(text) > LABEL_CHARS for text in texts)
    found: dict[str, list[Run]] = {}
    for run, text in zip(many, texts):
        numbered = f"#{kinds.index(text) + 1}" + f" ({run.folder})" * (texts.count(text) == 1)
        more = numbered if long else text
        found.setdefault(f"{rule_label(run.settings)} {more}".strip(), []).append(run)
    return {name: runs for label, alike in found.items() for name, runs in _apart(label, alike)}


def differing(many: Sequence[Run]) -> list[dict[str, Any]]:
    """Return, for each run, its settings in which some runs differ, except those of its rule and those in FREE.

    A plug-in's setting that a run leaves at its default is not among that run's.
    """
    flats = [_flat(run.settings) for run in many]
    names = sorted({name for flat in flats for name in flat})
    differ = [name for name in names if len({json.dumps(flat.get(name)) for flat in flats}) > 1]
    return [{name: flat[name] for name in differ if name in flat} for flat in flats]


def _apart(label: str, alike: list[Run]) -> list[tuple[str, list[Run]]]:
    """Keep one rule's runs together, but name each by its folder if two have one seed and so are no repetitions."""
    seeds = {run.settings.seed for run in alike}
    if len(seeds) == len(alike):
        return [(label, alike)]
    return [(f"{label} ({run.folder})", [run]) for run in alike]


def rule_label(settings: Config) -> str:
    """Return a rule's name as a study writes it: "recycle", "dapo", "foresee:gamma=0.0"."""
    of = settings.pool
    name = next((preset for preset, both in oracle.PRESETS.items() if both[0].name == of.rule.name
                 and both[1].name == of.rounds.name), of.rule.name)  # fmt: skip
    usual = oracle.PRESETS[name][1].name if name in oracle.PRESETS else "once"
    more = [f"{key}={value}" for key, value in of.rule.settings.items()]
    more += [f"rounds.{key}={value}" for key, value in of.rounds.settings.items()]
    more += [f"rounds={of.rounds.name}"] if of.rounds.name != usual else []
    more += [f"pool.by={of.by}"] if of.by else []
    return name + (f":{','.join(more)}" if more else "")


def _flat(settings: Config) -> dict[str, Any]:
    """Return the settings by full name, except those that may differ or that name the rule."""

    def walk(value: Any, name: str):
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from walk(item, f"{name}.{key}" if name else key)
        elif not name.startswith(FREE):
            yield name, value

    return dict(walk(plain(settings), ""))


def scores(run: Run, questions: Sequence[str]) -> np.ndarray:
    """Return the exact match of each question in the run's last evaluation."""
    return np.array([run.evaluation["exact_match"][name] for name in questions], float)


def _against(
    own: Sequence[Run], base: Sequence[Run] | None, questions: Sequence[str], size: float | None
) -> dict[str, Any]:
    """Return a rule's difference from the first rule's runs, and how many seeds a difference of `size` needs.

    Both are None of the first rule itself. Scores are [S, N] in the order of the seeds, paired if both rules have the
    same ones.
    """
    if base is None:
        return {"difference": None, "seeds_needed": None}
    by_seed = [{run.settings.seed: scores(run, questions) for run in runs} for runs in (own, base)]
    own_SN, base_SN = (np.array([scores_of[seed] for seed in sorted(scores_of)]) for scores_of in by_seed)
    paired = {*by_seed[0]} == {*by_seed[1]}
    needed = seeds_needed(own_SN.mean(1), base_SN.mean(1), size, paired=paired) if size else None
    return {"difference": difference(own_SN, base_SN, paired=paired), "seeds_needed": needed}


def figures_of(run: Run, questions: Sequence[str], measure: str, reach: float) -> dict[str, Any]:
    """Return a run's figures: its last accuracy, where it passed `reach`, its pool's shares, and its spending."""
    whole = figures.over_steps(run.rows)
    last = figures.over_steps(run.rows[-max(len(run.rows) // 10, 1) :])
    drawn, trained = _unique(run.folder, run.rows[-1]["step"])
    size = int(run.rows[-1]["pool/size"])
    points = curve(run)
    return {
        "accuracy": float(scores(run, questions).mean()),
        "reached": reached([(at["rollouts"], at["accuracy"]) for at in points], reach),
        "signal_per_1000": 1000 * int(whole["pool/signal"] or 0) / max(int(whole["pool/rollouts"] or 0), 1),
        "drawn": drawn / size, "trained": trained / size,
        "zero_variance": last["pool/zero_variance_rate"], "recycled": last["pool/recycled_share"],
        **{name: last[f"pool/{name}"] for name in ("ex_hard", "ex_easy", "flipped")},
        **{name: run.spent(name) for name in BUDGETS},
        "steps": len(run.rows), "step_seconds": float(sum(row["time/step_s"] for row in run.rows)),
        "curve": [[at[measure], at["accuracy"]] for at in points],
    }  # fmt: skip


def curve(run: Run) -> list[dict[str, float]]:
    """Return the accuracy of each evaluation with the budget spent until then, from before training to after it.

    Evaluations over too few of their questions are left out.
    """
    whole = {when: not is_incomplete(run.summary.get(when) or {}) for when in ("before", "after")}
    found = [(dict.fromkeys(BUDGETS, 0), run.summary.get("greedy_before") if whole["before"] else None)]
    for row in run.rows:
        accuracy = None if is_incomplete(row) else row.get("eval/exact_match")
        found.append(({name: row[f"budget/{name}"] for name in BUDGETS}, accuracy))
    found.append((found[-1][0], run.summary.get("greedy_after") if whole["after"] else None))
    return [{**spent, "accuracy": accuracy} for spent, accuracy in found if accuracy is not None]


def reached(points: Sequence[tuple[float, float]], reach: float) -> float | None:
    """Return where a curve first comes to `reach`, by linear interpolation; None if it never does.

    None also for fewer than three points, which are too few to say where.
    """
    if len(points) < 3:
        return None
    for at, (x, y) in enumerate(points):
        if y >= reach:
            if at == 0:
                return float(x)
            x_before, y_before = points[at - 1]
            return float(x_before + (x - x_before) * (reach - y_before) / (y - y_before))
    return None


def _unique(folder: Path, steps: int) -> tuple[int, int]:
    """Return how many queries were drawn in so many steps by the ledger, and how many were trained on."""
    drawn, trained_on = set(), set()
    for draw in json_files.rows(folder / "ledger.jsonl", "step", "index", "accepted"):
        if draw["step"] <= steps:
            drawn.add(draw["index"])
            trained_on |= {draw["index"]} if draw["accepted"] else set()
    return len(drawn), len(trained_on)


def _count_wins(found: dict[str, dict[str, Any]]) -> None:
    """Add `wins`: in how many seeds shared with the first rule a rule's accuracy is higher."""
    first, *others = found.values()
    base = dict(zip(first["seeds"], first["accuracy"]["values"]))
    for one in others:
        pairs = [(value, base[seed]) for seed, value in zip(one["seeds"], one["accuracy"]["values"]) if seed in base]
        one["wins"] = {"won": sum(own > other for own, other in pairs), "of": len(pairs)}
