"""A stub of the Hugging Face hub on loopback, for the hub's own client: HEAD and GET of .../resolve/..., and a CDN."""

import hashlib
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODES = {"GatedRepo": 403, "RepoNotFound": 404, "RevisionNotFound": 404, "EntryNotFound": 404, "": 403}


@dataclass
class Hub:
    """Data sets by repository and file; `refuses` an error by repository, and `asked` (method, path, Range, token).

    The first transfer ends after `cut` bytes. `sums` and `sizes` say another SHA-256 or size of a file than its own.
    """

    files: dict[str, dict[str, bytes]]
    refuses: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    sums: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    url: str = ""
    cdn: str = ""  # another host, as that of the hub's large files

    def gets(self) -> list[tuple[str, str | None]]:
        return [(path, part) for method, path, part, _ in self.asked if method == "GET"]


@contextmanager
def serving(files, **how):
    hub = Hub(files, **how)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(False)

        def do_GET(self):
            self.answer(True)

        def answer(self, has_body):
            headers = self.headers
            if self.path.startswith("/api/"):  # of telemetry, which the client asks for by itself
                return self.head(404, {})
            hub.asked.append((self.command, self.path, headers.get("Range"), headers.get("Authorization")))
            if self.path.startswith("/cdn/"):
                return self.send(hub.files[self.path[5:].partition("@")[0]][self.path.partition("@")[2]])
            repo, _, rest = self.path.removeprefix("/datasets/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            code = hub.refuses.get(repo)
            if code is None and repo not in hub.files:
                code = "RepoNotFound"
            if code is None and revision not in ("main", COMMIT):
                code = "RevisionNotFound"
            if code is None and name not in hub.files[repo]:
                code = "EntryNotFound"
            if code is not None:
                return self.head(CODES[code], {"X-Error-Code": code} if code else {"X-Error-Message": "not yours"})
            data = hub.files[repo][name]
            linked = {"X-Linked-Etag": f'"{hub.sums.get(name, hashlib.sha256(data).hexdigest())}"'}
            linked |= {"X-Linked-Size": str(hub.sizes.get(name, len(data))), "X-Repo-Commit": COMMIT}
            return self.head(302, linked | {"Location": f"{hub.cdn}/cdn/{repo}@{name}"})

        def head(self, status, named):
            self.send_response(status)
            for name, value in ({"Content-Length": "0"} | named).items():
                self.send_header(name, value)
            self.end_headers()

        def send(self, data):
            first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            part = {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"} if first else {}
            self.head(206 if first else 200, {"Content-Length": str(len(data) - first)} | part)
            cut, hub.cut = hub.cut, None
            self.wfile.write(data[first:][:cut])

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.cdn = f"http://localhost:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
