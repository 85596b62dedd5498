"""Kills at random moments, and what was lost: nothing. Every run ends with the bytes of one that was never killed.

    make kills                                                     # 100 kills of each kind (an hour on 2 cores)
    python tests/kills.py --one 10 --two 0 --overlap 0 --seed 3    # other kills

A run (a two-layer model, 6 steps, a checkpoint every 2) is killed up to 10 times, and then goes on to its end. A kill
aims at the phase that was met least: it waits until that begins and then for a random part of the time that it usually
takes. What it met is read from what the process had printed: "checkpoint" wherever one of the run was being written,
whatever was done beside it. Of two processes the first, the second or both are killed; with overlap one process rolls
out a step while it learns from the one before. Processes are forked from this
one, which has imported the package and started nothing of jax.
Finished runs stand in OUT/kills.jsonl, and the same command goes on after them, unless the package's code is another;
the figures go to benchmarks/results/kills.json.
"""

import argparse
import json
import random
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import forked
from forked import PHASES, Forked

STEPS = 6
KILLS_A_RUN = 10
COLD = 2  # of them in the cold start
OFTEN = ("rollout", "update", "checkpoint")  # may be killed at their second or third time, too
HEARTBEAT_S = 4.0
LIMIT_S = 600.0  # of a process that nobody kills
SURVIVES_S = 60.0  # a process whose fellow was killed
KINDS = {"one process": (1, 0), "two processes": (2, 0), "overlap": (1, 1)}  # processes, and train.overlap


def settings(folder: Path, processes: int, overlap: int) -> Any:
    """Few steps that do everything: cold start, searches, waiting groups, evaluations on the way."""
    from killed_run import tiny

    from qr_jax.config import Mesh, use

    base = tiny(folder)
    return replace(
        base,
        env=use("searching.searching"),
        sft=replace(base.sft, steps=4),
        evaluation=replace(base.evaluation, every=2, questions=4),
        train=replace(base.train, steps=STEPS, checkpoint_every=2, keep_checkpoints=2, overlap=overlap),
        mesh=Mesh(data=processes, devices=processes, heartbeat_s=HEARTBEAT_S),
        log=replace(base.log, tensorboard=False),
    )


def train(folder: Path, run: str, several: Sequence[str]) -> int:
    """What a process does: the command that goes on with the run."""
    from qr_jax.cli import cli

    forked.tell_phases()
    return cli.main(["train", str(folder / "config.json"), "--run", str(folder / run), "--trust", *several])


def start(folder: Path, run: str, processes: int) -> list[Forked]:
    """All processes of the run."""
    if processes == 1:
        return [Forked(partial(train, folder, run, ()))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    several = ("--coordinator", address, "--processes", str(processes), "--process")
    return [Forked(partial(train, folder, run, (*several, str(me)))) for me in range(processes)]


def all_well(children: Sequence[Forked], limit_s: float = LIMIT_S) -> None:
    """RuntimeError, with what they said, unless all end with 0."""
    forked.finish(children, limit_s)
    if any(child.code for child in children):
        said = "\n".join(line for child in children for line in child.lines[-40:])
        raise RuntimeError(f"a run nobody killed ended with {[child.code for child in children]}:\n{said}")


def forget_other_code(out: Path) -> None:
    """Delete what stands in OUT if other code of the package, or other libraries, made it: they may round otherwise."""
    from qr_jax.parallel import alike

    kept = out / "code.txt"
    if not kept.exists() or kept.read_text() != alike.code():
        (out / "kills.jsonl").unlink(missing_ok=True)
        for kind in KINDS:
            shutil.rmtree(out / folder_of(kind), ignore_errors=True)
        kept.write_text(alike.code())


def folder_of(kind: str) -> str:
    """The name of the folder in OUT that has the runs of a kind."""
    return kind.replace(" ", "_")


def reference(folder: Path, kind: str) -> dict[str, float]:
    """A run that is never killed, made once; and how long each phase usually takes, all programs being compiled."""
    from qr_jax import config

    known, (processes, overlap) = folder / "seconds.json", KINDS[kind]
    if not known.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config.to_json(settings(folder, processes, overlap))))
        all_well(start(folder, "whole", processes))
        again = start(folder, "again", processes)
        all_well(again)
        if differ := compare(folder, "again"):
            raise RuntimeError(f"two runs that nobody killed differ: {differ}")
        known.write_text(json.dumps({phase: statistics.median(again[0].seconds(phase)) for phase in PHASES}))
    return json.loads(known.read_text())


def compare(folder: Path, run: str) -> list[str]:
    """What differs between the run and the one that was never killed."""

    def told() -> None:
        from tpu_scripts.same_runs import differences

        print(json.dumps(differences(folder / run, folder / "whole", STEPS)))

    child = Forked(told)
    all_well([child])
    return json.loads(child.lines[-1])


def kill_once(children: Sequence[Forked], victims: Sequence[int], phase: str, at: int, after_s: float) -> str | None:
    """Kill these processes so long after the phase began for the at-th time; the phase met, None where all ended."""
    until = None
    first = children[victims[0]]
    while any(child.code is None for child in children):
        if until is None:
            began = first.began(phase)
            until = began[at - 1] + after_s if len(began) >= at else None
        if until is not None and time.monotonic() >= until and first.code is None:
            for victim in victims:
                children[victim].signal(signal.SIGKILL)
            forked.finish([children[victim] for victim in victims], SURVIVES_S)
            return first.phase() if first.code == -signal.SIGKILL else None
        left_s = until - time.monotonic() if until is not None else 1.0
        forked.wait(children, min(left_s, 1.0))
        for child in children:
            child.read()
    return None


def one_run(
    folder: Path, kind: str, seed: int, number: int, kills: int, usual: dict[str, float], met_before: Counter[str]
) -> dict:
    """A run killed so many times, or fewer where it ends before; what each kill met, and what differs at the end."""
    rng, run, (processes, _) = random.Random(f"{seed} {kind} {number}"), f"run_{number}", KINDS[kind]
    shutil.rmtree(folder / run, ignore_errors=True)
    kill_list: list[dict[str, Any]] = []
    ended = False
    while len(kill_list) < kills and not ended:
        met = met_before + Counter(kill["met"] for kill in kill_list)
        is_cold = not (folder / run / "before.json").exists()
        aim = PHASES[0] if is_cold and len(kill_list) < COLD else min(PHASES[1:], key=lambda phase: met[phase])
        victims = rng.choice(((0,), (1,), (0, 1))) if processes > 1 else (0,)
        children = start(folder, run, processes)
        at = rng.choice((1, 2, 3)) if aim in OFTEN else 1
        phase = kill_once(children, victims, aim, at, rng.random() * usual[aim])
        hung = not forked.finish(children, SURVIVES_S)
        if phase is None:
            all_well(children)
            ended = True
            continue
        kill_list.append({
            "aim": aim, "met": phase,
            "killed": victims, "others": [child.code for at, child in enumerate(children) if at not in victims],
            "hung": hung,
        })  # fmt: skip
    if not ended:
        all_well(start(folder, run, processes))
    differ = compare(folder, run)
    if not differ:
        shutil.rmtree(folder / run)
    return {"kind": kind, "seed": seed, "run": number, "kills": kill_list, "differences": differ}


def campaign(out: Path, kind: str, kills: int, seed: int) -> list[dict]:
    """Runs until there are so many kills; those that OUT/kills.jsonl has are not made again."""
    log, folder = out / "kills.jsonl", out / folder_of(kind)
    lines = log.read_text().splitlines() if log.exists() else []
    runs = [run for run in map(json.loads, lines) if (run.get("kind"), run["seed"]) == (kind, seed)]
    usual = reference(folder, kind) if kills else {}
    while (done := sum(len(run["kills"]) for run in runs)) < kills:
        began = time.monotonic()
        met = Counter(kill["met"] for run in runs for kill in run["kills"])
        runs.append(one_run(folder, kind, seed, len(runs), min(kills - done, KILLS_A_RUN), usual, met))
        with log.open("a") as file:
            file.write(json.dumps(runs[-1]) + "\n")
        told = ", ".join(kill["met"] for kill in runs[-1]["kills"])
        same = f"DIFFERS in {runs[-1]['differences']}" if runs[-1]["differences"] else "the same bytes"
        print(f"{kind}, run {len(runs)}, {time.monotonic() - began:.0f} s: {told}: {same}", flush=True)
    return runs


def figures(runs: Sequence[dict]) -> dict[str, Any]:
    """The counts of a campaign."""
    kills = [kill for run in runs for kill in run["kills"]]
    return {
        "kills": len(kills), "runs": len(runs), "identical": sum(not run["differences"] for run in runs),
        "met": {phase: sum(kill["met"] == phase for kill in kills) for phase in (*PHASES, "between")},
        "killed": dict(Counter(" and ".join(map(str, kill["killed"])) for kill in kills)),
        "others_ended_with": dict(Counter(str(code) for kill in kills for code in kill["others"])),
        "hung": sum(kill["hung"] for kill in kills),
        "differences": [f"run {run['run']}: {run['differences']}" for run in runs if run["differences"]],
    }  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", type=int, default=100, help="kills of runs of one process (100)")
    parser.add_argument("--two", type=int, default=100, help="kills of runs of two processes (100)")
    parser.add_argument(
        "--overlap", type=int, default=100, help="kills of runs of one process with train.overlap=1 (100)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "qr_jax_kills")
    parser.add_argument("--results", type=Path, default=None, help="folder for kills.json (benchmarks/results)")
    asked = parser.parse_args(words)
    forked.set_out(asked.out)
    from benchmarks import interleave
    from qr_jax import train as train  # all that a process imports is imported here, once

    forget_other_code(asked.out)

    wanted = dict(zip(KINDS, (asked.one, asked.two, asked.overlap), strict=True))
    counts = {kind: figures(campaign(asked.out, kind, kills, asked.seed)) for kind, kills in wanted.items()}
    names = ("kills", "runs", "identical", "hung")
    rows = [[kind, *map(found.get, names), *found["met"].values()] for kind, found in counts.items()]
    print(interleave.table(["", *names, *PHASES, "between"], rows))
    command = f"python tests/kills.py --one {asked.one} --two {asked.two} --overlap {asked.overlap} --seed {asked.seed}"
    content = {"command": command, "steps": STEPS, "versions": interleave.versions(), **counts}
    print(f"written to {interleave.results('kills', content, (), folder=asked.results)}")
    return 1 if any(found["differences"] or found["hung"] for found in counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
