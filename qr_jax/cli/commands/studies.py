"""Commands that study which queries are drawn: simulate rules, probe a run, and write its report."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from qr_jax.cli.commands.options import (
    add_json,
    add_run,
    add_trust,
    check_out,
    is_own,
    load,
    number,
    open_run,
    reading,
    refuse_given,
    show,
    whole,
)
from qr_jax.errors import FAILED, UserError
from qr_jax.logging import terminal

OF_A_STUDY = ("rules", "seeds", "jobs", "every", "questions")  # options of compare that say which runs are made


def add(command: Any) -> None:
    """Add these commands' parsers, as `cli.make_parser` adds those of the other commands."""
    oracle = command("oracle", _oracle, "run recycling rules on queries of known pass rates, without a model")
    text = (
        "beta:A,B; uniform; improving:, drifting: or flipping:A,B[,SHIFT of the log-odds]; "
        "memorising:A,B,SHIFT,JUMP when a query is trained on; paper:qwen3_1p7b or paper:qwen3_4b; or a run's folder"
    )
    oracle.add_argument("--rates", default="beta:0.35,0.35", metavar="RATES", help=text)
    text = "one, several with commas, or all; dapo is refill with bounded_dapo"
    oracle.add_argument("--rule", default="recycle", metavar="NAMES", help=text)
    oracle.add_argument("--queries", type=whole(1), metavar="N", help="in the pool (10000, or the run's)")
    oracle.add_argument("--accept", type=whole(1), default=32, metavar="N", help="groups a step trains on at most")
    oracle.add_argument("--samples", type=whole(2), default=4, metavar="N", help="episodes a query")
    text = "queries drawn for each accepted one (2; with --rates paper: each rule's own, 1 for grpo)"
    oracle.add_argument("--oversample", type=whole(1), metavar="N", help=text)
    oracle.add_argument("--rollouts", type=whole(1), default=84_480, metavar="N", help="the budget")
    oracle.add_argument("--seeds", type=whole(1), default=5, metavar="N", help="simulations a rule (5)")
    text = "sample flipped queries again by the checkpoints of both draws and by the last"
    probe = command("probe", _probe, text)
    text = "of each kind: hard, easy, never drawn"
    probe.add_argument("--queries", type=whole(1), default=64, metavar="N", help=text)
    probe.add_argument("--samples", type=whole(2), default=16, metavar="N", help="episodes a query and policy")
    probe.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of the choice and of the sampling")
    add_json(oracle, probe)
    _add_compare(command)
    text = "write the report of a run: one HTML file that needs nothing else"
    report = command("report", _report, text)
    text = "where it goes; by default report.html in the run"
    report.add_argument("--out", dest="file", type=Path, metavar="FILE", help=text)
    text = "draw the figures of the paper too, from the run's steps, with the paper's curves behind them"
    report.add_argument("--beside", choices=["paper"], help=text)
    add_run(probe)
    add_run(report)


def _add_compare(command: Any) -> None:
    usage = (
        "qr-jax compare CONFIG [setting=value ...] --rules NAMES --budget UNIT=N --folder FOLDER [options]\n"
        "       qr-jax compare RUN RUN ... [options]\n"
        "       qr-jax compare SUITE SUITE ... [--json]"
    )
    text = "train rules x seeds at one budget and compare them; or compare runs, or suites"
    made = command("compare", _compare, text, usage)
    made.set_defaults(takes_settings=True)
    text = "a config with its settings, runs' folders, or those that eval --suite wrote"
    made.add_argument("what", nargs="+", metavar="CONFIG|RUN|SUITE", help=text)
    made.add_argument("--rules", metavar="NAMES", help="with commas; the first is the baseline")
    made.add_argument("--seeds", type=whole(1), metavar="N", help="runs a rule (default 3)")
    made.add_argument("--budget", metavar="UNIT=N", help="rollouts=N, tokens=N or searches=N; of given runs: the unit")
    made.add_argument("--folder", type=Path, metavar="FOLDER", help="of all runs; of given runs: where the page goes")
    made.add_argument("--jobs", type=whole(1), metavar="N", help="runs at a time, each on its own cores (default 1)")
    made.add_argument("--every", type=whole(0), metavar="N", help="evaluate every N steps too (evaluation.every)")
    made.add_argument("--questions", type=whole(1), metavar="N", help="of each evaluation (evaluation.questions)")
    made.add_argument("--reach", type=float, default=0.7, metavar="SHARE", help="accuracy to be reached (default .7)")
    text = "say how many seeds a difference of accuracy such as .02 needs, by the spread of these runs"
    made.add_argument(
        "--power", type=number(0, 1, "a number above 0 and below 1, as .02"), metavar="DIFFERENCE", help=text
    )
    add_json(made)
    add_trust(made)


def _compare(arguments: argparse.Namespace) -> int:
    """Compare runs; return FAILED if some run failed, after comparing those that finished."""
    from qr_jax.config import BUDGETS
    from qr_jax.lab import compare, launch, run_folders, side_by_side
    from qr_jax.lab.report import comparison
    from qr_jax.run import run_files

    terminal.speak("stderr" if arguments.json else "stdout")  # which is for JSON alone
    if arguments.overrides and any(map(os.path.isdir, arguments.what)):
        raise UserError(
            f"{arguments.overrides[0]}: runs that are there are compared as they are; a config takes settings"
        )
    if any(side_by_side.is_suite(what) for what in arguments.what):
        return _compare_suites(arguments)
    if arguments.folder:
        run_files.check_writable(Path(arguments.folder), "--folder")
    if arguments.folder and os.path.isdir(arguments.folder):
        run_folders.check_folder(arguments.folder, allowed=arguments.trust)
    if os.path.isdir(arguments.what[0]):
        refuse_given(arguments, OF_A_STUDY, "with runs, which are made already")
        folders = [run for given in arguments.what for run in compare.expand(given)]
        own = all([is_own(arguments, run) for run in folders])
        failed, unit = [], arguments.budget
        if unit not in (None, *BUDGETS):
            raise UserError(f"--budget is {unit!r}; for given runs wanted {', '.join(BUDGETS)}")
    else:
        own, (folders, failed, unit) = True, _study(arguments)
    if not folders:
        return FAILED
    many = f"{len(folders)} runs, and their null controls" if folders[1:] else "one run with its null control"
    with terminal.phase(f"comparing {many}"), reading("one of these runs"):
        found = compare.compare(folders, measure=unit, reach=arguments.reach, own=own, power=arguments.power)
    if arguments.folder:
        with launch.alone(arguments.folder), reading("one of these runs"):
            page = comparison.write(found, arguments.folder / "compare.html", arguments.folder.resolve().name)
            (arguments.folder / "comparison.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        terminal.say(f"report: {page}\n")
    show(found, arguments.json, comparison.format_tables)
    return FAILED if failed else 0


def _compare_suites(arguments: argparse.Namespace) -> int:
    from qr_jax.lab import side_by_side

    refuse_given(
        arguments, (*OF_A_STUDY, "budget", "folder", "power"), "with scores of a suite, which are made already"
    )
    with reading("one of these folders"):
        found = side_by_side.paired_scores([Path(what) for what in arguments.what])
    return show(found, arguments.json, side_by_side.format_table)


def _study(arguments: argparse.Namespace) -> tuple[list[Path], list[Any], str]:
    """Make the runs of a config; return finished folders, failed jobs and the budget's unit."""
    from qr_jax.lab import study
    from qr_jax.run import run_files

    if len(arguments.what) > 1:
        for what in arguments.what:
            if not os.path.isfile(what):
                run_files.check_there(Path(what))
        raise UserError(f"one config is compared by its rules, or several runs: {arguments.what[0]} is no run's folder")
    lacks = [name for name in ("rules", "budget", "folder") if not getattr(arguments, name)]
    if lacks:
        raise UserError(f"a config is compared with --{' and --'.join(lacks)} too, or give the folders of runs")
    (path,), typed = arguments.what, list(arguments.overrides)
    given = {name: getattr(arguments, name) for name in ("every", "questions")}
    typed += [f"evaluation.{name}={value}" for name, value in given.items() if value is not None]
    config = load(arguments, path, typed)
    spend = study.budget(arguments.budget)
    what = {"named": study.rules(arguments.rules), "seeds": arguments.seeds or 3, "spend": spend}
    folders, failed = study.study(config, arguments.folder, **what, at_once=arguments.jobs or 1, say=terminal.say)
    return folders, failed, spend[0]


def _oracle(arguments: argparse.Namespace) -> int:
    from qr_jax.lab import oracle

    chosen = {name: getattr(arguments, name) for name in ("samples", "oversample", "rollouts", "seeds")}
    rules = oracle.rules(arguments.rule)
    with reading(arguments.rates):
        found = oracle.study(arguments.rates, rules, size=arguments.queries, queries=arguments.accept, **chosen)
    shown = found[rules[0]] if len(rules) == 1 else found
    return show(shown, arguments.json, lambda _: oracle.format_table(found))


def _probe(arguments: argparse.Namespace) -> int:
    from qr_jax.lab import run_folders

    terminal.speak("stderr" if arguments.json else "stdout")  # which is for JSON alone
    run_folders.check_trained(arguments.run)
    open_run(arguments)
    from qr_jax.lab import probe

    chosen = {name: getattr(arguments, name) for name in ("queries", "samples", "seed")}
    found = probe.probe(arguments.run, **chosen, say=terminal.say)
    return show(found, arguments.json, probe.format_table)


def _report(arguments: argparse.Namespace) -> int:
    from qr_jax.run import run_files

    check_out(arguments.file, b"<!doctype html")
    from qr_jax.lab import run_folders

    run_folders.check_trained(arguments.run)
    if not arguments.file:
        run_files.check_writable(arguments.run, "--out")
    from qr_jax.lab.report import page

    with reading(str(arguments.run)):
        with terminal.phase("simulating what chance alone gives"):
            null = _null(arguments)
        with terminal.phase("reading the run and drawing its figures"):
            path = page.write(arguments.run, arguments.file, null=null, beside=bool(arguments.beside))
    terminal.result(str(path))
    return 0


def _null(arguments: argparse.Namespace) -> Any:
    """Return the null control of a run, or the reason why there is none, which is printed to stderr too."""
    from qr_jax.lab.null_control import null_or_reason
    from qr_jax.lab.report.charts import RATE_BINS

    own = is_own(arguments, arguments.run)
    null = null_or_reason(arguments.run, points=RATE_BINS, own=own)
    if "reason" in null:
        terminal.say(null["reason"])
    return null
