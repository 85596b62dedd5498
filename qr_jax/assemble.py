"""A config's parts: model and tokenizer, questions and passages, environment and search, engine and mesh."""

import functools
import hashlib
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from qr_jax import plugins
from qr_jax.answers import fold
from qr_jax.config import OWN, SET_PREFIX, Config
from qr_jax.data import readers
from qr_jax.data.traces import MADE_TRACES, ExpertTurn, check_played, read_traces, rewritten, spaced
from qr_jax.data.world.generate import build, has_figures, settings_from, vocabulary
from qr_jax.data.world.text import arithmetic_words
from qr_jax.errors import UserError
from qr_jax.interfaces import shown
from qr_jax.models import decoder, families, hf
from qr_jax.models.families import ModelConfig
from qr_jax.models.hf import load_tokenizer
from qr_jax.models.tokenizer import Tokenizer, WordTokenizer
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Passage, Query, SearchFunction, Trace
from qr_jax.rollout.engine import Engine
from qr_jax.rollout.lanes import Lanes

UNREADABLE = 0.05  # largest share of the questions' words that may be missing from the model's vocabulary
LABELS = ("dataset", "kind", "type", "hops")  # of a question's row, by which rules tell kinds of queries
OTHER_WORLDS = 1_000_000  # trace worlds' seeds start above any a user would give


@dataclass(frozen=True)
class Agent:
    """A model that can be rolled out: its shape, its tokenizer and the engine that decodes with it."""

    cfg: ModelConfig
    tokenizer: Tokenizer
    engine: Engine
    # the initial parameters, float32 unless given another dtype: loaded from files, or random by the config's seed
    weights: Callable[..., Any]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Return what a checkpoint must match: the model's shape, and a hash of the tokenizer's pieces."""
        pieces = hashlib.sha256(b"\0".join(self.tokenizer.piece(i) for i in range(self.tokenizer.size)))
        shape = {name: getattr(self.cfg, name) for name in ModelConfig.__dataclass_fields__}
        return shape | {"tokenizer_sha256": pieces.hexdigest()}


def world_sources(config: Config):
    """Return the splits of the config's synthetic world: read through TFDS, or built in memory without it."""
    settings, builder = settings_from(config.data.world), plugins.around("sets.world_builder", optional=True)
    return builder.open_world(settings, config.data.world_path) if builder else _in_memory(settings)


_in_memory = functools.lru_cache(8)(build)


def read(rows: Any) -> list:
    """Return a split's rows in their order."""
    return [rows[at] for at in range(len(rows))]


def questions(config: Config, part: Literal["train", "eval"]) -> list[Query]:
    """Return the "train" or "eval" questions, in their fixed order. The world's eval questions are its dev split.

    Those of "eval" are the half that evaluation.half names. ValueError if there are none.
    """
    every = _whole(config, part)
    queries = readers.half(every, config.evaluation.half) if part == "eval" else every
    if not queries:
        half = f"half {config.evaluation.half!r} of the {len(every)} eval questions is empty" if every else ""
        todo = half or f"data.{part}={getattr(config.data, part)!r} has no questions"
        raise UserError(f"{todo}; check the files and data.split={config.data.split!r}")
    return queries


def remarks(config: Config, queries: Sequence[Query], held_out: Sequence[Query]) -> list[str]:
    """List the warnings about a run's questions: too few for a step, or some both trained on and held out."""
    lines, wanted = [], config.pool.queries
    if len(queries) < wanted:
        todo = f"lower pool.queries to {len(queries)}, or add questions"
        there = f"there are {len(queries)} to train on: each step draws all"
        lines.append(f"pool.queries={wanted} a step, and {there}; {todo}")
    words, ids = {fold(query.question) for query in queries}, {query.id for query in queries}
    count = sum(query.id in ids or fold(query.question) in words for query in held_out)
    if count:
        what = f"{count:,} of the {len(held_out):,} held-out questions are trained on too"
        todo = "`qr-jax data check TRAIN --against EVAL` lists them"
        lines.append(f"{what}, so a score over them says little: {todo}")
    rule = config.pool.rule.name
    if len(queries) > 1 and plugins.constants("rule", rule).get("READS_KINDS") and not kinds(queries).any():
        lines.append(
            f"the questions are all alike in {', '.join(LABELS)}, and {rule} learns of a question from others of its "
            "kind; rule=retire needs no labels (docs/rules.md)"
        )
    return lines


def kinds(queries: Sequence[Query]) -> np.ndarray:
    """Number the queries' kinds for rules: by dataset, kind, type and hops, in order of first appearance, [P]."""
    seen: dict[tuple, int] = {}
    names = [tuple(str(query.meta.get(name)) for name in LABELS) for query in queries]
    return np.array([seen.setdefault(name, len(seen)) for name in names])


def probed(config: Config) -> list[Query]:
    """Return the held-out questions that the guards' probe asks: the first of half a, whatever evaluation.half is."""
    if not config.guards.probe_every:
        return []
    return readers.first(readers.half(_whole(config, "eval"), "a"), config.guards.probe_questions)


def _whole(config: Config, part: Literal["train", "eval"]) -> list[Query]:
    data = config.data
    name, limit = (data.train, data.train_limit) if part == "train" else (data.eval, data.eval_limit)
    if name == "world":
        world = world_sources(config)
        queries = readers.first(read(world.train if part == "train" else world.dev), limit)
    elif name.startswith(SET_PREFIX):
        queries = _of_file(config, plugins.around("sets.official").for_part(name, part), part, limit)
    else:
        queries = [query for file in readers.resolve(name) for query in _of_file(config, file, part, limit)]
        twice = [query_id for query_id, count in Counter(query.id for query in queries).items() if count > 1]
        if twice:  # the pool would have the same query twice
            repeated = f"{len(twice)} ids stand in more than one file of {name!r}, the first {twice[0]!r}"
            raise UserError(f"{repeated}; {readers.UNIQUE}")
    return queries


def _of_file(config: Config, file: Path | str, part: Literal["train", "eval"], limit: int | None) -> list[Query]:
    """Return one file's questions of that part, the first `limit` by the hash of their ids."""
    whole = _reader(config).read_queries(file)
    if config.data.split == "sha256":
        whole = readers.split(whole, config.data.train_share, part)
    return readers.first(whole, limit)


def passages(config: Config) -> Sequence[Passage]:
    """Return the corpus that searches go to."""
    name = config.data.corpus
    if name == OWN:
        queries = [*_whole(config, "train"), *_whole(config, "eval")]
        return plugins.around("sets.own_paragraphs").OwnParagraphs(queries)
    return read(world_sources(config).documents) if name == "world" else _reader(config).read_passages(name)


def _reader(config: Config) -> Any:
    """Return the module that reads files, or a reader that applies data.map, answer_split and skip_broken."""
    data = config.data
    if not (data.map or data.answer_split or data.skip_broken):
        return readers
    columns = plugins.around("sets.columns")
    return columns.Reader(columns.Columns(data.map, data.answer_split), data.skip_broken)


def searcher(config: Config) -> SearchFunction:
    """Return the config's search function."""
    make = plugins.bind("retriever", config.retriever)
    corpus = passages(config) if plugins.wants_corpus(config.retriever) else None
    return with_tools(config, make() if corpus is None else search_over(make, corpus), corpus)


def search_over(make: Callable[..., SearchFunction], corpus: Sequence[Passage]) -> SearchFunction:
    """Return the bound retriever's search over a corpus; with data.corpus=own, each question searches only its own."""
    if hasattr(corpus, "by_question"):  # data.corpus=own; a suite has another corpus
        return plugins.around("sets.own_paragraphs").searching(make, corpus)
    return make(corpus=corpus)


def with_tools(config: Config, search: SearchFunction, corpus: Sequence[Passage] | None = None) -> SearchFunction:
    """Return a search function that also answers calls of the config's tools. `corpus`: the passages it searches."""
    if not config.tools:
        return search
    reads = any("corpus" in plugins.signature("tool", tool.name).settings for tool in config.tools)
    if corpus is None and reads and (config.data.corpus != "world" or config.data.train == "world"):
        corpus = passages(config)
    return _tools().answering(config.tools, {"search": search, "corpus": corpus, "k": config.rollout.search_k})


def environment(config: Config) -> Callable:
    """Return the environment bound to its settings and, where the run has tools, to their schemas."""
    provided = {"tools": tool_schemas(config)} if config.tools else {}
    env = plugins.bind("env", config.env, provided=provided)
    return plugins.around("sets.own_paragraphs").marked(env) if config.data.corpus == OWN else env


def tool_schemas(config: Config) -> Any:
    """Return the JSON schemas of the run's tools, as its environment is given them."""
    return _tools().schemas(config.tools)


def _tools() -> Any:
    """Load the module of a run's tools."""
    return plugins.around("tools._of_run")


def traces(config: Config, search: SearchFunction) -> list[tuple[Trace, SearchFunction]]:
    """Return expert traces for the cold start, each with the search function its passages come from.

    "supporting" and "retrieved" make them of training questions only. With `data.trace_worlds` the synthetic world's
    traces come from worlds with other facts, each with its own corpus, so that the model learns to copy answers from
    passages, not to remember them.
    """
    name = config.data.traces
    if name == "world" and config.data.trace_worlds:
        pairs = [pair for at in range(config.data.trace_worlds) for pair in _other_world(config, at)]
    elif name == "world":
        pairs = [(trace, search) for trace in read(world_sources(config).traces)]
    elif name == "supporting":
        queries, absent = _titled(config, questions(config, "train"))
        played = _makers().supporting_traces(
            queries, search, absent=absent, k=config.rollout.search_k, **_expert(config), asked=asked(config)
        )
        pairs = [(trace, search) for trace in played]
    elif name == "retrieved":
        queries = questions(config, "train")
        write, k = _expert(config)["write"], config.rollout.search_k
        pairs = [
            (trace, search)
            for trace in _makers().retrieved_traces(queries, search, write=write, k=k, asked=asked(config))
        ]
    else:
        pairs = [(trace, search) for trace in read_traces(name)]
    if not pairs:
        raise UserError(f"data.traces={name!r} gave no traces; a cold start needs some, or sft.steps=0")
    if name == "world":
        expert = _expert(config)
        return [(rewritten(trace, **expert), its_search) for trace, its_search in pairs]
    return pairs


def _makers() -> Any:
    """Load the module that makes traces of questions."""
    return plugins.around("sets.made_traces")


def _titled(config: Config, queries: Sequence[Query]) -> tuple[list[Query], frozenset[str]]:
    """Apply `with_titles`, which needs the corpus; without a corpus return the queries unchanged."""
    if not plugins.wants_corpus(config.retriever):
        return list(queries), frozenset()
    return _makers().with_titles(queries, passages(config))


def _expert(config: Config) -> dict[str, Any]:
    """Return `write`, which writes an expert's turn in the env's dialect, and `parallel`, the most searches a turn."""
    write, words = expert_turn(config), families.reads_words(config.model.name, config.model.tokenizer)
    parallel = plugins.constants("env", config.env.name).get("PARALLEL", 1)
    return {"write": (lambda *turn: spaced(write(*turn))) if words else write, "parallel": parallel}


def asked(config: Config) -> Callable[[str, Query], str]:
    """Return a function that marks a search with its question where data.corpus=own, as the environment does."""
    return plugins.around("sets.own_paragraphs").asked if config.data.corpus == OWN else lambda text, query: text


def check_traces(config: Config, queries: Sequence[Query], search: SearchFunction | None = None) -> None:
    """Raise ValueError if the cold start would find no trace that it can use; without `search` read no passages."""
    if not config.sft.steps or config.train.init:
        return
    k = config.rollout.search_k
    if config.data.traces == "supporting":
        _makers().check_fit(queries, passages_read=False)
        if search:
            titled, absent = _titled(config, queries)
            _makers().check_supporting(titled, search, absent=absent, k=k, **_expert(config), asked=asked(config))
    elif config.data.traces == "retrieved" and search:
        _makers().check_retrieved(queries, search, write=_expert(config)["write"], k=k, asked=asked(config))
    elif config.data.traces not in MADE_TRACES:
        write = plugins.beside("env", config.env.name, "expert_turn")
        check_played(read_traces(config.data.traces), environment(config), write)


def check_readable(tokenizer: Tokenizer, queries: Sequence[Query]) -> None:
    """Raise ValueError for questions that the model cannot read (`unreadable`)."""
    if text := unreadable(tokenizer, queries):
        raise UserError(text)


def unreadable(tokenizer: Tokenizer, queries: Sequence[Query]) -> str | None:
    """Say what share of the questions' words the vocabulary lacks, with the cure; None up to a share of UNREADABLE."""
    if tokenizer.unknown_id is None:
        return None
    counts = Counter(word for query in queries for word in query.question.split())
    lacking = [word for word in counts if tokenizer.unknown_id in tokenizer.encode_data(word)]
    share = sum(counts[word] for word in lacking) / max(counts.total(), 1)
    if share <= UNREADABLE:
        return None
    first = ", ".join(repr(word) for word in lacking[:5])
    cure = "take a model that reads any text (model=smollm2, or a Hugging Face folder or id); a preset knows the"
    cure += " synthetic world's words alone, each between blanks"
    return f"the model's vocabulary lacks {share:.0%} of the words of the questions ({first}, ...): {cure}"


def expert_turn(config: Config) -> ExpertTurn:
    """Return `expert_turn` of the env's file, which writes an expert's turn in its dialect. ValueError without one."""
    write = plugins.beside("env", config.env.name, "expert_turn")
    if write is None:
        lacks = "no function expert_turn(thought, queries, answer) in its file, which writes an expert's turn"
        raise UserError(f"env {config.env.name!r} has {lacks}; write it")
    try:
        inspect.signature(write).bind("", (), None)
    except TypeError as error:
        wants = "wanted expert_turn(thought, queries=(), answer=None)"
        raise UserError(f"expert_turn of env {config.env.name!r} has other arguments ({error}); {wants}") from error

    def written(*words: Any, **named: Any) -> str:
        text = write(*words, **named)
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                f"expert_turn of env {config.env.name!r} returned {shown(text)}; wanted what an expert writes"
            )
        return text

    return written


def _other_world(config: Config, at: int) -> list[tuple[Trace, SearchFunction]]:
    """Make the `at`-th other world, with other facts; return its share of the traces, each with its search."""
    whole = settings_from(config.data.world)
    part = {"train": 0, "dev": 0, "test": 0, "traces": -(-whole.traces // config.data.trace_worlds)}
    seed = OTHER_WORLDS * (whole.seed + 1) + at
    other = replace(config, data=replace(config.data, world={**config.data.world, **part, "seed": seed}))
    search = searcher(other)
    return [(trace, search) for trace in read(world_sources(other).traces)]


def agent(config: Config) -> Agent:
    """Make model, tokenizer and engine; nothing large is allocated."""
    model = config.model
    if model.name in families.PRESETS:
        tokenizer = world_tokenizer(config) if model.tokenizer is None else load_tokenizer(model.tokenizer)
        cfg = replace(families.PRESETS[model.name], vocab=tokenizer.size)
    else:
        path = hf.resolve(model.name)
        cfg, tokenizer = hf.shape(path), load_tokenizer(model.tokenizer or path)

    def weights(dtype: Any = np.float32) -> Any:
        if model.name in families.PRESETS:
            params = decoder.init(cfg, jax.random.fold_in(jax.random.key(config.seed), 1))
            return jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        return hf.load(path, dtype)[1]

    mesh, rollout = config.mesh, config.rollout
    is_single = mesh.data * mesh.fsdp * mesh.tensor == 1 and mesh.rollout_devices <= 1
    by_one = is_single or mesh.rollout == "one" or jax.default_backend() == "cpu"
    engine = Lanes if rollout.lanes > 1 and by_one and mesh.rollout in (None, "one") else Engine
    return Agent(cfg, tokenizer, engine(cfg, tokenizer, rollout, compute=model.compute), weights)


def for_one(config: Config) -> Config:
    """Return the config with room for a single sequence, for an agent that is asked one question at a time."""
    return replace(config, rollout=replace(config.rollout, slots=1, store=1, lanes=1))


def world_tokenizer(config: Config) -> WordTokenizer:
    """Make a tokenizer of the synthetic world's words, and of the environment's tags and further words."""
    figures = arithmetic_words() if has_figures(settings_from(config.data.world)) else []
    named = plugins.constants("env", config.env.name)
    tags = [f"<{slash}{tag}>" for tag in named.get("TAGS", ()) for slash in ("", "/")]
    return WordTokenizer(list(dict.fromkeys([*vocabulary(), *tags, *named.get("VOCABULARY", ()), *figures])))


def place(params, mesh: jax.sharding.Mesh):
    """Lay host or device parameters, the same on every process, over the learner's mesh."""
    return meshes.spread(params, meshes.shardings(mesh, params))


def with_world_seed(config: Config, seed: int) -> Config:
    """Return the same config over a world of other facts."""
    if {config.data.eval, config.data.corpus} != {"world"}:
        asks = f"{config.data.eval!r} over {config.data.corpus!r}"
        raise UserError(f"world_seed needs a synthetic world; this run asks {asks}")
    return replace(config, data=replace(config.data, world={**config.data.world, "seed": seed}))
