"""What a retriever's results depend on beside its settings: the contents of the models that its settings only name."""

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qr_jax import plugins
from qr_jax.settings import Use


def models(use: Use, *, allow_plugins: Sequence[str] | None = None) -> list[str]:
    """The SHA-256 of each model that a retriever, or one inside it, searches with; [] where none does.

    A file of qr_jax/retrievers/ that searches with one has a function `fingerprint(**settings)` beside its plug-in's.
    Parts that are a retriever's defaults count too. The models' files are read; ValueError where they are not there.
    """
    found = []
    for one in _with_parts(use, allow_plugins):
        function = plugins.find("retriever", one.name, allow_plugins=allow_plugins)
        ask = (
            getattr(importlib.import_module(function.__module__), "fingerprint", None) if "." not in one.name else None
        )
        if ask is not None:
            found.append(ask(**plugins.check("retriever", one, allow_plugins=allow_plugins)))
    return found


def _with_parts(use: Use, allow_plugins: Sequence[str] | None) -> Iterator[Use]:
    """The retriever and those inside it, at every depth."""
    yield use
    function = plugins.find("retriever", use.name, allow_plugins=allow_plugins)
    defaults = {name: one.default for name, one in inspect.signature(function).parameters.items()}
    settings = defaults | plugins.check("retriever", use, allow_plugins=allow_plugins)
    for part in _uses(list(settings.values())):
        yield from _with_parts(part, allow_plugins)


def _uses(value: Any) -> Iterator[Use]:
    if isinstance(value, Use):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _uses(one)
