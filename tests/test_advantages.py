"""Advantages: numbers by hand, and the laws all three share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qr_jax import plugins, records
from qr_jax.config import use
from qr_jax.interfaces import EXAMPLE
from qr_jax.learner.advantages.dr_grpo import dr_grpo
from qr_jax.learner.advantages.grpo import grpo
from qr_jax.learner.advantages.rloo import rloo
from qr_jax.methods.advantages.cw_grpo import cw_grpo
from qr_jax.methods.advantages.disco import disco
from qr_jax.methods.advantages.gfpo import gfpo
from qr_jax.methods.advantages.igpo import igpo
from qr_jax.methods.advantages.max_rl import max_rl
from qr_jax.methods.advantages.opo import opo
from qr_jax.methods.advantages.raft_pp import raft_pp
from qr_jax.methods.advantages.reinforce_pp import reinforce_pp
from qr_jax.methods.advantages.reinforce_rej import reinforce_rej
from qr_jax.methods.advantages.rl_zvp import rl_zvp
from qr_jax.methods.advantages.stratified import stratified
from qr_jax.methods.advantages.turn_returns import turn_returns

ALL = [grpo, dr_grpo, rloo, max_rl]
JITTED = {function: jax.jit(function) for function in ALL}
QUERIES, SAMPLES = 32, 9


def grades_of(*rewards, valid=None):
    reward_QG = np.array(rewards, np.float32)
    return records.grades(reward_QG, np.ones(reward_QG.shape, bool) if valid is None else valid)


def random_grades(seed, *, constant=False):
    generator = np.random.Generator(np.random.Philox(seed))
    reward_QG = generator.integers(0, 34, (QUERIES, SAMPLES)) / generator.integers(1, 34, (QUERIES, 1))
    if constant:
        reward_QG = np.repeat(reward_QG[:, :1], SAMPLES, axis=1)
    return records.grades(reward_QG, generator.random((QUERIES, SAMPLES)) < 0.7)


def test_grpo_by_hand():
    np.testing.assert_allclose(grpo(grades_of([1, 0])), [[0.70711, -0.70711]], atol=2e-5)  # std with n - 1: 0.70711
    np.testing.assert_allclose(grpo(grades_of([1, 0, 0, 0])), [[1.5, -0.5, -0.5, -0.5]], atol=1e-5)  # mean 1/4, std 1/2
    np.testing.assert_allclose(grpo(grades_of([1, 0, 0, 0]), eps=0.5), [[0.75, -0.25, -0.25, -0.25]], atol=1e-6)


def test_grpo_by_the_population_s_std_by_hand():
    """sqrt(3/16) = .4330 for one right of four, which is .8660 of the sample's .5."""
    found = grpo(grades_of([1, 0, 0, 0]), std="population")
    np.testing.assert_allclose(found, [[1.73205, -0.57735, -0.57735, -0.57735]], atol=2e-5)
    np.testing.assert_array_equal(grpo(grades_of([1, 1, 1]), std="population"), [[0, 0, 0]])


def test_dr_grpo_by_hand():
    np.testing.assert_array_equal(dr_grpo(grades_of([1, 0, 0, 0])), [[0.75, -0.25, -0.25, -0.25]])


def test_rloo_is_the_reward_less_the_siblings_mean():
    np.testing.assert_allclose(rloo(grades_of([1, 0, 0, 0])), [[1, -1 / 3, -1 / 3, -1 / 3]], atol=1e-6)
    np.testing.assert_allclose(rloo(grades_of([3, 1, 0.5])), [[2.25, -0.75, -1.5]], atol=1e-6)


def test_max_rl_divides_by_the_pass_rate():
    np.testing.assert_allclose(max_rl(grades_of([1, 0, 0, 0])), [[3, -1, -1, -1]], atol=2e-5)
    np.testing.assert_allclose(max_rl(grades_of([1, 1, 1, 0])), [[1 / 3, 1 / 3, 1 / 3, -1]], atol=2e-5)
    right = np.array([1, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(max_rl(grades_of(right, 1 - right))[:, 0], [7, -1], atol=1e-4)


def test_rl_zvp_gives_groups_of_equal_rewards_what_entropy_says():
    """Two samples each of a group with signal, one all right and one all wrong; the last token is not sampled."""
    entropy_NL = jnp.tile(jnp.array([0.5, 2.0, 4.0]), (6, 1))
    mask_NL = jnp.tile(jnp.array([True, True, False]), (6, 1))
    graded = grades_of([1, 0], [1, 1], [0, 0])
    adv_NL = np.asarray(rl_zvp(graded, entropy_NL, mask_NL, alpha=0.1))
    wanted = [[0.70711] * 2, [-0.70711] * 2, *[[0.05, 0.2]] * 2, *[[-0.15, 0.0]] * 2]
    np.testing.assert_allclose(adv_NL[:, :2], wanted, atol=2e-5)
    np.testing.assert_array_equal(adv_NL[:, 2], 0)
    bounded = np.asarray(rl_zvp(graded, entropy_NL, mask_NL, alpha=0.1, most=0.1))
    np.testing.assert_allclose(bounded[2:, :2], [*[[0.05, 0.1]] * 2, *[[-0.1, 0.0]] * 2], atol=1e-6)
    half = records.grades([[1, 1]], np.array([[True, False]]))
    assert not np.asarray(rl_zvp(half, entropy_NL[:2], mask_NL[:2]))[1].any()


def test_invalid_samples_count_for_nothing():
    valid_QG = np.array([[True, False, True]])
    for function, wanted in [(grpo, 0.70711), (dr_grpo, 0.5), (rloo, 1.0)]:
        adv_QG = function(grades_of([1, 7, 0], valid=valid_QG))
        np.testing.assert_allclose(adv_QG, [[wanted, 0, -wanted]], atol=2e-5)
        assert np.asarray(adv_QG)[0, 1] == 0


@pytest.mark.parametrize("function", ALL)
def test_a_group_with_fewer_than_two_valid_samples_gets_zero(function):
    valid_QG = np.array([[True, False], [False, False]])
    assert np.asarray(function(grades_of([1, 0], [1, 0], valid=valid_QG))).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("function", ALL)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_advantages_of_a_constant_group_are_zero_bit_by_bit(function, seed):
    adv_QG = np.asarray(JITTED[function](random_grades(seed, constant=True)))
    assert not adv_QG.view(np.uint32).any()


def test_gfpo_keeps_no_episode_that_left_the_loss():
    """Of 5, 8, 10 and 0 tokens (cut off, rollout.overlong=mask) the first two are kept."""
    graded = records.grades([[1, 0, 1, 0]], np.ones((1, 4), bool))
    adv_QG = gfpo(graded, turns(5, 8, 10, 0, width=12), keep=2)
    np.testing.assert_allclose(adv_QG, [[0.7071, -0.7071, 0, 0]], atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("function", ALL)
def test_a_constant_group_of_any_size_and_any_fraction_gets_exact_zeros(function):
    for samples in range(2, 34):
        reward_Q = np.array([k / n for n in range(1, samples + 1) for k in range(n + 1)], np.float32)
        graded = grades_of(*np.repeat(reward_Q[:, None], samples, axis=1))
        assert not np.asarray(JITTED[function](graded)).view(np.uint32).any(), samples


@pytest.mark.parametrize("function", ALL)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_advantages_sum_to_zero_over_a_group_and_keep_the_order_of_its_rewards(function, seed):
    grades = random_grades(seed)
    adv_QG = np.asarray(JITTED[function](grades))
    assert np.isfinite(adv_QG).all() and not adv_QG[~grades.valid_QG].any()
    np.testing.assert_allclose(adv_QG.sum(1), 0, atol=1e-5 * (1 + np.abs(adv_QG).max()))
    for adv_G, reward_G, valid_G in zip(adv_QG, grades.reward_QG, grades.valid_QG):
        order = np.argsort(reward_G[valid_G], kind="stable")
        assert (np.diff(adv_G[valid_G][order]) >= 0).all()


@pytest.mark.parametrize("function", ALL)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_group_does_not_depend_on_its_neighbours(function, seed):
    grades = random_grades(seed)
    alone = records.Grades(grades.reward_QG[::-1], grades.valid_QG[::-1])
    np.testing.assert_array_equal(np.asarray(JITTED[function](alone))[::-1], np.asarray(JITTED[function](grades)))


def test_turn_returns_by_hand():
    """Three samples of 2, 2 and 1 turns: returns [1, 1], [.5, 0], [0]; means .5 and .5; the second turn has two."""
    turn_QGT = np.array([[[0.0, 1.0], [0.5, 0.0], [0.0, 9.0]]])
    there_QGT = np.array([[[True, True], [True, True], [True, False]]])
    graded = records.grades([[1, 0.5, 0]], np.ones((1, 3), bool), None, turn_QGT, there_QGT)
    std = np.sqrt((0.5**2 + 0 + 0.5**2 + 0.5**2 + 0.5**2) / 4)
    wanted = np.array([[[0.5, 0.5], [0, -0.5], [-0.5, 0]]]) / std
    np.testing.assert_allclose(turn_returns(graded), wanted, atol=1e-5)
    now = np.asarray(turn_returns(graded, gamma=0.0))  # returns [0, 1], [.5, 0], [0]
    np.testing.assert_allclose(now[0, :, 0] * 6, (np.array([0, 0.5, 0]) * 6 - 1) / np.sqrt(2 / 12), atol=1e-4)
    equal = records.grades([[1, 1, 1]], np.ones((1, 3), bool), None, turn_QGT, there_QGT)
    assert not np.asarray(turn_returns(equal)).any()


def test_turn_returns_of_episodes_of_one_turn_are_grpos():
    reward_QG = np.array([[1, 0, 0, 1], [0.5, 0, 0, 0]])
    ones = np.ones((2, 4, 1), bool)
    graded = records.grades(reward_QG, np.ones((2, 4), bool), None, reward_QG[..., None], ones)
    np.testing.assert_allclose(np.asarray(turn_returns(graded))[..., 0], grpo(graded), atol=1e-5)


def tokens(*lengths, width=4):
    """mask_NL of episodes with so many sampled tokens."""
    return jnp.arange(width)[None] < jnp.array(lengths)[:, None]


def turns(*counts, width=4):
    """turn_NL of episodes with so many turns of one token each."""
    return jnp.where(tokens(*counts, width=width), jnp.arange(width)[None], -1)


def test_reinforce_rej_by_hand():
    graded = grades_of([1, 0, 0], [1, 1, 1], [0, 0, 0])
    assert reinforce_rej(graded).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_raft_pp_by_hand():
    graded = grades_of([1, 0, 0], [1, 1, 1], valid=np.array([[1, 1, 1], [1, 1, 0]], bool))
    assert raft_pp(graded).tolist() == [[1, 0, 0], [1, 1, 0]]


def test_reinforce_pp_by_hand():
    """Rewards 1, 0, 0, 0 over 1, 1, 1 and 3 tokens: of 6 tokens the mean is 1/6, the squares 5/6, the std sqrt(1/6)."""
    mask_NL, std = tokens(1, 1, 1, 3), np.sqrt(1 / 6)
    adv_NL = reinforce_pp(grades_of([1, 0], [0, 0]), turns(1, 1, 1, 3))
    np.testing.assert_allclose(adv_NL[:, 0], np.array([5 / 6, -1 / 6, -1 / 6, -1 / 6]) / std, rtol=1e-5)
    assert not np.asarray(adv_NL)[~np.asarray(mask_NL)].any()
    # less the group's mean: .5, -.5 and 0 over 2, 1 and 3 tokens have the mean 1/12: the dead group is not 0
    adv_NL = reinforce_pp(grades_of([1, 0], [0, 0]), turns(2, 1, 1, 2), baseline="group")
    std = np.sqrt((2 * (5 / 12) ** 2 + (7 / 12) ** 2 + 3 / 144) / 5)
    np.testing.assert_allclose(adv_NL[:, 0], np.array([5, -7, -1, -1]) / 12 / std, rtol=1e-5)


def test_reinforce_pp_compares_the_only_valid_sample_of_a_group_with_nothing():
    """.5, -.5 and 0: mean 0, standard deviation .5. verl leaves the last its reward: .218, -1.091 and .873."""
    graded = grades_of([1, 0], [1, 1], valid=np.array([[True, True], [True, False]]))
    adv_NL = reinforce_pp(graded, turns(1, 1, 1, 0), baseline="group")
    np.testing.assert_allclose(adv_NL[:, 0], [1, -1, 0, 0], atol=1e-5)
    without_NL = reinforce_pp(graded, turns(1, 1, 1, 0))
    assert without_NL[2, 0] > 0 > without_NL[1, 0], "the batch's mean alone is subtracted, as in verl"


def test_reinforce_pp_of_a_batch_of_one_reward_is_0():
    np.testing.assert_allclose(reinforce_pp(grades_of([1, 1]), turns(2, 1)), np.zeros((2, 4)), atol=1e-3)


def test_opo_by_hand():
    """Lengths 3 and 1: the baseline of rewards 1 and 0 is 3/4."""
    graded = grades_of([1, 0], [1, 1])
    assert opo(graded, turns(3, 1, 3, 1)).tolist() == [[0.25, -0.75], [0, 0]]
    with_fault = grades_of([1, 0, 0], valid=np.array([[True, True, False]]))
    assert opo(with_fault, turns(3, 1, 4)).tolist() == [[0.25, -0.75, 0]]  # the length of a fault does not count
    np.testing.assert_array_equal(opo(graded, turns(2, 2, 2, 2)), dr_grpo(graded))


def test_stratified_by_hand():
    """Two turns: rewards 1, 0; three: 1, 1; one: 0 alone."""
    graded, turns_QG = grades_of([1, 0, 1, 1, 0]), jnp.array([[2, 2, 3, 3, 1]])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(stratified(graded, turns_QG, alpha=1.0), [[half, -half, 0, 0, 0]], atol=2e-6)
    blend = 0.25 * np.array([[half, -half, 0, 0, 0]]) + 0.75 * np.asarray(grpo(graded))
    np.testing.assert_allclose(stratified(graded, turns_QG, alpha=0.25), blend, atol=2e-6)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_stratified_without_its_strata_is_grpo_and_sums_to_zero_in_each_stratum(seed):
    grades = random_grades(seed)
    counts_QG = np.random.Generator(np.random.Philox(seed + 1)).integers(1, 4, (QUERIES, SAMPLES))
    turns_QG = jnp.asarray(counts_QG)
    np.testing.assert_array_equal(stratified(grades, turns_QG, alpha=0.0), grpo(grades))
    np.testing.assert_allclose(stratified(grades, jnp.ones_like(turns_QG), alpha=1.0), grpo(grades), atol=1e-4)
    san_QG = np.asarray(stratified(grades, turns_QG, alpha=1.0))
    for count in (1, 2, 3):
        np.testing.assert_allclose(np.where(counts_QG == count, san_QG, 0).sum(axis=1), 0, atol=1e-4)


def turn_grades(rewards, turn_rewards, counts):
    """Grades of one group with rewards of turns, the rows as long as `counts` says."""
    turn_QGT = np.array([turn_rewards], float)
    there_QGT = np.arange(turn_QGT.shape[2])[None, None] < np.array([counts])[:, :, None]
    return records.grades([rewards], np.ones((1, len(rewards)), bool), None, turn_QGT, there_QGT)


def test_cw_grpo_by_hand():
    """A = +-.7071. The right episode has 3 rounds before the last, of which one contributed; the wrong one has 1."""
    graded = turn_grades([1, 0], [[0, 0.1, 0, 1], [0.1, 0, 9, 9]], [4, 2])
    a = np.sqrt(0.5)
    np.testing.assert_allclose(cw_grpo(graded), [[[0, 3 * a, 0, a], [-a, -a, 0, 0]]], rtol=1e-5)
    e = np.exp(2.0)
    soft = 3 * a * np.array([1, e, 1]) / (2 + e)
    np.testing.assert_allclose(cw_grpo(graded, gamma=2.0)[0, 0], [*soft, a], rtol=1e-5)
    nothing = turn_grades([1, 0], [[0, 0, 1], [0, 0, 0]], [3, 3])  # no round contributed
    np.testing.assert_allclose(cw_grpo(nothing)[0, 0], [0, 0, a], rtol=1e-5)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), gamma=st.sampled_from([0.0, 1.0, 5.0, 100.0]))
def test_cw_grpo_s_mean_over_the_rounds_before_the_last_is_the_advantage(seed, gamma):
    generator = np.random.Generator(np.random.Philox(seed))
    counts = generator.integers(2, 7, 8)
    helps = (generator.random((8, 6)) < 0.3).astype(float)
    helps[:, 0] = 1.0  # at least one round contributes
    graded = turn_grades(generator.integers(0, 2, 8), helps, counts)
    adv_GT, plain_G = np.asarray(cw_grpo(graded, gamma=gamma))[0], np.asarray(grpo(graded))[0]
    for adv_T, plain, count in zip(adv_GT, plain_G, counts, strict=True):
        np.testing.assert_allclose(adv_T[: count - 1].mean(), plain, atol=1e-5)
        np.testing.assert_allclose(adv_T[count - 1], plain, atol=1e-6)
        assert not adv_T[count:].any()


def test_igpo_by_hand():
    """Gold's probabilities .2, .6 and .2, .1; rewards 1 and 0, two turns each: turn rewards .4, 1 and -.1, 0."""
    gold_NT = jnp.log(jnp.array([[0.2, 0.6, 1.0], [0.2, 0.1, 1.0]]))
    turns_QG = jnp.array([[2, 2]])
    x = np.array([[0.4, 1.0], [-0.1, 0.0]])
    x = (x - x.mean()) / x.std(ddof=1)
    wanted = np.stack([x.sum(axis=1), x[:, 1], [0, 0]], axis=1)
    np.testing.assert_allclose(igpo(grades_of([1, 0]), turns_QG, gold_NT)[0], wanted, atol=1e-5)
    halved = igpo(grades_of([1, 0]), turns_QG, gold_NT, gamma=0.5)[0]
    np.testing.assert_allclose(halved[:, 0], x[:, 0] + 0.5 * x[:, 1], atol=1e-5)


def test_igpo_of_episodes_of_one_turn_is_grpo():
    graded, gold_NT = grades_of([1, 0, 0, 1], [0.5, 0, 0, 0]), jnp.full((8, 3), -1.0)
    np.testing.assert_allclose(igpo(graded, jnp.ones((2, 4), int), gold_NT)[..., 0], grpo(graded), atol=1e-5)


def test_disco_by_hand():
    """One right of score -1; wrong ones of -1 and -1 + log(3) with tau 1 have softmax 1/4 and 3/4; n = 3."""
    logp_NL = jnp.array([[-1.0, 9], [-1.0, 9], [-1 + np.log(3), 9], [-1, 9], [-1, 9], [-1, 9]])
    mask_NL = tokens(1, 1, 1, 1, 1, 1, width=2)
    graded = grades_of([1, 0, 0], [1, 1, 1])
    adv_NL = disco(graded, logp_NL, logp_NL, mask_NL, tau=1.0)
    np.testing.assert_allclose(adv_NL[:, 0], [3, -0.75, -2.25, 0, 0, 0], rtol=1e-6)
    assert not np.asarray(adv_NL)[:, 1].any()
    # every token half as likely as before: KL log(2), a push up of beta (KL - delta) where there is signal
    moved_NL = disco(graded, logp_NL, logp_NL + np.log(2), mask_NL, tau=1.0, beta=2.0, delta=0.1)
    np.testing.assert_allclose((moved_NL - adv_NL)[:, 0], [2 * (np.log(2) - 0.1)] * 3 + [0] * 3, rtol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("score", ["logp", "ratio"])
def test_the_weights_of_disco_give_the_gradient_of_its_objective(score):
    """By autodiff, of two groups with two tokens an episode; the loss is -A logp, the mean over tokens and episodes."""
    logp_NL = -jnp.abs(jnp.sin(jnp.arange(16.0).reshape(8, 2)))
    old_NL, right_QG = logp_NL - 0.1 * jnp.cos(logp_NL), np.array([[1, 0, 0, 1], [0, 1, 0, 0]], bool)
    tau, delta, beta = 0.7, 1e-4, 3.0

    def objective(logp_NL):
        value_NL = logp_NL if score == "logp" else jnp.exp(logp_NL - old_NL)
        score_QG = value_NL.mean(axis=1).reshape(2, 4)
        good_Q = jnp.where(right_QG, score_QG, 0).sum(axis=1) / right_QG.sum(axis=1)
        tilt_Q = jnp.where(right_QG, 0, jnp.exp(score_QG / tau)).sum(axis=1) / (~right_QG).sum(axis=1)
        kl = (old_NL - logp_NL).mean()
        penalty = beta * jax.lax.stop_gradient(jnp.maximum(kl - delta, 0.0)) * kl
        return (good_Q - tau * jnp.log(tilt_Q)).mean() - penalty

    graded = grades_of(*right_QG.astype(float))
    adv_NL = disco(graded, logp_NL, old_NL, jnp.ones((8, 2), bool), score=score, tau=tau, beta=beta, delta=delta)
    np.testing.assert_allclose(adv_NL / 16, jax.grad(objective)(logp_NL), rtol=1e-4, atol=1e-7)


def of_every_kind(graded, width=6):
    """All that an advantage may be given for these grades: unlike lengths, turns, entropies and gold probabilities."""
    episodes = graded.reward_QG.size
    turn_NL = jnp.stack([turns(1 + n % 3, width=width)[0] for n in range(episodes)])
    spread_NL = jnp.abs(jnp.sin(jnp.arange(episodes * width, dtype=jnp.float32))).reshape(episodes, width)
    turns_QG = jnp.max(turn_NL, axis=1).reshape(graded.reward_QG.shape) + 1
    given = {
        "grades": graded,
        "turns_QG": turns_QG,
        "turn_NL": turn_NL,
        "mask_NL": turn_NL >= 0,
        "entropy_NL": spread_NL,
    }
    return given | {"logp_NL": -spread_NL, "old_logp_NL": 0.1 - spread_NL, "gold_logp_NT": -spread_NL[:, :4]}


@pytest.mark.thorough
@pytest.mark.parametrize("name", plugins.names("advantage"))
def test_what_gives_a_group_of_equal_rewards_a_gradient_says_so(name):
    """A group with signal beside one all right and one all wrong: ZERO_VARIANCE says whether these two learn."""
    reward_QG = np.array([[1, 0, 1], [1, 1, 1], [0, 0, 0]], float)
    turn_QGT = np.arange(36).reshape(3, 3, 4) % 5
    graded = records.grades(reward_QG, reward_QG >= 0, None, turn_QGT, turn_QGT >= 0)
    takes = plugins.signature("advantage", name).data
    given = {key: value for key, value in of_every_kind(graded).items() if key in takes}
    needed = plugins.constants("advantage", name).get(EXAMPLE, {})
    adv = np.asarray(plugins.bind("advantage", use(name, **needed))(**given))
    adv_Q = adv.reshape(3, -1)
    declared = plugins.constants("advantage", name).get("ZERO_VARIANCE", "none")
    assert np.isfinite(adv).all() and adv_Q[0].any()
    assert declared == ("gradient" if adv_Q[1:].any() else "none")
