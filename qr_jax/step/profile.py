"""Write a profiler trace of some steps to the run's folder, for xprof and its TensorBoard plugin."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from qr_jax.parallel import hosts

FOLDER = "profile"


@contextlib.contextmanager
def traced(asked: str | None, folder: Path) -> Iterator[Callable[[int], contextlib.AbstractContextManager]]:
    """Yield a function of a step's number that starts or stops the trace there and returns the step's context.

    `asked`: the steps to trace, FROM:TO (train.profile); None: none. A trace goes on until the step after them begins,
    so that evaluations and checkpoints in between are in it. Each process writes to a folder of its own, and a run that
    is resumed inside these steps writes one trace more.
    """
    first, end = map(int, asked.split(":")) if asked else (0, 0)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # each call of Python would slow what is traced, and fill the file
    is_on = False
    with contextlib.ExitStack() as trace:

        def entered(step: int) -> contextlib.AbstractContextManager:
            nonlocal is_on
            wanted = first <= step < end
            if wanted and not is_on:
                place = folder / FOLDER / f"process_{hosts.index()}"
                jax.profiler.start_trace(place, profiler_options=options)
                trace.callback(jax.profiler.stop_trace)
            elif not wanted:
                trace.close()
            is_on = wanted
            return jax.profiler.StepTraceAnnotation("step", step_num=step)

        yield entered
