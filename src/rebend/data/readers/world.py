"""The embedded tiny world, whose rows are generated."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.tiny_world.generate import generate

WORLD = Reader(
    "world",
    "the embedded tiny world",
    {},
    dict.fromkeys(("preference", "prompts", "chat", "safety", "evaluation"), ()),
    generate=generate,
    parts={
        "dialogues": "chat",
        "retain": "chat",
        "preferences": "preference",
        "safety": "safety",
        "answers_test": "safety",
        "rollouts": "prompts",
        "validation": "prompts",
        "test": "prompts",
        "safety_validation": "evaluation",
        "safety_test": "evaluation",
    },
)
