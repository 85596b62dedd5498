"""Methods against a second reader's derivations: plain numpy, written from each formula alone, on random cases."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qr_jax import records
from qr_jax.learner.reduce import token_weights
from qr_jax.methods.advantages.cw_grpo import cw_grpo
from qr_jax.methods.advantages.disco import disco
from qr_jax.methods.advantages.igpo import igpo
from qr_jax.methods.advantages.opo import opo
from qr_jax.methods.advantages.pods import pods
from qr_jax.methods.advantages.reinforce_pp import reinforce_pp
from qr_jax.methods.advantages.rl_zvp import rl_zvp
from qr_jax.methods.advantages.stratified import stratified
from qr_jax.methods.losses.cispo import cispo
from qr_jax.methods.losses.gspo import gspo
from qr_jax.methods.losses.gspo_token import gspo_token
from qr_jax.methods.losses.sapo import sapo
from qr_jax.methods.rewards.e_grpo import e_grpo
from qr_jax.records import Episode, Query, Turn

Q, G, L, T = 3, 4, 5, 3


def draws(seed):
    return np.random.Generator(np.random.Philox(seed))


NEW = -draws(0).uniform(0.1, 2.0, (Q * G, L))
OLD = NEW + draws(1).normal(0, 0.25, (Q * G, L))
MASK = draws(2).uniform(size=(Q * G, L)) < 0.75
MASK[:, 0], MASK[5] = True, False  # every episode has a token, but for one that was masked whole
EPISODE = np.broadcast_to(draws(3).normal(size=(Q * G, 1)), (Q * G, L))  # one advantage an episode
TOKEN = draws(4).normal(size=(Q * G, L))  # one a token
MIXED = np.array([[1, 0, 0, 1], [1, 0, 0, 0], [0, 1, 1, 1]], float)
KINDS = np.array([[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], float)


def slope(function, at, step=1e-6):
    """Central differences."""
    moved = np.eye(at.size).reshape(-1, *at.shape) * step
    return np.array([(function(at + m) - function(at - m)) / (2 * step) for m in moved]).reshape(at.shape)


def graded(reward, **turns):
    return records.grades(reward, np.ones_like(reward, bool), None, **turns)


def jitted(advantage, **settings):
    return jax.jit(partial(advantage, **settings))


def reduced(loss, advantage, **settings):
    """The loss as a number by the mean over tokens, then episodes, and its gradient."""
    weight_NL = token_weights(jnp.asarray(MASK), mode="sequence_mean", horizon_tokens=L)

    def number(logp_NL):
        loss_NL, _ = loss(logp_NL, jnp.asarray(OLD), jnp.asarray(advantage), jnp.asarray(MASK), **settings)
        return jnp.sum(weight_NL * loss_NL)

    return jax.jit(jax.value_and_grad(number))(jnp.asarray(NEW))


def agree(found, wanted):
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], wanted[1], atol=1e-6)


def gspo_number(new, low, high):
    losses = []
    for n, o, a, m in zip(new, OLD, EPISODE, MASK, strict=True):
        if m.any():
            s = np.prod(np.exp(n - o)[m]) ** (1 / m.sum())
            losses.append(-min(a[0] * s, a[0] * np.clip(s, 1 - low, 1 + high)))
    return np.mean(losses)


@pytest.mark.parametrize(("low", "high"), [(3e-4, 4e-4), (0.05, 0.1)])
def test_gspo_is_the_clipped_geometric_mean_of_ratios(low, high):
    wanted = gspo_number(NEW, low, high), slope(lambda new: gspo_number(new, low, high), NEW)
    assert 0 < np.count_nonzero(np.any(wanted[1], axis=1)) < Q * G - 1  # some are cut, some are not
    agree(reduced(gspo, EPISODE, low=low, high=high), wanted)


def test_gspo_token_has_the_gradient_of_each_token_s_own_advantage():
    """The ratio's value is the episode's, so the slope of a token that is not cut is -A s."""
    rows, value, gradient = MASK.any(axis=1).sum(), 0.0, np.zeros_like(NEW)
    for i, t in np.argwhere(MASK):
        s, share = np.exp((NEW - OLD)[i, MASK[i]].mean()), 1 / MASK[i].sum() / rows
        free, cut = -TOKEN[i, t] * s, -TOKEN[i, t] * np.clip(s, 0.9, 1.1)
        value += share * max(free, cut)
        gradient[i, t] = share * free * (free >= cut)
    agree(reduced(gspo_token, TOKEN, low=0.1, high=0.1), (value, gradient))


def test_cispo_weighs_the_policy_gradient_by_a_cut_ratio():
    weight = MASK / np.maximum(MASK.sum(axis=1, keepdims=True), 1) / MASK.any(axis=1).sum()
    cut = np.minimum(np.maximum(np.exp(NEW - OLD), 0.8), 1.1)
    wanted = -(weight * cut * TOKEN * NEW).sum(), -weight * cut * TOKEN
    agree(reduced(cispo, TOKEN, low=0.2, high=0.1), wanted)


def test_sapo_gates_each_token_by_the_sign_of_its_advantage():
    weight = MASK / np.maximum(MASK.sum(axis=1, keepdims=True), 1) / MASK.any(axis=1).sum()

    def number(new):
        tau = np.where(TOKEN > 0, 1.5, 4.0)
        return -(weight * TOKEN * 4 / tau / (1 + np.exp(-tau * (np.exp(new - OLD) - 1)))).sum()

    agree(reduced(sapo, TOKEN, tau_positive=1.5, tau_negative=4.0), (number(NEW), slope(number, NEW)))


@pytest.mark.parametrize("score", ["logp", "ratio"])
@pytest.mark.parametrize("tau", [10.0, 0.3])
def test_disco_s_weights_give_the_slope_of_its_objective(score, tau):
    """Of right less wrong by a soft maximum, over groups; and of beta sg[max(KL - delta, 0)] KL, over episodes."""
    live, beta, delta = MASK.any(axis=1), 3.0, 0.001
    old = OLD + 0.1  # so that the divergence is above delta

    def mean(value):
        return np.where(MASK, value, 0).sum(axis=1) / np.maximum(MASK.sum(axis=1), 1)

    def number(new):
        s_QG = mean(new if score == "logp" else np.exp(new - old)).reshape(Q, G)
        gains, episodes = [], []
        for s, right, there in zip(s_QG, MIXED == 1, live.reshape(Q, G), strict=True):
            up, down = s[right & there], s[~right & there]
            gains.append(up.mean() - tau * np.log(np.exp(down / tau).mean()))
            episodes.append(there.sum())
        return -np.dot(gains, episodes) / live.sum()  # groups by their episodes, as the mean over episodes has them

    kl = mean(old - NEW)[live].mean()
    price = -beta * max(kl - delta, 0) * MASK / np.maximum(MASK.sum(axis=1, keepdims=True), 1) / live.sum()
    assert kl > delta
    given = jnp.asarray(NEW), jnp.asarray(old), jnp.asarray(MASK)
    adv_NL = jitted(disco, score=score, tau=tau, beta=beta, delta=delta)(graded(MIXED), *given)
    weight_NL = token_weights(jnp.asarray(MASK), mode="sequence_mean", horizon_tokens=L)
    np.testing.assert_allclose(-weight_NL * adv_NL, slope(number, NEW) + price, atol=1e-6)


def z(reward):
    """GRPO's advantage within whatever is compared: n - 1 under the variance."""
    spread = np.ptp(reward)
    return (reward - reward.mean()) / (reward.std(ddof=1) + 1e-6) if spread else np.zeros_like(reward)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 3.0, 100.0])
def test_cw_grpo_shares_a_good_episode_among_the_rounds_that_helped(gamma):
    turns = np.array([[3, 1, 2, 3], [3, 3, 2, 1], [2, 3, 3, 3]])
    helped = draws(5).uniform(size=(Q, G, T)) < 0.5
    there = np.arange(T) < turns[..., None]
    wanted = np.zeros((Q, G, T))
    for q, g in np.ndindex(Q, G):
        advantage, before = z(MIXED[q])[g], turns[q, g] - 1
        p = helped[q, g, :before].astype(float)
        c = p / max(p.sum(), 1e-6) if gamma >= 10 else np.exp(gamma * p) / np.exp(gamma * p).sum()
        wanted[q, g, :before] = advantage * before * c if advantage >= 0 else advantage
        wanted[q, g, before] = advantage
        if advantage >= 0 and before and (gamma < 10 or p.any()):  # the law: nothing is added or lost
            assert wanted[q, g, :before].mean() == pytest.approx(advantage)
    grades = graded(MIXED, turn_reward_QGT=helped * 0.7, turn_valid_QGT=there)
    np.testing.assert_allclose(jitted(cw_grpo, gamma=gamma)(grades), wanted, atol=1e-5)


@pytest.mark.parametrize("baseline", ["none", "group"])
def test_reinforce_pp_whitens_over_the_batch_s_tokens(baseline):
    centre = MIXED.mean(axis=1, keepdims=True) if baseline == "group" else 0
    value = np.repeat((MIXED - centre).reshape(-1), MASK.sum(axis=1))  # a value for each sampled token
    wanted = np.zeros((Q * G, L))
    wanted[MASK] = (value - value.mean()) / np.sqrt(value.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(
        jitted(reinforce_pp, baseline=baseline)(graded(MIXED), jnp.where(MASK, 0, -1)), wanted, atol=1e-5
    )


def test_opo_s_baseline_is_the_mean_reward_of_a_token():
    tokens = [np.repeat(r, n) for r, n in zip(MIXED, MASK.sum(axis=1).reshape(Q, G), strict=True)]
    wanted = MIXED - np.array([[t.mean()] for t in tokens])
    np.testing.assert_allclose(jitted(opo)(graded(MIXED), jnp.where(MASK, 0, -1)), wanted, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_stratified_compares_episodes_that_searched_as_often(alpha):
    reward, last = draws(6).integers(0, 4, (Q, 8)) / 3, draws(7).integers(0, 3, (Q, 8))
    wanted = np.zeros((Q, 8))
    for q, k in itertools.product(range(Q), range(3)):
        wanted[q, last[q] == k] = z(reward[q][last[q] == k]) if (last[q] == k).any() else 0
        assert abs(wanted[q, last[q] == k].sum()) < 1e-9
    wanted = alpha * wanted + (1 - alpha) * np.array([z(r) for r in reward])
    np.testing.assert_allclose(
        jitted(stratified, alpha=alpha)(graded(reward), jnp.asarray(last + 1)), wanted, atol=1e-5
    )


def test_rl_zvp_pays_right_tokens_for_entropy_and_wrong_ones_for_its_lack():
    entropy, wanted = draws(8).uniform(0, 3, (Q * G, L)), np.zeros((Q * G, L))
    for i, (q, g) in enumerate(np.ndindex(Q, G)):
        for t in np.flatnonzero(MASK[i]):
            if np.ptp(KINDS[q]):
                wanted[i, t] = z(KINDS[q])[g]
            else:
                wanted[i, t] = 0.2 * (entropy[i, t] - (0 if KINDS[q, 0] else max(entropy[i, MASK[i]])))
    found = jitted(rl_zvp, alpha=0.2)(graded(KINDS), jnp.asarray(entropy), jnp.asarray(MASK))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_pods_is_grpo_within_a_subset_of_largest_variance():
    reward = draws(9).normal(size=(Q, 7))
    wanted = np.zeros((Q, 7))
    for q in range(Q):
        best = list(max(itertools.combinations(range(7), 3), key=lambda kept: np.var(reward[q, list(kept)])))
        wanted[q, best] = z(reward[q, best])
    np.testing.assert_allclose(jitted(pods, keep=3)(graded(reward)), wanted, atol=1e-4)


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_igpo_scales_all_turns_of_a_group_together_then_sums_what_follows(gamma):
    gold, turns = draws(10).uniform(0.05, 0.9, (Q, G, T)), draws(11).integers(1, T + 1, (Q, G))
    wanted = np.zeros((Q, G, T))
    for q in range(Q):
        parts = [np.append(np.diff(gold[q, g, : turns[q, g]]), MIXED[q, g]) for g in range(G)]
        scaled = np.split(z(np.concatenate(parts)), np.cumsum(turns[q])[:-1])
        for g, t in itertools.product(range(G), range(T)):
            wanted[q, g, t] = sum(gamma ** (k - t) * scaled[g][k] for k in range(t, turns[q, g]))
    found = jitted(igpo, gamma=gamma)(graded(MIXED), jnp.asarray(turns), jnp.log(gold.reshape(-1, T)))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_e_grpo_pays_what_was_named_beside_the_best_of_the_group_and_nothing_to_what_was_cut(alpha):
    """Most named 3 of 4 entities, in an episode that was cut: the others are measured by it, and it gets nothing."""
    query, none = Query("q", "?", ("Oslo",), ("ann", "bob", "cid", "dan")), np.zeros(0)
    group, wanted = [], []
    for named, stop in [
        (2, "answered"),
        (1, "turns"),
        (3, "length"),
        (1, "context"),
        (0, "no_action"),
        (1, "answered"),
    ]:
        right = stop == "answered" and named == 2
        turns = (Turn("model", " ".join(query.entities[:named])),)
        answer = {"answered": "Oslo" if right else "Bergen"}.get(stop)
        group.append(Episode(query, 0, 0, none, none, none, np.zeros(1, int), turns, answer, stop, True))
        wanted.append(1 if right else 0 if stop in ("length", "context") else alpha * (named / 4) / (3 / 4))
    scores = e_grpo(query, group, alpha=alpha)
    np.testing.assert_allclose(scores.score_G, wanted)
    assert [row.tolist() for row in scores.turn_GT[2:4]] == [[0], [0]]
