"""Each question's own paragraphs as its corpus: read as the sets carry them, searched alone, and trained in."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from qr_jax import assemble, config, plugins
from qr_jax.cli import cli
from qr_jax.data.parsing import query_of
from qr_jax.evaluation import subject
from qr_jax.records import Search, Turn
from qr_jax.rollout import reading
from qr_jax.sets.own_paragraphs import OwnParagraphs, Within, searching
from qr_jax.step import services

HOTPOTQA = {
    "id": "h", "question": "Where was the author of Faust born?", "answer": "Frankfurt",
    "context": [["Faust", ["Faust is a play ", "by Goethe."]], ["Goethe", ["Goethe was born in Frankfurt."]]],
    "supporting_facts": [["Faust", 0], ["Goethe", 0]],
}  # fmt: skip
MUSIQUE = {
    "id": "m", "question": "Where was the author of Ulysses born?", "answer": "Dublin",
    "paragraphs": [
        {"idx": 0, "title": "Ulysses", "paragraph_text": "Ulysses is a novel by Joyce.", "is_supporting": True},
        {"idx": 1, "title": "Joyce", "paragraph_text": "Joyce was born in Dublin.", "is_supporting": True},
        {"idx": 2, "title": "Goethe", "paragraph_text": "Goethe was born in Frankfurt.", "is_supporting": False},
    ],
}  # fmt: skip


def titles(search, *asked, k=3):
    return [sorted(passage.title for passage in found) for found in search(list(asked), k)]


def test_a_question_searches_its_own_paragraphs_and_a_text_without_a_question_all():
    own = OwnParagraphs([query_of(HOTPOTQA), query_of(MUSIQUE)])
    assert [(p.id, p.title, p.text) for p in own][:1] == [("0", "Faust", "Faust is a play by Goethe.")]
    assert len(own) == 4 and own.by_question["m"][2] is own.by_question["h"][1]  # the same paragraph, once
    search = searching(lambda corpus: lambda queries, k: [[*corpus][:k] for _ in queries], own)
    assert titles(search, Within("born", "h"), Within("born", "m"), "born") == [
        ["Faust", "Goethe"], ["Goethe", "Joyce", "Ulysses"], ["Faust", "Goethe", "Ulysses"],
    ]  # fmt: skip
    assert titles(search, Within("born", "of another file")) == [["Faust", "Goethe", "Ulysses"]]


def test_equal_texts_of_two_questions_are_two_searches_and_each_is_a_text():
    one, other = Within("born", "h"), Within("born", "m")
    assert len({one, other, Within("born", "h")}) == 2 and one != other and one != "born"
    assert one == Within("born", "h") and json.dumps([one]) == '["born"]' and f"{one}" == "born"
    assert pickle.loads(pickle.dumps(one)) == one


def test_a_question_without_paragraphs_is_refused_by_its_id():
    with pytest.raises(ValueError, match="question 'x' carries no paragraphs; wanted a column"):
        OwnParagraphs([query_of({"id": "x", "question": "Who?", "answers": ["Joyce"]})])


def test_two_questions_of_one_id_may_only_carry_the_same_paragraphs():
    one, other = query_of(HOTPOTQA), query_of(MUSIQUE | {"id": "h"})
    assert len(OwnParagraphs([one, one])) == 2
    with pytest.raises(ValueError, match="two questions 'h' .* carry other paragraphs; ids must be unique"):
        OwnParagraphs([one, other])


def test_a_suite_s_corpus_is_searched_though_the_run_had_its_questions_own_paragraphs():
    settings = config.Config(data=config.Data(corpus="own"))
    whole = OwnParagraphs([query_of(MUSIQUE)])[:]
    search = subject.corpus(settings, lambda: whole).search()
    assert titles(search, Within("Joyce", "m"), k=1) == [["Joyce"]]


def settings_of(folder: Path, *words):
    for name, row in (("train", HOTPOTQA), ("eval", MUSIQUE)):
        rows = [row | {"id": f"{row['id']}{at}"} for at in range(8)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    files = [f"data.train={folder}/train.jsonl", f"data.eval={folder}/eval.jsonl", "data.corpus=own"]
    return [*files, "data.traces=supporting", *words]


def test_the_environment_s_searches_are_of_their_question(tmp_path):
    whole = config.load(Path(config.__file__).parents[1] / "configs" / "two_layer.py", settings_of(tmp_path))
    env, search = assemble.environment(whole), assemble.searcher(whole)
    (query, *_) = assemble.questions(whole, "eval")
    move = env(query, [Turn("model", "<search> born </search>")])
    assert isinstance(move, Search) and move.queries[0].question == query.id
    assert titles(search, *move.queries) == [["Goethe", "Joyce"]]
    shown = env(
        query,
        [
            Turn("model", "<search> born </search>"),
            Turn("env", "", move.queries, tuple(map(tuple, search([*move.queries], 1)))),
        ],
    )
    assert "born in" in shown.text


def test_a_run_s_first_search_is_of_its_question_s_paragraphs_too(tmp_path):
    """Else the paragraphs of all questions were indexed for it, and never searched again."""
    made = Path(config.__file__).parents[1] / "configs" / "two_layer.py"
    settings, asked = config.load(made, settings_of(tmp_path)), []

    def search(queries, k):
        asked.extend(queries)
        return [[] for _ in queries]

    reward = plugins.bind("reward", settings.reward)
    parts = {"settings": settings, "data": SimpleNamespace(queries=assemble.questions(settings, "train"))}
    parts |= {
        "world": SimpleNamespace(search=search),
        "grading": SimpleNamespace(reward=reward, asks=False, turns=None),
    }
    services._tried(SimpleNamespace(**parts, run=SimpleNamespace(stop_now=lambda: False)))
    assert [text.question for text in asked] == ["h0"]


@pytest.mark.parametrize(("env", "tags"), [("search_r1", ()), ("reseek", ("judge",)), ("ssrl", ("information",))])
def test_an_environment_keeps_its_tags_where_its_searches_are_marked(env, tags, tmp_path):
    """ssrl's model writes <information> itself: taken for the environment's, the tag would end its turn."""
    made = Path(config.__file__).parents[1] / "configs" / "two_layer.py"
    settings = config.load(made, settings_of(tmp_path, f"env={env}"))
    assert reading.tags_of(assemble.environment(settings)) == tags


def test_traces_are_made_of_what_a_question_s_own_paragraphs_hold(tmp_path):
    """Another question's paragraphs hold the answer, and more of the words that are searched for."""
    here = {
        "context": [["Faust", ["The opera Faust is by Gounod."]], ["Ulm", ["A town."]]],
        "supporting_titles": ["Faust"],
    }
    there = {
        "context": [["Faust Faust", ["Who wrote the opera Faust? Not Goethe."]], ["Egmont", ["A play by Goethe."]]]
    }
    rows = {
        "train": [
            here | {"id": "false", "question": "Who wrote the opera Faust?", "answers": ["Goethe"]},
            here | {"id": "true", "question": "Of whom is the opera Faust?", "answers": ["Gounod"]},
            there | {"id": "other", "question": "What is Egmont?", "answers": ["a tragedy"]},
        ],
        "eval": [there | {"id": "held out", "question": "What is it?", "answers": ["a play"]}],
    }  # fmt: skip
    for name, part in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    made = Path(config.__file__).parents[1] / "configs" / "two_layer.py"
    words = ["data.corpus=own", "rollout.search_k=1", *(f"data.{name}={tmp_path}/{name}.jsonl" for name in rows)]
    for kind, kept in (("retrieved", ["true"]), ("supporting", ["false", "true"])):
        settings = config.load(made, [*words, f"data.traces={kind}"])
        search = assemble.searcher(settings)
        assert [trace.query.id for trace, _ in assemble.traces(settings, search)] == kept
        assemble.check_traces(settings, assemble.questions(settings, "train"), search)


@pytest.mark.thorough
def test_a_run_trains_and_evaluates_in_them(tmp_path, monkeypatch, capsys):
    """On the world's questions, each with sixty of its documents: no search brings another's."""
    monkeypatch.chdir(tmp_path)
    made = str(Path(config.__file__).parents[1] / "configs" / "two_layer.py")
    assert cli.main(["world", "world", "documents=200", "train=16", "dev=8", "traces=8"]) == 0
    documents = [json.loads(line) for line in Path("world/documents.jsonl").read_text().splitlines()]
    files = []
    for name in ("train", "dev"):
        rows = [json.loads(line) for line in Path(f"world/{name}.jsonl").read_text().splitlines()]
        for at, row in enumerate(rows):
            some = documents[5 * at : 5 * at + 60]
            row["context"] = [[one["title"], [one["text"]]] for one in some]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append(f"data.{'train' if name == 'train' else 'eval'}={name}.jsonl")
    words = [*files, "data.corpus=own", "data.traces=world/traces.jsonl", "mesh.devices=8", "learner.rows=8"]
    words += ["train.steps=2", "pool.queries=4", "pool.samples=2", "sft.steps=80", "sft.lr=3e-3"]
    words += [f"data.world_path={tmp_path}/w"]
    assert cli.main(["train", made, "--run", "run", *words]) == 0
    episodes = [json.loads(line) for file in Path("run/episodes").iterdir() for line in file.read_text().splitlines()]
    paragraphs = assemble.passages(config.load("run/config.json")).by_question
    own = {name: {passage.id for passage in some} for name, some in paragraphs.items()}
    shown = [(each["query"], ids) for each in episodes for turn in each["turns"] for ids in turn.get("passages", ())]
    assert any(ids for _, ids in shown) and all({*ids} <= own[query] for query, ids in shown)
    capsys.readouterr()
    assert cli.main(["eval", "run", "--json"]) == 0 and json.loads(capsys.readouterr().out)["questions"] == 8


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["retriever=http", "retriever.url=http://127.0.0.1:1"], "retriever=http searches passages of its own"),
        (["data.eval=world"], "data.eval is still 'world'"),
        (
            ["retriever=cached", "retriever.of=bm25", "retriever.cache=c"],
            "retriever=cached would read its model or its file",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(words, told, tmp_path, capsys):
    made = str(Path(config.__file__).parents[1] / "configs" / "two_layer.py")
    assert cli.main(["train", made, "--dry-run", *settings_of(tmp_path, *words)]) == 2
    assert told in capsys.readouterr().err
