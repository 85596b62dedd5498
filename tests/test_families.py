"""Shapes of models: presets, config.json read and written, rotary frequencies by hand."""

import copy
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from qr_jax.lab.hf_folder import to_hf
from qr_jax.models import hf
from qr_jax.models.costs import parameter_count
from qr_jax.models.families import PRESETS, from_hf
from qr_jax.models.rope import frequencies

QWEN3 = {  # Qwen3-1.7B's published config.json, in transformers 4's style
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "bos_token_id": 151643, "eos_token_id": 151645,
    "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144,
    "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16,
    "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_scaling": None,
    "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False,
    "vocab_size": 151936,
}  # fmt: skip


def test_parameter_counts_are_those_that_the_models_publish():
    millions = {name: round(parameter_count(cfg) / 1e6, 1) for name, cfg in PRESETS.items()}
    assert millions["smollm2_135m"] == 134.5 and millions["qwen3_0p6b"] == 596.0 and millions["qwen3_1p7b"] == 1720.6
    assert millions["qwen3_4b"] == 4022.5 and millions["qwen2p5_1p5b"] == 1543.7
    assert millions["mistral_7b_v0p3"] == 7248.0 and millions["qwen2p5_3b"] == 3085.9
    assert parameter_count(PRESETS["quickstart"]) == 374_256
    # Two layers by hand: 2 norms of 32, q and o 32*32, k and v 32*16, q and k norms of 8, an MLP of 3*32*64.
    layer = 2 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 2 * 8 + 3 * 32 * 64
    assert parameter_count(PRESETS["two_layer"]) == 512 * 32 + 2 * layer + 32


def test_a_config_of_transformers_4_is_the_preset():
    assert from_hf(QWEN3) == PRESETS["qwen3_1p7b"]


def test_a_config_of_transformers_5_is_the_same_model():
    new = {k: v for k, v in QWEN3.items() if not k.startswith("rope")}
    new |= {"rope_parameters": {"rope_theta": 1000000, "rope_type": "default"}, "layer_types": ["full_attention"] * 28}
    assert from_hf(new) == PRESETS["qwen3_1p7b"]


@pytest.mark.parametrize("name", PRESETS)
def test_written_configs_read_back_the_same(name):
    cfg = replace(PRESETS[name], rope_scaling=(("factor", 2.0), ("rope_type", "linear")))
    assert from_hf(to_hf(cfg, eos_ids=[1], pad_id=0)) == cfg


def test_features_that_no_family_has_are_not_written():
    cfg = replace(PRESETS["two_layer"], qk_norm=True, qkv_bias=True)
    with pytest.raises(ValueError, match="gemma3_text has qk_norm=True and qkv_bias=True and gemma3=False"):
        to_hf(cfg, eos_ids=[1], pad_id=0)


def test_the_older_name_of_the_rope_type_and_the_default_context_are_read():
    cfg = from_hf(QWEN3 | {"rope_scaling": {"type": "yarn", "factor": 4.0}})
    assert dict(cfg.rope_scaling) == {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40960}
    assert hash(cfg) == hash(cfg)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "gemma2"}, "model_type 'gemma2'"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "Qwen3ForSequenceClassification"),
        ({"use_sliding_window": True}, "sliding windows"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding windows"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"rope_scaling": {"rope_type": "longrope", "long_factor": [1.0]}}, "longrope"),
        ({"num_key_value_heads": 3}, "16 heads do not share 3"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000"),
        ({"hidden_size": None}, "hidden_size = None"),
        ({"head_dim": 63}, "even rotary dimension"),
        ({"model_type": {"a": 1}}, r"model_type {'a': 1} is not supported"),
        ({"architectures": 5}, "architectures 5 is not supported"),
        ({"layer_types": 5}, "layer_types = 5; wanted a list"),
        ({"rope_theta": 10**400}, "rope_theta = 10+.*; wanted a number above 1, at most 1e.12"),
        ({"rms_norm_eps": [1]}, "'rms_norm_eps' expected float, got list"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps = 0.0; wanted a number above 0, at most 1"),
        ({"hidden_size": 10**4000}, r"hidden_size = 10+\.\.\. \(4,001 characters\); wanted"),
    ],
)
def test_what_the_decoder_lacks_is_refused_by_name(change, says):
    with pytest.raises(ValueError, match=says):
        from_hf(QWEN3 | change)


YARN = {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
            "rope_parameters.rope_theta = 500000.0 and rope_theta = 10000.0",
        ),
        (
            {"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 4.0}},
            "rope_scaling.type = 'linear' and rope_scaling.rope_type = 'yarn'",
        ),
        (
            {"rope_parameters": {"type": "linear", "rope_type": "default", "rope_theta": 1e6}},
            "rope_parameters.type = 'linear' and rope_parameters.rope_type = 'default'",
        ),
        (
            {"rope_scaling": YARN, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
            "rope_parameters.rope_type = 'default' and rope_scaling.rope_type = 'yarn'",
        ),
        (
            {"rope_scaling": YARN, "rope_parameters": YARN | {"rope_theta": 1e6, "factor": 8.0}},
            "rope_parameters.factor = 8.0 and rope_scaling.factor = 4.0",
        ),
        (
            {"rope_scaling": YARN | {"original_max_position_embeddings": 4096}, "original_max_position_embeddings": 99},
            "rope_scaling.original_max_position_embeddings = 4096 and original_max_position_embeddings = 99",
        ),
        (
            {"partial_rotary_factor": 1.0, "rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}},
            "rope_parameters.partial_rotary_factor = 0.5 and partial_rotary_factor = 1.0",
        ),
    ],
)
def test_rope_settings_that_disagree_are_refused_with_both_values(change, says):
    """transformers takes one of them without a word: the model would read at other frequencies than it learned."""
    with pytest.raises(ValueError, match=f"config.json has {re.escape(says)}; wanted one value: keep the one"):
        from_hf(QWEN3 | change)


DEFAULT = {"rope_theta": 1e6, "rope_type": "default"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"rope_parameters": {"full_attention": DEFAULT, "sliding_attention": DEFAULT | {"rope_theta": 1e4}}},
            "rope_parameters of single layers (full_attention, sliding_attention); wanted one rope for all layers",
        ),
        ({"rope_parameters": {"full_attention": DEFAULT}}, "rope_parameters of single layers (full_attention)"),
        ({"rope_scaling": {"full_attention": YARN}}, "rope_scaling of single layers (full_attention)"),
        ({"rotary_emb_base": 10000}, "rotary_emb_base = 10000, which the decoder does not have; wanted it as rope_th"),
        ({"rope_local_base_freq": 1e4}, "rope_local_base_freq = 10000.0, which"),
        ({"rope_ratio": 2}, "rope_ratio = 2, which"),
        ({"no_rope_layers": [1, 1, 1, 0]}, "no_rope_layers = [1, 1, 1, 0], which"),
        ({"rope_interleaved": True}, "rope_interleaved = True, which"),
        ({"rotary_pct": 0.25}, "rotary_pct = 0.25, which"),
        ({"rope_type": "yarn"}, "rope_type = 'yarn', which"),
        (
            {"rope_scaling": {"factor": 4}},
            "rope settings {'factor': 4} and no rope_type that uses them; wanted a rope_",
        ),
        ({"rope_scaling": {"rope_type": "default", "factor": 4.0}}, "rope settings {'factor': 4.0} and no rope_type"),
        ({"rope_parameters": {"rope_theta": 1e6, "beta_fast": 32}}, "rope settings {'beta_fast': 32} and no rope_type"),
    ],
)
def test_rope_settings_that_the_decoder_would_leave_out_are_refused_by_name(change, says):
    """transformers reads most of them without a word, and these models turned at the frequencies of another."""
    with pytest.raises(ValueError, match=f"config.json has {re.escape(says)}"):
        from_hf(copy.deepcopy(QWEN3 | change))


@pytest.mark.parametrize(
    "change",
    [{"rope_interleaved": False}, {"rotary_emb_base": 1e6}, {"rope_ratio": None}, {"rope_scaling": {}}]
    + [{"rope_scaling": {"factor": 1.0}}, {"rope_parameters": DEFAULT | {"original_max_position_embeddings": 4096}}],
)
def test_rope_settings_that_change_nothing_are_taken(change):
    """SmolLM2's config.json says rope_interleaved = false."""
    assert from_hf(copy.deepcopy(QWEN3 | change)) == PRESETS["qwen3_1p7b"]


def test_rope_settings_that_agree_or_stand_in_two_places_are_put_together():
    plain = {"rope_theta": 1e6, "rope_type": "default"}
    for change in ({"rope_parameters": plain}, {"rope_parameters": plain, "rope_scaling": None}):
        assert from_hf(QWEN3 | change) == PRESETS["qwen3_1p7b"]
    scaled = dict(from_hf(QWEN3 | {"rope_scaling": YARN | {"type": "yarn"}}).rope_scaling)
    assert scaled == YARN | {"original_max_position_embeddings": 40960}
    apart = from_hf(QWEN3 | {"rope_theta": None, "rope_scaling": YARN, "rope_parameters": {"rope_theta": 5e5}})
    assert apart.rope_theta == 5e5 and dict(apart.rope_scaling) == scaled, "this theta was lost"


def test_a_name_that_stands_twice_in_a_config_is_refused_with_both_values(tmp_path):
    text = json.dumps(QWEN3)[:-1] + ', "rope_theta": 500000}'
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json is not proper JSON: 'rope_theta' .* as 1000000 and as 500000"):
        hf.shape(tmp_path)
    (tmp_path / "config.json").write_text(text.replace("500000}", "1000000}"))
    assert hf.shape(tmp_path) == PRESETS["qwen3_1p7b"]


MISTRAL = {  # Mistral-7B-v0.3's published config.json
    "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 32768,
}  # fmt: skip


def test_mistral_is_read_without_its_sliding_window_and_refused_with_it():
    cfg = from_hf(MISTRAL)
    assert (cfg.head_dim, cfg.kv_heads, cfg.rope_theta, cfg.tied, cfg.qk_norm) == (128, 8, 1e6, False, False)
    assert round(parameter_count(cfg) / 1e9, 3) == 7.248
    for written in (MISTRAL | {"sliding_window": 4096}, {k: v for k, v in MISTRAL.items() if k != "sliding_window"}):
        with pytest.raises(ValueError, match="sliding windows"):
            from_hf(written)


GEMMA3_1B = {  # Gemma-3-1B-it's published config.json
    "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attn_logit_softcapping": None,
    "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 106], "final_logit_softcapping": None,
    "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
    "max_position_embeddings": 32768, "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26,
    "num_key_value_heads": 1, "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512,
    "sliding_window_pattern": 6, "torch_dtype": "bfloat16", "vocab_size": 262144,
}  # fmt: skip
LINEAR = {"factor": 8.0, "rope_type": "linear"}
GEMMA3_4B = {  # Gemma-3-4B-it's, whose text part leaves much to transformers' class
    "architectures": ["Gemma3ForConditionalGeneration"], "eos_token_id": [1, 106], "image_token_index": 262144,
    "mm_tokens_per_image": 256, "model_type": "gemma3", "torch_dtype": "bfloat16",
    "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "rope_scaling": LINEAR, "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model", "num_hidden_layers": 27},
}  # fmt: skip


def test_gemma_s_published_configs_are_the_presets():
    assert from_hf(GEMMA3_1B) == PRESETS["gemma3_1b"]
    assert from_hf(GEMMA3_4B) == PRESETS["gemma3_4b"]


def test_gemma_s_two_ropes_are_read_as_transformers_5_writes_them():
    plain = {name: value for name, value in GEMMA3_1B.items() if "rope" not in name and "pattern" not in name}
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    both = {"full_attention": LINEAR | {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 5e3}}
    cfg = from_hf(plain | {"rope_parameters": both, "layer_types": (kinds * 5)[:26]})
    assert cfg == replace(PRESETS["gemma3_1b"], rope_scaling=tuple(LINEAR.items()), sliding_theta=5e3)
    one = from_hf(plain | {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}})
    assert one == PRESETS["gemma3_1b"]
    near, far = (frequencies(cfg, sliding=sliding)[0] for sliding in (True, False))
    np.testing.assert_allclose([near[0], near[64], far[0], far[64]], [1, 5e3**-0.5, 1 / 8, 1e-3 / 8], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_activation": "gelu"}, "hidden_activation 'gelu' (wanted 'gelu_pytorch_tanh')"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (
            {"layer_types": ["sliding_attention"] * 25 + ["chunked_attention"]},
            "layer_types ['chunked_attention']; wanted 'sliding_attention' or",
        ),
        ({"layer_types": ["full_attention"] * 25}, "must be equal to the number of `layer_types` (25)"),
        ({"sliding_window": None}, "sliding_window = None; wanted a whole number"),
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar = 0; wanted a whole number"),
        ({"rope_local_base_freq": 0.5}, "rope_local_base_freq = 0.5; wanted a number above 1"),
        (
            {"rope_parameters": {"sliding_attention": {"rope_theta": 5e3}}},
            "rope_local_base_freq = 10000 and rope_parameters.sliding_attention.rope_theta = 5000.0; wanted one value",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 5e5}}},
            "rope_parameters.rope_theta = 500000.0 and rope_theta = 1000000; wanted one value",
        ),
        ({"rope_parameters": {"sliding_attention": LINEAR}}, "and of 'sliding_attention' rope_theta alone"),
        ({"rope_parameters": {"full_attention": {}, "rope_theta": 1e6}}, "wanted 'full_attention', and of"),
        ({"model_type": "gemma3"}, "architectures ['Gemma3ForCausalLM'] is not supported for gemma3"),
        ({"model_type": "gemma3", "architectures": None}, "text_config = None; wanted an object"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_what_gemma_s_decoder_lacks_is_refused_by_name(change, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        from_hf(copy.deepcopy(GEMMA3_1B | change))


def test_frequencies_by_hand():
    cfg = replace(PRESETS["two_layer"], rope_theta=10000.0)  # heads of 8: 10000 ** (0, -1/4, -1/2, -3/4)
    inverse, scale = frequencies(cfg)
    np.testing.assert_allclose(inverse, [1, 0.1, 0.01, 0.001], rtol=1e-6)
    assert inverse.dtype == np.float32 and scale == 1.0
    halved, _ = frequencies(replace(cfg, rope_scaling=(("factor", 2.0), ("rope_type", "linear"))))
    np.testing.assert_allclose(halved, [0.5, 0.05, 0.005, 0.0005], rtol=1e-6)


def test_llama3_keeps_short_waves_and_stretches_long_ones():
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 128}
    cfg = replace(PRESETS["two_layer"], rope_theta=10000.0, rope_scaling=tuple(sorted(scaling.items())))
    # Waves of 6.3, 62.8, 628 and 6283 tokens: below 128/4 kept, above 128/1 divided by 8, between blended.
    smooth = (128 / (2 * math.pi / 0.1) - 1) / 3
    blended = (1 - smooth) * 0.1 / 8 + smooth * 0.1
    np.testing.assert_allclose(frequencies(cfg)[0], [1, blended, 0.01 / 8, 0.001 / 8], rtol=1e-5)


def test_yarn_scales_attention_and_ramps_between_fast_and_slow_channels():
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    cfg = replace(PRESETS["two_layer"], rope_theta=10000.0, rope_scaling=tuple(sorted(scaling.items())))
    # 32 turns over 512 tokens fall on channel floor(0.41) = 0, one turn on ceil(1.91) = 2: the ramp is 0, 1/2, 1, 1.
    inverse, scale = frequencies(cfg)
    np.testing.assert_allclose(inverse, [1, (0.1 + 0.1 / 4) / 2, 0.01 / 4, 0.001 / 4], rtol=1e-5)
    assert scale == pytest.approx(0.1 * math.log(4) + 1)


def test_an_unknown_rope_type_or_a_missing_entry_is_named():
    cfg = PRESETS["two_layer"]
    with pytest.raises(ValueError, match="'dynamic'"):
        frequencies(replace(cfg, rope_scaling=(("rope_type", "dynamic"),)))
    with pytest.raises(ValueError, match="'linear' needs 'factor'"):
        frequencies(replace(cfg, rope_scaling=(("rope_type", "linear"),)))


@pytest.mark.parametrize(
    ("scaling", "says"),
    [
        ({"rope_type": "linear", "factor": "2"}, "factor = '2'; wanted a number"),
        ({"rope_type": "linear", "factor": -1.0}, "factor = -1.0; wanted a number"),
        ({"rope_type": "yarn", "original_max_position_embeddings": 64, "beta_fast": 5e-324}, "beta_fast = 5e-324"),
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}
            | {"original_max_position_embeddings": 128},
            "low_freq_factor 4.0 and high_freq_factor 4.0; wanted low < high",
        ),
    ],
)
def test_rope_settings_that_are_no_sound_numbers_are_refused(scaling, says):
    with pytest.raises(ValueError, match=says):
        frequencies(replace(PRESETS["two_layer"], rope_scaling=tuple(sorted(scaling.items()))))


@pytest.mark.parametrize("kind", ["default", "linear", "llama3", "yarn"])
def test_frequencies_are_those_of_transformers(kind):
    pytest.importorskip("torch", reason="transformers computes rope with torch, which is not installed")
    from transformers import Qwen3Config
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {"rope_type": kind, "factor": 4.0, "original_max_position_embeddings": 64}
    scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    needed = {"default": {"rope_type"}, "linear": {"rope_type", "factor"}}.get(kind, set(scaling))
    scaling = {key: value for key, value in scaling.items() if key in needed}
    cfg = from_hf(QWEN3 | {"rope_scaling": scaling})
    if kind == "default":
        wanted, factor = 1e6 ** -(np.arange(0, 128, 2) / 128), 1.0
    else:
        theirs = Qwen3Config(head_dim=128, rope_parameters=scaling | {"rope_theta": 1e6})
        wanted, factor = ROPE_INIT_FUNCTIONS[kind](theirs, "cpu")
    np.testing.assert_allclose(frequencies(cfg)[0], np.asarray(wanted), rtol=3e-6)
    assert frequencies(cfg)[1] == pytest.approx(factor)
