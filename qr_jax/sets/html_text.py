"""A page of HTML -> its title and its text, a blank line between two blocks."""

import codecs
import contextlib
import re
from html.parser import HTMLParser

from qr_jax.errors import UserError

ENDS = (".html", ".htm", ".xhtml")
UNSEEN = {"script", "style", "template", "noscript", "title"}
BLOCK = re.compile(
    "address|article|aside|blockquote|body|caption|center|dd|details|dialog|div|dl|dt|fieldset|figcaption|figure|footer"
    "|form|h[1-6]|header|hr|legend|li|main|menu|nav|ol|option|p|pre|section|summary|table|tbody|tfoot|thead|tr|ul"
)
SPACED = {"br", "td", "th"}
BLANKS = re.compile(r"\s+")
OFFICE = re.compile(r"<!\[[^<>]*>")  # <![if !vml]> and the like, on which html.parser fails
CHARSET = re.compile(rb"<meta[^<>]{0,200}charset\s*=\s*[\"']?([\w.:-]{2,40})", re.IGNORECASE)


def read(text: str) -> tuple[str, str]:
    """Give the title ("" where there is none) and the text, without scripts, styles and what no browser shows."""
    page = _Page()
    try:
        page.feed(OFFICE.sub(" ", text))
        page.close()
    except AssertionError as error:  # so html.parser says it
        raise UserError(f"is no HTML that can be read ({error})") from error
    return BLANKS.sub(" ", page.title).strip(), "".join(page.parts).strip()


def charset(begins: bytes) -> str | None:
    """Give the encoding that a page's <meta> names in its first kilobyte, where Python has it."""
    found = CHARSET.search(begins[:1024])
    with contextlib.suppress(LookupError):
        name = codecs.lookup(found[1].decode("ascii")).name if found else None
        b" ".decode(name or "ascii")  # Python has codecs that are of no text
        return "cp1252" if name in ("iso8859-1", "ascii") else name  # as browsers take these
    return None


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title, self.parts = "", []
        self._unseen = ""  # the tag within which nothing is seen
        self._has_title = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if self._unseen:
            return
        if tag in UNSEEN:
            self._unseen = tag
        elif BLOCK.fullmatch(tag):
            self.parts.append("\n\n")
        elif tag in SPACED:
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._unseen:
            self._unseen, self._has_title = "", self._has_title or tag == "title"
        elif BLOCK.fullmatch(tag) and not self._unseen:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self._unseen == "title" and not self._has_title:  # a picture in the page may have another
            self.title += data
        elif not self._unseen:
            self.parts.append(BLANKS.sub(" ", data))
