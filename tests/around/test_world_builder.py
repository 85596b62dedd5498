"""The world as ArrayRecord files: written once, read at random places."""

import os
import subprocess
import sys
from dataclasses import replace

import grain
import pytest

from qr_jax.data.world.generate import WorldSettings, build, settings_hash
from qr_jax.sets import rows_builder, world_builder
from qr_jax.sets.world_builder import open_world

TINY = WorldSettings(documents=200, train=30, dev=20, test=20, traces=25)
SPLITS = ("documents", "train", "dev", "test", "traces")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    open_world(TINY, folder)
    return folder


def test_a_built_world_reads_back_as_it_was_made_and_in_order(folder):
    found, made = open_world(TINY, folder), build(TINY)
    for split in SPLITS:
        assert list(getattr(found, split)) == getattr(made, split)


def test_grain_reads_every_split(folder):
    found = open_world(TINY, folder)
    for split in SPLITS:
        data = grain.MapDataset.source(getattr(found, split))
        assert len(data) == len(getattr(found, split)) and data[3] == getattr(found, split)[3]
    shuffled = [one.id for one in grain.MapDataset.source(found.train).shuffle(seed=1)]
    assert sorted(shuffled) == sorted(one.id for one in found.train)


def test_a_source_counts_from_either_end_and_no_further(folder):
    dev = open_world(TINY, folder).dev
    assert dev[-1] == dev[19]
    with pytest.raises(IndexError, match="index 20 of a split of 20"):
        dev[20]


def test_a_world_is_built_once(folder, monkeypatch):
    monkeypatch.setattr(world_builder, "build", None)  # would raise if it were called
    assert len(open_world(TINY, folder).documents) > 190
    assert [one.name for one in folder.iterdir()] == [settings_hash(TINY)]


def test_an_unfinished_folder_is_not_read(tmp_path, monkeypatch):
    real = world_builder.prepare

    def killed(world, config, folder):
        real(world, config, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(world_builder, "prepare", killed)
    monkeypatch.setattr(rows_builder.shutil, "rmtree", lambda *_, **__: None)  # what is killed does not clean up
    with pytest.raises(KeyboardInterrupt):
        open_world(TINY, tmp_path)
    monkeypatch.undo()
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and ".unfinished-" in left[0].name
    assert len(open_world(TINY, tmp_path).traces) == 25


def test_splits_without_rows_are_empty(tmp_path):
    found = open_world(replace(TINY, train=0, traces=0), tmp_path)
    assert (len(found.train), len(found.traces), len(found.dev)) == (0, 0, 20)


def test_two_processes_that_build_at_once_read_the_same_world(tmp_path):
    code = (
        "import sys; from qr_jax.data.world.generate import *;"
        "from qr_jax.sets.world_builder import open_world;"
        "found = open_world(settings_from(dict(documents=200, train=30, dev=20, test=20, traces=25)), sys.argv[1]);"
        "print(found.train[7].id, found.documents[7].id)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [one.communicate(timeout=60)[0] for one in running]
    made = build(TINY)
    assert printed == [f"{made.train[7].id} {made.documents[7].id}\n"] * 2
    assert [one.name for one in tmp_path.iterdir()] == [settings_hash(TINY)]


def test_planning_a_world_imports_neither_tfds_nor_grain_nor_jax():
    heavy = ("jax", "grain", "tensorflow_datasets")
    code = f"import sys, qr_jax.data.world.generate; print([name for name in {heavy} if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout == "[]\n"
