"""The world's facts: the entities' names, their relations, and the documents that state one fact each."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from qr_jax.data.world import text
from qr_jax.errors import UserError
from qr_jax.records import Passage

MOST_PARTS = 4


@dataclass(frozen=True)
class Facts:
    """`names[type][i]` is an entity's name, `targets[relation][i]` the index of subject i's object (int64)."""

    seed: int
    names: Mapping[str, list[str]]
    targets: Mapping[str, np.ndarray]

    def name(self, type: str, index: int) -> str:
        return self.names[type][index]

    def object(self, relation: text.Relation, subject: int) -> int:
        return int(self.targets[relation.name][subject])


def numbers(seed: int, purpose: str, count: int) -> np.ndarray:
    """Return `count` raw 64-bit numbers (uint64) fixed by (seed, purpose); raw Philox is equal in all numpys."""
    key = np.array([seed, zlib.crc32(purpose.encode())], np.uint64)
    return np.random.Philox(key=key).random_raw(count)


def permutation(seed: int, purpose: str, count: int) -> np.ndarray:
    """Return a permutation of range(count), int64."""
    return np.argsort(numbers(seed, purpose, count), kind="stable")


def evenly(seed: int, purpose: str, subjects: int, objects: int) -> np.ndarray:
    """Assign an object to each subject, int64 [subjects]; objects' numbers of subjects differ by at most one."""
    return permutation(seed, purpose, subjects) % objects


def distinct(seed: int, purpose: str, subjects: int, objects: int) -> np.ndarray:
    """Assign an object to each subject, int64 [subjects], no object twice."""
    return permutation(seed, purpose, objects)[:subjects]


def make_facts(seed: int, sizes: Mapping[str, int], *, figures: bool = False) -> Facts:
    """Make all facts of a world with `sizes[type]` entities of each type; with `figures` also the numeric ones."""
    names = {type: make_names(seed, type, sizes[type]) for type in text.TYPES}
    targets = {}
    for relation in text.RELATIONS.values():
        if relation.name != "capital":
            # A person has one office of a kind, so that "mayor" and a person's name point to one city.
            assign = distinct if relation.object == text.PERSON else evenly
            targets[relation.name] = assign(seed, relation.name, sizes[relation.subject], sizes[relation.object])
    targets["capital"] = capitals(seed, targets["country"], sizes[text.COUNTRY])
    if figures:
        names[text.NUMBER] = list(map(str, range(2 * text.LARGEST + 1)))
        span = text.LARGEST + 1 - text.SMALLEST
        for relation in text.NUMERIC.values():
            raws = numbers(seed, relation.name, sizes[relation.subject]) % span
            targets[relation.name] = raws.astype(np.int64) + text.SMALLEST
    return Facts(seed, names, targets)


def capitals(seed: int, country_of_city: np.ndarray, countries: int) -> np.ndarray:
    """Choose one of each country's own cities, int64 [countries]."""
    order = permutation(seed, "capital", len(country_of_city))
    with_cities, first = np.unique(country_of_city[order], return_index=True)
    assert len(with_cities) == countries, "every country has a city"
    return order[first]


def name_parts(type: str, count: int) -> int:
    """Return the number of words in a name that `count` distinct word sets need; ValueError if four are too few."""
    words = len(text.name_words(type))
    for parts in range(1, MOST_PARTS + 1):
        if count <= comb(words, parts):
            return parts
    raise UserError(f"{count} names of type {type} are more than the {comb(words, parts)} there are; ask for fewer")


def make_names(seed: int, type: str, count: int) -> list[str]:
    """Make `count` names of equally many words; no two have the same set of words, since retrievers ignore order.

    One-word names are the first of the list whatever the seed, so worlds of all seeds share them.
    """
    words, parts = text.name_words(type), name_parts(type, count)
    if parts == 1:
        return words[:count]
    sets = np.array(list(combinations(range(len(words)), parts)))
    chosen = sets[permutation(seed, f"names {type}", len(sets))[:count]]
    shuffle = np.argsort(numbers(seed, f"order {type}", chosen.size).reshape(chosen.shape), axis=1, kind="stable")
    return [" ".join(words[at] for at in row) for row in np.take_along_axis(chosen, shuffle, 1)]


def aliases(facts: Facts, type: str, index: int) -> tuple[str, ...]:
    """Return other spellings of a name. They end in the type's word, which no name holds, so none is another's name."""
    return (text.ALIASES[type].format(facts.name(type, index)),) if type in text.ALIASES else ()


def document_id(facts: Facts, relation: text.Relation, subject: int) -> str:
    """Return the id SUBJECT.RELATION, words joined by "_", as in "morburg.mayor"."""
    return f"{facts.name(relation.subject, subject).replace(' ', '_')}.{relation.name}"


def make_documents(facts: Facts) -> list[Passage]:
    """Make one document per fact: the title is the subject, the text states relation and object in one of two ways."""
    documents = []
    for relation in (text.EVERY[name] for name in text.EVERY if name in facts.targets):
        subjects, objects = facts.names[relation.subject], facts.names[relation.object]
        ways = numbers(facts.seed, f"documents {relation.name}", len(subjects)) % len(text.DOCUMENTS)
        for subject, (way, target) in enumerate(zip(ways, facts.targets[relation.name], strict=True)):
            words = text.DOCUMENTS[way].format(relation=relation.name, object=objects[target])
            documents.append(Passage(document_id(facts, relation, subject), subjects[subject], words))
    return documents
