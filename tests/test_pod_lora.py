"""A LoRA run of several processes in a bucket: the same first step as one process, and new machines go on with it."""

import json
from dataclasses import replace

import pytest
from killed_run import adapted
from loopback_bucket import led_there
from test_pods import STEPS, all_well, assert_same_first_step, finish, ledger, small, start

from qr_jax import config
from qr_jax.logging import metrics_writer
from qr_jax.run import bucket

RANK = 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of one process, and one of four in a bucket that is stopped at step 5 and finished by two new machines."""
    folder = tmp_path_factory.mktemp("pod_lora")
    settings = adapted(small(folder), RANK)
    found = {}
    with led_there() as url:
        away = replace(settings, train=replace(settings.train, bucket=f"{url}/four"))
        for name, its in (("one", settings), ("four", away)):
            (folder / name).mkdir()
            (folder / name / "config.json").write_text(json.dumps(config.to_json(its)))
        found["one"] = finish(start("train", 1, folder / "one"))
        found["stopped"] = finish(start("train", 4, folder / "four", struck=2, more=("term", "5")))
        found["four"] = finish(start("train", 2, folder / "four"))
        bucket.Copy(folder / "four" / "run", bucket.opened(f"{url}/four")).pull()
    return folder, found


@pytest.mark.slow
def test_new_machines_go_on_with_a_lora_run_in_a_bucket(runs):
    folder, found = runs
    all_well(found["one"])
    assert [code for code, _, _ in found["stopped"]] == [143] * 4, found["stopped"]
    all_well(found["four"])
    assert "going on after step 5 (attempt 2)" in found["four"][0][1]
    rows = metrics_writer.read(folder / "four" / "run")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1)) and len(ledger(folder, "four")) == 8 * STEPS
    assert max(abs(row.get("learner/grad_norm") or 0.0) for row in rows) > 0


@pytest.mark.slow
def test_the_first_lora_step_is_that_of_one_process(runs):
    folder, _ = runs
    assert_same_first_step(folder / "one" / "run", folder / "four" / "run")


@pytest.mark.slow
def test_adapters_beside_bfloat16_matrices_are_trained_and_sampled_by_two_processes(tmp_path):
    """One way of sharing a rollout over a pod's devices, and each process alone; sampler and learner agree."""
    settings = adapted(small(tmp_path), RANK)
    settings = replace(settings, train=replace(settings.train, steps=2))
    settings = replace(settings, model=replace(settings.model, compute="bfloat16"))
    for kind in ("one", "pod"):
        folder = tmp_path / kind
        folder.mkdir()
        its = replace(settings, mesh=replace(settings.mesh, rollout=kind))
        (folder / "config.json").write_text(json.dumps(config.to_json(its)))
        all_well(finish(start("train", 2, folder)))
        rows = metrics_writer.read(folder / "run")
        assert [row["step"] for row in rows] == [1, 2]
        assert max(row["sampler_gap/mean"] for row in rows if row.get("sampler_gap/mean") is not None) < 0.1
        assert max(abs(row.get("learner/grad_norm") or 0.0) for row in rows) > 0
