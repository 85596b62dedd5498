"""The end of a run: what it changed, its report, and what to do next, in six lines; tables only with --verbose."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qr_jax import evaluate
from qr_jax.config import BUDGETS, Train, every_plugin
from qr_jax.lab import last_evaluation, null_control
from qr_jax.lab.evaluation_table import format_table
from qr_jax.lab.report import charts, page
from qr_jax.logging import metrics_writer, terminal
from qr_jax.run import runs
from qr_jax.step.runtime import RunState, Runtime

Evaluation = Mapping[str, Any]  # what `evaluate.measure` returns


def tell(runtime: Runtime, run_state: RunState, after: Evaluation) -> None:
    """Write the report and print the run's result; only on process 0."""
    run, before = runtime.run, run_state.before or {}
    _tables(run, {"the cold start": run_state.base, "training": before}, after)
    scores = [f"{evaluate.interval(before, 'exact_match')} before"] if before else []
    scores.append(f"{evaluate.interval(after, 'exact_match')} after")
    about = f"({evaluate.questions_text(after)}, 95 %)"
    record = [f"before: {text}" for text in evaluate.fault_texts(before)] if before else []
    run.say("; ".join([f"exact match {', '.join(scores)} {about}", *record, *evaluate.fault_texts(after)]))
    if before:
        run.say(where_it_rose(before, after))
    if run_state.rollouts and not run_state.pool.accepted_P.any() and not run.settings.learner.keep_zero_variance:
        run.say("no update was made: no group bore signal, for the rewards of each were all equal")
    elif (rows := metrics_writer.read(run.folder)) and not rows[-1]["learner/updates"] and rows[-1]["learner/skipped"]:
        run.say(f"no update was made: the loss or gradient of all {rows[-1]['learner/skipped']} was not finite")
    if run_state.rollouts:
        run.say(f"report: {report(run)}")
    name = gained(before, after) if before else None
    questions = {query.id: query.question for query in runtime.data.questions}
    used = {budget: getattr(run_state, budget, 0) for budget in BUDGETS}
    for line in next_commands(run, questions[name] if name else runtime.data.questions[0].question, used):
        run.say(line)


def final_evaluation(runtime: Runtime, after: Evaluation) -> dict[str, Any]:
    """Return the content of evaluation.json: each question's result, and the manifest of the measurement."""
    questions, world = runtime.data.questions, runtime.world
    return last_evaluation.final(runtime.settings, questions, after, env=world.env, corpus_sha256=world.corpus_sha256)


def next_commands(run: runs.Run, question: str, used: Mapping[str, int]) -> list[str]:
    """Return three commands to go on with, each with what it is for; `used`: what the run spent of each budget."""
    folder = str(run.folder)
    where = os.environ.get("PYTHONPATH")  # where a plug-in of one's own may stand
    has_own = any("." in use.name for _, use in every_plugin(run.settings))
    qr_jax = f"PYTHONPATH={shlex.quote(where)} qr-jax" if where and has_own else "qr-jax"
    asks, config, exported = shlex.quote(folder), shlex.quote(f"{folder}/config.json"), shlex.quote(f"{folder}/hf")
    return [
        f"ask:        {qr_jax} ask {asks} {shlex.quote(question)}",
        f"train on:   {qr_jax} train {config} {longer(run.settings.train, used)}",
        f"export:     {qr_jax} export {asks} --hf {exported}",
    ]


def longer(limits: Train, used: Mapping[str, int]) -> str:
    """Return the override that lets a finished run go on as long again: of its budget if that ended it, or of steps.

    `used`: what the run spent, by name.
    """
    spent = {name: limit for name in BUDGETS if (limit := getattr(limits, f"max_{name}")) and used[name] >= limit}
    budget = next(iter(spent), None)
    name = f"max_{budget}" if budget else "steps"
    return f"train.{name}={2 * max(getattr(limits, name), used.get(budget or 'steps', 0))}"


def where_it_rose(before: Evaluation, after: Evaluation) -> str:
    """Say on how many questions exact match rose and fell, and in which two groups most."""
    gaps = evaluate.paired_gains(before, after, "exact_match")
    rose, fell = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
    moves: list[tuple[float, str]] = []
    for group in evaluate.GROUPS:
        for value, row in after.get(f"by_{group}", {}).items():
            rates = before.get(f"by_{group}", {}).get(value, {}).get("exact_match"), row["exact_match"]
            if None not in rates:
                old, new = (f"{rate:.2f}".removeprefix("0") for rate in rates)
                moves.append((rates[1] - rates[0], f"{group} {value} ({old} to {new})"))
    moves.sort(reverse=fell <= rose)
    most = [text for move, text in moves[:2] if (move < 0 if fell > rose else move > 0)]
    which = "fell" if fell > rose else "rose"
    return f"{rose:,} questions better, {fell:,} worse" + (f"; {which} most on {' and '.join(most)}" if most else "")


def gained(before: Evaluation, after: Evaluation) -> str | None:
    """Return the id of a question, wrong before and right after, with the longest transcript; None if there is none."""
    was, now = before["details"], after["details"]
    both = [name for name in now["transcripts"] if name in was["transcripts"]]
    names = [name for name in both if now["exact_match"][name] > was["exact_match"][name]]
    return max(names, key=lambda name: now["transcripts"][name].count("\n")) if names else None


def _tables(run: runs.Run, before: Mapping[str, Evaluation | None], after: Evaluation) -> None:
    """Print, with --verbose, the evaluations as tables, and the searches of one question before and after."""
    for when, evaluation in before.items():
        if evaluation:
            run.detail(f"\nbefore {when}\n{format_table(evaluation)}")
    run.detail(f"\nafter training\n{format_table(after)}")
    first = before["training"]
    if first and (name := gained(first, after)):
        pair = [evaluation["details"]["transcripts"][name] for evaluation in (first, after)]
        run.detail(f"\none question before training\n{pair[0]}\n\nand after\n{pair[1]}\n")


def lacks_report(run: runs.Run) -> bool:
    """Return True if there is no report, or one from before the run's end."""
    made, ended = (run.folder / name for name in ("report.html", "summary.json"))
    return not made.is_file() or made.stat().st_mtime < ended.stat().st_mtime


def report(run: runs.Run) -> Path:
    """Write the run's report, beside the null control if it can be played, and return its file."""
    with terminal.phase("writing the report"):
        null = null_control.null_or_reason(run.folder, points=charts.RATE_BINS, own=True)
        if "reason" in null:
            run.detail(null["reason"])
        return page.write(run.folder, null=null)
