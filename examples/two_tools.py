"""Environment: <search> query </search>, <calc> 3 + 4 </calc> or <answer> answer </answer>."""

from qr_jax.dialect import neutralise, read
from qr_jax.records import Say, Search, Stop

TAGS = ("search", "calc", "answer")
STOP = ("</search>", "</calc>", "</answer>")
VOCABULARY = ("+", "7")  # for a world of whole words, which knows neither


def two_tools(query, turns, *, max_turns: int = 8):
    if not turns:
        return Say(neutralise(query.question, TAGS) + " ", "user", STOP)
    if turns[-1].author == "env":
        passages = " ".join(passage.text for passage in turns[-1].passages[0])
        return Say(f" {neutralise(passages, TAGS)} ", "inline", STOP)
    act = next(iter(read(turns[-1].text, TAGS)[0]), None)
    text = " ".join(act.text.split()) if act else ""
    if act and act.name == "answer":
        return Stop("answered", text)
    if sum(turn.author == "model" for turn in turns) > max_turns:
        return Stop("turns")
    if text and act.name == "search":
        return Search((text,))
    return Say(f" {added(text) if act and act.name == 'calc' else 'Search, calc or answer.'} ", "inline", STOP)


def added(text):
    numbers = [number.strip() for number in text.split("+")]
    return sum(map(int, numbers)) if all(number.isdecimal() and len(number) < 10 for number in numbers) else "no sum"


def expert_turn(thought, queries=(), answer=None):
    return f"<search> {queries[0]} </search>" if answer is None else f"<answer> {answer} </answer>"
