"""Operations and bytes by shape, counted by hand on a model small enough for it."""

import pytest

from qr_jax.models import costs, families
from qr_jax.models.families import ModelConfig

# Two layers of width 8: q 8x(2x4), k and v 8x4, o (2x4)x8, three MLP matrices of 8x16: 64 + 32 + 32 + 64 + 384 = 576.
CFG = ModelConfig(10, 8, 2, 2, 1, 4, 16, context_tokens=64)


def test_matrix_parameters_leave_out_embedding_head_and_norms():
    assert costs.matrix_parameters(CFG) == 2 * 576
    assert costs.parameter_count(CFG) == 2 * 576 + 10 * 8 + 2 * 2 * 8 + 8


def test_training_flops_by_hand():
    # An episode of 3 tokens: 6 pairs, each 2 * 4 operations a head for the score and as many for the value, in
    # 2 heads and 2 layers; two of its tokens are predicted, each 2 * 10 * 8 operations of the head.
    forward = 2 * 1152 * 3 + 4 * 2 * 2 * 4 * 6 + 2 * 10 * 8 * 2
    assert costs.training_flops(CFG, tokens=3, pairs=6, predicted=2) == 3 * forward
    assert costs.training_flops(CFG, tokens=3, pairs=6, predicted=2, forwards=1) == 4 * forward


def test_a_large_model_costs_about_six_operations_a_parameter_and_token():
    cfg, tokens = families.PRESETS["qwen3_1p7b"], 1024
    found = costs.training_flops(cfg, tokens=tokens, pairs=tokens * (tokens + 1) // 2, predicted=tokens)
    assert found / tokens == pytest.approx(6 * costs.parameter_count(cfg), rel=0.05)


def test_decoding_bytes_by_hand():
    # 3 steps read 1272 parameters each; 50 positions of keys and values, 4 numbers each in 2 layers.
    assert costs.parameter_count(CFG) == 1272
    assert costs.decoding_bytes(CFG, steps=3, positions=50, item_bytes=2) == 2 * (3 * 1272 + 50 * 2 * 2 * 4)


def test_an_embedding_that_is_not_the_head_is_not_read():
    untied = ModelConfig(10, 8, 2, 2, 1, 4, 16, context_tokens=64, tied=False)
    assert costs.decoding_bytes(untied, steps=1, positions=0, item_bytes=4) == 4 * 1272
