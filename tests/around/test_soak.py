"""Short forms of `make kills` and `make soak`, and what they would say of a run whose books are wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soak
import soak_books

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *words: object) -> str:
    """What the command prints; it ends with 0."""
    command = [sys.executable, str(ROOT / "tests" / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_with_the_same_bytes(tmp_path):
    run("kills.py", "--one", 5, "--two", 3, "--out", tmp_path, "--results", tmp_path)
    found = json.loads((tmp_path / "kills.json").read_text())
    for name, kills in (("one process", 5), ("two processes", 3)):
        assert found[name]["kills"] == kills and found[name]["identical"] == found[name]["runs"] > 0


@pytest.mark.slow
def test_a_run_with_faults_and_kills_loses_nothing(tmp_path):
    words = ("--steps", 120, "--memory-steps", 60, "--every", 8, "--kill-every", 50)
    run("soak.py", *words, "--out", tmp_path, "--results", tmp_path)
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["killed"]["lost"] == found["in one life"]["lost"] == []
    assert found["killed"]["outcomes"]["SIGKILL"] == {"ended with -9, went on": 2}
    assert set(found["killed"]["outcomes"]) == {*soak.KINDS, *soak.ENDING, "SIGKILL"}


def books(folder: Path, steps: list[int], draws: list[tuple[int, str]]) -> None:
    """Each draw has two rollouts of three tokens."""
    (folder / "episodes").mkdir(parents=True)
    made = {step: 2 * sum(of == step for of, _ in set(draws)) for step in steps}
    so_far = {step: sum(made[before] for before in made if before <= step) for step in made}
    lines = []
    for step in steps:
        (folder / "episodes" / f"step_{step:06d}.jsonl").touch()
        counts = {"pool/drawn": made[step] // 2, "pool/rollouts": made[step], "budget/rollouts": so_far[step]}
        lines.append({"step": step, **counts, "rollout/tokens": 3.0})
    told = [{"step": step, "query": query, "rewards": [0.0, 1.0], "tokens": 6} for step, query in draws]
    for name, values in (("metrics.jsonl", lines), ("ledger.jsonl", told)):
        (folder / name).write_text("".join(f"{json.dumps(value)}\n" for value in values))


def test_a_step_or_a_draw_that_is_missing_or_stands_twice_is_told(tmp_path):
    whole = [(step, query) for step in (1, 2) for query in "abcd"]
    books(tmp_path / "whole", [1, 2], whole)
    assert soak_books.lost(tmp_path / "whole", 2) == []
    books(tmp_path / "missing", [1], whole[:4])
    assert "step 2 stands 0 times" in soak_books.lost(tmp_path / "missing", 2)
    books(tmp_path / "twice", [1, 2, 2], [*whole, whole[-1]])
    assert {"step 2 stands 2 times", "draw (2, 'd') stands 2 times"} <= set(soak_books.lost(tmp_path / "twice", 2))
    assert "step 2 has 4 draws in metrics.jsonl and 5 in its draws" in soak_books.lost(tmp_path / "twice", 2)


def test_growth_is_the_end_against_the_first_steps():
    assert soak_books.growth({0: 50.0, 200: 100.0, 400: 103.0}, 200) == pytest.approx(0.03)
    assert soak_books.growth({0: 50.0, 100: 60.0}, 200) is None
