"""One GRPO update, pure and jitted: mask -> advantages -> loss -> gradient over micro-batches -> clip -> optimizer.

`make` binds a model, settings and a mesh to `train_step(state, batch) -> (state, metrics)`. The learner knows `Batch`,
not queries or text. Losses see plain [N, L] arrays; packed rows exist only inside the forward pass.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qr_jax import config, plugins
from qr_jax.learning import importance, kl, reduce
from qr_jax.learning.pack import Batch
from qr_jax.models import attention, decoder, logprob
from qr_jax.models.families import ModelConfig
from qr_jax.parallel import mesh as meshes
from qr_jax.variance import group_variance_mask

# Metrics of the learner itself; a loss plug-in's others are its own.
OWN = {"gap", "gap_max", "nll", "tokens", "signal_groups", "loss", "grad_norm", "update_norm", "finite", "any"}
OWN |= {"kl", "entropy"}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """float32 master weights, the optimizer's state, and how many updates were made and skipped in a row."""

    params: Any
    opt_state: Any
    updates: jax.Array  # int32 []
    skipped: jax.Array  # int32 [], updates in a row that were not finite
    reference: Any = None  # the frozen policy of the KL term; None when kl_weight is 0


@dataclass(frozen=True)
class Learner:
    """What `make` gives.

    `train_step` donates its state; `old_logp` is the recompute pass for several updates a batch.
    """

    train_step: Callable[..., tuple[State, dict[str, jax.Array]]]
    gradient: Callable[..., tuple[jax.Array, Any, dict[str, jax.Array]]]
    old_logp: Callable[[State, Batch], jax.Array]
    init: Callable[[Any], State]
    abstract: State
    rate: optax.Schedule  # learning rate by updates made


def schedule(settings: config.Learner, steps: int) -> optax.Schedule:
    """Learning rate by optimizer update: linear warm-up, then constant, cosine or linear to 0 over `decay_updates`."""
    decay = max((settings.decay_updates or steps) - settings.warmup_updates, 1)
    after = {
        "constant": lambda: optax.constant_schedule(settings.lr),
        "cosine": lambda: optax.cosine_decay_schedule(settings.lr, decay),
        "linear": lambda: optax.linear_schedule(settings.lr, 0.0, decay),
    }[settings.schedule]()
    if not settings.warmup_updates:
        return after
    warm_up = optax.linear_schedule(settings.lr / settings.warmup_updates, settings.lr, settings.warmup_updates)
    return optax.join_schedules([warm_up, after], [settings.warmup_updates])


def optimizer(settings: config.Learner, steps: int) -> optax.GradientTransformation:
    """AdamW without decay on norms and biases; clipping happens before it, in the step, where the norm is measured."""

    def decays(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: not str(path[-1].key).endswith(("norm", "bias")), params
        )

    low, high = settings.betas
    return optax.adamw(
        schedule(settings, steps), b1=low, b2=high, eps=settings.eps, weight_decay=settings.weight_decay, mask=decays
    )


def make(
    cfg: ModelConfig, model: config.Model, settings: config.Learner, mesh: Mesh, *, steps: int, temperature: float = 1.0
) -> Learner:
    """Bind everything static and jit it over the mesh; log-probabilities are those of logits / `temperature`."""
    transform = optimizer(settings, steps)
    loss = plugins.bind("loss", settings.loss)
    advantage = plugins.bind("advantage", settings.advantage)
    needs = set(inspect.signature(loss).parameters)
    foreign = set(inspect.signature(advantage).parameters) & {"entropy_NL", "gold_logp_NT"}
    if foreign:
        raise ValueError(
            f"advantage {settings.advantage.name!r} asks for {sorted(foreign)}; only grades are given so far"
        )
    rows, everywhere = NamedSharding(mesh, PartitionSpec(meshes.ROWS)), meshes.replicated(mesh)
    platform = mesh.devices.flat[0].platform
    kind = attention.choose(model.attention, platform, model.compute, settings.row_tokens)
    by_width = NamedSharding(mesh, PartitionSpec("fsdp" if not cfg.width % mesh.shape["fsdp"] else None))
    attend = functools.partial(attention.packed, kind=kind, mesh=mesh)

    def predict(params, micro: Batch, entropy: bool):
        """logp_EL (and entropy_EL) of every episode slot of one micro-batch."""
        compute = jnp.dtype(model.compute)
        hidden_RCD = decoder.forward(
            cfg, params, micro.ids_MRC, micro.position_MRC, micro.segment_MRC, compute=compute, remat=model.remat,
            attend=attend, constrain=lambda x: jax.lax.with_sharding_constraint(x, rows),
        )  # fmt: skip
        # on every device: gathered once, and not once a block (logprob.py)
        head_VD = jax.lax.with_sharding_constraint(decoder.head_weights(params).astype(compute), everywhere)
        logp_RC, entropy_RC = logprob.token_logprobs(
            hidden_RCD, head_VD, micro.target_MRC, block=model.vocab_block, temperature=temperature, entropy=entropy,
            constrain=lambda x: jax.lax.with_sharding_constraint(x, by_width),
        )  # fmt: skip
        entropy_EL = None if entropy_RC is None else _to_episodes(entropy_RC, micro.source_MEL)
        return _to_episodes(logp_RC, micro.source_MEL), entropy_EL

    def micro_loss(params, reference, micro: Batch, weight_EL, adv_EL, reward_E, old_logp_EL):
        with_entropy = bool(settings.entropy_weight) or "entropy_NL" in needs
        logp_EL, entropy_EL = predict(params, micro, with_entropy)
        mask_EL = micro.mask_MEL
        logp_EL = jnp.where(mask_EL, logp_EL, 0.0)
        old_EL = jax.lax.stop_gradient(logp_EL) if old_logp_EL is None else old_logp_EL
        rollout_EL = micro.rollout_logp_MEL
        ref_EL = None
        if settings.kl_weight or "ref_logp_NL" in needs:
            ref_EL = jnp.where(mask_EL, jax.lax.stop_gradient(predict(reference, micro, False)[0]), 0.0)
        given = dict(
            logp_NL=logp_EL, old_logp_NL=old_EL, rollout_logp_NL=rollout_EL, ref_logp_NL=ref_EL, entropy_NL=entropy_EL,
            adv_NL=adv_EL, mask_NL=mask_EL, turn_NL=micro.turn_MEL, group_N=micro.episode_ME, reward_N=reward_E,
        )  # fmt: skip
        loss_EL, metrics = loss(**{name: value for name, value in given.items() if name in needs})
        if taken := OWN & set(metrics):
            raise ValueError(f"loss {settings.loss.name!r} reports {sorted(taken)}, names that the learner has itself")
        if settings.importance == "truncate":
            loss_EL *= importance.truncate(old_EL, rollout_EL, high=settings.importance_high)
        elif settings.importance == "icepop":
            bounds = dict(low=settings.importance_low, high=settings.importance_high)
            loss_EL *= importance.icepop(old_EL, rollout_EL, **bounds)
        if settings.kl_weight:
            assert ref_EL is not None, "a KL term has its reference's log-probabilities"
            metrics["kl"] = kl.ESTIMATES[settings.kl](logp_EL, ref_EL)
            loss_EL += settings.kl_weight * metrics["kl"]
        if with_entropy:
            assert entropy_EL is not None, "predict gives the entropy where it is asked for"
            metrics["entropy"] = entropy_EL
            loss_EL -= settings.entropy_weight * entropy_EL
        total = jnp.sum(weight_EL * jnp.where(mask_EL, loss_EL, 0.0))
        gap_EL = jnp.where(mask_EL, jnp.abs(old_EL - rollout_EL), 0.0)
        sums = {name: jnp.sum(jnp.where(mask_EL, value, 0.0)) for name, value in metrics.items()}
        sums |= {"gap": jnp.sum(gap_EL), "nll": -jnp.sum(logp_EL)}
        return total, (jax.lax.stop_gradient(sums), jnp.max(gap_EL, initial=0.0))

    def gradient(state: State, batch: Batch, old_logp_MEL=None):
        """(loss, gradient, metrics) of the whole batch, summed over its micro-batches."""
        weight_MEL, adv_MEL, reward_ME = _targets(settings, advantage, batch)
        grad_of = jax.value_and_grad(micro_loss, has_aux=True)

        def body(carry, micro_and):
            micro, rest = micro_and

            def compute(carry):
                (value, (sums, gap)), grads = grad_of(state.params, state.reference, micro, *rest)
                total, all_grads, all_sums, top = carry
                all_grads, all_sums = jax.tree.map(jnp.add, (all_grads, all_sums), (grads, sums))
                return total + value, all_grads, all_sums, jnp.maximum(top, gap)

            return jax.lax.cond(micro.used_M, compute, lambda carry: carry, carry), None

        per_micro = (_micro_batches(batch), (weight_MEL, adv_MEL, reward_ME, old_logp_MEL))
        first = jax.tree.map(lambda leaf: leaf[0], per_micro)
        if len(batch.used_M) == 1:  # nothing to add up: no second tree of gradients
            (value, (sums, gap)), grads = grad_of(state.params, state.reference, first[0], *first[1])
        else:
            shapes = jax.eval_shape(micro_loss, state.params, state.reference, first[0], *first[1])
            empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[1][0])
            start = (jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params), empty, jnp.float32(0))
            (value, grads, sums, gap), _ = jax.lax.scan(body, start, per_micro)
        tokens = jnp.sum(batch.mask_MEL)
        metrics = {name: part / jnp.maximum(tokens, 1) for name, part in sums.items()}
        signal_Q = group_variance_mask(batch.grades.reward_QG, batch.grades.valid_QG)
        return value, grads, metrics | {"gap_max": gap, "tokens": tokens, "signal_groups": jnp.sum(signal_Q)}

    def train_step(state: State, batch: Batch, old_logp_MEL=None):
        value, grads, metrics = gradient(state, batch, old_logp_MEL)
        state, more = _update(settings, transform, state, value, grads, metrics["tokens"] > 0)
        return state, metrics | more

    def old_logp(state: State, batch: Batch):
        """[M, E, L] log-probabilities of the batch under the present weights."""

        def one(_, micro):
            zeros = jnp.zeros(micro.mask_MEL.shape, jnp.float32)

            def compute():
                return jnp.where(micro.mask_MEL, predict(state.params, micro, False)[0], 0.0)

            return None, jax.lax.cond(micro.used_M, compute, lambda: zeros)

        return jax.lax.scan(one, None, _micro_batches(batch))[1]

    def init(params) -> State:
        # a copy: the step donates its state, and the reference must outlive the first one
        reference = jax.tree.map(jnp.copy, params) if settings.kl_weight or "ref_logp_NL" in needs else None
        return State(params, transform.init(params), jnp.int32(0), jnp.int32(0), reference)

    shapes = jax.eval_shape(init, decoder.abstract(cfg))
    state_at = meshes.shardings(mesh, shapes)
    spec = functools.partial(_batch_shardings, mesh)
    return Learner(
        train_step=_jit_on(train_step, state_at, spec, (state_at, everywhere), donate=True),
        gradient=_jit_on(gradient, state_at, spec, (everywhere, state_at.params, everywhere), donate=False),
        old_logp=_jit_on(old_logp, state_at, spec, meshes.batch_sharding(mesh, row_axis=1), donate=False),
        init=jax.jit(init, out_shardings=state_at),
        abstract=meshes.abstract(mesh, shapes),
        rate=schedule(settings, steps),
    )


def _jit_on(function, state_at, spec, out, *, donate: bool):
    """Jit with the state laid out as `state_at` and the batch's rows dealt over the mesh."""
    jitted = jax.jit(function, out_shardings=out, donate_argnums=(0,) if donate else ())

    def call(state, batch, *more):
        batch = meshes.spread(batch, spec(batch))
        return jitted(state, batch, *more)

    call.jitted, call.state_at, call.batch_at = jitted, state_at, spec
    return call


def _batch_shardings(mesh: Mesh, batch: Batch) -> Batch:
    """Rows and episode slots over data and fsdp; what has no such axis is on every device."""
    rows, everywhere = meshes.batch_sharding(mesh, row_axis=1), meshes.replicated(mesh)
    whole = {"used_M", "grades", "drawn_tokens", "drawn_episodes"}
    return Batch(
        **{
            name: jax.tree.map(lambda _, name=name: everywhere if name in whole else rows, getattr(batch, name))
            for name in Batch.__dataclass_fields__
        }
    )


def _micro_batches(batch: Batch) -> Batch:
    """The batch with what is not per micro-batch left out, so that a scan can run over it."""
    return replace(batch, grades=None, drawn_tokens=None, drawn_episodes=None)


def _to_episodes(value_RC, source_EL):
    """Bring values of packed positions to their episodes: a gather inside each row, so that it stays on its device."""
    rows, columns = value_RC.shape
    column_RX = (source_EL % columns).reshape(rows, -1)
    return jnp.take_along_axis(value_RC, column_RX, axis=1).reshape(source_EL.shape)


def _targets(settings: config.Learner, advantage: Callable, batch: Batch):
    """Per-token weights, advantages and rewards of every episode slot, counted over the whole global batch."""
    drawn = settings.over == "drawn"
    weight_MEL = reduce.token_weights(
        batch.mask_MEL,
        mode=settings.reduce,
        horizon_tokens=settings.horizon_tokens,
        extra_tokens=batch.drawn_tokens if drawn else 0,
        extra_episodes=batch.drawn_episodes if drawn else 0,
    )
    adv_QG = advantage(batch.grades)
    at_ME = jnp.maximum(batch.episode_ME, 0)
    here_ME = batch.episode_ME >= 0
    if adv_QG.ndim == 3:  # one a turn
        adv_MET = adv_QG.reshape(-1, adv_QG.shape[2])[at_ME]
        adv_MEL = jnp.take_along_axis(adv_MET, jnp.clip(batch.turn_MEL, 0, adv_QG.shape[2] - 1), axis=2)
    else:
        adv_MEL = jnp.broadcast_to(adv_QG.reshape(-1)[at_ME][..., None], batch.mask_MEL.shape)
    reward_ME = jnp.where(here_ME, batch.grades.reward_QG.reshape(-1)[at_ME], 0.0)
    return weight_MEL, jnp.where(here_ME[..., None] & batch.mask_MEL, adv_MEL, 0.0), reward_ME


def _update(settings: config.Learner, transform, state: State, value, grads, any_tokens):
    """Clip, update, and keep the old state where there was nothing to learn from or something was not finite."""
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(norm) & jnp.isfinite(value)
    scale = jnp.minimum(1.0, settings.clip_norm / jnp.maximum(norm, 1e-30))

    def go(state: State):
        clipped = jax.tree.map(lambda g: g * scale, grads)
        updates, opt_state = transform.update(clipped, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return replace(state, params=params, opt_state=opt_state, updates=state.updates + 1,
                       skipped=jnp.int32(0)), optax.tree.norm(updates)  # fmt: skip

    def stay(state: State):
        return replace(state, skipped=state.skipped + jnp.where(any_tokens, 1, 0)), jnp.float32(0)

    state, update_norm = jax.lax.cond(any_tokens & finite, go, stay, state)
    return state, {"loss": value, "grad_norm": norm, "update_norm": update_norm, "finite": finite, "any": any_tokens}
