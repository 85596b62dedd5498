"""The fuzzer itself runs: every target takes its valid inputs, and 200 spoilt ones end in the documented way."""

import logging

import pytest
from fuzz import run
from fuzz_targets import TARGETS, Target


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


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
