"""The policy's log-probability of the gold answer before each of its turns: `gold_logp_NT`, for advantages."""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from qr_jax.errors import UserError
from qr_jax.learner import pack
from qr_jax.learner.learner import Learner
from qr_jax.learner.update import State
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Episode, Query, grades

FEWEST_TURNS = 8  # the least size of the axis T


def gold_logp(
    learner: Learner,
    state: State,
    groups: Sequence[Sequence[Episode]],
    *,
    prefix_ids: Sequence[int],
    golds: Callable[[Query], Sequence[Sequence[int]]],
    samples: int,
    queries: int,
    rows: int,
    row_tokens: int,
) -> np.ndarray:
    """Return gold_logp_NT, float32 nats: the mean log-probability of the gold's tokens before each model turn.

    N = queries * samples, in the order of the flattened grades. The sequence of a turn is all ids before its first
    sampled token, then `prefix_ids` (what opens an answer in this environment), then one of `golds(query)`; the mean is
    over the gold's tokens alone, and the value is the largest over the golds. T is the most turns of a valid episode,
    rounded up to a power of two and at least 8. For turns that an episode does not have, and for faults, the value is
    0.

    After IGPO (Wang et al. 2025, arXiv:2510.14967), whose reward of turn t is exp(value of t + 1) - exp(value of t):
    what the turn and the observation after it told the model. Deviations: the advantage must take exp and differences
    itself; of several golds its code keeps the first, this the largest; prefix and gold are tokenised apart, and
    nothing follows the gold. Log-probabilities are those of the learner, so of logits / rollout.temperature; no
    gradient flows. A sequence longer than `row_tokens` loses the beginning of its history.

    The sequences go through `learner.old_logp` in batches of one shape ([1, rows, row_tokens]), at least one, so that a
    call without episodes compiles all that later ones need. Every process must make the same call. Raises ValueError
    for a query without a gold, an empty gold, and one that does not fit in a row.
    """
    sequences, numbers_of = _sequences(groups, samples, prefix_ids, golds, row_tokens)
    mean_X = _mean_logp(learner, state, sequences, rows, row_tokens)
    turns = max((t + 1 for _, t in numbers_of), default=0)
    gold_logp_NT = np.zeros((queries * samples, turns_axis(turns)), np.float32)
    for (n, t), numbers in numbers_of.items():
        gold_logp_NT[n, t] = mean_X[numbers].max()
    return gold_logp_NT


def turns_axis(turns: int) -> int:
    """Return the size of the axis T for up to `turns` turns: a power of two, at least 8, so that few are compiled."""
    return max(FEWEST_TURNS, 1 << max(turns - 1, 0).bit_length())


def _sequences(
    groups: Sequence[Sequence[Episode]], samples: int, prefix_ids: Sequence[int], golds: Callable, row_tokens: int
) -> tuple[list[Episode], dict[tuple[int, int], list[int]]]:
    """Return the sequences to score, each once (the samples of a query share their first turn's), and the numbers of
    those of each (n, t), one a gold."""
    sequences: list[Episode] = []
    number_of: dict[tuple[bytes, int], int] = {}  # (ids, tokens of gold) -> the sequence's number
    numbers_of: dict[tuple[int, int], list[int]] = {}
    for q, group in enumerate(groups):
        golds_of_query = _checked(golds, group[0].query, len(prefix_ids), row_tokens) if group else []
        for n, episode in enumerate(group, q * samples):
            sampled_L = np.where(episode.mask_L & episode.valid, episode.turn_L, -1)
            for t in np.unique(sampled_L[sampled_L >= 0]).tolist():
                history = episode.ids_L[: np.argmax(sampled_L == t)]
                for gold in golds_of_query:
                    room = row_tokens - len(prefix_ids) - len(gold)
                    kept = history[max(len(history) - room, 0) :]
                    ids_L = np.concatenate([kept, prefix_ids, gold]).astype(np.int32)
                    key = (ids_L.tobytes(), len(gold))
                    if key not in number_of:
                        number_of[key] = len(sequences)
                        sequences.append(_sequence(episode.query, ids_L, len(gold)))
                    numbers_of.setdefault((n, t), []).append(number_of[key])
    return sequences, numbers_of


def _checked(golds: Callable, query: Query, prefix_tokens: int, row_tokens: int) -> Sequence[Sequence[int]]:
    """Return a query's golds, after checking that each has a token and fits in a row behind prefix and history."""
    golds_of_query = golds(query)
    if not len(golds_of_query):
        raise UserError(f"query {query.id!r} has no gold answer, whose log-probability the advantage names")
    for gold in golds_of_query:
        if not len(gold):
            raise UserError(f"a gold answer of query {query.id!r} has no token; answers: {query.answers}")
        if max(prefix_tokens, 1) + len(gold) > row_tokens:
            raise UserError(
                f"a gold answer of query {query.id!r} has {len(gold)} tokens behind a prefix of {prefix_tokens}, and a "
                f"row holds {row_tokens}; raise learner.row_tokens"
            )
    return golds_of_query


def _sequence(query: Query, ids_L: np.ndarray, gold_tokens: int) -> Episode:
    """Return the ids as an episode whose sampled tokens are the gold's."""
    mask_L = np.arange(len(ids_L)) >= len(ids_L) - gold_tokens
    return Episode(
        query=query, sample=0, step=0, ids_L=ids_L, mask_L=mask_L, logp_L=np.zeros(len(ids_L), np.float32),
        turn_L=np.where(mask_L, 0, -1).astype(np.int32), turns=(), answer=None, stop="answered", valid=True,
    )  # fmt: skip


def _mean_logp(learner: Learner, state: State, sequences: list[Episode], rows: int, row_tokens: int) -> np.ndarray:
    """Return the mean log-probability of each sequence's sampled tokens, [sequences]."""
    mean_X = np.zeros(len(sequences), np.float32)
    for number_Q, batch in _batches(sequences, rows, row_tokens):
        logp_MEL = learner.old_logp(state, batch)
        assert isinstance(logp_MEL.sharding, NamedSharding), "old_logp lays its result over the mesh"
        sum_ME = jax.device_get(_sum_everywhere(logp_MEL.sharding.mesh)(logp_MEL))
        m, e = np.nonzero(batch.episode_ME >= 0)
        mean_X[number_Q[batch.episode_ME[m, e]]] = sum_ME[m, e] / batch.mask_MEL[m, e].sum(-1)
    return mean_X


def _batches(sequences: list[Episode], rows: int, row_tokens: int) -> Iterator[tuple[np.ndarray, pack.Batch]]:
    """Yield (the numbers of a batch's sequences, batch): micro-batches of one shape, filled as one packing of all."""
    per_row = pack.slots_of_row(row_tokens)
    lengths = [len(sequence.ids_L) for sequence in sequences]
    filled = pack.first_fit(lengths, row_tokens=row_tokens, per_row=per_row)
    for start in range(0, max(len(filled), 1), rows):
        numbers = sorted(number for row in filled[start : start + rows] for number in row)
        ones = np.ones((len(numbers), 1))
        batch = pack.pack(
            [[sequences[number]] for number in numbers], grades(ones, ones > 0), rows=rows, row_tokens=row_tokens,
            queries=rows * per_row, samples=1, per_row=per_row, micro=1,
        )  # fmt: skip
        yield np.array(numbers, np.int64), batch


@functools.cache
def _sum_everywhere(mesh: Mesh):
    """Return the jitted sum over tokens, [M, E, L] -> [M, E], replicated over the mesh."""
    return jax.jit(lambda logp_MEL: logp_MEL.sum(-1), out_shardings=meshes.replicated(mesh))
