"""Attention in packed rows by hand-written kernels: splash on TPU, cuDNN on GPU. No [length, length] array on TPU."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from qr_jax.errors import UserError

ROWS = ("data", "fsdp")  # the mesh axes that rows are dealt over
BLOCKS = (512, 256, 128)  # of splash: the largest that divides a row; below 128 the TPU cannot
SAVED = "attention"  # what remat policies know attention's output and log-sums by


def splash(q_NLHd, k_NLKd, v_NLKd, segment_NL, near=None, *, mesh: Mesh | None = None, interpret: bool = False):
    """Attend causally in segments, [N, L, H, d], by JAX's splash kernels, each device on its own rows and heads.

    `near`: (whether a window applies, bool []; how many tokens it has); None: no window.
    With one, kernels with and without it are compiled. Splash attention skips blocks above the diagonal; softmax in
    float32. `interpret` runs it without a TPU. Raises ValueError when a row's length is not a multiple of 128. Heads
    are not split where the mesh axis `tensor` does not divide them.
    """
    length, heads, kv_heads = q_NLHd.shape[1], q_NLHd.shape[2], k_NLKd.shape[2]
    if length % BLOCKS[-1]:
        raise UserError(f"splash attention needs rows of a multiple of {BLOCKS[-1]} tokens; found {length}")
    cut = by_heads(heads, kv_heads, mesh)
    slides, window = (False, None) if near is None else near

    def rows(window: int | None, q_NLHd, k_NLKd, v_NLKd, segment_NL):
        kernel = _splash_kernel(q_NLHd.shape[2], length, window, interpret)

        def row(q_LHd, k_LKd, v_LKd, segment_L):
            q, k, v = (jnp.moveaxis(y, 1, 0) for y in (q_LHd * q_LHd.shape[-1] ** -0.5, k_LKd, v_LKd))
            return jnp.moveaxis(kernel(q, k, v, segment_L), 0, 1)

        return jax.vmap(row)(q_NLHd, k_NLKd, v_NLKd, segment_NL)

    def local(slides, *arrays):
        if window is None or window >= length:
            return rows(None, *arrays)
        return jax.lax.cond(slides, functools.partial(rows, window), functools.partial(rows, None), *arrays)

    given = jnp.asarray(slides), q_NLHd, k_NLKd, v_NLKd, segment_NL
    if mesh is None:
        return local(*given)
    by_row = PartitionSpec(ROWS)
    by_row_and_head = PartitionSpec(ROWS, None, "tensor" if cut else None)
    specs = (PartitionSpec(), by_row_and_head, by_row_and_head, by_row_and_head, by_row)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=by_row_and_head, check_vma=False)(*given)


def by_heads(heads: int, kv_heads: int, mesh: Mesh | None) -> bool:
    """Return True if each device has its own heads: `tensor` divides those of queries and of keys and values."""
    tensor = 1 if mesh is None else mesh.shape["tensor"]
    return tensor > 1 and not heads % tensor and not kv_heads % tensor


def block_size(length: int) -> int:
    """Return splash's block size, in tokens."""
    return next(size for size in BLOCKS if not length % size)


def _splash_kernel(heads: int, length: int, window: int | None, interpret: bool):
    """Return `kernel(q, k, v, segment_L)` for one row of heads-first arrays; `window`: the nearest columns seen."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    block = block_size(length)
    sizes = kernels.BlockSizes(
        block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block, block_q_dq=block, block_kv_dq=block
    )
    shape = (length, length)
    mask = masks.LocalMask(shape, (window - 1, 0), offset=0) if window else masks.CausalMask(shape)
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=sizes,
        interpret=interpret,
        residual_checkpoint_name=SAVED,
    )

    def attend(q, k, v, segment_L) -> jax.Array:
        out = kernel(q, k, v, kernels.SegmentIds(segment_L, segment_L))
        assert isinstance(out, jax.Array), "residuals were not asked for"
        return out

    return attend


def largest_head(device: Any) -> int:
    """Return the largest head size that cuDNN's attention takes on a GPU: 256 from Hopper on, 128 before."""
    return 256 if float(getattr(device, "compute_capability", 0)) >= 9 else 128


def cudnn(q_NLHd, k_NLKd, v_NLKd, last_NL, near=None):
    """Attend as attention.blockwise, by cuDNN through jax.nn.dot_product_attention; it takes bfloat16 and float16 only.

    cuDNN has no segment ids: who sees whom (attention.packed) goes in as a boolean mask [N, 1, L, L], which it adds as
    a bias.
    """
    if q_NLHd.dtype not in (jnp.bfloat16, jnp.float16):
        raise UserError(f"cuDNN attention takes bfloat16 or float16, found {q_NLHd.dtype}: set model.compute=bfloat16")
    seen_NLL = jnp.arange(last_NL.shape[1])[None, :, None] <= last_NL[:, None, :]
    if near is not None:
        position_NL, window = near
        seen_NLL &= position_NL[:, :, None] - position_NL[:, None, :] < window
    attend = functools.partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")
    return attend(q_NLHd, k_NLKd, v_NLKd, mask=seen_NLL[:, None])
