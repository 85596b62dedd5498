"""train.overlap=1: episodes are played beside the update before theirs, and a run that goes on takes the same steps."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from killed_run import tiny

from qr_jax import assemble, config
from qr_jax import train as driver
from qr_jax.errors import Interrupted, ServiceDown
from qr_jax.parallel import mesh as meshes
from qr_jax.pool import pool
from qr_jax.rollout import engine
from qr_jax.rollout.live import Statistics
from qr_jax.run import begin, checkpoint
from qr_jax.settings import checks
from qr_jax.step import rollout_and_grade, runtime
from qr_jax.step.runtime import Ahead, RunState
from qr_jax.train import train
from tpu_scripts.same_runs import differences


def silent(text):
    pass


def overlapping(folder, **more):
    settings = tiny(folder)
    return replace(settings, train=replace(settings.train, overlap=1, **more))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without overlap, and one with it that was never stopped; both from the same cold start."""
    folder = tmp_path_factory.mktemp("overlap")
    train(tiny(folder), folder / "off", say=silent)
    train(overlapping(folder), folder / "on", say=silent)
    return folder


def ledger(folder):
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


@pytest.mark.thorough
def test_queries_are_drawn_as_without_overlap_and_the_first_update_is_the_same(whole):
    """By hand: groups wait for three that bear signal, so the first update is of step 2, and step 3 lags behind it."""
    off, on = ledger(whole / "off"), ledger(whole / "on")
    before = [row for row in on if row["step"] <= 2]
    assert before == [row for row in off if row["step"] <= 2]  # the same policy: no update was made
    assert {row["step"] for row in on if row.get("lag")} == {3, 5} and all("lag" not in row for row in off)
    rows = [json.loads(line) for line in (whole / "on" / "metrics.jsonl").read_text().splitlines()]
    steps = {row["step"]: row for row in rows if "pool/drawn" in row}
    assert [steps[at]["learner/loss"] is not None for at in range(1, 6)] == [False, True, False, True, False]
    assert steps[2]["learner/ratio"] == pytest.approx(1, abs=1e-5)
    assert abs(steps[4]["learner/ratio"] - 1) > 1e-4  # step 3's groups, of the policy before the update of step 2
    assert steps[4]["sampler_gap/mean"] > 100 * steps[2]["sampler_gap/mean"]
    assert ["time/ahead_s" in steps[at] for at in range(1, 6)] == [True] * 4 + [False]  # none is played for nobody
    host = checkpoint.Checkpoints(whole / "on" / "checkpoints").host(2)
    assert [group["index"] for group in host["ahead"]["groups"]] == [row["index"] for row in on if row["step"] == 3]
    assert "ahead" not in checkpoint.Checkpoints(whole / "on" / "checkpoints").host(5)


def gaps(folder):
    """By step the mean distance of the sampler's log-probabilities from the learner's."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["sampler_gap/mean"] for row in rows if row.get("sampler_gap/mean") is not None}


def told_to_stop(monkeypatch, rollout):
    """Send this process a SIGTERM in the `rollout`-th rollout of training, which hears of it at once."""
    run, count = engine.Engine.run, [0]

    def counted(self, *positional, **named):
        if named.get("purpose", "train") == "train":
            count[0] += 1
            if count[0] == 2 * rollout - 1:  # two lanes
                named["stop_now"] = lambda: signal.raise_signal(signal.SIGTERM) is None
        return run(self, *positional, **named)

    monkeypatch.setattr(engine.Engine, "run", counted)


@pytest.mark.thorough
@pytest.mark.parametrize("rollout", [3, 4])  # beside the update of step 2; beside step 3, which makes none
def test_a_sigterm_beside_an_update_saves_the_step_before_and_the_run_goes_on_to_the_same_bytes(
    whole, tmp_path, monkeypatch, rollout
):
    said: list[str] = []
    with monkeypatch.context() as patched:
        told_to_stop(patched, rollout)
        with pytest.raises(SystemExit) as ended:
            train(overlapping(tmp_path), tmp_path / "run", say=said.append)
    assert ended.value.code == 143
    saved = max(checkpoint.Checkpoints(tmp_path / "run" / "checkpoints").steps())
    assert saved == rollout - 2  # the step whose update it was beside is taken again
    train(overlapping(tmp_path), tmp_path / "run", say=silent)
    assert differences(tmp_path / "run", whole / "on", 5) == []


def process(folder, *words):
    """Run tests/killed_run.py with overlap, with one compile cache for all folders; return its exit code."""
    command = [sys.executable, str(Path(__file__).with_name("killed_run.py")), str(folder), "--overlap", "1", *words]
    environment = os.environ | {"QR_JAX_COMPILED": str(folder.parent / "compiled")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed") / "whole"
    assert process(folder) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("point", ["rollout", "metrics", "checkpoint"])
def test_a_run_killed_beside_an_update_goes_on_to_the_same_bytes(never_killed, point):
    folder = never_killed.parent / point
    assert process(folder, "--die", point) == -signal.SIGKILL
    assert process(folder) == 0
    assert differences(folder, never_killed, 5) == []
    rows = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert {row["lag"] for row in rows if "lag" in row} == {1}


@pytest.mark.thorough
def test_a_service_that_is_down_beside_an_update_leaves_the_state_as_it_was(whole, tmp_path, monkeypatch):
    check, down = rollout_and_grade.check_answered, [0]

    def once_down(*given, **named):
        down[0] += 1
        if down[0] == 3:
            raise ServiceDown("the third rollout's searches failed", failed=[])
        return check(*given, **named)

    monkeypatch.setattr(rollout_and_grade, "check_answered", once_down)
    monkeypatch.setattr(driver.services, "wait", lambda runtime, error, step, retry: None)
    train(overlapping(tmp_path), tmp_path / "run", say=silent)
    assert down[0] == 6  # of five steps, and one again
    assert differences(tmp_path / "run", whole / "on", 5) == []


def test_an_update_waits_with_its_optimizer_for_the_episodes_beside_it():
    order: list[str] = []
    playing = threading.Event()

    def update(before_applied):
        assert playing.wait(10)
        order.append("gradient")
        before_applied()
        order.append("applied")
        return "state"

    def play():
        playing.set()
        while "gradient" not in order:
            pass
        order.append("played")
        return "groups"

    assert rollout_and_grade.play_beside(update, play) == ("state", "groups")
    assert order == ["gradient", "played", "applied"]


def test_an_error_of_the_episodes_keeps_the_optimizer_from_running_and_is_the_one_that_is_raised():
    order: list[str] = []

    def update(before_applied):
        try:
            before_applied()
        except Interrupted:
            order.append("not applied")
            raise

    def play():
        raise KeyError("of the environment")

    with pytest.raises(KeyError, match="of the environment"):
        rollout_and_grade.play_beside(update, play)
    assert order == ["not applied"]
    with pytest.raises(ValueError, match="of the loss"):
        broken = (_ for _ in ()).throw
        rollout_and_grade.play_beside(lambda before_applied: broken(ValueError("of the loss")), lambda: None)


def test_a_step_played_ahead_that_a_rollback_gives_up_is_in_the_budget():
    group = SimpleNamespace(spent=SimpleNamespace(episodes=4))
    ahead = Ahead((group, group), Statistics(tokens=30, searches=5), 1)
    so_far = RunState(pool.create(3), rollouts=8, tokens=100, searches=2)
    assert begin.spent(so_far) == {"rollouts": 8, "tokens": 100, "searches": 2}
    assert begin.spent(replace(so_far, ahead=ahead)) == {"rollouts": 16, "tokens": 130, "searches": 7}


def test_several_updates_a_batch_leave_no_policy_to_play_with_beside_them(tmp_path):
    settings = overlapping(tmp_path)
    (line,) = checks.problems(replace(settings, learner=replace(settings.learner, updates=2)))
    assert line.startswith(
        "train.overlap=1 plays the next episodes by the policy before an update, and learner.updates=2"
    )
    (line,) = checks.problems(replace(settings, train=replace(settings.train, overlap=2)))
    assert line == "train.overlap is 2; wanted 0 or 1"


@pytest.mark.thorough
def test_devices_of_their_own_for_rollouts_give_the_same_run(whole, tmp_path, monkeypatch):
    settings = overlapping(tmp_path)
    apart = replace(settings, mesh=config.Mesh(devices=2, rollout_devices=1))
    made = []
    begun = engine.RolloutState.run
    monkeypatch.setattr(engine.RolloutState, "run", lambda state: made.append(state.rows) or begun(state))
    train(apart, tmp_path / "run", say=silent)
    assert differences(tmp_path / "run", whole / "on", 5) == []
    assert {rows.mesh for rows in made} == {None}, "one device is not several that share a cache"


@pytest.mark.thorough
def test_two_devices_learn_and_two_roll_out(whole, tmp_path):
    settings = overlapping(tmp_path)
    apart = config.Mesh(fsdp=2, devices=4, rollout_devices=2, rollout="slots")
    train(replace(settings, mesh=apart, rollout=replace(settings.rollout, lanes=1)), tmp_path / "run", say=silent)
    drawn = [[(row["step"], row["index"]) for row in ledger(folder)][:8] for folder in (tmp_path / "run", whole / "on")]
    assert drawn[0] == drawn[1]
    found = checkpoint.Checkpoints(tmp_path / "run" / "checkpoints")
    assert found.steps()[0] == 5
    ours, theirs = (gaps(folder) for folder in (tmp_path / "run", whole / "on"))
    assert ours[4] == pytest.approx(theirs[4], rel=0.3) and ours[2] < ours[4] / 100  # one update lies between, not two


def test_a_mesh_for_overlap_that_cannot_be_made_says_what_to_set(tmp_path):
    settings = overlapping(tmp_path)
    off = replace(settings, mesh=config.Mesh(devices=2, rollout_devices=1), train=replace(settings.train, overlap=0))
    assert "would stand idle while the others learn; set train.overlap=1" in checks.problems(off)[0]
    line = meshes.unfit(config.Mesh(devices=2, rollout_devices=2), 2, "cpu")
    assert line == "mesh.rollout_devices=2 of each host's 2 devices leave none to learn; set fewer"
    line = meshes.unfit(config.Mesh(fsdp=4, devices=4, rollout_devices=2), 8, "cpu")
    assert "but mesh.devices=4 are to be used, of which mesh.rollout_devices=2 of each host roll out; set" in line
    with pytest.raises(ValueError, match="rollouts by 'slots' on the learner's 2 devices: .* set mesh.rollout_devices"):
        shared = config.Mesh(data=2, devices=2, rollout="slots")
        train(replace(settings, mesh=shared), tmp_path / "run", say=silent)
    pod = replace(settings, mesh=replace(shared, rollout="pod"))
    assert checks.problems(pod)[0].startswith("train.overlap=1 with mesh.rollout=pod: all devices share a rollout")


def test_a_search_on_several_devices_beside_updates_or_rollouts_on_several_is_refused(tmp_path):
    """The encoder is not opened: two programs that each hold a device the other waits for would never end."""
    dense = config.use("dense", model=str(Path(__file__).parent / "fixtures" / "bert"))
    settings = replace(overlapping(tmp_path), retriever=dense)
    beside_updates = replace(settings, mesh=config.Mesh(data=2, devices=4, rollout_devices=2))
    with pytest.raises(ValueError, match=r"retriever=dense searches on \d+ devices beside updates \(train.overlap=1\)"):
        train(beside_updates, tmp_path / "updates", say=silent)
    off = replace(settings, train=replace(settings.train, overlap=0))
    beside_rollouts = replace(off, mesh=config.Mesh(data=2, devices=2, rollout="slots"))
    with pytest.raises(ValueError, match="beside rollouts by 'slots' on several: .* set the retriever's devices=1, or"):
        train(replace(beside_rollouts, retriever=config.use("hybrid", parts=[dense, config.use("bm25")])),
              tmp_path / "rollouts", say=silent)  # fmt: skip
    one = config.use("dense", model=dense.settings["model"], devices=1)
    mesh, agent = meshes.make_mesh(beside_rollouts.mesh), assemble.agent(settings)
    assert runtime._devices(replace(beside_rollouts, retriever=one), agent, mesh).layout == "slots"
