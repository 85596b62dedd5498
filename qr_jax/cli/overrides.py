"""Overrides as people type them, `a.b.c=value`, read by the type of the setting they name."""

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from qr_jax import plugins
from qr_jax.cli import elsewhere
from qr_jax.config import PLUGIN_AT
from qr_jax.errors import UserError
from qr_jax.interfaces import CONTRACTS
from qr_jax.logging.secrecy import looks_secret
from qr_jax.settings.settings import (
    BEYOND,
    DEEPEST,
    WORDS,
    Use,
    bare,
    conform,
    each_of,
    first_of,
    nearest,
    type_hints,
    wrong,
)  # fmt: skip

# Names known by muscle memory from verl and SkyRL.
ALIASES: Mapping[str, str] = {
    "trainer.total_training_steps": "train.steps",
    "trainer.save_freq": "train.checkpoint_every",
    "trainer.test_freq": "evaluation.every",
    "data.train_files": "data.train",
    "data.val_files": "data.eval",
}
NOTHING = ("none", "null")
GROUPED = re.compile(r"[+-]?\d{1,3}(_\d{3})+")  # 1_000; 1_0 is a slip, and no 10


def pairs(typed: Sequence[str]) -> list[tuple[str, str]]:
    """List (dotted name, text) of each override."""
    found = []
    for word in typed:
        name, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"{word!r} is no override; wanted setting=value, as in loss.high=0.3")
        if looks_secret(name):
            todo = "take it off the command line and set an environment variable"
            raise UserError(f"{name} looks like a secret; {todo}")
        if name.count(".") > DEEPEST:
            raise UserError(f"{name[:60]}... has {name.count('.'):,} dots; no setting has more than {DEEPEST}")
        found.append((ALIASES.get(name, name), text))
    return found


def override(config: Any, typed: Sequence[str]) -> Any:
    """Apply the overrides in their order, but names of plug-ins and sections before their settings.

    `loss=clip` replaces the plug-in and forgets its old settings; `model=two_layer` makes the section anew with that
    name and defaults otherwise. ValueError on an unknown name (with the nearest) or a value of another type.
    """
    found = [(_path(config, name), text) for name, text in pairs(typed)]
    for path, text in sorted(found, key=lambda item: not _is_whole(config, item[0])):
        config = _set(config, path, text)
    return config


def known_names(config: Any, before: str = "") -> list[str]:
    """Return the dotted names of all settings, plug-ins by their own name alone."""
    found = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, Use):
            found += known_names(value, f"{before}{field.name}.")
        else:
            found.append(before + field.name)
    return found


def _path(config: Any, name: str) -> list[str]:
    """Return a typed name's full path; a plug-in may go without its section (`loss.high` is `learner.loss.high`)."""
    parts = name.split(".")
    if parts[0] in {field.name for field in dataclasses.fields(config)}:
        return parts
    if parts[0] not in PLUGIN_AT:
        raise _unknown(config, name)
    return PLUGIN_AT[parts[0]].split(".") + parts[1:]


def _unknown(config: Any, name: str) -> UserError:
    if said := elsewhere.said_of(name):
        return UserError(f"unknown setting {name}: {said}")
    known, parts = known_names(config), name.split(".")
    last = {full: full.split(".")[-1] for full in known}
    if ".".join(parts[-2:]) in known:
        return UserError(f"unknown setting {name}: it is {'.'.join(parts[-2:])} here")
    like = difflib.get_close_matches(parts[-1], last.values(), n=1, cutoff=0.75)
    same = [full for full, end in last.items() if [end] == like]
    if same and ("." not in name or parts[-1] in last.values()):
        return UserError(f"unknown setting {name}; did you mean {' or '.join(same)}?")
    guess = nearest(name, [*known, *CONTRACTS, *ALIASES]) or "; `qr-jax settings` lists them"
    return UserError(f"unknown setting {name}{guess}")


def _is_whole(config: Any, path: Sequence[str]) -> bool:
    """Return True if the path names a plug-in or a section itself, not one of its settings."""
    value = config
    for part in path:
        value = getattr(value, part, None) if dataclasses.is_dataclass(value) and not isinstance(value, Use) else None
    return dataclasses.is_dataclass(value)


def _set(node: Any, path: Sequence[str], text: str, before: str = "", top: Any = None, of: Any = Any) -> Any:
    """Return the section with the setting at `path` replaced by what was typed; `of` types a mapping's values."""
    name, rest = path[0], path[1:]
    here, top = before + name, node if top is None else top
    if isinstance(node, Mapping):
        value = _set(node.get(name, {}), rest, text, here + ".", top, of) if rest else read(here, text, of)
        return {**node, name: value}
    hints = type_hints(type(node))
    if name not in hints:
        raise _unknown(top, before + ".".join(path))
    current = getattr(node, name)
    if not rest:
        value = _whole(here, text, hints[name])
    elif _are_plugins(current, rest):
        value = _set_plugin("tool" if name == "tools" else name, current, rest, text, here)
    elif dataclasses.is_dataclass(current) or isinstance(current, Mapping):
        of = get_args(hints[name])[1] if isinstance(current, Mapping) else Any
        value = _set(current, rest, text, here + ".", top, of)
    else:
        raise UserError(f"{here} is one value ({current!r}) and has no setting {'.'.join(rest)!r}; set {here}=...")
    return dataclasses.replace(node, **{name: value})


def _whole(here: str, text: str, wanted: Any) -> Any:
    if wanted is Use:
        return Use(text)
    if dataclasses.is_dataclass(wanted):
        fields = [field.name for field in dataclasses.fields(wanted)]
        if fields[0] != "name":
            settings = ", ".join(f"{here}.{name}" for name in fields)
            raise UserError(f"{here} is a section, not one setting; set one of {settings}")
        return conform(here, text, wanted)
    if get_origin(wanted) is not None and get_origin(wanted) in (Mapping, dict):
        raise UserError(f"{here} holds named settings; set them one by one, as in {here}.name=value")
    try:
        return read(here, text, wanted)
    except ValueError as error:
        if ours := elsewhere.VALUES.get(here, {}).get(text):
            raise UserError(f"{error}; {text} is {ours} here") from None
        raise


def _are_plugins(value: Any, path: Sequence[str]) -> bool:
    """Return True if the path leads into a plug-in, or into one of a list of them."""
    listed = isinstance(value, tuple) and value and all(isinstance(part, Use) for part in value)
    return isinstance(value, Use) or bool(listed and len(path) > 1)


def _set_plugin(kind: str, plugin: Any, path: Sequence[str], text: str, here: str) -> Any:
    """Return the plug-in with one setting replaced, typed by its signature; a plug-in inside it is reached too.

    One of a list of plug-ins goes by its name, or by its place from 0 (`retriever.parts.dense.index=FOLDER`).
    """
    if isinstance(plugin, tuple):
        at = _place(plugin, path[0], here)
        changed = _set_plugin(kind, plugin[at], path[1:], text, f"{here}.{path[0]}")
        return (*plugin[:at], changed, *plugin[at + 1 :])
    if path[0] == "settings" and len(path) > 1:  # the long form, as config.json writes it
        path = path[1:]
    if path[0] == "name" and len(path) == 1:
        return Use(text)
    key, rest = path[0], path[1:]
    inner = plugin.settings.get(key)
    if rest and _are_plugins(inner, rest):
        changed = _set_plugin(kind, inner, rest, text, f"{here}.{key}")
        return Use(plugin.name, {**plugin.settings, key: changed})
    if rest:
        found = f"{here}.{key} is no plug-in and has no setting {'.'.join(rest)!r}"
        raise UserError(found + (f"; set {here}.{key}=... before it" if inner is None else ""))
    wanted = Any
    if kind in CONTRACTS:
        found = plugins.signature(kind, plugin.name)
        if key not in found.settings:
            own = [name for name in found.settings if name not in CONTRACTS[kind].provided]
            listed = f"its settings are: {', '.join(own)}" if own else "it has none"
            others = [name for name in plugins.names(kind) if key in plugins.signature(kind, name).settings]
            more = f"; those that have it: {kind}={f', {kind}='.join(others)}" if others else ""
            said = elsewhere.said_of(f"{kind}.{key}")
            more = f"; {said}" if said else more
            raise UserError(f"{kind} {plugin.name!r} has no setting {key!r}; {listed}{more}")
        wanted = found.settings[key].type
    return Use(plugin.name, {**plugin.settings, key: read(f"{here}.{key}", text, wanted)})


def _place(listed: Sequence[Use], name: str, here: str) -> int:
    """Return the position in a list of the plug-in with this name or number. ValueError unless there is exactly one."""
    places = [at for at, one in enumerate(listed) if name in (one.name, one.name.rpartition(".")[2], str(at))]
    if len(places) != 1:
        there = ", ".join(f"{at} ({one.name})" for at, one in enumerate(listed)) or "none"
        known = [one.name.rpartition(".")[2] for one in listed]
        none = f"has no plug-in {name!r}{nearest(name, known, shown=0)}" if not places else f"has several {name!r}"
        raise UserError(f"{here} {none}; there are {there}" + ": name one, or its number" * bool(listed))
    return places[0]


def read(name: str, text: str, wanted: Any) -> Any:
    """Read a typed text as the type `wanted`: "1e-3" a float, "none" None, "32,128" a tuple. ValueError otherwise."""
    wanted = bare(wanted)
    if wanted is Any:
        return guess(text)
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        if type(None) in parts and text.lower() in NOTHING:
            return None
        return first_of(read, name, text, wanted)
    if origin is Literal:
        for part in parts:
            if text == str(part) or (isinstance(part, bool) and WORDS.get(text.lower()) is part):
                return part
        raise wrong(name, text, wanted)
    if origin is tuple:
        items = [item.strip() for item in text.strip("()[] ").split(",") if item.strip()]
        return each_of(read, name, items, text, wanted)
    return conform(name, _scalar(text, wanted), wanted)


def _scalar(text: str, wanted: Any) -> Any:
    """Return the typed scalar where the text is one, and otherwise the text itself, for `conform` to refuse."""
    if wanted is bool:
        return WORDS.get(text.lower(), {"1": True, "0": False}.get(text, text))
    if wanted in (int, float):
        try:
            number = float(text if "_" not in text or GROUPED.fullmatch(text) else "no number")
            if wanted is int and number.is_integer():  # 1e3 is a whole number too; long ones keep every digit
                return int(text) if text.lstrip("+-").replace("_", "").isdigit() else int(number)
            return number if wanted is float else text
        except ValueError:
            return text
    return text


def guess(text: str) -> Any:
    """Read a setting of no stated type: none, true, false, a number, a list at commas, else text."""
    if "," in text:
        return tuple(guess(item.strip()) for item in text.strip("()[] ").split(",") if item.strip())
    if text.lower() in NOTHING:
        return None
    if text.lower() in ("true", "false"):
        return WORDS[text.lower()]
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if kind is int and abs(number) >= BEYOND:  # a name that is all digits, and keeps them
            return text
        if math.isfinite(number):
            return number
    return text
