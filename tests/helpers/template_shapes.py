"""Chat templates with the shapes of real families, in words of our own, and a tokenizer with their special tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from rebend.models.tiny_model import train_tokenizer

TEMPLATES = Path(__file__).parents[2] / "resources" / "templates"


def each(user: str, assistant: str, generation: str = "", begin: str = "") -> str:
    """Return a template that writes each turn with a mark for its role; `c` is a turn's content."""
    return (
        f"{begin}{{% for m in messages %}}{{% set c = m['content'] %}}{{% if m['role'] == 'user' %}}{user}{{% else %}}"
        f"{assistant}{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{generation}{{% endif %}}"
    )


class Shape(NamedTuple):
    """A template, the tokenizer's special tokens, and what must follow the prompt of an answer."""

    template: str
    eos: str
    special: list[str]
    bos: str | None
    after_prompt: str  # with "{}" for the answer


def llama_3(name: str) -> str:
    """Return a header of Llama 3."""
    return f"<|start_header_id|>{name}<|end_header_id|>\n\n"


LLAMA_3_TOKENS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
QWEN_TOKENS = ["<|im_start|>", "<|im_end|>"]
QWEN_3 = (  # writes an empty thought before the last answer, which the generation prompt does not
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' + m['content'].lstrip('\n') }}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
SHAPES: dict[str, Shape] = {
    "Llama 2": Shape(
        each("{{ bos_token + '[INST] ' + c | trim + ' [/INST]' }}", "{{ ' ' + c | trim + ' ' + eos_token }}"),
        "</s>", [], "<s>", " {} </s>",
    ),
    "Llama 3": Shape(
        each(
            f"{llama_3('user')}{{{{ c | trim }}}}<|eot_id|>", f"{llama_3('assistant')}{{{{ c | trim }}}}<|eot_id|>",
            llama_3("assistant"), "{{ bos_token }}",
        ),
        "<|end_of_text|>", LLAMA_3_TOKENS, "<|begin_of_text|>", "{}<|eot_id|>",
    ),
    "Mistral, spaced": Shape(
        each("{{ '[INST] ' + c + ' [/INST]' }}", "{{ ' ' + c + eos_token }}", begin="{{ bos_token }}"),
        "</s>", [], "<s>", " {}</s>",
    ),
    "Qwen2.5": Shape(
        each(
            "{{ '<|im_start|>user\n' + c + '<|im_end|>\n' }}", "{{ '<|im_start|>assistant\n' + c + '<|im_end|>\n' }}",
            "{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>system\nYou are of help.<|im_end|>\n' }}",
        ),
        "<|im_end|>", QWEN_TOKENS, None, "{}<|im_end|>",
    ),
    "Qwen3": Shape(QWEN_3, "<|im_end|>", QWEN_TOKENS, None, "{}<|im_end|>"),
    "Gemma": Shape(
        each(
            "{{ '<start_of_turn>user\n' + c | trim + '<end_of_turn>\n' }}",
            "{{ '<start_of_turn>model\n' + c | trim + '<end_of_turn>\n' }}",
            "{{ '<start_of_turn>model\n' }}", "{{ bos_token }}",
        ),
        "<eos>", ["<start_of_turn>", "<end_of_turn>"], "<bos>", "{}<end_of_turn>",
    ),
    "Zephyr": Shape(
        each(
            "{{ '<|user|>\n' + c | trim + eos_token }}\n", "{{ '<|assistant|>\n' + c | trim + eos_token }}\n",
            "{{ '<|assistant|>' }}\n",
        ),
        "</s>", [], None, "{}</s>",
    ),
    "User: and Assistant:, of the paper studies": Shape(
        (TEMPLATES / "user_assistant.jinja").read_text(encoding="utf-8"), "<|end_of_text|>", [], None,
        " {}<|end_of_text|>",
    ),
    "Human: and Assistant:, of the paper studies": Shape(
        (TEMPLATES / "human_assistant.jinja").read_text(encoding="utf-8"), "</s>", [], "<s>", " {}</s>"
    ),
}  # fmt: skip


def shaped_tokenizer(shape: Shape, words: list[str]) -> Any:
    """Return a byte-level BPE with the template and the special tokens of a shape."""
    pieces: PreTrainedTokenizerFast = train_tokenizer(words, 320)
    tokens: dict[str, Any] = {
        "eos_token": shape.eos,
        "pad_token": shape.eos,
        "additional_special_tokens": shape.special,
    }
    pieces.add_special_tokens(tokens | ({"bos_token": shape.bos} if shape.bos else {}))
    pieces.chat_template = shape.template
    return pieces
