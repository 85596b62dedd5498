"""Low-rank adapters on a frozen base: a matrix W acts as W + alpha / rank * A B (Hu et al. 2021, arXiv:2106.09685).

What is trained is a plain dict of stacked arrays: `q_a` [layers, inputs, rank] and `q_b` [layers, rank, outputs] for
the matrix `q`, and so on. `whole` puts them beside the base's arrays as `layers/lora`, with the scale inside B: code
that takes a parameter tree finds them, so that the learner, a rollout and an export compute the same sums.

Qwix is not used: it hooks the products of a Flax module, and the decoder's layers are functions over stacked arrays.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qr_jax import config
from qr_jax.errors import UserError
from qr_jax.models import decoder, layout
from qr_jax.models.families import ModelConfig

Params = dict[str, Any]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]
ATTENTION, MLP = ("q", "k", "v", "o"), ("gate", "up", "down")
MATRICES = {"attention": ATTENTION, "mlp": MLP, "all-linear": (*ATTENTION, *MLP)}  # by `model.lora.layers`


def sides(cfg: ModelConfig, settings: config.Lora) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return, by the name of each adapted matrix, the shapes of its inputs and of its outputs."""
    places = layout.layer_places(cfg)
    axes = {name: 2 if name == "o" else 1 for name in MATRICES[settings.layers]}
    return {name: (places[name].ours[:count], places[name].ours[count:]) for name, count in axes.items()}


def check(cfg: ModelConfig, settings: config.Lora) -> None:
    """Raise ValueError for a rank that no matrix of the model can have."""
    most = max(min(map(math.prod, both)) for both in sides(cfg, settings).values())
    if settings.rank > most:
        told = f"model.lora.rank={settings.rank}, and no matrix of this model has a rank above {most}"
        raise UserError(f"{told}; set model.lora.rank={most} or less")


def init(cfg: ModelConfig, settings: config.Lora, key) -> Params:
    """Return float32 adapters that change nothing yet: A uniform up to 1 / sqrt(inputs), B zero.

    That is PEFT's start: its `kaiming_uniform_` with a = sqrt(5) has this bound.
    """
    adapters: Params = {}
    for number, (name, (inputs, outputs)) in enumerate(sides(cfg, settings).items()):
        bound, shape = math.prod(inputs) ** -0.5, (cfg.layers, *inputs, settings.rank)
        adapters[f"{name}_a"] = jax.random.uniform(jax.random.fold_in(key, number), shape, minval=-bound, maxval=bound)
        adapters[f"{name}_b"] = jnp.zeros((cfg.layers, settings.rank, *outputs), jnp.float32)
    return adapters


def abstract(cfg: ModelConfig, model: config.Model) -> tuple[Params, Params]:
    """Return shapes of (adapters, base), nothing allocated; the base is in the compute dtype."""
    compute = jnp.dtype(model.compute)
    base = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, compute), decoder.abstract(cfg))
    return jax.eval_shape(lambda: init(cfg, model.lora, jax.random.key(0))), base


def whole(params: Params, base: Params | None, settings: config.Lora) -> Params:
    """Return one tree of the adapters `params` and their base, whose arrays are shared; without a base `params`."""
    if base is None:
        return params
    scale = settings.alpha / settings.rank
    scaled = {name: array * scale if name.endswith("_b") else array for name, array in params.items()}
    return {**base, "layers": {**base["layers"], "lora": scaled}}


def of(params: Params) -> Params | None:
    """Return the adapters in a tree that `whole` made, scaled; None: it has none."""
    return params["layers"].get("lora")


def shapes_of(params: Params) -> Shapes:
    """Return names and shapes of the adapters in a tree, hashable; () without adapters."""
    return tuple(sorted((name, tuple(array.shape)) for name, array in (of(params) or {}).items()))


def merged(params: Params) -> Params:
    """Return a tree of `whole` as float32 matrices W + A B, without adapters; a tree without them as it is."""
    if (adapters := of(params)) is None:
        return params
    return _merged(params, adapters)


@jax.jit
def _merged(params: Params, adapters: Params) -> Params:
    tree = jax.tree.map(lambda array: array.astype(jnp.float32), params)
    return tree | {"layers": merged_layers(tree["layers"], adapters)}


def merged_layers(layers: Mapping[str, Any], adapters: Mapping[str, Any]) -> Params:
    """Return float32 layers whose adapted matrices have their products added, without the adapters."""

    def added(name: str, w):
        a, b = adapters.get(f"{name}_a"), adapters.get(f"{name}_b")
        return w if a is None or b is None else w + _product(a, b)

    return {name: added(name, w) for name, w in layers.items() if name != "lora"}


def _product(a, b):
    """Return A B of each layer, as the adapted matrix is shaped."""
    return jax.vmap(lambda a, b: jnp.tensordot(a, b, 1))(a, b)


def share_kept(params: Params) -> float | None:
    """Return the share of a tree's adapters that is left of W + A B in bfloat16; None: it has no adapters.

    It is the projection of round(W + A B) - round(W) on A B, summed over all matrices; NaN where A B is 0 everywhere.
    """
    if (adapters := of(params)) is None:
        return None
    names = [name for name in MATRICES["all-linear"] if f"{name}_a" in adapters]
    sums = [_kept(params["layers"][name], adapters[f"{name}_a"], adapters[f"{name}_b"]) for name in names]
    kept, squares = (math.fsum(map(float, part)) for part in zip(*sums, strict=True))
    return kept / squares if squares else math.nan


@jax.jit
def _kept(w, a, b):
    """Return a matrix's sums of (round(W + A B) - round(W)) A B and of (A B)^2."""
    product = _product(a.astype(jnp.float32), b.astype(jnp.float32))
    w = w.astype(jnp.float32)
    before, after = (jax.lax.reduce_precision(x, 8, 7) for x in (w, w + product))  # XLA may drop a cast there and back
    return jnp.sum((after - before) * product), jnp.sum(product**2)


def merges(compute: Any) -> bool:
    """Return True if rollouts in this dtype read merged matrices, else they compute with the adapters beside them.

    Merged in float32 an update of 1e-6 survives. In bfloat16 the base lies on the dtype's grid, and an update smaller
    than half a step of it is rounded away in every weight alike (benchmarks/lora_hand_over.py has the shares).
    """
    return jnp.dtype(compute) == jnp.float32


def count(cfg: ModelConfig, settings: config.Lora) -> int:
    """Return the number of parameters of all adapters."""
    both = sides(cfg, settings).values()
    return cfg.layers * settings.rank * sum(math.prod(inputs) + math.prod(outputs) for inputs, outputs in both)
