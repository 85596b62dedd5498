"""Imports point one way, host code knows no jax, and heavy packages load only when a config names them."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "qr_jax"
CORE_PLUGINS = ("pool.rules", "pool.rounds", "envs", "retrievers", "rewards", "learner.advantages", "learner.losses")
# What stands around the core, which trains, resumes and evaluates alone and loads it by name (plugins.around).
AROUND = ("search", "sets", "lab", "methods", "tools", "serve", "cli")
# A module imports from its own row and the rows above it, nothing from below. What is named ("pool.rules") is apart
# from the room that it lies in.
ROWS = (
    "errors records settings.settings settings.json_text data.characters search.loose_json lab.interpreter pool.noise "
    "lab.columns logging.secrecy logging.terminal cli.interrupts run.kept_thread run.run_lock",
    "answers config plugins interfaces dialect trust data settings logging pool evaluation learner.importance "
    "learner.kl learner.reduce learner.variance run.bucket run.committed run.json_files run.lease run.run_files "
    "run.plugin_record search lab.differences lab.judge lab.suite sets.tables cli.elsewhere cli.overrides",
    " ".join((*CORE_PLUGINS, "methods", "search.retrievers", "tools")),
    "models parallel learner.pack search.embedder search.encoder search.nearest",
    "rollout learner run.checkpoint search.check search.http_app search.server search.mcp_server "
    "search.search_batcher search.search_json search.server_metrics",
    "assemble methods.gold run.runs sets",
    "step run train sft evaluate evaluation.subject",
    "lab serve",
    "cli lab.bug_report",
    "__main__",
)
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row.split()}
# Rooms that do not import one another.
APART = ((*CORE_PLUGINS, "methods", "search.retrievers", "tools"), ("rollout", "learner", "run.checkpoint"))
# These run in a process without jax. In a folder all files do, but those excepted.
HOST = ("records", "settings", "pool", "data", "logging", "config", "plugins", "answers", "dialect", "interfaces")
HOST += ("evaluation", "errors", "envs", "retrievers", "rewards", "rollout.tools", "__main__", *AROUND)
HOST += tuple(f"run.{name}" for name in ("bucket", "json_files"))
# the builders are TFDS's own, and imported where a world or a set is opened
EXCEPTED = ("search.retrievers.dense", "sets.rows_builder", "sets.world_builder", "sets.qa_builders")
# these stand beside host code and are none
LOOPS = ("evaluation.subject", "lab.answering", "lab.planning", "lab.exporting", "cli.commands.pods")
LOOPS += ("lab.report.at_end", "lab.evaluation_table", "lab.probe", "lab.launch", "lab.study", "lab.compare")
LOOPS += ("serve.batching", "serve.scoring", "serve.opening")
LOOPS += ("methods.advantages", "methods.losses", "methods.gold", "search.embedder", "search.encoder")
LOOPS += ("search.nearest", "lab.hf_folder", "lab.gguf", "lab.gpu")
LEARNT = ("learner.advantages", "learner.losses", "methods.advantages", "methods.losses")
DEVICE = ("jax", "jaxlib", "flax", "optax", "orbax", "chex")
HEAVY = ("bm25s", "grain", "tensorflow_datasets", "tensorflow", "wandb", "tensorboardX")
SERVER = ("starlette", "uvicorn", "httptools", "prometheus_client")  # of the extra `search`; orbax brings the last

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def room(module: str) -> str:
    return module.split(".")[0]


def place(module: str, places: Iterable[str]) -> str | None:
    """Return the longest of the places that the module is or lies in."""
    return max((name for name in places if within(module, (name,))), key=len, default=None)


def rank(module: str) -> int:
    return RANK[place(module, RANK) or "config"]  # qr_jax itself


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
    return imported_names(ast.parse(MODULES[module].read_text(encoding="utf-8")), at_import=at_import)


def imported_names(tree: ast.Module, *, at_import: bool = False) -> frozenset[str]:
    names = set()
    for node in statements(tree, at_import=at_import):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{ast.unparse(node)}: imports name the real module, not a relative one"
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
    homeless = [module for module in MODULES if module and not place(module, RANK)]
    assert not homeless, f"give {homeless} a row in ROWS of this test"


def test_few_modules_stand_at_the_top():
    assert len([path for path in MODULES.values() if path.parent == PACKAGE]) <= 14


def test_imports_point_one_way():
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        for other in ours(imported(module))
        if rank(other) > rank(module) and module != "search.retrievers.dense"  # it computes, with its encoder
    ]
    assert not wrong, "\n".join(wrong)


def is_core(module: str) -> bool:
    return not within(module, (*AROUND, "__main__"))  # __main__ starts the commands


def test_the_core_imports_nothing_around_it():
    """Not inside functions either."""
    core = [module for module in MODULES if is_core(module)]
    wrong = [f"{m} imports {other}" for m in core for other in ours(imported(m)) & set(MODULES) if not is_core(other)]
    assert not wrong, "\n".join(wrong)
    assert len(core) > 100 and {"train", "sft", "evaluate", "run.checkpoint", "pool.pool"} <= set(core)


def test_no_import_circle_inside_functions_counted():
    needs = {module: ours(imported(module)) & set(MODULES) for module in MODULES}
    while free := {module for module, others in needs.items() if not others & set(needs)}:
        needs = {module: others for module, others in needs.items() if module not in free}
    assert not needs, f"these import one another, or lead to such: {sorted(needs)}"


@pytest.mark.parametrize("row", APART, ids=["plug-in folders", "rollout, learner, checkpoint"])
def test_neighbours_do_not_import_one_another(row):
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        for other in ours(imported(module)) & set(MODULES)
        if {place(module, RANK), place(other, RANK)} <= set(row) and place(module, RANK) != place(other, RANK)
        if not within(module, (f"methods.{(place(other, RANK) or other).split('.')[-1]}",))  # of the same kind
    ]
    assert not wrong, "\n".join(wrong)


def test_losses_and_advantages_know_no_text_config_mesh_or_model():
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        for other in ours(imported(module))
        if within(module, LEARNT)
        and not within(
            other,
            (*LEARNT, "records", "errors", "settings.settings", "learner.variance", "learner.reduce", "learner.kl"),
        )
        and other != "learner.importance"
    ]
    assert not wrong, "\n".join(wrong)


def test_flax_stops_at_the_edge_of_models():
    wrong = [module for module in MODULES if any(within(name, ("flax",)) for name in imported(module))]
    assert all(room(module) == "models" for module in wrong), wrong


def test_host_code_imports_no_jax_directly_or_through_others():
    wrong = []
    for module in host_modules():
        direct = imported(module, at_import=module in ("cli.cli", "cli.commands.doctor"))
        wrong += [f"{module} imports {name}" for name in direct if within(name, DEVICE)]
        for other, through in closure(module).items():
            found = [name for name in imported(other, at_import=True) if within(name, DEVICE)]
            wrong += [f"{module} -> ... {through} -> {other} imports {name}" for name in found]
    assert not wrong, "\n".join(wrong)


def test_qr_jax_itself_imports_its_config_when_a_name_is_used():
    lines = ["import sys, qr_jax", "assert 'qr_jax.config' not in sys.modules", "from qr_jax import *"]
    lines += ["assert load.__module__ == 'qr_jax.config'", "assert Config is qr_jax.config.Config"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_heavy_packages_are_imported_inside_the_functions_that_use_them():
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        if module not in EXCEPTED
        for name in imported(module, at_import=True)
        if within(name, (*HEAVY, *SERVER, "rich"))  # rich: flax imports it whatever we do
    ]
    assert not wrong, "\n".join(wrong)


def in_a_process_without(packages: tuple[str, ...], modules: list[str]) -> str:
    """What importing the modules says where the packages are absent; "" when all is well."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({packages!r}))"
    lines = [blocked, *(f"import qr_jax.{module}" for module in modules)]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def test_host_code_runs_in_a_process_without_jax():
    assert in_a_process_without((*DEVICE, *HEAVY, *SERVER), host_modules()) == ""


@pytest.mark.skipif("train" not in MODULES, reason="there is no qr_jax/train.py")
def test_train_is_imported_where_the_heavy_packages_are_absent():
    assert in_a_process_without(HEAVY, ["train"]) == ""
