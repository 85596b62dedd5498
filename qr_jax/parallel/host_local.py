"""Layouts in which a host's own devices share its rollouts, and the transfer of the learner's parameters to them.

"heads": each device has its heads' part of the weights and of the cache, and a layer's two all-reduces go over all.
"slots": each has all weights and its own rows of the cache. "one": one device decodes alone. In these three no
collective of a rollout leaves its host: parameters come once a step, replicated over hosts, and are then wrapped as
arrays of this process alone. "pod": all hosts' devices share one rollout by heads and slots (rollout/together.py), for
a model that one host cannot hold."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from qr_jax import config
from qr_jax.errors import UserError
from qr_jax.models import incremental, lora
from qr_jax.models.families import ModelConfig
from qr_jax.models.incremental import DecodeParams
from qr_jax.models.quantized import Int8
from qr_jax.parallel.mesh import split, whole_everywhere

AXES = ("slots", "heads")
Kind = Literal["heads", "slots", "one", "pod"]
# Which dimension of a DecodeParams array the mesh axis `heads` cuts; what is not here is whole on every device.
CUT = {"qkv": 0, "qkv_bias": 0, "o": 1, "gate_up": 1, "down": 1}
CUT |= {"qkv_b": 0, "o_a": 1, "gate_up_b": 1, "down_a": 1}  # of adapters


def choose(asked: Kind | None, cfg: ModelConfig, rollout: config.Rollout, devices: int, platform: str) -> Kind:
    """Return `asked` (mesh.rollout). If it is None: "heads" if `devices` divide heads and MLP, else "slots" if they
    divide slots and store, else "one".

    `devices` counts those of one host, for "pod" (never chosen by None) those of all. On CPU None means "one", for its
    emulated devices are one machine. ValueError if the devices do not divide what was asked for.
    """
    rows = (rollout.slots, rollout.store or rollout.slots)
    if asked == "pod":
        heads = heads_of_pod(cfg, devices)
        if any(n % (devices // heads) for n in rows):
            cut = f"mesh.rollout='pod' cuts {cfg.kv_heads} key/value heads and an MLP of {cfg.mlp} into {heads}"
            groups = f"{devices} devices are {devices // heads} groups, which do not divide slots, store of {rows}"
            todo = f"set rollout.slots and store to multiples of {devices // heads}"
            raise UserError(f"{cut}, so that {groups}; {todo}")
    fits = {"heads": not (cfg.kv_heads % devices or cfg.mlp % devices), "slots": not any(n % devices for n in rows)}
    if asked in fits and not fits[asked]:
        dealt = {"heads": f"{cfg.kv_heads} key/value heads and an MLP of {cfg.mlp}", "slots": f"slots, store of {rows}"}
        todo = " or slots" if asked == "heads" else ", or rollout.slots and store to multiples"
        deals = f"mesh.rollout={asked!r} deals {dealt[asked]} over a host's {devices} devices"
        raise UserError(f"{deals}, which do not divide them; set mesh.rollout=one{todo}")
    if asked or devices == 1 or platform == "cpu":
        return asked or "one"
    return "heads" if fits["heads"] else "slots" if fits["slots"] else "one"


def heads_of_pod(cfg: ModelConfig, devices: int) -> int:
    """Return the largest divisor of `devices` into which heads and MLP can be cut."""
    return max(n for n in range(1, devices + 1) if not (devices % n or cfg.kv_heads % n or cfg.mlp % n))


def pod_mesh(mesh: Mesh, cfg: ModelConfig) -> Mesh:
    """Return the learner's devices, in its order, as a mesh for one shared rollout: by slots, then by heads."""
    heads = heads_of_pod(cfg, mesh.size)
    return Mesh(mesh.devices.reshape(mesh.size // heads, heads), AXES, axis_types=(AxisType.Auto,) * 2)


def local_mesh(kind: Kind, devices: Sequence[Any]) -> Mesh:
    """Return one host's devices as a mesh for its rollouts: axes `slots`, `heads`."""
    shape = {"heads": (1, len(devices)), "slots": (len(devices), 1), "one": (1, 1)}[kind]
    return Mesh(np.array(devices[: shape[0] * shape[1]]).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 2)


def of_host(mesh: Mesh, process: int) -> list[Any]:
    """Return the learner's devices that belong to `process`, in order of their ids."""
    return sorted((d for d in mesh.devices.flat if d.process_index == process), key=lambda device: device.id)


def by_hosts(mesh: Mesh, kind: Kind) -> Mesh:
    """Return all of the learner's devices as a mesh of hosts that each roll out: axes `host`, `slots`, `heads`.

    For "one" a host's other devices lie on the axis of slots too, and get copies that nobody reads.
    """
    processes = sorted({device.process_index for device in mesh.devices.flat})
    hosts = [of_host(mesh, process) for process in processes]
    if len({len(host) for host in hosts}) > 1:
        raise UserError(f"the hosts have {[len(host) for host in hosts]} devices of the mesh; all must have as many")
    shape = (len(hosts), 1, len(hosts[0])) if kind == "heads" else (len(hosts), len(hosts[0]), 1)
    return Mesh(np.array(hosts).reshape(shape), ("host", *AXES), axis_types=(AxisType.Auto,) * 3)


def in_the_order_of(on: Mesh, mesh: Mesh) -> Mesh:
    """Return the mesh with its devices in the order of `on`."""
    return Mesh(on.devices.reshape(mesh.devices.shape), mesh.axis_names, axis_types=mesh.axis_types)


def layout(mesh: Mesh, shapes: DecodeParams) -> DecodeParams:
    """Return a NamedSharding for each decode parameter. `mesh` has an axis `heads`."""
    whole = NamedSharding(mesh, PartitionSpec())

    def cut(dimension: int, leaf: Any) -> Any:
        if isinstance(leaf, Int8):
            return Int8(cut(dimension, leaf.steps), cut(dimension, leaf.scale))
        even = len(leaf.shape) > dimension and leaf.shape[dimension] % mesh.shape["heads"] == 0
        return NamedSharding(mesh, PartitionSpec(*(None,) * dimension, "heads")) if even else whole

    def of_layer(layer: Any) -> dict[str, Any]:
        return {name: cut(CUT[name], leaf) if name in CUT else whole for name, leaf in layer.items()}

    head = None if shapes.head is None else cut(0, shapes.head)
    layers = tuple(map(of_layer, shapes.layers))
    return replace(shapes, embed=cut(0, shapes.embed), head=head, norm=whole, layers=layers)


@functools.cache
def program(cfg: ModelConfig, compute: str, on: Mesh, adapters: lora.Shapes = (), int8: bool = False) -> Any:
    """Return the jitted program that moves the learner's parameters to `by_hosts(...)` or `pod_mesh(...)`.

    `adapters`: `lora.shapes_of` the parameters.
    """
    to_decode_params = functools.partial(incremental.to_decode_params, cfg, dtype=jnp.dtype(compute), int8=int8)
    shapes = incremental.shapes(cfg, jnp.dtype(compute), adapters, int8)
    return jax.jit(to_decode_params, out_shardings=layout(on, shapes))


def rollout_only(settings: config.Mesh) -> list[Any]:
    """Return this host's devices that roll out and do not learn (`mesh.rollout_devices`), if any."""
    return [device for device in split(settings)[1] if device.process_index == jax.process_index()]


def rollout_layout(settings: config.Config, cfg: ModelConfig, mesh: Mesh) -> Kind:
    """Choose how a host's devices share its rollouts, or for mesh.rollout=pod how all devices share one."""
    asked = settings.mesh.rollout
    devices = list(mesh.devices.flat) if asked == "pod" else of_host(mesh, jax.process_index())
    devices = rollout_only(settings.mesh) or devices
    return choose(asked, cfg, settings.rollout, len(devices), devices[0].platform)


def stored_as(settings: config.Config) -> tuple[str, bool]:
    """Return the dtype of the parameters that rollouts read, and whether matrices are int8."""
    return settings.model.compute, settings.rollout.weights == "int8"


def to_rollout_params(
    params: Any, settings: config.Config, cfg: ModelConfig, mesh: Mesh, kind: Kind = "one"
) -> DecodeParams:
    """Lay the learner's parameters out as this host's rollouts read them (`stored_as`), on the devices that roll out.

    With one process and one device decoding they are the learner's own arrays where possible, not copies.
    """
    compute, int8 = stored_as(settings)
    dtype = jnp.dtype(compute)
    if devices := rollout_only(settings.mesh):
        at = layout(local_mesh(kind, devices), incremental.shapes(cfg, dtype, lora.shapes_of(params), int8))
        if mesh.size > 1:
            return jax.device_put(over_hosts(params, cfg, compute, mesh, kind, int8), at)
        return jax.device_put(incremental.to_decode_params(cfg, params, dtype, int8), at)
    if kind == "one" and jax.process_count() == 1:
        return incremental.to_decode_params(cfg, on_one_device(params, mesh), dtype, int8)
    return over_hosts(params, cfg, compute, mesh, kind, int8)


def on_one_device(params: Any, mesh: Mesh) -> Any:
    """Return the learner's tree whole on this host's first device; a mesh of one device gives its own, uncopied."""
    if mesh.size == 1:
        return params
    first = jax.local_devices()[0]
    if jax.process_count() == 1:
        return jax.device_put(params, first)
    whole = whole_everywhere(mesh)(params)
    return jax.tree.map(lambda leaf: next(s.data for s in leaf.addressable_shards if s.device == first), whole)


def over_hosts(params: Any, cfg: ModelConfig, compute: str, mesh: Mesh, kind: Kind, int8: bool = False) -> DecodeParams:
    """Return the learner's parameters for this host's rollouts, in the compute dtype ("pod": for all hosts').

    The result shares its memory with global arrays that nothing else refers to. Keep it until the last decode of the
    step, and drop it before the next hand-over.
    """
    if kind == "pod":
        return program(cfg, compute, pod_mesh(mesh, cfg), lora.shapes_of(params), int8)(params)
    on, me = by_hosts(mesh, kind), jax.process_index()
    if list(on.devices.flat) != list(mesh.devices.flat):  # jit takes arrays of one order of devices only
        ordered = in_the_order_of(on, mesh)
        params = jax.device_put(params, jax.tree.map(lambda leaf: NamedSharding(ordered, leaf.sharding.spec), params))
    local = local_mesh(kind, of_host(mesh, me))

    def own(leaf: jax.Array) -> jax.Array:
        parts = {shard.device: shard.data for shard in leaf.addressable_shards}
        sharding = NamedSharding(local, leaf.sharding.spec)  # type: ignore[attr-defined]
        pieces = [parts[device] for device in local.devices.flat]
        return jax.make_array_from_single_device_arrays(leaf.shape, sharding, pieces)

    return jax.tree.map(own, program(cfg, compute, on, lora.shapes_of(params), int8)(params))


def describe(kind: Kind, mesh: Mesh, cfg: ModelConfig, apart: int = 0) -> str:
    """Describe the layout, for a run's start; `apart`: how many devices roll out and do not learn."""
    if kind == "pod":
        heads = heads_of_pod(cfg, mesh.size)
        return f"all {mesh.size} devices share one rollout: {mesh.size // heads} by slots x {heads} by key/value heads"
    count = apart or len(of_host(mesh, jax.process_index()))
    whose = f"each host's {count} devices that do not learn" if apart else f"each host's {count} devices"
    if kind == "one" or count == 1:
        told = f"one of {whose} decodes" if apart > 1 else "each host's device that does not learn decodes"
        return told if apart else "each host decodes on one device" + f" of its {count}" * (count > 1)
    if kind == "slots":
        return f"{whose} share the slots; every one has all weights"
    whole = "" if cfg.vocab % count == 0 else f"; {count} does not divide {cfg.vocab} tokens, so embeddings are whole"
    return f"{whose} share weights and cache by {cfg.kv_heads} key/value heads{whole}"
