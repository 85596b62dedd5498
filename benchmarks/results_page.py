"""Tables of pages of docs/: what training gave, what it takes on two cores, the neighbouring methods, and the rules."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import kept_runs, methods, paper_implies, study_results
from benchmarks.quickstart_seeds import FRESH, means, of_seeds
from benchmarks.start import KINDS, WANTED_S
from benchmarks.tables import markdown, over_seeds

GIB = 2**30


def learnt() -> str:
    """Return Markdown: exact match before and after training, a row an agent and its questions."""
    seeds, tools = kept_runs.kept("quickstart_seeds"), kept_runs.kept("tool_call")
    rows = [
        of_runs("quickstart, 0.37M parameters: a synthetic world", *pair(seeds, FRESH)),
        of_runs("the same with shuffled rewards, the control", *pair(seeds, [0], shuffled=True)),
    ]
    for config, agent in (("tool_call", "up to three searches per turn"), ("one_by_one", "one search per turn")):
        runs = [run for run in tools if run["config"] == config]
        scores = ([run[when]["all"] for run in runs] for when in ("before", "after"))
        rows.append(of_runs(f"the quickstart's model, {agent}: a synthetic world", *scores))
    for name, questions in (
        ("single_hop", "415 real questions of one hop"),
        ("real_agent", "1,418 real questions of several hops"),
    ):
        runs = [run for run in kept_runs.kept(name) if run.get("name", "trained") == "trained"]
        scores = ([run[when]["exact_match"] for run in runs] for when in ("before", "after"))
        rows.append(of_runs(f"SmolLM2-135M: {questions}", *scores))
    return markdown([("agent and questions", "seeds", "before", "after", "gain"), *rows])


def pair(runs: Sequence[Mapping[str, Any]], seeds: Sequence[int], *, shuffled: bool = False) -> list[list[float]]:
    return [means(of_seeds(runs, seeds, when, shuffled=shuffled)) for when in ("before", "after")]


def of_runs(what: str, before: Sequence[float], after: Sequence[float]) -> tuple[str, ...]:
    gains = [late - early for early, late in zip(before, after, strict=True)]
    told = over_seeds(before).split(" ")[0], over_seeds(after).split(" ")[0], over_seeds(gains, "+")
    return (what, str(len(gains)), *(text.replace("0.", ".") for text in told))


def costs(found: Mapping[str, Any]) -> str:
    """Return Markdown: seconds and memory on two cores, from the results of `start`, `remat` and `memory`."""
    rows = [("on two cores", "time", "most memory", "command")]
    for name, (preset, *_) in WANTED_S.items():
        for kind, called in KINDS.items():
            gib = max(answer["gib"] for answer in found[f"start_{name}"]["starts"][f"ours {kind}"])
            seconds = f"{found[f'start_{name}']['seconds'][f'ours {kind}']:.1f} s"
            rows.append((f"{preset}: start to first token, {called}", seconds, f"{gib:.2g} GiB", "`make bench-start`"))
    for name, called in (("training", "training"), ("rollouts alone", "evaluation alone")):
        most = f"{found['memory']['commands'][name][0]['most'] / GIB:.2f} GiB"
        rows.append((f"SmolLM2's laptop preset: {called}", "", most, "`python -m benchmarks.memory`"))
    return markdown(rows)


def trials(found: Mapping[str, Any]) -> str:
    """Return Markdown: what was lost in random kills, in long runs with faults, by corrupted inputs and by signals."""
    killed = [found["kills"][name] for name in ("one process", "two processes")]
    kills, runs, same = (sum(part[name] for part in killed) for name in ("kills", "runs", "identical"))
    soaks = [found["soak"][name] for name in ("killed", "in one life")]
    lost = sum(len(part["lost"]) + len(part["wrong"]) for part in soaks)
    grown = soaks[1]["memory_growth"]
    targets = found["fuzz"]["targets"].values()
    inputs, bad = sum(one["inputs"] for one in targets), sum(one["counts"].get("failed", 0) for one in targets)
    stops = found["stops"]["stops"]
    heard, ended = (max(one[name] for one in stops) for name in ("heard_s", "ended_s"))
    return markdown([
        ("trial", "result", "command"),
        (f"{kills} random kills of one process or two, in {runs} runs", f"{same} of {runs} runs ended with the same "
         "bytes as without kills", "`make kills`"),
        (f"{soaks[0]['steps']:,} steps with {soaks[0]['faults']} faults and kills, and {soaks[1]['steps']:,} with "
         f"{soaks[1]['faults']} faults in one process", f"{lost or 'nothing'} lost; memory changed by {grown:.1%} from "
         "step 200 on (aim: less than 5 %)", "`make soak`"),
        (f"{inputs:,} corrupted inputs to {len(found['fuzz']['targets'])} readers", f"{bad or 'no'} crash, hang or use "
         "of 2 GiB", "`make fuzz FULL=1`"),
        (f"SIGTERM in {len(stops)} phases of a run of SmolLM2's shape", f"heard within {heard:.1f} s (aim: 1), ended "
         f"within {ended:.1f} s", "`python tests/stops.py`"),
    ])  # fmt: skip


WAYS = ("merged in bfloat16", "beside the matrices", "merged in float32")  # of adapters to rollouts


def hand_over(found: Mapping[str, Any]) -> str:
    """Return Markdown: the share of an update of adapters that reaches the sampler by each way, with float32 sums."""

    def told(model: str, way: str) -> str:
        share = found[model]["shares"][f"{way}, float32 sums"]
        return f"{share['share']:.3f} +- {share['error']:.3f}"

    head = ("share of the exact change (float32 sums)", "SmolLM2-135M", "the quickstart's model, random weights")
    return markdown([head, *((way, told("smollm2", way), told("quickstart", way)) for way in WAYS)])


def screened() -> str:
    """Return Markdown: the methods that led a screen, on five fresh seeds."""
    runs = methods.kept(*methods.FINALS)
    base = runs[methods.BASELINE]
    rows = [("method", "seeds", "accuracy", "minus plain GRPO's")]
    for method, of_seed in runs.items():
        gaps = [run["accuracy"] - base[seed]["accuracy"] for seed, run in of_seed.items() if method != methods.BASELINE]
        means = over_seeds([run["accuracy"] for run in of_seed.values()]), over_seeds(gaps, "+")
        rows.append((method, str(len(of_seed)), *(text.replace("0.", ".") for text in means)))
    return markdown(rows)


def which_rule() -> str:
    """Return Markdown: the report's table without the rows of its two generations."""
    return "".join(line for line in study_results.by_setting().splitlines(True) if not line.startswith("| ..."))


def paper_rules() -> str:
    """Return Markdown: what each rule would train on, in pools fitted to the paper's figures."""
    made = paper_implies.table(json.loads(paper_implies.FILE.read_text(encoding="utf-8")))
    return made.split("\n\n")[1] + "\n"
