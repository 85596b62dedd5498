"""The names of the files in a PEFT adapter's folder. Imports no jax."""

import os
from pathlib import Path

from qr_jax.errors import UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SHA256, COMPUTE = "base_sha256", "base_dtype"  # what our files say of the base, in their header


def is_adapter(folder: str | os.PathLike[str]) -> bool:
    """Return True if the folder is a PEFT adapter's. ValueError if it has the weights and not the settings."""
    is_one = (Path(folder) / CONFIG).is_file()
    if not is_one and (Path(folder) / WEIGHTS).is_file():
        raise UserError(f"{folder} has {WEIGHTS} and no {CONFIG}; fetch the adapter again")
    return is_one
