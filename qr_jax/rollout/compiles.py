"""How many programs this process has compiled: after warm-up the number must not change."""

import functools

import jax

EVENT = "/jax/core/compile/backend_compile_duration"  # once a program, even one from jax's cache on disk


@functools.cache
def _counter() -> list[int]:
    programs = [0]

    def listen(event: str, duration_secs: float, **_) -> None:
        programs[0] += event == EVENT

    jax.monitoring.register_event_duration_secs_listener(listen)
    return programs


def count() -> int:
    """Programs compiled since the first call of this function, which gives 0."""
    return _counter()[0]
