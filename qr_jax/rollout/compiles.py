"""How many programs this process has compiled: after warm-up the number must not change."""

import functools

import jax

EVENT = "/jax/core/compile/backend_compile_duration"  # one a program, also where the compilation cache on disk has it


@functools.cache
def _counter() -> list[int]:
    found = [0]

    def listen(event: str, duration_secs: float, **_) -> None:
        found[0] += event == EVENT

    jax.monitoring.register_event_duration_secs_listener(listen)
    return found


def count() -> int:
    """Programs compiled since the first call of this function, which gives 0."""
    return _counter()[0]
