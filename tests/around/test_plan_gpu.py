"""`qr-jax plan --gpu`: arrays by hand and beside XLA's GPU compiler, cards by name and size, presets.

What compiles needs jax's plugin of CUDA (pip install 'jax[cuda13]'; no GPU) and is skipped without it.
"""

import runpy
from dataclasses import asdict, replace
from pathlib import Path

import jax
import pytest

from qr_jax.cli import cli
from qr_jax.config import Config, Mesh
from qr_jax.lab import gpu
from qr_jax.lab.planning import cards, plan, planned
from qr_jax.lab.planning.programs import Programs, Slice, model_shape
from qr_jax.settings.checks import check

pytestmark = pytest.mark.usefixtures("optimised")
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PRESETS = {name: one for name, one in runpy.run_path(str(CONFIGS / "gpu/cards.py")).items() if isinstance(one, Config)}
SMALLEST = {"24gb": "l4", "40gb": "a100_40gb", "80gb": "a100"}  # of the cards that are sold by that size
ROOM = 0.9  # of what jax may hold, at most
GIB = 2**30
compiles = pytest.mark.skipif(not gpu.plugin(), reason="jax's plugin of CUDA is not installed")


def programs(settings):
    """The programs of a config, for a CPU, of which the shapes alone are used."""
    device = jax.local_devices()[0]
    return Programs(settings, model_shape(settings), Slice((device,), (device,), 1))


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_fits_its_card_with_room_and_is_a_right_config(name):
    settings, card = PRESETS[name], cards.CARDS[SMALLEST[name.rpartition("_")[2]]]
    check(settings, reads=())
    assert ("_lora_" in name) == (settings.model.lora.rank == 16)
    found = planned.examine_gpu(settings, card, compiles=False, say=print)
    assert found["fits"] and found["peak_bytes"] < ROOM * found["usable_bytes"], found["peak_bytes"] / GIB


def test_a_whole_model_that_is_no_preset_of_a_card_does_not_fit_it():
    """Qwen3-1.7B on 40 GB: 1.72e9 weights of 20 bytes alone are 32.0 GiB of the 35.5 that jax may hold."""
    assert "qwen3_1p7b_40gb" not in PRESETS and "gemma3_1b_24gb" not in PRESETS
    for name, model, size in (("qwen3_1p7b", "qwen3_1p7b_80gb", "40gb"), ("gemma3_1b", "gemma3_1b_40gb", "24gb")):
        small = PRESETS[model]
        small = replace(small, learner=replace(small.learner, rows=1), rollout=replace(small.rollout, slots=8, store=4))
        found = planned.examine_gpu(small, cards.CARDS[SMALLEST[size]], compiles=False, say=print)
        assert found["peak_bytes"] > ROOM * found["usable_bytes"], (name, found["peak_bytes"] / GIB)


def test_arrays_by_hand():
    """Qwen3-0.6B, 2 rows of 2,048: 596,049,920 weights in float32, two moments, and Adam's count."""
    settings = PRESETS["qwen3_0p6b_24gb"]
    held, own = planned.by_arrays(programs(settings))
    weights = 596_049_920
    assert held["state"] - 12 * weights < 100
    assert held["laid"] - 2 * weights in range(-1000, 10_000_000)  # bfloat16, and its norms in float32
    token = 2 * 28 * 8 * 128 * 2  # keys and values of all layers
    assert held["slots"] == 16 * 2048 * token and held["store"] == 8 * 2048 * token
    saved, logits, mask = 28 * 4096 * 1024 * 2, 2 * 4096 * 16384 * 4, 2 * 2048**2 * 2
    layer = 4096 * 2 * (2 * 1024 + 2 * 16 * 128 + 2 * 8 * 128 + 3 * 3072)
    assert own["train"] - (8 * weights + saved + logits + mask + layer) in range(50_000_000, 100_000_000)  # the batch
    assert own["decode"] == held["slots"] // 56 + 3 * 4 * 16 * 151_936


def test_adapters_spare_the_moments_and_gradients_of_the_model_under_them():
    whole, adapted = (
        planned.by_arrays(programs(PRESETS[name])) for name in ("qwen3_0p6b_80gb", "qwen3_0p6b_lora_80gb")
    )
    assert adapted[0]["state"] < 0.2 * whole[0]["state"]
    more = replace(PRESETS["qwen3_0p6b_80gb"], model=PRESETS["qwen3_0p6b_lora_80gb"].model)
    assert whole[1]["train"] - planned.by_arrays(programs(more))[1]["train"] > 7.8 * 596_049_920


def test_cards_are_known_by_name_and_by_size():
    h100 = cards.card("h100", None)
    assert h100.usable_bytes == int(0.9 * h100.memory_bytes) and h100.capability == "9.0"
    assert cards.card(None, "80GB").memory_bytes == 80 * 10**9
    assert cards.card("h100", "60GiB") == replace(h100, name="h100 of 60GiB", memory_bytes=60 * GIB)
    with pytest.raises(ValueError, match="no figures of a GPU 'gtx'; known: l4, a10g, .*; or give --memory"):
        cards.card("gtx", None)
    for wrong in ("80", "0GB", "-1GB", "80TB", "GB"):
        with pytest.raises(ValueError, match=f"--memory '{wrong}' is no size; wanted one as in 80GB"):
            cards.card(None, wrong)


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr(gpu, "plugin", lambda: None)


def test_the_command_says_what_does_not_fit_and_what_to_set(uncompiled, capsys):
    assert cli.main(["plan", str(CONFIGS / "gpu/cards.py:qwen3_0p6b_24gb"), "--memory", "12GB"]) == 1
    said = capsys.readouterr().out
    assert "GPU of 12GB: jax may hold 10.1 GiB, 0.9 of 11.2" in said
    assert "to have XLA compile the programs: pip install 'jax[cuda13]'" in said and "not measured on a GPU" in said
    assert "does not fit: train needs 17.3 GiB: lower learner.rows or learner.row_tokens, set model.remat=full" in said
    found = planned.examine_gpu(PRESETS["qwen3_0p6b_24gb"], cards.card(None, "80GB"), compiles=False, say=print)
    assert found["memory_by_phase"]["train"] == found["peak_bytes"] and found["todo"] is None
    assert plan.format_gpu(found).endswith("  fits: train needs 17.3 GiB, 26% of what jax may hold")


def test_a_cold_start_of_the_whole_model_is_said_not_to_be_planned(monkeypatch, capsys):
    monkeypatch.setattr(plan, "on_gpu", lambda config, card, say: {"fits": True})
    words = ["plan", str(CONFIGS / "quickstart.py"), "--memory", "80GB", "--json"]
    for more, said in (([], False), (["model.lora.rank=4"], True), (["model.lora.rank=4", "sft.whole=false"], False)):
        assert cli.main([*words, *more]) == 0
        assert ("plan it too, with model.lora.rank=0" in capsys.readouterr().err) == said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "wanted either --topology, of TPUs, or --gpu or --memory, of one GPU"),
        (("--gpu", "h100", "--topology", "v5e:4x4"), "wanted either --topology"),
        (("--gpu", "h100", "--price", "1"), "no time is estimated for a GPU"),
    ],
)
def test_what_cannot_be_planned_is_one_line(uncompiled, capsys, more, said):
    assert cli.main(["plan", str(CONFIGS / "gpu/cards.py:qwen3_0p6b_24gb"), *more]) == 2
    assert said in capsys.readouterr().err


def test_a_mesh_of_several_is_refused_with_the_one_that_would_do():
    several = replace(PRESETS["qwen3_0p6b_24gb"], mesh=Mesh(fsdp=4))
    with pytest.raises(ValueError, match="is 4 chips, and one GPU has 1: set mesh.fsdp=1$"):
        planned.examine_gpu(several, cards.CARDS["h100"], compiles=False, say=print)


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("_24gb")])
def test_xla_s_gpu_compiler_allocates_about_what_the_arrays_say(name):
    card = cards.CARDS[SMALLEST["24gb"]]
    found = plan.on_gpu(PRESETS[name], card, say=print)
    arrays = planned.examine_gpu(PRESETS[name], card, compiles=False, say=print)
    assert found["compiled"] and found["fits"]
    assert 0.85 < found["peak_bytes"] / arrays["peak_bytes"] < 1.02
    assert asdict(card)["memory_bytes"] == found["memory_bytes"]
