"""Grading: a query's episodes become a Group, once, with their grades, their cost and their faults.

A Group is made on the process that rolled its episodes out. The others get its grades and counts
(rollout_and_grade.py). Pool, batch, ledger and metrics all read the same Groups, so
nothing is graded twice.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qr_jax import answers
from qr_jax.errors import UserError
from qr_jax.parallel import plain
from qr_jax.pool.noise import uniforms
from qr_jax.records import Episode, Grades, Query, Scores, grades

SHUFFLE = 2  # the first part of a key of `uniforms`: rewards shuffled for the control
LEAST_TURNS = 8  # room for turn rewards; doubled if an episode has more turns, to compile few shapes
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Spent:
    """The cost of one query's rollouts, in counts. Every process has it for all queries, episodes only for its own."""

    episodes: int
    invalid: int  # faults, those of grading included
    ungraded: int  # faults of grading: the reward gave no finite number
    turns: int  # of the model
    searches: int
    tokens: int  # sampled
    context_tokens: int
    valid_tokens: int  # sampled, of valid episodes
    valid_episodes: int  # those with sampled tokens
    surprise: float  # nats: -log p of the sampled tokens, added up
    stops: dict[str, int]
    fault: str | None  # the first one's reason, of grading if there is one
    unanswered: int = 0  # faults of searches
    parallel_turns: int = 0  # of the model, that ask several queries at once


@dataclass(frozen=True, eq=False)
class Group:
    """One query's rollouts of a step with their grades.

    `grades` are of this query alone, [1, G]. `episodes` are there on the process that rolled them out, and on all once
    the group is to be trained on; an episode that could not be graded is a fault there, too.
    """

    index: int  # of the query in the pool
    process: int  # which rolled it out
    episodes: tuple[Episode, ...]
    grades: Grades
    spent: Spent

    def to_plain(self, *, episodes: bool = True) -> dict[str, Any]:
        """Convert the group to a nested host value (parallel/plain.py), for checkpoints and messages."""
        listed = [plain.episode_to_plain(episode) for episode in self.episodes] if episodes else []
        more = {"grades": dict(vars(self.grades)), "spent": dict(vars(self.spent))}
        return {"index": self.index, "process": self.process, "episodes": listed, **more}


def from_plain(value: Mapping[str, Any]) -> Group:
    """Rebuild the group that `to_plain` gave."""
    episodes = tuple(map(plain.episode_from_plain, value["episodes"]))
    return Group(value["index"], value["process"], episodes, Grades(**value["grades"]), Spent(**value["spent"]))


def check_turns(groups: Iterable[Group], name: str, most: int | None) -> None:
    """Raise ValueError if the reward `name` gave rewards of turns, and its file does not declare how many at `most`."""
    if most is None and any(group.grades.turn_reward_QGT is not None for group in groups):
        raise UserError(
            f"reward {name!r} gave rewards of turns, and its file does not declare how many; "
            "write MAX_TURNS = 8 (the most turns of most episodes) in it"
        )


def grade(
    reward: Callable[..., Scores], name: str, index: int, process: int, query: Query, episodes: Sequence[Episode]
) -> Group:
    """Grade a query's episodes as its Group. Call it once for a group, and again only when it has grown.

    `reward` is bound and checked (interfaces.py), `name` its name. A score that is no finite number makes its episode a
    fault. Without outcomes from the reward, exact match says what is correct.
    """
    scores = reward(query, tuple(episodes))  # a tuple: a plug-in cannot shorten it
    outcome_G = scores.outcome_G
    if outcome_G is None:
        outcome_G = [answers.exact_match(episode.answer, query.answers) for episode in episodes]
    turns = () if scores.turn_GT is None else turn_rewards(scores.turn_GT)
    valid_G = np.array([episode.valid for episode in episodes], bool)
    graded = grades(scores.score_G[None], valid_G[None], np.asarray(outcome_G)[None], *turns)
    lost_G = valid_G & ~graded.valid_QG[0]
    episodes = tuple(
        replace(episode, valid=False, fault=_fault(name, scores, query, g)) if lost_G[g] else episode
        for g, episode in enumerate(episodes)
    )
    cost = spent(episodes, ungraded=int(lost_G.sum()))
    if lost_G.any():
        cost = replace(cost, fault=episodes[int(lost_G.argmax())].fault)
    return Group(index, process, episodes, graded, cost)


def _fault(name: str, scores: Scores, query: Query, g: int) -> str:
    values = [("", scores.score_G[g])] + ([] if scores.outcome_G is None else [("an outcome of ", scores.outcome_G[g])])
    values += [] if scores.turn_GT is None else [("a turn reward of ", value) for value in scores.turn_GT[g]]
    what, value = next((what, value) for what, value in values if not abs(value) <= LARGEST)
    return f"reward {name!r} gave {what}{value} for sample {g} of query {query.id!r}"


def turn_rewards(turn_GT: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pad ragged rewards of one group's turns as (turn_reward [1, G, T], turn_valid [1, G, T])."""
    turns = max(map(len, turn_GT))
    reward, valid = np.zeros((1, len(turn_GT), turns)), np.zeros((1, len(turn_GT), turns), bool)
    for g, row in enumerate(turn_GT):
        reward[0, g, : len(row)], valid[0, g, : len(row)] = row, True
    return reward, valid


def spent(episodes: Sequence[Episode], *, ungraded: int = 0) -> Spent:
    """Count what a group's episodes took."""
    sampled = [int(episode.mask_L.sum()) for episode in episodes]
    valid = [tokens for tokens, episode in zip(sampled, episodes, strict=True) if episode.valid]
    return Spent(
        episodes=len(episodes),
        invalid=len(episodes) - len(valid),
        ungraded=ungraded,
        turns=sum(episode.model_turns for episode in episodes),
        searches=sum(len(turn.queries) for episode in episodes for turn in episode.turns),
        tokens=sum(sampled),
        context_tokens=sum(len(episode.ids_L) for episode in episodes),
        valid_tokens=sum(valid),
        valid_episodes=sum(tokens > 0 for tokens in valid),
        surprise=-float(sum(episode.logp_L[episode.mask_L].sum(dtype=np.float64) for episode in episodes)),
        stops=dict(Counter(episode.stop for episode in episodes)),
        fault=next((episode.fault for episode in episodes if not episode.valid), None),
        unanswered=sum(map(_has_no_answer, episodes)),
        parallel_turns=sum(len(turn.queries) > 1 for episode in episodes for turn in episode.turns),
    )


def _has_no_answer(episode: Episode) -> bool:
    """Return True if an episode ended because its search failed: it asked, and was shown nothing."""
    asked = episode.turns[-1] if episode.turns else None
    return episode.stop == "fault" and asked is not None and bool(asked.queries) and not asked.passages


def unanswered(group: Group) -> list[Episode]:
    """Return the episodes, of those on this process, that ended because a search failed."""
    return [episode for episode in group.episodes if _has_no_answer(episode)]


def before_grading(group: Group) -> list[Episode]:
    """Return the group's episodes as they were before `grade` marked those without a grade as faults."""
    return [
        replace(episode, valid=True, fault=None) if episode.stop != "fault" else episode for episode in group.episodes
    ]


def joined(groups: Sequence[Group], samples: int, turns: int | None = None) -> Grades:
    """Join the groups' grades as one, [Q, G]: as wide as the widest and at least `samples`, padded with valid False.

    `turns`: room for turn rewards even where no group has any; it is doubled until all turns have room.
    """
    widest = max([samples, *(group.grades.valid_QG.shape[1] for group in groups)])
    rewarded = [group.grades.turn_reward_QGT for group in groups if group.grades.turn_reward_QGT is not None]
    room = turns or LEAST_TURNS
    while any(array.shape[2] > room for array in rewarded):
        room *= 2

    def stack(name: str, *more: int) -> np.ndarray:
        dtype = bool if "valid" in name else np.float32
        stacked = np.zeros((len(groups), widest, *more), dtype)
        for q, group in enumerate(groups):
            array = getattr(group.grades, name)
            if array is not None:  # a group without turn rewards beside others that have some
                stacked[(q, *(slice(size) for size in array.shape[1:]))] = array[0]
        return stacked

    return Grades(
        stack("reward_QG"),
        stack("valid_QG"),
        stack("outcome_QG"),
        stack("turn_reward_QGT", room) if rewarded or turns else None,
        stack("turn_valid_QGT", room) if rewarded or turns else None,
    )


def shuffled(groups: Sequence[Group], seed: int, step: int) -> list[Group]:
    """Return the groups with valid rewards permuted over all valid episodes, as a control without information.

    An episode gets the reward of another, and counts as right if that is 1. Turn rewards cannot be dealt among
    episodes of unlike lengths: ValueError.
    """
    if any(group.grades.turn_reward_QGT is not None for group in groups):
        raise UserError(
            "train.shuffle_rewards=true deals rewards over episodes, and this reward gives some to turns; run the "
            "control with a reward that gives none (reward=exact_match)"
        )
    valid = [group.grades.valid_QG[0] for group in groups]
    rewards = np.concatenate([group.grades.reward_QG[0][valid_G] for group, valid_G in zip(groups, valid, strict=True)])
    rewards = rewards[np.argsort(uniforms(len(rewards), SHUFFLE, seed, step), kind="stable")]
    parts = np.split(rewards, np.cumsum([valid_G.sum() for valid_G in valid])[:-1])
    dealt = []
    for group, valid_G, part in zip(groups, valid, parts, strict=True):
        reward_G = np.array(group.grades.reward_QG[0])
        reward_G[valid_G] = part
        right_G = (reward_G == 1).astype(np.float32)
        dealt.append(replace(group, grades=Grades(reward_G[None], valid_G[None], right_G[None])))
    return dealt
