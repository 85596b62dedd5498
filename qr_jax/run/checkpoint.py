"""Checkpoints: one folder per step, which counts only once every byte of it is written and its commit marker stands.

    checkpoints/step_00000010/
        state/           the device state, by Orbax, one array per name ("params.layers.q")
        host.json        host values: pool, waiting groups, counts, data digests, metrics_bytes; no pickle
        host.npz         the arrays among them
        manifest.json    format, step, the state's arrays, and the size and SHA-256 of every file above
        COMMITTED        the SHA-256 of manifest.json: written last

Orbax writes in the background and renames `state` when every process has written its part; then process 0 hashes all
files and commits. An interrupted save has no marker; a damaged checkpoint has another hash. This module decides which
committed folders are kept, because Orbax's preservation policies know neither hashes nor commits.
"""

import contextlib
import errno
import io
import json
import logging
import os
import re
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import MISSING, fields
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from qr_jax import errors
from qr_jax.errors import UserError
from qr_jax.logging import terminal
from qr_jax.models.families import ModelConfig
from qr_jax.parallel import hosts, plain
from qr_jax.run import bucket, committed
from qr_jax.settings import json_text

FORMAT = 5
SAID: set[str] = set()  # lines on damaged checkpoints that this process has said
STATE, HOST_JSON, HOST_ARRAYS = "state", "host.json", "host.npz"
MOST_ITEMS = 2**23  # commas, lists and objects of the host values: a pool of a million queries
QUERIES, CORPUS, MODEL = "query_list_sha256", "corpus_sha256", "model"  # host values that the checks below read
BASE = "base_sha256"  # host value if only adapters are in the state: SHA-256 of their base weights
SAME = {  # hash that a run keeps -> what it is of, and what to do if it differs
    QUERIES: ("query list", "its pool is of other queries: use that run's data settings, or another run folder"),
    CORPUS: ("passages", "before and after would be measured over two corpora: give back the first, or begin anew"),
    BASE: ("weights under its adapters", "give back the weights that they were trained on, or begin anew"),
}
# What json, zipfile and numpy raise for files that are none of ours.
NOT_AS_WRITTEN = (*committed.NOT_AS_WRITTEN, LookupError, RuntimeError, EOFError, MemoryError)
NOT_AS_WRITTEN += (zipfile.BadZipFile, zlib.error, struct.error)
NOT_AS_WRITTEN += (FileNotFoundError, IsADirectoryError, NotADirectoryError)  # files that the manifest does not name
STEP_FOLDER = re.compile(r"step_(\d{8,})")
REPLACED = ".replaced"  # ends the name of a checkpoint that is set aside until its successor is whole


def _is_said_nowhere_else(record: logging.LogRecord) -> bool:
    """Return False for errors in Orbax's log (a traceback per thread): Orbax raises them too; `wait` reports them."""
    is_its = bool(record.exc_info) and f"{os.sep}orbax{os.sep}" in record.pathname
    return terminal.is_verbose() or not is_its


class Checkpoints:
    """The checkpoints of one run, in `folder` (a path or gs://); the `keep` newest stay.

    The checkpoint of every `keep_every`-th step stays too (0: none). All processes call all methods, on their main
    threads, and share the folder. Process 0 calls `before_commit`, in the background, when a checkpoint is written and
    before it counts. `say` gets a line for every folder that is skipped.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int = 2,
        keep_every: int = 0,
        before_commit: Callable[[], None] | None = None,
        say: Callable[[str], None] = terminal.say,
    ):
        self.folder = bucket.opened(os.fspath(folder))
        self.keep, self.keep_every = keep, keep_every
        self.best: int | None = None  # a step whose checkpoint is kept, too
        self.before_commit, self.say = before_commit, say
        logging.getLogger("absl").addFilter(_is_said_nowhere_else)
        self._orbax = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def path(self, step: int) -> epath.Path:
        """Return the folder of the checkpoint of a step."""
        return self.folder / f"step_{step:08d}"

    def save(self, step: int, state: Any, host: Mapping[str, Any], *, metrics_bytes: int) -> None:
        """Copy the state and start writing it; the caller may donate or overwrite its buffers at once.

        `state` is a tree of jax arrays, `host` a nested host value (parallel/plain.py), the same on every process;
        `metrics_bytes`, the length of metrics.jsonl once synced, joins it under that name. An earlier save is waited
        for first. OSError, of this or of the earlier save, when the disk is full: the checkpoints before are untouched.
        """
        self.wait()
        arrays = _flat(state)
        place = self.path(step)
        frame, host_arrays = plain.split({**host, "metrics_bytes": metrics_bytes})
        failed = None
        if hosts.index() == 0:
            try:
                with bucket.as_os_error():
                    self._clear(place)
                    committed.write(place / HOST_JSON, json.dumps(frame).encode())
                    packed = io.BytesIO()
                    np.savez(packed, allow_pickle=False, **host_arrays)
                    committed.write(place / HOST_ARRAYS, packed.getvalue())
            except OSError as error:
                failed = error
        if hosts.any_process(failed is not None):
            raise self._not_saved(step, failed)
        try:
            self._orbax.save(place / STATE, args=ocp.args.PyTreeSave(arrays))
        except (OSError, ValueError) as error:  # tensorstore reports a full disk as a ValueError
            raise self._not_saved(step, error) from error
        described = {name: _describe(leaf) for name, leaf in arrays.items()}
        self._pending = self._thread.submit(self._finish, step, described)

    def wait(self) -> None:
        """Return when the last `save` is committed on every process; raise what went wrong with it (OSError)."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        error = pending.exception()
        failed = hosts.any_process(error is not None)
        if error is not None:
            raise error
        if failed:
            raise OSError("another process could not write its part of the checkpoint; its own message says why")

    def close(self) -> None:
        """Wait for what is being written, and end the threads."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._orbax.close()

    def latest(self) -> int | None:
        """Return the newest step whose checkpoint is whole, None where none was finished; `say` names those passed
        over.

        Every byte is read and its hash compared. ValueError for a checkpoint of another format, and where all that
        were finished are damaged.
        """
        self.wait()
        return hosts.by_first(self._latest)

    def restore(self, step: int, abstract_state: Any, *, part: str | None = None) -> tuple[Any, dict[str, Any]]:
        """Return (state, host) of a committed step, the state laid out as `abstract_state` says (see mesh.abstract).

        `abstract_state` is a tree of jax.ShapeDtypeStruct, whose shardings may be of another mesh or number of
        processes than at saving; an array without a sharding goes to this process's first device. With `part`, a name
        in the saved state ("params"), only that part is read, into a tree of its own. ValueError, with the first array
        that differs, when the checkpoint is of another model.
        """
        before = f"{part}." if part else ""
        wanted = {before + name: leaf for name, leaf in _flat(abstract_state).items()}
        saved = {name: array for name, array in self.arrays(step).items() if name.startswith(before)}
        _check_same_arrays(saved, {name: _describe(leaf) for name, leaf in wanted.items()}, self.path(step))
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        layout = {
            name: ocp.ArrayRestoreArgs(sharding=leaf.sharding or first, global_shape=leaf.shape, dtype=leaf.dtype)
            for name, leaf in wanted.items()
        }
        how = ocp.args.PyTreeRestore(item=wanted, restore_args=layout, partial_restore=True)
        try:
            arrays = self._orbax.restore(self.path(step) / STATE, args=how)
        except FileNotFoundError as error:
            if self.path(step).exists():
                raise
            raise _went(self.path(step)) from error
        state = jax.tree.unflatten(jax.tree.structure(abstract_state), [arrays[name] for name in wanted])
        return state, self.host(step)

    def arrays(self, step: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return each array of a committed step's state, by its name in the tree: dtype and shape."""
        with as_written(self.path(step), committed.MANIFEST):
            arrays = committed.manifest(self.path(step))["arrays"]
            return {name: (dtype, tuple(shape)) for name, (dtype, shape) in arrays.items()}

    def host(self, step: int) -> dict[str, Any]:
        """Return the host values of a committed step alone, `metrics_bytes` among them."""
        with as_written(self.path(step), f"{HOST_JSON} or {HOST_ARRAYS}"):
            frame = json_text.read_bounded((self.path(step) / HOST_JSON).read_bytes(), MOST_ITEMS)
            host = plain.join(frame, plain.unpacked((self.path(step) / HOST_ARRAYS).read_bytes()))
            lengths = {name: host.get(name, 0) for name in ("metrics_bytes", "ledger_bytes")}
            if any(type(length) is not int or length < 0 for length in lengths.values()):
                raise UserError(f"lengths of {lengths}")
            if not isinstance(host.get(MODEL) or {}, Mapping):
                raise UserError(f"a model of {host[MODEL]!r}")
            return host

    def steps(self) -> list[int]:
        """Return the committed steps, newest first; `committed.damage` says whether a folder is still whole."""
        return [step for step in self._steps() if committed.stands(self.path(step))]

    def _steps(self) -> list[int]:
        """Return the steps that have a folder, whole or not, newest first."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.exists() else []
        return sorted((int(match[1]) for name in names if (match := STEP_FOLDER.fullmatch(name))), reverse=True)

    def _say_once(self, line: str) -> None:
        """Say a line that this process has not said: a command may look for a run's last checkpoint several times."""
        if line not in SAID:
            SAID.add(line)
            self.say(line)

    @bucket.as_os_error()
    def _latest(self) -> int | None:
        damaged = []
        for step in self._steps():
            damage = committed.damage(self.path(step))
            if damage:
                self._say_once(f"checkpoint {self.path(step)} is passed over: {damage}")
                damaged += [step] * committed.stands(self.path(step))
                continue
            saved_format = committed.manifest(self.path(step)).get("format")
            if saved_format != FORMAT:
                what = f"checkpoint {self.path(step)} has format {saved_format}, this version reads {FORMAT}"
                raise UserError(f"{what}; use the qr_jax that wrote it")
            return step
        if damaged:
            todo = "put one back from a copy, or begin anew with --restart, which sets this folder aside"
            raise UserError(f"none of the {len(damaged)} checkpoints in {self.folder} is whole: {todo}")
        return None

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints of later steps, which are abandoned; the newest first."""

        def forget() -> None:
            with bucket.as_os_error():
                for later in [other for other in self._steps() if other > step]:
                    committed.remove(self.path(later))

        hosts.by_first(forget)

    def put_back(self) -> None:
        """Rename back a checkpoint that was set aside for a replacement which was never finished."""

        def back() -> None:
            with bucket.as_os_error():
                for aside in list(self.folder.iterdir()) if self.folder.exists() else []:
                    place = self.folder / aside.name.removesuffix(REPLACED)
                    is_aside = aside.name.endswith(REPLACED) and STEP_FOLDER.fullmatch(place.name)
                    if is_aside and not committed.stands(place):
                        if place.exists():
                            committed.remove(place)
                        aside.rename(place)

        hosts.by_first(back)

    def _clear(self, place: epath.Path) -> None:
        """Make `place` an empty folder; a committed folder there (damaged, or of an abandoned step) is renamed."""
        aside = place.parent / f"{place.name}{REPLACED}"
        if place.exists():
            if committed.stands(place) and not aside.exists():
                place.rename(aside)
            else:
                committed.remove(place)
        place.mkdir(parents=True)

    def _finish(self, step: int, described: Mapping[str, Any]) -> None:
        """Wait, in the background, for Orbax, hash and commit, and only then remove older checkpoints."""
        try:
            self._orbax.wait_until_finished()
            if hosts.index() != 0:
                return
            with bucket.as_os_error():
                if self.before_commit:
                    self.before_commit()
                committed.commit(self.path(step), {"format": FORMAT, "step": step, "arrays": described})
        except errors.Busy:  # another run's checkpoint may be there by now
            raise
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            raise self._not_saved(step, error) from error
        with bucket.as_os_error():
            self._remove_all_but_newest(step)

    def _remove_all_but_newest(self, last: int) -> None:
        """Keep the `keep` newest up to `last`, the best and every `keep_every`-th; later ones are abandoned."""
        whole = [step for step in self.steps() if step <= last]
        every = [step for step in whole if step == self.best or (self.keep_every and step % self.keep_every == 0)]
        kept = {self.path(step).name for step in (*whole[: self.keep], *every)}
        for path in list(self.folder.iterdir()):
            if path.name not in kept and STEP_FOLDER.fullmatch(path.name.removesuffix(REPLACED)):
                committed.remove(path)

    def _not_saved(self, step: int, error: BaseException | None) -> OSError:
        """Remove the unfinished folder, put back the one set aside for it, and return the error to raise."""
        if error is None:
            return OSError(f"the checkpoint of step {step} was not written: process 0 could not make its folder")
        place, aside = self.path(step), self.folder / f"{self.path(step).name}{REPLACED}"
        with contextlib.suppress(OSError):  # a write still under way may put a file back: the next commit removes it
            if hosts.index() == 0 and place.exists() and not committed.stands(place):
                place.rmtree()
            if hosts.index() == 0 and aside.exists():
                aside.rename(place)
        whole = [other for other in self._steps() if other != step and committed.stands(self.path(other))]
        last = f"the last one is {self.path(whole[0])}" if whole else "there is none before it"
        number = re.search(r"os_error_code='(\d+)'", str(error))
        code = (error.errno if isinstance(error, OSError) else number and int(number[1])) or errno.EIO
        what = f"the checkpoint of step {step} was not written ({os.strerror(code)}); {last}"
        shut = code in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)
        todo = "see that one can write to" if shut else "make room in"
        return OSError(code, f"{what}; {todo} {self.folder} and start the same command again. {str(error)[:300]}")


@contextlib.contextmanager
def as_written(place: epath.Path, names: str) -> Iterator[None]:
    """Raise ValueError where the block finds that `names` in `place` are gone, or not as this program writes them."""
    try:
        yield
    except NOT_AS_WRITTEN as error:
        if not place.exists():
            raise _went(place) from error
        reason = f"{type(error).__name__}: {error}"[:200]
        raise UserError(f"{names} of {place} is not one that this program writes ({reason})") from error


def _went(place: epath.Path) -> UserError:
    return UserError(f"{place} was taken away while it was read, by a run that goes on; try again")


def _flat(tree: Any) -> dict[str, Any]:
    """Return each leaf by its name: the keys on the path to it, joined by dots."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    assert len(named) == len(leaves), "no key has a dot"
    return named


def _describe(leaf: Any) -> tuple[str, tuple[int, ...]]:
    return str(np.dtype(leaf.dtype)), tuple(leaf.shape)


def _check_same_arrays(saved: Mapping[str, Any], wanted: Mapping[str, Any], place: epath.Path) -> None:
    """Raise ValueError with the first array, in the order of their names, whose dtype or shape differs."""

    def say(array: tuple[str, tuple[int, ...]] | None) -> str:
        return "absent" if array is None else f"{array[0]} {list(array[1])}"

    for name in sorted({*saved, *wanted}):
        if saved.get(name) != wanted.get(name):
            both = f"{name} is {say(saved.get(name))} there and {say(wanted.get(name))} here"
            todo = "use the config of that run, or another run folder"
            raise UserError(f"{place} is a checkpoint of another model or optimizer: {both}; {todo}")


def check_same(host: Mapping[str, Any], name: str, sha256: str | None, source: str = "this config") -> None:
    """Raise ValueError where a hash of the checkpoint's host values, one of SAME, differs from that of `source`."""
    if host.get(name) != sha256:
        what, todo = SAME[name]
        both = f"the checkpoint's {what}: {str(host.get(name))[:16]}, {source}'s: {str(sha256)[:16]} (SHA-256)"
        raise UserError(f"{both}; {todo}")


def check_same_model(host: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
    """Raise ValueError with the first name of the model's fingerprint (names -> plain values) whose value differs.

    An older version's checkpoint lacks the names of ModelConfig that are newer: its model has their defaults.
    """
    newer = {field.name: field.default for field in fields(ModelConfig) if field.default is not MISSING}
    newer, wanted = (plain.split(dict(given))[0] for given in (newer, fingerprint))  # tuples as lists, as JSON has them
    written = host.get(MODEL) or {}
    saved = newer | written
    for name in sorted({*written, *wanted}):
        if saved.get(name) != wanted.get(name):
            both = f"its {name} is {saved.get(name)!r}, this config's is {wanted.get(name)!r}"
            todo = "use that run's model settings, or another run folder"
            raise UserError(f"the checkpoint is of another model: {both}; {todo}")


def next_attempt(folder: str | os.PathLike[str]) -> int:
    """Make `logs/attempt_N` in a (local) run folder and return N, the next number; its caller holds the folder."""

    def make() -> int:
        logs = epath.Path(folder) / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(match[1]) for match in _numbered(logs.iterdir(), r"attempt_(\d+)")), default=0)
        (logs / f"attempt_{number}").mkdir()
        (logs / f"attempt_{number}" / "started").write_text(time.strftime("%Y-%m-%dT%H:%M:%SZ\n", time.gmtime()))
        return number

    return hosts.by_first(make)


def discard_after(folder: str | os.PathLike[str], step: int, attempt: int) -> list[str]:
    """Move the `episodes/` files of later steps to `logs/attempt_N/discarded/episodes/`; return their names.

    A file's step is the first number in its name. Nothing is overwritten: FileExistsError if it was there already.
    """
    episodes = epath.Path(folder) / "episodes"
    discarded = epath.Path(folder) / "logs" / f"attempt_{attempt}" / "discarded" / "episodes"

    def move() -> list[str]:
        numbered = _numbered(episodes.iterdir(), r"\D*(\d+).*") if episodes.exists() else []
        names = sorted(match.string for match in numbered if int(match[1]) > step)
        for name in names:
            discarded.mkdir(parents=True, exist_ok=True)
            if (discarded / name).exists():
                raise FileExistsError(errno.EEXIST, "an episodes file was discarded twice", str(discarded / name))
            (episodes / name).rename(discarded / name)
        return names

    return hosts.by_first(move)


def _numbered(paths: Iterable[Any], pattern: str) -> list[re.Match[str]]:
    return [match for path in paths if (match := re.fullmatch(pattern, path.name))]
