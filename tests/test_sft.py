"""The cold start: what it takes of the learner's settings, and what it does not."""

import dataclasses
import functools
import os
import signal
import sys
import threading
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
from killed_run import tiny

from qr_jax import assemble, config, plugins, sft
from qr_jax.config import use
from qr_jax.data import traces
from qr_jax.learner import learner
from qr_jax.models import families
from qr_jax.models.tokenizer import WordTokenizer
from qr_jax.parallel import peaks
from qr_jax.records import Episode, Query, Say, Search, Stop, Trace
from qr_jax.rollout.engine import Engine
from qr_jax.run import runs
from qr_jax.settings import checks
from tpu_scripts.same_runs import lines, weights

TAKEN = {"rows": 16, "row_tokens": 2048, "betas": (0.8, 0.9), "eps": 1e-6}
OTHER = {  # every further setting of the learner, changed
    "advantage": use("rloo"), "loss": use("clip", low=0.1), "reduce": "sequence_mean", "over": "drawn",
    "horizon_tokens": 7, "keep_zero_variance": True, "kl": "k2", "kl_weight": 0.5, "entropy_weight": 0.5,
    "fill": True, "importance": "icepop", "importance_by": "sequence", "importance_low": 0.1,
    "importance_high": 9.0, "updates": 3, "gap_alarm": 7.0, "lr": 7.0,
    "schedule": "linear", "warmup_updates": 7, "full_groups": 7, "weight_decay": 7.0, "clip_norm": 7.0,
    "max_nonfinite": 7, "share_prefixes": True,
}  # fmt: skip


def test_a_term_of_the_learner_does_not_reach_the_cold_start():
    default = config.Learner()
    names = {field.name for field in dataclasses.fields(config.Learner)}
    assert names == {*TAKEN, *OTHER}, "a new setting of the learner: say here that the cold start does without it"
    assert all(value != getattr(default, name) for name, value in OTHER.items())
    own = config.Sft(steps=50, lr=0.5, schedule="linear", warmup_steps=3, clip_norm=0.25, weight_decay=0.125)
    plain = config.Config(sft=own, learner=replace(default, **TAKEN))
    changed = replace(plain, learner=replace(plain.learner, **OTHER))
    settings = sft._learner_settings(changed)
    assert settings == sft._learner_settings(plain)
    assert settings == config.Learner(
        **TAKEN, advantage=use("dr_grpo"), loss=use("nll"), lr=0.5, schedule="linear", warmup_updates=3,
        clip_norm=0.25, weight_decay=0.125,
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in plugins.names("env") if plugins.beside("env", name, "expert_turn")])
def test_the_world_s_vocabulary_has_every_word_of_every_environment_s_expert(name):
    settings = config.Config(model=config.Model(name="quickstart"), env=use(name))
    tokenizer, write = assemble.world_tokenizer(settings), assemble.expert_turn(settings)
    for text in (write("", ["who"], None), write("", (), "who")):
        ids = tokenizer.encode(traces.spaced(text))
        assert tokenizer.unknown_id not in ids, f"{name} writes {text!r}; its file's VOCABULARY lacks a word of it"


@pytest.mark.parametrize(
    ("tags", "words", "new"),
    [
        (("search", "calc", "answer"), (), ["<calc>", "</calc>"]),
        (("calc", "calc"), ("who", "+", "+", "<calc>"), ["<calc>", "</calc>", "+"]),
        ((), ("</search>",), []),
    ],
)
def test_the_world_s_words_and_an_environment_s_are_united(tmp_path, monkeypatch, tags, words, new):
    (tmp_path / "own_words.py").write_text(
        f"TAGS = {tags}\nVOCABULARY = {words}\n\n\ndef own_words(query, turns):\n    raise NotImplementedError\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_words", raising=False)
    settings = config.Config(model=config.Model(name="two_layer"), env=use("own_words.own_words"))
    plain = assemble.world_tokenizer(replace(settings, env=use("search_r1")))
    assert assemble.world_tokenizer(settings).words == (*plain.words, *new)
    assert checks.problems(settings) == []


def test_tags_and_words_of_an_environment_that_are_none_are_told_before_a_run(tmp_path, monkeypatch):
    (tmp_path / "odd_words.py").write_text(
        "TAGS = ('<calc>', 'my tag')\nVOCABULARY = ('two words', '')\n\n\ndef odd_words(query, turns):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = config.Config(env=use("odd_words.odd_words"), sft=config.Sft(steps=0))
    assert checks.problems(settings) == [
        "env 'odd_words.odd_words' declares TAGS '<calc>', 'my tag'; wanted bare names, 'calc' for <calc>",
        "env 'odd_words.odd_words' declares VOCABULARY 'two words', ''; wanted words without blanks",
    ]


def two_tools(query, turns):
    """Answers "calc" by Say, "search" by a search, and all else by a word."""
    word = turns[-1].text.split()[0] if turns and turns[-1].text.split() else ""
    moves = {"calc": Say(" four ", "inline"), "search": Search(("who",)), "answer": Stop("answered", "who")}
    if not turns or turns[-1].author == "env":
        return Say("who is ", "inline" if turns else "user")
    return moves.get(word, Say(" what ", "inline"))


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        (("calc", "search", "calc", "answer"), None),
        (("what", "answer"), "a turn without an action"),
        (("calc", "calc"), "no answer"),
        (("calc", "answer", "calc"), "the environment stopped early (answered)"),
    ],
)
def test_a_trace_may_use_a_tool_that_the_environment_answers_at_once(turns, told):
    settings = config.Rollout(slots=1, context_tokens=64, turn_tokens=8)
    words = WordTokenizer(["who", "is", "what", "four", "calc", "search", "answer"])
    made = Engine(dataclasses.replace(families.PRESETS["two_layer"], vocab=words.size), words, settings)
    trace = Trace(Query("1", "who is who ?", ("who",)), turns)
    played = sft.play(trace, made, two_tools, lambda queries, k: [[] for _ in queries])
    refused = traces._refusal(trace, two_tools)
    if told is not None:
        assert played == told and refused is not None
        return
    assert refused is None and isinstance(played, Episode) and played.answer == "who"
    assert words.decode(played.ids_L.tolist()) == (
        "who is calc <eos> four search <eos> who is calc <eos> four answer <eos> "
    )
    assert words.decode(played.ids_L[played.mask_L].tolist()) == "calc <eos> search <eos> calc <eos> answer <eos> "
    assert [turn.text.strip() for turn in played.turns] == [
        "calc",
        "four",
        "search",
        "who is",
        "calc",
        "four",
        "answer",
    ]


def test_an_expert_s_last_turn_must_answer():
    settings = config.Config(model=config.Model(name="two_layer"), rollout=config.Rollout(slots=1))
    agent, query = assemble.agent(settings), Query("1", "who is who ?", ("who",))
    env = functools.partial(
        assemble.environment(settings), max_turns=1, prompt="{question} ", information=" {passages} "
    )
    trace = Trace(query, ("<search> who </search>",) * 2)
    played = sft.play(trace, agent.engine, env, lambda queries, k: [[] for _ in queries])
    assert played == "no answer (turns)"
    with pytest.raises(ValueError, match=r"has an end \(turns\) at turn 2 of 2"):
        traces.check_played([trace], env, None)


def test_a_trace_with_a_word_that_the_model_lacks_is_left_out_with_the_word():
    settings = config.Config(
        model=config.Model(name="two_layer"),
        env=use("search_r1", prompt="{question} "),
        rollout=config.Rollout(slots=1),
    )
    agent, query = assemble.agent(settings), Query("1", "who is who ?", ("who",))
    trace = Trace(query, ("<answer> nebuchadnezzar </answer>",))
    told = sft.play(trace, agent.engine, assemble.environment(settings), lambda queries, k: [])
    assert isinstance(told, str) and "lacks the expert's 'nebuchadnezzar'" in told and "VOCABULARY" in told


def test_a_sigterm_while_traces_are_played_over_a_retriever_that_hangs_is_heard_at_once(tmp_path):
    """It took 74 seconds: a search's deadline, for each of its tries."""

    def hangs(queries, k):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        time.sleep(30)

    settings, said, began = tiny(tmp_path), [], []
    with pytest.raises(SystemExit) as stopped:
        sft.sft(
            settings,
            tmp_path / "run",
            search=lambda *asked: began.append(time.monotonic()) or hangs(*asked),
            say=said.append,
        )
    assert stopped.value.code == 143 and time.monotonic() - began[0] < 10
    assert "stopped by SIGTERM; the same command goes on" in said[-1]


def cold_start(folder, say=lambda text: None):
    """Three steps of several micro-batches, each by a call of its own as a large model's are."""
    settings = tiny(folder.parent)
    settings = replace(settings, sft=replace(settings.sft, steps=3, traces=32))
    return sft.sft(replace(settings, learner=replace(settings.learner, rows=1)), folder, say=say)


@pytest.mark.thorough
def test_a_cold_start_says_a_sigterm_at_once_ends_at_the_next_micro_batch_and_goes_on_byte_for_byte(
    tmp_path, monkeypatch
):
    """It went on to the end of its step, for minutes, and nothing was printed."""
    monkeypatch.setattr(learner, "LONG", 0)
    cold_start(tmp_path / "whole")
    make, said, begun = learner.make, [], []

    def told(*given, **named):
        made = make(*given, **named)

        def step(*given, between, **more):
            begun.append(0)

            def counted():
                begun[-1] += 1
                if begun[1:] == [2]:  # the second micro-batch of the second step
                    before = len(said)
                    os.kill(os.getpid(), signal.SIGTERM)
                    until = time.monotonic() + 1
                    while len(said) == before and time.monotonic() < until:  # this thread computes
                        time.sleep(0.01)
                between()

            return made.step_by_parts(*given, between=counted, **more)

        return replace(made, step_by_parts=step)

    with monkeypatch.context() as within:
        within.setattr(learner, "make", told)
        with pytest.raises(SystemExit) as stopped:
            cold_start(tmp_path / "stopped", said.append)
    assert stopped.value.code == 143 and begun[0] > 3 and begun[1:] == [2]
    assert said[-2] == "SIGTERM: saving and ending"
    assert said[-1] == "stopped by SIGTERM; the same command goes on from the last checkpoint"
    cold_start(tmp_path / "stopped", said.append)
    assert "cold start: going on after step 1" in said
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")
    assert weights(tmp_path / "stopped", 3) == weights(tmp_path / "whole", 3)


@pytest.mark.thorough
def test_a_cold_start_that_is_stopped_in_its_first_step_saves_nothing_and_begins_again(tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "LONG", 0)
    for _ in range(2):
        monkeypatch.setattr(runs.Run, "stopping", property(lambda run: True, lambda run, value: None), raising=False)
        with pytest.raises(SystemExit):
            cold_start(tmp_path / "run")
        assert not list((tmp_path / "run" / "checkpoints").glob("step_*"))
        monkeypatch.undo()
        monkeypatch.setattr(learner, "LONG", 0)
    assert cold_start(tmp_path / "run")["steps"] == 3


def test_only_a_micro_batch_of_a_step_that_takes_long_is_a_call_of_its_own(monkeypatch):
    def params(count):
        return {"w": np.zeros((count // 1000, 1000), np.float16)}

    assert not learner.takes_long(params(370_000), config.Learner(rows=2, row_tokens=192))  # the quickstart's
    assert learner.takes_long(params(10_000_000), config.Learner(rows=8, row_tokens=1024))
    of_135m, of_8b = params(135_000_000), jax.ShapeDtypeStruct((8_000_000, 1000), np.float32)
    monkeypatch.setattr(learner.peaks, "known", lambda *_: peaks.Peak(1e15, 3e12, measured=False))  # as of an H100
    assert not learner.takes_long(of_135m, config.Learner(rows=16, row_tokens=1024))
    assert learner.takes_long(of_8b, config.Learner(rows=4, row_tokens=4096))
    monkeypatch.setattr(learner.hosts, "count", lambda: 2)
    assert not learner.takes_long(of_8b, config.Learner(rows=4, row_tokens=4096))
