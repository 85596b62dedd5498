"""Reads configs and tokenizers of real models through transformers, which is imported only where one is named.

Its import takes a second, which a run of a preset does not pay.
"""

import copy
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from qr_jax.errors import UserError
from qr_jax.settings.settings import show

LABELS = ("num_labels", "id2label", "label2id")
GENERATION = "generation_config.json"
CURE = "fetch it again, or convert the tokenizer (python -m pip install sentencepiece; then in Python: "
CURE += "transformers.AutoTokenizer.from_pretrained(model).save_pretrained(folder))"


@functools.cache
def library() -> ModuleType:
    """Import transformers, without its message that PyTorch is not there: nothing here needs it."""
    name = "TRANSFORMERS_VERBOSITY"
    before = os.environ.get(name)
    os.environ[name] = before or "error"
    try:
        import transformers

        for part in ("AutoConfig", "GenerationConfig", "PreTrainedTokenizerFast"):  # which are loaded when first named
            getattr(transformers, part)
    finally:
        if before is None:
            del os.environ[name]
    return transformers


def described(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json with what its family leaves unsaid filled in, and its rope settings as `rope_parameters`.

    No code of the model's is run, and a classifier's labels, which it would name one by one, are left out. ValueError
    where transformers refuses it.
    """
    shape = copy.deepcopy({name: value for name, value in config.items() if name not in LABELS})  # it writes into it
    try:
        return library().AutoConfig.for_model(**shape).to_dict()
    except Exception as error:  # each class validates in its own way
        raise UserError(f"transformers does not read this config.json: {_line(error)}") from error


def tokenizer(folder: str | os.PathLike[str]) -> Any:
    """Return the folder's tokenizer.json (in transformers' wrapper). ValueError where there is none, with the cure.

    Not by AutoTokenizer: since transformers 5 the classes that it picks by name (GPT2Tokenizer, LlamaTokenizer, ...)
    cut texts in their family's way, whatever the file says. SmolLM2 is a GPT2Tokenizer, and cuts numbers into digits.
    """
    if not (Path(folder) / "tokenizer.json").is_file():
        raise UserError(f"{Path(folder).name} has no tokenizer.json; {CURE}")
    try:
        loaded = library().PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except BaseException as error:
        if not of_library(error):
            raise
        reason = f"transformers does not read the tokenizer of {Path(folder).name}: {_line(error)}"
        raise UserError(f"{reason}; {CURE}") from error
    return loaded


def turn_ends(folder: str | os.PathLike[str]) -> list[int]:
    """Return the ids of generation_config.json that end a model's turn; none without the file."""
    if not (Path(folder) / GENERATION).is_file():
        return []
    try:
        given = library().GenerationConfig.from_pretrained(str(folder), local_files_only=True).eos_token_id
    except Exception as error:
        raise UserError(f"generation_config.json of {Path(folder).name} is not readable: {_line(error)}") from error
    ends = given if isinstance(given, list) else [] if given is None else [given]
    if not all(type(end) is int for end in ends):
        wanted = "wanted a whole number, or a list of them"
        raise UserError(f"generation_config.json of {Path(folder).name} has eos_token_id = {show(given)}; {wanted}")
    return ends


def of_library(error: BaseException) -> bool:
    """Return True if a library raised the error; tokenizers, written in Rust, raises panics that are no Exception."""
    return isinstance(error, Exception) or is_panic(error)


def is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"


def _line(error: BaseException) -> str:
    """Format an exception's text in one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
