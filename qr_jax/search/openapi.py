"""Describe the retrieval server's requests and answers as one OpenAPI page."""

from typing import Any

from qr_jax.search.limits import Limits

Schema = dict[str, Any]
TEXT, NUMBER = {"type": "string"}, {"type": "number"}
REFUSALS = {
    "400": "the request is wrong, or asks for more queries or passages than are taken", "401": "no token, or another",
    "403": "the Host header names another machine", "408": "the body came too slowly",
    "413": "the body or the answer is too large", "415": "the body is not said to be JSON", "500": "the search failed",
    "503": "too much waits or is held: try again after Retry-After", "504": "the search took too long",
}  # fmt: skip
GETS = {
    "/health": "200, or 503 while a search hangs", "/metrics": "figures in Prometheus's text format",
    "/openapi.json": "this page",
}  # fmt: skip


def page(limits: Limits, *, access: bool, has_token: bool) -> Schema:
    """Return the OpenAPI 3.1 page of a server with these limits; `access`: it answers /access too."""
    document = _object({"id": TEXT, "contents": TEXT} | ({"url": TEXT} if access else {}))
    scored = _object({"document": document, "score": NUMBER})
    found = {"oneOf": [_list(_list(document)), _list(_list(scored))]}
    texts = {"oneOf": [TEXT, _list(TEXT, limits.queries)]}
    k = {"type": ["integer", "null"], "minimum": 1, "maximum": limits.k, "default": limits.default_k}
    asked = dict.fromkeys(("queries", "query"), texts) | dict.fromkeys(("topk", "k"), k)
    asked |= {"return_scores": {"type": "boolean", "default": False}}
    search = {"type": "object", "properties": asked, "anyOf": [{"required": ["queries"]}, {"required": ["query"]}]}
    paths: Schema = {"/retrieve": _post("Search-R1, SkyRL", search, found)}
    if access:
        pages = _list({"oneOf": [document, {"type": "null"}]})
        paths["/access"] = _post("ASearcher's pages", _object({"urls": _list(TEXT, limits.queries)}), pages)
    for path, summary in GETS.items():
        paths[path] = {"get": {"summary": summary, "responses": {"200": {"description": summary}}}}
    whole = {"openapi": "3.1.0", "info": {"title": "qr_jax's retrieval server", "version": "1"}, "paths": paths}
    if has_token:
        paths["/health"]["get"]["security"] = []
        schemes = {"token": {"type": "http", "scheme": "bearer"}}
        whole |= {"components": {"securitySchemes": schemes}, "security": [{"token": []}]}
    return whole


def _post(summary: str, fields: Schema, result: Schema) -> Schema:
    refusals = {status: _content(text, _object({"detail": TEXT})) for status, text in REFUSALS.items()}
    responses = {"200": _content("found", _object({"result": result})), **refusals}
    return {"post": {"summary": summary, "requestBody": _content("", fields), "responses": responses}}


def _list(items: Schema, most: int | None = None) -> Schema:
    return {"type": "array", "items": items} | ({} if most is None else {"maxItems": most})


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _content(text: str, schema: Schema) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}}
