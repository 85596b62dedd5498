"""Retrievers inside other retrievers, and indexes that others made."""

from collections.abc import Sequence
from pathlib import Path

from qr_jax import plugins, trust
from qr_jax.errors import UserError
from qr_jax.records import Passage, SearchFunction
from qr_jax.search import index_files
from qr_jax.search.stored import Stored
from qr_jax.settings.settings import Use


def others_indexes(use: Use, corpus: Sequence[Passage] | None) -> list[str]:
    """Return the claims of all indexes not made by this user that a retriever, or one inside it, searches.

    Nothing but the claim says that their scores and vectors fit the corpus: whoever made them decides what is found.
    """
    folders = [corpus.folder] if isinstance(corpus, Stored) else []
    for part in plugins.with_parts(use, None):
        folders += [Path(name) for name in [plugins.check("retriever", part).get("index")] if name]
    return [claim for claim in map(index_files.claim, folders) if not trust.noted(claim)]


def check_parts(name: str, parts: Sequence[Use]) -> None:
    """Raise ValueError if a part of the retriever `name` is not in qr_jax/search/retrievers/, as for `inside`."""
    if outside := [part.name for part in parts if "." in part.name]:
        raise UserError(f"{name} takes files of qr_jax/search/retrievers/ as its parts, and has {', '.join(outside)}")


def inside(name: str, of: Use, corpus: Sequence[Passage] | None) -> SearchFunction:
    """Return the search function of `of`, a retriever inside the retriever `name`.

    ValueError if it wants a corpus and there is none, or if it is not in qr_jax/search/retrievers/: a run's config
    could bring code that nobody allowed.
    """
    if "." in of.name:
        raise UserError(f"{name} takes a file of qr_jax/search/retrievers/ as its `of`, and has {of.name}")
    make, wants = plugins.bind("retriever", of), plugins.wants_corpus(of)
    if wants and corpus is None:
        raise UserError(f"the retriever {of.name!r} inside {name!r} searches a corpus, and there is none")
    return make(corpus=corpus) if wants else make()
