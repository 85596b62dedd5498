"""The verdict at the end of an object that is no JSON: its reason holds a backslash or quotation marks of its own."""

import re
from collections.abc import Sequence
from typing import Any

BEGUN = re.compile(r"\s*+(?:```\w*+)?\s*+\{\s*+[\"']")  # a reply that begins with an object
CLOSED = re.compile(r"\s*+,?\s*+\}[\s}\]`]*")  # and what may end it


def at_end(outside: str, inner: Sequence[Sequence[Any]], name: str, allowed: Sequence[bool | str]) -> list[Any] | None:
    """Return the verdict that ends a broken object, as a list of one; an empty list where it is unclear.

    `outside` is the reply without its whole objects, `inner` the verdicts in those: the reason may quote them. So the
    verdict must stand outside of them, the last in the reply, and be the only one that is named. Quotation marks behind
    a backslash name none. None where no object of the reply is broken, or none of it names a verdict.
    """
    words = "|".join(re.escape(str(word)) for word in allowed)
    mention = re.compile(rf"[\"']\s*+{re.escape(name)}\s*+[\"']\s*+:\s*+[\"']?\s*+({words})\b\s*+[\"']?", re.IGNORECASE)
    mentions = list(mention.finditer(outside))
    if not mentions and not (inner and BEGUN.match(outside)):
        return None
    spelt = {str(word).lower(): word for word in allowed}
    named = [spelt[found[1].lower()] for found in mentions] + [word for words in inner for word in words]
    is_last = mentions and "{" in outside[: mentions[0].start()] and CLOSED.fullmatch(outside, mentions[-1].end())
    return named[:1] if is_last and len({*map(repr, named)}) == 1 else []
