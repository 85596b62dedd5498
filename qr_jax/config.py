"""One run's settings: frozen, typed, checked before any device is touched."""

import dataclasses
import difflib
import hashlib
import json
import re
import runpy
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

from qr_jax import plugins
from qr_jax.errors import UserError
from qr_jax.settings import json_text
from qr_jax.settings.settings import (
    Bound,
    Count,
    Natural,
    NotNegative,
    Positive,
    Share,
    Use,
    at_least,
    conform,
    nearest,
    plain,
)
from qr_jax.settings.settings import use as use  # exported: a config file imports it from here

COLD_START = "sft"  # its folder in a run's, and the area of its metrics
LARGEST_BYTES = 2**26  # largest config.json that is read; run_files.py allows a stranger's run 2**20
LARGEST_SEED = 2**32 - 1 - 3 * 65536  # seeds have 32 bits; up to 3 rollbacks add 65,536 each
COLD = ": logits divided by less are beyond float32, and what is sampled then is not what the learner trains on"
WHOLE = ": tokens would come from a restricted distribution, and the learner's log-probabilities are of the whole "
WHOLE += "vocabulary, so that every importance weight would be wrong (the answers that an evaluation samples may be "
WHOLE += "restricted: evaluation.top_p, evaluation.top_k)"

# Further types of settings with their bounds; settings.settings.out_of_bounds reads them.
Seed = Annotated[
    int, Bound(f"0 to {LARGEST_SEED} (sampling keys have 32 bits)", lambda seed: 0 <= seed <= LARGEST_SEED)
]
Chance = Annotated[float, Bound("a chance from 0 to below 1", lambda value: 0 <= value < 1)]
Betas = Annotated[
    tuple[float, float], Bound("two numbers from 0 to below 1", lambda betas: all(0 <= beta < 1 for beta in betas))
]
Growing = Annotated[
    tuple[int, ...],
    Bound("growing numbers of tokens, as in 64,256", lambda sizes: sizes and [0, *sizes] == sorted({0, *sizes})),
]

STEPS = re.compile(r"(\d{1,9}):(\d{1,9})", re.ASCII)
Steps = Annotated[
    str,
    Bound(
        "FROM:TO, counted from 0, as in 10:12 for two steps after the tenth",
        lambda text: bool(steps := STEPS.fullmatch(text)) and int(steps[1]) < int(steps[2]),
    ),
]


Overlap = Annotated[int, Bound("0 or 1", lambda steps: steps in (0, 1))]


@dataclass(frozen=True)
class Lora:
    """Adapters of low rank (Hu et al. 2021, arXiv:2106.09685): they are trained; the model below is frozen, in dtype
    model.compute."""

    rank: Natural = 0  # of each adapter; 0: none, and the whole model is trained
    alpha: Positive = 32.0  # an adapter's product is scaled by alpha / rank
    layers: Literal["attention", "mlp", "all-linear"] = "all-linear"  # matrices of each layer with an adapter


@dataclass(frozen=True)
class Model:
    """The model that is trained, and how it computes."""

    # a preset (two_layer, quickstart: random weights), a Hugging Face folder or id, a .gguf file, or smollm2
    name: str = "two_layer"
    tokenizer: str | None = None  # its folder or file; None: the model's own, or the world's words for a preset
    compute: Literal["float32", "bfloat16"] = "float32"  # dtype the model computes in; trained weights are float32
    # what the backward pass recomputes: nothing, all (full), all but attention, or all but matrix products (dots)
    remat: Literal["none", "full", "attention", "dots"] = "none"
    attention: Literal["auto", "xla", "splash", "cudnn"] = "auto"  # auto: splash on TPU, cudnn on GPU in bf16
    vocab_block: Count = 8192  # vocabulary entries whose logits exist at once in the learner
    lora: Lora = Lora()


@dataclass(frozen=True)
class Data:
    """The questions, corpus and traces. Questions come from the synthetic "world", from files (JSONL, Parquet or
    Arrow, our format or another system's; a list with commas; a glob, a folder of shards or save_to_disk), or from
    a set, tfds:NAME[:SPLIT][@FOLDER] (sets/qa_builders.py)."""

    train: str = "world"  # the questions to train on: "world", files, or a set (tfds:NAME)
    eval: str = "world"  # the held-out questions, as data.train
    # "world", an index folder, passages (JSONL, also gz; Parquet; several with commas), a set's own (tfds:NAME);
    # "own": each question searches the paragraphs that its row carries (`context` or `paragraphs`)
    corpus: str = "world"
    # expert traces for the cold start: "world", "supporting" (by gold titles), "retrieved" (one search), or JSONL
    traces: str = "world"
    trace_worlds: Natural = 0  # how many worlds with other facts the "world" traces come from; 0: the run's own world
    split: Literal["given", "sha256"] = "given"  # sha256: questions are dealt to train and eval by the hash of their id
    train_share: Share = 0.7  # share of the questions that split=sha256 deals to train
    train_limit: Count | None = None  # questions per file (or world), at most: those whose id hashes are smallest
    eval_limit: Count | None = None  # as data.train_limit
    # columns of the files by other names, as data.map.question=Frage data.map.answers=Antwort; "a.b" is b inside a
    map: Mapping[str, str] = field(default_factory=dict)
    answer_split: str | None = None  # separator of answers, or gold passages, in one text
    skip_broken: bool = False  # rows of these files that cannot be read are left out, counted and listed
    world: Mapping[str, Any] = field(default_factory=dict)  # settings of data/world/generate.py's WorldSettings
    world_path: str = "runs/worlds"  # where built worlds are kept (ArrayRecord, found by their settings' hash)


@dataclass(frozen=True)
class Pool:
    """The queries a step draws and those that return. Paper: 32 queries, 4 samples, k 1 or 2 (arXiv:2606.10709)."""

    queries: Count = 32  # B: signal groups a step accepts
    samples: Annotated[int, at_least(2, ", to compare")] = 4  # K: episodes of one query
    oversample: Count = 1  # k: k * B queries are drawn
    rule: Use = Use("recycle")  # which queries return, and how likely they are drawn
    rounds: Use = Use("once")  # how often a step draws
    channel: Literal["reward", "outcome"] = "reward"  # which value must differ within a group for it to bear signal
    by: Literal["chance", "largest"] | None = None  # draw by weighted chance or largest first; None: as the rule says
    reset_below: Share = 0.0  # reset the pool before a draw if a smaller share of its queries is eligible; 0: never
    on_exhausted: Literal["reset", "stop"] = "reset"  # when nothing is left to draw
    min_signal: Count = 1  # accepted groups an update waits for


@dataclass(frozen=True)
class Rollout:
    """The sampling of episodes. Tokens and turns are the model's unless said otherwise."""

    slots: Count = 32  # sequences that decode together
    store: Count | None = None  # cache rows for prompts and for episodes whose search runs; None: as many as slots
    # parts of slots and store, each with a thread, so that one's host work overlaps another's decoding; on
    # several GPUs or TPUs taken as 1, unless mesh.rollout=one
    lanes: Count = 1
    context_tokens: Count = 1024  # prompt, observations and sampled tokens of one episode together
    turn_tokens: Count = 64  # sampled tokens per turn
    # what the chat template is told as enable_thinking (at false Qwen3's opens each turn with an empty thought); None:
    # nothing is passed, which Qwen3 takes for true
    thinking: bool | None = None
    temperature: Annotated[float, at_least(0.01, COLD)] = 1.0  # sampling temperature
    # nucleus sampling: only 1, as the learner's log-probabilities are of the whole vocabulary (evaluation has its own)
    top_p: Annotated[float, Bound(f"1{WHOLE}", lambda share: share == 1)] = 1.0
    # sampling of the likeliest tokens: only 0 (off); see top_p
    top_k: Annotated[int, Bound(f"0{WHOLE}", lambda count: count == 0)] = 0
    search_k: Count = 3  # passages a search
    observation_tokens: Count = 500  # tokens that the environment may say in a turn
    passage_chars: Count = 20_000  # characters of a passage with its title, at most; cut before it is tokenised
    tile: Count = 32  # tokens of one tile: prompts and observations enter the cache in tiles
    buckets: Growing = (64, 256)  # compiled sizes, in tokens (whole tiles), of a call that appends to the cache
    chunk: Count = 8  # tokens that each slot decodes per device dispatch
    # dtype of the weight matrices in rollouts: model.compute, or int8 with a scale per output (see learner.importance)
    weights: Literal["compute", "int8"] = "compute"
    cache: Literal["compute", "int8"] = "compute"  # keys and values likewise, with a scale for each position and head
    # episodes go on after their searches in one fixed order (repeatable), or as results arrive
    schedule: Literal["ordered", "arrival"] = "ordered"
    search_ticks: Count = 1  # further chunks that other episodes decode before an ordered search is waited for
    search_calls: Count = 4  # calls of the search function at the same time
    search_deadline_s: Positive = 30.0  # seconds for one batch of searches, retries included
    search_retries: Natural = 3  # further tries of a search that failed
    outage_s: Positive = 3600.0  # how long a step is retried if most of its searches or grades fail; then exit code 5
    overlong: Literal["keep", "mask"] = "keep"  # mask: cut episodes (length, context) count in the group, not the loss


@dataclass(frozen=True)
class Learner:
    """Learning from a step's groups: advantages, the loss, and the update by AdamW."""

    advantage: Use = Use("grpo")  # computes how much better an episode is than its group
    loss: Use = Use("clip")  # computes the loss of each token
    # a token's weight: 1 / the number of all tokens, of its episode's, of its group's (the paper), or horizon_tokens
    reduce: Literal["token_mean", "sequence_mean", "group_mean", "fixed_length"] = "token_mean"
    over: Literal["accepted", "drawn"] = "accepted"  # whose tokens the denominator counts
    horizon_tokens: Count = 1024  # the denominator's length for fixed_length
    keep_zero_variance: bool = False  # zero-variance groups reach the learner too (plain GRPO with a KL term)
    fill: bool = False  # random signal groups are repeated until the batch has pool.queries groups (DUPO)
    kl: Literal["k1", "k2", "k3"] = "k3"  # the estimate of the divergence from the first policy (kl.py)
    kl_weight: NotNegative = 0.0  # weight of that divergence in the loss; 0: no reference model is kept
    entropy_weight: NotNegative = 0.0  # weight of the entropy that the loss rewards
    importance: Literal["off", "truncate", "icepop"] = "off"  # weights if sampler and learner differ (importance.py)
    importance_by: Literal["token", "sequence", "geometric"] = "token"  # ratio: own, or its episode's product or mean
    importance_low: NotNegative = 0.5  # icepop: a smaller ratio gets weight 0; truncate has no lower bound
    importance_high: Positive = 2.0  # truncate: the largest weight; icepop: a larger ratio gets weight 0
    updates: Count = 1  # updates per batch, each on its own micro-batches; old log-probabilities are those before all
    gap_alarm: Positive = 0.1  # a step warns if sampler and learner differ by more, in mean nats per token
    rows: Count = 8  # packed rows of one micro-batch (all devices together)
    row_tokens: Count = 1024  # length of a packed row in tokens; an episode must fit one
    share_prefixes: bool = False  # compute the common prefix of a group's samples only once (not with attention=splash)
    lr: Positive = 1e-6  # the learning rate
    schedule: Literal["constant", "cosine", "linear"] = "constant"  # others fall to 0 at the end of steps or a budget
    warmup_updates: Natural = 0  # updates over which the rate rises from 0
    full_groups: Natural = 0  # an update of fewer signal groups is scaled by groups / full_groups, after Adam; 0: off
    weight_decay: NotNegative = 0.0  # AdamW's weight decay
    betas: Betas = (0.9, 0.95)  # decay rates of Adam's two moments
    eps: Positive = 1e-8  # Adam's epsilon
    clip_norm: Positive = 1.0  # the largest norm of a gradient; a larger one is scaled to it
    max_nonfinite: Count = 5  # skipped updates in a row before the run goes back to its last checkpoint


@dataclass(frozen=True)
class Sft:
    """The cold start: cross-entropy on the tokens that experts wrote."""

    steps: Natural = 0  # 0: no cold start
    traces: Count = 64  # traces per step
    limit: Count | None = None  # traces used in all
    max_tokens: Count = 1024  # longer traces are left out, counted
    whole: bool = False  # with model.lora too it trains the whole model, which is then the base of the adapters
    lr: Positive = 1e-5  # the cold start's learning rate
    schedule: Literal["constant", "cosine", "linear"] = "cosine"  # others fall to 0 at its end
    warmup_steps: Natural = 0  # steps over which the rate rises from 0
    clip_norm: Positive = 1.0  # the largest norm of a gradient
    weight_decay: NotNegative = 0.0  # AdamW's weight decay


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of the policy on held-out questions, greedily and by samples."""

    # steps between evaluations; 0: only before and after training
    every: Annotated[int, at_least(0, " (0 evaluates before and after training alone)")] = 0
    # evaluate after each step that reaches a multiple of so many rollouts; 0: as `every` says
    every_rollouts: Natural = 0
    questions: Count | None = None  # None: all of data.eval
    # questions of evaluations during training (none if every = every_rollouts = 0); None: evaluation.questions
    during: Annotated[int, at_least(1, ": evaluation.every=0 makes no evaluation in between")] | None = None
    # the questions, or half a or b of them by the hash of their ids: tune on a (probes always ask a), report on b
    half: Literal["both", "a", "b"] = "both"
    samples: Natural = 0  # sampled answers per question for Pass@1; 0: greedy only
    temperature: Positive = 1.0  # sampling temperature of these answers
    # of the sampled answers: nucleus sampling's share of probability; 1: off
    top_p: Annotated[float, Bound("a share, more than 0 and at most 1", lambda value: 0 < value <= 1)] = 1.0
    top_k: Annotated[int, at_least(0, " (0 is off)")] = 0  # of the sampled answers: the likeliest tokens alone; 0: off
    base: bool = False  # evaluate the model before the cold start too


@dataclass(frozen=True)
class Guards:
    """Alarms over a run's own figures (step/guards.py), and what is done about one."""

    # stop: save and end with exit code 4; rollback: to the best probe's checkpoint, then half the learning rate
    act: Literal["warn", "stop", "rollback"] = "warn"
    probe_every: Natural = 0  # steps between probes (greedy accuracy on half `a` of the held-out questions); 0: none
    probe_questions: Count = 100  # questions of a probe
    fall: Positive = 0.08  # alarm if two probes in a row are this far below the best
    grad_norm: Positive = 4.0  # alarm above so many times its past median
    entropy: Positive = 2.0  # alarm above so many times its past median
    answered: Positive = 0.15  # alarm if the share of episodes with an answer is this far below its past median
    searches: Positive = 0.5  # alarm below this multiple of its past median, if the reward has not fallen


PACKAGE = Path(__file__).resolve().parent  # its folder configs has the repository's configs, in a wheel too
SET_PREFIX = "tfds:"  # of a setting that names a question set
RUN_NAME = "qr_jax_config"  # of a Python config, as a module
OWN = "own"  # of data.corpus: the paragraphs that a question's row carries
BUDGETS = ("rollouts", "tokens", "searches")  # what a run spends; train.max_... limits each
LIMITS = ("steps", *(f"max_{name}" for name in BUDGETS))  # of `train`: what ends a run


def share_done(limits: Mapping[str, Any], spent: Mapping[str, float]) -> float:
    """Return the largest share spent of the limits that are set (LIMITS), 0 to 1; 1 if none is set."""
    shares = (spent[name] / limit for name in LIMITS if (limit := limits.get(name)))
    return min(max(shares, default=1.0), 1.0)


@dataclass(frozen=True)
class Train:
    """The length of a run, and what it keeps."""

    # steps at most; a budget below ends a run after the step that reaches it
    steps: Annotated[int, at_least(1, " (a cold start alone is `qr-jax sft`)")] = 100
    max_rollouts: Count | None = None  # a budget of episodes
    max_tokens: Count | None = None  # a budget of sampled tokens
    max_searches: Count | None = None  # a budget of searches
    # steps between checkpoints
    checkpoint_every: Annotated[
        int, at_least(1, " (a number above train.steps saves at the beginning and the end alone)")
    ] = 10
    keep_checkpoints: Count = 2  # how many of the newest checkpoints are kept
    keep_every: Natural = 0  # also keep each so-many-th step's checkpoint, for `qr-jax probe`; 0: none
    # gs://BUCKET/PATH, or a folder that all hosts see: gets the checkpoints and a copy of the rest of the run's
    # folder; None: checkpoints are in the run's folder, which all hosts must then see
    bucket: str | None = None
    # a run's folder to start from (its last checkpoint's weights), or a PEFT adapter's for model.lora
    init: str | None = None
    # 1: roll out the next step during the update, with the policy before it; ratios are against that policy
    overlap: Overlap = 0
    # steps FROM:TO, as in 10:12 (the two after the tenth), of which a trace for xprof is written to RUN/profile
    profile: Steps | None = None
    shuffle_rewards: bool = False  # control: rewards shuffled over the step's episodes; accuracy must not rise


@dataclass(frozen=True)
class Mesh:
    """Device counts of the learner's axes; their product is the number of devices."""

    data: Count = 1  # devices with a whole copy of the model each, over parts of the batch
    fsdp: Count = 1  # devices that share a copy and split the batch
    tensor: Count = 1  # devices that share each layer
    # on CPU only: how many devices to emulate, over all processes, on axis data if all axes are 1. A GPU or TPU
    # ignores it, so that one config runs on all of them
    devices: Count | None = None
    # how a host's devices share a rollout: by key/value heads, by slots, or one decodes alone; None: the first of
    # these that fits (on CPU one); pod: all hosts' devices share one, for a model too large for a host
    rollout: Literal["heads", "slots", "one", "pod"] | None = None
    # with train.overlap: how many devices of each host (the last ones; on TPU the outermost) only roll out
    rollout_devices: Natural = 0
    heartbeat_s: Positive = 60.0  # if a process is silent for so long, the run ends on all others


@dataclass(frozen=True)
class Log:
    """The places that a run's metrics go to beside metrics.jsonl."""

    tensorboard: bool = True  # to RUN/tensorboard
    wandb: bool = False  # to Weights & Biases, too
    aliases: tuple[Literal["verl", "trl"], ...] = ()  # metrics under these systems' names, too
    episodes: bool = True  # write episodes/step_NNNNNN.jsonl


@dataclass(frozen=True)
class Config:
    """A run."""

    seed: Seed = 0  # of weights, draws and sampling
    model: Model = Model()
    data: Data = Data()
    env: Use = Use("search_r1")  # the dialect of searches and answers
    retriever: Use = Use("bm25")  # what searches ask
    tools: tuple[Use, ...] = ()  # tools that env=several_tools may call (docs/tools.md)
    reward: Use = Use("exact_match")  # what an answer is worth
    pool: Pool = Pool()
    rollout: Rollout = Rollout()
    learner: Learner = Learner()
    sft: Sft = Sft()
    evaluation: Evaluation = Evaluation()
    guards: Guards = Guards()
    train: Train = Train()
    mesh: Mesh = Mesh()
    log: Log = Log()


# Where a config names its plug-in of each kind.
PLUGIN_AT = {kind: kind for kind in ("env", "retriever", "reward")}
PLUGIN_AT |= {kind: f"pool.{kind}" for kind in ("rule", "rounds")}
PLUGIN_AT |= {kind: f"learner.{kind}" for kind in ("advantage", "loss")}
PLUGIN_AT |= {"tool": "tools"}  # a list of them


def chosen_plugins(config: Config) -> dict[str, Use]:
    """Return the plug-in of each kind but "tool", by kind."""
    return {kind: chosen for kind, place in PLUGIN_AT.items() if isinstance(chosen := attrgetter(place)(config), Use)}


def every_plugin(config: Config) -> list[tuple[str, Use]]:
    """List (kind, plug-in) for each plug-in that a config names, tools included."""
    return [*chosen_plugins(config).items(), *(("tool", tool) for tool in config.tools)]


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read the config that a Python file makes (`config = Config(...)`, or a function `config()`) or a config.json.

    `file.py:name` takes the file's variable or function of that name instead. `configs/NAME.py` is the package's own
    where no such file stands here. Overrides (cli/overrides.py) come last. ValueError says what is wrong with the
    file or with an override.
    """
    path, name = parts(path)
    if (path / "config.json").is_file():
        raise UserError(f"{path} is a run's folder; to go on with it, type its config: {path / 'config.json'}")
    if path.parts[:1] == ("configs",) and (PACKAGE / path).is_file() and not path.is_file():
        path = PACKAGE / path
    if not path.is_file():
        known = [file for folder in (path.parent, Path("configs")) for file in configs_in(folder)]
        close = [] if path.is_dir() else difflib.get_close_matches(path.stem, [file.stem for file in known], n=1)
        meant = next((f"; did you mean {file}?" for file in known if [file.stem] == close), "")
        listed = ", ".join(map(str, configs_in(path) or configs_in(Path("configs"))))
        raise UserError(f"there is no config {path}{meant} (there are: {listed})")
    config = from_json(_made_by(path, name) if path.suffix == ".py" else _written(path))
    return from_json(plugins.around("cli.overrides").override(config, overrides)) if overrides else config


def parts(path: str | Path) -> tuple[Path, str]:
    """Return the file and the name in it that `file.py:name` means; the name is "config" where none is given."""
    file, colon, name = str(path).rpartition(":")
    return (Path(file), name) if colon and file.endswith(".py") and name.isidentifier() else (Path(path), "config")


def configs_in(folder: Path) -> list[Path]:
    """Return the Python files in a folder, as `load` takes them: in `configs` the package's too."""
    places = (folder, PACKAGE / folder) if folder == Path("configs") else (folder,)
    return [folder / name for name in sorted({file.name for place in places for file in place.glob("*.py")})]


def _written(path: Path) -> Mapping[str, Any]:
    """Return what a run's config.json holds."""
    wrong = "it is no object of settings"
    if path.stat().st_size > LARGEST_BYTES:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes; a config has at most {LARGEST_BYTES:,}")
    try:
        read = json_text.parse(path.read_text(encoding="utf-8"), object_pairs_hook=json_text.members)
    except ValueError as error:  # bytes that are no UTF-8, among others
        read, wrong = None, str(error)
    if not isinstance(read, Mapping) or "question" in read:
        wanted = "a Python file or a run's config.json (questions: data.train=FILE, in JSON lines)"
        raise UserError(f"{path} is no config: wanted {wanted}; {wrong}")
    if "architectures" in read:
        takes = "`qr-jax ask`, `chat` and `eval` take such a folder; all else wants the run it comes from"
        raise UserError(f"{path} is a model's (Hugging Face), not a run's: {takes}")
    return read


def is_run(folder: str | Path) -> bool:
    """Return True if the folder has a run's config.json. A Hugging Face folder's is not one."""
    file = Path(folder) / "config.json"
    try:
        small = file.is_file() and file.stat().st_size <= LARGEST_BYTES
        return small and "rollout" in json_text.parse(file.read_bytes())
    except (ValueError, TypeError):
        return False


def begun_by(folder: str | Path) -> Path | None:
    """Return the run whose cold start the folder holds; None where it is no run's."""
    run = Path(folder).parent
    return run if Path(folder).name == COLD_START and is_run(run) else None


def below(settings: Config, name: str) -> Config:
    """Return the config of a run in the subfolder `name`: this one, but for its bucket."""
    lives = settings.train.bucket
    return replace(settings, train=replace(settings.train, bucket=f"{lives}/{name}")) if lives else settings


def _made_by(path: Path, name: str) -> Config:
    try:
        there = runpy.run_path(str(path), run_name=RUN_NAME)
        named = there.get(name)
        config = named() if callable(named) else named
    except SystemExit as error:
        raise UserError(
            f"{_line_of(error, path)}: it ends the program (exit {error.code}); a config only says"
        ) from error
    except Exception as error:  # the file is its user's program: whatever is wrong there, the user mends it there
        if isinstance(error, UserError):  # what it asked of us, which says by itself what to do
            raise
        text = error.msg if isinstance(error, SyntaxError) else _told(error)  # whose text names the line
        raise UserError(f"{_line_of(error, path)}: {type(error).__name__}: {text}") from error
    if not isinstance(config, Config):
        others = [key for key, value in there.items() if isinstance(value, Config)]
        near, wanted = nearest(name, others, shown=len(others)), f"`{name} = Config(...)` or a function `{name}()`"
        raise UserError(f"{path} has no config {name!r}{near}; wanted {wanted}, and found {config!r}")
    return config


def _told(error: Exception) -> str:
    """Return the error's text; for a setting that its section does not have, with our nearest guess.

    Python 3.13 has a guess of its own, which is left out.
    """
    named = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    section = globals().get(named[1]) if named else None
    if not named or not dataclasses.is_dataclass(section):
        return str(error)
    return named[0] + nearest(named[2], [field.name for field in dataclasses.fields(section)])


def _line_of(error: BaseException, path: Path) -> str:
    """Return the file and the last of its lines that ran before the error arose."""
    walked = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in walked if frame.f_globals.get("__name__") == RUN_NAME]
    lines = lines or [getattr(error, "lineno", None)]  # of a SyntaxError of the file itself, none of which ran
    return f"{path}, line {lines[-1]}" if lines[-1] else str(path)


def to_json(config: Config) -> dict[str, Any]:
    """Return the whole config as JSON holds it; `from_json` gives an equal config back."""
    return plain(config)


def from_json(written: Mapping[str, Any] | Config) -> Config:
    """Read a config.json's config, types checked; an absent setting has its default. ValueError names the setting."""
    return conform("", written, Config)


def fingerprint(config: Config) -> str:
    """Return 16 hex digits that are equal exactly when two configs are."""
    text = json.dumps(to_json(from_json(config)), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
