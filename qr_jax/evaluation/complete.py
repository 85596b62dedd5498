"""Detect scores over too few of their questions: questions that ended in faults are left out of a score."""

from collections.abc import Mapping
from typing import Any

COMPLETE = 0.95  # of the questions must have been answered without a fault, or a score is marked
INCOMPLETE = "INCOMPLETE, is the retriever up?"


def is_incomplete(figures: Mapping[str, Any]) -> bool:
    """Return True if a score of an evaluation or its metrics row covers fewer than COMPLETE of the questions."""
    return any(figures.get(name, False) for name in ("incomplete", "pass_at_1_incomplete", "eval/incomplete"))
