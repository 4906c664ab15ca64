"""Real dialogues as training examples, for `bench/repbend.py`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from rebend.data.readers import hh_rlhf
from rebend.data.readers.rows import UnusableRowError
from rebend.io.schemas import CHAT, SAFETY
from rebend.models.tiny_model import train_tokenizer
from rebend.repbend.examples import load_training_examples

ANSWERS, CHATS = "hh_rlhf/train.jsonl.gz", "retain/chat_500.jsonl.gz"


def tokenised(folder: Path, answers: str) -> dict[str, Any]:
    """Return all rows as tokens of a byte-level BPE of 32,000 pieces trained on them (4.3 characters per token).

    `hh`: HH-RLHF's chosen answers are safe, its rejected answers unsafe, and every second row is a pair. `chat`:
    prompts and answers of the retain chats, which are longer; the unsafe answer of a pair is another chat's answer.
    """
    chats = [entry["messages"] for entry in read_lines(folder / CHATS)]
    answer_rows = list(read_lines(folder / ANSWERS))
    texts = [turn["content"] for chat in chats for turn in chat] + [row[key] for row in answer_rows for key in row]
    if answers == "hh":
        entries = []
        for row in answer_rows:
            try:
                entries.append(hh_rlhf.safety(row))
            except UnusableRowError:
                continue
    else:
        entries = [as_pair(chat, chats[number - 1]) for number, chat in enumerate(chats)]
    pairs = [
        {**entry, "row_id": f"{number}-{entry['label']}", "pair": str(number) if number % 2 else None}
        for number, both in enumerate(entries)
        for entry in both
    ]
    retain = [{"row_id": str(number), "messages": chat} for number, chat in enumerate(chats)]
    safety = pa.Table.from_pylist(pairs, SAFETY)
    data = load_training_examples(
        train_tokenizer(texts, 32_000), safety, safety, pa.Table.from_pylist(retain, CHAT), 512
    )

    def plain(row: Any) -> list[Any]:
        return [row.row_id, row.tokens, row.n_prompt]

    single = {name: [plain(row) for row in getattr(data, name)] for name in ("safe", "unsafe", "retain")}
    return single | {"pairs": [[plain(row) for row in pair] for pair in data.pairs]}


def as_pair(chat: Sequence[dict[str, str]], other: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Return a prompt with its answer as the safe one and another chat's answer as the unsafe one."""
    return [
        {"messages": chat[:-1], "response": source[-1]["content"], "label": label}
        for label, source in (("safe", chat), ("unsafe", other))
    ]


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a compressed JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        yield from map(json.loads, lines)
