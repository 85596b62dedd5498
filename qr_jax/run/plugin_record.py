"""A run's plug-ins: RUN/plugins.json has every setting with its default, and the SHA-256 of a user's code."""

import ast
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from qr_jax import plugins
from qr_jax.config import PLUGIN_AT, Config, every_plugin
from qr_jax.interfaces import CONTRACTS
from qr_jax.settings.settings import Use, differences, plain

FILE = "plugins.json"
INSTALLED = frozenset(("site-packages", "dist-packages"))  # folders of installed packages

# kind (or "tool NAME") -> name, settings and, for a user's file, sha256 and `earlier` hashes
Record = Mapping[str, Mapping[str, Any]]


def record(config: Config, before: Record) -> dict[str, dict[str, Any]]:
    """Describe each plug-in of a config: its name, all its settings, and the SHA-256 of code outside qr_jax.

    Hashes that `before`, the record of an earlier attempt, has of the same plug-in are kept as `earlier`, in order.
    """
    described = {}
    for kind, chosen in every_plugin(config):
        name = f"tool {chosen.name}" if kind == "tool" else kind
        described[name] = {"name": chosen.name, "settings": settings_of(kind, chosen)}
        if code := code_sha256(kind, chosen.name):
            known = before.get(name, {})
            earlier = [*known.get("earlier", ()), *filter(None, [known.get("sha256")])]
            described[name] |= {"sha256": code, "earlier": [sha256 for sha256 in earlier if sha256 != code]}
    return described


def settings_of(kind: str, chosen: Use) -> dict[str, Any]:
    """Return all settings of a plug-in that a config can hold, defaults among them, as JSON holds them."""
    held = plugins.signature(kind, chosen.name).settings
    given = plugins.settings_of(kind, chosen)
    names = [name for name, setting in held.items() if setting.type is not Any and name not in CONTRACTS[kind].provided]
    return {name: plain(given[name]) for name in names}


def code_sha256(kind: str, name: str) -> str | None:
    """Return the SHA-256 of a plug-in outside qr_jax: of its file and of those of the user's that it imports.

    None for one of qr_jax's own.
    """
    home = plugins.home(kind, name)
    if home.__name__.partition(".")[0] == plugins.ROOT.name or not (file := inspect.getsourcefile(home)):
        return None
    first = Path(file).resolve()
    total = hashlib.sha256(first.read_bytes())
    for other in sorted(_imported(home, first)):
        total.update(other.read_bytes())
    return total.hexdigest()


def _imported(home: ModuleType, file: Path) -> set[Path]:
    """Return the files that a user's module imports, and those that they import, from the folder it is found in.

    Neither qr_jax's own are followed nor, of an installed module, other packages.
    """
    above = list(file.parents)
    root = above[min(home.__name__.count(".") + (file.name == "__init__.py"), len(above) - 1)]
    own, installed = home.__name__.partition(".")[0], not INSTALLED.isdisjoint(root.parts)
    found: set[Path] = set()
    left = [(home.__name__, file)]
    while left:
        name, path = left.pop()
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # a file that is not imported after all, or under a try
            continue
        for wanted in _names(tree, package):
            top = wanted.partition(".")[0]
            if top == plugins.ROOT.name or installed and top != own:
                continue
            if (other := _file_of(wanted, root)) and other != file and other not in found:
                found.add(other)
                left.append((wanted, other))
    return found


def _names(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the full names of modules that a file of `package` may import; `from a import b` gives a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (name for name in (base, *(f"{base}.{alias.name}" for alias in node.names)) if name)


def _file_of(name: str, root: Path) -> Path | None:
    """Return the file of a module that lies under `root`; nothing is imported."""
    for path in (root.joinpath(*name.split("."), "__init__.py"), root.joinpath(*name.split(".")).with_suffix(".py")):
        if path.is_file() and INSTALLED.isdisjoint(path.relative_to(root).parts):
            return path
    return None


def changed_code(before: Record, now: Record) -> list[str]:
    """List the plug-ins, as in "rule 'mine.rule'", whose code is another than an earlier attempt's."""
    kept = {kind: said for kind, said in before.items() if isinstance(said, Mapping)}  # a stranger's file may lie
    return [
        f"{kind} {known['name']!r}"
        for kind, known in now.items()
        if known.get("sha256") and kept.get(kind, known).get("name") == known["name"]
        if kept.get(kind, known).get("sha256", known["sha256"]) != known["sha256"]
    ]


def differing_settings(begun: Config, before: Record, config: Config, now: Record) -> list[str]:
    """List "name: 1 there, 2 here" of each setting in which a run that was begun differs from a config.

    For the same plug-in all settings are compared, defaults too: the run's are those of `before` or, without a record,
    those in its config and today's defaults. A setting that is new in the plug-in counts as its default there.
    """
    there, ours = plain(begun), plain(config)
    for kind, known in now.items():
        if kind not in PLUGIN_AT:  # a tool: what the config gives it is compared below, as it stands there
            continue
        section = PLUGIN_AT[kind].partition(".")[0] if "." in PLUGIN_AT[kind] else ""
        parts = [tree[section] if section else tree for tree in (there, ours)]
        if parts[0][kind]["name"] == parts[1][kind]["name"]:
            kept = before.get(kind, {}).get("settings", known["settings"])
            held = plugins.signature(kind, known["name"]).settings
            usual = {name: plain(held[name].default) for name in known["settings"]}
            parts[0][kind]["settings"] = {**usual, **kept, **parts[0][kind]["settings"]}
            parts[1][kind]["settings"] = dict(known["settings"])
    return differences(there, ours)
