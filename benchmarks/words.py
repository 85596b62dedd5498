"""Words of each page of docs/ and of LOG.md at some commits, and of them those that no command writes.

python -m benchmarks.words ac3fe20a HEAD

A word has a letter or a digit: the bars of a table are none; commands and code count, HTML comments do not.
"""

import re
import sys

from benchmarks.rooms import git
from benchmarks.tables import markdown

TABLE = re.compile(r"<!-- (\w+): python -m .*?<!-- end of \1 -->", re.DOTALL)  # of results
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)  # which no reader sees
LICENCES = "docs/licences.md"  # `make licences` writes it


def counted(commit: str) -> dict[str, tuple[int, int]]:
    """Return each page's words, and those that are typed by hand; ValueError at a commit without the pages."""
    paths = git("ls-tree", "-r", "--name-only", commit, "docs", "LOG.md").split()
    texts = {path: git("show", f"{commit}:{path}") for path in paths if path.endswith(".md")}
    typed = {path: "" if path == LICENCES else COMMENT.sub("", TABLE.sub("", text)) for path, text in texts.items()}
    found = {path: (words(texts[path]), words(typed[path])) for path in texts}
    pages = [both for path, both in found.items() if path.startswith("docs/")]
    return found | {"docs/ together": (sum(every for every, _ in pages), sum(own for _, own in pages))}


def words(text: str) -> int:
    return len(re.findall(r"\S*\w\S*", text))


if __name__ == "__main__":
    columns = [counted(commit) for commit in sys.argv[1:]]
    rows = [(name, *("{:,} ({:,})".format(*column.get(name, (0, 0))) for column in columns)) for name in columns[-1]]
    print(markdown([("page: words (by hand)", *sys.argv[1:]), *rows]), end="")
