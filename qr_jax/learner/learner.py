"""The learner: the jitted programs of one GRPO update (update.py), bound to a model, settings and a mesh.

`make` returns `train_step(state, batch) -> (state, metrics)`. The learner knows `Batch`, not queries or text."""

import functools
import inspect
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from qr_jax import config, plugins
from qr_jax.errors import UserError
from qr_jax.learner.pack import COUNTS, Batch
from qr_jax.learner.update import LEARNER_METRICS as LEARNER_METRICS
from qr_jax.learner.update import State, Update
from qr_jax.models import attention, decoder
from qr_jax.models.families import ModelConfig
from qr_jax.parallel import mesh as meshes

LONG, LONG_STEP = 1e10, 1e11  # floating-point operations: a tenth of a second of a laptop, and a second


@dataclass(frozen=True)
class Learner:
    """The learner's programs, as `make` returns them.

    `train_step` donates its state. Its metrics are numbers, except "advantage": what the advantage plug-in returned for
    the batch, [Q, G], [Q, G, T] or [Q * G, L]. `step_by_parts` does the same by a call for each micro-batch, and calls
    `between` before each: if that raises, the state is unchanged. `old_logp` is the recompute pass for several updates
    a batch.
    """

    train_step: Callable[..., tuple[State, dict[str, jax.Array]]]
    step_by_parts: Callable[..., tuple[State, dict[str, jax.Array]]]
    gradient: Callable[..., tuple[jax.Array, Any, dict[str, jax.Array]]]
    old_logp: Callable[[State, Batch], jax.Array]
    init: Callable[[Any], State]
    abstract: State
    rate: Callable[[int, float], float]  # `learning_rate` of these settings, for State.rate
    needs_gold: bool  # whether the advantage names gold_logp_NT, which the caller computes


def learning_rate(settings: config.Learner, updates: int, done: float) -> float:
    """Return the rate of the next update, after `updates` and with the share `done` of the run, 0 to 1.

    It rises over `warmup_updates`, and falls with the share that is done: by steps, or by the budget that ends the run.
    """
    warm = min(1.0, (updates + 1) / settings.warmup_updates) if settings.warmup_updates else 1.0
    left = {"constant": 1.0, "cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done}[settings.schedule]
    return settings.lr * warm * left


def takes_long(params: Any, settings: config.Learner, micro_batches: int = 1) -> bool:
    """Return True if a micro-batch takes a tenth of a second of a laptop or more, or so many together a second.

    A call for each micro-batch is then cheap, and a stop need not wait for all of them.
    """
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    each = 6 * parameters * settings.rows * settings.row_tokens
    return each >= LONG or each * micro_batches >= LONG_STEP


def optimizer(settings: config.Learner) -> optax.GradientTransformation:
    """Return AdamW of rate 1, without decay on norms and biases; the step clips before it and scales after it."""

    def decays(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: not str(path[-1].key).endswith(("norm", "bias")), params
        )

    low, high = settings.betas
    return optax.adamw(1.0, b1=low, b2=high, eps=settings.eps, weight_decay=settings.weight_decay, mask=decays)


def make(
    cfg: ModelConfig, model: config.Model, settings: config.Learner, mesh: Mesh, *, temperature: float = 1.0
) -> Learner:
    """Bind everything static and jit it over the mesh; log-probabilities are those of logits / `temperature`."""
    loss = plugins.bind("loss", settings.loss)
    advantage = plugins.bind("advantage", settings.advantage)
    kind = attention.choose(model.attention, mesh.devices.flat[0].platform, model.compute, settings.row_tokens)
    if settings.share_prefixes and kind == "splash":
        told = "learner.share_prefixes is not for splash's attention, whose masks know no branches"
        raise UserError(f"{told}: set it to false, or model.attention=xla")
    update = Update(
        cfg=cfg, model=model, settings=settings, mesh=mesh, temperature=temperature,
        attend=functools.partial(attention.packed, kind=kind, mesh=mesh), transform=optimizer(settings),
        loss=loss, loss_names=frozenset(inspect.signature(loss).parameters),
        advantage=advantage, advantage_names=frozenset(inspect.signature(advantage).parameters),
    )  # fmt: skip
    shapes = jax.eval_shape(update.init, decoder.abstract(cfg))
    state_at, everywhere = meshes.shardings(mesh, shapes), meshes.replicated(mesh)
    spec = functools.partial(_batch_shardings, mesh)
    slots_at = meshes.batch_sharding(mesh, row_axis=1)
    whole_step = train_step = _jit_on(update.train_step, state_at, spec, (state_at, everywhere), donate=True)
    if settings.lanes > 1 and mesh.size == 1:
        train_step = _in_lanes(update, whole_step, (state_at, everywhere))
    return Learner(
        train_step=train_step,
        step_by_parts=_by_parts(update, whole_step, state_at, everywhere),
        gradient=_jit_on(update.gradient, state_at, spec, (everywhere, state_at.params, everywhere), donate=False),
        old_logp=_jit_on(update.old_logp, state_at, spec, slots_at, donate=False),
        init=jax.jit(update.init, out_shardings=state_at),
        abstract=meshes.abstract(mesh, shapes),
        rate=functools.partial(learning_rate, settings),
        needs_gold="gold_logp_NT" in update.advantage_names,
    )


def _jit_on(function, state_at, spec, out, *, donate: bool):
    """Jit with the state sharded as `state_at` and the batch's rows sharded over the mesh."""
    jitted = jax.jit(function, out_shardings=out, donate_argnums=(0,) if donate else ())

    def call(state, batch, *more):
        batch = meshes.spread(batch, spec(batch))
        return jitted(state, batch, *more)

    call.jitted, call.state_at, call.batch_at = jitted, state_at, spec
    return call


def _in_lanes(update: Update, whole, out):
    """Return `whole`, a train_step, with its micro-batches shared among learner.lanes threads.

    A small model's products are too small for XLA on CPU to divide over its threads: two programs at once use two cores
    better than one does. Their sums are added in one order, so that a run can be repeated.
    """
    weigh, add_up = jax.jit(update.weighed), jax.jit(update.summed)
    step = jax.jit(update.stepped_by_parts, out_shardings=out, donate_argnums=(0,))

    def call(state, batch, *more):
        lanes = min(update.settings.lanes, len(batch.used_M))
        lane_M = np.where(batch.used_M, (np.cumsum(batch.used_M) - 1) % lanes, -1)
        batch = meshes.spread(batch, whole.batch_at(batch))
        (micro, rest), advantage = weigh(state, batch, *more)

        def total(lane: int):
            return jax.block_until_ready(add_up(state, (replace(micro, used_M=lane_M == lane), rest)))

        with ThreadPoolExecutor(lanes, "learning") as threads:
            totals = list(threads.map(total, range(lanes)))
        return step(state, batch, advantage, totals)

    call.jitted, call.state_at, call.batch_at = whole.jitted, whole.state_at, whole.batch_at
    return call


def _by_parts(update: Update, whole, state_at, everywhere):
    """Return `whole`, a train_step, as a call for each micro-batch, before each of which `between` is called."""
    totals_at = (everywhere, state_at.params, everywhere, everywhere)
    weigh, nothing = jax.jit(update.weighed), jax.jit(update.of_none, out_shardings=totals_at)
    add = jax.jit(update.with_one_more, out_shardings=totals_at, donate_argnums=(0,))
    step = jax.jit(update.stepped_by_parts, out_shardings=(state_at, everywhere), donate_argnums=(0,))

    def call(state, batch, *more, between: Callable[[], None]):
        used = np.flatnonzero(batch.used_M)
        batch = meshes.spread(batch, whole.batch_at(batch))
        per_micro, advantage = weigh(state, batch, *more)
        total = nothing(state, per_micro)
        for at in used:
            between()
            total = jax.block_until_ready(add(total, state, per_micro, np.int32(at)))
        between()
        return step(state, batch, advantage, [total])

    return call


def _batch_shardings(mesh: Mesh, batch: Batch) -> Batch:
    """Return shardings: rows and episode slots over data and fsdp, all other fields replicated."""
    rows, everywhere = meshes.batch_sharding(mesh, row_axis=1), meshes.replicated(mesh)
    whole = {"used_M", "grades", "weight_QG", "turns_QG", "gold_logp_NT", *COUNTS}
    return Batch(
        **{
            name: jax.tree.map(lambda _, name=name: everywhere if name in whole else rows, getattr(batch, name))
            for name in Batch.__dataclass_fields__
        }
    )
