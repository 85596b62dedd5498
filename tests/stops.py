"""How long a SIGTERM takes, in each phase of a run of SmolLM2-135M's shape on this machine's cores.

    python tests/stops.py                      # some 15 minutes on 2 cores
    python tests/stops.py --only update        # one phase; --out keeps the run and what is compiled

The weights are random and the words are the world's, but the vocabulary has all 49,152 entries. One run is stopped in
each phase in turn, and the same command goes on with it. "heard": until the process said so; "ended": until it was
gone, and what had to be saved was saved. `timeout -k 30` and spot machines give 30 s.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
from forked import PHASES, Forked

VOCABULARY = 49152
LIMIT_S = 1200.0  # of a process, to its phase
AFTER_S = {"cold start": 3.0, "rollout": 5.0, "update": 5.0, "evaluation": 2.0, "checkpoint": 0.2}
HEARD = "SIGTERM: saving and ending"


def settings(folder: Path) -> Any:
    """The batches of configs/smollm2_single_hop.py on the synthetic world."""
    from killed_run import tiny

    from qr_jax.config import Evaluation, Learner, Model, Rollout, Sft, Train, use

    base = tiny(folder)
    return replace(
        base,
        model=Model(name="smollm2_135m", remat="attention"),
        env=use("search_r1", max_turns=1),
        pool=replace(base.pool, queries=8, samples=8, min_signal=1),
        rollout=Rollout(slots=32, context_tokens=512, turn_tokens=72, buckets=(128, 512), chunk=8),
        learner=Learner(rows=1, row_tokens=768, keep_zero_variance=True),
        sft=Sft(steps=2, traces=20, max_tokens=512),
        evaluation=Evaluation(questions=8, every=1, during=8),
        train=Train(steps=8, checkpoint_every=1),
    )


def train(folder: Path) -> int:
    """What a process does: the command that goes on with the run."""
    from qr_jax import assemble
    from qr_jax.cli import cli
    from qr_jax.models.tokenizer import WordTokenizer

    words = assemble.world_tokenizer

    def wide(config: Any) -> Any:
        own = words(config)
        return WordTokenizer([*own.words[3:], *(f"word{number}" for number in range(VOCABULARY - own.size))])

    assemble.world_tokenizer = wide
    forked.tell_phases()
    return cli.main(["train", str(folder / "config.json"), "--run", str(folder / "run"), "--trust"])


def stop_in(folder: Path, phase: str) -> dict[str, Any]:
    """Start the command, and stop it in the phase; seconds until it was heard and until it ended."""
    child = Forked(lambda: train(folder))
    cold = folder / "run" / "sft" / "metrics.jsonl"
    until = time.monotonic() + LIMIT_S
    while child.code is None and time.monotonic() < until:
        forked.wait([child], 0.2)
        child.read()
        inside = child.began(phase) and (phase != "cold start" or cold.exists() and cold.stat().st_size > 0)
        if inside:
            break
    time.sleep(AFTER_S[phase])
    child.read()
    begun, heard_s = time.monotonic(), None
    met = child.phase()
    child.signal(signal.SIGTERM)
    while child.code is None and time.monotonic() < begun + LIMIT_S:
        forked.wait([child], 0.1)
        child.read()
        if heard_s is None and any(HEARD in line for line in child.lines):
            heard_s = time.monotonic() - begun
    ended_s = time.monotonic() - begun
    forked.finish([child], 0)
    said = [line for line in child.lines if line.strip()][-3:]
    return {"phase": phase, "met": met, "heard_s": heard_s, "ended_s": ended_s, "code": child.code, "said": said}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "qr_jax_stops")
    asked = parser.parse_args(words)
    forked.set_out(asked.out)
    from benchmarks import interleave
    from qr_jax import config
    from qr_jax import train as train  # all that a process imports is imported here, once

    path = asked.out / "config.json"
    if not path.exists():
        path.write_text(json.dumps(config.to_json(settings(asked.out))))
    stops = []
    for phase in asked.only:
        stop = stop_in(asked.out, phase)
        print(json.dumps(stop), flush=True)
        stops.append({name: value for name, value in stop.items() if name != "said"})
    rows = [[stop[name] for name in ("phase", "met", "heard_s", "ended_s", "code")] for stop in stops]
    print(interleave.table(["stopped in", "met", "heard s", "ended s", "code"], rows))
    interleave.results("stops", {"stops": stops}, ())
    return 0


if __name__ == "__main__":
    sys.exit(main())
