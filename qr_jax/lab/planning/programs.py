"""The programs of a run, lowered from the very jitted objects that train.py calls and compiled for a slice of TPUs.

Nothing is executed and nothing large is allocated: all there is are shapes, laid out as a run lays out its arrays.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from qr_jax import plugins
from qr_jax.assemble import world_tokenizer
from qr_jax.config import Config
from qr_jax.lab.planning import ahead
from qr_jax.learner import learner, pack
from qr_jax.methods import gold
from qr_jax.models import families, hf, incremental, lora
from qr_jax.models.families import ModelConfig
from qr_jax.models.hf import load_tokenizer
from qr_jax.parallel import host_local
from qr_jax.parallel.mesh import set_apart
from qr_jax.rollout import cache as caches
from qr_jax.rollout import decode as jitted
from qr_jax.rollout.kv_cache import KVCache
from qr_jax.step import grading, runtime

# Models whose sizes families.py holds, by the names that config.model has.
HUB: dict[str, str] = dict.fromkeys(("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"), "smollm2_135m")
HUB |= {"Qwen/Qwen3-0.6B": "qwen3_0p6b", "Qwen/Qwen3-1.7B": "qwen3_1p7b", "Qwen/Qwen3-4B": "qwen3_4b"}
HUB |= {"Qwen/Qwen2.5-1.5B": "qwen2p5_1p5b", "Qwen/Qwen2.5-1.5B-Instruct": "qwen2p5_1p5b"}
HUB |= {"Qwen/Qwen2.5-3B": "qwen2p5_3b", "Qwen/Qwen2.5-3B-Instruct": "qwen2p5_3b"}
HUB |= {"google/gemma-3-270m": "gemma3_270m", "google/gemma-3-270m-it": "gemma3_270m"}
HUB |= {f"google/gemma-3-{size}-{kind}": f"gemma3_{size}" for size in ("1b", "4b") for kind in ("pt", "it")}
HOST_LAYOUTS = {1: "2x2", 2: "2x2x1"}  # of a host's 4 chips, by the dimensions of the slice less one


@dataclass(frozen=True)
class Slice:
    """Chips to compile for: all of them, and those of one host."""

    chips: tuple[Any, ...]
    local: tuple[Any, ...]
    hosts: int


def slice_of(topology: str) -> Slice:
    """Return a slice's chips ("v5e:4x4"), and a host's as a slice of their own: libtpu compiles for whole slices."""
    chips = ahead.devices(topology)
    hosts = {chip.process_index for chip in chips}
    if len(hosts) == 1:
        return Slice(tuple(chips), tuple(chips), 1)
    generation, _, layout = topology.partition(":")
    local = ahead.devices(f"{generation}:{HOST_LAYOUTS[layout.count('x')]}")
    here = sum(chip.process_index == chips[0].process_index for chip in chips)
    assert here == len(local), f"a host of {topology} has {here} chips, one of its layout {len(local)}"
    return Slice(tuple(chips), tuple(local), len(hosts))


def model_shape(config: Config) -> ModelConfig:
    """Return the model's shape, without its weights: nothing is fetched for the models whose sizes families.py holds.

    ValueError where a hub's model has no config.json that could be fetched.
    """
    model = config.model
    if model.name in families.PRESETS:
        tokenizer = world_tokenizer(config) if model.tokenizer is None else load_tokenizer(model.tokenizer)
        return replace(families.PRESETS[model.name], vocab=tokenizer.size)
    if model.name in HUB:
        return families.PRESETS[HUB[model.name]]
    return hf.shape(hf.resolve(model.name))


class Programs:
    """One config's programs on one slice."""

    def __init__(self, config: Config, cfg: ModelConfig, on: Slice):
        self.config, self.cfg, self.on = config, cfg, on
        sizes = config.mesh
        learn, local = set_apart(on.chips, sizes.rollout_devices)[0], set_apart(on.local, sizes.rollout_devices)[1]
        local = local or on.local
        self.mesh = ahead.mesh(learn, data=sizes.data, fsdp=sizes.fsdp, tensor=sizes.tensor)
        self.compute = jnp.dtype(config.model.compute)
        self.pod = sizes.rollout == "pod"
        count = len(on.chips if self.pod else local)
        self.kind: host_local.Kind = host_local.choose(sizes.rollout, cfg, config.rollout, count, local[0].platform)
        self.local = host_local.pod_mesh(self.mesh, cfg) if self.pod else host_local.local_mesh(self.kind, local)

    # ---- the learner

    @functools.cache  # noqa: B019
    def learner(self) -> tuple[learner.Learner, pack.Batch]:
        """Return the Learner on the slice's mesh, and the shapes of a batch as `Runtime.batch` packs it."""
        config, (queries, samples) = self.config, runtime.room(self.config)
        settings, temperature = config.learner, config.rollout.temperature
        made = learner.make(self.cfg, config.model, settings, self.mesh, temperature=temperature)
        none = grading.joined((), samples, plugins.constants("reward", config.reward.name).get("MAX_TURNS"))
        host = pack.pack(
            [], none, rows=settings.rows, row_tokens=settings.row_tokens, queries=queries, samples=samples,
            share=settings.share_prefixes,
        )  # fmt: skip
        if made.needs_gold:
            host = replace(host, gold_logp_NT=np.zeros((queries * samples, gold.turns_axis(0)), np.float32))
        return made, jax.tree.map(_shape, host, made.train_step.batch_at(host))

    def train(self) -> jax.stages.Lowered:
        """Lower one update: the learner's `train_step`, its state donated."""
        made, batch = self.learner()
        recorded = self.config.train.overlap and self.config.learner.importance == "off"
        old = (batch.rollout_logp_MEL,) if recorded or self.config.learner.updates > 1 else ()  # all of one layout
        return made.train_step.jitted.lower(made.abstract, batch, np.float32(0), *old)

    # ---- rollouts, on the chips of one host, or of all for mesh.rollout=pod

    def rows(self) -> tuple[KVCache, dict[str, Any]]:
        """Return the engine's KVCache, nothing of it allocated, and the shapes of all that its programs are given.

        `laid`, the caches `slots` (at their longest) and `store`, and `new`: what one prefill call writes.
        """
        made: list[KVCache] = []

        def make():
            rows = KVCache(self.cfg, self.config.rollout, (), compute=self.config.model.compute)
            made.append(rows)
            full = {"slots": (self.config.rollout.slots, rows.views[-1]), "store": (rows.store_count, rows.views[-1])}
            dealt_over = self.local.shape["slots"]  # devices, each of which has some of the tiles, or one that is empty
            tiles = -(-rows.call_sizes[-1] // dealt_over) * dealt_over
            sizes = full | {"new": (tiles, self.config.rollout.tile)}
            return {name: caches.create(self.cfg, *size, rows.kept) for name, size in sizes.items()}

        adapters = lora.shapes_of(self.whole())
        laid = incremental.shapes(self.cfg, self.compute, adapters, self.config.rollout.weights == "int8")
        dealt = NamedSharding(self.local, caches.AT)
        shapes = jax.tree.map(functools.partial(_shape, at=dealt), jax.eval_shape(make))
        return made[0], shapes | {"laid": jax.tree.map(_shape, laid, host_local.layout(self.local, laid))}

    def decode(self) -> jax.stages.Lowered:
        """Lower a chunk of tokens in every slot, the slots' cache at its longest."""
        (rows, shapes), slots = self.rows(), self.config.rollout.slots
        numbers = [((slots,), jnp.int32)] * 3  # pending, used, room
        rest = [((slots, 2), jnp.uint32), ((self.cfg.vocab,), jnp.bool_), ((), jnp.float32)]  # keys, stops, temperature
        given = [jax.ShapeDtypeStruct(*shape) for shape in (*numbers, *rest)]
        how = {"cfg": self.cfg, "chunk": self.config.rollout.chunk, "sampling": rows.sampling, "mesh": self.local}
        return jitted.decode.lower(shapes["laid"], shapes["slots"], None, *given, **how)

    def prefill(self) -> jax.stages.Lowered:
        """Lower the largest call that puts known tokens into the cache, looking at rows of full length."""
        rows, shapes = self.rows()
        tiles, tile = rows.call_sizes[-1], self.config.rollout.tile
        given = [jax.ShapeDtypeStruct((tiles, *more), jnp.int32) for more in ((), (tile,), (), ())]
        how = {"cfg": self.cfg, "view": rows.views[-1], "mesh": self.local}
        return jitted.append.lower(shapes["laid"], shapes["store"], *given, **how)

    @property
    def reordered(self) -> bool:
        """Return True if hosts share rollouts in another order of chips than the learner: parameters are sent first."""
        return not self.pod and list(self.laid_over.devices.flat) != list(self.mesh.devices.flat)

    @property
    def laid_over(self) -> Mesh:
        """Return the mesh of the slice's chips as rollouts share them."""
        return self.local if self.pod else host_local.by_hosts(self.mesh, self.kind)

    def to_rollout_params(self) -> jax.stages.Lowered:
        """Lower what lays the learner's parameters out for rollouts on every host: one program on the slice."""
        on = self.laid_over
        params = self.whole()
        ordered = host_local.in_the_order_of(on, self.mesh)
        params = jax.tree.map(lambda leaf: _shape(leaf, NamedSharding(ordered, leaf.sharding.spec)), params)
        compute, int8 = host_local.stored_as(self.config)
        return host_local.program(self.cfg, compute, on, lora.shapes_of(params), int8).lower(params)

    def whole(self) -> Any:
        """Return the shapes that rollouts are made of: the trained parameters, adapters in the tree of their base."""
        state = self.learner()[0].abstract
        if state.base is None:
            return state.params
        # the shapes of `lora.whole`, whose scale changes none
        return {**state.base, "layers": {**state.base["layers"], "lora": state.params}}


def _shape(leaf: Any, at: Any) -> Any:
    return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=at)
