"""`qr-jax data get`: the hub's own client on a loopback stub of the hub, and files that a config takes."""

import gzip
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager

import loopback_hub
import pytest
from huggingface_hub import constants
from loopback_hub import COMMIT
from test_official import ROWS, write_official

from qr_jax.cli import cli
from qr_jax.cli.overrides import override
from qr_jax.config import Config
from qr_jax.data import readers
from qr_jax.sets import fetch, get, official, qa_builders
from qr_jax.settings import checks

REPO = "someone/questions"
DATA = bytes(range(256)) * 40


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The stub, as HF_ENDPOINT names it, and a cache of its own; conftest.py has the client offline."""

    @contextmanager
    def serving(files, **how):
        with loopback_hub.serving(files, **how) as served:
            monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
            monkeypatch.setattr(constants, "ENDPOINT", served.url)
            template = f"{served.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            yield served

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "a-token")
    return serving


def test_files_of_a_repository_are_fetched_once_and_the_commit_stands_beside_them(hub, tmp_path, capsys):
    row = json.dumps({"id": "1", "question": "who ?", "answers": ["Ada"]}).encode()
    with hub({REPO: {"a/train.jsonl": row, "dev.jsonl": row + b"\n"}}) as served:
        for _ in range(2):
            assert cli.main(["data", "get", REPO, "a/train.jsonl", "dev.jsonl", "--out", "mine"]) == 0
        assert [path for path, _ in served.gets()] == [f"/cdn/{REPO}@a/train.jsonl", f"/cdn/{REPO}@dev.jsonl"]
        tokens = {(path.split("/")[1], token) for _, path, _, token in served.asked}
        assert tokens == {("datasets", "Bearer a-token"), ("cdn", None)}
    told = capsys.readouterr()
    assert f"a/train.jsonl of {REPO} at {COMMIT}: mine/a/train.jsonl" in told.out
    assert "data.train=mine/a/train.jsonl,mine/dev.jsonl" in told.out and "fetching dev.jsonl" in told.err
    assert [query.id for query in readers.read_queries("mine/a/train.jsonl")] == ["1"]
    source = json.loads((tmp_path / "mine/source.json").read_text())
    assert (source["repository"], source["commit"], len(source["files"]["dev.jsonl"])) == (REPO, COMMIT, 64)


def test_a_revision_is_asked_for_by_its_name_and_a_file_of_the_user_s_is_not_replaced(hub, tmp_path):
    with hub({REPO: {"x": DATA}}) as served:
        get.get(REPO, ["x"], revision=COMMIT)
        assert served.asked[0][1] == f"/datasets/{REPO}/resolve/{COMMIT}/x"
        assert (tmp_path / "runs/data/someone_questions/x").read_bytes() == DATA
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/x").write_text("mine")
        with pytest.raises(ValueError, match="mine/x is another file than the hub's; give --out another folder"):
            get.get(REPO, ["x"], tmp_path / "mine")
    assert (tmp_path / "mine/x").read_text() == "mine"


def test_an_interrupted_transfer_goes_on_after_the_last_whole_piece(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    with hub({REPO: {"x": DATA}}, cut=4000) as served:
        assert fetch.fetch(REPO, "x").path.read_bytes() == DATA
        assert [part for _, part in served.gets()] == [None, "bytes=4000-"]


def test_another_size_and_another_checksum_are_refused_and_fetched_anew(hub, tmp_path):
    with (
        hub({REPO: {"x": DATA}}, sizes={"x": len(DATA) + 1}),
        pytest.raises(OSError, match="should be of size 10241"),
    ):
        fetch.fetch(REPO, "x")
    with hub({REPO: {"x": DATA}}, sums={"x": "0" * 64}) as served:
        for count in (1, 2):
            with pytest.raises(ValueError, match=f"came altered: its SHA-256 is .*, and {'0' * 64} is wanted"):
                fetch.fetch(REPO, "x")
            assert len(served.gets()) == count
    assert not [one for one in (tmp_path / "cache").rglob("*") if one.is_file() and one.read_bytes() == DATA]


@pytest.mark.parametrize(
    ("repo", "name", "revision", "words"),
    [
        (
            "someone/else",
            "x",
            "main",
            "the hub shows no data set repository 'someone/else'; if it is private, set HF_TOKEN",
        ),
        (
            "someone/gated",
            "x",
            "main",
            "someone/gated is gated: accept its terms on http.*/datasets/someone/gated, and set",
        ),
        ("someone/theirs", "x", "main", "not in the hub's cache, and the hub gave: 403 Forbidden: not yours"),
        (REPO, "y", "main", "someone/questions has no file 'y' at 'main'; http.*/tree/main lists them"),
        (REPO, "x", "v9", "someone/questions has no revision 'v9'"),
        (REPO, "../../x", "main", "cannot be fetched from the hub: .*"),
        ("some one/x", "x", "main", "cannot be fetched from the hub: .*"),
    ],
)
def test_what_the_hub_refuses_is_told_by_its_cause(hub, repo, name, revision, words):
    refuses = {"someone/gated": "GatedRepo", "someone/theirs": ""}
    with hub({REPO: {"x": DATA}}, refuses=refuses), pytest.raises(ValueError, match=words):
        fetch.fetch(repo, name, revision)


def test_offline_the_cache_is_read_and_what_is_not_in_it_is_named(hub, tmp_path):
    """By the variables that the client reads, in processes of their own."""
    with hub({REPO: {"x": DATA}}) as served:
        kept = {"HF_ENDPOINT": served.url, "HF_HUB_CACHE": str(tmp_path / "cache")}

        def ran(offline, out):
            words = [sys.executable, "-m", "qr_jax", "data", "get", REPO, "x", "--out", out]
            environment = os.environ | kept | {"HF_HUB_OFFLINE": offline}
            return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

        before = ran("1", "none")
        assert before.returncode == 2 and "is not in the hub's cache, and HF_HUB_OFFLINE is set" in before.stderr
        assert not served.asked and ran("0", "first").returncode == 0
        count = len(served.asked)
        assert ran("1", "second").returncode == 0 and len(served.asked) == count
    assert (tmp_path / "second/x").read_bytes() == DATA
    assert (tmp_path / "second/source.json").read_bytes() == (tmp_path / "first/source.json").read_bytes()


def frames(tmp_path):
    return write_official(
        tmp_path, "frames", [ROWS["frames"][0], ROWS["frames"][0] | {"Answer": "the"}], "test"
    ).read_bytes()


def test_a_set_of_the_hub_becomes_questions_and_settings_that_check(hub, tmp_path, capsys):
    with hub({"google/frames-benchmark": {"test.tsv": frames(tmp_path)}}):
        assert cli.main(["data", "get", "frames", "--out", "frames"]) == 0
    told = capsys.readouterr()
    assert "test: 1 questions in frames/test.jsonl" in told.out and "1 questions left out" in told.err
    (query,) = readers.read_queries("frames/test.jsonl")
    assert query.answers == ("Ada",) and query.meta["supporting_titles"] == ["Ada (queen)", "B"]
    assert json.loads((tmp_path / "frames/source.json").read_text())["commit"] == COMMIT
    typed = [line.strip() for line in told.out.partition("settings")[2].splitlines()[1:] if "=" in line]
    settings = override(Config(), [line for line in typed if "FOLDER" not in line])
    assert settings.data.eval == "frames/test.jsonl" and settings.sft.steps == 0
    assert not [line for line in checks.problems(settings) if "data.eval" in line]


def test_a_set_that_a_config_names_is_fetched_by_the_same_function(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(official, "BUILT", str(tmp_path / "built"))
    with hub({"google/frames-benchmark": {"test.tsv": frames(tmp_path)}}) as served:
        (query,) = readers.read_queries("tfds:frames")
        assert list(readers.read_queries("tfds:frames")) == [query] and len(served.gets()) == 1
    assert query.answers == ("Ada",)
    source = official.source(official.place(official.BUILT, "frames", "test"))
    assert (source["repository"], source["commit"]) == ("google/frames-benchmark", COMMIT)


def test_wiki18_is_indexed_from_the_hub_s_cache(hub, tmp_path, capsys):
    rows = [{"id": str(at), "contents": f'"Title {at}"\nsome words'} for at in range(3)]
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    with hub({"PeterJinGo/wiki-18-corpus": {"wiki-18.jsonl.gz": packed}}):
        for _ in range(2):
            assert cli.main(["data", "get", "wiki18"]) == 0
    assert "data.corpus=runs/data/wiki18/corpus.index" in capsys.readouterr().out
    assert readers.read_passages("runs/data/wiki18/corpus.index")[1].title == "Title 1"
    assert json.loads((tmp_path / "runs/data/wiki18/source.json").read_text())["commit"] == COMMIT


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["hotpotqa"], "hot.* publishes hotpot_train_v1.1.json and hotpot_dev_distractor_v1.json by way of https://github"),
        (["musique"], r"\(of musique_v1.0.zip\) by way of https.*; `qr-jax data convert FILE OUT` reads such a file"),
        (["hotpotqa/fullwiki"], "no file of the hub is known for hotpotqa/fullwiki: its owner publishes"),
        (["frame"], "there is no set 'frame'; did you mean frames?"),
        ([REPO], "no file of someone/questions is named; name those that you want: `qr-jax data get someone"),
    ],
)  # fmt: skip
def test_what_the_hub_does_not_have_says_who_does_and_what_reads_it(words, says, capsys):
    assert cli.main(["data", "get", *words]) == 2
    assert re.search(says, capsys.readouterr().err)


def test_a_place_that_cannot_be_written_is_said_before_anything_is_fetched(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert cli.main(["data", "get", "frames", "--out", str(tmp_path / "file")]) == 2
    assert "file is a file; give --out the name of a folder" in capsys.readouterr().err


def test_the_help_names_every_set_of_the_hub_and_every_one_of_them_is_known(capsys):
    with pytest.raises(SystemExit):
        cli.main(["data", "get", "--help"])
    told = capsys.readouterr().out
    for name, of_hub in official.HUB.items():
        assert name in told and of_hub.repo.count("/") == 1
        files = {file.name for file in official.SETS[name].splits.values()} if name in official.SETS else {of_hub.file}
        assert files == {of_hub.file}, "a set of the hub is one file"
    with pytest.raises(ValueError, match="for nq: its owner .*, and tfds:nq@FOLDER the folder that they are in"):
        qa_builders.open_set("nq", "built", splits=("dev",))
