"""A chat template, rendered in a process of its own with bounds on time and memory: it may be a stranger's."""

import contextlib
import datetime
import functools
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from qr_jax.errors import UserError

# Templates that print the date (Llama 3, SmolLM3) print this date: a run resumed on another day sees the same prompt.
DATE = datetime.datetime(2026, 1, 1)

PROCESSOR_S = 5  # that a template may take, jinja's import with it; Qwen3's takes a tenth
LIMIT_S = 60.0  # the same on a machine that does other things
MEMORY_BYTES = 2**30  # where the system bounds it (Linux)
MOST_CHARS, MOST_ERROR_CHARS = 1_000_000, 300  # of what comes out, and of why nothing does


def render(source: str, **values: Any) -> str:
    """Render the template with these values, which JSON can hold. ValueError if it is broken, or takes too much."""
    return _rendered(json.dumps({"source": source, "values": values}))


@functools.lru_cache(64)
def _rendered(asked: str) -> str:
    command = [sys.executable, "-P", __file__, str(PROCESSOR_S)]
    try:
        done = subprocess.run(command, input=asked.encode(), capture_output=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"it took more than {LIMIT_S:g} s") from None
    if done.returncode == -signal.SIGXCPU:
        raise UserError(f"it took more than {PROCESSOR_S} s of processor time")
    if done.returncode:
        raise UserError((done.stderr.decode(errors="replace").splitlines() or ["it ended its process"])[-1])
    return done.stdout.decode()


def _render(source: str, values: Mapping[str, Any]) -> str:
    """Render in a sandbox, with what templates written for `transformers` expect to find."""
    import jinja2
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what a model wrote, for loss masks made from text: here it only passes through."""

        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    extensions = [Generation, "jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, strftime_now=DATE.strftime)
    return environment.from_string(source).render(**values)


def _main() -> None:
    """Render what stands in stdin; the last line of stderr says why not."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1]) + 1))
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        text = _render(**json.load(sys.stdin.buffer))
        if len(text) > MOST_CHARS:
            sys.exit(f"it makes {len(text):,} characters; at most {MOST_CHARS:,} are taken")
        sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    except MemoryError:
        sys.exit("it takes too much memory")
    except Exception as error:  # the template is somebody else's program, and raises what it likes
        sys.exit(f"{type(error).__name__}: {str(error)[:MOST_ERROR_CHARS]}".splitlines()[0])


if __name__ == "__main__":
    _main()
