"""Files with columns by other names, lists in one text, and broken rows: what a user says of them, in one place.

`data.map`, `data.answer_split` and `data.skip_broken` say it of the files that a run reads, `--map`, `--split` and
`--skip-broken` of those that `qr-jax data check`, `convert` and `recall` read."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qr_jax.data import parsing, readers
from qr_jax.data.parsing import ANSWERS, Row
from qr_jax.errors import UserError
from qr_jax.records import Passage, Query

REWARDS = ("reward_spec", "reward_model")
GOLD = ("supporting", "supporting_titles")
QUESTIONS, PASSAGES = ("question", "answers", *GOLD), ("title", "text")
SHOWN = 5  # broken rows that are listed
NAMED = ("id", *QUESTIONS, *PASSAGES)  # columns that --map may name
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Columns:
    """Their names of columns by ours, and the sign between answers in one text. The default changes nothing."""

    theirs: Mapping[str, str] = field(default_factory=dict)  # our name -> the file's; "a.b" is b inside a
    split: str | None = None

    def __post_init__(self):
        if odd := [name for name in self.theirs if name not in NAMED]:
            raise UserError(f"{', '.join(odd)} is no column of ours to map; wanted some of {', '.join(NAMED)}")
        if self.split is not None and not self.split.strip():
            raise UserError("answers cannot be split at blanks: an answer may have several words; wanted a sign, as |")

    def __bool__(self) -> bool:
        return bool(self.theirs or self.split)

    @property
    def first(self) -> frozenset[str]:
        """Return the columns by which a file's first row is known for one of rows."""
        return frozenset(part for name in self.theirs.values() for part in (name, name.partition(".")[0]))

    def of(self, row: Row) -> Row:
        """Return the row with our names where it has theirs, answers and gold passages as lists; further columns stay.

        ValueError for a row that has our name and not theirs: it would be read from the column that was not meant. But
        questions and passages read with one map may have their ids in columns of different names.
        """
        for name, other in self.theirs.items():
            if name in row and not _stands(other, row) and not (name == "id" and self._maps_others(row)):
                raise UserError(
                    f"has no column {other!r} for {name}, but {name!r}; its columns: {', '.join(row)[:200]}"
                )
        there = {name: name in row or _stands(self.theirs.get(name, name), row) for name in ("question", "text")}
        if not any(there.values()) and (lacks := next((name for name in there if name in self.theirs), None)):
            raise UserError(f"has no column {self.theirs[lacks]!r} for {lacks}; its columns: {', '.join(row)[:200]}")
        found = {name: _held(row, other) for name, other in self.theirs.items()}
        found = {name: value for name, value in found.items() if value is not None}
        taken = {other for name, other in self.theirs.items() if name in found and name != other}
        row = {name: value for name, value in row.items() if name not in taken} | found
        place = next((name for name in REWARDS if isinstance(row.get(name), Mapping)), None)
        if place and "ground_truth" in row[place]:  # verl's and SkyRL's place for the answers
            row[place] = {**row[place], "ground_truth": self._apart(row.pop("answers", row[place]["ground_truth"]))}
        column = next((name for name in ANSWERS if isinstance(row.get(name), str)), None)
        texts = [*filter(None, [column]), *(name for name in GOLD if self.split and isinstance(row.get(name), str))]
        return row | {name: self._apart(row[name]) for name in texts}

    def _apart(self, answers: Any) -> Any:
        """Return values in one text as a list, where there is a sign between them; in {"target": ...} too."""
        if isinstance(answers, Mapping):
            return {**answers, "target": self._apart(answers.get("target"))}
        if not self.split or not isinstance(answers, str):
            return answers
        return [part for part in map(str.strip, answers.split(self.split)) if part]

    def _maps_others(self, row: Row) -> bool:
        """Return True if columns of the other kind of file are mapped: of questions where the row is a passage, say."""
        is_question = any(_stands(self.theirs.get(name, name), row) for name in ("question", "answers"))
        return any(name in self.theirs for name in (PASSAGES if is_question else QUESTIONS))


def _stands(name: str, row: Row) -> bool:
    """Return True if the row has such a column, or for "a.b" a column "a"."""
    return name in row or name.partition(".")[0] in row


def _held(row: Row, name: str) -> Any:
    """Return what stands under a name, or inside an object: "a.b" is b of a; None for nothing."""
    if name in row:
        return row[name]
    inner, _, rest = name.partition(".")
    held = row.get(inner)
    return _held(held, rest) if rest and isinstance(held, Mapping) else None


def typed(words: Sequence[str], split: str | None) -> Columns:
    """Return what `--map OURS=THEIRS ...` and `--split SIGN` say."""
    if odd := [word for word in words if not all(word.partition("=")[::2])]:
        raise UserError(f"--map {odd[0]!r}; wanted OURS=THEIRS, as question=Frage (after the files' names)")
    theirs: dict[str, str] = {}
    for name, other in (word.split("=", 1) for word in words):
        if theirs.setdefault(name, other) != other:
            raise UserError(f"--map says {name}={theirs[name]} and {name}={other}; wanted one column for {name}")
    return Columns(theirs, split)


@dataclass(frozen=True)
class Reader:
    """Reads as readers.py does, after what the user says of files of rows; a set or an index is read as it is."""

    columns: Columns
    skip_broken: bool

    def read_queries(self, path: Any) -> list[Query]:
        """Read questions as `readers.read_queries` does."""
        if self._is_plain(path):
            return readers.read_queries(path)
        queries = _read(path, self.columns, self.skip_broken, parsing.query_of)
        readers.tell_refused(path, queries)
        return queries

    def read_passages(self, path: Any) -> Sequence[Passage]:
        """Read passages as `readers.read_passages` does."""
        if self._is_plain(path):
            return readers.read_passages(path)
        return _read(path, self.columns, self.skip_broken, parsing.passage_of)

    def _is_plain(self, path: Any) -> bool:
        return not (self.columns or self.skip_broken) or not readers.is_files(path)


def _read(path: Any, columns: Columns, skip_broken: bool, make: Any) -> list[Any]:
    """Read all rows; ValueError names the first broken one, unless they are to be left out, counted and listed."""
    found: dict[str, Any] = {}
    broken: list[str] = []
    unanswerable = 0
    for file in readers.resolve(path):
        for number, row in readers.attempts(file, columns.first):
            try:
                if isinstance(row, ValueError):
                    raise row
                item = make(columns.of(row))
                if item.id in found:
                    raise UserError(f"id {item.id!r} stands there twice; {readers.UNIQUE}")
                found[item.id] = item
            except parsing.Unanswerable:
                unanswerable += 1
            except ValueError as error:
                broken.append(f"{file.name} row {number}: {error}")
                if not skip_broken:
                    todo = "to leave such rows out: data.skip_broken=true in a run, --skip-broken of other commands"
                    raise UserError(f"{broken[0]}; {todo}") from error
    if broken:
        log.warning("%s: %d rows cannot be read and are left out:%s", path, len(broken), listed(broken))
    if unanswerable:
        log.warning("%s: %d questions left out, whose rows say that they have no answer", path, unanswerable)
    if not found:
        raise UserError(f"{path} has no rows that can be read{listed(broken)}")
    return [*found.values()]


def listed(broken: Sequence[str]) -> str:
    """Format the first broken rows, a line each, and how many more there are."""
    more = [f"and {len(broken) - SHOWN} more"] if len(broken) > SHOWN else []
    return "".join(f"\n  {line}" for line in [*broken[:SHOWN], *more])
