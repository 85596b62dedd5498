"""An OpenAI-compatible endpoint on this machine that writes, answers and plays as a teacher would, by a script.

Its questions make no sense to a reader, but they hang together: it answers one right if it is shown the passages that
the question was made of. It is slow, sends 429 with Retry-After, fails, is sometimes wrong and sometimes writes no
JSON; what it does depends on the request's hash alone. It counts its answers by request.

    python tests/teacher_server.py CORPUS OUT [--questions 200] [--kills 3]     # qr-jax synth against it, killed; JSON
"""

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from judge_server import Server

from qr_jax.answers import normalise
from qr_jax.sets.synth import prompts

NAMES = {prompt.text: prompt.name for prompt in (*prompts.ALL, prompts.CALL)}


def chance(*parts):
    """A number in [0, 1) that depends on the parts alone."""
    return int(hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8], 16) / 2**32


class Script:
    """What the teacher remembers of its questions: the answer, and the titles and texts that show it."""

    def __init__(self):
        self.known = {}

    def reply(self, name, data, sample):
        return getattr(self, name)(data, sample)

    def phrase(self, passage, *key):
        """Two or three words of the passage's text."""
        words = [word for word in re.findall(r"\w+", passage["text"]) if normalise(word)]
        at = int(chance(passage["text"], *key) * max(1, len(words) - 3))
        return " ".join(words[at : at + 2 + (at % 2)]), at

    def made(self, question, answer, passages):
        if chance("told", question) < 0.04:
            question = f"{question[:-1]}, if not {answer}?"
        self.known[question] = (answer, [(passage["title"], passage["text"]) for passage in passages])
        return {"question": question, "answer": answer}

    def link_walk(self, data, sample):
        passages = data["passages"]
        answer, at = self.phrase(passages[-1], "walk")
        way = "the text that follows" + " and the next that follows it" * (len(passages) - 2)
        return self.made(f"From {passages[0]['title']} on, what does {way} say at word {at}?", answer, passages)

    def begin(self, data, sample):
        answer, at = self.phrase(data["passage"], "begin")
        query = data["passage"]["title"] + " " + answer
        return self.made(f"What is said of {data['passage']['title']} at word {at}?", answer, [data["passage"]]) | {
            "query": query
        }

    def harder(self, data, sample):
        found = data["found"][0]
        answer, at = self.phrase(found, "harder", data["question"])
        question = f"{data['question'][:-1]}, and beyond that at word {at} of what it leads to?"
        made = self.made(question, answer, [*data["known"], found])
        return made | {"passage": 1, "hidden": [found["title"]], "query": f"{found['title']} {answer}"}

    def entities(self, data, sample):
        first, _ = self.phrase(data["passage"], "kind")
        return {
            "property": "length",
            "queries": [data["passage"]["title"], f"{first} {data['passage']['title']}", first],
        }

    def compare(self, data, sample):
        few = data["found"][: 2 + (chance(data["found"][0]["title"]) < 0.3)]
        answer, at = self.phrase(few[-1], "compare")
        named = " and ".join(passage["title"] for passage in few)
        asked = [passage["title"] for passage in few]
        made = self.made(f"Of {named}, what does the longest say at word {at}?", answer, few)
        return made | {"passages": [passage["number"] for passage in few], "queries": asked}

    def answer(self, data, sample):
        answer, cited = self.known[data["question"]]
        shown = {passage["text"] for passage in data["passages"]}
        luck = chance("answer", data["question"], len(data["passages"]), sample)
        if {text for _, text in cited} <= shown:
            return {"answer": answer if luck > 0.05 else f"not {luck:.6f}"}
        return {"answer": answer if luck < 0.03 else None}

    def unique(self, data, sample):
        answer, _ = self.known[data["question"]]
        return {"answers": [answer, "another one"] if chance("unique", data["question"]) < 0.05 else [answer]}

    def play(self, data, sample):
        answer, cited = self.known[data["question"]]
        seen = " ".join(turn.get("found", "") for turn in data["seen"])
        asked = " ".join(turn.get("you", "") for turn in data["seen"])
        lacking = [title for title, text in cited if text[:40] not in seen and title not in asked]
        if lacking and "No searches are left" not in seen:
            return {"thought": f"I look this up, for the {sample}th time.", "queries": lacking[: data["parallel"]]}
        luck = chance("play", data["question"], sample)
        return {"thought": "I have read enough.", "answer": answer if luck > 0.2 else f"not {luck:.6f}"}

    def call(self, data, sample):
        """Play with tools: the first search, then a calculation that nobody asked for, and so on as `play`."""
        said = self.play(data, sample)
        if "answer" in said:
            return said
        asked = " ".join(turn.get("you", "") for turn in data["seen"])
        calls = [{"name": "search", "arguments": {"query": title}} for title in said["queries"]]
        if "calculator" not in asked:
            calls = [{"name": "calculator", "arguments": {"expression": f"{sample} + 1"}}, *calls]
        return {"thought": said["thought"], "calls": calls}


class Teacher:
    """The server's state: how often it gave an answer to which request, and what else it sent."""

    def __init__(self, *, wait_s=0.02, limited=0.01, failing=0.01, silly=0.03):
        self.wait_s, self.limited, self.failing, self.silly = wait_s, limited, failing, silly
        self.script, self.answered, self.sent, self.asked = Script(), Counter(), Counter(), Counter()
        self.keys, self.lock = [], threading.Lock()

    def respond(self, body):
        """(status, headers, what is sent as JSON) for one request."""
        key = json.dumps([body["messages"], body["seed"], body["model"]])
        with self.lock:
            self.asked[key] += 1
            first = self.asked[key] == 1
        luck = chance("how", key)
        time.sleep(self.wait_s * (0.2 + 10 * chance("slow", key) ** 8))
        if first and luck < self.limited:
            return 429, {"Retry-After": "1"}, {"error": "too many requests"}
        if first and luck < self.limited + self.failing:
            return 503, {}, {"error": "overloaded"}
        messages = body["messages"]
        name, data = NAMES[messages[0]["content"]], json.loads(messages[1]["content"])
        with self.lock:
            text = json.dumps(self.script.reply(name, data, body["seed"]))
            self.answered[key] += 1
        if chance("silly", messages[1]["content"], body["seed"]) < self.silly and len(messages) == 2:
            text = f"Sure! Here is what you asked for: {text}"
        elif luck > 0.9:
            text = f"<think>hm</think>\n```json\n{text}\n```"
        tokens = {"prompt_tokens": len(key) // 4, "completion_tokens": len(text) // 4}
        return 200, {}, {"choices": [{"message": {"content": text}}], "usage": tokens}


@contextmanager
def serving(teacher):
    """The teacher behind a URL on loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            teacher.keys.append(self.headers["Authorization"])
            status, headers, answer = teacher.respond(body)
            teacher.sent[status] += 1
            data = json.dumps(answer).encode()
            with suppress(OSError):  # the client was killed
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.handle_error = True, lambda *_: None  # of clients that were killed
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def killed(words, journal, at_lines):
    """Run the command, killed (SIGKILL) each time the journal has so many lines, and a last time to its end."""
    for lines in [*at_lines, None]:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while lines is not None and process.poll() is None:
            if journal.is_file() and journal.read_bytes().count(b"\n") >= lines:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        out, error = process.communicate()
        if lines is not None:
            assert process.returncode == -signal.SIGKILL, f"it ended by itself ({process.returncode}): {error[-2000:]}"
    return process.returncode, out, error


KILL_EVERY = 4  # lines of the journal a question, after which the process is killed: some 15 stand for one


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus")
    parser.add_argument("out", type=Path)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--kills", type=int, default=3)
    arguments = parser.parse_args()
    teacher, begun = Teacher(), time.monotonic()
    with serving(teacher) as url:
        words = [sys.executable, "-m", "qr_jax", "synth", arguments.corpus, str(arguments.out), "--json"]
        words += ["--teacher", url, "--model", "scripted", "--price", "0.15,0.60"]
        words += ["--questions", str(arguments.questions)]
        at_lines = [KILL_EVERY * arguments.questions * (at + 1) for at in range(arguments.kills)]
        code, out, error = killed(words, arguments.out / "journal" / "calls.jsonl", at_lines)
    print(error[-3000:], file=sys.stderr)
    if code:
        raise SystemExit(f"qr-jax synth ended with {code}")
    twice = sum(count > 1 for count in teacher.answered.values())
    told = {"kills": arguments.kills, "sent": teacher.sent, "answered": len(teacher.answered), "answered_twice": twice}
    print(json.dumps(told | {"seconds": time.monotonic() - begun, "found": json.loads(out)}, indent=1))
