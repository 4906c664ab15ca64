"""Every text file is written and read as UTF-8, whatever the locale."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = [path for folder in ("src", "workflow", "bench") for path in sorted((ROOT / folder).rglob("*.py"))]
OWN = ("write_text",)  # `rebend.io.files.write_text` writes UTF-8


def calls_without_encoding(text: str) -> Iterator[int]:
    """Yield the lines of calls that read or write text with the locale's encoding."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and not any(word.arg == "encoding" for word in node.keywords):
            function = ast.unparse(node.func)
            name = function.rsplit(".", 1)[-1]
            opens = name in ("open", "fdopen", "NamedTemporaryFile", "TextIOWrapper") and function != "os.open"
            texts = name in ("read_text", "write_text") and function not in OWN
            pipes = name in ("run", "Popen", "check_output") and any(
                word.arg in ("text", "universal_newlines") for word in node.keywords
            )
            if texts or pipes or (opens and not _is_binary(node)):
                yield node.lineno


def _is_binary(call: ast.Call) -> bool:
    """Return whether a mode among the arguments of a call has a "b", in each branch of a choice."""
    values = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
    modes = [
        [part.value for part in ast.walk(value) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        for value in values
    ]
    return any(mode and all("b" in word and len(word) <= 3 for word in mode) for mode in modes)


def test_calls_without_encoding_are_found() -> None:
    found = 'path.open()\nopen(path, "w")\npath.read_text()\ngzip.open(p, "rt")\nsubprocess.run(c, text=True)\n'
    assert sorted(calls_without_encoding(found)) == [1, 2, 3, 4, 5]
    good = 'path.open("rb")\nopen(p, "w", encoding="utf-8")\nos.open(p, 1)\np.open("ab" if a else "wb")\n'
    assert list(calls_without_encoding(good)) == []


def test_every_text_is_read_and_written_as_utf8() -> None:
    assert len(CODE) > 200
    places = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in CODE
        for line in calls_without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert places == []
