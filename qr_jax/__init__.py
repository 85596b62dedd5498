"""Train language models to search, by GRPO with a pool of queries.

    from qr_jax import load
    from qr_jax.train import train

    config = load("configs/quickstart.py", ["train.steps=5"])
    print(train(config, "runs/short"))

`Config` and `load` are of `qr_jax.config`, and imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qr_jax.config import Config, load

__all__ = ["Config", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("qr_jax.config"), name)
