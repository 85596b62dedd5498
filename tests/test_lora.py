"""Adapters: their sums and gradients by hand, the same update as full training's, and a base that nothing moves."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_learner
from jax.sharding import PartitionSpec as P
from test_learner import CFG, MODEL, RATE, SETTINGS, assert_close, batch, gradient

from qr_jax import config
from qr_jax.lab.planning import hlo
from qr_jax.learner import learner
from qr_jax.learner.pack import pack
from qr_jax.models import costs, decoder, linear, lora
from qr_jax.parallel import mesh as meshes

LORA = config.Lora(rank=4, alpha=8.0)
FULL = config.Lora(rank=32, alpha=32.0)  # of CFG no matrix has a higher rank; the scale is 1


def adapters(settings=LORA, seed=1, b=0.0):
    """New ones, or with a B that is not zero."""
    made = lora.init(CFG, settings, jax.random.key(seed))
    keys = iter(jax.random.split(jax.random.key(seed + 1), len(made)))
    return {
        name: a + b * jax.random.normal(next(keys), a.shape) if name.endswith("_b") else a for name, a in made.items()
    }


def base(compute="float32"):
    return jax.tree.map(lambda leaf: leaf.astype(compute), decoder.init(CFG, jax.random.key(0)))


def build(mesh=(1, 1, 1), *, settings=LORA, model=MODEL, trained=None, **learning):
    shape = meshes.make_mesh(config.Mesh(*mesh, devices=int(np.prod(mesh))))
    bound = learner.make(CFG, replace(model, lora=settings), replace(SETTINGS, **learning), shape)
    trees = adapters(settings) if trained is None else trained, base(model.compute)
    return bound, bound.init(*(jax.device_put(tree, meshes.shardings(shape, tree)) for tree in trees))


def test_a_product_and_its_gradients_by_hand():
    """x = [1 2], W = [[1 0] [0 1]], A = [1 1]', B = [2 3]: x W + (x A) B = [1 2] + 3 [2 3] = [7 11].

    For a sum of both results dB = (x A)' [1 1] = [3 3], dA = x' [1 1] B' = [5 10]', dx = [1 1] (W' + B' A') = [6 6].
    """
    x, w = jnp.array([[[1.0, 2.0]]]), jnp.eye(2)
    of = {"q_a": jnp.array([[1.0], [1.0]]), "q_b": jnp.array([[2.0, 3.0]])}
    np.testing.assert_array_equal(linear.adapted("q", x, w, of), [[[7, 11]]])
    np.testing.assert_array_equal(linear.adapted("k", x, w, of), x)  # which has none
    d_x, d_of = jax.grad(lambda x, of: linear.adapted("q", x, w, of).sum(), argnums=(0, 1))(x, of)
    np.testing.assert_array_equal(d_x, [[[6, 6]]])
    np.testing.assert_array_equal(d_of["q_a"], [[5], [10]])
    np.testing.assert_array_equal(d_of["q_b"], [[3, 3]])


def test_a_bfloat16_sum_is_rounded_once():
    """1 + 2**-9 is 1 in bfloat16, and so a second addition of 2**-9 to a rounded first would be lost."""
    x, w = jnp.ones((1, 1, 2), jnp.bfloat16), jnp.array([[1.0], [2**-9]], jnp.bfloat16)
    of = {"q_a": jnp.array([[1.0], [0.0]]), "q_b": jnp.array([[2**-9 * 1.5]])}
    assert float(linear.adapted("k", x, w, of)[0, 0, 0]) == 1
    assert float(linear.adapted("q", x, w, of)[0, 0, 0]) == 1 + 2**-7


@pytest.mark.thorough
def test_merged_is_w_plus_alpha_over_rank_times_a_b():
    made = adapters(config.Lora(rank=4, alpha=8.0), b=0.1)
    whole = lora.merged(lora.whole(made, base(), LORA))
    w = np.asarray(base()["layers"]["o"][1]).reshape(32, 32)
    a, b = np.asarray(made["o_a"][1]).reshape(32, 4), np.asarray(made["o_b"][1])
    np.testing.assert_allclose(np.asarray(whole["layers"]["o"][1]).reshape(32, 32), w + 2 * a @ b, atol=1e-6)
    assert "lora" not in whole["layers"] and whole["layers"].keys() == base()["layers"].keys()


@pytest.mark.thorough
@pytest.mark.parametrize("layers", ["attention", "mlp", "all-linear"])
def test_the_forward_pass_is_that_of_the_merged_weights(layers):
    settings = replace(LORA, layers=layers)
    whole = lora.whole(adapters(settings, b=0.1), base(), settings)
    ids = np.arange(12)[None] + 3
    given = ids, np.arange(12)[None], np.ones_like(ids)
    hidden = decoder.forward(CFG, whole, *given)
    np.testing.assert_allclose(hidden, decoder.forward(CFG, lora.merged(whole), *given), atol=2e-5)
    assert np.abs(np.asarray(hidden - decoder.forward(CFG, base(), *given))).max() > 0.01


def test_new_adapters_change_nothing_and_a_is_as_wide_as_pefts():
    made = adapters()
    assert all(not array.any() for name, array in made.items() if name.endswith("_b"))
    for name, inputs in {"q_a": 32, "o_a": 32, "down_a": 64}.items():
        bound = inputs**-0.5
        assert 0.9 * bound < np.abs(made[name]).max() <= bound and np.std(made[name]) == pytest.approx(
            bound / 3**0.5, rel=0.1
        )
    np.testing.assert_array_equal(lora.merged(lora.whole(made, base(), LORA))["layers"]["q"], base()["layers"]["q"])


def eye():
    """A is the identity on a matrix's 32 inputs and B zero; `down`, of 64 inputs, has A zero and B the identity."""
    made = adapters(FULL)
    for name, array in made.items():
        is_one = name.endswith("_b") if name.startswith("down") else name.endswith("_a")
        square = jnp.eye(FULL.rank).reshape(array.shape[1:]) if is_one else 0.0
        made[name] = jnp.broadcast_to(square, array.shape)
    return made


def test_of_full_rank_the_first_update_is_full_trainings():
    """With A the identity W + A B is any matrix, dB = A' dW = dW, and dA = 0 where B is 0: Adam then moves B as W.

    So it is of `down` with A and B exchanged.
    """
    bound, state = build(settings=FULL, trained=eye(), clip_norm=1e9)
    whole, full = test_learner.build(clip_norm=1e9)
    before = jax.tree.map(np.asarray, full.params["layers"])
    _, grads = gradient(bound, state, batch())
    _, wanted = gradient(whole, full, batch())
    state, _ = bound.train_step(state, batch(), RATE)
    full, _ = whole.train_step(full, batch(), RATE)
    merged = lora.merged(lora.whole(state.params, state.base, FULL))["layers"]
    for name in lora.MATRICES["all-linear"]:
        still, moves = ("b", "a") if name == "down" else ("a", "b")
        g = wanted["layers"][name]
        np.testing.assert_allclose(grads[f"{name}_{moves}"].reshape(g.shape), g, atol=1e-6)
        moved, fully = (np.asarray(tree[name]) - before[name] for tree in (merged, full.params["layers"]))
        assert np.abs(fully).max() == pytest.approx(float(RATE), rel=0.01)
        np.testing.assert_allclose(moved, fully, atol=1e-5)
        assert not grads[f"{name}_{still}"].any()


def test_the_share_of_adapters_that_bfloat16_keeps_is_that_of_whole_steps_of_its_grid():
    """By hand: beside 1 bfloat16 has steps of 2^-7. A product of .001 is rounded away, one of 2^-7 is kept."""
    layers = {name: jnp.ones_like(array) for name, array in base()["layers"].items()}
    tree = {**base(), "layers": layers}
    for product, share in ((0.001, 0.0), (2**-7, 1.0), (2**-8 * 1.5, 2 / 1.5)):
        a = {name: jnp.zeros_like(array) for name, array in adapters().items()}
        made = {n: v.at[..., 0].set(1.0) if n.endswith("_a") else v.at[:, 0].set(product) for n, v in a.items()}
        whole = lora.whole(made, tree, config.Lora(LORA.rank, LORA.rank))
        assert lora.share_kept(whole) == pytest.approx(share, abs=1e-6)
    assert lora.share_kept(tree) is None and math.isnan(lora.share_kept(lora.whole(a, tree, LORA)))


@pytest.fixture(scope="module")
def reference():
    return gradient(*build(trained=adapters(b=0.1)), batch())


@pytest.mark.thorough
@pytest.mark.parametrize("how", [{"mesh": (2, 2, 2)}, {"mesh": (1, 4, 2)}, {"model": replace(MODEL, remat="full")}])
def test_the_gradient_is_the_same_on_eight_devices_and_with_remat(how, reference):
    assert_close(gradient(*build(trained=adapters(b=0.1), **how), batch()), reference)


@pytest.mark.thorough
@pytest.mark.parametrize("share", [False, True])
def test_with_the_kl_term_and_shared_prefixes_the_second_gradient_is_the_same_on_eight_devices(share):
    """After an update the adapters differ from the reference, which is the base with the adapters of the start."""
    packed = pack(*test_learner.groups(), rows=8, row_tokens=48, per_row=8, queries=8, samples=4, share=share)

    def second(mesh, kl_weight=0.1):
        bound, state = build(mesh, trained=adapters(b=0.1), kl_weight=kl_weight, share_prefixes=share)
        state, _ = bound.train_step(state, packed, RATE)
        return gradient(bound, state, packed)

    found, wanted = second((1, 4, 2)), second((1, 1, 1))
    assert found[0] == pytest.approx(wanted[0], rel=1e-3)
    for name, one in wanted[1].items():
        assert np.linalg.norm(found[1][name] - one) <= 1e-3 * np.linalg.norm(one)
    assert wanted[0] > second((1, 1, 1), kl_weight=0.0)[0] + 1e-4, "the KL term is in the loss"


@pytest.mark.thorough
@pytest.mark.parametrize("remat", ["attention", "dots"])
def test_every_remat_gives_that_gradient(remat, reference):
    assert_close(gradient(*build(trained=adapters(b=0.1), model=replace(MODEL, remat=remat)), batch()), reference)


def test_the_gradient_does_not_depend_on_micro_batches(reference):
    assert int(batch(rows=4).used_M.sum()) >= 4
    assert_close(gradient(*build(trained=adapters(b=0.1)), batch(rows=4)), reference)


def test_adapters_lie_over_the_mesh_as_their_matrices_do():
    bound, _ = build((2, 2, 2))
    specs = {name: leaf.sharding.spec for name, leaf in bound.abstract.params.items()}
    assert specs["q_a"] == P(None, "fsdp", None) and specs["q_b"] == P(None, None, "tensor", None)
    assert specs["down_a"] == P(None, "tensor", None) and specs["down_b"] == P(None, None, "fsdp")


@pytest.mark.thorough
@pytest.mark.parametrize("by_parts", [False, True])
def test_updates_move_the_adapters_and_not_a_byte_of_the_base(by_parts):
    bound, state = build(model=replace(MODEL, compute="bfloat16"), kl_weight=0.1)
    before, start = (jax.tree.map(np.asarray, tree) for tree in (state.base, state.params))
    kl = []
    for _ in range(2):
        if by_parts:
            state, metrics = bound.step_by_parts(state, batch(), RATE, between=lambda: None)
        else:
            state, metrics = bound.train_step(state, batch(), RATE)
        kl.append(float(metrics["kl"]))
    assert jax.tree.all(jax.tree.map(lambda a, b: a.tobytes() == np.asarray(b).tobytes(), before, state.base))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state.base)} == {"bfloat16"}
    assert all((start[name] != np.asarray(array)).any() for name, array in state.params.items())
    # the base, under adapters that changed nothing, is the reference: but for bfloat16's rounding in two programs
    assert kl[0] < 1e-3 and kl[1] > 10 * kl[0]


@pytest.mark.thorough
def test_the_optimizer_the_gradient_and_the_reference_are_of_the_size_of_the_adapters():
    """Two moments and a counter, and with the KL term no second copy of the base."""
    bound, state = build(kl_weight=0.1)
    count = 2 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))  # q and o, k and v, the MLP
    assert lora.count(CFG, LORA) == count == sum(leaf.size for leaf in state.params.values())
    for tree, copies in ((state.params, 1), (state.opt_state, 2), (state.reference, 1)):
        sizes = [leaf.size for leaf in jax.tree.leaves(tree) if leaf.ndim]
        assert sum(sizes) == copies * count
    assert sum(leaf.size for leaf in jax.tree.leaves(gradient(bound, state, batch())[1])) == count
    assert state.saved().base is None and state.base is not None


@pytest.mark.thorough
def test_an_update_computes_no_gradient_of_the_base():
    """Compiled, it has the operations of full training without a weight's gradient: a third of those of matrices."""
    bound, _ = build(settings=replace(LORA, rank=1))
    whole, _ = test_learner.build()
    ours, theirs = (
        hlo.cost(made.train_step.jitted.lower(made.abstract, batch(), RATE).compile().as_text()).flops
        for made in (bound, whole)
    )
    assert ours < 0.8 * theirs, (ours, theirs)


def test_operations_of_an_update_are_those_of_the_base_without_its_gradients():
    how = {"tokens": 10, "pairs": 55, "predicted": 4}
    full, ours = costs.training_flops(CFG, **how), costs.training_flops(CFG, **how, adapters=100)
    matrices = 2 * costs.matrix_parameters(CFG) * 10 + 2 * CFG.vocab * CFG.width * 4
    assert full - ours == matrices - 3 * 2 * 100 * 10


def test_a_rank_above_every_matrixs_is_refused_before_anything_compiles():
    with pytest.raises(ValueError, match="model.lora.rank=33, and no matrix of this model has a rank above 32; set"):
        build(settings=config.Lora(rank=33))
