"""The command that says what can be set: `qr-jax settings`."""

import argparse
import shutil
import textwrap
from dataclasses import asdict
from typing import Any

from qr_jax.cli.commands.options import add_json, show


def add(command: Any) -> None:
    """Add its parser, as `cli.make_parser` adds those of the other commands."""
    text = "every setting with its type, its default and what it means"
    settings = command("settings", _settings, text)
    text = "a section (pool), a kind of plug-in (rule), a plug-in (foresee; rule=my_lab.ideas.mine) or a setting"
    text += " (pool.samples); else all"
    settings.add_argument("what", nargs="?", metavar="SECTION", help=text)
    add_json(settings)


def _settings(arguments: argparse.Namespace) -> int:
    from qr_jax.cli import meanings

    found = meanings.chosen(arguments.what) if arguments.what else meanings.sections()
    return show([asdict(section) for section in found], arguments.json, format_sections)


def format_sections(sections: list[dict[str, Any]]) -> str:
    """Format each section's settings with defaults as they are typed, and types; below each what it means."""
    width = min(shutil.get_terminal_size().columns, 120)
    wrap = textwrap.TextWrapper(width, initial_indent="      ", subsequent_indent="      ", break_on_hyphens=False)
    lines = []
    for section in sections:
        lines.append(f"{section['name'] or 'the run'}: {section['about']}")
        for setting in section["settings"]:
            default = setting["default"].replace("\n", "\\n")
            lines.append(f"  {setting['name']}={default}  ({setting['type']})")
            lines += wrap.wrap(setting["meaning"])
        lines.append("")
    return "\n".join([*lines, "Type setting=value after a config: qr-jax train CONFIG pool.samples=8"])
