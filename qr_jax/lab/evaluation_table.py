"""An evaluation as a table for a terminal."""

from collections.abc import Mapping
from typing import Any

from qr_jax import evaluate
from qr_jax.lab.columns import aligned


def format_table(figures: Mapping[str, Any]) -> str:
    """Format an evaluation as a table: all questions, then each group of them."""
    faulty = ("faults",) if evaluate.fault_texts(figures) else ()

    def cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
        counts = (str(row["questions"]), *(str(row[column]) for column in faulty))
        return (name, *counts, *(evaluate.interval(row, score) for score in evaluate.SCORES))

    rows = [("", "questions", *faulty, *evaluate.SCORES), cells("all", figures)]
    for group in evaluate.GROUPS:
        rows += [cells(f"{group} {value}", row) for value, row in figures.get(f"by_{group}", {}).items()]
    if "samples" in figures:
        of = {name: figures[f"pass_at_1_{name}"] for name in ("counted", "faults") if f"pass_at_1_{name}" in figures}
        of["questions"] = figures["questions"]
        of |= {key: figures[f"pass_at_1_{key}"] for score in evaluate.SCORES for key in (score, f"{score}_se")}
        rows.append(cells(f"Pass@1 of {figures['samples']}", of))
    lines = aligned(rows)
    stops = ", ".join(f"{stop} {count}" for stop, count in figures["stops"].items())
    parallel = figures.get("parallel_turns_per_question")
    several = f" (turns of several {parallel:.2f})" if parallel else ""
    means = f"per question {figures['searches_per_question']:.2f} searches{several}"
    means += f", {figures['tokens_per_question']:.1f} sampled tokens"
    lines.append(f"{means}, well-formed turns {figures['well_formed_turn_share']:.3f}, endings: {stops}")
    lines.append("+-, or (low to high): the 95 % interval over questions")
    if any(evaluate.run_error(figures, name) for name in evaluate.SCORES):
        errors = ", ".join(f"{name}{evaluate.run_error(figures, name)}" for name in evaluate.SCORES)
        lines.append(f"Pass@1's interval is over questions and runs; its standard error over runs alone: {errors}")
    return "\n".join([*lines, *evaluate.fault_texts(figures)])
