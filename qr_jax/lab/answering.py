"""An agent answers a suite's questions: a row for each in a file, from which the same command resumes; then a score.

The folder holds answers.jsonl, manifest.json (how the questions were asked, so that answers of another evaluation never
mix with these) and score.json (every figure, with the manifest). A folder in a run of somebody else is refused before
(run_folders.check_own): answers there would become this user's score."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from qr_jax import answers, assemble, plugins
from qr_jax.config import Config
from qr_jax.data import readers
from qr_jax.errors import UserError
from qr_jax.evaluation import manifest, subject
from qr_jax.lab import suite
from qr_jax.lab.judge import Judge, of_rows, verdicts_of
from qr_jax.logging import terminal
from qr_jax.records import Episode, Query, SearchFunction, Turn
from qr_jax.run import run_files, run_lock
from qr_jax.run.json_files import write_json
from qr_jax.settings import json_text

TOLD = ("answered", "no_action", "turns")  # endings that the environment itself declares, and so can be timed by it
Say = Callable[[str], None]


def answer(
    settings: Config,
    *,
    name: str,
    out: Path | None,
    place: Path,
    run: Path | None = None,
    step: int | None = None,
    part: Literal["eval", "all"] = "eval",
    limit: int | None = None,
    samples: int | None = None,
    judge: tuple[str, str] | None = None,
    judging: Mapping[str, Any] = MappingProxyType({}),
    say: Say = terminal.say,
    opened: subject.Opened | None = None,
) -> dict[str, Any]:
    """Answer a suite and return its score, with its manifest and the folder that it was written to.

    The model is that of `run`'s checkpoint, or without a run the config's own, or the one that is `opened` already.
    Answers go to `out`, or to a folder in `place` that is named by the suite and the manifest. `judge` is an endpoint's
    URL and its model, `judging` further settings of Judge. Existing answers count.
    ValueError if `out` holds answers of another manifest, with all differences, or a line that is no answer.
    """
    samples = settings.evaluation.samples if samples is None else samples
    searched = plugins.wants_corpus(settings.retriever)
    asked, missing = suite.questions(settings, name, part=part, limit=limit, searched=searched)
    for line in [f"{set_name} is missing: {why}" for set_name, why in missing.items()] + suite.too_few(asked, limit):
        say(line)
    agent, params, model = opened or subject.open_model(settings, run, step)
    env = assemble.environment(settings)
    corpus_of = suite.sets(name)
    used = sorted({corpus_of[set_name] for set_name in asked})
    passages = {corpus: partial(readers.read_passages, suite.corpus_file(corpus)) for corpus in used}
    corpora = {corpus: subject.corpus(settings, passages[corpus], index=corpus) for corpus in used}
    of_set = {set_name: corpora[corpus_of[set_name]] for set_name in asked}
    hashes, split = {name: each.sha256 for name, each in of_set.items()}, suite.split_in_words(settings, part, limit)
    about = manifest.manifest(
        settings, questions=asked, corpora=hashes, split=split, samples=samples, env=env, model=model
    )
    digest = manifest.sha256(json.dumps(about, sort_keys=True))
    folder = out or place / f"{name}_{digest[:8]}"
    with run_lock.held(folder, "another folder with --out"):
        _go_on(folder, about)
        rows = suite.rows_of(folder)
        run_files.drop_last_line(folder / suite.FILE)
        have = {(row["set"], row["id"]) for row in rows}
        waiting = {
            each: [query for query in queries if (each, query.id) not in have] for each, queries in asked.items()
        }
        if any(waiting.values()):
            say(f"{folder}: {len(have)} questions are answered, {sum(map(len, waiting.values()))} are not")
            ask = _Asking(settings, agent.engine, params, env, samples)
            searches = {set_name: each.search for set_name, each in of_set.items()}
            rows += list(_answers(ask, folder, waiting, searches, corpus_of, say))
            if text := assemble.unreadable(agent.tokenizer, [query for queries in asked.values() for query in queries]):
                say(text)
        return _write_score(folder, name, asked, rows, missing, about, judge, judging)


def _go_on(folder: Path, about: Mapping[str, Any]) -> None:
    """Write the manifest `about`, or check it against the folder's."""
    file = folder / "manifest.json"
    if file.is_file():
        there = None if run_files.wrong(file) else json_text.parse_or_none(file.read_bytes())
        if not isinstance(there, dict):
            todo = "name another folder with --out, or take that away"
            raise UserError(f"{file} is no manifest of an evaluation; {todo}")
        if differ := manifest.differences(there, about, skip=()):
            other = f"another evaluation (the first is the folder's, the second asked for: {'; '.join(differ)})"
            todo = "name another folder with --out, or repeat that evaluation's settings"
            raise UserError(f"{folder} holds answers of {other}; {todo}")
        return
    if (folder / suite.FILE).exists():
        raise UserError(f"{folder} holds answers without a manifest; name another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, about)


def _line(row: Mapping[str, Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "surrogatepass")


class _Clock:
    """An environment that notes when each question was opened and when its last move was made."""

    def __init__(self, env: Callable):
        self.env, self.opened, self.moved = env, {}, {}

    def __call__(self, query: Query, turns: Sequence[Turn]):
        (self.moved if turns else self.opened)[query.id] = time.monotonic()
        return self.env(query, turns)


@dataclass(frozen=True)
class _Asking:
    """Settings, engine and parameters with which batches of questions are asked."""

    settings: Config
    engine: Any
    params: Any
    env: Callable
    samples: int

    def batch(self, set_name: str, queries: Sequence[Query], search: SearchFunction) -> list[dict[str, Any]]:
        """Return a row for each question without a fault. A sample depends on its question, not on the batch."""
        clock = _Clock(self.env)
        numbers = [int(readers.digest(query)[:8], 16) for query in queries]
        how: dict[str, Any] = {"search": search, "seed": self.settings.seed, "step": 0, "query_keys": numbers}
        start = time.monotonic()
        greedy = self.engine.run(self.params, queries, 1, env=clock, purpose="greedy", temperature=0.0, **how)
        seconds = (time.monotonic() - start) / len(queries)
        sampled: list[list[Episode]] = [[] for _ in queries]
        if self.samples:
            how |= {"env": self.env, "purpose": "pass", **manifest.sampling(self.settings)}
            sampled = self.engine.run(self.params, queries, self.samples, **how)
        rows = []
        for query, (first,), more in zip(queries, greedy, sampled, strict=True):
            if first.valid and all(episode.valid for episode in more):
                told = first.stop in TOLD and query.id in clock.moved
                latency_s = clock.moved[query.id] - clock.opened[query.id] if told else None
                about = {
                    "set": set_name,
                    "id": query.id,
                    "question": query.question,
                    "golds": list(answers.told(query)),
                }
                about |= {group: query.meta.get(group) for group in suite.GROUPS}
                said = {"greedy": _told(first) | {"latency_s": latency_s}, "samples": [_told(each) for each in more]}
                rows.append(about | said | {"seconds": seconds})
        return rows


def _told(episode: Episode) -> dict[str, Any]:
    searched = [str(asked) for turn in episode.turns for asked in turn.queries]
    said = {"answer": episode.answer, "stop": episode.stop}
    return said | {"searched": searched, "tokens": int(episode.mask_L.sum())}


def _answers(
    ask: _Asking,
    folder: Path,
    waiting: Mapping[str, Sequence[Query]],
    searches: Mapping[str, Callable],
    corpus_of,
    say: Say,
) -> Iterator[dict[str, Any]]:
    """Yield the missing answers; a batch's rows are on the disk before they are yielded."""
    size = 2 * ask.settings.rollout.slots
    opened: dict[str, SearchFunction] = {}
    for set_name in sorted(waiting, key=corpus_of.__getitem__):  # one index at a time
        for at in range(0, len(waiting[set_name]), size):
            if corpus_of[set_name] not in opened:
                opened = {corpus_of[set_name]: searches[set_name]()}
            queries = waiting[set_name][at : at + size]
            start = time.monotonic()
            with terminal.phase(f"{set_name}: episodes", asked=ask.engine.progress):
                rows = ask.batch(set_name, queries, opened[corpus_of[set_name]])
            with (folder / suite.FILE).open("ab") as file:
                file.write(b"".join(_line(row) for row in rows))
                file.flush()
                os.fsync(file.fileno())
            faults = f", {len(queries) - len(rows)} with a fault" if len(rows) < len(queries) else ""
            done = f"{at + len(queries)} of {len(waiting[set_name])}{faults}"
            say(f"{set_name}: {done}, {(time.monotonic() - start) / len(queries):.2f} s a question")
            yield from rows


def _write_score(
    folder: Path,
    name: str,
    asked,
    rows,
    missing,
    about: Mapping[str, Any],
    judge: tuple[str, str] | None,
    how: Mapping[str, Any],
) -> dict[str, Any]:
    """Score and write, judged as `how` says; first without the judge, so that its failure costs nothing."""
    figures = suite.score(name, asked, rows, missing) | {"manifest": dict(about), "folder": str(folder)}
    write_json(folder / "score.json", figures)
    if judge is None:
        return figures
    endpoint = Judge(*judge, verdicts_of(folder), **how)
    said, verdict = of_rows(endpoint, rows)
    figures |= suite.score(name, asked, rows, missing, verdict)
    figures |= {"judge": said, "manifest": {**about, "judge": endpoint.describe() if verdict else None}}
    write_json(folder / "score.json", figures)
    return figures
