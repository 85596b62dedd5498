"""Convert nested host values to JSON and named arrays, and back, for checkpoints and messages between processes.

A value is a dict with string keys, a list, a string, a number, a bool, None or a numpy array, to any depth. No pickle.
"""

import io
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from qr_jax.errors import UserError
from qr_jax.records import Call, Episode, Passage, Query, Turn
from qr_jax.settings import json_text

ARRAY = "__array__"


def split(value: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """Split a value into JSON, with a reference in each array's place, and the arrays by reference.

    Tuples become lists and numpy scalars Python numbers.
    """
    arrays: dict[str, np.ndarray] = {}

    def walk(part: Any) -> Any:
        if isinstance(part, np.ndarray):
            arrays[name := f"a{len(arrays)}"] = part
            return {ARRAY: name}
        if isinstance(part, (list, tuple)):
            return [walk(item) for item in part]
        if isinstance(part, Mapping):
            assert all(isinstance(key, str) and key != ARRAY for key in part), "keys are names"
            return {key: walk(item) for key, item in part.items()}
        return part.item() if isinstance(part, np.generic) else part

    return walk(value), arrays


def join(frame: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Invert `split`."""
    if isinstance(frame, list):
        return [join(item, arrays) for item in frame]
    if isinstance(frame, dict):
        if set(frame) == {ARRAY}:
            return arrays[frame[ARRAY]]
        return {key: join(item, arrays) for key, item in frame.items()}
    return frame


def to_bytes(value: Any) -> bytes:
    """Return one message: the length of the JSON (8 bytes, little-endian), the JSON, the arrays as .npz."""
    frame, arrays = split(value)
    text = json.dumps(frame).encode()
    packed = io.BytesIO()
    if arrays:
        np.savez(packed, allow_pickle=False, **arrays)
    return struct.pack("<Q", len(text)) + text + packed.getvalue()


def from_bytes(message: bytes) -> Any:
    """Invert `to_bytes`."""
    end = 8 + struct.unpack("<Q", message[:8])[0]
    frame = json_text.parse(message[8:end])
    if end == len(message):
        return frame
    return join(frame, unpacked(message[end:]))


def unpacked(npz: bytes) -> dict[str, np.ndarray]:
    """Load arrays that `np.savez` wrote. ValueError if they take more bytes than the file: savez compresses nothing."""
    with np.load(io.BytesIO(npz), allow_pickle=False) as arrays:
        whole = sum(member.file_size for member in arrays.zip.infolist())
        if whole > len(npz):
            raise UserError(f"arrays of {whole:,} bytes in a file of {len(npz):,}, which no run writes")
        return dict(arrays)


def episode_to_plain(episode: Episode) -> dict[str, Any]:
    """Return a whole episode, with texts and passages, as a nested host value (also for checkpoints)."""
    plain = {name: getattr(episode, name) for name in Episode.__dataclass_fields__}
    return plain | {"query": asdict(episode.query), "turns": [asdict(turn) for turn in episode.turns]}


def episode_from_plain(plain: Mapping[str, Any]) -> Episode:
    """Invert `episode_to_plain`, except that tuples inside a query's `meta` have become lists."""
    query = plain["query"]
    query = {**query, "answers": tuple(query["answers"]), "entities": tuple(query["entities"])}
    turns = []
    for turn in plain["turns"]:
        passages = tuple(tuple(Passage(**passage) for passage in ranked) for ranked in turn["passages"])
        queries = tuple(Call(**asked) if isinstance(asked, Mapping) else asked for asked in turn["queries"])
        turns.append(Turn(turn["author"], turn["text"], queries, passages))
    return Episode(**{**plain, "query": Query(**query), "turns": tuple(turns)})
