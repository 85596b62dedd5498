"""Environment: search and answer in tags; passages go into the model's own message (Jin et al. 2025, 2503.09516)."""

from collections.abc import Sequence

from qr_jax import dialect
from qr_jax.records import Query, Say, Search, Stop, Turn
from qr_jax.settings.settings import Natural

STOP = ("</search>", "</answer>")
ACTS = ("search", "answer")  # the first of a turn decides, and an answer ends the episode
THINK = (
    "Reason between <think> and </think> before you act, and again whenever you have been given something new to read. "
)
PROMPT = (
    "Find the answer to the question at the end. {think}What you do not know you can look up: write "
    "<search> your query </search>, and what was found is shown to you between <information> and </information>. You "
    "may search several times. When you know the answer, give it between <answer> and </answer>, as short as it can be "
    "and without an explanation, for example <answer> Oslo </answer>.\nQuestion: {question}\n"
)
INVALID = (
    "\n\nThat was neither a search nor an answer. Search with <search> query </search>, or finish with "
    "<answer> answer </answer>.\n\n"
)
LAST = "No searches are left. Give your answer now, between <answer> and </answer>.\n\n"


def search_r1(
    query: Query,
    turns: Sequence[Turn],
    *,
    max_turns: Natural = 4,  # turns that may search; one more may answer
    max_invalid: Natural = 2,  # turns without a search or an answer that do not end the episode
    think: bool = True,  # whether the prompt asks for thoughts
    prompt: str | None = None,  # the whole prompt, with {question}; none: our own wording
    passage: str = "Doc {i}(Title: {title}) {text}\n",  # how one passage is shown
    information: str = "\n\n<information>{passages}</information>\n\n",  # what stands around the passages
    invalid: str = INVALID,  # what a turn without a search or an answer is told; empty: nothing
    last: str = LAST,  # what is said when no searches are left; empty: nothing
) -> Say | Search | Stop:
    """Return the environment's next move: the first `<search>` or `<answer>` block of a turn decides, so one query a
    turn.

    The model may search in its first `max_turns` turns; the next one can only answer and is the last (so 4 means up
    to 4 searches and 5 turns, as in Search-R1). A turn without an action (no tags, mismatched or nested ones,
    an unfinished thought or block, an empty query, an observation of its own) counts as a turn and gets `invalid`; the
    one after `max_invalid` such turns ends the episode with no_action. An empty answer ends it too, as answered "".
    Unlike Search-R1, a search inside a thought does not run, and a search in the last turn ends the episode.

    Only model turns are read for actions. Question and passages are neutralised (dialect.py); the templates are
    trusted. `prompt` None is our own wording, with or without the request to `think`. An empty `invalid` or `last`
    says nothing.
    """
    if not turns or turns[-1].author == "env":
        said = sum(turn.author == "model" for turn in turns)
        shown = _observation(turns[-1], passage, information) if turns else _question(query, prompt, think)
        return Say(shown + (last if said == max_turns else ""), "inline" if turns else "user", STOP)
    actions = [_action(turn.text) for turn in turns if turn.author == "model"]
    if actions[-1] and actions[-1].name == "answer":
        return Stop("answered", actions[-1].text)
    if len(actions) > max_turns:
        return Stop("turns")
    if actions[-1]:
        return Search((actions[-1].text,))
    if actions.count(None) > max_invalid:
        return Stop("no_action")
    invalid = dialect.closing(turns[-1].text) + invalid
    return Say(invalid + (last if len(actions) == max_turns else ""), "inline", STOP)


def expert_turn(thought: str, queries: Sequence[str] = (), answer: str | None = None) -> str:
    """Write an expert's turn: a thought, if there is one, and its first query or the answer."""
    act = f"<search> {queries[0]} </search>" if answer is None else f"<answer> {answer} </answer>"
    return (f"<think> {thought} </think>\n" if thought else "") + act


def _action(text: str) -> dialect.Block | None:
    """Return the search or answer that decides a model's turn, its text with single blanks; None if there is none."""
    acts = [block for block in dialect.read(text)[0] if block.name in ("search", "answer")]
    if not acts:
        return None
    content = " ".join(dialect.encodable(acts[0].text).split())
    return dialect.Block(acts[0].name, content) if content or acts[0].name == "answer" else None


def _question(query: Query, prompt: str | None, think: bool) -> str:
    template = PROMPT.replace("{think}", THINK if think else "") if prompt is None else prompt
    return dialect.ask("search_r1", template, query)


def _observation(turn: Turn, passage: str, information: str) -> str:
    listed = dialect.list_passages(passage, turn.passages[0] if turn.passages else ())
    return dialect.fill(information, {"passages": dialect.neutralise(listed.strip())})
