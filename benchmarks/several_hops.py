"""E8 of configs/study/plan.md: why SmolLM2 learnt nothing from questions of several hops, and which recipe to try.

    python -m benchmarks.several_hops files       # the questions of configs/study/several_hops.py, from QR_JAX_DATA
    python -m benchmarks.several_hops ceiling     # what an expert's searches find; a minute, no model
    python -m benchmarks.several_hops expert      # the same as an arm's episodes show it; no model
    python -m benchmarks.several_hops signal      # 128 groups of 8 answers of each arm's cold start
    python -m benchmarks.several_hops recipe      # 20 steps a recipe, from the same cold starts
    python -m benchmarks.several_hops --table     # of what is kept, and make no run

A run's figures join results/several_hops.json when it ends; a run that was stopped goes on in runs/several_hops.
"""

import argparse
import itertools
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interleave, kept_runs, single_hop
from benchmarks.single_hop import change, curves, dead, gain
from benchmarks.tables import markdown
from qr_jax import answers, assemble, config, sft
from qr_jax.data import readers
from qr_jax.evaluation import subject
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
ASKED = 128  # groups of the cold start's answers, from the end of the training questions: no trace is of these
RECIPES = {
    "own, 3e-5": ("own", "learner.lr=3e-5"),
    "own, 3e-6": ("own", "learner.lr=3e-6"),
    "open, 1e-5": ("open",),
}
ENDS = ("no_action", "length", "turns", "context")  # of episodes without an answer
SUMMED = ("groups", "exact", "exact_two_options", "f1_alone", "right", "two_options", "two_options_right")
SERIES = single_hop.SERIES | {
    "searches": "rollout/searches", "tokens": "rollout/tokens", "grad_norm": "learner/grad_norm",
    "update": "learner/update_norm", "update_scale": "learner/update_scale", "gap": "sampler_gap/mean",
    "step_s": "time/step_s", **{end: f"rollout/stop_{end}" for end in ENDS},
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
    """Write every.jsonl, and of bridge and compositional questions open.jsonl and own.jsonl, each in random order.

    In own.jsonl each carries ten paragraphs, as MuSiQue's rows do: the gold ones, and those of its set's passages that
    BM25 finds for the question and that are not gold, in an order drawn by its id.
    """
    RUNS.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {"every": [], "open": [], "own": []}
    for name in SETS:
        rows["every"] += [_row(name, query) for query in questions(name)]
    for name, kind in KINDS.items():
        passages = corpus(name)
        by_id, search = {passage.id: passage for passage in passages}, bm25(corpus=passages)
        queries = [query for query in questions(name) if query.meta["type"] == kind]
        found_Q = search([query.question for query in queries], 2 * PARAGRAPHS)
        for query, found in zip(queries, found_Q, strict=True):
            row = _row(name, query)
            gold = [by_id[one] for one in query.meta["supporting"]]
            others = [passage for passage in found if passage.id not in query.meta["supporting"]]
            beside = [*gold, *others][:PARAGRAPHS]
            random.Random(query.id).shuffle(beside)
            rows["open"].append(row)
            own = {key: value for key, value in row.items() if key != "supporting"}
            rows["own"].append(own | {"paragraphs": [_paragraph(one, one in gold) for one in beside]})
    for name, written in rows.items():
        random.Random(0).shuffle(written)  # the same order in open and own, which have the same questions
        part = RUNS / f"{name}.part"
        part.write_text("".join(json.dumps(row) + "\n" for row in written), encoding="utf-8")
        part.rename(RUNS / f"{name}.jsonl")


def _row(name: str, query: Query) -> dict[str, Any]:
    row = {"id": query.id, "dataset": name, "question": query.question, "answers": list(query.answers)}
    return row | {key: query.meta[key] for key in ("type", "hops", "supporting", "supporting_titles")}


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
            by_type[kind_of(query)[1]].append(query)
        for (kind, queries), k in itertools.product(sorted(by_type.items()), (1, 3, 5)):
            hops_Q = [made_traces.hops_of(query) for query in queries]
            for with_question in (False, True):
                hops_Q = made_traces.searched(queries, hops_Q, search, k, with_question)
            gold = [all(hop.search for hop in hops) for hops in hops_Q]
            held = [
                stands_in(query, " ".join(f"{one.title} {one.text}" for hop in hops for one in hop.found))
                for query, hops in zip(queries, hops_Q, strict=True)
            ]
            yield {
                "set": name, "type": kind, "questions": len(queries), "k": k, "gold": float(np.mean(gold)),
                "answer": float(np.mean(held)), "yes_no": float(np.mean([q.meta["yes_no"] for q in queries])),
            }  # fmt: skip


# ---- the ceiling of an arm: what its episodes show of an expert's searches


def expert(only: Sequence[str] | None = None) -> None:
    """Keep how many of each arm's training questions have a trace that fits, and are shown an answer in it."""
    for arm in only or ARMS:
        kept_runs.make(NAME, {"part": "expert", "arm": arm}, partial(_shown, arm))


def _shown(arm: str) -> dict[str, Any]:
    settings = config.load(f"{CONFIG}:{arm}")
    settings = replace(settings, sft=replace(settings.sft, limit=None))
    asked = Counter(map(kind_of, assemble.questions(settings, "train")))
    fit: Counter[tuple[str, str]] = Counter()
    shown: Counter[tuple[str, str]] = Counter()
    for episode in sft.demonstrations(settings, assemble.agent(settings), assemble.searcher(settings)):
        kind, seen = kind_of(episode.query), " ".join(turn.text for turn in episode.turns if turn.queries)
        fit[kind] += 1
        shown[kind] += stands_in(episode.query, seen)
    rows = [
        {"set": kind[0], "type": kind[1], "questions": asked[kind], "gold": fit[kind] / asked[kind],
         "answer": shown[kind] / asked[kind]} for kind in sorted(asked)
    ]  # fmt: skip
    return {"rows": rows}


def stands_in(query: Query, text: str) -> bool:
    """Return True if an accepted answer stands in the text word for word, both normalised."""
    held = answers.in_words(answers.normalise(text))
    return any(answers.in_words(answers.normalise(answer)) in held for answer in query.answers)


def kind_of(query: Query) -> tuple[str, str]:
    """Return a question's set and its type, or its number of hops where the set has no types."""
    return query.meta["dataset"], query.meta["type"] or f"{query.meta['hops']} hops"


# ---- signal of the cold starts


def signal(only: Sequence[str] | None = None) -> None:
    """Keep the signal of the arms' cold starts that are missing."""
    for arm in only or ARMS:
        kept_runs.make(NAME, {"part": "signal", "arm": arm}, partial(of_cold_start, arm))


def of_cold_start(arm: str) -> dict[str, Any]:
    """Return the signal of groups of answers to ASKED training questions, by type, and how the episodes ended."""
    folder, cold = cold_start(arm)
    settings, began = config.load(f"{CONFIG}:{arm}"), time.monotonic()
    queries = assemble.questions(settings, "train")[-ASKED:]
    agent, params, _ = subject.open_model(settings, folder, hashed=False)
    how = {"env": assemble.environment(settings), "search": assemble.searcher(settings), "seed": settings.seed}
    groups = agent.engine.run(params, queries, settings.pool.samples, step=0, purpose="pass", **how)
    episodes = [episode for group in groups for episode in group]
    return {
        "cold": cold, "stops": dict(Counter(episode.stop for episode in episodes)),
        "searches": float(np.mean([sum(len(turn.queries) for turn in one.turns) for one in episodes])),
        "tokens": float(np.mean([one.mask_L.sum() for one in episodes])), "seconds": time.monotonic() - began,
        "by_type": by_type((q.id, [one.answer for one in its]) for q, its in zip(queries, groups, strict=True)),
    }  # fmt: skip


def cold_start(arm: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder of an arm's cold start, which is made if it is missing, and its summary."""
    folder = RUNS / f"cold_{arm}"
    kept_runs.qr_jax("sft", f"{CONFIG}:{arm}", "--run", folder)
    return folder, json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def groups_of(folder: Path) -> Iterable[tuple[str, list[str | None]]]:
    """Yield the id and the answers of each group of a run, by its kept episodes."""
    for file in sorted((folder / "episodes").glob("step_*.jsonl")):
        episodes = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for query, its in itertools.groupby(episodes, key=lambda episode: episode["query"]):
            yield query, [one["answer"] for one in its]


def by_type(groups: Iterable[tuple[str, Sequence[str | None]]]) -> list[dict[str, Any]]:
    """Count groups of answers by type of question: with signal of exact match, and of F1 alone.

    "right" sums the groups' shares of right answers. "two_options" counts the groups of questions whose answer is yes,
    no or a name in the question, "exact_two_options" those of them with signal of exact match, and "two_options_right"
    sums their shares of right answers.
    """
    known = {query.id: query for name in SETS for query in questions(name)}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for name, given in groups:
        query = known[name]
        kind, two = kind_of(query), has_two_options(query)
        row = rows.setdefault(kind, {"set": kind[0], "type": kind[1], **dict.fromkeys(SUMMED, 0)})
        exact = [answers.exact_match(one, query.answers) for one in given]
        overlap = [answers.f1(one, query.answers) for one in given]
        found = {
            "groups": 1, "exact": len(set(exact)) > 1, "exact_two_options": two and len(set(exact)) > 1,
            "f1_alone": len(set(exact)) == 1 and len(set(overlap)) > 1, "right": float(np.mean(exact)),
            "two_options": two, "two_options_right": two * float(np.mean(exact)),
        }  # fmt: skip
        for figure in SUMMED:
            row[figure] += found[figure]
    return [rows[kind] for kind in sorted(rows)]


def has_two_options(query: Query) -> bool:
    """Return True for a question whose answer is yes, no or a name that stands in the question."""
    return bool(query.meta["yes_no"]) or stands_in(query, query.question)


# ---- recipes


def recipes(only: Sequence[str] | None = None) -> None:
    """Make the short runs that are missing."""
    for name in only or RECIPES:
        kept_runs.make(NAME, {"part": "recipe", "recipe": name}, partial(trained, name))


def trained(name: str) -> dict[str, Any]:
    """Return what 20 steps of a recipe did, from its arm's cold start."""
    arm, *words = RECIPES[name]
    cold, folder = cold_start(arm)[0], RUNS / name.replace(", ", "_")
    kept_runs.qr_jax("train", f"{CONFIG}:{arm}", f"train.init={cold}", "sft.steps=0", *words, "--run", folder)
    return {"words": words, **single_hop.figures_of(folder, SERIES), "by_type": by_type(groups_of(folder))}


# ---- tables


def table(kept: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown: the ceiling, the signal of each frozen arm by type, and the recipes with their curves."""
    parts = {part: [one for one in kept if one["part"] == part] for part in PARTS}
    told = []
    for one in parts["ceiling"]:
        told.append(ceiling_table(one["rows"]))
    if parts["expert"]:
        told.append(expert_table(parts["expert"]))
    for one in parts["signal"]:
        told.append(f"The cold start of `{one['arm']}`:\n\n" + signal_table(one["by_type"]))
    if parts["recipe"]:
        head = ("recipe", "exact match", "gain", "F1", "gain", "zero-variance", "hours of steps")
        rows = [
            (one["recipe"], *(f(one, score) for score in ("exact_match", "f1") for f in (change, gain)), dead(one),
             f"{sum(one['series']['step_s']) / 3600:.1f}") for one in parts["recipe"]
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


def expert_table(arms: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown: a row an arm, set and type."""
    head = ("arm", "set", "type", "questions", "a trace fits", "it shows the answer")
    rows = [
        (
            f"`{one['arm']}`",
            row["set"],
            row["type"],
            str(row["questions"]),
            f"{row['gold']:.2f}",
            f"{row['answer']:.2f}",
        )
        for one in arms
        for row in one["rows"]
    ]
    return markdown([head, *rows])


def signal_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown: a row a set and type, and the sum."""
    head = ("set", "type", "groups", "signal of exact match", "of these, two options", "of F1 alone", "right")
    head += ("two options", "right, of these")
    whole = {name: sum(row[name] for row in rows) for name in SUMMED}
    told = [
        (row["set"], row["type"], str(row["groups"]), *(f"{row[name] / row['groups']:.2f}" for name in SUMMED[1:]))
        for row in [*rows, {"set": "all", "type": "", **whole}]
    ]  # fmt: skip
    return markdown([head, *told])


PARTS = {"files": files, "ceiling": ceiling, "expert": expert, "signal": signal, "recipe": recipes}

if __name__ == "__main__":
    main()
