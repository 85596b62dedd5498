"""The world's questions: chains, "which" comparisons and intersections, their wording, and how an expert searches.

A problem is a question without its wording: splits that share no problem share no (start, path of relations) either.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from qr_jax.data.world import text
from qr_jax.data.world.facts import Facts, aliases, document_id, numbers, permutation
from qr_jax.data.world.text import RELATIONS, Relation
from qr_jax.records import Query

Names = tuple[str, ...]
DRAWS_AT_ONCE = 4096  # random comparisons made at once; there are too many to enumerate


@dataclass(frozen=True)
class Problem:
    """A question without its wording. It mentions `names`; an expert visits `entities`; `answer` is (type, index).

    `searches` are the expert's queries, `supporting` the ids of the documents that prove the answer.
    """

    kind: str
    relations: tuple[str, ...]
    names: tuple[str, ...]
    entities: tuple[str, ...]
    searches: tuple[str, ...]
    supporting: tuple[str, ...]
    answer: tuple[str, int]
    expression: str = ""  # what the expert's calculator computes after the searches; "": nothing

    @property
    def hops(self) -> int:
        """Return the number of facts that prove the answer."""
        return len(self.supporting)

    @property
    def phrased(self) -> int:
        """Return how many phrasings the wording chooses."""
        return 1 if self.kind == "comparison" else len(self.relations) + bool(self.expression)


@cache
def paths(hops: int) -> tuple[tuple[Relation, ...], ...]:
    """Return every path of relations of that length, each relation starting where the one before it ends."""
    if hops == 0:
        return ((),)
    return tuple(
        (*path, relation)
        for path in paths(hops - 1)
        for relation in RELATIONS.values()
        if not path or path[-1].object == relation.subject
    )


def chains(facts: Facts, hops: int) -> Iterator[Problem]:
    """Yield every chain of that length, in an order fixed by the seed; none visits an entity twice."""
    ways = paths(hops)
    ends = np.cumsum([len(facts.names[way[0].subject]) for way in ways])
    for rank in permutation(facts.seed, f"chains {hops}", int(ends[-1])):
        at = int(np.searchsorted(ends, rank, side="right"))
        start = int(rank) - (int(ends[at - 1]) if at else 0)
        problem = chain(facts, ways[at], start)
        if problem:
            yield problem


def chain(facts: Facts, path: tuple[Relation, ...], start: int) -> Problem | None:
    """Return the problem that follows `path` from entity `start`; None if it visits an entity twice."""
    names, subjects = [facts.name(path[0].subject, start)], [start]
    for relation in path:
        subjects.append(facts.object(relation, subjects[-1]))
        names.append(facts.name(relation.object, subjects[-1]))
    if len(set(names)) < len(names):
        return None
    answer = (path[-1].object, subjects[-1])
    return posed(facts, "chain", path, (names[0],), tuple(names[:-1]), tuple(names[:-1]), subjects[:-1], answer)


def posed(
    facts: Facts, kind: str, path: tuple[Relation, ...], names: Names, entities: Names, searched: Names,
    subjects: Sequence[int], answer: tuple[str, int],
) -> Problem:  # fmt: skip
    """Make the problem of a path: relation i's search names searched[i], and the fact of subjects[i] proves it."""
    searches = tuple(f"{relation.name} {name}" for relation, name in zip(path, searched, strict=True))
    proofs = tuple(document_id(facts, relation, subject) for relation, subject in zip(path, subjects, strict=True))
    return Problem(kind, tuple(relation.name for relation in path), names, entities, searches, proofs, answer)


def comparisons(facts: Facts) -> Iterator[Problem]:
    """Yield endless comparisons in a seeded order: one relation picks one of two entities, another is asked of it.

    The question never contains the answer, so guessing one of the two entities never scores.
    """
    pairs = [
        (known, asked)
        for known in RELATIONS.values()
        for asked in RELATIONS.values()
        if known is not asked and known.subject == asked.subject and len(facts.names[known.subject]) > 1
    ]
    for draw in range(2**31):
        raws = numbers(facts.seed, f"comparisons {draw}", 3 * DRAWS_AT_ONCE).reshape(-1, 3).tolist()
        for pair, first, second in raws:
            known, asked = pairs[pair % len(pairs)]
            count = len(facts.names[known.subject])
            problem = comparison(facts, known, asked, first % count, second % count)
            if problem:
                yield problem


def comparison(facts: Facts, known: Relation, asked: Relation, subject: int, other: int) -> Problem | None:
    """Return the problem whose answer is about `subject`; None if the two are alike or the question says the answer.

    Which of the two the question names first depends on their indices alone, so that both orders are one problem. An
    expert looks up the first: if it has the given object it is that one, otherwise the second is.
    """
    value, answer = facts.object(known, subject), facts.object(asked, subject)
    if value == facts.object(known, other) or answer == facts.object(asked, other):
        return None
    order = sorted((subject, other), reverse=(subject + other) % 2 == 1)
    first, second = (facts.name(known.subject, index) for index in order)
    chosen, goal = facts.name(known.subject, subject), facts.name(asked.object, answer)
    names = (first, second, facts.name(known.object, value))
    if goal in names:
        return None
    entities, path = (first,) if chosen == first else (first, second), (known, asked)
    return posed(
        facts, "comparison", path, names, entities, (first, chosen), (subject, subject), (asked.object, answer)
    )


def intersections(facts: Facts, most: int) -> Iterator[Problem]:
    """Yield every intersection, in an order fixed by the seed: the one person with two given objects.

    Each object has at most `most` such persons, so that one search of `most` passages lists them all.
    """
    names = text.INVERTIBLE
    pairs = [(RELATIONS[one], RELATIONS[other]) for at, one in enumerate(names) for other in names[at + 1 :]]
    counts = {name: np.bincount(facts.targets[name]) for name in names}
    people = len(facts.names[text.PERSON])
    codes = [combined(facts, pair) for pair in pairs]
    both = [dict(zip(*np.unique(code, return_counts=True), strict=True)) for code in codes]  # code -> persons
    for rank in permutation(facts.seed, "intersections", len(pairs) * people):
        at, person = divmod(int(rank), people)
        objects = [facts.object(relation, person) for relation in pairs[at]]
        listed = max(counts[relation.name][index] for relation, index in zip(pairs[at], objects, strict=True))
        given = tuple(facts.name(relation.object, index) for relation, index in zip(pairs[at], objects, strict=True))
        if listed > most or both[at][codes[at][person]] > 1 or given[0] == given[1]:
            continue
        answer = (text.PERSON, person)
        yield posed(facts, "intersection", pairs[at], given, given, given, (person, person), answer)


def combined(facts: Facts, pair: tuple[Relation, Relation]) -> np.ndarray:
    """Return a number for each person that two persons share exactly if both their objects agree."""
    first, other = (facts.targets[relation.name] for relation in pair)
    return first * (int(other.max()) + 1) + other


def calculations(facts: Facts) -> Iterator[Problem]:
    """Yield endless sums and differences of two facts in figures, in a seeded order; no difference is below 1."""
    relations = list(text.NUMERIC.values())
    for draw in range(2**31):
        raws = numbers(facts.seed, f"calculations {draw}", 5 * DRAWS_AT_ONCE).reshape(-1, 5).tolist()
        for kind, relation_at, other, first, second in raws:
            path = relations[relation_at % len(relations)], relations[other % len(relations)]
            subjects = [
                raw % len(facts.names[relation.subject]) for raw, relation in zip((first, second), path, strict=True)
            ]
            problem = calculation(facts, ("sum", "difference")[kind % 2], path, subjects)
            if problem:
                yield problem


def calculation(facts: Facts, kind: str, path: tuple[Relation, ...], subjects: Sequence[int]) -> Problem | None:
    """Return the problem that computes with two facts; None if they are one, or equal in a difference."""
    pairs = [*zip(path, subjects, strict=True)]
    values = [facts.object(relation, subject) for relation, subject in pairs]
    if pairs[0] == pairs[1] or (kind == "difference" and values[0] == values[1]):
        return None
    if kind == "difference" and values[0] < values[1]:
        pairs, values, path, subjects = pairs[::-1], values[::-1], path[::-1], subjects[::-1]
    names = tuple(facts.name(relation.subject, subject) for relation, subject in pairs)
    total = values[0] + values[1] if kind == "sum" else values[0] - values[1]
    problem = posed(facts, kind, path, names, names, names, subjects, (text.NUMBER, total))
    return replace(problem, expression=f"{values[0]} {text.SIGNS[kind]} {values[1]}")


def garble(phrase: str, raw: int, telling: tuple[str, ...] = text.TELLING) -> str:
    """Replace every telling word of the phrase by another of the `telling`, chosen by the bytes of `raw`."""
    words = phrase.split()
    chosen = [telling[(raw >> (6 * at)) % 8191 % len(telling)] for at in range(len(words))]
    return " ".join(new if old in telling else old for old, new in zip(words, chosen, strict=True))


def word(problem: Problem, phrasings: tuple[int, ...], garbled: tuple[int, ...] = ()) -> str:
    """Word the question; `phrasings[i]` in 0..3 chooses the phrasing of relation i.

    A nonzero `garbled[i]`, a random number, replaces it by nonsense in the form of one of the four phrasings.
    """

    def say(ways: tuple[str, ...], at: int) -> str:
        if garbled and garbled[at]:
            return garble(ways[garbled[at] >> 10 & 3], garbled[at] >> 12, telling)
        return ways[phrasings[at]]

    relations = [text.EVERY[name] for name in problem.relations]
    telling = text.TELLING_NUMERIC if problem.expression else text.TELLING
    if problem.expression:
        both = enumerate(zip(relations, problem.names, strict=True))
        first, second = (say(relation.phrasings, at).format(name) for at, (relation, name) in both)
        ways = text.ARITHMETIC[problem.kind]
        way = ways[phrasings[2] % len(ways)]
        if garbled and garbled[2]:  # takes a wording that other traces never show, so that it may mean either operation
            untold = [way for ways in text.ARITHMETIC.values() for way in ways[1:]]
            way = untold[(garbled[2] >> 10) % len(untold)]
        return way.format(first=first, second=second)
    if problem.kind == "intersection":
        first, second = (
            say(relation.clauses, at).format(name)
            for at, (relation, name) in enumerate(zip(relations, problem.names, strict=True))
        )
        return text.INTERSECTION.format(first=first, second=second)
    if problem.kind == "comparison":
        first, second, value = problem.names
        chosen = text.CHOICE.format(first=first, second=second, relation=relations[0].name, value=value)
        phrase = say(relations[1].phrasings, 0).format(chosen)
        return text.COMPARISON.format(type=relations[1].object, phrase=phrase)
    phrase = problem.names[0]
    for at, relation in enumerate(relations):
        phrase = say(relation.phrasings, at).format(phrase)
    return text.CHAIN.format(asks=text.ASKS[relations[-1].object], phrase=phrase)


def query(facts: Facts, problem: Problem, phrasings: tuple[int, ...], garbled: tuple[int, ...] = ()) -> Query:
    """Return the problem as a query. Its id encodes problem and wording: it does not depend on other questions."""
    said = "+".join(name.replace(" ", "_") for name in problem.names)
    ways = "".join(map(str, phrasings))
    meta = {"hops": problem.hops, "kind": problem.kind, "supporting": list(problem.supporting)}
    meta |= {"relations": list(problem.relations), "phrasings": list(phrasings)}
    type, index = problem.answer
    answers = (facts.name(type, index), *aliases(facts, type, index))
    identity = f"w{facts.seed}.{problem.kind}.{'-'.join(problem.relations)}.{said}.{ways}"
    return Query(identity, word(problem, phrasings, garbled), answers, problem.entities, meta)


def turns(facts: Facts, problem: Problem) -> tuple[str, ...]:
    """Write the expert's turns: one search a turn, a calculation where there is one, then the answer."""
    searches = (f"<search> {search} </search>" for search in problem.searches)
    call = {"name": "calculator", "arguments": {"expression": problem.expression}}
    computes = (f"<tool_call>{json.dumps(call)}</tool_call>",) if problem.expression else ()
    return (*searches, *computes, f"<answer> {facts.name(*problem.answer)} </answer>")
