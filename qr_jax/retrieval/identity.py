"""Dependencies of a retriever's results beside its settings: the models that these name, and indexes made by others."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qr_jax import plugins, trust
from qr_jax.errors import UserError
from qr_jax.queries.stored import Stored
from qr_jax.records import Passage, SearchFunction
from qr_jax.retrieval import index_files
from qr_jax.settings import Use


def models(use: Use, *, allow_plugins: Sequence[str] | None = None) -> list[str]:
    """Return the SHA-256 of each model that a retriever, or a retriever inside it, searches with; [] without models.

    The file of a retriever with a model has a function `fingerprint(**settings)` beside its plug-in. Inner retrievers
    given by default settings count too. The models' files are read; ValueError if they are missing.
    """
    digests = []
    for part in _with_parts(use, allow_plugins):
        fingerprint = plugins.beside("retriever", part.name, "fingerprint", allow_plugins=allow_plugins)
        if fingerprint is not None:
            digests.append(fingerprint(**plugins.check("retriever", part, allow_plugins=allow_plugins)))
    return digests


def others_indexes(use: Use, corpus: Sequence[Passage] | None) -> list[str]:
    """Return the claims of all indexes not made by this user that a retriever, or one inside it, searches.

    Nothing but the claim says that their scores and vectors fit the corpus: whoever made them decides what is found.
    """
    folders = [corpus.folder] if isinstance(corpus, Stored) else []
    for part in _with_parts(use, None):
        folders += [Path(name) for name in [plugins.check("retriever", part).get("index")] if name]
    return [claim for claim in map(index_files.claim, folders) if not trust.noted(claim)]


def check_parts(name: str, parts: Sequence[Use]) -> None:
    """Raise ValueError if a part of the retriever `name` is not in qr_jax/retrievers/, as for `inside`."""
    if outside := [part.name for part in parts if "." in part.name]:
        raise UserError(f"{name} takes files of qr_jax/retrievers/ as its parts, and has {', '.join(outside)}")


def inside(name: str, of: Use, corpus: Sequence[Passage] | None) -> SearchFunction:
    """Return the search function of `of`, a retriever inside the retriever `name`.

    ValueError if it wants a corpus and there is none, or if it is not in qr_jax/retrievers/: a run's config could bring
    code that nobody allowed.
    """
    if "." in of.name:
        raise UserError(f"{name} takes a file of qr_jax/retrievers/ as its `of`, and has {of.name}")
    make, wants = plugins.bind("retriever", of), plugins.wants_corpus(of)
    if wants and corpus is None:
        raise UserError(f"the retriever {of.name!r} inside {name!r} searches a corpus, and there is none")
    return make(corpus=corpus) if wants else make()


def _with_parts(use: Use, allow_plugins: Sequence[str] | None) -> Iterator[Use]:
    """Yield the retriever and those inside it, at every depth."""
    yield use
    function = plugins.find("retriever", use.name, allow_plugins=allow_plugins)
    defaults = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    settings = defaults | plugins.check("retriever", use, allow_plugins=allow_plugins)
    for part in _uses(list(settings.values())):
        yield from _with_parts(part, allow_plugins)


def _uses(value: Any) -> Iterator[Use]:
    if isinstance(value, Use):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _uses(item)
