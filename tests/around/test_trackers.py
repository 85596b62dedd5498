"""W&B and TensorBoard, by their own files: one run of a cold start and its training, curves of the last life alone."""

import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import wandb_files
from killed_run import tiny
from tensorboardX.proto import event_pb2

from qr_jax import config
from qr_jax.cli import cli
from qr_jax.lab import run_folders, wandb_run
from qr_jax.logging import metrics_writer
from qr_jax.logging.metrics_writer import Writer, discard_after
from qr_jax.train import train


def test_a_folder_has_one_run_of_wandb_however_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, again, other = (wandb_run.wandb_id(folder) for folder in (tmp_path / "a", Path("a"), tmp_path / "b"))
    assert first == again != other
    assert re.fullmatch("[0-9a-f]{16}", first)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """W&B's own package, which sends nothing; skipped where it is not installed."""
    pytest.importorskip("wandb")
    set_offline(monkeypatch, tmp_path)


def set_offline(patched, folder):
    for name, value in {"MODE": "offline", "SILENT": "true"}.items():
        patched.setenv(f"WANDB_{name}", value)
    for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
        patched.setenv(f"WANDB_{name}_DIR", str(folder / "of_wandb"))


def lives(folder, **settings):
    """A run that goes back twice: to step 2 after four steps, and to step 3 after four."""
    for first_step, steps in ((0, (1, 2, 3, 4)), (2, (3, 4)), (3, (4, 5))):
        length = (
            ("\n".join((folder / "metrics.jsonl").read_text().split("\n")[:first_step]) + "\n") if first_step else ""
        )
        discard_after(folder, len(length), attempt=first_step + 2)
        with closing(Writer(folder, first_step=first_step, **settings)) as writer:
            for step in steps:
                writer.write(step, {"reward/mean": step + first_step / 10})
    return {1: 1.0, 2: 2.0, 3: 3.2, 4: 4.3, 5: 5.3}


def test_the_last_life_wins_in_wandb(tmp_path, offline):
    wanted = lives(tmp_path, tensorboard=False, wandb=True)
    files = wandb_files.runs(tmp_path)
    assert len(files) == 3 and len({file.name for file in files}) == 1, "three attempts at one run"
    last = wandb_files.rows(files[-1])
    assert {row["step"]: row["reward/mean"] for row in last} == wanted
    assert [row["_step"] for row in last] == [row["step"] for row in last] == [1, 2, 3, 4, 5]


def test_a_cold_start_counts_on_an_axis_of_its_own_in_wandb(tmp_path, offline):
    for cold_steps, steps in (((1,), ()), ((2,), (1,)), ((), (2,))):  # it ends in the cold start, and after it
        with closing(Writer(tmp_path, tensorboard=False, wandb=True)) as writer:
            if cold_steps:
                with closing(Writer(tmp_path / "sft", tensorboard=False, wandb=True, within=writer)) as cold:
                    cold.write(cold_steps[0], {"sft/loss": 1 / cold_steps[0], "time/step_s": 2.0})
            for step in steps:
                (tmp_path / "sft" / "summary.json").write_text("{}")
                writer.write(step, {"reward/mean": 0.5, "time/step_s": 3.0})
    assert wandb_files.runs(tmp_path / "sft") == []
    rows = wandb_files.rows(wandb_files.runs(tmp_path)[-1])
    assert [row["_step"] for row in rows] == [1, 2, 3, 4]
    assert [(row["sft/step"], row["sft/loss"], row["sft/time/step_s"]) for row in rows if "sft/loss" in row] == [
        (1, 1.0, 2.0),
        (2, 0.5, 2.0),
    ]
    assert [(row["step"], row["time/step_s"]) for row in rows if "reward/mean" in row] == [(1, 3.0), (2, 3.0)]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run with a cold start, told to W&B offline, and what it says."""
    pytest.importorskip("wandb")
    folder, said = tmp_path_factory.mktemp("tracked"), []
    with pytest.MonkeyPatch.context() as patched:
        set_offline(patched, folder)
        settings = replace(tiny(folder), log=config.Log(tensorboard=False, wandb=True))
        settings = replace(settings, train=replace(settings.train, steps=2), evaluation=config.Evaluation(questions=2))
        train(settings, folder / "run", say=said.append)
    return settings, folder / "run", said


def test_a_cold_start_and_its_training_are_one_run_of_wandb(tracked):
    """`Run is finished`: the cold start's writer closed the run's own."""
    settings, folder, _ = tracked
    (file,) = wandb_files.runs(folder)
    assert not (folder / "sft" / "wandb").exists()
    rows = wandb_files.rows(file)
    assert [row["sft/step"] for row in rows if "sft/loss" in row] == [*range(1, settings.sft.steps + 1)]
    trained = {row["step"]: row for row in rows if "sft/loss" not in row}
    for row in metrics_writer.read(folder):
        numbers = {name: value for name, value in row.items() if value is not None}
        assert {name: trained[row["step"]][name] for name in numbers} == numbers


def test_a_folder_that_wandb_wrote_into_goes_on_in_the_same_run_and_is_reported(tracked, monkeypatch, tmp_path, capsys):
    settings, folder, _ = tracked
    set_offline(monkeypatch, tmp_path)
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    assert any(folder.resolve() not in path.resolve().parents for path in links), "W&B links to its cache"
    run_folders.check_folder(folder, allowed=False)
    assert cli.main(["report", str(folder), "--trust"]) == 0
    words = ["train", str(folder / "config.json"), "train.steps=3"]
    assert cli.main(words) == 0, capsys.readouterr().err
    first, second = wandb_files.runs(folder)
    assert first.name == second.name
    steps = [(row.get("sft/step"), row.get("step")) for row in wandb_files.rows(second)]
    assert [step for cold, step in steps if cold is None] == [1, 2, 3]
    assert [cold for cold, _ in steps if cold] == [*range(1, settings.sft.steps + 1)]


def test_only_what_lies_in_a_folder_of_wandb_may_lead_out_of_a_run(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    run = tmp_path / "run"
    for place in ("wandb/offline-run-1/logs", "sft/wandb/offline-run-1/logs"):
        (run / place).mkdir(parents=True)
        (run / place / "debug-core.log").symlink_to(outside / "core.log")
    run_folders.check_folder(run, allowed=False)
    for place in ("logs/wandb", "episodes"):
        (run / place).mkdir(parents=True)
        (run / place / "link").symlink_to(outside)
        with pytest.raises(ValueError, match=f"{place}/link: a link to"):
            run_folders.check_folder(run, allowed=False)
        (run / place / "link").unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "wandb").symlink_to(outside)
    with pytest.raises(ValueError, match="wandb: a link to"):
        run_folders.check_folder(tmp_path / "other", allowed=False)


def test_the_last_life_wins_in_tensorboard(tmp_path):
    """By TensorBoard's own rule: files by their names, and a start forgets what was written from its step on."""
    (tmp_path / "metrics.jsonl").touch()
    wanted, shown = lives(tmp_path), {}
    for file in sorted((tmp_path / "tensorboard").iterdir()):
        for event in events(file):
            if event.HasField("session_log"):
                shown = {step: value for step, value in shown.items() if step < event.step}
            for value in event.summary.value:
                shown[event.step] = round(value.simple_value, 4)
    assert shown == wanted


def events(file):
    """The events of a file of TensorBoard's: each has its length, a sum, its bytes and a sum."""
    data, at = file.read_bytes(), 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        yield event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
        at += 16 + length
