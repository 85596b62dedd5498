"""The corpus as generators and trajectories see it: passages, the links between them, and a search of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qr_jax.data import readers
from qr_jax.data.parsing import Row, passage_of, show
from qr_jax.errors import UserError
from qr_jax.records import Passage, SearchFunction
from qr_jax.rollout.tools import Fault, run_searches
from qr_jax.sets.synth import links

DEADLINE_S, RETRIES, PASSAGE_CHARS = 60.0, 3, 20_000  # of a search, and of a passage


@dataclass(frozen=True)
class Library:
    """`named` is what each row's `links` names (None: no row has any), `find` the retriever's search."""

    passages: Sequence[Passage]
    named: Sequence[tuple[str, ...]] | None
    find: SearchFunction

    @cached_property
    def place(self) -> dict[str, int]:
        """A passage's id -> its place."""
        return {passage.id: at for at, passage in enumerate(self.passages)}

    @cached_property
    def titles(self) -> dict[str, int]:
        """The words of a title that one passage alone has -> its place."""
        return links.unique_titles(self.passages)

    @cached_property
    def links(self) -> links.Links:
        """The places that the passage at each place leads to: by its row's links, else by the titles it mentions."""
        if self.named is None:
            return links.mentioned(self.passages, self.titles)
        return links.given(self.passages, self.named)

    def search(self, queries: Sequence[str], k: int) -> list[tuple[Passage, ...]]:
        """The passages of each query. OSError where a query gets none after retries: that is no question's fault."""
        how = {"deadline_s": DEADLINE_S, "retries": RETRIES, "passage_chars": PASSAGE_CHARS}
        found = run_searches(self.find, queries, k, **how).by_query
        results = []
        for query in queries:
            result = found[query]
            if isinstance(result, Fault):
                raise OSError(f"the retriever gave nothing for {query!r}: {result.reason}")
            results.append(result)
        return results


def read(corpus: str) -> tuple[Sequence[Passage], list[tuple[str, ...]] | None]:
    """The passages of files or an index, and what each row's `links` names (ids or titles); None where no row has any.

    ValueError names file and row.
    """
    if readers.index_folder(corpus) is not None:
        return readers.read_passages(corpus), None
    rows = readers.read(Path(corpus) if "," not in corpus else corpus, _with_links, lambda row: row[0].id)
    named = [names for _, names in rows]
    return [passage for passage, _ in rows], named if any(named) else None


def _with_links(row: Row) -> tuple[Passage, tuple[str, ...]]:
    names: Any = row.get("links", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"'links' must be a list of ids or titles, and is {show(names)}")
    return passage_of(row), tuple(names)
