"""The seven sets from miniature official files: what each row becomes, what is refused, the same order on any host."""

import hashlib
import json
import os
import shutil
import threading
import time
from argparse import Namespace
from dataclasses import replace
from functools import partial

import pytest

from qr_jax import assemble, trust
from qr_jax.cli.commands import data
from qr_jax.config import Config, Data
from qr_jax.data import readers, sources
from qr_jax.sets import carried, fetch, official, qa_builders
from qr_jax.sets.official import SETS, File, Official
from qr_jax.settings import checks

HOTPOTQA = {
    "_id": "5a8b",
    "question": "Were A and B of the same nationality?",
    "answer": "yes",
    "type": "comparison",
    "level": "hard",
    "supporting_facts": [["A", 0], ["B", 1], ["A", 1]],
    "context": [["A", ["A was American.", " He wrote."]], ["C", ["Other."]], ["B", ["B too."]]],
}
# A row of 2WikiMultihopQA, whose sentences have no blank between them.
TWO_WIKI = {
    "_id": "13f5",
    "type": "compositional",
    "question": "Where did Ada's mother die?",
    "context": [
        ["Ada", ["Ada was a writer.", "She wrote."]],
        ["Cora", ["Cora is a river."]],
        ["Bela", ["Bela died in Rome.", "She was a queen."]],
    ],
    "supporting_facts": [["Ada", 0], ["Bela", 0]],
    "evidences": [["Ada", "mother", "Bela"], ["Bela", "place of death", "Rome"]],
    "answer": "Rome",
    "entity_ids": "Q1_Q2",
    "evidences_id": [["Q1", "mother", "Q2"], ["Q2", "place of death", "Q220"]],
    "answer_id": "Q220",
}
# One row of each set in its official form, and what of it must come back.
ROWS = {
    "nq": (
        {"question": "who won", "answer": ["Ada", "Ada L."]},
        {"id": "nq-dev-0", "answers": ("Ada", "Ada L."), "hops": 1},
    ),
    "triviaqa": (
        {
            "Question": "Which musical premiered?",
            "QuestionId": "tc_33",
            "QuestionSource": "http://x/",
            "Answer": {"Value": "Sunset", "Aliases": ["Sunset Blvd", "Sunset"], "Type": "WikipediaEntity"},
            "EntityPages": [],
            "SearchResults": [],
        },
        {"id": "tc_33", "answers": ("Sunset", "Sunset Blvd")},
    ),
    "popqa": (
        {
            "id": "4222362",
            "subj": "George Rankin",
            "prop": "occupation",
            "obj": "politician",
            "s_wiki_title": "George Rankin",
        }
        | {"question": "What is George Rankin's occupation?", "possible_answers": '["politician", "political leader"]'},
        {"id": "popqa-4222362", "answers": ("politician", "political leader"), "supporting_titles": ["George Rankin"]}
        | {"type": "occupation"},
    ),
    "hotpotqa/distractor": (
        HOTPOTQA,
        {"id": "5a8b", "answers": ("yes",), "type": "comparison", "level": "hard", "hops": 2}
        | {"supporting_titles": ["A", "B"], "supporting_texts": ["A was American. He wrote.", "B too."]},
    ),
    "hotpotqa/fullwiki": (
        HOTPOTQA | {"context": [["C", ["Other."]]]},
        {"supporting_titles": ["A", "B"], "supporting_texts": ["", ""]},
    ),
    "2wiki": (
        TWO_WIKI,
        {"id": "13f5", "answers": ("Rome",), "entities": ("Bela",), "hops": 2, "type": "compositional"}
        | {"supporting_titles": ["Ada", "Bela"]}
        | {"supporting_texts": ["Ada was a writer. She wrote.", "Bela died in Rome. She was a queen."]},
    ),
    "musique": (
        {
            "id": "2hop__482757_12019",
            "paragraphs": [
                {"idx": 0, "title": "X", "paragraph_text": "no", "is_supporting": False},
                {"idx": 1, "title": "Green", "paragraph_text": "Green is by Steve.", "is_supporting": True},
                {"idx": 2, "title": "Steve", "paragraph_text": "He lives in Rome.", "is_supporting": True},
            ],
            "question": "Where does Green's performer live?",
            "question_decomposition": [
                {"id": 482757, "question": "Green >> performer", "answer": "Steve", "paragraph_support_idx": 1},
                {"id": 12019, "question": "Where does #1 live?", "answer": "Rome", "paragraph_support_idx": 2},
            ],
            "answer": "Rome",
            "answer_aliases": ["Roma"],
            "answerable": True,
        },
        {"answers": ("Rome", "Roma"), "entities": ("Steve",), "hops": 2, "supporting_titles": ["Green", "Steve"]},
    ),
    "bamboogle": (
        {"Question": "Who was president when Citibank was founded?", "Answer": "james madison"},
        {"id": "bamboogle-test-0", "answers": ("james madison",), "hops": 2},
    ),
    "frames": (
        {
            "": "0",
            "Prompt": "Whose mother was it?",
            "Answer": "Ada",
            "reasoning_types": "Tabular reasoning | Temporal reasoning",
            "wiki_links": "['https://en.wikipedia.org/wiki/Ada_%28queen%29#Life', 'https://en.wikipedia.org/wiki/B']",
        },
        {"id": "frames-test-0", "answers": ("Ada",), "supporting_titles": ["Ada (queen)", "B"]}
        | {"type": "Tabular reasoning | Temporal reasoning"},
    ),
    "strategyqa": (
        {"qid": "b8677", "term": "Ada", "question": "Could Ada swim?", "answer": False}
        | {"facts": ["Ada sank."], "decomposition": ["Who was Ada?", "Did #1 swim?"]},
        {"id": "b8677", "answers": ("no",), "hops": 2},
    ),
    "webwalkerqa": (
        {"Question": "When is it due?", "Answer": "March 21", "Root_Url": "https://x/"}
        | {"Info": {"Hop": "multi-source", "Difficulty_Level": "Medium"}},
        {"id": "webwalkerqa-test-0", "answers": ("March 21",), "type": "multi-source", "level": "Medium"},
    ),
}


def write_official(folder, name, rows, split):
    """The rows as the set's own file."""
    file = SETS[name].splits[split].name
    if file.endswith((".tsv", ".csv")):
        between = "\t" if file.endswith(".tsv") else ","
        quoted = [[str(value).replace('"', '""') for value in row.values()] for row in rows]
        lines = [between.join(rows[0]), *(between.join(f'"{cell}"' for cell in row) for row in quoted)]
        text = "\n".join(lines) + "\n"
    elif file.endswith(".jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = json.dumps({"Data": rows, "Version": 1.0} if name == "triviaqa" else rows)
    (folder / file).write_text(text, encoding="utf-8")
    return folder / file


def unpublished(monkeypatch, name):
    """The set with miniature files, so without the published checksums."""
    splits = {split: replace(file, sha256=None, attested="") for split, file in SETS[name].splits.items()}
    monkeypatch.setitem(official.SETS, name, replace(SETS[name], splits=splits))


@pytest.mark.parametrize("name", list(ROWS))
def test_every_set_is_built_from_a_user_s_folder(tmp_path, monkeypatch, name):
    unpublished(monkeypatch, name)
    row, wanted = ROWS[name]
    split = next(one for one in ("dev", "test", "train") if one in SETS[name].splits)
    write_official(tmp_path, name, [row], split)
    source = qa_builders.open_set(name, tmp_path / "built", manual_dir=tmp_path, splits=(split,))[split]
    (query,) = list(source)
    assert query.question == next(row[key] for key in ("question", "Question", "Prompt") if key in row)
    found = {"id": query.id, "answers": query.answers, "entities": query.entities, **query.meta}
    assert wanted.items() <= found.items() and (found["dataset"], found["split"]) == (name, split)
    built = [one.name for one in (tmp_path / "built").iterdir()]
    assert built == [name.replace("/", "_")], "nothing unfinished is beside"
    (tmp_path / SETS[name].splits[split].name).unlink()
    assert list(qa_builders.open_set(name, tmp_path / "built", splits=(split,))[split]) == [query], "it is built once"


def test_sentences_are_parted_by_one_blank_whether_they_begin_with_it_or_not():
    assert carried.joined(["He died.", "He was.", " She.\n", "They."]) == "He died. He was. She.\nThey."
    assert carried.joined(["", "A.", ""]) == "A." and carried.joined([]) == ""


def test_webwalkerqa_s_two_forms_are_one_and_frames_links_are_addresses():
    row, _ = ROWS["webwalkerqa"]
    small = {key.lower(): value for key, value in row.items()}
    small["info"] = {"type": "multi-source", "difficulty_level": "Medium"}
    assert official.webwalkerqa(small, "n") == official.webwalkerqa(row, "n")
    for links in ("nothing", "['a", "[1]", "{'a': 1}"):
        with pytest.raises(ValueError, match="'wiki_links' must be a list of addresses"):
            official.frames(ROWS["frames"][0] | {"wiki_links": links}, "n")


def test_a_comparison_over_bridges_has_four_hops():
    evidences = [["A", "director", "X"], ["B", "director", "Y"], ["X", "date of birth", "1900"]]
    evidences.append(["Y", "date of birth", "1910"])
    row = TWO_WIKI | {"type": "bridge_comparison", "answer": "A", "evidences": evidences}
    made = official.two_wiki(row, "")
    assert (made["hops"], made["entities"]) == (4, ["X", "Y", "1900", "1910"])


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("nq", "answer"),
        ("triviaqa", "QuestionId"),
        ("popqa", "possible_answers"),
        ("hotpotqa/fullwiki", "supporting_facts"),
    ]
    + [("2wiki", "evidences"), ("musique", "question_decomposition"), ("bamboogle", "Answer"), ("frames", "Prompt")]
    + [("strategyqa", "answer")],
)
def test_a_renamed_field_fails_with_its_name(tmp_path, name, gone):
    row = {f"{key}_v2" if key == gone else key: value for key, value in ROWS[name][0].items()}
    split = next(iter(SETS[name].splits))
    file = write_official(tmp_path, name, [row], split)
    with pytest.raises(ValueError, match=rf"{file.name} row 1 has no field '{gone}'.*_v2.*its form: https://"):
        list(official.read(file, SETS[name], split, name))


def test_rows_of_musique_full_that_have_no_answer_are_left_out_and_counted(tmp_path, caplog):
    """They have the ids of those that have one."""
    row = ROWS["musique"][0]
    file = write_official(tmp_path, "musique", [row | {"answerable": False}, row, row | {"answerable": False}], "dev")
    assert [one["id"] for one in official.read(file, SETS["musique"], "dev", "musique")] == [row["id"]]
    assert f"{file.name}: 2 rows left out, which say that their question has no answer" in caplog.text


def test_cut_files_are_refused(tmp_path):
    file = write_official(tmp_path, "2wiki", [ROWS["2wiki"][0]], "dev")
    file.write_text(file.read_text()[:-30])
    with pytest.raises(ValueError, match="dev.json is cut short or no JSON"):
        list(official.read(file, SETS["2wiki"], "dev", "2wiki"))
    file = write_official(tmp_path, "nq", [{"question": "x", "answer": "not a list"}], "dev")
    with pytest.raises(ValueError, match="field 'answer' must be a list, and is a str"):
        list(official.read(file, SETS["nq"], "dev", "nq"))


def test_another_file_than_the_published_one_is_refused_by_name(tmp_path):
    write_official(tmp_path, "nq", [ROWS["nq"][0]], "dev")
    with pytest.raises(
        ValueError, match=r"NQ-open.dev.jsonl is not the official file: its SHA-256 is .* f15567f3.*published"
    ):
        qa_builders.open_set("nq", tmp_path / "built", manual_dir=tmp_path, splits=("dev",))
    assert not (tmp_path / "built" / "nq").exists()


@pytest.mark.parametrize("damage", [("possible_answers", "possible"), ('political leader""]"', "")])
def test_a_damaged_file_builds_nothing_and_the_good_one_then_does(tmp_path, damage):
    file, built = write_official(tmp_path, "popqa", [ROWS["popqa"][0]], "test"), tmp_path / "built"
    good = file.read_text()
    file.write_text(good.replace(*damage))
    with pytest.raises(ValueError, match=r"popQA.tsv row 1 .*it was read from .*popQA.tsv: if that is damaged"):
        qa_builders.open_set("popqa", built, manual_dir=tmp_path)
    assert not (built / "popqa/test").exists()
    file.write_text(good)
    assert len(qa_builders.open_set("popqa", built, manual_dir=tmp_path)["test"]) == 1
    recorded = official.source(built / "popqa/test")
    assert recorded["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_folder_that_is_named_is_the_one_that_is_read(tmp_path, monkeypatch):
    unpublished(monkeypatch, "nq")
    monkeypatch.setattr(official, "BUILT", str(tmp_path / "built"))
    for folder in ("a", "b", "empty"):
        (tmp_path / folder).mkdir()
    for folder in ("a", "b"):
        write_official(tmp_path / folder, "nq", [{"question": f"{folder}?", "answer": ["x"]}], "train")

    def asked(folder=""):
        return [query.question for query in readers.read_queries(f"tfds:nq{f'@{tmp_path / folder}' if folder else ''}")]

    assert asked("a") == asked("a") == ["a?"]
    with pytest.raises(
        ValueError,
        match=r"b/NQ-open.train.jsonl is not the file that nq train was built from: .*remove .*built/nq/train",
    ):
        asked("b")
    with pytest.raises(ValueError, match="empty has no NQ-open.train.jsonl; put it there, unpacked"):
        asked("empty")
    with pytest.raises(ValueError, match="there is no folder .*gone; name the one that the files of nq are in"):
        asked("gone")
    assert asked() == ["a?"]
    shutil.rmtree(tmp_path / "built/nq/train")  # as the error says: b's is meant
    assert asked("b") == asked() == ["b?"]
    assert [one.name for one in (tmp_path / "built/nq").iterdir()] == ["train"], "a's is gone, and nothing beside"


def test_what_another_version_built_is_built_anew(tmp_path, monkeypatch):
    write_official(tmp_path, "musique", [ROWS["musique"][0]], "dev")
    opened = partial(qa_builders.open_set, "musique", tmp_path / "built", splits=("dev",))
    opened(manual_dir=tmp_path)
    monkeypatch.setattr(qa_builders.QABuilder, "VERSION", "9.9.9")
    with pytest.raises(ValueError, match="tfds:musique@FOLDER the folder that they are in"):
        opened()
    assert len(opened(manual_dir=tmp_path)["dev"]) == len(opened()["dev"]) == 1
    assert [one.name for one in (tmp_path / "built/musique/dev/qa/musique").iterdir()] == ["9.9.9"]
    (tmp_path / "built/musique/dev" / official.SOURCE).unlink()
    with pytest.raises(ValueError, match="tfds:musique@FOLDER the folder that they are in"):
        opened()


def test_a_set_that_would_be_built_anew_counts_as_not_built(tmp_path, monkeypatch):
    """A stranger's config that named it fetched files unasked."""
    monkeypatch.chdir(tmp_path)
    write_official(tmp_path, "musique", [ROWS["musique"][0]], "dev")
    assert not official.is_built("tfds:musique:dev")
    qa_builders.open_set("musique", official.BUILT, manual_dir=tmp_path, splits=("dev",))
    assert official.is_built("tfds:musique:dev") and not official.is_built("tfds:musique")
    monkeypatch.setattr(official, "VERSION", "9.9.9")
    assert not official.is_built("tfds:musique:dev")


@pytest.mark.parametrize("damaged", [b"[]", b"{", b"null", b"\xff", b"[" * 100_000, b'{"version": 1}'])
def test_a_damaged_source_of_a_built_set_builds_it_anew(tmp_path, damaged):
    write_official(tmp_path, "musique", [ROWS["musique"][0]], "dev")
    opened = partial(qa_builders.open_set, "musique", tmp_path / "built", manual_dir=tmp_path, splits=("dev",))
    opened()
    source = tmp_path / "built/musique/dev" / official.SOURCE
    whole = source.read_bytes()
    source.write_bytes(damaged)
    assert len(opened()["dev"]) == 1 and source.read_bytes() == whole


def test_of_two_processes_that_build_a_set_of_other_files_the_second_is_refused(tmp_path, monkeypatch):
    """The registry named the first one's file, and the set that stayed was the second one's."""
    prepare, results = qa_builders._prepare, {}

    def slow(*given):
        time.sleep(0.5)
        prepare(*given)

    def build(name):
        try:
            results[name] = qa_builders.open_set(
                "musique", tmp_path / "built", manual_dir=tmp_path / name, splits=("dev",)
            )
        except ValueError as error:
            results[name] = str(error)

    monkeypatch.setattr(qa_builders, "_prepare", slow)
    for name, question in (("a", "who ?"), ("b", "where ?")):
        (tmp_path / name).mkdir()
        write_official(tmp_path / name, "musique", [ROWS["musique"][0] | {"question": question}], "dev")
    threads = [threading.Thread(target=build, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [name for name in "ab" if "is not the file that musique dev was built from" in results[name]]
    kept = {"a": "who ?", "b": "where ?"}["b" if refused == ["a"] else "a"]
    assert len(refused) == 1
    (source,) = qa_builders.open_set("musique", tmp_path / "built", splits=("dev",)).values()
    assert source[0].question == kept


def test_a_table_of_many_columns_and_short_rows_is_read_in_time_linear_in_it(tmp_path):
    """Each row was filled with a None for every column: 3 MB took minutes."""
    file = tmp_path / "bamboogle.csv"
    file.write_text("Question,Answer," + ",".join(f"c{at}" for at in range(100_000)) + "\n" + "a,b\n" * 2000)
    began = time.process_time()
    assert sum(row == {"Question": "a", "Answer": "b"} for _, row in official.rows(file, file.name)) == 2000
    assert time.process_time() - began < 5


def test_a_file_is_found_below_the_folder_that_is_named_if_it_is_the_only_one(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="has 2 files x.jsonl; name the folder that the wanted one is in"):
        fetch.own(File("x.jsonl"), tmp_path)
    assert fetch.own(File("x.jsonl"), tmp_path / "a").path == tmp_path / "a" / "x.jsonl"
    (tmp_path / "b/x.jsonl").unlink()
    assert fetch.own(File("x.jsonl"), tmp_path).path == tmp_path / "a" / "x.jsonl"
    with pytest.raises(ValueError, match="no question set 'nqq'; there are: nq, triviaqa"):
        qa_builders.open_set("nqq", tmp_path)


def test_questions_that_nothing_can_answer_are_left_out_and_said(tmp_path, monkeypatch, caplog):
    unpublished(monkeypatch, "nq")
    rows = [{"question": "a", "answer": ["the", "Ada"]}, {"question": "b", "answer": ["the"]}]
    write_official(tmp_path, "nq", rows, "dev")
    source = qa_builders.open_set("nq", tmp_path / "built", manual_dir=tmp_path, splits=("dev",))["dev"]
    assert [query.answers for query in source] == [("Ada",)]
    assert "nq dev: 1 questions left out" in caplog.text and "nq-dev-1" in caplog.text


def test_a_setting_names_set_split_and_folder(tmp_path, monkeypatch):
    assert official.parts("tfds:hotpotqa/fullwiki") == ("hotpotqa/fullwiki", None, None)
    assert official.parts("tfds:musique:dev@/my/files") == ("musique", "dev", "/my/files")
    assert official.for_part("tfds:popqa@/x", "eval") == "tfds:popqa:test@/x"
    assert (
        official.for_part("tfds:nq", "train") == "tfds:nq:train"
        and official.for_part("tfds:nq:dev", "train")[-3:] == "dev"
    )
    for wrong, words in (
        ("tfds:bamboogle:dev", "no split 'dev' with answers; it has: test"),
        ("tfds:x", "no question set"),
        (f"tfds:nq@{tmp_path}/gone", "no folder .*/gone .*; after @ stands the folder of the official files"),
    ):
        with pytest.raises(ValueError, match=words):
            readers.resolve(wrong)
    with pytest.raises(ValueError, match="bamboogle has no split to train on"):
        official.for_part("tfds:bamboogle", "train")
    unpublished(monkeypatch, "nq")
    monkeypatch.setattr(official, "BUILT", str(tmp_path / "built"))
    write_official(tmp_path, "nq", [ROWS["nq"][0]], "train")
    assert [query.id for query in readers.read_queries(f"tfds:nq@{tmp_path}")] == ["nq-train-0"]
    assert readers.resolve(f"tfds:nq:train@{tmp_path}") == []
    made = tmp_path / "made.jsonl"
    assert data._convert(Namespace(files=[f"tfds:nq@{tmp_path}"], out=made, to="jsonl", encoding=None)) == 0
    assert [query.id for query in readers.read_queries(made)] == ["nq-train-0"]


def test_the_contexts_of_a_set_are_a_corpus(tmp_path, monkeypatch):
    unpublished(monkeypatch, "hotpotqa/distractor")
    write_official(tmp_path, "hotpotqa/distractor", [HOTPOTQA, HOTPOTQA | {"_id": "2"}], "dev")
    found = qa_builders.open_set("hotpotqa/distractor", tmp_path / "built", manual_dir=tmp_path, splits=("dev",))
    passages = list(qa_builders.contexts(found["dev"]))
    assert [(one.title, one.text) for one in passages] == [
        ("A", "A was American. He wrote."),
        ("C", "Other."),
        ("B", "B too."),
    ]
    assert all(query.meta["supporting_titles"] == ["A", "B"] and "context" not in query.meta for query in found["dev"])


def test_a_config_takes_the_passages_of_a_set_as_its_corpus(tmp_path, monkeypatch):
    unpublished(monkeypatch, "hotpotqa/distractor")
    unpublished(monkeypatch, "nq")
    monkeypatch.setattr(official, "BUILT", str(tmp_path / "built"))
    write_official(tmp_path, "hotpotqa/distractor", [HOTPOTQA], "dev")
    write_official(
        tmp_path, "hotpotqa/distractor", [HOTPOTQA | {"context": [["D", ["New."]], ["B", ["B too."]]]}], "train"
    )
    write_official(tmp_path, "nq", [ROWS["nq"][0]], "dev")
    config = Config(data=Data(corpus=f"tfds:hotpotqa@{tmp_path}"))
    assert [one.title for one in assemble.passages(config)] == ["D", "B", "A", "C"]
    named = f"tfds:hotpotqa/distractor:dev@{tmp_path}"
    assert [one.title for one in readers.read_passages(named)] == ["A", "C", "B"]
    with pytest.raises(ValueError, match="the set nq carries no passages; hotpotqa, 2wiki and musique do"):
        readers.read_passages(f"tfds:nq:dev@{tmp_path}")


def test_a_stranger_s_config_reads_no_set_that_was_not_read_before(tmp_path, monkeypatch):
    """What its folder held was kept as the set for every run of this user's."""
    monkeypatch.setattr(official, "BUILT", str(tmp_path / "built"))
    for setting in ("train", "eval", "corpus"):
        for name in ("tfds:popqa", "tfds:musique:dev@theirs"):
            assert trust.asks(Config(data=Data(**{setting: name}))) == [
                f"to read official files by data.{setting}={name}, and keep them as the set for all your runs"
            ]
    write_official(tmp_path, "musique", [ROWS["musique"][0]], "dev")
    qa_builders.open_set("musique", tmp_path / "built", manual_dir=tmp_path, splits=("dev",))
    assert not trust.asks(Config(data=Data(eval="tfds:musique:dev")))
    assert trust.asks(Config(data=Data(eval="tfds:musique")))  # train was not read
    assert trust.asks(Config(data=Data(eval=f"tfds:musique:dev@{tmp_path}")))


def test_grain_shuffles_a_set_and_a_file_by_seed_and_epoch_whatever_the_hosts(tmp_path, monkeypatch):
    unpublished(monkeypatch, "nq")
    rows = [{"question": f"question {at}", "answer": [f"answer {at}"]} for at in range(24)]
    write_official(tmp_path, "nq", rows, "train")
    built = qa_builders.open_set("nq", tmp_path / "built", manual_dir=tmp_path, splits=("train",))["train"]
    assert [one.question for one in built] == [row["question"] for row in rows], "a built set keeps the official order"
    file = tmp_path / "ours.jsonl"
    file.write_text(
        "".join(json.dumps({"id": one.id, "question": one.question, "answers": one.answers}) + "\n" for one in built)
    )
    for questions in (built, readers.read_queries(file)):
        batch = sources.batches(questions, 6, seed=3)
        alone = [[one.id for one in batch(step)] for step in range(8)]
        assert sorted(sum(alone[:4], [])) == sorted(sum(alone[4:], [])) and alone[:4] != alone[4:]
        for hosts in (
            1,
            2,
            3,
            6,
        ):  # each host takes its rows of the same global batch, from a batch function of its own
            parts = [sources.batches(questions, 6, seed=3) for _ in range(hosts)]
            together = [
                sorted(one.id for host, part in enumerate(parts) for one in part(step)[host::hosts])
                for step in range(8)
            ]
            assert together == [sorted(step) for step in alone]
    assert [one.id for one in sources.batches(built, 6, seed=3)(0)] == [
        one.id for one in sources.batches(readers.read_queries(file), 6, seed=3)(0)
    ]


def test_every_published_checksum_says_who_published_it():
    for name, found in SETS.items():
        assert isinstance(found, Official) and found.page.startswith("https://"), name
        for file in found.splits.values():
            assert (file.sha256 is None) == (file.attested == "") and (file.sha256 is None or len(file.sha256) == 64)
            assert file.name in official.published(name), f"{name}: a person must be told where {file.name} is"


def test_a_config_takes_a_set_as_its_questions(tmp_path, monkeypatch):
    for split in ("train", "dev"):
        write_official(tmp_path, "nq", [{"question": f"{split} {at}", "answer": ["x"]} for at in range(3)], split)
    unpublished(monkeypatch, "nq")
    monkeypatch.setattr(official, "BUILT", str(tmp_path / "built"))
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "1", "text": "x"}\n')
    data = Data(
        train=f"tfds:nq@{tmp_path}", eval=f"tfds:nq@{tmp_path}", corpus=str(corpus), traces=str(corpus), eval_limit=2
    )
    assert not checks.problems(Config(data=data))
    assert sorted(one.id for one in assemble.questions(Config(data=data), "train")) == [
        f"nq-train-{at}" for at in range(3)
    ]
    assert {one.meta["split"] for one in assemble.questions(Config(data=data), "eval")} == {"dev"}
    assert len(assemble.questions(Config(data=data), "eval")) == 2
    wrong = checks.problems(Config(data=replace(data, train="tfds:nqq")))
    assert any("there is no question set 'nqq'" in line for line in wrong)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("musique", "[" * 200_000, "dev.jsonl is cut short or no JSON: its lists and objects are nested too deep"),
        ("2wiki", "[" * 200_000, "dev.json is cut short or no JSON: its lists and objects are nested too deep"),
        ("2wiki", "null", "no JSON: a list of rows is wanted, and this is NoneType"),
        ("2wiki", '{"Data": 5}', "no JSON: field 'Data' must be a list"),
        ("popqa", b"id\tq\n\xff\xff\n", "popQA.tsv is cut short or no table: 'utf-8' codec"),
        ("popqa", f"id\tquestion\n1\t{'q' * 200_000}\n", "popQA.tsv is cut short or no table: field larger"),
        ("popqa", [{"possible_answers": "[" * 100_000}], "row 1 its lists and objects are nested too deep"),
        ("popqa", [{"possible_answers": "[1, {}]"}], "row 1 must hold texts alone in 'answers', and holds 1 "),
        ("musique", [{"answer_aliases": [None]}], "row 1 must hold texts alone in 'answers', and holds None "),
        (
            "2wiki",
            [{"context": [["t", [["a"]]]]}],
            "row 1 passage 1 of 'context' must be a title and its text, and holds list",
        ),
        (
            "2wiki",
            [{"context": [["t", None]]}],
            "row 1 passage 1 of 'context' must be a title and its text, and holds null",
        ),
        (
            "2wiki",
            [{"context": [[5, ["a"]]]}],
            "row 1 passage 1 of 'context' must be a title and its text, and holds int 5",
        ),
        ("2wiki", [{"evidences": [["a"]]}], "row 1 field 'evidences' must hold triples, and is "),
    ],
)
def test_official_files_that_somebody_broke_are_named(tmp_path, name, content, words):
    split = next(one for one in ("dev", "test") if one in SETS[name].splits)
    if isinstance(content, list):
        file = write_official(tmp_path, name, [ROWS[name][0] | content[0]], split)
    else:
        file = tmp_path / SETS[name].splits[split].name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=words):
        list(official.read(file, SETS[name], split, name))


def test_half_of_a_surrogate_pair_becomes_a_character_that_files_can_hold(tmp_path):
    file = write_official(tmp_path, "musique", [ROWS["musique"][0] | {"question": "\ud800 who?"}], "dev")
    assert [row["question"] for row in official.read(file, SETS["musique"], "dev", "musique")] == ["\ufffd who?"]


def test_a_pipe_in_a_file_s_place_is_told(tmp_path):
    os.mkfifo(tmp_path / "dev.json")
    with pytest.raises(ValueError, match="has no dev.json; put it there, unpacked"):
        fetch.own(SETS["2wiki"].splits["dev"], tmp_path)
