"""Regular expressions of agent.json, by which other programs read a model's turns as `dialect.read` does."""

import re
from collections.abc import Mapping, Sequence

from qr_jax import dialect


def tag_pattern(further: tuple[str, ...] = ()) -> str:
    """Match a tag as `dialect.any_tag` does; group 1 is what is inside."""
    return f"<(/?(?:{dialect.either(further)}))>"


def end_pattern(stop: Sequence[str]) -> str:
    """Match a turn up to the first stop string outside its thoughts."""
    return rf"(?s)(?:{dialect.WHOLE_THOUGHT}|(?!<think>).)*?(?:{'|'.join(map(re.escape, stop))})"


def act_pattern(acts: Mapping[str, bool], further: tuple[str, ...] = ()) -> str:
    """Match the first of the acts that `dialect.read` finds, from a turn's beginning.

    `acts` says of each act whether it may be empty. Groups 1 and 2 are the act and its text. There is no match where
    `read` finds no act, or the first one is empty and may not be.
    """
    tag = f"</?(?:{dialect.either(further)})>"
    inside = f"(?:(?!{tag}).)*"
    opened = "(?:(?!</?think>).)*</think>"  # a thought that the chat template began
    block = dialect.whole_block(further)
    spoilt = f"(?:{dialect.WHOLE_THOUGHT}|{block}|(?!<think>|{block}).)*?(?:{dialect.forbidden_tag(further).pattern})"
    others = [name for name in (*dialect.NAMES, *further) if name != "think" and name not in acts]
    passed = [dialect.WHOLE_THOUGHT, f"(?!{tag}).", *(f"<{name}>{inside}</{name}>" for name in others)]
    names = [name if may_be_empty else rf"{name}(?!>\s*</{name}>)" for name, may_be_empty in acts.items()]
    acted = rf"(?:{'|'.join(passed)})*?<({'|'.join(names)})>({inside})</\1>"
    return f"(?s)(?:{opened}|(?!{opened}))(?!{spoilt}){acted}"
