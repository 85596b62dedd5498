"""`qr-jax score`: the official rules on 2,000 pairs, means and rows, and what is wrong with a file by its line."""

import json
from pathlib import Path

import pytest

from qr_jax import answers
from qr_jax.cli import cli
from qr_jax.lab.score import score

PAIRS = Path(__file__).parents[1] / "data" / "answer_pairs.jsonl"


def write(folder, *rows):
    file = folder / "rows.jsonl"
    file.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_every_pair_scores_as_the_official_rules_say_but_for_their_defects():
    """The expected values come from a second implementation (data/make_answer_pairs.py, which lists the defects)."""
    rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 2000
    for row in rows:
        wanted = row.get("without_defect", row)
        found = {
            "em": answers.exact_match(row["prediction"], row["answers"]),
            "f1": answers.f1(row["prediction"], row["answers"]),
            "cover_match": answers.cover_match(row["prediction"], row["answers"]),
        }
        assert found == pytest.approx({name: wanted[name] for name in found}, abs=1e-12), row


def test_only_what_normalises_to_nothing_departs_from_the_official_rules():
    rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    apart = [row for row in rows if "without_defect" in row]
    assert 0 < len(apart) < 300
    assert all(any(not answers.normalise(gold) for gold in row["answers"]) for row in apart)


@pytest.mark.parametrize(
    ("composed", "other"),
    [
        ("Beyoncé", "Beyonce\u0301"),
        ("서울", "\u1109\u1165\u110b\u116e\u11af"),  # Hangul as jamo
        ("\u0958", "क\u093c"),  # which NFC takes apart
        ("ế", "e\u0302\u0301"),
        ("q̣̇", "q\u0307\u0323"),  # two marks, no composed form, in either order
        ("が", "か\u3099"),
    ],
)
def test_canonically_equal_texts_score_alike(composed, other):
    for said, gold in ((composed, other), (other, composed)):
        assert answers.exact_match(said, [gold]) == 1
        assert answers.f1(f"{said} x", [f"x {gold}"]) == 1
        assert answers.cover_match(f"it is {said}, say", [gold]) == 1


def test_a_letter_without_its_mark_neither_equals_nor_is_covered_and_no_article_is_made_of_one():
    assert answers.exact_match("Beyonce", ["Beyonce\u0301"]) == answers.cover_match("cafe\u0301", ["cafe"]) == 0
    assert answers.normalise("a\u0301 la") == "á la", "an a with an accent was taken for an article"


def test_what_the_official_rules_tell_apart_stays_different():
    """Documented in docs/concepts.md."""
    for said, gold in (("１９８２", "1982"), ("ﬁre", "fire"), ("²", "2"), ("«Oslo»", "Oslo")):
        assert answers.exact_match(said, [gold]) == 0


def test_means_and_rows_by_hand(tmp_path, capsys):
    file = write(
        tmp_path,
        {"id": "a", "prediction": "The Red Sea!", "answers": ["red sea"]},
        {"id": 2, "prediction": "sea", "answers": ["Red Sea", "Nile"]},
        {"id": "c", "prediction": None, "answers": "Nile"},
    )
    assert cli.main(["score", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == pytest.approx({"questions": 3, "em": 1 / 3, "f1": (1 + 2 / 3) / 3, "cover_match": 1 / 3})
    assert cli.main(["score", str(file), "--json", "--rows"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[1] == {"id": "2", "em": 0, "f1": pytest.approx(2 / 3), "cover_match": 0}
    assert cli.main(["score", str(file), "--rows"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "0.000  0.667        0.000  2",
        "0.000  0.000        0.000  c",
        "0.333  0.556        0.333  mean of 3",
    ]


def test_accepted_answers_in_side_columns_score(tmp_path):
    rows = [{"id": "a", "prediction": "Christiania", "answer": "Oslo", "aliases": ["Christiania"]}]
    rows += [{"id": "b", "prediction": "Rom", "answers": ["Rome"], "answer_aliases": ["Roma", "Rom"]}]
    assert score(str(write(tmp_path, *rows)))["em"] == 1
    with pytest.raises(ValueError, match="line 1: 'aliases' must hold accepted answers"):
        score(str(write(tmp_path, rows[0] | {"aliases": 5})))


def test_bad_rows_are_named_by_their_lines_and_none_is_left_out_in_silence(tmp_path, capsys):
    good = {"id": "a", "prediction": "x", "answers": ["y"]}
    file = write(
        tmp_path, good, "{not json\n", "\n", good, {"id": "b", "answers": ["y"]},
        {"id": "c", "prediction": 3, "answers": ["y"]},
        {"id": "d", "prediction": "x", "answers": []}, {"id": "e", "prediction": "x", "gold": "y"},
    )  # fmt: skip
    assert cli.main(["score", str(file)]) == 2
    error = capsys.readouterr().err
    assert "rows.jsonl has 6 bad rows" in error and " and 1 more" in error
    for said in ("line 2: not a line of JSON", "line 4: id 'a' stands in line 1 too", "line 5: has no 'prediction'"):
        assert said in error
    assert "line 6: 'prediction' must be a text or null, and is int 3" in error and "line 7: 'answers' must be" in error
    assert cli.main(["score", str(write(tmp_path, "\n"))]) == 2
    assert "has no rows" in capsys.readouterr().err


def test_a_row_that_nothing_can_match_counts_scores_nothing_and_is_named(tmp_path, capsys):
    file = write(
        tmp_path, {"id": "a", "prediction": "", "answers": ["the"]}, {"id": "b", "prediction": "x", "answers": "x"}
    )
    assert cli.main(["score", str(file), "--json"]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out) == {"questions": 2, "em": 0.5, "f1": 0.5, "cover_match": 0.5}
    assert "nothing can match the answers of these lines, which score 0: [1]" in out.err
    assert score(file)["rows"][0]["cover_match"] == 0


def test_one_file_is_scored_and_not_the_first_of_several(tmp_path):
    file = write(tmp_path, {"id": "a", "prediction": "x", "answers": ["x"]})
    with pytest.raises(ValueError, match="is not one file"):
        score(f"{file},{file}")
