"""The tags of a model and its environment: read strictly in what the model wrote, made inert in all else."""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qr_jax.data.characters import nfkc
from qr_jax.errors import UserError
from qr_jax.records import Passage, Query

NAMES = ("think", "search", "information", "answer", "tool_call", "tool_response", "tools")
OBSERVED = ("information", "tool_response")  # what an environment shows stands between these

THINK_TAG = re.compile(r"</?think>")
OBSERVATION_BEGUN = re.compile(rf"<({'|'.join(OBSERVED)})>[^<>]*\Z")
WHOLE_THOUGHT = "<think>(?:(?!</think>).)*</think>"
THOUGHT = re.compile(r"<think>.*?(?=</think>|\Z)", re.DOTALL)  # up to its closing tag or, without one, the text's end
LATER_THOUGHT = re.compile(r"\s*<think>(.*?)(?:</think>|\Z)", re.DOTALL)  # with the blanks before it

# Characters that are not seen: soft hyphen, joiners, direction marks, variation selectors, fillers, tag characters.
UNSEEN = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff"
)
# "<" and ">" and the forms that Unicode compatibility normalisation (NFKC, in some tokenizers) turns into them.
LESS, GREATER, BAR = "<\uff1c\ufe64", ">\uff1e\ufe65", "|\uff5c\u2502"
SLASHES = r"/\\\u2044\u2215\uff0f"
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"  # as Qwen3's template has it
# Other models' names of a thought or an observation: SURE ones mean nothing else, USUAL ones are ordinary words.
MADE = tuple(f"{maker}{made}" for maker in ("tool", "function") for made in ("response", "result", "output"))
SURE = ("thinking", "think", "thought", "reasoning", "scratchpad", *MADE)
USUAL = (
    *("reason", "reflection", "reflect", "rethink", "deliberation", "deliberate", "analysis", "monologue", "internal"),
    *("cot", "plan", "planning", "draft", "rationale", "ponder", "musing", "note", "brainstorm"),
    *("observation", "result", "information", "info", "document", "doc", "passage", "snippet", "context", "evidence"),
    *("output", "response", "retrieved"),
)
HTML = r"(?:a|b|i|u|s|p|q|em|tt|br|hr|ul|ol|li|h[1-6]|sub|sup|kbd|var|pre|code|mark|small|strong)(?![\w:.-])"
GAP = r"[^!-,.-^`a-{}~]"  # any character but ASCII letters, digits and punctuation; of punctuation - _ | do count
LEAD = r"[^!-,.0-\[\]-^`a-{}~]{0,8}"  # up to 8 of GAP's characters or slashes
ENDS = rf"(?:(?:begin|start|end){GAP}*(?:of{GAP}*)?)?"
# What may stand before a name: begin of, chain_of_, seed:, ant (in antThinking).
FIRST = rf"(?:{ENDS}|(?:[^\W_]{{1,16}}[:_▁.-]{{1,2}}){{1,3}}|(?-i:[A-Za-z][a-z]{{0,15}}(?=[A-Z])))"
ENTITY = "&(?:amp;)*"
OPENS = rf"(?:[{LESS}◁⟨]|‹(?=[{BAR}])|{ENTITY}(?:lt|#0*60|#x0*3c);?)"
CLOSES = rf"(?:[{GREATER}▷⟩]|{ENTITY}(?:gt|#0*62|#x0*3e);?)"
# Control tokens that end a model's message, or at least begin no new one.
END = r"</s>|<(?:eos|end_of_turn)>|<[|｜](?:im_end|end[\w▁]*|eo[tms](?:_id)?|call|return)[|｜]>"
KEPT = rf"{END}|<\|python_tag\|>"


def _split_by_unseen(name: str) -> str:
    return f"[{UNSEEN}]*".join(map(re.escape, name))


def either(further: tuple[str, ...]) -> str:
    """Return a pattern of one of the names of NAMES and the further ones."""
    return "|".join(map(re.escape, (*NAMES, *further)))


@functools.cache
def any_tag(further: tuple[str, ...] = ()) -> re.Pattern[str]:
    """Match a tag of NAMES or of the further ones, as a model must write it."""
    return re.compile(rf"<(/?)({either(further)})>")


@functools.cache
def like_a_tag(further: tuple[str, ...] = ()) -> re.Pattern[str]:
    """Match anything like a tag of NAMES or of the further ones, with what is inside it."""
    return re.compile(
        rf"[{LESS}](?P<inside>[\s{SLASHES}{UNSEEN}]*(?:{'|'.join(map(_split_by_unseen, (*NAMES, *further)))})"
        rf"(?![0-9A-Za-z_])[^{LESS}{GREATER}]*)(?P<end>[{GREATER}]?)",
        re.IGNORECASE,
    )


@functools.cache
def forbidden_tag(further: tuple[str, ...] = ()) -> re.Pattern[str]:
    """Match a tag that a model may not write outside its thoughts and acts, unless it is among the further ones.

    That is an observation's tag, which only the environment writes, or a thought's in another form than `<think>`. Only
    the bare name counts: case, blanks, separators, unseen characters, the style of the brackets and HTML entities in
    their place do not matter: `<thinking_process>`, `<|begin▁of▁thought|>`, `&lt;ToolResponse&gt;`,
    `[TOOL_RESULTS]`, `{think}`, `(think)`, `<!-- think -->`, `<unused94>thought`, `<|channel|>analysis<|message|>`. A
    name that is an ordinary word too (USUAL) counts only alone in its tag or with attributes, in angle brackets, or in
    capitals in square brackets. `‹think›`, as `neutralise` leaves it, is no tag.

    Or it is a tag of another dialect (`_foreign`).
    """
    may, sure, usual = "|".join(map(re.escape, ("think", *further))), _bare(SURE), _bare(USUAL)
    inside = rf"[^{LESS}{GREATER}▷⟩]{{0,64}}"
    alone = rf"(?=[^\s{LESS}{GREATER}]{{0,32}}?\s*(?:\d*\s*/?{CLOSES}|\w+\s*=))"
    angled = rf"{OPENS}(?:!--)?{LEAD}{FIRST}(?:{sure}{inside}|{usual}{alone}{inside}){CLOSES}"
    begun = rf"[{LESS}]/?(?:{'|'.join(SURE)})(?![\w-])"  # and never finished
    alone_in, unused = f"{LEAD}{ENDS}{sure}{GAP}*", rf"{OPENS}unused\d+{CLOSES}{GAP}*{sure}"
    squared = rf"\[{alone_in}\]|\{{{alone_in}\}}|\({alone_in}\)|(?-i:\[(?:{'|'.join(USUAL).upper()})S?\])"
    between = rf"\|>{LEAD}{FIRST}(?:{sure}|{usual}){GAP}*<\|"
    return re.compile(rf"(?!</?(?:{may})>)(?i:{angled}|{begun}|{squared}|{unused}|{between})|{_foreign(further)}")


def _foreign(further: tuple[str, ...]) -> str:
    """Return a pattern of a tag that is neither the environment's nor plain HTML: a closing one, or one at the start of
    a line.

    An opening tag within a line is prose (vector<int>). It also matches what begins another message: `<|im_start|>`.
    """
    ours = rf"(?!</?(?:{either(further)})>)"
    name = rf"(?!(?i:{HTML}))[^\W\d][\w:.-]*"
    slash = rf"[{UNSEEN}]*[{SLASHES}][{UNSEEN}]*"
    closes = rf"{OPENS}{slash}{name}|\[{slash}{name}\]|\{{{slash}{name}\}}"
    begins = (
        rf"(?<![^\n>])[ \t]*{ours}{OPENS}[{UNSEEN}]*{name}(?:\s+[\w:-]+\s*=[^{LESS}{GREATER}]*)?\s*(?:/?{CLOSES}|\n)"
    )
    message = rf"(?!{KEPT})[{LESS}][{BAR}][^{LESS}{GREATER}{BAR}]{{1,64}}[{BAR}][{GREATER}]|<start_of_turn>|\[INST\]"
    return rf"{ours}(?:{closes})|{begins}|{message}"


@functools.cache
def whole_block(further: tuple[str, ...] = ()) -> str:
    """Return a pattern of an act, or another block: a tag of the environment with no such tag inside."""
    inside = rf"(?:(?!</?(?:{either(further)})>).)*"
    return "|".join(f"<{name}>{inside}</{name}>" for name in (*NAMES, *further) if name != "think")


def _bare(names: tuple[str, ...]) -> str:
    """Return a pattern of one of the names or its plural, separators and unseen characters between the letters, as a
    whole word.
    """
    spread = "|".join(f"{GAP}*".join(name) for name in names)
    return rf"(?:{spread})(?:{GAP}*s)?(?:(?![A-Za-z])|(?-i:(?<=[a-z])(?=[A-Z])))"


CONTROL_START = re.compile(rf"[{LESS}](?=[\s{UNSEEN}]*[{BAR}])")
CONTROL_END = re.compile(rf"(?P<bar>[{BAR}][\s{UNSEEN}]*)[{GREATER}]")
BLANK = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Block:
    """A tag's name and the text between `<name>` and `</name>`."""

    name: str
    text: str


@functools.lru_cache(2048)  # an environment reads a turn again after each later one
def read(text: str, further: tuple[str, ...] = ()) -> tuple[tuple[Block, ...], bool]:
    """Return the blocks of a model's turn, up to the first tag out of place, and True if there was none such.

    `further` names tags beside NAMES: an environment of another dialect has its own (TAGS in its file).

    Strict: lower-case tags without attributes, opened and closed by one name, nothing of the dialect in between.
    Thoughts are skipped, and are no blocks. If the first think tag is `</think>`, the chat template opened the thought,
    and all text before it is thought. An unfinished thought or block is a tag out of place. A `forbidden_tag`
    outside thoughts and blocks makes the whole turn invalid: it has no blocks. Never raises.
    """
    text = after_begun(text)
    if forbidden_tag(further).search(_emptied(text, further)):
        return (), False
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


def after_begun(text: str) -> str:
    """Return the text after a thought that the chat template began (the text's first think tag is then `</think>`)."""
    first_think = THINK_TAG.search(text)
    return text[first_think.end() :] if first_think and first_think[0] == "</think>" else text


def spoken(text: str) -> str:
    """Return a model's turn with its thoughts emptied, one that the chat template began left out."""
    return without_thoughts(after_begun(text))


def _emptied(text: str, further: tuple[str, ...]) -> str:
    """Empty the thoughts and blocks of a text; a block's opening tag stays."""
    block = re.compile(f"(?s:{whole_block(further)})")
    return block.sub(lambda found: found[0].partition(">")[0] + ">", without_thoughts(text))


def without_thoughts(text: str) -> str:
    """Empty the thoughts of a text; their tags stay."""
    return THOUGHT.sub("<think>", text)


def turn_ends(stop: Sequence[str], further: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Add to the stop strings the tags by which the model would begin an observation of its own."""
    return (*stop, *(f"<{name}>" for name in OBSERVED if name not in further))


def closing(turn: str) -> str:
    """Return the tag that closes an observation begun at the turn's end; "" where none is begun."""
    begun = OBSERVATION_BEGUN.search(without_thoughts(turn))
    return f" </{begun[1]}> " if begun else ""


def continued(turn: str, begun: str, further: tuple[str, ...] = ()) -> str:
    """Return the part of an expert's turn that follows `begun`, the chat template's own beginning of a thought.

    `begun` is "" if the template begins no thought, and an empty thought if it is told not to think. The message then
    has exactly one closed thought (`_of_one_thought`). A turn without a thought closes the one begun; after an empty
    thought the turn's own is left out; a turn whose first think tag is `</think>`, written for a template that begins
    thoughts, gets its `<think>` back if none is begun.
    """
    first = THINK_TAG.search(turn)
    if first and first[0] == "</think>":
        turn = f"<think>{turn}"
    turn = _of_one_thought(turn, further)
    first = any_tag(further).search(turn)
    thinks, is_closed = first is not None and first[2] == "think", "</think>" in begun
    if not begun or (is_closed and not thinks):
        return turn
    if not thinks:
        return EMPTY_THOUGHT.removeprefix(begun).removeprefix("<think>\n\n") + turn
    thought, closes, act = turn.replace("<think>", "", 1).partition("</think>")
    if is_closed:
        return act.lstrip() if closes else turn
    return (thought.lstrip() if begun[-1].isspace() else thought) + closes + act


def _of_one_thought(turn: str, further: tuple[str, ...]) -> str:
    """Return the turn with the thoughts before its first act joined; later ones, which may be about results, left out.

    Every act stays. So does a later thought where the model writes its own observations (`further` names their tag).
    """
    act = any_tag(further).search(LATER_THOUGHT.sub(lambda thought: " " * len(thought[0]), turn))
    head, acts = (turn[: act.start()], turn[act.start() :]) if act else (turn, "")
    if not {*OBSERVED} & {*further}:
        acts = LATER_THOUGHT.sub("", acts)
    if head.count("<think>") > 1:
        before = head[: head.index("<think>")]
        thought = re.sub(r"\s*</think>\s*", "\n", "</think>".join(LATER_THOUGHT.findall(head))).replace("<think>", "")
        after = LATER_THOUGHT.sub("", head[len(before) :])
        head = f"{before}<think>{thought}</think>{after}"
    return head + acts


def neutralise(text: str, further: tuple[str, ...] = ()) -> str:
    """Turn the angle brackets of anything like a tag of the dialect, or like `<|control|>`, into ‹ ›.

    Also in other case, with slashes, blanks, unseen characters or attributes, and unfinished. A text that has such a
    tag only after compatibility normalisation (NFKC, as some tokenizers do) comes back normalised; other text stays as
    it is. Applied twice it gives the same, and afterwards `read` finds no block. Two halves of a tag may lie in two
    texts: what is joined is neutralised after the joining, not part by part.
    """
    tags, text = like_a_tag(further), encodable(text)
    folded = nfkc(text)
    if folded != text and any(sign.search(folded) for sign in (tags, CONTROL_START, CONTROL_END)):
        text = folded
    text = tags.sub(lambda found: f"‹{found['inside']}{'›' if found['end'] else ''}", text)
    return CONTROL_END.sub(r"\g<bar>›", CONTROL_START.sub("‹", text))


def encodable(text: str) -> str:
    """Replace lone surrogates, which JSON can carry and UTF-8 cannot, by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def fill(template: str, values: Mapping[str, object]) -> str:
    """Fill in each `{name}` of `values`, in one pass: what is filled in is never a template itself.

    Other braces stay as they are, so that templates may show JSON.
    """
    return BLANK.sub(lambda blank: str(values[blank[1]]) if blank[1] in values else blank[0], template)


def ask(env: str, prompt: str, query: Query, **values: object) -> str:
    """Fill a question, without live tags, and other values into an environment's prompt. ValueError without a place."""
    if "{question}" not in prompt:
        raise UserError(f"the prompt of {env} has no {{question}} to put the question in: {prompt!r}")
    return fill(prompt, {"question": neutralise(query.question.strip()), **values})


def list_passages(passage: str, found: Sequence[Passage]) -> str:
    """Fill each passage's number, from 1, title and text into a template, and join them."""
    return "".join(
        fill(passage, {"i": i, "title": " ".join(one.title.split()), "text": one.text.strip()})
        for i, one in enumerate(found, 1)
    )
