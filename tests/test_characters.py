"""NFKC as Python has it, and no row of combining marks that costs its square."""

import time
import unicodedata

import pytest

from qr_jax import answers
from qr_jax.data.characters import MARKS, nfc, nfkc, spread
from qr_jax.dialect import neutralise
from qr_jax.records import Passage
from qr_jax.rollout.tools import shortened
from qr_jax.search.words import words

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
    [nfkc, nfc, answers.normalise, answers.fold, neutralise, words, lambda t: shortened(Passage("1", "", t), MANY)],
    ids=["nfkc", "nfc", "normalise", "fold", "neutralise", "words", "shortened"],
)
def test_forty_thousand_marks_take_no_time(read, pair, mixed):
    """By insertion they took 4 s and more, on the main thread of a rollout, outside every deadline."""
    first, second = pair
    text = "a" + (pair[1] + pair[0]) * (MANY // 2) if mixed else "a" + first * (MANY // 2) + second * (MANY // 2)
    read("\u00e9\u0301")
    began = time.process_time()
    read(text)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("हिन्दी की किताब", "हिन्दी की किताब"),  # Hindi was cut at its vowel signs
        ("தமிழ் மொழி", "தமிழ் மொழி"),
        ("x\u0304 y", "x\u0304 y"),
        ("שָׁלוֹם", "שָׁלוֹם"),
        ("中国の猫", "中 中国 国 国の の の猫 猫"),
        ("猫 2008年", "猫 2008 年"),
        ("データ", "デ デー ー ータ タ"),
        ("ﾃﾞｰﾀ", "デ デー ー ータ タ"),  # of half width
        ("ภาษาไทย", "ภ ภา า าษ ษ ษา า าไ ไ ไท ท ทย ย"),
        ("ภาษา\u200bไทย", "ภ ภา า าษ ษ ษา า ไ ไท ท ทย ย"),  # a blank that is not seen
        ("ភាសាខ្មែរ", "ភា ភាសា សា សាខ្ ខ្ ខ្មែ មែ មែរ រ"),
        ("ພາສາ", "ພ ພາ າ າສ ສ ສາ າ"),
        ("ဘာသာ", "ဘာ ဘာသာ သာ"),
        ("한국어의 수도", "한국어의 수도"),
        ("\u1112\u1161\u11ab", "한"),
        ("می\u200cخواهم co\u00adop", "میخواهم coop"),
        ("C++, C# or C?", "c++ c# or c"),
        ("Ｃ＋＋ 'C++' C++17 f#", "c++ c++ c++ 17 f#"),
        ("A + B # C+ Notepad++", "a b c+ notepad++"),
        ("libc++, libc; GTK+ (Disney+).", "libc++ libc gtk+ disney+"),
        ("libc++abi a+b item#5 1+1= 18+ x_+", "libc++ abi a b item 5 1 1 18 x_"),
        ("F♯ minor, F# and f♯m; B♭ or Objective-C++", "f# minor f# and f# m b♭ or objective c++"),
        ("Na⁺ O'C+ की+ Цвет# Ｇ＋＋", "na+ o c+ की+ цвет# g++"),
        ("don't O'Brien's X_y 3.14", "don o brien x_y 3 14"),
    ],
)
def test_words_of_many_scripts_by_hand(text, found):
    assert words(text) == found.split()


def test_each_character_of_a_script_without_blanks_stands_alone_when_spread():
    assert spread("2008年 in 中国, ภา").split() == ["2008", "年", "in", "中", "国", ",", "ภ", "า"]
    assert spread("plain") == "plain"


def test_forms_that_are_canonically_equal_become_one():
    assert nfc("Beyonce\u0301") == nfc("Beyoncé") == "Beyoncé" and nfc("ﬁ１") == "ﬁ１"
    assert nfc("\u1109\u1165") == "서" and nfc("e\u0300\u0316") == nfc("e\u0316\u0300")
