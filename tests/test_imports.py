"""Imports point one way, host code knows no jax, and heavy packages load only when a config names them."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "qr_jax"
PLUGINS = ("recycling", "rounds", "envs", "retrievers", "rewards", "advantages", "losses")
# A file or folder of qr_jax imports from its own row and the rows above it, nothing from below. A file that is named
# ("evaluation.subject") has a row of its own, apart from its folder's.
ROOMS = (
    ("records", "settings", "secrecy", "errors", "interrupts", "noise", "committed", "bucket", "terminal", "columns")
    + ("characters", "run_lock", "lease", "interpreter", "bounded_json", "loose_json", "kept_thread"),
    ("pool", "queries", "metrics", "metrics_writer", "config", "overrides", "checks", "plugins", "verdict", "figures")
    + ("answers", "dialect", "variance", "retrieval", "evaluation", "studies", "interfaces", "trust", "run_files")
    + ("elsewhere", "meanings", "jsonl")
    + tuple(f"learning.{name}" for name in ("reduce", "kl", "importance")),
    PLUGINS,
    ("models", "processes", "parallel", "learning.pack"),
    ("rollout", "learning", "checkpoint", "report")
    + tuple(f"retrieval.{name}" for name in ("server", "http_server", "server_metrics", "search_batcher", "check")),
    ("assemble", "runs", "synth"),
    ("step", "begin", "ending", "train", "sft", "evaluate", "asking", "evaluation.subject", "evaluation.answering")
    + ("planning", "model_card", "exporting", "report.at_end")
    + tuple(f"studies.{name}" for name in ("compare", "probe", "launch", "study")),
    ("cli", "commands", "bug_report"),
    ("__main__",),
)
RANK = {name: rank for rank, row in enumerate(ROOMS) for name in row}
# Rows whose members do not import one another.
APART = (PLUGINS, ("rollout", "learning", "checkpoint", "report"))
# These run in a process without jax. In a folder all files do, but those excepted.
HOST = ("records", "settings", "secrecy", "noise", "bucket", "terminal", "pool", "queries", "metrics", "metrics_writer")
HOST += ("config", "overrides", "checks", "plugins", "verdict", "figures", "answers", "dialect", "interfaces", "report")
HOST += ("retrieval", "evaluation", "studies", "commands", "cli", "errors", "interrupts", "columns", "elsewhere")
HOST += ("meanings", "synth", "model_card", "jsonl", "__main__")
HOST += ("recycling", "rounds", "envs", "retrievers", "rewards", "rollout.tools")
# the builders are TFDS's own, and imported where a world or a set is opened
EXCEPTED = ("retrievers.dense", "queries.world.tfds_builder", "queries.qa_builders")
# these stand beside host code and are none
LOOPS = ("evaluation.subject", "evaluation.answering", "commands.pods")
LOOPS += ("report.at_end", "studies.probe", "studies.launch", "studies.study", "studies.compare")
# What stands around the core, which trains, resumes and evaluates alone and loads it by name (plugins.around).
AROUND = ("commands", "synth", "report", "studies", "planning", "retrieval", "asking", "bug_report", "cli", "exporting")
AROUND += ("model_card", "models.embedder", "models.encoder")
AROUND += tuple(f"evaluation.{name}" for name in ("answering", "judge", "score", "side_by_side", "suite"))
AROUND += tuple(
    f"queries.{name}" for name in ("data_check", "fetch", "foreign", "foreign_rows", "get", "html_text", "inputs")
)
AROUND += ("queries.official", "queries.qa_builders", "queries.stored", "queries.text_files")
CORE_RETRIEVERS = ("retrievers", "retrievers.none")  # and the rewards and retrievers that ask a server stand around it
CORE_REWARDS = ("rewards",) + tuple(
    f"rewards.{name}" for name in ("_format", "cover_match", "exact_match", "f1", "overlong", "search_r1_format")
)
DEVICE = ("jax", "jaxlib", "flax", "optax", "orbax", "chex")
HEAVY = ("bm25s", "grain", "tensorflow_datasets", "tensorflow", "wandb", "tensorboardX")

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def room(module: str) -> str:
    return module.split(".")[0]


def rank(module: str) -> int:
    return RANK.get(module, RANK.get(room(module), 0))


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


def statements(node: ast.AST, *, at_import: bool) -> Iterator[ast.stmt]:
    """The import statements under a node; with `at_import` only those that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        later = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        never = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif not at_import or not (later or never):
            yield from statements(child, at_import=at_import)


@functools.cache
def imported(module: str, *, at_import: bool = False) -> frozenset[str]:
    """What a module of qr_jax imports: full names, those of qr_jax as "qr_jax.<module>"."""
    names = set()
    for node in statements(ast.parse(MODULES[module].read_text(encoding="utf-8")), at_import=at_import):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports name the real module, not a relative one"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            ours = [name.removeprefix("qr_jax.") in MODULES for name in full]
            names |= {name if own else str(node.module) for name, own in zip(full, ours, strict=True)}
    return frozenset(names)


def ours(names: frozenset[str]) -> set[str]:
    return {name.removeprefix("qr_jax.") for name in names if name.startswith("qr_jax.")}


def closure(module: str) -> dict[str, str]:
    """Each module of qr_jax that importing `module` imports -> the one that imports it."""
    found, waiting = {module: "itself"}, [module]
    while waiting:
        one = waiting.pop()
        for other in ours(imported(one, at_import=True)) & set(MODULES):
            if other not in found:
                found[other] = one
                waiting.append(other)
    return found


def host_modules() -> list[str]:
    return [name for name in MODULES if name and within(name, HOST) and not within(name, EXCEPTED + LOOPS)]


def test_every_file_has_a_room():
    homeless = {room(module) for module in MODULES if module} - set(RANK)
    assert not homeless, (
        f"give {sorted(homeless)} a row in ROOMS of this test, and say in which room of the design it is"
    )


def test_imports_point_one_way():
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        for other in ours(imported(module))
        if rank(other) > rank(module) and not (module == "retrievers.dense" and room(other) in ("models", "parallel"))
    ]
    assert not wrong, "\n".join(wrong)


def is_core(module: str) -> bool:
    if room(module) in ("retrievers", "rewards"):
        return module in CORE_RETRIEVERS + CORE_REWARDS
    return not within(module, (*AROUND, "__main__"))  # __main__ starts the commands


def test_the_core_imports_nothing_around_it():
    """Not inside functions either."""
    core = [module for module in MODULES if is_core(module)]
    wrong = [f"{m} imports {other}" for m in core for other in ours(imported(m)) & set(MODULES) if not is_core(other)]
    assert not wrong, "\n".join(wrong)
    assert len(core) > 100 and {"train", "sft", "evaluate", "checkpoint", "pool"} <= set(core)


def test_no_import_circle_inside_functions_counted():
    needs = {module: ours(imported(module)) & set(MODULES) for module in MODULES}
    while free := {module for module, others in needs.items() if not others & set(needs)}:
        needs = {module: others for module, others in needs.items() if module not in free}
    assert not needs, f"these import one another, or lead to such: {sorted(needs)}"


@pytest.mark.parametrize("row", APART, ids=["plug-in folders", "rollout, learning, checkpoint, report"])
def test_neighbours_do_not_import_one_another(row):
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        for other in ours(imported(module))
        if room(module) in row and room(other) in row and room(module) != room(other)
    ]
    assert not wrong, "\n".join(wrong)


def test_losses_and_advantages_know_no_text_config_mesh_or_model():
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        for other in ours(imported(module))
        if room(module) in ("losses", "advantages")
        and room(other) not in ("records", "variance", "errors", room(module))
        and other not in ("learning.reduce", "learning.kl", "learning.importance")
    ]
    assert not wrong, "\n".join(wrong)


def test_flax_stops_at_the_edge_of_models():
    wrong = [module for module in MODULES if any(within(name, ("flax",)) for name in imported(module))]
    assert all(room(module) == "models" for module in wrong), wrong


def test_host_code_imports_no_jax_directly_or_through_others():
    wrong = []
    for module in host_modules():
        direct = imported(module, at_import=module in ("cli", "commands.doctor"))
        wrong += [f"{module} imports {name}" for name in direct if within(name, DEVICE)]
        for other, through in closure(module).items():
            found = [name for name in imported(other, at_import=True) if within(name, DEVICE)]
            wrong += [f"{module} -> ... {through} -> {other} imports {name}" for name in found]
    assert not wrong, "\n".join(wrong)


def test_heavy_packages_are_imported_inside_the_functions_that_use_them():
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        if module not in EXCEPTED
        for name in imported(module, at_import=True)
        if within(name, (*HEAVY, "rich"))  # rich: flax imports it whatever we do
    ]
    assert not wrong, "\n".join(wrong)


def in_a_process_without(packages: tuple[str, ...], modules: list[str]) -> str:
    """What importing the modules says where the packages are absent; "" when all is well."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({packages!r}))"
    lines = [blocked, *(f"import qr_jax.{module}" for module in modules)]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def test_host_code_runs_in_a_process_without_jax():
    assert in_a_process_without((*DEVICE, *HEAVY), host_modules()) == ""


@pytest.mark.skipif("train" not in MODULES, reason="there is no qr_jax/train.py")
def test_train_is_imported_where_the_heavy_packages_are_absent():
    assert in_a_process_without(HEAVY, ["train"]) == ""
