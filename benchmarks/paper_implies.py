"""What every rule would have done in the paper's two runs, by the pools that were fitted to its figures.

    python -m benchmarks.paper_implies                # plays that are missing (half an hour on 2 cores; resumable)

Each rule is played at the paper's settings (10,000 queries, B 32, K 4, 84,480 rollouts; k 2, but k 1 for grpo) in every
fit of `paper:MODEL`; all other rules in the first four, and grpo with other jumps (JUMPS), which recycling does not
feel. Ranges are over fits. What figure 3 has of a rule is compared at the curve's last point; whole curves of recycling
are compared by `paper_errors`, which is computed anew each time (seconds).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import interleave, paper_errors
from benchmarks.tables import markdown, ranged
from qr_jax.lab import oracle, paper_world

FILE = interleave.ROOT / "benchmarks/results/paper_implies.json"
SIZE = paper_world.SETTING["size"]
OTHERS = 4  # fits in which all rules but the paper's three are played
COUNTS = {"accepted_groups": "groups", "distinct": "distinct", "rescued_hard": "rescued-hard"}
COUNTS |= {"rescued_easy": "rescued-easy", "revisited": "revisits"}
JUMPS = {"grpo, no jump": 0.0, "grpo, twice the jump": 2.0}  # times the fit's
CHOSE = ("grpo", "revisited")  # the jump was chosen by these
Played = Mapping[str, Any]


def main() -> None:
    kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else interleave.commit() | {"plays": {}}
    published = list(paper_world.OVERSAMPLE)
    rules = published + [rule for rule in oracle.rules("all") if rule not in published] + list(JUMPS)
    for model in paper_world.MODELS:
        for rule in rules:
            plays = kept["plays"].setdefault(model, {}).setdefault(rule, [])
            fits = paper_world.fits(model)
            for fit in fits[len(plays) : len(fits) if rule in published else OTHERS]:
                plays.append(played(model, rule, fit))
                print(model, rule, plays[-1], flush=True)
                save(kept)
    kept["errors"] = {
        model: [paper_errors.of_fit(fit, model) for fit in paper_world.fits(model)] for model in paper_world.MODELS
    }
    save(kept)
    print(table(kept))


def save(kept: Mapping[str, Any]) -> None:
    FILE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def played(model: str, rule: str, fit: paper_world.Fit) -> dict[str, Any]:
    """A play's counts; under `NAME at ROLLOUTS` also those at the last points of figure 3."""
    fit, rule = {**fit, "jump": fit["jump"] * JUMPS.get(rule, 1.0)}, rule.partition(",")[0]
    plan = oracle.sampler(rule, oversample=paper_world.OVERSAMPLE.get(rule, 2))
    run = oracle.play(plan, paper_world.of_fit(fit, SIZE, seed=fit["number"]), size=SIZE, seed=fit["number"])
    found = oracle.summary(run)
    counts = {name: found[name] for name in COUNTS if name in found} | {"distinct": round(found["coverage"] * SIZE)}
    return counts | {f"{name} at {end}": until(run, name, end) for name, _, end in last_points(model, rule)}


def until(run: oracle.Played, name: str, rollouts: int) -> int:
    """A count of `oracle.ACCEPTED` over the steps that end within so many rollouts."""
    total = spent = 0
    for row in run.rows:
        spent += int(row["pool/rollouts"] or 0)
        total += int(row[f"pool/accepted_{oracle.ACCEPTED[name]}"] or 0) if spent <= rollouts else 0
    return total


def last_points(model: str, rule: str) -> list[tuple[str, int, int]]:
    """The last point of each curve that figure 3 has of a rule: its name, count and rollouts."""
    curves = paper_world.figures()["3"]["curves"].get(rule, {}) if model == "qwen3_1p7b" else {}
    return [(name, curve["values"][-1], curve["x"][-1]) for name, curve in curves.items()]


def table(found: Mapping[str, Any]) -> str:
    """What was published beside what the fits say, then every rule's counts, then the fits' errors."""
    return "\n".join(
        [beside(found["plays"]["qwen3_1p7b"]), by_rule(found["plays"]), paper_errors.table(found["errors"])]
    )


def beside(plays: Mapping[str, Sequence[Played]]) -> str:
    """Figure 3's last points and the fits' counts there; recycling was fitted, GRPO's revisits chose the jump."""
    rows = [("1.7B, figure 3", "rollouts", "published", "fits", "off", "")]
    for rule in paper_world.OVERSAMPLE:
        for name, count, end in last_points("qwen3_1p7b", rule):
            if (rule, name) == ("recycle", "revisited"):
                continue  # there are none; the picture's line has a width
            values = [play[f"{name} at {end}"] for play in plays[rule]]
            off = sum(values) / len(values) / count - 1
            why = "fitted" if rule == "recycle" or (rule, name) == CHOSE else "held-out"
            head = f"{rule} {COUNTS[name]}"
            rows.append((head, f"{end:,}", f"{count:,}", ranged(values), f"{off:+.1%}", why))
    return markdown(rows)


def by_rule(plays: Mapping[str, Mapping[str, Sequence[Played]]]) -> str:
    """A row a rule: means over the fits of 1.7B, the published counts under them, and 4B's groups and queries."""
    small, large = (plays[model] for model in ("qwen3_1p7b", "qwen3_4b"))
    heads = [f"1.7B: {name}" for name in COUNTS.values()]
    rows = [("rule", "1.7B: share of GRPO's groups", *heads, "4B: share of GRPO's groups", "4B: distinct")]
    for rule, found in small.items():
        counts = [mean(play[name] for play in found) for name in COUNTS]
        others = of_grpo(large, rule), mean(play["distinct"] for play in large[rule])
        rows.append((rule, of_grpo(small, rule), *counts, *others))
        settings = paper_world.SETTING | {"oversample": paper_world.OVERSAMPLE.get(rule, 0)}
        if told := paper_world.published("paper:qwen3_1p7b", rule, settings, prolonged=True):
            groups = (
                {"accepted_groups": told["signal_groups"], "distinct": told["signal_groups"]}
                if "signal_groups" in told
                else {}
            )
            known = groups | told
            cells = [f"{known[name]:,.0f}" if name in known else "" for name in COUNTS]
            more = paper_world.published("paper:qwen3_4b", rule, settings).get("signal_groups")
            rows.append((f"{rule}, published", "", *cells, "", f"{more:,.0f}" if more else ""))
    return markdown(rows)


def of_grpo(plays: Mapping[str, Sequence[Played]], rule: str) -> str:
    """A rule's groups over plain GRPO's in the same fit; the range where all fits were played."""
    pairs = zip(plays[rule], plays["grpo"], strict=False)
    shares = [play["accepted_groups"] / base["accepted_groups"] for play, base in pairs]
    return ranged(shares if len(shares) > OTHERS else [float(np.mean(shares))], ".2f")


def mean(values: Iterable[float]) -> str:
    return f"{np.mean(list(values)):,.0f}"


if __name__ == "__main__":
    main()
