"""A run in a bucket: what is copied, what comes back, and its checkpoints. (test_train.py: a machine that is gone.)"""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from loopback_bucket import led_there

from qr_jax import bucket, committed, config, runs
from qr_jax.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def on_loopback():
    with led_there() as url:
        yield url


@pytest.fixture(params=["folder", "gs"])
def place(request, tmp_path, on_loopback):
    return bucket.opened(str(tmp_path / "there") if request.param == "folder" else f"{on_loopback}/{tmp_path.name}")


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_what_is_written_changed_and_moved_here_is_so_there(tmp_path, place):
    here = write(tmp_path / "run", metrics="1\n", episodes__one="a", checkpoints__state="no")
    (here / "summary.json.new").write_text("not finished")
    copy = bucket.Copy(here, place)
    copy.push()
    fresh = tmp_path / "fresh"
    assert bucket.Copy(fresh, place).pull() == []
    assert files(fresh) == {"metrics": "1\n", "episodes/one": "a"}
    write(here, metrics="1\n2\n", sft__metrics="3\n")
    (here / "logs").mkdir()
    (here / "episodes/one").rename(here / "logs/one")
    copy.close()
    bucket.Copy(tmp_path / "other", place).pull()
    assert files(tmp_path / "other") == {"metrics": "1\n2\n", "logs/one": "a", "sft/metrics": "3\n"}


def test_only_what_changed_is_sent_again(tmp_path, place, monkeypatch):
    here, sent, whole = write(tmp_path / "run", one="1", two="2"), [], committed.write
    monkeypatch.setattr(committed, "write", lambda path, data: (sent.append(path.name), whole(path, data))[1])
    copy = bucket.Copy(here, place)
    copy.push()
    write(here, two="22")
    copy.push()
    assert sorted(sent) == ["one", "two", "two"]


def test_the_bucket_counts_but_for_what_is_only_longer_here(tmp_path, place):
    write(tmp_path / "first", metrics="1\n2\n", config="a")
    bucket.Copy(tmp_path / "first", place).push()
    here = write(tmp_path / "second", metrics="1\n2\n3\n", config="bb", own="x")
    assert bucket.Copy(here, place).pull() == ["config"]
    assert files(here) == {"metrics": "1\n2\n3\n", "config": "a", "own": "x", "logs/replaced_1/config": "bb"}


def test_a_checkpoint_in_a_bucket_counts_only_after_the_copy_and_is_whole(place):
    seen = []

    def before_commit():
        seen.append(sum(committed.stands(path) for path in (place / "checkpoints").iterdir()))

    made = Checkpoints(place / "checkpoints", keep=2, before_commit=before_commit)
    state = {"params": {"embed": jax.numpy.arange(6.0).reshape(2, 3)}}
    for step in (1, 2, 3):
        made.save(step, state, {"pool": np.arange(step)}, metrics_bytes=step)
        made.wait()
    assert seen == [0, 1, 2] and made.steps() == [3, 2]
    found, host = made.restore(3, jax.eval_shape(lambda: state))
    np.testing.assert_array_equal(found["params"]["embed"], state["params"]["embed"])
    assert host["metrics_bytes"] == 3 and host["pool"].tolist() == [0, 1, 2]
    (made.path(3) / "host.json").write_bytes(b"{}")
    said = []
    made.say = said.append
    assert made.latest() == 2 and "step_00000003 is passed over: host.json is damaged" in said[0]
    made.close()


def test_another_run_in_the_same_place_is_refused(tmp_path, place):
    settings = replace(config.Config(), train=replace(config.Config().train, bucket=str(place)))
    write(tmp_path / "first", **{"config.json": json.dumps(config.to_json(settings)), "metrics.jsonl": "{}\n"})
    bucket.Copy(tmp_path / "first", place).push()
    with pytest.raises(ValueError, match="holds a run with other settings .seed: 0 there, 1 here"):
        runs.Run(tmp_path / "second", replace(settings, seed=1), stage="train")


@pytest.mark.parametrize("place", ["gs://", "gs://bucket", "s3://bucket/run", "http://host/x"])
def test_a_place_that_is_none_is_refused(place):
    with pytest.raises(ValueError, match="train.bucket=.* is no place for a run; wanted gs://BUCKET/PATH, or a folder"):
        config.check(config.load("configs/quickstart.py", [f"train.bucket={place}"]))
