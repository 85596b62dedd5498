"""A thought neither ends a turn nor acts, whoever began it, and the cold start writes one a turn, closed."""

import functools
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rollouts
from hypothesis import given
from hypothesis import strategies as st
from rollouts import CFG, SETTINGS, WORDS
from test_chat import CHATML, QWEN3, small

from qr_jax import config, dialect, sft
from qr_jax.data import traces
from qr_jax.envs.search_r1 import search_r1
from qr_jax.learner import learner
from qr_jax.learner.pack import pack
from qr_jax.methods.envs.ada_search import ada_search
from qr_jax.methods.envs.reseek import reseek
from qr_jax.methods.envs.ssrl import ssrl
from qr_jax.methods.envs.tool_call import expert_turn, tool_call
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Passage, Query, Say, Search, Stop, Trace, Turn, grades
from qr_jax.rollout import reading
from qr_jax.rollout.engine import Engine
from qr_jax.rollout.live import EpisodeState

GLUE = "<|im_start|>assistant\n"
THINKS = CHATML.replace(GLUE, f"{GLUE}<think>\n")  # as Qwen3-Thinking-2507's and R1's templates end
QUERY = Query("q", "Which city?", ("Oslo",))
CALL = '<tool_call>{"name": "search", "arguments": {"query": "draft"}}</tool_call>'
DECIDED = "<decision> search </decision> <search> draft </search>"
ANSWER, SEARCH = "<answer> Oslo </answer>", "<search> Oslo </search>"
PIECES = [b"<think>", b"</think>", b"<thi", b"nk>", b"</", b"think", b">", b"a", b"<stop>", b"<st", b"op>", b"<end>"]
PIECES += [b"<think>\n", b"<stop></think><stop>x", b"\n", b"</think>\n"]


def taken(shown: list[int], *chunks: list[int], stop: tuple[str, ...] = ("<stop>",)):
    """How many tokens of each chunk a turn takes after what was shown, whether it is complete, and its text."""
    live = EpisodeState(0, 0)
    live.show(shown, Say("", stop=stop))
    counts = [live.take(chunk, [-1.0] * len(chunk), PIECES, (11,)) for chunk in chunks]
    return counts, live.complete, live.text(PIECES)


def test_no_stop_string_in_a_thought_that_was_begun_ends_a_turn():
    a, stop, closes = 7, 8, 1
    draft = [a, stop, closes, a, stop, a]
    assert taken([a, 0, 14], draft) == ([5], True, "<think>\na<stop></think>a<stop>")
    assert taken([a, 12], draft[:2], draft[2:4], draft[4:]) == ([2, 2, 1], True, "<think>\na<stop></think>a<stop>")
    assert taken([2, 3], draft) == ([5], True, "<think>a<stop></think>a<stop>")  # the tag lies in two tokens
    assert taken([a, 12, a], draft) == ([2], True, "a<stop>"), "the thought was not begun at the end"
    assert taken([0, 14, 15], draft) == ([2], True, "a<stop>"), "the template has closed it"


def test_a_thought_s_tags_are_found_across_tokens():
    # </ think > and <st op> in chunks of their own
    assert taken([12], [9], [10, 4], [5], [6, 9], [10, 7]) == ([1, 2, 1, 2, 1], True, "<think>\n<stop></think><stop>")
    # a token that closes the thought between two stop strings is kept whole
    assert taken([12], [8, 13, 7]) == ([2], True, "<think>\n<stop><stop></think><stop>x")
    # the policy's own thought, its tag in two chunks
    assert taken([7], [7, 2], [3, 8], [8, 1], [8, 8]) == ([2, 2, 2, 1], True, "a<think><stop><stop></think><stop>")


def test_a_thought_that_is_never_closed_ends_with_the_message_and_acts_not():
    assert taken([12], [8, 8], [7, 11]) == ([2, 2], True, "<think>\n<stop><stop>a")
    assert taken([7], [0, 8], [8]) == ([2, 1], False, "<think><stop><stop>")
    assert taken([7], [8], stop=()) == ([1], False, "<stop>")


def test_a_thought_s_own_tag_may_be_a_stop_string():
    assert taken([12], [7, 8, 1, 7], stop=("</think>", "<stop>")) == ([3], True, "<think>\na<stop></think>")
    assert taken([7], [7, 0, 7], stop=("<think>",)) == ([2], True, "a<think>")


def signs(query, turns):
    """An environment of other signs, which reads no thoughts: [say] x [/say]."""
    if not turns:
        return Say(query.question, stop=("[/say]",))
    found = re.search(r"\[say\](.*?)\[/say\]", turns[-1].text)
    return Stop("answered", found[1].strip()) if found else Say("no", "user", ("[/say]",))


@pytest.mark.parametrize(
    ("env", "draft", "act", "move"),
    [
        (search_r1, "<answer>Bergen</answer>", ANSWER, Stop("answered", "Oslo")),
        (search_r1, "<search>draft</search>", SEARCH, Search(("Oslo",))),
        (tool_call, CALL, ANSWER, Stop("answered", "Oslo")),
        (ada_search, DECIDED, f"<decision> answer </decision> {ANSWER}", Stop("answered", "Oslo")),
        (reseek, f"<judge> no </judge> {SEARCH}", ANSWER, Stop("answered", "Oslo")),
        (ssrl, "<answer>Bergen</answer>", ANSWER, Stop("answered", "Oslo")),
        (signs, "[say]Bergen[/say]", "[say] Oslo [/say]", Stop("answered", "Oslo")),
    ],
)
def test_no_draft_in_a_thought_acts_in_any_environment(env, draft, act, move):
    """The turn's text begins with the tag that the template wrote; the last thought has another tag inside it."""
    shown = reading.unthinking(env)
    for thought in (f"<think>\n{draft}", f"<think>{draft} <think> {draft}", f"<think>{draft} <|im_start|> {draft}"):
        assert shown(QUERY, [Turn("model", f"{thought}\n</think>\n\n{act}")]) == move
        unclosed = shown(QUERY, [Turn("model", f"{thought}\n{act}")])
        assert unclosed == Stop("no_action") if env is ssrl else isinstance(unclosed, Say)


def engine(template: str, **changes) -> Engine:
    tokenizer = small(template)
    settings = replace(SETTINGS, context_tokens=288, turn_tokens=120, search_k=1, observation_tokens=80, chunk=8)
    cfg = replace(CFG, vocab=tokenizer.size)
    return Engine(cfg, tokenizer, replace(settings, slots=4, buckets=(320,), **changes))


@functools.cache
def thinking() -> Engine:
    return engine(THINKS)


def found(queries, k):
    return [[Passage("1", "Oslo", "Oslo is a city.")][:k] for _ in queries]


def short(env):
    """The environment with texts of a few words."""
    settings = {"schema": False} if env is tool_call else {}
    return functools.partial(env, prompt="{question}", passage="{text}", last="", **settings)


DRAFTED = {  # an expert's turns, each with a draft in its thought
    search_r1: (
        f"<think>\n<answer>Bergen</answer>?\n</think>\n{SEARCH}",
        f"<think>\n<search>draft</search>\n</think>\n{ANSWER}",
    ),
    tool_call: (f"<think>\n{CALL}\n</think>\n\n{expert_turn('', ['Oslo'])}", f"<think>\n{CALL}\n</think>\n\n{ANSWER}"),
    ada_search: (
        f"<think>\n{DECIDED}\n</think>\n<decision> search </decision> {SEARCH}",
        f"<think>\n{DECIDED}\n</think>\n<decision> answer </decision> {ANSWER}",
    ),
}


@pytest.mark.thorough
def test_a_model_that_drafts_in_its_thoughts_writes_what_the_cold_start_taught_and_only_its_acts_count():
    """Three traces are learnt by heart; greedy rollouts sample the very ids, with the same glue, and end as they do."""
    made = thinking()
    asked = {env: replace(QUERY, id=env.__name__, question=f"{env.__name__}?") for env in DRAFTED}
    experts = [sft.play(Trace(asked[env], turns), made, short(env), found) for env, turns in DRAFTED.items()]
    assert all(expert.answer == "Oslo" for expert in experts)
    settings = config.Learner(
        loss=config.use("nll"), advantage=config.use("dr_grpo"), lr=1e-2, rows=3, row_tokens=288, betas=(0.9, 0.95)
    )
    trainer = learner.make(
        replace(CFG, vocab=made.tokenizer.size), config.Model(vocab_block=512), settings,
        meshes.make_mesh(config.Mesh(devices=1)),
    )  # fmt: skip
    state = trainer.init(rollouts.random_params(replace(CFG, vocab=made.tokenizer.size)))
    ones = grades(np.ones((3, 1)), np.ones((3, 1), bool))
    batch = pack([[expert] for expert in experts], ones, rows=3, row_tokens=288, queries=3, samples=1)
    for _ in range(60):
        state, (metrics,) = trainer.update(state, batch, 1e-2)
    assert metrics["loss"] < 0.05, "the traces were not learnt"
    params = jax.tree.map(jnp.asarray, jax.device_get(state.params))
    for env, expert in zip(DRAFTED, experts, strict=True):
        episode = rollouts.roll(made, params, [asked[env]], 1, env=short(env), search=found, temperature=0.0)[0][0]
        np.testing.assert_array_equal(episode.ids_L, expert.ids_L)
        np.testing.assert_array_equal(episode.mask_L, expert.mask_L)
        assert (episode.answer, episode.stop, episode.turns) == ("Oslo", "answered", expert.turns)
        assert [turn.queries for turn in episode.turns if turn.author == "env"] == [("Oslo",)]


def sampled(episode, made: Engine) -> list[str]:
    """The text of each turn's ids that count as sampled."""
    turns = range(episode.model_turns)
    return [made.tokenizer.decode(episode.ids_L[episode.turn_L == number].tolist()) for number in turns]


def messages(episode, made: Engine) -> list[str]:
    """The model's messages, glue included."""
    return made.tokenizer.decode(episode.ids_L.tolist()).split(GLUE)[1:]


@pytest.mark.parametrize(
    ("turn", "written"),
    [
        ("<think>\nI look\n</think>\n\n{}", "I look\n</think>\n\n{}"),
        ("<think> I look </think>\n{}", "I look </think>\n{}"),
        ("{}", "\n</think>\n\n{}"),
        ("I look\n</think>\n\n{}", "I look\n</think>\n\n{}"),  # written behind such a template
        ("So. <think> I look </think> {}", "So.  I look </think> {}"),
        ("<think>I</think>\n<think>look</think>{}", "I\nlook</think>{}"),
        ("<think>I</think> so <think>look</think>{}", "I\nlook</think> so{}"),
        ("<think>I</think> so\n<think>look</think> and <think> see </think> {}", "I\nlook\nsee </think> so and {}"),
        ("<think>I <think> look</think>{}", "I  look</think>{}"),
        ("I</think><think>look</think>{}", "I\nlook</think>{}"),
        (f"I draft {CALL}</think>{{}}", f"I draft {CALL}</think>{{}}"),
    ],
)
def test_the_cold_start_has_one_thought_a_turn_closed_where_the_template_begins_it(turn, written):
    made = thinking()
    call = expert_turn("", ["Oslo"])
    episode = sft.play(
        Trace(QUERY, (turn.replace("{}", call), turn.replace("{}", ANSWER))), made, short(tool_call), found
    )
    assert episode.answer == "Oslo"
    assert sampled(episode, made) == [written.replace("{}", call) + "<|im_end|>", written.replace("{}", ANSWER)]
    for message in messages(episode, made):
        assert message.startswith("<think>\n") and message.count("<think>") == 1 == message.count("</think>")
    prompt = made.chat.open(short(tool_call)(QUERY, []))
    first = made.tokenizer.encode(written.replace("{}", call))
    assert episode.ids_L[: len(prompt) + len(first) + 1].tolist() == [*prompt, *first, made.chat.end_id]
    assert [turn.text for turn in episode.turns if turn.author == "model"] == [
        "<think>\n" + text.removesuffix("<|im_end|>") for text in sampled(episode, made)
    ]


def calls(*queries):
    return [expert_turn("", [query]) for query in queries]


@pytest.mark.parametrize("begun", ["", "<think>\n", "<think>\n\n</think>\n\n"])
@pytest.mark.parametrize(
    "turn",
    [
        "<think>I</think>{}\n<think>so?</think>\n{}",
        "{}<think>so?</think>{}",
        "<think>I</think>{}{}<think>so?</think>",
        "<think>I</think>{}{}<think>so? <tool_call>",  # never closed
        "I</think>{}\n<think>so?</think>{}",
        "<think>I</think><think>look</think>{}<think>so?</think>{}<think>so?</think>",
    ],
)
def test_a_thought_after_an_act_is_left_out_and_every_act_stays(turn, begun):
    """It may be about what the act brings, which a rollout has not seen at that place."""
    message = begun + dialect.continued(turn.format(*calls("a", "b")), begun)
    tags = re.findall("</?think>", message)
    assert tags in (["<think>", "</think>"], [] if turn.startswith("{}") and not begun else None)
    assert tool_call(QUERY, [Turn("model", message)]) == Search(("a", "b")) and "so?" not in message


def test_a_later_thought_stays_where_the_model_writes_its_own_observations():
    turn = "<think>I</think><search>a</search><information>b</information><think>so</think><answer>c</answer>"
    assert dialect.continued(turn, "<think>", ("information",)) == turn.removeprefix("<think>")
    assert "so" not in dialect.continued(turn, "<think>")


PARTS = ["<think>", "</think>", "<think>a</think>", "\n", "b ", *calls("c", "d"), "<answer>e</answer>"]


@given(st.lists(st.sampled_from(PARTS), max_size=8).map("".join), st.sampled_from(["", "<think>", "<think>\n"]))
def test_a_message_of_the_cold_start_has_one_thought_closed_and_the_turn_s_acts(turn, begun):
    blocks, whole = dialect.read(turn)
    message = begun + dialect.continued(turn, begun)
    if whole:
        assert dialect.read(message) == (blocks, True)
        assert re.findall("</?think>", message) in (["<think>", "</think>"], [] if not begun else None)


def test_a_turn_inside_an_open_message_has_the_expert_s_own_thought():
    """search_r1 goes on in one message: the template begins the first turn's thought alone."""
    made, thought = thinking(), "<think> I look </think>\n"
    episode = sft.play(Trace(QUERY, (thought + SEARCH, thought + ANSWER)), made, short(search_r1), found)
    assert sampled(episode, made) == ["I look </think>\n" + SEARCH, thought + ANSWER]
    (message,) = messages(episode, made)
    assert re.findall("</?think>", message) == ["<think>", "</think>"] * 2


def test_a_template_told_not_to_think_leaves_no_thought_to_the_cold_start():
    made = engine(QWEN3, thinking=False)
    turns = (expert_turn("I look", ["Oslo"]), expert_turn("I know", (), "Oslo"))
    episode = sft.play(Trace(QUERY, turns), made, short(tool_call), found)
    assert sampled(episode, made) == [
        f"{expert_turn('', *act)}<|im_end|>" * (not act[1:]) or ANSWER for act in ((["Oslo"],), ((), "Oslo"))
    ]
    assert all(re.findall("</?think>", message) == ["<think>", "</think>"] for message in messages(episode, made))


def test_where_no_thought_is_begun_an_expert_s_turn_stays_and_a_thought_without_its_tag_gets_it():
    whole = f"<think>\nI look\n</think>\n\n{ANSWER}"
    assert dialect.continued(whole, "") == whole and dialect.continued(ANSWER, "") == ANSWER
    assert dialect.continued(f"I look\n</think>\n{ANSWER}", "") == f"<think>I look\n</think>\n{ANSWER}"
    assert dialect.continued(ANSWER, "<think>") == f"\n\n</think>\n\n{ANSWER}"
    assert dialect.continued(ANSWER, "<think> ") == f"</think>\n\n{ANSWER}"  # a tokenizer of words
    assert dialect.continued(whole, "<think>") == f"\nI look\n</think>\n\n{ANSWER}"
    assert dialect.continued("<think>never closed", "<think>\n") == "never closed"
    assert dialect.continued("<calc> 1 </calc> a</think>", "", ("calc",)) == "<think><calc> 1 </calc> a</think>"


def test_an_expert_s_turn_ends_where_a_rollout_s_would():
    """What follows its act, or an end token of its own, is not trained: no rollout could have sampled it."""
    made = engine(CHATML)
    drafted = "<think><answer>Bergen</answer></think>"
    for turn in (f"{ANSWER}\n", f"{ANSWER}<answer>Bergen</answer>", f"{drafted}{ANSWER} so"):
        episode = sft.play(Trace(QUERY, (turn,)), made, short(search_r1), found)
        assert episode.answer == "Oslo" and sampled(episode, made) == [turn[: turn.index(ANSWER)] + ANSWER]
    call = expert_turn("", ["Oslo"])
    episode = sft.play(Trace(QUERY, (f"{call}<|im_end|>", ANSWER)), made, short(tool_call), found)
    assert sampled(episode, made) == [f"{call}<|im_end|>", ANSWER]


def test_a_prompt_of_words_that_ends_in_a_think_tag_begins_a_thought_too():
    env = functools.partial(
        search_r1, prompt="{question} <think> ", information=" {passages} ", passage="{text} ", last=""
    )
    made = rollouts.engine(slots=4, buckets=(64,))
    trace = Trace(replace(QUERY, question="who is"), ("who </think> <search> who </search>", "<answer> is </answer>"))
    episode = sft.play(trace, made, env, found)
    assert WORDS.decode(episode.ids_L.tolist()).startswith("who is <think> who </think> <search> who </search> ")
    assert [turn.text for turn in episode.turns][0] == "<think> who </think> <search> who </search> "
    untold = sft.play(replace(trace, turns=("<answer> is </answer>",)), made, env, found)
    assert WORDS.decode(untold.ids_L.tolist()) == "who is <think> </think> <answer> is </answer> "


def test_a_trace_whose_drafts_stand_in_thoughts_is_played_to_its_end():
    turns = (f"<think>{DECIDED}{ANSWER}</think>{SEARCH}", f"<think>{SEARCH}</think>{ANSWER}")
    traces.check_played([Trace(QUERY, turns)], search_r1, None)
    for first in (f"<think>{SEARCH}", "<information>", "<thinking> hm </thinking>"):
        with pytest.raises(ValueError, match="takes none of the 1 first traces: 'q' has no action in turn 1"):
            traces.check_played([Trace(QUERY, (first, ANSWER))], search_r1, None)


@pytest.mark.thorough
def test_turns_of_a_model_that_writes_at_random_end_outside_thoughts_and_where_an_observation_begins():
    """Of words, so that tags come often: each turn ends at its first stop string outside thoughts, or has none."""
    made = rollouts.engine(slots=64, chunk=8, buckets=(64,))
    episodes = rollouts.flat(rollouts.roll(made, rollouts.random_params(), rollouts.world().train[:16], 16))
    made_up = 0
    for episode in episodes:
        rollouts.assert_whole(episode, made, rollouts.ENV)
        for at, turn in enumerate(episode.turns):
            if turn.author == "env":
                continue
            spoken = dialect.without_thoughts(turn.text)
            ends = [spoken.find(stop) for stop in ("</search>", "</answer>", "<information>") if stop in spoken]
            assert not ends or spoken[min(ends) :] in ("</search> ", "</answer> ", "<information> ")
            if spoken.endswith("<information> "):
                made_up += 1
                told = [said.text for said in episode.turns[at + 1 :][:1]]
                assert told == [" </information> "] or episode.stop in ("no_action", "turns", "context")
    assert made_up > 3
