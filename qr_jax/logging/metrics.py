"""Every metric's name, unit and meaning, once. `metrics_writer.py` writes them."""

from typing import NamedTuple

from qr_jax.errors import UserError
from qr_jax.settings.settings import nearest


class Metric(NamedTuple):
    """`unit` is "" for counts, "share" for a rate in [0, 1], else the unit as written."""

    unit: str
    meaning: str


ORIGINS = {"fresh": "never attempted", "ex_hard": "last seen all wrong", "ex_easy": "last seen all right"}
ORIGINS |= {"ex_surplus": "bore signal, was not accepted", "ex_consumed": "accepted before"}
STATES = ("fresh", "hard", "easy", "surplus", "consumed", "reset")
STOPS = ("answered", "no_action", "length", "turns", "context", "fault")
# What a run's wall time goes to (goodput.py)
WALL = {"rollout": "rolling out, searches not waited for", "search_wait": "decoding waits for searches"}
WALL |= {"learner": "updates", "evaluation": "evaluation after steps", "start": "before the first step"}
WALL |= {"restarts": "steps taken again, and what an attempt that goes on does before its first step"}
WALL |= {"rest": "grading, settling, saving, logging"}

NAMES: dict[str, Metric] = {
    "reward/mean": Metric("", "mean reward of the valid episodes of all drawn groups"),
    "reward/outcome_mean": Metric("share", "pass rate: mean outcome of the valid episodes of all drawn groups"),
    # Counts of a step's groups, and rates of them (defined in pool/figures.py).
    "pool/drawn": Metric("", "groups drawn"),
    "pool/wanted": Metric("", "groups a step accepts (B)"),
    "pool/accepted": Metric("", "signal groups that reached the learner (E)"),
    "pool/signal": Metric("", "groups with reward variance"),
    "pool/zero_variance": Metric("", "groups without reward variance"),
    "pool/hard": Metric("", "groups all wrong"),
    "pool/easy": Metric("", "groups all right"),
    "pool/fault": Metric("", "groups with fewer than two valid episodes"),
    "pool/rollouts": Metric("", "episodes rolled out"),
    "pool/wasted_rollouts": Metric("", "episodes of groups that were not accepted"),
    "pool/accepted_recycled": Metric("", "accepted groups whose last verdict was zero-variance"),
    "pool/accepted_seen": Metric("", "accepted groups attempted before"),
    "pool/zero_variance_rate": Metric("share", "zero-variance groups of those drawn"),
    "pool/hard_rate": Metric("share", "all-wrong groups of those drawn"),
    "pool/easy_rate": Metric("share", "all-right groups of those drawn"),
    "pool/signal_rate": Metric("share", "signal groups of those drawn"),
    "pool/fault_rate": Metric("share", "faulty groups of those drawn"),
    "pool/recycled_share": Metric("share", "accepted groups whose last verdict was zero-variance (strict)"),
    "pool/seen_share": Metric("share", "accepted groups attempted before"),
    "pool/fill": Metric("share", "accepted groups of those wanted"),
    "pool/wasted_rollout_share": Metric("share", "rollouts spent on groups that were not accepted"),
    "pool/rollouts_per_signal_group": Metric("rollouts", "rollouts spent for one signal group"),
    **{f"pool/drawn_{origin}": Metric("", f"groups drawn: {what}") for origin, what in ORIGINS.items()},
    **{f"pool/zero_variance_{origin}": Metric("", f"zero-variance groups: {what}") for origin, what in ORIGINS.items()},
    **{f"pool/accepted_{origin}": Metric("", f"accepted groups: {what}") for origin, what in ORIGINS.items()},
    **{f"pool/zero_variance_rate_{o}": Metric("share", f"zero-variance rate of: {w}") for o, w in ORIGINS.items()},
    **{f"pool/{origin}": Metric("share", f"share of the accepted groups: {what}") for origin, what in ORIGINS.items()},
    # The guards, and where the pool stands after the step
    "guards/alarms": Metric("", "figures about which a guard raises an alarm (step/guards.py)"),
    "probe/exact_match": Metric("share", "greedy accuracy on the guards' questions"),
    "pool/size": Metric("", "queries in the pool"),
    "pool/eligible": Metric("", "queries that can be drawn"),
    "pool/eligible_share": Metric("share", "queries that can be drawn"),
    "pool/epoch": Metric("", "resets so far"),
    "pool/attempted_queries": Metric("", "different queries attempted so far"),
    "pool/attempts_mean": Metric("", "attempts a query"),
    "pool/attempts_max": Metric("", "most attempts of one query"),
    "pool/flipped_queries": Metric("", "queries accepted after any earlier zero-variance verdict"),
    # the queries that `qr-jax probe` samples again
    "pool/flipped": Metric(
        "share",
        "of the different queries drawn (and graded) so far, those accepted after any earlier zero-variance verdict",
    ),
    "pool/never_flipped": Metric("", "queries with a zero-variance verdict and never accepted since"),
    "pool/waiting": Metric("", "accepted groups that wait for pool.min_signal"),
    **{f"pool/state_{state}": Metric("", f"queries in the state {state}") for state in STATES},
    "learner/loss": Metric("", "loss; null when nothing was accepted"),
    "learner/grad_norm": Metric("", "global norm of the gradient before clipping"),
    "learner/update_norm": Metric("", "global norm of the parameters' change"),
    "learner/lr": Metric("", "learning rate of the last update, before learner.full_groups"),
    "learner/update_scale": Metric("share", "of a whole update, by learner.full_groups"),
    "learner/clip_low": Metric("share", "tokens whose ratio was cut from below"),
    "learner/clip_high": Metric("share", "tokens whose ratio was cut from above"),
    "learner/dual": Metric("share", "tokens cut by the dual clip"),
    "learner/ratio": Metric("", "mean importance ratio new/old"),
    "learner/kl": Metric("nats", "KL to the reference model, a token"),
    "learner/entropy": Metric("nats", "entropy, a token"),
    "learner/updates": Metric("", "optimizer updates so far"),
    "learner/skipped": Metric("", "updates skipped in a row for a non-finite gradient"),
    "learner/nonfinite": Metric("", "non-finite gradients in this step"),
    "learner/tokens": Metric("tokens", "sampled tokens that were trained on"),
    "learner/packing_efficiency": Metric("share", "of the positions that were computed, those with a token"),
    "learner/micro_batches": Metric("", "micro-batches of the step"),
    "sft/loss": Metric("nats", "cold start: cross-entropy a token of the expert"),
    "sft/grad_norm": Metric("", "cold start: global norm of the gradient before clipping"),
    "sft/tokens": Metric("tokens", "cold start: expert tokens trained on"),
    "sft/packing_efficiency": Metric("share", "cold start: of the positions that were computed, those with a token"),
    "rollout/turns": Metric("", "model turns an episode"),
    "rollout/searches": Metric("", "searches an episode"),
    "rollout/parallel_turns": Metric("", "model turns an episode that ask several queries at once"),
    "rollout/tokens": Metric("tokens", "sampled tokens an episode"),
    "rollout/context_tokens": Metric("tokens", "tokens an episode, prompt and observations included"),
    "rollout/entropy": Metric("nats", "mean -log p of a sampled token: an estimate of the policy's entropy"),
    "rollout/faults": Metric("", "episodes that are faults, those of grading included"),
    **{f"rollout/stop_{stop}": Metric("share", f"episodes that ended by: {stop}") for stop in STOPS},
    "rollout/observations_lent": Metric("share", "tokens of observations that a sample of the same words had computed"),
    "retriever/failed": Metric("", "searches that stayed without a result"),
    "retriever/passages_cut": Metric(
        "", "passages cut, or left out, to fit rollout.passage_chars and observation_tokens"
    ),
    "retriever/queries": Metric("", "searches sent, duplicates dropped"),
    "sampler_gap/mean": Metric("nats", "mean |log-probability of the learner - of the sampler|, a sampled token"),
    "sampler_gap/max": Metric("nats", "largest |log-probability of the learner - of the sampler|"),
    "budget/rollouts": Metric("", "episodes so far"),
    "budget/tokens": Metric("tokens", "sampled tokens so far"),
    "budget/searches": Metric("", "searches so far"),
    "time/step_s": Metric("s", "the whole step"),
    "time/rollout_s": Metric("s", "rolling out, searches included"),
    "time/decode_s": Metric("s", "decoding, stops looked for included"),
    "time/prefill_s": Metric("s", "prompts and observations into the cache"),
    "time/search_s": Metric("s", "in the retriever"),
    "time/search_wait_s": Metric("s", "of that, with decoding at a halt"),
    "time/settle_s": Metric("s", "grading, and settling the pool"),
    "time/learner_s": Metric("s", "the train step"),
    "time/ahead_s": Metric("s", "rolling out the next step, beside the train step (train.overlap)"),
    "time/beside_s": Metric("s", "of that, with the train step ended, or waiting for it to be applied"),
    "time/compile_s": Metric("s", "of all these, compiling"),
    "time/evaluation_s": Metric("s", "evaluation after the step, guards' probes included"),
    # Over all attempts (logging/goodput.py)
    "time/wall_s": Metric("s", "that the run's processes have run since its first start; between two of them none"),
    **{f"time/of_wall_{name}": Metric("share", f"of time/wall_s: {what}") for name, what in WALL.items()},
    "perf/tokens_per_s": Metric("tokens/s", "sampled tokens a second of rolling out"),
    "perf/learner_tokens_per_s": Metric("tokens/s", "trained tokens a second of the train step"),
    "perf/compiles": Metric("", "programs compiled in this step, each when it was first needed"),
    "perf/search_cache_hit_rate": Metric("share", "searches since the start that `cached` had on disk"),
    "perf/rollouts_per_s": Metric("1/s", "episodes a second of the step"),
    "perf/step_tokens_per_s": Metric(
        "tokens/s", "tokens of the episodes, prompts and observations included, a second of the step and device"
    ),
    # Shares of the devices' peak, as published or, if unknown, measured at the start (parallel/peaks.py)
    "perf/mfu": Metric(
        "share", "operations the model needs for what was trained on (models/costs.py) in time/learner_s"
    ),
    "perf/decode_bandwidth": Metric(
        "share", "bytes decoding has to read (weights a step, keys and values in use) in time/decode_s, on one device"
    ),
    "perf/goodput": Metric("share", "of time/wall_s, in rollouts (with their searches) and updates that stayed"),
    "perf/peak_memory_gib": Metric("GiB", "most memory in use so far: of the fullest device, on CPU of the process"),
}
# Prefixes of metrics whose remaining name is free, such as loss/NAME.
OPEN: dict[str, Metric] = {
    "loss/": Metric("", "what the loss plug-in reports by a name of its own, mean over sampled tokens"),
    "eval/": Metric("", "evaluation: eval/<measure>, greedy, or eval/pass_at_1_<measure>"),
}


def about(name: str) -> Metric:
    """Return a metric's unit and meaning. ValueError for a name that is not listed here, with the nearest one."""
    if name in NAMES:
        return NAMES[name]
    for start, metric in OPEN.items():
        if name.startswith(start) and len(name) > len(start):
            return metric
    raise UserError(f"metric {name!r} is not listed in qr_jax/logging/metrics.py{nearest(name, NAMES)}")
