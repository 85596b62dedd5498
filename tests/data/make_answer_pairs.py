"""Write answer_pairs.jsonl: 2,000 made-up predictions with golds, and what the official rules give them.

    python tests/data/make_answer_pairs.py

The rules are written here a second time, from their publications alone, and share nothing with qr_jax:

- SQuAD v1.1 (Rajpurkar et al. 2016, 1606.05250), which HotpotQA and Search-R1 use unchanged: lower case; without the
  characters of `string.punctuation`; without the words a, an, the; white space single. EM: equal to some gold.
- F1: SQuAD's word overlap, the best over the golds, with HotpotQA's exception (Yang et al. 2018, 1809.09600): where
  prediction or gold is yes, no or noanswer, only equality counts.
- cover match: Search-R1's `subem` (Jin et al. 2025, 2503.09516): a normalised gold is a substring of the prediction.

A row holds `em`, `f1` and `cover_match` as these rules have them. Their documented defects are not followed by qr_jax;
where one shows, `without_defect` holds the values that we want instead:

- a gold of which normalisation leaves nothing ("the", "?!") is covered by every prediction, the empty one too;
- it equals, in EM, a prediction of which nothing is left.

Both win a reward by saying nothing; with us what is empty never matches. (A third one concerns no pair: Search-R1's
reward is 0 unless a transcript holds two answer tags, as its prompt holds an example.)
"""

import hashlib
import json
import string
from itertools import groupby
from pathlib import Path

PAIRS = 2000
FILE = Path(__file__).with_name("answer_pairs.jsonl")
NUMBERS = ("7", "1,234", "3.14", "1984", "$5", "20%", "4th", "-2", "II", "10 000")
NAMES = ("Zürich", "São Paulo", "東京", "Москва", "naïve", "O'Neill", "İzmir", "x_y", "C++", "St. Ives", "café—bar")
SHORT = ("art", "party", "thea", "theory", "man", "another", "at", "banana", "nobody", "yesterday", "cat", "sat", "red")
ARTICLES = ("a", "an", "the", "The", "A", "THE")
CLOSED = ("yes", "no", "noanswer", "Yes.", "NO!", "no answer", "noanswer,", "yes yes", "The yes")
NOTHING = ("", " ", "the", "?!", "A the", "...", "\t\n", "an.")
MARKS = ("", "", "", ".", ",", "!", "?", "'s", '"', "-", "—", " ", "  ", "\n", "…", "«", "_", "/")  # not all are ASCII


def number(*key) -> int:
    """A whole number fixed by its key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big")


def pick(many, *key):
    return many[number(*key) % len(many)]


def words(*key) -> str:
    """One to five words with articles, numbers and punctuation among them."""
    made = []
    for at in range(1 + number("length", *key) % 5):
        kind = number("kind", *key, at) % 10
        source = SHORT if kind < 4 else NAMES if kind < 6 else NUMBERS if kind < 7 else ARTICLES if kind < 9 else CLOSED
        made.append(pick(source, "word", *key, at) + pick(MARKS, "mark", *key, at))
    return pick((" ", " ", " ", "  ", "-"), "join", *key).join(made)


def near(text: str, *key) -> str:
    """The text said a little differently: other case, articles, marks, order, more or fewer words."""
    parts = text.split(" ")
    return pick(
        (
            text, text.upper(), text.title(), f"The {text}", f"{text}.", f" {text} ", f"it is {text}, of course",
            " ".join(parts[::-1]), " ".join(parts[1:]), " ".join(parts[:-1]), text.replace(" ", "  a "), text + text,
            text.replace("-", " "), f"({text})", f"{text} {parts[0]}", text[1:], f"{words(*key)} {text}",
        ),
        "near", *key,
    )  # fmt: skip


def gold(*key) -> str:
    kind = number("gold", *key) % 20
    if kind < 4:
        return pick(CLOSED, "closed", *key)
    return pick(NOTHING, "nothing", *key) if kind == 4 else words("gold", *key)


def pair(at: int) -> tuple[str, list[str]]:
    golds = [gold(at, one) for one in range(1 + (number("golds", at) % 4 if number("several", at) % 2 else 0))]
    kind = number("prediction", at) % 20
    if kind < 13:
        return near(pick(golds, "of", at), at), golds
    if kind < 16:
        return pick(CLOSED, "said", at), golds
    return (pick(NOTHING, "said nothing", at) if kind == 16 else words("prediction", at)), golds


# The rules, a second time.


def normal(text: str) -> list[str]:
    """The normalised words. An article is one where no letter or digit touches it, as `\\b` in the published rule."""
    kept = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    runs = ["".join(run) for _, run in groupby(kept, key=str.isalnum)]
    return "".join(" " if run in ("a", "an", "the") else run for run in runs).split()


def overlap(said: list[str], wanted: list[str]) -> float:
    if said != wanted and any(" ".join(one) in ("yes", "no", "noanswer") for one in (said, wanted)):
        return 0.0
    left, same = list(wanted), 0
    for word in said:
        if word in left:
            left.remove(word)
            same += 1
    if not same:
        return 0.0
    precision, recall = same / len(said), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def scores(prediction: str, golds: list[str], *, empty_matches: bool) -> dict[str, float]:
    said = normal(prediction)
    wanted = [one for one in map(normal, golds) if one or empty_matches]
    return {
        "em": float(any(said == one for one in wanted) and (bool(said) or empty_matches)),
        "f1": round(max((overlap(said, one) for one in wanted), default=0.0), 15),
        "cover_match": float(any(" ".join(said).find(" ".join(one)) >= 0 for one in wanted)),
    }


def row(at: int) -> dict:
    prediction, golds = pair(at)
    official = scores(prediction, golds, empty_matches=True)
    wanted = scores(prediction, golds, empty_matches=False)
    made = {"id": str(at), "prediction": prediction, "answers": golds, **official}
    return made | ({} if wanted == official else {"without_defect": wanted})


if __name__ == "__main__":
    lines = [json.dumps(row(at), ensure_ascii=False, separators=(",", ":")) + "\n" for at in range(PAIRS)]
    FILE.write_text("".join(lines), encoding="utf-8")
