"""The file that goes with a bug report: what is in it, and what is not."""

import json
import zipfile
from pathlib import Path

import pytest

from qr_jax import bug_report, cli, config
from qr_jax.commands import doctor


def test_the_file_has_config_numbers_and_machine_and_no_secret_question_or_answer(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: {"home": str(Path.home())})
    monkeypatch.setenv("HF_TOKEN", "a-secret-token")
    run = tmp_path / "run"
    (run / "episodes").mkdir(parents=True)
    settings = config.to_json(config.load("configs/two_layer.py")) | {"note": "a-secret-token of me@example.org"}
    (run / "config.json").write_text(json.dumps(settings))
    (run / "metrics.jsonl").write_bytes(b"\xff\n" + b'{"step": 1}\n' * 600)
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
    assert json.loads(files["config.json"])["note"] == "[redacted] of [address]"
    assert files["metrics.jsonl"].count("\n") == bug_report.LAST_LINES - 1
    assert "27 episodes/step_000001.jsonl" in files["files.txt"]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no run"):
        bug_report.write(tmp_path)
