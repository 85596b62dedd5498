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
MOST_ENDLESS = 16  # tags, comments and the like that never end: each of them is sought to the end of the page
CHARSET = re.compile(rb"<meta[^<>]{0,200}charset\s*=\s*[\"']?([\w.:-]{2,40})", re.IGNORECASE)


def read(text: str) -> tuple[str, str]:
    """Give the title ("" where there is none) and the text, without scripts, styles and what no browser shows."""
    text, page = OFFICE.sub(" ", text), _Page()
    last = text.rfind(">") + 1  # behind it nothing ends, so that each < is one of the text
    try:
        page.feed(text[:last] + text[last:].replace("<", "&lt;"))
        page.close()
    except AssertionError as error:  # so html.parser says it
        raise UserError(f"is no HTML that can be read ({error})") from error
    return BLANKS.sub(" ", "".join(page.title)).strip(), "".join(page.parts).strip()


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
        self.title, self.parts = [], []
        self._unseen = ""  # the tag within which nothing is seen
        self._has_title = False
        self._endless = 0

    def parse_starttag(self, i: int) -> int:
        return self._counted(super().parse_starttag(i))

    def parse_comment(self, i: int, report: bool = True) -> int:
        return self._counted(super().parse_comment(i, report))

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        return self._counted(super().parse_marked_section(i, report))

    def _counted(self, end: int) -> int:
        self._endless += end < 0
        if self._endless > MOST_ENDLESS:
            raise AssertionError("too many tags and comments that never end")
        return end

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
            self.title.append(data)
        elif not self._unseen:
            self.parts.append(BLANKS.sub(" ", data))
