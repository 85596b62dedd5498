"""The learner: one update is the same on every mesh, packed or padded, in one micro-batch or four."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from qr_jax import config
from qr_jax.learner import learner
from qr_jax.learner.advantages.grpo import grpo
from qr_jax.learner.pack import pack
from qr_jax.models import decoder
from qr_jax.models.families import ModelConfig
from qr_jax.parallel import compiles
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Episode, Query, grades

CFG = ModelConfig(
    vocab=64, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=64, context_tokens=64, qk_norm=True
)
MODEL = config.Model(vocab_block=24)
SETTINGS = config.Learner(lr=1e-2, kl_weight=0.0, rows=8, row_tokens=48)
RATE = np.float32(1e-2)


def episode(rng, sample, length):
    """A prompt of 4, then samples and observations in turn."""
    ids = rng.integers(2, CFG.vocab, length).astype(np.int32)
    mask = np.arange(length) >= 4
    mask[8:11] = False
    turn = np.where(mask, (np.arange(length) >= 11).astype(np.int32), -1)
    logp = np.where(mask, -rng.random(length), 0).astype(np.float32)
    return Episode(Query("q", "?", ("a",)), sample, 0, ids, mask, logp, turn, (), None, "answered", True)


def groups(queries=6, samples=4, seed=0):
    rng = np.random.default_rng(seed)
    episodes = [[episode(rng, g, int(rng.integers(14, 40))) for g in range(samples)] for _ in range(queries)]
    reward_QG = rng.integers(0, 2, (queries, samples)).astype(np.float32)
    reward_QG[:, 0], reward_QG[:, 1] = 0, 1
    return episodes, grades(reward_QG, np.ones_like(reward_QG, bool))


def batch(rows=8, per_row=8, micro=None, **changes):
    episodes, graded = groups(**changes)
    return pack(episodes, graded, rows=rows, row_tokens=48, per_row=per_row, queries=8, samples=4, micro=micro)


def build(mesh=(1, 1, 1), **settings):
    shape = config.Mesh(*mesh, devices=int(np.prod(mesh)))
    bound = learner.make(CFG, MODEL, replace(SETTINGS, **settings), meshes.make_mesh(shape))
    return bound, bound.init(decoder.init(CFG, jax.random.key(0)))


def gradient(bound, state, whole):
    loss, grads, _ = bound.gradient(state, whole)
    return float(loss), jax.tree.map(np.asarray, grads)


def assert_close(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-5, abs=1e-7)
    for a, b in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * max(np.linalg.norm(a), 1e-6)


@pytest.fixture(scope="module")
def reference():
    bound, state = build()
    return gradient(bound, state, batch())


@pytest.mark.thorough
@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2), (1, 8, 1), (1, 2, 4)])
def test_loss_and_gradient_are_the_same_on_every_mesh(mesh, reference):
    bound, state = build(mesh)
    assert_close(gradient(bound, state, batch()), reference)


@pytest.mark.thorough
def test_loss_and_gradient_do_not_depend_on_micro_batches_or_packing(reference):
    bound, state = build()
    assert int(batch(rows=4).used_M.sum()) >= 4 and int(batch(rows=16).used_M.sum()) == 1
    for other in (batch(rows=4), batch(rows=16), batch(rows=8, per_row=1)):
        assert_close(gradient(bound, state, other), reference)


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 2)])
def test_group_means_are_a_hand_calculation_over_micro_batches_and_on_every_mesh(mesh):
    """At first a token's loss is minus its advantage: the mean over 6 groups of each group's mean over tokens."""
    episodes, graded = groups()
    adv_QG, by_group = np.asarray(grpo(graded)), []
    for group, adv_G in zip(episodes, adv_QG, strict=True):
        tokens_G = np.array([one.mask_L.sum() for one in group])
        by_group.append(-(tokens_G * adv_G).sum() / tokens_G.sum())
    bound, state = build(mesh, reduce="group_mean")
    whole = batch()
    assert int(whole.used_M.sum()) >= 2 and len({*by_group}) == 6
    loss, grads = gradient(bound, state, whole)
    assert loss == pytest.approx(np.mean(by_group), rel=1e-5)
    assert_close(gradient(bound, state, batch(rows=16)), (loss, grads))
    assert loss != pytest.approx(gradient(*build(mesh), whole)[0], rel=1e-2)


def alike():
    """Groups whose samples begin as the first does: some with a part of its tokens, one with all of them."""
    rng, (made, graded) = np.random.default_rng(1), groups(seed=1)
    for group in made:
        first = group[0]
        for g, one in enumerate(group[1:], 1):
            shared = len(first.ids_L) if g == 3 else int(rng.integers(5, min(len(one.ids_L), len(first.ids_L))))
            rest = shared if g < 3 else len(one.ids_L)
            arrays = {
                name: np.concatenate([getattr(first, name)[:shared], getattr(one, name)[rest:]])
                for name in ("ids_L", "mask_L", "logp_L", "turn_L")
            }
            group[g] = replace(one, **arrays)
    return made, graded


@pytest.mark.thorough
@pytest.mark.parametrize("settings", [{}, {"entropy_weight": 0.1}, {"kl_weight": 0.1, "loss": config.use("gspo")}])
def test_what_samples_begin_with_is_computed_once_and_the_gradient_is_that_of_whole_episodes(settings):
    """Also where a row has no room for a whole group, and over a mesh."""
    made, graded = alike()
    bound, state = build(**settings)
    sizes = {"queries": 6, "samples": 4}
    whole = pack(made, graded, rows=2, row_tokens=48, **sizes)
    wanted = gradient(bound, state, whole)
    for row_tokens in (120, 48, 40):
        packed = pack(made, graded, rows=2, row_tokens=row_tokens, share=True, **sizes)
        assert (packed.segment_MRC > 0).sum() < (0.7 if row_tokens == 120 else 0.9) * (whole.segment_MRC > 0).sum()
        assert_close(gradient(bound, state, packed), wanted)
    bound, state = build((2, 2, 2), **settings)
    packed = pack(made, graded, rows=8, row_tokens=48, share=True, **sizes)
    assert_close(gradient(bound, state, packed), wanted)


def test_observation_tokens_give_no_gradient_and_their_targets_do_not_matter(reference):
    """Scores at positions that predict an observation token may be anything: the loss does not read them."""
    whole = batch()
    bound, state = build()
    target = whole.target_MRC.copy()
    sampled = np.zeros(target.shape, bool)
    for m, e in zip(*np.nonzero(whole.mask_MEL.any(-1)), strict=True):
        flat = whole.source_MEL[m, e][whole.mask_MEL[m, e]]
        sampled[m].reshape(-1)[flat] = True
    assert (~sampled & (target > 0)).any()
    target[~sampled] = 1
    changed = gradient(bound, state, replace(whole, target_MRC=target))
    assert changed[0] == reference[0]
    assert all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(changed[1]), jax.tree.leaves(reference[1]), strict=True)
    )


def test_a_zero_variance_group_adds_nothing_and_a_step_without_signal_leaves_the_state_bitwise():
    bound, state = build()
    episodes, graded = groups()
    before = jax.tree.map(np.asarray, state)
    none = pack([], grades(np.zeros((0, 4)), np.zeros((0, 4), bool)), rows=8, row_tokens=48, queries=8, samples=4)
    after, metrics = bound.train_step(state, none, RATE)
    assert not bool(metrics["any"]) and int(after.updates) == 0 and int(after.skipped) == 0
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.array_equal(a, np.asarray(b))
    dead = grades(np.full((6, 4), 0.1), np.ones((6, 4), bool))
    _, grads = gradient(bound, after, pack(episodes, dead, rows=8, row_tokens=48, queries=8, samples=4))
    assert all(not leaf.any() for leaf in jax.tree.leaves(grads))


def test_an_update_moves_the_weights_and_one_that_is_not_finite_is_skipped_and_counted():
    bound, state = build()
    state, metrics = bound.train_step(state, batch(), RATE)
    assert int(state.updates) == 1 and float(metrics["grad_norm"]) > 0 and float(metrics["update_norm"]) > 0
    before = jax.tree.map(np.asarray, state.params)
    broken = batch()
    broken.grades.reward_QG[0, 0] = np.inf
    state, metrics = bound.train_step(state, broken, RATE)
    assert not bool(metrics["finite"]) and int(state.skipped) == 1 and int(state.updates) == 1
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.params), strict=True):
        assert np.array_equal(a, np.asarray(b))


def test_the_ratio_is_one_on_the_first_update_and_old_log_probabilities_are_the_learners_own():
    bound, state = build()
    whole = batch()
    old = bound.old_logp(state, whole)
    _, _, metrics = bound.gradient(state, whole)
    _, _, again = bound.gradient(state, whole, old)
    assert float(metrics["ratio"]) == pytest.approx(1, abs=1e-6)
    assert float(again["ratio"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.thorough
def test_a_kl_term_keeps_a_reference_that_later_updates_do_not_move():
    bound, state = build(kl_weight=0.1, kl="k3")
    start = jax.tree.map(np.asarray, state.params)
    state, first = bound.train_step(state, batch(), RATE)
    state, second = bound.train_step(state, batch(), RATE)
    assert float(first["kl"]) == pytest.approx(0, abs=1e-6) and float(second["kl"]) > 0
    assert all(
        np.array_equal(a, np.asarray(b))
        for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(state.reference), strict=True)
    )


@pytest.mark.parametrize(("weight", "metric", "sign"), [("entropy_weight", "entropy", -1), ("kl_weight", "kl", 1)])
def test_the_entropy_is_taken_off_the_loss_and_the_divergence_added(weight, metric, sign, reference):
    """The loss is a mean over tokens, as the metrics are; the reference is another policy than the one trained."""
    bound, state = build(**{weight: 0.5})
    if state.reference is not None:
        state = replace(state, reference=decoder.init(CFG, jax.random.key(1)))
    loss, _, metrics = bound.gradient(state, batch())
    assert float(metrics[metric]) > 0.01
    assert float(loss) - reference[0] == pytest.approx(sign * 0.5 * float(metrics[metric]), rel=1e-4)


def test_weights_decay_and_norms_and_biases_do_not():
    params = {"layer": {"up": np.ones(2), "mlp_norm": np.ones(2), "q_bias": np.ones(2)}, "final_norm": np.ones(2)}
    adam = learner.optimizer(replace(SETTINGS, weight_decay=0.1))
    updates, _ = adam.update(jax.tree.map(np.zeros_like, params), adam.init(params), params)
    layer = updates["layer"]
    np.testing.assert_allclose(layer["up"], -0.1)
    assert not any(leaf.any() for leaf in (layer["mlp_norm"], layer["q_bias"], updates["final_norm"]))


def test_a_denominator_over_drawn_counts_what_was_left_out():
    bound, state = build(over="drawn")
    accepted = batch()
    tokens = int(accepted.mask_MEL.sum())
    whole, _ = gradient(bound, state, accepted)
    half, _ = gradient(bound, state, replace(accepted, drawn_tokens=np.int32(tokens)))
    assert half == pytest.approx(whole / 2, rel=1e-6)


@pytest.mark.thorough
def test_bfloat16_compute_keeps_float32_masters_and_stays_near_the_float32_step(reference):
    shape = config.Mesh(1, 1, 1, devices=1)
    model = replace(MODEL, compute="bfloat16", remat="full")
    bound = learner.make(CFG, model, SETTINGS, meshes.make_mesh(shape))
    state = bound.init(decoder.init(CFG, jax.random.key(0)))
    loss, grads = gradient(bound, state, batch())
    assert loss == pytest.approx(reference[0], abs=2e-2)
    state, metrics = bound.train_step(state, batch(), RATE)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state.params)) and bool(metrics["finite"])
    norm = sum(float(np.sum(leaf**2)) for leaf in jax.tree.leaves(reference[1])) ** 0.5
    gap = [np.sum((a - b) ** 2) for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(reference[1]), strict=True)]
    assert sum(gap) ** 0.5 < 0.05 * norm


@pytest.mark.thorough
def test_remat_changes_no_gradient(reference):
    for remat in ("full", "attention", "dots"):
        bound = learner.make(CFG, replace(MODEL, remat=remat), SETTINGS, meshes.make_mesh(config.Mesh(devices=1)))
        assert_close(gradient(bound, bound.init(decoder.init(CFG, jax.random.key(0))), batch()), reference)


@pytest.mark.thorough
def test_several_updates_a_batch_split_it_and_hold_the_old_policy_still():
    bound, state = build(updates=3)
    whole = batch(rows=4)
    state, metrics = bound.update(state, whole, 1e-3)
    assert len(metrics) == 3 and int(state.updates) == 3
    assert sum(int(part["tokens"]) for part in metrics) == int(whole.mask_MEL.sum())
    ratios = [abs(float(part["ratio"]) - 1) for part in metrics]
    assert ratios[0] < 1e-6 < ratios[1]  # the first part is on-policy, the next are not


@pytest.mark.parametrize("shape", [(8, 4), (8, 4, 3), (32, 48)])
def test_of_several_updates_each_episode_is_told_the_advantage_of_its_own(shape):
    """A learner whose nth update has the advantage n everywhere: an episode is told the number of its update."""
    whole, calls = batch(rows=4), iter(range(3))

    def numbered(state, batch, rate, old):
        return state, {"advantage": np.full(shape, next(calls), np.float32)}

    bound = replace(build(updates=3)[0], train_step=numbered, old_logp=lambda state, batch: None)
    _, every = bound.update(None, whole, 1e-2)  # pyright: ignore
    told_N = every[0]["advantage"].reshape(32, -1)[:, 0]
    for m in np.flatnonzero(whole.used_M):
        ids = whole.episode_ME[m][whole.episode_ME[m] >= 0]
        assert len(ids) and (told_N[ids] == m % 3).all()


@pytest.mark.parametrize("name", ["gfpo", "opo"])
def test_an_advantage_by_lengths_is_the_same_in_each_part_of_a_batch(name):
    """A group's samples may lie in several parts: all of them are compared in each."""
    bound, state = build(updates=3, advantage=config.use(name))
    whole, advantage_of = batch(rows=4), jax.jit(lambda part: bound.train_step(state, part, RATE)[1]["advantage"])
    wanted_QG = np.asarray(advantage_of(whole))
    made = list(learner.parts(whole, 3))
    assert len(made) == 3 and wanted_QG.any()
    for part in made:
        np.testing.assert_array_equal(advantage_of(part), wanted_QG)


def test_one_program_trains_groups_of_all_widths_up_to_the_stated_most():
    """Four samples at most: groups of 4, of 2 and of 2, 3 and 4 episodes, in batches of one shape."""
    bound, state = build()
    episodes, graded = groups()

    def narrowed(widths):
        """The first episodes of each group, graded in a table as wide as the widest."""
        widest, queries = max(widths), len(widths)
        valid_QG = np.arange(widest)[None] < np.array(widths)[:, None]
        narrow = [group[:width] for group, width in zip(episodes, widths, strict=False)]
        return pack(narrow, grades(graded.reward_QG[:queries, :widest], valid_QG), rows=8, row_tokens=48, queries=8,
                    samples=4)  # fmt: skip

    compiles.count()
    before = None
    for widths in ((4,) * 6, (2,) * 6, (2, 3, 4, 3), (2,)):
        state, metrics = bound.train_step(state, narrowed(widths), RATE)
        assert int(metrics["signal_groups"]) == len(widths) and bool(metrics["finite"])
        assert metrics["advantage"].shape == (8, 4) and bound.train_step.jitted._cache_size() == 1
        assert before in (None, compiles.count())
        before = compiles.count()


def test_the_advantage_that_was_trained_is_among_the_metrics():
    """Of 1, 0 and nothing else the group's mean is .5: Dr. GRPO gives +-.5, and 0 where there is no episode."""
    bound, state = build(advantage=config.use("dr_grpo"))
    episodes, _ = groups()
    pair = pack([episodes[0][:2]], grades([[1, 0]], [[1, 1]]), rows=8, row_tokens=48, queries=8, samples=4)
    _, _, metrics = bound.gradient(state, pair)
    wanted_QG = np.zeros((8, 4))
    wanted_QG[0, :2] = 0.5, -0.5
    np.testing.assert_array_equal(metrics["advantage"], wanted_QG)


def test_the_learning_rate_warms_up_with_updates_and_falls_with_the_run():
    bound, _ = build(lr=1.0, schedule="linear", warmup_updates=2)
    assert [bound.rate(updates, updates / 8) for updates in (0, 1, 2, 6, 8)] == [0.5, 0.875, 0.75, 0.25, 0.0]
    constant, _ = build(lr=0.5)
    assert [constant.rate(updates, updates / 8) for updates in (0, 4, 8)] == [0.5, 0.5, 0.5]
    cosine, _ = build(lr=2.0, schedule="cosine")
    np.testing.assert_allclose([cosine.rate(0, done) for done in (0.0, 0.5, 1.0)], [2.0, 1.0, 0.0])


@pytest.mark.thorough
@pytest.mark.parametrize(("full", "share"), [(0, 1.0), (1, 1.0), (16, None)])
def test_few_signal_groups_make_a_part_of_an_update(full, share):
    bound, state = build(full_groups=full)
    whole, _ = build()
    before = jax.tree.map(np.asarray, state.params)
    after, metrics = bound.train_step(state, batch(), RATE)
    reference, _ = whole.train_step(build()[1], batch(), RATE)
    share = share or float(metrics["signal_groups"]) / 16
    assert 0 < share < 1 or full < 2
    assert float(metrics["update_scale"]) == pytest.approx(share)
    moved, fully = (jax.tree.map(lambda a, b: np.asarray(a) - b, one.params, before) for one in (after, reference))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b * share, rtol=1e-2, atol=1e-7), moved, fully)
    np.testing.assert_array_equal(*(jax.tree.leaves(one.opt_state)[1] for one in (after, reference)))


def test_the_rate_is_an_argument_of_the_update_and_among_its_metrics():
    bound, state = build()
    before = jax.tree.map(np.asarray, state.params)
    after, (metrics,) = bound.update(state, batch(), 0.0)
    assert (float(metrics["lr"]), float(metrics["update_norm"]), int(after.updates)) == (0, 0, 1)
    assert float(metrics["grad_norm"]) > 0
    jax.tree.map(np.testing.assert_array_equal, after.params, before)


@pytest.mark.thorough
@pytest.mark.parametrize("sizes", [(1, 1, 1), pytest.param((2, 2, 2), marks=pytest.mark.slow)])
def test_a_step_by_parts_is_the_step_and_what_comes_between_may_end_it(sizes):
    bound, state = build(sizes)
    some, calls = batch(), []
    before = jax.tree.map(np.asarray, state)

    def second():
        calls.append(1)
        if len(calls) == 2:
            raise KeyError

    with pytest.raises(KeyError):
        bound.step_by_parts(state, some, RATE, between=second)
    jax.tree.map(np.testing.assert_array_equal, state, before)  # nothing of it was donated
    made, metrics = bound.step_by_parts(state, some, RATE, between=lambda: calls.append(1))
    assert len(calls) == 2 + some.used_M.sum() + 1
    whole, their_metrics = bound.train_step(build(sizes)[1], some, RATE)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), (made, metrics), (whole, their_metrics))


def test_counts_beside_are_shared_by_the_updates_that_are_made():
    some = replace(batch(rows=2), beside_tokens=np.int32(30))
    one = replace(some, used_M=np.arange(len(some.used_M)) == 0)
    assert [part.beside_tokens for part in learner.parts(one, 4)] == [30]
    assert [part.beside_tokens for part in learner.parts(some, 2)] == [15, 15]


def test_several_updates_by_parts_are_those_of_whole_steps_and_only_the_first_may_be_ended():
    bound, state = build(updates=2)
    some, calls = batch(rows=2), []
    parted, before = replace(bound, by_parts=True), jax.tree.map(np.asarray, state)
    first = next(learner.parts(some, 2)).used_M.sum()
    assert some.used_M.sum() > first > 1

    def last():
        calls.append(1)
        if len(calls) == first + 1:
            raise KeyError

    with pytest.raises(KeyError):
        parted.update(state, some, RATE, last)
    jax.tree.map(np.testing.assert_array_equal, state, before)
    made = parted.update(state, some, RATE, lambda: calls.append(1))
    assert len(calls) == 2 * (first + 1)  # none in the second update: the first one's state is gone
    whole = bound.update(build(updates=2)[1], some, RATE)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), made, whole)


@pytest.mark.parametrize(
    ("settings", "forwards"),
    [
        ({}, 0),
        ({"kl_weight": 0.1}, 1),
        ({"loss": config.use("needs_reference")}, 1),
        ({"updates": 2, "kl_weight": 0.1}, 2),
        ({"advantage": config.use("needs_both")}, 2),  # entropies, and log-probabilities of the policy
        ({"advantage": config.use("needs_both"), "updates": 2}, 3),  # of which the old policy's are there already
    ],
)
def test_passes_that_are_forward_alone_are_counted_by_what_is_asked_for(settings, forwards, monkeypatch):
    def needs_reference(logp_NL, ref_logp_NL, *, adv_NL=None):
        return logp_NL, {}

    def needs_both(grades, entropy_NL, old_logp_NL, logp_NL):
        return grades.reward_QG

    own, bind = {"needs_reference": needs_reference, "needs_both": needs_both}, learner.plugins.bind
    monkeypatch.setattr(learner.plugins, "bind", lambda kind, use: own.get(use.name) or bind(kind, use))
    assert build(**settings)[0].forwards == forwards


def test_with_overlap_ratios_are_against_what_the_sampler_recorded_and_weights_against_the_policy_before_the_update():
    """By hand: the recorded log-probabilities are .1 nats above the learner's, so that each ratio is exp(-.1)."""
    _, state = build()
    plain = build()[0]
    logp_MEL = np.asarray(plain.old_logp(state, batch()))
    moved = replace(batch(), rollout_logp_MEL=np.where(batch().mask_MEL, logp_MEL + 0.1, 0).astype(np.float32))
    on = meshes.make_mesh(config.Mesh(devices=1))
    for importance, ratio in (("off", np.exp(-0.1)), ("truncate", 1.0)):
        settings = replace(SETTINGS, importance=importance)
        bound = learner.make(CFG, MODEL, settings, on, overlap=1)
        _, (metrics,) = bound.update(bound.init(decoder.init(CFG, jax.random.key(0))), moved, RATE)
        assert metrics["ratio"] == pytest.approx(ratio, abs=1e-4)
        assert metrics["gap"] == pytest.approx(0.1, abs=1e-4)  # of sampler and learner in both
    without = learner.make(CFG, MODEL, SETTINGS, on)
    _, (metrics,) = without.update(without.init(decoder.init(CFG, jax.random.key(0))), moved, RATE)
    assert metrics["ratio"] == 1 and metrics["gap"] == pytest.approx(0.1, abs=1e-4)
