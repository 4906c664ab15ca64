"""From messages to the text of a prompt or a conversation, with the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rebend.errors import ModelError

Message = dict[str, str]
_WORDS = ("zulvorim", "brimtakel", "quonfeldar")  # invented, so no template contains them


def prompt_text(tokenizer: Any, messages: Sequence[Message], prefill: str = "") -> str:
    """Return the text up to the start of the model's answer, followed by `prefill`.

    The template writes the special tokens, so encode the result with `add_special_tokens=False`.
    """
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return text + prefill


def conversation_text(tokenizer: Any, messages: Sequence[Message], response: str) -> str:
    """Return prompt and response as one finished conversation."""
    turns = [*messages, {"role": "assistant", "content": response}]
    return tokenizer.apply_chat_template(turns, tokenize=False)


def with_instruction(messages: Sequence[Message], instruction: str) -> list[Message]:
    """Put `instruction` in front of the user's last message (the control `prompting`)."""
    *before, last = messages
    return [*before, {**last, "content": f"{instruction} {last['content']}"}]


def last_user_text(messages: Sequence[Message]) -> str:
    """Return the content of the user's last message."""
    return next(turn["content"] for turn in reversed(messages) if turn["role"] == "user")


def dialogue_text(messages: Sequence[Message]) -> str:
    """Return a single message as it is, and a longer dialogue with the speaker named before each turn."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in messages)


def check_template(tokenizer: Any) -> None:
    """Raise `ModelError` unless the chat template separates the user's turns from the assistant's.

    It must render [user, assistant, user] with each content once and in order, with a different mark before each role,
    and a prompt must end with the mark before an assistant's answer. Otherwise the texts for training and decoding
    would not separate requests from answers.
    """
    first, answer, second = _WORDS
    turns = [{"role": role, "content": word} for role, word in zip(("user", "assistant", "user"), _WORDS, strict=True)]
    try:
        text = prompt_text(tokenizer, turns)
    except Exception as error:  # a template may raise any exception
        raise ModelError(f"the chat template cannot render a user, an assistant and a user: {error}") from error
    starts = [text.find(word) for word in _WORDS]
    if -1 in starts or starts != sorted(starts) or any(text.count(word) != 1 for word in _WORDS):
        raise ModelError(f"the chat template loses, repeats or reorders turns: it renders {text!r}")
    to_answer = text[starts[0] + len(first) : starts[1]]
    to_request = text[starts[1] + len(answer) : starts[2]]
    after = text[starts[2] + len(second) :]
    if not to_answer.strip() or not to_request.strip() or to_answer.strip() == to_request.strip():
        raise ModelError(
            f"the chat template merges roles: {to_answer!r} stands between request and answer and {to_request!r} "
            "between answer and request, so a text does not show who speaks"
        )
    if not after.startswith(to_answer.rstrip()):
        raise ModelError(
            f"the chat template's generation prompt is {after!r}, but an answer in a dialogue follows {to_answer!r}; "
            "it must end a prompt where the assistant's turn begins (`add_generation_prompt`)"
        )
