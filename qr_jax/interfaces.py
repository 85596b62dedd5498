"""The contract of each kind of plug-in: what it is given and must return. Loader, learner and tests read this table.

A plug-in is one function in one file of its kind's folders, with the file's name. Parameters before the `*` are the
data it is given, those after it its settings. Naming it in a config (`use("name", setting=...)`) is all the
registration there is. What it returns is checked where it comes back. Upper-case constants in its file tell the core
what it must know before anything runs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from qr_jax.data.limits import MOST_ID_CHARS
from qr_jax.dialect import encodable
from qr_jax.errors import PluginError, UserError
from qr_jax.records import Ask, Call, Passage, Say, Scores, Search, Stop, StopReason

# in float32 nats: logp under the current, the old, the sampling and the reference policy; then other token values
LOSS_ARRAYS = ("logp_NL", "old_logp_NL", "rollout_logp_NL", "ref_logp_NL", "entropy_NL", "adv_NL", "mask_NL", "turn_NL")


@dataclass(frozen=True)
class Contract:
    """One kind of plug-in. `check(result, *given, **named)` returns what the run uses, or raises PluginError."""

    folders: tuple[str, ...]  # in qr_jax: the core's, then that of further methods
    given: tuple[str, ...]  # the data before the `*`
    returns: str
    check: Callable[..., Any]
    by_name: bool = False  # True: the function gets only those of `given` that it names; False: all, by position
    provided: tuple[str, ...] = ()  # keyword parameters that the run gives where the signature has them
    constants: Mapping[str, Any] = field(default_factory=dict)  # what the file may declare: name -> type
    beside: tuple[str, ...] = ()  # functions that may stand in the same file
    made: "Contract | None" = None  # the contract of the function that the plug-in returns


def shown(value: Any) -> str:
    """Show a value in a message: an array by type and shape, all else by its beginning."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"an array of {dtype} of shape {tuple(shape)}"
    if isinstance(value, (tuple, list)):
        parts = [shown(part) for part in value[:3]] + ["..."] * (len(value) > 3)
        return f"a {type(value).__name__} of {len(value)} ({', '.join(parts)})"
    text = " ".join(repr(value).split())
    return "None" if value is None else f"{text[:80]}{'...' * (len(text) > 80)} ({type(value).__name__})"


def check_rule(result: Any, pool: Any, outcome: Any = None, /, **_: Any) -> Any:
    """Check (weight_P, memory): weights finite and 0 or more, memory arrays of plain types by name."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise PluginError(shown(result))
    weight_P, memory = _numbers(result[0], (pool.size,), "weights"), result[1]
    bad = np.flatnonzero(~(np.isfinite(weight_P) & (weight_P >= 0)))
    if len(bad):
        first = f"the first {weight_P[bad[0]]} of {bad[0]}"
        raise PluginError(f"{len(bad)} weights that are not finite and 0 or more, {first}")
    if not isinstance(memory, Mapping):
        raise PluginError(f"the memory {shown(memory)}")
    for name, value in memory.items():
        try:
            kind = np.asarray(value).dtype.kind
        except ValueError:  # rows of unlike lengths
            kind = "O"
        if not isinstance(name, str) or kind not in "biufU" or np.ma.is_masked(value):
            raise PluginError(f"a memory whose {name!r} is {shown(value)}")
    return result


def check_rounds(result: Any, pool: Any, so_far: Sequence[Any], /, **_: Any) -> Ask | None:
    """Check that it is an Ask for at least one rollout, or None."""
    if result is None:
        if not so_far:
            raise PluginError("None before the first draw of the step")
        return None
    if not isinstance(result, Ask):
        raise PluginError(shown(result))
    if not _is_count(result.draw) or not isinstance(result.more, Mapping):
        raise PluginError(f"Ask(draw={shown(result.draw)}, more={shown(result.more)})")
    drawn = set(so_far[-1].drawn_Q.tolist()) if so_far else set()
    for index, count in result.more.items():
        if index not in drawn or not _is_count(count) or count < 1:
            drawn_now = f"of the {len(drawn)} drawn in this step"
            raise PluginError(f"an Ask for {count} more samples of query {index}, {drawn_now}")
    if not result.draw and not result.more:
        raise PluginError("an Ask for nothing, which would never end the step")
    return result


def check_growth(name: str, ask: Ask, samples: Mapping[int, int], most: int) -> None:
    """Raise ValueError if `ask.more` would grow a group beyond `most`; `samples` maps pool index to its size now."""
    for index, count in ask.more.items():
        if samples[index] + count > most:
            raise UserError(
                f"rounds {name!r} asked for {count} more samples of query {index}, which has {samples[index]}; a group "
                f"has room for {most}. Write MAX_GROUP_SIZE = {samples[index] + count} in its file, or ask for fewer"
            )


def check_env(result: Any, query: Any, turns: Sequence[Any], /, **_: Any) -> Say | Search | Stop:
    """Check that it is a Say with text, a Search with queries or a Stop with a reason, and allowed at this point."""
    text = isinstance(result, Say) and isinstance(result.text, str) and result.role in ("user", "tool", "inline")
    if text and not (isinstance(result.stop, tuple) and all(isinstance(stop, str) and stop for stop in result.stop)):
        raise PluginError(
            f"a Say whose stop is {shown(result.stop)}, not a tuple of texts, none empty: one is written ('</a>',)"
        )
    if text:
        if not isinstance(result.tools, tuple) or not all(isinstance(tool, Mapping) for tool in result.tools):
            raise PluginError(f"a Say whose tools are {shown(result.tools)}, not a tuple of JSON schemas")
        if not turns and result.role != "user":
            raise PluginError(f"a first Say of role {result.role!r}; an episode opens with a message of role 'user'")
        return result
    queries = result.queries if isinstance(result, Search) else None
    searches = isinstance(queries, tuple) and queries and all(isinstance(asked, str | Call) for asked in queries)
    reasons = [reason for reason in get_args(StopReason) if reason != "fault"]
    stops = isinstance(result, Stop) and result.reason in reasons and isinstance(result.answer, str | None)
    if isinstance(result, Stop) and not stops:
        raise PluginError(f"{shown(result)}, whose reason is none of {', '.join(reasons)}, or whose answer is no text")
    if not searches and not stops:
        raise PluginError(shown(result))
    if not turns:
        raise PluginError(f"{shown(result)} to open an episode, which begins with a Say")
    if searches and turns[-1].author == "env":
        raise PluginError(f"{shown(result)} when it was shown passages, which a Say or a Stop answers")
    return result


def check_retriever(result: Any, /, **_: Any) -> Any:
    """Check that it is a search function."""
    if not callable(result):
        raise PluginError(shown(result))
    return result


def check_found(results: Any, queries: Sequence[str], k: int, /) -> list[list[Passage]]:
    """Return a search function's result as a list of at most k passages for each query."""
    count = len(queries)
    if not isinstance(results, Sequence) or isinstance(results, str) or len(results) != count:
        size = f" of {len(results)}" if isinstance(results, Sequence) else ""
        raise PluginError(f"a {type(results).__name__}{size} for {count} queries")
    for result in results:
        if not isinstance(result, Sequence) or isinstance(result, str):
            raise PluginError(f"a {type(result).__name__} for a query")
    return [list(map(_passage, result[:k])) for result in results]


def check_called(results: Any, calls: Sequence[Call], /, **_: Any) -> list[list[Passage]]:
    """Return a tool's result as a list of passages for each call; a text becomes a passage without id and title."""
    if not isinstance(results, Sequence) or isinstance(results, str) or len(results) != len(calls):
        raise PluginError(f"{shown(results)} for {len(calls)} calls")
    texts = [[result] if isinstance(result, str | Passage) else result for result in results]
    if odd := [result for result in texts if not isinstance(result, list | tuple)]:
        raise PluginError(f"{shown(odd[0])} for a call")
    return [[_passage(Passage("", "", one) if isinstance(one, str) else one) for one in result] for result in texts]


def _passage(item: Any) -> Passage:
    if not isinstance(item, Passage) or not all(isinstance(text, str) for text in (item.id, item.title, item.text)):
        raise PluginError(f"a {type(item).__name__} that is no Passage with a text, title and id")
    if len(item.id) > MOST_ID_CHARS:
        raise PluginError(f"a passage whose id has {len(item.id):,} characters, of which {MOST_ID_CHARS:,} are taken")
    if not isinstance(item.score, int | float | np.number) or not math.isfinite(item.score):
        raise PluginError(f"passage {item.id!r} with the score {item.score}, which is no finite number")
    return replace(item, id=encodable(item.id), title=encodable(item.title), text=encodable(item.text))


def check_reward(result: Any, query: Any, episodes: Sequence[Any], /, **_: Any) -> Scores:
    """Return an array or Scores as checked Scores; numbers that are not finite stay, and count as faults later."""
    scores = result if isinstance(result, Scores) else Scores(result)
    size, outcome_G, turn_GT = len(episodes), scores.outcome_G, scores.turn_GT
    score_G = _numbers(scores.score_G, (size,), "scores")
    if outcome_G is not None:
        outcome_G = _numbers(outcome_G, (size,), "outcomes")
        if not np.isin(outcome_G[np.isfinite(outcome_G)], (0, 1)).all():
            raise PluginError(f"outcomes other than 0 and 1: {outcome_G}")
    if turn_GT is not None:
        turns_G = [episode.model_turns for episode in episodes]
        listed = isinstance(turn_GT, Sequence) or (isinstance(turn_GT, np.ndarray) and turn_GT.ndim)
        if not listed or len(turn_GT) != size:
            raise PluginError(f"turn rewards {shown(turn_GT)}")
        turn_GT = tuple(_numbers(row, (turns,), "turn rewards") for row, turns in zip(turn_GT, turns_G, strict=True))
    return Scores(score_G, outcome_G, turn_GT)


def check_advantage(result: Any, /, grades: Any = None, **given: Any) -> Any:
    """Return the advantages, one per sample, turn or token, after checking shape and type at trace time."""
    shape, tokens = getattr(result, "shape", None), _shape_NL(given)
    if not _is_float(result) or shape is None or len(shape) not in (2, 3) or 0 in shape[2:]:
        raise PluginError(shown(result))
    if grades is None:  # the learner, which has the grades, checks the shape
        return result
    groups, samples = grades.reward_QG.shape
    by_token = len(shape) == 2 and shape[0] == groups * samples and tokens in (None, shape)
    if shape[:2] != (groups, samples) and not by_token:
        raise PluginError(f"{shown(result)} for {groups} groups of {samples}")
    if len(shape) == 3 and tokens and shape[2] == tokens[1]:
        raise PluginError(f"{shown(result)}, one a token by group and sample")
    return result


def check_loss(result: Any, /, **given: Any) -> Any:
    """Return (loss per token, metrics per token) after checking shape and type at trace time."""
    shape = _shape_NL(given)
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
        raise PluginError(shown(result))
    for name, value in {"the loss": result[0], **result[1]}.items():
        kind = str(getattr(value, "dtype", ""))
        numbers = _is_float(value) or (value is not result[0] and ("int" in kind or "bool" in kind))
        if not isinstance(name, str) or not numbers or (shape is not None and value.shape != shape):
            raise PluginError(f"{name if value is result[0] else repr(name)} as {shown(value)} for tokens {shape}")
    return result


def _numbers(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Return float64 of that shape. PluginError for what is no number (text, objects, None) or has another shape."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise PluginError(f"{name} of which some are masked; say NaN where there is no number")
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of unlike lengths
        raise PluginError(f"{name} {shown(value)}") from error
    if array.shape != shape or array.dtype.kind not in "biuf":
        given = value if hasattr(value, "shape") else array if array.dtype.kind in "biuf" else value
        raise PluginError(f"{name} that are {shown(given)}, not numbers of shape {shape}")
    return array.astype(np.float64)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 0)


def _is_float(value: Any) -> bool:
    return "float" in str(getattr(value, "dtype", ""))


def _shape_NL(given: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the shape of the given per-token arrays; None if there are none."""
    shapes = (value.shape for name, value in given.items() if name.endswith("_NL") and value is not None)
    return next(shapes, None)


CONTRACTS: Mapping[str, Contract] = {
    "rule": Contract(
        folders=("pool/rules", "methods/rules"),
        given=("pool", "outcome"),
        returns="(weight_P, memory): a finite draw weight of 0 or more for each query of the pool, and arrays by name",
        check=check_rule,
        # DRAWS: how weights draw; default: by chance. READS_KINDS: it learns of a query from others of its
        # pool.family_P, so a run warns if all questions are of one.
        constants={"DRAWS": Literal["chance", "largest"], "READS_KINDS": bool},
    ),
    "rounds": Contract(
        folders=("pool/rounds", "methods/rounds"),
        given=("pool", "so_far"),  # so_far: the step's Outcomes so far; the last covers all its groups
        returns="Ask(draw=..., more={pool index: samples}) for at least one rollout, or None, which ends the drawing",
        check=check_rounds,
        provided=("queries", "oversample", "samples"),
        # The most samples a group may grow to (without it pool.samples), and the most rounds a step may have.
        constants={"MAX_GROUP_SIZE": int, "MAX_ROUNDS": int},
    ),
    "env": Contract(
        folders=("envs", "methods/envs"),
        given=("query", "turns"),
        returns="Say(text, role, (stop, ...)), Search((query, ...)) or Stop(reason, answer) (records.py)",
        check=check_env,
        provided=("tools",),  # JSON schemas of the run's tools
        # TAGS (further than dialect.NAMES) and VOCABULARY join the world tokenizer's words. PARALLEL: the most searches
        # of an expert's turn. ACTS: the first of these tags in a turn is its act (for programs that play an exported
        # agent).
        constants={
            "TAGS": tuple[str, ...],
            "VOCABULARY": tuple[str, ...],
            "PARALLEL": int,
            "ACTS": tuple[str, ...],
        },
        beside=("expert_turn",),  # (thought, queries, answer) -> what an expert writes: cold starts need it
    ),
    "retriever": Contract(
        folders=("retrievers", "search/retrievers"),
        given=(),
        returns="search(queries, k), which gives each query its passages, best first",
        check=check_retriever,
        provided=("corpus",),
        # DEVICES: it computes on accelerators (a search server opens them for no other). SHARED: it reads a model or a
        # file when it is made, so data.corpus=own, which makes a retriever per question, refuses it.
        constants={"DEVICES": bool, "SHARED": bool},
        beside=("fingerprint",),  # (**settings) -> SHA-256 of the model it searches with, for caches and manifests
        made=Contract((), ("queries", "k"), "a list of passages for each query, best first", check_found),
    ),
    "tool": Contract(
        folders=("tools",),
        given=("calls",),  # records.Call: call["text"] is the argument of that name
        returns="a text, a Passage or a list of these for each call",
        check=check_called,
        # search: the retriever's function; corpus: its passages or None; k: rollout.search_k;
        # kept: a dict of the tool's own that lives as long as the run.
        provided=("search", "corpus", "k", "kept"),
        constants={"DESCRIPTION": str, "PARAMETERS": Mapping[str, Any]},  # name -> schema; without default: required
        beside=("schemas",),  # (**settings) -> schemas, for one plug-in that offers several tools
    ),
    "reward": Contract(
        folders=("rewards", "methods/rewards"),
        given=("query", "episodes"),
        returns="a number for each episode of the group (NaN: a fault), or Scores (records.py)",
        check=check_reward,
        # MAX_TURNS: it rewards turns; there is room for so many, doubled if an episode has more. ENDPOINT: settings of
        # the server it asks, which may change within a run; a step that is mostly ungraded is repeated. VERDICTS: the
        # most that one episode needs from the server; the settings `budget` and `cache` count them.
        constants={"MAX_TURNS": int, "ENDPOINT": tuple[str, ...], "VERDICTS": int},
    ),
    "advantage": Contract(
        folders=("learner/advantages", "methods/advantages"),
        given=("grades", "turns_QG", "entropy_NL", "logp_NL", "old_logp_NL", "gold_logp_NT", "mask_NL", "turn_NL"),
        returns="a float array [Q, G], one a turn [Q, G, T] or one a token [Q * G, L]",
        check=check_advantage,
        by_name=True,
        # gold_logp_NT: nats of the gold answer before each turn (learner/pack.py has the others). ZERO_VARIANCE
        # "gradient": groups of equal rewards have one too; they reach the learner only with learner.keep_zero_variance.
        constants={"ZERO_VARIANCE": Literal["none", "gradient"], "WANTS_TURNS": bool},  # it needs turn rewards
    ),
    "loss": Contract(
        folders=("learner/losses", "methods/losses"),
        given=(*LOSS_ARRAYS, "reward_N"),
        returns="(loss_NL, metrics): a float a token, neither masked nor averaged, and arrays a token by name",
        check=check_loss,
        by_name=True,
        constants={"ZERO_VARIANCE": Literal["none", "gradient"]},
    ),
}
EXAMPLE = "EXAMPLE"  # any plug-in's file may declare it: values for its required settings, for tests
