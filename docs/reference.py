"""The reference pages, written from the code: settings, plug-ins, commands, metrics, and the API by rooms."""

import argparse
import ast
import inspect
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from qr_jax import config, plugins
from qr_jax.cli import cli, elsewhere, meanings, overrides
from qr_jax.config import PLUGIN_AT
from qr_jax.interfaces import CONTRACTS
from qr_jax.lab.report import page as report
from qr_jax.logging import metrics

PACKAGE = Path(config.__file__).parent
COLUMNS = "100"  # of the commands' help
# Pages of the repository outside docs/, of which the HTML has copies.
OUTSIDE = {"SECURITY.md": "security", "LOG.md": "log", "benchmarks/README.md": "benchmarks"}
OUTSIDE |= {"CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog"}


def write(folder: Path) -> None:
    """Every page into the folder; a page that is there already and says the same is left, so that Sphinx skips it."""
    pages = {"settings": settings(), "plugins": plugin_settings(), "commands": commands(), "metrics": metric_names()}
    pages |= {"elsewhere": foreign_names(), "tables": result_tables(), "faults": faults()}
    root = Path(__file__).resolve().parent.parent
    for path, name in OUTSIDE.items():
        text = (root / path).read_text(encoding="utf-8")
        pages[name] = re.sub(
            r"\]\(([A-Z]+)\.md\)", lambda link: f"]({link[1].lower()}.md)", text.replace("](docs/", "](../")
        )
    pages |= {f"api/{name}": page for name, page in api().items()}
    pages = {f"{name}.md": text for name, text in pages.items()} | gallery()
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def gallery() -> dict[str, str]:
    """Return the reports of the gallery's runs, drawn anew from what is kept of each."""
    from benchmarks.gallery import RUNS, kept  # inside: it needs what the benchmarks need

    reports = {name: kept(name) for name in RUNS}
    return {
        f"html/gallery/{name}.html": report.of_data({**one["run"], "name": f"gallery: {name}"}, one["episodes"])
        for name, one in reports.items()
    }


def links_within(text: str) -> str:
    """A page of docs/ whose links to OUTSIDE lead to the copies."""
    for path, name in OUTSIDE.items():
        text = text.replace(f"](../{path})", f"](generated/{name}.md)")
    return text


# ---- settings


def settings() -> str:
    """Every setting of the config: its name, type and default, and what its comment says."""
    parts = ["# Settings\n\nMade from `qr_jax/config.py`. Any of them can be typed after a config: `learner.lr=1e-3`.\n"
             "A plug-in's own settings stand in [plug-ins](plugins.md).\n"]  # fmt: skip
    for section in meanings.sections():
        if not section.plugin:
            parts.append(f"## {section.name or 'The run'}\n\n{plain(section.about)}\n\n" + _rows(section))
    return "\n".join(parts)


def plugin_settings() -> str:
    """Every plug-in there is, with what its docstrings say and its settings."""
    parts = ["# Plug-ins\n\nMade from the files of each kind's folder. How to write your own: "
             "[extending](../extending/index.md).\n"]  # fmt: skip
    sections = {section.name: section for section in meanings.sections() if section.plugin}
    for kind, contract in CONTRACTS.items():
        folders = " and ".join(f"qr_jax/{folder}/" for folder in contract.folders)
        parts.append(f"## {kind}: {folders}\n\nReturns {plain(contract.returns)}.\n")
        for name in plugins.names(kind):
            tree = ast.parse(inspect.getsource(plugins.home(kind, name)))
            function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
            parts.append(f"### {name} ({kind})\n\n{plain(ast.get_docstring(tree) or '')}\n")
            parts.append(plain(ast.get_docstring(function) or "") + "\n")
            parts.append(_rows(sections[f"{PLUGIN_AT[kind]}={name}"]))
    return "\n".join(parts)


def _rows(section: meanings.Section) -> str:
    rows = [(one.name, one.type, one.default, one.meaning) for one in section.settings]
    return table(("setting", "type", "default", "meaning"), rows) if rows else ""


# ---- commands and metrics


def commands() -> str:
    """The help of every command, as `qr-jax COMMAND --help` prints it."""
    parts = ["# Commands\n\nMade from the program's own parser: `qr-jax COMMAND --help` prints the same.\n"]
    with mock.patch.dict(os.environ, {"COLUMNS": COLUMNS}):
        for name, parser in sorted(leaves(cli.make_parser(), "")):
            parts.append(f"## {name}\n\n```text\n{parser.format_help()}```\n")
    return "\n".join(parts)


def leaves(parser: argparse.ArgumentParser, before: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands that run, with their words: `data check`, not `data`."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield before.strip(), parser
    for action in inner:
        for name, part in action.choices.items():
            yield from leaves(part, f"{before} {name}")


def metric_names() -> str:
    """Every metric of metrics.jsonl, by its area."""
    parts = ["# Metrics\n\nMade from `qr_jax/logging/metrics.py`: what `metrics.jsonl`, TensorBoard and W&B get.\n"]
    areas: dict[str, list[tuple[str, ...]]] = {}
    for name, metric in metrics.NAMES.items():
        areas.setdefault(name.split("/")[0], []).append((name, metric.unit, metric.meaning))
    for area, rows in areas.items():
        parts.append(f"## {area}\n\n" + table(("metric", "unit", "meaning"), rows))
    return "\n".join(parts)


def foreign_names() -> str:
    """What other systems call a setting, and its name here; part of a page."""
    both = {**overrides.ALIASES, **elsewhere.SETTINGS}
    rows = [(theirs, *ours.partition(": ")[::2]) for theirs, ours in sorted(both.items())]
    return table(("elsewhere", "here", "meaning"), rows)


def result_tables() -> str:
    """Every table that benchmarks/results gives, under what makes it."""
    from benchmarks import figures  # inside: it needs what the benchmarks need

    parts = ["# Tables of all results\n\n`python -m benchmarks.figures NAME` prints one of them.\n"]
    for name, made in figures.TABLES.items():
        parts.append(f"## {name}\n\n{plain(figures.about(name))}\n\n{made()}{measured_at(name)}")
    return "\n".join(parts)


def measured_at(name: str) -> str:
    """Say the commits at which the result of this name was measured; nothing if several results make the table."""
    results = Path(__file__).resolve().parent.parent / "benchmarks/results"
    files = [*results.glob(f"{name}.json"), *sorted((results / name).rglob("*.json"))]
    found = Counter(at for file in files for at in re.findall(r'"commit": "([0-9a-f]{8})', file.read_text("utf-8")))
    told = ", ".join(f"`{at}`" + f" ({count} runs)" * (count > 1) for at, count in found.items())
    return f"\nMeasured at {told}.\n" if told else ""


def faults() -> str:
    """What goes wrong, what then happens, and the tests that inject it (tests/faults.json)."""
    told = json.loads((Path(__file__).resolve().parent.parent / "tests/faults.json").read_text(encoding="utf-8"))
    rows = ["| what goes wrong | what happens | tests |", "|---|---|---|"]
    for row in told:
        rows.append(f"| {row['what']} | {row['becomes']} | {', '.join(f'`{test}`' for test in row['tests'])} |")
    return "# What goes wrong, and what is lost\n\nEach row is injected by its tests.\n\n" + "\n".join(rows) + "\n"


# ---- the API


def api() -> Mapping[str, str]:
    """A page a room: the modules of each folder of the package, by autodoc; private modules are left out."""
    rooms: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        if place.parts[0] not in ("configs", "__init__.py") and not path.stem.startswith("_"):
            room = "core" if len(place.parts) == 1 else place.parts[0]
            rooms.setdefault(room, []).append(".".join(("qr_jax", *place.with_suffix("").parts)))
    pages = {}
    for room, modules in rooms.items():
        title = "# qr_jax: the core\n" if room == "core" else f"# qr_jax.{room}\n"
        each = (f"## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```\n" for module in modules)
        pages[room] = "\n".join([title, *each])
    listed = "\n".join(sorted(pages))
    about = "Public functions and classes with their docstrings, a page a folder of the package."
    pages["index"] = f"# API\n\n{about}\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    return pages


def as_restructured(lines: Sequence[str]) -> list[str]:
    """A docstring's lines of plain text so that reStructuredText shows them as they are: `code` becomes ``code``.

    Indented blocks, which are commands and examples, become literal ones.
    """
    found: list[str] = []
    literal = False
    for line in lines:
        if line.startswith("    ") and not literal and (not found or not found[-1].strip()):
            literal = True
            found += ["::", ""]
        elif line.strip() and not line.startswith("    "):
            literal = False
        found.append(line if literal else re.sub(r"^([-+])(?= )", r"\\\1", _escaped(line.strip())))
    return found


def _escaped(line: str) -> str:
    parts = line.split("`")
    if len(parts) % 2 == 0:  # a code that goes on in the next line
        return re.sub(r"([\\*_|`])", r"\\\1", line)
    for at, part in enumerate(parts):
        outside = re.sub(r"([\\*_|])", r"\\\1", part)
        parts[at] = outside if at % 2 == 0 else f"``{part}``" if part.strip() == part and part else outside
    return "".join(_apart(parts))


def _apart(parts: Sequence[str]) -> Iterator[str]:
    """Code is kept apart from what reStructuredText does not let touch it: letters, and behind it most signs."""
    for at, part in enumerate(parts):
        if part.startswith("``") and at and parts[at - 1] and re.search(r"[\w\\]$", parts[at - 1]):
            yield "\\ "
        yield part
        if part.startswith("``") and at + 1 < len(parts) and re.match(r"[^\s'\")\]}>\-/:.,;!?\\]", parts[at + 1]):
            yield "\\ "


# ---- Markdown


def plain(text: str) -> str:
    """Plain text as Markdown that shows it as it is."""
    parts = re.sub(r"^([-+#])(?= )", r"\\\1", text, flags=re.MULTILINE).split("`")
    return "`".join(re.sub(r"([*_<>\[\]|])", r"\\\1", part) if at % 2 == 0 else part for at, part in enumerate(parts))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table whose columns are code, but for those of words."""
    words = {"type", "meaning", "unit"}
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [
            _cell(plain(str(value)) if name in words else f"`{value}`" if value else "")
            for name, value in zip(head, row, strict=True)
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text).replace("\n", " ")
