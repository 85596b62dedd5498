"""PEFT's own library and ours: one adapter, either's folder, the same logits and the same gradient.

Its Python has torch, which ours has not: `make test-peers` makes it, and runs this file.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1].parent))  # for benchmarks/

import rollouts
from test_gemma import CFG as GEMMA

from benchmarks.interleave import PEER_PYTHON
from qr_jax import config
from qr_jax.lab import hf_folder
from qr_jax.models import decoder, families, hf, lora, peft_folder

IDS = np.arange(24).reshape(2, 12) % 400 + 7
SHAPES = {
    "qwen3": families.ModelConfig(434, 64, 3, 4, 2, 16, 96, 512, qk_norm=True),
    "qwen2": families.ModelConfig(434, 64, 2, 4, 2, 16, 96, 512, qkv_bias=True, tied=False),
    "llama": families.ModelConfig(434, 48, 2, 6, 3, 8, 96, 512),
    "gemma3": replace(GEMMA, vocab=434),
    "gemma3, a vision tower beside it": replace(GEMMA, vocab=434),
}
# TEXT WHOLE: the text model in folder TEXT with a vision tower beside it, as Gemma 3's are from 4B on, into WHOLE.
WITH_VISION = """
import sys
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration

text = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
cfg = Gemma3Config(text.config, {**tower, "image_size": 28, "patch_size": 14}, mm_tokens_per_image=4)
whole = Gemma3ForConditionalGeneration(cfg)
print(whole.model.language_model.load_state_dict(text.model.state_dict()))
whole.save_pretrained(sys.argv[2])
"""
# BASE IDS WHAT: logits of the adapter in WHAT, or of a new one that is saved there; float32, printed as JSON. The
# gradient of the mean cross-entropy of each next id joins it as the adapter WHAT/gradient.
SCRIPT = """
import json, os, sys
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

base, ids, what, settings = sys.argv[1], torch.tensor(json.loads(sys.argv[2])), sys.argv[3], json.loads(sys.argv[4])
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
if os.path.isdir(what):
    model = PeftModel.from_pretrained(model, what).eval()
else:
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **settings)).eval()
    model.save_pretrained(what)
with torch.no_grad(), model.disable_adapter():
    without = model(ids).logits
adapters = {name: a.requires_grad_() for name, a in model.named_parameters() if "lora_" in name}
logits = model(ids).logits
torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
for a in adapters.values():  # a vision tower's have no gradient
    a.data = torch.zeros_like(a) if a.grad is None else a.grad
model.save_pretrained(os.path.join(what, "gradient"))
print(json.dumps({"logits": logits.tolist(), "without": without.tolist()}))
"""


def theirs(base: Path, what: Path, **settings) -> dict[str, np.ndarray]:
    said = by_their_python(SCRIPT, base, json.dumps(IDS.tolist()), what, json.dumps(settings))
    return {name: np.array(values) for name, values in json.loads(said.splitlines()[-1]).items()}


def by_their_python(script: str, *words: Path | str) -> str:
    done = subprocess.run([str(PEER_PYTHON), "-c", script, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ours(cfg, base, adapters, settings) -> jax.Array:
    whole = lora.whole(adapters, base, settings)
    at = np.broadcast_to(np.arange(IDS.shape[1]), IDS.shape)
    return decoder.logits(cfg, whole, decoder.forward(cfg, whole, IDS, at, np.ones_like(IDS)))


def our_gradient(cfg, base, adapters, settings) -> dict[str, jax.Array]:
    """The gradient of the mean cross-entropy of each next id, as SCRIPT's."""

    def loss(adapters):
        nats = -jax.nn.log_softmax(ours(cfg, base, adapters, settings)[:, :-1])
        return jnp.take_along_axis(nats, IDS[:, 1:, None], axis=2).mean()

    return jax.grad(loss)(adapters)


def assert_same(cfg, base, adapters, settings, found, folder) -> None:
    """Logits within 1e-4 of what PEFT found, and the gradient of each adapter within 1e-5 of that adapter's largest."""
    assert np.abs(found["logits"] - found["without"]).max() > 0.1
    np.testing.assert_allclose(ours(cfg, base, adapters, settings), found["logits"], atol=1e-4, rtol=0)
    theirs = peft_folder.load(folder / "gradient", cfg, settings, lora.init(cfg, settings, jax.random.key(0)))
    gradient = our_gradient(cfg, base, adapters, settings)
    adapted = [name for name in theirs if np.any(adapters[f"{name[:-1]}b"])]  # matrices that PEFT was asked to adapt
    assert gradient.keys() == theirs.keys() and adapted
    for name in adapted:
        wanted = theirs[name]
        largest = np.abs(wanted).max()
        assert largest > 1e-4, name
        np.testing.assert_allclose(gradient[name], wanted, atol=1e-5 * largest, rtol=0, err_msg=name)


@pytest.fixture(scope="module", params=SHAPES)
def model(request, tmp_path_factory):
    """A small model of a family, and its Hugging Face folder."""
    cfg, folder = SHAPES[request.param], tmp_path_factory.mktemp(request.param)
    params = rollouts.random_params(cfg)
    hf_folder.save(folder, cfg, params, rollouts.WORDS, "float32")
    if "vision" in request.param:
        by_their_python(WITH_VISION, folder, folder / "whole")
        folder = folder / "whole"
        assert hf.has_vision(folder)
    return cfg, params, folder


@pytest.mark.peers
@pytest.mark.parametrize("layers", ["attention", "mlp", "all-linear"])
def test_peft_computes_with_our_folder_what_we_do(model, layers, tmp_path):
    cfg, base, folder = model
    settings = config.Lora(rank=4, alpha=6.0, layers=layers)
    adapters = lora.init(cfg, settings, jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), len(adapters)))
    adapters = {name: a + 0.1 * jax.random.normal(next(keys), a.shape) for name, a in adapters.items()}
    said = {"base": None, "base_sha256": "0" * 64, "compute": "float32", "has_vision": hf.has_vision(folder)}
    peft_folder.save(tmp_path / "a", cfg, settings, adapters, **said)
    found = theirs(folder, tmp_path / "a")
    assert_same(cfg, base, adapters, settings, found, tmp_path / "a")


@pytest.mark.peers
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["down_proj", "up_proj", "gate_proj"]])
def test_we_compute_with_pefts_folder_what_it_does(model, targets, tmp_path):
    cfg, base, folder = model
    found = theirs(folder, tmp_path / "a", r=4, lora_alpha=16, target_modules=targets)
    settings = config.Lora(rank=4, alpha=16.0)
    peft_folder.check(tmp_path / "a", cfg, settings, str(folder))
    with pytest.raises(ValueError, match="has adapters of rank 4, alpha 16, .* here rank 5, alpha 16"):
        peft_folder.check(tmp_path / "a", cfg, replace(settings, rank=5), str(folder))
    adapters = peft_folder.load(tmp_path / "a", cfg, settings, lora.init(cfg, settings, jax.random.key(0)))
    assert_same(cfg, base, adapters, settings, found, tmp_path / "a")
