"""The figures in the sentences of README.md and docs/rules.md, each held against the result that bears it."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import claims, kept_runs, study_results  # noqa: E402


@pytest.fixture(params=claims.PAGES, ids=lambda page: page.name)
def page(request):
    return request.param.read_text(encoding="utf-8")


def test_every_figure_of_the_pages_is_that_of_its_cell(page):
    assert claims.written(page) == page, "run python -m benchmarks.figures --write"


def test_a_digit_that_is_changed_on_the_page_is_noticed(page):
    """The last digit of each figure, all at once: each becomes what it was."""
    ends = [block.start() + found.end() for block in claims.HELD.finditer(page)
            for found in claims.FIGURE.finditer(block["block"])]  # fmt: skip
    changed = list(page)
    for end in ends:
        changed[end - 1] = str((int(page[end - 1]) + 1) % 10)
    assert len(ends) >= 10 and claims.written("".join(changed)) == page


def test_a_result_that_is_changed_is_noticed(tmp_path, monkeypatch):
    """Guarded recycling's seed 5 at 10,000 questions, one evaluation of ten."""
    shutil.copytree(study_results.RESULTS / "b", tmp_path / "b")
    monkeypatch.setattr(study_results, "RESULTS", tmp_path)
    file = tmp_path / "b/s1/recycle/seed_5.json"
    run = json.loads(file.read_text())
    run["evaluations"][-2][1] -= 0.05
    file.write_text(json.dumps(run))
    for path in claims.PAGES:
        page = path.read_text(encoding="utf-8")
        assert claims.written(page) != page


def test_a_changed_run_of_the_quickstart_is_noticed(tmp_path, monkeypatch):
    readme = claims.PAGES[0].read_text(encoding="utf-8")
    runs = json.loads(kept_runs.file_of("quickstart_seeds").read_text())
    next(run for run in runs["runs"] if run["seed"] == 20)["after"] = 0.9
    for name in ("quickstart_seeds", "single_hop", "real_agent"):
        shutil.copy(kept_runs.file_of(name), tmp_path)
    (tmp_path / "quickstart_seeds.json").write_text(json.dumps(runs))
    monkeypatch.setattr(kept_runs, "file_of", lambda name: tmp_path / f"{name}.json")
    assert claims.written(readme) == readme.replace(".821 +- .039", ".835 +- .059")


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
    behind = said.format("It is behind", ".123 +- .456", "grpo-paper/s6/pooled")
    assert re.search(r"behind by \.\d{3} \+- \.\d{3}\.\n", claims.written(behind))
    with pytest.raises(ValueError, match="the sentence says the opposite"):
        claims.written(said.format("It leads", ".123 +- .456", "paper-grpo/s6/pooled"))
    assert re.search(
        r"less it, by -\.\d{3}\.\n", claims.written(said.format("less it,", "+.123", "paper-grpo/s6/pooled"))
    )


def test_a_figure_keeps_its_form():
    cells = "paper-grpo/s4/pooled recycle-grpo/s1/pooled most/recycling_map"
    found = claims.written(f"On 9 of 9 seeds, on 1 of 5, up to 9.99 times.\n<!-- cells: {cells} -->\n")
    assert found.startswith("On 0 of 5 seeds, on 5 of 5, up to 1.17 times.\n")
