"""An agent that is opened once and answers one question after another: `qr-jax ask` and `qr-jax chat`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qr_jax import assemble
from qr_jax.config import Config
from qr_jax.errors import UserError
from qr_jax.evaluation import subject
from qr_jax.logging import terminal
from qr_jax.models.tokenizer import Tokenizer
from qr_jax.records import Episode, Query, SearchFunction


@dataclass(frozen=True)
class Answerer:
    """An agent with its weights, its environment and what it searches."""

    settings: Config
    agent: assemble.Agent
    params: Any
    env: Callable[..., Any]
    search: SearchFunction

    def answer(self, question: str) -> Episode:
        """The greedy episode of one question. ValueError where it is empty."""
        if not question.strip():
            raise UserError("the question is empty; give one in quotes")
        how: dict[str, Any] = {"seed": self.settings.seed, "step": 0, "purpose": "ask", "temperature": 0.0}
        query = Query("ask", question, ())
        return self.agent.engine.run(self.params, [query], 1, env=self.env, search=self.search, **how)[0][0]

    def unknown_words(self, question: str) -> list[str]:
        """The question's words that the model cannot read."""
        return unknown_words(self.agent.tokenizer, question)


def opened(settings: Config, run: str | Path | None) -> Answerer:
    """The agent of a run's last checkpoint; without a run, the config's own model."""
    settings = assemble.for_one(settings)
    with terminal.phase("loading the passages"):
        search = assemble.searcher(settings)
    with terminal.phase("loading the model"):
        agent, params, _ = subject.open_model(settings, run, hashed=False)
    env = assemble.environment(settings)
    return Answerer(settings, agent, params, env, search)


def unknown_words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The different words of a text, at blanks, that the tokenizer has no tokens for."""
    if tokenizer.unknown_id is None:
        return []
    return [word for word in dict.fromkeys(text.split()) if tokenizer.unknown_id in tokenizer.encode_data(word)]
