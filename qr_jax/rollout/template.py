"""A chat template, rendered in jinja's sandbox with what templates written for `transformers` expect to find."""

import datetime
import functools
import json
from typing import Any

from qr_jax.errors import UserError

# Templates that print the date (Llama 3, SmolLM3) print this date: a run resumed on another day sees the same prompt.
DATE = datetime.datetime(2026, 1, 1)
MOST_ERROR_CHARS = 300


def render(source: str, **values: Any) -> str:
    """Render the template with these values. ValueError if it is broken or refuses them."""
    try:
        return _environment().from_string(source).render(**values)
    except Exception as error:  # the template is somebody else's program, and raises what it likes
        raise UserError(f"{type(error).__name__}: {str(error)[:MOST_ERROR_CHARS]}".splitlines()[0]) from None


@functools.cache
def _environment() -> Any:
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
    return environment
