"""Measure what rollout.lanes and emulated devices are worth at the quickstart's shape, in turn in one process.

    qr-jax quickstart && python -m benchmarks.lanes runs/quickstart     # 5 minutes on 2 idle cores; results/lanes.json

A rollout is the run's last policy on its own training questions; an update is of that rollout's groups that bear
signal, packed and stepped as a run does it. The first rounds compile and are left out.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import interleave
from benchmarks.tables import markdown
from qr_jax import assemble
from qr_jax.answers import exact_match
from qr_jax.evaluation import subject
from qr_jax.learner import learner, pack
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Episode, grades
from qr_jax.run import runs

ROLLOUTS = {"1 lane": 1, "2 lanes": 2, "4 lanes": 4}
UPDATES = {  # devices, and rows of a micro-batch
    "1 device, 8 rows": (1, 8), "1 device, 4 rows": (1, 4), "2 devices, 8 rows": (2, 8), "2 devices, 4 rows": (2, 4),
}  # fmt: skip
SKIPPED = 3  # rounds, in which programs are made


def main() -> None:
    """Measure, write the results and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run of configs/quickstart.py")
    parser.add_argument("--rounds", type=int, default=18, help="of each, in turn (18)")
    options = parser.parse_args()
    settings = runs.load(options.run)
    meshes.emulate(2)
    rollouts, groups = rollouts_by_lanes(settings, options.run, options.rounds)
    updates = in_turn(updaters(settings, options.run, groups), options.rounds)
    file = interleave.results("lanes", {"rollouts": rollouts, "updates": summary(updates)}, ())
    print(table(json.loads(file.read_text(encoding="utf-8"))))


def rollouts_by_lanes(settings: Any, run: Path, rounds: int) -> tuple[dict[str, Any], list[list[Episode]]]:
    """Seconds of a step's rollouts by lanes, and of 1,000 questions; the last step's groups of one lane."""
    queries, held_out = assemble.questions(settings, "train"), assemble.questions(settings, "eval")
    how = {"env": assemble.environment(settings), "search": assemble.searcher(settings), "seed": 0}
    asked, samples = settings.pool.queries, settings.pool.samples
    engines, last = {}, {}
    for name, lanes in ROLLOUTS.items():
        one = replace(settings, rollout=replace(settings.rollout, lanes=lanes))
        agent, params, _ = subject.open_model(one, run, hashed=False)
        engines[name] = (agent.engine, params)

    def step(name: str) -> Callable[[int], None]:
        engine, params = engines[name]

        def play(at: int) -> None:
            drawn = [(at * asked + n) % len(queries) for n in range(asked)]
            last[name] = engine.run(params, [queries[n] for n in drawn], samples, step=at, query_keys=drawn, **how)

        return play

    def evaluation(name: str) -> Callable[[int], Any]:
        engine, params = engines[name]
        return lambda at: engine.run(params, held_out, 1, step=0, purpose="greedy", temperature=0.0, **how)

    played = in_turn({name: step(name) for name in engines}, rounds)
    evaluated = in_turn({name: evaluation(name) for name in engines}, SKIPPED + 3)
    first, *others = last.values()
    alike = [np.mean([a.answer == b.answer for g, h in zip(first, of, strict=True) for a, b in zip(g, h, strict=True)])
             for of in others]  # fmt: skip
    found = {
        "a step's": summary(played),
        "1,000 questions'": summary(evaluated),
        "same answers": list(map(float, alike)),
    }
    return found, first


def updaters(settings: Any, run: Path, groups: Sequence[Sequence[Episode]]) -> dict[str, Callable[[int], None]]:
    """An update a call, on the groups whose rewards differ."""
    right = [[float(exact_match(episode.answer, episode.query.answers)) for episode in group] for group in groups]
    kept = [at for at, rewards in enumerate(right) if len(set(rewards)) > 1]
    graded = grades(np.array([right[at] for at in kept], np.float32), np.ones((len(kept), len(right[0])), bool))
    agent, made = assemble.agent(settings), {}
    for name, (devices, rows) in UPDATES.items():
        mesh = meshes.make_mesh(replace(settings.mesh, devices=devices))
        learn = replace(settings.learner, rows=rows)
        whole = learner.make(agent.cfg, settings.model, learn, mesh)
        state = {"state": whole.init(subject.weights(run, agent, mesh))}

        def update(at: int, whole=whole, state=state, rows=rows) -> None:
            sizes = dict(rows=rows, row_tokens=settings.learner.row_tokens, queries=settings.pool.queries)
            packed = pack.pack([groups[at] for at in kept], graded, samples=settings.pool.samples, **sizes)
            state["state"], metrics = whole.update(state["state"], packed, 1e-6)
            jax.block_until_ready((state["state"], metrics))

        made[name] = update
    return made


def in_turn(work: Mapping[str, Callable[[int], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, round by round, without the first."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for at in range(rounds):
        for name, one in work.items():
            start = time.perf_counter()
            one(at)
            seconds[name].append(time.perf_counter() - start)
    return {name: found[SKIPPED:] for name, found in seconds.items()}


def summary(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Medians, and the median of the rounds' ratios to the first of them."""
    first = next(iter(seconds.values()))
    return {
        name: {
            "seconds": statistics.median(found),
            "of the first": statistics.median(b / a for a, b in zip(first, found, strict=True)),
        }
        for name, found in seconds.items()
    }


def table(results: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = [["work", "lanes or devices", "median s", "of the first's time"]]
    parts = {
        **{name: of for name, of in results["rollouts"].items() if isinstance(of, dict)},
        "an update": results["updates"],
    }
    for work, by_lanes in parts.items():
        for name, of in by_lanes.items():
            rows.append([work, name, f"{of['seconds']:.3f}", f"{of['of the first']:.2f}"])
    same = ", ".join(f"{share:.3f}" for share in results["rollouts"]["same answers"])
    return markdown(rows) + f"\nShare of episodes with one lane's answer: {same}."


if __name__ == "__main__":
    main()
