"""One greedy episode of an exported search_r1 agent: python play_with_transformers.py FOLDER QUESTION RETRIEVE_URL"""

import json
import re
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

folder, question, url = sys.argv[1:] if len(sys.argv) == 4 else sys.exit(__doc__)
agent = json.loads(Path(folder, "agent.json").read_text(encoding="utf-8"))
env, chat, limits, reading = agent["environment"]["settings"], agent["chat"], agent["limits"], agent["reading"]
tokenizer, model = PreTrainedTokenizerFast.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).float()
plain = json.loads(tokenizer.backend_tokenizer.to_str()) | {"added_tokens": [], "post_processor": None}
data = type(tokenizer.backend_tokenizer).from_str(json.dumps(plain))  # makes no control token of what it is given


def shown(hits):  # with tags in the passages made harmless
    rows = [env["passage"].format(i=i, title=hit[0][1:-1], text=hit[1].strip()) for i, hit in enumerate(hits, 1)]
    return env["information"].format(passages=re.sub(reading["tag"], r"‹\1›", "".join(rows).strip()))


text, glue, ids, acts = agent["prompt"].replace("{question}", question.strip()), chat["prompt"], [], []
stops = [lambda every, _: torch.tensor([bool(re.match(reading["end"], thought + tokenizer.decode(every[0, start:])))])]
while glue:
    before, after = (tokenizer.encode(part, add_special_tokens=False) for part in (glue[0].removesuffix(" "), glue[1]))
    ids += before + data.encode(" " * glue[0].endswith(" ") + text).ids + after  # the blank joins the text's first word
    thought = re.search(r"(<think>\s*)?\Z", glue[1] or text)[0]  # that was begun for the model
    start, room = len(ids), min(limits["turn_tokens"], limits["context_tokens"] - len(ids))
    ids = model.generate(torch.tensor([ids]), max_new_tokens=room, stopping_criteria=stops)[0].tolist()
    turn = thought + tokenizer.decode(ids[start : len(ids) - (ended := ids[-1] in chat["end_ids"])])
    acts, end = [*acts, re.match(reading["act"], turn)], re.match(reading["end"], turn)
    name, words = (acts[-1][1], " ".join(acts[-1][2].split())) if acts[-1] else (None, "")
    print(json.dumps({"env": text, "model": turn, "act": name, "words": words}, ensure_ascii=False))
    last, begun = env["last"] * (len(acts) == env["max_turns"]), bool(end and end[0].endswith("<information>"))
    text = " </information> " * begun + env["invalid"] + last  # it made up what it found: closed
    if name == "search" and len(acts) <= env["max_turns"]:
        asked = json.dumps({"queries": [words], "topk": limits["search_k"], "return_scores": True}).encode()
        answered = json.load(urlopen(Request(url, asked, {"Content-Type": "application/json"})))
        hits = [hit["document"]["contents"].split("\n", 1) for hit in answered["result"][0]]
        while len(data.encode(text := shown(hits) + last).ids) > limits["observation_tokens"] and hits:
            hits[-1:] = [[hits[-1][0], kept] for kept in hits[-1][1].strip().rsplit(None, 1)[:-1]]  # a word less
    over = name == "answer" or len(acts) > env["max_turns"] or acts.count(None) > env["max_invalid"]
    glue = None if over or not (ended or end) else chat["user"][1:] if ended else ("", "")
