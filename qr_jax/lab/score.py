"""Predictions in a file -> EM, F1 and cover match of each row, and their means."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qr_jax import answers
from qr_jax.data import parsing, readers
from qr_jax.errors import UserError
from qr_jax.sets import formats
from qr_jax.sets.inputs import TABLE_ENDS
from qr_jax.settings.settings import few

log = logging.getLogger(__name__)
SHOWN = 5  # bad rows that an error lists
SCORES = {"em": answers.exact_match, "f1": answers.f1, "cover_match": answers.cover_match}


def score(path: str | Path) -> dict[str, Any]:
    """Return the scores of a JSONL file (also .gz) of rows {id, prediction, answers}.

    Gives `questions`, the means `em`, `f1` and `cover_match`, and `rows`: each row's id and scores. A prediction of
    null is no answer and scores 0; `answers` is a text or a list of texts. A row whose golds all normalise to nothing
    counts, scores 0 and is named in the log: no prediction could match it. ValueError names the lines of bad rows.
    """
    files = readers.resolve(path)
    if len(files) != 1 or not files[0].is_file():
        raise UserError(f"{str(path)!r} is not one file; score takes one JSONL file of id, prediction and answers")
    file = files[0]
    if file.suffix in TABLE_ENDS:
        wanted = '{"id": "1", "prediction": "...", "answers": ["..."]}'
        raise UserError(f"{file.name} is a table; wanted JSON lines, an object a line: {wanted}")
    rows, bad, seen, hopeless = [], [], {}, []
    for number, row in readers.attempts(file):
        try:
            name, prediction, golds = _read(row)
            if name in seen:
                raise UserError(f"id {name!r} stands in line {seen[name]} too; ids must be unique")
        except ValueError as error:
            bad.append(f"line {number}: {error}")
            continue
        seen[name] = number
        if not any(answers.normalise(gold) for gold in golds):
            hopeless.append(number)
        rows.append({"id": name} | {score: rule(prediction, golds) for score, rule in SCORES.items()})
    if bad:
        raise UserError(f"{file.name} has {len(bad)} bad rows: {few(bad, SHOWN, between='; ')}")
    if not rows:
        raise UserError(f"{file.name} has no rows; wanted JSONL rows of id, prediction and answers")
    if hopeless:
        log.warning("%s: nothing can match the answers of these lines, which score 0: %s", file.name, hopeless)
    means = {score: sum(row[score] for row in rows) / len(rows) for score in SCORES}
    return {"questions": len(rows), **means, "rows": rows}


def _read(row: Mapping[str, Any] | ValueError) -> tuple[str, str | None, tuple[str, ...]]:
    """Return a row's id, prediction and golds; ValueError says which column is missing or wrong."""
    if isinstance(row, ValueError):
        raise row
    if "prediction" not in row:
        raise parsing.missing("prediction", row, "no 'prediction'")
    column = next((name for name in parsing.ANSWERS if name in row), None)
    if column is None:
        raise parsing.missing("answers", row, f"none of {', '.join(parsing.ANSWERS)}")
    prediction = row["prediction"]
    if prediction is not None and not isinstance(prediction, str):
        raise UserError(f"'prediction' must be a text or null, and is {parsing.show(prediction)}")
    golds = [row[column]] if isinstance(row[column], str) else row[column]
    if not isinstance(golds, list) or not golds or not all(isinstance(gold, str) for gold in golds):
        shown = parsing.show(row[column])
        raise UserError(f"{column!r} must be a text or a list of one or more texts, and is {shown}")
    return parsing.identity(row), prediction, formats.accepted(golds, row)


def format_table(scored: Mapping[str, Any], *, rows: bool = False) -> str:
    """Return the means as a table; with `rows` each row's scores before them."""
    lines = [f"{row['em']:5.3f}  {row['f1']:5.3f}  {row['cover_match']:11.3f}  {row['id']}" for row in scored["rows"]]
    mean = f"{scored['em']:5.3f}  {scored['f1']:5.3f}  {scored['cover_match']:11.3f}  mean of {scored['questions']}"
    return "\n".join(["   em     f1  cover_match", *(lines if rows else []), mean])
