"""How every test runs: on the CPU, on eight emulated devices, with checked array annotations.

Programs that commands compile are kept in a folder of the session. None is kept for another session: a program of eight
emulated devices with collectives, read back from the disk, waited for ever (jax 0.10.2, tests/test_credit.py).
"""

import atexit
import gc
import importlib.util
import os
import shutil
import signal
import tempfile
from pathlib import Path

# Before jax is imported anywhere: the platform is read once, when its backend starts.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for the network
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # most programs run once or twice, and compiling them takes longer

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# The maths alone: shapes and types of these files' functions are checked while they are traced.
CHECKED = tuple(f"learner.{name}" for name in ("variance", "reduce", "kl", "importance", "credit"))
CHECKED += tuple(f"{room}.{kind}" for room in ("learner", "methods") for kind in ("advantages", "losses"))
CHECKED += ("methods.rules", "pool.pool", "pool.rules")
assert all(importlib.util.find_spec(f"qr_jax.{name}") for name in CHECKED)
install_import_hook([f"qr_jax.{name}" for name in CHECKED], "beartype.beartype")

hypothesis.settings.register_profile("of_tests", deadline=None)  # a busy machine is no fault of what is tested
hypothesis.settings.load_profile("of_tests")

ROOT = Path(__file__).resolve().parents[1]
MOST_MAPPINGS = 25_000
COMPILED = Path(tempfile.mkdtemp(prefix="qr_jax_tests_"))
atexit.register(shutil.rmtree, COMPILED, ignore_errors=True)
os.environ["XDG_CONFIG_HOME"] = str(COMPILED / "config")  # what a user has allowed
os.environ["XDG_CACHE_HOME"] = str(COMPILED / "cache")
os.environ["QR_JAX_COMPILED"] = str(COMPILED / "of_commands")  # commands that tests start must not use the user's own


@pytest.fixture(autouse=True)
def _signals_are_heard_as_before():
    """Two runs that a test closes in another order than nested would leave the handler of the first."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="module")
def _programs_of_other_files_go_before_there_is_no_room_for_more():
    """Each compiled program is some eight mappings, of which Linux lets a process have 65,530: XLA crashes at more."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def _compiled_programs_are_kept_on_this_machine():
    """jax opens its cache once a process: one in a test's bucket would be asked by every later test."""
    yield
    assert "://" not in str(jax.config.jax_compilation_cache_dir)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real questions and passages (QR_JAX_DATA, by default ../shared/data); the test skips without it."""
    folder = Path(os.environ.get("QR_JAX_DATA") or ROOT / ".." / "shared" / "data").resolve()
    if not (folder / "dev").is_dir():
        pytest.skip(f"no real questions in {folder}; set QR_JAX_DATA to the folder that has dev/ and corpus/")
    return folder


@pytest.fixture(scope="session")
def compiled() -> Path:
    """Where processes that tests start may keep compiled programs; those that might be killed meanwhile need a copy."""
    folder = COMPILED / "of_tests"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def optimised():
    """For files that read what XLA makes of a program: memory, collectives, what it joins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
        jax.config.update("jax_disable_most_optimizations", False)
        yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session", autouse=True)
def no_word_of_what_takes_long():
    """However slow the machine is, no phase of this process says that it goes on: tests read what is said."""
    from qr_jax.logging import terminal  # behind the hook above

    terminal.QUIET_S = terminal.FIRST_S = 3600.0
