"""What W&B's own package wrote offline, read back from its file: blocks of records as LevelDB's log has them."""

import json
import struct
import time
from pathlib import Path

BLOCK, HEAD = 32768, 7  # bytes; a record's head is its sum, its length and whether it is whole, first, middle or last


def records(file: Path) -> list:
    """The records of a run-ID.wandb file, in their order."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, found = file.read_bytes(), 7, b"", []  # behind the file's own head
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:  # padding at the end of a block
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + HEAD : at + HEAD + length]
        at += HEAD + length
        if kind in (1, 4):
            found.append(Record.FromString(parts))
            parts = b""
    return found


def rows(file: Path) -> list[dict]:
    """Every logged row, by the names of its values; a run that was just finished is still being written."""
    until = time.monotonic() + 30
    while not any(record.HasField("exit") for record in records(file)) and time.monotonic() < until:
        time.sleep(0.05)
    histories = [record.history for record in records(file) if record.HasField("history")]
    return [{item.key or item.nested_key[0]: json.loads(item.value_json) for item in one.item} for one in histories]


def runs(folder: Path) -> list[Path]:
    """The files of the W&B runs that were made offline in the folder, the oldest first."""
    found = folder.glob("wandb/offline-run-*/run-*.wandb")
    return sorted(found, key=lambda file: file.stat().st_mtime_ns)
