"""Tokens are drawn as often as they are probable, by key and position alone, inside top-p and top-k."""

import jax
import numpy as np
import pytest

from qr_jax.rollout import decode
from qr_jax.rollout.sampling import Sampling, block_size, choose, restrict

LOGP = np.log(np.array([[0.4, 0.1, 0.3, 0.2]], np.float32))


def episode_keys(count: int) -> np.ndarray:
    zeros = np.zeros(count, np.uint32)
    return np.asarray(decode.episode_keys(*np.uint32([0, 0, 0]), zeros, np.arange(count, dtype=np.uint32)))


@pytest.mark.parametrize(
    ("top_p", "top_k", "kept"),
    [
        (1.0, 0, [0, 1, 2, 3]),
        (1.0, 2, [0, 2]),
        (0.39, 0, [0]),
        (0.5, 0, [0, 2]),
        (0.71, 0, [0, 2, 3]),
        (0.55, 2, [0]),  # of what top_k leaves, 0.4 / 0.7 = 0.571 is the first's
        (0.6, 2, [0, 2]),
        (1.0, 4, [0, 1, 2, 3]),
        (1e-46, 0, [0]),  # 0 in float32
    ],
)
def test_top_p_and_top_k_by_hand(top_p, top_k, kept):
    sampling = Sampling(top_p, top_k)
    assert np.flatnonzero(np.isfinite(np.asarray(restrict(LOGP, sampling))[0])).tolist() == kept
    column_VS = np.tile(LOGP.T, (1, 2000))
    choice = choose(column_VS, episode_keys(2000), np.zeros(2000, np.int32), np.float32(1), sampling)
    assert sorted(set(np.asarray(choice.token_S).tolist())) == kept
    # what is reported is the distribution before the cut
    np.testing.assert_allclose(choice.logp_S, LOGP[0][np.asarray(choice.token_S)], atol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("vocab", [4, 12, 7])  # blocks of 2, of 3 or 4, and of 1 (a prime)
def test_tokens_are_drawn_as_often_as_they_are_probable(vocab):
    draws = 20_000
    weight_V = np.arange(1, vocab + 1, dtype=np.float32) ** 2
    column_VS = np.tile(np.log(weight_V)[:, None], (1, draws))
    choice = choose(column_VS, episode_keys(draws), np.zeros(draws, np.int32), np.float32(2))
    flattened_V = np.sqrt(weight_V) / np.sqrt(weight_V).sum()  # temperature 2
    share_V = np.bincount(choice.token_S, minlength=vocab) / draws
    np.testing.assert_allclose(share_V, flattened_V, atol=4 * np.sqrt(0.25 / draws))
    np.testing.assert_allclose(choice.logp_S, np.log(flattened_V)[np.asarray(choice.token_S)], atol=1e-5)


def test_a_choice_hangs_on_its_key_and_position_and_not_on_its_slot():
    logits_VS = np.asarray(jax.random.normal(jax.random.key(1), (512, 6)))
    key_S2, position_S = episode_keys(6), np.arange(6, dtype=np.int32)
    whole = choose(logits_VS, key_S2, position_S, np.float32(1))
    order = [4, 1, 5]
    part = choose(logits_VS[:, order], key_S2[order], position_S[order], np.float32(1))
    assert np.array_equal(np.asarray(whole.token_S)[order], part.token_S)
    later = [choose(logits_VS, key_S2, position_S + n, np.float32(1)).token_S for n in range(8)]
    assert len({tuple(np.asarray(tokens).tolist()) for tokens in later}) == 8


@pytest.mark.thorough
def test_at_temperature_0_the_first_of_the_largest_logits_is_taken():
    logits_VS = np.zeros((16, 2), np.float32)
    logits_VS[[5, 6, 13], 0] = 3
    logits_VS[[15], 1] = 1e-6
    choice = choose(logits_VS, episode_keys(2), np.zeros(2, np.int32), np.float32(0))
    assert choice.token_S.tolist() == [5, 15] and choice.margin_S[0] == 0
    np.testing.assert_allclose(choice.logp_S[0], 3 - np.log(3 * np.exp(3) + 13), atol=1e-6)


@pytest.mark.thorough
def test_the_margin_is_the_smaller_lead_of_block_and_token():
    logits_VS = np.log(np.array([[0.4], [0.3], [0.2], [0.1]], np.float32))  # blocks (.4, .3) and (.2, .1)
    assert block_size(4) == 2
    choice = choose(logits_VS, episode_keys(1), np.zeros(1, np.int32), np.float32(0))
    np.testing.assert_allclose(choice.margin_S, np.log(0.4 / 0.3), atol=1e-6)
    assert choose(logits_VS[:1], episode_keys(1), np.zeros(1, np.int32), np.float32(1)).margin_S[0] == np.inf


def test_blocks_are_near_the_root_of_the_vocabulary():
    assert [block_size(vocab) for vocab in (49152, 151936, 434, 13)] == [256, 128, 14, 1]
