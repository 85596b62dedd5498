"""What several commands share: options that read numbers, the config they name, and how a device is started."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any


def add_trust(command: argparse.ArgumentParser) -> None:
    text = "a package outside qr_jax whose plug-ins the run may use; repeat it for more"
    command.add_argument("--allow-plugins", action="append", default=[], metavar="PACKAGE", help=text)


def add_run(command: argparse.ArgumentParser) -> None:
    """A run's folder, and the packages that its plug-ins may come from."""
    command.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    add_trust(command)


def add_json(*commands: argparse.ArgumentParser) -> None:
    for command in commands:
        command.add_argument("--json", action="store_true", help="print JSON")


def show(value: Any, as_json: bool, text: Callable[[Any], str]) -> int:
    """Print the value as JSON or in words; 0, the exit code of a command that did what was asked."""
    print(json.dumps(value, indent=2) if as_json else text(value))
    return 0


def whole(least: int) -> Callable[[str], int]:
    """What reads an option's whole number of at least `least`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"found {text!r}; wanted a whole number of at least {least}")
        return int(text)

    return read


def add_process_options(command: argparse.ArgumentParser) -> None:
    """Where a run goes over several processes and no TPU pod's environment says so."""
    text = "process 0's address, for a run of several processes; a TPU pod's environment says all three by itself"
    command.add_argument("--coordinator", metavar="HOST:PORT", help=text)
    command.add_argument("--processes", type=whole(1), metavar="N", help="how many processes the run has")
    command.add_argument("--process", type=whole(0), metavar="I", help="which of them this is, from 0")


def resolve(arguments: argparse.Namespace, stage: str = "") -> tuple[Any, Path]:
    """The checked config, and the folder of the run or its `stage`; a config.json's plug-ins must be allowed ones."""
    from qr_jax import checks
    from qr_jax import config as configs

    path, name = configs.parts(arguments.config)
    config = configs.load(arguments.config, arguments.overrides)
    if arguments.dry_run:
        print(json.dumps(configs.to_json(config), indent=2))
    # A Python config is its user's own code; a config.json may be somebody else's.
    checks.check(config, allow_plugins=tuple(arguments.allow_plugins) if path.suffix == ".json" else None)
    stem = path.stem if name == "config" else f"{path.stem}_{name}"
    return config, arguments.run or (path.parent if path.name == "config.json" else Path("runs") / stem / stage)


def open_run(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Check a run's config before a device is touched, and let the CPU show its devices; the allowed packages."""
    from qr_jax import checks
    from qr_jax import config as configs

    if not (arguments.run / "config.json").is_file():
        raise ValueError(f"{arguments.run} is no run: it has no config.json")
    allow_plugins = tuple(arguments.allow_plugins)
    config = configs.load(arguments.run / "config.json")
    checks.check(config, allow_plugins=allow_plugins)
    start(config)
    return allow_plugins


def start(config: Any, arguments: argparse.Namespace | None = None) -> AbstractContextManager:
    """What must be said to jax before it starts: the devices, the other processes, where compiled programs are kept.

    What comes back watches the other processes while it is open. Without `arguments` this process is alone.
    """
    from qr_jax import bucket
    from qr_jax.parallel import compile_cache, mesh
    from qr_jax.processes import hosts, start, watchdog

    if arguments is None:
        compile_cache.enable()
        mesh.emulate(config.mesh.devices)
        return nullcontext()
    which = {name: getattr(arguments, name) for name in ("coordinator", "processes", "process")}
    start.begin(config.mesh, **which)
    me = hosts.index()
    folder = compile_cache.enable(process=me)
    if config.train.bucket:
        compile_cache.mirror(folder, bucket.opened(config.train.bucket) / bucket.COMPILED, process=me)
    return watchdog.watching(config.mesh.heartbeat_s)


def is_first() -> bool:
    """Whether this is the process that speaks; the others are silent but for errors."""
    from qr_jax.processes import hosts

    return hosts.index() == 0


def say(arguments: argparse.Namespace) -> Callable[[str], None]:
    """Where a run tells how it goes: stdout, but stderr when stdout is for the JSON alone; only process 0 speaks."""
    if not is_first():
        return lambda text: None
    return (lambda text: print(text, file=sys.stderr)) if arguments.json else print


def print_summary(summary: Any, as_json: bool) -> None:
    """The summary on stdout: all of it as JSON, or in lines without what is nested deeper than one level."""
    if as_json:
        print(json.dumps(summary, indent=2, default=str))
        return
    for name, value in (summary or {}).items():
        if not isinstance(value, Mapping):
            print(f"{name}: {value}")
        elif value and all(one is None or isinstance(one, (str, int, float)) for one in value.values()):
            print(f"{name}: {', '.join(f'{key} {_short(one)}' for key, one in value.items())}")


def _short(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
