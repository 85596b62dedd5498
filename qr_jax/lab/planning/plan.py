"""`qr-jax plan`: a config's programs compiled for TPU slices, or a GPU, that are not there, and whether they fit.

Each is compiled in a process of its own (planned.py), because libtpu and XLA read their environment once.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from qr_jax.config import Config, to_json
from qr_jax.errors import UserError
from qr_jax.lab import gpu, interpreter
from qr_jax.lab.columns import aligned
from qr_jax.lab.planning import ahead, cards, estimate
from qr_jax.lab.planning.cards import Card
from qr_jax.lab.planning.estimate import GIB
from qr_jax.logging import terminal
from qr_jax.settings import json_text

NO_TUNING = "--xla_gpu_autotune_level=0"  # by times on a GPU, which is not there
HAND_OVER = "hand_over: the updated weights become the rollouts'"
RESIDENT = {  # what is always allocated, in words
    "state": "learner's state", "slots": "decoding caches", "store": "waiting episodes' caches",
    "laid": "rollout weights",
}  # fmt: skip
PROGRAMS = ("train", "prefill", "decode", "hand_over")
SAY, ANSWER = "say: ", "answer: "  # how the lines begin that the process prints for us; others are libraries' own
LAST_LINES, LINE_LENGTH = 30, 300  # of what a process that failed wrote


def plan(
    config: Config,
    topologies: Sequence[str],
    *,
    dollars_a_chip_hour: float | None = None,
    say: Callable[[str], None] = terminal.say,
) -> dict[str, dict[str, Any]]:
    """Return by topology what the programs need there and whether they fit (`planned.examine`), and the price.

    ValueError where libtpu is missing or not jax's, or a topology or the model's shape is not known.
    """
    for topology in topologies:
        ahead.check_name(topology)
    ahead.check_libtpu()
    asked = {"config": to_json(config)}
    found = {topology: in_a_process({**asked, "topology": topology}, ahead.ENVIRONMENT, say) for topology in topologies}
    for one in found.values():
        if dollars_a_chip_hour is not None and "seconds" in one:
            step_s, paid = one["seconds"]["step"], {"steps": one["steps"], "chips": one["chips"]}
            cost = estimate.price(step_s, **paid, dollars_a_chip_hour=dollars_a_chip_hour)
            one |= {"dollars_a_chip_hour": dollars_a_chip_hour, "dollars": cost}
    return found


def on_gpu(config: Config, card: Card, *, say: Callable[[str], None] = terminal.say) -> dict[str, Any]:
    """Return what the programs need on one GPU, and whether they fit (`planned.examine_gpu`).

    They are compiled where jax has its plugin of CUDA, no GPU needed; else their arrays are counted.
    """
    flags = f"{gpu.flags(config.model.compute) or ''} {NO_TUNING}".strip()
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    asked = {"config": to_json(config), "card": asdict(card), "compiles": gpu.plugin() is not None}
    return in_a_process(asked, environment, say)


def in_a_process(
    asked: Mapping[str, Any], environment: Mapping[str, str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Run planned.py in a process of its own, and return its answer. ValueError for what the user must mend,
    RuntimeError if it fails otherwise.
    """
    command = [*interpreter.python(), "-m", "qr_jax.lab.planning.planned"]
    environment = {**os.environ, **environment}
    answer = None
    with tempfile.TemporaryFile("w+") as errors:
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=errors, text=True) as child:
            assert child.stdin and child.stdout, "both are pipes"
            try:
                child.stdin.write(json.dumps(asked))
                child.stdin.close()
                for line in child.stdout:
                    if line.startswith(SAY):
                        say(line.removeprefix(SAY).rstrip("\n"))
                    if line.startswith(ANSWER):
                        answer = json_text.parse(line.removeprefix(ANSWER))
            except KeyboardInterrupt:
                child.kill()  # a compilation hears no signal, and has nothing to save
                raise
        if answer is None:
            errors.seek(0)
            last = "\n".join(line.rstrip()[:LINE_LENGTH] for line in errors.readlines()[-LAST_LINES:])
            raise RuntimeError(f"the process that compiles ended with {child.returncode}:\n{last}")
    if "error" in answer:
        raise UserError(answer["error"])
    return answer


def format_plan(topology: str, found: Mapping[str, Any]) -> str:
    """Format one topology's answer for a person."""
    hosts = "1 host" if found["hosts"] == 1 else f"{found['hosts']} hosts"
    lines = [f"{topology}: {found['chips']} chips on {hosts}, {found['kind']}"]
    if (devices := found.get("devices", found["chips"])) != found["chips"]:
        lines.append(f"  a chip is {devices // found['chips']} devices; what is said of a chip below is of one of them")
    verdict = "fits" if found["fits"] else f"does not fit: {found['reason']}"
    if found["train"] is None:
        return "\n".join([*lines, f"  {verdict}"])
    lines += [f"  {found['layout']}", "", *_table(found)]
    kernels = sum(found[name]["kernel_flops"] for name in PROGRAMS) / 1e9
    lines += [f"  one run on one chip; GFLOP with {kernels:.2f} of attention kernels, which HLO does not count", ""]
    phases = ", ".join(f"{name} {_gib(size)}" for name, size in found["memory_by_phase"].items())
    lines += [f"  GiB a chip while each runs, of {_gib(found['hbm_bytes'])}: {phases}"]
    lines += [f"  always allocated of that: {_resident(found)}", f"  ({HAND_OVER})", f"  {verdict}", ""]
    lines += _times(found)
    started = "{decode} of decode and {prefill} of prefill".format(**found["rollout_programs"])
    done = f"{found['compiles']} programs compiled in {found['compile_s']:.0f} s"
    return "\n".join([*lines, f"  {done}; a run compiles {started} before its first rollout, the longest like these"])


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _table(found: Mapping[str, Any]) -> list[str]:
    """Return the programs: memory of each by itself, work and collectives of one run of it on one chip."""
    heads = ("program", "peak GiB", "arguments", "GFLOP", "GB of HBM", "least", "collectives, GB", "compiled in")
    rows: list[tuple[str, ...]] = [heads]
    for name in PROGRAMS:
        one = found[name]
        moved = ", ".join(f"{kind} {size / 1e9:.2f}" for kind, size in sorted(one["collectives"].items())) or "none"
        work = (f"{one[part] / 1e9:.2f}" for part in ("flops", "bytes_accessed", "bytes_least"))
        memory = _gib(one["peak_bytes"]), _gib(one["argument_bytes"])
        rows.append((f"{name} / {one['per']}", *memory, *work, moved, f"{one['compile_s']:.0f} s"))
    return [f"  {line}" for line in aligned(rows)]


def _times(found: Mapping[str, Any]) -> list[str]:
    """Return the estimate of a step and a run, with what it assumes."""
    took = found["seconds"]
    parts = ", ".join(f"{name} {took[name]:.2f}" for name in ("rollout", "learner", "hand_over"))
    inside = f"decode {took['decode']:.2f}, prefill {took['prefill']:.2f}"
    hours = took["step"] * found["steps"] / 3600
    lines = [f"  estimate, nothing measured: a step {took['step']:.1f} s ({parts}; of the rollout {inside})"]
    lines.append(f"  {found['steps']} steps {hours:.2f} h, {hours * found['chips']:.1f} chip-hours")
    if "dollars" in found:
        lines[-1] += f", {found['dollars']:,.0f} dollars at {found['dollars_a_chip_hour']:g} a chip-hour"
    return lines + [f"    assumed: {text}" for text in found["assumptions"]]


def _resident(found: Mapping[str, Any]) -> str:
    """Format what is allocated whichever program runs, in GiB; each kind of chip's own, if some only roll out."""
    told = {name: f"{RESIDENT[name]} {_gib(size)}" for name, size in found["resident"].items()}
    if not found.get("apart"):
        return ", ".join(told.values())
    state = told.pop("state")
    return f"{state} on a chip that learns; {', '.join(told.values())} on one that rolls out"


def format_gpu(found: Mapping[str, Any]) -> str:
    """Format a GPU's answer for a person."""
    gib = {name: _gib(size) for name, size in found["memory_by_phase"].items()}
    how = "compiled by XLA, with no GPU at hand" if found["compiled"] else "arrays counted"
    hint = [] if found["compiled"] else [f"  to have XLA compile the programs: {cards.PLUGIN}"]
    told = "  compiled with XLA's attention; a run on this card uses cuDNN's for heads of this size"
    hint += [told] * found["xla_attention"]
    usable, peak = (found[name] / GIB for name in ("usable_bytes", "peak_bytes"))
    whole = f"{usable:.1f} GiB, {gpu.FRACTION:g} of {found['memory_bytes'] / GIB:.1f}"
    lines = [
        f"{found['gpu']}: jax may hold {whole}",
        f"  GiB while each runs, {how}: " + ", ".join(f"{name} {gib[name]}" for name in PROGRAMS),
        f"  always allocated of that: {_resident(found)}",
        f"  ({HAND_OVER})",
        *hint,
        "  not measured on a GPU; other processes on it need memory too",
    ]
    verdict = f"{found['program']} needs {peak:.1f} GiB"
    if found["fits"]:
        return "\n".join([*lines, f"  fits: {verdict}, {peak / usable:.0%} of what jax may hold"])
    return "\n".join([*lines, f"  does not fit: {verdict}: {found['todo']}"])
