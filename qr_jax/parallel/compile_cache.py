"""Compiled programs kept on disk, so that a second run of the same shapes starts without compiling."""

import contextlib
import hashlib
import importlib.util
import inspect
import os
import platform
import warnings
from collections.abc import Mapping
from pathlib import Path

import jax
from etils import epath
from jax._src import compilation_cache, compiler

LARGEST_BYTES = 4 * 2**30  # beyond that the programs that were not used for longest are deleted


def enable(environment: Mapping[str, str] = os.environ, *, process: int = 0) -> epath.Path | None:
    """Let jax keep every program it compiles from now on, and take those it has; returns the folder, None when off.

    The folder is QR_JAX_COMPILED ("off": none), else what JAX_COMPILATION_CACHE_DIR says, else qr_jax/compiled in
    XDG_CACHE_HOME (by default ~/.cache); ours get a part for this kind of machine. gs:// will do too. A folder that
    cannot be written is a warning of jax, not an error. What lies there is run as it is: never point at a folder that
    others can write. Of the processes of a run each but the first has a folder of its own in it, process_N.
    """
    asked = environment.get("QR_JAX_COMPILED")
    if asked == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    given = environment.get("JAX_COMPILATION_CACHE_DIR")
    if given and not asked:
        folder = epath.Path(given)
    else:
        home = epath.Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = epath.Path(asked).expanduser() if asked else home / "qr_jax" / "compiled"
        folder /= machine()
    if process:
        folder /= f"process_{process}"
        _write_from_others()
    if "://" not in str(folder):
        with contextlib.suppress(OSError):  # a home that is read-only: jax warns, and compiles
            Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small programs too: a run has hundreds, each read in a millisecond and compiled in tens.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if importlib.util.find_spec("filelock"):  # without it jax can delete nothing
        jax.config.update("jax_compilation_cache_max_size", LARGEST_BYTES)
    return folder


def _write_from_others() -> None:
    """jax writes in process 0 alone, lest hosts write one file at once; but a program of one host's devices is another
    on each host. What writes instead stands in for a function of jax that is not public: where a version of jax has it
    no more, or with other parameters, that version's own rule holds."""
    expected = ["cache_key", "compile_time_secs", "module_name", "backend", "executable", "host_callbacks"]
    found = getattr(compiler, "_cache_write", None)
    if found is not None and list(inspect.signature(found).parameters) == expected:
        compiler._cache_write = _write


def _write(cache_key: str, compile_time_secs: float, module_name: str, backend, executable, host_callbacks) -> None:
    if host_callbacks:  # addresses of this process are in it
        return
    try:
        compilation_cache.put_executable_and_time(cache_key, module_name, executable, backend, int(compile_time_secs))
    except Exception as error:  # as jax does: a run does not end for a program that it could not keep
        warnings.warn(f"{module_name} is not kept for the next start: {type(error).__name__}: {error}", stacklevel=2)


def machine() -> str:
    """A name for this kind of machine. jax's own key does not hold what a CPU can do, and a program may end in SIGILL
    on one that can do less."""
    known = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        first = {line.split(":")[0].strip(): line for line in reversed(lines) if ":" in line}
        known += [first[name] for name in ("model name", "flags", "Features") if name in first]
    except OSError:
        pass
    return f"{platform.machine()}-{hashlib.sha256(repr(known).encode()).hexdigest()[:12]}"
