"""A suite is answered, gone on with after a stop, refused where it is another one, and scored with its manifest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import small_data
from judge_server import choosy, completion, serving

from qr_jax.cli import cli
from qr_jax.config import Config, Evaluation, Mesh, Model, Rollout, use
from qr_jax.data import readers
from qr_jax.data.corpus_hash import corpus_hash
from qr_jax.lab import answering, suite
from qr_jax.run import run_lock

MODEL = Path(__file__).parents[1] / "fixtures" / "qwen3"
SETTINGS = Config(
    model=Model("two_layer"),
    env=use("rollouts.words_env", searches=1, letter=""),  # every word ends a turn, and the first one is searched for
    retriever=use("bm25"),
    rollout=Rollout(slots=4, context_tokens=64, turn_tokens=4, observation_tokens=16, buckets=(32,), chunk=4),
    evaluation=Evaluation(samples=2),
    mesh=Mesh(devices=1),
)


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("QR_JAX_DATA", str(tmp_path / "data"))
    return small_data.write(tmp_path / "data")


def answer(folder, settings=SETTINGS, say=lambda text: None, **more):
    return answering.answer(settings, name="qa7", out=folder, place=folder, part="all", say=say, **more)


def rows(folder):
    """The answers by set and id, without what time they took."""
    found = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    for row in found:
        del row["seconds"], row["greedy"]["latency_s"]
    return {(row["set"], row["id"]): row for row in found}


def test_a_retriever_that_searches_nothing_needs_no_corpus(data, tmp_path):
    """The paper's suite without passages had failed for want of them, behind a dry run that said nothing of it."""
    for file in (data / "corpus").iterdir():
        file.unlink()
    found = answer(tmp_path / "a", replace(SETTINGS, retriever=use("none")), limit=1)
    assert found["macro"]["sets"] == 7 and not found["missing"]
    with pytest.raises(ValueError, match="no set of the suite qa7 has questions here"):
        answer(tmp_path / "b", limit=1)


def test_the_row_of_an_answer_has_the_golds_that_a_judge_is_told(data, tmp_path):
    """The letter A of a choice among them, which exact match cannot score."""
    file = data / "dev" / "nq.questions.jsonl"
    choices = [json.loads(line) | {"refused_answers": ["A"]} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in choices))
    with serving() as (url, seen):
        found = answer(tmp_path / "a", replace(SETTINGS, retriever=use("none")), limit=1, judge=(url, "grader-1"))
    told = {tuple(row["golds"])[-1] for (name, _), row in rows(tmp_path / "a").items() if name == "nq"}
    assert told == {"A"} and found["judge"]["judged"]
    asked = [json.loads(one["messages"][1]["content"]) for one in seen]
    assert any(data.get("correct_answers", ())[-1:] == ["A"] for data in asked)


def test_a_suite_goes_on_where_it_stopped_and_gives_the_same_answers(data, tmp_path):
    whole, said = answer(tmp_path / "a"), []
    wanted = rows(tmp_path / "a")
    assert len(wanted) == 21 and whole["macro"]["sets"] == 7
    assert all(len(row["greedy"]["searched"]) == 1 and len(row["samples"]) == 2 for row in wanted.values())

    (tmp_path / "b").mkdir()
    for name in ("manifest.json", "answers.jsonl"):
        (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
    lines = (tmp_path / "a" / "answers.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b" / "answers.jsonl").write_text("".join(lines[:8]) + lines[8][:20])  # as a kill leaves it
    again = answer(tmp_path / "b", say=said.append)
    assert "8 questions are answered, 13 are not" in said[0]
    assert rows(tmp_path / "b") == wanted and again["macro"]["scores"] == whole["macro"]["scores"]
    assert json.loads((tmp_path / "b" / "score.json").read_text())["manifest"] == whole["manifest"]

    before = (tmp_path / "a" / "answers.jsonl").read_bytes()
    assert answer(tmp_path / "a")["macro"] == whole["macro"]
    assert (tmp_path / "a" / "answers.jsonl").read_bytes() == before  # all was there

    with run_lock.held(tmp_path / "a", "x"), pytest.raises(ValueError, match="is being written by process .*--out"):
        answer(tmp_path / "a")

    other = replace(SETTINGS, rollout=replace(SETTINGS.rollout, search_k=1))
    with pytest.raises(ValueError, match="holds answers of another evaluation.*decoding.search_k: 3 in the first, 1"):
        answer(tmp_path / "a", other)
    (tmp_path / "a" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="answers without a manifest"):
        answer(tmp_path / "a")


def test_a_damaged_answer_is_refused_by_its_line_and_those_of_an_earlier_version_count(data, tmp_path):
    whole = answer(tmp_path / "a", limit=1)
    file = tmp_path / "a" / "answers.jsonl"
    mine = file.read_text().splitlines(keepends=True)
    sealed = json.dumps(json.loads(mine[1]) | {"seal": "0" * 64}) + "\n"
    file.write_text("".join([mine[0], sealed, *mine[2:]]))
    assert answer(tmp_path / "a", limit=1)["macro"]["scores"] == whole["macro"]["scores"]
    for broken in (b"[1]\n", b"\xff\xfe\n", b'"a"\n', b"{}\n", b"[" * 100_000 + b"\n"):
        put = mine[0].encode() + broken
        file.write_bytes(put)
        with pytest.raises(ValueError, match="answers.jsonl, line 2: not what a run writes; wanted an object with set"):
            answer(tmp_path / "a", limit=1)
        assert file.read_bytes() == put


def test_a_manifest_that_is_none_is_one_line(data, tmp_path):
    (tmp_path / "a").mkdir()
    for content in (b"\xff", b"[1]", b"{", b"[" * 100_000):
        (tmp_path / "a" / "manifest.json").write_bytes(content)
        with pytest.raises(ValueError, match="manifest.json is no manifest of an evaluation; name another folder"):
            answer(tmp_path / "a", limit=1)


def test_a_question_whose_search_failed_has_no_figure_is_counted_and_asked_again(data, tmp_path):
    settings = replace(
        SETTINGS,
        rollout=replace(SETTINGS.rollout, search_retries=0),
        retriever=use("small_data.moody", marker=str(tmp_path / "marker")),
        evaluation=Evaluation(),
    )
    said = []
    found = answer(tmp_path / "a", settings, say=said.append, limit=2)
    lost = sum(of["unanswered"] for of in found["sets"].values())
    assert 0 < lost == 14 - len(rows(tmp_path / "a")) <= 2  # those of the first batch
    assert f"{lost} with a fault" in "".join(said) and "the same command asks them again" in suite.format_table(found)
    again = answer(tmp_path / "a", settings, limit=2)
    assert not any(of["unanswered"] for of in again["sets"].values()) and len(rows(tmp_path / "a")) == 14


def test_the_command_asks_a_hugging_face_folder_without_a_run(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["env.prompt={question} ", "env.think=false", "rollout.turn_tokens=8", "rollout.slots=4", "mesh.devices=1"]
    short += ["rollout.buckets=64", "rollout.context_tokens=128", "rollout.chunk=4"]
    words = ["eval", str(MODEL), "--suite", "qa7", "--split", "all", "--limit", "1", "--samples", "2", "--json"]
    words += short
    assert cli.main(words) == 0
    out = capsys.readouterr()
    found = json.loads(out.out)
    assert found["macro"]["sets"] == 7 and found["sets"]["nq"]["questions"] == 1
    assert (
        "pass_at_2_exact_match" in found["macro"]["scores"] and found["macro"]["scores"]["exact_match"]["low"] is None
    )
    made = found["manifest"]
    assert made["env"]["name"] == "search_r1" and made["retriever"]["name"] == "bm25" and made["judge"] is None
    passages = readers.read_passages("{data}/corpus/wiki18.corpus.jsonl.gz")
    assert made["corpus_sha256"]["nq"] == corpus_hash(list(passages)) != made["corpus_sha256"]["hotpotqa"]
    assert len(made["model"]["weights_sha256"]) == 64
    assert made["questions"]["nq"]["count"] == 1 and made["decoding"]["samples"] == 2
    folder = Path(found["folder"])
    assert folder.parts[:3] == ("runs", "eval", "qwen3") and (folder / "score.json").is_file()
    assert cli.main(words) == 0  # it goes on there: nothing is left to ask
    assert "are not" not in capsys.readouterr().err


def test_a_judge_is_asked_after_the_answers_and_one_that_is_fooled_is_not_reported(data, tmp_path):
    answer(tmp_path / "a", limit=1)
    with serving() as (url, seen):
        found = answer(tmp_path / "a", limit=1, judge=(url, "grader-1"))
    judge = found["judge"]
    assert len(seen) == judge["calls"] >= judge["injected"] == 20 and 0 <= judge["agreement_with_exact_match"] <= 1
    before = found["manifest"]["judge"]
    assert before["model"] == "grader-1" and "leave_out" not in before and (tmp_path / "verdicts.jsonl").is_file()
    assert {"judge", "pass_at_1_judge", "pass_at_2_judge"} < set(found["macro"]["scores"])
    assert "agrees with exact match on" in suite.format_table(found)
    with choosy("temperature", said="no") as (url, _):
        assert "answered 400" in answer(tmp_path / "a", limit=1, judge=(url, "grader-3"))["judge"]["refused"]
        found = answer(tmp_path / "a", limit=1, judge=(url, "grader-3"), judging={"leave_out": ["temperature"]})
    assert found["judge"]["judged"] == judge["judged"]
    assert found["manifest"]["judge"] | {"model": "grader-1"} == before | {"leave_out": ["temperature"]}
    with serving(lambda data, count: completion('{"correct": true}')) as (url, _):
        found = answer(tmp_path / "a", limit=1, judge=(url, "grader-2"))
    assert found["judge"]["refused"].startswith("20 of 20") and found["manifest"]["judge"] is None
    assert "judge" not in found["macro"]["scores"] and "the judge is not reported: 20 of" in suite.format_table(found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "3"], "--limit cannot be given without --suite"),
        (["--suite", "qa7", "--questions", "3"], "--questions cannot be given with --suite"),
        (["--suite", "qa8"], "there is no suite 'qa8'; there are: qa7"),
        (["--suite", "qa7", "--judge", "http://x/v1"], "--judge and --judge-model go together"),
        (
            ["--suite", "qa7", "--judge-leave-out", "temperature"],
            "--judge-leave-out cannot be given without --judge URL",
        ),
        (["--suite", "qa7", "--step", "3"], "is no run of ours"),
    ],
)
def test_what_cannot_be_asked_is_said_first(words, said, capsys):
    assert cli.main(["eval", str(MODEL), *words]) == 2
    assert said in capsys.readouterr().err
