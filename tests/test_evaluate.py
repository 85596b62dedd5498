"""Evaluation, ask and export on a finished run; the cold start; the configs that are shipped."""

import base64
import functools
import io
import json
import re
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import judge_server
import loopback
import numpy as np
import pytest
import small_data
from killed_run import tiny

from qr_jax import assemble, config, evaluate, sft
from qr_jax.cli import cli
from qr_jax.cli.commands import runs as run_commands
from qr_jax.data import readers
from qr_jax.envs.search_r1 import search_r1
from qr_jax.evaluation import scores, subject
from qr_jax.evaluation.manifest import differences
from qr_jax.evaluation.scores import is_incomplete
from qr_jax.lab import answering, compare, evaluation_table, exporting, launch, model_card
from qr_jax.lab.judge import INJECTED
from qr_jax.lab.report import charts, page, run_list
from qr_jax.logging import metrics_writer, terminal
from qr_jax.models import decoder, hf
from qr_jax.models.hf import load_tokenizer
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Episode, Query, Trace
from qr_jax.run import begin, run_files, runs
from qr_jax.sets import formats
from qr_jax.train import train

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    settings = tiny(folder)
    settings = replace(settings, train=replace(settings.train, steps=1), reward=config.use("f1"))
    train(settings, folder / "run", say=lambda text: None)
    return folder / "run"


def episode(answer, valid=True):
    empty = np.zeros(0)
    return Episode(Query("q", "?", ("red sea",)), 0, 0, empty, empty, empty, empty, (), answer, "answered", valid)


def test_scores_are_means_over_questions_with_standard_errors_and_faults_left_out():
    queries = [Query(str(i), "?", ("red sea",)) for i in range(3)]
    groups = [
        [episode("the Red Sea"), episode("blue")],
        [episode("sea"), episode("x", valid=False)],
        [episode("x", False)],
    ]
    found = evaluate._scores(queries, groups)
    assert found["exact_match"] == pytest.approx((0.5 + 0) / 2)  # means 1/2 and 0; the third has no valid episode
    assert found["exact_match_se"] == pytest.approx(0.25)  # sd of (.5, 0) is .3536, over the root of 2
    assert found["f1"] == pytest.approx((0.5 + 2 / 3) / 2)
    assert found["faults"] == 2 and found["incomplete"]


def test_gains_are_over_the_questions_that_both_have_answered_with_a_paired_interval():
    right = {"exact_match": {"a": 0, "b": 0, "c": 1, "d": 0}, "f1": {"a": 0.0, "b": 0.5, "c": 1.0, "d": 0.0}}
    later = {"exact_match": {"a": 1, "b": 0, "c": 1, "d": 1}, "f1": {"a": 1.0, "b": 0.5, "c": 1.0, "d": 1.0}}
    before, after = {"details": right | {"faulted": ["d"]}}, {"details": later}
    found = evaluate.gains(before, after)["exact_match"]
    assert found["mean"] == pytest.approx(1 / 3) and found["questions"] == 3
    assert found["half_width"] == pytest.approx(1.96 * np.std([1, 0, 0], ddof=1) / 3**0.5)
    assert list(evaluate.gains({"details": {"exact_match": right["exact_match"]}}, after)) == [
        "exact_match"
    ]  # no F1 was kept
    assert evaluate.gains(before, before)["f1"]["mean"] == 0


def test_a_score_of_one_question_has_the_widest_interval_and_one_whose_error_is_not_known_none():
    one = {"exact_match": 0.0, "exact_match_se": None, "questions": 1}
    assert evaluate.interval(one, "exact_match") == f".000 (.000 to {evaluate.score_text(1.96**2 / (1 + 1.96**2))})"
    assert evaluate.interval(one | {"questions": 8}, "exact_match") == ".000"
    assert evaluate.interval(one | {"exact_match": None}, "exact_match") == "-"


def test_tables_of_many_groups_leave_a_summary_small_enough_to_be_read():
    long = ["\0" * 200] * 2
    names = scores.group_names(["b"] * 3 + ["a"] * 2 + [None, 7] + long)
    assert names == ["b"] * 3 + ["a"] * 2 + ["None", "7"] + [scores.OTHERS] * 2
    values = ["\0" * 18 + chr(at + 256) for at in range(1500)]  # of 116 bytes in JSON
    queries = [Query(value, "?", ("red sea",)) for value in values]
    table = evaluate._by(queries, [[episode("red sea")]] * 1500, scores.group_names(values))
    assert len(table) == scores.MOST_GROUPS + 1 and table[scores.OTHERS]["questions"] == 1500 - 64
    tables = {f"by_{name}": table for name in evaluate.GROUPS}
    summary = json.dumps({when: tables for when in ("base", "before", "after")}, indent=2)
    assert len(summary) < 0.9 * run_files.MOST["summary.json"].bytes


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b"\xff", b"[" * 100_000, b'{"questions": "x", "faults": []}'])
def test_an_evaluation_before_the_cold_start_that_is_none_is_made_again(tmp_path, content):
    (tmp_path / runs.BASE).write_bytes(content)
    assert begin._measured_before(SimpleNamespace(folder=tmp_path), None) is None


def test_an_evaluation_before_the_cold_start_of_other_questions_is_made_again(tmp_path, monkeypatch):
    """The files behind data.eval may have changed, with the same words in the config."""
    monkeypatch.setattr(evaluate, "one_line", lambda base: "told")
    monkeypatch.setattr(begin, "is_incomplete", lambda base: False)
    run, of = SimpleNamespace(folder=tmp_path), {"questions": "a", "corpus": "b"}
    (tmp_path / runs.BASE).write_text(json.dumps({"exact_match": 0.5, "of": of}))
    assert begin._measured_before(run, of) == {"exact_match": 0.5}
    assert begin._measured_before(run, of | {"questions": "c"}) is None


@pytest.mark.parametrize(("faults", "incomplete"), [(0, False), (1, False), (2, True), (20, True)])
def test_a_score_over_fewer_than_95_in_100_questions_is_marked_wherever_it_is_shown(faults, incomplete):
    queries = [Query(str(i), "?", ("red sea",)) for i in range(20)]
    groups = [[episode("red sea", at >= faults)] for at in range(20)]
    found = {"questions": 20, **evaluate._scores(queries, groups), **evaluate._behaviour(groups)}
    assert found["incomplete"] == incomplete
    for text in (evaluate.one_line(found), evaluation_table.format_table(found)):
        assert (f"{faults} of 20 ended in a fault and are left out" in text) == (faults > 0)
        assert ("INCOMPLETE" in text) == incomplete
    assert evaluate.as_metrics(found)["eval/faults"] == faults
    assert evaluate.as_metrics(found)["eval/incomplete"] == is_incomplete(found) == incomplete
    line = metrics_writer.live_line(5, evaluate.as_metrics(found) | {"eval/exact_match": 0.9}, 10)
    assert ("INCOMPLETE" in line) == incomplete and (f"({faults} faults)" in line) == (faults > 0)
    for when in ({"before": found}, {"metrics": [evaluate.as_metrics(found) | {"step": 2, "eval/exact_match": 0.9}]}):
        of = SimpleNamespace(**{"before": {}, "after": {}, "metrics": [], "ended": False, **when})
        if found["exact_match"] is not None:
            assert ("INCOMPLETE" in page.held_out(of)["beside"]) == incomplete
            assert bool(charts.accuracy([{"step": 1}], found, {}, False)["series"][1:]) != incomplete
    assert found["exact_match"] == (None if faults == 20 else 1.0)  # never 0
    card = model_card._evaluation(model_card.Trained(1, 16, 1.0, 20, 1, is_incomplete(found)))
    assert ("INCOMPLETE" in card) == incomplete


def test_a_score_over_too_few_questions_is_marked_where_runs_are_compared_and_exported(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["incomplete"] is False and not compare.compare([folder])["warnings"]
    summary["before"] |= {"incomplete": True}
    (folder / "summary.json").write_text(json.dumps(summary | {"greedy_before": 0.9, "incomplete": True}))
    found = compare.compare([folder])
    assert any("INCOMPLETE" in warning and "before training" in warning for warning in found["warnings"])
    assert [point["rollouts"] for point in compare.curve(compare.read(folder))] == [16]
    assert launch._result(launch.Job("one", "train", folder, config.load(folder / "config.json"))).endswith(
        ", INCOMPLETE, 16 rollouts"
    )
    summary["after"] |= {"incomplete": True}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert "INCOMPLETE" in (exporting.export(folder, tmp_path / "hf") / "README.md").read_text()


def test_faults_of_samples_are_shown_and_a_score_over_too_few_is_marked_and_ends_with_1(run, monkeypatch, capsys):
    queries = [Query(str(i), "?", ("red sea",)) for i in range(8)]
    greedy, sampled = [[episode("red sea")]] * 8, [[episode("red sea", at == 0)] * 4 for at in range(8)]
    found = {"questions": 8, "samples": 4, **evaluate._scores(queries, greedy), **evaluate._behaviour(greedy)}
    found |= {f"pass_at_1_{name}": value for name, value in evaluate._scores(queries, sampled).items()}
    text = evaluation_table.format_table(found)
    (said,) = evaluate.fault_texts(found | {"first_fault": "no route"})
    assert said.endswith("in a fault; the first: no route: INCOMPLETE, do not use the score")
    assert "28 of 32 samples ended in a fault: INCOMPLETE" in text and "INCOMPLETE" in evaluate.one_line(found)
    assert re.search(r"Pass@1 of 4 +8 +28 ", text) and re.search(r"all +8 +0 ", text)
    assert evaluate.as_metrics(found)["eval/pass_at_1_faults"] == 28 and evaluate.as_metrics(found)["eval/incomplete"]
    monkeypatch.setattr(evaluate, "evaluate", lambda *positional, **named: found)
    assert cli.main(["eval", str(run), "--samples", "4"]) == 1
    assert "INCOMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("right", "valid", "by_run", "error"),
    [
        (("11", "10"), ("11", "11"), [1.0, 0.5], 0.25),  # sd .3536 / sqrt(2)
        (("100", "101"), ("110", "111"), [1.0, 0.0, 1.0], 1 / 3),  # the fault is in no run's mean; sd .5774 / sqrt(3)
        (("10", "10"), ("10", "10"), [1.0], None),  # a run of faults alone is none
        (("1", "0"), ("1", "1"), [0.5], None),
    ],
)
def test_pass_at_1_of_a_run_s_questions_has_the_error_over_runs_alone_as_a_suite_has(right, valid, by_run, error):
    groups = [
        [episode("red sea" if r == "1" else "x", v == "1") for r, v in zip(*pair, strict=True)]
        for pair in zip(right, valid, strict=True)
    ]
    queries = [Query(str(at), "?", ("red sea",)) for at in range(len(groups))]
    found = {"questions": 2, "samples": len(right[0]), **evaluate._scores(queries, groups)}
    found |= evaluate._behaviour(groups)
    of_samples = evaluate._scores(queries, groups) | evaluate._over_runs(queries, groups)
    found |= {f"pass_at_1_{name}": value for name, value in of_samples.items()}
    assert found["pass_at_1_exact_match_by_run"] == by_run
    assert found["pass_at_1_f1_run_error"] == (None if error is None else pytest.approx(error))
    shown = "" if error is None else f" +- {error:.4f} (one standard error, over runs alone)"
    assert f"(95 %, over questions and runs){shown}" in evaluate.one_line(found)
    table = evaluation_table.format_table(found)
    assert ("its standard error over runs alone: exact_match +- " in table) == bool(shown)


def test_an_interval_is_over_the_questions_that_count():
    queries = [Query(str(i), "?", ("red sea",)) for i in range(8)]
    found = evaluate._scores(queries, [[episode("red sea" if at else "x", at < 3)] for at in range(8)])
    figures = {"questions": 8, **found}
    assert (
        evaluate.questions_text(figures) == "3 of 8 questions"
        and evaluate.questions_text({"questions": 8}) == "8 questions"
    )
    assert evaluate.scored_questions(figures) == 3 and evaluate.scored_questions({"questions": 8}) == 8
    assert evaluate.interval(figures, "exact_match") == ".667 (.208 to .939)"  # Wilson's of 2 of 3


def test_an_incomplete_evaluation_after_training_is_made_again_by_the_same_command(run, tmp_path):
    folder, said = tmp_path / "run", []
    shutil.copytree(run, folder)
    summary = json.loads((folder / "summary.json").read_text())
    whole = summary["after"]["exact_match"]
    (folder / "summary.json").write_text(json.dumps(summary | {"after": {"exact_match": 1.0, "incomplete": True}}))
    assert "1.000 over None questions, after step 1, INCOMPLETE" in run_list.format_table([run_list.listed(folder)])
    train(config.load(folder / "config.json"), folder, say=said.append)
    assert any("was incomplete: it is made again" in line for line in said)
    again = json.loads((folder / "summary.json").read_text())["after"]
    assert (again["exact_match"], again["incomplete"]) == (whole, False)


def test_questions_that_the_model_cannot_read_are_not_scored(run, tmp_path, capsys):
    rows = tmp_path / "dev.jsonl"
    rows.write_text('{"id": "1", "question": "Who wrote Ulysses?", "answers": ["Joyce"]}')
    assert cli.main(["eval", str(run), f"data.eval={rows}"]) == 2
    assert "the model's vocabulary lacks 100% of the words of the questions" in capsys.readouterr().err


def test_eval_writes_a_manifest_and_other_facts_or_no_retriever_are_one_flag_each(run, capsys):
    assert cli.main(["eval", str(run), "--samples", "2", "--questions", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["questions"] == 4 and found["samples"] == 2 and len(found["pass_at_1_exact_match_by_run"]) == 2
    made = found["manifest"]
    assert (
        made["retriever"]["name"] == "bm25" and made["model"]["step"] == 1 and made["questions"]["eval"]["count"] == 4
    )
    blind = evaluate.evaluate(run, retriever="none", questions=4)
    assert blind["manifest"]["retriever"]["name"] == "none"
    other = evaluate.evaluate(run, world_seed=5, questions=4)
    names = [line.partition(":")[0] for line in differences(found["manifest"], other["manifest"])]
    sampled = [f"decoding.{name}" for name in ("temperature", "samples", "seed")]  # greedy answers depend on none
    assert names == ["questions.eval.sha256", "corpus_sha256.eval", *sampled]
    assert len(list((run / "eval").glob("*.json"))) == 3
    assert "exact_match" in evaluation_table.format_table(found)


def test_an_evaluation_decodes_by_settings_of_its_own_and_its_manifest_says_them(run):
    settings = config.load(run / "config.json")
    only = replace(settings, evaluation=replace(settings.evaluation, top_k=1))
    assert cli.main(["eval", str(run), "rollout.top_k=1"]) == 2
    found = evaluate.evaluate(run, only, samples=3, questions=8)
    for name in ("exact_match", "f1", "cover_match"):  # each sample is the greedy answer
        assert found[f"pass_at_1_{name}"] == found[name]
    usual = evaluate.evaluate(run, samples=3, questions=8)
    assert differences(found["manifest"], usual["manifest"]) == ["decoding.top_k: 1 in the first, 0 in the second"]
    greedy = [evaluate.evaluate(run, how, samples=0, questions=8)["manifest"] for how in (only, settings)]
    assert greedy[0] == greedy[1], "a greedy answer is the same under any top_k"


def test_ask_shows_searches_and_answer(run, capsys):
    assert cli.main(["ask", str(run), "who is the mayor of eskburg ?"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("question: who is the mayor of eskburg ?") and "answer:" in text
    assert cli.main(["ask", str(run), " "]) == 2
    assert "an argument is empty" in capsys.readouterr().err


def test_a_step_that_was_not_kept_is_refused_with_those_that_were(run, capsys):
    assert cli.main(["eval", str(run), "--step", "55"]) == 2
    assert "has no whole checkpoint of step 55; it has those of steps 0, 1" in capsys.readouterr().err


def test_chat_answers_each_line_of_a_pipe_and_says_which_words_it_cannot_read(run, monkeypatch, capsys):
    lines = "who is the mayor of eskburg ?\n\nwho is the king of Narnia?\nexit\nwho is left out ?\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert cli.main(["chat", str(run), "env.max_turns=1"]) == 0
    told = capsys.readouterr()
    assert told.out.count("question: ") == told.out.count("answer: ") == 2
    assert "vocabulary lacks 'king', 'Narnia?': it cannot tell such words apart" in told.err


def test_chat_says_that_it_is_loading_and_that_no_question_was_read(run, monkeypatch, capsys):
    begun = []
    monkeypatch.setattr(run_commands, "_opened", lambda _: begun.extend(terminal._STATE.phases))
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert cli.main(["chat", str(run)]) == 0
    assert [phase.what for phase in begun] == ["qr-jax chat"]
    assert capsys.readouterr().err == "no question was read\n"


def test_ask_and_eval_take_an_exported_folder_with_what_it_does_not_say(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = exporting.export(run, tmp_path / "exported", dtype="float32")
    question = "who is the mayor of eskburg ?"
    for words, missing in (
        (["ask", str(model), question], "give data.corpus=FILE (or retriever=NAME"),
        (["eval", str(model)], "give data.eval=FILE and data.corpus=FILE"),
        (["report", str(model)], "is a model's (Hugging Face), not a run's"),
        (["probe", str(model)], "is a model's (Hugging Face), not a run's"),
    ):
        assert cli.main(words) == 2
        assert missing in capsys.readouterr().err, words
    settings = config.load(run / "config.json")
    (tmp_path / "asked.py").write_text(
        f"from qr_jax.config import from_json\nconfig = from_json({config.to_json(settings)!r})\n"
    )
    assert cli.main(["ask", str(run), question]) == 0
    own = capsys.readouterr().out
    assert cli.main(["ask", str(model), question, "--config", "asked.py"]) == 0
    assert capsys.readouterr().out == own
    assert cli.main(["eval", str(model), "--config", "asked.py", "--questions", "99", "--json"]) == 0
    found = capsys.readouterr()
    made = json.loads(found.out)["manifest"]
    assert f"--questions 99: there are {made['questions']['eval']['count']}, and all were asked" in found.err
    assert made["model"]["step"] is None and len(list((tmp_path / "runs/eval/exported").glob("model_bm25_*.json"))) == 1
    row = {"id": "p", "title": "eskburg", "text": "ada is the mayor of eskburg"}
    (tmp_path / "corpus.jsonl").write_text(json.dumps(row) + "\n")
    for how in ([], ["--config", "asked.py", "data.train=not_here.jsonl"]):  # whose questions `ask` does not read
        assert cli.main(["ask", str(model), question, *how, "data.corpus=corpus.jsonl", "mesh.devices=1"]) == 0
        said = "asked with the usual settings (search_r1, env.max_turns=4 rollout.search_k=3): agent.json has those of"
        assert (said in capsys.readouterr().err) == (not how)
    told = json.loads((model / "agent.json").read_text())
    told["environment"]["name"] = "mine.env"
    (model / "agent.json").write_text(json.dumps(told))
    assert cli.main(["ask", str(model), question, "--config", "asked.py"]) == 0
    assert "agent.json says env=mine.env, and it is asked in env=search_r1: in another" in capsys.readouterr().err


def test_an_export_loads_with_the_same_logits_and_tokenizer(run, tmp_path):
    exporting.export(run, tmp_path / "hf", dtype="float32")
    cfg, params = hf.load(tmp_path / "hf")
    settings = config.load(run / "config.json")
    agent = assemble.agent(settings)
    own = subject.weights(run, agent, meshes.make_mesh(settings.mesh))
    assert agent.cfg == replace(cfg, context_tokens=agent.cfg.context_tokens)
    ids = np.arange(12)[None] % cfg.vocab
    ones = np.ones_like(ids)

    def logits(params):
        return np.asarray(decoder.logits(cfg, params, decoder.forward(cfg, params, ids, np.arange(12)[None], ones)))

    assert np.array_equal(logits(own), logits(jax.tree.map(np.asarray, params)))
    text = "who is the mayor of eskburg ?"
    assert load_tokenizer(tmp_path / "hf").encode(text) == agent.tokenizer.encode(text)


def test_an_export_says_how_its_episodes_are_played_and_what_it_was_trained_on(run, tmp_path, capsys):
    assert cli.main(["export", str(run), "--hf", str(tmp_path / "hf")]) == 0
    said = json.loads((tmp_path / "hf/agent.json").read_text())
    assert said["environment"]["name"] == "search_r1" and said["environment"]["settings"]["max_turns"] == 4
    assert said["environment"]["settings"]["last"].startswith("No searches are left.")  # a default, by its name there
    assert said["prompt"] == search_r1(Query("q", "{question}", ()), []).text
    assert said["stop"] == ["</search>", "</answer>", "<information>", "<tool_response>"]
    assert said["tools"] == [] and not said["chat"]["template"]
    limits = {"turn_tokens": 16, "context_tokens": 256, "observation_tokens": 64, "search_k": 3, "passage_chars": 20000}
    assert said["limits"] == limits
    assert said["sampling"]["training"] == {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    assert said["retriever"] == {
        "name": "bm25", "settings": {"method": "lucene", "k1": 1.5, "b": 0.75, "stopwords": "en"},
    }  # fmt: skip
    card = (tmp_path / "hf/README.md").read_text()
    after = json.loads((run / "summary.json").read_text())["greedy_after"]
    fingerprint = config.fingerprint(config.load(run / "config.json"))
    assert f"Exact match {after:.3f}, greedy, over 8 held-out questions, after step 1." in card
    for row in ("steps | 1", "rollouts | 16", "cold start | 2 steps", "rule | recycle", "seed | 0", "reward | f1"):
        assert f"| {row} |\n" in card
    assert f"| config's fingerprint | {fingerprint} |" in card and said["prompt"] in card
    assert "base_model" not in card and "license" not in card and "No licence is given here" in card
    for text in (card, json.dumps(said)):
        assert str(run.parent) not in text


def test_a_run_without_an_evaluation_has_a_card_that_says_so(run, tmp_path):
    folder = tmp_path / "killed"
    folder.mkdir()
    for name in ("config.json", "metrics.jsonl", "checkpoints"):
        (folder / name).symlink_to(run / name)
    card = (exporting.export(folder, tmp_path / "hf") / "README.md").read_text()
    assert "## Evaluation\n\nNone was made.\n" in card and "| rollouts | 16 |" in card and "Exact match" not in card


def test_an_evaluation_of_a_later_step_than_the_weights_is_not_theirs(run):
    assert model_card.trained(run, 1) == model_card.Trained(1, 16, 0.0, 8, 1)
    assert model_card.trained(run, 0) == model_card.Trained(0, None)


def test_a_suite_is_asked_of_a_run_and_its_export_has_the_same_weights(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("QR_JAX_DATA", str(small_data.write(tmp_path / "data", count=1)))
    words = ["eval", str(run), "--suite", "qa7", "--split", "all", "--retriever", "none", "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    made = found["manifest"]
    assert made["model"]["step"] == 1 and made["retriever"]["name"] == "none" and found["macro"]["sets"] == 7
    assert Path(found["folder"]).parent == run / "eval"
    exporting.export(run, tmp_path / "hf", dtype="float32")
    settings = config.load(run / "config.json")
    exported = replace(settings, model=replace(settings.model, name=str(tmp_path / "hf")))
    assert subject.open_model(exported, None)[2]["weights_sha256"] == made["model"]["weights_sha256"]
    lost = found | {"sets": {"nq": found["sets"]["nq"] | {"incomplete": True}}}
    monkeypatch.setattr(answering, "answer", lambda *_, **__: lost)
    assert cli.main(words) == 1


def test_a_demonstration_trains_the_experts_tokens_only_and_shows_what_bm25_returns(tmp_path):
    settings = tiny(tmp_path)
    agent = assemble.agent(settings)
    search = assemble.searcher(settings)
    trace, _ = assemble.traces(settings, search)[0]
    made = sft.play(trace, agent.engine, assemble.environment(settings), search)
    assert isinstance(made, Episode) and made.stop == "answered" and made.answer in trace.query.answers
    assert agent.tokenizer.decode(made.ids_L[made.mask_L].tolist()).split() == " ".join(trace.turns).split()
    assert made.turn_L.max() + 1 == len(trace.turns) and not made.mask_L[0]


def test_traces_of_other_worlds_come_with_their_own_passages(tmp_path):
    settings = tiny(tmp_path)
    settings = replace(settings, data=replace(settings.data, trace_worlds=2))
    pairs = assemble.traces(settings, assemble.searcher(settings))
    assert len(pairs) == 20 and len({id(search) for _, search in pairs}) == 2
    agent, env = assemble.agent(settings), assemble.environment(settings)
    made = [sft.play(trace, agent.engine, env, search) for trace, search in pairs]
    assert all(isinstance(one, Episode) and one.answer in one.query.answers for one in made)


@pytest.mark.parametrize(
    ("name", "rule"),
    [("quickstart.py", "foresee_learnable"), ("two_layer.py", "recycle"), ("paper/qwen3_1p7b.py", "recycle"),
     ("smollm2_multihop.py", "recycle"), ("smollm2_multihop.py:full", "recycle"), ("tool_call.py", "foresee"),
     ("smollm2_tool_call.py", "recycle"), ("smollm2_tool_call.py:full", "foresee"),
     ("smollm2_single_hop.py", "foresee"), ("tool_call.py:one_by_one", "foresee"),
     ("gemma3_1b.py", "retire"), ("gemma3_1b.py:small", "retire"),
     ("gemma3_1b.py:v5e_8", "retire"),
     *((f"study/settings.py:s{number}", "grpo") for number in range(1, 8))],
)  # fmt: skip
def test_every_config_resolves_without_touching_a_device(name, rule, capsys, real_data):
    assert cli.main(["train", str(ROOT / "configs" / name), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["pool"]["rule"]["name"] == rule


def test_search_r1_s_config_wants_its_files_and_no_passages(tmp_path, monkeypatch, capsys):
    """As `data get` leaves them, and as a pod's hosts have them from DATA: in {data}, wherever that is."""
    monkeypatch.setenv("QR_JAX_DATA", str(tmp_path))
    words = ["train", str(ROOT / "configs/search_r1.py"), "--dry-run"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.count(f"no file {tmp_path}/nq/") == 2 and "2 problems in this config" in said
    for name in ("nq", "hotpotqa"):
        (tmp_path / name).mkdir()
        for split in ("train", "dev"):
            row = {"id": f"{name}{split}", "question": "who?", "answers": ["x"]}
            (tmp_path / f"{name}/{split}.jsonl").write_text(json.dumps(row))
    assert cli.main(words) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["pool"]["queries"], made["pool"]["samples"], made["learner"]["kl_weight"]) == (512, 5, 0.001)
    pod = [f"{words[1]}:v5e_64", "retriever.url=http://10.0.0.2:8000/retrieve", "--dry-run"]
    assert cli.main(["train", *pod]) == 0 and json.loads(capsys.readouterr().out)["mesh"]["fsdp"] == 64


def papers_files(folder, queries, traces):
    """Write the two files of `served` into QR_JAX_DATA, as synthesis leaves them."""
    for part, name, rows in (
        ("pool", "questions", [formats.row_of(query, "jsonl", 0) for query in queries]),
        ("cold_start", "traces", [formats.row_of(one.query, "jsonl", 0) | {"turns": one.turns} for one in traces]),
    ):
        (folder / "clueweb22" / part).mkdir(parents=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "clueweb22" / part / f"{name}.jsonl").write_text(text)


def few_questions_and_a_trace():
    queries = [Query(f"q{at}", f"Who leads town {at}?", ("Ann",)) for at in range(20)]
    turns = ('<tool_call>{"name": "search", "arguments": {"queries": ["x"]}}</tool_call>', "<answer> Ann </answer>")
    return queries, [Trace(queries[0], turns)]


def test_a_dry_run_wants_the_key_of_a_server_that_needs_one(tmp_path, monkeypatch, capsys):
    words = ["train", str(ROOT / "configs/paper/qwen3_1p7b.py:served"), "--dry-run", "reward.url=http://127.0.0.1:9/v1"]
    monkeypatch.setenv("QR_JAX_DATA", str(tmp_path))
    papers_files(tmp_path, *few_questions_and_a_trace())
    monkeypatch.delenv("CLUEWEB_API_KEY", raising=False)
    assert cli.main(words) == 2 and "variable CLUEWEB_API_KEY is not set; wanted a secret" in capsys.readouterr().err
    monkeypatch.setenv("CLUEWEB_API_KEY", "0123456789")
    assert cli.main(words) == 0


@pytest.mark.parametrize("name", ["qwen3_1p7b.py:served", "qwen3_4b.py:served_grpo_k8_x1"])
def test_the_papers_served_config_wants_its_files_and_says_which_command_makes_them(
    tmp_path, monkeypatch, capsys, name
):
    """It had asked ClueWeb22 about the synthetic world, and nothing had said so."""
    monkeypatch.setenv("QR_JAX_DATA", str(tmp_path))
    monkeypatch.setenv("CLUEWEB_API_KEY", "0123456789")
    words = ["train", str(ROOT / "configs/paper" / name), "--dry-run"]
    assert cli.main(words) == 2
    said, place = capsys.readouterr().err, tmp_path / "clueweb22"
    assert said.count(f"no file {place}/pool/questions.jsonl") == 2 and "3 problems in this config" in said
    assert said.count(f"no file {place}/cold_start/traces.jsonl") == 1
    for part in ("pool", "cold_start"):
        made = f"`qr-jax synth CORPUS {place}/{part} --teacher URL --model NAME` makes it of passages"
        assert f"{made} (--mix paper --documents paper:" in said
    papers_files(tmp_path, *few_questions_and_a_trace())
    assert cli.main(words) == 0
    made, told = capsys.readouterr()
    data = json.loads(made)["data"]
    assert not [field for field in ("train", "eval", "traces") if data[field] == "world"]
    held_out = len(readers.split(few_questions_and_a_trace()[0], 0.88, "eval"))
    assert 0 < held_out < 20 and f"{20 - held_out} to train on, {held_out} held out" in told
    most = 2 * 84_480 * (2 if "k8" in name else 1)
    assert f"needs at most {most:,} verdicts in this run, and reward.budget is 337,920; verdicts of other runs" in told
    assert "reward.budget=" not in told
    assert cli.main([*words, "reward.budget=100000"]) == 0 and f"set reward.budget={most}" in capsys.readouterr().err
    assert cli.main([*words, "train.max_rollouts=1000", "pool.samples=4", "pool.oversample=1"]) == 0
    assert "at most 2,048 verdicts" in capsys.readouterr().err  # 8 steps of 128 rollouts
    assert cli.main([*words, "pool.rounds=refill"]) == 0 and "verdicts" not in capsys.readouterr().err


# Every setting that the table of docs/paper.md names: the paper's (arXiv:2606.10709), AReaL's or ours.
PAPERS_VALUES = {
    "model.name": "Qwen/Qwen3-1.7B",
    "data.world": {"documents": 20_000, "train": 10_000, "dev": 1000, "traces": 6300},
    "env.name": "tool_call", "env.settings": {"max_turns": 6, "max_queries": 3},  # 7 turns with the answer's
    "retriever.name": "bm25", "retriever.settings": {},
    "reward.name": "exact_match", "reward.settings": {},
    "pool.queries": 32, "pool.samples": 4, "pool.oversample": 2, "pool.rule.name": "recycle", "pool.rule.settings": {},
    "pool.reset_below": 0.0, "pool.on_exhausted": "reset", "pool.min_signal": 1,
    "rollout.temperature": 1.0, "rollout.top_p": 1.0, "rollout.top_k": 0, "rollout.search_k": 3,
    "rollout.context_tokens": 4096, "rollout.turn_tokens": 512, "rollout.observation_tokens": 512,
    "learner.advantage.name": "grpo", "learner.advantage.settings": {"std": "sample", "eps": 1e-5},
    "learner.loss.name": "clip", "learner.loss.settings": {"low": 0.4, "high": 0.4, "dual": None},
    "learner.reduce": "group_mean", "learner.over": "accepted", "learner.full_groups": 0, "learner.kl_weight": 0.0,
    "learner.importance": "icepop", "learner.importance_low": 0.0, "learner.importance_high": 5.0,
    "learner.lr": 3e-6, "learner.schedule": "constant", "learner.warmup_updates": 0, "learner.betas": (0.9, 0.999),
    "learner.weight_decay": 0.003, "learner.clip_norm": 1.0, "learner.row_tokens": 4096, "learner.updates": 1,
    "sft.steps": -(-6300 // 32), "sft.traces": 32,  # each trace once
    "evaluation.questions": 1000, "evaluation.samples": 8, "evaluation.temperature": 0.6, "evaluation.top_p": 0.95,
    "evaluation.top_k": 20,
    "train.steps": 330,
}  # fmt: skip
SERVED_VALUES = PAPERS_VALUES | {
    "env.settings": {"max_turns": 6, "max_queries": 3, "passage": "Doc {i}: {text}\n"},
    "retriever.name": "http", "retriever.settings": {"url": "https://clueweb22.us", "protocol": "deepresearchgym"},
    "reward.name": "judge",
    "reward.settings": {"url": "http://127.0.0.1:8001/v1", "model": "Qwen/Qwen2.5-72B-Instruct", "budget": 337_920},
    "data.world": {}, "data.split": "sha256", "data.train_share": 0.88, "data.train_limit": 10_000,
    "data.eval_limit": 1000, "data.corpus": "world", "data.train": "{data}/clueweb22/pool/questions.jsonl",
    "data.eval": "{data}/clueweb22/pool/questions.jsonl", "data.traces": "{data}/clueweb22/cold_start/traces.jsonl",
}  # fmt: skip


@pytest.mark.parametrize("model", ["1p7b", "4b"])
@pytest.mark.parametrize(("config_of", "values"), [("", PAPERS_VALUES), (":served", SERVED_VALUES)])
def test_the_papers_config_has_the_papers_values(model, config_of, values):
    settings = config.load(f"{ROOT / 'configs' / 'paper' / f'qwen3_{model}.py'}{config_of}")
    found = {path: functools.reduce(getattr, path.split("."), settings) for path in values}
    assert found == values | ({"model.name": "Qwen/Qwen3-4B"} if model == "4b" else {})


SMALL_WORLD = [f"data.world.{size}" for size in ("documents=200", "train=60", "dev=8", "traces=20")]


def papers_small_run(tmp_path, name, *more):
    """Two steps of a config of the paper's file, its sizes cut: the rows of metrics.jsonl, and summary.json."""
    small = [
        "model=two_layer", "train.steps=2", "sft.steps=2", "sft.traces=4", "sft.max_tokens=512",
        *SMALL_WORLD, f"data.world_path={tmp_path / 'worlds'}",
        "pool.queries=2", "rollout.slots=8", "rollout.context_tokens=512", "rollout.turn_tokens=32",
        "rollout.observation_tokens=64", "learner.row_tokens=512", "learner.rows=2", "evaluation.questions=4",
        "rollout.buckets=64,256", "mesh.devices=1",
    ]  # fmt: skip
    command = [sys.executable, "-m", "qr_jax", "train", f"{ROOT / 'configs' / 'paper' / name}", *small, *more]
    command += ["--run", str(tmp_path / "run"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["pool/drawn"] for row in rows] == [4, 4] and rows[-1]["budget/rollouts"] == 2 * 4 * 4
    return rows, json.loads((tmp_path / "run" / "summary.json").read_text())


@pytest.mark.thorough
def test_the_papers_recipe_runs_for_two_steps_with_two_layers(tmp_path):
    """Traces, cold start, two steps of the pool at oversample 2, evaluation."""
    _, summary = papers_small_run(tmp_path, "qwen3_1p7b.py")
    assert summary["questions"] == 4 and summary["after"]["samples"] == 8


@pytest.mark.thorough
def test_the_papers_recipe_runs_with_stubs_of_deepresearchgym_and_of_a_judge(tmp_path, monkeypatch):
    """Cold start and two steps of the paper's own agent: passages come as cleaned text by GET with a key, the learner
    trains on verdicts, right and wrong.

    The small model knows the words of the synthetic world: the files' questions and traces, and the pages, are in them.
    """
    injected = {question for question, _, _ in INJECTED}
    own = [f"data.world_path={tmp_path / 'worlds'}", "model=two_layer"]
    world = config.load(str(ROOT / "configs/paper/qwen3_1p7b.py"), [*SMALL_WORLD, *own])
    traces = [trace for trace, _ in assemble.traces(world, assemble.searcher(world))][:8]
    papers_files(tmp_path / "data", assemble.questions(world, "train"), traces)
    monkeypatch.setenv("QR_JAX_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GYM_KEY", "k3y-of-the-gym")

    def pages(head, body):
        text = "the founder of amtech is alvek ."
        document = {"URL": "https://e.org/1", "URL-hash": "AB", "ClueWeb22-ID": "id1", "Clean-Text": text}
        return loopback.raw({"results": [base64.b64encode(json.dumps(document).encode()).decode()] * 3})

    def verdict(data, count):
        right = data["question"] not in injected and zlib.crc32(data["answer_to_grade"].encode()) % 2
        return judge_server.completion(json.dumps({"correct": bool(right)}))

    with loopback.server(pages) as (retriever, searched), judge_server.serving(verdict) as (url, seen):
        rows, _ = papers_small_run(
            tmp_path, "qwen3_1p7b.py:served", f"retriever.url={retriever}", "retriever.token_env=GYM_KEY",
            f"reward.url={url}", "reward.model=grader", "sft.steps=80", "sft.traces=8", "sft.lr=1e-2",
            "sft.warmup_steps=0", "evaluation.samples=1",
        )  # fmt: skip
    assert all(head.startswith("GET /search?query=") and "&k=3 HTTP" in head for head, _ in searched)
    assert all("X-API-Key: k3y-of-the-gym" in head for head, _ in searched)
    assert len(searched) > len(traces) and {one["model"] for one in seen} == {"grader"}
    asked = {json.loads(one["messages"][1]["content"])["question"] for one in seen} - injected
    assert asked <= {query.question for query in assemble.questions(world, "train")} and asked
    assert 0 < sum(row["reward/mean"] for row in rows) < 2 and all(row["rollout/searches"] > 0 for row in rows)
    assert sum(row["pool/accepted"] for row in rows) and rows[-1]["learner/updates"]
    folder = tmp_path / "run" / "episodes"
    episodes = [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    shown = [turn["text"] for one in episodes for turn in one["turns"] if turn["author"] == "env"]
    assert any(text.startswith("Found for") and "Doc 1: the founder of amtech is alvek ." in text for text in shown)
    assert not any("e.org" in text for text in shown)


def test_an_interval_of_which_all_are_wrong_is_not_of_width_0():
    """40 questions, none right: Wilson's upper end is 1.96^2 / (40 + 1.96^2) = .0876."""
    figures = {"exact_match": 0.0, "exact_match_se": 0.0, "questions": 40}
    assert evaluate.interval(figures, "exact_match") == ".000 (.000 to .088)"
    assert evaluate.interval({**figures, "exact_match": 0.5, "exact_match_se": 0.1}, "exact_match") == ".500 +- .196"
    assert evaluate.interval({"exact_match": None}, "exact_match") == "-"


def test_an_interval_never_leaves_0_to_1():
    """19 of 20 right: +- .096 would reach 1.046; Wilson's ends are .764 and .991. Brown, Cai and DasGupta (2001)."""
    figures = {"exact_match": 0.95, "exact_match_se": 0.05, "questions": 20}
    assert evaluate.interval(figures, "exact_match") == ".950 (.764 to .991)"
    assert evaluate.interval(figures | {"exact_match": 0.9}, "exact_match") == ".900 +- .098"
    assert (
        evaluate.interval(figures | {"exact_match": 1.0, "exact_match_se": 0.0}, "exact_match") == "1.00 (.839 to 1.00)"
    )
