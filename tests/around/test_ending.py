"""How a run ends: what changed by hand, and commands that can be typed."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from qr_jax.config import Config, Learner, Train, use
from qr_jax.lab.report import at_end
from qr_jax.records import Query

HOPS = {"one": (0.5, 0.75), "two": (0.2, 0.6), "three": (0.4, 0.3)}  # hops: before and after


def evaluation(at: int, right: list[int]) -> dict:
    rows = {name: {"questions": 2, "exact_match": shares[at]} for name, shares in HOPS.items()}
    texts = {"a": "question: a", "b": "question: b\n  search: b", "c": "question: c"}
    return {"by_hops": rows, "details": {"exact_match": dict(zip("abcd", right)), "transcripts": texts}}


def test_where_accuracy_rose_is_said_by_questions_and_by_the_two_best_groups():
    before, after = evaluation(0, [0, 0, 1, 0]), evaluation(1, [1, 1, 0, 1])
    assert at_end.where_it_rose(before, after) == (
        "3 questions better, 1 worse; rose most on hops two (.20 to .60) and hops one (.50 to .75)"
    )
    assert at_end.where_it_rose(before, before) == "0 questions better, 0 worse"
    lost = evaluation(1, [0, 0, 0, 0])
    assert at_end.where_it_rose(before | {"by_hops": {}}, lost) == "0 questions better, 1 worse"
    assert at_end.where_it_rose(before, lost) == "0 questions better, 1 worse; fell most on hops three (.40 to .30)"
    faulted = after | {"details": after["details"] | {"faulted": ["a", "c"]}}
    assert at_end.where_it_rose(before, faulted).startswith("2 questions better, 0 worse; ")
    assert at_end.gained(before, after) == "b"  # of a and b, whose words are kept, the one with a search
    assert at_end.gained(after, after) is None


SPENT = {"rollouts": 3000, "tokens": 0, "searches": 0}


def test_the_next_commands_can_be_typed_as_they_stand(monkeypatch):
    settings = Config(train=Train(steps=100, max_rollouts=3000))
    run = SimpleNamespace(folder=Path("my runs/one"), settings=settings)
    ask, longer, export = at_end.next_commands(run, "who's there ?", SPENT)
    assert ask == """ask:        qr-jax ask 'my runs/one' 'who'"'"'s there ?'"""
    assert longer == "train on:   qr-jax train 'my runs/one/config.json' train.max_rollouts=6000"
    assert export == "export:     qr-jax export 'my runs/one' --hf 'my runs/one/hf'"
    monkeypatch.setenv("PYTHONPATH", ".:my own")
    own = replace(settings, reward=use("mine.mine"))
    for line in at_end.next_commands(SimpleNamespace(folder=run.folder, settings=own), "who ?", SPENT):
        assert ": " in line and "  PYTHONPATH='.:my own' qr-jax " in line
    assert at_end.next_commands(run, "who's there ?", SPENT)[0] == ask
    assert at_end.longer(Train(steps=100), SPENT) == "train.steps=200"
    assert at_end.longer(Train(steps=40), SPENT | {"steps": 100}) == "train.steps=200"  # it went further before
    assert at_end.longer(Train(steps=40, max_tokens=10), SPENT | {"steps": 100, "tokens": 30}) == "train.max_tokens=60"
    assert at_end.longer(Train(steps=40, max_tokens=10), SPENT | {"tokens": 9}) == "train.steps=80"  # these ended it


def test_a_run_without_an_update_says_so(monkeypatch, tmp_path):
    """Every group all wrong or all right, or no update was finite: accuracy before and after is one policy's."""
    said: list[str] = []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "learner/updates": 0, "learner/skipped": 3}\n')
    monkeypatch.setattr(at_end, "report", lambda run: "page")
    for keep_zero_variance, drawn in ((False, 0), (False, 1), (True, 0)):
        settings = Config(learner=Learner(keep_zero_variance=keep_zero_variance))
        run = SimpleNamespace(folder=tmp_path, settings=settings, say=said.append, detail=lambda text: None)
        parts = SimpleNamespace(run=run, data=SimpleNamespace(questions=[Query("a", "who ?", ("x",))]))
        whole = {"questions": 2, "exact_match": 0.0, "faults": 0, "details": {"exact_match": {}, "transcripts": {}}}
        monkeypatch.setattr(at_end.evaluate, "interval", lambda evaluation, name: ".000")
        monkeypatch.setattr(at_end.evaluate, "fault_texts", lambda evaluation: [])
        monkeypatch.setattr(at_end, "format_table", lambda evaluation: "")
        pool = SimpleNamespace(accepted_P=np.array([drawn]))
        said.clear()
        at_end.tell(parts, SimpleNamespace(before=None, base=None, rollouts=4, pool=pool), whole)
        why = "the loss or gradient of all 3 was not finite" if drawn or keep_zero_variance else "no group bore signal"
        assert f"no update was made: {why}" in " ".join(said)
