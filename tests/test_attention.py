"""Attention in packed rows: by blocks and by splash it is the plain formula, values and gradients."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from qr_jax.models import attention, flash


def plain(q_NLHd, k_NLKd, v_NLKd, segment_NL, window=10**6):
    """The formula with the whole [L, L] array of scores."""
    length, repeat = q_NLHd.shape[1], q_NLHd.shape[2] // k_NLKd.shape[2]
    k, v = (jnp.repeat(y, repeat, axis=2) for y in (k_NLKd, v_NLKd))
    near_LL = jnp.arange(length)[:, None] - jnp.arange(length)[None] < window
    seen_NLL = jnp.tril(near_LL)[None] & (segment_NL[:, :, None] == segment_NL[:, None])
    score = jnp.einsum("nihd,njhd->nhij", q_NLHd, k) * q_NLHd.shape[-1] ** -0.5
    return jnp.einsum("nhij,njhd->nihd", jax.nn.softmax(jnp.where(seen_NLL[:, None], score, -1e30)), v)


def inputs(lengths_N, length, *, heads=4, kv_heads=2, dim=8):
    """q, k, v and the segments that `lengths_N` names for each row; what is left of a row is padding."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(len(lengths_N), length, many, dim) for many in (heads, kv_heads, kv_heads)]
    segment_NL = np.zeros((len(lengths_N), length), np.int32)
    for n, lengths in enumerate(lengths_N):
        segment_NL[n, : sum(lengths)] = np.repeat(np.arange(len(lengths)) + 1, lengths)
    return *(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)), jnp.asarray(segment_NL)


def with_gradients(attend, q, k, v, segment_NL):
    def total(q, k, v):
        out = attend(q, k, v, segment_NL)
        weight = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return jnp.sum(jnp.where(segment_NL[..., None, None] > 0, out * weight, 0)), out

    grads, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return [jnp.where(segment_NL[..., None, None] > 0, out, 0), *grads]


def assert_same(found, wanted, tolerance=2e-5):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * float(jnp.abs(other).max()))


def test_two_tokens_by_hand():
    """Scores 0 and ln 3 of the second token: its output is a quarter of the first value and three of the second."""
    q = jnp.array([1.0, 1.0]).reshape(1, 2, 1, 1)
    k, v = jnp.array([0.0, np.log(3.0)]).reshape(1, 2, 1, 1), jnp.array([4.0, 8.0]).reshape(1, 2, 1, 1)
    together = attention.packed(q, k, v, jnp.array([[1, 1]]))
    np.testing.assert_allclose(together.ravel(), [4, 7], rtol=1e-6)
    np.testing.assert_allclose(attention.packed(q, k, v, jnp.array([[1, 2]])).ravel(), [4, 8], rtol=1e-6)

    sliding = attention.Sliding(jnp.array(True), 1, jnp.array([[0, 1]]))
    np.testing.assert_allclose(attention.packed(q, k, v, jnp.array([[1, 1]]), None, sliding).ravel(), [4, 8], rtol=1e-6)


LENGTHS = ([[300], [300]], [[20, 150, 90], [200, 30]], [[1, 2, 140, 3], []])


@pytest.mark.thorough
@pytest.mark.parametrize("lengths_N", LENGTHS)
def test_by_blocks_values_and_gradients_are_those_of_the_plain_formula(lengths_N):
    arrays = inputs(lengths_N, 300)  # three blocks of 100
    assert_same(with_gradients(attention.packed, *arrays), with_gradients(plain, *arrays))


def positions(segment_NL):
    """Each column's place in its segment."""
    at_L, segment_NL = np.arange(segment_NL.shape[1]), np.asarray(segment_NL)
    new_NL = np.diff(segment_NL, axis=1, prepend=-1) != 0
    return jnp.asarray(at_L - np.maximum.accumulate(np.where(new_NL, at_L, 0), axis=1))


def sliding_over(window, slides=True):
    def attend(q, k, v, segment_NL):
        sliding = attention.Sliding(jnp.array(slides), window, positions(segment_NL))
        return attention.packed(q, k, v, segment_NL, None, sliding)

    return attend


@pytest.mark.thorough
@pytest.mark.parametrize(("window", "lengths_N"), list(zip((150, 37, 2), LENGTHS, strict=True)))
def test_a_window_hides_what_is_further_back_in_the_segment(window, lengths_N):
    arrays = inputs(lengths_N, 300)
    assert_same(with_gradients(sliding_over(window), *arrays), with_gradients(partial(plain, window=window), *arrays))
    whole = sliding_over(window, slides=False)(*arrays)
    np.testing.assert_array_equal(whole, attention.packed(*arrays))


def test_branches_see_their_trunk_and_not_each_other():
    """A trunk of 110 columns over two blocks, two branches of which the second has two of its own, a plain segment."""
    q, k, v, segment_NL = inputs([[260, 30]], 300)
    last_L = np.concatenate([np.full(110, 259), np.full(50, 159), np.full(20, 259), np.full(40, 219), np.full(40, 259)])
    last_NL = jnp.asarray(np.concatenate([last_L, np.full(30, 289), np.full(10, -1)])[None])
    at_L = np.arange(300)
    ways = [np.flatnonzero((at_L <= at) & (at <= np.asarray(last_NL)[0])) for at in (159, 219, 259, 289)]
    assert [len(way) for way in ways] == [160, 170, 170, 30]

    def along_each_way(window, q, k, v, segment_NL):
        out = jnp.zeros_like(q)
        for way in ways:
            out = out.at[:, way].set(plain(q[:, way], k[:, way], v[:, way], segment_NL[:, way], window))
        return out

    position_L = np.zeros(300, np.int32)
    for way in ways:
        position_L[way] = np.arange(len(way))

    def in_one(window, q, k, v, segment_NL):
        sliding = window and attention.Sliding(jnp.array(True), window, jnp.asarray(position_L[None]))
        return attention.packed(q, k, v, segment_NL, last_NL, sliding)

    for window in (None, 45):  # 45: from the last branch back into the trunk, 90 columns before
        wanted = partial(along_each_way, window or 10**6)
        assert_same(
            with_gradients(partial(in_one, window), q, k, v, segment_NL), with_gradients(wanted, q, k, v, segment_NL)
        )


def test_ends_by_hand():
    found = attention.ends(jnp.array([[1, 1, 2, 0, 0], [1, 2, 2, 2, 2], [0, 0, 0, 0, 0]]))
    assert found.tolist() == [[1, 1, 2, -1, -1], [0, 4, 4, 4, 4], [-1] * 5]


@pytest.mark.thorough
def test_blocks_out_of_reach_are_not_visited():
    """Keys that are not a number would spoil any block they are multiplied into, masked or not."""
    q, k, v, segment_NL = inputs([[128, 128, 128]], 384)
    k = k.at[:, :128].set(jnp.nan).at[:, 256:].set(jnp.nan)
    out = attention.packed(q, k, v, segment_NL)
    assert np.isfinite(out[:, 128:256]).all() and not np.isfinite(out[:, :128]).any()
    q, k, v, segment_NL = inputs([[640]], 640)  # five blocks; a query of the last sees the two before it
    k = k.at[:, :256].set(jnp.nan)
    out = jax.jit(lambda q, k, v: sliding_over(200)(q, k, v, segment_NL))(q, k, v)
    assert np.isfinite(out[:, 512:]).all() and not np.isfinite(out[:, 256:512]).any(axis=(2, 3)).all()


def test_on_a_mesh_the_result_is_the_same():
    arrays = inputs([[60, 200], [250], [128, 128], [30, 30, 30]], 260)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
    placed = [jax.device_put(array, spec) for array in arrays]
    assert_same(with_gradients(attention.packed, *placed), with_gradients(plain, *arrays))


@pytest.mark.thorough
@pytest.mark.parametrize(("tensor", "window"), [(None, None), (1, None), (2, 20)])
def test_splash_gives_the_plain_formula_on_one_device_and_on_a_mesh(tensor, window):
    rows = [[100, 28], [128]] if tensor is None else [[100, 28], [128], [50, 70], [5]]
    arrays = inputs(rows, 128, dim=64)
    mesh = None
    if tensor:
        devices = np.array(jax.devices()[: 4 * tensor]).reshape(2, 2, tensor)
        mesh = Mesh(devices, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)

    def splash(slides, *of):
        near = window and (jnp.array(slides), window)
        return flash.splash(*of, near, mesh=mesh, interpret=True)

    assert_same(with_gradients(partial(splash, False), *arrays), with_gradients(plain, *arrays))
    if window:
        wanted = with_gradients(partial(plain, window=window), *arrays)
        assert_same(with_gradients(partial(splash, True), *arrays), wanted)


def test_auto_takes_the_kernel_of_the_platform_where_it_can():
    def chosen(kind, platform, compute, length, head_dim=64, **about):
        return attention.choose(kind, SimpleNamespace(platform=platform, **about), compute, length, head_dim)

    assert chosen("auto", "tpu", "bfloat16", 4096) == "splash"
    assert chosen("auto", "tpu", "bfloat16", 200) == "xla"
    assert chosen("auto", "gpu", "bfloat16", 200) == "cudnn"
    assert chosen("auto", "gpu", "float32", 200) == "xla"
    assert chosen("auto", "cpu", "bfloat16", 4096) == "xla"
    assert chosen("xla", "tpu", "bfloat16", 4096) == "xla"
    ampere, hopper = (chosen("auto", "gpu", "bfloat16", 200, 256, compute_capability=of) for of in ("8.0", "9.0"))
    assert (ampere, hopper) == ("xla", "cudnn")


def test_what_a_kernel_cannot_take_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="multiple of 128 tokens; found 100"):
        attention.packed(*inputs([[100]], 100), kind="splash")
    with pytest.raises(ValueError, match="found float32: set model.compute=bfloat16"):
        attention.packed(*inputs([[100]], 100), kind="cudnn")
