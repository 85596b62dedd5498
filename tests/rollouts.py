"""What tests of rollouts share: a small world, a tiny model that has learnt to search it, engines."""

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from qr_jax import config
from qr_jax.data.world.generate import World, WorldSettings, build, vocabulary
from qr_jax.envs.search_r1 import search_r1
from qr_jax.learner import learner
from qr_jax.learner.pack import pack
from qr_jax.models import decoder
from qr_jax.models.families import PRESETS
from qr_jax.models.tokenizer import WordTokenizer
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Episode, Query, Say, Search, Stop, Trace, Turn, grades
from qr_jax.rollout import sampling
from qr_jax.rollout.engine import Engine
from qr_jax.rollout.lanes import Lanes

WORDS = WordTokenizer(vocabulary())
CFG = replace(PRESETS["two_layer"], vocab=WORDS.size)
SETTINGS = config.Rollout(
    slots=4, context_tokens=160, turn_tokens=20, search_k=2, observation_tokens=40, tile=16, buckets=(16, 64), chunk=4
)
TEXTS = dict(prompt="{question} ", passage="{title} {text} ", information=" <information> {passages} </information> ")
SYSTEM = " ".join(["who", "is", "the"] * 10)
ENV = functools.partial(search_r1, **TEXTS, last="", invalid="", think=False)


@functools.cache
def world() -> World:
    return build(WorldSettings(documents=200, train=150, dev=20, test=20, traces=300))


@functools.cache
def default_search():
    from qr_jax.search.retrievers.bm25 import bm25

    return bm25(corpus=world().documents)


@functools.cache
def engine(**changes) -> Engine:
    """An engine over the world's words; engines are shared, since each compiles its own programs."""
    return (Lanes if "lanes" in changes else Engine)(CFG, WORDS, replace(SETTINGS, **changes))


def words_env(query: Query, turns, *, searches: int = 3, letter: str = "e") -> Say | Search | Stop:
    """An environment in which a random model searches: a turn ends at any word that ends in `letter`."""
    said = [turn.text for turn in turns if turn.author == "model"]
    if not turns:
        return Say(query.question, stop=(letter + " ",))
    if turns[-1].author == "env":
        found = " ".join(passage.text for row in turns[-1].passages for passage in row)
        return Say(f"<information> {found} </information>", "inline", (letter + " ",))
    return Stop("answered", said[-1]) if len(said) > searches else Search(tuple(said[-1].split()[-2:]))


def with_system(query: Query, turns) -> Say | Search | Stop:
    """`words_env` with 30 words before each question that all prompts share."""
    move = words_env(query, turns)
    return move if turns else Say(f"{SYSTEM} {query.question}", stop=move.stop)


def expert(trace: Trace) -> Episode:
    """A trace as an episode: its turns as if sampled, what the environment and the retriever say between them."""
    chat, turns, ids, turn = engine().chat, [], [], []

    def put(more, number):
        ids.extend(more)
        turn.extend([number] * len(more))

    put(chat.open(ENV(trace.query, [])), -1)
    for number, text in enumerate(trace.turns):
        put(WORDS.encode(text), number)
        turns.append(Turn("model", text))
        move = ENV(trace.query, turns)
        if isinstance(move, Stop):
            break
        assert isinstance(move, Search)
        turns.append(Turn("env", "", move.queries, tuple(map(tuple, default_search()(list(move.queries), 2)))))
        put(chat.observe(ENV(trace.query, turns), False), -1)
    turn_L = np.array(turn, np.int32)
    nothing = np.zeros(len(ids), np.float32)
    return Episode(
        trace.query, 0, 0, np.array(ids, np.int32), turn_L >= 0, nothing, turn_L, tuple(turns), None, "answered", True
    )


@functools.cache
def random_params(cfg=CFG):
    """A fresh model but for its norms and biases: at 1 and 0, as they begin, nobody would see that one is left out."""
    number = itertools.count(1)

    def moved(path, array):
        if not path[-1].key.endswith(("norm", "bias")):
            return array
        return array + 0.3 * jax.random.normal(jax.random.key(next(number)), array.shape)

    return jax.tree_util.tree_map_with_path(moved, decoder.init(cfg, jax.random.key(0)))


@functools.cache
def trained_params(steps: int = 60):
    """A few seconds of the cold start: enough for turns of the right form, not for right answers."""
    settings = config.Learner(
        loss=config.use("nll"), advantage=config.use("dr_grpo"), lr=1e-2, rows=16, row_tokens=160, betas=(0.9, 0.95)
    )
    made = learner.make(CFG, config.Model(vocab_block=512), settings, meshes.make_mesh(config.Mesh(devices=1)))
    state = made.init(random_params())
    episodes = [expert(trace) for trace in world().traces]
    episodes = [episode for episode in episodes if len(episode.ids_L) <= 160]
    rng = np.random.default_rng(0)
    for _ in range(steps):
        some = [[episodes[at]] for at in rng.choice(len(episodes), 32, replace=False)]
        graded = grades(np.ones((32, 1)), np.ones((32, 1), bool))
        batch = pack(some, graded, rows=16, row_tokens=160, queries=32, samples=1, micro=2)
        state, _ = made.update(state, batch, 1e-2)
    return jax.tree.map(jnp.asarray, jax.device_get(state.params))


def roll(
    made: Engine, params, queries, samples, *, env=ENV, search=None, seed=0, step=0, **more
) -> list[list[Episode]]:
    search = default_search() if search is None else search
    return made.run(params, queries, samples, env=env, search=search, seed=seed, step=step, **more)


def flat(groups: list[list[Episode]]) -> list[Episode]:
    return [episode for group in groups for episode in group]


@functools.lru_cache
def _forward(cfg):
    def logits_of(params, ids_1L):
        position_1L = jnp.arange(ids_1L.shape[1])[None]
        hidden = decoder.forward(cfg, params, ids_1L, position_1L, jnp.ones_like(ids_1L))
        return decoder.logits(cfg, params, hidden)[0]

    return jax.jit(logits_of)


def logits(params, ids, *, cfg=CFG, longest: int = 160) -> np.ndarray:
    """[L, V] of the learner's forward pass, which knows no cache; causal, so padding behind does not matter."""
    padded_1L = np.zeros((1, longest), np.int32)
    padded_1L[0, : len(ids)] = ids
    return np.asarray(_forward(cfg)(params, padded_1L))[: len(ids)]


def logp(params, episode: Episode, *, temperature: float = 1.0, cfg=CFG, longest: int = 160) -> np.ndarray:
    """logp_L of an episode's sampled tokens by that forward pass; 0 elsewhere."""
    table_LV = logits(params, episode.ids_L, cfg=cfg, longest=longest) / temperature
    table_LV = table_LV - np.logaddexp.reduce(table_LV, axis=-1, keepdims=True)
    before_L = table_LV[np.arange(len(episode.ids_L) - 1), episode.ids_L[1:]]
    return np.where(episode.mask_L, np.concatenate([[0], before_L]), 0)


def margin(made: Engine, params, prefix, key_2, temperature: float = 1.0) -> tuple[int, float]:
    """The token that the sampler must draw after `prefix`, and by how much its choice led over the next."""
    column_V1, position_1 = logits(params, prefix)[-1:].T, np.array([len(prefix)], np.int32)
    choice = sampling.choose(column_V1, key_2[None], position_1, np.float32(temperature), made.rows.sampling)
    return int(choice.token_S[0]), float(choice.margin_S[0])


def near_ties(made: Engine, params, key_N2, one: list[Episode], other: list[Episode], temperature: float = 1.0) -> int:
    """How many episodes differ; each must do so first at a token whose two best scores lie within 1e-4."""
    different = 0
    for a, b, key_2 in zip(one, other, key_N2, strict=True):
        if np.array_equal(a.ids_L, b.ids_L):
            assert (a.stop, a.answer, a.valid) == (b.stop, b.answer, b.valid)
            np.testing.assert_allclose(a.logp_L, b.logp_L, atol=1e-4)
            continue
        short = min(len(a.ids_L), len(b.ids_L))
        at = int(np.argmax(a.ids_L[:short] != b.ids_L[:short]))
        assert a.ids_L[at] != b.ids_L[at], "one is the beginning of the other"
        assert a.mask_L[at] and b.mask_L[at] and margin(made, params, a.ids_L[:at], key_2, temperature)[1] < 1e-4
        different += 1
    return different


def assert_whole(episode: Episode, made: Engine, env) -> None:
    """All that holds of any episode: its ids are the prompt, what was sampled and what the environment said."""
    settings, sampled = made.settings, episode.mask_L
    assert len(episode.ids_L) <= settings.context_tokens
    assert np.array_equal(sampled, episode.turn_L >= 0)
    assert not episode.logp_L[~sampled].any() and np.isfinite(episode.logp_L).all() and (episode.logp_L <= 0).all()
    ids = list(made.chat.open(env(episode.query, [])))
    number, by_eos = 0, False
    for at, turn in enumerate(episode.turns):
        if turn.author == "model":
            written = episode.ids_L[episode.turn_L == number].tolist()
            assert 0 < len(written) <= settings.turn_tokens
            by_eos = written[-1] in made.tokenizer.eos_ids
            assert not set(written[:-1]) & set(made.tokenizer.eos_ids)
            shown = b"".join(made.pieces[token] for token in (written[:-1] if by_eos else written))
            assert turn.text == shown.decode("utf-8", errors="replace")
            ids, number = ids + written, number + 1
            continue
        move = env(episode.query, episode.turns[:at])
        say = env(episode.query, episode.turns[: at + 1]) if isinstance(move, Search) else move
        last = at == len(episode.turns) - 1
        if not (last and episode.stop in ("fault", "context")):
            assert turn.text == say.text
            ids += made.chat.observe(say, by_eos)
    assert episode.ids_L.tolist() == ids
    assert episode.turn_L.max() == number - 1
    if episode.stop == "length":
        assert np.sum(episode.turn_L == number - 1) == settings.turn_tokens
