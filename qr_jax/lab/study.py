"""Rules x seeds at one budget: one cold start, then a run each in a process of its own, begun or gone on with.

FOLDER/sft                  the cold start that all runs share, where the config has one
FOLDER/RULE/seed_N          a run like any other, and compare.log, what its process said
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qr_jax.cli.overrides import override, read
from qr_jax.config import BUDGETS, COLD_START, Config, Pool, below
from qr_jax.errors import UserError
from qr_jax.lab import oracle
from qr_jax.lab.launch import Job, Launcher
from qr_jax.logging import terminal
from qr_jax.run import runs
from qr_jax.settings import checks
from qr_jax.settings.settings import Use, conform, differences, few


@dataclass(frozen=True)
class Rule:
    """A rule of a study as it was named, and the overrides of the config that it carries."""

    label: str
    name: str
    carried: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.-]+", "_", self.label)  # no "=": `qr-jax train` would read an override


def budget(text: str) -> tuple[str, int]:
    """Parse "rollouts=30000" into ("rollouts", 30000). ValueError when it is no budget."""
    name, _, amount = text.partition("=")
    try:
        many = read("--budget", amount, int)
    except ValueError:
        many = 0
    if name not in BUDGETS or many < 1:
        wanted = ", ".join(f"{one}=N" for one in BUDGETS)
        raise UserError(f"--budget is {text!r}; wanted one of {wanted}, N at least 1")
    return name, many


def rules(text: str) -> list[Rule]:
    """Read rules at commas, each with the settings it carries: "recycle,foresee:gamma=0,head=0" is two.

    A setting is one of the rule's own, or any other by its full name (`dapo:rounds.max_rounds=5`).
    """
    labels: list[str] = []
    for part in (one.strip() for one in text.split(",")):
        if labels and "=" in part and ":" not in part:  # a further setting of the rule before it
            labels[-1] += f",{part}"
        elif part:
            labels.append(part)
    found = []
    for label in labels:
        name, _, carried = label.partition(":")
        typed = [one if "." in one.partition("=")[0] else f"rule.{one}" for one in carried.split(",") if one]
        found.append(Rule(label, name, tuple(typed)))
    folders = [rule.folder for rule in found]
    if not found or len(set(folders)) < len(folders):
        raise UserError(f"--rules is {text!r}; wanted distinct names at commas, as in recycle,grpo,foresee:gamma=0")
    return found


def _with_rule(settings: Config, rule: Rule, spend: tuple[str, int]) -> Config:
    """Return the config with this rule (`oracle.sampler`), ended by the step in which the budget is spent alone.

    The config's own rule keeps its settings. ValueError for rounds or an order of drawing (pool.by) of the config that
    the rule would replace.
    """
    of, (unit, many), pool, usual = oracle.sampler(rule.name), spend, settings.pool, Pool()
    for name in ("rounds", "by"):
        given = getattr(pool, name)
        if given not in (getattr(usual, name), getattr(of, name)) and not any(
            one.startswith(f"pool.{name}=") for one in rule.carried
        ):
            named = given.name if isinstance(given, Use) else given
            todo = f"give it to the rules that it is meant for: --rules {rule.label}:pool.{name}={named}"
            raise UserError(f"pool.{name} is {named!r}, which a rule of --rules brings along itself; {todo}")
    own = pool.rule if pool.rule.name == of.rule.name else of.rule
    pool = replace(pool, rule=own, rounds=of.rounds, by=of.by)
    settings = override(replace(settings, pool=pool), rule.carried)
    limits = {f"max_{one}": many if one == unit else None for one in BUDGETS}
    steps = -(-many // settings.pool.samples)  # a step of a pool nearly used up may draw a single query
    return replace(settings, train=replace(settings.train, steps=steps, **limits))


def plan(
    settings: Config,
    folder: Path,
    *,
    named: Sequence[Rule],
    seeds: int,
    spend: tuple[str, int],
) -> tuple[Job | None, list[Job]]:
    """Return the cold start, if one is to be made, and the runs, seed by seed; all checked, also against what is there.

    A seed changes what is drawn and sampled; the world and its questions have a seed of their own (`data.world.seed`).
    """
    if "=" in str(folder):
        raise UserError(f"--folder is {str(folder)!r}; wanted no '=' in it, which marks a setting on a command line")
    cold = settings.sft.steps > 0 and settings.train.init is None
    start = Job("cold start", "sft", folder / COLD_START, below(settings, COLD_START)) if cold else None
    jobs = []
    for seed in range(settings.seed, settings.seed + seeds):
        for rule in named:
            made = replace(_with_rule(settings, rule, spend), seed=seed)
            checks.check(made)
            if cold:
                made = replace(made, train=replace(made.train, init=str(folder / COLD_START)))
            made = below(replace(made, sft=replace(made.sft, steps=0)), f"{rule.folder}/seed_{seed}")
            place = folder / rule.folder / f"seed_{seed}"
            jobs.append(Job(f"{rule.label} seed {seed}", "train", place, conform("", made, Config)))
    for job in (*([start] if start else []), *jobs):
        differ = differences(runs.load(job.folder), job.settings) if job.has_begun else []
        if differ := [one for one in differ if not one.startswith(runs.MAY_CHANGE)]:
            todo = "choose another --folder, or repeat the command it was made with to go on with it"
            raise UserError(f"{job.folder} holds a run with other settings ({few(differ, between='; ')}); {todo}")
    return start, jobs


def study(
    settings: Config,
    folder: Path,
    *,
    named: Sequence[Rule],
    seeds: int,
    spend: tuple[str, int],
    at_once: int = 1,
    say: Callable[[str], None] = terminal.say,
) -> tuple[list[Path], list[Job]]:
    """Make or finish all runs; the folders of the finished ones, and the jobs that failed.

    ValueError for settings or folders that will not do, before anything starts; SystemExit when it was told to stop.
    """
    start, jobs = plan(settings, folder, named=named, seeds=seeds, spend=spend)
    launcher = Launcher(at_once, say)
    with launcher.alone(folder):
        if start and (failed := launcher.run([start], 1)):
            return [], failed
        failed = launcher.run(jobs)
    return [job.folder for job in jobs if job.done], failed
