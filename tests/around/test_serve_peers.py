"""Environments and clients of other projects ask a model through `qr-jax serve`, each in a process of its own.

Their packages are not in the extra dev: `pip install 'verifiers<0.2' litellm 'lm-eval[api]' transformers`
beside ours, or into another environment whose Python QR_JAX_SERVE_PEERS names.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from rollouts import CFG, WORDS, logits, random_params
from test_chat import small
from test_serve import IDS, SERVED, caller, complete, served_engine, serving

from qr_jax.rollout.engine import Engine

PYTHON = os.environ.get("QR_JAX_SERVE_PEERS", sys.executable)

# Three questions, twice each; the environment's tool is called with what the model wrote, until three turns are over.
VERIFIERS = """
import json, os, sys
import verifiers as vf
from datasets import Dataset

os.environ["NO_KEY"] = "none"
called = []

def search(queries: list[str]) -> str:
    "Search a collection. Args: queries: what is looked up."
    called.append(queries)
    return "is ada ?"

def calls(completion) -> float:
    return float(sum(bool(message.get("tool_calls")) for message in completion))

rows = Dataset.from_list([{"question": text, "answer": "ada"} for text in ("ada ?", "who is ada ?", "is ada who ?")])
env = vf.ToolEnv(dataset=rows, eval_dataset=rows, tools=[search], rubric=vf.Rubric(funcs=[calls]), max_turns=3)
client = vf.ClientConfig(api_key_var="NO_KEY", api_base_url=sys.argv[1] + "/v1", max_retries=0)
args = {"temperature": 0, "max_tokens": 20, "logprobs": True, "extra_body": {"return_token_ids": True}}
found = env.evaluate_sync(client, "tiny", args, rollouts_per_example=2, state_columns=["trajectory"])
steps = [step["tokens"] for one in found["outputs"] for step in one["trajectory"]]
print(json.dumps({"rewards": [one["reward"] for one in found["outputs"]], "called": called, "tokens": steps}))
"""

LITELLM = """
import json, sys
import litellm

how = {"api_base": sys.argv[1] + "/v1", "api_key": "none", "max_tokens": 9, "temperature": 0}
chat = {"model": "openai/tiny", "messages": [{"role": "user", "content": sys.argv[2]}]}
whole = litellm.completion(**chat, **how, logprobs=True, top_logprobs=2)
parts = litellm.completion(**chat, **how, stream=True)
text = litellm.text_completion(model="text-completion-openai/tiny", prompt=sys.argv[2], **how, logprobs=1)
print(json.dumps({
    "chat": whole.choices[0].message.content, "logp": [one.logprob for one in whole.choices[0].logprobs.content],
    "streamed": "".join(part.choices[0].delta.content or "" for part in parts), "text": text.choices[0].text,
    "usage": whole.usage.total_tokens,
}))
"""

LM_EVAL = """
import json, sys
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

how = {"tokenizer": sys.argv[3], "model": "tiny", "max_length": 300, "num_concurrent": 1, "batch_size": 2}
model = LocalCompletionsAPI(base_url=sys.argv[1] + "/v1/completions", **how)
asked = [Instance("loglikelihood", {}, (context, " " + more), 0) for context, more in json.loads(sys.argv[2])]
print(json.dumps([[float(logp), bool(greedy)] for logp, greedy in model.loglikelihood(asked)]))
"""


def need(package: str) -> None:
    """Skip the test where the package is not installed."""
    if subprocess.run([PYTHON, "-c", f"import {package}"], capture_output=True, check=False).returncode:
        pytest.skip(f"{package} is not installed for {PYTHON}")


def told_by(script: str, *words: str):
    """Return the JSON that a peer's script prints last."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(
        [PYTHON, "-c", script, *words], capture_output=True, text=True, check=False, timeout=200, env=environment
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_an_environment_of_verifiers_plays_its_tool_and_gets_ids_and_logprobs():
    need("verifiers, datasets; verifiers.ToolEnv")
    made, params = caller()
    with serving(made, params) as (_, url):
        found = told_by(VERIFIERS, url)
    assert found["rewards"] == [3.0] * 6 and found["called"] == [["ada"]] * 12, "the last of three calls is not played"
    for tokens in found["tokens"]:
        assert made.tokenizer.decode(tokens["completion_ids"][:2]) == '<tool_call> {"name": ' and tokens["prompt_ids"]
        assert len(tokens["completion_logprobs"]) == len(tokens["completion_ids"])
        assert all(-0.1 < logp <= 0 for logp in tokens["completion_logprobs"]), "its head leaves little to chance"


def test_litellm_chats_streams_and_completes():
    need("litellm")
    with serving(served_engine(), random_params()) as (_, url):
        found = told_by(LITELLM, url, WORDS.decode(IDS))
        right = complete(url, temperature=0, max_tokens=9)["choices"][0]
    assert found["chat"] == found["streamed"] == found["text"] == right["text"]
    assert found["logp"] == right["logprobs"]["token_logprobs"]
    assert found["usage"] == len(IDS) + len(right["token_ids"])


def test_lm_eval_scores_continuations_by_an_echo_of_token_ids(tmp_path):
    need("lm_eval")
    tokenizer = small(None)
    (tmp_path / "tokenizer.json").write_text(tokenizer.described)
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    cfg = replace(CFG, vocab=tokenizer.size)
    params = random_params(cfg)
    pairs = [("who is", "the mayor"), ("search the system", "tool")]
    with serving(Engine(cfg, tokenizer, SERVED), params) as (_, url):
        found = told_by(LM_EVAL, url, json.dumps(pairs), str(tmp_path))
    for (context, more), (logp, greedy) in zip(pairs, found, strict=True):
        ids, begin = tokenizer.encode(f"{context} {more}"), len(tokenizer.encode(context))
        table_LV = logits(params, ids, cfg=cfg)
        table_LV = table_LV - np.logaddexp.reduce(table_LV, axis=-1, keepdims=True)
        right = table_LV[np.arange(begin - 1, len(ids) - 1), ids[begin:]].sum()
        assert logp == pytest.approx(float(right), abs=1e-3) and not greedy
