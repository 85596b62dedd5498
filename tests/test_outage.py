"""Outages: a step most of whose searches failed leaves no trace; the run waits, goes on by itself, or ends in order."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from killed_run import tiny

from qr_jax import metrics_writer, train
from qr_jax.records import Passage
from qr_jax.rollout.engine import Interrupted, Statistics
from qr_jax.runs import last_checkpoint
from qr_jax.step import dealing, outage
from qr_jax.step.progress import Progress


def looping(tmp_path, monkeypatch, *, down, answers, **rollout):
    """The loop over 3 steps without a model: some attempts at a step find the retriever down; it answers as told."""
    base = tiny(tmp_path)
    settings = replace(
        base,
        rollout=replace(base.rollout, **rollout),
        train=replace(base.train, steps=3, checkpoint_every=100),
    )
    said, attempts, told, saved = [], iter(range(100)), iter(answers), []

    def step(parts, state, standing, step, *, bear_outage):
        if next(attempts) in down and not bear_outage:
            raise outage.RetrieverDown("3 of 4 searches failed")
        return state, standing, {"step": step, "time/step_s": 1.0}

    run = SimpleNamespace(
        say=said.append, stop_now=lambda: False, stops=lambda: False, write_metrics=lambda step, row: None
    )
    parts = SimpleNamespace(settings=settings, run=run, save=lambda step, state, standing: saved.append(step))
    monkeypatch.setattr(train, "take_step", step)
    monkeypatch.setattr(outage, "answers", lambda parts: next(told))
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.01)
    state = SimpleNamespace(skipped=0)
    return lambda: train._loop(parts, state, Progress(pool=None), 0), said, saved, run


@pytest.mark.parametrize(("sent", "failed", "falls"), [(0, 0, False), (4, 2, False), (4, 3, True), (1, 1, True)])
def test_more_than_half_of_the_searches_must_fail(sent, failed, falls):
    groups = [SimpleNamespace(spent=SimpleNamespace(fault=fault)) for fault in (None, "no route", "late")]
    whole = Statistics(searches_sent=sent, searches_failed=failed)
    if not falls:
        return outage.check(whole, groups)
    with pytest.raises(outage.RetrieverDown, match=f"{failed} of {sent} searches failed; the first: no route"):
        outage.check(whole, groups)


def test_the_retriever_answers_when_a_search_does_be_it_with_nothing(tmp_path):
    parts = SimpleNamespace(settings=tiny(tmp_path), search=lambda queries, k: [[] for _ in queries])
    assert outage.answers(parts)
    parts.search = lambda queries, k: [[Passage("1", "", "x")]]
    assert outage.answers(parts)

    def broken(queries, k):
        raise OSError("no route")

    parts.search = broken
    assert not outage.answers(parts)


@pytest.mark.parametrize(
    "result", [None, 3, "text", [], ["text"], [None], [["no passage"]], [[Passage("1", "", "x", float("nan"))]]]
)
def test_a_search_function_that_gives_no_passages_is_not_waited_for(tmp_path, result):
    parts = SimpleNamespace(settings=tiny(tmp_path), search=lambda queries, k: result)
    parts.run = SimpleNamespace(say=lambda line: None, stop_now=lambda: False, stops=lambda: False)
    with pytest.raises(ValueError, match="retriever 'bm25': .*(not a list|no Passage|finite number)"):
        outage.wait(parts, outage.RetrieverDown("4 of 4 searches failed"), 0)


def test_a_bug_of_a_search_function_is_not_waited_for(tmp_path):
    """It used to wait an hour for the retriever whose code had the mistake."""
    parts = SimpleNamespace(settings=tiny(tmp_path), search=lambda queries, k: [queries[10**9]])
    parts.run = SimpleNamespace(say=lambda line: None, stop_now=lambda: False, stops=lambda: False)
    with pytest.raises(ValueError, match="retriever 'bm25': IndexError: list index out of range"):
        outage.wait(parts, outage.RetrieverDown("4 of 4 searches failed"), 0)


def test_a_lost_step_is_made_again_once_the_retriever_answers(tmp_path, monkeypatch):
    go, said, saved, _ = looping(tmp_path, monkeypatch, down={1, 2}, answers=[False, False, True, True])
    go()
    assert sum("step 2 is not counted: 3 of 4 searches failed" in line for line in said) == 2
    assert sum("no answer since" in line for line in said) == 2
    assert sum("the retriever answers; step 2 is made again" in line for line in said) == 2
    assert saved == [3]


def test_where_the_retriever_answers_and_the_step_fails_again_and_again_it_counts_as_it_is(tmp_path, monkeypatch):
    go, said, saved, _ = looping(tmp_path, monkeypatch, down={0, 1, 2, 3}, answers=[True] * 3)
    go()
    assert sum("step 1 is not counted" in line for line in said) == outage.TRIES == 3
    assert saved == [3]


def test_a_retriever_that_stays_away_ends_the_run_with_what_it_had(tmp_path, monkeypatch):
    go, said, saved, _ = looping(tmp_path, monkeypatch, down={1}, answers=[False] * 50, outage_s=0.05)
    with pytest.raises(outage.Outage, match="no search was answered from .* on, for 0 s"):
        go()
    assert saved == [1]


def test_a_run_that_waits_is_stopped_as_any_other(tmp_path, monkeypatch):
    go, said, saved, run = looping(tmp_path, monkeypatch, down={1}, answers=[False] * 50)
    run.stops = lambda: any("no answer since" in line for line in said)
    with pytest.raises(Interrupted):
        go()
    assert saved == [1]


@pytest.mark.usefixtures("quick_to_compile")
def test_of_a_lost_step_nothing_is_written_and_an_outage_has_an_exit_code_of_its_own(tmp_path, monkeypatch):
    base = tiny(tmp_path)
    settings = replace(
        base,
        sft=replace(base.sft, steps=0),
        evaluation=replace(base.evaluation, questions=2),
        rollout=replace(base.rollout, outage_s=0.01),
        train=replace(base.train, steps=2, checkpoint_every=100),
    )
    over, attempts = dealing.over_processes, iter(range(100))

    def failing(statistics):
        whole = over(statistics)
        return replace(whole, searches_sent=4, searches_failed=3) if next(attempts) in (0, 2) else whole

    monkeypatch.setattr(dealing, "over_processes", failing)
    answers = iter([True, False, False])
    monkeypatch.setattr(outage, "answers", lambda parts: next(answers))
    said = []
    with pytest.raises(SystemExit) as ended:
        train.train(settings, tmp_path / "run", say=said.append)
    assert ended.value.code == outage.CODE == 5 and "ended by an outage: no search was answered" in said[-1]
    assert [row["step"] for row in metrics_writer.read(tmp_path / "run")] == [1]
    rows = [json.loads(line) for line in (tmp_path / "run/ledger.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and {row["step"] for row in rows} == {1}
    assert last_checkpoint(tmp_path / "run")[1] == 1
