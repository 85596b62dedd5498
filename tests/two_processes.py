"""One of the two processes that tests/test_hosts.py starts, given PORT INDEX FOLDER; its last word is "ok"."""

import json
import os
import signal
import sys
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from qr_jax import assemble, config, errors
from qr_jax.learner.reduce import token_weights
from qr_jax.parallel import alike, hosts, mesh
from qr_jax.pool import pool
from qr_jax.records import Ask, Call, Episode, Passage, Query, Scores, Turn
from qr_jax.rollout.engine import Statistics
from qr_jax.run import bucket, runs
from qr_jax.run.checkpoint import Checkpoints, discard_after, next_attempt
from qr_jax.step import grading, rollout_and_grade, services
from qr_jax.step.runtime import Data, Devices, Drawing, Grading, RunState, Runtime, World
from qr_jax.train import take_step


def episode(sample: int) -> Episode:
    ids_L = np.arange(sample + 1, dtype=np.int32)
    turns = (Turn("model", "<search>x</search>"), Turn("env", "", ("x",), ((Passage("1", "T", "text", 0.5),),)))
    return Episode(
        *(Query("q", "Where?", ("here",), ("A",), {"hops": 2}), sample, 3, ids_L, ids_L > 0, ids_L / 7, ids_L - 1),
        *(turns, None, "length", True),
    )


def check_exchange(me: int) -> None:
    values = [[np.array([0, 1, 1], np.float32), "c"], [np.array([0.5])]][me]
    first, second, third = hosts.gather_in_order(values, [[0, 2], [1]][me], "drawn query", 3)
    assert first.tolist() == [0, 1, 1] and second.tolist() == [0.5] and third == "c"
    with pytest.raises(ValueError, match="drawn query: 2 values came at"):
        hosts.gather_in_order(["x"], [1], "drawn query", 2)


def check_groups(me: int) -> None:
    """Each grades its own queries; all have all grades in draw order, and the episodes of those that are kept."""
    parts = parts_of(1, 1, 1)
    rolled = [{2: [episode(0)], 0: [episode(1), episode(2)]}, {1: [episode(0), episode(1)]}][me]
    groups = rollout_and_grade.graded(parts, {2: 1, 0: 2, 1: 2}, rolled, [], step=0)
    assert [group.index for group in groups] == [2, 0, 1] and [group.process for group in groups] == [0, 0, 1]
    assert [group.spent.episodes for group in groups] == [1, 2, 2]
    assert [len(group.episodes) for group in groups] == [[1, 2, 0], [0, 0, 2]][me]
    kept = rollout_and_grade.with_episodes(groups[1:])
    assert [[one.sample for one in group.episodes] for group in kept] == [[1, 2], [0, 1]]
    more = rollout_and_grade.graded(parts, {1: 1}, [{}, {1: [episode(2)]}][me], groups, step=0)
    assert [group.spent.episodes for group in more] == [1, 2, 3] and more[2].grades.reward_QG.shape == (1, 3)


def check_episodes(me: int) -> None:
    episodes = hosts.gather_episodes([episode(2), episode(0)] if me == 0 else [episode(1)], [2, 0] if me == 0 else [1])
    for sample, gathered in enumerate(episodes):
        wanted = episode(sample)
        for name in Episode.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(gathered, name), getattr(wanted, name))
        assert gathered.logp_L.dtype == np.float64 and gathered.query == wanted.query and gathered.turns == wanted.turns


def check_words(me: int) -> None:
    assert hosts.gather({"at": np.array([2**40 + me])})[1]["at"][0] == 2**40 + 1  # int64 stays int64
    assert hosts.from_first("first" if me == 0 else "second") == "first"
    assert hosts.any_process(me == 1) and not hosts.any_process(False)
    hosts.assert_same("one", "the pool")
    with pytest.raises(RuntimeError, match=r"disagree about the pool .process 0: digest 0, process 1: digest 1."):
        hosts.assert_same(f"digest {me}", "the pool")
    hosts.wait_for_all()


def check_outage(me: int) -> None:
    """What failed on another process alone is asked again too, searches and groups; all end with the reason."""

    def search(queries, k):
        if "bad" in queries or any(isinstance(one, Call) for one in queries):
            raise ValueError("no such word")
        return [[] for _ in queries]

    run = SimpleNamespace(say=lambda line: None, stop_now=lambda: False, stops=lambda: False)
    limits = config.Rollout(search_retries=0, search_deadline_s=5.0, outage_s=20.0)
    use = SimpleNamespace(rollout=limits, reward=SimpleNamespace(name="r"))

    def lost(query, episodes):  # all grades of the question, not those of the made episodes that ask whether it is up
        return Scores(np.array([np.nan if one.turns[-1].author == "env" else 1.0 for one in episodes]))

    runtime: Any = SimpleNamespace(
        settings=use, run=run, world=SimpleNamespace(search=search), grading=SimpleNamespace(reward=lost),
        data=SimpleNamespace(queries=[Query("q", "?", ("a",))]),
    )  # fmt: skip
    group = grading.grade(lost, "r", 0, me, runtime.data.queries[0], [replace(episode(0), answer="a", stop="answered")])
    call = Call("calculator", '{"of": "bad"}')
    for what, failed, told in (
        ("retriever", "bad", "no such word"),
        ("retriever", call, "no such word"),
        ("reward", group, "could not be graded again"),
    ):
        with pytest.raises(errors.FailsAgain, match=told):
            services.wait(runtime, errors.ServiceDown("3 of 4 failed", what, [[], [failed]][me]), 0, None)


def check_errors_of_the_first(me: int) -> None:
    """What process 0 met ends all with one exit code."""
    for function, kinds, is_of_asking in (
        (lambda: Path("nowhere").read_text(), (FileNotFoundError, OSError), False),
        (lambda: bucket.opened("s3://bucket/run"), (errors.UserError, errors.UserError), True),
        (lambda: json.loads("{"), (json.JSONDecodeError, RuntimeError), False),
    ):
        with pytest.raises(kinds[me]) as found:
            hosts.by_first(function)
        assert (found.type, isinstance(found.value, errors.UserError)) == (kinds[me], is_of_asking)
        assert me == 0 or str(found.value).startswith("process 0: ")


def check_checkpoint(me: int, folder: str) -> None:
    learner = mesh.make_mesh(config.Mesh(data=1, fsdp=2, tensor=2, devices=4))
    whole = np.arange(64, dtype=np.float32).reshape(8, 8)
    layout = mesh.shardings(learner, {"embed": whole})["embed"]
    embed = jax.make_array_from_callback((8, 8), layout, lambda at: whole[at])
    assert not embed.is_fully_addressable
    checkpoints = Checkpoints(f"{folder}/checkpoints")
    checkpoints.save(4, {"params": {"embed": embed}}, {"pool": whole[0]}, metrics_bytes=10)
    checkpoints.wait()
    assert checkpoints.latest() == 4
    rows = NamedSharding(learner, PartitionSpec(("fsdp", "tensor")))
    wanted = {"params": {"embed": jax.ShapeDtypeStruct((8, 8), np.float32, sharding=rows)}}
    restored, host = checkpoints.restore(4, wanted)
    for shard in restored["params"]["embed"].addressable_shards:
        np.testing.assert_array_equal(shard.data, whole[shard.index])
    np.testing.assert_array_equal(host["pool"], whole[0])
    assert next_attempt(folder) == 1
    assert discard_after(folder, 4, 1) == []
    check_unfinished_checkpoint(me, checkpoints, {"params": {"embed": embed}})


def check_unfinished_checkpoint(me: int, checkpoints: Checkpoints, state: Any) -> None:
    def no_room():
        raise OSError("no room")

    checkpoints.before_commit = no_room  # process 0 alone calls it
    checkpoints.save(5, state, {}, metrics_bytes=10)
    with pytest.raises(OSError, match=("step 5 was not written", "another process could not write its part")[me]):
        checkpoints.wait()


def check_group_means(me: int) -> None:
    """Half of each of two groups on each process: the tokens of both halves are its denominator."""
    devices = mesh.make_mesh(config.Mesh(data=4, devices=4))
    layout = NamedSharding(devices, PartitionSpec("data"))
    mask_NL, group_N = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], bool), np.array([0, 1, 0, 1])
    made = [jax.make_array_from_callback(x.shape, layout, lambda at, x=x: x[at]) for x in (mask_NL, group_N)]
    weigh = jax.jit(partial(token_weights, mode="group_mean", horizon_tokens=1, groups=2))
    weights = weigh(made[0], group_N=made[1])
    wanted_NL = mask_NL / (2 * np.array([[4], [2], [4], [2]]))
    for shard in weights.addressable_shards:
        np.testing.assert_allclose(shard.data, wanted_NL[shard.index])
    assert not weights.is_fully_addressable


def check_stop(me: int, folder: str) -> None:
    """A SIGTERM that comes to one of them, between two rollouts."""
    run = runs.Run(f"{folder}/run", config.Config(), stage="train")
    assert not run.stops()
    if me == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    assert run.stops()
    run.close()


class Engine:
    """It gives each query as many wrong answers as are asked for."""

    statistics = Statistics()

    def progress(self):
        return 0, 0

    def run(self, params, queries, samples, **how):
        return [[episode(sample) for sample in range(count)] for count in samples]


def parts_of(*hops: int) -> Runtime:
    """A run's parts over as many queries, which are of one family where their hops are the same."""
    settings = config.Config()
    settings = replace(settings, pool=replace(settings.pool, queries=1, oversample=2, samples=2))
    queries = [Query(f"q{at}", "Where?", ("here",), (), {"hops": count}) for at, count in enumerate(hops)]
    rounds, rule = lambda pool, so_far: None if so_far else Ask(2), lambda pool, outcome: (pool.weight_P, pool.memory)
    needed = dict.fromkeys(Runtime.__dataclass_fields__) | {
        "settings": settings,
        "agent": SimpleNamespace(engine=Engine()),
        "run": SimpleNamespace(stop_now=lambda: False),
        "data": Data(queries, assemble.kinds(queries), (), ()),
        "devices": Devices(None, "one"),
        "world": World(None, None, None),
        "drawing": Drawing(rule, rounds, "chance", max_rounds=None, max_groups=2, max_samples=2),
        "grading": Grading(lambda query, episodes: Scores(np.zeros(len(episodes))), asks=False, turns=None),
    }
    return Runtime(**needed)


def check_alike(me: int, folder: str) -> None:
    """Another seed, other code, other passages on one of them: both say so, and end with a wrong setting's code."""
    here = config.Config()
    alike.check_program(here)
    alike.check(passages="a", model={"width": 8})
    with pytest.raises(
        ValueError, match=r"process 1 was started with other settings .*\(seed: 0 there, 1 here\)"
    ) as found:
        runs.Run(f"{folder}/unlike", replace(here, seed=me), stage="train")
    assert isinstance(found.value, errors.UserError) and not Path(f"{folder}/unlike/config.json").exists()
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(ValueError, match=r"other code \(a 1\) than process 0 \(a 0\)"),
    ):
        patch.setattr(alike, "code", lambda: f"a {me}")
        alike.check_program(here)
    with pytest.raises(ValueError, match="process 1 differs from process 0 in its passages and model; give"):
        alike.check(questions="q", passages=f"{me}", model={"width": me})


def check_deal(me: int) -> None:
    """A query of three hops took 300 tokens an episode, the others 100."""
    progress = RunState(pool.create(4), cost_F=np.array([300.0, 100.0]))
    rolled, _ = rollout_and_grade.roll_out(parts_of(3, 1, 1, 1), None, progress, dict.fromkeys(range(4), 2), [], 0)
    assert list(rolled) == [[0], [1, 2, 3]][me] and all(len(episodes) == 2 for episodes in rolled.values())


def check_pool(me: int) -> None:
    """A pool that differs on one process, in a query that was not drawn."""
    progress = RunState(replace(pool.create(3), weight_P=np.array([1.0, 1.0, 1.0 - me / 2])))
    parts = parts_of(1, 1, 1)
    object.__setattr__(parts, "to_rollout_params", lambda params: params)
    with pytest.raises(RuntimeError, match="processes disagree about the pool after step 7 .process 0: [0-9a-f]{64}, "):
        take_step(parts, SimpleNamespace(params=None), progress, 7)


def main(port: str, me: int, folder: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    mesh.emulate(4, processes=2)
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, me)
    assert (hosts.index(), hosts.count(), jax.local_device_count()) == (me, 2, 2)
    check_exchange(me)
    check_groups(me)
    check_episodes(me)
    check_words(me)
    check_outage(me)
    check_errors_of_the_first(me)
    check_checkpoint(me, folder)
    check_group_means(me)
    check_stop(me, folder)
    check_alike(me, folder)
    check_deal(me)
    check_pool(me)
    print("ok", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # at an ordinary exit jax would wait for the other, which waits for this one
