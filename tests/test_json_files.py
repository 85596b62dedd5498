import json
import re
import tracemalloc
from pathlib import Path

import pytest

from qr_jax.lab import compare, pass_rates
from qr_jax.logging import metrics_writer
from qr_jax.run import json_files, run_files
from qr_jax.settings import json_text

DEEP = '{"step": 2, "index": 0, "accepted": true, "successes": 0, "valid": 2, "a": ' + "[" * 10_000 + "]" * 10_000 + "}"
WIDE = json.dumps({"step": 2, **{f"n{at}": 0 for at in range(4_000)}})
NOT_OURS = ["no json", "[1]", '{"loss": 1.0}', DEEP, WIDE]


@pytest.mark.parametrize("line", NOT_OURS, ids=["text", "list", "no step", "deep", "wide"])
def test_a_line_that_no_run_writes_is_named_and_a_reader_of_what_can_be_read_counts_it(tmp_path, line):
    file = tmp_path / "metrics.jsonl"
    file.write_text(f'{{"step": 1, "x": 2.5}}\n{line}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: not what a run writes; wanted an object with step"):
        metrics_writer.read(tmp_path)
    assert list(json_files.readable_rows(file, "step")) == [{"step": 1, "x": 2.5}, None]
    (tmp_path / "ledger.jsonl").write_text(f"{line}\n")
    for read in (
        lambda: compare._unique(tmp_path, 5),
        lambda: pass_rates._read_draws(tmp_path / "ledger.jsonl", {1: 8}),
    ):
        with pytest.raises(ValueError, match=r"ledger.jsonl, line 1: not what a run writes"):
            read()


def test_a_row_s_names_are_in_memory_once_and_what_is_nested_is_not_kept(tmp_path):
    row = json.dumps({"step": 1, **{f"area/a_name_of_a_metric_{at}": at for at in range(100)}, "x": [{}] * 2_000})
    assert len(row) < run_files.MOST["metrics.jsonl"].line_bytes
    (tmp_path / "metrics.jsonl").write_text(f"{row}\n" * 200)
    tracemalloc.start()
    found = metrics_writer.read(tmp_path)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 200 and len(found[0]) == 101 and "x" not in found[0]
    assert held < 200 * 12_000 and peak < 2 * held


def test_one_module_alone_parses_json_and_what_is_nested_too_deep_is_a_wrong_value():
    package = Path(json_text.__file__).parents[1]
    parsing = re.compile(r"\bjson\.(loads?|decoder)\(|from json import")
    files = (path for path in package.rglob("*.py") if parsing.search(path.read_text(encoding="utf-8")))
    assert [str(path.relative_to(package)) for path in files] == ["settings/json_text.py"]
    for text in ("[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000, "", "[1", b"\xff"):
        with pytest.raises(ValueError):
            json_text.parse(text)
