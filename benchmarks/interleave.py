"""Contenders measured in turn (A B A B ...), each a process of its own Python; raw samples, medians, ratios by pair.

A contender is a module with `serve(...)` at its end: it answers one JSON line a request. Only the standard library is
imported here, because the peers' Pythons import it too.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qr_jax.lab.columns import aligned

ROOT = Path(__file__).resolve().parent.parent
PEER_PYTHON = Path(os.environ.get("QR_JAX_PEERS", ROOT / "benchmarks/peers/.venv")) / "bin/python"
MARK = "answer: "  # what a library prints while it is imported has no such mark, and is passed over
IDLE_SHARE = 0.02  # of one core: an idle contender that burns more than this disturbs the one that is measured
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "google-tunix",
    "torch",
    "transformers",
    "bm25s",
    "libtpu",
    "jax-cuda13-plugin",
    "faiss-cpu",
)

Request = Mapping[str, Any]
Answer = dict[str, Any]


# ---- the contender's side


def serve(handlers: Mapping[str, Callable[..., Answer]]) -> None:
    """Answer requests until the input ends: {"do": name, **arguments} calls handlers[name](**arguments).

    What a handler raises is sent back and raised in the parent. Whatever a library prints goes to the error output.
    """
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = handlers[request.pop("do")](**request)
        except Exception as error:
            import traceback

            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        channel.write(MARK + json.dumps(answer) + "\n")
        channel.flush()


def versions(_: Any = None) -> Answer:
    """Name -> version of the packages that matter, as far as this Python has them."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# ---- the parent's side


@dataclass(frozen=True)
class Contender:
    """`python -m module` at the repository's root; `tree`: another checkout, whose qr_jax the module measures.

    `module_of`: the checkout that has the module; this one, unless the other's is made for the other's qr_jax.
    """

    name: str
    module: str
    python: Path = Path(sys.executable)
    tree: Path = ROOT
    module_of: Path = ROOT

    @property
    def words(self) -> list[str]:
        """What Python is called with, in `tree`."""
        if self.module_of == self.tree:
            return ["-m", self.module]
        return [str(self.module_of / f"{self.module.replace('.', '/')}.py")]

    def environment(self, **more: str) -> dict[str, str]:
        """Of a process that measures its tree, on CPU unless said otherwise."""
        paths = [str(self.tree), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"JAX_PLATFORMS": "cpu", **os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


def peer(name: str, module: str) -> Contender:
    """A contender in the peers' Python; stops the program with what to do where that is missing."""
    if not PEER_PYTHON.exists():
        raise SystemExit(f"no Python at {PEER_PYTHON}: run `make bench-peers` first, or leave peers out by --no-peers")
    return Contender(name, module, PEER_PYTHON)


def checkout(name: str, module: str, tree: Path, *, is_theirs: bool = False) -> Contender:
    """A contender of another checkout, in its own .venv; stops the program with what to do where that is missing.

    `is_theirs`: the module is that checkout's, too.
    """
    python = tree / ".venv/bin/python"
    if not python.exists():
        raise SystemExit(f"no Python at {python}: make it by `make .venv` there")
    return Contender(name, module, python, tree.resolve(), tree.resolve() if is_theirs else ROOT)


class Worker:
    """A running contender."""

    def __init__(self, contender: Contender, environment: Mapping[str, str] | None = None):
        self.name = contender.name
        self.process = subprocess.Popen(
            [str(contender.python), *contender.words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=contender.tree,
            env=contender.environment(**(environment or {})),
        )  # fmt: skip

    def ask(self, do: str, **arguments: Any) -> Answer:
        """The worker's answer; stops the program when the worker failed (its error output says where)."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin and stdout
        try:
            stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            stdin.flush()
            line = next((line for line in stdout if line.startswith(MARK)), "")
        except BrokenPipeError:
            line = ""
        if not line:
            raise SystemExit(f"contender {self.name} ended ({self.process.wait()}) at {do!r}: its error stands above")
        answer = json.loads(line.removeprefix(MARK))
        if "error" in answer:
            raise SystemExit(f"contender {self.name} failed at {do!r}: {answer['error']}")
        return answer

    def cpu_s(self) -> float:
        """CPU seconds used so far; 0 where the system does not say (no /proc)."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def interleave(
    workers: Sequence[Worker],
    rounds: int,
    load: Request,
    *,
    do: str = "sample",
    own: Mapping[str, Request] | None = None,
) -> dict[str, list[Answer]]:
    """`rounds` answers of each worker to one load, in turn; each gets `round` too, and what `own` has for its name.

    To each answer `wall_s` is added, and `idle_cpu_s`: what the other workers burnt meanwhile (said when too much).
    """
    samples: dict[str, list[Answer]] = {worker.name: [] for worker in workers}
    for at in range(rounds):
        for worker in workers:
            others = [one for one in workers if one is not worker]
            idle, start = sum(one.cpu_s() for one in others), time.monotonic()
            answer = worker.ask(do, **{**load, **(own or {}).get(worker.name, {}), "round": at})
            wall_s = time.monotonic() - start
            idle_cpu_s = sum(one.cpu_s() for one in others) - idle
            if idle_cpu_s > max(0.1, IDLE_SHARE * wall_s):
                print(f"while {worker.name} ran {wall_s:.1f} s, idle contenders burnt {idle_cpu_s:.2f} s", flush=True)
            samples[worker.name].append({**answer, "wall_s": wall_s, "idle_cpu_s": idle_cpu_s})
    return samples


def median(samples: Sequence[Answer], figure: str) -> float:
    return statistics.median(float(sample[figure]) for sample in samples)


def ratio(ours: Sequence[Answer], theirs: Sequence[Answer], figure: str) -> dict[str, Any]:
    """ours / theirs of a rate: the medians' ratio, and pair by pair (each round's two samples)."""
    pairs = [float(a[figure]) / float(b[figure]) for a, b in zip(ours, theirs, strict=True)]
    return {
        "ratio": median(ours, figure) / median(theirs, figure),
        "pairs": pairs, "pairs_min": min(pairs), "pairs_max": max(pairs),
    }  # fmt: skip


def results(name: str, figures: Mapping[str, Any], workers: Sequence[Worker], *, folder: Path | None = None) -> Path:
    """Write `benchmarks/results/NAME.json`: figures, commit, machine. Each worker must answer `versions` (as above)."""
    file = (folder or ROOT / "benchmarks/results") / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    packages = {worker.name: worker.ask("versions") for worker in workers}
    content = {**figures, **commit(), "machine": machine(), "packages": packages}
    file.write_text(json.dumps(content, indent=1) + "\n")
    return file


def no_options(text: str | None) -> None:
    """What --help says of a command that takes nothing."""
    argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()


def run(
    name: str,
    options: argparse.Namespace,
    workers: Sequence[Worker],
    measure: Callable[[], Mapping[str, Any]],
    show: Callable[[Any], None],
) -> None:
    """Measure, write the results, end the workers whatever happens, and print the JSON or what `show` makes of it."""
    try:
        figures = measure()
        file = results(name, figures, workers, folder=options.results)
    finally:
        for worker in workers:
            worker.close()
    if options.json:
        print(json.dumps(json.loads(file.read_text()), indent=1))
    else:
        show(figures)


def show_loads(figures: Mapping[str, Any], measure: str, heading: str) -> None:
    """A row a load and contender: its median under `measure` and our ratio to it; then the figures that are numbers."""
    rows = [
        [name, who, value, one["ratios"].get(who, {}).get("ratio", 1.0)]
        for name, one in figures["loads"].items() for who, value in one[measure].items()
    ]  # fmt: skip
    print(table(["load", "contender", heading, "we are faster by"], rows))
    for name, value in figures.items():
        if isinstance(value, float | int):
            print(f"{name}: {value:.3g}")


def commit() -> Answer:
    """The commit, and whether files differed from it (results of benchmarks themselves left out)."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    dirty = git("status", "--porcelain", "--", ".", ":(exclude)benchmarks/results")
    return {"commit": git("rev-parse", "HEAD") or None, "dirty": bool(dirty)}


def machine() -> Answer:
    """What the figures were measured on; no name of the machine."""
    model, memory = platform.processor(), 0
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, StopIteration, ValueError):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": model, "cores": cores, "memory_bytes": memory, "system": platform.system(), "load": os.getloadavg()}


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns of one width; floats with three significant digits."""
    text = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in [head, *rows]]
    return "\n".join(aligned(text))


def parser(description: str | None, *, rounds: int = 5, peers: bool = True) -> argparse.ArgumentParser:
    """The arguments that all benchmarks share; each adds its own. `peers`: whether some can be left out."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--rounds", type=int, default=rounds, help=f"samples of each contender ({rounds})")
    if peers:
        found.add_argument("--no-peers", action="store_true", help="ours alone: no ratios")
    found.add_argument("--json", action="store_true", help="print the JSON instead of the table")
    found.add_argument("--results", type=Path, default=None, help="folder for the JSON (benchmarks/results)")
    return found
