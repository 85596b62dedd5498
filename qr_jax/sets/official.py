"""The official files of the suite's seven question sets and three more: their names, and parsers of their rows.

Each parser takes a row as its set's own page (in SETS) describes it and returns our columns; an error names a missing
field. Gold passages are `supporting_titles` and, where the file holds their texts, `supporting_texts` of equal length.
"""

import ast
import csv
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from qr_jax.config import SET_PREFIX
from qr_jax.data.parsing import Row, Unanswerable
from qr_jax.errors import UserError
from qr_jax.sets import carried
from qr_jax.sets.answer_columns import check_answerable
from qr_jax.settings import json_text
from qr_jax.settings.settings import names, show

BUILT = "runs/questions"  # where built sets are kept
SOURCE = "source.json"  # in a built split's folder: the file it was built from, by whom
MOST_SOURCE_BYTES = 10_000
MAIN = "main"  # the branch that a repository of the hub shows
VERSION = "1.2.0"  # to be raised when a parser changes: built sets are then built anew
TEXTS = ("id", "question", "type", "level")
LISTS = ("answers", "entities", "supporting_titles", "supporting_texts")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class File:
    """One official file; its SHA-256 is given only if somebody trustworthy published it (`attested`)."""

    name: str
    sha256: str | None = None
    attested: str = ""


@dataclass(frozen=True)
class Official:
    """A question set: the page that describes its rows, the parser, and the files of the splits that have answers.

    `packed` is what its owner publishes the files in, if not by themselves.
    """

    page: str
    parse: Callable[[Row, str], dict[str, Any]]  # a row and the id for one that has none
    splits: Mapping[str, File]
    packed: str = ""


@dataclass(frozen=True)
class OfHub:
    """A data set repository of the Hugging Face hub, and which file of it the set is."""

    repo: str
    file: str
    revision: str


def field(row: Row, name: str, kind: type | tuple[type, ...] = str) -> Any:
    """Return a field of an official row; ValueError names a field that is missing or has another type."""
    if name not in row:
        raise UserError(f"has no field {name!r}; fields found: {names(row)}")
    if not isinstance(row[name], kind):
        wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise UserError(f"field {name!r} must be a {wanted}, and is a {type(row[name]).__name__}")
    return row[name]


def nq_open(row: Row, name: str) -> dict[str, Any]:
    """Read {"question", "answer": [text]}."""
    return {"id": name, "question": field(row, "question"), "answers": field(row, "answer", list), "hops": 1}


def triviaqa(row: Row, name: str) -> dict[str, Any]:
    """Read {"Question", "QuestionId", "Answer": {"Value", "Aliases"}, ...}: an item of "Data"."""
    answer = field(row, "Answer", dict)
    answers = list(dict.fromkeys([field(answer, "Value"), *field(answer, "Aliases", list)]))
    return {"id": field(row, "QuestionId"), "question": field(row, "Question"), "answers": answers, "hops": 1}


def popqa(row: Row, name: str) -> dict[str, Any]:
    """Read a line of the table: id, subj, prop, obj, ..., s_wiki_title, question, possible_answers (a JSON list)."""
    found = json_text.parse(field(row, "possible_answers"))
    if not isinstance(found, list):
        raise UserError(f"field 'possible_answers' must be a JSON list, and is a {type(found).__name__}")
    return {
        "id": f"popqa-{field(row, 'id')}", "question": field(row, "question"), "answers": found, "hops": 1,
        "type": field(row, "prop"), "supporting_titles": [field(row, "s_wiki_title")],
    }  # fmt: skip


def hotpotqa(row: Row, name: str) -> dict[str, Any]:
    """Read {"_id", "question", "answer", "supporting_facts": [[title, place]], "context": [[title, [text]]], ...}."""
    return _of_hotpotqa(row) | {"level": field(row, "level"), "hops": 2}


def two_wiki(row: Row, name: str) -> dict[str, Any]:
    """Read HotpotQA's form with "evidences": [[subject, relation, object]] and other types."""
    if not all(isinstance(one, list) and len(one) == 3 for one in field(row, "evidences", list)):
        raise UserError(f"field 'evidences' must hold triples, and is {show(row['evidences'])}")
    return _of_hotpotqa(row) | {"hops": 2} | carried.hops(row)


def _of_hotpotqa(row: Row) -> dict[str, Any]:
    field(row, "supporting_facts", list)
    field(row, "context", list)
    return {"id": field(row, "_id"), "type": field(row, "type")} | _with_passages(row)


def musique(row: Row, name: str) -> dict[str, Any]:
    """Read {"id", "paragraphs": [{"idx", "title", "paragraph_text", "is_supporting"}], "question",
    "question_decomposition": [{"id", "question", "answer", "paragraph_support_idx"}], "answer", "answer_aliases",
    "answerable"}."""
    field(row, "answerable", bool)
    check_answerable(row)
    field(row, "paragraphs", list)
    field(row, "question_decomposition", list)
    found = _with_passages(row)
    answers = list(dict.fromkeys([*found["answers"], *field(row, "answer_aliases", list)]))
    return {"id": field(row, "id")} | found | carried.hops(row) | {"answers": answers}


def _with_passages(row: Row) -> dict[str, Any]:
    """Return the question, its answer, the passages beside it, and which of them are gold."""
    context, gold = carried.passages(row)
    return {
        "question": field(row, "question"), "answers": [field(row, "answer")], "context": context,
        "supporting_titles": [title for title, _ in gold], "supporting_texts": [text for _, text in gold],
    }  # fmt: skip


def bamboogle(row: Row, name: str) -> dict[str, Any]:
    """Read a line of the table: Question, Answer."""
    return {"id": name, "question": field(row, "Question"), "answers": [field(row, "Answer")], "hops": 2}


def frames(row: Row, name: str) -> dict[str, Any]:
    """Read a line of the table: Prompt, Answer, reasoning_types, wiki_links (a Python list of addresses)."""
    try:
        links = ast.literal_eval(field(row, "wiki_links"))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        links = None
    if not isinstance(links, list) or not all(isinstance(link, str) for link in links):
        raise UserError(f"field 'wiki_links' must be a list of addresses, and is {field(row, 'wiki_links')[:80]!r}")
    pages = (link.partition("#")[0] for link in links)
    named = (page.partition("/wiki/")[2] or page.rpartition("/")[2] for page in pages)  # AC/DC's has a further /
    titles = [unquote(name).replace("_", " ").strip() for name in named]
    return {
        "id": name, "question": field(row, "Prompt"), "answers": [field(row, "Answer")],
        "type": field(row, "reasoning_types"), "supporting_titles": list(dict.fromkeys(filter(None, titles))),
    }  # fmt: skip


def strategyqa(row: Row, name: str) -> dict[str, Any]:
    """Read {"qid", "question", "answer": true or false, "decomposition": [text], ...}: the answer is yes or no."""
    steps = field(row, "decomposition", list)
    answers = ["yes" if field(row, "answer", bool) else "no"]
    return {"id": field(row, "qid"), "question": field(row, "question"), "answers": answers, "hops": len(steps)}


def webwalkerqa(row: Row, name: str) -> dict[str, Any]:
    """Read {"question", "answer", "root_url", "info": {"type" or "hop", "difficulty_level", ...}}, or with capitals."""
    plain = {key.lower(): value for key, value in row.items()}
    info = {key.lower(): value for key, value in field(plain, "info", dict).items()}
    return {
        "id": name, "question": field(plain, "question"), "answers": [field(plain, "answer")],
        "type": info.get("hop") or field(info, "type"), "level": field(info, "difficulty_level"),
    }  # fmt: skip


def rows(file: Path, name: str) -> Iterator[tuple[int, Row]]:
    """Yield (row number from 1, row) of an official file: a JSON list, {"Data": [...]}, JSON lines or a headed table.

    ValueError if the file is none of these, or is cut short.
    """
    is_table = name.endswith((".tsv", ".csv"))
    try:
        with file.open(encoding="utf-8", newline="" if is_table else None) as opened:
            if is_table:
                table = filter(None, csv.reader(opened, delimiter="\t" if name.endswith(".tsv") else ","))
                head = next(table, [])
                yield from enumerate((dict(zip(head, cells, strict=False)) for cells in table), 1)
            elif name.endswith(".jsonl"):
                yield from ((number, json_text.parse(line)) for number, line in enumerate(opened, 1) if line.strip())
            else:
                found = json_text.parse(opened.read())
                found = field(found, "Data", list) if isinstance(found, dict) else found
                if not isinstance(found, list):
                    raise UserError(f"a list of rows is wanted, and this is {type(found).__name__}")
                yield from enumerate(found, 1)
    except (ValueError, csv.Error) as error:
        raise UserError(f"{name} is cut short or no {'table' if is_table else 'JSON'}: {error}") from error


def read(file: Path, official: Official, split: str, set_name: str) -> Iterator[dict[str, Any]]:
    """Yield our columns of every row of a split's file; ValueError names file, row and field.

    Rows that say that their question has no answer (of musique_full) are left out and counted in the log.
    """
    name = official.splits[split].name
    unanswerable = 0
    for number, row in rows(file, name):
        try:
            if not isinstance(row, Mapping):
                raise UserError(f"must be an object, and is a {type(row).__name__}")
            made = _texts(official.parse(row, f"{set_name}-{split}-{number - 1}"))
        except Unanswerable:
            unanswerable += 1
            continue
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{name} row {number} {error} (its form: {official.page})") from error
        yield made | {"dataset": set_name, "split": split}
    if unanswerable:
        log.warning("%s: %d rows left out, which say that their question has no answer", name, unanswerable)


def _texts(made: dict[str, Any]) -> dict[str, Any]:
    """Check that our columns hold texts or lists of texts; lone surrogates become U+FFFD, so that files can be written.

    ValueError names a column that holds something else.
    """

    def text(value: Any, name: str) -> str:
        if not isinstance(value, str):
            raise UserError(f"must hold texts alone in {name!r}, and holds {show(value)}")
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    found = dict(made)
    found |= {name: text(made[name], name) for name in TEXTS if name in made}
    found |= {name: [text(one, name) for one in made[name]] for name in LISTS if name in made}
    if "context" in made:
        found["context"] = [(text(title, "context"), text(body, "context")) for title, body in made["context"]]
    return found


_TFDS, _HF = "tensorflow_datasets 4.9.10, its checksums", "huggingface/datasets, hotpot_qa/dataset_infos.json"


def _hotpotqa_set(dev: str, dev_sha256: str) -> Official:
    train = File("hotpot_train_v1.1.json", "26650cf50234ef5fb2e664ed70bbecdfd87815e6bffc257e068efea5cf7cd316", _HF)
    splits = {"train": train, "dev": File(f"hotpot_dev_{dev}_v1.json", dev_sha256, _HF)}
    return Official("https://github.com/hotpotqa/hotpot#json-format", hotpotqa, splits)


SETS: Mapping[str, Official] = {
    "nq": Official(
        "https://github.com/google-research-datasets/natural-questions/tree/master/nq_open",
        nq_open,
        {
            "train": File(
                "NQ-open.train.jsonl", "0c93aaf13b12f855628489665e4ef85ffb8573ad444646f11f4fabdc57a0aabf", _TFDS
            ),
            "dev": File("NQ-open.dev.jsonl", "f15567f38099f3615f5b8a685c0aef449c11ad90d3da3735e8d1b98115b40616", _TFDS),
        },
    ),
    "triviaqa": Official(
        "https://github.com/mandarjoshi90/triviaqa/blob/master/samples/triviaqa_sample.json",
        triviaqa,
        {split: File(f"unfiltered-web-{split}.json") for split in ("train", "dev")},
        "triviaqa-unfiltered.tar.gz",
    ),
    "popqa": Official(
        "https://github.com/AlexTMallen/adaptive-retrieval/tree/main/data", popqa, {"test": File("popQA.tsv")}
    ),
    "hotpotqa/distractor": _hotpotqa_set(
        "distractor", "4e9ecb5c8d3b719f624d66b60f8d56bf227f03914f5f0753d6fa1b359d7104ea"
    ),
    "hotpotqa/fullwiki": _hotpotqa_set("fullwiki", "2f1f3e594a3066a3084cc57950ca2713c24712adaad03af6ccce18d1846d5618"),
    "2wiki": Official(
        "https://github.com/Alab-NII/2wikimultihop#dataset-contents",
        two_wiki,
        {split: File(f"{split}.json") for split in ("train", "dev")},
        "data_ids_april7.zip",
    ),
    "musique": Official(
        "https://github.com/StonyBrookNLP/musique/blob/main/raw_data_to_official_format.py",
        musique,
        {split: File(f"musique_ans_v1.0_{split}.jsonl") for split in ("train", "dev")},
        "musique_v1.0.zip",
    ),
    "bamboogle": Official(
        "https://github.com/ofirpress/self-ask/blob/main/datasets/README.md", bamboogle, {"test": File("bamboogle.csv")}
    ),
    "frames": Official("https://huggingface.co/datasets/google/frames-benchmark", frames, {"test": File("test.tsv")}),
    "strategyqa": Official(
        "https://allenai.org/data/strategyqa",
        strategyqa,
        {"train": File("strategyqa_train.json")},
        "strategyqa_dataset.zip",
    ),
    "webwalkerqa": Official(
        "https://huggingface.co/datasets/callanwu/WebWalkerQA",
        webwalkerqa,
        {"test": File("webwalkerqa_main.jsonl")},
        "the split `main`",
    ),
}

# What `qr-jax data get NAME` fetches. Repositories and file names stand in the addresses that FRAMES' authors and
# Search-R1 give; neither was reached from here, so no commit is known to pin: the one that came is recorded.
HUB: Mapping[str, OfHub] = {
    "frames": OfHub("google/frames-benchmark", "test.tsv", MAIN),
    "wiki18": OfHub("PeterJinGo/wiki-18-corpus", "wiki-18.jsonl.gz", MAIN),
}

ALIASES = {"hotpotqa": "hotpotqa/distractor"}
NAMES = (*ALIASES, *SETS, "wiki18")


def find(name: str) -> Official:
    """Return the set of that name; ValueError lists the known names."""
    if name not in SETS:
        raise UserError(f"there is no question set {name!r}; there are: {', '.join(SETS)}")
    return SETS[name]


def published(name: str) -> str:
    """Say where the owner publishes a set that is not in HUB, and which command reads its files."""
    found = SETS[ALIASES.get(name, name)]
    files = " and ".join(file.name for file in found.splits.values()) + (
        f" (of {found.packed})" if found.packed else ""
    )
    todo = "`qr-jax data convert FILE OUT` reads such a file"
    return f"no file of the hub is known for {name}: its owner publishes {files} by way of {found.page}; {todo}"


def parts(setting: str) -> tuple[str, str | None, str | None]:
    """Return the set's full name, the split and the folder of `tfds:NAME[:SPLIT][@FOLDER]`; ValueError if unknown."""
    what, _, folder = setting.removeprefix(SET_PREFIX).partition("@")
    name, _, split = what.partition(":")
    name = ALIASES.get(name, name)
    has = find(name).splits
    if split and split not in has:
        raise UserError(f"{name} has no split {split!r} with answers; it has: {', '.join(has)}")
    return name, split or None, os.path.expanduser(folder) if folder else None


def place(root: str | Path, name: str, split: str) -> Path:
    """Return the folder where a set's split is kept once it is built."""
    return Path(root, name.replace("/", "_"), split)


def is_built(setting: str) -> bool:
    """Return True if the named splits, given without a folder, were built here before: nothing is downloaded then."""
    name, split, folder = parts(setting)
    wanted = [split] if split else find(name).splits
    return folder is None and all(source(place(BUILT, name, one)).get("version") == VERSION for one in wanted)


def source(place: Path) -> dict[str, str]:
    """Return the source recorded in a built split; {} if there is none that can be read."""
    file = place / SOURCE
    try:
        found = json_text.parse(file.read_bytes()[:MOST_SOURCE_BYTES]) if file.is_file() else {}
    except ValueError:  # damaged: the split is built anew
        return {}
    return found if isinstance(found, dict) else {}


def for_part(setting: str, part: str) -> str:
    """Return the setting with its split filled in: train to train on; dev, or else test, to evaluate."""
    name, split, folder = parts(setting)
    has = find(name).splits
    if split is None:
        split = next((one for one in (("train",) if part == "train" else ("dev", "test")) if one in has), None)
    if split is None:
        raise UserError(f"{name} has no split to {part} on; it has: {', '.join(has)} (as in {SET_PREFIX}{name}:test)")
    return f"{SET_PREFIX}{name}:{split}" + (f"@{folder}" if folder else "")
