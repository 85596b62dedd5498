"""Somebody else's run: without `--trust` no code outside qr_jax is imported, no host asked and no bucket read.

A Python config is its user's own code. A config.json may be anybody's: a command that would act by one that this user
neither made nor allowed is refused by `check` before anything that it names is imported, asked or written. Commands
that only read a run never ask. Configs are remembered by a hash of what they say, as direnv does.
"""

import contextlib
import hashlib
import json
import logging
import os
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qr_jax import plugins
from qr_jax.config import (
    COLD_START,
    SET_PREFIX,
    Config,
    Data,
    begun_by,
    below,
    every_plugin,
    from_json,
    is_run,
    load,
    to_json,
)
from qr_jax.errors import UserError
from qr_jax.settings.settings import Use, inside, plain

log = logging.getLogger(__name__)

# Names of plug-in settings: a server's address, the suffix of settings that name a secret, files that are written.
URL, SECRET, WRITTEN = "url", "_env", ("cache", "index")
STARTED, HOSTS = "command", "hosts"  # a program that a plug-in starts; hosts whose pages a tool reads
NOTED: set[str] = set()  # hashes of what this process noted while the home could not be written


def check(config: Config, where: str | Path, *, trusted: bool, used: Config | None = None) -> None:
    """Raise ValueError if a stranger's config asks for what may do harm, with all that it asks for.

    `trusted` allows the config, from now on. `used` is the config with the command's overrides, which may replace what
    the config asks for, or activate a setting that had no effect. `where` is the run's folder, or
    the config's file; the other runs that its weights come from are checked too.
    """
    path = Path(where)
    folder = path.parent if path.name == "config.json" else path
    if not is_allowed(config, trusted=trusted):
        listed = asks(used or config)
        if {*listed} - {*_of_its_run(folder, trusted)}:
            raise _refused(where, dict.fromkeys([*listed, *asks(config)]))  # all that --trust would allow
    check_sources(config, folder, trusted=trusted)


def _of_its_run(folder: Path, trusted: bool) -> list[str]:
    """List what a cold start in the folder may ask for: what its run asks for, if this user made or allowed it."""
    if not (run := begun_by(folder)):
        return []
    config = load(run / "config.json")
    return asks(below(config, COLD_START)) if is_allowed(config, trusted=trusted) else []


def check_sources(config: Config, folder: Path | None = None, *, trusted: bool) -> None:
    """Check the other runs that the weights of a config, or of the run in `folder`, come from.

    A cold start's config is followed and not checked: nothing but its train.init is read, and its checkpoints lie in
    the bucket that its run names.
    """
    seen = {folder}
    left = _sources(config, folder)
    while left:
        source = left.pop()
        if source in seen or not is_run(source):
            continue
        seen.add(source)
        try:
            theirs = load(source / "config.json")
        except ValueError:  # reported by whoever loads it next, with the same function
            continue
        if not begun_by(source) and not is_allowed(theirs, trusted=trusted) and (listed := asks(theirs)):
            raise _refused(source, listed)
        left += _sources(theirs, source)


def _sources(config: Config, folder: Path | None) -> list[Path]:
    """List the folders of runs whose weights may be a run's: its train.init, its cold start, or its parent run's."""
    found = [Path(config.train.init)] if config.train.init else []
    return [*found, begun_by(folder) or folder / COLD_START] if folder else found


def _refused(where: str | Path, listed: Iterable[str]) -> UserError:
    first = f"{where} is not a run of yours, and asks for what may do harm:"
    return UserError("\n  ".join([first, *listed]) + "\nread the list; --trust allows all of it, from now on")


def check_bucket(config: Config, where: str | Path) -> None:
    """Raise ValueError before the bucket of a run is read that this user neither made nor allowed."""
    if not is_allowed(config):
        lives = config.train.bucket
        raise UserError(f"{where} is not a run of yours, and its checkpoints lie in {lives}; --trust lets it be read")


def is_allowed(config: Config, *, trusted: bool = False) -> bool:
    """Return True if this user made the config or allowed it; with `trusted` it is allowed from now on."""
    if trusted:
        remember(config)
    return trusted or noted(_text(config))


def remember(config: Config) -> None:
    """Note the config as one that this user made or allowed."""
    note(_text(config))


def asks(config: Config) -> list[str]:
    """List, in words, what a config asks for that may do harm: code, hosts, secrets, a bucket, files to write."""
    found = [text for kind, chosen in every_plugin(config) for text in asks_of(kind, chosen)]
    if config.train.bucket:
        found.append(f"the bucket {config.train.bucket}, to read, to write, and to run compiled programs from")
    data = config.data
    if "world" in (data.train, data.eval, data.corpus, data.traces) and data.world_path != Data().world_path:
        found.append(f"to write worlds into {data.world_path}")
    for name, value in (("train", data.train), ("eval", data.eval), ("corpus", data.corpus)):
        if value.startswith(SET_PREFIX) and not plugins.around("sets.official").is_built(value):
            found.append(f"to read official files by data.{name}={value}, and keep them as the set for all your runs")
    for what, name in (("the model", config.model.name), ("the tokenizer", config.model.tokenizer)):
        found += _of_hub(what, name)
    return list(dict.fromkeys([*found, *(["W&B, with your key"] if config.log.wandb else [])]))


def asks_of(kind: str, chosen: Use) -> list[str]:
    """List what a plug-in asks for, and the plug-ins inside it. Nothing outside qr_jax is imported for this."""
    if "." in chosen.name and not chosen.name.startswith("qr_jax."):  # only its code knows what its settings mean
        return [f"code outside qr_jax: {kind} {chosen.name!r}"]
    if "." in chosen.name and chosen.name not in {f"{module}.{name}" for name, module in plugins.modules(kind).items()}:
        return [f"a function of qr_jax that is no {kind}: {chosen.name!r}"]
    settings = plugins.signature(kind, chosen.name).settings
    values = plugins.settings_of(kind, chosen)
    found = [text for part in inside(values, deep=False) for text in asks_of(kind, part)]
    if command := values.get(STARTED):
        words = command if isinstance(command, str) else " ".join(command)
        found.append(f"{kind} {chosen.name!r}: to start the program {words!r}")
    if URL not in settings:  # an encoder loads its model; a server's model is not loaded here
        found += _of_hub(f"the model of {kind} {chosen.name!r}:", values.get("model"))
    elif not settings[URL].required and settings[URL].default == values[URL] == "":
        return found  # a judge that is not asked: nothing is sent, and no verdict kept
    found += [f"{kind} {chosen.name!r}: to write into {values[name]}" for name in WRITTEN if values.get(name)]
    found += [f"{kind} {chosen.name!r}: to read pages of {host}" for host in values.get(HOSTS) or ()]
    secrets = [value for name, value in values.items() if name.endswith(SECRET) and isinstance(value, str)]
    if URL in values or secrets:
        told = f", with the secret in {' and '.join(secrets)}" if secrets else ""
        where = _host(values.get(URL)) or "the address that its url will name"
        found.append(f"{kind} {chosen.name!r}: what is asked goes to {where}{told}")
    return found


def _of_hub(what: str, model: Any) -> list[str]:
    """Return [the request for a hub model], if `model` is ORGANISATION/MODEL and no local folder; else []."""
    if isinstance(model, str) and model.count("/") == 1 and model[0] not in "./~" and not os.path.exists(model):
        return [f"{what} {model!r} from the hub, where your token goes, too"]
    return []


def _host(url: Any) -> str:
    try:
        return urllib.parse.urlsplit(str(url)).hostname or str(url)
    except ValueError:
        return str(url)


# ---- what this user made or allowed


def noted(text: str) -> bool:
    """Return True if the user has allowed what the text says."""
    try:
        return _hash(text) in NOTED or _hash(text) in _file().read_text(encoding="utf-8").split()
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
        NOTED.add(_hash(text))
        log.warning("%s cannot be written (%s): this run will have to be allowed again", path, error)


def _text(config: Config) -> str:
    """Return the config's settings that differ from the defaults, so that a new setting leaves older runs allowed."""
    with contextlib.suppress(ValueError):  # as it is read from JSON: an integer in a float setting becomes 1.0
        config = from_json(to_json(config))
    return json.dumps(_besides(plain(config), plain(Config())), sort_keys=True)


def _besides(told: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in told.items() if name not in usual or value != usual[name]}
    for name, value in found.items():
        if isinstance(value, dict) and isinstance(usual.get(name), dict) and usual[name].keys() <= value.keys():
            found[name] = _besides(value, usual[name])
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _file() -> Path:
    return own_folder("XDG_CONFIG_HOME", ".config") / "trusted"


def own_folder(variable: str, beside: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the user's own folder for qr_jax, in the one that the variable names, or `beside` in the home.

    OSError where there is no home, as for a user whom the system does not know.
    """
    try:
        return Path(environment.get(variable) or Path.home() / beside) / "qr_jax"
    except RuntimeError as error:
        raise OSError(f"there is no home folder ({error}); set {variable}") from error
