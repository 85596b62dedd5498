"""`qr-jax runs`: which runs there are, how far each is, and how good it was when it was last asked."""

import json
import os
import shutil
import subprocess
import tracemalloc

import pytest

from qr_jax.cli import cli
from qr_jax.lab.report import run_list
from qr_jax.run import run_files
from qr_jax.run.run_lock import RunLock


def a_run(folder, *, metrics=(), summary=None, before=None, steps=4):
    folder.mkdir(parents=True)
    config = {"train": {"steps": steps}, "sft": {"steps": 9}}
    (folder / "config.json").write_text(json.dumps(config))
    if metrics:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
    if before:
        (folder / "before.json").write_text(json.dumps(before))
    return folder


BEFORE = {"exact_match": 0.25, "questions": 1000}
STEPS = [{"step": 1}, {"step": 2, "eval/exact_match": 0.5, "eval/questions": 200}, {"step": 3}]


def test_a_run_that_was_made_longer_is_listed_with_its_last_score(tmp_path):
    rows = [*STEPS, {"step": 4, "eval/exact_match": 0.6, "eval/questions": 200}]
    done = {"steps": 3, "after": {"exact_match": 0.4, "questions": 1000}}
    found = run_list.listed(a_run(tmp_path / "longer", metrics=rows, summary=done, before=BEFORE, steps=8))
    assert (found.accuracy, found.questions, found.after) == (0.6, 200, 4)
    found = run_list.listed(a_run(tmp_path / "ended", metrics=STEPS, summary=done, before=BEFORE, steps=3))
    assert (found.accuracy, found.questions, found.after) == (0.4, 1000, 3)


def test_each_state_by_its_files(tmp_path):
    a_run(tmp_path / "a_new")
    (tmp_path / "a_model").mkdir()
    (tmp_path / "a_model" / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    a_run(tmp_path / "b_begun", before=BEFORE)
    a_run(tmp_path / "c_killed", metrics=STEPS, before=BEFORE)
    done = {"steps": 3, "after": {"exact_match": 0.75, "questions": 1000}}
    a_run(tmp_path / "study" / "d_done", metrics=STEPS, before=BEFORE, summary=done, steps=3)
    limits = {"limits": {"steps": 3, "max_rollouts": None}}
    a_run(tmp_path / "study" / "d_longer", metrics=STEPS, before=BEFORE, summary=done | limits, steps=9)
    for at, limits_of_another in enumerate((3, [{}], {"steps": "3"})):
        strange = a_run(tmp_path / f"z{at}", metrics=STEPS, summary=done | {"limits": limits_of_another}, steps=3)
        assert run_list.listed(strange).step == 3
        shutil.rmtree(strange)
    a_run(tmp_path / "study" / "d_shorter", metrics=STEPS, before=BEFORE, summary=done | limits, steps=2)
    longer = a_run(tmp_path / "e_longer", metrics=[*STEPS, {"step": 4}], summary=done, before=BEFORE, steps=8)
    lock = RunLock(longer)  # it was finished, and goes on now
    told = [(run.folder.name, run.state, run.step, run.accuracy, run.questions) for run in run_list.runs_in(tmp_path)]
    lock.release()
    assert told == [
        ("a_new", "not begun", 0, None, None),
        ("b_begun", "stopped", 0, 0.25, 1000),
        ("c_killed", "stopped", 3, 0.5, 200),
        ("e_longer", "training", 4, 0.75, 1000),
        ("d_done", "finished", 3, 0.75, 1000),
        ("d_longer", "stopped", 3, 0.75, 1000),
        ("d_shorter", "finished", 3, 0.75, 1000),
    ]
    assert not run_list.is_held(longer)


def test_a_budget_set_after_the_end_makes_a_run_unfinished_only_where_it_is_not_spent(tmp_path):
    done = {"steps": 3, "rollouts": 60, "limits": {"steps": 3, "max_rollouts": None}}
    run = a_run(tmp_path / "run", metrics=STEPS, summary=done)
    for steps, budget, state in ((9, 100, "stopped"), (9, 60, "finished"), (3, 100, "finished")):
        (run / "config.json").write_text(json.dumps({"train": {"steps": steps, "max_rollouts": budget}}))
        assert run_list.listed(run).state == state, (steps, budget)


def test_a_lock_that_a_killed_process_left_is_not_training(tmp_path):
    run = a_run(tmp_path / "run", metrics=STEPS)
    (run / "run.lock").write_text('{"pid": 1}')
    assert run_list.listed(run).state == "stopped"


def test_a_run_in_its_cold_start_says_so_and_its_folder_is_no_second_run(tmp_path, capsys):
    a_run(tmp_path / "run")
    a_run(tmp_path / "run" / "sft", metrics=[{"step": 5}])
    assert cli.main(["runs", str(tmp_path)]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "state", "step", "exact", "match"]
    assert line.split()[1:] == ["stopped", "cold", "start", "5/9", "-"]


def test_the_command_prints_a_line_a_run_and_json(tmp_path, capsys):
    a_run(tmp_path / "run", metrics=STEPS, before=BEFORE)
    assert cli.main(["runs", str(tmp_path)]) == 0
    assert "3/4   0.500 over 200 questions, after step 2" in capsys.readouterr().out
    assert cli.main(["runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "stopped"


def test_a_run_that_a_budget_ends_shows_what_is_spent_of_it(tmp_path):
    run = a_run(tmp_path / "run", metrics=[{"step": 40, "budget/rollouts": 2560}])
    config = {"train": {"steps": 100_000, "max_rollouts": 30_000, "max_tokens": None}}
    (run / "config.json").write_text(json.dumps(config))
    assert run_list.listed(run).budget == "2,560/30,000 rollouts"
    assert "40, 2,560/30,000 rollouts" in run_list.format_table([run_list.listed(run)])


def test_damaged_files_hide_no_run(tmp_path):
    run = a_run(tmp_path / "run", metrics=STEPS)
    (run / "config.json").write_bytes(b"\xff")
    (run / "before.json").write_text("[")
    assert run_list.runs_in(tmp_path)[0].step == 3


@pytest.mark.parametrize("name", ["summary.json", "before.json", "config.json", "metrics.jsonl", "run.lock"])
def test_a_run_with_a_pipe_is_a_line_that_says_so_and_the_others_are_listed(tmp_path, capsys, name):
    a_run(tmp_path / "fine", metrics=STEPS)
    run = a_run(tmp_path / "piped")
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    assert cli.main(["runs", str(tmp_path)]) == 0
    _, fine, piped = capsys.readouterr().out.splitlines()
    assert fine.split()[1:3] == ["stopped", "3/4"]
    assert piped.split(maxsplit=1)[1] == f"unreadable  -     {name}: neither a file nor a folder"


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "sft/metrics.jsonl"])
def test_a_file_of_20_gb_is_not_read(tmp_path, name):
    run = a_run(tmp_path / "run", metrics=STEPS)
    (run / "sft").mkdir()
    (run / name).touch()
    os.truncate(run / name, 20 * 10**9)
    (listed,) = run_list.runs_in(tmp_path)
    most = run_files.MOST[name.removeprefix("sft/")].bytes
    assert listed.state == "unreadable"
    assert listed.reason == f"{name}: 20,000,000,000 bytes, wanted at most {most:,}"


def test_metrics_are_read_line_by_line_in_little_memory(tmp_path):
    run = a_run(tmp_path / "run", metrics=STEPS)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b"x" * 40_000_000 + b"\n" + b'{"step": 4}\n')
    os.truncate(run / "metrics.jsonl", 120_000_000)  # a last line without its end
    tracemalloc.start()
    (listed,) = run_list.runs_in(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (listed.step, listed.accuracy, listed.after) == (4, 0.5, 2)
    assert peak < 2_000_000


def test_more_lines_than_a_run_writes_are_not_read_to_the_end(tmp_path):
    run = a_run(tmp_path / "run")
    (run / "metrics.jsonl").write_bytes(b"\n" * (run_files.MOST["metrics.jsonl"].lines + 1))
    (listed,) = run_list.runs_in(tmp_path)
    assert listed.state == "unreadable" and "more than 1,048,576 lines" in listed.reason


STRANGE = [
    ({"config.json": {"train": {"steps": 5}, "evaluation": "x"}, "before.json": BEFORE}, (5, 0.25)),
    ({"config.json": {"train": []}, "before.json": BEFORE}, (0, 0.25)),
    ({"before.json": {"exact_match": "x", "questions": "y"}}, (4, None)),
    ({"before.json": {"exact_match": 1e999, "questions": 7}}, (4, None)),
    ({"summary.json": {"steps": "x", "after": {"exact_match": [], "questions": {}}}, "before.json": BEFORE}, (4, 0.25)),
    ({"config.json": {"train": {"steps": 10**4000, "max_rollouts": 10**4000}}, "before.json": BEFORE}, (0, 0.25)),
]


@pytest.mark.parametrize(("files", "wanted"), STRANGE)
def test_values_of_another_kind_break_nothing(tmp_path, files, wanted):
    run = a_run(tmp_path / "run")
    for name, value in files.items():
        (run / name).write_text(json.dumps(value))
    (listed,) = run_list.runs_in(tmp_path)
    assert (listed.steps, listed.accuracy) == wanted
    run_list.format_table([listed])


def test_1500_folders_in_one_another_stop_no_command(tmp_path, monkeypatch, capsys):
    a_run(tmp_path / "fine", metrics=STEPS)
    run = a_run(tmp_path / "deep")
    outside = tmp_path / "outside"
    outside.mkdir()
    try:
        for top in (run, outside):
            monkeypatch.chdir(top)
            for _ in range(1500):
                os.mkdir("d")
                os.chdir("d")
        monkeypatch.chdir(tmp_path)
        assert cli.main(["runs", str(tmp_path)]) == 0
        assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == ["not", "stopped"]
        for command in ("report", "bug-report"):
            assert cli.main([command, str(run)]) == 2
            assert "folders more than 32 deep" in capsys.readouterr().err
    finally:
        subprocess.run(["rm", "-rf", run, outside], check=True)  # pytest's own cleaning calls itself for each folder


def test_no_folder_and_no_runs_are_said(tmp_path, capsys):
    assert cli.main(["runs", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert cli.main(["runs", str(tmp_path)]) == 0
    assert "has no runs" in capsys.readouterr().out
