"""Chat templates of the supported families are accepted; templates that merge roles are refused."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from rebend.config.models import ModelBlock
from rebend.errors import ModelError
from rebend.generation.requests import make_requests
from rebend.models.chat import conversation_text, encode_text, prompt_text
from rebend.models.chat_template import TemplateRules, check_template, fixed_template
from rebend.models.loading import Policy, link_checkpoint, load_tokenizer
from rebend.models.tiny_model import CHAT_TEMPLATE
from tests.helpers.beginning_tokenizers import tokenizer

TEMPLATES = Path(__file__).parents[3] / "resources" / "templates"


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
    "HH-RLHF": (TEMPLATES / "hh_rlhf.jinja").read_text(),
}
BAD = {
    "a model that thinks first": (
        each(f"<|U|>{CONTENT}", f"<|A|>{CONTENT}{{{{ eos_token }}}}", "<|A|><think>\n"),
        r"asks for an answer after '<\|A\|><think>\\n', but writes a finished answer after '<\|A\|>'",
    ),
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


def pieces_for(template: str) -> Any:
    """Return a tokenizer that begins texts as the template begins prompts."""
    pieces = tokenizer(begins="bos_token" in template)
    pieces.chat_template = template
    return pieces


@pytest.mark.parametrize("name", GOOD)
def test_template_that_separates_roles_is_accepted(name: str) -> None:
    begin = "<s>" if "bos_token" in GOOD[name] else ""
    assert check_template(pieces_for(GOOD[name])) == {"tokenizer_begins": begin, "template_begins": begin}


@pytest.mark.parametrize("name", BAD)
def test_template_that_merges_roles_is_refused_with_the_reason(name: str) -> None:
    template, words = BAD[name]
    with pytest.raises(ModelError, match=words):
        check_template(pieces_for(template))


def test_a_tokenizer_without_a_template_is_refused() -> None:
    pieces = tokenizer()
    pieces.chat_template = None
    with pytest.raises(ModelError, match="cannot render"):
        check_template(pieces)


# --- the beginning

AS_WRITTEN = TemplateRules(bos="as_written")


@pytest.mark.parametrize(("begins", "template"), [(True, GOOD["Qwen"]), (False, GOOD["Gemma"])])
def test_template_that_begins_unlike_its_tokenizer_is_refused_unless_it_is_right_as_written(
    begins: bool, template: str
) -> None:
    pieces = tokenizer(begins=begins)
    pieces.chat_template = template
    with pytest.raises(
        ModelError, match=f"begins each text with '{'<s>' if begins else ''}'.*`template_bos: as_written`"
    ):
        check_template(pieces)
    facts = {"tokenizer_begins": "<s>" if begins else "", "template_begins": "" if begins else "<s>"}
    assert check_template(pieces, AS_WRITTEN) == facts


def test_template_with_the_words_of_a_begin_token_that_the_tokenizer_never_adds_is_accepted() -> None:
    pieces = tokenizer(begins=False, bos="<|im_start|>")  # as SmolLM2
    pieces.chat_template = GOOD["Qwen"]
    assert check_template(pieces) == {"tokenizer_begins": "", "template_begins": ""}


@pytest.mark.parametrize("first_word_space", [False, True])
def test_ids_of_a_prompt_are_those_that_the_tokenizer_gives_to_its_text(first_word_space: bool) -> None:
    pieces = tokenizer(first_word_space=first_word_space)
    pieces.chat_template = GOOD["RE-Control, Vicuna"]
    messages = [{"role": "user", "content": "how do I learn"}]
    released = pieces("Human: how do I learn\nAssistant:")["input_ids"]
    assert released[0] == pieces.bos_token_id
    assert make_requests(Policy(None, pieces, ""), [messages])[0].prompt_ids == released
    text = "<s>Human: how do I learn\nAssistant:"
    assert prompt_text(pieces, messages) == text
    assert encode_text(pieces, text) == released
    plain = pieces(text, add_special_tokens=False)["input_ids"]
    assert (plain == released) is not first_word_space  # a plain encoding loses the space before "Human"


# --- the date

DATED = (
    "{{ bos_token }}{%- if not date_string is defined -%}{%- if strftime_now is defined -%}"
    "{%- set date_string = strftime_now('%d %b %Y') -%}{%- else -%}{%- set date_string = '1 Jan 2000' -%}{%- endif -%}"
    "{%- endif -%}<|system|>Today: {{ date_string }}" + each(f"<|U|>{CONTENT}", f"<|A|>{CONTENT}", "<|A|>")
)


def test_template_that_writes_todays_date_is_refused_until_the_date_is_fixed() -> None:
    pieces = pieces_for(DATED)
    with pytest.raises(ModelError, match=r"writes today's date \('%d %b %Y'\).*`template_date: 2024-07-26`"):
        check_template(pieces)
    pieces.chat_template = fixed_template(DATED, TemplateRules(date="2024-07-26"))
    check_template(pieces)
    assert prompt_text(pieces, [{"role": "user", "content": "x"}]) == "<s><|system|>Today: 26 Jul 2024<|U|>x<|A|>"
    pieces.chat_template = fixed_template(DATED, TemplateRules(arguments={"date_string": '"a" day'}))
    check_template(pieces)
    assert prompt_text(pieces, [{"role": "user", "content": "x"}]) == '<s><|system|>Today: "a" day<|U|>x<|A|>'


def test_date_that_only_a_system_turn_writes_is_found() -> None:
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ strftime_now('%Y') }}{{ m['content'] }}{% "
        "elif m['role'] "
        "== 'user' %}<|U|>{{ m['content'] }}{% else %}<|A|>{{ m['content'] }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|A|>{% endif %}"
    )
    with pytest.raises(ModelError, match="writes today's date"):
        check_template(pieces_for(template))


# --- thoughts

QWEN3 = (  # the parts of Qwen 3's template that matter: the last answer gets an empty thought
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def test_thinking_template_needs_an_argument_against_the_thought() -> None:
    with pytest.raises(ModelError, match=r"template_arguments: \{enable_thinking: false\}"):
        check_template(pieces_for(QWEN3))
    pieces = pieces_for(fixed_template(QWEN3, TemplateRules(arguments={"enable_thinking": False})))
    check_template(pieces)
    messages = [{"role": "user", "content": "x"}]
    prompt = prompt_text(pieces, messages)
    assert prompt == "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert conversation_text(pieces, messages, "y") == prompt + "y<|im_end|>\n"
    with pytest.raises(ModelError, match="enable_thinking"):
        check_template(pieces_for(fixed_template(QWEN3, TemplateRules(arguments={"enable_thinking": True}))))


def test_prepared_folder_holds_the_fixed_template(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    pieces = tokenizer(begins=False)
    pieces.chat_template = QWEN3 + "é"
    pieces.save_pretrained(source)
    link_checkpoint(source, target, rules=TemplateRules(arguments={"enable_thinking": False}))
    written = (target / "chat_template.jinja").read_text(encoding="utf-8")
    assert written == "{%- set enable_thinking = false -%}" + QWEN3 + "é"
    assert prompt_text(load_tokenizer(target), [{"role": "user", "content": "x"}]).endswith("</think>\n\né")


# --- texts as they are

RELEASED = TemplateRules(variant="released_code")


def test_template_of_whole_texts_goes_with_the_released_variant_only() -> None:
    template = (TEMPLATES / "as_written.jinja").read_text()
    pieces = pieces_for(template)
    assert check_template(pieces, RELEASED) == {"tokenizer_begins": "<s>", "template_begins": "<s>"}
    assert check_template(tokenizer_without_bos(template), RELEASED) == {"tokenizer_begins": "", "template_begins": ""}
    with pytest.raises(ModelError, match="one text as it is, and no dialogue"):
        check_template(pieces)
    with pytest.raises(ModelError, match="needs a template that writes a text as it is"):
        check_template(pieces_for(GOOD["Gemma"]), RELEASED)
    with pytest.raises(ModelError, match="needs a template that refuses a dialogue"):
        check_template(pieces_for(f"{{% for m in messages %}}{CONTENT}{{% endfor %}}"), RELEASED)


def tokenizer_without_bos(template: str) -> Any:
    pieces = tokenizer(begins=False, bos=None)
    pieces.chat_template = template
    return pieces


# --- keys of the block


def test_keys_of_the_template_are_checked() -> None:
    hub = {"hub": {"repo": "a/b", "revision": "main"}}
    day = datetime.date(2024, 7, 26)
    assert ModelBlock.model_validate({**hub, "template_date": day}).template_date == "2024-07-26"
    assert ModelBlock.model_validate({**hub, "template_date": "2024-07-26"}).template_date == "2024-07-26"
    for keys, words in (
        ({"template_date": "July"}, "isoformat"),
        ({"template_arguments": {"a b": 1}}, "no names of variables"),
        ({"variant": "released_code"}, "as_written.jinja"),
    ):
        with pytest.raises(ValueError, match=words):
            ModelBlock.model_validate({**hub, **keys})
    with pytest.raises(ValueError, match="`template_bos`: not with `tiny`"):
        ModelBlock.model_validate({"tiny": {"datasets": ["x"]}, "template_bos": "as_written"})
