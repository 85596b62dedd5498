"""Show a run folder as one self-contained HTML page: data as JSON, which the page's script draws as text and SVG.

The page may load nothing and run only the one script whose hash stands in its policy. Everything a run holds
(questions, passages, what a model wrote) is untrusted: it enters the page inside JSON with <, > and & escaped, and the
document as text and attributes alone, which the policy enforces (Trusted Types)."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from qr_jax.config import BUDGETS
from qr_jax.errors import UserError
from qr_jax.evaluation.scores import is_incomplete
from qr_jax.lab import null_control
from qr_jax.lab.probe_figures import AGAIN
from qr_jax.lab.report import beside_paper, charts, choose, history, read, run_list, series
from qr_jax.logging.metrics import WALL
from qr_jax.logging.secrecy import looks_secret, redact
from qr_jax.logging.terminal import clock
from qr_jax.pool import figures
from qr_jax.settings.settings import few

DRAWING = ("elements.js", "shown.js", "plot.js", "groups.js", "chart.js")
VAGUE = 1.5  # bounds of a chance whose ends differ by more than this factor say little
SCRIPTS = (*DRAWING, "heat.js", "episode.js", "episodes.js", "page.js")


def write(
    folder: str | Path, out: str | Path | None = None, *, null: charts.Null | None = None, beside: bool = False
) -> Path:
    """Write the page of the run in `folder`, by default as its report.html; return its path. ValueError: no run."""
    if out is not None and not Path(out).parent.is_dir():
        raise UserError(f"there is no folder {Path(out).parent} to write {Path(out).name} into; make it first")
    path, text = Path(folder) / "report.html" if out is None else Path(out), build(folder, null=null, beside=beside)
    path.write_bytes(text.encode("utf-8", errors="replace"))  # a lone surrogate is no text
    return path


def build(folder: str | Path, *, null: charts.Null | None = None, beside: bool = False) -> str:
    """Build the page of a run, which may be going on.

    `null`: the null control's figures, drawn beside the run's, or the reason why there are none, which the page says
    (`null_control.null_or_reason`). `beside`: with the paper's figures too.
    """
    run = read.run(folder)
    found = history.histories(run.draws)
    data = overview(run, found, null)
    if beside:
        paper = beside_paper.shown(run)
        data |= {"charts": data["charts"] | paper["charts"], "beside": paper["beside"]}
    return of_data(data, choose.choose(run, found))


def of_data(data: Mapping[str, Any], episodes: Mapping[str, Any]) -> str:
    """Build the page from what it draws: `data` as `overview` returns it, `episodes` as `choose` does."""
    slots = frame(data["name"], asset("page.css"), SCRIPTS)
    return fill(asset("page.html"), slots | {"run": as_json(data), "episodes": as_json(episodes)})


def frame(title: str, style: str, scripts: Sequence[str]) -> dict[str, str]:
    """Return the slots that every page has: its title, style and script, and the policy that allows only these."""
    script = "\n".join(map(asset, scripts))
    allowed = html.escape(policy(style, script))
    return {"policy": allowed, "title": html.escape(title), "style": style, "script": script}


def policy(style: str, script: str) -> str:
    """Return the Content-Security-Policy: nothing is loaded, and only this style and this script apply."""
    rules = ["default-src 'none'", f"style-src {_hash(style)}", f"script-src {_hash(script)}", "img-src data:"]
    rules += ["base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'"]
    return "; ".join(rules)


def as_json(value: Any) -> str:
    """Return JSON that can neither end nor open a script element or a comment, whatever strings it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def overview(run: read.Run, found: history.Histories, null: charts.Null | None = None) -> dict[str, Any]:
    """Return all data of the page except the episodes."""
    size = next((row["pool/size"] for row in run.metrics if row.get("pool/size")), None)
    steps = len(run.metrics)
    reason = redact(null["reason"]) if null and "reason" in null else ""
    null = None if reason else null
    return {
        "name": run.folder.resolve().name, "status": status(run), "facts": _facts(run, null),
        "charts": drawn(run, null),
        "heat": history.heat(found, run.metrics[-1]["step"], size) if steps and found else None,
        "settings": settings(run.config), "unread": run.unread,
        "null": _beside_chance(null, run.config) if null else reason if steps else "",
    }  # fmt: skip


def drawn(run: read.Run, null: charts.Null | None = None) -> dict[str, charts.Chart]:
    """Return the charts of a run, by id."""
    given = run.metrics, run.before, run.after, run.config
    return charts.make(*given, ended=run.ended, null=null, cold=run.cold)


def status(run: read.Run) -> str:
    """Return one sentence on the run's progress and its main settings."""
    of, model = run.config.get("pool", {}), run.config.get("model", {}).get("name", "?")
    shape = f"rule {of.get('rule', {}).get('name', '?')}, {of.get('queries', '?')} queries of {of.get('samples', '?')}"
    done = f"Before step 1: {read.phase(run)}" + ("" if run_list.is_held(run.folder) else " (no process writes it now)")
    if run.metrics:
        last = run.metrics[-1]
        part = f"Step {last['step']:,}, {100 * run.share_spent(last):.0f} % of the budget"
        done = f"{last['step']:,} steps, ended" if run.ended else part
    changed = [
        f"{kind} {about.get('name')!r}"
        for kind, about in run.plugins.items()
        if isinstance(about, Mapping) and about.get("earlier")
    ]
    code = f" The code of {few(changed)} changed during the run." if changed else ""
    return f"{done}. Model {model}, {shape} samples, seed {run.config.get('seed', '?')}{_unusual(run.config)}.{code}"


def _unusual(config: Mapping[str, Any]) -> str:
    """Return what sets a run apart from most: adapters, overlap, shuffled rewards."""
    rank, train = config.get("model", {}).get("lora", {}).get("rank"), config.get("train", {})
    text = f", adapters of rank {rank}" if rank else ""
    text += ", rollouts during updates" if train.get("overlap") else ""
    return text + (", rewards shuffled" if train.get("shuffle_rewards") else "")


def _facts(run: read.Run, null: charts.Null | None) -> list[dict[str, str]]:
    """Return the figures at the top: label, value, and what to compare it with."""
    rows = run.metrics
    if not rows:
        return []
    last = figures.over_steps(rows[-max(len(rows) // 10, 1) :])
    chance = {} if null is None else null["summary"]
    drawn = "of the drawn groups, last tenth of the steps" + _chance(chance.get("zero_variance_last"))
    against = "of the batch, last tenth of the steps" + _chance(chance.get("recycled_share_last"))
    flipped, tried = last.get("pool/flipped_queries"), last.get("pool/attempted_queries")
    queries = f"{flipped or 0:,} of {tried or 0:,} queries" + _chance(chance.get("flipped"))
    wasted = series.ratio(rows, "pool/wasted_rollouts", "pool/rollouts")
    spent = {name: f"{rows[-1].get(f'budget/{name}') or 0:,}" for name in BUDGETS}
    seconds = series.total(rows, "time/step_s")
    return [
        held_out(run),
        _fact("Zero-variance rate", share(last.get("pool/zero_variance_rate")), drawn),
        _fact("Recycled share", share(last.get("pool/recycled_share")), against),
        _fact("Flipped", share(last.get("pool/flipped")), queries),
        *_probed(run.probe),
        _fact("Rollouts", spent["rollouts"], f"{share(wasted)} in groups not accepted"),
        _fact("Sampled tokens", spent["tokens"], f"{spent['searches']} searches"),
        _fact("Time in steps", clock(seconds), f"{seconds / len(rows):.1f} s a step"),
        *_use(rows),
    ]


def _use(rows: Sequence[series.Row]) -> list[dict[str, str]]:
    """Return how well the devices were used: goodput with what else the wall time went to, and MFU; as far as known."""
    facts, last = [], rows[-max(len(rows) // 10, 1) :]
    if (good := series.mean(rows[-1:], "perf/goodput")) is not None:
        of = {name: series.mean(rows[-1:], f"time/of_wall_{name}") for name in WALL}
        spent = ", ".join(f"{name.replace('_', ' ')} {share(part)}" for name, part in of.items())
        facts.append(_fact("Goodput", share(good), f"of the time its processes ran: {spent}"))
    mfu, bandwidth = (series.mean(last, f"perf/{name}") for name in ("mfu", "decode_bandwidth"))
    if mfu is not None or bandwidth is not None:
        beside = f"of the devices' peak in updates; decoding reads at {share(bandwidth)} of the memory's"
        facts.append(_fact("MFU", share(mfu), f"{beside}, last tenth of the steps"))
    return facts


def held_out(run: read.Run) -> dict[str, str]:
    """Return the last held-out accuracy beside that before training; the pass rate if nothing was evaluated."""
    rows = [row for row in run.metrics if row.get("eval/exact_match") is not None]
    scored: list[tuple[float, Mapping[str, Any]]] = [(row["eval/exact_match"], row) for row in rows]
    after, first = run.after, run.before.get("exact_match")
    if run.ended and after.get("exact_match") is not None:
        scored.append((after["exact_match"], after))
    before = f"{share(first)} before training{_lacks(run.before)}"
    if scored:
        value, evaluation = scored[-1]
        return _fact("Held-out accuracy", share(value), f"exact match{_lacks(evaluation)}; {before}")
    if first is not None:
        return _fact(
            "Held-out accuracy",
            share(first),
            f"exact match{_lacks(run.before)} before training; not evaluated since",
        )
    passed = series.mean(run.metrics[-1:], "reward/outcome_mean")
    return _fact("Pass rate", share(passed), "of the last step's rollouts")


def _lacks(evaluation: Mapping[str, Any]) -> str:
    """Return the mark of a score over fewer than 95 % of its questions."""
    return ", INCOMPLETE: the other questions ended in faults" if is_incomplete(evaluation) else ""


def _probed(probe: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the causal probe's facts: how much signal of redrawn queries came by movement of the policy."""
    facts = []
    for verdict, arm in AGAIN.items():
        found: Mapping[str, Any] = probe["arms"].get(arm, {}) if probe else {}
        if found.get("queries"):
            moved = found["to_accepting"]["movement_share"]
            between = "" if moved["low"] is None else f" ({share(moved['low'])} to {share(moved['high'])})"
            beside = f"of the signal when drawn again{between}, the rest chance; {found['queries']} asked again"
            facts.append(_fact(f"Movement after {verdict}", share(moved["mean"]), f"{beside} at step {probe['step']}"))
    return facts


def _chance(band: Mapping[str, Any] | None) -> str:
    """Return the text for a figure's band in the null control."""
    return f"; {share(band['low'])} to {share(band['high'])} by chance alone" if band else ""


def _beside_chance(null: charts.Null, config: Mapping[str, Any]) -> str:
    """Explain the null control's band, how wide its bounds are, and where they say little."""
    samples = config.get("pool", {}).get("samples", "K")
    text = (
        "The same pool and rule, with pass rates that never move after a query's first draw. For any pass rates that "
        f"the run's first draws allow the band holds 90 % of runs, by {null['plays']} simulated ones. A policy that "
        "learns nothing recycles and flips queries too: only what leaves the band says more."
    )
    for name, words in (("hard", "all wrong"), ("easy", "all right")):
        if bounds := null["chances"][name]:
            low, high = (share(value) for value in bounds)
            text += f" A query that was {words} in {samples} samples then bears signal at its next draw in {low} to "
            text += f"{high} of cases."
    wide = [bounds for bounds in null["chances"].values() if bounds and bounds[1] > VAGUE * bounds[0]]
    left_T = null_control.stretches_left(null_control.outside(null["run"], null["bands"]))
    if wide and left_T.sum() * 2 > left_T.size:
        text += (
            f" That is a wide range, and the run leaves the band all the same, in {left_T.sum()} of {left_T.size} "
            "stretches. Luck alone seldom does that. qr-jax probe tells how much moved: it answers such queries again "
            "with the policy of their earlier draw."
        )
    elif wide:
        text += (
            " That is a wide range: so few samples a query cannot tell luck from learning here. qr-jax probe can: it "
            "answers such queries again with the policy of their earlier draw."
        )
    return text


def _fact(label: str, value: str, beside: str) -> dict[str, str]:
    return {"label": label, "value": value, "beside": beside}


def share(value: float | None) -> str:
    """Format a rate in three digits: .442; a dash for None."""
    return "\u2013" if value is None else f"{value:.3f}".removeprefix("0") if value < 1 else f"{value:.2f}"


def settings(config: Mapping[str, Any], name: str = "") -> list[list[str]]:
    """Return [name, value] of every setting; values that look secret are redacted."""
    found: list[list[str]] = []
    for key, value in config.items():
        full = f"{name}.{key}" if name else str(key)
        if isinstance(value, Mapping) and value:
            found += settings(value, full)
        else:
            found.append([full, "[redacted]" if looks_secret(full) else redact(json.dumps(value, ensure_ascii=False))])
    return found


def asset(name: str) -> str:
    return (resources.files("qr_jax.lab.report") / name).read_text(encoding="utf-8")


def fill(template: str, slots: Mapping[str, str]) -> str:
    """Replace each [[name]] of the template; inserted text is not searched again."""
    return re.sub(r"\[\[(\w+)\]\]", lambda slot: slots[slot[1]], template)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
