"""The figures in the sentences of claims.PAGES, each held against the result that bears it."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import claims, kept_runs, null_worlds, quickstart_seeds, study_results  # noqa: E402


@pytest.fixture(params=claims.PAGES, ids=lambda page: page.name)
def page(request):
    return request.param.read_text(encoding="utf-8")


def test_every_figure_of_the_pages_is_that_of_its_cell(page):
    assert claims.written(page) == page, "run python -m benchmarks.figures --write"


def found_on(page):
    """Where each figure of the page ends, and the figure."""
    return [(block.start() + figure.end(), figure[0]) for block in claims.HELD.finditer(page)
            for figure in claims.FIGURE.finditer(block["block"])]  # fmt: skip


def least(page):
    """How many figures are tried: three, or all where a page has fewer."""
    return min(3, len(found_on(page)))


def is_exact(figure):
    """True for a count and for .000, in which the last digit is the claim."""
    return " of " in figure or figure == ".000"


def test_a_digit_that_is_changed_on_the_page_is_noticed(page):
    """The last digit of each figure, all at once: each becomes what it was."""
    ends = [end for end, figure in found_on(page) if not is_exact(figure)]
    changed = list(page)
    for end in ends:
        changed[end - 1] = str(int(page[end - 1]) % 9 + 1)  # another, and not 0
    assert len(ends) >= least(page) and claims.written("".join(changed)) == page


def test_a_count_a_zero_or_a_sign_that_is_changed_on_the_page_is_refused(page):
    """One at a time, in its paragraph: words go with them, so nothing is written over them."""
    turned, changes = {"+": "-", "-": "+"}, []
    for part in (held[0] for held in claims.HELD.finditer(page)):
        figures = found_on(part)
        changes += [part[: end - 1] + "7" + part[end:] for end, figure in figures if is_exact(figure)]
        starts = [(end - len(figure), figure[0]) for end, figure in figures if not figure.startswith(".000")]
        changes += [part[:start] + turned[sign] + part[start + 1 :] for start, sign in starts if sign in turned]
        changes += [part[:start] + "-" + part[start:] for start, sign in starts if sign == "."]
    assert len(changes) >= least(page)
    for changed in changes:
        with pytest.raises(ValueError, match="another sign, count, or side of the interval"):
            claims.written(changed)


def test_what_a_figure_says_is_its_sign_and_whether_its_interval_holds_0():
    """By hand: level is neither a lead nor a loss, and a lead within its interval is none."""
    assert claims.says("+.020 +- .014") == claims.says(".020\n+- .014") == (1, False)
    assert claims.says("+.010 +- .014") == (1, True) and claims.says("-.077 +- .027") == (-1, False)
    assert claims.says(".000 +- .014") == (0, True) and claims.says(".794") == (1, False)


def test_a_result_that_is_changed_is_noticed(tmp_path, monkeypatch):
    """Guarded recycling's seed 5 at 10,000 questions, one evaluation of ten."""
    shutil.copytree(study_results.RESULTS / "b", tmp_path / "b")
    monkeypatch.setattr(study_results, "RESULTS", tmp_path)
    file = tmp_path / "b/s1/recycle/seed_5.json"
    run = json.loads(file.read_text())
    run["evaluations"][-2][1] -= 0.05
    file.write_text(json.dumps(run))
    for path in claims.PAGES[:2]:
        page = path.read_text(encoding="utf-8")
        assert claims.written(page) != page


def test_a_lead_that_a_result_takes_away_is_refused(tmp_path, monkeypatch):
    """The same seed behind plain GRPO by far: no longer 5 of 5 seeds, and the page says so in words."""
    shutil.copytree(study_results.RESULTS / "b", tmp_path / "b")
    monkeypatch.setattr(study_results, "RESULTS", tmp_path)
    file = tmp_path / "b/s1/recycle/seed_5.json"
    run = json.loads(file.read_text())
    run["evaluations"] = [[rollouts, score - 0.2] for rollouts, score in run["evaluations"]]
    file.write_text(json.dumps(run))
    for path in claims.PAGES[:2]:
        with pytest.raises(ValueError, match="of recycle-grpo/s1/pooled, which is (4 of 5|-.0)"):
            claims.written(path.read_text(encoding="utf-8"))


def test_a_changed_play_of_a_known_pool_is_refused(tmp_path, monkeypatch):
    """A moved pool that leaves its band no more: 6 of 11 for 7 of 11."""
    kept = json.loads(null_worlds.FILE.read_text())
    kept["moved"]["coins, grpo, K 8"]["stretches"] = 0.2
    monkeypatch.setattr(null_worlds, "FILE", tmp_path / "null_worlds.json")
    null_worlds.FILE.write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="the page says 7 of 11 of null/left/8, which is 6 of 11"):
        claims.written(claims.PAGES[2].read_text(encoding="utf-8"))


def test_a_changed_run_of_the_quickstart_is_noticed(tmp_path, monkeypatch):
    readme, fresh = claims.PAGES[0].read_text(encoding="utf-8"), "quickstart/after/fresh"
    before = claims.as_written(".500 +- .001", fresh)
    runs = json.loads(kept_runs.file_of("quickstart_seeds").read_text())
    todays = [
        run for run in runs["runs"] if run.get("preset", quickstart_seeds.FIRST_PRESET) == quickstart_seeds.preset()
    ]
    next(run for run in todays if run["seed"] == 21)["after"] = 0.95
    for name in ("quickstart_seeds", "single_hop", "real_agent"):
        shutil.copy(kept_runs.file_of(name), tmp_path)
    (tmp_path / "quickstart_seeds.json").write_text(json.dumps(runs))
    monkeypatch.setattr(kept_runs, "file_of", lambda name: tmp_path / f"{name}.json")
    after = claims.as_written(".500 +- .001", fresh)
    assert before in readme and after != before and claims.written(readme) == readme.replace(before, after)


def test_runs_of_another_preset_of_the_quickstart_are_kept_and_not_counted():
    runs = kept_runs.kept("quickstart_seeds")
    others = [run | {"preset": "recycle, 1 x 2 at 1", "after": 0.0} for run in runs]
    assert quickstart_seeds.table([*others, *runs]) == quickstart_seeds.table(runs)
    assert quickstart_seeds.of_seeds(others, [20], "after") == [[]]


def test_a_figure_without_a_cell_is_refused(page):
    with pytest.raises(ValueError, match=r"'\+\.123' has no cell"):
        claims.written(f"A rule leads by +.123.\n\n{page}")
    comment = re.search("<!-- cells: .*? -->", page, re.DOTALL)[0]
    with pytest.raises(ValueError, match="has no cell"):
        claims.written(page.replace(comment, ""))
    with pytest.raises(ValueError, match="names 1 cells"):
        claims.written("From .100 to .200.\n<!-- cells: grpo-paper/s6/pooled -->\n")
    with pytest.raises(ValueError, match="there is no cell 'grpo-papr/s6/pooled'"):
        claims.written("By .100.\n<!-- cells: grpo-papr/s6/pooled -->\n")


def test_a_figure_without_a_sign_says_that_its_cell_is_positive():
    said = "{} by {}.\n<!-- cells: {} -->\n"
    behind = said.format("It is behind", ".456 +- .123", "grpo-paper/s6/pooled")
    assert re.search(r"behind by \.\d{3} \+- \.\d{3}\.\n", claims.written(behind))
    with pytest.raises(ValueError, match="which is -.077.*change its words"):
        claims.written(said.format("It leads", ".456 +- .123", "paper-grpo/s6/pooled"))
    assert re.search(
        r"less it, by -\.\d{3}\.\n", claims.written(said.format("less it,", "-.123", "paper-grpo/s6/pooled"))
    )


def test_a_figure_keeps_its_form():
    cells = "paper-grpo/s4/pooled recycle-grpo/s1/pooled map/most"
    found = claims.written(f"On 0 of 5 seeds, on 5 of 5, up to 9.99 times.\n<!-- cells: {cells} -->\n")
    assert found.startswith("On 0 of 5 seeds, on 5 of 5, up to 1.26 times.\n")
    with pytest.raises(ValueError, match="the page says 2 of 5 of recycle-grpo/s1/pooled, which is 5 of 5"):
        claims.written("On 2 of 5.\n<!-- cells: recycle-grpo/s1/pooled -->\n")
    level = claims.written("Level (.000 +- .900).\n<!-- cells: paper-grpo/s1/pooled -->\n")
    assert level.startswith("Level (.000 +- .014).")
