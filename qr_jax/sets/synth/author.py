"""The author: a teacher behind an endpoint that writes questions, by the functions in generators/, and plays them."""

import functools
import importlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qr_jax.sets.synth.draft import Chance, Draft
from qr_jax.sets.synth.library import Library
from qr_jax.sets.synth.teacher import Teacher

CANDIDATES = 20  # a question wanted: with fewer of them kept, the endpoint or the corpus is not fit for it


@dataclass(frozen=True)
class Author:
    """A teacher over a library; a question needs a number of passages drawn from `documents`, () for the default."""

    teacher: Teacher
    library: Library
    questions: int  # how many are wanted
    seed: int
    documents: Sequence[int] = ()

    def candidates(self) -> dict[str, int]:
        """Return how many drafts each generator may make."""
        return dict.fromkeys(generators(), -(-CANDIDATES * self.questions // len(generators())))

    def draft(self, generator: str, number: int) -> Draft:
        """Write a candidate; Refused if there is none."""
        drawn = {"documents": self.documents} if self.documents else {}
        chance = Chance(self.seed, zlib.crc32(generator.encode()), number)
        return generators()[generator](self.library, self.teacher, chance, **drawn)


@functools.cache
def generators() -> dict[str, Callable[..., Draft]]:
    """Return the functions of the files in generators/, by name: of library, teacher, chance and `documents`."""
    names = sorted(path.stem for path in (Path(__file__).parent / "generators").glob("[a-z]*.py"))
    return {name: getattr(importlib.import_module(f"qr_jax.sets.synth.generators.{name}"), name) for name in names}


def interleaved(candidates: Mapping[str, int], mix: Mapping[str, int] | None = None) -> list[tuple[str, int]]:
    """Return (generator, number) of every candidate: in turns, or in `mix`'s proportions, until each runs out."""
    shares = dict.fromkeys(candidates, 1) if mix is None else mix
    every: list[tuple[float, Any, int]] = [
        (number / share, name, number) for name, share in shares.items() for number in range(candidates[name])
    ]
    return [(name, number) for _, name, number in sorted(every, key=lambda candidate: candidate[0])]
