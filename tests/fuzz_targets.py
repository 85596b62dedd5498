"""What fuzz.py tries: for each reader of foreign input, valid inputs in parts, how parts become files, and the call."""

import base64
import contextlib
import functools
import gzip
import hashlib
import io
import json
import select
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers

from qr_jax import config, dialect
from qr_jax.cli import overrides
from qr_jax.data import readers
from qr_jax.lab import gguf, hf_folder
from qr_jax.methods.envs import tool_call as tool_calls
from qr_jax.methods.envs.tool_call import tool_call
from qr_jax.models import families, gemma3, hf, rope, safetensors_file
from qr_jax.parallel import plain
from qr_jax.records import Passage, Query, Turn
from qr_jax.run import checkpoint, committed, json_files
from qr_jax.run.checkpoint import FORMAT, Checkpoints
from qr_jax.search import encoder, http_app, limits, protocols, search_json, server
from qr_jax.search.retrievers.bm25 import bm25
from qr_jax.sets import carried, data_check, foreign, foreign_rows, formats, html_text, inputs, official, tables
from qr_jax.settings import checks, json_text, settings

Parts = Mapping[str, bytes | None]
QUERY = Query("q", "Who?", ("Ada",))
CALL = {"name": "search", "arguments": {"queries": ["a", "b"]}}
QWEN = hf_folder.to_hf(families.PRESETS["qwen3_0p6b"], eos_ids=[2], pad_id=0)
GEMMA = hf_folder.to_hf(families.PRESETS["gemma3_1b"], eos_ids=[1], pad_id=0)
BERT = {name: 64 for name in encoder.LARGEST} | {"model_type": "bert", "type_vocab_size": 2}
QUESTION = {"id": "q1", "question": "Who wrote it?", "answers": ["Ada", "The"], "entities": ["it"], "hops": 2}
SHORT = limits.Limits(idle_s=1)
PATIENCE_S = 5.0  # for the server; its own seconds of waiting are shorter
ANSWER_S = 0.2  # within which the server answers a request that came whole
PASSAGE = {"id": "7", "contents": '"Ada"\nAda wrote it.'}
OFFICIAL = {  # a set's file -> set and split
    "musique_ans_v1.0_dev.jsonl": ("musique", "dev"), "dev.json": ("2wiki", "dev"),
    "unfiltered-web-dev.json": ("triviaqa", "dev"), "popQA.tsv": ("popqa", "test"), "test.tsv": ("frames", "test"),
}  # fmt: skip


def as_they_are(parts: Parts) -> Parts:
    return parts


class Target(NamedTuple):
    name: str
    runs: int  # by default: about 20 s on one core
    corpus: Callable[[], list[Parts]]
    read: Callable[[Path, Any], object]  # the folder that the files are in, and the files
    pack: Callable[[Parts], Parts] = as_they_are
    refuses: tuple[type[BaseException], ...] = (ValueError,)
    is_read_from_disk: bool = True
    is_folder: bool = False  # a folder may stand where a file was, or a file be missing
    modules: tuple[ModuleType, ...] = ()  # whose lines are counted

    @property
    def floor(self) -> int:
        """How many inputs a full run has at least: a million of what is parsed in memory, else ten thousand."""
        return 10_000 if self.is_read_from_disk or self.name == "server" else 1_000_000


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


# Text


def texts() -> list[Parts]:
    call = f"<think>x</think><tool_call>{json.dumps(CALL)}</tool_call>"
    turns = ("<search> a </search>", call, "y</think><answer>Ada</answer>", "a ‹b› <|im_end|> \uff1cSEARCH x/>")
    return [{"turn": turn.encode()} for turn in turns]


def read_text(_: Path, files: Any) -> None:
    text = files["turn"].decode("utf-8", "surrogateescape")
    for further in ((), ("begin_of_query", "a+b")):
        dialect.read(text, further)
        inert = dialect.neutralise(text, further)
        assert dialect.neutralise(inert, further) == inert
        assert not dialect.read(inert, further)[0] and not dialect.any_tag(further).search(inert)


def read_call(_: Path, files: Any) -> None:
    body = files["call.json"].decode("utf-8", "surrogateescape")
    turns = [Turn("user", "Who?", (), ()), Turn("model", f"<tool_call>{body}</tool_call>", (), ())]
    asked = getattr(tool_call(QUERY, turns), "queries", ())
    assert len(asked) <= 3 and all(query == query.strip() != "" for query in asked)
    ranked = tuple((Passage(body[:9], body, body),) for _ in asked)
    assert not asked or tool_call(QUERY, [*turns, Turn("env", "", asked, ranked)])


def calls() -> list[Parts]:
    lax = b'so: ```json\n{"tool_calls": [{"name": "Search", "args": {"queries": "[\\"a\\", 3]",}}]}\n```'
    plain = (CALL, CALL | {"arguments": {"query": "a"}})
    return [*({"call.json": as_json(call)} for call in plain), {"call.json": lax}]


def read_overrides(_: Path, files: Any) -> None:
    words = files["words"].decode("utf-8", "surrogateescape").split("\n")
    changed = overrides.override(config.Config(), words[:100])  # each is about 1 ms
    config.from_json(json.loads(json.dumps(config.to_json(changed))))


def override_words() -> list[Parts]:
    words = ("loss.high=0.3 pool.queries=8", "train.steps=5 log.wandb=true", "env=tool_call env.max_turns=3 seed=1e2")
    words += ("rollout.buckets=32,64 learner.betas=(0.8,0.9)", "data.world.people=7 data.world.deep.setting=1")
    words += ("retriever=hybrid retriever.parts=bm25,dense", "learner.loss.settings.high=0.3 pool.by=largest")
    return [{"words": text.encode().replace(b" ", b"\n")} for text in words]


# Settings, and what servers and clients send


def read_config(folder: Path, _: Any) -> None:
    found = config.load(folder / "config.json")
    assert config.from_json(config.to_json(found)) == found
    config.fingerprint(found)
    checks.problems(found)


def configs() -> list[Parts]:
    nested = config.Config(retriever=config.use("hybrid", parts=(config.use("bm25"), config.use("dense", index="x"))))
    made = (config.Config(), nested, config.Config(data=config.Data(world={"people": 9}), env=config.use("tool_call")))
    return [{"config.json": as_json(config.to_json(one))} for one in made] + [{"config.json": b'{"env": "search_r1"}'}]


def read_request(_: Path, files: Any) -> None:
    body = files["body.json"]
    (search_json.read_urls if b'"urls"' in body else search_json.read_asked)(body, limits.Limits())


def requests() -> list[Parts]:
    asked = ({"queries": ["a", "b"], "topk": 3, "return_scores": True}, {"query": "a", "k": 1}, {"urls": ["a", "b"]})
    return [{"body.json": as_json(body)} for body in asked]


def read_answer(_: Path, files: Any) -> None:
    try:
        body = json.loads(files["answer.json"])
    except RecursionError as error:  # as http_post.py has it
        raise ValueError from error
    named = body if isinstance(body, dict) else {}
    if "reranked" in named:
        protocols.rerank_results({"result": body["reranked"]}, [Passage("1", "t", "x"), Passage("2", "", "y")])
        return
    name = "search_r1" if "result" in named else "r1_searcher" if "answers" in named else "flashrag"
    name = "deepresearchgym" if "results" in named else name
    protocols.PROTOCOLS[name].results(body, 2, 3)


def answers() -> list[Parts]:
    document = {"id": 1, "contents": '"T"\nx'}
    bare = [[document], [{"id": "2", "title": "a", "text": "b"}, "only text"]]
    scored = [[{"document": document, "score": 0.5}], []]
    bodies = ({"result": scored}, {"answers": bare}, bare, [bare, [[1.0], [2, 3.5]]], {"reranked": scored[:1]})
    bodies += ({"results": [base64.b64encode(as_json({"Clean-Text": "x", "URL": "u"})).decode()]},)
    return [{"answer.json": as_json(body)} for body in bodies]


@functools.cache
def _serving() -> tuple[str, int]:
    """A retrieval server in a thread of its own, for as long as this process lives; where it listens."""
    search = bm25(corpus=[Passage("1", "Dune", "A novel by Frank Herbert."), Passage("2", "Oslo", "A capital.")])
    running, (listening, _) = server.App(search, SHORT).server, http_app.listen("127.0.0.1", 0)
    threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True).start()
    return listening.getsockname()[:2]


def _status(data: bytes) -> int:
    """Return the status of the answer to these bytes, on a connection of their own; 0 if there is none.

    A request that is not whole has none: its connection is half closed, which makes the server end it.
    """
    with socket.create_connection(_serving(), timeout=PATIENCE_S) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(data)
        if not select.select([connection], [], [], ANSWER_S)[0]:
            connection.shutdown(socket.SHUT_WR)
        line = connection.recv(200)
        assert not line or line.startswith(b"HTTP/1.1 "), line
        return int(line.split()[1]) if line else 0
    return 0


def read_sent(_: Path, files: Any) -> None:
    """No bytes make the server fail, hang, or refuse the good request after them."""
    status = _status(files["head"] + b"\r\n\r\n" + files["body.json"])
    assert status < 500, status
    assert _status(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n") == 200
    if status != 200:
        raise limits.Refused(status, "")


def sent() -> list[Parts]:
    dune = ["dune", "b"]
    bodies = {"POST /retrieve": {"queries": dune, "topk": 3, "return_scores": True}, "POST /search": {"query": "dune"}}
    bodies |= {"POST /batch_search": {"query": dune, "top_n": 2}, "POST /queries": {"queries": dune, "k": 2}}
    found = [{"head": f"GET {path} HTTP/1.1\r\nHost: localhost".encode(), "body.json": b""} for path in http_app.OPEN]
    for line, body in zip(bodies, map(as_json, bodies.values()), strict=True):
        head = f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close"
        found.append({"head": f"{head}\r\nContent-Length: {len(body)}".encode(), "body.json": body})
    return found


# Questions and passages


def read_rows(folder: Path, _: Any) -> None:
    (file,) = folder.iterdir()
    wrong = None
    for read in (readers.read_queries, readers.read_passages):
        try:
            read(file)
        except ValueError as error:
            wrong = error
            assert file.name in str(error), f"an error that does not name the file: {error}"
    checked = data_check.check(file)
    as_json(checked.to_json()), data_check.format_report(checked)
    for at, item in enumerate(checked.items.values()):
        if isinstance(item, Query):
            as_json([formats.row_of(item, form, at) for form in ("jsonl", "verl", "skyrl", "flashrag", "trl")])
    if wrong is not None and checked.errors:
        raise wrong


def rows() -> list[list[dict[str, Any]]]:
    query = Query("nq/1", "Who?", ("Ada",), meta={"hops": 2, "data_source": "nq"})
    forms = [[dict(formats.row_of(query, form, 0))] for form in ("verl", "skyrl", "flashrag", "trl")]
    return [
        [QUESTION, QUESTION | {"id": "q2"}],
        [PASSAGE, PASSAGE | {"id": "p"}],
        [{"id": "p", "title": "", "text": "b"}],
        *forms,
    ]


def row_lines() -> list[Parts]:
    lines = [b"\n".join(map(as_json, listed)) for listed in rows()]
    return [{f"rows.{end}": text} for text in lines for end in ("jsonl", "gz.jsonl")]


def row_tables() -> list[Parts]:
    return [{"rows.json": as_json(listed)} for listed in rows()]


def pack_lines(parts: Parts) -> Parts:
    (name, text), *_ = parts.items()
    return {"rows.jsonl.gz": gzip.compress(text or b"", 1)} if name == "rows.gz.jsonl" else parts


def pack_parquet(parts: Parts) -> Parts:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(json.loads(parts["rows.json"] or b"")), file)
    return {"rows.parquet": file.getvalue()}


def read_foreign(folder: Path, _: Any) -> None:
    (file,) = folder.iterdir()
    try:
        items, said, _ = foreign.read(file)
    except ValueError as error:
        assert file.name in str(error) or "--encoding" in str(error), f"an error that does not name the file: {error}"
        raise
    assert items and all(isinstance(line, str) for line in said)


def foreign_files() -> list[Parts]:
    table = [["id", "question", "answer", "Answer 2"], ["1", "Who?", "Ada", "A. L."], ["2", "Where?", "['Oslo']", ""]]
    tables = {end: "\n".join(map(mark.join, table)) for end, mark in (("csv", ","), ("tsv", "\t"), ("txt", ";"))}
    squad = {"question": "Who?", "answers": {"text": ["Ada"], "answer_start": [3]}}
    values = [QUESTION, [squad], {"data": [squad]}, {"q1": {"question": "Who?", "answer": "Ada"}}]
    values += [{"question": ["Who?"], "answers": [["Ada"]]}, {"question": {"0": "Who?"}, "answer": {"0": "Ada"}}]
    hotpot = {
        "_id": "1",
        "question": "Who?",
        "answer": "Ada",
        "supporting_facts": [["A", 0]],
        "context": [["A", ["It."]]],
    }
    wiki = hotpot | {"_id": "2", "context": {"title": ["A"], "sentences": [["It."]]}, "evidences": [["A", "by", "B"]]}
    text = {"title": "Ada", "paragraph_text": "Ada wrote.", "is_supporting": True}
    steps = [{"answer": "B"}, {"answer": "Ada"}]
    musique = {"question": "Who?", "answer": "Ada", "answer_aliases": ["A."], "answerable": True, "paragraphs": [text]}
    asked = {"id": "1", "question": "Who?", "answers": [{"text": "Ada"}], "is_impossible": False}
    trivia = {"Question": "Who?", "Answer": {"Value": "Ada", "Aliases": ["A."]}}
    values += [[hotpot, wiki], [musique | {"question_decomposition": steps}], {"Data": [trivia]}]
    values += [{"data": [{"title": "A_B", "paragraphs": [{"context": "Ada wrote.", "qas": [asked]}]}]}]
    values += [{"rows": [{"row_idx": 0, "row": wiki, "truncated_cells": []}], "num_rows_total": 2}]
    found: list[Parts] = [{f"rows.{end}": text.encode()} for end, text in tables.items()]
    found += [{"rows.json": as_json(value)} for value in values]
    arrow_rows = pa.Table.from_pylist([QUESTION, QUESTION | {"id": "2"}])
    for opener in (pa.ipc.new_stream, pa.ipc.new_file):
        with opener(held := pa.BufferOutputStream(), arrow_rows.schema) as opened:
            opened.write_table(arrow_rows)
        found.append({"rows.arrow": held.getvalue().to_pybytes()})
    page = b"<html><head><meta charset=latin-1><title>Ada</title><script>x<y</script></head><p>Ada <b>wrote</b>.<li>It."
    found.append({"page.html": page})
    return [
        *found,
        {"rows.csv": "title,text\nKöln,Am Rhein\n".encode("cp1252")},
        {"book.txt": b"Ada wrote it.\n\nThen."},
    ]


def read_official(folder: Path, _: Any) -> None:
    (file,) = folder.iterdir()
    name, split = OFFICIAL[file.name]
    for row in official.read(file, official.SETS[name], split, name):
        as_json(row)


def official_files() -> list[Parts]:
    step = {"id": 1, "question": "who?", "answer": "Ada", "paragraph_support_idx": 0}
    text = {"idx": 0, "title": "Ada", "paragraph_text": "Ada wrote.", "is_supporting": True}
    musique = {"id": "2hop", "question": "Who?", "answer": "Ada", "answer_aliases": ["A."], "answerable": True}
    musique |= {"question_decomposition": [step, step], "paragraphs": [text]}
    wiki = {
        "_id": "1",
        "question": "Who?",
        "answer": "Ada",
        "type": "bridge_comparison",
        "supporting_facts": [["A", 0]],
    }
    wiki |= {"context": [["A", ["One.", " Two."]]], "evidences": [["A", "by", "B"]]}
    trivia = {"Question": "Who?", "QuestionId": "t", "Answer": {"Value": "Ada", "Aliases": ["A."]}}
    popqa = 'id\tquestion\tpossible_answers\tprop\ts_wiki_title\n1\tWho?\t["Ada"]\tby\tIt\n'
    frames = "Prompt\tAnswer\treasoning_types\twiki_links\nWho?\tAda\tone\t['https://en.wikipedia.org/wiki/A_B#c']\n"
    texts = [as_json(musique) + b"\n", as_json([wiki]), as_json({"Data": [trivia]}), popqa.encode(), frames.encode()]
    return [{name: text} for name, text in zip(OFFICIAL, texts, strict=True)]


# Models


def read_safetensors(folder: Path, _: Any) -> None:
    for entry in safetensors_file.read_header(folder / "model.safetensors").values():
        safetensors_file.read(entry)


def safetensors_parts() -> list[Parts]:
    header = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"format": "pt"}}
    header |= {"b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}}
    return [{"header.json": as_json(header), "data": bytes(32)}]


def pack_safetensors(parts: Parts) -> Parts:
    header, data = parts["header.json"] or b"", parts["data"] or b""
    return {"model.safetensors": struct.pack("<Q", len(header)) + header + data}


def read_gguf(folder: Path, _: Any) -> None:
    path = folder / "model.gguf"
    file = gguf.read_header(path)
    for name in file.tensors:
        gguf.dequantise(file, name)
    rope.frequencies(gguf.shape(path))
    gguf.tokenizer(path).encode_data("a b <|im_end|>")


def gguf_parts() -> list[Parts]:
    sizes = {"block_count": 2, "context_length": 128, "embedding_length": 32, "feed_forward_length": 64}
    sizes |= {"attention.head_count": 4, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5}
    tokens = {"model": "gpt2", "pre": "qwen2", "tokens": ["a", "b", "Ġ", "Ġa", "<|im_end|>"], "merges": ["Ġ a"]}
    tokens |= {"token_type": [1, 1, 1, 1, 3], "eos_token_id": 4}
    metadata = {"general.architecture": "llama", "general.alignment": 32}
    metadata |= {f"llama.{name}": value for name, value in sizes.items()}
    metadata |= {f"tokenizer.ggml.{name}": value for name, value in tokens.items()}
    tensors = [["token_embd.weight", [5, 32], 0, 0], ["output_norm.weight", [32], 8, 640]]
    return [{"metadata.json": as_json(metadata), "tensors.json": as_json(tensors), "data": bytes(674)}]


def pack_gguf(parts: Parts) -> Parts:
    metadata, tensors = json.loads(parts["metadata.json"] or b""), json.loads(parts["tensors.json"] or b"")
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    for name, value in metadata.items():
        head += _gguf_text(name) + _gguf_value(value)
    for name, shape, kind, offset in tensors:
        head += _gguf_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, offset)
    return {"model.gguf": head + bytes(-len(head) % 32) + (parts["data"] or b"")}


def _gguf_text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


def _gguf_value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _gguf_text(value)
    if isinstance(value, list):
        kind, packed = (8, map(_gguf_text, value)) if value and isinstance(value[0], str) else (5, None)
        packed = packed or (struct.pack("<i", one) for one in value)
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(packed)
    if isinstance(value, bool | None):
        return struct.pack("<I?", 7, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    kind, form = (11, "q") if value < 0 else (4, "I") if value < 2**32 else (10, "Q")
    return struct.pack(f"<I{form}", kind, value)


def read_family(folder: Path, _: Any) -> None:
    described = json_files.read_json(folder / "config.json")
    if described.get("model_type") == "bert":
        encoder.from_hf(described)
        return
    found = families.from_hf(described)
    rope.frequencies(found)
    as_json(asdict(found))


def family_configs() -> list[Parts]:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    llama3 = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
    newer = {key: value for key, value in QWEN.items() if key not in ("rope_scaling", "rope_theta")}
    newer |= {"rope_parameters": {"rope_theta": 1e4} | llama3, "layer_types": ["full_attention"] * 28}
    kinds = {"full_attention": {"rope_theta": 1e6} | llama3, "sliding_attention": {"rope_theta": 1e4}}
    vision = {"model_type": "gemma3", "text_config": GEMMA | {"rope_parameters": kinds, "rope_scaling": None}}
    known = QWEN, QWEN | {"rope_scaling": yarn}, newer, GEMMA, vision, BERT
    return [{"config.json": as_json(one)} for one in known]


def read_tokenizer(folder: Path, _: Any) -> None:
    found = hf.load_tokenizer(folder)
    ids = found.encode_data("a b <|im_end|> <eos> é")
    assert found.added_ids.isdisjoint(ids) and isinstance(found.decode(ids), str) and found.eos_ids


def tokenizer_folders() -> list[Parts]:
    fast = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "Ġ": 2, "Ġa": 3, "Ã": 4, "©": 5}, [("Ġ", "a")]))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.add_special_tokens(["<|im_end|>"])
    pieces = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0), ("▁", -1.0), ("a", -2.0), ("</s>", 0)], 0))
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    pieces.add_special_tokens(["</s>"])
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages }}"}
    ends = {"eos_token_id": [6, 6], "pad_token_id": 6}
    return [
        {"words.json": as_json({"words": ["a", "b"]})},
        {
            "tokenizer.json": fast.to_str().encode(),
            "tokenizer_config.json": as_json(kind | {"eos_token": "<|im_end|>"}),
            "generation_config.json": as_json(ends),
        },
        {
            "tokenizer.json": pieces.to_str().encode(),
            "tokenizer_config.json": as_json(kind | {"eos_token": "</s>", "unk_token": "<unk>"}),
        },
    ]


# Checkpoints


def read_checkpoints(folder: Path, _: Any) -> None:
    checkpoints = Checkpoints(folder, say=lambda text: None)
    try:
        step = checkpoints.latest()
        if step is not None:
            checkpoints.arrays(step), checkpoints.host(step)
    finally:
        checkpoints.close()


def checkpoint_parts() -> list[Parts]:
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, a0=np.arange(3.0))
    facts = {"format": FORMAT, "step": 10, "arrays": {"params.a": ["float32", [2, 3]]}}
    host = {"pool": {"__array__": "a0"}, "steps": [1, 2], "metrics_bytes": 3}
    files = {"host.json": as_json(host), "host.npz": packed.getvalue(), "state/a": bytes(9)}
    return [{"facts.json": as_json(named)} | files for named in (facts, {"files": _listed(files)} | facts)]


def _listed(files: Mapping[str, bytes]) -> dict[str, Any]:
    return {name: {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()} for name, raw in files.items()}


def pack_checkpoint(parts: Parts) -> Parts:
    """Committed with what it holds: what was spoilt before has its right hash."""
    files = {name: content or b"" for name, content in parts.items() if name != "facts.json"}
    manifest = parts["facts.json"] or b""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        manifest = as_json({"files": _listed(files)} | json.loads(manifest))
    files[committed.MANIFEST] = manifest
    files[committed.MARKER] = hashlib.sha256(manifest).hexdigest().encode()
    return {f"step_00000010/{name}": content for name, content in files.items()}


LISTED = (
    Target("turns", 100_000, texts, read_text, refuses=(), is_read_from_disk=False, modules=(dialect,)),
    Target("calls", 100_000, calls, read_call, refuses=(), is_read_from_disk=False, modules=(tool_calls, dialect)),
    Target("overrides", 20_000, override_words, read_overrides, is_read_from_disk=False, modules=(overrides, settings)),
    Target("config", 2_000, configs, read_config, modules=(config, settings, checks)),
    Target(
        "requests", 100_000, requests, read_request, refuses=(limits.Refused,), is_read_from_disk=False,
        modules=(search_json, json_text),
    ),
    Target("answers", 100_000, answers, read_answer, is_read_from_disk=False, modules=(protocols,)),
    Target(
        "server", 2_000, sent, read_sent, refuses=(limits.Refused,), is_read_from_disk=False,
        modules=(server, search_json),
    ),
    Target("jsonl", 5_000, row_lines, read_rows, pack_lines, modules=(readers, formats, data_check)),
    Target("parquet", 2_000, row_tables, read_rows, pack_parquet, modules=(readers, formats, data_check, tables)),
    Target(
        "foreign", 4_000, foreign_files, read_foreign,
        modules=(foreign, foreign_rows, formats, carried, tables, html_text, inputs),
    ),
    Target("official", 6_000, official_files, read_official, modules=(official,)),
    Target("safetensors", 6_000, safetensors_parts, read_safetensors, pack_safetensors, modules=(safetensors_file,)),
    Target("gguf", 2_000, gguf_parts, read_gguf, pack_gguf, modules=(gguf,)),
    Target("families", 3_000, family_configs, read_family, modules=(families, gemma3, encoder, rope)),
    Target("tokenizer", 2_000, tokenizer_folders, read_tokenizer, is_folder=True, modules=(hf,)),
    Target(
        "checkpoints", 2_000, checkpoint_parts, read_checkpoints, pack_checkpoint, is_folder=True,
        modules=(checkpoint, committed, plain),
    ),
)  # fmt: skip
TARGETS: Mapping[str, Target] = {target.name: target for target in LISTED}
