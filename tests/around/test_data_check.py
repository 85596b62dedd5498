"""`qr-jax data check`: what it finds in a file, in which rows, and what it exits with; `data convert`."""

import argparse
import gzip
import json
import random
import shlex
from argparse import Namespace
from pathlib import Path

import pytest

from qr_jax import assemble
from qr_jax.cli import cli
from qr_jax.cli.commands import data
from qr_jax.config import Config
from qr_jax.data import readers
from qr_jax.search.stored import ENDS
from qr_jax.sets import data_check, formats
from qr_jax.sets.columns import typed
from qr_jax.sets.synth.repeats import Repeats

ROWS = [
    {"id": "a", "question": "Who wrote it?", "answers": ["Ada"], "hops": 2, "supporting": ["p"]},
    {"id": "b", "question": "who wrote it", "answers": ["Bob", "the"], "hops": 1},
    {"id": "a", "question": "Where?", "answers": ["Rome"]},
    {"id": "d", "question": "When?", "answers": ["the"]},
    {"id": "e", "question": "Is it Rome or Paris?", "answers": ["Paris"]},
]


def written(path, rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def found(checked):
    return {(one.level, one.kind): one.rows for one in checked.findings}


def test_errors_and_warnings_name_their_rows(tmp_path):
    checked = data_check.check(written(tmp_path / "q.jsonl", [*ROWS, "{broken", {"id": "f", "question": "x"}, [1]]))
    assert (checked.schema, checked.counts["rows"], checked.counts["readable"]) == ("qr_jax", 8, 4)
    assert found(checked) == {
        ("error", "repeated id"): (1, 3),
        ("error", "empty golds"): (4,),
        ("error", "unreadable row"): (8,),  # of three, the last
        ("warning", "empty golds"): (2,),
        ("warning", "repeated question"): (1, 2),
        ("warning", "answer in question"): (5,),
    }
    assert [one.rows for one in checked.errors] == [(1, 3), (4,), (6,), (7,), (8,)]
    assert checked.counts["hops"] == {"1": 1, "2": 1} and checked.counts["with_gold_passages"] == 1
    assert "different answers" in next(one.text for one in checked.findings if one.kind == "repeated question")


def test_a_row_without_the_mapped_column_is_one_error_and_the_rest_is_read(tmp_path):
    rows = [{"Frage": f"who {at} ?", "id": str(at), "answers": ["x"]} for at in range(5)]
    rows[1]["Fragen"] = rows[1].pop("Frage")
    checked = data_check.check(written(tmp_path / "q.jsonl", rows), columns=typed(["question=Frage"], None))
    assert (checked.counts["rows"], checked.counts["readable"]) == (5, 4)
    assert [(one.kind, one.rows) for one in checked.errors] == [("unreadable row", (2,))]


def test_gold_passages_whose_ids_and_titles_do_not_pair_are_named(tmp_path):
    rows = [{**ROWS[0], "supporting_titles": titles} for titles in (["P"], ["P", "Q"])]
    rows[1] |= {"id": "b", "question": "When was it written?"}
    assert found(data_check.check(written(tmp_path / "q.jsonl", rows))) == {("warning", "gold lists"): (2,)}


def test_merged_sets_that_count_alike_have_no_repeated_ids_and_what_stays_repeated_is_an_error(tmp_path):
    ids = [(name, source) for name in ("train_0", "5a8b") for source in ("nq", "hotpotqa")]
    row = {"reward_model": {"ground_truth": "x"}}
    merged = [row | {"id": name, "data_source": source, "prompt": f"{name} {source}?"} for name, source in ids]
    checked = data_check.check(written(tmp_path / "train.jsonl", merged))
    assert found(checked) == {("error", "repeated id"): (3, 4)}
    assert "'5a8b' stands in 2 rows; ids must be unique: rename one" in checked.errors[0].text
    flashrag = [{"id": "test_0", "question": one, "golden_answers": ["x"]} for one in ("a?", "b?")]
    assert found(data_check.check(written(tmp_path / "f.jsonl", flashrag))) == {("error", "repeated id"): (1, 2)}


def test_the_overlap_of_two_files_is_by_normalised_question_and_by_id(tmp_path):
    train = written(tmp_path / "train.jsonl", [ROWS[0], ROWS[4]])
    test = written(tmp_path / "test.jsonl", [{"id": "z", "question": "x", "answers": ["y"]}, ROWS[1]])
    checked = data_check.check(train, against=test)
    (overlap,) = [one for one in checked.findings if one.kind == "overlap"]
    assert (overlap.level, overlap.rows, overlap.others) == ("warning", (1,), (2,))
    assert "1 of 2 questions stand in test.jsonl too" in overlap.text and checked.counts["in_other_file"] == 1
    ids = data_check.check(train, against=written(tmp_path / "ids.jsonl", [ROWS[4] | {"question": "other"}]))
    assert [(one.kind, one.rows) for one in ids.findings if "overlap" in one.kind] == [("overlap of ids", (2,))]
    assert ids.counts["in_other_file"] == 0 and "in_other_file: 0" in data_check.format_report(ids)
    bad = data_check.check(train, against=written(tmp_path / "bad.jsonl", ["{"]))
    assert [one.kind for one in bad.errors] == ["unreadable other file"] and "in_other_file" not in bad.counts
    alike = [{"id": str(at), "question": "?"} for at in range(5)]  # one finding, of five rows
    bad = data_check.check(train, against=written(tmp_path / "bad.jsonl", [*alike, ROWS[1]]))
    assert [one.text.split(" (")[0] for one in bad.errors] == ["bad.jsonl: 5 rows cannot be read and were not compared"]
    for rows, says in (([], "has no rows"), ([{"id": "1", "text": "a b"}], "has only passages")):
        nothing = data_check.check(train, against=written(tmp_path / "none.jsonl", rows))
        assert [one.kind for one in nothing.errors] == ["nothing to compare"] and says in nothing.errors[0].text


@pytest.mark.parametrize(
    ("question", "other"),
    [
        ("Where was Beyoncé born in 1981?", "Where was Beyonce\u0301 born in 1981?"),
        ("서울은 어디?", "\u1109\u1165\u110b\u116e\u11af\u110b\u1173\u11ab 어디?"),
        ("Who won in 1982?", "Who won in １９８２？"),
        ("Where is the ﬁre?", "where is the fire"),
        ("Wo ist die Straße?", "WO IST DIE STRASSE?"),
        ("Who won in Oslo?", "Who\u200b w\u00adon in O\u200ds\u2060lo\ufeff?"),
        ("Who won in Oslo?", "\u202eWho won in Oslo\u202c?\x00\x1b"),
        ("Who won in Oslo?", "Who won in Oslo?\U000e0041\ufe0f\u3164"),
        ("Where is H\u0331olm?", "where is \u1e96olm"),
        ("Who wrote 'Jean-Paul'?", "who wrote ‘Jean–Paul’"),
        ('Who sang "It\'s on"?', "Who sang “It’s on”?"),
        ("Who won 1914-18 - and how?", "Who won 1914‑18 — and how?"),
        ("Who wrote O'Hara's life?", "Who wrote OʼHara´s life?"),
    ],
)
def test_a_leak_is_found_in_another_unicode_form(tmp_path, question, other):
    train = written(tmp_path / "train.jsonl", [{"id": "a", "question": question, "answers": ["x"]}])
    test = written(tmp_path / "test.jsonl", [{"id": "z", "question": other, "answers": ["x"]}])
    (overlap,) = [one for one in data_check.check(train, against=test).findings if one.kind == "overlap"]
    assert overlap.rows == overlap.others == (1,)
    queries, held_out = readers.read_queries(train), readers.read_queries(test)
    assert "1 of the 1 held-out questions are trained on too" in str(assemble.remarks(Config(), queries, held_out))
    seen = Repeats()
    seen.add(held_out[0])
    assert seen.find(queries[0]) == "z"


def test_what_stands_twice_in_two_unicode_forms_is_named(tmp_path):
    rows = [{"id": str(at), "title": "Beyonc" + end, "text": "sings"} for at, end in enumerate(("é", "e\u0301"))]
    checked = data_check.check(written(tmp_path / "c.jsonl", rows))
    assert found(checked) == {("warning", "repeated passage"): (1, 2)}
    rows = [{"id": "a", "question": "Who sings, Beyon\u200bcé or 東京?", "answers": ["Beyonce\u0301", "東\u2060京"]}]
    assert found(data_check.check(written(tmp_path / "q.jsonl", rows))) == {("warning", "answer in question"): (1,)}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is there no river in Oslo?", "no"),
        ("Is it true of Oslo?", "True"),
        ("Which war followed I?", "I"),
    ],
)
def test_yes_no_and_single_characters_in_a_question_give_nothing_away(tmp_path, question, answer):
    rows = [{"id": "a", "question": question, "answers": [answer]}]
    assert found(data_check.check(written(tmp_path / "q.jsonl", rows))) == {}


def test_passages_are_compared_with_no_questions_and_it_is_said(tmp_path):
    corpus, questions = (
        written(tmp_path / "c.jsonl", [{"id": "1", "text": "a b"}]),
        written(tmp_path / "q.jsonl", ROWS[:1]),
    )
    (error,) = data_check.check(corpus, against=questions).errors
    assert error.kind == "nothing to compare" and "this file has only passages" in error.text


def test_corpora_are_checked_too_and_a_cut_file_is_an_error(tmp_path):
    rows = [{"id": "1", "text": "a b"}, {"id": "2", "text": "a b"}, {"id": "3", "contents": '"T"\nc'}]
    checked = data_check.check(written(tmp_path / "c.jsonl", rows))
    assert checked.schema == "qr_jax corpus" and checked.counts["words"] == 5
    assert set(found(checked)) == {("warning", one) for one in ("repeated passage", "no title", "mixed schemas")}
    whole = gzip.compress("".join(json.dumps({"id": str(i), "text": hex(i**9)}) + "\n" for i in range(999)).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    assert [one.kind for one in data_check.check(tmp_path / "cut.jsonl.gz").errors] == ["damaged file"]
    assert [one.kind for one in data_check.check(written(tmp_path / "none.jsonl", [])).errors] == ["no rows"]


@pytest.mark.parametrize("order", [1, -1])
def test_questions_and_passages_in_one_file_are_an_error(tmp_path, order):
    """It was a traceback."""
    rows = [{"id": str(at), "question": f"Who {at}?", "answers": ["Ada"]} for at in range(2)]
    rows = [*rows, {"id": "9", "title": "Why", "text": "So"}][::order]
    file = tmp_path / "mixed.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (error,) = data_check.check(file).errors
    assert error.rows == ((3,) if order == 1 else (1,)) and "most of the others are questions; part them" in error.text


def test_the_command_exits_with_1_on_errors_and_prints_json(tmp_path, capsys):
    good, bad = written(tmp_path / "good.jsonl", ROWS[:2]), written(tmp_path / "bad.jsonl", ROWS)
    assert data._check(Namespace(file=str(good), against=None, json=True, map=[], split=None, skip_broken=False)) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] and said["errors"] == [] and [one["rows"] for one in said["warnings"]] == [[1, 2], [2]]
    assert data._check(Namespace(file=str(bad), against=None, json=False, map=[], split=None, skip_broken=False)) == 1
    shown = capsys.readouterr().out
    assert "error: rows 1, 3: id 'a' stands in 2 rows" in shown and "2 errors, 3 warnings" in shown
    with pytest.raises(ValueError, match="names 2 files"):
        data_check.check(f"{good},{bad}")


def test_convert_writes_what_check_then_knows(tmp_path, capsys):
    file = written(tmp_path / "q.jsonl", [ROWS[0], ROWS[4]])
    out = tmp_path / "made.parquet"
    assert (
        data._convert(
            Namespace(files=[str(file)], out=out, to="skyrl", encoding=None, skip_broken=False, map=[], split=None)
        )
        == 0
    )
    checked = data_check.check(out)
    assert (checked.schema, checked.counts["questions"]) == ("skyrl", 2)
    assert "2 questions" in capsys.readouterr().out


def test_what_is_no_file_is_named_with_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="'tfds:nq' is a question set.*wanted one file.*data convert tfds:nq OUT --to"):
        data_check.check("tfds:nq")
    (tmp_path / ENDS).touch()
    with pytest.raises(ValueError, match="is an index; check the files it was made of"):
        data_check.check(tmp_path)
    for out, words in (
        (tmp_path / "no/made.jsonl", "there is no folder .*/no to write made.jsonl into; make it first"),
        (tmp_path / "no/made.parquet", "there is no folder .*/no to write made.parquet into; make it first"),
        (tmp_path / "made.csv", "must end in .parquet, .jsonl or .jsonl.gz"),
    ):
        with pytest.raises(ValueError, match=words):  # before the questions, which are not there, are read
            data._convert(
                Namespace(
                    files=["gone.jsonl"], out=out, to="jsonl", encoding=None, skip_broken=False, map=[], split=None
                )
            )
        with pytest.raises(ValueError, match=words):
            formats.write([], out, "jsonl")


@pytest.mark.parametrize("name", ["2wiki", "bamboogle", "hotpotqa", "musique", "nq", "popqa", "triviaqa"])
def test_the_real_questions_have_no_errors(real_data, name):
    checked = data_check.check(real_data / f"dev/{name}.questions.jsonl")
    assert not checked.errors and checked.counts["questions"] == checked.counts["rows"]
    assert checked.counts["with_gold_passages"] == (63 if name == "bamboogle" else checked.counts["rows"])


def parsed(*words):
    """The arguments as `qr-jax` reads them, by the parsers of this file's commands alone."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)

    def command(name, run, text, usage=None):
        made = commands.add_parser(name, help=text, usage=usage)
        made.set_defaults(run_command=run)
        return made

    data.add(command)
    return parser.parse_args(words)


def test_the_command_lines_are_read():
    check = parsed("data", "check", "f.jsonl", "--against", "g.jsonl", "--json")
    assert (check.run_command, check.file, check.against, check.json) == (data._check, "f.jsonl", "g.jsonl", True)
    convert = parsed("data", "convert", "f.jsonl", "out.parquet", "--to", "verl")
    assert (convert.run_command, convert.to, str(convert.out)) == (data._convert, "verl", "out.parquet")
    index = parsed("index", "a.jsonl", "b.parquet", "out")
    assert (index.corpus, str(index.out)) == (["a.jsonl", "b.parquet"], "out")
    recall = parsed("recall", "--corpus", "c", "--questions", "q", "--questions", "r", "--k", "3")
    assert (recall.questions, recall.k, recall.retriever) == (["q", "r"], 3, "bm25")
    with pytest.raises(SystemExit):
        parsed("data")


@pytest.mark.parametrize("name", ["q.csv", "q.tsv", "q.json", "q.jsonl", "our q's.csv"])
def test_the_command_that_a_table_s_error_names_makes_lines_of_it_and_writes_over_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"id": "1", "question": "Who wrote Peer Gynt, and when?", "answers": "Ibsen"}
    blank = "\t" if name == "q.tsv" else ","
    table = f'\ufeff{blank.join(row)}\n1{blank}"Who wrote Peer Gynt, and when?"{blank}Ibsen\n'
    Path(name).write_text(json.dumps([row]) if ".json" in name else table, encoding="utf-8")
    (mine := Path(f"{Path(name).stem}_lines.jsonl")).write_text("mine")
    with pytest.raises(ValueError, match="; `qr-jax data convert ") as said:
        readers.read_queries(name)
    words = shlex.split(str(said.value).split("`")[1])
    assert cli.main(words[1:]) == 0
    (query,) = readers.read_queries(f"{Path(name).stem}_lines1.jsonl")
    assert (query.id, query.question, query.answers) == ("1", "Who wrote Peer Gynt, and when?", ("Ibsen",))
    assert mine.read_text() == "mine"


def told_of(capsys, *words) -> str:
    assert cli.main(["data", "check", *map(str, words)]) == 1
    return capsys.readouterr().out


def test_a_file_that_is_no_json_lines_gets_one_line_that_says_what_it_is(tmp_path, capsys):
    table, array, latin = tmp_path / "q.csv", tmp_path / "q.json", tmp_path / "latin.jsonl"
    table.write_text("id,question,answers\n1,who?,me\n")
    array.write_text('[\n{"id": "1", "question": "a?", "answers": ["b"]},\n{"id": "2"}\n]\n')
    latin.write_bytes('{"id": "1", "question": "Où?", "answers": ["là"]}\n'.encode("latin1") * 3)
    told = told_of(capsys, table)
    assert "error: q.csv is a table; wanted JSON lines" in told and "1 error," in told
    assert 'of a passage {"id": "1", "title": "...", "text": "..."}' in told
    told = told_of(capsys, array)
    assert "q.json is one JSON array; wanted JSON lines" in told and "1 error," in told
    told = told_of(capsys, latin)
    assert (
        "error: rows 1, 2, 3: not UTF-8 (byte 0xf9 at place 27 of the line)" in told
        and "`qr-jax data convert FILE" in told
    )
    assert "rows: 3\n  readable: 0\n" in told
    lines = [
        json.dumps({"id": str(at), "question": "x" * at + "Où?", "answers": ["là"]}, ensure_ascii=False)
        for at in range(30)
    ]
    latin.write_bytes("\n".join([*lines, '{"id": 1', '{"id": 12345']).encode("latin1"))
    told = told_of(capsys, latin)
    assert told.count("error: ") == 2 and told.count("--encoding NAME") == 1 and "32 errors, 0 warnings" in told
    assert "10 and 20 more: not UTF-8 (byte 0xf9 at place 27 of the line); `qr-jax data" in told
    assert "--encoding NAME (so in row 1, and alike in the others)\n" in told
    latin.write_text("id,question,answers\n1,who?,me\n")
    told = told_of(capsys, latin)
    assert (
        "rows: 2\n  readable: 0\n" in told
        and "data convert FILE NEW.jsonl` writes it so, from a table or other JSON" in told
    )
    (packed := tmp_path / "plain.jsonl.gz").write_text('{"id": "1", "question": "a?", "answers": ["b"]}\n')
    told = told_of(capsys, packed)
    assert "plain.jsonl.gz is no gzip file; pack it (gzip FILE), or take .gz from its name" in told
    latin.write_bytes('{"id": "1", "question": "Where?", "answers": ["there"]}\n'.encode("utf-16") * 2)
    told = told_of(capsys, latin)
    assert "rows: 3\n  readable: 0\n" in told and "UTF-16, by its NUL bytes; `qr-jax data convert FILE" in told
    latin.write_bytes(bytes(random.Random(0).choices(range(256), k=3000)))
    told = told_of(capsys, latin)
    assert "bytes of no text, by its NUL bytes" in told and "UTF-16" not in told
    latin.write_bytes(gzip.compress(b'{"id": "1", "question": "Where?", "answers": ["there"]}\n'))
    assert "packed by gzip; a file whose name ends in .gz is unpacked as it is read" in told_of(capsys, latin)
    (text := tmp_path / "text.parquet").write_text('{"id": "1"}\n')
    assert "text.parquet is no Parquet file, by its first bytes b'{\"id'; wanted JSON lines" in told_of(capsys, text)


def test_rows_inside_one_object_are_named_with_the_command_that_writes_them_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{"id": "1", "question": "a?", "answers": ["b"]}, {"id": "2", "question": "c?", "answers": ["d"]}]
    (file := tmp_path / "all.json").write_text(json.dumps({"version": 1, "data": rows}))
    told = told_of(capsys, file)
    assert "all.json is one JSON object, whose rows stand in 'data'; wanted JSON lines" in told and "1 error," in told
    assert cli.main(shlex.split(told.split("`")[1])[1:]) == 0
    assert [json.loads(line) for line in Path("all_lines.jsonl").read_text().splitlines()] == rows


def test_errors_of_one_kind_are_one_line_and_many_kinds_are_cut(tmp_path, capsys):
    file = tmp_path / "many.jsonl"
    rows = [{"id": str(at), "question": "q?"} for at in range(280)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = told_of(capsys, file)
    assert told.count("error:") == 1 and "rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 270 more: has none of answers" in told
    assert "280 errors, 0 warnings" in told
    file.write_text("".join(json.dumps({"id": str(at), f"column_{at}": 1}) + "\n" for at in range(30)))
    told = told_of(capsys, file)
    assert told.count("error:") == 11 and "20 more kinds of them (--json lists all)" in told and "30 errors" in told
