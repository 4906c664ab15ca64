"""Checksums are the SHA-256 of the contents, also after a change; an appended checksum detects damage."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from rebend.io.checksums import append_digest, bytes_digest, ends_with_digest, file_digest, json_digest
from rebend.io.files import whole_file


def write_bytes(file: Path, content: bytes) -> None:
    with whole_file(file) as temporary:
        temporary.write_bytes(content)


def test_file_digest_is_that_of_the_contents_also_after_a_change(tmp_path: Path) -> None:
    file = tmp_path / "f"
    for content in (b"one", b"two"):
        write_bytes(file, content)
        assert file_digest(file) == bytes_digest(content) == hashlib.sha256(content).hexdigest()


def test_json_digest_is_the_sha256_of_sorted_json_and_the_texts_after_it() -> None:
    value = {"b": [1.5, None], "a": "ä"}
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode())
    assert json_digest(value) == digest.hexdigest()
    for text in ("input ", "ö"):
        digest.update(text.encode())
    assert json_digest({"a": "ä", "b": [1.5, None]}, "input ", "ö") == digest.hexdigest()


@pytest.mark.parametrize("size", [0, 5, 3 * 2**20 + 1])
def test_append_digest_appends_the_digest_of_the_contents(tmp_path: Path, size: int) -> None:
    file, content = tmp_path / "f", random.Random(0).randbytes(size)
    file.write_bytes(content)
    append_digest(file)
    assert file.read_bytes() == content + hashlib.sha256(content).hexdigest().encode()
    assert ends_with_digest(file)


@pytest.mark.parametrize("damage", ["a flipped bit", "a lost end", "no digest"])
def test_damaged_file_does_not_end_with_its_digest(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"content")
    if damage != "no digest":
        append_digest(file)
        raw = bytearray(file.read_bytes())
        raw[3] ^= 1
        file.write_bytes(raw if damage == "a flipped bit" else file.read_bytes()[:-1])
    assert not ends_with_digest(file)
