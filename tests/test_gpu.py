"""A GPU that does not start is told in one line; what jax reads on a GPU is set unless the user has set it."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from qr_jax import config
from qr_jax.cli.commands import options
from qr_jax.lab import gpu

pytestmark = pytest.mark.skipif(
    bool(gpu.plugin()), reason="a plugin of CUDA is installed: these are of a machine without"
)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A PATH with an nvidia-smi that says what is asked for, and distributions beside those that are installed."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)

    def made(smi=None, plugin=None, version=None):
        if smi is not None:
            file = tmp_path / "bin/nvidia-smi"
            file.write_text(f"#!/bin/sh\n{smi}\n")
            file.chmod(0o755)
        if plugin:
            about = tmp_path / f"{plugin.replace('-', '_')}-{version}.dist-info"
            about.mkdir()
            (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {plugin}\nVersion: {version}\n")
            monkeypatch.syspath_prepend(str(tmp_path))
        return tmp_path

    return made


@pytest.fixture
def platforms():
    """Sets what JAX_PLATFORMS says."""
    before = jax.config.jax_platforms
    yield lambda names: jax.config.update("jax_platforms", names)
    jax.config.update("jax_platforms", before)


def train(*more, **environment):
    """The outcome of a training command on this machine, which has no GPU."""
    command = [sys.executable, "-m", "qr_jax", "train", str(ROOT / "configs/quickstart.py"), *more]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("asked", ["cuda", "gpu"])
def test_a_gpu_that_is_asked_for_and_does_not_start_is_one_line(tmp_path, asked):
    code, said = train("--run", str(tmp_path / "run"), JAX_PLATFORMS=asked)
    last = said.splitlines()[-1]
    assert code == 2 and last.startswith(f"error: JAX_PLATFORMS={asked}, and jax starts no GPU (")
    assert "its CUDA plugin is not installed; pip install 'qr_jax[cuda13]'; JAX_PLATFORMS=cpu does without" in last
    assert "Traceback" not in said and not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_a_mesh_of_four_on_one_device_is_told_before_anything_is_loaded(tmp_path):
    mesh = ("mesh.devices=none", "mesh.fsdp=4", "learner.rows=4")
    code, said = train("--run", str(tmp_path / "run"), *mesh, XLA_FLAGS="")
    wanted = "mesh.data=1 x mesh.fsdp=4 x mesh.tensor=1 is 4 devices, but this run has 1 (cpu); set mesh.devices=4,"
    assert code == 2 and f"error: {wanted}" in said.splitlines()[-1] and "loading" not in said
    assert not (tmp_path / "run").exists()


H100 = "echo 'NVIDIA H100 80GB HBM3, 580.65.06'"
OLDER = H100.replace("580.65", "550.54")


@pytest.mark.parametrize(
    ("smi", "plugin", "version", "told"),
    [
        (H100, None, None, "its CUDA plugin is not installed; pip install 'qr_jax[cuda13]'"),
        (OLDER, None, None, "its CUDA plugin is not installed; pip install 'qr_jax[cuda12]'"),
        (H100.replace("580", "470"), None, None, "driver is 470, and CUDA 12 wants 525 or newer; update the driver"),
        ("exit 9", "jax-cuda13-plugin", "0.1", "jax-cuda13-plugin is installed, but no NVIDIA driver answers"),
        (
            OLDER, "jax-cuda13-plugin", "0.1",
            "driver is 550, and CUDA 13 wants 580 or newer; update the driver or pip install 'qr_jax[cuda12]'",
        ),
        (OLDER, "jax-cuda12-plugin", "0.1", f"jax-cuda12-plugin is 0.1 and jaxlib {jax.lib.__version__}; pip install"),
        (OLDER, "jax-cuda12-plugin", jax.lib.__version__, "driver 550 are there, but CUDA did not start; pip install"),
    ],
)  # fmt: skip
def test_why_jax_sees_no_gpu_is_read_from_the_driver_and_the_packages(machine, smi, plugin, version, told):
    machine(smi, plugin, version)
    assert told in gpu.why_not()


def test_a_gpu_that_jax_does_not_see_is_one_line_and_the_run_goes_on(machine, platforms, capsys):
    platforms(None)
    machine(H100)
    gpu.check({})
    said = capsys.readouterr()
    assert (said.out + said.err).splitlines() == [
        "jax runs on the CPU beside a NVIDIA H100 80GB HBM3: its CUDA plugin is not installed; "
        "pip install 'qr_jax[cuda13]'; JAX_PLATFORMS=cpu silences this"
    ]
    platforms("cpu")
    gpu.check({})
    assert not "".join(capsys.readouterr())


@pytest.mark.parametrize("smi", ["exit 9", "echo 'No devices were found'", "true", "echo 'a, b, c'"])
def test_an_nvidia_smi_that_names_no_gpu_is_none(machine, smi):
    machine(smi)
    assert gpu.driver() is None


def test_what_the_user_has_set_is_left_alone(machine, platforms):
    platforms(None)
    assert gpu.prepare("float32", {}) == {}  # no plugin: no GPU will start
    machine(plugin="jax-cuda12-plugin", version="0.1")
    there = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    told = gpu.prepare("float32", there)
    assert told == {
        "XLA_CLIENT_MEM_FRACTION": "0.9",
        "XLA_FLAGS": "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0",
    }  # fmt: skip
    assert there == told | {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    share = {"XLA_CLIENT_MEM_FRACTION": "0.9"}
    assert gpu.prepare("float32", {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "XLA_FLAGS": ""}) == share
    assert gpu.prepare("float32", {}) == gpu.prepare("bfloat16", {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}) == share
    for name in gpu.MEMORY:
        assert gpu.prepare("bfloat16", {name: ""}) == {}
    platforms("cpu")
    assert gpu.prepare("float32", {}) == {}


@pytest.mark.parametrize(("more", "known"), [("", True), (" --xla_gpu_no_such_flag=false", False)])
def test_this_jaxlib_knows_the_flags(more, known):
    """XLA ends a process that has a flag it does not know."""
    environment = {**os.environ, "XLA_FLAGS": gpu.WHOLE_FLAGS + more}
    done = subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=environment, capture_output=True)
    assert (done.returncode == 0) == known


def test_commands_that_open_a_run_check_too(monkeypatch, platforms):
    def none():
        raise AssertionError  # as jax does

    monkeypatch.setattr(jax, "devices", none)
    platforms("cuda")
    with pytest.raises(ValueError, match="JAX_PLATFORMS=cuda, and jax starts no GPU"):
        options.start(config.Config())
