"""Check a file of questions or passages: counts, errors and warnings, each with its row numbers.

An error is a reason for which training or searching would refuse the file. A warning is something that they accept and
the user should know."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from qr_jax.answers import fold, in_words, normalise, proving
from qr_jax.data import parsing, readers
from qr_jax.data.characters import nfc
from qr_jax.data.parsing import Row
from qr_jax.errors import UserError
from qr_jax.records import Passage, Query
from qr_jax.sets import carried, formats
from qr_jax.sets.answer_columns import NOT_TAKEN, list_in, not_taken
from qr_jax.sets.columns import Columns

UNANSWERABLE = "no answer"
NO_COLUMNS = Columns()
BY_ROW = ("unreadable row", "empty golds")  # kinds of errors of which each row is one
NUMBER = re.compile(r"0x[0-9a-f]+|\d+")
FOUND = re.compile(r", and is .*")  # a value, which differs from row to row
SHOWN = 10  # row numbers that a line of the table names; the JSON has all


@dataclass(frozen=True)
class Finding:
    """One problem and the rows that have it; `others` are rows of the file given with `against`."""

    level: Literal["error", "warning"]
    kind: str
    text: str
    rows: tuple[int, ...]
    others: tuple[int, ...] = ()


@dataclass(frozen=True)
class Checked:
    """A checked file: the readable rows by number, the findings, and `counts` of the rows by their columns' values."""

    file: str
    schema: str
    items: Mapping[int, Query | Passage]
    findings: tuple[Finding, ...]
    counts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def errors(self) -> list[Finding]:
        return [one for one in self.findings if one.level == "error"]

    def to_json(self) -> dict[str, Any]:
        found: dict[str, list] = {"errors": [], "warnings": []}
        for one in self.findings:
            found[f"{one.level}s"].append({name: value for name, value in asdict(one).items() if value != ()})
        head = {"file": self.file, "schema": self.schema, "ok": not self.errors}
        return head | {"counts": dict(self.counts)} | found


def check(
    file: str | Path,
    against: str | Path | None = None,
    *,
    columns: Columns = NO_COLUMNS,
    skip_broken: bool = False,
) -> Checked:
    """Read every row of the file, the bad ones too; with `against`, also find the questions that both files ask.

    A folder or glob is read as its shards, one after another. With `skip_broken` rows that cannot be read are warnings.
    """
    items, findings, schemas, count, last = _read(resolve_file(file), columns)
    if skip_broken:
        findings = [replace(one, level="warning") if one.kind in BY_ROW else one for one in findings]
    unanswerable = sum(len(one.rows) for one in findings if one.kind == UNANSWERABLE)
    for name, rows in _grouped({number: item.id for number, item in items.items()}):
        are_same = all(items[row] == items[rows[0]] for row in rows)
        text = f"id {name!r} stands in {len(rows)} rows; {readers.TWICE if are_same else readers.UNIQUE}"
        findings.append(Finding("warning" if skip_broken else "error", "repeated id", text, rows))
    questions = {number: item for number, item in items.items() if isinstance(item, Query)}
    passages = {number: item for number, item in items.items() if isinstance(item, Passage)}
    findings += [*_questions(questions), *_passages(passages)]
    if questions and passages:
        few, others = (passages, "questions") if len(passages) <= len(questions) else (questions, "passages")
        text = f"passages and questions stand in one file, and most of the others are {others}; part them into two"
        findings.append(Finding("error", "questions and passages", text, tuple(few)))
    if len(schemas) > 1:
        listed = ", ".join(f"{name} ({count})" for name, count in schemas.most_common())
        findings.append(Finding("warning", "mixed schemas", f"the rows have more than one schema: {listed}", ()))
    if not items and all(one.level == "warning" for one in findings):
        findings.append(Finding("error", "no rows", "the file has no rows that a run can use", ()))
    counts = _counts(items, count, last) | ({"unanswerable": unanswerable} if unanswerable else {})
    if against is not None:
        findings += _overlap(items, resolve_file(against), columns)
        if all(one.kind not in ("unreadable other file", "nothing to compare") for one in findings):
            counts["in_other_file"] = sum(len(one.rows) for one in findings if one.kind == "overlap")
    name = schemas.most_common(1)[0][0] if schemas else "unknown"
    findings.sort(key=lambda one: (one.level, one.rows))
    return Checked(str(file), name, items, tuple(findings), counts)


def resolve_file(file: str | Path) -> list[Path]:
    """Return the files that a name stands for. ValueError for a set, an index, or several names."""
    found = readers.resolve(file)
    if not found:
        wanted = f"one file, JSON lines or Parquet (`qr-jax data convert {file} OUT --to jsonl` writes the set to one)"
        raise UserError(f"{str(file)!r} is a question set, whose rows are checked when it is built; wanted {wanted}")
    if found[0].is_dir():
        raise UserError(f"{str(file)!r} is an index; check the files it was made of, one at a time")
    if "," in str(file):
        raise UserError(f"{str(file)!r} names {len(found)} files; check them one at a time (--against compares two)")
    return found


def _attempts(paths: Sequence[Path], columns: Columns) -> Iterator[tuple[int, Row | ValueError]]:
    """Yield the rows of all files, numbered through."""
    before = number = 0
    for path in paths:
        for number, row in readers.attempts(path, columns.first):
            try:
                row = row if isinstance(row, ValueError) or not columns else columns.of(row)
            except ValueError as error:  # the row lacks the column that --map names
                row = error
            yield before + number, row
        before, number = before + number, 0


def _read(
    paths: Sequence[Path], columns: Columns
) -> tuple[dict[int, Query | Passage], list[Finding], Counter[str], int, int]:
    """Return the readable rows, an error for each other row, rows by schema, the row count and the last number."""
    items, schemas = {}, Counter()
    wrong: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)  # (kind, alike) -> rows, each with its text
    unanswerable: list[int] = []
    number = rows = 0
    is_passage = False
    try:
        for number, row in _attempts(paths, columns):
            rows += 1
            try:
                if isinstance(row, ValueError):
                    raise row
                schema = formats.schema(row)
                is_passage = schema.endswith("corpus") or (is_passage and "question" not in row)  # one without its text
                schemas[schema] += 1
                items[number] = parsing.passage_of(row) if is_passage else parsing.query_of(row)
            except parsing.Unanswerable:
                unanswerable.append(number)
            except ValueError as error:
                kind = "empty golds" if _has_no_gold(row) else "unreadable row"
                # where in a line it cannot be read differs from row to row, and the cure does not
                alike = NUMBER.sub("#", str(error)) if isinstance(row, ValueError) else FOUND.sub("", str(error))
                wrong[kind, alike].append((number, str(error)))
    except ValueError as error:
        wrong["damaged file", str(error)].append((number, str(error)))
    findings = [_error(kind, found) for (kind, _), found in wrong.items()]
    if unanswerable:
        text = f"{len(unanswerable)} of {rows} rows say that their question has no answer; a run leaves them out"
        findings.append(Finding("warning", UNANSWERABLE, text, tuple(unanswerable)))
    return items, findings, schemas, rows, number


def _error(kind: str, found: list[tuple[int, str]]) -> Finding:
    """Make one finding of rows with the same kind of error (row 0: the whole file); its text is the first row's."""
    texts = [text for _, text in found]
    others = f" (so in row {found[0][0]}, and alike in the others)" if len(set(texts)) > 1 else ""
    return Finding("error", kind, texts[0] + others, tuple(number for number, _ in found if number))


def _has_no_gold(row: Any) -> bool:
    """Return True if the row is a question whose answers all normalise to nothing."""
    if isinstance(row, ValueError) or formats.schema(row).endswith("corpus"):
        return False
    try:
        row = formats.ours(row)
    except ValueError:
        return False
    golds = next((row[name] for name in parsing.ANSWERS if name in row), None)
    golds = [golds] if isinstance(golds, str) else golds
    return isinstance(golds, list) and all(isinstance(one, str) and not normalise(one) for one in golds)


def _questions(items: Mapping[int, Any]) -> Iterator[Finding]:
    for number, query in items.items():
        if refused := query.meta.get("refused_answers"):
            text = f"answers of which nothing is left when they are normalised, so nothing matches them: {refused}"
            yield Finding("warning", "empty golds", text, (number,))
    for text, rows in _grouped({number: fold(query.question) for number, query in items.items()}):
        same = len({frozenset(map(fold, items[number].answers)) for number in rows}) == 1
        answers = "the same answers" if same else "different answers"
        yield Finding("warning", "repeated question", f"{len(rows)} rows ask {text!r}, with {answers}", rows)
    unclear = defaultdict(list)
    for number, query in items.items():
        for name in not_taken(query.meta):
            unclear[name].append(number)
    for name, rows in unclear.items():
        text = f"{len(rows)} of {len(items)} questions: {NOT_TAKEN.format(name=name)}"
        yield Finding("warning", "unclear answers", text, tuple(rows))
    for kind, (text, is_wrong) in OF_QUESTIONS.items():
        rows = tuple(number for number, query in items.items() if is_wrong(query))
        if rows:
            yield Finding("warning", kind, f"{len(rows)} of {len(items)} questions: {text}", rows)


def _gives_away(query: Query) -> bool:
    asked, golds = in_words(fold(query.question)), proving(query.answers)
    return golds != [] and all(in_words(fold(answer)) in asked for answer in golds)


def _is_uneven(query: Query) -> bool:
    ids, titles = query.meta.get("supporting") or (), query.meta.get("supporting_titles") or ()
    return bool(ids and titles) and len(ids) != len(titles)


def _has_passages(query: Query) -> bool:
    try:
        return bool(carried.passages(query.meta)[0])
    except ValueError:
        return False


# A kind of warning -> what it says, and the test of a question.
OF_QUESTIONS: Mapping[str, tuple[str, Callable[[Query], bool]]] = {
    "answer in question": (
        "every answer stands in the question itself (a choice between two, or a leak)",
        _gives_away,
    ),
    "long answers": (
        "the shortest answer has more than 20 words, which exact match hardly ever meets",
        lambda query: min(len(normalise(answer).split()) for answer in query.answers) > 20,
    ),
    "gold lists": (
        "supporting and supporting_titles are lists of unlike length, which a cold start by gold passages leaves out",
        _is_uneven,
    ),
    "list as text": (
        "an answer is a list written as one text, which nothing matches; `qr-jax data convert FILE NEW` takes it apart",
        lambda query: any(list_in(answer) for answer in query.answers),
    ),
    "passages beside": (
        "passages stand beside the question, which only data.corpus=own searches; `qr-jax data convert FILE NEW` makes "
        "a corpus of all",
        _has_passages,
    ),
}


def _passages(items: Mapping[int, Any]) -> Iterator[Finding]:
    for text, rows in _grouped({number: nfc(f"{one.title}\n{one.text}") for number, one in items.items()}):
        yield Finding("warning", "repeated passage", f"{len(rows)} rows have one text, {text[:60]!r}...", rows)
    untitled = tuple(number for number, passage in items.items() if not passage.title)
    if untitled:
        yield Finding("warning", "no title", f"{len(untitled)} of {len(items)} passages have no title", untitled)


def _overlap(items: Mapping[int, Any], against: Sequence[Path], columns: Columns) -> Iterator[Finding]:
    """Find the questions of this file that the other file asks too, by normalised text or by id."""
    other = against[0]
    theirs, findings, *_ = _read(against, columns)
    findings = [one for one in findings if one.level == "error"]
    if findings:
        rows = tuple(row for one in findings for row in one.rows)
        many = f"{len(rows)} rows cannot be read and were not compared" if rows else "it cannot be read to its end"
        yield Finding("error", "unreadable other file", f"{other.name}: {many} ({findings[0].text})", (), rows)
    elif not any(isinstance(one, Query) for one in theirs.values()):
        what = "only passages" if theirs else "no rows"
        text = f"{other.name} has {what}, so nothing was compared; --against wants a file of questions"
        yield Finding("error", "nothing to compare", text, ())
    elif items and not any(isinstance(one, Query) for one in items.values()):
        text = "this file has only passages, so nothing was compared; --against is for a file of questions"
        yield Finding("error", "nothing to compare", text, ())
    for kind, key in (("overlap", lambda one: fold(one.question)), ("overlap of ids", lambda one: one.id)):
        places = defaultdict(list)
        for number, query in theirs.items():
            if isinstance(query, Query):
                places[key(query)].append(number)
        shared = [number for number, query in items.items() if isinstance(query, Query) and key(query) in places]
        if shared:
            others = tuple(sorted({row for number in shared for row in places[key(items[number])]}))
            what = "questions" if kind == "overlap" else "ids"
            text = f"{len(shared)} of {len(items)} {what} stand in {other.name} too"
            yield Finding("warning", kind, text, tuple(shared), others)


def _grouped(keys: Mapping[int, str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Return the keys that more than one row has, with their rows."""
    places = defaultdict(list)
    for number, key in keys.items():
        places[key].append(number)
    return ((key, tuple(rows)) for key, rows in places.items() if len(rows) > 1)


def _counts(items: Mapping[int, Query | Passage], rows: int, last: int) -> dict[str, Any]:
    """Count rows, answers, words of passages and, where the columns exist, the rows of each dataset, hops, type etc."""
    counts: dict[str, Any] = {"rows": rows, "readable": len(items)}
    if last > rows:
        counts["empty_lines"] = last - rows  # which a row's number counts
    queries = [item for item in items.values() if isinstance(item, Query)]
    passages = [item for item in items.values() if isinstance(item, Passage)]
    if queries:
        counts |= {"questions": len(queries), "answers": sum(len(query.answers) for query in queries)}
        for name in ("dataset", "data_source", "split", "origin_split", "type", "level", "kind", "hops"):
            found = Counter(str(query.meta[name]) for query in queries if query.meta.get(name) is not None)
            if 0 < len(found) <= 20:
                counts[name] = dict(sorted(found.items()))
        with_gold = sum(bool(query.meta.get("supporting") or query.meta.get("supporting_titles")) for query in queries)
        counts["with_gold_passages"] = with_gold
        if traced := sum("turns" in query.meta for query in queries):
            counts["with_turns"] = traced  # what an environment makes of them is seen when a run begins
    if passages:
        counts |= {"passages": len(passages), "words": sum(len(one.text.split()) for one in passages)}
    return counts


def format_report(checked: Checked) -> str:
    """Format the counts, then one line for each finding, errors first."""
    lines = [f"{checked.file}: {checked.schema}"]
    for name, value in checked.counts.items():
        shown = ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, Mapping) else value
        lines.append(f"  {name}: {shown}")
    for level in ("error", "warning"):
        lines += _lines([one for one in checked.findings if one.level == level])
    errors = sum(len(one.rows) if one.kind in BY_ROW else 1 for one in checked.errors)
    warnings = len(checked.findings) - len(checked.errors)
    found = [f"{count} {what}{'s' * (count != 1)}" for count, what in ((errors, "error"), (warnings, "warning"))]
    return "\n".join([*lines, ", ".join(found)])


def _lines(findings: list[Finding]) -> Iterator[str]:
    """Yield a line for each of the first findings of a level, and one that counts the rest."""
    for one in findings[:SHOWN]:
        more = f" and {len(one.rows) - SHOWN} more" if len(one.rows) > SHOWN else ""
        at = f"row{'s' * (len(one.rows) > 1)} {', '.join(map(str, one.rows[:SHOWN]))}{more}: " if one.rows else ""
        yield f"{one.level}: {at}{one.text}"
    if len(findings) > SHOWN:
        yield f"{findings[0].level}: {len(findings) - SHOWN} more kinds of them (--json lists all)"
