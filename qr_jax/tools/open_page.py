"""Tool: the text of one document, by its id in the corpus or, from hosts that the config names, by its address."""

import email.message
import threading
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from qr_jax import plugins
from qr_jax.records import Call, Passage
from qr_jax.search import http_post
from qr_jax.settings.settings import Positive, at_least

DESCRIPTION = "Opens a document by the id that a search shows, or by its address, and returns its text."
PARAMETERS = {
    "id": {"type": "string", "description": "of the document"},
    "start": {"type": "integer", "description": "the character to read from", "default": 0},
}
ADDRESSES = ("http", "https")
KINDS = ("application/json", "application/xhtml+xml")  # of pages, beside text/...
FIRST_BYTES = 1_000_000  # of a page: more is not read
CREW = http_post.Crew(16)  # pages at once
LOCK = threading.Lock()  # calls may come while an older one still reads the corpus


def open_page(
    calls: Sequence[Call],
    *,
    corpus: Sequence[Passage] | None = None,
    kept: dict[str, Any],
    chars: Annotated[int, at_least(100)] = 4000,  # of a text, from `start` on; more than an observation takes is cut
    hosts: tuple[str, ...] = (),  # whose pages may be read: en.wikipedia.org, or 127.0.0.1:8000; none: the corpus alone
    timeout_s: Positive = 10.0,  # of reading one page
) -> list[list[Passage]]:
    """Return each document from its `start` on, or a text for the model that says why there is none.

    A server that does not answer, or fails (429, 500 and above), is a fault: OSError. The first call reads the ids of
    the whole corpus. A text that goes on begins with its next part's offset, because observations are cut at the end.
    """
    known = tuple(host.lower() for host in hosts)
    return CREW.each(lambda call: [_opened(call, corpus, kept, chars, known, timeout_s)], calls)


def _opened(
    call: Call,
    corpus: Sequence[Passage] | None,
    kept: dict[str, Any],
    chars: int,
    hosts: tuple[str, ...],
    wait_s: float,
) -> Passage:
    name, start = str(call["id"]), max(0, int(call.given().get("start") or 0))
    place = _places(corpus, kept).get(name)
    if corpus is not None and place is not None:
        return _from(corpus[place], start, chars)
    try:
        address = urllib.parse.urlsplit(name)
    except ValueError:
        address = urllib.parse.urlsplit("")
    if address.scheme not in ADDRESSES:
        return Passage("", "", f"error: there is no document {name[:100]!r}")
    if address.netloc.lower() not in hosts:
        return Passage("", "", f"error: pages of {address.netloc[:100]} may not be read")
    return _from(_page(name, wait_s), start, chars)


def _from(page: Passage, start: int, chars: int) -> Passage:
    """Return the part of a page that begins at `start`, and where the next one does."""
    text, end = page.text[start : start + chars], start + chars
    if end < len(page.text):
        text = f"({len(page.text):,} characters in all; start={end} goes on) {text}"
    return Passage(page.id, page.title, text or f"error: it {'ends before that' if page.text else 'is empty'}")


def _places(corpus: Sequence[Passage] | None, kept: dict[str, Any]) -> Mapping[str, int]:
    """Return the place of each id in the corpus, which is read once."""
    with LOCK:
        if "places" not in kept:
            kept["places"] = {passage.id: at for at, passage in enumerate(corpus or ())}
        return kept["places"]


def _page(url: str, timeout_s: float) -> Passage:
    """Read a page of text; a text that says why, where it cannot be read."""
    try:
        status, headers, whole = http_post.fetch(url, timeout_s, FIRST_BYTES)
        about = email.message.Message()
        about["content-type"] = headers.get("content-type", "text/plain")
        kind = about.get_content_type()
        if status == 429 or status >= 500:
            raise http_post.Failed(f"{url[:100]} answers {status}")
        if status != 200:
            return Passage("", "", f"error: {url[:100]} answers {status}")
        if not kind.startswith("text/") and kind not in KINDS:
            return Passage("", "", f"error: {url[:100]} is {kind}, and no text")
        if headers.get("content-encoding", "identity") != "identity":
            return Passage("", "", f"error: {url[:100]} is compressed, which was not asked for")
        pages = plugins.around("sets.html_text")
        text = _decoded(whole, about.get_content_charset() or pages.charset(whole) or "utf-8")
        title, text = pages.read(text) if "html" in kind else ("", text)
    except ValueError as error:  # an address or a page that cannot be read
        return Passage("", "", f"error: {url[:100]}: {error}"[:300])
    return Passage(url[:1000], title, text)


def _decoded(whole: bytes, charset: str) -> str:
    try:
        return whole.decode(charset, "replace")
    except LookupError:  # the server made it up
        return whole.decode("utf-8", "replace")
