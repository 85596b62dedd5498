"""E8 of configs/study/plan.md: why SmolLM2 learnt nothing from questions of several hops, and which recipe to try.

    python -m benchmarks.several_hops files       # the questions of configs/study/several_hops.py, from QR_JAX_DATA
    python -m benchmarks.several_hops ceiling     # what an expert's searches find; a minute, no model
    python -m benchmarks.several_hops signal      # frozen cold starts, 20 steps each (an hour an arm on 2 cores)
    python -m benchmarks.several_hops recipe      # 20 steps a recipe, from the same cold starts
    python -m benchmarks.several_hops --table     # of what is kept, and make no run

A run's figures join results/several_hops.json when it ends; a run that was stopped goes on in runs/several_hops.
"""

import argparse
import itertools
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interleave, kept_runs, single_hop
from benchmarks.single_hop import change, curves, dead, gain
from benchmarks.tables import markdown
from qr_jax import answers
from qr_jax.data import readers
from qr_jax.records import Passage, Query
from qr_jax.search.retrievers.bm25 import bm25
from qr_jax.sets import made_traces

NAME = "several_hops"
CONFIG = "configs/study/several_hops.py"
RUNS = interleave.ROOT / "runs" / NAME
KINDS = {"hotpotqa": "bridge", "2wiki": "compositional"}  # the type of question that is kept of each set
PARAGRAPHS = 10  # of each question, gold ones among them, as the sets' own files have
SETS = ("hotpotqa", "2wiki", "musique")
ARMS, FROZEN = ("every", "open", "own"), "learner.lr=1e-12"
RECIPES = {
    "every, 3e-5": ("every",),
    "open, 1e-5": ("open",),
    "own, 1e-5": ("own",),
    "own, 3e-6": ("own", "learner.lr=3e-6"),
}
SERIES = single_hop.SERIES | {
    "searches": "rollout/searches", "grad_norm": "learner/grad_norm", "update": "learner/update_norm",
    "update_scale": "learner/update_scale", "step_s": "time/step_s",
}  # fmt: skip


def main() -> None:
    """Do the parts that are named, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="in this order; all tables are printed after")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these arms or recipes alone")
    parser.add_argument("--table", action="store_true", help="print what the kept file says, and make no run")
    options = parser.parse_args()
    for part in () if options.table else options.parts:
        PARTS[part](options.only)
    print(table(kept_runs.kept(NAME)), end="")


# ---- questions


def files(_: Sequence[str] | None = None) -> None:
    """Write open.jsonl and own.jsonl: the bridge and compositional questions, with their gold titles.

    In own.jsonl each carries ten paragraphs, as MuSiQue's rows do: the gold ones, and those of its set's passages that
    BM25 finds for the question and that are not gold, in an order drawn by its id.
    """
    RUNS.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {"open": [], "own": []}
    for name, kind in KINDS.items():
        passages = corpus(name)
        by_id, search = {passage.id: passage for passage in passages}, bm25(corpus=passages)
        queries = [query for query in questions(name) if query.meta["type"] == kind]
        found_Q = search([query.question for query in queries], 2 * PARAGRAPHS)
        for query, found in zip(queries, found_Q, strict=True):
            row = {"id": query.id, "dataset": name, "question": query.question, "answers": list(query.answers)}
            row |= {"type": kind, "supporting_titles": query.meta["supporting_titles"]}
            gold = [by_id[one] for one in query.meta["supporting"]]
            others = [passage for passage in found if passage.id not in query.meta["supporting"]]
            beside = [*gold, *others][:PARAGRAPHS]
            random.Random(query.id).shuffle(beside)
            rows["open"].append(row | {"supporting": query.meta["supporting"]})
            rows["own"].append(row | {"paragraphs": [_paragraph(one, one in gold) for one in beside]})
    for name, written in rows.items():
        (RUNS / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written), encoding="utf-8")


def _paragraph(passage: Passage, is_gold: bool) -> dict[str, Any]:
    return {"title": passage.title, "paragraph_text": passage.text, "is_supporting": is_gold}


def corpus(name: str) -> Sequence[Passage]:
    return readers.read_passages(f"{{data}}/corpus/{name}.corpus.jsonl.gz")


def questions(name: str) -> list[Query]:
    return readers.read_queries(f"{{data}}/dev/{name}.questions.jsonl")


# ---- the ceiling: what an expert's searches find


def ceiling(_: Sequence[str] | None = None) -> None:
    """Keep, for each set and type, the share of questions that an expert's searches answer, by passages a search.

    The expert searches for each gold title as the makers of traces do; "gold" is the share of questions all of whose
    gold passages it is shown, "answer" the share an accepted answer of which stands in what it is shown.
    """
    kept_runs.make(NAME, {"part": "ceiling"}, lambda: {"rows": list(_ceilings())})


def _ceilings() -> Iterable[dict[str, Any]]:
    for name in SETS:
        search = bm25(corpus=corpus(name))
        by_type: dict[str, list[Query]] = defaultdict(list)
        for query in questions(name):
            by_type[query.meta["type"] or f"{query.meta['hops']} hops"].append(query)
        for (kind, queries), k in itertools.product(sorted(by_type.items()), (1, 3, 5)):
            hops_Q = [made_traces.hops_of(query) for query in queries]
            for with_question in (False, True):
                hops_Q = made_traces.searched(queries, hops_Q, search, k, with_question)
            gold = [all(hop.search for hop in hops) for hops in hops_Q]
            shown_Q = [
                answers.normalise(" ".join(f"{one.title} {one.text}" for hop in hops for one in hop.found))
                for hops in hops_Q
            ]
            held = [
                any(f" {answers.normalise(answer)} " in f" {shown} " for answer in query.answers)
                for query, shown in zip(queries, shown_Q, strict=True)
            ]
            yield {
                "set": name, "type": kind, "questions": len(queries), "k": k, "gold": float(np.mean(gold)),
                "answer": float(np.mean(held)), "yes_no": float(np.mean([q.meta["yes_no"] for q in queries])),
            }  # fmt: skip


# ---- signal of a policy that cannot move


def signal(only: Sequence[str] | None = None) -> None:
    """Make the frozen runs that are missing."""
    for arm in only or ARMS:
        kept_runs.make(NAME, {"part": "signal", "arm": arm}, partial(frozen, arm))


def frozen(arm: str) -> dict[str, Any]:
    """Return the signal of a cold start's groups by type of question, over 20 steps in which it cannot move."""
    return from_cold(arm, RUNS / f"frozen_{arm}", FROZEN)


def from_cold(arm: str, folder: Path, *words: str) -> dict[str, Any]:
    """Train an arm's config from its cold start, which is made first, and return the run's figures."""
    cold = RUNS / f"cold_{arm}"
    kept_runs.qr_jax("sft", f"{CONFIG}:{arm}", "--run", cold)
    kept_runs.qr_jax("train", f"{CONFIG}:{arm}", f"train.init={cold}", "sft.steps=0", *words, "--run", folder)
    return {**single_hop.figures_of(folder, SERIES), "by_type": by_type(folder)}


def by_type(folder: Path) -> list[dict[str, Any]]:
    """Count a run's groups by type of question: with signal of exact match, and of F1 alone.

    "right" sums the groups' shares of right episodes, "two_options" counts the groups of questions whose answer is yes,
    no or a name in the question, and "two_options_right" sums the shares of right episodes of these.
    """
    groups: dict[str, list[list[dict[str, Any]]]] = defaultdict(list)
    for file in sorted((folder / "episodes").glob("step_*.jsonl")):
        episodes = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for query, its in itertools.groupby(episodes, key=lambda episode: episode["query"]):
            groups[query].append(list(its))
    known = {query.id: query for name in SETS for query in questions(name)}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for name, drawn in groups.items():
        query = known[name]
        kind = query.meta["dataset"], query.meta["type"] or f"{query.meta['hops']} hops"
        row = rows.setdefault(kind, {"set": kind[0], "type": kind[1], "groups": 0, "exact": 0, "f1_alone": 0,
                                     "right": 0.0, "two_options": 0, "two_options_right": 0.0})  # fmt: skip
        for group in drawn:
            exact = [answers.exact_match(one["answer"], query.answers) for one in group]
            overlap = [answers.f1(one["answer"], query.answers) for one in group]
            row["groups"] += 1
            row["exact"] += len(set(exact)) > 1
            row["f1_alone"] += len(set(exact)) == 1 and len(set(overlap)) > 1
            row["right"] += float(np.mean(exact))
            row["two_options"] += has_two_options(query)
            row["two_options_right"] += float(np.mean(exact)) * has_two_options(query)
    return [rows[kind] for kind in sorted(rows)]


def has_two_options(query: Query) -> bool:
    """Return True for a question whose answer is yes, no or a name that stands in the question."""
    text = f" {answers.normalise(query.question)} "
    return bool(query.meta["yes_no"]) or any(f" {answers.normalise(answer)} " in text for answer in query.answers)


# ---- recipes


def recipes(only: Sequence[str] | None = None) -> None:
    """Make the short runs that are missing."""
    for name in only or RECIPES:
        kept_runs.make(NAME, {"part": "recipe", "recipe": name}, partial(trained, name))


def trained(name: str) -> dict[str, Any]:
    """Return what 20 steps of a recipe did, from its cold start."""
    arm, *words = RECIPES[name]
    return {"words": words, **from_cold(arm, RUNS / name.replace(", ", "_"), *words)}


# ---- tables


def table(kept: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown: the ceiling, the signal of each frozen arm by type, and the recipes with their curves."""
    parts = {part: [one for one in kept if one["part"] == part] for part in PARTS}
    told = []
    for one in parts["ceiling"]:
        told.append(ceiling_table(one["rows"]))
    for one in parts["signal"]:
        told.append(f"Frozen, `{one['arm']}`:\n\n" + signal_table(one["by_type"]))
    if parts["recipe"]:
        head = ("recipe", "exact match", "gain", "F1", "gain", "zero-variance", "hours")
        rows = [
            (one["recipe"], *(f(one, score) for score in ("exact_match", "f1") for f in (change, gain)), dead(one),
             f"{one['wall_s'] / 3600:.1f}") for one in parts["recipe"]
        ]  # fmt: skip
        seeded = [{**one, "seed": one["recipe"]} for one in parts["recipe"]]
        told += [markdown([head, *rows]), curves(seeded, (0, 5, 10, 20), SHOWN)]
    return "\n".join(told)


SHOWN = {
    "pass": "right answers", "signal": "groups with signal, of 8", "entropy": "entropy, nats",
    "searches": "searches an episode", "answered": "episodes that answered", "grad_norm": "norm of the gradient",
}  # fmt: skip


def ceiling_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown: a row a set and type, the expert's shares by passages a search."""
    head = ("set", "type", "questions", *(f"gold, answer shown: {k} a search" for k in (1, 3, 5)))
    found: dict[tuple[str, str, int], list[str]] = defaultdict(list)
    for row in rows:
        found[row["set"], row["type"], row["questions"]].append(f"{row['gold']:.2f}, {row['answer']:.2f}")
    return markdown([head, *((*map(str, kind), *shares) for kind, shares in found.items())])


def signal_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown: a row a set and type, and the sum."""
    head = ("set", "type", "groups", "signal of exact match", "of F1 alone", "right", "two options", "right, of these")
    summed = ("groups", "exact", "f1_alone", "right", "two_options", "two_options_right")
    whole = {name: sum(row[name] for row in rows) for name in summed}
    told = [
        (row["set"], row["type"], str(row["groups"]), *(f"{row[name] / row['groups']:.2f}" for name in summed[1:]))
        for row in [*rows, {"set": "all", "type": "", **whole}]
    ]  # fmt: skip
    return markdown([head, *told])


PARTS = {"files": files, "ceiling": ceiling, "signal": signal, "recipe": recipes}

if __name__ == "__main__":
    main()
