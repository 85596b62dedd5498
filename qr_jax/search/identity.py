"""Retrievers inside other retrievers, and the settings that decide what a retriever finds."""

from collections.abc import Sequence
from typing import Any

from qr_jax import plugins
from qr_jax.errors import UserError
from qr_jax.records import Passage, SearchFunction
from qr_jax.settings.settings import Use, plain, without

# Settings that change how a retriever gets its passages, but not which passages.
WITHOUT_EFFECT = ("index", "cache", "token_env", "key_env", "batch", "at_once", "timeout_s", "deadline_s", "retries")
WITHOUT_EFFECT += ("pause_after", "pause_s", "response_bytes", "batch_tokens", "devices")


def effective(retriever: Use) -> dict[str, Any]:
    """Return a retriever's settings as JSON holds them, without those that do not decide its passages, at any depth."""
    return without(plain(retriever.settings), WITHOUT_EFFECT)


def check_parts(name: str, parts: Sequence[Use]) -> None:
    """Raise ValueError if a part of the retriever `name` is not in qr_jax/search/retrievers/, as for `inside`."""
    if outside := [part.name for part in parts if "." in part.name]:
        raise UserError(f"{name} takes files of qr_jax/search/retrievers/ as its parts, and has {', '.join(outside)}")


def inside(name: str, of: Use, corpus: Sequence[Passage] | None) -> SearchFunction:
    """Return the search function of `of`, a retriever inside the retriever `name`.

    ValueError if it wants a corpus and there is none, or if it is not in qr_jax/search/retrievers/.
    """
    if "." in of.name:
        raise UserError(f"{name} takes a file of qr_jax/search/retrievers/ as its `of`, and has {of.name}")
    make, wants = plugins.bind("retriever", of), plugins.wants_corpus(of)
    if wants and corpus is None:
        raise UserError(f"the retriever {of.name!r} inside {name!r} searches a corpus, and there is none")
    return make(corpus=corpus) if wants else make()
