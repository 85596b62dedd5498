"""Dense retrieval: numpy's order on any number of devices, an index that goes on where it ended, few programs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qr_jax import plugins
from qr_jax.records import Passage
from qr_jax.search import dense_index, embedder, nearest
from qr_jax.search.retrievers.dense import dense
from qr_jax.settings.settings import Use

BERT = str(Path(__file__).parents[1] / "fixtures" / "bert")
CORPUS = [
    Passage("b", "Dune", "a novel by frank herbert."),
    Passage("a", "Dune", "a novel by frank herbert."),
    Passage("c", "Oslo", "the capital of norway"),
    Passage("d", "Paris", "the capital of france"),
    Passage("e", "", ""),
]


def ids(results):
    return [[passage.id for passage in found] for found in results]


def unit(rng, *shape):
    found = rng.standard_normal(shape).astype(np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def laid_out(vector_PD, devices, storage="float32"):
    vectors = dense_index.in_memory(len(vector_PD), storage, lambda start, stop: vector_PD[start:stop])
    return nearest.lay_out(vectors.read, len(vector_PD), jax.local_devices()[:devices])


@pytest.mark.parametrize("devices", [1, 4, 8])
@pytest.mark.parametrize("count", [3, 1000, 12_000])
def test_exact_search_finds_what_numpy_finds(devices, count):
    rng = np.random.default_rng(count)
    vector_PD, query_BD = unit(rng, count, 48), unit(rng, 8, 48)
    score_BP = query_BD @ vector_PD.T
    expected = np.argsort(-score_BP, axis=1, kind="stable")[:, :7]
    score_BK, row_BK = nearest.nearest(laid_out(vector_PD, devices), query_BD, 7)
    np.testing.assert_array_equal(row_BK, expected)
    np.testing.assert_allclose(score_BK, np.take_along_axis(score_BP, expected, 1), atol=1e-6)


@pytest.mark.parametrize("devices", [1, 8])
def test_equal_scores_go_by_row(devices):
    vector_PD = np.zeros((6000, 4), np.float32)
    vector_PD[[5, 700, 701, 4097, 5999]] = [0, 1, 0, 0]
    vector_PD[3000] = [1, 0, 0, 0]
    _, row_BK = nearest.nearest(laid_out(vector_PD, devices), np.array([[0.6, 0.5, 0, 0]], np.float32), 8)
    assert row_BK.tolist() == [[3000, 5, 700, 701, 4097, 5999, 0, 1]]


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.sampled_from([2, 5, 1000]))
def test_the_largest_by_groups_are_those_of_a_full_sort(seed, k, values):
    """Few different values: most are ties, within a group and between groups."""
    score_BP = np.random.default_rng(seed).integers(0, values, (2, 32 * nearest.GROUP)).astype(np.float32)
    top_BK, at_BK = jax.jit(nearest.largest, static_argnums=1)(score_BP, k)
    np.testing.assert_array_equal(at_BK, np.argsort(-score_BP, axis=1, kind="stable")[:, :k])
    np.testing.assert_array_equal(top_BK, np.take_along_axis(score_BP, np.asarray(at_BK), 1))


def test_int8_and_bfloat16_find_nearly_the_same():
    rng = np.random.default_rng(0)
    vector_PD, query_BD = unit(rng, 20_000, 128), unit(rng, 32, 128)
    exact = np.argsort(-(query_BD @ vector_PD.T), axis=1)[:, :5]
    for storage, least in (("bfloat16", 0.95), ("int8", 0.95)):
        score_BK, row_BK = nearest.nearest(laid_out(vector_PD, 2, storage), query_BD, 5)
        recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(row_BK.tolist(), exact.tolist(), strict=True)])
        assert recall >= least, storage
        found = np.take_along_axis(query_BD @ vector_PD.T, row_BK, 1)
        assert np.abs(score_BK - found).max() < 4e-3


def test_int8_by_hand():
    whole_ND, factor_N = dense_index.quantise(np.array([[1.27, -0.635], [0, 0]], np.float32))
    assert whole_ND.tolist() == [[127, -64], [0, 0]]  # -63.5 goes to the even neighbour
    np.testing.assert_allclose(factor_N, [0.01, 1], rtol=1e-6)


@pytest.fixture(scope="module")
def search():
    return dense(corpus=CORPUS, model=BERT, devices=1)


def test_a_passage_is_found_by_its_own_words_and_equal_ones_go_by_id(search):
    results = search(["Dune a novel by frank herbert.", "Oslo the capital of norway", "", " "], 2)
    assert ids(results)[0] == ["a", "b"] and ids(results)[1][0] == "c" and ids(results)[2:] == [[], []]
    assert results[0][0].score == pytest.approx(1, abs=1e-5) and type(results[0][0].score) is float
    assert results[0][0].score == results[0][1].score and results[0][0].text == CORPUS[1].text


def test_any_number_of_queries_and_passages_can_be_asked_for(search):
    queries = [f"the capital of {'norway' if at % 2 else 'france'}" for at in range(75)]
    results = search(queries, 3)
    assert ids(results)[:2] * 37 + ids(results)[:1] == ids(results)
    assert search([], 3) == [] and ids(search(["dune"], 0)) == [[]] and len(search(["dune"], 50)[0]) == len(CORPUS)


def test_nothing_compiles_after_the_retriever_is_made(search):
    def programs():
        return [getattr(one, "_cache_size")() for one in (embedder._encode, nearest._nearest)]  # noqa: B009

    before = programs()
    with jax.transfer_guard("disallow"):  # as where training runs: what moves is moved in so many words
        for queries, k in ((["a"], 1), (["who wrote dune " * 40] * 3, 5), (["x", "y"] * 40, 8), (["z " * 20] * 9, 2)):
            search(queries, k)
    assert programs() == before


def test_prefixes_are_part_of_what_is_embedded(search):
    plain = search(["query: paris"], 5)
    prefixed = dense(corpus=CORPUS, model=BERT, query_prefix="query: ", devices=1)(["paris"], 5)
    assert ids(plain) == ids(prefixed)
    np.testing.assert_allclose([p.score for p in plain[0]], [p.score for p in prefixed[0]], atol=1e-5)
    other = dense(corpus=CORPUS, model=BERT, passage_prefix="passage: ", devices=1)
    assert [p.score for p in other(["paris"], 5)[0]] != [p.score for p in search(["paris"], 5)[0]]


def test_bad_input_is_refused():
    for corpus, says in (([], "no passage"), ([CORPUS[0], CORPUS[0]], "'b' more than once")):
        with pytest.raises(ValueError, match=says):
            dense(corpus=corpus, model=BERT)
    with pytest.raises(ValueError, match="devices=9; this process has 8"):
        dense(corpus=CORPUS, model=BERT, devices=9)
    with pytest.raises(ValueError, match="batch_tokens is 0; wanted at least 1"):
        plugins.bind("retriever", Use("dense", {"batch_tokens": 0}))


# ---- the index folder


class Counting:
    """Vectors of rows that are told apart, and which rows were asked for; it may stop after some pieces."""

    def __init__(self, pieces=10**9):
        self.asked, self.pieces = [], pieces

    def __call__(self, start, stop):
        if len(self.asked) == self.pieces:
            raise KeyboardInterrupt
        self.asked.append((start, stop))
        return np.arange(start, stop, dtype=np.float32)[:, None] * np.array([1, 0.5], np.float32)


def in_folder(folder, embed, count=2500, storage="float32", **other):
    what = {"width": 2, "corpus": "c", "model": "m", "settings": {"pooling": "mean"}} | other
    return dense_index.in_folder(folder, count, storage, embed, **what)


def test_what_was_interrupted_goes_on_where_it_ended(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        in_folder(tmp_path / "index", Counting(pieces=2))
    again = Counting()
    vectors = in_folder(tmp_path / "index", again)
    assert again.asked == [(2048, 2500)]
    np.testing.assert_array_equal(vectors.read(0, 2500)[0], Counting()(0, 2500))
    np.testing.assert_array_equal(vectors.read(1000, 2100)[0], Counting()(1000, 2100))
    assert vectors.read(2500, 2500)[0].shape == (0, 2)
    third = Counting()
    in_folder(tmp_path / "index", third)
    assert third.asked == []


KILLED = """
import os, sys
import numpy as np
from pathlib import Path
from qr_jax.search import dense_index

def embed(start, stop):
    if start == 1024:
        os.kill(os.getpid(), 9)
    return np.ones((stop - start, 2), np.float32)

about = {"width": 2, "corpus": "c", "model": "m", "settings": {"pooling": "mean"}}
dense_index.in_folder(Path(sys.argv[1]), 2500, "float32", embed, **about)
"""


def test_a_killed_process_leaves_what_it_had_done(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "index")], check=False)
    assert done.returncode == -9
    with (tmp_path / "index" / "pieces.txt").open("a") as file:
        file.write("\nvectors_00001.npy")  # a line that was cut
    again = Counting()
    in_folder(tmp_path / "index", again)
    assert again.asked == [(1024, 2048), (2048, 2500)]


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_smaller_numbers_come_back_from_a_folder_as_from_memory(storage, tmp_path):
    rng = np.random.default_rng(0)
    vector_PD = unit(rng, 5000, 16)
    kept = in_folder(tmp_path / "i", lambda a, z: vector_PD[a:z], count=5000, storage=storage, width=16)
    memory = dense_index.in_memory(5000, storage, lambda a, z: vector_PD[a:z])
    for one, other in zip(kept.read(10, 4999), memory.read(10, 4999), strict=True):
        np.testing.assert_array_equal(one, other)
    whole, factor = kept.read(0, 5000)
    values = whole.astype(np.float32) * (1 if factor is None else factor[:, None])
    assert np.abs(values - vector_PD).max() < 4e-3


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"corpus": "d"}, "another corpus, and is left"),
        ({"model": "n"}, "another model, and is left"),
        ({"count": 9}, "another rows"),
        ({"settings": {"pooling": "cls"}}, r"another pooling \('mean', now 'cls'\)"),
        ({"storage": "int8"}, r"another storage \('float32', now 'int8'\)"),
    ],
)
def test_an_index_of_something_else_is_refused(other, says, tmp_path):
    in_folder(tmp_path, Counting())
    with pytest.raises(ValueError, match=says):
        in_folder(tmp_path, Counting(), **other)
    in_folder(tmp_path, Counting(pieces=0))  # it is whole still


def test_a_damaged_piece_is_made_again_and_said(tmp_path):
    in_folder(tmp_path, Counting())
    piece = tmp_path / "vectors_00001.npy"
    piece.write_bytes(piece.read_bytes()[:-7] + b"changed")
    again = Counting()
    with pytest.warns(UserWarning, match="damaged pieces .* are made again: 1"):
        in_folder(tmp_path, again)
    assert again.asked == [(1024, 2048)]


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="no folder of a dense index"):
        in_folder(tmp_path, Counting())
    assert not (tmp_path / "manifest.json").exists()
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="manifest of .* is damaged"):
        in_folder(tmp_path, Counting())


NAMES = ("pieces.txt", "manifest.json", "manifest.json.new", "vectors_00000.npy", "vectors_00002.npy.new")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("harm", ["link", "pipe"])
def test_a_stranger_s_folder_of_links_or_pipes_writes_over_nothing_and_is_not_waited_for(tmp_path, name, harm):
    """A link named .lock emptied the file that it led to; a pipe of that name was waited for."""
    (tmp_path / "thesis.txt").write_text("mine")
    folder = tmp_path / "theirs"
    in_folder(folder, Counting())
    (folder / "vectors_00002.npy").unlink()  # which is to be made again
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "thesis.txt") if harm == "link" else os.mkfifo(folder / name)
    found = f"{name} is {'a link' if harm == 'link' else 'no file'}, which no dense index holds; take it away"
    with pytest.raises(ValueError, match=found):
        in_folder(folder, Counting())
    assert (tmp_path / "thesis.txt").read_text() == "mine"


PIECES = {
    "columns": np.ones((1024, 3), np.float32), "rows": np.ones((9, 2), np.float32), "type": np.ones((1024, 2)),
    "no number": np.full((1024, 2), np.nan, np.float32), "objects": np.array([[{}, 0]] * 1024), "junk": b"junk",
}  # fmt: skip


@pytest.mark.parametrize("harm", [*PIECES, "larger"])
def test_a_piece_that_is_no_such_vectors_is_made_again_though_its_hash_is_right(tmp_path, harm):
    folder, piece = tmp_path, tmp_path / "vectors_00001.npy"
    in_folder(folder, Counting())
    if harm == "larger":
        os.truncate(piece, 2**20)
    elif harm == "junk":
        piece.write_bytes(PIECES[harm])
    else:
        np.save(piece, PIECES[harm])
    with (folder / "pieces.txt").open("a") as file:
        file.write(f"\n{piece.name} {dense_index.file_hash(piece)}")
    again = Counting()
    with pytest.warns(UserWarning, match="damaged pieces .* are made again: 1"):
        vectors = in_folder(folder, again)
    assert again.asked == [(1024, 2048)]
    np.testing.assert_array_equal(vectors.read(0, 2500)[0], Counting()(0, 2500))


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_smaller_numbers_that_are_none_are_made_again(tmp_path, storage):
    in_folder(tmp_path, Counting(), storage=storage)
    piece = tmp_path / "vectors_00001.npy"
    np.save(piece, ~np.zeros_like(np.load(piece)))  # all bits are set: no number, nor is the factor
    (tmp_path / "pieces.txt").write_text(f"{piece.name} {dense_index.file_hash(piece)}")
    again = Counting()
    with pytest.warns(UserWarning, match="damaged pieces .* are made again: 1"):
        in_folder(tmp_path, again, storage=storage)
    assert (1024, 2048) in again.asked


def test_a_stranger_s_lists_that_are_no_text_or_too_deep_are_said(tmp_path):
    in_folder(tmp_path, Counting())
    (tmp_path / "pieces.txt").write_bytes(b"\xff\xfe \n\xff")
    again = Counting()
    in_folder(tmp_path, again)
    assert len(again.asked) == 3  # no piece is known
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"manifest of .* is damaged .*nested too deep.; delete the folder"):
        in_folder(tmp_path, Counting())


def test_dense_keeps_its_vectors_and_refuses_another_model(tmp_path, search):
    first = dense(corpus=CORPUS, model=BERT, index=str(tmp_path / "i"), devices=1)
    stamp = (tmp_path / "i" / "vectors_00000.npy").stat().st_mtime_ns
    again = dense(corpus=CORPUS, model=BERT, index=str(tmp_path / "i"), devices=2)
    assert (tmp_path / "i" / "vectors_00000.npy").stat().st_mtime_ns == stamp
    queries = ["dune", "the capital"]
    assert ids(first(queries, 5)) == ids(again(queries, 5)) == ids(search(queries, 5))
    with pytest.raises(ValueError, match="another corpus, rows"):
        dense(corpus=CORPUS[1:], model=BERT, index=str(tmp_path / "i"), devices=1)
    shutil.copytree(BERT, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}))
    with pytest.raises(ValueError, match="another model"):
        dense(corpus=CORPUS, model=str(tmp_path / "other"), index=str(tmp_path / "i"), devices=1)
