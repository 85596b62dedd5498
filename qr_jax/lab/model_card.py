"""The README.md of an exported model: what it was trained on, how good it was, and how its episodes are played."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from qr_jax.config import SET_PREFIX, Config, fingerprint
from qr_jax.lab.report import run_list
from qr_jax.logging import metrics_writer
from qr_jax.models import families, peft_files
from qr_jax.run.json_files import read_json

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
# The ranks that vLLM takes as --max-lora-rank (vllm/config/lora.py of 0.27); it keeps room for the one that is named.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
VLLM_RANKS_END = f"vLLM has no room for ranks above {VLLM_RANKS[-1]}: `qr-jax export RUN --hf FOLDER` merges them."
MIB = 2**20
SCRIPT = "play_with_transformers.py"


@dataclass(frozen=True)
class Trained:
    """The last checkpoint's step, the rollouts until then, and the last evaluation up to then; None: not known."""

    step: int
    rollouts: int | None
    exact_match: float | None = None  # greedy
    questions: int | None = None
    evaluated: int | None = None  # the step that the evaluation is of
    incomplete: bool = False  # it is over fewer than 95 % of its questions


def trained(run: str | Path, step: int) -> Trained:
    """Read from a run's files what is known of its checkpoint of that step."""
    spent = [row.get("budget/rollouts") for row in metrics_writer.read(run) if row.get("step") == step]
    rollouts = int(spent[-1]) if spent and spent[-1] is not None else None
    last = run_list.listed(Path(run))
    if last.accuracy is None or last.questions is None or last.after is None or last.after > step:
        return Trained(step, rollouts)
    return Trained(step, rollouts, float(last.accuracy), int(last.questions), last.after, last.incomplete)


def write(settings: Config, agent: Mapping[str, Any], run: Trained | None, folder: Path, *, dtype: str) -> str:
    """Write the card from what agent.json holds, what is known of the run (None: there was none), and the folder.

    `folder` has the model's files, or adapters alone (PEFT's).
    """
    adapters = peft_files.is_adapter(folder)
    title = f"# An agent that searches ({agent['environment']['name']})"
    parts = [_front(settings, run, folder), title, _about(settings)]
    parts += ["## Training", *_training(settings, agent, run)] if run else []
    parts += ["## Evaluation", _evaluation(run)] if run else []
    parts += ["## An episode", *_episode(agent), "## How to play it", *_playing(agent, adapters)]
    parts += _serving(folder, agent)
    return "\n\n".join([*parts, "## Limits", *_limits(settings, dtype, adapters)]) + "\n"


def base_model(settings: Config) -> str | None:
    """Return the hub's name of the model that the run began with; None if it has none."""
    name = settings.model.name
    of_hub = HUB_ID.fullmatch(name) and not Path(name).exists()
    return families.HUB_NAMES.get(name) or (name if of_hub else None)


def _front(settings: Config, run: Trained | None, folder: Path) -> str:
    base, library = base_model(settings), "transformers"
    tags = ["search", "question-answering", "qr_jax", *(["reinforcement-learning", "grpo"] if run and run.step else [])]
    if peft_files.is_adapter(folder):
        base, library = read_json(folder / peft_files.CONFIG)["base_model_name_or_path"], "peft"
    of = [f"base_model: {base}", *(["base_model_relation: adapter"] if library == "peft" else [])] if base else []
    lines = [f"library_name: {library}", "pipeline_tag: text-generation", *of]
    return "\n".join(["---", *lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _about(settings: Config) -> str:
    base = base_model(settings)
    began = f"[{base}](https://huggingface.co/{base})" if base else "a model that is not named here"
    about = f"It began as {began}. Its licence is that model's."
    if settings.model.name in families.PRESETS:
        about = "It began with random weights. No licence is given here: whoever publishes it gives one."
    return f"A language model that answers questions by searching. {about}"


def _training(settings: Config, agent: Mapping[str, Any], run: Trained) -> Iterator[str]:
    cold = [("cold start", f"{settings.sft.steps:,} steps")] if settings.sft.steps and not settings.train.init else []
    spent = [] if run.rollouts is None else [("rollouts", f"{run.rollouts:,}")]
    rows = [
        ("questions", _questions(settings.data.train)), *cold, ("steps", f"{run.step:,}"), *spent,
        ("rule", settings.pool.rule.name), ("rounds", settings.pool.rounds.name), ("reward", settings.reward.name),
        ("advantage", settings.learner.advantage.name), ("loss", settings.learner.loss.name),
        ("seed", settings.seed), ("config's fingerprint", fingerprint(settings)),
        ("exported by", agent["made_by"]),
    ]  # fmt: skip
    if settings.train.init:
        yield "It went on from the weights of another run."
    yield _table(("what", "which"), rows)


def _questions(name: str) -> str:
    """Name the source of the questions, without a path of this machine."""
    if name == "world":
        return "a synthetic world"
    return name.partition("@")[0] if name.startswith(SET_PREFIX) else "files of questions"


def _evaluation(run: Trained) -> str:
    if run.exact_match is None:
        return "None was made."
    when = f"after step {run.evaluated:,}" if run.evaluated else "before training"
    left_out = " INCOMPLETE: of these more than 5 % ended in faults and are left out." * run.incomplete
    return f"Exact match {run.exact_match:.3f}, greedy, over {run.questions:,} held-out questions, {when}.{left_out}"


def _episode(agent: Mapping[str, Any]) -> Iterator[str]:
    yield "`agent.json` has all of this for programs. The prompt, with the question in the place of `{question}`:"
    if agent["prompt"] is None:
        yield "(not known: the environment's code was not at hand)"
    else:
        yield _fenced(agent["prompt"])
    before, after = agent["chat"]["prompt"]
    if before or after:
        yield "Before it and after it stands what the chat template writes:"
        yield from (_fenced(before), _fenced(after))
    else:
        yield "There is no chat template: the prompt's tokens are all that the model reads."
    stops = [f"`{text}`" for text in agent["stop"]]
    rows = [("a turn ends with", ", ".join([*stops, "the end of the model's message"]))]
    rows += [(name, f"{value:,}") for name, value in agent["limits"].items()]
    rows += [(f"{name} of training", value) for name, value in agent["sampling"]["training"].items()]
    yield _table(("setting", "value"), [*rows, ("evaluation", "greedy"), ("retriever", _named(agent["retriever"]))])
    yield f"Environment: `{agent['environment']['name']}`. Its settings, with the texts it says, are in `agent.json`."
    if agent["run_tools"]:
        yield f"Tools of the run: {', '.join(_named(tool) for tool in agent['run_tools'])}."
    if agent["tools"]:
        yield "The tools that the template is given:\n\n" + _fenced(json.dumps(agent["tools"], indent=2), "json")


def _playing(agent: Mapping[str, Any], adapters: bool) -> Iterator[str]:
    if adapters:
        yield "By vLLM, as below. For transformers `qr-jax export RUN --hf FOLDER` writes the whole model."
    elif agent["run_tools"]:
        yield "An episode with the run's tools: `qr-jax ask FOLDER --config FILE`, the config that names them."
    elif agent["reading"]["act"]:
        yield f"A whole episode with transformers, by `docs/{SCRIPT}` of qr_jax, which needs nothing else of it:"
        yield _fenced(f'python {SCRIPT} . "a question" http://127.0.0.1:8000/retrieve', "bash")
        yield "The address is that of a retrieval server as Search-R1 has it (`qr-jax serve-retriever --corpus FILE`)."
    yield "What the model writes is read by the environment: a search's passages are shown, and it writes on."


def _serving(folder: Path, agent: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts on serving and publishing a folder that is written but for its card."""
    name = re.sub(r"[^\w.-]+", "-", folder.resolve().name, flags=re.ASCII).strip("-.") or "agent"
    yield "## How to serve it"
    yield from (_adapter if peft_files.is_adapter(folder) else _whole)(folder, agent, name)
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


def _limits(settings: Config, dtype: str, adapters: bool) -> Iterator[str]:
    lines = [
        "It searched one collection of passages while it learned. Nothing here says how it does with another.",
        "Its answers can be wrong, also where the right passage is found.",
        "A prompt, a question and a passage are data: none of their tokens is an added token of the tokenizer.",
        "What the chat template writes, and each text of the environment, is encoded by itself.",
    ]
    if settings.model.lora.rank and not adapters:
        lines.append(f"Adapters of rank {settings.model.lora.rank} were trained, and are merged into these weights.")
    if dtype == "bfloat16":
        lines.append("The weights are rounded to bfloat16; the run's are float32. A close choice can fall otherwise.")
    if families.reads_words(settings.model.name, settings.model.tokenizer):
        lines.append("It knows the words of a synthetic world alone, and reads all others as unknown.")
    yield "\n".join(f"- {line}" for line in lines)


def _named(plugin: Mapping[str, Any]) -> str:
    given = json.dumps(plugin["settings"], ensure_ascii=False)
    return f"`{plugin['name']}` `{given}`" if plugin["settings"] else f"`{plugin['name']}`"


def _table(head: tuple[str, str], rows: list[tuple[str, Any]]) -> str:
    cells = [f"| {name} | {str(value).replace('|', '&#124;')} |" for name, value in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *cells])


def _fenced(text: str, language: str = "text") -> str:
    """Return the text in a fence that it cannot close."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}{'' if text.endswith(chr(10)) else chr(10)}{fence}"
