"""JSONL questions and corpora: what is read, what is refused and with which words; shares, limits and batches."""

import contextlib
import gzip
import hashlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qr_jax.data import limits, parsing, readers, sources, traces
from qr_jax.records import Passage, Query
from qr_jax.run import run_files
from qr_jax.sets import data_check, foreign, formats, tables


def jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


GOOD = {"id": "a", "question": "Who?", "answers": ["Ada"]}


def test_our_rows_and_other_systems_names_for_the_answers_are_read(tmp_path):
    path = jsonl(
        tmp_path / "q.jsonl",
        [
            {**GOOD, "entities": ["Ada"], "hops": 2, "supporting": ["p1"]},
            "",
            {"id": 7, "question": "Where?", "answer": "Rome"},
            {"id": "c", "question": "When?", "golden_answers": ["1815", "in 1815"], "metadata": {"x": 1}},
        ],
    )
    assert readers.read_queries(path) == [
        Query("a", "Who?", ("Ada",), ("Ada",), {"hops": 2, "supporting": ["p1"]}),
        Query("7", "Where?", ("Rome",)),
        Query("c", "When?", ("1815", "in 1815"), (), {"x": 1}),
    ]


SIDE = [
    ({"answer": "Oslo", "aliases": ["Christiania"]}, ("Oslo", "Christiania")),
    ({"answer": "Oslo", "answer_aliases": ["Christiania", "Oslo", ""]}, ("Oslo", "Christiania")),
    ({"answers": ["Oslo", "Oslo city"], "aliases": "Christiania"}, ("Oslo", "Oslo city", "Christiania")),
    ({"golden_answers": ["Oslo"], "metadata": {"answer_aliases": ["Christiania"]}}, ("Oslo", "Christiania")),
    ({"prompt": [{"role": "user", "content": "Where?"}], "reward_model": {"ground_truth": {"target": ["Oslo"]}},
      "aliases": ["Christiania"]}, ("Oslo", "Christiania")),
    ({"answer": "the", "aliases": ["Oslo"]}, ("Oslo",)),
    ({"answer": "Oslo", "o_aliases": ["Kristiania"], "acceptable_answers": ["Oslo, Norway"]},
     ("Oslo", "Kristiania", "Oslo, Norway")),
    ({"answer": "Oslo", "aliases": None, "answer_aliases": []}, ("Oslo",)),
    *(({"answer": "Oslo", name: ["Christiania"]}, ("Oslo", "Christiania"))
      for name in ("alt_answer", "answer_variations", "label_aliases", "obj_aliases", "alias_list", "also_accept",
                   "short_answers", "accepted_answer", "goldVariants", "Answer Alts", "also_accepted_answers")),
    *(({"answer": "Oslo", name: ["Christiania"]}, ("Oslo",))
      for name in ("answer_start", "wrong_answers", "distractor_answers", "subj_aliases", "correct_answer", "short")),
    ({"answer": "Oslo", "aliases": [{"name": "Christiania"}, {"name": "Kristiania"}]},
     ("Oslo", "Christiania", "Kristiania")),
    ({"answer": "Oslo", "o_aliases": '["Christiania", "Kristiania"]'}, ("Oslo", "Christiania", "Kristiania")),
    ({"answer": "Oslo", "alias": "['Christiania' 'Kristiania']"}, ("Oslo", "Christiania", "Kristiania")),
    ({"answer": "Oslo", "synonyms": "[Christiania]"}, ("Oslo", "[Christiania]")),
    ({"answer": "MCMV", "aliases": [1905, 1906]}, ("MCMV", "1905", "1906")),
    ({"answer": "Oslo", "Answer-Aliases": [{"text": "Christiania", "aliases": ["Kristiania"]}]},
     ("Oslo", "Christiania", "Kristiania")),
    ({"answer": "Oslo", "metadata": {"aliases": ["Christiania"], "s_aliases": ["the city"]}}, ("Oslo", "Christiania")),
    ({"answer": "Oslo", "possible_answers": ["Rome", "Oslo"], "s_aliases": ["the city"]}, ("Oslo",)),
]  # fmt: skip


@pytest.mark.parametrize(("row", "answers"), SIDE)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_accepted_answers_in_side_columns_are_golds(tmp_path, row, answers, kind):
    """They lay in `meta`, and a right answer was graded wrong. A test's choices and a subject's names are no golds."""
    path = tmp_path / f"q.{kind}"
    row = {"id": "a", "question": "Where?"} | row
    pq.write_table(pa.Table.from_pylist([row]), path) if kind == "parquet" else jsonl(path, [row])
    (query,) = readers.read_queries(path)
    assert query.answers == answers and not {"aliases", "answer_aliases", "o_aliases"} & query.meta.keys()
    (converted,), *_ = foreign.read(path)
    assert converted.answers == answers, "what is converted has the answers of what is read"
    made = tmp_path / f"made.{kind}"
    formats.write([query], made, "jsonl")
    assert readers.read_queries(made)[0].answers == answers


@pytest.mark.parametrize(
    "name",
    ["Aliases", "answerAliases", "alias", "answer-aliases", "normalized_aliases", "synonyms", "extra_info.aliases"]
    + ["additional_answers", "all_answers", "answer_variants", "metadata.aliases", "ANSWER_ALIAS"]
    + ["gold aliases", "alt_answers", "acceptedAnswers", "answer_synonyms", "alternate-answers", "object_aliases"],
)
def test_a_column_of_accepted_answers_is_known_whatever_its_spelling(tmp_path, name):
    path = jsonl(tmp_path / "q.jsonl", [{"id": "a", "question": "Where?", "answer": "Oslo", name: ["Christiania"]}])
    (query,), ((converted,), *_) = readers.read_queries(path), foreign.read(path)
    assert query == converted == Query("a", "Where?", ("Oslo", "Christiania"))


@pytest.mark.parametrize(
    "name",
    ["s_aliases", "subject_aliases", "question_aliases", "aliased", "possible_answers", "wrong_answers", "choices"]
    + ["alternatives", "other_answers", "Answer-Alternatives", "otherAnswers"]
    + ["answer_type", "answer_start", "subject.aliases", "title_synonyms", "call_answers"],
)
def test_a_column_of_other_names_or_of_a_tests_choices_holds_no_accepted_answers(tmp_path, name):
    path = jsonl(tmp_path / "q.jsonl", [{"id": "a", "question": "Where?", "answer": "Oslo", name: ["Rome"]}])
    for (query,) in (readers.read_queries(path), foreign.read(path).items):
        assert query.answers == ("Oslo",) and query.meta == {name: ["Rome"]}


@pytest.mark.parametrize("name", ["alternatives", "other_answers", "possible_answers"])
def test_a_column_that_may_hold_accepted_answers_or_wrong_choices_is_named_and_counted(tmp_path, name):
    """They became golds without a word, and a wrong choice of a test was right."""
    rows = [{"question": "Where?", "answer": "Oslo", name: ["Bergen"]}, {"question": "Who?", "answer": "Ada", name: []}]
    rows.append({"question": "What?", "answer": "a cat", "metadata": {name: ["a dog"]}})
    path = jsonl(tmp_path / "q.jsonl", [{"id": str(at)} | row for at, row in enumerate(rows)])
    told = "may hold accepted answers or a test's wrong choices, and is not taken (accepted ones: 'aliases')"
    queries, said, _ = foreign.read(path)
    assert queries == readers.read_queries(path) and [query.answers for query in queries] == [
        ("Oslo",), ("Ada",), ("a cat",)
    ]  # fmt: skip
    assert {f"rows whose {one!r} {told}: 1" for one in (name, f"metadata.{name}")} <= {*said}
    found = {one.rows: one.text for one in data_check.check(path).findings if one.kind == "unclear answers"}
    assert found == {(1,): f"1 of 3 questions: {name!r} {told}", (3,): f"1 of 3 questions: 'metadata.{name}' {told}"}


@pytest.mark.parametrize("name", ["aliases", "answer_aliases", "acceptedAnswers"])
def test_accepted_answers_in_the_extra_info_of_a_row_are_golds_as_those_in_its_metadata(tmp_path, name):
    verl = {"prompt": [{"role": "user", "content": "Where?"}], "reward_model": {"ground_truth": {"target": ["Oslo"]}}}
    for row in (verl, {"id": "a", "question": "Where?", "answer": "Oslo"}):
        path = jsonl(tmp_path / "q.jsonl", [row | {"extra_info": {name: ["Christiania"], "unanswerable": False}}])
        for (query,) in (readers.read_queries(path), foreign.read(path).items):
            assert query.answers == ("Oslo", "Christiania")
        jsonl(path, [row | {"extra_info": {"unanswerable": True}}])
        with pytest.raises(ValueError, match="has no rows"):
            readers.read_queries(path)


def test_a_side_column_that_holds_no_accepted_answers_is_named(tmp_path):
    for value in ({"Oslo": ["Christiania"]}, 5, [["Christiania"]]):
        path = jsonl(tmp_path / "q.jsonl", [{**GOOD, "aliases": value}])
        with pytest.raises(
            ValueError, match="q.jsonl row 1: .*'aliases' must (hold accepted answers, a text or|be a text)"
        ):
            readers.read_queries(path)


NO_ANSWER = [{"answerable": False}, {"is_impossible": True, "answers": []}, {"answerable": "False"}, {"answerable": 0}]
NO_ANSWER += [{"answerable": "no"}, {"answerable": "N"}, {"answerable": 0.0}, {"answerable": " false "}]
NO_ANSWER += [{"is_answerable": False}, {"unanswerable": True}, {"is_impossible": "yes"}, {"has_answer": False}]
NO_ANSWER += [
    {"Answerable": False},
    {"isAnswerable": "0.0"},
    {"Has-Answer": "f"},
    {"impossible": 1},
    {"no_answer": "Y"},
    {"answerability": "unanswerable"},
    {"Answerability": "Not answerable"},
    {"answerable": "impossible"},
]
WORDS = {"False": "True", "no": "yes", "N": "y", " false ": "TRUE ", "yes": "no", "0.0": "1.0", "f": "t", "Y": "N"}
WORDS |= {"unanswerable": "answerable", "Not answerable": "yes", "impossible": "possible"}


@pytest.mark.parametrize("column", NO_ANSWER)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_questions_whose_rows_say_that_they_have_no_answer_are_left_out_and_counted(tmp_path, caplog, column, kind):
    """MuSiQue's have the id and the answer of one that has an answer, and were trained on."""
    ((name, value), *_), path = column.items(), tmp_path / f"q.{kind}"
    other = WORDS[value] if isinstance(value, str) else type(value)(not value)
    rows = [GOOD | column, GOOD | {name: other}, GOOD | {"id": "b"} | column]
    pq.write_table(pa.Table.from_pylist(rows), path) if kind == "parquet" else jsonl(path, rows)
    (query,) = readers.read_queries(path)
    assert query.answers == ("Ada",)
    assert f"{path}: 2 questions left out, whose rows say that they have no answer" in caplog.text
    (converted,), said, _ = foreign.read(path)
    assert converted.answers == ("Ada",) and "questions left out, whose rows say that they have no answer: 2" in said
    checked = data_check.check(path)
    assert checked.counts["unanswerable"] == 2 and checked.counts["questions"] == 1 and not checked.errors
    assert next(one.rows for one in checked.findings if one.kind == "no answer") == (1, 3)
    with pytest.raises(ValueError, match="has no rows of questions that have an answer"):
        readers.read_queries(jsonl(tmp_path / "none.jsonl", [GOOD | column]))
    traced = jsonl(tmp_path / "t.jsonl", [{**row, "turns": ["<answer>Ada</answer>"]} for row in rows])
    assert len(traces.read_traces(traced)) == 1


@pytest.mark.parametrize("column", [{"unanswerable": None}, {"unanswerable": math.nan}, {"answerable": "perhaps"}])
def test_a_row_that_does_not_say_whether_it_has_an_answer_is_kept(tmp_path, column):
    """A table without a value holds NaN, which is no 0 and no denial."""
    assert len(readers.read_queries(jsonl(tmp_path / "q.jsonl", [GOOD | column]))) == 1


def test_what_the_metadata_say_of_the_answer_counts(tmp_path):
    rows = [GOOD | {"id": name, "metadata": {"answerable": name}} for name in ("yes", "no")]
    assert [query.id for query in readers.read_queries(jsonl(tmp_path / "q.jsonl", rows))] == ["yes"]


def test_passages_in_our_form_and_in_search_r1_s_are_read_from_gz_too(tmp_path):
    rows = [
        {"id": "1", "title": "Ada", "text": "A poet's daughter.", "src": "x"},
        {"id": "2", "text": "No title."},
        {"id": "3", "contents": '"Rome"\nA city.\nOld.'},
        {"id": "4", "contents": "only one line"},
    ]
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert readers.read_passages(path) == [
        Passage("1", "Ada", "A poet's daughter."),
        Passage("2", "", "No title."),
        Passage("3", "Rome", "A city.\nOld."),
        Passage("4", "", "only one line"),
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{not json", "not a line of JSON"),
        ('{"id": "\\ud800", "question": "x", "answers": ["y"]}', "half of a surrogate pair"),
        ("[" * 100_000, "not a line of JSON"),
        ([1, 2], r"a JSON object is wanted, and this is list \[1, 2\]"),
        ({"id": "b", "answers": ["x"]}, "has no 'question'; fields found: id, answers"),
        ({"id": "b", "prompt": [{}], "answers": ["x"]}, "'prompt' looks like it: rename it to 'question'"),
        ({"id": "b", "queston": "x", "answers": ["x"]}, "'queston' looks like it: rename it to 'question'"),
        (
            {"id": "b", "title": "x", "content": "y"},
            "these look like passages, which `qr-jax index`",
        ),
        ({"id": "b", "question": "x", "golds": ["y"]}, "'golds' looks like it: rename it to 'answers'"),
        ({"_id": "b", "question": "x", "answers": ["x"]}, "has no 'id'.*'_id' looks like it"),
        ({"id": "b", "question": "x"}, "none of answers, golden_answers, answer; fields found: id, question"),
        ({"id": "b", "question": "x", "reward_model": {}}, "'reward_model' looks like it: rename it to 'answers'"),
        ({"id": "b", "question": "x", "answers": []}, "'answers' is an empty list"),
        ({"id": "b", "question": "x", "answers": {"a": 1}}, "must be a text or a list of texts, and is dict"),
        (
            {"id": "b", "question": "x", "answers": ["a", 1815]},
            "item 2 of .* is int 1815; `qr-jax data convert FILE NEW`",
        ),
        ({"id": "b", "question": "x", "answers": ["a", None]}, "item 2 of 'answers' must be a text, and is null$"),
        ({f"column {at}": "x" for at in range(400)}, "fields found: column 0, .*, column 11 and 388 more; if another"),
        ('{"id": "b", "question": "x", "answers": ["a"]},', 'names and texts stand in "", and nothing stands behind'),
        ({"id": "b", "question": "x", "answer": " "}, "item 1 of 'answer' is blank"),
        ({"id": "b", "question": "x", "answers": ["the"]}, "the"),
        ({"id": "b", "question": 3, "answers": ["x"]}, "'question' must be a text, and is int 3"),
        (
            {"id": "b", "question": "x", "answers": ["x"], "entities": "x", "meta": 1} | {"entities": 3},
            "'entities' must be",
        ),
        ({"id": True, "question": "x", "answers": ["x"]}, "'id' must be a text, and is bool true"),
        (GOOD, "id 'a' stands in q.jsonl row 1 too"),
    ],
)
def test_a_bad_question_is_named_with_its_file_row_and_reason(tmp_path, row, words):
    path = jsonl(tmp_path / "q.jsonl", [GOOD, "", row])
    with pytest.raises(ValueError, match=f"(?s)q.jsonl row 3: .*{words}"):
        readers.read_queries(path)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": "b", "body": "x"}, "neither 'text' nor 'contents'; fields found: id, body; 'body' looks like it"),
        ({"id": "b", "title": None, "text": "x"}, "'title' must be a text, and is null"),
        ({"id": "b", "text": ""}, "'text' is blank"),
        ({"title": "b", "text": "x"}, "has no 'id'"),
    ],
)
def test_a_bad_passage_is_named_with_its_file_row_and_reason(tmp_path, row, words):
    path = jsonl(tmp_path / "corpus.jsonl", [{"id": "a", "text": "x"}, row])
    with pytest.raises(ValueError, match=f"corpus.jsonl row 2: .*{words}"):
        readers.read_passages(path)


def test_a_file_that_is_not_utf_8_or_cut_short_or_empty_is_refused(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "1", "text": "x"}\n{"id": "\xe9"}\n')
    with pytest.raises(
        ValueError, match=r"latin.jsonl row 2: not UTF-8 \(byte 0xe9 at place 9 of the line\); `qr-jax data convert"
    ):
        readers.read_passages(tmp_path / "latin.jsonl")
    whole = gzip.compress(b"".join(json.dumps({"id": str(i), "text": hex(i**9)}).encode() + b"\n" for i in range(999)))
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut.jsonl.gz after row \d+: the gzip file is cut short"):
        readers.read_passages(tmp_path / "cut.jsonl.gz")
    with pytest.raises(ValueError, match="has no rows"):
        readers.read_passages(jsonl(tmp_path / "none.jsonl", [""]))


@pytest.mark.parametrize("name", ["supporting", "supporting_titles"])
@pytest.mark.parametrize("value", [5, True, 1.5, [1, 2], {"a": "b"}])
def test_gold_passages_are_texts(tmp_path, name, value):
    (tmp_path / "q.jsonl").write_text(json.dumps({**GOOD, name: value}))
    with pytest.raises(ValueError, match=f"q.jsonl row 1: .*'{name}' must be a text"):
        readers.read_queries(tmp_path / "q.jsonl")


def test_a_damaged_parquet_file_is_named(tmp_path):
    tables.write(tmp_path / "whole.parquet", [GOOD])
    whole = (tmp_path / "whole.parquet").read_bytes()
    place = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")  # of the footer, in Thrift's encoding
    for damaged in (
        whole[:place] + b"\xff" * 9 + whole[place + 9 :],
        whole[:-1],
        b"",
    ):
        (tmp_path / "q.parquet").write_bytes(damaged)
        said = "after row 0: not a whole Parquet file" if damaged else "is no Parquet file, by its first bytes b''"
        with pytest.raises(ValueError, match=rf"q\.parquet {said}"):
            readers.read_queries(tmp_path / "q.parquet")
        with contextlib.suppress(ValueError):
            tables.count(tmp_path / "q.parquet")
    (tmp_path / "q.parquet").write_bytes(whole.replace(b"Who?", b"\xff\xff\xff\xff"))
    with pytest.raises(ValueError, match=r"q.parquet rows 1 to 1, column 'question'.*a value that is not read .*utf-8"):
        readers.read_queries(tmp_path / "q.parquet")


MEASURED = """
import resource, sys
from qr_jax.sets import tables
from qr_jax.sets import data_check
import pyarrow.compute, pyarrow.parquet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
checked = data_check.check(sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, *(one.text for one in checked.errors))
"""


def bomb(path: Path, kind: str) -> Path:
    """A file of a few KB, or at most 1 MB, that unpacks to gigabytes."""
    ids, long = [str(at) for at in range(1000)], "a" * 1_000_000
    packed = {
        "texts": {"id": ids, "text": [long] * 1000},
        "questions": {"id": ids, "question": [long] * 1000, "answers": [["x"]] * 1000},
        "texts in a list": {"id": ["1"], "text": ["x"], "more": [[long] * 1000]},
        "a list of nulls": {"id": ["1"], "text": ["x"], "more": pa.array([[None] * 5_000_000], pa.list_(pa.null()))},
        "one text": {"id": ["1"], "text": [long * 200]},
    }
    if kind in packed:
        pq.write_table(pa.table(packed[kind]), path / "bomb.parquet", compression="zstd")
        return path / "bomb.parquet"
    head = b'{"id": "%d", "text": "'
    parts = [head % 1, *[long.encode()] * 300] if kind == "one line" else [b"\n" * 1_000_000] * 20
    parts = [head % at + long.encode() + b'"}\n' for at in range(300)] if kind == "lines" else parts
    parts = [b'{"more": [' + b"[]," * 300_000 + b"[]]}\n"] * 100 if kind == "items" else parts
    with gzip.open(path / "bomb.jsonl.gz", "wb", 5) as lines:
        lines.writelines(parts)
    return path / "bomb.jsonl.gz"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("texts", "row 100: a file of .* bytes unpacks to more than 100,000,000, the most that are taken"),
        ("questions", "'question' has 1,000,000 characters; at most 100,000 are taken: cut it.*row 100: a file of"),
        ("texts in a list", "row 1: the row has more than 32,000,000 bytes, the most that are taken; .* into several"),
        ("a list of nulls", "as its footer says: a file of"),
        ("one text", "as its footer says: a file of"),
        ("one line", "row 1: the row has more than 32,000,000 bytes"),
        ("lines", r"row \d+: a file of .* unpack it and give it as JSON lines without .gz"),
        ("empty lines", r"row \d+: a file of"),
        ("items", r"row \d: a file of"),
    ],
)
def test_a_small_file_that_unpacks_to_gigabytes_takes_little_memory_and_is_named(tmp_path, kind, words):
    file = bomb(tmp_path, kind)
    assert file.stat().st_size < 1_100_000
    done = subprocess.run([sys.executable, "-c", MEASURED, file], capture_output=True, text=True, check=True)
    megabytes, _, said = done.stdout.partition(" ")
    assert re.search(f"(?s){words}", said) and file.name in said
    assert int(megabytes) < 600


def test_what_honest_files_hold_is_below_every_limit(tmp_path):
    novel = {"id": "1", "text": "\u0416" * limits.MOST_TEXT_CHARS}
    question = {"id": "q", "question": "w" * limits.MOST_QUESTION_CHARS, "answers": ["Ada"]}
    assert readers.read_passages(jsonl(tmp_path / "c.jsonl", [novel]))[0].text == novel["text"]
    assert readers.read_queries(jsonl(tmp_path / "q.jsonl", [question]))[0].question == question["question"]
    tables.write(tmp_path / "c.parquet", [novel])
    assert readers.read_passages(tmp_path / "c.parquet")[0].text == novel["text"]
    with pytest.raises(ValueError, match=r"c.jsonl row 1: 'text' has 5,000,001 characters; at most 5,000,000 are"):
        readers.read_passages(jsonl(tmp_path / "c.jsonl", [{"id": "1", "text": "x" * 5_000_001}]))
    with pytest.raises(ValueError, match=r"q.jsonl row 1: item 1 of 'answers' has 100,001 characters; at most 100,000"):
        readers.read_queries(jsonl(tmp_path / "q.jsonl", [question | {"answers": ["x" * 100_001]}]))


def test_an_id_has_at_most_4000_characters_so_that_no_line_of_a_ledger_is_cut(tmp_path):
    most, longer = "\0" * 4000, "x" * 4001
    drawn = len(json.dumps({"query": most}))  # six bytes a character
    assert readers.read_queries(jsonl(tmp_path / "q.jsonl", [{**GOOD, "id": most}]))[0].id == most
    assert 2 * drawn < run_files.MOST["ledger.jsonl"].line_bytes
    with pytest.raises(ValueError, match=r"q.jsonl row 1: 'id' has 4,001 characters; at most 4,000 are taken"):
        readers.read_queries(jsonl(tmp_path / "q.jsonl", [{**GOOD, "id": longer}]))
    for name in (longer, 10**4001):
        with pytest.raises(ValueError, match=r"c.jsonl row 1: 'id' has 4,00[12] characters; at most 4,000 are taken"):
            readers.read_passages(jsonl(tmp_path / "c.jsonl", [{"id": name, "text": "x"}]))


@pytest.mark.parametrize("name", ["dataset", "kind", "hops", "type"])
def test_half_an_emoji_in_what_scores_are_told_by_is_refused_where_it_stands(tmp_path, name):
    with pytest.raises(ValueError, match=f"q.jsonl row 1: '{name}' holds half of a surrogate pair"):
        readers.read_queries(jsonl(tmp_path / "q.jsonl", [{**GOOD, name: "\ud800"}]))


@pytest.mark.parametrize("hops", [10**20, "9" * 20, 1001])
def test_more_hops_than_any_question_has_are_refused_where_they_stand(tmp_path, hops):
    with pytest.raises(ValueError, match="q.jsonl row 1: 'hops' is .*; wanted at most 1,000"):
        readers.read_queries(jsonl(tmp_path / "q.jsonl", [{**GOOD, "hops": hops}]))
    assert readers.read_queries(jsonl(tmp_path / "q.jsonl", [{**GOOD, "hops": "1000"}]))[0].meta["hops"] == "1000"


def test_a_row_of_a_million_small_items_is_refused_before_they_are_made(tmp_path):
    packed = {"id": "a", "question": "Who?", "golden_answers": ["Ada"], "metadata": f"[{'[],' * 500_000}[]]"}
    for row in ({"more": [[]] * 1_000_001}, packed):
        (error,) = data_check.check(jsonl(tmp_path / "q.jsonl", [row])).errors
        assert error.rows == (1,) and re.search(r"has [\d,]+ commas, lists and objects; at most 1,000,000", error.text)


def test_large_groups_of_parquet_are_read_plainly_and_come_out_the_same(tmp_path, monkeypatch):
    rows = [
        {
            "id": str(at),
            "text": hex(at**9) * 9,
            "lists": [["a"], []],
            "map": [("k", "v")],
            "more": {"n": None, "s": "x"},
        }
        for at in range(3000)
    ]
    kinds = {"lists": pa.list_(pa.list_(pa.string())), "map": pa.map_(pa.string(), pa.string())}
    columns = {name: pa.array([row[name] for row in rows], kinds.get(name)) for name in rows[0]}
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    expected = [(at, row | {"more": {"s": "x"}}) for at, row in enumerate(rows, 1)]
    assert list(tables.rows(tmp_path / "c.parquet")) == expected
    monkeypatch.setattr(limits, "MOST_ROW_BYTES", 50_000)  # a piece has more, so its rows come one at a time
    assert list(tables.rows(tmp_path / "c.parquet")) == expected
    monkeypatch.setattr(tables, "PLAIN_GROUP_BYTES", 1)
    assert list(tables.rows(tmp_path / "c.parquet")) == expected


def test_a_parquet_file_without_columns_has_no_rows(tmp_path):
    pq.write_table(pa.table({"id": ["1"]}).select([]), tmp_path / "none.parquet")
    assert list(tables.rows(tmp_path / "none.parquet")) == []


def test_several_files_are_read_in_order_and_an_id_in_two_of_them_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("QR_JAX_DATA", str(tmp_path))
    jsonl(tmp_path / "a.jsonl", [GOOD])
    jsonl(tmp_path / "b.jsonl", [{**GOOD, "id": "b"}])
    jsonl(tmp_path / "again.jsonl", [GOOD])
    assert [query.id for query in readers.read_queries("{data}/b.jsonl, {data}/a.jsonl")] == ["b", "a"]
    with pytest.raises(
        ValueError, match=r"^again.jsonl row 1: id 'a' stands in a.jsonl row 1 too; both rows are the s"
    ):
        readers.read_queries("{data}/a.jsonl,{data}/again.jsonl")
    jsonl(tmp_path / "other.jsonl", [{**GOOD, "question": "Another?"}])
    with pytest.raises(ValueError, match=r"^other.jsonl row 1: id 'a' stands in a.jsonl row 1 too; .* as in 'nq/tr"):
        readers.read_queries("{data}/a.jsonl,{data}/other.jsonl")
    (tmp_path / "nq").mkdir()
    jsonl(tmp_path / "nq/a.jsonl", [GOOD])
    with pytest.raises(
        ValueError, match=rf"^{tmp_path}/nq/a.jsonl row 1: id 'a' stands in {tmp_path}/a.jsonl row 1 too"
    ):
        readers.read_queries("{data}/a.jsonl,{data}/nq/a.jsonl")


def test_a_file_that_is_not_there_is_named_with_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv("QR_JAX_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="no file .*/one.jsonl.*; did you mean ones.jsonl"):
        (tmp_path / "ones.jsonl").touch()
        readers.resolve("{data}/one.jsonl")
    (tmp_path / "ones.jsonl").unlink()
    with pytest.raises(ValueError, match="no file .*x.jsonl.* set QR_JAX_DATA"):
        readers.resolve("{data}/x.jsonl")
    with pytest.raises(ValueError, match="empty name"):
        readers.resolve("")
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"no file .*trian.jsonl .*; did you mean train.jsonl\?$"):
        readers.resolve(tmp_path / "trian.jsonl")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match=r"gone .* is a link to .*nowhere.jsonl, and nothing is there$"):
        readers.resolve(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"/dev/null .* is a pipe or a device; wanted a file"):
        readers.resolve("/dev/null")
    for address in ("gs://b/x.jsonl", "gs://b/*.jsonl"):
        with pytest.raises(ValueError, match=f"no file {re.escape(address)} .* are read from a disk: copy it to one$"):
            readers.resolve(address)
    with pytest.raises(ValueError, match="no file ~nobody-of-that-name/x.jsonl"):
        readers.resolve("~nobody-of-that-name/x.jsonl")
    with pytest.raises(ValueError, match=r"no file frames .*`qr-jax data get frames` fetches that set"):
        readers.resolve("frames")
    with pytest.raises(ValueError, match=r"no file hotpotqa .*publishes hotpot_train.*`qr-jax data convert FILE OUT`"):
        readers.resolve("hotpotqa")
    monkeypatch.delenv("QR_JAX_DATA")
    assert readers.data_folder().parts[-2:] == ("shared", "data")
    monkeypatch.setattr(readers, "__file__", str(tmp_path / "site-packages/qr_jax/data/readers.py"))  # of a wheel
    assert readers.data_folder() == Path("data")


QUERIES = [Query(f"q{i}", "x", ("y",)) for i in range(400)]


def test_the_split_is_the_hash_s_and_its_parts_are_the_whole():
    train, held_out = (readers.split(QUERIES, 0.7, part) for part in ("train", "eval"))
    assert sorted(query.id for query in train + held_out) == sorted(query.id for query in QUERIES)
    assert 0.6 < len(train) / 400 < 0.8
    assert all(int(hashlib.sha256(query.id.encode()).hexdigest()[:8], 16) < 0.7 * 2**32 for query in train)
    assert readers.split(QUERIES[::-1][:50], 0.7, "train") == [query for query in QUERIES[::-1][:50] if query in train]
    assert readers.split(QUERIES, 0, "train") == [] == readers.split(QUERIES, 1, "eval")


def test_first_takes_a_sample_that_grows_and_does_not_follow_the_file_s_order():
    assert readers.first(QUERIES, 10) == readers.first(QUERIES[::-1], 20)[:10]
    assert readers.first(QUERIES, 10) != QUERIES[:10]
    assert readers.first(QUERIES, None) == QUERIES
    # SHA-256 of "a" begins ca97, of "b" 3e23, of "c" 2e7d
    assert [query.id for query in readers.first([Query(id, "x", ("y",)) for id in "abc"], 2)] == ["c", "b"]


def test_batches_are_a_function_of_seed_and_step_and_visit_every_row_once_an_epoch():
    rows = list(range(7))
    batch = sources.batches(rows, 2, seed=3)
    seen = [row for step in range(7) for row in batch(step)]
    assert sorted(seen[:7]) == sorted(seen[7:]) == rows
    assert seen[:7] != seen[7:]
    assert sources.batches(rows, 2, seed=3)(5) == seen[10:12], "a resumed run needs the step alone"
    other = sources.batches(rows, 7, seed=4)
    assert [sources.batches(rows, 7, seed=3)(epoch + 1) for epoch in range(3)] != [other(epoch) for epoch in range(3)]


def test_a_source_takes_anything_that_is_read_by_index():
    class Squares:
        def __len__(self):
            return 5

        def __getitem__(self, at):
            return at * at

    assert sorted(sources.batches(Squares(), 5, seed=0)(0)) == [0, 1, 4, 9, 16]


OURS = [
    GOOD | {"hops": 2, "kind": "chain", "supporting": ["p1"], "entities": ["Ada"]},
    GOOD | {"answers": ["Ada", "$", "Ada"], "supporting_titles": "Ada", "type": "bridge"},
    GOOD | {"id": 7, "answers": "Ada", "dataset": "nq", "supporting": [], "entities": []},
]


@pytest.mark.parametrize("row", OURS)
def test_a_row_of_ours_is_the_same_question_by_the_core_s_reader_and_by_that_of_peers_rows(row, monkeypatch):
    read = parsing.query_of(row)
    monkeypatch.setattr(parsing, "_is_ours", lambda row: False)
    assert parsing.query_of(row) == read


def test_rows_of_ours_are_read_by_the_core_alone(tmp_path):
    queries, passages = jsonl(tmp_path / "q.jsonl", OURS[:1]), jsonl(tmp_path / "c.jsonl", [{"id": "p", "text": "x"}])
    traces = jsonl(tmp_path / "t.jsonl", [OURS[0] | {"turns": ["<answer>Ada</answer>"]}])
    code = "import sys; from qr_jax.data import readers, traces\nq, c, t = sys.argv[1:]\n"
    code += "assert readers.read_queries(q) and readers.read_passages(c) and traces.read_traces(t)\n"
    code += "assert not [name for name in sys.modules if name.startswith('qr_jax.sets')]"
    subprocess.run([sys.executable, "-c", code, queries, passages, traces], check=True)


def test_reading_needs_neither_jax_nor_grain():
    code = "import sys, qr_jax.data.readers, qr_jax.data.sources, qr_jax.data.traces, qr_jax.rollout.chat\n"
    code += "assert not {'jax', 'grain', 'bm25s', 'tensorflow_datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_gold_that_could_never_score_is_refused_and_the_others_stay(tmp_path, caplog):
    path = jsonl(tmp_path / "q.jsonl", [{**GOOD, "answers": ["Hong Kong dollar", "$", "HKD"]}])
    (query,) = readers.read_queries(path)
    assert (query.answers, query.meta) == (("Hong Kong dollar", "HKD"), {"refused_answers": ("$",)})
    assert "('a', '$')" in caplog.text


def test_the_real_questions_are_read_and_split_as_their_readme_says(real_data):
    queries = readers.read_queries("{data}/dev/hotpotqa.questions.jsonl")
    assert (len(queries), len(readers.split(queries, 0.7, "train"))) == (1900, 1335)
    names = ("2wiki", "musique", "nq", "triviaqa", "popqa", "bamboogle")
    assert len(readers.read_queries(",".join(f"{{data}}/dev/{name}.questions.jsonl" for name in names))) == 4303
