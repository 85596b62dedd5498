"""Credit of an episode, a turn or a token: what an advantage may name and return, on two meshes and by hand."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_learner import CFG, MODEL, SETTINGS, batch, groups

from qr_jax import config
from qr_jax.config import use
from qr_jax.learner import credit, learner
from qr_jax.learner.pack import pack
from qr_jax.methods import gold
from qr_jax.models import decoder
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Grades, grades

MESHES = [(8, 1, 1), (2, 2, 2)]
SHAPE = {"rows": 8, "row_tokens": 48, "per_row": 8, "queries": 8, "samples": 4}
PREFIX, GOLDS = [3, 2], [[5, 6, 7], [9]]


# ---- plug-ins


def by_entropy(grades: Grades, entropy_NL, mask_NL, turn_NL, *, alpha: float = 0.5):
    """One a token: reward + alpha * entropy in the first turn, twice that in the second."""
    adv_NL = grades.reward_QG.reshape(-1, 1) + alpha * entropy_NL
    return jnp.where(mask_NL, adv_NL * (1.0 + turn_NL), 0.0)


def by_information(grades: Grades, gold_logp_NT):
    """One a turn: what the turn added to the gold's probability, and the reward for the last (IGPO, undiscounted)."""
    gold_NT = jnp.exp(gold_logp_NT)
    gain_NT = jnp.concatenate([gold_NT[:, 1:2] - gold_NT[:, :1], grades.reward_QG.reshape(-1, 1)], axis=1)
    return gain_NT.reshape(*grades.reward_QG.shape, 2)


def by_turn(grades: Grades):
    """One a turn: its reward less the mean over the valid turns of the group."""
    valid_QGT, reward_QGT = grades.turn_valid_QGT, grades.turn_reward_QGT
    mean_Q11 = reward_QGT.sum((1, 2), keepdims=True) / jnp.maximum(valid_QGT.sum((1, 2), keepdims=True), 1)
    return jnp.where(valid_QGT, reward_QGT - mean_Q11, 0.0)


def nothing(grades: Grades):
    return None


def number(grades: Grades):
    return grades.reward_QG.mean()


def whole_numbers(grades: Grades):
    return grades.reward_QG.astype(jnp.int32)


def one_too_many(grades: Grades):
    return jnp.zeros((grades.reward_QG.size, 49))


def averaged(logp_NL):
    return -logp_NL.mean(), {}


def triple(logp_NL):
    return -logp_NL, {}, None


def lost(logp_NL):
    return None


def averaged_metric(logp_NL):
    return -logp_NL, {"mine": logp_NL.mean()}


# ---- the same by a dense forward pass, an episode a row


@functools.cache
def params():
    return decoder.init(CFG, jax.random.key(0))


def dense(params, ids_NL):
    """(logp_NL, entropy_NL) of a padded table; column 0 is 0."""
    position_NL = jnp.broadcast_to(jnp.arange(ids_NL.shape[1]), ids_NL.shape)
    hidden_NLD = decoder.forward(CFG, params, ids_NL, position_NL, jnp.ones_like(ids_NL))
    table_NLV = jax.nn.log_softmax(decoder.logits(CFG, params, hidden_NLD))
    logp_NL = jnp.take_along_axis(table_NLV[:, :-1], ids_NL[:, 1:, None], axis=-1)[..., 0]
    entropy_NL = -(jnp.exp(table_NLV) * table_NLV).sum(-1)[:, :-1]
    return jnp.pad(logp_NL, ((0, 0), (1, 0))), jnp.pad(entropy_NL, ((0, 0), (1, 0)))


def padded(arrays, empty=0):
    table = np.full((len(arrays), 48), empty, arrays[0].dtype)
    for row, array in zip(table, arrays, strict=True):
        row[: len(array)] = array
    return table


@functools.cache
def episodes_as_tables():
    """ids, mask and turn of the 24 episodes, [24, 48]."""
    episodes = [episode for group in groups()[0] for episode in group]
    mask_NL = padded([episode.mask_L for episode in episodes])
    return padded([e.ids_L for e in episodes]), mask_NL, padded([e.turn_L for e in episodes], -1)


@jax.jit
def dense_gradient(params, ids_NL, mask_NL, adv_NL):
    """The gradient of -sum(advantage * logp) / tokens: that of the clipped loss at its first update."""
    return jax.grad(lambda params: -jnp.sum(jnp.where(mask_NL, adv_NL * dense(params, ids_NL)[0], 0)) / mask_NL.sum())(
        params
    )


# ---- the learner


def build(mesh, advantage, **settings):
    settings = replace(SETTINGS, clip_norm=1e9, advantage=use(f"test_credit.{advantage}"), **settings)
    on = meshes.make_mesh(config.Mesh(*mesh, devices=int(np.prod(mesh))))
    bound = learner.make(CFG, MODEL, settings, on)
    return bound, bound.init(params())


def trained(bound, state, some_batch):
    """(gradient, advantage) of one train_step; Adam's first moment is (1 - b1) times the gradient."""
    state, metrics = bound.train_step(state, some_batch, np.float32(1e-2))
    assert int(state.updates) == 1
    first_moment = optax.tree.get(state.opt_state, "mu")
    return jax.tree.map(lambda leaf: np.asarray(leaf) / (1 - SETTINGS.betas[0]), first_moment), metrics["advantage"]


def assert_trained(gradient, adv_NL):
    ids_NL, mask_NL, _ = episodes_as_tables()
    wanted = dense_gradient(params(), ids_NL, mask_NL, adv_NL)
    assert any(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(wanted))
    for leaf, dense_leaf in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted), strict=True):
        assert np.linalg.norm(leaf - dense_leaf) <= 1e-5 * max(np.linalg.norm(dense_leaf), 1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("mesh", MESHES)
def test_entropies_are_given_a_token_and_an_advantage_a_token_is_trained(mesh):
    bound, state = build(mesh, "by_entropy")
    assert not bound.needs_gold
    ids_NL, mask_NL, turn_NL = episodes_as_tables()
    entropy_NL = np.asarray(jax.jit(dense)(params(), ids_NL)[1])
    reward_N1 = groups()[1].reward_QG.reshape(-1, 1)
    adv_NL = np.where(mask_NL, (reward_N1 + 0.5 * entropy_NL) * (1.0 + turn_NL), 0)
    whole = batch()
    gradient, advantage_NL = trained(bound, state, whole)
    assert advantage_NL.shape == (32, 48) and not advantage_NL[24:].any()
    np.testing.assert_allclose(advantage_NL[:24], adv_NL, rtol=1e-5, atol=1e-6)
    assert_trained(gradient, adv_NL)
    if mesh == MESHES[0]:  # a part of the batch, as in several updates: the other part's episodes are 0
        used_M = np.arange(len(whole.used_M)) == 0
        part = replace(whole, used_M=used_M, mask_MEL=whole.mask_MEL & used_M[:, None, None])
        _, advantage_NL = trained(bound, bound.init(params()), part)
        inside = np.isin(np.arange(24), whole.episode_ME[0])
        assert inside.any() and not inside.all() and not advantage_NL[:24][~inside].any()
        np.testing.assert_allclose(advantage_NL[:24][inside], adv_NL[inside], rtol=1e-5, atol=1e-6)


def gold_by_hand(episode):
    """Both turns' values: the larger mean over a gold's tokens, the prefix's not counted, of a dense pass."""
    value_T = []
    for first in (4, 11):  # where the turns of test_learner.episode begin
        means = []
        for gold_ids in GOLDS:
            ids_L = np.concatenate([episode.ids_L[:first], PREFIX, gold_ids]).astype(np.int32)
            logp_L = np.asarray(jitted_dense(params(), padded([ids_L]))[0])[0]
            means.append(logp_L[first + 2 : first + 2 + len(gold_ids)].mean())
        value_T.append(max(means))
    return value_T


jitted_dense = jax.jit(dense)


@pytest.mark.thorough
@pytest.mark.parametrize("mesh", MESHES)
def test_the_gold_s_log_probability_is_given_a_turn_and_trained(mesh):
    bound, state = build(mesh, "by_information")
    assert bound.needs_gold
    episodes, graded = groups()
    gold_NT = gold.gold_logp(
        bound, state, episodes, prefix_ids=PREFIX, golds=lambda query: GOLDS, samples=4, queries=8, rows=8,
        row_tokens=48,
    )  # fmt: skip
    assert gold_NT.shape == (32, 8) and not gold_NT[24:].any() and not gold_NT[:, 2:].any()
    for n in (0, 1, 23):
        np.testing.assert_allclose(gold_NT[n, :2], gold_by_hand(episodes[n // 4][n % 4]), rtol=1e-5)
    gradient, advantage_QGT = trained(bound, state, replace(batch(), gold_logp_NT=gold_NT))
    gain_N = np.exp(gold_NT[:24, 1]) - np.exp(gold_NT[:24, 0])
    np.testing.assert_allclose(advantage_QGT[:6, :, 0], gain_N.reshape(6, 4), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(advantage_QGT[:6, :, 1], graded.reward_QG)
    turn_NL = episodes_as_tables()[2]
    assert_trained(gradient, np.where(turn_NL == 0, gain_N[:, None], graded.reward_QG.reshape(-1, 1)))


@pytest.mark.thorough
@pytest.mark.parametrize("mesh", MESHES)
def test_rewards_of_turns_reach_the_tokens_of_their_turns(mesh):
    """Group q's turns have the rewards q, 0, 0, ... in turn: of 7 valid ones the mean is q / 7."""
    episodes, graded = groups()
    reward_QGT, valid_QGT = np.zeros((6, 4, 2)), np.ones((6, 4, 2), bool)
    reward_QGT[:, 0, 0] = np.arange(6)
    valid_QGT[:, 3, 1] = False
    graded = grades(graded.reward_QG, graded.valid_QG, None, reward_QGT, valid_QGT)
    bound, state = build(mesh, "by_turn")
    assert not bound.needs_gold
    gradient, advantage_QGT = trained(bound, state, pack(episodes, graded, **SHAPE))
    np.testing.assert_allclose(
        advantage_QGT[5, :, :], [[30 / 7, -5 / 7]] + [[-5 / 7] * 2] * 2 + [[-5 / 7, 0]], rtol=1e-5
    )
    adv_NT = np.where(valid_QGT, reward_QGT - np.arange(6)[:, None, None] / 7, 0).reshape(24, 2).astype(np.float32)
    assert_trained(gradient, np.take_along_axis(adv_NT, np.maximum(episodes_as_tables()[2], 0), axis=1))


def test_slots_come_back_as_the_episodes_that_were_packed():
    """Query 0: sample 1 is a fault, sample 2 is dropped. Query 1 has two samples. The third query is padding."""
    episodes, _ = groups(queries=2, samples=4)
    episodes = [[episodes[0][0], replace(episodes[0][1], valid=False), *episodes[0][2:]], episodes[1][:2]]
    valid_QG = np.array([[1, 0, 1, 1], [1, 1, 0, 0]], bool)
    drop = [[False, False, True, False], [False] * 2]
    packed = pack(episodes, grades(np.zeros((2, 4)), valid_QG), **SHAPE | {"queries": 3}, drop_loss=drop)
    mask_NL = credit.by_episode(jnp.asarray(packed.mask_MEL), packed, False)
    turn_NL = credit.by_episode(jnp.asarray(packed.turn_MEL), packed, -1)
    assert mask_NL.shape == turn_NL.shape == (12, 48) and mask_NL.dtype == bool and turn_NL.dtype == np.int32
    for n in range(12):
        if n in (0, 3, 4, 5):
            episode = episodes[n // 4][n % 4]
            np.testing.assert_array_equal(mask_NL[n], padded([episode.mask_L])[0])
            np.testing.assert_array_equal(turn_NL[n], padded([episode.turn_L], -1)[0])
        else:
            assert not mask_NL[n].any() and (turn_NL[n] == -1).all()
    np.testing.assert_array_equal(packed.turns_QG, [[2, 0, 2, 2], [2, 2, 0, 0], [0, 0, 0, 0]])  # the dropped one's too
    adv_MEL, reward_ME = credit.to_slots(jnp.ones((3, 4)), packed)
    np.testing.assert_array_equal(adv_MEL, packed.mask_MEL)  # 0 on prompts, observations and padding
    assert not np.asarray(reward_ME).any()


@pytest.mark.thorough
def test_disco_s_exponent_runs_over_groups_that_lie_in_several_micro_batches():
    """The gradient beside that of the objective itself, by a dense pass over all 24 episodes, 4 of each group."""
    ids_NL, mask_NL, _ = episodes_as_tables()
    right_QG, tau = groups()[1].reward_QG > 0, 0.5

    @jax.jit
    @jax.grad
    def dense_gradient(params):
        logp_NL = jnp.where(mask_NL, dense(params, ids_NL)[0], 0)
        score_QG = (logp_NL.sum(axis=1) / mask_NL.sum(axis=1)).reshape(6, 4)
        up_Q = jnp.where(right_QG, score_QG, 0).sum(axis=1) / right_QG.sum(axis=1)
        down_Q = jnp.where(right_QG, 0, jnp.exp(score_QG / tau)).sum(axis=1) / (~right_QG).sum(axis=1)
        return -(up_Q - tau * jnp.log(down_Q)).mean()

    settings = replace(SETTINGS, advantage=use("disco", tau=tau), loss=use("cispo", low=0, high=0))
    settings = replace(settings, reduce="sequence_mean")
    bound = learner.make(CFG, MODEL, settings, meshes.make_mesh(config.Mesh(devices=1)))
    assert not bound.needs_gold
    whole = batch(rows=4)
    in_micro_batches = [set(at_E[at_E >= 0] // 4) for at_E in whole.episode_ME[whole.used_M]]
    assert any(one & other for one, other in zip(in_micro_batches, in_micro_batches[1:], strict=False))
    _, gradient, _ = bound.gradient(bound.init(params()), whole)
    for leaf, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(dense_gradient(params())), strict=True):
        assert np.linalg.norm(leaf - wanted) <= 1e-4 * max(np.linalg.norm(wanted), 1e-6)


def lowered(advantage="grpo", loss="clip", changes=None):
    """Traced and not compiled: what is wrong with a plug-in is said before XLA is asked."""
    settings = replace(SETTINGS, advantage=use(advantage), loss=use(loss))
    bound = learner.make(CFG, MODEL, settings, meshes.make_mesh(config.Mesh(devices=1)))
    return bound.train_step.jitted.lower(bound.abstract, replace(batch(), **changes or {}), np.float32(1e-2))


@pytest.mark.parametrize(
    ("advantage", "what"),
    [
        ("nothing", "None"),
        ("number", r"an array of float32 of shape \(\)"),
        ("whole_numbers", r"an array of int32 of shape \(8, 4\)"),
        ("one_too_many", r"an array of float32 of shape \(32, 49\)"),
    ],
)
def test_an_advantage_of_another_shape_is_refused_with_its_name_and_what_was_wanted(advantage, what):
    with pytest.raises(
        ValueError, match=f"advantage 'test_credit.{advantage}' returned {what}.*; wanted .*one a token"
    ):
        lowered(f"test_credit.{advantage}")


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        ("averaged", r"the loss as an array of float32 of shape \(\) for tokens \(64, 48\)"),
        ("triple", r"a tuple of 3 \(.*; wanted \(loss_NL, metrics\)"),
        ("lost", r"None; wanted \(loss_NL, metrics\)"),
        ("averaged_metric", r"'mine' as an array of float32 of shape \(\) for tokens \(64, 48\)"),
    ],
)
def test_a_loss_of_another_shape_is_refused_with_its_name_and_what_was_wanted(loss, what):
    with pytest.raises(ValueError, match=f"loss 'test_credit.{loss}' returned {what}"):
        lowered(loss=f"test_credit.{loss}")


def test_a_batch_without_the_gold_that_the_advantage_names_is_refused():
    for changes in ({}, {"gold_logp_NT": np.zeros((24, 8), np.float32)}):
        with pytest.raises(AssertionError, match="needs_gold"):
            lowered("test_credit.by_information", changes=changes)


def of_turns(bound, state, drop):
    """What the advantage gives one group of four: rewards 1, 0, 1, 0 of 2, 2, 1 and 1 turns."""
    episodes = [
        replace(each, turn_L=np.where(each.turn_L > 0, g < 2, each.turn_L)) for g, each in enumerate(groups()[0][0])
    ]
    gold_NT = -np.abs(np.sin(np.arange(32 * 8, dtype=np.float32))).reshape(32, 8)
    packed = pack([episodes], grades([[1, 0, 1, 0]], np.ones((1, 4))), **SHAPE, drop_loss=[drop])
    return np.asarray(bound.gradient(state, replace(packed, gold_logp_NT=gold_NT))[2]["advantage"])[0]


@pytest.mark.parametrize("chosen", [use("stratified", alpha=1.0), use("igpo")], ids=lambda chosen: chosen.name)
def test_an_episode_that_leaves_the_loss_stays_in_the_statistics_of_turns(chosen):
    """Sample 1 is over-long: sample 0 has still a sibling of two turns, and all four still their gains."""
    bound = learner.make(CFG, MODEL, replace(SETTINGS, advantage=chosen), meshes.make_mesh(config.Mesh(devices=1)))
    state, none = bound.init(params()), [False] * 4
    whole = of_turns(bound, state, none)
    masked = of_turns(bound, state, [False, True, False, False])
    np.testing.assert_array_equal(masked, whole)
    if chosen.name == "stratified":
        np.testing.assert_allclose(whole, np.sqrt([0.5] * 4) * [1, -1, 1, -1], atol=1e-5)
    else:
        assert whole[1].any() and not np.isclose(whole[0, 0], whole[0, 1])
