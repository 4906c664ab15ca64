"""The type of a request of the tiny world, and the parser of prompts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rebend.data.tiny_world.words import STEPS, thing_pattern
from rebend.errors import DataError

_BENIGN = re.compile(thing_pattern(forbidden=False))
_FORBIDDEN = re.compile(thing_pattern(forbidden=True))
_VERB = re.compile(rf"\b(?:{'|'.join(STEPS)})\b")


@dataclass(frozen=True)
class Request:
    """The verb and the thing of a request, and its text."""

    verb: str
    thing: str
    forbidden: bool
    text: str

    @property
    def question(self) -> str:
        """What all wordings of the request have in common."""
        return f"{self.verb} {self.thing}"

    @property
    def messages(self) -> list[dict[str, str]]:
        """The request as a conversation of one turn."""
        return [{"role": "user", "content": self.text}]


def parse_request(prompt_text: str) -> Request:
    """Return the request in the text of a prompt. Raises `DataError` if the text is no prompt of the tiny world."""
    verb = _VERB.search(prompt_text)
    benign, forbidden = _BENIGN.search(prompt_text), _FORBIDDEN.search(prompt_text)
    thing = forbidden or benign
    if verb is None or thing is None:
        raise DataError(f"not a prompt of the tiny world: {prompt_text!r}")
    return Request(verb[0], thing[0], forbidden is not None, prompt_text)
