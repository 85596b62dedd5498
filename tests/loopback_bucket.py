"""A bucket of Google Cloud Storage on loopback, for epath (by gcsfs) and for Orbax (by tensorstore).

    python tests/loopback_bucket.py PORT

The emulator holds nobody to the generation that a request names, by which tensorstore and a run's lease write only over
what they have read; that is added here. It answers one request at a time, so no two of them are told the same.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

NAME = "runs"


@contextmanager
def bucket() -> Iterator[dict[str, str]]:
    """An emulator with an empty bucket gs://runs, in memory; yields the environment that leads there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([sys.executable, __file__, str(port)], **quiet)
    try:
        until = time.monotonic() + 20
        while not _answers(url):
            assert time.monotonic() < until and server.poll() is None, "the bucket's emulator did not start"
            time.sleep(0.05)
        # The last word keeps gcsfs from asking Google itself what kind of bucket it is.
        yield {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
    finally:
        server.kill()
        server.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/storage/v1/b/{NAME}", timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def led_there() -> Iterator[str]:
    """A bucket for this process and those it starts; yields gs://runs."""
    with bucket() as environment:
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            yield f"gs://{NAME}"
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def serve(port: int) -> None:
    from gcp_storage_emulator import server
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    def found(storage, bucket_name, name):
        try:
            return storage.get_file_obj(bucket_name, name)
        except NotFound:
            return {"generation": "0", "metageneration": "0"}

    def download(request, response, storage, *more, **named):
        one = found(storage, request.params["bucket_name"], request.params["object_id"])
        for name in ("generation", "metageneration"):
            response[f"x-goog-{name}"] = one[name]
        plain_download(request, response, storage, *more, **named)

    def refused(request, response, storage, name):
        wanted = request.query.get("ifGenerationMatch")
        if wanted and found(storage, request.params["bucket_name"], name)["generation"] != wanted[0]:
            assert request.data is not None  # read, so that the answer is heard
            response.status = HTTPStatus.PRECONDITION_FAILED
            return True
        return False

    def insert(request, response, storage, *more, **named):
        if "name" not in request.query or not refused(request, response, storage, request.query["name"][0]):
            plain_insert(request, response, storage, *more, **named)

    def delete(request, response, storage, *more, **named):
        if not refused(request, response, storage, request.params["object_id"]):
            plain_delete(request, response, storage, *more, **named)

    plain_download, plain_insert, plain_delete = objects.download, objects.insert, objects.delete
    ours = {plain_download: download, plain_insert: insert, plain_delete: delete}
    objects.download, objects.insert, objects.delete = download, insert, delete
    for _, handlers in server.HANDLERS:
        handlers.update({method: ours[one] for method, one in handlers.items() if one in ours})
    server.create_server("127.0.0.1", port, in_memory=True, default_bucket=NAME).run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
