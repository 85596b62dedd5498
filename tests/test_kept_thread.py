"""A kept thread does its work in order, gives its results, and leaves nobody waiting."""

import subprocess
import sys
import threading
import time

import pytest

from qr_jax.run.kept_thread import KeptThread


def test_work_is_done_in_order_by_one_thread_and_its_errors_are_its_callers():
    kept, seen = KeptThread("kept"), []
    first = kept.submit(lambda at, *, more: at + more, 1, more=2, then=lambda: seen.append("then"))
    assert first.result(10) == 3 and seen == ["then"]
    assert kept.submit(threading.get_ident).result(10) == kept.submit(threading.get_ident).result(10)
    with pytest.raises(ZeroDivisionError):
        kept.submit(lambda: 1 / 0, then=lambda: seen.append("then")).result(10)
    assert seen == ["then", "then"]


def test_what_has_not_begun_is_left_undone_by_close():
    kept, go, there, seen = KeptThread("kept"), threading.Event(), threading.Event(), []
    begun = kept.submit(lambda: there.set() or go.wait(10))
    assert there.wait(10)
    kept.submit(seen.append, 1)
    kept.close()
    go.set()
    assert begun.result(10)
    time.sleep(0.1)
    assert not seen


def test_a_process_ends_while_its_thread_waits():
    code = "import time; from qr_jax.run.kept_thread import KeptThread; KeptThread('kept').submit(time.sleep, 60)"
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)
    assert time.monotonic() - start < 30


def test_a_thread_ends_with_whoever_keeps_it():
    kept = KeptThread("a thread of this test alone")
    kept.submit(time.sleep, 0).result(10)
    del kept
    until = time.monotonic() + 10
    while any(thread.name == "a thread of this test alone" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)
