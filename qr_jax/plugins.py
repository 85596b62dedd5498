"""Plug-ins by name: a folder's file is its function; a dotted name is a function's import path.

Signatures and constants are read from the source, so a config is checked without importing what it names (or jax with
it). What each kind is given and must return stands in interfaces.py.
"""

import ast
import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sysconfig
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qr_jax.errors import PluginError, UserError
from qr_jax.interfaces import AT_LEAST, CONTRACTS, EXAMPLE, Contract
from qr_jax.settings import elsewhere
from qr_jax.settings.settings import Use, conform, nearest

ROOT = Path(__file__).parent
RAISED = "raised by"
SIMPLE: Mapping[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "None": type(None)}


def around(name: str) -> Any:
    """Import a module from around the core by its name in qr_jax, when it is used: the core imports none itself.

    ValueError that says what to install if a package that it needs is missing.
    """
    try:
        return importlib.import_module(f"{ROOT.name}.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == ROOT.name:
            raise
        room = name.partition(".")[0]
        raise UserError(f"{name} needs the package {error.name}; pip install 'qr_jax[{room}]' brings it") from error


@dataclass(frozen=True)
class Setting:
    """One keyword-only parameter: its type (Any where no config can hold it) and its default (None: not plain)."""

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


def _foreign_package(name: str) -> str | None:
    """The package outside qr_jax that a plug-in's name begins with; None where it is qr_jax's own."""
    package = name.partition(".")[0]
    return None if package in (name, ROOT.name) else package


def find(kind: str, name: str) -> Callable[..., Any]:
    """The plug-in's function. ValueError on an unknown name (with the nearest and the list)."""
    module, function = _place(kind, name)
    with _importing(kind, name, module):
        plugin = getattr(importlib.import_module(module), function, None)
    if not callable(plugin):
        todo = f"; wanted the file's name without .py, then its function: {module}.NAME" if function == "py" else ""
        raise UserError(f"{kind} {name!r}: {module} has no function {function!r}{todo}")
    return plugin


@contextlib.contextmanager
def _importing(kind: str, name: str, module: str) -> Iterator[None]:
    """Raise ValueError in this block if the plug-in's module is missing, or is a user's file that fails."""
    try:
        yield
    except Exception as error:
        lacks = error.name if isinstance(error, ModuleNotFoundError) else None
        if lacks and f"{module}.".startswith(f"{lacks}."):  # itself, or what it stands in
            raise UserError(f"{kind} {name!r} is not there: no module {lacks!r}{_lost(kind, name)}") from error
        _refuse_failed(kind, name, error)
        raise


def check_imports(kind: str, use: Use) -> None:
    """Import a plug-in from outside qr_jax, which reading its source does not. ValueError where that fails."""
    if _foreign_package(use.name):
        find(kind, use.name)


def _refuse_failed(kind: str, name: str, error: Exception) -> None:
    """Raise a ValueError that says where a user's file failed while it was imported, by that user's lines alone.

    Do nothing if the file is qr_jax's own, or if qr_jax refused what the file asked of it: that error says so itself.
    """
    top = _foreign_package(name)
    if top is None or isinstance(error, UserError):
        return
    places = ("stdlib", "purelib", "platlib")
    installed = (*(sysconfig.get_path(place) for place in places), str(ROOT.resolve()), "<")
    lines = [
        f"\n  {frame.filename}, line {frame.lineno}: {frame.line}"
        for frame in traceback.extract_tb(error.__traceback__)
        if top in Path(frame.filename).with_suffix("").parts or not frame.filename.startswith(installed)
    ]
    failed = f"{kind} {name!r} cannot be imported: {type(error).__name__}: {error}"
    raise UserError(failed + "".join(lines)) from error


def signature(kind: str, name: str) -> Signature:
    """The plug-in's parameters, read from its source; only a function that is not written there in full is imported.

    ValueError for one that is async, or whose parameters are not all named (*args, **kwargs).
    """
    function = _place(kind, name)[1]
    try:
        nodes = _source(kind, name)
        written = [n for n in nodes if isinstance(n, ast.AsyncFunctionDef | ast.FunctionDef) and n.name == function]
        if len(written) > 1:
            raise PluginError(f"is written twice, in lines {written[0].lineno} and {written[1].lineno} of its file")
        return _from_source(written[0]) if written else _from_function(find(kind, name))
    except PluginError as error:
        raise UserError(f"{kind} {name!r} {error}") from None


def constants(kind: str, name: str) -> dict[str, Any]:
    """The constants of its contract that a plug-in's file declares, read from its source. ValueError on a wrong one."""
    known = {**CONTRACTS[kind].constants, EXAMPLE: Mapping[str, Any], AT_LEAST: Mapping[str, float]}
    declared: dict[str, Any] = {}
    for constant, node in _assigned(_written(kind, name)):
        if constant not in known:
            if meant := difflib.get_close_matches(constant, known, 1, cutoff=0.85):
                raise UserError(f"{kind} {name!r}: {constant} is no constant of a {kind}; did you mean {meant[0]}?")
            continue
        here = f"{kind} {name!r}: {constant}"
        try:
            value = ast.literal_eval(node) if node else None
        except ValueError as error:
            raise UserError(f"{here} is computed; write it as a plain value") from error
        if node is None:
            raise UserError(f"{here} is imported, or stands inside of a statement; write it as a plain value, alone")
        declared[constant] = conform(here, value, known[constant])
        if known[constant] is int and declared[constant] < 1:
            raise UserError(f"{here} is {value}; wanted at least 1")
    return declared


def _assigned(nodes: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.expr | None]]:
    """Yield each name that a file assigns and its value's node; None if imported, unpacked or in a nested statement."""
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, node.value) for target in targets if isinstance(target, ast.Name))
            packed = (part for target in targets if isinstance(target, ast.Tuple | ast.List) for part in target.elts)
            yield from ((part.id, None) for part in packed if isinstance(part, ast.Name))
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, None) for alias in node.names)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = (part for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
            yield from ((part.id, None) for part in inside)


def beside(kind: str, name: str, function: str) -> Callable | None:
    """Return a function of the plug-in's file that its contract names; None if the file has none."""
    assert function in CONTRACTS[kind].beside, f"{kind} knows no function {function!r} beside its plug-in's"
    plugin = find(kind, name)
    return getattr(importlib.import_module(plugin.__module__), function, None)


def has_beside(kind: str, name: str, function: str) -> bool:
    """Return True if the plug-in's file, read as source, defines or imports that function, or is no Python source."""
    nodes = _source(kind, name)
    written = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return not nodes or function in written | {given for given, _ in _assigned(nodes)}


def draws_by(rule: Use, by: str | None) -> Any:
    """Return how a rule's weights draw ("chance" or "largest"): `pool.by`, or if None what the rule's file says."""
    return by or constants("rule", rule.name).get("DRAWS", "chance")


def wants_corpus(retriever: Use) -> bool:
    """Return True if a retriever is to be given passages. One made of other retrievers is if any of those is."""
    corpus = signature("retriever", retriever.name).settings.get("corpus")
    if corpus is None or corpus.required:
        return corpus is not None
    values = check("retriever", retriever).values()
    flat = [part for value in values for part in (value if isinstance(value, (tuple, list)) else (value,))]
    parts = [part for part in flat if isinstance(part, Use)]
    return not parts or any(wants_corpus(part) for part in parts)


def check(kind: str, use: Use) -> dict[str, Any]:
    """The plug-in's settings in the types its signature states. ValueError on what it does not take, lacks or mistypes.

    Its constants are checked with them.
    """
    parameters = signature(kind, use.name)
    _check_data(kind, use.name, parameters.data)
    if shadowed := {*parameters.settings} & {*CONTRACTS[kind].given}:
        named = ", ".join(sorted(shadowed))
        raise UserError(f"{kind} {use.name!r} has {named} after its *, which is data and no setting; put it before")
    least = constants(kind, use.name).get(AT_LEAST, {})
    settings = {key: value for key, value in parameters.settings.items() if key not in CONTRACTS[kind].provided}
    for key in use.settings:
        if key not in settings:
            listed = f"its settings are: {', '.join(settings)}" if settings else "it has none"
            raise UserError(f"{kind} {use.name!r} has no setting {key!r}; {listed}")
    missing = [key for key, setting in settings.items() if setting.required and key not in use.settings]
    if missing:
        raise UserError(f"{kind} {use.name!r} needs {', '.join(missing)}; set {kind}.{missing[0]}=...")
    given = {
        key: conform(f"{kind} {use.name!r}: {key}", value, settings[key].type) for key, value in use.settings.items()
    }
    for key, value in given.items():
        if key in least and value is not None and not value >= least[key]:
            raise UserError(f"{kind} {use.name!r}: {key} is {value}; wanted at least {least[key]:g}")
    return given


def bind(
    kind: str,
    use: Use,
    *,
    provided: Mapping[str, Any] | None = None,
) -> functools.partial[Any]:
    """The plug-in's function with its settings checked; the data parameters are left to the caller.

    Of `provided`, what the run gives, it gets what its signature takes. Each result is checked by the kind's contract:
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
        except Exception as error:  # what is said of it must say whose it was
            frozen = ", which may not change what it is given (copy it first: np.array(it))" * (
                "read-only" in str(error)
            )
            error.add_note(f"{RAISED} {kind} {name!r}{frozen}")
            error.raised_by = (*getattr(error, "raised_by", ()), name)  # type: ignore[attr-defined]
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
    return isinstance(error, PluginError) or hasattr(error, "raised_by")


def failed_outside(error: BaseException) -> str | None:
    """Format an error raised by a plug-in from outside qr_jax, its traceback from that plug-in on; None for others."""
    trace, names = error.__traceback__, list(getattr(error, "raised_by", ()))
    while trace is not None and names:
        code, trace = trace.tb_frame.f_code, trace.tb_next
        is_call = code.co_qualname == f"{checked.__name__}.<locals>.call" and code.co_filename == __file__
        if is_call and "." in names.pop():  # the outermost plug-in's name is the last
            ours = [note for note in getattr(error, "__notes__", ()) if note.startswith(RAISED)]
            said = [f"{type(error).__name__}: {error}", *ours]  # without JAX's note on its own frames
            return "\n".join(["; ".join(said), *traceback.format_tb(trace)]).rstrip()
    return None


def freeze(data: Sequence[Any]) -> None:
    """Make the arrays of a plug-in's data read-only: those of records, of records in these, and of lists of records."""
    for value in data:
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
        for part in value if isinstance(value, tuple | list) else (value,):
            if names := _may_be_arrays(type(part)):
                freeze([getattr(part, name) for name in names])


@functools.cache
def _may_be_arrays(kind: type) -> tuple[str, ...]:
    """List the fields of a record (a dataclass) that may be arrays or records; none for any other type."""
    if not is_dataclass(kind):
        return ()
    try:
        hints = typing.get_type_hints(kind)
    except NameError:  # a user's record, one of whose types is not to be found by its name
        return tuple(field.name for field in fields(kind))
    parts = {
        name: typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        for name, hint in hints.items()
    }
    return tuple(name for name, of in parts.items() if any(one in (Any, np.ndarray) or is_dataclass(one) for one in of))


def _written(kind: str, name: str) -> list[ast.stmt]:
    """Return the statements of the file that defines the plug-in's function, which its module may import from another.

    Nothing is imported: only files of the same package, and qr_jax's own, are followed.
    """
    nodes, (module, function) = _source(kind, name), _place(kind, name)
    for node in nodes:
        if not isinstance(node, ast.ImportFrom) or not node.module or node.level:
            continue
        taken = any((alias.asname or alias.name) == function for alias in node.names)
        own, package = Path(origin(kind, name)), node.module.split(".")[0]
        if taken and package in (module.split(".")[0], ROOT.name):
            above = module.count(".") + (own.name == "__init__.py")
            top = ROOT.parent if package == ROOT.name else own.parents[above]
            file = top.joinpath(*node.module.split(".")).with_suffix(".py")
            return _statements(str(file)) if file.is_file() else nodes
    return nodes


def _source(kind: str, name: str) -> list[ast.stmt]:
    """The statements of the plug-in's file; none where it is no Python source. ValueError where there is no module."""
    path = origin(kind, name)
    return _statements(path) if path.endswith(".py") else []


def origin(kind: str, name: str) -> str:
    """The file of the module that a plug-in's name means; ValueError where there is none."""
    module = _place(kind, name)[0]
    with _importing(kind, name, module):
        spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise UserError(f"{kind} {name!r} is not there: no module {module!r}{_lost(kind, name)}")
    return spec.origin


def _statements(path: str) -> list[ast.stmt]:
    return _parsed(path, os.stat(path).st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _parsed(path: str, changed_ns: int) -> list[ast.stmt]:
    """Parse a file as it was last changed, cached: a config asks for its plug-ins' statements some twenty times."""
    try:
        return ast.parse(Path(path).read_text(encoding="utf-8")).body
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}") from error


def _place(kind: str, name: str) -> tuple[str, str]:
    """The module and the function that a plug-in's name means."""
    if kind not in CONTRACTS:
        raise UserError(f"unknown kind of plug-in {kind!r}{nearest(kind, CONTRACTS)}")
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
        folder = f"qr_jax/{CONTRACTS[kind].folders[0]}/"
        raise UserError(f"{kind} {name!r} is no name: wanted a file of {folder} or package.module.function")
    if "." not in name:
        own_modules = modules(kind)
        if name not in own_modules:
            own = f"; a function of your own {name}.py is {name}.FUNCTION" if os.path.isfile(f"{name}.py") else ""
            raise UserError(f"there is no {kind} {name!r}{own or _hint(kind, name)}")
        return own_modules[name], name
    module, _, function = name.rpartition(".")
    return module, function


def _hint(kind: str, name: str) -> str:
    if method := elsewhere.METHODS.get(kind, {}).get(name):
        return f"; {method}"
    return nearest(name, names(kind), shown=100) + "; one of your own is FILE.FUNCTION"


def _lost(kind: str, name: str) -> str:
    """Suggest what to do if Python finds no such module; it looks in the current folder only if told to."""
    top = name.partition(".")[0]
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
    elif len(data) != len(contract.given):
        raise UserError(
            f"{kind} {name!r} takes {len(data)} arguments before its * ({', '.join(data) or 'none'}); "
            f"a {kind} is given {len(contract.given)} ({', '.join(contract.given) or 'none'}; qr_jax/interfaces.py)"
        )
    elif {*data} == {*contract.given} and data != contract.given:
        raise UserError(f"{kind} {name!r} takes ({', '.join(data)}); it is given ({', '.join(contract.given)})")
    elif other := [kind for kind, of in CONTRACTS.items() if data == of.given != contract.given and not of.by_name]:
        given = ", ".join(contract.given)
        raise UserError(f"{kind} {name!r} takes ({', '.join(data)}), as a {other[0]} does; a {kind} is given ({given})")


def _from_source(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Signature:
    arguments = node.args
    _refuse(isinstance(node, ast.AsyncFunctionDef), arguments.vararg or arguments.kwarg)
    data = tuple(argument.arg for argument in arguments.posonlyargs + arguments.args)
    settings = {
        argument.arg: Setting(_type(argument.annotation), default is None, _plain(default))
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    }
    return Signature(data, settings)


def _refuse(is_async: bool, unnamed: object) -> None:
    """Raise PluginError for an async function, and for one whose parameters are not all named."""
    if is_async:
        raise PluginError("is async, and a run does not await it; write it with def")
    if unnamed:
        raise PluginError("takes *args or **kwargs; name each parameter, so that a config can be checked by it")


def _plain(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node else None
    except ValueError:
        return None


def _from_function(function: Callable[..., Any]) -> Signature:
    if isinstance(function, functools.partial):
        raise PluginError("is a functools.partial, which hides its file's constants; write a def that calls the other")
    parameters = inspect.signature(function).parameters.values()
    unnamed = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
    _refuse(inspect.iscoroutinefunction(function), unnamed)
    data = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    settings = {
        p.name: Setting(
            _type(ast.parse(inspect.formatannotation(p.annotation), mode="eval").body), p.default is p.empty
        )
        for p in parameters
        if p.kind is p.KEYWORD_ONLY
    }
    return Signature(data, settings)


def _type(node: ast.expr | None) -> Any:
    """The type that an annotation's syntax tree states, of those a config can hold; Any for every other."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):  # a quoted annotation
            return _type(ast.parse(node.value, mode="eval").body)
        return type(None) if node.value is None else Any
    if isinstance(node, ast.Name):
        return SIMPLE.get(node.id, Use if node.id == "Use" else Any)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        parts = _type(node.left), _type(node.right)
        return Any if Any in parts else typing.Union[parts]  # noqa: UP007 - the parts are values here
    if isinstance(node, ast.Subscript):
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        outside = ast.unparse(node.value).rpartition(".")[2]
        if outside == "Literal" and all(isinstance(part, ast.Constant) for part in inside):
            return Literal[tuple(part.value for part in inside if isinstance(part, ast.Constant))]
        if outside == "tuple":
            parts = tuple(... if isinstance(p, ast.Constant) and p.value is ... else _type(p) for p in inside)
            return Any if Any in parts else tuple[parts]
    return Any


def with_parts(use: Use) -> Iterator[Use]:
    """Yield the retriever and those inside it, at every depth."""
    yield use
    function = find("retriever", use.name)
    defaults = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    settings = defaults | check("retriever", use)
    for part in _uses(list(settings.values())):
        yield from with_parts(part)


def _uses(value: Any) -> Iterator[Use]:
    if isinstance(value, Use):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _uses(item)
