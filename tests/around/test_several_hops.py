"""E8's benchmark: its questions are of all sets in random order, and signal is counted by type."""

import json
from collections import Counter

import pytest

from benchmarks import several_hops
from qr_jax import assemble, config
from qr_jax.records import Query

META = {"yes_no": False, "type": "bridge", "hops": 2}


def test_groups_are_counted_by_type_and_by_what_gives_them_signal(monkeypatch):
    queries = [
        Query("one", "who wrote it ?", ("Ann",), meta={**META, "dataset": "hotpotqa"}),
        Query("two", "Ann or Bob ?", ("Ann",), meta={**META, "dataset": "hotpotqa"}),
        Query("long", "where ?", ("the old town hall",), meta={**META, "dataset": "musique", "type": None}),
    ]
    monkeypatch.setattr(several_hops, "questions", lambda name: [q for q in queries if q.meta["dataset"] == name])
    groups = [("one", ["Ann", None]), ("one", ["Bob", "Cy"]), ("two", ["Ann", "Ann", "Bob", None])]
    first, last = several_hops.by_type([*groups, ("long", ["hall", "old town", None])])
    assert first == {
        "set": "hotpotqa", "type": "bridge", "groups": 3, "exact": 2, "exact_two_options": 1, "f1_alone": 0,
        "right": 1.0, "two_options": 1, "two_options_right": 0.5,
    }  # fmt: skip
    assert last["type"] == "2 hops" and (last["groups"], last["exact"], last["f1_alone"]) == (1, 0, 1)
    assert "| all |  | 4 | 0.50 | 0.25 | 0.25 |" in several_hops.signal_table([first, last])


@pytest.mark.thorough
def test_what_is_trained_and_asked_first_is_of_all_sets(real_data, tmp_path, monkeypatch):
    monkeypatch.setattr(several_hops, "RUNS", tmp_path)
    several_hops.files()
    rows = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in several_hops.ARMS
    }
    assert [row["id"] for row in rows["open"]] == [row["id"] for row in rows["own"]]
    assert all(len(row["paragraphs"]) == 10 and "supporting" not in row for row in rows["own"])
    assert all(2 <= sum(one["is_supporting"] for one in row["paragraphs"]) <= 4 for row in rows["own"])
    for arm, kinds in (("every", 7), ("open", 2), ("own", 2)):
        settings = config.load(
            f"{several_hops.CONFIG}:{arm}", [f"data.{of}={tmp_path}/{arm}.jsonl" for of in ("train", "eval")]
        )
        asked = [assemble.questions(settings, part) for part in ("train", "eval")]
        assert not {query.id for query in asked[0]} & {query.id for query in asked[1]}
        for first in (
            asked[0][: settings.sft.limit],
            asked[0][-several_hops.ASKED :],
            asked[1][: settings.evaluation.questions],
        ):
            found = [several_hops.kind_of(query) for query in first]
            assert len(set(found)) >= kinds and max(Counter(found).values()) < 0.8 * len(found)
