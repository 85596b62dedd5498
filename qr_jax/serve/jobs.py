"""What the HTTP side and the engine's thread hand each other: a job, and the pieces of its answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qr_jax.records import Episode

TOP = 20  # likeliest ids that are given beside one, as OpenAI's top_logprobs at most


@dataclass(eq=False)
class Job:
    """Samples of one prompt (`ids`), or an agent's answers to one `question`.

    `temperature` 0 is greedy. `stop` are the bytes of stop strings. `scored`: its ids are scored at the end. `owner`
    gets its pieces, and `number` is its place in the engine.
    """

    ids: Sequence[int]
    max_tokens: int  # sampled; of an agent, in each turn
    samples: int = 1
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[bytes, ...] = ()
    ignore_eos: bool = False
    stream: bool = False
    scored: bool = False
    question: str | None = None
    owner: Any = None
    number: int = -1


@dataclass(frozen=True)
class Scores:
    """Log-probabilities (nats, at the job's temperature) of all ids but the first, and the likeliest in their places.

    Row 0 is about the second id.
    """

    logp_L: np.ndarray
    top_id_LK: np.ndarray
    top_logp_LK: np.ndarray


@dataclass
class Piece:
    """What a sample got since its last piece; `finish` ends it: "stop" or "length". `error` ends its whole job."""

    sample: int
    finish: str | None = None
    ids: Sequence[int] = ()
    logp: Sequence[float] = ()
    scores: Scores | None = None
    episode: Episode | None = field(default=None, repr=False)
    error: str = ""
    status: int = 500  # of the error
