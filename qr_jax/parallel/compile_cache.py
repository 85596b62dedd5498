"""jax's own cache of compiled programs, on disk or with the run in a bucket: a second start need not compile."""

import contextlib
import hashlib
import importlib.util
import os
import platform
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import jax
from etils import epath

from qr_jax import trust
from qr_jax.parallel import jax_private
from qr_jax.run import bucket

LARGEST_BYTES = 4 * 2**30  # of one process; beyond that the least recently used programs are deleted
TORN_S = 60  # a program older than this that has no time of last use is torn: its writer was killed


def enable(
    environment: Mapping[str, str] = os.environ, *, process: int = 0, lives: str | None = None
) -> epath.Path | None:
    """Let jax keep every program it compiles from now on, and read those kept; return the folder, or None.

    The folder is `compiled` in the bucket where the run `lives`; else QR_JAX_COMPILED ("off": none in any case); else
    JAX_COMPILATION_CACHE_DIR; else qr_jax/compiled in XDG_CACHE_HOME (by default ~/.cache). All but the third get a
    subfolder for this kind of machine. If the folder cannot be written jax warns, and the run goes on. Kept programs
    are run unchecked: never name a folder that others can write. Every process of a run but the first has a folder of
    its own in it, process_N.
    """
    asked, given = environment.get("QR_JAX_COMPILED"), environment.get("JAX_COMPILATION_CACHE_DIR")
    if asked == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    if lives:
        folder = bucket.opened(lives) / bucket.COMPILED / machine()
    elif given and not asked:
        folder = epath.Path(given)
    else:
        try:
            own = epath.Path(asked).expanduser() if asked else None
            folder = own or epath.Path(trust.own_folder("XDG_CACHE_HOME", ".cache", environment)) / "compiled"
        except (OSError, RuntimeError) as error:
            warnings.warn(f"compiled programs are not kept: {error}", stacklevel=2)
            return None
        folder /= machine()
    if process:
        folder /= f"process_{process}"
        # jax writes in process 0 alone, so that no two hosts write one file, and has no setting for it. These have a
        # folder of their own, and a program for one host's devices differs from host to host.
        jax_private.replace("compiler", "_cache_write", _write)
    local = "://" not in str(folder)
    if local:
        with contextlib.suppress(OSError):  # a home that is read-only: jax warns, and compiles
            Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_torn(Path(folder))
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small programs too: a run has hundreds, each read in a millisecond and compiled in tens.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A GPU's own caches would put the folder's path in every program's key, and elsewhere none would be found.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    evicts = local and importlib.util.find_spec("filelock")  # without it, and in a bucket, jax can delete nothing
    jax.config.update("jax_compilation_cache_max_size", LARGEST_BYTES if evicts else -1)
    return folder


def _remove_torn(folder: Path) -> None:
    """Delete programs that were not written whole: jax would use them, and could keep no new one beside them."""
    for path in folder.glob("*-cache"):
        used = path.with_name(path.name.removesuffix("-cache") + "-atime")
        if not (used.exists() and used.stat().st_size) and path.stat().st_mtime < time.time() - TORN_S:
            path.unlink()


def _write(cache_key: str, compile_time_secs: float, module_name: str, backend, executable, host_callbacks=()) -> None:
    """Keep a program, as jax does in process 0; jax 0.10 also gives the program's callbacks to the host."""
    if host_callbacks:  # the program holds addresses of this process
        return
    put = jax_private.get("compilation_cache", "put_executable_and_time")
    try:
        put(cache_key, module_name, executable, backend, int(compile_time_secs))
    except Exception as error:  # as jax does: a run does not end for a program that it could not keep
        warnings.warn(f"{module_name} is not kept for the next start: {type(error).__name__}: {error}", stacklevel=2)


def machine() -> str:
    """Return a name for this kind of machine. jax's own key leaves out what a CPU can do, and a program may end in
    SIGILL on a CPU that can do less.
    """
    known = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        first = {line.split(":")[0].strip(): line for line in reversed(lines) if ":" in line}
        known += [first[name] for name in ("model name", "flags", "Features") if name in first]
    return f"{platform.machine()}-{hashlib.sha256(repr(known).encode()).hexdigest()[:12]}"
