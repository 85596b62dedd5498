"""A score's manifest: what it was measured on, and how. Scores with different manifests are not compared."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qr_jax import plugins
from qr_jax.config import Config
from qr_jax.records import Query
from qr_jax.run import plugin_record
from qr_jax.settings.settings import Use, plain, unlike, without

SUBJECT = ("model",)  # the parts that name what was measured: they may differ between compared scores
PLACES = ("index", "cache", "corpus")  # a retriever's settings that name files; the contents have a hash of their own
PROBE = Query("manifest", "What is asked here?", ("this",))
ROLLOUT = ("context_tokens", "turn_tokens", "observation_tokens", "passage_chars", "search_k")
GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}  # how greedy answers are decoded, by names of config.Evaluation


def manifest(
    settings: Config,
    *,
    questions: Mapping[str, Sequence[Query]],
    corpora: Mapping[str, str | None],
    split: str,
    samples: int,
    env: Callable,
    model: Mapping[str, Any],
    judge: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the manifest of one score, as JSON holds it.

    `questions` are those of each set and `corpora` the SHA-256 of each set's passages (None: the retriever has its
    own); `split` says in words how the questions were chosen. `env` is the bound environment; its opening text for a
    fixed question stands for the prompt. `model` says what was measured (its weights' hash, most of all) and `judge`
    who judged.
    """
    searched = _plugin("retriever", settings.retriever)
    if models := models_of(settings.retriever):
        searched["models"] = models
    prompt_sha256 = sha256(getattr(env(PROBE, []), "text", ""))
    # A greedy answer depends on neither the sampling nor the seed.
    decoding = {name: getattr(settings.rollout, name) for name in ROLLOUT}
    if settings.rollout.thinking is not None:
        decoding["thinking"] = settings.rollout.thinking
    decoding |= (sampling(settings) if samples else GREEDY) | {"samples": samples}
    asked = {name: {"count": len(part), "sha256": questions_sha256(part)} for name, part in questions.items()}
    tools = {"tools": [_plugin("tool", tool) for tool in settings.tools]} if settings.tools else {}
    return plain({
        "format": 2, "questions": asked, "split": split, "corpus_sha256": dict(corpora), "retriever": searched,
        "env": _plugin("env", settings.env) | {"prompt_sha256": prompt_sha256},
        "decoding": decoding | {"seed": settings.seed if samples else None}, "judge": judge, "model": dict(model),
        **tools,
    })  # fmt: skip


def sampling(settings: Config) -> dict[str, Any]:
    """Return the sampling settings of an evaluation's sampled answers, as `Engine.run` takes them."""
    return {name: getattr(settings.evaluation, name) for name in GREEDY}


def _plugin(kind: str, chosen: Use) -> dict[str, Any]:
    """Describe a plug-in: its name and the settings given; of one outside qr_jax all settings, and its file's SHA-256.

    qr_jax's own plug-ins change with its version alone, a user's at any time.
    """
    about = {"name": chosen.name, "settings": without(plain(chosen.settings), PLACES)}
    if code := plugin_record.code_sha256(kind, chosen.name):
        about |= {"settings": without(plugin_record.settings_of(kind, chosen), PLACES), "code_sha256": code}
    return about


def questions_sha256(queries: Sequence[Query]) -> str:
    """Return the SHA-256 of the questions in order, a line of JSON each: id, question, answers."""
    return sha256("\n".join(json.dumps([query.id, query.question, query.answers]) for query in queries))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def differences(first: Mapping[str, Any], second: Mapping[str, Any], *, skip: Sequence[str] = SUBJECT) -> list[str]:
    """Return "name: A in the first, B in the second" for every part in which two manifests differ.

    The parts named in `skip` may differ: by default what was measured. A part that only one has counts as different.
    """
    one, other = ({name: part for name, part in plain(each).items() if name not in skip} for each in (first, second))
    return [f"{name}: {_short(a)} in the first, {_short(b)} in the second" for name, a, b in unlike(one, other)]


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 48 else text[:45] + "..."


def models_of(use: Use) -> list[str]:
    """Return the SHA-256 of each model that a retriever, or a retriever inside it, searches with; [] without models.

    The file of a retriever with a model has a function `fingerprint(**settings)` beside its plug-in. Inner retrievers
    given by default settings count too. The models' files are read; ValueError if they are missing.
    """
    digests = []
    for part in plugins.with_parts(use):
        fingerprint = plugins.beside("retriever", part.name, "fingerprint")
        if fingerprint is not None:
            digests.append(fingerprint(**plugins.check("retriever", part)))
    return digests
