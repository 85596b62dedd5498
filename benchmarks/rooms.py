"""The package's shape at some commits, counted from the syntax trees: circles, functions, names, lines by room.

python -m benchmarks.rooms 3f55909 84e980b HEAD     # a table in Markdown
"""

import argparse
import ast
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

PACKAGE, TOP = "qr_jax", "the top"
CORE = {"settings", "run", "logging", "pool", "data", "learner", "step", "rollout", "models", "parallel", "evaluation"}
CORE |= {"envs", "rewards", "retrievers"}  # and the modules at the top; before the moves a room lay elsewhere
CLAUSES = {"What", "Who", "Whose", "How", "Which", "Whether", "Where"}
VAGUE = {"one", "made", "found", "of", "here", "some"}  # names for things that have a name
JSON = re.compile(r"\bjson\.(loads?\(|JSONDecoder)")
EXIT_CODE = re.compile(
    r"exit\([1-9]|SystemExit\([1-9]|128 \+|^(?=[A-Z_, ]*(FAILED|INTERRUPTED|EXIT))[A-Z_, ]+ = [\d, ]+", re.M
)
Trees = Mapping[str, ast.Module]  # path in the repository -> its syntax tree
STEP = ("take_step", "train_one")  # a training step's function, by its name at different commits; it stands in train.py
CALLS = 2  # calls that a reader of the step follows
FLOOR = (
    "parallel",
    "processes",
    "logging",
    "settings",
    "models",
)  # rooms whose functions a reader takes at their names


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="+", metavar="COMMIT")
    commits = parser.parse_args(words).commits
    columns = [figures(commit) for commit in commits]
    names = [git("rev-parse", "--short", commit).strip() for commit in commits]
    print(f"| | {' | '.join(names)} |\n{'|---' * (len(names) + 1)}|")
    for row in dict.fromkeys(name for column in columns for name in column):
        print(f"| {row} | {' | '.join(column.get(row, '') for column in columns)} |")
    return 0


def git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout


def figures(commit: str) -> dict[str, str]:
    """What the table says of one commit."""
    paths = [path for path in git("ls-tree", "-r", "--name-only", commit, PACKAGE).split() if path.endswith(".py")]
    texts = {path: git("show", f"{commit}:{path}") for path in paths if not path.startswith(f"{PACKAGE}/configs")}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    lengths = sorted(functions(trees), reverse=True)
    size, where = lengths[0]
    median = statistics.median(size for size, _ in lengths)
    circles = in_circles(imports(trees))
    rooms: Counter[str] = Counter()
    for path, text in texts.items():
        rooms[room(path)] += text.count("\n")
    return {
        "import circles (files in them)": f"{len(circles)} ({sum(map(len, circles))})",
        "modules at the top of the package": str(sum(len(PurePosixPath(path).parts) == 2 for path in texts)),
        "functions: median and longest, in lines": f"{median:.0f} and {size} ({where})",
        f"local names {', '.join(sorted(VAGUE))}": str(vague(trees)),
        f"modules within {CALLS} calls of a step": str(len(opened(trees))),
        "docstrings that begin with a relative clause": f"{begin(trees, CLAUSES)} of {begin(trees)}",
        "docstrings of functions that begin with an article": str(begin(trees, {"A", "An", "The"}, functions=True)),
        "modules that parse JSON": str(sum(bool(JSON.search(text)) for text in texts.values())),
        "modules that have exit codes as numbers": str(sum(bool(EXIT_CODE.search(text)) for text in texts.values())),
        "lines in all": f"{sum(rooms.values()):,}",
        "lines of the core": f"{sum(rooms[name] for name in rooms if name.strip('/') in CORE or name == TOP):,}",
        **{f"lines of {name}": f"{count:,}" for name, count in sorted(rooms.items())},
    }


def room(path: str) -> str:
    parts = PurePosixPath(path).parts
    return f"{parts[1]}/" if len(parts) > 2 else TOP


def begin(trees: Trees, words: Collection[str] = (), *, functions: bool = False) -> int:
    """Count the docstrings whose first word is one of these (of no words: all), with `functions` those of functions."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef) + (() if functions else (ast.ClassDef, ast.Module))
    nodes = (node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, kinds))
    first = [text.split()[0] for node in nodes if (text := ast.get_docstring(node))]
    return sum(word in words for word in first) if words else len(first)


def functions(trees: Trees) -> Iterator[tuple[int, str]]:
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield (node.end_lineno or node.lineno) - node.lineno + 1, f"`{PurePosixPath(path).stem}.{node.name}`"


def vague(trees: Trees) -> int:
    """How often a name of VAGUE is given a value."""
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    stored = sum(isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store) and n.id in VAGUE for n in nodes)
    return stored + sum(isinstance(node, ast.arg) and node.arg in VAGUE for node in nodes)


def imports(trees: Trees) -> dict[str, set[str]]:
    """The package's modules that each module imports, inside functions too."""
    known = {module(path) for path in trees}
    every: dict[str, set[str]] = {}
    for path, tree in trees.items():
        named = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inside = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= {name if name in known else node.module for name in inside}
        every[module(path)] = named & known - {module(path)}
    return every


Function = ast.FunctionDef | ast.AsyncFunctionDef


def opened(trees: Trees, calls: int = CALLS) -> list[str]:
    """List the modules that one opens to follow a training step on the host, its own among them.

    These are the modules with a function that the step's function (STEP, in train.py) reaches within `calls` calls. A
    function reaches each one that it names, to call it or to pass it on: of its own module, imported, or of an imported
    module. By `x.name` it reaches the method `name`, if exactly one class among those of the modules that its file
    imports has such a method. Making an object reaches nothing. Functions of the rooms in FLOOR are not followed, and
    what stands inside a function belongs to it.
    """
    code: dict[str, dict[str, Function]] = {}  # module -> its functions by name, and its methods by "Class.name"
    for path, tree in trees.items():
        code[module(path)] = {node.name: node for node in tree.body if isinstance(node, Function)}
        for kind in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            code[module(path)] |= {f"{kind.name}.{node.name}": node for node in kind.body if isinstance(node, Function)}
    needs = imports(trees)
    meant = {module(path): meanings(tree, code) for path, tree in trees.items()}
    last = {(f"{PACKAGE}.train", name) for name in STEP if name in code[f"{PACKAGE}.train"]}
    seen = set(last)
    for _ in range(calls):
        last = {to for where, name in last for to in named(code[where][name], where, code, needs, meant[where])} - seen
        seen |= last
    return sorted({where for where, _ in seen})


def meanings(tree: ast.Module, code: Mapping[str, Mapping[str, Function]]) -> dict[str, tuple[str, str]]:
    """Return what a file's imported names stand for: (module, function), and (module, "") for a module."""
    meant = {}
    for node in ast.walk(tree):
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            whole = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else ""
            is_module = whole in code
            meant[alias.asname or alias.name] = (whole, "") if is_module else (whole.rpartition(".")[0], alias.name)
    return meant


def named(
    function: Function,
    where: str,
    code: Mapping[str, Mapping[str, Function]],
    needs: Mapping[str, set[str]],
    meant: Mapping[str, tuple[str, str]],
) -> Iterator[tuple[str, str]]:
    """Yield the functions, as (module, name), that a function of the module `where` names; none of FLOOR."""
    for node in ast.walk(function):
        to = ("", "")
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            to = (where, node.id) if node.id in code[where] else meant.get(node.id, to)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in meant:
            to = (meant[node.value.id][0], node.attr)
        elif isinstance(node, ast.Attribute):
            own = [(m, n) for m in {where} | needs[where] for n in code[m] if n.endswith(f".{node.attr}")]
            to = own[0] if len(own) == 1 else to
        if to[1] in code.get(to[0], {}) and to[0].split(".")[1] not in FLOOR:
            yield to


def module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def in_circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """The sets of modules that import each other."""

    def reached(start: str) -> set[str]:
        seen, left = set(), [start]
        while left:
            new = graph[left.pop()] - seen
            seen |= new
            left += new
        return seen

    reach = {name: reached(name) for name in graph}
    circles = {
        frozenset(other for other in reach[name] if name in reach[other]) for name in graph if name in reach[name]
    }
    return [set(circle) for circle in circles]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
