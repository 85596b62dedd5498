"""The methods' example configs: each is right and traces, each takes two steps, and no loss or advantage lacks one."""

import contextlib
import json
import re
import runpy
from dataclasses import replace
from pathlib import Path

import judge_server
import numpy as np
import pytest
from killed_run import tiny
from test_learner import CFG, MODEL, groups

from qr_jax import assemble, config, plugins, sft
from qr_jax.cli.overrides import override
from qr_jax.config import use
from qr_jax.interfaces import CONTRACTS
from qr_jax.learner import learner
from qr_jax.learner.pack import pack
from qr_jax.logging import metrics_writer
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Scores, Turn, grades
from qr_jax.settings import checks
from qr_jax.step import grading
from qr_jax.train import train
from tests.around.test_noisy_search import engine

FILE = runpy.run_path(str(Path(__file__).parents[1] / "configs" / "methods.py"))
METHODS = {name: FILE[name] for name in FILE["METHODS"]}
WORDS = FILE["METHODS"] | FILE["NOT_SCREENED"]
TURNS = 4


def odd_ids(query, episodes):
    """For those of answers, which the two-layer model never gives: 1 where an episode's last id is odd, and by turn."""
    odd_G = np.array([int(episode.ids_L[-1]) % 2 for episode in episodes], float)
    return Scores(odd_G, odd_G, [np.arange(episode.model_turns) / 9 for episode in episodes])


@pytest.mark.parametrize("name", WORDS)
def test_a_method_s_config_is_right(name):
    assert checks.problems(FILE[name]) == []


@pytest.mark.house
def test_every_loss_and_advantage_has_an_example_and_no_two_are_alike():
    used = {kind: {getattr(each.learner, kind).name for each in METHODS.values()} for kind in ("loss", "advantage")}
    assert used["loss"] == set(plugins.names("loss")) - {"nll"}  # the cold start's
    assert used["advantage"] == set(plugins.names("advantage"))
    assert len({config.fingerprint(FILE[name]) for name in WORDS}) == len(WORDS)


# The paper's own rules and those it is compared with, whose docstrings have their papers; and what is of no paper.
OF_NO_NEIGHBOUR = {
    "tool": {"calculator", "mcp", "open_page", "search"},
    "rule": {"foresee", "grpo", "recycle", "soft_recycle"},
    "rounds": {"once", "refill"},
    "env": {"search_r1", "several_tools", "tool_call"},
    "retriever": {"bm25", "cached", "dense", "http", "hybrid", "mcp", "none", "reranked", "serper", "sharded"},
    "reward": {"exact_match", "f1"},
    "advantage": set(),
    "loss": {"nll"},
}


@pytest.mark.house
@pytest.mark.parametrize("kind", CONTRACTS)
def test_each_neighbour_s_docstring_says_where_its_formula_is_from(kind):
    texts = {name: plugins.find(kind, name).__doc__ or "" for name in plugins.names(kind)}
    marks = ("exact: ", "after the abstract: ", "own: ")
    unsaid = {name for name, text in texts.items() if not any(mark in text for mark in marks)}
    assert unsaid == OF_NO_NEIGHBOUR[kind]


@pytest.mark.thorough
@pytest.mark.parametrize("name", METHODS)
def test_a_method_s_update_can_be_traced(name):
    """By shapes alone: all that the learner would compile is built, and nothing is."""
    settings = replace(METHODS[name].learner, rows=8, row_tokens=48)
    episodes, graded = groups()
    turn_QGT = np.zeros((*graded.reward_QG.shape, 2))
    graded = grades(graded.reward_QG, graded.valid_QG, None, turn_QGT, np.ones(turn_QGT.shape, bool))
    batch = pack(episodes, graded, rows=8, row_tokens=48, queries=8, samples=4)
    batch = replace(batch, gold_logp_NT=np.zeros((32, 8), np.float32))
    bound = learner.make(CFG, MODEL, settings, meshes.make_mesh(config.Mesh(devices=1)))
    old = (batch.rollout_logp_MEL,) if settings.updates > 1 else ()
    state, metrics = bound.train_step.jitted.eval_shape(bound.abstract, batch, np.float32(1e-3), *old)
    assert metrics["loss"].shape == () and state.updates.shape == ()


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    """Settings of the data: 200 documents, and an expert's traces of their own world."""
    world = {"documents": 200, "train": 40, "dev": 8, "traces": 20}
    return {"world": world, "trace_worlds": 0, "world_path": str(tmp_path_factory.mktemp("worlds"))}


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].reward.name != "exact_match"])
def test_an_expert_earns_more_than_who_answers_wrong_and_who_does_not_answer(name, small_world):
    """By the config's own environment, words and reward, as a step grades a group; all three have a grade."""
    settings = METHODS[name]
    settings = replace(settings, data=replace(settings.data, **small_world), sft=replace(settings.sft, limit=1))
    (expert,) = sft.demonstrations(settings, assemble.agent(settings), assemble.searcher(settings), lambda line: None)
    last = Turn("model", assemble.expert_turn(settings)("", (), "nobody"))
    wrong = replace(expert, sample=1, turns=(*expert.turns[:-1], last), answer="nobody")
    silent = replace(expert, sample=2, turns=expert.turns[:-1], answer=None, stop="turns")
    reward = plugins.bind("reward", settings.reward)
    graded = grading.grade(reward, settings.reward.name, 0, 0, expert.query, [expert, wrong, silent]).grades
    assert graded.valid_QG.all() and graded.outcome_QG.tolist() == [[1, 0, 0]]
    assert graded.reward_QG[0, 0] > graded.reward_QG[0, 1:].max()


@contextlib.contextmanager
def served(name, folder):
    """Within, the server that the method asks is there; yields the settings that name it."""
    with contextlib.ExitStack() as stack:
        if name == "zero_search":
            url, _ = stack.enter_context(engine(lambda text: "Doc 1: it is a city\nDoc 2: it is a river"))
            yield [f"retriever.url={url}"]
        elif name == "judge":
            url, _ = stack.enter_context(judge_server.serving())
            yield [f"reward.url={url}", f"reward.cache={folder / 'verdicts.jsonl'}"]
        else:
            yield []


@pytest.mark.slow
@pytest.mark.parametrize("name", WORDS)
def test_a_method_takes_two_steps(name, tmp_path):
    with served(name, tmp_path) as more:
        _take_two_steps(name, tmp_path, more)


def _take_two_steps(name, tmp_path, more):
    of_reward = name in plugins.names("reward")
    words = [word for word in WORDS[name] if of_reward or not word.startswith("reward")]
    small = ["pool.queries=4", "pool.samples=4", "learner.warmup_updates=0"]
    base = override(tiny(tmp_path), [*FILE["BASE"], *words, *small, *more])
    base = base if of_reward else replace(base, reward=use("test_methods.odd_ids"))
    settings = replace(
        base,
        sft=replace(base.sft, steps=0),
        evaluation=replace(base.evaluation, questions=2),
        train=replace(base.train, steps=2),
    )
    train(settings, tmp_path / "run", say=lambda line: None)
    rows = metrics_writer.read(tmp_path / "run")
    losses = [row["learner/loss"] for row in rows if row["learner/loss"] is not None]
    assert len(rows) == 2 and np.isfinite(losses).all()
    assert losses or of_reward  # answers that never come are all alike, so that only their grades are looked at
    draws = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert {draw["step"] for draw in draws} == {1, 2}
    for draw in draws:  # a reward that fails makes faults, whose rewards are null
        assert draw["valid"] == len(draw["rewards"]) >= base.pool.samples and np.isfinite(draw["rewards"]).all(), draw
    assert all(row["learner/skipped"] == 0 for row in rows)


@pytest.mark.parametrize(
    ("kind", "name", "setting", "wrong"),
    [
        ("rule", "retire", "review", 2.0),
        ("rule", "retire", "at", 0.0),
        ("rule", "greso", "floor", 0.0),
        ("rule", "remind", "every", 0),
        ("rule", "vcrl", "kappa", 1.5),
        ("rule", "mopps", "prior", (0.0, 1.0)),
        ("rule", "search_gym", "steps", -1),
        ("rule", "foresee_learnable", "spread", 0.0),
        ("rounds", "speed", "further", 0),
        ("rounds", "reinforce_ada", "keep", 1),
        ("reward", "ai_search_planner", "cost", -1.0),
        ("reward", "ada_search", "knows", 1.5),
        ("reward", "ada_search", "knows", 0.0),
        ("loss", "gspo", "low", 2.0),
        ("loss", "cispo", "high", -1.0),
        ("loss", "sapo", "tau_negative", 0.0),
    ],
)
def test_a_setting_out_of_its_bounds_is_refused(kind, name, setting, wrong):
    with pytest.raises(ValueError, match=re.escape(f"{kind} {name!r}: {setting} is {wrong}; wanted ")):
        plugins.check(kind, use(name, **{setting: wrong}))
