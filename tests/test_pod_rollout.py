"""mesh.rollout=pod: one rollout on the devices of two processes, led by the first."""

import json
import re
from dataclasses import replace

import pytest
from test_pods import all_well, assert_same_first_step, finish, small, start

from qr_jax import config
from qr_jax.logging import metrics_writer

STEPS = 3
MADE_WHEN_NEEDED = {"copy", "_identity_fn"}  # slots moved together; a message of a new size, by process_allgather


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of one process, whose one device decodes; and one of two, whose second was told to stop on the way."""
    folder, found = tmp_path_factory.mktemp("pod"), {}
    settings = small(folder)
    settings = replace(settings, train=replace(settings.train, steps=STEPS))
    for name, rollout in (("one", "one"), ("pod", "pod")):
        (folder / name).mkdir()
        its = replace(settings, mesh=replace(settings.mesh, rollout=rollout))
        (folder / name / "config.json").write_text(json.dumps(config.to_json(its)))
    found["one"] = finish(start("train", 1, folder / "one"))
    found["stopped"] = finish(start("train", 2, folder / "pod", struck=1, more=("term", "1")))
    found["failed"] = finish(start("train", 2, folder / "pod", struck=0, more=("raise", "2")))
    found["pod"] = finish(start("train", 2, folder / "pod"))
    return folder, found


@pytest.mark.slow
def test_process_0_leads_a_rollout_on_the_devices_of_all(runs):
    folder, found = runs
    all_well(found["one"])
    all_well(found["pod"])
    assert "all 4 devices share one rollout: 2 by slots x 2 by key/value heads" in found["stopped"][0][1]
    rows = metrics_writer.read(folder / "pod" / "run")
    assert [row["budget/rollouts"] for row in rows] == [32 * step for step in range(1, STEPS + 1)]
    late = dict(re.findall(r"(\S+) (\d+)", "".join(re.findall(r"step 3: compiled (.*) in ", found["pod"][0][1]))))
    assert sum(map(int, late.values())) == rows[-1]["perf/compiles"]
    assert set(late) <= MADE_WHEN_NEEDED, late


@pytest.mark.slow
def test_its_first_step_is_that_of_one_process(runs):
    folder, _ = runs
    assert_same_first_step(folder / "one" / "run", folder / "pod" / "run")


@pytest.mark.slow
def test_a_sigterm_at_a_process_that_follows_stops_all_and_the_run_goes_on(runs):
    _, found = runs
    assert [code for code, _, _ in found["stopped"]] == [143] * 2, found["stopped"]
    assert "going on after step 1 (attempt 2)" in found["failed"][0][1]


@pytest.mark.slow
def test_an_error_of_the_leader_is_said_and_ends_those_that_follow(runs):
    _, found = runs
    (leader, _, said), (follower, _, others) = found["failed"]
    assert leader not in (0, 75) and "the leader's own trouble" in said, said
    assert follower == 75 and "process 0 ended with an error, which its own output tells" in others, others
