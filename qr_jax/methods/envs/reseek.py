"""Environment: search_r1's, where the model judges what each search brought before it goes on (ReSeek)."""

from collections.abc import Sequence
from dataclasses import replace

from qr_jax import dialect
from qr_jax.envs import search_r1 as plain
from qr_jax.methods.envs._passages import inert
from qr_jax.records import Query, Say, Search, Stop, Turn
from qr_jax.settings.settings import Natural

TAGS = ("judge",)
VOCABULARY = ("yes", "no")  # the verdicts
PROMPT = (
    "Answer the question at the end. What you do not know you can look up: write <search> your query </search>, and "
    "what was found is shown to you between <information> and </information>. Judge it each time: write <judge> yes "
    "</judge> if it is of use and <judge> no </judge> if not. If it is not, search again and do not answer yet. When "
    "you know the answer, give it between <answer> and </answer>, as short as it can be, for example <answer> Oslo "
    "</answer>.\nQuestion: {question}\n"
)


def reseek(
    query: Query,
    turns: Sequence[Turn],
    *,
    max_turns: Natural = 4,  # searches until the last answer is asked for
    max_invalid: Natural = 2,  # turns without a search or an answer until the episode ends
    prompt: str = PROMPT,  # the first prompt, with {question}
    passage: str = "Doc {i}(Title: {title}) {text}\n",  # how a passage is shown, with {i}, {title} and {text}
    information: str = "\n\n<information>{passages}</information>\n\n",  # what stands around the passages
    invalid: str = plain.INVALID,  # what is said after a turn that cannot be read
    last: str = plain.LAST,  # what is said before the last answer
) -> Say | Search | Stop:
    """Return search_r1's next move; verdicts between <judge> and </judge> are read by the reward alone.

    exact: the code for ReSeek (Li et al. 2025, arXiv:2510.00568; TencentBAC/ReSeek@d5a83308, search/llm_agent): the
    prompt asks for a verdict on what was found, and a turn acts with or without one. A "no" leaves the passages
    in the context, unlike in the paper's equation. Ours: the wording; and an expert says "no" before each search, the
    first too, and "yes" before its answer, so that "yes" means that what was read tells the answer.
    """
    told = [_act(turn) if turn.author == "model" else inert(turn, TAGS) for turn in turns]
    return plain.search_r1(
        query, told, max_turns=max_turns, max_invalid=max_invalid, prompt=prompt, passage=passage,
        information=information, invalid=invalid, last=last,
    )  # fmt: skip


def expert_turn(thought: str, queries: Sequence[str] = (), answer: str | None = None) -> str:
    """Write an expert's turn: a thought, if there is one, a verdict, and its first query or the answer."""
    verdict = f"<judge> {'no' if answer is None else 'yes'} </judge> "
    return (f"<think> {thought} </think>\n" if thought else "") + verdict + plain.expert_turn("", queries, answer)


def _act(turn: Turn) -> Turn:
    """Return the turn's first search or answer alone; nothing if there is none."""
    acts = [block for block in dialect.read(turn.text, TAGS)[0] if block.name in plain.ACTS]
    return replace(turn, text=f"<{acts[0].name}>{acts[0].text}</{acts[0].name}>" if acts else "")
