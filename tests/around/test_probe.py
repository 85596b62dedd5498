"""The causal probe: its estimators by hand, what it finds where pass rates are known, and a whole one on a tiny run."""

import json
import shutil
from dataclasses import replace
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from killed_run import tiny

from qr_jax.cli import cli
from qr_jax.config import Config, Train
from qr_jax.lab import probe
from qr_jax.lab.probe_figures import (
    POLICIES,
    RESAMPLES,
    choose,
    choose_again,
    drawn_again,
    interval,
    nearest,
    recycled,
    signal_chance,
    summarise,
)
from qr_jax.lab.report import page, read
from qr_jax.logging import metrics_writer
from qr_jax.run import runs
from qr_jax.settings import checks
from qr_jax.train import train

K = 4


def draw(step, index, verdict, accepted=False, successes=0, valid=K):
    return {
        "step": step, "index": index, "verdict": verdict, "accepted": accepted, "successes": successes, "valid": valid
    }  # fmt: skip


def test_signal_chance_by_hand():
    assert signal_chance([1, 1, 0, 0], 2) == pytest.approx(2 / 3)  # of 6 pairs one is all right and one all wrong
    assert signal_chance([1, 0, 0, 0], 4) == 1 and signal_chance([0, 0, 0, 0], 2) == 0
    assert signal_chance([0.0, 0.5, 1.0], 2) == 1  # graded rewards: any two differ


@given(p=st.floats(0, 1), n=st.integers(4, 12))
def test_signal_chance_has_no_bias(p, n):
    """Its mean over s ~ Binomial(n, p) is 1 - p^K - (1 - p)^K."""
    weights = [comb(n, s) * p**s * (1 - p) ** (n - s) for s in range(n + 1)]
    mean = sum(weight * signal_chance([1] * s + [0] * (n - s), K) for s, weight in enumerate(weights))
    assert mean == pytest.approx(1 - p**K - (1 - p) ** K, abs=1e-9)


def test_a_flipped_query_is_filed_at_the_last_zero_variance_verdict_before_its_first_acceptance_after_such():
    draws = [
        draw(1, 0, "hard"),
        draw(1, 1, "easy", successes=4),
        draw(1, 2, "hard"),
        draw(1, 3, "signal", accepted=True, successes=2),
        draw(2, 0, "fault", valid=1),
        draw(2, 2, "signal", successes=1),  # surplus
        draw(3, 0, "signal", accepted=True, successes=1),
        draw(3, 1, "easy", successes=3, valid=3),
        draw(4, 1, "signal", accepted=True, successes=3),
        draw(4, 2, "signal", accepted=True, successes=3),
        draw(5, 0, "hard"),
        draw(6, 0, "signal", accepted=True, successes=3),
        draw(6, 3, "easy", successes=4),
        draw(7, 3, "signal", successes=2),  # surplus, then a fault
        draw(8, 3, "fault", valid=1),
        draw(9, 3, "signal", accepted=True, successes=2),
    ]
    filed, never = recycled(draws, 6)
    assert [(one.index, one.arm, one.filed, one.accepted, one.verdict_pass) for one in filed] == [
        (0, "hard", 1, 3, 0.0),  # a fault is no verdict, and a second acceptance does not count
        (1, "easy", 3, 4, 1.0),
        (2, "hard", 1, 4, 0.0),  # surplus signal between the two is no matter
        (3, "easy", 6, 9, 1.0),  # accepted before its first zero-variance verdict, which is no flip
    ]
    assert never == [4, 5]


def test_each_draw_after_a_zero_variance_verdict_counts_whatever_it_showed():
    draws = [
        draw(1, 0, "hard"), draw(1, 1, "easy", successes=4), draw(1, 2, "signal", successes=1),
        draw(2, 0, "fault", valid=1), draw(2, 1, "signal", successes=3),  # surplus
        draw(3, 0, "hard"), draw(3, 2, "hard"),
        draw(4, 0, "signal", accepted=True, successes=2), draw(5, 0, "easy", successes=4),
    ]  # fmt: skip
    again = [(one.index, one.arm, one.filed, one.accepted, one.signal) for one in drawn_again(draws)]
    assert again == [
        (1, "again_easy", 1, 2, True),
        (0, "again_hard", 1, 3, False),  # a fault is no verdict
        (0, "again_hard", 3, 4, True),
    ]


def test_a_draw_that_was_played_ahead_is_of_the_policy_before():
    draws = [draw(3, 0, "hard"), draw(5, 0, "signal", accepted=True, successes=1)]
    (one,), _ = recycled([each | {"lag": 1} for each in draws], 1)
    assert one.policies == {"filing": 1, "accepting": 3} and recycled(draws, 1)[0][0].policies["filing"] == 2


def test_of_draws_again_a_sample_is_chosen_that_knows_nothing_of_what_they_showed():
    draws = [draw(1, at, "hard") for at in range(400)]
    draws += [draw(2, at, "signal" if at % 4 == 0 else "hard", successes=at % 4 == 0) for at in range(400)]
    again = drawn_again(draws)
    picked = choose_again(again, 100, seed=0)
    assert len(picked) == 100 and picked == choose_again(again, 100, seed=0) != choose_again(again, 100, seed=1)
    assert 0.12 < np.mean([one.signal for one in picked]) < 0.38


def replicated(shift, *, seed=0, count=4000, samples=16):
    """Rows of queries filed hard under p and drawn again under p moved by `shift`; and the true share by movement."""
    random = np.random.default_rng(seed)
    p = np.where(random.random(60_000) < 1 / 3, 0.0, random.beta(0.6, 0.6, 60_000))
    p = p[random.binomial(K, p) == 0][:count]
    moved = p * np.exp(shift) / (1 - p + p * np.exp(shift))
    rows = [{"arm": "again_hard", "verdict_pass": 0.0, "signal": 0 < s < K} for s in random.binomial(K, moved)]
    for policy, rates in zip(POLICIES, (p, moved, moved), strict=True):
        for row, s in zip(rows, random.binomial(samples, rates).tolist(), strict=True):
            row[policy] = {"passed": s / samples, "signal": signal_chance([1] * s + [0] * (samples - s), K)}
    signal, signal_moved = ((1 - rates**K - (1 - rates) ** K).mean() for rates in (p, moved))
    return rows, 1 - signal / signal_moved


@pytest.mark.thorough
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_draws_again_tell_luck_from_movement_where_first_draws_cannot(shift):
    """A third of the pool is impossible, and four samples do not say so; asking the filing policy again does."""
    rows, truth = replicated(shift)
    found = summarise(rows, "again_hard", len(rows), seed=0)
    share = found["to_accepting"]["movement_share"]
    assert share["low"] <= truth <= share["high"] and share["high"] - share["low"] < 0.15
    assert found["drawn_signal"] == pytest.approx(found["signal"]["accepting"], abs=0.02)


def test_queries_are_chosen_by_keyed_numbers_and_fresh_ones_borrow_steps():
    draws = [draw(1 + at % 3, at, "hard") for at in range(20)]
    draws += [draw(5 + at % 3, at, "signal", accepted=True, successes=1) for at in range(20)]
    filed, never = recycled(draws, 30)
    picked = choose(filed, never, 8, seed=0)
    assert [one.arm for one in picked] == ["hard"] * 8 + ["fresh"] * 8
    assert picked == choose(filed[::-1], never[::-1], 8, seed=0) != choose(filed, never, 8, seed=1)
    assert {one.filed for one in picked[8:]} == {one.filed for one in picked[:8]}
    assert len({one.index for one in picked}) == 16
    assert len(choose(filed, never, 64, seed=0)) == 30


def test_the_checkpoint_at_or_before_a_policy_stands_for_it_and_a_later_one_where_there_is_none():
    assert [nearest([4, 8, 12], policy) for policy in (2, 4, 7, 8, 20)] == [4, 4, 4, 8, 12]


def test_an_interval_keeps_a_query_s_policies_together():
    change = interval(np.array([[0.0, 0.5], [0.5, 1.0], [0.2, 0.7]]), lambda mean_V: mean_V[..., 1] - mean_V[..., 0], 0)
    assert change == pytest.approx({"mean": 0.5, "low": 0.5, "high": 0.5})  # unpaired it would be wide
    assert interval(np.array([[0.0, 0.5]]), lambda mean_V: mean_V[..., 1], 0) == {
        "mean": 0.5,
        "low": None,
        "high": None,
    }
    value_QV = np.arange(101)[:, None] / 100
    found = interval(value_QV, lambda mean_V: mean_V[..., 0], 0)
    error = 1.96 * value_QV.std() / np.sqrt(101)
    assert (found["low"], found["high"]) == pytest.approx((0.5 - error, 0.5 + error), abs=0.15 * error)
    assert RESAMPLES >= 1000


def simulated(shift, *, seed=0, count=20_000, samples=16):
    """Rows of queries filed hard under p and accepted under p moved by `shift` of log-odds; and the true figures."""
    random = np.random.default_rng(seed)
    p = random.beta(0.35, 0.35, count)
    moved = p * np.exp(shift) / (1 - p + p * np.exp(shift))
    successes = random.binomial(K, moved)
    kept = np.flatnonzero((random.binomial(K, p) == 0) & (successes > 0) & (successes < K))[:800]
    p, moved = p[kept], moved[kept]
    rows = [{"arm": "hard", "verdict_pass": 0.0} for _ in kept]
    for policy, rates in zip(POLICIES, (p, moved, moved), strict=True):
        for row, s in zip(rows, random.binomial(samples, rates).tolist(), strict=True):
            row[policy] = {"passed": s / samples, "signal": signal_chance([1] * s + [0] * (samples - s), K)}
    signal, signal_moved = ((1 - rates**K - (1 - rates) ** K).mean() for rates in (p, moved))
    return rows, (moved - p).mean(), 1 - signal / signal_moved


def test_a_policy_that_never_moves_shows_no_movement_although_its_verdicts_do():
    rows, _, _ = simulated(0.0)
    found = summarise(rows, "hard", len(rows), seed=0)
    assert found["verdict_pass"] == 0 and found["passed"]["filing"] > 0.15  # filed as hopeless, and is not
    accepting = found["to_accepting"]
    assert accepting["pass_change"]["low"] < 0 < accepting["pass_change"]["high"]
    assert accepting["movement_share"]["low"] < 0 < accepting["movement_share"]["high"]
    assert accepting["chance_share"]["mean"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("shift", [2.0, -2.0])
def test_movement_is_recovered_where_pass_rates_move(shift):
    rows, change, movement = simulated(shift)
    found = summarise(rows, "hard", len(rows), seed=0)["to_accepting"]
    assert abs(change) > 0.1
    assert found["pass_change"]["low"] < change < found["pass_change"]["high"]
    assert found["movement_share"]["low"] < movement < found["movement_share"]["high"]
    assert found["movement_share"]["mean"] == pytest.approx(1 - found["chance_share"]["mean"])


def test_an_arm_without_whole_queries_says_only_how_many():
    rows = [{"arm": "easy", **dict.fromkeys(POLICIES, {"passed": None, "signal": None})}]
    assert summarise(rows, "easy", 3, seed=0) == {"candidates": 3, "queries": 0, "left_out": 1}


def test_kept_checkpoints_must_be_among_those_that_are_saved():
    found = checks.problems(Config(train=Train(checkpoint_every=10, keep_every=15)))
    assert found == [
        "train.keep_every=15 keeps only what is saved, every train.checkpoint_every=10 steps; wanted a multiple of that"
    ]
    assert checks.problems(Config(train=Train(checkpoint_every=10, keep_every=20))) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose policy never moves, of five steps; every second checkpoint stays."""
    folder = tmp_path_factory.mktemp("probed")
    settings = tiny(folder)
    settings = replace(
        settings,
        data=replace(settings.data, train_limit=24),
        pool=replace(settings.pool, oversample=2, samples=2, min_signal=1),
        learner=replace(settings.learner, lr=1e-30),
        evaluation=replace(settings.evaluation, questions=1),
        train=replace(settings.train, checkpoint_every=1, keep_checkpoints=1, keep_every=2),
    )
    train(settings, folder / "run", say=lambda text: None)
    return folder / "run"


def test_checkpoints_of_every_so_many_steps_stay_besides_the_newest(run):
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        f"step_{step:08d}" for step in (0, 2, 4, 5)
    ]


def test_a_probe_by_other_answers_than_those_that_were_trained_on_is_refused(run, monkeypatch):
    of_run = probe.assemble.questions

    def others(settings, part):
        return [replace(query, answers=("Oslo",)) for query in of_run(settings, part)]

    monkeypatch.setattr(probe.assemble, "questions", others)
    with pytest.raises(ValueError, match="data.train is not what the run began with: answers differ in"):
        probe.probe(run, queries=6, samples=6, say=lambda text: None)


def test_a_probe_whose_retriever_is_away_ends_with_that_and_writes_nothing(run, monkeypatch):
    agent = probe.assemble.agent(runs.load(run))
    rolled_out = agent.engine.run

    def away(*arguments, **more):  # this policy, which learned nothing, does not search
        groups = rolled_out(*arguments, **more)
        agent.engine.statistics = replace(agent.engine.statistics, searches_sent=3, searches_failed=2)
        return [[replace(one, fault="connection refused") for one in group] for group in groups]

    monkeypatch.setattr(agent.engine, "run", away)
    monkeypatch.setattr(probe.assemble, "agent", lambda settings: agent)
    with pytest.raises(ValueError, match="2 of 3 searches failed; the first: connection refused; nothing was written"):
        probe.probe(run, queries=6, samples=6, say=lambda text: None)
    assert not (run / probe.FILE).exists()


def test_equal_policies_answer_the_same_questions_alike(run):
    told = []
    found = probe.probe(run, queries=6, samples=6, say=told.append)
    assert told and found["checkpoints"] == [0, 2, 4, 5] and found["step"] == 5
    candidates = sum(found["arms"][arm]["candidates"] for arm in ("hard", "easy"))
    assert candidates == metrics_writer.read(run)[-1]["pool/flipped_queries"] > 0
    recycled_rows = [row for row in found["queries"] if row["arm"] != "fresh"]
    assert recycled_rows and any(row["filing"]["signal"] > 0 for row in found["queries"])
    for row in found["queries"]:
        assert row["filing"]["step"] + row["filing"]["distance"] == row["filed"] - 1
        assert row["filing"]["distance"] in (0, 1) and row["current"]["step"] == 5
        figures = [{name: row[policy][name] for name in ("valid", "passed", "signal")} for policy in POLICIES]
        assert figures[0] == figures[1] == figures[2]
    assert found["arms"]["hard"]["to_current"]["chance_share"]["mean"] == 1
    assert json.loads((run / "probe.json").read_text()) == found
    table = probe.format_table(found)
    assert "drawn again after hard" in table and "+0.000 [+0.000, +0.000]" in table and "not seen" in table
    facts = {fact["label"]: fact for fact in page.overview(read.run(run), {})["facts"]}
    assert facts["Movement after hard"]["value"] == ".000" and "at step 5" in facts["Movement after hard"]["beside"]


def test_the_command_prints_json_and_refuses_what_it_cannot_say(run, tmp_path, capsys):
    words = ["probe", str(run), "--trust", "--queries", "2"]
    assert cli.main([*words, "--samples", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 2 and {row["arm"] for row in found["queries"]} >= {"hard"}
    with pytest.raises(ValueError, match="samples=1 hold no group of pool.samples=2"):
        probe.probe(run, samples=1)
    shutil.copytree(run, tmp_path / "few")
    for step in (0, 2):
        shutil.rmtree(tmp_path / "few" / "checkpoints" / f"step_{step:08d}")
    with pytest.raises(
        ValueError, match=r"no checkpoint lies between the two draws.*of steps 4, 5\).*train.keep_every"
    ):
        probe.probe(tmp_path / "few")  # as the quickstart keeps them: the last two
    shutil.copytree(run, tmp_path / "run")
    for step in (0, 2, 4):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step_{step:08d}")
    with pytest.raises(ValueError, match=r"has 1 checkpoint \(step 5\).*at least 2.*train.keep_every"):
        probe.probe(tmp_path / "run")
