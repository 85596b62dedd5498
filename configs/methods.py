"""Neighbouring methods: each config is plain GRPO on the quickstart's task with the changes of one method.

    qr-jax train configs/methods.py:gspo             # any name below; `grpo` changes nothing
    make bench-methods       # the screen: all of them, 15,000 rollouts each, two seeds (hours; resumable)

A step has 128 rollouts. Each method's file describes the method; `python -m benchmarks.figures methods` shows the
results. Nothing here is tuned. A loss that differs from GRPO's only after a batch's first update gets two updates a
batch; compare it with `grpo_two_updates`. `keep_zero_variance` is for methods that learn from groups of equal rewards,
too.
"""

from pathlib import Path

from qr_jax.cli.overrides import override
from qr_jax.config import load

QUICKSTART = load(Path(__file__).with_name("quickstart.py"))
BASE = ["rule=grpo", "pool.queries=16", "pool.samples=8", "learner.lr=7e-4"]

TWO = ["learner.updates=2"]
EPISODES = ["learner.reduce=sequence_mean"]
DEAD = ["learner.keep_zero_variance=true"]
WORD_LEVEL = [f"env.{name}={words}" for name, words in QUICKSTART.env.settings.items() if name != "think"]
ENTITIES = ["reward=e_grpo", "reward.alpha=0.001", "pool.channel=outcome"]  # turn rewards; the score: near exact match
FEWER = ["pool.queries=8"]

METHODS = {
    "grpo": [],
    "grpo_two_updates": TWO,
    # losses
    "gspo": [*TWO, *EPISODES, "loss=gspo"],
    "gspo_token": [*TWO, *EPISODES, *ENTITIES, "loss=gspo_token", "learner.advantage=cw_grpo"],
    "cispo": [*TWO, "loss=cispo"],
    "sapo": [*TWO, *EPISODES, "loss=sapo"],
    "llds": [*TWO, *DEAD, "loss=llds"],
    "disco": [*TWO, *EPISODES, "loss=cispo", "loss.low=0", "loss.high=0", "learner.advantage=disco"],
    "forward_kl": ["learner.kl=k3", "learner.kl_weight=0.01"],
    "importance_sequence": ["learner.importance=truncate", "learner.importance_by=sequence"],
    "importance_geometric": ["learner.importance=icepop", "learner.importance_by=geometric"],
    "overlong": ["reward=overlong", "reward.of=exact_match", "reward.most_tokens=32", "reward.buffer_tokens=16"],
    # advantages
    "dr_grpo": ["learner.advantage=dr_grpo", "learner.reduce=fixed_length", "learner.horizon_tokens=48"],
    "rloo": ["learner.advantage=rloo"],
    "max_rl": ["learner.advantage=max_rl"],
    "reinforce_rej": ["learner.advantage=reinforce_rej"],
    "raft_pp": [*TWO, *DEAD, "learner.advantage=raft_pp"],
    "reinforce_pp": [*DEAD, "learner.advantage=reinforce_pp"],
    "reinforce_pp_baseline": [*DEAD, "learner.advantage=reinforce_pp", "learner.advantage.baseline=group"],
    "opo": ["learner.advantage=opo"],
    "stratified": ["learner.advantage=stratified"],
    "cw_grpo": [*ENTITIES, "learner.advantage=cw_grpo"],
    "igpo": [*DEAD, "reward=f1", "learner.advantage=igpo"],
    "rl_zvp": [*DEAD, "learner.advantage=rl_zvp"],
    "turn_returns": ["reward=e_grpo", "learner.advantage=turn_returns"],
    # rewards; where a paper asks a judge, its rule-based stand-in
    "e_grpo": ENTITIES,
    "carr": ["reward=carr"],
    "ikea": ["reward=ikea"],
    "deep_researcher": ["reward=deep_researcher"],
    "atom_searcher": ["reward=atom_searcher", "reward.steps=118"],  # steps of 128 rollouts: the screen's 15,000
    "info_reasoner": ["reward=info_reasoner"],
    "search_gen_v": ["reward=search_gen_v", "reward.chain=0.5"],  # chain: answers of one word alone are all or nothing
    "o2_searcher": ["reward=o2_searcher", "reward.think=false"],
    "ai_search_planner": ["reward=ai_search_planner"],  # with reward.process=0 only the price of turns is left
    "contributions": ["reward=contributions", "learner.advantage=cw_grpo"],
    "search_r1_format": ["reward=search_r1_format", "reward.think=false"],  # the world's experts write no thoughts
    # environments and retrievers
    "ada_search": ["env=ada_search", *WORD_LEVEL, "reward=ada_search"],
    "reseek": ["env=reseek", *WORD_LEVEL, "reward=reseek"],
    "noisy": ["retriever=noisy", "retriever.of=bm25", "retriever.done=0.5"],  # one search in six gets useless passages
    # how many samples a query gets
    "ar3po": ["rounds=ar3po", "pool.samples=4"],
    "reinforce_ada": ["rounds=reinforce_ada", "pool.samples=4"],
    "speed": ["rounds=speed", *FEWER, "pool.samples=4", "rounds.further=12", "rounds.max_rounds=4"],
    "pilot_commit": ["rounds=pilot_commit", *FEWER, "rounds.further=8", "rounds.max_rounds=2"],  # if 1 to 6 of 8 right
    "knapsack": ["rounds=knapsack", "rounds.most=32", "pool.samples=2"],
    # what is trained on, and what is drawn
    "pods": ["learner.advantage=pods"],
    "gfpo": ["learner.advantage=gfpo"],
    "dupo": ["learner.fill=true"],
    **{name: [f"rule={name}"] for name in ("kimi", "vcrl", "remind", "retire", "prompt_replay", "search_gym")},
}

# Not part of the screen: these ask a model behind a server, or need a model that knows facts by itself.
SERVER = "http://127.0.0.1:8000/v1"
NOT_SCREENED = {
    "zero_search": ["retriever=zero_search", f"retriever.url={SERVER}", "retriever.model=engine", "retriever.done=0.5"],
    "judge": ["reward=judge", f"reward.url={SERVER}", "reward.model=grader"],
    "ssrl": ["env=ssrl", "env.prompt={question} ", "retriever=none", "sft.steps=0", "rollout.turn_tokens=96"],
}

# These differ from GRPO only from the second pass over the pool on; 15,000 rollouts pass the 2,000 queries once.
LATER_PASSES = ("kimi", "vcrl", "remind", "retire", "prompt_replay", "knapsack")

config = override(QUICKSTART, BASE)
globals().update({name: override(QUICKSTART, [*BASE, *words]) for name, words in (METHODS | NOT_SCREENED).items()})
