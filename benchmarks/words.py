"""Words of each page of docs/ and of LOG.md at some commits, and of them those that no command writes.

python -m benchmarks.words ac3fe20a HEAD
"""

import argparse
import re

from benchmarks.rooms import git
from benchmarks.tables import markdown

WRITTEN = re.compile(r"<!-- (\w+): python -m .*?<!-- end of \1 -->", re.DOTALL)  # tables of results
LICENCES = "docs/licences.md"  # `make licences` writes all of it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="+", metavar="COMMIT")
    columns = [counted(commit) for commit in parser.parse_args().commits]
    names = sorted({name for column in columns for name in column}) + ["docs/ together"]
    for column in columns:
        pages = [both for name, both in column.items() if name.startswith("docs/")]
        column["docs/ together"] = sum(words for words, _ in pages), sum(own for _, own in pages)
    cells = [
        [f"{words:,} ({own:,})" for words, own in (column.get(name, (0, 0)) for column in columns)] for name in names
    ]
    print(
        markdown(
            [
                ("page: words (not generated)", *parser.parse_args().commits),
                *([name, *row] for name, row in zip(names, cells, strict=True)),
            ]
        )
    )


def counted(commit: str) -> dict[str, tuple[int, int]]:
    """Return each page's words, and those of them that are typed by hand."""
    pages = [
        path for path in git("ls-tree", "-r", "--name-only", commit, "docs", "LOG.md").split() if path.endswith(".md")
    ]
    texts = {path: git("show", f"{commit}:{path}") for path in pages}
    return {
        path: (len(text.split()), 0 if path == LICENCES else len(WRITTEN.sub("", text).split()))
        for path, text in texts.items()
    }


if __name__ == "__main__":
    main()
