"""`qr-jax data convert`: files of rows as other programs keep them, and what is said of each."""

import gzip
import json
import time
from pathlib import Path

import pytest

from qr_jax import answers
from qr_jax.cli import cli
from qr_jax.data import parsing, readers
from qr_jax.errors import UserError
from qr_jax.lab import score
from qr_jax.records import Query
from qr_jax.sets import answer_columns, data_check, foreign, foreign_rows, formats, html_text, text_files

TINY = str(Path(__file__).parents[2] / "configs/two_layer.py")
Q = {"id": "1", "question": "Where is Köln?", "answers": ["Germany", "Deutschland"]}


def kept(tmp_path, name, content, encoding="utf-8"):
    (file := tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return file


def only(file, **how):
    (item,), said, _ = foreign.read(file, **how)
    return item, "\n".join(said)


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        ("\"['Germany', 'Deutschland']\"", ("Germany", "Deutschland")),
        ('"[""Germany"", ""Deutschland""]"', ("Germany", "Deutschland")),
        ("\"['Germany' 'Deutschland']\"", ("Germany", "Deutschland")),
        ('"[\'Germany\'\n ""Côte d\'Ivoire""]"', ("Germany", "Côte d'Ivoire")),
        ('"[true, ""x""]"', ('[true, "x"]',)),
        ("[1]", ("[1]",)),
        ('"[""1.10"", 2]"', ("1.10", "2")),
        ("[sic", ("[sic",)),
        ("[not, a] list", ("[not",)),
        ("Germany", ("Germany",)),
    ],
)
def test_a_list_in_a_cell_is_a_list(cell, answers, tmp_path):
    if "," in cell and cell[0] != '"':
        with pytest.raises(ValueError, match="q.csv row 2: 4 cells, 3 columns; a text that holds ',' stands in quotes"):
            foreign.read(kept(tmp_path, "q.csv", f"id,question,answers\n1,Where?,{cell}\n"))
        return
    query, said = only(kept(tmp_path, "q.csv", f"id,question,answers\n1,Where?,{cell}\n"))
    assert query.answers == answers
    assert ("'answers' were a list written as a text" in said) == (len(answers) > 1)


@pytest.mark.parametrize("answer", ["[11,19,22,23,29,30,31,36]", "[1.95, 3.58]", "[-2, 1e-3]", "[[0, 1], [1, 0]]"])
def test_a_text_that_is_a_list_of_numbers_is_one_answer_to_every_reader(answer, tmp_path):
    """HLE has such answers, of which every number alone had counted as right."""
    file = kept(tmp_path, "q.jsonl", json.dumps({"id": "1", "question": "Which?", "answer": answer}) + "\n")
    query, said = only(file)
    assert query.answers == readers.read_queries(file)[0].answers == (answer,)
    assert "rows whose 'answer' begin with [, left as one text" in said
    assert answers.exact_match(answer, query.answers) == 1
    assert not any(answers.exact_match(one, query.answers) for one in ("22", "1.95", "-2", "0"))
    aliased = {"id": "1", "question": "Which?", "answer": "x", "aliases": answer}
    assert parsing.query_of(aliased).answers == ("x", answer)


@pytest.mark.parametrize(
    ("question", "letter", "golds"),
    [
        ("Which?\n\nAnswer Choices:\nA. Asp\nB. Boa", "A", ("A. Asp", "Asp")),
        ("Which? Answer Choices: A. Asp B. Boa", "A", ("A. Asp", "Asp")),
        ("Which? Answer Choices: A. Asp B. Boa", "B", ("B", "B. Boa", "Boa")),
        ("Of vitamin B. or not? Answer Choices: A) Asp, U.S. B) Big\nboa ", "B", ("B", "B) Big\nboa", "Big\nboa")),
        ("Which? Answer Choices: Y. Asp Z. Boa", "Z", ("Z", "Z. Boa", "Boa")),
        ("Which? Answer Choices: A. Asp B. Boa", "C", ("C",)),
        ("Which?\n\nAnswer Choices:\n(A) Asp\n(B) Boa", "A", ("(A) Asp", "Asp")),
        ("Which? Answer Choices: (A) Asp (B) Boa", "A", ("(A) Asp", "Asp")),
        ("Which?\n\nAnswer Choices:\nA. Asp\nB. \nC. Cat", "B", ("B",)),
        ("Which? Answer Choices: A. Asp B. C. Cat", "B", ("B",)),
    ],
)
def test_a_choice_s_text_stands_beside_its_letter_on_lines_of_its_own_or_one_line(question, letter, golds, tmp_path):
    """The official row of choices on one line was refused where its letter is A, which normalises to nothing."""
    row = {"id": "1", "question": question, "answer": letter, "answer_type": "multipleChoice"}
    assert only(kept(tmp_path, "q.jsonl", json.dumps(row) + "\n"))[0].answers == golds


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Which letter?", "exactMatch"),
        ("Which?\n\nAnswer Choices:\nA. \nB. Boa", "multipleChoice"),
        ("Which? Answer Choices: A. B. Boa", "multipleChoice"),
        ("Which of (i) and (ii)?", "multipleChoice"),
    ],
)
def test_an_answer_a_that_no_exact_match_can_score_is_left_out_and_counted_and_the_others_are_kept(
    question, kind, tmp_path
):
    """One such row stopped the whole file of HLE, or had another option's text as its gold."""
    rows = [{"id": "1", "question": question, "answer": "A", "answer_type": kind}]
    rows.append({"id": "2", "question": "Which?", "answer": "B", "answer_type": kind})
    file = kept(tmp_path, "q.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    query, said = only(file)
    assert query.id == "2" and "exact match cannot score it: 1" in said
    plain = kept(tmp_path, "r.jsonl", json.dumps({"id": "1", "question": question, "answer": "A"}) + "\n")
    with pytest.raises(ValueError, match="nothing is left"):
        foreign.read(plain)


def test_a_judge_is_told_the_letter_a_as_it_is_told_b(tmp_path):
    """Exact match has no use for it, and a file that was converted keeps it."""
    for letter, text in (("A", "Asp"), ("B", "Boa")):
        row = {"id": "1", "question": "Which? Answer Choices: A. Asp B. Boa", "answer": letter}
        query, _ = only(kept(tmp_path, "q.jsonl", json.dumps(row | {"answer_type": "multipleChoice"}) + "\n"))
        again = kept(tmp_path, "again.jsonl", json.dumps(formats.row_of(query, "jsonl", 0)) + "\n")
        for one in (query, *readers.read_queries(again)):
            assert set(answers.told(one)) == {letter, f"{letter}. {text}", text}
            assert answers.exact_match("the", answers.told(one)) == 0 == answers.cover_match("z", answers.told(one))
    strange = Query("1", "q?", ("x",), (), {"refused_answers": ["y", 3, "$"]})
    assert answers.told(strange) == ("x", "$"), "a column of that name is no way to give a judge other golds"


@pytest.mark.parametrize(
    ("row", "golds"),
    [
        ({"answer": "x<|answer_split|>y"}, ("x", "y")),
        ({"answers": ["Oslo<|answer_split|> Christiania ", "Oslo"]}, ("Oslo", "Christiania")),
        ({"golden_answers": "Oslo", "aliases": "b<|answer_split|><|answer_split|>Oslo"}, ("Oslo", "b")),
    ],
)
def test_answers_are_split_at_their_separator_by_every_reader(row, golds, tmp_path):
    rows = {"id": "1", "question": "Which?", "prediction": golds[-1]} | row
    file = kept(tmp_path, "q.jsonl", json.dumps(rows) + "\n")
    assert readers.read_queries(file)[0].answers == only(file)[0].answers == golds
    assert score.score(file)["em"] == 1


@pytest.mark.parametrize(
    ("value", "answers"),
    [(True, ("yes",)), (False, ("no",)), ([True, "yes, it is"], ("yes", "yes, it is")), ({"value": False}, ("no",))],
)
def test_a_truth_value_is_yes_or_no_and_a_run_says_how_to_make_it_so(value, answers, tmp_path):
    """StrategyQA and BoolQ keep their answers so. The advice was to run the command that had just refused it."""
    file = kept(tmp_path, "q.jsonl", json.dumps({"id": "1", "question": "Is it?", "answer": value}) + "\n")
    query, said = only(file)
    assert query.answers == answers and "rows with true or false as 'answer', taken as yes and no: 1" in said
    with pytest.raises(ValueError, match="`qr-jax data convert FILE NEW` takes numbers, true and false, and SQuAD's"):
        readers.read_queries(file)


@pytest.mark.parametrize("value", [{"a": 1}, [["x"]], [{"a": "x"}, 1], {"text": [["x"]]}])
def test_what_convert_cannot_take_is_refused_without_advice_to_convert_it(value, tmp_path):
    file = kept(tmp_path, "q.jsonl", json.dumps({"id": "1", "question": "Is it?", "answer": value}) + "\n")
    with pytest.raises(ValueError, match="q.jsonl row 1: .*'answer' must be a text") as error:
        foreign.read(file)
    assert "data convert" not in str(error.value)


@pytest.mark.parametrize("text", ["[" + "\\'" * 45_000 + "]", "['a\n']", "['a', b]", "['a'"])
def test_a_text_that_is_no_list_is_known_in_time_linear_in_it(text):
    began = time.process_time()
    assert answer_columns.list_in(text) is None and time.process_time() - began < 2  # a quadratic search took 50 s


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_table_s_encoding_and_separator_are_found_and_said(mark, encoding, tmp_path):
    table = f"{mark}id{mark} Question{mark}Answer\n0{mark}1{mark}What is “this”?{mark}Köln\n\n"
    query, said = only(kept(tmp_path, "q.csv", table, encoding))
    assert (query.id, query.question, query.answers, query.meta) == ("1", "What is “this”?", ("Köln",), {})
    assert f"a table with {foreign_rows.SEPARATORS[mark]} between the columns id, Question, Answer" in said
    assert ("q.csv is no UTF-8: such files are read as Windows-1252" in said) == (encoding == "cp1252")
    assert "rows whose 'Question' is 'question' here: 1" in said


def test_a_cell_may_hold_breaks_of_lines_and_what_unicode_takes_for_one(tmp_path):
    query, _ = only(kept(tmp_path, "q.csv", 'id,question,answers\r\n007,"Who\r\nis it\u2028?",a\x85b\u2029c\r\n'))
    assert (query.id, query.question, query.answers) == ("007", "Who\r\nis it\u2028?", ("a\x85b\u2029c",))


def test_an_encoding_can_be_named_and_a_wrong_one_is_told(tmp_path):
    file = kept(tmp_path, "q.csv", "question,answers\n首都?,北京\n", "gbk")
    assert only(file, encoding="gbk")[0].question == "首都?"
    with pytest.raises(ValueError, match="there is no encoding 'gbkk'; wanted"):
        foreign.read(file, "gbkk")
    with pytest.raises(ValueError, match=r"no text in ascii \(byte 0xca at place 18\); name another"):
        foreign.read(file, "ascii")
    with pytest.raises(ValueError, match=r"no text in UTF-8 or Windows-1252 \(byte 0x81.*--encoding gbk"):
        foreign.read(kept(tmp_path, "r.csv", b"question,answers\n\x81?,x\n"))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([Q]),
        json.dumps(Q, indent=2),
        json.dumps(Q, indent=2) + "\n" + json.dumps(Q, indent=2),
        json.dumps({"version": 1, "data": [Q]}),
        json.dumps({"1": {"question": Q["question"], "answers": Q["answers"]}}),
        json.dumps({name: {"0": value} for name, value in Q.items()}),
        json.dumps({name: [value] for name, value in Q.items()}),
        json.dumps({"qid": 1, "query": Q["question"], "gold": Q["answers"]}),
        json.dumps(Q | {"answers": {"text": [*Q["answers"], "Germany"], "answer_start": [1, 2, 3]}}),
        json.dumps(Q | {"answers": str(Q["answers"])}),
    ],
)
def test_json_of_other_shapes_gives_the_same_question(content, tmp_path):
    query, said = only(kept(tmp_path, "q.json", content))
    assert (query.id, query.question, list(query.answers)) == (Q["id"], Q["question"], Q["answers"])
    assert ("taken once" in said) == (content.count("Köln") + content.count("K\\u00f6ln") == 2)


def test_rows_without_an_id_are_named_by_their_text_and_numbers_are_texts(tmp_path):
    rows = [
        {"question": "How many?", "answers": [7]},
        {"question": "How many?", "answers": 8},
        {"question": "How many?", "answers": [7]},
    ]
    made, said, _ = foreign.read(kept(tmp_path, "q.jsonl", "\n".join(map(json.dumps, rows))))
    assert [query.answers for query in made] == [("7",), ("8",)] and made[1].id == f"{made[0].id}-2"
    assert (
        "rows that stand there twice, taken once: 1" in said
        and "rows with numbers as 'answers', taken as texts: 3" in said
    )
    again, *_ = foreign.read(kept(tmp_path, "r.jsonl", json.dumps(rows[0])))
    assert again[0].id == made[0].id
    made, said, _ = foreign.read(kept(tmp_path, "s.jsonl", "\n".join(map(json.dumps, [*rows[:2], rows[1]]))))
    assert len(made) == 2 and "rows that stand there twice, taken once: 1" in said  # the second of a text, again
    trl = [{"prompt": "How many?", "answer": text} for text in ("7", "8")]
    made, *_ = foreign.read(kept(tmp_path, "t.jsonl", "\n".join(map(json.dumps, trl))))
    assert [query.answers for query in made] == [("7",), ("8",)] and made[1].id == f"{made[0].id}-2"


def test_documents_of_one_name_in_several_words_are_named_by_their_folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.md").write_text(f"# {name}\n\nText of {name}.")
    made, *_ = foreign.read([tmp_path / "a/index.md", tmp_path / "b/index.md"])
    assert sorted(one.id for one in made) == ["a/index.md", "b/index.md"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("q.tsv", "q0a\tWhere?\tKöln\n", "its first line is 'q0a.*wanted a first line of names, such as id\tquestion"),
        ("q.csv", "id,question,answers\n1,Where?,Ada\n1,Who?,Bob\n", "row 3: id '1' stands in row 2 too; ids must be"),
        (
            "q.csv",
            "question,year\nWhere?,1900\n",
            "row 2: has none of answers.* fields found: question, year; if another col",
        ),
        (
            "q.csv",
            "question,answer\na?,b\nc?, \n",
            "row 3: nothing stands in 'answer'; fill it in, or take",
        ),
        ("q.csv", "question,answer 1,answer 2\na?,,\n", "row 2: nothing stands in 'answer 1', 'answer 2'; fill it in"),
        ("q.csv", "Question,Answer\n,b\n", "row 2: nothing stands in 'Question'; fill"),
        ("p.csv", "id,title,text\n1,A,\n", "row 2: nothing stands in 'text'; fill"),
        ("q.json", '[{"question": "a?", "answers": null}]', "row 1: nothing stands in 'answers'; fill"),
        ("q.csv", "id,question,answers,answers\n", "more than one column is named 'answers'; rename all but one"),
        (
            "q.csv",
            'question,answers\na?,"b" c\n',
            "q.csv row 2: no row of a table .* within it is written twice",
        ),
        ("q.csv", 'question,answers\na?,"b\nc?,d\n', "q.csv line 3: no row of a table"),
        ("q.csv", f"question,{'x' * 6_000_000}\n", "q.csv line 1: no row of a table .field larger"),
        ("q.json", '{"question": "a?", "answers": "b", "answers": "c"}', "an object has more than one 'answers'"),
        (
            "q.json",
            json.dumps(Q | {"answers": {"text": [None, "b"]}}),
            "item 1 of 'answers' must be a text, and is",
        ),
        ("q.csv.gz", gzip.compress(b"text|title\n" + b"a|\n" * 2_000_000), "unpacks to more than 100,000,000"),
        ("q.csv", "", "q.csv is empty"),
        ("q.json", "[]", "has no rows"),
        ("q.json", "[1]", "a list of objects is wanted, and it holds int 1"),
        ("q.json", '{"who?": "me"}', "is one JSON object with who\\?, which are no rows; wanted a list of objects"),
        ("q.json", '{"x": [{"q": "a?", "a": "b"}], "y": [{"text": "c"}]}', "holds 2 lists of rows, in x, y; put each"),
        ("q.json", '[{"foo": 1}]', "neither a question nor a passage; fields found: foo; rename them .question, answ"),
        ("c.csv", "name,description\nx,y\n", "wanted a first line of names, such as .* or id,title,text"),
        ("q.xlsx", b"PK\x03\x04\x14\x81", "no text but a spreadsheet .* save the table as CSV"),
        ("q.txt", b"GIF8\x00\x81", "no text in UTF-8 or Windows-1252 .byte 0x81"),
        ("q.txt", b"GIF8\x00", "it holds NUL characters"),
        ("q.json", '{"question": ["a?"], "answers": []}', "columns of unlike length"),
        ("q.json", '{"question": "a?",\n"answers" "b"}', "line 2: no JSON"),
        ("q.jsonl", json.dumps(Q) + '\n{"id": "p", "text": "x"}', "holds questions and passages .row 2 is the first"),
    ],
)
def test_what_cannot_be_read_is_named(name, content, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        foreign.read(kept(tmp_path, name, content))


def test_a_row_of_trl_keeps_the_id_that_stands_under_another_name(tmp_path):
    """`--map answers=gold` made one of TRL's of a row with `prompt` and `qid`, and its id was a hash without a word."""
    row = {"qid": "q7", "prompt": "Where is Köln?", "answers": ["Germany"]}
    query, said = only(kept(tmp_path, "q.jsonl", json.dumps(row)))
    assert query.id == "q7" and "qid" not in query.meta and "rows whose 'qid' is 'id' here: 1" in said
    del row["qid"]
    query, said = only(kept(tmp_path, "q.jsonl", json.dumps(row)))
    assert query.id == formats.hash_of("Where is Köln?") and "rows without an id, named by a hash" in said


def test_all_rows_that_cannot_be_read_are_told_at_once(tmp_path):
    rows = ["id,question,answers", "1,Where?,Ada", "1,Who?,Bob", ",,", "2,When?, ", *(f"1,{n}?,x" for n in range(28))]
    with pytest.raises(ValueError) as error:
        foreign.read(kept(tmp_path, "q.csv", "\n".join(rows)))
    lines = str(error.value).split("\n  ")
    assert lines[0] == "q.csv has 30 rows that cannot be read:" and len(lines) == 3
    assert lines[1].startswith("row 3: id '1' stands in row 2 too") and "(and 28 rows alike, to row 33)" in lines[1]
    assert lines[2].startswith("row 5: nothing stands in") and lines[2].endswith("; --skip-broken leaves such rows out")
    with pytest.raises(ValueError, match=r"q.csv has 2 rows that cannot be read:\n  row 3: .*\n  row 5: nothing"):
        foreign.read(kept(tmp_path, "q.csv", "\n".join(rows[:5])))


def test_numbered_columns_beside_an_answer_are_further_answers(tmp_path):
    """They were kept as columns that nothing reads: an accepted answer was graded wrong."""
    table = "Question;Answer;Answer 2;answer_3\nwho?;Ada;Ada L.;A. L.\nwhere?;Bonn;;\n"
    made, said, _ = foreign.read(kept(tmp_path, "q.csv", table))
    assert [(one.answers, one.meta) for one in made] == [(("Ada", "Ada L.", "A. L."), {}), (("Bonn",), {})]
    assert "rows whose 'Answer 2', 'answer_3' are further answers here: 1" in said


def test_columns_of_one_answer_each_are_a_list(tmp_path):
    made, said, _ = foreign.read(kept(tmp_path, "q.csv", "question,Answer 1,answer 2\nwho?,Ada,\nwhere?,the,Bonn\n"))
    assert [query.answers for query in made] == [("Ada",), ("Bonn",)]
    assert "answers that normalise to nothing, left out (the first: 'the' in row 3): 1" in said
    assert "rows whose 'Answer 1', 'answer 2' are 'answers' here: 1" in said


def test_a_folder_of_text_files_gives_passages_of_its_paragraphs(tmp_path, capsys):
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    long = " ".join(f"This is sentence {at} of it." for at in range(30))
    (tmp_path / "notes" / "Salt_Mill.txt").write_text(f"Salt Mill\n\n{long}\n\nShort one.\n\n" + "word " * 230)
    (tmp_path / "notes" / "deep" / "b.md").write_bytes("Köln, question\n".encode("cp1252"))
    (tmp_path / "notes" / "empty.txt").touch()
    (tmp_path / "notes" / "picture.png").write_bytes(b"\x89PNG")
    out = tmp_path / "c.jsonl"
    assert cli.main(["data", "convert", str(tmp_path / "notes"), str(out)]) == 0
    said = capsys.readouterr().err
    assert "the file's name their title: 3" in said and "files without a word, left out: 1" in said
    passages = readers.read_passages(out)
    assert [passage.id for passage in passages] == [*(f"Salt_Mill.txt#{at}" for at in range(1, 6)), "deep/b.md"]
    assert passages[0].text.startswith("Salt Mill\nThis is sentence 0 of it. This") and passages[-1].title == "b"
    assert passages[-1].text == "Köln, question"
    words = [len(passage.text.split()) for passage in passages]
    assert max(words) <= 100 and sum(words) == 2 + 30 * 6 + 2 + 230 + 2
    assert all(passage.text.endswith((".", "word")) for passage in passages[:-1])
    assert cli.main(["data", "convert", str(tmp_path / "notes" / "deep"), str(tmp_path / "d.jsonl")]) == 0
    assert cli.main(["index", str(tmp_path / "notes"), str(tmp_path / "index")]) == 2
    assert "`qr-jax data convert " in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert cli.main(["data", "convert", str(tmp_path / "none"), str(tmp_path / "e.jsonl")]) == 2
    assert "holds no file that is read; wanted documents (.txt, .md, " in capsys.readouterr().err


PAGE = """<!DOCTYPE html><html><head><meta charset=iso-8859-1><title>Caf\u00e9 &amp; bar</title>
<style>p { color: red }</style><script>var text = "<p>no text</p>";</script></head>
<body><h1>About</h1><p>One <b>bold</b>word.<br>Next</p><!-- unseen --><![if !vml]><template>later</template>
<svg><title>picture</title></svg><table><tr><td>a</td><td>b</td></tr></table><ul><li>first<li>second</ul></body></html>"""


def test_of_a_folder_of_documents_what_is_left_out_is_said_by_ending_and_count(tmp_path, capsys):
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    for at in range(42):
        (folder / f"note{at:02d}.txt").write_text(f"Note {at}.")
    (folder / "a.pdf").write_bytes(b"%PDF-1.4")
    (folder / "b.docx").write_bytes(b"PK\x03\x04")
    (folder / "c.PDF").write_bytes(b"%PDF-1.4")
    (folder / "d.json").write_text("{}")
    (folder / "Makefile").touch()
    (folder / ".git").mkdir()
    (folder / ".git" / "note.txt").write_text("no document")
    (folder / "deep" / "page.html").write_text(PAGE, "cp1252")
    (folder / "more.markdown").write_text("# More")
    out = tmp_path / "c.jsonl"
    assert cli.main(["data", "convert", str(folder), str(out)]) == 0
    said = capsys.readouterr().err
    left = (
        "files left out: 6, by their ending: .pdf 2, no ending 1, .docx 1, .json 1, hidden files 1 (the text of a .pdf"
    )
    assert left in said and "files of HTML, cut at paragraphs" in said and "Windows-1252" not in said
    passages = {passage.id: passage for passage in readers.read_passages(out)}
    assert len(passages) == 44 and passages["more.markdown"].text == "# More"
    page = passages["deep/page.html"]
    assert page.title == "Café & bar"
    assert page.text == "About\nOne boldword. Next\na b\nfirst\nsecond"


@pytest.mark.parametrize(
    ("page", "title", "text"),
    [
        ("<p>One.<p>Two.", "my page", "One.\nTwo."),
        ("<title>  A\n title </title>text &lt;p&gt; &eacute;", "A title", "text <p> é"),
        ("<html><body><script>if (a < b) { '</div>' }</script>seen</body>", "my page", "seen"),
        ("just text", "my page", "just text"),
    ],
)
def test_a_page_alone_has_its_title_or_its_file_s_name(page, title, text, tmp_path):
    (passage,), *_ = foreign.read(kept(tmp_path, "my_page.htm", page))
    assert (passage.id, passage.title, passage.text) == ("my_page.htm", title, text)


@pytest.mark.parametrize("odd", ["<a ", "<a b='", "a<b ", "<title>a<b ", "<?", "<![if ", "<!"])
def test_a_page_of_tags_that_never_end_takes_no_time_of_its_square(odd):
    began = time.monotonic()
    title, text = html_text.read(f"<p>seen</p>{odd * (1_000_000 // len(odd))}")
    assert text.startswith("seen") and len(title + text) > 90_000 and time.monotonic() - began < 20
    assert html_text.read("<p title='a > b'>x < y &lt;<p") == ("", "x < y <<p")


def test_a_page_whose_comments_never_end_is_refused_in_time():
    began = time.monotonic()
    with pytest.raises(UserError, match="too many tags and comments that never end"):
        html_text.read("<!-- <b>" * 120_000)
    assert time.monotonic() - began < 20


def test_a_page_s_encoding_is_the_one_that_it_names(tmp_path):
    page = "<html><head><meta http-equiv='Content-Type' content='text/html; charset=shift_jis'></head><p>首都は東京"
    (passage,), said, _ = foreign.read(kept(tmp_path, "p.html", page, "shift_jis"))
    assert passage.text == "首都は東京" and not any("Windows-1252" in line for line in said)
    (passage,), said, _ = foreign.read(kept(tmp_path, "q.html", page, "utf-8"))
    assert passage.text == "首都は東京", "what is UTF-8 is read so, whatever it says"
    unknown = "<meta charset=base64><p>Köln"
    assert only(kept(tmp_path, "r.html", unknown, "cp1252"))[0].text == "Köln"


def test_a_document_that_cannot_be_read_is_named_or_skipped(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, held in (("a.txt", b"text"), ("b.txt", b"%PDF-1.4"), ("c.md", b"\0\0"), ("d.txt", b"\x81")):
        (folder / name).write_bytes(held)
    with pytest.raises(ValueError, match=r"docs has 3 rows that cannot be read:\n  b.txt: b.txt is no text but a PDF"):
        foreign.read(folder)
    made, said, _ = foreign.read(folder, skip_broken=True)
    assert [passage.id for passage in made] == ["a.txt"] and any(line.endswith(": 3") for line in said)


def test_a_folder_of_documents_and_rows_is_not_guessed_at(tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "rows.jsonl").write_text(json.dumps(Q))
    with pytest.raises(
        ValueError, match=r"holds 1 documents .notes.txt, ...\) and 1 files of rows .rows.jsonl, ...\); name"
    ):
        foreign.read(tmp_path)
    assert len(foreign.read(f"{tmp_path}/*.txt").items) == len(foreign.read(f"{tmp_path}/**/*.jsonl").items) == 1
    (tmp_path / "pdfs").mkdir()
    (tmp_path / "pdfs" / "a.pdf").touch()
    with pytest.raises(
        ValueError, match=r"pdfs holds no file that is read: .pdf 1; wanted documents .* or files of rows"
    ):
        foreign.read(tmp_path / "pdfs")


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ({"answer_aliases": ["Christiania"], "Answer": "Oslo"}, ("Oslo", "Christiania")),
        ({"answer": "Oslo", "Aliases": '["Christiania", "Kristiania"]'}, ("Oslo", "Christiania", "Kristiania")),
        ({"answer_aliases": ["Christiania"], "gold": "Oslo"}, ("Oslo", "Christiania")),
        ({"answer": 7, "answer_aliases": [7.5, "seven"]}, ("7", "7.5", "seven")),
        ({"possible_answers": '["Oslo", "Christiania"]', "o_aliases": '["Kristiania"]'},
         ("Oslo", "Christiania", "Kristiania")),
    ],
)  # fmt: skip
def test_accepted_answers_in_side_columns_of_other_spelling_are_golds(row, answers, tmp_path):
    query, _ = only(kept(tmp_path, "q.json", json.dumps([row | {"question": "Where?"}])))
    assert query.answers == answers and query.meta == {}


def test_questions_without_an_answer_are_left_out_of_a_table_and_counted(tmp_path):
    table = "question,answer,answerable\na?,Ada,True\nb?,Bob,False\nc?,Cyd,0\n"
    made, said, _ = foreign.read(kept(tmp_path, "q.csv", table))
    assert len(made) == 1 and "questions left out, whose rows say that they have no answer: 2" in said
    empty = {"question": "a?", "answers": {"text": [], "answer_start": []}}
    with pytest.raises(ValueError, match=r"q.json has no rows .*\(questions left out, .*: 1\)"):
        foreign.read(kept(tmp_path, "q.json", json.dumps([empty])))


def test_a_table_may_be_named_txt(tmp_path):
    assert foreign.read(kept(tmp_path, "q.txt", "question\tanswer\nwho?\tme\n"))[0][0].answers == ("me",)
    assert foreign.read(kept(tmp_path, "t.txt", "Answer, please.\n"))[0][0].text == "Answer, please."


@pytest.mark.thorough
def test_many_rows_of_one_text_and_many_columns_take_no_time_of_their_square(tmp_path):
    same = kept(tmp_path, "q.csv", "question,answers\n" + "".join(f"who?,a{at}\n" for at in range(20_000)))
    began = time.monotonic()
    assert len({query.id for query in foreign.read(same)[0]}) == 20_000
    columns = {" " * at + "question": {str(at): "who?"} for at in range(2000)}
    with pytest.raises(ValueError, match="has none of answers"):
        many = {"question": {str(at): "a?" for at in range(60_000)}}
        foreign.read(kept(tmp_path, "q.json", json.dumps(columns | many)))
    assert time.monotonic() - began < 30


def test_passages_of_a_table_are_written_and_read_back(tmp_path, capsys):
    long = "x" * 200_000  # longer than csv's own limit
    file = kept(tmp_path, "c.csv.gz", gzip.compress(f'title,body\nKöln,"{long}"\nBonn,a | b\n'.encode()))
    out = tmp_path / "c.jsonl"
    assert cli.main(["data", "convert", str(file), str(out)]) == 0
    told = capsys.readouterr()
    assert f"2 passages: {out}" in told.out and "rows whose 'body' is 'text' here: 2" in told.err
    assert [passage.text for passage in readers.read_passages(out)] == [long, "a | b"]
    assert list(json.loads(out.read_text().splitlines()[0])) == ["id", "title", "text"]
    assert cli.main(["data", "convert", str(file), str(tmp_path / "c.parquet"), "--to", "verl"]) == 2
    assert "holds passages, whose one form is jsonl; leave --to verl out" in capsys.readouterr().err


def test_columns_that_a_passage_does_not_keep_are_said(tmp_path):
    (passage,), said, _ = foreign.read(kept(tmp_path, "p.csv", "name,body,text\nOslo,x,The capital\n"))
    assert passage.text == "The capital" and passage.title == ""
    assert any(
        line.startswith("rows whose 'name', 'body' is left out: a passage has id, title and text") for line in said
    )


def test_a_dry_run_reads_the_first_row_of_each_file(tmp_path, capsys):
    questions, corpus = kept(tmp_path, "q.jsonl", json.dumps(Q)), kept(tmp_path, "c.csv", "id,text\n1,x\n")
    words = [f"data.train={questions}", f"data.eval={questions}", f"data.corpus={corpus}", "sft.steps=0"]
    assert cli.main(["train", TINY, "--dry-run", *words]) == 2
    assert "data.corpus: c.csv is a table; wanted JSON lines" in capsys.readouterr().err


def test_data_check_warns_of_a_list_in_a_text_and_of_rows_that_are_the_same(tmp_path):
    rows = [Q | {"answers": str(Q["answers"])}, Q | {"id": "2"}, Q | {"id": "2"}]
    checked = data_check.check(kept(tmp_path, "q.jsonl", "\n\n".join(map(json.dumps, rows))))
    found = {one.kind: one for one in checked.findings}
    assert found["list as text"].rows == (1,) and "data convert FILE NEW" in found["list as text"].text
    assert found["repeated id"].rows == (3, 5) and "the same: leave one out" in found["repeated id"].text
    assert checked.counts["empty_lines"] == 2
    with pytest.raises(
        ValueError, match="row 5: id '2' stands in q.jsonl row 3 too; both rows are the same: leave one"
    ):
        readers.read_queries(tmp_path / "q.jsonl")
    passages = [{"id": "p", "text": "x"}, {"id": "q"}]
    (error,) = data_check.check(kept(tmp_path, "c.jsonl", "\n".join(map(json.dumps, passages)))).errors
    assert error.rows == (2,) and "has neither 'text' nor 'contents'" in error.text


def test_rows_of_other_systems_are_mended_as_our_own_are(tmp_path):
    listed = kept(tmp_path, "q.csv", "id,question,golden_answers\n1,Who?,\"['Ada Byron', 'Ada Lovelace']\"\n")
    assert only(listed)[0].answers == ("Ada Byron", "Ada Lovelace")
    row = {"question": "When?", "golden_answers": [1984]}
    item, said = only(kept(tmp_path, "f.jsonl", json.dumps(row)))
    assert item.answers == ("1984",) and item.id == formats.hash_of("When?") and "numbers as 'answers'" in said
    item, said = only(kept(tmp_path, "g.jsonl", json.dumps(row | {"qid": "7"})))
    assert item.id == "7" and "rows whose 'qid' is 'id' here" in said
    chat = {"prompt": [{"role": "user", "content": "Who?"}], "answers": ["Ada", "Ada Byron"]}
    assert only(kept(tmp_path, "t.jsonl", json.dumps(chat)))[0].answers == ("Ada", "Ada Byron")


def test_a_missing_answer_that_pandas_wrote_as_nan_is_none(tmp_path):
    row = {"id": "1", "question": "Who?", "answer1": "Ada", "answer2": float("nan")}
    assert only(kept(tmp_path, "q.jsonl", json.dumps(row)))[0].answers == ("Ada",)
    assert parsing.query_of({"id": "1", "question": "?", "answer": "Ada", "answer2": float("nan")}).answers == ("Ada",)
    with pytest.raises(ValueError, match="nothing stands in 'answer'"):
        foreign.read(kept(tmp_path, "r.jsonl", json.dumps({"id": "1", "question": "Who?", "answer": float("nan")})))


@pytest.mark.parametrize("paragraph", ["天地玄黄,宇宙洪荒。" * 40, "ภาษาไทยไม่มีช่องว่าง" * 40])
def test_texts_without_blanks_are_cut_into_passages_too(paragraph):
    found = text_files.passages("\n\n".join([paragraph] * 3), name="d", title="D")
    assert len(found) > 9 and max(len(one.text) for one in found) <= 2 * text_files.PASSAGE_WORDS
    assert "".join("".join(one.text.split()) for one in found) == paragraph * 3
    mixed = text_files.passages("A word, 天地 and others. " * 60, name="d", title="D")
    assert all("word, 天地 and" in one.text for one in mixed) and len(mixed) == 4  # 16 sentences of six
