"""A folder laid out as QR_JAX_DATA is, with a few made-up questions of each set: what the suite's tests ask."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from qr_jax.lab import suite
from qr_jax.records import Passage, SearchFunction

PLACES = ("Oslo", "Bergen", "Lima", "Quito", "Accra")


def write(folder: Path, *, without: tuple[str, ...] = (), count: int = 3) -> Path:
    """The folder, with `count` questions a set but for those left out; those of 2wiki and musique differ in hops."""
    for part in ("dev", "corpus"):
        (folder / part).mkdir(parents=True)
    for name, corpus in suite.sets("qa7").items():
        passages = [{"id": f"{corpus}-{at}", "title": place, "text": f"{place} is city number {at}."} for at, place in
                    enumerate(PLACES)]  # fmt: skip
        with gzip.open(folder / "corpus" / f"{corpus}.corpus.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(passage) + "\n" for passage in passages)
        rows = [
            {"id": f"{name}-{at}", "question": f"Which city is number {at}?", "answers": [PLACES[at % 5]]}
            | ({"hops": 2 + at % 2} if name in ("2wiki", "musique") else {})
            for at in range(count)
        ]
        if name not in without:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "dev" / f"{name}.questions.jsonl").write_text(lines, encoding="utf-8")
    return folder


def moody(*, corpus: Sequence[Passage], marker: str) -> SearchFunction:
    """A retriever that finds the first passages, but for its first call ever, which fails and leaves the marker."""

    def search(queries: list[str], k: int) -> list[list[Passage]]:
        if not Path(marker).exists():
            Path(marker).touch()
            raise RuntimeError("not in the mood")
        return [list(corpus[:k]) for _ in queries]

    return search
