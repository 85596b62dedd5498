"""The records that flow through the system, and the key to the letters at the end of array names.

Axes: Q queries of a step, G samples of one query (a group), N episodes (N = Q * G), T turns, L tokens of an episode,
P queries of the pool, F families of queries, R packed rows, C columns of a packed row, M micro-batches, E episode slots
of a micro-batch, S slots, V vocabulary, D model width, H heads, K key/value heads, d size of a head, B positions of the
cache, X others. In rollout/ T is tiles, I the ids of a tile, and C the tokens of a chunk; in models/ G is the query
heads of a key/value head.

An array's name ends in its axes: `reward_QG` is [queries, samples]. This file imports no jax.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from qr_jax.errors import UserError
from qr_jax.settings import json_text

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)  # 1.2e-38: XLA flushes what is smaller, numpy does not

# answered; ended by the environment: no_action, turns; cut: length, context; not the model's fault: fault
StopReason = Literal["answered", "no_action", "length", "turns", "context", "fault"]
Verdict = Literal["signal", "easy", "hard", "fault"]


@dataclass(frozen=True)
class Query:
    """One question. `entities`: names on an expert's way to the answer; `meta`: its row's other columns."""

    id: str
    question: str
    answers: tuple[str, ...]
    entities: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Passage:
    """One retrieved document; `score` is the retriever's own, larger is better."""

    id: str
    title: str
    text: str
    score: float = 0.0

    def scored(self, score: float) -> "Passage":
        """Return a copy with this score; `dataclasses.replace` takes three times as long, which slows searches."""
        return Passage(self.id, self.title, self.text, score)


@dataclass(frozen=True)
class Call:
    """A call of a tool; `arguments` is a JSON object in one canonical form (`call_of`), so equal calls are equal."""

    tool: str
    arguments: str

    def given(self) -> dict[str, Any]:
        """Return the arguments by name."""
        return json_text.parse(self.arguments)

    def __getitem__(self, name: str) -> Any:
        return self.given()[name]

    def __str__(self) -> str:
        return f"{self.tool} {self.arguments}"


def call_of(tool: str, arguments: Mapping[str, Any]) -> Call:
    """Make a call. ValueError for arguments that JSON cannot hold."""
    return Call(tool, json.dumps(arguments, sort_keys=True, ensure_ascii=False, allow_nan=False))


@dataclass(frozen=True)
class Turn:
    """One side's text. An env turn that answers a Search holds its queries and the passages of each query.

    A model turn that the chat template began with `<think>` begins with that tag, which is not sampled.
    """

    author: Literal["model", "env"]
    text: str
    queries: tuple[str | Call, ...] = ()
    passages: tuple[tuple[Passage, ...], ...] = ()


@dataclass(frozen=True)
class Trace:
    """An expert's turns: every turn but the last asks for a search or a tool, the last answers."""

    query: Query
    turns: tuple[str, ...]


@dataclass(frozen=True)
class Say:
    """An environment's move: show `text` to the model and let it write until one of the `stop` strings.

    `role` is the text's chat role: "user" and "tool" open a new message of the template, "inline" continues the
    model's own message. `tools` are JSON schemas for the template, read on the first move only. `text` is
    data: no token of it is an added token of the tokenizer, whatever it contains.
    """

    text: str
    role: Literal["user", "tool", "inline"] = "user"
    stop: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Search:
    """An environment's move: run these queries; their passages come back as the `passages` of an env turn.

    A text goes to the retriever, a Call to its tool.
    """

    queries: tuple[str | Call, ...]


@dataclass(frozen=True)
class Stop:
    """An environment's move: the episode is over. `answer` is what the model gave, None when it gave none."""

    reason: StopReason
    answer: str | None = None


@dataclass(frozen=True)
class Episode:
    """One rollout. `ids_L` are the very ids the model saw and sampled; `mask_L` is true on those it sampled.

    `logp_L` is float32 nats under the sampling distribution (0 where not sampled); `turn_L` numbers the model's turns
    from 0 (-1 on the environment's tokens). Only a fault makes an episode invalid: other endings are the policy's own.
    """

    query: Query
    sample: int
    step: int
    ids_L: np.ndarray
    mask_L: np.ndarray
    logp_L: np.ndarray
    turn_L: np.ndarray
    turns: tuple[Turn, ...]
    answer: str | None
    stop: StopReason
    valid: bool
    fault: str | None = None

    @property
    def model_turns(self) -> int:
        """Return how many turns the model took."""
        return int(self.turn_L.max(initial=-1)) + 1


@dataclass(frozen=True)
class Scores:
    """A reward's result where an array does not suffice: more than one number an episode.

    `score_G` trains; NaN is a fault. `outcome_G` is 1 for what is correct (None: by exact match). `turn_GT` holds
    a number for each of the model's turns: one sequence per episode, as long as the episode has model turns.
    """

    score_G: Any
    outcome_G: Any = None
    turn_GT: Any = None


@dataclass(frozen=True)
class Grades:
    """Rewards of a step, one row per query.

    `reward_QG` trains; `outcome_QG` (0 or 1; None: the reward) decides easy and hard. `turn_reward_QGT` holds a reward
    for each of the model's turns where `turn_valid_QGT` is True; both are None where the reward gives none.

    Smaller groups are padded, with valid_QG False. The function `grades` makes one from numpy values and cleans them.
    """

    reward_QG: Any
    valid_QG: Any
    outcome_QG: Any = None
    turn_reward_QGT: Any = None
    turn_valid_QGT: Any = None


def grades(reward_QG, valid_QG, outcome_QG=None, turn_reward_QGT=None, turn_valid_QGT=None) -> Grades:
    """Make float32 grades: a value below 1.2e-38 in size becomes 0, a non-finite one makes its episode a fault.

    ValueError if rewards and `valid_QG` are not both [Q, G].
    """
    valid_QG = np.asarray(valid_QG, bool)

    def clean(value):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and so a fault
            value = np.asarray(value, np.float64).astype(np.float32)
        return np.where(np.abs(value) < SMALLEST_NORMAL, np.float32(0), value)

    reward_QG = clean(reward_QG)
    if reward_QG.shape != valid_QG.shape or reward_QG.ndim != 2:
        raise UserError(f"rewards {reward_QG.shape} and valid {valid_QG.shape} must both be [queries, samples]")
    valid_QG = valid_QG & np.isfinite(reward_QG)
    if outcome_QG is not None:
        outcome_QG = clean(outcome_QG)
        valid_QG = valid_QG & np.isfinite(outcome_QG)
        outcome_QG = np.where(valid_QG, outcome_QG, np.float32(0))
    if turn_reward_QGT is not None:
        turn_reward_QGT = clean(turn_reward_QGT)
        valid_QG = valid_QG & np.isfinite(turn_reward_QGT).all(-1)
        turn_valid_QGT = np.ones(turn_reward_QGT.shape, bool) if turn_valid_QGT is None else turn_valid_QGT
        turn_valid_QGT = np.asarray(turn_valid_QGT, bool) & valid_QG[..., None]
        turn_reward_QGT = np.where(turn_valid_QGT, turn_reward_QGT, np.float32(0))
    reward_QG = np.where(valid_QG, reward_QG, np.float32(0))
    return Grades(reward_QG, valid_QG, outcome_QG, turn_reward_QGT, turn_valid_QGT)


@dataclass(frozen=True)
class Ask:
    """A round's request: draw `draw` new queries, and make `more` (pool index -> count) samples of drawn ones."""

    draw: int
    more: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """One step as the pool saw it. `accepted` are indices into the pool, `accepted_at` positions in `drawn_Q`."""

    drawn_Q: np.ndarray
    accepted: np.ndarray
    accepted_at: np.ndarray
    verdict_Q: np.ndarray
    grades: Grades
    step: int
    seed: int


Memory = Mapping[str, np.ndarray]
# (queries, k) -> k passages of each, the best first; a query is a text, or a Call where there are tools
SearchFunction = Callable[[list[Any], int], Sequence[Sequence[Passage]]]
