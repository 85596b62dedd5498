"""Models as others publish them, made small, go through a whole run: tokenizer, weights, cold start, two steps."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import tokenizers
from killed_run import tiny
from test_gemma import CFG as GEMMA
from test_gemma import END, EOS, tokenizer_folder
from test_gguf import tiny_metadata, write
from test_tokenizer import sentencepiece

from qr_jax.config import Lora, Mesh, Model, use
from qr_jax.lab import hf_folder
from qr_jax.logging import metrics_writer
from qr_jax.models import decoder, hf, layout
from qr_jax.models.families import ModelConfig
from qr_jax.train import train

# One blank before and after the data: the prompts of such small vocabularies are bytes, and long.
SHORT = {"prompt": "{question} ", "passage": "{text} ", "think": False}


def two_steps(model, tmp_path, *, gap=1e-3, lora=None, compute="float32", **changes):
    """Train two steps; the sampler's log-probabilities are within `gap` nats of the learner's."""
    settings = replace(tiny(tmp_path), **changes)
    settings = replace(
        settings,
        model=Model(name=str(model), vocab_block=512, compute=compute, lora=lora or Lora()),
        env=use("search_r1", max_turns=2, **SHORT),
        reward=use("odd_tokens.odd_tokens"),
        pool=replace(settings.pool, min_signal=1),
        rollout=replace(settings.rollout, context_tokens=512, turn_tokens=64, observation_tokens=128, search_k=1),
        learner=replace(settings.learner, row_tokens=512, keep_zero_variance=True),
        sft=replace(settings.sft, steps=1, traces=4, max_tokens=512),
        evaluation=replace(settings.evaluation, questions=2),
        train=replace(settings.train, steps=2),
    )
    train(settings, tmp_path / "run", say=lambda text: None)
    rows = metrics_writer.read(tmp_path / "run")
    assert len(rows) == 2 and rows[-1]["learner/updates"] >= 1
    assert all(row["sampler_gap/max"] < gap for row in rows if row.get("sampler_gap/max") is not None)
    return rows


@pytest.mark.thorough
def test_a_sentencepiece_like_folder_of_mistral_trains(tmp_path):
    folder = tmp_path / "model"
    cfg = ModelConfig(512, 32, 2, 4, 2, 8, 64, context_tokens=1024, tied=False)
    sentencepiece("BPE", "Prepend").save(str(tmp_path / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(described))
    hf_folder.save(folder, cfg, decoder.init(cfg, jax.random.key(0)), hf.load_tokenizer(tmp_path), "float32")
    written = json.loads((folder / "config.json").read_text())
    of = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None}
    (folder / "config.json").write_text(json.dumps(written | of))
    two_steps(folder, tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "how", [{}, {"lora": Lora(rank=4), "compute": "bfloat16", "gap": 0.25}], ids=["whole", "adapters"]
)
def test_a_gemma_3_folder_trains_on_eight_devices(how, tmp_path):
    """Its windows of 16 are shorter than a prompt; four query heads over two devices, the one of keys on both.

    Adapters lie beside the matrices of bfloat16 rollouts.
    """
    named, size = tokenizer_folder(tmp_path / "tokenizer", beyond=True)
    cfg = replace(GEMMA, vocab=size, context_tokens=1024, window=16)
    tokenizer = hf.load_tokenizer(named)
    hf_folder.save(tmp_path / "model", cfg, decoder.init(cfg, jax.random.key(0)), tokenizer, "float32")
    assert hf.load_tokenizer(tmp_path / "model").eos_ids == tokenizer.eos_ids == (EOS, END)
    assert hf.shape(tmp_path / "model") == cfg
    two_steps(tmp_path / "model", tmp_path, mesh=Mesh(data=2, fsdp=2, tensor=2, devices=8, rollout="slots"), **how)


@pytest.mark.thorough
def test_a_q6_k_gguf_file_trains(tmp_path):
    """Blocks of 256 weights packed by hand: random 6-bit weights, scales of one, and a whole scale that makes them
    about as large as a fresh model's."""
    cfg = ModelConfig(320, 256, 2, 4, 2, 64, 256, context_tokens=1024, norm_eps=1e-5)
    rng, tensors = np.random.default_rng(0), {}
    from qr_jax.lab import gguf

    theirs = gguf.names("llama", cfg)
    for name, shape in layout.expected(cfg).items():
        if len(shape) == 1:
            tensors[theirs[name]] = (shape, 0, np.ones(shape, np.float32).tobytes())
            continue
        blocks = int(np.prod(shape)) // 256
        packed = rng.integers(0, 256, (blocks, 192), dtype=np.uint8)
        scale = np.full((blocks, 1), 1e-3, "<f2").view(np.uint8)
        raw = np.concatenate([packed, np.ones((blocks, 16), np.uint8), scale], axis=1)
        tensors[theirs[name]] = (shape, 14, raw.tobytes())
    metadata = tiny_metadata() | {
        "llama.embedding_length": 256, "llama.feed_forward_length": 256, "llama.context_length": 1024,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.ggml.tokens": [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "<|im_end|>"],
        "tokenizer.ggml.merges": [],
    }  # fmt: skip
    rows = two_steps(write(tmp_path / "tiny.gguf", metadata, tensors), tmp_path)
    assert rows[0]["rollout/entropy"] > 1
