"""Several runs in one page: which line is whose, in what the runs differ, and that hostile folders stay data."""

import json
import re

import pytest
from test_report import BROWSER, HOSTILE, data_of, dom, lines, made, metrics

from qr_jax.cli import cli
from qr_jax.lab.report import overlay, page, read


@pytest.fixture
def two(tmp_path):
    """A run of 3 steps, and one of 2 with another rule, a secret and an evaluation."""
    first, second = made(tmp_path / "first"), made(tmp_path / "second")
    settings = {"pool": {"rule": {"name": "grpo"}}, "log": {"api_key": "other"}, "train": {"steps": 5}}
    other = {"pool": {"rule": {"name": "recycle"}}, "log": {"api_key": "k"}}
    (first / "config.json").write_text(json.dumps(settings | other))
    (second / "config.json").write_text(json.dumps(settings))
    cut = {"learner/clip_low": 0.25, "learner/clip_high": 0.5}
    rows = [metrics(1, **cut), metrics(2, **{"eval/exact_match": 0.75, "eval/questions": 4, "learner/kl": 0.5})]
    (second / "metrics.jsonl").write_text(lines(rows))
    table = {"1": {"questions": 2, "exact_match": 0.5}, "2": {"questions": 2, "exact_match": 1.0}}
    (first / "before.json").write_text(json.dumps({"exact_match": 0.5, "questions": 4, "by_hops": table}))
    (second / "before.json").write_text(json.dumps({"exact_match": 0.25, "by_hops": {"2": table["2"]}}))
    return [first, second]


def test_a_run_is_called_by_as_much_of_its_path_as_tells_it_from_the_others(tmp_path):
    folders = [tmp_path / end for end in ("grpo/seed_5", "pairs/seed_5", "pairs/alone")]
    assert overlay.names(folders) == ["grpo/seed_5", "pairs/seed_5", "alone"]
    with pytest.raises(ValueError, match="a run is named twice"):
        overlay.names([tmp_path / "a", tmp_path / "b" / ".." / "a"])
    with pytest.raises(ValueError, match="9 runs are too many for one page; give at most 8"):
        overlay.names([tmp_path / str(at) for at in range(9)])


def test_each_chart_has_a_line_a_run_with_its_own_places(two):
    found = overlay.overview(two)["charts"]
    batch = found["batch"]
    assert [line["name"] for line in batch["series"]] == ["first", "second"]
    assert [line["x"] for line in batch["series"]] == [[[1.0, 2.0, 3.0]], [[1.0, 2.0]]]
    assert batch["series"][1]["values"] == [2.0, 2.0]  # the origins' sum
    assert batch["x"] == [{"label": "step", "values": [1.0, 2.0, 3.0]}]
    held = [line["values"] for line in found["accuracy"]["series"]]
    assert held == [[0.5], [0.25, 0.75]] and len(found["accuracy"]["x"]) == 3
    assert len({line["tone"] for line in batch["series"]}) == 2
    assert [line["name"] for line in found["kl"]["series"]] == ["second"]  # the first has none
    assert found["clip-share"]["series"][0]["values"] == [0.75, 0.0]  # from below and from above
    hops = found["by-hops"]
    assert hops["x"][0]["words"] == ["1 hop, 2 questions", "2 hops, 2 questions"]
    assert [(line["name"], line["values"]) for line in hops["series"]] == [
        ("first, before training", [0.5, 1.0]),
        ("second, before training", [None, 1.0]),
    ]


def test_the_page_says_in_which_settings_the_runs_differ(two):
    shown = overlay.overview(two)
    assert shown["status"] == "2 runs. They differ in one setting: pool.rule.name."  # and no word of the secrets
    assert shown["differences"] == {
        "head": ["setting", "first", "second"],
        "rows": [["pool.rule.name", '"recycle"', '"grpo"']],
    }
    assert [run["status"] for run in shown["runs"]] == [page.status(read.run(folder)) for folder in two]
    (two[1] / "config.json").write_text((two[0] / "config.json").read_text())
    assert overlay.overview(two)["status"] == "2 runs. Their settings are the same."
    (two[1] / "config.json").write_text('{"evaluation": {"questions": 9}}')
    assert "accuracies may not be of the same task" in overlay.overview(two)["status"]


def test_the_command_writes_into_the_first_run_or_where_it_is_told(two, tmp_path, capsys):
    folders = list(map(str, two))
    assert cli.main(["report", *folders]) == 0
    assert capsys.readouterr().out.strip() == str(two[0] / "overlay.html")
    assert data_of((two[0] / "overlay.html").read_text(), "run-data")["name"] == "first, second"
    assert cli.main(["report", *folders, "--out", str(tmp_path / "both.html")]) == 0
    assert (tmp_path / "both.html").is_file() and not (two[0] / "report.html").exists()
    assert cli.main(["report", folders[0], str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert f"there is no folder {tmp_path / 'none'}; did you mean" in said and str(tmp_path / "first") in said


def test_what_leads_out_of_any_of_the_folders_is_refused(two, tmp_path, capsys):
    (tmp_path / "own").write_text("mine")
    (two[1] / "overlay.html").symlink_to(tmp_path / "own")
    assert cli.main(["report", *map(str, two)]) == 2
    assert f"{two[1]} holds what no run writes" in capsys.readouterr().err
    assert (tmp_path / "own").read_text() == "mine"


def test_a_folder_with_links_that_is_no_run_is_called_that(tmp_path, capsys):
    (tmp_path / "python").symlink_to("/usr/bin/env")
    for command in ("report", "ask"):
        assert cli.main([command, str(tmp_path), *["Who?"] * (command == "ask")]) == 2
        assert f"{tmp_path} is no run: it has no config.json; `qr-jax runs` lists" in capsys.readouterr().err


def test_hostile_text_of_several_runs_is_data_and_nothing_else(two, tmp_path):
    html = overlay.build([two[0], made(tmp_path / "third", HOSTILE)])
    assert html.count("<script") == 3 and html.count("</script") == 3 and "<img" not in html and "<!--" not in html
    assert "document.title='hit'" in json.dumps(data_of(html, "run-data")["differences"])  # a setting's value


@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH; apt-get install chromium")
def test_chromium_draws_several_runs_and_leaves_out_what_they_have_not(two, tmp_path):
    (two[0] / "config.json").write_text(json.dumps({"note": HOSTILE}))
    shown = dom(overlay.write(two, tmp_path / "both.html"), tmp_path)
    assert shown.count("<script") == 3 and "<img" not in shown
    for name in ("accuracy", "by-hops", "batch", "kl"):
        figure = re.search(rf'id="chart-{name}".*?</figure>', shown, re.DOTALL)
        assert figure and "<svg" in figure[0] and "second" in figure[0]
    assert (
        len(re.findall(r'class="line (ink|fresh) "', re.search(r'id="chart-batch".*?</figure>', shown, re.DOTALL)[0]))
        == 2
    )
    assert re.search(r'<section id="episodes"[^>]* hidden=""', shown)
    assert re.search(r'<section id="settings"[^>]* hidden=""', shown)
    assert not re.search(r'<section id="pool"[^>]* hidden=""', shown)
    assert 'class="runs"' in shown and "Settings in which they differ" in shown
