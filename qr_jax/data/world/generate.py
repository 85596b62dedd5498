"""The synthetic knowledge world: documents, questions and expert search traces, fixed by its settings.

world = build(WorldSettings(seed=0))      # about 1,000 documents, 2,000 + 1,000 + 1,000 questions, 3,000 traces
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from qr_jax.data.world import text
from qr_jax.data.world.facts import Facts, make_documents, make_facts, numbers
from qr_jax.data.world.questions import Problem, calculations, chains, comparisons, intersections, query, turns
from qr_jax.data.world.text import vocabulary
from qr_jax.errors import UserError
from qr_jax.records import Passage, Query, Trace
from qr_jax.settings.settings import conform

__all__ = ["Trace", "World", "WorldSettings", "build", "settings_from", "settings_hash", "vocabulary"]

T = TypeVar("T")
CONTENT = 1  # version of the generator: raised when the same settings and words give other content
SPLITS = ("dev", "test", "train")
SIZES = {text.PERSON: "people", text.CITY: "cities", text.COUNTRY: "countries", text.COMPANY: "companies"}
SIZES[text.UNIVERSITY] = "universities"
LEAST_DOCUMENTS, MOST_DOCUMENTS = 200, 100_000
LEAST_TRACED = 0.2  # least share of each class of problems that is kept for traces


@dataclass(frozen=True)
class WorldSettings:
    """`seed` changes the facts; counts are entities, questions and traces; shares are of the questions or the traces.

    `documents` sizes the world instead of the five entity counts: about that many documents, 200 to 100,000, in the
    proportions of the default world. Where too few distinct questions of one kind exist, the next kind takes their
    place (intersections, comparisons, chains from the shortest on).
    """

    seed: int = 0  # another one, other facts
    people: int = 160  # in the world
    cities: int = 60  # in the world
    countries: int = 20  # in the world
    companies: int = 60  # in the world
    universities: int = 40  # in the world
    documents: int | None = None  # about so many, instead of the five counts above; none: the counts decide
    train: int = 2000  # training questions
    dev: int = 1000  # held-out questions, which evaluations ask
    test: int = 1000  # further held-out questions
    traces: int = 3000  # of an expert
    hops: tuple[float, ...] = (0.2, 0.35, 0.25, 0.2)  # weights of chains of 1, 2, 3, 4 hops in the questions
    comparison: float = 0.06  # share of questions; chains are what comparisons and intersections leave
    intersection: float = 0.04  # share of questions
    trace_hops: tuple[float, ...] = (0.45, 0.35, 0.15, 0.05)  # as hops, of the traces
    trace_comparison: float = 0.06  # share of the traces
    trace_intersection: float = 0.04  # share of the traces
    trace_phrasings: int = 2  # of each relation's four, how many the traces show
    trace_garbled: float = 0.2  # share of nonsense phrases in traces, so that what an unseen phrase means stays open
    arithmetic: float = 0.0  # share of questions: sums and differences of two numeric facts, which the world then has
    trace_arithmetic: float = 0.0  # share of the traces; an expert computes with the tool calculator
    impossible: float = 0.0  # share of training questions with a gold answer that no passage or vocabulary contains
    listed: int = 3  # passages per search; an intersection's object belongs to at most so many persons

    def __post_init__(self):
        for name in ("hops", "trace_hops"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        try:
            check(self)
        except UserError as error:
            raise UserError(f"data.world: {error}") from None


def check(settings: WorldSettings) -> None:
    """Raise ValueError, with what would do, for settings of which no world can be made."""
    for name, least in {"seed": 0, "train": 0, "dev": 0, "test": 0, "traces": 0, "listed": 1}.items():
        if getattr(settings, name) < least:
            raise UserError(f"{name}={getattr(settings, name)} must be {least} or more")
    if not 0 <= settings.impossible <= 1:
        raise UserError(f"impossible={settings.impossible} is a share of the training questions: 0 to 1")
    if not 0 <= settings.trace_garbled <= 1:
        raise UserError(f"trace_garbled={settings.trace_garbled} is a share of the phrases: 0 to 1")
    if not 1 <= settings.trace_phrasings <= 4:
        raise UserError(f"trace_phrasings={settings.trace_phrasings} must be 1 to 4: a relation has four phrasings")
    for traced in ("", "trace_"):
        hops, others = f"{traced}hops", [f"{traced}{kind}" for kind in ("comparison", "intersection", "arithmetic")]
        weights, rest = getattr(settings, hops), [getattr(settings, name) for name in others]
        if not 1 <= len(weights) <= 4 or min(weights) < 0 or sum(weights) <= 0:
            raise UserError(f"{hops}={weights} must be one to four weights (of 1 to 4 hops), 0 or more, not all 0")
        if min(rest) < 0 or sum(rest) > 1:
            shares = " and ".join(f"{name}={share}" for name, share in zip(others, rest, strict=True))
            raise UserError(f"{shares} are shares: 0 or more, together at most 1")
    if settings.documents is not None:
        changed = [name for name in SIZES.values() if getattr(settings, name) != getattr(WorldSettings, name)]
        if changed:
            sized = f"documents={settings.documents} sizes the world"
            raise UserError(f"{sized}, and so does {changed[0]}; give one of the two")
        if not LEAST_DOCUMENTS <= settings.documents <= MOST_DOCUMENTS:
            raise UserError(f"documents={settings.documents} must lie between {LEAST_DOCUMENTS} and {MOST_DOCUMENTS}")
    sizes = sizes_of(settings)
    if min(sizes.values()) < 2:
        raise UserError(f"a world needs two or more entities of each type, and this one has {sizes}")
    most = min(sizes[text.CITY], sizes[text.PERSON])
    if sizes[text.COUNTRY] > most or max(sizes[text.CITY], sizes[text.COMPANY]) > sizes[text.PERSON]:
        raise UserError(f"countries need a city each, cities and companies a person each; the sizes are {sizes}")


def settings_from(given: Mapping[str, Any]) -> WorldSettings:
    """Make settings from JSON's or a config's values by name; ValueError for an unknown name or a wrong type."""
    return conform("data.world", dict(given), WorldSettings)


def sizes_of(settings: WorldSettings) -> dict[str, int]:
    """Return the number of entities of each type."""
    if settings.documents is None:
        return {type: getattr(settings, name) for type, name in SIZES.items()}
    defaults = {type: getattr(WorldSettings, name) for type, name in SIZES.items()}
    stated = sum(defaults[relation.subject] for relation in text.RELATIONS.values())
    return {type: max(2, round(count * settings.documents / stated)) for type, count in defaults.items()}


def has_figures(settings: WorldSettings) -> bool:
    """Return True if the world has facts in figures, to compute with."""
    return settings.arithmetic > 0 or settings.trace_arithmetic > 0


def settings_hash(settings: WorldSettings) -> str:
    """Return 16 hexadecimal digits that change with the settings and with the words worlds are made of."""
    relations = [asdict(relation) for relation in text.RELATIONS.values()]
    frames = [text.DOCUMENTS, text.CHAIN, text.COMPARISON, text.CHOICE, text.INTERSECTION, text.ALIASES]
    kept = {name: value for name, value in asdict(settings).items() if not name.endswith("arithmetic")}
    if has_figures(settings):  # other worlds keep the hashes from before numeric facts existed
        figures = [asdict(relation) for relation in text.NUMERIC.values()]
        kept, frames = asdict(settings), [*frames, figures, text.ARITHMETIC, text.arithmetic_words()]
    content = json.dumps([CONTENT, kept, vocabulary(), relations, frames], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


IMPOSSIBLE = "zzyzx"  # a word of no world's vocabulary


@dataclass(frozen=True)
class World:
    """Documents and questions in their fixed order; no two of train, dev, test and traces share a question."""

    documents: list[Passage]
    train: list[Query]
    dev: list[Query]
    test: list[Query]
    traces: list[Trace]


def build(settings: WorldSettings) -> World:
    """Build the world of these settings, the same on every machine and in every process.

    ValueError if it has fewer distinct questions than the settings ask for.
    """
    facts = make_facts(settings.seed, sizes_of(settings), figures=has_figures(settings))
    chosen = deal(settings, facts)
    has = {split: len(chosen[split]) for split in ("train", "dev", "test")}
    if any(count < getattr(settings, split) for split, count in has.items()):
        asked = " ".join(f"{split}={getattr(settings, split)}" for split in has)
        cure = "ask for fewer questions, or for more documents"
        raise UserError(f"{asked}: this world has {', '.join(map(str, has.values()))} distinct questions; {cure}")
    splits = {split: mixed(settings.seed, split, worded(facts, split, chosen[split], 4)) for split in SPLITS}
    pairs = worded(facts, "traces", chosen["traces"], settings.trace_phrasings, settings.trace_garbled)
    held = {asked.question for questions in splits.values() for asked, _ in questions}
    traces = []
    for asked, problem in mixed(settings.seed, "traces", pairs):
        if asked.question in held:  # nonsense that equals a question of another split: use the plain wording
            asked = query(facts, problem, tuple(asked.meta["phrasings"]))
        traces.append(Trace(asked, turns(facts, problem)))
    questions = {split: [asked for asked, _ in pairs] for split, pairs in splits.items()}
    questions["train"] = spoiled(settings, questions["train"])
    return World(make_documents(facts), traces=numbered(traces), **questions)


def spoiled(settings: WorldSettings, queries: list[Query]) -> list[Query]:
    """Return the queries; in the share `impossible` of them the gold answer is one that nobody can give. Ids stay."""
    raws = numbers(settings.seed, "impossible", len(queries)).tolist()
    bad = [raw % 1024 < settings.impossible * 1024 for raw in raws]
    pairs = zip(queries, bad, strict=True)
    return [replace(asked, answers=(IMPOSSIBLE,)) if lost else asked for asked, lost in pairs]


def deal(settings: WorldSettings, facts: Facts) -> dict[str, list[Problem]]:
    """Assign problems to the splits. No problem is in two splits, but the traces may hold one several times."""
    lengths = range(1, max(len(settings.hops), len(settings.trace_hops)) + 1)
    sources: dict[str, Iterator[Problem]] = {
        "arithmetic": calculations(facts),
        "intersection": intersections(facts, settings.listed),
        "comparison": comparisons(facts),
        **{f"chain {hops}": chains(facts, hops) for hops in lengths},
    }
    wanted = {split: wishes(settings, split) for split in (*SPLITS, "traces")}
    dealt: dict[str, list[Problem]] = {split: [] for split in wanted}
    missing = dict.fromkeys(wanted, 0)
    for kind, source in sources.items():
        counts = {split: wanted[split].get(kind, 0) + missing[split] for split in wanted}
        if not any(counts.values()):
            continue
        problems = list(islice(unseen(source), sum(counts.values())))
        at = 0
        for split, count in fitted(counts, len(problems)).items():
            took = problems[at : at + count] if split != "traces" else repeated(problems[at:], counts[split])
            dealt[split] += took
            missing[split] = counts[split] - len(took)
            at += count
    return dealt


def wishes(settings: WorldSettings, split: str) -> dict[str, int]:
    """Return how many problems of each class a split asks for; they add up to its size."""
    traced = "trace_" if split == "traces" else ""
    weights, total = getattr(settings, f"{traced}hops"), getattr(settings, split)
    kinds = (*(["arithmetic"] if has_figures(settings) else []), "intersection", "comparison")
    rest = {kind: getattr(settings, f"{traced}{kind}") for kind in kinds}
    shares = list(rest.values()) + [(1 - sum(rest.values())) * weight / sum(weights) for weight in weights]
    ends = [round(total * end) for end in np.cumsum(shares)]
    names = [*rest, *(f"chain {hops}" for hops in range(1, len(weights) + 1))]
    return {name: end - start for name, start, end in zip(names, [0, *ends], ends, strict=False)}


def unseen(problems: Iterator[Problem]) -> Iterator[Problem]:
    """Yield the problems without repeats; stop after a thousand repeats in a row (comparisons never end)."""
    seen, repeats = set(), 0
    for problem in problems:
        key = (problem.relations, problem.names)
        repeats = repeats + 1 if key in seen else 0
        if repeats > 1000:
            return
        if not repeats:
            seen.add(key)
            yield problem


def fitted(counts: Mapping[str, int], available: int) -> dict[str, int]:
    """Return how many distinct problems each split gets: all it asks for, or its share if there are too few.

    Traces can show a problem twice and questions cannot, so traces get what the questions leave, but at least a fifth.
    """
    asked = sum(counts[split] for split in SPLITS)
    kept = min(counts["traces"], int(np.ceil(LEAST_TRACED * available)))
    share = min(1.0, (available - kept) / asked) if asked else 0.0
    given = {split: int(counts[split] * share) for split in SPLITS}
    return given | {"traces": min(counts["traces"], available - sum(given.values()))}


def repeated(problems: list[Problem], count: int) -> list[Problem]:
    """Return `count` problems: these, repeated in order."""
    return [problems[at % len(problems)] for at in range(count)] if problems else []


def worded(
    facts: Facts, split: str, problems: list[Problem], most: int, garbled: float = 0.0
) -> list[tuple[Query, Problem]]:
    """Return each problem with its query, worded by the seed in phrasings 0 to `most` - 1, a share of them garbled."""
    raws = numbers(facts.seed, f"phrasings {split}", len(problems)).tolist()
    nonsense = numbers(facts.seed, f"nonsense {split}", len(problems) * 4).reshape(-1, 4).tolist()
    asked = []
    for problem, raw, words in zip(problems, raws, nonsense, strict=True):
        phrasings = tuple((raw >> (8 * at)) % most for at in range(problem.phrased))
        bad = tuple(words[at] if words[at] % 1024 < garbled * 1024 else 0 for at in range(problem.phrased))
        asked.append((query(facts, problem, phrasings, bad), problem))
    return asked


def mixed(seed: int, split: str, rows: list[T]) -> list[T]:
    """Return the rows in an order fixed by the seed, so that any first part of a split has its mix of hops."""
    raws = numbers(seed, f"order of {split}", len(rows))
    return [rows[at] for at in np.argsort(raws, kind="stable")]


def numbered(traces: list[Trace]) -> list[Trace]:
    """Put each trace's position in front of its query's id: a question may stand in several traces."""
    return [replace(trace, query=replace(trace.query, id=f"t{at}.{trace.query.id}")) for at, trace in enumerate(traces)]
