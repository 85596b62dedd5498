"""Scores of a suite stand side by side where they were asked alike, with paired differences, and else not at all."""

import json

import pytest
from test_suite import row

from qr_jax.cli import cli
from qr_jax.lab import side_by_side, suite
from qr_jax.records import Query
from qr_jax.run import run_files

COUNTS = {"nq": 4, "popqa": 2}
ASKED = {name: [Query(f"{name}-{at}", "?", ("oslo",)) for at in range(count)] for name, count in COUNTS.items()}


def scored(folder, answers, **manifest):
    """A suite's folder as `eval --suite` leaves it, from set -> its answers, None where a question has none."""
    rows = [row(name, at, answer) for name, some in answers.items() for at, answer in enumerate(some) if answer != "-"]
    made = {"questions": "all", "corpus_sha256": {"nq": "c0ffee"}, "model": {"weights_sha256": folder.name}} | manifest
    folder.mkdir()
    found = suite.score("qa7", ASKED, rows, {}) | {"manifest": made}
    (folder / "score.json").write_text(json.dumps(found))
    (folder / "answers.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows) + '{"set": "nq", "cut o')
    return folder


def test_differences_are_paired_and_the_average_is_over_sets(tmp_path):
    one = scored(tmp_path / "one", {"nq": ["oslo", "x", "x", "oslo"], "popqa": ["x", "x"]})
    other = scored(tmp_path / "other", {"nq": ["oslo", "oslo", "x", "x"], "popqa": ["oslo", "x"]})
    found = side_by_side.paired_scores([one, other])
    nq, popqa = (found["sets"][name] for name in ("nq", "popqa"))
    assert [score["exact_match"]["mean"] for score in nq["scores"]] == [0.5, 0.5] and nq["questions"] == 4
    assert nq["differences"][0] is None and nq["differences"][1]["exact_match"]["mean"] == 0
    assert popqa["differences"][1]["exact_match"]["mean"] == 0.5
    macro = found["macro"]
    assert [score["exact_match"]["mean"] for score in macro["scores"]] == [0.25, 0.5]
    gap = macro["differences"][1]["exact_match"]
    assert gap["mean"] == 0.25 and -0.5 <= gap["low"] < 0.25 < gap["high"] <= 1
    assert found["models"] == [{"weights_sha256": "one"}, {"weights_sha256": "other"}]
    text = side_by_side.format_table(found)
    assert f"(2) {other}" in text and "0.500 +0.500 [" in text


def test_equal_answers_differ_by_nothing_and_a_question_that_one_lacks_is_in_no_difference(tmp_path):
    some = {"nq": ["oslo", "x", "x", "oslo"], "popqa": ["x", "oslo"]}
    one, same = (scored(tmp_path / name, some) for name in ("one", "same"))
    gap = side_by_side.paired_scores([one, same])["macro"]["differences"][1]["f1"]
    assert gap["mean"] == 0 and gap["high"] == -gap["low"] == pytest.approx(3.8416 / 5.8416)  # Wilson's, of 2 questions
    less = scored(tmp_path / "less", {"nq": ["-", "oslo", "x", "oslo"], "popqa": ["x", "-"]})
    found = side_by_side.paired_scores([one, less])
    assert found["sets"]["nq"]["questions"] == 3 and found["sets"]["popqa"]["questions"] == 1
    assert found["sets"]["nq"]["differences"][1]["exact_match"]["mean"] == pytest.approx(1 / 3)
    assert found["sets"]["popqa"]["differences"][1]["exact_match"] == {"mean": 0.0, "low": None, "high": None}


def test_answers_are_read_line_by_line_and_no_more_than_a_run_has(tmp_path, monkeypatch):
    folders = [scored(tmp_path / name, {"nq": ["oslo", "x", "x"]}) for name in ("one", "other")]
    monkeypatch.setitem(run_files.MOST, ".jsonl", run_files.Most(2**20, lines=2, line_bytes=2**16))
    with pytest.raises(ValueError, match="answers.jsonl has more than 2 lines"):
        side_by_side.paired_scores(folders)


def test_what_was_asked_otherwise_is_refused_with_what_differs(tmp_path, capsys):
    one = scored(tmp_path / "one", {"nq": ["oslo"]})
    other = scored(tmp_path / "other", {"nq": ["oslo"]}, corpus_sha256={"nq": "tea"})
    said = "corpus_sha256.nq: 'c0ffee' in the first, 'tea' in the second"
    with pytest.raises(ValueError, match=said):
        side_by_side.paired_scores([one, other])
    assert cli.main(["compare", str(one), str(other)]) == 2 and said in capsys.readouterr().err
    with pytest.raises(ValueError, match="have no score.json"):
        side_by_side.paired_scores([one, tmp_path])
    with pytest.raises(ValueError, match="each once"):
        side_by_side.paired_scores([one, one])
    same = scored(tmp_path / "same", {"nq": ["oslo"]})
    assert cli.main(["compare", str(one), str(same), "--budget", "rollouts"]) == 2
    assert "--budget cannot be given with scores of a suite" in capsys.readouterr().err
    assert not side_by_side.is_suite("reward.x=" + "a" * 300)


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    folders = [str(scored(tmp_path / name, {"nq": [name]})) for name in ("oslo", "lima")]
    assert cli.main(["compare", *folders]) == 0
    assert "macro average" in capsys.readouterr().out
    assert cli.main(["compare", *folders, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sets"]["nq"]["differences"][1]["f1"]["mean"] == -1.0
