"""`qr-jax index`: the same scores as bm25s, passages from disk, refusals in numbers, one pass in bounded memory."""

import contextlib
import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qr_jax.cli import cli
from qr_jax.data import limits, readers
from qr_jax.data.corpus_hash import corpus_hash
from qr_jax.records import Passage
from qr_jax.search import bm25_build, bm25_index, index_corpus, kept_index, stored
from qr_jax.search.build_aside import build_aside
from qr_jax.search.retrievers.bm25 import bm25
from qr_jax.search.retrievers.cached import cached
from qr_jax.sets import tables
from qr_jax.settings.settings import use

ROWS = [
    {"id": "2", "title": "Vitamin C", "text": "Oranges hold vitamin C."},
    {"id": "1", "contents": '"Dune"\nA novel by Frank Herbert.\nOld.'},
    {"id": "3", "title": "東京", "text": "日本 の 首都"},
]
ANIMALS = ("cat", "dog", "the", "fox", "owl", "elk", "C++", "हिन्दी", "中国の", "ภาษาไทย")
SETTINGS = {"method": "lucene", "k1": 1.5, "b": 0.75, "stopwords": "en"}
OF_BM25 = SETTINGS | {"words": bm25_build.RULE}  # as the retriever asks for them


def corpus_file(folder, rows=None):
    path = folder / "corpus.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS if rows is None else rows)).encode()))
    return path


def by_bm25s(texts, method, query):
    """bm25s's own scores of every text, by its own index."""
    import bm25s

    stopwords = bm25_build.stop_words("en")
    words = [[word for word in bm25_build.words(text) if word not in stopwords] for text in texts]
    model = bm25s.BM25(method=method, k1=1.5, b=0.75, backend="numpy", csc_backend="numpy")
    model.index(words, create_empty_token=False, show_progress=False)
    return model.get_scores([word for word in bm25_build.words(query) if word in model.vocab_dict])


@pytest.mark.parametrize("method", ("lucene", "robertson", "atire"))
@settings(max_examples=20)
@given(texts=st.lists(st.lists(st.sampled_from(ANIMALS), max_size=9), min_size=2, max_size=8))
def test_scores_are_those_of_bm25s(method, texts):
    joined = [" ".join(one) for one in texts] + ["cat owl"]
    found = bm25(corpus=[Passage(str(at), "", text) for at, text in enumerate(joined)], method=method)(["cat owl"], 99)
    mine = {passage.id: passage.score for passage in found[0]}
    theirs = {str(at): score for at, score in enumerate(by_bm25s(joined, method, "cat owl")) if score > 0}
    assert mine == pytest.approx(theirs, rel=1e-5)


@given(st.text(alphabet="ab1_ '’.-é\n"))
def test_words_begin_and_end_where_words_do(text):
    # bm25s's own pattern, two characters and more; and single characters that are words of their own
    plain = re.findall(r"(?u)\b\w\w+\b|(?<!['’])\b\w\b", text)
    assert bm25_build.words(text) == plain


@pytest.mark.parametrize("language", ["en", "en_plus", "de", "fr", "zh", "ko"])
def test_stop_words_are_those_of_bm25s(language):
    from bm25s.tokenization import Tokenizer

    assert bm25_build.stop_words(language) == list(Tokenizer(stopwords=language).stopwords)


def test_bm25s_reads_the_folder(tmp_path):
    import bm25s

    corpus = [
        Passage("a", "Dune", "novel by Herbert"),
        Passage("b", "", "a novel of cats"),
        Passage("c", "", "cats cats"),
    ]
    bm25_index.write(tmp_path / "index", corpus, OF_BM25, {})
    search = bm25(corpus=readers.read_passages(tmp_path / "index"))
    model = bm25s.BM25.load(tmp_path / "index", mmap=True)
    scores = model.get_scores(["novel", "cats"])
    assert {one.id: one.score for one in search(["novel cats"], 3)[0]} == pytest.approx(dict(zip("abc", scores)))


def test_pieces_give_what_the_whole_gives(monkeypatch):
    rng = np.random.default_rng(0)
    corpus = [Passage(str(at), "", " ".join(f"w{n}" for n in rng.zipf(1.5, 30) % 50)) for at in range(60)]
    whole = bm25_index.build(corpus, {**SETTINGS})
    monkeypatch.setattr(bm25_build, "BLOCK_WORDS", 100)
    monkeypatch.setattr(bm25_build, "RANGE", 7)
    pieces = bm25_index.build(corpus, {**SETTINGS})
    for name in ("score_I", "place_I", "start_W", "order_P"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name))
    assert pieces.word_at == whole.word_at


def test_an_index_is_a_corpus_that_stays_on_disk(tmp_path):
    file, out = corpus_file(tmp_path), tmp_path / "made" / "index"
    manifest = index_corpus.index(str(file), out, SETTINGS)
    passages = readers.read_passages(out)
    assert isinstance(passages, stored.Stored) and list(passages) == list(readers.read_passages(file))
    assert passages[-1] == passages[2] and passages[:2] == [passages[0], passages[1]]
    with pytest.raises(IndexError, match="passage 3 of 3"):
        passages[3]
    assert manifest["corpus"] == corpus_hash(list(passages)) and manifest["built"]
    assert manifest["counts"]["passages"] == 3 and manifest["sources"][0]["file"] == "corpus.jsonl.gz"
    assert {"qr_jax", "numpy"} == set(manifest["versions"]) and manifest["settings"]["k1"] == 1.5
    assert [one.name for one in out.parent.iterdir()] == ["index"]
    queries = ["vitamin c", "frank herbert", "日本"]
    in_memory = bm25(corpus=readers.read_passages(file))
    assert bm25(corpus=passages)(queries, 2) == in_memory(queries, 2)


def test_the_stored_index_is_used_where_its_settings_are_asked_for(tmp_path, monkeypatch, caplog):
    out = tmp_path / "index"
    index_corpus.index(str(corpus_file(tmp_path)), out, SETTINGS)
    monkeypatch.setattr(bm25_index, "build", None)  # would raise if it were called
    assert bm25(corpus=readers.read_passages(out))(["dune"], 1)[0][0].id == "1"
    monkeypatch.undo()
    assert bm25(corpus=readers.read_passages(out), k1=0.9)(["dune"], 1)[0][0].id == "1"
    assert "it was built with k1=" in caplog.text and "is asked for" in caplog.text


CHINESE = [{"id": "1", "title": "", "text": "中国的首都是北京"}, {"id": "2", "title": "", "text": "猫喜欢吃鱼"}]


@pytest.fixture
def before(monkeypatch):
    """The rule of words as it was, for what is built inside."""
    rule = r"(?u)\w\w+|(?<!['’])\w"

    @contextlib.contextmanager
    def version_1():
        with monkeypatch.context() as patch:
            patch.setattr(bm25_build, "words", lambda text: re.findall(rule, text.lower()))
            patch.setattr(bm25_build, "RULE", rule, raising=False)
            yield

    return version_1


def test_an_index_of_another_rule_of_words_is_not_searched_and_how_to_renew_it_is_said(tmp_path, caplog, before):
    """Its passages are read all the same, so nothing is lost."""
    file, out = corpus_file(tmp_path, CHINESE), tmp_path / "index"
    with before():
        index_corpus.index(str(file), out, SETTINGS)
    assert [one.id for one in bm25(corpus=readers.read_passages(out))(["北京在哪里"], 3)[0]] == ["1"]
    assert "its index is not used (it was built with words=" in caplog.text
    assert "`qr-jax index`, with the same files and folder, builds it again" in caplog.text
    caplog.clear()
    assert index_corpus.index(str(file), out, SETTINGS)["built"]
    assert [one.id for one in bm25(corpus=readers.read_passages(out))(["北京在哪里"], 3)[0]] == ["1"]
    assert not caplog.text


def test_searches_that_were_kept_under_another_rule_of_words_are_not_given_again(tmp_path, before):
    passages = [Passage("1", "", "C++ and more"), Passage("2", "C", "C")]
    with before():
        assert cached(of=use("bm25"), cache=str(tmp_path / "kept"), corpus=passages)(["C++"], 1)[0][0].id == "2"
    assert cached(of=use("bm25"), cache=str(tmp_path / "kept"), corpus=passages)(["C++"], 1)[0][0].id == "1"


@pytest.mark.parametrize("file", ["passages.bin", "passages.npy", "manifest.json"])
@pytest.mark.parametrize("harm", ["gone", "flipped"])
def test_an_index_whose_passages_are_damaged_is_no_corpus_for_any_retriever(tmp_path, file, harm):
    out = tmp_path / "index"
    index_corpus.index(str(corpus_file(tmp_path)), out, SETTINGS)
    data = (out / file).read_bytes()
    (out / file).unlink()
    if harm == "flipped":
        (out / file).write_bytes(data[:-9] + b"\xff" + data[-8:])
    with pytest.raises(ValueError, match=rf"damaged: .*{file} .*; build it again .*qr-jax index FILE ... .*index"):
        readers.read_passages(out)
    lost = file == "manifest.json"  # then nobody knows what it was made of
    assert index_corpus.index(str(tmp_path / "corpus.jsonl.gz"), out, SETTINGS, replace=lost)["built"]
    assert len(readers.read_passages(out)) == 3


def restated(folder: Path, **files: np.ndarray) -> None:
    """Write the arrays over the folder's, and let its manifest say so, as a stranger would."""
    for name, array in files.items():
        np.save(folder / f"{name}.npy", array)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] |= {
        file.name: bm25_index.file_hash(file) for file in folder.iterdir() if file.name in manifest["files"]
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


SMALL = [Passage("a", "Dune", "a novel"), Passage("b", "Spice", "a thing"), Passage("c", "Arrakis", "a planet")]


def test_a_folder_that_gives_its_passages_for_another_corpus_is_no_corpus(tmp_path, monkeypatch):
    """Indexes and searches are kept by a corpus's hash: a stranger's passages would be found under the user's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "allowed"))
    bm25_index.write(tmp_path / "theirs", SMALL, SETTINGS, {})
    assert corpus_hash(bm25_index.passages(tmp_path / "theirs")) == corpus_hash(SMALL)
    hashed = []
    monkeypatch.setattr(bm25_index, "hashed", hashed.append)
    bm25_index.passages(tmp_path / "theirs")
    assert not hashed, "what was found right once is not hashed again"
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "allowed"))
    texts = tmp_path / "theirs" / stored.TEXTS
    texts.write_bytes(texts.read_bytes().replace(b"Dune", b"Evil"))
    restated(tmp_path / "theirs")
    with pytest.raises(ValueError, match="its passages are not those whose hash stands in manifest.json"):
        bm25_index.passages(tmp_path / "theirs")


@pytest.mark.parametrize("harm", ["overlap", "negative", "beyond", "flat", "text", "empty", "no corpus", "deep"])
def test_a_stranger_s_passages_that_do_not_lie_one_after_another_are_refused(tmp_path, harm):
    """10,000 passages that were one 4 MB text took 40 GB of work."""
    folder = tmp_path / "theirs"
    bm25_index.write(folder, SMALL, SETTINGS, {})
    ends = np.load(folder / stored.ENDS)
    changed = {
        "overlap": np.vstack([ends[:2], ends[:2], ends[2:]]), "negative": ends - 5, "beyond": ends * 2,
        "flat": ends.reshape(-1), "empty": ends[:0],
    }  # fmt: skip
    if harm in changed:
        restated(folder, passages=changed[harm])
    elif harm == "text":
        (folder / stored.TEXTS).write_bytes(b"")
        restated(folder)
    else:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest.pop("corpus")
        (folder / "manifest.json").write_text("[" * 100_000 if harm == "deep" else json.dumps(manifest))
    with pytest.raises(ValueError, match="theirs is damaged: its .*; build it again"):
        bm25_index.passages(folder)


@pytest.mark.parametrize("harm", ["order", "places", "starts", "words", "letters"])
def test_an_index_whose_files_do_not_fit_together_is_refused(tmp_path, harm):
    folder = tmp_path / "theirs"
    bm25_index.write(folder, SMALL, SETTINGS, {})
    of = {"order": bm25_index.ORDER, "places": bm25_index.PLACES, "starts": bm25_index.STARTS}
    if harm in of:
        np.save(folder / of[harm], np.load(folder / of[harm]) + 1)
    else:
        (folder / bm25_index.WORDS).write_bytes(b'{"dune": 99}' if harm == "words" else b"\xff\xfe")
    with pytest.raises(
        ValueError, match="theirs (is damaged: its files do not fit together|cannot be read .*); build it again"
    ):
        bm25_index.load(folder)


@pytest.mark.parametrize("file", ["manifest.json", "passages.bin", "passages.npy"])
@pytest.mark.parametrize("harm", ["pipe", "folder", "huge"])
def test_a_stranger_s_passages_are_neither_waited_for_nor_read_where_they_are_larger_than_they_say(
    tmp_path, monkeypatch, file, harm
):
    """A pipe hung every command that was given the folder; 3 GB of hole as the manifest took 6.3 GB and 30 s."""
    folder = tmp_path / "theirs"
    bm25_index.write(folder, SMALL, SETTINGS, {})
    spoil(folder / file, harm)
    monkeypatch.setattr(bm25_index, "file_hash", None)  # would raise if it were called
    says = {"pipe": "neither a file nor a folder", "folder": "a folder in a file's place"}
    says["huge"] = "passages.bin end" if file == "passages.bin" else "3,221,225,472 bytes"
    with pytest.raises(ValueError, match=f"theirs is damaged: its .*{says[harm]}.*; build it again"):
        readers.read_passages(folder)


@pytest.mark.parametrize("file", bm25_index.FILES)
@pytest.mark.parametrize("harm", ["pipe", "huge"])
def test_a_stranger_s_index_is_passed_by_where_a_file_is_none_or_larger_than_it_says(tmp_path, caplog, file, harm):
    folder = tmp_path / "theirs"
    bm25_index.write(folder, SMALL, OF_BM25, {})
    corpus = readers.read_passages(folder)
    spoil(folder / file, harm)
    hashed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bm25_index, "file_hash", lambda path: hashed.append(path.name))
        assert "damaged: " in str(bm25_index.why_not(folder, {}, files=[file])) and not hashed
    assert bm25(corpus=corpus)(["dune"], 1)[0][0].id == "a"
    assert f"its index is not used (damaged: {file})" in caplog.text
    if file != bm25_index.PARAMS:  # which bm25s alone reads
        with pytest.raises(ValueError, match=f"theirs cannot be read .*{re.escape(file)}: "):
            bm25_index.load(folder)


def spoil(path: Path, harm: str) -> None:
    if harm == "huge":
        os.truncate(path, 3 * 2**30)
    else:
        path.unlink()
        os.mkfifo(path) if harm == "pipe" else path.mkdir()


def test_a_manifest_that_leaves_a_file_out_or_names_one_elsewhere_is_not_believed(tmp_path, caplog):
    folder = tmp_path / "theirs"
    manifest = bm25_index.write(folder, SMALL, OF_BM25, {})
    corpus = readers.read_passages(folder)
    np.save(folder / bm25_index.PLACES, (np.load(folder / bm25_index.PLACES) + 1) % len(SMALL))
    os.mkfifo(tmp_path / "pipe")
    left = {name: digest for name, digest in manifest["files"].items() if name != bm25_index.PLACES}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": left | {"../pipe": "0"}}))
    assert "incomplete ('indices.csc.index.npy')" in str(bm25_index.why_not(folder, {}))
    assert bm25(corpus=corpus)(["dune"], 1)[0][0].id == "a"


def test_a_damaged_index_beside_whole_passages_is_passed_by(tmp_path, caplog):
    out = tmp_path / "index"
    index_corpus.index(str(corpus_file(tmp_path)), out, SETTINGS)
    (out / "data.csc.index.npy").write_bytes(b"x")
    assert bm25(corpus=readers.read_passages(out))(["dune"], 1)[0][0].id == "1"
    assert "its index is not used (damaged: data.csc.index.npy)" in caplog.text


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A user's cache folder; three passages are enough to be kept there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_index, "FEWEST", 3)
    return tmp_path / "cache/qr_jax/indexes"


def built(monkeypatch) -> list[int]:
    """The corpora whose words are counted from now on, by their passages."""
    sizes, count = [], bm25_build.count

    def noted(texts, *others):
        texts = list(texts)
        sizes.append(len(texts))
        return count(texts, *others)

    monkeypatch.setattr(bm25_build, "count", noted)
    return sizes


def test_an_index_is_kept_for_the_next_start_by_passages_and_settings(tmp_path, cache, monkeypatch):
    sizes, passages = built(monkeypatch), readers.read_passages(corpus_file(tmp_path))
    queries = ["vitamin c oranges", "dune herbert", "首都", "nothing"]
    first, second = (bm25(corpus=passages)(queries, 3) for _ in range(2))
    assert first == second and first[0] and sizes == [3] and len(list(cache.iterdir())) == 1
    bm25(corpus=passages, k1=1.2)
    other = [replace(passages[0], text="Oranges hold vitamin D."), *passages[1:]]
    assert bm25(corpus=other)(["d"], 3)[0] and sizes == [3, 3, 3] and len(list(cache.iterdir())) == 3
    for file in cache.glob("*/data.csc.index.npy"):
        file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.warns(UserWarning, match=r"is built again: damaged: data.csc.index.npy"):
        assert bm25(corpus=passages)(queries, 3) == first
    bm25(corpus=passages[:2])  # too few to be kept
    assert sizes == [3, 3, 3, 3, 2] and len(list(cache.iterdir())) == 3


def test_without_a_home_nothing_is_kept(monkeypatch, caplog):
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no such user")))
    monkeypatch.setattr(kept_index, "FEWEST", 1)
    assert kept_index.load_or_build(SMALL, SETTINGS, {}).word_at
    assert "there is no home folder (no such user); set XDG_CACHE_HOME" in caplog.text


def test_of_many_kept_indexes_those_that_nobody_used_go(tmp_path, cache, monkeypatch):
    passages, sizes = readers.read_passages(corpus_file(tmp_path)), built(monkeypatch)
    monkeypatch.setattr(kept_index, "MOST", 2)
    for at, k1 in enumerate((1.0, 1.1, 1.0, 1.2)):
        bm25(corpus=passages, k1=k1)
        newest = max(cache.iterdir(), key=lambda path: path.stat().st_mtime)
        os.utime(newest, (at, at))  # a second apart
    assert len(list(cache.iterdir())) == 2 and sizes == [3] * 3
    bm25(corpus=passages, k1=1.0)
    assert sizes == [3] * 3


def test_where_no_index_can_be_kept_it_is_in_memory_and_a_wrong_corpus_is_named_once(
    tmp_path, cache, monkeypatch, caplog
):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    passages = readers.read_passages(corpus_file(tmp_path))
    assert bm25(corpus=passages)(["dune"], 1)[0][0].id == "1"
    assert f"in memory alone, for none can be kept in {cache}" in caplog.text
    caplog.clear()
    with pytest.raises(ValueError, match="an id each; found the id '2' more than once"):
        bm25(corpus=[*passages, passages[0]])
    assert not caplog.records


def test_an_index_of_the_same_files_and_settings_is_not_built_twice(tmp_path):
    file, out = corpus_file(tmp_path), tmp_path / "index"
    index_corpus.index(str(file), out, SETTINGS)
    assert not index_corpus.index(str(file), out, SETTINGS)["built"]
    assert index_corpus.index(str(file), out, SETTINGS | {"k1": 0.9})["built"]
    with pytest.raises(ValueError, match="is an index already"):
        index_corpus.index(str(out), tmp_path / "again", SETTINGS)
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="left as it is"):
        index_corpus.index(str(file), out, SETTINGS)


def test_what_is_added_gives_the_index_of_all_files_byte_for_byte(tmp_path, capsys):
    """Its settings stay; until the new one is complete the old one is there."""
    first, second = corpus_file(tmp_path), tmp_path / "more.jsonl"
    second.write_text(json.dumps({"id": "9", "title": "Oranges", "text": "nine vitamin lives"}) + "\n")
    out, whole = tmp_path / "index", tmp_path / "whole"
    index_corpus.index(str(first), out, SETTINGS | {"k1": 0.9})
    assert cli.main(["index", "--add", str(second), str(out)]) == 0
    assert "4 passages" in capsys.readouterr().out
    index_corpus.index(f"{first},{second}", whole, SETTINGS | {"k1": 0.9})
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        file.name: file.read_bytes() for file in whole.iterdir()
    }
    assert [passage.id for passage in readers.read_passages(out)] == ["2", "1", "3", "9"]
    index_corpus.index(f"{first},{second}", out, SETTINGS | {"k1": 0.9})


def test_what_cannot_be_added_leaves_the_index_as_it_is(tmp_path, capsys):
    first, out, bad = corpus_file(tmp_path), tmp_path / "index", tmp_path / "bad.jsonl"
    index_corpus.index(str(first), out, SETTINGS)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(ValueError, match="corpus.jsonl.gz is in the index .* already"):
        index_corpus.add(str(first), out)
    bad.write_text(json.dumps({"id": "9", "text": "new"}) + "\n" + json.dumps({"id": "3", "text": "again"}) + "\n")
    with pytest.raises(ValueError, match="the id '3' more than once: bad.jsonl row 2 and in the index already"):
        index_corpus.add(str(bad), out)
    bad.write_text("\n")
    with pytest.raises(ValueError, match="bad.jsonl has no rows to add"):
        index_corpus.add(str(bad), out)
    bad.write_text(json.dumps({"id": "9"}) + "\n")
    with pytest.raises(ValueError, match="bad.jsonl row 1"):
        index_corpus.add(str(bad), out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "corpus.jsonl.gz", "index"]
    with pytest.raises(ValueError, match="is no index with its passages"):
        index_corpus.add(str(first), tmp_path / "none")
    assert cli.main(["index", str(out)]) == 2 and "--add FILE OUT adds to one" in capsys.readouterr().err
    assert cli.main(["index", "--add", str(bad), str(out), "k1=2"]) == 2


def test_an_index_that_another_process_adds_to_meanwhile_loses_nothing(tmp_path, monkeypatch):
    first, out = corpus_file(tmp_path), tmp_path / "index"
    files = [tmp_path / f"{name}.jsonl" for name in "ab"]
    for number, file in enumerate(files):
        file.write_text(json.dumps({"id": f"9{number}", "text": "new lives"}) + "\n")
    index_corpus.index(str(first), out, SETTINGS)
    estimate = index_corpus.estimate

    def meanwhile(*given):
        monkeypatch.setattr(index_corpus, "estimate", estimate)
        index_corpus.add(str(files[1]), out)
        return estimate(*given)

    monkeypatch.setattr(index_corpus, "estimate", meanwhile)
    with pytest.raises(ValueError, match="another process changed the index"):
        index_corpus.add(str(files[0]), out)
    index_corpus.add(str(files[0]), out)
    assert [passage.id for passage in readers.read_passages(out)][-2:] == ["91", "90"]


def test_an_index_whose_build_was_killed_between_two_renames_is_there_again(tmp_path):
    out = tmp_path / "index"
    index_corpus.index(str(corpus_file(tmp_path)), out, SETTINGS)
    aside = tmp_path / ".index.build"
    aside.mkdir()
    out.rename(aside / "old")
    with build_aside(out):
        assert len(readers.read_passages(out)) == 3


def test_another_corpus_s_index_is_replaced_only_where_that_is_asked_for(tmp_path):
    file, out, other = corpus_file(tmp_path), tmp_path / "index", tmp_path / "other.jsonl"
    index_corpus.index(str(file), out, SETTINGS)
    other.write_text(json.dumps({"id": "9", "text": "nine lives"}) + "\n")
    with pytest.raises(ValueError, match=r"made of corpus.jsonl.gz, not of these other.jsonl, .* with --replace"):
        index_corpus.index(str(other), out, SETTINGS)
    assert len(readers.read_passages(out)) == 3
    file.rename(tmp_path / "renamed.jsonl.gz")
    index_corpus.index(str(tmp_path / "renamed.jsonl.gz"), out, SETTINGS)  # the same under another name
    assert index_corpus.index(str(other), out, SETTINGS, replace=True)["built"]
    assert len(readers.read_passages(out)) == 1
    (out / "manifest.json").unlink()
    with pytest.raises(ValueError, match="does not say what it was made of"):
        index_corpus.index(str(other), out, SETTINGS)


def test_an_index_is_a_corpus_alone(tmp_path):
    file, out = corpus_file(tmp_path), tmp_path / "index"
    index_corpus.index(str(file), out, SETTINGS)
    (tmp_path / "empty").mkdir()
    for names in (f"{out},{out}", f"{out},{file}", f"{file},{out}"):
        with pytest.raises(ValueError, match="/index .from .* is an index; wanted files, or"):
            readers.read_passages(names)
    with pytest.raises(ValueError, match="/empty holds no file that is read; wanted documents"):
        readers.read_passages(tmp_path / "empty")
    with pytest.raises(ValueError, match="no file .empty name"):
        readers.read_passages(f"{file},")


def test_parquet_and_several_files_are_one_corpus(tmp_path):
    tables.write(tmp_path / "more.parquet", [{"id": "9", "title": None, "text": "nine lives"}])
    found = index_corpus.index(f"{corpus_file(tmp_path)},{tmp_path / 'more.parquet'}", tmp_path / "index", SETTINGS)
    assert found["counts"]["passages"] == 4 and found["estimate"]["passages"] == 4
    assert bm25(corpus=readers.read_passages(tmp_path / "index"))(["nine lives"], 1)[0][0].id == "9"


def test_a_file_that_changed_under_its_name_is_indexed_anew_and_the_manifest_says_of_which_bytes(tmp_path):
    out = tmp_path / "index"
    for text in ("old cats", "new cats"):  # as many bytes
        file = tmp_path / "corpus.jsonl"
        file.write_text(json.dumps({"id": "1", "text": text}) + "\n")
        found = index_corpus.index(str(file), out, SETTINGS, replace=True)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert found["sources"] == [{"file": "corpus.jsonl", "bytes": file.stat().st_size, "sha256": digest}]
        assert found["built"] and readers.read_passages(out)[0].text == text


KILLED = """
import os, signal, sys
from pathlib import Path
from qr_jax.records import Passage
from qr_jax.search import bm25_index

def corpus():
    yield Passage("1", "", "cat")
    print(*Path(sys.argv[1]).parent.glob(".index.build"), flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)

settings = {"method": "lucene", "k1": 1.5, "b": 0.75, "stopwords": "en"}
bm25_index.write(Path(sys.argv[1]), corpus(), settings, {})
"""


def test_what_a_killed_build_left_is_cleared_by_the_next_and_what_still_builds_is_not(tmp_path, caplog):
    file, out = corpus_file(tmp_path), tmp_path / "index"
    (tmp_path / ".index-mine").mkdir()
    words = [sys.executable, "-c", KILLED, str(out)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        aside = Path(process.stdout.readline().strip())
        with pytest.raises(ValueError, match="another process is building .*/index; wait for it"):
            index_corpus.index(str(file), out, SETTINGS)
        assert (aside / "new").is_dir()
        process.stdin.close()
        assert process.wait() == -signal.SIGKILL and aside.is_dir()
    assert index_corpus.index(str(file), out, SETTINGS | {"k1": 0.9})["built"]
    assert f"{aside / 'new'} was left by a build that was killed" in caplog.text
    assert sorted(one.name for one in tmp_path.iterdir()) == [".index-mine", "corpus.jsonl.gz", "index"]


def test_bad_corpora_leave_nothing_behind(tmp_path):
    out = tmp_path / "index"
    for rows, words in (
        ([*ROWS, ROWS[0]], r"'2' more than once: corpus.jsonl.gz row 1 and corpus.jsonl.gz row 4; ids must be unique"),
        ([*ROWS, {"id": "x"}], r"corpus.jsonl.gz row 4: .*neither 'text' nor 'contents'"),
        ([], "found no passage"),
    ):
        with pytest.raises(ValueError, match=words):
            index_corpus.index(str(corpus_file(tmp_path, rows)), out, SETTINGS)
    assert [one.name for one in tmp_path.iterdir()] == ["corpus.jsonl.gz"]
    for wrong, words in (({"stopwords": "xx"}, "no stop words"),):
        with pytest.raises(ValueError, match=words):
            index_corpus.index(str(corpus_file(tmp_path)), out, SETTINGS | wrong)


def test_the_estimate_unpacks_no_more_than_a_row_may_have(tmp_path):
    line = json.dumps(ROWS[0] | {"text": "x" * 10_000}).encode() + b"\n"
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(line * 20_000))  # 200 MB
    tracemalloc.start()
    try:
        estimated = index_corpus.estimate([tmp_path / "bomb.jsonl.gz"], ())
        assert tracemalloc.get_traced_memory()[1] < 4 * limits.MOST_ROW_BYTES
    finally:
        tracemalloc.stop()
    assert estimated.passages == pytest.approx(20_000, rel=0.02)


def test_the_estimate_grows_with_the_corpus_and_refuses_in_numbers(tmp_path):
    words_PT = np.random.default_rng(0).zipf(1.3, (40_000, 12)) % 50_000
    rows = [{"id": f"p{at}", "text": " ".join(f"w{n}" for n in words_T)} for at, words_T in enumerate(words_PT)]
    plain = tmp_path / "corpus.jsonl"
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows))
    estimated = index_corpus.estimate([plain], bm25_build.stop_words("en"))
    manifest = index_corpus.index(str(plain), tmp_path / "index", SETTINGS)
    assert estimated.passages == pytest.approx(40_000, rel=0.05)
    assert estimated.scores == pytest.approx(manifest["counts"]["scores"], rel=0.05)
    assert estimated.different_words == pytest.approx(manifest["counts"]["different_words"], rel=0.5)
    written = sum(one.stat().st_size for one in (tmp_path / "index").iterdir())
    assert 0.9 * written < estimated.index_bytes < 1.6 * written
    out = tmp_path / "index"
    with pytest.raises(ValueError, match=r"takes about 0.\d GB of memory, and 0.1 GB are available; close other"):
        index_corpus.refuse(estimated, 100_000_000, 10**12, out)
    with pytest.raises(ValueError, match=r"of disk while it is built \(.* MB when it is done\), and 1.0 MB are free"):
        index_corpus.refuse(estimated, None, 1_000_000, out)
    index_corpus.refuse(estimated, 10**12, 10**12, out)
    assert index_corpus.free_disk(tmp_path / "not" / "there") > 0


def test_an_index_that_would_not_fit_is_not_begun_unless_told_so(tmp_path, monkeypatch):
    file, out = str(corpus_file(tmp_path)), tmp_path / "index"
    for name, value, says in (("available_memory", 1000, "0.0 MB are available"), ("free_disk", 10, "0.0 MB are free")):
        with monkeypatch.context() as patched:
            patched.setattr(index_corpus, name, lambda *_, value=value: value)
            with pytest.raises(ValueError, match=says):
                index_corpus.index(file, out, SETTINGS)
            assert not out.exists()
    monkeypatch.setattr(index_corpus, "available_memory", lambda: 1000)
    assert index_corpus.index(file, out, SETTINGS, check=False)["built"]


def test_a_container_s_limit_is_the_memory_there_is(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4900\n")
    (tmp_path / "memory.stat").write_text("anon 2000\ninactive_file 2900\n")  # files read once count as used
    monkeypatch.setattr(index_corpus, "GROUPS", tmp_path)
    monkeypatch.setattr(index_corpus, "_machine_memory", lambda: 9000)
    assert index_corpus.available_memory() == 3000
    (tmp_path / "memory.stat").unlink()
    assert index_corpus.available_memory() == 100  # the limit holds without it
    (tmp_path / "memory.max").write_text("max\n")
    assert index_corpus.available_memory() == 9000


def test_the_command_says_what_it_built(tmp_path, capsys):
    words = ["index", str(corpus_file(tmp_path)), str(tmp_path / "index"), "stopwords=none"]
    assert cli.main([*words, "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["counts"]["passages"] == 3 and found["settings"]["stopwords"] is None
    assert "of memory" in said.err and "passages 0" not in said.err  # no live line where stderr is no terminal
    assert cli.main(words) == 0
    assert "already there" in capsys.readouterr().out


def test_a_config_takes_an_index_as_its_corpus(tmp_path, monkeypatch):
    from qr_jax import assemble
    from qr_jax.config import Config, Data
    from qr_jax.settings import checks

    out = tmp_path / "index"
    index_corpus.index(str(corpus_file(tmp_path)), out, SETTINGS)
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"id": "q", "question": "Who wrote Dune?", "answers": ["Herbert"]}) + "\n")
    data = Data(train=str(questions), eval=str(questions), corpus=str(out), traces=str(questions), split="sha256")
    config = Config(data=data)
    assert not checks.problems(config)
    monkeypatch.setattr(bm25_index, "build", None)  # would raise if it were called
    assert assemble.searcher(config)(["novel by Herbert"], 1)[0][0].title == "Dune"


def test_behind_a_link_the_folder_it_names_is_the_index(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "index").symlink_to(tmp_path / "disk" / "index")
    assert index_corpus.index(str(corpus_file(tmp_path)), tmp_path / "index", SETTINGS)["built"]
    assert (tmp_path / "index").is_symlink() and (tmp_path / "disk" / "index" / "manifest.json").is_file()


def test_an_interrupt_between_two_renames_keeps_the_index_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "index"
    path.mkdir()
    (path / "old.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), build_aside(path) as aside:
        os.replace(path, aside / "old")
        raise KeyboardInterrupt
    assert (path / "old.txt").read_text() == "old" and [one.name for one in tmp_path.iterdir()] == ["index"]


def test_a_first_row_longer_than_the_sample_is_estimated_too(tmp_path):
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"id": "1", "title": "", "text": "word " * 400_000}) + "\n")
    lines, share = index_corpus._head(file)
    assert len(lines) == 1 and share == 1.0
