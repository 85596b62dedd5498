"""`qr-jax recall` by hand, by ids and by titles, and over the real dev questions."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from qr_jax import plugins
from qr_jax.cli import cli
from qr_jax.cli.commands import data
from qr_jax.interfaces import CONTRACTS
from qr_jax.records import Passage
from qr_jax.search.recall import Gold, _ask, format_table, recall
from qr_jax.settings.settings import use

CORPUS = [
    {"id": "1", "title": "Dune", "text": "novel by Frank Herbert"},
    {"id": "2", "title": "Frank Herbert", "text": "born in Tacoma"},
    {"id": "3", "title": "Tacoma", "text": "a city"},
]
QUESTIONS = [
    {"id": "a", "question": "novel Herbert", "answers": ["x"], "supporting": ["1", "2"], "hops": 2},
    {"id": "b", "question": "Tacoma city", "answers": ["x"], "supporting": ["1", "3"], "hops": 2},
    {"id": "c", "question": "nothing known", "answers": ["x"], "supporting": ["9"], "hops": 1},
    {"id": "d", "question": "Dune", "answers": ["x"]},
]

PLAIN = {"map": [], "split": None, "skip_broken": False}  # what is said of the files


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_recall_by_hand(tmp_path):
    corpus, questions = written(tmp_path / "c.jsonl", CORPUS), written(tmp_path / "q.jsonl", QUESTIONS)
    found = recall(corpus, questions, use("bm25"), k=2)
    # a: both of two; b: 3 and not 1; c: its gold is not there; d has no gold and is in no mean
    assert found["recall"] == pytest.approx((1 + 0.5 + 0) / 3) and found["all_gold"] == pytest.approx(1 / 3)
    assert (found["questions"], found["questions_without_gold"], found["gold"]) == (3, 1, "supporting")
    assert found["by_hops"]["2"] == {"recall": 0.75, "all_gold": 0.5, "questions": 2}
    assert found["queries_per_second"] > 0 and found["passages"] == 3
    assert "1 questions have no gold" in format_table(found)
    assert recall(corpus, questions, use("bm25"), k=1)["recall"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert recall(None, questions, use("none"), k=2)["recall"] == 0


def test_recall_reads_columns_by_other_names(tmp_path, capsys):
    renamed = [
        {"Nr": row["id"], "Frage": row["question"], "answers": ["x"]} | {"gold": row.get("supporting")}
        for row in QUESTIONS
    ]
    corpus = [{"Nr": row["id"], "head": row["title"], "text": row["text"]} for row in CORPUS]
    words = ["--corpus", written(tmp_path / "c.jsonl", corpus), "--questions", written(tmp_path / "q.jsonl", renamed)]
    words += ["--map", "id=Nr", "question=Frage", "supporting=gold", "title=head", "--k", "2", "--json"]
    assert cli.main(["recall", "k1=0.9", *words, "b=0.4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recall"] == pytest.approx((1 + 0.5 + 0) / 3) and found["questions"] == 3


@pytest.mark.parametrize("whose", ["questions", "passages"])
def test_ids_may_have_another_name_in_one_of_the_two_files_alone(tmp_path, capsys, whose):
    names = {"id": "Nr", "question": "Frage"} if whose == "questions" else {"id": "page", "text": "body"}
    files = {"questions": QUESTIONS, "passages": CORPUS}
    files[whose] = [{names.get(name, name): value for name, value in row.items()} for row in files[whose]]
    words = ["--corpus", written(tmp_path / "c.jsonl", files["passages"]), "--map"]
    words += [f"{name}={other}" for name, other in names.items()]
    words += ["--questions", written(tmp_path / "q.jsonl", files["questions"]), "--k", "2", "--json"]
    assert cli.main(["recall", *words]) == 0
    assert json.loads(capsys.readouterr().out)["recall"] == pytest.approx((1 + 0.5 + 0) / 3)


def test_questions_with_gold_titles_beside_questions_with_ids_are_said(tmp_path):
    rows = [*QUESTIONS, QUESTIONS[3] | {"id": "e", "supporting_titles": ["Dune"]}]
    corpus, questions = written(tmp_path / "c.jsonl", CORPUS), written(tmp_path / "q.jsonl", rows)
    found = recall(corpus, questions, use("bm25"), k=2)
    assert (found["questions"], found["questions_without_gold"], found["of_these_by_title"]) == (3, 2, 1)
    said = "2 questions have no gold in 'supporting' (1 of them only in 'supporting_titles') and are not counted"
    assert said in format_table(found)


def test_gold_that_is_not_in_the_corpus_is_said(tmp_path):
    corpus, questions = written(tmp_path / "c.jsonl", CORPUS), written(tmp_path / "q.jsonl", QUESTIONS)
    found = recall(corpus, questions, use("bm25"), k=2)
    assert (found["gold_not_in_corpus"], found["gold_passages"]) == (1, 4)  # 9, of 1, 2, 3 and 9
    assert "1 of 4 different gold passages are not in the corpus, as '9': is it the right one?" in format_table(found)
    # c alone of three, whose one gold passage is 9; a and b have some
    assert found["gold_absent"] == pytest.approx(1 / 3)
    assert "33.3% of the questions have no gold passage in the corpus" in format_table(found)
    assert recall(None, questions, use("none"), k=2)["gold_absent"] is None
    many = found | {"gold_not_in_corpus": 5, "absent": ["2", "3", "5", "7", "9"]}
    assert "as '2', '3', '5' and 2 more: is it" in format_table(many) and found["absent"] == ["9"]
    found = recall(corpus, written(tmp_path / "q.jsonl", QUESTIONS[:2]), use("bm25"), k=2)
    assert found["gold_absent"] == 0.0 and "no gold passage" not in format_table(found)
    assert found["gold_not_in_corpus"] == 0 and "not in the corpus" not in format_table(found)


def test_only_the_first_k_count_and_all_gold_is_all_of_it(tmp_path):
    rows = [{"id": "a", "question": "novel Herbert", "answers": ["x"], "supporting": ["1", "2", "9"]}]
    found = recall(written(tmp_path / "c.jsonl", CORPUS), written(tmp_path / "q.jsonl", rows), use("bm25"), k=2)
    assert (found["recall"], found["all_gold"]) == (pytest.approx(2 / 3), 0)
    passages = [Passage(row["id"], row["title"], row["text"]) for row in CORPUS]
    gold = Gold("supporting", [frozenset("13")], lambda passage: passage.id)
    search = plugins.checked("retriever", "mine", lambda queries, k: [passages], CONTRACTS["retriever"].made)
    shares, _ = _ask(search, ["novel"], gold.wanted, gold, 2)  # three, where two were asked for
    assert shares == [0.5]


def test_a_retriever_made_of_others_is_said_with_their_settings(tmp_path):
    corpus, questions = written(tmp_path / "c.jsonl", CORPUS), written(tmp_path / "q.jsonl", QUESTIONS)
    found = recall(corpus, questions, use("hybrid", parts=(use("bm25"), use("bm25", k1=0.9))), k=2)
    parts = [{"name": "bm25", "settings": {}}, {"name": "bm25", "settings": {"k1": 0.9}}]
    assert json.loads(json.dumps(found))["settings"] == {"parts": parts}


def test_gold_titles_serve_where_there_are_no_ids(tmp_path):
    flashrag = {"supporting_facts": {"title": ["Tacoma"], "sent_id": [0]}}
    rows = [
        {"id": "a", "question": "novel Herbert", "answers": ["x"], "supporting_titles": ["Dune", "Frank Herbert"]},
        {"id": "b", "question": "Tacoma city", "golden_answers": ["x"], "metadata": flashrag},
    ]
    found = recall(written(tmp_path / "c.jsonl", CORPUS), written(tmp_path / "q.jsonl", rows), use("bm25"), k=2)
    assert (found["recall"], found["gold"]) == (1.0, "supporting_titles")


@pytest.mark.parametrize(("title", "gold"), [("Beyoncé", "Beyonce\u0301"), ("서울", "\u1109\u1165\u110b\u116e\u11af")])
def test_gold_titles_are_known_in_another_unicode_form(tmp_path, title, gold):
    corpus = written(tmp_path / "c.jsonl", [{"id": "12", "title": title, "text": "a singer"}])
    for names in ({"supporting_titles": [gold]}, {"supporting_facts": {"title": [gold], "sent_id": [0]}}):
        rows = [{"id": "a", "question": "Which singer?", "answers": ["x"], **names}]
        found = recall(corpus, written(tmp_path / "q.jsonl", rows), use("bm25"), k=2)
        assert (found["recall"], found["gold_not_in_corpus"]) == (1.0, 0)


@pytest.mark.parametrize(
    ("one", "gold"),
    [
        ({"supporting": "12"}, "supporting"),
        ({"supporting_titles": "Paris"}, "supporting_titles"),
        ({"supporting_facts": {"title": "Paris", "sent_id": 0}}, "supporting_titles"),
    ],
)
def test_gold_that_is_one_text_is_one_passage(tmp_path, one, gold):
    corpus = written(tmp_path / "c.jsonl", [{"id": "12", "title": "Paris", "text": "a city"}])
    rows = [{"id": "a", "question": "Paris city", "answers": ["x"], **one}]
    found = recall(corpus, written(tmp_path / "q.jsonl", rows), use("bm25"), k=2)
    assert (found["recall"], found["gold"], found["gold_passages"]) == (1.0, gold, 1)


def test_gold_titles_that_are_no_texts_are_refused_where_they_stand(tmp_path):
    for title, said in ((5, "must be a text or a list of texts"), ([5], "must be a text, and is int 5")):
        rows = [{"id": "a", "question": "Paris", "answers": ["x"], "supporting_facts": {"title": title}}]
        with pytest.raises(ValueError, match=f"q.jsonl row 1: .*'supporting_facts.title' {said}"):
            recall(written(tmp_path / "c.jsonl", CORPUS), written(tmp_path / "q.jsonl", rows), use("bm25"))


def test_what_cannot_be_measured_is_said(tmp_path):
    corpus, questions = written(tmp_path / "c.jsonl", CORPUS), written(tmp_path / "q.jsonl", QUESTIONS)
    with pytest.raises(ValueError, match="name its files with --corpus"):
        recall(None, questions, use("bm25"))
    with pytest.raises(ValueError, match="'http' searches no corpus of files: leave --corpus out"):
        recall(corpus, questions, use("http", url="http://127.0.0.1:1"))
    with pytest.raises(ValueError, match="no question of .* says which passages are gold"):
        recall(corpus, written(tmp_path / "no.jsonl", QUESTIONS[3:]), use("bm25"))
    with pytest.raises(ValueError, match="no retriever 'bm52'"):
        recall(corpus, questions, use("bm52"))


def test_the_command_prints_json_alone_and_takes_settings_and_several_files(tmp_path, capsys):
    corpus = [written(tmp_path / "c1.jsonl", CORPUS[:2]), written(tmp_path / "c2.jsonl", CORPUS[2:])]
    questions = [written(tmp_path / "q.jsonl", QUESTIONS)]
    arguments = Namespace(
        corpus=corpus, questions=questions, retriever="bm25", overrides=["k1=0.9"], k=2, json=True, **PLAIN
    )
    assert data._recall(arguments) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert {"recall", "all_gold", "questions", "queries_per_second"} <= set(found)
    assert found["settings"] == {"k1": 0.9} and found["passages"] == 3 and said.err == ""


@pytest.mark.thorough
def test_the_parts_of_a_retriever_get_their_settings_as_a_run_s_do(tmp_path, capsys):
    corpus, questions = [written(tmp_path / "c.jsonl", CORPUS)], [written(tmp_path / "q.jsonl", QUESTIONS)]
    model, index = str(Path(__file__).parents[1] / "fixtures" / "bert"), str(tmp_path / "vectors")
    words = ["parts=bm25,dense", "parts.dense.index=" + index, "retriever.parts.1.model=" + model, "parts.bm25.k1=0.9"]
    shared = {"corpus": corpus, "questions": questions, "k": 2, "json": True} | PLAIN
    assert data._recall(Namespace(retriever="hybrid", overrides=words, **shared)) == 0
    parts = json.loads(capsys.readouterr().out)["settings"]["parts"]
    assert parts == [
        {"name": "bm25", "settings": {"k1": 0.9}},
        {"name": "dense", "settings": {"index": index, "model": model}},
    ]
    assert (tmp_path / "vectors" / "manifest.json").is_file()
    words = ["of=bm25", "of.k1=0.9", "cache=" + str(tmp_path / "cache, and more")]
    assert data._recall(Namespace(retriever="cached", overrides=words, **shared)) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["of"] == {"name": "bm25", "settings": {"k1": 0.9}}
    for wrong, says in (
        (["of.k1=0.9"], "retriever.of is no plug-in and has no setting 'k1'; set retriever.of=... before it"),
        (["parts=bm25,bm25", "parts.bm25.k1=1"], r"parts has several 'bm25'; there are 0 .bm25., 1 .bm25.: name one"),
        (["parts=bm25,dense", "parts.dense.indxe=x"], "retriever 'dense' has no setting 'indxe'"),
    ):
        with pytest.raises(ValueError, match=says):
            data._recall(Namespace(retriever="cached" if "of.k1" in wrong[0] else "hybrid", overrides=wrong, **shared))


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "expected"), [("2wiki", 0.648), ("musique", 0.495)])
def test_bm25_finds_the_gold_of_real_questions_as_their_readme_says(real_data, name, expected):
    corpus, questions = (f"{real_data}/corpus/{name}.corpus.jsonl.gz", f"{real_data}/dev/{name}.questions.jsonl")
    found = recall(corpus, questions, use("bm25"))
    assert found["recall"] == pytest.approx(expected, abs=0.015) and found["questions_without_gold"] == 0
