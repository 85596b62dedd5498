"""Suites of question sets: the sets of each, and the scores of a file of answers to them, with intervals.

Pass@1 is the mean correctness over n sampled answers; greedy decoding is a figure of its own. Scores are means over
questions, and the macro average is the mean of the sets' scores. Intervals are 95 % bootstraps over questions, whole
questions with all their samples, each set by itself: the noise of few samples varies a question's mean, so that
Pass@1's interval is over questions and runs. Beside it stands the standard error over runs alone, as papers give it
(run r is the r-th sample of every question): it says nothing of other questions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qr_jax import answers
from qr_jax.config import Config, Evaluation, Learner, Model, Rollout, use
from qr_jax.data import readers
from qr_jax.errors import UserError
from qr_jax.evaluation.scores import COMPLETE, INCOMPLETE, group_names, half_width, is_incomplete, mean, over_runs
from qr_jax.lab.columns import aligned
from qr_jax.lab.differences import picks
from qr_jax.records import Query
from qr_jax.run import json_files, run_files

# Suite -> set -> the corpus it is asked over, as their files are named in QR_JAX_DATA.
QA7 = {"nq": "wiki18", "triviaqa": "wiki18", "popqa": "wiki18", "hotpotqa": "hotpotqa", "2wiki": "2wiki"}
QA7 |= {"musique": "musique", "bamboogle": "wiki18"}
SUITES: Mapping[str, Mapping[str, str]] = {
    "qa7": QA7,
    "paper": QA7,
    "web": dict.fromkeys(("gaia", "hle", "webwalkerqa"), "web"),
}
# The 3,197 questions of the paper's seven sets stand in one file, its sets by names of their own.
PAPER_FILE = "{data}/dev/test_small_deepresearcher.questions.jsonl"
PAPER_SETS = {"tq": "triviaqa", "Bamboogle": "bamboogle"}
QUESTIONS, CORPUS = "{data}/dev/%s.questions.jsonl", "{data}/corpus/%s.corpus.jsonl.gz"
FILE = "answers.jsonl"
NEEDED = ("set", "id", "question", "golds", "greedy", "samples", "seconds")  # of its rows
RULES = {"exact_match": answers.exact_match, "f1": answers.f1, "cover_match": answers.cover_match}
GROUPS = ("hops", "type")  # of a question's meta: a table each
RESAMPLE, RESAMPLES = 96, 2000  # the first part of the key of the resamples, and how many there are
Row = Mapping[str, Any]
Verdict = Callable[[str, Sequence[str], str | None], bool | None]  # None: the judge has none


def sets(name: str) -> Mapping[str, str]:
    """Return the suite's sets, each with its corpus. ValueError for an unknown suite."""
    if name not in SUITES:
        raise UserError(f"there is no suite {name!r}; there are: {', '.join(SUITES)}")
    return SUITES[name]


def part(name: str) -> Literal["eval", "all"]:
    """Return which questions are asked by default: of qa7, whose sets train too, those that training may not use."""
    return "eval" if name == "qa7" else "all"


def corpus_file(name: str) -> str:
    return CORPUS % name


def default_config(model: str, context_tokens: int) -> Config:
    """Return the config for a model without a run: search_r1 over BM25, 4 searches of 3 passages, 4 samples."""
    context = min(2048, context_tokens)  # the model's own, if that is less
    rollout = Rollout(
        slots=16, context_tokens=context, turn_tokens=min(128, context // 8),
        observation_tokens=min(400, context // 4), buckets=(128, 512), chunk=16,
    )  # fmt: skip
    return Config(
        model=Model(name=model), env=use("search_r1", max_turns=4), retriever=use("bm25"), rollout=rollout,
        evaluation=Evaluation(samples=4), learner=Learner(row_tokens=max(context, Learner.row_tokens)),
    )  # fmt: skip


def with_model(settings: Config, model: str) -> Config:
    """Return the same config with another model and that model's own tokenizer."""
    return replace(settings, model=replace(settings.model, name=model, tokenizer=None))


def questions(
    settings: Config,
    name: str,
    *,
    part: Literal["eval", "all"] = "eval",
    limit: int | None = None,
    searched: bool = True,
) -> tuple[dict[str, list[Query]], dict[str, str]]:
    """Return (set -> its questions, set -> why it is missing). ValueError if all sets are missing.

    A set's questions are those that the hash of their id does not assign to training (all for `part` "all"), the first
    `limit` by SHA-256 of the id. A set without its corpus is missing too, if its corpus is to be `searched`.
    """
    by_set: dict[str, list[Query]] = {}
    there, missing = files(name, searched=searched)
    for set_name, file in there.items():
        whole = readers.read_queries(file)
        if name == "paper":
            sources = [str(query.meta.get("data_source")) for query in whole]
            whole = [query for query, of in zip(whole, sources) if PAPER_SETS.get(of, of) == set_name]
        dealt = readers.split(whole, settings.data.train_share, "eval") if part == "eval" else whole
        if dealt:
            by_set[set_name] = readers.first(dealt, limit)
        else:
            none = f"none of its {len(whole)} questions is dealt to evaluation"
            missing[set_name] = none if whole else f"{file.name} has no question with its data_source"
    if not by_set:
        raise _none(name, missing)
    return by_set, missing


def files(name: str, *, searched: bool) -> tuple[dict[str, Path], dict[str, str]]:
    """Return (set -> its file of questions, set -> why it is missing), as for `questions`, without reading them."""
    there, missing = {}, {}
    for set_name, corpus in sets(name).items():
        try:
            if searched:
                readers.resolve(corpus_file(corpus))
            there[set_name] = readers.resolve(PAPER_FILE if name == "paper" else QUESTIONS % set_name)[0]
        except ValueError as error:
            missing[set_name] = str(error)
    if not there:
        raise _none(name, missing)
    return there, missing


def _none(name: str, missing: Mapping[str, str]) -> UserError:
    """Return the error for a suite none of whose sets is there: a line for each set, then what to do."""
    lines = [f"\n  {set_name}: {why.removesuffix(f'; {readers.NAME_FILES}')}" for set_name, why in missing.items()]
    cure = f"{readers.NAME_DATA}; it is {readers.data_folder()} now"
    return UserError(f"no set of the suite {name} has questions here:{''.join(lines)}\n{cure}")


def too_few(asked: Mapping[str, Sequence[Query]], limit: int | None) -> list[str]:
    """Return a line for each set that has fewer questions than the limit asks for."""
    short = {name: len(queries) for name, queries in asked.items() if limit is not None and len(queries) < limit}
    return [f"{name} has only {count} of the {limit} questions that were asked for" for name, count in short.items()]


def split_in_words(settings: Config, part: str, limit: int | None) -> str:
    share = settings.data.train_share
    dealt = f"SHA-256 of the id from the share {share:g} on (what lies below is for training)"
    first = "" if limit is None else f"; of each set the first {limit} by that hash"
    return ("all" if part == "all" else dealt) + first


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return a folder's answers, but for a line that is still being written. ValueError for a line that is none."""
    file = folder / FILE
    if file.exists() and (what := run_files.wrong(file)):
        raise UserError(f"{file} is {what}; name another folder with --out, or take that away")
    return list(json_files.rows(file, *NEEDED, nested=True))


def score(
    name: str, asked: Mapping[str, Sequence[Query]], rows: Sequence[Row], missing: Mapping[str, str], verdict=None
) -> dict[str, Any]:
    """Return every figure of a suite: `sets`, and the `macro` average over those that have answers.

    `rows` are answers as answering.py writes them; a question without one is counted in `unanswered`. `verdict` is the
    judge's, or None. A set's `scores` each have `mean`, `low` and `high`, these two None for one question.
    """
    by_id = {(row["set"], row["id"]): row for row in rows}
    by_set, drawn = {}, {}
    for number, set_name in enumerate(sets(name)):
        if set_name in asked:
            answered = [by_id[set_name, query.id] for query in asked[set_name] if (set_name, query.id) in by_id]
            count = len(asked[set_name])
            by_set[set_name] = {"asked": count, "unanswered": count - len(answered)}
            by_set[set_name]["incomplete"] = len(answered) < COMPLETE * count
            if answered:
                figures, drawn[set_name] = _figures(answered, verdict, number)
                by_set[set_name] |= figures | {f"by_{g}": _table(answered, verdict, number, g) for g in GROUPS}
    macro = {"sets": len(drawn), "of": len(sets(name))} | _macro([by_set[s] for s in drawn], [*drawn.values()])
    return {"suite": name, "sets": by_set, "missing": dict(missing), "macro": macro}


def _figures(rows: Sequence[Row], verdict: Verdict | None, *key: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return a set's figures, and each score's means over the resamples, for the macro average's interval."""
    right_NG = sampled(rows, verdict)
    value_N = values(rows, verdict)
    value_N = {name: value for name, value in value_N.items() if not np.isnan(value).all()}
    count = len(rows)
    picked_RN = picks(count, RESAMPLES, RESAMPLE, *key)
    drawn = {name: mean(value[picked_RN], 1) for name, value in value_N.items()}
    scores: dict[str, dict[str, Any]] = {
        name: interval(float(mean(value, 0)), drawn[name], count) for name, value in value_N.items()
    }
    for name in right_NG.keys() & scores.keys():
        scores[name] |= over_runs(mean(right_NG[name], 0))
    stops = [row["greedy"]["stop"] for row in rows]
    latencies = [row["greedy"]["latency_s"] for row in rows if row["greedy"]["latency_s"] is not None]
    return {
        "questions": count, "samples": len(rows[0]["samples"]), "scores": scores,
        "searches": float(np.mean([len(row["greedy"]["searched"]) for row in rows])),
        "tokens": float(np.mean([row["greedy"]["tokens"] for row in rows])),
        "latency_s": float(np.mean(latencies)) if latencies else None, "latency_questions": len(latencies),
        "seconds": float(np.mean([row["seconds"] for row in rows])),
        "stops": {stop: stops.count(stop) for stop in sorted(set(stops))},
    }, drawn  # fmt: skip


def values(rows: Sequence[Row], verdict: Verdict | None = None) -> dict[str, np.ndarray]:
    """Return each score of each question: for the greedy answer, the mean over samples, and pass@k over samples.

    NaN if the judge has no verdict: a mean is over the judged samples, pass@k needs k of them.
    """
    rules = _rules(verdict)
    value = {name: np.array([rule(row, row["greedy"]["answer"]) for row in rows]) for name, rule in rules.items()}
    for name, right_NG in sampled(rows, verdict).items():
        value[name] = mean(right_NG, 1)
        if name in ("pass_at_1_exact_match", "pass_at_1_judge"):
            judged = [each[~np.isnan(each)] for each in right_NG]
            for k in powers(right_NG.shape[1]):
                of_k = [pass_at_k(len(each), int(sum(each)), k) if len(each) >= k else math.nan for each in judged]
                value[name.replace("_1_", f"_{k}_")] = np.array(of_k)
    return value


def sampled(rows: Sequence[Row], verdict: Verdict | None = None) -> dict[str, np.ndarray]:
    """Return each score of each sampled answer, [questions, samples], by its Pass@1's name."""
    if not rows[0]["samples"]:
        return {}
    return {
        f"pass_at_1_{name}": np.array([[rule(row, sample["answer"]) for sample in row["samples"]] for row in rows])
        for name, rule in _rules(verdict).items()
    }


def _rules(verdict: Verdict | None) -> dict[str, Callable[[Row, str | None], float]]:
    rules: dict[str, Callable[[Row, str | None], float]] = {
        name: lambda row, answer, rule=rule: rule(answer, row["golds"]) for name, rule in RULES.items()
    }
    if verdict is None:
        return rules

    def judged(row: Row, answer: str | None) -> float:
        right = verdict(row["question"], row["golds"], answer)
        return math.nan if right is None else float(right)

    return rules | {"judge": judged}


def powers(samples: int) -> list[int]:
    """Return the k > 1 of pass@k: powers of two below the number of samples, and that number."""
    return sorted({*(2**at for at in range(1, samples.bit_length()) if 2**at < samples), samples} - {1})


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the chance that one of k answers out of the samples is right: 1 - C(n - c, k) / C(n, k).

    The unbiased estimator of Chen et al. 2021, 2107.03374, eq. 1.
    """
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def interval(mean: float, drawn_R: np.ndarray, count: int, least: float = 0.0) -> dict[str, float | None]:
    """Return a mean over `count` questions with its 95 % bounds by resamples, None for a single question.

    Where all questions score alike, and so all resamples, the bounds are Wilson's (`half_width`), from `least` to 1.
    """
    if count < 2:
        return {"mean": mean, "low": None, "high": None}
    low, high = np.nanquantile(drawn_R, (0.025, 0.975)).tolist()
    if low == high:
        wide = half_width(0.0, count)
        low, high = max(low - wide, least), min(high + wide, 1.0)
    return {"mean": mean, "low": low, "high": high}


def _table(rows: Sequence[Row], verdict: Verdict | None, number: int, group: str) -> dict[str, Any]:
    """Return the scores for each value of the questions' `group`; {} if all have the same."""
    names = group_names([row[group] for row in rows])
    kinds = sorted(set(names))
    if len(kinds) < 2:
        return {}
    table = {}
    for at, value in enumerate(kinds, 1):
        same = [row for row, name in zip(rows, names, strict=True) if name == value]
        figures, _ = _figures(same, verdict, number, GROUPS.index(group), at)
        table[value] = {name: figures[name] for name in ("questions", "scores", "searches", "tokens")}
    return table


def _macro(sets_figures: Sequence[Mapping[str, Any]], drawn: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Return the mean of the sets' figures; a resample of it takes one resample of each set."""
    if not sets_figures:
        return {"scores": {}}
    few = min(figures["questions"] for figures in sets_figures)
    scores = {}
    for name in sets_figures[0]["scores"]:
        of_sets = [figures["scores"][name] for figures in sets_figures if name in figures["scores"]]
        if len(of_sets) < len(sets_figures):  # the judge has no verdict on one of the sets
            continue
        whole = float(np.mean([score["mean"] for score in of_sets]))
        scores[name] = interval(whole, np.mean([means[name] for means in drawn], axis=0), few)
        if "by_run" in of_sets[0]:
            scores[name] |= over_runs(np.mean(np.array([score["by_run"] for score in of_sets], float), axis=0))
    counts = {name: float(np.mean([figures[name] for figures in sets_figures])) for name in ("searches", "tokens")}
    return {"scores": scores} | counts


def format_table(scored: Mapping[str, Any]) -> str:
    """Format a suite's score: greedy and sampled answers by set, hops and type, macro average, what is missing."""
    names = list(scored["macro"]["scores"])
    greedy = [name for name in names if not name.startswith("pass_at_")]
    of_samples = [name for name in names if name.startswith("pass_at_")]
    lines = _rows(scored, greedy, ("searches", "tokens", "latency_s"))
    if of_samples:
        lines += ["", *_rows(scored, of_samples, ())]
        lines.append("[ ]: 95 % over questions and runs; +-: one standard error over runs alone, as papers give it")
    for set_name, figures in scored["sets"].items():
        if figures["unanswered"]:
            none = f"{figures['unanswered']} of {figures['asked']} questions have no answer"
            why = "faults of the search or the engine"
            why += f"; {INCOMPLETE}" * is_incomplete(figures)
            lines.append(f"{set_name}: {none} ({why}) and are in no figure; the same command asks them again")
    lines += [f"{set_name} is missing: {why}" for set_name, why in scored["missing"].items()]
    judge = scored.get("judge")
    if judge and "refused" in judge:
        lines.append(f"the judge is not reported: {judge['refused']}")
    elif judge:
        agrees = f"agrees with exact match on {judge['agreement_with_exact_match']:.3f} of {judge['judged']} answers"
        asked = f"{judge['calls']} calls, {judge['cached']} verdicts from its cache"
        asked += f"; {judge['swayed']} right answers count as wrong, for they try to sway it"
        if judge["disagreed"]:
            asked += f"; {judge['disagreed']} answers are in no figure of it, for it disagrees with itself on them"
        if judge["unread"]:
            asked += f"; {judge['unread']} are in none, for its reply has no verdict that can be read"
        lines.append(f"the judge {judge['model']} {agrees}; {asked}")
    return "\n".join(lines)


def _rows(scored: Mapping[str, Any], names: Sequence[str], more: Sequence[str]) -> list[str]:
    """Format a table of scores with their intervals, and of further means."""

    def line(title: str, figures: Mapping[str, Any]) -> tuple[str, ...]:
        scores = figures.get("scores", {})
        cells = [_with_interval(scores[name]) if name in scores else "-" for name in names]
        rest = [f"{figures[name]:.2f}" if figures.get(name) is not None else "-" for name in more]
        asked = f" of {figures['asked']}" if figures.get("unanswered") else ""
        return (title, f"{figures.get('questions', '')}{asked}", *cells, *rest)

    macro = scored["macro"]
    rows: list[tuple[str, ...]] = [("", "questions", *names, *more)]
    for set_name, figures in scored["sets"].items():
        tables = {group: figures.get(f"by_{group}", {}) for group in GROUPS}
        rows.append(line(set_name, figures))
        rows += [line(f"  {group} {value}", part) for group, table in tables.items() for value, part in table.items()]
    rows.append(line(f"macro average over {macro['sets']} of {macro['of']} sets", macro))
    return aligned(rows)


def _with_interval(score: Mapping[str, Any]) -> str:
    bounds = "" if score["low"] is None else f" [{score['low']:.3f}, {score['high']:.3f}]"
    runs = f" +- {score['run_error']:.4f}" if score.get("run_error") is not None else ""
    return f"{score['mean']:.3f}{bounds}{runs}"
