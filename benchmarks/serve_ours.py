"""Contender: SmolLM2-135M's shape with random weights, rolled out by the engine alone and served over loopback."""

import threading
import time
from typing import Any

import jax

from benchmarks import interleave
from benchmarks.serve_load import NEW_TOKENS, PROMPT_TOKENS
from qr_jax.config import Rollout
from qr_jax.models import decoder
from qr_jax.models.families import PRESETS
from qr_jax.models.tokenizer import RESERVED, WordTokenizer
from qr_jax.parallel import compile_cache
from qr_jax.records import Query, Say, Stop
from qr_jax.rollout.engine import Engine
from qr_jax.search import http_app
from qr_jax.serve import opening
from qr_jax.serve.app import App

CFG = PRESETS["smollm2_135m"]
WORDS = [f"w{n}" for n in range(CFG.vocab - len(RESERVED))]
state: dict[str, Any] = {}


def once(query: Query, turns) -> Say | Stop:
    return Stop("answered") if turns else Say(query.question)


def prepare(slots: int) -> dict[str, Any]:
    """Make two engines of the same parameters, and serve one of them; return the URL."""
    compile_cache.enable()
    settings = opening.settings(Rollout(
        slots=slots, context_tokens=PROMPT_TOKENS + NEW_TOKENS, turn_tokens=NEW_TOKENS, tile=64,
        buckets=(64, 256, 1024),
    ))  # fmt: skip
    tokenizer, params = WordTokenizer(WORDS), decoder.init(CFG, jax.random.key(0))
    alone, behind = Engine(CFG, tokenizer, settings), Engine(CFG, tokenizer, settings)
    laid = alone.rows.to_decode_params(params)
    served, begin = opening.serving(behind, laid, name="smollm2-shape")
    app = App(served, begin)
    listening, url = http_app.listen("127.0.0.1", 0)
    threading.Thread(target=app.server.run, kwargs={"sockets": [listening]}, daemon=True).start()
    state.update(engine=alone, params=laid)
    return {"url": url}


def engine(prompts: list[str], round: int) -> dict[str, Any]:
    """Sampled tokens a second of one rollout of all prompts, a sample each."""
    start = time.monotonic()
    groups = state["engine"].run(
        state["params"], [Query(text, text, ()) for text in prompts], 1, env=once, search=lambda *_: [], seed=1,
        step=round,
    )  # fmt: skip
    seconds = time.monotonic() - start
    tokens = sum(int(episode.mask_L.sum()) for (episode,) in groups)
    return {"tokens": tokens, "seconds": seconds, "tokens_a_s": tokens / seconds}


if __name__ == "__main__":
    interleave.serve({"prepare": prepare, "engine": engine, "versions": interleave.versions})
