"""The accepted groups as the learner's batch, always of one shape."""

from collections.abc import Sequence
from dataclasses import replace

from qr_jax import plugins
from qr_jax.learner import pack
from qr_jax.learner.update import State
from qr_jax.step.grading import Group, joined
from qr_jax.step.runtime import Runtime


def of_groups(
    runtime: Runtime, state: State, groups: Sequence[Group], left_out: tuple[int, int], key: tuple[int, int]
) -> pack.Batch:
    """Groups with their episodes, packed; `left_out`: sampled tokens and episodes that were drawn beside them, `key`:
    (seed, step), by which episodes are pruned and groups copied.

    There is room for the most samples that a group may have, so that groups of any size run one program. The gold
    answers' log-probabilities under `state` come with them where the advantage names them.
    """
    settings, learn = runtime.settings.pool, runtime.settings.learner
    overlong = runtime.settings.rollout.overlong == "mask"
    cut = [[overlong and episode.stop in ("length", "context") for episode in group.episodes] for group in groups]
    sizes = dict(
        rows=learn.rows, row_tokens=learn.row_tokens, queries=runtime.most_groups, samples=runtime.most_samples
    )
    episodes, grades = [group.episodes for group in groups], joined(groups, settings.samples, runtime.turns)
    packed = pack.pack(
        episodes, grades, drop_loss=cut, drawn_tokens=left_out[0], drawn_episodes=left_out[1],
        weight_QG=plugins.around("methods.prune").weights(grades, learn.prune, *key) if learn.prune else None,
        copies_Q=plugins.around("methods.fill").copies(len(groups), settings.queries, *key) if learn.fill else None,
        share=learn.share_prefixes, **sizes,
    )  # fmt: skip
    if runtime.gold_logp is None:
        return packed
    return replace(packed, gold_logp_NT=runtime.gold_logp(runtime.learner, state, episodes, **sizes))
