"""Outages: a step most of whose searches failed leaves no trace; the run waits, goes on by itself, or ends in order."""

import json
import threading
import time
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from killed_run import tiny
from loopback import raw, server

from qr_jax import errors, plugins, train
from qr_jax.config import use
from qr_jax.errors import Interrupted
from qr_jax.interfaces import CONTRACTS
from qr_jax.logging import metrics_writer
from qr_jax.records import Episode, Passage, Query, Scores, Turn
from qr_jax.rollout.engine import Statistics
from qr_jax.run.kept_thread import run_interruptible
from qr_jax.run.runs import last_checkpoint
from qr_jax.step import grading, rollout_and_grade, services
from qr_jax.step.runtime import RunState

QUERY = Query("q", "?", ("a",))


def looping(tmp_path, monkeypatch, *, down, answers, **rollout):
    """The loop over 3 steps without a model: some attempts at a step find the retriever down; it answers as told."""
    base = tiny(tmp_path)
    settings = replace(
        base,
        rollout=replace(base.rollout, **rollout),
        train=replace(base.train, steps=3, checkpoint_every=100),
    )
    said, attempts, told, saved = [], iter(range(100)), iter(answers), []

    def step(parts, state, standing, step):
        if next(attempts) in down:
            raise errors.ServiceDown("3 of 4 searches failed")
        return state, standing, {"step": step, "time/step_s": 1.0}

    run = SimpleNamespace(
        say=said.append, stop_now=lambda: False, stops=lambda: False, write_metrics=lambda step, row: None
    )
    parts = SimpleNamespace(settings=settings, run=run, save=lambda step, state, standing: saved.append(step))
    monkeypatch.setattr(train, "take_step", step)
    monkeypatch.setattr(services, "answers", lambda parts: next(told))
    monkeypatch.setattr(services, "FIRST_PAUSE_S", 0.01)
    state = SimpleNamespace(skipped=0)
    return lambda: train._loop(parts, state, RunState(pool=None), 0), said, saved, run


def searching(tmp_path, search):
    """The parts of a run that are asked whether its retriever answers."""
    run = SimpleNamespace(say=lambda line: None, stop_now=lambda: False, stops=lambda: False)
    data = SimpleNamespace(queries=[QUERY])
    return SimpleNamespace(settings=tiny(tmp_path), run=run, data=data, world=SimpleNamespace(search=search))


def group(unanswered, *, invalid=0, reason=None):
    faults = max(unanswered, invalid)
    spent = SimpleNamespace(episodes=4, invalid=faults, unanswered=unanswered, fault=reason)
    return SimpleNamespace(spent=spent, episodes=())


@pytest.mark.parametrize(
    ("sent", "failed", "faults", "falls"),
    [
        (0, 0, (0, 0, 0), False),
        (4, 2, (1, 1, 0), False),
        (4, 3, (1, 1, 1), True),
        (1, 1, (0, 1, 0), True),
        (100, 50, (2, 2, 1), True),  # half of the searches, and two of three groups with half of their episodes
        (100, 50, (2, 1, 1), False),
    ],
)
def test_more_than_half_of_the_searches_or_of_the_groups_must_fail(sent, failed, faults, falls):
    groups = [group(count, reason=reason) for count, reason in zip(faults, (None, "no route", "late"), strict=True)]
    whole = Statistics(searches_sent=sent, searches_failed=failed)
    if not falls:
        return rollout_and_grade.check_answered(whole, groups)
    with pytest.raises(errors.ServiceDown, match=rf"{failed} of {sent} searches failed, .*; the first: no route"):
        rollout_and_grade.check_answered(whole, groups)


def test_faults_of_another_kind_are_no_outage():
    """Weights that are not finite, a tag that the tokenizer makes, a reward that gives no number."""
    rollout_and_grade.check_answered(Statistics(searches_sent=8, searches_failed=1), [group(0, invalid=4)] * 3)


@pytest.mark.parametrize(
    ("answered", "ungraded", "falls"),
    [
        ((4, 4, 4), (4, 4, 0), True),
        ((4, 4, 4), (2, 2, 1), True),
        ((4, 4, 4), (4, 1, 1), False),
        ((1, 0, 0), (1, 0, 0), True),  # nothing else was answered: nothing else needed the judge
        ((4, 4, 0), (4, 0, 0), False),
        ((0, 0, 0), (0, 0, 0), False),
        ((0, 0, 0), (4, 4, 1), True),  # a judge of searches is asked about episodes without an answer, too
    ],
)
def test_more_than_half_of_what_a_judge_is_asked_about_must_be_ungraded(answered, ungraded, falls):
    """A run used to count and save every step that its judge slept through."""
    groups = [
        SimpleNamespace(
            spent=SimpleNamespace(
                episodes=4, unanswered=0, ungraded=lost, fault="gave nan" if lost else None, stops={"answered": count}
            ),
            episodes=(),
        )
        for count, lost in zip(answered, ungraded, strict=True)
    ]
    rollout_and_grade.check_answered(Statistics(), groups)  # of a reward that asks nobody: its own mistake
    if not falls:
        return rollout_and_grade.check_answered(Statistics(), groups, asks=True)
    with pytest.raises(errors.ServiceDown, match="groups could not be graded; the first: gave nan") as down:
        rollout_and_grade.check_answered(Statistics(), groups, asks=True)
    assert down.value.what == "reward"


def test_a_judge_that_is_away_is_waited_for_and_asked_what_no_file_knows(tmp_path, monkeypatch):
    scores, said, asked = iter([np.nan, np.nan, 0.0]), [], []

    def reward(query, episodes):
        asked.append(episodes[0].answer)
        return Scores(np.array([next(scores)]))

    run = SimpleNamespace(say=said.append, stop_now=lambda: False, stops=lambda: False)
    parts = SimpleNamespace(
        settings=tiny(tmp_path), run=run, grading=SimpleNamespace(reward=reward), data=SimpleNamespace(queries=[QUERY])
    )
    monkeypatch.setattr(services, "FIRST_PAUSE_S", 0.01)
    services.wait(parts, errors.ServiceDown("3 of 4 groups could not be graded", "reward"), 4, None)
    assert len(asked) == 3 and all(text.startswith("Is anybody there? (") for text in asked)
    assert "step 5 is not counted: 3 of 4 groups could not be graded. Waiting for the reward, at most" in said[0]
    assert said[-1] == "the reward answers; step 5 is made again"


def test_grading_that_waits_for_somebody_ends_when_the_run_is_told_to_stop():
    begun, never, stops = threading.Event(), threading.Event(), iter([False, True])
    start = time.monotonic()
    with pytest.raises(Interrupted):
        run_interruptible(lambda: begun.set() or never.wait(60), lambda: next(stops))
    assert begun.is_set() and time.monotonic() - start < 10
    never.set()
    assert run_interruptible(lambda: 7, lambda: False) == 7
    with pytest.raises(ZeroDivisionError):
        run_interruptible(lambda: 1 / 0, lambda: False)


def test_what_a_failed_search_ended_is_told_from_other_faults():
    row = ((Passage("1", "", "x"),),)
    asked, shown, said = Turn("env", "", ("a",)), Turn("env", "x", ("a",), row), Turn("model", "a")
    none = np.zeros(0, np.int32)

    def episode(*turns, stop="fault"):
        return Episode(Query("q", "?", ("a",)), 0, 0, none, none > 0, none, none, turns, None, stop, stop != "fault")

    for turns, stop, count in (
        ((said, asked), "fault", 1),
        ((said, shown), "fault", 0),
        ((said,), "fault", 0),
        ((), "fault", 0),
        ((said, asked, said), "length", 0),
    ):
        group = grading.grade(
            lambda query, episodes: Scores(np.zeros(1)), "r", 0, 0, QUERY, [episode(*turns, stop=stop)]
        )
        assert group.spent.unanswered == count


def test_each_outage_has_its_own_time(tmp_path, monkeypatch):
    """A step that is lost long after another one was is not at the end of that one's patience."""
    go, said, saved, _ = looping(tmp_path, monkeypatch, down={0, 2}, answers=[True] * 9, outage_s=0.05)
    clock = iter(range(0, 10**6, 1))
    monkeypatch.setattr(
        services.time, "monotonic", lambda: next(clock) * 1e-4 + 10.0 * sum("made again" in x for x in said)
    )
    go()
    assert saved == [3] and sum("is not counted" in line for line in said) == 2


def test_the_question_that_is_asked_is_in_no_cache(tmp_path, monkeypatch):
    asked = []
    parts = searching(tmp_path, lambda queries, k: asked.extend(queries) or [[] for _ in queries])
    for now in ("10:00:00", "10:00:05"):
        monkeypatch.setattr(services.time, "strftime", lambda form, now=now: now)
        assert services.answers(parts)
    assert len(set(asked)) == 2


def test_the_retriever_answers_when_a_search_does_be_it_with_nothing(tmp_path):
    parts = searching(tmp_path, lambda queries, k: [[] for _ in queries])
    assert services.answers(parts)
    parts.world.search = lambda queries, k: [[Passage("1", "", "x")]]
    assert services.answers(parts)

    def broken(queries, k):
        raise OSError("no route")

    parts.world.search = broken
    assert not services.answers(parts)


@pytest.mark.parametrize(
    "result", [None, 3, "text", [], ["text"], [None], [["no passage"]], [[Passage("1", "", "x", float("nan"))]]]
)
def test_a_search_function_that_gives_no_passages_is_not_waited_for(tmp_path, result):
    search = plugins.checked("retriever", "mine", lambda queries, k: result, CONTRACTS["retriever"].made)
    parts = searching(tmp_path, search)
    with pytest.raises(ValueError, match="retriever 'mine' returned .*; wanted a list of passages for each query"):
        services.wait(parts, errors.ServiceDown("4 of 4 searches failed"), 0, None)


def test_a_bug_of_a_search_function_is_not_waited_for(tmp_path):
    """It used to wait an hour for the retriever whose code had the mistake."""
    parts = searching(tmp_path, lambda queries, k: [queries[10**9]])
    with pytest.raises(IndexError, match="list index out of range"):
        services.wait(parts, errors.ServiceDown("4 of 4 searches failed"), 0, None)


def test_a_lost_step_is_made_again_once_the_retriever_answers(tmp_path, monkeypatch):
    go, said, saved, _ = looping(tmp_path, monkeypatch, down={1, 2}, answers=[False, False, True, True])
    go()
    assert sum("step 2 is not counted: 3 of 4 searches failed" in line for line in said) == 2
    assert sum("no answer since" in line for line in said) == 2
    assert sum("the retriever answers; step 2 is made again" in line for line in said) == 2
    assert saved == [3]


def test_no_step_counts_where_the_retriever_answers_one_question_and_fails_the_step(tmp_path, monkeypatch):
    go, said, saved, _ = looping(tmp_path, monkeypatch, down=range(1, 100), answers=[True] * 100, outage_s=0.3)
    with pytest.raises(errors.Outage, match="the retriever failed from .* on, for 0 s; the last time 3 of 4 searches"):
        go()
    assert saved == [1] and 3 <= sum("step 2 is not counted" in line for line in said) <= 7  # pauses double from .01 s
    assert sum("a question was answered, and the step failed again" in line for line in said) >= 2


def test_a_step_that_fails_again_and_then_does_not_is_made(tmp_path, monkeypatch):
    go, said, saved, _ = looping(tmp_path, monkeypatch, down={0, 1, 2, 3}, answers=[True] * 4)
    go()
    assert sum("step 1 is not counted" in line for line in said) == 4 and saved == [3]


def test_a_retriever_that_stays_away_ends_the_run_with_what_it_had(tmp_path, monkeypatch):
    go, said, saved, _ = looping(tmp_path, monkeypatch, down={1}, answers=[False] * 50, outage_s=0.05)
    with pytest.raises(errors.Outage, match="the retriever failed from .* on, for 0 s"):
        go()
    assert saved == [1]


def test_a_run_that_waits_is_stopped_as_any_other(tmp_path, monkeypatch):
    go, said, saved, run = looping(tmp_path, monkeypatch, down={1}, answers=[False] * 50)
    run.stops = lambda: any("no answer since" in line for line in said)
    with pytest.raises(Interrupted):
        go()
    assert saved == [1]


@pytest.mark.thorough
def test_of_a_lost_step_nothing_is_written_and_an_outage_has_an_exit_code_of_its_own(tmp_path, monkeypatch):
    base = tiny(tmp_path)
    settings = replace(
        base,
        sft=replace(base.sft, steps=0),
        evaluation=replace(base.evaluation, questions=2),
        rollout=replace(base.rollout, outage_s=0.01),
        train=replace(base.train, steps=2, checkpoint_every=100),
    )
    over, attempts = rollout_and_grade.over_processes, iter(range(100))

    def failing(statistics):
        whole = over(statistics)
        return replace(whole, searches_sent=4, searches_failed=3) if next(attempts) in (0, 2) else whole

    monkeypatch.setattr(rollout_and_grade, "over_processes", failing)
    answers = iter([True, False, False])
    monkeypatch.setattr(services, "answers", lambda parts: next(answers))
    said = []
    with pytest.raises(SystemExit) as ended:
        train.train(settings, tmp_path / "run", say=said.append)
    assert ended.value.code == errors.SERVICE_DOWN == 5 and "ended by an outage: the retriever failed" in said[-1]
    assert [row["step"] for row in metrics_writer.read(tmp_path / "run")] == [1]
    rows = [json.loads(line) for line in (tmp_path / "run/ledger.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and {row["step"] for row in rows} == {1}
    assert last_checkpoint(tmp_path / "run")[1] == 1


# ---- what fails again is no outage


def asking(tmp_path, search=None, **more):
    """The parts of a run that `services.wait` asks, its sayings, and what is in no cache."""
    said = []
    run = SimpleNamespace(say=said.append, stop_now=lambda: False, stops=lambda: False)
    settings = replace(tiny(tmp_path), rollout=replace(tiny(tmp_path).rollout, search_retries=1, search_deadline_s=5.0))
    world, data = SimpleNamespace(search=search), SimpleNamespace(queries=[QUERY])
    return SimpleNamespace(settings=settings, run=run, world=world, data=data, grading=SimpleNamespace(**more)), said


def raising(error):
    """A search that raises for every fifth text, by its hash, and finds nothing for all others."""

    def search(queries, k):
        if any(zlib.crc32(text.encode()) % 5 == 0 for text in queries if text.startswith("q")):
            raise error
        return [[] for _ in queries]

    return search


BAD = [text for text in (f"q{at}" for at in range(200)) if zlib.crc32(text.encode()) % 5 == 0]


@pytest.mark.parametrize(
    "error", [ValueError("'result' of the answer is a dict"), OSError("answered 500"), RuntimeError("no such shard")]
)
def test_searches_that_fail_again_while_others_are_answered_end_the_run_at_once_with_the_reason(tmp_path, error):
    parts, said = asking(tmp_path, raising(error))
    with pytest.raises(errors.FailsAgain) as ended:
        services.wait(parts, errors.ServiceDown("3 of 4 searches failed", failed=BAD[:3]), 2, None)
    told = f"the search {BAD[0]!r} failed again, asked alone ({type(error).__name__}: {error})"
    assert str(ended.value).endswith(f"This is no outage, for the retriever answers other questions: {told}")
    assert len(said) == 1 and "step 3 is not counted" in said[0]


def test_a_search_that_hangs_again_while_others_are_answered_ends_the_run_too(tmp_path):
    parts, _ = asking(tmp_path, lambda queries, k: time.sleep(60 * (queries == ["q"])) or [[] for _ in queries])
    parts.settings = replace(parts.settings, rollout=replace(parts.settings.rollout, search_deadline_s=0.2))
    with pytest.raises(errors.FailsAgain, match="the search 'q' failed again, asked alone .no result"):
        services.wait(parts, errors.ServiceDown("3 of 4 searches failed", failed=["q"]), 2, None)


def test_searches_that_a_retriever_answers_once_it_is_back_are_an_outage_s(tmp_path, monkeypatch):
    """Down for two questions, back, and down again for one while what had failed is asked again."""
    monkeypatch.setattr(services, "FIRST_PAUSE_S", 0.01)
    asked = []

    def search(queries, k):
        asked.append(queries[0])
        if len(asked) < 3 or 5 <= len(asked) <= 7:  # with one retry
            raise OSError("gave no answer: connection refused")
        return [[] for _ in queries]

    parts, said = asking(tmp_path, search)
    lost = services.wait(parts, errors.ServiceDown("3 of 4 searches failed", failed=["q1", "q2"]), 2, None)
    assert lost.tries == 1 and said[-1] == "the retriever answers; step 3 is made again"
    assert [text for text in asked if text.startswith("q")] == ["q1", "q2", "q2"]


def test_answers_that_a_judge_cannot_grade_again_end_the_run_and_those_that_it_can_are_waited_for(tmp_path):
    lost = {"Oslo"}

    def reward(query, episodes):
        return Scores(np.array([np.nan if episode.answer in lost else 1.0 for episode in episodes]))

    none = np.zeros(0, np.int32)
    episodes = [
        Episode(QUERY, at, 0, none, none > 0, none, none, (), answer, "answered", True)
        for at, answer in enumerate(("Oslo", "Bergen"))
    ]
    failed = grading.grade(reward, "r", 0, 0, QUERY, episodes)
    assert failed.spent.ungraded == 1
    parts, _ = asking(tmp_path, reward=reward)
    down = errors.ServiceDown("3 of 4 groups could not be graded", "reward", [failed])
    with pytest.raises(errors.FailsAgain, match="query 'q' could not be graded again .reward .* gave nan for sample 0"):
        services.wait(parts, down, 4, None)
    lost.clear()
    parts, said = asking(tmp_path, reward=reward)
    services.wait(parts, down, 4, None)
    assert said[-1] == "the reward answers; step 5 is made again"


def searches_its_questions(tmp_path, url):
    """A run without a cold start, each of whose episodes searches its question on the server."""
    base = tiny(tmp_path)
    return replace(
        base, env=use("searching.searching", short=True), sft=replace(base.sft, steps=0),
        retriever=use("http", url=url, retries=0, pause_after=1000, timeout_s=5.0),
        evaluation=replace(base.evaluation, questions=2), rollout=replace(base.rollout, search_retries=1),
        train=replace(base.train, steps=2, checkpoint_every=1),
    )  # fmt: skip


def test_a_server_with_passages_that_cannot_be_read_ends_the_run_with_the_reason_and_saves_it(tmp_path):
    """The same step was made again for an hour."""
    good, broken = {"document": {"id": "1", "contents": "x"}}, {"document": {"id": "2", "contents": 7}}
    first = []

    def answered(head, body):
        first.extend(body["queries"][:1] if not first else ())  # of the preflight, before anything is trained on
        fails = [text for text in body["queries"] if text not in first and zlib.crc32(text.encode()) % 4]
        broken_for = [text for text in fails if "?" in text and not text.startswith(services.QUESTION)]
        return raw({"result": [[broken if text in broken_for else good] for text in body["queries"]]})

    said = []
    with server(answered) as (url, _), pytest.raises(SystemExit) as ended:
        train.train(searches_its_questions(tmp_path, url), tmp_path / "run", say=said.append)
    assert ended.value.code == errors.SERVICE_DOWN
    assert (
        said[-1].startswith("ended: ") and "This is no outage" in said[-1] and "failed again, asked alone" in said[-1]
    )
    assert "its fields: id, contents" in said[-1] and "the same command resumes the run" in said[-1]
    assert not any("made again" in line or "asking again" in line for line in said)
    assert last_checkpoint(tmp_path / "run")[1] == 0


def test_a_server_that_is_down_for_a_while_is_waited_for_and_the_run_goes_on_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(services, "FIRST_PAUSE_S", 0.01)
    said, down = [], [False]

    def answered(head, body):
        if down[0]:
            raise EOFError
        return raw({"result": [[{"document": {"id": "1", "contents": "x"}}] for _ in body["queries"]]})

    def say(text):
        said.append(text)
        down[0] = text.startswith("before training") or (down[0] and "no answer since" not in text)

    with server(answered) as (url, _):
        train.train(searches_its_questions(tmp_path, url), tmp_path / "run", say=say)
    assert any("step 1 is not counted: " in line and "gave no answer" in line for line in said), said
    assert "the retriever answers; step 1 is made again" in said
    assert [row["step"] for row in metrics_writer.read(tmp_path / "run")] == [1, 2]
