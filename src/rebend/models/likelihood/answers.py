"""The tokens of an answer as the chat template ends it, for methods that train likelihoods and for perplexities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rebend.errors import ModelError
from rebend.models.chat import Message, UnwritableError, conversation_text

Encode = Callable[[str], list[int]]  # from a text to its tokens
_MARK = "zulvorim"  # invented, so neither a template nor a conversation contains it


def ended_answer(tokenizer: Any, messages: Sequence[Message], prompt: str, answer: str, encode: Encode) -> list[int]:
    """Return the tokens that follow `prompt`: the answer without outer white space, then the end of its turn.

    The template's text after an answer is kept up to its first special token. If it has none, as templates for base
    models, the tokenizer's EOS ends the answer. White space that the template writes between prompt and answer comes
    first; other text there (an empty thought of Qwen3) is left out, because decoding does not continue it. Raises
    `ModelError` if the template loses or changes answers, or if there is no token that ends one.
    """
    before, after = _around_answer(tokenizer, messages)
    gap = before.removeprefix(prompt) if before.startswith(prompt) else ""
    text = (gap if gap.isspace() else "") + answer.strip()
    special = _special_tokens(tokenizer)
    n_special = sum(token in special for token in encode(after))
    if not n_special:
        return [*continuation(encode, prompt, text + after.rstrip()), _end_token(tokenizer)]
    tokens = continuation(encode, prompt, text + after)
    places = [place for place, token in enumerate(tokens) if token in special]
    return tokens[: places[-n_special] + 1]


def end_of_turn(tokenizer: Any, messages: Sequence[Message], encode: Encode) -> int:
    """Return the token that ends an answer to a prompt: the first special token that the template writes after it.

    If the template writes none, or writes prompts only, it is the tokenizer's EOS. Raises `ModelError` if there is no
    such token, or if the template loses or changes answers.
    """
    try:
        _, after = _around_answer(tokenizer, messages)
    except UnwritableError:
        return _end_token(tokenizer)
    special = _special_tokens(tokenizer)
    ends = [token for token in encode(after) if token in special]
    return ends[0] if ends else _end_token(tokenizer)


def continuation(encode: Encode, prompt: str, text: str) -> list[int]:
    """Return the tokens of `text` behind `prompt`.

    Both are encoded together where this leaves the prompt's tokens as they are: alone, a text may get another first
    token (SentencePiece puts a space in front).
    """
    start, whole = encode(prompt), encode(prompt + text)
    return whole[len(start) :] if whole[: len(start)] == start else encode(text)


def _around_answer(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, str]:
    """Return what the template writes before and after the last answer of a conversation."""
    conversation = conversation_text(tokenizer, messages, _MARK)
    before, found, after = conversation.rpartition(_MARK)
    if not found:
        raise ModelError(f"the chat template loses or changes answers: the answer '{_MARK}' gives {conversation!r}")
    return before, after


def _special_tokens(tokenizer: Any) -> set[int]:
    added = {token for token, piece in tokenizer.added_tokens_decoder.items() if piece.special}
    return added | set(tokenizer.all_special_ids)


def _end_token(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "nothing ends an answer: the chat template writes no special token after it, and the tokenizer has no EOS"
        )
    return int(tokenizer.eos_token_id)
