"""Scores of RE-Control and RepBend: rewards, diversity, coherence, replies of judges."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import parity_ours_texts as ours
import parity_texts as texts
import torch
from parity_code import Released, stand_in
from parity_item import Sides, item, items
from parity_models import lines, short_prompts, tokenizer
from torch import nn
from transformers import BertConfig, BertModel, GenerationConfig, LlamaConfig, LlamaModel, PreTrainedModel

METRICS, JUDGE = "metrics.py", "gpt4_eval.py"


@items("recontrol", [("left",), ("right",)], "Reward at the last real token, padding on the {0}", 1e-4)
def rewards(sides: Sides, side: str) -> tuple[Any, Any]:
    """UltraRM's layout with random weights; the released code scores a padded batch."""
    pieces = tokenizer(2)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
    )
    given = {"PreTrainedModel": PreTrainedModel, "LlamaConfig": LlamaConfig, "LlamaModel": LlamaModel}
    kind = sides.released.take("measure_reward.py", ["LlamaRewardModel"], {**given, "nn": nn, "torch": torch})
    model = kind.LlamaRewardModel(config).eval()
    encoded = [pieces(text)["input_ids"] for text in short_prompts(12)]
    batch = pieces.pad({"input_ids": encoded}, padding_side=side, return_tensors="pt")
    with torch.no_grad():
        released = model(**batch)
    return released.flatten(), torch.tensor(ours.rewards(config, model.state_dict(), pieces, encoded))


# --- diversity ----------------------------------------------------------------------------------------------------


def released_diversity(released: Released, answers: Sequence[str], split: Any) -> list[float]:
    """Return the released diversity of generated texts; `split` makes words of a text."""
    code = released.take(METRICS, ["compute_rep_n", "compute_diversity", "clean"], {"word_tokenize": split})
    found = []
    for answer in answers:
        given = {"clean": code.clean, "generation": {"response": answer}, "prompt": ""}
        text = released.run(METRICS, "response = clean(clean(", 'response = " "', given)["response"]
        found.append(code.compute_diversity(text))
    return found


def sentence_words(text: str) -> list[str]:
    """NLTK's `word_tokenize`: words of each sentence, with its English model of sentences where it is installed."""
    from nltk.tokenize import word_tokenize

    try:
        return list(word_tokenize(text))
    except LookupError:
        stand_in(
            "NLTK's sentence model `punkt`",
            "not installed here: the one that rebend ships splits, so that both sides have the same words, and the "
            "items of diversity compare cuts and n-grams",
        )
        return ours.words(text)


def real_answers(sides: Sides) -> list[str]:
    """Return answers of people and models, some with headings and lists."""
    chosen = [row["chosen"].rpartition("\n\nAssistant:")[2] for row in lines(sides.data / "hh_rlhf/test.jsonl.gz")]
    chats = [row["messages"][-1]["content"] for row in lines(sides.data / "retain/chat_500.jsonl.gz")]
    return [*chosen, *chats[:218]]


MARKERS = [
    "## Plan\n### First step\nDo this and that and this and that.\n### Second\nRest a while, then go on.",
    "Some words of an answer.###USER: and then more words of another",
    "One two three four.\n\nUSER: five six",
    "###",
    "",
    "a b",
    "No end. No end. No end. No end.",
]


@item("recontrol", "Mean diversity of real answers, sentences split as published", 1e-9)
def mean_diversity(sides: Sides) -> tuple[Any, Any]:
    """418 answers."""
    answers = real_answers(sides)
    released = released_diversity(sides.released, answers, sentence_words)
    return sum(released) / len(answers), sum(map(ours.diversity, answers)) / len(answers)


@item("recontrol", "Diversity of each real answer, sentences split as published")
def diversity_of_answers(sides: Sides) -> tuple[Any, Any]:
    """418 answers."""
    answers = real_answers(sides)
    return [f"{value:.9f}" for value in released_diversity(sides.released, answers, sentence_words)], [
        f"{ours.diversity(answer):.9f}" for answer in answers
    ]


@item("recontrol", "Diversity of texts with headings and turn markers")
def diversity_of_markers(sides: Sides) -> tuple[Any, Any]:
    """Markers of a new turn, headings, empty and short texts."""
    return [f"{value:.9f}" for value in released_diversity(sides.released, MARKERS, sentence_words)], [
        f"{ours.diversity(text):.9f}" for text in MARKERS
    ]


@item(
    "recontrol",
    "Text that diversity and coherence are measured on, if the model opens a turn",
)
def scored_texts(sides: Sides) -> tuple[Any, Any]:
    """Generated texts, two of which open a turn of the user."""
    clean, found = sides.released.take(METRICS, ["clean"], {}).clean, []
    for answer in texts.ANSWERS:
        given = {"clean": clean, "generation": {"response": answer}, "prompt": ""}
        found.append(sides.released.run(METRICS, "response = clean(clean(", 'response = " "', given)["response"])
    return found, [ours.scored_answer(answer) for answer in texts.ANSWERS]


@item(
    "recontrol",
    "Decoding of a checkpoint that samples by its own settings (`do_sample`, `top_p`)",
)
def own_sampling(sides: Sides) -> tuple[Any, Any]:
    """A checkpoint with temperature 0.6, top-p 0.9 and top-k 50."""
    kept = SimpleNamespace(do_sample=True, temperature=0.6, top_p=0.9, top_k=50)
    checkpoint = GenerationConfig(**vars(kept))
    first, last = "model.generation_config.temperature = None", "model.generation_config.top_k = None"
    sides.released.run("inference_intervention.py", first, last, {"model": SimpleNamespace(generation_config=kept)})
    return [("sampled" if kept.do_sample else "greedy", kept.top_p)], [ours.own_sampling(checkpoint)]


# --- coherence ----------------------------------------------------------------------------------------------------


class SimCse:
    """The package simcse on a random BERT: pooled output of at most 128 tokens, cosines of all pairs."""

    encoder: Any
    pieces: Any

    def __init__(self, name: str) -> None:
        """Take the encoder of the class."""

    def similarity(self, left: Sequence[str], right: Sequence[str]) -> Any:
        """Return the cosines [len(left), len(right)]."""
        one, other = (nn.functional.normalize(self.embedded(side), dim=1) for side in (left, right))
        return (one @ other.T).numpy()

    @torch.no_grad()
    def embedded(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the pooled outputs."""
        batch = self.pieces(list(texts), max_length=128, truncation=True, padding=True, return_tensors="pt")
        return self.encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output


def bert() -> Any:
    """Return a random BERT."""
    torch.manual_seed(9)
    config = BertConfig(
        vocab_size=len(tokenizer(2)), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    model = BertModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "LayerNorm" not in name:
                weight.mul_(6.0)  # fresh weights give nearly equal embeddings
    return model


def coherences(sides: Sides, released_prompts: Sequence[str], prompts: Sequence[Any], answers: Sequence[str]) -> Any:
    """Mean coherence on both sides."""
    stand_in("`simcse.SimCSE`", "not installed: a class of ours on a small random BERT with the same steps")
    SimCse.encoder, SimCse.pieces = bert(), copy.deepcopy(tokenizer(2))
    SimCse.pieces.padding_side = "right"  # as BERT's own: its positions count from the left
    mean = sides.released.take(METRICS, ["compute_coherence"], {"SimCSE": SimCse, "np": np}).compute_coherence
    found = ours.coherence(SimCse.encoder, SimCse.pieces, prompts, answers)
    return mean(released_prompts, answers), sum(found) / len(found)


@item("recontrol", "Coherence of the same texts, mean", 1e-5)
def coherence(sides: Sides) -> tuple[Any, Any]:
    """Prompt texts given as they are."""
    rows = lines(sides.data / "hh_rlhf/test.jsonl.gz")[:64]
    asked = [row["chosen"].rpartition("\n\nAssistant:")[0] for row in rows]
    answers = [row["chosen"].rpartition("\n\nAssistant:")[2] for row in rows]
    return coherences(sides, asked, [[{"role": "user", "content": text}] for text in asked], answers)


@items(
    "recontrol",
    texts.CASES,
    "Coherence with the prompt of the study, {0}, {2}, mean",
    1e-5,
)
def coherence_with_prompts(sides: Sides, *case: Any) -> tuple[Any, Any]:
    """Prompts as each side has them."""
    found = list(texts.pairs(sides, case))[:64]
    answers = [texts.ANSWERS[number % 2] for number in range(len(found))]
    return coherences(sides, [text for text, _, _ in found], [messages for _, messages, _ in found], answers)
