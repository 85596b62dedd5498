"""Typed settings: convert and check values from Python or JSON by the annotations of dataclass fields."""

import contextlib
import dataclasses
import difflib
import functools
import math
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from qr_jax.errors import UserError

BEYOND = 2**63  # whole numbers are below it
DEEPEST = 32  # levels of a value of no stated type
WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Bound(NamedTuple):
    """The values that a setting may have, beside its type: `Annotated[int, at_least(1)]`. None is always among them."""

    wanted: str  # in a message: "wanted ..."
    allows: Callable[[Any], bool]


def at_least(least: float, why: str = "") -> Bound:
    """Return the bound of a setting that is at least so much; `why` ends its message."""
    return Bound(f"at least {least:g}{why}", lambda value: value >= least)


ABOVE_0 = Bound("more than 0", lambda value: value > 0)
Count = Annotated[int, at_least(1)]
Natural = Annotated[int, at_least(0)]
Positive = Annotated[float, ABOVE_0]
NotNegative = Annotated[float, at_least(0)]
Share = Annotated[float, Bound("a share, from 0 to 1", lambda value: 0 <= value <= 1)]
SomeShare = Annotated[float, Bound("a share above 0, up to 1", lambda value: 0 < value <= 1)]


def nearest(name: str, known: Iterable[str], *, shown: int = 12) -> str:
    """End an error on an unknown name: "did you mean x?" and, when they are few, all there are."""
    known = list(known)
    cutoff = 0.6 if len(name) > 4 else 0.7  # short names are similar by chance
    close = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    guess = f"; did you mean {close[0]}?" if close else ""
    return guess + (f" (there are: {', '.join(sorted(known))})" if len(known) <= shown and known else "")


def few(texts: Sequence[str], most: int = 6, *, between: str = ", ") -> str:
    """Shorten a list for a message: "a, b and 4 more"."""
    return between.join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def describe(wanted: Any) -> str:
    """Return a type in a user's words: "a whole number", "one of 'a', 'b'", "a number or none"."""
    wanted = bare(wanted)
    simple = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    simple[Use] = "a plug-in"
    if dataclasses.is_dataclass(wanted) and wanted is not Use or get_origin(wanted) is Mapping:
        return "settings by their names"
    if wanted in simple:
        return simple[wanted]
    if get_origin(wanted) is Literal:
        return "one of " + ", ".join(map(repr, get_args(wanted)))
    if get_origin(wanted) in (Union, types.UnionType):
        return " or ".join(describe(part) for part in get_args(wanted))
    if get_origin(wanted) is tuple:
        parts = get_args(wanted)
        if len(parts) == 2 and parts[1] is ...:
            return f"a list of: {describe(parts[0])}"
        return f"a list of {len(parts)}: " + ", ".join(describe(part) for part in parts)
    return getattr(wanted, "__name__", None) or str(wanted)


def show(value: Any) -> str:
    """Return the value as an error shows it, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits, or lists in lists without end
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 200 else f"{text[:190]}... ({len(text):,} characters)"


def names(row: Iterable[object]) -> str:
    """Return a row's names as an error shows them."""
    return few([str(name)[:60] for name in row], 12) or "none"


def wrong(name: str, found: Any, wanted: Any) -> UserError:
    """Return the error for a setting whose value is of another type."""
    return UserError(f"{name} is {show(found)} ({type(found).__name__}); wanted {describe(wanted)}")


@functools.cache
def type_hints(of: type) -> Mapping[str, Any]:
    """Return the types of a dataclass's fields, with their bounds."""
    return get_type_hints(of, include_extras=True)


def bare(wanted: Any) -> Any:
    """Return a type without its bounds."""
    return get_args(wanted)[0] if get_origin(wanted) is Annotated else wanted


def out_of_bounds(name: str, value: Any, wanted: Any) -> Iterator[str]:
    """Yield an error for each value, of a setting or of those of a section, that its bound does not allow."""
    if dataclasses.is_dataclass(wanted) and wanted is not Use:
        for key, hint in type_hints(wanted).items():
            yield from out_of_bounds(f"{name}.{key}" if name else key, getattr(value, key), hint)
    for part in get_args(wanted) if value is not None else ():
        if isinstance(part, Bound) and not part.allows(value):
            yield f"{name} is {value}; wanted {part.wanted}"
        elif get_origin(part) is Annotated:  # one of a union's types
            yield from out_of_bounds(name, value, part)


def conform(name: str, value: Any, wanted: Any) -> Any:
    """Return `value`, from Python or JSON, as the type `wanted`; ValueError says what was found and what was wanted.

    A whole number becomes a float where one is wanted, and a list a tuple; nothing else changes.
    """
    wanted = bare(wanted)
    if wanted is Any:
        return _plain_value(name, value)
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return first_of(conform, name, value, wanted)
    if origin is Literal:
        if not any(value == part and type(value) is type(part) for part in parts):
            raise wrong(name, value, wanted)
        return value
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise wrong(name, value, wanted)
        return each_of(conform, name, value, value, wanted)
    if dataclasses.is_dataclass(wanted):
        return _dataclass(name, value, wanted)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise wrong(name, value, wanted)
        return {key: conform(f"{name}.{key}", item, parts[1]) for key, item in value.items()}
    if type(value) is int and wanted in (int, float):
        value = wanted(_bounded(name, value))
    if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
        raise wrong(name, value, wanted)
    return value


def _bounded(name: str, number: int) -> int:
    if abs(number) >= BEYOND:
        raise UserError(f"{name} is {show(number)}; wanted a whole number between -2**63 and 2**63")
    return number


def first_of(by: Callable[[str, Any, Any], Any], name: str, found: Any, wanted: Any) -> Any:
    """Convert what was found, by `by`, to the first of a union's types that takes it."""
    for part in get_args(wanted):
        with contextlib.suppress(ValueError):
            return by(name, found, part)
    raise wrong(name, found, wanted)


def each_of(by: Callable[[str, Any, Any], Any], name: str, items: Sequence, found: Any, wanted: Any) -> tuple[Any, ...]:
    """Convert each item of a tuple by `by`; errors show the tuple as it was `found`."""
    parts = get_args(wanted)
    parts = (parts[0],) * len(items) if len(parts) == 2 and parts[1] is ... else parts
    if len(parts) != len(items):
        raise wrong(name, found, wanted)
    return tuple(by(f"{name}[{at}]", item, part) for at, (item, part) in enumerate(zip(items, parts, strict=True)))


def _dataclass(name: str, value: Any, wanted: Any) -> Any:
    if isinstance(value, wanted):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(wanted)}
    hints = type_hints(wanted)
    first = next(iter(hints))
    if isinstance(value, str) and first == "name":
        value = {first: value}
    if not isinstance(value, Mapping):
        raise wrong(name or "config", value, wanted)
    before = f"{name}." if name else ""
    for key in value:
        if key not in hints:
            guess = nearest(str(key), hints) or "; `qr-jax settings` lists them"
            raise UserError(f"unknown setting {before}{key}{guess}")
    for field in dataclasses.fields(wanted):
        if field.default is field.default_factory is dataclasses.MISSING and field.name not in value:
            what = f"{name or 'config'} is {show(value)}, without {field.name!r}"
            raise UserError(f"{what}; wanted {before}{field.name}, {describe(hints[field.name])}")
    return wanted(**{key: conform(before + key, item, hints[key]) for key, item in value.items()})


def _plain_value(name: str, value: Any) -> Any:
    """Return the value of an untyped plug-in setting: a scalar, or a list, mapping or plug-in of such values."""
    if name.count(".") + name.count("[") > DEEPEST:  # each level adds to the name
        raise UserError(f"{name[:60]}... is nested more than {DEEPEST} deep; no setting is")
    if type(value) is int:
        return _bounded(name, value)
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(_plain_value(f"{name}[{at}]", item) for at, item in enumerate(value))
    if isinstance(value, Use):
        return _dataclass(name, value, Use)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        if set(value) == {"name", "settings"}:  # a plug-in among another's settings, as `plain` writes it
            return _dataclass(name, value, Use)
        return {key: _plain_value(f"{name}.{key}", item) for key, item in value.items()}
    found = f"{name} is {show(value)} ({type(value).__name__})"
    raise UserError(f"{found}; wanted none, true, false, a finite number, text, or a list of them")


def plain(value: Any) -> Any:
    """Return the value as JSON holds it: dataclasses and mappings as dicts, tuples as lists. `conform` reads it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def without(value: Any, names: Collection[str]) -> Any:
    """Return a value that is `plain` without the members of these names, at any depth."""
    if isinstance(value, dict):
        return {name: without(part, names) for name, part in value.items() if name not in names}
    return [without(part, names) for part in value] if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class Use:
    """A plug-in by its name (or its function's import path) and the settings it is called with."""

    name: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def use(name: str, /, **settings: Any) -> Use:
    """Name a plug-in and its settings, as in `rule=use("recycle")`."""
    return Use(name, settings)


def inside(value: Any, *, deep: bool = True) -> Iterator[Use]:
    """Yield the plug-ins among a plug-in's settings (a retriever made of retrievers), and with `deep` those in them."""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    for item in items:
        if isinstance(item, Use):
            yield item
        if deep or not isinstance(item, Use):
            yield from inside(item.settings if isinstance(item, Use) else item, deep=deep)


def differences(one: Any, other: Any) -> list[str]:
    """List "name: 1 there, 2 here" of every setting in which two configs, or their JSON, differ."""
    by_name = sorted(unlike(plain(one), plain(other)), key=lambda part: part[0])
    return [f"{name}: {a!r} there, {b!r} here" for name, a, b in by_name]


def unlike(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield each part in which two values that are `plain` differ, by its full name; None where there is none."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from unlike(one.get(key), other.get(key), f"{name}.{key}" if name else key)
    elif one != other:
        yield name, one, other
