"""The rollouts that all contenders run: words, prompts, searches and observations. Imports no accelerator's library.

One token is one word, so that text and ids translate into each other without loss and every side sees equal lengths;
the vocabulary is the corpus' most frequent words. Passages come from the real BM25 over HotpotQA's passages.
"""

import time
from collections import Counter
from functools import cache

from benchmarks.peers import model
from qr_jax.data import readers
from qr_jax.models.tokenizer import RESERVED, WordTokenizer
from qr_jax.records import Passage, Query, SearchFunction
from qr_jax.search.retrievers.bm25 import bm25

PROMPT_TOKENS, OBSERVATION_TOKENS, TURN_TOKENS = 128, 128, 64
SEARCHES, SEARCH_K = 3, 3
MULTI_QUERIES, MULTI_SAMPLES, SINGLE_BATCH = 8, 4, 16
STOP = ("</search>", "</answer>")
INSTRUCTION = "Find the answer to the question. You may search, and are shown what was found. Question: "


@cache
def passages() -> list[Passage]:
    return readers.read_passages("{data}/corpus/hotpotqa.corpus.jsonl.gz")


@cache
def questions() -> list[Query]:
    return readers.read_queries("{data}/dev/hotpotqa.questions.jsonl")


@cache
def tokenizer() -> WordTokenizer:
    counts = Counter(word for passage in passages() for word in passage.text.split())
    for word in (*RESERVED, *STOP):
        counts.pop(word, None)
    room = model.VOCAB - len(RESERVED) - len(STOP)
    words = sorted(counts, key=lambda word: (-counts[word], word))[:room]
    return WordTokenizer([*STOP, *words])


def search() -> SearchFunction:
    """BM25 over HotpotQA's passages."""
    return bm25(corpus=passages())


def late(search: SearchFunction, latency_s: float) -> SearchFunction:
    """The search, each call of which takes so much longer."""

    def after(queries: list[str], k: int) -> list[list[Passage]]:
        time.sleep(latency_s)
        return search(queries, k)

    return after if latency_s else search


def exactly(text: str, count: int) -> str:
    """The text's first words, begun again from the first where there are too few."""
    words = text.split() or ["nothing"]
    return " ".join((words * (count // len(words) + 1))[:count])


def prompt(query: Query) -> str:
    return exactly(f"{INSTRUCTION}{query.question}\n", PROMPT_TOKENS)


def search_text(query: Query, written: str) -> str:
    """What a turn searches for: the question and the first words that the model wrote, so siblings differ."""
    return " ".join([query.question, *written.split()[:4]])


def observation(found: list[Passage] | tuple[Passage, ...]) -> str:
    listed = "".join(f"Doc {i} (Title: {one.title}) {one.text}\n" for i, one in enumerate(found, 1))
    return exactly(listed, OBSERVATION_TOKENS)


def chosen(round_at: int, count: int) -> list[Query]:
    """The questions of a round: others each time."""
    every = questions()
    return [every[(round_at * count + at) % len(every)] for at in range(count)]
