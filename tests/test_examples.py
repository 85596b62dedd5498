"""The examples run, and stand on the core alone."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_imports import AROUND, PACKAGE, imported_names

MINIMAL = Path(__file__).resolve().parents[1] / "examples" / "minimal.py"
SMALL = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("minimal", sys.argv[1])
minimal = importlib.util.module_from_spec(spec)
spec.loader.exec_module(minimal)
world = {"train": 40, "dev": 8, "traces": 20, "trace_phrasings": 1}
minimal.settings = minimal.replace(minimal.settings, data=minimal.config.Data(world=world))
minimal.STEPS, minimal.QUERIES, minimal.COLD_STEPS, minimal.TRACES, minimal.WORLDS = 2, 8, 2, 8, 1
minimal.main()
"""


def test_the_smallest_example_imports_only_the_core_and_has_at_most_200_lines():
    text = MINIMAL.read_text(encoding="utf-8")
    names = imported_names(ast.parse(text))
    assert not [name for name in names if name.split(".")[0] == "qr_jax" and name.split(".")[1] in AROUND]
    assert {name.split(".")[0] for name in names} <= {"qr_jax", "jax", "numpy", "collections", "dataclasses"}
    assert len(text.splitlines()) <= 200


@pytest.mark.thorough
def test_the_smallest_example_runs():
    """Two steps on a small world, in a process of one device: it learns in forty, which take two minutes."""
    done = subprocess.run([sys.executable, "-c", SMALL, str(MINIMAL)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("step ")] == ["step 1", "step 2"]
    assert lines[-1].startswith("exact match after 2 steps: ") and 0 <= float(lines[-1].rpartition(" ")[2]) <= 1


ALONE = """
import json
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]  # which finds the whole package
from dataclasses import replace
from pathlib import Path
import qr_jax
from qr_jax import config
from qr_jax.config import use
from qr_jax.data import parsing, readers
from qr_jax.train import train
folder = Path(sys.argv[1])
good = {"id": "1", "question": "what did Shannon found?", "answers": ["information theory"], "level": "hard"}
files = {"good": good, "other": {"id": "2", "question": "?"}}
for name, row in files.items():
    (folder / f"{name}.jsonl").write_text(json.dumps(row))
(folder / "broken.jsonl").write_text(json.dumps(good) + chr(10) + "{")
for name in ("good", "other", "broken"):
    try:
        print([query.answers for _, query in readers.stream([folder / f"{name}.jsonl"], parsing.query_of)])
    except ValueError as error:
        print(error)
assert Path(qr_jax.__file__).is_relative_to(folder), qr_jax.__file__
base = config.load(folder / "two_layer.py")
world = {"documents": 200, "train": 40, "dev": 8, "traces": 20}
base = replace(base, retriever=use("none"), data=replace(base.data, world=world), mesh=config.Mesh(devices=2))
train(replace(base, train=replace(base.train, steps=1)), folder / "run")
print(train(base, folder / "run")["steps"], "steps")
"""


@pytest.mark.thorough
def test_the_core_trains_and_goes_on_without_the_rooms_around_it(tmp_path):
    """In a copy of the package that has none of them."""
    shutil.copytree(PACKAGE, tmp_path / "qr_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in AROUND:
        shutil.rmtree(tmp_path / "qr_jax" / name)
    shutil.copy(PACKAGE.parent / "configs" / "two_layer.py", tmp_path)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", ALONE, str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read, lacking, broken, *_, last = done.stdout.splitlines()
    assert read == "[('information theory',)]" and last == "2 steps"
    assert lacking.startswith("other.jsonl row 1: has no 'answers'")
    assert broken.startswith("broken.jsonl row 2: not a line of JSON")
    assert (tmp_path / "run" / "summary.json").is_file() and not (tmp_path / "run" / "report.html").exists()
