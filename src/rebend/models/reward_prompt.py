"""The text that a reward model reads: a template filled with a prompt and its response."""

from __future__ import annotations

from collections.abc import Sequence

from rebend.models.chat import Message

MARK = "zulvorimbrimtakel"  # stands for the response where a text is split around it


def fill(template: str, messages: Sequence[Message], response: str) -> str:
    """Return the template with the last exchange in it; earlier exchanges stand above, in the same template.

    A system message, or several of the user's in a row, become one prompt, a line each.
    """
    exchanges: list[str] = []
    prompt: list[str] = []
    for message in [*messages, {"role": "assistant", "content": response}]:
        if message["role"] == "assistant":
            answer, question = message["content"], "\n".join(prompt)
            # Split before filling in, so that braces inside a text are only text.
            pieces = [piece.replace("{prompt}", question) for piece in template.split("{response}")]
            exchanges.append(answer.join(pieces))
            prompt = []
        else:
            prompt.append(message["content"])
    return "\n".join(exchanges)


def around_response(template: str, messages: Sequence[Message]) -> tuple[str, str]:
    """Return what stands before and after the response in a filled template."""
    before, _, after = fill(template, messages, MARK).rpartition(MARK)
    return before, after
