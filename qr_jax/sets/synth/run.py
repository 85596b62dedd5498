"""Run `qr-jax synth`: open corpus, retriever and teacher, make the questions, and write the folder."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qr_jax import plugins
from qr_jax.data.corpus_hash import corpus_hash
from qr_jax.errors import UserError
from qr_jax.evaluation import manifest
from qr_jax.lab import suite
from qr_jax.logging import terminal
from qr_jax.run import run_lock
from qr_jax.search import identity
from qr_jax.search.chat_endpoint import ChatEndpoint
from qr_jax.sets.synth import card, folder, library, prompts, repeats
from qr_jax.sets.synth.generators import GENERATORS
from qr_jax.sets.synth.journal import Journal
from qr_jax.sets.synth.play import Dialect
from qr_jax.sets.synth.synthesise import Author, Made, Work, synthesise
from qr_jax.sets.synth.teacher import Bounds, Teacher, connect
from qr_jax.settings.settings import Use, plain
from qr_jax.tools import _of_run as tools_of_run


@dataclass(frozen=True)
class Asked:
    """The command's arguments. `price` is of a million tokens [in, out]; `traces` None: as many as questions."""

    corpus: str
    out: Path
    teacher: str | None  # an endpoint's URL
    model: str | None  # that is asked there
    questions: int = 200
    traces: int | None = None
    seed: int = 0
    env: Use = Use("search_r1")
    retriever: Use = Use("bm25")
    tools: Sequence[Use] = ()  # that trajectories may call, in the dialect of an environment for several
    k: int = 3
    at_once: int = 8
    bounds: Bounds = field(default_factory=Bounds)
    price: tuple[float, float] | None = None
    licence: str | None = None
    against: Sequence[str] = ()
    mix: Mapping[str, int] | None = None  # each generator's share of the questions; None: all asked alike
    documents: Mapping[int, int] | None = None  # how often so many passages are needed; None: each generator's own


def run(asked: Asked, say: Callable[[str], None]) -> dict[str, Any]:
    """Make the questions and trajectories, write the folder, and return the counts (folder.py) with the cost.

    ValueError, before any call, for arguments that do not fit. An interruption is raised again after the folder is
    written.
    """
    if asked.teacher is None or "://" not in asked.teacher or asked.model is None:
        gone = "templates were removed; " * (asked.teacher == "templates")
        wanted = f"{gone}a language model writes the questions: --teacher URL --model NAME, an endpoint and its model"
        raise UserError(f"--teacher {asked.teacher}, --model {asked.model}: {wanted}")
    names = GENERATORS
    if unknown := sorted((asked.mix or {}).keys() - {*names}):
        raise UserError(f"--mix names {', '.join(unknown)}; the generators here are: {', '.join(names)}")
    endpoint = connect(asked.teacher, asked.bounds)
    dialect, books = _dialect(asked), _library(asked)
    tests, counts, missing = _evaluation_sets(asked)
    about = _about(asked, books.passages)
    asked.out.mkdir(parents=True, exist_ok=True)
    with run_lock.held(asked.out, "another OUT"):
        folder.begin(asked.out, about)
        folder.check_no_fewer(asked.out, asked.questions)
        if missing:
            where = "their questions are not here (QR_JAX_DATA, or --against FILE)"
            say(f"not compared with {', '.join(missing)}: {where}")
        links = "titles that passages mention" if books.named is None else "of the data"
        held = folder.questions(asked.out)
        given = {"corpus": _names(asked.corpus), "passages": len(books.passages), "licence": asked.licence}
        given |= {"links": links, "sets": counts, "missing": list(missing)}
        found = _made(asked, endpoint, books, dialect, tests, say, lambda found: given | found, about)
        if held and held == folder.questions(asked.out):
            say(f"{asked.out} held these questions already")
        return found


def _made(
    asked: Asked,
    endpoint: ChatEndpoint,
    books: library.Library,
    dialect: Dialect,
    tests: repeats.Repeats,
    say: Callable[[str], None],
    told: Callable[[dict[str, Any]], dict[str, Any]],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Make and write everything, however the work ends; `told` adds what the card says of the corpus."""
    made, halt = Made(), threading.Event()
    traces = asked.questions if asked.traces is None else asked.traces
    work = Work(asked.questions, traces, asked.at_once, halt, asked.mix)
    journal = Journal(asked.out / folder.CALLS)
    teacher = Teacher(endpoint, str(asked.model), journal, asked.bounds, halt, say=say)
    documents = [count for count, share in (asked.documents or {}).items() for _ in range(share)]
    author = Author(teacher, books, asked.questions, asked.seed, documents)
    try:
        if teacher.journal.answers:  # what is finished makes no call, not even one ahead
            teacher.replaying = True
            synthesise(made, author, dialect, tests, work, lambda _: None)
            teacher.replaying = False
        if made.ended or not made.queries:
            made = Made()
            synthesise(made, author, dialect, tests, work, _teller(work, teacher, asked.price, say))
    except (KeyboardInterrupt, SystemExit) as stopped:
        made.ended = "stopped by Ctrl-C" if isinstance(stopped, KeyboardInterrupt) else "stopped by SIGTERM"
        raise
    finally:
        teacher.journal.close()
        spent = _spent(teacher, asked.price)
        found = folder.counted(made)
        for aside in folder.write(asked.out, made, card.write(found, about, told(spent))):
            say(f"{aside} has what stood there before, with rows that are not among the new ones")
    if not made.ended and len(made.queries) < asked.questions:
        say(f"all {found['candidates']} candidates were tried; more passages have more, or another --seed")
    return found | spent


def _evaluation_sets(asked: Asked) -> tuple[repeats.Repeats, dict[str, int], dict[str, str]]:
    """Read the questions that must not be asked again: the seven sets, where present, and the user's files."""
    sets = {name: suite.QUESTIONS % name for name in suite.sets("qa7")}
    tests, counts, missing = repeats.of_sets(sets | {file: file for file in asked.against})
    if wrong := [missing[file] for file in asked.against if file in missing]:
        raise UserError(f"--against: {wrong[0]}")
    return tests, counts, missing


def _library(asked: Asked) -> library.Library:
    passages, named = library.read(asked.corpus)
    make = plugins.bind("retriever", asked.retriever)
    search = make(corpus=passages) if plugins.wants_corpus(asked.retriever) else make()
    if asked.tools:
        search = tools_of_run.answering(asked.tools, {"search": search, "corpus": passages, "k": asked.k})
    return library.Library(passages, named, search)


def _dialect(asked: Asked) -> Dialect:
    write = plugins.beside("env", asked.env.name, "expert_turn")
    if write is None:
        raise UserError(f"env {asked.env.name!r} has no expert_turn(thought, queries, answer) in its file; write it")
    parallel = plugins.constants("env", asked.env.name).get("PARALLEL", 1)
    schemas = tools_of_run.schemas(asked.tools)
    if schemas and "tools" not in plugins.signature("env", asked.env.name).settings:
        raise UserError(f"--tool, and env {asked.env.name!r} calls none; give --env several_tools")
    env = plugins.bind("env", asked.env, provided={"tools": schemas} if schemas else {})
    return Dialect(env, write, parallel, asked.k, schemas)


def _about(asked: Asked, passages: Sequence[Any]) -> dict[str, Any]:
    """Return the settings that decide the questions: different ones need another folder."""
    searched = identity.effective(asked.retriever)
    models = manifest.models_of(asked.retriever)
    return {
        "teacher": asked.model,
        "prompts_sha256": prompts.digest(),
        "corpus_sha256": corpus_hash(passages),
        "retriever": {"name": asked.retriever.name, **searched} | ({"models": models} if models else {}),
        "env": {"name": asked.env.name, **plain(asked.env.settings)},
        "k": asked.k,
        "mix": asked.mix,
        "documents": asked.documents and {str(count): share for count, share in asked.documents.items()},
        "seed": asked.seed,
        **(
            {"tools": [plain(tool) for tool in asked.tools], "play": prompts.digest(prompts.CALL)}
            if asked.tools
            else {}
        ),
    }


def _names(corpus: str) -> str:
    """Return the files' names without their folders, which differ by machine."""
    return ", ".join(Path(part.strip()).name for part in corpus.split(","))


def _spent(teacher: Teacher, price: tuple[float, float] | None) -> dict[str, Any]:
    cost = (teacher.tokens_in * price[0] + teacher.tokens_out * price[1]) / 1e6 if price else None
    return {
        "calls": teacher.calls, "failed": teacher.journal.failed,
        "tokens_in": teacher.tokens_in, "tokens_out": teacher.tokens_out, "cost": cost,
    }  # fmt: skip


def _teller(
    work: Work, teacher: Teacher, price: tuple[float, float] | None, say: Callable[[str], None]
) -> Callable[[Made], None]:
    """Return a function that prints progress, cost, and the time left of the present stage."""
    paid = teacher.calls
    begun: dict[bool, tuple[int, float]] = {}  # by stage: how much was done when its first new call was seen, and when

    def tell(made: Made) -> None:
        playing = made.attempts > 0
        done, wanted = (len(made.traces), work.traces) if playing else (len(made.queries), work.questions)
        text = f"questions {len(made.queries)}/{work.questions}  trajectories {len(made.traces)}/{work.traces}"
        spent = _spent(teacher, price)
        text += f"  {spent['calls']:,} calls, {spent['tokens_in'] + spent['tokens_out']:,} tokens"
        text += f", cost {spent['cost']:.2f}" if price else ""
        if teacher.calls > paid:  # what the journal answers takes no time, and is no measure
            before, since = begun.setdefault(playing, (done, time.monotonic()))
            if done > before:
                left_s = (time.monotonic() - since) * (wanted - done) / (done - before)
                text += f"  {terminal.clock(left_s)} left of the {'trajectories' if playing else 'questions'}"
        say(text)

    return tell
