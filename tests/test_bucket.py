"""A run in a bucket: what is copied, what comes back, and its checkpoints. (test_train.py: a machine that is gone.)"""

import json
import shutil
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from loopback_bucket import led_there

from qr_jax import config, trust
from qr_jax.cli.commands import options
from qr_jax.logging import metrics_writer
from qr_jax.run import bucket, committed, runs
from qr_jax.run.checkpoint import Checkpoints
from qr_jax.settings import checks


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
    discarded = "logs/attempt_1/discarded/episodes/one"
    (here / discarded).parent.mkdir(parents=True)
    (here / "episodes/one").rename(here / discarded)
    copy.close()
    bucket.Copy(tmp_path / "other", place).pull()
    assert files(tmp_path / "other") == {"metrics": "1\n2\n", discarded: "a", "sft/metrics": "3\n"}


def test_what_vanishes_here_stays_there_and_what_is_no_file_is_passed_over(tmp_path, place):
    here = write(tmp_path / "run", metrics="1\n", wandb__log="its own")
    (here / "link").symlink_to("nowhere")
    copy = bucket.Copy(here, place)
    copy.push()
    shutil.rmtree(here)
    copy.close()
    bucket.Copy(tmp_path / "other", place).pull()
    assert files(tmp_path / "other") == {"metrics": "1\n"}


def test_only_what_changed_is_sent_again(tmp_path, place, monkeypatch):
    here, sent, whole = write(tmp_path / "run", one="1", two="2"), [], committed.write
    monkeypatch.setattr(committed, "write", lambda path, data: (sent.append(path.name), whole(path, data))[1])
    copy = bucket.Copy(here, place)
    copy.push()
    write(here, two="22")
    copy.push()
    assert sorted(sent) == ["one", "two", "two"]


def test_metrics_go_to_the_bucket_every_minute(tmp_path, place, monkeypatch):
    settings = replace(config.Config(), train=replace(config.Config().train, bucket=str(place)))
    run, metrics = runs.Run(tmp_path / "run", settings, stage="train"), place / metrics_writer.FILE
    run.go_on(None, lambda host: None)
    run.write_metrics(1, {"learner/loss": 0.5})
    time.sleep(0.3)
    assert not metrics.exists()
    monkeypatch.setattr(bucket, "EVERY_S", 0.0)
    run.write_metrics(2, {"learner/loss": 0.25})
    until = time.monotonic() + 20
    while not metrics.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [1, 2]
    run.close()


def test_the_bucket_counts_but_for_what_is_only_longer_here(tmp_path, place):
    write(tmp_path / "first", metrics="1\n2\n", config="a", same="11")
    bucket.Copy(tmp_path / "first", place).push()
    here = write(tmp_path / "second", metrics="1\n2\n3\n", config="bb", own="x", same="22")
    assert bucket.Copy(here, place).pull() == ["config", "same"]
    aside = {"logs/replaced_1/config": "bb", "logs/replaced_1/same": "22"}
    assert files(here) == {"metrics": "1\n2\n3\n", "config": "a", "own": "x", "same": "11", **aside}


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


def test_a_bucket_that_does_not_answer_is_an_os_error_and_the_checkpoint_does_not_count(place):
    from gcsfs.retry import HttpError

    def before_commit():
        raise HttpError({"code": 503, "message": "try later"})

    made = Checkpoints(place / "checkpoints", before_commit=before_commit)
    made.save(1, {"embed": jax.numpy.zeros(3)}, {}, metrics_bytes=0)
    with pytest.raises(OSError, match="step 1 was not written .* the bucket does not answer: HttpError: try later"):
        made.wait()
    assert made.steps() == []
    made.close()


@pytest.mark.parametrize("there", ["gs://absent/run", "/proc/absent/run"])
def test_a_bucket_that_is_not_there_is_said_before_anything_is_computed(tmp_path, on_loopback, there):
    lives = replace(config.Config(), train=replace(config.Config().train, bucket=there))
    with pytest.raises(ValueError, match=f"train.bucket={there} cannot be written .*: is there such a bucket"):
        runs.Run(tmp_path / "run", lives, stage="train")


def test_a_bucket_that_refuses_the_first_file_is_an_os_error(tmp_path, place, monkeypatch):
    def refused(self):
        raise OSError("the bucket does not answer: HttpError: forbidden")

    monkeypatch.setattr(bucket.Copy, "push", refused)
    lives = replace(config.Config(), train=replace(config.Config().train, bucket=str(place)))
    with pytest.raises(OSError, match="cannot be written .*forbidden.*may this machine's account write to it"):
        runs.Run(tmp_path / "run", lives, stage="train")


def test_another_run_in_the_same_place_is_refused(tmp_path, place):
    settings = replace(config.Config(), train=replace(config.Config().train, bucket=str(place)))
    write(tmp_path / "first", **{"config.json": json.dumps(config.to_json(settings)), "metrics.jsonl": "{}\n"})
    bucket.Copy(tmp_path / "first", place).push()
    before = write(tmp_path / "second", **{"config.json": json.dumps(config.to_json(replace(settings, seed=1)))})
    with pytest.raises(ValueError, match="holds a run with other settings .seed: 0 there, 1 here"):
        runs.Run(before, replace(settings, seed=1), stage="train")
    assert sorted(files(before)) == ["config.json", "run.lock"]


def test_no_lock_is_copied_a_cold_start_s_neither(tmp_path, place):
    here = write(tmp_path / "here", **{"run.lock": "", "sft/run.lock": "", "sft/config.json": "{}"})
    assert sorted(bucket._names(here)) == ["sft/config.json"]


def test_a_run_begun_without_its_bucket_is_not_begun_anew_there(tmp_path, place):
    here = write(tmp_path / "run", **{"config.json": json.dumps(config.to_json(config.Config()))}, checkpoints__x="")
    lives = replace(config.Config(), train=replace(config.Config().train, bucket=str(place)))
    with pytest.raises(ValueError, match="has checkpoints, and .* has no run: copy the folder there"):
        runs.Run(here, lives, stage="train")


@pytest.mark.parametrize("place", ["gs://", "gs://bucket", "s3://bucket/run", "http://host/x"])
def test_a_place_that_is_none_is_refused(place):
    with pytest.raises(ValueError, match="train.bucket=.* is no place for a run; wanted gs://BUCKET/PATH, or a folder"):
        checks.check(config.load("configs/quickstart.py", [f"train.bucket={place}"]))


class Object:
    """A path of a bucket whose objects may have any name, as Google's may and the emulator's may not."""

    def __init__(self, name, *below):
        self.name, self.below = name, below

    exists, is_dir, iterdir = lambda self: True, lambda self: bool(self.below), lambda self: iter(self.below)


@pytest.mark.parametrize("name", ["..", ".", "", "a/../../b"])
def test_an_object_whose_name_leads_out_of_the_folder_is_refused_by_name(tmp_path, name):
    """It was written over the user's own files, a .bashrc two folders above."""
    with pytest.raises(ValueError, match="in its name, which no run writes; delete it"):
        bucket.Copy(tmp_path / "run", Object("there", Object("logs", Object(name, Object(".bashrc"))))).pull()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("run", "there"), [("run", "run"), ("run", "run/copy"), ("there/run", "there")])
def test_a_run_is_not_copied_into_itself(tmp_path, run, there):
    settings = config.Config(train=config.Train(bucket=str(tmp_path / there)))
    with pytest.raises(ValueError, match="lie in one another, so that the run would be copied into itself"):
        runs.Run(tmp_path / run, settings, stage="train")
    assert not [path for path in tmp_path.rglob("*") if path.name == "config.json"]


def test_a_cold_start_begun_anew_in_its_run_lies_in_the_run_s_bucket(tmp_path):
    """`qr-jax sft RUN/config.json --run RUN/sft` took the run's files in the bucket for its own."""
    settings = config.load("configs/two_layer.py")
    settings = replace(settings, train=replace(settings.train, bucket=str(tmp_path / "lives")))
    run = tmp_path / "mine"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(config.to_json(settings)))
    trust.remember(settings)
    given = {"config": str(run / "config.json"), "overrides": [], "dry_run": True, "process": None, "trust": False}
    found, folder = options.resolve(Namespace(run=run / "sft", **given), "sft")
    assert folder == run / "sft" and found.train.bucket == f"{tmp_path}/lives/sft"
    found, _ = options.resolve(Namespace(run=tmp_path / "other", **given), "sft")
    assert found.train.bucket == f"{tmp_path}/lives"
