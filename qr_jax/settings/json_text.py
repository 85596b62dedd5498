"""Parse other people's JSON at a bounded cost: texts, HTTP bodies and rows of files."""

import json
import math
from typing import Any

from qr_jax.errors import UserError
from qr_jax.settings.settings import show


class TooDeep(UserError):
    """The JSON's lists and objects are nested deeper than Python reads."""


class TooMany(UserError):
    """The JSON has more items than are allowed."""


class Decoder(json.JSONDecoder):
    """Decodes JSON as json.JSONDecoder does, but raises TooDeep, not RecursionError, if it is nested too deep."""

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        """Return the value that begins at `idx`, and its end."""
        try:
            return super().raw_decode(s, idx)
        except RecursionError:
            raise TooDeep("its lists and objects are nested too deep") from None


def parse(text: str | bytes | bytearray, **how: Any) -> Any:
    """Parse JSON as `json.loads` does. ValueError for what is no JSON, TooDeep for lists in lists without end."""
    try:
        return json.loads(text, **how)
    except RecursionError:
        raise TooDeep("its lists and objects are nested too deep") from None


def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these pairs; ValueError where a name stands in it twice, with two values."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found and found[name] != value:
            raise UserError(f"{show(name)} stands in it twice, as {show(found[name])} and as {show(value)}")
        found[name] = value
    return found


def read_bounded(body: bytes | bytearray, most_items: int) -> Any:
    """Parse JSON. ValueError if it is none; TooMany for over `most_items` commas, lists and objects outside of strings.

    They are counted before anything is parsed.
    """
    check_items(body, most_items)
    try:
        return parse(body)
    except ValueError as error:
        raise UserError("the body is no JSON") from error


def check_items(body: bytes | bytearray, most_items: int, name: str = "the body") -> None:
    """Raise TooMany for over `most_items` commas, lists and objects outside of strings, ValueError if not in UTF-8.

    Each item costs Python an object of 50 bytes and more: 32 MB of `[],` would become 840 MiB. `json.loads` reads
    UTF-16 and UTF-32 too, in which a byte of a quote may be half of another character.
    """
    encoding = json.detect_encoding(body)
    if not encoding.startswith("utf-8"):
        raise UserError(f"{name} is in {encoding}; wanted UTF-8")
    outside = _outside_strings(body, 4 * (most_items + 1), name)  # an item is at most a key and a text, of two quotes
    items = sum(map(outside.count, (b",", b"[", b"{")))
    if items > most_items:
        raise TooMany(f"{name} has {items:,} commas, lists and objects; at most {most_items:,} are taken")


def _outside_strings(body: bytes | bytearray, most_quotes: int, name: str) -> bytes:
    """Return the bytes outside of strings. TooMany for more than `most_quotes` quotes."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    quotes = body.count(b'"')
    if quotes > most_quotes:
        raise TooMany(f"{name} has {quotes // 2:,} texts; at most {most_quotes // 2:,} are taken")
    return b"".join(body.split(b'"')[::2])


def parse_or_none(text: bytes) -> Any:
    """Return the JSON value, NaN and infinities as None; None for no JSON."""
    try:
        return parse(text, parse_constant=lambda _: None, parse_float=_finite)
    except ValueError:
        return None


def _finite(text: str) -> float | None:
    value = float(text)  # 1e400 is infinite, and no constant
    return value if math.isfinite(value) else None
