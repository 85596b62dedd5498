"""`qr-jax data convert` of files as the question sets' authors and hubs give them: questions, gold passages, corpus."""

import gzip
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qr_jax.cli import cli
from qr_jax.data import readers
from qr_jax.search import recall
from qr_jax.sets import data_check, foreign, inputs, tables
from qr_jax.settings.settings import use
from tests.around.test_official import HOTPOTQA, ROWS, TWO_WIKI

MUSIQUE = ROWS["musique"][0]
HUB = HOTPOTQA | {  # the same row in columns, as `datasets` and Parquet have it
    "context": {"title": ["A", "C", "B"], "sentences": [["A was American.", " He wrote."], ["Other."], ["B too."]]},
    "supporting_facts": {"title": ["A", "B", "A"], "sent_id": [0, 1, 1]},
}
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "The_Normans",
            "paragraphs": [
                {
                    "context": "The Normans lived in France.",
                    "qas": [
                        {"id": "n1", "question": "Where?", "answers": [{"text": "France", "answer_start": 21}] * 2}
                        | {"is_impossible": False},
                        {"id": "n2", "question": "When?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}


def kept(tmp_path: Path, name: str, value) -> Path:
    (file := tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    lines = value if name.endswith(".jsonl") else [value]
    file.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines) + "\n")
    return file


def as_texts(row, *columns):
    return row | {name: json.dumps(row[name]) for name in columns}


@pytest.mark.parametrize(
    ("name", "content", "answers", "gold", "texts"),
    [
        ("hotpot.json", [HOTPOTQA], ("yes",), ["A", "B"], ["A was American. He wrote.", "Other.", "B too."]),
        ("hub.jsonl", [HUB], ("yes",), ["A", "B"], ["A was American. He wrote.", "Other.", "B too."]),
        ("texts.jsonl", [as_texts(TWO_WIKI, "context", "supporting_facts", "evidences")], ("Rome",), ["Ada", "Bela"],
         ["Ada was a writer. She wrote.", "Cora is a river.", "Bela died in Rome. She was a queen."]),
        ("musique.jsonl", [MUSIQUE, MUSIQUE | {"answerable": False}], ("Rome", "Roma"), ["Green", "Steve"],
         ["no", "Green is by Steve.", "He lives in Rome."]),
        ("squad.json", SQUAD, ("France",), ["The Normans"], ["The Normans lived in France."]),
        ("flat.jsonl", [{"id": "n", "title": "The_Normans", "context": "The Normans lived in France.", "question": "?",
         "answers": {"text": ["France", "France"], "answer_start": [21, 21]}}], ("France",), ["The Normans"],
         ["The Normans lived in France."]),
        ("viewer.json", {"features": [{"name": "id"}], "rows": [{"row_idx": 0, "row": HUB, "truncated_cells": []}],
         "num_rows_total": 9}, ("yes",), ["A", "B"], ["A was American. He wrote.", "Other.", "B too."]),
        ("flashrag.jsonl", [{"id": "f", "question": "Who?", "golden_answers": ["yes"], "metadata": {
         "context": HUB["context"], "supporting_facts": HUB["supporting_facts"]}}], ("yes",), ["A", "B"],
         ["A was American. He wrote.", "Other.", "B too."]),
    ],
)  # fmt: skip
def test_one_command_gives_questions_gold_passages_and_corpus(name, content, answers, gold, texts, tmp_path, capsys):
    out = tmp_path / "made.jsonl"
    assert cli.main(["data", "convert", str(kept(tmp_path, name, content)), str(out)]) == 0
    (query,) = readers.read_queries(out)
    corpus = readers.read_passages(tmp_path / "made.corpus.jsonl")
    assert query.answers == answers and query.meta["supporting_titles"] == gold
    assert [passage.text for passage in corpus] == texts
    by_id = {passage.id: passage.title for passage in corpus}
    assert [by_id[name] for name in query.meta["supporting"]] == gold
    assert not {"context", "paragraphs"} & query.meta.keys(), "a run would keep them in memory"
    told = capsys.readouterr()
    assert "1 questions: " in told.out and f"{len(texts)} passages: " in told.out
    assert ("whose rows say that they have no answer: 1" in told.err) == (name in ("musique.jsonl", "squad.json"))
    assert ("1 of the 9 rows that the hub's viewer has" in told.err) == (name == "viewer.json")


@pytest.mark.parametrize(
    "row",
    [
        {"answers": ["No Answer Present."]}, {"answers": {"texts": ["CANNOTANSWER"], "answer_starts": [3]}},
        {"answer": "CANNOTANSWER"}, {"answer": "unanswerable"}, {"answer": "This question is unanswerable."},
        {"answer": "Oslo", "answer_type": "unanswerable"}, {"answer": "Oslo", "question_type": "no-answer"},
        {"answer": "No answer", "aliases": ["not answerable"]}, {"golden_answers": ["Cannot be answered"]},
        {"answers": []}, {"golden_answers": []}, {"answer": []}, {"answers": "[]"}, {"answers": {"text": []}},
    ],
)  # fmt: skip
def test_a_row_that_says_in_any_way_that_it_has_no_answer_is_left_out_and_counted(row, tmp_path):
    whole = {"id": "a", "question": "Which city?", "answer": "Oslo", "answer_type": "entity"}
    file = kept(tmp_path, "q.jsonl", [whole, {"id": "b", "question": "Which river?"} | row])
    found = foreign.read(file)
    assert [query.id for query in found.items] == ["a"]
    assert "questions left out, whose rows say that they have no answer: 1" in found.said


def test_an_answer_among_those_that_say_there_is_none_is_the_gold(tmp_path):
    """Annotators disagreed; and words that only begin so are an answer."""
    rows = [{"id": "a", "question": "?", "answers": ["CANNOTANSWER", "Oslo"]}]
    rows += [{"id": "b", "question": "!", "answer": "Unanswerable Prayers", "type": "bridge"}]
    assert [query.answers for query in foreign.read(kept(tmp_path, "q.jsonl", rows)).items] == [
        ("Oslo",), ("Unanswerable Prayers",)
    ]  # fmt: skip
    assert [query.id for query in readers.read_queries(kept(tmp_path, "r.jsonl", [*rows, rows[0] | {"id": "c"}]))] == [
        "a", "b", "c"
    ]  # fmt: skip


DROP = {
    "nfl_1": {
        "passage": "Oslo won by 3 points.",
        "qa_pairs": [
            {"question": "By how many?", "query_id": "d1", "answer": {"number": "3", "date": {}, "spans": []},
             "validated_answers": [{"number": "", "date": {}, "spans": ["3 points"]}]},
            {"question": "Who won?", "query_id": "d2", "answer": {"number": "", "spans": ["Oslo"]}},
            {"question": "When?", "query_id": "d3",
             "answer": {"number": "", "date": {"day": "3", "month": "May", "year": "1990"}, "spans": []}},
            {"question": "Which two?", "query_id": "d4", "answer": {"spans": ["Oslo", "Rome"]}},
            {"question": "Why?", "query_id": "d5", "answer": {"number": "", "date": {"day": ""}, "spans": []}},
        ],
    }
}  # fmt: skip


def test_drop_s_file_gives_its_questions_and_passages(tmp_path):
    found = foreign.read(kept(tmp_path, "drop.json", DROP))
    assert [(query.id, query.answers) for query in found.items] == [
        ("d1", ("3", "3 points")), ("d2", ("Oslo",)), ("d3", ("3 May 1990",)), ("d4", ("Oslo, Rome",))
    ]  # fmt: skip
    (passage,) = found.corpus
    assert (passage.title, passage.text) == ("nfl 1", "Oslo won by 3 points.")
    assert all(query.meta["supporting"] == [passage.id] for query in found.items)
    assert "questions left out, whose rows say that they have no answer: 1" in found.said
    (query,) = foreign.read(
        kept(tmp_path, "one.json", [{"passage": "a b", "qa_pairs": DROP["nfl_1"]["qa_pairs"][:1]}])
    ).items
    assert query.answers == ("3", "3 points")


@pytest.mark.parametrize("facts", [[["Z", 0]], [["A", 0], ["Z", 0]], {"title": ["Z"], "sent_id": [0]}])
def test_a_gold_title_that_the_context_lacks_is_counted(facts, tmp_path):
    row = {"_id": "h", "question": "Who?", "answer": "Ada", "context": [["A", ["Ada is."]]], "supporting_facts": facts}
    said = "rows with a gold passage that does not stand among the passages beside the question: 1"
    assert said in foreign.read(kept(tmp_path, "h.json", [row])).said
    assert said not in foreign.read(kept(tmp_path, "i.json", [row | {"supporting_facts": [["A", 0]]}])).said


def test_packed_documents_of_a_folder_are_read(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a_b.txt").write_text("Plain.")
    (folder / "l_m.txt.gz").write_bytes(gzip.compress(b"Packed."))
    (folder / "p.html.gz").write_bytes(gzip.compress(b"<title>Page</title><p>Of HTML.</p>"))
    (folder / "t.csv.gz").write_bytes(gzip.compress(b"a,b"))
    found = foreign.read(folder)
    assert {(one.title, one.text) for one in found.items} == {
        ("a b", "Plain."), ("l m", "Packed."), ("Page", "Of HTML.")
    }  # fmt: skip
    assert any(line.startswith("files left out: 1, by their ending: .csv 1") for line in found.said)


def test_hops_and_the_entities_on_the_way_are_those_of_data_get(tmp_path):
    rows = [(HOTPOTQA, 2, ()), (TWO_WIKI, 2, ("Bela",)), (MUSIQUE, 2, ("Steve",))]
    for row, hops, entities in rows:
        (query,), *_ = foreign.read(kept(tmp_path, "q.jsonl", [row]))
        assert (query.meta["hops"], query.entities) == (hops, entities)
    (query,), *_ = foreign.read(kept(tmp_path, "q.json", [TWO_WIKI | {"type": "bridge_comparison"}]))
    assert query.meta["hops"] == 4


def test_a_retriever_finds_the_gold_passages_of_what_was_converted(tmp_path, capsys):
    rows = [HOTPOTQA | {"question": "Was A American? Was B too?"}, HUB | {"_id": "other", "question": "Who wrote?"}]
    out = tmp_path / "q.parquet"
    assert cli.main(["data", "convert", str(kept(tmp_path, "h.json", rows)), str(out)]) == 0
    found = recall.recall(str(tmp_path / "q.corpus.parquet"), str(out), use("bm25"), k=3)
    assert (found["gold"], found["passages"], found["absent"], found["recall"]) == ("supporting", 3, [], 0.75)


def test_gold_titles_without_their_texts_are_kept_as_titles(tmp_path):
    """HotpotQA's fullwiki file holds what a search found, which the gold passages need not be among."""
    (query,), _, corpus = foreign.read(kept(tmp_path, "h.json", [HOTPOTQA | {"context": [["C", ["Other."]]]}]))
    assert query.meta["supporting_titles"] == ["A", "B"] and "supporting" not in query.meta
    assert [passage.text for passage in corpus] == ["Other."]


@pytest.mark.parametrize("row", [HOTPOTQA, HUB, TWO_WIKI, MUSIQUE])
def test_gold_titles_are_known_where_such_rows_are_read_as_they_are(row, tmp_path):
    file = kept(tmp_path, "q.jsonl", [{"id": "1", **row}])
    (query,) = readers.read_queries(file)
    assert len(query.meta["supporting_titles"]) == 2
    found = {one.kind: one for one in data_check.check(file).findings}
    assert "data convert FILE NEW` makes a corpus" in found["passages beside"].text


@pytest.mark.parametrize(
    "row",
    [
        {"question_id": "tc_1", "answer": {"value": "Sunset", "aliases": ["Sunset Blvd", "Sunset"], "type": "W"}},
        {"QuestionId": "tc_1", "Answer": {"Value": "Sunset", "Aliases": ["Sunset Blvd"], "NormalizedValue": "sunset"}},
        {"id": "tc_1", "answers": [{"answer": "Sunset", "answer_id": "m.1", "aliases": ["Sunset Blvd"]}]},
        {"id": "tc_1", "answer_list": [], "answers": [{"answer_text": "Sunset", "aliases": ["Sunset Blvd"]}]},
    ],
)
def test_an_answer_that_is_an_object_gives_its_text_and_its_aliases(row, tmp_path):
    asked = {"Question": "Which?"} if "Answer" in row else {"question": "Which?"}
    (query,), *_ = foreign.read(kept(tmp_path, "t.json", {"Data": [row | asked], "Domain": "Web"}))
    assert (query.id, query.answers) == ("tc_1", ("Sunset", "Sunset Blvd"))


def test_pages_of_the_web_beside_a_question_are_left_out_and_said(tmp_path):
    row = {"question": "Which?", "question_id": "tc_1", "answer": {"value": "Sunset", "aliases": []}}
    row |= {"entity_pages": {"wiki_context": ["x" * 100_000]}, "search_results": {"title": []}}
    (query,), said, _ = foreign.read(kept(tmp_path, "t.jsonl", [row]))
    assert query.meta == {} and any(
        "'entity_pages', 'search_results' (pages of the web) are left out" in s for s in said
    )


def test_what_an_official_file_holds_wrong_is_named_by_row(tmp_path):
    for context, says in (
        ([["A", ["x"]], ["B", None]], "row 1: passage 2 of 'context' must be a title and its text, and holds null"),
        ({"title": ["A"], "sentences": []}, "row 1: 'context' must have as many lists of sentences as titles"),
    ):
        with pytest.raises(ValueError, match=says):
            foreign.read(kept(tmp_path, "h.json", [HOTPOTQA | {"context": context}]))
    cut = {"rows": [{"row_idx": 0, "row": HUB, "truncated_cells": ["context"]}]}
    with pytest.raises(ValueError, match=r"row 1: the viewer cut its cells list \[\"context\"\]"):
        foreign.read(kept(tmp_path, "v.json", cut))


BROKEN = [{"id": str(at), "question": "Who?" if at % 3 else None, "answer": "Ada"} for at in range(30)]


def test_a_broken_row_is_one_error_with_a_count_of_the_like_or_is_skipped_and_counted(tmp_path, capsys):
    lines = [*BROKEN, '{"id": "cut", "question": "Wh', {"id": "last", "question": "Where?", "answer": "Oslo"}]
    file, out = kept(tmp_path, "q.jsonl", lines), tmp_path / "out.jsonl"
    assert cli.main(["data", "convert", str(file), str(out)]) == 2
    said = capsys.readouterr().err
    assert "q.jsonl has 11 rows that cannot be read:" in said and said.count("\n") == 3 and not out.exists()
    assert "row 1: nothing stands in 'question'; fill it in, or take the row out (and 9 rows alike, to row 28)" in said
    assert "row 31: no JSON" in said and "--skip-broken leaves such rows out" in said
    assert cli.main(["data", "convert", str(file), str(out), "--skip-broken"]) == 0
    assert (
        "rows that cannot be read, left out (the first: row 1: nothing stands in 'question'" in capsys.readouterr().err
    )
    assert len(readers.read_queries(out)) == 21 and readers.read_queries(out)[-1].id == "last"


@pytest.mark.parametrize(
    ("name", "content", "left"),
    [
        ("q.csv", "question,answer\na?,Ada\nb?,Bob,and,more\nc?,Cyd\n", 1),
        ("q.csv", 'question,answer\na?,Ada\nb?,"Bob" or so\nc?,Cyd\n', 1),
        ("q.json", '[{"question": "a?", "answer": "Ada"}, 5, {"question": "c?", "answer": "Cyd"}, null]', 2),
        ("q.jsonl", '{"question": "a?", "answer": "Ada"}\n"text"\n{"question": "c?", "answer": "Cyd"}\n{"q', 2),
        ("q.jsonl", '{"question": "a?", "answer": "Ada"}\n{"question": "c?", "answer": "Cyd", "answer": "X"}\n'
         '{"question": "c?", "answer": "Cyd"}\n', 1),
    ],
)  # fmt: skip
def test_rows_that_are_broken_in_other_ways_are_skipped_alone(name, content, left, tmp_path):
    (file := tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="--skip-broken leaves such rows out"):
        foreign.read(file)
    made, said, _ = foreign.read(file, skip_broken=True)
    assert [query.answers for query in made] == [("Ada",), ("Cyd",)]
    assert said[-1].startswith("rows that cannot be read, left out") and said[-1].endswith(f": {left}")


def test_what_takes_other_rows_with_it_is_skipped_by_no_flag(tmp_path):
    (file := tmp_path / "q.csv").write_text('question,answer\na?,"Ada\nb?,Bob\nc?,Cyd\n')
    with pytest.raises(ValueError, match="q.csv line 4: no row of a table"):
        foreign.read(file, skip_broken=True)
    with pytest.raises(ValueError, match=r"q.jsonl row 1: no JSON .*\(and 1 rows alike, to row 2\)$"):
        foreign.read(kept(tmp_path, "q.jsonl", ["{", "{"]), skip_broken=True)


def as_arrow(file: Path, rows: list, *, is_file: bool = False, **how) -> Path:
    table = pa.Table.from_pylist(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    opened = (pa.ipc.new_file if is_file else pa.ipc.new_stream)(str(file), table.schema, **how)
    with opened:
        opened.write_table(table, max_chunksize=2)
    return file


def saved(folder: Path, rows: list, shards: int = 2) -> Path:
    """A folder as `Dataset.save_to_disk` writes it (datasets 5.2)."""
    names = [f"data-{at:05d}-of-{shards:05d}.arrow" for at in range(shards)]
    for at, name in enumerate(names):
        as_arrow(folder / name, rows[at::shards])
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "x", "_format_type": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"id": {"dtype": "string"}}}))
    return folder


ROW = {"id": "1", "question": "Where?", "answer": "Oslo", "year": None}
FIVE = [ROW | {"id": str(at)} for at in range(5)]


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize("packed", [None, "zstd"])
def test_an_arrow_file_is_read_and_a_run_reads_its_own_columns_there(is_file, packed, tmp_path):
    options = pa.ipc.IpcWriteOptions(compression=packed)
    file = as_arrow(
        tmp_path / "q.arrow", [HUB, HUB | {"_id": "2"}, HUB | {"_id": "3"}], is_file=is_file, options=options
    )
    made, _, corpus = foreign.read(file)
    assert [query.id for query in made] == ["5a8b", "2", "3"] and len(corpus) == 3
    with pytest.raises(ValueError, match="q.arrow row 1: .*'_id' looks like it: rename it to 'id'"):
        readers.read_queries(file)
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(ValueError, match="not a whole Arrow file"):
        foreign.read(file)


def test_an_arrow_file_whose_offsets_lie_or_that_is_a_bomb_is_refused(tmp_path):
    rows = [{"text": "x" * 100_000_000}]
    packed = as_arrow(tmp_path / "c.arrow", rows, options=pa.ipc.IpcWriteOptions(compression="zstd"))
    with pytest.raises(ValueError, match="row 1: the row has more than 32,000,000 bytes"):
        foreign.read(packed)
    bad = as_arrow(tmp_path / "bad.arrow", [{"question": "abc"}, {"question": "def"}])
    offsets = [at.to_bytes(4, "little") for at in (0, 3, 6, 2**31 - 1)]
    found = bad.read_bytes()
    assert found.count(b"".join(offsets[:3])) == 1
    bad.write_bytes(found.replace(b"".join(offsets[:3]), offsets[0] + offsets[3] + offsets[2]))
    with pytest.raises(ValueError, match="bad.arrow after row 0: not a whole Arrow file"):
        foreign.read(tmp_path / "bad.arrow")


def test_a_folder_of_save_to_disk_is_read_in_its_own_order(tmp_path):
    made, said, _ = foreign.read(saved(tmp_path / "set", FIVE))
    assert [query.id for query in made] == ["0", "2", "4", "1", "3"] and made[0].meta == {} and not said


def test_a_saved_set_of_several_splits_names_them(tmp_path):
    for name in ("train", "validation"):
        saved(tmp_path / "set" / name, FIVE)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    with pytest.raises(ValueError, match="holds the splits train, validation of a data set; name one.*set/train$"):
        foreign.read(tmp_path / "set")
    assert len(foreign.read(tmp_path / "set" / "validation").items) == 5


def test_a_saved_set_that_is_a_selection_or_has_lost_a_file_is_refused(tmp_path):
    folder = saved(tmp_path / "set", FIVE)
    state = json.loads((folder / "state.json").read_text())
    for name in ("_indices_data_files", "_indices_files"):
        for value in ([{"filename": "indices.arrow"}], ["indices.arrow"]):
            (folder / "state.json").write_text(json.dumps(state | {name: value}))
            with pytest.raises(ValueError, match="is a selection of the rows of its files, .*flatten_indices"):
                foreign.read(folder)
        for value in (None, []):
            (folder / "state.json").write_text(json.dumps(state | {name: value}))
            assert len(foreign.read(folder).items) == 5
    for name in ("../x.arrow", "gone.arrow", None):
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(ValueError, match="state.json names the file .* which is not in its folder"):
            foreign.read(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(ValueError, match="state.json is damaged"):
        foreign.read(folder)


def shards(folder: Path, kind: str) -> Path:
    folder.mkdir()
    for at in range(3):
        rows, name = [ROW | {"id": f"{at}-{row}"} for row in range(2)], f"train-0000{at}-of-00003.{kind}"
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), folder / name)
        elif kind == "arrow":
            as_arrow(folder / name, rows)
        else:
            kept(folder, name, rows)
    return folder


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "arrow"])
def test_a_folder_or_a_glob_of_shards_is_one_file_of_rows(kind, tmp_path, capsys):
    folder = shards(tmp_path / "set", kind)
    ids = [f"{at}-{row}" for at in range(3) for row in range(2)]
    files = sorted(map(str, folder.iterdir()))
    for words in ([str(folder)], [f"{folder}/train*"], [f"{tmp_path}/**/*.{kind}"], files, [",".join(files)]):
        assert [query.id for query in foreign.read(words).items] == ids
    (folder / "README.md").write_text("of what is here")
    assert cli.main(["data", "convert", str(folder), str(tmp_path / "out.jsonl")]) == 0
    assert "files left out: 1, by their ending: .md 1" in capsys.readouterr().err
    assert cli.main(["data", "convert", *files, str(tmp_path / "more.jsonl")]) == 0
    (tmp_path / "one").mkdir()
    shutil.copy(files[0], tmp_path / "one")
    with pytest.raises(ValueError, match="no file matches "):
        foreign.read(str(folder / "dev*"))
    assert [query.id for query in readers.read_queries(str(folder / f"*.{kind}"))] == ids


def test_a_row_of_a_shard_is_named_with_its_file(tmp_path):
    folder = shards(tmp_path / "set", "jsonl")
    kept(folder, "train-00003-of-00004.jsonl", [ROW | {"answer": None}, ROW | {"id": "0-0", "answer": "Rome"}])
    with pytest.raises(ValueError) as error:
        foreign.read(folder)
    said = str(error.value)
    assert "train-00003-of-00004.jsonl row 1: nothing stands in 'answer'" in said
    assert "train-00003-of-00004.jsonl row 2: id '0-0' stands in train-00000-of-00003.jsonl row 1 too" in said


def test_shards_of_several_splits_are_not_put_together_unasked(tmp_path):
    """Questions of the test split would be trained on."""
    folder = shards(tmp_path / "set", "jsonl")
    test = kept(folder, "test-00000-of-00001.jsonl", [ROW | {"id": "held out"}])
    for words in (folder, f"{folder}/*", sorted(folder.iterdir())):
        with pytest.raises(
            ValueError, match=r"of more than one split \(test 1, train 3\); convert each split for itself"
        ):
            foreign.read(words)
    (tmp_path / "in" / "train").mkdir(parents=True)
    (tmp_path / "in" / "dev").mkdir()
    shutil.copy(test, tmp_path / "in" / "train" / "a.jsonl")
    shutil.copy(test, tmp_path / "in" / "dev" / "b.jsonl")
    with pytest.raises(ValueError, match=r"of more than one split \(dev 1, train 1\)"):
        foreign.read(tmp_path / "in")
    both = ",".join(map(str, sorted(folder.iterdir())))
    assert len(foreign.read(both).items) == 7, "who names each file means it"


def test_corpora_of_two_splits_are_put_together_and_their_gold_ids_stay(tmp_path):
    made = []
    for name, row in (("train", HOTPOTQA), ("dev", HUB | {"_id": "d", "question": "Was B?"})):
        out = tmp_path / f"{name}.jsonl"
        assert cli.main(["data", "convert", str(kept(tmp_path, f"hotpot_{name}.json", [row])), str(out)]) == 0
        made += readers.read_queries(out)
    both = f"{tmp_path}/train.corpus.jsonl,{tmp_path}/dev.corpus.jsonl"
    passages, said, _ = foreign.read(both)
    assert {name for query in made for name in query.meta["supporting"]} < {passage.id for passage in passages}
    assert len(passages) == 3 and "rows that stand there twice, taken once: 3" in said


def test_a_corpus_that_is_there_is_not_written_over_and_nothing_is_half_done(tmp_path, capsys):
    (tmp_path / "q.corpus.jsonl").write_text("mine")
    assert cli.main(["data", "convert", str(kept(tmp_path, "h.json", [HOTPOTQA])), str(tmp_path / "q.jsonl")]) == 2
    assert "q.corpus.jsonl is there already, and is left as it is" in capsys.readouterr().err
    assert (tmp_path / "q.corpus.jsonl").read_text() == "mine" and not (tmp_path / "q.jsonl").exists()


def test_endings_that_are_read_are_all_known_to_folders():
    assert set(tables.ARROW_ENDS) < set(inputs.SHARDS) < set(inputs.ROWS)
