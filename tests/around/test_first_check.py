"""tpu_scripts/check.sh on a CPU: what its JSON holds, and that a wrong kept value or a raising check makes it fail."""

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from qr_jax import config
from qr_jax.lab.planning import ahead, estimate
from qr_jax.parallel import peaks
from tpu_scripts import first_check

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tpu_scripts/check.sh"
KEPT = json.loads(first_check.KEPT.read_text())
EIGHT = config.Mesh(fsdp=8)


@pytest.fixture
def full_products():
    yield
    jax.config.update("jax_default_matmul_precision", None)


def test_the_kept_columns_are_those_that_causality_segments_and_the_window_leave():
    """Rows 0 and 1 of 128 columns: segments begin at 0, at 17 (26 in row 1) and at 100; row 1 is padding from 120."""
    expected: dict[str, list] = {"whole": [], "window": []}
    for row in range(2):
        for column in range(128):
            first = max(at for at in (0, 17 + 9 * row, 100) if at <= column)
            near = max(first, column - first_check.WINDOW + 1)
            padding = row == 1 and column >= 120
            expected["whole"].append([0, 0] if padding else [first, column - first + 1])
            expected["window"].append([0, 0] if padding else [near, column - near + 1])
    assert {name: KEPT[name] for name in expected} == expected


@pytest.mark.thorough
@pytest.mark.parametrize("compute", first_check.DTYPES)
def test_eight_devices_come_to_the_kept_values(compute):
    found = first_check.check_learnt(compute, EIGHT, KEPT)
    assert found["verdict"] == "pass" and found["tokens"] == len(KEPT["logp"]) > 300
    assert first_check.check_seen(compute, EIGHT, KEPT)["verdict"] == "pass"


@pytest.mark.thorough
def test_one_wrong_kept_value_fails_its_check_and_the_whole_and_so_does_a_check_that_raises(full_products, tmp_path):
    wrong = copy.deepcopy(KEPT)
    wrong["logp"][7] += 0.01
    wrong["window"][40][1] += 1
    found = first_check.examine(wrong, ("float32",), [f"model.name={tmp_path}/absent"])
    checks = found["checks"]
    assert found["verdict"] == "fail"
    assert checks["learner_float32"]["verdict"] == "fail"
    assert checks["learner_float32"]["most_nats_off"] == pytest.approx(0.01, abs=1e-4)
    assert checks["mask_float32"]["columns_off"] == {"whole": 0, "window": 1}
    assert checks["run_float32"]["verdict"] == "fail" and "absent" in checks["run_float32"]["error"]
    assert str(tmp_path) not in json.dumps(found)


@pytest.mark.parametrize("kind, chip", [(kind, chip) for kind, (chip, _) in first_check.TOPOLOGIES.items()])
def test_every_chip_of_the_check_has_a_name_figures_and_peaks(kind, chip):
    for layout in first_check.TOPOLOGIES[kind][1].values():
        ahead.check_name(f"{chip}:{layout}")
    peak = peaks.known(kind, "bfloat16")
    assert peak and estimate.chip(kind, peak.flops_a_s, peak.bytes_a_s).kind == kind


@pytest.mark.parametrize(("taken_gib", "verdict"), [(3.2, "pass"), (3.4, "fail"), (None, "pass")])
def test_memory_and_time_are_compared_with_the_plan(taken_gib, verdict, monkeypatch, tmp_path):
    planned = {"fits": True, "peak_bytes_per_chip": 2**31, "seconds": {"step": 2.0}}
    monkeypatch.setattr(first_check, "TOPOLOGIES", {"cpu": ("v5e", {8: "2x4"})})
    monkeypatch.setattr(first_check.plan, "plan", lambda settings, topologies: {"v5e:2x4": planned})
    found = first_check.check_plan("float32", EIGHT, [], {"peak_gib": taken_gib, "step_s": 3.0})
    assert (found["verdict"], found["step_over_planned"]) == (verdict, 1.5)
    assert found["peak_over_planned"] == (taken_gib and pytest.approx(taken_gib / 2))


@pytest.mark.thorough
def test_the_script_writes_one_json_with_figures_versions_and_verdicts(tmp_path):
    """On two emulated devices, which share rollouts as those of a TPU host do, and in float32 alone."""
    out = tmp_path / "check.json"
    words = ["--devices", "2", "--compute", "float32", "--out", str(out), "mesh.rollout=slots"]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run([SCRIPT, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text = out.read_text()
    found = json.loads(text)
    assert found["verdict"] == "pass" and found["device"] == {
        "kind": "cpu", "platform": "cpu", "count": 2, "memory_bytes": None,
    }  # fmt: skip
    assert found["versions"]["jax"] == jax.__version__
    verdicts = {name: check["verdict"] for name, check in found["checks"].items()}
    assert verdicts == {"learner_float32": "pass", "mask_float32": "pass", "run_float32": "pass", "plan": "none"}
    run = found["checks"]["run_float32"]
    assert run["stopped_after"] == 2 and run["differ"] == [] and run["step_s"] > 0 and run["peak_gib"] > 0
    assert 0 < run["gap_nats"] < run["tolerance"]
    for private in (socket.gethostname(), str(ROOT), str(tmp_path), str(Path.home())):
        assert private not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["check.json"]


def test_the_script_refuses_what_it_does_not_know_and_a_dry_run_does_nothing(tmp_path):
    def run(*words):
        return subprocess.run([SCRIPT, *words], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run("--outt").returncode == 2 and "--outt is not understood" in run("--outt").stderr
    assert run("--out").returncode == 2
    dry = run("--dry-run", "--out", "a.json", "model.name=qwen3_0p6b")
    assert dry.returncode == 0 and dry.stdout.endswith("/first_check.py --out a.json model.name=qwen3_0p6b\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nonsense=1"], "unknown setting"),
        (["--out", "nowhere/x.json"], "nowhere/x.json"),
        (["--devices", "0"], "--devices 0; wanted 1, 2, 4 or 8"),
    ],
)
def test_a_typing_error_ends_with_2_before_anything_is_checked(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(first_check.start, "begin", lambda mesh: pytest.fail("jax was started"))
    with pytest.raises(SystemExit) as ended:
        first_check.main(words)
    assert ended.value.code == 2 and told in capsys.readouterr().err


def test_a_python_without_our_packages_is_named_before_the_check_begins():
    done = subprocess.run([SCRIPT], env={**os.environ, "PYTHON": "/bin/false"}, capture_output=True, text=True)
    assert done.returncode == 2 and "/bin/false has not what qr_jax needs: run tpu_scripts/setup.sh" in done.stderr
