"""Commands that score answers: those in a file, and those of an agent to its own questions or a suite's."""

import argparse
import re
from pathlib import Path
from typing import Any

from qr_jax.cli.commands import options
from qr_jax.cli.commands.asked import add_asked, asked
from qr_jax.cli.commands.options import add_json, add_trust, show, start, whole
from qr_jax.errors import UNSOUND
from qr_jax.logging import terminal

# Options of `eval` that only one of its two ways takes: a run over its own questions, or anything over a suite.
OWN_ONLY = ("questions", "world_seed")
JUDGING = ("leave_out", "tries", "temperature", "top_p", "cut_tokens")  # settings of Judge, here after judge_
ENDPOINT_ONLY = (
    "tool_calls",
    "key_env",
    "at_once",
    "timeout_s",
    "deadline_s",
    "leave_out",
)  # of endpoint_player.Asking
SUITE_ONLY = ("limit", "split", "out", "judge", "judge_model", *(f"judge_{name}" for name in JUDGING), "dry_run")


def add(command: Any) -> None:
    """Add these commands' parsers, as `cli.make_parser` adds those of the other commands."""
    score = command("score", _score, "score predictions in a file: exact match, F1 and cover match")
    score.add_argument("file", metavar="FILE", help="JSONL (or .gz) rows of id, prediction and answers")
    score.add_argument("--rows", action="store_true", help="each row's scores too")
    text = "answer evaluation questions, the run's own or a suite's, and score the answers"
    usage = "qr-jax eval RUN [setting=value ...] [options]"
    made = command("eval", _eval, text, usage=usage)
    made.set_defaults(takes_settings=True)
    add_json(score, made)
    add_asked(made)
    text = "qa7, paper or web, of QR_JAX_DATA; without: the run's questions"
    made.add_argument("--suite", metavar="NAME", help=text)
    made.add_argument("--retriever", metavar="NAME", help="another retriever than the run's; none: no passages")
    made.add_argument(
        "--samples", type=whole(1), metavar="N", help="sampled answers a question, for Pass@1 (with --suite pass@k too)"
    )
    made.add_argument("--step", type=whole(0), metavar="N", help="the checkpoint; by default the last")
    made.add_argument("--questions", type=whole(1), metavar="N", help="how many of the run's questions")
    made.add_argument("--world-seed", type=whole(0), metavar="N", help="ask about the synthetic world of this seed")
    add = made.add_argument_group("with --suite").add_argument
    add("--limit", type=whole(1), metavar="N", help="the first N questions of each set by their id's hash")
    add("--split", choices=("eval", "all"), help="eval (default of qa7): without those that training may use")
    add("--out", type=Path, metavar="FOLDER", help="for answers and score; else in the run, or runs/eval")
    text = "an OpenAI-compatible endpoint; its key: QR_JAX_JUDGE_KEY (OpenAI's own: OPENAI_API_KEY too)"
    add("--judge", metavar="URL", help=text)
    add("--judge-model", metavar="NAME", help="the model that judges there")
    text = "max_tokens, max_completion_tokens, temperature or top_p, where the judge refuses it; repeat it for more"
    add("--judge-leave-out", action="append", metavar="NAME", help=text)
    text = "ask it N times about each answer (1); where it disagrees with itself there is no verdict"
    add("--judge-tries", type=whole(1), metavar="N", help=text)
    add("--judge-temperature", type=float, metavar="T", help="of its replies (0)")
    add("--judge-top-p", type=float, metavar="P", help="of its replies (1, which is not sent)")
    add("--judge-cut-tokens", type=whole(1), metavar="N", help="tokens of an answer that the judge sees (256)")
    text = "say how many questions there are and what the judge would cost, and stop"
    add("--dry-run", action="store_const", const=True, help=text)
    _add_endpoint(made.add_argument_group("of a model behind an endpoint, played by RUN's config").add_argument)
    add_trust(made)


def _add_endpoint(add: Any) -> None:
    """Add the options of an endpoint's model; RUN is then a config or a run, by which it is asked."""
    add("--endpoint", metavar="URL", help="an OpenAI-compatible endpoint (vLLM, SGLang, a service), as far as /v1")
    add("--model", metavar="NAME", help="the model there")
    text = "native: by the endpoint's own tool calling; text: in the dialect. By default native where there are tools"
    add("--tool-calls", choices=("native", "text"), help=text)
    add("--key-env", metavar="NAME", help="the environment variable that has its key (QR_JAX_ENDPOINT_KEY)")
    text = (
        "a field of requests to leave out where the endpoint fails on it, as stop, seed or temperature; repeat for more"
    )
    add("--leave-out", action="append", metavar="NAME", help=text)
    add("--at-once", type=whole(1), metavar="N", help="requests under way (8)")
    seconds = options.number(0, 1e9, "seconds, more than 0 and less than 1e9")
    add("--timeout-s", type=seconds, metavar="S", help="of one try of a request (120)")
    text = "of all tries of a request (600); then it is a fault, and no zero"
    add("--deadline-s", type=seconds, metavar="S", help=text)


def _score(arguments: argparse.Namespace) -> int:
    from qr_jax.lab import score

    found = score.score(arguments.file)
    shown = {name: value for name, value in found.items() if name != "rows" or arguments.rows}
    return show(shown, arguments.json, lambda _: score.format_table(found, rows=arguments.rows))


def _eval(arguments: argparse.Namespace) -> int:
    if arguments.suite:
        options.refuse_given(arguments, OWN_ONLY, "with --suite")
    else:
        options.refuse_given(arguments, SUITE_ONLY, "without --suite")
    options.check_together(arguments, "endpoint", "model")
    if arguments.endpoint:
        options.refuse_given(arguments, ("step",), "with --endpoint: its model has no checkpoints")
    else:
        options.refuse_given(arguments, ENDPOINT_ONLY, "without --endpoint URL and --model NAME")
    if arguments.suite:
        return _suite(arguments)
    config, _ = asked(arguments, "eval", "corpus")
    opened = _opened(arguments, config)
    from qr_jax import evaluate
    from qr_jax.evaluation.scores import is_incomplete
    from qr_jax.lab.evaluation_table import format_table

    chosen = {name: getattr(arguments, name) for name in ("world_seed", "samples", "questions", "step")}
    found = evaluate.evaluate(_name(arguments), config, opened=opened, **chosen)
    _tell_requests(opened)
    show(evaluate.without_details(found), arguments.json, format_table)
    if found["questions"] < (arguments.questions or 0):
        terminal.say(f"--questions {arguments.questions}: there are {found['questions']}, and all were asked")
    return UNSOUND if is_incomplete(found) else 0


def _suite(arguments: argparse.Namespace) -> int:
    """Answer and score a suite; return UNSOUND if a set is incomplete, or the judge asked for could not be reported."""
    from qr_jax import plugins
    from qr_jax.lab import run_folders, suite

    suite.sets(arguments.suite)
    options.check_together(arguments, "judge", "judge_model")
    judging = {name: value for name in JUDGING if (value := getattr(arguments, f"judge_{name}")) is not None}
    if not arguments.judge:
        options.refuse_given(arguments, (f"judge_{name}" for name in JUDGING), "without --judge URL")
    config, run = asked(arguments)
    place = arguments.run / "eval" if run else Path("runs") / "eval" / _name(arguments).name
    run_folders.check_own(arguments.out or place, "--out", trusted=arguments.trust)
    if arguments.judge:
        from qr_jax.lab.judge import Judge, verdicts_of

        Judge(arguments.judge, arguments.judge_model, verdicts_of(arguments.out or place / "any"), **judging)
    suite.files(arguments.suite, searched=plugins.wants_corpus(config.retriever))
    part = arguments.split or suite.part(arguments.suite)
    if arguments.judge or arguments.dry_run:
        found = _cost(arguments, config, part)
        if arguments.dry_run:
            return show(found, arguments.json, lambda _: "nothing was asked")
    opened = _opened(arguments, config)
    from qr_jax.evaluation.scores import is_incomplete
    from qr_jax.lab import answering

    found = answering.answer(
        config, name=arguments.suite, part=part, place=place, run=run,
        judge=(arguments.judge, arguments.judge_model) if arguments.judge else None,
        say=terminal.say,
        **{name: getattr(arguments, name) for name in ("out", "step", "limit", "samples")},
        judging=judging, opened=opened,
    )  # fmt: skip
    _tell_requests(opened)
    show(found, arguments.json, suite.format_table)
    refused = "refused" in (found.get("judge") or {})
    return UNSOUND if refused or any(map(is_incomplete, found["sets"].values())) else 0


def _cost(arguments: argparse.Namespace, config: Any, part: Any) -> dict[str, Any]:
    """Print, and return, the number of questions and the estimated cost of judging, before the first request."""
    from qr_jax import plugins
    from qr_jax.lab import judge, suite

    samples = config.evaluation.samples if arguments.samples is None else arguments.samples
    how = {"part": part, "limit": arguments.limit, "searched": plugins.wants_corpus(config.retriever)}
    asked, missing = suite.questions(config, arguments.suite, **how)
    found = judge.cost(asked, samples, arguments.judge_tries or 1)
    counts = {name: len(queries) for name, queries in asked.items()}
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    absent = f"; missing: {', '.join(missing)}" if missing else ""
    terminal.say(f"{sum(counts.values()):,} questions ({listed}), {1 + samples} answers each{absent}")
    terminal.say(judge.format_cost(found))
    whole = {}
    if arguments.suite == "paper":
        whole = {"table": {name: judge.TABLE_ROWS * value for name, value in found.items()}}
        such = f"{judge.TABLE_ROWS} such models, as many as the paper's table has"
        terminal.say(judge.format_cost(whole["table"], f"{such} (its own are asked 3,197 questions, 8 samples each)"))
    return {"questions": counts, "missing": missing, "samples": samples, "judge": found} | whole


def _name(arguments: argparse.Namespace) -> Path:
    """Return the run or model's folder; of an endpoint's model a name for its folder in runs/eval."""
    return (
        Path(re.sub(r"[^\w.-]+", "_", arguments.model).strip("._") or "model") if arguments.endpoint else arguments.run
    )


def _opened(arguments: argparse.Namespace, settings: Any) -> Any:
    """Return the model behind the endpoint, opened. Without an endpoint, start a device and return None: the model is
    then the run's, and the evaluation opens it.
    """
    if not arguments.endpoint:
        start(settings)
        return None
    from qr_jax import assemble
    from qr_jax.lab.endpoint_player import Asking, open_player

    how = {name: value for name in ENDPOINT_ONLY if (value := getattr(arguments, name)) is not None}
    asking = Asking(arguments.endpoint, arguments.model, **how)
    env = assemble.environment(settings)
    return open_player(settings, env, asking, Path("runs") / "eval" / _name(arguments))


def _tell_requests(opened: Any) -> None:
    if opened:
        count = opened[0].engine.statistics
        kept = f"{count['asked']:,} requests were answered, {count['kept']:,} replies were kept from before"
        terminal.say(f"{kept}; {count['tool_calls']:,} native tool calls")
