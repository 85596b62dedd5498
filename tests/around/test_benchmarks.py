"""The benchmarks' own arithmetic: turns taken in order, medians, ratios by pair, equal loads on all sides."""

import json
import platform
import re
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from test_compare import played

ROOT = Path(__file__).resolve().parents[1].parent
sys.path.insert(0, str(ROOT))

from benchmarks import (  # noqa: E402
    channels,
    cold_starts,
    figures,
    guards,
    int8_hand_over,
    interleave,
    kept_runs,
    methods,
    paper_table,
    pool,
    real_agent,
    recycling_map,
    retrieval,
    rollout,
    single_hop,
    stand_ins,
    study,
    study_results,
    tpu,
)
from benchmarks.peers import episodes, load  # noqa: E402
from qr_jax import config  # noqa: E402
from qr_jax.config import Guards  # noqa: E402
from qr_jax.lab import oracle, pass_rates  # noqa: E402
from qr_jax.records import Episode, Passage, Query, Turn  # noqa: E402

WORKER = """
import sys
from functools import partial
sys.path.insert(0, {root!r})
from benchmarks import interleave

print("what a library prints goes elsewhere")

def sample(round, rate):
    if rate < 0:
        raise ValueError("a rate below 0")
    return {{"round": round, "tokens_a_s": rate * (round + 1)}}

interleave.serve({{"sample": sample, "versions": interleave.versions}})
"""


@pytest.fixture
def workers(tmp_path, monkeypatch):
    (tmp_path / "speaks.py").write_text(WORKER.format(root=str(ROOT)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = [interleave.Worker(interleave.Contender(name, "speaks")) for name in ("ours", "theirs")]
    yield made
    for worker in made:
        worker.close()


def test_contenders_answer_in_turn_and_ratios_are_by_pair(workers):
    samples = interleave.interleave(workers, 3, {"rate": 2.0}, own={"ours": {"rate": 5.0}})
    assert [one["tokens_a_s"] for one in samples["ours"]] == [5.0, 10.0, 15.0]
    assert [one["round"] for one in samples["theirs"]] == [0, 1, 2]
    found = interleave.ratio(samples["ours"], samples["theirs"], "tokens_a_s")
    assert found == {"ratio": 2.5, "pairs": [2.5, 2.5, 2.5], "pairs_min": 2.5, "pairs_max": 2.5}


def test_a_ratio_is_the_medians_and_not_the_middle_pairs():
    ours, theirs = ([{"rate": rate} for rate in rates] for rates in ((4.0, 6.0, 10.0), (4.0, 1.0, 2.0)))
    found = interleave.ratio(ours, theirs, "rate")
    assert found == {"ratio": 3.0, "pairs": [1.0, 6.0, 5.0], "pairs_min": 1.0, "pairs_max": 6.0}


def test_a_contender_that_fails_ends_the_program_with_its_words(workers):
    with pytest.raises(SystemExit, match="contender ours failed at 'sample': ValueError: a rate below 0"):
        interleave.interleave(workers, 1, {"rate": -1.0})


def test_results_name_the_commit_and_the_machine_but_not_its_name(workers, tmp_path):
    file = interleave.results("some", {"ratio": 2.0}, workers, folder=tmp_path)
    found = json.loads(file.read_text())
    assert found["ratio"] == 2.0 and found["machine"]["cores"] >= 1 and "numpy" in found["packages"]["ours"]
    assert {"commit", "dirty"} <= set(found) and platform.node() not in json.dumps(found["machine"])


def test_absent_peers_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(interleave, "PEER_PYTHON", tmp_path / "python")
    with pytest.raises(SystemExit, match="make bench-peers.*--no-peers"):
        interleave.peer("tunix", "benchmarks.peers.tunix_rollout")


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((1, 4096, 151936), True), ((4096, 151936), True), ((65536, 151936), True),
        ((2048, 151936), True), ((1, 1024, 151936), True), ((4096, 9496), True), ((1, 4096, 152064), True),
        ((1, 4096, 8192), False), ((2, 4096, 8192), False), ((28, 4096, 2048), False), ((4096, 6144), False),
        ((151936, 2048), False), ((151936, 128), False), ((128, 151936), False), ((151936,), False),
    ],
)  # fmt: skip
def test_more_logits_than_a_block_are_seen(shape, found):
    """Qwen3-1.7B on 16 chips: half rows, a vocabulary that is padded or dealt; not blocks, and not the head."""
    assert tpu.holds_a_row(shape, vocab=151936, width=2048, chips=16, block=8192) == found


def test_what_a_benchmark_does_not_read_it_does_not_offer(capsys):
    for module in (pool, retrieval):
        with pytest.raises(SystemExit):
            module.arguments(["--no-peers"])
        assert "--no-peers" in capsys.readouterr().err
    assert rollout.arguments(["--no-peers"]).no_peers


def test_shares_by_hand():
    sample = {"decode_tokens_a_s": 60.0, "tokens_a_s": 50.0, "bandwidth_bound_tokens_a_s": 100.0}
    found = rollout.shares([{**sample, "arithmetic_bound_tokens_a_s": 80.0}])
    assert found == {
        "share_of_bandwidth_bound": 0.6, "share_of_bandwidth_bound_whole_run": 0.5, "share_of_arithmetic_bound": 0.75,
    }  # fmt: skip


def test_prompts_and_observations_have_exactly_their_tokens():
    query = Query("q", "Which river flows through Oslo?", ("Akerselva",))
    assert len(load.prompt(query).split()) == load.PROMPT_TOKENS
    for words in (1, 500):
        found = [Passage("p", "Oslo", "word " * words)]
        assert len(load.observation(found).split()) == load.OBSERVATION_TOKENS
    assert len(load.observation([]).split()) == load.OBSERVATION_TOKENS


def test_mixed_batches_are_uniform_in_length_and_the_same_for_the_same_seed():
    lengths = [len(ids) for seed in range(40) for ids in episodes.batch("mixed", seed).ids]
    assert min(lengths) >= episodes.SHORTEST and max(lengths) <= episodes.LONGEST
    assert abs(np.mean(lengths) - 128) < 5  # the mean of 640 draws has a standard error of 1.5
    dense = episodes.batch("dense", 3)
    assert dense.tokens == 16 * 192 and all(map(np.array_equal, dense.ids, episodes.batch("dense", 3).ids))
    assert (dense.ids[0][:32] == dense.ids[3][:32]).all() and (dense.ids[0][:32] != dense.ids[4][:32]).any()


@pytest.mark.parametrize("name", figures.PAGES)
def test_the_pages_say_what_the_results_say(name):
    page = figures.page(name).read_text(encoding="utf-8")
    assert figures.written(name) == page, "run python -m benchmarks.figures --write"


@pytest.mark.parametrize("model", ["", "4b_"])
@pytest.mark.parametrize("pod", ["v5e_16", "v5e_64", "v5p_16", "v6e_16"])
def test_the_paper_s_pods_were_planned_and_fit(model, pod):
    found = figures.result("plans")[model + pod]
    assert found["answer"]["fits"] and found["exit_status"] == 0


def test_the_plans_of_the_lengths_of_the_paper_s_agent_are_those_that_are_kept():
    page = " ".join(figures.page("plans").read_text(encoding="utf-8").replace("\\\n", " ").split())
    usual = figures.result("plans")["v5e_16"]["answer"]
    refused, fits = figures.result("plan_lengths")

    def row(lengths, step_s, steps, chips, peak, more=""):
        hours = step_s * steps / 3600
        told = f"{hours:,.1f} h" if hours < 10 else f"{hours:,.0f} h"
        return f"| {lengths} | {peak / 2**30:.1f} GiB{more} | {told}, {hours * chips:,.0f} chip-hours |"

    first = usual["seconds"]["step"], usual["steps"], usual["chips"], usual["peak_bytes_per_chip"]
    assert row("4,096, 512 | 64, 32", *first) in page
    assert not refused["fits"] and refused["exit_status"] == 1 and "decode needs" in refused["reason"]
    gib = refused["peak_bytes_per_chip"] / 2**30
    assert f"| 32,768, 10,000 | 64, 32 | refused: decoding needs {gib:.1f} GiB | - |" in page
    last = fits["step_s"], fits["steps"], fits["chips"], fits["peak_bytes_per_chip"]
    assert fits["largest_phase"] == "train" and row("32,768, 10,000 | 4, 2", *last, ", in training") in page
    assert fits["command"].removesuffix(" --no-search") in page  # an option of that time
    assert fits["command"].replace(" rollout.slots=4 rollout.store=2", "") == refused["command"]


def test_falls_and_alarms_are_counted_by_hand():
    quiet = {name: [1.0] * 30 for name in ("entropy", "grad_norm", "reward", "searches", "answered")}
    falls = [0.5, 0.8, 0.7, 0.78, 0.74, 0.2, 0.1]  # .7 is made up for; .74, then .2 are not
    sparse = [value for one in falls for value in (None, one)]
    assert guards.fell(sparse) == 12 and guards.fell([0.5, 0.6, 0.58]) == 3
    runs = {
        "fell": {"best": 0.8, "final": 0.1, "series": quiet | {"probe": sparse}},
        "late": {"best": 0.8, "final": 0.1, "series": quiet | {"probe": [0.8] * 5 + [0.74] * 14 + [0.1] * 2}},
        "well": {"best": 0.8, "final": 0.75, "series": quiet | {"probe": [0.8, 0.7, 0.7, 0.8]}},
    }
    assert guards.alarm_steps(runs["fell"]["series"], Guards()) == {"probe": [14]}
    assert guards.alarm_steps(runs["late"]["series"], Guards()) == {"probe": [21]}
    early = [0.8, 0.7, 0.7, 0.8, *[0.8] * 20, 0.5, 0.5]  # an alarm at step 3 is no catch of a fall at step 26
    runs["early"] = {"best": 0.8, "final": 0.5, "series": {name: [1.0] * 26 for name in quiet} | {"probe": early}}
    table = guards.table(runs, Guards())
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert ["probe", "2", "1", "1", "1: well"] in rows and ["entropy", "0", "0", "0", "0"] in rows
    assert ["guard", "of 3 falls: in time", "late", "falsely before", "of 1 others"] in rows
    assert "- early: fell by step 26; probe at 3 and 26" in table


@pytest.mark.thorough
def test_the_paper_s_table_by_hand(tmp_path):
    right = {"grpo": ([1, 1, 0, 0], [1, 0, 0, 0]), "recycle": ([1, 1, 1, 0], [1, 1, 0, 0])}
    runs = [played(tmp_path / f"{rule}{s}", rule=rule, seed=s, right=right[rule][s]) for rule in right for s in (0, 1)]
    text = paper_table.tables(reversed(runs), null_seeds=2)  # grpo comes first however they are given
    lines = text.splitlines()
    assert lines[0].startswith("**") and "K 4, k 1** (2,560 rollouts a run)" in lines[0]
    grpo, recycle = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[-2:])
    # .5 and .25: sd .1768, 12.706 x .1768 / sqrt(2) = 1.588
    assert grpo[:4] == ["grpo", "2", "0.375 +- 1.588", ""]
    assert recycle[:4] == ["recycle", "2", "0.625 +- 1.588", "+0.250 [-0.240, +0.740]"]
    assert all("(" in cell for cell in recycle[4:])
    with pytest.raises(ValueError, match="has 0 scores of suites; wanted one a suite: make one with qr-jax eval"):
        paper_table.tables(runs, suite=True)
    for run, f1 in zip(runs, (0.2, 0.4, 0.5, 0.9), strict=True):
        (run / "eval/qa7").mkdir(parents=True)
        macro = {"scores": {"em": {"mean": f1 / 2}, "f1": {"mean": f1}}}
        score = {"suite": "qa7", "manifest": {"split": "eval"}, "macro": macro}
        score["sets"] = {"nq": {"questions": 2, "asked": 3}, "popqa": {"asked": 3}}
        (run / "eval/qa7/score.json").write_text(json.dumps(score))
        if run != runs[3]:
            (run / "eval/other").mkdir()
            (run / "eval/other/score.json").write_text(
                json.dumps(score | {"suite": "web", "manifest": {"split": "all"}})
            )
    both = paper_table.tables(runs, suite=True, null_seeds=2)
    lines = both.splitlines()
    assert both.count("; the suite qa7, 2 of 6 questions)") == both.count("; the suite web, 2 of 6 questions)") == 1
    assert f"No score of the suite web: {runs[3]}\n" in both
    recycle = [cell.strip() for cell in lines[-1].split("|")[1:-1]]
    assert recycle[:4] == ["recycle", "2", "0.350 +- 1.271", "0.700 +- 2.541"]
    assert recycle[4] == "+0.200 +- 0.635"  # .15 and .25: sd .0707, 12.706 x .0707 / sqrt(2)
    (runs[0] / "eval/other/score.json").write_text(json.dumps(score))
    with pytest.raises(ValueError, match="has 2 scores of suites: .*; wanted one a suite"):
        paper_table.tables(runs, suite=True)


def test_the_paper_s_rows_are_whole_and_a_user_s_stand_under_them_by_the_same_figure(capsys):
    for name, (*values, mean, error) in paper_table.PAPER.items():
        assert abs(sum(values) / 7 - mean) < 0.06, f"{name}: the mean of its sets is another"
        assert 0.1 < error < 0.5
    paper_table.main([])
    assert "| paper: 4B + recycling | 3,197 | 79.1 | 84.0 |" in capsys.readouterr().out
    judged, exact = {"mean": 0.5, "run_error": 0.0021}, {"mean": 0.25, "run_error": None}
    one = {"questions": 3, "asked": 3, "scores": {"pass_at_1_judge": judged}}
    sets = {name: one for name in paper_table.SETS if name != "nq"}
    mine = {
        "suite": "paper",
        "macro": {"scores": {"pass_at_1_exact_match": exact, "pass_at_1_judge": judged}},
        "sets": sets,
    }
    plain = {"suite": "qa7", "macro": {"scores": {"pass_at_1_exact_match": exact}}, "sets": {}}
    *_, first, second = paper_table.beside_paper([("mine", mine), ("other", plain)]).split("\n\n")[0].splitlines()
    assert first == "| mine | 18 | 50.0 | 50.0 | 50.0 | 50.0 | - | 50.0 | 50.0 | 50.0 +- 0.21 of 6 sets |"
    assert second.startswith("| other (exact match, which the paper's figures are not) | 0 | -")
    with pytest.raises(ValueError, match="greedy has no Pass@1"):
        paper_table.beside_paper([("greedy", {"suite": "web", "macro": {"scores": {}}, "sets": {}})])


def test_a_score_of_web_stands_under_the_paper_s_three_sets_and_one_of_the_seven_under_those():
    score = {"mean": 0.5, "run_error": 0.01}
    macro = {"scores": {"pass_at_1_judge": score}}
    of = {
        name: {"questions": count, "asked": 3, "scores": {"pass_at_1_judge": score}}
        for name, count in (("gaia", 3), ("hle", 2), ("webwalkerqa", 3))
    }
    web = {"suite": "web", "macro": macro, "sets": of}
    seven = {"suite": "paper", "macro": macro, "sets": {"nq": of["gaia"]}}
    first, second = paper_table.beside_paper([("mine", web), ("mine", seven)]).split("\n\n")
    assert first.endswith("| mine | 3 | - | - | - | - | 50.0 | - | - | 50.0 +- 1.00 of 1 sets |")
    assert second.splitlines()[0] == "| Pass@1 in percent | questions | GAIA | HLE | WebWalkerQA | mean |"
    assert second.splitlines()[2:] == [
        "| paper: 1.7B | - | 21.4 | 8.0 | 35.4 | - |",  # no mean of these is published
        "| paper: 4B | - | 24.8 | 10.4 | 36.3 | - |",
        "| mine | 8 of 9 | 50.0 | 50.0 | 50.0 | 50.0 +- 1.00 |",
    ]
    assert paper_table.beside_paper([]).count("paper: ") == len(paper_table.PAPER) + len(paper_table.PAPER_WEB)


def test_the_plan_that_is_too_large_was_refused_for_its_slots():
    found = figures.result("plans")["v5e_16_too_large"]
    assert found["exit_status"] == 1 and not found["answer"]["fits"]
    assert "lower rollout.slots" in found["answer"]["reason"]


@pytest.mark.parametrize(("shift", "jump"), [(2, 0), (1, 2)])
def test_a_runs_shift_and_jump_are_found_again_from_its_draws(shift, jump):
    sampler = oracle.sampler("grpo", queries=8, samples=8, oversample=1, rollouts=6_000)
    world = pass_rates.world(f"memorising:1,1,{shift},{jump}", 100, seed=0)
    fit = recycling_map.shift_and_jump(100, oracle.play(sampler, world, size=100, seed=0).draws)
    assert fit["shift"] == pytest.approx(shift, abs=3 * fit["shift_se"])
    assert fit["jump"] == pytest.approx(jump, abs=max(3 * fit["jump_se"], 0.15 * jump))
    assert fit["passes"] == 7.56  # the step that reaches the budget is finished


def test_the_map_says_where_recycling_finds_more_as_its_page_does():
    kept = json.loads(recycling_map.FILE.read_text())
    points = recycling_map.with_ratios(kept["points"], ("shape", "shift", "jump", "per_query"))
    assert len(points) == 900 and len({tuple(point[part] for part in recycling_map.PLACE) for point in points}) == 900
    won = [point for point in points if any(point["same"][arm] > 1 for arm in recycling_map.RECYCLING)]
    assert won and all(point["jump"] >= 2 and point["per_query"] >= 2 * point["samples"] for point in won)
    assert "half coins" not in {point["shape"] for point in won}
    assert all(point["same"]["recycle"] < 1 for point in recycling_map.with_ratios(kept["paper"], ("model",)))


def test_draws_that_never_return_to_a_trained_query_have_no_jump():
    sampler = oracle.sampler("recycle", queries=8, samples=4, oversample=1, rollouts=600)
    played = oracle.play(sampler, pass_rates.world("uniform", 100, seed=0), size=100, seed=0)
    with pytest.raises(ValueError, match="nothing to tell a jump from"):
        recycling_map.shift_and_jump(100, played.draws)


def kept_run(seed, *scores, before=0.4, budget=30_000):
    """A run of the study's file, evaluated at equal stretches of its budget."""
    evaluations = [[budget * (at + 1) // len(scores), score] for at, score in enumerate(scores)]
    found = {"seed": seed, "before": before, "rollouts": budget, "evaluations": evaluations}
    return found | {"best": max(scores), "final": scores[-1], "signal_groups": 100, "seconds": 60}


def keep(folder, half, setting, recipe, run, generation=""):
    file = folder / half / setting / recipe / generation / f"seed_{run['seed']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(run))


def test_where_a_rule_is_as_good_as_the_baseline_ends():
    """Between evaluations a curve is a line: it is at .5 for good halfway from .4 to .6, not where it falls again."""
    base = [kept_run(0, 0.1, 0.2, 0.3, 0.4), kept_run(1, 0.1, 0.3, 0.5, 0.6)]  # ends at .5

    def beside(*runs):
        return {run["seed"]: [(run, of)] for run, of in zip(runs, base, strict=True)}

    assert study_results.reached(beside(*base)) == 1.0
    early = beside(kept_run(0, 0.6, 0.4, 0.6, 0.6), kept_run(1, 0.6, 0.4, 0.6, 0.6))
    assert study_results.reached(early) == pytest.approx(2.5 / 4, abs=0.011)
    assert study_results.reached(beside(kept_run(0, 0.9, 0.9, 0.9, 0.4), kept_run(1, 0.9, 0.9, 0.9, 0.5))) is None


def test_a_runs_accuracy_is_the_mean_over_the_last_rollouts_of_its_budget_whenever_it_was_evaluated():
    """From .4 to .8 over 1,000 rollouts: .68 at 700, .8 at 1,000, on average .74; what comes after does not count."""
    line = kept_run(0, 0.8, budget=1000)
    often = kept_run(0, *np.linspace(0.4, 0.8, 11)[1:], budget=1000)
    late = line | {"evaluations": [[500, 0.6], [1000, 0.8], [1100, 0.0]]}
    beyond = line | {"evaluations": [[1250, 0.9]]}  # the evaluation after training, of a run whose last step went past
    for run in (line, often, late, beyond):
        assert study_results.accuracy(run, 1000) == pytest.approx(0.74)
    corner = line | {"evaluations": [[850, 0.4], [1000, 0.8]]}  # .4 for half of the stretch, then .6 on average
    assert study_results.accuracy(corner, 1000) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="the last evaluation is after 1000 rollouts; wanted one at 1500 or later"):
        study_results.accuracy(line, 1500)


@pytest.mark.parametrize(("setting", "seed"), [("s1", 5), ("s1", 6), ("s1", 7), ("s3", 5), ("s3", 6), ("s3", 7)])
def test_how_often_a_run_was_evaluated_moves_its_accuracy_little(setting, seed):
    """DAPO's runs were evaluated four or five times at first; the last four of these are .03 to .11 lower."""
    run = study_results.read("b", setting, "dapo")[seed]
    seldom = run | {"evaluations": [*run["evaluations"][1:-1:2], run["evaluations"][-1]]}
    assert abs(study_results.accuracy(seldom, study_results.budget_of(setting)) - run["accuracy"]) < 0.02


def test_a_difference_is_of_one_generation_and_start_and_pooled_it_is_a_seeds_mean(tmp_path, monkeypatch):
    """Seed 5 was made twice, +.1 first and +.3 again; seed 6 once, +.2; seed 7 from another start, so beside none."""
    monkeypatch.setattr(study_results, "RESULTS", tmp_path)
    for recipe, first, again, six in (("grpo", 0.5, 0.4, 0.5), ("foresee", 0.6, 0.7, 0.7)):
        keep(tmp_path, "b", "s3", recipe, kept_run(5, *[first] * 4), "first")
        keep(tmp_path, "b", "s3", recipe, kept_run(5, *[again] * 4))
        keep(tmp_path, "b", "s3", recipe, kept_run(6, *[six] * 4))
        keep(tmp_path, "b", "s3", recipe, kept_run(7, *[six] * 4, before=six))
    for which, five in (("first", 0.1), ("again", 0.3), ("pooled", 0.2)):
        assert study_results.gaps("foresee", "grpo", ["s3"], which) == pytest.approx({5: five, 6: 0.2})
    assert study_results.level("s3", "grpo", "pooled")[5] == pytest.approx(0.45)
    assert study_results.replicates("grpo") == pytest.approx([-0.1])
    assert study_results.sd_of_a_run("grpo") == pytest.approx(0.1 / 2**0.5)
    keep(tmp_path, "b", "s3", "grpo_pairs", kept_run(5, *[0.6] * 4))  # made once: beside foresee's second run alone
    assert study_results.gaps("foresee", "grpo_pairs", ["s3"], "pooled") == pytest.approx({5: 0.1})


def test_a_mean_over_settings_is_of_the_seeds_that_all_have_and_counts_the_very_same_runs_once(tmp_path, monkeypatch):
    """+.1 in s3, the same two runs in s6, +.4 in s4: .25, not .2; seed 6 is missing in s4."""
    monkeypatch.setattr(study_results, "RESULTS", tmp_path)
    for setting, gain in (("s3", 0.1), ("s6", 0.1), ("s4", 0.4)):
        for seed in (5, 6) if setting != "s4" else (5,):
            keep(tmp_path, "b", setting, "grpo_pairs", kept_run(seed, *[0.5] * 4))
            keep(tmp_path, "b", setting, "pairs", kept_run(seed, *[0.5 + gain] * 4))
    found = study_results.gaps("pairs", "grpo_pairs", ["s3", "s6", "s4"], "pooled")
    assert found == pytest.approx({5: 0.25})
    keep(tmp_path, "b", "s6", "grpo_pairs", kept_run(5, *[0.5] * 3, 0.51))  # no longer the same
    assert study_results.gaps("pairs", "grpo_pairs", ["s3", "s6", "s4"], "pooled")[5] < 0.2
    keep(tmp_path, "b", "s3", "grpo", kept_run(5, *[0.5] * 4))
    keep(tmp_path, "b", "s3", "bounded_dapo", kept_run(5, *[0.5] * 4))
    assert study_results.cell("s3", "bounded_dapo", "pooled", [5]) == "the same runs"


def test_a_cell_is_over_its_columns_seeds_and_empty_where_one_is_missing():
    assert study_results.short({5: 0.1, 6: 0.3, 7: 9.0}, [5, 6]) == "+.200 +-1.271"  # 12.706 x .1414 / sqrt(2)
    assert study_results.short({5: 0.1, 6: 0.3}, [5, 6, 7]) == ""
    assert study_results.short(dict.fromkeys(range(5), 0.25), range(5)) == "+.250 +-.000"
    assert study_results.short(dict.fromkeys(range(5), 0.25), range(5), sign="") == ".250"
    assert study_results.short({5: -0.0001, 6: -0.0001}, [5, 6]) == ".000 +-.000"


def test_a_column_of_the_studys_tables_is_over_the_same_seeds_in_all_its_rows(tmp_path, monkeypatch):
    """Plain GRPO is .5 on seeds 5 to 7 and .9 on 8 and 9: .66 beside foresee's five seeds, .5 beside greso's three."""
    monkeypatch.setattr(study_results, "RESULTS", tmp_path)
    for rule, seeds in (("grpo", range(5, 10)), ("foresee", range(5, 10)), ("greso", range(5, 8))):
        for seed in seeds:
            run = kept_run(seed, *[0.5 if seed < 8 else 0.9] * 4) | {"signal_groups": 100 if seed < 8 else 200}
            keep(tmp_path, "b", "s3", rule, run)
    keep(tmp_path, "b", "s3", "grpo", kept_run(5, *[0.5] * 4) | {"signal_groups": 160}, "first")
    rows = [[word.strip() for word in line.split("|")[1:-1]] for line in study_results.by_seed().splitlines()]
    assert [(row[1], row[3], row[-1]) for row in rows[3:]] == [("grpo", ".660", "146"), ("foresee", ".660", "140")]
    rows = [[word.strip() for word in line.split("|")[1:-1]] for line in study_results.by_seed_three().splitlines()]
    three = [(row[1], row[3], row[-1]) for row in rows[3:] if len(row) > 1 and row[1]]
    assert three == [("grpo", ".500", "110"), ("foresee", ".500", "100"), ("greso", ".500", "100")]  # (130 + 200) / 3
    assert "greso" not in study_results.by_setting() and "| greso |" in study_results.by_setting_three()


def test_a_tuning_table_has_no_recipes_of_other_seeds(tmp_path, monkeypatch):
    """The baseline has .9 on seed 1: beside a recipe of seed 0 alone it is .5, so this one leads."""
    monkeypatch.setattr(study_results, "RESULTS", tmp_path)
    for recipe, scores in (("grpo_shipped", (0.5, 0.9)), ("both", (0.6, 0.8)), ("alone", (0.6,))):
        for seed, score in enumerate(scores):
            keep(tmp_path, "a", "s3", recipe, kept_run(seed, *[score] * 4))
    both, alone = study_results.table("a", "s3").split("\n\n**")
    assert "seeds 0, 1**" in both and "| both | .600 .800 | 0.700 | 0.000 +- 1.271 |" in both and "alone" not in both
    assert "seed 0**" in alone and "| alone | .600 | 0.600 | +0.100 |" in alone and "both" not in alone
    assert "| grpo_shipped | .500 .900 | 0.700 |" in both and "| grpo_shipped | .500 | 0.500 |" in alone


@pytest.mark.parametrize("name", ["rules", "rules_three"])
def test_the_tables_of_the_rules_fit_their_page(name):
    """A column is at least as wide as its longest word and its padding, some 3 characters. 91 of these were 788 px of
    DejaVu Sans, the widest font that a browser falls back to, where the page has 742: 85.
    """
    head, _, *rows = [line.split("|")[1:-1] for line in figures.TABLES[name]().splitlines()]
    words = [" ".join(cells).split() for cells in zip(head, *rows, strict=True)]
    assert sum(max(map(len, column)) + 3 for column in words) <= 85


def test_the_45_runs_that_were_replaced_are_there_beside_those_that_replaced_them():
    first = sorted(study_results.RESULTS.glob("b/*/*/first/seed_*.json"))
    assert len(first) == 45 and all((file.parents[1] / file.name).is_file() for file in first)
    assert {file.parts[-4] for file in first} == {"s3", "s4", "s6"}


def test_the_screen_of_the_methods_is_read_by_hand(tmp_path, monkeypatch):
    """Two seeds of GRPO (.5 and .7), one of GSPO (.8): best first, the difference of the seed in common, .25 dead."""
    monkeypatch.setattr(study_results, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="there is none yet"):
        methods.best()
    for method, seed, accuracy in (("grpo", 0, 0.5), ("grpo", 1, 0.7), ("gspo", 0, 0.8)):
        run = kept_run(seed, *[accuracy] * 4) | {"final": accuracy + 0.1, "steps": 10, "seconds": 5.0}
        run |= {"zero_variance_groups": 40, "drawn_groups": 160, "tokens_sampled": 2000, "tokens_trained": 1500}
        keep(tmp_path, "a", "screen", method, run)
    lines = methods.table("a", "screen").splitlines()
    assert lines[2] == "| gspo | 1 | 0.400 | 0.900 | 0.800 | +0.300 | 0.250 | 2,000 | 1,500 | 0.50 |"
    assert lines[3] == "| grpo | 2 | 0.400 | 0.700 | 0.600 +- 1.271 |  | 0.250 | 2,000 | 1,500 | 0.50 |"
    assert methods.best() == ["gspo"]


@pytest.mark.thorough
def test_the_screen_runs_what_the_example_configs_are():
    for name, words in methods_of().items():
        settings = study.planned("screen", name, words, 0, "a")[1].settings
        assert settings.train.max_rollouts == 15000
        assert (settings.evaluation.every, settings.evaluation.every_rollouts) == (0, 1500)
    for name in ("grpo", "igpo"):
        settings, example = (
            config.load(f"{ROOT}/configs/study/settings.py:screen", methods_of()[name]),
            config.load(f"{ROOT}/configs/methods.py:{name}"),
        )
        assert settings.train.max_rollouts == 15000 and settings.pool.queries * settings.pool.samples == study.ROLLOUTS
        assert (settings.learner, settings.pool, settings.reward) == (example.learner, example.pool, example.reward)


@pytest.mark.parametrize("incomplete", [False, True])
def test_an_evaluation_over_too_few_questions_is_no_figure_of_a_run(incomplete, tmp_path, monkeypatch, capsys):
    """One on the way is left out; with one before or after training the run is not kept."""
    monkeypatch.setattr(study, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(study_results, "RESULTS", tmp_path / "kept")
    folder = tmp_path / "runs/b/s3/grpo/seed_5"
    folder.mkdir(parents=True)
    names = ("drawn", "zero_variance", "signal", "attempted_queries", "accepted_recycled", "accepted", "epoch")
    rows = [
        {"step": at + 1, "budget/rollouts": 100 * (at + 1), "time/step_s": 1.0, **{f"pool/{name}": 1 for name in names}}
        | {"eval/exact_match": score, "eval/incomplete": missed}
        for at, (score, missed) in enumerate(((0.5, 0), (0.1, 1), (0.6, 0)))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"greedy_before": 0.4, "greedy_after": 0.7, "rollouts": 400, "tokens": 9, "incomplete": incomplete}
    (folder / "summary.json").write_text(json.dumps(summary))
    job = study.planned("s3", "grpo", [], 5, "b")[1]
    study.keep(type(job)(job.name, job.command, folder, job.settings))
    file = tmp_path / "kept/b/s3/grpo/seed_5.json"
    if incomplete:
        assert not file.exists() and "s3 grpo seed 5 is not kept" in capsys.readouterr().out
    else:
        assert json.loads(file.read_text())["evaluations"] == [[100, 0.5], [300, 0.6], [400, 0.7]]


def test_how_often_stand_ins_differ_from_exact_match_by_hand():
    """A right answer at once, and one that is half right after a search: they differ by f1, as cover match, by ikea."""
    query, none = Query("q", "Where is A?", ("Oslo",), ("A",)), np.zeros(0)
    at_once = (Turn("model", "<answer> Oslo </answer>"),)
    searched = (Turn("model", "<search> x </search>"), Turn("env", "", ("x",), ((Passage("1", "B", "C"),),)))
    group = [
        Episode(query, 0, 0, none, none, none, np.arange(1), at_once, "Oslo", "answered", True),
        Episode(query, 1, 0, none, none, none, np.arange(2), (*searched, at_once[0]), "in Oslo", "answered", True),
    ]
    found = stand_ins.measure([(query, group), (query, group[:1])])
    assert (found["episodes"], found["groups"], found["exact_match"]) == (3, 2, 0.5)
    shares = {name: (one["differs"], one["signal"]) for name, one in found["rewards"].items()}
    assert shares["f1"] == (1 / 3, 0.5) and shares["cover_match"] == (1 / 3, 0) and shares["carr"] == (2 / 3, 0.5)
    assert shares["ikea"] == (1, 0.5) and shares["o2_searcher think=False"] == (0, 0.5)
    lines = stand_ins.table(found).splitlines()
    assert (
        lines[0]
        == "| 3 episodes, 2 groups, 1 steps | episodes whose score is not exact match | groups that bear signal |"
    )
    assert lines[-1] == "| exact_match |  | 0.500 |" and "| f1 | 0.333 | 0.500 |" in lines


def methods_of():
    return runpy.run_path(str(ROOT / "configs" / "methods.py"))["METHODS"]


def test_the_best_rate_of_real_questions_is_that_of_the_highest_f1_and_only_trained_seeds_are_averaged():
    def run(name, seed, f1, gain):
        scores = {"exact_match": f1, "f1": f1, "searches_per_question": 1.0}
        gains = {score: {"mean": gain, "half_width": 0.02} for score in ("exact_match", "f1")}
        series = {"zero_variance": [0.25, 0.75], **dict.fromkeys(single_hop.SHOWN, [1.0] * 10 + [2.0, None, 4.0])}
        spent = {"steps": 20, "series": series, "wall_s": 1800}
        found = {"before": scores, "after": scores, "gains": gains, **spent}
        return {"name": name, "seed": seed, "device": "cpu", **found}

    rates = [run(f"rate {rate}", 0, f1, 9.0) for rate, f1 in zip(single_hop.RATES, (0.2, 0.4, 0.3), strict=True)]
    assert single_hop.best_rate(rates) == single_hop.RATES[1]
    told = single_hop.table([*rates, run("trained", 0, 0.4, 0.10), run("trained", 1, 0.4, 0.20)])
    assert "| trained | 1 | cpu | 20 | 0.400 to 0.400 | +0.200 +- 0.020 |" in told
    assert "Mean gain over 2 seeds: exact match +0.150 +-" in told and "| 0.50 | 1.00 to 1.00 | 0.5 |" in told
    assert "| entropy, nats | 1 | 1 | 3 |  |  |  |  |" in told


def test_a_real_agent_s_row_has_both_scores_and_what_it_asked_before_and_after():
    def run(seed, gain):
        scores = {"exact_match": 0.2, "f1": 0.3, "searches_per_question": 2.0, "parallel_turns_per_question": 0.25}
        gains = {score: {"mean": gain, "half_width": 0.02} for score in ("exact_match", "f1")}
        series = {"zero_variance": [0.25, 0.75], **dict.fromkeys(real_agent.SHOWN, [0.5] * 40)}
        spent = {"steps": 40, "series": series}
        after = {**scores, "searches_per_question": 1.5, "exact_match": 0.2 + gain}
        words = ["train.steps=40"] if seed < 2 else ["train.steps=40", "learner.lr=1e-5"]
        about = {"seed": seed, "words": words, "device": "cpu"}
        return {**about, "before": scores, "after": after, "gains": gains, **spent}

    told = real_agent.table([run(0, 0.10), run(1, -0.02), run(2, 0.5)])
    assert "| 0 | train.steps=40 | cpu | 40 | 0.200 to 0.300 | +0.100 +- 0.020 | 0.300 to 0.300 |" in told
    assert "| 0.50 | 2.00 to 1.50 | 0.25 to 0.25 |" in told
    assert "Mean gain over 2 seeds, train.steps=40: exact match +0.040 +-" in told
    assert "Mean gain over 1 seeds, train.steps=40 learner.lr=1e-5: exact match +0.500," in told


def test_a_kept_run_is_not_made_again_and_another_key_joins_it(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_runs, "file_of", lambda name: tmp_path / f"{name}.json")
    monkeypatch.setattr(interleave, "results", partial(interleave.results, folder=tmp_path))
    made = []

    def run(seed):
        made.append(seed)
        return {"rollouts": 8}

    for seed in (0, 0, 1):
        kept_runs.make("x", {"config": "a", "seed": seed}, partial(run, seed))
    assert made == [0, 1] and [one["seed"] for one in kept_runs.kept("x")] == made
    assert all(one["rollouts"] == 8 and one["commit"] and one["device"] == "cpu" for one in kept_runs.kept("x"))


def test_groups_that_only_f1_tells_apart_are_counted_by_hand(tmp_path):
    golds, answers = (
        ["red brick"],
        {"a": ["red", "brick red wall", None], "b": ["red brick", "red"], "c": ["no", "none"]},
    )
    rows = [
        {"query": query, "turns": [], "golds": golds, "answer": answer, "fault": None}
        for query, given in answers.items()
        for at, answer in enumerate(given)
    ]
    rows.append({"query": "c", "turns": [], "golds": golds, "answer": "red brick", "fault": "the search failed"})
    (tmp_path / "episodes").mkdir()
    (tmp_path / "episodes" / "step_000001.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = channels.count([*channels.groups(tmp_path)])
    counts = {"groups": 3, "reward": 2, "outcome": 1, "none_right": 2, "reward_alone": 1, "reward_alone_none_right": 1}
    assert {name: found[name] for name in counts} == counts and found["pass_rate"] == pytest.approx(1 / 6)
    assert found["spread_both"] == pytest.approx(1 / 6)  # 1 and 2/3
    assert "| by reward (F1 differs) | 2 (0.67) |  |" in channels.table(found)


@pytest.mark.thorough
def test_an_update_reaches_rollouts_by_int8_on_average_whole_and_they_are_further_from_the_learner_than_bfloat16():
    rates = int8_hand_over.measured("two_layer")["rates"]
    assert list(rates) == ["3e-05", "1e-06"]
    for by_kind in rates.values():
        assert abs(by_kind["int8"]["share"] - 1) < 4 * by_kind["int8"]["error"] + 0.05
        assert 0 < by_kind["bfloat16"]["gap"] < by_kind["int8"]["gap"] < by_kind["int8"]["gap_max"] < 0.5


def test_cold_starts_are_told_with_the_mean_over_their_seeds():
    def run(name, seed, score):
        scores = dict.fromkeys(("exact_match", "f1", "searches_per_question"), score)
        return {
            "name": name,
            "seed": seed,
            **scores,
            "stops": {"answered": 3},
            "questions": 4,
            "cold_start": {"traces": 9},
        }

    told = cold_starts.table([run("gold titles", seed, seed / 4) for seed in (1, 3)])
    assert "| gold titles | 1, 3 | 9 | 0.500 +- 3.177 |" in told  # 12.706 x .3536 / sqrt(2)


@pytest.mark.house
def test_benchmarks_call_the_package_as_it_is():
    """Pyright finds no argument and no name in them that the package does not have; the peers' own packages are out."""
    pyright = Path(sys.executable).with_name("pyright")
    said = subprocess.run(
        [pyright, "--outputjson", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    wrong = re.compile(
        r"No parameter named|unknown import symbol|missing for parameter|Expected \d+ (more )?positional"
    )
    theirs = re.compile(r"/(torch|tunix|trl|faiss)_\w+\.py$")
    found = [
        f"{row['file']}:{row['range']['start']['line'] + 1}: {row['message']}"
        for row in json.loads(said.stdout)["generalDiagnostics"]
        if wrong.search(row["message"]) and not theirs.search(row["file"])
    ]
    assert not found, "\n".join(found)
