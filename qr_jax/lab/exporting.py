"""A run's model as a folder that transformers and vLLM load, and in it all that others need to play its episodes."""

import importlib.metadata
import inspect
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from qr_jax import assemble, dialect, plugins, trust
from qr_jax.config import Config
from qr_jax.errors import UserError
from qr_jax.evaluation import manifest, subject
from qr_jax.lab import hf_folder, model_card, run_folders
from qr_jax.logging import secrecy, terminal
from qr_jax.models import families, hf, lora, peft_files, peft_folder
from qr_jax.parallel import host_local
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Say
from qr_jax.rollout.chat import Chat, Tools
from qr_jax.run import policy, runs
from qr_jax.settings.settings import Use, plain

AGENT, CARD = "agent.json", "README.md"
LIMITS = ("turn_tokens", "context_tokens", "observation_tokens", "search_k", "passage_chars")  # of config.Rollout
SAMPLING = ("temperature", "top_p", "top_k")  # of config.Rollout
QUESTION = "{question}"
OF_THIS_MACHINE = (*manifest.PLACES, trust.URL, trust.STARTED, trust.HOSTS, "program")  # settings, by their names
MERGED_WHOLE = 0.95  # of the adapters' products that is left in a merged export; less is said


def export(
    run: str | Path,
    folder: str | Path,
    *,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
) -> Path:
    """Write a run's last checkpoint, agent.json and a model card. ValueError where the folder holds anything."""
    run_folders.check_empty(Path(folder))
    settings = runs.load(run)
    mesh = meshes.make_mesh(settings.mesh)
    agent = assemble.agent(assemble.for_one(settings))
    _, step = runs.last_checkpoint(run)
    params = host_local.on_one_device(subject.weights(run, agent, mesh, step), mesh)
    kept = lora.share_kept(params) if dtype == "bfloat16" else None
    if kept is not None and kept < MERGED_WHOLE:
        terminal.say(
            f"merged in bfloat16 {kept:.0%} of what the adapters learnt is left, the rest is rounded away; "
            "--dtype float32 keeps it, and so does --peft FOLDER in place of --hf"
        )
    params = lora.merged(params)
    trained = model_card.trained(run, step)
    return write(folder, settings, agent, params, trained, dtype=dtype)


def export_adapter(run: str | Path, folder: str | Path) -> Path:
    """Write a run's last adapters as PEFT's folder, agent.json and a card. ValueError for a run that trained the whole
    model.
    """
    folder = Path(folder)
    run_folders.check_empty(folder)
    settings = runs.load(run)
    mesh = meshes.make_mesh(settings.mesh)
    agent = assemble.agent(assemble.for_one(settings))
    _, step = runs.last_checkpoint(run)
    params, base_sha256 = policy.adapters(run, agent, mesh, step)
    if base_sha256 is None:
        raise UserError(f"{run} trained the whole model, not adapters; `qr-jax export {run} --hf FOLDER` writes it")
    model, adapters = settings.model, host_local.on_one_device(params, mesh)
    init, whole = settings.train.init, settings.sft.whole and settings.sft.steps
    of_hub = peft_files.is_adapter(init) if init else not whole  # else the base is what another stage trained
    base = model_card.base_model(settings) if of_hub else None
    has_vision = of_hub and model.name not in families.PRESETS and hf.has_vision(hf.resolve(model.name))
    peft_folder.save(
        folder, agent.cfg, model.lora, adapters, base=base, base_sha256=base_sha256, compute=model.compute,
        has_vision=has_vision,
    )  # fmt: skip
    trained = model_card.trained(run, step)
    _write_texts(folder, settings, describe(settings, agent.engine.chat), trained, dtype="float32")
    return folder


def write(
    folder: str | Path,
    settings: Config,
    agent: assemble.Agent,
    params: Any,
    trained: model_card.Trained | None,
    *,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
) -> Path:
    """Export parameters that lie on one device. `trained`: what the card says of the run; None: there was none."""
    folder = Path(folder)
    run_folders.check_empty(folder)
    described = describe(settings, agent.engine.chat)
    hf_folder.save(folder, agent.cfg, params, agent.tokenizer, dtype=dtype)
    _write_texts(folder, settings, described, trained, dtype=dtype)
    return folder


def _write_texts(
    folder: Path, settings: Config, described: Mapping[str, Any], trained: model_card.Trained | None, *, dtype: str
) -> None:
    """Write agent.json and the card beside the weights."""
    text = json.dumps(described, indent=2, ensure_ascii=False) + "\n"
    (folder / AGENT).write_text(secrecy.redact(text), encoding="utf-8")
    card = model_card.write(settings, described, trained, folder, dtype=dtype)
    (folder / CARD).write_text(secrecy.redact(card), encoding="utf-8")


def describe(settings: Config, chat: Chat) -> dict[str, Any]:
    """Return agent.json's content: prompt, stop strings, template's glue, limits, sampling, environment, retriever.

    No path of this machine and no secret is in it. `reading` has regular expressions: of a tag, of the act that
    decides a turn (null where the environment declares none), and of a turn up to the stop string that ends it. If the
    template begins a turn with `<think>`, they read the turn with that tag. With `tool_json` a tool's message is a
    JSON string. `prompt` is null if the environment cannot be called (its code is missing, which is printed) or does
    more with a question than insert it.
    """
    opening = _opening(settings)
    tools = opening.tools if opening else ()
    template = chat.tokenizer.template is not None
    declared = plugins.constants("env", settings.env.name) if opening else {}
    further = tuple(declared.get("TAGS", ()))
    acts = {act: act == "answer" for act in declared.get("ACTS", ())}  # an answer may be empty
    stop = dialect.turn_ends(opening.stop, further) if opening else ()
    environment = _bound("env", settings.env)
    if settings.tools and opening:
        environment["settings"]["tools"] = assemble.tool_schemas(settings)
    reading = {
        "tag": tag_pattern(further), "act": act_pattern(acts, further) if acts else None,
        "end": end_pattern(stop) if stop else None,
    }  # fmt: skip
    return plain({
        "format": 1, "made_by": f"qr_jax {importlib.metadata.version('qr_jax')}",
        "environment": environment, "run_tools": [_bound("tool", tool) for tool in settings.tools], "reading": reading,
        "prompt": opening.text if opening else None,
        "stop": stop, "tools": tools,
        "chat": {
            "template": template, "end_ids": chat.tokenizer.eos_ids, "tool_json": chat.tool_json, **glue(chat, tools),
        },
        "limits": {name: getattr(settings.rollout, name) for name in LIMITS},
        "sampling": {
            "training": {name: getattr(settings.rollout, name) for name in SAMPLING}, "evaluation": {"greedy": True},
        },
        "retriever": _bound("retriever", settings.retriever),
    })  # fmt: skip


def tag_pattern(further: tuple[str, ...] = ()) -> str:
    """Match a tag as `dialect.any_tag` does; group 1 is what is inside."""
    return f"<(/?(?:{dialect.either(further)}))>"


def end_pattern(stop: Sequence[str]) -> str:
    """Match a turn up to the first stop string outside its thoughts."""
    return rf"(?s)(?:{dialect.WHOLE_THOUGHT}|(?!<think>).)*?(?:{'|'.join(map(re.escape, stop))})"


def act_pattern(acts: Mapping[str, bool], further: tuple[str, ...] = ()) -> str:
    """Match the first of the acts that `dialect.read` finds, from a turn's beginning.

    `acts` says of each act whether it may be empty. Groups 1 and 2 are the act and its text. There is no match where
    `read` finds no act, or the first one is empty and may not be.
    """
    tag = f"</?(?:{dialect.either(further)})>"
    inside = f"(?:(?!{tag}).)*"
    opened = "(?:(?!</?think>).)*</think>"  # a thought that the chat template began
    block = dialect.whole_block(further)
    spoilt = f"(?:{dialect.WHOLE_THOUGHT}|{block}|(?!<think>|{block}).)*?(?:{dialect.forbidden_tag(further).pattern})"
    others = [name for name in (*dialect.NAMES, *further) if name != "think" and name not in acts]
    passed = [dialect.WHOLE_THOUGHT, f"(?!{tag}).", *(f"<{name}>{inside}</{name}>" for name in others)]
    names = [name if may_be_empty else rf"{name}(?!>\s*</{name}>)" for name, may_be_empty in acts.items()]
    acted = rf"(?:{'|'.join(passed)})*?<({'|'.join(names)})>({inside})</\1>"
    return f"(?s)(?:{opened}|(?!{opened}))(?!{spoilt}){acted}"


def glue(chat: Chat, tools: Tools = ()) -> dict[str, tuple[str, ...]]:
    """Return the template's texts around what is said; all are empty without a template.

    `prompt`: before it and after it. `user` and `tool`, messages after a turn of the model: what closes the turn
    where the model has not done so, what stands before the message, and what after it.
    """
    around: dict[str, tuple[str, ...]] = {"prompt": tuple(chat.glue_prompt(tools))}
    ends = [chat.tokenizer.decode([end]) for end in chat.tokenizer.eos_ids]
    for role in ("user", "tool"):
        text, opens = chat.between.get(role, ("", ""))
        first = min((at for end in ends if (at := text.find(end) + len(end)) >= len(end)), default=0)
        around[role] = text[:first], text[first:], opens
    return around


def _opening(settings: Config) -> Say | None:
    """Return the environment's first move with {question} in the question's place; None, saying why, if it has none."""
    try:
        env = assemble.environment(settings)
        opening, probe = (env(query, []) for query in (replace(manifest.PROBE, question=QUESTION), manifest.PROBE))
    except (ValueError, ImportError) as error:
        terminal.say(f"{AGENT} has no prompt: {error}")
        return None
    both = isinstance(opening, Say) and isinstance(probe, Say)
    if both and opening.text.replace(QUESTION, manifest.PROBE.question) == probe.text:
        return opening
    terminal.say(f"{AGENT} has no prompt: env {settings.env.name!r} does more with a question than to put it in")
    return None


def _bound(kind: str, use: Use) -> dict[str, Any]:
    """Return a plug-in's name and settings with their defaults, less places, addresses and names of secrets."""
    try:
        parameters = inspect.signature(plugins.find(kind, use.name)).parameters.values()
    except (ValueError, ImportError):  # its code is missing: what was set is all that is known
        parameters = ()
    takes = [part for part in parameters if part.kind is part.KEYWORD_ONLY and part.default is not part.empty]
    settings = {part.name: part.default for part in takes} | dict(use.settings)
    public = {name: value for name, value in settings.items() if not _private(name, value)}
    return {"name": use.name, "settings": {name: _parts(kind, value) for name, value in public.items()}}


def _parts(kind: str, value: Any) -> Any:
    """Convert a setting's value, plug-ins inside it by `_bound`."""
    if isinstance(value, Use):
        return _bound(kind, value)
    if isinstance(value, Mapping) and set(value) == {"name", "settings"}:
        return _bound(kind, Use(value["name"], value["settings"]))
    return [_parts(kind, part) for part in value] if isinstance(value, list | tuple) else value


def _private(name: str, value: Any) -> bool:
    """Return True if a setting belongs to this machine or names a secret: by its name, or as a path or an address."""
    if name in OF_THIS_MACHINE or name.endswith(trust.SECRET) or secrecy.looks_secret(name):
        return True
    if isinstance(value, list | tuple):
        return any(_private(name, part) for part in value)
    plainly = isinstance(value, str) and not any(sign.isspace() or sign in "<>{}" for sign in value)
    away = "://" in str(value) or str(value).startswith(("/", "~", "./", "../"))
    return plainly and (away or ("/" in value and os.path.exists(value)))
