"""The paper's figures beside a run's: which are drawn, where the run's own points stand, and what is said instead."""

import json
import re

import pytest

from qr_jax.cli import cli
from qr_jax.lab import paper_world
from qr_jax.lab.report import beside_paper, page, read
from tests.around.test_report import BROWSER, data_of, dom, lines, made, metrics

FIGURES = ("1", "3", "4", "5", "6", "8")


@pytest.fixture
def run(tmp_path):
    """Six of twelve steps over a pool of 50: 10 drawn, 6 accepted a step, of which 2 hard, 1 easy and 1 trained on."""
    folder = made(tmp_path / "run")
    counts = {"size": 50, "drawn": 10, "accepted": 6, "accepted_fresh": 2, "accepted_ex_hard": 2, "accepted_ex_easy": 1}
    counts |= {"accepted_ex_consumed": 1, "easy": 1, "signal": 6, "hard": 3}
    more = {f"pool/{name}": count for name, count in counts.items()}
    (folder / "metrics.jsonl").write_text(lines([metrics(step, **more) for step in range(1, 7)]))
    config = {"train": {"steps": 12}, "pool": {"samples": 2, "queries": 6, "oversample": 2, "rule": {"name": "grpo"}}}
    (folder / "config.json").write_text(json.dumps(config | {"model": {"name": "Qwen/Qwen3-4B"}}))
    return folder


def drawn(folder):
    return beside_paper.shown(read.run(folder))["charts"]


def own(chart):
    return [line for line in chart["series"] if line.get("style") != "paper"]


def test_each_of_the_six_figures_is_drawn_with_the_run_before_the_papers_curves(run):
    charts = drawn(run)
    assert sorted({name.split("-")[1] for name in charts}) == sorted(FIGURES) and len(charts) == 9
    for name, chart in charts.items():
        assert f"Figure {name.split('-')[1]}" in chart["note"]
        if chart["kind"] == "lines":
            assert own(chart) == chart["series"][-len(own(chart)) :] and 0 < len(own(chart)) < len(chart["series"])


def test_what_is_summed_stands_at_the_share_of_the_budget_and_of_the_pool(run):
    for name, step in (("paper-3-rescued_hard", 2), ("paper-3-rescued_easy", 1), ("paper-3-revisited", 1)):
        (line,) = own(drawn(run)[name])
        assert line["x"] == [[8.33, 16.67, 25.0, 33.33, 41.67, 50.0]]  # the first half of the budget
        assert line["values"] == pytest.approx([step * at / 50 for at in range(1, 7)])
    assert own(drawn(run)["paper-1"])[0]["values"] == own(drawn(run)["paper-3-rescued_hard"])[0]["values"]


def test_a_run_that_ends_by_its_rollouts_stands_at_their_share_of_the_budget(run):
    """Its steps alone, of 100,000, would put the whole run at 0 %."""
    config = json.loads((run / "config.json").read_text())
    config["train"] = {"steps": 100_000, "max_rollouts": 720}
    (run / "config.json").write_text(json.dumps(config))
    rows = [metrics(step, **{"budget/rollouts": 120 * step, "pool/size": 50, "pool/drawn": 10}) for step in range(1, 7)]
    (run / "metrics.jsonl").write_text(lines(rows))
    charts = drawn(run)
    assert own(charts["paper-3-revisited"])[0]["x"] == [[16.67, 33.33, 50.0, 66.67, 83.33, 100.0]]
    assert own(charts["paper-5"])[0]["x"] == [[8.33, 25.0, 41.67, 58.33, 75.0, 91.67]]
    thirds = charts["paper-8"]["series"][1]["values"]
    assert all(value is not None for value in thirds)


def test_the_papers_curves_are_its_numbers(run):
    charts, figures = drawn(run), paper_world.figures()
    recycling = next(line for line in charts["paper-3-rescued_hard"]["series"] if "recycling" in line["name"])
    assert recycling["x"][0][-1] == 100 and recycling["values"][-1] == 0.1027
    assert recycling["values"] == [n / 10_000 for n in figures["3"]["curves"]["recycle"]["rescued_hard"]["values"]]
    eight = charts["paper-6-rescued_easy"]["series"][1]
    assert eight["name"].endswith("K 8") and eight["values"][-1] == 0.0471
    fresh = charts["paper-4"]["series"][0]
    assert fresh["values"] == figures["4"]["curves"]["qwen3_4b"]["fresh"]  # the run's model
    first_third = charts["paper-8"]["series"][0]["values"][:3]
    assert first_third == pytest.approx([0.174, 0.381, 0.445], abs=0.001)


@pytest.mark.parametrize(("name", "line", "end"), [
    ("paper-1", 0, 121.21),  # figure 1 goes on to step 400
    ("paper-3-rescued_hard", 2, 100),  # rollouts
    ("paper-4", 0, 100),
    ("paper-6-rescued_hard", 0, 72.73),  # figure 6 ends at step 240
    ("paper-6-rescued_hard", 1, 69.7),  # at K 8 at 230
])  # fmt: skip
def test_the_papers_steps_are_shares_of_its_330_and_not_of_the_picture(run, name, line, end):
    assert drawn(run)[name]["series"][line]["x"][0][-1] == end


def test_a_run_equal_to_figure_6_lies_on_its_curve(run):
    """240 of 330 steps in a pool of 10,000: each point of the picture is a point of the run."""
    curve = paper_world.figures()["6"]["curves"]["k4"]["rescued_hard"]
    gained = {at: more - less for at, less, more in zip(curve["x"][1:], curve["values"], curve["values"][1:])}
    steps = [
        metrics(step, **{"pool/size": 10_000, "pool/accepted_ex_hard": gained.get(step, 0) + (step == 1)})
        for step in range(1, 241)
    ]
    (run / "metrics.jsonl").write_text(lines(steps))
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"train": {"steps": 330}}))
    paper, _, line = drawn(run)["paper-6-rescued_hard"]["series"]
    at = dict(zip(line["x"][0], line["values"], strict=True))
    assert paper["x"][0][-1] == line["x"][0][-1] and line["values"][-1] == paper["values"][-1] == 0.0766
    both = [(at[x], y) for x, y in zip(paper["x"][0], paper["values"], strict=True) if x in at]
    assert len(both) == 8 and all(mine == pytest.approx(theirs) for mine, theirs in both)


@pytest.mark.parametrize(("name", "curves", "why"), [
    ("Qwen/Qwen3-4B", "qwen3_4b", None), ("Qwen/Qwen3-4B-Instruct-2507", "qwen3_4b", None),
    ("/models/qwen3_1p7b", "qwen3_1p7b", None), ("Qwen/Qwen3-14B", "qwen3_4b", "the nearest in size"),
    ("Qwen/Qwen2.5-14B", "qwen3_4b", "the nearest in size"), ("a/Model-24B", "qwen3_4b", "the nearest in size"),
    ("Qwen/Qwen3-0.6B", "qwen3_1p7b", "the nearest in size"), ("smollm2-135M", "qwen3_1p7b", "the nearest in size"),
    ("google/gemma-4b", "qwen3_4b", "the nearest in size"), ("two_layer", "qwen3_1p7b", "does not tell its size"),
    ("", "qwen3_1p7b", "does not tell its size"),
    ("/models/70b-runs/qwen3_1p7b/", "qwen3_1p7b", None),
    ("runs/qwen3-4b/mine-0.6B", "qwen3_1p7b", "the nearest in size"),
    ("/models/4b/two_layer", "qwen3_1p7b", "does not tell its size"),
])  # fmt: skip
def test_curves_are_of_the_nearest_model_and_another_model_is_named(run, name, curves, why):
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"model": {"name": name}}))
    told = beside_paper.shown(read.run(run))
    shown = told["charts"]["paper-5"]["series"][0]["values"]
    assert shown == paper_world.figures()["5"]["curves"][curves]["easy"]
    said = " ".join(line for line in told["beside"] if line.startswith("Figures 4 and 5"))
    assert (why in said and name.rstrip("/").split("/")[-1] in said) if why else not said


def test_shares_are_of_summed_counts_in_the_middle_of_their_steps(run):
    fresh, hard, easy = own(drawn(run)["paper-4"])
    assert fresh["values"] == [2 / 6] * 6 and hard["values"] == [2 / 6] * 6 and easy["values"] == [1 / 6] * 6
    assert fresh["x"][0][0] == pytest.approx(100 * 0.5 / 12, abs=0.01)
    assert [line["values"][0] for line in own(drawn(run)["paper-5"])] == [0.1, 0.6, 0.3]
    thirds = drawn(run)["paper-8"]["series"][1]["values"]
    assert thirds == [0.1, 0.6, 0.3] * 1 + [0.1, 0.6, 0.3] + [None] * 3  # steps 1 to 4, 5 and 6, none yet


def test_a_share_of_few_groups_is_left_out_and_that_is_said(run):
    few = {"pool/size": 50, "pool/drawn": 5, "pool/accepted": 4, "pool/accepted_fresh": 4, "pool/signal": 4}
    (run / "metrics.jsonl").write_text(lines([metrics(step, **few) for step in range(1, 7)]))
    charts = drawn(run)
    assert [line["values"] for line in own(charts["paper-4"])] == [[None] * 6] * 3
    assert own(charts["paper-5"])[1]["values"] == [0.8] * 6
    assert charts["paper-4"]["note"].endswith("A share of fewer than 5 is left out.")


def test_a_run_that_went_on_has_its_last_step_as_its_budget(run):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"train": {"steps": 3}}))
    assert own(drawn(run)["paper-3-revisited"])[0]["x"][0][-1] == 100


def test_what_one_run_cannot_have_is_said(run):
    told = " ".join(beside_paper.shown(read.run(run))["beside"])
    assert "Figure 3 has three rules and figure 6 has K 4 and K 8" in told and "rule grpo, K 2, B 6, k 2" in told
    assert "Figure 8 is by source and documents" in told and "1.2 times each of 50 queries" in told


def test_a_run_without_steps_or_without_a_pools_size_has_a_line_instead(run):
    (run / "metrics.jsonl").write_text(lines([metrics(1)]))
    found = beside_paper.shown(read.run(run))
    assert "does not tell the size of its pool" in " ".join(found["beside"])
    assert own(found["charts"]["paper-1"])[0]["values"] == [None]
    (run / "metrics.jsonl").write_text("")
    found = beside_paper.shown(read.run(run))
    assert found["charts"] == {} and "no step yet" in found["beside"][0]


def test_the_command_draws_them_only_when_asked_and_beside_one_run(run, capsys):
    assert cli.main(["report", str(run)]) == 0
    assert not any(
        name.startswith("paper-") for name in data_of((run / "report.html").read_text(), "run-data")["charts"]
    )
    assert cli.main(["report", str(run), "--beside", "paper"]) == 0
    assert "paper-8" in data_of((run / "report.html").read_text(), "run-data")["charts"]
    other = made(run.parent / "other")
    assert cli.main(["report", str(run), str(other), "--beside", "paper"]) != 0
    assert "does not take" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["report", str(run), "--beside", "papers"])


@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH; apt-get install chromium")
def test_chromium_draws_the_six_figures_and_hides_their_section_where_they_are_not_asked_for(run, tmp_path):
    shown = dom(page.write(run, beside=True), tmp_path)
    for number in FIGURES:
        assert re.search(rf'id="chart-paper-{number}.*?<svg', shown, re.DOTALL), number
    assert 'class="line ex_hard paper"' in shown and '<a href="#paper">' in shown
    assert '<a href="#paper" hidden="">' in dom(page.write(run), tmp_path)
