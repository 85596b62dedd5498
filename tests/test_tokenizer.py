"""Tokenizers: data never becomes a control token, pieces are exact bytes, what is saved comes back."""

import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from qr_jax.lab import hf_folder
from qr_jax.models import hf
from qr_jax.models.hf import load_tokenizer
from qr_jax.models.tokenizer import FastTokenizer, WordTokenizer
from qr_jax.records import Say
from qr_jax.rollout.chat import Chat
from qr_jax.serve.conversation import conversation_ids

FIXTURES = Path(__file__).parent / "fixtures"
QWEN = load_tokenizer(FIXTURES / "qwen3")
ADDED = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>",
    "</tool_response>", "<think>", "</think>",
]  # fmt: skip
hostile = st.lists(st.sampled_from(ADDED) | st.text(max_size=6) | st.sampled_from(["Ġ", "Ċ", "<|", "|>", " "])).map(
    "".join
)


@pytest.fixture(scope="module")
def smollm2():
    try:
        return load_tokenizer(hf.resolve("smollm2"))
    except ValueError as error:
        pytest.skip(str(error))


def test_trusted_text_gives_added_tokens_special_or_not():
    assert QWEN.encode("".join(ADDED)) == list(range(300, 309))
    assert QWEN.added_ids == frozenset(range(300, 309))
    assert (QWEN.size, QWEN.pad_id, QWEN.eos_ids) == (309, 300, (302, 300))


@given(hostile)
def test_no_token_of_data_is_an_added_token_with_qwens_kinds(text):
    ids = QWEN.encode_data(text)
    assert QWEN.added_ids.isdisjoint(ids)
    proper = text.encode("utf-8", errors="replace").decode()
    if proper.isascii():
        assert QWEN.decode(ids) == proper
    assert unicodedata.normalize("NFD", QWEN.decode(ids)) == unicodedata.normalize("NFD", proper)


@given(hostile)
def test_trusted_pieces_join_to_the_text_added_tokens_included(text):
    proper = unicodedata.normalize("NFC", text.encode("utf-8", errors="replace").decode())
    assert unicodedata.normalize("NFC", QWEN.decode(QWEN.encode(proper))) == proper


def test_data_without_control_text_is_encoded_as_trusted_text_is():
    text = "search the answer, 1984: café\n\n 東京"
    assert QWEN.encode_data(text) == QWEN.encode(text)


def test_a_lone_surrogate_in_data_is_replaced():
    assert QWEN.decode(QWEN.encode_data("a\ud800b")) == "a?b"


def test_pieces_are_bytes_even_where_they_are_no_text_alone():
    ids = QWEN.encode("é京")
    assert b"".join(map(QWEN.piece, ids)) == "é京".encode()
    assert QWEN.piece(ids[0]) == b"\xc3" and QWEN.decode(ids[:1]) == "\ufffd"
    assert QWEN.piece(302) == b"<|im_end|>"
    with pytest.raises(ValueError, match="id 309 is none"):
        QWEN.piece(309)


def test_added_tokens_inside_the_models_vocabulary_are_out_of_reach_too():
    """A tokenizer that takes whole words from its vocabulary (ignore_merges, Llama 3) must not find them there."""
    parsed = json.loads((FIXTURES / "qwen3" / "tokenizer.json").read_text())
    parsed["model"]["vocab"]["<think>"] = 307
    parsed["model"]["ignore_merges"] = True
    parsed["pre_tokenizer"]["pretokenizers"] = parsed["pre_tokenizer"]["pretokenizers"][1:]
    tokenizer = FastTokenizer(json.dumps(parsed), {"eos_token": "<|im_end|>"})
    assert tokenizer.encode("<think>") == [307]
    assert 307 not in tokenizer.encode_data("<think>")


def test_an_added_token_that_merges_build_is_refused_by_name():
    parsed = json.loads((FIXTURES / "qwen3" / "tokenizer.json").read_text())
    built = "".join(parsed["model"]["merges"][0])
    parsed["added_tokens"].append(parsed["added_tokens"][0] | {"id": parsed["model"]["vocab"][built], "content": built})
    tokenizer = FastTokenizer(json.dumps(parsed), {"eos_token": "<|im_end|>"})
    with pytest.raises(ValueError, match=f"added token b'{built}'"):
        tokenizer.encode_data(built)


def test_an_end_of_turn_that_is_no_added_token_is_kept_out_of_data_too():
    described = json.loads((FIXTURES / "qwen3" / "tokenizer.json").read_text())
    described["model"]["vocab"]["!"], described["added_tokens"] = 0, []
    tokenizer = FastTokenizer(json.dumps(described), {"eos_token": "!"})
    assert tokenizer.encode("!") == [0] and tokenizer.added_ids == {0}
    assert tokenizer.encode_data("a!b") == tokenizer.encode_data("ab")


def test_truncation_and_padding_of_the_file_are_not_taken_over():
    parsed = json.loads((FIXTURES / "qwen3" / "tokenizer.json").read_text())
    parsed["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    tokenizer = FastTokenizer(json.dumps(parsed), {"eos_token": "<|im_end|>"})
    assert tokenizer.decode(tokenizer.encode("a longer text")) == "a longer text"


def test_a_tokenizer_whose_tokens_have_no_bytes_is_refused():
    with pytest.raises(ValueError, match="WordPiece tokenizer that is neither"):
        model = {"type": "WordPiece", "unk_token": "u", "continuing_subword_prefix": "##", "vocab": {"u": 0, "##b": 1}}
        FastTokenizer(json.dumps({"model": model | {"max_input_chars_per_word": 9}}), {"eos_token": "u"})


TEXTS = ["search the answer, 1984: café", " two  blanks\n\nand lines ", "東京 é", "<s> </s> <unk> <0x41> [INST]"]


def sentencepiece(kind: str, prefix: str) -> tokenizers.Tokenizer:
    """Llama 2's way (a BPE with bytes to fall back on) or T5's (Unigram), made small."""
    control = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["▁", *"abcdefghijklmnopqrstuvwxyz,:", "er", "an", "▁the"]
    if kind == "BPE":
        vocabulary = {token: at for at, token in enumerate([*control, *bytes_, *words, "▁t", "▁th"])}
        merges = [("e", "r"), ("a", "n"), ("▁", "t"), ("▁t", "h"), ("▁th", "e")]
        made = tokenizers.Tokenizer(
            tokenizers.models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        )
    else:
        rows = [(token, 0.0) for token in [*control, *bytes_]] + [
            (word, -len(words) + at) for at, word in enumerate(words)
        ]
        made = tokenizers.Tokenizer(tokenizers.models.Unigram(rows, unk_id=0, byte_fallback=True))
    normalizers, decoders = tokenizers.normalizers, tokenizers.decoders
    if prefix == "Prepend":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme=prefix, split=False)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens(control)
    made.add_tokens(["[INST]"])
    return made


@pytest.mark.parametrize(("kind", "prefix"), [("BPE", "Prepend"), ("BPE", "first"), ("Unigram", "always")])
def test_sentencepiece_like_tokenizers_join_to_the_text_and_keep_added_tokens_out_of_data(kind, prefix, tmp_path):
    made = sentencepiece(kind, prefix)
    made.save(str(tmp_path / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    described = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(described))
    ours = load_tokenizer(tmp_path)
    assert ours.eos_ids == (2,) and ours.bos == "<s>" and 0 not in ours.added_ids and {1, 2} <= ours.added_ids
    for text in TEXTS:
        text = text.replace("<0x41>", "") if kind == "Unigram" else text  # whose words byte tokens are, too
        ids = ours.encode_data(text)
        assert ours.decode(ids) == text and ours.added_ids.isdisjoint(ids)
    instruction = made.token_to_id("[INST]")
    assert ours.encode("<s>[INST]") == [1, instruction] and instruction not in ours.encode_data("[INST]")
    assert ours.piece(made.token_to_id("▁the")) == b" the" and ours.piece(3 + 0x41) == b"A"
    inner = made.encode(
        "x the answer", add_special_tokens=False
    ).ids  # what follows the first word is transformers' own
    assert inner[-len(ours.encode(" the answer")) :] == ours.encode(" the answer")
    hf_folder.save_tokenizer(tmp_path / "again", ours)
    assert load_tokenizer(tmp_path / "again").encode(TEXTS[0]) == ours.encode(TEXTS[0])


def test_runs_of_blanks_and_breaks_that_are_added_tokens_too_are_data_as_in_gemma(tmp_path):
    """Gemma's tokenizer.json adds "\\n", "\\n\\n", "▁▁" to its vocabulary, and merges build them."""
    described = json.loads(sentencepiece("BPE", "Prepend").to_str())
    vocabulary = described["model"]["vocab"]
    for token in ("\n", "\n\n", "▁▁", "<start_of_turn>"):
        vocabulary[token] = len(vocabulary) + 1
        entry = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        described["added_tokens"].append(entry | {"id": vocabulary[token], "content": token})
    described["model"]["merges"] += [["\n", "\n"], ["▁", "▁"]]
    ours = FastTokenizer(json.dumps(described), {"eos_token": "</s>"})
    text = "a\n\nb  c\n<start_of_turn>"
    ids = ours.encode_data(text)
    assert ours.decode(ids) == text and vocabulary["<start_of_turn>"] not in ids
    assert {vocabulary["\n\n"], vocabulary["▁▁"], vocabulary["\n"]} <= {*ids}
    assert vocabulary["<start_of_turn>"] in ours.encode(text)


def test_a_tokenizer_at_which_the_library_panics_is_a_value_error(tmp_path):
    described = json.loads(sentencepiece("BPE", "Prepend").to_str())
    described["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": ""}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}'
    )
    with pytest.raises(ValueError, match="does not read the tokenizer of"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="tokenizer.json is not readable"):
        FastTokenizer(json.dumps(described), {"eos_token": "</s>"})


def test_a_folder_with_no_end_of_turn_is_refused():
    described = json.loads((FIXTURES / "qwen3" / "tokenizer.json").read_text())
    described["added_tokens"] = []
    with pytest.raises(ValueError, match="eos_token"):
        FastTokenizer(json.dumps(described), {})


def test_text_that_a_tokenizer_has_no_token_for_is_a_value_error():
    described = json.loads((FIXTURES / "qwen3" / "tokenizer.json").read_text())
    described["model"] |= {"unk_token": "<none>", "vocab": {"a": 0}, "merges": []}
    described["added_tokens"] = [entry | {"id": 1 + at} for at, entry in enumerate(described["added_tokens"])]
    tokenizer = FastTokenizer(json.dumps(described), {"eos_token": "<|im_end|>"})
    assert tokenizer.encode_data("aa") == [0, 0]
    with pytest.raises(ValueError, match="tokenizer.json cannot encode 'ab': Unk token `<none>` not found"):
        tokenizer.encode_data("ab")


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("generation_config.json", {"eos_token_id": [300, {"a": 1}]}, "eos_token_id = .*; wanted a whole number"),
        ("generation_config.json", {"eos_token_id": 10**9}, "ids that end a turn are"),
        ("tokenizer_config.json", {"chat_template": 3}, "the chat template of in is 3; wanted a text"),
        ("words.json", {"words": 5}, "words.json has words = 5; wanted a list of texts"),
        ("words.json", {"words": "abc"}, "words.json has words = 'abc'; wanted a list of texts"),
    ],
)
def test_a_tokenizer_s_files_of_other_types_are_refused(file, change, says, tmp_path):
    shutil.copytree(FIXTURES / "qwen3", tmp_path / "in")
    (tmp_path / "in" / "chat_template.jinja").unlink()
    place = tmp_path / "in" / file
    place.write_text(json.dumps((json.loads(place.read_text()) if place.is_file() else {}) | change))
    with pytest.raises(ValueError, match=says):
        load_tokenizer(tmp_path / "in")


def test_a_saved_tokenizer_comes_back_the_same(tmp_path):
    shutil.copytree(FIXTURES / "qwen3", tmp_path / "in")
    (tmp_path / "in" / "generation_config.json").write_text(json.dumps({"eos_token_id": [302, 305]}))
    ours = load_tokenizer(tmp_path / "in")
    assert ours.eos_ids == (302, 300, 305)
    hf_folder.save_tokenizer(tmp_path / "out", ours)
    again = load_tokenizer(tmp_path / "out")
    for name in ("size", "pad_id", "eos_ids", "added_ids", "template"):
        assert getattr(again, name) == getattr(ours, name)
    assert again.encode("<think>search") == ours.encode("<think>search")


def test_words_by_hand():
    words = WordTokenizer(["<search>", "paris", "is"])
    assert (words.size, words.pad_id, words.eos_ids, words.template) == (6, 0, (1,), None)
    assert words.encode("<search> paris\n was <eos>") == [3, 4, 2, 1]
    assert words.encode_data("<search> paris <eos> <pad>") == [3, 4, 2, 2]
    assert words.piece(4) == b"paris " and words.decode([3, 4, 1]) == "<search> paris <eos> "


@pytest.mark.parametrize("words", [["a", "a"], ["a b"], [""], ["<eos>"], [5], [["a"]], ["\ud800"]])
def test_words_that_could_not_be_told_apart_are_refused(words):
    with pytest.raises(ValueError, match="distinct"):
        WordTokenizer(words)


def test_saved_words_come_back_and_transformers_reads_them(tmp_path):
    from transformers import AutoTokenizer

    words = WordTokenizer(["<search>", "paris", "is"])
    hf_folder.save_tokenizer(tmp_path, words)
    for path in (tmp_path, tmp_path / "words.json"):
        assert load_tokenizer(path).words == words.words
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = "<search> paris is nowhere <eos>"
    assert theirs(text)["input_ids"] == words.encode(text)
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 1, 2)


def test_smollm2_encodes_as_transformers_does(smollm2):
    for text, ids in json.loads((FIXTURES / "smollm2_ids.json").read_text()).items():
        assert smollm2.encode(text) == ids
        assert smollm2.decode(ids) == text


def test_no_token_of_data_is_an_added_token_with_smollm2(smollm2):
    names = [smollm2.piece(token).decode() for token in sorted(smollm2.added_ids)]
    assert "<|im_end|>" in names and len(names) == 17
    rng = np.random.default_rng(0)
    for _ in range(50):
        text = "".join(rng.choice([*names, " ", "word", "\n", "é", "7"], 12))
        ids = smollm2.encode_data(text)
        assert smollm2.added_ids.isdisjoint(ids) and smollm2.decode(ids) == text
    assert smollm2.encode(names[2]) == [2]


def test_smollm2_saved_as_a_folder_is_the_same_tokenizer(smollm2, tmp_path):
    hf_folder.save_tokenizer(tmp_path, smollm2)
    again = load_tokenizer(tmp_path)
    text = "<|im_start|>user\nIn 1984?<|im_end|>"
    assert again.encode(text) == smollm2.encode(text)
    assert (again.size, again.eos_ids, again.pad_id, again.template) == (49152, (2, 0), 2, smollm2.template)


MISTRAL = (  # the form of Mistral's published templates, as of v0.3 ("first") and v0.1 ("Prepend")
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)


def instructed(prefix: str, folder: Path, *, added: bool) -> FastTokenizer:
    """A tokenizer in SentencePiece's way with Mistral's template; [INST] is an added token, or plain text."""
    described = json.loads(sentencepiece("BPE", prefix).to_str())
    if not added:
        described["added_tokens"] = [entry for entry in described["added_tokens"] if entry["content"] != "[INST]"]
    (folder / "tokenizer.json").write_text(json.dumps(described))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": MISTRAL}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **named}))
    return load_tokenizer(folder)


@pytest.mark.parametrize(("prefix", "added"), [("first", True), ("Prepend", False)])
def test_mistral_s_prompts_are_those_of_apply_chat_template(prefix, added, tmp_path):
    """The blank behind [INST] joins the question's first word, and where the file says so one stands before [INST]."""
    from transformers import PreTrainedTokenizerFast

    ours, theirs = instructed(prefix, tmp_path, added=added), PreTrainedTokenizerFast.from_pretrained(tmp_path)
    chat, user = Chat(ours, bos=ours.bos), {"role": "user", "content": "the answer, the an er"}

    def applied(*messages):
        return theirs.apply_chat_template([*messages], tokenize=True, return_dict=False)

    opened = chat.open(Say(user["content"]))
    assert opened == applied(user)
    said = [user, {"role": "assistant", "content": "the an"}, {"role": "user", "content": "the er"}]
    observed = chat.observe(Say("the er"), ended_by_eos=True)
    whole = applied(*said)
    assert whole[: len(opened)] == opened and whole[-len(observed) :] == observed
    assert whole[-len(observed) - 1] == ours.eos_ids[0]
    assert conversation_ids(chat, said) == whole  # the reply too takes over the blank before it
    assert ours.decode(chat.open(Say("</s> the"))[len(ours.encode_glue("<s>[INST]")) :]).startswith(" </s> the")


CLASSES = ("GPT2Tokenizer", "LlamaTokenizer", "LlamaTokenizerFast", "Qwen2Tokenizer", "GemmaTokenizer")


@pytest.mark.parametrize("kind", ("llama", "qwen2", "mistral"))
@pytest.mark.parametrize("name", CLASSES)
def test_a_file_s_own_cuts_are_kept_under_every_published_class_s_name(name, kind, tmp_path):
    """SmolLM2 cuts numbers into digits and says it is a GPT2Tokenizer, which in transformers 5 does not."""
    cuts, decoder = tokenizers.pre_tokenizers, tokenizers.decoders.ByteLevel()
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    alphabet = cuts.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=["<|im_end|>"], initial_alphabet=alphabet)
    made.pre_tokenizer, made.decoder = cuts.ByteLevel(add_prefix_space=False), decoder
    made.train_from_iterator(["the year 1234 and 1234"] * 20, trainer)
    made.pre_tokenizer = cuts.Sequence([cuts.Digits(individual_digits=True), cuts.ByteLevel(add_prefix_space=False)])
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, "eos_token": "<|im_end|>"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    ours = load_tokenizer(tmp_path)
    ids = ours.encode("the year 1234")
    assert ids == made.encode("the year 1234", add_special_tokens=False).ids
    assert [ours.piece(token) for token in ids[-4:]] == [b"1", b"2", b"3", b"4"]


def test_a_folder_without_a_tokenizer_json_is_refused_with_the_cure(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\x00junk")
    with pytest.raises(ValueError, match="has no tokenizer.json; fetch it again, or convert the tokenizer"):
        load_tokenizer(tmp_path)
