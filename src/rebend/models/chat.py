"""From messages to the text of a prompt or a conversation, with the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from rebend.errors import ModelError

Message = dict[str, str]
_WORD = "zulvorim"  # invented; any word will do


class UnwritableError(ModelError):
    """A chat template cannot write these turns, most often a system turn."""


def prompt_text(tokenizer: Any, messages: Sequence[Message], prefill: str = "") -> str:
    """Return the text up to the start of the model's answer, followed by `prefill`.

    The template writes the special tokens, so encode the result with `encode_texts`. Raises `UnwritableError` for turns
    that the chat template cannot write.
    """
    return _written(tokenizer, messages, prompt=True) + prefill


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts that have their special tokens in them.

    A text that begins as the tokenizer begins every text ("<s>") gets the ids that the tokenizer gives to the rest of
    it. A plain encoding would differ where a tokenizer puts a space in front of the first word of a text only.
    """
    begin = text_beginning(tokenizer)
    written = "".join(tokenizer.convert_ids_to_tokens(begin))
    begun = [bool(begin) and text.startswith(written) for text in texts]
    rest = [text.removeprefix(written) if is_begun else text for text, is_begun in zip(texts, begun, strict=True)]
    encoded = tokenizer(rest, add_special_tokens=False)["input_ids"] if rest else []
    return [begin + ids if is_begun else ids for ids, is_begun in zip(encoded, begun, strict=True)]


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of one text that has its special tokens in it (`encode_texts`)."""
    return encode_texts(tokenizer, [text])[0]


def text_beginning(tokenizer: Any) -> list[int]:
    """Return the special tokens that the tokenizer puts in front of every text."""
    plain = tokenizer(_WORD, add_special_tokens=False)["input_ids"]
    whole = tokenizer(_WORD)["input_ids"]
    starts = (i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain)
    return list(whole[: next(starts, 0)])


def conversation_text(tokenizer: Any, messages: Sequence[Message], response: str) -> str:
    """Return prompt and response as one finished conversation. Raises `UnwritableError` as `prompt_text` does."""
    return _written(tokenizer, [*messages, {"role": "assistant", "content": response}], prompt=False)


def _written(tokenizer: Any, messages: Sequence[Message], *, prompt: bool) -> str:
    try:
        text = str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt))
    except TemplateError as error:
        roles = ", ".join(dict.fromkeys(turn["role"] for turn in messages))
        raise UnwritableError(f"the chat template cannot write a dialogue of {roles}: {error}") from error
    if messages and messages[0]["role"] == "system" and messages[0]["content"].strip() not in text:
        raise UnwritableError("the chat template leaves out the system turn")
    return text


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
