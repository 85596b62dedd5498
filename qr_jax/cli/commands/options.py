"""Options that several commands share: numbers, the config and its permissions, and the start of a device."""

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from qr_jax.errors import UserError
from qr_jax.logging import terminal

# What Python raises for a JSON value of another kind than was written.
NOT_AS_WRITTEN = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, RecursionError)


def add_trust(command: argparse.ArgumentParser) -> None:
    """Add the option that lets a run that is not this user's do all that it asks for (trust.py)."""
    text = "allow a run that is not yours all that it asks for, from now on: its plug-ins, hosts, bucket and files"
    command.add_argument("--trust", action="store_true", help=text)


def load(arguments: argparse.Namespace, path: str, typed: Sequence[str]) -> Any:
    """Load a config with its overrides.

    A Python config is its user's own code. Any other file may be a stranger's config.json: nothing is imported, not
    even to read an override's type, before it is refused.
    """
    from qr_jax import config as configs
    from qr_jax import trust

    if configs.parts(path)[0].suffix == ".py":
        return configs.load(path, typed)
    config = configs.load(path)
    trust.check(config, path, trusted=arguments.trust)
    if not typed:
        return config
    used = configs.load(path, typed)
    trust.check(config, path, trusted=arguments.trust, used=used)
    return used


@contextmanager
def reading(where: Any) -> Iterator[None]:
    """Within the context, turn errors from malformed run files into a ValueError that names `where` they stand."""
    try:
        yield
    except NOT_AS_WRITTEN as error:
        if isinstance(error, UserError):
            raise
        told = f"{type(error).__name__}: {error}"[:200]
        raise UserError(f"{where} holds what qr-jax does not write ({told})") from error


def add_run(command: argparse.ArgumentParser) -> None:
    """Add the folder of a run, and the option that allows what it asks for."""
    command.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    add_trust(command)


def parts_of(command: Any, name: str, text: str) -> Callable[[str, Any, str], argparse.ArgumentParser]:
    """Add a command of several parts (`data check`); return a function that adds one: its name, function and help."""
    parts = command(name, None, text).add_subparsers(required=True, metavar="WHAT")

    def part(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made = parts.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.set_defaults(run_command=run, parser=made)
        return made

    return part


def add_json(*commands: argparse.ArgumentParser) -> None:
    for command in commands:
        command.add_argument("--json", action="store_true", help="print JSON")


def show(value: Any, as_json: bool, text: Callable[[Any], str]) -> int:
    """Print the value as JSON or text; return 0, the exit code of success."""
    terminal.result(json.dumps(value, indent=2) if as_json else text(value))
    return 0


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a parser of an option's integer of at least `least`, and at most `most` where there is a most."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"found {text!r}; wanted a whole number {bounds}")
        return int(text)

    return read


def number(least: float, most: float, wanted: str) -> Callable[[str], float]:
    """Return a parser of an option's number between `least` and `most`, neither of which it may be."""

    def read(text: str) -> float:
        with suppress(ValueError):
            if least < float(text) < most:
                return float(text)
        raise argparse.ArgumentTypeError(f"found {text!r}; wanted {wanted}")

    return read


def add_server(command: argparse.ArgumentParser, body_bytes: int) -> None:
    """Add what every server takes: its address, its token, and bounds on bodies and connections."""
    text = "where to listen (127.0.0.1); another machine's clients need --token-env"
    command.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=text)
    text = "the port to listen at (8000); 0: any free one, which is printed"
    command.add_argument("--port", type=whole(0, 65535), default=8000, metavar="N", help=text)
    text = "the environment variable with the token clients must send"
    command.add_argument("--token-env", metavar="NAME", help=text)
    command.add_argument(
        "--max-body", dest="body_bytes", type=whole(1), metavar="N", help=f"bytes a request ({body_bytes})"
    )
    text = "open at once; while there are more, each request gets 503 (1024)"
    command.add_argument("--max-connections", dest="connections", type=whole(1), metavar="N", help=text)


def server_token(arguments: argparse.Namespace, command: str) -> str | None:
    """Return the token that clients must send, if there is one. ValueError for an address that needs one."""
    from qr_jax.search import http_app, http_post

    http_app.check_packages(command)
    token = http_post.secret(arguments.token_env) if arguments.token_env else None
    http_app.check_address(arguments.host, token)
    http_app.check_port(arguments.host, arguments.port)
    return token


def limits_of(arguments: argparse.Namespace, kind: Any) -> Any:
    """Return a server's limits: those that were typed, and the defaults of `kind` for the others."""
    given = {name: value for name, value in vars(arguments).items() if name in kind.__dataclass_fields__}
    return kind(**{name: value for name, value in given.items() if value is not None})


def refuse_given(arguments: argparse.Namespace, names: Iterable[str], why: str) -> None:
    """Raise ValueError if one of these options was given; `why` ends the message, as in "without --suite"."""
    if given := [name for name in names if getattr(arguments, name) is not None]:
        raise UserError(f"--{', --'.join(given).replace('_', '-')} cannot be given {why}")


def check_together(arguments: argparse.Namespace, first: str, second: str) -> None:
    """Raise ValueError if only one of two options was given that mean nothing alone."""
    if (getattr(arguments, first) is None) != (getattr(arguments, second) is None):
        names = f"--{first} and --{second}".replace("_", "-")
        raise UserError(f"{names} go together; only one was given")


def check_out(file: Path | None, begins: bytes) -> None:
    """Raise ValueError, before any work, if the output file cannot be written.

    An existing file is overwritten only if it begins with `begins`, as the output does.
    """
    from qr_jax.run import run_files

    if not file:
        return
    if not file.parent.is_dir():
        raise UserError(f"there is no folder {file.parent} to write {file.name} into; make it first")
    is_own = not os.path.lexists(file)
    if file.is_file() and not file.is_symlink():
        with file.open("rb") as there:
            is_own = there.read(len(begins)) in (begins, b"")
    if not is_own:
        raise UserError(f"{file} is there and is no earlier file of this command's; give --out another name")
    run_files.check_writable(file.parent, "--out")


def resolve(arguments: argparse.Namespace, stage: str = "") -> tuple[Any, Path]:
    """Return the checked config, and the folder of the run or its `stage`. A config.json must be allowed."""
    from qr_jax import config as configs
    from qr_jax import trust

    path, name = configs.parts(arguments.config)
    config = load(arguments, arguments.config, arguments.overrides)
    stem = path.stem if name == "config" else f"{path.stem}_{name}"
    folder = arguments.run or (path.parent if path.name == "config.json" else Path("runs") / stem / stage)
    if stage and configs.begun_by(folder):  # a run's own cold start, which lies within the run's bucket
        config = configs.below(config, stage)
    if not (arguments.dry_run or arguments.process):
        terminal.say(f"{'cold start' if stage else 'training'} by {arguments.config} in {folder}")
    from qr_jax.settings import checks  # here: it takes longer than the first line may

    checks.check(config)
    if config.train.init:
        from qr_jax.lab import run_folders

        run_folders.check_folder(Path(config.train.init), allowed=arguments.trust)
        trust.check_sources(config, trusted=arguments.trust)
    return config, folder


def open_run(arguments: argparse.Namespace, *, checked: bool = True) -> None:
    """Refuse a stranger's run that asks for what may do harm, check the config, and emulate its devices on CPU.

    With `checked` False the config's own faults do not matter to the command.
    """
    from qr_jax.run import run_files

    run_files.check_there(arguments.run)
    from qr_jax import trust
    from qr_jax.run import runs
    from qr_jax.settings import checks

    config = runs.load(arguments.run)
    trust.check(config, arguments.run, trusted=arguments.trust)
    if checked:
        checks.check(config)
    start(config)


def is_own(arguments: argparse.Namespace, run: Path) -> bool:
    """Return True if a run is this user's, or is allowed now: its plug-ins may be played in a report."""
    from qr_jax import trust
    from qr_jax.run import runs

    return trust.is_allowed(runs.load(run), trusted=arguments.trust)


def start(config: Any, arguments: argparse.Namespace | None = None) -> AbstractContextManager:
    """Configure jax before it starts: devices, other processes, and the compilation cache.

    The returned context watches the other processes while it is open. Without `arguments` this process is alone.
    UserError where no GPU starts that is asked for, or the run's mesh is not one of the devices.
    """
    from qr_jax.lab import gpu
    from qr_jax.parallel import compile_cache, hosts, mesh, start, watchdog

    told = gpu.prepare(config.model.compute)
    if arguments is None:
        compile_cache.enable()
        mesh.emulate(config.mesh.devices)
        gpu.check(told)
        return nullcontext()
    which = {name: getattr(arguments, name) for name in ("coordinator", "processes", "process")}
    start.begin(config.mesh, **which)
    compile_cache.enable(process=hosts.index(), lives=config.train.bucket)
    gpu.check(told)
    mesh.make_mesh(config.mesh)  # one that cannot be made is told before anything is loaded
    return watchdog.watching(config.mesh.heartbeat_s)
