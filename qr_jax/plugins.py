"""Plug-ins by name: a folder's file is its function; a dotted name is a function's import path.

Checking a plug-in imports it, so trust.py refuses a stranger's config before any name in it reaches this module.
interfaces.py says what each kind is given and must return.
"""

import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import linecache
import math
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from qr_jax.errors import PluginError, UserError
from qr_jax.interfaces import CONTRACTS, EXAMPLE, Contract
from qr_jax.settings.settings import Use, bare, conform, inside, nearest, out_of_bounds

ROOT = Path(__file__).parent
RAISED = "raised by"
BROAD_EXTRAS = ("tpu", "fuzz", "docs", "dev")  # extras for more than one part of the package
REQUIRED = re.compile(r"([\w.-]+).*; extra == ['\"](\w+)['\"]")


def around(name: str, *, optional: bool = False) -> Any:
    """Import a module outside the core on first use, by its name within qr_jax: the core imports none itself.

    ValueError that says what to install if a package that it needs is missing. `optional`: None if that or the module
    itself is not there.
    """
    try:
        return importlib.import_module(f"{ROOT.name}.{name}")
    except ModuleNotFoundError as error:
        lacks = error.name or ""
        is_ours = not lacks or lacks.partition(".")[0] == ROOT.name
        is_not_there = bool(lacks) and f"{ROOT.name}.{name}.".startswith(f"{lacks}.")
        if optional and (not is_ours or is_not_there):
            return None
        if is_not_there:
            raise UserError(f"this needs {lacks}, which this copy of qr_jax lacks") from error
        if is_ours:
            raise
        extra = extra_with(lacks) or name.partition(".")[0]
        raise UserError(f"{name} needs the package {lacks}; pip install 'qr_jax[{extra}]' brings it") from error


def extra_with(package: str) -> str | None:
    """Return the extra of qr_jax that brings a package, by its import's name; None if none does."""
    wanted = package.partition(".")[0].replace("_", "-").lower()
    with suppress(importlib.metadata.PackageNotFoundError):  # a copy of the package that is not installed
        lines = importlib.metadata.requires(ROOT.name) or ()
        found = [match.groups() for line in lines if (match := REQUIRED.match(line))]
        narrow = ((name.replace("_", "-").lower(), extra) for name, extra in found if extra not in BROAD_EXTRAS)
        return next((extra for name, extra in narrow if name == wanted), None)
    return None


@dataclass(frozen=True)
class Setting:
    """One keyword-only parameter: its type with its bound (Any: a config cannot give it), and its default."""

    type: Any
    required: bool
    default: Any = None


@dataclass(frozen=True)
class Signature:
    """A plug-in's parameters: the data before its `*`, and the settings after."""

    data: tuple[str, ...]
    settings: Mapping[str, Setting]


def names(kind: str) -> list[str]:
    """List the plug-ins of one kind that qr_jax has itself: the files of its folders."""
    return sorted(modules(kind))


def modules(kind: str) -> Mapping[str, str]:
    """Return the full name of the module of each of qr_jax's own plug-ins of a kind."""
    return {
        path.stem: f"{ROOT.name}.{folder.replace('/', '.')}.{path.stem}"
        for folder in CONTRACTS[kind].folders
        for path in (ROOT / folder).glob("*.py")
        if not path.stem.startswith("_")
    }


def find(kind: str, name: str) -> Callable[..., Any]:
    """Return the plug-in's function. ValueError on an unknown name (with the nearest and the list)."""
    module, function = _place(kind, name)
    package, _, within = module.partition(".")
    try:
        file = around(within) if package == ROOT.name else importlib.import_module(module)
    except (Exception, SystemExit) as error:
        lacks = error.name if isinstance(error, ModuleNotFoundError) else None
        if lacks and f"{module}.".startswith(f"{lacks}."):  # itself, or what it stands in
            raise UserError(f"{kind} {name!r} is not there: no module {lacks!r}{_lost(kind, name, lacks)}") from error
        if package == ROOT.name or isinstance(error, UserError):  # it says so itself
            raise
        raise UserError(f"{kind} {name!r} cannot be imported: {_import_error(error)}") from error
    if not callable(plugin := getattr(file, function, None)):
        raise UserError(f"{kind} {name!r}: {module} has no function {function!r}{_another_function(file, function)}")
    return plugin


def _another_function(file: Any, wanted: str) -> str:
    """Suggest the function that was meant: `wanted` is "py", a module of the package `file`, or a misspelt name."""
    if wanted == "py":
        return f"; wanted the file's name without .py, then its function: {file.__name__}.NAME"
    if wanted in {one.name for one in pkgutil.iter_modules(getattr(file, "__path__", ()))}:
        return f"; it is a module: wanted its function too, as in {file.__name__}.{wanted}.{wanted}"
    own = [name for name, value in vars(file).items() if inspect.isfunction(value) and not name.startswith("_")]
    return nearest(wanted, own)


def _import_error(error: BaseException) -> str:
    """Say how the import of a user's module failed, with the traceback's lines outside Python and qr_jax."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    ours = {ROOT.name, *sys.stdlib_module_names}
    walked = traceback.walk_tb(error.__traceback__)
    frames = [each for each in walked if str(each[0].f_globals.get("__name__")).partition(".")[0] not in ours]
    lines = [
        f"\n  {frame.f_code.co_filename}, line {line}: {linecache.getline(frame.f_code.co_filename, line).strip()}"
        for frame, line in frames
    ]
    return f"{type(error).__name__}: {error}" + "".join(lines)


def signature(kind: str, name: str) -> Signature:
    """Return the plug-in's parameters. ValueError if it is async, or its parameters are not all named (*args)."""
    function = find(kind, name)
    if isinstance(function, functools.partial):
        todo = "which hides its file's constants; write a def that calls the other"
        raise UserError(f"{kind} {name!r} is a functools.partial, {todo}")
    if inspect.iscoroutinefunction(function):
        raise UserError(f"{kind} {name!r} is async, and a run does not await it; write it with def")
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        todo = "name each parameter, so that a config can be checked by it"
        raise UserError(f"{kind} {name!r} takes *args or **kwargs; {todo}")
    names = vars(home(kind, name))
    settings = {
        p.name: Setting(_type(p.annotation, names), p.default is p.empty, None if p.default is p.empty else p.default)
        for p in parameters
        if p.kind is p.KEYWORD_ONLY
    }
    return Signature(tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY), settings)


def _type(annotation: Any, names: Mapping[str, Any]) -> Any:
    """Return an annotation's type (of a text, by the `names` of its file) if a config can hold it; else Any."""
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, dict(names))
        except Exception:  # a name that is imported for type checkers alone
            return Any
    return annotation if _is_held(annotation) else Any


def _is_held(wanted: Any) -> bool:
    """Return True if a config can hold values of the type."""
    wanted = bare(wanted)
    parts = get_args(wanted)
    if parts and get_origin(wanted) is not Literal:
        return get_origin(wanted) in (tuple, Union, UnionType) and all(part is ... or _is_held(part) for part in parts)
    return bool(parts) or wanted in (int, float, bool, str, None, NoneType, Use)


def home(kind: str, name: str) -> Any:
    """Return the module in which the plug-in's function is written; its name may lead to one that imports it."""
    function = find(kind, name)
    return sys.modules.get(getattr(function, "__module__", None) or "", sys.modules[_place(kind, name)[0]])


def constants(kind: str, name: str) -> dict[str, Any]:
    """Return the constants of its contract that a plug-in's file declares. ValueError on a wrong one."""
    known = {**CONTRACTS[kind].constants, EXAMPLE: Mapping[str, Any]}
    declared: dict[str, Any] = {}
    for constant, value in vars(home(kind, name)).items():
        here = f"{kind} {name!r}: {constant}"
        if constant in known:
            declared[constant] = conform(here, value, known[constant])
            if known[constant] is int and declared[constant] < 1:
                raise UserError(f"{here} is {value}; wanted at least 1")
        elif constant.isupper() and (meant := difflib.get_close_matches(constant, known, 1, cutoff=0.85)):
            todo = f"did you mean {meant[0]}? A name of your own begins with _"
            raise UserError(f"{here} is no constant of {kind}; {todo}")
    return declared


def beside(kind: str, name: str, function: str) -> Callable | None:
    """Return a function of the plug-in's file that its contract names; None if the file has none."""
    assert function in CONTRACTS[kind].beside, f"{kind} knows no function {function!r} beside its plug-in's"
    return getattr(home(kind, name), function, None)


def draws_by(rule: Use, by: str | None) -> Any:
    """Return how a rule's weights draw ("chance" or "largest"): `pool.by`, else DRAWS of the rule's file, else
    "chance".
    """
    return by or constants("rule", rule.name).get("DRAWS", "chance")


def wants_corpus(retriever: Use) -> bool:
    """Return True if a retriever needs passages, itself or, if made of other retrievers, through one of them."""
    corpus = signature("retriever", retriever.name).settings.get("corpus")
    if corpus is None or corpus.required:
        return corpus is not None
    parts = list(inside(check("retriever", retriever), deep=False))
    return not parts or any(map(wants_corpus, parts))


def settings_of(kind: str, use: Use) -> dict[str, Any]:
    """Return all of a plug-in's settings: those given, checked, and the others' defaults."""
    return {name: setting.default for name, setting in signature(kind, use.name).settings.items()} | check(kind, use)


def check(kind: str, use: Use) -> dict[str, Any]:
    """Return the settings in the signature's types. ValueError for an unknown, missing or mistyped one.

    The constants of its file are checked too.
    """
    parameters = signature(kind, use.name)
    _check_data(kind, use.name, parameters.data)
    if shadowed := {*parameters.settings} & {*CONTRACTS[kind].given}:
        named = ", ".join(sorted(shadowed))
        raise UserError(f"{kind} {use.name!r} has {named} after its *, which is data and no setting; put it before")
    if "name" in parameters.settings:  # {kind}.name=... chooses the plug-in
        raise UserError(f"{kind} {use.name!r} has a setting called name, which no config can set; call it otherwise")
    constants(kind, use.name)
    settings = {key: value for key, value in parameters.settings.items() if key not in CONTRACTS[kind].provided}
    for key in use.settings:
        if key not in settings:
            listed = f"its settings are: {', '.join(settings)}" if settings else "it has none"
            raise UserError(f"{kind} {use.name!r} has no setting {key!r}; {listed}")
    missing = [key for key, setting in settings.items() if setting.required and key not in use.settings]
    if missing:
        at = f"tools.{use.name}" if kind == "tool" else kind  # one of several
        meant = difflib.get_close_matches(missing[0], CONTRACTS[kind].provided, 1)
        run = f", or call it {meant[0]}, which the run provides" if meant else ""
        raise UserError(f"{kind} {use.name!r} needs {', '.join(missing)}; set {at}.{missing[0]}=...{run}")
    given = {key: _held(f"{kind} {use.name!r}: {key}", value, settings[key]) for key, value in use.settings.items()}
    for key, setting in settings.items():
        if key not in given and setting.type is not Any and setting.default not in (None, math.inf):
            _held(f"{kind} {use.name!r}: {key} (its file's default)", setting.default, setting)
    return given


def _held(name: str, value: Any, setting: Setting) -> Any:
    """Return a setting's value in its type. ValueError for one of another type, or out of its bounds."""
    value = conform(name, value, setting.type)
    for wrong in out_of_bounds(name, value, setting.type):
        raise UserError(wrong)
    return value


def bind(kind: str, use: Use, *, provided: Mapping[str, Any] | None = None) -> functools.partial[Any]:
    """Return the plug-in's function with its settings checked; the data parameters are left to the caller.

    `provided`: what the run gives; the function gets what it names. Each result is checked by the kind's contract:
    ValueError with the plug-in's name, what it returned and what was wanted.
    """
    settings = check(kind, use)
    takes = signature(kind, use.name)
    given = {name: value for name, value in (provided or {}).items() if name in takes.settings}
    function = find(kind, use.name)
    return functools.partial(checked(kind, use.name, function), **settings, **given)


def checked(kind: str, name: str, function: Callable[..., Any], contract: Contract | None = None) -> Callable[..., Any]:
    """Wrap the function for a run: its results are checked by the contract, and its errors name the plug-in."""
    contract = contract or CONTRACTS[kind]

    @functools.wraps(function)
    def call(*data: Any, **named: Any) -> Any:
        freeze(data)
        try:
            result = function(*data, **named)
        except Exception as error:  # the message must name the plug-in
            frozen = ", which may not change what it is given (copy it first: np.array(it))"
            error.add_note(f"{RAISED} {kind} {name!r}{frozen if 'read-only' in str(error) else ''}")
            outside = getattr(error, "lines_outside", None)
            if "." in name:
                outside = traceback.format_tb(error.__traceback__)[1:]  # without this call
            error.lines_outside = outside  # type: ignore[attr-defined]
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit, a task of its library that was cancelled
            what = f"raised {type(error).__name__} ({error}), which is no Exception"
            if isinstance(error, SystemExit):
                what = f"called sys.exit({error.code!r})"
            raise PluginError(f"{kind} {name!r} {what}; wanted a result, or an error") from error
        try:
            result = contract.check(result, *data, **named)
        except PluginError as error:
            raise PluginError(f"{kind} {name!r} returned {error}; wanted {contract.returns}") from None
        return checked(kind, name, result, contract.made) if contract.made else result

    return call


def was_raised_by_one(error: BaseException) -> bool:
    """Return True if a plug-in raised the error, or returned what it should not."""
    return isinstance(error, PluginError) or hasattr(error, "lines_outside")


def failed_outside(error: BaseException) -> str | None:
    """Format an error raised by a plug-in from outside qr_jax, its traceback from that plug-in on; None for others."""
    if (lines := getattr(error, "lines_outside", None)) is None:
        return None
    ours = [note for note in getattr(error, "__notes__", ()) if note.startswith(RAISED)]  # without JAX's note
    return "\n".join(["; ".join([f"{type(error).__name__}: {error}", *ours]), *lines]).rstrip()


def in_a_line(error: BaseException) -> str:
    """Return the error's type and text; of one from outside qr_jax also which plug-in raised it, and in which line.

    No folder is named: a run keeps it, and its report may be shared.
    """
    if isinstance(error, PluginError):
        return str(error)
    if not (said := failed_outside(error)):
        return f"{type(error).__name__}: {error}"
    return re.sub(r'\bFile "(?:[^"]*[/\\])?([^"]+)"', r"\1", "; ".join(line.strip() for line in said.splitlines()[:2]))


def freeze(data: Any) -> None:
    """Make the arrays of a plug-in's data read-only: those of records, of records in these, and of lists of records."""
    if isinstance(data, np.ndarray):
        data.setflags(write=False)
    elif isinstance(data, tuple | list):
        for value in data:
            freeze(value)
    else:
        for name in _with_arrays(type(data)):
            freeze(getattr(data, name))


@functools.cache
def _with_arrays(kind: type) -> tuple[str, ...]:
    """Return the fields of a record's class that may hold arrays, by their types: a turn has none, a grade several."""
    if not is_dataclass(kind):
        return ()
    try:
        return tuple(name for name, hint in get_type_hints(kind).items() if _may_hold_an_array(hint))
    except Exception:  # a rule's own record may name types that are not there, or itself
        return tuple(field.name for field in fields(kind))


def _may_hold_an_array(hint: Any) -> bool:
    if parts := get_args(hint):
        return get_origin(hint) is not Literal and any(map(_may_hold_an_array, parts))
    if is_dataclass(hint):
        return bool(_with_arrays(hint))
    return hint not in (str, bytes, int, float, bool, type(None), ...)


def _place(kind: str, name: str) -> tuple[str, str]:
    """Return the module and the function that a plug-in's name means."""
    if kind not in CONTRACTS:
        raise UserError(f"unknown kind of plug-in {kind!r}{nearest(kind, CONTRACTS)}")
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
        folder = f"qr_jax/{CONTRACTS[kind].folders[0]}/"
        own = f" ({Path(name).stem}.FUNCTION, with PYTHONPATH={Path(name).parent})" if name.endswith(".py") else ""
        raise UserError(f"{kind} {name!r} is no name: wanted a file of {folder} or package.module.function{own}")
    if "." not in name:
        own_modules = modules(kind)
        if name not in own_modules:
            own = f"; a function of your own {name}.py is {name}.FUNCTION" if os.path.isfile(f"{name}.py") else ""
            raise UserError(f"there is no {kind} {name!r}{own or _hint(kind, name)}")
        return own_modules[name], name
    module, _, function = name.rpartition(".")
    return module, function


def _hint(kind: str, name: str) -> str:
    elsewhere = around("cli.elsewhere", optional=True)
    if elsewhere and (method := elsewhere.METHODS.get(kind, {}).get(name)):
        return f"; {method}"
    return nearest(name, names(kind), shown=100) + "; one of your own is FILE.FUNCTION"


def _lost(kind: str, name: str, lacks: str) -> str:
    """Suggest what to do if Python finds no module `lacks` (it searches the current folder only with PYTHONPATH)."""
    top, (package, _, last) = name.partition(".")[0], lacks.rpartition(".")
    found = [*getattr(sys.modules.get(package), "__path__", ())]
    if found and (os.path.abspath(top) in found or not os.path.isdir(top)):  # not another package of that name
        return nearest(last, [one.name for one in pkgutil.iter_modules(found)], shown=100)
    if os.path.isdir(top) or os.path.isfile(f"{top}.py"):  # False, too, where a name is too long for a file
        return f"; {top} stands in this folder: write PYTHONPATH=. before the command"
    where = f"; write PYTHONPATH=FOLDER before the command, the folder that {top}.py or {top}/ stands in"
    return where if "." in name else _hint(kind, name)


def _check_data(kind: str, name: str, data: tuple[str, ...]) -> None:
    """Raise ValueError unless the parameters before the `*` are what the kind is given."""
    contract = CONTRACTS[kind]
    if contract.by_name:
        for parameter in data:
            if parameter not in contract.given:
                given = ", ".join(contract.given)
                raise UserError(f"{kind} {name!r} takes {parameter!r} before its *; it is given only: {given}")
        return
    known = {of_any for of in CONTRACTS.values() if not of.by_name for of_any in of.given}
    named = all(found == wanted or found not in known for found, wanted in zip(data, contract.given, strict=False))
    if len(data) != len(contract.given) or not named:
        found, given = (", ".join(names) or "nothing" for names in (data, contract.given))
        raise UserError(
            f"{kind} {name!r} takes ({found}) before its *; {kind} is given ({given}; qr_jax/interfaces.py)"
        )


def with_parts(use: Use, kind: str = "retriever") -> Iterator[Use]:
    """Yield a plug-in and all of its kind nested in it, such as a retriever's retrievers or a reward's setting `of`."""
    yield use
    for part in inside(settings_of(kind, use), deep=False):
        yield from with_parts(part, kind)
