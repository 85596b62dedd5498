"""A host's devices share its rollouts by slots or by heads, and episodes are those of one device."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from rollouts import CFG, SETTINGS, WORDS, engine, flat, near_ties, random_params, roll, words_env, world

from qr_jax import assemble, config
from qr_jax.lab.planning import hlo
from qr_jax.parallel import compiles, host_local
from qr_jax.parallel import mesh as meshes
from qr_jax.rollout import decode
from qr_jax.rollout.engine import Engine

SHAPE = replace(SETTINGS, slots=8, store=8, buckets=(64,))


def handed_over(mesh, kind, params=None):
    laid = assemble.place(params or random_params(), mesh)
    return host_local.to_rollout_params(laid, config.Config(), CFG, mesh, kind)


def mesh_of(data, fsdp, tensor):
    return meshes.make_mesh(config.Mesh(data, fsdp, tensor, devices=data * fsdp * tensor))


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "mesh"), [("slots", (2, 2, 2)), ("heads", (1, 2, 1)), ("pod", (2, 2, 1))])
def test_episodes_on_several_devices_are_those_of_one_but_for_near_ties(kind, mesh):
    one = engine(slots=8, store=8, buckets=(64,))
    expected = flat(roll(one, random_params(), world().train[:8], 3, env=words_env))
    laid = handed_over(mesh_of(*mesh), kind)
    several = Engine(CFG, WORDS, SHAPE)
    episodes = flat(roll(several, laid, world().train[:8], 3, env=words_env))
    several.rows.begin()
    before = compiles.count()
    again = flat(roll(several, laid, world().train[:8], 3, env=words_env))
    assert compiles.count() == before, compiles.told(before)
    assert [episode.ids_L.tolist() for episode in again] == [episode.ids_L.tolist() for episode in episodes]
    number = np.repeat(np.arange(8), 3)
    key_N2 = one.rows.keys(0, 0, 0, number, np.tile(np.arange(3), 8))
    assert near_ties(one, random_params(), key_N2, expected, episodes) <= 2
    devices = np.prod(mesh)
    for cache in several.rows.caches.values():
        for leaf in jax.tree.leaves(cache):
            assert len(leaf.sharding.device_set) == devices
            assert leaf.addressable_shards[0].data.size * devices == leaf.size
    weight = laid.layers[0]["qkv"]
    heads = {"slots": 1, "heads": devices, "pod": 2}[kind]  # 2 key/value heads: a pod's 4 devices are 2 x 2
    assert weight.addressable_shards[0].data.size * heads == weight.size


def test_a_step_of_decoding_by_heads_sends_two_sums_a_layer_and_never_the_cache():
    laid = handed_over(mesh_of(1, 2, 1), "heads")
    made = Engine(CFG, WORDS, SHAPE)
    made.rows.settle_on(laid)
    made.rows.fit("slots", 128)
    none_S = np.zeros(8, np.int32)
    text = (
        decode.decode.lower(
            laid, made.rows.caches["slots"], None, none_S, none_S, none_S, np.zeros((8, 2), np.uint32),
            made.rows.stop_at_V, np.float32(1), cfg=CFG, chunk=1, sampling=made.rows.sampling, mesh=made.rows.mesh,
        )
        .compile()
        .as_text()
    )  # fmt: skip
    sums = CFG.layers * 2 * CFG.width * 8 * 4  # bytes: two sums a layer, of a column of the width for each of 8 slots
    sent = hlo.cost(text).collectives
    logits = CFG.vocab * 8 * 4  # gathered here, since 2 does not divide the 31 blocks that sampling cuts them into
    assert sums <= sent["all-reduce"] < 2 * sums and sum(sent.values()) < 2 * sums + logits
    keys = made.rows.caches["slots"][0][0]
    assert sum(sent.values()) < sum(leaf.nbytes for leaf in jax.tree.leaves(keys)) / 2


def test_a_pod_whose_groups_do_not_divide_the_slots_is_refused():
    with pytest.raises(
        ValueError, match=r"into 2, so that 8 devices are 4 groups, which do not divide slots, store of \(6, 6\)"
    ):
        host_local.choose("pod", CFG, replace(SHAPE, slots=6, store=6), 8, "tpu")


@pytest.mark.thorough
def test_parameters_come_over_in_any_order_of_devices():
    learners = mesh_of(1, 4, 1)
    turned = Mesh(learners.devices[:, ::-1], learners.axis_names, axis_types=learners.axis_types)
    laid, other = handed_over(turned, "slots"), handed_over(learners, "slots")
    jax.tree.map(np.testing.assert_array_equal, laid, other)
    assert list(laid.norm.sharding.mesh.devices.flat) == jax.devices()[:4]


def test_heads_are_chosen_where_they_divide_else_slots_else_one_device():
    rollout = config.Rollout(slots=8)
    eight = replace(CFG, kv_heads=8, mlp=64)
    assert host_local.choose(None, eight, rollout, 4, "tpu") == "heads"
    assert host_local.choose(None, replace(eight, kv_heads=3), rollout, 4, "tpu") == "slots"
    assert host_local.choose(None, replace(eight, kv_heads=3), replace(rollout, store=6), 4, "tpu") == "one"
    assert host_local.choose(None, eight, rollout, 1, "tpu") == "one"
    assert host_local.choose(None, eight, rollout, 4, "cpu") == "one"
    assert host_local.choose("slots", eight, rollout, 4, "cpu") == "slots"
    with pytest.raises(ValueError, match="mesh.rollout='heads' deals 3 key/value heads"):
        host_local.choose("heads", replace(eight, kv_heads=3), rollout, 4, "tpu")
    with pytest.raises(ValueError, match=r"slots, store of \(8, 6\) over a host's 4 devices"):
        host_local.choose("slots", eight, replace(rollout, store=6), 4, "tpu")


def test_the_layout_is_said_in_words():
    mesh = mesh_of(2, 2, 1)
    assert host_local.describe("one", mesh, CFG) == "each host decodes on one device of its 4"
    assert "share the slots" in host_local.describe("slots", mesh, CFG)
    said = host_local.describe("heads", mesh, replace(CFG, kv_heads=4, vocab=434))
    assert "by 4 key/value heads; 4 does not divide 434 tokens" in said
    said = host_local.describe("slots", mesh, CFG, apart=2)
    assert said == "each host's 2 devices that do not learn share the slots; every one has all weights"
    assert host_local.describe("one", mesh, CFG, apart=1) == "each host's device that does not learn decodes"
