"""The verdicts of a judge that a run's reward can need, beside the budget that ends the run."""

from typing import Any

from qr_jax import plugins
from qr_jax.config import Config


def most(config: Config) -> int | None:
    """Return the most verdicts that a run can need; None where its reward or its rounds set no bound.

    A reward's file says how many an episode can need (VERDICTS). Rounds of a step bound its episodes where their file
    says that there is one (ROUNDS = 1), which draws k * B queries.
    """
    each = plugins.constants("reward", config.reward.name).get("VERDICTS")
    rounds = plugins.constants("rounds", config.pool.rounds.name).get("ROUNDS")
    if each is None or rounds != 1:
        return None
    step = config.pool.queries * config.pool.oversample * config.pool.samples
    limit = config.train.max_rollouts
    steps = config.train.steps if limit is None else min(config.train.steps, -(-limit // step))
    return each * step * steps


def told(config: Config) -> str | None:
    """Say the most verdicts that a run can need and what its budget allows; None where there is no bound."""
    count = most(config)
    known = plugins.signature("reward", config.reward.name).settings
    if count is None or not {"budget", "cache"} <= known.keys():
        return None
    given: dict[str, Any] = {name: known[name].default for name in ("budget", "cache")} | {**config.reward.settings}
    text = f"reward {config.reward.name!r} needs at most {count:,} verdicts in this run, and reward.budget is "
    text += f"{given['budget']:,}; verdicts of other runs in {given['cache']} count too"
    if count > given["budget"]:
        text += f". The run may end early: set reward.budget={count}, or what that file holds more"
    return text
