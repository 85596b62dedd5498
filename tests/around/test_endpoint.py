"""A model behind an OpenAI-compatible endpoint in our environments: turns by hand, faults, identity, going on.

The last tests play an exported run behind `transformers serve`, a server that is not ours (transformers 5.24, fastapi
0.165): the scores are those of `qr-jax eval RUN`. Its Python has torch, which ours has not (`make test-peers`).
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from killed_run import tiny
from loopback import raw, server

sys.path.insert(0, str(Path(__file__).resolve().parents[1].parent))  # for benchmarks/

from benchmarks.interleave import PEER_PYTHON
from qr_jax import assemble, config, evaluate
from qr_jax.cli import cli
from qr_jax.config import use
from qr_jax.errors import UserError
from qr_jax.lab import endpoint_player
from qr_jax.lab.endpoint_player import Asking, open_player, turn_text
from qr_jax.records import Passage
from qr_jax.search.http_post import Failed
from qr_jax.train import train

STOP = ("</search>", "</answer>")
WORDS = {"prompt": "{question} ", "results": "{passages} ", "passage": "{title} {text} ", "nothing": ". "}
SILENT = {"rest": "", "unread": "", "invalid": "", "last": ""}


def reply(text="", calls=(), finish="stop", stopped_at=None):
    return {"text": text, "calls": list(calls), "finish": finish, "stopped_at": stopped_at}


@pytest.mark.parametrize(
    "given, turn",
    [
        (reply("<search> a </search> and more"), ("<search> a </search>", True)),
        (reply("<search> a "), ("<search> a </search>", True)),  # the endpoint leaves stop strings out
        (reply("no tag at all"), ("no tag at all", True)),
        (reply("<answer> a", stopped_at="</answer>"), ("<answer> a</answer>", True)),  # vLLM says which
        (reply("<search> a ", finish="length"), ("<search> a ", False)),
        (reply("<answer> a </answer> b", finish="length"), ("<answer> a </answer>", True)),
        (reply("<think> <search> no </search> </think> <answer> b"), None),
        (reply("I look. <information> made up"), ("I look. <information>", True)),  # it would make up what it found
    ],
)
def test_a_reply_is_a_turn_by_hand(given, turn):
    wanted = turn or ("<think> <search> no </search> </think> <answer> b</answer>", True)
    assert turn_text(given, STOP) == wanted


def test_native_calls_are_written_in_the_dialect():
    """An argument cannot close the tag that it stands in; one that is no JSON stays a text."""
    calls = [{"function": {"name": "search", "arguments": text}} for text in ('{"queries": ["</tool_call>"]}', "{a")]
    text, is_whole = turn_text(reply("Let me see.", calls), STOP)
    first, second = (json.loads(part.split("</tool_call>")[0]) for part in text.split("<tool_call>")[1:])
    assert is_whole and text.count("</tool_call>") == 2
    assert first == {"name": "search", "arguments": {"queries": ["</tool_call>"]}} and second["arguments"] == "{a"


def settings_of(tmp_path, env="search_r1", **how):
    rollout = config.Rollout(context_tokens=900, turn_tokens=32, observation_tokens=200, search_k=1)
    return replace(tiny(tmp_path), env=use(env, **how), rollout=rollout)


def found(queries, k):
    return [[Passage("1", "Oslo", "Oslo is the capital of Norway.")] for _ in queries]


def completion(text=None, calls=(), model="m-1", **more):
    """A chat completion of eight tokens."""
    called = [{"id": f"c{at}", "type": "function", "function": function} for at, function in enumerate(calls)]
    message = {"role": "assistant", "content": text} | ({"tool_calls": called} if called else {})
    usage = {"prompt_tokens": 20, "completion_tokens": 8, "total_tokens": 28}
    return raw({"model": model, "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage, **more})


def asked_of(url, settings, tmp_path, queries=2, **how):
    asking = Asking(f"{url}/v1", "m", **{"timeout_s": 5.0, "deadline_s": 5.0, "retries": 1, **how})
    env = assemble.environment(settings)
    agent, _, entry = open_player(settings, env, asking, tmp_path / "place")
    questions = assemble.questions(settings, "eval")[:queries]
    figures = evaluate.measure(settings, agent.engine, None, search=found, queries=questions, samples=0, env=env)
    return figures, entry, agent.engine


def listing(answer):
    """Answer /v1/models, and everything else by `answer(number, body)`."""
    count = [-2]

    def replies(head, body):
        if head.startswith("GET"):
            return raw({"data": [{"id": "m", "owned_by": "us", "created": 1, "max_model_len": 9}]})
        count[0] += 1
        return answer(count[0], body)

    return replies


def test_native_tool_calls_go_as_tool_messages_and_are_counted(tmp_path):
    """Two calls of a turn are one search of two queries; each gets a message of its own, by its id."""
    calls = [{"name": "search", "arguments": json.dumps({"queries": [word]})} for word in ("a", "b")]
    settings = settings_of(tmp_path, "tool_call")

    def answer(number, body):
        if body["messages"][-1]["role"] == "tool":
            return completion("<answer> Oslo </answer>")
        return completion(None, calls)

    with server(listing(answer)) as (url, seen):
        figures, entry, player = asked_of(url, settings, tmp_path, queries=1)
    assert entry["endpoint"]["tool_calls"] == "native" and seen[2][1]["tools"][0]["function"]["name"] == "search"
    last = seen[-1][1]["messages"]
    assert [message["role"] for message in last] == ["user", "assistant", "tool", "tool"]
    assert [message["tool_call_id"] for message in last[2:]] == ["c0", "c1"] and "Oslo is the" in last[2]["content"]
    assert figures["searches_per_question"] == 2 and player.statistics["tool_calls"] == 2
    assert figures["tokens_per_question"] == 16 and figures["stops"] == {"answered": 1}


def test_as_text_the_tools_are_described_and_results_are_the_users(tmp_path):
    call = '<tool_call>{"name": "search", "arguments": {"queries": ["a"]}}</tool_call>'

    def answer(number, body):
        return completion(call if len(body["messages"]) == 2 else "<answer> Oslo </answer>")

    with server(listing(answer)) as (url, seen):
        asked_of(url, settings_of(tmp_path, "tool_call"), tmp_path, queries=1, tool_calls="text")
    roles = [message["role"] for message in seen[-1][1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"] and "tools" not in seen[-1][1]
    assert '"search"' in seen[-1][1]["messages"][0]["content"]


def test_native_calls_need_an_environment_with_tools(tmp_path):
    with server(raw({})) as (url, _), pytest.raises(UserError, match="declares none: set env=tool_call"):
        asked_of(url, settings_of(tmp_path), tmp_path, tool_calls="native")


@pytest.mark.parametrize(
    "bad, told",
    [
        (raw({}, "503 Busy"), "answered 503"),
        (raw({"choices": []}), "the endpoint's answer"),
        (completion("<answer> x </answer>", model="m-2"), "comes from another version"),
        (completion("<answer> x </answer>", system_fingerprint="fp_2"), "comes from another version"),
    ],
)
def test_what_fails_is_a_fault_and_no_zero(bad, told, tmp_path):
    """The second question's only answer is bad: the mean is over the first alone."""
    settings = settings_of(tmp_path)
    first = assemble.questions(settings, "eval")[0]

    def answer(number, body):
        asked = body["messages"][0]["content"]
        if first.question in asked or number < 0 or endpoint_player.PROBE.question in asked:
            return completion(f"<answer> {first.answers[0]} </answer>")
        return bad

    with server(listing(answer)) as (url, _):
        figures, _, _ = asked_of(url, settings, tmp_path)
    assert figures["faults"] == 1 and figures["exact_match"] == 1.0 and figures["counted"] == 1
    assert told in figures["first_fault"]


def test_a_rate_limit_is_waited_out_as_it_asks(tmp_path):
    def answer(number, body):
        return raw({}, "429 Slow", "Retry-After: 1") if number == 0 else completion("<answer> x </answer>")

    with server(listing(answer)) as (url, seen):
        begun = time.monotonic()
        figures, _, _ = asked_of(url, settings_of(tmp_path), tmp_path, queries=1)
    assert figures["faults"] == 0 and time.monotonic() - begun >= 1 and len(seen) == 4


def test_a_first_request_is_tried_until_the_deadline_however_often_it_fails(tmp_path):
    with server(listing(lambda number, body: raw({}, "500 Down"))) as (url, seen):
        begun = time.monotonic()
        with pytest.raises(Failed, match="answered 500"):
            asked_of(url, settings_of(tmp_path), tmp_path, deadline_s=8.0, retries=1000)
    assert time.monotonic() - begun > 3 and len(seen) > 6


def test_requests_under_way_are_bounded(tmp_path):
    under_way, most = [0], [0]

    def answer(number, body):
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        time.sleep(0.05)
        under_way[0] -= 1
        return completion("<answer> x </answer>")

    with server(listing(answer)) as (url, seen):
        asked_of(url, settings_of(tmp_path), tmp_path, queries=8, at_once=3)
    assert len(seen) == 10 and 1 < most[0] <= 3


def test_an_interrupted_evaluation_asks_only_for_what_is_missing(tmp_path):
    """Nor does it after a crash in the middle of a line. Another model's replies are not taken."""
    settings, said = settings_of(tmp_path), lambda number, body: completion("<answer> x </answer>")
    with server(listing(said)) as (url, seen):
        asked_of(url, settings, tmp_path, queries=2)
        file = tmp_path / "place" / "replies.jsonl"
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(lines[0] + lines[1] + lines[2][:40])  # the first is the introduction's
        before = len(seen)
        _, _, player = asked_of(url, settings, tmp_path, queries=2)
        assert player.statistics == {"asked": 1, "kept": 1, "tool_calls": 0} and len(seen) == before + 3
        asked_of(url, settings, tmp_path, queries=2)
        assert len(seen) == before + 5  # the page of models, and the introduction
    with server(listing(lambda number, body: completion("<answer> x </answer>", model="m-2"))) as (other, _):
        _, _, player = asked_of(other, settings, tmp_path, queries=2)
    assert player.statistics["kept"] == 0


def test_another_model_behind_the_same_name_is_warned_of(tmp_path, caplog):
    text = ["<answer> x </answer>"]
    with server(listing(lambda number, body: completion(text[0]))) as (url, _):
        for _ in range(2):
            asked_of(url, settings_of(tmp_path), tmp_path, queries=1)
        assert "another model" not in caplog.text
        text[0] = "<think> hm"
        asked_of(url, settings_of(tmp_path), tmp_path, queries=1)
    assert "if another model stands behind the name 'm' now, delete that file" in caplog.text


def test_an_endpoint_that_stops_answering_ends_the_command_which_then_goes_on(tmp_path, monkeypatch, capsys):
    """The questions may be those of data.train, which a command that does not train leaves alone."""
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"Who is {at}?", "golden_answers": ["x"], "id": str(at)} for at in range(6)]
    Path("q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("c.jsonl").write_text(json.dumps({"id": "1", "contents": "A\nx is here"}))
    down = [False]

    def answer(number, body):
        down[0] |= number == 4
        return raw({}, "503 Down") if down[0] else completion("<answer> x </answer>")

    with server(listing(answer)) as (url, _):
        words = ["eval", "--endpoint", f"{url}/v1", "--model", "m", "--at-once", "1", "--deadline-s", "1", "--json"]
        words += [str(Path(config.__file__).parents[1] / "configs" / "search_r1.py"), "data.corpus=c.jsonl"]
        words += ["data.train=q.jsonl", "data.eval=q.jsonl", "data.split=given", "data.traces=retrieved"]
        assert cli.main(words) == 5
        told = capsys.readouterr().err
        assert "/v1/chat/completions stopped answering, and the same command goes on" in told and "answered 503" in told
        down[0], count = False, lambda: len(next(Path("runs").rglob("replies.jsonl")).read_text().splitlines())
        assert count() == 1 + 4
        assert cli.main(words) == 0 and count() == 1 + 6
    assert "2 requests were answered, 4 replies were kept" in capsys.readouterr().err


def test_the_command_keeps_the_key_out_of_all_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_SERVICE_KEY", "sk-0123456789abcdef0123")
    said = lambda number, body: completion("<answer> sk-0123456789abcdef0123 </answer>")  # noqa: E731
    world = [f"data.world_path={tmp_path / 'worlds'}", "data.world.documents=200", "data.world.dev=8"]
    with server(listing(said)) as (url, seen):
        words = ["eval", "--endpoint", f"{url}/v1", "--model", "m", "--key-env", "MY_SERVICE_KEY", "--questions", "2"]
        made = str(Path(config.__file__).parents[1] / "configs" / "two_layer.py")
        assert cli.main([*words, made, *world, "--json"]) == 0
    assert "authorization: bearer sk-0123456789abcdef0123" in seen[-1][0].lower()
    shown = capsys.readouterr()
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    manifest = json.loads(next(path for path in files if path.name.startswith("model")).read_text())["manifest"]
    assert "sk-0123" not in shown.out + shown.err + "".join(path.read_text() for path in files)
    assert manifest["model"]["endpoint"] == {
        "url": f"{url}/v1/chat/completions", "name": "m", "tool_calls": "text",
        "listed": {"id": "m", "owned_by": "us", "max_model_len": 9}, "model": "m-1", "system_fingerprint": None,
        "left_out": [],
    }  # fmt: skip


def test_options_of_an_endpoint_need_one(capsys):
    assert cli.main(["eval", "runs/x", "--at-once", "3"]) == 2
    assert "--at-once cannot be given without --endpoint URL" in capsys.readouterr().err
    there = ["eval", "runs/x", "--endpoint", "http://127.0.0.1:1/v1"]
    assert cli.main(there) == 2
    capsys.readouterr()
    assert cli.main([*there, "--model", "m", "--step", "3"]) == 2
    assert "--step cannot be given with --endpoint" in capsys.readouterr().err
    for option, text in (
        ("--deadline-s", "nan"),
        ("--timeout-s", "nan"),
        ("--timeout-s", "inf"),
        ("--deadline-s", "0"),
    ):
        with pytest.raises(SystemExit):
            cli.main([*there, "--model", "m", option, text])
        assert f"{option}: found {text!r}; wanted seconds, more than 0" in capsys.readouterr().err


# ---- a real server that is not ours

CALL = '<tool_call> {"name": "search", "arguments": '
TEMPLATE = (  # the texts one after another, calls as the environment's dialect writes them
    "{% for m in messages %}{{ m.content or '' }} {% for c in m.tool_calls or [] %}" + CALL +
    "{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}} </tool_call> "
    "{% endfor %}{{ '<eos> ' if m.tool_calls else '' }}{% endfor %}"  # as the model ends a message of calls
)  # fmt: skip
CALLS = {"open_pattern": r"\s*<tool_call>", "close": "</tool_call>", "repeats": True, "content": "json"}
CALLS["transform"] = {"type": "function", "function": "{content}"}
PARSED = {"start_anchor_pattern": r"\Z", "defaults": {"role": "assistant"}}
PARSED["fields"] = {"tool_calls": CALLS, "content": {"close_pattern": r"\s*<eos>", "content": "text"}}


@pytest.fixture(scope="module")
def server_of_others():
    """Skip the tests that need `transformers serve` where the peers' environment cannot run it."""
    needs = [str(PEER_PYTHON), "-c", "import torch, fastapi, openai, transformers.cli.serve"]
    if not PEER_PYTHON.exists() or subprocess.run(needs, capture_output=True, check=False).returncode:
        how = "pip install 'transformers[serving]' torch into an environment, and name its folder by QR_JAX_PEERS"
        pytest.skip(f"{PEER_PYTHON} cannot import {needs[-1][7:]}: {how}")


@contextlib.contextmanager
def transformers_serve(folder: Path):
    """`transformers serve` of the folder; yields its URL."""
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"response_template": PARSED}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [str(PEER_PYTHON), "-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu"]
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen([*words, "--port", str(port)], stdout=log, stderr=log, env=env)
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=1)
                    break
                assert running.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            running.terminate()
            running.wait()


def acts(figures, name):
    """The searches and the answer of a question's episode, as it is shown."""
    lines = figures["details"]["transcripts"][name].splitlines()
    return [line for line in lines if line.startswith(("  search:", "answer:"))]


@pytest.mark.peers
@pytest.mark.usefixtures("server_of_others")
@pytest.mark.parametrize("env, how", [("search_r1", {}), ("tool_call", WORDS | SILENT | {"schema": False})])
def test_a_run_behind_transformers_serve_scores_as_it_does_here(env, how, tmp_path, monkeypatch, capsys):
    """A world's tokenizer has no stop strings for transformers (they are left out), so turns are cut here.

    That server answers 500 to a native call whose JSON it cannot read, which is a fault here.
    """
    monkeypatch.chdir(tmp_path)
    settings = tiny(tmp_path)
    env = use(env, **(how or {"prompt": "{question} ", "think": False, "invalid": "", "last": ""}))
    rollout = replace(settings.rollout, context_tokens=256, turn_tokens=24, observation_tokens=160)
    settings = replace(settings, env=env, rollout=rollout, reward=use("f1"))
    settings = replace(
        settings,
        sft=replace(settings.sft, steps=60 if env.name == "search_r1" else 300, traces=400, lr=5e-3),
        train=replace(settings.train, steps=1),
        data=replace(settings.data, world=settings.data.world | {"traces": 400}),
    )
    train(settings, tmp_path / "run", say=lambda text: None)
    assert cli.main(["export", str(tmp_path / "run"), "--hf", str(tmp_path / "hf"), "--dtype", "float32"]) == 0
    assert cli.main(["eval", str(tmp_path / "run")]) == 0
    ours = json.loads(next((tmp_path / "run" / "eval").glob("*.json")).read_text())
    with transformers_serve(tmp_path / "hf") as url:
        schema = ["env.schema=true"] if env.name == "tool_call" else []
        words = [
            "eval",
            "--endpoint",
            url,
            "--model",
            str(tmp_path / "hf"),
            "--leave-out",
            "stop",
            "--deadline-s",
            "25",
        ]
        # tokens are estimated, four bytes each, where the world's are words
        words += [str(tmp_path / "run"), "rollout.observation_tokens=600", "rollout.context_tokens=2000", *schema]
        capsys.readouterr()
        assert cli.main([*words, "learner.row_tokens=2000", "--trust"]) in (0, 1)  # 1: with a fault
    shown = capsys.readouterr().err
    theirs = json.loads(next((tmp_path / "runs" / "eval").rglob("model_*.json")).read_text())
    assert theirs["faults"] <= (0 if env.name == "search_r1" else 4) and theirs["searches_per_question"] > 0
    for name in theirs["details"]["exact_match"]:
        if name not in theirs["details"]["faulted"]:
            assert acts(theirs, name) == acts(ours, name)
    assert ("; 0 native tool calls" in shown) == (env.name == "search_r1")
    assert theirs["manifest"]["model"]["endpoint"]["tool_calls"] == ("native" if schema else "text")


@pytest.mark.parametrize(
    "answer",
    [[1], {"choices": []}, {"choices": [{"message": {"content": 5}}]}, {"choices": [{"message": 5}]},
     {"choices": [{"message": {"tool_calls": 5}}]}, {"choices": [{"message": {"content": "a"}}], "usage": 5}],
)  # fmt: skip
def test_a_first_answer_that_is_no_chat_completion_is_told_and_a_made_up_count_is_none(answer):
    with pytest.raises((ValueError, TypeError, LookupError, AttributeError)):
        endpoint_player._reply_of(answer)
    huge = {"choices": [{"message": {"content": "a"}}], "usage": {"completion_tokens": 10**15}}
    assert endpoint_player._reply_of(huge)["tokens"] == 0
