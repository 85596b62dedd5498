"""The subject of an evaluation: a model with its weights' hash, and a search with its corpus's hash."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qr_jax import assemble, plugins
from qr_jax.config import Config, use
from qr_jax.data.corpus_hash import corpus_hash
from qr_jax.models import lora
from qr_jax.parallel import host_local
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Passage, SearchFunction
from qr_jax.run import policy, runs
from qr_jax.run.policy import weights_sha256

Opened = tuple[Any, Any, dict[str, Any]]  # agent (or its engine and tokenizer), parameters, manifest's entry


def weights(run: str | Path, agent: assemble.Agent, mesh, step: int | None = None):
    """Return the parameters of a run's last complete checkpoint, or that of `step`, sharded over the mesh.

    Adapters and their base come as one tree (`lora.whole`).
    """
    return policy.of_run(run, agent, mesh, step).whole()


def open_model(
    settings: Config, run: str | Path | None, step: int | None = None, *, hashed: bool = True
) -> tuple[assemble.Agent, Any, dict[str, Any]]:
    """Return the agent, parameters ready for rollouts, and the manifest's entry of the model.

    The model is that of a run's checkpoint; without a run, the config's own. Without `hashed` the entry has no weights'
    hash.
    """
    mesh, agent = meshes.make_mesh(settings.mesh), assemble.agent(settings)
    params = assemble.place(agent.weights(), mesh) if run is None else weights(run, agent, mesh, step)
    said: dict[str, Any] = {"weights_sha256": weights_sha256(lora.merged(params)) if hashed else None}
    said |= {"tokenizer_sha256": agent.fingerprint["tokenizer_sha256"], "compute": settings.model.compute}
    said |= {name: "int8" for name in ("weights", "cache") if getattr(settings.rollout, name) == "int8"}
    said |= {"step": runs.last_checkpoint(run, step)[1] if run else None}
    layout = host_local.rollout_layout(settings, agent.cfg, mesh)
    return agent, host_local.to_rollout_params(params, settings, agent.cfg, mesh, layout), said


@dataclass(frozen=True)
class Corpus:
    """The passages to search; `sha256` is None if the retriever has passages of its own."""

    search: Callable[[], SearchFunction]
    sha256: str | None


def corpus(settings: Config, read: Callable[[], Sequence[Passage]], *, index: str = "") -> Corpus:
    """Open the passages for the config's retriever: read only if it wants some, indexed at the first search.

    A folder in the retriever's setting `index` becomes FOLDER-`index`: FOLDER itself is for a run's passages.
    """
    retriever = settings.retriever
    if index and retriever.settings.get("index"):
        folder = f"{retriever.settings['index']}-{index}"
        retriever = use(retriever.name, **{**retriever.settings, "index": folder})
    make = plugins.bind("retriever", retriever)
    if not plugins.wants_corpus(retriever):
        return Corpus(lambda: assemble.with_tools(settings, make()), None)
    passages = read()

    def search() -> SearchFunction:
        return assemble.with_tools(settings, assemble.search_over(make, passages), passages)

    return Corpus(search, corpus_hash(passages))
