"""How an exported folder is served by vLLM and put on the hub: lines of its card, from what lies in it."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors

from qr_jax.models import peft_files
from qr_jax.run.json_files import read_json

# The ranks that vLLM takes as --max-lora-rank (vllm/config/lora.py of 0.27); it keeps room for the one that is named.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
VLLM_RANKS_END = f"vLLM has no room for ranks above {VLLM_RANKS[-1]}: `qr-jax export RUN --hf FOLDER` merges them."
MIB = 2**20


def describe(folder: Path, agent: Mapping[str, Any]) -> Iterator[str]:
    """Yield the card's parts on serving and publishing a folder that is written but for its card."""
    name = re.sub(r"[^\w.-]+", "-", folder.resolve().name, flags=re.ASCII).strip("-.") or "agent"
    yield "## How to serve it"
    yield from (_adapter if peft_files.is_one(folder) else _whole)(folder, agent, name)
    yield from _requests(agent)
    yield "## How to publish it"
    yield f"```bash\nhf upload YOUR_NAME/{name} . --private\n```"
    yield f"In this folder, after `hf auth login`. {_size(folder, '*')} besides this card."


def _whole(folder: Path, agent: Mapping[str, Any], name: str) -> Iterator[str]:
    model = read_json(folder / "config.json")
    context = min(agent["limits"]["context_tokens"], model["max_position_embeddings"])
    yield from _vllm(f". --served-model-name {name} --dtype {model['dtype']} --max-model-len {context}")
    heads = model["num_hidden_layers"] * model["num_key_value_heads"] * model["head_dim"]
    cache = 2 * heads * context * (2 if model["dtype"] == "bfloat16" else 4) / MIB  # keys and values
    needs = f"It needs memory for {_size(folder, '*.safetensors')} of weights (`{model['architectures'][0]}`)"
    yield f"{needs}, and for {cache:,.1f} MiB of keys and values for each episode of {context:,} tokens at a time."


def _adapter(folder: Path, agent: Mapping[str, Any], name: str) -> Iterator[str]:
    adapter = read_json(folder / peft_files.CONFIG)
    with safetensors.safe_open(folder / peft_files.WEIGHTS, "np") as file:
        said = file.metadata()
    rank, base = adapter["r"], adapter["base_model_name_or_path"]
    room = next((known for known in VLLM_RANKS if known >= rank), None)
    if room is None:
        yield VLLM_RANKS_END
    else:
        lora = f"--enable-lora --max-lora-rank {room} --lora-modules {name}=."
        context = f"--max-model-len {agent['limits']['context_tokens']}"
        yield from _vllm(f"{base or 'BASE'} {lora} --dtype {said[peft_files.COMPUTE]} {context}")
    on = ", ".join(adapter["target_modules"])
    kind = f"adapters alone, rank {rank}, alpha {adapter['lora_alpha']}, on {on}"
    yield f"This folder has {_size(folder, peft_files.WEIGHTS)} of {kind}. A request's `model` is `{name}`."
    under = f"They need the weights under them, with whose tokenizer they work: {base or 'BASE, which is on no hub'}."
    yield f"{under} Our SHA-256 of those, in {said[peft_files.COMPUTE]}: `{said[peft_files.SHA256]}`."
    if base is None:
        yield "`qr-jax export RUN/sft --hf BASE --dtype float32` writes a run's cold start, where that is the base."


def _vllm(arguments: str) -> Iterator[str]:
    yield "With [vLLM](https://docs.vllm.ai), in this folder. Whoever wrote this card has not run the line:"
    yield f"```bash\nvllm serve {arguments}\n```"


def _requests(agent: Mapping[str, Any]) -> Iterator[str]:
    fields = {"add_special_tokens": False, "include_stop_str_in_output": True, "stop": agent["stop"]}
    if not agent["stop"]:
        del fields["include_stop_str_in_output"], fields["stop"]
    texts = "the prompt between the texts of its template" if agent["chat"]["template"] else "the prompt alone"
    yield f"A turn is one request to `/v1/completions`: {texts}, and what was written and shown since, with"
    yield f"```json\n{json.dumps(fields, ensure_ascii=False)}\n```"


def _size(folder: Path, pattern: str) -> str:
    """Return how many files match and their size, as in "2 files, 1.51 GB"."""
    sizes = [path.stat().st_size for path in folder.glob(pattern)]
    count = f"{len(sizes)} file{'s' * (len(sizes) != 1)}"
    unit, by = next((pair for pair in (("GB", 1e9), ("MB", 1e6)) if sum(sizes) >= pair[1]), ("kB", 1e3))
    return f"{count}, {sum(sizes) / by:.2f} {unit}"
