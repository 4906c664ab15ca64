"""Chat templates: fix what they depend on (arguments, today's date), and refuse those that would give wrong prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from rebend.errors import ModelError
from rebend.models.chat import Message, encode_text, text_beginning

_WORDS = ("zulvorim", "brimtakel", "quonfeldar")  # invented, so no template contains them
_SYSTEM = "wolmagrent"
# Jinja that replaces the function for today's date by a mark around the form that the template asks for
_SPY = "{%- macro strftime_now(form) -%}kalmidur[{{ form }}]{%- endmacro -%}"
_SPIED = re.compile(r"kalmidur\[(?P<form>.*?)\]", re.DOTALL)
_DATE = re.compile(r"""strftime_now\(\s*(["'])(?P<form>(?:(?!\1).)*)\1\s*\)""")


@dataclass(frozen=True)
class TemplateRules:
    """What a model's block says about its chat template (`rebend.config.models.ModelBlock`)."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    date: str | None = None  # ISO 8601
    bos: Literal["as_tokenizer", "as_written"] = "as_tokenizer"
    variant: Literal["released_code", "corrected"] = "corrected"

    @property
    def fixes_something(self) -> bool:
        """Return whether the text of the template changes."""
        return bool(self.arguments) or self.date is not None


def fixed_template(template: str, rules: TemplateRules) -> str:
    """Return a Jinja template with the arguments set at its beginning, and with the date in place of today's.

    The text itself is fixed, so every program that reads the model's folder writes the same prompts.
    """
    if rules.date is not None:
        day = date.fromisoformat(rules.date)
        template = _DATE.sub(lambda call: json.dumps(day.strftime(call["form"])), template)
    return "".join(f"{{%- set {name} = {_literal(value)} -%}}" for name, value in rules.arguments.items()) + template


def _literal(value: Any) -> str:
    return json.dumps(value)  # Jinja reads `true`, `false`, numbers and quoted text of JSON


def check_template(tokenizer: Any, rules: TemplateRules | None = None) -> dict[str, str]:
    """Return how the template and the tokenizer begin a text, for the record.

    Raises `ModelError` unless the chat template separates the user's turns from the assistant's: it must render
    [user, assistant, user] with each content once and in order, with a different mark before each role, and a prompt
    must end with the mark before an assistant's answer. Otherwise the texts for training and decoding would not
    separate requests from answers. It also raises for a template that writes today's date, whose generation prompt is
    not how an answer begins in a finished dialogue (an open thought), or that begins prompts otherwise than the
    tokenizer begins texts. With `variant: released_code`, the template must write one text as it is, and no dialogue.
    """
    rules = rules or TemplateRules()
    if rules.variant == "released_code":
        _check_as_written(tokenizer)
    else:
        _check_turns(tokenizer)
        _check_answer(tokenizer)
    _check_date(tokenizer)
    return _check_beginning(tokenizer, rules)


def _turns(*roles: str) -> list[Message]:
    return [{"role": role, "content": word} for role, word in zip(roles, _WORDS, strict=False)]


def _render(tokenizer: Any, messages: Sequence[Message], *, prompt: bool, **variables: Any) -> str:
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt, **variables))


def _check_turns(tokenizer: Any) -> None:
    """Raise `ModelError` unless the text of [user, assistant, user] shows who speaks."""
    first, answer, second = _WORDS
    try:
        text = _render(tokenizer, _turns("user", "assistant", "user"), prompt=True)
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


def _check_answer(tokenizer: Any) -> None:
    """Raise `ModelError` unless a finished dialogue begins with the prompt and the answer, up to white space."""
    request, answer = _WORDS[:2]
    prompt = _render(tokenizer, _turns("user"), prompt=True)
    dialogue = _render(tokenizer, _turns("user", "assistant"), prompt=False)
    before, _, _ = dialogue.partition(answer)
    if before.rstrip() != prompt.rstrip():
        raise ModelError(
            f"the chat template asks for an answer after {_tail(prompt, request)!r}, but writes a finished answer "
            f"after {_tail(before, request)!r}; training would put answers where the model does not begin them. A "
            "template that opens a thought has an argument against it, often `template_arguments: {enable_thinking: "
            "false}`; otherwise name another template with the model's key `chat_template`"
        )


def _tail(text: str, request: str) -> str:
    return text.rpartition(request)[2]


def _check_as_written(tokenizer: Any) -> None:
    """Raise `ModelError` unless the template writes one text as it is and refuses a dialogue."""
    mark = _WORDS[2]
    text = _render(tokenizer, _turns("user"), prompt=True, bos_token=mark)
    if text.removeprefix(mark) != _WORDS[0]:
        raise ModelError(f"`variant: released_code` needs a template that writes a text as it is; this writes {text!r}")
    try:
        text = _render(tokenizer, _turns("user", "assistant"), prompt=False)
    except Exception:  # a template may raise any exception; here it must
        return
    raise ModelError(f"`variant: released_code` needs a template that refuses a dialogue; this writes {text!r}")


def _check_date(tokenizer: Any) -> None:
    """Raise `ModelError` if the template asks for today's date, because the results would depend on the day."""
    template = _SPY + str(tokenizer.get_chat_template())
    asked = None
    for messages in (_turns("user"), [{"role": "system", "content": _SYSTEM}, *_turns("user")]):
        with suppress(Exception):  # many templates refuse a system turn
            text = _render(tokenizer, messages, prompt=True, chat_template=template)
            asked = asked or _SPIED.search(text)
    if asked:
        raise ModelError(
            f"the chat template writes today's date ({asked['form']!r}), so results would depend on the day; fix "
            f"it with "
            "the model's key `template_date`, e.g. `template_date: 2024-07-26`"
        )


def _check_beginning(tokenizer: Any, rules: TemplateRules) -> dict[str, str]:
    """Return how both begin a text. Raises `ModelError` if they differ, unless the template's is right as written."""
    own = text_beginning(tokenizer)
    text = _render(tokenizer, _turns("user"), prompt=True)
    ids = encode_text(tokenizer, text)
    marked = _render(tokenizer, _turns("user"), prompt=True, bos_token=_WORDS[2]).startswith(_WORDS[2])
    written = tokenizer.bos_token or "" if marked else tokenizer.decode(own) if own and ids[: len(own)] == own else ""
    facts = {"tokenizer_begins": tokenizer.decode(own) if own else "", "template_begins": written}
    if rules.bos == "as_tokenizer" and (ids[: len(own)] != own or (written and not own)):
        raise ModelError(
            f"the tokenizer begins each text with {facts['tokenizer_begins']!r}, the chat template begins a prompt "
            f"with {text[:40]!r}. Let the template begin like the tokenizer (with `{{{{ bos_token }}}}`, or without "
            "it); if the model was trained with prompts as the template writes them, set the model's key "
            "`template_bos: as_written`"
        )
    return facts
