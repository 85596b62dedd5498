"""The corpus as generators and trajectories see it: passages, the links between them, and a search of them.

Links are those in the data, or the titles that other passages mention, found in one pass."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qr_jax.data import readers
from qr_jax.data.characters import marks, nfc
from qr_jax.data.parsing import Row, passage_of, show
from qr_jax.errors import UserError
from qr_jax.records import Call, Passage, SearchFunction
from qr_jax.rollout.tools import Fault, run_searches
from qr_jax.sets.made_traces import plain

SHORTEST = 4  # letters of a title of one word
HUB_SHARE, HUB_LEAST = 0.002, 50  # a title that more passages mention leads nowhere in particular
Links = Sequence[tuple[int, ...]]
DEADLINE_S, RETRIES, PASSAGE_CHARS = 60.0, 3, 20_000  # of a search, and of a passage


@dataclass(frozen=True)
class Library:
    """`named` is what each row's `links` names (None: no row has any), `find` the retriever's search."""

    passages: Sequence[Passage]
    named: Sequence[tuple[str, ...]] | None
    find: SearchFunction

    @functools.cached_property
    def links(self) -> Links:
        """Return the places that each passage leads to: by its row's links, else by the titles it mentions."""
        if self.named is None:
            return mentioned(self.passages, unique_titles(self.passages))
        return given(self.passages, self.named)

    def search(self, queries: Sequence[str | Call], k: int) -> list[tuple[Passage, ...]]:
        """Search for each query. OSError where a query gets none after retries: that is no question's fault."""
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
    """Read the passages of files or an index, and the ids or titles in each row's `links`; None if no row has any.

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


@functools.cache
def runs() -> re.Pattern[str]:
    """Return the pattern of letters, digits and _ in a row, with their marks."""
    return re.compile(rf"\w[\w{marks()}]*")


def given(passages: Sequence[Passage], targets: Sequence[Iterable[str]]) -> Links:
    """Return each passage's links by place, of the ids or titles that its row names and a passage has."""
    places: dict[str, int] = {}
    for at, passage in enumerate(passages):
        places.setdefault(nfc(passage.title), at)
    places |= {passage.id: at for at, passage in enumerate(passages)}  # an id is unique, and wins over a title
    found = ([places[n] for name in names for n in (name, nfc(name)) if n in places] for names in targets)
    return [tuple(dict.fromkeys(place for place in listed if place != at)) for at, listed in enumerate(found)]


def unique_titles(passages: Iterable[Passage]) -> dict[str, int]:
    """Map the words of each title without its bracket to its passage's place, where no other passage has that title.

    A title of one short word, or one that begins with a small letter, is no name to be recognised, and is left out.
    """
    places: dict[str, int] = {}
    twice: set[str] = set()
    for at, passage in enumerate(passages):
        words = runs().findall(nfc(plain(passage.title)))
        name = " ".join(words)
        if not words or words[0][0].islower() or (len(words) == 1 and (len(name) < SHORTEST or name.isdigit())):
            continue
        if name in places:
            twice.add(name)
        places[name] = at
    return {name: at for name, at in places.items() if name not in twice}


def mentioned(passages: Sequence[Passage], titles: Mapping[str, int]) -> Links:
    """Find each passage's links by place: the titles that its text mentions, longest first where they overlap.

    Case counts ("Refugee" is no refugee). The title that very many passages mention links nothing.
    """
    lengths: dict[str, list[int]] = {}  # first word -> the numbers of words of the titles that begin with it
    for name in titles:
        first, count = name.partition(" ")[0], name.count(" ") + 1
        if count not in lengths.setdefault(first, []):
            lengths[first].append(count)
    for counts in lengths.values():
        counts.sort(reverse=True)
    links: list[tuple[int, ...]] = []
    mentions: Counter[int] = Counter()
    for at, passage in enumerate(passages):
        words, place = runs().findall(nfc(passage.text)), 0
        found: dict[int, None] = {}
        while place < len(words):
            step = 1
            for count in lengths.get(words[place], ()):
                target = titles.get(" ".join(words[place : place + count]))
                if target is not None and place + count <= len(words):
                    step = count
                    if target != at:
                        found[target] = None
                    break
            place += step
        links.append(tuple(found))
        mentions.update(found.keys())
    most = max(HUB_LEAST, HUB_SHARE * len(links))
    return [tuple(target for target in found if mentions[target] <= most) for found in links]
