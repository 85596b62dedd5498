"""Passages that official files carry beside their questions, and which of them are gold.

The forms are HotpotQA's and 2WikiMultihopQA's (`context`, `supporting_facts`), MuSiQue's (`paragraphs`), SQuAD's (a
text `context`) and DROP's (`passage`, `qa_pairs`): as the sets' own files have them, as columns (`datasets`, Parquet),
or as JSON in a text.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qr_jax.data import limits
from qr_jax.data.parsing import Row, show
from qr_jax.errors import UserError
from qr_jax.settings import json_text

Pair = tuple[str, str]  # a passage's title and text
COLUMNS = ("context", "paragraphs")  # which hold passages
SENTENCES = ("sentences", "content")


def passages(row: Row) -> tuple[list[Pair], list[Pair]]:
    """Give the passages that a row carries, and the gold of them. The text of a gold passage not among them is "".

    ValueError: the column has one of these forms, and something in it is no text.
    """
    context, paragraphs = _plain(row.get("context")), _of_musique(row)
    if paragraphs:
        found = [(one.get("title") or "", one["paragraph_text"]) for one in paragraphs]
        _check_texts(found, "paragraphs")
        return found, [pair for pair, one in zip(found, paragraphs, strict=True) if one.get("is_supporting")]
    if isinstance(context, str) and context.strip():
        title = row.get("title")
        found = [(title.replace("_", " ") if isinstance(title, str) else "", context)]  # SQuAD's are of addresses
        return found, found
    found = list(_of_hotpotqa(context))
    _check_texts(found, "context")
    texts = dict(reversed(found))  # the first of a title stands
    return found, [(title, texts.get(title, "")) for title in gold_titles(row)]


def gold_titles(row: Row) -> list[str]:
    """Give the titles that the row marks as gold, each once; none where it marks none in these forms."""
    if paragraphs := _of_musique(row):
        titles = [one.get("title") for one in paragraphs if one.get("is_supporting")]
    else:
        facts = _plain(row.get("supporting_facts"))
        titles = facts.get("title") if isinstance(facts, Mapping) else facts
        titles = [titles] if isinstance(titles, str) else titles if isinstance(titles, list) else []
        titles = [one[0] if isinstance(one, Sequence) and not isinstance(one, str) and one else one for one in titles]
    return list(dict.fromkeys(title for title in titles if isinstance(title, str) and title.strip()))


def hops(row: Row) -> dict[str, Any]:
    """Give `hops`, and as `entities` the answers on the way, where the row says by which steps it is answered."""
    steps, evidences = _plain(row.get("question_decomposition")), _plain(row.get("evidences"))
    if isinstance(steps, list) and steps:
        on_the_way = [step.get("answer") if isinstance(step, Mapping) else None for step in steps[:-1]]
        count = len(steps)
    elif isinstance(evidences, list) and evidences:
        triples = [one for one in evidences if isinstance(one, list) and len(one) == 3]
        on_the_way = [last for _, _, last in triples if last != row.get("answer")]
        count = 4 if row.get("type") == "bridge_comparison" else 2
    else:
        return {"hops": 2} if row.get("type") in ("bridge", "comparison") and gold_titles(row) else {}
    entities = list(dict.fromkeys(name for name in on_the_way if isinstance(name, str) and name.strip()))
    return {"hops": count} | ({"entities": entities} if entities else {})


def questions(row: Row) -> Iterator[Row]:
    """Give the questions of SQuAD's article or paragraph, or of DROP's passage, as rows; any other row as it is."""
    if isinstance(row.get("passage"), str) and isinstance(row.get("qa_pairs"), list):
        yield from _of_drop(row)
        return
    paragraphs = row.get("paragraphs") if isinstance(row.get("paragraphs"), list) else [row]
    if not paragraphs or not all(isinstance(one, Mapping) and isinstance(one.get("qas"), list) for one in paragraphs):
        yield row
        return
    for paragraph in paragraphs:
        around = {name: row[name] for name in ("title",) if name in row} | {"context": paragraph.get("context")}
        for question in paragraph["qas"]:
            yield around | dict(question) if isinstance(question, Mapping) else {"question": question}


def _of_drop(row: Row) -> Iterator[Row]:
    """Give the questions about DROP's passage, answered by a number, spans or a date (Dua et al. 2019, 1903.00161)."""
    around = {"title": row["id"]} if "id" in row else {}
    for pair in row["qa_pairs"]:
        if not isinstance(pair, Mapping):
            yield {"question": pair}
            continue
        given = (pair.get("answer"), *(pair.get("validated_answers") or ()))
        answers = list(dict.fromkeys(filter(None, map(_drop_answer, given))))
        rest = {name: value for name, value in pair.items() if name not in ("answer", "validated_answers", "query_id")}
        named = {"id": pair["query_id"]} if "query_id" in pair else {}
        yield around | {"context": row["passage"]} | rest | named | {"answers": answers}


def _drop_answer(answer: Any) -> str:
    """Return DROP's answer as one text, several spans with commas between; "" where it says nothing."""
    if not isinstance(answer, Mapping):
        return ""
    date = answer.get("date")
    date = date if isinstance(date, Mapping) else {}
    parts = [str(date[name]) for name in ("day", "month", "year") if date.get(name)]
    number, spans = answer.get("number"), answer.get("spans")
    if number not in (None, ""):
        return str(number)
    return ", ".join(map(str, spans)) if isinstance(spans, list) and spans else " ".join(parts)


def _of_musique(row: Row) -> list[Row]:
    found = _plain(row.get("paragraphs"))
    is_known = isinstance(found, list) and all(isinstance(one, Mapping) and "paragraph_text" in one for one in found)
    return found if is_known else []


def _of_hotpotqa(context: Any) -> Iterator[tuple[Any, Any]]:
    """Yield titles and texts of [[title, [sentence]]] or {"title": [title], "sentences": [[text]]}, else nothing."""
    if isinstance(context, Mapping) and "title" in context:
        titles, texts = context["title"], next((context[name] for name in SENTENCES if name in context), None)
        if not isinstance(titles, list) or not isinstance(texts, list) or len(titles) != len(texts):
            raise UserError(f"'context' must have as many lists of sentences as titles, and is {show(context)}")
        context = [list(pair) for pair in zip(titles, texts, strict=True)]
    if not isinstance(context, list) or not all(isinstance(one, list) and len(one) == 2 for one in context):
        return
    for title, sentences in context:
        is_listed = isinstance(sentences, list) and all(isinstance(sentence, str) for sentence in sentences)
        yield title, joined(sentences) if is_listed else sentences


def _check_texts(pairs: Sequence[tuple[Any, Any]], column: str) -> None:
    for at, pair in enumerate(pairs, 1):
        for part in pair:
            if not isinstance(part, str):
                raise UserError(f"passage {at} of {column!r} must be a title and its text, and holds {show(part)}")


def _plain(value: Any) -> Any:
    """Return the value; of JSON in a text what it says."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json_text.read_bounded(value.encode("utf-8", "surrogatepass"), limits.MOST_ROW_ITEMS)
    except ValueError:  # a text that begins so
        return value


def joined(sentences: Sequence[str]) -> str:
    """Join the sentences into one text. HotpotQA's begin with the separating blank, 2WikiMultihopQA's do not."""
    text = ""
    for sentence in sentences:
        parted = text[-1:].isspace() or sentence[:1].isspace() or not text
        text += sentence if parted else f" {sentence}"
    return text.strip()
