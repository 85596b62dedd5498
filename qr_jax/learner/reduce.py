"""The denominators: per-token weights, counted over the global batch, that reduce per-token losses to one number."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int


def token_weights(
    mask_NL: Bool[Array, "*N L"],
    *,
    mode: Literal["token_mean", "sequence_mean", "group_mean", "fixed_length"],
    horizon_tokens: int,
    group_N: Int[Array, "*N"] | None = None,
    groups: int = 0,
    extra_tokens: Int[ArrayLike, ""] = 0,
    extra_episodes: Int[ArrayLike, ""] = 0,
) -> Float[Array, "*N L"]:
    """Return weight_NL such that sum(weight_NL * loss_NL) is the reduced loss; 0 where the mask is False, all 0 with no
    token at all.

    - token_mean: 1 / tokens (DAPO, Yu et al. 2025, arXiv:2503.14476, sec. 3.3);
    - sequence_mean: 1 / (tokens of the episode * episodes) (GRPO, Shao et al. 2024, arXiv:2402.03300, eq. 3);
    - group_mean: 1 / (tokens of the episode's group * groups) (Coelho et al. 2026, arXiv:2606.10709; SkyRL's
      prompt_mean);
    - fixed_length: 1 / (horizon_tokens * episodes) (Dr. GRPO, Liu et al. 2025, arXiv:2503.20783).

    Give it the masks of the whole batch, before micro-batches are looped over: any leading axes will do ([N, L] and
    [M, n, L] get the same weights), and under jit the sums run over all shards. Episodes and groups without a sampled
    token are not counted. `extra_*`: tokens and episodes counted beside the batch's: copies of repeated groups and,
    for a denominator over all that was drawn, those drawn and not in the batch. group_mean takes none, and wants
    each episode's group, from 0 to `groups` - 1.
    """
    length_N1 = jnp.sum(mask_NL, axis=-1, keepdims=True, dtype=jnp.int32)
    episodes = jnp.sum(length_N1 > 0, dtype=jnp.int32) + extra_episodes
    if mode == "token_mean":
        denominator_N1 = jnp.full_like(length_N1, jnp.sum(length_N1) + extra_tokens, dtype=jnp.float32)
    elif mode == "sequence_mean":
        denominator_N1 = length_N1.astype(jnp.float32) * episodes
    elif mode == "group_mean":
        assert group_N is not None and groups > 0, "group_mean needs to know each episode's group"
        tokens_Q = jnp.zeros(groups, jnp.int32).at[group_N].add(length_N1[..., 0])
        denominator_N1 = tokens_Q[group_N][..., None].astype(jnp.float32) * jnp.sum(tokens_Q > 0)
    else:
        denominator_N1 = jnp.full_like(length_N1, episodes, dtype=jnp.float32) * horizon_tokens
    return jnp.where(mask_NL, 1.0 / jnp.maximum(denominator_N1, 1.0), 0.0)
