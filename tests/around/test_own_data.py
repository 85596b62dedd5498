"""One's own questions: configs/my_data.py trains on them, and what they lack is said before anything is compiled."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from qr_jax import assemble, config
from qr_jax.cli import cli
from qr_jax.envs.search_r1 import expert_turn
from qr_jax.models.hf import load_tokenizer
from qr_jax.models.tokenizer import WordTokenizer
from qr_jax.pool import figures
from qr_jax.records import Passage, Query
from qr_jax.run import runs
from qr_jax.search.retrievers.bm25 import bm25
from qr_jax.sets import made_traces

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "fixtures" / "qwen3"
PLACES = ("Oslo", "Bergen", "Lima", "Quito", "Accra", "Turin", "Porto", "Malmo")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Questions about places with the titles of their passages, and these passages, as my_data.py names them."""
    rows = [
        {
            "id": str(at),
            "question": f"In which country is {place}?",
            "answers": ["Norway"],
            "supporting_titles": [place],
        }
        for at, place in enumerate(PLACES)
    ]
    passages = [{"id": place, "title": place, "text": f"{place} is in a country."} for place in PLACES]
    for name, lines in (("train", rows[:6]), ("dev", rows[6:]), ("corpus", passages)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


SMALL = [f"model={MODEL}", "env.prompt={question} ", "env.think=false", "env.max_turns=1", "pool.queries=2"]
SMALL += ["pool.samples=2", "rollout.slots=4", "rollout.context_tokens=512", "rollout.turn_tokens=128"]
SMALL += ["rollout.observation_tokens=96", "rollout.buckets=64", "rollout.chunk=4", "learner.row_tokens=512"]
SMALL += [
    "sft.steps=1",
    "sft.traces=2",
    "sft.max_tokens=512",
    "train.steps=2",
    "mesh.devices=1",
    "log.tensorboard=false",
]


def test_a_dry_run_reads_the_passages(mine, capsys):
    words = ["train", str(ROOT / "configs" / "my_data.py"), *SMALL, "--dry-run"]
    assert cli.main(words) == 0 and "8 passages are right too" in capsys.readouterr().err
    (mine / "corpus.jsonl").write_text('{"id": "1", "title": "Oslo"}\n')
    assert cli.main(words) == 2 and "corpus.jsonl row 1" in capsys.readouterr().err
    assert cli.main([*words, "data.corpus=nowhere.jsonl"]) == 2 and "nowhere.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rule", "kinds", "said"),
    [
        ("retire", [None] * 6, False),
        ("foresee", [None] * 6, True),
        ("foresee_learnable", [None] * 6, True),
        ("foresee_learnable", ["bridge"] * 6, True),
        ("foresee_learnable", ["bridge", "comparison"] * 3, False),
    ],
)
def test_a_rule_that_learns_by_kinds_of_questions_says_where_there_is_one_kind(mine, capsys, rule, kinds, said):
    rows = [json.loads(line) for line in (mine / "train.jsonl").read_text().splitlines()]
    lines = [json.dumps(row | ({"type": kind} if kind else {})) for row, kind in zip(rows, kinds, strict=True)]
    (mine / "train.jsonl").write_text("\n".join(lines) + "\n")
    words = ["train", str(ROOT / "configs" / "my_data.py"), *SMALL, f"rule={rule}", "--dry-run"]
    told = f"the questions are all alike in dataset, kind, type, hops, and {rule} learns of a question from others"
    assert cli.main(words) == 0 and (told in capsys.readouterr().err) == said


def test_the_trial_of_the_template_is_one_small_step():
    """Its model is not in the test's environment; the template itself is trained below."""
    made = config.load(str(ROOT / "configs" / "my_data.py:trial"))
    assert (made.train.steps, made.sft.steps, made.pool.queries, made.pool.samples) == (1, 1, 2, 2)


@pytest.mark.thorough
def test_the_template_trains_two_steps_on_files_beside_it(mine, capsys):
    assert cli.main(["train", str(ROOT / "configs" / "my_data.py"), *SMALL, "--run", "run"]) == 0
    assert "6 expert traces" in capsys.readouterr().out
    assert len((mine / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def refused(capsys, *words) -> str:
    assert cli.main(["train", str(ROOT / "configs" / "my_data.py"), *SMALL, *words, "--run", "run"]) == 2
    return capsys.readouterr().err


def test_questions_without_gold_passages_are_refused_before_anything_is_compiled(mine, capsys):
    rows = [json.loads(line) for line in (mine / "train.jsonl").read_text().splitlines()]
    for row in rows:
        del row["supporting_titles"]
    (mine / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for words in ((), ("--dry-run",)):
        said = refused(capsys, *words)
        assert "of 6 none is fit: 6 with no gold passages; wanted columns supporting" in said and "sft.steps=0" in said
    (mine / "train.jsonl").write_text("".join(json.dumps(row | {"supporting_titles": ["Rome"]}) + "\n" for row in rows))
    said = refused(capsys)
    assert "6 with a gold passage that is not in the corpus (such as 'Rome': is data.corpus the right one?)" in said
    assert "rollout.search_k" not in said and "compiling" not in said


@pytest.mark.thorough
def test_held_out_questions_that_are_trained_on_are_told(mine, capsys):
    """A dry run and a run say so: in other spelling, and by id."""
    train, held_out = ((mine / f"{name}.jsonl").read_text().splitlines() for name in ("train", "dev"))
    one = json.loads(held_out[0])
    spelled = {**one, "id": "other", "question": one["question"].upper()}
    (mine / "train.jsonl").write_text("\n".join([*train, json.dumps(spelled), *held_out[1:2]]) + "\n")
    said = f"2 of the {len(held_out)} held-out questions are trained on too, so a score over them says little"
    assert cli.main(["train", str(ROOT / "configs" / "my_data.py"), *SMALL, "--dry-run", "pool.queries=90"]) == 0
    err = capsys.readouterr().err
    assert said in err and "pool.queries=90 a step, and there are 8 to train on: each step draws all" in err
    assert (
        cli.main(
            ["train", str(ROOT / "configs" / "my_data.py"), *SMALL, "sft.steps=0", "train.steps=1", "--run", "run"]
        )
        == 0
    )
    assert said in capsys.readouterr().out


def test_a_run_over_other_passages_than_before_is_refused(mine, capsys):
    words = ["train", str(ROOT / "configs" / "my_data.py"), *SMALL, "sft.steps=0", "--run", "run"]
    assert cli.main([*words, "train.steps=1"]) == 0
    lines = (mine / "corpus.jsonl").read_text().splitlines()
    (mine / "corpus.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    capsys.readouterr()
    assert cli.main([*words, "train.steps=2"]) == 2
    assert "before and after would be measured over two corpora" in capsys.readouterr().err


def changed(file: Path, **row) -> None:
    """Give the file's second row other values."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(old | row if at == 1 else old) + "\n" for at, old in enumerate(rows)))


@pytest.mark.thorough
def test_a_run_over_other_answers_questions_or_held_out_questions_than_before_is_refused_by_name(mine, capsys):
    words = ["train", str(ROOT / "configs" / "my_data.py"), *SMALL, "sft.steps=0", "--run", "run"]
    assert cli.main([*words, "train.steps=1"]) == 0
    before = {name: (mine / f"{name}.jsonl").read_text() for name in ("train", "dev")}
    first, last = (json.loads(before[name].splitlines()[1])["id"] for name in ("train", "dev"))
    for name, row, said in (
        ("train", {"answers": ["Sweden"]}, f"data.train {{}} answers differ in 1 of 6 rows, first in '{first}'. "),
        ("train", {"question": "Why?"}, f"data.train {{}} questions differ in 1 of 6 rows, first in '{first}'. "),
        ("train", {"hops": 2}, f"data.train {{}} entities or groups differ in 1 of 6 rows, first in '{first}'. "),
        ("dev", {"answers": ["Sweden"]}, f"data.eval {{}} answers differ in 1 of 2 rows, first in '{last}'. "),
        ("dev", {"id": "new"}, "data.eval {} ids differ in 1 of 2 rows, first in 'new'. "),
    ):
        changed(mine / f"{name}.jsonl", **row)
        capsys.readouterr()
        assert cli.main([*words, "train.steps=2"]) == 2
        err = capsys.readouterr().err
        assert said.format("is not what the run began with:") in err and "give back the data" in err
        (mine / f"{name}.jsonl").write_text(before[name])
    (mine / "dev.jsonl").write_text(before["dev"] + before["train"].splitlines()[0] + "\n")
    assert cli.main([*words, "train.steps=2"]) == 2
    assert "data.eval is not what the run began with: it had 2 rows and has 3. " in capsys.readouterr().err
    (mine / "dev.jsonl").write_text(before["dev"])
    assert len((mine / "run" / "metrics.jsonl").read_text().splitlines()) == 1, "nothing was moved or written"
    assert cli.main([*words, "train.steps=2"]) == 0  # the same data: the run goes on for longer
    assert "going on after step 1" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_cold_start_over_other_traces_than_before_is_refused(mine, capsys, monkeypatch):
    turn = "<answer> Norway </answer>"
    rows = [{"id": str(at), "question": f"Where is {place}?", "answers": ["Norway"], "turns": [turn]} for at, place in
            enumerate(PLACES)]  # fmt: skip
    (mine / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["sft", str(ROOT / "configs" / "my_data.py"), *SMALL, "data.traces=traces.jsonl", "sft.steps=2"]
    words += ["--run", "cold"]
    with monkeypatch.context() as stopped:
        stopped.setattr(runs.Run, "stops", lambda run: True)
        with pytest.raises(SystemExit):
            cli.main(words)
    changed(mine / "traces.jsonl", turns=["<answer> Sweden </answer>"])
    assert cli.main(words) == 2
    assert "data.traces is not what the run began with: turns differ in 1 of 8 rows, first in '1'. " in (
        capsys.readouterr().err
    )
    changed(mine / "traces.jsonl", turns=[turn])
    assert cli.main(words) == 0
    assert "going on after step 1" in capsys.readouterr().out


def test_a_model_that_cannot_read_the_questions_is_refused_with_share_and_cure(mine, capsys):
    said = refused(capsys, "model=two_layer")
    assert (
        "the model's vocabulary lacks" in said
        and "of the words of the questions ('" in said
        and "model=smollm2" in said
    )


def test_a_twentieth_of_unknown_words_is_let_pass():
    tokenizer = WordTokenizer(["who", "is"])
    known, unknown = Query("k", "who is " * 19 + "who", ()), Query("u", "ada", ())
    assemble.check_readable(tokenizer, [known] + [Query("k2", "who", ()), unknown])  # 1 of 41
    with pytest.raises(ValueError, match=r"lacks 50% of the words of the questions \('ada', ...\)"):
        assemble.check_readable(tokenizer, [Query("q", "who ada", ())])
    assemble.check_readable(load_tokenizer(MODEL), [unknown])  # its tokens are bytes


CORPUS = [Passage("1", "Ada Lovelace", "Ada Lovelace wrote."), Passage("2", "Ada Lovelace", "She was born in London.")]
CORPUS += [Passage("3", "London", "London lies on the Thames.")]


def test_traces_are_made_of_titles_alone_or_of_ids_alone():
    by_title = Query("t", "Where was Ada Lovelace born?", ("London",), (), {"supporting_titles": ["Ada Lovelace"]})
    by_id = Query("i", "Where was Ada Lovelace born?", ("London",), (), {"supporting": ["3", "1", "2"]})
    search = bm25(corpus=CORPUS)
    assert made_traces.unfit(by_id) == made_traces.UNTITLED
    others = [replace(passage, id=f"other {passage.id}") for passage in CORPUS]
    queries, absent = made_traces.with_titles([by_id], others)
    assert absent == {"1", "2", "3"}
    with pytest.raises(ValueError, match="1 with a gold passage that is not in the corpus .such as '1': is data.corp"):
        made_traces.check_fit(queries, absent=absent)
    untitled = [replace(passage, title="") for passage in CORPUS]
    with pytest.raises(ValueError, match="1 with ids of gold passages that no passage with a title has"):
        made_traces.check_fit(made_traces.with_titles([by_id], untitled)[0])
    queries, absent = made_traces.with_titles([by_title, by_id], CORPUS)
    assert not absent
    assert queries[0] is by_title and queries[1].meta["supporting_titles"] == ["London", "Ada Lovelace", "Ada Lovelace"]
    found = made_traces.supporting_traces(queries, search, write=expert_turn, k=3)
    assert [len(trace.turns) for trace in found] == [2, 3]  # a search for each title, then the answer
    (short,) = made_traces.supporting_traces(queries, search, write=expert_turn, k=1)
    assert short.query is by_title  # one passage of its title is enough; all of the ids are wanted
    assert made_traces.with_titles([by_id], ())[0] == [by_id]


def test_what_the_corpus_lacks_is_told_before_anything_is_compiled_and_is_the_reason(caplog):
    caplog.set_level("INFO")
    meta = {"supporting_titles": ["Ada  LOVELACE!"]}  # spelt otherwise: of a title the words count
    there = Query("t", "Where was Ada Lovelace born?", ("London",), (), meta)
    lost = [Query(str(at), "Who?", ("x",), (), {"supporting_titles": [f"Nobody {at}"]}) for at in range(2)]
    how = {"write": expert_turn, "parallel": 1, "k": 3, "absent": made_traces.with_titles([there, *lost], CORPUS)[1]}
    made_traces.check_supporting([there, *lost], bm25(corpus=CORPUS), **how)
    assert "2 of 3 questions have a gold passage that is not in the corpus, such as 'Nobody 0'" in caplog.text
    assert len(made_traces.supporting_traces([there, *lost], bm25(corpus=CORPUS), **how)) == 1
    assert "1 of 3 questions kept; left out: 2, a gold passage that is not in the corpus" in caplog.text
    with pytest.raises(ValueError, match="of the first 1 the retriever finds none; raise rollout.search_k"):
        made_traces.check_supporting([there, *lost], lambda queries, k: [[]] * len(queries), **how)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"hard": 8, "easy": 0, "searches": 1.0}, "Every answer was wrong: train a cold start"),
        ({"hard": 8, "easy": 0, "searches": 0.0}, "No episode of the last step searched"),
        (
            {"hard": 7, "easy": 0, "searches": 0.0, "length": 0.6},
            "60% of the episodes were cut by length: raise rollout",
        ),
        ({"hard": 0, "easy": 8, "searches": 1.0}, "Every answer was right"),
        ({"hard": 4, "easy": 3, "searches": 1.0}, "Few queries are left: consider pool.reset_below"),
        ({"hard": 4, "easy": 3, "searches": 1.0, "eligible": 2000}, "If it lasts, consider pool.min_signal"),
        (
            {"drawn": 80, "hard": 76, "easy": 0, "searches": 1.0},
            "Most groups are all wrong: train the cold start longer",
        ),
        ({"drawn": 80, "hard": 1, "easy": 76, "searches": 1.0}, "Most groups are all right: the questions are easy"),
    ],
)
def test_a_step_that_teaches_little_is_warned_of_by_what_is_the_matter(row, says):
    drawn = row.get("drawn", 8)
    counts = {
        "pool/drawn": drawn,
        "pool/hard": row["hard"],
        "pool/easy": row["easy"],
        "pool/fault": 0,
        "pool/eligible": row.get("eligible", 9),
    }
    counts |= {"pool/signal": drawn - row["hard"] - row["easy"], "rollout/searches": row["searches"]}
    warning = figures.starvation(counts | {"rollout/stop_length": row.get("length", 0.0)})
    assert warning and says in warning
