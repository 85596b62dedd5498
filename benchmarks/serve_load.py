"""The prompts that `serve` and the engine alone are given. Imports no accelerator's library."""

import random

PROMPT_TOKENS, NEW_TOKENS, WORDS = 64, 64, 49_000


def prompts(count: int, round: int) -> list[str]:
    """Return so many prompts of PROMPT_TOKENS words, all different."""
    draw = random.Random(round)
    return [" ".join(f"w{draw.randrange(WORDS)}" for _ in range(PROMPT_TOKENS)) for _ in range(count)]
