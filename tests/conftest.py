"""How every test runs: on the CPU, on eight emulated devices, with checked array annotations."""

import os
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
CHECKED = ("variance", "reduce", "kl", "importance", "advantages", "losses", "pool", "recycling")
install_import_hook([f"qr_jax.{name}" for name in CHECKED], "beartype.beartype")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real questions and passages (QR_JAX_DATA, by default ../shared/data); the test skips without it."""
    folder = Path(os.environ.get("QR_JAX_DATA") or ROOT / ".." / "shared" / "data").resolve()
    if not (folder / "dev").is_dir():
        pytest.skip(f"no real questions in {folder}; set QR_JAX_DATA to the folder that has dev/ and corpus/")
    return folder
