"""The training loop: killed anywhere it goes on as if nothing had happened; controls and guards do what they say."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from killed_run import tiny

from qr_jax import checkpoint, metrics_writer, pool, runs
from qr_jax.config import use
from qr_jax.records import grades
from qr_jax.step import shuffled
from qr_jax.train import train

ROOT = Path(__file__).parents[1]
POINTS = ("rollout", "metrics", "checkpoint")


def start(*arguments, cache, **more):
    """The driver in a process of its own, with compiled programs kept for the next one."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    command = [sys.executable, str(ROOT / "tests" / "killed_run.py"), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def finish(process, code):
    """What it printed, once it has ended with that code."""
    said, trouble = process.communicate(timeout=180)
    assert process.returncode == code, trouble
    return said


def lines(folder):
    """metrics.jsonl without what depends on the clock, as the bytes that were written."""
    kept = []
    for line in (folder / "metrics.jsonl").read_bytes().splitlines():
        row = json.loads(line)
        kept.append(json.dumps({name: value for name, value in row.items() if not name.startswith(("time/", "perf/"))}))
    return kept


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run that was never killed, and three that were killed and started again by the same command."""
    folder = tmp_path_factory.mktemp("runs")
    cache = folder / "cache"
    finish(start(folder / "whole", cache=cache), 0)
    for point in POINTS:
        finish(start(folder / point, "--die", point, cache=cache), -signal.SIGKILL)
    return folder, finish(start(*(folder / point for point in POINTS), cache=cache), 0)


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_at_any_point_goes_on_to_the_same_bytes(finished, point):
    folder, _ = finished
    whole, resumed = folder / "whole", folder / point
    assert len(lines(whole)) == 5
    assert any(json.loads(line)["learner/grad_norm"] for line in lines(whole) if "learner/grad_norm" in line)
    assert lines(resumed) == lines(whole)
    for path in sorted((whole / "episodes").iterdir()):
        assert (resumed / "episodes" / path.name).read_bytes() == path.read_bytes()
    for name in ("host.json", "host.npz"):
        one, other = (f / "checkpoints" / "step_00000005" / name for f in (whole, resumed))
        if name == "host.json":
            a, b = (json.loads(path.read_text()) for path in (one, other))
            assert {**a, "metrics_bytes": 0} | {"before": 0} == {**b, "metrics_bytes": 0} | {"before": 0}
        else:
            with np.load(one) as a, np.load(other) as b:
                assert sorted(a) == sorted(b) and all(np.array_equal(a[key], b[key]) for key in a)
    assert weights(resumed) == weights(whole)
    assert (resumed / "logs" / "attempt_2").is_dir()


def weights(folder):
    """The bytes of every array of the last checkpoint's state."""
    found = checkpoint.Checkpoints(folder / "checkpoints")
    import jax

    shapes = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (dtype, shape) in found.arrays(5).items()}
    nested: dict = {}
    for name, leaf in shapes.items():
        at = nested
        *way, last = name.split(".")
        for key in way:
            at = at.setdefault(key, {})
        at[last] = leaf
    state, _ = found.restore(5, nested)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def test_what_came_after_the_last_checkpoint_is_moved_aside_not_lost(finished):
    folder, said = finished
    aside = folder / "metrics" / "logs" / "attempt_2" / "discarded"
    assert [json.loads(line)["step"] for line in (aside / "metrics.jsonl").read_text().splitlines()] == [3]
    assert sorted(path.name for path in (aside / "episodes").iterdir()) == ["step_000002.jsonl"]
    assert "passed over" in said  # the checkpoint without its marker is named


def test_accepted_groups_wait_for_min_signal_and_are_in_the_checkpoint(finished):
    folder, _ = finished
    rows = metrics_writer.read(folder / "whole")
    waits = [row["pool/waiting"] for row in rows]
    accepted = [row["pool/accepted"] for row in rows]
    held = 0
    for row, waiting, new in zip(rows, waits, accepted, strict=True):
        held += new
        if held >= 3:
            assert waiting == 0 and row["learner/loss"] is not None
            held = 0
        else:
            assert waiting == held and row["learner/loss"] is None
    host = checkpoint.Checkpoints(folder / "whole" / "checkpoints").host(2)
    assert len(host["waiting"]) == waits[1]


def test_a_sigterm_checkpoints_and_exits_with_143_and_the_same_command_goes_on(finished, tmp_path):
    folder, _ = finished
    stopped = start(folder / "stopped", cache=folder / "cache")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (folder / "stopped" / "metrics.jsonl").exists():
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in finish(stopped, 143)
    finish(start(folder / "stopped", cache=folder / "cache"), 0)
    assert lines(folder / "stopped") == lines(folder / "whole")


def test_another_config_in_the_same_folder_is_refused_with_what_differs(finished):
    folder, _ = finished
    settings = replace(tiny(folder), seed=7)
    with pytest.raises(ValueError, match=r"other settings \(seed: 0 there, 7 here\)"):
        train(settings, folder / "whole")


def test_a_checkpoint_of_another_query_list_or_model_is_refused(finished, tmp_path):
    folder, _ = finished
    host = checkpoint.Checkpoints(folder / "whole" / "checkpoints").host(5)
    with pytest.raises(ValueError, match="query list"):
        checkpoint.check_same_queries(host, pool.query_list_hash(["another"]))
    with pytest.raises(ValueError, match="another model: its width is 32"):
        checkpoint.check_same_model(host, {**host["model"], "width": 48})


def test_the_summary_has_what_the_readme_names(finished):
    folder, _ = finished
    summary = json.loads((folder / "whole" / "summary.json").read_text())
    names = {"greedy_before", "greedy_after", "se", "zero_variance_rate", "recycled_share", "rollouts", "wall_s"}
    assert (
        names <= set(summary)
        and summary["rollouts"] == 5 * 16
        and set(summary["se"]) == {"greedy_before", "greedy_after"}
    )
    assert runs.load(folder / "whole").reward == use("odd_tokens.odd_tokens")


def test_shuffled_rewards_keep_their_values_and_stay_among_the_valid():
    reward_QG = np.array([[1, 1, 0], [0, 0, 0]], np.float32)
    valid_QG = np.array([[True, True, True], [True, False, True]])
    found = [shuffled(grades(reward_QG, valid_QG), seed=0, step=step) for step in range(20)]
    assert all(one.reward_QG[valid_QG].sum() == 2 and one.reward_QG[1, 1] == 0 for one in found)
    assert len({one.reward_QG.tobytes() for one in found}) > 3
