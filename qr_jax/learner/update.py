"""One GRPO update as pure functions: advantages -> loss -> gradient over micro-batches -> clip -> optimizer.

`learner.make` jits them. Losses see plain [N, L] arrays; packed rows exist only inside the forward pass.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qr_jax import config
from qr_jax.errors import UserError
from qr_jax.interfaces import shown
from qr_jax.learner import credit, importance, kl, pack
from qr_jax.learner.pack import Batch
from qr_jax.learner.variance import group_variance_mask
from qr_jax.models import decoder, logprob, lora
from qr_jax.models.families import ModelConfig
from qr_jax.parallel import mesh as meshes

# Metrics of the learner itself; a loss plug-in's others are its own.
LEARNER_METRICS = {"loss", "gap", "gap_max", "nll", "kl", "entropy", "tokens", "signal_groups", "advantage"}
LEARNER_METRICS |= {"lr", "grad_norm", "update_norm", "update_scale", "finite", "any"}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """float32 master weights, optimizer state, and the numbers of updates and of consecutive skips.

    With adapters (model.lora) `params`, `opt_state` and `reference` hold the adapters only.
    """

    params: Any
    opt_state: Any
    updates: jax.Array  # int32 []
    skipped: jax.Array  # int32 [], updates in a row that were not finite
    reference: Any = None  # the frozen policy of the KL term; None when kl_weight is 0
    base: Any = None  # the frozen model under adapters, in the compute dtype; None: the whole model is trained

    def saved(self) -> "State":
        """Return what a checkpoint holds: the state without the base, which it names by a hash."""
        return replace(self, base=None)


@dataclass(frozen=True, eq=False)
class Update:
    """The model, settings and plug-ins of an update; the methods are its programs before they are jitted."""

    cfg: ModelConfig
    model: config.Model
    settings: config.Learner
    mesh: Mesh
    temperature: float
    attend: Callable[..., jax.Array]
    transform: optax.GradientTransformation
    loss: Callable[..., Any]
    loss_names: frozenset[str]  # the parameters of the loss: what it is given, and its settings
    advantage: Callable[..., Any]
    advantage_names: frozenset[str]

    @property
    def with_reference(self) -> bool:
        """Return True if the update needs the reference model's log-probabilities."""
        return bool(self.settings.kl_weight) or "ref_logp_NL" in self.loss_names

    @property
    def forwards(self) -> int:
        """Count the forward-only passes of an update: reference, old policy, and those of the advantage."""
        recomputed = self.settings.updates > 1
        logps = {"logp_NL"} if recomputed else {"logp_NL", "old_logp_NL"}  # with one update they are the same
        entropy, logp = "entropy_NL" in self.advantage_names, bool(logps & self.advantage_names)
        return self.with_reference + recomputed + entropy + logp

    @property
    def with_entropy(self) -> bool:
        """Return True if the loss uses the entropy; an advantage's entropy is a separate pass."""
        return bool(self.settings.entropy_weight) or "entropy_NL" in self.loss_names

    def init(self, params) -> State:
        """Return the state before the first update; the reference, where one is needed, is a copy of `params`."""
        # a copy: the step donates its state, and the reference must outlive the first one
        reference = jax.tree.map(jnp.copy, params) if self.with_reference else None
        return State(params, self.transform.init(params), jnp.int32(0), jnp.int32(0), reference)

    def predict(self, params, base, micro: Batch, entropy: bool):
        """Return logp_EL (and entropy_EL) of every episode slot of one micro-batch."""
        params = lora.whole(params, base, self.model.lora)
        rows, everywhere = NamedSharding(self.mesh, PartitionSpec(meshes.ROWS)), meshes.replicated(self.mesh)
        divides = not self.cfg.width % self.mesh.shape["fsdp"]
        by_width = NamedSharding(self.mesh, PartitionSpec("fsdp" if divides else None))
        compute = jnp.dtype(self.model.compute)
        hidden_RCD = decoder.forward(
            self.cfg, params, micro.ids_MRC, micro.position_MRC, micro.segment_MRC, micro.last_MRC, compute=compute,
            remat=self.model.remat, attend=self.attend, constrain=lambda x: jax.lax.with_sharding_constraint(x, rows),
        )  # fmt: skip
        # on every device: gathered once, and not once per block (logprob.py)
        head_VD = jax.lax.with_sharding_constraint(decoder.head_weights(params).astype(compute), everywhere)
        logp_RC, entropy_RC = logprob.token_logprobs(
            hidden_RCD, head_VD, micro.target_MRC, used_RC=_used(micro), block=self.model.vocab_block,
            temperature=self.temperature, entropy=entropy,
            constrain=None if base is not None else lambda x: jax.lax.with_sharding_constraint(x, by_width),
        )  # fmt: skip
        entropy_EL = None if entropy_RC is None else _to_episodes(entropy_RC, micro.source_MEL)
        return _to_episodes(logp_RC, micro.source_MEL), entropy_EL

    def micro_loss(self, params, state: State, micro: Batch, weight_EL, adv_EL, reward_E, old_logp_EL):
        """Return (loss, (sums of metrics over sampled tokens, largest sampler gap)) of one micro-batch.

        `params` replace those of the state.
        """
        logp_EL, entropy_EL = self.predict(params, state.base, micro, self.with_entropy)
        mask_EL = micro.mask_MEL
        logp_EL = jnp.where(mask_EL, logp_EL, 0.0)
        now_EL, rollout_EL = jax.lax.stop_gradient(logp_EL), micro.rollout_logp_MEL
        old_EL = now_EL if old_logp_EL is None else old_logp_EL
        ref_EL = None
        if self.with_reference:
            ref_EL, _ = self.predict(state.reference, state.base, micro, False)
            ref_EL = jnp.where(mask_EL, jax.lax.stop_gradient(ref_EL), 0.0)
        given = dict(
            logp_NL=logp_EL, old_logp_NL=old_EL, rollout_logp_NL=rollout_EL, ref_logp_NL=ref_EL, entropy_NL=entropy_EL,
            adv_NL=adv_EL, mask_NL=mask_EL, turn_NL=micro.turn_MEL, reward_N=reward_E,
        )  # fmt: skip
        loss_EL, metrics = self.token_loss(given)
        total = jnp.sum(weight_EL * jnp.where(mask_EL, loss_EL, 0.0))
        before_EL = now_EL if self.settings.updates == 1 else old_EL  # by the policy before this batch's updates
        gap_EL = jnp.where(mask_EL, jnp.abs(before_EL - rollout_EL), 0.0)
        sums = {name: jnp.sum(jnp.where(mask_EL, value, 0.0)) for name, value in metrics.items()}
        sums |= {"gap": jnp.sum(gap_EL), "nll": -jnp.sum(logp_EL)}
        return total, (jax.lax.stop_gradient(sums), jnp.max(gap_EL, initial=0.0))

    def token_loss(self, given: dict[str, Any]):
        """Return (loss_EL, metrics) of the loss plug-in, with importance weights, KL and entropy terms applied."""
        settings = self.settings
        loss_EL, metrics = self.loss(**{key: array for key, array in given.items() if key in self.loss_names})
        metrics = dict(metrics)
        if taken := LEARNER_METRICS & set(metrics):
            raise UserError(f"loss {settings.loss.name!r} reports {sorted(taken)}, names that the learner has itself")
        old_EL, rollout_EL = given["old_logp_NL"], given["rollout_logp_NL"]
        pair, high = (old_EL, rollout_EL, given["mask_NL"]), settings.importance_high
        if settings.importance == "truncate":
            loss_EL *= importance.truncate(*pair, by=settings.importance_by, high=high)
        elif settings.importance == "icepop":
            loss_EL *= importance.icepop(*pair, by=settings.importance_by, low=settings.importance_low, high=high)
        if settings.kl_weight:
            metrics["kl"] = kl.ESTIMATES[settings.kl](given["logp_NL"], given["ref_logp_NL"])
            loss_EL += settings.kl_weight * metrics["kl"]
        if self.with_entropy:
            metrics["entropy"] = given["entropy_NL"]
            loss_EL -= settings.entropy_weight * given["entropy_NL"]
        return loss_EL, metrics

    def train_step(self, state: State, batch: Batch, rate, old_logp_MEL=None):
        """Return (state, metrics) after one update at the learning rate `rate`."""
        return self.apply(state, rate, self.gradient(state, batch, old_logp_MEL))

    def gradient(self, state: State, batch: Batch, old_logp_MEL=None):
        """Return (loss, gradient, metrics) of the whole batch, summed over the micro-batches that are used."""
        work, advantage = self.prepare(state, batch, old_logp_MEL)

        def body(total, micro):
            return self.add_used(total, state, micro), None

        if len(batch.used_M) == 1:  # nothing to add up: no second tree of gradients
            total = self.of_micro_batch(state, jax.tree.map(lambda leaf: leaf[0], work))
        else:
            total, _ = jax.lax.scan(body, self.zeros(state, work), work)
        return self.measure(batch, advantage, total)

    def prepare(self, state: State, batch: Batch, old_logp_MEL=None):
        """Return a pair: what each micro-batch's loss is computed from, and the advantage of the whole batch."""
        weight_MEL = credit.token_weights(self.settings, batch)
        advantage = self.advantages(state, batch, old_logp_MEL)
        adv_MEL, reward_ME = credit.to_slots(advantage, batch)
        return (_micro_batches(batch), (weight_MEL, adv_MEL, reward_ME, old_logp_MEL)), advantage

    def of_micro_batch(self, state: State, micro):
        """Return (loss, gradient, sums over tokens, largest gap) of one micro-batch of `prepare`."""
        value_and_grad = jax.value_and_grad(self.micro_loss, has_aux=True)
        (value, (sums, gap)), grads = value_and_grad(state.params, state, micro[0], *micro[1])
        return value, grads, sums, gap

    def add(self, total, state: State, micro):
        """Return `total` with another micro-batch: loss, gradient and sums added up, and the larger gap."""
        (*sums, gap), (*more, other_gap) = total, self.of_micro_batch(state, micro)
        return (*jax.tree.map(jnp.add, sums, more), jnp.maximum(gap, other_gap))

    def add_used(self, total, state: State, micro):
        """Return `add` of a micro-batch that is used, else `total`."""
        return jax.lax.cond(micro[0].used_M, lambda: self.add(total, state, micro), lambda: total)

    def zeros(self, state: State, work):
        """Return the total over no micro-batch."""
        first = jax.tree.map(lambda leaf: leaf[0], work)
        shapes = jax.eval_shape(self.of_micro_batch, state, first)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def measure(self, batch: Batch, advantage, total):
        """Return (loss, gradient, metrics) from the total over all micro-batches."""
        value, grads, sums, gap = total
        tokens = jnp.sum(batch.mask_MEL)
        metrics = {name: part / jnp.maximum(tokens, 1) for name, part in sums.items()}
        signal_Q = group_variance_mask(batch.grades.reward_QG, batch.grades.valid_QG)
        metrics |= {"gap_max": gap, "tokens": tokens, "signal_groups": jnp.sum(signal_Q), "advantage": advantage}
        return value, grads, metrics

    def apply(self, state: State, rate, measured):
        """Return (state, metrics) after an update by what `measure` returned.

        The weights stay as they are if there was nothing to learn from, or if a value was not finite, which `skipped`
        counts.
        """
        value, grads, metrics = measured
        norm = optax.tree.norm(grads)
        finite, any_tokens = jnp.isfinite(norm) & jnp.isfinite(value), metrics["tokens"] > 0
        clip = jnp.minimum(1.0, self.settings.clip_norm / jnp.maximum(norm, 1e-30))
        scale = update_scale(self.settings, metrics["signal_groups"])

        def go(state: State):
            clipped = jax.tree.map(lambda g: g * clip, grads)
            whole, opt_state = self.transform.update(clipped, state.opt_state, state.params)
            updates = jax.tree.map(lambda u: u * (rate * scale), whole)
            params = optax.apply_updates(state.params, updates)
            count, none = state.updates + 1, jnp.int32(0)
            moved = replace(state, params=params, opt_state=opt_state, updates=count, skipped=none)
            return moved, optax.tree.norm(updates)

        def stay(state: State):
            return replace(state, skipped=state.skipped + jnp.where(any_tokens, 1, 0)), jnp.float32(0)

        state, update_norm = jax.lax.cond(any_tokens & finite, go, stay, state)
        figures = {"loss": value, "grad_norm": norm, "update_norm": update_norm, "update_scale": scale, "lr": rate}
        return state, metrics | figures | {"finite": finite, "any": any_tokens}

    def advantages(self, state: State, batch: Batch, old_logp_MEL=None) -> jax.Array:
        """Return the advantage plug-in's result for the batch: adv_QG, adv_QGT or adv_NL.

        entropy_NL and logp_NL are computed with the weights before this update, and only for its own micro-batches:
        with learner.updates > 1 an update has a part of the batch, and mask_NL is False on the rest. turn_NL and the
        grades cover the whole batch.
        """
        logp = functools.cache(lambda: self.old_logp(state, batch))
        name, names = self.settings.advantage.name, self.advantage_names
        queries, samples = batch.grades.reward_QG.shape
        gold_logp_NT = batch.gold_logp_NT
        has_gold = np.shape(gold_logp_NT)[:1] == (queries * samples,)
        assert has_gold or "gold_logp_NT" not in names, "the caller computes it (Learner.needs_gold)"
        give = {
            "grades": lambda: batch.grades,
            "turns_QG": lambda: batch.turns_QG,
            "entropy_NL": lambda: self.by_episode(self.entropies(state, batch), batch, 0.0),
            "logp_NL": lambda: self.by_episode(logp(), batch, 0.0),
            "old_logp_NL": lambda: self.by_episode(logp() if old_logp_MEL is None else old_logp_MEL, batch, 0.0),
            "gold_logp_NT": lambda: gold_logp_NT,
            "mask_NL": lambda: self.by_episode(batch.mask_MEL, batch, False),
            "turn_NL": lambda: self.by_episode(batch.turn_MEL, batch, -1),
        }
        try:
            value = self.advantage(**{key: array() for key, array in give.items() if key in names})
        except (TypeError, AttributeError) as error:
            if batch.grades.turn_reward_QGT is not None or "None" not in str(error):
                raise
            raise UserError(
                f"advantage {name!r} failed on grades without turn rewards ({error}); where it needs them, choose a "
                "reward that gives some (its file declares MAX_TURNS)"
            ) from error
        value = jnp.asarray(value)
        by_token = (queries * samples, batch.mask_MEL.shape[-1])
        if value.shape[:2] != (queries, samples) and value.shape != by_token:
            raise UserError(
                f"advantage {name!r} returned {shown(value)}; wanted {(queries, samples)}, one a turn, or one a token "
                f"{by_token}"
            )
        return value

    def by_episode(self, value_MEL, batch: Batch, empty) -> jax.Array:
        """Return `credit.by_episode` replicated: a plug-in reduces over groups, whose episodes lie on any device."""
        value_NL = credit.by_episode(value_MEL, batch, empty)
        return jax.lax.with_sharding_constraint(value_NL, meshes.replicated(self.mesh))

    def old_logp(self, state: State, batch: Batch) -> jax.Array:
        """Return the batch's log-probabilities under the present weights, [M, E, L]; 0 where nothing was sampled."""
        return _by_micro_batch(batch, lambda micro: self.predict(state.params, state.base, micro, False)[0])

    def entropies(self, state: State, batch: Batch) -> jax.Array:
        """Return the entropies of the tokens' sampling distributions, [M, E, L] float32 nats, without gradient."""

        def entropy_of(micro: Batch) -> jax.Array:
            entropy_EL = self.predict(state.params, state.base, micro, True)[1]
            assert entropy_EL is not None, "predict gives the entropy where it is asked for"
            return entropy_EL

        return jax.lax.stop_gradient(_by_micro_batch(batch, entropy_of))


def _by_micro_batch(batch: Batch, value_of: Callable[[Batch], jax.Array]) -> jax.Array:
    """Return `value_of` each used micro-batch at its sampled tokens, [M, E, L]; 0 elsewhere."""

    def body(_, micro):
        zeros = jnp.zeros(micro.mask_MEL.shape, jnp.float32)

        def compute():
            return jnp.where(micro.mask_MEL, value_of(micro), 0.0)

        return None, jax.lax.cond(micro.used_M, compute, lambda: zeros)

    return jax.lax.scan(body, None, _micro_batches(batch))[1]


def _micro_batches(batch: Batch) -> Batch:
    """Return the batch without the fields that are not per micro-batch, so that a scan can run over it."""
    return replace(batch, grades=None, gold_logp_NT=None, weight_Q=None, turns_QG=None, **dict.fromkeys(pack.COUNTS))


def _used(micro: Batch):
    """Mark the packed positions that predict a trained token, [R, C]."""
    rows, columns = micro.target_MRC.shape
    column_RX, mask_RX = (part.reshape(rows, -1) for part in (micro.source_MEL % columns, micro.mask_MEL))
    return jnp.zeros((rows, columns), bool).at[jnp.arange(rows)[:, None], column_RX].max(mask_RX)


def _to_episodes(value_RC, source_EL):
    """Gather values of packed positions by episode, inside each row, so that they stay on their device."""
    rows, columns = value_RC.shape
    column_RX = (source_EL % columns).reshape(rows, -1)
    return jnp.take_along_axis(value_RC, column_RX, axis=1).reshape(source_EL.shape)


def update_scale(settings: config.Learner, signal_groups):
    """Return the share of a full update for so many signal groups: min(1, groups / learner.full_groups), [].

    Adam's step is as large for any batch: without this a few groups would move the weights as far as many, by noise.
    """
    return jnp.minimum(1.0, signal_groups / settings.full_groups) if settings.full_groups else jnp.float32(1.0)
