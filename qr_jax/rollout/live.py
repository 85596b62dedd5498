"""One episode in flight, and what a rollout counts. Imports no jax."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qr_jax.config import Rollout
from qr_jax.records import Episode, Query, Say, StopReason, Turn


@dataclass(eq=False)
class Live:
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
    tail: bytes = b""  # the end of the turn so far, where a stop string may have begun
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
        self.turn_start, self.tail = len(self.ids), b""
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
        """How many tokens are the turn's: up to one that completes a stop string, else all (an eos id is the last)."""
        kept = max((len(text) for text in self.stop), default=1) - 1
        text = self.tail + b"".join([pieces[token] for token in tokens])
        if not any(stop in text for stop in self.stop):  # most chunks; below, token by token
            self.tail = text[len(text) - kept :] if kept < len(text) else text
            return len(tokens)
        text, self.complete = self.tail, True
        for taken, token in enumerate(tokens, 1):
            text += pieces[token]
            if any(stop in text for stop in self.stop):
                return taken
        raise AssertionError("a stop string stands in the joined pieces and in no first part of them")

    def text(self, pieces: Sequence[bytes]) -> str:
        """What the model wrote this turn, without the id that ended it."""
        sampled = self.ids[self.turn_start : len(self.ids) - self.by_eos]
        return b"".join([pieces[token] for token in sampled]).decode("utf-8", errors="replace")

    def room(self, settings: Rollout) -> int:
        """Tokens that may still be sampled in this turn."""
        left = settings.turn_tokens - (len(self.ids) - self.turn_start)
        return min(left, settings.context_tokens - len(self.ids))

    def out_of_room(self, settings: Rollout) -> StopReason | None:
        if len(self.ids) >= settings.context_tokens:
            return "context"
        return "length" if len(self.ids) - self.turn_start >= settings.turn_tokens else None

    def episode(self, query: Query, step: int, stop: StopReason, answer: str | None, fault: str | None) -> Episode:
        return Episode(
            query=query, sample=self.sample, step=step, ids_L=np.array(self.ids, np.int32),
            mask_L=np.array(self.mask, bool), logp_L=np.array(self.logp, np.float32),
            turn_L=np.array(self.turn, np.int32), turns=tuple(self.turns), answer=answer, stop=stop,
            valid=fault is None, fault=fault,
        )  # fmt: skip


@dataclass
class Statistics:
    """What one rollout cost; times in seconds, the rest are counts."""

    tokens: int = 0
    prompt_tokens: int = 0
    observation_tokens: int = 0
    observation_lent: int = 0  # of these, copied from an episode that was shown the same after the same
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
