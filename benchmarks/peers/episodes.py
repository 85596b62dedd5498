"""The batches that all contenders learn from: 16 episodes of 4 questions, every group with signal. Only numpy."""

from typing import NamedTuple

import numpy as np

from benchmarks.peers import model

QUERIES, SAMPLES, PROMPT_TOKENS, LONGEST, SHORTEST = 4, 4, 32, 192, 64
KINDS = ("dense", "mixed")


class Batch(NamedTuple):
    """`ids[n]` is prompt and completion of episode n, without padding; samples of a question stand together."""

    ids: list[np.ndarray]
    reward_QG: np.ndarray

    @property
    def tokens(self) -> int:
        return sum(len(one) for one in self.ids)


def batch(load_name: str, seed: int) -> Batch:
    """`dense`: 192 tokens each. `mixed`: lengths uniform in 64-192. The first 32 are the prompt, shared by a group."""
    generator = np.random.Generator(np.random.Philox([seed, KINDS.index(load_name)]))
    shape = (QUERIES, SAMPLES)
    length_QG = generator.integers(SHORTEST, LONGEST + 1, shape)
    if load_name == "dense":
        length_QG = np.full(shape, LONGEST)
    prompt_QL = generator.integers(3, model.VOCAB, (QUERIES, PROMPT_TOKENS)).astype(np.int32)
    ids = [
        np.concatenate([prompt_QL[q], generator.integers(3, model.VOCAB, length - PROMPT_TOKENS).astype(np.int32)])
        for q in range(QUERIES) for length in length_QG[q]
    ]  # fmt: skip
    return Batch(ids, np.tile(np.arange(SAMPLES) % 2, (QUERIES, 1)).astype(np.float32))
