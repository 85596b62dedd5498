"""A stranger's run folder: nothing that it names is imported, called or written to before its user allows it."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from loopback import server
from test_http_retriever import search_r1

from qr_jax import config, trust
from qr_jax.cli import cli
from qr_jax.config import Config, use
from qr_jax.run import runs
from qr_jax.settings.settings import plain
from qr_jax.trust import Allowed

HTTP = {"url": "https://evil.example/retrieve", "token_env": "HF_TOKEN"}


def options(settings: Config) -> list[str | None]:
    return [wish.option for wish in trust.wishes(settings)]


@pytest.fixture(autouse=True)
def _nothing_allowed_yet(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))


def test_our_own_configs_ask_for_nothing():
    for file in ("quickstart", "two_layer", "smollm2_multihop"):
        assert trust.wishes(config.load(f"configs/{file}.py")) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rollout.slots=1000000"], "rollout.slots=1,000,000 .at most 4,096 unasked"),
        (["rollout.tile=2147483648"], "rollout.tile=2,147,483,648"),
        (["rollout.buckets=64,16777216"], "rollout.buckets=16,777,216"),
        (["rollout.chunk=1073741824"], "rollout.chunk=1,073,741,824"),
        (["evaluation.samples=100000000"], "evaluation.samples=100,000,000"),
        (["data.world.train=1000000000"], "data.world.train=1,000,000,000"),
        (["mesh.devices=2000000"], "mesh.devices=2,000,000"),
    ],
)
def test_a_stranger_s_config_takes_no_memory_unasked(words, says):
    (wish,) = trust.wishes(config.load("configs/quickstart.py", words))
    assert re.search(f"much memory or time: {says}", wish.text) and wish.option is None


def test_a_key_that_others_may_read_or_that_is_a_link_is_not_used(tmp_path, caplog):
    (folder := tmp_path / "home" / "qr_jax").mkdir(parents=True)
    file, other = folder / "key", tmp_path / "other"
    row = trust.sealed({"a": 1}, "x")
    assert trust.is_sealed(row, "x") and file.stat().st_mode & 0o077 == 0
    file.chmod(0o644)
    assert not trust.is_sealed(row, "x") and "is open to others: a new key is made" in caplog.text
    file.unlink()
    other.write_bytes(bytes(32))
    file.symlink_to(other)
    assert trust.is_sealed(trust.sealed({"a": 1}, "x"), "x") and not file.is_symlink()
    assert other.read_bytes() == bytes(32)


def test_a_model_of_the_hub_is_asked_about_and_one_in_a_folder_is_not(tmp_path, monkeypatch):
    """The hub is sent the user's token, and what it holds there may be anybody's."""
    monkeypatch.chdir(tmp_path)
    mine = replace(Config(), model=replace(Config().model, name="evil/model", tokenizer="evil/words"))
    mine = replace(mine, retriever=use("dense", model="evil/encoder"))
    assert set(options(mine)) == {"--allow-host huggingface.co"} and len(trust.wishes(mine)) == 3
    for folder in ("model", "words", "encoder"):
        (tmp_path / "evil" / folder).mkdir(parents=True)
    assert trust.wishes(mine) == []


@pytest.mark.parametrize(
    ("retriever", "wanted", "says"),
    [
        (use("http", **HTTP), ["--allow-host evil.example"], "evil.example, with the secret in HF_TOKEN"),
        (use("http", url="http://127.0.0.1:8000"), ["--allow-host 127.0.0.1"], "goes to 127.0.0.1"),
        (use("serper"), ["--allow-host google.serper.dev"], "with the secret in SERPER_API_KEY"),
        (use("serper", url="http://evil.example"), ["--allow-host evil.example"], "SERPER_API_KEY"),
        (use("serper", key_env="OPENAI_API_KEY"), ["--allow-host google.serper.dev"], "OPENAI_API_KEY"),
        (use("reranked", of="bm25", **HTTP), ["--allow-host evil.example"], "HF_TOKEN"),
        (use("reranked", of="serper", url="http://a.b"), ["--allow-host google.serper.dev", "--allow-host a.b"], "a.b"),
        (use("cached", of=use("http", **HTTP), cache="/x"), ["--allow-host evil.example", None], "to write into /x"),
        (use("bm25", index="/etc/x"), [None], "retriever 'bm25': to write into /etc/x"),
        (use("evil.mind.search"), ["--allow-plugins evil"], "code outside qr_jax: retriever 'evil.mind.search'"),
    ],
)
def test_a_retriever_asks_for_its_host_and_what_is_sent_there(retriever, wanted, says):
    settings = replace(Config(), retriever=retriever)
    assert options(settings) == wanted
    assert any(says in wish.text for wish in trust.wishes(settings))


@pytest.mark.parametrize("part", ["env", "reward", "pool.rule", "pool.rounds", "learner.advantage", "learner.loss"])
def test_every_kind_of_plug_in_from_outside_is_asked_about(part):
    section, _, name = part.rpartition(".")
    evil = {name: use("evil.mind")}
    settings = replace(Config(), **({section: replace(getattr(Config(), section), **evil)} if section else evil))
    assert options(settings) == ["--allow-plugins evil"]


@pytest.mark.parametrize(
    "name", ["qr_jax.run.interrupts.leave", "qr_jax.trust._key", "qr_jax.search.retrievers._noise.noise"]
)
def test_a_function_of_our_own_that_is_no_plug_in_is_not_called_unasked(name):
    assert options(replace(Config(), retriever=use(name))) == [None]
    assert options(replace(Config(), retriever=use("qr_jax.search.retrievers.bm25.bm25"))) == []


def test_a_bucket_needs_trust_and_wandb_its_host():
    settings = replace(Config(), train=replace(Config().train, bucket="gs://evil/run"))
    assert options(replace(settings, log=replace(settings.log, wandb=True))) == [None, "--allow-host api.wandb.ai"]


def test_what_is_missing_is_listed_what_is_allowed_is_not_and_trust_is_remembered_for_that_config_alone():
    settings = replace(Config(), retriever=use("http", **HTTP), env=use("evil.env"))
    with pytest.raises(ValueError) as refused:
        trust.admit(settings, "THEIRS", Allowed())
    assert "THEIRS was not made here" in str(refused.value) and "--trust" in str(refused.value)
    assert "--allow-plugins evil" in str(refused.value) and "--allow-host evil.example" in str(refused.value)
    with pytest.raises(ValueError, match="--allow-host evil.example") as refused:
        trust.admit(settings, "THEIRS", Allowed(packages=("evil",)))
    assert "--allow-plugins evil" not in str(refused.value)
    assert trust.admit(settings, "THEIRS", Allowed(("evil",), ("EVIL.example",))) == ("evil",)
    assert not trust.known(settings)
    assert trust.admit(settings, "THEIRS", Allowed(("evil",)), retriever="bm25") == ("evil",)
    assert trust.admit(settings, "THEIRS", Allowed(all=True)) is None and trust.known(settings)
    assert trust.admit(settings, "THEIRS", Allowed()) is None
    with pytest.raises(ValueError, match="was not made here"):
        trust.admit(replace(settings, seed=1), "THEIRS", Allowed())


def test_a_setting_that_came_after_a_run_does_not_make_it_a_stranger_s():
    """What is remembered is what the config says beyond the defaults, of which an earlier program knew fewer."""
    settings = replace(Config(), seed=3, retriever=use("http", **HTTP))
    told, usual = plain(settings), plain(Config())
    before = [{name: part for name, part in whole.items() if name != "guards"} for whole in (told, usual)]
    of_pool = [whole | {"pool": {**whole["pool"], "later": 7}} for whole in (told, usual)]
    assert trust._besides(*before) == trust._besides(*of_pool) == trust._besides(told, usual)
    assert trust._besides(told, usual) == {"seed": 3, "retriever": {"name": "http", "settings": HTTP}}


def test_a_run_made_here_is_the_user_s_own(tmp_path):
    settings = replace(config.load("configs/two_layer.py"), retriever=use("http", **HTTP))
    runs.Run(tmp_path / "mine", settings, stage="train", say=lambda line: None).close()
    assert trust.admit(settings, tmp_path, Allowed()) is None


def test_a_home_that_cannot_be_written_is_warned_of(tmp_path, caplog):
    (tmp_path / "home").write_text("a file")
    trust.remember(Config())
    assert "cannot be written" in caplog.text and not trust.known(Config())


# ---- a folder as hostile as its author can make it, opened by every command


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A run folder whose plug-in notes that it was imported; the secret that it is after is set."""
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    (evil / "env.py").write_text("def env(query, turns, *, max_turns=3): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "a-secret-token")
    folder = tmp_path / "theirs"
    (folder / "checkpoints").mkdir(parents=True)

    def write(**changes) -> str:
        settings = replace(config.load("configs/two_layer.py"), **changes)
        (folder / "config.json").write_text(json.dumps(config.to_json(settings)))
        (folder / "metrics.jsonl").write_text("")
        return str(folder)

    return write


COMMANDS = [
    ["train", "{}/config.json"],
    ["train", "{}/config.json", "env.max_turns=3"],
    ["sft", "{}/config.json", "--run", "{}/again"],
    ["train", "{}/config.json", "--dry-run"],
    ["plan", "{}/config.json", "env.max_turns=3", "--topology", "v5e:4x4"],
    ["eval", "{}"],
    ["eval", "{}", "--suite", "qa7", "env.max_turns=3"],
    ["ask", "{}", "who?"],
    ["probe", "{}"],
    ["compare", "{}/config.json", "--rules", "grpo", "--budget", "rollouts=10", "--folder", "{}/study"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[:3:2]))
def test_no_command_imports_or_calls_what_a_stranger_s_folder_names(theirs, tmp_path, capsys, command):
    with server(search_r1) as (url, asked):
        folder = theirs(env=use("evil.env"), retriever=use("http", url=url, token_env="HF_TOKEN"))
        assert cli.main([word.format(folder) for word in command]) == 2
    said = capsys.readouterr().err
    assert "--allow-plugins evil" in said and "--allow-host 127.0.0.1" in said and "HF_TOKEN" in said
    assert "a-secret-token" not in said and asked == []
    assert not (tmp_path / "imported").exists() and "evil" not in sys.modules


@pytest.mark.parametrize("command", [["report", "{}"], ["compare", "{}", "{}"], ["export", "{}", "--hf", "{}/out"]])
def test_what_needs_no_leave_reads_and_imports_nothing(theirs, tmp_path, command):
    folder = theirs(env=use("evil.env"))
    words = [sys.executable, "-m", "qr_jax.cli.cli", *(word.format(folder) for word in command)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert "--allow-plugins" not in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "imported").exists()


def test_weights_in_a_stranger_s_bucket_need_leave(theirs, tmp_path, capsys):
    folder = theirs(train=replace(Config().train, bucket="gs://evil/run"))
    (tmp_path / "theirs/checkpoints").rmdir()
    assert cli.main(["export", folder, "--hf", str(tmp_path / "out")]) == 2
    assert "the bucket gs://evil/run" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["train"], ["train", "--dry-run"], ["sft"]], ids=" ".join)
def test_weights_to_begin_from_are_a_stranger_s_folder_too(theirs, tmp_path, capsys, command):
    """The bucket that its config names was asked, and a pipe in it was waited for, which SIGTERM did not end."""
    folder = theirs(train=replace(Config().train, bucket="gs://evil/run"))
    words = [*command, "configs/two_layer.py", f"train.init={folder}", "--run", str(tmp_path / "mine")]
    (tmp_path / "theirs/checkpoints").rmdir()
    assert cli.main(words) == 2
    assert "the bucket gs://evil/run" in capsys.readouterr().err
    whole = tmp_path / "theirs/checkpoints/2"
    whole.mkdir(parents=True)
    os.mkfifo(whole / "COMMITTED")
    assert cli.main(words) == 2
    assert "checkpoints/2/COMMITTED: neither a file nor a folder" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_a_run_that_lives_in_a_bucket_keeps_its_programs_apart(tmp_path):
    from qr_jax.parallel import compile_cache

    where = {"QR_JAX_COMPILED": str(tmp_path)}
    own, other = (compile_cache.enable(where, lives=place) for place in ("gs://a/one", "gs://a/two"))
    assert own != other and own.parent == other.parent == compile_cache.enable(where)
