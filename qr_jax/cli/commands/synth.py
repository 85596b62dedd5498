"""The command that makes questions and trajectories from a corpus."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from qr_jax.cli import interrupts
from qr_jax.cli.commands.options import show, whole
from qr_jax.errors import UNSOUND, UserError
from qr_jax.logging import terminal
from qr_jax.sets.synth.card import PAPER_DOCUMENTS, PAPER_MIX
from qr_jax.settings.settings import Use

KEY_HELP = "its key: QR_JAX_TEACHER_KEY (OpenAI's own: OPENAI_API_KEY too)"


def add(command: Any) -> None:
    """Add this command's parser, as `cli.make_parser` adds those of the other commands."""
    text = "make questions and search trajectories from a corpus, with a language model behind an endpoint"
    synth = command("synth", _synth, text)
    synth.epilog = "setting=value: of the retriever and the environment, as in retriever.k1=0.9 env.max_turns=3"
    synth.set_defaults(takes_settings=True)
    add = synth.add_argument
    text = "as data.corpus: files of passages (comma-separated) or an index"
    add("corpus", metavar="CORPUS", help=text)
    add("out", type=Path, metavar="OUT", help="the folder; the same command goes on in it")
    add("--teacher", metavar="URL", help=f"an OpenAI-compatible endpoint; {KEY_HELP}")
    add("--model", metavar="NAME", help="the model that is asked there")
    add("--questions", type=whole(1), default=200, metavar="N", help="how many are wanted (200)")
    add("--traces", type=whole(0), metavar="N", help="how many trajectories (as many as questions)")
    text = "shares of the questions: iterative_search=30,link_walk=27; paper: as in its data (default: equal shares)"
    add("--mix", type=_mix, metavar="NAME=N,...", help=text)
    add("--seed", type=whole(0), default=0, metavar="N", help="another one makes other questions (0)")
    add("--env", default="search_r1", metavar="NAME", help="whose dialect the trajectories are in (search_r1)")
    text = "a tool that trajectories may call, of an environment for several (several_tools); repeat it for more"
    add("--tool", action="append", default=[], metavar="NAME", help=text)
    add("--retriever", default="bm25", metavar="NAME", help="a plug-in's name (bm25)")
    add("--k", type=whole(1), default=3, metavar="N", help="passages of a search (3)")
    add("--licence", metavar="TEXT", help="the corpus's, for the card")
    text = "questions that must not be made again, beside the seven sets in QR_JAX_DATA; repeat it for more"
    add("--against", action="append", default=[], metavar="FILE", help=text)
    add("--json", action="store_true", help="print the counts as JSON")
    add = synth.add_argument_group("how it is asked").add_argument
    add("--at-once", type=whole(1), default=8, metavar="N", help="calls at a time (8)")
    text = "how often a question needs so many passages, as 2=34,3=25; paper: 1 to 6, as in its data (default: 2 to 4)"
    add("--documents", type=_documents, metavar="N=N,...", help=text)
    add("--max-calls", type=whole(1), metavar="N", help="the budget in calls, of all sessions")
    add("--max-tokens", type=whole(1), metavar="N", help="the budget in tokens; calls under way may pass it a little")
    text = "of one reply; thinking models want more (1024)"
    add("--reply-tokens", type=whole(1), default=1024, metavar="N", help=text)
    add("--timeout-s", type=whole(1), default=120, metavar="N", help="seconds of one try (120)")
    add("--patience-s", type=whole(1), default=900, metavar="N", help="seconds of all tries of a call (900)")
    text = "max_tokens, max_completion_tokens, temperature or seed, where it refuses that; repeat it for more"
    add("--leave-out", action="append", default=[], metavar="NAME", help=text)
    add("--price", type=_price, metavar="IN,OUT", help="of a million tokens, for the cost")


def _synth(arguments: argparse.Namespace) -> int:
    """Make questions and trajectories; return UNSOUND if there are fewer than asked for, or the work ended early."""
    from qr_jax.cli.overrides import override
    from qr_jax.config import Config
    from qr_jax.run.run_files import check_writable
    from qr_jax.sets.synth import card, run
    from qr_jax.sets.synth.teacher import Bounds

    check_writable(arguments.out, "OUT")
    usual = Config(retriever=Use(arguments.retriever), env=Use(arguments.env), tools=tuple(map(Use, arguments.tool)))
    chosen = override(usual, arguments.overrides)
    if replace(chosen, retriever=usual.retriever, env=usual.env, tools=usual.tools) != usual:
        raise UserError("a setting of synth is the retriever's or the environment's, as in retriever.k1=0.9")
    given = {name: value for name, value in vars(arguments).items() if name in run.Asked.__dataclass_fields__}
    bounds = Bounds(
        arguments.max_calls, arguments.max_tokens, arguments.reply_tokens, arguments.timeout_s, arguments.patience_s,
        tuple(arguments.leave_out),
    )  # fmt: skip
    asked = run.Asked(
        **given | {"env": chosen.env, "retriever": chosen.retriever, "tools": chosen.tools, "bounds": bounds}
    )
    with interrupts.hearing_sigterm():
        found = run.run(asked, terminal.say)
    show(found, arguments.json, card.told)
    files = f"data.train={arguments.out}/questions.jsonl data.traces={arguments.out}/traces.jsonl"
    if found["questions"]:
        terminal.say(f"train on them: qr-jax train CONFIG {files} data.corpus={arguments.corpus} data.eval=FILE")
    enough = found["questions"] >= asked.questions and found["trajectories"] >= (asked.traces or 0)
    return 0 if enough and not found["ended"] else UNSOUND


def _mix(text: str) -> dict[str, int]:
    return dict(PAPER_MIX) if text == "paper" else _shares(text)


def _documents(text: str) -> dict[int, int]:
    shares = {str(count): share for count, share in PAPER_DOCUMENTS.items()} if text == "paper" else _shares(text)
    if not all(count.isdecimal() and 1 <= int(count) <= 6 for count in shares) or not any(int(c) > 1 for c in shares):
        raise argparse.ArgumentTypeError(
            f"found {text!r}; wanted numbers of passages from 1 to 6, one above 1 among them, as in 2=34,3=25"
        )
    return {int(count): share for count, share in shares.items()}


def _shares(text: str) -> dict[str, int]:
    parts = [part.partition("=") for part in text.split(",")]
    shares = {name.strip(): int(share) for name, _, share in parts if share.strip().isdecimal() and len(share) < 4}
    if len(shares) < len(parts) or not all(shares.values()):
        wanted = "paper, or NAME=N,... with each name once and N from 1 to 999"
        raise argparse.ArgumentTypeError(f"found {text!r}; wanted {wanted}")
    return shares


def _price(text: str) -> tuple[float, float]:
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        first = second = -1.0
    if not (0 <= first < 1e6 and 0 <= second < 1e6):
        raise argparse.ArgumentTypeError(f"found {text!r}; wanted two numbers, as in 0.15,0.60")
    return first, second
