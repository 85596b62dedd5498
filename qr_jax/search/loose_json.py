"""Turn what models write for JSON into JSON: Python's signs, names without quotes, comments, commas too many."""

import re

TEXT, QUOTED = r'"(?:[^"\\]|\\.)*+"', r"'(?:[^'\\]|\\.)*+'"
COMMENT = r"//[^\n]*+|/\*(?:(?!\*/).)*+\*/"
SIGN = re.compile(
    rf"({TEXT}|{QUOTED})|{COMMENT}|\b((?i:true|false|none|null))\b|,(?=(?:\s|{COMMENT})*[]}}])"
    r"|(?<=[{,\s])([A-Za-z_]\w*)(?=\s*:)",
    re.DOTALL,
)
IN_TEXT = re.compile(r"\\.|\"", re.DOTALL)
ESCAPED = {"\\'": "'", '"': '\\"'}


def as_json(text: str) -> str:
    """Return the text with single quotes, `\\'`, True, None, bare names, comments and last commas as JSON has them.

    JSON comes back unchanged, but for its last commas and `\\'`, which JSON does not allow.
    """
    return SIGN.sub(_sign, text)


def _sign(match: re.Match[str]) -> str:
    text, word, name = match.groups()
    if text is not None:
        return '"' + IN_TEXT.sub(lambda sign: ESCAPED.get(sign[0], sign[0]), text[1:-1]) + '"'
    return f'"{name}"' if name else (word or "").lower().replace("none", "null")
