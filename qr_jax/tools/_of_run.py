"""The tools of a run: their JSON schemas, and a search function that answers their calls too."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qr_jax import plugins
from qr_jax.data.characters import nfkc
from qr_jax.errors import PluginError, UserError
from qr_jax.records import Call, SearchFunction, call_of
from qr_jax.settings.settings import Use, plain, show

BUILT_IN = "search"  # the tool that asks the run's retriever
NAME = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)  # of a tool or an argument
MOST_CHARS = 20_000  # of all schemas together
MOST_WORDS = 1_000  # characters of one text in a schema
PARTS: Mapping[str, type] = {"properties": dict, "required": list}  # of a tool's parameters
# No sign in a text of a schema begins a tag or a control token of any tokenizer: it stands in the chat template.
INERT = str.maketrans("<>[]{}|", "‹›()()¦")


def schemas(tools: Sequence[Use]) -> tuple[Mapping[str, Any], ...]:
    """Return a JSON schema of each tool, as chat templates take it; every text in it is made inert.

    ValueError for two tools of one name, a tool named like the built-in `search` (whose calls go to the retriever), a
    name that no call could hold, and schemas that are too long.
    """
    found = [inert(schema) for tool in tools for schema in _schemas_of(tool)]
    names = [schema["function"]["name"] for schema in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"tools has {', '.join(twice)} twice; leave one out, or set prefix=... of an mcp server")
    if (size := len(json.dumps(found))) > MOST_CHARS:
        raise UserError(f"the schemas of tools have {size:,} characters, of which {MOST_CHARS:,} are taken: name fewer")
    return tuple(found)


def _schemas_of(tool: Use) -> Sequence[Mapping[str, Any]]:
    """Return the schemas of one plug-in; ValueError if its file says nothing about it."""
    given = plugins.check("tool", tool)
    several = plugins.beside("tool", tool.name, "schemas")
    if several is not None:
        return _none_built_in(tool.name, several(**given))
    said, name = plugins.constants("tool", tool.name), tool.name.rpartition(".")[2]
    if missing := [constant for constant in ("DESCRIPTION", "PARAMETERS") if constant not in said]:
        wanted = 'DESCRIPTION = "What it does." and PARAMETERS = {"text": {"type": "string"}}'
        raise UserError(f"tool {tool.name!r} has no {' and no '.join(missing)} in its file; write {wanted}")
    arguments = plain(said["PARAMETERS"])
    for key, about in arguments.items():
        if not isinstance(about, Mapping):
            told = f"in PARAMETERS of tool {tool.name!r} {key} is {show(about)[:100]}"
            raise UserError(f'{told}; wanted a JSON schema such as {{"type": "string"}}')
    needed = [key for key, about in arguments.items() if "default" not in about]
    parameters = {"type": "object", "properties": arguments, "required": needed}
    made = [schema_of(name, said["DESCRIPTION"], parameters)]
    return _none_built_in(tool.name, made) if "." in tool.name else made


def _none_built_in(tool: str, made: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the schemas of a user's file or server; ValueError if one is called as the built-in BUILT_IN."""
    if any(schema["function"]["name"] == BUILT_IN for schema in made):
        todo = "give it another name, or set prefix=... of an mcp server"
        raise UserError(f"tool {tool!r} is called {BUILT_IN!r}, as the tool that asks the retriever is; {todo}")
    return made


def schema_of(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema in the form that chat templates take."""
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def inert(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema without a sign that may begin a tag, in short texts.

    ValueError for a name that is none, and where `properties` is no object or `required` no list of names.
    """
    function = schema["function"]
    properties, required = (function["parameters"].get(name, kind()) for name, kind in PARTS.items())
    are_names = isinstance(required, list) and all(isinstance(name, str) for name in required)
    if not isinstance(properties, Mapping) or not are_names:
        found = show({"properties": properties, "required": required})[:200]
        wanted = "properties as an object and required as a list of names"
        raise UserError(f"the schema of the tool {show(function['name'])[:100]} has {found}; wanted {wanted}")
    for name in (function["name"], *properties):
        if not isinstance(name, str) or not NAME.fullmatch(name):
            wanted = "up to 64 letters, digits and _ . -, the first a letter"
            raise UserError(f"a tool, or an argument of one, is called {show(name)[:100]}; wanted {wanted}")
    return _inert(schema)


def _inert(value: Any) -> Any:
    if isinstance(value, str):
        seen = (letter if letter.isprintable() else " " for letter in nfkc(value[:MOST_WORDS]).translate(INERT))
        return "".join(seen)[:MOST_WORDS]
    if isinstance(value, Mapping):
        return {_inert(key): _inert(item) for key, item in value.items()}
    return [_inert(item) for item in value] if isinstance(value, list | tuple) else value


def answering(tools: Sequence[Use], provided: Mapping[str, Any]) -> SearchFunction:
    """Return a search function that gives texts to `provided["search"]` and Calls to their tool.

    A batch is of texts alone, or of one tool's calls, as `run_searches` makes it. What a tool raises passes through:
    `run_searches` tries again, and in the end makes a fault of it.
    """
    by_name: dict[str, Any] = {}
    meant: dict[str, Mapping[str, Any]] = {}
    for tool in tools:
        bound = plugins.bind("tool", tool, provided={**provided, "kept": {}})
        for schema in _schemas_of(tool):
            by_name[schema["function"]["name"]] = bound
            meant[schema["function"]["name"]] = _values(schema)

    @functools.wraps(provided["search"])  # whose figures are read through it
    def search(queries: list[str | Call], k: int) -> Sequence[Any]:
        name = queries[0].tool if queries and isinstance(queries[0], Call) else ""
        if name and name not in by_name:
            raise PluginError(f"the environment called the tool {name!r}; the run has {', '.join(by_name)}")
        if not name:
            return provided["search"](queries, k)
        return by_name[name]([_as_declared(call, meant[name]) for call in queries])

    return search


def _values(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return {argument: {enum value as the model sees it: value in the tool's own schema}}, where the two differ."""
    properties = schema["function"]["parameters"].get("properties", {})
    enums = {name: about.get("enum") for name, about in properties.items() if isinstance(about, Mapping)}
    shown = {
        name: {_inert(value): value for value in values if isinstance(value, str) and _inert(value) != value}
        for name, values in enums.items() if isinstance(values, list | tuple)
    }  # fmt: skip
    return {name: values for name, values in shown.items() if values}


def _as_declared(call: Any, meant: Mapping[str, Any]) -> Any:
    given = call.given() if meant else {}
    changed = {name: meant[name][given[name]] for name in meant if given.get(name) in meant[name]}
    return call_of(call.tool, given | changed) if changed else call
