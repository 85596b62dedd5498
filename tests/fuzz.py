"""Wrong inputs for everything that reads what others wrote: each is taken, or refused by the documented error.

    make fuzz                                       # all targets (fuzz_targets.py), about 5 minutes on two cores
    make fuzz RUNS=100000                           # so many inputs a target
    python tests/fuzz.py config gguf --runs 5000 --seed 3
    python tests/fuzz.py config --seed 3 --at 1234  # one input again, by its number

Inputs are valid ones, made in code, that are spoilt (fuzz_changes.py). Each depends on the target, the seed and its own
number alone. A failure is any other error, more than 1 s of processor time, or more than 2 GiB of further memory; the
input is kept. A run that ends the whole process leaves its number in OUT/TARGET.at.
"""

import argparse
import contextlib
import faulthandler
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
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from fuzz_changes import spoil, spoil_bytes
from fuzz_targets import TARGETS, Parts, Target

LIMIT_S = 1.0
LIMIT_BYTES = 2 * 2**30
SHOWN_FAILURES = 3


class TooSlow(BaseException):
    """No `except Exception` of the package may take it for an error of its own."""


def make_input(target: Target, corpus: list[Parts], seed: int, number: int) -> Parts:
    """The input of that number. Numbers below the corpus' length are its inputs as they are."""
    if number < len(corpus):
        return target.pack(corpus[number])
    rng = random.Random(f"{target.name} {seed} {number}")
    parts = dict(rng.choice(corpus))
    if rng.random() < 0.8:
        name = rng.choice(list(parts))
        parts[name] = spoil(rng, parts[name] or b"", name)
    try:
        packed = dict(target.pack(parts))
    except Exception:  # such parts cannot be packed: the bytes of a whole input are spoilt instead
        packed = dict(target.pack(rng.choice(corpus)))
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
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
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
    target: Target, runs: int, seed: int, out: Path, *, at: int | None = None, bound_memory: bool = False
) -> Counter[str]:
    """How many inputs were accepted, refused and failed; the first failures are printed and kept below `out`."""
    corpus, counts, places = target.corpus(), Counter(), set()
    for parts in corpus:  # all that the target imports takes its time here
        try_one(target, target.pack(parts), limit_s=0)
    if bound_memory:
        _bound_memory()
    out.mkdir(parents=True, exist_ok=True)
    with open(out / f"{target.name}.at", "wb") as last:
        for number in range(runs) if at is None else [at]:
            os.pwrite(last.fileno(), b"%09d" % number, 0)
            files = make_input(target, corpus, seed, number)
            found, error = try_one(target, files)
            if number < len(corpus) and found == "refused":
                found, error = "failed", AssertionError("a valid input was refused")
            counts[found] += 1
            if error is not None and (place := _place(error)) not in places and len(places) < SHOWN_FAILURES:
                places.add(place)
                report(target.name, seed, number, files, error, out / f"{target.name}-{seed}-{number}")
    return counts


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
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "qr_jax_fuzz")
    asked = parser.parse_args()
    if unknown := set(asked.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    failed = 0
    for name in asked.targets or TARGETS:
        target, began = TARGETS[name], time.monotonic()
        counts = run(target, asked.runs or target.runs, asked.seed, asked.out, at=asked.at, bound_memory=True)
        failed += counts["failed"]
        shown = ", ".join(f"{counts[what]} {what}" for what in ("accepted", "refused", "failed"))
        print(f"{name}: {counts.total()} runs, {time.monotonic() - began:.1f} s, {shown}", flush=True)
    return 1 if failed else 0


def _bound_memory() -> None:
    """Let the process grow by LIMIT_BYTES at most from now on."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + LIMIT_BYTES, most))


if __name__ == "__main__":
    sys.exit(main())
