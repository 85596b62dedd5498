"""Environment: search_r1's, where each turn first says whether it will search or answer (AdaSearch)."""

from collections.abc import Sequence
from dataclasses import replace

from qr_jax import dialect
from qr_jax.envs import search_r1 as plain
from qr_jax.methods.envs._passages import inert
from qr_jax.records import Query, Say, Search, Stop, Turn
from qr_jax.settings.settings import Natural

TAGS = ("decision",)
VOCABULARY = ("search", "answer")  # what is decided
PROMPT = (
    "Answer the question at the end. Before you act decide whether you know the answer: write <decision> answer "
    "</decision> and the answer between <answer> and </answer>, as short as it can be, for example <answer> Oslo "
    "</answer>; or write <decision> search </decision> and <search> your query </search>, and what was found is shown "
    "to you between <information> and </information>. You may search several times.\nQuestion: {question}\n"
)
INVALID = (
    "\n\nThat was no decision with its act. Write <decision> search </decision> <search> query </search>, or "
    "<decision> answer </decision> <answer> answer </answer>.\n\n"
)
LAST = (
    "No searches are left. Give your answer now: <decision> answer </decision>, and the answer between <answer> and "
    "</answer>.\n\n"
)


def ada_search(
    query: Query,
    turns: Sequence[Turn],
    *,
    max_turns: Natural = 4,  # searches until the last answer is asked for
    max_invalid: Natural = 2,  # turns without a decision and its act until the episode ends
    prompt: str = PROMPT,  # the first prompt, with {question}
    passage: str = "Doc {i}(Title: {title}) {text}\n",  # how a passage is shown, with {i}, {title} and {text}
    information: str = "\n\n<information>{passages}</information>\n\n",  # what stands around the passages
    invalid: str = INVALID,  # what is said after a turn that cannot be read
    last: str = LAST,  # what is said before the last answer
) -> Say | Search | Stop:
    """Return search_r1's next move, where a turn acts only if it opens (thoughts aside) with a decision that its act
    keeps to.

    after the abstract: AdaSearch (Lin et al. 2025, arXiv:2512.16883) makes the decision whether to search explicit, so
    that it can be read and scored: the first turn's decision against whether the policy answers right without searches.
    Filled in: decision and act are of one turn and one prompt, and later turns decide too, where theirs decides once
    and then has a prompt for each way. reward=ada_search scores the decision; its training stages are merged into one.
    """
    told = [_without_decision(turn) if turn.author == "model" else inert(turn, TAGS) for turn in turns]
    return plain.search_r1(
        query, told, max_turns=max_turns, max_invalid=max_invalid, prompt=prompt, passage=passage,
        information=information, invalid=invalid, last=last,
    )  # fmt: skip


def expert_turn(thought: str, queries: Sequence[str] = (), answer: str | None = None) -> str:
    """Write an expert's turn: a thought, if there is one, a decision, and its first query or the answer."""
    decision = f"<decision> {'search' if answer is None else 'answer'} </decision> "
    return (f"<think> {thought} </think>\n" if thought else "") + decision + plain.expert_turn("", queries, answer)


def _without_decision(turn: Turn) -> Turn:
    """Return the turn's act alone; no act if the turn does not decide for it first."""
    blocks, _ = dialect.read(turn.text, TAGS)
    decision, act = (*blocks, None, None)[:2]
    keeps = decision and act and decision.name == "decision" and decision.text.strip() == act.name
    return replace(turn, text=f"<{act.name}>{act.text}</{act.name}>" if keeps and act else "")
