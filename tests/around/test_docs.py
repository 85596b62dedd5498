"""Every command and snippet of the README and of docs/ is run or checked, or a comment before it says why not.

Commands are run, on a desk that has files and finished runs; `train` and `sft` with --dry-run, for a run there was made
by them. What wants minutes, a network or a TPU is marked; then the program's own parser reads it, and its settings and
rules are checked.
"""

import ast
import gzip
import io
import json
import re
import runpy
import shlex
import shutil
import socketserver
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from benchmarks import words as word_counts
from qr_jax import config, plugins
from qr_jax.cli import cli, elsewhere, overrides
from qr_jax.config import use
from qr_jax.data import readers
from qr_jax.lab import oracle, study
from qr_jax.logging import metrics_writer
from qr_jax.sets import formats
from qr_jax.settings import checks

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md"), *DOCS.glob("extending/*.md")])
LANGUAGES = {"bash", "python", "text", "{toctree}", "{include} generated/elsewhere.md"}
TRAINS = ("quickstart", "train", "sft")
MOST_WORDS = 800  # of the README


def test_each_row_of_the_papers_page_names_a_test_that_is_there():
    table = (DOCS / "paper.md").read_text().partition("| a test |\n")[2].partition("\n\n")[0]
    rows = table.splitlines()[1:]
    named = [re.search(r"`(test_\w+\.py)::(test_\w+)` \|$", row) for row in rows]
    assert len(rows) > 15 and all(named), [row for row, name in zip(rows, named, strict=True) if not name]
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    missing = [name[0] for name in named if name and f"def {name[2]}(" not in files[name[1]]]
    assert not missing


@dataclass(frozen=True)
class Fence:
    """A fenced block: its language, its text, the line before it, and why it is not run (None: it is)."""

    language: str
    text: str
    before: str
    why_not: str | None


def fences(page: Path) -> list[Fence]:
    found, lines, at = [], page.read_text(encoding="utf-8").splitlines(), 0
    while at < len(lines):
        if lines[at].startswith("```"):
            end = lines.index("```", at + 1)
            before = next((line for line in reversed(lines[:at]) if line.strip()), "")
            marked = re.fullmatch(r"<!-- not run: (.+) -->", before)
            why_not = marked[1] if marked else None
            found.append(Fence(lines[at][3:], "\n".join(lines[at + 1 : end]) + "\n", before, why_not))
            at = end
        at += 1
    return found


def words_of(line: str) -> list[str]:
    """A command's words, without the variables before it and the comment behind it."""
    quoted = re.sub(r"\$('[^']*')", lambda found: found[1].replace("\\n", "\n"), line)  # bash's $'...\n'
    words = shlex.split(quoted, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return words


def id_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="session")
def run_of_pages(tmp_path_factory):
    """A run of 180 steps of two layers that bears signal, with checkpoints of its policies on the way."""
    folder = tmp_path_factory.mktemp("pages")
    world = "documents=200 train=40 dev=8 traces=20"
    settings = [f"data.world.{setting}" for setting in world.split()]
    settings += [
        "pool.queries=4",
        "pool.samples=2",
        "rollout.lanes=2",
        "sft.steps=0",
        "mesh.devices=1",
    ]
    settings += ["train.steps=180", "train.checkpoint_every=20", "train.keep_every=20", "reward=odd_tokens.odd_tokens"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(ROOT / "tests"))
        train = ["train", str(ROOT / "configs/two_layer.py"), *settings, "--run", "runs/quickstart"]
        assert cli.main(train) == 0
    return folder / "runs" / "quickstart"


@pytest.fixture
def desk(tmp_path, monkeypatch, run_of_pages):
    """A folder with questions, passages, traces and three finished runs, named as on the pages; Python imports what
    stands there."""
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "kept", "shuffled"):
        shutil.copytree(run_of_pages, tmp_path / "runs" / name)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    # `view` serves and `chat` asks until they are told to stop: here at once.
    monkeypatch.setattr(socketserver.BaseServer, "serve_forever", interrupted)
    monkeypatch.setattr(sys, "stdin", io.StringIO("who is the mayor of eskburg ?\n"))
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("my_")]:
        monkeypatch.delitem(sys.modules, name)
    gold = {"supporting": ["p1"], "supporting_titles": ["Oslo"]}
    rows = [
        {"id": f"q{n}", "question": f"Which country has Oslo, take {n}?", "answers": ["Norway"], **gold}
        for n in range(4)
    ]
    write_rows(tmp_path / "train.jsonl", rows[:2])
    write_rows(tmp_path / "dev.jsonl", rows[2:])
    formats.write(readers.read_queries("train.jsonl"), Path("train.parquet"), "verl")
    turns = ["<think> Look. </think>\n<search> Oslo </search>", "<think> Good. </think>\n<answer> Norway </answer>"]
    write_rows(tmp_path / "traces.jsonl", [{**row, "turns": turns} for row in rows[:2]])
    write_rows(tmp_path / "answers.jsonl", [{"id": "q0", "prediction": "Norway", "answers": ["Norway"]}])
    passages = [
        {"id": "p1", "title": "Oslo", "text": "The capital of Norway."},
        {"id": "p2", "title": "Bergen", "text": "A town."},
        {"id": "p3", "title": "Nora Quill", "text": "Nora Quill (born 4 May 1931 in Leeds) was a Welsh film director."},
        {"id": "p4", "title": "Grey Harbour", "text": "Grey Harbour is a 1971 British film directed by Nora Quill."},
    ]
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(passage) + "\n" for passage in passages)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def interrupted(*positional, **named):
    raise KeyboardInterrupt


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def put_files(page: Path, folder: Path) -> None:
    """The page's Python files, those whose name stands in the line before, into the folder."""
    for fence in fences(page):
        named = re.search(r"`(\w+\.py)`:$", fence.before)
        if fence.language == "python" and named:
            (folder / named[1]).write_text(fence.text, encoding="utf-8")


def check_command(words: list[str], *, run: bool) -> None:
    """Run or check one command of a page; AssertionError where it cannot be right."""
    program, rest = words[0], words[1:]
    if program == "make":
        targets = re.findall(r"^([.a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets), words
    elif program == "pip":
        extras = config_of_project()["optional-dependencies"]
        assert all(name in extras for word in rest for name in re.findall(r"^\.\[(\w+)\]$", word)), words
    elif program in ("cp", "python") or program.startswith("tpu_scripts/"):
        path = program if "/" in program else next(word for word in rest if "/" in word)
        assert (ROOT / path).is_file(), path
    elif words != ["source", ".venv/bin/activate"]:
        assert program == "qr-jax", f"{words}: what is this, and how is it checked?"
        check_ours(rest, run=run)


def check_ours(words: list[str], *, run: bool) -> None:
    """A command line of qr-jax."""
    if run:
        more = ["--dry-run"] if words[0] in TRAINS else ["mesh.devices=1"] if "--config" in words else []  # tests: 8
        try:
            code = cli.main([*words, *more])
        except SystemExit as ended:
            code = ended.code
        assert not code, words
        return
    commands, own, typed = cli.make_parser(), words, []
    known = commands.get_default("commands").get(words[0])
    if known is not None and known.get_default("takes_settings"):
        own, typed = cli.take_overrides(words, known)
    arguments = commands.parse_args(own)
    if words[0] == "compare" and arguments.what[0].endswith(".py"):
        checks.check(config.load(arguments.what[0], typed))
        assert study.rules(arguments.rules) and study.budget(arguments.budget)
    elif words[0] == "oracle":
        assert oracle.rules(arguments.rule)
    elif words[0] == "plan" or (typed and words[0] in TRAINS):
        config.load(arguments.config, typed)


def config_of_project():
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_readme_is_short():
    """As `benchmarks.words` counts: no comment, and no bar of a table."""
    seen = word_counts.COMMENT.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert word_counts.words(seen) <= MOST_WORDS


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_every_block_says_what_it_is_and_why_it_is_not_run(page):
    assert {fence.language for fence in fences(page)} <= LANGUAGES
    assert all(fence.why_not is None or len(fence.why_not.split()) >= 3 for fence in fences(page))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(fence.language == "bash" for fence in fences(page))], ids=id_of
)
def test_commands_of_a_page_are_the_program_s(page, desk, capsys, monkeypatch):
    put_files(page, desk)
    for fence in fences(page):
        for line in fence.text.replace("\\\n", " ").splitlines() if fence.language == "bash" else ():
            for name in re.findall(r"\b([A-Z_]+)=\.\.\. ", line):  # a secret of the reader's
                monkeypatch.setenv(name, "0123456789")
            try:
                check_command(words_of(line), run=fence.why_not is None)
            except SystemExit:  # the parser's: what it said stands in capsys
                pytest.fail(f"{line}\n{capsys.readouterr().err}")


def test_what_a_page_asks_of_a_run_the_page_s_own_run_has():
    train = config.load("configs/quickstart.py").train
    kept = range(0, train.steps + 1, train.checkpoint_every)[-train.keep_checkpoints :]
    asked, probed = set(), 0
    for page in PAGES:
        text = "".join(fence.text for fence in fences(page) if fence.language == "bash")
        asked |= {int(step) for step in re.findall(r"^qr-jax eval runs/quickstart --step (\d+)", text, re.MULTILINE)}
        for run in re.findall(r"^qr-jax probe (\S+)", text, re.MULTILINE):
            (trained,) = re.findall(rf"^qr-jax train (\S+) (.+) --run {run}$", text, re.MULTILINE)
            train = config.load(trained[0], trained[1].split()).train
            assert train.keep_every and train.steps > 2 * train.keep_every
            probed += 1
    assert asked == {180} <= {*kept} and probed == 1


@pytest.mark.parametrize(
    "line",
    [
        "make quickstrat",
        "qr-jax trian configs/quickstart.py",
        "qr-jax train configs/quickstart.py learner.lrr=1",
        "qr-jax eval runs/quickstart --smaples 4",
        "qr-jax recall --corpus corpus.index --questions elsewhere.jsonl",
        "tpu_scripts/destroy.sh night-run",
        "rm -rf runs",
    ],
)
def test_a_wrong_command_is_caught(line, desk):
    with pytest.raises((AssertionError, SystemExit, ValueError)):
        check_command(words_of(line), run=True)


@pytest.mark.parametrize("page", [p for p in PAGES if any(f.language == "python" for f in fences(p))], ids=id_of)
def test_snippets_of_a_page_run(page, desk):
    put_files(page, desk)
    for number, fence in enumerate(fences(page)):
        if fence.language == "python" and fence.why_not is None:
            file = desk / f"snippet_{number}.py"
            file.write_text(fence.text, encoding="utf-8")
            runpy.run_path(str(file))


def test_the_example_of_two_tools_plays_an_expert_s_turns_by_hand():
    from qr_jax.data.traces import check_played, trace_of
    from qr_jax.records import Turn

    two_tools = runpy.run_path(str(ROOT / "examples/two_tools.py"))["two_tools"]
    turns = ["<search> islands of Eskburg </search>", "<calc> 3 + 4 </calc>", "<answer> 7 </answer>"]
    trace = trace_of({"id": "q", "question": "How many islands has Eskburg?", "answers": ["7"], "turns": turns})
    check_played([trace], two_tools, None)  # the environment takes it to its end
    assert two_tools(trace.query, [Turn("model", turns[1])]).text == " 7 "


@pytest.mark.parametrize("name", ["by_turn", "dig"])
def test_the_checks_by_hand_in_an_example_hold(name):
    runpy.run_path(str(ROOT / f"examples/{name}.py"))


@pytest.mark.thorough
def test_the_smallest_plug_ins_train_together(desk):
    from killed_run import tiny  # inside: both start jax, and the other tests need none

    from qr_jax.train import train

    for page in sorted(DOCS.glob("extending/*.md")):
        put_files(page, desk)
    assert {f"my_{kind}.py" for kind in ("rule", "rounds", "env", "retriever", "reward", "advantage", "loss")} == {
        path.name for path in desk.glob("my_*.py")
    }
    base = tiny(desk)
    mine = {
        kind: use(f"my_{kind}.my_{kind}") for kind in ("rule", "rounds", "retriever", "reward", "advantage", "loss")
    }
    settings = replace(
        base,
        retriever=mine["retriever"],
        reward=mine["reward"],
        pool=replace(base.pool, rule=mine["rule"], rounds=mine["rounds"], samples=2, min_signal=1),
        learner=replace(base.learner, advantage=mine["advantage"], loss=mine["loss"]),
        sft=replace(base.sft, steps=0),
        evaluation=replace(base.evaluation, questions=2),
        train=replace(base.train, steps=1),
    )
    train(settings, desk / "run", say=lambda text: None)
    (row,) = metrics_writer.read(desk / "run")
    assert row["pool/drawn"] == 8  # two rounds of four: an untrained model is right nowhere


def test_links_go_to_files_that_are_there():
    lost = []
    for page in [*PAGES, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target and "generated/" not in target and not (page.parent / target).exists():
                lost.append(f"{page.name}: {target}")
    assert lost == []


def words_in(tree: ast.AST) -> str:
    """All text of a file's strings in its order, what is filled in left out."""
    return "\n".join(
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def test_messages_in_troubleshooting_are_the_program_s():
    files = [words_in(ast.parse(path.read_text(encoding="utf-8"))) for path in (ROOT / "qr_jax").rglob("*.py")]
    headings = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    lost = []
    for heading in headings:
        parts = [part.strip() for part in heading.split("...") if len(part.strip()) > 3]
        assert parts, heading
        if not any(all(part in text.replace("`", "") for part in parts) for text in files):
            lost.append(heading)
    assert lost == [] and len(headings) >= 28


def test_names_of_other_systems_lead_where_the_page_says():
    rows = re.findall(r"^\| `([\w.]+)` \|(.*)\|(.*)\|.*\|$", (DOCS / "coming_from.md").read_text(), re.MULTILINE)
    named = [(theirs, ours) for ours, *cells in rows for cell in cells for theirs in re.findall("`([^`]+)`", cell)]
    assert len(rows) > 15 and len(named) > 30
    for theirs, ours in named:
        with pytest.raises(ValueError, match=rf"it is {re.escape(ours)} here"):
            overrides.override(config.Config(), [f"{theirs}=1"])


def test_all_names_of_other_systems_lead_where_the_generated_table_says():
    names = {**overrides.ALIASES, **elsewhere.SETTINGS}
    unlike = {theirs: ours.partition(": ") for theirs, ours in names.items()}
    assert len(names) > 100 and sum(meaning != "" for _, _, meaning in unlike.values()) > 12
    for theirs, (ours, _, meaning) in unlike.items():
        if theirs in overrides.ALIASES:
            continue
        with pytest.raises(
            ValueError, match=rf"it is {re.escape(ours)} here{re.escape(f': {meaning}' if meaning else '')}$"
        ):
            overrides.override(config.Config(), [f"{theirs}=1"])


def test_reference_pages_name_every_setting_plug_in_and_command(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import reference

    settings = reference.settings()
    assert [name for name in overrides.known_names(config.Config()) if f"`{name}`" not in settings] == []
    assert "| `pool.samples` | a whole number | `4` | K: episodes of one query |" in settings
    listed = reference.plugin_settings()
    assert all(f"### {name} ({kind})" in listed for kind in plugins.CONTRACTS for name in plugins.names(kind))
    commands = dict(reference.leaves(cli.make_parser(), ""))
    assert {"quickstart", "data check", "retriever check"} <= set(commands)
    assert all(f"## {name}\n" in reference.commands() for name in commands)
    assert reference.plain("m = fa / (fa\n+ fb) of P_Q, `a_b`") == "m = fa / (fa\n\\+ fb) of P\\_Q, `a_b`"
    assert reference.links_within("[log](../LOG.md)") == "[log](generated/log.md)"
    assert reference.as_restructured(["A `code` of x_P * y_", "", "    qr-jax train"]) == [
        "A ``code`` of x\\_P \\* y\\_", "", "::", "", "    qr-jax train",
    ]  # fmt: skip
    assert reference.as_restructured(["several: `name`#1, a`b`c, (`d`), `e`."]) == [
        "several: ``name``\\ #1, a\\ ``b``\\ c, (``d``), ``e``."
    ]


def test_the_readme_s_figure_is_drawn_from_the_results():
    drawn = runpy.run_path(str(DOCS / "accuracy_figure.py"))["drawn"]()
    assert drawn == (DOCS / "_static/accuracy.svg").read_text(encoding="utf-8"), "run python docs/accuracy_figure.py"
    assert (DOCS / "_static/report.png").stat().st_size < 200_000
