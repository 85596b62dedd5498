"""A run's evaluation.json: each question's greedy exact match, and the manifest of the measurement."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qr_jax.config import Config
from qr_jax.errors import UserError
from qr_jax.evaluation.manifest import differences, manifest
from qr_jax.records import Query
from qr_jax.run.json_files import read_json
from qr_jax.settings.settings import few

FILE = "evaluation.json"


def final(
    settings: Config,
    questions: Sequence[Query],
    figures: Mapping[str, Any],
    *,
    env: Callable,
    corpus_sha256: str | None,
) -> dict[str, Any]:
    """Return the content of evaluation.json: the manifest, and each question's exact match, null for a fault.

    `figures` is what `evaluate.measure` returns of `questions`, `corpus_sha256` of the passages (None: the retriever
    has its own). A greedy answer depends on no seed, so the manifest names none.
    """
    right, faulted = figures["details"]["exact_match"], set(figures["details"]["faulted"])
    asked = [query for query in questions if query.id in right]
    model = {"name": settings.model.name, "compute": settings.model.compute}
    how: dict[str, Any] = {"split": settings.data.split, "samples": 0, "env": env, "model": model}
    asked_how = manifest(settings, questions={"eval": asked}, corpora={"eval": corpus_sha256}, **how)
    scores = {query.id: None if query.id in faulted else float(right[query.id]) for query in asked}
    return {"manifest": asked_how, "exact_match": scores}


def read(folder: str | Path) -> dict[str, Any]:
    """Read a run's evaluation.json. ValueError if the run has none."""
    path = Path(folder) / FILE
    if not path.is_file():
        todo = f"let `qr-jax train {Path(folder) / 'config.json'}` go on with it, which evaluates at its end"
        raise UserError(f"{folder} has no {FILE}, in which a finished run keeps each question's result; {todo}")
    return read_json(path)


def unlike(manifests: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return a line for each (name, manifest) that differs from the first, with the first differences."""
    (first, wanted), *others = manifests
    by_name = [(name, differences(wanted, other)) for name, other in others]
    return [f"{first} against {name}: {few(differ, between='; ')}" for name, differ in by_name if differ]
