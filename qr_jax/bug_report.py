"""What a stranger needs to find a fault in a run: its config and numbers, without secrets, questions or answers."""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from qr_jax import metrics_writer
from qr_jax.commands import doctor
from qr_jax.secrecy import redact

LAST_LINES = 500  # of metrics
ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")


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
    yield "config.json", (run / "config.json").read_text(encoding="utf-8", errors="replace")
    yield "files.txt", "\n".join(_listed(run))
    if (run / metrics_writer.FILE).is_file():
        lines = (run / metrics_writer.FILE).read_text(encoding="utf-8", errors="replace").splitlines()
        yield metrics_writer.FILE, "\n".join(lines[-LAST_LINES:])


def _listed(run: Path) -> list[str]:
    """Each file's size and name: what is there, what is missing, what is cut off."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and not path.is_symlink())
    return [f"{path.stat().st_size:>12} {path.relative_to(run)}" for path in files]


def _clean(text: str) -> str:
    """The text without secrets, mail addresses and the user's home."""
    return ADDRESS.sub("[address]", redact(text).replace(str(Path.home()), "~"))
