"""The programs that this process has compiled or compiles now, and the seconds that each took."""

import functools
from collections import Counter
from collections.abc import Callable

import jax

from qr_jax.logging import terminal

EVENT = "/jax/core/compile/backend_compile_duration"  # once a program, even one from jax's cache on disk
LATE_S = 1.0  # of compiling after the warm-up: from there on it is said without --verbose


class _Heard:
    """Name and seconds of each program in order, and the names of those under way, since this was made."""

    def __init__(self) -> None:
        self.programs: list[tuple[str, float]] = []
        self.under_way: list[str] = []  # threads compile side by side; appending and removing are atomic
        jax.monitoring.register_scalar_listener(self.begin)
        jax.monitoring.register_event_duration_secs_listener(self.end)
        terminal.beside(now)

    def begin(self, event: str, value: float, **more: str | int) -> None:
        if event == EVENT:
            self.under_way.append(_name(more))

    def end(self, event: str, duration_secs: float, **more: str | int) -> None:
        if event == EVENT:
            name = _name(more)
            self.programs.append((name, duration_secs))
            if name in self.under_way:
                self.under_way.remove(name)


def _name(more: dict[str, str | int]) -> str:
    return str(more.get("fun_name", "program")).removeprefix("jit(").removesuffix(")")


@functools.cache
def _heard() -> _Heard:
    return _Heard()


def count() -> int:
    """Return how many programs this process compiled since the first call of this function, which returns 0."""
    return len(_heard().programs)


def now() -> str:
    """Name what is being compiled, as in "compiling decode" or "compiling decode, append"; "" if nothing is."""
    names = list(dict.fromkeys(name.replace("<lambda>", "a small program") for name in _heard().under_way))
    return f"compiling {', '.join(names)}" if names else ""


def seconds(since: int) -> float:
    """Add up the seconds that the programs after the first `since` took."""
    return sum(cost for _, cost in _heard().programs[since:])


def told(since: int) -> str:
    """Return the programs after the first `since`, by name, with their seconds: "decode 2, append 1 in 3.4 s"."""
    names = Counter(name for name, _ in _heard().programs[since:])
    listed = ", ".join(f"{name} {count}" for name, count in names.most_common())
    return f"{listed} in {seconds(since):.1f} s"


def tell_late(since: int, when: str, say: Callable[[str], None] = terminal.say) -> None:
    """Say which programs after the first `since` were made, where they cost more than LATE_S, or with --verbose."""
    if count() > since and (seconds(since) > LATE_S or terminal.is_verbose()):
        say(f"{when}: compiled {told(since)}")
