"""The report's charts of the learner, of behaviour and of the cold start; its page before step 1 and of few steps."""

import json
import re

import pytest
from test_report import BROWSER, data_of, dom, draw, lines, made, metrics

from qr_jax import evaluate
from qr_jax.lab import null_control
from qr_jax.lab.report import charts, choose, curves, history, page, read, run_list, series

LEARNED = {"reward/mean": 0.5, "learner/grad_norm": 2.0, "learner/clip_low": 0.0, "learner/clip_high": 0.25}
LEARNED |= {"rollout/entropy": 0.5, "rollout/tokens": 12.0, "rollout/searches": 2.0, "rollout/turns": 3.0}
LEARNED |= {"learner/dual": 0.0, "rollout/stop_answered": 0.75, "rollout/stop_length": 0.25, "rollout/stop_fault": 0.0}


def names(chart: charts.Chart) -> list[str]:
    return [line["name"] for line in chart["series"]]


def test_a_metric_that_no_step_has_is_not_drawn_nor_is_a_chart_without_one():
    assert curves.make([{"step": 1}]) == {}
    found = curves.make([metrics(1, **LEARNED), metrics(2, **LEARNED | {"learner/grad_norm": None})])
    assert [*found] == ["reward", "entropy", "grad-norm", "clip-share", "length", "searches", "endings"]  # and no KL
    assert found["grad-norm"]["series"][0]["values"] == [2.0, None]
    assert names(found["clip-share"]) == ["from below", "from above"]  # the dual clip never cut
    assert names(found["endings"]) == ["answered", "length"]
    assert names(found["reward"]) == ["reward"]  # the pass rate is the same line
    assert names(curves.make([metrics(1, **{"reward/mean": 0.75})])["reward"]) == ["reward", "pass rate"]


def test_parallel_searches_are_drawn_where_there_are_any():
    assert names(curves.make([metrics(1, **LEARNED, **{"rollout/parallel_turns": 0.0})])["searches"])[2:] == []
    rows = [metrics(step, **LEARNED, **{"rollout/parallel_turns": step / 4}) for step in (1, 2)]
    drawn = curves.make(rows)["searches"]["series"][2]
    assert (drawn["name"], drawn["values"]) == ("turns of several searches", [0.25, 0.5])


def test_a_clip_that_never_cut_says_so():
    assert curves.make([metrics(1, **LEARNED)])["clip-share"]["note"].endswith("those whose ratio was cut.")
    found = curves.make([metrics(1, **{"learner/clip_low": 0.0, "learner/clip_high": 0.0})])["clip-share"]
    assert (names(found), found["note"][-22:]) == (["from below"], " None was in any step.")


def test_accuracy_by_groups_stands_before_and_after_within_0_and_1():
    before = {"by_hops": {"1": {"questions": 4, "exact_match": 0.5, "exact_match_se": 0.1}}}
    after = {"by_hops": {"1": {"questions": 4, "exact_match": 0.95, "exact_match_se": 0.1}, "2": {"exact_match": None}}}
    found = curves.by_group(before, after)
    assert [*found] == ["by-hops"]
    assert found["by-hops"]["x"][0]["words"] == ["1 hop, 4 questions", "2 hops"]
    was, now = found["by-hops"]["series"]
    assert (was["values"], now["values"]) == ([0.5, None], [0.95, None])
    assert was["low"] == [pytest.approx(0.5 - 1.96 * 0.1), None]
    assert now["high"] == [pytest.approx(0.998, abs=1e-3), None]  # Wilson's, and not 1.146
    low, high = series.interval([0.1], [0.1], [9])  # 0 to .296 if it were cut: a table prints Wilson's ends
    assert (low, high) == ([pytest.approx(0.0166, abs=1e-3)], [pytest.approx(0.4227, abs=1e-3)])
    printed = evaluate.interval({"exact_match": 0.1, "exact_match_se": 0.1, "questions": 9}, "exact_match")
    assert printed == f".100 ({evaluate.score_text(low[0])} to {evaluate.score_text(high[0])})"
    assert series.interval([0.0], [0.0], [40])[1] == [pytest.approx(0.0876, abs=1e-4)]  # Wilson's 3.84 / 43.84
    named = {"by_dataset": {"x" * 999: {"exact_match": 0.5}}}
    assert [len(word) for word in curves.by_group(named, {})["by-dataset"]["x"][0]["words"]] == [curves.MOST_LETTERS]


def test_long_runs_keep_points_to_look_closer_at():
    found = curves.make([metrics(step, **LEARNED) for step in range(1, 301)])
    assert len(found["reward"]["series"][0]["values"]) == 300
    assert found["reward"]["smooth"]


def test_every_pool_chart_says_in_plain_words_what_it_shows():
    band = dict.fromkeys(("mean", "low", "high"), [0.5])
    null = {"seeds": 1, "rollouts": [8.0], "bands": dict.fromkeys((*charts.PANELS, "accepted"), band)}
    null |= {"run": {"rollouts": [8], **dict.fromkeys(charts.PANELS, [0.5])}}
    found = charts.make([metrics(1)], {}, {}, {}, ended=False, null=null)
    pool = re.search(r'<section id="pool".*?</section>', page.asset("page.html"), re.DOTALL)
    assert pool
    ids = " ".join(re.findall(r'data-charts="([^"]*)"', pool[0])).split()
    assert len(ids) == 7 and all(found[name]["plain"].startswith("In plain words: ") for name in ids)
    assert "In plain words: " in page.asset("heat.js")


COLD = lines([{"step": step, "sft/loss": 1 / step} for step in (1, 2, 3)])


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "loading the model and compiling; the cold start is next"),
        ({"sft/config.json": "{}"}, "cold start, reading the expert's traces"),
        ({"sft/config.json": "{}", "sft/metrics.jsonl": COLD}, "cold start, step 3 of 400"),
        ({"sft/metrics.jsonl": COLD, "sft/summary.json": "{}"}, "the cold start is done; evaluating before training"),
        ({"before.json": '{"exact_match": 0.5}'}, "compiling the learner and rolling out step 1"),
    ],
)
def test_before_step_1_the_page_says_the_phase_and_draws_the_cold_start(tmp_path, monkeypatch, files, told):
    (tmp_path / "config.json").write_text('{"sft": {"steps": 400}}')
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    shown = data_of(page.build(tmp_path), "run-data")
    assert shown["status"].startswith(f"Before step 1: {told} (no process writes it now). Model ")
    monkeypatch.setattr(run_list, "is_held", lambda folder: True)
    assert page.status(read.run(tmp_path)).startswith(f"Before step 1: {told}. Model ")
    assert [*shown["charts"]] == (["cold-start"] if "sft/metrics.jsonl" in files else [])
    if shown["charts"]:
        assert shown["charts"]["cold-start"]["series"][0]["values"] == [1.0, 0.5, 1 / 3]


def test_the_page_opens_on_a_question_that_was_all_wrong_and_later_the_most_often_right(tmp_path):
    better = [draw(1, "better", [0.0, 0.0]), draw(3, "better", [1.0, 1.0])]
    good = [draw(2, "good", [0.0, 0.0]), draw(3, "good", [1.0, 0.0])]
    fell = [draw(1, "fell", [1.0, 0.0]), draw(3, "fell", [0.0, 0.0])]
    found = history.histories([*good, *better, *fell])
    pairs = [((1, "better"), (3, "better")), ((2, "good"), (3, "good"))]
    assert choose.learned(found) == pairs
    assert choose.order(found, 3)[0][:4] == [key for pair in pairs for key in pair]

    run = read.run(made(tmp_path / "run"))  # q0: all wrong, all right, mixed
    shown = choose.choose(run, history.histories(run.draws))
    opened = shown["groups"][shown["opens"]]
    assert (opened["step"], opened["query"]) == (2, "q0")
    assert shown["rule"].endswith(" Opened first: a question of step 2 that was all wrong in step 1.")
    (run.folder / "episodes" / "step_000002.jsonl").unlink()  # not kept: the next best pair
    shown = choose.choose(run, history.histories(run.draws))
    assert [shown["groups"][shown["opens"]][name] for name in ("step", "query")] == [3, "q0"]


@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH; apt-get install chromium")
@pytest.mark.parametrize("steps", [1, 2])
def test_a_short_run_is_drawn_inside_its_axes(tmp_path, steps):
    run = made(tmp_path / "run")
    (run / "metrics.jsonl").write_text(lines([metrics(step, **LEARNED) for step in range(1, steps + 1)]))
    (run / "ledger.jsonl").write_text(lines([draw(1, "q0", [0.0, 0.0])]))
    ends = [8.0 * step for step in range(1, steps + 1)]
    band = {"mean": [0.5] * steps, "low": [0.25] * steps, "high": [2.5] * steps}
    null = {"seeds": 1, "rollouts": ends, "bands": dict.fromkeys((*null_control.NAMES, "accepted"), band)}
    null |= {"summary": {}, "plays": 8, "chances": {"hard": (0.1, 0.2), "easy": None}}
    null |= {"run": {"rollouts": ends, **dict.fromkeys(null_control.NAMES, [0.5] * steps)}}
    path = tmp_path / "page.html"
    path.write_text(page.build(run, null=null), encoding="utf-8")
    shown = dom(path, tmp_path)
    batch = re.search(r'id="chart-batch".*?</figure>', shown, re.DOTALL)[0]
    left, right = (float(re.search(r'class="base" x1="([\d.]+)" x2="([\d.]+)"', batch)[at]) for at in (1, 2))
    chance = [float(x) for d in re.findall(r'class="edge" d="([^"]+)"', batch) for x in re.findall(r"[ML]([\d.]+) ", d)]
    assert len(chance) == 2 * steps and left - 0.1 <= min(chance) and max(chance) <= right + 0.1
    if steps == 2:
        assert (min(chance), max(chance)) == pytest.approx((left, right), abs=0.1)  # as the run itself
    area = re.search(r'class="area fresh" d="([^"]+)"', batch)[1]
    assert len(set(re.findall(r"[ML]([\d.]+) ", area))) == 2  # a single step has a width too
    assert "No query has been drawn twice yet" in shown and 'class="plot heat"' not in shown


DRIVER = """
const spec = {id: "x", title: "X", kind: "lines", unit: "number", smooth: true, x: [{label: "step", values: []}],
  series: [{name: "y", tone: "ink", values: []}]};
for (let at = 1; at <= 100; at++) { spec.x[0].values.push(at); spec.series[0].values.push(at % 2 ? 0 : 2); }
const figure = chart(document.body, spec), told = [];
const cursor = figure.querySelector(".cursor"), box = cursor.getBoundingClientRect();
cursor.setPointerCapture = () => {};
const point = (name, share) => cursor.dispatchEvent(new PointerEvent(name, {pointerType: "mouse", button: 0,
  clientX: box.left + share * box.width, clientY: box.top + 9}));
const key = (name) => cursor.dispatchEvent(new KeyboardEvent("keydown", {key: name}));
const tell = () => told.push([cursor.getAttribute("aria-valuemax"), figure.querySelector(".whole").hidden,
  figure.querySelector(".readout").textContent]);
tell();
point("pointerdown", 0.25); point("pointermove", 0.5); point("pointerup", 0.5); tell();
key("Escape"); tell();
point("pointermove", 0); cursor.dispatchEvent(new KeyboardEvent("keydown", {key: "+"})); tell();
figure.querySelector(".whole").click(); tell();
for (smoothing.level of [0, 2]) { figure.redraw(); tell(); told.push(figure.querySelectorAll(".line").length); }
document.body.replaceChildren(make("pre", {}, JSON.stringify(told)));
"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH; apt-get install chromium")
def test_a_chart_is_looked_at_closer_and_smoothed(tmp_path):
    """A square wave of 0 and 2 over 100 steps: its mean over any odd number of steps is near 1."""
    path = tmp_path / "chart.html"
    script = "\n".join(map(page.asset, page.DRAWING))
    path.write_text(f"<!doctype html><meta charset=utf-8><body><script>{script}{DRIVER}</script>", encoding="utf-8")
    told = json.loads(re.search(r"<pre>(.*?)</pre>", dom(path, tmp_path))[1])
    assert told[0] == ["100", True, "step 100y 2 (smoothed 1)"]  # 99 and 100: smoothed over 3, of which 2 are there
    assert told[1][:2] == ["25", False] and told[1][2].startswith("step 50y 2 ")  # from step 25.75 to 50.5
    assert told[2] == told[0]
    assert told[3][1] is False and int(told[3][0]) in (25, 26)  # twice as close around the first step
    assert told[4] == told[0]
    assert told[5:] == [["100", True, "step 100y 2"], 1, ["100", True, "step 100y 2 (smoothed 1)"], 2]
