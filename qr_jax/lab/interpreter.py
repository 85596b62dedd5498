"""This interpreter: again, for a process of our own; and what its libraries find where there is no TPU."""

import glob
import importlib.util
import os
import sys

WITHOUT_TPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-1"}


def python() -> list[str]:
    """Return the words that start it. It finds the modules that this process finds, and no others.

    With `-c` and `-m` Python looks into the current folder first, which may be a stranger's with a `json.py` in it;
    `-P` keeps it from that. Where this process looks there, too (started by `python -m`), it may.
    """
    here = {"", os.getcwd()} & {*sys.path}
    return [sys.executable] if here else [sys.executable, "-P"]


def quiet_libtpu() -> None:
    """Tell libtpu, where it is installed for planning, that there is no TPU: else it says so in five lines."""
    if importlib.util.find_spec("libtpu") and not (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")):
        for name, value in WITHOUT_TPU.items():
            os.environ.setdefault(name, value)
