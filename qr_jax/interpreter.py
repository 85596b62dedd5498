"""This interpreter again, for a process of our own."""

import os
import sys


def python() -> list[str]:
    """The words that start it. It finds the modules that this process finds, and no others.

    With `-c` and `-m` Python looks into the current folder first, which may be a stranger's with a `json.py` in it;
    `-P` keeps it from that. Where this process looks there, too (started by `python -m`), it may.
    """
    here = {"", os.getcwd()} & {*sys.path}
    return [sys.executable] if here else [sys.executable, "-P"]
