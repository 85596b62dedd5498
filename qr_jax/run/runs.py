"""Open and resume a run's folder (config, metrics, episodes, checkpoints, a log folder per attempt)."""

import contextlib
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from etils import epath

from qr_jax import config, errors, plugins, trust
from qr_jax.config import Config
from qr_jax.errors import Busy, Interrupted, UserError
from qr_jax.logging import goodput, metrics_writer, terminal
from qr_jax.parallel import alike, hosts, memory
from qr_jax.pool.pool import KINDS
from qr_jax.run import bucket, checkpoint, json_files, plugin_record, run_files
from qr_jax.run.kept_thread import Result, run_interruptible
from qr_jax.run.lease import Lease
from qr_jax.run.run_lock import RunLock
from qr_jax.settings.settings import Use, few

LEDGER = "ledger.jsonl"
BASE = "base.json"  # evaluation before the cold start, kept for the next attempt if this one ends during it
SEEN_S = 30.0  # how long a folder on a network may take to show what another host made
POLL_S = 0.5  # how often a process asks whether another one was told to stop
# Settings that may change between two attempts of a run: its length, logging and hardware, but not what it computes.
MAY_CHANGE = ("train.steps", "train.keep_checkpoints", "train.keep_every", "train.checkpoint_every", "log", "mesh")
MAY_CHANGE += ("train.bucket", "train.profile", "rollout.lanes")
# With one update per step these only split the batch into micro-batches; with several they decide each update's data.
PACKING = ("learner.rows", "learner.share_prefixes")


def _is_begun(path: Path) -> bool:
    """Return True if a folder or a file holds anything: a start that failed leaves them empty."""
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0


class Run:
    """One attempt at a run; `attempt` counts from 1. All processes call its methods, and process 0 writes."""

    def __init__(
        self,
        folder: str | Path,
        settings: Config,
        *,
        stage: Literal["train", "sft"],
        say: Callable[[str], None] = terminal.say,
        within: "Run | None" = None,
    ):
        self.folder, self.settings, self.stage, self.say = Path(folder), settings, stage, say
        self._within = within  # the run that this one is the cold start of
        run_files.check_writable(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._held = contextlib.ExitStack()  # on process 0: the locks of the folder and of its bucket
        self._hold: Callable[[], None] = lambda: None  # raises Busy if another run owns the bucket by now
        self._check_lock: Callable[[], None] = lambda: None  # on process 0: the same for the folder
        try:
            hosts.by_first(self._take)
            self._start(settings)
        except BaseException:
            self._held.close()
            raise

    def _take(self) -> None:
        lock = RunLock(self.folder)
        self._check_lock = lock.check
        self._held.callback(lock.release)
        if not (lives := self.settings.train.bucket):
            return
        place = bucket.opened(lives)
        own, other = self.folder.resolve(), Path(place).resolve()
        if "://" not in lives and (own.is_relative_to(other) or other.is_relative_to(own)):
            raise UserError(
                f"train.bucket={lives} and the run's folder {self.folder} lie in one another, so that the run would be "
                "copied into itself; wanted a place beside it"
            )
        with self._writable():
            if "://" in lives:
                lease = Lease(place, lock, say=self.say)
                self._held.callback(lease.release)
                self._hold = lease.hold
            else:
                place.mkdir(parents=True, exist_ok=True)
                self._held.callback(RunLock(Path(place)).release)

    def _start(self, settings: Config) -> None:
        train = settings.train
        place = bucket.opened(train.bucket) if train.bucket else epath.Path(self.folder)
        self._copy: bucket.Copy | None = None  # of process 0
        if train.bucket and hosts.index() == 0:
            self._copy = bucket.Copy(self.folder, place, hold=self._hold)
        alike.check_program(settings)
        hosts.by_first(self._keep_config)
        self.attempt = checkpoint.next_attempt(self.folder)
        if not train.bucket:
            check_shared(self.folder / "logs" / f"attempt_{self.attempt}")
        self.checkpoints = checkpoint.Checkpoints(
            place / bucket.CHECKPOINTS, keep=train.keep_checkpoints, keep_every=train.keep_every,
            before_commit=self._copy.push if self._copy else None, say=self.say,
        )  # fmt: skip
        self._writer: metrics_writer.Writer | None = None  # of process 0, from `go_on` to `close`
        self._open = False
        self.saved: int | None = None
        self.stopping = False
        self._told, self._polled_s = False, 0.0
        self._started_s, self._before_s = time.monotonic(), 0.0  # seconds that earlier attempts ran
        self._goodput: goodput.Goodput | None = None  # of process 0 that trains
        self.stopped_by: int | None = None
        self._handlers_before = self._listen()

    def detail(self, text: str) -> None:
        """Say a text with --verbose only."""
        if terminal.is_verbose():
            self.say(text)

    def stop_now(self) -> bool:
        """Return True if a rollout is to stop: this process was told to, or one of the others (asked now and then)."""
        if hosts.count() == 1:
            return self.stopping
        if self.stopping and not self._told:
            self._told = True
            hosts.say_stop()
        if not self.stopping and time.monotonic() - self._polled_s > POLL_S:
            self._polled_s = time.monotonic()
            if hosts.stop_said():  # and no `self.stopping = ...`, which could undo a signal's
                self.stopping = True
        return self.stopping

    def stops(self) -> bool:
        """Return True if any process was told to stop; a collective, so all call it at the same place."""
        if hosts.any_process(self.stopping):
            self.stopping = True
        return self.stopping

    def check_stop(self) -> None:
        """Raise Interrupted if this process was told to stop and is alone; several stop together, elsewhere."""
        if self.stopping and hosts.count() == 1:
            raise Interrupted

    def _keep_config(self) -> None:
        """Copy the bucket's files here, write config.json. UserError if folder or bucket belongs to other settings."""
        begun = any(_is_begun(self.folder / name) for name in (bucket.CHECKPOINTS, metrics_writer.FILE))
        path, lives = self.folder / "config.json", self.settings.train.bucket
        own = [self.folder / name for name in ("config.json", plugin_record.FILE)]
        self._configs_before = {path.name: path.read_text(encoding="utf-8") for path in own if path.is_file()}
        kept, goes_on = self._plugins_before(), path.is_file() and begun
        now = plugin_record.record(self.settings, kept)
        if goes_on:
            self._refuse_another(config.load(path), kept, now, str(self.folder))
        if self._copy and lives:
            known = self._copy.json("config.json")
            if known is None and (self.folder / bucket.CHECKPOINTS).is_dir():
                todo = "copy the folder there to go on with it (gcloud storage cp -r), or start another run with --run"
                raise UserError(f"{self.folder} has checkpoints, and {lives} has no run: {todo}")
            if known is not None:
                goes_on = True
                self._refuse_another(config.from_json(known), kept, now, lives)
            if replaced := self._copy.pull():
                self.say(f"{len(replaced)} files here differ from {lives}, which counts: moved to logs/replaced_*")
        known = self._configs_before.get("config.json")
        if not goes_on and known and known != _as_text(config.to_json(self.settings)):
            (self.folder / BASE).unlink(missing_ok=True)  # measured by an attempt with another config
        if goes_on and (changed := plugin_record.changed_code(kept, now)):
            self.say(f"the code of {few(changed)} changed since this run began; what follows is by the new code")
        self.write_json("config.json", config.to_json(self.settings))
        self.write_json(plugin_record.FILE, now)
        trust.remember(self.settings)
        if self._copy:
            with self._writable():
                self._copy.push()

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        """End the run now, not at its first checkpoint, if its bucket is missing or may not be written to."""
        try:
            yield
        except Busy:
            raise
        except OSError as error:
            kind = ValueError if isinstance(error, FileNotFoundError) else OSError
            asked = "is there such a bucket, and may this machine's account write to it (Storage Object User)?"
            raise kind(f"train.bucket={self.settings.train.bucket} cannot be written ({error}): {asked}") from error

    def _plugins_before(self) -> plugin_record.Record:
        """Return the record of its plug-ins that an earlier attempt left here, or in the bucket; {} without one."""
        path = self.folder / plugin_record.FILE
        if path.is_file():
            return json_files.read_json(path)
        return (self._copy.json(plugin_record.FILE) if self._copy else None) or {}

    def _refuse_another(self, begun: Config, kept: plugin_record.Record, now: plugin_record.Record, where: str) -> None:
        may = MAY_CHANGE + tuple(f"train.max_{name}:" for name in config.BUDGETS)
        may += PACKING if self.settings.learner.updates == 1 else ()
        asked = tuple(_asked(self.settings.reward))
        every = plugin_record.differing_settings(begun, kept, self.settings, now)
        if otherwise := [name for name in every if name.startswith(asked)]:
            self.say(f"the reward's server is asked otherwise from here on: {few(otherwise, between='; ')}")
        if differ := [name for name in every if not name.startswith(may + asked)]:
            todo = "start this run in another folder with --run (and train.bucket)"
            todo += ", or repeat the settings of that run to go on with it"
            raise UserError(f"{where} holds a run with other settings ({few(differ, between='; ')}); {todo}")

    def go_on(
        self, abstract: Any, check: Callable[[dict[str, Any]], None], *, step: int | None = None
    ) -> tuple[Any, dict[str, Any], int] | None:
        """Return state, host values and step of the last whole checkpoint, or of that at `step`; None without one.

        `check` raises if host values do not fit. Lines and files of later steps are moved aside. A second call
        (a rollback) returns to the checkpoint as a new attempt.
        """
        self.checkpoints.wait()
        self.checkpoints.put_back()
        step = self.checkpoints.latest() if step is None else step
        if step is None:
            hosts.by_first(self._check_new)
        restored = None
        if step is not None:
            host = self.checkpoints.host(step)
            if host.get("stage") != self.stage:
                todo = f"give `qr-jax {self.stage}` a folder of its own with --run"
                raise UserError(f"{self.folder} holds a run of `qr-jax {host.get('stage')}`; {todo}")
            check(host)
            with terminal.phase("reading the checkpoint"):
                restored = self.checkpoints.restore(step, abstract)
        if self._open:
            if step is not None:  # before their lines go: killed from here on, the run resumes at `step`
                self.checkpoints.forget_after(step)
            self._close_writer()
            self.attempt = checkpoint.next_attempt(self.folder)
        hosts.by_first(lambda: self._discard_after(step or 0, restored[1] if restored else {}))
        checkpoint.discard_after(self.folder, step or 0, self.attempt)
        log = self.settings.log
        if hosts.index() == 0:
            if self.stage == "train":
                if self._goodput is None:  # else this attempt goes back
                    self._before_s = goodput.before(self.folder)
                self._goodput = goodput.Goodput(next(iter(metrics_writer.read(self.folder)[-1:]), {}))
            self._writer = metrics_writer.Writer(
                self.folder, tensorboard=log.tensorboard, wandb=log.wandb, aliases=log.aliases, first_step=step or 0,
                lives=self.settings.train.bucket, within=self._within._writer if self._within else None,
            )  # fmt: skip
        self._open, self.saved = True, step
        return None if restored is None or step is None else (*restored, step)

    def _check_new(self) -> None:
        """Raise ValueError if no checkpoint is whole although the metrics have more steps than that allows."""
        last = max((int(row.get("step") or 0) for row in metrics_writer.read(self.folder)), default=0)
        if self.stage == "train" and last > self.settings.train.checkpoint_every:  # the first is saved before step 1
            todo = "put the checkpoints back, or begin anew with --restart, which sets the folder aside"
            raise UserError(f"{self.folder} has metrics of {last} steps and no whole checkpoint: {todo}")

    def _discard_after(self, step: int, host: Mapping[str, Any]) -> None:
        lines = metrics_writer.discard_after(self.folder, host.get("metrics_bytes", 0), self.attempt)
        if lines:
            where = f"{self.folder}/logs/attempt_{self.attempt}/discarded"
            self.say(f"{lines} lines of metrics after step {step} moved to {where}")
        metrics_writer.discard_after(self.folder, host.get("ledger_bytes", 0), self.attempt, name=LEDGER)

    def save(self, step: int, state: Any, host: Mapping[str, Any], *, again: bool = False) -> None:
        """Checkpoint `step` (the number of steps done), metrics synced first; nothing when it is saved already.

        `again`: replace the one that is there.
        """
        if (self.saved == step and not again) or not self._open:
            return
        hosts.by_first(self._check_held)
        length = self._writer.sync() if self._writer else 0  # of process 0, which writes the host values
        ledger = self.folder / LEDGER
        about = {"stage": self.stage, "ledger_bytes": ledger.stat().st_size if ledger.exists() else 0}
        with terminal.phase("saving"):
            if not gc.get_freeze_count():
                gc.collect()
                gc.freeze()  # long-lived objects: scanning 6,000 traces at each collection takes half a second
            self.checkpoints.save(step, state, {**host, **about}, metrics_bytes=length)
            if memory.is_tight(state):
                self.checkpoints.wait()  # else the copy being written and the next update would need memory at once
            gc.collect()  # Orbax's copies of a state refer to each other
        self.saved = step

    def _check_held(self) -> None:
        """Raise Busy or OSError where folder or bucket are not this run's any more; of process 0."""
        self._check_lock()
        self._hold()

    def write_metrics(self, step: int, row: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl; only after `go_on`."""
        assert self._open, "metrics are written only after go_on and before close"
        if self._writer:
            self._check_lock()
            more = self._goodput.after(row, self._wall_s()) if self._goodput else {}
            self._writer.write(step, {**row, **more})
        if self._copy:
            self._copy.push_now_and_then()

    def _wall_s(self) -> float:
        return self._before_s + time.monotonic() - self._started_s

    def write_episodes(self, step: int, rows: Mapping[tuple[int, int], Mapping[str, Any]]) -> None:
        """Write episodes/step_N.jsonl, one row per episode, all or none; N is the step of the line in metrics.jsonl.

        Each process gives its own rows, by position in the draw and sample; process 0 writes all in that order.
        """
        if not self.settings.log.episodes:
            return
        own = [[at, sample, json.dumps(row, ensure_ascii=False)] for (at, sample), row in rows.items()]
        every = sorted((at, sample, line) for part in hosts.gather(own) for at, sample, line in part)
        if hosts.index():
            return
        self._check_lock()
        path = self.folder / "episodes" / f"step_{step:06d}.jsonl"
        path.parent.mkdir(exist_ok=True)
        json_files.write_text(path, "".join(f"{line}\n" for _, _, line in every))

    def write_draws(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append a step's draws to ledger.jsonl; they are on the disk when this returns."""
        if hosts.index():
            return
        self._check_lock()
        with (self.folder / LEDGER).open("ab") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
            file.flush()
            os.fsync(file.fileno())

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a file of the run as JSON; process 0 alone does."""
        if hosts.index() == 0:
            json_files.write_text(self.folder / name, _as_text(value))

    def leave_config(self) -> None:
        """Restore the config and the record of plug-ins from before this attempt, which did nothing."""
        if hosts.index() == 0:
            for name, text in self._configs_before.items():
                json_files.write_text(self.folder / name, text)

    def _listen(self) -> dict[int, Any]:
        """Let SIGTERM and Ctrl-C set `stopping`, here and in a run around this one; return the handlers before.

        A second Ctrl-C ends the process at once.
        """
        before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def note(number: int, frame: Any) -> None:
            if number == signal.SIGINT and self.stopped_by == number:
                os._exit(errors.INTERRUPTED)
            was_told, self.stopping, self.stopped_by = self.stopping, True, number
            if self._within:
                before[number](number, frame)
            elif number == signal.SIGINT:
                self.say("Ctrl-C: saving and ending; once more ends at once, and what is not saved is made again")
            elif not was_told:
                self.say("SIGTERM: saving and ending")

        try:
            for number in before:
                signal.signal(number, note)
        except ValueError:  # this is not the main thread, and that one handles signals
            return {}
        return before

    def end(self) -> SystemExit:
        """Say that the run was told to stop; return the SystemExit to raise, with the signal's exit code."""
        by_ctrl_c = self.stopped_by == signal.SIGINT
        by, code = ("Ctrl-C", errors.INTERRUPTED) if by_ctrl_c else ("SIGTERM", errors.by_signal(signal.SIGTERM))
        if hosts.count() == 1:
            with terminal.phase("saving"):
                self.checkpoints.wait()
        place = (
            "from the last checkpoint"
            if self.checkpoints.steps()
            else "with what is there: no step was saved yet, at most checkpoints of the cold start"
        )
        self.say(f"stopped by {by}; the same command goes on {place}")
        return SystemExit(code)

    def close(self) -> None:
        """Wait for what is being written, and restore the handlers of signals.

        After an error in a run of several processes nothing is waited for: the others may be anywhere.
        """
        try:
            if hosts.count() == 1 or isinstance(sys.exception(), (SystemExit, type(None))):
                with terminal.phase("saving"):
                    self.checkpoints.close()
        finally:
            with self._held:
                self._close_writer()
                self._open = False
                try:
                    if self._copy:
                        self._copy.close()
                finally:  # only now: a second signal must not end the process while it saves
                    for number, handler in self._handlers_before.items():
                        signal.signal(number, handler)
            gc.unfreeze()

    def _close_writer(self) -> None:
        if self._writer:
            with contextlib.suppress(OSError):  # a full disk, or a folder moved away: no reason to end otherwise
                attempt = self.folder / "logs" / f"attempt_{self.attempt}"
                json_files.write_text(attempt / goodput.ENDED, f"{self._wall_s():.3f}\n")
            self._writer.close()
            self._writer = None


def _asked(reward: Use, at: str = "reward.settings") -> Iterator[str]:
    """Yield the start of `differing_settings`' line for each setting that says how a reward asks its server.

    A reward inside the reward counts too.
    """
    for name in plugins.constants("reward", reward.name).get("ENDPOINT", ()):
        yield f"{at}.{name}:"
    for name, value in plugins.settings_of("reward", reward).items():
        if isinstance(value, Use):
            yield from _asked(value, f"{at}.{name}.settings")


def _as_text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"


def load(folder: str | Path) -> Config:
    """Load the config of a run's folder."""
    path = Path(folder) / "config.json"
    run_files.check_there(Path(folder))
    return config.load(path)


def last_checkpoint(folder: str | Path, step: int | None = None) -> tuple[checkpoint.Checkpoints, int]:
    """Return a run's checkpoints, and its last whole step or `step`. UserError if that is not whole."""
    checkpoints = checkpoint.Checkpoints(hosts.by_first(lambda: str(_checkpoints(Path(folder)))))
    last = checkpoints.latest() if step is None else step
    if last is None or not (checkpoints.path(last) / "COMMITTED").exists():
        there = ", ".join(map(str, sorted(checkpoints.steps())))
        has = f"; it has those of steps {there}" if there else " at all: was it killed before its first?"
        raise UserError(f"{folder} has no whole checkpoint{'' if step is None else f' of step {step}'}{has}")
    return checkpoints, last


def kinds(folder: str | Path) -> dict[str, np.ndarray]:
    """Read what the newest checkpoint in a run's folder says of its queries: `family_P` and `hops_P`; {} without one.

    A rule that reads them would draw other queries without them.
    """
    place = Path(folder) / "checkpoints"
    steps = checkpoint.Checkpoints(place).steps() if place.is_dir() else []
    pool = checkpoint.Checkpoints(place).host(steps[0]).get("pool", {}) if steps else {}
    return {name: np.asarray(pool[name]) for name in KINDS if name in pool}


def _checkpoints(folder: Path) -> Path | epath.Path:
    """Return the folder of a run's checkpoints: its own, or else that in the bucket its config names.

    Those of a cold start lie in the bucket that its run's config names: its own config.json may be a stranger's, and is
    not read for it.
    """
    own, run = folder / bucket.CHECKPOINTS, config.begun_by(folder)
    if own.is_dir():
        return own
    theirs = load(run or folder)
    lives = (config.below(theirs, config.COLD_START) if run else theirs).train.bucket
    if not lives:
        return own
    trust.check_bucket(theirs, run or folder)
    return bucket.opened(lives) / bucket.CHECKPOINTS


def check_shared(path: Path) -> None:
    """Raise ValueError unless every process sees the path that process 0 made; a network may take some seconds."""
    until = time.monotonic() + SEEN_S
    while not (seen := path.exists()) and time.monotonic() < until:
        time.sleep(POLL_S)
    if hosts.any_process(not seen):
        todo = "give --run a folder that all hosts share, or train.bucket=gs://BUCKET/PATH"
        raise UserError(f"not all {hosts.count()} processes see {path}, which process 0 made: {todo}")


def beside(work: Callable[[], Result]) -> Result:
    """Run the work in a thread, however long it takes: a signal is handled meanwhile, and the work goes on.

    With several processes it runs in this thread, because it may call collectives.
    """
    return work() if hosts.count() > 1 else run_interruptible(work)
