"""The fuzzer itself runs: every target takes its valid inputs, and 200 spoilt ones end in the documented way."""

import logging
import threading

import fuzz
import pytest
from fuzz import run
from fuzz_lines import Lines
from fuzz_targets import TARGETS, Target


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.thorough
@pytest.mark.parametrize("name", TARGETS)
def test_a_spoilt_input_is_taken_or_refused_as_documented(name, tmp_path):
    counts = run(TARGETS[name], 200, 0, tmp_path)
    assert counts["failed"] == 0 and counts.total() == 200
    assert counts["accepted"] and (counts["refused"] or not TARGETS[name].refuses)


def test_another_error_is_kept_with_its_input_and_the_command_that_repeats_it(tmp_path, capsys):
    def read(_, files):
        if b"b" not in files["letters"]:
            raise KeyError("no b")

    target = Target("letters", 10, lambda: [{"letters": b"abc"}], read, is_read_from_disk=False)
    counts = run(target, 200, 0, tmp_path)
    said = capsys.readouterr().out
    assert counts["failed"] and said.count("FAILED letters: python tests/fuzz.py letters --seed 0 --at ") == 1
    number = said.partition("--at ")[2].partition(";")[0]
    assert b"b" not in (tmp_path / f"letters-0-{number}" / "letters").read_bytes()
    assert run(target, 1, 0, tmp_path, at=int(number))["failed"] == 1


def test_an_endless_loop_is_a_failure(tmp_path):
    def read(_, files):
        while files["letters"] != b"abc":
            pass

    target = Target("loop", 1, lambda: [{"letters": b"abc"}], read, is_read_from_disk=False)
    assert run(target, 3, 0, tmp_path)["failed"]


def test_lines_that_ran_are_counted_once(tmp_path, monkeypatch):
    (tmp_path / "three_lines.py").write_text("def sign(x):\n    if x < 0:\n        return -1\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import three_lines

    with Lines([three_lines]) as watched:
        three_lines.sign(1)
        assert (watched.reached, watched.total) == (2, 3)
        three_lines.sign(2)
        assert watched.reached == 2
        thread = threading.Thread(target=three_lines.sign, args=(-1,))
        thread.start()
        thread.join()
    assert watched.reached == 3


def test_an_input_of_the_corpus_comes_after_the_valid_ones_and_is_spoilt_too():
    target = Target("letters", 10, lambda: [{"letters": b"abc"}], print, is_read_from_disk=False)
    corpus = fuzz.Corpus(target.corpus(), [{"letters": b"0123456789" * 9}])
    inputs = [fuzz.make_input(target, corpus, 0, number)["letters"] or b"" for number in range(100)]
    assert inputs[:2] == [b"abc", b"0123456789" * 9]
    assert 10 < sum(b"0123456789" in letters for letters in inputs) < 60


def test_a_full_run_goes_on_where_it_ended(tmp_path, monkeypatch):
    tried = []
    target = Target("letters", 10, lambda: [{"letters": b"abc"}], lambda _, files: tried.append(files))
    monkeypatch.setattr(Target, "floor", 50)
    monkeypatch.setattr(fuzz, "STRETCH", 20)
    done = fuzz.full(target, 0, tmp_path)
    assert done["inputs"] == done["counts"]["accepted"] == 50
    tried.clear()
    monkeypatch.setattr(Target, "floor", 60)
    assert fuzz.full(target, 0, tmp_path)["counts"] == {"accepted": 60} and len(tried) == 1 + 10  # a valid one, to warm
