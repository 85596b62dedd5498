"""The command line: what is read, what is refused before a device is touched, and how errors look."""

import errno
import importlib
import json
import logging
import os
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from qr_jax import config, plugins
from qr_jax.cli import cli, elsewhere, overrides
from qr_jax.cli.commands import doctor, options
from qr_jax.config import Config, to_json, use
from qr_jax.data.world import generate
from qr_jax.logging import terminal
from qr_jax.records import Episode, Passage, Query, Turn
from qr_jax.run import run_files, runs
from qr_jax.serve.answers import trajectory
from qr_jax.sets import formats

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
TINY = str(CONFIGS / "two_layer.py")
LONG = "who " * 80  # no file may have such a name


def test_help_is_instant_and_imports_nothing_heavy():
    code = (
        "import sys; from qr_jax.cli.cli import make_parser; text = make_parser().format_help(); "
        "print(text); sys.exit([name for name in ('jax', 'numpy', 'qr_jax.config') if name in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("doctor", "train", "sft", "eval", "ask", "export", "world"):
        assert command in done.stdout


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_config_resolves(path, capsys):
    from qr_jax.config import load

    assert to_json(load(path))  # its files may be absent here, so it is not checked


def test_a_dry_run_prints_the_resolved_config_and_touches_no_device():
    code = (
        "import sys; from qr_jax.cli.cli import main; code = main(sys.argv[1:]); from jax._src import xla_bridge; "
        "sys.exit(code or (xla_bridge.backends_are_initialized() and 'a device was touched') or 0)"
    )
    words = [sys.executable, "-c", code, "train", TINY, "--dry-run", "loss.high=0.3", "train.steps=5"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["learner"]["loss"] == {"name": "clip", "settings": {"high": 0.3}}
    assert found["train"]["steps"] == 5


def test_a_dry_run_reads_the_questions(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"id": str(at), "question": "who ?", "answers": ["me"], "supporting": ["1"]} for at in range(3)]
    for name in ("right.jsonl", "held.jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("wrong.jsonl").write_text('{"id": "1", "question": "who ?", "golds": ["me"]}\n')
    Path("p.jsonl").write_text('{"id": "1", "title": "a", "text": "b"}\n')
    words = ["train", TINY, "--dry-run", "data.eval=held.jsonl", "data.corpus=p.jsonl", "data.traces=supporting"]
    assert cli.main([*words, "data.train=right.jsonl"]) == 0
    assert "questions are right: 3 to train on, 3 held out" in capsys.readouterr().err
    assert cli.main([*words, "data.train=wrong.jsonl"]) == 2
    said = capsys.readouterr()
    assert "wrong.jsonl row 1: has none of answers" in said.err and said.out == ""  # no config hides what is wrong
    assert cli.main([*words, "data.train=right.jsonl", "data.traces=right.jsonl"]) == 2
    said = capsys.readouterr().err
    assert "right.jsonl row 1: has no 'turns'" in said and "data.traces=supporting" in said and "sft.steps=0" in said
    assert cli.main([*words, "data.train=right.jsonl", "data.traces=trace.jsonl"]) == 2
    assert "no file trace.jsonl" in (said := capsys.readouterr().err) and "data.traces=supporting" in said
    assert cli.main([*words, "data.train=right.jsonl", "data.split=sha256"]) == 2
    assert "of each a part would be left out; set data.split=given" in capsys.readouterr().err


def test_a_dry_run_imports_the_plug_ins_of_one_s_own(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_dear.py").write_text("import my_helpers\ndef my_dear(query, episodes): ...\n")
    (tmp_path / "my_helpers.py").write_text("LIST = []\nimport no_such_torch\n")
    assert cli.main(["train", TINY, "--dry-run", "reward=my_dear.my_dear"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == [
        "error: reward 'my_dear.my_dear' cannot be imported: ModuleNotFoundError: No module named 'no_such_torch'",
        f"  {tmp_path / 'my_dear.py'}, line 1: import my_helpers",
        f"  {tmp_path / 'my_helpers.py'}, line 2: import no_such_torch",
    ]
    made = to_json(Config())
    made["reward"] = {"name": "my_dear.my_dear", "settings": {}}
    (tmp_path / "config.json").write_text(json.dumps(made))
    words = ["train", str(tmp_path / "config.json"), "--dry-run"]
    assert cli.main(words) == 2 and "code outside qr_jax: reward" in capsys.readouterr().err  # not imported unasked
    assert cli.main([*words, "--trust"]) == 2
    assert "cannot be imported" in capsys.readouterr().err
    (tmp_path / "my_helpers.py").write_text("")
    importlib.invalidate_caches()
    assert cli.main(words) == 0  # it is remembered


@pytest.mark.parametrize("name", ["gpt2", "vllm", "twolayer", "configs/stduy", "org/model/more"])
def test_a_dry_run_refuses_a_name_that_no_model_has(name, capsys):
    assert cli.main(["train", TINY, "--dry-run", f"model.name={name}"]) == 2
    assert re.search("no model|there is no folder", capsys.readouterr().err)
    assert cli.main(["train", TINY, "--dry-run", "model.name="]) == 2
    assert "model.name is empty; wanted a preset, a folder" in capsys.readouterr().err
    assert cli.main(["train", TINY, "--dry-run", "model.name=an-organisation/a-model"]) == 0  # the hub is not asked


def test_a_run_is_not_written_among_other_files(tmp_path, capsys):
    def refused(folder) -> bool:
        code = cli.main(["train", TINY, "--dry-run", "--run", str(tmp_path / folder)])
        told = capsys.readouterr().err
        assert code == (2 if "is no run, and holds" in told else 0)
        return code == 2

    for name in ("docs/index.md", "runs/quickstart/config.json", "hf/config.json", "project/logs/x", "project/a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert all(refused(folder) for folder in ("docs", "runs", "hf", "project"))
    for at, name in enumerate(("metrics.jsonl", "report.html", "ledger.jsonl", "checkpoints/mine.txt")):
        (tmp_path / f"alike_{at}" / name).parent.mkdir(parents=True)
        (tmp_path / f"alike_{at}" / name).write_text("[1]\n")
        assert refused(f"alike_{at}")
    for name in ("locked/run.lock", "logged/logs/attempt_1/log", "cold/sft/config.json", "mine/train.log"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text(json.dumps(to_json(Config())))
    (tmp_path / "begun" / "notes.md").write_text("mine")
    assert not any(refused(folder) for folder in ("locked", "logged", "cold", "mine", "empty", "begun", "new"))


def test_a_setting_may_be_longer_than_a_file_s_name(capsys):
    assert cli.main(["train", TINY, "--dry-run", f"env.prompt={{question}} {LONG}"]) == 0
    assert LONG in json.loads(capsys.readouterr().out)["env"]["settings"]["prompt"]


def test_overrides_stand_anywhere_and_values_of_options_are_no_overrides():
    words = ["train", "a=1", "c.py", "--run", "runs/x=1", "learner.lr=-1", "b=2", "--dry-run"]
    own, overrides = cli.take_overrides(words, cli.make_parser().get_default("commands")["train"])
    assert own == ["train", "c.py", "--run", "runs/x=1", "--dry-run"]
    assert overrides == ["a=1", "learner.lr=-1", "b=2"]


@pytest.mark.parametrize("name", ["--restart", "--trust", "--json"])
def test_every_flag_of_a_command_is_known_to_it_before_or_after_its_settings(name):
    parser = cli.make_parser()
    own, overrides = cli.take_overrides(["train", "c.py", name, "a=1"], parser.get_default("commands")["train"])
    assert own == ["train", "c.py", name] and overrides == ["a=1"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian", TINY], "there is no qr-jax 'trian'; did you mean train?"),
        (["train", TINY, "--runn", "x"], "there is no option --runn; did you mean --run?"),
        (["train", TINY, "learning_rate=1e-6"], "unknown setting learning_rate: it is learner.lr here"),
        (["train", TINY, "actor_rollout_ref.rollout.n=4"], "it is pool.samples here"),
        (["train", TINY, "sampels=4"], "unknown setting sampels; did you mean pool.samples"),
        (["train", TINY, "actor_rollout_ref.rollout.temperature=1"], "it is rollout.temperature here"),
        (["train", TINY, "trainer.total_epochs=3"], "it is train.steps here: in steps of pool.queries questions, not"),
        (["train", TINY, "epsilon=0.2"], "it is loss.low here: the lower bound alone; set loss.high too"),
        (["train", TINY, "algorithm.filter_groups.enable=true"], "rounds=refill, with rule=bounded_dapo"),
        (["train", TINY, "actor_rollout_ref.rollout.name=vllm"], "the engine that samples is our own here"),
        (["train", TINY, "data.truncation=left"], "unknown setting data.truncation: nothing is set here"),
        (["train", TINY, "reward_model.enable=true"], "no model gives the reward here"),
        (["train", TINY, "train.resume=true"], "the same command goes on with a run by itself"),
        (["train", TINY, "optim=adamw_torch"], "the optimizer is AdamW here"),
        (["train", TINY, "rule=dapo"], "there is no rule 'dapo'; DAPO is rule=bounded_dapo with rounds=refill here"),
        (["train", TINY, "rounds=dapo"], "DAPO is rule=bounded_dapo with rounds=refill here"),
        (["train", TINY, "learner.reduce=dr_grpo"], "dr_grpo is fixed_length, over learner.horizon_tokens here"),
        (["train", TINY, "learner.reduce=none"], "'token_mean', 'sequence_mean', 'group_mean', 'fixed_length'"),
        (["train", TINY, "learner.reduce=prompt_mean"], "prompt_mean is group_mean here"),
        (["train", TINY, "trainer.save_freq=-1"], "(a number above train.steps saves at the beginning and the end"),
        (["train", TINY, "trainer.test_freq=-1"], "(0 evaluates before and after training alone)"),
        (["settings", "verl"], "tells what a setting of theirs is called here"),
        (["train", TINY, "retriever.topk=3"], "it is rollout.search_k here"),
        (["train", TINY, "retriever.url=http://x"], "those that have it: retriever=http"),
        (["train", TINY, "learner.lrr=1"], "did you mean learner.lr?"),
        (
            ["train", "configs"],
            "there is no config configs (there are: configs/d",
        ),
        (
            ["sft", "configs/nope.py"],
            "there is no config configs/nope.py (there are: configs/dapo.py, configs/gemma3_1b.py",
        ),
        (["help", "trian"], "there is no qr-jax 'trian'; did you mean train?"),
        (["eval", "configs", "--config", TINY, "batch_size=4"], "it is rollout.slots here, how many sequences"),
        (["data", "check", "a", "b"], "qr-jax data check does not take 'b'; 'qr-jax data check --help' lists"),
        (["world", "a", "b"], "qr-jax world does not take 'b'; a setting is written NAME=VALUE, without -- and blanks"),
        (["train", TINY, "train.steps", "=", "5"], "does not take 'train.steps = 5'; a setting is written NAME=VALUE"),
        (["train", TINY, "--train.steps", "5"], "does not take '--train.steps 5'; a setting is written NAME=VALUE"),
        (["train", "quickstart"], "there is no config quickstart; did you mean configs/quickstart.py?"),
        (
            ["train", "config/quickstart.py"],
            "there is no config config/quickstart.py; did you mean configs/quickstart.py?",
        ),
        (["ask", "confgs/study", "who ?"], "there is no folder confgs/study; did you mean configs/study?"),
        (["resume", "runs/x"], "there is no qr-jax 'resume'; `qr-jax train RUN/config.json`"),
        (
            ["ask", "configs", "who", "is", "it"],
            "does not take 'is it'; a setting is written NAME=VALUE, without -- and blanks, a question in quotes",
        ),
        (["settings", "--search", "lr"], "does not take '--search'; 'qr-jax settings --help' lists what it takes"),
        (["export", "configs", "--hf", "Makefile"], "Makefile is a file; --hf wants a new folder"),
        (
            ["train", "Makefile"],
            "Makefile is no config: wanted a Python file or a run's config.json (questions: data.train",
        ),
        (
            ["train", "configs/smollm2_multihop.py:fulll"],
            "has no config 'fulll'; did you mean full? (there are: config, full)",
        ),
        (["ask", "who is it ?"], "no run is named to ask 'who is it ?': qr-jax ask RUN QUESTION"),
        (["ask", LONG], "no run is named to ask 'who who"),
        (["train", TINY, f"env={LONG.replace(' ', '_')}"], "there is no env 'who_who_"),
        (["train", TINY, f"env={LONG.replace(' ', '_')}.f"], "no module 'who_who_"),
        (["ask", "configs"], "the question is empty; give one in quotes, behind the run"),
        (["ask", "who is it ?", "configs"], "configs is a folder, and stands in the question's place"),
        (["data", "chek", "x"], "there is no qr-jax data 'chek'; did you mean check?"),
        (["report", "x", "--outt", "y"], "there is no option --outt; did you mean --out?"),
        (["report", "x", "y"], "qr-jax report does not take 'y'; `qr-jax compare RUN RUN` compares runs"),
        (["retriever", "check", "http://x", "--cals", "3"], "there is no option --cals; did you mean --calls?"),
        (["compare", TINY, "configs/dapo.py", "--rules", "grpo"], "one config is compared by its rules"),
        (["compare", "configs", "pool.samples=2"], "a config takes settings"),
        (["index", "a.jsonl", "out", "kk=1"], "retriever 'bm25' has no setting 'kk'; its settings are: method"),
        (["world", "out", "sede=1"], "unknown setting world.sede; did you mean seed?"),
    ],
)
def test_what_is_nearly_right_or_another_system_s_is_said_by_its_name_here(words, says, capsys):
    assert cli.main(words) == 2
    assert says in capsys.readouterr().err


def test_a_config_that_is_not_there_suggests_only_what_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for typed in ("configs/", "configs", "config.py"):
        assert cli.main(["train", typed]) == 2
        error = capsys.readouterr().err
        assert "did you mean" not in error and "(there are: configs/dapo.py, " in error, typed
        assert cli.main(["train", "configs/dapo.py", "--dry-run"]) == 0
        capsys.readouterr()


def test_help_of_a_command_is_its_help(capsys):
    for words in (["help", "train"], ["help", "data", "check"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: qr-jax {' '.join(words[1:])} ")


def test_every_name_that_other_systems_use_leads_to_a_setting_of_ours():
    settings = config.load("configs/quickstart.py")
    known = overrides.known_names(settings)
    of_plugins = ("loss.low", "loss.high", "loss.dual", "env.max_turns", "pool.rounds.max_rounds", "retriever.url")
    for name, said in elsewhere.SETTINGS.items():
        ours, colon, unlike = said.partition(": ")
        assert ours in known or ours in of_plugins, name
        if f"trainer.{name}" not in overrides.ALIASES:
            with pytest.raises(ValueError, match=re.escape(f"it is {ours} here{colon}{unlike}") + "$"):
                overrides.override(settings, [f"trainer.{name}=1"])
    for here, values in elsewhere.VALUES.items():
        for theirs, ours in values.items():
            with pytest.raises(ValueError, match=re.escape(f"; {theirs} is {ours} here")):
                overrides.override(settings, [f"{here}={theirs}"])
            overrides.override(settings, [f"{here}={ours.split(',')[0]}"])
    for kind, methods in elsewhere.METHODS.items():
        for theirs, said in methods.items():
            with pytest.raises(ValueError, match=re.escape(said)):
                plugins.signature(kind, theirs)
    for name, sentence in elsewhere.SENTENCES.items():
        with pytest.raises(ValueError, match=re.escape(sentence)):
            overrides.override(settings, [f"+trainer.{name}=1"])


def test_the_version_is_the_package_s(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("qr_jax 0.")


def test_a_user_s_mistake_is_one_line_and_exit_2(capsys):
    assert cli.main(["train", TINY, "--dry-run", "learner.lrr=1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown setting learner.lrr; did you mean learner.lr?")
    assert len(error.splitlines()) == 1


def test_problems_of_a_config_are_listed_before_a_device_is_touched(capsys):
    assert cli.main(["train", TINY, "pool.samples=1", "learner.rows=3", "mesh.data=2", "--dry-run"]) == 2
    out = capsys.readouterr()
    assert out.out == ""  # what is wrong names its settings, and 200 lines of the others would hide it
    assert "pool.samples is 1" in out.err
    assert "learner.rows=3 does not divide" in out.err


def test_errors_are_redacted(capsys, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "hunter2secret")
    assert cli.main(["train", TINY, "--dry-run", "model.compute=hunter2secret"]) == 2
    error = capsys.readouterr().err
    assert "[redacted]" in error
    assert "hunter2secret" not in error


def test_a_library_s_value_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        cli.main(["doctor"])


def test_a_run_s_config_may_not_name_foreign_code_unless_allowed(tmp_path, capsys):
    made = to_json(Config())
    made["reward"] = {"name": "os.system", "settings": {}}
    (tmp_path / "config.json").write_text(json.dumps(made))
    for words in (["train", str(tmp_path / "config.json"), "--dry-run"], ["eval", str(tmp_path)]):
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        assert "code outside qr_jax: reward 'os.system'" in said and "--trust" in said


def test_a_folder_that_is_no_run_is_said_to_be_none(tmp_path, capsys):
    for words in (["ask", str(tmp_path), "who?"], ["export", str(tmp_path), "--hf", str(tmp_path / "hf")]):
        assert cli.main(words) == 2
        assert "is no run" in capsys.readouterr().err


def test_the_run_that_was_meant_is_named_and_no_folder_of_other_things(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/quickstart", "runs/worlds"):
        Path(name).mkdir(parents=True)
    Path("runs/quickstart/config.json").write_text(json.dumps(to_json(Config())))
    for typed, says in (
        ("quickstart", "there is no folder quickstart; did you mean runs/quickstart?"),
        (
            "runs/quikstart",
            "there is no folder runs/quikstart; did you mean runs/quickstart? (there are: runs/quickstart)",
        ),
        ("runs/world", "there is no folder runs/world (there are: runs/quickstart)"),
    ):
        assert cli.main(["ask", typed, "who?"]) == 2
        assert capsys.readouterr().err == f"error: {says}\n"


@pytest.mark.thorough
@pytest.mark.parametrize("command", ["ask", "eval", "chat", "report", "probe", "export", "bug-report"])
def test_where_no_run_is_the_cure_is_said_and_neither_hub_nor_jax_is_asked(command, tmp_path):
    (tmp_path / "mine.py").write_text("")
    more = {"ask": ["who?"], "export": ["--hf", "out"]}.get(command, [])
    code = (
        "import sys; from qr_jax.cli.cli import main; code = main(sys.argv[1:]); "
        "sys.exit([name for name in ('jax', 'huggingface_hub') if name in sys.modules] or code)"
    )
    for typed, says in (
        ("runs/x", f"there is no folder runs/x in {tmp_path}; `qr-jax train CONFIG` makes a run, in runs/"),
        ("mine.py", "mine.py is a config; wanted is a run's folder: qr-jax train mine.py makes one"),
    ):
        words = [sys.executable, "-c", code, command, typed, *more]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and f"error: {says}\n" in done.stderr, done.stderr


def test_a_broken_config_is_named_with_its_folder(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{")
    assert cli.main(["eval", str(tmp_path)]) == 2
    assert f"error: {tmp_path / 'config.json'} is not proper JSON" in capsys.readouterr().err


def test_a_file_of_a_run_leads_to_its_folder(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(to_json(Config())))
    assert cli.main(["ask", str(tmp_path / "config.json"), "who?"]) == 2
    assert f"config.json is a file; wanted is a run's folder; did you mean {tmp_path}?" in capsys.readouterr().err


def test_what_cannot_be_written_is_refused_before_anything_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(options, "open_run", None)
    monkeypatch.setattr(options, "start", None)
    (tmp_path / "plain").write_text("")
    (tmp_path / "mine").write_text('{"question": "?"}')
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(run_files.os, "access", lambda *_: True)  # as root hears of /proc
    for words, says in (
        (["world", str(tmp_path / "plain")], "plain is a file; give FOLDER the name of a folder, which may be new"),
        (["index", "p.jsonl", str(tmp_path / "plain" / "x")], "plain is a file; give OUT the name of a folder"),
        (["report", "runs/x", "--out", str(tmp_path)], f"{tmp_path} is there and is no earlier file of this"),
        (
            ["report", "runs/x", "--out", str(tmp_path / "mine")],
            "mine is there and is no earlier file of this command's",
        ),
        (["bug-report", "runs/x", "--out", str(tmp_path / "mine")], "mine is there and is no earlier file of this"),
        (
            ["report", "runs/x", "--out", str(tmp_path / "pipe")],
            "pipe is there and is no earlier file of this command's",
        ),
        (
            ["bug-report", "runs/x", "--out", str(tmp_path / "pipe")],
            "pipe is there and is no earlier file of this command's",
        ),
        (["report", "runs/x", "--out", "/proc/x.html"], "nothing can be written into /proc (No such file"),
        (["bug-report", "runs/x", "--out", "/proc/x.zip"], "nothing can be written into /proc (No such file"),
        (["export", "runs/x", "--hf", "/proc/x"], "into /proc (No such file or directory), so /proc/x cannot be made"),
        (
            ["train", TINY, "--run", "/proc/x"],
            "(No such file or directory), so /proc/x cannot be made; give --run a place of your own",
        ),
    ):
        assert cli.main(words) == 2
        assert says in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "pipe", "plain"]


def test_a_file_of_data_is_no_config(tmp_path, capsys):
    row = {"id": "1", "question": "who?", "answers": ["me"]}
    for rows in ([row] * 99, row):
        (tmp_path / "all.json").write_text(json.dumps(rows))
        assert cli.main(["train", str(tmp_path / "all.json")]) == 2
        assert "all.json is no config: wanted a Python file or a run's config.json" in capsys.readouterr().err


def test_a_world_is_written_as_files(tmp_path, capsys):
    words = ["world", str(tmp_path), "seed=1", "documents=200", "train=20", "dev=5", "test=5", "traces=5", "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["train"] == 20
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 20
    assert cli.main(["world", str(tmp_path), "sed=1"]) == 2
    assert "did you mean seed" in capsys.readouterr().err


def test_a_world_is_not_written_over_files_that_are_there(tmp_path):
    made = generate.build(generate.WorldSettings(documents=200, train=5, dev=0, test=0, traces=0))
    (tmp_path / "dev.jsonl").write_text("mine")
    with pytest.raises(ValueError, match=r"dev\.jsonl is already there; write this world to another folder"):
        formats.export(made, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dev.jsonl"]
    assert len(formats.export(made, tmp_path / "new")) == 5


def test_an_os_error_is_one_line_and_exit_1_and_a_closed_pipe_is_quiet(tmp_path, monkeypatch, capsys):
    def full(made, folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr(formats, "export", full)
    words = ["world", str(tmp_path / "x"), "documents=200", "train=5", "dev=5", "test=5"]
    assert cli.main(words) == 1  # 2 is a wrong config, which asking again would not mend
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(tmp_path / "x") in error
    assert len(error.splitlines()) == 1

    (tmp_path / "lost.py").write_text("def mine(query, episodes):\n    raise OSError('boom')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    lost = plugins.bind("reward", use("lost.mine"))
    monkeypatch.setattr(formats, "export", lambda made, folder: lost(None, ()))
    assert cli.main(["world", str(tmp_path / "y"), *words[2:]]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: OSError: boom; raised by reward 'lost.mine'\n") and "lost.py" in error

    late = "import sys; from qr_jax.cli import cli; from qr_jax.logging import terminal"
    late += "; terminal.FIRST_S = 600.0; sys.exit(cli.main())"
    words = f"{sys.executable} -c '{late}' train configs/two_layer.py --dry-run"
    piped = subprocess.run(["bash", "-c", f"{words} | true"], cwd=ROOT, capture_output=True, text=True)
    assert piped.stderr == ""


def test_counts_on_the_command_line_are_whole_numbers_of_a_size_that_makes_sense(capsys):
    words = ["eval", "runs/x"]
    found = cli.make_parser().parse_args([*words, "--questions", "1", "--samples", "4", "--step", "0"])
    assert (found.questions, found.samples, found.step) == (1, 4, 0)
    for option, value, least in (("--questions", "0", 1), ("--samples", "two", 1), ("--step=-1", None, 0)):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*words, option] + ([value] if value else []))
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert f"argument {option.partition('=')[0]}: found {value or '-1'!r}; wanted a whole number" in error
        assert f"of at least {least}" in error


def test_the_cold_start_s_folder_is_where_training_looks_for_it(capsys):
    def folder(words, stage=""):
        arguments = cli.make_parser().parse_args(words)
        arguments.overrides = []
        return options.resolve(arguments, stage)[1]

    assert folder(["train", TINY]) == Path("runs/two_layer")
    assert folder(["sft", TINY], "sft") == Path("runs/two_layer/sft")
    assert folder(["sft", TINY, "--run", "elsewhere"], "sft") == Path("elsewhere")
    with pytest.raises(SystemExit):
        cli.main(["sft", "--help"])
    assert "and /sft" in capsys.readouterr().out


def test_the_folder_of_a_config_json_goes_on_there(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_json(Config())))
    for command, stage in (("train", ""), ("sft", "sft")):
        arguments = cli.make_parser().parse_args([command, str(tmp_path / "config.json")])
        arguments.overrides = []
        assert options.resolve(arguments, stage)[1] == tmp_path


@pytest.mark.parametrize("as_json", [False, True])
def test_with_json_stdout_has_the_summary_alone_and_what_a_run_says_goes_to_stderr(as_json, monkeypatch, capsys):
    def run(settings, folder):
        terminal.say("step 1")
        return {"steps": 1, "after": {"exact_match": 0.5}}

    monkeypatch.setattr("qr_jax.train.train", run)
    monkeypatch.setattr(options, "start", lambda config, arguments: nullcontext())
    assert cli.main(["train", TINY, "--run", "x", *(["--json"] if as_json else [])]) == 0
    out = capsys.readouterr()
    said = f"training by {TINY} in x\nstep 1\n"
    assert out.err.endswith(said if as_json else "") and (as_json or out.out == said)
    assert not as_json or json.loads(out.out) == {"steps": 1, "after": {"exact_match": 0.5}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("config = Config(", "line 2: SyntaxError: '(' was never closed"),
        ("import nowhere", "line 2: ModuleNotFoundError: No module named 'nowhere'"),
        ("config = Config(seed=1 / 0)", "line 2: ZeroDivisionError: division by zero"),
        ("open('nowhere.txt')", "line 2: FileNotFoundError"),
        ("config = Config(sead=1)", "line 2: TypeError: Config.__init__() got an unexpected keyword argument 'sead'"),
    ],
)
def test_an_error_in_a_config_is_one_line_that_names_its_own(text, says, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(f"from qr_jax.config import Config\n{text}\n")
    assert cli.main(["train", str(tmp_path / "mine.py")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'mine.py'}, {says}") and len(error.splitlines()) == 1


def test_what_a_config_asks_of_us_and_may_not_is_said_as_ever(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(f"from qr_jax.config import load\nconfig = load({TINY!r}, ['learner.lrr=1'])\n")
    assert cli.main(["train", str(tmp_path / "mine.py")]) == 2
    assert capsys.readouterr().err == "error: unknown setting learner.lrr; did you mean learner.lr?\n"


def test_a_world_s_seed_is_no_negative_number(capsys):
    with pytest.raises(SystemExit):
        cli.main(["eval", "runs/x", "--world-seed", "-1"])
    assert "argument --world-seed: found '-1'; wanted a whole number of at least 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["train x.py --run ", "train ", "settings ", "report x --out=", "export x --hf ", "ask "]
)
def test_an_empty_name_is_not_the_folder_one_stands_in(words, capsys):
    assert cli.main(words.split(" ")) == 2
    assert capsys.readouterr().err == "error: an argument is empty: is a shell variable not set?\n"


@pytest.mark.parametrize(
    "words", ["world", "index c.jsonl", "synth c.jsonl", "export r --hf", "data get nq --out",
              "eval r --suite qa7 --out"]
)  # fmt: skip
@pytest.mark.parametrize("put", [lambda path: path.symlink_to("/etc/passwd"), os.mkfifo])
def test_a_folder_that_is_written_into_leads_nowhere_and_has_no_pipe(words, put, tmp_path, capsys):
    put(tmp_path / "score.new")
    assert cli.main([*words.split(), str(tmp_path)]) == 2
    assert f"error: {tmp_path} holds what qr-jax does not write:\n  score.new: " in capsys.readouterr().err


def test_a_port_out_of_range_and_a_folder_that_is_none_are_refused_by_name(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["serve-retriever", "--port", "65536"])
    assert "found '65536'; wanted a whole number from 0 to 65535" in capsys.readouterr().err
    for command in ("report", "bug-report"):
        assert cli.main([command, "runs/x", "--out", str(tmp_path / "none" / "file")]) == 2
        assert f"there is no folder {tmp_path / 'none'} to write file into" in capsys.readouterr().err
    (tmp_path / "plain").write_text("")
    with pytest.raises(ValueError, match="plain is a file; give --run the name of a folder"):
        runs.Run(tmp_path / "plain", Config(), stage="train")


def test_a_folder_where_no_run_can_be_written_is_refused_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(options, "start", None)
    (tmp_path / "plain").write_text("")
    assert cli.main(["quickstart", "--run", str(tmp_path / "plain" / "run")]) == 2
    assert f"{tmp_path / 'plain'} is a file; give --run" in capsys.readouterr().err
    monkeypatch.setattr(run_files.os, "access", lambda *_: False)  # whoever runs the tests may write anywhere
    assert cli.main(["quickstart", "--run", str(tmp_path / "a" / "b")]) == 2
    said = f"you may not write into {tmp_path}, so {tmp_path / 'a' / 'b'} cannot be made; give --run"
    assert said in capsys.readouterr().err


def test_an_episode_as_json_has_what_was_asked_found_and_answered():
    found = ((Passage("p1", "Linz", "..."), Passage("p2", "Graz", "...")),)
    turns = (Turn("model", "<search>linz</search>"), Turn("env", "Linz ...", ("linz",), found))
    episode = Episode(Query("q", "where ?", ()), 0, 0, *[None] * 4, turns, "Linz", "answered", True)
    assert json.loads(json.dumps(trajectory(episode))) == {
        "question": "where ?",
        "answer": "Linz",
        "stop": "answered",
        "turns": [
            {"author": "model", "text": "<search>linz</search>", "queries": [], "passages": []},
            {"author": "env", "text": "Linz ...", "queries": ["linz"], "passages": ["p1", "p2"]},
        ],
    }


def test_what_qr_jax_logs_is_seen_once_and_other_loggers_are_left_alone(capsys, monkeypatch):
    # A library may have given the root logger a handler, as one of ours does.
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler(sys.stderr)])
    before = logging.root.level, list(logging.root.handlers)

    def speak():
        logging.getLogger("qr_jax.data.readers").info("2 of %d kept", 3)
        logging.getLogger("other").info("unseen")
        raise ValueError("over")

    monkeypatch.setattr(doctor, "examine", speak)
    for _ in range(2):
        with pytest.raises(ValueError, match="over"):
            cli.main(["doctor"])
        assert capsys.readouterr().err == "2 of 3 kept\n"
    assert (logging.root.level, logging.root.handlers) == before
    assert logging.getLogger("qr_jax").handlers == [] and logging.getLogger("qr_jax").propagate


def test_the_tpu_script_says_what_it_would_do():
    script = ROOT / "tpu_scripts" / "setup.sh"

    def run(*words):
        return subprocess.run([script, *words], capture_output=True, text=True, check=False, cwd="/")

    assert run("--help").stdout.startswith("usage: tpu_scripts/setup.sh")
    done = run("--dry-run")
    assert done.returncode == 0, done.stderr
    made, installed, examined = done.stdout.splitlines()
    assert made.split()[1:] == ["-m", "venv", ".venv"]
    assert "-c constraints" in installed and "tpu" in installed
    assert examined.split() == [".venv/bin/qr-jax", "doctor"]
    assert run("--dryrun").returncode == 2


def test_the_doctor_says_what_is_there_and_how_to_get_what_is_missing():
    found = doctor.examine()
    text = doctor.format_report(json.loads(json.dumps(found)))
    assert found["versions"]["jax"]
    assert found["devices"]["found"][0]["platform"] == "cpu"
    assert found["memory_bytes"] > 0
    for name, extra in found["extras"].items():
        assert extra["present"] or extra["install"] in text, name


def test_ctrl_c_in_a_command_that_saves_nothing_is_one_line_and_130(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "examine", interrupted)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


def untimed(text):
    """Without the lines that a slow machine says meanwhile."""
    return "".join(line for line in text.splitlines(keepends=True) if not re.fullmatch(r"qr-jax \w+  \d+ s\n", line))


def test_ctrl_c_that_a_library_s_callback_swallows_ends_the_process(tmp_path):
    program = """
import os, signal, sys, time
from qr_jax import errors
from qr_jax.cli import cli
from qr_jax.cli.commands import doctor

class Callback:  # what it raises is ignored, as in jax's callback of the garbage collector
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

def examine():
    Callback()
    time.sleep(60)

doctor.examine = examine
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
sys.argv = ["qr-jax", "doctor"]
cli.main()
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, untimed(done.stderr)) == (130, "stopped by Ctrl-C\n")
    assert time.monotonic() - began < 30


def test_ctrl_c_while_a_module_is_imported_ends_the_process_there(tmp_path):
    """Raised inside of a library's C code it was a SIGSEGV, and after half of numpy a second traceback."""
    (tmp_path / "slow_library.py").write_text("""
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)
except BaseException:
    print("an exception was raised here", flush=True)
""")
    program = f"""
import signal, sys
sys.path.insert(0, {str(tmp_path)!r})
from qr_jax import errors
from qr_jax.cli import cli
from qr_jax.cli.commands import doctor

def examine():
    import slow_library
    import time
    time.sleep(60)

doctor.examine = examine
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["qr-jax", "doctor"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, untimed(done.stderr)) == (130, "", "stopped by Ctrl-C\n")


def test_a_second_ctrl_c_ends_a_command_that_is_slow_to_end():
    program = """
import os, signal, sys, time
from qr_jax.cli.commands import doctor

def examine():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

doctor.examine = examine
sys.argv = ["qr-jax", "doctor"]
from qr_jax.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, untimed(done.stderr)) == (130, "stopped by Ctrl-C\n")


@pytest.mark.parametrize("ends", ["raise SystemExit(130)", "raise errors.UserError('of a plug-in')"])
def test_a_command_that_ends_early_does_not_wait_for_what_its_threads_compile(ends):
    """An orderly exit beside such a thread was "terminate called without an active exception" and -6."""
    program = f"""
import sys, threading, time
import jax
from qr_jax import errors
from qr_jax.cli import cli
from qr_jax.cli.commands import doctor

def compile_on():
    number = 0
    while True:
        number += 1
        jax.jit(lambda x: x * number)(1.0)

def examine():
    threading.Thread(target=compile_on, daemon=True).start()
    time.sleep(1)
    {ends}

doctor.examine = examine
sys.argv = ["qr-jax", "doctor"]
sys.exit(cli.main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in (130, 2) and "terminate" not in done.stderr, done.stderr


def test_ctrl_c_before_anything_is_imported_is_one_line():
    """What is imported first sends it: argparse, which no module does that is there by then."""
    program = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "qr_jax.cli.cli":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["qr-jax", "runs"]
from qr_jax.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, untimed(done.stderr)) == (130, "stopped by Ctrl-C\n")
    assert 'qr-jax = "qr_jax.__main__:main"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("command", ["report", "probe", "compare", "oracle --rates"])
def test_what_asks_for_a_pool_says_of_a_cold_start_alone_that_it_is_one(tmp_path, capsys, command):
    """It was told as damaged, as of other questions, or to be gone on with by a command that is refused."""
    (tmp_path / "config.json").write_text(json.dumps(to_json(Config())))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "sft/loss": 2.5, "sft/tokens": 9}\n')
    assert cli.main([*command.split(), str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path} holds a cold start alone" in told and f"train.init={tmp_path} sft.steps=0" in told


def test_ctrl_c_while_the_process_ends_is_no_traceback():
    last = (
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT)); sys.argv = ['qr-jax', '--version']; cli.main()"
    )
    program = f"import atexit, os, signal, sys; from qr_jax.cli import cli; {last}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "") and done.stdout.startswith("qr_jax ")


def test_a_run_s_folder_in_a_config_s_place_says_what_to_type(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert cli.main(["train", str(tmp_path)]) == 2
    assert f"to go on with it, type its config: {tmp_path / 'config.json'}" in capsys.readouterr().err


def test_settings_stand_anywhere_in_every_command_that_takes_them():
    parser = cli.make_parser()
    takes = {name for name, part in parser.get_default("commands").items() if part.get_default("takes_settings")}
    assert takes == {
        "quickstart", "train", "sft", "plan", "ask", "chat", "eval", "compare", "index", "recall", "serve-retriever",
        "world", "synth", "serve",
    }  # fmt: skip
    commands = parser.get_default("commands")
    own, typed = cli.take_overrides(["eval", "env.max_turns=2", "run", "--samples", "2", "a=b"], commands["eval"])
    assert own == ["eval", "run", "--samples", "2"] and typed == ["env.max_turns=2", "a=b"]
    question = "who wrote that E = mc2 ?"
    assert cli.take_overrides(["ask", "run", question], commands["ask"]) == (["ask", "run", question], [])


def test_make_help_lists_every_target_that_says_what_it_is():
    command = ["make", "--no-print-directory", "help"]  # which a make inside `make test` would print
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = {line.partition(":")[0] for line in shown.splitlines()}
    lines = (ROOT / "Makefile").read_text().splitlines()
    assert listed == {line.partition(":")[0] for line in lines if ": " in line and "  ## " in line}
    assert {"test-pods", "bench-retrieval-server"} <= listed


def test_ctrl_c_while_the_parser_is_built_is_one_line():
    program = """
import os, signal, sys, time
from qr_jax.cli import cli
build = cli.make_parser
def pressed():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
    return build()
cli.make_parser = pressed
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["qr-jax", "runs"]
sys.exit(cli.main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, untimed(done.stderr)) == (130, "", "stopped by Ctrl-C\n")


def test_a_cold_start_of_no_steps_is_refused_by_the_dry_run_too(capsys):
    assert cli.main(["sft", TINY, "sft.steps=0", "--dry-run"]) == 2
    assert "sft.steps=0: a cold start needs at least 1" in capsys.readouterr().err


def test_a_model_that_is_none_is_told_before_that_the_folder_holds_another_run(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(to_json(Config())))
    assert cli.main(["train", TINY, "model=gpt4", "--run", str(tmp_path)]) == 2
    assert "gpt4" in (said := capsys.readouterr().err) and "other settings" not in said


def test_a_folder_as_a_report_s_file_is_no_folder_to_be_cleared(tmp_path, capsys):
    """`--out .` of a clone: its .venv leads out of it, and is nothing to take away."""
    for name in ("run", "clone"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(to_json(Config())))
    (tmp_path / "clone" / "python").symlink_to(sys.executable)
    for command in ("report", "bug-report"):
        assert cli.main([command, str(tmp_path / "run"), "--out", str(tmp_path / "clone")]) == 2
        assert "give --out another name" in (said := capsys.readouterr().err) and "take that away" not in said


def test_a_word_of_other_bytes_is_refused_by_them(capsys):
    assert cli.main(["train", TINY, "--run", os.fsdecode(b"runs/\xff")]) == 2
    assert "b'runs/\\xff' is no text in UTF-8; give it a name that is" in capsys.readouterr().err
