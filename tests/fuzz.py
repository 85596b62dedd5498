"""Wrong inputs for everything that reads what others wrote: each is taken, or refused by the documented error.

    make fuzz                                       # all targets (fuzz_targets.py), about 5 minutes on two cores
    make fuzz RUNS=100000                           # so many inputs a target
    make fuzz FULL=1                                # a million, or ten thousand of files (hours; resumable)
    python tests/fuzz.py config gguf --runs 5000 --seed 3
    python tests/fuzz.py config --seed 3 --at 1234  # one input again, by its number

Inputs are valid ones that are spoilt (fuzz_changes.py): those made in code, and those of tests/fuzz_corpus, each of
which reached a line that none before it did (`--keep` writes them anew). An input depends on the target, the seed and
its own number alone. A failure is any other error, more than 1 s of processor time, or more than 2 GiB of further
memory; the input is kept. A run that ends the whole process leaves its number in OUT/TARGET.at.

A full run goes on where it ended, counts the lines of the target's modules that its valid inputs reach and that its
first 20,000 inputs reach, and writes benchmarks/results/fuzz.json.
"""

import argparse
import base64
import contextlib
import faulthandler
import gc
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from fuzz_changes import spoil, spoil_bytes
from fuzz_lines import Lines
from fuzz_targets import TARGETS, Parts, Target

LIMIT_S = 1.0
LIMIT_BYTES = 2 * 2**30
SHOWN_FAILURES = 3
CORPUS = Path(__file__).parent / "fuzz_corpus"
KEPT_BYTES = 2000  # of an input in the corpus
TRACED = 20_000  # inputs of a full run whose lines are counted: that takes several times as long
STRETCH = 10_000  # inputs after which a full run says how far it is
COUNTED = ("accepted", "refused", "failed")


class TooSlow(BaseException):
    """No `except Exception` of the package may take it for an error of its own."""


class Corpus(NamedTuple):
    """Valid inputs in parts, and whole inputs, valid or not, that reached lines of their own."""

    valid: Sequence[Parts]
    kept: Sequence[Parts]


def corpus_of(target: Target) -> Corpus:
    path = CORPUS / f"{target.name}.json"
    return Corpus(target.corpus(), [_from_json(kept) for kept in json.loads(path.read_text())] if path.exists() else [])


def _from_json(files: Mapping[str, str | None]) -> Parts:
    return {name: None if text is None else base64.b85decode(text) for name, text in files.items()}


def _to_json(files: Parts) -> dict[str, str | None]:
    return {name: None if raw is None else base64.b85encode(raw).decode() for name, raw in files.items()}


def make_input(target: Target, corpus: Corpus, seed: int, number: int) -> Parts:
    """The input of that number. Numbers below the corpus' length are its inputs as they are."""
    if number < len(corpus.valid):
        return target.pack(corpus.valid[number])
    if number < len(corpus.valid) + len(corpus.kept):
        return corpus.kept[number - len(corpus.valid)]
    rng = random.Random(f"{target.name} {seed} {number}")
    if corpus.kept and rng.random() < 0.3:
        files = dict(rng.choice(corpus.kept))
        name = rng.choice(list(files))
        return files | {name: spoil(rng, files[name] or b"", name)}
    parts = dict(rng.choice(corpus.valid))
    if rng.random() < 0.8:
        name = rng.choice(list(parts))
        parts[name] = spoil(rng, parts[name] or b"", name)
    try:
        packed = dict(target.pack(parts))
    except Exception:  # such parts cannot be packed: the bytes of a whole input are spoilt instead
        packed = dict(target.pack(rng.choice(corpus.valid)))
    if rng.random() < 0.3:
        name = rng.choice(list(packed))
        missing = target.is_folder and rng.random() < 0.3
        packed[name] = None if missing else spoil_bytes(rng, packed[name] or b"")
    return packed


@contextlib.contextmanager
def limited(limit_s: float) -> Iterator[None]:
    """TooSlow after so much of this process' own time, in which a busy machine does not count; 0: never."""

    def stop(*_: object) -> None:
        raise TooSlow(f"more than {limit_s} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    gc.disable()  # a collection takes its time for all that the process holds, and drops what is raised in a __del__
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        gc.enable()
        signal.signal(signal.SIGPROF, before)


def try_one(target: Target, files: Parts, limit_s: float = LIMIT_S) -> tuple[str, BaseException | None]:
    """("accepted" or "refused", None), or ("failed", what was raised)."""
    folder = Path(tempfile.mkdtemp(prefix="qr_jax_fuzz_")) if target.is_read_from_disk else Path()
    try:
        if target.is_read_from_disk:
            put(folder, files)
        with limited(limit_s), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(folder, files)
        return "accepted", None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return ("refused", None) if isinstance(error, target.refuses) else ("failed", error)
    finally:
        if target.is_read_from_disk:
            shutil.rmtree(folder, ignore_errors=True)


def put(folder: Path, files: Parts) -> None:
    """Write the files; None is a folder in a file's place."""
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            place.mkdir()
        else:
            place.write_bytes(content)


def run(
    target: Target,
    runs: int,
    seed: int,
    out: Path,
    *,
    first: int = 0,
    at: int | None = None,
    bound_memory: bool = False,
) -> Counter[str]:
    """How many inputs were accepted, refused and failed; the first failures are printed and kept below `out`.

    The inputs' numbers are those from `first` to `runs`, or `at` alone.
    """
    corpus, counts, places = corpus_of(target), Counter(), set()
    for parts in corpus.valid:  # all that the target imports takes its time here
        try_one(target, target.pack(parts), limit_s=0)
    if bound_memory:
        _bound_memory()
    out.mkdir(parents=True, exist_ok=True)
    with open(out / f"{target.name}.at", "wb") as last:
        for number in range(first, runs) if at is None else [at]:
            os.pwrite(last.fileno(), b"%09d" % number, 0)
            files = make_input(target, corpus, seed, number)
            found, error = try_one(target, files)
            if number < len(corpus.valid) and found == "refused":
                found, error = "failed", AssertionError("a valid input was refused")
            counts[found] += 1
            if error is not None and (place := _place(error)) not in places and len(places) < SHOWN_FAILURES:
                places.add(place)
                report(target.name, seed, number, files, error, out / f"{target.name}-{seed}-{number}")
    return counts


def lines(target: Target, runs: int, seed: int) -> tuple[dict[str, int], list[Parts]]:
    """How many lines the corpus and the first inputs reach, and the inputs of at most KEPT_BYTES that reached more."""
    corpus, gained = corpus_of(target), []
    with Lines(target.modules) as watched:
        for parts in corpus.valid:
            try_one(target, target.pack(parts), limit_s=0)
        of_valid = watched.reached
        for files in corpus.kept:
            try_one(target, files, limit_s=20 * LIMIT_S)
        of_corpus = watched.reached
        for number in range(len(corpus.valid), runs):
            before, files = watched.reached, make_input(target, corpus, seed, number)
            try_one(target, files, limit_s=20 * LIMIT_S)
            if watched.reached > before and sum(len(raw or b"") for raw in files.values()) <= KEPT_BYTES:
                gained.append(files)
    reached = {"lines": watched.total, "of_valid_inputs": of_valid, "of_corpus": of_corpus}
    return reached | {"of_inputs": watched.reached, "inputs": runs}, gained


def keep(target: Target, runs: int, seed: int) -> None:
    """Write the inputs that reach lines of their own, found from the valid ones alone, to tests/fuzz_corpus."""
    path = CORPUS / f"{target.name}.json"
    path.unlink(missing_ok=True)
    reached, gained = lines(target, runs, seed)
    CORPUS.mkdir(exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(_to_json(files)) for files in gained) + "\n]\n")
    print(f"{target.name}: {len(gained)} inputs kept; lines reached {reached}", flush=True)


def full(target: Target, seed: int, out: Path) -> dict[str, Any]:
    """All inputs up to the target's floor, those made before not again; counts, seconds and lines reached."""
    path = out / f"{target.name}-{seed}.json"
    out.mkdir(parents=True, exist_ok=True)
    done = json.loads(path.read_text()) if path.exists() else {"inputs": 0, "seconds": 0.0, "counts": {}}
    if "coverage" not in done:
        done["coverage"] = lines(target, min(TRACED, target.floor), seed)[0]
    while done["inputs"] < target.floor:
        began, until = time.monotonic(), min(done["inputs"] + STRETCH, target.floor)
        counts = run(target, until, seed, out, first=done["inputs"])
        done["counts"] = dict(counts + Counter(done["counts"]))
        done |= {"inputs": until, "seconds": done["seconds"] + time.monotonic() - began}
        path.write_text(json.dumps(done))
    return done


def _place(error: BaseException) -> tuple[object, ...]:
    """What tells two failures apart: the error's type and the last line of ours that it came through."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if "qr_jax" in frame.filename]
    return type(error), *((lines[-1].filename, lines[-1].lineno) if lines else ())


def report(name: str, seed: int, number: int, files: Parts, error: BaseException, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    put(folder, files)
    print(f"\nFAILED {name}: python tests/fuzz.py {name} --seed {seed} --at {number}; the input is in {folder}")
    for file, content in files.items():
        print(f"  {file}: {repr(content)[:300]}")
    print("".join(traceback.format_exception(error))[-4000:], flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all, or some of {', '.join(TARGETS)}")
    parser.add_argument("--runs", type=int, help="inputs a target; by default each has its own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at", type=int, help="the input of this number alone")
    parser.add_argument("--full", action="store_true", help="every target to its floor; the same command goes on")
    parser.add_argument("--keep", action="store_true", help="write tests/fuzz_corpus anew")
    parser.add_argument("--results", type=Path, default=None, help="folder for fuzz.json (benchmarks/results)")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "qr_jax_fuzz")
    asked = parser.parse_args()
    if unknown := set(asked.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    targets = [TARGETS[name] for name in asked.targets or TARGETS]
    if asked.keep:
        for target in targets:
            keep(target, asked.runs or min(target.runs, TRACED), asked.seed)
        return 0
    if asked.full:
        return _full(targets, asked.seed, asked.out, asked.results)
    failed = 0
    for target in targets:
        began = time.monotonic()
        counts = run(target, asked.runs or target.runs, asked.seed, asked.out, at=asked.at, bound_memory=True)
        failed += counts["failed"]
        shown = ", ".join(f"{counts[what]} {what}" for what in COUNTED)
        print(f"{target.name}: {counts.total()} runs, {time.monotonic() - began:.1f} s, {shown}", flush=True)
    return 1 if failed else 0


def _full(targets: Sequence[Target], seed: int, out: Path, results: Path | None) -> int:
    """Every target to its floor, each in a process of its own; the table, and fuzz.json with what is there so far."""
    from benchmarks import interleave

    rows, failed, found = [], 0, {}
    for target in targets:
        child = os.fork()
        if child == 0:
            _bound_memory()
            full(target, seed, out)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        path = out / f"{target.name}-{seed}.json"
        if not path.exists():
            print(f"{target.name} ended with {code}; the number of its input is in {out / target.name}.at")
            failed += 1
            continue
        found[target.name] = one = json.loads(path.read_text())
        counts, coverage = one["counts"], one["coverage"]
        failed += counts.get("failed", 0) + (code != 0)
        told = [f"{coverage[name]}" for name in ("lines", "of_valid_inputs", "of_corpus", "of_inputs")]
        a_second = one["inputs"] / max(one["seconds"], 1e-9)
        rows.append([target.name, one["inputs"], *(counts.get(name, 0) for name in COUNTED), a_second, *told])
        print(f"{target.name}: {one['inputs']} inputs, {counts}", flush=True)
        content = {"command": "make fuzz FULL=1", "seed": seed, "targets": found, "versions": interleave.versions()}
        interleave.results("fuzz", content, (), folder=results)
    head = ["target", "inputs", *COUNTED, "a second", "lines", "by valid inputs", "by the corpus", "by all"]
    print(interleave.table(head, rows))
    return 1 if failed else 0


def _bound_memory() -> None:
    """Let the process grow by LIMIT_BYTES at most from now on."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + LIMIT_BYTES, most))


if __name__ == "__main__":
    sys.exit(main())
