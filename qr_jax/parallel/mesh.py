"""The learner's mesh, and which axis of it each dimension of each array is laid over.

A parameter's dimensions have logical names (`DIMENSIONS`), and a name has one mesh axis (`RULES`): to lay a new array
out, give its dimensions names. A dimension that its mesh axis does not divide is replicated.
"""

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from qr_jax import config
from qr_jax.errors import UserError
from qr_jax.parallel import hosts

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the rows of a batch are dealt over both

RULES: Mapping[str, str | None] = {
    **dict.fromkeys(("vocabulary", "heads", "key/value heads", "mlp"), "tensor"),
    "width": "fsdp",
    **dict.fromkeys(("layers", "head size", "norm", "rank"), None),
}

DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("embed", "head"), ("vocabulary", "width")),
    "norm": ("norm",),
    **dict.fromkeys(("attn_norm", "mlp_norm", "q_norm", "k_norm"), ("layers", "norm")),
    **dict.fromkeys(("attn_out_norm", "mlp_out_norm"), ("layers", "norm")),
    "q": ("layers", "width", "heads", "head size"),
    **dict.fromkeys(("k", "v"), ("layers", "width", "key/value heads", "head size")),
    "o": ("layers", "heads", "head size", "width"),
    "q_bias": ("layers", "heads", "head size"),
    **dict.fromkeys(("k_bias", "v_bias"), ("layers", "key/value heads", "head size")),
    **dict.fromkeys(("gate", "up"), ("layers", "width", "mlp")),
    "down": ("layers", "mlp", "width"),
    **dict.fromkeys(("q_a", "k_a", "v_a", "gate_a", "up_a"), ("layers", "width", "rank")),
    "q_b": ("layers", "rank", "heads", "head size"),
    **dict.fromkeys(("k_b", "v_b"), ("layers", "rank", "key/value heads", "head size")),
    "o_a": ("layers", "heads", "head size", "rank"),
    **dict.fromkeys(("gate_b", "up_b"), ("layers", "rank", "mlp")),
    "down_a": ("layers", "mlp", "rank"),
    **dict.fromkeys(("o_b", "down_b"), ("layers", "rank", "width")),
}


def emulate(devices: int | None, *, processes: int = 1) -> None:
    """Let the CPU backend show `devices` devices, over all `processes`; call it before anything runs in jax.

    None changes nothing; other backends are not touched. ValueError if `processes` do not divide them, or if the
    backend has started with fewer; if it has started with more, `make_mesh` takes the first ones.
    """
    if devices is None:
        return
    if devices < 1 or devices % processes:
        raise UserError(f"mesh.devices={devices} must be a positive multiple of the {processes} processes")
    own = devices // processes
    if jax.config.values["jax_num_cpu_devices"] >= own:
        return
    try:
        jax.config.update("jax_num_cpu_devices", own)
    except RuntimeError as error:  # jax's backend has started: it gets no more devices
        if (has := jax.local_device_count()) < own:
            wants = f"mesh.devices={devices} wants {own} devices in this process, but jax started with {has}"
            raise UserError(f"{wants}; call emulate before the first jax operation, or set fewer") from error


def emulate_at_start(settings: config.Mesh) -> None:
    """Emulate the CPU's devices, as the commands do, for a program that calls us before jax has started.

    ValueError if jax has started on a CPU with fewer.
    """
    try:
        emulate(settings.devices, processes=hosts.count())
    except UserError:
        if jax.default_backend() == "cpu":
            raise


def axes(settings: config.Mesh, platform: str) -> tuple[int, int, int]:
    """Return the sizes of data, fsdp and tensor; on a CPU with all three 1, data takes the learning `devices`."""
    sizes, emulated = (settings.data, settings.fsdp, settings.tensor), settings.devices if platform == "cpu" else None
    apart = settings.rollout_devices * hosts.count()
    return (max(emulated - apart, 1), 1, 1) if emulated and sizes == (1, 1, 1) else sizes


def split(settings: config.Mesh) -> tuple[list[Any], list[Any]]:
    """Return the devices that learn, and those that only roll out, of all processes; on a CPU of the emulated ones."""
    devices = jax.devices()
    if devices[0].platform == "cpu" and settings.devices:
        devices = devices[: settings.devices]
    return set_apart(devices, settings.rollout_devices)


def set_apart(devices: Sequence[Any], count: int) -> tuple[list[Any], list[Any]]:
    """Split devices into those that learn and `count` of each host that only roll out: its last ones.

    Of TPU chips those farthest from the slice's middle: the others are neighbours. ValueError if the others are no box
    of whole chips: libtpu compiles for no other part of a slice.
    """
    if not count:
        return list(devices), []
    at = {device: tuple(device.coords) if device.platform == "tpu" else () for device in devices}
    ends_A = [(min(axis), max(axis)) for axis in zip(*at.values(), strict=True)]

    def outwards(device: Any) -> tuple[Any, ...]:
        far = (abs(2 * place - low - high) for place, (low, high) in zip(at[device], ends_A, strict=True))
        return *far, at[device], device.id

    by_host: dict[int, list[Any]] = {}
    for device in sorted(devices, key=outwards):
        by_host.setdefault(device.process_index, []).append(device)
    apart = {device for own in by_host.values() for device in own[-count:]}
    learn = [device for device in devices if device not in apart]
    if ends_A and not _is_box([at[device] for device in learn], len(devices) // len(set(at.values()))):
        hosts_of = f"of each of {len(by_host)} hosts with {len(devices) // len(by_host)} devices"
        told = f"mesh.rollout_devices={count} {hosts_of} leaves {len(learn)} devices that are no box of whole chips"
        raise UserError(f"{told}, and libtpu compiles for no other part; set another number, or 0")
    return learn, [device for device in devices if device in apart]


def _is_box(coords: Collection[tuple[int, ...]], cores: int) -> bool:
    """Return True if the devices at these places are all of a box of chips, each of which is `cores` devices."""
    return len(coords) == cores * math.prod(max(axis) - min(axis) + 1 for axis in zip(*coords, strict=True))


def make_mesh(settings: config.Mesh) -> Mesh:
    """Return the learner's mesh over all processes, axes `data`, `fsdp`, `tensor`.

    On a CPU it is over the first `settings.devices` devices. Axes are Auto (jax.make_mesh alone would make them
    Explicit, where indexing a sharded table fails). Those of `rollout_devices` are left out. ValueError when the axes'
    product is not the number of the other devices, or there are too few.
    """
    devices = jax.devices()
    platform = devices[0].platform
    if told := unfit(settings, len(devices), platform):
        raise UserError(told)
    sizes = axes(settings, platform)
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=split(settings)[0])


def unfit(settings: config.Mesh, count: int, platform: str) -> str | None:
    """Say why a mesh cannot be made of so many devices, and what to set; None: it can."""
    sizes = axes(settings, platform)
    emulated, apart = settings.devices if platform == "cpu" else None, settings.rollout_devices * hosts.count()
    product, wanted = math.prod(sizes), (emulated or count) - apart
    if apart and wanted < 1:
        told = f"mesh.rollout_devices={settings.rollout_devices} of each host's {(emulated or count) // hosts.count()}"
        return f"{told} devices leave none to learn; set fewer"
    if wanted + apart > count:
        todo = f"{fitting(settings, count)} mesh.devices={count}".strip()
        return f"mesh.devices={emulated}, but this run has {count} ({platform}); set {todo}"
    if product == wanted:
        return None
    named = " x ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    named += f" is {product} device{'s' * (product != 1)}"
    has = f"mesh.devices={emulated} are to be used" if emulated else f"this run has {count} ({platform})"
    has += f", of which mesh.rollout_devices={settings.rollout_devices} of each host roll out" * bool(apart)
    more = f"mesh.devices={product + apart}, which emulates as many on the CPU, or " if platform == "cpu" else ""
    held = platform != "cpu" and wanted > 1 and settings.devices not in (None, count)  # by checks.py
    also = f" mesh.devices={count}" * held
    return f"{named}, but {has}; set {more}{fitting(settings, wanted)}{also}"


def fitting(settings: config.Mesh, count: int) -> str:
    """Return the settings to change so that a mesh has so many devices, as in "mesh.data=1 mesh.fsdp=2"."""
    data = math.gcd(settings.data, count)
    tensor = math.gcd(settings.tensor, count // data)
    fit = {"data": data, "fsdp": count // (data * tensor), "tensor": tensor}
    return " ".join(f"mesh.{name}={size}" for name, size in fit.items() if size != getattr(settings, name))


def _dimensions(path: tuple[Any, ...], leaf: Any) -> tuple[str, ...] | None:
    """Return the logical names of an array, from the last dict key on its way and its rank; None: no rule, so
    replicated.

    Optimizer states hold copies of the parameter tree, so their arrays are found by the same last key; arrays of
    another rank under it (a factored second moment) have no rule.
    """
    keys = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    names = DIMENSIONS.get(str(keys[-1])) if keys else None
    return names if names is not None and len(names) == np.ndim(leaf) else None


def _spec(mesh: Mesh, path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
    names = _dimensions(path, leaf)
    if names is None:
        return PartitionSpec()
    pairs = zip([RULES[name] for name in names], np.shape(leaf), strict=True)
    return PartitionSpec(*(axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in pairs))


def shardings(mesh: Mesh, tree: Any) -> Any:
    """Return a NamedSharding for each array of a tree that holds parameters, copies of them (optimizer states) or
    counters, as arrays or shapes.

    An array without a rule, or a dimension that its axis does not divide, is replicated.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: NamedSharding(mesh, _spec(mesh, path, leaf)), tree)


def abstract(mesh: Mesh, tree: Any) -> Any:
    """Return the tree (arrays or shapes) as jax.ShapeDtypeStructs laid over this mesh: what `Checkpoints.restore`
    takes.
    """

    def laid(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(laid, tree, shardings(mesh, tree))


def spread(tree: Any, layout: Any) -> Any:
    """Lay host values or local arrays, the same on every process, out by `layout`; nothing is sent between hosts.

    (`jax.device_put` would first compare every byte over all processes.)
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, layout)

    def laid(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda at: whole[at])

    return jax.tree.map(laid, tree, layout)


@functools.cache
def whole_everywhere(mesh: Mesh) -> Any:
    """Return the jitted program that gathers a tree laid over the mesh whole onto each of its devices."""
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, row_axis: int = 0) -> NamedSharding:
    """Return a sharding of rows over `data` and `fsdp`; `row_axis` is 1 for arrays [micro-batches, rows, ...]."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * row_axis, ROWS))


def describe(mesh: Mesh) -> str:
    """Describe the mesh, for a run's start."""
    return f"mesh {' x '.join(f'{axis} {mesh.shape[axis]}' for axis in AXES)} ({mesh.devices.flat[0].platform})"
