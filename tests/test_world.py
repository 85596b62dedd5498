"""The synthetic world: its facts, documents, questions and expert traces."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from functools import cache

import pytest

from qr_jax.cli import cli
from qr_jax.data.readers import read_passages, read_queries
from qr_jax.data.traces import read_traces
from qr_jax.data.world import text
from qr_jax.data.world.facts import aliases, make_facts, name_parts
from qr_jax.data.world.generate import (
    World,
    WorldSettings,
    build,
    fitted,
    settings_from,
    settings_hash,
    vocabulary,
    wishes,
)
from qr_jax.data.world.questions import chain, comparison, query, turns
from qr_jax.data.world.text import RELATIONS
from qr_jax.models.tokenizer import WordTokenizer
from qr_jax.records import Turn
from qr_jax.sets import formats

DEFAULT = WorldSettings()
SMALL = WorldSettings(documents=300, train=80, dev=60, test=60, traces=100)
SIZES = {"person": 4, "city": 3, "country": 2, "company": 2, "university": 2}
UNK = 2


SEARCH_R1 = {  # settings with which the environment search_r1 writes words of this vocabulary only
    "think": False,
    "prompt": "{question}\n",
    "passage": "{title} : {text}\n",
    "information": "\n<information> {passages} </information>\n",
    "invalid": "",
    "last": "",
}


@cache
def world(settings: WorldSettings = DEFAULT) -> World:
    return build(settings)


@cache
def bm25_of(settings: WorldSettings):
    from qr_jax.search.retrievers.bm25 import bm25

    return bm25(corpus=world(settings).documents)


def said(world: World) -> dict[str, str]:
    """Document id -> the object that the document's text states."""
    patterns = [
        re.escape(way).replace(r"\{relation\}", "[a-z]+").replace(r"\{object\}", "(.+)") for way in text.DOCUMENTS
    ]
    return {
        one.id: next(found[1] for pattern in patterns if (found := re.fullmatch(pattern, one.text)))
        for one in world.documents
    }


def everything(world: World):
    return [*world.train, *world.dev, *world.test, *(trace.query for trace in world.traces)]


def fingerprint(world: World) -> str:
    return hashlib.sha256(json.dumps(asdict(world)).encode()).hexdigest()


def test_the_default_world_has_the_stated_sizes():
    found = world()
    assert (len(found.documents), len(found.train), len(found.dev), len(found.test)) == (1020, 2000, 1000, 1000)
    assert len(found.traces) == 3000
    assert len({one.id for one in found.documents}) == 1020
    assert all(len(one.text.split()) <= 6 for one in found.documents)


def test_the_same_settings_make_the_same_world_in_another_process():
    code = (
        "import json, hashlib; from dataclasses import asdict; from qr_jax.data.world.generate import *;"
        f"s = settings_from({json.dumps({'documents': 300, 'train': 80, 'dev': 60, 'test': 60, 'traces': 100})});"
        "print(hashlib.sha256(json.dumps(asdict(build(s))).encode()).hexdigest(), settings_hash(s))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.split() == [fingerprint(build(SMALL)), settings_hash(SMALL)]


def test_another_seed_has_other_facts_but_the_same_names_and_words():
    one, other = world(SMALL), build(replace(SMALL, seed=1))
    assert [passage.title for passage in one.documents] == [passage.title for passage in other.documents]
    differ = sum(a.text.split()[-2] != b.text.split()[-2] for a, b in zip(one.documents, other.documents, strict=True))
    assert differ > 0.8 * len(one.documents)
    assert settings_hash(SMALL) != settings_hash(replace(SMALL, seed=1))


def test_no_two_splits_share_a_question_or_a_problem():
    found = world()
    splits = [found.train, found.dev, found.test, [trace.query for trace in found.traces]]
    texts = [{one.question for one in split} for split in splits]
    problems = [{one.id.split("w0.")[1].rsplit(".", 1)[0] for one in split} for split in splits]
    for sets in (texts, problems):
        assert sum(map(len, sets)) == len(set().union(*sets))
    assert [len(one) for one in texts[:3]] == [2000, 1000, 1000]
    ids = [one.id for one in everything(found)]
    assert len(set(ids)) == len(ids)


def test_the_supporting_documents_lead_from_the_question_to_the_answer():
    found = world()
    facts = said(found)
    for one in everything(found):
        meta, first = one.meta, [facts[one_id] for one_id in one.meta["supporting"]]
        subjects = [document.split(".")[0] for document in meta["supporting"]]
        assert one.answers[0] not in one.question.split()
        assert [document.split(".")[1] for document in meta["supporting"]] == meta["relations"]
        if meta["kind"] == "chain":
            assert subjects[1:] == first[:-1] and subjects == list(one.entities)
            assert first[-1] == one.answers[0] and subjects[0] in one.question
        elif meta["kind"] == "comparison":
            assert subjects[0] == subjects[1] and first[0] in one.question.split() and first[1] == one.answers[0]
            assert subjects[0] in one.question.split()
        else:
            assert subjects == [one.answers[0]] * 2 and all(value in one.question.split() for value in first)


def test_an_intersection_has_one_person_and_short_lists():
    found = world()
    facts = said(found)
    asked = [one for one in everything(found) if one.meta["kind"] == "intersection"]
    for one in asked:
        lists = [
            {
                document.split(".")[0]
                for document, value in facts.items()
                if document.endswith(relation) and value == given
            }
            for relation, given in zip(one.meta["relations"], one.entities, strict=True)
        ]
        assert lists[0] & lists[1] == {one.answers[0]}
        assert max(map(len, lists)) <= 3


def test_kinds_and_hops_have_their_shares():
    found = world()
    counts = Counter((one.meta["kind"], one.meta["hops"]) for one in found.dev)
    # 1000 questions: .06 comparisons, .04 intersections, and 900 chains by weights .2, .35, .25, .2
    assert counts == {
        ("comparison", 2): 60,
        ("intersection", 2): 40,
        ("chain", 1): 180,
        ("chain", 2): 315,
        ("chain", 3): 225,
        ("chain", 4): 180,
    }
    traced = Counter(len(trace.turns) - 1 for trace in found.traces if trace.query.meta["kind"] == "chain")
    assert traced == {1: 1215, 2: 945, 3: 405, 4: 135}  # 2700 chains by .45, .35, .15, .05


def test_questions_use_four_phrasings_and_traces_two():
    found = world()
    assert {at for one in found.dev for at in one.meta["phrasings"]} == {0, 1, 2, 3}
    assert {at for trace in found.traces for at in trace.query.meta["phrasings"]} == {0, 1}
    assert {
        at for trace in build(replace(SMALL, trace_phrasings=1)).traces for at in trace.query.meta["phrasings"]
    } == {0}


def test_every_phrasing_belongs_to_one_relation():
    phrases = [phrase for relation in RELATIONS.values() for phrase in (*relation.phrasings, *relation.clauses)]
    assert len(set(phrases)) == len(phrases)
    assert len(RELATIONS) == 12
    assert all(relation.subject != relation.object for relation in RELATIONS.values())


@pytest.mark.parametrize("settings", [DEFAULT, replace(SMALL, documents=5000)], ids=["default", "long names"])
def test_no_text_has_an_unknown_word(settings):
    tokenizer, found = WordTokenizer(vocabulary()), world(settings)
    texts = [text for one in found.documents for text in (one.title, one.text)]
    texts += [text for one in everything(found) for text in (one.question, *one.answers, *one.entities)]
    texts += [turn for trace in found.traces for turn in trace.turns]
    assert all(text == text.lower() for text in texts)
    assert UNK not in {token for text in texts for token in tokenizer.encode(text)}


def test_the_search_environment_writes_no_unknown_word_with_the_worlds_settings():
    from qr_jax.envs.search_r1 import search_r1

    tokenizer, found = WordTokenizer(vocabulary()), world()
    trace = found.traces[0]
    start = search_r1(trace.query, (), **SEARCH_R1)
    asked = Turn("model", trace.turns[0])
    wanted = search_r1(trace.query, (asked,), **SEARCH_R1)
    shown = Turn("env", "", wanted.queries, (tuple(found.documents[:3]),))
    seen = search_r1(trace.query, (asked, shown), **SEARCH_R1)
    assert UNK not in tokenizer.encode(start.text + asked.text + seen.text)
    assert found.documents[0].title in seen.text.split()


def test_the_vocabulary_is_fixed_and_has_about_434_words():
    words = vocabulary()
    assert 400 <= len(words) <= 450 and len(set(words)) == len(words)
    names = [word for type in text.TYPES for word in text.name_words(type)]
    assert len(set(names)) == 340 == 160 + 60 + 20 + 60 + 40
    common = set(words) - set(names)
    assert len(common) == len(words) - 340  # no name is another word of the world


def test_a_search_for_relation_and_entity_finds_the_fact_first():
    documents = world().documents
    gold = documents[:: len(documents) // 200][:200]
    found = bm25_of(DEFAULT)([f"{one.id.split('.')[1]} {one.title}" for one in gold], 1)
    assert sum(result[0].id == one.id for one, result in zip(gold, found, strict=True)) >= 196


@pytest.mark.parametrize("documents", [None, 5000])
def test_the_experts_searches_find_what_they_need(documents):
    settings = DEFAULT if documents is None else replace(SMALL, documents=documents)
    traces = [trace for trace in world(settings).traces if trace.query.meta["kind"] != "comparison"][:400]
    failed = 0
    for trace in traces:
        queries = [turn.split(" ", 1)[1].rsplit(" ", 1)[0] for turn in trace.turns[:-1]]
        depth = 1 if trace.query.meta["kind"] == "chain" else 3
        found = [[one.id for one in results] for results in bm25_of(settings)(queries, depth)]
        failed += not all(gold in ids for gold, ids in zip(trace.query.meta["supporting"], found, strict=True))
    assert failed <= 0.02 * len(traces)


def test_a_chain_by_hand():
    facts = make_facts(0, SIZES)
    path = (RELATIONS["employer"], RELATIONS["headquarters"])
    company = facts.names["company"][facts.targets["employer"][1]]
    city = facts.names["city"][facts.targets["headquarters"][facts.targets["employer"][1]]]
    problem = chain(facts, path, 1)
    assert facts.names["person"][:2] == ["albin", "aldra"]
    one = query(facts, problem, (1, 0))
    assert one.question == "what is the headquarters of the company aldra works for ?"
    assert one.answers == (city, f"{city} city") and one.entities == ("aldra", company)
    assert one.id == "w0.chain.employer-headquarters.aldra.10"
    assert one.meta["supporting"] == ["aldra.employer", f"{company}.headquarters"]
    assert turns(facts, problem) == (
        "<search> employer aldra </search>",
        f"<search> headquarters {company} </search>",
        f"<answer> {city} </answer>",
    )


def test_a_chain_that_comes_back_is_none():
    facts = make_facts(0, SIZES)
    for city in range(3):
        back = facts.targets["capital"][facts.targets["country"][city]] == city
        assert (chain(facts, (RELATIONS["country"], RELATIONS["capital"]), city) is None) == back


def test_a_comparison_by_hand():
    facts = make_facts(0, SIZES)
    problems = [comparison(facts, RELATIONS["founder"], RELATIONS["ceo"], *pair) for pair in ((0, 1), (1, 0))]
    company, founder, ceo = facts.names["company"], facts.targets["founder"], facts.targets["ceo"]
    people = facts.names["person"]
    for one, problem in enumerate(problems):
        if people[ceo[one]] == people[founder[one]]:
            assert problem is None
            continue
        # 0 + 1 is odd, so the second company is named first, whichever of them the answer is about
        choice = f"the one of {company[1]} and {company[0]} whose founder is {people[founder[one]]}"
        assert query(facts, problem, (3,)).question == f"which person is the chief of {choice} ?"
        assert problem.searches == (f"founder {company[1]}", f"ceo {company[one]}")
        assert query(facts, problem, (3,)).answers == (people[ceo[one]],)
        assert problem.entities == ((company[1],) if one else (company[1], company[0]))
    assert comparison(facts, RELATIONS["founder"], RELATIONS["ceo"], 1, 1) is None


def test_a_second_spelling_is_nobodys_name():
    facts = make_facts(0, {"person": 200, "city": 100, "country": 30, "company": 100, "university": 60})
    names = {name for type in text.TYPES for name in facts.names[type]}
    spelled = [alias for type in text.TYPES for at in range(30) for alias in aliases(facts, type, at)]
    assert len(spelled) == 90 and len(set(spelled)) == 90 and not names & set(spelled)


def test_names_of_a_large_world_differ_in_their_words_and_not_only_in_their_order():
    facts = make_facts(3, {"person": 400, "city": 100, "country": 30, "company": 100, "university": 60})
    for type in text.TYPES:
        sets = {frozenset(name.split()) for name in facts.names[type]}
        assert len(sets) == len(facts.names[type]) and {len(one) for one in sets} == {2}
    # 20 words make 20 names of one word, 190 of two (20 * 19 / 2), 1140 of three, 4845 of four
    assert [name_parts("country", count) for count in (20, 21, 190, 191, 1140, 1141)] == [1, 2, 2, 3, 3, 4]
    with pytest.raises(ValueError, match="4846 names of type country are more than the 4845"):
        name_parts("country", 4846)


@pytest.mark.parametrize("documents", [200, 20_000])
def test_a_world_has_about_as_many_documents_as_asked_for(documents):
    found = build(replace(SMALL, documents=documents))
    assert abs(len(found.documents) - documents) <= 0.03 * documents
    assert [len(found.train), len(found.dev), len(found.test), len(found.traces)] == [80, 60, 60, 100]


def test_wishes_add_up_by_hand():
    settings = WorldSettings(dev=100, hops=(1, 1), comparison=0.2, intersection=0.1)
    assert wishes(settings, "dev") == {"intersection": 10, "comparison": 20, "chain 1": 35, "chain 2": 35}


def test_too_few_problems_are_shared_out_by_hand():
    # 20 of 100 are kept for the traces, the others go to the questions in proportion 1 : 1 : 2
    counts = {"dev": 40, "test": 40, "train": 80, "traces": 50}
    assert fitted(counts, 100) == {"dev": 20, "test": 20, "train": 40, "traces": 20}
    assert fitted(counts, 1000) == counts
    assert fitted(counts, 190) == {"dev": 38, "test": 38, "train": 76, "traces": 38}
    assert fitted(counts, 0) == dict.fromkeys(counts, 0)


def test_short_kinds_make_room_for_longer_chains():
    found = build(WorldSettings(documents=200, train=500, dev=100, test=100, hops=(1, 0, 0, 1), traces=0))
    assert len(found.train) == 500 and len(found.traces) == 0
    hops = Counter(one.meta["hops"] for one in everything(found) if one.meta["kind"] == "chain")
    assert hops[1] <= 204 and hops[4] > 300  # a world of 204 documents has 204 chains of one hop


def test_exported_files_are_read_back_as_the_same_world(tmp_path):
    found = world(SMALL)
    paths = formats.export(found, tmp_path / "world")
    assert [path.name for path in paths] == [
        f"{name}.jsonl" for name in ("documents", "train", "dev", "test", "traces")
    ]
    documents, train, dev, test, traces = paths
    assert read_passages(documents) == found.documents
    assert [read_queries(path) for path in (train, dev, test)] == [found.train, found.dev, found.test]
    assert read_traces(traces) == found.traces
    row = json.loads(dev.read_text().splitlines()[0])
    assert set(row) >= {"id", "question", "answers", "entities", "hops", "kind", "supporting"}


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"peple": 3}, "peple.*people"),
        ({"documents": 199}, "documents=199 must lie between 200 and 100000"),
        ({"documents": 500, "people": 10}, "documents=500 sizes the world, and so does people"),
        ({"trace_phrasings": 5}, "trace_phrasings=5 must be 1 to 4"),
        ({"hops": [0, 0]}, "hops=.* not all 0"),
        ({"comparison": 0.7, "intersection": 0.4}, "comparison=0.7 and intersection=0.4"),
        ({"train": -1}, "data.world: train=-1 must be 0 or more"),
        ({"cities": 200}, "cities and companies a person each"),
        ({"people": "many"}, "people"),
    ],
)
def test_wrong_settings_are_refused(given, error):
    with pytest.raises(ValueError, match=error):
        settings_from(given)


def test_settings_come_from_what_json_holds():
    assert settings_from({"seed": 3, "hops": [1, 2]}) == WorldSettings(seed=3, hops=(1.0, 2.0))
    assert settings_hash(settings_from({"hops": [1, 2]})) == settings_hash(WorldSettings(hops=(1, 2)))


def test_a_share_of_the_training_questions_can_be_made_impossible():
    plain, spoiled = build(SMALL), build(replace(SMALL, impossible=0.333))
    assert spoiled.dev == plain.dev and spoiled.documents == plain.documents and spoiled.traces == plain.traces
    lost = [after for before, after in zip(plain.train, spoiled.train, strict=True) if before != after]
    assert 0.2 < len(lost) / len(plain.train) < 0.45
    known = set(vocabulary())
    assert all(query.answers == ("zzyzx",) for query in lost) and "zzyzx" not in known
    assert [query.id for query in spoiled.train] == [query.id for query in plain.train]
    assert not any("zzyzx" in passage.text for passage in spoiled.documents)


def test_a_world_with_too_few_questions_is_refused_with_what_it_has(tmp_path, capsys):
    words = ["world", str(tmp_path / "w"), "documents=200", "train=20000", "dev=100", "test=0", "traces=5"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    held = re.search(
        r"train=20000 dev=100 test=0: this world has (\d+), (\d+), 0 distinct questions; ask for fewer", said
    )
    assert held and 1000 < int(held[1]) < 20000 and int(held[2]) < 100
    assert not (tmp_path / "w").exists()
