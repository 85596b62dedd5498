"""Files as people have them: columns by other names, answers in one text, broken rows, shards, `save_to_disk`."""

import json
import logging
from dataclasses import replace

import pyarrow as pa
import pytest

from qr_jax import assemble
from qr_jax.cli import cli
from qr_jax.config import Config, Data
from qr_jax.data import parsing, readers
from qr_jax.errors import UserError
from qr_jax.sets import data_check, foreign
from qr_jax.sets.columns import Columns, typed
from qr_jax.settings import checks

GERMAN = [
    {"Nr": "1", "Frage": "Welche Stadt?", "Antwort": "Oslo | Kristiania", "Stufe": 2},
    {"Nr": "2", "Frage": "Welcher Fluss?", "Antwort": "Rhein", "Stufe": 1},
]
MAP = {"id": "Nr", "question": "Frage", "answers": "Antwort"}
OURS = [("1", "Welche Stadt?", ("Oslo", "Kristiania")), ("2", "Welcher Fluss?", ("Rhein",))]


def lines(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def told(queries):
    return [(query.id, query.question, query.answers) for query in queries]


def asked(**data):
    return assemble.questions(Config(data=Data(split="given", **{"train": "x", "traces": "x", **data})), "eval")


def test_a_row_by_hand():
    columns = Columns({"question": "q.text", "answers": "a"}, ";")
    row = {"q": {"text": "Who?"}, "a": "x; y ;", "more": 1}
    assert columns.of(row) == {"q": {"text": "Who?"}, "more": 1, "question": "Who?", "answers": ["x", "y"]}
    assert Columns({}, ";").of({"question": "ours", "answer": "a;b"}) == {"question": "ours", "answer": ["a", "b"]}
    assert not Columns() and Columns().of(row) == row


@pytest.mark.parametrize("words, split", [(["question"], None), (["=a"], None), (["frage=question"], None), ([], " ")])
def test_what_is_typed_wrong_is_told(words, split):
    with pytest.raises(UserError, match="wanted"):
        typed(words, split)


def test_a_mapped_column_that_no_row_has_is_named_with_those_that_there_are():
    columns = Columns({"question": "Frag", "answers": "Antwort"})
    with pytest.raises(ValueError, match="has no column 'Frag' for question; its columns: Frage, Antwort"):
        columns.of({"Frage": "Wer?", "Antwort": "Ada"})
    both = Columns({"question": "Frage", "text": "Inhalt"})  # of a run's questions and passages alike
    assert both.of({"Inhalt": "x"}) == {"text": "x"} and both.of({"Frage": "Wer?"}) == {"question": "Wer?"}


def test_a_column_that_is_mapped_twice_is_refused():
    assert typed(["question=Frage"] * 2, None).theirs == {"question": "Frage"}
    with pytest.raises(UserError, match="question=Frage and question=qid; wanted one column for question"):
        typed(["question=Frage", "question=qid"], None)


def test_convert_and_check_take_other_names_and_split_answers(tmp_path, capsys):
    """Columns that are not named stay, as the questions' meta."""
    file, out = lines(tmp_path / "q.jsonl", GERMAN), tmp_path / "out.jsonl"
    words = ["--map", *(f"{ours}={theirs}" for ours, theirs in MAP.items()), "--split", "|"]
    assert cli.main(["data", "check", str(file), *words]) == 0
    assert "answers: 3" in capsys.readouterr().out
    assert cli.main(["data", "convert", str(file), str(out), *words]) == 0
    found = readers.read_queries(out)
    assert told(found) == OURS and found[0].meta == {"Stufe": 2}
    table = tmp_path / "q.csv"
    table.write_text("Nr;Frage;Antwort\n1;Welche Stadt?;Oslo | Kristiania\n2;Welcher Fluss?;Rhein\n")
    assert cli.main(["data", "convert", str(table), str(tmp_path / "two.jsonl"), *words]) == 0
    assert told(readers.read_queries(tmp_path / "two.jsonl")) == OURS
    assert cli.main(["data", "check", str(file)]) == 1


def test_gold_passages_in_one_text_are_split_as_answers_are():
    row = {"id": "1", "question": "Who?", "answers": "Ada|Bo", "supporting": "p1| p2", "supporting_titles": "one"}
    found = Columns(split="|").of(row)
    assert found == row | {"answers": ["Ada", "Bo"], "supporting": ["p1", "p2"], "supporting_titles": ["one"]}
    assert Columns({"question": "question"}).of(row)["supporting"] == "p1| p2"


def test_a_config_says_it_of_the_files_that_a_run_reads(tmp_path):
    file = lines(tmp_path / "q.jsonl", GERMAN)
    how = {"eval": str(file), "map": MAP, "answer_split": "|"}
    assert told(asked(**how)) == OURS
    checks.check(Config(data=Data(corpus="world", **how)), reads=("eval",), trains=False)
    with pytest.raises(ValueError, match="has no column 'Farge' for question; its columns: "):
        asked(**how | {"map": {"question": "Farge"}})
    with pytest.raises(ValueError, match="frage is no column of ours"):
        asked(**how | {"map": {"frage": "Frage"}})
    corpus = lines(tmp_path / "c.jsonl", [{"Nr": "7", "Kopf": "Oslo", "Text": "Eine Stadt."}])
    settings = Config(data=Data(corpus=str(corpus), map={"id": "Nr", "title": "Kopf", "text": "Text"}))
    assert [(p.id, p.title, p.text) for p in assemble.passages(settings)] == [("7", "Oslo", "Eine Stadt.")]


def test_broken_rows_are_left_out_counted_and_listed(tmp_path, caplog, capsys):
    broken = ["{no json", {"id": "3", "question": "Who?"}, {"id": "a", "question": "again?", "answers": "b"}]
    file = lines(tmp_path / "q.jsonl", [{"id": "a", "question": "Who?", "answers": ["x"]}, *broken])
    with pytest.raises(ValueError, match="q.jsonl row 2: "):
        asked(eval=str(file))
    with caplog.at_level(logging.WARNING, "qr_jax"):
        assert [query.id for query in asked(eval=str(file), skip_broken=True)] == ["a"]
    assert "3 rows cannot be read and are left out:\n  q.jsonl row 2: " in caplog.text
    assert "\n  q.jsonl row 3: has none of answers" in caplog.text
    assert cli.main(["data", "check", str(file)]) == 1
    lines(file, [{"id": "a", "question": "Who?", "answers": ["x"]}, *broken[:2]])
    assert cli.main(["data", "check", str(file), "--skip-broken"]) == 0
    assert "0 errors" in capsys.readouterr().out
    assert cli.main(["data", "convert", str(file), str(tmp_path / "out.jsonl"), "--skip-broken"]) == 0
    said = capsys.readouterr().err
    assert "left out (the first: row 2: no JSON" in said and "): 2" in said
    assert "broken rows, the second and on:\n  row 3: has none" in said


def shards(folder, kind):
    folder.mkdir(exist_ok=True)
    for at in range(2):
        rows = [{"id": f"{at}-{n}", "question": f"what {at} {n}?", "answers": ["x"]} for n in range(2)]
        if kind == "jsonl":
            lines(folder / f"part-{at}.jsonl", rows)
        elif kind == "parquet":
            pa.parquet.write_table(pa.Table.from_pylist(rows), folder / f"part-{at}.parquet")
        else:
            table = pa.Table.from_pylist(rows)
            with (
                pa.OSFile(str(folder / f"part-{at}.arrow"), "wb") as file,
                pa.ipc.new_stream(file, table.schema) as out,
            ):
                out.write_table(table)
    return folder


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow"])
def test_a_run_reads_folders_and_globs_of_shards(kind, tmp_path):
    import pyarrow.parquet  # noqa: F401

    folder = shards(tmp_path / "set", kind)
    ids = ["0-0", "0-1", "1-0", "1-1"]
    for name in (str(folder), f"{folder}/part-*", f"{tmp_path}/**/*.{kind}"):
        assert [query.id for query in readers.read_queries(name)] == ids
        assert [query.id for query in asked(eval=name)] == ids
    assert cli.main(["data", "check", str(folder)]) == 0
    (folder / f"dev.{kind}").write_bytes((folder / f"part-0.{kind}").read_bytes())
    (folder / f"part-0.{kind}").rename(folder / f"train.{kind}")
    with pytest.raises(ValueError, match="more than one split"):
        readers.read_queries(str(folder))


def test_a_folder_without_rows_says_what_it_holds(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "notes.md").write_text("a note")
    with pytest.raises(ValueError, match="is a folder; wanted files.*notes.md is none that a run reads"):
        readers.read_queries(str(tmp_path / "set"))


def test_what_datasets_saves_is_a_question_set_and_a_corpus(tmp_path):
    """By the package itself: a data set, one of its splits, in several shards, and selected rows."""
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    rows = [{"id": str(n), "question": f"what {n}?", "answers": ["x", "y"], "hops": 2} for n in range(5)]
    made = datasets.Dataset.from_list(rows)
    made.save_to_disk(str(tmp_path / "set"), num_shards=2)
    found = readers.read_queries(str(tmp_path / "set"))
    assert [query.id for query in found] == list("01234") and found[0].answers == ("x", "y")
    datasets.DatasetDict({"train": made, "dev": made.select([3, 1])}).save_to_disk(str(tmp_path / "both"))
    assert [query.id for query in readers.read_queries(str(tmp_path / "both" / "dev"))] == ["3", "1"]
    with pytest.raises(ValueError, match="holds the splits train, dev of a data set; name one"):
        readers.read_queries(str(tmp_path / "both"))
    passages = datasets.Dataset.from_list([{"id": "p", "title": "Oslo", "text": "A town."}])
    passages.save_to_disk(str(tmp_path / "corpus"))
    settings = replace(Config(), data=Data(corpus=str(tmp_path / "corpus")))
    assert [passage.title for passage in assemble.passages(settings)] == ["Oslo"]
    assert cli.main(["index", str(tmp_path / "corpus"), str(tmp_path / "index")]) == 0


def test_official_rows_give_questions_gold_and_corpus_in_one_command(tmp_path, capsys):
    """HotpotQA's own form: a question with its ten paragraphs, of which two are gold."""
    context = [[title, [f"{title} is here. ", "It is old."]] for title in ("Oslo", "Bergen", "Rome")]
    row = {"_id": "5a", "question": "Which?", "answer": "Oslo", "type": "bridge", "level": "hard"}
    row |= {"supporting_facts": [["Oslo", 0], ["Rome", 1]], "context": context}
    (tmp_path / "hotpot_dev.json").write_text(json.dumps([row]))
    assert cli.main(["data", "convert", str(tmp_path / "hotpot_dev.json"), str(tmp_path / "dev.jsonl")]) == 0
    assert "3 passages" in capsys.readouterr().out
    (query,) = readers.read_queries(tmp_path / "dev.jsonl")
    corpus = {passage.id: passage for passage in readers.read_passages(tmp_path / "dev.corpus.jsonl")}
    assert [corpus[name].title for name in query.meta["supporting"]] == ["Oslo", "Rome"]
    words = ["recall", "--corpus", str(tmp_path / "dev.corpus.jsonl"), "--questions", str(tmp_path / "dev.jsonl")]
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gold_absent"] == 0
    assert len(foreign.read(tmp_path / "hotpot_dev.json").corpus) == 3


def test_a_column_that_is_not_there_is_said_where_one_of_our_name_would_be_read_for_it():
    with pytest.raises(UserError, match="has no column 'nope' for question, but 'question'; its columns: id, question"):
        Columns({"question": "nope"}).of({"id": "1", "question": "who ?", "answers": ["a"]})
    assert Columns({"title": "Titel"}).of({"id": "1", "question": "who ?"}) == {"id": "1", "question": "who ?"}


def test_answers_of_verl_s_rows_are_mapped_and_split_too():
    row = {"prompt": [{"role": "user", "content": "Who?"}], "data_source": "d", "extra_info": {"answer": "Ada"}}
    row["reward_model"] = {"ground_truth": "Ada|Bo"}
    mapped = parsing.query_of(Columns({"answers": "extra_info.answer"}).of(row))
    assert mapped.answers == ("Ada",) and mapped.question == "Who?"
    assert parsing.query_of(Columns(split="|").of(row)).answers == ("Ada", "Bo")
    row["reward_model"] = {"ground_truth": {"target": "Ada|Bo"}}
    assert parsing.query_of(Columns(split="|").of(row)).answers == ("Ada", "Bo")


def test_a_flat_column_may_have_a_dot_in_its_name(tmp_path):
    (tmp_path / "q.csv").write_text("id,meta.question,meta.gold\n1,Who?,Ada\n")
    columns = Columns({"question": "meta.question", "answers": "meta.gold"})
    (query,) = foreign.read(tmp_path / "q.csv", columns=columns).items
    assert (query.question, query.answers) == ("Who?", ("Ada",))


def test_a_file_without_a_row_that_a_run_can_use_is_an_error_of_data_check(tmp_path):
    broken = lines(tmp_path / "b.jsonl", [{"id": "1"}])
    assert [one.kind for one in data_check.check(broken, skip_broken=True).errors] == ["no rows"]
    row = {"id": "1", "question": "Who?", "answers": ["Ada"]}
    twice = lines(tmp_path / "t.jsonl", [row, row | {"question": "Where?"}])
    assert data_check.check(twice).errors and not data_check.check(twice, skip_broken=True).errors
