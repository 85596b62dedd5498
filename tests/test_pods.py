"""A run over several processes: the same pool, gradient and episodes as one, and what happens when one is lost."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pod_process
import pytest
from killed_run import tiny
from loopback_bucket import led_there
from oracle import beta_rates, roll

from qr_jax import config
from qr_jax.config import use
from qr_jax.lab.planning import hlo
from qr_jax.logging import metrics_writer
from qr_jax.parallel import watchdog
from qr_jax.run import bucket

ROOT = Path(__file__).parents[1]
COUNTS = (1, 2, 4)
HEARTBEAT_S = 6.0
STEPS = 10


def start(mode, count, folder, *, struck=None, more=()):
    """`count` processes of tests/pod_process.py; the one numbered `struck` is given `more`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "QR_JAX_COMPILED": str(folder.parent / "compiled")}
    return [
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "pod_process.py"), mode, port, str(count), str(me), str(folder)]
            + list(more if me == struck else ()),
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for me in range(count)
    ]  # fmt: skip


def finish(processes, *, seconds=600):
    """Each process's exit code, what it printed and what it complained of."""
    try:
        said = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [(process.returncode, *one) for process, one in zip(processes, said, strict=True)]


def all_well(found):
    assert [code for code, _, _ in found] == [0] * len(found), "\n".join(err[-3000:] for _, _, err in found)


@pytest.fixture(scope="module")
def worked_out(tmp_path_factory):
    """What 1, 2 and 4 processes make of the same recorded outcomes, batch and weights."""
    folder = tmp_path_factory.mktemp("pods") / "maths"
    folder.mkdir()
    rates_P, every = beta_rates(60, 0.5, 0.5, seed=1), np.arange(60)
    recorded = [roll(rates_P, every, 4, seed=7, step=step, fault_rate=0.1) for step in range(STEPS)]
    np.savez(
        folder / "outcomes.npz", reward=[one.reward_QG for one in recorded], valid=[one.valid_QG for one in recorded]
    )
    pod_process.work_out(folder)
    for count in COUNTS[1:]:
        all_well(finish(start("maths", count, folder)))
    return folder


@pytest.mark.slow
def test_recorded_outcomes_give_the_same_pool_on_1_2_and_4_processes(worked_out):
    digests = {path.name: path.read_text() for path in worked_out.glob("pool_*.txt")}
    assert len(digests) == sum(COUNTS) and len(set(digests.values())) == 1
    assert len(set(next(iter(digests.values())).split("\n"))) == STEPS  # the pool changed every step


@pytest.mark.slow
@pytest.mark.parametrize("count", COUNTS[1:])
@pytest.mark.parametrize("of", ["gradient", "lora"])
def test_the_gradient_is_that_of_one_process(worked_out, of, count):
    with np.load(worked_out / f"{of}_1.npz") as one, np.load(worked_out / f"{of}_{count}.npz") as other:
        assert len(one.files) == len(other.files) > 5
        for name in one.files:
            assert np.linalg.norm(one[name] - other[name]) <= 1e-5 * max(np.linalg.norm(one[name]), 1e-6)


@pytest.mark.slow
def test_no_collective_of_decoding_leaves_its_host(worked_out):
    """The program knows only this process's devices: 4, 2 or 1 of 4. Alone, a device sends nothing."""
    for count in COUNTS:
        texts = [path.read_text() for path in worked_out.glob(f"decode_{count}_*.hlo")]
        assert len(texts) == count
        for text in texts:
            partitions = re.search(r"num_partitions=(\d+)", text)
            assert hlo.cost(text).flops > 0 and int(partitions[1] if partitions else 1) == pod_process.DEVICES // count
            assert count < 4 or not any(name in text for name in hlo.COLLECTIVES)


def small(folder):
    """Ten steps of 8 queries x 4 samples on 4 devices."""
    settings = tiny(folder)
    return replace(
        settings,
        pool=replace(settings.pool, queries=4, oversample=2, samples=4, min_signal=1),
        rollout=replace(settings.rollout, slots=8, store=8, context_tokens=128, buckets=(32,)),
        learner=replace(settings.learner, row_tokens=128),
        sft=replace(settings.sft, max_tokens=128),
        retriever=use("bm25"),
        train=replace(settings.train, steps=STEPS, checkpoint_every=2),
        evaluation=replace(settings.evaluation, questions=4),
        mesh=config.Mesh(data=2, fsdp=2, devices=4, heartbeat_s=HEARTBEAT_S),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of one process; one of two, killed twice; one of four, stopped at one process and finished by two.

    That one lives in a bucket, and all its machines are new.
    """
    folder = tmp_path_factory.mktemp("pods")
    settings = small(folder)
    found = {}
    with led_there() as url:
        of = {name: settings for name in ("one", "two")}
        of["four"] = replace(settings, train=replace(settings.train, bucket=f"{url}/four"))
        for name, its in of.items():
            (folder / name).mkdir()
            (folder / name / "config.json").write_text(json.dumps(config.to_json(its)))
        found |= play(folder)
        lives = bucket.opened(f"{url}/four")
        bucket.Copy(folder / "four" / "run", lives).pull()
        (machine,) = (lives / bucket.COMPILED).glob("*")  # where process 0 keeps its programs, the others in process_N
        kept = [machine, *sorted(machine.glob("process_*"))]
        found["compiled"] = [len([path for path in each.iterdir() if path.is_file()]) for each in kept]
    return folder, found


def play(folder):
    """What all processes said, by what happened to them."""
    found = {}
    found["one"] = finish(start("train", 1, folder / "one"))
    survivor, struck = start("train", 2, folder / "two", struck=1, more=("kill", "3"))
    struck.wait(timeout=200)
    killed_s = time.monotonic()
    found["worker killed"] = finish([survivor, struck])
    found["seconds"] = time.monotonic() - killed_s
    found["first killed"] = finish(start("train", 2, folder / "two", struck=0, more=("kill", "6")))
    found["two"] = finish(start("train", 2, folder / "two"))
    found["stopped"] = finish(start("train", 4, folder / "four", struck=2, more=("term", "5")))
    found["four"] = finish(start("train", 2, folder / "four"))
    return found


def ledger(folder, name):
    return [json.loads(line) for line in (folder / name / "run" / "ledger.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_lost_process_is_named_and_the_loss_of_the_first_is_the_coordinators(runs):
    _, found = runs
    (survivor, _, said), (killed, _, _) = found["worker killed"]
    assert (survivor, killed) == (75, -signal.SIGKILL), said
    assert f"process 0 of 2: process 1 has not been heard of for {HEARTBEAT_S:g} s" in said
    assert found["seconds"] < 2 * HEARTBEAT_S + watchdog.FAREWELL_S
    assert "most recent call first" in said and "train.py" in said  # its own stacks
    (killed, _, _), (survivor, _, said) = found["first killed"]
    assert (survivor, killed) == (75, -signal.SIGKILL), said
    assert "process 0 is gone, and with it the coordinator of this run" in said


@pytest.mark.slow
def test_a_sigterm_at_one_process_stops_all_at_one_step(runs):
    _, found = runs
    assert [code for code, _, _ in found["stopped"]] == [143] * 4, found["stopped"]
    assert [said.count("stopped by SIGTERM") for _, said, _ in found["stopped"]] == [1, 0, 0, 0]


@pytest.mark.slow
def test_new_machines_go_on_with_a_run_in_a_bucket(runs):
    folder, found = runs
    assert "going on after step 5 (attempt 2)" in found["four"][0][1]
    assert len(list(folder.glob("four/run_*_*"))) == 6 and not list(folder.glob("four/run_*/checkpoints"))
    assert len(found["compiled"]) == 4 and min(found["compiled"]) > 40, found["compiled"]
    assert not list(folder.glob("four/**/compiled"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one", "two", "four"])
def test_runs_end_whole_whatever_happened_on_the_way(runs, name):
    folder, found = runs
    all_well(found[name])
    rows = metrics_writer.read(folder / name / "run")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["budget/rollouts"] for row in rows] == [32 * step for step in range(1, STEPS + 1)]
    draws = ledger(folder, name)
    assert len(draws) == 8 * STEPS
    assert sum(draw["tokens"] for draw in draws) == round(sum(32 * row["rollout/tokens"] for row in rows))
    assert rows[-1]["budget/searches"] >= sum(draw["searches"] for draw in draws)
    for step in range(1, STEPS + 1):
        episodes = (folder / name / "run" / "episodes" / f"step_{step:06d}.jsonl").read_text().splitlines()
        drawn = [draw["query"] for draw in draws if draw["step"] == step]
        assert [json.loads(line)["query"] for line in episodes] == [query for query in drawn for _ in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "four"])
def test_the_first_step_is_that_of_one_process(runs, name):
    folder, _ = runs
    assert_same_first_step(folder / "one" / "run", folder / name / "run")


def assert_same_first_step(one, other):
    """The same gradient to rounding, and the same episodes but for a near tie."""
    norms = [metrics_writer.read(run)[0]["learner/grad_norm"] for run in (one, other)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    lines = [(run / "episodes" / "step_000001.jsonl").read_text().splitlines() for run in (one, other)]
    pairs = [[json.loads(line)["turns"] for line in some] for some in lines]
    alike = [pair for pair in zip(*pairs, strict=True) if said(pair[0]) == said(pair[1])]
    assert len(alike) >= 31  # of 32: two tokens whose perturbed logits lie within 1e-4 of one another
    for a, b in ((a, b) for pair in alike for a, b in zip(*pair, strict=True)):
        np.testing.assert_allclose(a.get("logp", ()), b.get("logp", ()), atol=2e-4)


def said(turns):
    return [turn["text"] for turn in turns]
