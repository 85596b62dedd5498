"""Plug-ins as a fork writes them, through whole runs: adaptive rounds, turn rewards, entropies, golds; bad ones."""

import json
from dataclasses import replace
from pathlib import Path

import fork_plugins
import numpy as np
import pytest
from killed_run import tiny

from qr_jax import assemble
from qr_jax.config import use
from qr_jax.logging import metrics_writer
from qr_jax.train import train


def config_of(folder, **changes):
    """Two steps without a cold start, of plug-ins in fork_plugins.py."""
    settings = tiny(folder)
    rounds, reward, advantage = (
        use(f"fork_plugins.{changes[kind]}") if kind in changes else None for kind in ("rounds", "reward", "advantage")
    )
    pool = replace(settings.pool, min_signal=1, rounds=rounds or settings.pool.rounds)
    learner = replace(settings.learner, advantage=advantage or settings.learner.advantage)
    return replace(
        settings,
        sft=replace(settings.sft, steps=0),
        pool=replace(pool, samples=2),
        reward=reward or settings.reward,
        learner=learner,
        evaluation=replace(settings.evaluation, questions=2),
        train=replace(settings.train, steps=2),
    )


def test_adaptive_rounds_turn_rewards_entropies_and_golds_train_and_are_told(tmp_path):
    said: list[str] = []
    fork_plugins.GRADED.clear()
    settings = config_of(tmp_path, rounds="undecided", reward="by_turn", advantage="everything")
    train(settings, tmp_path / "run", say=said.append)
    draws = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    grown = [draw for draw in draws if len(draw["rewards"]) == 4]
    assert grown and {len(draw["rewards"]) for draw in draws} == {2, 4}
    graded = len(draws) + len(grown)  # each group once, and again only where it grew
    assert len(fork_plugins.GRADED) == 1 + graded  # and a made group, before anything was trained
    sizes = {samples for _, samples in fork_plugins.GRADED}
    assert sizes == {(0, 1), (0, 1, 2, 3)}  # further samples are new ones, and stand behind the first
    assert any("report.html" in line for line in said) and not any("no null" in line for line in said)
    rows = metrics_writer.read(tmp_path / "run")
    assert [row["budget/rollouts"] for row in rows][-1] == sum(len(draw["rewards"]) for draw in draws)
    updated = [row for row in rows if row["learner/loss"] is not None]
    assert updated and all(np.isfinite(row["learner/grad_norm"]) and row["learner/grad_norm"] > 0 for row in updated)
    first = rows.index(updated[0])
    assert not any(row["perf/compiles"] for row in rows[first + 1 :])  # groups of both sizes run one program
    episodes = [
        json.loads(line)
        for path in sorted((tmp_path / "run" / "episodes").iterdir())
        for line in path.read_text().splitlines()
    ]
    trained = [episode["advantage"] for episode in episodes if episode["accepted"]]
    assert trained and all(len(values) == len([t for t in e["turns"] if t["author"] == "model"])
                           for values, e in zip(trained, [e for e in episodes if e["accepted"]]))  # fmt: skip


def test_a_reward_without_a_number_is_a_fault_by_name_and_not_a_zero(tmp_path):
    said: list[str] = []
    train(config_of(tmp_path, reward="sometimes_lost"), tmp_path / "run", say=said.append)
    draws = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert all(draw["rewards"][0] is None and draw["valid"] == 1 and draw["verdict"] == "fault" for draw in draws)
    told = [line for line in said if "faults of grading" in line]
    assert "reward 'fork_plugins.sometimes_lost' gave nan for sample 0 of query" in told[0]
    rows = metrics_writer.read(tmp_path / "run")
    assert all(row["rollout/faults"] == row["pool/drawn"] and row["learner/loss"] is None for row in rows)
    for row in rows:
        known = [draw["rewards"][1] for draw in draws if draw["step"] == row["step"]]
        assert row["reward/mean"] == pytest.approx(np.mean(known)) and any(known)
    (first, *_) = (tmp_path / "run" / "episodes").iterdir()
    lost = [episode for episode in map(json.loads, first.read_text().splitlines()) if episode["sample"] == 0]
    assert all(episode["reward"] is None and "gave nan" in episode["fault"] for episode in lost)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (
            "always_lost",
            r"no episode of the first step could be graded .* 'fork_plugins.always_lost' gave nan for sample 0",
        ),
        ("of_one", r"reward 'fork_plugins.of_one' returned scores that are an array of float64 of shape \(1,\), not"),
    ],
)
def test_a_reward_that_is_never_right_ends_the_run_at_its_first_step(tmp_path, reward, words):
    with pytest.raises(ValueError, match=words):
        train(config_of(tmp_path, reward=reward), tmp_path / "run", say=lambda text: None)
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"reward": "by_turn_undeclared"},
            r"'nan_loss.by_turn_undeclared' gave rewards of turns.* write MAX_TURNS = 8",
        ),
        ({"advantage": "lost"}, r"advantage 'nan_loss.lost' gave nan for sample \d of query"),
    ],
)
def test_what_the_run_itself_refuses_of_a_plug_in(tmp_path, changes, words):
    settings = config_of(tmp_path)
    named = {kind: use(f"nan_loss.{name}") for kind, name in changes.items()}
    learner = replace(settings.learner, advantage=named.get("advantage", settings.learner.advantage))
    with pytest.raises(ValueError, match=words):
        train(
            replace(settings, reward=named.get("reward", settings.reward), learner=learner),
            tmp_path / "run",
            say=lambda text: None,
        )
    if "reward" in changes:
        assert not (tmp_path / "run" / "sft").exists(), "it was found before the cold start"


@pytest.mark.thorough
def test_the_docs_environment_of_another_dialect_trains_from_a_cold_start(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs/extending/environment.md").read_text(encoding="utf-8")
    (tmp_path / "my_env.py").write_text(page.split("`my_env.py`:\n\n```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = tiny(tmp_path)
    said: list[str] = []
    settings = replace(settings, env=use("my_env.my_env", max_turns=4), train=replace(settings.train, steps=1))
    train(settings, tmp_path / "run", say=said.append)
    assert "cold start: 20 expert traces" in said
    words = assemble.agent(settings).tokenizer
    assert len({*words.encode("<look> </look> <say> </say>"), 2}) == 5  # words of their own, none of them unknown (2)
    episodes = (tmp_path / "run" / "episodes" / "step_000001.jsonl").read_text()
    assert json.loads(episodes.splitlines()[0])["turns"][0]["author"] == "model"


@pytest.mark.thorough
def test_the_example_of_two_tools_trains_from_traces_that_use_both(tmp_path, monkeypatch):
    """Its tags are words of the world in part; the second tool is answered by Say."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    turns = ["<search> eskburg </search>", "<calc> 3 + 4 </calc>", "<answer> 7 </answer>"]
    rows = [
        {"id": f"t{n}", "question": "who is the mayor of eskburg ?", "answers": ["7"], "turns": turns} for n in range(4)
    ]
    rows[1]["turns"] = [turns[0], "3 + 4 </calc>", turns[2]]  # no call of a tool
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings, said = tiny(tmp_path), []
    settings = replace(
        settings, env=use("two_tools.two_tools"), train=replace(settings.train, steps=1),
        data=replace(settings.data, traces=str(tmp_path / "traces.jsonl")),
    )  # fmt: skip
    train(settings, tmp_path / "run", say=said.append)
    assert "cold start: 3 expert traces; 1 left out: a turn without an action (first 't1')" in said
    words = assemble.agent(settings).tokenizer
    assert len(words.words) == len(set(words.words)) and words.encode("<calc> </calc> + 7") == list(
        range(words.size - 4, words.size)
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("loss", "scalar_loss", r"loss 'nan_loss.scalar_loss' returned the loss as an array of float32 of shape \(\)"),
        ("advantage", "of_queries", r"advantage 'nan_loss.of_queries' returned an array of float32 of shape \(4,\)"),
        ("rule", "weights_alone", r"rule 'nan_loss.weights_alone' returned an array of float64 of shape \(40,\)"),
        ("rounds", "a_number", r"rounds 'nan_loss.a_number' returned 3 \(int\)"),
        (
            "reward",
            "of_one",
            r"reward 'fork_plugins.of_one' returned scores that are an array of float64 of shape \(1,\)",
        ),
        (
            "retriever",
            "empty_handed",
            r"retriever 'nan_loss.empty_handed' returned a list of 0 for 1 queries; wanted a list",
        ),
    ],
)
def test_what_a_plug_in_returns_is_seen_before_the_cold_start(tmp_path, kind, name, words):
    settings = config_of(tmp_path, **{kind: name} if kind == "reward" else {})
    named = use(f"nan_loss.{name}")
    changed = {
        "loss": {"learner": replace(settings.learner, loss=named)},
        "advantage": {"learner": replace(settings.learner, advantage=named)},
        "rule": {"pool": replace(settings.pool, rule=named)},
        "rounds": {"pool": replace(settings.pool, rounds=named)},
        "retriever": {"retriever": named},
    }.get(kind, {})
    settings = replace(settings, sft=replace(settings.sft, steps=5), **changed)
    with pytest.raises(ValueError, match=words):
        train(settings, tmp_path / "run", say=lambda _: None)
    assert not list((tmp_path / "run").glob("sft/checkpoints/*"))
