"""The books of a run that much happened to: is every step and draw there once, and does memory stay?"""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lost(run: Path, steps: int) -> list[str]:
    """What is missing from the run's books, or stands there twice, or does not add up."""
    lines, draws = rows(run / "metrics.jsonl"), rows(run / "ledger.jsonl")
    counted, drawn = Counter(line["step"] for line in lines), Counter((draw["step"], draw["query"]) for draw in draws)
    wrong = [f"step {step} stands {counted[step]} times" for step in range(1, steps + 1) if counted[step] != 1]
    wrong += [f"step {step} is none of the run" for step in counted if not 1 <= step <= steps]
    wrong += [f"draw {draw} stands {times} times" for draw, times in drawn.items() if times != 1]
    rollouts, by_step = 0, defaultdict(list)
    for draw in draws:
        by_step[draw["step"]].append(draw)
    for line in lines:
        step, of_step = line["step"], by_step[line["step"]]
        rollouts += line["pool/rollouts"]
        for name, of_metrics, of_ledger in (
            ("draws", line["pool/drawn"], len(of_step)),
            ("rollouts", line["budget/rollouts"], rollouts),
            ("rollouts of the step", line["pool/rollouts"], sum(len(draw["rewards"]) for draw in of_step)),
            ("tokens", round(line["rollout/tokens"] * line["pool/rollouts"]), sum(draw["tokens"] for draw in of_step)),
        ):
            if of_metrics != of_ledger:
                wrong.append(f"step {step} has {of_metrics} {name} in metrics.jsonl and {of_ledger} in its draws")
    episodes = {path.name for path in (run / "episodes").iterdir()}
    wrong += [f"{len(episodes)} files of episodes"] * (episodes != {f"step_{step:06d}.jsonl" for step in counted})
    return wrong


def growth(resident_mb: dict[int, float], first: int) -> float | None:
    """Resident memory at the end against that after `first` steps; None in a shorter run."""
    later = [step for step in resident_mb if step >= first]
    return resident_mb[later[-1]] / resident_mb[later[0]] - 1 if len(later) > 1 else None
