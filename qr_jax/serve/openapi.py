"""Describe the model server's requests as one OpenAPI page."""

from typing import Any

from qr_jax.search import openapi
from qr_jax.serve.asked import OF_CHAT, OF_COMPLETIONS

REFUSALS = {
    "400": "a field is wrong or not taken here, or the prompt does not fit", "401": "no token, or another",
    "403": "the Host header names another machine", "404": "another model", "408": "the body came too slowly",
    "413": "the body is too large", "415": "the body is not said to be JSON", "429": "too many samples wait",
    "503": "too much is held, or the engine ended",
}  # fmt: skip


def page(*, has_token: bool, agent: bool) -> dict[str, Any]:
    """Return the OpenAPI 3.1 page; fields are named, and mean what OpenAI's API or vLLM says of them."""
    paths: dict[str, Any] = {}
    chat = "answer a question with searches" if agent else "go on with a conversation"
    for path, summary, fields, needed in (
        ("/v1/chat/completions", chat, OF_CHAT, "messages"),
        ("/v1/completions", "go on with a text or with token ids", OF_COMPLETIONS, "prompt"),
    ):
        schema = {"type": "object", "properties": {name: {} for name in fields}, "required": [needed]}
        whole = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}}
        responses: dict[str, Any] = {"200": {"description": "a completion, or its events", "content": whole}}
        responses |= {status: {"description": text} for status, text in REFUSALS.items()}
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths[path] = {"post": {"summary": summary, "requestBody": body, "responses": responses}}
    listed = {"200": {"description": "", "content": {"application/json": {}}}}
    paths["/v1/models"] = {"get": {"summary": "the model that is served", "responses": listed}}
    return openapi.whole("qr_jax's model server", paths, "200, or 503 once the engine ended", has_token=has_token)
