"""Tool: a search with the run's retriever."""

from collections.abc import Sequence

from qr_jax.records import Call, Passage, SearchFunction

DESCRIPTION = "Searches a collection of documents and returns the best matches."
PARAMETERS = {"query": {"type": "string", "description": "what to look for"}}


def search(calls: Sequence[Call], *, search: SearchFunction, k: int) -> Sequence[Sequence[Passage]]:
    """Return each call's passages, at most rollout.search_k."""
    return search([call["query"] for call in calls], k)
