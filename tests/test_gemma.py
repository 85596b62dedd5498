"""Gemma 3: parts by hand, logits by a second reading of the formulas, windows in rows, trees and caches, its chat."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rollouts
import tokenizers
from rollouts import SETTINGS, WORDS, flat, random_params, roll, words_env, world
from test_chat import SEARCH

from qr_jax import config
from qr_jax.learner import learner
from qr_jax.learner.pack import pack
from qr_jax.methods.envs.tool_call import tool_call
from qr_jax.models import costs, decoder, layer
from qr_jax.models.families import PRESETS, ModelConfig
from qr_jax.models.hf import load_tokenizer
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Query, Say, grades
from qr_jax.rollout import on_cpu
from qr_jax.rollout.chat import Chat
from qr_jax.rollout.engine import Engine
from qr_jax.rollout.lanes import Lanes

KINDS = (True, False, True, True, False)  # five layers: more are scanned
CFG = ModelConfig(
    WORDS.size, 32, 5, 4, 1, 16, 48, 512, rope_theta=1e6, rope_scaling=(("factor", 8.0), ("rope_type", "linear")),
    qk_norm=True, gemma3=True, sliding=KINDS, window=6, query_scalar=24,
)  # fmt: skip


# ---- the formulas


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def norm(x, weight):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * (1 + weight)


def turned(x_LHd, theta, stretch):
    """Channel i and channel i + d/2 as one complex number, turned by position * theta ** (-2 i / d) / stretch."""
    length, _, dim = x_LHd.shape
    angle_Ld = np.arange(length)[:, None] * theta ** (-2 * np.arange(dim // 2) / dim) / stretch
    z = (x_LHd[..., : dim // 2] + 1j * x_LHd[..., dim // 2 :]) * np.exp(1j * angle_Ld)[:, None]
    return np.concatenate([z.real, z.imag], axis=-1)


def by_formulas(params, ids_L):
    """[L, V] in float64, token by token, of one sequence: Gemma Team 2025, arXiv:2503.19786, and its published code."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x_LD = params["embed"][ids_L] * np.sqrt(CFG.width)
    for number, slides in enumerate(KINDS):
        of = {name: leaf[number] for name, leaf in params["layers"].items()}
        h_LD = norm(x_LD, of["attn_norm"])
        q, k, v = (np.einsum("ld,dhe->lhe", h_LD, of[name]) for name in "qkv")
        theta, stretch = (1e4, 1) if slides else (1e6, 8)
        q, k = turned(norm(q, of["q_norm"]), theta, stretch), turned(norm(k, of["k_norm"]), theta, stretch)
        out = np.zeros_like(q)
        for at in range(len(ids_L)):
            first = max(0, at - 6 + 1) if slides else 0
            score_HB = np.einsum("he,be->hb", q[at], k[first : at + 1, 0]) / np.sqrt(24)
            weight_HB = np.exp(score_HB - score_HB.max(-1, keepdims=True))
            out[at] = weight_HB / weight_HB.sum(-1, keepdims=True) @ v[first : at + 1, 0]
        x_LD = x_LD + norm(np.einsum("lhe,hed->ld", out, of["o"]), of["attn_out_norm"])
        h_LD = norm(x_LD, of["mlp_norm"])
        x_LD = x_LD + norm((gelu(h_LD @ of["gate"]) * (h_LD @ of["up"])) @ of["down"], of["mlp_out_norm"])
    return norm(x_LD, params["norm"]) @ params["embed"].T


@pytest.mark.thorough
def test_two_episodes_in_a_row_have_the_logits_of_the_formulas():
    rng, params = np.random.default_rng(0), random_params(CFG)
    parts = [rng.integers(0, CFG.vocab, length) for length in (40, 23)]
    position_1L = np.concatenate([np.arange(len(part)) for part in parts])[None]
    segment_1L = np.repeat([1, 2], [len(part) for part in parts])[None]
    hidden = decoder.forward(CFG, params, np.concatenate(parts)[None], position_1L, segment_1L)
    wanted = np.concatenate([by_formulas(params, part) for part in parts])
    assert np.abs(wanted).max() > 2
    assert np.abs(np.asarray(decoder.logits(CFG, params, hidden))[0] - wanted).max() < 1e-4


def test_the_parts_by_hand():
    x, tiny = jnp.array([[3.0, -4.0]]), replace(CFG, norm_eps=1e-12)
    # The root of the mean square is 3.5355; weights of 0 and 1 stand for factors of 1 and 2.
    found = layer.rms_norm(tiny, x, jnp.array([0.0, 1.0]), axis=-1)
    np.testing.assert_allclose(found, [[0.8485, -2.2627]], atol=1e-4)
    # gelu(1) = .5 (1 + tanh(.79788 * 1.044715)) = .841192
    np.testing.assert_allclose(layer.gated(CFG, jnp.array([1.0]), jnp.array([2.0])), [1.682384], atol=1e-5)
    np.testing.assert_allclose(layer.scaled(CFG, jnp.array([1.0])), [0.816497], atol=1e-6)  # sqrt(16 / 24)
    assert layer.scaled(PRESETS["gemma3_1b"], x) is x


@pytest.mark.parametrize(("kind", "wanted"), [(jnp.float32, 33.941125), (jnp.bfloat16, 34.0)])
def test_an_embedding_is_scaled_by_the_root_of_its_width_as_the_dtype_has_it(kind, wanted):
    """The root of 1152 is 33.94, and bfloat16 has quarters there: 34."""
    found = layer.embedded(PRESETS["gemma3_1b"], jnp.ones((4, 1)), jnp.array([2]), kind)
    assert found.dtype == kind and float(found[0, 0]) == pytest.approx(wanted, rel=1e-7)


def test_published_sizes():
    """As the models' cards and the shapes of their published files have them; of the 4B the text part."""
    count = {name: costs.parameter_count(cfg) for name, cfg in PRESETS.items() if cfg.gemma3}
    assert count == {"gemma3_270m": 268_098_176, "gemma3_1b": 999_885_952, "gemma3_4b": 3_880_263_168}
    sliding = {name: sum(PRESETS[name].sliding) for name in count}
    assert sliding == {"gemma3_270m": 15, "gemma3_1b": 22, "gemma3_4b": 29}


def test_a_sliding_layer_costs_the_pairs_in_its_window():
    # Tokens at 1 to 8: 36 pairs; within 6: 1 + 2 + 3 + 4 + 5 + 6 + 6 + 6 = 33, in three of five layers.
    assert costs.attended(CFG, np.arange(8) + 1) == pytest.approx((2 * 36 + 3 * 33) / 5)
    assert costs.attended(replace(CFG, sliding=()), np.arange(8) + 1) == 36
    pairs = costs.attended(CFG, np.arange(8) + 1)
    forward = 2 * costs.matrix_parameters(CFG) * 8 + 4 * 4 * 16 * (2 * 36 + 3 * 33)
    assert costs.training_flops(CFG, tokens=8, pairs=pairs, predicted=0) == 3 * forward


# ---- rollouts and learner


ENGINES = {"plain": {}, "long chunks": {"chunk": 16}, "a token a chunk": {"chunk": 1}, "a store of one": {"store": 1}}


@pytest.mark.parametrize("how", ENGINES)
def test_log_probabilities_are_those_of_a_forward_pass_without_a_cache(how):
    """Windows of 6 are passed inside a chunk, inside a prompt, and where an observation is appended."""
    made = Engine(CFG, WORDS, replace(SETTINGS, **{"chunk": 3, "buckets": (64,), **ENGINES[how]}))
    check(made, 6)


def check(made, queries):
    params = random_params(CFG)
    episodes = flat(roll(made, params, world().train[:queries], 2, env=words_env, temperature=0.7))
    assert max(episode.turn_L.max() for episode in episodes) == 3
    for episode in episodes:
        rollouts.assert_whole(episode, made, words_env)
        expected_L = rollouts.logp(params, episode, temperature=0.7, cfg=CFG)
        np.testing.assert_allclose(episode.logp_L, expected_L, atol=1e-4, rtol=0)


@pytest.mark.thorough
def test_lanes_and_programs_of_few_layers_give_them_too(monkeypatch):
    check(Lanes(CFG, WORDS, replace(SETTINGS, slots=4, lanes=2, chunk=3, buckets=(64,))), 4)
    monkeypatch.setattr(on_cpu.memory, "is_tight", lambda tree: True)
    made = Engine(CFG, WORDS, replace(SETTINGS, chunk=3, buckets=(64,)))
    check(made, 4)
    assert made.rows.by_layer


def learned(mesh, share, groups):
    """The learner's metrics and gradient for these episodes, on a mesh of this shape."""
    on = meshes.make_mesh(config.Mesh(*mesh, devices=int(np.prod(mesh))))
    settings = config.Learner(rows=4, row_tokens=320, share_prefixes=share)
    bound = learner.make(CFG, config.Model(vocab_block=200, remat="attention"), settings, on, temperature=0.7)
    reward_QG = np.tile([0.0, 1.0], (4, 2))
    graded = grades(reward_QG, np.ones((4, 4), bool))
    batch = pack(groups, graded, rows=4, row_tokens=320, queries=4, samples=4, share=share)
    loss, gradient, metrics = bound.gradient(bound.init(random_params(CFG)), batch)
    return float(loss), jax.tree.map(np.asarray, gradient), metrics, batch


@pytest.mark.thorough
def test_the_learner_s_gap_to_the_sampler_is_below_1e_4_in_rows_in_trees_and_on_eight_devices():
    """Four query heads and one of keys: over two devices of `tensor` the queries' are cut, and the keys' is whole."""
    made = Engine(CFG, WORDS, replace(SETTINGS, buckets=(64,)))
    groups = roll(made, random_params(CFG), world().train[:4], 4, env=words_env, temperature=0.7)
    loss, gradient, metrics, batch = learned((1, 1, 1), False, groups)
    tokens = sum(episode.mask_L.sum() for episode in flat(groups))
    assert int(metrics["tokens"]) == tokens and 0 < float(metrics["gap_max"]) < 1e-4
    for mesh in ((1, 1, 1), (2, 2, 2)):
        other_loss, other, metrics, trees = learned(mesh, True, groups)
        assert int(metrics["tokens"]) == tokens and 0 < float(metrics["gap_max"]) < 1e-4
        assert other_loss == pytest.approx(loss, rel=1e-5, abs=1e-7)
        for one, more in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
            assert np.linalg.norm(one - more) <= 2e-5 * np.linalg.norm(one)
        assert (batch.segment_MRC > 0).sum() - (trees.segment_MRC > 0).sum() > 100


# ---- its chat

TEMPLATE = (
    "{{ bos_token }}{% set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% set rest = messages[1:] if first else messages %}{% for message in rest %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no turns') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}"
    "{{ (first if loop.first else '') + message.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
EOS, BOS, START, END, BREAK = 1, 2, 105, 106, 107  # as published
LETTERS = [chr(at) for at in range(33, 127)]


def tokenizer_folder(folder, beyond: bool = False):
    """A small tokenizer laid out as Gemma's: control tokens first, breaks among the added ones, bytes to fall back on.

    `beyond`: with the token for images behind the vocabulary that config.json names.
    """
    control = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<unused{at}>" for at in range(101))]
    tokens = [*control, "<start_of_turn>", "<end_of_turn>", "\n", "\n\n"]
    assert tokens.index("<start_of_turn>") == START
    tokens += [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", *LETTERS, "us", "er", "user"]
    vocabulary = {token: at for at, token in enumerate(tokens)}
    merges = [("u", "s"), ("e", "r"), ("us", "er"), ("\n", "\n")]
    model = tokenizers.models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    made = tokenizers.Tokenizer(model)
    made.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(" ", "merged_with_previous")
    decoders = tokenizers.decoders
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([*control, "<start_of_turn>", "<end_of_turn>"])
    made.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in ("\n", "\n\n")])
    if beyond:
        made.add_special_tokens(["<image_soft_token>"])
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "GemmaTokenizer", "chat_template": TEMPLATE, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3_text", "vocab_size": len(tokens)}))
    return folder, len(tokens)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(tokenizer_folder(tmp_path_factory.mktemp("gemma"))[0])


def test_both_ends_of_a_turn_end_it_with_or_without_a_generation_config(tokenizer, tmp_path):
    assert tokenizer.eos_ids == (EOS, END) and tokenizer.pad_id == 0 and tokenizer.bos == "<bos>"
    folder, _ = tokenizer_folder(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS, END]}))
    assert load_tokenizer(folder).eos_ids == (EOS, END)


def test_the_token_for_images_behind_the_vocabulary_is_left_out(tmp_path):
    folder, size = tokenizer_folder(tmp_path, beyond=True)
    ours = load_tokenizer(folder)
    assert ours.size == size and "<image_soft_token>" not in ours.described
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3_text", "vocab_size": size + 1}))
    assert load_tokenizer(folder).size == size + 1


def test_an_episode_by_hand_what_a_tool_says_as_a_user(tokenizer):
    chat = Chat(tokenizer, bos=tokenizer.bos)
    ids = chat.open(Say("Who is Ada?"))
    wanted = "<bos><start_of_turn>user\nWho is Ada?<end_of_turn>\n<start_of_turn>model\n"
    assert tokenizer.decode(ids) == wanted and ids[:3] == [BOS, START, tokenizer.encode("user")[0]]
    assert [token for token in ids if token in (EOS, START, END)] == [START, END, START] and ids[-1] == BREAK
    assert chat.end_id == END
    for role in ("tool", "user"):
        ended, open_ = (chat.observe(Say("a poet <end_of_turn>", role), by_eos) for by_eos in (True, False))
        wanted = "\n<start_of_turn>user\na poet <end_of_turn><end_of_turn>\n<start_of_turn>model\n"
        assert tokenizer.decode(ended) == wanted and open_ == [END, *ended]
        assert [token for token in ended if token in (START, END)] == [START, END, START]  # data makes none of them


def test_tools_are_described_before_the_first_question(tokenizer):
    chat = Chat(tokenizer, bos=tokenizer.bos)
    text = tokenizer.decode(chat.open(Say("Who?", tools=(SEARCH,))))
    assert text.startswith("<bos><start_of_turn>user\nYou can call these functions")
    assert '"name": "search"' in text and text.endswith("\n\nWho?<end_of_turn>\n<start_of_turn>model\n")
    said = tool_call(Query("1", "Who is Ada?", ("x",)), [])
    opened = tokenizer.decode(Chat(tokenizer, bos=tokenizer.bos).open(said))
    assert opened.count("<start_of_turn>") == 2 and "Who is Ada?" in opened and "search" in opened
