"""The command line: what is read, what is refused before a device is touched, and how errors look."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qr_jax import cli, doctor
from qr_jax.config import Config, to_json

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TINY = str(CONFIGS / "two_layer.py")


def test_help_is_instant_and_imports_nothing_heavy():
    code = (
        "import sys; from qr_jax.cli import make_parser; text = make_parser().format_help(); "
        "print(text); sys.exit([name for name in ('jax', 'numpy', 'qr_jax.config') if name in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("doctor", "train", "sft", "eval", "ask", "export", "world"):
        assert command in done.stdout


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_config_resolves(path, capsys):
    from qr_jax.config import load

    assert to_json(load(path))  # its files may be absent here, so it is not checked


def test_a_dry_run_prints_the_resolved_config_and_touches_no_device():
    code = (
        "import sys; from qr_jax.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or ('jax' in sys.modules and 'jax was imported') or 0)"
    )
    words = [sys.executable, "-c", code, "train", TINY, "--dry-run", "loss.high=0.3", "--train.steps", "5"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["learner"]["loss"] == {"name": "clip", "settings": {"high": 0.3}}
    assert found["train"]["steps"] == 5


def test_overrides_stand_anywhere_and_values_of_options_are_no_overrides():
    words = ["train", "a=1", "c.py", "--run", "runs/x=1", "--learner.lr", "-1", "b=2", "--dry-run", "--log.wandb"]
    own, overrides = cli.take_overrides(words)
    assert own == ["train", "c.py", "--run", "runs/x=1", "--dry-run"]
    assert overrides == ["a=1", "--learner.lr=-1", "b=2", "--log.wandb"]


def test_a_user_s_mistake_is_one_line_and_exit_2(capsys):
    assert cli.main(["train", TINY, "--dry-run", "learner.lrr=1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown setting learner.lrr; did you mean learner.lr?")
    assert len(error.splitlines()) == 1


def test_problems_of_a_config_are_listed_before_a_device_is_touched(capsys):
    assert cli.main(["train", TINY, "pool.samples=1", "learner.rows=3", "mesh.data=2", "--dry-run"]) == 2
    out = capsys.readouterr()
    assert json.loads(out.out)["pool"]["samples"] == 1  # the resolved config is what one wants to see then
    assert "pool.samples is 1" in out.err
    assert "learner.rows=3 does not divide" in out.err


def test_errors_are_redacted(capsys, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "hunter2secret")
    assert cli.main(["train", TINY, "--dry-run", "model.compute=hunter2secret"]) == 2
    error = capsys.readouterr().err
    assert "[redacted]" in error
    assert "hunter2secret" not in error


def test_a_library_s_value_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        cli.main(["doctor"])


def test_a_run_s_config_may_not_name_foreign_code_unless_allowed(tmp_path, capsys):
    made = to_json(Config())
    made["reward"] = {"name": "os.system", "settings": {}}
    (tmp_path / "config.json").write_text(json.dumps(made))
    for words in (["train", str(tmp_path / "config.json"), "--dry-run"], ["eval", str(tmp_path)]):
        assert cli.main(words) == 2
        assert "--allow-plugins os" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_said_to_be_none(tmp_path, capsys):
    for words in (["ask", str(tmp_path), "who?"], ["export", str(tmp_path), "--hf", str(tmp_path / "hf")]):
        assert cli.main(words) == 2
        assert "is no run" in capsys.readouterr().err


def test_a_world_is_written_as_files(tmp_path, capsys):
    words = ["world", str(tmp_path), "seed=1", "documents=200", "train=20", "dev=5", "test=5", "traces=5", "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["train"] == 20
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 20
    assert cli.main(["world", str(tmp_path), "sed=1"]) == 2
    assert "did you mean seed" in capsys.readouterr().err


def test_the_doctor_says_what_is_there_and_how_to_get_what_is_missing():
    found = doctor.examine()
    text = doctor.format_report(json.loads(json.dumps(found)))
    assert found["versions"]["jax"]
    assert found["devices"]["found"][0]["platform"] == "cpu"
    assert found["memory_bytes"] > 0
    for name, extra in found["extras"].items():
        assert extra["present"] or extra["install"] in text, name
