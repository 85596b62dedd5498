"""Runs with adapters: what their checkpoints hold, that they go on to the same bytes, and which weights are refused."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import rollouts
from killed_run import adapted, tiny
from safetensors.numpy import load_file, save_file
from test_gemma import CFG as GEMMA

from qr_jax import assemble, config
from qr_jax.evaluation import subject
from qr_jax.lab import exporting
from qr_jax.learner import learner
from qr_jax.learner.pack import pack
from qr_jax.models import hf, lora, peft_folder
from qr_jax.parallel import host_local
from qr_jax.parallel import mesh as meshes
from qr_jax.records import grades
from qr_jax.rollout.engine import Engine
from qr_jax.run import checkpoint, policy
from qr_jax.sft import sft
from qr_jax.train import train
from tpu_scripts.same_runs import differences

pytestmark = pytest.mark.thorough
ROOT = Path(__file__).parents[1]
LORA = config.Lora(rank=4)
CFG = rollouts.CFG


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never killed, and the folder of one that was, before the line of step 3 had its checkpoint."""
    folder = tmp_path_factory.mktemp("lora")
    train(adapted(tiny(folder), 4), folder / "whole", say=silent)
    command = [sys.executable, str(ROOT / "tests" / "killed_run.py"), str(folder / "killed")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--die", "metrics", "--lora", "4"], env=environment, capture_output=True)
    assert done.returncode == -9, done.stderr
    return folder


def opened(run: Path):
    settings = config.load(run / "config.json")
    return settings, assemble.agent(settings), meshes.make_mesh(settings.mesh)


def test_a_killed_run_goes_on_to_the_same_bytes(whole):
    train(adapted(tiny(whole), 4), whole / "killed", say=silent)
    assert differences(whole / "killed", whole / "whole", 5) == []


@pytest.mark.parametrize("part", ["", "sft"])
def test_a_checkpoint_holds_adapters_and_optimizer_and_the_hash_of_the_base(whole, part):
    settings, agent, _ = opened(whole / "whole")
    saved = checkpoint.Checkpoints(whole / "whole" / part / "checkpoints")
    step = saved.steps()[0]
    names = {name.removeprefix("params.") for name in saved.arrays(step) if name.startswith("params.")}
    assert names == {f"{name}_{side}" for name in lora.MATRICES["all-linear"] for side in "ab"}
    size = sum(int(np.prod(shape)) for _, shape in saved.arrays(step).values() if shape)
    assert size == 3 * lora.count(agent.cfg, LORA)  # they, and two moments
    assert saved.host(step)[checkpoint.BASE] == policy.weights_sha256(agent.weights())
    saved.close()


def test_its_first_policy_is_the_cold_starts_and_its_last_is_on_the_same_base(whole):
    _, agent, mesh = opened(whole / "whole")
    first, last = (policy.of_run(whole / "whole", agent, mesh, step) for step in (0, 5))
    cold = policy.of_run(whole / "whole" / "sft", agent, mesh)
    jax.tree.map(np.testing.assert_array_equal, first.params, cold.params)
    assert (np.asarray(last.params["q_b"]) != np.asarray(first.params["q_b"])).any()
    jax.tree.map(np.testing.assert_array_equal, last.base, agent.weights())


def test_an_export_is_the_merged_model_and_has_the_hash_of_the_run(whole, tmp_path):
    settings, agent, mesh = opened(whole / "whole")
    exporting.export(whole / "whole", tmp_path / "hf", dtype="float32")
    merged = lora.merged(subject.weights(whole / "whole", agent, mesh))
    jax.tree.map(np.testing.assert_array_equal, hf.load(tmp_path / "hf")[1], jax.tree.map(np.asarray, merged))
    exported = replace(settings, model=config.Model(str(tmp_path / "hf")))
    ours = subject.open_model(settings, whole / "whole")[2]["weights_sha256"]
    assert subject.open_model(exported, None)[2]["weights_sha256"] == ours


def test_a_merged_export_in_bfloat16_says_what_is_left_of_the_adapters(whole, tmp_path, capsys, monkeypatch):
    share = lora.share_kept(subject.weights(whole / "whole", *opened(whole / "whole")[1:]))
    assert share and 0 < share < 2
    monkeypatch.setattr(exporting, "MERGED_WHOLE", 3.0)
    exporting.export(whole / "whole", tmp_path / "hf")
    told = f"merged in bfloat16 {share:.0%} of what the adapters learnt is left, the rest is rounded away; --dtype"
    assert told in "".join(capsys.readouterr())


@pytest.fixture(scope="module")
def peft(whole):
    exporting.export_adapter(whole / "whole", whole / "peft")
    return whole / "peft"


def test_a_run_begins_with_an_adapter_of_pefts_form(whole, peft, tmp_path):
    settings, agent, mesh = opened(whole / "whole")
    said = json.loads((peft / "adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"], said["base_model_name_or_path"]) == (4, 32, None)
    card = (peft / "README.md").read_text()
    assert "vllm serve BASE --enable-lora --max-lora-rank 8 --lora-modules peft=." in card and "| steps | 5 |" in card
    settings = replace(settings, train=replace(settings.train, init=str(peft)))
    policy.check_start(settings, agent)
    found, last = policy.start(settings, tmp_path, agent, mesh, peft), policy.of_run(whole / "whole", agent, mesh)
    jax.tree.map(np.testing.assert_array_equal, found.params, last.params)
    assert found.base_sha256 == last.base_sha256


def changed(folder: Path, to: Path, **settings) -> Path:
    """A copy of an adapter whose config says otherwise."""
    shutil.copytree(folder, to)
    said = json.loads((to / "adapter_config.json").read_text())
    (to / "adapter_config.json").write_text(json.dumps(said | settings))
    return to


@pytest.mark.parametrize(
    ("said", "model", "told"),
    [
        ({}, {"lora": config.Lora(8)}, "has adapters of rank 4, alpha 32, all-linear; here rank 8, .*: set model.lora"),
        ({}, {"lora": config.Lora()}, "here model.lora.rank is 0: set model.lora.rank=4 model.lora.alpha=32"),
        ({"lora_alpha": 16}, {}, "has adapters of rank 4, alpha 16, all-linear; here rank 4, alpha 32"),
        ({}, {"lora": config.Lora(4, layers="mlp")}, "all-linear; here rank 4, alpha 32, mlp: set .*layers=all-linear"),
        ({}, {"name": "quickstart"}, "28 tensors of another shape: .*q_proj.lora_A"),
        ({"use_dora": True, "bias": "all"}, {}, r"has bias = 'all'; use_dora = True, which is not read here"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, {}, r"target_modules = .*wanted some of q_proj, k_proj"),
        ({"r": 0}, {}, "has r = 0, which is not read here"),
        ({"init_lora_weights": "pissa_niter_4"}, {}, "has init_lora_weights = 'pissa_niter_4', which is not read here"),
        ({"init_lora_weights": "lora_ga"}, {}, "'lora_ga', which is not .* wanted a plain LoRA .* base's own weights"),
        ({"kasa_config": {"beta": 1e-4}}, {}, "has kasa_config = {'beta': 0.0001}, which is not read here"),
        ({"use_bdlora": {"nblocks": 2}}, {}, "has use_bdlora = {'nblocks': 2}, which is not read here"),
        ({"some_new_variant": True}, {}, "has some_new_variant = True, which is not read here"),
        ({"base_model_name_or_path": "a/one"}, {}, "is an adapter of a/one, and model.name is two_layer; set model=a"),
        ({"base_model_name_or_path": "a/one"}, {"name": "a/two"}, "is an adapter of a/one, and model.name is a/two"),
        ({"base_model_name_or_path": "a/one"}, {"name": "smollm2"}, "adapter of a/one, and model.name is smollm2"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_is_refused_in_one_line(whole, peft, tmp_path, said, model, told):
    settings, agent, _ = opened(whole / "whole")
    source = changed(peft, tmp_path / "adapter", **said)
    settings = replace(
        settings, model=replace(settings.model, **model), train=replace(settings.train, init=str(source))
    )
    if model.get("name") == "quickstart":
        agent = assemble.agent(settings)
    with pytest.raises(ValueError, match=told) as found:
        policy.check_start(settings, agent)
    assert "\n" not in str(found.value)


def test_a_truncated_adapter_and_one_of_another_base_are_refused(whole, peft, tmp_path):
    settings, agent, mesh = opened(whole / "whole")
    source = changed(peft, tmp_path / "adapter")
    settings = replace(settings, train=replace(settings.train, init=str(source)))
    other = assemble.agent(replace(settings, seed=1))
    with pytest.raises(ValueError, match=r"is an adapter of a base [0-9a-f]{16}, this run's is [0-9a-f]{16}"):
        policy.start(settings, tmp_path, other, mesh, source)
    file = source / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="adapter_model.safetensors is no whole safetensors file"):
        policy.check_start(settings, agent)
    file.unlink()
    with pytest.raises(ValueError, match="has no adapter_model.safetensors; fetch it again"):
        policy.check_start(settings, agent)
    file.touch()
    (source / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match="has adapter_model.safetensors and no adapter_config.json; fetch the adapter"):
        policy.check_start(settings, agent)


def test_its_base_is_known_again_in_another_dtype_and_an_unknown_one_is_logged(whole, peft, tmp_path, caplog):
    """A float32 run's adapter, in runs that compute in bfloat16: with its base, with another, with no hash at all."""
    settings, *_ = opened(whole / "whole")
    settings = replace(settings, model=replace(settings.model, compute="bfloat16"))
    settings = replace(settings, train=replace(settings.train, init=str(peft)))
    agent, mesh = assemble.agent(settings), meshes.make_mesh(settings.mesh)
    assert policy.start(settings, tmp_path, agent, mesh, peft).base_sha256 != policy.weights_sha256(agent.weights())
    other = assemble.agent(replace(settings, seed=1))
    with pytest.raises(ValueError, match=r"is an adapter of a base [0-9a-f]{16}, this run's is [0-9a-f]{16}"):
        policy.start(settings, tmp_path, other, mesh, peft)
    assert not caplog.records
    source = changed(peft, tmp_path / "adapter", base_model_name_or_path="a/one")
    file = source / "adapter_model.safetensors"
    save_file(load_file(file), file, {"format": "pt"})
    settings = replace(settings, train=replace(settings.train, init=str(source)))
    policy.start(settings, tmp_path, other, mesh, source)
    assert "adapter is an adapter of a/one; whether model.name=two_layer has its weights is not known" in caplog.text
    (source / "adapter_config.json").write_text((peft / "adapter_config.json").read_text())
    policy.start(settings, tmp_path, other, mesh, source)
    assert "adapter is an adapter of a base that it does not name; whether" in caplog.text


def test_an_adapter_of_another_base_is_refused_before_anything_compiles(whole, peft, tmp_path, monkeypatch):
    settings, *_ = opened(whole / "whole")
    settings = replace(settings, seed=1, train=replace(settings.train, init=str(peft), bucket=None))
    monkeypatch.setattr(Engine, "warm_up", lambda *positional, **named: pytest.fail("something was compiled"))
    with pytest.raises(ValueError, match=r"is an adapter of a base [0-9a-f]{16}, this run's is [0-9a-f]{16}"):
        train(settings, tmp_path / "run", say=silent)


def test_an_adapter_without_a_layer_or_with_a_number_that_is_none_is_refused(whole, peft, tmp_path):
    settings, agent, mesh = opened(whole / "whole")
    for name, spoil in (
        ("lacks", lambda tensors: {key: array for key, array in tensors.items() if ".layers.1." not in key}),
        (
            "nan",
            lambda tensors: {key: array * (np.nan if "q_proj.lora_A" in key else 1) for key, array in tensors.items()},
        ),
    ):
        file = changed(peft, tmp_path / name) / "adapter_model.safetensors"
        save_file(spoil(load_file(file)), file)
    of = {
        name: replace(settings, train=replace(settings.train, init=str(tmp_path / name))) for name in ("lacks", "nan")
    }
    paths = [f"model.layers.{layer}.{module}" for layer in range(2) for module in ("self_attn.q_proj", "mlp.up_proj")]
    for targets, count in ((None, 14), ("all-linear", 14), (paths, 4)):  # PEFT writes these forms
        described = json.loads((tmp_path / "lacks" / "adapter_config.json").read_text())
        described["target_modules"] = targets or described["target_modules"]
        (tmp_path / "lacks" / "adapter_config.json").write_text(json.dumps(described))
        with pytest.raises(ValueError, match=f"{count} tensors missing"):
            policy.check_start(of["lacks"], agent)
    with pytest.raises(ValueError, match="q_proj.lora_A.* or its B has numbers that are not finite; fetch it again"):
        policy.start(of["nan"], tmp_path, agent, mesh, tmp_path / "nan")


def test_a_run_whose_base_is_another_is_refused_before_anything_compiles(whole, tmp_path, monkeypatch):
    """As where the files of model.name were replaced."""
    shutil.copytree(whole / "whole", tmp_path / "run")
    settings = adapted(tiny(whole), 4)
    settings = replace(settings, train=replace(settings.train, steps=6))
    init = assemble.decoder.init
    monkeypatch.setattr(assemble.decoder, "init", lambda cfg, key: init(cfg, jax.random.fold_in(key, 9)))
    monkeypatch.setattr(Engine, "warm_up", lambda *positional, **named: pytest.fail("something was compiled"))
    with pytest.raises(ValueError, match=r"under its adapters: [0-9a-f]{16}, model.name=two_layer's: [0-9a-f]{16}"):
        train(settings, tmp_path / "run", say=silent)
    with pytest.raises(ValueError, match="give back the weights that they were trained on"):
        subject.open_model(settings, tmp_path / "run")


@pytest.mark.parametrize("rank", [4, 0])
def test_a_run_whose_adapters_are_of_another_base_is_no_start_before_anything_compiles(
    whole, tmp_path, monkeypatch, rank
):
    settings, *_ = opened(whole / "whole")
    settings = replace(settings, seed=1, train=replace(settings.train, init=str(whole / "whole"), bucket=None))
    settings = replace(settings, model=replace(settings.model, lora=replace(settings.model.lora, rank=rank)))
    monkeypatch.setattr(Engine, "warm_up", lambda *positional, **named: pytest.fail("something was compiled"))
    told = (
        r"whole has adapters of a base [0-9a-f]{16}, model.name=two_layer is [0-9a-f]{16} .*: set model.name, or seed"
    )
    with pytest.raises(ValueError, match=told):
        train(settings, tmp_path / "run", say=silent)


def test_a_run_with_other_adapters_is_no_start(whole, tmp_path):
    settings, agent, _ = opened(whole / "whole")
    settings = replace(adapted(settings, 8), train=replace(settings.train, init=str(whole / "whole")))
    with pytest.raises(ValueError, match="whole has adapters of rank 4, alpha 32, all-linear; here rank 8"):
        policy.check_start(settings, agent)


def test_a_cold_start_of_the_whole_model_is_the_base(tmp_path):
    """And a run from another that trained the whole model has that one's weights as its base."""
    settings = adapted(tiny(tmp_path), 4)
    settings = replace(settings, sft=replace(settings.sft, whole=True))
    _, agent, mesh = settings, assemble.agent(settings), meshes.make_mesh(settings.mesh)
    sft(settings, tmp_path / "run" / "sft", say=silent)
    cold = policy.of_run(tmp_path / "run" / "sft", agent, mesh)
    assert cold.base is None and cold.params["embed"].shape == (agent.cfg.vocab, agent.cfg.width)
    first = policy.start(settings, tmp_path / "run", agent, mesh, tmp_path / "run" / "sft")
    jax.tree.map(np.testing.assert_array_equal, first.base, cold.params)
    assert first.base_sha256 == policy.weights_sha256(cold.params) and not np.asarray(first.params["q_b"]).any()
    later = replace(settings, train=replace(settings.train, init=str(tmp_path / "run" / "sft")))
    again = policy.start(later, tmp_path / "other", agent, mesh, tmp_path / "run" / "sft")
    assert again.base_sha256 == first.base_sha256
    with pytest.raises(ValueError, match="lost/sft is not there: it holds the weights under this run's adapters"):
        policy.start(settings, tmp_path / "lost", agent, mesh, tmp_path / "run" / "sft")


@pytest.mark.parametrize("kind", ["one", "heads", "slots", "pod"])
@pytest.mark.parametrize(("compute", "most"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_the_sampler_computes_what_the_learner_does(compute, most, kind):
    """In bfloat16 rollouts have the adapters beside the matrices, in float32 inside them."""
    params = lora.init(CFG, LORA, jax.random.key(1))
    keys = iter(jax.random.split(jax.random.key(2), len(params)))
    params = {name: a + 0.05 * jax.random.normal(next(keys), a.shape) for name, a in params.items()}
    base = jax.tree.map(lambda leaf: leaf.astype(compute), rollouts.random_params())
    model = config.Model(compute=compute, vocab_block=512, lora=LORA)
    mesh = meshes.make_mesh(config.Mesh(devices=1) if kind == "one" else config.Mesh(devices=2, fsdp=2, rollout=kind))
    params, base = (assemble.place(tree, mesh) for tree in (params, base))
    laid = host_local.to_rollout_params(lora.whole(params, base, LORA), config.Config(model=model), CFG, mesh, kind)
    assert ("qkv_a" in laid.layers[0]) == (compute == "bfloat16")
    assert len(laid.norm.sharding.device_set) == mesh.size
    settings = replace(rollouts.SETTINGS, chunk=8, buckets=(64,))
    groups = rollouts.roll(Engine(CFG, rollouts.WORDS, settings, compute=compute), laid, rollouts.world().train[:4], 4)
    bound = learner.make(CFG, model, config.Learner(), mesh)
    graded = grades(np.tile([0.0, 1.0], (4, 2)), np.ones((4, 4), bool))
    batch = pack(groups, graded, rows=4, row_tokens=160, queries=4, samples=4)
    metrics = bound.gradient(bound.init(params, base), batch)[2]
    new = assemble.place(lora.init(CFG, LORA, jax.random.key(1)), mesh)
    without = bound.gradient(bound.init(new, base), batch)[2]
    assert int(metrics["tokens"]) > 100 and float(metrics["gap"]) < most < float(without["gap"])


@pytest.mark.parametrize("has_vision", [False, True])
def test_a_folder_of_pefts_comes_back_as_it_was(tmp_path, has_vision):
    cfg = GEMMA if has_vision else CFG
    settings = config.Lora(3, alpha=4.5, layers="attention")
    made = jax.tree.map(np.asarray, lora.init(cfg, settings, jax.random.key(0)))
    made["q_b"] = made["q_b"] + 1.5
    said = {"base": None, "base_sha256": "0" * 64, "compute": "float32", "has_vision": has_vision}
    peft_folder.save(tmp_path / "a", cfg, settings, made, **said)
    names = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert {"language_model.layers" in name for name in names} == {has_vision}
    if has_vision:  # adapters of the tower, which PEFT makes too, are no part of a text model
        names["base_model.model.model.vision_tower.layers.0.q_proj.lora_A.weight"] = np.zeros((3, 16), np.float32)
        save_file(names, tmp_path / "a" / "adapter_model.safetensors")
    peft_folder.check(tmp_path / "a", cfg, settings, "two_layer")
    found = peft_folder.load(tmp_path / "a", cfg, settings, jax.tree.map(np.zeros_like, made))
    jax.tree.map(np.testing.assert_array_equal, found, made)
    wider = replace(settings, layers="all-linear")  # what has none there keeps its own, which changes nothing
    new = jax.tree.map(np.asarray, lora.init(cfg, wider, jax.random.key(5)))
    found = peft_folder.load(tmp_path / "a", cfg, wider, new)
    np.testing.assert_array_equal(found["q_b"], made["q_b"])
    np.testing.assert_array_equal(found["up_a"], new["up_a"])
