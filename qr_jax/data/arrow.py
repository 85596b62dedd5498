"""Arrow files as rows (of `datasets`, Feather, IPC streams), and the folders that `Dataset.save_to_disk` writes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qr_jax.data import limits, parquet
from qr_jax.errors import UserError

ENDS = (".arrow", ".feather")
STATE, SPLITS = "state.json", "dataset_dict.json"  # of a saved data set, and of several as its splits
INDICES = ("_indices_data_files", "_indices_files")  # of a selection or a shuffle; newer versions write its rows anew
MOST_STATE_BYTES = 10_000_000


def rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give (row number from 1, object) of every row, without what is null.

    ValueError: the file is damaged, has more than limits.py allows, or a value that Python has none for.
    """
    import pyarrow as pa

    number = 0
    try:
        with pa.memory_map(str(file)) as opened:
            is_file = opened.read(6) == b"ARROW1"  # with a table of its batches at the end; a stream has none
            opened.seek(0)
            for number, row in parquet.rows_of(file, _batches(opened, is_file), limits.most_bytes(file)):
                yield number, row
    except (limits.TooLarge, parquet.NoValue):
        raise
    except (pa.ArrowException, *parquet.DAMAGED) as error:
        raise UserError(f"{file.name} after row {number}: not a whole Arrow file ({error})") from error


def _batches(opened: Any, is_file: bool) -> Iterator[Any]:
    """The batches, each checked: offsets of a damaged file would lead outside of it."""
    import pyarrow as pa

    reader: Any = pa.ipc.open_file(opened) if is_file else pa.ipc.open_stream(opened)
    for batch in (reader.get_batch(at) for at in range(reader.num_record_batches)) if is_file else reader:
        batch.validate(full=True)
        for start in range(0, batch.num_rows, parquet.PIECE_ROWS):
            yield batch.slice(start, parquet.PIECE_ROWS)


def saved(folder: Path) -> list[Path] | None:
    """Give the Arrow files of a folder that `save_to_disk` wrote, in their order; None for any other folder.

    ValueError: it holds several splits, a file is missing, or the rows stand in another order than the files say.
    """
    if (folder / SPLITS).is_file():
        splits = _listed(folder / SPLITS, "splits")
        todo = f"name one of them, as in {folder / str(splits[0]) if splits else folder}"
        raise UserError(f"{folder} holds the splits {', '.join(map(str, splits)) or '(none)'} of a data set; {todo}")
    if not (folder / STATE).is_file():
        return None
    if any(_listed(folder / STATE, name) for name in INDICES):
        todo = "in Python, with the version of datasets that wrote it: load_from_disk(FOLDER).flatten_indices()"
        todo += ".save_to_disk(NEW); newer versions take the files' rows as they stand"
        raise UserError(f"{folder} is a selection of the rows of its files, which is not read; {todo}")
    names = [one.get("filename") if isinstance(one, dict) else one for one in _listed(folder / STATE, "_data_files")]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{folder / STATE} names the file {name!r}, which is not in its folder; copy it again")
    return [folder / str(name) for name in names]


def _listed(file: Path, name: str) -> list[Any]:
    """The list under that name; none where it is null or absent."""
    try:
        found = json.loads(file.read_bytes()[:MOST_STATE_BYTES])
        held = found.get(name) or []
        if isinstance(held, list):
            return held
    except (ValueError, RecursionError, AttributeError):
        pass
    raise UserError(f"{file} is damaged, or is none of those that save_to_disk writes; copy the folder again")
