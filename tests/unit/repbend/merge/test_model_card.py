"""Model cards: base model, licence, data and settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from rebend.models.loading import link_checkpoint
from rebend.repbend.merge.model_card import Licence, base_licence, model_card
from tests.helpers.adapter_parts import SETTINGS


def adapter(**settings: object) -> dict:
    return {"base": "base", "base_fingerprint": "12ab", "settings": settings}


def test_card_names_base_method_data_and_settings(tmp_path: Path) -> None:
    base = tmp_path / "llama-3"
    base.mkdir()
    (base / "README.md").write_text(
        "---\nlicense: other\nlicense_name: llama3\nlicense_link: LICENSE\ntags: [a]\n---\n# The base\n"
    )
    (base / "LICENSE").write_text("terms")
    text = model_card(base, adapter(**SETTINGS, push_limit=None), "12ab", "bfloat16")
    data = ModelCard(text).data
    assert (data.base_model, data.license, data.license_name, data.license_link) == (
        "llama-3",
        "other",
        "llama3",
        "LICENSE",
    )
    assert data.tags == ["rebend", "repbend"]
    for part in ("fingerprint 12ab", "stored as bfloat16", "arXiv:2504.01550", "`answers`", "`twins`", "`chats`"):
        assert part in text
    assert "- beta: 0.5\n" in text
    assert "- push_limit: None\n" in text
    assert "Licence of the base model: llama3 (LICENSE). Its text is in LICENSE." in text


@pytest.mark.parametrize(
    "card", [None, "no front matter", "---\nlicense: [unclosed\n---\n", "---\n- a list\n---\n", "---\ntags: [a]\n---\n"]
)
def test_licence_is_unknown_without_card_and_file(tmp_path: Path, card: str | None) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert base_licence(tmp_path) == Licence(None, None, None, ())
    text = model_card(tmp_path, adapter(**SETTINGS), "12ab", "float32")
    assert "Licence of the base model: unknown" in text
    assert ModelCard(text).data.license is None


def test_licence_file_without_card_is_licence_other(tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text("terms")
    assert base_licence(tmp_path) == Licence("other", None, "LICENSE.txt", ("LICENSE.txt",))


def test_licence_files_are_copied_with_a_checkpoint(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    (source / "NOTICE").write_text("notice")
    link_checkpoint(source, target)
    assert base_licence(target) == Licence("mit", None, None, ("NOTICE",))


def test_card_of_a_sum_of_adapters_names_data_and_settings_of_its_parts(tmp_path: Path) -> None:
    parts = [{"adapter": "kind", "factor": 0.5}, {"adapter": "foul", "factor": -0.1}]
    settings = [
        {**SETTINGS, "method": "sft", "lr": lr, "answers": answers} for lr, answers in ((0.1, "safe"), (0.2, "unsafe"))
    ]
    whole = {**adapter(method="task_arithmetic", parts=parts), "parts": [adapter(**block) for block in settings]}
    text = model_card(tmp_path, whole, "12ab", "float32")
    assert ModelCard(text).data.tags == ["rebend", "task_arithmetic"]
    assert text.count("- retain_chats: `chats`\n") == 1 and "trained elsewhere" not in text
    kind, foul = text.index("### 0.5 times `kind`"), text.index("### -0.1 times `foul`")
    assert kind < text.index("- lr: 0.1\n") < text.index("- answers: safe\n") < foul < text.index("- lr: 0.2\n")


def test_card_of_a_released_adapter_names_no_data_and_no_path(tmp_path: Path) -> None:
    text = model_card(
        tmp_path, adapter(method="released", hub=None, local=f"{tmp_path}/adapters/theirs"), "12ab", "float32"
    )
    assert "Not known: the adapter was trained elsewhere." in text
    assert "- local: theirs" in text
    assert str(tmp_path) not in text
