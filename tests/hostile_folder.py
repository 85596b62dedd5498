"""A stranger's run folder, as hostile as can be made, opened by every command that takes one.

    python tests/hostile_folder.py HOME URL [EVERY [TRAP ...]]

HOME is a user's, with secrets and a folder `work`, where the commands run; URL is a server that notes what it is asked.
With EVERY 8, a trap meets every eighth command, the next trap the ones after those.
Prints a line of JSON for each command and trap: exit code, what it said, connections, what crashed, files outside the
run's folder that changed.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from qr_jax import config, trust
from qr_jax.cli import cli
from qr_jax.cli.commands import doctor
from qr_jax.config import Config, use
from qr_jax.lab import launch, null_control, oracle, pass_rates
from qr_jax.records import Passage
from qr_jax.search import bm25_index

SECRET = "a-secret-token"  # in the environment, under several names
KEY = "-----BEGIN KEY-----"  # in the user's files
SCRIPT = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
MORE_OF_A_STEP = {"pool/size": 4, "time/step_s": 1.0, "budget/tokens": 9, "budget/searches": 3}
Trap = Callable[[Path, Path, str], None]  # a run's folder, the user's home, the server's URL
TRAPS: dict[str, Trap] = {}


# ---- what a run holds before a trap is set in it


def settings(home: Path, **changes) -> Config:
    """A config that asks for nothing, whose questions, passages and traces are the user's own key."""
    key = str(home / ".ssh" / "id_rsa")
    plain = Config(data=config.Data(train=key, eval=f"{key}.pub", corpus=key, traces=key), mesh=config.Mesh(devices=1))
    return replace(plain, **{"log": config.Log(tensorboard=False)} | changes)


def write(run: Path, name: str, value: object) -> None:
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def base(run: Path, home: Path) -> None:
    """A finished run of two steps, whose texts are HTML, and an old checkpoint without its commit."""
    run.mkdir()
    write(run, "config.json", config.to_json(settings(home)))
    played = oracle.play(
        oracle.Sampler(queries=2, samples=2, rollouts=16), pass_rates.world("uniform", 4, seed=0), size=4, seed=0
    )
    steps = [row | MORE_OF_A_STEP | {"step": at, "budget/rollouts": 8 * at} for at, row in enumerate(played.rows, 1)]
    write(run, "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in steps))
    draw = {"query": SCRIPT, "verdict": "hard", "accepted": False, "rewards": [0, 0], "index": 0, "successes": 0}
    draws = [draw | {"step": n, "valid": 2, "rewards": [0, 0]} for n in (1, 2)]
    write(run, "ledger.jsonl", "".join(json.dumps(row) + "\n" for row in draws))
    summary = {"steps": 2, "rollouts": 16, "tokens": 9, "searches": 3, "greedy_before": 0.1, "greedy_after": 0.2}
    write(run, "summary.json", summary | {"before": {"exact_match": 0.1}, "after": {"exact_match": 0.2}})
    write(run, "evaluation.json", {"manifest": {"format": 1}, "exact_match": {SCRIPT: 1.0}})
    turn = {"author": "model", "text": SCRIPT, "pieces": [SCRIPT], "logp": [-1.0], "queries": [SCRIPT]}
    episode = {"query": SCRIPT, "sample": 0, "question": SCRIPT, "golds": [SCRIPT], "answer": SCRIPT, "reward": 0}
    episode |= {"verdict": "hard", "accepted": False, "stop": SCRIPT, "fault": None, "advantage": 0, "tokens": 1}
    write(run, "sft/metrics.jsonl", json.dumps({"step": 1, "sft/loss": 0.5, "text": SCRIPT}) + "\n")
    write(run, "episodes/step_000001.jsonl", json.dumps(episode | {"turns": [turn], "context_tokens": 1}) + "\n")
    write(run, "checkpoints/step_00000001/host.json", "{}")


def trap(function: Trap) -> Trap:
    TRAPS[function.__name__] = function
    return function


def asks(name: str, change: Callable[[Path, str], dict]) -> None:
    """A trap that is in the config alone."""

    def put(run: Path, home: Path, url: str) -> None:
        write(run, "config.json", config.to_json(settings(home, **change(home, url))))

    TRAPS[name] = put


# ---- what a config may ask for


def http(url: str) -> dict:
    return {"url": url, "token_env": "HF_TOKEN"}


def shards(url: str) -> tuple:
    return use("http", **http(url)), use("http", **http(url), retries=0)


asks("nothing", lambda home, url: {})
asks("code_env", lambda home, url: {"env": use("evil.env")})
asks("code_retriever", lambda home, url: {"retriever": use("evil.env")})
asks("code_reward", lambda home, url: {"reward": use("evil.env")})
asks("code_rule", lambda home, url: {"pool": config.Pool(rule=use("evil.env"))})
asks("code_rounds", lambda home, url: {"pool": config.Pool(rounds=use("evil.env"))})
asks("code_advantage", lambda home, url: {"learner": config.Learner(advantage=use("evil.env"))})
asks("code_loss", lambda home, url: {"learner": config.Learner(loss=use("evil.env"))})
asks("host_http", lambda home, url: {"retriever": use("http", **http(url))})
asks("host_serper", lambda home, url: {"retriever": use("serper", url=url, key_env="OPENAI_API_KEY")})
asks("host_reranked", lambda home, url: {"retriever": use("reranked", of="bm25", **http(url))})
asks("host_below", lambda home, url: {"retriever": use("cached", of=use("http", **http(url)), cache="x")})
asks("host_parts", lambda home, url: {"retriever": use("hybrid", parts=(use("bm25"), use("http", **http(url))))})
asks("host_shards", lambda home, url: {"retriever": use("sharded", parts=shards(url))})
asks("bucket", lambda home, url: {"train": config.Train(bucket="gs://evil/run")})
asks("bucket_folder", lambda home, url: {"train": config.Train(bucket=str(home / "outside"))})
asks("wandb", lambda home, url: {"log": config.Log(wandb=True)})
asks("cache", lambda home, url: {"retriever": use("cached", of="bm25", cache=str(home / ".bashrc"))})
asks("index", lambda home, url: {"retriever": use("dense", index=str(home / "outside"))})
asks("worlds", lambda home, url: {"data": config.Data(world_path=str(home / "outside"))})
asks("model_path", lambda home, url: {"model": config.Model(name="../../.ssh", tokenizer=str(home / ".ssh/id_rsa"))})
asks("file_url", lambda home, url: {"data": config.Data(*["file:///etc/passwd"] * 4)})
asks("folders", lambda home, url: {"data": config.Data(*[str(home / ".ssh")] * 4)})
asks("tfds", lambda home, url: {"data": config.Data(train=f"tfds:nq@{home}", eval="tfds:../../evil:x", corpus="world")})


asks("set_to_fetch", lambda home, url: {"data": config.Data(eval="tfds:popqa", corpus="tfds:hotpotqa")})


@trap
def a_set_of_its_own(run: Path, home: Path, url: str) -> None:
    """Beside it a pipe in an official file's place."""
    row = {"id": "x", "question": "who?", "answer": "EVIL", "answer_aliases": [], "answerable": True}
    row |= {"question_decomposition": [{"answer": "EVIL"}], "paragraphs": []}
    write(run.with_name("out") / "sets", "musique_ans_v1.0_dev.jsonl", json.dumps(row) + "\n")
    os.mkfifo(gone(run.with_name("out") / "sets" / "train.json"))
    named = {"train": f"tfds:2wiki@{run.parent / 'sets'}", "eval": f"tfds:musique:dev@{run.parent / 'sets'}"}
    write(run, "config.json", config.to_json(settings(home, data=config.Data(**named))))


@trap
def init_in_a_bucket(run: Path, home: Path, url: str) -> None:
    write(run, "config.json", config.to_json(settings(home, train=config.Train(init=str(run / "other")))))
    write(run, "other/config.json", config.to_json(settings(home, train=config.Train(bucket="gs://evil/run"))))


@trap
def escapes_for_a_terminal(run: Path, home: Path, url: str) -> None:
    write(run, "config.json", config.to_json(settings(home, env=use("evil.\x1b]0;owned\x07\x1b[2J"))))


# ---- links, and what is no file

for name in ("config.json", "metrics.jsonl", "ledger.jsonl", "summary.json", "evaluation.json", "report.html"):
    TRAPS[f"link_{name}"] = lambda run, home, url, name=name: link(run / name, home / ".ssh" / "id_rsa")
for name in ("run.lock", "config.json.new", "summary.json.new", "before.json", "probe.json", "report.html.new"):
    TRAPS[f"link_{name}"] = lambda run, home, url, name=name: link(run / name, home / ".bashrc")
for name in ("episodes", "checkpoints", "logs", "eval", "sft", "wandb", "compiled"):
    TRAPS[f"link_{name}"] = lambda run, home, url, name=name: link(run / name, home / "outside")
PIPES = ("config.json", "metrics.jsonl", "summary.json", "before.json", "run.lock", "episodes/step_000001.jsonl")
for name in PIPES:
    TRAPS[f"pipe_{name}"] = lambda run, home, url, name=name: os.mkfifo(gone(run / name))
for name in ("config.json", "metrics.jsonl", "ledger.jsonl", "episodes/step_000001.jsonl"):
    TRAPS[f"huge_{name}"] = lambda run, home, url, name=name: os.truncate(run / name, 2**40)


@trap
def names_that_are_no_text(run: Path, home: Path, url: str) -> None:
    (run / os.fsdecode(b"note_\xff.txt")).write_text(KEY)
    (run / f"{SECRET}.txt").write_text(SECRET)


@trap
def parts_of_another_kind(run: Path, home: Path, url: str) -> None:
    write(run, "config.json", {"train": {"steps": 5}, "evaluation": "x"})
    write(run, "before.json", {"exact_match": 0.25, "questions": 7})


# ---- a corpus that is an index, made by a stranger


def corpus_index(run: Path, home: Path) -> Path:
    """An index beside what the user has allowed; the run's config names it as its corpus."""
    folder = gone(home / ".config" / "theirs")
    passages = [Passage("1", SCRIPT, "Oslo"), Passage("2", SCRIPT, "Dune")]
    bm25_index.write(folder, passages, {"method": "lucene", "k1": 1.5, "b": 0.75, "stopwords": "en"}, {})
    questions = [{"id": str(at), "question": f"Oslo {at}?", "answers": ["Oslo"]} for at in range(8)]
    write(run, "questions.jsonl", "".join(json.dumps(row) + "\n" for row in questions))
    asked = str(run / "questions.jsonl")
    data = config.Data(train=asked, eval=asked, corpus=str(folder), traces=asked, split="sha256")
    write(run, "config.json", config.to_json(settings(home, data=data)))
    return folder


for name in ("manifest.json", "passages.bin", "passages.npy"):
    TRAPS[f"index_pipe_{name}"] = lambda run, home, url, name=name: os.mkfifo(gone(corpus_index(run, home) / name))
    TRAPS[f"index_huge_{name}"] = lambda run, home, url, name=name: os.truncate(corpus_index(run, home) / name, 2**40)
    TRAPS[f"index_deep_{name}"] = lambda run, home, url, name=name: write(corpus_index(run, home), name, "[" * 100_000)


@trap
def dense_index_of_links(run: Path, home: Path, url: str) -> None:
    """The user has allowed the config, which names the folder."""
    vectors = gone(corpus_index(run, home).with_name("vectors"))
    vectors.mkdir()
    for name in (".lock", "pieces.txt", "manifest.json.new"):
        (vectors / name).symlink_to(home / ".bashrc")
    dense = use("dense", model=str(Path(__file__).parent / "fixtures" / "bert"), index=str(vectors))
    named = replace(config.load(run / "config.json"), retriever=dense)
    write(run, "config.json", config.to_json(named))
    trust.remember(named)


def gone(path: Path) -> Path:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return path


def link(path: Path, to: Path) -> None:
    gone(path).symlink_to(to)


# ---- bytes that this program does not write

FILES = ("config.json", "metrics.jsonl", "ledger.jsonl", "summary.json", "evaluation.json", "before.json", "probe.json")
FILES += ("episodes/step_000001.jsonl", "sft/metrics.jsonl", "score.json", "run.lock")
SPOILT = {
    "no_text": b"\xff\xfe\x00\n",
    "deep": b"[" * 100_000 + b"\n",
    "list": b'[["a", {}]]\n',
    "text": b'"a"\n',
    "odd": b'{"step": "a", "pool/drawn": [], "query": {}, "verdict": 7, "accepted": {}, "rewards": "x", "turns": 3, '
    b'"sft/loss": "x", "by_hops": "x"}\n',
    "numbers": b'{"step": 1e999, "pool/drawn": NaN, "pool/size": -1, "query": 1, "verdict": "hard", "accepted": 1, '
    b'"rewards": [1e999], "turns": [], "steps": 99999999999999999999, "exact_match": {"a": 1e400}}\n',
    "empty": b"",
}
for name in FILES:
    for kind, content in SPOILT.items():
        TRAPS[f"{kind}_{name}"] = lambda run, home, url, name=name, content=content: gone(run / name).write_bytes(
            content
        )
    TRAPS[f"folder_{name}"] = lambda run, home, url, name=name: gone(run / name).mkdir()


# ---- one number of a file that is whole otherwise


def put_numbers(run: Path, name: str, **numbers: int) -> None:
    """The file's rows with these numbers."""
    rows = [json.loads(line) | numbers for line in (run / name).read_text(encoding="utf-8").splitlines()]
    write(run, name, "".join(json.dumps(row) + "\n" for row in rows))


NUMBERS = {
    "rollouts": ("metrics.jsonl", {"budget/rollouts": 10**12}),
    "queries": ("metrics.jsonl", {"pool/size": 10**12}),
    "step": ("metrics.jsonl", {"step": 10**18}),
    "right": ("ledger.jsonl", {"successes": 10**18}),
    "valid": ("ledger.jsonl", {"valid": 10**9}),
    "index": ("ledger.jsonl", {"index": 10**12}),
}
for name, (of, numbers) in NUMBERS.items():
    TRAPS[f"large_{name}"] = lambda run, home, url, of=of, numbers=numbers: put_numbers(run, of, **numbers)


@trap
def large_product(run: Path, home: Path, url: str) -> None:
    """Queries and samples that are each allowed."""
    write(run, "config.json", config.to_json(settings(home, pool=config.Pool(samples=1024))))
    put_numbers(run, "metrics.jsonl", **{"pool/size": 4_000_000})


class Pickled:
    def __reduce__(self):
        return (open, (str(Path.home() / "imported"), "w"))


@trap
def pickles(run: Path, home: Path, url: str) -> None:
    place = run / "checkpoints" / "step_00000002"
    place.mkdir(parents=True)
    for name in ("model.bin", "state"):
        (place / name).write_bytes(pickle.dumps(Pickled()))
    (place / "host.json").write_text(json.dumps({"stage": "train", "pool": {"__array__": "a0"}}))
    np.savez(place / "host.npz", allow_pickle=True, a0=np.array([Pickled()], object))
    commit(place)


@trap
def a_manifest_that_leads_out(run: Path, home: Path, url: str) -> None:
    place = run / "checkpoints" / "step_00000002"
    place.mkdir(parents=True)
    commit(place, {"../../../../.ssh/id_rsa": {"bytes": 1, "sha256": "x"}, "/etc/passwd": {"bytes": 1, "sha256": "x"}})


@trap
def a_manifest_of_nothing(run: Path, home: Path, url: str) -> None:
    place = run / "checkpoints" / "step_00000002"
    place.mkdir(parents=True)
    commit(place, {})


def commit(place: Path, files: dict | None = None) -> None:
    if files is None:
        read = {path.name: path.read_bytes() for path in place.iterdir()}
        files = {name: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for name, b in read.items()}
    text = json.dumps({"format": 4, "step": 2, "arrays": {}, "files": files}).encode()
    (place / "manifest.json").write_bytes(text)
    (place / "COMMITTED").write_text(hashlib.sha256(text).hexdigest())


# ---- every command that takes a run's folder or its config

GIVEN = {"RUN": "{run}", "CONFIG": "{run}/config.json", "CONFIG|RUN|SUITE": "{run}", "QUESTION": "who?"}
GIVEN |= {"--hf": "{out}/hf", "--topology": "v5e:2x2"}
TAKES = re.compile(r"\bRUN\b|\bCONFIG\b|\brun's folder\b")
MORE = [
    ["quickstart", "--run", "{run}", "--dry-run"],
    ["train", "{run}/config.json", "env.max_turns=3"],
    ["train", "{run}/config.json", "--dry-run"],
    ["eval", "{run}", "--suite", "qa7", "env.max_turns=3"],
    ["eval", "{out}", "--suite", "qa7", "--config", "{run}/config.json"],
    ["compare", "{run}", "{out}/other"],
    [
        "compare",
        "{run}/config.json",
        "--rules",
        "grpo",
        "--seeds",
        "1",
        "--budget",
        "rollouts=8",
        "--folder",
        "{out}/c",
    ],
    ["report", "{run}", "--out", "{out}/report.html"],
    ["bug-report", "{run}", "--out", "{out}/bug.zip"],
    ["runs", "{out}/.."],
    ["oracle", "--rates", "{run}", "--rollouts", "64", "--seeds", "1", "--accept", "2"],
]


def leaves(parser: argparse.ArgumentParser, *names: str) -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    """Each command, a command's parts among them, with its parser."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield list(names), parser
    for action in below:
        for name, child in action.choices.items():
            yield from leaves(child, *names, name)


def commands() -> list[list[str]]:
    """Every command whose parser says that it takes a run or a config, as its parser says; and MORE."""
    found = []
    for names, parser in leaves(cli.make_parser()):
        words, takes = list(names), False
        one_of = [group._group_actions[0] for group in parser._mutually_exclusive_groups if group.required]
        for action in parser._actions:
            said = f"{action.metavar} {action.help}" if not isinstance(action, argparse._HelpAction) else ""
            takes = takes or bool(TAKES.search(said))
            if not action.option_strings:
                words.append(GIVEN.get(str(action.metavar), "{out}/x"))
            elif action.required or action in one_of:
                words += [action.option_strings[0], GIVEN.get(action.option_strings[0], "{out}/x")]
        if takes and words[0] not in ("quickstart", "oracle"):
            found.append(words)
    return found + MORE


# ---- what happens


def snapshot(home: Path, besides: tuple[Path, ...]) -> dict[str, str]:
    """Every file of the home but those `besides`, by its content's hash."""
    found = {}
    for place, folders, files in os.walk(home):
        folders[:] = [name for name in folders if Path(place) / name not in besides]
        for name in files + folders:
            path = Path(place) / name
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "a folder"
    return found


def watch_connections() -> list[str]:
    """From now on every connection is noted, in the list that comes back."""
    noted: list[str] = []
    connect = socket.socket.connect

    def watched(self, address):
        if self.family != socket.AF_UNIX:
            noted.append(str(address))
        return connect(self, address)

    socket.socket.connect = watched
    look = socket.getaddrinfo

    def looked(host, *more, **named):
        noted.append(f"name {host}")
        return look(host, *more, **named)

    socket.getaddrinfo = looked
    return noted


class NoProcess:
    """In the place of a study's processes, which would be `train` of the same config."""

    returncode, pid = 2, 0

    def __init__(self, *words, **more):
        pass

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        return self.returncode

    def send_signal(self, number):
        pass


def attempt(words: list[str]) -> dict:
    """One command: its exit code, what it said, and its traceback where it has one."""
    said, crashed, code = io.StringIO(), None, None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = cli.main(words)
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            crashed = traceback.format_exc()[-1500:]
    return {"code": code, "said": said.getvalue()[-3000:], "crashed": crashed}


def pairs(every: int = 1) -> list[tuple[str, list[str]]]:
    """Each trap's name with each command; with `every` 8 an eighth of them, in which each trap and each command is."""
    met = commands()
    return [(name, words) for at, name in enumerate(TRAPS) for words in met[at % every :: every]]


def main(home: Path, url: str, every: str = "1", *only: str) -> None:
    doctor.examine = lambda: {}
    null_control.STRANGER_S = 2.0
    launch.subprocess = SimpleNamespace(**vars(subprocess) | {"Popen": NoProcess})
    noted = watch_connections()
    work = home / "work"
    os.chdir(work)
    sys.path.insert(0, str(work))
    run, out = work / "run", work / "out"
    own = home / ".config"  # what the user has allowed, and programs compiled here
    bundle = work / "run.bug_report.zip"  # which the command says that it writes there
    whole = work / "whole"
    base(whole, home)
    os.environ["QR_JAX_DATA"] = str(home / "none")
    before = snapshot(home, (run, out, own))
    for name, words in pairs(int(every)):
        if only and name not in only:
            continue
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole, run)
        shutil.copytree(whole, out / "other")
        TRAPS[name](run, home, url)
        noted.clear()
        began = time.monotonic()
        filled = [word.format(run=run, out=out) for word in words]
        result = attempt(filled)
        written = [path for path in (*out.rglob("*"), run / "report.html", bundle) if path.is_file()]
        leaked = [str(path) for path in written if not path.is_symlink() and leaks(path)]
        bundle.unlink(missing_ok=True)
        after = snapshot(home, (run, out, own))
        changed = sorted({path for path in before | after if before.get(path) != after.get(path)})
        about = {
            "trap": name,
            "command": " ".join(words),
            "seconds": round(time.monotonic() - began, 2),
            "connected": noted[:],
            "changed": changed,
        }
        print(json.dumps(about | result | {"leaked": leaked}), flush=True)


def leaks(path: Path) -> bool:
    """Whether a file that a command wrote holds a secret, or HTML of the run's as it was."""
    import zipfile

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            content = b"".join(packed.read(name) for name in packed.namelist())
        return any(word.encode() in content for word in (SECRET, KEY))
    content = path.read_bytes()
    return any(word.encode() in content for word in (SECRET, KEY)) or (
        path.suffix == ".html" and SCRIPT.encode() in content
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
