"""Gemma 3 beside transformers (`make test-peers`): what was sampled, and the text of a model with a vision tower.

Exports that transformers loads, kept logits and a kept gradient are in test_hf.py.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from rollouts import SETTINGS, WORDS, flat, random_params, roll, words_env, world
from test_gemma import CFG, learned

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for benchmarks/

from benchmarks.interleave import PEER_PYTHON
from qr_jax.lab import hf_folder
from qr_jax.models import decoder, hf
from qr_jax.rollout.engine import Engine

pytestmark = pytest.mark.peers

SAMPLED = """
import sys
import numpy as np, torch
from transformers import AutoModelForCausalLM

folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
assert type(model).__name__ == "Gemma3ForCausalLM"
found = {}
with torch.no_grad():
    for name, ids in np.load(f"{folder}/episodes.npz").items():
        logits = model(torch.tensor(ids[None].astype(np.int64))).logits[0, :-1] / 0.7
        found[name] = torch.log_softmax(logits, -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:]).long()].numpy()
np.savez(f"{folder}/found.npz", **found)
"""
VISION = """
import sys
import numpy as np, torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

text = dict(
    vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=7, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, sliding_window=8, max_position_embeddings=256, query_pre_attn_scalar=16,
    rope_scaling={"rope_type": "linear", "factor": 8.0}, pad_token_id=0,
)
vision = dict(
    model_type="siglip_vision_model", hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    image_size=28, patch_size=14,
)
config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=127)
torch.manual_seed(0)
model = Gemma3ForConditionalGeneration(config).float().eval()
with torch.no_grad():
    for name, weight in model.named_parameters():
        weight.copy_(torch.randn_like(weight) * (0.3 if "norm" in name else 0.15))
model.save_pretrained(sys.argv[1])
ids = np.random.default_rng(0).integers(1, 120, (2, 60))
with torch.no_grad():
    np.savez(f"{sys.argv[1]}/found.npz", ids=ids, logits=model(input_ids=torch.tensor(ids)).logits.numpy())
"""


def peers(script: str, folder: Path) -> dict[str, np.ndarray]:
    done = subprocess.run([str(PEER_PYTHON), "-c", script, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "found.npz"))


def test_what_is_sampled_and_learned_has_transformers_log_probabilities(tmp_path, record_property):
    """Of episodes with several turns, sampled through caches in chunks; windows of 6, at a temperature of .7."""
    params = random_params(CFG)
    groups = roll(
        Engine(CFG, WORDS, replace(SETTINGS, chunk=3, buckets=(64,))), params, world().train[:4], 4, env=words_env,
        temperature=0.7,
    )  # fmt: skip
    hf_folder.save(tmp_path, CFG, params, WORDS, "float32")
    episodes = flat(groups)
    np.savez(tmp_path / "episodes.npz", **{str(at): episode.ids_L for at, episode in enumerate(episodes)})
    theirs = peers(SAMPLED, tmp_path)
    gap = max(np.abs(one.logp_L[1:] - theirs[str(at)])[one.mask_L[1:]].max() for at, one in enumerate(episodes))
    record_property("largest gap of the sampler", float(gap))
    assert gap < 1e-4
    renamed = [
        [replace(one, logp_L=np.where(one.mask_L, np.append(0, theirs[str(4 * q + g)]), 0).astype(np.float32))
         for g, one in enumerate(group)] for q, group in enumerate(groups)
    ]  # fmt: skip
    for share in (False, True):
        gap = float(learned((1, 1, 1), share, renamed)[2]["gap_max"])
        record_property(f"largest gap of the learner, share_prefixes={share}", gap)
        assert gap < 1e-4


def test_the_text_of_a_model_with_a_vision_tower_has_transformers_logits(tmp_path, record_property):
    """Its config.json and its tensors' names are those that the peers' transformers writes."""
    theirs = peers(VISION, tmp_path)
    cfg, params = hf.load(tmp_path)
    assert cfg.sliding == (True,) * 5 + (False, True) and cfg.query_scalar == 16
    ids_NL = jnp.asarray(theirs["ids"])
    position_NL = jnp.broadcast_to(jnp.arange(60)[None], ids_NL.shape)
    hidden_NLD = decoder.forward(cfg, params, ids_NL, position_NL, jnp.ones_like(ids_NL))
    gap = np.abs(np.asarray(decoder.logits(cfg, params, hidden_NLD)) - theirs["logits"]).max()
    record_property("largest gap of the logits", float(gap))
    assert np.abs(theirs["logits"]).max() > 2 and gap < 1e-4
