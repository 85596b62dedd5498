"""Block-wise log-probabilities: the dense formula's values and gradients, without the dense formula's array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from qr_jax.models.logprob import token_logprobs

ROWS, COLUMNS, WIDTH, VOCABULARY = 8, 4, 6, 37


def inputs(vocabulary=VOCABULARY, *, rows=ROWS, columns=COLUMNS, width=WIDTH, scale=2.0, dtype=jnp.float32):
    hidden_key, head_key, target_key = jax.random.split(jax.random.key(0), 3)
    hidden_RCD = (scale * jax.random.normal(hidden_key, (rows, columns, width))).astype(dtype)
    head_VD = jax.random.normal(head_key, (vocabulary, width)).astype(dtype)
    return hidden_RCD, head_VD, jax.random.randint(target_key, (rows, columns), 0, vocabulary)


def dense(hidden_RCD, head_VD, target_RC, *, temperature=1.0):
    logits_RCV = jnp.einsum("rcd,vd->rcv", hidden_RCD, head_VD, preferred_element_type=jnp.float32)
    logp_RCV = jax.nn.log_softmax(logits_RCV / temperature)
    logp_RC = jnp.take_along_axis(logp_RCV, target_RC[..., None], axis=-1)[..., 0]
    return logp_RC, -jnp.sum(jnp.exp(logp_RCV) * logp_RCV, axis=-1)


def blockwise(block, temperature=1.0):
    return lambda *arrays: token_logprobs(*arrays, block=block, temperature=temperature, entropy=True)


def weighted(function, target_RC):
    """A scalar in which every token's log-probability and entropy has another weight."""
    weight_RC = jnp.cos(jnp.arange(target_RC.size, dtype=jnp.float32)).reshape(target_RC.shape)

    def total(hidden_RCD, head_VD):
        logp_RC, entropy_RC = function(hidden_RCD, head_VD, target_RC)
        return jnp.sum(weight_RC * logp_RC) + jnp.sum(weight_RC[::-1] * entropy_RC)

    return total


def test_two_words_by_hand():
    """Logits 0 and ln 3: probabilities 1/4 and 3/4; at temperature 1/2, 1/10 and 9/10."""
    hidden_RCD, head_VD, target_RC = jnp.ones((1, 2, 1)), jnp.array([[0.0], [np.log(3.0)]]), jnp.array([[0, 1]])
    logp_RC, entropy_RC = token_logprobs(hidden_RCD, head_VD, target_RC, block=1, entropy=True)
    np.testing.assert_allclose(np.exp(logp_RC), [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(entropy_RC, [[0.562335, 0.562335]], rtol=1e-5)
    logp_RC, nothing = token_logprobs(hidden_RCD, head_VD, target_RC, block=1, temperature=0.5)
    np.testing.assert_allclose(np.exp(logp_RC), [[0.1, 0.9]], rtol=1e-6)
    assert nothing is None


@pytest.mark.thorough
@pytest.mark.parametrize("block", [8, 37, 100])  # 8 does not divide 37: the last block overlaps
def test_values_and_gradients_are_those_of_the_dense_formula(block):
    hidden_RCD, head_VD, target_RC = inputs()
    target_RC = target_RC.at[0, 0].set(0).at[0, 1].set(VOCABULARY - 1)

    def reference(*arrays):
        return dense(*arrays, temperature=0.7)

    found, wanted = jax.jit(blockwise(block, 0.7))(hidden_RCD, head_VD, target_RC), reference(*inputs()[:2], target_RC)
    for found_RC, wanted_RC in zip(found, wanted):
        np.testing.assert_allclose(found_RC, wanted_RC, rtol=1e-5, atol=1e-5)
    slopes = jax.jit(jax.grad(weighted(blockwise(block, 0.7), target_RC), argnums=(0, 1)))(hidden_RCD, head_VD)
    wanted = jax.grad(weighted(reference, target_RC), argnums=(0, 1))(hidden_RCD, head_VD)
    for slope, wanted_slope in zip(slopes, wanted):
        np.testing.assert_allclose(slope, wanted_slope, rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("most", [0, 1, 2, 3, 4])  # used columns of the fullest row: a quarter, half or all of 4
def test_what_is_not_used_is_0_and_the_rest_as_if_all_were(most):
    hidden_RCD, head_VD, target_RC = inputs()
    used_RC = np.zeros((ROWS, COLUMNS), bool)
    used_RC[2, COLUMNS - most :] = used_RC[5, : most // 2] = True

    def some(*arrays):
        return token_logprobs(*arrays, used_RC=jnp.asarray(used_RC), block=8, temperature=0.7, entropy=True)

    def whole(*arrays):
        return tuple(jnp.where(used_RC, value_RC, 0.0) for value_RC in blockwise(8, 0.7)(*arrays))

    values = [function(hidden_RCD, head_VD, target_RC) for function in (jax.jit(some), whole)]
    slopes = [
        jax.grad(weighted(function, target_RC), argnums=(0, 1))(hidden_RCD, head_VD) for function in (some, whole)
    ]
    for found, wanted in (values, slopes):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    assert not np.asarray(slopes[0][0])[~used_RC].any() and not np.asarray(values[0][0])[~used_RC].any()


def test_huge_logits_stay_finite():
    hidden_RCD, head_VD, target_RC = inputs(scale=1e4)
    found, wanted = blockwise(5)(hidden_RCD, head_VD, target_RC), dense(hidden_RCD, head_VD, target_RC)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], np.zeros((ROWS, COLUMNS)), atol=1e-4)
    slopes = jax.grad(weighted(blockwise(5), target_RC), argnums=(0, 1))(hidden_RCD, head_VD)
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_gradients_have_the_dtype_of_the_inputs_and_log_probabilities_float32():
    hidden_RCD, head_VD, target_RC = inputs(dtype=jnp.bfloat16)
    logp_RC, entropy_RC = blockwise(8)(hidden_RCD, head_VD, target_RC)
    assert logp_RC.dtype == entropy_RC.dtype == jnp.float32
    np.testing.assert_allclose(logp_RC, dense(hidden_RCD, head_VD, target_RC)[0], rtol=1e-5, atol=1e-5)
    slopes = jax.grad(weighted(blockwise(8), target_RC), argnums=(0, 1))(hidden_RCD, head_VD)
    wanted = jax.grad(weighted(dense, target_RC), argnums=(0, 1))(hidden_RCD, head_VD)
    for slope, wanted_slope in zip(slopes, wanted):
        assert slope.dtype == jnp.bfloat16
        scale = float(jnp.abs(wanted_slope).max())
        np.testing.assert_allclose(slope.astype(jnp.float32), wanted_slope.astype(jnp.float32), atol=0.02 * scale)


def test_it_works_inside_a_scan_over_micro_batches_with_remat():
    hidden_RCD, head_VD, target_RC = inputs()

    def accumulated(hidden_RCD, head_VD):
        def step(total, micro):
            logp_RC, entropy_RC = jax.checkpoint(blockwise(8))(micro[0], head_VD, micro[1])
            return total + logp_RC.sum() + 0.1 * entropy_RC.sum(), None

        halves = hidden_RCD.reshape(2, -1, COLUMNS, WIDTH), target_RC.reshape(2, -1, COLUMNS)
        return jax.lax.scan(step, jnp.float32(0), halves)[0]

    def whole(hidden_RCD, head_VD):
        logp_RC, entropy_RC = dense(hidden_RCD, head_VD, target_RC)
        return logp_RC.sum() + 0.1 * entropy_RC.sum()

    found = jax.jit(jax.grad(accumulated, argnums=(0, 1)))(hidden_RCD, head_VD)
    for slope, wanted in zip(found, jax.grad(whole, argnums=(0, 1))(hidden_RCD, head_VD)):
        np.testing.assert_allclose(slope, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("head_spec", [(None, None), ("tensor", None), ("fsdp", "tensor"), (None, "fsdp")])
def test_sharded_inputs_give_the_same_values_and_gradients(head_spec, used):
    hidden_RCD, head_VD, target_RC = inputs(40)
    used_RC = jnp.arange(ROWS)[:, None] % 3 > jnp.arange(COLUMNS)[None] if used else None
    share_RC = 1.0 if used_RC is None else used_RC
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)

    def place(array, *spec):
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))

    placed = place(hidden_RCD, ("data", "fsdp")), place(head_VD, *head_spec)
    placed_RC = None if used_RC is None else place(used_RC, ("data", "fsdp"))

    def some(*arrays):
        return token_logprobs(*arrays, used_RC=placed_RC, block=12, entropy=True)

    def whole(*arrays):
        return tuple(share_RC * value_RC for value_RC in dense(*arrays))

    function = weighted(some, place(target_RC, ("data", "fsdp")))
    total, slopes = jax.jit(jax.value_and_grad(function, argnums=(0, 1)))(*placed)
    wanted, wanted_slopes = jax.value_and_grad(weighted(whole, target_RC), argnums=(0, 1))(hidden_RCD, head_VD)
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    for slope, wanted_slope in zip(slopes, wanted_slopes):
        np.testing.assert_allclose(slope, wanted_slope, rtol=1e-5, atol=1e-5)


def test_a_head_replicated_before_the_call_is_gathered_once_and_not_in_the_loop():
    mesh = Mesh(np.array(jax.devices()), ("fsdp",), axis_types=(AxisType.Auto,))
    sharded, whole = NamedSharding(mesh, PartitionSpec("fsdp")), NamedSharding(mesh, PartitionSpec())
    hidden_RCD, head_VD, target_RC = (jax.device_put(array, sharded) for array in inputs(40))

    def total(hidden_RCD, head_VD):
        head_VD = jax.lax.with_sharding_constraint(head_VD, whole)
        return token_logprobs(hidden_RCD, head_VD, target_RC, block=12)[0].sum()

    program = jax.jit(jax.grad(total, argnums=(0, 1)), out_shardings=(sharded, sharded))
    lines = program.lower(hidden_RCD, head_VD).compile().as_text().splitlines()
    entry = next(number for number, line in enumerate(lines) if line.startswith("ENTRY"))
    gathers = [number for number, line in enumerate(lines) if " all-gather(" in line]
    assert len(gathers) == 1 and gathers[0] > entry  # the entry computation is the last one printed


def shapes_in(jaxpr):
    """Every array's shape in a program, those inside its loops and calls too."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from shapes_in(inner)


def test_logits_of_the_whole_vocabulary_never_exist():
    vocabulary, block, rows, columns, width = 16384, 512, 4, 64, 8
    hidden_RCD, head_VD, target_RC = inputs(vocabulary, rows=rows, columns=columns, width=width)
    tokens = rows * columns

    def program(function):
        return jax.value_and_grad(weighted(function, target_RC), argnums=(0, 1))

    def shapes_of(function):
        return set(shapes_in(jax.make_jaxpr(program(function))(hidden_RCD, head_VD).jaxpr))

    def largest(function):
        return max(int(np.prod(shape)) for shape in shapes_of(function))

    def temporary_bytes(function):
        return jax.jit(program(function)).lower(hidden_RCD, head_VD).compile().memory_analysis().temp_size_in_bytes

    assert largest(dense) == tokens * vocabulary  # the checks see such an array where there is one
    assert largest(blockwise(block)) == tokens * block
    with_vocabulary = {shape for shape in shapes_of(blockwise(block)) if vocabulary in shape}
    assert with_vocabulary == {(vocabulary, width), (width, vocabulary)}  # the head, and its gradient
    by_design = 4 * (tokens * block + vocabulary * width)  # a block's logits and the head's gradient: 1 of 16 MiB
    assert temporary_bytes(blockwise(block)) < 3 * by_design
    assert temporary_bytes(dense) >= 4 * tokens * vocabulary
