"""The state of one episode in flight, and the statistics of a rollout. Imports no jax."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from qr_jax.config import Rollout
from qr_jax.records import Episode, Query, Say, StopReason, Turn

THOUGHT_SHOWN = re.compile(rb"<think>\s*(</think>\s*)?\Z")
MOST_SHOWN = 32  # last tokens shown in which THOUGHT_SHOWN is searched
OPENS, CLOSES = b"<think>", b"</think>"


@dataclass(eq=False)
class EpisodeState:
    """One episode in flight. `cached` counts the ids whose keys and values its row holds."""

    query_at: int
    sample: int
    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    stop: tuple[bytes, ...] = ()
    cached: int = 0
    model_turns: int = 0
    turn_start: int = 0
    tail: bytes = b""  # the end of the turn so far, where a stop string or a thought's tag may have begun
    thinking: bool = False  # the turn so far ends in a thought, where no stop string counts
    complete: bool = False  # the turn ended by a stop string or an end-of-turn id
    by_eos: bool = False
    searching: bool = False

    def show(self, ids: Sequence[int], say: Say) -> None:
        """Append what the environment says and open the model's next turn."""
        self.ids += ids
        self.mask += [False] * len(ids)
        self.logp += [0.0] * len(ids)
        self.turn += [-1] * len(ids)
        self.stop = tuple(text.encode() for text in say.stop)
        self.turn_start, self.tail, self.thinking = len(self.ids), b"", False
        self.complete = self.by_eos = self.searching = False

    def take(
        self, tokens: Sequence[int], logps: Sequence[float], pieces: Sequence[bytes], eos_ids: Sequence[int]
    ) -> int:
        """Take sampled tokens up to the turn's end; what was decoded past it is dropped. Returns how many it took."""
        taken = self._cut(tokens, pieces)
        self.by_eos = taken > 0 and tokens[taken - 1] in eos_ids
        self.complete = self.complete or self.by_eos
        self.ids += tokens[:taken]
        self.mask += [True] * taken
        self.logp += logps[:taken]
        self.turn += [self.model_turns] * taken
        self.cached = len(self.ids) - 1
        return taken

    def _cut(self, tokens: Sequence[int], pieces: Sequence[bytes]) -> int:
        """Count the turn's tokens: up to one that completes a stop string, else all (an eos id is the last)."""
        if len(self.ids) == self.turn_start:
            self.thinking = bool(self.begun(pieces))
        seen = len(self.tail)
        end = self._stopped(self.tail + b"".join([pieces[token] for token in tokens]))
        if end is None:
            return len(tokens)
        self.complete = True
        for taken, token in enumerate(tokens, 1):
            seen += len(pieces[token])
            if seen >= end:
                return taken
        raise AssertionError("a stop string ends in the joined pieces and in none of them")

    def _stopped(self, text: bytes) -> int | None:
        """Return the end of the first stop string outside thoughts; without one None, and keep the text's tail."""
        at = 0
        while True:
            signs = (CLOSES,) if self.thinking else (*self.stop, OPENS)
            ends = [(start + len(sign), sign) for sign in signs if (start := text.find(sign, at)) >= 0]
            if not ends:
                self.tail = text[max(at, len(text) + 1 - max(map(len, signs))) :]
                return None
            end, sign = min(ends, key=lambda each: (each[0], each[1] not in self.stop))
            if not self.thinking and sign in self.stop:
                return end
            at = end if sign == OPENS else end - len(CLOSES)  # a stop string may be the closing tag
            self.thinking = not self.thinking

    def shown_thought(self, pieces: Sequence[bytes]) -> str:
        """Return the thought, begun or empty, at the end of what was shown before this turn; "" where there is none."""
        shown = self.ids[max(0, self.turn_start - MOST_SHOWN) : self.turn_start]
        match = THOUGHT_SHOWN.search(b"".join([pieces[token] for token in shown if token < len(pieces)]))
        return match[0].decode() if match else ""

    def begun(self, pieces: Sequence[bytes]) -> str:
        """Return the tag, with blanks, of a thought in which this turn begins; "" where it begins outside thoughts."""
        shown = self.shown_thought(pieces)
        return "" if "</think>" in shown else shown

    def text(self, pieces: Sequence[bytes]) -> str:
        """Return what the model wrote this turn, after the tag of a begun thought and without the id that ended it."""
        sampled = self.ids[self.turn_start : len(self.ids) - self.by_eos]
        return self.begun(pieces) + b"".join([pieces[token] for token in sampled]).decode("utf-8", errors="replace")

    def room(self, settings: Rollout) -> int:
        """Return how many tokens may still be sampled in this turn."""
        left = settings.turn_tokens - (len(self.ids) - self.turn_start)
        return min(left, settings.context_tokens - len(self.ids))

    def episode(self, query: Query, step: int, stop: StopReason, answer: str | None, fault: str | None) -> Episode:
        """Return the episode as it ended."""
        return Episode(
            query=query, sample=self.sample, step=step, ids_L=np.array(self.ids, np.int32),
            mask_L=np.array(self.mask, bool), logp_L=np.array(self.logp, np.float32),
            turn_L=np.array(self.turn, np.int32), turns=tuple(self.turns), answer=answer, stop=stop,
            valid=fault is None, fault=fault,
        )  # fmt: skip


@dataclass
class Statistics:
    """Statistics of one rollout: times in seconds, the rest are counts."""

    tokens: int = 0
    prompt_tokens: int = 0
    observation_tokens: int = 0
    observation_lent: int = 0  # of these, copied from an episode with the same history, shown the same text
    ticks: int = 0
    decode_steps: int = 0  # a step gives every slot a token and reads all weights once
    cache_positions: int = 0  # summed over the decode steps: positions in use in the slots that decoded
    searches: int = 0
    searches_sent: int = 0
    searches_failed: int = 0
    passages_cut: int = 0  # to passage_chars or observation_tokens, or left out for these
    rows_moved: int = 0
    cache_grown: int = 0  # times that the slots' cache was copied to a longer one
    decode_s: float = 0.0
    append_s: float = 0.0
    search_s: float = 0.0  # in the retriever
    search_wait_s: float = 0.0  # decoding stood still for it
    total_s: float = 0.0

    @classmethod
    def combined(cls, parts: Sequence["Statistics"], seconds: Callable[[Sequence[Any]], Any] = sum) -> "Statistics":
        """Combine statistics: counts are added up, times combined by `seconds`."""
        values = {part.name: [getattr(statistics, part.name) for statistics in parts] for part in fields(cls)}
        return cls(**{name: (seconds if name.endswith("_s") else sum)(each) for name, each in values.items()})
