"""Tool: the text of one document, by its id in the corpus or, from hosts that the config names, by its address."""

import http.client
import string
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from qr_jax import plugins
from qr_jax.records import Call, Passage
from qr_jax.settings.settings import Positive, at_least

DESCRIPTION = "Opens a document by the id that a search shows, or by its address, and returns its text."
PARAMETERS = {
    "id": {"type": "string", "description": "of the document"},
    "start": {"type": "integer", "description": "the character to read from", "default": 0},
}
ADDRESSES = ("http", "https")
FIRST_BYTES = 1_000_000  # of a page: more is not read
LOCK = threading.Lock()  # calls may come while an older one still reads the corpus


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A page that leads elsewhere may lead to a host that nobody named."""

    def redirect_request(self, *_: Any) -> None:
        return None


def open_page(
    calls: Sequence[Call],
    *,
    corpus: Sequence[Passage] | None = None,
    kept: dict[str, Any],
    chars: Annotated[int, at_least(100)] = 4000,  # of a text, from `start` on
    hosts: tuple[str, ...] = (),  # whose pages may be read: en.wikipedia.org, or 127.0.0.1:8000; none: the corpus alone
    timeout_s: Positive = 10.0,  # of reading one page
) -> list[list[Passage]]:
    """Return each document from its `start` on, or a text for the model that says why there is none.

    A server that does not answer, or fails (429, 500 and above), is a fault: OSError. The first call reads the ids of
    the whole corpus.
    """
    return [[_opened(call, corpus, kept, chars, hosts, timeout_s)] for call in calls]


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
        text += f" ... ({len(page.text):,} characters in all; start={end} goes on)"
    return Passage(page.id, page.title, text or "error: it ends before that")


def _places(corpus: Sequence[Passage] | None, kept: dict[str, Any]) -> Mapping[str, int]:
    """Return the place of each id in the corpus, which is read once."""
    with LOCK:
        if "places" not in kept:
            kept["places"] = {passage.id: at for at, passage in enumerate(corpus or ())}
        return kept["places"]


def _page(url: str, timeout_s: float) -> Passage:
    """Read a page by GET, without cookies, proxies or redirects."""
    opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))
    try:
        address = urllib.parse.quote(url, safe=string.printable)  # letters of other scripts
        with opener.open(
            urllib.request.Request(address, headers={"User-Agent": "qr_jax"}), timeout=timeout_s
        ) as answer:
            kind, charset = answer.headers.get_content_type(), answer.headers.get_content_charset("utf-8")
            whole, until = b"", time.monotonic() + timeout_s
            while len(whole) < FIRST_BYTES and (part := answer.read1(FIRST_BYTES - len(whole))):
                whole += part
                if time.monotonic() > until:
                    raise TimeoutError(f"{url[:100]} was not read within {timeout_s:g} s")
        text = _decoded(whole, charset)
        title, text = plugins.around("sets.html_text").read(text) if kind == "text/html" else ("", text)
    except urllib.error.HTTPError as error:
        if error.code == 429 or error.code >= 500:
            raise
        return Passage("", "", f"error: {url[:100]} answers {error.code}")
    except (http.client.InvalidURL, ValueError) as error:  # an address or a page that cannot be read
        return Passage("", "", f"error: {url[:100]}: {error}"[:300])
    if not kind.startswith("text/") and kind != "application/json":
        return Passage("", "", f"error: {url[:100]} is {kind}, and no text")
    return Passage(url[:1000], title, text)


def _decoded(whole: bytes, charset: str) -> str:
    try:
        return whole.decode(charset, "replace")
    except LookupError:  # the server made it up
        return whole.decode("utf-8", "replace")
