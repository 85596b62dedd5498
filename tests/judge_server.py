"""An OpenAI-compatible endpoint on this machine that grades answers, for tests of the judge."""

import json
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text):
    return 200, json.dumps({"choices": [{"message": {"content": text}}]})


def honest(data):
    """As good as an honest judge is here: the gold must be the last word."""
    return any(data["answer_to_grade"].lower().endswith(gold.lower()) for gold in data["correct_answers"])


def fair(data):
    return completion(json.dumps({"reason": "it only answers", "verdict": "fair"}))


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # of 5, the sixth of many connections at once waits a second


UNSUPPORTED = "Unsupported parameter: '{}' is not supported with this model."


@contextmanager
def choosy(
    *refused, said=UNSUPPORTED, status=400, reply=lambda data: completion(json.dumps({"correct": honest(data)}))
):
    """A server that refuses a request with one of these settings and names the first; yields (URL, requests)."""

    def answer(data, count):
        wrong = [name for name in refused if name in seen[count - 1]]
        return (status, json.dumps({"error": {"message": said.format(wrong[0])}})) if wrong else reply(data)

    with serving(answer) as (url, seen):
        yield url, seen


@contextmanager
def serving(reply=lambda data, count: completion(json.dumps({"correct": honest(data)})), sways=None):
    """A server whose every request is answered by `reply(what is to be graded, its number)`; yields (URL, requests).

    `sways(what is to be graded)` answers the question whether it tries to sway the judge; by default it does not.
    """
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"path": self.path, "key": self.headers["Authorization"], **body})
            first, *rest = (message["content"] for message in body["messages"])
            data = json.loads(rest[0]) if rest else first
            is_fair = rest and {*data} == {"question", "answer_to_grade"}  # by the second prompt: does it sway?
            status, text, *more = (sways or fair)(data) if is_fair else reply(data, len(seen))
            self.send_response(status)
            for name, value in more:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text.encode())))
            with suppress(BrokenPipeError):  # the client did not wait
                self.end_headers()
                self.wfile.write(text.encode())

        def log_message(self, *arguments):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
