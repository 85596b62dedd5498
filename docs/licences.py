"""Write licences.md beside this file: the licence of every package that qr_jax brings, as the packages themselves say.

make licences
"""

import importlib.metadata
import re
from collections.abc import Iterable
from pathlib import Path

PACKAGE = "qr_jax"
WRITTEN = Path(__file__).with_name("licences.md")
HEAD = """# Licences

Every package that `pip install -e '.[dev,docs,bucket]'` brings, with the licence that its metadata names. "program":
the program needs it; "extra": an extra alone does. `make licences` writes this; [dependencies.md](dependencies.md)
says what the packages that we ask for do here.

| package | for | licence |
|---|---|---|
"""


def name_of(text: str) -> str:
    """A package's name as the index spells it: ml-dtypes of "ml_dtypes"."""
    return re.sub(r"[-_.]+", "-", text).lower()


def brought(package: str, extras: Iterable[str]) -> set[str]:
    """The installed packages that a package with those extras asks for, and those that these ask for."""
    found, waiting = set(), [(package, tuple(extras))]
    while waiting:
        name, wanted = waiting.pop()
        for requirement in importlib.metadata.requires(name) or []:
            needed, more = re.findall(r"^([\w.-]+)(?:\[([\w,-]+)\])?", requirement)[0]
            for_extra = re.findall(r"extra == ['\"]([\w-]+)", requirement)
            key = (name_of(needed), tuple(more.split(",")))
            if key in found or (for_extra and not set(for_extra) & set(wanted)) or not is_here(needed):
                continue
            found.add(key)
            waiting.append(key)
    return {name for name, _ in found} - {name_of(package)}


def is_here(package: str) -> bool:
    """Whether it is installed; what is of another system is not."""
    try:
        return bool(importlib.metadata.distribution(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def licence(package: str) -> str:
    """What a package's metadata says: an SPDX expression, the names of its classifiers, or its first line of text."""
    about = importlib.metadata.metadata(package)
    named = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    text = (about.get("License") or "").strip().splitlines() or ["not said"]
    return about.get("License-Expression") or ", ".join(named) or text[0][:80]


def main() -> None:
    extras = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    program, every = brought(PACKAGE, ()), brought(PACKAGE, extras)
    rows = [f"| {name} | {'program' if name in program else 'extra'} | {licence(name)} |" for name in sorted(every)]
    WRITTEN.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"{WRITTEN}: {len(rows)} packages")


if __name__ == "__main__":
    main()
