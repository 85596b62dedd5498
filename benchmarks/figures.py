"""The README's table of speeds, made from benchmarks/results: no figure there is typed in by hand.

python -m benchmarks.figures            # prints it
python -m benchmarks.figures --write    # puts it between its marks in README.md
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import interleave

MARKS = "<!-- figures: python -m benchmarks.figures --write -->\n", "<!-- end of figures -->"
README = interleave.ROOT / "README.md"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    if parser.parse_args(words).write:
        README.write_text(placed(README.read_text(encoding="utf-8"), table()), encoding="utf-8")
    else:
        print(table(), end="")


def placed(text: str, block: str) -> str:
    """The text with the block between the marks."""
    before, rest = text.split(MARKS[0])
    return before + MARKS[0] + block + MARKS[1] + rest.split(MARKS[1])[1]


def result(name: str) -> dict[str, Any]:
    return json.loads((interleave.ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))


def table() -> str:
    """Markdown: what is measured, ours, the peer's, the ratio, and what was aimed at where something was."""
    rows = [*rollouts(result("rollout")), *updates(result("learner")), *others(), *tpus(result("tpu"))]
    head = ("two cores but for the last rows", "qr_jax", "beside", "ratio", "aim")
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, ("---",) * 5, *rows)]
    return "\n".join(lines) + "\n"


def rollouts(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    names = {
        "multi_turn": "tokens/s, multi-turn: 8 questions x 4 samples, 3 searches, 4 turns of 64 tokens",
        "single_turn": "tokens/s, single turn: prompt 128, 64 new, 4 questions x 4 samples",
        "single_turn_distinct": "tokens/s, the same with 16 questions",
    }
    aims = {("multi_turn", "tunix"): "8", ("single_turn", "tunix"): "1.5"}
    rows = []
    for load, text in names.items():
        rate, ratios = found["loads"][load]["tokens_a_s"], found["loads"][load]["ratios"]
        for who, one in ratios.items():
            rows.append((text, f"{rate['ours']:.0f}", f"{called(who)} {rate[who]:.3g}", f"{one['ratio']:.2f}",
                         aims.get((load, who), "")))  # fmt: skip
    share = found["share_of_bandwidth_bound"]
    rows.append(
        ("decoding 16 sequences: share of what reading weights and cache once allows", f"{share:.2f}", "", "", ".60")
    )
    rows.append(("programs compiled after warm-up", str(found["compiles_after_warmup"]), "", "", "0"))
    return rows


def updates(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    names = {"dense": "seconds, one update of 16 x 192 tokens", "mixed": "seconds, of lengths uniform in 64-192"}
    aims = {"dense": "1.0", "mixed": "1.4"}
    rows = []
    for load, text in names.items():
        one = found["loads"][load]
        seconds, ratio = one["seconds"], one["ratios"]["tunix"]["ratio"]
        rows.append((text, f"{seconds['ours']:.1f}", f"Tunix {seconds['tunix']:.1f}", f"{ratio:.2f}", aims[load]))
    rows.append(("of it, share of a large matrix product's rate", f"{found['share_of_product_rate']:.2f}", "", "", ""))
    filled = found["packing"]["of_rows"]
    text = "packing: tokens / computed positions, micro-batches of 2 rows of 2,048 (of 16 rows)"
    rows.append((text, f"{filled['2']:.2f} ({filled['16']:.2f})", "", "", ".95"))
    rows.append(("trained tokens of zero-variance groups", str(found["zero_variance_tokens"]), "", "", "0"))
    return rows


def others() -> list[tuple[str, ...]]:
    pool, bm25 = result("pool"), result("retrieval")
    batch = bm25["batches"]["32"]
    rows = [("ms, draw and settle 1,024 of a million queries", f"{pool['draw_settle_ms_1m']:.1f}", "", "", "40")]
    for who in ("bm25s_jax", "bm25s", "bm25s_numba"):
        if who in batch["queries_a_s"]:
            rates = batch["queries_a_s"]
            rows.append(("queries/s, BM25 over 36k passages, batches of 32", f"{rates['ours']:.0f}",
                         f"{called(who)} {rates[who]:.0f}", f"{batch['ours_over'][who]['ratio']:.2f}", ""))  # fmt: skip
    return rows + hand_over(result("hand_over"))


def hand_over(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    kinds = {"heads": "by heads", "slots": "by slots"}
    rows = []
    for kind, words in kinds.items():
        one, compiled = found["emulated"][kind], found["v5e:4x4"][kind]
        rows += [
            (f"seconds, weights to rollouts {words}, 8 emulated devices", f"{one['seconds']:.2f}",
             f"all-gather first {one['plain_seconds']:.2f}", f"{one['ratio']:.1f}", ""),
            (f"GB a chip meanwhile, compiled for v5e:4x4, Qwen3-1.7B, {words}", f"{compiled['peak_GB']:.1f}",
             f"all-gather first {compiled['plain_peak_GB']:.1f}",
             f"{compiled['plain_peak_GB'] / compiled['peak_GB']:.1f}", ""),
        ]  # fmt: skip
    return rows


def tpus(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    decode, train = found["decode"], found["train"]

    def each(part: Mapping[str, Any], name: str, form: str) -> str:
        return " / ".join(format(part[chip][name], form) for chip in ("v5e", "v5p", "v6e"))

    shape, slices = "compiled for v5e / v5p / v6e, Qwen3-1.7B", "on 16 / 8 / 16 chips"
    return [
        (f"{shape}: a decode step's HBM over weights + cache", each(decode, "reads", ".2f"), "", "", "1.25"),
        (f"{shape}: its temporaries over the cache", each(decode, "temporaries", ".1%"), "", "", "5%"),
        (f"{shape}: GB a chip, update of 16 x 4,096 {slices}", each(train, "peak_GB", ".2f"), "", "", "3.76 (v5e)"),
    ]  # fmt: skip


def called(who: str) -> str:
    names = {"tunix": "Tunix", "torch": "transformers", "bm25s_jax": "bm25s", "bm25s": "bm25s by numpy"}
    return names.get(who, "bm25s by numba")


if __name__ == "__main__":
    main(sys.argv[1:])
