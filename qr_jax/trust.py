"""Permissions of a run's config: one that this user neither made nor allowed gets no code, no host, no bucket.

A Python config is its user's own code. A run's config.json may be somebody else's: until it is allowed nothing that it
names is imported, called or written to. What was allowed for good is remembered by a hash of what the config says, as
direnv does. Rows that only this user may write into a folder carry a seal, made with a key that lies in no run folder.
"""

import functools
import hashlib
import hmac
import json
import logging
import os
import secrets
import stat
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qr_jax import plugins
from qr_jax.config import SET_PREFIX, Config, Data, chosen_plugins
from qr_jax.errors import UserError
from qr_jax.settings.settings import Use, plain

log = logging.getLogger(__name__)

# Settings of our plug-ins: where one sends, the end of a name that names a secret, and what it writes.
URL, SECRET, WRITTEN = "url", "_env", ("cache", "index")
# What a config may ask for unasked: a command that only reads a run takes memory and time by these.
MOST = {
    "rollout.slots": 4096, "rollout.store": 8192, "rollout.context_tokens": 2**18, "rollout.search_k": 1000,
    "rollout.passage_chars": 10**7, "rollout.tile": 2**14, "rollout.buckets": 2**16, "rollout.chunk": 4096,
    "evaluation.samples": 1024, "pool.queries": 2**16, "pool.samples": 1024,
    "rollout.lanes": 64, "learner.lanes": 64, "learner.rows": 2**14, "learner.row_tokens": 2**18,
    "mesh.devices": 1024, "sft.traces": 2**14, "sft.max_tokens": 2**18, "data.trace_worlds": 1000,
}  # fmt: skip
MOST_OF_A_WORLD = 200_000  # of each of its counts
SEAL, KEY_BYTES = "seal", 32


@dataclass(frozen=True)
class Allowed:
    """The user's permissions for a run's config: packages of plug-ins, hosts, or all that it asks for, from now on."""

    packages: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    all: bool = False


@dataclass(frozen=True)
class Wish:
    """One thing that a config asks for, in words, and the option that allows it alone (None: only --trust does)."""

    text: str
    option: str | None


def admit(
    config: Config, where: str | Path, allowed: Allowed, *, retriever: str | None = None
) -> tuple[str, ...] | None:
    """Return the packages whose plug-ins the run may use, None for all. ValueError lists what is not allowed.

    With `allowed.all` the config is remembered, and asked about no more; a run that starts is remembered too (runs.py),
    so that the commands on it ask nothing. `retriever` takes the place of the config's.
    """
    if allowed.all:
        remember(config)
    if allowed.all or known(config):
        return None
    given = {f"--allow-plugins {package}" for package in allowed.packages}
    given |= {f"--allow-host {host.lower()}" for host in allowed.hosts}
    asked = replace(config, retriever=Use(retriever)) if retriever else config
    missing = [wish for wish in wishes(asked) if wish.option not in given]
    if missing:
        listed = "".join(f"\n  {wish.text}" + (f": {wish.option}" if wish.option else "") for wish in missing)
        raise UserError(
            f"{where} was not made here, and asks for what may do harm:{listed}\n"
            "allow what you trust, each by its option, or all of it, from now on, with --trust"
        )
    return allowed.packages


def wishes(config: Config) -> list[Wish]:
    """List what a config asks for that may do harm: code, hosts (and secrets that go there), a bucket, W&B."""
    found: list[Wish] = []
    for kind, chosen in chosen_plugins(config).items():
        found += _of_plugin(kind, chosen)
    if config.train.bucket:
        used = "to read, to write, and to run compiled programs from"
        found.append(Wish(f"the bucket {config.train.bucket}, {used}", None))
    data = config.data
    if "world" in (data.train, data.eval, data.corpus, data.traces) and data.world_path != Data().world_path:
        found.append(Wish(f"to write worlds into {data.world_path}", None))
    for name, value in (("train", data.train), ("eval", data.eval), ("corpus", data.corpus)):
        if value.startswith(SET_PREFIX) and not plugins.around("sets.official").is_built(value):
            told = f"to read official files by data.{name}={value}, and keep them as the set for all your runs"
            found.append(Wish(told, None))
    for what, name in (("the model", config.model.name), ("the tokenizer", config.model.tokenizer)):
        if _is_of_hub(name):
            found.append(_fetched(what, str(name)))
    found += [
        Wish(f"much memory or time: {name}={value:,} (at most {most:,} unasked)", None)
        for name, most in MOST.items() if (value := _value(config, name)) > most
    ]  # fmt: skip
    world = config.data.world if isinstance(config.data.world, Mapping) else {}
    sized = {name: value for name, value in world.items() if name != "seed" and isinstance(value, int)}
    found += [
        Wish(f"much memory or time: data.world.{name}={value:,} (at most {MOST_OF_A_WORLD:,} unasked)", None)
        for name, value in sized.items() if value > MOST_OF_A_WORLD
    ]  # fmt: skip
    if config.log.wandb:
        found.append(Wish("W&B, with your key", "--allow-host api.wandb.ai"))
    return list(dict.fromkeys(found))


def _value(config: Config, name: str) -> int:
    """A number by its dotted name; of several the largest, and 0 where it is None."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return max(value, default=0) if isinstance(value, tuple) else value or 0


def _is_of_hub(model: Any) -> bool:
    """Return True if a model's name leads to the hub: it is organisation/model, and no folder here."""
    return isinstance(model, str) and model.count("/") == 1 and model[0] not in "./~" and not os.path.exists(model)


def _fetched(what: str, model: str) -> Wish:
    return Wish(f"{what} {model!r} from the hub, where your token goes, too", "--allow-host huggingface.co")


def _of_plugin(kind: str, chosen: Use) -> list[Wish]:
    package = chosen.name.split(".")[0]
    if "." in chosen.name and package != "qr_jax":  # what its settings mean only its code knows
        return [Wish(f"code outside qr_jax: {kind} {chosen.name!r}", f"--allow-plugins {package}")]
    if "." in chosen.name and chosen.name not in {f"{module}.{name}" for name, module in plugins.modules(kind).items()}:
        return [Wish(f"a function of qr_jax that is no {kind}: {chosen.name!r}", None)]
    settings = plugins.signature(kind, chosen.name).settings
    values = {name: setting.default for name, setting in settings.items()} | plugins.check(kind, chosen)
    found: list[Wish] = []
    for value in values.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, Use):
                found += _of_plugin(kind, part)
    if _is_of_hub(values.get("model")) and URL not in settings:  # an encoder; a server's model is its own
        found.append(_fetched(f"the model of {kind} {chosen.name!r}:", values["model"]))
    if URL in settings and not settings[URL].required and settings[URL].default == values[URL] == "":
        return found  # a judge that is not asked: nothing is sent, and no verdict kept
    found += [
        Wish(f"{kind} {chosen.name!r}: to write into {values[name]}", None) for name in WRITTEN if values.get(name)
    ]
    secrets = [value for name, value in values.items() if name.endswith(SECRET) and isinstance(value, str)]
    if URL in values or secrets:
        host = _host(values.get(URL))
        text = f"{kind} {chosen.name!r}: what is asked goes to {host}"
        text += f", with the secret in {' and '.join(secrets)}" if secrets else ""
        found.append(Wish(text, f"--allow-host {host}"))
    return found


def _host(url: Any) -> str:
    try:
        return urllib.parse.urlsplit(str(url)).hostname or str(url)
    except ValueError:
        return str(url)


# ---- what the user made or allowed


def known(config: Config) -> bool:
    """Return True if this user made or allowed the config."""
    return noted(_text(config))


def remember(config: Config) -> None:
    """Note the config as this user's own."""
    note(_text(config))


def noted(text: str) -> bool:
    """Return True if the user has allowed what the text says."""
    try:
        return _hash(text) in _file().read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return False


def note(text: str) -> None:
    """Note that the user allows what the text says. A home that cannot be written is warned of, and the run goes on."""
    if noted(text):
        return
    path = "the list of what this user allowed"
    try:
        path = _file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{_hash(text)}\n")
    except OSError as error:
        log.warning("%s cannot be written (%s): this run will have to be allowed again", path, error)


def _text(config: Config) -> str:
    """Return the config's settings that differ from the defaults, so that a new setting leaves older runs allowed."""
    return json.dumps(_besides(plain(config), plain(Config())), sort_keys=True)


def _besides(told: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in told.items() if name not in usual or value != usual[name]}
    for name, value in found.items():
        if isinstance(value, dict) and isinstance(usual.get(name), dict) and usual[name].keys() <= value.keys():
            found[name] = _besides(value, usual[name])
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# ---- what the user wrote


def sealed(row: Mapping[str, Any], about: str) -> dict[str, Any]:
    """Add a seal to the row that only this user can make; it covers `about` too."""
    bare = {name: value for name, value in row.items() if name != SEAL}
    return bare | {SEAL: hmac.new(_key(), f"{about}\n{json.dumps(bare)}".encode(), "sha256").hexdigest()}


def is_sealed(row: Any, about: str) -> bool:
    """Return True if this user has sealed the row."""
    try:
        return isinstance(row, dict) and SEAL in row and row[SEAL] == sealed(row, about)[SEAL]
    except RecursionError:  # lists in lists that JSON was read from, and cannot be written
        return False


def _key() -> bytes:
    """Return this user's key, made when first wanted; it lasts only for this process if the home cannot be written."""
    try:
        file = _file().with_name("key")
        if why := _no_key(file):
            if os.path.lexists(file):
                log.warning("%s %s: a new key is made, and what was sealed with that one is not known again", file, why)
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside = file.with_name(f"key.{os.getpid()}")
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as made:
                made.write(secrets.token_bytes(KEY_BYTES))
            os.replace(beside, file)
        return file.read_bytes()
    except OSError as error:
        return _key_of_this_process(str(error))


def _no_key(file: Path) -> str | None:
    """Say why the file is not this user's key, which nobody else may read or write; None: it is."""
    try:
        status = file.lstat()
    except FileNotFoundError:
        return "is not there"
    if not stat.S_ISREG(status.st_mode) or status.st_size != KEY_BYTES:
        return "is none that was made here"
    return "is open to others" if status.st_mode & 0o077 or status.st_uid != os.getuid() else None


@functools.cache
def _key_of_this_process(why: str) -> bytes:
    log.warning("this user's key cannot be kept (%s): what is written now is not known again as this user's own", why)
    return secrets.token_bytes(KEY_BYTES)


def _file() -> Path:
    return own_folder("XDG_CONFIG_HOME", ".config") / "trusted"


def own_folder(variable: str, beside: str, environment: Mapping[str, str] = os.environ) -> Path:
    """The user's own folder for qr_jax, in the one that the variable names, or `beside` in the home.

    OSError where there is no home, as for a user whom the system does not know.
    """
    try:
        return Path(environment.get(variable) or Path.home() / beside) / "qr_jax"
    except RuntimeError as error:
        raise OSError(f"there is no home folder ({error}); set {variable}") from error
