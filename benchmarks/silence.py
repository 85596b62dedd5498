"""How soon each command speaks, and how long it is silent: transcripts with times, on a terminal and off it.

    python -m benchmarks.silence                 # commands but the quickstart, of runs of 2 and 8 steps (20 minutes)
    python -m benchmarks.silence --quickstart    # the quickstart too, on a terminal of 80 columns

Servers are told to end once they say that they serve; `eval --endpoint`, `synth` and `retriever check` ask one of them,
and chat is asked one question. Left out is what waits for others: `data get`, `eval --suite`, and `plan` for TPUs
(libtpu).
A command runs in a process of its own, stdout and stderr together: on a pseudo-terminal, or in a pipe. A word is output
that can be seen; a silence lies between two of them, from Enter to the end. In a pipe the first one
comes after terminal.FIRST_S; what is done by then says its result alone. Figures: benchmarks/results/silence.json.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import interleave
from benchmarks.tables import markdown

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\s")
WANTED = {"first_word_s": 2.0, "longest_silence_s": 10.0}
KINDS = {"terminal": 80, "pipe": None}  # columns
SERVES = "until Ctrl-C"  # what a server says once it answers
PROMPT = "exit ends): "
TYPED = {"chat": ("who ?\n", "exit\n")}  # a line each time that PROMPT is said; in a pipe all at once
# A run in which queries are drawn again and flip, for the probe.
SMALL = ["data.world.train=24", "data.world.dev=8", "pool.queries=4", "evaluation.questions=8", "evaluation.every=0"]
SMALL += ["train.steps=8", "train.checkpoint_every=1", "train.keep_every=1"]
Transcript = list[tuple[float, str]]  # seconds since Enter, and what came then


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    with tempfile.TemporaryDirectory() as folder:
        found = {name: figures(said) for name, said in transcripts(Path(folder), options.quickstart, options.keep)}
    show(found)
    interleave.results("silence", {"wanted": WANTED, "commands": found}, ())
    return 0


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", action="store_true", help="that run too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the transcripts go, a JSON line an output")
    return parser.parse_args(words)


def transcripts(folder: Path, quickstart: bool, keep: Path | None):
    """(name, transcript) of each command on a terminal and off it; what they make goes to `folder`."""
    port = free_port()
    for name, words in commands(folder, quickstart, port).items():
        for kind, columns in KINDS.items():
            if name == "train quickstart" and kind != "terminal":
                continue  # it takes minutes, and a pipe is told the same
            asked = [str(word).format(kind=kind) for word in words]
            served = {
                "eval --endpoint": ("serve", f"{folder}/run_{kind}"),
                "synth": ("serve", f"{folder}/run_{kind}"),
                "retriever check": ("serve-retriever", "--corpus", f"{folder}/index_{kind}"),
            }
            with serving(*served[name], "--port", str(port)) if name in served else contextlib.nullcontext():
                code, said = transcript([sys.executable, "-m", "qr_jax", *asked], columns, TYPED.get(name, ()))
            print(f"{name}, {kind}: exit code {code}", file=sys.stderr, flush=True)
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                lines = "".join(json.dumps(part) + "\n" for part in said)
                (keep / f"{name}_{kind}.jsonl".replace(" ", "_")).write_text(lines, encoding="utf-8")
            yield f"{name}, {kind}", said


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def serving(*words: str) -> Iterator[None]:
    """Serve by a command of qr-jax until the block ends."""
    command = [sys.executable, "-m", "qr_jax", *words]
    server = subprocess.Popen(command, cwd=interleave.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert server.stdout and any(SERVES in line for line in server.stdout), f"{words} serve nothing"
        yield
    finally:
        server.terminate()
        server.communicate()


def commands(folder: Path, quickstart: bool, port: int) -> dict[str, list[Any]]:
    """The words of each command, by its name; the runs come first, and the others look at the first of them."""
    train = ["train", "configs/two_layer.py", "train.keep_every=1", f"data.world_path={folder}/{{kind}}", "--run"]
    run, other, world = f"{folder}/run_{{kind}}", f"{folder}/other_{{kind}}", f"{folder}/world_{{kind}}"
    small = f"{folder}/small_{{kind}}"
    found: dict[str, list[Any]] = {
        "train quickstart": ["train", "configs/quickstart.py", "--run", f"{folder}/q_{{kind}}"]
    }
    found = found if quickstart else {}
    (folder / "answers.jsonl").write_text('{"id": "1", "prediction": "Oslo", "answers": ["Oslo"]}\n', encoding="utf-8")
    (folder / "more.jsonl").write_text('{"id": "more", "title": "Oslo", "text": "A town."}\n', encoding="utf-8")
    return found | {
        "train": [*train, run],
        "train, another": [*train, other, "seed=1"],
        "train, finished": [*train, run],
        "train --dry-run": ["train", "configs/quickstart.py", "--dry-run"],
        "sft": ["sft", "configs/two_layer.py", "--run", f"{folder}/sft_{{kind}}"],
        "eval": ["eval", run],
        "ask": ["ask", run, "who ?"],
        "chat": ["chat", run],
        "serve": ["serve", run, "--port", "0"],
        "eval --endpoint": [
            *("eval", run, "--endpoint", f"http://127.0.0.1:{port}/v1", "--model", "run_{kind}", "--questions", "8")
        ],
        "export": ["export", run, "--hf", f"{folder}/hf_{{kind}}"],
        "train, a small pool": [*("train", "configs/quickstart.py", "--run", small), *SMALL],
        "probe": ["probe", small, "--queries", "4", "--samples", "4"],
        "report": ["report", run],
        "bug-report": ["bug-report", run],
        "report, a small pool": ["report", small],
        "compare": ["compare", run, other],
        "compare CONFIG": [
            *("compare", "configs/two_layer.py", "--rules", "grpo,recycle", "--seeds", "1", "--budget", "rollouts=64"),
            *("--folder", f"{folder}/compared_{{kind}}", f"data.world_path={folder}/{{kind}}"),
        ],
        "oracle": ["oracle", "--queries", "2000", "--rollouts", "20000", "--seeds", "2"],
        "doctor": ["doctor"],
        "world": ["world", world, "documents=20000", "train=2000"],
        "data check": ["data", "check", f"{world}/train.jsonl"],
        "synth": [
            *("synth", f"{world}/documents.jsonl", f"{folder}/synth_{{kind}}", "--questions", "2"),
            *("--teacher", f"http://127.0.0.1:{port}/v1", "--model", "run_{kind}", "--max-calls", "8"),
        ],
        "index": ["index", f"{world}/documents.jsonl", f"{folder}/index_{{kind}}"],
        "index --add": ["index", "--add", f"{folder}/more.jsonl", f"{folder}/index_{{kind}}"],
        "serve-retriever": ["serve-retriever", "--corpus", f"{folder}/index_{{kind}}", "--port", "0"],
        "retriever check": ["retriever", "check", f"http://127.0.0.1:{port}", "--query", "Oslo"],
        "plan --gpu": ["plan", "configs/gpu/cards.py:smollm2_24gb", "--gpu", "rtx4090"],
        "recall": ["recall", "--corpus", f"{world}/documents.jsonl", "--questions", f"{world}/dev.jsonl"],
        "data convert": ["data", "convert", f"{world}/train.jsonl", f"{folder}/converted_{{kind}}.jsonl"],
        "score": ["score", f"{folder}/answers.jsonl"],
        "runs": ["runs", str(folder)],
        "settings": ["settings"],
        "--help": ["--help"],
        "--version": ["--version"],
    }


def transcript(command: Sequence[str], columns: int | None, typed: Sequence[str] = ()) -> tuple[int, Transcript]:
    """The exit code of a command, and what it said when; on a pseudo-terminal of so many columns, None: in a pipe."""
    start = time.monotonic()
    if columns:
        child, source = pty.fork()
    else:
        (source, sink), (asked, asks) = os.pipe(), os.pipe()
        child = os.fork()
    if child == 0:
        if not columns:
            os.dup2(asked, 0)
            os.dup2(sink, 1)
            os.dup2(sink, 2)
        os.environ["TERM"] = "xterm-256color"
        os.environ["PYTHONPATH"] = str(interleave.ROOT)
        os.chdir(interleave.ROOT)
        os.execvp(command[0], list(command))
    if columns:
        fcntl.ioctl(source, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    else:
        os.close(sink)
        os.close(asked)
        os.write(asks, "".join(typed).encode())
        os.close(asks)
    said: Transcript = []
    lines, answered = iter(typed), 0
    while True:
        try:
            part = os.read(source, 65536)
        except OSError:  # a pseudo-terminal's end
            part = b""
        if not part:
            break
        said.append((round(time.monotonic() - start, 3), part.decode(errors="replace")))
        if columns and "".join(text for _, text in said).count(PROMPT) > answered:
            os.write(source, next(lines, "").encode())
            answered += 1
        if SERVES in part.decode(errors="replace"):
            os.kill(child, signal.SIGTERM)
    os.close(source)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, [*said, (round(time.monotonic() - start, 3), "")]


def figures(said: Transcript) -> dict[str, float]:
    """When the first word came, the longest silence, and the end, in seconds."""
    words = [at for at, text in said if CONTROL.sub("", text)]
    times = [0.0, *words, said[-1][0]]
    silences = [later - earlier for earlier, later in zip(times, times[1:])]
    first = words[0] if words else said[-1][0]
    return {"first_word_s": first, "longest_silence_s": round(max(silences), 3), "seconds": said[-1][0]}


def show(found: dict[str, dict[str, float]]) -> None:
    print(f"{'':28}{'first word':>12}{'longest silence':>17}{'in all':>9}")
    for name, row in found.items():
        waits = ["longest_silence_s", *(["first_word_s"] if name.endswith("terminal") else [])]
        late = any(row[figure] > WANTED[figure] for figure in waits)
        values = f"{row['first_word_s']:12.2f}{row['longest_silence_s']:17.2f}{row['seconds']:9.1f}"
        print(f"{name:28}{values}{'  LATE' if late else ''}")


def table(found: dict[str, Any]) -> str:
    """In Markdown, of the kept figures: a row a command."""
    head = ("command", "first word, terminal (s)", "longest silence, terminal (s)", "longest silence, pipe (s)")
    rows = found["commands"]
    names = dict.fromkeys(name.rpartition(", ")[0] for name in rows)

    def cell(name: str, figure: str) -> str:
        return f"{rows[name][figure]:.1f}" if name in rows else ""

    cells = [
        (
            name,
            cell(f"{name}, terminal", "first_word_s"),
            *(cell(f"{name}, {kind}", "longest_silence_s") for kind in KINDS),
        )
        for name in names
    ]
    return markdown([head, *cells])


if __name__ == "__main__":
    sys.exit(main())
