"""What processes tell each other: one process alone, two real ones, and how queries are dealt."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from qr_jax.parallel import hosts, plain
from qr_jax.records import Episode, Passage, Query, Turn
from qr_jax.run.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[1]


def episode(sample):
    ids_L = np.arange(sample + 2, dtype=np.int32)
    turns = (Turn("model", "é"), Turn("env", "", ("x", "y"), ((Passage("1", "T", "text", 0.5),), ())))
    query = Query("q", "Where?", ("here", "there"), ("A",), {"hops": 2})
    arrays = (ids_L, ids_L > 0, ids_L.astype(np.float32) / 7, ids_L.astype(np.int16))
    return Episode(query, sample, 3, *arrays, turns, None, "fault", False, "the retriever is down")


def test_one_process_is_alone_and_gets_back_what_it_gave():
    assert hosts.gather_in_order(["a", "b"], [0, 1], "query", 2) == ["a", "b"]
    assert (hosts.index(), hosts.count(), hosts.any_process(True), hosts.any_process(False)) == (0, 1, True, False)
    assert hosts.from_first("a") == "a"
    hosts.assert_same("a", "the pool")
    hosts.wait_for_all()


def test_values_come_back_in_the_order_of_the_draw():
    assert hosts.gather_in_order(["c", "a", "b"], [2, 0, 1], "drawn query", 3) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("at", "total", "said"),
    [
        ([0, 0], 2, "drawn query: 2 values came at .0, 0.; each is needed once"),
        ([0, 1], 3, "drawn query: 2 values came at .0, 1."),
        ([0], 1, "2 values, but places for 1"),
    ],
)
def test_a_query_graded_twice_or_not_at_all_is_refused(at, total, said):
    with pytest.raises(ValueError, match=said):
        hosts.gather_in_order(["a", "b"], at, "drawn query", total)


def test_episodes_are_ordered_by_their_place():
    ordered = hosts.gather_episodes([episode(2), episode(0)], [7, 3])
    assert [one.sample for one in ordered] == [0, 2]
    with pytest.raises(ValueError, match="episode: 2 values came at .3, 3."):
        hosts.gather_episodes([episode(2), episode(0)], [3, 3])


def test_an_episode_survives_a_message_whole():
    sent = episode(5)
    got = plain.episode_from_plain(plain.from_bytes(plain.to_bytes(plain.episode_to_plain(sent))))
    for name in Episode.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(got, name), getattr(sent, name))
    assert (got.mask_L.dtype, got.logp_L.dtype, got.turn_L.dtype) == (np.bool_, np.float32, np.int16)
    assert got.query == sent.query and got.turns == sent.turns


def test_queries_are_dealt_by_expected_tokens():
    # 7 to 0; 6 and 5 to 1 (6 < 7); 4 to 0 (7 < 11), 1 to 0 (11 tokens and 2 queries each: the lower number)
    dealt = hosts.deal(np.array([4, 7, 1, 6, 5]), 2)
    assert [mine.tolist() for mine in dealt] == [[0, 1, 2], [3, 4]]
    assert [mine.tolist() for mine in hosts.deal(np.ones(5), 2)] == [[0, 2, 4], [1, 3]]
    assert [mine.tolist() for mine in hosts.deal(np.zeros(3), 3)] == [[0], [1], [2]]
    assert [mine.tolist() for mine in hosts.deal(np.ones(1), 2)] == [[0], []]


def test_one_process_never_loads_jax():
    script = (
        "import sys; from qr_jax.parallel import hosts; "
        "hosts.gather_in_order([1], [0], 'query', 1); hosts.any_process(True); "
        "hosts.gather_episodes([], []); print('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"


@pytest.mark.thorough
def test_two_processes_exchange_and_one_process_resumes_their_checkpoint(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, str(ROOT / "tests" / "two_processes.py"), port]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen([*command, str(me), str(tmp_path)], env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)
        for me in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert all(out.endswith("ok\n") for out, _ in outputs), "\n".join(err[-3000:] for _, err in outputs)
    assert [process.returncode for process in started] == [0, 0]
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() == 4
    state, host = checkpoints.restore(4, {"params": {"embed": jax.ShapeDtypeStruct((8, 8), np.float32)}})
    checkpoints.close()
    np.testing.assert_array_equal(state["params"]["embed"], np.arange(64, dtype=np.float32).reshape(8, 8))
    assert host["metrics_bytes"] == 10
