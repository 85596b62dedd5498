"""A run's first or latest parameters, from a model, a checkpoint or a PEFT adapter, with the base under adapters.

A checkpoint with adapters (model.lora) holds them and the hash of the weights under them, not these weights. These
are the model's own, or a run's: of a cold start of the whole model, or of another run (train.init).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qr_jax import assemble, config
from qr_jax.config import Config
from qr_jax.errors import UserError
from qr_jax.models import decoder, lora, peft_files, peft_folder
from qr_jax.parallel import hosts
from qr_jax.parallel import mesh as meshes
from qr_jax.run import checkpoint, runs


@dataclass(frozen=True)
class Policy:
    """Trained parameters, and the frozen base under adapters with its hash; both None if the whole model is trained."""

    params: Any
    base: Any = None
    base_sha256: str | None = None
    lora: config.Lora = config.Lora()  # the adapters' settings

    def whole(self) -> Any:
        """Return one tree of what is trained and its base (`lora.whole`)."""
        return lora.whole(self.params, self.base, self.lora)


def model(settings: Config, agent: assemble.Agent, mesh) -> Policy:
    """Return the model, before any training, as a policy laid over the mesh; adapters are new, and change nothing."""
    if not settings.model.lora.rank:
        return Policy(assemble.place(agent.weights(), mesh))
    host = agent.weights(jnp.dtype(settings.model.compute))
    return Policy(_new(settings, agent, mesh), assemble.place(host, mesh), weights_sha256(host), settings.model.lora)


def check_base(settings: Config, first: Policy, agent: assemble.Agent) -> None:
    """Raise ValueError where adapters in `train.init`, a PEFT folder or a run, are of another base than the model.

    A run whose base another stage trained is checked when its weights are read (`start`).
    """
    source = settings.train.init
    if not source:
        return

    def sha256_in(dtype: str) -> str:
        known = first.base_sha256 if dtype == settings.model.compute else None
        return known or weights_sha256(agent.weights(jnp.dtype(dtype)))

    if peft_files.is_adapter(source):
        peft_folder.check_base(source, sha256_in, settings.model.name)
        return
    checkpoints, step = runs.last_checkpoint(source)
    theirs, base = runs.load(source), checkpoints.host(step).get(checkpoint.BASE)
    if base is None or theirs.train.init or theirs.sft.steps and theirs.sft.whole:
        return
    if base != (own := sha256_in(theirs.model.compute)):
        both = f"train.init={source} has adapters of a base {base[:16]}, model.name={settings.model.name} is {own[:16]}"
        raise UserError(f"{both} (SHA-256): set model.name, or seed for random weights, to what it was trained on")


def start(settings: Config, folder: str | Path, agent: assemble.Agent, mesh, source: str | Path) -> Policy:
    """Return the first policy of the run in `folder`: from `source`, which is a run's folder or a PEFT adapter's."""
    own = settings.model.lora
    if not own.rank:
        return Policy(lora.merged(of_run(source, agent, mesh).whole()))
    frozen, sha256, origin = _base(settings, folder, agent, mesh)
    if peft_files.is_adapter(source):
        adapters = peft_folder.load(source, agent.cfg, own, _new_on_host(settings, agent))
        first = Policy(assemble.place(adapters, mesh), frozen, sha256, own)
        check_base(settings, first, agent)
        return first
    # `check_start` has checked that the source's adapters have these settings. Its config is not read here: for a run
    # in a bucket only process 0 has it.
    host, params = _restored(source, agent, mesh, model=settings.model)
    if checkpoint.BASE not in host:  # the whole model was trained there, and is the base
        return Policy(_new(settings, agent, mesh), frozen, sha256, own)
    checkpoint.check_same(host, checkpoint.BASE, sha256, origin)
    return Policy(params, frozen, sha256, own)


def check_start(settings: Config, agent: assemble.Agent) -> None:
    """Raise ValueError where what `train.init` names is not of this model, or its adapters are not of these settings.

    Only headers and host values are read.
    """
    source, own = settings.train.init, settings.model.lora
    if not source:
        return
    if peft_files.is_adapter(source):
        peft_folder.check(source, agent.cfg, own, settings.model.name)
        return
    checkpoints, step = runs.last_checkpoint(source)
    host = checkpoints.host(step)
    checkpoint.check_same_model(host, agent.fingerprint)
    if own.rank and checkpoint.BASE in host and (theirs := runs.load(source).model.lora) != own:
        raise UserError(f"train.init={source} {peft_folder.differ(theirs, own)}")


def of_run(run: str | Path, agent: assemble.Agent, mesh, step: int | None = None) -> Policy:
    """Return the policy of a run's last whole checkpoint, or of that of `step`."""
    host, params = _restored(run, agent, mesh, step)
    if checkpoint.BASE not in host:
        return Policy(params)
    settings = runs.load(run)
    return Policy(params, base(settings, run, agent, mesh, host), host[checkpoint.BASE], settings.model.lora)


def adapters(run: str | Path, agent: assemble.Agent, mesh, step: int) -> tuple[Any, str | None]:
    """Return a run's adapters at `step` and the hash of their base; (whole model, None) if it has no adapters."""
    host, params = _restored(run, agent, mesh, step)
    return params, host.get(checkpoint.BASE)


def base(settings: Config, folder: str | Path, agent: assemble.Agent, mesh, host: Mapping[str, Any]) -> Any:
    """Return the frozen weights under the adapters of the run in `folder`, laid over the mesh.

    ValueError unless they are those whose hash its checkpoint has (`host`: the checkpoint's host values).
    """
    frozen, sha256, source = _base(settings, folder, agent, mesh)
    checkpoint.check_same(host, checkpoint.BASE, sha256, source)
    return frozen


def _base(settings: Config, folder: str | Path, agent: assemble.Agent, mesh) -> tuple[Any, str, str]:
    """Return a run's frozen weights in its compute dtype, their hash, and where they come from."""
    init, compute = settings.train.init, jnp.dtype(settings.model.compute)
    source = init if init and config.is_run(init) else None
    if not init and settings.sft.steps and settings.sft.whole:
        source = Path(folder) / config.COLD_START
    if source is None:
        host = agent.weights(compute)
        return assemble.place(host, mesh), weights_sha256(host), f"model.name={settings.model.name}"
    cold_start = Path(folder) / config.COLD_START
    if source == cold_start and not hosts.by_first(cold_start.exists):  # process 0 alone brings it from a bucket
        raise UserError(f"{source} is not there: it holds the weights under this run's adapters; bring the folder back")
    saved, params = _restored(source, agent, mesh)
    if checkpoint.BASE in saved:
        return _base(runs.load(source), source, agent, mesh)
    frozen = jax.tree.map(lambda leaf: leaf.astype(compute), params)
    return frozen, weights_sha256(frozen, mesh), f"the last checkpoint of {source}"


def _restored(
    run: str | Path, agent: assemble.Agent, mesh, step: int | None = None, model: config.Model | None = None
) -> tuple[dict[str, Any], Any]:
    """Return a checkpoint's host values, and what was trained: adapters alone, or the whole model.

    `model`: the settings of the adapters; None: those of the run's config.
    """
    checkpoints, last = runs.last_checkpoint(run, step)
    host = checkpoints.host(last)
    checkpoint.check_same_model(host, agent.fingerprint)
    adapts = checkpoint.BASE in host
    shapes = lora.abstract(agent.cfg, model or runs.load(run).model)[0] if adapts else decoder.abstract(agent.cfg)
    return host, checkpoints.restore(last, meshes.abstract(mesh, shapes), part="params")[0]


def _new(settings: Config, agent: assemble.Agent, mesh) -> Any:
    return assemble.place(_new_on_host(settings, agent), mesh)


def _new_on_host(settings: Config, agent: assemble.Agent) -> Any:
    """Return adapters that change nothing yet, drawn by the config's seed; the same on every process."""
    return lora.init(agent.cfg, settings.model.lora, jax.random.fold_in(jax.random.key(settings.seed), 2))


def weights_sha256(params: Any, mesh: Any = None) -> str:
    """Return the SHA-256 of the parameters' names, shapes and float32 values: equal for a run and its export.

    With a mesh they may be laid over several processes, which all call this.
    """
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = meshes.whole_everywhere(mesh)(leaf).addressable_shards[0].data
        array = np.ascontiguousarray(np.asarray(leaf), np.float32)
        total.update(f"{jax.tree_util.keystr(path)} {array.shape}".encode())
        total.update(array.view(np.uint8).reshape(-1).data)
    return total.hexdigest()
