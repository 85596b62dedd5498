"""Environment: the policy answers its own searches, all in one turn; no retriever is asked (SSRL)."""

from collections.abc import Sequence

from qr_jax import dialect
from qr_jax.records import Query, Say, Stop, Turn

TAGS = ("information",)  # here the model's own
STOP = ("</answer>",)
PROMPT = (
    "Answer the question at the end from what you know. Whenever you would look something up, write <search> your "
    "query </search>, then what you recall of it yourself between <information> and </information>, and go on. Do so "
    "as often as it helps. Give the answer between <answer> and </answer>, as short as it can be and without an "
    "explanation, for example <answer> Oslo </answer>.\nQuestion: {question}\n"
)


def ssrl(
    query: Query,
    turns: Sequence[Turn],
    *,
    prompt: str = PROMPT,  # the first prompt, with {question}
) -> Say | Stop:
    """Ask the question; then the last `<answer>` block of the model's only turn ends the episode, no_action without
    one.

    after the abstract: SSRL, self-search reinforcement learning (arXiv:2508.10874). Deviation: what the model writes
    between information tags is sampled and so is trained on, where theirs masks it; give rollout.turn_tokens room for
    the whole episode. Searches are counted by no budget, for none is made.
    """
    if not turns:
        return Say(dialect.ask("ssrl", prompt, query), "user", STOP)
    given = [block.text for block in dialect.read(turns[-1].text, TAGS)[0] if block.name == "answer"]
    return Stop("answered", " ".join(dialect.encodable(given[-1]).split())) if given else Stop("no_action")
