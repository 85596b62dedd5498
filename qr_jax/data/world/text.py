"""The world's words: names, relations, their phrasings, and the vocabulary they make, which no seed or size changes.

All texts are lower-case words with spaces between them, so a tokenizer of whole words reads them without unknowns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

PERSON, CITY, COUNTRY, COMPANY, UNIVERSITY = "person", "city", "country", "company", "university"
TYPES = (PERSON, CITY, COUNTRY, COMPANY, UNIVERSITY)

TAGS = ("<search>", "</search>", "<information>", "</information>", "<answer>", "</answer>", "<think>", "</think>")
# Words that an environment may add around texts, beside TAGS.
FRAME_WORDS = ("?", ".", ":", "(", ")", "doc", "title", "question", "1", "2", "3", "4", "5")

SYLLABLES = {  # (starts, ends): every start with every end is one word, and all words of all types differ
    PERSON: (
        ("al", "be", "ca", "da", "el", "fe", "ga", "ha", "jo", "ka", "lu", "ma", "ne", "or", "pe", "ro"),
        ("bin", "dra", "fen", "lio", "mir", "nok", "ris", "sta", "vek", "zan"),
    ),
    CITY: (
        ("ald", "bre", "cor", "dun", "esk", "far", "gris", "hol", "ith", "kel", "mor", "nar"),
        ("aven", "burg", "ford", "mouth", "wick"),
    ),
    COUNTRY: (("ark", "bal", "cyr", "dor", "ost"), ("avia", "land", "onia", "stan")),
    COMPANY: (
        ("am", "bri", "cy", "dex", "ful", "hex", "ix", "lum", "neo", "op", "qua", "zen"),
        ("corp", "soft", "tech", "trade", "works"),
    ),
    UNIVERSITY: (
        ("ash", "bel", "cam", "dur", "ever", "fair", "glen", "har", "king", "wyn"),
        ("croft", "dale", "hurst", "shire"),
    ),
}


@dataclass(frozen=True)
class Relation:
    """One kind of fact. Documents state it with the word `name`, and experts search for that word.

    `phrasings` are four noun phrases for the object, given the subject: they nest, so they make chains. The last two
    use other nouns, whose meaning a model that has seen only the first two must find out. `clauses` are four
    ways to say the relation of a person to a given object; only relations that intersections use have them.
    """

    name: str
    subject: str
    object: str
    phrasings: tuple[str, ...]
    clauses: tuple[str, ...] = ()


# Of the relations that intersections use.
_CLAUSES = {
    "birthplace": ("was born in {}", "has the birthplace {}", "comes from {}", "has the home town {}"),
    "residence": ("lives in {}", "has the residence {}", "resides in {}", "has the address {}"),
    "employer": ("works for {}", "has the employer {}", "is employed by {}", "has the workplace {}"),
}
# Name, subject, object and the further phrasings: the first is always "the NAME of {}".
# No relation leads from a type to itself: a bag of words cannot tell "spouse of a is b" from "spouse of b is a".
_RELATIONS = (
    ("birthplace", PERSON, CITY, "the city where {} was born", "the home town of {}", "the origin of {}"),
    ("residence", PERSON, CITY, "the city where {} lives", "the address of {}", "the dwelling of {}"),
    ("employer", PERSON, COMPANY, "the company {} works for", "the workplace of {}", "the firm of {}"),
    ("university", PERSON, UNIVERSITY, "the university where {} studied", "the school of {}", "the college of {}"),
    ("country", CITY, COUNTRY, "the country where {} lies", "the nation of {}", "the land of {}"),
    ("mayor", CITY, PERSON, "the person who governs {}", "the governor of {}", "the head of {}"),
    ("headquarters", COMPANY, CITY, "the city where {} is based", "the main office of {}", "the base of {}"),
    ("founder", COMPANY, PERSON, "the person who founded {}", "the creator of {}", "the maker of {}"),
    ("ceo", COMPANY, PERSON, "the person who leads {}", "the boss of {}", "the chief of {}"),
    ("location", UNIVERSITY, CITY, "the city where {} is located", "the site of {}", "the campus of {}"),
    ("capital", COUNTRY, CITY, "the capital city of {}", "the main city of {}", "the seat of {}"),
    ("president", COUNTRY, PERSON, "the person who rules {}", "the ruler of {}", "the leader of {}"),
)
RELATIONS: Mapping[str, Relation] = {
    name: Relation(name, subject, object, (f"the {name} of {{}}", *further), _CLAUSES.get(name, ()))
    for name, subject, object, *further in _RELATIONS
}
# Numeric facts, only in worlds whose settings ask for arithmetic. Their objects are no entities.
NUMBER, SMALLEST, LARGEST = "number", 10, 99
_NUMERIC = (  # two of each subject, so that its name does not say which is asked for
    ("population", CITY, "the inhabitants of {}", "the residents of {}", "the dwellers of {}"),
    ("districts", CITY, "the quarters of {}", "the wards of {}", "the boroughs of {}"),
    ("staff", COMPANY, "the employees of {}", "the workers of {}", "the team of {}"),
    ("shops", COMPANY, "the stores of {}", "the outlets of {}", "the branches of {}"),
    ("students", UNIVERSITY, "the pupils of {}", "the learners of {}", "the class of {}"),
    ("teachers", UNIVERSITY, "the professors of {}", "the lecturers of {}", "the faculty of {}"),
    ("age", PERSON, "the years of {}", "the birthdays of {}", "the winters of {}"),
    ("children", PERSON, "the kids of {}", "the heirs of {}", "the offspring of {}"),
)
NUMERIC: Mapping[str, Relation] = {
    name: Relation(name, subject, NUMBER, (f"the {name} of {{}}", *further)) for name, subject, *further in _NUMERIC
}
EVERY: Mapping[str, Relation] = {**RELATIONS, **NUMERIC}
ARITHMETIC = {  # an operation -> its wordings; an expert's traces show the first of each
    "sum": ("what is {first} plus {second} ?", "how many are {first} and {second} together ?"),
    "difference": ("what is {first} minus {second} ?", "by how many does {first} exceed {second} ?"),
}
SIGNS = {"sum": "+", "difference": "-"}
PLAIN = {"the", "of", "{}", "where", "who", "that", "which", "is", "was", "in", "for", "by", "has"}
# The words of phrasings that tell one relation from another.
_SAID = [said for relation in RELATIONS.values() for said in (*relation.phrasings, *relation.clauses)]
TELLING = tuple(sorted({word for said in _SAID for word in said.split()} - PLAIN))
_SAID_NUMERIC = [said for relation in NUMERIC.values() for said in relation.phrasings]
TELLING_NUMERIC = tuple(sorted({word for said in _SAID_NUMERIC for word in said.split()} - PLAIN))
INVERTIBLE = tuple(relation.name for relation in RELATIONS.values() if relation.clauses)

DOCUMENTS = ("the {relation} is {object} .", "{relation} : {object} .")  # the subject is the title
CHAIN = "{asks} is {phrase} ?"
COMPARISON = "which {type} is {phrase} ?"
CHOICE = "the one of {first} and {second} whose {relation} is {value}"
INTERSECTION = "which person {first} and {second} ?"
ASKS = {type: "who" if type == PERSON else "what" for type in TYPES}
ALIASES = {COMPANY: "{} company", UNIVERSITY: "{} university", CITY: "{} city"}  # a second spelling of a name


def name_words(type: str) -> list[str]:
    """Return the words that names of one type are made of, always in the same order."""
    starts, ends = SYLLABLES[type]
    return [start + end for start, end in product(starts, ends)]


def vocabulary() -> list[str]:
    """List every word of questions, documents, searches, answers and tags, without repeats; always the same list."""
    texts = [*TAGS, *FRAME_WORDS, *DOCUMENTS, CHAIN, COMPARISON, CHOICE, INTERSECTION]
    texts += [*ASKS.values(), *TYPES, *ALIASES.values()]
    for relation in RELATIONS.values():
        texts += [relation.name, *relation.phrasings, *relation.clauses]
    words = [word for text in texts for word in text.split() if not word.startswith("{")]
    words += [word for type in TYPES for word in name_words(type)]
    return list(dict.fromkeys(words))


def arithmetic_words() -> list[str]:
    """List every further word of a world with arithmetic: its wordings, its signs, and the numbers."""
    texts = [*_SAID_NUMERIC, *(way for ways in ARITHMETIC.values() for way in ways), *SIGNS.values()]
    words = [word for text in texts for word in text.split() if not word.startswith("{")]
    return [*dict.fromkeys(words), *map(str, range(2 * LARGEST + 1))]
