"""What is committed: nothing of one machine, no address where pip's index serves, no large file, few things on top."""

import ast
import functools
import re
import subprocess
import tomllib
from pathlib import Path

from mutations import MUTATIONS

ROOT = Path(__file__).resolve().parents[1]
TOP = {"pyproject.toml", "qr_jax", "configs", "tpu_scripts", "tests", "README.md"}
TOP |= {"LICENSE", "LOG.md", "Makefile", "constraints.txt", ".ci", ".gitignore", ".pre-commit-config.yaml"}
TOP |= {".github", ".gitattributes", "benchmarks", "docs", "examples", "SECURITY.md"}
TOP |= {"CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff"}
LARGEST_BYTES = 2 * 2**20
# Folders that only one machine has: homes, mounts, scratch. Written so that this line is not one itself.
MACHINE = re.compile(r"(?<![\w.])/(?:work|home|root|Users|mnt|scratch|workspace|data)/[\w.]", re.ASCII)
TEXT = {".py", ".toml", ".txt", ".md", ".yaml", ".yml", ".sh", ".json", ".jsonl", ""}


def files() -> list[Path]:
    """What git tracks or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    names = listed.stdout.decode().split("\0") if listed.returncode == 0 else []
    if not any(names):  # an unpacked archive, without git
        skipped = {".venv", ".git", "runs", "build", "dist"}
        return [p for p in ROOT.rglob("*") if p.is_file() and not skipped & set(p.relative_to(ROOT).parts)]
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_the_top_level_is_what_a_build_needs():
    found = {path.relative_to(ROOT).parts[0] for path in files()}
    assert found - TOP == set()
    assert {
        "pyproject.toml",
        "qr_jax",
        "configs",
        "tpu_scripts",
        "tests",
        "Makefile",
        "constraints.txt",
        "LICENSE",
    } <= found
    assert any(path.stat().st_size for path in files() if path.parent == ROOT / "tpu_scripts")


def test_no_file_is_large():
    large = {
        str(path.relative_to(ROOT)): path.stat().st_size for path in files() if path.stat().st_size > LARGEST_BYTES
    }
    assert large == {}


def test_no_file_names_a_place_of_one_machine():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in files()
        if path.suffix in TEXT
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if MACHINE.search(line)
    ]
    assert found == []


def test_versions_are_pinned_by_name_and_version_alone():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.!+]+", line) for line in pins), pins
    assert pins == sorted(pins, key=lambda line: re.sub(r"[-_.]+", "-", line.split("==")[0]).lower())


def test_what_sets_up_and_tests_reaches_for_no_address():
    for name in (
        "constraints.txt",
        "Makefile",
        ".ci/run",
        "tpu_scripts/setup.sh",
        "pyproject.toml",
        ".pre-commit-config.yaml",
    ):
        text = (ROOT / name).read_text()
        assert "://" not in text, name
        assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host", text), name


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [line for line in project["dependencies"] + sum(extras.values(), []) if not line.startswith("qr_jax[")]
    names = {re.split(r"[\[<>=!~ ]", line)[0] for line in wanted}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    plain = {re.sub(r"[-_.]+", "-", name).lower() for name in pinned}
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in names} - plain == set()


def test_every_dependency_is_imported_by_the_program_and_has_its_line_in_the_docs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted, extras = (
        {re.split(r"[\[<>=]", line)[0] for line in lines if not line.startswith("qr_jax[")}
        for lines in (project["dependencies"], sum(project["optional-dependencies"].values(), []))
    )
    lines = (ROOT / "docs/dependencies.md").read_text()
    said = dict(re.findall(r"^\| ([\w-]+) \| (.+?) \|", lines, re.MULTILINE))
    assert set(said) - {"package"} == wanted | extras
    module = {"orbax-checkpoint": "orbax", "tensorflow-datasets": "tensorflow_datasets"}
    used = set().union(*(imported_by(ast.parse(path.read_text())) for path in (ROOT / "qr_jax").rglob("*.py")))
    idle = {name for name in wanted if module.get(name, name) not in used}
    assert idle == {name for name in wanted if said[name].startswith("not imported: ")}


def imported_by(tree: ast.AST) -> set[str]:
    """Packages that the code imports when it runs: those of annotations alone (TYPE_CHECKING) are left out."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            found |= imported_by(node)
    return found


def test_every_package_that_is_asked_for_or_pinned_has_its_licence_in_the_docs():
    def names(words):
        return {re.sub(r"[-_.]+", "-", word).lower() for word in words}

    rows = re.findall(
        r"^\| ([\w-]+) \| (?:program|extra) \| (.+) \|$", (ROOT / "docs/licences.md").read_text(), re.MULTILINE
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = project["dependencies"] + [line for name in ("lab", "search", "sets", "dev") for line in extras[name]]
    asked = [line for line in asked if not line.startswith("qr_jax[")]
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    wanted = names(re.findall(r"^[\w.-]+", line)[0] for line in asked) | names(pinned) - {"libtpu"}  # of TPUs alone
    assert sorted(wanted - names(name for name, _ in rows)) == [], "make licences"
    assert [name for name, licence in rows if licence == "not said"] == []


def test_every_row_of_what_goes_wrong_names_tests_that_exist():
    section = (ROOT / "docs/measurements.md").read_text().partition("## What goes wrong, and what is lost")[2]
    rows = [line.split(" | ") for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for fault, *_, named in rows:
        tests = re.findall(r"`(\w+\.py)::(\w+)`", named)
        assert tests and named.count("`") == 2 * len(tests), fault
        for file, name in tests:
            defined = ast.walk(ast.parse(next((ROOT / "tests").rglob(file)).read_text(encoding="utf-8")))
            assert name in {node.name for node in defined if isinstance(node, ast.FunctionDef)}, f"{fault}: {name}"


@functools.cache
def functions_of(file: str) -> set[str]:
    """The names of a file's functions."""
    defined = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    return {node.name for node in defined if isinstance(node, ast.FunctionDef)}


def test_every_mutation_fits_its_file_and_names_a_test_that_exists():
    assert len(MUTATIONS) >= 40 and len(set(MUTATIONS)) == len(MUTATIONS)
    for mutation in MUTATIONS:
        text = (ROOT / mutation.file).read_text(encoding="utf-8")
        assert text.count(mutation.found) == 1 and mutation.found != mutation.planted, mutation
        ast.parse(text.replace(mutation.found, mutation.planted))
        file, _, name = mutation.killed_by.partition("::")
        assert name.partition("[")[0] in {"", *functions_of(file)}, mutation
        assert not file.startswith("tests/around/") and name.partition("[")[0] not in thorough(file), mutation


def thorough(file: str) -> set[str]:
    """The tests of a file that `make test` leaves out."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {one.name for one in functions if "pytest.mark.thorough" in map(ast.unparse, one.decorator_list)}


def test_ci_runs_what_the_readme_tells_a_reader_to_run():
    script = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in script
    fence = (ROOT / "README.md").read_text(encoding="utf-8").split("```")[1]
    told = set(re.findall(r"^make \S+", fence, re.MULTILINE)) | {"make test", "make docs"}
    lines = script.splitlines()
    assert told and {"make lint", "make smollm2", *told} <= {*lines, "make test"}
    assert (
        lines[-1] == "make test-all"
    )  # which has all of `make test`; the last, so that the last line printed is pytest's
    for name in (".ci/run", "tpu_scripts/setup.sh"):
        assert (ROOT / name).stat().st_mode & 0o111
