"""Pack episodes into rows of fixed shape, with the indices that bring each token's log-probability back out.

Samples of a query share a prefix: its prompt, and what follows for as long as their tokens agree. With `share`
a common prefix is laid in a row once, as the trunk of a tree whose branches follow it (Liu et al. 2025,
arXiv:2506.05433): each token sees the tokens on its own way from the root, and the sums are those of whole episodes."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import qr_jax.learner.variance  # noqa: F401  (it makes Grades, a field of Batch, a pytree)
from qr_jax.records import Episode, Grades


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """The learner's input: M micro-batches of R rows by C columns, with E = R * per_row slots of L = C tokens.

    A row holds whole episodes one after another, or trees of them, each a segment; slot e of a micro-batch is the (e %
    per_row)-th episode of row e // per_row. The log-probability of token l of an episode is found at `source` in the
    flattened [R * C] predictions; token 0 is predicted by nothing and never trained. Unused slots and micro-batches are
    all padding.
    """

    ids_MRC: Any  # int32, 0 where padding
    position_MRC: Any  # int32, from 0 in each segment
    segment_MRC: Any  # int32, 1, 2, ... within a row; 0 is padding
    last_MRC: Any  # int32, the last column that sees this one: its segment's last, or its branch's; -1 where padding
    target_MRC: Any  # int32, the next id of the same episode; 0 at an episode's last token
    source_MEL: Any  # int32, index into R * C of the position that predicts this token; 0 where there is none
    mask_MEL: Any  # bool, True on the sampled tokens that are trained
    rollout_logp_MEL: Any  # float32 nats under the sampler, 0 where not sampled
    turn_MEL: Any  # int32, the model's turns from 0; -1 elsewhere
    episode_ME: Any  # int32, index into the flattened [Q * G] of grades; -1 is an empty slot
    used_M: Any  # bool, False where a micro-batch is all padding; the used ones come first
    grades: Grades  # [Q, G], padded with valid False
    drawn_tokens: Any  # int32 [], sampled tokens of valid episodes that were drawn and are not in the batch
    drawn_episodes: Any  # int32 [], those episodes
    weight_Q: Any  # float32, how often a group counts in the batch (methods/fill.py repeats groups)
    turns_QG: Any  # int32, the model's turns in a valid episode, in the rows or not; 0 of faults and padding
    beside_tokens: Any  # int32 [], sampled tokens of repeated groups' copies, which the denominators count
    beside_episodes: Any  # int32 [], those episodes
    gold_logp_NT: Any = None  # float32 nats of the gold answer before each turn; None where no advantage asks for it


COUNTS = ("drawn_tokens", "drawn_episodes", "beside_tokens", "beside_episodes")


@dataclass(frozen=True)
class _Item:
    episode: Episode
    at: int  # index into the flattened [Q * G]


@dataclass
class _Tree:
    """Episodes and the tokens that they need together, each branch after all that it grows from."""

    items: list[_Item]
    ids: list[int]
    position: list[int]  # in the episodes
    last: np.ndarray  # where the token's branch ends
    target: list[int]
    columns: list[np.ndarray]  # of each episode's tokens


def pack(
    episodes_by_group: Sequence[Sequence[Episode]],
    grades: Grades,
    *,
    rows: int,
    row_tokens: int,
    queries: int,
    samples: int,
    per_row: int | None = None,
    micro: int | None = None,
    drawn_tokens: int = 0,
    drawn_episodes: int = 0,
    drop_loss: Sequence[Sequence[bool]] | None = None,
    copies_Q: np.ndarray | None = None,
    share: bool = False,
) -> Batch:
    """Pack episodes [group][sample] and their grades into a host Batch of numpy arrays; first-fit decreasing.

    All shapes follow from (micro, rows, row_tokens, per_row, queries, samples), so that nothing is compiled again;
    micro None is ceil(queries * samples / rows), which always suffices. The last axis of turn rewards keeps
    its size. Left out of the rows, as they train nothing, are episodes invalid in the grades (faults), those with
    `drop_loss[group][sample]` True (over-long ones, say, whose rewards stay in their group) and those without a sampled
    token. A group counts as if it stood in the batch `copies_Q` times (methods/fill.py). per_row None is 8, or one per
    256 tokens of a longer row, so that tokens, not the number of episodes, fill a row; per_row=1 gives one padded row
    per episode. With `share` the default is twice that, and a group's episodes lie in as few trees as rows have room
    for.
    """
    grades = _pad_grades(episodes_by_group, grades, queries, samples)
    items = _trained(episodes_by_group, grades, drop_loss, samples, row_tokens)
    times_Q = np.ones(queries, np.int64)
    if copies_Q is not None:
        times_Q[: len(copies_Q)] = copies_Q
    beside_X = np.array([times_Q[item.at // samples] - 1 for item in items], np.int64)
    beside = beside_X @ [item.episode.mask_L.sum() for item in items] if items else 0, beside_X.sum()
    per_row = slots_of_row(row_tokens) * (1 + share) if per_row is None else per_row
    trees = _trees(items, samples, row_tokens, per_row) if share else [_tree([item]) for item in items]
    lengths, counts_T = [len(tree.ids) for tree in trees], [len(tree.items) for tree in trees]
    filled = first_fit(lengths, row_tokens=row_tokens, per_row=per_row, episodes=counts_T)
    opened = [[trees[at] for at in row] for row in filled]
    micro = -(-queries * samples // rows) if micro is None else micro
    assert len(opened) <= micro * rows, "there are rows for all episodes"
    counts = drawn_tokens, drawn_episodes, *beside
    return _lay_out(
        opened, grades, micro, rows, row_tokens, per_row, turns_QG=_turns(episodes_by_group, grades),
        weight_Q=times_Q.astype(np.float32),
        **{name: np.asarray(count, np.int32) for name, count in zip(COUNTS, counts, strict=True)},
    )  # fmt: skip


def slots_of_row(row_tokens: int) -> int:
    """Return how many episodes a row may hold by default: 8, or one per 256 tokens of a longer row."""
    return max(8, row_tokens // 256)


def first_fit(
    lengths: Sequence[int], *, row_tokens: int, per_row: int, episodes: Sequence[int] | None = None
) -> list[list[int]]:
    """Assign episodes, or trees of so many `episodes` each, to rows by length (tokens); return each row's indices.

    Longest first, each into the first row with room for it; equal lengths in the order given. The episodes of
    consecutive rows get the same rows again if packed alone, in the same order.
    """
    many = [1] * len(lengths) if episodes is None else episodes
    opened: list[list[int]] = []
    free: list[int] = []
    held: list[int] = []  # episodes
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        for row, room in enumerate(free):
            if room >= lengths[at] and held[row] + many[at] <= per_row:
                break
        else:
            row = len(opened)
            opened.append([])
            free.append(row_tokens)
            held.append(0)
        opened[row].append(at)
        free[row] -= lengths[at]
        held[row] += many[at]
    return opened


def packing_efficiency(batch: Batch) -> float:
    """Return tokens / computed positions, in [0, 1]: empty rows of a used micro-batch count; 0 when empty."""
    used_M = np.asarray(batch.used_M)
    filled_MRC = np.asarray(batch.segment_MRC) > 0
    return float(filled_MRC.sum()) / float(used_M.sum() * filled_MRC[0].size) if used_M.any() else 0.0


def _pad_grades(episodes_by_group, grades: Grades, queries: int, samples: int) -> Grades:
    groups, wide = np.shape(grades.reward_QG)
    assert groups == len(episodes_by_group) and groups <= queries and wide <= samples, "the batch has room for them"
    beyond = [grades.valid_QG[q][len(group) :] for q, group in enumerate(episodes_by_group)]
    assert not any(np.any(valid_G) for valid_G in beyond), "a valid grade has its episode"

    def padded(value):
        if value is None:
            return None
        value = np.asarray(value)
        return np.pad(value, [(0, queries - groups), (0, samples - wide)] + [(0, 0)] * (value.ndim - 2))

    return Grades(**{name: padded(value) for name, value in vars(grades).items()})


def _turns(episodes_by_group, grades: Grades) -> np.ndarray:
    turns_QG = np.zeros_like(grades.valid_QG, np.int32)
    for q, g in zip(*np.nonzero(grades.valid_QG), strict=True):
        turns_QG[q, g] = episodes_by_group[q][g].model_turns
    return turns_QG


def _trained(episodes_by_group, grades: Grades, drop_loss, samples: int, row_tokens: int) -> list[_Item]:
    items = []
    for q, group in enumerate(episodes_by_group):
        for g, episode in enumerate(group):
            if g >= samples or not grades.valid_QG[q, g]:
                continue
            assert episode.valid, "a fault's grade is not valid"
            if (drop_loss is not None and drop_loss[q][g]) or not np.any(episode.mask_L):
                continue
            assert not episode.mask_L[0], "a prompt comes first: nothing predicts an episode's first token"
            assert len(episode.ids_L) <= row_tokens, "an episode fits a row (settings/checks.py)"
            items.append(_Item(episode, q * samples + g))
    return items


def _trees(items: list[_Item], samples: int, row_tokens: int, per_row: int) -> list[_Tree]:
    """Merge each group's episodes into trees that fit into a row."""
    trees: list[_Tree] = []
    for _, group in itertools.groupby(items, lambda item: item.at // samples):
        own: list[_Item] = []
        tree = None
        for item in sorted(group, key=lambda item: item.episode.ids_L.tolist()):  # branches of one trunk side by side
            grown = _tree([*own, item])
            if tree is not None and (len(grown.ids) > row_tokens or len(grown.items) > per_row):
                trees.append(tree)
                grown = _tree([item])
            tree, own = grown, grown.items
        if tree is not None:
            trees.append(tree)
    return trees


def _tree(items: list[_Item]) -> _Tree:
    """Build the tree of episodes that are sorted by their ids.

    A token in a row has one target, the next id. So two episodes share their common prefix but for its last
    token: each has its own copy of that one, because a different token follows it. Equal episodes share all.
    """
    tree = _Tree(items, [], [], np.zeros(0, np.int32), [], [])
    before: list[int] = []
    for item in items:
        ids = item.episode.ids_L.tolist()
        alike = next(
            (at for at, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), min(len(before), len(ids))
        )
        shared = alike if before == ids else max(alike - 1, 0)
        new = np.arange(len(tree.ids), len(tree.ids) + len(ids) - shared, dtype=np.int32)
        columns = np.concatenate([tree.columns[-1][:shared], new]) if tree.columns else new
        tree.ids += ids[shared:]
        tree.position += range(shared, len(ids))
        tree.target += [*ids[shared + 1 :], 0][: len(ids) - shared]
        tree.columns.append(columns)
        tree.last = np.concatenate([tree.last, new])
        tree.last[columns] = np.maximum(tree.last[columns], len(tree.ids) - 1)
        before = ids
    return tree


def _lay_out(opened: list[list[_Tree]], grades, micro, rows, row_tokens, per_row, **whole) -> Batch:
    in_rows, in_slots = (micro, rows, row_tokens), (micro, rows * per_row, row_tokens)
    ids, position, segment, target = (np.zeros(in_rows, np.int32) for _ in range(4))
    last = np.full(in_rows, -1, np.int32)
    source, mask = np.zeros(in_slots, np.int32), np.zeros(in_slots, bool)
    rollout_logp, turn = np.zeros(in_slots, np.float32), np.full(in_slots, -1, np.int32)
    slot_of = np.full(in_slots[:2], -1, np.int32)
    for number, trees in enumerate(opened):
        m, r = divmod(number, rows)
        column, e = 0, r * per_row
        for k, tree in enumerate(trees):
            place = (m, r, slice(column, column + len(tree.ids)))
            ids[place], position[place], target[place] = tree.ids, tree.position, tree.target
            segment[place], last[place] = k + 1, column + tree.last
            for item, columns in zip(tree.items, tree.columns, strict=True):
                episode, tokens = item.episode, len(columns)
                source[m, e, 1:tokens] = r * row_tokens + column + columns[:-1]
                mask[m, e, :tokens] = episode.mask_L
                rollout_logp[m, e, :tokens] = np.where(episode.mask_L, episode.logp_L, 0)
                turn[m, e, :tokens] = episode.turn_L
                slot_of[m, e] = item.at
                e += 1
            column += len(tree.ids)
    used = np.arange(micro) * rows < len(opened)
    return Batch(ids, position, segment, last, target, source, mask, rollout_logp, turn, slot_of, used, grades, **whole)
