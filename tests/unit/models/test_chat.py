"""Chat templates of the supported families are accepted; templates that merge roles are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rebend.errors import ModelError
from rebend.models.chat import check_template
from rebend.models.tiny_model import CHAT_TEMPLATE

TEMPLATES = Path(__file__).parents[3] / "resources" / "templates"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel()
    pieces.train_from_iterator(
        ["user assistant"], trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    return PreTrainedTokenizerFast(tokenizer_object=pieces, bos_token="<s>", eos_token="</s>")


def each(user: str, assistant: str, generation: str = "", begin: str = "") -> str:
    """Return a template that writes each turn with a mark for its role."""
    return (
        f"{begin}{{% for m in messages %}}{{% if m['role'] == 'user' %}}{user}{{% else %}}{assistant}{{% endif %}}"
        f"{{% endfor %}}{{% if add_generation_prompt %}}{generation}{{% endif %}}"
    )


CONTENT = "{{ m['content'] }}"
HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
GOOD = {
    "tiny models": CHAT_TEMPLATE,
    "RE-Control, Llama 3": (TEMPLATES / "user_assistant.jinja").read_text(),
    "RE-Control, Vicuna": (TEMPLATES / "human_assistant.jinja").read_text(),
    "Mistral, which ignores add_generation_prompt": each(
        f"[INST] {CONTENT} [/INST]", f" {CONTENT}{{{{ eos_token }}}}", begin="{{ bos_token }}"
    ),
    "Llama 3": each(
        f"{HEADER.format('user')}{CONTENT}<|eot_id|>",
        f"{HEADER.format('assistant')}{CONTENT}<|eot_id|>",
        HEADER.format("assistant"),
        "{{ bos_token }}",
    ),
    "Gemma": each(
        f"<start_of_turn>user\n{CONTENT}<end_of_turn>\n",
        f"<start_of_turn>model\n{CONTENT}<end_of_turn>\n",
        "<start_of_turn>model\n",
        "{{ bos_token }}",
    ),
    "Qwen": each(
        f"<|im_start|>user\n{CONTENT}<|im_end|>\n",
        f"<|im_start|>assistant\n{CONTENT}<|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
    "Falcon": each(f"User: {CONTENT}\n\n", f"Assistant: {CONTENT}\n\n", "Assistant:"),
    "a model that thinks first": each(f"<|U|>{CONTENT}", f"<|A|>{CONTENT}{{{{ eos_token }}}}", "<|A|><think>\n"),
}
BAD = {
    "no marks at all": (each(CONTENT, CONTENT), "merges roles: '' stands between"),
    "only new lines": (each(f"{CONTENT}\n", f"{CONTENT}\n\n"), "merges roles"),
    "the same mark after every turn": (each(f"{CONTENT}</s>", f"{CONTENT}</s>"), "merges roles: '</s>'"),
    "everyone is the user": (each(f"User: {CONTENT}\n", f"User: {CONTENT}\n", "User:"), "merges roles"),
    "no generation prompt": (
        each(f"<|U|>{CONTENT}<|E|>", f"<|A|>{CONTENT}<|E|>"),
        r"generation prompt is '<\|E\|>', but an answer in a dialogue follows '<\|E\|><\|A\|>'",
    ),
    "the generation prompt of another": (
        each(f"<|U|>{CONTENT}", f"<|A|>{CONTENT}", "<|U|>"),
        r"generation prompt is '<\|U\|>'",
    ),
    "answers are left out": (each(f"<|U|>{CONTENT}", "<|A|>", "<|A|>"), "loses, repeats or reorders turns"),
    "a turn comes twice": (each(f"<|U|>{CONTENT}{CONTENT}", f"<|A|>{CONTENT}", "<|A|>"), "loses, repeats or reorders"),
    "the last turn comes first": (
        "{% for m in messages | reverse %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}",
        "loses, repeats or reorders",
    ),
    "one turn only": (
        "{% if messages | length > 1 %}{{ raise_exception('only one turn') }}{% endif %}{{ messages[0]['content'] }}",
        "cannot render a user, an assistant and a user: only one turn",
    ),
    "not Jinja": ("{% for m in messages %}", "cannot render"),
}


@pytest.mark.parametrize("name", GOOD)
def test_template_that_separates_roles_is_accepted(tokenizer: Any, name: str) -> None:
    tokenizer.chat_template = GOOD[name]
    check_template(tokenizer)


@pytest.mark.parametrize("name", BAD)
def test_template_that_merges_roles_is_refused_with_the_reason(tokenizer: Any, name: str) -> None:
    tokenizer.chat_template, words = BAD[name]
    with pytest.raises(ModelError, match=words):
        check_template(tokenizer)


def test_a_tokenizer_without_a_template_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="cannot render"):
        check_template(tokenizer)
