"""How a valid input is spoilt: bytes, pieces of text, and values inside JSON; the same for the same generator."""

import json
from random import Random
from typing import Any

NUMBERS = (0, 1, 2, 7, 8, 31, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1)
# JSON that json.dumps does not write by itself; a text "\0" and its number stands for it until then.
RAW = ("1e400", "-1e400", "9" * 5000, "[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300, "NaN", "-Infinity", "-0")
ODD: tuple[Any, ...] = (
    *(f"\0{at}" for at in range(len(RAW))),
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**30, 10**400, 0.5, -1e308, 5e-324),
    *("", " ", "x", "nan", "none", "\ud800", "\u0000", "é" * 40, "a.b", "." * 2000, "1,2", "x" * 5000, "</answer>"),
    *([], [[]], [None], [1, "a"], ["a"], {}, {"a": 1}, {"name": 1}, {"content": "x"}, {"id": 1}, [{}], [["a", 1]]),
)
PIECES = (
    *(b"<think>", b"</think>", b"<search>", b"</search>", b"<answer>", b"</answer>", b"<tool_call>", b"</tool_call>"),
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r\n", b"\0", b" ", b"=", b".", b"-", b"--", b"true"),
    *(b"NaN", b"1e400", b"-1", b"9" * 5000, b"[" * 2000, b"." * 2000, b"\\ud800", b"\xed\xa0\x80", b"\xff", b"x" * 300),
    *("\uff1c".encode(), "\u200b".encode(), "‹".encode(), b"<|im_end|>", b"none", b"(", b")", b"@", b"/", b".."),
)


def spoil(rng: Random, data: bytes, name: str) -> bytes:
    """The bytes with one to four changes; what is JSON, or lines of JSON, is mostly changed inside a value."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        inside = _in_json(rng, data, name) if rng.random() < 0.8 else None
        data = spoil_bytes(rng, data) if inside is None else inside
    return data


def spoil_bytes(rng: Random, data: bytes) -> bytes:
    """One byte flipped, a piece cut, repeated, swapped or put in, or a number written over what was there."""
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    way = rng.randrange(8)
    if way == 0:
        stop = min(stop, start + rng.choice((1, 4, 16)))
        return data[:start] + data[stop:]
    if way == 1:
        return data[:start]
    if way == 2:
        return data[:stop] + data[start : min(stop, start + 50)] * rng.choice((1, 1, 1, 1000)) + data[stop:]
    if way == 3:
        middle = (start + stop) // 2
        return data[:start] + data[middle:stop] + data[start:middle] + data[stop:]
    if way == 4:
        number = rng.choice(NUMBERS).to_bytes(8, "little")[: rng.choice((1, 4, 8))]
        return data[:start] + number + data[start + len(number) :]
    if way == 5 and start < len(data):
        return data[:start] + bytes([data[start] ^ 1 << rng.randrange(8)]) + data[start + 1 :]
    piece = rng.choice(PIECES) if way == 6 else rng.randbytes(rng.choice((1, 2, 8)))
    return data[:start] + piece + data[start:]


def _in_json(rng: Random, data: bytes, name: str) -> bytes | None:
    """The JSON with one value changed; None for what is none."""
    if name.endswith(".jsonl"):
        lines = data.split(b"\n")
        at = rng.randrange(len(lines))
        inside = _in_json(rng, lines[at], "")
        return None if inside is None else b"\n".join([*lines[:at], inside, *lines[at + 1 :]])
    try:
        value = json.loads(data)
        return written(_changed(rng, value))
    except (ValueError, OverflowError, RecursionError):
        return None


def written(value: Any) -> bytes:
    """The JSON of a value in which texts "\\0N" stand for RAW[N]."""
    text = json.dumps(value)
    for at, raw in enumerate(RAW):
        text = text.replace(f'"\\u0000{at}"', raw)
    return text.encode()


def _changed(rng: Random, value: Any) -> Any:
    """The value with one place in it changed, often deep inside; what a place held may move to another."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, other = rng.choice(keys), rng.choice(keys)
        changed: Any = dict(value) if isinstance(value, dict) else list(value)
        way = rng.random()
        if way < 0.1:
            del changed[key]
        elif way < 0.2:
            changed[key] = value[other]
        elif way < 0.3 and isinstance(changed, dict):
            changed[rng.choice(("", "name", "a.b", "\ud800", "x" * 500, str(other) + "s"))] = value[key]
        elif way < 0.3:
            changed.append(value[key])
        else:
            changed[key] = _changed(rng, value[key])
        return changed
    if isinstance(value, str) and rng.random() < 0.4:
        return spoil_bytes(rng, value.encode("utf-8", "replace")).decode("utf-8", "surrogateescape")
    if type(value) is int and rng.random() < 0.6:
        near = (value + 1, value - 1, -value, value * 2, value // 2, float(value), str(value), [value])
        return rng.choice((*near, *NUMBERS))
    return rng.choice(ODD)
