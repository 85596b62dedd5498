"""Ten minutes on a first TPU host: a small model's figures beside kept ones, in one JSON made for an issue.

    tpu_scripts/check.sh --out first_check.json      # on the host
    python -m tpu_scripts.first_check --keep         # the kept values anew: a CPU's, one device, float32

Compared are the learner's log-probabilities and gradient, and the columns that attention sees, with first_check.json
beside this file; the sampler with the learner; and a run that was stopped after two steps and goes on with one that was
not stopped, byte for byte; and the run's peak memory and step time with the planner's. So small a model says little of
the last two (model.name=qwen3_0p6b --compute bfloat16 measures random weights of that size; a process's peak is of all
that it did).
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qr_jax import assemble, config, train
from qr_jax.cli.commands import doctor
from qr_jax.config import Config, Learner, Model, load, use
from qr_jax.lab.bug_report import clean
from qr_jax.lab.planning import plan
from qr_jax.learner import learner, pack
from qr_jax.logging import metrics_writer, terminal
from qr_jax.models import attention, decoder, families
from qr_jax.parallel import compile_cache, start
from qr_jax.parallel.mesh import make_mesh
from qr_jax.records import Episode, Query, grades
from tpu_scripts import same_runs

KEPT = Path(__file__).with_suffix(".json")
Dtype = Literal["float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
# Of any token, in nats, and of the gradient's norm, as a share; a CPU with eight devices is off by 2e-6 and by 0.04.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}
GAP = {"float32": 1e-3, "bfloat16": 0.05}  # mean nats a token between sampler and learner
EPISODES, ROWS, LENGTH, WINDOW = 16, 8, 128, 16
STOP_AT, STEPS = 2, 4
PEAK, PEAK_GIB = 1.15, 1.0  # how far a peak may lie above the planned one: times, and GiB for what else the process did
FLAT, CUBE = {1: "1x1", 4: "2x2", 8: "2x4"}, {1: "1x1x1", 4: "2x2x1"}
# How a device's kind begins -> libtpu's name of the chip, and its layout by the devices of one host.
TOPOLOGIES: Mapping[str, tuple[str, Mapping[int, str]]] = {
    "TPU v5 lite": ("v5e", FLAT),
    "TPU v5": ("v5p", CUBE),
    "TPU v6": ("v6e", FLAT),
    "TPU7x": ("tpu7x", {8: "2x2x1"}),  # two devices a chip
}


def learnt(compute: Dtype, mesh: config.Mesh) -> dict[str, Any]:
    """Return the learner's log-probabilities (nats) of the sampled tokens of fixed episodes, and its gradient's norm.

    The model is the preset two_layer with weights of seed 0; the episodes are of fixed numbers, packed into rows.
    """
    cfg, on = families.PRESETS["two_layer"], make_mesh(mesh)
    settings = Learner(rows=ROWS, row_tokens=LENGTH, loss=use("nll"), advantage=use("dr_grpo"))
    made = learner.make(cfg, Model("two_layer", compute=compute), settings, on)
    ones = np.ones((EPISODES, 1))
    batch = pack.pack(
        [[_episode(number)] for number in range(EPISODES)], grades(ones, ones > 0),
        rows=ROWS, row_tokens=LENGTH, queries=EPISODES, samples=1,
    )  # fmt: skip
    state = made.init(assemble.place(decoder.init(cfg, jax.random.key(0)), on))
    logp_MEL, (_, gradient, _) = made.old_logp(state, batch), made.gradient(state, batch)
    logp_X = np.asarray(jax.device_get(logp_MEL))[batch.mask_MEL]
    return {"logp": np.round(logp_X.astype(float), 6).tolist(), "gradient_norm": float(optax.tree.norm(gradient))}


def _episode(number: int) -> Episode:
    length = 24 + 5 * number % 37
    ids_L = (31 * (np.arange(length) + 97 * number) ** 2 + 7) % 509
    mask_L = np.arange(length) % 7 > 2
    none_L = np.zeros(length, np.float32)
    query = Query(str(number), "", ())
    return Episode(query, 0, 0, ids_L, mask_L, none_L, np.where(mask_L, 0, -1), (), None, "answered", True)


def seen(compute: Dtype, mesh: config.Mesh) -> dict[str, list]:
    """Return the first column that each column of packed rows sees and how many it sees, whole and in a window.

    Queries and keys are 0, so that attention's result is the mean of the values seen, and values are one-hot.
    """
    on = make_mesh(mesh)
    device, column_L = on.devices.flat[0], np.arange(LENGTH)
    segment_NL = np.stack([1 + (column_L >= 17 + 9 * row) + (column_L >= 100) for row in range(ROWS)])
    segment_NL[1::2, 120:] = 0
    at_NL = np.stack([column_L - np.searchsorted(row_L, row_L) for row_L in np.where(segment_NL, segment_NL, 9)])
    kind = attention.choose("auto", device, compute, length=LENGTH, head_dim=LENGTH)
    none = jnp.zeros((ROWS, LENGTH, 1, LENGTH), compute)
    ones = jnp.broadcast_to(jnp.eye(LENGTH, dtype=compute)[None, :, None], none.shape)
    found: dict[str, list] = {}
    for name, slides in (("whole", False), ("window", True)):
        sliding = attention.Sliding(jnp.asarray(slides), WINDOW, jnp.asarray(at_NL))
        attend = jax.jit(partial(attention.packed, kind=kind, mesh=on))
        mean_NLV = np.asarray(attend(none, none, ones, jnp.asarray(segment_NL), None, sliding)[:, :, 0])
        sees_NLL = (mean_NLV > 0.5 / LENGTH) & (segment_NL[..., None] > 0)  # a padding column's result is nobody's
        found[name] = [[int(row.argmax()), int(row.sum())] for row in sees_NLL[:2].reshape(-1, LENGTH)]
    return found


def run_of(compute: Dtype, mesh: config.Mesh, folder: Path, words: Sequence[str]) -> Config:
    """Return the config of a few steps on a small synthetic world, with `words` as further settings."""
    world = ["documents=200", "train=40", "dev=8", "test=0", "traces=20"]
    settings = [*(f"data.world.{each}" for each in world), f"data.world_path={folder / 'worlds'}"]
    settings += [f"model.compute={compute}", f"mesh.fsdp={mesh.fsdp}", f"learner.rows={ROWS}", "sft.steps=0"]
    # a model that knows nothing earns nothing: what moves it is its entropy
    settings += ["learner.keep_zero_variance=true", "learner.entropy_weight=0.1", f"train.steps={STEPS}", *words]
    return load("configs/two_layer.py", settings)


def played(settings: Config, folder: Path, *, stop_at: int | None = None) -> list[dict[str, Any]]:
    """Train in the folder, or go on there, and return the steps' metrics; a SIGTERM comes after step `stop_at`."""

    def say(text: str) -> None:
        terminal.say(text)
        if text.lstrip().startswith(f"step {stop_at}/"):
            signal.raise_signal(signal.SIGTERM)

    try:
        train.train(settings, folder, say=say)
    except SystemExit as ended:
        if stop_at is None or ended.code != 128 + signal.SIGTERM:
            raise RuntimeError(f"training ended with code {ended.code}") from ended
    return metrics_writer.read(folder)


def check_learnt(compute: Dtype, mesh: config.Mesh, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Compare log-probabilities and gradient with the kept ones."""
    found = learnt(compute, mesh)
    off_X = np.abs(np.subtract(found["logp"], kept["logp"]))
    off = abs(found["gradient_norm"] / kept["gradient_norm"] - 1)
    figures = {"tokens": off_X.size, "mean_nats_off": float(off_X.mean()), "most_nats_off": float(off_X.max())}
    figures |= {"gradient_norm_off": off, "tolerance": TOLERANCE[compute]}
    return _verdict(max(off_X.max(), off) <= TOLERANCE[compute]) | figures


def check_seen(compute: Dtype, mesh: config.Mesh, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Compare what attention sees with the kept columns."""
    found = seen(compute, mesh)
    wrong = {name: sum(map(list.__ne__, found[name], kept[name])) for name in found}
    return _verdict(not any(wrong.values())) | {"columns": len(kept["whole"]), "columns_off": wrong}


def check_run(compute: Dtype, mesh: config.Mesh, words: Sequence[str]) -> dict[str, Any]:
    """Train, stop and go on; compare sampler with learner, and the run that was stopped with the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = run_of(compute, mesh, folder, words)
        rows = played(settings, folder / "whole")
        stopped = len(played(settings, folder / "stopped", stop_at=STOP_AT))
        played(settings, folder / "stopped")
        differ = same_runs.differences(folder / "stopped", folder / "whole", STEPS)
    gap = max(row["sampler_gap/mean"] for row in rows)
    figures = {"gap_nats": gap, "most_gap_nats": max(row["sampler_gap/max"] for row in rows), "tolerance": GAP[compute]}
    figures |= {"stopped_after": stopped, "differ": differ}
    figures |= {"step_s": min(row["time/step_s"] for row in rows), "compiled_s": rows[0]["time/compile_s"]}
    figures |= {"peak_gib": rows[-1]["perf/peak_memory_gib"]}
    return _verdict(gap <= GAP[compute] and stopped == STOP_AT and not differ) | figures


def check_plan(compute: Dtype, mesh: config.Mesh, words: Sequence[str], ran: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the planner's peak memory and step time of the same run on as many such chips with what it took.

    It fails if the plan does not fit or the peak is more than PEAK times the planned and PEAK_GIB above. A step of so
    small a model is no fair test of the time: its ratio has no verdict. None at all if the planner knows no such chip.
    """
    device, count = jax.local_devices()[0], jax.local_device_count()
    chip, layouts = next((TOPOLOGIES[kind] for kind in TOPOLOGIES if device.device_kind.startswith(kind)), ("", {}))
    if count not in layouts:
        return {"verdict": "none", "why": f"the planner has no topology of {count} x {device.device_kind}"}
    settings = run_of(compute, mesh, Path("worlds"), words)
    topology = f"{chip}:{layouts[count]}"
    found = plan.plan(settings, [topology])[topology]
    peak_gib, step_s = (found["peak_bytes_per_chip"] or 0) / 2**30, found.get("seconds", {}).get("step")
    figures = {"topology": topology, "peak_gib": peak_gib, "step_s": step_s}
    taken_gib, taken_s = ran.get("peak_gib") or 0, ran.get("step_s") or 0
    figures["peak_over_planned"] = taken_gib / peak_gib if taken_gib and peak_gib else None
    figures["step_over_planned"] = taken_s / step_s if taken_s and step_s else None
    return _verdict(found["fits"] and taken_gib <= PEAK * peak_gib + PEAK_GIB) | figures


def examine(kept: Mapping[str, Any], computes: Sequence[Dtype] = DTYPES, words: Sequence[str] = ()) -> dict[str, Any]:
    """Return all figures, with a verdict of each check and of all together; what a check raises makes it fail."""
    began, device, checks = time.monotonic(), jax.local_devices()[0], {}
    mesh = config.Mesh(fsdp=jax.local_device_count())
    for compute in computes:
        # a product of float32 would else be one of bfloat16 on a TPU
        jax.config.update("jax_default_matmul_precision", "highest" if compute == "float32" else None)
        checks[f"learner_{compute}"] = _checked(check_learnt, compute, mesh, kept)
        checks[f"mask_{compute}"] = _checked(check_seen, compute, mesh, kept)
        checks[f"run_{compute}"] = _checked(check_run, compute, mesh, words)
    checks["plan"] = _checked(check_plan, computes[-1], mesh, words, checks[f"run_{computes[-1]}"])
    return {
        "verdict": "fail" if any(check["verdict"] == "fail" for check in checks.values()) else "pass",
        "device": {
            "kind": device.device_kind, "platform": device.platform, "count": jax.local_device_count(),
            "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "settings": [clean(word) for word in words], "checks": checks, "wall_s": time.monotonic() - began,
    }  # fmt: skip


def _checked(check: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    terminal.say(f"{check.__name__} in {given[0]}")
    began = time.monotonic()
    try:
        found = check(*given)
    except Exception as error:  # what fails on a first host is what the report is for
        found = {"verdict": "fail", "error": clean(f"{type(error).__name__}: {error}")[:2000]}
    terminal.say(f"{found['verdict']}: {json.dumps(found)}")
    return found | {"wall_s": time.monotonic() - began}


def _verdict(is_right: Any) -> dict[str, Any]:
    return {"verdict": "pass" if is_right else "fail"}


def _versions() -> dict[str, str]:
    found = {name: doctor.version(name) for name in (*doctor.PACKAGES, "libtpu")}
    return {name: version for name, version in found.items() if version}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="setting=value", help="of the run, as in model.name=qwen3_0p6b")
    parser.add_argument("--out", type=Path, default=Path("first_check.json"), help="the JSON (first_check.json)")
    parser.add_argument("--kept", type=Path, default=KEPT, help="other kept values")
    parser.add_argument("--keep", action="store_true", help="write the kept values anew, and check nothing")
    parser.add_argument("--compute", choices=DTYPES, help="in one dtype alone (both)")
    parser.add_argument("--devices", type=int, help="how many devices a CPU plays")
    options = parser.parse_args(argv)
    if start.workers(os.environ) > 1:
        parser.error("this host is one of several, which jax would wait for; wanted a slice of one host")
    if options.devices is not None and options.devices < 1:
        parser.error(f"--devices {options.devices}; wanted 1, 2, 4 or 8")
    if not options.keep:
        try:
            run_of("float32", config.Mesh(), Path(), options.settings)
            options.out.touch()
        except (OSError, ValueError) as error:
            parser.error(str(error))
    start.begin(config.Mesh(devices=options.devices))
    if ROWS % jax.local_device_count():
        parser.error(f"{jax.local_device_count()} devices: the check deals {ROWS} rows over them; wanted 1, 2, 4 or 8")
    if options.keep:
        if jax.default_backend() != "cpu":
            parser.error("kept values are those of a CPU: JAX_PLATFORMS=cpu")
        values = learnt("float32", config.Mesh()) | seen("float32", config.Mesh())
        KEPT.write_text(
            "{\n" + ",\n".join(f'"{name}": {json.dumps(value)}' for name, value in values.items()) + "\n}\n"
        )
        return 0
    if jax.default_backend() != "cpu":  # the three starts of a run have the same programs
        compile_cache.enable()
    computes = [options.compute] if options.compute else DTYPES
    found = examine(json.loads(options.kept.read_text()), computes, options.settings)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    terminal.say(f"{found['verdict']}: {options.out} has no names of hosts, users or folders; attach it to an issue")
    return found["verdict"] != "pass"


if __name__ == "__main__":
    sys.exit(main())
