"""The report of a run folder: figures by hand, what it leaves out and says, and what hostile text can do (nothing)."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import tracemalloc
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from qr_jax.lab import null_control
from qr_jax.lab.report import charts, choose, history, page, read, series
from qr_jax.logging.metrics import WALL
from qr_jax.pool import figures
from qr_jax.run import run_files

ROOT = Path(__file__).resolve().parents[1].parent
HOSTILE = "</script><script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\"><!-- \u2028 \ud800"
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


def draw(step: int, query: str, rewards: list[float | None], *, accepted: bool = False) -> dict:
    """A line of ledger.jsonl."""
    valid = [reward for reward in rewards if reward is not None]
    kinds = {(True, False): "hard", (False, True): "easy"}
    verdict = kinds.get((not any(valid), all(valid)), "signal") if len(valid) > 1 else "fault"
    return {
        "step": step, "query": query, "origin": "fresh", "rewards": rewards, "successes": int(sum(valid)),
        "valid": len(valid), "verdict": verdict, "accepted": accepted, "tokens": 8, "searches": 2,
    }  # fmt: skip


def metrics(step: int, **more) -> dict:
    """A line of metrics.jsonl: 4 groups drawn, 2 of them fresh and accepted, at 8 rollouts a step."""
    counts = {name: 0 for ratio in figures.RATIOS.values() for name in ratio}
    counts |= {"drawn": 4, "accepted": 2, "accepted_fresh": 2, "zero_variance": 2, "rollouts": 8, "wanted": 4}
    row = {"step": step, "reward/outcome_mean": 0.5, "budget/rollouts": 8 * step, "budget/tokens": 80 * step}
    row |= {"budget/searches": 10 * step, "time/step_s": 2.0, "time/rollout_s": 1.5, "time/learner_s": 0.5}
    return row | {f"pool/{name}": count for name, count in counts.items()} | more


def episode(query: str, sample: int, reward: float, text: str = "<answer> a </answer>") -> dict:
    """A line of an episodes file: a search, a passage, an answer of two tokens."""
    turns = [
        {"author": "env", "text": text, "queries": [text], "passages": [[text]]},
        {"author": "model", "text": text, "pieces": [text[:3], text[3:]], "logp": [-0.5, -0.25]},
    ]
    return {
        "query": query, "sample": sample, "question": text, "golds": [text], "answer": text, "reward": reward,
        "advantage": 0.5, "verdict": "signal", "accepted": True, "stop": "answered", "fault": None, "tokens": 2,
        "context_tokens": 9, "turns": turns,
    }  # fmt: skip


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def run(tmp_path) -> Path:
    return made(tmp_path / "run")


def made(folder: Path, text: str = "<answer> a </answer>") -> Path:
    """A run of 3 steps: q0 is all wrong, then all right, then mixed and accepted; q1 is drawn in each, a fault."""
    (folder / "episodes").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"train": {"steps": 5}, "log": {"api_key": "k"}, "note": text}))
    (folder / "metrics.jsonl").write_text(lines([metrics(step) for step in (1, 2, 3)]))
    q0 = [draw(1, "q0", [0.0, 0.0]), draw(2, "q0", [1.0, 1.0]), draw(3, "q0", [1.0, 0.0], accepted=True)]
    q1 = [draw(step, text, [1.0, None]) for step in (1, 2, 3)]
    (folder / "ledger.jsonl").write_text(lines([row for pair in zip(q0, q1, strict=True) for row in pair]))
    for step in (1, 2, 3):
        rows = [episode(query, sample, 1.0, text) for query in ("q0", text) for sample in (0, 1)]
        (folder / "episodes" / f"step_{step:06d}.jsonl").write_text(lines(rows))
    return folder


def data_of(html: str, name: str) -> dict:
    """The JSON of one of the page's data blocks, as a browser would cut it out."""
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_a_rate_of_several_steps_is_made_of_summed_counts():
    rows = [{"a": 1, "b": 2}, {"a": 3, "b": 10}, {"a": None, "b": None}]
    assert series.ratio(rows, "a", "b") == 4 / 12
    assert series.ratio(rows[2:], "a", "b") is None
    assert series.ratio(rows[:1], "a", "b", least=5) is None


def test_steps_are_dealt_into_lots_that_differ_by_one_at_most():
    lots = series.bins([{"step": step} for step in range(1, 101)], 40)
    assert [row["step"] for lot in lots for row in lot] == list(range(1, 101))
    assert {len(lot) for lot in lots} == {2, 3}
    assert series.said(lots) == " Each point is 2 or 3 steps."


def test_held_out_accuracy_stands_at_the_budget_it_was_measured_at():
    rows = [metrics(1), metrics(2, **{"eval/exact_match": 0.6}), metrics(3)]
    found = charts.accuracy(
        rows, {"exact_match": 0.5, "exact_match_se": 0.1, "questions": 24}, {"exact_match": 0.7}, True
    )
    held = found["series"][1]
    assert held["values"] == [0.5, 0.6, 0.7]
    assert held["x"] == [[0, 16, 24], [0, 160, 240], [0, 20, 30]]
    assert held["high"][:2] == pytest.approx([0.5 + 1.96 * 0.1, 0.6 + 1.96 * 0.1])  # (.6 * .4 / 24) ** .5 = .1
    rows[1]["eval/questions"] = 6  # fewer than before and after: twice as wide
    found = charts.accuracy(rows, {"exact_match": 0.5, "questions": 24}, {"exact_match": 0.7}, True)
    assert found["series"][1]["high"][1] == pytest.approx(0.6 + 1.96 * 0.2)
    assert found["series"][1]["hollow"] == [False, True, False]
    assert "24 questions (6 between the first and the last, hollow)." in found["note"]


def test_the_phases_of_a_step_add_up_to_it_and_steps_that_compile_are_left_out():
    rows = [metrics(1, **{"perf/compiles": 3, "time/step_s": 90.0}), metrics(2, **{"time/decode_s": 1.0}), metrics(3)]
    found = charts.phases(rows)
    assert found["x"][0]["values"] == [2.0, 3.0]
    assert [sum(one["values"][at] for one in found["series"]) for at in (0, 1)] == [2.0, 2.0]
    assert "Left out: step 1, which compiled programs and took 90.0 s." in found["note"]


def test_the_null_control_is_drawn_beside_the_run_over_the_stretches_both_have():
    band = {"mean": [1.0, 0.75, 0.5], "low": [1.0, 0.5, 0.25], "high": [1.0, 1.0, 0.75]}
    names = (*charts.PANELS, "accepted")
    null = {"seeds": 4, "rollouts": [8.0, 16.0, 24.0], "bands": dict.fromkeys(names, band), "summary": {}}
    null["run"] = {"rollouts": [8, 16], **{name: [0.9, 0.8] for name in names}}
    rows = [metrics(1), metrics(2)]
    panel = charts.null_panels(null)[0]
    assert panel["x"][0]["values"] == [4.0, 12.0]
    assert [one["values"] for one in panel["series"]] == [[1.0, 0.75], [0.9, 0.8]]
    assert charts.batch(rows, null)["band"] == {
        "x": [1.0, 2.0],
        "values": [1.0, 0.75],
        "low": [1.0, 0.5],
        "high": [1.0, 1.0],
    }


@pytest.mark.parametrize(("left", "chance", "said", "not_said"), [
    (1, 0.2, "cannot tell luck from learning", "all the same"),
    (2, 0.2, "cannot tell luck from learning", "all the same"),
    (3, 0.2, "leaves the band all the same, in 3 of 4 stretches. Luck alone seldom does that", "cannot tell"),
    (4, 0.2, "leaves the band all the same, in 4 of 4 stretches. Luck alone seldom does that", "cannot tell"),
    (1, 0.12, "bears signal", "wide range"),
])  # fmt: skip
def test_luck_is_not_said_where_the_run_leaves_its_band_in_most_stretches(left, chance, said, not_said):
    """`flipped` is outside in the first stretches of four; the range of a chance is wide from .1 to .2."""
    band = {"mean": [0.3] * 4, "low": [0.1] * 4, "high": [0.5] * 4}
    run = dict.fromkeys(null_control.NAMES, [0.3, 0.2, 0.3, 0.3])
    run |= {"flipped": [0.6 + 0.01 * at if at < left else 0.3 for at in range(3)] + [0.9 if left == 4 else 0.2]}
    null = {"plays": 8, "chances": {"hard": (0.1, chance), "easy": None}, "run": run}
    told = page._beside_chance(null | {"bands": dict.fromkeys(null_control.NAMES, band)}, {"pool": {"samples": 4}})
    assert said in told and not_said not in told


def test_of_the_known_pools_that_never_move_one_leaves_its_band_in_most_stretches():
    """That is why the page says "seldom"."""
    worlds = json.loads((ROOT / "benchmarks/results/null_worlds.json").read_text())["frozen"].values()
    assert (sum(world["stretches"] > 0.5 for world in worlds), len(worlds)) == (1, 22)


def test_a_query_flips_in_the_step_that_accepts_it_after_a_zero_variance_verdict():
    rows = [draw(1, "q", [0.0, 0.0]), draw(4, "q", [1.0, 0.0], accepted=True), draw(6, "q", [1.0, 0.0], accepted=True)]
    assert [history.flipped(rows, step) for step in (1, 4, 6)] == [False, True, True]
    assert [history.fate(rows[:n]) for n in (1, 2, 3)] == ["hard", "from_hard", "from_hard"]
    assert history.fate([draw(1, "q", [1.0, 0.0])]) == "other"
    assert history.fate([draw(1, "q", [1.0, None])]) == "other"


def test_the_heat_map_shows_queries_drawn_again_and_counts_those_it_leaves_out():
    draws = [draw(step, f"q{at}", [0.0, 0.0] if at % 2 else [1.0, 1.0]) for step in (1, 2) for at in range(600)]
    found = history.heat(history.histories([*draws, draw(2, "once", [0.0, 0.0])]), 2, 1000)
    assert (found["again"], found["drawn"], found["shown"]) == (600, 601, history.MOST_ROWS)
    assert [(one["name"], one["count"], len(one["rows"])) for one in found["sections"]] == [
        ("hard", 300, 120),
        ("easy", 300, 120),
    ]
    assert found["sections"][0]["rows"][0]["cells"] == [[1, "hard", 0, 2, False], [2, "hard", 0, 2, False]]


def test_all_groups_of_the_last_step_are_shown_and_some_of_each_kind_of_those_before():
    draws = [draw(step, f"q{at}.{step}", [0.0, 0.0] if at else [1.0, 1.0]) for step in range(1, 101) for at in range(5)]
    found = history.histories(draws)
    keys, counts = choose.order(found, 100)
    assert counts == {"hard": 400, "easy": 100, "signal": 0, "flipped": 0, "fault": 0}
    assert [step for step, _ in keys[:5]] == [100] * 5
    assert len(keys) == 5 + 2 * choose.PER_KIND
    later = choose.order(history.histories([*draws, draw(101, "new", [0.0, 0.0])]), 101)[0]
    assert len(set(keys) - set(later)) <= 5  # a step later the choice is hardly another one


def test_code_that_changed_during_the_run_is_said(run):
    assert "changed" not in page.status(read.run(run))
    kept = {"rule": {"name": "mine.rule", "earlier": ["ab"]}, "loss": {"name": "clip"}, "env": 3}
    (run / "plugins.json").write_text(json.dumps(kept))
    assert page.status(read.run(run)).endswith("The code of rule 'mine.rule' changed during the run.")


def test_the_status_says_what_sets_a_run_apart(run):
    usual = read.run(run)
    assert "adapters" not in page.status(usual) and "shuffled" not in page.status(usual)
    config = {"model": {"name": "m", "lora": {"rank": 8}}, "train": {"overlap": 1, "shuffle_rewards": True}, "seed": 3}
    told = page.status(replace(usual, config=config))
    assert told.endswith("seed 3, adapters of rank 8, rollouts during updates, rewards shuffled.")


def test_groups_stand_under_their_verdict_flips_and_faults(run):
    found = read.run(run)
    shown = choose.choose(found, history.histories(found.draws))
    assert shown["counts"] == {"hard": 1, "easy": 1, "signal": 1, "flipped": 1, "fault": 3}
    assert shown["shown"] == shown["counts"]
    assert [(group["step"], group["kinds"]) for group in shown["groups"][:2]] == [
        (3, ["signal", "flipped"]),
        (3, ["fault"]),
    ]
    assert shown["groups"][0]["history"][2] == [3, "signal", 1, 2, True]
    assert "6 of the run's 6 groups" in shown["rule"]


def test_an_episode_reaches_the_loss_when_its_group_is_accepted_and_it_is_neither_a_fault_nor_cut_off(run):
    (run / "config.json").write_text('{"rollout": {"overlong": "mask"}}')
    rows = [episode("q0", 0, 1.0), episode("q0", 1, 0.0) | {"stop": "length"}, episode("q0", 2, 0.0) | {"fault": "x"}]
    (run / "episodes" / "step_000003.jsonl").write_text(lines(rows))
    found = read.run(run)
    groups = choose.choose(found, history.histories(found.draws))["groups"]
    trained = [[sample["trained"] for sample in group["samples"]] for group in groups if group["query"] == "q0"]
    assert trained == [[True, False, False], [False, False], [False, False]]  # accepted in step 3 alone


def test_a_size_limit_on_episodes_is_said_on_the_page(run, monkeypatch):
    monkeypatch.setattr(choose, "MOST_BYTES", 2500)
    found = read.run(run)
    shown = choose.choose(found, history.histories(found.draws))
    left_out = 6 - len(shown["groups"])
    assert 0 < left_out < 6 and f"{left_out} more that it chose are left out" in shown["rule"]


def test_a_live_run_is_read_up_to_the_last_whole_line(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write("no json\n" + json.dumps(metrics(4)) + "\n" + json.dumps(metrics(5))[:40])
    with (run / "ledger.jsonl").open("a") as file:
        file.write(lines([draw(4, "q0", [0.0, 0.0]), draw(5, "q0", [0.0, 0.0])]) + '{"step": 5')
    with (run / "episodes" / "step_000004.jsonl").open("w") as file:
        file.write(lines([episode("q0", 0, 1.0)]) + '{"query": "q0", "tur')
    (run / "before.json").write_text('{"exact_match": 0.125}')
    found = read.run(run)
    assert found.before == {"exact_match": 0.125}
    assert ([row["step"] for row in found.metrics], found.unread, found.ended) == ([1, 2, 3, 4], 1, False)
    assert max(row["step"] for row in found.draws) == 4  # step 5 has no metrics yet
    html = page.build(run)
    assert data_of(html, "run-data")["status"].startswith("Step 4, 80 % of the budget.")
    group = data_of(html, "episodes-data")["groups"][0]
    assert (group["step"], len(group["samples"])) == (4, 1)


def test_a_pipe_in_a_file_s_place_is_waited_for_by_nobody(run):
    """As one that takes a file's place while the report is made."""
    for name in ("metrics.jsonl", "ledger.jsonl", "summary.json", "config.json"):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)
    (run / "config.json").unlink()
    (run / "config.json").write_text("{}")
    found = read.run(run)
    assert found.metrics == () and found.draws == () and not found.ended


def test_lines_longer_than_a_run_s_cost_no_memory_and_more_of_them_are_refused(run, monkeypatch):
    whole = read.run(run)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 9, "a": "' + b"x" * 40_000_000 + b'"}\n')
    os.truncate(run / "metrics.jsonl", 120_000_000)  # and a last one without its end
    os.truncate(run / "episodes" / "step_000003.jsonl", 120_000_000)
    tracemalloc.start()
    found, groups = read.run(run), list(read.episodes(run, 3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.metrics, found.unread) == (whole.metrics, 1)
    assert groups and peak < 5 * run_files.MOST[".jsonl"].line_bytes
    monkeypatch.setitem(run_files.MOST, "metrics.jsonl", run_files.Most(2**29, lines=3, line_bytes=2**16))
    with pytest.raises(ValueError, match="more than 3 lines"):
        read.run(run)


def test_a_run_before_its_first_step_has_a_page_and_a_folder_that_is_no_run_has_an_error(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert data_of(page.build(tmp_path), "run-data")["charts"] == {}
    with pytest.raises(ValueError, match="there is no folder .*nowhere"):
        page.write(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="there is no folder .*none to write page.html into; make it first"):
        page.write(tmp_path, tmp_path / "none" / "page.html")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "sft/loss": 0.5}\n')
    with pytest.raises(ValueError, match="holds a cold start alone"):
        page.write(tmp_path)


def test_what_no_row_of_ours_has_is_not_kept(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metrics(4, x=[[]] * 1000)) + "\n" + json.dumps({str(at): 0 for at in range(3000)}) + "\n")
    found = read.run(run)
    assert "x" not in found.metrics[-1] and found.metrics[-1]["step"] == 4


def test_numbers_that_are_none_reach_the_page_as_null(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metrics(4, **{"reward/outcome_mean": float("nan")})) + "\n")
    assert data_of(page.build(run), "run-data")["charts"]["accuracy"]["series"][0]["values"][3] is None


def test_secrets_among_the_settings_are_not_told(run):
    assert ["log.api_key", "[redacted]"] in data_of(page.build(run), "run-data")["settings"]


def test_hostile_text_is_data_and_nothing_else(tmp_path):
    html = page.write(made(tmp_path / "run", HOSTILE)).read_text(encoding="utf-8")
    assert html.count("<script") == 3 and html.count("</script") == 3 and "<img" not in html and "<!--" not in html
    shown = data_of(html, "episodes-data")["groups"]
    assert any(group["question"] == HOSTILE.replace("\ud800", "?") for group in shown)


def test_the_policy_allows_this_style_and_this_script_and_no_address(run):
    html = page.build(run)
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1])
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "connect-src" not in policy
    for kind, tag in (("style", "<style>(.*?)</style>"), ("script", "<script>(.*?)</script>")):
        text = re.search(tag, html, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    addresses = set(re.findall(r"https?://[^\s'\"]+", html))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|\son\w+=|style=", html)


def dom(path: Path, folder: Path) -> str:
    """The page as Chromium has drawn it, without a word on its console."""
    options = ["--headless=new", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom"]
    options += ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    options += [f"--user-data-dir={folder / 'profile'}"] + (["--no-sandbox"] if os.geteuid() == 0 else [])
    done = subprocess.run(
        [str(BROWSER), *options, path.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    assert ":CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH; apt-get install chromium")
def test_chromium_draws_the_page_without_a_word_and_hostile_text_stays_text(tmp_path):
    shown = dom(page.write(made(tmp_path / "run", HOSTILE)), tmp_path)
    assert "<title>run · qr-jax report</title>" in shown and "<img" not in shown
    assert shown.count("<script") == 3
    drawn = ("accuracy", "batch", "zero-variance", "time", "tokens", "latency", "gap", "heat")
    assert all(re.search(rf'id="chart-{name}".*?<svg', shown, re.DOTALL) for name in drawn)
    assert shown.count('class="token"') == 2 and 'role="tablist"' in shown
    assert shown.count('<p class="note plain">In plain words: ') == 3  # under the batch, the rates and the verdicts
    assert re.search(r'aria-label="The chosen group"><p class="meta">step 2 ', shown)  # not the newest, of step 3


def test_goodput_and_mfu_are_among_the_first_figures_of_a_run_that_wrote_them():
    assert page._use([metrics(1)]) == []
    shares = dict.fromkeys(WALL, 0.0) | {"rollout": 0.5, "learner": 0.25, "start": 0.25}
    last = metrics(2, **{"perf/goodput": 0.75, "perf/mfu": 0.41, "perf/decode_bandwidth": 0.325})
    good, mfu = page._use([metrics(1), last | {f"time/of_wall_{name}": share for name, share in shares.items()}])
    assert (good["label"], good["value"]) == ("Goodput", ".750")
    assert "rollout .500, search wait .000, learner .250, evaluation .000, start .250" in good["beside"]
    assert (mfu["label"], mfu["value"]) == ("MFU", ".410") and "reads at .325 of the memory's" in mfu["beside"]
