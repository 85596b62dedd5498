"""A run's bug report for a stranger: config and numbers, without secrets, data, paths and prompts."""

import collections
import dataclasses
import functools
import json
import re
import stat
import typing
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qr_jax import plugins
from qr_jax.cli.commands import doctor
from qr_jax.config import Config
from qr_jax.lab import run_folders
from qr_jax.logging import metrics_writer
from qr_jax.logging.secrecy import redact
from qr_jax.models import families
from qr_jax.run import run_files
from qr_jax.settings import json_text

LAST_LINES = 500  # of metrics
# What this program writes into a run, and a checkpoint's arrays, which Orbax names. Other names may say whose they are.
FILES = r"(config|base|before|evaluation|summary|probe|comparison)\.json|(metrics|ledger)\.jsonl|run\.lock"
FILES += r"|(report|overlay|compare)\.html|compare\.(log|lock)|episodes/step_\d{6,9}\.jsonl"
CHECKPOINT = r"checkpoints/step_\d{8,9}/"
OURS = re.compile(
    rf"(sft/)?(({FILES}|{CHECKPOINT}(COMMITTED|manifest\.json|host\.json|host\.npz))(\.new|\.tmp)?"
    rf"|logs/(attempt_\d{{1,6}}/started|attempt_\d{{1,6}}/discarded/({FILES})|replaced_\d{{1,6}}/({FILES})))",
    re.ASCII,
)
ARRAYS = re.compile(rf"(sft/)?{CHECKPOINT}state/", re.ASCII)
PLAIN = re.compile(r"[\w-]{0,40}")  # a setting's name
METRIC = re.compile(r"[\w/@.-]{1,80}")  # a metric's
ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")
URL = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]*://)[^\s\"'<>]+")
FOLDERS = re.compile(
    r"(?<![\w.~:/])(?:~?/|[A-Za-z]:\\\\?)(?:[^\s\"'/\\:,;]+(?:/|\\\\?))+"
)  # all of a path but its last name


def write(run: Path, out: Path | None = None) -> tuple[Path, list[str]]:
    """Write the zip file; its path, and the names of the files in it. ValueError for a folder that is no run."""
    run_files.check_there(run)
    path = out or place(run)
    parts = dict(_parts(run))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in parts.items():
            packed.writestr(name, clean(text))
    return path, list(parts)


def place(run: Path) -> Path:
    """Return the default path of the zip file: beside the run."""
    whole = run.resolve()  # the name of "." is empty
    return (run if run.name == whole.name else whole).with_name(f"{whole.name}.bug_report.zip")


def _parts(run: Path) -> Iterator[tuple[str, str]]:
    yield "doctor.json", json.dumps(doctor.examine(), indent=2)
    yield "config.json", _config((run / "config.json").read_text(encoding="utf-8", errors="replace"))
    yield "files.txt", "\n".join(_listed(run))
    if (run / metrics_writer.FILE).is_file():
        lines = run_files.lines(run / metrics_writer.FILE, last=LAST_LINES)
        yield metrics_writer.FILE, "\n".join(map(_numbers, collections.deque(lines, LAST_LINES)))


def _listed(run: Path) -> list[str]:
    """List each file's size, and its name if this program gave it, so that missing and cut-off files show."""
    found = []
    for place, _, files in run_folders.walk(run):
        for path in (place / name for name in files):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                found.append((_named(path.relative_to(run).as_posix()), status.st_size))
    return [f"{size:>12} {name}" for name, size in sorted(found)]


def _named(name: str) -> str:
    """Return a file's name where this program gave it; of a checkpoint's arrays, their folder."""
    if OURS.fullmatch(name):
        return name
    arrays = ARRAYS.match(name)
    return f"{arrays[0]}..." if arrays else "another file"


def _config(text: str) -> str:
    """Return the settings as JSON, every text that is not in `_words` replaced by its length and file ending."""
    try:
        return json.dumps(_plain(json_text.parse(text)), indent=2)
    except (ValueError, RecursionError):
        return f"no JSON, {len(text)} characters"


def _numbers(line: bytes) -> str:
    """Return the numbers of a line of metrics, by name."""
    try:
        row = json_text.parse(line)
        told = (one for one in row.items() if METRIC.fullmatch(one[0]) and not isinstance(one[1], str | list | dict))
        return json.dumps(dict(told))
    except (ValueError, AttributeError):
        return f"no row of metrics, {len(line)} bytes"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name if PLAIN.fullmatch(name) else _told(name): _plain(held) for name, held in value.items()}
    if isinstance(value, list):
        return [_plain(held) for held in value]
    return value if not isinstance(value, str) or value in _words() else _told(value)


@functools.cache
def _words() -> frozenset[str]:
    """Collect the texts that reveal nothing about the user: names of plug-ins and presets, and fixed choices."""
    named = {name for kind in plugins.CONTRACTS for name in plugins.names(kind)}
    return frozenset({"", *named, *families.PRESETS, *families.HUB_NAMES, *_choices(Config)})


def _choices(kind: Any) -> Iterator[str]:
    """Return the texts of all Literals in a dataclass's types, and in those of its parts."""
    if dataclasses.is_dataclass(kind):
        for part in typing.get_type_hints(kind).values():
            yield from _choices(part)
    for part in typing.get_args(kind):
        yield from [part] if isinstance(part, str) else _choices(part)


def _told(text: str) -> str:
    ending = re.search(r"(?:\.(?:jsonl?|gz|py|parquet|csv|txt|safetensors|gguf))+$", text[-80:])
    return f"[a text of {len(text)} characters{', ' + ending[0] if ending else ''}]"


def clean(text: str) -> str:
    """Return the text without secrets, mail addresses, what URLs name, and folders: of a path its last name stays."""
    text = URL.sub(r"\g<1>[address]", redact(text).replace(str(Path.home()), "~"))
    return FOLDERS.sub("[folder]/", ADDRESS.sub("[address]", text))
