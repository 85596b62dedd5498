"""The examples run, and stand on the core alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from test_imports import AROUND, imported_names

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
