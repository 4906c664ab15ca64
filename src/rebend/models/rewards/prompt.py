"""The text that a reward model reads: a template filled with a prompt and its response."""

from __future__ import annotations

from collections.abc import Sequence

from rebend.models.chat import Message

MARK = "zulvorimbrimtakel"  # an invented word in place of the response, to split a text around it


def fill(template: str, messages: Sequence[Message], response: str) -> str:
    """Return the template filled with each exchange of a dialogue, one below the other; the last one has `response`.

    A system message and consecutive messages of the user are joined to one prompt, one per line.
    """
    exchanges: list[str] = []
    prompt: list[str] = []
    for message in [*messages, {"role": "assistant", "content": response}]:
        if message["role"] == "assistant":
            answer, question = message["content"], "\n".join(prompt)
            # Split before inserting texts: braces inside a text must not be filled.
            pieces = [piece.replace("{prompt}", question) for piece in template.split("{response}")]
            exchanges.append(answer.join(pieces))
            prompt = []
        else:
            prompt.append(message["content"])
    return "\n".join(exchanges)


def around_response(template: str, messages: Sequence[Message]) -> tuple[str, str]:
    """Return the parts of a filled template before and after the response."""
    before, _, after = fill(template, messages, MARK).rpartition(MARK)
    return before, after
