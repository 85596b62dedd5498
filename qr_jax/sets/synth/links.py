"""Links between passages: those in the data, or the titles that other passages mention, found in one pass."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from qr_jax.data.characters import marks, nfc
from qr_jax.records import Passage
from qr_jax.sets.made_traces import plain

SHORTEST = 4  # letters of a title of one word
HUB_SHARE, HUB_LEAST = 0.002, 50  # a title that more passages mention leads nowhere in particular
Links = Sequence[tuple[int, ...]]


@functools.cache
def runs() -> re.Pattern[str]:
    """Return the pattern of letters, digits and _ in a row, with their marks."""
    return re.compile(rf"\w[\w{marks()}]*")


def given(passages: Sequence[Passage], targets: Sequence[Iterable[str]]) -> Links:
    """Each passage's links by place, of the ids or titles that its row names; those of no passage are left out."""
    places: dict[str, int] = {}
    for at, passage in enumerate(passages):
        places.setdefault(nfc(passage.title), at)
    places |= {passage.id: at for at, passage in enumerate(passages)}  # an id is unique, and wins over a title
    found = ([places[n] for name in names for n in (name, nfc(name)) if n in places] for names in targets)
    return [tuple(dict.fromkeys(place for place in listed if place != at)) for at, listed in enumerate(found)]


def unique_titles(passages: Iterable[Passage]) -> dict[str, int]:
    """The words of each title without its bracket -> its passage's place, where no other passage has that title.

    A title of one short word, or one that begins with a small letter, is no name to be recognised, and is left out.
    """
    places: dict[str, int] = {}
    twice: set[str] = set()
    for at, passage in enumerate(passages):
        words = runs().findall(nfc(plain(passage.title)))
        name = " ".join(words)
        if not words or words[0][0].islower() or (len(words) == 1 and (len(name) < SHORTEST or name.isdigit())):
            continue
        if name in places:
            twice.add(name)
        places[name] = at
    return {name: at for name, at in places.items() if name not in twice}


def mentioned(passages: Sequence[Passage], titles: Mapping[str, int]) -> Links:
    """Each passage's links by place: the titles that its text mentions, longest first where they overlap.

    Case counts ("Refugee" is no refugee). The title that very many passages mention links nothing.
    """
    lengths: dict[str, list[int]] = {}  # first word -> the numbers of words of the titles that begin with it
    for name in titles:
        first, count = name.partition(" ")[0], name.count(" ") + 1
        if count not in lengths.setdefault(first, []):
            lengths[first].append(count)
    for counts in lengths.values():
        counts.sort(reverse=True)
    links: list[tuple[int, ...]] = []
    mentions: Counter[int] = Counter()
    for at, passage in enumerate(passages):
        words, place = runs().findall(nfc(passage.text)), 0
        found: dict[int, None] = {}
        while place < len(words):
            step = 1
            for count in lengths.get(words[place], ()):
                target = titles.get(" ".join(words[place : place + count]))
                if target is not None and place + count <= len(words):
                    step = count
                    if target != at:
                        found[target] = None
                    break
            place += step
        links.append(tuple(found))
        mentions.update(found.keys())
    most = max(HUB_LEAST, HUB_SHARE * len(links))
    return [tuple(target for target in found if mentions[target] <= most) for found in links]
