"""The agent that a command asks: a run's, or that of a model's folder (`qr-jax export`, Hugging Face) with settings."""

import argparse
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from qr_jax.cli import elsewhere
from qr_jax.errors import UserError
from qr_jax.logging import terminal


def add_asked(command: argparse.ArgumentParser) -> None:
    """Add the arguments that name a run or model; its settings may stand anywhere after it."""
    text = "a run's folder; or a model's (as `qr-jax export` writes it), with the settings that it is asked by"
    command.add_argument("run", type=Path, metavar="RUN", help=text)
    text = "a config that says how a model without a run is asked; else search_r1 over bm25"
    command.add_argument("--config", metavar="FILE", help=text)
    command.epilog = "setting=value changes how it is asked, as in env.max_turns=3; `qr-jax settings` lists them."


def asked(arguments: argparse.Namespace, *needs: str) -> tuple[Any, Path | None]:
    """Return the checked config of the agent that `run`, `--config` and the settings name, and its run (None: the
    config's own model, or one behind `--endpoint`, whose config `run` then names). ValueError says what is missing.

    `needs` are the data settings that the command reads ("eval", "corpus"), which a model without a config must be
    given.
    """
    from qr_jax import config as configs
    from qr_jax import trust
    from qr_jax.cli.overrides import override, pairs
    from qr_jax.data.readers import LOOKED_FOR
    from qr_jax.settings import checks

    run = arguments.run if configs.is_run(arguments.run) else None
    if getattr(arguments, "step", None) is not None and not run:
        raise UserError(f"--step names a run's checkpoint, and {arguments.run} is no run of ours")
    endpoint, retriever = (getattr(arguments, name, None) for name in ("endpoint", "retriever"))
    config, theirs = _config(arguments, run, endpoint)
    where, another = run or arguments.config or arguments.run, retriever if retriever != config.retriever.name else None

    def check_theirs(asked_for: Any) -> None:
        """Check what is asked for by the config.json and the command's words, but for the model that these name."""
        if theirs:
            used = asked_for if run else replace(asked_for, model=configs.Model())
            trust.check(theirs, where, trusted=arguments.trust, used=used)

    # Before an override's type is read from what the config names; the retriever of --retriever has its settings then.
    check_theirs(replace(config, retriever=configs.use("none")) if another else config)
    if another:
        config = replace(config, retriever=configs.use(another))
    for name, _ in pairs(arguments.overrides):
        if name.split(".")[-1] in elsewhere.BATCHES:
            raise UserError(f"unknown setting {name}: it is rollout.slots here, how many sequences are written at once")
    config = override(config, arguments.overrides)
    if arguments.overrides or another:
        check_theirs(config)
    if endpoint:
        config = replace(config, model=configs.Model())  # which is not loaded, and need not be there
    if not (run or endpoint or arguments.config):
        _check_given(config, arguments, needs)
        if (arguments.run / "agent.json").is_file():
            usual = f"env.max_turns={config.env.settings['max_turns']} rollout.search_k={config.rollout.search_k}"
            terminal.say(f"asked with the usual settings ({config.env.name}, {usual}): agent.json has those of the run")
    try:
        checks.check(config, reads=needs, trains=False)
    except ValueError as error:
        meant = (
            "a run's files are meant from the folder in which it was started: go there, or name them (data.eval=FILE)"
        )
        raise UserError(f"{error}\n{meant}" if run and LOOKED_FOR in str(error) else str(error)) from error
    if run:
        _tell_changed_code(run, config)
    elif not endpoint:
        _tell_other_env(arguments.run, config.env.name)
    return config, None if endpoint else run


def _config(arguments: argparse.Namespace, run: Path | None, endpoint: str | None) -> tuple[Any, Any]:
    """Return the config that a run, `--config` or, of a model without either, the usual settings give; and what the
    config.json says that it was read from, which may be a stranger's (None: it was read from none).
    """
    from qr_jax import config as configs
    from qr_jax.lab import suite

    if arguments.config and (run or endpoint):
        alone = "is a run and is asked by its own config" if run else "is the config of an endpoint's model"
        raise UserError(f"{arguments.run} {alone}; leave --config out, and change it with setting=value")
    if run:
        return (config := configs.load(run / "config.json")), config
    if not endpoint:
        _refuse_no_model(arguments.run)
    if path := str(arguments.run) if endpoint else arguments.config:
        config = configs.load(path)
        theirs = None if configs.parts(path)[0].suffix == ".py" else config
        return config if endpoint else suite.with_model(config, str(arguments.run)), theirs
    question = getattr(arguments, "question", "")
    if os.path.isdir(question):
        raise UserError(f"{question} is a folder, and stands in the question's place: it comes first")
    return _of_model(arguments.run), None


def _tell_changed_code(run: Path, config: Any) -> None:
    """Say which plug-ins of the user's have other code than when the run was trained."""
    from qr_jax.run import json_files, plugin_record

    with suppress(UserError):  # no record, a damaged one, or a plug-in that is not needed here and not there
        kept = json_files.read_json(run / plugin_record.FILE)
        for changed in plugin_record.changed_code(kept, plugin_record.record(config, {})):
            terminal.say(f"the code of {changed} changed since {run} was trained; it is asked by the new code")


def _tell_other_env(folder: Path, env: str) -> None:
    """Say that an exported model was trained in another environment than it is asked in."""
    from qr_jax.run import json_files

    theirs, said = None, folder / "agent.json"
    with suppress(UserError):  # not there, or damaged
        theirs = json_files.read_json(said).get("environment")
    name = theirs.get("name") if isinstance(theirs, dict) else None
    if isinstance(name, str) and name != env:
        terminal.say(f"{said} says env={name}, and it is asked in env={env}: in another dialect it may score near 0")


def _refuse_no_model(path: Path) -> None:
    """Raise ValueError for a path that is no model's name: a missing run's folder, a config or another file."""
    from qr_jax.run import run_files

    is_named = path.parts[:1] == ("runs",) or path.suffix == ".py" or path.is_file()
    if is_named and path.suffix != ".gguf":
        run_files.check_there(path)


def _of_model(folder: Path) -> Any:
    from qr_jax import config as configs
    from qr_jax.lab import suite
    from qr_jax.models import hf, peft_files

    if folder.is_dir() and not (folder / "config.json").is_file() and not peft_files.is_adapter(folder):
        raise UserError(f"{folder} is no run and no model: it has no config.json; `qr-jax runs` lists the runs")
    if not folder.exists() and configs.is_run(run := Path("runs") / folder):
        raise UserError(f"there is no folder {folder}; did you mean {run}?")
    return suite.default_config(str(folder), hf.shape(hf.resolve(str(folder))).context_tokens)


def _check_given(config: Any, arguments: argparse.Namespace, needs: tuple[str, ...]) -> None:
    """Require the questions and passages that a model without a config lacks; "world" counts only if typed."""
    from qr_jax import plugins

    typed = {word.partition("=")[0] for word in arguments.overrides}
    wanted = [name for name in needs if name != "corpus" or plugins.wants_corpus(config.retriever)]
    missing = [f"data.{name}=FILE" for name in wanted if f"data.{name}" not in typed]
    if missing:
        raise UserError(
            f"{arguments.run} is a model without a run, and has neither questions nor passages: give "
            f"{' and '.join(missing)} (or retriever=NAME with its settings; env=... where it was not trained in "
            "search_r1), or --config FILE, the config it was trained by"
        )
