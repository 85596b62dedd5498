"""Drawing tokens: Gumbel-max in two stages, each choice a function of its key and position alone."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sampling(NamedTuple):
    """The sampling settings that are compiled in. The temperature is an argument: 0 is greedy, in the same program."""

    top_p: float = 1.0
    top_k: int = 0


EVERYTHING = Sampling()


class Choice(NamedTuple):
    """Tokens, their log-probabilities (nats, before top-p and top-k), and each choice's margin."""

    token_S: jax.Array
    logp_S: jax.Array
    margin_S: jax.Array  # the smaller lead, of the chosen block and of the token in it, over the next best score


def block_size(vocab: int) -> int:
    """Return the divisor of the vocabulary's size that is nearest its square root."""
    return min((n for n in range(1, vocab + 1) if vocab % n == 0), key=lambda n: abs(math.log(n * n / vocab)))


def restrict(logp_SV, sampling: Sampling):
    """Return log-probabilities with -inf outside the `top_k` largest and the smallest set that holds `top_p`; ties stay
    in.
    """
    if sampling.top_k:
        kth_S1 = jax.lax.top_k(logp_SV, sampling.top_k)[0][:, -1:]
        # normalised anew: top_p is a share of what top_k leaves
        logp_SV = jax.nn.log_softmax(jnp.where(logp_SV >= kth_S1, logp_SV, -jnp.inf), axis=-1)
    if sampling.top_p < 1.0:
        sorted_SV = jnp.sort(logp_SV, axis=-1, descending=True)
        before_SV = jnp.cumsum(jnp.exp(sorted_SV), axis=-1) - jnp.exp(sorted_SV)
        last_S1 = jnp.maximum(jnp.sum(before_SV < sampling.top_p, axis=-1, keepdims=True) - 1, 0)
        logp_SV = jnp.where(logp_SV >= jnp.take_along_axis(sorted_SV, last_S1, axis=-1), logp_SV, -jnp.inf)
    return logp_SV


def choose(logits_VS, key_S2, position_S, temperature, sampling: Sampling = EVERYTHING) -> Choice:
    """Choose one token per slot from softmax(logits / temperature), restricted; greedy at temperature 0. The
    temperature is one number, or an array [1, S] with one for each slot.

    The vocabulary is cut into blocks of about its square root. A block is drawn by Gumbel-max over the blocks'
    log-probabilities (sums that the softmax has anyway), then a token by Gumbel-max inside it: the same distribution as
    one Gumbel number per token (Gumbel 1954; a categorical factors just so), for 2 sqrt(V) numbers instead of V.
    One per token took a fifth of a decode step at a vocabulary of 49k on CPU.
    """
    vocab, slots = logits_VS.shape
    size = block_size(vocab)
    greedy = temperature == 0
    z_VS = logits_VS / jnp.where(greedy, 1.0, temperature)
    top_1S = z_VS.max(axis=0, keepdims=True)
    total_S = jnp.sum(jnp.exp(z_VS - top_1S), axis=0)
    kept_VS = z_VS - top_1S
    if sampling != EVERYTHING:
        kept_VS = restrict(jax.nn.log_softmax(z_VS.T, axis=-1), sampling).T
    kept_XYS = kept_VS.reshape(-1, size, slots)
    best_SX = kept_XYS.max(axis=1).T
    mass_SX = jnp.sum(jnp.exp(kept_XYS), axis=1).T
    blocks = vocab // size

    def noise(key, position):
        return jax.random.gumbel(jax.random.fold_in(jax.random.wrap_key_data(key), position), (blocks + size,))

    noise_SN = jnp.where(jnp.transpose(greedy), 0.0, jax.vmap(noise)(key_S2, position_S))
    score_SX = jnp.where(jnp.transpose(greedy), best_SX, jnp.log(mass_SX) + noise_SN[:, :blocks])
    block_S = jnp.argmax(score_SX, axis=-1)
    inside_SY = jax.vmap(lambda column_XY, x: column_XY[x], in_axes=(2, 0))(kept_XYS, block_S)
    score_SY = inside_SY + noise_SN[:, blocks:]
    token_S = (block_S * size + jnp.argmax(score_SY, axis=-1)).astype(jnp.int32)
    logit_S = jax.vmap(lambda column_V, token: column_V[token], in_axes=(1, 0))(z_VS, token_S)
    margin_S = jnp.minimum(_lead(score_SX), _lead(score_SY))
    return Choice(token_S, logit_S - top_1S[0] - jnp.log(total_S), margin_S)


def _lead(score_SX):
    if score_SX.shape[1] == 1:
        return jnp.full(score_SX.shape[0], jnp.inf)
    two_S2 = jax.lax.top_k(score_SX, 2)[0]
    return two_S2[:, 0] - two_S2[:, 1]
