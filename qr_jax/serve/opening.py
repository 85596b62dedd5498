"""Open a run or a model's folder to be served: its engine, its chat and, of an agent, its search."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from qr_jax import assemble, config
from qr_jax.config import Config
from qr_jax.evaluation import subject
from qr_jax.rollout.engine import Engine
from qr_jax.serve.answers import Vocabulary
from qr_jax.serve.app import Served
from qr_jax.serve.batching import Batching, HandOver, no_agent


def settings(rollout: config.Rollout) -> config.Rollout:
    """Return a rollout's settings for a server: one lane, searches as they come, and a row for scoring."""
    return replace(rollout, lanes=1, schedule="arrival", store=(rollout.store or rollout.slots) + 1)


def open_model(
    settings: Config, run: Path | None, step: int | None = None, *, name: str, agent: bool = False
) -> tuple[Served, Callable[[HandOver], Batching]]:
    """Load a run's model, or without a run the config's own; return it, and what begins its batching.

    What a first short request needs is compiled here, the rest when it is first needed.
    """
    search = assemble.searcher(settings) if agent else None
    opened, params, said = subject.open_model(settings, run, step)
    version = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
    env = assemble.environment(settings) if agent else no_agent
    return serving(opened.engine, params, name=name, env=env, search=search, version=version)


def serving(
    engine: Engine, params: Any, *, name: str, env: Callable = no_agent, search: Any = None, version: str = ""
) -> tuple[Served, Callable[[HandOver], Batching]]:
    """Return what is served by an engine, and what begins its batching; `search` makes it an agent."""
    engine.warm_up(params)
    served = Served(
        name, engine.chat, Vocabulary(engine.pieces, engine.tokenizer.eos_ids), engine.settings.context_tokens,
        engine.settings.slots, agent=search is not None, version=version,
    )  # fmt: skip
    return served, lambda hand_over: Batching(engine, params, hand_over, env=env, search=search)
