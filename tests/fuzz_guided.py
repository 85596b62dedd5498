"""One target of fuzz.py under atheris, which goes on from the inputs that reached new lines.

    make fuzz-guided TARGET=gguf                # 10 minutes; the same command goes on
    python tests/fuzz_guided.py gguf --seconds 60

The first byte of an input chooses a valid input, the second one of its files; the rest stands in that file's place.
What reached new lines is kept below OUT/TARGET.guided, and an input that failed beside it, by fuzz.py's own rules.
"""

import argparse
import contextlib
import importlib
import io
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

LIMIT_S = 10.0  # of processor time for an input: code that is followed takes several times as long


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "qr_jax_fuzz")
    asked = parser.parse_args()
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        parser.error("atheris is not installed: pip install -e '.[fuzz]'")
    quiet = contextlib.redirect_stderr(io.StringIO())  # of a line a module
    with quiet, atheris.instrument_imports(include=["qr_jax"]):
        import fuzz
    if asked.target not in fuzz.TARGETS:
        parser.error(f"no target {asked.target}; there are {', '.join(fuzz.TARGETS)}")
    logging.disable(logging.CRITICAL)
    target = fuzz.TARGETS[asked.target]
    valid = [target.pack(parts) for parts in fuzz.corpus_of(target).valid]
    for files in valid:  # all that the target imports takes its time here
        fuzz.try_one(target, files, limit_s=0)

    def try_one(data: bytes) -> None:
        files = valid[data[0] % len(valid)] if data else valid[0]
        if len(data) > 1:
            files = {**files, list(files)[data[1] % len(files)]: data[2:]}
        found, error = fuzz.try_one(target, files, LIMIT_S)
        if error is not None:
            fuzz.report(target.name, 0, 0, files, error, asked.out / f"{target.name}.guided_failed")
            raise error

    folder = asked.out / f"{target.name}.guided"
    folder.mkdir(parents=True, exist_ok=True)
    for at, files in enumerate(valid[:256]):
        for number, content in enumerate(files.values()):
            (folder / f"valid_{at}_{number}").write_bytes(bytes([at, number]) + (content or b""))
    words = [f"-max_total_time={asked.seconds}", f"-artifact_prefix={asked.out}/{target.name}-"]
    atheris.Setup([sys.argv[0], str(folder), *words], try_one)
    atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    main()
