"""Contender: rollouts by Tunix 0.1.7, turn by turn as its agent learner does them, and in one batch by its sampler.

What its agentic learner does (tunix/rl/agentic/agentic_rl_learner.py, `_model_call`): every turn of every episode is a
call of `RLCluster.generate` with one text, so the sampler (tunix/generate/sampler.py, by rl/rollout/vanilla_rollout.py)
decodes a batch of 1; the text is the whole chat rendered anew, so everything is tokenised and prefilled again; prompts
longer than `max_prompt_length` are padded to the next power of two, each a shape of its own to compile; up to
`max_concurrency` (32) episodes call at once from threads. Here the same parts run: RolloutOrchestrator,
TrajectoryCollectEngine, ConversationAgentBase, BaseTaskEnv, VanillaRollout; of RLCluster.generate only its call of the
rollout (the rest is tracing spans). One key for all (its `seed` is None); top_p 1 and top_k None, so that it does not
sort the vocabulary.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from tunix.rl.agentic import utils
from tunix.rl.agentic.agents import agent_types, base_agent
from tunix.rl.agentic.environments import base_environment
from tunix.rl.agentic.pipeline import rollout_orchestrator
from tunix.rl.rollout import base_rollout, vanilla_rollout

from benchmarks import interleave
from benchmarks.peers import load, model, tunix_model

NEVER = model.VOCAB  # an end-of-turn id that no turn can reach: the schedule ends turns
state: dict[str, Any] = {"compiles": 0, "compile_s": 0.0}


def listen(event: str, duration_s: float, **_: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        state["compiles"] += 1
        state["compile_s"] += duration_s


jax.monitoring.register_event_duration_secs_listener(listen)


class Words:
    """The load's tokenizer with the methods that Tunix asks for; arrays of ids pass through."""

    def __init__(self):
        self.words = load.tokenizer()

    def encode(self, text: Any) -> list[int]:
        return text.tolist() if isinstance(text, np.ndarray) else self.words.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self.words.decode(ids)

    def bos_id(self) -> int | None:
        return None

    def dedup_bos_ids(self, ids: list[int]) -> list[int]:
        return ids

    def eos_id(self) -> int:
        return self.words.eos_ids[0]

    def pad_id(self) -> int:
        return self.words.pad_id


class Plain:
    """A chat template that adds no words, so that lengths are the load's."""

    def parse(self, messages, add_generation_prompt: bool = False, is_first_msg: bool = False) -> str:
        return " ".join(message["content"] for message in messages)

    assistant_token = ""


class Agent(base_agent.ConversationAgentBase):
    """Takes what the model wrote as its action (as ModelAgent does, which is for one turn)."""

    def __init__(self, system_prompt: str = ""):
        super().__init__(system_prompt)

    def update_from_model(self, response: str, **_: Any) -> agent_types.Action:
        self._messages.append({"role": "assistant", "content": response})
        step = agent_types.Step(chat_completions=list(self._messages), model_response=response)
        step.action = agent_types.Action(action=response)
        self.trajectory.steps.append(step)
        return step.action


class Searches(base_environment.BaseTaskEnv):
    """Three searches, then the end."""

    def _initial_observation(self) -> str:
        return load.prompt(self.extra_kwargs["query"])

    def _step_impl(self, action: Any) -> base_environment.EnvStepResult:
        if self.step_count > load.SEARCHES:
            return base_environment.EnvStepResult(observation=None, reward=0.0, done=True, info={})
        wish = load.search_text(self.extra_kwargs["query"], getattr(action, "action", action))
        found = load.late(state["search"], state["latency_s"])([wish], load.SEARCH_K)[0]
        return base_environment.EnvStepResult(observation=load.observation(found), reward=0.0, done=False, info={})


def prepare(load_name: str, concurrency: int, precision: str = "float32") -> dict[str, Any]:
    """Build and warm up; returns the seconds and what was compiled in them."""
    start = time.monotonic()
    if "model" not in state:
        built = tunix_model.build()
        state["check"] = model.check_answer(tunix_model.logits(built, model.check_ids()))  # in float32
        state.update(model=built if precision == "float32" else tunix_model.build(precision), words=Words())
    built_s = time.monotonic() - start
    if load_name == "multi_turn":
        state.update(search=load.search(), concurrency=concurrency)
        longest = load.PROMPT_TOKENS + load.SEARCHES * (load.TURN_TOKENS + load.OBSERVATION_TOKENS)
        positions = 2 ** (longest - 1).bit_length() + load.TURN_TOKENS
    else:
        positions = load.PROMPT_TOKENS + load.TURN_TOKENS
    cache = base_rollout.CacheConfig(positions, model.LAYERS, model.KV_HEADS, model.HEAD_DIM)
    state[load_name] = vanilla_rollout.VanillaRollout(state["model"], state["words"], cache)
    before, start = dict(state), time.monotonic()
    for _ in range(2):  # small programs around the sampler compile in the second go
        sample(load_name, 0, episodes=1, group=1)
    return {
        "built_s": built_s, "warm_up_s": time.monotonic() - start,
        "compiles": state["compiles"] - before["compiles"], "compile_s": state["compile_s"] - before["compile_s"],
        "cache_positions": positions,
    }  # fmt: skip


def config() -> base_rollout.RolloutConfig:
    return base_rollout.RolloutConfig(
        max_tokens_to_generate=load.TURN_TOKENS, max_prompt_length=load.PROMPT_TOKENS, temperature=1.0, top_p=1.0,
        top_k=None, eos_tokens=[NEVER],
    )  # fmt: skip


def sample(load_name: str, round: int, *, episodes: int, group: int, latency_s: float = 0.0) -> dict[str, Any]:
    """Seconds and generated tokens of one go; `group` samples of a question, searches that take `latency_s` more."""
    compiles, state["latency_s"] = state["compiles"], latency_s
    tokens, seconds, more = {"multi_turn": multi_turn, "single_turn": single_turn}[load_name](round, episodes, group)
    compiled = state["compiles"] - compiles
    return {"seconds": seconds, "tokens": tokens, "tokens_a_s": tokens / seconds, "compiles": compiled, **more}


def single_turn(round_at: int, episodes: int, group: int) -> tuple[int, float, dict[str, Any]]:
    """All prompts in one call, as arrays of ids. The batch is never other than the load's: it is a shape."""
    questions = load.chosen(round_at, load.SINGLE_BATCH // max(group, 1))
    texts = [load.prompt(query) for query in questions for _ in range(load.SINGLE_BATCH // len(questions))]
    prompts = [np.array(state["words"].encode(text), np.int32) for text in texts]
    start = time.monotonic()
    made = state["single_turn"].generate(prompts, config())
    seconds = time.monotonic() - start
    return sum(len(tokens) for tokens in made.tokens), seconds, {"episodes": len(prompts)}


def multi_turn(round_at: int, episodes: int, group: int) -> tuple[int, float, dict[str, Any]]:
    questions = load.chosen(round_at, load.MULTI_QUERIES)
    wanted = [(questions[at // group % len(questions)], at) for at in range(episodes)]
    counts: list[int] = []

    def model_call(messages, env=None, max_generation_steps=None) -> base_rollout.RolloutOutput:
        text = Plain().parse(messages, add_generation_prompt=True, is_first_msg=True)
        made = state["multi_turn"].generate(text, config())
        counts.append(len(made.tokens[0]))
        return made

    start = time.monotonic()
    trajectories = asyncio.run(collect(wanted, model_call))
    seconds = time.monotonic() - start
    lengths = [len(one["prompt_tokens"]) + len(one["conversation_tokens"]) for one in trajectories]
    return sum(counts), seconds, {"episodes": len(trajectories), "calls": len(counts), "episode_tokens": lengths}


async def collect(wanted, model_call) -> list[dict[str, Any]]:
    """The trajectories, collected as `AgenticRLLearner._orchestrator_producer` does."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(state["concurrency"] + 1))
    engine = {"model_call": model_call, "tokenizer": state["words"], "chat_parser": Plain(), "timeout": 3600.0}
    orchestrator = rollout_orchestrator.RolloutOrchestrator(
        rollout_sync_lock=utils.RolloutSyncLock(), engine_kwargs=engine, max_concurrency=state["concurrency"]
    )
    turns = load.SEARCHES + 1
    pairs = [(Agent(), Searches({}, max_steps=turns, query=query, group_id=at, pair_index=at)) for query, at in wanted]
    producer = asyncio.create_task(
        orchestrator.run_producers_from_stream(
            iter(pairs), group_size=1, group_key_fn=lambda i, env, trajectory: env.extra_kwargs["group_id"],
            collect_mode="Token",
        )
    )  # fmt: skip
    await asyncio.sleep(0)
    found = [item.traj async for batch in orchestrator.yield_batches(batch_size=1) for item in batch]
    await producer
    return found


def check() -> dict[str, list[float]]:
    return state["check"]


if __name__ == "__main__":
    interleave.serve({"prepare": prepare, "sample": sample, "check": check, "versions": interleave.versions})
