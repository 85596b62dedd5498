"""The file that goes with a bug report: what is in it, and what is not."""

import json
import os
import subprocess
import sys
import time
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from qr_jax import config
from qr_jax.cli import cli
from qr_jax.cli.commands import doctor
from qr_jax.lab import bug_report
from qr_jax.run import run_files

ROOT = str(Path(__file__).parents[2])


def test_the_file_has_config_numbers_and_machine_and_no_secret_question_or_answer(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: {"home": str(Path.home())})
    monkeypatch.setenv("HF_TOKEN", "a-secret-token")
    run = tmp_path / "run"
    (run / "episodes").mkdir(parents=True)
    settings = config.to_json(config.load("configs/two_layer.py")) | {"note": "a-secret-token of me@example.org"}
    (run / "config.json").write_text(json.dumps(settings))
    (run / "metrics.jsonl").write_bytes(b'{"step": 1}\n' * 600)
    (run / "episodes/step_000001.jsonl").write_text("who founded eskburg ? kadra")
    (run / "compare.log").write_text("who founded eskburg ? kadra")
    assert cli.main(["bug-report", str(run)]) == 0
    path = tmp_path / "run.bug_report.zip"
    assert f"{path} holds doctor.json, config.json, files.txt, metrics.jsonl" in capsys.readouterr().out
    with zipfile.ZipFile(path) as packed:
        files = {name: packed.read(name).decode() for name in packed.namelist()}
    whole = "".join(files.values())
    for private in ("a-secret-token", "me@example.org", "eskburg", "kadra", str(Path.home())):
        assert private not in whole
    assert json.loads(files["config.json"])["note"] == "[a text of 32 characters]"
    assert files["metrics.jsonl"].count("\n") == bug_report.LAST_LINES - 1
    assert "27 episodes/step_000001.jsonl" in files["files.txt"]


def test_places_addresses_and_prompts_are_not_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(
        doctor,
        "examine",
        lambda: {"cache": "/srv/acme/cache/programs", "python": "3.11", "by": "me@acme.example, gs://acme/x"},
    )
    run, prompt = tmp_path / "run", "You are the helpdesk of Acme. {question} " * 3
    run.mkdir()
    settings = config.to_json(config.load("configs/two_layer.py"))
    settings["env"] = {"name": "search_r1", "prompt": prompt, "last": "So:\nAcme {question}", "max_turns": 3}
    settings["retriever"] = {"name": "http", "url": "https://search.acme.example:8443/v1/retrieve", "k": "top"}
    settings["data"] |= {"files": ["/srv/acme/qa/train.jsonl"], "bucket": "gs://acme-runs/x"}
    settings["more"] = [
        "/srv/Acme Corp/q.jsonl",
        "acme/eval.jsonl",
        "\\\\acme\\x",
        "Acme, be brief.",
        "https://a is acme",
    ]
    settings["hosts"] = {"search.acme.internal:8080": "10.1.2.3"}
    settings["data"]["train"] = "patients_of_acme"
    settings["env"]["token_env"] = "hf_acme"
    settings["windows"] = "C:\\Users\\acme\\q.jsonl"
    (run / "config.json").write_text(json.dumps(settings))
    rows = [{"loss": 0.5, "a/b": 1, "note": "me@acme.example saw https://acme.example/x", "acme corp": 1}, ["acme"]]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\xff acme\n")
    with zipfile.ZipFile(bug_report.write(run)[0]) as packed:
        files = {name: packed.read(name).decode() for name in packed.namelist()}
    assert not [word for word in ("acme", "10.1.2.3", "internal") if word in "".join(files.values()).lower()]
    kept = json.loads(files["config.json"])
    assert kept["env"] == {
        "name": "search_r1", "prompt": f"[a text of {len(prompt)} characters]",
        "last": "[a text of 19 characters]", "max_turns": 3, "token_env": "[a text of 7 characters]",
    }  # fmt: skip
    assert kept["retriever"]["name"] == "http" and kept["retriever"]["k"] == "[a text of 3 characters]"
    assert kept["data"]["files"] == ["[a text of 24 characters, .jsonl]"]
    assert kept["learner"] == settings["learner"]
    numbers, *none = files["metrics.jsonl"].splitlines()
    assert json.loads(numbers) == {"loss": 0.5, "a/b": 1} and all(one.startswith("no row of metrics") for one in none)
    assert json.loads(files["doctor.json"]) == {
        "cache": "[folder]/programs", "python": "3.11", "by": "[address], gs://[address]",
    }  # fmt: skip


def test_a_line_of_megabytes_takes_no_longer_than_reading_it(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "examine", dict)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"a." * 2_000_000: "a." * 2_000_000}) + "\n" + "a." * 2_000_000)
    start = time.monotonic()
    bug_report.write(tmp_path)
    assert time.monotonic() - start < 3


def contents(path):
    with zipfile.ZipFile(path) as packed:
        return {name: packed.read(name).decode() for name in packed.namelist()}


def test_the_run_may_be_the_folder_that_one_is_in(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "examine", dict)
    (tmp_path / "run" / "sft").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "run")
    assert cli.main(["bug-report", "."]) == 0
    assert "config.json" in contents(tmp_path / "run.bug_report.zip")
    (tmp_path / "run.bug_report.zip").unlink()
    monkeypatch.chdir("sft")
    assert cli.main(["bug-report", ".."]) == 0
    assert (tmp_path / "run.bug_report.zip").is_file()


def test_a_link_in_the_file_s_place_is_not_written_through(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", dict)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    mine = tmp_path / "mine.zip"
    mine.write_bytes(b"PK mine")
    (tmp_path / "run.bug_report.zip").symlink_to(mine)
    for words in ([], ["--out", str(tmp_path / "run.bug_report.zip")]):
        assert cli.main(["bug-report", str(tmp_path / "run"), *words]) == 2
        assert "run.bug_report.zip is there and is no earlier file of this command's" in capsys.readouterr().err
    assert mine.read_bytes() == b"PK mine"


@pytest.mark.parametrize("command", [["bug-report", "."], ["doctor"]])
def test_modules_in_the_folder_that_one_is_in_are_not_imported(tmp_path, command):
    (tmp_path / "config.json").write_text("{}")
    for name in ("jax", "json"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'w')")
    start = [sys.executable, "-P", "-m", "qr_jax", *command]
    subprocess.run(start, cwd=tmp_path, check=True, env=os.environ | {"PYTHONPATH": ROOT})
    assert not (tmp_path / "imported").exists()


def test_of_files_that_are_not_ours_only_the_sizes_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "examine", dict)
    run = tmp_path / "run"
    ours = ["config.json", "sft/metrics.jsonl", "episodes/step_000012.jsonl", "logs/attempt_2/started"]
    ours += ["checkpoints/step_00000010/host.npz", "logs/attempt_1/discarded/episodes/step_000003.jsonl"]
    others = ["alice smith diagnosis HIV.txt", "hf_aSecretToken.json", "episodes/alice.jsonl", "eval/alice/score.json"]
    others += ["tensorboard/events.out.tfevents.1.alice", "notes/config.json"]
    arrays = ["checkpoints/step_00000010/state/d/alice", "checkpoints/step_00000010/state/manifest.ocdbt"]
    for name in (*ours, *others, *arrays, b"note_\xff.txt".decode(errors="surrogateescape")):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    files = contents(bug_report.write(run)[0])
    told = [line.split(maxsplit=1) for line in files["files.txt"].splitlines()]
    assert {size for size, _ in told} == {"2"}
    assert sorted(name for _, name in told) == sorted(
        [*ours, *["checkpoints/step_00000010/state/..."] * 2, *["another file"] * 7]
    )
    assert not [word for word in ("alice", "Secret", "note") if word in "".join(files.values())]


def test_metrics_of_any_length_are_read_from_their_end(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "examine", dict)
    most = replace(run_files.MOST["metrics.jsonl"], lines=550)  # of which more are an error where all are read
    monkeypatch.setitem(run_files.MOST, "metrics.jsonl", most)
    (tmp_path / "config.json").write_text("{}")
    with (tmp_path / "metrics.jsonl").open("wb") as file:
        file.truncate(400_000_000)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + b"".join(b'{"step": %d}\n' % step for step in range(600)) + b'{"st')
    tracemalloc.start()
    lines = contents(bug_report.write(tmp_path)[0])["metrics.jsonl"].splitlines()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [json.loads(line)["step"] for line in lines] == list(range(100, 600))
    assert peak < 10_000_000


@pytest.mark.parametrize("command", ["report", "bug-report"])
@pytest.mark.parametrize(("name", "size"), [("config.json", 90_000_000), ("metrics.jsonl", 2_500_000_000)])
def test_a_file_larger_than_any_run_s_is_refused(tmp_path, capsys, command, name, size):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, size)
    assert cli.main([command, str(tmp_path)]) == 2
    assert f"{name}: {size:,} bytes, wanted at most" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no run"):
        bug_report.write(tmp_path)
