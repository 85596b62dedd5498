"""What `make docs` builds: pages of Markdown, and reference pages that reference.py writes from the code each time."""

import sys
import tomllib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]  # reference.py, and the benchmarks whose tables it writes

import reference  # noqa: E402

project = "qr_jax"
copyright = "the authors of qr_jax, Apache-2.0"
release = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "generated/elsewhere.md"]  # the latter is a part of coming_from.md
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures with shapes are too long to be read; the arguments' names say the shapes
html_theme = "furo"
html_title = f"qr_jax {release}"
html_static_path = ["_static"]
html_extra_path = ["generated/html"]  # whole pages, copied as they are: the gallery
html_css_files = ["wide_tables.css"]
html_show_sourcelink = False


def setup(app: Any) -> None:
    reference.write(FOLDER / "generated")
    app.connect("source-read", _links_within)
    app.connect("autodoc-process-docstring", _plain_docstring)


def _links_within(app: Any, name: str, source: list[str]) -> None:
    """Links to the repository's other pages of Markdown lead to their copies among the HTML."""
    source[0] = reference.links_within(source[0])


def _plain_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings of qr_jax are plain text, and Sphinx reads reStructuredText: what would be markup there is escaped."""
    lines[:] = reference.as_restructured(lines)
