"""Which programs this process has compiled, and what each cost."""

import functools
from collections import Counter

import jax

EVENT = "/jax/core/compile/backend_compile_duration"  # once a program, even one from jax's cache on disk


@functools.cache
def _programs() -> list[tuple[str, float]]:
    """Name and seconds of each, in order, since the first call."""
    programs: list[tuple[str, float]] = []

    def listen(event: str, duration_secs: float, **more: str | int) -> None:
        if event == EVENT:
            name = str(more.get("fun_name", "program"))
            programs.append((name.removeprefix("jit(").removesuffix(")"), duration_secs))

    jax.monitoring.register_event_duration_secs_listener(listen)
    return programs


def count() -> int:
    """Programs compiled since the first call of this function, which gives 0."""
    return len(_programs())


def seconds(since: int) -> float:
    """What the programs after the first `since` cost."""
    return sum(cost for _, cost in _programs()[since:])


def told(since: int) -> str:
    """The programs after the first `since`, by name, with their seconds: "decode 2, append 1 in 3.4 s"."""
    names = Counter(name for name, _ in _programs()[since:])
    listed = ", ".join(f"{name} {count}" for name, count in names.most_common())
    return f"{listed} in {seconds(since):.1f} s"
