"""Check that all processes of a run are alike: the same settings, code, questions, passages and model."""

import functools
import hashlib
import importlib.metadata
from typing import Any

from qr_jax import config
from qr_jax.errors import UserError
from qr_jax.parallel import hosts
from qr_jax.settings.settings import differences

LIBRARIES = ("jax", "jaxlib", "numpy")


def check_program(settings: config.Config) -> None:
    """Raise ValueError on every process unless all have the same settings and code. A collective."""
    if hosts.count() == 1:
        return
    every = hosts.gather([config.to_json(settings), code()])
    first, first_code = every[0]
    for process, (theirs, their_code) in enumerate(every):
        if differ := differences(first, theirs):
            other = f"other settings ({'; '.join(differ)}) than process 0 ('there')"
            raise UserError(f"process {process} was started with {other}; start the same command on all hosts")
        if their_code != first_code:
            todo = "install the same qr_jax and the same versions on all hosts"
            raise UserError(f"process {process} runs other code ({their_code}) than process 0 ({first_code}); {todo}")


def check(**values: Any) -> None:
    """Raise ValueError on every process, by name, unless all gave the same values (digests, names). A collective."""
    every = hosts.gather(values)
    for process, theirs in enumerate(every):
        if differ := [name for name in values if theirs[name] != every[0][name]]:
            what = " and ".join(differ)
            raise UserError(f"process {process} differs from process 0 in its {what}; give all hosts the same files")


@functools.cache
def code() -> str:
    """Return a digest of this package's source, and the versions of the libraries it computes with."""
    digest = hashlib.sha256()
    for path in sorted(config.PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(config.PACKAGE)}\n".encode() + path.read_bytes())
    versions = (f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return ", ".join([f"qr_jax {digest.hexdigest()[:12]}", *versions])
