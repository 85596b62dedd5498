"""A manifest says how a score was measured, and unlike ones are told apart by name."""

import json
from dataclasses import replace

from qr_jax import plugins
from qr_jax.config import Config, use
from qr_jax.evaluation import manifest as manifests
from qr_jax.evaluation.manifest import differences, manifest, questions_sha256, sha256
from qr_jax.records import Query

QUERIES = [Query("a", "?", ("x",)), Query("b", "?", ("y",))]


def made(settings=None, **changes):
    settings = settings or Config()
    given = {
        "questions": {"nq": QUERIES},
        "corpora": {"nq": "c0ffee"},
        "split": "all",
        "samples": 4,
        "env": plugins.bind("env", settings.env),
        "model": {"weights_sha256": "1"},
    }
    return manifest(settings, **(given | changes))


def test_a_manifest_holds_what_a_score_depends_on_and_survives_json():
    found = made()
    assert found["questions"] == {"nq": {"count": 2, "sha256": sha256('["a", "?", ["x"]]\n["b", "?", ["y"]]')}}
    assert questions_sha256(QUERIES) != questions_sha256(QUERIES[::-1])
    assert found["retriever"] == {"name": "bm25", "settings": {}} and found["decoding"]["search_k"] == 3
    assert found["decoding"]["temperature"] == 1.0 and found["corpus_sha256"] == {"nq": "c0ffee"}
    assert json.loads(json.dumps(found)) == found


def test_like_manifests_do_not_differ_though_models_do():
    assert differences(made(), made(model={"weights_sha256": "2"})) == []
    assert differences(made(), made(model={"weights_sha256": "2"}), skip=()) == [
        "model.weights_sha256: '1' in the first, '2' in the second"
    ]


def test_every_difference_is_named():
    base = Config()
    settings = replace(
        base, rollout=replace(base.rollout, search_k=5, thinking=False), env=use("search_r1", think=False)
    )
    other = made(settings, corpora={"nq": "tea"}, judge={"model": "j"}, questions={"nq": QUERIES, "popqa": QUERIES})
    names = [line.partition(":")[0] for line in differences(made(), other)]
    assert names == [
        "questions.popqa", "corpus_sha256.nq", "env.settings.think", "env.prompt_sha256", "decoding.search_k",
        "decoding.thinking", "judge",
    ]  # fmt: skip
    assert "decoding.search_k: 3 in the first, 5 in the second" in differences(made(), other)


def test_a_retriever_s_settings_count_but_not_where_its_files_lie():
    parts = [made(replace(Config(), retriever=use("cached", of=use("bm25"), cache=at))) for at in "ab"]
    assert parts[0]["retriever"]["settings"] == {"of": {"name": "bm25", "settings": {}}} and parts[0] == parts[1]
    one = made(replace(Config(), retriever=use("bm25", k1=1.2)))
    assert one["retriever"]["settings"] == {"k1": 1.2}
    assert differences(one, made(replace(Config(), retriever=use("none")))) == [
        "retriever.name: 'bm25' in the first, 'none' in the second",
        "retriever.settings.k1: 1.2 in the first, nothing in the second",
    ]


def test_a_seed_counts_where_answers_are_sampled_and_not_where_they_are_greedy():
    one, other = Config(seed=1), Config(seed=2)
    assert differences(made(one, samples=0), made(other, samples=0)) == []
    assert differences(made(one), made(other)) == ["decoding.seed: 1 in the first, 2 in the second"]


def test_the_model_that_a_retriever_searches_with_counts_by_its_contents(monkeypatch):
    monkeypatch.setattr(manifests, "models_of", lambda use, **_: ["beef"] if use.name == "dense" else [])
    assert made(replace(Config(), retriever=use("dense")))["retriever"] == {
        "name": "dense",
        "settings": {},
        "models": ["beef"],
    }
    assert "models" not in made()["retriever"]
