"""GGUF files: blocks dequantised by hand, q and k put in order, SmolLM2's logits, hostile headers refused."""

import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from qr_jax.lab import gguf, hf_folder
from qr_jax.models import decoder, hf
from qr_jax.models.families import ModelConfig

FIXTURES = Path(__file__).parents[1] / "fixtures"
TINY = ModelConfig(64, 32, 2, 4, 2, 8, 64, context_tokens=128, rope_theta=10000.0, norm_eps=1e-5)


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def value(found) -> bytes:
    """One metadata value with its type: strings, ints (uint32), floats (float32) and lists of strings."""
    if isinstance(found, str):
        return struct.pack("<I", 8) + string(found)
    if isinstance(found, list):
        return struct.pack("<IIQ", 9, 8, len(found)) + b"".join(map(string, found))
    return struct.pack("<If", 6, found) if isinstance(found, float) else struct.pack("<II", 4, found)


def write(path: Path, metadata: dict, tensors: dict[str, tuple[tuple[int, ...], int, bytes]], *, cut: int = 0) -> Path:
    """A GGUF file of tensors given as (numpy shape, ggml type, bytes); `cut` bytes are left off its end."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    head += b"".join(string(key) + value(found) for key, found in metadata.items())
    body = b""
    for name, (shape, kind, raw) in tensors.items():
        body += bytes(-len(body) % 32)
        head += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(body))
        body += raw
    content = head + bytes(-len(head) % 32) + body
    path.write_bytes(content[: len(content) - cut])
    return path


def one(tmp_path, shape, kind, raw) -> np.ndarray:
    file = gguf.read_header(write(tmp_path / "x.gguf", {}, {"t": (shape, kind, raw)}))
    return gguf.dequantise(file, "t")


def test_q8_0_by_hand(tmp_path):
    raw = struct.pack("<e32b", 0.5, *range(-16, 16))
    np.testing.assert_array_equal(one(tmp_path, (1, 32), 8, raw), [[q / 2 for q in range(-16, 16)]])


def test_q4_blocks_by_hand(tmp_path):
    nibbles = bytes(low | (15 - low) << 4 for low in range(16))  # weights 0..15, then 15..0
    upward = np.array([*range(16), *range(15, -1, -1)], np.float32)
    q4_1 = struct.pack("<ee", 0.25, -2.0) + nibbles
    np.testing.assert_array_equal(one(tmp_path, (2, 32), 3, q4_1 * 2), [upward * 0.25 - 2] * 2)
    np.testing.assert_array_equal(one(tmp_path, (32,), 2, struct.pack("<e", 0.25) + nibbles), (upward - 8) * 0.25)


def test_q6_k_by_hand(tmp_path):
    """A block of 256: the low 4 bits, then the high 2 bits, 16 scales of 16 weights, one scale of all."""
    low, high, scales = bytes([0x21] * 128), bytes([0b11100100] * 64), bytes([2] * 16)
    q = np.repeat([1 | 0 << 4, 1 | 1 << 4, 2 | 2 << 4, 2 | 3 << 4] * 2, 32) - 32
    raw = low + high + scales + struct.pack("<e", 0.5)
    np.testing.assert_array_equal(one(tmp_path, (256,), 14, raw), q * 2 * 0.5)


def test_every_quantisation_that_gguf_writes_is_read_back_near_what_was_written(tmp_path):
    from gguf.quants import GGMLQuantizationType as Kind
    from gguf.quants import quantize

    wanted = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    for kind, far in ((Kind.Q4_0, 0.5), (Kind.Q4_1, 0.3), (Kind.Q5_0, 0.25), (Kind.Q5_1, 0.15), (Kind.Q8_0, 0.02)):
        found = one(tmp_path, wanted.shape, kind, quantize(wanted, kind).tobytes())
        assert found.dtype == np.float32 and np.abs(found - wanted).max() < far, kind


def test_plain_floats_are_read_in_their_shape(tmp_path):
    wanted = np.arange(6, dtype=np.float32).reshape(2, 3)
    for kind, dtype in ((0, np.float32), (1, np.float16), (30, ml_dtypes.bfloat16)):
        np.testing.assert_array_equal(one(tmp_path, (2, 3), kind, wanted.astype(dtype).tobytes()), wanted)


def tiny_metadata(family: str = "llama") -> dict:
    return {
        "general.architecture": family,
        f"{family}.block_count": 2,
        f"{family}.context_length": 128,
        f"{family}.embedding_length": 32,
        f"{family}.feed_forward_length": 64,
        f"{family}.attention.head_count": 4,
        f"{family}.attention.head_count_kv": 2,
        f"{family}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{family}.rope.freq_base": 10000.0,
    }


def tiny_tensors(params) -> dict:
    """llama.cpp's names; q and k with each head's two halves interleaved, as its converter writes them."""
    theirs = gguf.names("llama", TINY)
    tensors = {}
    for name, give in hf_folder.take_apart(TINY, params).items():
        array = np.ascontiguousarray(give(), np.float32)
        if ".q_proj." in name or ".k_proj." in name:
            heads = TINY.heads if ".q_proj." in name else TINY.kv_heads
            array = array.reshape(heads, 2, 4, 32).swapaxes(1, 2).reshape(array.shape)
        tensors[theirs[name]] = (array.shape, 0, array.tobytes())
    return tensors


def test_tensors_have_llama_cpp_s_names():
    known = gguf.names("llama", TINY)
    assert [known[name] for name in ("model.embed_tokens.weight", "model.norm.weight")] == [
        "token_embd.weight", "output_norm.weight",
    ]  # fmt: skip
    layer = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.o_proj": "attn_output"}
    layer |= {"post_attention_layernorm": "ffn_norm", "mlp.down_proj": "ffn_down"}
    for ours, theirs in layer.items():
        assert known[f"model.layers.1.{ours}.weight"] == f"blk.1.{theirs}.weight"


@pytest.fixture(scope="module")
def tiny_params():
    rng, shapes = np.random.default_rng(0), jax.eval_shape(lambda: decoder.init(TINY, jax.random.key(0)))
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


def test_a_llama_file_gives_the_model_that_was_written(tiny_params, tmp_path):
    off = {"llama.expert_count": 0, "llama.rope.scaling.factor": 1.0, "llama.rope.dimension_count": 8}
    cfg, found = hf.load(write(tmp_path / "tiny.gguf", tiny_metadata() | off, tiny_tensors(tiny_params)))
    assert cfg == TINY
    jax.tree.map(np.testing.assert_array_equal, found, tiny_params)


def test_missing_and_unknown_tensors_are_named(tiny_params, tmp_path):
    tensors = tiny_tensors(tiny_params)
    tensors["rope_freqs.weight"] = tensors.pop("blk.1.ffn_up.weight")
    path = write(tmp_path / "tiny.gguf", tiny_metadata(), tensors)
    with pytest.raises(ValueError, match="1 tensors missing: blk.1.ffn_up.weight; 1 tensors not known: rope_freqs"):
        gguf.load(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"general.architecture": "gemma"}, "lacks the metadata 'gemma."),
        ({"llama.rope.scaling.type": "yarn"}, "scales its rope"),
        ({"llama.block_count": 2**31}, "num_hidden_layers = 2147483648"),
        ({"llama.attention.head_count": 0}, "heads 0"),
        ({"llama.embedding_length": "wide"}, "has a str for .*llama.embedding_length'; wanted a whole number"),
        ({"llama.attention.layer_norm_rms_epsilon": 1}, "has a int for .*; wanted a number with a point"),
        ({"llama.attention.head_count_kv": ["2"]}, "has a list for .*; wanted a whole number"),
        ({"general.architecture": ["llama"]}, "has a list for .*; wanted a text"),
        ({"llama.attention.sliding_window": 4096}, "sliding_window = 4096, which is not read from GGUF; use the safet"),
        ({"llama.expert_count": 8}, "llama.expert_count = 8, which is not read"),
        ({"llama.rope.dimension_count": 4}, "dimension_count = 4; wanted 8, a head's whole width"),
        ({"llama.attention.value_length": 16}, "value_length = 16; wanted 8"),
        ({"llama.rope.scaling.factor": 8.0}, "scaling.factor = 8.0, which is not read"),
        ({"llama.attn_logit_softcapping": 30.0}, "softcapping = 30.0, which is not read"),
    ],
)
def test_metadata_that_describes_no_model_here_is_refused(change, says, tiny_params, tmp_path):
    path = write(tmp_path / "tiny.gguf", tiny_metadata() | change, tiny_tensors(tiny_params))
    with pytest.raises(ValueError, match=says):
        gguf.load(path)


START = struct.pack("<4sI", b"GGUF", 3)
ONE_KEY, ONE_TENSOR = START + struct.pack("<QQ", 0, 1) + string("k"), START + struct.pack("<QQ", 1, 0) + string("t")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGML" + bytes(20),
        struct.pack("<4sIQQ", b"GGUF", 1, 0, 0),
        START,
        START + struct.pack("<QQ", 2**60, 0),
        START + struct.pack("<QQQ", 0, 1, 2**60),
        ONE_KEY + struct.pack("<IIQ", 9, 8, 2**60),
        ONE_KEY + struct.pack("<I", 77),
        ONE_TENSOR + struct.pack("<IQQIQ", 2, 2**60, 2**60, 0, 0),
        ONE_TENSOR + struct.pack("<IQIQ", 1, 4, 0, 2**60),
        ONE_TENSOR + struct.pack("<IQIQ", 1, 31, 8, 0),
    ],
)
def test_what_is_no_whole_gguf_file_is_refused(content, tmp_path):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ValueError, match="x.gguf is no whole GGUF file of version 2 or 3 .*; fetch it again"):
        gguf.read_header(tmp_path / "x.gguf")


def test_a_truncated_file_is_refused(tmp_path):
    path = write(tmp_path / "y.gguf", {}, {"t": ((16,), 0, bytes(64))}, cut=1)
    with pytest.raises(ValueError, match="fetch it again"):
        gguf.read_header(path)


def test_a_qwen_tokenizer_cuts_digits_and_contractions(tmp_path):
    letters = [chr(c) for c in range(33, 127)] + ["Ġ", "<|im_end|>", "12", "'s"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": letters,
        "tokenizer.ggml.merges": ["1 2", "' s"],
        "tokenizer.ggml.eos_token_id": 95,
    }
    tokenizer = gguf.tokenizer(write(tmp_path / "x.gguf", metadata, {}))
    assert tokenizer.encode("a12's") == [letters.index(piece) for piece in ("a", "1", "2", "'s")]
    assert tokenizer.eos_ids == (95,)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"merges": 1.5}, "has a float for the metadata 'tokenizer.ggml.merges'; wanted a list of texts"),
        ({"tokens": "abc"}, "has a str for the metadata 'tokenizer.ggml.tokens'; wanted a list of texts"),
        ({"tokens": ["a", "a"]}, "has 2 tokens, 1 of them different, and 2 types"),
        ({"token_type": 3}, "has 2 tokens, 2 of them different, and 1 types"),
        ({"pre": ["qwen2"]}, "has a list for the metadata 'tokenizer.ggml.pre'; wanted a text"),
    ],
)
def test_a_tokenizer_of_other_types_is_refused(change, says, tmp_path):
    described = {"model": "gpt2", "pre": "qwen2", "tokens": ["a", "<|im_end|>"], "merges": ["a a"]} | change
    path = write(tmp_path / "x.gguf", {f"tokenizer.ggml.{name}": value for name, value in described.items()}, {})
    with pytest.raises(ValueError, match=says):
        gguf.tokenizer(path)


def test_an_unknown_pre_tokenizer_is_refused(tmp_path):
    path = write(tmp_path / "x.gguf", {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"}, {})
    with pytest.raises(ValueError, match="'llama' with pre-tokenizer 'default'"):
        gguf.tokenizer(path)


def test_smollm2_gives_the_logits_of_transformers():
    try:
        path = hf.resolve("smollm2")
    except ValueError as error:
        pytest.skip(str(error))
    cfg, params = hf.load(path)
    stored = np.load(FIXTURES / "smollm2_logits.npz")
    lengths = [len(stored["ids_0"]), len(stored["ids_1"])]
    ids_NL = jnp.array([np.pad(stored[f"ids_{at}"], (0, max(lengths) - n)) for at, n in enumerate(lengths)])
    position_NL = jnp.broadcast_to(jnp.arange(max(lengths))[None], ids_NL.shape)
    segment_NL = (position_NL < jnp.array(lengths)[:, None]).astype(jnp.int32)
    hidden_NLD = decoder.forward(cfg, params, ids_NL, position_NL, segment_NL)
    found_NLV = np.asarray(decoder.logits(cfg, params, hidden_NLD))
    for at, length in enumerate(lengths):
        found_LV = found_NLV[at, :length]
        np.testing.assert_array_equal(found_LV.argmax(-1), stored[f"argmax_{at}"])
        top = np.take_along_axis(found_LV, stored[f"top_ids_{at}"], axis=1)
        assert np.abs(top - stored[f"top_{at}"]).max() <= 5e-4  # logits near 20, after 30 layers in float32
        assert np.abs(found_LV[:, stored["sampled_ids"]] - stored[f"sampled_{at}"]).max() <= 5e-4
