"""The causal probe: were flipped queries trained on because the policy had moved, or because few samples are luck?

A flipped query was filed as hard or easy by one group and accepted as signal by a later one. Both may be chance: a
query that is right three times in ten is all wrong in four samples one time in four. Trusting the verdict mistakes
regression to the mean for learning. So the probe asks again: the same questions under the same sampling keys, which no
training step used, are rolled out by the policies of both draws and by the run's last. Given a query's pass rates
these rollouts know nothing of either verdict: under a policy that never moved, the three agree but for sampling noise,
however the queries were selected.

Flipped queries were chosen by their later draw. A second sample is of all queries that were drawn again after a hard or
an easy verdict, whatever that draw showed: the filing policy's chance of signal over the later policy's is there the
share of flips that chance alone makes, which first draws do not tell (`null_control`).

The last policy was trained on these very queries, so its change holds what it learned from them, too. Signal at
acceptance is therefore told apart by the accepting policy; queries never drawn are the control.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qr_jax import assemble, plugins
from qr_jax.config import Config
from qr_jax.data import unchanged
from qr_jax.errors import UserError
from qr_jax.evaluation import subject
from qr_jax.lab.columns import aligned
from qr_jax.lab.probe_figures import (
    AGAIN,
    ARMS,
    POLICIES,
    Filed,
    choose,
    choose_again,
    drawn_again,
    nearest,
    recycled,
    signal_chance,
    summarise,
)
from qr_jax.lab.report import read
from qr_jax.logging import terminal
from qr_jax.parallel import host_local
from qr_jax.parallel import mesh as meshes
from qr_jax.pool import pool
from qr_jax.records import Query
from qr_jax.run import checkpoint, committed, runs
from qr_jax.step import grading

FILE = "probe.json"


def probe(
    run: str | Path,
    *,
    queries: int = 64,
    samples: int = 16,
    seed: int = 0,
    say: Callable[[str], None] = terminal.say,
) -> dict[str, Any]:
    """Probe a run: up to `queries` of each arm, `samples` episodes by each policy; also written to RUN/probe.json.

    Returns `arms` (see `summarise`), `queries` (a row each, with the checkpoints used and their distance in steps) and
    the settings of the measurement. ValueError if the run has no flipped queries, fewer than two checkpoints, or none
    from before most of its verdicts, and if more than half of a policy's searches fail.
    """
    settings = runs.load(run)
    of, questions = settings.pool, assemble.questions(settings, "train")
    if samples < of.samples:
        raise UserError(f"samples={samples} hold no group of pool.samples={of.samples}; wanted at least that many")
    if settings.train.shuffle_rewards:
        raise UserError(f"{run} was trained on shuffled rewards; its verdicts say nothing of its policies")
    saved, last, steps = _checkpoints(run)
    host = saved.host(last)
    checkpoint.check_same(host, checkpoint.QUERIES, pool.query_list_hash(query.id for query in questions))
    unchanged.check(host, {"data.train": unchanged.of_questions(questions)})
    draws = [draw for draw in read.run(run).draws if draw["step"] <= last]
    filed, never = recycled(draws, len(questions))
    if not filed:
        none = f"{run} has accepted no query after a hard or easy verdict in its {last} steps"
        raise UserError(f"{none}; train longer, then probe")
    again = drawn_again(draws)
    picked = choose(filed, never, queries, seed=seed) + choose_again(again, queries, seed=seed)
    used = [
        {name: nearest(steps, policy) for name, policy in one.policies.items()} | {"current": last} for one in picked
    ]  # the filing policy's is never the last checkpoint, which came after it
    late = sum(policies["filing"] > one.policies["filing"] for one, policies in zip(picked, used, strict=True))
    if 2 * late > len(picked):
        told = f"no checkpoint lies between the two draws of {late} of {len(picked)} queries (there are those of steps"
        told += f" {', '.join(map(str, steps))}), so one would stand for both policies"
        raise UserError(f"{told}; train with train.keep_every=4, which keeps every fourth step's")
    asked: dict[int, set[int]] = {}  # checkpoint -> the queries that its policy is asked
    for one, policies in zip(picked, used, strict=True):
        for step in policies.values():
            asked.setdefault(step, set()).add(one.index)
    for step in asked:
        if damage := committed.damage(saved.path(step)):
            raise UserError(f"{saved.path(step)}: {damage}; move it out of the run, and the probe takes the next")
    scores = _roll(run, settings, questions, asked, samples, seed, say)
    rows = [_row(one, questions[one.index], policies, scores) for one, policies in zip(picked, used, strict=True)]
    candidates = Counter(one.arm for one in [*filed, *again]) | Counter(fresh=len(never))
    found = {"step": last, "checkpoints": steps, "samples": samples, "group": of.samples, "seed": seed}
    found |= {"arms": {arm: summarise(rows, arm, candidates[arm], seed=seed) for arm in ARMS}, "queries": rows}
    (Path(run) / FILE).write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    return found


def _roll(run, settings: Config, questions: Sequence[Query], asked, samples: int, seed: int, say):
    """Roll queries out with the policies of earlier checkpoints; return the scores by (pool index, checkpoint's step).

    `asked` has the pool indices of each checkpoint's queries. A checkpoint is loaded once. A random key depends on
    seed, pool index and sample alone, so that all policies sample with the same keys; the purpose "probe" keeps them
    apart from those of training. UserError if more than half of the searches failed.
    """
    agent, mesh = assemble.agent(settings), meshes.make_mesh(settings.mesh)
    env = assemble.environment(settings)
    search = assemble.searcher(settings)
    grade, scores = _grader(settings), {}
    for step, here in sorted((step, sorted(indices)) for step, indices in asked.items()):
        say(f"the policy of step {step}: {len(here)} queries x {samples} samples")
        layout = host_local.rollout_layout(settings, agent.cfg, mesh)
        weights = subject.weights(run, agent, mesh, step)
        params = host_local.to_rollout_params(weights, settings, agent.cfg, mesh, layout)
        with terminal.phase("re-rolling", asked=agent.engine.progress):
            groups = agent.engine.run(
                params, [questions[at] for at in here], samples, env=env, search=search,
                seed=seed, step=0, purpose="probe", query_keys=here,
            )  # fmt: skip
        failed, sent = agent.engine.statistics.searches_failed, agent.engine.statistics.searches_sent
        if failed * 2 > sent:
            why = next((one.fault for group in groups for one in group if one.fault), "no reason is known")
            todo = "nothing was written: probe again when the retriever answers"
            raise UserError(f"{failed} of {sent} searches failed; the first: {why}; {todo}")
        scores |= {(at, step): grade(questions[at], group) for at, group in zip(here, groups, strict=True)}
    return scores


def _checkpoints(run: str | Path) -> tuple[checkpoint.Checkpoints, int, list[int]]:
    """Return a run's checkpoints, the last complete step, and all steps up to it. ValueError for fewer than two."""
    saved, last = runs.last_checkpoint(run)
    steps = sorted(step for step in saved.steps() if step <= last)
    if len(steps) < 2:
        wanted = "the probe wants at least 2, those of the policies that filed its queries"
        todo = "train with train.keep_every=N, which keeps every N-th step's, or with more train.keep_checkpoints"
        raise UserError(f"{run} has {len(steps)} checkpoint (step {last}); {wanted}: {todo}")
    return saved, last, steps


def _grader(settings: Config) -> Callable[..., dict[str, Any]]:
    """Return a function that scores a query's group as training did: `valid` samples, and two unbiased figures.

    `passed` is the share of right answers, `signal` the chance that a group of K bears signal; all are None with too
    few valid episodes.
    """
    reward, pool_settings = plugins.bind("reward", settings.reward), settings.pool

    def grade(query: Query, episodes) -> dict[str, Any]:
        grades = grading.grade(reward, settings.reward.name, 0, 0, query, episodes).grades
        valid_G, outcome_G = grades.valid_QG[0], grades.outcome_QG[0]
        if valid_G.sum() < pool_settings.samples:
            return dict.fromkeys(("valid", "passed", "signal"))
        channel_G = outcome_G if pool_settings.channel == "outcome" else grades.reward_QG[0]
        signal = signal_chance(channel_G[valid_G].tolist(), pool_settings.samples)
        return {"valid": int(valid_G.sum()), "passed": float((outcome_G[valid_G] == 1).mean()), "signal": signal}

    return grade


def _row(one: Filed, query: Query, policies: Mapping[str, int], scores) -> dict[str, Any]:
    """Return a query's row: its verdicts, and for each policy the checkpoint, its distance in steps, and its score.

    A distance counts the steps from the checkpoint to the policy that it stands for; below 0 it is of a later one.
    """
    row: dict[str, Any] = {"query": query.id, **asdict(one), "lags": list(one.lags)}
    for name, step in policies.items():
        distance = one.policies.get(name, step) - step
        row[name] = {"step": step, "distance": distance, **scores[one.index, step]}
    return row


def format_table(found: Mapping[str, Any]) -> str:
    """Format the arms side by side, and under them remarks on what the figures do not show."""
    arms = [arm for arm in ARMS if found["arms"][arm]["queries"]]
    heads = {"hard": "flipped, filed hard", "easy": "flipped, filed easy", "fresh": "never drawn"}
    heads |= {arm: f"drawn again after {verdict}" for verdict, arm in AGAIN.items()}
    rows = [("", *(heads[arm] for arm in arms))]

    def add(label: str, cell: Callable[[Mapping[str, Any]], str]) -> None:
        rows.append((label, *(cell(found["arms"][arm]) for arm in arms)))

    add("queries", lambda arm: f"{arm['queries']} of {arm['candidates']}")
    add("right in the verdict itself", lambda arm: _number(arm["verdict_pass"]))
    add("signal in the run's own later draw", lambda arm: _number(arm.get("drawn_signal")))
    for name, label in (("passed", "pass rate"), ("signal", f"signal in {found['group']} samples")):
        for policy in POLICIES:
            add(f"{label}, {policy} policy", lambda arm, name=name, policy=policy: _number(arm[name][policy]))
        for policy in POLICIES[1:]:
            key = "pass_change" if name == "passed" else "signal_change"
            add(f"  change to {policy}", lambda arm, key=key, policy=policy: _interval(arm[f"to_{policy}"][key], "+"))
    for policy, label in (("accepting", "signal at the later draw"), ("current", "signal now")):
        for key, what in (("chance_share", "there by chance"), ("movement_share", "by movement")):
            add(f"{label}: {what}", lambda arm, key=key, policy=policy: _interval(arm[f"to_{policy}"].get(key)))
    return "\n".join(aligned(rows) + list(_remarks(found)))


def _remarks(found: Mapping[str, Any]) -> Iterable[str]:
    """Yield remarks: how far off the checkpoints are, what cannot be seen, and how not to read the figures."""
    how = "under the same keys; in brackets 95 % over queries, paired"
    yield f"{found['samples']} samples a query and policy, {how}; query by query in {FILE}"
    for policy in POLICIES[:2]:
        steps = Counter(row[policy]["distance"] for row in found["queries"])
        told = ", ".join(f"{distance}: {count}" for distance, count in sorted(steps.items()))
        yield f"steps from the checkpoint used to the {policy} policy (below 0: a later one stands in): queries: {told}"
    unseen = sum(row["filing"]["step"] == row["accepting"]["step"] for row in found["queries"])
    if unseen:
        told = "movement between these is not seen and counts as none; a smaller train.keep_every shows it"
        yield f"{unseen} queries have one checkpoint for both verdicts: {told}"
    left_out = sum(arm["left_out"] for arm in found["arms"].values())
    if left_out:
        yield f"{left_out} queries are left out: faults left fewer valid samples than a group has"
    if not found["arms"]["fresh"]["queries"]:
        yield "no query is left that was never drawn, so there is no control"
    yield "the current policy was trained on the flipped queries, not on those never drawn"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(found: Mapping[str, Any] | None, sign: str = "") -> str:
    if found is None or found["low"] is None:
        return _number(None if found is None else found["mean"])
    return f"{found['mean']:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"
