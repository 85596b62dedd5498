"""The pages' tables, made from benchmarks/results: no figure is typed in by hand.

python -m benchmarks.figures             # prints them; or those that are named: `... figures remat tuning`
python -m benchmarks.figures --write     # puts those that stand on a page of docs/ between their marks there

`make docs` writes all tables onto a page of their own (docs/reference.py), each under its benchmark's docstring.
"""

import argparse
import functools
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    adapters,
    channels,
    claims,
    cold_starts,
    flips,
    gpu_plans,
    guarded,
    interleave,
    kept_runs,
    labels,
    memory,
    methods,
    null_worlds,
    overlap,
    paired_seeds,
    paper_implies,
    quickstart,
    quickstart_choice,
    quickstart_seeds,
    race,
    real_agent,
    recycling_cells,
    recycling_map,
    remat,
    results_page,
    several_hops,
    shapes,
    shards,
    silence,
    single_hop,
    stand_ins,
    start,
    study_results,
    surplus,
    synth,
    together,
    tool_call,
)
from benchmarks.tables import markdown

MARKS = "<!-- {}: python -m benchmarks.figures --write -->\n", "<!-- end of {} -->"
PAGES = {"figures": "speed.md", "plans": "planning.md", "recall": "retrieval.md"}
# The modules that make a table of one result, by its name.
TABLES_OF = (
    channels,
    gpu_plans,
    memory,
    null_worlds,
    overlap,
    paper_implies,
    recycling_map,
    remat,
    shapes,
    shards,
    silence,
    stand_ins,
    synth,
    together,
)
KEPT = {made.__name__.rpartition(".")[2]: made for made in TABLES_OF}
# The modules that train, and make a table of the runs that are kept.
TRAINED = {
    module.NAME: module
    for module in (
        adapters,
        cold_starts,
        paired_seeds,
        quickstart_choice,
        quickstart_seeds,
        real_agent,
        several_hops,
        single_hop,
        tool_call,
    )
}
STUDY = {  # of the study's runs
    "rules": study_results.by_setting, "rules_three": study_results.by_setting_three,
    "study": study_results.by_seed, "study_three": study_results.by_seed_three,
    "group_sizes": study_results.group_sizes,
    "noise": study_results.noise, "tuning": study_results.tuning, "cut": study_results.cut_short,
}  # fmt: skip
PAGES |= dict.fromkeys(("learnt", "costs", "screened", "trials"), "measurements.md")
PAGES |= {
    "flips": "recycling.md",
    "gpu_plans": "gpu.md",
    "guarded": "recycling.md",
    "race": "recycling.md",
    "surplus": "recycling.md",
    "shards": "retrieval.md",
    "which_rule": "rules.md",
    "quickstart_seeds": "quickstart.md",
    "lora_plans": "lora.md",
    "hand_over": "lora.md",
    "paper_rules": "what_the_paper_implies.md",
    "overlap": "speed.md",
    "shortcuts": "speed.md",
}
GIB = 2**30


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put them into the pages")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (all): {', '.join(sorted(TABLES))}")
    options = parser.parse_args(words)
    if unknown := sorted({*options.names} - {*TABLES}):
        parser.error(f"there is no table {unknown[0]!r}; there are {', '.join(sorted(TABLES))}")
    if options.write:
        for name in PAGES:
            page(name).write_text(written(name), encoding="utf-8")
        for path in claims.PAGES:
            path.write_text(claims.written(path.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(*(TABLES[name]() for name in options.names or TABLES), sep="\n", end="")


def page(name: str) -> Path:
    return interleave.ROOT / "docs" / PAGES[name]


def written(name: str) -> str:
    """The table's page with the table between its marks."""
    start, end = (mark.format(name) for mark in MARKS)
    before, rest = page(name).read_text(encoding="utf-8").split(start)
    return before + start + TABLES[name]() + end + rest.split(end)[1]


def result(name: str) -> dict[str, Any]:
    return json.loads((interleave.ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))


def kept(name: str) -> str:
    return KEPT[name].table(result(name))


def small_models() -> str:
    return quickstart.table(result("quickstart"))


def starts() -> str:
    return start.table({name: result(f"start_{name}") for name in start.CONFIGS})


def trials() -> str:
    """What was lost in random kills, long runs with faults, corrupted inputs and signals."""
    return results_page.trials({name: result(name) for name in ("kills", "soak", "fuzz", "stops")})


def hand_over() -> str:
    """The share of an update of adapters that reaches the sampler, by how it reads them (lora_hand_over.py)."""
    return results_page.hand_over(result("lora_hand_over"))


def costs() -> str:
    """What the quickstart and SmolLM2's laptop preset take on two cores."""
    return results_page.costs({name: result(name) for name in ("memory", *(f"start_{name}" for name in start.CONFIGS))})


def about(name: str) -> str:
    """What a table is and how it is made: the docstring of its benchmark, or of the function that makes it."""
    made = {**KEPT, **TRAINED, **STUDY, "quickstart": quickstart, "starts": start, "methods": methods, "flips": flips}
    made |= {"guarded": guarded, "surplus": surplus, "race": race, "labels": labels, "recycling_cells": recycling_cells}
    return inspect.getdoc(made.get(name, TABLES[name])) or ""


def trained(name: str) -> str:
    return TRAINED[name].table(kept_runs.kept(name))


def shortcuts() -> str:
    """Return what adapters, overlap and int8 cost in accuracy: E5, E6 and, last, E11, E13 and E14 of the plan."""
    return paired_seeds.verdicts(kept_runs.kept(paired_seeds.NAME), *adapters.rows(kept_runs.kept(adapters.NAME)))


def speeds() -> str:
    """What is measured, ours, the peer's, the ratio, and what was aimed at where something was: three tables."""
    tables = {
        "rollouts and updates, on two cores": [*rollouts(result("rollout")), *updates(result("learner"))],
        "the pool and search, on two cores": others(),
        "compiled for TPUs, or on emulated devices": to_rollout_params(result("hand_over")) + tpus(result("tpu")),
    }
    return "\n".join(
        markdown([(measure, "qr_jax", "other system", "ratio", "aim"), *rows]) for measure, rows in tables.items()
    )


def plans() -> str:
    """What `qr-jax plan` says of each config."""
    head = ("`qr-jax plan`", "slice", "peak memory per chip", "the train step's own peak")
    head += ("time per step, estimated", "all steps, estimated")
    return markdown([head, *(planned(one) for name, one in result("plans").items() if not name.endswith("_v5p_1"))])


def lora_plans() -> str:
    """Return the memory of full training and of adapters on one chip, by `qr-jax plan`."""
    whole, lora = (result("plans")[f"qwen3_1p7b{lora}_v5p_1"]["answer"] for lora in ("", "_lora"))
    takes = {
        "peak of a run": lambda answer: answer["peak_bytes_per_chip"],
        "an update alone": lambda answer: answer["train"]["peak_bytes"],
        "the learner's state from step to step": lambda answer: answer["resident"]["state"],
    }
    rows = [
        (memory, f"{of(whole) / GIB:.1f} GiB", f"{of(lora) / GIB:.1f} GiB", f"{of(lora) / of(whole):.2f}")
        for memory, of in takes.items()
    ]
    return markdown([("memory", "full training", "rank 16, all matrices", "ratio"), *rows])


def planned(found: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of one plan."""
    answer, (*_, path), rest = found["answer"], found["command"][:3], found["command"][3:]
    name = " ".join([path.removeprefix("configs/"), *rest[: rest.index("--topology")]])
    peak = f"{answer['peak_bytes_per_chip'] / GIB:.1f} of {answer['hbm_bytes'] / GIB:.2f} GiB"
    start = f"`{name}`", rest[rest.index("--topology") + 1]
    if not answer["fits"]:
        return (*start, f"{peak}: does not fit", "", "", "")
    step_s = answer["seconds"]["step"]
    train = f"{answer['train']['peak_bytes'] / GIB:.2f} GiB"
    return (*start, peak, train, f"{step_s:.1f} s", f"{step_s * answer['steps'] / 3600:.1f} h")


def rollouts(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    names = {
        "multi_turn": "tokens/s, multi-turn: 8 questions x 4 samples, 3 searches, 4 turns of 64 tokens",
        "multi_turn_16_slots": "tokens/s, the same with 16 slots for our 32 episodes",
        "multi_turn_50_ms": "tokens/s, the same with searches of 50 ms",
        "single_turn": "tokens/s, single turn: prompt 128, 64 new, 4 questions x 4 samples",
        "single_turn_distinct": "tokens/s, the same with 16 questions",
    }
    aims = {("multi_turn", "tunix"): "10", ("single_turn", "tunix"): "2"}
    aims |= {("multi_turn_16_slots", "tunix"): "6", ("multi_turn_50_ms", "tunix"): "9"}
    rows = []
    for load, text in [(load, text) for load, text in names.items() if load in found["loads"]]:
        rate, ratios = found["loads"][load]["tokens_a_s"], found["loads"][load]["ratios"]
        for who, one in ratios.items():
            if who == "before":  # what this program was is no reader's question
                continue
            ratio = f"{one['ratio']:.2f} ({one['pairs_min']:.2f} to {one['pairs_max']:.2f})"
            peer = f"{called(who)} {rate[who]:.3g}"
            rows.append((text, f"{rate['ours']:.0f}", peer, ratio, aims.get((load, who), "")))
    share = found["share_of_bandwidth_bound"]
    rows.append(
        ("decoding 16 sequences: share of the speed that memory bandwidth allows", f"{share:.2f}", "", "", ".60")
    )
    rows.append(("programs compiled after warm-up", str(found["compiles_after_warmup"]), "", "", "0"))
    return rows


def updates(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    names = {"dense": "seconds, one update of 16 x 192 tokens"}
    names |= {"mixed": "seconds, the same with lengths uniform in 64-192"}
    aims = {"dense": "1.0", "mixed": "1.4"}
    rows = []
    for load, text in names.items():
        one = found["loads"][load]
        seconds, ratio = one["seconds"], one["ratios"]["tunix"]["ratio"]
        rows.append((text, f"{seconds['ours']:.1f}", f"Tunix {seconds['tunix']:.1f}", f"{ratio:.2f}", aims[load]))
    text = "update of 16 x 192 tokens: its FLOP/s / a large matrix product's"
    rows.append((text, f"{found['share_of_product_rate']:.2f}", "", "", ""))
    filled = found["packing"]["of_rows"]
    text = "packing: tokens / computed positions, micro-batches of 2 rows of 2,048 (of 16 rows)"
    rows.append((text, f"{filled['2']:.2f} ({filled['16']:.2f})", "", "", ".95"))
    rows.append(("trained tokens of zero-variance groups", str(found["zero_variance_tokens"]), "", "", "0"))
    return rows


def others() -> list[tuple[str, ...]]:
    pool = result("pool")
    rows = [("ms, draw and settle 1,024 of a million queries", f"{pool['draw_settle_ms_1m']:.1f}", "", "", "40")]
    return rows + bm25("retrieval", "36k passages") + searches()


def bm25(name: str, passages: str) -> list[tuple[str, ...]]:
    """BM25 of these passages beside each of bm25s' backends."""
    batch, rows = result(name)["batches"]["32"], []
    for who in ("bm25s_jax", "bm25s", "bm25s_numba"):
        rates, text = batch["queries_a_s"], f"queries/s, BM25 over {passages}, batches of 32"
        ratio = batch["ours_over"][who]["ratio"]
        rows.append((text, f"{rates['ours']:.0f}", f"{called(who)} {rates[who]:.0f}", f"{ratio:.2f}", ""))
    return rows


def searches() -> list[tuple[str, ...]]:
    """BM25 over a million passages, exact search among vectors, and the server."""
    dense, server = result("dense"), result("retrieval_server")
    rows = bm25("retrieval_1000000", "a million passages from disk")
    for count in ("36000", "1000000"):
        rate, over = dense[count]["queries_a_s"], dense[count]["ours_over"]
        text = f"queries/s, exact search among {int(count):,} vectors of 384, batches of 32"
        rows += [(text, f"{rate['ours']:.0f}", f"{who} {rate[who]:.0f}", f"{over[who]['ratio']:.2f}", "")
                 for who in ("numpy", "faiss")]  # fmt: skip
    one = server["loads"]["served, 200 clients"]
    text = "queries/s served, BM25 over 10k passages, 200 clients, 10,000 requests"
    text += f" (p95 {one['p95_ms']:.0f} ms, {one['errors']} errors)"
    direct = f"called directly {server['loads']['direct, 1 a call']['queries_per_s']:.0f}"
    return [*rows, (text, f"{one['queries_per_s']:.0f}", direct, "", "")]


def to_rollout_params(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    kinds = {"heads": "by heads", "slots": "by slots"}
    rows = []
    for kind, words in kinds.items():
        one, compiled = found["emulated"][kind], found["v5e:4x4"][kind]
        rows += [
            (f"seconds, handing weights to rollouts {words}, 8 emulated devices", f"{one['seconds']:.2f}",
             f"all-gather first {one['plain_seconds']:.2f}", f"{one['ratio']:.1f}", ""),
            (f"GB per chip, handing weights to rollouts {words}, compiled for v5e:4x4, Qwen3-1.7B",
             f"{compiled['peak_GB']:.1f}",
             f"all-gather first {compiled['plain_peak_GB']:.1f}",
             f"{compiled['plain_peak_GB'] / compiled['peak_GB']:.1f}", ""),
        ]  # fmt: skip
    return rows


def tpus(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    decode, train = found["decode"], found["train"]

    def each(part: Mapping[str, Any], name: str, form: str) -> str:
        return " / ".join(format(part[chip][name], form) for chip in ("v5e", "v5p", "v6e"))

    chips = (
        [(found["decode_int8"][chip], decode[chip]) for chip in ("v5e", "v5p", "v6e")] if "decode_int8" in found else []
    )
    of_bytes = " / ".join(f"{rounded['GB_a_step'] / whole['GB_a_step']:.2f}" for rounded, whole in chips)
    shape, slices = "compiled for v5e / v5p / v6e, Qwen3-1.7B", "on 16 / 8 / 16 chips"
    return [
        (f"{shape}: a decode step's traffic / (weights + cache)", each(decode, "reads", ".2f"), "", "", "1.25"),
        (f"{shape}: the same traffic in int8 / in bfloat16", of_bytes, "", "", "0.62"),
        (f"{shape}: decode temporaries / the cache", each(decode, "temporaries", ".1%"), "", "", "5%"),
        (f"{shape}: GB per chip, update of 16 x 4,096 {slices}", each(train, "peak_GB", ".2f"), "", "", "3.76 (v5e)"),
    ]  # fmt: skip


def called(who: str) -> str:
    names = {"before": "an earlier checkout", "tunix": "Tunix", "torch": "transformers"}
    names |= {"bm25s_jax": "bm25s by jax", "bm25s": "bm25s by numpy"}
    return names.get(who, "bm25s by numba")


def recalls() -> str:
    """Recall@5 and all-gold@5 of each set by each retriever."""
    found = result("recall")
    retrievers = list(next(iter(found.values())))
    rows = []
    for name, by in found.items():
        each = [f"{share(by[r]['recall'])}, {share(by[r]['all_gold'])}" for r in retrievers]
        rows.append((name, *(f"{by[retrievers[0]][of]:,}" for of in ("questions", "passages")), *each))
    head = ("set (cells: recall@5, share with all gold passages)", "questions", "passages", *retrievers)
    return markdown([head, *rows])


def share(value: float) -> str:
    return f"{value:.3f}".lstrip("0")


TABLES = {"figures": speeds, "plans": plans, "recall": recalls, "methods": methods.tables}
TABLES |= {"quickstart": small_models, "starts": starts, "learnt": results_page.learnt, "costs": costs}
TABLES |= {"screened": results_page.screened, "which_rule": results_page.which_rule}
TABLES |= {"lora_plans": lora_plans, "paper_rules": results_page.paper_rules, "shortcuts": shortcuts}
TABLES |= STUDY | {"flips": flips.table, "guarded": guarded.table, "surplus": surplus.table}
TABLES |= {"race": race.table, "race_candidates": race.candidates, "labels": labels.table}
TABLES |= {"recycling_cells": recycling_cells.tables, "trials": trials, "hand_over": hand_over}
TABLES |= {name: functools.partial(kept, name) for name in KEPT}
TABLES |= {name: functools.partial(trained, name) for name in TRAINED}

if __name__ == "__main__":
    main(sys.argv[1:])
