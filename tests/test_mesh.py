"""The mesh and the layout of parameters, optimizer state and batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from qr_jax import config
from qr_jax.lab.planning import planned
from qr_jax.parallel import mesh as meshes


def shapes(*, vocabulary=32, width=16, heads=4, key_value_heads=2, mlp=24, layers=2, head_size=4):
    n, d, h, k, s, f = layers, width, heads, key_value_heads, head_size, mlp
    tree = {
        "embed": (vocabulary, d),
        "layers": {
            **dict.fromkeys(("attn_norm", "mlp_norm"), (n, d)),
            **dict.fromkeys(("q_norm", "k_norm"), (n, s)),
            **dict.fromkeys(("k", "v"), (n, d, k, s)),
            **dict.fromkeys(("k_bias", "v_bias"), (n, k, s)),
            **dict.fromkeys(("gate", "up"), (n, d, f)),
            "q": (n, d, h, s),
            "o": (n, h, s, d),
            "q_bias": (n, h, s),
            "down": (n, f, d),
        },
        "norm": (d,),
        "head": (vocabulary, d),
    }
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), tree, is_leaf=lambda x: isinstance(x, tuple)
    )


def mesh_of(data, fsdp, tensor):
    return meshes.make_mesh(config.Mesh(data, fsdp, tensor, devices=data * fsdp * tensor))


def test_the_mesh_has_three_auto_axes_over_the_first_devices():
    mesh = mesh_of(1, 2, 2)
    assert dict(mesh.shape) == {"data": 1, "fsdp": 2, "tensor": 2}
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert list(mesh.devices.flat) == jax.devices()[:4]


def test_devices_are_a_cpu_s_and_along_data_where_no_axis_is_set():
    two = config.Mesh(devices=2)
    assert dict(meshes.make_mesh(two).shape) == {"data": 2, "fsdp": 1, "tensor": 1}
    assert meshes.axes(two, "gpu") == (1, 1, 1) and meshes.unfit(two, 1, "gpu") is None is meshes.unfit(two, 1, "tpu")
    assert meshes.axes(config.Mesh(fsdp=2, devices=2), "cpu") == (1, 2, 1)


def test_a_mesh_without_a_device_count_takes_all():
    assert meshes.make_mesh(config.Mesh(data=8)).size == 8


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            config.Mesh(2, 2, 1, devices=8),
            "mesh.data=2 x mesh.fsdp=2 x mesh.tensor=1 is 4 devices, but mesh.devices=8 are to be used; set mesh.dev",
        ),
        (config.Mesh(1, 1, 64, devices=64), "mesh.devices=64, but this run has 8"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_with_the_numbers(settings, said):
    with pytest.raises(ValueError, match=said):
        meshes.make_mesh(settings)


@pytest.mark.parametrize(
    ("settings", "count", "platform", "said"),
    [
        (config.Mesh(fsdp=4), 1, "gpu", "is 4 devices, but this run has 1 (gpu); set mesh.fsdp=1"),
        (config.Mesh(fsdp=4), 1, "tpu", "is 4 devices, but this run has 1 (tpu); set mesh.fsdp=1"),
        (config.Mesh(data=2, tensor=4), 1, "gpu", "has 1 (gpu); set mesh.data=1 mesh.tensor=1"),
        (config.Mesh(), 8, "gpu", "is 1 device, but this run has 8 (gpu); set mesh.fsdp=8"),
        (config.Mesh(fsdp=8, tensor=2), 8, "gpu", "is 16 devices, but this run has 8 (gpu); set mesh.fsdp=4"),
        (config.Mesh(fsdp=4, devices=4), 1, "gpu", "but this run has 1 (gpu); set mesh.fsdp=1"),
        (config.Mesh(devices=2), 8, "tpu", "but this run has 8 (tpu); set mesh.fsdp=8 mesh.devices=8"),
        (
            config.Mesh(fsdp=4), 1, "cpu",
            "has 1 (cpu); set mesh.devices=4, which emulates as many on the CPU, or mesh.fsdp=1",
        ),
        (
            config.Mesh(2, 2, 1, devices=8), 8, "cpu",
            "mesh.devices=8 are to be used; set mesh.devices=4, which emulates as many on the CPU, or mesh.fsdp=4",
        ),
    ],
)  # fmt: skip
def test_a_mesh_of_more_or_fewer_devices_than_there_are_says_what_to_set_here(settings, count, platform, said):
    told = meshes.unfit(settings, count, platform)
    assert told is not None and told.endswith(said)
    words = told.rpartition(" or ")[2].rpartition("set ")[2].split()
    changes = {name.removeprefix("mesh."): int(value) for name, value in (word.split("=") for word in words)}
    assert meshes.unfit(dataclasses.replace(settings, **changes), count, platform) is None


def test_a_plan_for_another_number_of_chips_names_every_axis_that_has_to_change():
    told = planned.wrong_mesh(config.Mesh(data=2, fsdp=4), "v5e-1", 1)
    assert told is not None and told.endswith("v5e-1 has 1: set mesh.data=1 mesh.fsdp=1, or name another topology")
    assert planned.wrong_mesh(config.Mesh(), "v5e-1", 1) is None


def test_emulating_after_the_start_is_refused_only_when_there_are_too_few():
    assert jax.device_count() == 8
    meshes.emulate(None)
    meshes.emulate(8)
    meshes.emulate(4)
    with pytest.raises(ValueError, match="wants 16 devices in this process, but jax started with 8"):
        meshes.emulate(16)
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        meshes.emulate(8, processes=3)


def specs_of(mesh, tree):
    return jax.tree.map(lambda sharding: sharding.spec, meshes.shardings(mesh, tree))


def test_parameters_are_laid_out_by_the_names_of_their_dimensions():
    specs = specs_of(mesh_of(2, 2, 2), shapes())
    layers = specs["layers"]
    assert specs["embed"] == specs["head"] == PartitionSpec("tensor", "fsdp")
    assert layers["q"] == layers["k"] == layers["v"] == PartitionSpec(None, "fsdp", "tensor", None)
    assert layers["o"] == PartitionSpec(None, "tensor", None, "fsdp")
    assert layers["gate"] == layers["up"] == PartitionSpec(None, "fsdp", "tensor")
    assert layers["down"] == PartitionSpec(None, "tensor", "fsdp")
    assert layers["q_bias"] == layers["k_bias"] == PartitionSpec(None, "tensor", None)
    assert specs["norm"] == PartitionSpec(None) and layers["attn_norm"] == PartitionSpec(None, None)


def test_an_axis_that_does_not_divide_leaves_its_dimension_replicated():
    tree = shapes(vocabulary=33, heads=9, key_value_heads=3, width=16)
    specs = specs_of(mesh_of(1, 2, 2), tree)
    assert specs["embed"] == PartitionSpec(None, "fsdp")
    assert specs["layers"]["q"] == specs["layers"]["k"] == PartitionSpec(None, "fsdp", None, None)
    assert specs["layers"]["o"] == PartitionSpec(None, None, None, "fsdp")
    assert meshes.describe(mesh_of(1, 2, 2)) == "mesh data 1 x fsdp 2 x tensor 2 (cpu)"


def test_key_value_heads_are_replicated_while_query_heads_are_not():
    specs = specs_of(mesh_of(1, 1, 4), shapes(heads=4, key_value_heads=2))["layers"]
    assert specs["q"] == PartitionSpec(None, "fsdp", "tensor", None)
    assert specs["k"] == PartitionSpec(None, "fsdp", None, None)


@pytest.mark.parametrize(
    "optimizer",
    [optax.adamw(1e-3), optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.constant_schedule(1e-3)))],
)
def test_optimizer_state_lies_as_its_parameters_do(optimizer):
    mesh, params = mesh_of(2, 2, 2), shapes()
    state = jax.eval_shape(optimizer.init, params)
    laid = specs_of(mesh, state)
    wanted = specs_of(mesh, params)
    copies = [leaf for leaf in jax.tree.leaves(laid, is_leaf=lambda x: isinstance(x, dict)) if isinstance(leaf, dict)]
    assert copies == [wanted, wanted]  # first and second moment
    assert jax.tree.structure(laid, is_leaf=lambda x: isinstance(x, PartitionSpec)) == jax.tree.structure(state)


def test_factored_moments_of_another_rank_are_replicated():
    params = {"embed": jax.ShapeDtypeStruct((256, 256), jnp.float32)}
    state = jax.eval_shape(optax.adafactor(1e-3).init, params)
    laid = jax.tree.leaves(specs_of(mesh_of(1, 2, 2), state), is_leaf=lambda x: isinstance(x, PartitionSpec))
    assert laid and all(spec == PartitionSpec() for spec in laid)


def test_arrays_can_be_put_where_the_rules_say_and_keep_their_values():
    mesh = mesh_of(2, 2, 2)
    params = jax.tree.map(lambda s: np.arange(np.prod(s.shape), dtype=np.float32).reshape(s.shape), shapes(heads=3))
    placed = jax.device_put(params, meshes.shardings(mesh, params))
    assert placed["embed"].addressable_shards[0].data.shape == (16, 8)
    jax.tree.map(np.testing.assert_array_equal, placed, params)
    assert jax.tree.map(lambda x: x.sharding, meshes.abstract(mesh, placed)) == jax.tree.map(
        lambda x: x.sharding, placed
    )


def test_batch_rows_are_dealt_over_data_and_fsdp():
    mesh = mesh_of(2, 2, 2)
    rows = jax.device_put(np.zeros((8, 5), np.int32), meshes.batch_sharding(mesh))
    micro = jax.device_put(np.zeros((3, 4, 5), np.int32), meshes.batch_sharding(mesh, row_axis=1))
    assert rows.addressable_shards[0].data.shape == (2, 5)
    assert micro.addressable_shards[0].data.shape == (3, 1, 5)
    assert meshes.replicated(mesh).is_fully_replicated
