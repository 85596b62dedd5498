"""Rounds that ask for further samples, played without a model: counts by hand, their null control, and what is refused.

The worlds have pass rates of 0, 1/2 and 1, so that a group's size follows from its own random numbers.
"""

import hashlib
import json
import sys
from contextlib import closing

import numpy as np
import pytest

from qr_jax import config
from qr_jax.cli import cli
from qr_jax.config import use
from qr_jax.lab import null_control, oracle, pass_rates
from qr_jax.lab.report import page
from qr_jax.logging import metrics_writer
from qr_jax.pool.noise import uniforms

LAB = """
from qr_jax.records import Ask

MAX_GROUP_SIZE = 9


def deepen(pool, so_far, *, queries, samples, most: int = 5, at_once: int = 100, every: bool = False):
    '''Draws `queries`; then `most` samples in all for groups without signal (or every group), `at_once` a round.'''
    if not so_far:
        return Ask(draw=queries)
    last = so_far[-1]
    size_Q = last.grades.valid_QG.sum(axis=1)
    short = ((last.verdict_Q != "signal") | every) & (size_Q < most)
    more = {int(at): min(most - int(size), at_once) for at, size in zip(last.drawn_Q[short], size_Q[short])}
    return Ask(draw=0, more=more) if more else None


def twice(pool, so_far, *, samples):
    '''Draws 2; then further samples of both, together with 1 further query.'''
    more = {} if not so_far else dict.fromkeys(so_far[-1].drawn_Q.tolist(), samples)
    return None if len(so_far) == 2 else Ask(draw=2 - len(so_far), more=more)


def by_turn(pool, so_far):
    return None if so_far and so_far[-1].grades.turn_reward_QGT.mean() else Ask(draw=4)


def rule_by_turn(pool, outcome):
    return pool.weight_P * outcome.grades.turn_valid_QGT.any(), pool.memory


def asks(pool, so_far, *, first: str, then: str = "None"):
    return eval(then if so_far else first)
"""
NOBODY = "an Ask for 1 more samples of query 99, of the "


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """The package oracle_lab with one file, ideas.py, on the import path."""
    (tmp_path / "oracle_lab").mkdir()
    (tmp_path / "oracle_lab" / "__init__.py").write_text("")
    (tmp_path / "oracle_lab" / "ideas.py").write_text(LAB)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("oracle_lab", "oracle_lab.ideas"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def sampler(rounds, rollouts=1, rule="recycle", **settings):
    of = {"queries": 6, "samples": 2, "oversample": 1, "rollouts": rollouts}
    return oracle.Sampler(rule=use(rule), rounds=use(f"oracle_lab.ideas.{rounds}", **settings), **of)


def constant(rate_P):
    return lambda done, drawn_Q, *_: np.asarray(rate_P, float)[drawn_Q]


# --- further samples


def test_undecided_groups_get_further_samples_and_only_real_rollouts_count(lab):
    """Six queries of 2 samples; of 2 groups the two differ, the 4 others get 3 more, and 2 of these then differ."""
    rate_P = np.array([0, 1, 0.5, 0.5, 0.5, 0.5])
    first_PG = uniforms(12, 91, 2, 0).reshape(6, 2) < rate_P[:, None]
    further_PG = np.stack([uniforms(6, 91, 2, 0, sample) for sample in (2, 3, 4)], axis=1) < rate_P[:, None]
    assert first_PG.sum(axis=1).tolist() == [0, 2, 1, 0, 1, 2]
    assert further_PG.sum(axis=1).tolist() == [0, 3, 2, 2, 2, 1]
    run = oracle.play(sampler("deepen"), constant(rate_P), size=6, seed=2)
    draws = zip(run.draws.query_D.tolist(), run.draws.right_D.tolist(), run.draws.valid_D.tolist(), strict=True)
    assert sorted(draws) == [(0, 0, 5), (1, 5, 5), (2, 1, 2), (3, 2, 5), (4, 1, 2), (5, 3, 5)]
    (row,) = run.rows
    names = ("drawn", "rollouts", "signal", "wasted_rollouts", "hard", "easy", "fault")
    assert [row[f"pool/{name}"] for name in names] == [6, 4 * 5 + 2 * 2, 4, 2 * 5, 1, 1, 0]


def test_a_sample_is_one_number_whenever_it_is_asked_for(lab):
    rate_P = np.random.Generator(np.random.Philox(0)).random(40)
    runs = [
        oracle.play(sampler("deepen", 200, every=True, at_once=count), constant(rate_P), size=40, seed=1)
        for count in (1, 2, 100)
    ]
    for run in runs[1:]:
        assert run.draws.query_D.tolist() == runs[0].draws.query_D.tolist()
        assert run.draws.right_D.tolist() == runs[0].draws.right_D.tolist()
        assert (run.draws.valid_D == 5).all()
    for query in range(3):
        alone = oracle.roll(rate_P[[query]], np.array([query]), 40, 2, seed=1, step=0, samples_Q=np.array([5]))
        among = oracle.roll(rate_P[[7, query]], np.array([7, query]), 40, 2, seed=1, step=0, samples_Q=np.array([2, 7]))
        assert alone.reward_QG[0].tolist() == among.reward_QG[1, :5].tolist()
        assert among.valid_QG.tolist() == [[True] * 2 + [False] * 5, [True] * 7]
        plain = oracle.roll(rate_P[[query]], np.array([query]), 40, 2, seed=1, step=0)
        assert alone.reward_QG[0, :2].tolist() == plain.reward_QG[0].tolist()


def test_a_round_may_draw_and_ask_for_more_and_takes_no_setting_that_it_has_not(lab):
    run = oracle.play(sampler("twice"), constant([0.5] * 3), size=3, seed=0)
    assert run.draws.valid_D.tolist() == [4, 4, 2] and run.rows[0]["pool/rollouts"] == 10


def test_the_budget_counts_real_rollouts(lab):
    run = oracle.play(sampler("deepen", 100), constant([0.0] * 6 + [0.5] * 20), size=26, seed=0)
    spent = np.cumsum([row["pool/rollouts"] for row in run.rows])
    assert spent[-2] < 100 <= spent[-1] == run.draws.valid_D.sum()
    before = np.concatenate([[0], spent[:-1]]) / 100
    assert sorted(set(run.draws.done_D.tolist())) == pytest.approx(before.tolist())


def test_draws_of_plain_rounds_are_what_they_were():
    """SHA-256 of drawn queries and right answers, from before there were further samples."""
    known = {"recycle": (32, "eeb079da8b814f3f"), "dapo": (19, "e84ccc2bd80b742d")}
    for rule, (steps, digest) in known.items():
        at = pass_rates.world("improving:0.35,0.35", 200, seed=1)
        run = oracle.play(oracle.sampler(rule, queries=8, rollouts=2000), at, size=200, seed=1)
        columns = np.stack([run.draws.query_D, run.draws.right_D]).astype(np.int64)
        assert (len(run.rows), hashlib.sha256(columns.tobytes()).hexdigest()[:16]) == (steps, digest)


def test_what_moved_is_counted_where_groups_are_of_unequal_size(lab):
    """All are filed as hard at rate 0. Then one half moves to 1/2: each signal group was made by that movement."""

    def rises(done, drawn_Q, *_):
        return np.where((done > 0) & (drawn_Q < 3), 0.5, 0.0)

    of = sampler("deepen", 31)  # 6 queries of 5 samples, and a second step
    run = oracle.play(of, rises, size=6, seed=0)
    assert len(run.rows) == 2 and run.rows[1]["pool/signal"] > 0
    assert run.moved["ex_hard"].tolist() == [0, run.rows[1]["pool/signal"]]
    assert run.moved["ex_easy"].tolist() == [0, 0]
    still = oracle.play(sampler("deepen", 300), constant([0.0, 1.0] * 10 + [0.5] * 40), size=60, seed=0)
    assert not still.moved["ex_hard"].any() and not still.moved["ex_easy"].any()
    assert sum(row["pool/accepted_ex_hard"] + row["pool/accepted_ex_easy"] for row in still.rows) > 0


# --- what is refused


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ("Ask(draw=0)", "None", "an Ask for nothing, which would never end the step"),
        ("Ask(draw=4)", "Ask(draw=0)", "an Ask for nothing, which would never end the step"),
        ("Ask(draw=-1)", "None", "Ask(draw=-1 (int), more="),
        ("Ask(draw=4)", "Ask(draw=0, more={99: 1})", NOBODY),
        ("Ask(draw=4, more={99: 1})", "None", NOBODY),
        ("Ask(draw=100)", "Ask(draw=0, more={0: 0})", "an Ask for 0 more samples of query 0, of the 20 drawn"),
        ("Ask(draw=100)", "Ask(draw=0, more={0: 1.5})", "an Ask for 1.5 more samples of query 0"),
        ("None", "None", "None before the first draw of the step"),
        ("7", "None", "returned 7 (int); wanted Ask(draw=..."),
        ("so_far[-1]", "None", "IndexError on simulated outcomes"),
        ("Ask(draw=4)", "so_far[-1].grades.turn_reward_QGT[0]", "TypeError on simulated outcomes"),
    ],
)
def test_rounds_that_cannot_be_played_are_refused_by_name(lab, first, then, words):
    with pytest.raises(oracle.NotPlayable, match="rounds 'oracle_lab.ideas.asks': ") as refused:
        oracle.play(sampler("asks", 100, first=first, then=then), constant([0.5] * 20), size=20, seed=0)
    assert words in str(refused.value)


def test_a_rule_that_cannot_be_played_is_refused_by_name(lab):
    with pytest.raises(oracle.NotPlayable, match="rule 'oracle_lab.ideas.rule_by_turn': AttributeError on simulated"):
        oracle.play(sampler("deepen", rule="oracle_lab.ideas.rule_by_turn"), constant([0.5] * 20), size=20, seed=0)


# --- the null control of a run


def ran(folder, of, rounds=None, size=200):
    """A run's folder as training leaves it, its steps played by the oracle; `rounds`: those that its config names."""
    run = oracle.play(of, pass_rates.world("beta:0.5,0.5", size, seed=0), size=size, seed=0)
    shape = {"queries": of.queries, "samples": of.samples, "oversample": of.oversample}
    pool = config.Pool(**shape, rounds=use(rounds or of.rounds.name))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_json(config.Config(pool=pool))))
    at = spent = 0
    writer = metrics_writer.Writer(folder, tensorboard=False)
    with closing(writer), (folder / "ledger.jsonl").open("w") as ledger:
        for step, row in enumerate(run.rows, 1):
            spent += row["pool/rollouts"]
            budget = {f"budget/{name}": spent for name in ("rollouts", "tokens", "searches")}
            writer.write(step, row | {"pool/size": size, "time/step_s": 0.5} | budget)
            first, at = at, at + row["pool/drawn"]
            columns = (run.draws.query_D, run.draws.right_D, run.draws.valid_D)
            for query, right, valid in zip(*(column[first:at].tolist() for column in columns), strict=True):
                rewards = [1.0] * right + [0.0] * (valid - right)
                draw = {"step": step, "query": str(query), "index": query, "rewards": rewards, "successes": right}
                verdict = "signal" if 0 < right < valid else "easy" if right else "hard"
                ledger.write(json.dumps(draw | {"valid": valid, "verdict": verdict, "accepted": False}) + "\n")
    return run


def test_a_run_with_ragged_groups_has_a_null_control(lab, tmp_path):
    run = ran(tmp_path / "run", sampler("deepen", 600))
    assert set(run.draws.valid_D.tolist()) == {2, 5}
    _, _, rollouts, draws = pass_rates.read_run(tmp_path / "run")
    assert rollouts == run.draws.valid_D.sum() and draws.valid_D.tolist() == run.draws.valid_D.tolist()
    null = null_control.null_or_reason(tmp_path / "run", seeds=2, points=4, own=True)
    assert null["run"] == null_control.curves(run.rows, 4, rollouts)
    assert null["run"]["rollouts"][-1] == rollouts
    assert null["rollouts"][-1] == rollouts
    means, bands = null["run"]["zero_variance_rate"], null["bands"]["zero_variance_rate"]
    inside = [low <= value <= high for low, value, high in zip(bands["low"], means, bands["high"], strict=True)]
    assert sum(inside) >= 2  # nothing moved in this run
    assert null["summary"]["ex_hard_moved_last"] == {"mean": 0, "low": 0, "high": 0}


@pytest.mark.parametrize("rounds", ["by_turn", "deepen"])
def test_a_report_says_why_there_is_no_null_and_the_command_ends_with_0(lab, tmp_path, capsys, rounds):
    ran(tmp_path / "run", sampler("deepen", 120), f"oracle_lab.ideas.{rounds}")
    assert cli.main(["report", str(tmp_path / "run"), "--trust"]) == 0
    said, shown = capsys.readouterr().err, (tmp_path / "run" / "report.html").read_text()
    words = "no null for rounds 'oracle_lab.ideas.by_turn': AttributeError on simulated outcomes: "
    assert (words in said, words in shown) == (rounds == "by_turn",) * 2
    assert ('"id":"null-ex_hard"' in shown) == (rounds == "deepen")


def test_a_report_says_what_code_its_null_needs(lab, tmp_path):
    ran(tmp_path / "run", sampler("deepen", 120))
    null = null_control.null_or_reason(tmp_path / "run")
    assert null["reason"].startswith("no null control: it is not a run of yours, and would be played by code outside")
    assert null["reason"] in page.write(tmp_path / "run", null=null).read_text()
