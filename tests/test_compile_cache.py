"""Compiled programs on disk: where, for whom, and that a second process takes them."""

import json
import os
import subprocess
import sys

from qr_jax.parallel import compile_cache

PROGRAM = """
import json
import jax, jax.numpy as jnp
from qr_jax.parallel import compile_cache
from qr_jax.rollout import compiles

hits = []
jax.monitoring.register_event_listener(lambda event, **_: event.endswith("/cache_hits") and hits.append(event))
compiles.count()
folder = compile_cache.enable()
value = float(jax.jit(lambda x: jnp.sin(x).sum())(jnp.arange(8.0)))
print(json.dumps([str(folder), value, compiles.count(), len(hits)]))
"""


def run(**environment):
    """(folder, value, programs compiled, taken from the cache) of a process of its own."""
    cleared = {name: value for name, value in os.environ.items() if "COMPIL" not in name and name != "XDG_CACHE_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=cleared | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_a_second_process_takes_the_programs_of_the_first_and_counts_them_all_the_same(tmp_path):
    folder, value, compiled, hits = run(XDG_CACHE_HOME=str(tmp_path))
    assert folder == str(tmp_path / "qr_jax" / "compiled" / compile_cache.machine())
    assert compiled > 0 and hits == 0 and any(name.endswith("-cache") for name in os.listdir(folder))
    assert (tmp_path / "qr_jax" / "compiled" / compile_cache.machine()).stat().st_mode & 0o077 == 0
    assert run(XDG_CACHE_HOME=str(tmp_path)) == [folder, value, compiled, compiled]


def test_the_folder_can_be_named_or_the_cache_be_off(tmp_path):
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    both = {"QR_JAX_COMPILED": ours, "JAX_COMPILATION_CACHE_DIR": theirs}
    assert run(**both)[0] == str(tmp_path / "ours" / compile_cache.machine())
    assert run(JAX_COMPILATION_CACHE_DIR=theirs)[0] == theirs and os.listdir(theirs)
    assert run(QR_JAX_COMPILED="off", XDG_CACHE_HOME=str(tmp_path / "none"))[0] == "None"
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert run(QR_JAX_COMPILED=str(tmp_path / "file"))[3] == 0
