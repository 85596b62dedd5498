"""All settings: each one's name as a user types it, its type, its default and what it means.

Meanings are the comments beside the settings, in config.py and in the plug-ins' signatures.
"""

import ast
import dataclasses
import inspect
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from qr_jax import config, plugins
from qr_jax.cli import elsewhere
from qr_jax.data.world import generate
from qr_jax.errors import UserError
from qr_jax.interfaces import CONTRACTS
from qr_jax.settings.settings import Use, describe, nearest


@dataclass(frozen=True)
class Described:
    """One setting: its full name, what it may hold, its default as it is typed, and what it means."""

    name: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Section:
    """Settings that stand together: a section of the config, or a plug-in's, whose name is what chooses it
    (`pool.rule=greso`)."""

    name: str
    about: str
    settings: tuple[Described, ...]
    plugin: str = ""  # its name alone


def sections() -> list[Section]:
    """List every setting there is: the config's own sections first, then each plug-in's."""
    found = [Section("", "The run as a whole, and the plug-ins it uses.", tuple(_fields(config.Config, "")))]
    for field in dataclasses.fields(config.Config):
        found += _sections_in(field, field.name)
    world = tuple(_fields(generate.WorldSettings, "data.world."))
    found.append(Section("data.world", _about(generate.WorldSettings.__doc__), world))
    return found + [_of_plugin(kind, name) for kind in CONTRACTS for name in plugins.names(kind)]


def _sections_in(field: dataclasses.Field, name: str) -> Iterator[Section]:
    """Yield the section that a field of the config holds, and those inside it; nothing for a value or a plug-in."""
    if dataclasses.is_dataclass(field.default) and not isinstance(field.default, Use):
        kind: Any = type(field.default)
        yield Section(name, _about(kind.__doc__), tuple(_fields(kind, f"{name}.")))
        for inner in dataclasses.fields(kind):
            yield from _sections_in(inner, f"{name}.{inner.name}")


def chosen(what: str) -> list[Section]:
    """Return the sections that `what` names: a section, a kind of plug-in, a plug-in or a setting. ValueError: none.

    A plug-in's settings may go without their section, as they are typed (`loss.high` is `learner.loss.high`), or by the
    plug-in's name (`foresee.gamma`). A plug-in from outside is named with its kind: `rule=my_lab.ideas.mine`.
    """
    place, _, outside = what.partition("=")
    kinds = [kind for kind in CONTRACTS if place in (kind, config.PLUGIN_AT[kind])]
    if kinds and "." in outside:
        return [_of_plugin(kinds[0], outside)]
    if kinds and outside:  # rule=foresee, as it is typed after a config
        what = f"{config.PLUGIN_AT[kinds[0]]}={outside}"
    every = sections()
    kind, dot, rest = what.partition(".")
    full = config.PLUGIN_AT.get(kind, kind) + dot + rest
    found = [section for section in every if what in (section.name, section.plugin)]
    found = found or [section for section in every if section.plugin and section.name.partition("=")[0] == full]
    found = found or list(_with_setting(every, full)) or list(_with_setting(every, f".{full}"))
    found = found or list(_with_setting([section for section in every if section.plugin == kind], f".{rest}"))
    if not found:
        if said := elsewhere.said_of(what):
            raise UserError(f"there is no setting {what!r}: {said}")
        known = {name for section in every for name in (section.name, section.plugin) if name} | {*config.PLUGIN_AT}
        known |= {setting.name for section in every for setting in section.settings}
        is_own = "." in outside or dot and kind not in known
        own = "; one of your own is named with its kind, as rule=FILE.FUNCTION" if is_own else ""
        near = own or nearest(what, known)
        raise UserError(f"there is no section, plug-in or setting {what!r}{near}; `qr-jax settings` lists all")
    return found


def typed(value: Any) -> str:
    """Return a default as it is typed: `none`, `true`, `64,256`; a plug-in by its name."""
    if isinstance(value, Use):
        return value.name
    if isinstance(value, (tuple, list)):
        return ",".join(map(typed, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _with_setting(every: Sequence[Section], name: str) -> Iterator[Section]:
    """Yield each section that has settings of that name (of that ending, if it begins with a dot), with those alone."""
    for section in every:
        same = tuple(
            setting for setting in section.settings
            if name == setting.name or (name.startswith(".") and setting.name.endswith(name))
        )  # fmt: skip
        if same:
            yield dataclasses.replace(section, settings=same)


def _fields(kind: Any, before: str) -> Iterator[Described]:
    """Yield the settings that a dataclass has itself, not those of the sections in it."""
    hints, source = get_type_hints(kind), inspect.getsource(sys.modules[kind.__module__])
    comments, written = _comments(source), _written(source, kind.__name__, ast.ClassDef)
    nodes = {ast.unparse(node.target): node for node in written.body if isinstance(node, ast.AnnAssign)}
    for field in dataclasses.fields(kind):
        value = field.default_factory() if callable(field.default_factory) else field.default
        if dataclasses.is_dataclass(value) and not isinstance(value, Use):
            continue
        wanted = describe(hints[field.name])
        if isinstance(value, Mapping):
            wanted, value = "named settings", ""
        yield Described(before + field.name, wanted, typed(value), _said(nodes[field.name], comments))


def _written(source: str, name: str, kind: type[ast.ClassDef] | type[ast.FunctionDef]) -> Any:
    """Return the class or function of that name in a file; None if it is written in another way."""
    return next((node for node in ast.parse(source).body if isinstance(node, kind) and node.name == name), None)


def _of_plugin(kind: str, name: str) -> Section:
    file = plugins.home(kind, name)
    source, known = inspect.getsource(file), plugins.signature(kind, name).settings
    comments, function = _comments(source), _written(source, name.rpartition(".")[2], ast.FunctionDef)
    if not function:
        raise UserError(f"{kind} {name!r} is not written in its file as a def, so that its settings could be read")
    place, settings = config.PLUGIN_AT[kind], []
    within = f"{place}.{name.rpartition('.')[2]}" if kind == "tool" else place  # one of a list
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        if argument.arg not in CONTRACTS[kind].provided:
            wanted = describe(known[argument.arg].type) if known[argument.arg].type is not Any else "any value"
            settings.append(Described(f"{within}.{argument.arg}", wanted, _default(default), _said(argument, comments)))
    return Section(f"{place}={name}", _about(file.__doc__), tuple(settings), name)


def _default(node: ast.expr | None) -> str:
    """Return a default of a signature as it is typed; a constant of its file by its name."""
    if node is None:
        return "(needed)"
    try:
        return typed(ast.literal_eval(node))
    except ValueError:
        plain = re.sub(r"Use\('(\w+)'\)", r"\1", ast.unparse(node)).strip("()").replace(", ", ",")
        return f"({plain} of its file)" if isinstance(node, ast.Name) else plain


def _comments(source: str) -> dict[int, tuple[str, bool]]:
    """Return the comment of each line that has one, and whether the line holds nothing else."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    return {token.start[0]: (token.string.lstrip("# "), not token.line[: token.start[1]].strip()) for token in comments}


def _said(node: ast.stmt | ast.arg, comments: Mapping[int, tuple[str, bool]]) -> str:
    """Join the comments directly above a line and behind it."""
    above, line = [], node.lineno - 1
    while line in comments and comments[line][1]:
        above.insert(0, comments[line][0])
        line -= 1
    end = node.end_lineno or node.lineno
    beside = [comments[end][0]] if end in comments else []
    return " ".join([*above, *beside]).partition("fmt: ")[0]


def _about(text: str | None) -> str:
    """Return the first paragraph of a docstring, in one line."""
    return " ".join((text or "").partition("\n\n")[0].split())
