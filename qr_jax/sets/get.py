"""`qr-jax data get`: fetch a set, or files of a data set repository, from the hub, for a config to name."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qr_jax.answers import normalise
from qr_jax.errors import UserError
from qr_jax.run.run_files import check_writable
from qr_jax.search import index_corpus
from qr_jax.search.bm25_index import file_hash
from qr_jax.sets import formats, official
from qr_jax.sets.fetch import beside, fetch, record

PLACE = "runs/data"
BM25 = {"method": "lucene", "k1": 1.5, "b": 0.75, "stopwords": "en"}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Got:
    """What `get` wrote: a line for each file, and the settings that use them."""

    told: list[str]
    settings: list[str]

    def lines(self) -> list[str]:
        return [*self.told, "", "to use it, give a config these settings (configs/my_data.py has all the others):"] + [
            f"    {setting}" for setting in self.settings
        ]


def get(
    name: str,
    files: Sequence[str] = (),
    out: Path | None = None,
    *,
    revision: str | None = None,
    check: bool = True,
    say: Say = lambda text: None,
) -> Got:
    """Fetch a set by its name, or `files` of the repository `name`, into `out` (by default runs/data/NAME).

    `revision` is a branch, tag or commit. `check` tests memory and disk before indexing. UserError, with the file's
    name, if a file cannot be had or has a row of another form.
    """
    if not files and name not in official.HUB:
        raise UserError(_not_of_hub(name))
    out = out or Path(PLACE) / name.replace("/", "_")
    check_writable(out, "--out")
    if files:
        return _repository(name, files, revision or official.MAIN, out, say)
    of_hub = official.HUB[name]
    say(f"fetching {of_hub.file} of {of_hub.repo} from the hub")
    fetched = fetch(of_hub.repo, of_hub.file, revision or of_hub.revision)
    if name == "wiki18":
        say("indexing; 21 million passages want an hour or more, and tens of gigabytes of disk")
        place = out / "corpus.index"
        manifest = index_corpus.index(str(fetched.path), place, BM25, check=check, say=say)
        got = Got([f"corpus: {manifest['counts']['passages']} passages in {place}"], [f"data.corpus={place}"])
    else:
        got = _questions(name, fetched.path, out, say)
    record(out, fetched.source())
    return got


def _not_of_hub(name: str) -> str:
    if name in official.NAMES:
        return official.published(name)
    if name.count("/") == 1:
        return f"no file of {name} is named; name those that you want: `qr-jax data get {name} FILE ...`"
    from qr_jax.settings.settings import nearest

    return f"there is no set {name!r}{nearest(name, official.HUB, shown=20)}; or name a repository, and files of it"


def _questions(name: str, file: Path, out: Path, say: Say) -> Got:
    """Write the questions of a set's one file as our rows."""
    ((split, _),) = official.SETS[name].splits.items()
    rows = list(official.read(file, official.SETS[name], split, name))
    ours = [{key: value for key, value in row.items() if value} for row in rows if any(map(normalise, row["answers"]))]
    if len(ours) < len(rows):
        say(f"{file.name}: {len(rows) - len(ours)} questions left out, none of whose answers could ever match")
    out.mkdir(parents=True, exist_ok=True)
    place = out / f"{split}.jsonl"
    formats.write_lines(place, ours)
    corpus = "data.corpus=FOLDER    # passages of Wikipedia: `qr-jax data get wiki18`, or your own"
    return Got([f"{split}: {len(ours)} questions in {place}"], [f"data.eval={place}", corpus, "sft.steps=0"])


def _repository(repo: str, files: Sequence[str], revision: str, out: Path, say: Say) -> Got:
    """Fetch files of one commit, and copy them into `out`, which records the repository, the commit and checksums."""
    sums = {}
    for name in files:
        place = out / name
        say(f"fetching {name} of {repo} from the hub")
        fetched = fetch(repo, name, revision)
        revision, sums[name] = fetched.commit, fetched.sha256
        if place.exists() and file_hash(place) != fetched.sha256:
            raise UserError(f"{place} is another file than the hub's; give --out another folder")
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            with fetched.path.open("rb") as cached, beside(place) as opened:
                shutil.copyfileobj(cached, opened)
    record(out, {"repository": repo, "commit": revision, "files": sums})
    told = [f"{name} of {repo} at {revision}: {out / name}" for name in sums]
    told.append("`qr-jax data check FILE` says what a file holds, `qr-jax data convert FILE OUT` makes our rows of it")
    return Got(told, [f"data.train={','.join(str(out / name) for name in sums)}"])
