"""Rules at one budget: what is planned, started and gone on with, what is refused, and figures by hand."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from killed_run import tiny
from scipy import stats

from qr_jax import config, plugins, train
from qr_jax.cli import cli
from qr_jax.config import use
from qr_jax.lab import compare, last_evaluation, launch, oracle, study
from qr_jax.lab.differences import difference, seeds_needed
from qr_jax.lab.report import comparison
from qr_jax.logging import metrics_writer
from qr_jax.pool import pool
from qr_jax.records import Query
from qr_jax.step.runtime import RunState

ROOT = Path(__file__).parents[2]
SPEND = ("rollouts", 48)


def planned(folder, names="recycle", seeds=1, spend=SPEND, settings=None):
    return study.plan(settings or tiny(folder), folder, named=study.rules(names), seeds=seeds, spend=spend)


# --- what is planned


def test_rules_carry_settings_at_commas():
    found = study.rules("recycle, foresee:gamma=0,pool.reset_below=0.5,dapo")
    assert [rule.name for rule in found] == ["recycle", "foresee", "dapo"]
    assert found[1].carried == ("rule.gamma=0", "pool.reset_below=0.5")
    assert found[1].folder == "foresee_gamma_0_pool.reset_below_0.5"
    with pytest.raises(ValueError, match="no '=' in it"):
        planned(Path("a=b"))
    with pytest.raises(ValueError, match="distinct names"):
        study.rules("grpo,recycle,grpo")


@pytest.mark.parametrize("text", ["rollouts", "rollouts=0", "steps=5", "tokens=many"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(ValueError, match="rollouts=N, tokens=N, searches=N"):
        study.budget(text)
    assert study.budget("tokens=1e6") == ("tokens", 1_000_000)


def test_runs_share_the_cold_start_and_the_world_and_differ_in_rule_and_seed(tmp_path):
    start, jobs = planned(tmp_path, "recycle,dapo,foresee:gamma=0", seeds=2)
    assert start is not None and start.folder == tmp_path / "sft" and start.settings == tiny(tmp_path)
    assert [str(job.folder.relative_to(tmp_path)) for job in jobs] == [
        *("recycle/seed_0", "dapo/seed_0", "foresee_gamma_0/seed_0"),
        *("recycle/seed_1", "dapo/seed_1", "foresee_gamma_0/seed_1"),
    ]
    for job in jobs:
        of = job.settings.train
        assert job.settings.sft.steps == 0 and of.init == str(tmp_path / "sft")
        assert (of.max_rollouts, of.max_tokens) == (48, None) and of.steps == 48 / 4
        assert job.settings.data == jobs[0].settings.data and job.settings.evaluation == jobs[0].settings.evaluation
    assert [job.settings.seed for job in jobs] == [0, 0, 0, 1, 1, 1]
    of = jobs[1].settings.pool
    assert (of.rule.name, of.rounds.name) == ("bounded_dapo", "refill")
    assert jobs[2].settings.pool.rule == use("foresee", gamma=0.0)
    mopps = planned(tmp_path, "mopps")[1][0].settings.pool
    assert mopps.by is None and plugins.draws_by(mopps.rule, mopps.by) == "largest"  # as its file declares


def test_each_run_of_a_study_has_a_place_of_its_own_in_a_bucket(tmp_path):
    settings = tiny(tmp_path)
    settings = replace(settings, train=replace(settings.train, bucket="gs://runs/study"))
    cold, jobs = planned(tmp_path, settings=settings)
    places = [job.settings.train.bucket for job in (cold, *jobs)]
    assert places[0] == "gs://runs/study/sft" and len(set(places)) == len(places)
    assert places[1] == f"gs://runs/study/{jobs[0].folder.relative_to(tmp_path)}"


def test_where_its_runs_lie_and_are_traced_makes_no_rule_of_its_own(tmp_path):
    settings = tiny(tmp_path)
    settings = replace(settings, train=replace(settings.train, bucket="gs://runs/study"))
    _, jobs = planned(tmp_path, "recycle,grpo", seeds=2, settings=settings)
    traced = replace(jobs[0].settings, train=replace(jobs[0].settings.train, profile="10:12"))
    made = [
        SimpleNamespace(settings=settings, folder=tmp_path)
        for settings in (traced, *(job.settings for job in jobs[1:]))
    ]
    assert [(label, len(of_it)) for label, of_it in compare.grouped(made).items()] == [("recycle", 2), ("grpo", 2)]


def test_a_rule_keeps_what_the_config_says_of_it_and_replaces_nothing_unsaid(tmp_path):
    settings = tiny(tmp_path)
    own = replace(settings, pool=replace(settings.pool, rule=use("foresee", gamma=0.5)))
    pools = [job.settings.pool.rule for job in planned(tmp_path, "foresee,grpo,foresee:gamma=0", settings=own)[1]]
    assert pools == [use("foresee", gamma=0.5), use("grpo"), use("foresee", gamma=0.0)]
    for name, value in (("rounds", use("refill")), ("by", "largest")):
        said = replace(settings, pool=replace(settings.pool, **{name: value}))
        with pytest.raises(ValueError, match=f"pool.{name} is .*brings along itself; .*--rules grpo:pool.{name}="):
            planned(tmp_path, "grpo", settings=said)
    refill = replace(settings, pool=replace(settings.pool, rounds=use("refill")))
    (job,) = planned(tmp_path, "dapo", settings=refill)[1]
    assert job.settings.pool.rounds == use("refill")
    (job,) = planned(tmp_path, "grpo:pool.rounds=refill", settings=refill)[1]
    assert job.settings.pool.rounds == use("refill")


def test_another_study_in_the_folder_is_refused_with_what_differs(tmp_path):
    _, (job,) = planned(tmp_path)
    (job.folder / "checkpoints").mkdir(parents=True)
    (job.folder / "config.json").write_text(json.dumps(config.to_json(job.settings)))
    planned(tmp_path)
    with pytest.raises(ValueError, match=r"train.max_rollouts: 48 there, 64 here"):
        planned(tmp_path, spend=("rollouts", 64))


def test_a_page_is_not_written_through_a_link_out_of_its_folder(tmp_path, capsys):
    mine, page = tmp_path / "mine.txt", tmp_path / "theirs" / "comparison.json"
    mine.write_text("mine")
    page.parent.mkdir()
    page.symlink_to(mine)
    (tmp_path / "run").mkdir()
    assert cli.main(["compare", str(tmp_path / "run"), "--folder", str(page.parent)]) == 2
    assert f"comparison.json: a link to {mine}" in capsys.readouterr().err
    assert mine.read_text() == "mine"


# --- processes


def test_cores_are_dealt_out_once_each():
    own = launch.cores()
    shares = launch.core_shares(min(2, len(own)))
    assert sorted(core for share in shares for core in share) == own
    assert all(len(share) == 1 for share in launch.core_shares(len(own) + 1))
    if hasattr(os, "sched_getaffinity"):
        with launch.pinned(own[:1]):
            assert launch.cores() == own[:1]
        assert launch.cores() == own


def test_a_run_that_fails_shows_its_last_lines_and_the_others_go_on(tmp_path):
    settings = tiny(tmp_path)
    broken = replace(settings, data=replace(settings.data, train=str(tmp_path / "none.jsonl")))
    jobs = [launch.Job(name, "train", tmp_path / name, broken) for name in ("one", "two")]
    said: list[str] = []
    failed = launch.Launcher(1, said.append).run(jobs)
    assert failed == jobs
    assert [text for text in said if text.startswith("two: begins")]
    assert any("one: failed with exit code 2" in text and "none.jsonl" in text for text in said)


@pytest.mark.thorough
def test_a_signal_ends_the_runs_and_a_second_study_waits_for_its_folder(tmp_path):
    words = ["compare", str(ROOT / "configs" / "two_layer.py"), f"data.world_path={tmp_path}", "--rules", "grpo"]
    words += ["--budget", "rollouts=32", "--folder", str(tmp_path / "study")]
    process = subprocess.Popen([sys.executable, "-m", "qr_jax", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and any("cold start: begins" in line for line in process.stdout)
    with pytest.raises(ValueError, match="in use by another"), launch.Launcher(1, print).alone(tmp_path / "study"):
        pass
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM and "the same command goes on" in said
    with launch.Launcher(1, print).alone(tmp_path / "study"):
        pass


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A study of one rule and seed by the command line: its words, its folder and its exit code."""
    folder = tmp_path_factory.mktemp("study")
    settings = tiny(folder)
    settings = replace(settings, sft=replace(settings.sft, steps=0), evaluation=config.Evaluation(questions=4))
    (folder / "config.json").write_text(json.dumps(config.to_json(settings)))
    words = ["compare", str(folder / "config.json"), "--rules", "recycle", "--seeds", "1", "--budget", "rollouts=32"]
    words += ["--every", "1", "--folder", str(folder / "made"), "--trust"]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    code = cli.main(words)
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return words, folder / "made", code


def test_a_study_ends_at_its_budget_with_every_question_s_result(studied):
    _, folder, code = studied
    run = compare.read(folder / "recycle" / "seed_0")
    assert code == 0 and run.spent("rollouts") == 32 and len(run.rows) == 2
    assert len(run.evaluation["exact_match"]) == 4 and run.evaluation["manifest"]["questions"]["eval"]["count"] == 4
    assert [point["rollouts"] for point in compare.curve(run)] == [0, 16, 32]
    found = json.loads((folder / "comparison.json").read_text())
    assert found["rules"]["recycle"]["rollouts"]["mean"] == 32
    assert "<script>" in (folder / "compare.html").read_text()


def test_given_runs_are_not_compared_into_a_study_that_is_being_made_and_a_foreign_number_is_named(
    studied, tmp_path, capsys
):
    _, folder, _ = studied
    run, written = folder / "recycle" / "seed_0", (folder / "comparison.json").read_bytes()
    with launch.alone(folder):
        assert cli.main(["compare", str(run), "--folder", str(folder)]) == 2
    assert "in use by another qr-jax compare" in capsys.readouterr().err
    assert (folder / "comparison.json").read_bytes() == written
    shutil.copytree(run, tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text()) | {"greedy_after": 10**400}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    assert cli.main(["compare", str(tmp_path / "run"), "--folder", str(tmp_path / "made")]) == 2
    assert "one of these runs holds what qr-jax does not write (OverflowError" in capsys.readouterr().err


def test_a_run_that_went_on_is_compared_as_it_ended_before_and_said_to_be(studied, tmp_path, capsys):
    _, folder, _ = studied
    run = tmp_path / "run"
    shutil.copytree(folder / "recycle" / "seed_0", run)
    last = metrics_writer.read(run)[-1]
    longer = last | {"step": last["step"] + 1, "budget/rollouts": 48}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(longer) + "\n")
    before = compare.compare([run], own=True)["rules"]
    draw = json.loads((run / "ledger.jsonl").read_text().splitlines()[-1])
    every = [draw | {"step": longer["step"], "index": at, "accepted": True} for at in range(longer["pool/size"])]
    with (run / "ledger.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in every)
    assert compare.compare([run], own=True)["rules"] == before
    assert compare.read(run).spent("rollouts") == 32 and compare.read(run).since == 1
    assert cli.main(["compare", str(run), "--trust"]) == 0
    assert f"{run} went on for 1 steps and has not ended again" in capsys.readouterr().out


def test_what_is_done_is_not_done_again(studied, capsys):
    words, folder, _ = studied
    before = (folder / "recycle" / "seed_0" / "compare.log").read_bytes()
    assert cli.main(words) == 0
    assert "1 of 1 are done already" in capsys.readouterr().out
    assert (folder / "recycle" / "seed_0" / "compare.log").read_bytes() == before
    assert cli.main(["compare", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rules"]["recycle"]["seeds"] == [0]


def test_a_run_ends_at_the_first_of_its_limits():
    done = RunState(pool.create(4), rollouts=30, tokens=900, searches=7)
    limits = config.Train(steps=3, max_rollouts=31)
    assert train._within_limits(limits, 2, done) and not train._within_limits(limits, 3, done)
    for name, most in (("max_rollouts", 30), ("max_tokens", 899), ("max_searches", 7)):
        assert not train._within_limits(replace(limits, **{name: most}), 2, done)


# --- figures


def played(
    folder,
    *,
    rule="recycle",
    seed=0,
    rollouts=2_560,
    right=None,
    max_rollouts=None,
    corpus="c0ffee",
    learner=None,
    init=None,
):
    """A run's folder as a run leaves it, its steps played by the oracle and its answers given."""
    settings = config.Config(seed=seed, pool=config.Pool(queries=16, samples=4, rule=use(rule)))
    settings = replace(settings, learner=learner or settings.learner)
    settings = replace(settings, train=replace(settings.train, max_rollouts=max_rollouts, init=init))
    run = oracle.play(
        oracle.sampler(rule, queries=16, samples=4, oversample=1, rollouts=rollouts),
        oracle.pass_rates.world("beta:0.35,0.35", 512, seed=seed), size=512, seed=seed,
    )  # fmt: skip
    spent, rows, draws = 0, [], []
    for step, row in enumerate(run.rows, 1):
        spent += int(row["pool/rollouts"] or 0)
        more = {"budget/rollouts": spent, "budget/tokens": 9 * spent, "budget/searches": spent, "time/step_s": 0.5}
        rows.append({"step": step, "pool/size": 512, **row, **more})
    starts = np.unique(run.draws.done_D, return_inverse=True)[1]
    for step, index, s, n in zip(starts, run.draws.query_D, run.draws.right_D, run.draws.valid_D, strict=True):
        draws.append(
            {"step": int(step) + 1, "index": int(index), "successes": int(s), "valid": int(n), "accepted": 0 < s < n}
        )
    right = [1, 1, 0, 0] if right is None else right
    questions = [Query(str(at), "?", ("x",)) for at in range(len(right))]
    given = {query.id: one for query, one in zip(questions, right, strict=True)}
    faulted = [name for name, one in given.items() if one is None]
    details = {"exact_match": {name: one or 0 for name, one in given.items()}, "faulted": faulted}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_json(settings)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "ledger.jsonl").write_text("".join(json.dumps(row, default=bool) + "\n" for row in draws))
    (folder / "summary.json").write_text(json.dumps({"greedy_before": 0.25, "greedy_after": 0.75}))
    env = plugins.bind("env", settings.env)
    kept = last_evaluation.final(settings, questions, {"details": details}, env=env, corpus_sha256=corpus)
    (folder / "evaluation.json").write_text(json.dumps(kept))
    return folder


@pytest.mark.thorough
def test_rules_are_compared_over_seeds_and_questions_by_hand(tmp_path):
    one = [played(tmp_path / f"a{s}", seed=s, right=right) for s, right in enumerate(([1, 1, 0, 0], [1, 0, 0, 0]))]
    two = [
        played(tmp_path / f"b{s}", rule="grpo", seed=s, right=right)
        for s, right in enumerate(([1, 1, 1, 0], [1, 1, 0, 0]))
    ]
    found = compare.compare([*one, *two], reach=0.5, null_seeds=3, power=0.05)
    base, other = found["rules"]["recycle"], found["rules"]["grpo"]
    assert base["accuracy"]["mean"] == pytest.approx(0.375) and base["accuracy"]["sd"] == pytest.approx(0.125 * 2**0.5)
    # Each seed's gap is .25, by question 0, 0, 1, 0 and 0, 1, 0, 0: seeds do not differ, and questions by less
    # (.0833 / 4) than the noise of single answers (1 / 3 / 8), so that `half_width` of 4 questions alone is left.
    assert other["difference"]["mean"] == pytest.approx(0.25) and base["difference"] is None
    half = 1.96**2 / (4 + 1.96**2)
    assert (other["difference"]["low"], other["difference"]["high"]) == pytest.approx((0.25 - half, 0.25 + half))
    assert other["wins"] == {"won": 2, "of": 2}
    assert base["reached"]["mean"] is None  # .25 at 0 and .75 at 2,560: nobody looked between
    assert base["rollouts"]["mean"] == 2560 and base["step_seconds"]["mean"] == 20
    assert 0 < base["trained"]["mean"] < base["drawn"]["mean"] <= 1 and other["drawn"]["mean"] == 1.0
    assert base["null"]["trained"]["low"] is not None and base["null"]["zero_variance"]["high"] > 0.3
    text = comparison.format_tables(found)
    assert (
        "+0.250 [-0.240, +0.740] " in text
        and comparison.ALONE not in text
        and "2 of 2" in text
        and "rollouts to" not in text
        and "grpo: how many seeds a difference of 0.05 needs is told by rules of two seeds or more that vary." in text
    )
    chart = comparison.accuracy(found)
    assert chart["x"][0]["values"] == [0, 2560] and chart["series"][0]["values"] == [0.25, 0.75]
    base["curves"][0].insert(1, [1000, 0.5])
    assert "rollouts to 0.5" in comparison.format_tables(found)


def test_the_interval_of_one_seed_each_is_over_questions_alone_and_says_so(tmp_path):
    own_SN, base_SN = np.zeros((2, 1, 400))
    own_SN[:, :100] = 1  # mean .25, standard error sqrt(.25 * .75 / 399) = .02168, t of 399: 1.966
    found = difference(own_SN, base_SN, paired=True)
    assert (found["mean"], found["seeds"]) == (0.25, False)
    assert (found["low"], found["high"]) == pytest.approx((0.2074, 0.2926), abs=2e-4)
    assert difference(own_SN, base_SN, paired=False) == found
    runs = [played(tmp_path / rule, rule=rule) for rule in ("recycle", "grpo")]
    compared = compare.compare(runs, null_seeds=2)
    assert compared["rules"]["grpo"]["difference"]["seeds"] is False
    text = comparison.format_tables(compared)
    assert "+0.490] over questions alone" in text and "over questions alone: one seed each; other seeds would" in text


def test_the_interval_of_several_seeds_is_that_of_t_over_seeds_where_questions_agree():
    """Gaps of .1, .2, .3 by seed: sd .1, over sqrt(3), times t of two degrees of freedom, 4.303."""
    base_SN = np.full((3, 50), 0.5)
    own_SN = base_SN + np.array([[0.1], [0.2], [0.3]])
    found = difference(own_SN, base_SN, paired=True)
    half = 4.302653 * 0.1 / 3**0.5
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert found["seeds"] is True
    # Unpaired the same: the base does not vary, and Welch's degrees of freedom are then those of the other.
    assert difference(own_SN, base_SN, paired=False) == pytest.approx(found)
    # Of one seed of the base, which varies as the others do: sd .1 times sqrt(1 + 1/3).
    lone = difference(own_SN, base_SN[:1], paired=False)
    assert lone["high"] - 0.2 == pytest.approx(4.302653 * 0.1 * (4 / 3) ** 0.5) and lone["seeds"]


@pytest.mark.thorough
def test_seeds_that_contradict_one_another_leave_no_empty_interval(tmp_path):
    """Each question's gap is 0 on the mean over seeds: over questions alone the interval was [0, 0]."""
    right, wrong = [1] * 4, [0] * 4
    one = [played(tmp_path / f"a{seed}", seed=seed, right=right if seed else wrong) for seed in (0, 1)]
    two = [played(tmp_path / f"b{seed}", rule="grpo", seed=seed, right=wrong if seed else right) for seed in (0, 1)]
    gap = compare.compare([*one, *two], null_seeds=2)["rules"]["grpo"]["difference"]
    assert gap == {"mean": 0, "low": pytest.approx(-12.7062), "high": pytest.approx(12.7062), "seeds": True}
    lone = compare.compare([*one, two[0]], null_seeds=2)
    assert lone["rules"]["grpo"]["difference"]["high"] == pytest.approx(0.5 + 12.7062 * 0.75**0.5)
    assert "grpo: one seed, taken to vary by seed as a rule of several" in comparison.format_tables(lone)
    unpaired = [*one, two[0], played(tmp_path / "b7", rule="grpo", seed=7, right=wrong)]
    gap = compare.compare(unpaired, null_seeds=2)["rules"]["grpo"]["difference"]
    assert gap["low"] < -2 and gap["high"] > 2, "t of two degrees of freedom: 4.3 * sqrt(2 * .5 / 2)"


def test_rules_that_answer_all_alike_have_no_empty_interval_either():
    same_SN = np.tile([1.0, 0.0], (1, 50))
    for seeds in (1, 3):
        found = difference(same_SN.repeat(seeds, 0), same_SN.repeat(seeds, 0), paired=True)
        half = 1.96**2 / (100 + 1.96**2)
        assert (found["mean"], found["low"], found["high"]) == pytest.approx((0, -half, half))
    one_question = difference(np.ones((1, 1)), np.zeros((1, 1)), paired=True)
    assert one_question["low"] < 0.3 and difference(np.ones((3, 1)), np.zeros((3, 1)), paired=True)["low"] < 0.3


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(
    ("by_seed", "by_question"), [(0.0, 0.5), (0.15, 0.5), (0.5, 0.2)], ids=["questions", "both", "seeds"]
)
def test_nineteen_intervals_of_twenty_hold_the_truth_at_five_seeds(by_seed, by_question, paired):
    """Answers are coins of log-odds: a question's, a rule's effect on it, and a seed's. Over questions alone as few as
    28 % held it. 1,000 comparisons: +- .7 % is one standard error."""
    random = np.random.default_rng(0)
    seeds, questions, times = 5, 200, 1000

    def asked(many):
        """The log-odds of both rules on so many questions."""
        base = random.normal(0.3, 1.5, many)
        return base, base + random.normal(0.2, by_question, many)

    def odds(logit):
        return 1 / (1 + np.exp(-logit))

    base, own = asked(400_000)
    truth = (odds(own + random.normal(0, by_seed, 400_000)) - odds(base + random.normal(0, by_seed, 400_000))).mean()
    held = 0
    for _ in range(times):
        rates = [odds(logit_N + random.normal(0, by_seed, (seeds, 1))) for logit_N in asked(questions)]
        base_SN, own_SN = [(random.random((seeds, questions)) < rate_SN).astype(float) for rate_SN in rates]
        found = difference(own_SN, base_SN, paired=paired)
        held += found["low"] <= truth <= found["high"]
    assert 0.93 <= held / times <= 0.98


@pytest.mark.parametrize(
    ("effect", "paired", "seeds"), [(0.5, True, 34), (1.0, True, 10), (0.5, False, 64), (0.8, False, 26)]
)  # as Cohen's tables and G*Power have them, for a two-sided test at .05 with a power of .8
def test_a_difference_needs_as_many_seeds_as_tables_of_power_say(effect, paired, seeds):
    even_S = np.array([-1.0, 1.0] * 50) * (99 / 100) ** 0.5  # of 100 seeds, with an sd of 1
    base_S = np.zeros(100) if paired else even_S
    needed = seeds_needed(even_S, base_S, effect, paired=paired)
    assert needed["sd"] == pytest.approx(1) and needed["seeds"] == seeds
    assert needed["at_least"] < seeds < needed["at_most"] < 1.6 * seeds


def test_the_power_of_a_few_seeds_with_a_large_difference_is_a_number():
    """Integrated over the variance's distribution by hand; scipy's noncentral t is NaN for most of these."""
    two = seeds_needed(np.array([0.50, 0.52]), np.array([0.4, 0.4]), 0.1, paired=True)
    assert two["seeds"] == 3 and two["found"] == pytest.approx(0.567, abs=0.001)
    even_S = np.array([-1.0, 1.0] * 50) * (99 / 100) ** 0.5
    for effect, seeds in ((4.75, 3), (7.0, 3), (14.0, 2), (0.001, 7_848_863)):
        needed = seeds_needed(even_S, np.zeros(100), effect, paired=True)
        assert needed["seeds"] == seeds and 0 <= needed["found"] <= 1
    assert seeds_needed(np.array([0.50, 0.52]), np.array([0.40, 0.42]), 0.1, paired=True) is None  # equal but for 3e-17


def test_unequal_numbers_of_seeds_find_what_all_of_them_find():
    own_S, base_S = np.array([0.5, 0.52]), np.linspace(0.4, 0.46, 10)
    found = seeds_needed(own_S, base_S, 0.03, paired=False)
    shift, edge = 0.03 / found["sd"] / (1 / 2 + 1 / 10) ** 0.5, stats.t.ppf(0.975, 10)
    drawn = np.random.default_rng(0).normal(shift, 1, 400_000) / np.sqrt(
        np.random.default_rng(1).chisquare(10, 400_000) / 10
    )
    assert found["found"] == pytest.approx((np.abs(drawn) > edge).mean(), abs=0.003)


def test_two_seeds_tell_badly_how_many_are_needed_and_one_does_not_tell():
    needed = seeds_needed(np.array([0.5, 0.55]), np.array([0.5, 0.5]), 0.05, paired=True)
    assert needed["sd"] == pytest.approx(0.05 / 2**0.5) and needed["at_most"] > 20 * needed["seeds"]
    text = comparison.seeds_for("foresee", needed, 0.05)
    assert f"of 0.05 is found with a power of 0.8 by {needed['seeds']} seeds of each rule" in text
    assert f"to {needed['at_most']:,} by the 80 % interval of their sd, 0.035" in text
    assert seeds_needed(np.array([0.5]), np.array([0.4]), 0.05, paired=True) is None
    assert seeds_needed(np.array([0.5, 0.5]), np.array([0.4, 0.4]), 0.05, paired=True) is None


def test_where_a_curve_reaches_an_accuracy():
    points = [(0, 0.4), (100, 0.6), (200, 0.5), (300, 0.8)]
    assert compare.reached(points, 0.5) == pytest.approx(50)
    assert compare.reached(points, 0.7) == pytest.approx(200 + 100 * 2 / 3)
    assert compare.reached(points[:2], 0.5) is None
    assert compare.reached(points, 0.4) == 0 and compare.reached(points, 0.9) is None


@pytest.mark.thorough
def test_unequal_budgets_are_compared_with_a_warning_that_has_the_numbers(tmp_path):
    one, two = played(tmp_path / "one"), played(tmp_path / "two", rule="grpo", rollouts=2_600)
    assert compare.compare([one, two], null_seeds=2)["warnings"] == []  # 41 steps against 40: within one step
    three = played(tmp_path / "three", rule="grpo", rollouts=2_690)
    found = compare.compare([one, three], null_seeds=2)
    (warning,) = found["warnings"]
    assert "spent 2,560 rollouts" in warning and "three 2,752, more than one step (64) apart" in warning
    assert f"WARNING: {warning}." in comparison.format_tables(found)
    limited = played(tmp_path / "limited", rule="bounded_dapo", max_rollouts=2_560)
    found = compare.compare([one, limited], null_seeds=2)
    assert "not of one kind" in found["warnings"][0] and found["measure"] == "rollouts"
    assert compare.compare([one, limited], measure="rollouts", null_seeds=2)["warnings"] == []


def test_unlike_evaluations_are_compared_with_a_warning_of_what_differs(tmp_path):
    one, two = played(tmp_path / "one"), played(tmp_path / "two", rule="grpo")
    path = two / "evaluation.json"
    kept = json.loads(path.read_text())
    kept["manifest"]["decoding"]["search_k"] = 5
    first = next(iter(kept["exact_match"]))
    kept["exact_match"] = {name: value for name, value in kept["exact_match"].items() if name != first}
    path.write_text(json.dumps(kept))
    found = compare.compare([one, two], null_seeds=2)
    assert "search_k" in found["warnings"][0] and "that all runs were asked" in found["warnings"][1]
    assert found["questions"] == len(kept["exact_match"])
    path.write_text(json.dumps(kept | {"exact_match": {"another": 1.0}}))
    with pytest.raises(ValueError, match="the runs share no question"):
        compare.compare([one, two])
    path.unlink()
    with pytest.raises(ValueError, match="go on with it, which evaluates"):
        compare.compare([one, two])


def test_any_two_runs_are_compared_and_what_is_no_finished_run_or_given_twice_is_refused(tmp_path):
    one, again = played(tmp_path / "one"), played(tmp_path / "again")
    with pytest.raises(ValueError, match="each once"):
        compare.compare([one, one])
    found = compare.compare([one, again], null_seeds=2)  # one rule and seed: each goes by its folder
    assert list(found["rules"]) == [f"recycle ({one})", f"recycle ({again})"]
    (again / "summary.json").unlink()
    with pytest.raises(ValueError, match="it has no summary.json"):
        compare.compare([one, again])
    with pytest.raises(ValueError, match="neither a run .* nor a study"):
        compare.expand(tmp_path / "none")


def test_a_ledger_is_read_line_by_line(tmp_path):
    draw = json.dumps({"step": 1, "index": 7, "accepted": True}).encode()
    (tmp_path / "ledger.jsonl").write_bytes(draw.replace(b"}", b" " * 50_000 + b"}\n") * 200 + draw[:20])
    tracemalloc.start()
    assert compare._unique(tmp_path, 1) == (1, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000, "of 10 MB"
    assert compare._unique(tmp_path, 0) == (0, 0)


def test_a_faulted_question_is_left_out_of_all_runs(tmp_path):
    one = played(tmp_path / "one", right=[1, 1, 0, 0])
    two = played(tmp_path / "two", rule="grpo", right=[None, 1, 1, 0])
    found = compare.compare([one, two], null_seeds=2)
    assert found["questions"] == 3 and found["faulted_questions"] == 1
    assert found["rules"]["recycle"]["accuracy"]["mean"] == pytest.approx(1 / 3)
    assert "1 questions are left out" in comparison.format_tables(found)


def test_other_settings_that_differ_stand_in_a_rule_s_name(tmp_path):
    one, two = played(tmp_path / "one"), played(tmp_path / "two")
    made = json.loads((two / "config.json").read_text())
    made["learner"]["lr"] = 0.5
    (two / "config.json").write_text(json.dumps(made))
    found = compare.compare([one, two], null_seeds=2)
    assert list(found["rules"]) == ["recycle learner.lr=1e-06", "recycle learner.lr=0.5"]


def test_a_rule_without_a_null_control_is_compared_and_said(tmp_path, monkeypatch):
    one, two = played(tmp_path / "one"), played(tmp_path / "two", rule="grpo")
    (tmp_path / "no_null_lab.py").write_text("def by_turn(pool, so_far):\n    return so_far[-1].turns\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = json.loads((two / "config.json").read_text())
    settings["pool"]["rounds"] = {"name": "no_null_lab.by_turn", "settings": {}}
    (two / "config.json").write_text(json.dumps(settings))
    found = compare.compare([one, two], null_seeds=2, own=True)
    base, other = found["rules"].values()
    assert base["no_null"] == [] and base["null"]["trained"]["high"] > 0 and other["null"]["trained"]["low"] is None
    words = "grpo:rounds=no_null_lab.by_turn: no null for rounds 'no_null_lab.by_turn': IndexError on simulated"
    assert [note for note in comparison.notes(found) if note.startswith(words)]
    assert words in comparison.format_tables(found)


def test_a_page_escapes_what_it_holds(tmp_path):
    found = compare.compare([played(tmp_path / "one")], null_seeds=2)
    found["rules"] = {"</script><b>": found["rules"]["recycle"]}
    text = comparison.write(found, tmp_path / "compare.html", "<i>").read_text()
    assert "</script><b>" not in text and "<i>" not in text and "require-trusted-types-for" in text


def test_rules_that_differ_in_much_else_are_numbered_and_told_apart_below_the_tables(tmp_path):
    base = config.Config()
    other = replace(base.learner, lr=3e-4, warmup_updates=7, clip_norm=0.5, kl_weight=0.02)
    few = [config.Config(seed=at, learner=replace(base.learner, lr=lr)) for at, lr in enumerate((1e-4, 2e-4))]
    many = [config.Config(seed=at, learner=own) for at, own in enumerate((base.learner, other, other))]

    def labels(whole):
        runs = [compare.Run(tmp_path / str(at), own, [], {}, {}) for at, own in enumerate(whole)]
        return {label: len(alike) for label, alike in compare.grouped(runs).items()}

    powers = [config.Config(learner=replace(base.learner, advantage=use("grpo", **own))) for own in ({}, {"eps": 0.7})]
    assert labels(powers) == {"recycle": 1, "recycle learner.advantage.settings.eps=0.7": 1}
    assert labels(few) == {"recycle learner.lr=0.0001": 1, "recycle learner.lr=0.0002": 1}
    assert labels(many) == {f"recycle #1 ({tmp_path / '0'})": 1, "recycle #2": 2}
    folders = [played(tmp_path / "a"), played(tmp_path / "b", learner=other)]
    notes = comparison.notes(compare.compare(folders, null_seeds=2))
    told = f"recycle #2 ({folders[1]}) is with learner.clip_norm=0.5 learner.kl_weight=0.02 "
    assert any(note.startswith(told) for note in notes)


def test_a_run_that_began_from_another_is_told_beside_one_that_did_not(tmp_path):
    whole = played(tmp_path / "whole")
    later = played(tmp_path / "later", init=str(whole))
    notes = comparison.notes(compare.compare([whole, later], null_seeds=2))
    assert any(
        f"{later} began from {whole}, and what that was trained with is not in its budget" in note for note in notes
    )
    assert not any("began from" in note for note in comparison.notes(compare.compare([later], null_seeds=2)))


def test_a_run_is_named_by_its_rule_without_that_rule_s_code():
    """Who compares runs need not have what they drew with."""
    named = [
        config.Config(pool=config.Pool(rule=use(name, **more)))
        for name, more in (("no_lab.mine", {"low": 0.3}), ("grpo", {}))
    ]
    assert [compare.rule_label(settings) for settings in named] == ["no_lab.mine:low=0.3", "grpo"]


def test_figures_that_are_kept_leave_out_evaluations_over_too_few_questions(tmp_path, monkeypatch, capsys):
    """With the retriever down an evaluation is over the few questions that were answered; it was a run's best."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import kept_runs, single_hop, study_results
    from benchmarks import study as kept_study

    folder = played(tmp_path / "a" / "screen" / "grpo" / "seed_0", rule="grpo")
    rows = metrics_writer.read(folder)
    for row, accuracy, incomplete in zip(rows, (0.3, 0.9, 0.4), (0, 1, 0)):
        row |= {"eval/exact_match": accuracy, "eval/questions": 200, "eval/incomplete": incomplete}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = launch.Job("grpo seed 0", "train", folder, config.load(folder / "config.json"))
    monkeypatch.setattr(kept_study, "RUNS", tmp_path)
    monkeypatch.setattr(study_results, "RESULTS", tmp_path / "kept")
    path = kept_study.result_path("a", "screen", "grpo", 0)
    told = dict.fromkeys(single_hop.SUMMED, 0) | {"greedy_before": 0.25, "greedy_after": 0.5, "rollouts": 2_560}
    (folder / "summary.json").write_text(json.dumps(told | {"incomplete": False}))
    found = kept_study.figures(job)
    assert [accuracy for _, accuracy in found["evaluations"]] == [0.3, 0.4, 0.5] and found["best"] == 0.5
    assert single_hop.figures_of(folder, single_hop.SERIES)["series"]["exact_match"][:4] == [0.3, None, 0.4, None]
    kept_study.keep(job)
    assert path.is_file()
    path.unlink()
    (folder / "summary.json").write_text(json.dumps(told | {"incomplete": True}))
    kept_study.keep(job)
    assert not path.is_file() and "grpo seed 0 is not kept: an evaluation before or" in capsys.readouterr().out
    with pytest.raises(ValueError, match="seed_0: INCOMPLETE, do not use the score[.] Its figures are not kept"):
        kept_runs.summary_of(folder)
