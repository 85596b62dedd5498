"""NVIDIA GPUs: what jax and XLA are told before they start there, and why jax sees none."""

import importlib.metadata
import logging
import os
import shutil
import subprocess
from collections.abc import Mapping, MutableMapping

import jax

from qr_jax.errors import UserError
from qr_jax.logging import terminal
from qr_jax.parallel import jax_private

PLUGINS = {"jax-cuda13-plugin": 13, "jax-cuda12-plugin": 12}  # package -> CUDA
DRIVERS = {13: 580, 12: 525}  # CUDA -> the oldest driver under which it runs (jax's page on installing)
FRACTION = 0.9  # of the card's memory that jax may hold; by itself it takes .75, and in some versions no more
FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # the second is its older name
MEMORY = (*FRACTIONS, "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_ALLOCATOR")
# In float32 of this precision Triton's kernels were tuned for 2 min 28 s on an H200, 2.7 s with these flags.
PRECISION, WHOLE = "JAX_DEFAULT_MATMUL_PRECISION", ("highest", "float32")
WHOLE_FLAGS = "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0"
SMI_S = 20  # how long nvidia-smi may take


def prepare(compute: str, environment: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Set what jax and XLA read when they start on a GPU, and return it; nothing that the user has set, even to "".

    Nothing either where no GPU can start: no plugin of CUDA is installed, or JAX_PLATFORMS names none.
    """
    if not plugin() or (_platforms() and not _asked()):
        return {}
    told = {} if any(name in environment for name in MEMORY) else {FRACTIONS[0]: str(FRACTION)}
    if "XLA_FLAGS" not in environment and (ours := flags(compute, environment)):
        told["XLA_FLAGS"] = ours
    environment.update(told)
    return told


def flags(compute: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return what XLA_FLAGS is on a GPU: the user's, else those of float32 in whole precision; None: it is not set."""
    whole = compute == "float32" and environment.get(PRECISION) in WHOLE
    return environment.get("XLA_FLAGS", WHOLE_FLAGS if whole else None)


def check(told: Mapping[str, str]) -> None:
    """Start jax. UserError where a GPU is asked for and does not start; say so where one is there and jax sees none.

    On a GPU, say what was `told` by `prepare`.
    """
    heard = _Heard()
    logging.getLogger(jax_private.BACKENDS_LOG).addFilter(heard)
    try:
        platform = jax.devices()[0].platform
    except (RuntimeError, AssertionError) as error:  # jax asserts that its list of backends is not empty
        if not _asked():
            raise
        said = heard.text or (str(error).splitlines() or ["no CUDA backend"])[0]
        asked = f"JAX_PLATFORMS={_platforms()}, and jax starts no GPU ({said})"
        raise UserError(f"{asked}: {why_not()}; JAX_PLATFORMS=cpu does without a GPU") from error
    finally:
        logging.getLogger(jax_private.BACKENDS_LOG).removeFilter(heard)
    if platform == "cpu" and (_platforms() is None or _asked()) and (card := driver()):
        terminal.say(f"jax runs on the CPU beside a {card[0]}: {why_not()}; JAX_PLATFORMS=cpu silences this")
    if platform == "gpu" and told:
        terminal.say("environment variables set: " + " ".join(f"{name}='{value}'" for name, value in told.items()))


class _Heard(logging.Filter):
    """Keeps the first line of what jax's plugin of CUDA raised, which jax logs with a traceback."""

    text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        raised = record.exc_info and record.exc_info[1]
        self.text = (str(raised).splitlines() or [""])[0] if raised else self.text
        return not raised


def why_not() -> str:
    """Say why jax sees no GPU of this machine, as far as packages and the driver tell, and what to do."""
    package, card = plugin(), driver()
    if not package:
        fits = next((cuda for cuda, oldest in DRIVERS.items() if card and card[1] >= oldest), None)
        if card and not fits:
            return _too_old(card[1], min(DRIVERS))
        return f"its CUDA plugin is not installed; pip install 'qr_jax[cuda{fits or max(DRIVERS)}]'"
    cuda, version = PLUGINS[package], importlib.metadata.version(package)
    if not card:
        return f"{package} is installed, but no NVIDIA driver answers nvidia-smi here; install a driver"
    if card[1] < DRIVERS[cuda]:
        return _too_old(card[1], cuda)
    if version != (jaxlib := importlib.metadata.version("jaxlib")):
        return f"{package} is {version} and jaxlib {jaxlib}; pip install 'jax[cuda{cuda}]=={jax.__version__}'"
    todo = f"pip install 'jax[cuda{cuda}]=={jax.__version__}' brings CUDA's libraries; unset LD_LIBRARY_PATH"
    return f"{package} {version} and driver {card[1]} are there, but CUDA did not start; {todo}"


def driver() -> tuple[str, int] | None:
    """Return the first GPU's name and its driver's major version, by nvidia-smi; None where it names no GPU."""
    if not (smi := shutil.which("nvidia-smi")):
        return None
    asked = [smi, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=SMI_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    name, comma, version = (done.stdout.splitlines() or [""])[0].rpartition(", ")
    major = version.partition(".")[0]
    return (name, int(major)) if comma and major.isdecimal() and not done.returncode else None


def _too_old(version: int, cuda: int) -> str:
    others = [f"pip install 'qr_jax[cuda{other}]'" for other, oldest in DRIVERS.items() if version >= oldest]
    newer = f"its driver is {version}, and CUDA {cuda} wants {DRIVERS[cuda]} or newer"
    return f"{newer}; {' or '.join(['update the driver', *others])}"


def plugin() -> str | None:
    """Return the package of CUDA that jax has here; None: it has none."""
    return next((name for name in PLUGINS if any(importlib.metadata.distributions(name=name))), None)


def _asked() -> bool:
    """Return True if JAX_PLATFORMS names a GPU."""
    return bool({*(_platforms() or "").split(",")} & {"cuda", "gpu"})


def _platforms() -> str | None:
    return jax.config.values["jax_platforms"]
