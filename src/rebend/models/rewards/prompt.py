"""The text that a reward model reads: a filled template, or prompt and response as they were decoded."""

from __future__ import annotations

from collections.abc import Sequence

from rebend.config.rewards import RewardBlock
from rebend.errors import ModelError
from rebend.models.chat import Message

MARK = "zulvorimbrimtakel"  # an invented word in place of the response, to split a text around it


def fill(template: str, messages: Sequence[Message], response: str) -> str:
    """Return the template filled with each exchange of a dialogue; the last one has `response`.

    An empty line separates exchanges, unless the template itself begins with a line break. A system message and
    consecutive messages of the user are joined to one prompt, one per line. A space that begins the response is left
    out where the template has one already: a model asked by "Assistant:" generates the space itself.
    """
    exchanges: list[str] = []
    prompt: list[str] = []
    if template.partition("{response}")[0].endswith(" "):
        response = response.removeprefix(" ")
    for message in [*messages, {"role": "assistant", "content": response}]:
        if message["role"] == "assistant":
            answer, question = message["content"], "\n".join(prompt)
            # Split before inserting texts: braces inside a text must not be filled.
            pieces = [piece.replace("{prompt}", question) for piece in template.split("{response}")]
            exchanges.append(answer.join(pieces))
            prompt = []
        else:
            prompt.append(message["content"])
    return ("" if template.startswith("\n") else "\n\n").join(exchanges)


def scored_text(settings: RewardBlock, messages: Sequence[Message], response: str) -> str:
    """Return the text of a block with a template or of `variant: released_code`.

    Raises `ModelError` if `released_code` gets a dialogue: its prompts are single texts.
    """
    if settings.variant == "released_code":
        text = _only_text(messages) + response
    else:
        text = fill(settings.template or "{response}", messages, response)
    return _replaced(text, settings)


def around_response(settings: RewardBlock, messages: Sequence[Message]) -> tuple[str, str]:
    """Return the parts of a scored text before and after the response."""
    before, _, after = scored_text(settings, messages, MARK).rpartition(MARK)
    return before, after


def _only_text(messages: Sequence[Message]) -> str:
    if len(messages) != 1:
        raise ModelError(
            "a reward of `variant: released_code` reads prompts of data sets with `variant: released_code`, which are "
            f"one text each; this prompt has {len(messages)} turns"
        )
    return messages[0]["content"]


def _replaced(text: str, settings: RewardBlock) -> str:
    for word, other in settings.replaced.items():
        text = text.replace(word, other)
    return text
