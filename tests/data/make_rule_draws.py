"""A second implementation of the recycling rules, and the draws it makes: `rule_draws.json`, {rule: 200 lists of ids}.

Written from the method sheet's description of each rule (Coelho et al. 2026, arXiv:2606.10709; GRESO 2506.02177; MoPPS;
prime-rl's difficulty pools; `foresee` from its definition) without sight of `qr_jax.pool` and `qr_jax.recycling`, so
that one misreading does not stand in both. Only the counter-based noise is shared: it is part of the specification. The
run is that of `tests/rule_protocol.py`, repeated here in full.

    python tests/data/make_rule_draws.py                      # a second; rewrites rule_draws.json beside this file
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from qr_jax.noise import uniforms
from scipy.special import betaincinv

SIZE, STEPS, SEED, SAMPLES = 60, 200, 3, 4
DRAWN, ACCEPTED, RESET_BELOW = 16, 8, 0.1
FAMILY_P = np.arange(SIZE) % 3
DRAW, QUANTILE, COIN, ORACLE = 1, 3, 4, 91  # what the noise is for: the first part of its key


@dataclass(frozen=True)
class State:
    """The pool as the draw sees it; `resets` counts how often every weight was set back to 1 from outside."""

    weight_P: np.ndarray
    resets: int = 0


@dataclass(frozen=True)
class Group:
    """One drawn query's outcome: `right` of `valid` samples, and whether it was trained on."""

    query: int
    right: int
    valid: int
    trained: bool = False

    @property
    def fault(self):
        return self.valid < 2

    @property
    def easy(self):
        return not self.fault and self.right == self.valid

    @property
    def hard(self):
        return not self.fault and self.right == 0

    @property
    def signal(self):
        return not self.fault and 0 < self.right < self.valid


def reset_if_few(state):
    """Every weight back to 1 when less than a tenth of the queries can be drawn."""
    if np.count_nonzero(state.weight_P > 0) / SIZE < RESET_BELOW:
        return State(np.ones(SIZE), state.resets + 1)
    return state


def draw(state, step, by):
    """Ids of an exponential race among the queries with weight: finishing times -log(u) / weight, earliest first."""
    eligible_E = np.flatnonzero(state.weight_P > 0)
    weight_E = state.weight_P[eligible_E]
    finish_E = -np.log(uniforms(SIZE, DRAW, SEED, step, 0)[eligible_E]) / weight_E
    order_E = np.lexsort((finish_E, -weight_E)) if by == "largest" else np.argsort(finish_E)
    return eligible_E[order_E[:DRAWN]].tolist()


def roll_out(drawn_Q, step):
    """The groups of the drawn queries, the first signal-bearing ones marked as trained on."""
    rate_P = np.clip((np.arange(SIZE) + 0.5) / SIZE + 0.3 * np.sin(step / 30), 0, 1)
    right_P = (uniforms(SIZE * SAMPLES, ORACLE, SEED, step).reshape(SIZE, SAMPLES) < rate_P[:, None]).sum(axis=1)
    groups, room = [], ACCEPTED
    for query in drawn_Q:
        faulty = query == 7 and step % 5 == 0
        group = Group(query, 0, 0) if faulty else Group(query, int(right_P[query]), SAMPLES)
        if group.signal and room > 0:
            group, room = replace(group, trained=True), room - 1
        groups.append(group)
    return groups


class Recycle:
    """What was trained on leaves (or keeps a small weight, for soft recycling); everything else stays as it is."""

    def __init__(self, consumed_weight=0.0):
        self.consumed_weight = consumed_weight

    def next_weights(self, state, groups, step):
        weight_P = state.weight_P.copy()
        for group in groups:
            if group.trained:
                weight_P[group.query] = self.consumed_weight
        return weight_P


class UseUp:
    """GRPO and bounded DAPO: every drawn query leaves, except those whose environment failed."""

    def next_weights(self, state, groups, step):
        weight_P = state.weight_P.copy()
        for group in groups:
            if not group.fault:
                weight_P[group.query] = 0.0
        return weight_P


class DifficultyPools:
    """A drawn query weighs what the first pool weighs whose threshold its mean reward does not exceed."""

    thresholds, weights = (0.0, 0.99, 1.0), (0.5, 1.0, 0.0)

    def next_weights(self, state, groups, step):
        weight_P = state.weight_P.copy()
        for group in groups:
            if not group.fault:
                mean = group.right / group.valid
                pool = next(place for place, threshold in enumerate(self.thresholds) if mean <= threshold)
                weight_P[group.query] = self.weights[pool]
        return weight_P


class Greso:
    """Passes over the pool that mostly skip queries which were easy, or hard, at each of their last visits."""

    floor, change, lowest, highest, target = 0.01, 0.01, 0.05, 0.95, 0.25

    def __init__(self):
        self.easy_keep = self.hard_keep = 0.5
        self.easy_visits_P, self.hard_visits_P = np.zeros(SIZE, int), np.zeros(SIZE, int)
        self.visited_P = np.zeros(SIZE, bool)
        self.number, self.resets = 0, 0  # of this pass; resets seen

    def start_pass(self):
        self.number += 1
        self.visited_P[:] = False

    def next_weights(self, state, groups, step):
        if state.resets > self.resets:  # the groups at hand are the unfiltered first draw of a new pass
            self.resets = state.resets
            self.start_pass()
        graded = [group for group in groups if not group.fault]
        for group in graded:
            self.visited_P[group.query] = True
            self.easy_visits_P[group.query] = self.easy_visits_P[group.query] + 1 if group.easy else 0
            self.hard_visits_P[group.query] = self.hard_visits_P[group.query] + 1 if group.hard else 0
        if self.number > 0 and graded:
            easy_share = sum(group.easy for group in graded) / len(graded)
            hard_share = sum(group.hard for group in graded) / len(graded)
            self.easy_keep = self.moved(self.easy_keep, down=easy_share >= self.target / 3)
            self.hard_keep = self.moved(self.hard_keep, down=hard_share >= self.target * 2 / 3)
        weight_P = self.weights()
        if not weight_P.any():
            self.start_pass()
            weight_P = self.weights()
        return weight_P

    def moved(self, chance, down):
        return min(max(chance - self.change if down else chance + self.change, self.lowest), self.highest)

    def weights(self):
        """1 for the queries still to be visited in this pass, as far as the coins keep them."""
        if self.number == 0:
            return np.where(self.visited_P, 0.0, 1.0)
        coin_P = uniforms(SIZE, COIN, SEED, self.number)
        kept_P = coin_P < np.maximum(self.easy_keep**self.easy_visits_P, self.floor)
        kept_P &= coin_P < np.maximum(self.hard_keep**self.hard_visits_P, self.floor)
        return np.where(kept_P & ~self.visited_P, 1.0, 0.0)


class Mopps:
    """Thompson sampling: weights fall off steeply as a pass rate drawn from each query's Beta leaves 1/2."""

    decay, prior, temperature = 0.5, 1.0, 0.001

    def __init__(self):
        self.right_P, self.wrong_P = np.full(SIZE, self.prior), np.full(SIZE, self.prior)

    def next_weights(self, state, groups, step):
        for group in groups:
            if not group.fault:
                for count_P, seen in ((self.right_P, group.right), (self.wrong_P, group.valid - group.right)):
                    old = count_P[group.query]
                    count_P[group.query] = self.decay * old + (1 - self.decay) * self.prior + seen
        rate_P = betaincinv(self.right_P, self.wrong_P, uniforms(SIZE, QUANTILE, SEED, step))
        return np.exp(-np.abs(rate_P - 0.5) / self.temperature)


class Foresee:
    """Weights by the chance of a group with signal, lowered for easy queries and for each time trained on."""

    nu, floor, gamma, head, rho = 2.0, 0.02, 1.0, 1.0, 0.6

    def __init__(self):
        self.right_P, self.wrong_P, self.trained_P = np.zeros(SIZE), np.zeros(SIZE), np.zeros(SIZE, int)
        self.family_right_F, self.family_wrong_F = np.ones(3), np.ones(3)
        self.resets = 0

    def next_weights(self, state, groups, step):
        if state.resets > self.resets:
            self.resets = state.resets
            self.trained_P[:] = 0
        self.learn(groups)
        family_rate_P = (self.family_right_F / (self.family_right_F + self.family_wrong_F))[FAMILY_P]
        a_P = self.right_P + self.nu * family_rate_P
        b_P = self.wrong_P + self.nu * (1 - family_rate_P)
        all_right_P, all_wrong_P = np.ones(SIZE), np.ones(SIZE)
        for sample in range(SAMPLES):
            all_right_P *= (a_P + sample) / (a_P + b_P + sample)
            all_wrong_P *= (b_P + sample) / (a_P + b_P + sample)
        signal_P = np.maximum(1 - all_right_P - all_wrong_P, self.floor)
        return signal_P**self.gamma * (b_P / (a_P + b_P)) ** self.head * self.rho**self.trained_P

    def learn(self, groups):
        """What was known fades a little everywhere, then the drawn queries and their families take in their groups."""
        self.right_P *= 0.97
        self.wrong_P *= 0.97
        self.family_right_F *= 0.98
        self.family_wrong_F *= 0.98
        for group in groups:
            if group.fault:
                continue
            query, wrong = group.query, group.valid - group.right
            self.family_right_F[FAMILY_P[query]] += 2 * group.right / group.valid
            self.family_wrong_F[FAMILY_P[query]] += 2 * wrong / group.valid
            self.right_P[query] = 0.3 * self.right_P[query] + group.right
            self.wrong_P[query] = 0.3 * self.wrong_P[query] + wrong
            self.trained_P[query] += group.trained


def draws(rule, by="chance"):
    """The drawn ids of each step."""
    state, history = State(np.ones(SIZE)), []
    for step in range(STEPS):
        state = reset_if_few(state)
        drawn_Q = draw(state, step, by)
        history.append(drawn_Q)
        state = replace(state, weight_P=rule.next_weights(state, roll_out(drawn_Q, step), step))
    return history


def all_draws():
    """The draws of every rule by name."""
    return {
        "recycle": draws(Recycle()),
        "soft_recycle": draws(Recycle(consumed_weight=0.1)),
        "grpo": draws(UseUp()),
        "bounded_dapo": draws(UseUp()),
        "greso": draws(Greso()),
        "mopps": draws(Mopps()),
        "mopps_largest": draws(Mopps(), by="largest"),
        "difficulty_pools": draws(DifficultyPools()),
        "foresee": draws(Foresee()),
    }


if __name__ == "__main__":
    lines = [f'"{name}": {json.dumps(history, separators=(",", ":"))}' for name, history in all_draws().items()]
    Path(__file__).with_name("rule_draws.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
