"""Compiled programs on disk: where, for whom, and that a second process takes them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_bucket import led_there

from qr_jax.parallel import compile_cache
from qr_jax.run import bucket

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp
from qr_jax.parallel import compile_cache
from qr_jax.parallel import compiles

hits = []
jax.monitoring.register_event_listener(lambda event, **_: event.endswith("/cache_hits") and hits.append(event))
compiles.count()
lives, process = (*sys.argv[1:], None, 0)[:2]
folder = compile_cache.enable(lives=lives, process=int(process))
value = float(jax.jit(lambda x: jnp.sin(x).sum())(jnp.arange(8.0)))
print(json.dumps([str(folder), value, compiles.count(), len(hits)]))
"""

ONE_OF_TWO = """
import json, sys
from qr_jax import config
from qr_jax.parallel import compile_cache
from qr_jax.parallel import start

process = int(sys.argv[2])
start.begin(config.Mesh(devices=4), coordinator=f"127.0.0.1:{sys.argv[1]}", processes=2, process=process)
folder = compile_cache.enable(process=process)

import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from qr_jax.parallel import mesh

hits, misses = [], []
jax.monitoring.register_event_listener(lambda event, **_: event.endswith("/cache_hits") and hits.append(event))
jax.monitoring.register_event_listener(lambda event, **_: event.endswith("/cache_misses") and misses.append(event))
layout = NamedSharding(mesh.make_mesh(config.Mesh(data=4, devices=4)), PartitionSpec("data"))
both = jax.make_array_from_callback((8,), layout, lambda at: np.arange(8.0)[at])
values = [float(jax.jit(jnp.sum)(both)), float(jax.jit(lambda x: (x * process).sum())(jnp.arange(8.0)))]
print(json.dumps([str(folder), values, len(hits), len(misses)]))
"""


def cleared(**environment):
    kept = {name: value for name, value in os.environ.items() if "COMPIL" not in name and name != "XDG_CACHE_HOME"}
    return kept | environment


def run(*where, **environment):
    """(folder, value, programs compiled, taken from the cache) of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *where],
        env=cleared(**environment),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def run_two(**environment):
    """(folder, values, programs taken from the cache, programs written to it) of each of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    two = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, port, str(me)],
            env=cleared(**environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for me in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120) for process in two]
    assert [process.returncode for process in two] == [0, 0], said
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


def test_a_second_process_takes_the_programs_of_the_first_and_counts_them_all_the_same(tmp_path):
    folder, value, compiled, hits = run(XDG_CACHE_HOME=str(tmp_path))
    assert folder == str(tmp_path / "qr_jax" / "compiled" / compile_cache.machine())
    assert compiled > 0 and hits == 0 and any(name.endswith("-cache") for name in os.listdir(folder))
    assert (tmp_path / "qr_jax" / "compiled" / compile_cache.machine()).stat().st_mode & 0o077 == 0
    assert run(XDG_CACHE_HOME=str(tmp_path)) == [folder, value, compiled, compiled]


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_each_process_of_a_run_keeps_what_it_compiled(tmp_path):
    """A program over all devices, and one that each process compiles for its own."""
    folder = str(tmp_path / compile_cache.machine())
    first = run_two(QR_JAX_COMPILED=str(tmp_path))
    assert [found[:3] for found in first] == [[folder, [28, 0], 0], [f"{folder}/process_1", [28, 28], 0]]
    assert first[0][3] > 1 and first[1][3] > 1
    second = run_two(QR_JAX_COMPILED=str(tmp_path))
    assert second == [[*found[:2], found[3], 0] for found in first]


def test_what_was_not_written_whole_goes_at_the_next_start(tmp_path):
    """jax writes a program and then the time of its use, which it asks of all when it makes room for another."""
    folder = Path(run(QR_JAX_COMPILED=str(tmp_path))[0])
    torn, fresh = folder / "jit_torn-1-cache", folder / "jit_fresh-1-cache"
    torn.write_bytes(b"half")
    fresh.write_bytes(b"half")  # another process may be about to write its time
    os.utime(torn, (0, 0))
    programs = len(names(folder)) - 2
    assert run(QR_JAX_COMPILED=str(tmp_path))[3] == programs / 2
    assert not torn.exists() and fresh.exists()
    assert len(names(folder)) == programs + 1


def test_what_cannot_be_kept_is_a_warning(monkeypatch):
    def full(*_):
        raise OSError("no room")

    monkeypatch.setattr("jax._src.compilation_cache.put_executable_and_time", full)
    with pytest.warns(UserWarning, match="jit_f is not kept for the next start: OSError: no room"):
        compile_cache._write("key", 1.5, "jit_f", None, None, ())
    compile_cache._write("key", 1.5, "jit_f", None, None, ["a callback"])  # and is not tried


@pytest.mark.thorough
def test_a_new_machine_takes_its_programs_from_the_run_s_bucket(tmp_path):
    """What another process of the run has there is not its own."""
    with led_there() as url:
        lives = f"{url}/night"
        folder, value, compiled, hits = run(lives, "1", XDG_CACHE_HOME=str(tmp_path / "first"))
        assert folder.endswith(f"/night/{bucket.COMPILED}/{compile_cache.machine()}/process_1")
        assert compiled > 0 and hits == 0
        assert run(lives, "1", XDG_CACHE_HOME=str(tmp_path / "second"))[1:] == [value, compiled, compiled]
        assert run(lives, "2", XDG_CACHE_HOME=str(tmp_path / "third"))[3] == 0
        assert not list(bucket._names(bucket.opened(lives)))  # a run's copy leaves them alone


@pytest.mark.thorough
def test_the_folder_can_be_in_a_bucket():
    with led_there() as url:
        folder, value, compiled, hits = run(QR_JAX_COMPILED=f"{url}/compiled")
        assert folder.startswith("gs://") and compiled > 0 and hits == 0
        assert run(QR_JAX_COMPILED=f"{url}/compiled") == [folder, value, compiled, compiled]
        assert not os.path.exists("gs:")  # where jax would put a lock


def names(folder):
    """Of a cache, without jax's lock and the part for a kind of machine."""
    inner = folder / compile_cache.machine()
    return {path.name for path in (inner if inner.exists() else folder).iterdir()} - {".lockfile"}
