"""What several commands share: options that read numbers, the config they name, and how a device is started."""

import argparse
import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from qr_jax import terminal
from qr_jax.errors import UserError

# What Python raises for a JSON value of another kind than was written.
NOT_AS_WRITTEN = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, RecursionError)


def add_trust(command: argparse.ArgumentParser) -> None:
    """What a run's folder may do that this user neither made nor allowed (trust.py)."""
    add = command.add_argument_group("of a run that is not your own").add_argument
    text = "a package outside qr_jax whose plug-ins it may use; repeat it for more"
    add("--allow-plugins", action="append", default=[], metavar="PACKAGE", help=text)
    text = "a host that it may send to, with what secret it names for that; repeat it for more"
    add("--allow-host", action="append", default=[], metavar="HOST", help=text)
    add("--trust", action="store_true", help="all that it asks for, from now on")


def admit(
    arguments: argparse.Namespace, config: Any, where: Any, retriever: str | None = None
) -> tuple[str, ...] | None:
    """The packages whose plug-ins a config.json may use, None for all; ValueError for what it asks and may not have."""
    from qr_jax import trust

    allowed = trust.Allowed(tuple(arguments.allow_plugins), tuple(arguments.allow_host), arguments.trust)
    return trust.admit(config, where, allowed, retriever=retriever)


def load(arguments: argparse.Namespace, path: str, typed: Sequence[str]) -> tuple[Any, tuple[str, ...] | None]:
    """The config that a file and the overrides give, and the packages whose plug-ins it may use (None: all).

    A Python config is its user's own code. Of a config.json nothing is imported, not even to read an override's type,
    before it is admitted.
    """
    from qr_jax import config as configs

    packages = None
    if configs.parts(path)[0].suffix == ".json":
        packages = admit(arguments, configs.load(path), path)
    return configs.load(path, typed), packages


@contextmanager
def reading(where: Any) -> Iterator[None]:
    """Within, what a run's files hold and this program does not write is a ValueError that says where it was met."""
    from qr_jax import interrupts

    try:
        yield
    except NOT_AS_WRITTEN as error:
        if isinstance(error, UserError):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if interrupts.PACKAGE in Path(frame.filename).resolve().parents]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        told = f"{type(error).__name__}: {error}"[:200]
        raise UserError(f"{where} holds what qr-jax does not write ({told}, in {place})") from error


def add_run(command: argparse.ArgumentParser, *, several: bool = False) -> None:
    """A run's folder, or those of several, and the packages that its plug-ins may come from."""
    help = "the run's folder; several are laid over each other" if several else "the run's folder"
    command.add_argument("run", type=Path, metavar="RUN", nargs="+" if several else None, help=help)
    add_trust(command)


def add_json(*commands: argparse.ArgumentParser) -> None:
    for command in commands:
        command.add_argument("--json", action="store_true", help="print JSON")


def show(value: Any, as_json: bool, text: Callable[[Any], str]) -> int:
    """Print the value as JSON or in words; 0, the exit code of a command that did what was asked."""
    terminal.result(json.dumps(value, indent=2) if as_json else text(value))
    return 0


def whole(least: int) -> Callable[[str], int]:
    """What reads an option's whole number of at least `least`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"found {text!r}; wanted a whole number of at least {least}")
        return int(text)

    return read


def port(text: str) -> int:
    """What reads a port; 0 is any free one."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"found {text!r}; wanted a port, from 0 (any free one) to 65535")
    return int(text)


def check_out(file: Path | None, begins: bytes) -> None:
    """ValueError where no such file can be written: said before what is to be written is made.

    A file that is there is written over where it begins as what is to be written does.
    """
    from qr_jax import run_files

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
    """Where a run goes over several processes and no TPU pod's environment says so."""
    text = "process 0's address, for a run of several processes; a TPU pod's environment says all three by itself"
    command.add_argument("--coordinator", metavar="HOST:PORT", help=text)
    command.add_argument("--processes", type=whole(1), metavar="N", help="how many processes the run has")
    command.add_argument("--process", type=whole(0), metavar="I", help="which of them this is, from 0")


def resolve(arguments: argparse.Namespace, stage: str = "") -> tuple[Any, Path, tuple[str, ...] | None]:
    """The checked config, the folder of the run or its `stage`, and the packages whose plug-ins it may use.

    What a config.json asks for must be allowed. None stands for all packages.
    """
    from qr_jax import config as configs

    path, name = configs.parts(arguments.config)
    config, packages = load(arguments, arguments.config, arguments.overrides)
    stem = path.stem if name == "config" else f"{path.stem}_{name}"
    folder = arguments.run or (path.parent if path.name == "config.json" else Path("runs") / stem / stage)
    if not (arguments.dry_run or arguments.process):
        terminal.say(f"{'cold start' if stage else 'training'} by {arguments.config} in {folder}")
    from qr_jax import checks  # here: it takes longer than the first line may

    checks.check(config, allow_plugins=packages)
    if config.train.init:
        from qr_jax import run_files

        run_files.check_folder(Path(config.train.init), allowed=arguments.trust)
        admit_weights(arguments, Path(config.train.init))
    return config, folder, packages


def open_run(arguments: argparse.Namespace) -> tuple[str, ...] | None:
    """Check a run's config before a device is touched, and let the CPU show its devices; the allowed packages."""
    from qr_jax import run_files

    run_files.check_there(arguments.run)
    from qr_jax import checks, runs

    config = runs.load(arguments.run)
    packages = admit(arguments, config, arguments.run)
    checks.check(config, allow_plugins=packages)
    start(config)
    return packages


def open_weights(arguments: argparse.Namespace) -> None:
    """Let the CPU show a run's devices. Its weights alone are to be read."""
    from qr_jax import run_files

    run_files.check_there(arguments.run)
    from qr_jax import runs

    admit_weights(arguments, arguments.run)
    start(runs.load(arguments.run))


def admit_weights(arguments: argparse.Namespace, run: Path) -> None:
    """ValueError where a run's weights would come from a bucket that the user neither made nor allowed, or go on more
    emulated devices than a stranger's config may ask for.
    """
    from dataclasses import replace

    from qr_jax import bucket, config, trust
    from qr_jax.config import Config, Mesh, Train

    if not (run / "config.json").is_file():
        return
    of_run = config.load(run / "config.json")
    if not trust.known(of_run):
        taken_from = None if (run / bucket.CHECKPOINTS).is_dir() else of_run.train.bucket
        of_weights = replace(Config(), train=Train(bucket=taken_from), mesh=Mesh(devices=of_run.mesh.devices))
        admit(arguments, of_weights, run)


def replayed_packages(arguments: argparse.Namespace, run: Path) -> tuple[str, ...] | None:
    """The packages whose plug-ins may be used for what a report or an export plays of a run; None for all."""
    from qr_jax import runs, trust

    return None if arguments.trust or trust.known(runs.load(run)) else tuple(arguments.allow_plugins)


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
    folder = compile_cache.enable(process=me, lives=config.train.bucket)
    if config.train.bucket:
        compile_cache.mirror(folder, bucket.opened(config.train.bucket) / bucket.COMPILED, process=me)
    return watchdog.watching(config.mesh.heartbeat_s)


def is_first() -> bool:
    """Whether this is the process that speaks; the others are silent but for errors."""
    from qr_jax.processes import hosts

    return hosts.index() == 0
