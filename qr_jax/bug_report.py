"""What a stranger needs to find a fault in a run: config and numbers, without secrets, data, places and prompts."""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qr_jax import metrics_writer
from qr_jax.commands import doctor
from qr_jax.secrecy import redact

LAST_LINES = 500  # of metrics
PLAIN = re.compile(r"[\w-]{0,40}")  # a setting that says nothing of its user: a name of ours, a number as text
ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")
URL = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]*://)[^\s\"'<>]+")
FOLDERS = re.compile(
    r"(?<![\w.~:/])(?:~?/|[A-Za-z]:\\\\?)(?:[^\s\"'/\\:,;]+(?:/|\\\\?))+"
)  # all of a path but its last name


def write(run: Path, out: Path | None = None) -> tuple[Path, list[str]]:
    """Write the zip file; its path, and the names of the files in it. ValueError for a folder that is no run."""
    if not (run / "config.json").is_file():
        raise ValueError(f"{run} is no run: it has no config.json")
    path = out or run.with_name(f"{run.resolve().name}.bug_report.zip")
    parts = dict(_parts(run))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in parts.items():
            packed.writestr(name, _clean(text))
    return path, list(parts)


def _parts(run: Path) -> Iterator[tuple[str, str]]:
    yield "doctor.json", json.dumps(doctor.examine(), indent=2)
    yield "config.json", _config((run / "config.json").read_text(encoding="utf-8", errors="replace"))
    yield "files.txt", "\n".join(_listed(run))
    if (run / metrics_writer.FILE).is_file():
        lines = (run / metrics_writer.FILE).read_text(encoding="utf-8", errors="replace").splitlines()
        yield metrics_writer.FILE, "\n".join(lines[-LAST_LINES:])


def _listed(run: Path) -> list[str]:
    """Each file's size and name: what is there, what is missing, what is cut off."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and not path.is_symlink())
    return [f"{path.stat().st_size:>12} {path.relative_to(run)}" for path in files]


def _config(text: str) -> str:
    """The settings with each text that may say something of its user told by its length and its ending alone."""
    try:
        return json.dumps(_plain(json.loads(text)), indent=2)
    except (ValueError, RecursionError):
        return f"no JSON, {len(text)} characters"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name if PLAIN.fullmatch(name) else _told(name): _plain(held) for name, held in value.items()}
    if isinstance(value, list):
        return [_plain(held) for held in value]
    return value if not isinstance(value, str) or PLAIN.fullmatch(value) else _told(value)


def _told(text: str) -> str:
    ending = re.search(r"(?:\.(?:jsonl?|gz|py|parquet|csv|txt|safetensors|gguf))+$", text)
    return f"[a text of {len(text)} characters{', ' + ending[0] if ending else ''}]"


def _clean(text: str) -> str:
    """The text without secrets, mail addresses, what URLs name, and folders: of a path its last name stays."""
    text = URL.sub(r"\g<1>[address]", redact(text).replace(str(Path.home()), "~"))
    return FOLDERS.sub("[folder]/", ADDRESS.sub("[address]", text))
