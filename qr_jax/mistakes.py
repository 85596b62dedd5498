"""Whose mistake is an error? With what was asked, which only its user can mend; or another, which may pass."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
WRONG, FAILED = 2, 1  # a command's exit codes: asking again would not help, or might
INTERRUPTED = 130  # Ctrl-C, as shells have it
LOST = 75  # of a process whose others are gone or late (sysexits.h, EX_TEMPFAIL): start the same command again on all


class Busy(OSError):
    """Another machine has the run: this process ends with LOST, and the same command may go on with it later."""


def is_of_asking(error: BaseException) -> bool:
    """Whether it is a ValueError raised by a file of qr_jax, which speaks to the user; a library's is a bug of ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not isinstance(error, ValueError):
        return False
    return PACKAGE in Path(trace.tb_frame.f_code.co_filename).resolve().parents
