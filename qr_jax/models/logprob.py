"""Log-probabilities of given tokens, block by block over the vocabulary: logits of all of it never exist at once."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NEVER = -1e30  # stands for -inf, whose difference with itself is NaN
PARTS = (4, 2, 1)  # a quarter, half or all of a row's columns are computed: the least that holds the used ones


def token_logprobs(
    hidden_RCD: Float[Array, "R C D"],
    head_VD: Float[Array, "V D"],
    target_RC: Int[Array, "R C"],
    *,
    block: int,
    used_RC: Bool[Array, "R C"] | None = None,
    temperature: float = 1.0,
    entropy: bool = False,
    constrain: Callable | None = lambda gradient_DV: gradient_DV,
) -> tuple[Float[Array, "R C"], Float[Array, "R C"] | None]:
    """Return (logp_RC, entropy_RC): log softmax(hidden head^T / temperature) at the target, and the entropy of that
    softmax.

    Float32 nats; the entropy is None unless asked for. Targets lie in [0, V). At most `block` logits a token exist at
    once, forward and backward (which computes them again): a block is one matrix product in the inputs' dtype,
    accumulated in float32, folded into a running maximum and sum (Milakov & Gimelshein 2018, arXiv:1805.02867). The
    head is neither padded nor copied when the block does not divide V: the last block overlaps the one before and
    skips what was counted there. Gradients flow to hidden and head, from both results.

    With `used_RC` the results are 0 elsewhere, and hardly computed there: of an agent's rows most tokens are prompts
    and passages. Used columns are brought to the front of their rows, and as many are computed as the fullest row has,
    rounded up to one of PARTS.

    On a mesh, constrain the head to be replicated before this call: XLA then gathers it once; sharded over V, the whole
    gradient would be gathered in every iteration. `constrain` is applied to the head's gradient [D, V] while it is
    summed up: sharded over D, one block is reduced an iteration and each device keeps its part. None: the head is
    frozen, and no gradient is computed for it.
    """
    how = min(block, head_VD.shape[0]), temperature, entropy, constrain
    if used_RC is None:
        return _logprobs(*how, hidden_RCD, head_VD, target_RC)
    order_RC = jnp.argsort(~used_RC, axis=1, stable=True)
    back_RC, most = jnp.argsort(order_RC, axis=1), jnp.max(jnp.sum(used_RC, axis=1))
    front_RCD, front_RC = _permuted(hidden_RCD, order_RC, back_RC), jnp.take_along_axis(target_RC, order_RC, axis=1)
    results = _first_logprobs(*how, front_RCD, head_VD, front_RC, most)
    return jax.tree.map(lambda value_RC: jnp.where(used_RC, _permuted(value_RC, back_RC, order_RC), 0.0), results)


@jax.custom_vjp
def _permuted(value_RC, order_RC, back_RC):
    """Return each row's columns in another order, and gradients back: by two gathers, for a scatter is slow on TPU."""
    at = order_RC.reshape(*order_RC.shape, *[1] * (value_RC.ndim - 2))
    return jnp.take_along_axis(value_RC, at, axis=1, mode="promise_in_bounds")


_permuted.defvjp(
    lambda value_RC, order_RC, back_RC: (_permuted(value_RC, order_RC, back_RC), (order_RC, back_RC)),
    lambda orders, slope_RC: (_permuted(slope_RC, *orders[::-1]), None, None),
)


def _by_width(most, columns: int, compute: Callable):
    """Run `compute(width)` for the least width of PARTS with room for `most`; the others are only compiled."""
    widths = [-(-columns // part) for part in PARTS]
    branches = [functools.partial(compute, width) for width in widths]
    return jax.lax.switch(sum(jnp.int32(most > width) for width in widths[:-1]), branches)


def _first(values, width: int):
    return jax.tree.map(lambda value_RC: value_RC[:, :width], values)


def _widened(values, columns: int):
    """Append zeros up to so many columns."""
    return jax.tree.map(
        lambda value_RC: jnp.pad(value_RC, [(0, 0), (0, columns - value_RC.shape[1])] + [(0, 0)] * (value_RC.ndim - 2)),
        values,
    )


def _first_forward(block, temperature, entropy, constrain, hidden_RCD, head_VD, target_RC, most):
    columns = target_RC.shape[1]

    def of(width):
        hidden, target = _first((hidden_RCD, target_RC), width)
        results, (*_, top, log_sum, _) = _forward(block, temperature, entropy, constrain, hidden, head_VD, target)
        return _widened((results, top, log_sum), columns)

    results, top_RC, log_sum_RC = _by_width(most, columns, of)
    return results, (hidden_RCD, head_VD, target_RC, most, top_RC, log_sum_RC, results[1])


def _first_backward(block, temperature, entropy, constrain, residuals, cotangents):
    hidden_RCD, head_VD, target_RC, most, *sums = residuals
    columns = target_RC.shape[1]

    def of(width):
        (hidden, target, (top, log_sum, spread)), slopes = _first(((hidden_RCD, target_RC, sums), cotangents), width)
        kept = hidden, head_VD, target, top, log_sum, spread
        d_hidden, d_head_VD, _ = _backward(block, temperature, entropy, constrain, kept, slopes)
        return _widened(d_hidden, columns), d_head_VD

    return *_by_width(most, columns, of), None, None


def _block_logits(index, block, temperature, hidden_RCD, head_VD):
    """Return (logits_RCX, head_XD, start, fresh_X) of block `index`; fresh_X is False where an earlier block has it."""
    start = jnp.minimum(index * block, head_VD.shape[0] - block)
    head_XD = jax.lax.dynamic_slice_in_dim(head_VD, start, block)
    logits_RCX = jnp.einsum("rcd,xd->rcx", hidden_RCD, head_XD, preferred_element_type=jnp.float32) / temperature
    fresh_X = start + jnp.arange(block) >= index * block
    return jnp.where(fresh_X[None, None], logits_RCX, NEVER), head_XD, start, fresh_X


def _at_target(target_RC, start, fresh_X):
    """Return [R, C, X], True at the target. Comparing, not gathering: a gather does not shard."""
    return (target_RC[..., None] == (start + jnp.arange(fresh_X.size))[None, None]) & fresh_X[None, None]


def _forward(block, temperature, entropy, constrain, hidden_RCD, head_VD, target_RC):
    def fold(carry, index):
        top_RC, sum_RC, weighted_RC, target_logit_RC = carry
        logits_RCX, _, start, fresh_X = _block_logits(index, block, temperature, hidden_RCD, head_VD)
        new_top_RC = jnp.maximum(top_RC, jnp.max(logits_RCX, axis=-1))
        shifted_RCX = logits_RCX - new_top_RC[..., None]
        power_RCX = jnp.exp(shifted_RCX)
        fall_RC = top_RC - new_top_RC
        scale_RC = jnp.exp(fall_RC)
        if entropy:
            weighted_RC = scale_RC * (weighted_RC + fall_RC * sum_RC) + jnp.sum(power_RCX * shifted_RCX, axis=-1)
        sum_RC = scale_RC * sum_RC + jnp.sum(power_RCX, axis=-1)
        at_target_RCX = _at_target(target_RC, start, fresh_X)
        target_logit_RC += jnp.sum(jnp.where(at_target_RCX, logits_RCX, 0.0), axis=-1)
        return (new_top_RC, sum_RC, weighted_RC, target_logit_RC), None

    zero_RC = jnp.zeros(target_RC.shape, jnp.float32)
    blocks = -(-head_VD.shape[0] // block)
    # weighted_RC is the sum of exp(z - top) * (z - top), from which the entropy follows without cancellation
    carry, _ = jax.lax.scan(fold, (zero_RC + NEVER, zero_RC, zero_RC, zero_RC), jnp.arange(blocks))
    top_RC, sum_RC, weighted_RC, target_logit_RC = carry
    logp_RC = target_logit_RC - top_RC - jnp.log(sum_RC)
    entropy_RC = jnp.log(sum_RC) - weighted_RC / sum_RC if entropy else None
    return (logp_RC, entropy_RC), (hidden_RCD, head_VD, target_RC, top_RC, jnp.log(sum_RC), entropy_RC)


def _backward(block, temperature, entropy, constrain, residuals, cotangents):
    """Return gradients: d logp / d z = [target] - p and d entropy / d z = -p (log p + entropy), a block at a time."""
    hidden_RCD, head_VD, target_RC, top_RC, log_sum_RC, entropy_RC = residuals
    d_logp_RC, d_entropy_RC = cotangents

    def fold(carry, index):
        d_hidden_RCD, d_head_DV = carry
        logits_RCX, head_XD, start, fresh_X = _block_logits(index, block, temperature, hidden_RCD, head_VD)
        logp_RCX = logits_RCX - top_RC[..., None] - log_sum_RC[..., None]
        slope_RCX = d_logp_RC[..., None]
        if entropy:
            slope_RCX += d_entropy_RC[..., None] * (logp_RCX + entropy_RC[..., None])
        at_target_RCX = _at_target(target_RC, start, fresh_X)
        d_logits_RCX = jnp.where(at_target_RCX, d_logp_RC[..., None], 0.0) - jnp.exp(logp_RCX) * slope_RCX
        d_logits_RCX = (d_logits_RCX / temperature).astype(head_VD.dtype)
        d_hidden_RCD += jnp.einsum("rcx,xd->rcd", d_logits_RCX, head_XD, preferred_element_type=jnp.float32)
        if constrain is None:
            return (d_hidden_RCD, None), None
        d_head_DX = jnp.einsum("rcd,rcx->dx", hidden_RCD, d_logits_RCX, preferred_element_type=jnp.float32)
        d_head_DX = constrain(d_head_DX)
        before_DX = jax.lax.dynamic_slice_in_dim(d_head_DV, start, block, axis=1)
        d_head_DX = jnp.where(fresh_X[None], d_head_DX.astype(head_VD.dtype), before_DX)
        return (d_hidden_RCD, constrain(jax.lax.dynamic_update_slice_in_dim(d_head_DV, d_head_DX, start, 1))), None

    blocks = -(-head_VD.shape[0] // block)
    # [D, V], transposed once at the end: XLA on CPU would transpose each block's d_logits, value by value
    no_head = None if constrain is None else constrain(jnp.zeros(head_VD.shape[::-1], head_VD.dtype))
    zeros = (jnp.zeros(hidden_RCD.shape, jnp.float32), no_head)
    (d_hidden_RCD, d_head_DV), _ = jax.lax.scan(fold, zeros, jnp.arange(blocks))
    return d_hidden_RCD.astype(hidden_RCD.dtype), None if d_head_DV is None else d_head_DV.T, None


_logprobs = jax.custom_vjp(lambda *arguments: _forward(*arguments)[0], nondiff_argnums=(0, 1, 2, 3))
_logprobs.defvjp(_forward, _backward)
_first_logprobs = jax.custom_vjp(lambda *arguments: _first_forward(*arguments)[0], nondiff_argnums=(0, 1, 2, 3))
_first_logprobs.defvjp(_first_forward, _first_backward)
