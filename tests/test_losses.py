"""The policy loss and the terms beside it: clipping, KL estimates and importance weights, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qr_jax import plugins
from qr_jax.config import use
from qr_jax.interfaces import EXAMPLE, LOSS_ARRAYS
from qr_jax.learner import importance, kl
from qr_jax.learner.losses.clip import clip
from qr_jax.methods.losses.cispo import cispo
from qr_jax.methods.losses.gspo import gspo
from qr_jax.methods.losses.gspo_token import gspo_token
from qr_jax.methods.losses.llds import llds
from qr_jax.methods.losses.sapo import sapo


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


@pytest.mark.thorough
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
    pair = rollout_logp_NL + jnp.log(row(1.0, 0.25, 1.5, 8.0)), rollout_logp_NL, row(1, 1, 1, 1) > 0
    np.testing.assert_allclose(importance.ratio(*pair), [[1, 0.25, 1.5, 8]], rtol=1e-6)
    np.testing.assert_allclose(importance.truncate(*pair), [[1, 0.25, 1.5, 2]], rtol=1e-6)
    np.testing.assert_allclose(importance.icepop(*pair), [[1, 0, 1.5, 0]], rtol=1e-6)
    np.testing.assert_allclose(importance.icepop(*pair, low=0.2, high=9.0)[0, 3], 8, rtol=1e-6)


def test_importance_weights_of_an_episode_by_hand():
    """Sampled tokens of ratios 2 and 8 (the third is an observation): product 16, geometric mean 4."""
    pair = jnp.log(row(2.0, 8.0, 5.0)), row(0.0, 0.0, 0.0), row(1, 1, 0) > 0
    np.testing.assert_allclose(importance.ratio(*pair, by="sequence"), [[16, 16, 16]], rtol=1e-6)
    np.testing.assert_allclose(importance.ratio(*pair, by="geometric"), [[4, 4, 4]], rtol=1e-6)
    np.testing.assert_allclose(importance.truncate(*pair, by="sequence", high=10.0), [[10, 10, 10]], rtol=1e-6)
    np.testing.assert_allclose(importance.icepop(*pair, by="geometric", high=5.0), [[4, 4, 4]], rtol=1e-6)
    assert importance.icepop(*pair, by="geometric", high=3.0).tolist() == [[0, 0, 0]]
    nothing = importance.ratio(row(-1.0), row(-2.0), row(0.0) > 0, by="geometric")
    assert nothing.tolist() == [[1]]


@pytest.mark.parametrize("weights", [importance.truncate, importance.icepop])
def test_importance_weights_carry_no_gradient(weights):
    mask_NL = row(1, 1) > 0
    slope_NL = jax.grad(lambda old_logp_NL: weights(old_logp_NL, row(-1.2, -0.7), mask_NL).sum())(row(-1.0, -1.0))
    assert slope_NL.tolist() == [[0, 0]]


@pytest.mark.thorough
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


def slope(loss, ratios, advantages, mask=None, **settings):
    """d loss / d logp, summed over the tokens; old log-probabilities are 0."""
    old_logp_NL, mask_NL = jnp.zeros((1, len(ratios))), row(*(mask or [1] * len(ratios))) > 0
    given = old_logp_NL, row(*advantages), mask_NL
    return jax.grad(lambda logp_NL: loss(logp_NL, *given, **settings)[0].sum())(jnp.log(row(*ratios)))


def value(loss, ratios, advantages, mask=None, **settings):
    old_logp_NL, mask_NL = jnp.zeros((1, len(ratios))), row(*(mask or [1] * len(ratios))) > 0
    return loss(jnp.log(row(*ratios)), old_logp_NL, row(*advantages), mask_NL, **settings)


def test_gspo_by_hand():
    """Ratios 2 and 8 and an observation: s = 4. A = 1 is cut at 1 + high, A = -1 is not."""
    three, seen = (2.0, 8.0, 99.0), (1, 1, 0)
    np.testing.assert_allclose(value(gspo, three, (1, 1, 1), seen, high=0.5)[0], [[-1.5] * 3], rtol=1e-6)
    loss_NL, metrics = value(gspo, three, (-1, -1, -1), seen, high=0.5)
    np.testing.assert_allclose(loss_NL, [[4] * 3], rtol=1e-6)
    assert not metrics["clip_high"].any() and not metrics["clip_low"].any()
    # of the two sampled tokens each has half of s in its gradient, from each of two losses
    for loss in (gspo, gspo_token):
        np.testing.assert_allclose(slope(loss, (2.0, 8.0), (-1, -1), high=0.5), [[4, 4]], rtol=1e-6)
        assert not slope(loss, (2.0, 8.0), (1, 1), high=0.5).any()


def test_gspo_token_gives_each_token_its_own_advantage():
    np.testing.assert_allclose(value(gspo_token, (2.0, 8.0), (-1, -3))[0], [[4, 12]], rtol=1e-6)
    np.testing.assert_allclose(slope(gspo_token, (2.0, 8.0), (-1, -3)), [[4, 12]], rtol=1e-6)


@pytest.mark.parametrize("loss", [gspo, gspo_token])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.0, 1.1, 4.0])
def test_gspo_of_an_episode_of_one_token_is_the_clipped_token_ratio(loss, advantage, ratio):
    bounds = {"low": 0.2, "high": 0.28}
    plain = value(clip, (ratio,), (advantage,), dual=None, **bounds)[0]
    np.testing.assert_allclose(value(loss, (ratio,), (advantage,), **bounds)[0], plain, rtol=1e-6)
    wanted = slope(clip, (ratio,), (advantage,), dual=None, **bounds)
    np.testing.assert_allclose(slope(loss, (ratio,), (advantage,), **bounds), wanted, rtol=1e-6)


def test_cispo_by_hand():
    """logp = log ratio; the ratio weighs it and has no gradient, so that a cut token still learns."""
    loss_NL, metrics = value(cispo, (2.0, 8.0, 0.5), (1, 1, -1))
    np.testing.assert_allclose(loss_NL, [[-2 * np.log(2), -5 * np.log(8), 0.5 * np.log(0.5)]], rtol=1e-6)
    assert metrics["clip_high"].tolist() == [[0, 1, 0]] and not metrics["clip_low"].any()
    np.testing.assert_allclose(slope(cispo, (2.0, 8.0, 0.5), (1, 1, -1)), [[-2, -5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(slope(cispo, (2.0, 8.0, 0.5), (1, 1, -1), low=0.0, high=0.0), [[-1, -1, 1]], rtol=1e-6)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_bounds_that_are_copied_from_trl_and_verl_as_the_page_says_give_their_losses(advantage):
    """TRL's cispo has epsilon_high itself for a bound, verl's has both about 1; TRL's delta bounds the ratio that is
    not clipped, and verl's clip_ratio_c the loss where A < 0."""
    ratios = (0.1, 0.5, 0.9, 1.0, 1.1, 1.5, 2.9, 5.0, 9.0)
    r_N, epsilon_high, delta, all_alike = np.array(ratios), 5.0, 3.0, [advantage] * len(ratios)
    trl_N = -advantage * np.minimum(r_N, epsilon_high)
    np.testing.assert_allclose(slope(cispo, ratios, all_alike, high=epsilon_high - 1)[0], trl_N, rtol=1e-5)
    verl_N = -advantage * np.clip(r_N, 1 - 0.2, 1 + 0.28)
    np.testing.assert_allclose(slope(cispo, ratios, all_alike, low=0.2, high=0.28)[0], verl_N, rtol=1e-5)
    ours_N = value(clip, ratios, all_alike, low=0.2, high=0.28, dual=delta)[0][0]
    clipped_N = np.clip(r_N, 0.8, 1.28) * advantage
    np.testing.assert_allclose(ours_N, -np.minimum(np.minimum(r_N, delta) * advantage, clipped_N), rtol=1e-5)
    larger_N = np.maximum(-advantage * r_N, -clipped_N)
    np.testing.assert_allclose(ours_N, np.minimum(larger_N, delta) if advantage < 0 else larger_N, rtol=1e-5)


def test_sapo_by_hand():
    """The gate is 2 / tau at ratio 1; at 1 + log(3) its sigmoid is 3/4 and its slope 4 * 3/4 * 1/4 of the ratio's."""
    at = 1 + np.log(3)
    loss_NL, metrics = value(sapo, (1.0, at), (1, 1))
    np.testing.assert_allclose(loss_NL, [[-2, -3]], rtol=1e-6)
    np.testing.assert_allclose(metrics["gate"], [[1, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(slope(sapo, (1.0, at), (1, 1)), [[-1, -0.75 * at]], rtol=1e-6)
    np.testing.assert_allclose(value(sapo, (1.0,), (-3,))[0], [[3 * 2 / 1.05]], rtol=1e-6)


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.05, 3.0])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_the_slope_of_sapo_at_ratio_1_is_that_of_the_ratio(tau, advantage):
    taus = {"tau_positive": tau, "tau_negative": tau}
    np.testing.assert_allclose(slope(sapo, (1.0,), (advantage,), **taus), [[-advantage]], rtol=1e-6)


def test_a_loss_that_learns_from_an_advantage_of_0_says_so():
    """Two tokens at half their old probability: what has a gradient where A is 0 declares ZERO_VARIANCE."""
    given = {name: row(-1.0, -2.0) for name in LOSS_ARRAYS} | {"adv_NL": row(0.0, 0.0), "mask_NL": row(1, 1) > 0}
    given |= {"old_logp_NL": row(-0.5, -1.5), "turn_NL": jnp.zeros((1, 2), jnp.int32)}
    given |= {"reward_N": jnp.ones(1)}
    for name in plugins.names("loss"):
        loss, takes = (
            plugins.bind("loss", use(name, **plugins.constants("loss", name).get(EXAMPLE, {}))),
            plugins.signature("loss", name).data,
        )
        slope_NL = jax.grad(
            lambda logp_NL, loss=loss, takes=takes: loss(
                **{key: array for key, array in (given | {"logp_NL": logp_NL}).items() if key in takes}
            )[0].sum()
        )(given["logp_NL"])
        declared = plugins.constants("loss", name).get("ZERO_VARIANCE", "none")
        assert declared == ("gradient" if slope_NL.any() else "none"), name
