"""What a card says of serving and publishing is what lies in its folder: a whole model, or adapters alone."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from killed_run import tiny

from qr_jax import assemble, config
from qr_jax.lab import exporting
from qr_jax.models import lora, peft_folder


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return assemble.agent(tiny(tmp_path_factory.mktemp("words")))


def line(card, command):
    """The words of the card's line that begins so."""
    return shlex.split(next(text for text in card.splitlines() if text.startswith(command)))


def options(words):
    return {name: value for name, value in zip(words, words[1:], strict=False) if name.startswith("--")}


@pytest.mark.parametrize(("dtype", "item"), [("bfloat16", 2), ("float32", 4)])
def test_a_whole_model_s_card_has_its_own_sizes_and_limits(words, tmp_path, dtype, item):
    folder = exporting.write(tmp_path / "my model", tiny(tmp_path), words, words.weights(), None, dtype=dtype)
    card = (folder / "README.md").read_text()
    told = line(card, "vllm serve")
    assert told[:3] == ["vllm", "serve", "."]
    context = json.loads((folder / "agent.json").read_text())["limits"]["context_tokens"]
    wanted = {"--served-model-name": "my-model", "--dtype": dtype, "--max-model-len": str(context)}
    assert options(told) == wanted and context <= words.cfg.context_tokens
    cfg = words.cfg
    cache = 2 * cfg.layers * cfg.kv_heads * cfg.head_dim * context * item / 2**20
    assert f"and for {cache:,.1f} MiB of keys and values for each episode of {context} tokens" in card
    weights = (folder / "model.safetensors").stat().st_size
    assert f"1 file, {weights / 1e3:.2f} kB of weights" in card or f"1 file, {weights / 1e6:.2f} MB of weights" in card
    others = [path for path in folder.iterdir() if path.name != "README.md"]
    size = sum(path.stat().st_size for path in others)
    assert re.search(rf"{len(others)} files, ({size / 1e3:.2f} kB|{size / 1e6:.2f} MB) besides this card", card)
    request = json.loads(re.search(r"```json\n(\{.*add_special.*\})\n```", card)[1])
    assert request["stop"] == json.loads((folder / "agent.json").read_text())["stop"]
    assert "the prompt alone" in card and "LoRA" not in card and "--enable-lora" not in card and "adapters" not in card


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("rank", "room", "base"), [(4, 8, None), (8, 8, "Qwen/Qwen3-0.6B"), (65, 128, None), (513, None, None)]
)
def test_an_adapter_s_card_serves_it_on_its_base_and_not_by_itself(words, tmp_path, rank, room, base):
    settings = replace(tiny(tmp_path), model=config.Model("two_layer", lora=config.Lora(rank, layers="attention")))
    adapters = jax.tree.map(np.asarray, lora.init(words.cfg, settings.model.lora, jax.random.key(0)))
    folder = tmp_path / "adapter"
    peft_folder.save(
        folder, words.cfg, settings.model.lora, adapters, base=base, base_sha256="5" * 64, compute="bfloat16"
    )
    described = exporting.describe(settings, words.engine.chat)
    exporting._write_texts(folder, settings, described, None, dtype="float32")
    card = (folder / "README.md").read_text()
    if room is None:
        assert "vllm serve" not in card and "no room for ranks above 512" in card
    else:
        told = line(card, "vllm serve")
        assert told[2] == (base or "BASE") and "--enable-lora" in told and "--served-model-name" not in told
        found = options(told)
        assert (found["--max-lora-rank"], found["--lora-modules"]) == (str(room), "adapter=.")
        assert found["--dtype"] == "bfloat16"  # the base's
    size = (folder / "adapter_model.safetensors").stat().st_size
    assert f"{size / 1e3:.2f} kB of adapters" in card or f"{size / 1e6:.2f} MB of adapters" in card
    assert f"rank {rank}, alpha 32, on q_proj, k_proj, v_proj, o_proj" in card and "5" * 64 in card
    front = card.split("---")[1]
    assert "library_name: peft\n" in front and ("base_model_relation: adapter" in front) == (base is not None)
    assert (f"base_model: {base}\n" in front) == (base is not None)
    assert "play_with_transformers" not in card and "merged into these weights" not in card
    assert ("which is on no hub" in card) == (base is None)


def test_merged_adapters_are_said(words, tmp_path):
    settings = replace(tiny(tmp_path), model=config.Model("two_layer", lora=config.Lora(4)))
    folder = exporting.write(tmp_path / "hf", settings, words, words.weights(), None)
    card = (folder / "README.md").read_text()
    assert "Adapters of rank 4 were trained, and are merged into these weights." in card
    assert "--enable-lora" not in line(card, "vllm serve") and "library_name: transformers" in card


def test_the_hub_s_own_command_takes_the_line(words, tmp_path):
    folder = exporting.write(tmp_path / "hf", tiny(tmp_path), words, words.weights(), None)
    told = line((folder / "README.md").read_text(), "hf upload")
    assert told == ["hf", "upload", "YOUR_NAME/hf", ".", "--private"]
    for more, code in (([], 0), (["--no-such-option"], 2)):  # parsed, and nothing sent
        command = [sys.executable, "-m", "huggingface_hub.cli.hf", *told[1:], *more, "--help"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == code
