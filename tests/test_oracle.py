"""The outcome oracle, the pass rates a run shows, and the null control: what chance alone makes, and what moved."""

import json
import shutil
from contextlib import closing

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import null_worlds
from qr_jax import config
from qr_jax.config import use
from qr_jax.lab import null_control, oracle, pass_rates, rate_bounds
from qr_jax.lab.differences import over_seeds
from qr_jax.logging import metrics_writer
from qr_jax.pool import pool as pools
from qr_jax.pool.noise import uniforms
from qr_jax.run import checkpoint, runs

SMALL = {"size": 2000, "rollouts": 16_896}  # a fifth of the paper's pool and budget: the same number of passes


def small(rule="recycle", **settings):
    return oracle.sampler(rule, **{"rollouts": SMALL["rollouts"]} | settings)


def played(rates, seed, of=None, size=2000):
    return oracle.play(of or small(), pass_rates.world(rates, size, seed=seed), size=size, seed=seed)


# Static pass rates, K, k -> zero-variance rate in the first and the last tenth, groups a step, recycled share, hard,
# easy, flipped; simulated before and apart from this code, 10,000 queries and 84,480 rollouts, means of 5 seeds.
TABLE = {
    ("beta:0.35,0.35", 4, 2): (0.64, 0.85, 9.5, 0.73, 0.37, 0.36, 0.18),
    ("beta:0.6,0.6", 4, 2): (0.51, 0.81, 12.2, 0.80, 0.41, 0.39, 0.26),
    ("beta:0.3,0.6", 4, 2): (0.63, 0.85, 9.4, 0.74, 0.48, 0.26, 0.18),
    ("beta:0.15,0.15", 4, 2): (0.80, 0.92, 5.1, 0.69, 0.35, 0.34, 0.10),
    ("uniform", 4, 2): (0.41, 0.77, 14.7, 0.89, 0.45, 0.44, 0.32),
    ("beta:0.35,0.35", 8, 1): (0.50, 0.68, 10.4, 0.29, 0.15, 0.14, 0.07),
}


@pytest.mark.parametrize(("rates", "samples", "oversample"), TABLE)
def test_a_policy_that_never_changes_recycles_and_flips(rates, samples, oversample):
    """Within four standard errors of the last tenth's few groups (6 steps x 4 seeds), and of the table's rounding."""
    found = oracle.study(rates, ["recycle"], **SMALL, seeds=4, samples=samples, oversample=oversample)["recycle"]
    first, last, groups, recycled, hard, easy, flipped = TABLE[rates, samples, oversample]
    share = 4 * 0.5 / np.sqrt(24 * groups) + 0.005
    assert found["zero_variance_first"] == pytest.approx(first, abs=0.05)
    assert found["zero_variance_last"] == pytest.approx(last, abs=0.05)
    assert found["accepted_last"] == pytest.approx(groups, abs=4 * np.sqrt(groups / 24) + 0.05)
    assert found["recycled_share_last"] == pytest.approx(recycled, abs=share)
    assert found["ex_hard_last"] == pytest.approx(hard, abs=share)
    assert found["ex_easy_last"] == pytest.approx(easy, abs=share)
    assert found["flipped"] == pytest.approx(flipped, abs=0.025)
    assert found["ex_hard_moved_last"] == found["ex_easy_moved_last"] == 0


def test_more_signal_is_no_advantage_of_recycling():
    """On a static pool a single pass with resets finds more signal groups at equal rollouts: 7,824 against 5,336."""
    found = oracle.study("beta:0.35,0.35", ["recycle", "bounded_dapo"], **SMALL, seeds=2)
    assert found["recycle"]["signal_groups"] == pytest.approx(5336 / 5, rel=0.06)
    assert found["bounded_dapo"]["signal_groups"] == pytest.approx(7824 / 5, rel=0.06)


def test_every_rule_runs_to_its_budget_and_repeats_itself():
    rules = oracle.rules("all")
    assert {"recycle", "greso", "mopps", "difficulty_pools", "foresee", "dapo"} <= set(rules)
    studies = [oracle.study("uniform", rules, size=200, rollouts=2000, seeds=1, queries=8) for _ in range(2)]
    assert studies[0] == studies[1]
    for rule, one in studies[0].items():
        assert 2000 <= one["rollouts"] < 2000 + 10 * 64, rule
        assert 0 < one["accepted_groups"] <= one["signal_groups"], rule
    assert oracle.rules("grpo,dapo") == ["grpo", "dapo"]
    assert "foresee" in oracle.format_table(studies[0])
    assert oracle.format_table(studies[0]).count("\ndapo is rule=bounded_dapo with rounds=refill\n") == 1
    assert "dapo is" not in oracle.format_table({"grpo": studies[0]["grpo"]})


def test_dapo_fills_its_batch_at_the_price_of_rollouts_and_never_raises():
    run = played("beta:0.35,0.35", 0, small("dapo", oversample=1))
    assert all(row["pool/accepted"] == 32 for row in run.rows[:10])
    assert len(run.rows) < len(played("beta:0.35,0.35", 0, small("bounded_dapo", oversample=1)).rows)
    dead = oracle.play(small("dapo", rollouts=3000), lambda done, drawn_Q, *_: np.zeros(len(drawn_Q)), size=300, seed=0)
    assert sum(row["pool/accepted"] for row in dead.rows) == 0 and dead.rows[-1]["pool/epoch"] > 0


def test_a_budget_spent_to_the_last_rollout_ends_the_run():
    run = played("uniform", 0, small(rollouts=2 * 256, queries=32))
    assert [row["pool/rollouts"] for row in run.rows] == [256, 256]  # 2 x 32 queries of 4 samples


def test_means_over_seeds_by_hand():
    assert over_seeds([1.0, 3.0]) == {"mean": 2.0, "sd": pytest.approx(2**0.5), "values": [1.0, 3.0]}
    assert over_seeds([None, 2.0]) == {"mean": 2.0, "sd": None, "values": [None, 2.0]}
    assert over_seeds([None]) == {"mean": None, "sd": None, "values": [None]}


def test_a_pool_that_stops_when_used_up_is_passed_over_once():
    of = small("grpo", on_exhausted="stop", oversample=1)
    run = oracle.play(of, pass_rates.world("uniform", 100, seed=0), size=100, seed=0)
    assert sorted(run.draws.query_D.tolist()) == list(range(100)) and len(run.rows) == 4


def test_outcomes_belong_to_the_query_whatever_else_is_drawn():
    rate_Q = np.full(3, 0.5)
    some = oracle.roll(rate_Q, np.array([5, 2, 7]), 9, 4, seed=1, step=2)
    assert (some.reward_QG[1] == oracle.roll(rate_Q[:1], np.array([2]), 9, 4, seed=1, step=2).reward_QG[0]).all()
    assert (some.reward_QG == (uniforms(36, 91, 1, 2).reshape(9, 4)[[5, 2, 7]] < 0.5)).all()


def test_worlds_by_hand():
    """A shift of 3 over the budget multiplies the odds by e^3 in the end, and by e^1.5 half-way."""
    every, never = np.arange(50), np.zeros(50)
    still = pass_rates.world("beta:0.5,2", 50, seed=3)
    assert (still(0.0, every, never) == still(1.0, every, never + 9)).all()
    odds = {}
    for shape in pass_rates.MOVING:
        at = pass_rates.world(f"{shape}:0.5,2", 50, seed=3)
        assert at(0.0, every, never) == pytest.approx(still(0.0, every, never))
        odds[shape] = [rate / (1 - rate) for rate in (at(done, every, never + 9) for done in (0.0, 0.5, 1.0))]
    assert odds["improving"][2] / odds["improving"][0] == pytest.approx(np.full(50, np.exp(3)))
    assert odds["improving"][1] / odds["improving"][0] == pytest.approx(np.full(50, np.exp(1.5)))
    assert odds["drifting"][2] / odds["drifting"][0] == pytest.approx(np.full(50, np.exp(-3)))
    assert odds["flipping"][2] / odds["flipping"][0] == pytest.approx(np.exp(np.where(every % 2, 3.0, -3.0)))
    assert oracle.signal_chance(np.array([0.5, 0.0, 1.0]), 4).tolist() == [1 - 2 / 16, 0, 0]


def test_a_memorised_query_has_jumped_once_for_each_time_it_was_trained_on():
    every, trained = np.arange(4), np.array([0, 1, 2, 0])
    still = pass_rates.world("beta:0.5,2", 4, seed=3)(0.0, every, trained)
    rate = pass_rates.world("memorising:0.5,2,3,1.5", 4, seed=3)(0.5, every, trained)
    assert rate / (1 - rate) * (1 - still) / still == pytest.approx(np.exp(1.5 + 1.5 * trained))
    at = pass_rates.world("memorising:0.5,2,0,0", 4, seed=3)
    assert at(1.0, every, trained) == pytest.approx(still)


def test_recycling_finds_more_signal_than_grpo_only_where_training_on_a_query_settles_it():
    """Four passes over a pool: what was trained on is then all right for good, or as undecided as before."""

    def signal(rule, jump):
        sampler = oracle.sampler(rule, queries=16, samples=4, oversample=1, rollouts=4 * 4 * 256)
        world = pass_rates.world(f"memorising:0.35,0.35,2,{jump}", 256, seed=1)
        return oracle.summary(oracle.play(sampler, world, size=256, seed=1))["signal_groups"]

    assert signal("recycle", 0) < 0.8 * signal("grpo", 0)
    assert signal("recycle", 8) > 1.02 * signal("grpo", 8)


@pytest.mark.parametrize(
    "words", ["beta:0.35", "beta:0.35,-1", "beta:a,b", "uniform:1", "rising:1,1", "drifting:1,1,0", "memorising:1,1,0"]
)
def test_rates_that_mean_nothing_are_refused(words):
    with pytest.raises(ValueError, match="wanted beta:a,b, uniform, improving:a,b"):
        pass_rates.world(words, 10, seed=0)


def at_rate(rate):
    """All queries near this pass rate."""
    return np.eye(len(rate_bounds.RATE_A))[np.abs(rate_bounds.RATE_A - rate).argmin()]


def test_a_frozen_query_keeps_the_pass_rate_of_its_first_draw():
    spread = np.ones(len(rate_bounds.RATE_A)) / len(rate_bounds.RATE_A)
    stretches, kind_P = [[(0.0, spread), (0.5, at_rate(1.0))]], np.zeros(100, int)
    now = pass_rates.following(stretches, kind_P, seed=0)
    then = pass_rates.following(stretches, kind_P, seed=0, frozen=True)
    some, every, never = np.arange(40), np.arange(100), np.zeros(100)
    early = now(0.2, every, never)
    assert (then(0.2, some, never[:40]) == early[:40]).all() and np.ptp(early) > 0.9
    late = then(0.9, every, never)
    assert (late[:40] == early[:40]).all() and (late[40:] == 1.0).all()


def test_queries_follow_the_distribution_of_their_kind():
    kind_P = np.arange(100) % 2
    now = pass_rates.following([[(0.0, at_rate(0.0))], [(0.0, at_rate(1.0))]], kind_P, seed=0)
    assert (now(0.5, np.arange(100), np.zeros(100)) == kind_P).all()


def test_families_with_few_first_draws_are_one_kind_and_those_never_drawn_join_a_known_one():
    family_P = np.repeat([0, 1, 2, 3], [100, 100, 30, 10])
    drawn = np.r_[0:100, 100:200, 200:230]
    assert pass_rates._kinds(drawn, family_P).tolist() == np.repeat([0, 1, 2, 2], [100, 100, 30, 10]).tolist()
    assert pass_rates._kinds(drawn[:200], family_P).tolist() == np.repeat([0, 1, 0, 0], [100, 100, 30, 10]).tolist()
    assert (pass_rates._kinds(np.array([5]), family_P) == 0).all()


def excess(rates, seeds=3, null_seeds=2):
    """Means over runs: the last tenth's figures, less what their null controls have, and what truly moved."""
    found = []
    for seed in range(seeds):
        run = played(rates, 100 + seed)
        told = oracle.summary(run)
        chance = null_control.null(small(), run.draws, size=2000, seeds=null_seeds, points=4)["summary"]
        names = ("recycled_share_last", "flipped", "ex_hard_last", "ex_easy_last")
        found.append([told[name] for name in names] + [told[name] - chance[name]["mean"] for name in names])
        found[-1] += [told["ex_hard_moved_last"], told["ex_easy_moved_last"]]
    keys = ("recycled", "flipped", "hard", "easy", "recycled-", "flipped-", "hard-", "easy-", "hard!", "easy!")
    return dict(zip(keys, np.mean(found, axis=0).tolist(), strict=True))


@pytest.mark.thorough
def test_movement_shows_in_what_exceeds_the_null_and_not_in_the_shares():
    """Where rates rise, ex_hard exceeds its null by what rising rates truly made of it, and ex_easy falls short; where
    they fall, the other way round. The recycled share and the flips are nearly the same where nothing moves at all."""
    still, rising, falling = (excess(f"{shape}:0.35,0.35") for shape in ("beta", "improving", "drifting"))
    for one in (still, rising, falling):
        assert one["recycled"] == pytest.approx(0.79, abs=0.09) and one["flipped"] == pytest.approx(0.18, abs=0.02)
        assert one["hard-"] == pytest.approx(one["hard!"], abs=0.12)
        assert one["easy-"] == pytest.approx(one["easy!"], abs=0.12)
    assert still["hard!"] == still["easy!"] == 0 and still["hard"] > 0.3 and still["easy"] > 0.3
    assert rising["hard!"] > 0.15 and rising["easy!"] < -0.15
    assert falling["hard!"] < -0.15 and falling["easy!"] > 0.15
    assert rising["hard-"] > 0.15 and rising["easy-"] < -0.1
    assert falling["hard-"] < -0.1 and falling["easy-"] > 0.15


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run's folder as training leaves it, of a simulated run on 300 queries; and the simulated run."""
    folder = tmp_path_factory.mktemp("run")
    of = oracle.Sampler(queries=8, samples=4, oversample=2, rollouts=3200)
    run = oracle.play(of, pass_rates.world("beta:0.5,0.5", 300, seed=0), size=300, seed=0)
    settings = config.Config(pool=config.Pool(queries=8, samples=4, oversample=2))
    (folder / "config.json").write_text(json.dumps(config.to_json(settings)))
    at = spent = 0
    with closing(metrics_writer.Writer(folder, tensorboard=False)) as writer:
        for step, row in enumerate(run.rows, 1):
            spent += row["pool/rollouts"]
            writer.write(step, row | {"pool/size": 300, "budget/rollouts": spent})
            first, at = at, at + row["pool/drawn"]
            pairs = zip(run.draws.query_D[first:at].tolist(), run.draws.right_D[first:at].tolist(), strict=True)
            draws = [
                {"step": step, "index": query, "successes": right, "valid": 4,
                 "verdict": "signal" if 0 < right < 4 else "easy" if right else "hard"}
                for query, right in pairs
            ]  # fmt: skip
            with (folder / "ledger.jsonl").open("a") as ledger:
                ledger.writelines(json.dumps(draw) + "\n" for draw in draws)
    return folder, run


def test_a_runs_ledger_gives_its_draws(run_folder):
    folder, run = run_folder
    pool, size, rollouts, draws = pass_rates.read_run(folder)
    assert (pool.queries, size, rollouts) == (8, 300, 3200)
    assert draws.right_D.tolist() == run.draws.right_D.tolist() and (draws.valid_D == 4).all()
    assert draws.done_D == pytest.approx(run.draws.done_D)
    assert len(set(draws.query_D.tolist())) == len(set(run.draws.query_D.tolist()))
    found = oracle.study(str(folder), ["recycle"], seeds=1, rollouts=3200, queries=8)["recycle"]
    assert found["queries"] == 300
    assert found["zero_variance_first"] == pytest.approx(oracle.summary(run)["zero_variance_first"], abs=0.2)


def test_the_null_control_of_a_run_has_bands_beside_the_runs_own_curves(run_folder):
    folder, run = run_folder
    found = null_control.null_of_run(folder, seeds=2, points=5)
    assert (found["seeds"], found["plays"]) == (2, 16) and len(found["rollouts"]) == 5 and found["rollouts"][-1] == 3200
    assert found["run"] == null_control.curves(run.rows, 5, 3200)
    for name in (*null_control.NAMES, *null_control.COUNTS):
        band = found["bands"][name]
        assert all(low <= high for low, high in zip(band["low"], band["high"]) if low is not None)
    assert found["bands"]["ex_consumed"]["low"] == [0.0] * 5
    inside = [low <= value <= high for low, value, high in zip(
        found["bands"]["zero_variance_rate"]["low"], found["run"]["zero_variance_rate"],
        found["bands"]["zero_variance_rate"]["high"],
    )]  # fmt: skip
    assert sum(inside) >= 3  # nothing moved in this run
    json.dumps(found, allow_nan=False)


def test_somebody_else_s_run_is_played_for_a_while_and_one_s_own_to_its_end(run_folder, monkeypatch):
    monkeypatch.setattr(null_control, "STRANGER_S", 0.0)
    found = null_control.null_or_reason(run_folder[0], seeds=2, points=5)
    assert found["reason"].startswith("no null control: its sampler was played to 0 of 3,200 rollouts in 0 s; --trust")
    assert null_control.null_or_reason(run_folder[0], seeds=2, points=5, own=True)["seeds"] == 2


def test_a_run_whose_rewards_are_not_its_outcomes_has_no_null_control(run_folder, tmp_path):
    """By F1 a group of wrong answers bears signal, and the control, which plays right and wrong, would call it dead."""
    folder = shutil.copytree(run_folder[0], tmp_path / "run")
    lines = (folder / "ledger.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    hard = [at for at, row in enumerate(rows) if row["verdict"] == "hard"]
    for few, has in ((hard[: len(rows) // 100], False), (hard[: len(rows) // 50], True)):
        told = [row | {"verdict": "signal"} if at in few else row for at, row in enumerate(rows)]
        (folder / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
        found = null_control.null_or_reason(folder, seeds=2, points=2, own=True)
        assert ("reason" in found) is has
    wanted = rf"no null control: {len(hard[: len(rows) // 50])} of {len(rows)} groups bear signal by their rewards"
    assert found["reason"].startswith(wanted)


def test_what_no_pass_rates_can_be_read_from_is_refused(run_folder, tmp_path):
    with pytest.raises(ValueError, match="no config.json"):
        pass_rates.read_run(tmp_path)
    (tmp_path / "config.json").write_text((run_folder[0] / "config.json").read_text())
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="has no step yet"):
        pass_rates.read_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "budget/rollouts": 4, "pool/size": 3}\n')
    huge = '{"step": 1, "budget/rollouts": 4, "pool/size": 300000000}\n'
    (tmp_path / "ledger.jsonl").write_text('{"step": 1, "index": 0, "successes": 1, "valid": 2}\n')
    (tmp_path / "metrics.jsonl").write_text(huge)
    with pytest.raises(ValueError, match="says that its pool has 300,000,000 queries; at most 4,194,304"):
        pass_rates.read_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(huge.replace("300000000", "4000000"))
    (tmp_path / "config.json").write_text('{"pool": {"samples": 32}}')
    with pytest.raises(ValueError, match=r"4,000,000 queries with 32 samples each; at most 67,108,864 samples"):
        pass_rates.read_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "budget/rollouts": 4, "pool/size": 3}\n')
    for index, right, valid in ((-1, 0, 2), (10**12, 0, 2), (0, 3, 2), (0, -1, 2), (0, 1, 10**9), (0, 10**18, 10**18)):
        row = {"step": 1, "index": index, "successes": right, "valid": valid}
        (tmp_path / "ledger.jsonl").write_text(json.dumps(row) + "\n")
        with pytest.raises(ValueError, match=rf"draw in step 1 with index {index:,}, {right:,} successes of {valid:,}"):
            pass_rates.read_run(tmp_path)
    for cut_off in ("", '{"step": 1, "index": 0, "succ'):
        (tmp_path / "ledger.jsonl").write_text(cut_off)
        with pytest.raises(ValueError, match="holds no draws"):
            pass_rates.read_run(tmp_path)
    with pytest.raises(ValueError, match="at least 2"):
        null_control.null(small(), run_folder[1].draws, size=300, seeds=1)


def test_the_null_control_plays_the_rule_with_the_families_of_the_checkpoint(run_folder, tmp_path):
    """Without its families foresee is another sampler: the newest checkpoint says them, and the plays have them."""
    folder = shutil.copytree(run_folder[0], tmp_path / "run")
    settings = config.Config(pool=config.Pool(queries=8, samples=4, oversample=2, rule=use("foresee")))
    (folder / "config.json").write_text(json.dumps(config.to_json(settings)))
    assert runs.kinds(folder) == {}
    alone = null_control.null_or_reason(folder, seeds=2, points=5)
    family_P = np.arange(300) % 3
    saved = checkpoint.Checkpoints(folder / "checkpoints")
    held = pools.to_arrays(pools.create(300, family_P))
    saved.save(1, {"x": jnp.zeros(1)}, {"pool": held}, metrics_bytes=0)
    saved.close()
    assert runs.kinds(folder)["family_P"].tolist() == family_P.tolist()
    told = null_control.null_or_reason(folder, seeds=2, points=5)
    assert told["bands"] != alone["bands"]
    plan = oracle.Sampler(rule=use("foresee"), queries=8, samples=4, oversample=2, rollouts=3200)
    same = null_control.null(plan, run_folder[1].draws, size=300, kinds={"family_P": family_P}, seeds=2, points=5)
    assert told["bands"] == same["bands"]


@pytest.mark.thorough
@pytest.mark.parametrize("rates", ["a third impossible", "coins and impossible"])
def test_the_band_holds_a_pool_that_does_not_move_though_its_rates_are_no_beta(rates):
    """With Beta rates about half of these figures were outside; a tenth is what a 90 % band leaves out."""
    assert null_worlds.played(null_worlds.WORLDS[rates], "recycle", 4, 0.0, seed=0, size=500)["outside"] <= 0.12


@pytest.mark.thorough
def test_the_band_is_left_where_rates_move_after_the_first_draw():
    """A band that is wide enough for everything would hold the pool above, too."""
    still, moved = (
        null_worlds.played(null_worlds.WORLDS["easy or hard"], "recycle", 8, shift, seed=0, size=500)
        for shift in (0.0, 1.0)
    )
    assert moved["stretches"] >= 0.5 > still["stretches"]


@pytest.mark.thorough
def test_in_a_mixed_pool_the_band_has_no_power_though_all_rates_move():
    """Of Beta(.35, .35) first draws allow too much: the band is never left, so inside it nothing follows."""
    moved = null_worlds.played(null_worlds.WORLDS["Beta(.35, .35)"], "recycle", 8, 1.0, seed=0, size=500)
    assert moved["stretches"] == 0 and moved["by_figure"]["flipped"] == 0


def test_a_stretch_is_left_where_one_of_the_figures_that_move_first_is_outside():
    """Four stretches by hand: flips outside in the second, `fresh` (which does not count) in the third, none known in
    the fourth. A figure that never changes is left out, though it is outside.
    """
    inside = [0.2, 0.3, 0.2, None]
    run = dict.fromkeys(null_control.NAMES, inside) | {"flipped": [0.2, 0.6, 0.2, None], "fresh": [0.2, 0.3, 0.6, None]}
    run |= {"recycled_share": [0.9, 0.9, 0.9, None]}
    bands = dict.fromkeys(null_control.NAMES, {"low": [0.1] * 4, "high": [0.5] * 4})
    outside = null_control.outside(run, bands)
    assert outside["flipped"][:3].tolist() == [0, 1, 0] and np.isnan(outside["flipped"][3])
    assert outside["fresh"][:3].tolist() == [0, 0, 1] and "recycled_share" not in outside
    assert null_control.stretches_left(outside).tolist() == [False, True, False]
    assert null_control.stretches_left({}).tolist() == []


def test_the_table_of_known_pools_is_read_by_hand():
    def world(outside, flipped, stretches):
        return {"outside": outside, "stretches": stretches, "by_figure": {"flipped": flipped}}

    labels = ("coins, grpo, K 4", "coins, grpo, K 8", "even, foresee, K 4", "even, foresee, K 8")
    still = (world(0.17, 0.6, 0.7), world(0.01, 0.0, 0.0), world(0.03, 0.1, 0.2), world(0.05, 0.3, 0.4))
    moving = (world(0.5, 0.8, 1.0), world(0.3, 0.4, 0.7), world(0.0, 0.0, 0.1), world(0.1, 0.0, 0.2))
    kept = {"frozen": dict(zip(labels, still)), "moved": dict(zip(labels, moving))}
    lines = null_worlds.table(kept).splitlines()
    assert lines[2] == "| coins, grpo | .17 | .60 | .70 | 1.00 | .01 | .00 | .00 | .70 |"
    assert lines[3] == "| even, foresee | .03 | .10 | .20 | .10 | .05 | .30 | .40 | .20 |"
    assert lines[4].startswith("| mean | .10 | .35 | .45 | .55 |") and lines[6].endswith("| .05 | .30 | .40 | .70 |")
    above = {name: sum(value > 0 for value in null_worlds.cell(kept, *name.split("/"))) for name in (
        "left/4", "left/8", "rest/4", "rest/8", "most_left", "flipped/coins/4", "flipped/most/8")}  # fmt: skip
    assert list(above.values()) == [1, 1, 1, 2, 1, 6, 3]
    assert null_worlds.cell(kept, "outside") == [0.17, 0.03, 0.01, 0.05]
    assert null_worlds.cell(kept, "outside", "coins", "8") == [0.01]
