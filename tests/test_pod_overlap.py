"""train.overlap=1 over several processes, each of which has devices that learn and one that rolls out."""

import json
from dataclasses import replace
from typing import NamedTuple

import pytest
from test_pods import STEPS, all_well, assert_same_first_step, finish, ledger, small, start

from qr_jax import config
from qr_jax.logging import metrics_writer
from qr_jax.parallel import mesh as meshes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of one process and one of two; one of two that is killed, then stopped, and goes on as one process."""
    folder = tmp_path_factory.mktemp("overlap")
    settings = small(folder)
    settings = replace(settings, train=replace(settings.train, overlap=1))
    found = {}
    for name, apart in {"one": 2, "two": 1, "struck": 1}.items():
        mesh = replace(settings.mesh, data=2, fsdp=1, rollout_devices=apart)
        (folder / name).mkdir()
        written = folder / name / "config.json"
        written.write_text(json.dumps(config.to_json(replace(settings, mesh=mesh))))
    found["one"] = finish(start("train", 1, folder / "one"))
    found["two"] = finish(start("train", 2, folder / "two"))
    found["killed"] = finish(start("train", 2, folder / "struck", struck=1, more=("kill", "4")))
    found["stopped"] = finish(start("train", 2, folder / "struck", struck=0, more=("term", "6")))
    found["struck"] = finish(start("train", 2, folder / "struck"))
    return folder, found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "struck"])
def test_every_step_trains_on_the_episodes_of_one_process(runs, name):
    """Steps after the first were sampled beside an update, and queries are drawn and groups accepted alike."""
    folder, found = runs
    all_well(found["one"])
    all_well(found[name])
    assert_same_first_step(folder / "one" / "run", folder / name / "run")
    rows = metrics_writer.read(folder / name / "run")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["budget/rollouts"] for row in rows] == [32 * step for step in range(1, STEPS + 1)]
    draws = ledger(folder, name)
    assert {draw["step"] for draw in draws if draw.get("lag")} == {
        draw["step"] for draw in ledger(folder, "one") if draw.get("lag")
    }
    for step in range(1, STEPS + 1):
        episodes = (folder / name / "run" / "episodes" / f"step_{step:06d}.jsonl").read_text().splitlines()
        drawn = [draw["query"] for draw in draws if draw["step"] == step]
        assert [json.loads(line)["query"] for line in episodes] == [query for query in drawn for _ in range(4)]


@pytest.mark.slow
def test_a_sigterm_at_one_process_stops_both_and_a_lost_process_is_named(runs):
    _, found = runs
    (survivor, _, said), _ = found["killed"]
    assert survivor == 75 and "process 1 has not been heard of" in said
    assert [code for code, _, _ in found["stopped"]] == [143, 143], found["stopped"]


class Chip(NamedTuple):
    id: int
    process_index: int
    coords: tuple[int, ...]
    platform: str = "tpu"


class Plain(NamedTuple):
    id: int
    process_index: int
    platform: str = "gpu"
    coords: tuple[int, ...] = ()


def chip(number, host, *coords):
    return Chip(number, host, coords)


def test_the_outermost_chips_of_every_host_roll_out():
    """Two hosts of a slice of 4 x 2, each of 2 x 2: by hand, columns 1 and 2 learn, 0 and 3 roll out."""
    chips = [chip(4 * y + x, x // 2, x, y, 0) for y in range(2) for x in range(4)]
    learn, apart = meshes.set_apart(chips, 2)
    assert {one.coords[0] for one in learn} == {1, 2} and {one.coords[0] for one in apart} == {0, 3}
    with pytest.raises(
        ValueError, match="rollout_devices=1 of each of 2 hosts with 4 devices leaves 6 devices that are no"
    ):
        meshes.set_apart(chips, 1)
    halves = [chip(n, n // 4, n // 2, 0, 0) for n in range(8)]  # TPU7x: a chip is two devices
    with pytest.raises(ValueError, match="leaves 6 devices that are no"):
        meshes.set_apart(halves, 1)
    assert [one.id for one in meshes.set_apart(halves, 2)[0]] == [2, 3, 4, 5]
    plain = [Plain(number, number // 3) for number in range(6)]
    assert [one.id for one in meshes.set_apart(plain, 1)[1]] == [2, 5]
    assert meshes.set_apart(plain, 0) == (plain, [])
