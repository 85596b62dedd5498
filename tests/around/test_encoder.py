"""The encoder: transformers' embeddings, whatever a row is padded to, and folders that are no encoder refused."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

from qr_jax.search import embedder, encoder
from qr_jax.search.embedder import Embedder

FIXTURES = Path(__file__).parents[1] / "fixtures"
BERT = FIXTURES / "bert"


def passages(folder, sentences, **settings):
    return Embedder(folder, jax.local_devices()[:1], **settings).passages(sentences)


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(BERT, tmp_path / "bert")
    return tmp_path / "bert"


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embeddings_are_those_of_transformers(pooling):
    stored = np.load(BERT / "embeddings.npz")
    found = passages(BERT, stored["sentences"].tolist(), pooling=pooling)
    assert np.abs(found - stored[pooling]).max() <= 1e-5
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_minilms_embeddings_are_those_of_transformers():
    try:
        minilm = embedder.resolve("minilm")
    except ValueError as error:
        pytest.skip(str(error))
    stored = np.load(FIXTURES / "minilm_embeddings.npz")
    encode = Embedder(minilm, jax.local_devices()[:1])
    assert encode.settings == {"pooling": "mean", "max_tokens": 256, "compute": "float32"}
    found = encode.passages(stored["sentences"].tolist())
    assert found.shape == (8, 384) and np.abs(found - stored["mean"]).max() <= 1e-4


def test_queries_and_passages_have_the_same_vectors_in_any_company():
    encode = Embedder(BERT, jax.local_devices()[:2], batch_tokens=64)
    texts = ["who wrote dune?", "paris", "the sea " * 30, "oslo is in norway"] * 3
    together = encode.passages(texts)
    for start, size in ((0, 1), (3, 5)):
        some = texts[start : start + size]
        found = np.asarray(encode.queries(some))
        assert found.shape[0] in embedder.QUERY_SIZES
        np.testing.assert_allclose(found[: len(some)], together[start : start + size], atol=1e-5)
    np.testing.assert_allclose(encode.passages(texts[:1]), together[:1], atol=1e-5)


def test_bfloat16_products_give_nearly_the_same():
    stored = np.load(BERT / "embeddings.npz")
    found = passages(BERT, stored["sentences"].tolist(), compute="bfloat16")
    assert (found * stored["mean"]).sum(1).min() > 0.99


def test_the_folder_says_how_to_pool_and_how_long_a_text_is(copy):
    (copy / "1_Pooling").mkdir()
    (copy / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    assert Embedder(copy, jax.local_devices()[:1]).settings == {
        "pooling": "cls", "max_tokens": 16, "compute": "float32"
    }  # fmt: skip
    given = Embedder(copy, jax.local_devices()[:1], pooling="mean", max_tokens=40).settings
    assert given == {"pooling": "mean", "max_tokens": 40, "compute": "float32"}


def test_a_vocabulary_file_will_do_and_lone_surrogates_are_no_error(copy):
    whole = tokenizers.Tokenizer.from_file(str(copy / "tokenizer.json")).get_vocab()
    (copy / "vocab.txt").write_text("\n".join(sorted(whole, key=lambda word: whole[word])))
    (copy / "tokenizer.json").unlink()
    texts = ["Who wrote Dune?", "broken \ud800 text"]
    np.testing.assert_allclose(passages(copy, texts), passages(BERT, texts), atol=1e-6)


def test_checkpoints_of_older_kinds_are_read(copy):
    tensors = {f"bert.{name}": array for name, array in load_file(copy / "model.safetensors").items()}
    tensors |= {"bert.embeddings.position_ids": np.arange(64)[None], "cls.predictions.bias": np.zeros(59, np.float32)}
    save_file(tensors, copy / "model.safetensors")
    for ours, theirs in zip(
        jax.tree.leaves(encoder.load(copy)[1]), jax.tree.leaves(encoder.load(BERT)[1]), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"vocab_size": 60}, r"word_embeddings.weight is \(59, 32\), wanted \(60, 32\)"),
        ({"model_type": "xlm-roberta"}, "'xlm-roberta' is no encoder that is read here; wanted 'bert'"),
        ({"hidden_act": "relu"}, r"hidden_act 'relu' \(wanted 'gelu'\)"),
        ({"position_embedding_type": "relative_key"}, "relative positions"),
        ({"num_attention_heads": 5}, "5 heads do not divide a width of 32"),
        ({"hidden_size": 2**40}, "hidden_size = 1099511627776; wanted a whole number"),
        ({"num_hidden_layers": 3}, "encoder.layer.2.attention.output.LayerNorm.bias is None"),
    ],
)
def test_other_models_are_refused_by_what_they_are(values, says, copy):
    change(copy / "config.json", **values)
    with pytest.raises(ValueError, match=says):
        encoder.load(copy)


def test_damaged_and_missing_files_are_named(copy):
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[:-100])
    with pytest.raises(ValueError, match="model.safetensors is no whole safetensors file"):
        encoder.load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no model.safetensors"):
        encoder.load(copy)


def test_what_embeds_otherwise_is_refused(copy):
    devices = jax.local_devices()[:1]
    with pytest.raises(ValueError, match="max_tokens=65; this encoder takes from 3 to 64"):
        Embedder(copy, devices, max_tokens=65)
    (copy / "1_Pooling").mkdir()
    (copy / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ValueError, match="pools by max_tokens"):
        Embedder(copy, devices)
    (copy / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense"}]')
    with pytest.raises(ValueError, match=r"modules \['Dense'\]"):
        Embedder(copy, devices)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="neither tokenizer.json nor vocab.txt"):
        Embedder(copy, devices)


def test_an_absent_minilm_says_what_to_do(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="`make minilm` installs it"):
        embedder.resolve("minilm")
