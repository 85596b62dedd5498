"""Describe a server's requests and answers as one OpenAPI page."""

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


def page(limits: Limits, *, access: bool, has_token: bool) -> Schema:
    """Return the OpenAPI 3.1 page of a server with these limits; `access`: it answers /access too."""
    document = _object({"id": TEXT, "contents": TEXT} | ({"url": TEXT} if access else {}))
    scored = _object({"document": document, "score": NUMBER})
    pair = lambda *items: {"type": "array", "prefixItems": list(items)}  # noqa: E731
    several = [_list(_list(document)), pair(_list(_list(document)), _list(_list(NUMBER)))]
    flashrag = {"oneOf": [*several, _list(document), pair(_list(document), _list(NUMBER))]}
    asked, page_asked = _asked(limits), _object({"urls": _list(TEXT, limits.queries)})
    posts = {
        "/retrieve": ("Search-R1, SkyRL", asked, _object({"result": {"oneOf": [several[0], _list(_list(scored))]}})),
        "/search": ("FlashRAG", asked, flashrag),
        "/batch_search": ("FlashRAG", asked, flashrag),
        "/queries": ("R1-Searcher", asked, _object({"queries": _list(TEXT), "answers": several[0]})),
    }
    if access:
        posts["/access"] = (
            "ASearcher's pages",
            page_asked,
            _object({"result": _list({"oneOf": [document, {"type": "null"}]})}),
        )
    refusals = {status: _content(text, _object({"detail": TEXT})) for status, text in REFUSALS.items()}
    paths: Schema = {}
    for path, (summary, fields, answer) in posts.items():
        responses = {"200": _content("found", answer)} | refusals
        body = {"required": True} | _content("", fields)
        paths[path] = {"post": {"summary": summary, "requestBody": body, "responses": responses}}
    return whole("qr_jax's retrieval server", paths, "200, or 503 while a search hangs", has_token=has_token)


def whole(title: str, paths: Schema, health: str, *, has_token: bool) -> Schema:
    """Return the page of these paths and those of every server; `health` says what /health answers."""
    for path, summary, kind in (
        ("/health", health, "application/json"),
        ("/metrics", "figures in Prometheus's text format", "text/plain"),
        ("/openapi.json", "this page", "application/json"),
    ):
        responses: Schema = {"200": {"description": "", "content": {kind: {}}}}
        if path == "/health":
            responses["503"] = {"description": "it cannot serve now"}
        elif has_token:
            responses["401"] = {"description": REFUSALS["401"]}
        paths[path] = {"get": {"summary": summary, "responses": responses}}
    page = {"openapi": "3.1.0", "info": {"title": title, "version": "1"}, "paths": paths}
    if has_token:
        paths["/health"]["get"]["security"] = []
        schemes = {"token": {"type": "http", "scheme": "bearer"}}
        page |= {"components": {"securitySchemes": schemes}, "security": [{"token": []}]}
    return page


def _asked(limits: Limits) -> Schema:
    """Return a search's request, which every path takes under the names of any of the protocols."""
    texts = {"oneOf": [TEXT, _list(TEXT, limits.queries)]}
    k = {"type": ["integer", "null"], "minimum": 1, "maximum": limits.k, "default": limits.usual_k}
    fields = dict.fromkeys(("queries", "query"), texts) | dict.fromkeys(("topk", "k", "top_n"), k)
    fields |= dict.fromkeys(("return_scores", "return_score"), {"type": "boolean", "default": False})
    return {"type": "object", "properties": fields, "anyOf": [{"required": ["queries"]}, {"required": ["query"]}]}


def _list(items: Schema, most: int | None = None) -> Schema:
    return {"type": "array", "items": items} | ({} if most is None else {"maxItems": most})


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _content(text: str, schema: Schema) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}}
