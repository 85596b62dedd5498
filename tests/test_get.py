"""`qr-jax data get`: sets from their addresses on loopback, downloads that go on, and files that a config takes."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from test_official import HOTPOTQA

from qr_jax import checks, cli
from qr_jax.config import Config, Data
from qr_jax.overrides import override
from qr_jax.queries import download, fetch, get, official, readers
from qr_jax.queries.official import File


@contextmanager
def serving(files, *, cut=None, parts=True, tag='"one"'):
    """The files by path, with Range where `parts`; the first answer ends after `cut` bytes. Yields URL and requests."""
    asked, cuts = [], [cut]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            data, first = files[self.path], 0
            asked.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
            if parts and asked[-1][1] and asked[-1][2] == tag:
                first = int(asked[-1][1].removeprefix("bytes=").rstrip("-"))
            if first and first >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(data) - first))
            self.send_header("ETag", tag)
            self.end_headers()
            self.wfile.write(data[first:][: cuts.pop() if cuts else None])

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


DATA = bytes(range(256)) * 40


def test_a_download_that_ended_goes_on_where_it_ended(tmp_path):
    said = []
    with serving({"/x": DATA}, cut=4000) as (url, asked):
        with pytest.raises(OSError, match="ended after 4000 of 10240 bytes; the same command goes on"):
            download.download(f"{url}/x", tmp_path / "x", say=said.append)
        assert not (tmp_path / "x").exists()
        download.download(f"{url}/x", tmp_path / "x", say=said.append)
        download.download(f"{url}/x", tmp_path / "x", say=said.append)  # it is there
    assert (tmp_path / "x").read_bytes() == DATA and [path.name for path in tmp_path.iterdir()] == ["x"]
    assert asked == [("/x", None, None), ("/x", "bytes=4000-", '"one"')]
    assert "from 0.0 MB on" in " ".join(said)


def test_a_place_that_cannot_be_written_is_said_before_anything_is_fetched(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert cli.main(["data", "get", "hotpotqa", "--out", str(tmp_path / "file")]) == 2
    assert "file is a file; give --out the name of a folder" in capsys.readouterr().err


def test_a_file_that_changed_meanwhile_and_a_server_without_parts_begin_anew(tmp_path):
    for name, how in (("changed", {"tag": '"two"'}), ("whole", {"parts": False})):
        place = tmp_path / name
        with serving({"/x": b"old" * 2000}, cut=4000) as (url, _), pytest.raises(OSError, match="ended after"):
            download.download(f"{url}/x", place, say=print)
        with serving({"/x": DATA}, **how) as (url, asked):
            download.download(f"{url}/x", place, say=print)
        assert place.read_bytes() == DATA and asked[0][1] == "bytes=4000-"


def test_a_part_that_is_the_whole_file_is_taken(tmp_path):
    (tmp_path / ".x.part").write_bytes(DATA)
    (tmp_path / ".x.part.json").write_text('{"mark": "\\"one\\""}')
    with serving({"/x": DATA}) as (url, _):
        assert download.download(f"{url}/x", tmp_path / "x", say=print).read_bytes() == DATA
    (tmp_path / ".y.part").write_bytes(DATA * 2)
    (tmp_path / ".y.part.json").write_text('{"mark": "\\"one\\""}')
    with serving({"/y": DATA}) as (url, _):
        with pytest.raises(OSError, match="is another file there now; the same command begins anew"):
            download.download(f"{url}/y", tmp_path / "y", say=print)
        assert download.download(f"{url}/y", tmp_path / "y", say=print).read_bytes() == DATA


def test_half_a_file_and_a_wrong_one_are_refused_by_name(tmp_path):
    with serving({"/x": DATA}, cut=10) as (url, _):
        wanted = File("x.json", f"{url}/x", hashlib.sha256(DATA).hexdigest(), "us")
        with pytest.raises(ValueError, match="x.json cannot be downloaded.*ended after 10 of 10240"):
            fetch.fetch(wanted, tmp_path)
        assert fetch.fetch(wanted, tmp_path).path.read_bytes() == DATA
        with pytest.raises(ValueError, match="not the official file"):
            fetch.fetch(replace(wanted, name="y.json", sha256="0" * 64), tmp_path)


def published(monkeypatch, url, dev):
    """HotpotQA at that address, with the checksum of `dev` alone."""
    hotpotqa = official.SETS["hotpotqa/distractor"]
    files = {"train": File("train.json", f"{url}/train.json"), "dev": File("dev.json", f"{url}/dev.json")}
    files["dev"] = replace(files["dev"], sha256=hashlib.sha256(dev).hexdigest(), attested="us")
    monkeypatch.setattr(official, "SETS", {**official.SETS, "hotpotqa/distractor": replace(hotpotqa, splits=files)})


def test_a_set_with_passages_becomes_files_an_index_and_settings_that_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    unmatched = HOTPOTQA | {"_id": "none", "answer": "the"}
    train, dev = json.dumps([HOTPOTQA | {"_id": "first"}, unmatched]).encode(), json.dumps([HOTPOTQA]).encode()
    with serving({"/train.json": train, "/dev.json": dev}) as (url, asked):
        published(monkeypatch, url, dev)
        assert cli.main(["data", "get", "hotpotqa"]) == 0
        told = capsys.readouterr()
        assert cli.main(["data", "get", "hotpotqa"]) == 0  # nothing is downloaded again
        assert len(asked) == 2
    assert "train: 1 questions in runs/data/hotpotqa/train.jsonl" in told.out and "3 passages" in told.out
    assert "downloading http://127.0.0.1" in told.err and "1 questions left out" in told.err
    (query,) = readers.read_queries("runs/data/hotpotqa/train.jsonl")
    passages = {passage.id: passage for passage in readers.read_passages("runs/data/hotpotqa/corpus.index")}
    assert [passages[name].title for name in query.meta["supporting"]] == query.meta["supporting_titles"] == ["A", "B"]
    typed = [line.strip() for line in told.out.partition("settings")[2].splitlines()[1:] if "=" in line]
    settings = override(Config(), typed)
    assert settings.data == Data(
        train="runs/data/hotpotqa/train.jsonl", eval="runs/data/hotpotqa/dev.jsonl",
        corpus="runs/data/hotpotqa/corpus.index", traces="supporting",
    )  # fmt: skip
    assert checks.problems(settings) == []


def test_a_user_s_folder_of_files_is_read_and_questions_alone_say_what_else_is_wanted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "bamboogle.csv").write_text("Question,Answer\nWho?,Ada\n")
    assert cli.main(["data", "get", "bamboogle", "--files", "mine", "--out", "bamboogle"]) == 0
    told = capsys.readouterr().out
    assert "data.eval=bamboogle/test.jsonl" in told and "data get wiki18" in told and "data.train" not in told
    assert cli.main(["data", "get", "musique"]) == 2
    assert "download musique_v1.0.zip by the link on the page" in capsys.readouterr().err
    assert cli.main(["data", "get", "hotpot"]) == 2
    assert "there is no set 'hotpot'; did you mean hotpotqa?" in capsys.readouterr().err


def test_wiki18_is_indexed_from_its_address(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    import gzip

    rows = [{"id": str(at), "contents": f'"Title {at}"\nsome words'} for at in range(3)]
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    with serving({"/wiki": packed}) as (url, _):
        monkeypatch.setattr(get, "WIKI18", replace(get.WIKI18, url=f"{url}/wiki"))
        assert cli.main(["data", "get", "wiki18"]) == 0
    assert "data.corpus=runs/data/wiki18" in capsys.readouterr().out
    assert readers.read_passages("runs/data/wiki18")[1].title == "Title 1"
