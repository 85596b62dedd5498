"""`qr-jax plan`: sums of memory, time and money by hand; what needs libtpu is skipped where it is not installed."""

import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from qr_jax.cli import cli
from qr_jax.config import Config, Mesh, Model, load
from qr_jax.lab.planning import ahead, estimate, plan, planned, programs
from qr_jax.settings.checks import check
from tpu_scripts import first_check

pytestmark = pytest.mark.usefixtures("optimised")

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed (pip install libtpu; no TPU needed)")
GIB = estimate.GIB
CHIP = estimate.Chip("test", hbm_bytes=16 * GIB, flops_a_s=100e12, bytes_a_s=1e12, links_a_s=2e11)


# ---- memory


def test_memory_is_what_is_resident_while_a_program_runs_and_its_own():
    held = {"state": 10, "slots": 20, "store": 30, "laid": 40}
    own = {"train": 1, "hand_over": 2, "prefill": 3, "decode": 4}
    assert estimate.phases(held, own) == {"train": 61, "hand_over": 62, "prefill": 103, "decode": 104}
    beside = {"train": 105, "hand_over": 62, "prefill": 104, "decode": 105}
    assert estimate.phases(held, own, overlap=True) == beside, "an update and a rollout at the same time"


def test_chips_that_roll_out_alone_hold_no_learner_and_a_step_takes_the_longer_of_both():
    held = {"state": 10, "slots": 20, "store": 30, "laid": 40}
    own = {"train": 1, "hand_over": 2, "prefill": 3, "decode": 4}
    phases = estimate.phases(held, own, overlap=True, apart=True)
    assert phases == {"train": 11, "hand_over": 12, "prefill": 93, "decode": 94}
    told = plan._resident({"resident": {name: size * GIB for name, size in held.items()}, "apart": True})
    assert told == (
        "learner's state 10.00 on a chip that learns; decoding caches 20.00, waiting episodes' caches 30.00, "
        "rollout weights 40.00 on one that rolls out"
    )
    assert planned.wrong_mesh(Mesh(fsdp=8, rollout_devices=2), "v5e:4x4", 16, 4) is None
    assert planned.wrong_mesh(Mesh(fsdp=4, rollout_devices=2), "v5e:4x4", 16, 4) == (
        "mesh.data=1 x mesh.fsdp=4 x mesh.tensor=1 is 4 chips, and v5e:4x4 has 16, of which 8 learn: set mesh.fsdp=8, "
        "or name another topology"
    )
    assert planned.wrong_mesh(Mesh(fsdp=4, rollout_devices=4), "v5e:4x4", 16, 4) == (
        "mesh.rollout_devices=4 leaves none of v5e:4x4's 16 chips to learn; set fewer"
    )


def test_a_config_that_fits_is_not_refused_and_one_that_does_not_is_told_why():
    assert estimate.refusal({"train": 15 * GIB, "decode": 16 * GIB}, 16 * GIB, adapted=False) is None
    reason = estimate.refusal({"train": 17 * GIB + GIB // 4, "decode": 16 * GIB}, 16 * GIB, adapted=False)
    assert reason and reason.startswith(
        "train needs 17.25 GiB a chip (with what is resident then), and a chip has 16.00"
    )
    assert "learner.rows" in reason and "set model.lora.rank=16, or take more chips" in reason
    assert estimate.cure("train", adapted=True).endswith("set model.remat=full, or take more chips (mesh.fsdp)")
    assert estimate.cure("hand_over", adapted=True) == "lower rollout.slots or rollout.store, or take more chips"


# ---- work, time and money


def test_kernel_flops_are_those_of_the_blocks_on_and_below_the_diagonal():
    """Rows of 1,024 in blocks of 512: 3 blocks of 512 x 512; 2 products forward, 3 and 4 backward."""
    calls = {"splash_mha_fwd": 2, "splash_mha_dq": 1, "splash_mha_dkv": 1, "another": 5}
    found = estimate.kernel_flops(calls, rows=2, length=1024, heads=4, head_dim=128, block=512)
    assert found == (2 * 2 + 3 + 4) * 2 * (3 * 512 * 512) * 128 * 4 * 2


def test_kernel_flops_of_layers_that_slide_are_those_of_the_blocks_in_their_window():
    """Rows of 2,048 in blocks of 512: 10 blocks, and within 512 tokens 1 + 2 + 2 + 2; three of four layers slide."""
    sizes = {"rows": 1, "length": 2048, "heads": 1, "head_dim": 256, "block": 512}
    found = estimate.kernel_flops({"splash_mha_fwd": 4}, **sizes, sliding=0.75, window=512)
    assert found == 2 * 2 * (10 + 3 * 7) * 512 * 512 * 256


def test_a_program_takes_as_long_as_the_slowest_of_matrix_unit_memory_and_links():
    program = {"flops": 40e12, "bytes_accessed": 0.6e12, "collectives": {"all-gather": 5e10, "all-reduce": 5e10}}
    assert estimate.seconds(program, CHIP) == pytest.approx({"matrix unit": 1.0, "HBM": 1.0, "links": 1.0})


def settings(**changes):
    pool = {"queries": 32, "samples": 4, "oversample": 2}
    made = {
        "pool": pool,
        "rollout": {"context_tokens": 1000},
        "learner": {"rows": 16, "row_tokens": 1000, "updates": 1},
    }
    made["learner"]["keep_zero_variance"] = False
    return made | changes


def test_a_step_by_hand():
    """256 episodes of 500 tokens, 150 sampled, over 4 hosts of 8 slots: 64 x 150 / (8 x .8) = 1,500 decode steps, and
    64 x 350 / 1,024 -> 22 prefill calls; 128 x 500 / (16,000 x .95) -> 5 of 8 micro-batches."""
    what = estimate.load(settings(), hosts=4, slots=8, call_tokens=1024, micro=8)
    nothing = {"flops": 0, "bytes_accessed": 0, "collectives": {}}
    programs = {
        "decode": nothing | {"bytes_accessed": 0.6e9},  # 1 ms at 60 % of 1 TB/s
        "prefill": nothing | {"flops": 4e12},  # .1 s at 40 % of 100 TFLOP/s
        "train": nothing | {"flops": 320e12},  # 8 s
        "hand_over": nothing | {"collectives": {"all-gather": 5e10}},  # .5 s at 50 % of 200 GB/s
    }
    found = estimate.step(programs, CHIP, what)
    wanted = {"decode": 1.5, "prefill": 2.2, "rollout": 3.7, "learner": 5.0, "hand_over": 0.5, "step": 9.2}
    assert found == pytest.approx(wanted)


def test_a_run_costs_its_chip_hours():
    assert estimate.price(9.0, steps=400, chips=16, dollars_a_chip_hour=1.5) == pytest.approx(24.0)


def test_chips_are_known_by_kind_with_what_a_program_may_use():
    assert estimate.chip("TPU v5 lite", 197e12, 819e9).hbm_bytes == 15.75 * GIB
    assert estimate.chip("TPU v6 lite", 918e12, 1600e9).hbm_bytes == 31.25 * GIB
    assert estimate.chip("TPU7x", 1153.5e12, 3690e9).hbm_bytes == 94.75 * GIB
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
    chips = tuple(SimpleNamespace(device_kind="TPU v5 lite", coords=[at, 0, 0]) for at in range(16))
    on = programs.Slice(chips, (), 4)
    monkeypatch.setattr(planned, "slice_of", lambda topology: on)
    found = planned.examine(load(CONFIGS / "two_layer.py"), "v5e:4x4", say=silent)
    assert not found["fits"] and "and v5e:4x4 has 16" in found["reason"] and found["chips"] == found["devices"] == 16
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
    one = {"peak_bytes": 3 * GIB, "argument_bytes": GIB, "flops": 2e9, "kernel_flops": 5e8, "bytes_accessed": 4e9}
    one |= {"bytes_least": 3e9, "collectives": {"all-gather": 1.5e9}, "compile_s": 41.2}
    found = {name: one | {"per": planned.PER[name]} for name in plan.PROGRAMS}
    sizes = {"train": 4 * GIB, "hand_over": 2 * GIB, "prefill": GIB, "decode": GIB}
    times = {"rollout": 30.0, "decode": 28.0, "prefill": 2.0, "learner": 5.0, "hand_over": 1.0, "step": 36.0}
    found |= {"chips": 16, "hosts": 4, "kind": "TPU v5 lite", "layout": "by heads", "hbm_bytes": 16 * GIB, "fits": True}
    found |= {"memory_by_phase": sizes, "resident": {"state": GIB}, "seconds": times, "assumptions": ["all goes well"]}
    found |= {"steps": 100}
    found |= {"rollout_programs": {"decode": 17, "prefill": 68}}
    return found | {"compiles": 4, "compile_s": 160.0, "reason": None} | changes


def test_a_plan_prints_memory_work_time_and_money():
    text = plan.format_plan("v5e:4x4", answer(dollars=19.2, dollars_a_chip_hour=1.2))
    assert "v5e:4x4: 16 chips on 4 hosts, TPU v5 lite" in text
    assert plan.format_plan("v5e:2x4", answer(chips=8, hosts=1)).startswith("v5e:2x4: 8 chips on 1 host, TPU v5 lite")
    assert "devices" not in text
    two = plan.format_plan("tpu7x:2x2x1", answer(chips=4, devices=8, hosts=1, kind="TPU7x")).splitlines()
    assert two[0] == "tpu7x:2x2x1: 4 chips on 1 host, TPU7x" and two[1].startswith("  a chip is 2 devices; ")
    row = next(line.split() for line in text.splitlines() if line.startswith("  train / update"))
    assert row[-9:] == ["3.00", "1.00", "2.00", "4.00", "3.00", "all-gather", "1.50", "41", "s"]
    assert "a step 36.0 s (rollout 30.00, learner 5.00, hand_over 1.00" in text
    assert "100 steps 1.00 h, 16.0 chip-hours, 19 dollars at 1.2 a chip-hour" in text
    assert "assumed: all goes well" in text and "a run compiles 17 of decode and 68 of prefill before" in text


def test_a_plan_that_does_not_fit_says_why_whatever_was_compiled():
    refused = plan.format_plan("v5e:4x4", answer(fits=False, reason="train needs 20 GiB"))
    assert "does not fit: train needs 20 GiB" in refused
    short = {"chips": 16, "hosts": 4, "kind": "TPU v5 lite", "fits": False, "reason": "mesh.fsdp is 8"}
    short |= dict.fromkeys(plan.PROGRAMS)
    assert plan.format_plan("v5e:4x4", short).splitlines()[1] == "  does not fit: mesh.fsdp is 8"


# ---- compiled for slices that are not there


@needs_libtpu
@pytest.mark.slow
def test_the_run_of_the_first_check_fits_eight_chips_that_its_prefill_calls_of_four_tiles_do_not_divide(tmp_path):
    settings = first_check.run_of("bfloat16", Mesh(fsdp=8), tmp_path, [])
    assert settings.rollout.buckets[-1] == 4 * settings.rollout.tile
    found = plan.plan(settings, ["v5e:2x4"], say=silent)["v5e:2x4"]
    assert found["fits"] and found["train"]["kernel_flops"] > 0  # splash attention is in it


@needs_libtpu
def test_libtpu_knows_tpu7x_by_that_name_with_two_devices_a_chip():
    """In a process of its own: libtpu reads its environment once."""
    look = "from qr_jax.lab.planning import ahead\n"
    look += "found = ahead.devices('tpu7x:2x2x1')\n"
    look += "print({device.device_kind for device in found}, len(found), len({tuple(d.coords) for d in found}))"
    environment = {**os.environ, **ahead.ENVIRONMENT}
    done = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "{'TPU7x'} 8 4\n", done.stderr


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
    assert found["hand_over"]["bytes_accessed"] > 0  # compiled before it
    assert [found[name] for name in ("decode", "prefill", "train")] == [None] * 3
    assert found["reason"].startswith("decode needs") and "a chip has 15.75 GiB: lower rollout.slots" in found["reason"]


@needs_libtpu
@pytest.mark.slow
def test_what_is_resident_and_sent_is_the_sum_by_hand(tmp_path):
    """On a chip of 4: 2 layers, 8,192 words, width 2,048, 16 heads of 128 with 8 for keys, an MLP of 6,144."""
    found = planned_on("v5e:2x2", cut(tmp_path))
    attention, mlp, head = 2048 * 2048 * 2 + 2048 * 1024 * 2, 3 * 2048 * 6144, 8192 * 2048
    params = 2 * (attention + mlp + 2 * 2048 + 2 * 128) + head + 2048
    cache = 16 * 4096 * 2 * 2 * 8 * 128 * 2 // 4  # slots, positions, layers, keys and values, heads, two bytes
    held = found["resident"]
    assert held["slots"] == pytest.approx(cache, rel=0.001) and held["store"] == pytest.approx(cache, rel=0.001)
    assert held["state"] == pytest.approx(12 * params / 4, rel=0.001)  # float32 weights and two moments
    assert held["state"] >= 12 * (params - 2 * (2 * 2048 + 2 * 128) - 2048) / 4
    assert found["train"]["bytes_least"] == 2 * held["state"]
    assert found["rollout_programs"]["decode"] == 17  # 128, 192, 256, 384, then four an octave up to 4,096
    sent = sum(found["hand_over"]["collectives"].values())
    assert sent == pytest.approx(2 * params / 4, rel=0.001)  # a chip's share, in bfloat16, from rows to heads
    assert sum(found["train"]["collectives"].values()) > 2 * params  # more than all weights gathered once
    assert max(found["memory_by_phase"].values()) == found["peak_bytes_per_chip"] > sum(held.values())


def short(config, **learner):
    """With episodes of 128 tokens: activations are then small enough for VMEM, and weights are what HBM is read for."""
    learner = replace(config.learner, row_tokens=128, **learner)
    return replace(config, learner=learner, rollout=replace(config.rollout, context_tokens=128))


def grown(small, large):
    counted = ("flops", "bytes_accessed", "bytes_least")
    return {name: {of: large[name][of] - small[name][of] for of in counted} for name in plan.PROGRAMS}


@needs_libtpu
@pytest.mark.slow
def test_doubling_the_mlp_adds_its_products_and_its_weights(tmp_path):
    """By hand, on each of 4 chips, for 6,144 more columns of the MLP in 2 layers of width 2,048.

    FLOPs: a forward pass has 3 products of them a token. Training (remat=full) computes gate and up again (the result
    of down is not needed again), and each product has two gradients: 3 + 2 + 6 = 11. Prefill ends at the last layer's
    keys and values, before its MLP. Bytes: decode reads the three matrices once, prefill those of one layer; hand-over
    reads the learner's share in float32 and writes the rollouts' in bfloat16, what is sent in between lies in VMEM.
    """
    more = grown(*(planned_on("v5e:2x2", short(cut(tmp_path, mlp))) for mlp in (6144, 12288)))
    columns, tokens = 2 * 2048 * 6144, 128  # one row of the micro-batch a chip
    assert more["train"]["flops"] == pytest.approx(2 * 11 * columns * tokens, rel=0.03)
    assert more["decode"]["flops"] == pytest.approx(2 * 3 * columns * 16 / 4, rel=0.03)
    assert more["prefill"]["flops"] == pytest.approx(2 * 3 * columns / 2 * 1024 / 4, rel=0.03)
    assert more["hand_over"]["flops"] == 0
    assert more["decode"]["bytes_accessed"] == pytest.approx(3 * columns * 2 / 4, rel=0.03)
    assert more["prefill"]["bytes_accessed"] == pytest.approx(3 * columns / 2 * 2 / 4, rel=0.03)
    assert more["hand_over"]["bytes_accessed"] == pytest.approx(3 * columns * (4 + 2) / 4, rel=0.03)
    assert more["decode"]["bytes_least"] == 2 * more["prefill"]["bytes_least"] == 3 * columns * 2 // 4
    assert more["hand_over"]["bytes_least"] == 3 * columns * (4 + 2) // 4


@needs_libtpu
@pytest.mark.slow
def test_doubling_the_mlp_moves_its_weights_gradients_and_moments_through_hbm(tmp_path):
    """Bytes of an update by hand, on one chip and a row of 128 tokens, for 12,288 more columns in 2 layers of 2,048.

    A matrix of both layers (200 MB in float32, then 400) is larger than VMEM: all of it goes through HBM. On 4 chips
    XLA keeps some gathered weights and gradients in VMEM, which no sum by hand foresees.
    """

    def found(mlp):
        config = short(cut(tmp_path, mlp), rows=1)
        return planned_on("v5e:1x1", replace(config, mesh=Mesh(fsdp=1), pool=replace(config.pool, samples=1)))

    more, columns = grown(found(12288), found(24576))["train"], 2 * 2048 * 12288
    cast = 3 * (4 + 2)  # to bfloat16, all layers before the first
    products = 3 * 2 + 2 * 2 + 3 * 2  # weights read: forward, gate and up again (remat=full), the inputs' gradients
    gradients = 3 * (4 + 4)  # zeros, over which each layer writes its own
    norm = 3 * 4  # of the gradients, to clip them
    moments = 3 * (3 * 4 + 2 * 4)  # gradient and both moments read, these written; the update's norm on the way
    weights = 3 * (3 * 4 + 4)  # read with both moments, written
    by_hand = cast + products + gradients + norm + moments + weights
    assert more["bytes_accessed"] == pytest.approx(columns * by_hand, rel=0.03)
    assert more["bytes_least"] == columns * 3 * 12 * 2
    assert more["flops"] == pytest.approx(2 * 11 * columns * 128, rel=0.03)
