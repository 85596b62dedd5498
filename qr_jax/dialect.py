"""The tags of a model and its environment: read strictly in what the model wrote, made inert in all else."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from qr_jax.characters import nfkc

NAMES = ("think", "search", "information", "answer", "tool_call", "tool_response", "tools")

THINK_TAG = re.compile(r"</?think>")

# Characters that are not seen: soft hyphen, joiners, direction marks, variation selectors, fillers, tag characters.
UNSEEN = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff"
)
# "<" and ">" and the forms that Unicode compatibility normalisation (NFKC, in some tokenizers) turns into them.
LESS, GREATER, BAR = "<\uff1c\ufe64", ">\uff1e\ufe65", "|\uff5c\u2502"
SLASHES = r"/\\\u2044\u2215\uff0f"


def _split_by_unseen(name: str) -> str:
    return f"[{UNSEEN}]*".join(map(re.escape, name))


def _either(further: tuple[str, ...]) -> str:
    """A regular expression of the names of NAMES and the further ones."""
    return "|".join(map(re.escape, (*NAMES, *further)))


@functools.cache
def any_tag(further: tuple[str, ...] = ()) -> re.Pattern[str]:
    """A tag of NAMES or of the further ones, as a model must write it."""
    return re.compile(rf"<(/?)({_either(further)})>")


@functools.cache
def like_a_tag(further: tuple[str, ...] = ()) -> re.Pattern[str]:
    """Anything like a tag of NAMES or of the further ones, with what is inside it."""
    return re.compile(
        rf"[{LESS}](?P<inside>[\s{SLASHES}{UNSEEN}]*(?:{'|'.join(map(_split_by_unseen, (*NAMES, *further)))})"
        rf"(?![0-9A-Za-z_])[^{LESS}{GREATER}]*)(?P<end>[{GREATER}]?)",
        re.IGNORECASE,
    )


CONTROL_START = re.compile(rf"[{LESS}](?=[\s{UNSEEN}]*[{BAR}])")
CONTROL_END = re.compile(rf"(?P<bar>[{BAR}][\s{UNSEEN}]*)[{GREATER}]")
BLANK = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Block:
    """What stood between `<name>` and `</name>`."""

    name: str
    text: str


def read(text: str, further: tuple[str, ...] = ()) -> tuple[tuple[Block, ...], bool]:
    """The blocks of a model's turn in order, up to the first tag out of place, and whether there was none such.

    `further` names tags beside NAMES: an environment of another dialect has its own (TAGS in its file).

    Strict: lower-case tags without attributes, opened and closed by one name, nothing of the dialect in between.
    Thoughts are opaque and no blocks; when the first think tag closes, the chat template opened it, and all before it
    was thought. An unfinished thought or block is a tag out of place. Never raises.
    """
    first_think = THINK_TAG.search(text)
    if first_think and first_think[0] == "</think>":
        text = text[first_think.end() :]
    blocks, opened, start = [], None, 0
    for tag in any_tag(further).finditer(text):
        closes, name = tag[1] == "/", tag[2]
        if opened is None and not closes:
            opened, start = name, tag.end()
        elif closes and name == opened:
            if name != "think":
                blocks.append(Block(name, text[start : tag.start()]))
            opened = None
        elif opened != "think":
            return tuple(blocks), False
    return tuple(blocks), opened is None


def tag_pattern(further: tuple[str, ...] = ()) -> str:
    """A tag as `any_tag` has it, as a regular expression for others (agent.json); group 1 is what is inside."""
    return f"<(/?(?:{_either(further)}))>"


def act_pattern(acts: Mapping[str, bool], further: tuple[str, ...] = ()) -> str:
    """The first of the acts that `read` finds, as a regular expression to match from a turn's beginning.

    `acts` says of each act whether it may be empty. Groups 1 and 2 are the act and its text. There is no match where
    `read` finds no act, or the first one is empty and may not be.
    """
    tag = f"</?(?:{_either(further)})>"
    inside = f"(?:(?!{tag}).)*"
    opened = "(?:(?!</?think>).)*</think>"  # a thought that the chat template began
    passed = ["<think>(?:(?!</think>).)*</think>", f"(?!{tag})."]
    passed += [f"<{name}>{inside}</{name}>" for name in (*NAMES, *further) if name != "think" and name not in acts]
    names = [name if may_be_empty else rf"{name}(?!>\s*</{name}>)" for name, may_be_empty in acts.items()]
    return rf"(?s)(?:{opened}|(?!{opened}))(?:{'|'.join(passed)})*?<({'|'.join(names)})>({inside})</\1>"


def neutralise(text: str, further: tuple[str, ...] = ()) -> str:
    """The text with the angle brackets of anything like a tag of the dialect, or like `<|control|>`, turned into ‹ ›.

    Also in other case, with slashes, blanks, unseen characters or attributes, and unfinished. A text that has such a
    tag only after compatibility normalisation (NFKC, as some tokenizers do) comes back normalised; other text stays as
    it is. Applied twice it gives the same, and afterwards `read` finds no tag. Two halves of a tag may lie in two
    texts: what is joined is neutralised after the joining, not part by part.
    """
    tags, text = like_a_tag(further), encodable(text)
    folded = nfkc(text)
    if folded != text and any(sign.search(folded) for sign in (tags, CONTROL_START, CONTROL_END)):
        text = folded
    text = tags.sub(lambda found: f"‹{found['inside']}{'›' if found['end'] else ''}", text)
    return CONTROL_END.sub(r"\g<bar>›", CONTROL_START.sub("‹", text))


def encodable(text: str) -> str:
    """The text with lone surrogates, which JSON can carry and UTF-8 cannot, replaced by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def fill(template: str, values: Mapping[str, object]) -> str:
    """The template with each `{name}` of `values` filled in, in one pass: what is filled in is never a template itself.

    Other braces stay as they are, so that templates may show JSON.
    """
    return BLANK.sub(lambda blank: str(values[blank[1]]) if blank[1] in values else blank[0], template)
