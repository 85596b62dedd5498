"""How every test runs: on the CPU, on eight emulated devices, with checked array annotations.

Compiled programs are kept in pytest's own cache folder, which `pytest --cache-clear` empties: a program of the same
code, shapes and options is compiled once. jax counts it as compiled all the same (`qr_jax.rollout.compiles`).
"""

import importlib.util
import os
import shutil
from pathlib import Path

# Before jax is imported anywhere: the platform is read once, when its backend starts.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for the network

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# The maths alone: shapes and types of these files' functions are checked while they are traced.
CHECKED = ("variance", "learning.reduce", "learning.kl", "learning.importance", "learning.credit")
CHECKED += ("advantages", "losses", "pool", "recycling")
assert all(importlib.util.find_spec(f"qr_jax.{name}") for name in CHECKED)
install_import_hook([f"qr_jax.{name}" for name in CHECKED], "beartype.beartype")

ROOT = Path(__file__).resolve().parents[1]
LARGEST_BYTES = 500 * 2**20  # of the compiled programs: some ten sessions' whose code had nothing in common


def programs(config: pytest.Config) -> Path:
    """The folder of this kind of machine's programs; jax's names for them do not say what a CPU can do."""
    from qr_jax.parallel.compile_cache import machine

    return config.cache.mkdir("compiled") / machine()


def pytest_configure(config: pytest.Config) -> None:
    folder = programs(config)
    if folder.exists() and sum(path.stat().st_size for path in folder.rglob("*")) > LARGEST_BYTES:
        shutil.rmtree(folder)
    # With the settings of qr_jax.parallel.compile_cache: where one differed, a program would have another name.
    jax.config.update("jax_compilation_cache_dir", str(folder / "of_tests"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    # For the commands that tests start. It is another folder, since commands delete what has no time of its last use,
    # and the programs of this process have none.
    os.environ["QR_JAX_COMPILED"] = str(folder / "of_commands")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real questions and passages (QR_JAX_DATA, by default ../shared/data); the test skips without it."""
    folder = Path(os.environ.get("QR_JAX_DATA") or ROOT / ".." / "shared" / "data").resolve()
    if not (folder / "dev").is_dir():
        pytest.skip(f"no real questions in {folder}; set QR_JAX_DATA to the folder that has dev/ and corpus/")
    return folder


@pytest.fixture(scope="session")
def compiled(pytestconfig) -> Path:
    """Where this process keeps its compiled programs; others that might be killed while they write need a copy."""
    folder = programs(pytestconfig) / "of_tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def quick_to_compile():
    """For files whose programs run once or twice and are held to tolerances or to themselves: LLVM optimises none."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
