"""`qr-jax plan`: sums of memory, time and money by hand; what needs libtpu is skipped where it is not installed."""

import importlib.util
import json
import re
import runpy
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from qr_jax.cli import cli
from qr_jax.config import Config, Mesh, Model, Pool, Rollout, load
from qr_jax.lab.planning import ahead, estimate, plan, planned, programs
from qr_jax.models import costs, families
from qr_jax.settings.checks import check

pytestmark = pytest.mark.usefixtures("optimised")

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed (pip install libtpu; no TPU needed)")
GIB = estimate.GIB
CHIP = estimate.Chip("test", hbm_bytes=16 * GIB, flops_a_s=100e12, bytes_a_s=1e12)


# ---- memory


def test_memory_is_what_is_resident_while_a_program_runs_and_its_own():
    held = {"state": 10, "slots": 20, "store": 30, "laid": 40}
    own = {"train": 1, "hand_over": 2, "prefill": 3, "decode": 4}
    assert estimate.phases(held, own) == {"train": 61, "hand_over": 62, "prefill": 103, "decode": 104}


def test_a_config_that_fits_is_not_refused_and_one_that_does_not_is_told_why():
    assert estimate.refusal({"train": 15 * GIB, "decode": 16 * GIB}, 16 * GIB) is None
    reason = estimate.refusal({"train": 17 * GIB + GIB // 4, "decode": 16 * GIB}, 16 * GIB)
    assert reason and reason.startswith(
        "train needs 17.25 GiB a chip (with what is resident then), and a chip has 16.00"
    )
    assert "learner.rows" in reason


# ---- work, time and money


def test_a_step_by_hand():
    """256 episodes of 500 tokens, 150 sampled, on 4 hosts of 4 chips with 8 slots each: 64 x 150 / (8 x .8) = 1,500
    decode steps, which read a quarter of the weights and of 8 x 1,000 positions at .6 TB/s; 16 chips of 40 TFLOP/s."""
    config = Config(
        model=Model(compute="bfloat16"), pool=Pool(queries=32, samples=4, oversample=2),
        rollout=Rollout(context_tokens=1000, slots=8),
    )  # fmt: skip
    cfg = families.PRESETS["qwen3_1p7b"]
    weights, position = costs.parameter_count(cfg), 2 * 28 * 8 * 128
    layers, attended = 2 * costs.matrix_parameters(cfg), 4 * 28 * 16 * 128
    decode = 1500 * 2 * (weights / 4 + 8 * 1000 * position / 4) / 0.6e12
    prefill = (layers * 256 * 350 + attended * 256 * 350 * 250) / (16 * 40e12)
    head = 2 * 151936 * 2048
    learner = 3 * (layers * 128 * 500 + attended * 128 * 125_250 + head * 128 * 150) / (16 * 40e12)
    found = estimate.step(config, cfg, estimate.Shared(chips=16, rollouts=4, by_heads=4), CHIP)
    wanted = {"decode": decode, "prefill": prefill, "rollout": decode + prefill, "learner": learner}
    assert found == pytest.approx(wanted | {"step": decode + prefill + learner})


def test_a_run_costs_its_chip_hours():
    assert estimate.price(9.0, steps=400, chips=16, dollars_a_chip_hour=1.5) == pytest.approx(24.0)


def test_chips_are_known_by_kind_with_what_a_program_may_use():
    assert estimate.chip("TPU v5 lite", 197e12, 819e9).hbm_bytes == 15.75 * GIB
    assert estimate.chip("TPU v6 lite", 918e12, 1600e9).hbm_bytes == 31.25 * GIB
    with pytest.raises(ValueError, match="no figures of a chip 'TPU v4'; known: TPU v5 lite"):
        estimate.chip("TPU v4", 275e12, 1200e9)


# ---- what is refused before anything is compiled


def test_a_libtpu_refusal_says_what_the_program_needs():
    text = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (17.22G) exceeds"
    )
    assert planned.refused_bytes(text + " available HBM (15.75G).") == int(17.22 * GIB)
    assert planned.refused_bytes("Used 512.00M of 15.75G hbm. Exceeded") == 512 * 2**20
    assert planned.refused_bytes("INTERNAL: something else") is None


def test_a_mesh_of_other_chips_than_the_slice_has_is_refused_with_the_one_that_would_do():
    assert planned.wrong_mesh(Mesh(fsdp=16), "v5e:4x4", 16) is None
    reason = planned.wrong_mesh(Mesh(fsdp=16, tensor=2), "v5e:4x4", 16)
    assert reason and "is 32 chips, and v5e:4x4 has 16: set mesh.fsdp=8" in reason


def test_a_libtpu_that_jax_does_not_name_is_refused_before_it_compiles(monkeypatch):
    """What the newest compiles for v5p this jax could not read: a traceback of XLA's after minutes."""
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.1")
    wanted = next(each for each in metadata.requires("jax") if each.startswith("libtpu=="))[8:].partition(";")[0]
    with pytest.raises(ValueError, match=f"libtpu 0.0.1 is installed, and jax .* wants {re.escape(wanted)}: python"):
        ahead.check_libtpu()
    monkeypatch.setattr(metadata, "version", lambda name: wanted.replace("*", "7"))
    ahead.check_libtpu()


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed")
def test_where_libtpu_is_missing_the_command_says_what_to_install(capsys):
    assert cli.main(["plan", str(CONFIGS / "two_layer.py"), "--topology", "v5e:4x4"]) == 2
    assert "python -m pip install 'jax[tpu]'" in capsys.readouterr().err


def test_a_plan_asks_for_no_data(monkeypatch):
    asked = []

    def found(config, names, **_):
        asked.append((config.data.train, names))
        return {names[0]: {"fits": True}}

    monkeypatch.setattr(plan, "plan", found)
    nowhere = ["data.train=nowhere.jsonl", "data.eval=nowhere.jsonl", "data.corpus=nowhere.jsonl"]
    words = ["plan", str(CONFIGS / "search_r1.py:v5e_64"), *nowhere, "--topology", "v5e:8x8", "--json"]
    assert cli.main(words) == 0 and asked == [("nowhere.jsonl", ["v5e:8x8"])]


def test_what_is_not_compiled_is_null(monkeypatch):
    on = programs.Slice((SimpleNamespace(device_kind="TPU v5 lite"),) * 16, (), 4)
    monkeypatch.setattr(planned, "slice_of", lambda topology: on)
    found = planned.examine(load(CONFIGS / "two_layer.py"), "v5e:4x4", say=silent)
    assert not found["fits"] and "and v5e:4x4 has 16" in found["reason"]
    assert [found[name] for name in ("peak_bytes_per_chip", *plan.PROGRAMS)] == [None] * 5


def test_a_chip_without_figures_is_refused_by_its_name(monkeypatch):
    on = programs.Slice((SimpleNamespace(device_kind="TPU v4"),), (), 1)
    monkeypatch.setattr(planned, "slice_of", lambda topology: on)
    with pytest.raises(ValueError, match="no figures of a chip 'TPU v4'; known: TPU v5 lite, TPU v5, TPU v6"):
        planned.examine(load(CONFIGS / "two_layer.py"), "v4:2x2x2", say=silent)


@needs_libtpu
def test_a_slice_of_such_chips_ends_the_command_with_2(capsys):
    assert cli.main(["plan", str(CONFIGS / "two_layer.py"), "--topology", "v4:2x2x2"]) == 2
    assert "no figures of a chip 'TPU v4'" in capsys.readouterr().err


def test_a_price_is_more_than_nothing(capsys):
    with pytest.raises(SystemExit):
        cli.main(["plan", str(CONFIGS / "two_layer.py"), "--topology", "v5e:4x4", "--price", "free"])
    assert "found 'free'; wanted dollars" in capsys.readouterr().err


def test_the_model_of_a_config_is_known_without_its_weights():
    cfg = programs.model_shape(Config(model=Model("Qwen/Qwen3-1.7B")))
    assert (cfg.layers, cfg.width, cfg.heads, cfg.kv_heads, cfg.mlp, cfg.vocab) == (28, 2048, 16, 8, 6144, 151936)


PAPER = CONFIGS / "paper" / "qwen3_1p7b.py"
CHIPS = {"v5e_16": 16, "v5e_64": 64, "v5p_16": 8, "v6e_16": 16}


@pytest.mark.parametrize("served", ["", "served_"])
@pytest.mark.parametrize("name", ["qwen3_1p7b", "qwen3_4b"])
def test_every_row_of_the_paper_s_table_stands_on_every_pod_and_draws_as_many_queries(
    name, served, tmp_path, monkeypatch
):
    """Of the synthetic world, and with the paper's retriever and a judge; these name files, which stand here."""
    monkeypatch.setenv("QR_JAX_DATA", str(tmp_path))
    for file in ("pool/questions.jsonl", "cold_start/traces.jsonl"):
        (tmp_path / "clueweb22" / file).parent.mkdir(parents=True)
        (tmp_path / "clueweb22" / file).write_text("{}\n")
    whole = {key: one for key, one in runpy.run_path(str(PAPER.with_stem(name))).items() if isinstance(one, Config)}
    paper = whole["served" if served else "config"]
    there = {
        key.removeprefix("served_"): one for key, one in whole.items() if key.startswith("served_") == bool(served)
    }
    rows = {key: one for key, one in there.items() if "_x" in key}
    assert len(rows) == 4 * 2 * 2 * (1 + len(CHIPS))
    for key, one in rows.items():
        row, _, pod = key.partition("_on_")
        method, samples, times = row.rsplit("_", 2)
        pool = one.pool
        assert (pool.rule.name, f"k{pool.samples}", f"x{pool.oversample}") == (method, samples, times)
        assert one.train.steps * pool.queries * pool.oversample == 84_480 // 4  # K 8 spends twice the rollouts of K 4
        for part in ("model", "data", "env", "retriever", "reward"):
            assert getattr(one, part) == getattr(paper, part)
        check(one, devices=CHIPS[pod]) if pod else check(one)
    for pod, chips in CHIPS.items():
        found = there[pod]
        check(found, devices=chips)
        for part in ("model", "data", "env", "retriever", "reward", "pool", "sft", "evaluation", "train"):
            assert getattr(found, part) == getattr(paper, part)
        assert found.learner == replace(paper.learner, rows=found.learner.rows)
    assert there["recycle_k4_x2"] == paper


# ---- what is printed


def answer(**changes):
    one = {"peak_bytes": 3 * GIB, "argument_bytes": GIB, "compile_s": 41.2}
    found = {name: one | {"per": planned.PER[name]} for name in plan.PROGRAMS}
    sizes = {"train": 4 * GIB, "hand_over": 2 * GIB, "prefill": GIB, "decode": GIB}
    times = {"rollout": 30.0, "decode": 28.0, "prefill": 2.0, "learner": 6.0, "step": 36.0}
    found |= {"chips": 16, "hosts": 4, "kind": "TPU v5 lite", "layout": "by heads", "hbm_bytes": 16 * GIB, "fits": True}
    found |= {"memory_by_phase": sizes, "resident": {"state": GIB}, "seconds": times, "assumptions": ["all goes well"]}
    found |= {"steps": 100}
    found |= {"rollout_programs": {"decode": 17, "prefill": 68}}
    return found | {"compiles": 4, "compile_s": 160.0, "reason": None} | changes


def test_a_plan_prints_memory_work_time_and_money():
    text = plan.format_plan("v5e:4x4", answer(dollars=19.2, dollars_a_chip_hour=1.2))
    assert "v5e:4x4: 16 chips on 4 hosts, TPU v5 lite" in text
    assert plan.format_plan("v5e:2x4", answer(chips=8, hosts=1)).startswith("v5e:2x4: 8 chips on 1 host, TPU v5 lite")
    row = next(line.split() for line in text.splitlines() if line.startswith("  train / update"))
    assert row[-4:] == ["3.00", "1.00", "41", "s"]
    assert "a step 36.0 s (rollout 30.00, learner 6.00" in text
    assert "100 steps 1.00 h, 16.0 chip-hours, 19 dollars at 1.2 a chip-hour" in text
    assert "assumed: all goes well" in text and "a run compiles 17 of decode and 68 of prefill before" in text


def test_a_plan_that_does_not_fit_says_why_whatever_was_compiled():
    refused = plan.format_plan("v5e:4x4", answer(fits=False, reason="train needs 20 GiB"))
    assert "does not fit: train needs 20 GiB" in refused
    short = {"chips": 16, "hosts": 4, "kind": "TPU v5 lite", "fits": False, "reason": "mesh.fsdp is 8"}
    short |= dict.fromkeys(plan.PROGRAMS)
    assert plan.format_plan("v5e:4x4", short).splitlines()[1] == "  does not fit: mesh.fsdp is 8"


# ---- compiled for slices that are not there


def cut(tmp_path, mlp=6144, **rollout):
    """The paper's config on a v5e host with two layers of its model.

    Words are so few that an MLP's matrix is the largest array: the one that XLA brings to VMEM whole, ahead of a run.
    """
    shape = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 8192, "hidden_size": 2048}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
    shape |= {"intermediate_size": mlp, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6}
    shape |= {"tie_word_embeddings": True, "hidden_act": "silu", "attention_bias": False}
    (tmp_path / f"mlp{mlp}").mkdir()
    (tmp_path / f"mlp{mlp}/config.json").write_text(json.dumps(shape))
    paper = load(PAPER)
    return replace(
        paper, model=replace(paper.model, name=str(tmp_path / f"mlp{mlp}")), mesh=Mesh(fsdp=4),
        pool=replace(paper.pool, queries=1), learner=replace(paper.learner, rows=4),
        rollout=replace(paper.rollout, **({"slots": 16, "store": 16} | rollout)),
    )  # fmt: skip


def silent(text):
    pass


def planned_on(topology, config):
    return plan.plan(config, [topology], say=silent)[topology]


@needs_libtpu
def test_a_config_that_is_too_large_is_refused_before_the_rest_is_compiled(tmp_path):
    found = planned_on("v5e:2x2", cut(tmp_path, slots=65536))
    assert not found["fits"] and found["peak_bytes_per_chip"] > 15.75 * GIB
    assert found["hand_over"]["peak_bytes"] > 0  # compiled before it
    assert [found[name] for name in ("decode", "prefill", "train")] == [None] * 3
    assert found["reason"].startswith("decode needs") and "a chip has 15.75 GiB: lower rollout.slots" in found["reason"]


@needs_libtpu
@pytest.mark.slow
def test_what_is_resident_is_the_sum_by_hand(tmp_path):
    """On a chip of 4: 2 layers, 8,192 words, width 2,048, 16 heads of 128 with 8 for keys, an MLP of 6,144."""
    found = planned_on("v5e:2x2", cut(tmp_path))
    attention, mlp, head = 2048 * 2048 * 2 + 2048 * 1024 * 2, 3 * 2048 * 6144, 8192 * 2048
    params = 2 * (attention + mlp + 2 * 2048 + 2 * 128) + head + 2048
    cache = 16 * 4096 * 2 * 2 * 8 * 128 * 2 // 4  # slots, positions, layers, keys and values, heads, two bytes
    held = found["resident"]
    assert held["slots"] == pytest.approx(cache, rel=0.001) and held["store"] == pytest.approx(cache, rel=0.001)
    assert held["state"] == pytest.approx(12 * params / 4, rel=0.001)  # float32 weights and two moments
    assert held["state"] >= 12 * (params - 2 * (2 * 2048 + 2 * 128) - 2048) / 4
    assert found["rollout_programs"]["decode"] == 17  # 128, 192, 256, 384, then four an octave up to 4,096
    assert max(found["memory_by_phase"].values()) == found["peak_bytes_per_chip"] > sum(held.values())
