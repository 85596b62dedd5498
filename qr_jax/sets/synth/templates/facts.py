"""Facts that an encyclopaedia's passage states first and explicitly: its kind, years, places, and who made it.

The patterns of English text are meant to miss much and to be right where they match: a name that is joined to another
by "and" or a comma, or that is not exactly one passage's title, is no fact."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from qr_jax.data.characters import nfc, runs
from qr_jax.data.traces import plain
from qr_jax.records import Passage

READ_CHARS = 700  # of a passage: later sentences speak of other things
MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
DATE = rf"(?:\d{{1,2}} {MONTH} \d{{4}}|{MONTH} \d{{1,2}}, \d{{4}})"
PLACE = r"[A-Z][\w'’.-]+(?: [A-Z][\w'’-]+){0,2}(?:, [A-Z][\w'’-]+(?: [A-Z][\w'’-]+)?)?"
NATION_WORDS = """
    American British English Scottish Welsh Irish Canadian Australian French German Italian Spanish Indian Japanese
    Chinese Korean Russian Soviet Swedish Norwegian Danish Dutch Belgian Swiss Austrian Polish Mexican Brazilian
    Argentine Israeli Turkish Greek Finnish Hungarian Czech Filipino Jamaican Nigerian South North African New
    Zealand Hong Kong Taiwanese Puerto Rican Grammy Academy Award Emmy Golden Globe Oscar
"""
NATIONS = frozenset(NATION_WORDS.split())
KINDS = (  # what the first sentence calls it -> how a question names it; the first that stands in it counts
    ("television film", "film"), ("video game", "video game"), ("television series", "television series"),
    ("sitcom", "sitcom"), ("film", "film"), ("studio album", "album"), ("album", "album"), ("mixtape", "mixtape"),
    ("song", "song"), ("single", "song"), ("novella", "novella"), ("novel", "novel"), ("short story", "short story"),
    ("book", "book"), ("memoir", "memoir"), ("musical", "musical"), ("opera", "opera"), ("painting", "painting"),
    ("magazine", "magazine"), ("newspaper", "newspaper"), ("record label", "record label"), ("band", "band"),
    ("airline", "airline"), ("company", "company"), ("university", "university"), ("college", "college"),
    ("manga", "manga"), ("episode", "episode"),
)  # fmt: skip
WORKS = {"film", "video game", "television series", "sitcom", "album", "mixtape", "song", "novel", "novella", "book"}
WORKS |= {"short story", "memoir", "musical", "opera", "painting", "manga", "episode", "magazine", "newspaper"}
WRITER = "writer|author|novelist|journalist|poet|playwright|historian|screenwriter|essayist|professor|philosopher"
PERFORMER = (
    "singer|band|rapper|musician|songwriter|group|duo|artist|DJ|trio|guitarist|vocalist|rock|boy band|entertainer"
)
IS_A = r"\b(?:is|was) (?:an?|the) (?:(?!based|inspired|cover)[^.])*?"  # what is said of the thing itself
OF_WORKS = ("the album", "the book")  # phrases of what is a work itself
MAKER = "company|studio|developer|publisher|subsidiary|corporation|manufacturer|conglomerate|division|house"
CREATOR = "creator|writer|producer|comedian|cartoonist|animator|actor"
FILM_PEOPLE = "direct|film|actor|actress|screenwriter|producer|cinematographer|comedian|animator|choreographer"


@dataclass(frozen=True)
class Relation:
    """The words before a name in a passage, the name's role, and what the name's own passage must call it."""

    pattern: str
    phrase: str  # of what is named, {} being the phrase of what it is said of
    role: str
    kinds: frozenset[str] | None = None  # of what it is said of; None: a person


def _of(*kinds: str) -> frozenset[str]:
    return frozenset(kinds)


SCREEN = _of("film", "television series", "sitcom", "episode")
RELATIONS = (
    Relation(r"(?<!co-)\bdirected by ", "the director of {}", FILM_PEOPLE, _of("film")),
    Relation(r"\bcreated by ", "the creator of {}", CREATOR, SCREEN),
    Relation(r"\bstarring ", "the star of {}", "actor|actress|singer|comedian|wrestler|model", SCREEN),
    Relation(r"\bhosted by ", "the host of {}", "host|presenter|comedian|actor|journalist|personality", SCREEN),
    Relation(r"\bbased on (?:the|a|an)(?: \d{4})?(?: \w+)? (?:novel|book|memoir|short story)(?: of the same name)?,? "
             r"(?:\"[^\"]+\" )?by ", "the author of the book on which {} is based", WRITER, SCREEN),
    Relation(r"\bbased on (?:the|a|an)(?: \d{4})?(?: \w+)? (?:novel|book|memoir|short story),? \"?",
             "the book on which {} is based", "novel|book|memoir|story", SCREEN),
    Relation(IS_A + r"\b(?:novel|novella|book|memoir|short story|play|manga)s? (?:written )?by ", "the author of {}",
             WRITER, _of("novel", "novella", "book", "memoir", "short story", "manga")),
    Relation(IS_A + r"\b(?:album|mixtape|song|single) (?:recorded |performed |released )?by ", "the performer of {}",
             PERFORMER, _of("album", "mixtape", "song")),
    Relation(r"\bfrom (?:the|their|his|her|its|\w+'s)(?: [\w-]+){0,5} album,? \"?", "the album on which {} appears",
             "album", _of("song")),
    Relation(r"\bdeveloped by ", "the developer of {}", MAKER, _of("video game")),
    Relation(r"\bpublished by ", "the publisher of {}", MAKER, _of("video game", "magazine", "newspaper", "book")),
    Relation(r"\b(?:subsidiary|division) of ", "the parent company of {}", MAKER + "|group",
             _of("company", "record label", "airline")),
    Relation(r"\bfounded by ", "the founder of {}", "",
             _of("company", "record label", "airline", "magazine", "newspaper", "band", "university", "college")),
    Relation(r"\bpainting by ", "the painter of {}", "painter|artist", _of("painting")),
    Relation(r"(?<!set to )\b(?:composed|music) by ", "the composer of {}", "composer|musician|songwriter|singer",
             _of("opera", "musical", "film", "song")),
    Relation(r"\b(?:attended|graduated from|was educated at|studied at|is an alumnus of) (?:the )?",
             "the school or university that {} attended", "university|college|school|academy|institute"),
    Relation(r"\b(?:singer|vocalist|guitarist|drummer|bassist|frontman|keyboardist|founding member|member) "
             r"(?:of|for|in) (?:the )?(?:[\w-]+ ){0,5}?(?:band|group) ", "the band in which {} plays or played",
             "band|group|duo"),
    Relation(r"\b(?:is|was|has been) (?:\w+ )?(?:married to|the (?:wife|husband) of) ", "the spouse of {}", ""),
    Relation(r"\bplays (?:\w+ ){0,4}for ", "the team that {} plays for", "club|team"),
)  # fmt: skip

ATTRIBUTES = (  # name, pattern with the value in a group, question about {}
    ("founded", r"\b(?:founded|established|formed) (?:\w+ )?(?:in|on) (?:[\w, ]{0,30}?)\b(\d{4})\b",
     "In what year was {} founded?"),
    ("base", rf"\b(?:headquartered|based) in ({PLACE})", "Where is {} based?"),
    ("seat", rf"\bcounty seat is ({PLACE})", "What is the county seat of {}?"),
)  # fmt: skip


@dataclass(frozen=True)
class Page:
    """A passage's facts. `said` maps an attribute to its answers, `leads` a relation's phrase to the place it names."""

    place: int
    title: str
    kind: str  # "person", one of KINDS, or "" for what is none of them
    description: str  # what the first sentence calls it, from its article on
    said: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    leads: Mapping[str, int] = field(default_factory=dict)

    def only(self, places: Sequence[int]) -> "Page":
        """Return the page with only those leads that go to these places."""
        return replace(self, leads={phrase: at for phrase, at in self.leads.items() if at in places})

    def phrase(self) -> str:
        """Return the page's name in a question, with its kind before it unless that is "person" or unknown."""
        if self.kind in ("", "person"):
            return self.title
        return f'the {self.kind} "{self.title}"' if self.kind in WORKS else f"the {self.kind} {self.title}"


def pages(passages: Sequence[Passage], titles: Mapping[str, int]) -> dict[int, Page]:
    """Return the pages, by place, of passages with a unique title whose first sentence says what they are."""
    found = {at: page for at in sorted(titles.values()) if (page := page_of(passages[at], at, titles))}
    return {at: _without_strangers(page, found) for at, page in found.items()}


def page_of(passage: Passage, place: int, titles: Mapping[str, int]) -> Page | None:
    text = " ".join(nfc(passage.text[:READ_CHARS]).replace('""', '"').split())
    sentence = first_sentence(text)
    head = re.match(r".{2,160}?\b(?:is|was|are|were) (an?|the) (.+)", bare(sentence))
    if head is None or passage.title.startswith("List of "):
        return None
    description = head[2].rstrip(". ")
    opening = text[: text.find(")") + 1]
    born = re.search(rf"\((?:[^()]*?[;,] ?|né[e]? [^()]*? )?(?:born )?({DATE})(?=[ ,;–)-])", opening)
    is_person = born is not None and re.search(r"born|\d{4} ?[–-] ", opening) is not None
    kind = "person" if is_person else kind_of(description)
    said: dict[str, tuple[str, ...]] = {}
    if is_person and born:
        said["born"] = (born[1][-4:] if born[1][-4:].isdigit() else born[1],)
        said["born on"] = (born[1],)
        if place_of_birth := re.search(rf"\bborn (?:{DATE},? )?in ({PLACE})", text[:300]):
            said["birthplace"] = whole_and_first(place_of_birth[1])
        if died := re.search(rf"\([^()]*{DATE}[^()–]* ?[–-] ?(?:c\. )?(?:{DATE}|\d{{4}})(?=[ ,;)])", opening):
            said["died"] = (re.findall(r"\d{4}", died[0])[-1],)
    elif kind in WORKS - {"magazine", "newspaper", "painting", "episode"}:
        stated = re.match(r"(?:upcoming )?(\d{4}) ", description)
        year = stated or re.search(r"\breleased (?:in|on) [\w, ]{0,20}?(\d{4})", text)
        if year:
            said["released"] = (year[1],)
    for name, pattern, _ in ATTRIBUTES:
        if kind != "person" and kind not in WORKS and (match := re.search(pattern, text)):
            said[name] = whole_and_first(match[1])
    return Page(place, plain(passage.title), kind, description, said, dict(leads(text, kind, place, titles)))


def leads(text: str, kind: str, place: int, titles: Mapping[str, int]):
    """Yield (phrase, place) of each relation that the text states exactly once, of one name alone."""
    for relation in RELATIONS:
        if (kind == "person") != (relation.kinds is None) or (relation.kinds and kind not in relation.kinds):
            continue
        matches = list(re.finditer(relation.pattern, text))
        target = named_at(text, matches[0].end(), titles) if len(matches) == 1 else None
        if target is not None and target != place:
            yield relation.phrase, target


def named_at(text: str, start: int, titles: Mapping[str, int]) -> int | None:
    """Return the place of the passage whose title stands alone at `start`, after small words and nationalities."""
    words = list(runs().finditer(text, start, min(len(text), start + 120)))
    skipped = 0
    while skipped < len(words) and (words[skipped][0][0].islower() or words[skipped][0] in NATIONS):
        skipped += 1
    if skipped == len(words) or re.search(r"[.;:()]", text[start : words[skipped].start()]):
        return None
    rest = words[skipped:]
    for count in range(min(8, len(rest)), 0, -1):
        target = titles.get(" ".join(word[0] for word in rest[:count]))
        if target is not None:
            after = text[rest[count - 1].end() :]
            alone = (
                re.match(r"\"?(?:[ -][A-Z]|'s|,? and (?!\w+(?:ing|ed)\b|written\b)|,? & | ?/|, [A-Z\"]|,? or )", after)
                is None
            )
            return target if alone else None
    return None


def _without_strangers(page: Page, known: Mapping[int, Page]) -> Page:
    """Remove leads to namesakes: the target's own passage must call it what the relation says."""
    roles = {relation.phrase: relation.role for relation in RELATIONS}
    fit = {
        phrase: at
        for phrase, at in page.leads.items()
        if at in known
        and (known[at].kind in WORKS) == phrase.startswith(OF_WORKS)
        and re.search(roles[phrase], f"{known[at].kind} {known[at].description}")
        and (known[at].kind not in WORKS or _shared_names(page.description, known[at].description))
    }
    return replace(page, leads=fit)


def _shared_names(first: str, second: str) -> set[str]:
    """Return the names in both descriptions: a song and its album share a performer, namesakes do not."""
    names = [{word for word in re.findall(r"\b[A-Z]\w+", text) if word not in NATIONS} for text in (first, second)]
    return names[0] & names[1]


def first_sentence(text: str) -> str:
    """Return the text up to the first full stop outside brackets that ends a sentence, not an abbreviation."""
    for stop in re.finditer(r"\.(?= [A-Z\"]|$)", text):
        before = text[: stop.start()]
        last = before.rpartition(" ")[2].lstrip('("')
        if before.count("(") == before.count(")") and (len(last) > 3 or last[-1:].isdigit()) and "." not in last:
            return before
    return text


def bare(sentence: str) -> str:
    """Return the sentence without its brackets."""
    while (shorter := re.sub(r"\s*\([^()]*\)", "", sentence)) != sentence:
        sentence = shorter
    return sentence


def kind_of(description: str) -> str:
    """Return the kind that the description's first words name; "" for none."""
    head = re.split(
        r"\b(?:by|directed|written|of|from|in|on|that|which|who|for|and|about|based|published|created)\b", description
    )[0]
    found = [(head.rfind(word), name) for word, name in KINDS if re.search(rf"\b{word}\b", head)]
    return found[0][1] if found else ""


def whole_and_first(value: str) -> tuple[str, ...]:
    """Return e.g. 'Goose Creek, Texas' and 'Goose Creek': either is a right answer."""
    return tuple(dict.fromkeys((value, value.partition(",")[0])))
