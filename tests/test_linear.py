"""A linear layer: the product and the gradient of einsum, written as plain matrix products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qr_jax.models.linear import linear


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "over", "formula"),
    [
        ((2, 3, 4), (4, 5), 1, "nld,dm->nlm"),
        ((2, 3, 4), (4, 5, 6), 1, "nld,dhk->nlhk"),
        ((2, 3, 4, 5), (4, 5, 6), 2, "nlhk,hkd->nld"),
    ],
)
def test_values_and_gradients_are_those_of_einsum(x_shape, w_shape, over, formula):
    x_key, w_key = jax.random.split(jax.random.key(0))
    x, w = jax.random.normal(x_key, x_shape), jax.random.normal(w_key, w_shape)

    def total(multiply):
        return jax.value_and_grad(lambda x, w: jnp.sum(jnp.sin(multiply(x, w))), argnums=(0, 1))

    found = total(lambda x, w: linear(x, w, over=over))(x, w)
    wanted = total(lambda x, w: jnp.einsum(formula, x, w))(x, w)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_the_gradient_transposes_nothing():
    """A transposed product is what makes XLA copy the incoming gradient value by value."""
    x, w = jnp.ones((2, 3, 4)), jnp.ones((4, 5))
    program = jax.make_jaxpr(jax.grad(lambda x, w: jnp.sum(linear(x, w) ** 2), argnums=(0, 1)))(x, w)
    assert "transpose[" not in str(program) and str(program).count("dot_general[") == 3
