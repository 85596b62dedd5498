"""A step in numbers: what it got of the most that the devices can do, by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from qr_jax.cli.overrides import override
from qr_jax.config import Config, Learner
from qr_jax.learner import pack
from qr_jax.logging import metrics
from qr_jax.models import costs, families
from qr_jax.parallel import peaks
from qr_jax.records import Episode, Query, grades
from qr_jax.rollout.live import Statistics
from qr_jax.step import grading, log

CFG = families.PRESETS["two_layer"]
CLOCK = (10.0, 14.0, 14.5, 16.5)  # start, rolled out, settled, learned


def episode(tokens: int, sampled: int) -> Episode:
    mask_L = np.arange(tokens) >= tokens - sampled
    return Episode(
        Query("q", "?", ("a",)), 0, 0, np.ones(tokens, np.int32), mask_L, np.zeros(tokens, np.float32),
        np.where(mask_L, 0, -1).astype(np.int32), (), None, "answered", True,
    )  # fmt: skip


def batch_of(*episodes: Episode) -> pack.Batch:
    ones = np.ones((1, len(episodes)))
    return pack.pack([episodes], grades(ones, ones > 0), rows=2, row_tokens=16, queries=1, samples=len(episodes))


def speed(batch, statistics, forwards=0, episodes=()):
    tokens = sum(len(episode.ids_L) for episode in episodes)
    return log.speed(Config(), CFG, tokens, batch, forwards, log.StepTimings(statistics, statistics, CLOCK))


def test_times_and_rates_by_hand():
    statistics = Statistics(tokens=100, decode_s=1.5, append_s=0.25, search_s=0.75, search_wait_s=0.125)
    assert log.times(log.StepTimings(statistics, statistics, CLOCK, 4, 1.25), 13, [{"tokens": 30}, {"tokens": 20}]) == {
        "time/step_s": 6.5,
        "time/rollout_s": 4.0,
        "time/decode_s": 1.5,
        "time/prefill_s": 0.25,
        "time/search_s": 0.75,
        "time/search_wait_s": 0.125,
        "time/settle_s": 0.5,
        "time/learner_s": 2.0,
        "time/compile_s": 1.25,
        "perf/tokens_per_s": 25.0,
        "perf/learner_tokens_per_s": 25.0,
        "perf/rollouts_per_s": 2.0,
        "perf/compiles": 4,
    }
    played = log.StepTimings(statistics, statistics, CLOCK, 4, 1.25, lag=1, played_s=0.0)
    assert log.times(played, 13, [])["perf/tokens_per_s"] is None  # before a stop: nobody knows in how many seconds


def test_an_update_s_figures_are_of_its_own_seconds_where_the_next_step_is_played_beside_it(monkeypatch):
    """By hand: of 2 s after settling the update took .5, and its tokens a second are of these."""
    statistics, alone = Statistics(), log.StepTimings(Statistics(), Statistics(), CLOCK)
    timings = log.StepTimings(statistics, statistics, CLOCK, ahead_s=1.9, beside_s=1.5)
    row = log.times(timings, 13, [{"tokens": 20}])
    assert (row["time/learner_s"], row["time/beside_s"], row["time/ahead_s"]) == (0.5, 1.5, 1.9)
    assert row["perf/learner_tokens_per_s"] == 40.0
    batch = batch_of(episode(3, 2))
    shares = [log.speed(Config(), CFG, 26, batch, 0, of)["perf/mfu"] for of in (alone, timings)]
    assert shares[1] == pytest.approx(4 * shares[0])


def test_shares_by_hand(monkeypatch):
    """The model of tests/test_costs.py on two devices of 1,000 operations and 100 bytes a second."""
    cfg = families.ModelConfig(10, 8, 2, 2, 1, 4, 16, context_tokens=64)
    monkeypatch.setattr(log.peaks, "of", lambda compute: peaks.Peak(1000.0, 100.0, measured=False))
    monkeypatch.setattr(log.peaks, "devices", lambda mesh: 2)
    statistics = Statistics(decode_steps=3, cache_positions=50, decode_s=4.0)
    timings = log.StepTimings(statistics, statistics, CLOCK)
    row = log.speed(Config(), cfg, 26, batch_of(episode(3, 2)), 0, timings)
    assert row["perf/step_tokens_per_s"] == 2.0  # 26 tokens in 6.5 s on 2
    flops = 3 * (2 * 1152 * 3 + 4 * 2 * 2 * 4 * 6 + 2 * 10 * 8 * 2)  # 3 tokens, 6 pairs, 2 predicted
    assert row["perf/mfu"] == pytest.approx(flops / 2.0 / 2000)
    assert row["perf/decode_bandwidth"] == pytest.approx(4 * (3 * 1272 + 50 * 2 * 2 * 4) / 4.0 / 100)


def test_the_learners_share_counts_packed_tokens_and_no_padding():
    episodes = episode(7, 3), episode(4, 2)
    row = speed(batch_of(*episodes), Statistics(), episodes=episodes)
    flops = costs.training_flops(CFG, tokens=11, pairs=28 + 10, predicted=5)
    assert row["perf/mfu"] == pytest.approx(flops / 2.0 / peaks.of("float32").flops_a_s)
    assert row["perf/step_tokens_per_s"] == pytest.approx(11 / 6.5)
    assert "perf/decode_bandwidth" not in row


def test_a_pass_for_the_old_policy_and_one_for_the_reference_are_work_too():
    plain = speed(batch_of(episode(7, 3)), Statistics())["perf/mfu"]
    assert speed(batch_of(episode(7, 3)), Statistics(), forwards=2)["perf/mfu"] == pytest.approx(plain * 5 / 3)


def test_decoding_is_held_against_what_it_has_to_read():
    row = speed(None, Statistics(decode_steps=8, cache_positions=400, decode_s=0.5))
    read = costs.decoding_bytes(CFG, steps=8, positions=400, item_bytes=4)
    assert row["perf/decode_bandwidth"] == pytest.approx(read / 0.5 / peaks.of("float32").bytes_a_s)
    assert "perf/mfu" not in row and row["perf/peak_memory_gib"] > 0


def test_every_name_is_a_listed_metric():
    row = speed(batch_of(episode(7, 3)), Statistics(decode_steps=8, decode_s=0.5))
    assert len(row) == 4 and all(metrics.about(name) for name in row)


@pytest.mark.parametrize(
    ("importance", "lag", "gap", "told"),
    [
        ("off", 0, 0.2, "or set learner.importance=truncate"),
        ("truncate", 0, 0.2, "a higher learner.gap_alarm keeps this line away"),
        ("off", 1, 0.2, None),
        ("off", 0, 0.1, None),
        ("off", 0, None, None),
    ],
)
@pytest.mark.parametrize("overlap", [0, 1])
def test_a_gap_between_sampler_and_learner_is_told_with_what_is_not_set_yet(importance, lag, gap, told, overlap):
    settings = override(Config(), [f"learner.importance={importance}", f"train.overlap={overlap}"])
    said = log.gap_alarm(settings, {"sampler_gap/mean": gap}, lag)
    assert (said is None) if told is None else (told in said and "0.200 nats" in said)


def group_of(index: int, samples: int) -> grading.Group:
    episodes = tuple(episode(3, 2) for _ in range(samples))
    ones = np.ones((1, samples))
    return grading.Group(index, 0, episodes, grades(ones, ones > 0, ones), grading.spent(episodes))


def told_of(kept, trained, advantage):
    """A step whose `kept` groups and, before them, earlier ones were trained with these advantages; None: they wait."""
    batch = SimpleNamespace(grades=SimpleNamespace(valid_QG=np.zeros((4, 2))))
    metrics = [{"advantage": advantage}] if advantage is not None else []
    updated = log.UpdateResult(batch if metrics else None, metrics, trained)
    return SimpleNamespace(kept=kept, updated=updated)


def test_episodes_are_told_with_the_advantage_they_were_trained_with():
    earlier, new = group_of(7, 2), group_of(3, 2)
    adv_QG = np.array([[9.0, -9.0], [0.25, -0.25], [0, 0], [0, 0]], np.float32)
    assert log.advantages_of(told_of([new], [earlier, new], adv_QG)) == {3: [0.25, -0.25]}
    adv_QGT = np.stack([adv_QG, 2 * adv_QG, 0 * adv_QG], axis=2)
    assert log.advantages_of(told_of([new], [earlier, new], adv_QGT)) == {3: [[0.25], [-0.25]]}  # each has one turn
    adv_NL = np.zeros((8, 16), np.float32)
    adv_NL[2, 1:3] = 1.0, 2.0  # of query 1 sample 0: its two sampled tokens, of one turn
    assert log.advantages_of(told_of([new], [earlier, new], adv_NL)) == {3: [[1.5], [0.0]]}
    assert log.advantages_of(told_of([new], [], None)) == {3: [None, None]}


def test_an_advantage_that_is_not_finite_is_refused_by_name_but_in_padding():
    batch = SimpleNamespace(grades=SimpleNamespace(valid_QG=np.zeros((4, 2))))
    parts = SimpleNamespace(settings=Config())
    adv_QG = np.array([[1.0, -1.0], [0.0, np.nan], [np.nan, 0], [0, 0]], np.float32)
    log.check_advantage(parts, batch, [group_of(7, 2)], [{"advantage": adv_QG}])
    with pytest.raises(ValueError, match="advantage 'grpo' gave nan for sample 1 of query 'q'; wanted a finite number"):
        log.check_advantage(parts, batch, [group_of(7, 2), group_of(3, 2)], [{"advantage": adv_QG}])
    adv_NL = np.zeros((8, 16), np.float32)
    adv_NL[0, 0] = adv_NL[0, 9] = np.inf  # a prompt's token, and behind the end
    log.check_advantage(parts, batch, [group_of(7, 2)], [{"advantage": adv_NL}])
    adv_NL[1, 1] = np.inf
    with pytest.raises(ValueError, match="gave inf for sample 1"):
        log.check_advantage(parts, batch, [group_of(7, 2)], [{"advantage": adv_NL}])


def test_an_advantage_with_fewer_turns_than_an_episode_has_is_refused():
    batch, group = SimpleNamespace(grades=SimpleNamespace(valid_QG=np.zeros((4, 2)))), group_of(7, 2)
    longer = replace(group.episodes[0], turn_L=np.where(group.episodes[0].turn_L < 0, -1, 2))
    group = replace(group, episodes=(longer, *group.episodes[1:]))
    parts, adv_QGT = SimpleNamespace(settings=Config()), np.zeros((4, 2, 3), np.float32)
    log.check_advantage(parts, batch, [group], [{"advantage": adv_QGT}])
    with pytest.raises(ValueError, match="'grpo' gave 2 turns, and sample 0 of query 'q' has 3; wanted one for each"):
        log.check_advantage(parts, batch, [group], [{"advantage": adv_QGT[..., :2]}])


def test_what_could_not_be_graded_is_told_by_the_first_of_it():
    whole, lost = group_of(1, 2), group_of(2, 2)
    fault = replace(lost.spent, invalid=1, ungraded=1, fault="reward 'mine' gave nan")
    (line,) = log.fault_alarms([whole, replace(lost, spent=fault)])
    assert line.startswith("1 of 4 episodes are faults of grading") and line.endswith("reward 'mine' gave nan")
    assert log.fault_alarms([whole]) == [] and log.fault_alarms([]) == []
    (line,) = log.fault_alarms([replace(lost, spent=replace(fault, invalid=2, ungraded=0, fault="it is down"))])
    assert line == "every episode is a fault, the first by: it is down; nothing is learned until that is mended"


def test_an_update_without_a_gradient_is_told_with_its_loss_and_its_advantage():
    row = {"learner/grad_norm": 0.0, "learner/nonfinite": 0}
    line = log.update_alarm(Config(), row)
    assert line.startswith("the gradient is 0, so nothing is learned: advantage 'grpo' gave 0")
    assert "loss 'clip' does not depend on the policy's log-probabilities" in line
    assert log.update_alarm(Config(), row | {"learner/grad_norm": 1e-9}) is None
    assert log.update_alarm(Config(), {}) is None  # nothing was learned from


def test_a_batch_of_few_micro_batches_makes_fewer_updates_and_that_is_said():
    four = replace(Config(), learner=Learner(updates=4, rows=2, row_tokens=96))
    line = log.parts_alarm(four, {"learner/micro_batches": 3})
    assert line.startswith("learner.updates=4 made 3: the batch fills 3 micro-batches of 2 rows of 96 tokens")
    assert [log.parts_alarm(four, {"learner/micro_batches": made}) for made in (0, 4, 5)] == [None] * 3
    assert log.parts_alarm(Config(), {"learner/micro_batches": 1}) is None
