"""Arbitrary text of a model as plain text: without signs that act on a page or terminal, cut, and escaped."""

from __future__ import annotations

import re
import unicodedata

MOST = 600  # characters that are shown of a prompt and of an answer
CUT = "…"
_UNKNOWN = "\ufffd"
# Signs that change the direction or order of the text around them.
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Signs with a meaning in Markdown, HTML, or GitHub's extensions (links, mentions, formulas, emoji names). "_" has none
# between two letters.
_SIGNS = re.compile(r"[\\`*{}\[\]<>#|~$@&]|(?<![^\W_])_|_(?![^\W_])|:(?=\S)|(?<=www)\.", re.IGNORECASE)
_SPACE = re.compile(r"[ \t]+")


def plain(text: str) -> str:
    """Return the text with "\\n" as its only line break, and a replacement sign for every other control character."""
    lines = re.sub(r"\r\n?|[\v\f\x85\u2028\u2029]", "\n", text).replace("\t", " ").strip()
    return "".join(_UNKNOWN if _acts(sign) else sign for sign in lines)


def _acts(sign: str) -> bool:
    return sign in _DIRECTIONS or (sign != "\n" and unicodedata.category(sign) in ("Cc", "Cs"))


def beginning(text: str) -> str:
    """Return the first `MOST` characters of the plain text, and "…" if there are more."""
    text = plain(text)
    return text if len(text) <= MOST else f"{text[:MOST].rstrip()} {CUT}"


def ending(text: str) -> str:
    """Return the last `MOST` characters of the plain text, because a prompt's request is at its end."""
    text = plain(text)
    return text if len(text) <= MOST else f"{CUT} {text[-MOST:].lstrip()}"


def in_markdown(text: str) -> str:
    """Return the text for one cell of a Markdown table, on one line, so that it is shown as it is.

    Signs with a meaning become numeric references ("&#124;"): Markdown never takes a reference for structure, but reads
    a backslash before "|" differently inside and outside of code.
    """
    escaped = _SIGNS.sub(lambda found: f"&#{ord(found.group())};", _SPACE.sub(" ", plain(text)))
    return "<br>".join(line.strip() for line in escaped.split("\n"))
