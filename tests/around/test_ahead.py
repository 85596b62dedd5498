"""Compiling for TPUs that are not there; what needs libtpu is skipped where it is not installed."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from benchmarks.tpu import on_one
from qr_jax.lab.planning import ahead
from qr_jax.models.families import PRESETS
from qr_jax.rollout import cache as caches

pytestmark = pytest.mark.usefixtures("optimised")

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed (pip install libtpu; no TPU needed)")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in ahead.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def test_a_name_that_is_no_topology_is_refused():
    with pytest.raises(ValueError, match=r"'v5e' is not a generation .*and a layout, such as v5e:4x4"):
        ahead.devices("v5e")


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed")
def test_where_libtpu_is_missing_the_error_says_what_to_install():
    with pytest.raises(ValueError, match=r"pip install 'jax\[tpu\]'"):
        ahead.devices("v5e:4x4")


@needs_libtpu
def test_slices_have_their_chips():
    assert [len(ahead.devices(name)) for name in ("v5e:1x1", "v5p:2x2x2", "v6e:4x4")] == [1, 8, 16]
    with pytest.raises(ValueError, match=r"gives no topology 'v5e:3x5'"):
        ahead.devices("v5e:3x5")


@needs_libtpu
def test_the_chips_of_a_slice_are_on_as_many_hosts_as_cloud_tpu_vms_have():
    """v5litepod-8 and v6e-8 are one host of 8 chips; larger slices have 4 a host, and so has v5p."""
    names = {"v5e:1x1": 1, "v5e:2x2": 1, "v5e:2x4": 1, "v6e:2x4": 1, "v5e:4x4": 4, "v6e:4x4": 4, "v5p:2x2x2": 2}
    assert {name: len({chip.process_index for chip in ahead.devices(name)}) for name in names} == names


@needs_libtpu
def test_a_chunk_of_many_rows_is_written_into_the_cache_without_a_copy_of_it():
    """256 rows x 8 tokens: a scatter with an axis between its two index axes copied the cache there and back."""
    cfg = PRESETS["qwen3_0p6b"]
    cache = jax.eval_shape(lambda: caches.create(cfg, 256, 512, jnp.bfloat16))[:1]
    new = jax.eval_shape(lambda: caches.create(cfg, 256, 8, jnp.bfloat16))[:1]
    numbers = [jax.ShapeDtypeStruct((256,), jnp.int32)] * 3
    shapes = on_one(ahead.devices("v5e:1x1")[0], (cache, new, *numbers))
    program = ahead.compiled(jax.jit(caches.write, donate_argnums=0).lower(*shapes))
    cache_bytes = 2 * 256 * 8 * 512 * 128 * 2
    assert program.cost.bytes_accessed < 0.1 * cache_bytes
    assert program.temporary_bytes < 0.05 * cache_bytes
