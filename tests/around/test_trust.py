"""A stranger's run folder: nothing that it names is imported, called or written to before its user allows it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import small_data
from loopback import server
from test_http_retriever import search_r1

from qr_jax import config, evaluate, trust
from qr_jax.cli import cli
from qr_jax.config import Config, use
from qr_jax.run import runs
from qr_jax.settings.settings import plain

HTTP = {"url": "https://evil.example/retrieve", "token_env": "HF_TOKEN"}


@pytest.fixture(autouse=True)
def _nothing_allowed_yet(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))


def test_our_own_configs_ask_for_nothing():
    for file in ("quickstart", "two_layer", "smollm2_multihop"):
        assert trust.asks(config.load(f"configs/{file}.py")) == []


def test_a_model_of_the_hub_is_asked_about_and_one_in_a_folder_is_not(tmp_path, monkeypatch):
    """The hub is sent the user's token, and what it holds there may be anybody's."""
    monkeypatch.chdir(tmp_path)
    mine = replace(Config(), model=replace(Config().model, name="evil/model", tokenizer="evil/words"))
    mine = replace(mine, retriever=use("dense", model="evil/encoder"))
    listed = trust.asks(mine)
    assert len(listed) == 3 and all("from the hub, where your token goes" in text for text in listed)
    for folder in ("model", "words", "encoder"):
        (tmp_path / "evil" / folder).mkdir(parents=True)
    assert trust.asks(mine) == []


@pytest.mark.parametrize(
    ("retriever", "count", "says"),
    [
        (use("http", **HTTP), 1, "goes to evil.example, with the secret in HF_TOKEN"),
        (use("http", url="http://127.0.0.1:8000"), 1, "goes to 127.0.0.1"),
        (use("serper"), 1, "goes to google.serper.dev, with the secret in SERPER_API_KEY"),
        (use("serper", url="http://evil.example"), 1, "goes to evil.example, with the secret in SERPER_API_KEY"),
        (use("serper", key_env="OPENAI_API_KEY"), 1, "OPENAI_API_KEY"),
        (use("reranked", of="bm25", **HTTP), 1, "goes to evil.example, with the secret in HF_TOKEN"),
        (use("reranked", of="serper", url="http://a.b"), 2, "goes to a.b"),
        (use("cached", of=use("http", **HTTP), cache="/x"), 2, "to write into /x"),
        (use("dense", index="/etc/x"), 1, "retriever 'dense': to write into /etc/x"),
        (use("evil.mind.search"), 1, "code outside qr_jax: retriever 'evil.mind.search'"),
    ],
)
def test_a_retriever_asks_for_its_host_and_what_is_sent_there(retriever, count, says):
    listed = trust.asks(replace(Config(), retriever=retriever))
    assert len(listed) == count and says in listed[-1]


@pytest.mark.parametrize("part", ["env", "reward", "pool.rule", "pool.rounds", "learner.advantage", "learner.loss"])
def test_every_kind_of_plug_in_from_outside_is_asked_about(part):
    section, _, name = part.rpartition(".")
    evil = {name: use("evil.mind")}
    settings = replace(Config(), **({section: replace(getattr(Config(), section), **evil)} if section else evil))
    assert trust.asks(settings) == [f"code outside qr_jax: {name} 'evil.mind'"]


def test_a_plug_in_inside_another_is_asked_about():
    assert trust.asks(replace(Config(), reward=use("overlong", of="evil.mind"))) == [
        "code outside qr_jax: reward 'evil.mind'"
    ]


@pytest.mark.parametrize(
    "name", ["qr_jax.cli.interrupts.leave", "qr_jax.trust.note", "qr_jax.search.retrievers._noise.noise"]
)
def test_a_function_of_our_own_that_is_no_plug_in_is_not_called_unasked(name):
    (text,) = trust.asks(replace(Config(), retriever=use(name)))
    assert text == f"a function of qr_jax that is no retriever: {name!r}"
    assert trust.asks(replace(Config(), retriever=use("qr_jax.search.retrievers.bm25.bm25"))) == []


def test_a_bucket_and_wandb_are_asked_about():
    settings = replace(Config(), train=replace(Config().train, bucket="gs://evil/run"))
    bucket, wandb = trust.asks(replace(settings, log=replace(settings.log, wandb=True)))
    assert "the bucket gs://evil/run" in bucket and wandb == "W&B, with your key"


def test_all_that_is_asked_for_is_listed_and_trust_is_remembered_for_that_config_alone():
    settings = replace(Config(), retriever=use("http", **HTTP), env=use("evil.env"))
    with pytest.raises(ValueError) as refused:
        trust.check(settings, "THEIRS", trusted=False)
    assert "THEIRS is not a run of yours" in str(refused.value) and "--trust" in str(refused.value)
    assert "env 'evil.env'" in str(refused.value) and "evil.example, with the secret in HF_TOKEN" in str(refused.value)
    with pytest.raises(ValueError, match=r"env 'evil.env'\n  retriever 'http'"):
        trust.check(settings, "THEIRS", trusted=False, used=replace(settings, retriever=use("bm25")))
    trust.check(settings, "THEIRS", trusted=True)
    trust.check(settings, "THEIRS", trusted=False)
    with pytest.raises(ValueError, match="is not a run of yours"):
        trust.check(replace(settings, seed=1), "THEIRS", trusted=False)


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
    assert trust.asks(settings)
    trust.check(settings, tmp_path, trusted=False)


def test_a_home_that_cannot_be_written_is_warned_of(tmp_path, caplog):
    (tmp_path / "home").write_text("a file")
    trust.remember(Config())
    assert "cannot be written" in caplog.text and trust.is_allowed(Config())  # by this process
    trust.NOTED.clear()
    assert not trust.is_allowed(Config())


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
        (folder / "config.JSON").write_text((folder / "config.json").read_text())
        (folder / "a.conf").write_text((folder / "config.json").read_text())
        (folder / "metrics.jsonl").write_text("")
        return str(folder)

    return write


COMMANDS = [
    ["train", "{}/config.json"],
    ["train", "{}/config.json", "env.max_turns=3"],
    ["sft", "{}/config.json", "--run", "{}/again"],
    ["train", "{}/config.json", "--dry-run"],
    ["train", "{}/config.JSON", "--dry-run"],
    ["plan", "{}/a.conf", "--memory", "80GiB"],
    ["plan", "{}/config.json", "env.max_turns=3", "--topology", "v5e:4x4"],
    ["eval", "{}"],
    ["eval", "{}", "--suite", "qa7", "env.max_turns=3"],
    ["ask", "{}", "who?"],
    ["chat", "{}"],
    ["probe", "{}"],
    ["export", "{}", "--hf", "{}/out"],
    ["train", "configs/two_layer.py", "train.init={}", "--run", "{}/again"],
    ["compare", "{}/config.json", "--rules", "grpo", "--budget", "rollouts=10", "--folder", "{}/study"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[:3:2]))
def test_no_command_imports_or_calls_what_a_stranger_s_folder_names(theirs, tmp_path, capsys, command):
    with server(search_r1) as (url, asked):
        folder = theirs(env=use("evil.env"), retriever=use("http", url=url, token_env="HF_TOKEN"))
        assert cli.main([word.format(folder) for word in command]) == 2
    said = capsys.readouterr().err
    assert "env 'evil.env'" in said and "127.0.0.1, with the secret in HF_TOKEN" in said and "--trust" in said
    assert "a-secret-token" not in said and asked == []
    assert not (tmp_path / "imported").exists() and "evil" not in sys.modules


@pytest.mark.thorough
@pytest.mark.parametrize("command", ["report {}", "compare {} {}", "bug-report {}", "runs {}/.."])
def test_what_needs_no_leave_reads_and_imports_nothing(theirs, tmp_path, command):
    folder = theirs(env=use("evil.env"), pool=replace(Config().pool, rule=use("evil.env.env")))
    words = [sys.executable, "-m", "qr_jax", *command.format(*[folder] * 2).split()]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert "is not a run of yours, and asks" not in done.stderr and "Traceback" not in done.stderr, done.stderr
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


def test_runs_from_which_weights_come_one_after_another_are_strangers_too(theirs, tmp_path):
    evil = theirs(train=replace(Config().train, bucket="gs://evil/run"))
    between = tmp_path / "between"
    between.mkdir()
    begun = lambda source: replace(Config(), train=replace(Config().train, init=str(source)))  # noqa: E731
    (between / "config.json").write_text(json.dumps(config.to_json(begun(evil))))
    with pytest.raises(ValueError, match="asks for what may do harm:\n  the bucket gs://evil/run"):
        trust.check(begun(between), "mine", trusted=False)
    (between / "config.json").write_text(json.dumps(config.to_json(begun(between))))
    trust.check(begun(between), "mine", trusted=False)  # itself, for ever


def test_the_bucket_of_a_cold_start_is_the_run_s_and_not_what_its_own_config_names(theirs):
    folder = Path(theirs())
    (folder / "sft").mkdir()
    evil = replace(Config(), train=replace(Config().train, bucket="gs://evil/run"))
    (folder / "sft" / "config.json").write_text(json.dumps(config.to_json(evil)))
    with pytest.raises(ValueError, match="no whole checkpoint"):
        runs.last_checkpoint(folder / "sft")


@pytest.mark.parametrize("command", [["eval"], ["ask"], ["export", "--hf", "out"], ["probe"]], ids=lambda w: w[0])
def test_a_cold_start_that_lies_in_its_run_s_bucket_needs_leave(theirs, tmp_path, capsys, command):
    folder = Path(theirs(train=replace(Config().train, bucket="gs://evil/run")))
    (folder / "sft").mkdir()
    (folder / "sft" / "config.json").write_text(json.dumps(config.to_json(Config())))
    words = [command[0], str(folder / "sft"), *(["who?"] if command == ["ask"] else []), *command[1:]]
    assert cli.main(words) == 2
    assert f"{folder} is not a run of yours" in capsys.readouterr().err
    begun = replace(Config(), train=replace(Config().train, init=str(folder / "sft")))
    with pytest.raises(ValueError, match="the bucket gs://evil/run"):
        trust.check_sources(begun, trusted=False)
    with pytest.raises(ValueError, match="its checkpoints lie in gs://evil/run; --trust lets it be read"):
        runs.last_checkpoint(folder / "sft")  # whoever comes here without a check


def test_where_a_run_s_cold_start_began_is_checked_too(theirs, tmp_path):
    """Adapters lie over the cold start's weights, and those over what it began from."""
    evil = theirs(train=replace(Config().train, bucket="gs://evil/run"))
    folder = tmp_path / "mine"
    (folder / "sft").mkdir(parents=True)
    begun = replace(Config(), train=replace(Config().train, init=evil))
    (folder / "sft" / "config.json").write_text(json.dumps(config.to_json(begun)))
    for where in (folder, folder / "config.json"):
        with pytest.raises(ValueError, match="the bucket gs://evil/run"):
            trust.check(Config(), where, trusted=False)
    trust.check(Config(), where, trusted=True)
    trust.check(Config(), where, trusted=False)


def test_a_run_of_one_s_own_whose_cold_start_came_out_of_its_bucket_is_not_a_stranger_s(tmp_path):
    mine = replace(Config(), train=replace(Config().train, bucket="gs://mine/run", steps=7))
    for folder, of in ((tmp_path, mine), (tmp_path / "sft", config.below(mine, "sft"))):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config.to_json(of)))
    trust.remember(mine)
    trust.check(mine, tmp_path, trusted=False)


def test_what_is_checked_is_what_retriever_leaves(theirs, tmp_path, capsys):
    """--retriever of the same name keeps its settings; of another, it takes the place of what is not asked then."""
    parts = (use("evil.env.env"), use("bm25"))
    folder = theirs(retriever=use("hybrid", parts=parts))
    assert cli.main(["eval", folder, "--retriever", "hybrid"]) == 2
    assert "code outside qr_jax: retriever 'evil.env.env'" in capsys.readouterr().err
    assert not (tmp_path / "imported").exists()
    other = ["eval", theirs(retriever=use("evil.env.env")), "--retriever", "http"]  # its settings stand behind it
    assert cli.main([*other, "retriever.url=http://127.0.0.1:9"]) == 2
    told = capsys.readouterr().err
    assert "goes to 127.0.0.1" in told and "needs url" not in told and not (tmp_path / "imported").exists()
    for with_cold_start in (False, True):
        if with_cold_start:
            shutil.copytree(folder, f"{folder}/sft")
        assert cli.main(["eval", folder, "--retriever", "bm25"]) == 2
        assert "is not a run of yours" not in capsys.readouterr().err  # it has no checkpoint


def test_a_setting_that_the_command_s_words_let_count_is_asked_about(theirs, tmp_path, capsys, monkeypatch):
    """A stranger's token_env had no effect until a url was typed, and then a secret went there."""
    monkeypatch.setenv("AWS_SECRET", "sesame")
    files = replace(
        Config().data,
        train="a.jsonl",
        eval="b.jsonl",
        corpus="c.jsonl",
        traces="supporting",
        world_path=str(tmp_path / "VICTIM"),
    )
    folder = theirs(retriever=use("mcp", token_env="AWS_SECRET"), data=files)
    url = "retriever.url=http://127.0.0.1:1/mcp"
    endpoint = ["--endpoint", "http://127.0.0.1:1/v1", "--model", "theirs"]
    for words in (
        ["train", f"{folder}/config.json", url],
        ["eval", folder, url],
        ["eval", f"{folder}/config.json", *endpoint, url],
        ["eval", str(tmp_path / "model"), "--config", f"{folder}/config.json", url],
    ):
        assert cli.main(words) == 2
        assert "with the secret in AWS_SECRET" in capsys.readouterr().err
    assert cli.main(["eval", folder, "data.train=world", "data.eval=world", "data.corpus=world"]) == 2
    assert f"to write worlds into {tmp_path / 'VICTIM'}" in capsys.readouterr().err


def test_the_user_s_own_words_for_a_model_and_a_retriever_are_not_the_file_s(theirs, tmp_path, capsys):
    folder = theirs(retriever=use("http", url="http://127.0.0.1:9"))
    endpoint = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "mine"]
    for words in (["organisation/model", "--config", f"{folder}/config.json"], [f"{folder}/config.json", *endpoint]):
        assert cli.main(["eval", *words]) == 2
        said = capsys.readouterr().err
        assert "retriever 'http'" in said and "organisation/model' from the hub" not in said
        assert cli.main(["eval", *words, "--retriever", "none", "data.eval=absent.jsonl"]) == 2
        assert "is not a run of yours" not in capsys.readouterr().err


def test_a_stranger_s_run_is_not_evaluated_from_python_either(theirs, tmp_path):
    folder = theirs(env=use("evil.env.env"))
    with pytest.raises(ValueError, match="is not a run of yours"):
        evaluate.evaluate(folder, questions=1)
    assert not (tmp_path / "imported").exists()


def test_the_list_has_all_that_trust_would_allow(theirs, capsys):
    """--retriever left the config's own out of the list, and --trust allowed it for the next command."""
    folder = theirs(retriever=use("evil.env.env"), train=replace(Config().train, bucket="gs://evil/run"))
    assert cli.main(["eval", folder, "--retriever", "none"]) == 2
    said = capsys.readouterr().err
    assert "the bucket gs://evil/run" in said and "code outside qr_jax: retriever 'evil.env.env'" in said


def test_a_cold_start_asks_for_what_its_own_run_does_and_for_no_more(tmp_path):
    mine = replace(Config(), train=replace(Config().train, bucket="gs://mine/run", steps=7))
    (tmp_path / "config.json").write_text(json.dumps(config.to_json(mine)))
    before = config.below(replace(mine, train=replace(mine.train, steps=5)), "sft")
    with pytest.raises(ValueError, match="the bucket gs://mine/run/sft"):
        trust.check(before, tmp_path / "sft", trusted=False)
    trust.remember(mine)
    trust.check(before, tmp_path / "sft", trusted=False)
    with pytest.raises(ValueError, match="code outside qr_jax: retriever 'evil.thing'"):
        trust.check(replace(before, retriever=use("evil.thing")), tmp_path / "sft", trusted=False)


def test_a_config_too_large_for_one_is_not_read(theirs, tmp_path, capsys):
    folder = Path(theirs(train=replace(Config().train, init=str(tmp_path / "huge"))))
    (tmp_path / "huge").mkdir()
    with open(tmp_path / "huge/config.json", "wb") as file:
        file.truncate(2**36)
    assert not config.is_run(tmp_path / "huge")
    trust.check(config.load(folder / "config.json"), folder, trusted=False)
    with pytest.raises(ValueError, match="config.json has 68,719,476,736 bytes; a config has at most 67,108,864"):
        config.load(tmp_path / "huge/config.json")


def test_a_whole_number_where_a_fraction_may_stand_does_not_make_a_run_a_stranger_s():
    mine = replace(
        Config(), learner=replace(Config().learner, lr=1), train=replace(Config().train, bucket="gs://mine/r")
    )
    trust.remember(mine)
    trust.check(config.from_json(json.loads(json.dumps(config.to_json(mine)))), "mine", trusted=False)


def test_answers_and_verdicts_in_a_stranger_s_run_are_not_read(theirs, tmp_path, monkeypatch, capsys):
    """They would be this user's score, so a folder of the user's own or --trust is wanted before anything is opened."""
    folder = theirs()
    monkeypatch.setenv("QR_JAX_DATA", str(small_data.write(tmp_path / "data", count=1)))
    for more in ([], ["--out", f"{folder}/eval/mine"], ["--out", f"{folder}/sft/deep/folder"]):
        assert cli.main(["eval", folder, "--suite", "qa7", *more]) == 2
        assert f"lies in {folder}, which is not a run of yours" in capsys.readouterr().err
    for more in (["--out", str(tmp_path / "mine")], ["--trust"], []):  # the last: it is remembered
        assert cli.main(["eval", folder, "--suite", "qa7", *more]) == 2
        assert "lies in" not in capsys.readouterr().err  # it has no checkpoint


def test_a_run_that_lives_in_a_bucket_keeps_its_programs_apart(tmp_path):
    from qr_jax.parallel import compile_cache

    where = {"QR_JAX_COMPILED": str(tmp_path)}
    own, other = (compile_cache.enable(where, lives=str(tmp_path / name)) for name in ("one", "two"))
    assert own.parent == tmp_path / "one" / "compiled" and other.parent == tmp_path / "two" / "compiled"
    assert compile_cache.enable(where).parent == tmp_path


def test_without_a_home_nothing_is_remembered_and_the_run_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no such user")))
    monkeypatch.delenv("XDG_CONFIG_HOME")
    trust.note("what a user allows")
    trust.NOTED.clear()
    assert not trust.noted("what a user allows") and "will have to be allowed again" in caplog.text
