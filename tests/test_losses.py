"""The policy loss and the terms beside it: clipping, KL estimates and importance weights, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qr_jax.learning import importance, kl
from qr_jax.losses.clip import clip
from qr_jax.losses.llds import llds


def row(*values):
    return jnp.array([values], jnp.float32)


def loss_at(ratios, advantages, **settings):
    old_logp_NL = jnp.full((1, len(ratios)), -1.0)
    return clip(old_logp_NL + jnp.log(row(*ratios)), old_logp_NL, row(*advantages), row(*ratios) > 0, **settings)


def slope_at(ratios, advantages, **settings):
    """d loss / d logp: -A ratio where nothing is cut, 0 where it is."""
    old_logp_NL = jnp.full((1, len(ratios)), -1.0)
    arguments = old_logp_NL, row(*advantages), row(*ratios) > 0
    return jax.grad(lambda logp_NL: clip(logp_NL, *arguments, **settings)[0].sum())(old_logp_NL + jnp.log(row(*ratios)))


def test_clip_by_hand():
    ratios, advantages = (1.0, 1.5, 0.5, 0.5, 1.5, 4.0, 1.0), (2.0, 2.0, 2.0, -2.0, -2.0, -2.0, -1.0)
    loss_NL, metrics = loss_at(ratios, advantages)
    np.testing.assert_allclose(loss_NL, [[-2.0, -2.56, -1.0, 1.6, 3.0, 6.0, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(metrics["ratio"], [ratios], rtol=1e-6)
    assert metrics["clip_high"].tolist() == [[0, 1, 0, 0, 0, 0, 0]]
    assert metrics["clip_low"].tolist() == [[0, 0, 0, 1, 0, 0, 0]]
    assert metrics["dual"].tolist() == [[0, 0, 0, 0, 0, 1, 0]]


def test_a_cut_token_has_no_gradient_and_the_others_have_the_policy_gradient():
    ratios, advantages = (1.0, 1.5, 0.5, 0.5, 1.5, 4.0, 1.0), (2.0, 2.0, 2.0, -2.0, -2.0, -2.0, 0.0)
    np.testing.assert_allclose(slope_at(ratios, advantages), [[-2.0, 0, -1.0, 0, 3.0, 0, 0]], rtol=1e-6)


def test_without_the_dual_clip_a_bad_token_grows_without_bound():
    loss_NL, metrics = loss_at((4.0,), (-2.0,), dual=None)
    np.testing.assert_allclose(loss_NL, [[8.0]], rtol=1e-6)
    assert metrics["dual"].tolist() == [[0]]


def test_the_log_ratio_is_bounded():
    loss_NL, _ = clip(row(0.0), row(-100.0), row(-1.0), row(1.0) > 0, dual=None)
    np.testing.assert_allclose(loss_NL, [[np.exp(20.0)]], rtol=1e-5)


def test_a_non_finite_log_probability_off_the_mask_reaches_neither_loss_nor_gradient():
    mask_NL = jnp.array([[True, False, False]])
    logp_NL, old_logp_NL, adv_NL = row(-1.0, -jnp.inf, jnp.nan), row(-1.0, -jnp.inf, -1.0), row(1.0, 1.0, 1.0)

    def total(logp_NL):
        return clip(logp_NL, old_logp_NL, adv_NL, mask_NL)[0].sum()

    assert total(logp_NL) == -3.0  # ratio 1 off the mask
    assert jax.grad(total)(logp_NL).tolist() == [[-1.0, 0.0, 0.0]]


@pytest.mark.parametrize("settings", [{"low": -0.1}, {"low": 1.5}, {"high": -1.0}, {"dual": 1.0}])
def test_clip_refuses_bounds_that_make_no_sense(settings):
    with pytest.raises(ValueError, match=str(*settings.values())):
        loss_at((1.0,), (1.0,), **settings)


def test_kl_estimates_by_hand():
    logp_NL, ref_logp_NL = row(-1.0, -1.0, -2.0), row(-1.0, -1.5, -1.0)
    np.testing.assert_allclose(kl.k1(logp_NL, ref_logp_NL), [[0, 0.5, -1]])
    np.testing.assert_allclose(kl.k2(logp_NL, ref_logp_NL), [[0, 0.125, 0.5]])
    np.testing.assert_allclose(kl.k3(logp_NL, ref_logp_NL), [[0, 0.106531, 0.718282]], atol=1e-6)  # e^d - d - 1
    assert kl.k3(row(-100.0), row(0.0)).tolist() == [[10.0]]
    np.testing.assert_allclose(kl.k3(row(0.0), row(-100.0)), [[10.0]])  # d = -20: value 19, bounded by 10
    assert sorted(kl.ESTIMATES) == ["k1", "k2", "k3"]


def test_expected_values_and_gradients_of_the_kl_estimates_are_what_the_docstring_says():
    """Exact expectations over a distribution of three tokens, sampled from the policy."""
    logits_V, reference_V = jnp.array([0.5, -0.2, 0.1]), jax.nn.log_softmax(jnp.array([0.0, 0.3, -0.4]))
    sampled_V = jax.nn.softmax(logits_V)

    def mean_of(estimate):
        return lambda logits_V: jnp.sum(sampled_V * estimate(jax.nn.log_softmax(logits_V)[None], reference_V[None])[0])

    def reverse(logits_V):
        return jnp.sum(jax.nn.softmax(logits_V) * (jax.nn.log_softmax(logits_V) - reference_V))

    def forward(logits_V):
        return jnp.sum(jnp.exp(reference_V) * (reference_V - jax.nn.log_softmax(logits_V)))

    for estimate in (kl.k1, kl.k3):
        np.testing.assert_allclose(mean_of(estimate)(logits_V), reverse(logits_V), atol=1e-6)
    np.testing.assert_allclose(jax.grad(mean_of(kl.k1))(logits_V), np.zeros(3), atol=1e-6)
    np.testing.assert_allclose(jax.grad(mean_of(kl.k2))(logits_V), jax.grad(reverse)(logits_V), atol=1e-6)
    np.testing.assert_allclose(jax.grad(mean_of(kl.k3))(logits_V), jax.grad(forward)(logits_V), atol=1e-6)


def test_importance_weights_by_hand():
    rollout_logp_NL = row(-1.0, -1.0, -1.0, -1.0)
    old_logp_NL = rollout_logp_NL + jnp.log(row(1.0, 0.25, 1.5, 8.0))
    np.testing.assert_allclose(importance.ratio(old_logp_NL, rollout_logp_NL), [[1, 0.25, 1.5, 8]], rtol=1e-6)
    np.testing.assert_allclose(importance.truncate(old_logp_NL, rollout_logp_NL), [[1, 0.25, 1.5, 2]], rtol=1e-6)
    np.testing.assert_allclose(importance.icepop(old_logp_NL, rollout_logp_NL), [[1, 0, 1.5, 0]], rtol=1e-6)
    np.testing.assert_allclose(importance.icepop(old_logp_NL, rollout_logp_NL, low=0.2, high=9.0)[0, 3], 8, rtol=1e-6)


@pytest.mark.parametrize("weights", [importance.truncate, importance.icepop])
def test_importance_weights_carry_no_gradient(weights):
    slope_NL = jax.grad(lambda old_logp_NL: weights(old_logp_NL, row(-1.2, -0.7)).sum())(row(-1.0, -1.0))
    assert slope_NL.tolist() == [[0, 0]]


def test_llds_prices_the_fall_of_right_episodes_alone():
    """Three episodes of two tokens: right and fallen in all, right and risen in all, wrong and fallen."""
    logp_NL = jnp.array([[-1.5, -0.9], [-1.2, -0.5], [-2.0, -2.0]], jnp.float32)
    old_logp_NL, adv_NL = jnp.full((3, 2), -1.0), jnp.array([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
    mask_NL = jnp.ones((3, 2), bool)
    plain_NL, _ = clip(logp_NL, old_logp_NL, adv_NL, mask_NL)
    loss_NL, metrics = llds(logp_NL, old_logp_NL, adv_NL, mask_NL, weight=0.2)
    np.testing.assert_allclose(loss_NL - plain_NL, [[0.1, 0], [0, 0], [0, 0]], atol=1e-6)
    assert metrics["fallen"].tolist() == [[1, 0], [0, 0], [0, 0]]
    same_NL, _ = llds(old_logp_NL, old_logp_NL, adv_NL, mask_NL)
    np.testing.assert_array_equal(same_NL, clip(old_logp_NL, old_logp_NL, adv_NL, mask_NL)[0])
    masked_NL = mask_NL.at[0, 0].set(False)  # what is not sampled neither pays nor decides
    assert not llds(logp_NL, old_logp_NL, adv_NL, masked_NL)[1]["fallen"].any()
