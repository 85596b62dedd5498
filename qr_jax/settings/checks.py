"""Find everything wrong with a config that can be known before a device is used.

settings.py checks single values by type and bound; this module checks conflicts among settings, and with files,
devices and plug-ins.
"""

import importlib.util
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qr_jax import plugins
from qr_jax.config import OWN, PLUGIN_AT, SET_PREFIX, STEPS, Config, chosen_plugins, every_plugin, from_json
from qr_jax.data.readers import resolve, rows
from qr_jax.data.traces import MADE_TRACES, NO_TRACES
from qr_jax.data.world.generate import WorldSettings
from qr_jax.errors import UserError
from qr_jax.logging.secrecy import looks_secret
from qr_jax.run import bucket
from qr_jax.settings.settings import conform, inside, out_of_bounds, plain

DATA = ("train", "eval", "corpus", "traces")  # settings that name files
MOST_EPISODES = 100_000  # per step; with more, the batch alone takes gigabytes of host memory


def check(config: Config, *, devices: int | None = None, reads: Sequence[str] = DATA, trains: bool = True) -> Config:
    """Return the config, its values converted to their types; a ValueError lists all that is wrong with it and known
    before a device is touched.

    `devices`: how many there are, once that is known. `reads`: the data settings that the command reads;
    other files need not exist. Plug-ins of pool and learner are checked only if it `trains`.
    """
    lines = problems(config, devices=devices, reads=reads, trains=trains)
    if lines:
        raise UserError("\n  ".join([f"{len(lines)} problems in this config:", *lines]) if lines[1:] else lines[0])
    return from_json(config)


def check_cold_start(config: Config) -> None:
    """Raise ValueError if a cold start, asked for by itself, has no steps."""
    if config.sft.steps < 1:
        raise UserError(f"sft.steps={config.sft.steps}: a cold start needs at least 1")


def problems(
    config: Config, *, devices: int | None = None, reads: Sequence[str] = DATA, trains: bool = True
) -> list[str]:
    """List one line for each problem; a setting of a wrong type is reported alone."""
    try:
        config = from_json(config)
    except ValueError as error:
        return [str(error)]
    lines = [*out_of_bounds("", config, Config)]
    lines += [line for part in (_sizes, _together, _policies, _batches, _lengths) for line in part(config)]
    lines += _files(config, reads)
    if "eval" in reads:
        lines += _sources(config, trains)
    return [*lines, *_secrets(plain(config)), *_mesh(config, devices), *_plugins(config, trains)]


def _sizes(config: Config) -> Iterator[str]:
    episodes = config.pool.queries * config.pool.oversample * config.pool.samples
    if episodes > MOST_EPISODES:
        yield (
            f"pool.queries={config.pool.queries} x pool.oversample={config.pool.oversample} x pool.samples="
            f"{config.pool.samples} are {episodes:,} episodes a step; wanted at most {MOST_EPISODES:,}"
        )
    if config.learner.importance_low >= config.learner.importance_high:
        low, high = config.learner.importance_low, config.learner.importance_high
        yield f"learner.importance_low={low} is not below learner.importance_high={high}; lower it"


def _together(config: Config) -> Iterator[str]:
    """Yield an error for settings that are valid alone but conflict together, or lack what they need."""
    learner, pool = config.learner, config.pool
    if learner.keep_zero_variance and pool.min_signal > 1:
        yield (
            f"pool.min_signal={pool.min_signal} waits for groups that bear signal, but with "
            "learner.keep_zero_variance=true zero-variance groups would wait as if they did; "
            "set pool.min_signal=1 or learner.keep_zero_variance=false"
        )
    if learner.keep_zero_variance and learner.fill:
        yield (
            "learner.fill=true puts copies in the places of zero-variance groups, and learner.keep_zero_variance=true "
            "leaves them there; set one of the two to false"
        )
    beside = {"fill": False, "over": "accepted", "updates": 1}
    wrong = [f"learner.{name}={was}" for name, off in beside.items() if (was := getattr(learner, name)) != off]
    if learner.reduce == "group_mean" and wrong:
        yield (
            f"learner.reduce='group_mean' counts the tokens of each whole group in the update, and {', '.join(wrong)} "
            f"would count others or a part; set {', '.join(f'learner.{name}={off}' for name, off in beside.items())}, "
            "or another learner.reduce"
        )
    if learner.kl == "k1" and learner.kl_weight > 0:
        yield (
            f"learner.kl='k1' with learner.kl_weight={learner.kl_weight}: as a term of the loss, k1 has a mean "
            "gradient of 0 and does nothing; use k2 or k3"
        )
    if config.guards.act == "rollback" and not config.guards.probe_every:
        yield (
            "guards.act='rollback' goes back to the step with the best probe, and guards.probe_every=0 makes none; "
            "set guards.probe_every=5, or guards.act=stop"
        )
    if config.evaluation.every and config.evaluation.every_rollouts:
        yield (
            f"evaluation.every={config.evaluation.every} counts steps and evaluation.every_rollouts="
            f"{config.evaluation.every_rollouts} counts rollouts; set one of the two to 0"
        )
    train = config.train
    if train.checkpoint_every > 0 and train.keep_every % train.checkpoint_every:
        yield (
            f"train.keep_every={train.keep_every} keeps only what is saved, every train.checkpoint_every="
            f"{train.checkpoint_every} steps; wanted a multiple of that"
        )
    traced = STEPS.fullmatch(train.profile or "")
    if traced and int(traced[1]) >= train.steps:
        yield f"train.profile={train.profile} begins after the last of train.steps={train.steps}: name earlier steps"
    package = importlib.util.find_spec("wandb") if config.log.wandb else None
    if config.log.wandb and not (package and package.origin):  # W&B leaves a folder wandb/, which is no package
        yield "log.wandb=true needs the package wandb: pip install 'qr_jax[wandb]'"


def _policies(config: Config) -> Iterator[str]:
    """Yield an error where the policy that samples and the one that learns would differ without a correction."""
    learner = config.learner
    if config.mesh.rollout_devices and not config.train.overlap:
        yield (
            f"mesh.rollout_devices={config.mesh.rollout_devices} would stand idle while the others learn; set "
            "train.overlap=1 too, or mesh.rollout_devices=0"
        )
    if config.train.overlap and config.mesh.rollout == "pod":
        yield (
            "train.overlap=1 with mesh.rollout=pod: all devices share a rollout, and none is left to learn meanwhile; "
            "set train.overlap=0, or another mesh.rollout"
        )
    if config.train.overlap and learner.updates > 1:
        yield (
            f"train.overlap=1 plays the next episodes by the policy before an update, and learner.updates="
            f"{learner.updates} would change it while they are played; set one of the two back"
        )
    rounded = [name for name in ("weights", "cache") if getattr(config.rollout, name) == "int8"]
    if rounded and learner.importance == "off":
        yield (
            f"rollout.{rounded[0]}='int8' samples from a policy that is not quite the learner's, and "
            "learner.importance='off' would train as if it were; set learner.importance=truncate (or icepop)"
        )


def _batches(config: Config) -> Iterator[str]:
    rows, shards = config.learner.rows, config.mesh.data * config.mesh.fsdp
    over = f"mesh.data={config.mesh.data} x mesh.fsdp={config.mesh.fsdp} = {shards} devices"
    if config.mesh.devices and shards * config.mesh.tensor == 1:  # a CPU's, along data
        apart = config.mesh.rollout_devices
        shards, over = config.mesh.devices - apart, f"mesh.devices={config.mesh.devices}"
        over += f" less mesh.rollout_devices={apart}" * bool(apart)
    if shards >= 1 and rows >= 1 and rows % shards:
        near = max(shards, shards * math.floor(rows / shards + 0.5))
        yield (f"learner.rows={rows} does not divide over {over}; the nearest that does is {near}")


def _lengths(config: Config) -> Iterator[str]:
    rollout, row = config.rollout, config.learner.row_tokens
    if rollout.context_tokens > row:
        yield (
            f"rollout.context_tokens={rollout.context_tokens} does not fit a row of learner.row_tokens={row}; "
            f"set learner.row_tokens={rollout.context_tokens} or more"
        )
    if rollout.turn_tokens >= rollout.context_tokens:
        yield (
            f"rollout.turn_tokens={rollout.turn_tokens} leaves nothing for the question in "
            f"rollout.context_tokens={rollout.context_tokens}; lower the first or raise the second"
        )
    if rollout.lanes >= 1 and (rollout.slots % rollout.lanes or (rollout.store or 0) % rollout.lanes):
        yield (
            f"rollout.slots={rollout.slots} and rollout.store={rollout.store} do not divide over "
            f"rollout.lanes={rollout.lanes}; set rollout.lanes=1, or multiples of it"
        )
    if config.sft.steps and config.sft.max_tokens > row:
        yield f"sft.max_tokens={config.sft.max_tokens} does not fit a row of learner.row_tokens={row}; set it to {row}"


def _mesh(config: Config, devices: int | None) -> Iterator[str]:
    mesh = config.mesh
    apart, product, wanted = mesh.rollout_devices, mesh.data * mesh.fsdp * mesh.tensor, mesh.devices or devices
    axes = f"mesh.data={mesh.data} x mesh.fsdp={mesh.fsdp} x mesh.tensor={mesh.tensor} is {product} devices"
    axes += f" and mesh.rollout_devices={apart}" * bool(apart)
    are_along_data = mesh.devices and product == 1  # a CPU's
    left = (wanted or 0) - product  # for rollouts: `apart` of each host, and how many hosts there are is not known yet
    if wanted and not are_along_data and (left <= 0 or left % apart if apart else left):
        has = f"{'mesh.devices is' if mesh.devices else 'there are'} {wanted}"
        yield f"{axes}, but {has}; " + (
            "the sum must be equal, with as many on each host" if apart else "their product must be equal"
        )
    if mesh.devices and apart >= mesh.devices:
        yield f"mesh.rollout_devices={apart} of mesh.devices={mesh.devices} leave none to learn; set fewer"
    if devices and mesh.devices and mesh.devices > devices:
        yield f"mesh.devices={mesh.devices}, but there are {devices}; set it to {devices} or fewer"


def _files(config: Config, reads: Sequence[str]) -> Iterator[str]:
    """Yield an error for a missing or malformed file (words in MADE_TRACES are no files), and for a bad world."""
    for name in reads:
        text = getattr(config.data, name)
        try:
            if text in MADE_TRACES and name != "traces" and text != "world":
                yield f"data.{name} is {text!r}, which only data.traces may be; wanted 'world' or files"
            elif name == "traces" and text.startswith(SET_PREFIX):
                yield f"data.traces is {text!r}, a set of questions; wanted {NO_TRACES}, or files of traces"
            elif text not in MADE_TRACES and (name, text) != ("corpus", OWN):
                for file in filter(Path.is_file, resolve(text) if not config.data.map else ()):
                    next(rows(file), None)  # the first row shows if it is a table or other JSON
        except ValueError as error:
            yield f"data.{name}: {error}" + (f"; or {NO_TRACES}" if name == "traces" else "")
    try:
        conform("data.world", config.data.world, WorldSettings)
    except ValueError as error:
        yield str(error)
    if config.train.bucket:
        try:
            bucket.opened(config.train.bucket)
        except ValueError as error:
            yield str(error)
    if not config.model.name.strip():
        yield "model.name is empty; wanted a preset, a folder, a hub's id or a .gguf file"
    for name, text in (("model.name", config.model.name), ("train.init", config.train.init)):
        is_file = text and (name == "train.init" or text.startswith((".", "/")) or text.endswith(".gguf"))
        if text and is_file and not os.path.exists(text):  # False also for an impossible file name
            yield f"{name} is {text!r}, which is not there (from {Path.cwd()})"


def _sources(config: Config, trains: bool) -> Iterator[str]:
    """Yield an error if questions, passages and traces are of different worlds, or training questions are evaluated.

    Unless the command `trains`, questions of data.train may be asked.
    """
    data = config.data
    if data.train in MADE_TRACES:
        if data.corpus != "world" and (trains or data.eval == "world"):
            asked = "data.train and data.eval are" if data.eval == "world" else "data.train is"
            yield (
                f"{asked} 'world', but data.corpus is {data.corpus!r}: its passages say nothing "
                "of that world; set data.train and data.eval to files of questions, or leave data.corpus out"
            )
        return
    if data.corpus == OWN and not plugins.wants_corpus(config.retriever):
        yield (
            f"data.corpus is 'own', and retriever={config.retriever.name} searches passages of its own; set "
            "retriever=bm25, or another that takes a corpus"
        )
    parts = (part.name for part in plugins.with_parts(config.retriever))
    shared = [name for name in parts if plugins.constants("retriever", name).get("SHARED")]
    if data.corpus == OWN and shared:
        yield (
            f"data.corpus is 'own', and retriever={min(shared)} would read its model or its file anew for each "
            "question; set retriever=bm25"
        )
    if data.eval == "world":
        yield "data.train is files, but data.eval is still 'world'; set data.eval to the files of their questions"
    if data.traces == "world" and config.sft.steps > 0:
        yield (
            f"data.train is files, but data.traces is still 'world' and sft.steps={config.sft.steps}; set data.traces "
            "to a file of traces, to 'supporting' (made from gold titles) or 'retrieved' (of one search each), or set "
            "sft.steps=0"
        )
    trained, asked = _files_of(data.train), _files_of(data.eval)
    if data.split == "sha256" and trained and asked and not trained & asked:
        yield (
            "data.split=sha256 deals the questions of the same files to training and evaluation, and data.train and "
            "data.eval share none: of each a part would be left out; set data.split=given"
        )
    if trains and data.split == "given" and trained and trained == asked:
        yield (
            f"data.train and data.eval are the same files ({data.train}), so evaluation would ask what was trained on; "
            "use data.split=sha256 or other files"
        )


def _files_of(text: str) -> set[Path]:
    """Return the files that a setting names; none if one is missing, which `_files` reports."""
    try:
        return {file.resolve() for file in resolve(text)}
    except ValueError:
        return set()


def _secrets(value: Any, name: str = "") -> Iterator[str]:
    """Yield an error for each secret: what stands in a config stands in files, logs and reports."""
    if isinstance(value, str) and looks_secret(name):
        yield f"{name} looks like a secret; take it out of the config and set it as an environment variable"
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:  # overrides omit "settings": reward.url, not reward.settings.url
        yield from _secrets(item, ".".join(filter(None, (name, "" if key == "settings" else str(key)))))


def _plugins(config: Config, trains: bool) -> Iterator[str]:
    """Yield the errors of each plug-in's settings and constants; if there are none, their conflicts with the config.

    Unless the command `trains`, only those that play and grade an episode are looked at.
    """
    chosen = [(kind, use) for kind, use in every_plugin(config) if trains or "." not in PLUGIN_AT[kind]]
    wrong = False
    for kind, use in chosen:
        for plugin in (use, *inside(use.settings)):
            try:
                plugins.check(kind, plugin)
            except ValueError as error:
                wrong = True
                yield str(error)
    if not wrong:
        yield from _passages(config)
        if config.tools and "tools" not in plugins.signature("env", config.env.name).settings:
            named = ", ".join(tool.name for tool in config.tools)
            yield f"tools={named}, and env {config.env.name!r} calls none; set env=several_tools, or no tools (tools=)"
        computes = trains and config.sft.steps and config.data.traces == "world" and config.data.world
        if computes and computes.get("trace_arithmetic") and "calculator" not in {tool.name for tool in config.tools}:
            yield "data.world.trace_arithmetic: its expert computes; set env=several_tools tools=search,calculator"
    if trains and not wrong:
        yield from _expert(config)
        said = {kind: plugins.constants(kind, use.name) for kind, use in chosen_plugins(config).items()}
        yield from _constants(config, said)


def _passages(config: Config) -> Iterator[str]:
    """Yield an error if questions are files and passages the world's, unless the retriever has its own (a server)."""
    of_files = config.data.train not in MADE_TRACES and config.data.corpus == "world"
    if of_files and plugins.wants_corpus(config.retriever):
        yield "data.train is files, but data.corpus is still 'world'; set data.corpus to the files of their passages"


def _expert(config: Config) -> Iterator[str]:
    """Yield an error for each setting that needs `expert_turn` if the environment has none."""
    if plugins.beside("env", config.env.name, "expert_turn"):
        return
    lacks = f"env {config.env.name!r} has no function expert_turn(thought, queries, answer) in its file; write it"
    if config.sft.steps and config.data.traces in MADE_TRACES:
        yield f"{lacks}, or give traces in its dialect (data.traces=FILE), or set sft.steps=0"
    advantage = config.learner.advantage.name
    if "gold_logp_NT" in plugins.signature("advantage", advantage).data:
        yield f"{lacks}: advantage {advantage!r} asks for gold_logp_NT, which begins as an expert's answer does"


def _constants(config: Config, said: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield an error for each constant of a plug-in's file that is malformed or conflicts with the config."""
    learner, pool, most = config.learner, config.pool, said["rounds"].get("MAX_GROUP_SIZE")
    if odd := [tag for tag in said["env"].get("TAGS", ()) if not re.fullmatch(r"[^\s<>/]+", tag)]:
        yield f"env {config.env.name!r} declares TAGS {', '.join(map(repr, odd))}; wanted bare names, 'calc' for <calc>"
    if odd := [word for word in said["env"].get("VOCABULARY", ()) if word.split() != [word]]:
        yield f"env {config.env.name!r} declares VOCABULARY {', '.join(map(repr, odd))}; wanted words without blanks"
    if learner.keep_zero_variance and said["rounds"].get("MAX_ROUNDS") != 1:
        yield (
            f"learner.keep_zero_variance=true trains on every drawn group, and pool.rounds={pool.rounds.name!r} "
            "draws no fixed number of them (its file declares no MAX_ROUNDS = 1); "
            "set learner.keep_zero_variance=false or pool.rounds=once"
        )
    if most is not None and most < pool.samples:
        yield f"pool.samples={pool.samples}, but pool.rounds={pool.rounds.name!r} has MAX_GROUP_SIZE = {most}"
    if said["advantage"].get("WANTS_TURNS") and not said["reward"].get("MAX_TURNS"):
        yield (
            f"advantage {learner.advantage.name!r} wants turn rewards, and reward {config.reward.name!r} gives none "
            "(its file declares no MAX_TURNS); choose one that does, as reward=e_grpo"
        )
    if config.train.shuffle_rewards and said["reward"].get("MAX_TURNS"):
        yield (
            f"train.shuffle_rewards=true deals rewards over episodes, and reward {config.reward.name!r} gives some to "
            "turns; run the control with a reward that gives none, as reward=exact_match"
        )
    for kind, use in (("advantage", learner.advantage), ("loss", learner.loss)):
        if said[kind].get("ZERO_VARIANCE") == "gradient" and not learner.keep_zero_variance:
            yield (
                f"{kind} {use.name!r} learns from groups of equal rewards too, and none reaches it; "
                "set learner.keep_zero_variance=true"
            )
