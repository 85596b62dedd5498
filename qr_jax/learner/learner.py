"""The learner: the jitted programs of one GRPO update (update.py), bound to a model, settings and a mesh.

`make(...).update(state, batch, rate)` is a step's learning. The learner knows `Batch`, not queries or text."""

import functools
import inspect
import math
from collections.abc import Callable, Iterator
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
from qr_jax.models import attention, decoder, lora
from qr_jax.models.families import ModelConfig
from qr_jax.parallel import hosts, peaks
from qr_jax.parallel import mesh as meshes

LAPTOP = 1e11  # floating-point operations per second
LONG = 1e10  # floating-point operations: 0.1 s on a laptop


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Learner:
    """The learner's programs, as `make` returns them.

    `train_step` is one update, whole; it donates its state. Its metrics are numbers, except "advantage": what the
    advantage plug-in returned for the batch, [Q, G], [Q, G, T] or [Q * G, L]. `step_by_parts` does the same with one
    call per micro-batch; it calls `between` before each of them and before the optimizer, and if that raises the state
    is unchanged. `gradient` is `train_step` without the optimizer. `old_logp` is the recompute pass for several updates
    per batch.
    """

    train_step: Callable[..., tuple[State, dict[str, jax.Array]]]
    step_by_parts: Callable[..., tuple[State, dict[str, jax.Array]]]
    gradient: Callable[..., tuple[jax.Array, Any, dict[str, jax.Array]]]
    old_logp: Callable[[State, Batch], jax.Array]
    init: Callable[..., State]  # init(parameters, base=None); base: the frozen model under adapters
    abstract: State
    rate: Callable[[int, float], float]  # `learning_rate` of these settings
    updates: int  # per batch
    by_parts: bool  # True: `update` uses `step_by_parts` (a micro-batch takes long, or train.overlap is set)
    overlaps: bool  # train.overlap: a batch was sampled by the policy before the last update
    recorded: bool  # whether the old policy's log-probabilities are those that the sampler recorded
    forwards: int  # forward-only passes of an update over its tokens
    needs_gold: bool  # whether the advantage names gold_logp_NT, which the caller computes

    def update(
        self,
        state: State,
        batch: Batch,
        rate: float,
        between: Callable[[], None] = _nothing,
        before_applied: Callable[[], None] = _nothing,
    ) -> tuple[State, list[dict[str, Any]]]:
        """Return the state and each update's metrics after one update at the learning rate `rate`, or several.

        With `by_parts` and several micro-batches, or with overlap, `between` is called before each micro-batch of the
        first update. If there is only one update, `before_applied` is called before the optimizer; until then the
        state's arrays may be read. If either raises, the state is unchanged. Later updates are never interrupted.

        Several (learner.updates) are over disjoint parts of the batch against one old policy. A part is every
        `updates`-th micro-batch; with fewer micro-batches than that there are fewer updates. The first one's
        "advantage" then holds what each episode was trained with, in whichever update it was.
        """
        old, every = self._old_policy(state, batch), []
        if self.updates == 1:
            state, metrics = self._step(batch, between, before_applied)(state, batch, np.float32(rate), *old)
            return state, [jax.device_get(metrics)]
        for part in parts(batch, self.updates):
            state, metrics = self._step(part, between)(state, part, np.float32(rate), *old)
            every.append(jax.device_get(metrics))
            between = _nothing
            own_X = batch.episode_ME[part.used_M].ravel()
            own_X = own_X[own_X >= 0]
            of_samples = (batch.grades.valid_QG.size, -1)  # [Q, G], [Q, G, T] and [Q * G, L] alike
            first, last = (np.array(every[at]["advantage"]) for at in (0, -1))
            first.reshape(of_samples)[own_X] = last.reshape(of_samples)[own_X]
            every[0]["advantage"] = first
        return state, every

    def compile_update(self, state: State, empty: Batch, between: Callable[[], None] = _nothing) -> State:
        """Compile `update` by running it on an empty batch; return the unchanged state. `between`: as in `update`."""
        step, old = self._step(empty, between), self._old_policy(state, empty)
        return jax.block_until_ready(step(state, empty, np.float32(0), *old))[0]

    def trace_update(self, empty: Batch) -> None:
        """Trace an update by shapes alone. ValueError if loss or advantage return a wrong result."""
        if self.updates > 1:
            old = (self.old_logp.jitted.eval_shape(self.abstract, empty),)
        else:
            old = self._old_policy(self.abstract, empty)
        self.train_step.jitted.eval_shape(self.abstract, empty, np.float32(0), *old)

    def _step(
        self, batch: Batch, between: Callable[[], None], before_applied: Callable[[], None] = _nothing
    ) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
        # one micro-batch needs no second tree of gradients to add up
        parted = self.overlaps or self.by_parts and len(batch.used_M) > 1
        calls = {"between": between, "before_applied": before_applied}
        return functools.partial(self.step_by_parts, **calls) if parted else self.train_step

    def _old_policy(self, state: State, batch: Batch) -> tuple[jax.Array, ...]:
        """Return the old policy's log-probabilities [M, E, L] in a tuple; () where it is the policy before the step.

        With several updates per batch they are computed with `state`. With overlap the previous policy sampled the
        batch, and those it recorded are taken, unless learner.importance is on, which corrects for the sampler.
        """
        if self.updates > 1:
            return (self.old_logp(state, batch),)
        return (batch.rollout_logp_MEL,) if self.recorded else ()


def parts(batch: Batch, count: int) -> Iterator[Batch]:
    """Yield the batch's parts for `count` updates: every `count`-th micro-batch, where one of them is used."""
    made = max(min(count, int(np.sum(batch.used_M))), 1)  # the used micro-batches come first
    for number in range(count):
        used_M = batch.used_M & (np.arange(len(batch.used_M)) % count == number)
        if used_M.any():
            shares = {name: getattr(batch, name) // made for name in COUNTS}
            yield replace(batch, used_M=used_M, mask_MEL=batch.mask_MEL & used_M[:, None, None], **shares)


def learning_rate(settings: config.Learner, updates: int, done: float) -> float:
    """Return the rate of the next update, after `updates` updates; `done`: share of the run that is over, 0 to 1.

    It rises over `warmup_updates`, and falls with the share that is done: by steps, or by the budget that ends the run.
    """
    warm = min(1.0, (updates + 1) / settings.warmup_updates) if settings.warmup_updates else 1.0
    left = {"constant": 1.0, "cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done}[settings.schedule]
    return settings.lr * warm * left


def takes_long(params: Any, settings: config.Learner) -> bool:
    """Return True if a micro-batch takes at least 0.1 s on a laptop, or on an accelerator at its peak.

    One call per micro-batch is then cheap, and a stop need not wait for all of them. False with several processes,
    which would have to agree before each micro-batch.
    """
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    peak = peaks.known(jax.local_devices()[0].device_kind, "bfloat16")
    operations = 6 * parameters * settings.rows * settings.row_tokens / (peak.flops_a_s / LAPTOP if peak else 1)
    return hosts.count() == 1 and operations >= LONG


def optimizer(settings: config.Learner) -> optax.GradientTransformation:
    """Return AdamW of rate 1, without decay on norms and biases; the step clips before it and scales after it."""

    def decays(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: not str(path[-1].key).endswith(("norm", "bias")), params
        )

    low, high = settings.betas
    return optax.adamw(1.0, b1=low, b2=high, eps=settings.eps, weight_decay=settings.weight_decay, mask=decays)


def make(
    cfg: ModelConfig,
    model: config.Model,
    settings: config.Learner,
    mesh: Mesh,
    *,
    temperature: float = 1.0,
    overlap: int = 0,
) -> Learner:
    """Bind everything static and jit it over the mesh; log-probabilities are those of logits / `temperature`.

    ValueError for settings that the chosen attention or the model refuses (share_prefixes with splash; the LoRA rank).
    """
    loss = plugins.bind("loss", settings.loss)
    advantage = plugins.bind("advantage", settings.advantage)
    kind = attention.choose(
        model.attention, mesh.devices.flat[0], model.compute, length=settings.row_tokens, head_dim=cfg.head_dim
    )
    if settings.share_prefixes and kind == "splash":
        told = "learner.share_prefixes is not for splash's attention, whose masks know no branches"
        raise UserError(f"{told}: set it to false, or model.attention=xla")
    update = Update(
        cfg=cfg, model=model, settings=settings, mesh=mesh, temperature=temperature,
        attend=functools.partial(attention.packed, kind=kind, mesh=mesh), transform=optimizer(settings),
        loss=loss, loss_names=frozenset(inspect.signature(loss).parameters),
        advantage=advantage, advantage_names=frozenset(inspect.signature(advantage).parameters),
    )  # fmt: skip
    params, base = decoder.abstract(cfg), None
    if model.lora.rank:
        lora.check(cfg, model.lora)
        params, base = lora.abstract(cfg, model)
    shapes = replace(jax.eval_shape(update.init, params), base=base)
    state_at, everywhere = meshes.shardings(mesh, shapes), meshes.replicated(mesh)
    begin = jax.jit(update.init, out_shardings=state_at.saved())
    spec = functools.partial(_batch_shardings, mesh)
    slots_at = meshes.batch_sharding(mesh, row_axis=1)
    train_step = _jit_on(update.train_step, spec, (state_at, everywhere), donate=True)
    return Learner(
        train_step=train_step,
        step_by_parts=_by_parts(update, spec, state_at, everywhere),
        gradient=_jit_on(update.gradient, spec, (everywhere, state_at.params, everywhere), donate=False),
        old_logp=_jit_on(update.old_logp, spec, slots_at, donate=False),
        init=lambda params, base=None: replace(begin(params), base=base),
        abstract=meshes.abstract(mesh, shapes),
        rate=functools.partial(learning_rate, settings),
        updates=settings.updates,
        by_parts=bool(overlap) or takes_long((params, base), settings),
        overlaps=bool(overlap),
        recorded=bool(overlap) and settings.importance == "off",
        forwards=update.forwards,
        needs_gold="gold_logp_NT" in update.advantage_names,
    )


def _jit_on(function, spec, out, *, donate: bool):
    """Jit a function of a state, which keeps its layout, and a batch, whose rows are sharded over the mesh (`spec`)."""
    jitted = jax.jit(function, out_shardings=out, donate_argnums=(0,) if donate else ())

    def call(state, batch, *more):
        batch = meshes.spread(batch, spec(batch))
        return jitted(state, batch, *more)

    call.jitted, call.batch_at = jitted, spec
    return call


def _by_parts(update: Update, spec, state_at, everywhere):
    """Return a train_step of one call per micro-batch, before each of which `between` is called."""
    totals_at = (everywhere, state_at.params, everywhere, everywhere)
    prepare, zeros = jax.jit(update.prepare), jax.jit(update.zeros, out_shardings=totals_at)
    add = jax.jit(
        lambda total, state, work, at: update.add_used(total, state, jax.tree.map(lambda leaf: leaf[at], work)),
        out_shardings=totals_at, donate_argnums=0,
    )  # fmt: skip
    apply = jax.jit(
        lambda state, batch, rate, advantage, total: update.apply(state, rate, update.measure(batch, advantage, total)),
        out_shardings=(state_at, everywhere), donate_argnums=0,
    )  # fmt: skip

    def call(state, batch, rate, old_logp_MEL=None, *, between: Callable[[], None], before_applied=_nothing):
        used = np.flatnonzero(batch.used_M)
        batch = meshes.spread(batch, spec(batch))
        work, advantage = prepare(state, batch, old_logp_MEL)
        total = zeros(state, work)
        for at in used if len(used) else (0,):  # of an empty batch: compiled, and not computed
            between()
            total = jax.block_until_ready(add(total, state, work, np.int32(at)))
        between()
        before_applied()
        return apply(state, batch, rate, advantage, total)

    return call


def _batch_shardings(mesh: Mesh, batch: Batch) -> Batch:
    """Return shardings: rows and episode slots over data and fsdp, all other fields replicated."""
    rows, everywhere = meshes.batch_sharding(mesh, row_axis=1), meshes.replicated(mesh)
    whole = {"used_M", "grades", "weight_Q", "turns_QG", "gold_logp_NT", *COUNTS}
    return Batch(
        **{
            name: jax.tree.map(lambda _, name=name: everywhere if name in whole else rows, getattr(batch, name))
            for name in Batch.__dataclass_fields__
        }
    )
