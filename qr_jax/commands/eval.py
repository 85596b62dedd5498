"""The commands that say how good answers are: of a file, and of an agent over its own questions or a suite."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from qr_jax import terminal
from qr_jax.commands.options import add_json, add_trust, admit, load, open_run, show, start, whole

# Options of `eval` that only one of its two ways takes: a run over its own questions, or anything over a suite.
OWN_ONLY = ("questions", "world_seed")
SUITE_ONLY = ("limit", "split", "out", "config", "settings", "judge", "judge_model")


def add(command: Any) -> None:
    """Their parsers, as `cli.make_parser` adds those of the other commands."""
    score = command("score", _score, "EM, F1 and cover match of predictions in a file")
    score.add_argument("file", metavar="FILE", help="JSONL (or .gz) rows of id, prediction and answers")
    score.add_argument("--rows", action="store_true", help="each row's scores too")
    made = command("eval", _eval, "answer evaluation questions, the run's own or a suite's, and score the answers")
    add_json(score, made)
    text = "the run's folder; with --suite also a model's: a Hugging Face folder"
    made.add_argument("run", type=Path, metavar="RUN", help=text)
    text = "qa7: the seven sets in QR_JAX_DATA; without: the run's questions"
    made.add_argument("--suite", metavar="NAME", help=text)
    made.add_argument("--retriever", metavar="NAME", help="another retriever than the run's; none: no passages")
    made.add_argument("--samples", type=whole(1), metavar="N", help="sampled answers a question, for Pass@1 and pass@k")
    made.add_argument("--step", type=whole(0), metavar="N", help="the checkpoint; by default the last")
    made.add_argument("--questions", type=whole(1), metavar="N", help="how many of the run's questions")
    made.add_argument("--world-seed", type=int, metavar="N", help="a synthetic world of other facts")
    add = made.add_argument_group("with --suite").add_argument
    add("--limit", type=whole(1), metavar="N", help="the first N questions of each set by their id's hash")
    add("--split", choices=("eval", "all"), help="eval (default): without those that training may use")
    add("--out", type=Path, metavar="FOLDER", help="for answers and score; else in the run, or runs/eval")
    add("--config", metavar="FILE", help="how a model without a run is asked; else search_r1 over bm25")
    add("--set", action="append", dest="settings", metavar="setting=value", help="over the config; repeat")
    text = "an OpenAI-compatible endpoint; its key: QR_JAX_JUDGE_KEY (OpenAI's own: OPENAI_API_KEY too)"
    add("--judge", metavar="URL", help=text)
    add("--judge-model", metavar="NAME", help="the model that judges there")
    add_trust(made)


def _score(arguments: argparse.Namespace) -> int:
    from qr_jax.evaluation import score

    found = score.score(arguments.file)
    shown = {name: value for name, value in found.items() if name != "rows" or arguments.rows}
    return show(shown, arguments.json, lambda _: score.format_table(found, rows=arguments.rows))


def _eval(arguments: argparse.Namespace) -> int:
    wrong = [name for name in (OWN_ONLY if arguments.suite else SUITE_ONLY) if getattr(arguments, name) is not None]
    if wrong:
        options = ", ".join("--set" if name == "settings" else f"--{name.replace('_', '-')}" for name in wrong)
        raise ValueError(f"{options} cannot be given {'with' if arguments.suite else 'without'} --suite")
    if arguments.suite:
        return _suite(arguments)
    allow_plugins = open_run(arguments, retriever=arguments.retriever)
    from qr_jax import evaluate

    names = ("retriever", "world_seed", "samples", "questions", "step")
    chosen = {name: getattr(arguments, name) for name in names}
    found = evaluate.evaluate(arguments.run, **chosen, allow_plugins=allow_plugins)
    show(evaluate.without_details(found), arguments.json, evaluate.format_table)
    return 1 if found["incomplete"] else 0


def _suite(arguments: argparse.Namespace) -> int:
    """1 where the judge that was asked for could not be reported."""
    from qr_jax.evaluation import suite

    suite.sets(arguments.suite)
    if (arguments.judge is None) != (arguments.judge_model is None):
        raise ValueError("--judge URL and --judge-model NAME go together; only one was given")
    config, is_run, allow_plugins = _config(arguments)
    start(config)
    from qr_jax.evaluation import answering

    found = answering.answer(
        config, name=arguments.suite, part=arguments.split or "eval",
        place=arguments.run / "eval" if is_run else Path("runs") / "eval" / arguments.run.name,
        run=arguments.run if is_run else None,
        judge=(arguments.judge, arguments.judge_model) if arguments.judge else None,
        allow_plugins=allow_plugins, say=terminal.say,
        **{name: getattr(arguments, name) for name in ("out", "step", "limit", "samples")},
    )  # fmt: skip
    show(found, arguments.json, suite.format_table)
    return 1 if "refused" in (found.get("judge") or {}) else 0


def _config(arguments: argparse.Namespace) -> tuple[Any, bool, tuple[str, ...] | None]:
    """The checked config by which the suite is asked, whether it is a run's own (else the model is what was named), and
    the packages whose plug-ins it may use."""
    from qr_jax import checks
    from qr_jax import config as configs
    from qr_jax.evaluation import suite
    from qr_jax.overrides import override

    file = arguments.run / "config.json"
    is_run = file.is_file() and "rollout" in json.loads(file.read_text(encoding="utf-8"))
    if is_run and arguments.config:
        raise ValueError(f"{arguments.run} is a run and is asked by its own config; change it with --set setting=value")
    allow_plugins = None
    if is_run:
        config = configs.load(file)
        allow_plugins = admit(arguments, config, arguments.run, arguments.retriever)
    elif arguments.config:
        config, allow_plugins = load(arguments, arguments.config, ())
        config = suite.with_model(config, str(arguments.run))
    else:
        from qr_jax.models import hf

        config = suite.default_config(str(arguments.run), hf.shape(hf.resolve(str(arguments.run))).context_tokens)
    if arguments.step is not None and not is_run:
        raise ValueError(f"--step names a run's checkpoint, and {arguments.run} is no run of ours")
    if arguments.retriever not in (None, config.retriever.name):
        config = replace(config, retriever=configs.use(arguments.retriever))
    config = override(config, arguments.settings or [])
    checks.check(config, allow_plugins=allow_plugins)
    return config, is_run, allow_plugins
