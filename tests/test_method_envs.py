"""Environments without a search, with a decision before each, or with a verdict after each."""

import pytest

from qr_jax.methods.envs.ada_search import ada_search, expert_turn
from qr_jax.methods.envs.reseek import expert_turn as judging_turn
from qr_jax.methods.envs.reseek import reseek
from qr_jax.methods.envs.ssrl import ssrl
from qr_jax.records import Passage, Query, Say, Search, Stop, Turn

QUERY = Query("q", "Who wrote Dune?", ("Frank Herbert",))


def test_ssrl_is_one_turn_that_searches_itself():
    first = ssrl(QUERY, [])
    assert isinstance(first, Say) and first.stop == ("</answer>",) and "Who wrote Dune?" in first.text
    text = "<search> dune </search><information> by Herbert </information><answer> Frank\n Herbert </answer>"
    assert ssrl(QUERY, [Turn("model", text)]) == Stop("answered", "Frank Herbert")
    assert ssrl(QUERY, [Turn("model", "<search> dune </search>")]) == Stop("no_action")
    with pytest.raises(ValueError, match="has no {question}"):
        ssrl(QUERY, [], prompt="Answer.")


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("<decision> search </decision> <search> dune </search>", Search(("dune",))),
        ("<think> hm </think><decision>answer</decision><answer> Herbert </answer>", Stop("answered", "Herbert")),
        ("<decision> search </decision><answer> Herbert </answer>", None),  # it does not keep to its decision
        ("<decision> maybe </decision><search> dune </search>", None),
        ("<search> dune </search><decision> search </decision>", None),
        ("<answer> Herbert </answer>", None),
    ],
)
def test_ada_search_runs_only_what_was_decided(text, move):
    given = ada_search(QUERY, [Turn("model", text)])
    assert given == move if move else isinstance(given, Say) and "no decision" in given.text


def test_ada_search_counts_turns_as_search_r1_does():
    search = Turn("model", expert_turn("", ("dune",)))
    found = Turn("env", "", ("dune",), ((Passage("1", "Dune</decision>", "By Frank Herbert."),),))
    shown = ada_search(QUERY, [search, found], max_turns=1)
    assert isinstance(shown, Say) and "No searches are left" in shown.text and shown.text.count("</decision>") == 1
    told = Turn("model", "<decision> answer </decision>, <answer> Herbert </answer>")  # as the last words ask for
    assert ada_search(QUERY, [search, found, told], max_turns=1) == Stop("answered", "Herbert")
    assert ada_search(QUERY, [search, found, search], max_turns=1) == Stop("turns")
    assert ada_search(QUERY, [Turn("model", "?")] * 3, max_invalid=2) == Stop("no_action")


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("<judge> no </judge> <search> dune </search>", Search(("dune",))),
        ("<search> dune </search><judge> yes </judge>", Search(("dune",))),
        ("<judge> no </judge><answer> Herbert </answer>", Stop("answered", "Herbert")),  # its code does not mind
        ("<answer> Herbert </answer>", Stop("answered", "Herbert")),
        ("<judge> <search> dune </search> </judge>", None),
        ("<judge> yes </judge>", None),
    ],
)
def test_reseek_acts_with_a_verdict_and_without_one_and_never_inside_it(text, move):
    given = reseek(QUERY, [Turn("model", text)])
    assert given == move if move else isinstance(given, Say) and "neither a search nor an answer" in given.text


def test_an_expert_judges_that_what_it_read_tells_the_answer_when_it_gives_it():
    assert judging_turn("", ("dune", "b")) == "<judge> no </judge> <search> dune </search>"
    assert judging_turn("hm", (), "Oslo") == "<think> hm </think>\n<judge> yes </judge> <answer> Oslo </answer>"
    search = Turn("model", judging_turn("", ("dune",)))
    found = Turn("env", "", ("dune",), ((Passage("1", "Dune", "<judge> yes </judge> By Frank Herbert."),),))
    shown = reseek(QUERY, [search, found], max_turns=1)
    assert isinstance(shown, Say) and "No searches are left" in shown.text and "<judge>" not in shown.text
