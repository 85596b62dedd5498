"""A file that holds one JSON object, read with a bound on its size, and written."""

import json
from pathlib import Path
from typing import Any

from qr_jax.errors import UserError
from qr_jax.settings.settings import show

LARGEST_BYTES = 64_000_000


def read_json(path: Path) -> dict[str, Any]:
    """Return the object. A ValueError says when the file is absent, too large, not JSON or not an object."""
    if not path.is_file():
        if not path.parent.is_dir():
            raise UserError(f"there is no folder {path.parent}")
        raise UserError(f"{path.parent.name or path.parent} has no {path.name}; is it a Hugging Face model folder?")
    if path.stat().st_size > LARGEST_BYTES:
        raise UserError(f"{path.name} has {path.stat().st_size} bytes; wanted at most {LARGEST_BYTES}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_members)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not proper JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path.name} holds a JSON {type(found).__name__}; wanted an object")
    return found


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; ValueError where a name stands in it twice, with two values."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if found.setdefault(name, value) != value:
            raise UserError(f"{show(name)} stands in it twice, as {show(found[name])} and as {show(value)}")
    return found


def number(value: Any, name: str, *, above: float, most: float) -> float:
    """Return the value of a setting as a float. ValueError unless it is a number above the one bound, at most the
    other.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not above < value <= most:
        raise UserError(f"config.json has {name} = {show(value)}; wanted a number above {above:g}, at most {most:g}")
    return float(value)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
