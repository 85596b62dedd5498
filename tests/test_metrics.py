"""Metrics: one list of names, the same bytes for the same values, and files that a resumed run can go on with."""

import json
import math
import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from settling import settle as settled_step

from qr_jax.lab import metric_aliases
from qr_jax.logging import metrics, metrics_writer
from qr_jax.logging.metrics_writer import Writer, discard_after, live_line, read
from qr_jax.pool import figures, pool
from qr_jax.records import grades

STEP = {
    "reward/outcome_mean": 0.415,
    "pool/zero_variance_rate": 0.5234,
    "pool/accepted": 24,
    "pool/accepted_fresh": 12,
    "pool/accepted_ex_hard": 6,
    "pool/accepted_ex_easy": 3,
    "pool/accepted_ex_surplus": 2,
    "pool/accepted_ex_consumed": 1,
    "perf/tokens_per_s": 45123.4,
    "time/step_s": 3.0,
}


def write(folder, steps, **settings):
    with closing(Writer(folder, tensorboard=False, **settings)) as writer:
        return [(writer.write(step, values), writer.sync())[1] for step, values in steps]


def test_a_line_is_the_step_and_the_metrics_in_the_order_of_the_list(tmp_path):
    values = {"learner/loss": np.float32(0.5), "reward/mean": 0.1, "eval/world/em": 0.25, "pool/drawn": np.int64(3)}
    write(tmp_path, [(7, values)])
    line = (tmp_path / "metrics.jsonl").read_text()
    assert line == '{"step": 7, "reward/mean": 0.1, "pool/drawn": 3, "learner/loss": 0.5, "eval/world/em": 0.25}\n'


def test_the_order_in_which_values_are_given_does_not_change_a_byte(tmp_path):
    write(tmp_path / "a", [(1, STEP)])
    write(tmp_path / "b", [(1, dict(reversed(STEP.items())))])
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == (tmp_path / "b" / "metrics.jsonl").read_bytes()


def test_what_is_no_finite_number_is_null(tmp_path):
    values = {
        "learner/loss": math.nan,
        "learner/grad_norm": math.inf,
        "learner/kl": None,
        "reward/mean": np.float32("nan"),
    }
    write(tmp_path, [(1, values)])
    line = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in line
    assert set(json.loads(line).values()) == {1, None}


def test_a_name_that_is_not_listed_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="did you mean learner/loss"):
        write(tmp_path, [(1, {"learner/los": 1.0})])
    with pytest.raises(ValueError, match="wanted a number or None"):
        write(tmp_path, [(1, {"learner/loss": "low"})])
    for name in ("eval/exact_match", "learner/loss"):
        assert metrics.about(name).meaning


def test_every_figure_of_the_pool_is_listed():
    one = pool.create(4)
    graded = grades([[0, 1], [0, 0]], np.ones((2, 2), bool))
    drawn_Q = np.array([0, 2])
    settled = settled_step(one, drawn_Q, graded, step=0, accept=2, rule=lambda before, outcome: (before.weight_P, {}))
    assert settled.verdict_Q.tolist() == ["signal", "hard"]
    names = set(figures.pool_figures(settled.pool)) | {f"pool/{name}" for name in figures.RATIOS}
    names |= {f"pool/{count}" for ratio in figures.RATIOS.values() for count in ratio}
    assert names - set(metrics.NAMES) == set()
    assert set(metrics.ORIGINS) == set(figures.ORIGINS)
    assert set(metrics.STATES) == set(pool.STATES)


def is_written_by(name: str, source: str) -> bool:
    """Whether a source says a metric's name: whole, by its area and the rest, or by the start of its family."""
    area, rest = name.split("/")
    members = "|".join([*metrics.ORIGINS, *metrics.STATES, *metrics.STOPS, *metrics.WALL])
    family = re.sub(rf"_({members})$", "_{", rest)
    of_area = f'f"{area}/{{' in source and (f'"{rest}"' in source or (family != rest and f'f"{family}' in source))
    return f'"{name}"' in source or of_area or (family != rest and f'f"{area}/{family}' in source)


def test_every_name_is_written_by_a_file():
    readers = {"metrics.py", "metrics_writer.py"}
    paths = [path for path in Path(metrics.__file__).parents[1].rglob("*.py") if path.name not in readers]
    sources = [path.read_text(encoding="utf-8") for path in paths]
    assert [name for name in metrics.NAMES if not any(is_written_by(name, one) for one in sources)] == []
    assert not any(is_written_by("learner/nll", one) for one in sources)  # what is computed is not yet written


def test_names_are_area_and_what_and_aliases_point_at_listed_names():
    assert all(name.count("/") == 1 and metric.meaning for name, metric in metrics.NAMES.items())
    for system in metric_aliases.ALIASES.values():
        assert {ours for names in system.values() for ours in names} <= set(metrics.NAMES)


def test_aliases_are_written_beside_our_names(tmp_path):
    values = {"learner/clip_low": 0.25, "learner/clip_high": 0.5, "reward/mean": 0.75}
    write(tmp_path, [(1, values)], aliases=("verl", "trl"))
    row = read(tmp_path)[0]
    assert row["critic/rewards/mean"] == row["reward"] == row["reward/mean"] == 0.75
    assert row["actor/pg_clipfrac"] == row["clip_ratio/region_mean"] == 0.75


def test_later_lines_move_aside_and_a_second_attempt_appends(tmp_path):
    lengths = write(tmp_path, [(step, {"reward/mean": step / 10}) for step in range(4)])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "rew')  # killed while it wrote
    assert discard_after(tmp_path, lengths[1], attempt=2) == 3
    assert [row["step"] for row in read(tmp_path)] == [0, 1]
    aside = (tmp_path / "logs" / "attempt_2" / "discarded" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in aside[:2]] == [2, 3]
    assert discard_after(tmp_path, lengths[1], attempt=3) == 0
    again = write(tmp_path, [(2, {"reward/mean": 0.2})])
    assert again[0] == lengths[2]
    with pytest.raises(ValueError, match="but the checkpoint was written when it had 100000"):
        discard_after(tmp_path, 100_000, attempt=4)


def test_sync_is_the_length_of_the_file(tmp_path):
    lengths = write(tmp_path, [(0, STEP), (1, STEP)])
    assert lengths[1] == (tmp_path / "metrics.jsonl").stat().st_size == 2 * lengths[0]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    with closing(Writer(tmp_path, tensorboard=True)) as writer:
        writer.write(1, {"reward/mean": 0.5, "learner/loss": None})
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_the_live_line_by_hand():
    line = live_line(12, STEP, 100)
    batch = "batch 24 (fresh 12 hard 6 easy 3 surplus 2 again 1)"
    assert line == f"step 12/100  pass .415  zero-var .523  {batch}  left 4m24s"
    large = live_line(99_999, STEP | {name: 99_999 for name in STEP if "accepted" in name}, 100_000)
    assert len(large) <= metrics_writer.WIDTH
    assert live_line(12, STEP, 100, width=60) == "step 12/100  pass .415  zero-var .523  batch 24  left 4m24s"
    told = live_line(12, STEP | {"eval/exact_match": 0.5125}, 100)
    assert told.startswith("step 12/100  greedy .512  pass .415")
    assert live_line(1, {}, 2) == "step 1/2  pass -  zero-var -  batch -  left -"
