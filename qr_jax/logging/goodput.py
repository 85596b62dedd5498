"""The uses of a run's wall time since its first start: shares in each step's row, over all attempts.

Wall time is the time during which a process of the run ran, without the time between two attempts and without what a
killed process did after its last row. If a run stopped or rolled back, the time from the last row that stays to the
next step that stays counts as `restarts`: repeated or cut-off steps, loading, compiling. Compiling within a step counts
in the phase that waited for it (time/compile_s).
"""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qr_jax.logging import metrics_writer
from qr_jax.logging.metrics import WALL as PHASES

WALL_S = "time/wall_s"
ENDED = "wall_s"  # of an attempt's log folder: the run's seconds when it ended by itself
GOOD = ("rollout", "search_wait", "learner")


def before(folder: Path) -> float:
    """Return the seconds that earlier attempts ran."""
    logs = folder / "logs"
    rows = [row for place in (folder, *logs.glob("attempt_*/discarded")) for row in metrics_writer.read(place)]
    seconds = [row.get(WALL_S) or 0.0 for row in rows]
    for path in logs.glob(f"attempt_*/{ENDED}"):
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was cut off
            seconds.append(float(path.read_text()))
    return max((value for value in seconds if math.isfinite(value)), default=0.0)


class Goodput:
    """The seconds of each phase so far; `last` is the row that the attempt goes on after, {} without one."""

    def __init__(self, last: Mapping[str, Any]):
        self._wall_s = last.get(WALL_S) or 0.0
        self._spent_s = {name: self._wall_s * (last.get(f"time/of_wall_{name}") or 0.0) for name in PHASES}
        self._between = "restarts" if last else "start"  # the phase that gets the time before the next step
        self._beside_s = last.get("time/beside_s") or 0.0  # from the previous row, during which this step was played

    def after(self, row: Mapping[str, Any], wall_s: float) -> dict[str, float]:
        """Add a step's row at the run's second `wall_s`; return the metrics that join it."""
        names = ("step", "rollout", "learner", "search_wait", "evaluation", "beside")
        step_s, rollout_s, learner_s, wait_s, evaluation_s, beside_s = (row.get(f"time/{of}_s") or 0.0 for of in names)
        wait_s = min(wait_s, rollout_s + self._beside_s)  # the rest of the wait overlapped an update
        spent = {"rollout": rollout_s + beside_s - wait_s, "search_wait": wait_s, "learner": learner_s}
        spent |= {"evaluation": evaluation_s, "rest": step_s - rollout_s - learner_s - beside_s}
        self._beside_s = beside_s
        between_s = wall_s - self._wall_s - step_s - evaluation_s
        spent[self._between] = spent.get(self._between, 0.0) + between_s
        for name, seconds in spent.items():
            self._spent_s[name] += seconds
        self._wall_s, self._between = wall_s, "rest"
        shares = {name: seconds / wall_s for name, seconds in self._spent_s.items()}
        good = sum(shares[name] for name in GOOD)
        return {WALL_S: wall_s, "perf/goodput": good} | {f"time/of_wall_{name}": shares[name] for name in PHASES}
