"""The paper's figures as numbers, the pools that were fitted to them, and what was published beside what they say."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import paper_errors, paper_fits, paper_implies
from qr_jax.cli import cli
from qr_jax.lab import oracle, paper_world, pass_rates


def test_the_papers_numbers_are_whole():
    """Shares sum to 1 as far as they can be read, counts never fall but by reading, candidates are 64 a step."""
    figures = paper_world.figures()
    assert set(figures) == {"1", "3", "4", "5", "6", "8"}
    for number, names in (("4", ("fresh", "ex_hard", "ex_easy")), ("5", ("easy", "signal", "hard"))):
        for model in paper_world.MODELS:
            curve = figures[number]["curves"][model]
            assert curve["x"] == list(range(0, 331, 10))
            assert np.sum([curve[name] for name in names], axis=0) == pytest.approx(np.ones(34), abs=0.02)
    rows = figures["8"]["rows"]
    assert {len(column) for column in rows.values()} == {36}
    for third in (1, 2, 3):
        drawn = [n for n, at in zip(rows["candidates"], rows["third"], strict=True) if at == third]
        assert sum(drawn) == pytest.approx(110 * 64, abs=6)


def test_the_strata_stand_in_one_order_in_each_third():
    rows = paper_world.figures()["8"]["rows"]
    names = list(zip(rows["source"], rows["documents"], strict=True))
    assert rows["third"] == [1] * 12 + [2] * 12 + [3] * 12 and names[:12] == names[12:24] == names[24:]
    assert paper_fits.strata()[1].sum() == pytest.approx(5602, abs=10)  # easy, accepted, hard


@pytest.mark.parametrize("model", paper_world.MODELS)
def test_the_kept_fits_are_what_the_command_makes(model):
    """The loss of each is that of its parameters and figures, and no nearby parameter has a smaller one."""
    kept = paper_world.fits(model)
    assert [fit["number"] for fit in kept] == list(range(paper_fits.FITS))
    for fit in kept:
        goals = paper_fits.targets(model, fit["number"])
        assert paper_fits.loss(fit, goals) == pytest.approx(fit["loss"], abs=0.002)
        assert fit["shares"] == pytest.approx(goals["shares"], abs=1e-4)
    for name in ("deviation", "pace", "spread"):
        for times in (0.9, 1.1):
            assert (
                paper_fits.loss(kept[0] | {name: kept[0][name] * times}, paper_fits.targets(model, 0)) > kept[0]["loss"]
            )


def test_a_fit_is_found_again_from_its_number():
    """At 4B, whose fit takes seconds."""
    again = paper_fits.fitted("qwen3_4b", 1)
    assert again["loss"] == pytest.approx(paper_world.fits("qwen3_4b")[1]["loss"], abs=0.1)


def test_the_file_is_written_as_it_is_kept():
    text = paper_fits.FILE.read_text(encoding="utf-8")
    assert paper_fits.written(json.loads(text)) == text


def test_expected_counts_are_those_of_a_play():
    fit = paper_world.fits("qwen3_1p7b")[2]
    found = paper_fits.expected(fit)
    run = oracle.play(oracle.sampler("recycle"), paper_world.of_fit(fit, 10_000, seed=5), size=10_000, seed=5)
    played = oracle.summary(run)
    assert played["signal_groups"] == pytest.approx(found["signal"].sum(), rel=0.03)
    assert played["rescued_hard"] == pytest.approx(found["accepted"][:, 1].sum(), rel=0.1)
    assert played["rescued_easy"] == pytest.approx(found["accepted"][:, 2].sum(), rel=0.12)
    assert played["revisited"] == 0


def test_a_world_is_a_function_of_its_seed_and_every_seed_has_a_fit():
    every, never = np.arange(400), np.zeros(400)
    for model in paper_world.MODELS:
        rates = [pass_rates.world(f"paper:{model}", 400, seed=seed)(0.5, every, never, never) for seed in (3, 3, 4, 15)]
        assert (rates[0] == rates[1]).all() and not (rates[0] == rates[2])[rates[0] > 0].any()
        assert not (rates[0] == rates[3])[rates[0] > 0].any()  # the same fit, other queries
        whole = pass_rates.world(f"paper:{model}", 900, seed=3)(0.5, every, never, never)
        assert (whole == rates[0]).all()  # a query does not depend on how many there are


def test_a_world_by_hand():
    """Rates begin at the stratum's log-odds, grow along the pace and jump by the weight in the loss, not the count."""
    fit = {
        "growth": "normal", "shares": [0.5, 0.5], "mean": [-1.0, 2.0], "impossible": [0.0, 1.0], "drift": [3.0, 3.0],
        "deviation": 0.0, "spread": 0.0, "correlation": 0.0, "pace": 0.5, "jump": 0.25, "number": 0,
    }  # fmt: skip
    world, every, never = paper_world.of_fit(fit, 1000, seed=0), np.arange(1000), np.zeros(1000)
    can = world(0.0, every, never, never) > 0
    assert 0.45 < can.mean() < 0.55 and (world(1.0, every, never + 9, never + 9)[~can] == 0).all()

    def odds(*given):
        rate = world(*given)[can]
        return np.log(rate / (1 - rate))

    assert odds(0.0, every, never, never) == pytest.approx(np.full(can.sum(), -1.0))
    assert odds(1.0, every, never, never) == pytest.approx(np.full(can.sum(), 2.0))
    half = (1 - np.exp(-1)) / (1 - np.exp(-2))
    assert odds(0.5, every, never, never) == pytest.approx(np.full(can.sum(), -1 + 3 * half))
    assert odds(0.0, every, never + 1, never + 2.0) == pytest.approx(np.full(can.sum(), -0.5))
    grown = paper_world.growth(fit | {"growth": "lognormal", "spread": 0.7}, np.full(10**5, 3.0), *normals())
    assert grown.mean() == pytest.approx(3.0, rel=0.02) and grown.min() > 0


def normals():
    return np.random.default_rng(0).normal(size=(2, 10**5))


def test_the_weight_of_a_query_is_one_in_a_full_batch_and_more_in_a_smaller_one():
    """Four of four queries bear signal and two are wanted: weight 1; then two wanted and one bears signal: weight 2."""
    told = []

    def world(done, drawn_Q, trained_Q, weight_Q):
        told.append(dict(zip(drawn_Q.tolist(), weight_Q.tolist(), strict=True)))
        return np.full(len(drawn_Q), 0.5)

    plan = oracle.sampler("soft_recycle", queries=2, samples=8, oversample=2, rollouts=4 * 8 * 3)
    run = oracle.play(plan, world, size=4, seed=0)
    assert set(told[0].values()) == {0.0}
    assert sorted(told[1].values()) == [0.0, 0.0, 1.0, 1.0]
    assert sum(told[2].values()) == 2 * 2  # of each step B in all
    assert [row["pool/accepted"] for row in run.rows] == [2, 2, 2]


@pytest.mark.parametrize("name", ["other", "", "qwen3_8b", "qwen3_1p7b,3"])
def test_another_model_is_refused_with_those_that_there_are(name, capsys):
    assert cli.main(["oracle", "--rates", f"paper:{name}", "--rule", "recycle"]) != 0
    assert f"there is no paper:{name}; wanted paper:qwen3_1p7b or paper:qwen3_4b" in capsys.readouterr().err


def test_published_numbers_are_those_of_the_figures():
    setting = paper_world.SETTING | {"oversample": 2}
    figures = paper_world.figures()
    found = paper_world.published("paper:qwen3_1p7b", "recycle", setting)
    assert found["rescued_hard"] == figures["3"]["curves"]["recycle"]["rescued_hard"]["values"][-1] == 1027
    assert found["rescued_easy"] == figures["3"]["curves"]["recycle"]["rescued_easy"]["values"][-1] == 660
    shown = figures["5"]["curves"]["qwen3_1p7b"]["signal"]
    assert found["zero_variance_first"] == pytest.approx(1 - np.mean(shown[:4]))
    assert found["accepted_last"] == pytest.approx(64 * np.mean(shown[-4:]))
    assert found["signal_groups"] == pytest.approx(5602, abs=10)
    assert paper_world.published("paper:qwen3_1p7b", "bounded_dapo", setting)["revisited"] == 2331
    grpo = paper_world.published("paper:qwen3_1p7b", "grpo", setting | {"oversample": 1})
    assert grpo == {"rescued_easy": 421}  # the other curves end before the budget does
    longer = paper_world.published("paper:qwen3_1p7b", "grpo", setting | {"oversample": 1}, prolonged=True)
    assert longer["rescued_easy"] == 421
    assert longer["revisited"] == pytest.approx(1821 + 3520 * (1821 - 1345) / 10560, abs=0.1)
    four = paper_world.published("paper:qwen3_4b", "recycle", setting)
    assert "rescued_hard" not in four and four["ex_easy_last"] == pytest.approx(np.mean([0.309, 0.371, 0.386, 0.412]))


def test_nothing_is_published_of_other_settings_rules_and_worlds():
    setting = paper_world.SETTING | {"oversample": 2}
    for other in ({"samples": 8}, {"size": 9999}, {"rollouts": 84_481}, {"oversample": 1}, {"queries": 16}):
        assert paper_world.published("paper:qwen3_1p7b", "recycle", setting | other) == {}
    assert paper_world.published("paper:qwen3_1p7b", "grpo", setting) == {}
    assert paper_world.published("paper:qwen3_1p7b", "foresee", setting) == {}
    assert paper_world.published("paper:qwen3_4b", "bounded_dapo", setting) == {}
    assert paper_world.published("beta:0.35,0.35", "recycle", setting) == {}


def test_each_of_the_papers_rules_is_played_at_its_own_k_unless_one_is_given(monkeypatch, capsys):
    """GRPO had been played at k 2, so that its row was Bounded-DAPO's, without what was published of it."""
    small = {"size": 500, "queries": 32, "samples": 4, "rollouts": 3840}
    monkeypatch.setattr(paper_world, "SETTING", small)
    words = "oracle --rates paper:qwen3_1p7b --rule grpo,bounded_dapo,recycle,foresee --queries 500 --rollouts 3840"
    assert cli.main([*words.split(), "--seeds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    told = {rule: (one["oversample"], one["steps"], "published" in one) for rule, one in found.items()}
    papers = {"grpo": (1, 31, True), "bounded_dapo": (2, 16, True), "recycle": (2, 15, True)}
    assert told == papers | {"foresee": (2, 15, False)}  # 500 are no multiple of 32: once a pass draws what is left
    assert found["grpo"]["published"]["rescued_easy"] == 421
    assert cli.main([*words.split(), "--seeds", "1", "--oversample", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "published" not in found["grpo"] and {one["oversample"] for one in found.values()} == {2}
    text = oracle.format_table(found)
    assert [line.split()[:2] for line in text.splitlines()[:2]] == [["rule", "k"], ["grpo", "2"]]
    assert oracle.study("uniform", ["grpo"], size=50, rollouts=500, seeds=1)["grpo"]["oversample"] == 2


def test_the_oracles_table_has_what_was_published_under_the_rule():
    means = dict.fromkeys(oracle.COLUMNS, 1.0)
    setting = paper_world.SETTING | {"oversample": 2}
    told = {"published": paper_world.published("paper:qwen3_1p7b", "recycle", setting)}
    text = oracle.format_table({"recycle": means | told, "foresee": means})
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["recycle", "published", "foresee"]
    assert " 1027 " in text.splitlines()[2] and " - " in text.splitlines()[2]


def test_the_implied_numbers_of_a_fit_are_made_again():
    """The cheapest of the plays; what the pages say is held by tests/around/test_benchmarks.py."""
    kept = json.loads(paper_implies.FILE.read_text(encoding="utf-8"))["plays"]
    for model in paper_world.MODELS:
        assert paper_implies.played(model, "recycle", paper_world.fits(model)[3]) == kept[model]["recycle"][3]
        assert len(kept[model]["grpo"]) == len(kept[model]["recycle"]) == paper_fits.FITS


def test_counts_are_compared_at_the_curves_last_points():
    rows = [{"pool/rollouts": 100, "pool/accepted_ex_consumed": 3}] * 4
    run = oracle.Played(rows, {}, None, None)
    assert [paper_implies.until(run, "revisited", end) for end in (99, 100, 250, 1000)] == [0, 3, 6, 12]
    assert ("revisited", 1821, 80_960) in paper_implies.last_points("qwen3_1p7b", "grpo")
    assert paper_implies.last_points("qwen3_4b", "grpo") == [] == paper_implies.last_points("qwen3_1p7b", "foresee")


def test_the_fits_errors_are_made_again_and_each_curve_has_one():
    kept = json.loads(paper_implies.FILE.read_text(encoding="utf-8"))["errors"]
    for model, strata in (("qwen3_1p7b", 12), ("qwen3_4b", 0)):
        assert [paper_errors.of_fit(fit, model) for fit in paper_world.fits(model)] == kept[model]
        told = kept[model][0]
        assert len(told["figure 5"]) == len(told["figure 4"]) == len(told[paper_errors.LAGGED]) == 3
        assert len(told.get("figure 8", {})) == strata and len(told.get("figure 3", {})) == strata / 6


def at(curve, place, values="values"):
    return float(np.interp(place, curve["x"], curve[values]))


def both(curves, step, unit=""):
    return f"{unit} and ".join(f"{at(curves[name], step):,.0f}" for name in ("rescued_hard", "rescued_easy"))


def said_by_the_curves():
    """What the sentences of docs/what_the_paper_implies.md say of the figures, from paper_curves.json."""
    figures = paper_world.figures()
    one, three = figures["1"]["curves"], figures["3"]["curves"]
    budget, steps = paper_world.SETTING["rollouts"], paper_world.STEPS["recycle"]
    middle, small = np.arange(steps) + 0.5, "qwen3_1p7b"
    origins, verdicts = (figures[number]["curves"] for number in ("4", "5"))
    signal = 64 * np.interp(middle, verdicts[small]["x"], verdicts[small]["signal"])
    rescues = [
        (signal * np.interp(middle, origins[small]["x"], origins[small][name])).sum() for name in ("ex_hard", "ex_easy")
    ]
    rows = figures["8"]["rows"]
    setting = paper_world.SETTING | {"oversample": 2}
    last = [paper_world.published(f"paper:{model}", "recycle", setting) for model in paper_world.MODELS]
    recycled = [f"{told['recycled_share_last']:.2f}"[1:] for told in last]
    easy = [f"{verdicts[model]['easy'][end]:.2f}"[1:] for model in paper_world.MODELS for end in (0, -1)]
    return [
        f"(at 330, figure 1 has {both(one, 330, ' hard')} easy; figure 3, to which the pools are fitted, "
        f"{both(three['recycle'], budget)}).",
        f"make {rescues[0]:.0f} and {rescues[1]:.0f} rescues; figure 3 has {both(three['recycle'], budget)}.",
        f"(figure 8 sums to {np.dot(rows['candidates'], rows['accepted']):,.0f})",
        f"Figure 1 goes on to step {figures['1']['end']} where the budget is {steps}:",
        f"are recycled; figure 4 has {recycled[0]} and the abstract three quarters.",
        f"By figure 4 {recycled[0]} (1.7B) and {recycled[1]} (4B) of the last tenth's batches are recycled,",
        f"(1.7B: {easy[0]} to {easy[1]}, 4B: {easy[2]} to {easy[3]})",
    ]  # fmt: skip


def said_by_the_plays():
    """What the sentences say of the fits, from benchmarks/results/paper_implies.json and the curves."""
    plays = json.loads(paper_implies.FILE.read_text(encoding="utf-8"))["plays"]
    means, points, ends = {}, {}, {}
    for rule in ("grpo", "bounded_dapo"):
        for name, count, end in paper_implies.last_points("qwen3_1p7b", rule):
            means[rule, name] = np.mean([play[f"{name} at {end}"] for play in plays["qwen3_1p7b"][rule]])
            points[rule, name], ends[rule, name] = count, end
    off = {key: 100 * (means[key] / points[key] - 1) for key in means}
    still = plays["qwen3_4b"]["grpo, no jump"]
    without = [
        one["accepted_groups"] / other["accepted_groups"] for one, other in zip(plays["qwen3_4b"]["recycle"], still)
    ]
    key = "grpo", "rescued_hard"
    return [
        f"GRPO's hard rescues are {off[key]:.0f} % too many where its published curve ends "
        f"({ends[key]:,} rollouts: {means[key]:.0f} for {points[key]:.0f}),",
        f"its easy ones {off['grpo', 'rescued_easy']:.0f} % at the budget's end, Bounded-DAPO's hard ones "
        f"{off['bounded_dapo', 'rescued_hard']:.0f} %.",
        f"Without any, recycling has {np.mean(without):.2f} of GRPO's groups.".replace("0.", "."),
    ]  # fmt: skip


@pytest.mark.parametrize("sentence", [*said_by_the_curves(), *said_by_the_plays()])
def test_what_the_papers_page_says_of_its_figures_is_computed_again(sentence):
    page = Path(paper_implies.interleave.ROOT, "docs/what_the_paper_implies.md").read_text(encoding="utf-8")
    assert sentence in " ".join(page.split())


def test_the_papers_page_says_what_figure_6_has_of_k_8():
    """By hand: 743 / 627 and 531 / 442."""
    curves = paper_world.figures()["6"]["curves"]
    more = [at(curves["k4"][name], 230) / at(curves["k8"][name], 230) - 1 for name in ("rescued_hard", "rescued_easy")]
    page = Path(paper_implies.interleave.ROOT, "docs/paper.md").read_text(encoding="utf-8")
    assert f"figure 6 at step 230, where a curve of K 8 ends: {100 * more[0]:.0f} and {100 * more[1]:.0f} %" in page
    assert min(curve[name]["x"][-1] for curve in curves.values() for name in curve) == 230


def test_errors_by_hand(monkeypatch):
    """Figures that are the fit's own have none; a point moved by .1, a stratum by .2, a count by 50 is found."""
    fit, model = paper_world.fits("qwen3_1p7b")[0], "qwen3_1p7b"
    found = paper_fits.expected(fit)
    verdicts = np.stack([found[name] for name in paper_errors.VERDICTS])
    figures = json.loads(json.dumps(paper_world.figures()))
    steps = paper_fits.POINTS
    near = np.maximum(steps - 15, 0), np.minimum(steps + 15, 330)
    for name, values in zip(paper_errors.VERDICTS, paper_errors.shares(verdicts.sum(2), *near), strict=True):
        figures["5"]["curves"][model][name] = values.tolist()
    thirds = verdicts.reshape(3, 3, 22, 12).sum(2)
    for at, name in enumerate(("easy", "accepted", "hard")):
        figures["8"]["rows"][name] = (thirds / thirds.sum(0))[at].ravel().tolist()
    figures["8"]["rows"]["candidates"] = [10**6] * 36  # counts are whole
    curve = figures["3"]["curves"]["recycle"]["rescued_hard"]
    curve["values"] = np.interp(
        curve["x"], paper_fits.AT * 256, np.append(0, np.cumsum(found["accepted"][:, 1]))
    ).tolist()
    monkeypatch.setattr(paper_world, "figures", lambda: figures)
    told = paper_errors.of_fit(fit, model)
    assert set(told["figure 5"].values()) == set(told["figure 8"].values()) == {0} and told["figure 3"][
        "rescued_hard"
    ] == pytest.approx(0, abs=0.001)
    figures["5"]["curves"][model]["hard"][7] -= 0.1
    curve["values"][-1] += 50
    for name, more in (("easy", 0.2), ("hard", -0.2)):
        figures["8"]["rows"][name][24 + 5] += more  # the last third of the sixth stratum
    told = paper_errors.of_fit(fit, model)
    assert told["figure 5"] == {"easy": 0, "signal": 0, "hard": 0.1} and told["figure 3"]["rescued_hard"] == 50
    assert {name: error for name, error in told["figure 8"].items() if error} == {"iterative_search 5+": 0.2}


def test_the_table_has_the_mean_over_fits_and_what_was_not_fitted():
    def fit(error):
        names = ("figure 5", "figure 4", paper_errors.LAGGED)
        return {name: {"easy": error} for name in names}

    more = {"figure 8": {"drgym 1-2": 0.03}, "figure 3": {"rescued_hard": 38.4}}
    kept = {"qwen3_1p7b": [fit(0.1) | more, fit(0.2) | more], "qwen3_4b": [fit(0.05)]}
    rows = paper_errors.table(kept).splitlines()
    assert "| figure 5: easy | .150 | fitted | .050 | fitted |" in rows
    assert "| figure 4: easy | .150 | not | .050 | not |" in rows
    assert f"| {paper_errors.LAGGED}: easy | .150 | not | .050 | fitted |" in rows
    assert "| figure 3: rescued_hard | 38 | fitted |  |  |" in rows
