"""NFKC as Python has it, and no row of combining marks that costs its square."""

import time
import unicodedata

import pytest

from qr_jax.characters import MARKS, nfkc
from qr_jax.dialect import neutralise
from qr_jax.records import Passage
from qr_jax.retrieval import bm25_build
from qr_jax.rollout.tools import shortened

GRAVE, BELOW = "\u0300", "\u0316"  # the second stands before the first in a normalised text


def test_it_is_pythons_where_no_row_of_marks_is_long():
    every = map(chr, range(0x20, 0x30000))
    starters = "".join(one for one in every if not unicodedata.combining(unicodedata.normalize("NFKD", one)[0]))
    assert nfkc(starters) == unicodedata.normalize("NFKC", starters)
    marked = f"a{GRAVE * (MARKS // 2)}{BELOW * (MARKS // 2)}b"
    assert nfkc(marked) == unicodedata.normalize("NFKC", marked)
    assert nfkc("ascii \ufb03") == "ascii ffi"


def test_a_longer_row_is_broken_and_stays_as_it_is_then():
    once = nfkc(f"x{GRAVE * 100}")
    assert once.count("\u034f") == 3 and once.count(GRAVE) == 100
    assert nfkc(once) == once


MANY = 40_000


@pytest.mark.parametrize("pair", [(GRAVE, BELOW), ("\uff9e", GRAVE), ("\u0f73", GRAVE), ("\u0344", BELOW)])
@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize(
    "read",
    [nfkc, neutralise, bm25_build.words, lambda text: shortened(Passage("1", "", text), MANY)],
    ids=["nfkc", "neutralise", "words", "shortened"],
)
def test_forty_thousand_marks_take_no_time(read, pair, mixed):
    """By insertion they took 4 s and more, on the main thread of a rollout, outside every deadline."""
    first, second = pair
    text = "a" + (pair[1] + pair[0]) * (MANY // 2) if mixed else "a" + first * (MANY // 2) + second * (MANY // 2)
    read("\u00e9\u0301")
    began = time.process_time()
    read(text)
    assert time.process_time() - began < 0.5
