"""Questions and trajectories from a corpus: by a scripted teacher over loopback, killed and resumed."""

import itertools
import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import teacher_server
from judge_server import choosy, completion
from judge_server import serving as serving_replies

from qr_jax.answers import exact_match
from qr_jax.cli import cli, interrupts
from qr_jax.data import readers
from qr_jax.data.traces import check_played, read_traces
from qr_jax.dialect import read
from qr_jax.lab import hf_folder
from qr_jax.methods.envs import several_tools
from qr_jax.records import Passage, Query
from qr_jax.search.retrievers.bm25 import bm25
from qr_jax.sets import data_check
from qr_jax.sets.synth import card, run, synthesise
from qr_jax.sets.synth import library as links
from qr_jax.sets.synth.draft import Chance, Draft, Refused, check_words
from qr_jax.sets.synth.generators import GENERATORS, chains, iterative_search, questions_of_chain, walked
from qr_jax.sets.synth.journal import Journal
from qr_jax.sets.synth.library import Library
from qr_jax.sets.synth.prompts import ANSWER
from qr_jax.sets.synth.repeats import Repeats
from qr_jax.sets.synth.synthesise import in_order, interleaved
from qr_jax.sets.synth.teacher import Bounds, Ended, Teacher, connect, text_of
from qr_jax.sets.synth.verify import verify
from qr_jax.settings.settings import Use

FIRST = ("Bar", "Tor", "Vel", "Mon", "Kar", "Lis", "Hol", "Gran")
PLACES = [first + last for first in FIRST for last in ("ton", "ford", "berg", "dale", "wick", "mere", "stad")]


def made_corpus(file):
    """56 passages of made words; each mentions two of the next places."""
    word = lambda at, number: f"w{at:02}x{number}"  # noqa: E731
    with file.open("w") as lines:
        for at, place in enumerate(PLACES):
            near, far = PLACES[(at + 1) % len(PLACES)], PLACES[(at + 9) % len(PLACES)]
            words = [word(at, number) for number in range(12)]
            text = f"{place} lies beside {near} and sells {' '.join(words[:6])} to {far} for {' '.join(words[6:])}."
            lines.write(json.dumps({"id": f"p{at}", "title": place, "text": text}) + "\n")
    return file


def library(texts):
    passages = [Passage(f"e{at}", title, text) for at, (title, text) in enumerate(texts)]
    return Library(passages, None, bm25(corpus=passages))


@pytest.fixture(autouse=True)
def _no_real_questions(tmp_path, monkeypatch):
    monkeypatch.setenv("QR_JAX_DATA", str(tmp_path / "none"))


@pytest.fixture
def teacher():
    return teacher_server.Teacher(wait_s=0.001, limited=0)


def asked(folder, url, **more):
    corpus = folder / "corpus.jsonl"
    if not corpus.is_file():
        made_corpus(corpus)
    return run.Asked(str(corpus), folder / "out", url, "scripted", **{"questions": 6, **more})


def words_of(folder, url, *more):
    """A command that asks the teacher at this URL."""
    corpus = made_corpus(folder / "corpus.jsonl")
    return ["synth", str(corpus), str(folder / "out"), "--teacher", url, "--model", "scripted", *more]


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


# ---- the whole of it


@pytest.mark.thorough
def test_killed_twice_and_started_again_no_answer_that_was_kept_is_asked_for_twice(tmp_path, teacher):
    corpus, out = made_corpus(tmp_path / "corpus.jsonl"), tmp_path / "out"
    slow = teacher_server.Teacher(wait_s=0.004)
    with teacher_server.serving(slow) as url:
        words = [sys.executable, "-m", "qr_jax", "synth", str(corpus), str(out), "--teacher", url]
        words += ["--model", "scripted", "--questions", "8", "--json"]
        code, printed, error = teacher_server.killed(words, out / "journal" / "calls.jsonl", (30, 100))
        assert code == 0, error
        kept = [row["call"] for row in rows(out / "journal" / "calls.jsonl") if row["event"] == "answered"]
        assert len(kept) == len({*kept}) and slow.sent[200] <= len(kept) + 2 * 8, "calls under way at a kill"
        assert slow.sent[503] + slow.sent[429] > 0  # those were made again
        found = json.loads(printed)
        assert found["questions"] == 8 and found["trajectories"] == 8
        assert found["calls"] == len(kept) and found["tokens_in"] > 0
        sent = slow.sent[200]
        again = teacher_server.killed(words, out / "journal" / "calls.jsonl", ())
        assert again[0] == 0 and slow.sent[200] == sent
    questions, traces = readers.read_queries(out / "questions.jsonl"), read_traces(out / "traces.jsonl")
    assert not data_check.check(out / "questions.jsonl").errors
    verl = readers.read_queries(out / "questions.parquet")
    assert [(query.id, query.question, query.answers) for query in verl] == [
        (query.id, query.question, query.answers) for query in questions
    ]
    ids = {passage.id for passage in readers.read_passages(corpus)}
    assert all(set(query.meta["supporting"]) <= ids for query in questions)
    assert all(len(query.entities) == query.meta["hops"] for query in questions)
    for trace in traces:
        acts = [read(turn)[0][0] for turn in trace.turns]
        assert [act.name for act in acts[:-1]] == ["search"] * (len(acts) - 1) and len(acts) > 1
        assert exact_match(acts[-1].text, trace.query.answers)
    card = (out / "card.md").read_text()
    assert "| link_walk |" in card and "`scripted`" in card and "Not compared with**: nq" in card
    assert str(tmp_path) not in card


def test_neither_threads_nor_a_second_run_change_what_is_made(tmp_path, teacher):
    with teacher_server.serving(teacher) as url:
        first = run.run(asked(tmp_path, url), say=print)
        files = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.jsonl")}
        sent = teacher.sent.total()
        run.run(asked(tmp_path, url), say=print)
        assert teacher.sent.total() == sent
        run.run(replace(asked(tmp_path, url), out=tmp_path / "alone", at_once=1), say=print)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.jsonl")} == files
    assert {path.name: path.read_bytes() for path in (tmp_path / "alone").glob("*.jsonl")} == files
    assert first["questions"] == 6 and set(first["generators"]) == set(GENERATORS)


def test_a_spent_budget_ends_in_order_and_a_larger_one_goes_on(tmp_path, teacher):
    with teacher_server.serving(teacher) as url:
        short = run.run(asked(tmp_path, url, bounds=Bounds(calls=30)), say=print)
        assert short["ended"] == "the budget of 30 calls is spent" and short["calls"] == 30
        assert "**Not finished**: the budget of 30 calls" in (tmp_path / "out" / "card.md").read_text()
        tokens = run.run(asked(tmp_path, url, bounds=Bounds(tokens=short["tokens_in"])), say=print)
        assert "tokens is spent" in tokens["ended"] and tokens["calls"] == 30
        whole = run.run(asked(tmp_path, url, price=(1.0, 2.0)), say=print)
        assert whole["ended"] is None and whole["questions"] == 6 and max(teacher.answered.values()) == 1
        assert whole["cost"] == pytest.approx((whole["tokens_in"] + 2 * whole["tokens_out"]) / 1e6)


@pytest.mark.parametrize(("by", "stopped"), [("Ctrl-C", KeyboardInterrupt), ("SIGTERM", SystemExit)])
def test_a_stop_writes_what_was_settled_and_the_way_is_told_with_cost_and_time_left(
    tmp_path, teacher, monkeypatch, by, stopped
):
    monkeypatch.setattr(synthesise, "EVERY_S", 0.0)
    told: list[str] = []

    def say(text: str) -> None:
        told.append(text)
        if text.startswith("questions 3/6"):
            raise KeyboardInterrupt if by == "Ctrl-C" else os.kill(os.getpid(), signal.SIGTERM)

    with teacher_server.serving(teacher) as url:
        with pytest.raises(stopped), interrupts.hearing_sigterm():
            run.run(asked(tmp_path, url, price=(1.0, 1.0)), say=say)
        assert len(rows(tmp_path / "out" / "questions.jsonl")) == 3
        assert f"**Not finished**: stopped by {by}" in (tmp_path / "out" / "card.md").read_text()
        assert "tokens, cost 0." in told[-1] and re.search(r"  \d+ s left of the questions$", told[-1])
        whole = run.run(asked(tmp_path, url), say=told.append)
    assert whole["questions"] == whole["trajectories"] == 6 and max(teacher.answered.values()) == 1
    assert any(text.endswith("left of the trajectories") for text in told)


def test_tool_call_s_trajectories_search_in_parallel(tmp_path, teacher):
    with teacher_server.serving(teacher) as url:
        run.run(asked(tmp_path, url, env=Use("tool_call"), traces=9), say=print)
    traces = read_traces(tmp_path / "out" / "traces.jsonl")
    calls = [json.loads(read(turn)[0][0].text) for trace in traces for turn in trace.turns[:-1]]
    assert max(len(call["arguments"]["queries"]) for call in calls) > 1
    assert len(traces) > len({trace.query.question for trace in traces})  # several of a question, all different
    assert len({(trace.query.question, trace.turns) for trace in traces}) == len(traces)


def test_trajectories_with_tools_call_several_of_them_and_can_be_trained_on(tmp_path, teacher):
    tools = (Use("search"), Use("calculator"))
    with teacher_server.serving(teacher) as url:
        with pytest.raises(ValueError, match="--tool, and env 'tool_call' calls none; give --env several_tools"):
            run.run(asked(tmp_path, url, env=Use("tool_call"), tools=tools), say=print)
        run.run(asked(tmp_path, url, env=Use("several_tools"), tools=tools), say=print)
    traces = read_traces(tmp_path / "out" / "traces.jsonl")
    calls = [json.loads(block.text) for trace in traces for turn in trace.turns[:-1] for block in read(turn)[0]]
    assert {call["name"] for call in calls} == {"search", "calculator"} and len(traces) >= 4
    check_played(traces, several_tools.several_tools, several_tools.expert_turn)


def test_what_stands_in_an_evaluation_set_or_was_asked_before_is_refused(tmp_path, teacher):
    with teacher_server.serving(teacher) as url:
        run.run(asked(tmp_path, url), say=print)
        first = rows(tmp_path / "out" / "questions.jsonl")[0]
        held_out = tmp_path / "held_out.jsonl"
        held_out.write_text(json.dumps({"id": "t1", "question": first["question"].upper(), "answers": ["x"]}) + "\n")
        again = run.run(replace(asked(tmp_path, url), out=tmp_path / "new", against=(str(held_out),)), say=print)
    assert sum(again["rejects"]["question"]["stands in an evaluation set"].values()) == 1
    assert first["id"] not in {row["id"] for row in rows(tmp_path / "new" / "questions.jsonl")}
    (reject,) = [row for row in rows(tmp_path / "new" / "rejects.jsonl") if "evaluation" in row["reason"]]
    assert reject["question"] == first["question"] and reject["detail"] == "t1"


def test_rows_that_the_user_added_are_set_aside_and_said(tmp_path, capsys, teacher):
    out = tmp_path / "out"
    with teacher_server.serving(teacher) as url:
        words = words_of(tmp_path, url, "--questions")
        assert cli.main([*words, "1"]) == 0 and cli.main([*words, "2"]) == 0 and len(list(out.glob("*.before*"))) == 0
        with (out / "questions.jsonl").open("a") as file:
            file.write('{"mine": 1}\n')
        assert cli.main([*words, "3"]) == 0
    assert "questions.before.jsonl has what stood there before" in "".join(capsys.readouterr())
    assert (out / "questions.before.jsonl").read_text().endswith('{"mine": 1}\n')


def test_a_folder_of_somebody_else_has_nothing_written_through_its_links_and_no_pipe_is_waited_for(
    tmp_path, capsys, teacher
):
    out, mine = tmp_path / "out", tmp_path / "bashrc"
    mine.write_text("mine")
    with teacher_server.serving(teacher) as url:
        words = words_of(tmp_path, url, "--questions", "1")
        assert cli.main(words) == 0
    capsys.readouterr()
    for name in ("run.lock", "journal/calls.jsonl", "questions.jsonl", "card.md"):
        for put in (lambda path: path.symlink_to(mine), lambda path: path.symlink_to(tmp_path / "new"), os.mkfifo):
            kept = (out / name).read_bytes() if (out / name).exists() else None
            (out / name).unlink(missing_ok=True)
            put(out / name)
            assert cli.main(words) == 2
            assert f"{out} holds what qr-jax does not write:\n  {name}: " in capsys.readouterr().err
            (out / name).unlink()
            if kept is not None:
                (out / name).write_bytes(kept)
    assert mine.read_text() == "mine" and not (tmp_path / "new").exists()


def test_a_folder_begun_otherwise_or_with_other_files_is_left_alone(tmp_path, capsys, teacher):
    with teacher_server.serving(teacher) as url:
        words = words_of(tmp_path, url, "--questions", "1")
        assert cli.main(words) == 0
        before = (tmp_path / "out" / "questions.jsonl").read_bytes()
        assert cli.main([*words[:-1], "2"]) == 0 and (tmp_path / "out" / "questions.jsonl").read_bytes() != before
    before = (tmp_path / "out" / "questions.jsonl").read_bytes()
    assert (
        cli.main(words) == 2 and "out holds 2 questions, and --questions 1 would leave fewer" in capsys.readouterr().err
    )
    assert (tmp_path / "out" / "questions.jsonl").read_bytes() == before
    assert cli.main([*words, "--seed", "2"]) == 2
    assert "was begun otherwise" in (said := capsys.readouterr().err) and "seed: 0 in the first, 2" in said
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert cli.main([*words[:2], str(tmp_path / "mine"), *words[3:]]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir() if path.name != "run.lock"] == ["notes.txt"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--teacher", "templates"], "templates were removed; a language model writes the questions: --teacher URL"),
        (["--model", ""], "an argument is empty"),
        (["--teacher", "http://me:secret@host/v1", "--model", "m"], "--teacher: the URL is"),
        (["--against", "nowhere.jsonl"], "--against: no file nowhere.jsonl"),
        (["retriever.k3=1"], "retriever 'bm25' has no setting 'k3'"),
    ],
)
def test_what_cannot_be_asked_is_one_line(tmp_path, capsys, words, says):
    assert cli.main(words_of(tmp_path, "http://127.0.0.1:9/v1", *words)) == 2
    assert says in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert cli.main(words_of(tmp_path, "http://127.0.0.1:9/v1")) == 2
    assert "out is a file; give OUT the name of a folder" in capsys.readouterr().err


def test_a_corpus_that_is_not_there_is_said_before_the_evaluation_sets_are_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run.suite, "sets", None)
    words = words_of(tmp_path, "http://127.0.0.1:9/v1")
    assert cli.main([words[0], str(tmp_path / "none.jsonl"), *words[2:]]) == 2
    assert "none.jsonl" in (error := capsys.readouterr().err) and error.count("\n") == 1


# ---- the teacher


def opened(folder, url, **bounds):
    journal = Journal(folder / "calls.jsonl")
    bound = Bounds(**{"timeout_s": 5.0, "patience_s": 5.0, **bounds})
    return Teacher(connect(url, bound), "m", journal, bound)


def ask(teacher, question="q", sample=0):
    return teacher.ask(ANSWER, {"question": question}, lambda reply: text_of(reply, "answer"), sample=sample)


def replies(*texts):
    """A reply for each request, as they come; a tuple is a whole response."""
    return lambda data, count: texts[count - 1] if isinstance(texts[count - 1], tuple) else completion(texts[count - 1])


def test_a_reply_that_is_no_json_is_asked_for_once_more_with_what_was_wrong(tmp_path):
    with serving_replies(replies("Sure!", '<think>{}</think>```json\n{"answer": " a  b "}\n```')) as (url, seen):
        teacher = opened(tmp_path, url)
        assert ask(teacher) == "a b" and ask(teacher) == "a b" and len(seen) == 2
        assert seen[1]["messages"][2:3] == [{"role": "assistant", "content": "Sure!"}]
        assert "not one JSON object" in seen[1]["messages"][3]["content"]
    with serving_replies(replies('{"answer": 1}', "[]")) as (url, _):
        with pytest.raises(Refused) as refused:
            ask(opened(tmp_path / "new", url))
        assert refused.value.reason == "no JSON as asked"


@pytest.mark.parametrize("status", [400, 422])
def test_a_teacher_that_refuses_a_limit_a_temperature_or_a_seed_is_asked_without_and_loses_no_call(tmp_path, status):
    def reply(data):
        return completion('{"answer": "x"}')

    refused = ("max_tokens", "temperature", "seed")
    with choosy(*refused, status=status, reply=reply) as (url, seen):
        teacher = opened(tmp_path, url)
        assert [ask(teacher, sample=at) for at in range(3)] == ["x"] * 3 and len(seen) == 3 + len(refused)
        assert teacher.calls == 3 and teacher.journal.failed == 0
        assert seen[-1]["max_completion_tokens"] == 1024 and not {*refused} & {*seen[-1]}
        assert [row["sample"] for row in rows(tmp_path / "calls.jsonl") if row["event"] == "answered"] == [0, 1, 2]
        assert [ask(opened(tmp_path, url), sample=at) for at in range(3)] == ["x"] * 3, "by the journal"
    with choosy(*refused, reply=reply, said="no") as (url, seen):
        with pytest.raises(Refused):
            ask(opened(tmp_path / "new", url))
        assert ask(opened(tmp_path / "new", url, leave_out=refused)) == "x" and len(seen) == 2


@pytest.mark.parametrize(
    ("status", "look_at"),
    [
        (401, "is the key (QR_JAX_TEACHER_KEY) right"),
        (403, "is the key (QR_JAX_TEACHER_KEY) right"),
        (404, "is the URL's path right"),
    ],
)
def test_a_teacher_s_refusal_says_what_to_look_at(tmp_path, status, look_at):
    with serving_replies(lambda data, count: (status, "no")) as (url, _), pytest.raises(Refused) as refused:
        ask(opened(tmp_path, url))
    assert look_at in refused.value.detail
    with serving_replies(lambda data, count: (500, "no")) as (url, _), pytest.raises(Ended, match="its log says why"):
        ask(opened(tmp_path, url, patience_s=0.5))


def test_a_teacher_takes_a_setting_named_in_another_case_and_a_text_in_parts(tmp_path):
    parts = [{"type": "text", "text": "{'answer': "}, {"type": "text", "text": "'x',}"}]
    reply = {"choices": [{"message": {"content": parts}}]}
    with choosy("max_tokens", said="maxTokens?", reply=lambda data: (200, json.dumps(reply))) as (url, seen):
        assert ask(opened(tmp_path, url)) == "x" and seen[1]["max_completion_tokens"] == 1024


def test_what_a_teacher_is_not_sent_is_an_option():
    words = ["synth", "corpus", "out", "--leave-out", "seed", "--leave-out", "temperature"]
    assert cli.make_parser().parse_args(words).leave_out == ["seed", "temperature"]
    with pytest.raises(ValueError, match="--teacher: sed cannot be left out of a request"):
        connect("http://127.0.0.1:9/v1", Bounds(leave_out=("sed",)))


def test_a_teacher_s_echo_of_the_key_is_written_nowhere_and_counts_that_none_has_are_estimated(tmp_path, monkeypatch):
    monkeypatch.setenv("QR_JAX_TEACHER_KEY", "s3cr3t-0f-the-lab")
    reply = {"choices": [{"message": {"content": '{"answer": "s3cr3t-0f-the-lab"}'}}]}
    with serving_replies(lambda data, count: (200, json.dumps(reply | {"usage": {
        "prompt_tokens": 10**400, "completion_tokens": 1}}))) as (url, _):  # fmt: skip
        teacher = opened(tmp_path, url)
        assert ask(teacher) == "[redacted]" and 0 < teacher.tokens_in < 10**6
    assert "s3cr3t" not in (tmp_path / "calls.jsonl").read_text()


def test_a_key_with_a_line_s_end_is_sent_without_it_and_one_that_no_header_holds_is_refused_unshown(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("QR_JAX_TEACHER_KEY", "s3cr3t-0f/the-lab\n")
    told = '{"error": "no such key s3cr3t-0f\\/the-lab"}'
    with (
        serving_replies(lambda data, count: (401, told)) as (url, _),
        pytest.raises(Refused, match="the endpoint refused"),
    ):
        ask(opened(tmp_path, url))
    assert "no such key [redacted]" in (tmp_path / "calls.jsonl").read_text()
    assert "the-lab" not in (tmp_path / "calls.jsonl").read_text()
    monkeypatch.setenv("QR_JAX_TEACHER_KEY", "two s3cr3t words")
    with pytest.raises(ValueError, match="--teacher: the environment variable QR_JAX_TEACHER_KEY has 16 char") as error:
        connect("http://127.0.0.1:9/v1", Bounds())
    assert "s3cr3t" not in str(error.value)


def test_failures_are_made_again_a_pause_that_is_asked_for_is_kept_and_answers_are_not_asked_again(tmp_path):
    said = replies(
        (500, "oops"), (429, "slow", ("Retry-After", "1")), (200, "{}"), '{"answer": "x"}', '{"answer": "y"}'
    )
    with serving_replies(said) as (url, seen):
        teacher = opened(tmp_path, url, patience_s=30.0)
        assert ask(teacher) == "x" and len(seen) == 4
        assert ask(teacher, sample=1) == "y" and [one["seed"] for one in seen] == [0, 0, 0, 0, 1]
        assert (teacher.calls, teacher.journal.failed) == (2, 3)
        again = opened(tmp_path, url)
        assert ask(again) == "x" and ask(again, sample=1) == "y" and again.calls == 2 and len(seen) == 5
    (answered,) = [row for row in rows(tmp_path / "calls.jsonl") if row["event"] == "answered" and row["sample"] == 0]
    assert answered["tries"] == 4 and answered["seconds"] >= 1


def test_a_pause_longer_than_all_patience_holds_no_call_up(tmp_path):
    """One thread is told to wait for a day while the others have failed and wait to try again."""
    first = iter([True])

    def reply(data, count):
        if next(first, False):
            return 429, "slow", ("Retry-After", "86400")
        time.sleep(0.2)
        return 503, "oops"

    with serving_replies(reply) as (url, _), ThreadPoolExecutor(4) as threads:
        teacher, began = opened(tmp_path, url, patience_s=3.0), time.monotonic()
        asked = [threads.submit(ask, teacher, f"q{at}") for at in range(4)]
        for one in asked:
            with pytest.raises(Ended, match="the teacher gives no answer"):
                one.result()
        with pytest.raises(Ended, match="the teacher gives no answer"):
            ask(teacher, "another")
    assert time.monotonic() - began < 10


def test_half_an_emoji_in_a_reply_is_found_again_in_the_journal(tmp_path):
    """The second question holds the first reply, and a call's key is a hash of what is sent."""
    half = r'{"choices": [{"message": {"content": "a\ud83d"}}]}'

    def first(data, count):
        return 200, half if count == 1 else '{"choices": [{"message": {"content": "{\\"answer\\": \\"y\\"}"}}]}'

    with serving_replies(first) as (url, seen):
        assert [ask(opened(tmp_path, url)) for _ in range(2)] == ["y", "y"] and len(seen) == 2


def test_a_reply_much_longer_than_what_was_asked_for_is_none(tmp_path):
    long = json.dumps({"answer": "x" * 500})
    with serving_replies(replies(long, long, '{"answer": "y"}')) as (url, seen):
        assert ask(opened(tmp_path, url, reply_tokens=10)) == "y" and len(seen) == 3
    text = (tmp_path / "calls.jsonl").read_text()
    assert text.count(" characters, where 10 tokens were asked for") == 2
    assert "xxx" not in text


def test_an_endpoint_that_refuses_everything_or_is_gone_ends_the_work_without_its_key(tmp_path, monkeypatch):
    monkeypatch.setenv("QR_JAX_TEACHER_KEY", "sesame-7")
    with serving_replies(lambda data, count: (401, "no such key sesame-7")) as (url, seen):
        teacher = opened(tmp_path, url)
        for at in range(7):
            with pytest.raises(Refused):
                ask(teacher, str(at))
        with pytest.raises(Ended, match=r"refuses every prompt.*\[redacted\]"):
            ask(teacher, "8")
        with pytest.raises(Ended):
            ask(teacher, "9")
        assert len(seen) == 8 and {one["key"] for one in seen} == {"Bearer sesame-7"}
    assert "sesame-7" not in (tmp_path / "calls.jsonl").read_text()
    with pytest.raises(Ended, match="gives no answer"):
        ask(opened(tmp_path / "new", "http://127.0.0.1:9/v1", patience_s=0.5))


def test_a_teacher_that_does_not_answer_is_said_at_once_and_once(tmp_path):
    said = []
    url = "http://127.0.0.1:9/v1"
    found = run.run(asked(tmp_path, url, at_once=2, bounds=Bounds(timeout_s=5.0, patience_s=2.0)), said.append)
    assert found["ended"].startswith("the teacher gives no answer")
    (line,) = [line for line in said if line.startswith("the teacher has not answered")]
    assert "refused" in line and re.search(r"; it is asked again until \d\d:\d\d:\d\d \(--patience-s\)$", line)


def test_openai_s_key_goes_to_openai_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("QR_JAX_TEACHER_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    with serving_replies(replies('{"answer": "x"}')) as (url, seen):
        ask(opened(tmp_path, url))
    assert seen[0]["key"] is None
    headers = dict(connect("https://api.openai.com/v1", Bounds())._headers)
    assert headers["Authorization"] == "Bearer sk-mine"


def test_threads_that_ask_the_same_make_one_call(tmp_path, teacher):
    release = threading.Event()

    def reply(data, count):
        release.wait(5)
        return completion('{"answer": "x"}')

    with serving_replies(reply) as (url, seen):
        asking, said = opened(tmp_path, url), []
        threads = [threading.Thread(target=lambda: said.append(ask(asking))) for _ in range(4)]
        for thread in threads:
            thread.start()
        release.set()
        for thread in threads:
            thread.join()
    assert said == ["x"] * 4 and len(seen) == 1


def test_a_journal_reads_on_after_a_line_that_a_kill_cut_off(tmp_path):
    file = tmp_path / "calls.jsonl"
    journal = Journal(file)
    journal.answer("a", {"reply": "x", "tokens": [3, 1]})
    journal.no_answer("b", "500")
    journal.close()
    strange = ['{"call": ["a"], "event": "asked"}', "[" * 100_000, '{"call": "f", "event": "answered", "reply": 5}']
    strange.append('{"call": "g", "event": "answered", "reply": "x", "tokens": [1, 1' + "0" * 400 + "]}")
    with file.open("a") as end:
        end.write("\n".join([*strange, '{"call": "d", "eve']))
    again = Journal(file)
    assert (set(again.answers), again.failed) == ({"a"}, 1)
    again.answer("e", {"reply": "y", "tokens": [1, 1]})
    assert {*Journal(file).answers} == {"a", "e"}


GOLD = "red green blue white black"


@pytest.mark.parametrize(
    ("reason", "read", "supported"),
    [
        (None, lambda shown, count: GOLD if shown == 2 else None, [GOLD]),
        ("not answered from its passages", lambda shown, count: "yellow", [GOLD]),
        ("two samplings disagree", lambda shown, count: GOLD[4:] if count == 1 else GOLD[:-6], [GOLD]),
        ("answered without its passages", lambda shown, count: GOLD if shown != 1 else None, [GOLD]),
        ("answered from one passage", lambda shown, count: GOLD if shown else None, [GOLD]),
        ("not the only answer", lambda shown, count: GOLD if shown == 2 else None, [GOLD, "yellow"]),
        ("no answer supported", lambda shown, count: GOLD if shown == 2 else None, []),
    ],
)
def test_a_question_is_verified_in_separate_calls(tmp_path, reason, read, supported):
    books = library((("A", "red of B"), ("B", "green"), ("C", "which colours of B")))
    made = replace(draft("Which colours?", GOLD), passages=tuple(books.passages[:2]))

    def reply(data, count):
        if "List every" in seen[-1]["messages"][0]["content"]:
            assert [passage["title"] for passage in data["passages"]] == ["A", "B", "C"]  # C is another that is found
            return completion(json.dumps({"answers": supported}))
        return completion(json.dumps({"answer": read(len(data["passages"]), count)}))

    with serving_replies(reply) as (url, seen):
        if reason is None:
            verify(made, books, opened(tmp_path, url))
            assert len(seen) == 6 and all(len(one["messages"]) == 2 for one in seen)
        else:
            with pytest.raises(Refused) as refused:
                verify(made, books, opened(tmp_path, url))
            assert refused.value.reason == reason


@pytest.mark.parametrize(("kind", "refused"), [("walk of 3", True), ("2 rounds", True), ("comparison of 3", False)])
def test_a_chain_is_asked_without_each_of_its_passages_and_a_comparison_is_not(tmp_path, kind, refused):
    books = library((("A", "red of B"), ("B", "green"), ("C", "blue of B")))
    made = replace(draft("Which colours?", GOLD), passages=tuple(books.passages), type=kind)

    def reply(data, count):
        if "List every" in seen[-1]["messages"][0]["content"]:
            return completion(json.dumps({"answers": [GOLD]}))
        shown = [passage["title"] for passage in data["passages"]]
        return completion(json.dumps({"answer": GOLD if shown in (["A", "B", "C"], ["A", "C"]) else None}))

    with serving_replies(reply) as (url, seen):
        if refused:
            with pytest.raises(Refused, match="a hop can be skipped") as said:
                verify(made, books, opened(tmp_path, url))
            assert said.value.detail == "B" and len(seen) == 2 + 1 + 3 + 2
        else:
            verify(made, books, opened(tmp_path, url))
            assert len(seen) == 2 + 1 + 3 + 1


# ---- links, walks, repeats


def test_titles_that_other_passages_mention_are_links():
    texts = [
        ("Oslo", "Oslo lies near New York City and York, not in newyork."),
        ("York", "York is old."),
        ("New York City", "It has no Refugee."),
        ("Refugee (film)", "A film shot in York."),
        ("it", "No name."),
        ("Twin (a)", "One."),
        ("Twin (b)", "Twin of Oslo."),
    ]
    passages = [Passage(str(at), title, text) for at, (title, text) in enumerate(texts)]
    titles = links.unique_titles(passages)
    assert titles == {"Oslo": 0, "York": 1, "New York City": 2, "Refugee": 3}
    assert links.mentioned(passages, titles) == [(2, 1), (), (3,), (1,), (), (), (0,)]
    assert links.given(passages, [("1", "New York City", "nowhere")] + [()] * 6)[0] == (1, 2)


def test_titles_are_linked_in_every_unicode_form():
    texts = [
        ("Beyoncé Knowles", "She sang."),
        ("Song", "A song by Beyonce\u0301 Knowles."),
        ("हिन्दी भाषा", "हिन्दू is another word, हिन्दी भाषा this."),
        ("हिन्दू भाषा", "Nothing."),  # a vowel sign apart
    ]
    passages = [Passage(str(at), title, text) for at, (title, text) in enumerate(texts)]
    titles = links.unique_titles(passages)
    assert len(titles) == 4 and links.mentioned(passages, titles) == [(), (0,), (), ()]
    assert links.given(passages, [("Beyonce\u0301 Knowles",)] * 4) == [(), (0,), (0,), (0,)]


def test_a_title_that_very_many_mention_links_nothing():
    passages = [Passage("hub", "Oslo", "")] + [Passage(str(at), "", "near Oslo") for at in range(51)]
    assert not any(links.mentioned(passages, {"Oslo": 0})) and any(links.mentioned(passages[:51], {"Oslo": 0}))


def test_a_walk_comes_to_no_passage_twice_and_follows_links():
    corpus = [Passage(str(at), str(at), "") for at in range(5)]
    linked = [("1", "2"), ("0", "2"), ("3",), (), ("0",)]
    books = Library(corpus, linked, lambda queries, k: [])
    walks = [walk for at in range(50) if (walk := walked(books, Chance(0, at), 3))]
    assert walks and all(len(set(walk)) == 3 for walk in walks)
    assert all(str(after) in linked[before] for walk in walks for before, after in itertools.pairwise(walk))


def test_links_in_the_data_are_read_and_wrong_ones_named(tmp_path):
    file = tmp_path / "c.jsonl"
    file.write_text('{"id": "a", "text": "x", "links": ["b"]}\n{"id": "b", "text": "y"}\n')
    passages, named = links.read(str(file))
    assert Library(passages, named, lambda queries, k: []).links == [(1,), ()]
    file.write_text('{"id": "a", "text": "x", "links": "b"}\n')
    with pytest.raises(ValueError, match=r"c\.jsonl row 1: 'links' must be a list"):
        links.read(str(file))


def test_a_question_repeats_another_by_words_or_by_answer_and_evidence():
    def query(name, question, answer, *cited):
        return Query(name, question, (answer,), meta={"supporting": list(cited)})

    repeats = Repeats()
    repeats.add(query("a", "Which city is the capital of Norway?", "Oslo", "p1", "p2"))
    same = [
        query("b", "which city is the capital of norway", "Bergen"),
        query("b", "Where does the Storting sit?", "the Oslo", "p2", "p1"),
        query("b", "Norway has which city as capital?", "Oslo"),
    ]
    assert [repeats.find(one) for one in same] == ["a", "a", "a"]
    other = [
        query("b", "Which city is the capital of Sweden?", "Stockholm"),
        query("b", "Where was Edvard Munch buried?", "Oslo", "p1"),
    ]
    assert [repeats.find(one) for one in other] == [None, None]


def test_candidates_take_turns_and_work_is_settled_in_its_order():
    assert interleaved({"x": 3, "y": 1}) == [("x", 0), ("y", 0), ("x", 1), ("x", 2)]
    halt = threading.Event()
    late = lambda item: (threading.Event().wait(0.02 * (item % 3 == 0)), item)[1]  # noqa: E731
    with in_order(late, range(20), 4, halt) as settled:
        assert [result for _, result in settled] == list(range(20))
    assert not halt.is_set()


def test_no_thread_outlives_what_was_asked_of_it_and_none_writes_into_another_file(tmp_path):
    """An error of the consumer kept the iterator, and its threads wrote to a descriptor that was another file's."""
    halt = threading.Event()

    def slow(item):
        if item:
            halt.wait(60)
        return item

    with pytest.raises(ZeroDivisionError), in_order(slow, range(20), 4, halt) as settled:
        next(settled)
        raise ZeroDivisionError
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("synth")]
    journal = Journal(tmp_path / "calls.jsonl")
    journal.close()
    with open(tmp_path / "other", "wb") as other:
        with pytest.raises(OSError, match="Bad file descriptor"):
            journal.answer("late", {"reply": "", "tokens": [1, 1]})
        assert other.tell() == 0 and os.fstat(other.fileno()).st_size == 0


def test_a_mix_draws_its_generators_as_often_as_it_says():
    drawn = interleaved({"x": 10, "y": 10, "z": 10}, {"x": 3, "y": 1})
    assert drawn[:8] == [("x", 0), ("y", 0), ("x", 1), ("x", 2), ("x", 3), ("y", 1), ("x", 4), ("x", 5)]
    assert len(drawn) == 20 and "z" not in dict(drawn)


class Shelf:
    """A library of six passages, of which a search finds those that are not worn out."""

    passages = [Passage(str(at), f"T{at}", f"text {at}") for at in range(6)]

    def __init__(self, finds):
        self.finds = finds

    def search(self, queries, k):
        self.finds -= 1
        return [self.passages if self.finds >= 0 else []]


class Pupil:
    """A teacher that asks about one thing more each round."""

    def ask(self, prompt, data, read):
        number = len(data.get("known", ()))
        said = {"question": f"question of {number + 1}", "answer": f"answer {number + 1}", "query": f"query {number}"}
        return read(said | {"passage": 1, "hidden": [f"name {number}"]})


def test_a_chain_keeps_its_questions_of_fewer_passages_and_one_that_fails_its_last():
    whole = iterative_search(Shelf(9), Pupil(), Chance(1), documents=(1, 2, 3))
    assert [part.question for part in (*whole.earlier, whole)] == [f"question of {at}" for at in (1, 2, 3)]
    assert [len(part.passages) for part in (*whole.earlier, whole)] == [1, 2, 3] and whole.failed is None
    assert [part.searches for part in whole.earlier] == [(), (("query 0",),)] and len(whole.searches) == 2
    assert whole.hidden == ("name 1", "name 2") and whole.earlier[1].hidden == ("name 1",)
    broken = iterative_search(Shelf(1), Pupil(), Chance(1), documents=(1, 2, 3))
    assert broken.question == "question of 2" and [part.question for part in broken.earlier] == ["question of 1"]
    assert broken.failed.reason == "a search found nothing new"
    assert iterative_search(Shelf(0), Pupil(), Chance(1), documents=(1,)).question == "question of 1"


def test_chains_questions_on_the_way_have_the_shares_that_are_asked_for():
    """All kept, questions of one document would be the most: the paper has 5 in 100."""
    drawn = [count for count, share in card.PAPER_DOCUMENTS.items() for _ in range(share)]
    lengths, kept = chains(drawn)
    assert Counter(lengths) == {2: 9, 3: 7, 4: 6, 5: 6, 6: 6}
    assert kept == {6: 1.0, 5: 1.0, 4: 1.0, 3: 1.0, 2: 1.0, 1: 5 / 34}
    assert questions_of_chain(drawn) == pytest.approx(100 / 34) and questions_of_chain(()) == 2.5
    found = Counter()
    for number in range(2000):
        whole = iterative_search(Shelf(9), Pupil(), Chance(7, number), documents=drawn)
        found.update(len(part.passages) for part in (*whole.earlier, whole))
    shares = {count: 100 * found[count] / found.total() for count in sorted(found)}
    assert shares == pytest.approx(card.PAPER_DOCUMENTS, abs=1.5)


def test_a_mix_counts_questions_and_not_candidates():
    dealt = interleaved({"x": 90, "y": 90}, {"x": 30, "y": 27}, {"x": 3.0})
    begun = Counter(name for name, _ in dealt[:37])
    assert begun == {"x": 10, "y": 27}


def test_a_chain_s_questions_are_each_verified_kept_and_counted(tmp_path, teacher):
    with teacher_server.serving(teacher) as url:
        how = {"mix": {"iterative_search": 1}, "documents": {1: 10, 3: 90}, "questions": 12, "traces": 0}
        found = run.run(asked(tmp_path, url, **how), lambda _: None)
    kept = rows(tmp_path / "out" / "questions.jsonl")
    hops = found["generators"]["iterative_search"]["hops"]
    assert found["questions"] == 12 == sum(hops.values()) and {*found["generators"]} == {"iterative_search"}
    assert len(hops) > 1 and {row["type"] for row in kept} > {"2 rounds"}
    card = (tmp_path / "out" / "card.md").read_text()
    assert "| iterative_search | 100 % | 30 % |" in card and "| link_walk | 0 % | 27 % |" in card
    shares = {name: f"{100 * count / 12:.0f} %" for name, count in hops.items()}
    assert all(f"| needs {name} document{'s' * (name > '1')} | {share} | " in card for name, share in shares.items())
    assert "| needs 6 documents | 0 % | 6 % |" in card and "| DeepResearchGym's set | 0 % | 35 % |" in card
    with pytest.raises(ValueError, match="was begun otherwise"), teacher_server.serving(teacher) as url:
        run.run(asked(tmp_path, url, **how | {"mix": None}), lambda _: None)


def test_the_papers_page_says_the_shares_that_synthesis_has():
    page = (Path(__file__).parents[2] / "docs" / "paper.md").read_text(encoding="utf-8")
    chain, walk, compared = (card.PAPER_MIX[name] for name in ("iterative_search", "link_walk", "comparative_search"))
    said = f"set {card.PAPER_GYM} %, iterative search {chain} %, web graph {walk} %, comparative search {compared} % |"
    assert said in page and f"`qr-jax synth --mix paper`: {chain} to {walk} to {compared};" in page
    *counts, last = card.PAPER_DOCUMENTS.values()
    assert f"| 1 to 6: {', '.join(map(str, counts))} and {last} % |" in page
    parser = cli.make_parser()
    words = ["synth", "corpus", "out", "--mix", "paper", "--documents", "paper"]
    given = parser.parse_args(words)
    assert (given.mix, given.documents) == (card.PAPER_MIX, card.PAPER_DOCUMENTS)


def test_the_paper_s_shares_are_a_word_and_wrong_ones_are_said(tmp_path, capsys):
    assert sum(card.PAPER_MIX.values()) + card.PAPER_GYM == 100 == sum(card.PAPER_DOCUMENTS.values())
    command = words_of(tmp_path, "http://127.0.0.1:9/v1")
    for words, says in (
        (["--mix", "chain=1"], "the generators here are: comparative_search, iterative_search, link_walk"),
        (["--mix", "chain=1,chain=2"], "each name once"),
        (["--mix", "chain=0"], "N from 1 to 999"),
        (["--documents", "1=5"], "wanted numbers of passages from 1 to 6"),
        (["--documents", "2=1,9=1"], "wanted numbers of passages from 1 to 6"),
    ):
        with suppress(SystemExit):
            assert cli.main([*command, *words]) == 2
        assert says in capsys.readouterr().err


# ---- words


def draft(question, *answers, hidden=(), texts=(("A", "x"), ("B", "y"))):
    return Draft(question, answers, tuple(Passage(title, title, text) for title, text in texts), "chain of 2", hidden)


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Where was the director of Grey Harbour born, in Leeds?", "Leeds", "the answer is in the question"),
        ("Where was Nora Quill, the director, born?", "Leeds", "names what must be found"),
        ("Who is <b>?", "Leeds", "signs of a tag"),
        ("Who?", "the", "an empty question or answer"),
        ("Where was the director of Grey Harbour born?", "Leeds", None),
        ("Where was the director of Beyonce\u0301 born?", "Beyoncé", "the answer is in the question"),
        ("Was the director of １９８２ born?", "1982", "the answer is in the question"),
        ("Is no director of Grey Harbour born?", "no", None),  # proves nothing
        ("Is director no. 2 of Grey Harbour born?", "2", None),
    ],
)
def test_what_the_words_alone_show_is_refused(question, answer, reason):
    made = draft(question, answer, hidden=("Nora Quill (director)",))
    if reason is None:
        check_words(made)
        return
    with pytest.raises(Refused) as refused:
        check_words(made)
    assert refused.value.reason == reason


@pytest.mark.slow
def test_the_files_go_straight_into_a_training_run(tmp_path, teacher):
    import jax
    from killed_run import tiny
    from test_real_models import SHORT
    from test_tokenizer import sentencepiece

    from qr_jax.config import Data, Model, use
    from qr_jax.logging import metrics_writer
    from qr_jax.models import decoder, hf
    from qr_jax.models.families import ModelConfig
    from qr_jax.train import train

    corpus, out = tmp_path / "corpus.jsonl", tmp_path / "out"
    env = Use("search_r1", {"max_turns": 2, **SHORT})
    with teacher_server.serving(teacher) as url:
        run.run(asked(tmp_path, url, env=env, k=1), say=print)
    sentencepiece("BPE", "Prepend").save(str(tmp_path / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(described))
    cfg = ModelConfig(512, 32, 2, 4, 2, 8, 64, context_tokens=2048, tied=False)
    params = decoder.init(cfg, jax.random.key(0))
    hf_folder.save(tmp_path / "model", cfg, params, hf.load_tokenizer(tmp_path), "float32")
    settings = tiny(tmp_path)
    questions = str(out / "questions.jsonl")
    settings = replace(
        settings,
        model=Model(name=str(tmp_path / "model"), vocab_block=512),
        data=Data(train=questions, eval=questions, corpus=str(corpus), traces=str(out / "traces.jsonl")),
        env=use("search_r1", max_turns=2, **SHORT),
        pool=replace(settings.pool, min_signal=1),
        rollout=replace(settings.rollout, context_tokens=1024, turn_tokens=256, observation_tokens=192, search_k=1),
        learner=replace(settings.learner, row_tokens=1024, keep_zero_variance=True),
        sft=replace(settings.sft, steps=1, traces=2, max_tokens=1024),
        evaluation=replace(settings.evaluation, questions=2),
        train=replace(settings.train, steps=2),
    )
    said: list[str] = []
    train(settings, tmp_path / "run", say=said.append)
    assert len(metrics_writer.read(tmp_path / "run")) == 2
    assert any("expert traces" in line and " 0 expert" not in line for line in said)
