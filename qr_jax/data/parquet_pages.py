"""Sizes of a Parquet file's unpacked pages by the pages' own headers, which bind the reader, unlike the footer.

A header is a struct of Thrift's compact protocol; its fields 2 and 3 are the page's bytes, unpacked and packed
(https://github.com/apache/parquet-format, PageHeader)."""

import os
from collections.abc import Iterator
from typing import IO

from qr_jax.errors import UserError

MOST_DEPTH = 8  # of structs and lists in each other; a page's header has 3
TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
INTEGERS = (4, 5, 6)  # of 16, 32 and 64 bits, each a varint


def unpacked_bytes(opened: IO[bytes], start: int, packed_bytes: int) -> Iterator[int]:
    """Yield the unpacked size of each page that begins in these bytes of the file. ValueError if they are no pages."""
    at = start
    while at < start + packed_bytes:
        opened.seek(at)
        sizes = _struct(opened, 0)
        unpacked, packed = sizes.get(2, -1), sizes.get(3, -1)
        if unpacked < 0 or packed < 0:
            raise UserError(f"what stands at byte {at:,} is no page")
        at = opened.tell() + packed
        yield unpacked


def _struct(opened: IO[bytes], depth: int) -> dict[int, int]:
    """Return the integers of a struct by field number; skip all other fields."""
    found: dict[int, int] = {}
    field = 0
    while head := _byte(opened):
        kind = head & 15
        field = field + (head >> 4) if head >> 4 else _integer(opened)
        if kind in INTEGERS:
            found[field] = _integer(opened)
        else:
            _pass_over(opened, kind, depth)
    return found


def _pass_over(opened: IO[bytes], kind: int, depth: int, in_list: bool = False) -> None:
    if depth > MOST_DEPTH:
        raise UserError("a page's header has structs or lists in each other")
    if kind == BYTE or in_list and kind in (TRUE, FALSE):
        _byte(opened)
    elif kind in INTEGERS:
        _varint(opened)
    elif kind == DOUBLE:
        opened.seek(8, os.SEEK_CUR)
    elif kind == BINARY:
        opened.seek(_varint(opened), os.SEEK_CUR)
    elif kind in (LIST, SET):
        head = _byte(opened)
        for _ in range(_varint(opened) if head >> 4 == 15 else head >> 4):
            _pass_over(opened, head & 15, depth + 1, in_list=True)
    elif kind == STRUCT:
        _struct(opened, depth + 1)
    elif kind not in (TRUE, FALSE):
        raise UserError(f"a page's header has a field of type {kind}")


def _integer(opened: IO[bytes]) -> int:
    number = _varint(opened)
    return (number >> 1) ^ -(number & 1)


def _varint(opened: IO[bytes]) -> int:
    number = 0
    for shift in range(0, 70, 7):
        part = _byte(opened)
        number |= (part & 127) << shift
        if part < 128:
            return number
    raise UserError("a page's header has a number of more than 64 bits")


def _byte(opened: IO[bytes]) -> int:
    read = opened.read(1)
    if not read:
        raise UserError("a page's header goes past the end of the file")
    return read[0]
