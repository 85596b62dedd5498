"""A suite's figures by hand: which questions, pass@k, intervals, the macro average, and nothing left out in silence."""

import json

import numpy as np
import pytest
import small_data
from hypothesis import given
from hypothesis import strategies as st

from qr_jax.cli import cli
from qr_jax.cli.commands import eval as eval_commands
from qr_jax.config import Config, to_json
from qr_jax.evaluation.scores import over_runs
from qr_jax.lab import suite


def row(name, at, answer, *, golds=("oslo",), samples=(), hops=None, **more):
    told = {"stop": "answered", "searched": ["a", "b"][: at + 1], "tokens": 10 * at, "latency_s": None if at else 2.0}
    about = {"set": name, "id": f"{name}-{at}", "question": "?", "golds": list(golds), "hops": hops, "type": None}
    given = [{**told, "answer": sample} for sample in samples]
    return {**about, "greedy": {**told, "answer": answer}, "samples": given, "seconds": 1.0, **more}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("QR_JAX_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_questions_are_those_not_dealt_to_training_the_first_by_the_hash_of_their_ids(data):
    small_data.write(data, count=40)
    whole, missing = suite.questions(Config(), "qa7", part="all")
    dealt, _ = suite.questions(Config(), "qa7")
    first, _ = suite.questions(Config(), "qa7", limit=2)
    assert list(whole) == list(suite.SUITES["qa7"]) and not missing
    assert all(len(queries) == 40 for queries in whole.values())
    assert 0 < len(dealt["nq"]) < 40 and {one.id for one in dealt["nq"]} < {one.id for one in whole["nq"]}
    assert all(one in dealt["nq"] for one in first["nq"]) and len(first["nq"]) == 2


def test_a_kind_of_question_with_an_endless_name_is_one_of_the_others(data):
    small_data.write(data)
    asked, missing = suite.questions(Config(), "qa7", part="all")
    rows = [row("nq", at, "oslo", type="x" * 100_000 if at else "short") for at in range(2)]
    found = suite.score("qa7", {"nq": asked["nq"]}, rows, missing)
    assert set(found["sets"]["nq"]["by_type"]) == {"others", "short"} and "x" * 100 not in suite.format_table(found)


def test_a_missing_set_is_named_and_the_average_says_over_how_many(data):
    small_data.write(data, without=("popqa",))
    asked, missing = suite.questions(Config(), "qa7", part="all")
    assert "popqa" not in asked and "popqa.questions.jsonl" in missing["popqa"]
    rows = [row(name, 0, "oslo") for name in asked]
    found = suite.score("qa7", asked, rows, missing)
    assert found["macro"]["sets"] == 6 and found["macro"]["of"] == 7
    text = suite.format_table(found)
    assert "macro average over 6 of 7 sets" in text and "popqa is missing: no file" in text
    assert "nq: 2 of 3 questions have no answer (faults of the search or the engine; INCOMPLETE" in text
    assert found["sets"]["nq"]["unanswered"] == 2 and found["sets"]["nq"]["questions"] == 1
    assert suite.too_few(asked, 4)[0] == "nq has only 3 of the 4 questions that were asked for"
    (data / "corpus" / "musique.corpus.jsonl.gz").unlink()
    assert "musique.corpus.jsonl.gz" in suite.questions(Config(), "qa7", part="all")[1]["musique"]
    assert "musique" in suite.questions(Config(), "qa7", part="all", searched=False)[0]
    with pytest.raises(ValueError, match="no suite 'qa8'"):
        suite.questions(Config(), "qa8")


def test_no_set_at_all_is_an_error(data):
    data.mkdir()
    with pytest.raises(ValueError, match="no set of the suite qa7 has questions here") as error:
        suite.questions(Config(), "qa7")
    first, *lines, cure = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [f"  {name}" for name in suite.SUITES["qa7"]]
    assert cure == f"set QR_JAX_DATA to the data folder; it is {data} now" and "QR_JAX_DATA" not in "".join(lines)


def test_no_set_at_all_is_said_before_anything_is_loaded(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(eval_commands, "start", None)
    (tmp_path / "config.json").write_text(json.dumps(to_json(Config())))
    assert cli.main(["eval", str(tmp_path), "--suite", "qa7", "--trust"]) == 2
    assert "no set of the suite qa7 has questions here:\n  nq: no file" in capsys.readouterr().err


def test_figures_by_hand(data):
    small_data.write(data)
    asked, missing = suite.questions(Config(), "qa7", part="all")
    rows = [
        row("nq", 0, "Oslo", samples=("oslo", "oslo", "x", "x")),
        row("nq", 1, "in Oslo", samples=("x", "x", "x", "oslo")),
        row("nq", 2, None, samples=(None, "x", "x", "x")),
        row("2wiki", 0, "oslo", samples=("oslo",) * 4, hops=2),
        row("2wiki", 1, "lima", samples=("x",) * 4, hops=3),
    ]
    found = suite.score("qa7", {"nq": asked["nq"], "2wiki": asked["2wiki"]}, rows, missing)
    nq = found["sets"]["nq"]["scores"]
    assert nq["exact_match"]["mean"] == pytest.approx(1 / 3) and nq["cover_match"]["mean"] == pytest.approx(2 / 3)
    assert nq["f1"]["mean"] == pytest.approx((1 + 2 / 3) / 3)
    assert nq["pass_at_1_exact_match"]["mean"] == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
    assert nq["pass_at_2_exact_match"]["mean"] == pytest.approx((1 - 1 / 6 + 1 - 3 / 6 + 0) / 3)
    assert nq["pass_at_4_exact_match"]["mean"] == pytest.approx(2 / 3)
    assert 0 <= nq["exact_match"]["low"] <= 1 / 3 <= nq["exact_match"]["high"] <= 1
    of = found["sets"]["nq"]
    assert (of["searches"], of["tokens"]) == (pytest.approx((1 + 2 + 2) / 3), 10)
    assert (of["latency_s"], of["latency_questions"]) == (2.0, 1)  # the two others ended where no clock could see
    macro = found["macro"]["scores"]
    assert macro["exact_match"]["mean"] == pytest.approx((1 / 3 + 1 / 2) / 2) and found["macro"]["sets"] == 2
    hops = found["sets"]["2wiki"]["by_hops"]
    some = [*rows[:3], row("popqa", 0, "oslo", samples=("x",) * 4)]
    lone = suite.score("qa7", {"nq": asked["nq"], "popqa": asked["popqa"]}, some, missing)["macro"]["scores"]
    assert lone["f1"]["low"] is None  # one question has no interval, nor has an average with it
    assert hops["2"]["scores"]["exact_match"] == {"mean": 1.0, "low": None, "high": None}
    assert hops["3"]["scores"]["exact_match"]["mean"] == 0 and found["sets"]["nq"]["by_hops"] == {}


def test_an_interval_is_that_of_the_bootstrap_and_the_same_each_time(data):
    small_data.write(data, count=200)
    asked, missing = suite.questions(Config(), "qa7", part="all")
    rows = [row(name, at, "oslo" if at % 4 == 0 else "x") for name in ("nq", "popqa") for at in range(200)]
    found = suite.score("qa7", {"nq": asked["nq"], "popqa": asked["popqa"]}, rows, missing)
    one, macro = found["sets"]["nq"]["scores"]["exact_match"], found["macro"]["scores"]["exact_match"]
    wide = 1.96 * np.sqrt(0.25 * 0.75 / 200)  # the normal approximation of a mean of 200 zeros and ones
    assert one["high"] - one["mean"] == pytest.approx(wide, rel=0.12)
    assert macro["high"] - macro["mean"] == pytest.approx(wide / np.sqrt(2), rel=0.12)
    assert suite.score("qa7", {"nq": asked["nq"], "popqa": asked["popqa"]}, rows, missing) == found


@pytest.mark.parametrize(
    ("given", "low", "high"),
    [("xxx", 0, 3.8416 / 6.8416), ("ooo", 1 - 3.8416 / 6.8416, 1), ("oxoxoxox", 0.125, 0.875), ("xx", 0, 0.658)],
)
def test_an_interval_of_which_all_are_wrong_or_right_is_wilson_s_and_of_no_width_0(given, low, high):
    """3 questions, none right: 1.96^2 / (3 + 1.96^2) = .56, as a run's own evaluation says."""
    rows = [row("nq", at, "oslo" if each == "o" else "x") for at, each in enumerate(given)]
    score = suite._figures(rows, None, 0)[0]["scores"]["exact_match"]
    assert (score["low"], score["high"]) == (pytest.approx(low, abs=2e-3), pytest.approx(high, abs=2e-3))
    of_two = suite._macro(*zip(*[suite._figures([row("nq", at, "x") for at in range(n)], None, 0) for n in (3, 40)]))
    assert of_two["scores"]["f1"] == {"mean": 0.0, "low": 0.0, "high": pytest.approx(3.8416 / 6.8416)}


def test_a_judge_s_verdict_is_a_score_beside_the_others(data):
    small_data.write(data)
    asked, missing = suite.questions(Config(), "qa7", part="all")
    rows = [row("nq", at, "the capital", samples=("x", "the capital")) for at in range(3)]
    found = suite.score("qa7", {"nq": asked["nq"]}, rows, missing, lambda question, golds, answer: answer != "x")
    scores = found["sets"]["nq"]["scores"]
    assert scores["judge"]["mean"] == 1 and scores["exact_match"]["mean"] == 0
    assert scores["pass_at_1_judge"]["mean"] == 0.5 and scores["pass_at_2_judge"]["mean"] == 1


def test_pass_at_k_by_hand():
    assert suite.pass_at_k(4, 1, 2) == pytest.approx(0.5)  # 3 of the 6 pairs hold the right one
    assert suite.pass_at_k(4, 3, 2) == 1
    assert suite.powers(1) == [] and suite.powers(4) == [2, 4] and suite.powers(6) == [2, 4, 6]


@given(st.integers(1, 12), st.data())
def test_pass_at_1_is_the_mean_and_pass_at_k_rises(samples, data):
    right = data.draw(st.integers(0, samples))
    chances = [suite.pass_at_k(samples, right, k) for k in range(1, samples + 1)]
    assert chances[0] == pytest.approx(right / samples)
    assert all(0 <= a <= b <= 1 for a, b in zip(chances, chances[1:]))
    assert chances[-1] == (right > 0)


def test_pass_at_1_has_an_error_over_runs_and_an_interval_over_questions_and_runs(data):
    """Run 1 is right on both of nq and 1 of 2 of popqa, run 2 on 1 and 0: means 1, .5 and .5, 0; macro .75, .25."""
    small_data.write(data)
    asked, missing = suite.questions(Config(), "qa7", part="all")
    rows = [row("nq", 0, "oslo", samples=("oslo", "x")), row("nq", 1, "oslo", samples=("oslo", "oslo"))]
    rows += [row("popqa", 0, "x", samples=("oslo", "x")), row("popqa", 1, "x", samples=("x", "x"))]
    found = suite.score("qa7", {name: asked[name] for name in ("nq", "popqa")}, rows, missing)
    score, macro = found["sets"]["nq"]["scores"]["pass_at_1_exact_match"], found["macro"]["scores"]
    assert score["by_run"] == [1.0, 0.5] and score["run_error"] == pytest.approx(0.25)  # sd .3536 / sqrt(2)
    assert macro["pass_at_1_exact_match"]["by_run"] == [0.75, 0.25]
    assert macro["pass_at_1_exact_match"]["run_error"] == pytest.approx(0.25)
    assert macro["pass_at_1_exact_match"]["mean"] == pytest.approx(0.5)
    assert "run_error" not in macro["exact_match"], "greedy answers have one run"
    text = suite.format_table(found)
    assert "+- 0.2500" in text and "one standard error over runs alone" in text
    lone = suite.score("qa7", {"nq": asked["nq"]}, [row("nq", 0, "oslo", samples=("oslo",))], missing)
    assert lone["macro"]["scores"]["pass_at_1_exact_match"]["run_error"] is None


def test_the_interval_over_questions_holds_the_noise_of_runs_too():
    """Of 400 questions with rates of 0 or 1 and of one half: its width is 2 * 1.96 * sqrt((spread + noise) / N)."""
    draw = np.random.default_rng(0)
    for rate_N, spread in ((np.arange(400) % 2, 0.25), (np.full(400, 0.5), 0.0)):
        right_NG = draw.random((400, 8)) < rate_N[:, None]
        rows = [
            row("nq", at, None, samples=["oslo" if right else "x" for right in each])
            for at, each in enumerate(right_NG)
        ]
        figures, _ = suite._figures(rows, None, 0)
        score = figures["scores"]["pass_at_1_exact_match"]
        noise = float((rate_N * (1 - rate_N)).mean()) / 8
        width = 2 * 1.96 * np.sqrt((spread + noise) / 400)
        assert score["high"] - score["low"] == pytest.approx(width, rel=0.15)
        assert score["run_error"] == pytest.approx(np.sqrt(noise / 400), rel=0.6, abs=1e-9)


def test_an_answer_without_a_verdict_is_in_no_figure_of_the_judge():
    rows = [row("nq", 0, "oslo", samples=("oslo", "?")), row("nq", 1, "?", samples=("x", "oslo"))]
    said = lambda question, golds, answer: None if answer == "?" else answer == "oslo"  # noqa: E731
    value = suite.values(rows, said)
    np.testing.assert_array_equal(value["judge"], [1.0, np.nan])
    np.testing.assert_array_equal(value["pass_at_1_judge"], [1.0, 0.5])
    np.testing.assert_array_equal(value["pass_at_2_judge"], [np.nan, 1.0])
    figures, _ = suite._figures(rows, said, 0)
    assert figures["scores"]["judge"]["mean"] == 1.0 and figures["scores"]["pass_at_1_judge"]["by_run"] == [0.5, 1.0]
    figures, _ = suite._figures([row("nq", 0, "?", samples=("?", "?"))], said, 0)
    assert "judge" not in figures["scores"] and "exact_match" in figures["scores"]


def test_the_paper_s_questions_are_one_file_dealt_to_its_seven_sets(data, tmp_path, capsys):
    small_data.write(data)
    sources = {"2wiki": 2, "popqa": 1, "tq": 1, "hotpotqa": 1, "nq": 1, "musique": 1, "Bamboogle": 1}
    listed = [source for source, count in sources.items() for _ in range(count)]
    rows = [
        {"id": at, "question": f"Which city is number {at}?", "answer": "Oslo<|answer_split|>the Oslo town",
         "data_source": of, "ability": "search & question answering",
         "extra_info": {"index": f"{of}_{at}", "split": "dev"}, "reward_model_style": "unknown"}
        for at, of in enumerate(listed)
    ]  # fmt: skip
    (tmp_path / "test_small_deepresearcher.json").write_text(json.dumps(rows))
    out = data / "dev" / "test_small_deepresearcher.questions.jsonl"
    assert cli.main(["data", "convert", str(tmp_path / "test_small_deepresearcher.json"), str(out)]) == 0
    asked, missing = suite.questions(Config(), "paper", part=suite.part("paper"))
    assert {name: len(queries) for name, queries in asked.items()} == {
        "nq": 1, "triviaqa": 1, "popqa": 1, "hotpotqa": 1, "2wiki": 2, "musique": 1, "bamboogle": 1,
    } and not missing  # fmt: skip
    assert asked["triviaqa"][0].answers == ("Oslo", "the Oslo town")
    (tmp_path / "config.json").write_text(json.dumps(to_json(Config())))
    capsys.readouterr()
    words = ["eval", str(tmp_path), "--suite", "paper", "--samples", "8", "--dry-run", "--json", "--trust"]
    assert cli.main(words) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["judge"]["requests"] == 2 * 9 * 8 + 20
    assert "8 questions (nq 1, triviaqa 1," in told.err
    retried = "requests, and up to 3 more for each that fails or has no verdict;"
    assert f"judging this model takes at most 164 {retried}" in told.err
    whole = "11 such models, as many as the paper's table has (its own are asked 3,197 questions, 8 samples each)"
    assert f"{whole} takes at most 1,804 {retried}" in told.err
    found = json.loads(told.out)
    assert found["table"] == {name: 11 * value for name, value in found["judge"].items()}
    out.write_text(out.read_text().replace("Bamboogle", "bam"))
    assert "no question with its data_source" in suite.questions(Config(), "paper", part="all")[1]["bamboogle"]


def test_the_files_of_gaia_hle_and_webwalkerqa_are_read_as_they_are(data, tmp_path):
    (data / "dev").mkdir(parents=True)
    given = {
        "gaia": {"id": 1, "task_id": "t", "question": "Which zip?", "answer": "34689", "Level": 2,
                 "Annotator_Metadata": {"Steps": "1. look"}},
        "hle": {"id": 0, "question": "Which one?\n\nAnswer Choices:\nA. Asp\nB. Boa", "answer": "A",
                "answer_type": "multipleChoice", "rationale": "so", "raw_subject": "Zoo", "category": "Biology"},
        "webwalkerqa": {"id": 23, "question": "By when?", "answer": "By May.", "root_url": "https://e.org/",
                        "info": {"domain": "conference", "golden_path": ["root->x"]}, "type": "webwalkerqa",
                        "source_websites": ["https://e.org/a"], "golden_path": ["root->x"]},
    }  # fmt: skip
    for name, one in given.items():
        (tmp_path / "test.json").write_text(json.dumps([one]))
        out = data / "dev" / f"{name}.questions.jsonl"
        assert cli.main(["data", "convert", str(tmp_path / "test.json"), str(out)]) == 0
    asked, _ = suite.questions(Config(), "web", part=suite.part("web"), searched=False)
    golds = {name: queries[0].answers for name, queries in asked.items()}
    assert golds == {"gaia": ("34689",), "hle": ("A. Asp", "Asp"), "webwalkerqa": ("By May.",)}


def test_a_run_without_a_verdict_counts_in_no_error_over_runs():
    found = over_runs(np.array([1.0, np.nan, 0.0, 1.0]))
    assert found["by_run"] == [1.0, None, 0.0, 1.0]
    assert found["run_error"] == pytest.approx(np.std([1, 0, 1], ddof=1) / 3**0.5)
    assert over_runs(np.array([np.nan, 1.0]))["run_error"] is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--judge-top-p", "0.9"], "--judge-top-p cannot be given without --judge URL"),
        (["--judge", "http://127.0.0.1:9/v1", "--judge-model", "m", "--judge-top-p", "0"], "top_p over 0"),
        (["--judge", "http://127.0.0.1:9/v1", "--judge-model", "m", "--judge-temperature", "-1"], "a temperature of 0"),
        (["--judge", "https://api.openai.com/v1", "--judge-model", "m"], "api.openai.com wants a key"),
    ],
)
def test_a_judge_that_cannot_be_asked_so_is_refused_before_anything_is_answered(
    words, says, tmp_path, capsys, monkeypatch
):
    for name in ("OPENAI_API_KEY", "QR_JAX_JUDGE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(eval_commands, "asked", lambda arguments: (None, None))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["eval", str(tmp_path), "--suite", "paper", *words, "--dry-run"]) == 2
    assert says in capsys.readouterr().err
