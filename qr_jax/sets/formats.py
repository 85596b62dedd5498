"""Convert question rows of other systems to our columns, and our queries to their rows: verl, SkyRL, FlashRAG, TRL.

The formats are those of their data sets' own files (verl's and SkyRL's Search-R1 Parquet, FlashRAG's JSON lines, TRL's
`prompt` with columns for the rewards). A query's `meta` and `entities` go into the column `metadata`."""

import difflib
import gzip
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from qr_jax.data import limits
from qr_jax.data.parsing import ANSWERS, Row, Unanswerable, one_text, show, texts
from qr_jax.data.world.generate import World
from qr_jax.errors import UserError
from qr_jax.records import Passage, Query, Trace
from qr_jax.run import run_files
from qr_jax.sets import carried, tables
from qr_jax.sets.answer_columns import (
    as_text,
    beside,
    check_answerable,
    holds_answers,
    in_objects,
    list_in,
    says_none,
    separated,
    tells_of_answers,
)
from qr_jax.settings import json_text
from qr_jax.settings.settings import names

Form = Literal["jsonl", "verl", "skyrl", "flashrag", "trl"]
OTHER_SCHEMAS = {  # column -> where other systems keep what is missing
    "id": ("_id", "qid", "query_id", "question_id", "questionid", "docid", "doc_id", "passage_id", "pid"),
    "question": ("prompt", "query", "input", "problem", "messages", "q"),
    "answers": (
        *("reward_model", "ground_truth", "golden_answer", "gold", "golds", "label", "target", "info", "completion"),
        *("a", "possible_answers", "answer_aliases", "short_answers"),
    ),
    "text": ("passage", "content", "body", "document"),
    "title": ("heading", "headline", "page_title", "wikipedia_title"),
}
OR_CONVERT = "; or `qr-jax data convert FILE NEW"
TRL_ANSWERS = ("answers", "golden_answers", "answer", "ground_truth", "solution")
ENDS = (".parquet", ".jsonl", ".jsonl.gz")  # of the files that are written
ABILITY = "fact-reasoning"
COUNT = re.compile(r"((train|dev|val|validation|eval|test)_)?\d+")  # an id that only counts


def schema(row: Row) -> str:
    """Return the row's format: "qr_jax", "verl", "skyrl", "flashrag", "trl", "qr_jax corpus" or "Search-R1 corpus"."""
    if _is_prompt(row.get("prompt")):
        if "env_class" in row or "reward_spec" in row:
            return "skyrl"
        if "reward_model" in row:
            return "verl"
        if "question" not in row and any(name in row for name in TRL_ANSWERS):
            return "trl"
    if "question" in row:
        return "flashrag" if "golden_answers" in row and "answers" not in row else "qr_jax"
    if "contents" in row:
        return "Search-R1 corpus"
    return "qr_jax corpus" if "text" in row else "qr_jax"


def ours(row: Row) -> Row:
    """Return the row with our columns: id, question, answers, entities and everything else in its metadata.

    Our own rows, and rows of an unknown format, come back as they are. ValueError if a row of another system lacks a
    field that its format requires. A row without an id is named by its data source, split and index, or by its
    question's hash. An id of verl's or SkyRL's that is only a counter gets its data source in front.
    """
    form = schema(row)
    if form == "flashrag":
        rest = {name: value for name, value in row.items() if name not in ("golden_answers", "metadata")}
        return rest | {"answers": row["golden_answers"]} | _metadata(row)
    if form == "trl":
        column = next(name for name in TRL_ANSWERS if name in row)
        rest = {name: value for name, value in row.items() if name not in ("prompt", "metadata", column)}
        question = last_user_text(row["prompt"])
        return {"id": hash_of(question)} | rest | {"question": question, "answers": row[column]} | _metadata(row)
    return _of_verl(row) if form in ("verl", "skyrl") else row


def as_ours(row: Row) -> tuple[Row, tuple[str, ...]]:
    """Return the row with our columns and gold passages, and its accepted answers, those in further columns too.

    ValueError: what column is missing or wrong; Unanswerable: the row says that there is no answer.
    """
    row = ours(row)
    check_answerable(row)
    column = next((name for name in ANSWERS if name in row), None)
    if column is None:
        raise UserError(missing("answers", row, f"none of {', '.join(ANSWERS)}"))
    answers = accepted(texts(row, column, most_chars=limits.MOST_QUESTION_CHARS), row)
    kept = {("answers" if name == column else name): held for name, held in row.items() if not holds_answers(name)}
    return kept | _gold(row), answers


def accepted(answers: Iterable[str], row: Row) -> tuple[str, ...]:
    """Return the answers and those beside them, each once, taken apart at separators (answer_columns.py).

    Answers that say that there is none are left out; Unanswerable where there is no other.
    """
    found = dict.fromkeys(part for answer in (*answers, *_also_answers(row)) for part in separated(answer))
    kept = tuple(answer for answer in found if not says_none(answer))
    if found and not kept:
        raise Unanswerable(f"has no answer, as its answer says: {show(next(iter(found)))}")
    return kept


def _also_answers(row: Row) -> list[str]:
    """Gather the accepted answers that stand beside the answer; ValueError names a column that holds anything else."""
    found = []
    for name, held in beside(row):
        if not holds_answers(name) or not held or held != held:  # NaN is pandas' null
            continue
        values = (list_in(held) or [held]) if isinstance(held, str) else in_objects(held)
        if not isinstance(values, list):
            wanted = "accepted answers, a text or a list of texts (of anything else give the column another name)"
            raise UserError(f"{name!r} must hold {wanted}, and is {show(values)}")
        for at, value in enumerate(map(as_text, values), 1):
            found.append(one_text(value, f"item {at} of {name!r}", True, limits.MOST_QUESTION_CHARS))
    return found


def _gold(row: Row) -> dict[str, Any]:
    """Return the columns of gold passages that official files write otherwise (carried.py)."""
    found: dict[str, Any] = {}
    facts = row.get("supporting_facts")
    if isinstance(facts, Mapping) and facts.get("title"):
        name = "supporting_facts.title"
        titles = list(texts({name: facts["title"]}, name, most_chars=limits.MOST_QUESTION_CHARS))
        found["supporting_facts"] = {**facts, "title": titles}
    if not row.get("supporting") and not row.get("supporting_titles") and (marked := carried.gold_titles(row)):
        found["supporting_titles"] = marked
    return found


def missing(column: str, row: Row, what: str) -> str:
    """Tell which column a row lacks, with the column of another system's schema that looks right."""
    similar = [name for name in OTHER_SCHEMAS.get(column, ()) if name in row]
    similar += difflib.get_close_matches(column, map(str, row), 1)
    kind = " (a text or a list of texts)" if column == "answers" else ""
    hint = f"; {similar[0]!r} looks like it: rename it to {column!r}{kind}" if similar else ""
    asks = {"question", *OTHER_SCHEMAS["question"]}.intersection(row)
    if column == "answers" and not asks and {"text", "contents", *OTHER_SCHEMAS["text"]}.intersection(row):
        hint = "; these look like passages, which `qr-jax index` and data.corpus take"
        if not {"text", "contents"}.intersection(row):
            other = next(name for name in OTHER_SCHEMAS["text"] if name in row)
            hint += f" once {other!r} is named 'text': rename it{OR_CONVERT} --map text={other}`, with id=COLUMN and "
            hint += "title=COLUMN where these too have other names"
    elif similar:
        hint += f"{OR_CONVERT} --map {column}={similar[0]}`"
    elif column == "id":
        hint += f"{OR_CONVERT}`, which names each row, or has --map id=COLUMN"
    if not hint:
        hint = f"; if another column has it: data.map.{column}=COLUMN of a run{OR_CONVERT} --map {column}=COLUMN`"
    return f"has {what}; fields found: {names(row)}{hint}"


def _of_verl(row: Row) -> Row:
    """Convert verl's or SkyRL's row. `ground_truth` is {"target": ...}, a list or a text; else golden_answers serve."""
    extra = row.get("extra_info") or {}
    if not isinstance(extra, Mapping):
        raise UserError(f"'extra_info' must be an object, and is {show(extra)}")
    question = extra.get("question") or row.get("question")
    if not question:
        question = last_user_text(row["prompt"]).rpartition("Question:")[2].strip()
    if not isinstance(question, str):
        where = "extra_info.question" if extra.get("question") else "question"
        raise UserError(f"{where!r} must be a text, and is {show(question)}")
    reward = row.get("reward_spec") or row.get("reward_model") or {}
    truth = reward.get("ground_truth") if isinstance(reward, Mapping) else None
    if isinstance(truth, Mapping):
        truth = truth.get("target")
    if truth is None:
        truth = row.get("golden_answers")
    if truth is None:
        where = "reward_spec" if "reward_spec" in row else "reward_model"
        raise UserError(f"has no answers: neither {where}.ground_truth (or its 'target') nor 'golden_answers'")
    source, split, index = row.get("data_source", "unknown"), extra.get("split"), extra.get("index")
    if "id" in row:
        name = _with_source(row["id"], row.get("data_source"), extra)
    else:
        name = hash_of(question) if index is None else f"{source}-{split or 'train'}-{index}"
    kept = {"data_source": source} | ({"split": split} if split else {})
    beside = {**row, **{f"extra_info.{name}": value for name, value in extra.items()}}
    kept |= {one: held for one, held in beside.items() if tells_of_answers(one)}
    return {"id": name, "question": question, "answers": truth} | kept | _metadata(row)


def _with_source(name: Any, source: Any, extra: Row) -> Any:
    """Return `nq/train_0` for the id `train_0` of data source `nq`; ids that are more than counters stay as they are.

    FlashRAG counts the rows of each set separately, and Search-R1 merges such sets into one file, where an id alone
    names several questions. Splits and pools hash ids, so the rule depends on the row alone: an id is the same
    whichever rows are read with it. Rows written by qr_jax mark in extra_info that their id is complete.
    """
    counts = isinstance(name, str | int) and not isinstance(name, bool) and COUNT.fullmatch(str(name))
    return f"{source}/{name}" if counts and source and extra.get("query_id") != str(name) else name


def last_user_text(prompt: Any) -> str:
    """Return the last user message of a prompt: a text, or messages of texts or lists of text parts."""
    if isinstance(prompt, str):
        return prompt
    said = [message["content"] for message in prompt if message["role"] == "user"]
    if not said:
        raise UserError("its prompt has no message of the role 'user'")
    parts = said[-1] if isinstance(said[-1], list) else [{"text": said[-1]}]
    texts = [part.get("text", "") for part in parts if isinstance(part, Mapping)]
    if not all(isinstance(text, str) for text in texts):
        wanted = "the 'content' of the last user message in 'prompt' must be a text or a list of text parts"
        raise UserError(f"{wanted}, and is {show(said[-1])}")
    return "".join(texts)


def row_of(query: Query | Passage, form: Form = "jsonl", at: int = 0) -> dict[str, Any]:
    """Return the query as a row of `form`, at place `at` of the file (`ours` inverts it); a passage as our own row."""
    if isinstance(query, Passage):
        return {"id": query.id, "title": query.title, "text": query.text}
    answers = list(query.answers)
    more = ({"entities": list(query.entities)} if query.entities else {}) | dict(query.meta)
    if form == "jsonl":
        return {"id": query.id, "question": query.question, "answers": answers} | more
    if form == "flashrag":
        return {"id": query.id, "question": query.question, "golden_answers": answers, "metadata": more}
    prompt = [{"role": "user", "content": query.question}]
    if form == "trl":
        return {"id": query.id, "prompt": prompt, "answers": answers, "metadata": more}
    source = str(query.meta.get("data_source") or f"searchR1_{query.meta.get('dataset', 'qr_jax')}")
    split = query.meta.get("split") or query.meta.get("origin_split")
    truth = {"target": answers}
    asked = {"ground_truth": truth, "question": query.question, "data_source": source}
    extra = {"index": at, "query_id": query.id, "question": query.question, "need_tools_kwargs": True}
    extra |= {"split": str(split)} if split else {}
    row = {"id": query.id, "question": query.question, "golden_answers": answers, "data_source": source}
    row |= {"prompt": prompt, "ability": ABILITY, "reward_model": {"style": "rule", "ground_truth": truth}}
    row |= {"extra_info": extra | {"tools_kwargs": {"search": {"create_kwargs": asked}}}, "metadata": more}
    if form == "skyrl":
        row |= {"env_class": "search", "reward_spec": {"method": "rule", "ground_truth": truth}}
    return row


def write(items: Sequence[Query] | Sequence[Passage], file: Path, form: Form) -> None:
    """Write the queries in a format, as Parquet, JSON lines or gzipped JSON lines by the file's name, to a new file.

    Passages have one format alone, ours.
    """
    check_new(file)
    made = [row_of(item, form, at) for at, item in enumerate(items)]
    if file.suffix != ".parquet":
        write_lines(file, made)
        return
    # metadata differ from row to row, and a Parquet column does not: they go as JSON
    kept = [row | {"metadata": json.dumps(row["metadata"], default=str)} if "metadata" in row else row for row in made]
    tables.write(file, kept)


def write_lines(file: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines, gzipped if the file's name says so, all or nothing."""
    opened: Callable = gzip.open if file.suffix == ".gz" else open
    beside = file.with_name(f".{file.name}.tmp")
    with opened(beside, "wt", encoding="utf-8") as lines:
        lines.writelines(map(line_of, rows))
    os.replace(beside, file)


def line_of(row: Row) -> str:
    """Return a row as a line of JSON, with texts for what JSON lacks, as a Parquet file's dates and bytes."""
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"


def trace_row(trace: Trace) -> dict[str, Any]:
    """Return the trace as a row of ours: its query's, with the expert's turns."""
    return row_of(trace.query) | {"turns": list(trace.turns)}


def export(world: World, folder: str | Path) -> list[Path]:
    """Write documents, train, dev, test and traces.jsonl and return their paths. ValueError if one of them exists."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, Iterable[dict]] = {
        **{name: map(row_of, getattr(world, name)) for name in ("documents", "train", "dev", "test")},
        "traces": map(trace_row, world.traces),
    }
    paths = [folder / f"{name}.jsonl" for name in tables]
    if there := [path for path in paths if os.path.lexists(path)]:
        raise UserError(f"{there[0]} is already there; write this world to another folder, or move that file away")
    for path, rows in zip(paths, tables.values(), strict=True):
        write_lines(path, rows)
    return paths


def check_new(file: Path) -> None:
    """Raise ValueError if `write` could not create this file."""
    if not file.name.endswith(ENDS):
        raise UserError(f"{file} must end in .parquet, .jsonl or .jsonl.gz: its end says what is written")
    if file.exists():
        raise UserError(f"{file} is there already, and is left as it is; name another file")
    if not file.parent.is_dir():
        raise UserError(f"there is no folder {file.parent} to write {file.name} into; make it first")
    run_files.check_writable(file.parent, "OUT")


def _is_prompt(value: Any) -> bool:
    """Return True if the value is a text or a list of chat messages."""
    if isinstance(value, str):
        return True
    is_list = isinstance(value, list) and bool(value)
    return is_list and all(isinstance(one, Mapping) and {"role", "content"} <= one.keys() for one in value)


def _metadata(row: Row) -> dict[str, Any]:
    """Return the row's metadata, an object or its JSON, without columns that would replace the question's own."""
    found = row.get("metadata") or {}
    if isinstance(found, str):
        if len(found) > limits.MOST_ROW_ITEMS:
            json_text.check_items(found.encode("utf-8", "surrogatepass"), limits.MOST_ROW_ITEMS, "'metadata'")
        try:
            found = json_text.parse(found)
        except ValueError as error:
            raise UserError(f"its metadata are a text that is no JSON ({error})") from error
    if not isinstance(found, Mapping):
        return {"metadata": found}
    return {name: value for name, value in found.items() if name not in ("id", "question", "answers")}


def hash_of(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()[:16]
