"""The commands for questions and corpora: get, check and convert them, index a corpus, measure a retriever's recall."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from qr_jax.cli.commands import retrieval
from qr_jax.cli.commands.options import add_json, show, whole
from qr_jax.errors import UserError
from qr_jax.logging import terminal

FORMS = ("verl", "skyrl", "flashrag", "trl", "jsonl")


def add(command: Any) -> None:
    """Their parsers, as `cli.make_parser` adds those of the other commands."""
    data = command("data", None, "get a question set, check or convert a file of questions").add_subparsers(
        required=True, metavar="WHAT"
    )

    def part(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made = data.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.set_defaults(run_command=run)
        return made

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
    text = (
        "write questions or passages as JSON lines, from official files, tables, other JSON, documents; or in another"
    )
    text += " system's form; passages that stand beside questions become OUT.corpus"
    convert = part("convert", _convert, text)
    convert.usage = "qr-jax data convert FILE [FILE ...] OUT [options]"
    text = (
        ".csv, .tsv, .json, .jsonl, .parquet, .arrow, .txt, .md, .html, whatever the encoding; a folder of them, or of "
    )
    text += "save_to_disk; a glob; tfds:NAME"
    convert.add_argument("files", nargs="+", metavar="FILE", help=text)
    convert.add_argument("out", type=Path, metavar="OUT", help="a new file: .parquet, .jsonl or .jsonl.gz")
    convert.add_argument("--to", default="jsonl", choices=FORMS, help="whose rows (jsonl: our own)")
    convert.add_argument("--encoding", metavar="NAME", help="FILE's (UTF-8, UTF-16 by its mark, else Windows-1252)")
    convert.add_argument(
        "--skip-broken", action="store_true", help="leave out rows that cannot be read, and count them"
    )
    add_json(check)
    _add_retrieval(command)
    retrieval.add(command)


def _add_retrieval(command: Any) -> None:
    """The commands for corpora."""
    text = "build the BM25 index of a corpus; searching it then takes no building and no memory"
    index = command("index", _index, text, usage="qr-jax index CORPUS [CORPUS ...] OUT [setting=value ...] [options]")
    index.set_defaults(takes_settings=True)
    index.epilog = "Its settings are bm25's, as in k1=0.9 b=0.4 stopwords=none; `qr-jax settings bm25` lists them."
    index.add_argument("corpus", nargs="+", metavar="CORPUS", help="files of passages: .jsonl, .jsonl.gz or .parquet")
    index.add_argument("out", type=Path, metavar="OUT", help="the index's folder")
    index.add_argument("--replace", action="store_true", help="put it in the place of another corpus's index")
    index.add_argument("--no-check", action="store_true", help="build whatever memory and disk there are")
    index.add_argument("--json", action="store_true", help="print the manifest as JSON")
    text = "how many of the gold passages a retriever finds"
    usage = "qr-jax recall --questions FILE [setting=value ...] [options]"
    recall = command("recall", _recall, text, usage=usage)
    recall.add_argument("--corpus", action="append", metavar="FILE", help="passages; repeat it for more. Or one index")
    recall.add_argument("--questions", action="append", required=True, metavar="FILE", help="with their gold passages")
    recall.add_argument("--retriever", default="bm25", metavar="NAME", help="a plug-in's name (bm25)")
    recall.set_defaults(takes_settings=True)
    recall.epilog = f"setting=value: {retrieval.SETTINGS}."
    recall.add_argument("--k", type=whole(1), default=5, metavar="N", help="passages a question (5)")
    add_json(recall)
    text = "build a synthetic world and write it as JSONL files"
    world = command("world", _world, text, usage="qr-jax world FOLDER [setting=value ...] [options]")
    world.set_defaults(takes_settings=True)
    world.epilog = (
        "Its settings are data.world's, as in seed=3 documents=5000; `qr-jax settings data.world` lists them."
    )
    world.add_argument("out", type=Path, metavar="FOLDER", help="where its files go")
    world.add_argument("--json", action="store_true", help="print the summary as JSON")


def _get(arguments: argparse.Namespace) -> int:
    from qr_jax.sets import get

    how = {"revision": arguments.revision, "check": not arguments.no_check, "say": terminal.say}
    got = get.get(arguments.name, arguments.files, arguments.out, **how)
    terminal.result("\n".join(got.lines()))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from qr_jax.sets import data_check

    checked = data_check.check(arguments.file, arguments.against)
    show(checked.to_json(), arguments.json, lambda _: data_check.format_report(checked))
    return 1 if checked.errors else 0


def _convert(arguments: argparse.Namespace) -> int:
    from qr_jax.config import SET_PREFIX
    from qr_jax.data import formats, readers
    from qr_jax.records import Passage
    from qr_jax.sets import foreign

    out, shown = arguments.out, " ".join(arguments.files)
    formats.check_new(out)  # before much is read, or a set is built
    end = next(end for end in formats.ENDS if out.name.endswith(end))
    corpus = out.with_name(f"{out.name.removesuffix(end)}.corpus{end}")
    if shown.startswith(SET_PREFIX):
        items, said, beside = readers.read_queries(shown), [], []
    else:
        items, said, beside = foreign.read(arguments.files, arguments.encoding, skip_broken=arguments.skip_broken)
    are_passages = isinstance(items[0], Passage)
    if are_passages and arguments.to != "jsonl":
        raise UserError(f"{shown} holds passages, whose one form is jsonl; leave --to {arguments.to} out")
    if beside:
        formats.check_new(corpus)
        formats.write(beside, corpus, "jsonl")
    formats.write(items, out, arguments.to)
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
    given = retrieval.chosen_retriever("bm25", arguments.overrides).settings
    if "index" in given:
        raise UserError(f"the index's folder is the last word, {arguments.out}; leave index=... out")
    known = plugins.signature("retriever", "bm25").settings
    settings = {name: given.get(name, known[name].default) for name in ("method", "k1", "b", "stopwords")}
    how = {"check": not arguments.no_check, "replace": arguments.replace, "say": terminal.say}
    found = index_corpus.index(",".join(arguments.corpus), arguments.out, settings, **how)
    unlike = {name: value for name, value in settings.items() if value != known[name].default}
    return show(found, arguments.json, partial(index_corpus.format_summary, out=arguments.out, given=unlike))


def _recall(arguments: argparse.Namespace) -> int:
    from qr_jax.search import recall

    chosen = retrieval.chosen_retriever(arguments.retriever, arguments.overrides)
    corpus = ",".join(arguments.corpus) if arguments.corpus else None
    found = recall.recall(corpus, ",".join(arguments.questions), chosen, k=arguments.k)
    return show(found, arguments.json, recall.format_table)


def _world(arguments: argparse.Namespace) -> int:
    from qr_jax.data.world import generate
    from qr_jax.run.run_files import check_writable
    from qr_jax.settings.overrides import pairs
    from qr_jax.settings.settings import conform, guess

    check_writable(arguments.out, "FOLDER")
    given = {name: guess(text) for name, text in pairs(arguments.overrides)}
    made = generate.build(conform("world", given, generate.WorldSettings))
    generate.export(made, arguments.out)
    counts: dict[str, Any] = {name: len(rows) for name, rows in vars(made).items()}
    counts["folder"] = str(arguments.out)
    return show(counts, arguments.json, lambda _: "\n".join(f"{name}: {value}" for name, value in counts.items()))
