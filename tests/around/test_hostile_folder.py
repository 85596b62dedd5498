"""A run folder as hostile as can be, opened by every command: no secret leaves, no code runs, nothing breaks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_folder import KEY, SECRET, TRAPS, commands, pairs
from loopback import server
from test_http_retriever import search_r1

SECRETS = ("HF_TOKEN", "SERPER_API_KEY", "OPENAI_API_KEY", "WANDB_API_KEY", "QR_JAX_JUDGE_KEY")
ASKS = ("code_", "host_", "bucket", "wandb", "cache", "worlds")  # beginnings of the traps that ask alone
LONGEST_S = 60.0  # of a command, whatever a file of the run asks for
ROOT = Path(__file__).resolve().parents[2]


def home_of_a_user(home: Path) -> Path:
    """A home with secrets; beside the run lies a package that notes that it was imported."""
    for name, text in {
        ".ssh/id_rsa": f"{KEY}\nabc\n",
        ".ssh/id_rsa.pub": f"{KEY}\n",
        ".bashrc": "alias ls=ls\n",
        "outside/kept": "kept\n",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    evil = home / "work" / "evil"
    evil.mkdir(parents=True)
    (evil / "__init__.py").write_text(f"open({str(home / 'imported')!r}, 'w').close()\n")
    (evil / "env.py").write_text("def env(query, turns): ...\n")
    return home


@pytest.fixture(scope="module", params=[8, pytest.param(1, marks=pytest.mark.slow)], ids=["an eighth", "whole"])
def tried(tmp_path_factory, request):
    """What every command did with every trap, or with an eighth of them, and what the strangers' server was asked."""
    home = home_of_a_user(tmp_path_factory.mktemp("home"))
    with server(search_r1) as (url, asked):
        variables = {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "XDG_CACHE_HOME": str(home / ".config"),
        }
        variables |= {"STORAGE_EMULATOR_HOST": url, "WANDB_BASE_URL": url, "PYTHONDONTWRITEBYTECODE": "1"}
        variables |= {
            "PYTHONPATH": str(ROOT),
            "QR_JAX_COMPILED": str(home / ".config"),
            **dict.fromkeys(SECRETS, SECRET),
        }
        words = [sys.executable, str(ROOT / "tests" / "hostile_folder.py"), str(home), url, str(request.param)]
        done = subprocess.run(words, capture_output=True, text=True, env=os.environ | variables, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
        results = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(results) == len(pairs(request.param))
        yield results, asked, home


def listed(results, bad) -> str:
    return "\n".join(f"{one['trap']} | {one['command']}: {bad(one)}" for one in results if bad(one))


def test_every_command_met_every_trap(tried, capsys):
    results, _, _ = tried
    assert {one["trap"] for one in results} == {*TRAPS}
    assert {one["command"] for one in results} == {" ".join(words) for words in commands()}
    refused = sum(one["code"] != 0 for one in results)
    with capsys.disabled():
        print(f"\n{len(commands())} commands x {len(TRAPS)} traps = {len(results)}, {refused} refused")


def acts(words: str) -> bool:
    """Return True for a command that would act by the run's config; the others only read the run."""
    return (
        words.split()[0] in ("train", "sft", "eval", "ask", "chat", "probe", "export", "plan", "serve")
        or "--rules" in words
    )


def test_a_command_that_would_act_is_refused_with_what_is_asked_for_and_one_that_reads_is_not(tried):
    asking = [one for one in tried[0] if one["trap"].startswith(ASKS)]
    assert {acts(one["command"]) for one in asking} == {True, False}
    for one in asking:
        refused = one["code"] == 2 and "is not a run of yours, and asks for" in one["said"] and "--trust" in one["said"]
        assert refused == acts(one["command"]), one


def test_no_secret_leaves_and_nothing_is_called(tried):
    results, asked, _ = tried
    assert asked == []
    assert listed(results, lambda one: one["connected"]) == ""
    assert listed(results, lambda one: one["leaked"]) == ""
    assert listed(results, lambda one: SECRET in one["said"]) == ""


def test_no_code_runs(tried):
    results, _, home = tried
    assert not (home / "imported").exists()


def test_nothing_outside_the_folder_is_written(tried):
    assert listed(tried[0], lambda one: one["changed"]) == ""


def test_no_command_breaks(tried):
    assert listed(tried[0], lambda one: one["crashed"]) == ""
    assert listed(tried[0], lambda one: "Traceback" in one["said"] and one["said"]) == ""
    assert listed(tried[0], lambda one: "\x1b" in one["said"] and one["said"]) == ""
    assert listed(tried[0], lambda one: one["seconds"] > LONGEST_S and one["seconds"]) == ""
