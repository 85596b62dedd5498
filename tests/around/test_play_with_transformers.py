"""An exported agent's episode by docs/play_with_transformers.py: the turns and the answer that `qr-jax ask` gives.

Its Python has torch, which ours has not: `make test-peers` makes it, and runs this file.
"""

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from killed_run import tiny
from test_retrieval_server import serving

sys.path.insert(0, str(Path(__file__).resolve().parents[1].parent))  # for benchmarks/

from benchmarks.interleave import PEER_PYTHON
from qr_jax import assemble, config
from qr_jax.cli import cli
from qr_jax.config import use
from qr_jax.lab import exporting
from qr_jax.models import hf
from qr_jax.train import train

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "play_with_transformers.py"
MOST_LINES = 31  # of the script, beside its docstring and its imports
EXAMPLES = """\
Question: Where is Bergen?
<search> Bergen </search>
<information>Bergen is a town in Norway.</information>
<answer> Norway </answer>
Question: Who wrote Emma?
<search> Emma </search>
<information>Emma is a novel by Jane Austen.</information>
<answer> Jane Austen </answer>
Question: {question}
"""
PASSAGES = [
    {"id": "1", "title": "Dune (novel)", "text": "Dune is a novel by Frank Herbert. </information> It is long."},
    {"id": "2", "title": "Dune", "text": "A dune is a hill of sand. " + "The wind moves it. " * 20},
    {"id": "3", "title": "Oslo", "text": "Oslo is the capital of Norway."},
]


def peers(*words: str, folder: Path) -> str:
    """What the peers' Python prints."""
    done = subprocess.run([str(PEER_PYTHON), *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def asked(words: list[str], capsys) -> dict:
    capsys.readouterr()
    assert cli.main(["ask", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def played(folder: Path, question: str, settings) -> list[dict]:
    """The rounds that the script prints, its searches answered by our server."""
    with serving(assemble.searcher(settings)) as (_, url):
        printed = peers(str(SCRIPT), str(folder), question, f"{url}/retrieve", folder=folder)
    return [json.loads(line) for line in printed.splitlines()]


def compare(ours: dict, rounds: list[dict], strip: str = "") -> None:
    """The same text of all turns, but for what the tokenizer puts at a turn's end, and the same answer."""
    turns = [turn for each in rounds[1:] for turn in (("env", each["env"]), ("model", each["model"]))]
    turns.insert(0, ("model", rounds[0]["model"]))
    assert [(turn["author"], turn["text"].rstrip(strip) if strip else turn["text"]) for turn in ours["turns"]] == [
        (author, text.rstrip(strip) if strip else text) for author, text in turns
    ]
    assert ours["answer"] == (rounds[-1]["words"] if rounds[-1]["act"] == "answer" else None)


def test_the_script_is_short_and_needs_transformers_and_torch_alone():
    text = SCRIPT.read_text(encoding="utf-8")
    tree = ast.parse(text).body
    imports = [node for node in tree if isinstance(node, ast.Import | ast.ImportFrom)]
    taken = {line for node in (tree[0], *imports) for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    left = [line for at, line in enumerate(text.splitlines(), 1) if line.strip() and at not in taken]
    assert len(left) <= MOST_LINES
    names = {(node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}
    rooms = {name.partition(".")[0] for name in names}
    assert rooms - set(sys.stdlib_module_names) == {"torch", "transformers"}


@pytest.mark.peers
@pytest.mark.parametrize("begun", ["", "<think> "])
def test_a_tiny_agent_plays_the_same_episode(begun, tmp_path, capsys):
    """Also one whose first turn begins in a thought."""
    settings = tiny(tmp_path)
    settings = replace(settings, env=use("search_r1", prompt=f"{{question}} {begun}"))
    settings = replace(
        settings, reward=use("f1"), sft=replace(settings.sft, steps=60, lr=1e-2), train=replace(settings.train, steps=1)
    )
    train(settings, tmp_path / "run", say=lambda text: None)
    assert cli.main(["export", str(tmp_path / "run"), "--hf", str(tmp_path / "hf"), "--dtype", "float32"]) == 0
    question = assemble.questions(settings, "eval")[1].question
    ours = asked([str(tmp_path / "run"), question], capsys)
    assert any(turn["queries"] for turn in ours["turns"]) and ours["answer"] is not None
    compare(ours, played(tmp_path / "hf", question, settings), strip=" ")  # each word of ours has a blank after it


@pytest.mark.peers
@pytest.mark.parametrize("template", [True, False])
def test_smollm2_plays_the_same_episode(template, tmp_path, capsys):
    """With its chat template it ends each message without an act; without one it goes on as the examples do."""
    try:
        hf.resolve("smollm2")
    except ValueError as error:
        pytest.skip(str(error))
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PASSAGES))
    settings = config.Config(
        model=config.Model("smollm2"),
        data=config.Data(corpus=str(tmp_path / "corpus.jsonl")),
        env=use("search_r1", max_turns=1, max_invalid=1, prompt=EXAMPLES),
        rollout=config.Rollout(slots=1, store=1, context_tokens=512, turn_tokens=32, observation_tokens=80, search_k=2),
        mesh=config.Mesh(devices=1),
    )
    agent, folder = assemble.agent(settings), tmp_path / "hf"
    exporting.write(folder, settings, agent, agent.weights(), None)
    if not template:
        (folder / "chat_template.jinja").unlink()
        bare = assemble.agent(replace(settings, model=config.Model(str(folder))))
        (folder / "agent.json").write_text(json.dumps(exporting.describe(settings, bare.engine.chat)))
    said = json.dumps(config.to_json(settings))
    file = tmp_path / "asked.py"
    file.write_text(f"import json\nfrom qr_jax.config import from_json\nconfig = from_json(json.loads({said!r}))\n")
    question = "Who wrote Dune?"
    ours = asked([str(folder), question, "--config", str(file)], capsys)
    assert len(ours["turns"]) >= 3 and any(turn["queries"] for turn in ours["turns"]) == (not template)
    compare(ours, played(folder, question, settings))
