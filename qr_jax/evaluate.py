"""Evaluation of a policy by greedy and sampled answers to held-out questions: EM, F1, cover match, standard errors.

Pass@1 is the mean correctness over n sampled answers; the greedy score is separate. Pass@1 has an interval over
questions and runs, and the paper's standard error over runs only (run r is the r-th sample of every question). The
paper's average of 66.0 comes from a judge (GPT-4.1-mini) and cannot be compared with exact match here.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qr_jax import answers, assemble, config, trust
from qr_jax.config import Config, use
from qr_jax.evaluation import manifest, subject
from qr_jax.evaluation.scores import (
    COMPLETE,
    INCOMPLETE,
    ends,
    group_names,
    half_width,
    is_incomplete,
    mean,
    over_runs,
)
from qr_jax.logging import terminal
from qr_jax.parallel import compiles, mesh
from qr_jax.records import Episode, Query
from qr_jax.rollout.engine import Engine
from qr_jax.rollout.together import Dealt
from qr_jax.run import run_files, runs

SCORES = {"exact_match": answers.exact_match, "f1": answers.f1, "cover_match": answers.cover_match}
PAIRED = ("exact_match", "f1")  # scores kept per question, to compare two evaluations
SHOWN = 100  # number of questions whose episodes an evaluation keeps as text
GROUPS = ("dataset", "kind", "hops", "type")  # keys of a question's meta; each gets a table of scores


def measure(
    settings: Config,
    engine: Engine | Dealt,
    params,
    *,
    search,
    queries: Sequence[Query] | None = None,
    samples: int | None = None,
    limit: int | None = None,
    env: Callable | None = None,
    stop_now: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Return greedy scores, and Pass@1 over `samples` answers when there are any, of the evaluation questions.

    `limit`: only the first so many (None: `evaluation.questions`). Faulty episodes are left out of the means
    and counted. Means come with `_se`, the standard error over questions, Pass@1 with `_by_run` and `_run_error` too
    (`scores.over_runs`). `details` holds each question's exact match and F1, and the first 100 episodes in
    words. Interrupted once `stop_now()` is True.
    """
    queries = assemble.questions(settings, "eval") if queries is None else queries
    queries = queries[: settings.evaluation.questions if limit is None else limit]
    samples = settings.evaluation.samples if samples is None else samples
    env = env or assemble.environment(settings)
    start, compiled = time.monotonic(), compiles.count()

    def run(count: int, **how):
        how |= {"seed": settings.seed, "step": 0, "stop_now": stop_now}
        with terminal.phase("evaluating", asked=engine.progress):
            return engine.run(params, queries, count, env=env, search=search, **how)

    greedy = run(1, purpose="greedy", temperature=0.0)
    figures: dict[str, Any] = {"questions": len(queries), **_scores(queries, greedy)}
    for name in GROUPS:
        values = [value if isinstance(value := query.meta.get(name), str | int) else None for query in queries]
        if len(set(values)) > 1:
            figures[f"by_{name}"] = _by(queries, greedy, group_names(values))
    figures |= _behaviour(greedy)
    answered = [(query, group[0]) for query, group in zip(queries, greedy, strict=True)]
    each = {
        name: {query.id: SCORES[name](episode.answer, query.answers) for query, episode in answered} for name in PAIRED
    }
    shown = {query.id: format_episode(episode) for query, episode in answered[:SHOWN]}
    faulted = [query.id for query, episode in answered if not episode.valid]
    figures["details"] = {**each, "faulted": faulted, "transcripts": shown}
    if faulted:
        figures["first_fault"] = next(episode.fault for _, episode in answered if not episode.valid)
    if samples:
        sampled = run(samples, purpose="pass", **manifest.sampling(settings))
        figures["samples"] = samples
        of_samples = _scores(queries, sampled) | _over_runs(queries, sampled)
        figures |= {f"pass_at_1_{name}": value for name, value in of_samples.items()}
    compiles.tell_late(compiled, "evaluating")
    return figures | {"seconds": time.monotonic() - start}


def without_details(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures alone, without each question's."""
    return {name: value for name, value in figures.items() if name != "details"}


def gains(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return each PAIRED score's mean rise over the questions that both answered, and its 95 % half width."""
    rises = {}
    for score in PAIRED:
        rose_Q = np.array(paired_gains(before, after, score))
        if len(rose_Q) > 1:
            wide = half_width(float(np.std(rose_Q, ddof=1)) / math.sqrt(len(rose_Q)), len(rose_Q))
            rises[score] = {"mean": float(rose_Q.mean()), "half_width": wide, "questions": len(rose_Q)}
    return rises


def paired_gains(before: Mapping[str, Any], after: Mapping[str, Any], score: str) -> list[float]:
    """List a PAIRED score's rise on each question that both answered; faults, neither right nor wrong, are left out."""
    was, now = (figures["details"].get(score, {}) for figures in (before, after))
    faulted = {name for figures in (before, after) for name in figures["details"].get("faulted", ())}
    return [float(now[name]) - float(was[name]) for name in now if name in was and name not in faulted]


def _scores(queries: Sequence[Query], groups: Sequence[Sequence[Episode]]) -> dict[str, Any]:
    """Return each score's mean over questions with a valid sample (each its samples' mean), and its standard error."""
    row: dict[str, Any] = {"counted": sum(any(episode.valid for episode in group) for group in groups)}
    for name, score in SCORES.items():
        means = [
            float(np.mean([score(episode.answer, query.answers) for episode in group if episode.valid]))
            for query, group in zip(queries, groups, strict=True)
            if any(episode.valid for episode in group)
        ]
        row[name] = float(np.mean(means)) if means else None
        row[f"{name}_se"] = float(np.std(means, ddof=1) / math.sqrt(len(means))) if len(means) > 1 else None
    row["faults"] = sum(not episode.valid for group in groups for episode in group)
    row["incomplete"] = row["counted"] < COMPLETE * len(groups)
    return row


def _over_runs(queries: Sequence[Query], groups: Sequence[Sequence[Episode]]) -> dict[str, Any]:
    """Return each score's mean in each run that has a valid sample, and the standard error of these means."""
    row = {}
    for name, score in SCORES.items():
        right_NG = [
            [score(episode.answer, query.answers) if episode.valid else math.nan for episode in group]
            for query, group in zip(queries, groups, strict=True)
        ]
        mean_R = mean(np.array(right_NG), 0)
        row |= {f"{name}_{figure}": value for figure, value in over_runs(mean_R[~np.isnan(mean_R)]).items()}
    return row


def _by(queries, groups, names) -> dict[str, dict[str, Any]]:
    table = {}
    for value in sorted(set(names)):
        places = [at for at, theirs in enumerate(names) if theirs == value]
        scores = _scores([queries[at] for at in places], [groups[at] for at in places])
        table[value] = {"questions": len(places), **scores}
    return table


def _behaviour(groups: Sequence[Sequence[Episode]]) -> dict[str, Any]:
    """Return searches and tokens per episode, how episodes ended, and the share of well-formed model turns."""
    episodes = [episode for group in groups for episode in group]
    count = max(len(episodes), 1)
    turns = sum(turn.author == "model" for episode in episodes for turn in episode.turns)
    searches = sum(bool(turn.queries) for episode in episodes for turn in episode.turns)
    answered = sum(episode.stop == "answered" for episode in episodes)
    named = ({getattr(asked, "tool", "search") for asked in turn.queries} for e in episodes for turn in e.turns)
    calls = Counter(tool for tools in named for tool in tools)  # turns that call it
    by_tool = {tool: calls[tool] / turns for tool in sorted(calls)}
    stops = {stop: sum(episode.stop == stop for episode in episodes) for stop in sorted({e.stop for e in episodes})}
    return {
        "searches_per_question": sum(len(t.queries) for episode in episodes for t in episode.turns) / count,
        "parallel_turns_per_question": sum(len(t.queries) > 1 for e in episodes for t in e.turns) / count,
        "tokens_per_question": sum(int(episode.mask_L.sum()) for episode in episodes) / count,
        "turns": turns, "search_turn_share": searches / max(turns, 1),
        "well_formed_turn_share": (searches + answered) / max(turns, 1),
        "searching_question_share": sum(any(t.queries for t in e.turns) for e in episodes) / count, "stops": stops,
        **({"turn_share_by_tool": by_tool} if {*by_tool} - {"search"} else {}),
    }  # fmt: skip


def as_metrics(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of an evaluation under their names in metrics.jsonl."""
    names = [name for name in figures if name.removeprefix("pass_at_1_") in SCORES]
    names += ["questions", "counted", "faults", "searches_per_question", "pass_at_1_faults"]
    row = {f"eval/{name}": figures[name] for name in names if name in figures}
    return row | {"eval/incomplete": int(is_incomplete(figures))}


def one_line(figures: Mapping[str, Any]) -> str:
    """Format an evaluation in one line: exact match with its 95 % interval, and Pass@1 where it was asked for."""
    parts = [f"exact match {interval(figures, 'exact_match')} (greedy, {questions_text(figures)}, 95 %)"]
    if "samples" in figures:
        both = f"{interval(figures, 'pass_at_1_exact_match')} (95 %, over questions and runs)"
        if error := run_error(figures, "exact_match"):
            both += f"{error} (one standard error, over runs alone)"
        parts.append(f"Pass@1 of {figures['samples']} samples {both}")
    return "; ".join([*parts, *fault_texts(figures)])


def interval(figures: Mapping[str, Any], name: str) -> str:
    """Format a score and the half width of its 95 % interval over questions, as in .460 +- .031.

    If that interval would go below 0 or above 1, Wilson's ends are given: .950 (.764 to .991).
    """
    value = figures.get(name)
    if value is None:
        return "-"
    low, high = ends(value, figures.get(f"{name}_se"), scored_questions(figures, name))
    if not math.isclose(high - value, value - low, abs_tol=1e-12):
        return f"{score_text(value)} ({score_text(low)} to {score_text(high)})"
    return f"{score_text(value)} +- {score_text(high - value)}" if high > low else score_text(value)


def run_error(figures: Mapping[str, Any], name: str) -> str:
    """Format a sampled score's standard error over runs alone, as papers give it (" +- 0.0040"); "" if it has none."""
    error = figures.get(f"pass_at_1_{name}_run_error")
    return "" if error is None else f" +- {error:.4f}"


def scored_questions(figures: Mapping[str, Any], name: str = "") -> int:
    """Count the questions that a score is over: those with at least one answer that is no fault."""
    return figures.get("pass_at_1_counted" if name.startswith("pass_at_1_") else "counted", figures["questions"])


def questions_text(figures: Mapping[str, Any]) -> str:
    """Say which questions the greedy score is over: "1,000 questions", "3 of 8 questions"."""
    asked, count = figures["questions"], scored_questions(figures)
    return f"{asked:,} questions" if count == asked else f"{count:,} of {asked:,} questions"


def score_text(value: float) -> str:
    """Format a score, as .412."""
    return f"{value:.3f}".removeprefix("0") if abs(value) < 1 else f"{value:.2f}"


def fault_texts(figures: Mapping[str, Any]) -> list[str]:
    """Report the faults in one text; an empty list if there is none."""
    sampled = figures.get("pass_at_1_faults", 0)
    said = [f"{figures['faults']} of {figures['questions']} ended in a fault and are left out"]
    said *= bool(figures["faults"])
    said += [f"{sampled} of {figures['questions'] * figures['samples']} samples ended in a fault"] if sampled else []
    said += [f"the first: {figures['first_fault']}"] if figures.get("first_fault") else []
    return ["; ".join(said) + f": {INCOMPLETE}" * is_incomplete(figures)] if said else []


def evaluate(
    run: str | Path,
    settings: Config | None = None,
    *,
    retriever: str | None = None,
    world_seed: int | None = None,
    samples: int | None = None,
    questions: int | None = None,
    step: int | None = None,
    opened: subject.Opened | None = None,
    trusted: bool = False,
) -> dict[str, Any]:
    """Evaluate a run's checkpoint; the result is also written to RUN/eval, with its manifest in it.

    `settings`: a config to use in place of the run's. A `run` that is a model's folder needs them, and its result goes
    to runs/eval/FOLDER_NAME. `opened`: a model behind an endpoint; `run` is then its name alone.
    `step`: a checkpoint (None: the last). Other arguments replace settings. Without `settings`, ValueError for a run
    that this user neither made nor allowed, and that asks for what may do harm, unless `trusted`.
    """
    is_run = opened is None and config.is_run(run)
    if settings is None:
        settings = runs.load(run)
        trust.check(settings, run, trusted=trusted)
    settings = config.from_json(settings)
    if world_seed is not None:
        settings = assemble.with_world_seed(settings, world_seed)
    if retriever and retriever != settings.retriever.name:
        settings = replace(settings, retriever=use(retriever))
    place = Path(run) / "eval" if is_run else Path("runs") / "eval" / Path(run).name
    run_files.check_writable(place, "a copy of the run" if is_run else "this command")
    mesh.emulate_at_start(settings.mesh)
    with terminal.phase("loading the questions"):
        queries = assemble.questions(settings, "eval")[: questions or settings.evaluation.questions]
    samples = settings.evaluation.samples if samples is None else samples
    over = subject.corpus(settings, lambda: assemble.passages(settings))
    with terminal.phase("loading the model"):
        agent, params, model = opened or subject.open_model(settings, run if is_run else None, step)
    assemble.check_readable(agent.tokenizer, queries)
    env = assemble.environment(settings)
    how: dict[str, Any] = {"samples": samples, "env": env}
    figures = measure(settings, agent.engine, params, search=over.search(), queries=queries, limit=len(queries), **how)
    split = f"{settings.data.split} of {settings.data.eval}"
    figures["manifest"] = manifest.manifest(
        settings, questions={"eval": queries}, corpora={"eval": over.sha256}, split=split, model=model, **how
    )
    digest = manifest.sha256(json.dumps(figures["manifest"], sort_keys=True))[:8]
    stem = f"step_{model['step']:06d}" if is_run else "model"
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{stem}_{settings.retriever.name.rpartition('.')[2]}_{digest}.json"
    path.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def format_episode(episode: Episode) -> str:
    """Format an episode for a terminal: the question, what was searched and found, and the answer."""
    lines = [f"question: {episode.query.question}"]
    for turn in episode.turns:
        if turn.author == "model":
            lines.append(f"  model: {turn.text.strip()}")
        elif turn.queries:
            for query, passages in zip(turn.queries, turn.passages, strict=False):
                lines.append(f"  search: {query}")
                lines += [f"    {p.score:7.3f}  {p.title}: {_short(p.text)}" for p in passages] or ["    nothing"]
        else:
            lines.append(f"  environment: {turn.text.strip() or '(nothing: the turn neither searched nor answered)'}")
    none = f"none ({': '.join(filter(None, (episode.stop, episode.fault)))})"
    lines.append(f"answer: {none if episode.answer is None else episode.answer}")
    if episode.query.answers:
        lines.append(f"gold: {' | '.join(episode.query.answers)}")
    return "\n".join(lines)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else text[:97] + "..."
