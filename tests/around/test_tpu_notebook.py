"""examples/tpu_notebook.ipynb on a CPU: its code cells in one process, stopped midway, and again in a new session.

The cells are plain Python without IPython's `!` and `%`, so that no notebook server is needed to run them, here or in a
script. What the notebook's user chooses is overridden by the environment.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import loopback_bucket
import pytest

from qr_jax.config import load
from qr_jax.settings.checks import check

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples/tpu_notebook.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
PLAYS = """
import json, sys
named = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), named)
"""
SMALL = (
    "data.world.documents=200 data.world.train=40 data.world.dev=8 data.world.traces=20 sft.steps=0 train.steps=40 "
    "learner.keep_zero_variance=true learner.entropy_weight=0.1 mesh.devices=1"
)


def test_it_holds_no_output_and_no_ipython_and_names_configs_that_there_are():
    text = "".join("".join(cell["source"]) for cell in CELLS)
    for cell in CELLS:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), "cell", "exec")
            assert cell["outputs"] == [] and cell["execution_count"] is None
    names = vars_of(ROOT / "configs/tpu/v5e_8.py")
    assert len(names) == 4 and all(f":{name}`" in text for name in names)
    for name in names:
        check(load(f"{ROOT}/configs/tpu/v5e_8.py:{name}"))


def vars_of(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    return [
        line.split(" = ")[0] for line in lines if line.split(" = ")[1:] and line.split(" = ")[1].startswith("load(")
    ]


@pytest.mark.thorough
def test_its_install_cell_installs_a_folder_where_qr_jax_is_missing(tmp_path):
    """The cells up to it, by an environment without qr_jax; pip takes its dependencies for granted (PIP_NO_DEPS)."""
    source, place, python = tmp_path / "uploaded", tmp_path / "session", tmp_path / "bare/bin/python"
    kept = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("qr_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=kept)
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "constraints-3.13.txt"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "bare")], check=True)
    at = next(at for at, cell in enumerate(CELLS) if "find_spec" in "".join(cell["source"]))
    cells = ["".join(cell["source"]) for cell in CELLS[: at + 1] if cell["cell_type"] == "code"]
    place.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"QR_JAX_SOURCE": str(source), "PIP_NO_DEPS": "1"}
    done = subprocess.run(
        [python, "-c", "\n".join(cells)], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    asked = [python, "-c", "import importlib.util; print(importlib.util.find_spec('qr_jax').origin)"]
    found = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(place / "source/qr_jax/__init__.py")
    with_it = subprocess.run(
        [python, "-c", "\n".join(cells)], cwd=place, env=environment, capture_output=True, text=True, check=True
    )
    assert "qr_jax is installed" in with_it.stdout


@pytest.fixture(params=["folder", "bucket"])
def kept(request, tmp_path):
    """What KEEP names, the environment in which it is reached, and where the export goes."""
    if request.param == "folder":
        yield str(tmp_path / "keep"), {}, tmp_path / "keep_exported"
        return
    with loopback_bucket.bucket() as environment:
        yield f"gs://{loopback_bucket.NAME}/notebook", environment, tmp_path / "second/run_exported"


@pytest.mark.thorough
def test_it_trains_is_stopped_goes_on_in_a_new_session_reports_and_exports(tmp_path, kept):
    """The second session has another disk: only what KEEP names is the first one's."""
    keep, reached, exported = kept

    def session(name: str, *, stop: bool) -> str:
        folder = tmp_path / name
        folder.mkdir()
        environment = {**os.environ, "QR_JAX_CONFIG": "configs/two_layer.py", "QR_JAX_SETTINGS": SMALL}
        environment |= {"QR_JAX_KEEP": keep, "PYTHONPATH": str(ROOT), **reached}
        command = [sys.executable, "-u", "-c", PLAYS, str(NOTEBOOK)]
        said = tmp_path / f"{name}.log"
        with said.open("w") as log:
            to = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
            process = subprocess.Popen(command, cwd=folder, env=environment, **to)
            while stop and "step 2/40" not in said.read_text() and process.poll() is None:
                time.sleep(0.05)
            if stop:
                os.killpg(process.pid, signal.SIGINT)  # as Jupyter's Stop does, to the kernel and what it started
            assert process.wait() == 0, said.read_text()
        return said.read_text()

    first = session("first", stop=True)
    assert "saving and ending" in first and "run this cell again to go on" in first
    second = session("second", stop=False)
    gone_on = next(line for line in second.splitlines() if line.startswith("going on after step "))
    assert 2 <= int(gone_on.split()[4]) < 40
    assert "\nfinished\n" in second
    run = tmp_path / "second/run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert (run / "report.html").is_file()
    assert (exported / "model.safetensors").is_file()
    assert "| steps | 40 |" in (exported / "README.md").read_text()  # of this session, not of the first
