"""Authors, who write questions and play them: a teacher behind an endpoint, or templates without a model."""

import functools
import importlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qr_jax.errors import UserError
from qr_jax.sets.synth import verify
from qr_jax.sets.synth.draft import Chance, Draft
from qr_jax.sets.synth.library import Library
from qr_jax.sets.synth.play import Dialect, Policy, planned, taught
from qr_jax.sets.synth.teacher import Teacher
from qr_jax.sets.synth.templates import chains, checks, comparisons, facts

CANDIDATES = 20  # a question wanted: with fewer of them kept, the endpoint or the corpus is not fit for it
OF_TEMPLATES = ("chain", "comparison")
ATTEMPTS = 4  # trajectories of one question until one is right


@dataclass(frozen=True)
class Author:
    """A source of questions. `candidates` counts each generator's drafts; `draft` and `verify` raise Refused."""

    candidates: Mapping[str, int]
    draft: Callable[[str, int], Draft]
    verify: Callable[[Draft], None]
    policy: Callable[[Draft, int], Policy]  # of one attempt
    attempts: int


def generators() -> dict[str, Callable[..., Draft]]:
    """Return the functions of the files in generators/, by name: of library, teacher, chance and `documents`."""
    names = sorted(path.stem for path in (Path(__file__).parent / "generators").glob("[a-z]*.py"))
    return {name: getattr(importlib.import_module(f"qr_jax.sets.synth.generators.{name}"), name) for name in names}


def of_teacher(
    teacher: Teacher, library: Library, dialect: Dialect, questions: int, seed: int, documents: Sequence[int] = ()
) -> Author:
    """Return a teacher's author; a question needs a number of passages drawn from `documents`, () for the default."""
    written = generators()
    drawn = {"documents": documents} if documents else {}
    each = -(-CANDIDATES * questions // len(written))

    def draft(generator: str, number: int) -> Draft:
        return written[generator](library, teacher, Chance(seed, zlib.crc32(generator.encode()), number), **drawn)

    return Author(
        dict.fromkeys(written, each),
        draft,
        functools.partial(verify.verify, library=library, teacher=teacher),
        lambda draft, attempt: taught(teacher, dialect, attempt),
        ATTEMPTS,
    )


def of_templates(library: Library, dialect: Dialect, seed: int) -> Author:
    """Return the templates' author. ValueError if the passages state nothing that the templates recognise."""
    pages = facts.pages(library.passages, library.titles)
    if library.named is not None:  # the data's links are gold: what leads elsewhere is a namesake
        pages = {at: page.only(library.links[at]) for at, page in pages.items()}
    ordered = chains.in_turns(chains.chains(pages), seed)
    described = comparisons.describable(pages)
    places = sorted(described)
    key = zlib.crc32(b"comparison")
    order = sorted(range(len(places)), key=lambda at: Chance(seed, key, 1, at).below(2**40))
    if not ordered and not described:
        raise UserError(
            f"none of the {len(library.passages)} passages begins as an encyclopaedia's does ('X (born 1 May 1950) is "
            "...', 'X is a film directed by ...'), which is all that templates read; name a teacher with --teacher URL"
        )

    def draft(generator: str, number: int) -> Draft:
        if generator == "chain":
            return chains.draft(ordered[number], pages, library)
        return comparisons.draft(places[order[number]], pages, described, library, Chance(seed, key, 2, number))

    return Author(
        {"chain": len(ordered), "comparison": len(places)},
        draft,
        functools.partial(checks.verify, library=library),
        lambda draft, attempt: planned(draft, dialect.parallel, attempt),
        2,
    )


def interleaved(candidates: Mapping[str, int], mix: Mapping[str, int] | None = None) -> list[tuple[str, int]]:
    """Return (generator, number) of every candidate: in turns, or in `mix`'s proportions, until each runs out."""
    shares = dict.fromkeys(candidates, 1) if mix is None else mix
    every: list[tuple[float, Any, int]] = [
        (number / share, name, number) for name, share in shares.items() for number in range(candidates[name])
    ]
    return [(name, number) for _, name, number in sorted(every, key=lambda candidate: candidate[0])]
