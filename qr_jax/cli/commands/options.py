"""Options that several commands share: numbers, the config and its permissions, and the start of a device."""

import argparse
import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from qr_jax.errors import UserError
from qr_jax.logging import terminal

# What Python raises for a JSON value of another kind than was written.
NOT_AS_WRITTEN = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, RecursionError)


def add_trust(command: argparse.ArgumentParser) -> None:
    """Add the options that allow a run not made by this user to use plug-ins, hosts and secrets (trust.py)."""
    add = command.add_argument_group("of a run that is not your own").add_argument
    text = "a package outside qr_jax whose plug-ins it may use; repeat it for more"
    add("--allow-plugins", action="append", default=[], metavar="PACKAGE", help=text)
    text = "a host that it may send to, with what secret it names for that; repeat it for more"
    add("--allow-host", action="append", default=[], metavar="HOST", help=text)
    add("--trust", action="store_true", help="all that it asks for, from now on")


def admit(
    arguments: argparse.Namespace, config: Any, where: Any, retriever: str | None = None
) -> tuple[str, ...] | None:
    """Return the packages whose plug-ins a config.json may use, None for all; ValueError for what it may not have."""
    from qr_jax import trust

    allowed = trust.Allowed(tuple(arguments.allow_plugins), tuple(arguments.allow_host), arguments.trust)
    return trust.admit(config, where, allowed, retriever=retriever)


def load(arguments: argparse.Namespace, path: str, typed: Sequence[str]) -> tuple[Any, tuple[str, ...] | None]:
    """Load a config with its overrides; also return the packages whose plug-ins it may use (None: all).

    A Python config is its user's own code. For a config.json nothing is imported, not even to read an override's type,
    before it is admitted.
    """
    from qr_jax import config as configs

    packages = None
    if configs.parts(path)[0].suffix == ".json":
        packages = admit(arguments, configs.load(path), path)
    return configs.load(path, typed), packages


@contextmanager
def reading(where: Any) -> Iterator[None]:
    """Within the context, turn errors from malformed run files into a ValueError that says where they were met."""
    from qr_jax.config import PACKAGE

    try:
        yield
    except NOT_AS_WRITTEN as error:
        if isinstance(error, UserError):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if PACKAGE in Path(frame.filename).resolve().parents]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        told = f"{type(error).__name__}: {error}"[:200]
        raise UserError(f"{where} holds what qr-jax does not write ({told}, in {place})") from error


def add_run(command: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add the folder of a run, or of `several`, and the packages that its plug-ins may come from."""
    help = "the run's folder; several are laid over each other" if several else "the run's folder"
    command.add_argument("run", type=Path, metavar="RUN", nargs="+" if several else None, help=help)
    add_trust(command)


def add_json(*commands: argparse.ArgumentParser) -> None:
    for command in commands:
        command.add_argument("--json", action="store_true", help="print JSON")


def show(value: Any, as_json: bool, text: Callable[[Any], str]) -> int:
    """Print the value as JSON or text; return 0, the exit code of success."""
    terminal.result(json.dumps(value, indent=2) if as_json else text(value))
    return 0


def whole(least: int) -> Callable[[str], int]:
    """Return a parser of an option's integer of at least `least`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"found {text!r}; wanted a whole number of at least {least}")
        return int(text)

    return read


def port(text: str) -> int:
    """Parse a port; 0 means any free one."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"found {text!r}; wanted a port, from 0 (any free one) to 65535")
    return int(text)


def check_out(file: Path | None, begins: bytes) -> None:
    """Raise ValueError, before any work, if the output file cannot be written.

    An existing file is overwritten only if it begins with `begins`, as the output does.
    """
    from qr_jax.run import run_files

    if not file:
        return
    if file.is_dir():
        raise UserError(f"{file} is a folder; give --out the name of a file, which may be new")
    if not file.parent.is_dir():
        raise UserError(f"there is no folder {file.parent} to write {file.name} into; make it first")
    if file.is_symlink() and (file.is_file() or not file.exists()):
        raise UserError(f"{file} is a link to {file.readlink()}; give --out the name of a file of its own")
    if file.exists() and not file.is_file():
        raise UserError(f"{file} is a pipe or a device; give --out the name of a file, which may be new")
    if file.is_file():
        with file.open("rb") as there:
            if there.read(len(begins)) not in (begins, b""):
                raise UserError(f"{file} is there and is no earlier one of this command's; give --out another name")
    run_files.check_writable(file.parent, "--out")


def add_process_options(command: argparse.ArgumentParser) -> None:
    """Add options for a run over several processes without a TPU pod's environment."""
    text = "process 0's address, for a run of several processes; a TPU pod's environment says all three by itself"
    command.add_argument("--coordinator", metavar="HOST:PORT", help=text)
    command.add_argument("--processes", type=whole(1), metavar="N", help="how many processes the run has")
    command.add_argument("--process", type=whole(0), metavar="I", help="which of them this is, from 0")


def resolve(arguments: argparse.Namespace, stage: str = "") -> tuple[Any, Path, tuple[str, ...] | None]:
    """Return the checked config, the folder of the run or its `stage`, and the allowed plug-in packages (None: all).

    A config.json must be allowed what it asks for.
    """
    from qr_jax import config as configs

    path, name = configs.parts(arguments.config)
    config, packages = load(arguments, arguments.config, arguments.overrides)
    stem = path.stem if name == "config" else f"{path.stem}_{name}"
    folder = arguments.run or (path.parent if path.name == "config.json" else Path("runs") / stem / stage)
    if not (arguments.dry_run or arguments.process):
        terminal.say(f"{'cold start' if stage else 'training'} by {arguments.config} in {folder}")
    from qr_jax.settings import checks  # here: it takes longer than the first line may

    checks.check(config, allow_plugins=packages)
    if config.train.init:
        from qr_jax.run import run_files

        run_files.check_folder(Path(config.train.init), allowed=arguments.trust)
        admit_weights(arguments, Path(config.train.init))
    return config, folder, packages


def open_run(arguments: argparse.Namespace) -> tuple[str, ...] | None:
    """Check a run's config before a device is touched, emulate its devices on CPU, and return the allowed packages."""
    from qr_jax.run import run_files

    run_files.check_there(arguments.run)
    from qr_jax.run import runs
    from qr_jax.settings import checks

    config = runs.load(arguments.run)
    packages = admit(arguments, config, arguments.run)
    checks.check(config, allow_plugins=packages)
    start(config)
    return packages


def open_weights(arguments: argparse.Namespace) -> None:
    """Emulate a run's devices on CPU, for a command that reads its weights alone."""
    from qr_jax.run import run_files

    run_files.check_there(arguments.run)
    from qr_jax.run import runs

    admit_weights(arguments, arguments.run)
    start(runs.load(arguments.run))


def admit_weights(arguments: argparse.Namespace, run: Path) -> None:
    """Raise ValueError if a run's weights need a bucket or emulated devices that are not allowed.

    The bucket must be one that the user made or allowed; a stranger's config may ask for a limited number of devices.
    """
    from dataclasses import replace

    from qr_jax import config, trust
    from qr_jax.config import Config, Mesh, Train
    from qr_jax.run import bucket

    if not (run / "config.json").is_file():
        return
    of_run = config.load(run / "config.json")
    if not trust.known(of_run):
        taken_from = None if (run / bucket.CHECKPOINTS).is_dir() else of_run.train.bucket
        of_weights = replace(Config(), train=Train(bucket=taken_from), mesh=Mesh(devices=of_run.mesh.devices))
        admit(arguments, of_weights, run)


def replayed_packages(arguments: argparse.Namespace, run: Path) -> tuple[str, ...] | None:
    """Return the packages whose plug-ins a report or export may use to replay a run; None for all."""
    from qr_jax import trust
    from qr_jax.run import runs

    return None if arguments.trust or trust.known(runs.load(run)) else tuple(arguments.allow_plugins)


def start(config: Any, arguments: argparse.Namespace | None = None) -> AbstractContextManager:
    """Configure jax before it starts: devices, other processes, and the compilation cache.

    The returned context watches the other processes while it is open. Without `arguments` this process is alone.
    """
    from qr_jax.parallel import compile_cache, hosts, mesh, start, watchdog
    from qr_jax.run import bucket

    if arguments is None:
        compile_cache.enable()
        mesh.emulate(config.mesh.devices)
        return nullcontext()
    which = {name: getattr(arguments, name) for name in ("coordinator", "processes", "process")}
    start.begin(config.mesh, **which)
    me = hosts.index()
    folder = compile_cache.enable(process=me, lives=config.train.bucket)
    if config.train.bucket:
        compile_cache.mirror(folder, bucket.opened(config.train.bucket) / bucket.COMPILED, process=me)
    return watchdog.watching(config.mesh.heartbeat_s)


def is_first() -> bool:
    """Return True in the process that prints; the others print errors alone."""
    from qr_jax.parallel import hosts

    return hosts.index() == 0
