"""Text to token ids and back: trusted text may hold control tokens, data never does."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from qr_jax.dialect import encodable
from qr_jax.errors import UserError
from qr_jax.models import hub
from qr_jax.settings import json_text
from qr_jax.settings.settings import show

# They also end a turn where the vocabulary has them as added tokens.
TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<end_of_turn>")
BLANK = "▁"  # SentencePiece's
RESERVED = ("<pad>", "<eos>", "<unk>")
KIND = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}  # for transformers


class FastTokenizer:
    """A tokenizer from the text of a tokenizer.json: byte-level (GPT-2's scheme: Qwen, SmolLM2, Llama 3), or with "▁"
    for a blank (SentencePiece's: Llama 2, Mistral, Gemma).

    `settings` has eos_token, pad_token and bos_token; `eos_ids` are further ends of a turn. No space is put before a
    text, as SentencePiece would: texts are joined here, and their pieces must give exactly that text. Only a template's
    own text has the space that SentencePiece puts after an added token, where the file asks for it.

    `size` is above every id. `added_ids` is the whole added vocabulary, special or not, and the ends of a turn: no
    token of a passage or question may be one of them. `template` is the Jinja chat template, if any; `unknown_id`
    stands for what the vocabulary lacks (None: it lacks nothing).
    """

    def __init__(
        self, described: str, settings: Mapping[str, Any], *, template: str | None = None, eos_ids: Sequence[int] = ()
    ):
        whole = json_text.parse(described)
        parsed = _without_prefix(whole)
        self.described, self.settings, self.template = described, dict(settings), template
        self.bos = _content(settings.get("bos_token")) or None
        self._trusted = _backend(parsed)
        self._whole = self._trusted if parsed == whole else _backend(whole)
        added = {entry["content"]: int(entry["id"]) for entry in parsed.get("added_tokens") or []}
        self._added = re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or r"(?!)")
        vocabulary = self._trusted.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise UserError("tokenizer.json has no tokens; fetch it again")
        self.size = max(vocabulary.values()) + 1
        self._pieces = _pieces(parsed, vocabulary, added)
        self.eos_ids = self._ends(vocabulary, added, eos_ids)
        pad = vocabulary.get(_content(settings.get("pad_token")), added.get("<|endoftext|>"))
        self.pad_id = self.eos_ids[0] if pad is None else pad
        self.unknown_id = vocabulary.get(parsed["model"].get("unk_token"), parsed["model"].get("unk_id"))
        # Gemma adds runs of blanks and breaks, which control nothing
        control = {at for token, at in added.items() if token.strip().strip(BLANK)}
        self.added_ids = frozenset(control - {self.unknown_id} | {*self.eos_ids, self.pad_id})
        self._data = _backend(_without(parsed, {token for token, at in vocabulary.items() if at in self.added_ids}))

    def _ends(self, vocabulary: dict[str, int], added: dict[str, int], further: Sequence[int]) -> tuple[int, ...]:
        named = [vocabulary.get(_content(self.settings.get("eos_token"))), *map(added.get, TURN_ENDS)]
        ends = dict.fromkeys([end for end in named if end is not None] + [int(end) for end in further])
        if not ends or not all(0 <= end < self.size for end in ends):
            raise UserError(
                f"ids that end a turn are {list(ends)}; wanted at least one, below {self.size}: name it as eos_token "
                "in tokenizer_config.json, or as eos_token_id in generation_config.json"
            )
        return tuple(ends)

    def encode(self, text: str) -> list[int]:
        """Return ids of trusted text (the dialect's tags, an expert's turn): added tokens are recognised."""
        return _ids(self._trusted, text)

    def encode_glue(self, text: str) -> list[int]:
        """Return ids of a chat template's own text, as transformers has them."""
        first = self._added.search(text)
        at = first.start() if first else len(text)  # before it the text goes on from data
        return _ids(self._trusted, text[:at]) + _ids(self._whole, text[at:])

    def encode_data(self, text: str) -> list[int]:
        """Return ids of untrusted text, none of them in `added_ids`; ValueError names the token if one were."""
        proper = text.encode("utf-8", errors="replace").decode()  # JSON may bring lone surrogates, which are no text
        ids = _ids(self._data, proper)
        if not self.added_ids.isdisjoint(ids):
            added = next(token for token in ids if token in self.added_ids)
            raise UserError(f"untrusted text was encoded to the added token {self.piece(added)!r} (id {added})")
        return ids

    def piece(self, token: int) -> bytes:
        """Return a token's bytes: joined, they are the exact UTF-8 text of the ids, added tokens as their text."""
        if token not in self._pieces:
            raise UserError(f"id {token} is none of the tokenizer's {len(self._pieces)} tokens")
        return self._pieces[token]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the pieces joined, bytes that are no UTF-8 replaced by U+FFFD."""
        return b"".join(map(self.piece, ids)).decode("utf-8", errors="replace")


def _content(token: Any) -> str:
    """Return a special token's text: tokenizer_config.json has it bare or in an object."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _backend(parsed: dict[str, Any]) -> tokenizers.Tokenizer:
    """Build without truncation and padding, which a tokenizer.json may carry and which would cut text unseen."""
    plain = json.dumps(parsed | {"truncation": None, "padding": None})
    try:
        return tokenizers.Tokenizer.from_str(plain)
    except BaseException as error:  # the library raises bare Exception, or panics
        if not hub.of_library(error):
            raise
        raise UserError(f"tokenizer.json is not readable: {error}") from None


def _ids(backend: tokenizers.Tokenizer, text: str) -> list[int]:
    try:
        return backend.encode(text, add_special_tokens=False).ids
    except BaseException as error:  # the library raises bare Exception: an unknown token that is not in the vocabulary
        if type(error) is not Exception and not hub.is_panic(error):
            raise
        raise UserError(f"tokenizer.json cannot encode {show(text)}: {str(error)[:200]}") from error


def _without(parsed: dict[str, Any], contents: set[str]) -> dict[str, Any]:
    """Return the same tokenizer with no added vocabulary and without the tokens named, for data.

    add_special_tokens=False still turns "<|im_end|>" into its id, and encode_special_tokens=True leaves added tokens
    that are not marked special. Tokens that stand in the model's vocabulary too are taken out of it, unless a merge
    makes or joins them, so that no shortcut (ignore_merges) reaches them. (An end of
    turn of one byte, in no merge, drops out of data.)
    """
    model, vocabulary = dict(parsed["model"]), parsed["model"].get("vocab")
    if isinstance(vocabulary, list):  # Unigram's: an id is a place in it
        model["vocab"] = [[f"\0{at}", -1e9] if row[0] in contents else row for at, row in enumerate(vocabulary)]
    if isinstance(vocabulary, dict):
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges") or []]
        used = {part for pair in pairs for part in (*pair, "".join(pair))}
        model["vocab"] = {token: at for token, at in vocabulary.items() if token not in contents - used}
    return parsed | {"added_tokens": [], "post_processor": None, "model": model}


def _byte_of() -> dict[str, int]:
    """Invert GPT-2's printable stand-in for each byte (Radford et al. 2019, `bytes_to_unicode`)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in set(shown)]
    return {chr(byte): byte for byte in shown} | {chr(256 + at): byte for at, byte in enumerate(hidden)}


def _pieces(parsed: dict[str, Any], vocabulary: dict[str, int], added: dict[str, int]) -> dict[int, bytes]:
    """Return each token's bytes. ValueError for a scheme in which a token has none (WordPiece)."""
    scheme = json.dumps([parsed.get(part) for part in ("decoder", "pre_tokenizer", "normalizer")], ensure_ascii=False)
    if "ByteLevel" in scheme:
        byte_of = _byte_of()
        known = {token: bytes(byte_of[c] for c in token) for token in vocabulary if all(c in byte_of for c in token)}
    elif BLANK in scheme:
        bytes_of = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
        known = {token: bytes_of.get(token, token.replace(BLANK, " ").encode()) for token in vocabulary}
    else:
        kind = parsed["model"].get("type")
        raise UserError(f"a {kind} tokenizer that is neither byte-level nor has {BLANK!r} for a blank is not read")
    return {
        at: token.encode() if token in added and token.strip(BLANK) else known.get(token, token.encode())
        for token, at in vocabulary.items()
    }


def _without_prefix(parsed: dict[str, Any]) -> dict[str, Any]:
    """Remove from the tokenizer what puts a blank before each text it is given."""

    def plain(part: Any) -> Any:
        if isinstance(part, list):
            return [plain(item) for item in part if not (isinstance(item, dict) and item.get("type") == "Prepend")]
        if not isinstance(part, dict):
            return part
        if part.get("type") == "Prepend":
            return None
        unprefixed = {"Metaspace": {"prepend_scheme": "never"}, "ByteLevel": {"add_prefix_space": False}}
        changed = unprefixed.get(str(part.get("type")), {})
        return {name: plain(value) for name, value in part.items()} | changed

    return parsed | {name: plain(parsed.get(name)) for name in ("normalizer", "pre_tokenizer")}


def _is_word(word: Any) -> bool:
    return isinstance(word, str) and word.split() == [word] and word not in RESERVED and encodable(word) == word


class WordTokenizer:
    """FastTokenizer's methods, one token a word, for synthetic worlds: ids 0 <pad>, 1 <eos>, 2 <unk>, then the words.

    Text is split at whitespace; the dialect's tags are ordinary words. Decoded words stand with a space after each.
    """

    template: str | None = None
    bos: str | None = None
    pad_id: int = 0
    unknown_id: int | None = 2
    eos_ids: tuple[int, ...] = (1,)
    added_ids: frozenset[int] = frozenset({0, 1})

    def __init__(self, words: Sequence[str]):
        odd = [word for word in words if not _is_word(word)]
        if odd or len(set(words)) != len(words):
            wanted = f"words must be distinct texts, without whitespace and none of {RESERVED}"
            raise UserError(f"{wanted}; found {show(odd[:5] or 'a word twice')}")
        self.words = (*RESERVED, *words)
        self.size = len(self.words)
        self._ids = {word: at for at, word in enumerate(self.words)}

    def encode(self, text: str) -> list[int]:
        """Return the words' ids; 2 for an unknown word."""
        return [self._ids.get(word, 2) for word in text.split()]

    encode_glue = encode

    def encode_data(self, text: str) -> list[int]:
        """Encode text that must not become a control token: such words are unknown ones."""
        ids = [2 if token in self.added_ids else token for token in self.encode(text)]
        assert self.added_ids.isdisjoint(ids)
        return ids

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token. ValueError for an id that is none."""
        if not 0 <= token < self.size:
            raise UserError(f"id {token} is none of the tokenizer's {self.size} words")
        return self.words[token].encode() + b" "

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words, each with a blank behind it."""
        return b"".join(map(self.piece, ids)).decode()


Tokenizer = FastTokenizer | WordTokenizer
