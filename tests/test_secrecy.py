import html
import json
import time
import urllib.parse

import pytest

from qr_jax.logging.secrecy import redact, without

KEY = "sk-M/R+K=R7"
FORMS = {
    "as it is": KEY,
    "in bytes": repr(f"Bearer {KEY}\n".encode()),
    "PHP's JSON": KEY.replace("/", "\\/"),
    "JSON in JSON": KEY.replace("/", "\\\\/"),
    "escapes of JSON": "".join(f"\\u{ord(one):04x}" for one in KEY),
    "a URL": urllib.parse.quote(KEY, safe=""),
    "a URL in one": urllib.parse.quote(urllib.parse.quote(KEY, safe=""), safe=""),
    "a URL in small letters": KEY.replace("/", "%2f"),
    "HTML": html.escape(KEY).replace("/", "&#x2F;").replace("+", "&#43;"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("value", [KEY, f"{KEY}\n", f" {KEY} "], ids=["", "with a line's end", "in blanks"])
def test_a_secret_is_taken_out_as_it_is_and_as_others_write_it(monkeypatch, form, value):
    monkeypatch.setenv("LAB_TOKEN", value)
    said = redact(f"before {form} after")
    assert "[redacted]" in said and said.startswith("before ") and said.endswith(" after")
    assert "R7" not in said and "sk-M" not in said and "0037" not in said


def test_the_longer_of_two_secrets_goes_first_and_what_is_none_stays():
    assert without("abcdefgh abcdef abcde", ["abcdef", "abcdefgh"]) == "[redacted] [redacted] abcde"


def test_a_large_text_takes_no_time_of_note():
    text = json.dumps([KEY[:-1] + "x", "\\" * 9, "%" * 9] * 100_000)
    began = time.monotonic()
    assert without(text, [KEY]) == text
    assert time.monotonic() - began < 10
