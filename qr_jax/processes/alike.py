"""Whether all processes of a run are of one program: the same settings, code, questions, passages and model."""

import functools
import hashlib
import importlib.metadata
from typing import Any

from qr_jax import config
from qr_jax.mistakes import PACKAGE
from qr_jax.processes import hosts
from qr_jax.settings import differences

LIBRARIES = ("jax", "jaxlib", "numpy")


def check_program(settings: config.Config) -> None:
    """ValueError on every process, with what differs, unless all have the same settings and code. A collective."""
    if hosts.count() == 1:
        return
    every = hosts.gather([config.to_json(settings), code()])
    first, first_code = every[0]
    for at, (theirs, of) in enumerate(every):
        if differ := differences(first, theirs):
            raise ValueError(
                f"process {at} was started with other settings than process 0, which is 'there' ({'; '.join(differ)}); "
                "start the same command on all hosts"
            )
        if of != first_code:
            raise ValueError(
                f"process {at} runs other code than process 0 ({of}, process 0 {first_code}); install the same qr_jax "
                "and the same versions on all hosts"
            )


def check(**has: Any) -> None:
    """ValueError on every process, by name, unless all gave the same values (digests, names). A collective."""
    every = hosts.gather(has)
    for at, theirs in enumerate(every):
        if differ := [name for name in has if theirs[name] != every[0][name]]:
            raise ValueError(
                f"process {at} has not the {' and the '.join(differ)} of process 0; give all hosts the same files"
            )


@functools.cache
def code() -> str:
    """A digest of this package's source, and the versions of what it computes with."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE)}\n".encode() + path.read_bytes())
    versions = (f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return ", ".join([f"qr_jax {digest.hexdigest()[:12]}", *versions])
