"""What is said: lines that stay, a live line on a terminal, and a word now and then anywhere else."""

import ast
import re
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks/ is not installed

from benchmarks import silence  # noqa: E402
from qr_jax.logging import terminal  # noqa: E402
from qr_jax.parallel import compiles  # noqa: E402

TALK = """
import sys, time
from qr_jax.logging import terminal
terminal.say("first")
with terminal.phase("cold start", 4) as shown:
    for shown.done in range(4):
        time.sleep(0.2)
    terminal.say("between [bold]and[/bold] " + "long " * 30)
    print("another's", file=sys.stderr)
    time.sleep(0.3)
    terminal.result('{"a": [1]}')
print("rich" in sys.modules)
"""


@pytest.fixture(autouse=True)
def _no_phase_is_open_before(monkeypatch):
    """A thread that another test left behind may still be in one."""
    monkeypatch.setattr(terminal._STATE, "phases", [])


@pytest.fixture
def quick(monkeypatch):
    """Off a terminal a phase is told after .1 s."""
    monkeypatch.setattr(terminal, "QUIET_S", 0.1)
    monkeypatch.setattr(terminal, "FIRST_S", 0.1)
    yield
    terminal.speak("stdout")


def test_how_far_a_phase_is_and_how_long_it_takes_by_hand(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    shown = terminal.Phase("cold start", 400, begun_s=100.0)
    now[0] = 130.0
    assert shown.line() == "cold start 0/400  30 s"
    shown.done, shown.note = 100, "loss .845"
    assert shown.line() == "cold start 100/400  loss .845  30 s"  # the first ones compiled: they say nothing
    now[0], shown.done = 140.0, 200
    assert shown.line() == "cold start 200/400  loss .845  40 s  about 20 s left"
    again = terminal.Phase("cold start", 400, done=300, start=300, begun_s=130.0)  # gone on with after 300
    assert again.line() == "cold start 300/400  10 s"
    again.done = 350
    assert again.line() == "cold start 350/400  10 s"
    now[0], again.done = 145.0, 375
    assert again.line() == "cold start 375/400  15 s  about 5 s left"
    now[0] = 140.0
    assert terminal.Phase("evaluating", asked=lambda: (3, 1000), begun_s=139.0).line().startswith("evaluating 3/1,000")
    assert [terminal.clock(seconds) for seconds in (0.4, 59.6, 3599, 7500)] == ["0 s", "1m00s", "59m59s", "2h05m"]


def test_time_left_falls_while_a_slow_one_goes_on_and_never_climbs(monkeypatch):
    """Two of four are done after 40 s; the third takes longer than 20 s, and what comes after it as long as before."""
    now = [140.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    shown = terminal.Phase("evaluating", 4, done=2, begun_s=100.0)
    for now[0], left in ((140.0, "40 s"), (150.0, "30 s"), (160.0, "20 s"), (190.0, "20 s")):
        assert shown.line().endswith(f"  about {left} left")


def test_a_program_that_is_being_compiled_is_named_and_then_no_time_left_is_said():
    shown, lines, before = terminal.Phase("evaluating", 8, done=4), [], compiles.count()

    def begun(event, value, **more):
        if event == compiles.EVENT:
            lines.append(shown.line())

    def doubled(x):
        return 2 * x

    jax.monitoring.register_scalar_listener(begun)
    try:
        jax.jit(doubled)(np.arange(3))
    finally:
        jax.monitoring.unregister_scalar_listener(begun)
    (line,) = lines
    assert re.fullmatch(r"evaluating 4/8  compiling doubled  \d+ s", line)
    assert compiles.told(before).startswith("doubled 1 in ")
    assert re.fullmatch(r"evaluating 4/8  \d+ s  about \d+ s left", shown.line())


def test_compiling_has_its_time_left_while_it_compiles(monkeypatch):
    monkeypatch.setattr(terminal.time, "monotonic", lambda: 110.0)
    monkeypatch.setattr(terminal._STATE, "beside", lambda: "compiling decode")
    for what, left in (("compiling", "  about 10 s left"), ("cold start", "")):
        shown = terminal.Phase(what, 4, done=2, note="decoding", begun_s=100.0)
        assert shown.line() == f"{what} 2/4  decoding  10 s{left}"


def test_off_a_terminal_a_phase_is_silent_until_nothing_was_said_for_a_while(quick, capsys):
    terminal.speak("stdout")
    with terminal.phase("outer"):
        assert capsys.readouterr().out == ""
        with terminal.phase("inner", 3):
            time.sleep(0.25)
        for _ in range(6):
            terminal.say("a step")
            time.sleep(0.03)
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line != "a step"] == ["inner 0/3  0 s"] * said.index("a step") and "a step" in said
    time.sleep(0.2)
    assert capsys.readouterr().out == ""  # nothing goes on


def test_off_a_terminal_the_first_word_comes_early_and_a_command_that_is_soon_done_says_its_result_alone(
    monkeypatch, capsys
):
    monkeypatch.setattr(terminal, "FIRST_S", 0.5)
    terminal.speak("stdout")
    with terminal.phase("qr-jax doctor"):
        time.sleep(0.05)
    terminal.result("{}")
    assert capsys.readouterr().out == "{}\n"
    with terminal.phase("qr-jax report"):
        time.sleep(1.2)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("qr-jax report  ")


def test_a_process_that_is_to_be_silent_says_nothing_but_its_result(quick, capsys):
    terminal.speak(None)
    with terminal.phase("outer"):
        terminal.say("a step")
        time.sleep(0.2)
    terminal.result("{}")
    assert capsys.readouterr().out == "{}\n"


def test_nothing_that_is_said_steers_a_terminal(capsys):
    hostile = "a\x1b]0;owned\x07\x1b[2J\r\x9b2Jb\tc\nd ü 好"
    terminal.say(hostile)
    terminal.result(hostile)
    shown = "a\\x1b]0;owned\\x07\\x1b[2J\\r\\x9b2Jb\tc\nd ü 好\n"
    assert capsys.readouterr().out == shown * 2
    assert terminal.Phase("a\x1b[2J").line().startswith("a\\x1b[2J")


def test_others_are_hushed_and_what_is_said_meanwhile_is_not(quick, capsys):
    """While TFDS writes a world, what it prints is dropped, and a phase goes on to say so."""
    with terminal.phase("writing"), terminal.hushed():
        print("dropped")
        time.sleep(0.25)
    terminal.say("after")
    said = capsys.readouterr().out.splitlines()
    assert set(said) == {"writing  0 s", "after"} and said[-1] == "after"


def test_items_are_the_same_and_a_loop_that_is_left_ends_its_phase():
    assert list(terminal.progress(iter("abc"), 3, "letters")) == list("abc")
    for _ in terminal.progress("abc", 3, "letters"):
        break
    assert terminal._STATE.phases == []


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_one_line_lives_under_what_stays_and_the_result_stands_alone(columns, tmp_path):
    (tmp_path / "talk.py").write_text(TALK)
    code, said = silence.transcript([sys.executable, str(tmp_path / "talk.py")], columns)
    text = "".join(part for _, part in said)
    assert code == 0 and "cold start 3/4" in text and "left" in text
    assert screen(text) == ["first", "between [bold]and[/bold] " + "long " * 30, "another's", '{"a": [1]}', "True"]
    assert text.count("\x1b[?25h") >= text.count("\x1b[?25l")  # whoever is killed leaves a cursor


def screen(text: str) -> list[str]:
    """What is left to read: of each line what came after its last clearing."""
    lines = []
    for line in text.split("\r\n"):
        if line.startswith("\x1b[?25h\r\x1b[1A"):  # up, to clear what stood there
            lines.pop()
        kept = silence.CONTROL.sub(lambda found: found[0] if found[0].isspace() else "", line.rpartition("\x1b[2K")[2])
        lines.append(kept.replace("\r", ""))
    return [line for line in lines if line]


def test_in_a_pipe_lines_are_all_there_is(tmp_path):
    (tmp_path / "talk.py").write_text(TALK.replace('"rich" in', '"rich.live" in'))
    code, said = silence.transcript([sys.executable, str(tmp_path / "talk.py")], None)
    text = "".join(part for _, part in said).replace("\r\n", "\n")
    long = "between [bold]and[/bold] " + "long " * 30
    assert code == 0 and text == f'first\n{long}\nanother\'s\n{{"a": [1]}}\nFalse\n'


def test_a_silence_is_measured_from_enter_to_the_end_and_control_codes_are_no_word():
    said = [(0.5, "\x1b[?25l\r\n"), (1.5, "a"), (2.0, "\x1b[2K"), (4.5, "b\n"), (5.0, "")]
    assert silence.figures(said) == {"first_word_s": 1.5, "longest_silence_s": 3.0, "seconds": 5.0}


def test_nothing_but_the_terminal_prints_but_for_errors_of_the_last_moment():
    """Threads that end the process, hosts that wait for one another, and the planners' pipes print by themselves."""
    printing = set()
    for path in (ROOT / "qr_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            prints = isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
            if prints and "file=sys.stderr" not in ast.unparse(node):
                printing.add(path.relative_to(ROOT / "qr_jax").as_posix())
    assert printing == {"logging/terminal.py", "lab/planning/planned.py"}
