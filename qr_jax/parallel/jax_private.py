"""Private names of jax, which has no public ones for what they do; nothing else in the package uses one."""

import importlib
import inspect
import operator
from typing import Any

from qr_jax.errors import UserError

BACKENDS_LOG = "jax._src.xla_bridge"  # the logger that tells how backends start
WANTED = "jax>=0.10,<0.13"  # as pyproject.toml has it: the versions that have these names


def get(module: str, name: str) -> Any:
    """Return what `name`, which may have dots, is in `jax._src.MODULE`.

    UserError, with the versions to install, if this jax has no such name: a private name may go with any release.
    """
    try:
        return operator.attrgetter(name)(importlib.import_module(f"jax._src.{module}"))
    except (ImportError, AttributeError) as error:
        raise _unknown(f"has no jax._src.{module}.{name}") from error


def replace(module: str, name: str, function: Any) -> None:
    """Put `function` in the place of the function `name` of `jax._src.MODULE`.

    UserError unless jax can call ours as it calls its own: the parameters must be the same, but ours may have more
    with defaults.
    """
    theirs, ours = (inspect.signature(each).parameters for each in (get(module, name), function))
    needed = [parameter for parameter, its in ours.items() if its.default is its.empty or parameter in theirs]
    if list(theirs) != needed:
        raise _unknown(f"calls jax._src.{module}.{name} with ({', '.join(theirs)}), not with ({', '.join(ours)})")
    setattr(importlib.import_module(f"jax._src.{module}"), name, function)


def _unknown(what: str) -> UserError:
    import jax

    return UserError(f"jax {jax.__version__} {what}: this qr_jax needs another jax; pip install '{WANTED}'")
