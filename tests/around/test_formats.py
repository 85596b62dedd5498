"""Rows of verl, SkyRL, FlashRAG and TRL become our queries, and our queries become their rows and come back."""

import datetime
import decimal
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qr_jax.data import parsing, readers
from qr_jax.records import Query
from qr_jax.sets import formats, tables

ADA = Query(
    "a", "Who wrote the first program?", ("Ada Lovelace", "Ada"), ("Ada Lovelace",), {"hops": 2, "data_source": "x"}
)
ROME = Query("b", "Where is the Forum?", ("Rome",), (), {"data_source": "x", "supporting": ["p1", "p2"]})

# Search-R1's, as its script qa_search_train_merge.py writes it: FlashRAG's columns stay beside verl's.
SEARCH_R1 = {
    "id": "test_0",
    "question": "who got the first nobel prize in physics",
    "golden_answers": ["Wilhelm Conrad Röntgen"],
    "data_source": "nq",
    "prompt": [{"role": "user", "content": "Answer the given question. ... Question: who got the first nobel prize\n"}],
    "ability": "fact-reasoning",
    "reward_model": {"style": "rule", "ground_truth": {"target": ["Wilhelm Conrad Röntgen"]}},
    "extra_info": {"split": "test", "index": 0},
    "metadata": None,
}
BARE = {name: SEARCH_R1[name] for name in ("data_source", "prompt", "reward_model", "extra_info")}
NAMES = ("id", "question", "prompt", "role", "content", "text", "answers", "golden_answers", "data_source", "metadata")
NAMES += ("extra_info", "reward_model", "ground_truth", "target", "split", "index", "entities", "env_class")


def test_each_form_is_told_by_its_columns():
    assert formats.schema(SEARCH_R1) == "verl"
    assert formats.schema(BARE | {"env_class": "search"}) == "skyrl"
    assert formats.schema({"id": "1", "question": "x", "golden_answers": ["y"]}) == "flashrag"
    assert formats.schema({"prompt": "x", "solution": "y"}) == "trl"
    assert formats.schema({"id": "1", "question": "x", "answers": ["y"]}) == "qr_jax"
    assert formats.schema({"id": "1", "contents": "x"}) == "Search-R1 corpus"
    assert formats.schema({"id": "1", "text": "x"}) == "qr_jax corpus"


def test_search_r1_s_own_row_is_read():
    kept = {"data_source": "nq", "split": "test"}
    answers = ("Wilhelm Conrad Röntgen",)
    found = parsing.query_of({name: value for name, value in SEARCH_R1.items() if value is not None})
    assert found == Query("nq/test_0", "who got the first nobel prize in physics", answers, (), kept)
    assert parsing.query_of(BARE) == Query("nq-test-0", "who got the first nobel prize", answers, (), kept)


@pytest.mark.parametrize("truth", [{"target": ["x", "y"]}, {"target": "x"}, ["x", "y"], "x"])
def test_ground_truth_may_be_an_object_a_list_or_a_text(truth):
    answers = parsing.query_of(BARE | {"reward_model": {"style": "rule", "ground_truth": truth}}).answers
    assert answers in (("x", "y"), ("x",))
    spec = {"env_class": "search", "reward_spec": {"method": "rule", "ground_truth": truth}}
    assert parsing.query_of(BARE | spec).answers == answers


def test_an_id_that_only_counts_is_read_with_its_data_source(tmp_path):
    rows = [SEARCH_R1 | {"id": "train_0", "data_source": source} for source in ("nq", "hotpotqa")]
    file = tmp_path / "train.parquet"
    tables.write(file, rows)
    assert [query.id for query in readers.read_queries(file)] == ["nq/train_0", "hotpotqa/train_0"]
    tables.write(file, rows[1:])
    (alone,) = readers.read_queries(file)
    assert alone.id == "hotpotqa/train_0", "whatever else is read"
    for name, wanted in {
        "dev_12": "nq/dev_12", "17": "nq/17", 17: "nq/17", "5a8b": "5a8b", "2hop__1_2": "2hop__1_2",
        "nq/train_0": "nq/train_0", "retrain_0": "retrain_0",
    }.items():  # fmt: skip
        assert parsing.query_of(SEARCH_R1 | {"id": name}).id == wanted
    assert parsing.query_of({**SEARCH_R1, "data_source": ""}).id == "test_0"
    assert parsing.query_of({"id": "test_0", "question": "x", "golden_answers": ["y"]}).id == "test_0"


def test_golden_answers_stand_in_and_none_at_all_is_said():
    row = BARE | {"reward_model": {"style": "rule"}}
    assert parsing.query_of(row | {"golden_answers": ["z"]}).answers == ("z",)
    with pytest.raises(ValueError, match="neither reward_model.ground_truth .* nor 'golden_answers'"):
        parsing.query_of(row)


def test_a_row_without_id_or_index_is_named_by_its_question():
    row = BARE | {"extra_info": {}}
    assert parsing.query_of(row).id == parsing.query_of(row | {"data_source": "other"}).id != ""
    parts = [{"type": "text", "text": "What "}, {"type": "text", "text": "is it?"}]
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}]
    found = parsing.query_of({"prompt": messages, "answer": "a fork", "level": "easy"})
    assert (found.question, found.answers, dict(found.meta)) == ("What is it?", ("a fork",), {"level": "easy"})
    with pytest.raises(ValueError, match="no message of the role 'user'"):
        parsing.query_of({"prompt": messages[:1], "answer": "x"})


def test_metadata_as_json_text_are_read_and_never_replace_the_question():
    row = {"id": "1", "question": "x", "golden_answers": ["y"]}
    assert parsing.query_of(row | {"metadata": '{"hops": 3, "question": "evil"}'}).meta == {"hops": 3}
    assert parsing.query_of(row | {"metadata": [1]}).meta == {"metadata": [1]}
    with pytest.raises(ValueError, match="metadata are a text that is no JSON"):
        parsing.query_of(row | {"metadata": "{hops"})


USER = "the 'content' of the last user message in 'prompt' must be a text or a list of text parts, and is "


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": [{"role": "user", "content": None}]}, USER + "null"),
        ({"prompt": [{"role": "user", "content": 5}]}, USER + "int 5"),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, USER + r"list \[{.*5}\]"),
        ({"extra_info": "x"}, "'extra_info' must be an object, and is str \"x\""),
        ({"extra_info": {"question": 5}}, "'extra_info.question' must be a text, and is int 5"),
        ({"question": ["x"]}, r"'question' must be a text, and is list \[\"x\"\]"),
    ],
)
def test_a_field_of_another_kind_is_named_with_its_row_and_what_it_held(tmp_path, change, words):
    file = tmp_path / "bad.jsonl"
    file.write_text(json.dumps(BARE) + "\n" + json.dumps(BARE | change) + "\n")
    with pytest.raises(ValueError, match=f"bad.jsonl row 2: {words}"):
        readers.read_queries(file)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING), st.sampled_from([{}, BARE, SEARCH_R1]))
def test_a_row_of_whatever_kind_is_a_question_or_a_value_error(row, good):
    try:
        assert isinstance(parsing.query_of(good | row), Query)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize("form", ["verl", "skyrl", "flashrag", "trl", "jsonl"])
@pytest.mark.parametrize("end", ["parquet", "jsonl", "jsonl.gz"])
def test_every_form_comes_back_as_it_was_written(tmp_path, form, end):
    file = tmp_path / f"made.{end}"
    counted = Query("train_0", "Which is first?", ("zero",), (), {"data_source": "x"})
    formats.write([ADA, ROME, counted], file, form)
    schemas = {formats.schema(row) for _, row in readers.rows(file)}
    assert schemas == {"qr_jax" if form == "jsonl" else form}
    found = readers.read_queries(file)
    for one, made in zip(found, [ADA, ROME, counted], strict=True):
        assert one == made, "no split that nobody named"
    again = tmp_path / f"again.{end}"
    formats.write(found, again, form)
    assert readers.read_queries(again) == found
    assert sorted(one.name for one in tmp_path.iterdir()) == [f"again.{end}", f"made.{end}"]


def test_a_verl_row_holds_what_verl_and_search_r1_read():
    row = formats.row_of(ADA, "verl", 7)
    assert row["prompt"] == [{"role": "user", "content": ADA.question}]
    assert row["reward_model"] == {"style": "rule", "ground_truth": {"target": ["Ada Lovelace", "Ada"]}}
    assert (row["data_source"], row["extra_info"]["index"]) == ("x", 7)
    create = row["extra_info"]["tools_kwargs"]["search"]["create_kwargs"]
    assert create["ground_truth"] == {"target": ["Ada Lovelace", "Ada"]} and create["question"] == ADA.question
    skyrl = formats.row_of(Query("a", "x", ("y",), (), {"dataset": "nq"}), "skyrl", 0)
    assert (skyrl["env_class"], skyrl["data_source"]) == ("search", "searchR1_nq")
    assert skyrl["reward_spec"] == {"method": "rule", "ground_truth": {"target": ["y"]}}


def test_a_file_is_neither_replaced_nor_of_an_unknown_kind(tmp_path):
    (tmp_path / "mine.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="mine.jsonl is there already"):
        formats.write([ADA], tmp_path / "mine.jsonl", "jsonl")
    with pytest.raises(ValueError, match="must end in .parquet, .jsonl or .jsonl.gz"):
        formats.write([ADA], tmp_path / "made.csv", "verl")


@pytest.mark.parametrize("form", ["jsonl", "verl", "trl"])
def test_what_parquet_has_and_json_has_not_is_written_as_text(tmp_path, form):
    query = replace(ADA, meta={"seen": datetime.date(2026, 11, 23), "raw": b"x", "price": decimal.Decimal("1.5")})
    formats.write([query], tmp_path / "made.jsonl", form)
    assert "2026-11-23" in (tmp_path / "made.jsonl").read_text() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("value", [2**64, {}, "\ud800"])
def test_what_parquet_cannot_hold_is_refused_and_leaves_nothing(tmp_path, value):
    with pytest.raises(ValueError, match=r"made.parquet cannot be Parquet: .*; JSON lines take all"):
        tables.write(tmp_path / "made.parquet", [{"id": "1", "text": value}])
    assert not list(tmp_path.iterdir())


def test_pandas_times_are_read(tmp_path):
    times = pa.array([1, 1_700_000_000_000_000_001], pa.timestamp("ns", "UTC"))
    pq.write_table(pa.table({"id": ["1", "2"], "text": ["x", "y"], "seen": times}), tmp_path / "p.parquet")
    assert [row["seen"].year for _, row in tables.rows(tmp_path / "p.parquet")] == [1970, 2023]
    assert [passage.text for passage in readers.read_passages(tmp_path / "p.parquet")] == ["x", "y"]


def test_values_that_python_has_not_are_named_by_their_column(tmp_path):
    file = tmp_path / "p.parquet"
    nowhere, nanoseconds = pa.timestamp("us", "Nowhere/Land"), pa.duration("ns")
    for name, values in (("seen", pa.array([1], nowhere)), ("took", pa.array([1], nanoseconds))):
        pq.write_table(pa.table({"id": ["1"], "text": ["x"], name: values}), file)
        with pytest.raises(ValueError, match=rf"p.parquet rows 1 to 1, column '{name}' .*a value that is not read"):
            readers.read_passages(file)


def test_parquet_that_is_cut_short_or_mixed_is_refused(tmp_path):
    file = tmp_path / "made.parquet"
    tables.write(file, [{"id": "1", "text": "x", "title": None}, {"id": "2", "text": "y", "title": "T"}])
    assert [row for _, row in tables.rows(file)] == [{"id": "1", "text": "x"}, {"id": "2", "text": "y", "title": "T"}]
    assert tables.count(file) == 2
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match="made.parquet after row 0: not a whole Parquet file"):
        readers.read_passages(file)
    tables.write(file, [{"id": b"1", "text": "x"}])
    with pytest.raises(ValueError, match="made.parquet row 1: 'id' must be a text, and is bytes"):
        readers.read_passages(file)
    with pytest.raises(ValueError, match="values of different kinds"):
        tables.write(tmp_path / "x.parquet", [{"a": 1}, {"a": "x"}])


def test_real_questions_survive_verl_s_parquet(tmp_path, real_data):
    queries = readers.read_queries(real_data / "dev/musique.questions.jsonl")[:200]
    formats.write(queries, tmp_path / "made.parquet", "verl")
    found = readers.read_queries(tmp_path / "made.parquet")
    for one, made in zip(found, queries, strict=True):
        extra = {"data_source": "searchR1_musique", "split": made.meta["origin_split"]}
        assert one == Query(made.id, made.question, made.answers, (), json.loads(json.dumps(extra | dict(made.meta))))
