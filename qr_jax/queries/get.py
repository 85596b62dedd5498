"""`qr-jax data get NAME`: download a question set or a corpus, and write it as files that a config names.

Questions come from the official files (official.py). HotpotQA, 2WikiMultihopQA and MuSiQue include their passages,
which become the corpus; the others are asked over Wikipedia (`wiki18`: the 2018 dump in passages, Search-R1's)."""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from qr_jax.answers import normalise
from qr_jax.errors import UserError
from qr_jax.queries import official
from qr_jax.queries.fetch import beside, fetch, register
from qr_jax.queries.official import File
from qr_jax.retrieval import index_corpus
from qr_jax.run_files import check_writable

PLACE = "runs/data"
WIKI18 = File(
    "wiki-18.jsonl.gz",
    "https://huggingface.co/datasets/PeterJinGo/wiki-18-corpus/resolve/main/wiki-18.jsonl.gz",
    how="it is the file of PeterJinGo/wiki-18-corpus on the Hugging Face hub",
)
BM25 = {"method": "lucene", "k1": 1.5, "b": 0.75, "stopwords": "en"}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Got:
    """The files that `get` wrote: questions by split, and the corpus's index if the set has passages."""

    name: str
    questions: Mapping[str, Path]
    counts: Mapping[str, int]
    corpus: Path | None = None
    passages: int = 0
    with_gold: bool = False  # whether the questions name their gold passages, which traces can be made of

    def lines(self) -> list[str]:
        """List the files written, and the settings that use them."""
        told = [f"{split}: {self.counts[split]} questions in {file}" for split, file in self.questions.items()]
        if self.corpus:
            told.append(f"corpus: {self.passages} passages in {self.corpus}")
        return [*told, "", "to use it, give a config these settings (configs/my_data.py has all the others):"] + [
            f"    {setting}" for setting in self.settings()
        ]

    def settings(self) -> list[str]:
        held_out = next((split for split in ("dev", "test") if split in self.questions), None)
        found = [f"data.train={self.questions['train']}"] if "train" in self.questions else []
        found += [f"data.eval={self.questions[held_out]}"] if held_out else []
        if self.corpus:
            found.append(f"data.corpus={self.corpus}")
        elif self.questions:
            found.append("data.corpus=FOLDER    # passages of Wikipedia: `qr-jax data get wiki18`, or your own")
        if self.questions:
            found.append("data.traces=supporting" if self.with_gold and self.corpus else "sft.steps=0")
        return found


def get(
    name: str, out: Path | None = None, *, given: Path | None = None, check: bool = True, say: Say = lambda text: None
) -> Got:
    """Download a set or `wiki18` into `out` (by default runs/data/NAME); existing files are not made again.

    `given` is a folder of the official files; then nothing is downloaded. `check` tests memory and disk before
    indexing. ValueError, with the file's name, if a file cannot be had, differs from the published one, or has a row of
    another form.
    """
    if name not in official.NAMES:
        from qr_jax.settings import nearest

        raise UserError(f"there is no set {name!r}{nearest(name, official.NAMES, shown=20)}")
    out = out or Path(PLACE) / name.replace("/", "_")
    check_writable(out, "--out")
    files = Path(official.BUILT) / "files"  # where `tfds:NAME` looks, too
    if name == "wiki18":
        return _wiki18(out, files, given, check, say)
    set_name = official.ALIASES.get(name, name)
    found = official.SETS[set_name]
    out.mkdir(parents=True, exist_ok=True)
    passages: dict[tuple[str, str], str] = {}  # (title, text) -> id
    questions, counts, gold = {}, {}, True
    for split, file in found.splits.items():
        fetched = fetch(file, files, given, say=say)
        say(f"reading {file.name}")
        rows = list(official.read(fetched.path, found, split, set_name))
        register(fetched, files)
        for row in rows:
            for title, text in row.get("context", ()):
                if text.strip():
                    passages.setdefault((title, text), str(len(passages)))
        questions[split] = out / f"{split}.jsonl"
        ours = [_row(row, passages) for row in rows if any(map(normalise, row["answers"]))]
        if len(ours) < len(rows):
            say(f"{file.name}: {len(rows) - len(ours)} questions left out, none of whose answers could ever match")
        _write(questions[split], ours)
        counts[split] = len(ours)
        gold = gold and (split != "train" or any("supporting_titles" in row for row in ours))
    if not passages:
        return Got(name, questions, counts)
    corpus, index = out / "corpus.jsonl.gz", out / "corpus.index"
    _write(corpus, ({"id": key, "title": title, "text": text} for (title, text), key in passages.items()))
    say(f"indexing {len(passages)} passages")
    index_corpus.index(str(corpus), index, BM25, check=check, replace=True, say=say)
    return Got(name, questions, counts, index, len(passages), gold)


def _wiki18(out: Path, files: Path, given: Path | None, check: bool, say: Say) -> Got:
    fetched = fetch(WIKI18, files, given, say=say)
    say("indexing; 21 million passages want hours, and tens of gigabytes of disk")
    manifest = index_corpus.index(str(fetched.path), out, BM25, check=check, say=say)
    register(fetched, files)
    return Got("wiki18", {}, {}, out, int(manifest["counts"]["passages"]))


def _row(row: Mapping[str, Any], passages: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Return a question as our row, with the ids of its gold passages if the corpus has all their texts."""
    kept = {name: value for name, value in row.items() if name not in ("context", "supporting_texts") and value}
    pairs = zip(row.get("supporting_titles", ()), row.get("supporting_texts", ()), strict=False)
    ids = [passages.get(pair) for pair in pairs]
    return kept | ({"supporting": ids} if ids and all(ids) else {})


def _write(file: Path, rows: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    """Write JSON lines, gzipped (without a timestamp) if the name ends in .gz; all or nothing."""
    with beside(file) as raw:
        packed: IO[bytes] = gzip.GzipFile("", "wb", mtime=0, fileobj=raw) if file.suffix == ".gz" else raw  # type: ignore
        for row in rows:
            packed.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
        if packed is not raw:
            packed.close()
