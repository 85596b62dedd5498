"""Checkpoints: what was saved comes back, and what is not whole is never taken for a checkpoint."""

import hashlib
import io
import json
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qr_jax import config
from qr_jax.parallel import mesh as meshes
from qr_jax.parallel import plain
from qr_jax.run import committed
from qr_jax.run.checkpoint import Checkpoints, check_same, check_same_model, discard_after, next_attempt

OPTIMIZER = optax.adamw(1e-3)
HOST = {
    "pool": {"weight_P": np.array([1.0, 0.5, 0.0]), "state_P": np.array([0, 1, 4], np.int8), "epoch": 2},
    "waiting": [{"ids_L": np.arange(3, dtype=np.int32), "answer": None, "valid": True}, {"ids_L": np.arange(0)}],
    "at": 0.1,
    "seen": np.int64(2**40),
}


def mesh_of(data, fsdp, tensor):
    return meshes.make_mesh(config.Mesh(data, fsdp, tensor, devices=data * fsdp * tensor))


def make_state(*, width=8, heads=2, scale=1.0):
    params = {
        "embed": np.arange(32 * width, dtype=np.float32).reshape(32, width) * np.float32(scale),
        "layers": {"q": np.ones((2, width, heads, 4), np.float32), "attn_norm": np.ones((2, width), np.float32)},
    }
    return {"params": params, "optimizer": OPTIMIZER.init(params), "updates": jnp.array(7, jnp.int32)}


def laid_out(mesh, state):
    return jax.device_put(state, meshes.shardings(mesh, state))


@pytest.fixture
def run(tmp_path):
    """Opens checkpoints of one folder, and closes them at the end."""
    opened = []

    def open_them(**settings):
        opened.append(Checkpoints(tmp_path / "checkpoints", **settings))
        return opened[-1]

    yield open_them
    for one in opened:
        one.close()


def save(checkpoints, *steps, state=None):
    on_one_device = laid_out(mesh_of(1, 1, 1), make_state() if state is None else state)
    for step in steps:
        checkpoints.save(step, on_one_device, HOST, metrics_bytes=step)
    checkpoints.wait()


def assert_same_trees(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: jnp.asarray(x).dtype, wanted)


def test_state_and_host_come_back_on_another_mesh(run):
    checkpoints = run()
    save(checkpoints, 3)
    eight = mesh_of(2, 2, 2)
    state, host = checkpoints.restore(3, meshes.abstract(eight, jax.eval_shape(make_state)))
    assert_same_trees(state, make_state())
    assert jax.tree.map(lambda x: x.sharding, state) == meshes.shardings(eight, state)
    assert state["params"]["layers"]["q"].addressable_shards[0].data.shape == (2, 4, 1, 4)
    np.testing.assert_array_equal(host["pool"]["weight_P"], HOST["pool"]["weight_P"])
    assert host["pool"]["state_P"].dtype == np.int8 and host["pool"]["epoch"] == 2
    assert host["waiting"][0]["ids_L"].tolist() == [0, 1, 2] and host["waiting"][1]["ids_L"].shape == (0,)
    assert (host["waiting"][0]["answer"], host["at"], host["seen"], host["metrics_bytes"]) == (None, 0.1, 2**40, 3)


def test_a_state_of_eight_devices_comes_back_on_one(run):
    checkpoints = run()
    checkpoints.save(1, laid_out(mesh_of(2, 2, 2), make_state()), HOST, metrics_bytes=0)
    state, _ = checkpoints.restore(checkpoints.latest(), jax.eval_shape(make_state))
    assert_same_trees(state, make_state())
    assert state["params"]["embed"].devices() == {jax.local_devices()[0]}


def test_the_parameters_can_be_read_without_the_optimizer(run):
    checkpoints = run()
    save(checkpoints, 1)
    params, _ = checkpoints.restore(1, jax.eval_shape(make_state)["params"], part="params")
    assert_same_trees(params, make_state()["params"])
    assert checkpoints.arrays(1)["params.layers.q"] == ("float32", (2, 8, 2, 4))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_buffers_may_be_donated_as_soon_as_save_returns(run, sizes):
    checkpoints = run()
    mesh = mesh_of(*sizes)
    values = np.random.default_rng(0).normal(size=(2048, 1024)).astype(np.float32)
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 - 1, state), donate_argnums=0)
    # Made on the device: an array put there from numpy may share numpy's memory, and is then copied when donated.
    state = jax.tree.map(lambda x: x + 0, laid_out(mesh, {"embed": values, "mine": values[:64]}))
    never_saved = jax.tree.map(lambda x: x + 0, state)
    overwrite(never_saved)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(never_saved))  # else nothing below is a test
    checkpoints.save(1, state, {}, metrics_bytes=0)
    for _ in range(3):
        state = overwrite(state)
    jax.block_until_ready(state)
    restored, _ = checkpoints.restore(checkpoints.latest(), meshes.abstract(mesh, state))
    np.testing.assert_array_equal(restored["embed"], values)
    np.testing.assert_array_equal(restored["mine"], values[:64])


def test_only_the_newest_are_kept(run, tmp_path):
    checkpoints = run(keep=2)
    save(checkpoints, 1, 2, 3)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_00000002", "step_00000003"]
    assert checkpoints.latest() == 3


def test_no_folder_is_no_checkpoint(run):
    assert run().latest() is None


def biggest(folder):
    return max((path for path in (folder / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_byte(folder):
    file = biggest(folder)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut_it_short(folder):
    file = biggest(folder)
    file.write_bytes(file.read_bytes()[:-1])


DAMAGES = {
    "its SHA-256 is not that of": flip_a_byte,
    "were written": cut_it_short,
    "host.json is missing": lambda folder: (folder / "host.json").unlink(),
    "host.npz is damaged": lambda folder: (folder / "host.npz").write_bytes(b""),
    "manifest.json is not the one that was committed": lambda folder: (folder / "manifest.json").write_text("{}"),
    "manifest.json is missing": lambda folder: (folder / "manifest.json").unlink(),
    "no COMMITTED file, so it was not finished": lambda folder: (folder / "COMMITTED").unlink(),
}


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(run, tmp_path):
    said = []
    checkpoints = run(say=said.append)
    save(checkpoints, 1, 2)
    second, whole = tmp_path / "checkpoints" / "step_00000002", tmp_path / "whole"
    shutil.copytree(second, whole)
    for message, damage in DAMAGES.items():
        said.clear()
        damage(second)
        assert checkpoints.latest() == 1
        assert len(said) == 1 and str(second) in said[0] and message in said[0], (message, said)
        shutil.rmtree(second)
        shutil.copytree(whole, second)
    said.clear()
    assert checkpoints.latest() == 2 and not said


def test_a_step_that_was_not_finished_or_is_damaged_is_written_anew(run, tmp_path):
    checkpoints = run(say=lambda _: None)
    save(checkpoints, 1, 2)
    flip_a_byte(tmp_path / "checkpoints" / "step_00000002")
    assert checkpoints.latest() == 1
    save(checkpoints, 2, state=make_state(scale=2.0))
    assert checkpoints.latest() == 2
    (tmp_path / "checkpoints" / "step_00000002" / "COMMITTED").unlink()
    save(checkpoints, 2, state=make_state(scale=3.0))
    state, _ = checkpoints.restore(2, jax.eval_shape(make_state))
    np.testing.assert_array_equal(state["params"]["embed"], make_state(scale=3.0)["params"]["embed"])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_00000001", "step_00000002"]


def test_later_checkpoints_of_a_given_up_future_go_with_the_next_commit(run, tmp_path):
    checkpoints = run(say=lambda _: None)
    save(checkpoints, 1, 5)
    (tmp_path / "checkpoints" / "step_00000005" / "COMMITTED").unlink()
    save(checkpoints, 3)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_00000001", "step_00000003"]


def test_host_arrays_that_are_pickled_are_not_read():
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=True, a0=np.array([None], object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        plain.unpacked(packed.getvalue())


@pytest.mark.parametrize("name", ["step_00000002", "step_00000001.replaced", "step_99999999999999999999"])
def test_a_file_in_the_place_of_a_checkpoint_gives_way(run, tmp_path, name):
    checkpoints = run(say=lambda _: None)
    save(checkpoints, 1)
    (tmp_path / "checkpoints" / name).write_bytes(b"no folder")
    assert checkpoints.latest() == 1
    save(checkpoints, 2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_00000001", "step_00000002"]


def test_a_failing_disk_keeps_the_last_checkpoint_and_says_so(run, tmp_path, caplog):
    checkpoints = run(say=lambda _: None)
    save(checkpoints, 1)
    noise = {"embed": np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)}  # does not compress
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # writes beyond fail, as on a full disk
    try:
        with pytest.raises(OSError, match="of step 2 was not written .*; the last one is .*step_00000001"):
            save(checkpoints, 2, state=noise)
        with pytest.raises(OSError, match="the checkpoint of step 3 was not written .*make room"):
            checkpoints.save(3, laid_out(mesh_of(1, 1, 1), make_state()), {"big": noise["embed"]}, metrics_bytes=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not any(record.exc_info for record in caplog.records)  # Orbax would log a traceback for each of its threads
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]
    assert checkpoints.latest() == 1
    save(checkpoints, 2, state=noise)
    assert checkpoints.latest() == 2


def test_a_checkpoint_of_another_model_is_refused_with_the_first_difference(run):
    checkpoints = run()
    save(checkpoints, 1)
    with pytest.raises(
        ValueError, match=r"another model.*mu\.layers\.q is float32 \[2, 8, 2, 4\] there and .*\[2, 8, 4, 4\]"
    ):
        checkpoints.restore(1, jax.eval_shape(lambda: make_state(heads=4)))
    wanted = jax.eval_shape(make_state)
    with pytest.raises(ValueError, match=r"mine is absent there and float32 \[3\] here"):
        checkpoints.restore(1, {**wanted, "mine": jax.ShapeDtypeStruct((3,), jnp.float32)})
    with pytest.raises(ValueError, match=r"updates is int32 \[\] there and absent here"):
        checkpoints.restore(1, {key: wanted[key] for key in ("params", "optimizer")})
    halves = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), wanted["params"])
    with pytest.raises(ValueError, match=r"params\.embed is float32 \[32, 8\] there and bfloat16 \[32, 8\] here"):
        checkpoints.restore(1, halves, part="params")


def spoil(path, how: str) -> None:
    if how == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"no UTF-8": b"\xff\xfe", "empty": b""}[how])


@pytest.mark.parametrize("how", ["no UTF-8", "empty", "folder"])
@pytest.mark.parametrize("name", ["COMMITTED", "manifest.json", "host.json", "host.npz"])
def test_a_checkpoint_is_passed_over_whatever_stands_in_a_file_s_place(run, tmp_path, name, how):
    said = []
    checkpoints = run(say=said.append)
    save(checkpoints, 1, 2)
    spoil(tmp_path / "checkpoints/step_00000002" / name, how)
    assert checkpoints.latest() == 1 and "step_00000002 is passed over" in said[0]
    assert checkpoints.latest() == 1 and len(said) == 1  # once a process


def test_a_manifest_with_its_hash_that_is_none_is_passed_over(run, tmp_path):
    checkpoints = run()
    save(checkpoints, 1, 2)
    for text in (b"\xff", b"[]", b"{}", b'{"files": 3}', b"[" * 5000, b'{"files": {"../../x": {}}}'):
        place = tmp_path / "checkpoints/step_00000002"
        (place / "manifest.json").write_bytes(text)
        (place / "COMMITTED").write_text(hashlib.sha256(text).hexdigest())
        assert checkpoints.latest() == 1


@pytest.mark.parametrize("name", ["/dev/zero", "state/../../x", "x" * 5000, "a/" * 3000 + "x"])
def test_a_manifest_that_names_files_outside_its_folder_is_passed_over(run, name):
    said = []
    checkpoints = run(say=said.append)
    save(checkpoints, 1, 2)
    place = checkpoints.path(2)
    listed = {name: {"bytes": 0, "sha256": ""}}
    text = json.dumps(committed.manifest(place) | {"files": listed}).encode()
    (place / committed.MANIFEST).write_bytes(text)
    (place / committed.MARKER).write_text(hashlib.sha256(text).hexdigest())
    assert checkpoints.latest() == 1 and "names a file that is none of this folder's" in said[0]


def written(save, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def commit_anew(place):
    """With hashes that fit what stands there now."""
    facts = committed.manifest(place)
    for file in (committed.MANIFEST, committed.MARKER):
        (place / file).unlink()
    committed.commit(place, {name: value for name, value in facts.items() if name != "files"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("host.json", b'{"pool": {"__array__": "a99"}}'),
        ("host.json", b'{"pool": {"__array__": []}}'),
        ("host.json", b"[" * 5000),
        ("host.json", b'{"pool": [' + b"[]," * 2**23 + b"0]}"),  # 25 MB, which would take 500 MB
        ("host.npz", b"PK\x05\x06"),
        ("host.npz", written(np.savez_compressed, zeros=np.zeros(2**20))),  # 8 MB of memory in 8 kB
        ("host.npz", written(np.save, arr=np.zeros(3))),
        ("host.npz", b""),
        ("host.npz", None),
    ],
)
def test_host_values_with_their_hash_that_are_none_are_refused_by_name(run, tmp_path, name, text):
    checkpoints = run()
    save(checkpoints, 1)
    place = checkpoints.path(1)
    (place / name).unlink()
    if text is not None:
        (place / name).write_bytes(text)
    commit_anew(place)
    assert checkpoints.latest() == 1
    with pytest.raises(
        ValueError, match="host.json or host.npz of .*step_00000001 is not one that this program writes"
    ):
        checkpoints.host(1)


def test_a_manifest_of_many_small_things_is_no_one_of_ours_and_a_checkpoint_that_went_is_said_to_have_gone(
    run, tmp_path
):
    checkpoints = run()
    save(checkpoints, 1)
    place = checkpoints.path(1)
    manifest = json.dumps(committed.manifest(place) | {"z": 0}).encode()
    full = manifest.replace(b'"z": 0', b'"z": [' + b"[]," * 2**20 + b"0]")
    for text, what in ((manifest, None), (full, "manifest.json is not one that this program writes")):
        committed.write(place / committed.MANIFEST, text)
        committed.write(place / committed.MARKER, hashlib.sha256(text).hexdigest().encode())
        assert committed.damage(place) == what
    committed.remove(place)
    with pytest.raises(ValueError, match="step_00000001 was taken away while it was read, by a run that goes on"):
        checkpoints.host(1)


def test_a_checkpoint_that_goes_while_its_arrays_are_read_is_said_to_have_gone(run, monkeypatch):
    """As one that a run beside `export` removes, for it keeps the newest alone."""
    checkpoints = run()
    save(checkpoints, 1)
    whole = checkpoints._orbax.restore

    def goes(path, **how):
        committed.remove(checkpoints.path(1))
        return whole(path, **how)

    monkeypatch.setattr(checkpoints._orbax, "restore", goes)
    with pytest.raises(ValueError, match="step_00000001 was taken away while it was read, by a run that goes on"):
        checkpoints.restore(1, meshes.abstract(mesh_of(1, 1, 1), jax.eval_shape(make_state)))


def test_where_all_checkpoints_are_damaged_the_run_does_not_begin_at_0_unasked(run, tmp_path):
    checkpoints = run()
    (tmp_path / "checkpoints/step_00000009").mkdir(parents=True)  # never finished
    assert checkpoints.latest() is None
    save(checkpoints, 1, 2)
    for step in (1, 2):
        spoil(tmp_path / f"checkpoints/step_0000000{step}/host.json", "empty")
    with pytest.raises(ValueError, match="none of the 2 checkpoints in .* is whole: put one back .* --restart"):
        checkpoints.latest()


def test_another_format_is_refused_not_passed_over(run, tmp_path, monkeypatch):
    checkpoints = run()
    save(checkpoints, 1)
    monkeypatch.setattr("qr_jax.run.checkpoint.FORMAT", 6)
    with pytest.raises(ValueError, match="has format 5, this version reads 6; use the qr_jax that wrote it"):
        checkpoints.latest()


def test_an_object_among_the_host_values_is_refused(run):
    checkpoints = run()
    with pytest.raises(TypeError, match="object is not JSON serializable"):
        checkpoints.save(1, {"step": jnp.array(3)}, {"pool": {"rule": object()}}, metrics_bytes=0)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        checkpoints.save(1, {"step": jnp.array(3)}, {"names": np.array(["a", None], object)}, metrics_bytes=0)


def test_nothing_in_a_checkpoint_is_pickled(run, tmp_path):
    save(run(), 1)
    folder = tmp_path / "checkpoints" / "step_00000001"
    assert json.loads((folder / "manifest.json").read_text())["format"] == 5
    for path in folder.rglob("*"):
        assert not path.is_file() or not path.read_bytes().startswith(b"\x80\x04"), path


def test_another_query_list_or_model_is_refused():
    host = {"query_list_sha256": "a" * 64, "model": {"width": 96, "layers": 3}}
    check_same(host, "query_list_sha256", "a" * 64)
    check_same_model(host, {"width": 96, "layers": 3})
    with pytest.raises(ValueError, match="query list: aaaaaaaaaaaaaaaa, this config's: bbbbbbbbbbbbbbbb"):
        check_same(host, "query_list_sha256", "b" * 64)
    with pytest.raises(ValueError, match="its width is 96, this config's is 128"):
        check_same_model(host, {"width": 128, "layers": 3})


def test_a_model_saved_before_a_feature_of_models_was_there_is_one_without_it():
    host = {"model": {"width": 96}}  # as 0.2 wrote it, which knew no Gemma
    check_same_model(host, {"width": 96, "gemma3": False, "sliding": (), "query_scalar": None})
    with pytest.raises(ValueError, match="its sliding is \\[\\], this config's is \\[True\\]"):
        check_same_model(host, {"width": 96, "gemma3": False, "sliding": (True,)})
    with pytest.raises(ValueError, match="its layers is None, this config's is 3"):
        check_same_model(host, {"width": 96, "layers": 3})


def test_attempts_are_numbered_and_episodes_of_later_steps_are_set_aside(tmp_path):
    assert [next_attempt(tmp_path), next_attempt(tmp_path)] == [1, 2]
    (tmp_path / "logs" / "attempt_9").mkdir()
    assert next_attempt(tmp_path) == 10
    (tmp_path / "episodes").mkdir()
    for step in (9, 10, 11, 100):
        (tmp_path / "episodes" / f"{step:06d}.jsonl").write_text(str(step))
    assert discard_after(tmp_path, 10, 10) == ["000011.jsonl", "000100.jsonl"]
    assert sorted(path.name for path in (tmp_path / "episodes").iterdir()) == ["000009.jsonl", "000010.jsonl"]
    assert (tmp_path / "logs/attempt_10/discarded/episodes/000100.jsonl").read_text() == "100"
    (tmp_path / "episodes" / "000011.jsonl").write_text("again")
    with pytest.raises(FileExistsError, match="discarded twice"):
        discard_after(tmp_path, 10, 10)
