"""The commands for questions and corpora: get, check and convert them, index a corpus, measure a retriever's recall."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from qr_jax.cli.commands import retrieval
from qr_jax.cli.commands.options import add_json, parts_of, show, whole
from qr_jax.errors import UNSOUND, UserError
from qr_jax.logging import terminal
from qr_jax.settings.settings import Use

MAP = "columns by other names, as question=Frage answers=Antwort; after the files' names"
FORMS = ("verl", "skyrl", "flashrag", "trl", "jsonl")


def add(command: Any) -> None:
    """Add their parsers, as `cli.make_parser` adds those of the other commands."""
    part = parts_of(command, "data", "get a question set, check or convert a file of questions")
    text = "fetch a question set or corpus, or files of a data set repository, from the Hugging Face hub"
    got = part("get", _get, text)
    got.usage = "qr-jax data get NAME [options]\n       qr-jax data get REPO FILE [FILE ...] [options]"
    text = "frames (questions), wiki18 (passages of Wikipedia); or a repository of the hub, with files of it"
    got.add_argument("name", metavar="NAME", help=text)
    got.add_argument("files", nargs="*", metavar="FILE", help="a file's path in the repository")
    got.add_argument("--out", type=Path, metavar="FOLDER", help="where its files go (runs/data/NAME)")
    got.add_argument("--revision", metavar="NAME", help="a branch, tag or commit (main); the commit is recorded")
    got.add_argument("--no-check", action="store_true", help="index whatever memory and disk there are")
    got.epilog = "The hub's own client fetches and caches: HF_TOKEN, HF_HOME, HF_HUB_OFFLINE and HF_ENDPOINT are its."
    text = "say what a file of questions or passages holds and what is wrong; errors exit with 1"
    check = part("check", _check, text)
    check.add_argument("file", metavar="FILE", help="JSON lines (also .gz) or Parquet, of ours, verl, SkyRL, ...")
    check.add_argument("--against", metavar="FILE", help="questions that must not be the same, a test set's say")
    text = "write questions or passages as JSON lines, from official files, tables, other JSON, documents; or in "
    text += "another system's form; passages that stand beside questions become OUT.corpus"
    convert = part("convert", _convert, text)
    convert.usage = "qr-jax data convert FILE [FILE ...] OUT [options]"
    text = ".csv, .tsv, .json, .jsonl, .parquet, .arrow, .txt, .md, .html, whatever the encoding; a folder of them, "
    text += "or of save_to_disk; a glob; tfds:NAME"
    convert.add_argument("files", nargs="+", metavar="FILE", help=text)
    convert.add_argument("out", type=Path, metavar="OUT", help="a new file: .parquet, .jsonl or .jsonl.gz")
    convert.add_argument("--to", default="jsonl", choices=FORMS, help="whose rows (jsonl: our own)")
    convert.add_argument("--encoding", metavar="NAME", help="FILE's (UTF-8, UTF-16 by its mark, else Windows-1252)")
    text = "leave out rows that cannot be read; they are counted, and the first of them listed"
    convert.add_argument("--skip-broken", action="store_true", help=text)
    recall = _add_corpora(command, check)
    for made in (check, convert, recall):
        made.add_argument("--map", nargs="+", action="extend", default=[], metavar="OURS=THEIRS", help=MAP)
        made.add_argument("--split", metavar="SIGN", help="between answers that stand in one text, as '|'")
    for made in (check, recall):
        text = "rows that cannot be read are no errors, but counted"
        made.add_argument("--skip-broken", action="store_true", help=text)
    retrieval.add(command)


def _add_corpora(command: Any, check: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the commands for corpora and return recall's parser; `check` gets --json as they do."""
    text = "build the BM25 index of a corpus on disk, from which searches then read"
    usage = "qr-jax index CORPUS [CORPUS ...] OUT [setting=value ...] [options]"
    index = command("index", _index, text, usage=f"{usage}\n       qr-jax index --add FILE OUT")
    index.set_defaults(takes_settings=True)
    index.epilog = "Its settings are bm25's, as in k1=0.9 b=0.4 stopwords=none; `qr-jax settings bm25` lists them."
    index.add_argument("corpus", nargs="*", metavar="CORPUS", help="files of passages: .jsonl, .jsonl.gz or .parquet")
    index.add_argument("out", type=Path, metavar="OUT", help="the index's folder")
    text = "passages to add to the index OUT, which becomes what all files would give; repeat it for more"
    index.add_argument("--add", action="append", metavar="FILE", help=text)
    index.add_argument("--replace", action="store_true", help="put it in the place of another corpus's index")
    index.add_argument("--no-check", action="store_true", help="build whatever memory and disk there are")
    text = "how many of the gold passages a retriever finds"
    usage = "qr-jax recall --questions FILE [setting=value ...] [options]"
    recall = command("recall", _recall, text, usage=usage)
    recall.add_argument("--corpus", action="append", metavar="FILE", help="passages; repeat it for more. Or one index")
    recall.add_argument("--questions", action="append", required=True, metavar="FILE", help="with their gold passages")
    recall.add_argument("--retriever", default="bm25", metavar="NAME", help="a plug-in's name (bm25)")
    recall.set_defaults(takes_settings=True)
    recall.epilog = f"setting=value: {retrieval.SETTINGS}."
    recall.add_argument("--k", type=whole(1), default=5, metavar="N", help="passages a question (5)")
    text = "build a synthetic world and write it as JSONL files"
    world = command("world", _world, text, usage="qr-jax world FOLDER [setting=value ...] [options]")
    world.set_defaults(takes_settings=True)
    text = "as in seed=3 documents=5000; `qr-jax settings data.world` lists them."
    world.epilog = f"Its settings are data.world's, {text}"
    world.add_argument("out", type=Path, metavar="FOLDER", help="where its files go")
    add_json(check, index, recall, world)
    return recall


def _get(arguments: argparse.Namespace) -> int:
    from qr_jax.sets import get

    how = {"revision": arguments.revision, "check": not arguments.no_check, "say": terminal.say}
    got = get.get(arguments.name, arguments.files, arguments.out, **how)
    terminal.result("\n".join(got.lines()))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from qr_jax.sets import columns, data_check

    how = {"columns": columns.typed(arguments.map, arguments.split), "skip_broken": arguments.skip_broken}
    checked = data_check.check(arguments.file, arguments.against, **how)
    show(checked.to_json(), arguments.json, lambda _: data_check.format_report(checked))
    return UNSOUND if checked.errors else 0


def _convert(arguments: argparse.Namespace) -> int:
    from qr_jax.config import SET_PREFIX
    from qr_jax.data import readers
    from qr_jax.records import Passage
    from qr_jax.sets import columns, foreign, formats

    out, shown = arguments.out, " ".join(arguments.files)
    formats.check_new(out)  # before much is read, or a set is built
    end = next(end for end in formats.ENDS if out.name.endswith(end))
    corpus = out.with_name(f"{out.name.removesuffix(end)}.corpus{end}")
    if shown.startswith(SET_PREFIX):
        items, said, beside = readers.read_queries(shown), [], []
    else:
        how = {"columns": columns.typed(arguments.map, arguments.split), "skip_broken": arguments.skip_broken}
        items, said, beside = foreign.read(arguments.files, arguments.encoding, **how)
    are_passages = isinstance(items[0], Passage)
    if are_passages and arguments.to != "jsonl":
        raise UserError(f"{shown} holds passages, whose one form is jsonl; leave --to {arguments.to} out")
    if beside:
        formats.check_new(corpus)
        formats.write(beside, corpus, "jsonl")
    try:
        formats.write(items, out, arguments.to)
    except BaseException:
        if beside:
            corpus.unlink(missing_ok=True)  # or the next attempt would find it there
        raise
    for line in said:
        terminal.say(f"{shown}: {line}")
    terminal.result(f"{len(items)} {'passages' if are_passages else 'questions'}: {out}")
    if beside:
        gold = sum(bool(item.meta.get("supporting")) for item in items if not isinstance(item, Passage))
        terminal.result(f"{len(beside)} passages: {corpus} ({gold} questions name their gold passages by its ids)")
    return 0


def _index(arguments: argparse.Namespace) -> int:
    from qr_jax import plugins
    from qr_jax.run.run_files import check_writable
    from qr_jax.search import index_corpus

    check_writable(arguments.out, "OUT")
    if bool(arguments.corpus) == bool(arguments.add):
        todo = "CORPUS OUT builds one, and --add FILE OUT adds to one that is there"
        raise UserError(f"{'both' if arguments.add else 'neither'} files of a new index and --add are given; {todo}")
    given = retrieval.chosen_retriever("bm25", arguments.overrides).settings
    usual = plugins.settings_of("retriever", Use("bm25"))
    how = {"check": not arguments.no_check, "say": terminal.say}
    if arguments.add and (given or arguments.replace):
        raise UserError("an index keeps its settings: leave setting=value and --replace out with --add")
    if arguments.add:
        found = index_corpus.add(",".join(arguments.add), arguments.out, **how)
    else:
        settings = {name: given.get(name, usual[name]) for name in ("method", "k1", "b", "stopwords")}
        corpus = ",".join(arguments.corpus)
        found = index_corpus.index(corpus, arguments.out, settings, replace=arguments.replace, **how)
    unlike = {name: value for name, value in found["settings"].items() if value != usual.get(name, value)}
    return show(found, arguments.json, partial(index_corpus.format_summary, out=arguments.out, given=unlike))


def _recall(arguments: argparse.Namespace) -> int:
    from qr_jax.search import recall
    from qr_jax.sets import columns

    chosen = retrieval.chosen_retriever(arguments.retriever, arguments.overrides)
    corpus = ",".join(arguments.corpus) if arguments.corpus else None
    reader = columns.Reader(columns.typed(arguments.map, arguments.split), arguments.skip_broken)
    found = recall.recall(corpus, ",".join(arguments.questions), chosen, k=arguments.k, reader=reader)
    return show(found, arguments.json, recall.format_table)


def _world(arguments: argparse.Namespace) -> int:
    from qr_jax.cli.overrides import guess, pairs
    from qr_jax.data.world import generate
    from qr_jax.run.run_files import check_writable
    from qr_jax.sets import formats
    from qr_jax.settings.settings import conform

    check_writable(arguments.out, "FOLDER")
    given = {name: guess(text) for name, text in pairs(arguments.overrides)}
    made = generate.build(conform("world", given, generate.WorldSettings))
    formats.export(made, arguments.out)
    counts: dict[str, Any] = {name: len(rows) for name, rows in vars(made).items()}
    counts["folder"] = str(arguments.out)
    return show(counts, arguments.json, lambda _: "\n".join(f"{name}: {value}" for name, value in counts.items()))
