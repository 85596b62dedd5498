"""The errors that qr_jax raises on purpose, by who can mend them, and the exit codes of its commands."""

from collections.abc import Sequence
from typing import Any, Literal

# A command's exit codes. After FAILED the same command may succeed; after USER_ERROR it cannot. A supervisor does not
# restart a run that ended with GUARD_STOP or SERVICE_DOWN. LOST (sysexits.h, EX_TEMPFAIL): another process of
# the run is gone or late, so start the same command on all. INTERRUPTED: Ctrl-C, as shells have it. UNSOUND: what the
# command found has faults, does not fit or is incomplete.
FAILED, USER_ERROR, GUARD_STOP, SERVICE_DOWN, LOST, INTERRUPTED = 1, 2, 4, 5, 75, 130
UNSOUND = FAILED


def by_signal(number: int) -> int:
    """Return the exit code of a command that a signal ended, as shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


class UserError(ValueError):
    """An error of the user's input; the message says what was found, what was wanted and what to do."""


class PluginError(UserError):
    """A plug-in returned what its contract refuses, or raised SystemExit or another error that is no Exception."""


class Busy(OSError):
    """Another process or machine holds the run: this one ends with exit code LOST; the same command may resume it."""


class Interrupted(Exception):
    """The run was told to stop. The last whole step is saved, and nothing of the step in progress was kept."""


class GuardStop(Exception):
    """A guard stops the run (guards.act=stop)."""


class ServiceDown(Exception):
    """Most of a step's searches or grades failed (`what`). Nothing of the step was settled, trained on or written.

    `failed`: what failed on this process, searches (their texts) or groups.
    """

    def __init__(self, text: str, what: Literal["retriever", "reward"] = "retriever", failed: Sequence[Any] = ()):
        super().__init__(text)
        self.what: Literal["retriever", "reward"] = what
        self.failed = tuple(failed)


class Outage(Exception):
    """A service gave no answer within the longest wait (rollout.outage_s, --deadline-s)."""


class FailsAgain(Exception):
    """A step's searches or grades fail again, asked alone, while others succeed: this is no outage."""
