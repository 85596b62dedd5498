"""The GPU's kernel of decode attention, interpreted, beside plain XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qr_jax.models import cached_attention, decode_kernel


@pytest.mark.parametrize(("heads", "kv_heads", "dim", "positions"), [(9, 3, 64, 96), (4, 2, 32, 130)])
def test_the_kernel_gives_what_xla_gives(heads, kv_heads, dim, positions):
    slots, newer = 4, 16
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = [(slots, heads, dim), *[(slots, kv_heads, positions, dim)] * 2, *[(slots, kv_heads, newer, dim)] * 2]
    q, k, v, new_k, new_v = (jax.random.normal(a, b, jnp.bfloat16) for a, b in zip(keys, shapes, strict=True))
    used_S = jnp.array([0, 1, 65, positions], jnp.int32)
    past_SB = jnp.arange(positions)[None] >= used_S[:, None]
    v = jnp.where(past_SB[:, None, :, None], jnp.nan, v)  # what stands there was never written
    seen_J = jnp.arange(newer) <= 2
    assert decode_kernel.fits(q, k, new_k)
    found = decode_kernel.one_token(q, k, v, used_S, new_k, new_v, seen_J, interpret=True)
    wanted = cached_attention.one_token(q, k, jnp.nan_to_num(v), used_S, new_k, new_v, seen_J)
    np.testing.assert_allclose(found.astype(jnp.float32), wanted.astype(jnp.float32), atol=2e-2)


def test_it_is_left_alone_where_triton_has_no_such_shapes():
    q, k = jax.ShapeDtypeStruct((2, 4, 64), jnp.bfloat16), jax.ShapeDtypeStruct((2, 2, 128, 64), jnp.bfloat16)
    newer = jax.ShapeDtypeStruct((2, 2, 16, 64), jnp.bfloat16)
    assert decode_kernel.fits(q, k, newer)
    assert not decode_kernel.fits(q, k, jax.ShapeDtypeStruct((2, 2, 6, 64), jnp.bfloat16))  # a chunk of 6
    assert not decode_kernel.fits(q, jax.ShapeDtypeStruct((2, 2, 128, 64), jnp.float32), newer)
