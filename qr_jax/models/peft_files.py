"""The names of the files in a PEFT adapter's folder. Imports no jax."""

import os
from pathlib import Path

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SHA256, COMPUTE = "base_sha256", "base_dtype"  # what our files say of the base, in their header


def is_adapter(folder: str | os.PathLike[str]) -> bool:
    """Return True if the folder is a PEFT adapter's."""
    return (Path(folder) / CONFIG).is_file()
