"""The model that all contenders run: Qwen3's architecture at SmolLM2-135M's sizes, weights from a seed. Only numpy.

Rope's theta is 1e6 because qwen3 of Tunix 0.1.6 and 0.1.7 takes no other (`apply_rope` is called without the config's).
"""

from collections.abc import Iterator

import numpy as np

LAYERS, WIDTH, HEADS, KV_HEADS, HEAD_DIM, MLP, VOCAB = 30, 576, 9, 3, 64, 1536, 49152
ROPE_THETA, NORM_EPS = 1_000_000, 1e-5
SEED = 20


def tensors() -> Iterator[tuple[str, np.ndarray]]:
    """Hugging Face names and float32 tensors, matrices [outputs, inputs] of variance 1 / inputs, norms near 1."""
    generator = np.random.Generator(np.random.Philox(SEED))

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)

    def scale(size: int) -> np.ndarray:
        return 1 + np.float32(0.1) * generator.standard_normal(size, np.float32)

    yield "model.embed_tokens.weight", normal(VOCAB, WIDTH)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", scale(WIDTH)
        yield at + "self_attn.q_proj.weight", normal(HEADS * HEAD_DIM, WIDTH)
        yield at + "self_attn.k_proj.weight", normal(KV_HEADS * HEAD_DIM, WIDTH)
        yield at + "self_attn.v_proj.weight", normal(KV_HEADS * HEAD_DIM, WIDTH)
        yield at + "self_attn.o_proj.weight", normal(WIDTH, HEADS * HEAD_DIM)
        yield at + "self_attn.q_norm.weight", scale(HEAD_DIM)
        yield at + "self_attn.k_norm.weight", scale(HEAD_DIM)
        yield at + "post_attention_layernorm.weight", scale(WIDTH)
        yield at + "mlp.gate_proj.weight", normal(MLP, WIDTH)
        yield at + "mlp.up_proj.weight", normal(MLP, WIDTH)
        yield at + "mlp.down_proj.weight", normal(WIDTH, MLP)
    yield "model.norm.weight", scale(WIDTH)


def check_ids() -> np.ndarray:
    """int32 [2, 192]: what the contenders' logits are compared on."""
    return np.random.Generator(np.random.Philox(SEED + 1)).integers(3, VOCAB, (2, 192)).astype(np.int32)


def check_answer(logits: np.ndarray) -> dict[str, list[float]]:
    """What `logits` [2, 192, vocabulary] of `check_ids()` say: every 16th at the ends, and all log-probabilities."""
    logits = np.asarray(logits, np.float64)
    top = logits.max(-1, keepdims=True)
    logp = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    taken = np.take_along_axis(logp[:, :-1], check_ids()[:, 1:, None], axis=-1)
    return {"logits": logits[:, -1, ::16].ravel().tolist(), "logps": taken.ravel().tolist()}
