"""The card of a made set: what it was made of, by whom and how, what was refused and why, and what it cost."""

from collections.abc import Mapping
from typing import Any

from qr_jax.lab.columns import aligned

# What the paper's 25,000 questions come from and how many documents they need (Coelho et al. 2026, arXiv:2606.10709),
# in percent; DeepResearchGym's own set is no generator of ours.
PAPER_MIX = {"iterative_search": 30, "link_walk": 27, "comparative_search": 8}
PAPER_GYM = 35
PAPER_DOCUMENTS = {1: 5, 2: 34, 3: 25, 4: 18, 5: 12, 6: 6}


def write(counts: Mapping[str, Any], about: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Write the card as Markdown. `about` decides the questions (folder.py); `given` is all else that is told."""
    cost = f", {given['cost']:.2f} by the price given" if given["cost"] is not None else ""
    lines = [
        "# Synthetic questions and trajectories",
        "",
        f"{counts['questions']} questions and {counts['trajectories']} trajectories, made by `qr-jax synth`.",
        *([f"**Not finished**: {counts['ended']}. The same command goes on."] if counts["ended"] else []),
        "",
        f"- Author: The model `{about['teacher']}`; prompts' SHA-256 `{about['prompts_sha256']}`.",
        f"- Corpus: {given['corpus']}, {given['passages']:,} passages, SHA-256 `{about['corpus_sha256']}`; "
        f"licence: {given['licence'] or 'not stated (--licence)'}. The questions quote it, and stand under it too.",
        f"- Links: {given['links']}.",
        f"- Retriever: {_named(about['retriever'])}, {about['k']} passages a search. Dialect: {_named(about['env'])}. "
        f"Seed {about['seed']}.",
        f"- Evaluation sets whose questions were refused: {_listed(given['sets']) or 'none'}."
        + (f" **Not compared with**: {', '.join(given['missing'])}." if given["missing"] else ""),
        f"- Calls: {given['calls']:,} ({given['failed']} failed and made again); "
        f"tokens: {given['tokens_in']:,} in, {given['tokens_out']:,} out{cost}.",
    ]
    lines += ["", "## What was kept", "", *_table(counts["generators"])]
    lines += ["", *_beside_paper(counts)]
    lines += [
        "",
        f"Of {counts['candidates']} candidates {_share(counts['refused'])} were refused; of "
        f"{counts['trajectories_tried']} trajectories tried {counts['trajectories']} were kept.",
    ]
    for stage, title in (("question", "Questions refused"), ("trajectory", "Trajectories refused")):
        if counts["rejects"][stage]:
            lines += ["", f"## {title}", "", "| reason | count | by generator |", "|---|---|---|"]
            lines += [
                f"| {reason} | {sum(of.values())} | {_listed(of)} |" for reason, of in counts["rejects"][stage].items()
            ]
    lines += [
        "",
        "## How it is used",
        "",
        "```",
        "qr-jax train CONFIG data.train=questions.jsonl data.traces=traces.jsonl data.corpus=CORPUS data.eval=...",
        "```",
        "",
        "`questions.parquet` has the same questions in verl's rows. `rejects.jsonl` has every reject with its reason.",
        "",
    ]
    return "\n".join(lines)


def told(counts: Mapping[str, Any]) -> str:
    """Format the counts as the command prints them."""
    rows: list[tuple[str, ...]] = [("generator", "candidates", "questions", "refused", "trajectories")]
    for name, part in counts["generators"].items():
        share = _share(part["refused"])
        rows.append((name, str(part["candidates"]), str(part["questions"]), share, str(part["trajectories"])))
    share = _share(counts["refused"])
    rows.append(("all", str(counts["candidates"]), str(counts["questions"]), share, str(counts["trajectories"])))
    lines = list(aligned(rows))
    for stage, reasons in counts["rejects"].items():
        lines += [f"{stage} refused: {sum(of.values())} {reason}" for reason, of in reasons.items()]
    return "\n".join([*lines, *([f"not finished: {counts['ended']}"] if counts["ended"] else [])])


def _table(generators: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["| generator | candidates | questions | refused | hops | trajectories |", "|---|---|---|---|---|---|"]
    for name, part in generators.items():
        hops = ", ".join(f"{count} of {hops}" for hops, count in part["hops"].items()) or "-"
        share = _share(part["refused"])
        lines.append(
            f"| {name} | {part['candidates']} | {part['questions']} | {share} | {hops} | {part['trajectories']} |"
        )
    return lines


def _beside_paper(counts: Mapping[str, Any]) -> list[str]:
    """Compare the shares of generators and of documents, beside the paper's."""
    kept = {name: part["questions"] for name, part in counts["generators"].items()}
    documents: dict[int, int] = {}
    for part in counts["generators"].values():
        for hops, count in part["hops"].items():
            documents[int(hops)] = documents.get(int(hops), 0) + count
    whole = max(1, sum(kept.values()))

    def cell(count: int) -> str:
        return f"{100 * count / whole:.0f} %"

    rows = [(name, cell(kept.get(name, 0)), PAPER_MIX.get(name, 0)) for name in dict.fromkeys([*PAPER_MIX, *kept])]
    rows += [("DeepResearchGym's set", cell(0), PAPER_GYM)]
    rows += [
        (f"needs {count} document{'s' * (count > 1)}", cell(documents.get(count, 0)), PAPER_DOCUMENTS.get(count, 0))
        for count in sorted({*PAPER_DOCUMENTS, *documents})
    ]
    lines = ["| of the questions | here | the paper (2606.10709) |", "|---|---|---|"]
    return [*lines, *(f"| {name} | {here} | {paper} % |" for name, here, paper in rows)]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _named(plugin: Mapping[str, Any]) -> str:
    """Return a plug-in's name with its settings."""
    settings = ", ".join(f"{name}={value}" for name, value in plugin.items() if name != "name")
    return f"{plugin['name']}({settings})" if settings else plugin["name"]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
