"""What stands beside exported weights: agent.json and a card that say what the run did, and nothing of its machine."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from killed_run import tiny
from test_chat import CHATML, LLAMA31, QWEN3, SEARCH, small
from test_envs import QUERY, model, transcripts

from qr_jax import assemble, config, dialect
from qr_jax.config import use
from qr_jax.envs.search_r1 import search_r1
from qr_jax.lab import exporting, model_card
from qr_jax.records import Say, Search, Stop
from qr_jax.rollout.chat import Chat
from qr_jax.rollout.live import EpisodeState


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The agent of a tiny config, with random weights."""
    return assemble.agent(tiny(tmp_path_factory.mktemp("words")))


@pytest.fixture(scope="module")
def written(words, tmp_path_factory):
    """A folder with that agent's weights."""
    folder = tmp_path_factory.mktemp("written")
    return exporting.write(folder / "hf", tiny(folder), words, words.weights(), None)


def chat(template):
    return Chat(small(template), bos="")


@pytest.mark.parametrize("name", ["agent.json", "config.json", "notes.txt"])  # a run's own config.json among them
def test_nothing_is_written_over(words, tmp_path, name):
    (tmp_path / name).write_text("mine")
    settings = tiny(tmp_path)
    with pytest.raises(ValueError, match="already holds .*name a new folder, such as"):
        exporting.write(tmp_path, settings, words, words.weights(), None)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"


def test_no_place_address_or_secret_of_this_machine_is_said(words, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hidden-token")
    (tmp_path / "encoder").mkdir()
    monkeypatch.chdir(tmp_path)
    inner = use("dense", model="./encoder", index=str(tmp_path / "vectors"))
    settings = replace(
        tiny(tmp_path),
        env=use("search_r1", prompt="hidden-token </search> {question}", max_turns=2),
        retriever=use("cached", of=use("hybrid", parts=(use("bm25", k1=0.9), inner)), cache=str(tmp_path / "kept")),
    )
    exporting.write(tmp_path / "hf", settings, words, words.weights(), None)
    said = json.loads((tmp_path / "hf/agent.json").read_text())
    bm25, dense = said["retriever"]["settings"]["of"]["settings"]["parts"]
    assert bm25["settings"]["k1"] == 0.9 and not {"model", "index"} & set(dense["settings"])
    assert said["prompt"] == "[redacted] </search> {question}" and said["environment"]["settings"]["max_turns"] == 2
    for name in ("agent.json", "README.md"):
        text = (tmp_path / "hf" / name).read_text()
        assert str(tmp_path) not in text and "hidden-token" not in text and "encoder" not in text
    served = replace(settings, retriever=use("http", url="http://me.example:1/retrieve", token_env="MY_TOKEN"))
    text = json.dumps(exporting.describe(served, words.engine.chat))
    assert "me.example" not in text and "MY_TOKEN" not in text


def test_an_environment_whose_code_is_missing_leaves_the_prompt_out(words, written, tmp_path, capsys):
    settings = replace(tiny(tmp_path), env=use("no_such_lab.searching", short=True))
    said = exporting.describe(settings, words.engine.chat)
    assert said["prompt"] is None and said["environment"]["settings"] == {"short": True}
    assert "no module 'no_such_lab'" in "".join(capsys.readouterr())
    assert "(not known: the environment's code was not at hand)" in model_card.write(
        settings, said, None, written, dtype="float32"
    )
    there = exporting.describe(replace(settings, env=use("searching.searching", short=True)), words.engine.chat)
    assert there["prompt"].endswith("{question}\n") and there["environment"]["settings"]["max_turns"] == 4


def test_tools_and_the_template_s_words_are_said_as_the_engine_has_them(written, tmp_path):
    settings = replace(tiny(tmp_path), env=use("tool_call"), model=config.Model("Qwen/Qwen3-1.7B"))
    for template in (CHATML, QWEN3, LLAMA31):
        under = chat(template)
        said = exporting.describe(settings, under)
        (tool,) = said["tools"]
        assert tool["function"]["name"] == "search"
        assert said["stop"] == ["</answer>", "<information>", "<tool_response>"]
        encode, data = under.tokenizer.encode, under.tokenizer.encode_data
        before, after = said["chat"]["prompt"]
        opening = Say(said["prompt"].replace("{question}", "Who?"), tools=tuple(said["tools"]))
        assert under.open(opening) == encode(before) + data(opening.text) + encode(after)
        for role in ("user", "tool"):
            closes, before, after = said["chat"][role]
            shown = '"x"' if role == "tool" and said["chat"]["tool_json"] else "x"
            assert under.observe(Say("x", role), True) == encode(before) + data(shown) + encode(after)
            assert under.observe(Say("x", role), False) == encode(closes + before) + data(shown) + encode(after)
        assert said["chat"]["tool_json"] == (template == LLAMA31)
        card = model_card.write(settings, said, None, written, dtype="bfloat16")
        assert "base_model: Qwen/Qwen3-1.7B\n" in card and "rounded to bfloat16" in card and '"name": "search"' in card
    assert exporting.glue(Chat(small(CHATML)))["prompt"][0].startswith(
        "<|im_start|>system\nYou are a helpful AI assistant"
    )
    assert SEARCH["function"]["name"] in exporting.glue(chat(QWEN3), [SEARCH])["prompt"][0]


def test_the_tools_of_a_run_are_said_with_their_settings(words, written, tmp_path):
    tools = (use("search"), use("calculator", digits=9))
    settings = replace(tiny(tmp_path), env=use("several_tools", max_turns=2, schema=False), tools=tools)
    said = exporting.describe(settings, words.engine.chat)
    assert [tool["name"] for tool in said["run_tools"]] == ["search", "calculator"]
    assert said["run_tools"][1]["settings"]["digits"] == 9
    given_to_env = said["environment"]["settings"]["tools"]
    assert [tool["function"]["name"] for tool in given_to_env] == ["search", "calculator"]
    card = model_card.write(settings, said, None, written, dtype="float32")
    assert "Tools of the run: `search`" in card and '"digits": 9' in card and "qr-jax ask FOLDER --config FILE" in card
    assert "play_with_transformers" not in card
    started = use("mcp", command=("python", "/opt/server.py", "--token", "hidden"), tools=("add",))
    paged = use("open_page", hosts=("intranet.example:8000",), chars=500)
    bound = [exporting._bound("tool", tool)["settings"] for tool in (started, paged)]
    assert "command" not in bound[0] and bound[0]["tools"] == ["add"]
    assert "hosts" not in bound[1] and bound[1]["chars"] == 500
    listed = exporting._bound("tool", use("my_lab.mine", folders=("/opt/x", "y"), names=("a", "b")))["settings"]
    assert listed == {"names": ["a", "b"]}


@given(transcripts)
def test_the_pattern_of_agent_json_finds_the_act_that_search_r1_reads(text):
    found = re.match(exporting.act_pattern({"search": False, "answer": True}), text)
    move = search_r1(QUERY, model(text))
    if isinstance(move, Say):
        assert found is None
    else:
        assert found
        read = (found[1], " ".join(found[2].split()))
        assert read == (("search", *move.queries) if isinstance(move, Search) else ("answer", move.answer))
        assert isinstance(move, Search | Stop)


def test_the_pattern_by_hand():
    read = re.compile(exporting.act_pattern({"search": False, "answer": True}))
    assert read.match("<think>a <search>b</search></think> <search> c </search>").groups() == ("search", " c ")
    assert read.match("<answer></answer>").groups() == ("answer", "")
    assert (
        read.match("<search> </search><answer>a</answer>") is None
    )  # an empty search is no act, and what follows none
    assert re.sub(exporting.tag_pattern(), r"‹\1›", "a </search> <b>") == "a ‹/search› <b>"
    assert read.match("[THINK]<search>a</search>[/THINK]<search>b</search>") is None
    assert read.match("<answer>a</answer><information>b</information>") is None


def test_the_pattern_of_a_turn_s_end_passes_over_thoughts():
    end = re.compile(exporting.end_pattern(("</a>", "<information>")))
    assert end.match("<think>x</a></think>y</a>z</a>")[0] == "<think>x</a></think>y</a>"
    assert end.match("<think>x</a>") is None and end.match("<think>x</think>") is None
    assert end.match("a <information> b")[0] == "a <information>"


@given(transcripts)
def test_the_pattern_of_a_turn_s_end_ends_where_decoding_does(text):
    """Each byte a token: what decoding takes is what the pattern matches, and near-tags stop neither."""
    stop = dialect.turn_ends(("</search>", "</answer>"))
    live, found = EpisodeState(0, 0), re.match(exporting.end_pattern(stop), text)
    live.show([], Say("", stop=stop))
    taken = live.take(written := list(text.encode()), [0.0] * len(written), [bytes([at]) for at in range(256)], ())
    assert live.complete == (found is not None)
    assert bytes(written[:taken]).decode() == (found[0] if found else text)


def test_a_card_s_fence_cannot_be_closed_by_a_prompt():
    assert model_card._fenced("a\n```\nb") == "````text\na\n```\nb\n````"
