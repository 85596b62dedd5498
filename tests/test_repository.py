"""What is committed: nothing of one machine, no address where pip's index serves, no large file, few things on top."""

import ast
import functools
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from mutations import MUTATIONS

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ("constraints.txt", "constraints-3.13.txt")  # of Python 3.11, and of those after it
TOP = {"pyproject.toml", "qr_jax", "configs", "tpu_scripts", "tests", "README.md"}
TOP |= {"LICENSE", "LOG.md", "Makefile", ".ci", ".gitignore", ".pre-commit-config.yaml"} | set(CONSTRAINTS)
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
        "LICENSE",
        *CONSTRAINTS,
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


@pytest.mark.parametrize("file", CONSTRAINTS)
def test_versions_are_pinned_by_name_and_version_alone(file):
    lines = (ROOT / file).read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.!+]+", line) for line in pins), pins
    assert pins == sorted(pins, key=lambda line: re.sub(r"[-_.]+", "-", line.split("==")[0]).lower())


def test_what_sets_up_and_tests_reaches_for_no_address():
    for name in (
        *CONSTRAINTS,
        "Makefile",
        ".ci/run",
        ".github/workflows/tests.yml",
        ".github/workflows/thorough.yml",
        "tpu_scripts/setup.sh",
        "pyproject.toml",
        ".pre-commit-config.yaml",
    ):
        text = (ROOT / name).read_text()
        assert "://" not in text, name
        assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host", text), name


@pytest.mark.parametrize("file", CONSTRAINTS)
def test_every_dependency_is_pinned(file):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [line for line in project["dependencies"] + sum(extras.values(), []) if not line.startswith("qr_jax[")]
    names = {re.split(r"[\[<>=!~ ]", line)[0] for line in wanted}
    pinned = {line.split("==")[0] for line in (ROOT / file).read_text().splitlines() if "==" in line}
    plain = {re.sub(r"[-_.]+", "-", name).lower() for name in pinned}
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in names} - plain == set()


FOR_DEVELOPERS = ("dev", "docs", "fuzz")  # extras that no user installs


def test_every_dependency_is_imported_by_the_program_and_has_its_line_in_the_docs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = {name: lines for name, lines in project["optional-dependencies"].items() if name not in FOR_DEVELOPERS}
    wanted, extras = (
        {re.split(r"[\[<>=]", line)[0] for line in lines if not line.startswith("qr_jax[")}
        for lines in (project["dependencies"], sum(optional.values(), []))
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
    pinned = [
        name for file in CONSTRAINTS for name in re.findall(r"^([\w.-]+)==", (ROOT / file).read_text(), re.MULTILINE)
    ]
    wanted = names(re.findall(r"^[\w.-]+", line)[0] for line in asked) | names(pinned) - {"libtpu"}  # of TPUs alone
    assert sorted(wanted - names(name for name, _ in rows)) == [], "make licences"
    assert [name for name, licence in rows if licence == "not said"] == []


def test_every_row_of_what_goes_wrong_names_tests_that_exist():
    rows = json.loads((ROOT / "tests/faults.json").read_text(encoding="utf-8"))
    assert len(rows) > 15
    for row in rows:
        assert row["what"] and row["becomes"] and row["tests"], row
        for file, name in (test.split("::") for test in row["tests"]):
            defined = ast.walk(ast.parse(next((ROOT / "tests").rglob(file)).read_text(encoding="utf-8")))
            assert name in {node.name for node in defined if isinstance(node, ast.FunctionDef)}, f"{row}: {name}"


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
    whole_file = any("pytestmark = " in (line := ast.unparse(node)) and "thorough" in line for node in tree.body)
    marked = lambda one: "pytest.mark.thorough" in map(ast.unparse, one.decorator_list)  # noqa: E731
    return {one.name for one in functions if whole_file or marked(one)}


def commands_of_ci() -> list[str]:
    """What .ci/run does, a command each, without its preparations."""
    lines = (ROOT / ".ci/run").read_text().splitlines()
    return [line for line in lines if line.startswith(("make ", ".venv/bin/python "))]


def test_ci_runs_what_the_readme_tells_a_reader_to_run():
    assert "set -euo pipefail" in (ROOT / ".ci/run").read_text()
    fence = (ROOT / "README.md").read_text(encoding="utf-8").split("```")[1]
    told = set(re.findall(r"^make \S+", fence, re.MULTILINE)) | {"make test", "make docs"}
    commands = commands_of_ci()
    assert told and {"make lint", "make smollm2", "make test-3.13", *told} <= {*commands, "make test"}
    assert commands[-1] == "make test-quick"  # which has `make test`; last, so that the last line is pytest's
    for name in (".ci/run", "tpu_scripts/setup.sh"):
        assert (ROOT / name).stat().st_mode & 0o111


def test_a_fork_s_workflow_runs_what_ci_runs_each_job_on_a_python_it_has():
    """One after the other, its jobs are .ci/run."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    jobs = list(workflow["jobs"].values())
    assert [step["run"] for job in jobs for step in job["steps"] if "run" in step] == commands_of_ci()
    assert workflow["permissions"] == {"contents": "read"}
    for job in jobs:
        (python,) = [
            step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})
        ]
        assert python == ("3.13" if {"run": "make test-3.13"} in job["steps"] else "3.11")


def make(*words: str) -> str:
    """What make says it would do, or does, untouched by a make that runs this test."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_make_takes_the_versions_of_the_python_it_installs_for():
    wanted = CONSTRAINTS[sys.version_info >= (3, 12)]
    shown = make("--dry-run", ".venv", "VENV=absent", f"PYTHON={sys.executable}")
    assert set(re.findall(r"-c (constraints\S+)", shown)) == {wanted}


def test_the_suite_runs_on_3_13_where_there_is_one_and_says_so_where_not():
    said = make("test-3.13", "PYTHON_313=")
    assert said.startswith("passed over: no python3.13 on PATH nor in ") and said.count("\n") == 1
    shown = make("--dry-run", "test-3.13", f"PYTHON_313={sys.executable}", "VENV=absent")
    assert f"{sys.executable} -m venv .venv-3.13" in shown or (ROOT / ".venv-3.13/.installed").exists()
    assert ".venv-3.13/bin/python -m pytest -n 2" in shown


def test_the_versions_that_are_said_to_be_supported_are_those_that_are_pinned_and_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pythons = [line.rpartition(" ")[2] for line in project["classifiers"]]
    rows = re.findall(
        r"^\| (3\.\d+(?:, 3\.\d+)*) \| (\S+) \| (\S+) \| `(\S+)` \|",
        (ROOT / "docs/dependencies.md").read_text(),
        re.MULTILINE,
    )
    assert [python for row in rows for python in row[0].split(", ")] == pythons
    assert project["requires-python"] == f">={pythons[0]}" and [row[3] for row in rows] == list(CONSTRAINTS)
    (bound,) = [line for line in project["dependencies"] if line.startswith("jax>")]
    least, most = (tuple(map(int, part.split("."))) for part in re.findall(r"[\d.]+", bound))
    for _, jax, flax, file in rows:
        pinned = (ROOT / file).read_text().splitlines()
        assert f"jax=={jax}" in pinned and f"jaxlib=={jax}" in pinned and f"flax=={flax}" in pinned
        assert least <= tuple(map(int, jax.split(".")[:2])) < most
